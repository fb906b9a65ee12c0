//! The ends of a supervisor that nobody sits in front of: `up -d`, which leaves it behind, and `down`, which ends it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Command, Stdio},
};

use pinfold::model::{EventKind, ExitCause, KilledBy, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{
    Case, PINFOLD, copy_program, misbehaving, patience,
    process::Process,
    run::{Ran, finish},
    tree,
    up::Up,
    wait_until, worker,
};

const NOBODY: u32 = 65534;

/// One that can be stopped, one that has to be killed, one that cannot be started and one that is not to be.
fn shop(case: &Case) -> String {
    let told = case.file("told");
    let mut workers = misbehaving("web", &["sleep"], &[]) + "    instances: 2\n";
    workers += &misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 500ms}"]);
    workers += &worker("none", &["/no/such/program"], &[]);
    workers += &(misbehaving("off", &["sleep"], &[]) + "    enabled: false\n");
    workers
}

const STOPPED: &str = "web-1: stopped\nweb-2: stopped\ndeaf: stopped\nnone: stopped (failed)\noff: stopped (never)\n";

/// `pinfold ARGS` beside the supervisor of `case`.
fn pinfold(case: &Case, args: &[&str]) -> Ran {
    finish(case.pinfold(args[0]).args(&args[1..]))
}

/// Without waiting for its end.
fn begin(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn log(case: &Case) -> String {
    fs::read_to_string(case.dir.path().join("state/pinfold.log")).unwrap()
}

// --- down ----------------------------------------------------------------------

#[test]
fn down_stops_every_worker_and_returns_when_the_supervisor_is_gone_whatever_sigterm_would_do() {
    for on_term in ["--on-term=stop", "--on-term=detach"] {
        let case = Case::new();
        let config = case.config(&shop(&case));
        let mut up = Up::spawn(case.pinfold("up").arg(&config).arg(on_term));
        let web = up.started("web-1", 1);
        case.wait_told("told", "pid ");
        up.state("none", State::Stopped, "failed");
        let supervisor = case.role("supervisor");

        let down = pinfold(&case, &["down"]);
        assert_eq!((down.code, down.stdout.as_str(), down.stderr.as_str()), (Some(0), STOPPED, ""), "{on_term}");
        assert!(!web.alive() && !supervisor.alive());
        assert_eq!(up.over(), Some(0), "the main process has ended, and well: no service manager starts it again");
        up.wait_silent();
        let asked = up.seen.iter().find_map(|e| match &e.kind {
            EventKind::Operator { who, what } if e.worker.is_none() => Some((who.clone(), what.clone())),
            _ => None,
        });
        let (who, what) = asked.expect("it is on record");
        assert!(who.starts_with("uid 0 (pid ") && what == "shutdown", "{what} by {who}");
        assert_eq!(up.exited("web-1", 1), ExitCause::Killed { by: KilledBy::Shutdown, policy: None });

        let none = pinfold(&case, &["down"]);
        assert_eq!((none.code, none.stdout.as_str()), (Some(6), ""), "{none:?}");
        assert!(none.stderr.contains("no supervisor answers"), "{none:?}");

        let mut again = Up::spawn(case.pinfold("up").arg(&config));
        again.started("web-1", 2);
        again.stop();
    }
}

#[test]
fn a_second_down_joins_the_first_and_one_without_patience_leaves_it_to_itself() {
    let case = Case::new();
    let told = case.file("told");
    let workers =
        misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 8s}"]) + &shop(&case).replace("deaf", "dull");
    let mut up = Up::spawn(case.pinfold("up").arg(case.config(&workers)));
    up.state("none", State::Stopped, "failed");
    case.wait_told("told", "pid ");

    let at_once = pinfold(&case, &["down", "--no-wait"]);
    assert_eq!(at_once.code, Some(0), "{at_once:?}");
    assert!(at_once.stdout.starts_with("deaf: accepted; now "), "{at_once:?}");
    up.state("deaf", State::Stopping, "term");
    let late = pinfold(&case, &["down", "--timeout", "50ms"]);
    assert_eq!(late.code, Some(7), "{late:?}");
    assert!(late.stderr.contains("deaf: not done in time: it is stopping (term), and goes on"), "{late:?}");

    let first = begin(&mut case.pinfold("down"));
    let second = pinfold(&case, &["down", "-o", "json"]);
    let document: Value = serde_json::from_str(&second.stdout).unwrap_or_else(|e| panic!("{e}: {second:?}"));
    let results = document["results"].as_array().unwrap();
    assert_eq!((second.code, results.len()), (Some(0), 6), "{second:?}");
    assert!(results.iter().all(|r| r["outcome"] == "done" && r["state"] == "stopped"), "{document}");
    let (code, out, err) = end(first);
    assert_eq!((code, out.lines().next(), err.as_str()), (Some(0), Some("deaf: stopped"), ""));
    assert_eq!(up.over(), Some(0));
    up.wait_silent();
    assert!(matches!(up.exited("deaf", 1), ExitCause::Killed { by: KilledBy::StopTimeout, .. }), "nobody hurried it");
}

