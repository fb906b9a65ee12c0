//! The death of the keeper, alone or with everybody else: the workers live on, and the next `up` goes on with them. What the
//! death of a supervisor alone leaves is in `lifecycle`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{fs, os::fd::AsFd, process::Command};

use pinfold::{
    kernel::{
        cgroup::{Dir, Namespace},
        note, pidfd,
        port::RunNote,
    },
    model::{Counters, Event, EventKind, ExitCause, KilledBy, RestartCounts, RunId, State, UnknownWhy, WorkerId},
    policy::breaker::Saved,
    spec::types::Spec,
};
use rustix::process::Signal;
use support::{
    Case,
    door::Door,
    misbehaving,
    process::Process,
    run::finish,
    tree,
    up::{Up, is},
    wait_until, worker,
};

const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

/// SIGKILL to the keeper; the supervisor ends by itself.
fn kill_keeper(case: &Case, up: &mut Up) {
    let supervisor = case.role("supervisor");
    up.signal(Signal::KILL);
    up.reap_killed();
    supervisor.wait_gone("the supervisor without its keeper");
}

/// SIGKILL to keeper, supervisor and logger in the same moment.
fn kill_everybody(case: &Case, up: &mut Up) {
    let roles = [case.role("supervisor"), case.role("logger")];
    up.signal(Signal::KILL);
    for role in &roles {
        role.signal_if_there(Signal::KILL);
    }
    up.reap_killed();
    for role in &roles {
        role.wait_gone("a killed role");
    }
}

/// Waits until `up` has taken `count` runs over.
fn reattached(up: &mut Up, count: usize) {
    let says = format!("re-attached {count} runs");
    up.wait_for(&says, |e| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with(&says)));
}

fn starts(up: &Up, worker: &str) -> usize {
    up.of(worker).filter(|e| matches!(e.kind, EventKind::Started { .. })).count()
}

fn exits(up: &Up, worker: &str) -> usize {
    up.of(worker).filter(|e| matches!(e.kind, EventKind::Exited { .. })).count()
}

fn adopted(up: &mut Up, worker: &str, pid: i32) {
    let says = format!("taken over untouched, with pid {pid}");
    let what = |e: &_| matches!(e, EventKind::Reconciled { what } if what.starts_with(&says));
    up.wait_for(&says, |e| is(e, worker) && what(&e.kind));
}

const UNSEEN: ExitCause = ExitCause::Unknown { why: UnknownWhy::SupervisorAway };

/// The end by SIGKILL of one that nobody watched: told where the kernel still tells it (init has not reaped it), else unknown.
fn is_killed_unseen(cause: &ExitCause) -> bool {
    [ExitCause::KilledExternal, UNSEEN].contains(cause)
}

/// Whether this kernel tells the end of a process that was reaped by another to whoever holds its pidfd (Linux 6.15).
fn kernel_remembers() -> bool {
    let mut child = Command::new("/bin/false").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let (fd, ticks) = (pidfd::open(pid).unwrap(), pidfd::start_ticks(pid).unwrap());
    child.wait().unwrap();
    pidfd::end_of_stranger(fd.as_fd(), pid, ticks).is_some()
}

/// The end of a re-attached process that nobody here asked for: exact where the kernel tells it, never another.
#[track_caller]
fn assert_exact(cause: &ExitCause, expected: &ExitCause) {
    assert!(cause == expected || (!kernel_remembers() && *cause == UNSEEN), "{cause:?} is not {expected:?}");
}

#[test]
fn the_next_up_goes_on_with_the_same_process_and_tells_its_end_exactly() {
    for kill in [kill_keeper, kill_everybody] {
        let case = Case::new();
        let told = case.file("told");
        let coded = misbehaving("coded", &["on-term", "0", "7", &told], &[]);
        let workers =
            coded + &worker("killed", &["/bin/sleep", "1000"], &[]) + &worker("stopped", &["/bin/sleep", "1000"], &[]);
        let mut first = Up::start(&case, &workers);
        let mains = ["coded", "killed", "stopped"].map(|name| first.started(name, 1));
        wait_until("it is ready", || case.told("told").first().cloned());
        kill(&case, &mut first);

        let mut second = Up::again(&case);
        reattached(&mut second, 3);
        for (main, name) in mains.iter().zip(["coded", "killed", "stopped"]) {
            adopted(&mut second, name, main.pid);
            assert!(main.alive(), "{name}");
            assert_eq!(main.cgroup(), case.run_dir(name, 1), "{name}");
        }
        // By foreign hands: nobody of ours has asked for these ends.
        mains[0].signal(Signal::TERM);
        assert_exact(&second.exited("coded", 1), &ExitCause::Exited { code: 7 });
        mains[1].signal(Signal::KILL);
        assert_exact(&second.exited("killed", 1), &ExitCause::KilledExternal);
        case.ask("stop", &["stopped"]);
        assert_eq!(second.exited("stopped", 1), ExitCause::Killed { by: KilledBy::Stop, policy: None });
        assert!(!mains[2].alive());
        assert_eq!(
            ["coded", "killed", "stopped"].map(|name| starts(&second, name)),
            [0; 3],
            "nothing was started again"
        );
        second.stop();
    }
}

