//! Launch, keeper and logger on the real kernel: placement, set-up, failures, survival.
//!
//! No controller is needed, so this runs natively on any host with a cgroup v2 mount, as root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helper fails as its test does")]

mod reexec;
mod support;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::launch::plan::{Ids, LaunchPlan, Rlimit};
use pinfold::kernel::launch::{Method, Progress, selftest, spawn};
use pinfold::kernel::pidfd::{self, Whom};
use pinfold::model::{ExitStatus, RunId, Stage, Way};
use serde_bytes::ByteBuf;
use support::{Bed, MISBEHAVE, TESTBED, Tree, plan, run, wait_for};

/// `report-self` as the child wrote it.
fn report(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).filter(|(key, _)| *key != "env").collect()
}

fn launched(message: FromKeeper) -> (RunId, i32) {
    match message {
        FromKeeper::Launched { run, pid, .. } => (run, pid),
        other => panic!("not launched: {other:?}"),
    }
}

#[test]
fn two_hundred_children_find_themselves_where_and_as_they_should_be() {
    for method in ["into-cgroup", "move"] {
        let bed = Bed::start(method);
        let (mut fake, ..) = bed.greeted();
        let runs: Vec<_> = (1..=200).map(|n| run("self", n)).collect();
        for run in &runs {
            let mut plan = plan(run, &[MISBEHAVE, "report-self"]);
            plan.nice = Some(3);
            plan.oom_score_adj = 77;
            plan.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 100, hard: 200 }];
            plan.working_directory = ByteBuf::from("/usr");
            plan.ids = Some(Ids { uid: 4711, gid: 4712, groups: vec![4712, 4713] });
            bed.launch(&fake, &plan);
        }
        let (mut started, mut ended) = (0, 0);
        while started < runs.len() || ended < runs.len() {
            match fake.next() {
                (FromKeeper::Launched { .. }, fds) => started += fds.len(),
                (FromKeeper::Exited { run, status, .. }, _) => {
                    assert_eq!(status, Some(ExitStatus::Exited { code: 0 }), "{run}");
                    fake.send(&ToKeeper::Ack { run }, &[]);
                    ended += 1;
                }
                (other, _) => panic!("{other:?}"),
            }
        }
        for run in &runs {
            let path = bed.logs(run).stdout;
            let text = wait_for("the report", || {
                std::fs::read_to_string(&path).ok().filter(|text| text.contains("env ONLY=this"))
            });
            let report = report(&text);
            let cgroup = format!("{}/{run}", bed.tree.root.file_name().unwrap().to_str().unwrap());
            assert!(report["cgroup"].ends_with(&cgroup), "{}", report["cgroup"]);
            for (fact, value) in [
                ("fds", "0 1 2"),
                ("stdin", "/dev/null"),
                ("SigBlk", "0000000000000000"),
                // Rust's runtime, in the reporter itself, ignores SIGPIPE (13).
                ("SigIgn", "0000000000001000"),
                ("Uid", "4711 4711 4711 4711"),
                ("Gid", "4712 4712 4712 4712"),
                ("Groups", "4712 4713"),
                ("Umask", "0027"),
                ("CapInh", "0000000000000000"),
                ("CapAmb", "0000000000000000"),
                ("CapEff", "0000000000000000"),
                ("session", "own"),
                ("group", "own"),
                ("cwd", "/usr"),
                ("nice", "3"),
                ("oom_score_adj", "77"),
                ("nofile", "Some(100) Some(200)"),
            ] {
                assert_eq!(report[fact], value, "{fact} of {run} by {method}\n{text}");
            }
            let env: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("env ")).collect();
            assert_eq!(env, ["PATH=/usr/bin:/bin", "ONLY=this"]);
        }
        assert_eq!(fake.list(), [], "all were acknowledged");
        assert_eq!(bed.leave(fake, 0), 0);
    }
}

#[test]
fn a_worker_without_limits_of_its_own_gets_the_descriptor_limit_from_before_the_keeper_raised_it() {
    let bed = Bed::start("into-cgroup");
    let (fake, ..) = bed.greeted();
    let run = run("nofile", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "report-self"]));
    let path = bed.logs(&run).stdout;
    let text = wait_for("the report", || std::fs::read_to_string(&path).ok().filter(|t| t.contains("env ONLY")));
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(report(&text)["nofile"], format!("{:?} {:?}", ours.current, ours.maximum));
}

