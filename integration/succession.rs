//! What clients notice where one supervisor follows another, because its binary was replaced or because it was killed: nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use rustix::process::Signal;
use support::{Case, door::Door, run::finish, up::Up, wait_until, worker};

/// How one comes to follow another.
#[derive(Debug, Clone, Copy)]
enum How {
    Replaced,
    Killed,
}

const BOTH: [How; 4] = [How::Replaced, How::Killed, How::Killed, How::Replaced];

impl How {
    /// Has it done, and waits until the next one answers.
    fn carry_out(self, case: &Case) {
        let old = case.role("supervisor");
        match self {
            Self::Replaced => {
                let ran = finish(&mut case.pinfold("reexec"));
                assert_eq!(ran.code, Some(0), "{ran:?}");
            }
            Self::Killed => old.signal(Signal::KILL),
        }
        old.wait_gone("the old supervisor");
        wait_until("another one answers", || Door::ask_whoever_is_there(&case.socket(), "/v1/health"));
    }
}

#[test]
fn whoever_asks_meanwhile_is_answered_by_the_next_one() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    let main = up.started("w", 1);
    let (over, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let ran = finish(case.pinfold("ps").arg("-q"));
                assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "w\n"), "{ran:?}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        for how in BOTH {
            let before = asked.load(Ordering::Relaxed);
            how.carry_out(&case);
            wait_until("somebody has asked", || (asked.load(Ordering::Relaxed) > before).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(main.alive());
    // What is asked once it is over is told at once that there is nobody.
    let down = finish(&mut case.pinfold("down"));
    assert_eq!(down.code, Some(0), "{down:?}");
    let nobody = finish(&mut case.pinfold("ps"));
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert!(nobody.stderr.contains("no supervisor answers"), "{nobody:?}");
    up.reap_killed();
}
