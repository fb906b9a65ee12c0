//! Freezing and thawing: what stands still and goes on, who dies meanwhile, and that nothing is held up by it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{fs, path::Path, process::Stdio};

use pinfold::model::{EventKind, ExitCause, KilledBy, State};
use rustix::process::Signal;
use support::{
    Case, misbehaving,
    run::finish,
    tree,
    up::{Up, is},
    wait_until, worker,
};

/// One that writes a byte to `file`, again and again.
fn counting(id: &str, file: &str) -> String {
    worker(id, &["/bin/sh", "-c", &format!("while :; do echo -n x >> {file}; done")], &[])
}

fn count(file: &str) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

/// Waits until the one that counts in `file` has counted on.
fn goes_on(file: &str) {
    let before = count(file);
    wait_until("it counts on", || (count(file) > before + 1000).then_some(()));
}

fn is_frozen(dir: &Path) -> bool {
    tree::field(dir, "cgroup.events", "frozen") == 1
}

/// SIGKILL to the supervisor; the next one answers.
fn next_supervisor(case: &Case) {
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    case.role("supervisor");
    wait_until("another answers", || (finish(&mut case.pinfold("ps")).code == Some(0)).then_some(()));
}

fn detail(case: &Case, id: &str) -> String {
    let status = case.ask("status", &[id, "-o", "json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["detail"].as_str().unwrap().to_owned()
}

fn starts(up: &Up, id: &str) -> usize {
    up.of(id).filter(|event| matches!(event.kind, EventKind::Started { .. })).count()
}

#[test]
fn what_is_frozen_stands_still_over_the_death_of_its_supervisor_and_goes_on_when_it_is_thawed() {
    let case = Case::new();
    let [still, other] = ["still", "other"].map(|name| case.file(name));
    let mut up = Up::start(&case, &(counting("still", &still) + &counting("other", &other)));
    let [main, _] = ["still", "other"].map(|id| up.started(id, 1));
    goes_on(&still);

    assert_eq!(case.ask("freeze", &["still"]).stdout, format!("still: running (frozen), pid {}\n", main.pid));
    let at = count(&still);
    up.wait_for("who froze it is on record", |event| {
        is(event, "still")
            && matches!(&event.kind, EventKind::Operator { what, who } if what == "freeze" && who.starts_with("uid "))
    });
    up.state("still", State::Running, "frozen");
    goes_on(&other);
    assert_eq!(count(&still), at, "it stands still while another counts");
    assert_eq!(case.ask("freeze", &["*"]).code, Some(0), "again is done at once, with the other one");
    assert_eq!(case.ask("thaw", &["other"]).code, Some(0));

    next_supervisor(&case);
    goes_on(&other);
    assert_eq!((count(&still), detail(&case, "still"), detail(&case, "other")), (at, "frozen".into(), "ready".into()));
    assert!(case.ask("status", &["still"]).stdout.contains("pinfold thaw still lets it go on"));

    assert_eq!(case.ask("thaw", &["still"]).stdout, format!("still: running, pid {}\n", main.pid));
    goes_on(&still);
    assert!(main.alive());
    assert_eq!(case.ask("thaw", &["still"]).code, Some(0), "one that runs is thawed already");
    assert_eq!((starts(&up, "still"), starts(&up, "other")), (1, 1));
    up.stop();
}

#[test]
fn a_supervisor_killed_at_any_moment_of_a_freeze_or_a_thaw_is_followed_by_one_that_says_what_is() {
    let case = Case::new();
    let file = case.file("count");
    let mut up = Up::start(&case, &counting("w", &file));
    let main = up.started("w", 1);
    let dir = case.run_dir("w", 1);
    for round in 0..8 {
        let verb = if is_frozen(&dir) { "thaw" } else { "freeze" };
        let mut asked = case.pinfold(verb).arg("w").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From before it is asked to after it is done.
        support::pause(std::time::Duration::from_millis(4 * round));
        next_supervisor(&case);
        asked.wait().unwrap();
        // Nobody was told that it is done; what has been written comes about, and is shown.
        let wished = tree::read(&dir, "cgroup.freeze") == "1";
        wait_until("the kernel has come to it", || (is_frozen(&dir) == wished).then_some(()));
        let word = if wished { "frozen" } else { "ready" };
        wait_until("it is shown", || (detail(&case, "w") == word).then_some(()));
        if wished {
            case.ask("thaw", &["w"]);
            goes_on(&file);
        }
    }
    assert!(main.alive());
    up.stop();
}

#[test]
fn a_stop_a_kill_and_a_restart_of_a_frozen_worker_are_heard_as_ever() {
    let case = Case::new();
    // A stop that was not heard would take a minute, more than anybody here has patience for, and have another cause.
    let told = case.file("told");
    let stop = "stop: {timeout: 60s}";
    let stops = misbehaving("stops", &["on-term", "0", "7", &told], &[stop]);
    let workers = stops + &misbehaving("dies", &["sleep"], &[stop]) + &misbehaving("again", &["sleep"], &[stop]);
    let mut up = Up::start(&case, &workers);
    let mains = ["stops", "dies", "again"].map(|id| up.started(id, 1));
    wait_until("it is ready", || case.told("told").first().cloned());
    case.ask("freeze", &["*"]);
    for id in ["stops", "dies", "again"] {
        assert!(is_frozen(&case.run_dir(id, 1)), "{id}");
    }
    case.ask("stop", &["stops"]);
    assert_eq!(up.exited("stops", 1), ExitCause::Exited { code: 7 }, "it ended by itself, as it was asked to");
    case.ask("kill", &["dies"]);
    assert_eq!(up.exited("dies", 1), ExitCause::Killed { by: KilledBy::Operator, policy: None });
    case.ask("restart", &["again"]);
    let second = up.started("again", 2);
    assert!(second.alive() && mains.iter().all(|main| !main.alive()));
    assert!(!is_frozen(&case.run_dir("again", 2)), "a new run is not frozen");
    assert_eq!(detail(&case, "again"), "ready");
    for verb in ["freeze", "thaw"] {
        let ran = finish(case.pinfold(verb).arg("stops"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "pinfold: stops: it is not running\n"));
    }
    case.ask("freeze", &["again"]);
    up.stop();
}

#[test]
fn who_has_ended_before_it_could_be_frozen_is_not_said_to_be_frozen() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("w", &["sleep"], &[]));
    let main = up.started("w", 1);
    let dir = case.run_dir("w", 1);
    // So that nobody is told of its end meanwhile.
    let keeper = case.role("keeper");
    keeper.signal(Signal::STOP);
    main.signal(Signal::KILL);
    wait_until("nobody is left in it", || (tree::field(&dir, "cgroup.events", "populated") == 0).then_some(()));
    let freeze = case.pinfold("freeze").arg("w").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Of nobody the kernel says that all of it stands still.
    wait_until("the kernel says so", || is_frozen(&dir).then_some(()));
    up.wait_for("it is asked for", |e| {
        is(e, "w") && matches!(&e.kind, EventKind::Operator { what, .. } if what == "freeze")
    });
    keeper.signal(Signal::CONT);
    let ran = freeze.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "pinfold: w: it is not running\n");
    assert_eq!(up.exited("w", 1), ExitCause::KilledExternal);
    assert!(!up.states("w").contains(&"running(frozen)".to_owned()));
    up.stop();
}

