//! A stop ends all of a worker, wherever it has gone, and no later than it may.

use std::{fs, time::Duration};

use pinfold::{
    clock,
    model::{EventKind, ExitCause, KilledBy, State},
};
use rustix::process::Signal;

use crate::support::{
    Case, misbehaving,
    process::Process,
    scaled, tree,
    up::{Up, at, is},
    wait_until, worker,
};
use crate::{ALWAYS_AT_ONCE, MS};

#[test]
fn one_that_ignores_sigterm_is_killed_at_its_stop_timeout() {
    let case = Case::alone();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 2s}"]));
    let main = up.started("deaf", 1);
    case.wait_told("told", "pid ");
    let asked = clock::monotonic();
    up.signal(Signal::TERM);
    let took = main.wait_gone("the one that ignores SIGTERM").since(asked);
    let (timeout, off) = (Duration::from_secs(2), 250 * MS);
    assert!(took + off >= timeout && took < timeout + scaled(2 * off), "killed after {took:?}");
    let ended = up.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let why = up.exited("deaf", 1);
    assert!(matches!(why, ExitCause::Killed { by: KilledBy::StopTimeout | KilledBy::Shutdown, .. }), "{why:?}");
    let states = up.states("deaf");
    assert!(states.contains(&"stopping(term)".to_owned()), "{states:?}");
    assert!(states.contains(&"stopping(kill)".to_owned()), "{states:?}");
}

#[test]
fn one_that_obeys_is_not_waited_for_longer_than_it_takes() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("obedient", &["/bin/sleep", "1000"], &["stop: {timeout: 1h}"]));
    let _main = up.started("obedient", 1);
    up.stop();
    let why = up.exited("obedient", 1);
    assert!(matches!(why, ExitCause::Killed { by: KilledBy::Shutdown | KilledBy::Stop, .. }), "{why:?}");
}

#[test]
fn the_configured_stop_signal_is_the_one_that_is_sent() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!(
        "trap 'echo int >>{told}; exit 7' INT; trap 'echo term >>{told}' TERM; echo pid $$ >>{told}; while :; do sleep 0.05; done"
    );
    let mut up =
        Up::start(&case, &worker("int", &["/bin/bash", "-c", &script], &["stop: {signal: SIGINT, timeout: 20s}"]));
    case.wait_told("told", "pid ");
    up.stop();
    assert_eq!(case.told("told").last().map(String::as_str), Some("int"));
    assert_eq!(up.exited("int", 1), ExitCause::Exited { code: 7 }, "a code of its own is told as it is");
}

#[test]
fn a_second_sigint_kills_at_once() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 1h}"]));
    let main = up.started("deaf", 1);
    case.wait_told("told", "pid ");
    up.signal(Signal::INT);
    up.state("deaf", State::Stopping, "term");
    assert!(main.alive());
    let again = clock::monotonic();
    up.signal(Signal::INT);
    let took = main.wait_gone("the one that ignores SIGTERM").since(again);
    assert!(took < scaled(Duration::from_secs(1)), "{took:?}");
    up.end();
    let why = up.exited("deaf", 1);
    assert!(matches!(why, ExitCause::Killed { .. }), "{why:?}");
}

#[test]
fn what_a_main_process_leaves_behind_is_asked_and_waited_for() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("parting", &["leave-behind", "300", &told], &[]));
    assert_eq!(up.exited("parting", 1), ExitCause::Exited { code: 0 });
    up.state("parting", State::Stopping, "draining");
    up.state("parting", State::Stopped, "done");
    assert_eq!(case.told("told")[1..], ["asked", "finished"], "it was asked, and had the time it needed");
    up.stop();
}

#[test]
fn what_will_not_go_after_its_main_process_is_killed_at_the_timeout() {
    let case = Case::alone();
    let told = case.file("told");
    let config = misbehaving("parting", &["leave-behind", "0", &told], &["stop: {timeout: 1s}"]);
    let mut up = Up::start(&case, &config);
    let (_, exit) = up.exit_of("parting", 1);
    let left = Process::open(case.wait_told("told", "left ")).expect("it ignores SIGTERM");
    left.wait_gone("what was left behind");
    let stopped = up.state("parting", State::Stopped, "done");
    let took = at(&stopped).since(at(&exit));
    assert!(took > 750 * MS && took < scaled(1250 * MS), "{took:?}");
    up.stop();
}