#[test]
fn a_supervisor_killed_over_a_down_is_followed_by_one_that_goes_on_with_it() {
    let case = Case::new();
    let told = case.file("told");
    let workers =
        misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 3s}"]) + &misbehaving("web", &["sleep"], &[]);
    let mut up = Up::spawn(case.pinfold("up").arg(case.config(&workers)).arg("--on-term=detach"));
    let deaf = up.started("deaf", 1);
    case.wait_told("told", "pid ");
    let down = begin(&mut case.pinfold("down"));
    up.state("deaf", State::Stopping, "term");
    case.role("supervisor").signal(Signal::KILL);
    let (code, out, err) = end(down);
    assert_eq!((code, out.as_str()), (Some(1), ""), "what came of it is not known: {err}");
    assert!(err.contains("broke off before it had answered"), "{err}");
    assert!(!deaf.alive(), "but it is waited for the end");
    assert_eq!(up.over(), Some(0));
    up.wait_silent();
}

#[test]
fn only_root_and_the_supervisors_own_user_may_end_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[]));
    let web = up.started("web", 1);
    // As if its group let everybody in.
    for path in [case.dir.path().to_owned(), case.dir.path().join("run"), case.socket()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let copy = case.dir.path().join("pinfold");
    copy_program(PINFOLD.as_ref(), &copy);
    let mut command = Command::new(copy);
    command.args(["down", "--socket"]).arg(case.socket()).current_dir("/").uid(NOBODY).gid(NOBODY);
    let refused = finish(&mut command);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(5), ""), "{refused:?}");
    assert!(
        refused.stderr.contains("only root and the supervisor's own user may ask for /v1/shutdown; you are uid 65534"),
        "{refused:?}"
    );
    assert!(web.alive());
    up.stop();
}

// --- up -d ---------------------------------------------------------------------

#[test]
fn up_d_returns_when_every_worker_was_started_and_leaves_a_supervisor_without_a_terminal() {
    let case = Case::new();
    let config = case.config(&shop(&case));
    let up = finish(case.pinfold("up").args(["-d", &config]));
    let web = Process::open(tree::procs(&case.run_dir("web-1", 1))[0]).expect("it runs when `up -d` returns");
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.stdout.starts_with(&format!("web-1: running, pid {}\nweb-2: running, pid ", web.pid)), "{up:?}");
    assert!(up.stdout.ends_with("off: stopped (never)\n") && !up.stdout.contains("none"), "{up:?}");
    let none = "pinfold: none: start failed: exec: No such file or directory; see `pinfold why none`\n";
    assert_eq!(up.stderr, none);

    let keeper = case.role("keeper");
    let own = i64::from(std::process::id());
    assert_ne!(keeper.stat(4), own, "nobody's child who could wait for it");
    for role in [&keeper, &case.role("supervisor"), &case.role("logger")] {
        assert_eq!(role.stat(7), 0, "no controlling terminal");
        let fd = |n: u32| fs::read_link(format!("/proc/{}/fd/{n}", role.pid)).unwrap();
        assert_eq!([fd(0), fd(1)].map(|path| path.display().to_string()), ["/dev/null", "/dev/null"]);
        assert_eq!(fd(2), case.dir.path().join("state/pinfold.log"));
        assert!(role.file("environ").contains("PINFOLD_OWN_LOG="));
    }
    assert_eq!(keeper.stat(6), i64::from(keeper.pid), "a session of its own");
    assert_eq!(case.role("supervisor").stat(6), i64::from(keeper.pid));
    assert!(!web.file("environ").contains("PINFOLD_OWN_LOG="), "it is no worker's business");

    let held = finish(case.pinfold("up").args(["-d", &config]));
    assert_eq!((held.code, held.stdout.as_str()), (Some(1), ""), "{held:?}");
    assert!(held.stderr.contains(&format!("is in use by another pinfold (pid {})", keeper.pid)), "{held:?}");
    assert!(!log(&case).contains("in use"), "it is told where it was typed");

    // What it says later is in its log.
    case.role("supervisor").signal(Signal::KILL);
    wait_until("the keeper's word", || log(&case).contains("the supervisor is gone").then_some(()));
    wait_until("the next supervisor", || (pinfold(&case, &["count", "web"]).stdout == "2\n").then_some(()));
    let down = pinfold(&case, &["down"]);
    assert_eq!((down.code, down.stdout.as_str(), down.stderr.as_str()), (Some(0), STOPPED, ""));
    assert!(!keeper.alive() && !web.alive());
}

