//! The configuration changed under a running supervisor: `plan`, `reload`, SIGHUP, `scale`, and the next `up`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{fs, os::unix::net::UnixDatagram, path::Path, time::Duration};

use pinfold::{
    clock,
    model::{Event, EventKind, State},
};
use rustix::process::Signal;
use serde_json::Value;
use support::{
    Case, misbehaving,
    process::Process,
    run::{Ran, finish},
    up::{Up, is},
    wait_until, worker,
};

/// `pinfold ARGS`, beside the supervisor of `case`.
fn pinfold(case: &Case, args: &[&str]) -> Ran {
    finish(case.pinfold(args[0]).args(&args[1..]))
}

/// The same with `-o json`, which must be one document.
fn json(case: &Case, args: &[&str]) -> Value {
    let ran = pinfold(case, &[args, &["-o", "json"]].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {ran:?}"))
}

fn sleeper(id: &str, seconds: &str) -> String {
    worker(id, &["/bin/sleep", seconds], &[])
}

/// The steps of a plan or of a reload: `ACTION NAME`.
fn steps(document: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |step: &Value| format!("{} {}", word(&step["action"]), word(&step["worker"])).trim().to_owned();
    document["steps"].as_array().unwrap().iter().map(one).collect()
}

fn pid(case: &Case, name: &str) -> i64 {
    json(case, &["status", name])["pid"].as_i64().unwrap_or_else(|| panic!("{name} does not run"))
}

fn arguments(pid: i64) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ").trim().to_owned()
}

fn at_event(up: &mut Up, what: &str, worker: &str, wanted: impl Fn(&Event) -> bool) -> usize {
    let found = up.wait_for(what, |event| is(event, worker) && wanted(event));
    up.seen.iter().position(|event| *event == found).unwrap()
}

#[test]
fn what_has_changed_is_changed_and_what_has_not_is_not_touched() {
    let case = Case::new();
    let text = [sleeper("same", "1000"), sleeper("rules", "1000"), sleeper("one", "1001"), sleeper("two", "1002")];
    let mut up = Up::start(&case, &(text.join("") + &sleeper("gone", "1003")));
    for name in ["same", "rules", "one", "two", "gone"] {
        up.state(name, State::Running, "ready");
    }
    let before: Vec<i64> = ["same", "rules", "one", "two"].iter().map(|name| pid(&case, name)).collect();
    let gone = Process::open(i32::try_from(pid(&case, "gone")).unwrap()).unwrap();

    let ran = case.ask("plan", &[]);
    assert_eq!(ran.stdout, "nothing to do; 5 workers are untouched\n");

    let rules = worker("rules", &["/bin/sleep", "1000"], &["stop: {timeout: 7s}"]);
    let changed =
        [sleeper("same", "1000"), rules, sleeper("one", "2001"), sleeper("two", "2002"), sleeper("new", "2003")];
    case.config(&changed.join(""));
    let plan = json(&case, &["plan"]);
    let expected = ["remove gone", "update rules", "restart one", "restart two", "add new"];
    assert_eq!(steps(&plan), expected);
    assert!(gone.alive(), "a plan does nothing");

    let reloaded = json(&case, &["reload"]);
    assert_eq!(steps(&reloaded), expected, "what the plan says is what is done");
    for carried in reloaded["steps"].as_array().unwrap() {
        assert_eq!(carried["outcome"], "done", "{carried}");
    }
    assert_eq!(reloaded["untouched"], serde_json::json!(["same"]));
    let after: Vec<i64> = ["same", "rules", "one", "two"].iter().map(|name| pid(&case, name)).collect();
    assert_eq!((before[0], before[1]), (after[0], after[1]), "neither is touched");
    assert_eq!([arguments(after[2]), arguments(after[3])], ["/bin/sleep 2001", "/bin/sleep 2002"]);
    assert!(!gone.alive());
    assert_eq!(arguments(pid(&case, "new")), "/bin/sleep 2003");
    assert_eq!(pinfold(&case, &["status", "gone"]).code, Some(4));
    assert_eq!(case.ask("ps", &["-q"]).stdout, "same\nrules\none\ntwo\nnew\n", "in the order of their declaration");

    // One by one: the second is not ended before the first runs again.
    let first =
        at_event(&mut up, "one runs again", "one", |e| e.run == Some(2) && matches!(e.kind, EventKind::Started { .. }));
    let second = at_event(&mut up, "two ends", "two", |e| matches!(e.kind, EventKind::Exited { .. }));
    assert!(first < second);
    assert_eq!(case.ask("plan", &[]).stdout, "nothing to do; 5 workers are untouched\n");
    up.stop();
}

