//! A store that ends with its process: `store: {type: memory}`, and for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::change::{Change, Record, Run};
use super::{Store, StoreError};
use crate::model::{RunId, WorkerId};

/// So many runs of one worker are kept.
const RUNS: usize = 100;

/// What is remembered, in memory. A clone is another way to the same memory: one is given away, one is asked.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    records: BTreeMap<WorkerId, Record>,
    runs: BTreeMap<RunId, Run>,
}

impl MemoryStore {
    /// One that remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // It is whole between any two changes.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn take(&mut self, change: &Change) {
        let worker = change.worker();
        if let Change::Forgotten { .. } = change {
            self.records.remove(worker);
            self.runs.retain(|run, _| run.worker != *worker);
            return;
        }
        let record = self.records.entry(worker.clone()).or_insert_with(|| Record::new(worker.clone()));
        record.take(change);
        if let Change::Started { run, .. } | Change::Stopped { run, .. } = change {
            self.runs.entry(run.clone()).or_insert_with(|| Run::new(run.number)).take(change);
            let oldest = self.runs_of(worker).next().cloned();
            if self.runs_of(worker).count() > RUNS {
                oldest.and_then(|run| self.runs.remove(&run));
            }
        }
    }

    fn runs_of(&self, worker: &WorkerId) -> impl DoubleEndedIterator<Item = &RunId> {
        let range = RunId::new(worker.clone(), 0)..=RunId::new(worker.clone(), u32::MAX);
        self.runs.range(range).map(|(run, _)| run)
    }
}

impl Store for MemoryStore {
    fn ensure_schema(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut memory = self.memory();
        for change in changes {
            memory.take(change);
        }
        Ok(())
    }

    fn begin_anew(&mut self, _now: Timestamp) -> Result<(), StoreError> {
        *self.memory() = Memory::default();
        Ok(())
    }

    fn get_by_name(&mut self, worker: &WorkerId) -> Result<Option<Record>, StoreError> {
        Ok(self.memory().records.get(worker).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(self.memory().records.values().cloned().collect())
    }

    fn get_runs(&mut self, worker: &WorkerId, limit: usize) -> Result<Vec<Run>, StoreError> {
        let memory = self.memory();
        Ok(memory.runs_of(worker).rev().take(limit).filter_map(|run| memory.runs.get(run)).cloned().collect())
    }

    fn purge_older_than(&mut self, moment: Timestamp) -> Result<usize, StoreError> {
        let mut memory = self.memory();
        let Memory { records, runs } = &mut *memory;
        let before = runs.len();
        runs.retain(|id, run| {
            let last = records.get(&id.worker).and_then(|record| record.last_run.as_ref());
            let is_last = last.is_some_and(|last| last.number == id.number);
            is_last || run.ended.as_ref().is_none_or(|ended| ended.at >= moment)
        });
        Ok(before - runs.len())
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
