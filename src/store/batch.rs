//! What waits to be written. However long that takes, it holds the newest of each kind for each worker and the last
//! few of its runs, so that its size goes with the number of workers and not with time.

use std::collections::{BTreeMap, VecDeque};

use super::change::Change;
use crate::model::WorkerId;

/// So many starts and exits of one worker wait at the most.
const RUNS: usize = 32;

/// Changes, folded.
#[derive(Debug, Default)]
pub(super) struct Batch {
    workers: BTreeMap<WorkerId, Folded>,
    lost: u64,
}

#[derive(Debug, Default)]
struct Folded {
    forgotten: Option<Change>,
    declared: Option<Change>,
    wish: Option<Change>,
    breaker: Option<Change>,
    status: Option<Change>,
    runs: VecDeque<Change>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// How many workers have something in it.
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// How many starts and exits had no room.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn add(&mut self, change: Change) {
        let folded = self.workers.entry(change.worker().clone()).or_default();
        match change {
            Change::Forgotten { .. } => *folded = Folded { forgotten: Some(change), ..Folded::default() },
            Change::Declared { .. } => folded.declared = Some(change),
            Change::Wish { .. } => folded.wish = Some(change),
            Change::Breaker { .. } => folded.breaker = Some(change),
            Change::Started { .. } | Change::Stopped { .. } => {
                if folded.runs.len() == RUNS {
                    folded.runs.pop_front();
                    self.lost += 1;
                }
                folded.runs.push_back(change);
            }
            Change::Status { worker, status, story } => {
                let earlier = match folded.status.take() {
                    Some(Change::Status { story, .. }) => story,
                    _ => None,
                };
                folded.status = Some(Change::Status { worker, status, story: story.or(earlier) });
            }
        }
    }

    /// All of it, in an order that gives the same as the one it came in.
    pub(super) fn into_changes(self) -> Vec<Change> {
        let folded = self.workers.into_values();
        let all = folded.flat_map(|Folded { forgotten, declared, wish, breaker, status, runs }| {
            forgotten.into_iter().chain(declared).chain(wish).chain(breaker).chain(runs).chain(status)
        });
        all.collect()
    }

    /// What was taken out and could not be written, put back below what has come since.
    pub(super) fn put_back(&mut self, older: Vec<Change>, lost: u64) {
        let newer = std::mem::take(self);
        self.lost = lost + newer.lost;
        for change in older.into_iter().chain(newer.into_changes()) {
            self.add(change);
        }
    }
}