#[test]
fn a_signal_waits_for_the_thaw() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("trap 'echo heard >> {told}' USR1; echo ready >> {told}; while :; do sleep 0.01; done");
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &[]));
    let main = up.started("w", 1);
    wait_until("it is ready", || case.told("told").first().cloned());
    case.ask("freeze", &["w"]);
    case.ask("signal", &["USR1", "w"]);
    assert!(is_frozen(&case.run_dir("w", 1)), "a signal thaws nobody");
    assert_eq!(case.told("told"), ["ready"]);
    case.ask("thaw", &["w"]);
    wait_until("it has heard", || case.told("told").into_iter().find(|line| line == "heard"));
    // By the kernel's rule: what would end it and is not handled does so at once.
    case.ask("freeze", &["w"]);
    case.ask("signal", &["USR2", "w"]);
    assert_eq!(up.exited("w", 1), ExitCause::Signaled { signal: 12, core: false });
    assert!(!main.alive());
    up.stop();
}

#[test]
fn what_another_hand_freezes_is_shown_by_the_next_who_looks_and_thawed_by_anybody() {
    let case = Case::new();
    let file = case.file("count");
    let workers = counting("w", &file);
    let config = case.config_with("reconcile_interval: 100ms\n", &workers);
    let mut up = Up::spawn(case.pinfold("up").arg(config));
    up.started("w", 1);
    let dir = case.run_dir("w", 1);
    let freeze = |how: &str| fs::write(dir.join("cgroup.freeze"), how).unwrap();
    freeze("1");
    up.state("w", State::Running, "frozen");
    next_supervisor(&case);
    assert_eq!(detail(&case, "w"), "frozen");
    up.wait_for("it is taken over as it is", |event| {
        is(event, "w") && matches!(&event.kind, EventKind::Reconciled { what } if what.ends_with(", frozen"))
    });
    freeze("0");
    wait_until("its thaw is seen", || (detail(&case, "w") == "ready").then_some(()));
    freeze("1");
    case.ask("thaw", &["w"]);
    goes_on(&file);
    // The tree as a whole: a thaw of the worker cannot help, and says why.
    let workers = case.root.join("workers/cgroup.freeze");
    fs::write(&workers, "1").unwrap();
    wait_until("it is shown", || (detail(&case, "w") == "frozen").then_some(()));
    let ran = finish(case.pinfold("thaw").args(["w", "--timeout", "1s"]));
    assert!(ran.code == Some(7) && ran.stderr.contains("; not thawed: a cgroup above it is frozen"), "{ran:?}");
    fs::write(&workers, "0").unwrap();
    wait_until("it is shown", || (detail(&case, "w") == "ready").then_some(()));
    up.stop();
}