#[test]
fn up_d_prints_json_for_programs() {
    let case = Case::new();
    let up = finish(case.pinfold("up").args(["-d", "-o", "json"]).arg(case.config(&shop(&case))));
    let document: Value = serde_json::from_str(&up.stdout).unwrap_or_else(|e| panic!("{e}: {up:?}"));
    assert_eq!((up.code, up.stderr.as_str()), (Some(0), ""));
    let states = document["workers"].as_array().unwrap().iter().map(|w| w["state"].as_str().unwrap());
    assert_eq!(states.collect::<Vec<_>>(), ["running", "running", "running", "stopped", "stopped"]);
    assert_eq!(pinfold(&case, &["down"]).code, Some(0));
}

#[test]
fn a_supervisor_that_cannot_begin_is_an_error_in_its_own_words() {
    let case = Case::new();
    let good = case.config(&misbehaving("web", &["sleep"], &[]));
    let mut elsewhere = Command::new(PINFOLD);
    elsewhere.args(["up", "-d", &good, "--cgroup-root", "/nonexistent"]).envs(case.mark()).current_dir("/");
    elsewhere
        .arg("--state-dir")
        .arg(case.dir.path().join("state"))
        .arg("--runtime-dir")
        .arg(case.dir.path().join("run"));
    let ran = finish(&mut elsewhere);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.starts_with("pinfold: cannot make a place for the workers: "), "{ran:?}");
    assert!(log(&case).ends_with(&ran.stderr), "it stays in its log");

    let bad = case.config("  - {id: web}\n");
    let (with, without) = (finish(case.pinfold("up").args(["-d", &bad])), finish(case.pinfold("up").arg(&bad)));
    assert_eq!((with.code, &with.stderr), (Some(2), &without.stderr), "a wrong configuration is told as without -d");

    let given_up = worker(
        "weak",
        &["/bin/false"],
        &["restart: {policy: on-failure, max_retries: 1, retry_delay: 0s, on_open: exit}"],
    );
    let ran = finish(case.pinfold("up").args(["-d", &case.config(&given_up)]));
    // Its breaker opens before or after the word that all were started.
    if ran.code == Some(1) {
        assert!(ran.stderr.contains("weak was given up"), "{ran:?}");
    }
    wait_until("its end", || case.processes().is_empty().then_some(()));
    assert!(log(&case).contains("weak was given up"));
}

#[test]
fn who_does_not_wait_for_the_start_any_more_has_it_taken_back() {
    for signal in [Signal::INT, Signal::HUP, Signal::KILL] {
        let case = Case::new();
        let config = case.config(&misbehaving("web", &["sleep"], &[]));
        // Whoever comes into the case's cgroup stands still: nothing can begin.
        fs::write(case.root.join("cgroup.freeze"), "1").unwrap();
        let up = begin(case.pinfold("up").args(["-d", &config]));
        let keeper = case.role("keeper");
        kill_process(Pid::from_child(&up), signal).unwrap();
        if signal == Signal::KILL {
            assert_eq!(end(up).0, None);
            fs::write(case.root.join("cgroup.freeze"), "0").unwrap();
        } else {
            fs::write(case.root.join("cgroup.freeze"), "0").unwrap();
            let (code, out, err) = end(up);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{signal:?}: {err}");
            assert!(err.contains("interrupted before every worker was started: all of them are stopped"), "{err}");
            assert!(!keeper.alive(), "it waits for the end");
        }
        assert!(keeper.gone_within(patience()), "{signal:?}");
    }
}

#[test]
fn what_up_d_has_left_goes_on_with_another_binary_and_is_still_ended_by_down() {
    let case = Case::new();
    let config = case.config(&misbehaving("web", &["sleep"], &[]));
    assert_eq!(finish(case.pinfold("up").args(["-d", &config])).code, Some(0));
    let (keeper, web) = (case.role("keeper"), tree::procs(&case.run_dir("web", 1)));
    let again = pinfold(&case, &["reexec"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(keeper.alive());
    assert_eq!(tree::procs(&case.run_dir("web", 1)), web);
    let down = pinfold(&case, &["down"]);
    assert_eq!((down.code, down.stdout.as_str()), (Some(0), "web: stopped\n"), "{down:?}");
    assert!(!keeper.alive());
}
