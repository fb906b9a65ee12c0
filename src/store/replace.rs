//! Another store in the place of one that is in use: it is handed all that the other remembers, and nothing is lost between.

use std::{collections::BTreeMap, thread};

use super::change::{Change, Record, Run};
use super::ledger::Unstored;
use super::{Store, StoreError};
use crate::model::{RunId, WorkerId, chain};

/// A store that is ready to be used, with what it remembers.
pub struct Prepared {
    pub(super) store: Box<dyn Store>,
    pub(super) records: Vec<Record>,
}

/// Why a store is not used. The one before is, as if nothing had been asked.
#[derive(Debug, thiserror::Error)]
pub enum NotReplaced {
    /// It cannot be read or written.
    #[error("the store is not used: it does not take what is known")]
    Refused(#[from] StoreError),
    /// It speaks of other runs under numbers that are given out here.
    #[error(
        "the store is not used: it remembers run {run} as the last of {}, which is another worker's here; set the store before \
         the first worker of that name, or take another file", run.worker
    )]
    Foreign {
        /// The last run that it remembers.
        run: RunId,
    },
    /// Nothing is remembered any more.
    #[error(transparent)]
    Closed(#[from] Unstored),
}

impl Prepared {
    /// Makes what `store` needs, and reads all that it remembers. It may block.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn new(mut store: Box<dyn Store>) -> Result<Self, StoreError> {
        store.ensure_schema()?;
        let records = store.get_all()?;
        Ok(Self { store, records })
    }

    /// What it remembers.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Hands it what is `known` of all workers, and their runs, as far as `before` can still tell them.
    pub(super) fn take_over(
        &mut self,
        known: &BTreeMap<WorkerId, Box<Record>>,
        before: &mut dyn Store,
    ) -> Result<(), NotReplaced> {
        let mut changes = Vec::new();
        for (worker, record) in known {
            let mut runs = before.get_runs(worker, usize::MAX).unwrap_or_else(|error| {
                tracing::warn!(%worker, error = %chain(&error), "of its runs only the last is handed to another store");
                Vec::new()
            });
            runs.extend(record.last_run.clone());
            if let Some(theirs) = self.records.iter().find(|theirs| theirs.worker == *worker)
                && let Some(last) = theirs.last_run.as_ref().filter(|last| !is_past(last, &runs))
            {
                return Err(NotReplaced::Foreign { run: RunId::new(worker.clone(), last.number) });
            }
            for run in &runs {
                run.changes(worker, &mut changes);
            }
            record.changes(&mut changes);
        }
        // What it remembers of earlier runs stays.
        changes.retain(|change| !matches!(change, Change::Forgotten { .. }));
        Ok(self.store.apply(&changes)?)
    }
}

/// Whether `theirs` is one of `ours`, or from before all of them.
fn is_past(theirs: &Run, ours: &[Run]) -> bool {
    let same = |ours: &Run| (ours.pid, &ours.boot_id, ours.started) == (theirs.pid, &theirs.boot_id, theirs.started);
    match ours.iter().rfind(|run| run.number == theirs.number) {
        Some(run) => same(run),
        None => ours.iter().map(|run| run.number).max().is_some_and(|last| theirs.number < last),
    }
}

/// Closes a store that is used no longer, however long that takes.
pub(super) fn close_aside(store: Box<dyn Store>) {
    let close = move || {
        if let Err(error) = store.close() {
            tracing::error!(error = %chain(&error), "the store that was used before is not closed in order");
        }
    };
    if let Err(error) = thread::Builder::new().name("store-closing".to_owned()).spawn(close) {
        // It is closed all the same, by being dropped.
        tracing::error!(%error, "no thread to close the store that was used before");
    }
}
