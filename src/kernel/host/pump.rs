//! Turns what the keeper, inotify, pressure triggers and the janitor say into the events of single runs.

use std::{fmt, io, sync::Arc};

use tokio::sync::mpsc::UnboundedReceiver;

use super::Inner;
use crate::keeper::client::Events;
use crate::keeper::protocol::FromKeeper;
use crate::keeper::transport::TransportError;
use crate::kernel::cgroup::DirError;
use crate::kernel::watch::{Hint, Hints, Seen, Source};
use crate::model::{KernelEventKind, Limit, MemoryEvents, RunId, chain};

/// The task that all news comes through. It never waits for a worker.
#[derive(Debug)]
pub struct Pump {
    inner: Arc<Inner>,
    keeper: Events,
    hints: Hints,
    pressed: UnboundedReceiver<(RunId, Limit)>,
    removed: UnboundedReceiver<(RunId, Result<(), DirError>)>,
}

/// Why no more news can come. The supervisor must end: a keeper's place cannot be taken.
#[derive(Debug)]
pub enum Lost {
    /// The keeper is gone; workers and logger live on.
    Keeper(TransportError),
    /// inotify failed.
    Watches(io::Error),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keeper(_) => "the keeper is gone; workers and logger live on",
            Self::Watches(_) => "no notification comes from the kernel any more",
        })
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Keeper(e) => Some(e),
            Self::Watches(e) => Some(e),
        }
    }
}

impl Pump {
    pub(super) const fn new(
        inner: Arc<Inner>,
        keeper: Events,
        hints: Hints,
        pressed: UnboundedReceiver<(RunId, Limit)>,
        removed: UnboundedReceiver<(RunId, Result<(), DirError>)>,
    ) -> Self {
        Self { inner, keeper, hints, pressed, removed }
    }

    /// Passes on what the keeper answered to the first question for its list, before everything else.
    pub fn replay(&self, told: Vec<FromKeeper>) {
        for message in told {
            let run = match &message {
                FromKeeper::Launched { run, .. } => Some(run.clone()),
                _ => None,
            };
            let unfinished = run.filter(|run| self.inner.has_unfinished_record(run));
            self.keeper_says(message);
            if let Some(run) = unfinished {
                self.inner.finish_record(&run);
            }
        }
    }

    /// Passes news on until its source is lost.
    pub async fn run(mut self) -> Lost {
        loop {
            tokio::select! {
                // Exits first: their counters are waiting to be read. All four are cancel safe.
                biased;
                message = self.keeper.next() => match message {
                    // The pidfd is let go of: the keeper, which has not reaped it, signals it for us.
                    Ok((message, _pidfds)) => self.keeper_says(message),
                    Err(e) => return Lost::Keeper(e),
                },
                hint = self.hints.next() => match hint {
                    Ok(hint) => self.look(hint),
                    Err(e) => return Lost::Watches(e),
                },
                () = self.inner.has_room() => self.inner.let_in(),
                Some((run, limit)) = self.pressed.recv() => self.inner.tell(&run, KernelEventKind::Pressed(limit)),
                Some((run, result)) = self.removed.recv() => {
                    if let Err(e) = result {
                        tracing::error!(%run, error = %chain(&e), "an empty run directory could not be removed");
                    }
                    self.inner.tell(&run, KernelEventKind::Removed);
                }
            }
        }
    }

    fn keeper_says(&self, message: FromKeeper) {
        match message {
            FromKeeper::Launched { run, pid, at } => {
                self.inner.launched(&run, pid, at.as_nanos());
                self.inner.answered(&run);
            }
            FromKeeper::Failed { run, error } => {
                self.inner.tell(&run, KernelEventKind::LaunchFailed(error));
                self.inner.answered(&run);
            }
            FromKeeper::Exited { run, status, at, .. } => {
                // Now: everything the kernel counted up to this death is visible, and nothing has been removed.
                let counters = self.inner.count(&run).map(|(_, now)| now).unwrap_or_default();
                let populated = self.inner.populated_at_the_end(&run);
                let above = self.inner.above(&run, at);
                self.inner.tell(&run, KernelEventKind::Exited { status, counters, populated, above });
            }
            FromKeeper::LogDropped { run, stream, why, bytes } => {
                self.inner.tell(&run, KernelEventKind::LogDropped { stream, why, bytes });
            }
            FromKeeper::Hello { .. } | FromKeeper::Launching { .. } | FromKeeper::Listed | FromKeeper::Ping { .. } => {
                tracing::debug!(?message, "nothing to do");
            }
        }
    }

