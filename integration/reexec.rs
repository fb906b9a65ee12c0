//! Another binary in the place of the one that runs: the keeper executes it, a new supervisor takes over, and no worker, no exit
//! status and no line of output notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
};

use pinfold::model::{EventKind, ExitCause, KilledBy, State};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Case, PINFOLD, copy_program,
    door::Door,
    misbehaving,
    process::Process,
    run::{Ran, finish},
    slowness,
    up::{Up, is},
    wait_until, worker,
};

const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

/// The binary of a case: a copy that can be replaced.
struct Own {
    path: PathBuf,
}

impl Own {
    fn new(case: &Case) -> Self {
        let own = Self { path: case.file("pinfold").into() };
        own.replace_by(PINFOLD.as_ref());
        own
    }

    /// As a package manager does: written beside it, then renamed over it.
    fn replace_by(&self, other: &Path) {
        let new = self.path.with_extension("new");
        copy_program(other, &new);
        fs::rename(new, &self.path).unwrap();
    }

    fn command(&self, case: &Case, subcommand: &str) -> Command {
        let plain = case.pinfold(subcommand);
        let mut command = Command::new(&self.path);
        command.args(plain.get_args()).current_dir("/");
        for (key, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
    }

    fn up(&self, case: &Case, workers: &str) -> Up {
        Up::spawn(self.command(case, "up").arg(case.config(workers)))
    }

    fn inode(&self) -> (u64, u64) {
        let file = fs::metadata(&self.path).unwrap();
        (file.dev(), file.ino())
    }
}

fn executed_by(process: &Process) -> (u64, u64) {
    let file = fs::metadata(format!("/proc/{}/exe", process.pid)).unwrap();
    (file.dev(), file.ino())
}

fn health(case: &Case) -> Value {
    Door::open(&case.socket()).get("/v1/health").body
}

/// What the supervisor after `old` says of itself.
fn next_supervisor(case: &Case, old: &Process) -> Value {
    old.wait_gone("the old supervisor");
    wait_until("another supervisor listens", || UnixStream::connect(case.socket()).ok());
    let health = health(case);
    assert_ne!(health["pid"], json!(old.pid));
    health
}

/// How the runs of `worker` ended, in the order in which it was told.
fn exits(up: &Up, worker: &str) -> Vec<(u32, ExitCause)> {
    let exit = |e: &pinfold::model::Event| match &e.kind {
        EventKind::Exited { cause, .. } => Some((e.run.unwrap(), cause.clone())),
        _ => None,
    };
    up.of(worker).filter_map(exit).collect()
}

fn starts(up: &Up, worker: &str) -> usize {
    up.of(worker).filter(|e| matches!(e.kind, EventKind::Started { .. })).count()
}

/// The end of one that several supervisors have told of: each of them counts from 1.
fn stop(up: &mut Up) {
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}

fn log(case: &Case, worker: &str) -> Vec<String> {
    let text = fs::read_to_string(case.dir.path().join(format!("state/logs/{worker}/1.stdout"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The log has every line from the first on, and those that the writer has told of by now.
#[track_caller]
fn assert_gapless(case: &Case, worker: &str, told: &str) {
    let count = case.told(told).len();
    wait_until("the last line is in the log", || (log(case, worker).len() >= count).then_some(()));
    for (i, line) in log(case, worker).iter().enumerate() {
        assert_eq!(*line, format!("tick {}", i + 1));
    }
}

#[test]
fn processes_output_and_the_keeper_stay_what_they_are_and_a_new_supervisor_goes_on() {
    let case = Case::new();
    let (ready, ticks) = (case.file("ready"), case.file("ticks"));
    let names: Vec<String> = (0..18).map(|i| format!("w{i}")).collect();
    let mut workers: String = names.iter().map(|name| worker(name, &["/bin/sleep", "1000"], &[])).collect();
    workers += &misbehaving("coded", &["on-term", "0", "7", &ready], &[]);
    workers += &misbehaving("writer", &["tick", &ticks], &[]);
    let mut up = Up::start(&case, &workers);
    let mains: Vec<Process> = names.iter().map(|name| up.started(name, 1)).collect();
    let (coded, writer) = (up.started("coded", 1), up.started("writer", 1));
    wait_until("they are ready", || case.told("ready").first().and(case.told("ticks").first().cloned()));
    let (keeper, logger, old) = (case.role("keeper"), case.role("logger"), case.role("supervisor"));

    let asked = case.pinfold("reexec").spawn().unwrap();
    old.wait_gone("the old supervisor");
    // While nobody decides.
    coded.signal(Signal::TERM);
    assert!({ asked }.wait().unwrap().success());

    assert_eq!(case.role("keeper").pid, keeper.pid);
    assert_eq!(case.role("logger").pid, logger.pid);
    assert!(keeper.alive() && logger.alive());
    let health = health(&case);
    assert_ne!(health["pid"], json!(old.pid));
    let previous = format!("the binary was replaced by version {}", env!("CARGO_PKG_VERSION"));
    assert_eq!((&health["reexecs"], &health["previous"]), (&json!(1), &json!(previous)));
    let says = format!("started again: {previous}");
    up.wait_for(&says, |e| matches!(&e.kind, EventKind::Supervisor { what } if *what == says));
    assert_eq!(up.exited("coded", 1), ExitCause::Exited { code: 7 });
    let after = case.told("ticks").len();
    wait_until("it goes on writing", || (case.told("ticks").len() > after + 5).then_some(()));
    assert_gapless(&case, "writer", "ticks");
    for (main, name) in mains.iter().zip(&names) {
        assert!(main.alive(), "{name}");
        assert_eq!(starts(&up, name), 1, "{name} was not started again");
    }

    // What holds the output together while there is no logger went along.
    logger.signal(Signal::KILL);
    let before = case.told("ticks").len();
    wait_until("it goes on writing", || (case.told("ticks").len() > before + 5).then_some(()));
    assert_gapless(&case, "writer", "ticks");
    mains[0].signal(Signal::KILL);
    assert_eq!(up.exited("w0", 1), ExitCause::KilledExternal);
    case.ask("stop", &["w1"]);
    assert_eq!(up.exited("w1", 1), ExitCause::Killed { by: KilledBy::Stop, policy: None });
    assert!(writer.alive());
    stop(&mut up);
    assert_eq!(exits(&up, "coded").len(), 1);
}

#[test]
fn over_many_in_a_row_every_exit_status_is_told_once_and_exactly() {
    let case = Case::new();
    let rounds = (50 / slowness()).max(10);
    let names: Vec<String> = (0..6).map(|i| format!("busy{i}")).collect();
    let life = |name: &String| {
        let told = case.file(name);
        let script = format!(
            "run=$(sed -n 's/^0::.*\\.//p' /proc/self/cgroup); code=$(od -An -N1 -tu1 /dev/urandom); \
             sleep 0.0$((code % 7)); echo $run $code >> {told}; exit $code"
        );
        worker(name, &["/bin/sh", "-c", &script], &[ALWAYS_AT_ONCE])
    };
    let mut up = Up::start(&case, &names.iter().map(life).collect::<String>());
    for name in &names {
        up.exited(name, 2);
    }
    let keeper = case.role("keeper");
    for _ in 0..rounds {
        case.ask("reexec", &[]);
    }
    assert_eq!(health(&case)["reexecs"], json!(rounds));
    for name in &names {
        let last = case.told(name).len();
        wait_until("it goes on", || (case.told(name).len() > last + 3).then_some(()));
    }
    assert!(keeper.alive());
    stop(&mut up);
    for name in &names {
        let mut told = BTreeMap::new();
        for (run, cause) in exits(&up, name) {
            let before = told.insert(run, cause.clone());
            assert_eq!(before, None, "{name}.{run} ended twice, then as {cause:?}");
        }
        let planned: Vec<(u32, i32)> = case
            .told(name)
            .iter()
            .map(|line| {
                let mut words = line.split_whitespace().map(|word| word.parse::<i32>().unwrap());
                (words.next().unwrap().unsigned_abs(), words.next().unwrap())
            })
            .collect();
        assert!(planned.len() > 20, "{name}: {} runs", planned.len());
        // The last one can have been stopped.
        for (run, code) in &planned[..planned.len() - 1] {
            assert_eq!(told.get(run), Some(&ExitCause::Exited { code: *code }), "{name}.{run}");
        }
        let numbers: Vec<u32> = planned.iter().map(|(run, _)| *run).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{name}: no number is used twice: {numbers:?}");
        assert!(
            told.keys().all(|run| numbers.contains(run) || *run > numbers[numbers.len() - 1]),
            "{name}: ends of runs that never ran"
        );
    }
}

#[test]
fn what_a_person_has_stopped_and_what_has_ended_well_stay_so() {
    let case = Case::new();
    let on_failure = "restart: {policy: on-failure}";
    let workers = worker("stopped", &["/bin/sleep", "1000"], &[]) + &worker("done", &["/bin/true"], &[on_failure]);
    let mut up = Up::start(&case, &workers);
    up.started("stopped", 1);
    assert_eq!(up.exited("done", 1), ExitCause::Exited { code: 0 });
    case.ask("stop", &["stopped"]);
    case.ask("reexec", &[]);
    let mut door = Door::open(&case.socket());
    for (name, detail) in [("stopped", "stopped"), ("done", "done")] {
        let now = door.get(&format!("/v1/workers/{name}")).body;
        assert_eq!((&now["detail"], &now["run"]), (&json!(detail), &json!(1)), "{now}");
    }
    stop(&mut up);
    assert_eq!((starts(&up, "stopped"), exits(&up, "stopped").len()), (1, 1));
    assert_eq!(exits(&up, "done").len(), 1);
}

fn refused(ran: &Ran, why: &str) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(why), "{why}: {ran:?}");
}

#[test]
fn what_is_no_binary_of_ours_is_refused_with_a_sentence_and_nothing_changes() {
    let case = Case::new();
    let own = Own::new(&case);
    let mut up = own.up(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    let main = up.started("held", 1);
    let (keeper, supervisor) = (case.role("keeper"), case.role("supervisor"));
    let reexec = || finish(&mut case.pinfold("reexec"));
    wait_until("it answers", || case.socket().exists().then_some(()));

    own.replace_by("/etc/hostname".as_ref());
    refused(&reexec(), "cannot be executed");
    own.replace_by("/bin/true".as_ref());
    refused(&reexec(), "does not say what it takes over from");
    let script = case.executable("other", "#!/bin/sh\necho '{\"version\":\"9.9.9\",\"takes_over\":[7]}'\n");
    own.replace_by(script.as_ref());
    refused(&reexec(), "does not say what it takes over from");
    fs::remove_file(&own.path).unwrap();
    refused(&reexec(), "cannot be opened");
    up.signal(Signal::USR2);
    let says = "the binary is not replaced: ";
    up.wait_for(
        "the same by a signal",
        |e| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with(says)),
    );

    own.replace_by(PINFOLD.as_ref());
    let applied = case.dir.path().join("state/applied.json");
    let text = fs::read_to_string(&applied).unwrap();
    fs::write(&applied, text.replace("command", "kommand")).unwrap();
    let ran = reexec();
    refused(&ran, "does not read the configuration in force");
    assert!(ran.stderr.contains("kommand"), "{ran:?}");
    fs::write(&applied, text).unwrap();

    assert!(keeper.alive() && supervisor.alive() && main.alive());
    assert_eq!(case.role("supervisor").pid, supervisor.pid);
    up.stop();
}

#[test]
fn a_fresh_file_in_its_place_is_what_runs_afterwards_by_command_and_by_signal() {
    let case = Case::new();
    let own = Own::new(&case);
    let mut up = own.up(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    let main = up.started("held", 1);
    wait_until("it answers", || case.socket().exists().then_some(()));
    let keeper = case.role("keeper");
    let first = own.inode();
    assert_eq!(executed_by(&keeper), first);

    own.replace_by(PINFOLD.as_ref());
    assert_ne!(own.inode(), first);
    let said = case.ask("reexec", &["-o", "json"]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&said["binary"], &said["reexecs"]), (&json!(own.path), &json!(1)));
    assert_eq!(executed_by(&keeper), own.inode());
    assert_eq!(executed_by(&case.role("supervisor")), own.inode());

    own.replace_by(PINFOLD.as_ref());
    let old = case.role("supervisor");
    up.signal(Signal::USR2);
    assert_eq!(next_supervisor(&case, &old)["reexecs"], json!(2));
    assert_eq!(executed_by(&keeper), own.inode());
    assert!(main.alive());
    assert_eq!(starts(&up, "held"), 1);
    stop(&mut up);
}

#[test]
fn a_supervisor_that_is_killed_over_it_is_followed_by_a_new_or_an_old_one_and_the_workers_stay() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("coded", &["on-term", "0", "7", &told], &[]));
    let main = up.started("coded", 1);
    wait_until("it is ready", || case.told("told").first().cloned());
    let keeper = case.role("keeper");
    let mut reexecs = 0;
    for round in 0..10 {
        wait_until("it answers", || case.socket().exists().then_some(()));
        let old = case.role("supervisor");
        let answer = Door::open(&case.socket()).post("/v1/reexec", &json!({}));
        assert_eq!(answer.status, 200, "{answer:?}");
        if round % 2 == 1 {
            // Now or never: what follows is the word to the keeper. On a busy machine the next one can be there already.
            wait_until("nobody is let in", || (!case.socket().exists() || !old.alive()).then_some(()));
        }
        old.signal_if_there(Signal::KILL);
        let now = next_supervisor(&case, &old)["reexecs"].as_u64().unwrap();
        assert!(now == reexecs || now == reexecs + 1, "{now} after {reexecs}");
        reexecs = now;
    }
    assert!(keeper.alive() && main.alive());
    assert_eq!(starts(&up, "coded"), 1);
    main.signal(Signal::TERM);
    assert_eq!(up.exited("coded", 1), ExitCause::Exited { code: 7 });
    stop(&mut up);
}

#[test]
fn an_end_that_is_asked_for_meanwhile_is_brought_about_by_whoever_follows() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    let main = up.started("held", 1);
    wait_until("it answers", || case.socket().exists().then_some(()));
    assert_eq!(Door::open(&case.socket()).post("/v1/reexec", &json!({})).status, 200);
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
    assert!(!main.alive());
    assert_eq!(exits(&up, "held"), [(1, ExitCause::Killed { by: KilledBy::Shutdown, policy: None })]);
}

