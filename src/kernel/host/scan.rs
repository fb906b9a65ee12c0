//! What stands in `ROOT/workers` when a supervisor starts.

use std::sync::Arc;

use super::Inner;
use crate::kernel::cgroup::{Dir, DirError, Namespace};
use crate::kernel::note;
use crate::kernel::port::RunNote;
use crate::model::{RunId, SliceName, chain};

/// A directory that was there before us.
#[derive(Debug)]
pub struct Found {
    /// Its name, below `workers`: `api.3`, `web.slice/api.3`.
    pub name: String,
    /// The run it is named after; `None` for a stranger's.
    pub run: Option<RunId>,
    /// Its record; `None` where it has none, or none that we understand.
    pub note: Option<RunNote>,
    /// Whether a process lives in it or below.
    pub populated: bool,
}

/// All that was there.
#[derive(Debug, Default)]
pub struct Scan {
    /// In the order of their names, those in slices after the others.
    pub found: Vec<Found>,
    /// Slices that no configuration names, and that were empty: they have been removed.
    pub removed: Vec<SliceName>,
}

impl Inner {
    /// Looks at every directory in `workers` and in the slices there, and keeps in mind which run is where.
    pub(super) fn scan(&self) -> Result<Scan, DirError> {
        let mut scan = Scan::default();
        let workers = self.places.workers();
        let (slices, others): (Vec<_>, Vec<_>) =
            sorted(&workers.dir)?.into_iter().partition(|name| SliceName::from_dir_name(name).is_some());
        for name in others {
            match look(&workers.dir, self.namespace, &name, name.clone()) {
                Ok(one) => scan.found.push(one),
                Err(e) if e.is_absent() => {}
                Err(e) => return Err(e),
            }
        }
        for slice in slices.iter().filter_map(|name| SliceName::from_dir_name(name)) {
            match self.scan_slice(&slice, &mut scan) {
                Err(e) if !e.is_absent() => return Err(e),
                _ => {}
            }
        }
        Ok(scan)
    }

    fn scan_slice(&self, slice: &SliceName, scan: &mut Scan) -> Result<(), DirError> {
        let place = self.places.found(slice)?;
        match self.places.sweep(&place) {
            Ok(true) => {
                scan.removed.push(slice.clone());
                return Ok(());
            }
            Ok(false) => {}
            // Processes directly in it are a stranger's; runs are in directories of their own.
            Err(error) => tracing::warn!(%slice, error = %chain(&error), "an unused slice cannot be removed"),
        }
        for name in sorted(&place.dir)? {
            let mut one = match look(&place.dir, self.namespace, &name, format!("{}/{name}", slice.dir_name())) {
                Err(e) if e.is_absent() => continue,
                other => other?,
            };
            // A run is in one place. Another directory of its name is nobody's we know.
            if let Some(run) = one.run.take_if(|run| scan.found.iter().all(|found| found.run.as_ref() != Some(run))) {
                self.table().found.insert(run.clone(), Arc::clone(&place));
                one.run = Some(run);
            } else {
                one.run = None;
            }
            scan.found.push(one);
        }
        Ok(())
    }
}

fn sorted(dir: &Dir) -> Result<Vec<String>, DirError> {
    let mut names = dir.children()?;
    names.sort();
    Ok(names)
}

fn look(parent: &Dir, namespace: Namespace, child: &str, name: String) -> Result<Found, DirError> {
    let dir = parent.open_below(child)?;
    let note = note::read(&dir, namespace).unwrap_or_else(|e| {
        tracing::warn!(directory = name, error = %e, "a run's record is not understood");
        None
    });
    Ok(Found { run: RunId::from_dir_name(child), note, populated: dir.populated()?, name })
}