/// What a plan's failure says, by either method, and that it can be said within 50 ms: the best of a few tries, because
/// other tests run beside this one.
fn failure(tree: &Tree, number: &mut u32, change: &dyn Fn(&mut LaunchPlan)) -> String {
    let mut texts = Vec::new();
    for method in [Method::IntoCgroup, Method::Move] {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            *number += 1;
            let (took, text) = fail_once(tree, *number, change, method);
            texts.push(text);
            best = best.min(took);
            if best < Duration::from_millis(50) {
                break;
            }
        }
        assert!(best < Duration::from_millis(50), "{best:?}");
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "every try says the same: {texts:?}");
    texts.remove(0)
}

fn fail_once(tree: &Tree, number: u32, change: &dyn Fn(&mut LaunchPlan), method: Method) -> (Duration, String) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let run = run("fails", number);
    let cgroup = tree.make(&run.to_string());
    let mut plan = plan(&run, &["/bin/true"]);
    change(&mut plan);
    let begin = monotonic();
    match spawn(&plan, cgroup.as_fd(), [null.as_fd(); 3], method) {
        Err(e) => (monotonic().since(begin), e.to_string()),
        Ok(mut child) => {
            let progress = child.confirm.wait();
            let took = monotonic().since(begin);
            pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
            let Progress::Failed(e) = progress else { panic!("{progress:?}") };
            (took, e.to_string())
        }
    }
}

#[test]
fn every_failure_names_step_object_and_reason_within_50_ms() {
    let tree = Tree::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, mode: u32, text: &[u8]| {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        path(name)
    };
    let bytes = |text: &str| ByteBuf::from(text.to_owned());
    let ids = |uid| Some(Ids { uid, gid: 4711, groups: vec![4711] });

    let plain = file("plain", 0o644, b"#!/bin/sh\n");
    let script = file("script", 0o755, b"#!/bin/nosuch -e\necho\n");
    let windows = file("windows", 0o755, b"#!/bin/sh\r\necho\r\n");
    let forbidden_interpreter = file("forbidden", 0o755, format!("#!{plain}\n").as_bytes());
    let formless = file("formless", 0o755, b"echo\n");
    let mut program = std::fs::read("/bin/true").unwrap();
    let loader = program.windows(5).position(|w| w == b"/lib6" || w == b"/lib/").expect("a dynamic program");
    program[loader + 1..loader + 4].copy_from_slice(b"bil");
    let loaderless = file("loaderless", 0o755, &program);
    let busy = file("busy", 0o755, b"\x7fELF");
    let _writer = std::fs::OpenOptions::new().write(true).open(&busy).unwrap();
    let secret = path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o700)).unwrap();
    let directory = path("");
    let directory = directory.trim_end_matches('/');

    let mut number = 0;
    let mut fails = |change: &dyn Fn(&mut LaunchPlan)| failure(&tree, &mut number, change);
    let mut exec = |file: &str| fails(&|p| p.candidates = vec![bytes(file)]);
    assert_eq!(exec("/bin/nosuch"), "exec /bin/nosuch: No such file or directory");
    assert_eq!(exec(&plain), format!("exec {plain}: Permission denied"));
    assert_eq!(exec(&script), format!("exec {script}: interpreter /bin/nosuch: No such file or directory"));
    assert_eq!(exec(&windows), format!("exec {windows}: interpreter /bin/sh\\r: No such file or directory"));
    assert_eq!(
        exec(&forbidden_interpreter),
        format!("exec {forbidden_interpreter}: interpreter {plain}: Permission denied")
    );
    assert_eq!(
        exec(&formless),
        format!("exec {formless} (neither a program nor a script with a #! line): Exec format error")
    );
    let text = exec(&loaderless);
    assert!(text.starts_with(&format!("exec {loaderless}: dynamic loader /bil")), "{text}");
    assert!(text.ends_with(": No such file or directory"), "{text}");
    assert_eq!(exec(&busy), format!("exec {busy}: Text file busy"));
    assert_eq!(exec(directory), format!("exec {directory} (a directory): Permission denied"));
    assert_eq!(exec(&format!("{plain}/x")), format!("exec {plain}/x: Not a directory"));

    let search = |p: &mut LaunchPlan, dirs: &[&str], name: &str| {
        p.argv = vec![bytes(name)];
        p.candidates = dirs.iter().map(|dir| bytes(&format!("{dir}/{name}"))).collect();
    };
    assert_eq!(
        fails(&|p| search(p, &["/bin", "/usr/bin"], "frobnicate")),
        "exec frobnicate (not found in PATH=/bin:/usr/bin): No such file or directory"
    );
    assert_eq!(
        fails(&|p| search(p, &["/nosuch", directory, "/bin"], "plain")),
        format!("exec {plain}: Permission denied"),
        "a forbidden file is remembered, not hidden by a missing one behind it"
    );
    assert_eq!(
        fails(&|p| search(p, &["/nosuch", directory], "script")),
        format!("exec {script}: interpreter /bin/nosuch: No such file or directory")
    );
    assert_eq!(fails(&|p| search(p, &[], "true")), "exec true (PATH is empty): No such file or directory");
    assert_eq!(fails(&|p| p.argv.push(bytes("a\0b"))), "exec: a NUL byte in an argument");
    assert_eq!(
        fails(&|p| p.env = vec![bytes(&"x".repeat(200_000))]),
        "exec /bin/true (200011 bytes of arguments and environment): Argument list too long"
    );

    assert_eq!(fails(&|p| p.working_directory = bytes("/nosuch")), "chdir /nosuch: No such file or directory");
    assert_eq!(
        fails(&|p| (p.working_directory, p.ids) = (bytes(&secret), ids(4711))),
        format!("chdir {secret}: Permission denied"),
        "entered as the worker's user"
    );
    let limit = |p: &mut LaunchPlan| {
        p.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 1 << 40, hard: 1 << 40 }];
    };
    assert_eq!(fails(&limit), "rlimit RLIMIT_NOFILE=1099511627776: Operation not permitted");
    assert_eq!(
        fails(&|p| p.rlimits = vec![Rlimit { resource: 99, soft: 7, hard: 7 }]),
        "rlimit 99=7: Invalid argument"
    );
    assert_eq!(fails(&|p| p.oom_score_adj = 1001), "oom_score_adj 1001: Invalid argument");
    assert_eq!(fails(&|p| p.ids = ids(u32::MAX)), "uid: 4294967295 was not taken on although the kernel said so");
    assert_eq!(
        fails(&|p| p.ids = Some(Ids { uid: 1, gid: 1, groups: vec![u32::MAX] })),
        "groups 4294967295: Invalid argument"
    );
    // The directory is not where the plan says.
    assert_eq!(
        fails(&|p| p.cgroup_name = "elsewhere.1".into()),
        "membership: the child is not in elsewhere.1 although the kernel reported success"
    );
    // A terminal's own group, without a terminal.
    if std::fs::File::open("/dev/tty").is_err() {
        let foreground = pinfold::kernel::launch::plan::Session::Foreground;
        assert_eq!(fails(&|p| p.session = foreground), "session: No such device or address");
    }
}

