//! From when a growth is counted. Pure: times and numbers come as arguments.
//!
//! The counters of a cgroup above a run say how often its limit was reached, never when and for whom. So the growth has
//! to be counted from a reading that is older than the death in question and not much older: an OOM that a sibling
//! caused minutes ago must not be blamed for one of the host's now, and of two victims of one OOM the second must
//! not be compared with the reading that the first one's end led to.
//!
//! ```text
//!   observations      o───────────o────────────────────────o──o
//!                                 ▲                          │  ▲
//!                                 └── the newest older than  ├──┘ its end, or the first sight of its kill
//!                                     that by SETTLE         └ perhaps the OOM that killed it
//! ```

use std::{collections::VecDeque, time::Duration};

use crate::model::{Counters, MemoryEvents, Mono};

/// How long before the first sign of a kill (a grown `oom_kill`, the end of the process) the OOM can have been. SIGKILL
/// acts within milliseconds; a process on its way out of uninterruptible sleep takes longer, and its `oom_kill` is seen
/// before its end then.
pub const SETTLE: Duration = Duration::from_secs(2);

/// How long after a limit was reached its victim may take to end: the kernel waits for a lock that all cgroups share, writes its
/// report, and kills then. Older observations are of no use to anybody, but for the newest of them.
const KEPT: Duration = Duration::from_secs(60);

/// No more observations than these are kept. Where limits are reached a hundred times within [`KEPT`], those in
/// between go first.
const MOST: usize = 64;

/// The values that a counter had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<T> {
    seen: VecDeque<(Mono, T)>,
}

/// The value from before a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before<T> {
    /// Read before what led to it can have happened.
    Sound(T),
    /// Read before it, but perhaps after what led to it: growth since then proves something, none proves nothing.
    Close(T),
    /// Nothing was read before it.
    Unknown,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { seen: VecDeque::new() }
    }
}

impl<T: Copy + PartialEq> History<T> {
    /// One that began with `value`, before everything else.
    #[must_use]
    pub fn since_ever(value: T) -> Self {
        Self { seen: [(Mono(Duration::ZERO), value)].into() }
    }

    /// Takes a reading.
    pub fn observe(&mut self, now: Mono, value: T) {
        match self.seen.back() {
            // The older observation of the same is worth more.
            Some((_, newest)) if *newest == value => return,
            // Two readers can be overtaken by each other.
            Some((at, _)) => self.seen.push_back((now.max(*at), value)),
            None => self.seen.push_back((now, value)),
        }
        while self.seen.get(1).is_some_and(|(at, _)| *at + KEPT <= now) {
            self.seen.pop_front();
        }
        if self.seen.len() > MOST {
            // The oldest is the one that everything within SETTLE is compared with.
            self.seen.remove(1);
        }
    }

    /// The value to count the growth from that a death explains whose first sign was at `dead`.
    #[must_use]
    pub fn before(&self, dead: Mono) -> Before<T> {
        if let Some((_, value)) = self.seen.iter().rev().find(|(at, _)| *at + SETTLE <= dead) {
            return Before::Sound(*value);
        }
        match self.seen.front() {
            Some((at, value)) if *at <= dead => Before::Close(*value),
            _ => Before::Unknown,
        }
    }

    /// The newest value from before `of` last grew, where that was seen before [`Self::before`]'s moment, but not so long
    /// before that nobody can die of it any more.
    #[must_use]
    pub fn before_growth(&self, dead: Mono, of: impl Fn(&T) -> u64) -> Option<T> {
        let mut older = self.seen.iter().rev().skip_while(|(at, _)| *at + SETTLE > dead);
        let (at, newest) = older.next()?;
        let mut grown_at = *at;
        for (at, value) in older {
            if of(value) < of(newest) {
                return (dead <= grown_at + KEPT).then_some(*value);
            }
            grown_at = *at;
        }
        None
    }

    /// The newest value.
    #[must_use]
    pub fn last(&self) -> Option<T> {
        self.seen.back().map(|(_, value)| *value)
    }
}

