//! A store that ends with its process: `store: {type: memory}`, and for tests.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::change::{Change, Record, Run};
use super::{Store, StoreError};
use crate::model::{RunId, WorkerId};

/// So many runs of one worker are kept.
const RUNS: usize = 100;

/// What is remembered, in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    records: BTreeMap<WorkerId, Record>,
    runs: BTreeMap<RunId, Run>,
}

impl MemoryStore {
    /// One that remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

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
        for change in changes {
            self.take(change);
        }
        Ok(())
    }

    fn begin_anew(&mut self, _now: Timestamp) -> Result<(), StoreError> {
        *self = Self::new();
        Ok(())
    }

    fn get_by_name(&mut self, worker: &WorkerId) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(worker).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(self.records.values().cloned().collect())
    }

    fn get_runs(&mut self, worker: &WorkerId, limit: usize) -> Result<Vec<Run>, StoreError> {
        Ok(self.runs_of(worker).rev().take(limit).filter_map(|run| self.runs.get(run)).cloned().collect())
    }

    fn purge_older_than(&mut self, moment: Timestamp) -> Result<usize, StoreError> {
        let before = self.runs.len();
        let records = &self.records;
        self.runs.retain(|id, run| {
            let last = records.get(&id.worker).and_then(|record| record.last_run.as_ref());
            let is_last = last.is_some_and(|last| last.number == id.number);
            is_last || run.ended.as_ref().is_none_or(|ended| ended.at >= moment)
        });
        Ok(before - self.runs.len())
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
