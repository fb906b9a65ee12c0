//! What is made of what stands in the tree and of what the keeper tells.

use super::*;
use crate::model::{Counters, ExitStatus, Mono, RestartCounts, Stage, StartError};
use crate::policy::breaker::Saved;

const BOOT: &str = "this";

fn run(number: u32) -> RunId {
    RunId::new(WorkerId::new("w").unwrap(), number)
}

fn note(number: u32) -> RunNote {
    RunNote {
        v: 1,
        uuid: String::new(),
        run: run(number),
        spec_hash: 0,
        breaker: Saved::default(),
        restarts: RestartCounts::default(),
        desired_up: true,
        pid: None,
        pid_start_ticks: None,
        boot_id: BOOT.into(),
        started_mono_ns: None,
        baseline: Counters::default(),
        ending: None,
        untold: Vec::new(),
    }
}

fn found(number: u32, note: Option<RunNote>) -> Found {
    Found { name: run(number).to_string(), run: Some(run(number)), note, populated: false }
}

fn exited(number: u32) -> FromKeeper {
    let status = Some(ExitStatus::Exited { code: 3 });
    FromKeeper::Exited { run: run(number), pid: 7, status, at: Mono::default() }
}

fn alive(sorted: &Takeover) -> Vec<(RunId, bool)> {
    sorted.alive.values().map(|known| (known.note.run.clone(), known.ended)).collect()
}

#[test]
fn an_end_that_the_keeper_has_is_the_runs_even_where_the_next_directory_was_made_already() {
    let sorted = Takeover::sort(vec![found(3, Some(note(3))), found(4, None)], &[exited(3)], BOOT);
    assert_eq!(alive(&sorted), [(run(3), true)]);
    assert_eq!((&sorted.unmade[..], &sorted.empty[..], &sorted.over[..]), (&[run(4)][..], &[][..], &[][..]));
}

#[test]
fn the_record_of_a_later_run_has_all_there_is_to_know_of_the_one_before() {
    let sorted = Takeover::sort(vec![found(4, Some(note(4))), found(3, Some(note(3)))], &[exited(3)], BOOT);
    assert_eq!(alive(&sorted), []);
    assert_eq!(sorted.half_made.keys().map(WorkerId::as_str).collect::<Vec<_>>(), ["w"]);
    assert_eq!(sorted.empty, [run(3), run(4)]);
    assert_eq!(sorted.over, [run(3)], "the keeper forgets it, when the store has its end");
}

#[test]
fn a_launch_that_failed_is_a_run_until_its_end_is_remembered() {
    let error = StartError::os(Stage::Exec, "it", 2);
    let failed = FromKeeper::Failed { run: run(3), error };
    let sorted = Takeover::sort(vec![found(3, Some(note(3)))], std::slice::from_ref(&failed), BOOT);
    assert_eq!(alive(&sorted), [(run(3), true)]);
    let sorted = Takeover::sort(Vec::new(), &[failed], BOOT);
    assert_eq!(sorted.over, [run(3)], "without its directory there is nothing to take over");
}

#[test]
fn a_record_of_another_boot_is_none() {
    let sorted = Takeover::sort(vec![found(3, Some(note(3)))], &[], "another");
    assert_eq!((alive(&sorted), sorted.half_made.len()), (vec![], 0));
    assert_eq!(sorted.empty, [run(3)]);
}

#[test]
fn what_lives_without_a_record_is_held_whatever_the_keeper_has_of_it() {
    let lives = Found { populated: true, ..found(3, None) };
    let sorted = Takeover::sort(vec![lives], &[exited(3)], BOOT);
    assert_eq!(sorted.occupied.values().collect::<Vec<_>>(), [&run(3)]);
    assert_eq!(sorted.over, [], "its directory is not cleared away");
}
