//! What is remembered of workers that are gone, should one of their name come back: bounded, for names can come without an end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::model::WorkerId;

/// Of how many something is remembered.
pub const REMEMBERED: usize = 10_000;

/// Something of each of the [`REMEMBERED`] workers that have gone last.
#[derive(Debug)]
pub struct Gone<T> {
    of: HashMap<WorkerId, (u64, T)>,
    /// By when they have gone.
    order: BTreeMap<u64, WorkerId>,
    /// How many have gone so far.
    count: u64,
}

impl<T> Default for Gone<T> {
    fn default() -> Self {
        Self { of: HashMap::new(), order: BTreeMap::new(), count: 0 }
    }
}

impl<T> Gone<T> {
    /// `worker` has gone.
    pub fn remember(&mut self, worker: WorkerId, what: T) {
        drop(self.recall(&worker));
        self.count += 1;
        self.order.insert(self.count, worker.clone());
        self.of.insert(worker, (self.count, what));
        if self.of.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of.remove(&oldest);
        }
    }

    /// `worker` is back.
    pub fn recall(&mut self, worker: &WorkerId) -> Option<T> {
        let (nth, what) = self.of.remove(worker)?;
        self.order.remove(&nth);
        Some(what)
    }
}

/// Numbers of last events: they go on where a worker comes back that was supervised before.
#[derive(Debug, Default)]
pub struct Seqs {
    /// Those of supervised ones, and how many actors have each: the next can begin before the last one is gone.
    pub(super) held: HashMap<WorkerId, (Arc<AtomicU64>, usize)>,
    gone: Gone<u64>,
}

impl Seqs {
    pub(super) fn take(&mut self, worker: &WorkerId) -> Arc<AtomicU64> {
        let gone = &mut self.gone;
        let first = || (Arc::new(AtomicU64::new(gone.recall(worker).unwrap_or(0))), 0);
        let (seq, holders) = self.held.entry(worker.clone()).or_insert_with(first);
        *holders += 1;
        Arc::clone(seq)
    }

    pub(super) fn give_back(&mut self, worker: WorkerId) {
        let Some((seq, holders)) = self.held.get_mut(&worker) else { return };
        *holders -= 1;
        if *holders == 0 {
            let last = seq.load(Ordering::Relaxed);
            self.held.remove(&worker);
            self.gone.remember(worker, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> WorkerId {
        WorkerId::new(&format!("w{number}")).unwrap()
    }

    #[test]
    fn those_that_have_gone_last_are_remembered_once_and_no_more_of_them() {
        let mut gone = Gone::default();
        for number in 0..REMEMBERED {
            gone.remember(id(number), number);
        }
        gone.remember(id(0), 7);
        gone.remember(id(REMEMBERED), 8);
        assert_eq!((gone.of.len(), gone.order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(gone.recall(&id(1)), None, "the oldest");
        assert_eq!((gone.recall(&id(0)), gone.recall(&id(2))), (Some(7), Some(2)));
        assert_eq!(gone.recall(&id(0)), None);
        assert_eq!((gone.of.len(), gone.order.len()), (REMEMBERED - 2, REMEMBERED - 2));
    }
}