#[test]
fn a_broken_file_changes_nothing_and_every_problem_is_told() {
    let case = Case::new();
    let mut up = Up::start(&case, &sleeper("a", "1000"));
    up.state("a", State::Running, "ready");
    let (before, applied) = (pid(&case, "a"), fs::read(case.dir.path().join("state/applied.json")).unwrap());
    case.config(&(worker("a", &["/bin/sleep", "2000"], &["nise: 3"]) + &worker("b", &["x"], &["umask: 9999"])));
    for command in ["reload", "plan"] {
        let ran = pinfold(&case, &[command]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        for part in
            ["2 problems", "nothing is changed", "workers[0].unit.nise", "did you mean nice", "workers[1].unit.umask"]
        {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
    up.signal(Signal::HUP);
    up.wait_for(
        "the supervisor says so",
        |event| matches!(&event.kind, EventKind::Supervisor { what } if what.starts_with("not reloaded")),
    );
    fs::remove_file(case.file("pinfold.yaml")).unwrap();
    assert_eq!(pinfold(&case, &["reload"]).code, Some(2));
    assert_eq!(pid(&case, "a"), before);
    assert_eq!(fs::read(case.dir.path().join("state/applied.json")).unwrap(), applied);
    up.stop();
}

#[test]
fn a_hangup_reloads() {
    let case = Case::new();
    let mut up = Up::start(&case, &sleeper("a", "1000"));
    up.started("a", 1);
    case.config(&sleeper("a", "2000"));
    up.signal(Signal::HUP);
    let second = up.started("a", 2);
    assert_eq!(arguments(second.pid.into()), "/bin/sleep 2000");
    up.stop();
}

#[test]
fn a_service_manager_is_told_when_a_reload_begins_and_ends() {
    let case = Case::new();
    let socket = case.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(support::patience())).unwrap();
    let hear = |wanted: &str| {
        let mut bytes = [0; 4096];
        loop {
            let n = manager.recv(&mut bytes).unwrap_or_else(|e| panic!("{wanted} was not heard: {e}"));
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let config = case.config(&sleeper("a", "1000"));
    let mut up = Up::spawn(case.pinfold("up").arg(config).env("NOTIFY_SOCKET", &socket));
    hear("READY=1");
    let before = clock::monotonic().0.as_micros();
    up.signal(Signal::HUP);
    let told = hear("RELOADING=1");
    let stamp: u128 = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap().parse().unwrap();
    assert!(stamp >= before && stamp <= clock::monotonic().0.as_micros(), "sd_notify(3): {told}");
    hear("READY=1");
    up.stop();
}

#[test]
fn who_was_stopped_by_a_person_stays_down_and_takes_what_is_configured_later() {
    let case = Case::new();
    let mut up = Up::start(&case, &(sleeper("a", "1000") + &sleeper("b", "1000")));
    up.started("a", 1);
    case.ask("stop", &["a"]);
    case.config(&(sleeper("a", "2000") + &sleeper("b", "1000")));
    assert_eq!(steps(&json(&case, &["reload"])), ["update a"]);
    assert_eq!(pinfold(&case, &["status", "a"]).code, Some(3));
    case.ask("start", &["a"]);
    assert_eq!(arguments(pid(&case, "a")), "/bin/sleep 2000");
    up.stop();
}

#[test]
fn a_worker_that_cannot_be_started_is_told_and_the_others_go_on() {
    let case = Case::new();
    let mut up = Up::start(&case, &(sleeper("a", "1000") + &sleeper("b", "1000")));
    up.started("a", 1);
    case.config(&(worker("a", &["/no/such/program"], &[]) + &sleeper("b", "2000")));
    let ran = pinfold(&case, &["reload"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("restart a: ") && ran.stderr.contains("/no/such/program"), "{ran:?}");
    assert_eq!(arguments(pid(&case, "b")), "/bin/sleep 2000");
    // Mending it is a change, and it is tried again.
    case.config(&(sleeper("a", "3000") + &sleeper("b", "2000")));
    assert_eq!(steps(&json(&case, &["reload"])), ["start a"]);
    assert_eq!(arguments(pid(&case, "a")), "/bin/sleep 3000");
    up.stop();
}

#[test]
fn instances_come_and_go_and_nobody_who_is_only_called_alike() {
    let case = Case::new();
    let workers = sleeper("x", "1000") + "    instances: 1\n" + &sleeper("x-canary", "1000");
    let mut up = Up::start(&case, &workers);
    up.started("x-canary", 1);
    up.started("x-1", 1);
    let before = (pid(&case, "x-1"), pid(&case, "x-canary"));
    case.ask("scale", &["x=3"]);
    assert_eq!(case.ask("count", &["x"]).stdout, "3\n");
    let last = Process::open(i32::try_from(pid(&case, "x-3")).unwrap()).unwrap();
    case.ask("scale", &["x=1"]);
    assert!(!last.alive(), "what goes is waited for");
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "x-1\nx-canary\n");
    assert_eq!((pid(&case, "x-1"), pid(&case, "x-canary")), before);
    let already = "x: nothing to change: it has 1 instance already";
    assert_eq!(case.ask("scale", &["x=1"]).stdout, format!("{already}\n"));
    case.ask("stop", &["x"]);
    let stopped = format!("{already}, none of them running; `pinfold start x` starts what is down\n");
    assert_eq!(case.ask("scale", &["x=1"]).stdout, stopped);
    case.ask("start", &["x"]);
    for (target, code) in [("x-canary=2", 2), ("none=2", 4), ("x=0", 2), ("x", 2), ("x=many", 2)] {
        let ran = pinfold(&case, &["scale", target]);
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(code), 1), "{target}: {ran:?}");
    }
    // The configuration's number is in force again with the next reload.
    case.ask("scale", &["x=2"]);
    assert_eq!(steps(&json(&case, &["reload"])), ["remove x-2"]);
    // And numbers of runs go on.
    case.ask("scale", &["x=2"]);
    assert_eq!(json(&case, &["status", "x-2"])["run"], 3);
    up.stop();
}

#[test]
fn a_scaling_outlives_the_supervisor() {
    let case = Case::new();
    let workers = sleeper("less", "1000") + "    instances: 3\n" + &sleeper("more", "1000") + "    instances: 1\n";
    let mut up = Up::start(&case, &workers);
    up.started("less-3", 1);
    up.started("more-1", 1);
    case.ask("scale", &["less=1"]);
    case.ask("scale", &["more=2"]);
    let pids = |case: &Case| ["less-1", "more-1", "more-2"].map(|name| pid(case, name));
    let before = pids(&case);
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    wait_until("the next one answers", || finish(case.pinfold("ps").arg("-q")).code.filter(|code| *code == 0));
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "less-1\nmore-1\nmore-2\n");
    assert_eq!(pids(&case), before);
    up.signal(Signal::TERM);
    up.reap_killed();
}

#[test]
fn a_storm_of_reloads_over_half_written_files_touches_nobody() {
    let case = Case::new();
    let mut up = Up::start(&case, &(sleeper("one", "1000") + &sleeper("two", "1000")));
    up.started("one", 1);
    up.started("two", 1);
    let before = (pid(&case, "one"), pid(&case, "two"));
    let path = case.config(&(sleeper("one", "1000") + &sleeper("two", "1000")));
    // JSON is YAML, and a part of it is no whole; an empty file, which it is for a moment, is one without workers.
    let document = |seconds: &str| {
        let worker = |id: &str| serde_json::json!({"id": id, "unit": {"command": ["/bin/sleep", seconds], "restart": {"policy": "never"}}});
        let env = serde_json::json!({ support::MARK: case.mark()[0].1 });
        serde_json::json!({"env": env, "workers": [worker("one"), worker("two")]}).to_string()
    };
    let whole = document("1000");
    let answers: Vec<Ran> = std::thread::scope(|scope| {
        let (path, whole, case) = (Path::new(&path), &whole, &case);
        scope.spawn(move || {
            for at in (1..whole.len()).step_by(whole.len() / 40) {
                fs::write(path, &whole[..at]).unwrap();
                support::pause(Duration::from_millis(10));
            }
            fs::write(path, whole).unwrap();
        });
        let asker = || (0..15).map(|_| pinfold(case, &["reload"])).collect::<Vec<_>>();
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(asker)).collect();
        for _ in 0..100 {
            up.signal(Signal::HUP);
        }
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect()
    });
    for ran in &answers {
        let busy = ran.code == Some(1) && ran.stderr.contains("another change is under way");
        assert!(busy || matches!(ran.code, Some(0 | 2)), "{ran:?}");
    }
    assert_eq!((pid(&case, "one"), pid(&case, "two")), before);
    fs::write(&path, document("2000")).unwrap();
    wait_until("a reload that nobody is in the way of", || (pinfold(&case, &["reload"]).code == Some(0)).then_some(()));
    assert_eq!([arguments(pid(&case, "one")), arguments(pid(&case, "two"))], ["/bin/sleep 2000"; 2]);
    up.stop();
}

