//! A worker's life, death and after-life on the real kernel, through the `pinfold` binary: what needs no controller and
//! therefore runs on every host where we may make cgroups, and in the virtual machine as well. Limits are in
//! `limits.rs`, systemd in `systemd.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, ExitStatus, KilledBy, Stage, State, Verdict},
};
use rustix::process::Signal;
use support::{
    Case, misbehave, misbehaving, patience,
    process::Process,
    run::{finish, run},
    scaled, tree,
    up::{Up, at, events_break_a_rule, is},
    wait_until, worker,
};

const MS: Duration = Duration::from_millis(1);
const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

// --- states ------------------------------------------------------------------

#[test]
fn a_worker_goes_through_its_states_in_order_and_its_cgroup_with_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("plain", &["sleep"], &[]));
    let main = up.started("plain", 1);
    up.state("plain", State::Running, "ready");

    let dir = case.run_dir("plain", 1);
    assert_eq!(main.cgroup(), dir, "it is in its own cgroup");
    assert_eq!(tree::procs(&dir), [main.pid], "alone");
    assert_eq!(main.stat(4), i64::from(up.pid()), "its parent is the keeper");
    assert_eq!(main.stat(6), i64::from(main.pid), "it leads a session of its own");
    assert_eq!(main.stat(7), 0, "it has no terminal");

    up.stop();
    assert!(!main.alive());
    assert!(!dir.exists());
    let states = up.states("plain");
    let expected = ["starting(preparing)", "starting(launching)", "running(ready)", "stopping(term)"];
    assert_eq!(states[..4], expected, "{states:?}");
    assert_eq!(states.last().map(String::as_str), Some("stopped(stopped)"), "{states:?}");
}

#[test]
fn a_worker_that_ends_well_stays_ended_and_up_stays() {
    let case = Case::new();
    let on_failure = "restart: {policy: on-failure, retry_delay: 0s}";
    let mut up = Up::start(&case, &worker("good", &["/bin/true"], &[on_failure]));
    assert_eq!(up.exited("good", 1), ExitCause::Exited { code: 0 });
    up.state("good", State::Stopped, "done");
    up.watch(200 * MS);
    assert_eq!(up.of("good").filter(|e| e.run == Some(2)).count(), 0, "no second run");
    up.stop();
}

#[test]
fn a_worker_that_is_not_enabled_is_not_started() {
    let case = Case::new();
    let off = misbehaving("off", &["sleep"], &[]) + "    enabled: false\n";
    let mut up = Up::start(&case, &(off + &misbehaving("on", &["sleep"], &[])));
    let _on = up.started("on", 1);
    up.stop();
    assert_eq!(up.of("off").filter(|e| matches!(e.kind, EventKind::Started { .. })).count(), 0);
}

// --- restart -----------------------------------------------------------------

/// The time from each run's end to the next run's start, as its program's own life shows it.
fn gaps(up: &Up, worker: &str) -> Vec<Duration> {
    let mut gaps = Vec::new();
    let mut ended = None;
    for event in up.of(worker) {
        match event.kind {
            EventKind::Exited { .. } => ended = Some(at(event)),
            EventKind::Started { .. } => gaps.extend(ended.take().map(|ended| at(event).since(ended))),
            _ => {}
        }
    }
    gaps
}

#[test]
fn a_failing_worker_comes_back_after_growing_delays() {
    let case = Case::alone();
    let restart = "restart: {policy: on-failure, retry_delay: 1s, backoff_rate: 1.5, jitter: 0}";
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("failing", &["exit", "3", &told], &[restart]));
    assert_eq!(up.exited("failing", 4), ExitCause::Exited { code: 3 });
    assert_eq!(case.told("told").len(), 4, "the program itself ran four times");

    let attempts: Vec<Option<u32>> = up
        .decisions("failing")
        .into_iter()
        .filter(|(_, d)| d.verdict == Verdict::Restart)
        .map(|(_, d)| d.attempt)
        .collect();
    assert_eq!(attempts[..3], [Some(1), Some(2), Some(3)]);
    for (gap, planned) in gaps(&up, "failing").into_iter().zip([1000, 1500, 2250]) {
        let planned = Duration::from_millis(planned);
        assert!(gap + scaled(100 * MS) > planned && gap < planned + scaled(250 * MS), "{gap:?} for {planned:?}");
    }
    up.stop();
}

