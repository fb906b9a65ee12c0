//! A supervisor that dies or hangs, and what the next one finds.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::pidfd::{self, Whom};
use pinfold::model::ExitStatus;

use crate::support::{Bed, MISBEHAVE, launched, plan, run, slow_plan, wait_for};

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
    second.exit(6);
    drop(second);
    let (third, restarts, previous) = bed.greeted();
    let expected = "ended with code 6 before it had taken over";
    assert_eq!(
        (restarts, previous.as_deref()),
        (2, Some(expected)),
        "what keeps it from beginning can be over in a moment"
    );
    third.send(&ToKeeper::TookOver, &[]);
    third.exit(5);
    drop(third);
    assert_eq!(bed.keeper.wait().unwrap().code(), Some(5), "a supervisor that exits takes the keeper along");
}

#[test]
fn a_launch_in_flight_is_in_the_list_of_the_next_supervisor_before_it_is_decided() {
    let bed = Bed::start("into-cgroup");
    let (first, ..) = bed.greeted();
    let run = run("flying", 1);
    bed.launch(&first, &slow_plan(&run));
    wait_for("its process", || bed.tree.pids("flying.1").first().copied());
    // Amid its tries, and no further before the next one has seen it.
    bed.tree.write("flying.1/cgroup.freeze", "1");
    first.signal_self(libc::SIGKILL);
    drop(first);
    let (mut second, ..) = bed.greeted();
    assert_eq!(second.list(), [FromKeeper::Launching { run: run.clone() }]);
    bed.tree.write("flying.1/cgroup.freeze", "0");
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
    // Those still in flight are told when they are decided.
    let good = |m: &FromKeeper| matches!(m, FromKeeper::Launched { run, .. } if run.to_string() == "good.1");
    let bad = |m: &FromKeeper| matches!(m, FromKeeper::Failed { run, .. } if run.to_string() == "bad.1");
    while !(told.iter().any(good) && told.iter().any(bad)) {
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