/// What the readings of one run's counters say of OOM kills in it. Kills within [`SETTLE`] of each other are one event:
/// a limit is counted as reached, and its victims as killed, in several steps that a reading can fall between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kills {
    last: Counters,
    /// The latest event. Boxed, for most runs have none.
    event: Option<Box<Latest>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Latest {
    /// The counters before it.
    before: Counters,
    /// Its first and last sight.
    seen: (Mono, Mono),
}

impl Kills {
    /// Those of a run whose counters began as `baseline`.
    #[must_use]
    pub const fn since(baseline: Counters) -> Self {
        Self { last: baseline, event: None }
    }

    /// Takes a reading; answers with the one before it.
    pub fn read(&mut self, now: Mono, counters: Counters) -> Counters {
        let before = std::mem::replace(&mut self.last, counters);
        if sum(counters.since(before), |e| e.oom + e.oom_kill + e.oom_group_kill) > 0 {
            match &mut self.event {
                Some(event) if now.since(event.seen.1) < SETTLE => event.seen.1 = now,
                event => *event = Some(Box::new(Latest { before, seen: (now, now) })),
            }
        }
        before
    }

    /// The newest reading.
    #[must_use]
    pub const fn last(&self) -> Counters {
        self.last
    }

    /// When the latest kill was first seen, where it was one for which no limit of the run's own was reached.
    #[must_use]
    pub fn from_above(&self) -> Option<Mono> {
        let event = self.event.as_deref()?;
        let grown = self.last.since(event.before);
        let killed = sum(grown, |e| e.oom_kill + e.oom_group_kill) > 0;
        let own = sum(grown, |e| e.oom) > 0;
        (killed && !own).then_some(event.seen.0)
    }
}

