//! What needs no controller: directories, records, freezing, killing, draining, watching, locking.

use std::{os::unix::process::ExitStatusExt, sync::Arc, time::Duration};

use pinfold::{
    clock::Clock,
    kernel::{
        cgroup::{Dir, DirError, Namespace, events, kill, stat},
        note,
        place::{
            Leaf, PlaceError,
            record::{self, RecordError, Recorded},
            settle,
        },
        port::RunNote,
        probe::{Facts, report},
        watch::{self, Hint, Interest},
    },
    model::{Check, Counters, RestartCounts, RunId},
    policy::breaker::Saved,
};

use crate::fixture::{Place, Program, wait_until};

fn record_of(run: &RunId) -> RunNote {
    RunNote {
        v: 1,
        uuid: "0190b5a1-7b1e-7000-8000-0123456789ab".into(),
        run: run.clone(),
        spec_hash: 42,
        breaker: Saved::default(),
        restarts: RestartCounts { exit: 2, ..Default::default() },
        desired_up: true,
        pid: Some(77),
        pid_start_ticks: None,
        boot_id: record::boot_id().unwrap(),
        started_mono_ns: Some(5),
        baseline: Counters::default(),
        ending: None,
        untold: Vec::new(),
    }
}

#[test]
fn a_directory_of_our_name_that_is_there_already_is_refused() {
    let place = Place::new();
    let (run, dir) = place.run(1);
    let err = place.dir.create(&run.to_string()).unwrap_err();
    assert!(matches!(err, DirError::Exists { .. }), "{err:?}");
    let again = place.dir.open_below("web.1").unwrap();
    assert_eq!(again.id().unwrap(), dir.id().unwrap());
}

#[test]
fn a_cgroup_of_the_same_name_made_later_is_another_one() {
    let place = Place::new();
    let (_, first) = place.run(1);
    let old = first.id().unwrap();
    kill::remove(&place.dir, "web.1").unwrap();
    let (_, second) = place.run(1);
    assert_ne!(second.id().unwrap(), old);
    assert!(first.populated().unwrap_err().is_absent(), "the old descriptor does not lead to the new cgroup");
    assert_eq!(events::read(&first).unwrap_err().errno(), nix::libc::ENODEV);
}

#[test]
fn a_run_keeps_its_record_and_takes_it_along() {
    let place = Place::new();
    let (run, dir) = place.run(1);
    for ns in [Namespace::Trusted, Namespace::User] {
        assert_eq!(note::read(&dir, ns).unwrap(), None, "a fresh directory has none");
        note::write(&dir, ns, &record_of(&run)).unwrap();
        assert_eq!(note::read(&dir, ns).unwrap(), Some(record_of(&run)));
    }
    let changed = RunNote { desired_up: false, ..record_of(&run) };
    note::write(&dir, Namespace::Trusted, &changed).unwrap();
    assert_eq!(note::read(&dir, Namespace::Trusted).unwrap(), Some(changed));
    kill::remove(&place.dir, "web.1").unwrap();
    let (_, again) = place.run(1);
    assert_eq!(note::read(&again, Namespace::Trusted).unwrap(), None);
    assert_eq!(Namespace::probe(&again), Namespace::Trusted);
    assert_eq!(again.xattr(Namespace::Trusted, "probe").unwrap(), None, "the probe leaves nothing");
}

#[test]
fn something_else_in_the_record_is_an_error() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    dir.set_xattr(Namespace::User, "run", b"\xc1nonsense").unwrap();
    assert!(note::read(&dir, Namespace::User).is_err());
    assert!(dir.set_xattr(Namespace::User, "run", &[0; 4096]).is_ok(), "4 KiB fit");
    assert!(dir.set_xattr(Namespace::User, "run", &vec![0; (16 << 10) + 1]).is_err());
}

#[test]
fn a_lock_on_the_root_keeps_a_second_supervisor_out() {
    let place = Place::new();
    let path = place.dir.path();
    record::lock_root(&place.dir).unwrap();
    let second = Dir::open(path).unwrap();
    assert!(matches!(record::lock_root(&second), Err(RecordError::RootHeld { .. })));
}

#[test]
fn a_populated_place_forbids_another_one() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    let boot = record::boot_id().unwrap();
    let recorded = Recorded {
        path: place.dir.path().to_owned(),
        cgroup_id: place.dir.id().unwrap(),
        boot_id: boot.clone(),
        unit: None,
        made: true,
    };
    let elsewhere = std::path::Path::new("/sys/fs/cgroup/elsewhere");
    recorded.allows(elsewhere, &boot).unwrap();
    let _program = Program::sh(&dir, "sleep 60");
    let err = recorded.allows(elsewhere, &boot).unwrap_err();
    assert!(matches!(err, RecordError::Elsewhere { .. }), "{err:?}");
    recorded.allows(place.dir.path(), &boot).unwrap();
    recorded.allows(elsewhere, "an earlier boot").unwrap();
    let other_id = Recorded { cgroup_id: recorded.cgroup_id + 1, ..recorded };
    other_id.allows(elsewhere, &boot).unwrap();
}

