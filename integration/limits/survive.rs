//! What happened while nobody of ours lived is told by the kernel's counters, which outlive us.

use std::fs::OpenOptions;

use pinfold::model::{EventKind, ExitCause, State, UnknownWhy};
use rustix::process::Signal;

use super::{Case, MIB, OOM, misbehaving, tree, wait_until};
use crate::support::{
    run::finish,
    up::{Up, is},
};

fn fifo(case: &Case, name: &str) -> String {
    let path = case.file(name);
    assert_eq!(finish(std::process::Command::new("mkfifo").arg(&path)).code, Some(0));
    path
}

#[test]
fn an_oom_that_came_while_nobody_lived_is_still_named_and_limits_stay_in_force() {
    let case = Case::with_limits(false);
    let (go, told) = (fifo(&case, "go"), case.file("told"));
    let hog = ["after", &go, "hog", "64", "0", &told];
    let limits = "limits: {memory: {max_rss: 32MiB}, pids: {max: 20}}";
    let workers = misbehaving("eaten", &hog, &[limits]) + &misbehaving("calm", &["sleep"], &[limits]);
    let mut first = Up::start(&case, &workers);
    let (eaten, calm) = (first.started("eaten", 1), first.started("calm", 1));
    let roles = ["supervisor", "logger"].map(|role| case.role(role));
    first.signal(Signal::KILL);
    for role in &roles {
        role.signal_if_there(Signal::KILL);
    }
    first.reap_killed();

    drop(OpenOptions::new().write(true).open(&go).unwrap());
    eaten.wait_gone("the hog above its limit");
    let mut second = Up::again(&case);
    assert_eq!(second.exited("eaten", 1), OOM);
    let dir = case.run_dir("calm", 1);
    assert_eq!(tree::read(&dir, "memory.max").trim().parse(), Ok(32 * MIB), "the limit of what lives is in force");
    assert!(calm.alive());
    calm.signal(Signal::KILL);
    let cause = second.exited("calm", 1);
    // By kernels before 6.15 only while init has not reaped it.
    let right = [ExitCause::KilledExternal, ExitCause::Unknown { why: UnknownWhy::SupervisorAway }];
    assert!(right.contains(&cause), "{cause:?}");
    second.stop();
}

#[test]
fn what_a_re_attached_worker_breaks_is_seen_as_before() {
    let case = Case::with_limits(false);
    let told = case.file("told");
    let forks = ["forks", "50", told.as_str()];
    let go = fifo(&case, "go");
    let command: Vec<&str> = ["after", &go].into_iter().chain(forks).collect();
    let mut first = Up::start(&case, &misbehaving("forking", &command, &["limits: {pids: {max: 10, policy: log}}"]));
    first.started("forking", 1);
    first.state("forking", State::Running, "ready");
    let supervisor = case.role("supervisor");
    first.signal(Signal::KILL);
    first.reap_killed();
    supervisor.wait_gone("the supervisor without its keeper");
    let mut second = Up::again(&case);
    second.wait_for("it is taken over", |e| is(e, "forking") && matches!(e.kind, EventKind::Reconciled { .. }));
    drop(OpenOptions::new().write(true).open(&go).unwrap());
    second.wait_for("a violation", |e| is(e, "forking") && matches!(e.kind, EventKind::Violation { .. }));
    wait_until("it has tried", || case.told("told").first().cloned());
    second.stop();
}
