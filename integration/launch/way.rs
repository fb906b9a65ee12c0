//! The two ways into a cgroup, and which is taken.

use std::os::fd::AsFd;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::FromKeeper;
use pinfold::kernel::launch::{Method, selftest};
use pinfold::model::Way;

use crate::support::{Bed, MISBEHAVE, Tree, launched, plan, run};

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