#[test]
fn a_double_forked_session_leaders_child_dies_with_its_worker() {
    let case = Case::new();
    let told = case.file("told");
    let config = misbehaving("escaping", &["double-fork", &told], &["stop: {timeout: 200ms}"]);
    let mut up = Up::start(&case, &config);
    let main = up.started("escaping", 1);
    let orphan = Process::open(case.wait_told("told", "orphan ")).expect("the orphan lives");
    case.wait_told("told", "pid ");
    assert_ne!(orphan.stat(4), i64::from(main.pid), "it has another parent");
    assert_ne!(orphan.stat(6), main.stat(6), "and another session");
    assert_eq!(orphan.cgroup(), case.run_dir("escaping", 1), "but its cgroup cannot be left");
    up.stop();
    assert!(!orphan.alive());
}

#[test]
fn a_crashed_workers_escapee_is_gone_before_the_next_run() {
    let case = Case::new();
    let told = case.file("told");
    let unit = ["stop: {timeout: 200ms}", "restart: {policy: always, retry_delay: 0s}"];
    let mut up = Up::start(&case, &misbehaving("escaping", &["double-fork", &told], &unit));
    let main = up.started("escaping", 1);
    let orphan = Process::open(case.wait_told("told", "orphan ")).expect("the orphan lives");
    case.wait_told("told", "pid ");
    main.signal(Signal::KILL);
    let second = up.started("escaping", 2);
    assert!(!orphan.alive(), "the second run began over a process of the first");
    // The old directory goes aside: the next run does not wait for it.
    wait_until("the first run's directory is gone", || (!case.run_dir("escaping", 1).exists()).then_some(()));
    assert_eq!(second.cgroup(), case.run_dir("escaping", 2));
    up.stop();
}

#[test]
fn a_stop_while_a_restart_is_due_ends_it() {
    let case = Case::new();
    let restart = "restart: {policy: always, retry_delay: 1h, max_delay: 2h}";
    let mut up = Up::start(&case, &worker("waiting", &["/bin/false"], &[restart]));
    up.state("waiting", State::Stopped, "waiting");
    up.stop();
    assert_eq!(up.of("waiting").filter(|e| e.run > Some(1)).count(), 0);
}

#[test]
fn sigint_and_sigterm_leave_no_directory_and_no_process_of_fifty_workers() {
    for signal in [Signal::INT, Signal::TERM] {
        let case = Case::new();
        let config: String = (0..50)
            .map(|i| match i % 3 {
                0 => worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[]),
                1 => worker(&format!("w{i}"), &["/bin/true"], &[ALWAYS_AT_ONCE]),
                _ => misbehaving(&format!("w{i}"), &["double-fork", &case.file("told")], &["stop: {timeout: 300ms}"]),
            })
            .collect();
        let mut up = Up::start(&case, &config);
        for i in 0..50 {
            up.wait_for("each has started", |e| is(e, &format!("w{i}")) && matches!(e.kind, EventKind::Started { .. }));
        }
        up.signal(signal);
        let ended = up.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(tree::run_dirs(&case.root), Vec::<String>::new());
        // The logger is its own master: it goes when it has heard that the keeper is gone.
        wait_until("no process is left", || case.processes().is_empty().then_some(()));
    }
}

#[test]
fn a_frozen_worker_is_thawed_to_hear_its_stop() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("frozen", &["sleep"], &["stop: {timeout: 60s}"]));
    let main = up.started("frozen", 1);
    let dir = case.run_dir("frozen", 1);
    fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    wait_until("it is frozen", || (tree::field(&dir, "cgroup.events", "frozen") == 1).then_some(()));
    up.stop();
    assert!(!main.alive());
    assert_eq!(up.exited("frozen", 1), ExitCause::Killed { by: KilledBy::Shutdown, policy: None });
}

#[test]
fn a_threaded_cgroup_below_a_run_keeps_no_signal_from_the_others() {
    let case = Case::new();
    let stop = "stop: {timeout: 60s, kill_mode: group}";
    let mut up = Up::start(&case, &misbehaving("threads", &["sleep"], &[stop]));
    let _main = up.started("threads", 1);
    let below = case.run_dir("threads", 1).join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.type"), "threaded").unwrap();
    up.stop();
    assert_eq!(up.exited("threads", 1), ExitCause::Killed { by: KilledBy::Shutdown, policy: None });
}

#[test]
fn a_main_process_that_has_left_its_cgroup_does_not_outlive_its_stop() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("gone", &["ignore-term", &told], &["stop: {timeout: 200ms}"]));
    let main = up.started("gone", 1);
    case.wait_told("told", "pid");
    let elsewhere = case.root.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("cgroup.procs"), main.pid.to_string()).unwrap();
    up.stop();
    assert!(!main.alive());
    fs::remove_dir(&elsewhere).unwrap();
}