#[test]
fn a_kill_reaches_everything_also_what_left_its_session() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    let mut program = Program::sh(&dir, "setsid sh -c 'sleep 60 & sleep 60' & sleep 60");
    assert!(wait_until(|| dir.processes().unwrap().len() >= 4));
    assert!(kill::remove(&place.dir, "web.1").unwrap_err().is_busy(), "what lives is not removed");
    kill::kill(&dir).unwrap();
    assert_eq!(program.wait().signal(), Some(9));
    assert!(wait_until(|| !dir.populated().unwrap()));
    kill::remove(&place.dir, "web.1").unwrap();
    assert!(place.dir.children().unwrap().is_empty());
}

#[test]
fn a_frozen_run_says_so_and_can_be_killed() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    let mut program = Program::sh(&dir, "while :; do :; done");
    assert!(!dir.frozen().unwrap());
    kill::freeze(&dir).unwrap();
    assert!(wait_until(|| dir.frozen().unwrap()));
    kill::thaw(&dir).unwrap();
    assert!(wait_until(|| !dir.frozen().unwrap()));
    kill::freeze(&dir).unwrap();
    assert!(wait_until(|| dir.frozen().unwrap()));
    kill::kill(&dir).unwrap();
    assert_eq!(program.wait().signal(), Some(9));
}

#[test]
fn the_cgroups_a_worker_made_are_removed_with_it() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    let mut deep = dir.path().to_owned();
    for level in 0..20 {
        deep.push(format!("d{level}"));
        std::fs::create_dir(&deep).unwrap();
        std::fs::create_dir(deep.with_file_name(format!("side{level}"))).unwrap();
    }
    let inner = Dir::open(&deep).unwrap();
    let mut program = Program::sh(&inner, "sleep 60");
    let err = kill::remove(&place.dir, "web.1").unwrap_err();
    assert!(err.is_busy(), "{err:?}");
    kill::kill(&dir).unwrap();
    program.wait();
    assert!(wait_until(|| !dir.populated().unwrap()));
    kill::remove(&place.dir, "web.1").unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn a_full_tree_is_explained() {
    let place = Place::new();
    place.dir.write("cgroup.max.descendants", "1").unwrap();
    place.run(1);
    let err = place.dir.create("web.2").unwrap_err();
    assert!(err.to_string().contains("cgroup.max.descendants"), "{err}");
}

#[test]
fn usage_is_read_as_far_as_the_kernel_tells() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    let mut program = Program::sh(&dir, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
    program.wait();
    let usage = stat::usage(&dir);
    assert!(usage.cpu_usec.unwrap() > 1000, "{usage:?}");
    assert!(usage.cpu_pressure_usec.is_some(), "{usage:?}");
}

#[tokio::test]
async fn a_drain_always_ends_and_never_before_the_cgroup_is_empty() {
    let place = Place::new();
    let (watches, mut hints) = watch::channel(Clock::new()).unwrap();
    for number in 1..=100 {
        let (run, dir) = place.run(number);
        watches.add(&run, &dir, Interest::ALL).unwrap();
        // The main process ends at once, what it left behind a little later.
        let mut program = Program::sh(&dir, &format!("sleep 0.0{} & exit 0", number % 4));
        program.wait();
        while watches.drain(&run, &dir).unwrap() {
            let hint = tokio::time::timeout(Duration::from_secs(10), hints.next()).await;
            assert_eq!(hint.expect("the notification is lost").unwrap(), Hint::Events(run.clone()));
        }
        assert!(!dir.populated().unwrap());
        watches.forget(&run);
        kill::remove(&place.dir, &run.to_string()).unwrap();
    }
    assert_eq!(watches.len(), 0);
    assert_eq!(kernel_watches(), 0, "none may leak in the kernel either");
}

/// The inotify watches of this process, as the kernel counts them.
fn kernel_watches() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    infos
        .filter_map(|e| std::fs::read_to_string(e.unwrap().path()).ok())
        .map(|text| text.lines().filter(|l| l.starts_with("inotify ")).count())
        .sum()
}

