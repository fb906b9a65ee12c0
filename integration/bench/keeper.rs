//! From request to confirmed exec, through the keeper, beside what a bare spawn of the same program costs.
//!
//! `scripts/bench keeper`. Launches come back to back and 30 ms apart: a write to `cgroup.procs` hides its
//! 10 ms where they come back to back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails as a test does")]

#[path = "../launch/support.rs"]
mod support;

use std::os::fd::AsFd;
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::launch::{Method, Progress, spawn};
use pinfold::kernel::pidfd::{self, Whom};
use rustix::event::{Timespec, poll};
use support::{Bed, Tree, plan, run};

const ROUNDS: u32 = 300;
const PROGRAM: &str = "/bin/true";

fn main() {
    for (spacing, pause) in [("back to back", 0), ("30 ms apart", 30)] {
        println!("{spacing}:");
        let rounds = if pause == 0 { ROUNDS } else { ROUNDS / 3 };
        let each = |what: &str, mut once: Box<dyn FnMut(u32) -> Duration>| {
            let mut took: Vec<_> = (1..=rounds)
                .map(|n| {
                    poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: pause * 1_000_000 })).ok();
                    once(n)
                })
                .collect();
            took.sort();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100];
            println!("  {what:<44} p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
        };
        each("bare posix_spawn, to the end", Box::new(|_| bare()));
        for method in [Method::IntoCgroup, Method::Move] {
            let tree = Tree::new();
            each(&format!("our spawn, to confirmed exec, {method:?}"), Box::new(move |n| own(&tree, n, method)));
        }
        for method in ["into-cgroup", "move"] {
            let bed = Bed::start(method);
            let (mut fake, ..) = bed.greeted();
            let keeper = bed.keeper_pid();
            let before = on_cpu(keeper);
            let bed = std::rc::Rc::new(bed);
            let held = std::rc::Rc::clone(&bed);
            let through = move |n| through_keeper(&bed, &mut fake, n);
            each(&format!("through the keeper, to confirmed exec, {method}"), Box::new(through));
            println!(
                "    keeper on a CPU, each launch with its exit: {:?}",
                on_cpu(keeper).saturating_sub(before) / rounds
            );
            drop(held);
        }
    }
    let tree = Tree::new();
    let begin = monotonic();
    let found = pinfold::kernel::launch::selftest::run(&tree.root).unwrap();
    println!("self-test: {:?} {found:?}", monotonic().since(begin));
}

/// What a process has had of the CPUs, whoever else wanted them.
fn on_cpu(pid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn bare() -> Duration {
    let begin = monotonic();
    std::process::Command::new(PROGRAM).status().unwrap();
    monotonic().since(begin)
}

fn own(tree: &Tree, n: u32, method: Method) -> Duration {
    let run = run("own", n);
    let null = std::fs::File::open("/dev/null").unwrap();
    let cgroup = tree.make(&run.to_string());
    let plan = plan(&run, &[PROGRAM]);
    let begin = monotonic();
    let mut child = spawn(&plan, cgroup.as_fd(), [null.as_fd(); 3], method).unwrap();
    assert_eq!(child.confirm.wait(), Progress::Execed);
    let took = monotonic().since(begin);
    pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
    std::fs::remove_dir(tree.root.join(run.to_string())).unwrap();
    took
}

fn through_keeper(bed: &Bed, fake: &mut support::Fake, n: u32) -> Duration {
    let run = run("kept", n);
    let cgroup = bed.tree.make(&run.to_string());
    let plan = plan(&run, &[PROGRAM]);
    let begin = monotonic();
    bed.launch_in(fake, &plan, cgroup.as_fd());
    let mut took = None;
    loop {
        match fake.next().0 {
            FromKeeper::Launched { .. } => took = Some(monotonic().since(begin)),
            FromKeeper::Exited { run, .. } => {
                fake.send(&ToKeeper::Ack { run: run.clone() }, &[]);
                std::fs::remove_dir(bed.tree.root.join(run.to_string())).unwrap();
                return took.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}
