//! The one thread that writes. It sleeps while nothing waits.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::age::Age;
use super::change::{Change, Record};
use super::handle::{Health, Queue, Shared};
use super::ledger::Unstored;
use super::replace::{NotReplaced, Prepared, close_aside};
use super::{Store, StoreError};
use crate::clock;
use crate::model::{Mono, WorkerId, chain};

/// How long a record waits for more: an exit, its decision and the next start are written together, and not while the next
/// run is being made.
const LINGER: Duration = Duration::from_millis(5);

/// The pauses of what cannot be written.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often runs that are old enough are forgotten, where something is written at all.
const PURGE: Duration = Duration::from_secs(60 * 60);

pub(super) struct Writer {
    shared: Arc<Shared>,
    store: Box<dyn Store>,
    /// What the store remembers, or would. Boxed: a tree's nodes are half empty where names come in their order.
    known: BTreeMap<WorkerId, Box<Record>>,
    age: Age,
    purged: Option<Mono>,
    /// The file is gone: all that is known is to be written.
    lost: bool,
    pause: Duration,
    since: Option<Timestamp>,
    made_anew: Option<Timestamp>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, store: Box<dyn Store>, known: Vec<Record>, retention: Duration) -> Self {
        let newest = known.iter().filter_map(Record::newest).max();
        let known = known.into_iter().map(|record| (record.worker.clone(), Box::new(record))).collect();
        Self {
            shared,
            store,
            known,
            age: Age::new(retention, newest, clock::monotonic()),
            purged: None,
            lost: false,
            pause: RETRY.0,
            since: None,
            made_anew: None,
        }
    }

    pub(super) fn run(mut self) {
        self.purge();
        loop {
            let Queue { batch, intents, behind, asks, replacements, closing, over } = self.next();
            let (lost, changes) = (batch.lost(), batch.into_changes());
            let written = if changes.is_empty() && !self.lost { Ok(()) } else { self.write(changes, &intents, lost) };
            for waiting in intents.into_iter().chain(behind) {
                // Whoever waited may have gone away.
                drop(waiting.send(written.clone()));
            }
            for ask in asks {
                ask(&mut *self.store);
            }
            for (with, done) in replacements {
                // Whoever asked may have gone away.
                drop(done.send(self.replace(with)));
            }
            if closing.is_some() || over {
                self.shared.queue().over = true;
                let closed = self.store.close();
                if let Err(error) = &closed {
                    tracing::error!(error = %chain(error), "the store is not closed in order");
                }
                if let Some(done) = closing {
                    let closed = written.map_err(|why| StoreError::Unwritten { why: why.to_string() }).and(closed);
                    // Whoever waited may have gone away.
                    drop(done.send(closed));
                }
                // What came meanwhile is told that it came too late.
                drop(mem::take(&mut *self.shared.queue()));
                self.shared.queue().over = true;
                return;
            }
        }
    }

    /// Waits for something to do.
    fn next(&self) -> Queue {
        let mut queue = self.shared.queue();
        let pause = if self.since.is_some() { self.pause } else { LINGER };
        loop {
            if queue.is_urgent() {
                break;
            }
            if queue.is_empty() && !self.lost {
                queue = self.shared.wake.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            let waited = self.shared.wake.wait_timeout_while(queue, pause, |queue| !queue.is_urgent());
            queue = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            break;
        }
        let over = queue.over;
        Queue { over, ..mem::take(&mut *queue) }
    }

    fn write<T>(&mut self, changes: Vec<Change>, intents: &[T], lost: u64) -> Result<(), Unstored> {
        for change in &changes {
            if let Change::Forgotten { worker } = change {
                self.known.remove(worker);
                continue;
            }
            let worker = change.worker();
            let new = || Box::new(Record::new(worker.clone()));
            self.known.entry(worker.clone()).or_insert_with(new).take(change);
        }
        let mut written = self.try_write(&changes, !intents.is_empty());
        if !self.lost && matches!(written, Err(StoreError::Lost { .. })) {
            // A file that is gone is made anew at once; only where that fails, too, something waits.
            self.lost = true;
            written = self.try_write(&changes, true);
        }
        match written {
            Ok(()) => {
                self.recovered();
                Ok(())
            }
            Err(error) => Err(self.degraded(&error, changes, lost)),
        }
    }

    fn try_write(&mut self, changes: &[Change], durably: bool) -> Result<(), StoreError> {
        if self.lost {
            let now = clock::wall();
            self.store.begin_anew(now)?;
            let mut all = Vec::new();
            for record in self.known.values() {
                record.changes(&mut all);
            }
            // What is known of each worker is its last run only.
            let runs = |change: &&Change| matches!(change, Change::Started { .. } | Change::Stopped { .. });
            all.extend(changes.iter().filter(runs).cloned());
            self.store.apply(&all)?;
            tracing::error!("the store was lost while it was open; it was made anew from memory");
            self.lost = false;
            self.made_anew = Some(now);
            self.shared.health.send_replace(Health::Ok { made_anew: self.made_anew });
            return Ok(());
        }
        if durably { self.store.apply(changes) } else { self.store.apply_behind(changes) }?;
        self.purge();
        Ok(())
    }

    fn replace(&mut self, mut with: Prepared) -> Result<(), NotReplaced> {
        with.take_over(&self.known, &mut *self.store)?;
        let Prepared { store, records } = with;
        for record in records {
            self.known.entry(record.worker.clone()).or_insert_with(|| Box::new(record));
        }
        close_aside(mem::replace(&mut self.store, store));
        self.lost = false;
        self.recovered();
        Ok(())
    }

    fn recovered(&mut self) {
        self.pause = RETRY.0;
        if self.since.take().is_some() {
            tracing::warn!("the store is written again");
            self.shared.health.send_replace(Health::Ok { made_anew: self.made_anew });
        }
    }

    fn degraded(&mut self, error: &StoreError, changes: Vec<Change>, lost: u64) -> Unstored {
        let why = chain(error);
        let since = if let Some(since) = self.since {
            self.pause = (self.pause * 2).min(RETRY.1);
            since
        } else {
            tracing::error!(error = %why, "the store cannot be written: what happens is kept in memory");
            clock::wall()
        };
        self.since = Some(since);
        let (pending, lost) = {
            let mut queue = self.shared.queue();
            queue.batch.put_back(changes, lost);
            (queue.batch.len(), queue.batch.lost())
        };
        self.shared.health.send_replace(Health::Degraded { why: why.clone(), since, pending, lost });
        Unstored::Refused { why }
    }

    /// Forgets old runs, now and then.
    fn purge(&mut self) {
        let now = clock::monotonic();
        if self.purged.is_some_and(|last| now.since(last) < PURGE) {
            return;
        }
        self.purged = Some(now);
        let Some(before) = self.age.old_before(now, clock::wall()) else { return };
        if let Err(error) = self.store.purge_older_than(before) {
            tracing::warn!(error = %chain(&error), "old runs are not forgotten");
        }
    }
}
