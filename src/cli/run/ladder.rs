//! What a `run` does about signals and deadlines. Pure: moments come in, steps go out.
//!
//! ```text
//! Running ── TERM, INT, --timeout ──▶ Stopping ── stop timeout, second INT ──▶ Killed ── 10 s ──▶ (said so, waits on)
//! ```
//! HUP, QUIT, USR1 and USR2 are passed on and start no clock: to many programs they mean "reload" or "tell me", and it
//! is the command's to end by them or not. A terminal's Ctrl-C does not come this way: it is the command's own.

use std::time::Duration;

use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::model::{KilledBy, Mono};
use crate::policy::cause::Asked;
use crate::spec::types::Stop;

/// How long `cgroup.kill` may take before we say that something does not die.
pub(super) const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);

/// A step to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Pass a signal on.
    Signal(i32),
    /// Ask to end: the signal, with what keeps the command from hearing it taken away first.
    Ask(i32),
    /// `cgroup.kill`.
    Kill,
    /// Say that it was killed and is not dead.
    SayUnkillable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Killed,
}

/// Where a run stands between "started" and "everything of it is dead".
#[derive(Debug)]
pub(super) struct Ladder {
    stop: Stop,
    phase: Phase,
    deadline: Option<Mono>,
    interrupts: u32,
    asked: Asked,
    timed_out: bool,
}

impl Ladder {
    /// Nothing was asked and no clock runs.
    pub(super) fn new(stop: Stop) -> Self {
        Self { stop, phase: Phase::Running, deadline: None, interrupts: 0, asked: Asked::default(), timed_out: false }
    }

    /// Starts the clock of `--timeout`: the program runs since `now`.
    pub(super) fn started(&mut self, now: Mono, timeout: Option<Duration>) {
        if self.phase == Phase::Running {
            self.deadline = timeout.map(|timeout| now + timeout);
        }
    }

