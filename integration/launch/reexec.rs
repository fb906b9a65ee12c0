//! A keeper that executes another binary, or is to.

use std::os::fd::AsFd;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::model::ExitStatus;

use crate::support::{Bed, Fake, MISBEHAVE, TESTBED, plan, run, slow_plan, wait_for};

fn ask(fake: &Fake, file: &str) {
    let file = std::fs::File::open(file).unwrap();
    fake.send(&ToKeeper::Reexec { version: "1.2.3".into() }, &[file.as_fd()]);
}

fn launched(fake: &mut Fake) -> i32 {
    match fake.next().0 {
        FromKeeper::Launched { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

/// The keeper's descriptors that would stay open over an exec, its standard streams aside.
fn left_open(bed: &Bed) -> Vec<String> {
    let fds = std::fs::read_dir(format!("/proc/{}/fdinfo", bed.keeper_pid())).unwrap();
    let closes = |text: &str| {
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0
    };
    let number = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let paths = fds.map(|entry| entry.unwrap().path()).filter(|path| number(path).parse::<i32>().unwrap() > 2);
    // One that is closed while we look is not left open.
    let stays = |path: &std::path::PathBuf| std::fs::read_to_string(path).is_ok_and(|text| !closes(&text));
    paths.filter(stays).map(|path| number(&path)).collect()
}

#[test]
fn what_lives_has_ended_or_is_in_flight_is_the_next_keepers_and_its_signals_too() {
    let mut bed = Bed::start("into-cgroup");
    let (mut first, ..) = bed.greeted();
    bed.launch(&first, &plan(&run("alive", 1), &[MISBEHAVE, "sleep"]));
    let alive = launched(&mut first);
    bed.launch(&first, &plan(&run("dead", 1), &[MISBEHAVE, "exit", "7"]));
    launched(&mut first);
    let (FromKeeper::Exited { .. }, _) = first.next() else { panic!("it has not ended") };
    bed.launch(&first, &slow_plan(&run("flying", 1)));
    ask(&first, TESTBED);
    first.exit(0);
    drop(first);

    let (mut second, restarts, previous) = bed.greeted();
    assert_eq!((restarts, previous.as_deref()), (1, Some("the binary was replaced by version 1.2.3")));
    assert!(bed.keeper.try_wait().unwrap().is_none(), "the keeper is the same process");
    let mut told = second.list();
    told.sort_by_key(|message| format!("{message:?}"));
    let [
        FromKeeper::Exited { run: dead, status, .. },
        FromKeeper::Launched { run: first_run, pid, .. },
        FromKeeper::Launched { run: flew, .. },
    ] = told.as_slice()
    else {
        panic!("{told:?}")
    };
    assert_eq!((dead, status), (&run("dead", 1), &Some(ExitStatus::Exited { code: 7 })));
    assert_eq!((first_run, pid), (&run("alive", 1), &alive));
    assert_eq!(flew, &run("flying", 1));
    assert_eq!(left_open(&bed), Vec::<String>::new());

    // It is still their parent, and once more.
    second.send(&ToKeeper::Ack { run: run("dead", 1) }, &[]);
    ask(&second, TESTBED);
    second.send(&ToKeeper::Signal { run: run("alive", 1), signal: libc::SIGTERM }, &[]);
    second.exit(3);
    drop(second);
    let (mut third, restarts, _) = bed.greeted();
    assert_eq!(restarts, 2);
    let ended = wait_for("it has ended", || {
        // Its end may come as news, and then in the list that it comes before.
        let mut told = third.list();
        told.sort_by_key(|message| format!("{message:?}"));
        told.dedup();
        assert_eq!(told.len(), 2, "{told:?}");
        told.into_iter().find_map(|message| match message {
            FromKeeper::Exited { run, status, .. } => Some((run, status)),
            _ => None,
        })
    });
    assert_eq!(ended, (run("alive", 1), Some(ExitStatus::Signaled { signal: libc::SIGTERM, core: false })));
    assert_eq!(bed.leave(third, 5), 5);
}

#[test]
fn one_that_cannot_be_executed_leaves_everything_as_it_is_and_the_next_supervisor_is_told_why() {
    let mut bed = Bed::start("into-cgroup");
    let (mut first, ..) = bed.greeted();
    bed.launch(&first, &plan(&run("alive", 1), &[MISBEHAVE, "sleep"]));
    let alive = launched(&mut first);
    // What the test itself was started with.
    let before = left_open(&bed);
    ask(&first, "/etc/hostname");
    first.exit(0);
    drop(first);
    let (mut second, _, previous) = bed.greeted();
    let previous = previous.unwrap();
    assert!(previous.starts_with("the new binary could not be executed: "), "{previous}");
    assert!(bed.keeper.try_wait().unwrap().is_none());
    assert!(matches!(second.list()[..], [FromKeeper::Launched { pid, .. }] if pid == alive));
    assert_eq!(left_open(&bed), before, "what was left open for the other binary");
}

#[test]
fn a_request_without_its_file_costs_the_supervisor_its_life_and_nothing_else() {
    let bed = Bed::start("into-cgroup");
    let (mut first, ..) = bed.greeted();
    bed.launch(&first, &plan(&run("alive", 1), &[MISBEHAVE, "sleep"]));
    let alive = launched(&mut first);
    first.send(&ToKeeper::Reexec { version: "1.2.3".into() }, &[]);
    let (mut second, _, previous) = bed.greeted();
    assert_eq!(previous.as_deref(), Some("killed: the new binary did not come with its request"));
    assert!(matches!(second.list()[..], [FromKeeper::Launched { pid, .. }] if pid == alive));
}

#[test]
fn a_thousand_runs_with_their_pipes_go_along_and_none_is_lost() {
    let bed = Bed::start("into-cgroup");
    let (mut first, ..) = bed.greeted();
    for number in 1..=1000 {
        bed.launch(&first, &plan(&run("one", number), &[MISBEHAVE, "sleep"]));
    }
    let mut pids: Vec<i32> = (0..1000).map(|_| launched(&mut first)).collect();
    ask(&first, TESTBED);
    let asked = monotonic();
    first.exit(0);
    drop(first);
    let (mut second, ..) = bed.greeted();
    println!("a new supervisor with 1000 runs after {:?}", monotonic().since(asked));
    let mut listed: Vec<i32> = second
        .list()
        .into_iter()
        .map(|message| match message {
            FromKeeper::Launched { pid, .. } => pid,
            other => panic!("{other:?}"),
        })
        .collect();
    pids.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, pids);
    assert_eq!(left_open(&bed), Vec::<String>::new());
}
