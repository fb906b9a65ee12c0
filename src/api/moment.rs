//! Moments of this host's clock as dates, for people and other systems.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use jiff::Timestamp;

use crate::clock::{self, Clock};
use crate::model::Mono;

/// The wall clock is looked at for each answer; a difference below this, which slewing and the two readings make, does
/// not move a date, so that the same moment is told in the same words again.
const STEADY: i64 = 5_000_000;

/// The date of a moment.
#[derive(Debug)]
pub(super) struct Calendar {
    clock: Clock,
    /// The wall clock's nanoseconds (since 1970) at the monotonic clock's zero.
    zero: AtomicI64,
}

/// One reading of both clocks: everything in one answer is told from the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// This moment.
    pub now: Mono,
    zero: i64,
}

impl Calendar {
    /// A calendar of `clock`.
    #[must_use]
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, zero: AtomicI64::new(i64::MIN) }
    }

    /// This moment.
    #[must_use]
    pub(super) fn now(&self) -> Moment {
        let now = self.clock.now();
        let wall = i64::try_from(clock::wall().as_nanosecond()).unwrap_or(i64::MAX);
        let read = wall.saturating_sub(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let zero = steady(self.zero.load(Ordering::Relaxed), read);
        self.zero.store(zero, Ordering::Relaxed);
        Moment { now, zero }
    }
}

const fn steady(before: i64, read: i64) -> i64 {
    if before.abs_diff(read) < STEADY.unsigned_abs() { before } else { read }
}

impl Moment {
    /// A moment, with the wall clock's reading of it.
    #[must_use]
    pub fn new(now: Mono, wall: Timestamp) -> Self {
        let zero = wall.as_nanosecond() - i128::from(now.as_nanos());
        Self { now, zero: i64::try_from(zero).unwrap_or(0) }
    }

    /// RFC 3339, UTC, with milliseconds.
    #[must_use]
    pub fn date(&self, at: Mono) -> String {
        let wall = i128::from(self.zero) + i128::from(at.as_nanos());
        // Out of range is beyond the year 9999.
        format!("{:.3}", Timestamp::from_nanosecond(wall).unwrap_or(Timestamp::MAX))
    }

    /// Seconds since 1970.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "to a microsecond")]
    pub fn seconds(&self, at: Mono) -> f64 {
        (i128::from(self.zero) + i128::from(at.as_nanos())) as f64 / 1e9
    }

    /// Milliseconds from `at` until now; 0 where it is to come.
    #[must_use]
    pub fn since_ms(&self, at: Mono) -> u64 {
        millis(self.now.since(at))
    }

    /// Milliseconds from now until `at`; 0 where it has passed.
    #[must_use]
    pub fn until_ms(&self, at: Mono) -> u64 {
        millis(at.since(self.now))
    }
}

/// Whole milliseconds.
#[must_use]
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    #[test]
    fn a_moment_has_a_date_and_a_distance() {
        let moment = Moment::new(at(90_000), "2026-11-20T12:00:30.25Z".parse().unwrap());
        assert_eq!(moment.date(at(60_000)), "2026-11-20T12:00:00.250Z");
        assert_eq!(moment.date(at(91_500)), "2026-11-20T12:00:31.750Z");
        assert_eq!((moment.since_ms(at(60_000)), moment.until_ms(at(60_000))), (30_000, 0));
        assert_eq!((moment.since_ms(at(91_500)), moment.until_ms(at(91_500))), (0, 1500));
    }

    #[test]
    fn a_date_does_not_tremble_and_follows_a_clock_that_was_set() {
        let start = 1_700_000_000_000_000_000;
        assert_eq!(steady(start, start + STEADY - 1), start);
        assert_eq!(steady(start, start - STEADY + 1), start);
        assert_eq!(steady(start, start + STEADY), start + STEADY);
        assert_eq!(steady(start, start - 3_600_000_000_000), start - 3_600_000_000_000);
        assert_eq!(steady(i64::MIN, start), start, "before the first reading there is none");
    }
}
