//! What is read of a run when it loses a process and when it ends: its counters, whether somebody is left, what is above.

use std::sync::Arc;

use super::Inner;
use crate::kernel::cgroup::{events, stat};
use crate::kernel::pidfd;
use crate::model::{AboveReading, Counters, KernelEventKind, Mono, RunId, chain};

impl Inner {
    /// Reads the counters of a run, and says what they were before.
    pub(super) fn count(&self, run: &RunId) -> Option<(Counters, Counters)> {
        let dir = self.dir(run)?;
        match events::read(&dir) {
            Ok(now) => {
                let read_at = self.clock.now();
                let before = self.table().runs.get_mut(run).map(|r| r.kills.read(read_at, now))?;
                Some((before, now))
            }
            Err(e) => {
                if !e.is_absent() {
                    tracing::error!(%run, error = %chain(&e), "the counters of a run cannot be read");
                }
                None
            }
        }
    }

    /// Whether a run whose main process was reaped still has others. Unreadable is not empty.
    pub(super) fn populated_at_the_end(&self, run: &RunId) -> bool {
        let populated = self.dir(run).is_none_or(|dir| dir.populated().unwrap_or(true));
        if let Some(known) = self.table().runs.get_mut(run) {
            known.empty = !populated;
        }
        populated
    }

    /// Whether the main process of a run that has just lost one is it.
    pub(super) fn main_is_dying(&self, run: &RunId) -> bool {
        let pid = self.table().runs.get(run).and_then(|known| known.note.as_ref()?.pid);
        pid.is_some_and(pidfd::is_dying)
    }

    /// Tells of a draining run that it has been read to be empty: once.
    pub(super) fn unpopulated(&self, run: &RunId) {
        let (dir, known) = {
            let mut table = self.table();
            let Some(run) = table.runs.get_mut(run).filter(|run| run.draining) else { return };
            run.draining = false;
            (Arc::clone(&run.dir), run.empty.then(|| run.kills.last()))
        };
        let counters = known.or_else(|| self.count(run).map(|(_, now)| now)).unwrap_or_default();
        // An end that was reported has been told with it; one of a run that could not be launched is reported now.
        let above = self.above(run, self.clock.now());
        self.tell(run, KernelEventKind::Unpopulated { usage: stat::usage(&dir), counters, above });
    }

    /// What is above a run that has ended at `end`, where it lost a process to a limit there or to the host. Once; for
    /// every other end nothing is read.
    pub(super) fn above(&self, run: &RunId, end: Mono) -> Option<Box<AboveReading>> {
        let (place, dead) = {
            let mut table = self.table();
            let known = table.runs.get_mut(run)?;
            if std::mem::replace(&mut known.ended, true) {
                return None;
            }
            (Arc::clone(&known.place), known.kills.from_above()?.min(end))
        };
        Some(Box::new(self.places.ancestors().read(place.slice.as_deref(), dead, self.clock.now())))
    }

    /// Notes what is above a run that lost a process and lives on: its own end may come of it, or a later one must not
    /// be blamed on it.
    pub(super) fn observe_above(&self, run: &RunId) {
        let place = self.table().runs.get(run).filter(|r| r.kills.from_above().is_some()).map(|r| Arc::clone(&r.place));
        if let Some(place) = place {
            self.places.ancestors().observe(place.slice.as_deref(), self.clock.now());
        }
    }
}