#[tokio::test]
async fn a_directory_that_somebody_removes_is_told_and_one_that_we_remove_is_not() {
    let place = Place::new();
    let (watches, mut hints) = watch::channel(Clock::new()).unwrap();
    watches.add_parent(&place.dir).unwrap();
    let (ours, our_dir) = place.run(1);
    let (theirs, their_dir) = place.run(2);
    watches.add(&ours, &our_dir, Interest::ALL).unwrap();
    watches.add(&theirs, &their_dir, Interest::ALL).unwrap();
    watches.forget(&ours);
    kill::remove(&place.dir, "web.1").unwrap();
    std::fs::remove_dir(their_dir.path()).unwrap();
    let hint = tokio::time::timeout(Duration::from_secs(10), hints.next()).await.expect("no hint").unwrap();
    assert_eq!(hint, Hint::Removed(theirs));
}

#[test]
fn the_tree_is_made_once_and_taken_down_whole() {
    let place = Place::new();
    let root = place.dir.path().join("root");
    let mut program = Program::sh(&place.dir, "exec sleep 60");
    let pid = i32::try_from(program.0.id()).unwrap();
    for _ in 0..2 {
        let tree = settle(&place.situation, &root, false, &[(Leaf::Logger, pid)]).unwrap();
        assert_eq!(tree.root.open_below("logger").unwrap().processes().unwrap(), [pid]);
        let mut names = tree.root.children().unwrap();
        names.sort();
        assert_eq!(names, ["aux", "keeper", "logger", "runs", "supervisor", "workers"]);
        assert_eq!(tree.ancestors.first(), Some(&place.situation.mount.path));
        assert_eq!(tree.ancestors.last(), Some(&root));
    }
    let tree = settle(&place.situation, &root, false, &[]).unwrap();
    tree.dissolve(&place.dir, &[pid], true).unwrap();
    assert!(!root.exists());
    assert_eq!(place.dir.processes().unwrap(), [pid], "our own process went home");
    kill::kill(&place.dir).unwrap();
    program.wait();
}

#[test]
fn a_tree_with_life_in_it_is_not_taken_down() {
    let place = Place::new();
    let root = place.dir.path().join("root");
    let tree = settle(&place.situation, &root, false, &[]).unwrap();
    let run = tree.workers.create("web.1").unwrap();
    let _program = Program::sh(&run, "sleep 60");
    assert!(tree.dissolve(&place.dir, &[], true).unwrap_err().is_busy());
    assert!(root.join("workers/web.1").exists());
}

#[test]
fn a_read_only_cgroup_file_system_is_refused() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let place = Place::new();
    let situation = place.situation.clone();
    let path = place.dir.path().to_owned();
    // A mount namespace of one thread's own.
    let refused = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let at = &situation.mount.path;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, flags, None::<&str>).unwrap();
        let in_it = settle(&situation, &path, false, &[]);
        let below_it = settle(&situation, &path.join("new"), false, &[]);
        (in_it.map(|_| ()), below_it.map(|_| ()))
    });
    let (in_it, below_it) = refused.join().unwrap();
    assert!(matches!(in_it, Err(PlaceError::ReadOnly { .. })), "{in_it:?}");
    assert!(matches!(below_it, Err(PlaceError::ReadOnly { .. })), "{below_it:?}");
}

#[test]
fn the_probe_tries_everything_and_leaves_nothing() {
    let place = Place::new();
    let tree = settle(&place.situation, &place.dir.path().join("root"), false, &[]).unwrap();
    let facts = Facts::gather(Some(&place.situation), Ok(&tree));
    let found = facts.place.as_ref().unwrap();
    assert_eq!(found.root, place.dir.path().join("root"));
    assert_eq!(found.withheld, tree.withheld);
    assert!(facts.launch.is_ok() && facts.pidfd && facts.pressure.readable, "{facts:?}");
    assert_eq!(facts.own.as_deref(), Some(place.situation.own.as_str()));
    // Nothing keeps this host from running workers but the controllers it does not give.
    let fatal: Vec<_> = report(&facts).into_iter().filter(Check::is_fatal).map(|c| c.name).collect();
    let missing = tree.withheld.iter().map(|w| w.controller.name()).filter(|name| *name != "io");
    assert_eq!(fatal, missing.collect::<Vec<_>>());
    for dir in [&tree.workers, &tree.aux, &tree.runs] {
        assert_eq!(dir.children().unwrap(), Vec::<String>::new());
    }
    println!("{}", pinfold::cli::doctor::render(&report(&facts), Some(110)));
}

#[test]
fn a_removed_cgroup_is_named_in_the_error() {
    let place = Place::new();
    let (_, dir) = place.run(1);
    std::fs::remove_dir(dir.path()).unwrap();
    let err = kill::kill(&dir).unwrap_err();
    assert!(err.is_absent());
    assert!(err.to_string().ends_with("/web.1/cgroup.kill"), "{err}");
    kill::remove(&place.dir, "web.1").unwrap();
    drop(Arc::try_unwrap(dir).unwrap());
}