#[test]
fn an_empty_file_is_no_reason_to_stop_everything() {
    let case = Case::new();
    let mut up = Up::start(&case, &sleeper("a", "1000"));
    let main = up.started("a", 1);
    fs::write(case.file("pinfold.yaml"), "").unwrap();
    let ran = pinfold(&case, &["reload"]);
    assert_eq!((ran.code, ran.stderr.contains("declares no worker")), (Some(2), true), "{ran:?}");
    assert!(main.alive());
    up.stop();
}

#[test]
fn a_supervisor_that_dies_in_a_reload_is_followed_by_one_that_finishes_it() {
    let case = Case::new();
    let told = case.file("told");
    let gone = misbehaving("gone", &["on-term", "3000", "0", &told], &[]);
    let mut up = Up::start(&case, &(gone + &sleeper("changed", "1000") + &sleeper("same", "1000")));
    let [gone, _changed, same] = ["gone", "changed", "same"].map(|name| up.started(name, 1));
    wait_until("it listens for SIGTERM", || case.told("told").first().cloned());
    case.config(&(sleeper("changed", "2000") + &worker("same", &["/bin/sleep", "1000"], &["stop: {timeout: 9s}"])));
    up.signal(Signal::HUP);
    up.state("gone", State::Stopping, "term");
    case.role("supervisor").signal(Signal::KILL);
    // What was to be restarted is, and what was to go goes, by the supervisor that follows.
    let second = up.started("changed", 2);
    assert_eq!(arguments(second.pid.into()), "/bin/sleep 2000");
    gone.wait_gone("who is configured no more");
    wait_until("nobody supervises it any more", || (pinfold(&case, &["status", "gone"]).code == Some(4)).then_some(()));
    assert_eq!(pid(&case, "same"), i64::from(same.pid), "its rules alone have changed");
    assert_eq!(case.ask("plan", &[]).stdout, "nothing to do; 2 workers are untouched\n");
    up.signal(Signal::TERM);
    // Its numbers begin anew with each supervisor.
    up.reap_killed();
    up.wait_silent();
}

#[test]
fn the_next_up_changes_what_lives_as_a_reload_would() {
    let case = Case::new();
    let old = sleeper("same", "1000") + &sleeper("changed", "1000") + &sleeper("gone", "1000");
    let config = case.config(&old);
    let mut up = Up::spawn(case.pinfold("up").arg("--on-term=detach").arg(&config));
    let [same, changed, gone] = ["same", "changed", "gone"].map(|name| up.started(name, 1));
    up.stop();
    assert!(same.alive() && changed.alive() && gone.alive());
    case.config(&(worker("same", &["/bin/sleep", "1000"], &["stop: {timeout: 9s}"]) + &sleeper("changed", "2000")));
    let mut up = Up::again(&case);
    let second = up.started("changed", 2);
    assert_eq!(arguments(second.pid.into()), "/bin/sleep 2000");
    gone.wait_gone("what is configured no more");
    assert!(same.alive(), "the rules alone have changed");
    assert_eq!(pid(&case, "same"), i64::from(same.pid));
    up.stop();
}
