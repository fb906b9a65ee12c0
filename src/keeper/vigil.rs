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
/// Whoever looks so much later than he meant to was himself stopped, frozen or kept from the processor, and most likely not alone.
const LATE: Duration = Duration::from_secs(1);
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

    /// What had been said by `now` was read. Whom that leaves overdue by a second and more has his time again.
    pub(super) fn read_late(&mut self, now: Mono) {
        let late = LATE.min(self.patience);
        let renew = |at: &mut Mono, patience| {
            if *at + late <= now {
                *at = now + patience;
            }
        };
        if let Sign::GiveUpAt(at) = &mut self.sign {
            renew(at, self.patience);
        }
        for (at, patience) in [(&mut self.hello, HELLO), (&mut self.stopped, STOPPED), (&mut self.leaving, LEAVING)] {
            if let Some(at) = at {
                renew(at, patience);
            }
        }
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

/// How long nobody is there after a death. One that had come as far as its work has proved that its kind can: the next follows
/// after 100 ms, or a second after its own start, so that a loop of such deaths is one start a second. One that had not would
/// most likely die of the same again: 100 ms, doubling to 10 s, until one comes as far as its work.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backoff {
    /// Deaths before the work, one after the other.
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(10);
    /// Between two starts, whatever has been achieved in between.
    const APART: Duration = Duration::from_secs(1);

    /// How long to wait after a life of `life`, which `worked` or ended before that.
    pub(super) fn after(&mut self, life: Duration, worked: bool) -> Duration {
        if worked {
            self.failures = 0;
            return Self::FIRST.max(Self::APART.saturating_sub(life));
        }
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LAST);
        self.failures = self.failures.saturating_add(1);
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
    fn who_was_waited_for_by_one_that_could_not_look_is_waited_for_once_more() {
        let mut vigil = greeted();
        vigil.asked(at(100));
        vigil.read_late(at(105));
        assert_eq!(vigil.due(at(105)), Some(Due::GiveUp("it did not answer")), "that is in time");
        vigil.read_late(at(106));
        assert_eq!((vigil.due(at(106)), vigil.deadline()), (None, Some(at(111))));
        vigil.stopped(at(107));
        vigil.read_late(at(111));
        assert_eq!((vigil.due(at(111)), vigil.deadline()), (Some(Due::GiveUp("it did not answer")), Some(at(111))));
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

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn after_deaths_before_the_work_the_pause_doubles_to_ten_seconds_however_long_they_lived() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.after(ms(59_000), false).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
    }

    #[test]
    fn one_that_has_worked_is_followed_after_100_ms_however_often() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..50).map(|_| backoff.after(ms(900), true)).collect();
        assert_eq!(pauses, [ms(100); 50]);
    }

    #[test]
    fn one_that_dies_soon_after_it_has_begun_to_work_is_followed_a_second_after_its_start() {
        let mut backoff = Backoff::default();
        for life in [0, 1, 200, 500, 899] {
            for _ in 0..50 {
                assert_eq!(ms(life) + backoff.after(ms(life), true), ms(1000));
            }
        }
    }

    #[test]
    fn work_ends_a_row_of_failures_and_a_failure_after_work_begins_one() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(ms(20), false);
        }
        assert_eq!(backoff.after(ms(5000), true), ms(100));
        assert_eq!([backoff.after(ms(20), false), backoff.after(ms(20), false)], [ms(100), ms(200)]);
    }

    proptest::proptest! {
        #[test]
        fn no_pause_is_shorter_than_100_ms_or_longer_than_10_s_and_two_starts_with_work_between_them_are_a_second_apart(
            lives in proptest::collection::vec((0_u64..3000, proptest::bool::ANY), 1..200)
        ) {
            let mut backoff = Backoff::default();
            for (life, worked) in lives {
                let pause = backoff.after(ms(life), worked);
                proptest::prop_assert!(pause >= ms(100) && pause <= ms(10_000));
                proptest::prop_assert!(!worked || ms(life) + pause >= ms(1000));
            }
        }
    }
}
