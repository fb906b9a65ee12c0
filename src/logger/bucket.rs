//! How fast a stream may come: a token bucket, one token a byte.

use std::time::Duration;

use crate::model::Mono;

/// Where nothing is left, so much of a second's worth comes back before anything is asked again: a tenth, so that a
/// stream at its limit costs ten wake-ups a second and not one for each byte.
const PORTION: Duration = Duration::from_millis(100);

/// Holds a second's worth at the most, which is what may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// What had been taken before `at` and had not come back then, as the time it takes to.
    owed: Duration,
    at: Mono,
}

impl Bucket {
    /// A full one.
    pub(super) const fn new(rate: u64, now: Mono) -> Self {
        Self { rate, owed: Duration::ZERO, at: now }
    }

    pub(super) const fn rate(&self) -> u64 {
        self.rate
    }

    /// How many bytes may come now.
    pub(super) fn available(&mut self, now: Mono) -> u64 {
        self.owed = self.owed.saturating_sub(now.since(self.at));
        self.at = self.at.max(now);
        let free = Duration::from_secs(1).saturating_sub(self.owed);
        u64::try_from(u128::from(self.rate) * free.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// `bytes` have come.
    pub(super) fn take(&mut self, bytes: u64) {
        // Rounded up, so that many small takes cost what one large one does.
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.rate.max(1)));
        self.owed += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    /// When it is worth asking again.
    pub(super) fn refilled_at(&self) -> Mono {
        // Less than this is owed again: a portion is there.
        self.at + (self.owed + PORTION).saturating_sub(Duration::from_secs(1)).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_no_more_than_the_rate() {
        let mut bucket = Bucket::new(1000, at(0));
        assert_eq!(bucket.available(at(0)), 1000);
        bucket.take(1000);
        assert_eq!(bucket.available(at(0)), 0);
        assert_eq!(bucket.available(at(250)), 250);
        bucket.take(250);
        assert_eq!(bucket.available(at(250)), 0);
    }

    #[test]
    fn what_is_not_used_is_kept_for_a_second_and_no_longer() {
        let mut bucket = Bucket::new(1000, at(0));
        bucket.take(1000);
        assert_eq!(bucket.available(at(3_600_000)), 1000);
    }

    #[test]
    fn it_is_asked_again_when_a_tenth_of_a_second_has_come_back() {
        let mut bucket = Bucket::new(1000, at(0));
        assert_eq!(bucket.available(at(5)), 1000);
        bucket.take(1000);
        assert_eq!(bucket.refilled_at(), at(105));
        assert_eq!(bucket.available(at(105)), 100);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let mut bucket = Bucket::new(1000, at(50));
        bucket.take(1000);
        assert_eq!(bucket.available(at(0)), 0);
        assert_eq!(bucket.available(at(50)), 0);
    }

    proptest! {
        #[test]
        fn over_any_while_no_more_comes_than_its_rate_and_one_burst(
            rate in 1024_u64..1 << 40,
            asks in proptest::collection::vec((0_u64..5_000, 0_u64..1 << 42), 1..50),
        ) {
            let mut bucket = Bucket::new(rate, at(0));
            let (mut now, mut came) = (0, 0_u128);
            for (pause, wanted) in asks {
                now += pause;
                let bytes = wanted.min(bucket.available(at(now)));
                bucket.take(bytes);
                came += u128::from(bytes);
            }
            // One byte of rounding for each ask.
            prop_assert!(came <= u128::from(rate) * u128::from(now + 1000) / 1000 + 50 + u128::from(rate) / 1_000_000);
        }
    }
}