#[test]
fn one_that_has_lost_its_keeper_leaves_no_listener_in_the_way_of_the_next() {
    let case = Case::new();
    let mut first = Up::start(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    first.started("held", 1);
    assert!(case.socket().exists());
    kill_keeper(&case, &mut first);
    assert!(!case.socket().exists(), "its file goes before its place is given up");
    let mut second = Up::again(&case);
    reattached(&mut second, 1);
    second.stop();
}

#[test]
fn a_supervisor_without_its_keeper_starts_nothing_more_and_ends_however_its_workers_fail() {
    let case = Case::new();
    // More of them than it has threads, each to be started again at once.
    let quick: String =
        (0..8).map(|n| worker(&format!("quick{n}"), &["/bin/sh", "-c", "exit 3"], &[ALWAYS_AT_ONCE])).collect();
    let mut up = Up::start(&case, &quick);
    let restarted = |e: &_| is(e, "quick0") && e.run > Some(1) && matches!(e.kind, EventKind::Started { .. });
    for _ in 0..3 {
        up.wait_for("one that is started again", restarted);
        kill_keeper(&case, &mut up);
        up.wait_silent();
        let failed = |e: &&Event| matches!(&e.kind, EventKind::Exited { cause: ExitCause::StartFailed { .. }, .. });
        assert_eq!(up.seen.iter().find(failed), None, "what nobody could launch is no failure");
        up = Up::again(&case);
    }
    up.wait_for("one that is started again", restarted);
    up.stop();
}

#[test]
fn an_end_that_was_told_stays_one_where_its_keeper_dies_before_what_it_left_behind() {
    let case = Case::new();
    let leaves = "trap '' TERM; sleep 1000 & exit 0";
    let options = ["restart: {policy: on-failure}", "stop: {timeout: 3s}"];
    let mut up = Up::start(&case, &worker("leaves", &["/bin/sh", "-c", leaves], &options));
    assert_eq!(up.exited("leaves", 1), ExitCause::Exited { code: 0 });
    let stored = || {
        let answer = Door::open(&case.socket()).get("/v1/history?worker=leaves");
        answer.body["runs"][0]["ended"].is_string().then_some(())
    };
    wait_until("the store has its end", stored);
    kill_keeper(&case, &mut up);
    let mut up = Up::again(&case);
    up.state("leaves", State::Stopped, "done");
    wait_until("nothing of it is left", || tree::run_dirs(&case.root).is_empty().then_some(()));
    assert_eq!((starts(&up, "leaves"), exits(&up, "leaves")), (0, 0), "it is not started, and not told, again");
    up.stop();
}

#[test]
fn an_orderly_end_that_leaves_the_workers_running_is_gone_on_from_in_the_same_way() {
    let case = Case::new();
    let workers = misbehaving("left", &["sleep"], &[]);
    let mut first = Up::spawn(case.pinfold("up").arg("--on-term=detach").arg(case.config(&workers)));
    let main = first.started("left", 1);
    first.signal(Signal::TERM);
    first.reap_killed();
    let mut second = Up::again(&case);
    reattached(&mut second, 1);
    main.signal(Signal::KILL);
    assert_exact(&second.exited("left", 1), &ExitCause::KilledExternal);
    second.stop();
}

#[test]
fn a_re_attached_worker_is_restarted_by_its_policy_in_a_run_of_the_next_number() {
    let case = Case::new();
    let mut first = Up::start(&case, &worker("busy", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]));
    let main = first.started("busy", 1);
    kill_keeper(&case, &mut first);
    let mut second = Up::again(&case);
    reattached(&mut second, 1);
    main.signal(Signal::KILL);
    let next = second.started("busy", 2);
    assert_eq!(next.cgroup(), case.run_dir("busy", 2));
    wait_until("the old directory is gone", || (!case.run_dir("busy", 1).exists()).then_some(()));
    second.stop();
}

#[test]
fn an_end_that_nobody_saw_is_never_code_0_and_its_policy_follows() {
    let case = Case::new();
    let always = worker("always", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]);
    let mut first = Up::start(&case, &(always + &worker("never", &["/bin/sleep", "1000"], &[])));
    let (again, never) = (first.started("always", 1), first.started("never", 1));
    kill_everybody(&case, &mut first);
    for main in [again, never] {
        main.signal(Signal::KILL);
        main.wait_gone("a worker without a supervisor");
    }
    let mut second = Up::again(&case);
    let cause = second.exited("always", 1);
    assert!(is_killed_unseen(&cause), "{cause:?}");
    let cause = second.exited("never", 1);
    assert!(is_killed_unseen(&cause), "{cause:?}");
    let next = second.started("always", 2);
    assert!(next.alive());
    second.stop();
}

