//! When the supervisor counts as silent, and how long to wait before the next one. Pure: time is an argument.
//!
//! Silence is only noticed where somebody waits for a sign of life, so that an idle host stays idle: after something
//! was told and nothing was heard for [`PATIENCE`], it is asked; without an answer for as long again it is silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Mono;

/// Half of the 10 s in which a supervisor that was told something has to give a sign.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a supervisor may stay stopped (SIGSTOP): somebody may be looking at it.
const STOPPED: Duration = Duration::from_secs(2);
/// How long a new one may take to say hello: it starts on a host that may be short of everything.
const HELLO: Duration = Duration::from_secs(30);
/// How long one that has closed its socket may take to exit.
const LEAVING: Duration = Duration::from_secs(10);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A ping.
    Ask,
    /// The end of patience; why, in words.
    GiveUp(&'static str),
}

/// Watches one supervisor, from its start to its end.
#[derive(Debug)]
pub(super) struct Vigil {
    patience: Duration,
    hello: Option<Mono>,
    sign: Sign,
    stopped: Option<Mono>,
    leaving: Option<Mono>,
}

#[derive(Debug, Clone, Copy)]
enum Sign {
    NotWaitedFor,
    AskAt(Mono),
    GiveUpAt(Mono),
}

impl Vigil {
    /// `watchdog`: systemd's limit, where it watches us; a silent supervisor has to be replaced well within it, because
    /// systemd's answer to silence is to abort the main process, which is the keeper.
    pub(super) fn new(now: Mono, watchdog: Option<Duration>) -> Self {
        let patience = watchdog.map_or(PATIENCE, |limit| PATIENCE.min(limit / 4));
        Self { patience, hello: Some(now + HELLO), sign: Sign::NotWaitedFor, stopped: None, leaving: None }
    }

    /// Something was sent that shows, sooner or later, whether it lives.
    pub(super) fn told(&mut self, now: Mono) {
        if matches!(self.sign, Sign::NotWaitedFor) {
            self.sign = Sign::AskAt(now + self.patience);
        }
    }

    /// A ping was sent.
    pub(super) fn asked(&mut self, now: Mono) {
        if !matches!(self.sign, Sign::GiveUpAt(_)) {
            self.sign = Sign::GiveUpAt(now + self.patience);
        }
    }

    /// Any message came.
    pub(super) fn heard(&mut self) {
        self.hello = None;
        self.sign = Sign::NotWaitedFor;
    }

    pub(super) fn stopped(&mut self, now: Mono) {
        self.stopped.get_or_insert(now + STOPPED);
    }

    /// A continued supervisor also gets its full patience again.
    pub(super) fn continued(&mut self, now: Mono) {
        self.stopped = None;
        if let Sign::GiveUpAt(at) = &mut self.sign {
            *at = now + self.patience;
        }
    }

    /// It has closed its socket.
    pub(super) fn leaving(&mut self, now: Mono) {
        self.sign = Sign::NotWaitedFor;
        self.hello = None;
        self.leaving.get_or_insert(now + LEAVING);
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let sign = match self.sign {
            Sign::NotWaitedFor => None,
            Sign::AskAt(at) | Sign::GiveUpAt(at) => Some(at),
        };
        [self.hello, sign, self.stopped, self.leaving].into_iter().flatten().min()
    }

    pub(super) fn due(&self, now: Mono) -> Option<Due> {
        let over = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        match self.sign {
            _ if over(self.stopped) => Some(Due::GiveUp("it was stopped (SIGSTOP) and not continued")),
            _ if over(self.hello) => Some(Due::GiveUp("it did not say hello")),
            _ if over(self.leaving) => Some(Due::GiveUp("it closed its socket and did not exit")),
            Sign::GiveUpAt(at) if at <= now => Some(Due::GiveUp("it did not answer")),
            Sign::AskAt(at) if at <= now => Some(Due::Ask),
            _ => None,
        }
    }
}

/// 100 ms, doubling to 10 s; from the start again after a life of a minute.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(10);
    const LONG_LIFE: Duration = Duration::from_secs(60);

    /// How long to wait after a life of `life`.
    pub(super) fn after(&mut self, life: Duration) -> Duration {
        if life >= Self::LONG_LIFE {
            self.failures = 0;
        }
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LAST);
        self.failures += 1;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn greeted() -> Vigil {
        let mut vigil = Vigil::new(at(0), None);
        vigil.heard();
        vigil
    }

    #[test]
    fn an_idle_supervisor_is_never_asked() {
        assert_eq!(greeted().deadline(), None);
    }

    #[test]
    fn one_that_was_told_something_is_asked_and_given_up_within_ten_seconds() {
        let mut vigil = greeted();
        vigil.told(at(100));
        vigil.told(at(103));
        assert_eq!(vigil.deadline(), Some(at(105)), "a later message does not put the question off");
        assert_eq!(vigil.due(at(104)), None);
        assert_eq!(vigil.due(at(105)), Some(Due::Ask));
        vigil.asked(at(105));
        vigil.told(at(108));
        assert_eq!(vigil.due(at(109)), None);
        assert_eq!(vigil.due(at(110)), Some(Due::GiveUp("it did not answer")));
    }

    #[test]
    fn any_message_is_a_sign_of_life() {
        let mut vigil = greeted();
        vigil.asked(at(100));
        vigil.heard();
        assert_eq!(vigil.deadline(), None);
    }

    #[test]
    fn a_stop_that_ends_in_time_is_forgiven_with_full_patience() {
        let mut vigil = greeted();
        vigil.asked(at(96));
        vigil.stopped(at(100));
        vigil.continued(at(101));
        assert_eq!(vigil.deadline(), Some(at(106)));
        vigil.stopped(at(103));
        assert_eq!(vigil.due(at(105)), Some(Due::GiveUp("it was stopped (SIGSTOP) and not continued")));
    }

    #[test]
    fn a_silent_supervisor_is_replaced_well_within_systemds_limit() {
        let limit = Duration::from_secs(8);
        let mut vigil = Vigil::new(at(0), Some(limit));
        vigil.heard();
        vigil.asked(at(4));
        assert_eq!(vigil.deadline(), Some(at(6)));
    }

    #[test]
    fn one_that_never_says_hello_is_replaced() {
        assert_eq!(Vigil::new(at(0), None).due(at(30)), Some(Due::GiveUp("it did not say hello")));
    }

    #[test]
    fn waits_double_to_ten_seconds_and_start_anew_after_a_minute() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(59);
        let waits: Vec<_> = (0..9).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        assert_eq!(backoff.after(Duration::from_secs(60)).as_millis(), 100);
        assert_eq!(backoff.after(short).as_millis(), 200);
    }
}
