//! Which readings of its counters the exit of a run is judged by.

use std::time::Duration;

use crate::model::{Counters, MemoryEvents, Mono};

/// The counters of a run: the last reading, and the one that an exit is compared with.
///
/// An OOM kill is often read *before* the exit it causes. So a reading in which an OOM count grew does not become the
/// baseline while the main process may be dying of it: never, where an OOM takes the whole run (if the main
/// process lives on, nothing was taken) or where the main process was seen to be dying; else after [`Readings::SETTLE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) struct Readings {
    last: Counters,
    /// Where `last` holds an OOM that is not settled. Boxed, for most runs have none.
    unsettled: Option<Box<Unsettled>>,
    /// The main process was dying when a kill was read: whether that was for the run's own limit.
    doomed: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unsettled {
    /// The reading before it.
    baseline: Counters,
    since: Mono,
}

impl Readings {
    /// How long a process that was sent SIGKILL may take to be reaped before its OOM is taken for another's.
    const SETTLE: Duration = Duration::from_secs(2);

    pub(in crate::worker) const fn new(baseline: Counters) -> Self {
        Self { last: baseline, unsettled: None, doomed: None }
    }

    /// Takes a new reading; answers with the growth since the one before.
    pub(in crate::worker) fn read(&mut self, counters: Counters, oom_takes_all: bool, now: Mono) -> Counters {
        if self.is_settled(oom_takes_all, now) {
            self.unsettled = None;
        }
        let grown = counters.since(self.last);
        let baseline = self.baseline();
        if oom_grew(counters.since(baseline)) {
            // Later growth begins the wait anew: whoever dies of it has had no time yet.
            if oom_grew(grown) || self.unsettled.is_none() {
                self.unsettled = Some(Box::new(Unsettled { baseline, since: now }));
            }
        } else {
            self.unsettled = None;
        }
        self.last = counters;
        grown
    }

    fn baseline(&self) -> Counters {
        self.unsettled.as_ref().map_or(self.last, |unsettled| unsettled.baseline)
    }

    /// The last reading has a kill, and the main process is dying; `own`: of the run's own limit.
    pub(in crate::worker) fn doom(&mut self, own: bool) {
        self.doomed.get_or_insert(own);
    }

    /// Whether the main process has outlived what was unsettled.
    fn is_settled(&self, oom_takes_all: bool, now: Mono) -> bool {
        !oom_takes_all
            && self.doomed.is_none()
            && self.unsettled.as_ref().is_some_and(|unsettled| now.since(unsettled.since) >= Self::SETTLE)
    }

    /// The reading that an exit at `now` is compared with.
    pub(in crate::worker) fn before_exit(&self, oom_takes_all: bool, now: Mono) -> Counters {
        if self.is_settled(oom_takes_all, now) { self.last } else { self.baseline() }
    }

    /// Whether it was dying when a kill was read.
    pub(in crate::worker) const fn doomed(&self) -> bool {
        self.doomed.is_some()
    }

    /// Whether the kill that the main process dies of was for the run's own limit, as its reading said.
    pub(in crate::worker) fn own_oom(&self) -> bool {
        self.doomed == Some(true)
    }

    pub(in crate::worker) const fn last(&self) -> Counters {
        self.last
    }
}

fn oom_grew(grown: Counters) -> bool {
    let any = |e: Option<MemoryEvents>| e.is_some_and(|e| e.oom > 0 || e.oom_kill > 0 || e.oom_group_kill > 0);
    any(grown.local) || any(grown.memory)
}