    /// When [`Self::on_deadline`] has something to say.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.deadline
    }

    /// What had been asked of the command so far.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// Whether its `--timeout` had passed.
    pub(super) fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// Whether it was killed and [`UNKILLABLE_AFTER`] has passed.
    pub(super) fn gave_up(&self) -> bool {
        self.phase == Phase::Killed && self.deadline.is_none()
    }

    /// A signal was sent to us.
    pub(super) fn on_signal(&mut self, signal: i32, now: Mono) -> Option<Act> {
        match signal {
            SIGINT => {
                self.interrupts += 1;
                if self.interrupts > 1 { Some(self.kill(KilledBy::Operator, now)) } else { self.ask(SIGINT, now) }
            }
            SIGTERM => self.ask(self.stop.signal, now),
            SIGHUP | SIGQUIT => {
                if self.phase == Phase::Running {
                    self.asked.stop = Some((KilledBy::Stop, signal));
                }
                Some(Act::Signal(signal))
            }
            other => Some(Act::Signal(other)),
        }
    }

    /// It is `now`; the next step, if one is due.
    pub(super) fn on_deadline(&mut self, now: Mono) -> Option<Act> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.phase {
            Phase::Running => {
                self.timed_out = true;
                self.ask(self.stop.signal, now)
            }
            Phase::Stopping if self.timed_out => Some(self.kill(KilledBy::Policy, now)),
            Phase::Stopping => Some(self.kill(KilledBy::StopTimeout, now)),
            Phase::Killed => {
                self.deadline = None;
                Some(Act::SayUnkillable)
            }
        }
    }

    /// The main process has ended and others of its cgroup live: they are asked once more, within the time that
    /// is left or, where none had been asked for, within the stop timeout.
    pub(super) fn drain(&mut self, now: Mono) -> Option<Act> {
        match self.phase {
            Phase::Running => {
                self.phase = Phase::Stopping;
                self.deadline = Some(now + self.stop.timeout);
                Some(Act::Ask(SIGTERM))
            }
            Phase::Stopping => Some(Act::Ask(SIGTERM)),
            Phase::Killed => None,
        }
    }

    fn ask(&mut self, signal: i32, now: Mono) -> Option<Act> {
        if self.phase == Phase::Killed {
            return None;
        }
        let by = if self.timed_out { KilledBy::Policy } else { KilledBy::Stop };
        self.asked.stop = Some((by, signal));
        if self.phase == Phase::Running {
            self.phase = Phase::Stopping;
            self.deadline = Some(now + self.stop.timeout);
        }
        Some(Act::Ask(signal))
    }

    fn kill(&mut self, by: KilledBy, now: Mono) -> Act {
        // Killing again is harmless, and it is what a person who insists expects; whose kill it was stays.
        self.asked.kill.get_or_insert(by);
        if self.phase != Phase::Killed {
            self.phase = Phase::Killed;
            self.deadline = Some(now + UNKILLABLE_AFTER);
        }
        Act::Kill
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{SIGKILL, SIGUSR1};

    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(1000 + secs))
    }

    fn ladder() -> Ladder {
        Ladder::new(Stop { signal: SIGQUIT, timeout: Duration::from_secs(30), ..Stop::default() })
    }

    #[test]
    fn a_stop_asks_with_the_stop_signal_and_kills_at_its_timeout() {
        let mut ladder = ladder();
        ladder.started(at(0), None);
        assert_eq!(ladder.deadline(), None, "nothing is due while nothing was asked");
        assert_eq!(ladder.on_signal(SIGTERM, at(5)), Some(Act::Ask(SIGQUIT)));
        assert_eq!(ladder.deadline(), Some(at(35)));
        assert_eq!(ladder.on_deadline(at(34)), None);
        assert_eq!(ladder.on_deadline(at(35)), Some(Act::Kill));
        assert_eq!(
            ladder.asked(),
            Asked { stop: Some((KilledBy::Stop, SIGQUIT)), kill: Some(KilledBy::StopTimeout), policy: None }
        );
        assert!(!ladder.timed_out());
    }

    #[test]
    fn asking_again_does_not_put_the_kill_off() {
        let mut ladder = ladder();
        ladder.on_signal(SIGTERM, at(0));
        assert_eq!(ladder.on_signal(SIGTERM, at(20)), Some(Act::Ask(SIGQUIT)));
        assert_eq!(ladder.deadline(), Some(at(30)));
    }

    #[test]
    fn the_first_interrupt_is_passed_on_and_the_second_kills() {
        let mut ladder = ladder();
        assert_eq!(ladder.on_signal(SIGINT, at(0)), Some(Act::Ask(SIGINT)));
        assert_eq!(ladder.on_signal(SIGINT, at(1)), Some(Act::Kill));
        assert_eq!(ladder.asked().kill, Some(KilledBy::Operator));
        assert_eq!(ladder.on_signal(SIGTERM, at(2)), None, "what was killed is not asked any more");
    }

    #[test]
    fn a_timeout_asks_then_kills_and_is_remembered_as_one() {
        let mut ladder = ladder();
        ladder.started(at(0), Some(Duration::from_secs(3)));
        assert_eq!(ladder.on_deadline(at(3)), Some(Act::Ask(SIGQUIT)));
        assert!(ladder.timed_out());
        assert_eq!(ladder.on_deadline(at(33)), Some(Act::Kill));
        assert_eq!(
            ladder.asked(),
            Asked { stop: Some((KilledBy::Policy, SIGQUIT)), kill: Some(KilledBy::Policy), policy: None }
        );
    }

    #[test]
    fn a_stop_during_the_launch_is_not_undone_by_its_success() {
        let mut ladder = ladder();
        ladder.on_signal(SIGTERM, at(0));
        ladder.started(at(1), Some(Duration::from_secs(3600)));
        assert_eq!(ladder.deadline(), Some(at(30)));
    }

    #[test]
    fn a_hangup_and_user_signals_start_no_clock() {
        for signal in [SIGHUP, SIGQUIT, SIGUSR1] {
            let mut ladder = ladder();
            assert_eq!(ladder.on_signal(signal, at(0)), Some(Act::Signal(signal)));
            assert_eq!(ladder.deadline(), None, "{signal}");
        }
        let mut ladder = ladder();
        ladder.on_signal(SIGHUP, at(0));
        assert_eq!(ladder.asked().stop, Some((KilledBy::Stop, SIGHUP)), "a death by it is one on request");
    }

    #[test]
    fn what_a_command_leaves_behind_has_the_stop_timeout() {
        let mut ladder = ladder();
        ladder.started(at(0), Some(Duration::from_secs(5)));
        assert_eq!(ladder.drain(at(1)), Some(Act::Ask(SIGTERM)));
        assert_eq!(ladder.on_deadline(at(31)), Some(Act::Kill));
        assert!(!ladder.timed_out(), "the command had ended before its time");
    }

    #[test]
    fn what_does_not_die_is_said_once() {
        let mut ladder = ladder();
        ladder.on_signal(SIGINT, at(0));
        ladder.on_signal(SIGINT, at(0));
        assert_eq!(ladder.on_deadline(at(10)), Some(Act::SayUnkillable));
        assert!(ladder.gave_up());
        assert_eq!(ladder.deadline(), None);
        assert_eq!(ladder.on_signal(SIGINT, at(11)), Some(Act::Kill));
    }

    #[test]
    fn a_stop_signal_of_sigkill_is_one() {
        let mut ladder = Ladder::new(Stop { signal: SIGKILL, ..Stop::default() });
        assert_eq!(ladder.on_signal(SIGTERM, at(0)), Some(Act::Ask(SIGKILL)));
    }
}
