//! The harness sees what it is there to see.

use std::{fs, process::Command};

use pinfold::model::Event;

use crate::support::{Case, up::events_break_a_rule, wait_until};

/// An event of worker `w`, as a line of JSON would give it.
fn event(seq: u64, run: u32, kind: &str) -> Event {
    let line = format!(
        r#"{{"v":1,"seq":{seq},"time":"2026-01-01T00:00:00Z","mono_ns":{seq},"worker":"w","run":{run},{kind}}}"#
    );
    serde_json::from_str(&line).unwrap()
}

#[test]
fn the_rules_of_events_see_what_they_are_for() {
    let started = r#""kind":"started","pid":5"#;
    let exited = r#""kind":"exited","cause":{"kind":"exited","code":0},"confidence":"certain","evidence":{"before":{"local":null,"memory":null,"pids_max":null},"after":{"local":null,"memory":null,"pids_max":null},"wall_ms":1}"#;
    let broken = |events: &[Event]| events_break_a_rule(events, false).unwrap_or_default();
    let life = [event(1, 1, started), event(2, 1, exited), event(3, 2, started)];
    assert_eq!(events_break_a_rule(&life, false), None);
    assert!(broken(&[event(1, 1, started), event(3, 1, exited)]).contains("seq 2"), "a gap");
    assert!(broken(&[event(1, 1, started), event(2, 2, started)]).contains("had not ended"), "two at once");
    assert!(
        broken(&[event(1, 1, started), event(2, 1, exited), event(3, 1, exited)]).contains("not started"),
        "two ends"
    );
    assert!(broken(&[event(1, 2, started), event(2, 2, exited), event(3, 1, started)]).contains("over"), "a run again");
}

#[test]
fn the_leak_check_sees_a_process_that_has_left_the_tree_and_a_directory_in_it() {
    let case = Case::new();
    let mut escaped = Command::new("/bin/sleep").arg("1000").envs(case.mark()).spawn().unwrap();
    fs::create_dir_all(case.run_dir("left", 3)).unwrap();
    wait_until("the process is seen", || case.processes().first().cloned());
    let leaks = case.leaks();
    escaped.kill().unwrap();
    escaped.wait().unwrap();
    fs::remove_dir(case.run_dir("left", 3)).unwrap();
    assert!(leaks.iter().any(|l| l.contains(&format!("process {}", escaped.id()))), "{leaks:?}");
    assert!(leaks.iter().any(|l| l.contains("workers/left.3")), "{leaks:?}");
}
