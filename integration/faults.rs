//! What a host can do to a supervisor beside killing it: each row of ARCHITECTURE.md's "What goes wrong" that needs a real kernel
//! and no controller.
//!
//! `PINFOLD_FAULTS_KILLS` makes the row of kills longer and has them come at random moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::time::Duration;

use pinfold::{
    clock,
    model::{Event, EventKind},
};
use rustix::process::Signal;
use support::{Case, parameter, process::Process, up::Up, worker};

/// Waits for the `nth` supervisor that followed another, and until it answers: before that it has taken over all that lives.
fn taken_over(case: &Case, up: &mut Up, nth: usize) {
    let again = |e: &Event| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again"));
    let mut seen = 0;
    up.wait_for(&format!("another supervisor, the {nth}."), |e| {
        seen += usize::from(again(e));
        seen == nth
    });
    case.ask("count", &["*"]);
}

/// Kills the supervisor, and waits for the next one to have taken over: how long nobody was there.
fn replaced(case: &Case, up: &mut Up, nth: usize) -> Duration {
    let supervisor = case.role("supervisor");
    let killed = clock::monotonic();
    supervisor.signal(Signal::KILL);
    taken_over(case, up, nth);
    clock::monotonic().since(killed)
}

#[test]
fn a_supervisor_that_is_killed_again_and_again_is_replaced_as_fast_as_the_first_time() {
    let case = Case::alone();
    let random = parameter::<usize>("PINFOLD_FAULTS_KILLS");
    let workers: String = (0..5).map(|n| worker(&format!("w{n}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &workers);
    let mains: Vec<_> = (0..5).map(|n| up.started(&format!("w{n}"), 1)).collect();
    case.ask("count", &["*"]);
    let mut took = Vec::new();
    for nth in 1..=random.unwrap_or(8) {
        took.push(replaced(&case, &mut up, nth));
        if random.is_some() {
            support::pause(Duration::from_millis(fastrand::u64(0..3000)));
        }
    }
    eprintln!("nobody was there for {took:?}; at most {:?}", took.iter().max().unwrap());
    let sum = |of: &[Duration]| of.iter().sum::<Duration>();
    // A pause that doubles would make it thirty times as much.
    let (first, last) = (sum(&took[..3]), sum(&took[took.len() - 3..]));
    assert!(last < first * 4, "the last three took {last:?}, the first three {first:?}");
    assert!(mains.iter().all(Process::alive), "no worker has noticed");
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}