#[test]
fn what_a_dead_main_process_left_behind_is_ended_before_the_next_run() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("sleep 1000 & echo left $! >> {told}; wait");
    let mut first = Up::start(&case, &worker("parent", &["/bin/sh", "-c", &script], &[ALWAYS_AT_ONCE]));
    let main = first.started("parent", 1);
    let left = case.wait_told("told", "left ");
    kill_everybody(&case, &mut first);
    main.signal_if_there(Signal::KILL);
    main.wait_gone("the main process");
    let left = Process::open(left).expect("it outlives its parent");
    let mut second = Up::again(&case);
    let cause = second.exited("parent", 1);
    assert!(is_killed_unseen(&cause), "{cause:?}");
    second.started("parent", 2);
    assert!(!left.alive());
    second.stop();
}

#[test]
fn what_was_re_attached_is_the_keepers_to_remember_over_the_death_of_a_supervisor() {
    let case = Case::new();
    let told = case.file("told");
    let mut first = Up::start(&case, &misbehaving("coded", &["on-term", "0", "7", &told], &[]));
    let main = first.started("coded", 1);
    wait_until("it is ready", || case.told("told").first().cloned());
    kill_keeper(&case, &mut first);
    let mut second = Up::again(&case);
    reattached(&mut second, 1);
    let supervisor = case.role("supervisor");
    // It ends while nobody decides.
    supervisor.signal(Signal::STOP);
    main.signal(Signal::TERM);
    main.wait_gone("the worker");
    // The keeper kills one that stays stopped.
    supervisor.signal_if_there(Signal::KILL);
    assert_exact(&second.exited("coded", 1), &ExitCause::Exited { code: 7 });
    second.signal(Signal::TERM);
    second.reap_killed();
}

#[test]
fn nobody_takes_the_place_of_a_supervisor_that_has_lost_its_keeper_and_hangs() {
    let case = Case::new();
    let mut first = Up::start(&case, &worker("held", &["/bin/sleep", "1000"], &[]));
    let main = first.started("held", 1);
    let supervisor = case.role("supervisor");
    // A stopped one would be continued by the kernel: the death of the keeper orphans its process group.
    let leaf = case.root.join("supervisor");
    fs::write(leaf.join("cgroup.freeze"), "1").unwrap();
    wait_until("it hangs", || (tree::field(&leaf, "cgroup.events", "frozen") == 1).then_some(()));
    first.signal(Signal::KILL);
    first.reap_killed();
    let refused = finish(case.pinfold("up").arg(case.file("pinfold.yaml")));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is in use by another pinfold"), "{refused:?}");
    fs::write(leaf.join("cgroup.freeze"), "0").unwrap();
    supervisor.wait_gone("the supervisor without its keeper");
    let mut second = Up::again(&case);
    reattached(&mut second, 1);
    assert!(main.alive());
    second.stop();
}

/// A run's directory with the record that is written before a launch, as a keeper's death leaves it.
fn half_made(case: &Case, name: &str) -> Dir {
    let path = case.run_dir(name, 1);
    fs::create_dir_all(&path).unwrap();
    let dir = Dir::open(&path).unwrap();
    let note = RunNote {
        v: 1,
        uuid: note::new_uuid().unwrap(),
        run: RunId::new(WorkerId::new(name).unwrap(), 1),
        spec_hash: Spec::new(vec!["/bin/sleep".into(), "1000".into()]).digest(),
        breaker: Saved::default(),
        restarts: RestartCounts::default(),
        desired_up: true,
        pid: None,
        pid_start_ticks: None,
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned(),
        started_mono_ns: None,
        baseline: Counters::default(),
        ending: None,
        untold: Vec::new(),
    };
    note::write(&dir, Namespace::probe(&dir), &note).unwrap();
    dir
}

#[test]
fn a_run_whose_record_has_no_process_is_adopted_where_its_program_runs_and_removed_where_it_does_not() {
    let case = Case::new();
    let sleeps = |name| worker(name, &["/bin/sleep", "1000"], &[]);
    case.config(&(sleeps("runs") + &sleeps("empty")));
    let (runs, _empty) = (half_made(&case, "runs"), half_made(&case, "empty"));
    let mut stray = Command::new("/usr/bin/setsid").args(["/bin/sleep", "1000"]).envs(case.mark()).spawn().unwrap();
    let pid = i32::try_from(stray.id()).unwrap();
    wait_until("it leads a session", || {
        let sid = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()?
            .rsplit_once(") ")?
            .1
            .split(' ')
            .nth(3)?
            .parse::<i32>();
        (sid == Ok(pid)).then_some(())
    });
    runs.write("cgroup.procs", &pid.to_string()).unwrap();

    let mut up = Up::again(&case);
    reattached(&mut up, 1);
    adopted(&mut up, "runs", pid);
    let next = up.wait_for("the other is started", |e| is(e, "empty") && matches!(e.kind, EventKind::Started { .. }));
    assert_eq!(next.run, Some(2), "a directory is used once");
    assert_eq!(tree::procs(&case.run_dir("runs", 1)), [pid]);
    assert!(pidfd::start_ticks(pid).is_some());
    case.ask("stop", &["runs"]);
    assert_eq!(up.exited("runs", 1), ExitCause::Killed { by: KilledBy::Stop, policy: None });
    stray.wait().unwrap();
    up.stop();
}
