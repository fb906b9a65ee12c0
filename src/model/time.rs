use std::{
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A moment on the host's `CLOCK_MONOTONIC`, as the time since boot (`clock_gettime(2)`).
///
/// The keeper, the logger and every supervisor of one boot read the same clock, so their moments compare. A
/// jump of the wall clock does not touch it; it does not advance while the host is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mono(pub Duration);

impl Mono {
    /// The time from `earlier` to this moment; zero where `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since boot: `mono_ns` of an event.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    /// Saturates: there is nothing before the boot.
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    /// Saturates: a deadline beyond the end of time never comes, it does not wrap.
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}
