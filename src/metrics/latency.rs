//! How long something takes, counted where it happens: no lock, no allocation, a few atomics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets, in microseconds. A decision takes some ten of them; what is seconds is a supervisor that gets no CPU.
const BOUNDS: [u64; 12] = [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Latency {
    /// One for each bound, and one for what is above all.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// What a [`Latency`] has counted until now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Latencies {
    /// Upper bound in seconds, and how many were in this bucket alone. The last one has no end.
    pub buckets: Vec<(f64, u64)>,
    /// How many there were, those above every bound included.
    pub count: u64,
    /// How long they took together, in seconds.
    pub sum: f64,
}

impl Latency {
    /// Counts one that took so long.
    pub fn observe(&self, took: Duration) {
        let micros = took.as_micros();
        let bucket = BOUNDS.iter().position(|bound| micros <= u128::from(*bound)).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted until now.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of 104 days are told exactly")]
    pub fn read(&self) -> Latencies {
        let counts = self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        let bound = |micros: &u64| Duration::from_micros(*micros).as_secs_f64();
        Latencies {
            buckets: BOUNDS.iter().map(bound).chain([f64::INFINITY]).zip(counts).collect(),
            // The sum of what was read, so that no bucket has more than all of them.
            count: counts.iter().sum(),
            sum: self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_in_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        for micros in [0, 50, 51, 1_000, 40_000_000] {
            latency.observe(Duration::from_micros(micros));
        }
        let Latencies { buckets, count, sum } = latency.read();
        let counted: Vec<_> = buckets.iter().filter(|(_, n)| *n > 0).copied().collect();
        assert_eq!(counted, [(0.000_05, 2), (0.0001, 1), (0.001, 1), (f64::INFINITY, 1)]);
        assert_eq!(count, 5);
        assert!((sum - 40.001_101).abs() < 1e-9, "{sum}");
    }
}
