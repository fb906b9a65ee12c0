//! A store in tokio's time: what it takes is on its disk when it says so, and a crash loses what is not.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Clock;
use crate::model::{Mono, WorkerId};
use crate::store::{Change, Intent, Ledger, MemoryStore, Record, Store, StoreError, Unstored};

/// How long what is written behind can be missing from the disk.
const BEHIND: Duration = Duration::from_millis(20);

/// How long the disk takes at the most.
const SYNC_MS: u64 = 40;

/// The fake. Cheap to clone; all clones are one store. It survives the crash of a supervisor.
#[derive(Clone)]
pub struct FakeLedger {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    random: fastrand::Rng,
    chaos: bool,
    full: bool,
    disk: MemoryStore,
    /// In memory only, in their order.
    queue: VecDeque<(Mono, Vec<Change>)>,
    taken: u64,
    written: u64,
}

impl FakeLedger {
    /// A disk whose every choice comes from `seed`: one that takes no time, unless there is chaos.
    #[must_use]
    pub fn new(clock: Clock, seed: u64) -> Self {
        let inner = Inner {
            random: fastrand::Rng::with_seed(seed ^ 0x5708),
            chaos: false,
            full: false,
            disk: MemoryStore::new(),
            queue: VecDeque::new(),
            taken: 0,
            written: 0,
        };
        Self { clock, inner: Arc::new(Mutex::new(inner)) }
    }

    /// Whether the disk takes its time, and a crash loses what was written behind.
    pub fn chaos(&self, on: bool) {
        self.inner().chaos = on;
    }

    /// Whether the disk is full: nothing gets there, and who waits for it is told.
    pub fn full(&self, on: bool) {
        self.inner().full = on;
    }

    /// The supervisor is gone, and with it what was in its memory: all of what is on its way, or the last of it.
    pub fn crash(&self) {
        let now = self.clock.now();
        let mut inner = self.inner();
        while let Some((since, _)) = inner.queue.front() {
            if now.since(*since) < BEHIND && (inner.chaos && inner.random.bool()) || inner.full {
                break;
            }
            inner.write_one();
        }
        inner.queue.clear();
        inner.written = inner.taken;
    }

    /// What is on the disk of a worker.
    #[must_use]
    pub fn record_of(&self, worker: &WorkerId) -> Option<Record> {
        self.inner().disk.get_by_name(worker).unwrap_or_default()
    }

    /// What was handed over up to `number` is written in that time.
    fn on_disk(&self, number: u64, takes: Duration) -> Intent {
        let this = self.clone();
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let mut inner = this.inner();
            if inner.full {
                return Err(Unstored::Refused { why: "no space left on device".to_owned() });
            }
            inner.write_until(number);
            Ok(())
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, now: Mono, changes: Vec<Change>) -> u64 {
        self.queue.push_back((now, changes));
        self.taken += 1;
        if !self.chaos && !self.full {
            self.write_until(self.taken);
        }
        self.taken
    }

    fn write_until(&mut self, number: u64) {
        while self.written < number {
            self.write_one();
        }
    }

    fn write_one(&mut self) {
        if let Some((_, changes)) = self.queue.pop_front() {
            // Memory takes everything.
            let written: Result<(), StoreError> = self.disk.apply(&changes);
            drop(written);
        }
        self.written += 1;
    }
}

impl Ledger for FakeLedger {
    fn intend(&self, changes: Vec<Change>) -> Intent {
        let (number, takes) = {
            let now = self.clock.now();
            let mut inner = self.inner();
            let takes = if inner.chaos { inner.random.u64(0..SYNC_MS) } else { 0 };
            (inner.take(now, changes), takes)
        };
        self.on_disk(number, Duration::from_millis(takes))
    }

    fn record(&self, changes: Vec<Change>) {
        let now = self.clock.now();
        self.inner().take(now, changes);
    }

    fn written(&self) -> Intent {
        let (number, takes) = {
            let inner = self.inner();
            (inner.taken, if inner.chaos { BEHIND } else { Duration::ZERO })
        };
        self.on_disk(number, takes)
    }
}
