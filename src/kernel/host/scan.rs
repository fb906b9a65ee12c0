//! What stands in `ROOT/workers` when a supervisor starts.

use crate::kernel::cgroup::{Dir, DirError, Namespace};
use crate::kernel::note;
use crate::kernel::port::RunNote;
use crate::model::RunId;

/// A directory that was there before us.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// The run it is named after; `None` for a stranger's.
    pub run: Option<RunId>,
    /// Its record; `None` where it has none, or none that we understand.
    pub note: Option<RunNote>,
    /// Whether a process lives in it or below.
    pub populated: bool,
}

/// Looks at every directory in `workers`, in the order of their names.
///
/// # Errors
/// Where the directory itself cannot be read. One that goes while we look is left out.
pub fn scan(workers: &Dir, namespace: Namespace) -> Result<Vec<Found>, DirError> {
    let mut names = workers.children()?;
    names.sort();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match look(workers, namespace, &name) {
            Ok(one) => found.push(one),
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn look(workers: &Dir, namespace: Namespace, name: &str) -> Result<Found, DirError> {
    let dir = workers.open_below(name)?;
    let note = note::read(&dir, namespace).unwrap_or_else(|e| {
        tracing::warn!(directory = name, error = %e, "a run's record is not understood");
        None
    });
    Ok(Found { run: RunId::from_dir_name(name), note, populated: dir.populated()?, name: name.to_owned() })
}