#[test]
fn the_checks_of_a_frozen_worker_rest_and_it_is_not_restarted_for_them() {
    let case = Case::new();
    let well = case.file("well");
    fs::write(&well, "").unwrap();
    let checked = |id: &str| {
        let probe = format!("echo -n x >> {}; test -e {well}", case.file(&format!("probes-of-{id}")));
        let exec = format!("exec: {{command: [/bin/sh, -c, '{probe}']}}");
        // The other one is asked as often, and nothing follows for it.
        let threshold = if id == "still" { 2 } else { 100_000 };
        let check = format!(
            "health_check: {{liveness: {{{exec}, period: 100ms, timeout: 10s, failure_threshold: {threshold}}}}}"
        );
        misbehaving(id, &["sleep"], &[&check, "restart: {policy: always, retry_delay: 0s}"])
    };
    let mut up = Up::start(&case, &(checked("still") + &checked("other")));
    let main = up.started("still", 1);
    let probes = |id: &str| count(&case.file(&format!("probes-of-{id}")));
    let asked_again = |id: &str| {
        let before = probes(id);
        wait_until("it is asked again", || (probes(id) > before + 10).then_some(()));
    };
    asked_again("still");
    case.ask("freeze", &["still"]);
    fs::remove_file(&well).unwrap();
    // One that was begun may have been dropped in its middle, and its program be at its end.
    let at = probes("still");
    asked_again("other");
    assert!(probes("still") <= at + 1, "{} and then {}", at, probes("still"));
    assert!(main.alive());
    fs::write(&well, "").unwrap();
    case.ask("thaw", &["still"]);
    asked_again("still");
    assert!(main.alive());
    assert_eq!(up.decisions("still").len(), 0, "nothing was decided for it");
    up.stop();
}
