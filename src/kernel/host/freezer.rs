//! Freezing and thawing a run, and how it is told whether it is frozen.
//!
//! ```text
//!   freeze, thaw ──▶ eye on cgroup.events ──▶ cgroup.freeze written ──▶ look ┐
//!                                    │ fires                                 ├─▶ pump reads `frozen`, tells it
//!                                    └───────────────────────────────────────┘
//! ```
//! Only the pump reads and tells, one look after the other: what was told last is what was read last. The eye stays for as long
//! as the run is frozen, so that a thaw by somebody else's hand is seen as well.

use super::{Inner, refused, stuck, table::Freezer};
use crate::kernel::cgroup::{Dir, DirError, kill, signal};
use crate::kernel::port::KernelError;
use crate::kernel::watch::WatchError;
use crate::model::{KernelEventKind, RunId, chain};

/// Writes `cgroup.freeze` and has it told whether the run is frozen.
pub(super) fn freeze(inner: &Inner, run: &RunId, frozen: bool) -> Result<(), KernelError> {
    let Some(dir) = inner.dir(run) else { return Ok(()) };
    let failed = |e: DirError| refused("cgroup.freeze", run, e.into_io());
    match inner.watches.freezer(run, &dir, Some(frozen)) {
        Ok(_) => {}
        // That its directory is gone is told by the watch on the one above.
        Err(WatchError::Dir(e)) if e.is_absent() => return Ok(()),
        Err(WatchError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(refused("cgroup.freeze", run, std::io::Error::other(e))),
    }
    if let Some(known) = inner.table().runs.get_mut(run) {
        known.freezer.owed = true;
    }
    match if frozen { kill::freeze(&dir) } else { kill::thaw(&dir) } {
        Err(e) if !e.is_absent() => return Err(failed(e)),
        _ => {}
    }
    inner.watches.look(run);
    Ok(())
}

/// What keeps a run from being frozen, or from being thawed.
pub(super) fn held_up(inner: &Inner, run: &RunId, frozen: bool) -> Option<String> {
    let dir = inner.dir(run)?;
    if frozen {
        if !dir.populated().ok()? {
            return Some("not frozen: no process of it is in its cgroup".to_owned());
        }
        let waiting = stuck::uninterruptible(&signal::processes_below(&dir).ok()?);
        return stuck::describe(&waiting).map(|what| format!("not frozen yet: {what}"));
    }
    let own = dir.read("cgroup.freeze").ok()?.trim() == "1";
    (!own && dir.frozen().ok()?).then(|| "not thawed: a cgroup above it is frozen".to_owned())
}

/// Whether it is frozen, or being frozen: what it does not answer now says nothing of it.
pub(super) fn is_frozen(dir: &Dir) -> bool {
    dir.frozen().unwrap_or(false) || dir.read("cgroup.freeze").is_ok_and(|text| text.trim() == "1")
}

/// Whether all of it stands still. `None` where nobody is left in it: the kernel says so of such a cgroup as soon as it is asked to
/// freeze it, and the end of its main process is still to be told.
fn stands_still(dir: &Dir) -> Result<Option<bool>, DirError> {
    let frozen = dir.frozen()?;
    // Read after it: whoever is there now was there then.
    Ok((!frozen || dir.populated()?).then_some(frozen))
}

impl Inner {
    /// Keeps an eye on a run that an earlier supervisor has left frozen, or on its way to that. Whether it is frozen now.
    pub(super) fn find_frozen(&self, run: &RunId, dir: &Dir) -> Result<bool, DirError> {
        let freezes = dir.read("cgroup.freeze")?.trim() == "1";
        if (freezes || dir.frozen()?)
            && let Err(e) = self.watches.freezer(run, dir, Some(freezes))
        {
            tracing::warn!(%run, error = %chain(&e), "whether a frozen run is thawed is not seen");
        }
        Ok(stands_still(dir)?.unwrap_or(false))
    }

    /// Reads whether the run is frozen, and tells it where it is news, or somebody waits for it.
    pub(super) fn look_whether_frozen(&self, run: &RunId) {
        let Some(dir) = self.dir(run) else { return };
        let frozen = match stands_still(&dir) {
            Ok(Some(frozen)) => frozen,
            // Whoever waits for it is answered by its end.
            Ok(None) => return,
            Err(e) => {
                if !e.is_absent() {
                    tracing::error!(%run, error = %chain(&e), "whether a run is frozen cannot be read");
                }
                return;
            }
        };
        let tell = {
            let mut table = self.table();
            let Some(known) = table.runs.get_mut(run) else { return };
            let freezer = &mut known.freezer;
            // When they are done it is looked at again.
            if freezer.changes > 0 {
                return;
            }
            let owed = std::mem::take(&mut freezer.owed);
            std::mem::replace(&mut freezer.frozen, frozen) != frozen || owed
        };
        if frozen {
            match self.watches.freezer(run, &dir, None) {
                // Somebody else's freeze: its end may have come before there was an eye on it.
                Ok(true) => self.watches.look(run),
                Ok(false) => {}
                Err(e) => tracing::warn!(%run, error = %chain(&e), "whether a frozen run is thawed is not seen"),
            }
        } else {
            self.watches.thawed(run);
        }
        if tell {
            self.tell(run, KernelEventKind::Frozen(frozen));
        }
    }

    /// A change of the run's limits begins, or has ended.
    pub(super) fn changes_limits(&self, run: &RunId, begins: bool) {
        let look = {
            let mut table = self.table();
            let Some(known) = table.runs.get_mut(run) else { return };
            let Freezer { frozen, owed, changes } = &mut known.freezer;
            *changes = if begins { changes.saturating_add(1) } else { changes.saturating_sub(1) };
            // A thaw of ours takes a moment: where nobody was told otherwise, there is nothing to tell.
            *changes == 0 && (*frozen || *owed)
        };
        if look {
            self.watches.look(run);
        }
    }
}