    fn look(&self, hint: Hint) {
        match hint {
            Hint::Changed(run, source) => self.inner.look_at_counters(&run, source),
            Hint::Events(run) => self.inner.look_at_events(&run),
            Hint::Above(path) => self.look_above(&path),
            Hint::Removed(run) => self.inner.tell(&run, KernelEventKind::CgroupGone),
            Hint::Rescan => self.rescan(),
        }
    }

    fn look_above(&self, path: &Arc<str>) {
        let Some(ancestor) = self.inner.places.above(path) else { return };
        let grown = ancestor.observe(self.inner.clock.now()).unwrap_or_default();
        let seen = match grown {
            grown if grown.oom > 0 => Seen::Violation,
            grown if grown == MemoryEvents::default() => Seen::Nothing,
            // Reclaim at its limit: nobody's death.
            _ => Seen::Noise,
        };
        self.inner.watches.seen_above(path, seen);
    }

    /// Notifications were lost: what they may have said is read anew.
    fn rescan(&self) {
        tracing::info!("notifications were lost; every run is looked at");
        for ancestor in self.inner.places.all_above() {
            self.look_above(ancestor.path());
        }
        let runs: Vec<RunId> = self.inner.table().runs.keys().cloned().collect();
        for run in runs {
            self.inner.look_again(&run);
        }
    }
}

impl Inner {
    /// Waits until a launch that takes long gives its place to one that waits. Cancel-safe: it is looked at anew.
    async fn has_room(&self) {
        loop {
            let due = self.gate().due();
            match due {
                Some(due) => return tokio::time::sleep_until(self.clock.instant(due)).await,
                None => self.queued.notified().await,
            }
        }
    }

    /// Reads what notifications that were lost may have said of `run`.
    pub(super) fn look_again(&self, run: &RunId) {
        self.look_at_counters(run, Source::Memory);
        self.look_at_counters(run, Source::Pids);
        let draining = self.table().runs.get(run).is_some_and(|r| r.draining);
        if draining {
            self.look_whether_empty(run);
        } else {
            // By the pump alone: of two who read and tell, the one with the older reading could be the second to tell.
            self.watches.look(run);
        }
    }

    /// A frozen run that ends is thawed for it, or killed: while it drains only its end is waited for.
    fn look_at_events(&self, run: &RunId) {
        let draining = self.table().runs.get(run).is_some_and(|r| r.draining);
        if draining { self.look_whether_empty(run) } else { self.look_whether_frozen(run) }
    }

    fn look_at_counters(&self, run: &RunId, source: Source) {
        let Some((before, now)) = self.count(run) else { return };
        let grown = now.since(before);
        if Seen::of(Source::Memory, grown) == Seen::Violation {
            self.observe_above(run);
        }
        self.watches.seen(run, source, Seen::of(source, grown));
        if now != before {
            // A kill of the group takes the main process along.
            let single = |events: MemoryEvents| events.oom_kill > 0 && events.oom_group_kill == 0;
            let main_is_dying = grown.hierarchical().is_some_and(single) && self.main_is_dying(run);
            self.tell(run, KernelEventKind::Counted { counters: now, main_is_dying });
        }
    }

    fn look_whether_empty(&self, run: &RunId) {
        let Some(dir) = self.dir(run) else { return };
        match dir.populated() {
            Ok(true) => {}
            Ok(false) => self.unpopulated(run),
            Err(e) if e.is_absent() => self.tell(run, KernelEventKind::CgroupGone),
            Err(e) => self.end_unread(run, &e),
        }
    }

    /// Whether a draining run is empty could not be read: that is tried until it can be.
    pub(super) fn end_unread(&self, run: &RunId, error: &(dyn std::error::Error + 'static)) {
        if self.watches.unread(run) {
            tracing::error!(%run, error = %chain(error), "whether a run is over cannot be read; trying again and again");
        }
    }
}
