//! How long to wait before attempt k: `delay · rate^k`, capped, varied by a number the caller drew.

use std::time::Duration;

use super::restart::RestartPolicy;

/// The delays of one budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before attempt 0. Zero makes every delay zero.
    pub delay: Duration,
    /// What each further delay is multiplied by.
    pub rate: f64,
    /// What no delay exceeds, jitter included.
    pub max: Duration,
    /// The share, 0 to 1, by which a delay is varied in both directions.
    pub jitter: f64,
}

impl Backoff {
    /// The delays of the exit class.
    #[must_use]
    pub const fn of(policy: &RestartPolicy) -> Self {
        Self { delay: policy.retry_delay, rate: policy.backoff_rate, max: policy.max_delay, jitter: policy.jitter }
    }

    /// The delay of attempt `k`, from 0. `draw` is a number in [0, 1): 0.5 leaves the delay as it is.
    ///
    /// The cap acts after the jitter: at the cap a delay only varies downwards.
    #[must_use]
    pub fn delay(&self, k: u32, draw: f64) -> Duration {
        // Zero times an infinite power would be no number.
        if self.delay.is_zero() {
            return Duration::ZERO;
        }
        let power = self.rate.powi(i32::try_from(k).unwrap_or(i32::MAX));
        let plain = (self.delay.as_secs_f64() * power).min(self.max.as_secs_f64());
        let varied = plain * self.jitter.mul_add(2.0f64.mul_add(draw, -1.0), 1.0);
        // Only a number that is none or too large is refused: the cap is the answer to both.
        Duration::try_from_secs_f64(varied).map_or(self.max, |delay| delay.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    fn backoff(delay: f64, rate: f64, max: f64) -> Backoff {
        Backoff { delay: S(delay), rate, max: S(max), jitter: 0.0 }
    }

    #[test]
    fn delays_grow_by_the_rate() {
        let gaps = |b: Backoff, n| (0..n).map(|k| b.delay(k, 0.9).as_secs_f64()).collect::<Vec<_>>();
        assert_eq!(gaps(backoff(5.0, 1.5, 300.0), 3), [5.0, 7.5, 11.25]);
        assert_eq!(gaps(backoff(10.0, 1.5, 300.0), 5), [10.0, 15.0, 22.5, 33.75, 50.625]);
        assert_eq!(gaps(backoff(1.0, 1.0, 300.0), 3), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn no_delay_exceeds_the_cap() {
        let b = Backoff { jitter: 1.0, ..backoff(5.0, 2.0, 12.0) };
        assert_eq!(b.delay(1, 0.999), S(12.0), "jitter does not lift it over the cap");
        assert_eq!(backoff(5.0, 2.0, 12.0).delay(2, 0.5), S(12.0));
        assert_eq!(backoff(5.0, 2.0, 12.0).delay(u32::MAX, 0.5), S(12.0), "2^(2^31) is infinite");
    }

    #[test]
    fn no_delay_stays_none_however_often() {
        assert_eq!(backoff(0.0, 1.5, 300.0).delay(u32::MAX, 0.99), Duration::ZERO);
    }

    #[test]
    fn jitter_varies_in_both_directions_by_its_share() {
        let b = Backoff { jitter: 0.25, ..backoff(8.0, 1.5, 300.0) };
        assert_eq!(b.delay(0, 0.0), S(6.0));
        assert_eq!(b.delay(0, 0.5), S(8.0));
        assert_eq!(b.delay(0, 0.75), S(9.0));
    }

    proptest! {
        #[test]
        fn any_parameters_give_a_delay_within_the_cap(
            delay in any::<Duration>(), rate in any::<f64>(), max in any::<Duration>(),
            jitter in any::<f64>(), k in any::<u32>(), draw in any::<f64>(),
        ) {
            let backoff = Backoff { delay, rate, max, jitter };
            prop_assert!(backoff.delay(k, draw) <= max);
        }
    }
}