#[test]
fn a_worker_without_a_delay_is_back_at_once_in_a_cgroup_of_its_own() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("busy", &["limits", &told], &[ALWAYS_AT_ONCE]));
    up.exited("busy", 30);
    up.stop();
    let lines = case.told("told");
    let cgroups: BTreeSet<&str> =
        lines.iter().filter_map(|l| l.split('\t').find_map(|f| f.strip_prefix("cgroup="))).collect();
    assert!(lines.len() >= 30);
    assert_eq!(cgroups.len(), lines.len(), "no run uses the cgroup of another");
    assert!(cgroups.iter().all(|c| c.contains("/workers/busy.")), "{cgroups:?}");
}

#[test]
fn never_means_never_and_always_means_always() {
    let case = Case::new();
    let mut config = worker("never", &["/bin/false"], &["restart: {policy: never, retry_delay: 0s}"]);
    config += &worker("always", &["/bin/true"], &[ALWAYS_AT_ONCE]);
    config +=
        &worker("on-failure", &["/bin/false"], &["restart: {policy: on-failure, retry_delay: 0s, max_retries: 0}"]);
    config +=
        &worker("unless", &["/bin/true"], &["restart: {policy: unless-stopped, retry_delay: 0s, max_retries: 0}"]);
    let mut up = Up::start(&case, &config);
    up.state("never", State::Stopped, "failed");
    for restarted in ["always", "on-failure", "unless"] {
        up.exited(restarted, 3);
    }
    assert_eq!(up.of("never").filter(|e| e.run > Some(1)).count(), 0);
    up.stop();
}

#[test]
fn a_start_that_always_fails_at_once_does_not_keep_a_stop_from_being_heard() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir(&workers).unwrap();
    fs::write(workers.join("cgroup.max.descendants"), "0").unwrap();
    let restart = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    let config: String = (0..4).map(|i| worker(&format!("w{i}"), &["/bin/true"], &[restart])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..4 {
        up.exited(&format!("w{i}"), 20);
    }
    up.stop();
}

// --- causes ------------------------------------------------------------------

#[test]
fn every_exit_code_is_told() {
    let case = Case::new();
    let config: String = (0..256)
        .map(|code| worker(&format!("code-{code}"), &["/bin/sh", "-c", &format!("exit {code}")], &[]))
        .collect();
    let mut up = Up::start(&case, &config);
    for code in 0..256 {
        assert_eq!(up.exited(&format!("code-{code}"), 1), ExitCause::Exited { code });
    }
    for code in [1, 2, 255] {
        up.state(&format!("code-{code}"), State::Stopped, "failed");
    }
    up.state("code-0", State::Stopped, "done");
    up.stop();
}

/// Every signal that ends a process by default, signal(7): all but CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG and WINCH.
fn deadly_signals() -> impl Iterator<Item = i32> {
    (1..=64).filter(|s| ![17, 18, 19, 20, 21, 22, 23, 28].contains(s))
}

#[test]
fn every_deadly_signal_is_told_and_a_foreign_sigkill_is_not_ours() {
    let case = Case::new();
    let config: String = deadly_signals()
        .map(|s| {
            worker(&format!("signal-{s}"), &["/bin/sh", "-c", &format!("ulimit -c 0; kill -{s} $$; exit 99")], &[])
        })
        .collect();
    let mut up = Up::start(&case, &config);
    for signal in deadly_signals() {
        let (why, event) = up.exit_of(&format!("signal-{signal}"), 1);
        let expected =
            if signal == 9 { ExitCause::KilledExternal } else { ExitCause::Signaled { signal, core: false } };
        assert_eq!(why, expected, "signal {signal}");
        let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
        assert_eq!(evidence.status, Some(ExitStatus::Signaled { signal, core: false }), "the evidence of {signal}");
    }
    up.stop();
}