#[test]
fn nothing_is_started_in_a_frozen_or_removed_cgroup() {
    let tree = Tree::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let run = run("frozen", 1);
    let cgroup = tree.make("frozen.1");
    tree.write("frozen.1/cgroup.freeze", "1");
    let refused = |expected: &str| {
        let err = spawn(&plan(&run, &["/bin/true"]), cgroup.as_fd(), [null.as_fd(); 3], Method::IntoCgroup);
        assert_eq!(err.unwrap_err().to_string(), expected);
    };
    refused("cgroup: frozen.1 is frozen: nothing can start in it before it is thawed");
    tree.write("frozen.1/cgroup.freeze", "0");
    tree.write("cgroup.freeze", "1");
    refused("cgroup: frozen.1 is frozen: nothing can start in it before it is thawed");
    tree.write("cgroup.freeze", "0");
    std::fs::remove_dir(tree.root.join("frozen.1")).unwrap();
    refused("cgroup frozen.1/cgroup.events: No such file or directory");
}

#[test]
fn every_exit_code_and_every_deadly_signal_is_told_and_kept_until_acknowledged() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let signals = (1..=64).filter(|s| !harmless.contains(s) && !stops.contains(s));
    let mut expected = BTreeMap::new();
    for code in 0..=255u8 {
        let run = run("exit", u32::from(code) + 1);
        bed.launch(&fake, &plan(&run, &[MISBEHAVE, "exit", &code.to_string()]));
        expected.insert(run, i32::from(code));
    }
    for signal in signals {
        let run = run("signal", u32::try_from(signal).unwrap());
        // A program that leaves every disposition as it finds it.
        bed.launch(&fake, &plan(&run, &["/bin/sleep", "1000"]));
        expected.insert(run, -signal);
    }
    let told = |status: ExitStatus| match status {
        ExitStatus::Exited { code } => code,
        ExitStatus::Signaled { signal, .. } => -signal,
    };
    let mut seen = BTreeMap::new();
    while seen.len() < expected.len() {
        match fake.next().0 {
            FromKeeper::Launched { run, .. } if run.worker.as_str() == "signal" => {
                let signal = i32::try_from(run.number).unwrap();
                fake.send(&ToKeeper::Signal { run, signal }, &[]);
            }
            FromKeeper::Launched { .. } => {}
            FromKeeper::Exited { run, status: Some(status), .. } => _ = seen.insert(run, told(status)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, expected);
    let listed = |all: Vec<FromKeeper>| -> BTreeMap<RunId, i32> {
        let each = all.into_iter().map(|message| match message {
            FromKeeper::Exited { run, status: Some(status), .. } => (run, told(status)),
            other => panic!("{other:?}"),
        });
        each.collect()
    };
    assert_eq!(listed(fake.list()), expected, "kept");
    for n in 1..=256 {
        fake.send(&ToKeeper::Ack { run: run("exit", n) }, &[]);
    }
    expected.retain(|run, _| run.worker.as_str() == "signal");
    assert_eq!(listed(fake.list()), expected, "forgotten only once acknowledged");
}

#[test]
fn a_failed_launch_is_told_through_the_keeper_and_forgotten() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("missing", 1);
    bed.launch(&fake, &plan(&run, &["/bin/nosuch"]));
    let (FromKeeper::Failed { run: failed, error }, _) = fake.next() else { panic!() };
    assert_eq!((failed, error.stage), (run, Stage::Exec));
    assert_eq!(error.to_string(), "exec /bin/nosuch: No such file or directory");
    assert_eq!(fake.list(), []);
    assert_eq!(bed.tree.pids("missing.1"), [0; 0], "its child is gone");
}

