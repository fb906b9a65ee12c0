//! Which runs are old, by a clock that can be set. Pure: both clocks are arguments.
//!
//! Only the wall clock goes on over supervisors and boots, so ages are told by it. A battery that has died, or a hand that slips,
//! moves it by years, and a history that is deleted then is not made again by setting it right.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::Mono;

/// What may be forgotten.
#[derive(Debug)]
pub(super) struct Age {
    retention: Duration,
    /// The last moment that is known to have been, by both clocks.
    last: Option<(Mono, Timestamp)>,
    /// The wall clock was moved: nothing is old before.
    not_before: Mono,
}

impl Age {
    /// `newest` is the latest moment that an earlier supervisor has written, if there was one.
    pub(super) fn new(retention: Duration, newest: Option<Timestamp>, now: Mono) -> Self {
        Self { retention, last: newest.map(|newest| (now, newest)), not_before: Mono::default() }
    }

    /// Before which moment a run must have ended to be forgotten. `None`: nothing is to be.
    ///
    /// Where the wall clock has moved by more than the retention beyond the time that has passed, everything is kept for as long as
    /// the retention once more: in this time it can be set right. That a host was off for so long looks the same, and costs
    /// no more than that.
    pub(super) fn old_before(&mut self, now: Mono, wall: Timestamp) -> Option<Timestamp> {
        if let Some((then, said)) = self.last.replace((now, wall)) {
            let passed = SignedDuration::try_from(now.since(then)).unwrap_or(SignedDuration::MAX);
            if wall.duration_since(said).saturating_sub(passed).unsigned_abs() > self.retention {
                self.not_before = now + self.retention;
            }
        }
        if now < self.not_before { None } else { wall.checked_sub(self.retention).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    fn up(since: Duration) -> Mono {
        Mono(since)
    }

    fn said(since: Duration) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + since
    }

    #[test]
    fn a_run_is_old_when_the_retention_has_passed_since_its_end() {
        let mut age = Age::new(DAY, None, up(HOUR));
        for hours in 1..100 {
            let time = HOUR * hours;
            assert_eq!(age.old_before(up(time), said(time)), Some(said(time) - DAY));
        }
    }

    #[test]
    fn a_clock_set_by_years_makes_nothing_old_before_the_retention_has_passed_once_more() {
        for set in [|time| said(time + YEARS), |time| said(time) - YEARS] {
            let mut age = Age::new(DAY, Some(said(Duration::ZERO)), up(Duration::ZERO));
            age.old_before(up(HOUR), said(HOUR)).unwrap();
            for hours in 2..26 {
                assert_eq!(age.old_before(up(HOUR * hours), set(HOUR * hours)), None, "hour {hours}");
            }
            assert_eq!(age.old_before(up(HOUR * 26), set(HOUR * 26)), Some(set(HOUR * 26) - DAY));
        }
    }

    #[test]
    fn a_clock_that_is_set_right_again_has_cost_no_run() {
        let mut age = Age::new(DAY, None, up(HOUR));
        age.old_before(up(HOUR), said(HOUR)).unwrap();
        assert_eq!(age.old_before(up(HOUR * 2), said(HOUR * 2 + YEARS)), None);
        assert_eq!(age.old_before(up(HOUR * 3), said(HOUR * 3)), None, "set once more");
        assert_eq!(
            age.old_before(up(HOUR * 27), said(HOUR * 27)),
            Some(said(HOUR * 3)),
            "all that is younger is there"
        );
    }

    #[test]
    fn a_start_under_a_clock_far_from_what_was_written_last_forgets_nothing_at_once() {
        for now in [said(YEARS), said(DAY * 2)] {
            let mut age = Age::new(DAY, Some(said(Duration::ZERO)), up(HOUR));
            assert_eq!(age.old_before(up(HOUR), now), None);
            assert_eq!(age.old_before(up(HOUR + DAY), now + DAY), Some(now));
        }
    }

    #[test]
    fn a_clock_set_back_by_twice_the_time_that_has_passed_was_set() {
        let mut age = Age::new(DAY, Some(said(DAY * 3)), up(Duration::ZERO));
        assert_eq!(age.old_before(up(DAY * 3), said(Duration::ZERO)), None);
    }

    #[test]
    fn a_clock_that_is_slewed_or_set_by_hours_changes_nothing() {
        let mut age = Age::new(DAY, Some(said(Duration::ZERO)), up(Duration::ZERO));
        assert!(age.old_before(up(HOUR), said(HOUR * 9)).is_some());
        assert!(age.old_before(up(HOUR * 2), said(HOUR * 2)).is_some());
    }
}
