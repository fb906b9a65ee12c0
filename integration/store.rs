//! What is remembered beyond the supervisor, on the real kernel, through the `pinfold` binary: kills of the supervisor, of
//! the whole family, and of the store's file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{fs, path::PathBuf, time::Duration};

use pinfold::model::{EventKind, ExitCause, State, UnknownWhy};
use rustix::process::Signal;
use serde_json::Value;
use support::{Case, door::Door, misbehaving, process::Process, run::finish, up::Up, wait_until, worker};

const MS: Duration = Duration::from_millis(1);

/// Kills the supervisor, and waits for the next one to serve.
fn replace_supervisor(case: &Case, up: &mut Up) {
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    up.wait_for(
        "the next supervisor",
        |e| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again")),
    );
    up.wait_for("the next supervisor's begin", |e| {
        e.seq > 1 && matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started, "))
    });
    serving(case);
}

/// Waits until the socket answers.
fn serving(case: &Case) {
    wait_until("an answer from the socket", || (finish(case.pinfold("count").arg("*")).code == Some(0)).then_some(()));
}

/// What the socket says of a worker.
fn shown(case: &Case, worker: &str) -> Value {
    Door::open(&case.socket()).get(&format!("/v1/workers/{worker}")).body
}

fn detail(case: &Case, worker: &str) -> String {
    let shown = shown(case, worker);
    format!("{}({})", shown["state"].as_str().unwrap(), shown["detail"].as_str().unwrap())
}

fn wait_detail(case: &Case, worker: &str, wanted: &str) {
    wait_until(&format!("{worker} is {wanted}"), || (detail(case, worker) == wanted).then_some(()));
}

/// How often a run of `worker` began.
fn starts(up: &Up, worker: &str) -> usize {
    up.of(worker).filter(|e| matches!(e.kind, EventKind::Started { .. })).count()
}

fn database(case: &Case) -> PathBuf {
    case.dir.path().join("state/pinfold.db")
}

/// Everything of the family is killed at once, as by the host's end; its workers, too.
fn kill_the_family(case: &Case, up: &mut Up, workers: &[&Process]) {
    let roles: Vec<_> = ["supervisor", "logger"].iter().map(|leaf| case.role(leaf)).collect();
    up.signal(Signal::KILL);
    for process in roles.iter().chain(workers.iter().copied()) {
        // The supervisor goes with its keeper.
        process.signal_if_there(Signal::KILL);
    }
    up.reap_killed();
    for process in roles.iter().chain(workers.iter().copied()) {
        process.wait_gone("one of the killed family");
    }
}

#[test]
fn what_rests_as_it_should_still_does_after_its_supervisor_was_killed() {
    let case = Case::new();
    let crashing = "restart: {policy: on-failure, retry_delay: 0s, max_retries: 1, cooldown: hold}";
    let waiting = "restart: {policy: on-failure, retry_delay: 1h, max_delay: 1h}";
    let workers = worker("once", &["/bin/true"], &[])
        + &worker("failed", &["/bin/false"], &[])
        + &misbehaving("stopped", &["sleep"], &["restart: {policy: always}"])
        + &worker("held", &["/bin/false"], &[crashing])
        + &worker("waiting", &["/bin/false"], &[waiting])
        + &misbehaving("running", &["sleep"], &[]);
    let mut up = Up::start(&case, &workers);
    let running = up.started("running", 1);
    up.state("once", State::Stopped, "done");
    up.state("failed", State::Stopped, "failed");
    up.state("held", State::Stopped, "breaker_open");
    up.state("waiting", State::Stopped, "waiting");
    let _stopped = up.started("stopped", 1);
    case.ask("stop", &["stopped"]);
    let names = ["once", "failed", "stopped", "held", "waiting"];
    let before: Vec<_> = names.iter().map(|name| (starts(&up, name), shown(&case, name))).collect();

    replace_supervisor(&case, &mut up);
    up.watch(300 * MS);
    for (name, (starts_before, before)) in names.iter().zip(before) {
        assert_eq!(starts(&up, name), starts_before, "{name} is not started again");
        let after = shown(&case, name);
        for key in ["state", "detail", "run", "cause", "restarts", "desired_up", "down_by"] {
            assert_eq!(after[key], before[key], "{key} of {name}: {after}");
        }
    }
    assert_eq!(shown(&case, "running")["pid"], running.pid, "it lives on");
    let why = finish(case.pinfold("why").arg("held"));
    assert!(why.stdout.contains("exited with code 1"), "why tells of an end before this supervisor: {why:?}");
    let refused = finish(case.pinfold("restart").arg("held"));
    assert_eq!(refused.code, Some(8), "its breaker is open: {refused:?}");

    // A person's word goes on counting.
    case.ask("start", &["stopped"]);
    wait_detail(&case, "stopped", "running(ready)");
    replace_supervisor(&case, &mut up);
    wait_detail(&case, "stopped", "running(ready)");
    up.signal(Signal::TERM);
    up.reap_killed();
}

