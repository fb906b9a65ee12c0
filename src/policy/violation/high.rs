//! `memory.high`: its counter says that it was crossed, and anon + shmem say whether that matters. Page cache alone is no
//! violation, however much of it there is: the kernel takes it back.

use std::time::Duration;

use super::{MemoryHigh, STEPS};
use crate::model::{Mono, duration, size};

/// A run whose memory is at least half its own, not cache, may be on its way: the counter grows when `memory.current`
/// crosses, some of which is the kernel's or cache, and a watch that has just fired rests. So there are a few more looks.
const NEAR: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// The kernel charges memory in batches of 64 pages: less is no change.
const GRAIN: u64 = 256 << 10;
/// Two looks are at least so far apart.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a look comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Look again at this moment.
    Again(Mono),
    /// An episode begins. Look again at this moment.
    Open(Mono),
    /// It throttles without progress. Look again at this moment.
    Expired(Mono),
    /// It is over, whatever it was.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct High {
    /// Looks since it was suspected, or since it began.
    looks: u8,
    /// Whether `memory.high` is out of force.
    pub(super) lifted: bool,
    /// Whether it was told that it throttles without progress.
    expired: bool,
    /// What `high` grew by.
    pub(super) grown: u64,
    /// Anon + shmem at the beginning, or when it had last become less.
    mark: u64,
    /// When that was.
    marked: Mono,
    /// Anon + shmem when it was last read.
    last: u64,
}

impl High {
    /// The counter grew once more while it is not certain.
    pub(super) const fn suspect(&mut self, grown: u64) {
        self.looks = 0;
        self.grown = self.grown.saturating_add(grown);
    }

    /// Takes a reading of anon + shmem; `None` where there was none to be had.
    pub(super) fn look(&mut self, rule: &MemoryHigh, open: bool, resident: Option<u64>, now: Mono) -> Look {
        self.last = resident.unwrap_or(self.last);
        match resident {
            _ if open => self.look_again(rule, resident, now),
            Some(resident) if resident >= rule.bytes => {
                *self = Self { looks: 0, mark: resident, marked: now, lifted: !rule.throttle, ..*self };
                Look::Open(self.next(rule, now))
            }
            Some(resident) if resident >= rule.bytes / 2 => {
                let wait = NEAR.get(usize::from(self.looks));
                self.looks = self.looks.saturating_add(1);
                wait.map_or(Look::Over, |wait| Look::Again(now + *wait))
            }
            _ => Look::Over,
        }
    }

    fn look_again(&mut self, rule: &MemoryHigh, resident: Option<u64>, now: Mono) -> Look {
        if let Some(resident) = resident {
            // Below by a margin, so that it does not come and go at the edge.
            if resident < rule.bytes - rule.bytes / 20 {
                return Look::Over;
            }
            if resident.saturating_add((rule.bytes / 100).max(GRAIN)) <= self.mark {
                self.mark = resident;
                self.marked = now;
            }
        }
        self.looks = self.looks.saturating_add(1);
        if self.expires(rule).is_some_and(|at| at <= now) {
            self.expired = true;
            return Look::Expired(self.next(rule, now));
        }
        Look::Again(self.next(rule, now))
    }

    /// When it will have throttled for too long.
    fn expires(&self, rule: &MemoryHigh) -> Option<Mono> {
        (rule.throttle && !self.lifted && !self.expired).then(|| self.marked + rule.throttle_deadline)
    }

    fn next(&self, rule: &MemoryHigh, now: Mono) -> Mono {
        let look = now + STEPS[usize::from(self.looks).min(STEPS.len() - 1)];
        self.expires(rule).map_or(look, |at| at.min(look)).max(now + SHORTEST)
    }

    pub(super) fn observed(&self) -> String {
        format!("anon + shmem {} (high +{})", size(self.last), self.grown)
    }

    pub(super) fn stuck(&self, now: Mono) -> String {
        let time = duration(now.since(self.marked));
        format!("throttled at memory.high for {time} without progress: anon + shmem {}", size(self.last))
    }
}
