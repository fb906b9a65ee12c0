//! The only calls to the clocks, so that everything that decides takes time as an argument and every test can choose it.
#![expect(clippy::disallowed_methods, reason = "this is the one place where clocks are read")]

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Mono;

/// The supervisor's clock: tokio's, which tests can pause, anchored to `CLOCK_MONOTONIC`, which the keeper reads too.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    anchor: Mono,
    start: Instant,
}

impl Clock {
    /// A clock of this host.
    #[must_use]
    pub fn new() -> Self {
        Self::anchored_at(monotonic())
    }

    /// A clock that says `anchor` now.
    #[must_use]
    pub fn anchored_at(anchor: Mono) -> Self {
        Self { anchor, start: Instant::now() }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Mono {
        self.anchor + self.start.elapsed()
    }

    /// The same moment as tokio's timers take it. A moment before this clock was made is its making; one too far for
    /// tokio's timers is thirty years from then.
    #[must_use]
    pub fn instant(&self, at: Mono) -> Instant {
        let far = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        self.start + at.since(self.anchor).min(far)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// `CLOCK_MONOTONIC`, for processes without tokio.
#[must_use]
pub fn monotonic() -> Mono {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(t.tv_nsec).unwrap_or(0);
    Mono(Duration::new(secs, nanos))
}

/// The wall clock, for people and other systems only: it can jump.
#[must_use]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