#[test]
fn two_hundred_that_die_in_the_same_moment_get_two_hundred_right_causes() {
    const SIGNALS: [(Signal, i32); 7] = [
        (Signal::KILL, 9),
        (Signal::TERM, 15),
        (Signal::SEGV, 11),
        (Signal::USR1, 10),
        (Signal::HUP, 1),
        (Signal::ABORT, 6),
        (Signal::SYS, 31),
    ];
    let case = Case::alone();
    let names: Vec<String> = (0..200).map(|i| format!("w{i}")).collect();
    let config: String = names.iter().map(|name| worker(name, &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    let mains: Vec<Process> = names.iter().map(|name| up.started(name, 1)).collect();
    for (main, name) in mains.iter().zip(&names) {
        assert_eq!(main.cgroup(), case.run_dir(name, 1));
    }

    // Frozen, a process only notes a signal; thawed, all act on theirs in the same moment. (SIGKILL does not wait.)
    let freeze = case.root.join("workers/cgroup.freeze");
    fs::write(&freeze, "1").unwrap();
    wait_until("they are frozen", || {
        (tree::field(&case.root.join("workers"), "cgroup.events", "frozen") == 1).then_some(())
    });
    for (i, main) in mains.iter().enumerate() {
        main.signal(SIGNALS[i % SIGNALS.len()].0);
    }
    fs::write(&freeze, "0").unwrap();

    for (i, name) in names.iter().enumerate() {
        let expected = match SIGNALS[i % SIGNALS.len()].1 {
            9 => ExitCause::KilledExternal,
            signal => ExitCause::Signaled { signal, core: false },
        };
        let why = match up.exited(name, 1) {
            // A host may well dump cores: that is told as well, and no matter here.
            ExitCause::Signaled { signal, .. } => ExitCause::Signaled { signal, core: false },
            other => other,
        };
        assert_eq!(why, expected, "{name}");
    }
    up.stop();
}

#[test]
fn a_start_that_fails_names_its_stage_and_reason_within_50_ms() {
    let case = Case::alone();
    let plain = case.file("not-executable");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let script = case.executable("script", "#!/nonexistent/interpreter\n");
    let garbage = case.executable("garbage", "\0this is no program\n");
    let private = case.file("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let dir = case.dir.path().to_str().unwrap();

    // Spread out, so that they do not measure each other.
    let retried = "restart: {policy: on-failure, retry_delay: 1s, backoff_rate: 1, jitter: 0.5}";
    let cwd = |path: &str| format!("working_directory: {path}");
    let (gone, file, closed) = (cwd("/nonexistent/place"), cwd(&plain), cwd(&private));
    // name, program, one more line, stage, errno, what the sentence must say
    let cases = [
        ("missing", "/nonexistent/program", "", Stage::Exec, 2, ["/nonexistent/program", "No such file"]),
        ("not-on-path", "nonexistent-program", "", Stage::Exec, 2, ["nonexistent-program", "No such file"]),
        ("not-executable", &plain, "", Stage::Exec, 13, [&plain, "Permission denied"]),
        ("directory", dir, "", Stage::Exec, 13, [dir, "Permission denied"]),
        ("interpreter", &script, "", Stage::Exec, 2, [&script, "No such file"]),
        ("no-program", &garbage, "", Stage::Exec, 8, [&garbage, "Exec format error"]),
        ("no-cwd", "/bin/true", &gone, Stage::Chdir, 2, ["/nonexistent/place", "No such file"]),
        ("cwd-is-file", "/bin/true", &file, Stage::Chdir, 20, [&plain, "Not a directory"]),
        ("no-user", "/bin/true", "user: nobody-of-this-name", Stage::User, 0, ["nobody-of-this-name", ""]),
        ("no-group", "/bin/true", "group: nogroup-of-this-name", Stage::User, 0, ["nogroup-of-this-name", ""]),
        // The directory is looked at as the worker's user, not as root.
        ("closed-cwd", "/bin/true", &closed, Stage::Chdir, 13, [&private, "Permission denied"]),
    ];
    let mut config = String::new();
    for (name, program, line, ..) in cases {
        let mut unit = vec![retried];
        unit.extend((!line.is_empty()).then_some(line));
        if name == "closed-cwd" {
            unit.push("user: nobody");
        }
        config += &worker(name, &[program], &unit);
    }
    let mut up = Up::start(&case, &config);
    for (name, _, _, stage, errno, says) in cases {
        let (why, event) = up.exit_of(name, 1);
        assert_eq!(why, ExitCause::StartFailed { stage, errno }, "{name}");
        let EventKind::Exited { evidence, .. } = &event.kind else { unreachable!() };
        let sentence = evidence.start_error.as_ref().expect("the reason is in the evidence").to_string();
        assert!(sentence.starts_with(&stage.to_string()), "{name}: {sentence}");
        for part in says {
            assert!(sentence.contains(part), "{name}: {part:?} is not in {sentence:?}");
        }
        // One of ten: what is asked about is our part, not what else this machine does.
        let in_time = (1..=10).any(|run| {
            up.exited(name, run);
            failed_after(&up, name, run) < scaled(50 * MS)
        });
        assert!(in_time, "{name} never failed within 50 ms");
    }
    up.stop();
}

/// The time from the first word about a run to its failure.
fn failed_after(up: &Up, worker: &str, run: u32) -> Duration {
    let of_run = |e: &&Event| e.run == Some(run);
    let mut events = up.of(worker).filter(of_run);
    let first = events.next().map(at).unwrap_or_default();
    let failed = events.find(|e| matches!(e.kind, EventKind::Exited { .. })).map(at).unwrap_or_default();
    failed.since(first)
}

// --- stopping ----------------------------------------------------------------

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
    assert!(took.abs_diff(Duration::from_secs(2)) < 250 * MS, "killed after {took:?}");
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

// --- the place ---------------------------------------------------------------

#[test]
fn a_second_up_on_the_same_state_directory_is_refused_at_once_and_the_first_does_not_notice() {
    let case = Case::alone();
    let config = worker("only", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let main = up.started("only", 1);
    let second = finish(case.pinfold("up").arg(case.file("pinfold.yaml")).args(["-o", "json"]));
    assert!(second.took < scaled(Duration::from_secs(1)), "{:?}", second.took);
    assert!(second.code.is_some_and(|c| c != 0), "{second:?}");
    assert!(second.stderr.contains("already") || second.stderr.contains("another"), "{}", second.stderr);
    assert!(main.alive());
    assert_eq!(main.cgroup(), case.run_dir("only", 1));
    up.stop();
}

#[test]
fn a_limit_that_this_place_cannot_enforce_fails_the_start_with_its_controller_and_the_reason() {
    let case = Case::below_a_parent_without_controllers();
    let mut config = worker("limited", &["/bin/sleep", "1000"], &["limits: {memory: {max_rss: 64MiB}}"]);
    config += &worker("plain", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let (why, event) = up.exit_of("limited", 1);
    assert!(matches!(why, ExitCause::StartFailed { stage: Stage::Limit | Stage::Cgroup, .. }), "{why:?}");
    let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
    let sentence = evidence.start_error.expect("the reason").to_string();
    assert!(sentence.contains("memory"), "the controller is named: {sentence}");
    // /proc/cgroups: name, hierarchy (not 0: bound to v1), number of cgroups, enabled.
    let controllers = fs::read_to_string("/proc/cgroups").unwrap();
    let memory = controllers.lines().find_map(|l| l.strip_prefix("memory\t")).unwrap_or("0");
    if memory.starts_with("0\t") {
        let withholding = case.root.parent().unwrap().to_str().unwrap();
        assert!(sentence.contains(withholding), "who withholds it is named: {sentence}");
    } else {
        assert!(sentence.contains("v1"), "the reason is named: {sentence}");
    }
    let plain = up.started("plain", 1);
    assert!(plain.alive(), "a worker without limits runs");
    assert!(!case.run_dir("limited", 1).exists(), "the failed start has left no directory");
    up.stop();
}

#[test]
fn a_directory_that_already_has_our_runs_name_is_never_started_over() {
    let case = Case::new();
    let taken = case.run_dir("taken", 1);
    fs::create_dir_all(&taken).unwrap();
    let mut stranger = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    fs::write(taken.join("cgroup.procs"), stranger.id().to_string()).unwrap();

    let mut config = worker("taken", &["/bin/sleep", "1000"], &[]);
    config += &worker("free", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let _free = up.started("free", 1);
    up.wait_for("what was found is told", |e| is(e, "taken") && matches!(e.kind, EventKind::Reconciled { .. }));
    assert_eq!(
        tree::procs(&taken),
        [i32::try_from(stranger.id()).unwrap()],
        "nothing of ours is in a stranger's cgroup"
    );
    assert_eq!(stranger.try_wait().unwrap(), None, "and the stranger lives");
    up.signal(Signal::TERM);
    let ended = up.end();
    assert_eq!(stranger.try_wait().unwrap(), None, "also after the end");
    assert_eq!(up.of("taken").filter(|e| matches!(e.kind, EventKind::Started { .. })).count(), 0);
    assert!(!ended.stderr.contains("SIGKILL"), "nobody has tried to kill it: {}", ended.stderr);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    wait_until("the stranger's cgroup can be removed", || fs::remove_dir(&taken).ok());
}

#[test]
fn an_empty_directory_of_our_runs_name_is_no_obstacle() {
    let case = Case::new();
    fs::create_dir_all(case.run_dir("again", 1)).unwrap();
    let mut up = Up::start(&case, &worker("again", &["/bin/sleep", "1000"], &[]));
    let started = up.wait_for("it runs", |e| is(e, "again") && matches!(e.kind, EventKind::Started { .. }));
    let EventKind::Started { pid } = started.kind else { unreachable!() };
    assert_eq!(tree::procs(&case.run_dir("again", started.run.unwrap())), [pid]);
    up.stop();
}

#[test]
fn a_frozen_place_fails_the_start_instead_of_hanging_it() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir_all(&workers).unwrap();
    fs::write(workers.join("cgroup.freeze"), "1").unwrap();
    let mut up = Up::start(&case, &worker("cold", &["/bin/sleep", "1000"], &[]));
    let why = up.exited("cold", 1);
    assert!(matches!(why, ExitCause::StartFailed { .. }), "{why:?}");
    up.stop();
}

#[test]
fn a_place_without_room_fails_the_start_of_what_does_not_fit_and_nothing_else() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir(&workers).unwrap();
    fs::write(workers.join("cgroup.max.descendants"), "2").unwrap();
    let config: String = (0..4).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    let (mut run, mut failed) = (0, 0);
    for i in 0..4 {
        let event = up.wait_for("each runs or has failed", |e| {
            is(e, &format!("w{i}")) && matches!(e.kind, EventKind::Started { .. } | EventKind::Exited { .. })
        });
        match event.kind {
            EventKind::Exited { cause: ExitCause::StartFailed { stage: Stage::Cgroup, .. }, evidence, .. } => {
                let sentence = evidence.start_error.expect("the reason").to_string();
                assert!(sentence.contains("cgroup.max.descendants"), "{sentence}");
                failed += 1;
            }
            EventKind::Started { .. } => run += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((run, failed), (2, 2));
    up.stop();
}

#[test]
fn a_read_only_cgroupfs_is_refused_before_anything_is_started() {
    let case = Case::new();
    let told = case.file("told");
    let config = case.config(&misbehaving("never", &["sleep", &told], &[]));
    let mount = tree::mount();
    for subcommand in ["up", "run"] {
        let pinfold = case.pinfold(subcommand);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg("mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"").arg("sh").arg(&mount);
        command.arg(pinfold.get_program()).args(pinfold.get_args());
        match subcommand {
            "up" => command.arg(&config),
            _ => command.args(["--", &misbehave(), "sleep", &told]),
        };
        let ran = finish(&mut command);
        let expected = if subcommand == "run" { 125 } else { 1 };
        assert_eq!(ran.code, Some(expected), "{subcommand}: {ran:?}");
        assert!(ran.stderr.to_lowercase().contains("read-only"), "{subcommand}: {}", ran.stderr);
    }
    assert_eq!(case.told("told"), Vec::<String>::new(), "nothing was started");
}

// --- three processes ---------------------------------------------------------

#[test]
fn keeper_and_logger_have_one_thread_and_at_most_a_megabyte_beside_their_program() {
    let case = Case::new();
    let config: String = (0..20).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..20 {
        let _main = up.started(&format!("w{i}"), 1);
    }
    let keeper = case.role("keeper");
    assert_eq!(keeper.pid, up.pid(), "the process that was started is the keeper");
    for (name, process) in [("keeper", keeper), ("logger", case.role("logger"))] {
        assert_eq!(process.status("Threads"), "1", "{name}");
        let own = process.own_bytes();
        assert!((1..=1_000_000).contains(&own), "{name} has {own} bytes of its own");
    }
    up.stop();
}

#[test]
fn nothing_of_ours_wakes_up_while_nothing_happens() {
    let case = Case::alone();
    let config: String = (0..10).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..10 {
        up.state(&format!("w{i}"), State::Running, "ready");
    }
    let ours = ["keeper", "supervisor", "logger"].map(|leaf| case.role(leaf));
    let wake_ups = || ours.iter().map(Process::wake_ups).sum::<u64>();
    // What a start leaves to be done may take a moment: quiet is one second without a wake-up, and it must come.
    wait_until("a second without a wake-up", || {
        let before = wake_ups();
        support::pause(Duration::from_secs(1));
        (wake_ups() == before).then_some(())
    });
    up.stop();
}

#[test]
fn a_killed_supervisor_is_replaced_and_the_worker_does_not_notice() {
    let case = Case::new();
    let (lock, told) = (case.file("lock"), case.file("told"));
    let restart = "restart: {policy: always, retry_delay: 0s}";
    let mut up = Up::start(&case, &misbehaving("single", &["hold-lock", &lock, &told], &[restart]));
    let main = up.started("single", 1);
    case.wait_told("told", "begin ");
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    let second = case.role("supervisor");
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.stat(4), i64::from(up.pid()), "the keeper has started it");
    // Long enough for the mistake to be seen that would be made at once.
    pause_for_a_mistake(&case, &second);
    assert!(main.alive());
    assert_eq!(main.cgroup(), case.run_dir("single", 1));
    assert_eq!(case.told("told"), [format!("begin {}", main.pid)], "no second life beside the first");
    up.signal(Signal::TERM);
    end_of_a_replaced_supervisor(&mut up);
}

#[test]
fn a_supervisor_killed_while_it_stops_everything_is_not_followed_by_one_that_starts_anything() {
    let case = Case::new();
    let told = case.file("told");
    let (slow, brisk) = (["ignore-term", told.as_str()], ["sleep"]);
    let workers = misbehaving("slow", &slow, &["stop: {timeout: 2s}"]) + &misbehaving("brisk", &brisk, &[]);
    let mut up = Up::start(&case, &workers);
    let (_slow, _brisk) = (up.started("slow", 1), up.started("brisk", 1));
    case.wait_told("told", "pid");
    let first = case.role("supervisor");
    up.signal(Signal::TERM);
    up.state("brisk", State::Stopped, "stopped");
    first.signal(Signal::KILL);
    up.reap_killed();
    up.wait_silent();
    let again = |e: &Event| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again"));
    assert!(up.seen.iter().any(again), "it was replaced");
    let lives = up.of("brisk").filter(|e| matches!(e.kind, EventKind::Started { .. })).count();
    assert_eq!(lives, 1, "what was stopped stays so");
}

#[test]
fn signals_that_ask_for_nothing_end_nobody() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("calm", &["sleep"], &[]));
    let _main = up.started("calm", 1);
    let supervisor = case.role("supervisor");
    // SIGUSR2 asks for another binary: `reexec.rs`.
    for signal in [Signal::USR1, Signal::HUP] {
        up.signal(signal);
    }
    pause_for_a_mistake(&case, &supervisor);
    up.stop();
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

/// A supervisor that would start a second life does it right after its start, when it applies the configuration. It
/// is past that when it waits in epoll or futex with nothing more to do.
fn pause_for_a_mistake(case: &Case, supervisor: &Process) {
    support::pause(scaled(300 * MS));
    assert!(supervisor.alive(), "the new supervisor lives: {:?}", case.processes());
}

/// `seq` begins anew with a new supervisor (the store that carries it over comes later): only the end is looked at.
fn end_of_a_replaced_supervisor(up: &mut Up) {
    up.reap_killed();
}

#[test]
fn a_silent_supervisor_under_a_watchdog_is_replaced_and_systemd_hears_only_the_keeper() {
    let case = Case::new();
    let socket = case.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(patience())).unwrap();
    let mut heard = String::new();
    let mut hear = |wanted: &str, times: usize| {
        let mut bytes = [0; 4096];
        let before = heard.matches(wanted).count();
        while heard.matches(wanted).count() < before + times {
            let n = manager.recv(&mut bytes).unwrap_or_else(|e| panic!("{wanted} was not heard: {e}; {heard}"));
            heard.push_str(&String::from_utf8_lossy(&bytes[..n]));
            heard.push('\n');
        }
    };
    let config = case.config(&worker("w", &["/bin/sleep", "1000"], &[]));
    let mut command = case.pinfold("up");
    command.arg(config).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000");
    let mut up = Up::spawn(&mut command);
    let main = up.started("w", 1);
    hear("READY=1", 1);
    hear("WATCHDOG=1", 2);

    let first = case.role("supervisor");
    first.signal(Signal::STOP);
    first.wait_gone("the supervisor that no longer answers");
    let second = case.role("supervisor");
    assert_ne!(second.pid, first.pid);
    hear("WATCHDOG=1", 2);
    assert!(main.alive());
    up.signal(Signal::TERM);
    end_of_a_replaced_supervisor(&mut up);
}

#[test]
fn a_killed_keeper_takes_the_supervisor_along_but_no_worker_and_no_line_of_output() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("ticking", &["tick", &told], &[]));
    let main = up.started("ticking", 1);
    let (supervisor, logger) = (case.role("supervisor"), case.role("logger"));
    wait_until("a first tick", || case.told("told").first().cloned());

    up.signal(Signal::KILL);
    up.reap_killed();
    supervisor.wait_gone("the supervisor without its keeper");
    up.wait_silent();
    let ticks = case.told("told").len();
    wait_until("ticks after the keeper's death", || (case.told("told").len() > ticks + 10).then_some(()));
    assert!(main.alive());
    assert!(logger.alive(), "the logger stays while there is something to log");

    // Its end is the end of the pipe, and that is the logger's.
    main.signal(Signal::KILL);
    main.wait_gone("the worker");
    logger.wait_gone("the logger whose pipes have ended");
    let lines = logged(&case.dir.path().join("state/logs/ticking"));
    let told = case.told("told");
    // A tick is printed before it is told.
    assert!(lines.len() - told.len() <= 1, "{} lines logged, {} told", lines.len(), told.len());
    assert_eq!(lines[..told.len()], told, "every line that was printed is in the log");
    // The tree keeps the empty directory of a run whose end nobody could see: the next `up` finds it.
    for dir in tree::children(&case.root.join("workers")) {
        assert_eq!(tree::procs(&dir), Vec::<i32>::new());
        fs::remove_dir(dir).unwrap();
    }
}

/// The lines of a worker's log, all its files in order.
fn logged(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().contains(".stdout") && !p.to_string_lossy().ends_with(".idx"))
        .collect();
    files.sort();
    let text: String = files.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_a_worker_prints_is_in_its_log_to_the_last_line() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("printing", &["print", "5000"], &[]));
    assert_eq!(up.exited("printing", 1), ExitCause::Exited { code: 0 });
    up.stop();
    let expected: Vec<String> = (1..=5000).map(|i| format!("line {i}")).collect();
    assert_eq!(logged(&case.dir.path().join("state/logs/printing")), expected);
}