#[test]
fn a_reload_under_way_is_left_to_whoever_follows_and_told_so() {
    let case = Case::new();
    let told = case.file("told");
    let slow = misbehaving("slow", &["on-term", "60000", "0", &told], &["stop: {timeout: 60s}"]);
    let sleeper = |id, time| worker(id, &["/bin/sleep", time], &[]);
    let mut up = Up::start(&case, &(slow + &sleeper("changed", "1000") + &sleeper("off", "1000")));
    let [slow, changed, off] = ["slow", "changed", "off"].map(|name| up.started(name, 1));
    wait_until("it listens for SIGTERM", || case.told("told").first().cloned());
    let old = case.role("supervisor");
    case.config(&(sleeper("changed", "2000") + &sleeper("off", "1000") + "    enabled: false\n"));
    let reload = std::thread::scope(|scope| {
        let reload = scope.spawn(|| finish(&mut case.pinfold("reload")));
        up.state("slow", State::Stopping, "term");
        assert_eq!(Door::open(&case.socket()).post("/v1/reexec", &json!({})).status, 200);
        reload.join().unwrap()
    });
    assert_eq!(reload.code, Some(1), "{reload:?}");
    assert!(reload.stderr.contains("remove slow: left to the supervisor that takes over"), "{reload:?}");
    assert!(reload.stderr.contains("stop off: another supervisor takes over, which lets it run"), "{reload:?}");
    assert!(reload.stdout.contains("LEFT"), "{reload:?}");
    next_supervisor(&case, &old);
    // It does the rest: the stop goes on that had begun, and what was to be restarted is.
    assert!(slow.alive());
    slow.signal(Signal::KILL);
    changed.wait_gone("what ran before");
    up.started("changed", 2);
    assert!(off.alive(), "as was said");
    stop(&mut up);
}

