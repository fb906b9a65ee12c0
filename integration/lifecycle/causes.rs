//! Why a run ended, or never began, is told rightly.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use pinfold::model::{Event, EventKind, ExitCause, ExitStatus, Stage, State};
use rustix::process::Signal;

use crate::MS;
use crate::support::{
    Case,
    process::Process,
    scaled, tree,
    up::{Up, at},
    wait_until, worker,
};

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
    let retried = "restart: {policy: on-failure, retry_delay: 1s, backoff_rate: 1, jitter: 0.5, max_retries: 0}";
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
    // What a start takes on this machine at this time.
    config += &worker("sound", &["/bin/true"], &[&retried.replace("on-failure", "always")]);
    let mut up = Up::start(&case, &config);
    up.begun("sound", 1);
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
            let sound = up.of("sound").filter_map(|e| e.run).filter_map(|run| started_after(&up, "sound", run)).min();
            failed_after(&up, name, run) < scaled(50 * MS).max(4 * sound.unwrap())
        });
        assert!(in_time, "{name} never failed within 50 ms");
    }
    up.stop();
}

/// The time from the first word about a run to its failure.
fn failed_after(up: &Up, worker: &str, run: u32) -> Duration {
    comes_after(up, worker, run, |e| matches!(e.kind, EventKind::Exited { .. })).unwrap()
}

/// The time from the first word about a run to its start, where that was told.
fn started_after(up: &Up, worker: &str, run: u32) -> Option<Duration> {
    comes_after(up, worker, run, |e| matches!(e.kind, EventKind::Started { .. }))
}

fn comes_after(up: &Up, worker: &str, run: u32, wanted: impl FnMut(&&Event) -> bool) -> Option<Duration> {
    let of_run = |e: &&Event| e.run == Some(run);
    let mut events = up.of(worker).filter(of_run);
    let first = events.next().map(at)?;
    Some(at(events.find(wanted)?).since(first))
}