fn sum(counters: Counters, of: fn(MemoryEvents) -> u64) -> u64 {
    [counters.local, counters.memory].into_iter().flatten().map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    fn history(seen: &[(u64, u64)]) -> History<u64> {
        let mut history = History::default();
        for (ms, value) in seen {
            history.observe(at(*ms), *value);
        }
        history
    }

    #[test]
    fn two_victims_of_one_oom_are_compared_with_the_same_reading() {
        // The first one's end was observed, with the OOM in it.
        let history = history(&[(0, 0), (60_000, 1)]);
        assert_eq!(history.before(at(60_000)), Before::Sound(0));
        assert_eq!(history.before(at(60_300)), Before::Sound(0));
    }

    #[test]
    fn an_oom_of_minutes_ago_is_not_blamed_for_a_death_now() {
        let history = history(&[(0, 0), (60_000, 1)]);
        assert_eq!(history.before(at(240_000)), Before::Sound(1));
        assert_eq!(history.before(at(61_999)), Before::Sound(0), "within the time that a victim may take");
        assert_eq!(history.before(at(62_000)), Before::Sound(1));
    }

    #[test]
    fn a_death_soon_after_the_start_is_compared_with_the_start() {
        assert_eq!(history(&[(1000, 4), (1500, 5)]).before(at(2000)), Before::Close(4));
        assert_eq!(History::since_ever(0).before(at(2000)), Before::Sound(0), "a fresh cgroup has counted nothing");
    }

    #[test]
    fn a_death_before_the_first_reading_is_compared_with_none() {
        assert_eq!(history(&[(9000, 4)]).before(at(8999)), Before::Unknown);
        assert_eq!(History::<u64>::default().before(at(1)), Before::Unknown);
    }

    #[test]
    fn a_growth_from_before_the_moment_that_counts_is_found_for_a_minute() {
        let history = history(&[(0, 5), (60_000, 6), (63_000, 6)]);
        let before = |dead| history.before_growth(at(dead), |value| *value);
        assert_eq!(before(61_000), None, "that one is within it");
        assert_eq!(before(62_000), Some(5));
        assert_eq!(before(120_000), Some(5));
        assert_eq!(before(120_001), None);
        assert_eq!(super::History::since_ever(7).before_growth(at(9000), |value| *value), None);
    }

    #[test]
    fn an_unchanged_value_keeps_its_first_time() {
        let history = history(&[(0, 7), (59_000, 7), (60_000, 7)]);
        assert_eq!(history.before(at(60_500)), Before::Sound(7));
        assert_eq!(history.seen.len(), 1, "and costs nothing");
    }

    #[test]
    fn a_storm_of_ooms_costs_no_more_than_its_bound_and_never_the_reading_before_it() {
        let mut history = history(&[(0, 0)]);
        for n in 1..=10_000 {
            history.observe(at(100_000 + n / 10), n);
        }
        assert_eq!(history.seen.len(), MOST);
        assert_eq!(history.before(at(101_000)), Before::Sound(0));
        assert_eq!(history.last(), Some(10_000));
        history.observe(at(900_000), 0);
        assert_eq!(history.seen.len(), 2, "what is old goes, but for the newest of it");
        assert_eq!(history.before(at(900_000)), Before::Sound(10_000));
    }

    proptest! {
        #[test]
        fn what_is_answered_is_the_newest_reading_of_old_enough_an_age(
            steps in proptest::collection::vec((0..3000_u64, 0..3_u64), 1..40), dead in 0..60_000_u64,
        ) {
            let mut now = 0;
            let mut all = Vec::new();
            let mut history = History::default();
            for (step, value) in steps {
                now += step;
                history.observe(at(now), value);
                all.push((now, value));
            }
            let dead = dead.max(now.saturating_sub(50_000));
            let sound = all.iter().rev().find(|(then, _)| then + 2000 <= dead).map(|(_, value)| *value);
            match history.before(at(dead)) {
                Before::Sound(value) => prop_assert_eq!(Some(value), sound),
                Before::Close(value) => prop_assert!(sound.is_none() && value == all[0].1 && all[0].0 <= dead),
                Before::Unknown => prop_assert!(all[0].0 > dead),
            }
        }
    }

    /// Local and hierarchical counts alike, as the kernel keeps them for a run without cgroups below it.
    fn counters(oom: u64, oom_kill: u64) -> Counters {
        let events = MemoryEvents { max: 70, oom, oom_kill, ..MemoryEvents::default() };
        Counters { local: Some(events), memory: Some(events), pids_max: Some(1) }
    }

    #[test]
    fn a_kill_without_a_limit_of_its_own_is_from_above() {
        let mut kills = Kills::since(counters(3, 3));
        assert_eq!(kills.read(at(10), counters(3, 3)), counters(3, 3));
        assert_eq!(kills.from_above(), None);
        kills.read(at(5000), counters(3, 4));
        assert_eq!(kills.from_above(), Some(at(5000)));
        kills.read(at(5001), Counters { pids_max: Some(9), ..counters(3, 4) });
        assert_eq!(kills.from_above(), Some(at(5000)), "the end is not the first sign of it");
        kills.read(at(40_000), counters(3, 4));
        assert_eq!(kills.from_above(), Some(at(5000)), "also where it takes long to die");
    }

    #[test]
    fn a_kill_at_its_own_limit_is_not() {
        let mut kills = Kills::since(counters(0, 0));
        kills.read(at(10), counters(1, 0));
        kills.read(at(11), counters(1, 1));
        assert_eq!(kills.from_above(), None, "a reading between the two steps of one kill");
    }

    #[test]
    fn an_earlier_kill_at_its_own_limit_does_not_hide_one_from_above() {
        let mut kills = Kills::since(counters(0, 0));
        kills.read(at(10), counters(1, 1));
        kills.read(at(10_000), counters(1, 2));
        assert_eq!(kills.from_above(), Some(at(10_000)));
    }

    #[test]
    fn a_kill_in_a_cgroup_that_the_worker_made_is_its_own_where_that_ones_limit_was_reached() {
        let mut kills = Kills::since(counters(0, 0));
        let below = MemoryEvents { oom: 1, oom_kill: 1, ..MemoryEvents::default() };
        kills.read(at(10), Counters { memory: Some(below), ..counters(0, 0) });
        assert_eq!(kills.from_above(), None);
    }

    #[test]
    fn reclaim_at_a_limit_is_no_kill() {
        let mut kills = Kills::since(counters(0, 0));
        let busy = MemoryEvents { max: 9000, high: 50, ..MemoryEvents::default() };
        kills.read(at(10), Counters { local: Some(busy), memory: Some(busy), pids_max: Some(50) });
        assert_eq!(kills.from_above(), None);
    }
}
