//! What an earlier supervisor has left: looked at once, then taken over, held or removed.

use std::{io, os::fd::OwnedFd, sync::Arc};

use super::{HostKernel, Inner, Run, Scan, heard};
use crate::keeper::transport::TransportError;
use crate::kernel::ancestors::history::Kills;
use crate::kernel::cgroup::{Dir, DirError, events, kill, stat};
use crate::kernel::orphan::{self, Orphan};
use crate::kernel::port::RunNote;
use crate::kernel::pressure::triggers;
use crate::kernel::watch::Interest;
use crate::model::{Counters, Mono, RunId, chain};
use crate::spec::types::Spec;

impl HostKernel {
    /// Looks at what stands in `ROOT/workers` and in its slices. Once, before anything of it is adopted, held or discarded.
    ///
    /// # Errors
    /// Where a directory cannot be read. One that goes while we look is left out.
    pub fn scan(&self) -> Result<Scan, DirError> {
        self.inner.scan()
    }

    /// Takes over a run that an earlier supervisor started, to be watched as `spec` says. Its events come from now on. Whether it
    /// is frozen.
    ///
    /// # Errors
    /// Where its directory cannot be opened or read.
    pub fn adopt(&self, note: RunNote, spec: &Spec) -> Result<bool, DirError> {
        let place = self.inner.place_of(&note.run);
        let dir = Arc::new(place.dir.open_below(&note.run.to_string())?);
        self.inner.thaw_if_left(&note.run, &dir);
        let mut kills = Kills::since(note.baseline);
        kills.read(self.inner.clock.now(), events::read(&dir)?);
        let run = note.run.clone();
        self.inner.watch(&run, &dir);
        self.inner.pressure.watch(&run, &dir, triggers(&spec.limits));
        let frozen = self.inner.find_frozen(&run, &dir)?;
        let mut known = Run::new(dir, place, Some(note), kills);
        known.freezer.frozen = frozen;
        self.inner.table().runs.insert(run, known);
        Ok(frozen)
    }

    /// Looks for the main process of a run of this boot that the keeper knows nothing of. Before it is adopted.
    ///
    /// # Errors
    /// Where that cannot be told.
    pub fn orphan(&self, note: &RunNote) -> io::Result<Orphan> {
        let dir = self.inner.found_dir(&note.run).map_err(DirError::into_io)?;
        orphan::identify(&dir, note)
    }

    /// Has the keeper watch over a run that it knows nothing of, and tell its end: with a pidfd while the main process
    /// lives, without one where it is gone.
    ///
    /// # Errors
    /// Where the keeper cannot be asked: descriptors have run out, or it is gone.
    pub fn entrust(
        &self,
        run: &RunId,
        process: (i32, u64),
        at: Mono,
        pidfd: Option<OwnedFd>,
    ) -> Result<(), TransportError> {
        self.inner.keeper.adopt(run, process, at, pidfd)
    }

    /// Kills the children of a launch whose keeper died before they came to their program.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn kill_half_made(&self, run: &RunId) -> io::Result<()> {
        match self.inner.found_dir(run).and_then(|dir| kill::kill(&dir)) {
            Err(e) if !e.is_absent() => Err(e.into_io()),
            _ => Ok(()),
        }
    }

    /// Keeps an eye on processes that nobody can tell anything of, so that it is told when they are gone.
    ///
    /// # Errors
    /// Where the directory cannot be opened.
    pub fn hold(&self, run: &RunId) -> Result<(), DirError> {
        let place = self.inner.place_of(run);
        let dir = Arc::new(place.dir.open_below(&run.to_string())?);
        let nothing = Interest { memory: false, pids: false };
        if let Err(e) = self.inner.watches.add(run, &dir, nothing) {
            tracing::warn!(%run, error = %chain(&e), "a run is not watched");
        }
        let kills = Kills::since(Counters::default());
        self.inner.table().runs.insert(run.clone(), Run::new(dir, place, None, kills));
        Ok(())
    }

    /// Whether a process was ever in the directory of a run: one that has used CPU time (`usage_usec` of `cpu.stat`, which every
    /// cgroup has).
    ///
    /// # Errors
    /// Where its directory cannot be opened.
    pub fn was_inhabited(&self, run: &RunId) -> Result<bool, DirError> {
        Ok(stat::glance(&self.inner.found_dir(run)?, &self.inner.limits.withheld).cpu_usec.is_some_and(|used| used > 0))
    }

    /// Removes a directory that was made for a run and never furnished, at once: its number is the next one's.
    ///
    /// # Errors
    /// Where the kernel refuses: somebody is in it.
    pub fn unmake(&self, run: &RunId) -> Result<(), DirError> {
        let place = self.inner.place_of(run);
        kill::remove(&place.dir, &run.to_string())
    }

    /// Lets the keeper forget a run of which nothing is left but its exit record.
    pub fn forget(&self, run: &RunId) {
        heard(self.inner.keeper.ack(run));
    }

    /// Kills what is in a directory that nobody owns any more, and removes it.
    pub fn discard(&self, run: RunId) {
        let place = self.inner.place_of(&run);
        self.inner.janitor.remove(run, place);
    }
}

impl Inner {
    /// The directory of a run that an earlier supervisor made, which stays to be dealt with.
    pub(super) fn found_dir(&self, run: &RunId) -> Result<Dir, DirError> {
        let place = self.table().found.get(run).cloned();
        let place = place.unwrap_or_else(|| Arc::clone(self.places.workers()));
        place.dir.open_below(&run.to_string())
    }
}
