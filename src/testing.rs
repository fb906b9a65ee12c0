//! For tests, ours and those of users of the library: a kernel in memory, and the shortest way to a supervised worker.
//!
//! [`FakeKernel`] lives in tokio's time. In a runtime with paused time a run of an hour passes in no time, and with
//! the same seed in the same way. [`Script`] says how the next run of a worker behaves; without one it starts at once, runs
//! for ever, and dies of the stop signal.

mod kernel;
mod ledger;
mod script;
mod search;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::mpsc;

pub use kernel::{Call, FakeKernel, Left, Recovered};
pub use ledger::FakeLedger;
pub use script::{Children, Launch, OnSignal, Oom, Script};
pub use search::{Asked, Mood, SearchServer};

use crate::clock::Clock;
use crate::model::{BadWorkerId, Event, WorkerId, WorkerStatus};
use crate::spec::types::Spec;
use crate::worker::actor::{Charge, Fate, Found, Shared, spawn};
use crate::worker::handle::{AskError, WorkerHandle};

/// Of the host that a [`Bench`] is on.
const BOOT_ID: &str = "7f0a1bd2-5c1e-4a7c-9a55-2f1c7e9f0a11";

/// A supervisor's insides around a [`FakeKernel`], without the supervisor.
pub struct Bench {
    /// The kernel.
    pub kernel: FakeKernel,
    /// What outlives the supervisor.
    pub ledger: FakeLedger,
    /// What the actors share.
    pub shared: Arc<Shared>,
    /// What they record.
    pub records: mpsc::UnboundedReceiver<Event>,
    /// Workers whose breaker has opened and is to end the supervisor.
    pub given_up: mpsc::UnboundedReceiver<WorkerId>,
}

impl Bench {
    /// Everything drawn from `seed`. Needs a tokio runtime around it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let clock = Clock::anchored_at(crate::model::Mono(Duration::from_secs(1000)));
        let kernel = FakeKernel::new(clock, seed);
        let (sender, records) = mpsc::unbounded_channel();
        let ledger = FakeLedger::new(clock, seed);
        let (give_up, given_up) = mpsc::unbounded_channel();
        let shared = Shared {
            kernel: Arc::new(kernel.clone()),
            clock,
            records: sender,
            ledger: Arc::new(ledger.clone()),
            epoch: 1,
            give_up,
            cpus: 2,
            boot_id: BOOT_ID.into(),
            seed,
            latency: Arc::default(),
            seqs: Mutex::default(),
        };
        Self { kernel, ledger, shared: Arc::new(shared), records, given_up }
    }

    /// Supervises `spec` as `name`, never run before and not started yet.
    ///
    /// # Errors
    /// If `name` is none.
    pub fn worker(&self, name: &str, spec: Spec) -> Result<WorkerHandle, BadWorkerId> {
        let found = Found::Nothing { last_run: 0 };
        Ok(spawn(&self.shared, Charge::new(WorkerId::new(name)?, Arc::new(spec), found)))
    }

    /// What the next supervisor goes on with of a worker whose actor is gone, as the daemon's takeover has it.
    #[must_use]
    pub fn left_of(&self, id: &WorkerId, spec: Arc<Spec>) -> Charge {
        let remembered = self.ledger.record_of(id).map(Box::new);
        let Recovered { last_run, newest, half_made, mut debris } = self.kernel.recover(id);
        let nothing = Found::Nothing { last_run };
        let found = newest.map_or(nothing, |Left { pid, note, ended, frozen }| {
            match Fate::of(note.run.number, ended, remembered.as_deref()) {
                Fate::Alive => Found::Alive { pid, note, frozen },
                Fate::Over => Found::Over { note },
                Fate::Debris => {
                    debris.push(note.run);
                    Found::Nothing { last_run }
                }
            }
        });
        Charge { remembered, half_made, debris, ..Charge::new(id.clone(), spec, found) }
    }

    /// What was recorded since the last call.
    pub fn recorded(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.records.try_recv().ok()).collect()
    }
}

/// Waits for a level of a worker's status, at most `patience` (of tokio's time).
///
/// # Errors
/// The status it has instead when patience has run out, or the actor's end.
pub async fn wait_for(
    worker: &WorkerHandle,
    patience: Duration,
    level: impl FnMut(&WorkerStatus) -> bool,
) -> Result<WorkerStatus, NotReached> {
    match tokio::time::timeout(patience, worker.wait_for(level)).await {
        Ok(reached) => reached.map_err(NotReached::Gone),
        Err(_) => Err(NotReached::Instead(Box::new(worker.status()))),
    }
}

/// Why a level was not reached.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// Its actor ended.
    #[error(transparent)]
    Gone(AskError),
    /// Patience ran out.
    #[error("not reached; instead: {0:?}")]
    Instead(Box<WorkerStatus>),
}