// --- run ---------------------------------------------------------------------

#[test]
fn run_ends_with_the_commands_own_code_and_reports_its_cause() {
    let case = Case::new();
    for code in [0, 1, 42, 123, 255] {
        let ran = run(&case, &["--", "/bin/sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert_eq!(ran.stdout, "out\n");
        assert!(ran.stderr.contains("err\n"), "{ran:?}");
        assert_eq!(ran.cause(), ExitCause::Exited { code });
        assert_eq!(tree::run_dirs(&case.root), Vec::<String>::new(), "nothing is left after it");
    }
}

#[test]
fn run_tells_signals_time_and_what_could_not_be_executed_apart() {
    let case = Case::new();
    let plain = case.file("plain");
    fs::write(&plain, "").unwrap();

    let ran = run(&case, &["--", "/bin/bash", "-c", "ulimit -c 0; kill -SEGV $$"]);
    assert_eq!((ran.code, ran.cause()), (Some(128 + 11), ExitCause::Signaled { signal: 11, core: false }), "{ran:?}");
    let ran = run(&case, &["--timeout", "300ms", "--", "/bin/sleep", "1000"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert!(ran.took < scaled(Duration::from_secs(5)), "{ran:?}");
    let ran = run(&case, &["--", "/nonexistent/program"]);
    assert_eq!(ran.code, Some(127), "{ran:?}");
    assert!(ran.stderr.contains("/nonexistent/program") && ran.stderr.contains("No such file"), "{ran:?}");
    let ran = run(&case, &["--", &plain]);
    assert_eq!(ran.code, Some(126), "{ran:?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
    let ran = run(&case, &["-u", "nobody-of-this-name", "--", "/bin/true"]);
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("nobody-of-this-name"), "{ran:?}");
}

#[test]
fn run_leaves_nothing_of_a_command_that_has_forked_away() {
    let case = Case::new();
    let told = case.file("told");
    let script =
        format!("{} double-fork {told} & while ! grep -q pid {told}; do sleep 0.01; done; exit 5", misbehave());
    let ran = run(&case, &["--", "/bin/sh", "-c", &script]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    case.wait_told("told", "orphan ");
    // Not a moment later: it has ended, so they have.
    assert_eq!(case.processes(), Vec::<String>::new());
}

#[test]
fn two_hundred_runs_at_once_do_not_disturb_each_other() {
    let case = Case::alone();
    let codes: BTreeMap<i32, Option<i32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|lane| {
                let case = &case;
                scope.spawn(move || {
                    let code = |i: i32| run(case, &["--", "/bin/sh", "-c", &format!("exit {i}")]).code;
                    (0..25).map(|i| lane * 25 + i).map(|i| (i, code(i))).collect::<Vec<_>>()
                })
            })
            .collect();
        runs.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    let wrong: Vec<_> = codes.iter().filter(|(want, got)| **got != Some(**want)).collect();
    assert_eq!(codes.len(), 200);
    assert!(wrong.is_empty(), "{wrong:?}");
}

// --- hostile configurations --------------------------------------------------

#[test]
fn hostile_configurations_are_refused_quickly_with_exit_code_2() {
    let case = Case::alone();
    let one = |limits: &str| {
        format!("workers:\n  - id: a\n    unit:\n      command: [\"/bin/true\"]\n      limits: {limits}\n")
    };
    let bomb = {
        let mut yaml = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 9].join(",");
            writeln!(yaml, "a{i}: &a{i} [{aliases}]").unwrap();
        }
        yaml + "workers: *a11\n"
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("10-megabytes", "# all comment\n".repeat(10_000_000 / 14).into_bytes()),
        (
            "10-megabytes-of-workers",
            "workers:\n".bytes().chain("- {id: a}\n".bytes().cycle().take(10_000_000)).collect(),
        ),
        ("depth-flow", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
        ("depth-block", format!("workers: {}", "- ".repeat(100_000)).into_bytes()),
        ("depth-maps", "{a: ".repeat(100_000).into_bytes()),
        ("alias-bomb", bomb.into_bytes()),
        ("alias-loop", b"workers: &a [*a]\n".to_vec()),
        ("nul", b"workers:\n  - id: \"a\0b\"\n".to_vec()),
        ("nul-in-argument", one("{}").replace("/bin/true", "/bin/true\\0x").into_bytes()),
        ("invalid-utf8", b"workers:\n  - id: \"\xff\xfe\"\n".to_vec()),
        ("memory-is-minus-1", one("{memory: -1}").into_bytes()),
        ("max-rss-is-minus-1", one("{memory: {max_rss: -1}}").into_bytes()),
        ("max-rss-is-2-to-64", one("{memory: {max_rss: 18446744073709551616}}").into_bytes()),
        ("max-rss-is-1e400", one("{memory: {max_rss: 1e400}}").into_bytes()),
        ("percent-is-1e400", one("{cpu: {max_percent: 1e400}}").into_bytes()),
        ("percent-is-nan", one("{cpu: {max_percent: .nan}}").into_bytes()),
        ("duplicate-key", one("{pids: {max: 3}, pids: {max: 4}}").into_bytes()),
        ("unknown-key", one("{memory: {max_rsss: 64MiB}}").into_bytes()),
        ("no-list", b"workers: {}\n".to_vec()),
    ];
    // What the program takes to do nothing, on this machine, now: the best of five.
    let nothing = (0..5).map(|_| finish(Command::new(support::PINFOLD).arg("version")).took).min().unwrap();
    // 100 ms on a machine where nothing takes 2 ms; and never less than what a scheduler may take away.
    let bound = (nothing * 50).max(scaled(100 * MS));
    for (name, text) in hostile {
        let file = case.file(name);
        fs::write(&file, text).unwrap();
        for subcommand in ["validate", "up"] {
            // The better of two: the first may have to read the file from a disk.
            let mut command = case.pinfold(subcommand);
            command.arg(&file);
            let runs = [finish(&mut command), finish(&mut command)];
            let ran = &runs[0];
            assert_eq!(ran.code, Some(2), "{subcommand} {name}: {ran:?}");
            assert!(!ran.stderr.is_empty() && ran.stderr.len() < 64 << 10, "{subcommand} {name}: {ran:?}");
            let took = runs[0].took.min(runs[1].took);
            assert!(took < bound, "{subcommand} {name} took {took:?}, doing nothing takes {nothing:?}");
        }
    }
    assert_eq!(tree::children(&case.root), Vec::<std::path::PathBuf>::new(), "nothing was made");
}

// --- the harness itself ------------------------------------------------------

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