#[test]
fn a_run_is_not_launched_twice_and_a_request_without_its_descriptors_is_refused() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("once", 1);
    let cgroup = bed.tree.make("once.1");
    bed.launch_in(&fake, &plan(&run, &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    let (_, pid) = launched(fake.next().0);
    bed.launch_in(&fake, &plan(&run, &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    let (FromKeeper::Failed { error, .. }, _) = fake.next() else { panic!() };
    assert_eq!(error.to_string(), "keeper: the launch of once.1 was refused: it is known already");
    assert_eq!(bed.tree.pids("once.1"), [pid]);
    let other = support::run("once", 2);
    let logs = bed.logs(&other);
    fake.send(&ToKeeper::Launch { run: other, logs, way: Way::Usual }, &[cgroup.as_fd()]);
    let (FromKeeper::Failed { error, .. }, _) = fake.next() else { panic!() };
    assert_eq!(
        error.to_string(),
        "keeper: the launch of once.2 was refused: 1 descriptors beside a message that has 2"
    );
}

#[test]
fn the_self_test_leaves_nothing_behind_and_says_which_way_works() {
    let tree = Tree::new();
    let begin = monotonic();
    let found = selftest::run(&tree.root).unwrap();
    println!("{found:?} in {:?}", monotonic().since(begin));
    assert_eq!(found.into_cgroup, Ok(()));
    assert_eq!(found.method, Method::IntoCgroup);
    assert_eq!(found.after_target_kill.is_ok(), found.after_own_kill.is_ok(), "one bug, two faces: {found:?}");
    assert!(std::fs::read_dir(&tree.root).unwrap().flatten().all(|e| !e.path().is_dir()));
}

#[test]
fn a_child_killed_at_birth_is_told_and_not_made_again() {
    let tree = Tree::new();
    let has_the_bug = selftest::run(&tree.root).unwrap().after_target_kill.is_err();
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let cgroup = bed.tree.make("lost.1");
    bed.tree.write("lost.1/cgroup.kill", "1");
    bed.launch_in(&fake, &plan(&run("lost", 1), &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    match fake.next().0 {
        FromKeeper::Failed { error, .. } if has_the_bug => assert!(error.is_spawn_fault(), "{error}"),
        FromKeeper::Launched { .. } if !has_the_bug => {}
        other => panic!("with the bug {has_the_bug}: {other:?}"),
    }
    assert_eq!(bed.tree.pids("lost.1").is_empty(), has_the_bug);
    assert_eq!(bed.said(), "");
}

#[test]
fn the_other_way_is_gone_where_it_is_asked_for_and_kept_once_a_program_runs() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let cgroup = bed.tree.make("typo.1");
    bed.launch_by(Way::Other, &fake, &plan(&run("typo", 1), &["/nonexistent"]), cgroup.as_fd());
    assert!(matches!(fake.next().0, FromKeeper::Failed { .. }));
    assert_eq!(bed.said(), "", "nothing runs yet");
    let cgroup = bed.tree.make("reborn.1");
    bed.launch_by(Way::Other, &fake, &plan(&run("reborn", 1), &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    let (_, pid) = launched(fake.next().0);
    assert_eq!(bed.tree.pids("reborn.1"), [pid]);
    assert!(bed.said().contains("launching by Move from now on"), "{}", bed.said());
}

#[test]
fn a_launch_that_was_under_way_by_the_old_way_does_not_bring_it_back() {
    let bed = Bed::start("move");
    let (mut fake, ..) = bed.greeted();
    // Moving waits in the kernel, so the last is through first.
    let all = [("slow", Way::Usual), ("slower", Way::Usual), ("slowest", Way::Usual), ("fast", Way::Other)];
    for (name, way) in all {
        let cgroup = bed.tree.make(&format!("{name}.1"));
        bed.launch_by(way, &fake, &plan(&run(name, 1), &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    }
    for _ in all {
        launched(fake.next().0);
    }
    let said = bed.said();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("launching by IntoCgroup from now on"), "{said}");
}

#[test]
fn a_killed_supervisor_is_replaced_and_finds_everything_as_it_was() {
    let mut bed = Bed::start("into-cgroup");
    let (mut first, restarts, previous) = bed.greeted();
    assert_eq!((restarts, previous), (0, None));
    assert_eq!(bed.tree.pids("supervisor"), [first.pid]);
    for (name, argv) in [("alive", vec![MISBEHAVE, "sleep"]), ("dead", vec![MISBEHAVE, "exit", "7"])] {
        bed.launch(&first, &plan(&run(name, 1), &argv));
    }
    let mut pids = BTreeMap::new();
    let mut exited = false;
    while pids.len() < 2 || !exited {
        match first.next().0 {
            FromKeeper::Launched { run, pid, .. } => _ = pids.insert(run.to_string(), pid),
            FromKeeper::Exited { .. } => exited = true,
            other => panic!("{other:?}"),
        }
    }
    first.signal_self(libc::SIGKILL);
    drop(first);

    let (mut second, restarts, previous) = bed.greeted();
    assert_eq!((restarts, previous.as_deref()), (1, Some("ended by signal 9")));
    second.send(&ToKeeper::List, &[]);
    let mut listed = BTreeMap::new();
    loop {
        match second.next() {
            (FromKeeper::Launched { run, pid, .. }, fds) => {
                assert_eq!(pid, pids[&run.to_string()]);
                assert_eq!(pidfd::peek(Whom::PidFd(fds[0].as_fd())).unwrap_err().raw_os_error(), Some(libc::ECHILD));
                pidfd::signal(fds[0].as_fd(), libc::SIGTERM).unwrap();
                listed.insert(run.to_string(), None);
            }
            (FromKeeper::Exited { run, status, .. }, _) => _ = listed.insert(run.to_string(), status),
            (FromKeeper::Listed, _) => break,
            (other, _) => panic!("{other:?}"),
        }
    }
    let expected = [("alive.1", None), ("dead.1", Some(ExitStatus::Exited { code: 7 }))];
    assert_eq!(listed, expected.map(|(name, status)| (name.to_owned(), status)).into());
    let (FromKeeper::Exited { run, status: Some(status), .. }, _) = second.next() else { panic!() };
    assert_eq!((run.to_string().as_str(), status), ("alive.1", ExitStatus::Signaled { signal: 15, core: false }));
    second.exit(5);
    drop(second);
    assert_eq!(bed.keeper.wait().unwrap().code(), Some(5), "a supervisor that exits takes the keeper along");
}

#[test]
fn a_launch_in_flight_is_in_the_list_of_the_next_supervisor_before_it_is_decided() {
    let bed = Bed::start("into-cgroup");
    let (first, ..) = bed.greeted();
    let run = run("flying", 1);
    let mut plan = plan(&run, &[MISBEHAVE, "sleep"]);
    // An exec that takes its time: the right file is the last that is tried.
    let tries = 1_500_000;
    plan.candidates = std::iter::repeat_n(ByteBuf::from("/-"), tries).chain([ByteBuf::from(MISBEHAVE)]).collect();
    bed.launch(&first, &plan);
    first.signal_self(libc::SIGKILL);
    drop(first);
    let (mut second, ..) = bed.greeted();
    assert_eq!(second.list(), [FromKeeper::Launching { run: run.clone() }]);
    assert_eq!(launched(second.next().0).0, run);
}

#[test]
fn results_of_launches_that_nobody_waited_for_are_told_to_the_next() {
    let bed = Bed::start("into-cgroup");
    let (first, ..) = bed.greeted();
    // Dead before it can be told: the requests are read all the same, after its death.
    first.signal_self(libc::SIGSTOP);
    bed.launch(&first, &plan(&run("good", 1), &[MISBEHAVE, "sleep"]));
    bed.launch(&first, &plan(&run("bad", 1), &["/bin/nosuch"]));
    first.signal_self(libc::SIGKILL);
    drop(first);
    let (mut second, ..) = bed.greeted();
    let mut told: Vec<_> = second.list();
    // Those still in flight are told when they are decided; of those told to the first, the failed one is gone.
    while !told.iter().any(|m| matches!(m, FromKeeper::Launched { run, .. } if run.to_string() == "good.1")) {
        told.push(second.next().0);
    }
}

#[test]
fn a_stopped_supervisor_is_replaced_after_two_seconds_and_one_that_goes_on_is_not() {
    let bed = Bed::start("into-cgroup");
    let (first, ..) = bed.greeted();
    first.signal_self(libc::SIGSTOP);
    first.signal_self(libc::SIGCONT);
    let begin = monotonic();
    first.signal_self(libc::SIGSTOP);
    let (mut second, restarts, previous) = bed.greeted();
    let took = monotonic().since(begin);
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(restarts, 1);
    assert_eq!(previous.as_deref(), Some("killed: it was stopped (SIGSTOP) and not continued"));
    assert!(matches!(pinfold::kernel::pidfd::open(first.pid), Err(e) if e.raw_os_error() == Some(libc::ESRCH)));
    assert_eq!(second.list(), []);
}

#[test]
fn a_silent_supervisor_is_asked_and_replaced_within_ten_seconds_of_news() {
    let bed = Bed::start("into-cgroup");
    let (first, ..) = bed.greeted();
    let begin = monotonic();
    bed.launch(&first, &plan(&run("news", 1), &[MISBEHAVE, "sleep"]));
    // It reads nothing and answers nothing.
    let (_second, _, previous) = bed.greeted();
    let took = monotonic().since(begin);
    assert!((Duration::from_secs(9)..Duration::from_secs(16)).contains(&took), "{took:?}");
    assert_eq!(previous.as_deref(), Some("killed: it did not answer"));
}

#[test]
fn signals_are_forwarded_and_a_term_is_not_lost_between_two_supervisors() {
    let bed = Bed::start("into-cgroup");
    let keeper = pidfd::open(bed.keeper_pid()).unwrap();
    let signal = |n| pidfd::signal(keeper.as_fd(), n).unwrap();
    let ungreeted = bed.supervisor();
    signal(libc::SIGTERM);
    ungreeted.signal_self(libc::SIGKILL);
    drop(ungreeted);
    let (first, ..) = bed.greeted();
    assert_eq!(first.next_signal(), libc::SIGTERM, "kept until somebody could take it");
    for n in [libc::SIGHUP, libc::SIGUSR1, libc::SIGINT] {
        signal(n);
        assert_eq!(first.next_signal(), n);
    }
    first.signal_self(libc::SIGKILL);
    drop(first);
    let (second, ..) = bed.greeted();
    assert_eq!(second.next_signal(), libc::SIGINT, "the next one goes on going down");
    assert_eq!(bed.leave(second, 3), 3);
}

#[test]
fn strangers_are_reaped_and_no_zombie_stays() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("escape", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "double-fork"]));
    launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let orphan: i32 = wait_for("the grandchild", || std::fs::read_to_string(&path).ok()?.trim().parse().ok());
    let (FromKeeper::Exited { .. }, _) = fake.next() else { panic!() };
    let parent = || {
        let stat = std::fs::read_to_string(format!("/proc/{orphan}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    wait_for("the keeper as its parent", || (parent() == Some(bed.keeper_pid())).then_some(()));
    bed.tree.write("escape.1/cgroup.kill", "1");
    wait_for("its reaping", || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()));
}

/// `0\n1\n…` without a gap, from the beginning.
fn assert_no_byte_is_missing(path: &Path, lines: u64) {
    let text = std::fs::read_to_string(path).unwrap();
    let seen = text.lines().zip(0..).take_while(|(line, n)| line.parse::<u64>() == Ok(*n)).count();
    assert_eq!((seen as u64, text.lines().count() as u64), (lines, lines), "{}", path.display());
}

#[test]
fn a_logger_killed_under_load_loses_no_byte() {
    const LINES: u64 = 2_000_000;
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let runs: Vec<_> = (1..=3).map(|n| run("loud", n)).collect();
    for run in &runs {
        bed.launch(&fake, &plan(run, &[MISBEHAVE, "count", &LINES.to_string()]));
    }
    let size = |run: &RunId| bed.logs(run).stdout.metadata().map_or(0, |m| m.len());
    let mut killed = Vec::new();
    for step in 1..=3 {
        wait_for("bytes", || (size(&runs[0]) > step * 1_000_000).then_some(()));
        let logger = bed.logger_pid();
        assert!(!killed.contains(&logger));
        let pidfd = pidfd::open(logger).unwrap();
        pidfd::signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        killed.push(logger);
        wait_for("the next logger", || bed.tree.pids("logger").first().copied().filter(|pid| *pid != logger));
    }
    let mut ended = 0;
    while ended < runs.len() {
        if let FromKeeper::Exited { status, .. } = fake.next().0 {
            assert_eq!(status, Some(ExitStatus::Exited { code: 0 }));
            ended += 1;
        }
    }
    let whole: u64 = (0..LINES).map(|n| n.to_string().len() as u64 + 1).sum();
    for run in &runs {
        wait_for("the last byte", || (size(run) >= whole).then_some(()));
        assert_no_byte_is_missing(&bed.logs(run).stdout, LINES);
    }
    assert_eq!(killed.len(), 3);
}

#[test]
fn workers_go_on_writing_without_keeper_and_supervisor_while_the_logger_lives() {
    let mut bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    let (_, pid) = launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    bed.keeper.kill().unwrap();
    bed.keeper.wait().unwrap();
    fake.signal_self(libc::SIGKILL);
    drop(fake);
    let before = lines();
    wait_for("lines after the keeper", || (lines() > before + 100).then_some(()));
    assert_eq!(bed.tree.pids("ticker.1"), [pid]);
    assert_eq!(bed.tree.pids("logger"), [logger]);
    bed.tree.write("ticker.1/cgroup.kill", "1");
    wait_for("the logger's end with its last pipe", || bed.tree.pids("logger").is_empty().then_some(()));
}

#[test]
fn the_logger_is_deaf_to_requests_to_end() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    // One that has only been started has not blocked anything yet.
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    let pidfd = pidfd::open(logger).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        pidfd::signal(pidfd.as_fd(), signal).unwrap();
    }
    let before = lines();
    wait_for("lines after the signals", || (lines() > before + 50).then_some(()));
    assert_eq!(bed.tree.pids("logger"), [logger]);
}

#[test]
fn a_stopped_logger_is_replaced_so_that_no_writer_waits_for_it() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let lines = || std::fs::read_to_string(bed.logs(&run).stdout).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    let pidfd = pidfd::open(logger).unwrap();
    pidfd::signal(pidfd.as_fd(), libc::SIGSTOP).unwrap();
    let before = lines();
    wait_for("another logger", || bed.tree.pids("logger").iter().any(|pid| *pid != logger).then_some(()));
    wait_for("lines after the stop", || (lines() > before + 50).then_some(()));
}

#[test]
fn a_logger_that_ran_before_the_keeper_is_taken_over_and_replaced_like_any_other() {
    let bed = Bed::start_with("into-cgroup", |command, _| _ = command.env("TESTBED_LOGGER", "1"));
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let lines = || std::fs::read_to_string(bed.logs(&run).stdout).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let first = bed.tree.pids("logger");
    assert_eq!(first.len(), 1, "one logger, not a second one of the keeper's");
    // Also where its leaf's kill count keeps a child from being born there.
    bed.tree.write("logger/cgroup.kill", "1");
    wait_for("the next logger", || bed.tree.pids("logger").first().copied().filter(|pid| *pid != first[0]));
    let before = lines();
    wait_for("lines by the next logger", || (lines() > before + 100).then_some(()));
    // One that was killed at birth may still be listed until it is reaped.
    wait_for("one logger again", || (bed.tree.pids("logger").len() == 1).then_some(()));
}

#[test]
fn a_supervisor_whose_own_cgroup_was_killed_is_replaced() {
    let bed = Bed::start("into-cgroup");
    for restarts in 0..3 {
        let (fake, seen, _) = bed.greeted();
        assert!(seen >= restarts, "{seen}");
        assert_eq!(bed.tree.pids("supervisor"), [fake.pid]);
        bed.tree.write("supervisor/cgroup.kill", "1");
    }
    bed.greeted();
}

/// A terminal, its controlling process (a shell's part) and a command in the foreground.
#[test]
fn a_command_on_a_terminal_gets_its_own_foreground_group() {
    use nix::pty::openpty;
    let tree = Tree::new();
    let cgroup = tree.make("shell.1");
    let terminal = openpty(None, None).unwrap();
    // setsid --ctty gives a session with this terminal; the session leader launches as `run` does.
    let mut shell = plan(&run("shell", 1), &["/usr/bin/setsid", "--ctty", "--wait", TESTBED, "foreground"]);
    shell.env.push(ByteBuf::from(format!("MISBEHAVE={MISBEHAVE}")));
    let mut child = spawn(&shell, cgroup.as_fd(), [terminal.slave.as_fd(); 3], Method::IntoCgroup).unwrap();
    assert_eq!(child.confirm.wait(), Progress::Execed);
    drop(terminal.slave);
    let mut text = String::new();
    let mut master = std::fs::File::from(terminal.master);
    while !text.contains("env ") {
        let mut buffer = [0; 4096];
        let n = std::io::Read::read(&mut master, &mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let text = text.replace('\r', "");
    let report = report(&text);
    assert_eq!((report["group"], report["session"], report["foreground"]), ("own", "another's", "own"), "{text}");
    pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
}

#[test]
fn a_full_disk_costs_counted_bytes_and_never_the_worker_its_time() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let small = bed.dir.path().join("logs");
    std::fs::create_dir(&small).unwrap();
    mount(Some("none"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    let run = run("loud", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "count", "500000"]));
    launched(fake.next().0);
    let mut told = Vec::new();
    let status = loop {
        match fake.next().0 {
            FromKeeper::Exited { status, .. } => break status,
            FromKeeper::LogDropped { why, bytes, .. } => told.push((why, bytes)),
            other => panic!("{other:?}"),
        }
    };
    let kept = wait_for("the keeper's word", || {
        let said = bed.said();
        let line = said.lines().find(|line| line.contains("bytes of stdout were dropped"))?;
        let dropped: u64 = line.split(' ').find_map(|word| word.parse().ok())?;
        Some((bed.logs(&run).stdout.metadata().unwrap().len(), dropped))
    });
    umount2(&small, MntFlags::MNT_DETACH).unwrap();
    while told.last().is_none_or(|(_, bytes)| bytes.is_none()) {
        let (FromKeeper::LogDropped { why, bytes, .. }, _) = fake.next() else { panic!() };
        told.push((why, bytes));
    }
    let no_space = |bytes| ("No space left on device (os error 28)".to_owned(), bytes);
    assert_eq!(told, [no_space(None), no_space(Some(kept.1))], "told when it began and when it was over");
    assert_eq!(status, Some(ExitStatus::Exited { code: 0 }));
    assert!(bed.said().contains("No space left on device"), "{}", bed.said());
    let whole: u64 = (0..500_000).map(|n: u32| n.to_string().len() as u64 + 1).sum();
    assert!(kept.0 > 100_000, "{kept:?}");
    assert_eq!(kept.0 + kept.1, whole, "every byte is either kept or counted");
}

#[test]
fn systemd_hears_the_supervisor_through_the_keeper_and_the_workers_never_get_its_socket() {
    let systemd = std::cell::OnceCell::new();
    let bed = Bed::start_with("into-cgroup", |command, dir| {
        let path = dir.join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        systemd.set(socket).unwrap();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "400000");
    });
    let heard = || {
        let mut buffer = [0; 200];
        let n = systemd.get().unwrap().recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    let (mut fake, ..) = bed.greeted();
    fake.send(&ToKeeper::Notify { state: "READY=1\nSTATUS=up".into() }, &[]);
    wait_for("READY", || (heard() == "READY=1\nSTATUS=up").then_some(()));
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", fake.pid)).unwrap();
    assert!(environ.contains("PATH=") && !environ.contains("NOTIFY_SOCKET") && !environ.contains("WATCHDOG"));
    let begin = monotonic();
    // `next` answers pings; what ends it here is the worker's exit, told in between.
    bed.launch(&fake, &plan(&run("second", 1), &["/bin/sleep", "1"]));
    while !matches!(fake.next().0, FromKeeper::Exited { .. }) {}
    assert_eq!(heard(), "WATCHDOG=1");
    assert!(monotonic().since(begin) >= Duration::from_secs(1));
    // Silent from now on: replaced well before systemd's limit, which goes on being served meanwhile.
    let (_second, _, previous) = bed.greeted();
    assert_eq!(previous.as_deref(), Some("killed: it did not answer"));
}

/// One thread, and at most 2 MB that the process alone costs: what it has written to, or made without a file
/// (`Private_Dirty` of `/proc/PID/smaps_rollup`, proc(5)). Pages of the binary are shared by the three roles and can be
/// dropped at any time.
#[test]
fn keeper_and_logger_have_one_thread_and_two_megabytes() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let mut started = 0;
    for n in 1..=200 {
        let mut plan = plan(&run("many", n), &[MISBEHAVE, "sleep"]);
        if n % 50 == 0 {
            // 1.5 MB of environment, in pieces that the kernel takes (MAX_ARG_STRLEN is 128 KiB).
            plan.env = (0..15).map(|i| ByteBuf::from(format!("K{i}={}", "x".repeat(100_000)))).collect();
        }
        bed.launch(&fake, &plan);
    }
    while started < 200 {
        launched(fake.next().0);
        started += 1;
    }
    for (who, pid) in [("keeper", bed.keeper_pid()), ("logger", bed.logger_pid())] {
        let field = |file: &str, key: &str| -> u64 {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        // Told before the plan's memory is given back.
        let private = wait_for("its memory", || Some(field("smaps_rollup", "Private_Dirty:")).filter(|kb| *kb <= 2048));
        println!("{who}: {private} kB private, {} kB Pss", field("smaps_rollup", "Pss:"));
        assert_eq!(field("status", "Threads:"), 1, "{who}");
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name.trim(), format!("pinfold-{who}"));
    }
}