#[test]
fn after_the_end_of_the_whole_family_what_was_up_is_up_and_what_was_stopped_stays_stopped() {
    let case = Case::new();
    let again = "restart: {policy: on-failure, retry_delay: 0s}";
    let workers = misbehaving("stopped", &["sleep"], &["restart: {policy: always}"])
        + &misbehaving("running", &["sleep"], &[again])
        + &misbehaving("single", &["sleep"], &[]);
    let mut up = Up::start(&case, &workers);
    let (running, single) = (up.started("running", 1), up.started("single", 1));
    let _stopped = up.started("stopped", 1);
    case.ask("stop", &["stopped"]);
    kill_the_family(&case, &mut up, &[&running, &single]);
    // As by the host's end: nothing of the tree is left to say how they ended.
    for worker in ["running", "single"] {
        let dir = case.run_dir(worker, 1);
        wait_until("its directory can be removed", || fs::remove_dir(&dir).ok());
    }

    let mut up = Up::start(&case, &workers);
    let away = ExitCause::Unknown { why: UnknownWhy::SupervisorAway };
    assert_eq!(up.exited("running", 1), away, "nobody saw how it ended");
    assert_eq!(up.exited("single", 1), away);
    let _running = up.started("running", 2);
    up.state("single", State::Stopped, "failed");
    serving(&case);
    up.watch(300 * MS);
    assert_eq!((starts(&up, "stopped"), starts(&up, "single")), (0, 0));
    assert_eq!(detail(&case, "stopped"), "stopped(stopped)");
    let epoch = up.seen[0].epoch;
    up.stop();

    // A plain end takes nobody down for the next time.
    let mut up = Up::start(&case, &workers);
    let _running = up.started("running", 3);
    serving(&case);
    assert_eq!((starts(&up, "stopped"), starts(&up, "single")), (0, 0));
    assert!(up.seen.iter().all(|e| e.epoch > epoch), "the epoch grows");
    up.stop();
}

#[test]
fn a_damaged_store_is_set_aside_and_told_and_no_worker_notices() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("single", &["sleep"], &[]));
    let main = up.started("single", 1);
    serving(&case);
    // Held still, so that what is written over is what the next one finds.
    let first = case.role("supervisor");
    up.hold();
    first.signal(Signal::STOP);
    fs::write(database(&case), vec![0xa5; 20_000]).unwrap();
    fs::remove_file(case.dir.path().join("state/pinfold.db-wal")).unwrap();
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    up.let_go();
    let told = up.wait_for(
        "the damage is told",
        |e| matches!(&e.kind, EventKind::Reconciled { what } if what.contains("pinfold.db is damaged")),
    );
    let EventKind::Reconciled { what } = &told.kind else { unreachable!() };
    let aside = fs::read_dir(case.dir.path().join("state")).unwrap().map(|e| e.unwrap().file_name());
    let aside: Vec<_> = aside.filter(|name| name.to_str().unwrap().starts_with("pinfold.db.corrupt-")).collect();
    assert_eq!(aside.len(), 1, "{what}");
    assert!(what.contains(aside[0].to_str().unwrap()), "{what}");
    wait_until("the next supervisor serves", || (finish(case.pinfold("count").arg("*")).code == Some(0)).then_some(()));
    assert!(main.alive());
    assert_eq!(shown(&case, "single")["pid"], main.pid);
    // The new one remembers.
    case.ask("stop", &["single"]);
    replace_supervisor(&case, &mut up);
    assert_eq!(detail(&case, "single"), "stopped(stopped)");
    up.signal(Signal::TERM);
    up.reap_killed();
}