#[test]
fn what_was_adopted_from_an_earlier_keeper_goes_along() {
    let case = Case::new();
    let told = case.file("told");
    let mut first = Up::start(&case, &misbehaving("coded", &["on-term", "0", "7", &told], &[]));
    let main = first.started("coded", 1);
    wait_until("it is ready", || case.told("told").first().cloned());
    let supervisor = case.role("supervisor");
    first.signal(Signal::KILL);
    first.reap_killed();
    supervisor.wait_gone("the supervisor without its keeper");

    let mut second = Up::again(&case);
    let says = "re-attached 1 runs";
    second.wait_for(says, |e| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with(says)));
    wait_until("it answers", || case.socket().exists().then_some(()));
    case.ask("reexec", &[]);
    second.wait_for("it is taken over again", |e| {
        is(e, "coded") && matches!(&e.kind, EventKind::Reconciled { what } if what.contains(&main.pid.to_string()))
    });
    assert!(main.alive());
    main.signal(Signal::TERM);
    let cause = second.exited("coded", 1);
    // Init may have reaped it before anybody looked, on a kernel that forgets then (before Linux 6.15).
    let unseen = ExitCause::Unknown { why: pinfold::model::UnknownWhy::SupervisorAway };
    assert!([ExitCause::Exited { code: 7 }, unseen].contains(&cause), "{cause:?}");
    stop(&mut second);
    assert_eq!(exits(&second, "coded").len(), 1);
    assert_eq!(starts(&second, "coded"), 0);
}

#[test]
fn nobody_but_an_admin_replaces_the_binary() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    up.started("held", 1);
    wait_until("it answers", || case.socket().exists().then_some(()));
    // As a member of the socket's group is let in.
    fs::set_permissions(case.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for dir in [case.dir.path().to_owned(), case.dir.path().join("run")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let own = Own::new(&case);
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&own.path).arg("reexec");
    let ran = finish(command.arg("--socket").arg(case.socket()).current_dir("/"));
    assert!(ran.stderr.contains("only root and the supervisor's own user"), "{ran:?}");
    assert_eq!(health(&case)["reexecs"], json!(0));
    up.stop();
}