#[test]
fn a_store_removed_while_it_is_open_is_made_anew_and_loses_no_wish() {
    let case = Case::new();
    let workers = misbehaving("early", &["sleep"], &[]) + &misbehaving("late", &["sleep"], &[]);
    let mut up = Up::start(&case, &workers);
    let (_early, _late) = (up.started("early", 1), up.started("late", 1));
    case.ask("stop", &["early"]);
    fs::remove_file(database(&case)).unwrap();
    case.ask("stop", &["late"]);
    up.wait_for(
        "the loss is told",
        |e| matches!(&e.kind, EventKind::Reconciled { what } if what.contains("the store's file was lost")),
    );
    replace_supervisor(&case, &mut up);
    up.watch(300 * MS);
    assert_eq!((detail(&case, "early"), detail(&case, "late")), ("stopped(stopped)".into(), "stopped(stopped)".into()));
    up.signal(Signal::TERM);
    up.reap_killed();
}

#[test]
fn a_store_that_is_not_ours_to_write_refuses_the_start_with_a_sentence() {
    let case = Case::new();
    fs::create_dir_all(case.dir.path().join("state")).unwrap();
    let held = pinfold::store::SqliteStore::open(&database(&case), pinfold::clock::wall()).unwrap();
    let mut up = Up::start(&case, &misbehaving("single", &["sleep"], &[]));
    let ended = up.end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("another process has") && ended.stderr.contains("pinfold.db open"), "{ended:?}");
    assert_eq!(starts(&up, "single"), 0);
    drop(held);
}

#[test]
fn a_supervisor_that_cannot_open_the_store_again_goes_on_without_and_says_so() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("single", &["sleep"], &[]));
    let main = up.started("single", 1);
    serving(&case);
    let first = case.role("supervisor");
    // Before the next one.
    up.hold();
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    let held = pinfold::store::SqliteStore::open(&database(&case), pinfold::clock::wall()).unwrap();
    up.let_go();
    up.wait_for(
        "it says so",
        |e| matches!(&e.kind, EventKind::Fault { error } if error.contains("the store cannot be opened")),
    );
    serving(&case);
    assert!(main.alive());
    assert_eq!(shown(&case, "single")["pid"], main.pid);
    case.ask("stop", &["single"]);
    drop(held);
    up.signal(Signal::TERM);
    up.reap_killed();
}

#[test]
fn a_second_supervisor_of_the_same_state_is_refused_and_the_first_goes_on() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("single", &["sleep"], &[]));
    let main = up.started("single", 1);
    let second = finish(case.pinfold("up").arg(case.file("pinfold.yaml")));
    assert_eq!(second.code, Some(1), "{second:?}");
    case.ask("stop", &["single"]);
    assert!(!main.alive());
    up.stop();
}

#[test]
fn a_store_in_memory_leaves_no_file_and_forgets() {
    let case = Case::new();
    let config = case.config_with("store: {type: memory}\n", &misbehaving("single", &["sleep"], &[]));
    let mut up = Up::spawn(case.pinfold("up").arg(&config));
    let _main = up.started("single", 1);
    case.ask("stop", &["single"]);
    up.stop();
    assert!(!database(&case).exists());
    let mut up = Up::spawn(case.pinfold("up").arg(&config));
    let _again = up.started("single", 1);
    up.stop();
}
