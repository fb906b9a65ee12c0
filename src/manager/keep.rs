//! What a manager of the library has beside its workers: where it remembers them, and where it tells of them.
//!
//! ```text
//!  workers ─ changes ─▶ StoreHandle ─ thread ─▶ Store           set_store: handed all that is known, then what comes
//!          └ events ──▶ teller (task) ─▶ outlets ─▶ sinks       set_history_sinks: between two events
//! ```
//! No worker waits for either, but for the answer to a wish, which waits for the store five seconds at the most. A sink that is
//! stuck holds up no other. No lock is held while anything is waited for.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use super::crew::Crew;
use super::handle::Manager;
use crate::clock::{self, Clock};
use crate::history::{History, HistorySink, Scribe, SinkHealth, Unusable, Vitals};
use crate::kernel::{place::record::boot_id, port::Kernel};
use crate::model::{Event, WorkerId, chain};
use crate::store::{Health, MemoryStore, NotReplaced, Prepared, Record, Store, StoreHandle, Unstored};
use crate::worker::{actor::Shared, rules};

/// How long runs are remembered after their end.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the end waits for the store, and for the sinks.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why another store or other sinks are not used. Those before are.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// A daemon's are its configuration's; a manager of fixed workers has none.
    #[error("this manager's store and history sinks are not its own: make it with Manager::over")]
    NotOurs,
    /// The store.
    #[error(transparent)]
    Store(#[from] NotReplaced),
    /// A sink.
    #[error(transparent)]
    Sink(#[from] Unusable),
    /// Nothing is told any more.
    #[error("everything is shut down")]
    Closed,
}

/// The store and the sinks of a manager.
pub struct Keep {
    store: StoreHandle,
    /// What the store remembers of workers that have not been made yet.
    remembered: Mutex<HashMap<WorkerId, Record>>,
    orders: UnboundedSender<Order>,
    vitals: Vitals,
}

enum Order {
    Sinks(Vec<Box<dyn HistorySink>>),
    Close(oneshot::Sender<()>),
}

impl Keep {
    /// A store in memory and no sinks, for what comes from `events`. Inside a tokio runtime.
    fn start(events: UnboundedReceiver<Event>, boot: &str) -> io::Result<Self> {
        let store = StoreHandle::start(Box::new(MemoryStore::new()), Vec::new(), RETENTION)?;
        let (orders, incoming) = mpsc::unbounded_channel();
        let history = History::default();
        let vitals = history.vitals();
        tokio::spawn(tell(events, incoming, Scribe::begin(boot), history));
        Ok(Self { store, remembered: Mutex::default(), orders, vitals })
    }

    /// What is remembered of a worker that is being made. Once.
    pub(super) fn take(&self, worker: &WorkerId) -> Option<Box<Record>> {
        self.remembered().remove(worker).map(Box::new)
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<WorkerId, Record>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn set_store(&self, store: Box<dyn Store>) -> Result<(), NotKept> {
        let prepared = tokio::task::spawn_blocking(move || Prepared::new(store)).await;
        let prepared = prepared.map_err(|_| NotKept::Closed)?.map_err(NotReplaced::from)?;
        let theirs: Vec<Record> = prepared.records().to_vec();
        // Before it is used: a worker that is made meanwhile goes on where that store has it.
        let before = {
            let mut remembered = self.remembered();
            let before = remembered.clone();
            remembered.extend(theirs.into_iter().map(|record| (record.worker.clone(), record)));
            before
        };
        let replaced = self.store.replace(prepared).await;
        if replaced.is_err() {
            *self.remembered() = before;
        }
        Ok(replaced?)
    }

    /// Gives the sinks and the store what waits for them.
    pub(super) async fn close(&self) -> Result<(), String> {
        let (done, told) = oneshot::channel();
        if self.orders.send(Order::Close(done)).is_ok() {
            // A teller that has ended has told everything.
            drop(told.await);
        }
        self.store.close(LAST_WORDS).await.map_err(|error| chain(&error))
    }
}

/// Tells events to the sinks, until there is nobody left to tell any.
async fn tell(
    mut events: UnboundedReceiver<Event>,
    mut orders: UnboundedReceiver<Order>,
    mut scribe: Scribe,
    mut history: History,
) {
    let done = loop {
        tokio::select! {
            // What was told before an order is for those before it.
            biased;
            Some(event) = events.recv() => history.tell(&scribe.write(event)),
            order = orders.recv() => match order {
                Some(Order::Sinks(sinks)) => history.replace(sinks),
                Some(Order::Close(done)) => break Some(done),
                None => break None,
            },
        }
    };
    if done.is_none() {
        // The manager is gone; what is left of its workers is told.
        while let Some(event) = events.recv().await {
            history.tell(&scribe.write(event));
        }
    }
    history.close(LAST_WORDS).await;
    if let Some(done) = done {
        // Whoever waited may have gone away.
        done.send(()).unwrap_or_default();
    }
}

impl Crew {
    /// On `kernel`, with a store in memory and no history sinks. Inside a tokio runtime; `clock` is the kernel's. Nobody is listening
    /// where a worker's `on_open: exit` would end a daemon: it rests.
    ///
    /// # Errors
    /// Where this boot cannot be told from another, or there is no thread to be had.
    pub fn over(kernel: Arc<dyn Kernel>, clock: Clock) -> io::Result<Self> {
        let boot = boot_id()?;
        let (records, events) = mpsc::unbounded_channel();
        let keep = Keep::start(events, &boot)?;
        let shared = Shared {
            kernel,
            clock,
            records,
            ledger: Arc::new(keep.store.clone()),
            // Greater than that of a manager of before, which had the same store.
            epoch: u64::try_from(clock::wall().as_second()).unwrap_or(0),
            give_up: mpsc::unbounded_channel().0,
            cpus: rules::cpus(),
            boot_id: boot.into(),
            seed: fastrand::u64(..),
            latency: Arc::default(),
            seqs: Mutex::default(),
        };
        Ok(Self::new(Arc::new(shared)).keeping(keep))
    }
}

impl Manager {
    /// A manager of workers on `kernel`, of which there are none yet. It remembers in memory and tells nobody, until
    /// [`set_store`](Self::set_store) and [`set_history_sinks`](Self::set_history_sinks) say otherwise.
    ///
    /// ```
    /// use std::{path::Path, sync::Arc};
    ///
    /// use pinfold::{
    ///     clock::{self, Clock},
    ///     history::JsonlSink,
    ///     kernel::port::Kernel,
    ///     manager::handle::Manager,
    ///     model::WorkerId,
    ///     spec::types::{self, Spec},
    ///     store::SqliteStore,
    /// };
    ///
    /// async fn three_web_servers(kernel: Arc<dyn Kernel>, clock: Clock) -> Result<(), Box<dyn std::error::Error>> {
    ///     let manager = Manager::over(kernel, clock)?;
    ///     let opened = SqliteStore::open(Path::new("processes.db"), clock::wall())?;
    ///     manager.set_store(Box::new(opened.store)).await?;
    ///     let file = types::JsonlSink { path: "/var/log/events.jsonl".into(), max_size: 64 << 20, keep: 5 };
    ///     manager.set_history_sinks(vec![Box::new(JsonlSink::new(file))]).await?;
    ///     let spec = Spec::new(vec!["nginx".into(), "-g".into(), "daemon off;".into()]);
    ///     manager.start_n(&WorkerId::new("web-server")?, spec, 3).await?;
    ///     assert_eq!(manager.count("web-server*")?, 3);
    ///     manager.shutdown().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Crew::over`].
    pub fn over(kernel: Arc<dyn Kernel>, clock: Clock) -> io::Result<Self> {
        Ok(Self::with(Arc::new(Crew::over(kernel, clock)?), Vec::new()))
    }

    /// Remembers in `store` from now on, at any time.
    ///
    /// * What it remembers of workers that are not there yet is gone on with when they are made: numbers of runs, what their restart
    ///   breakers had counted, who took them down. Set it before the first worker, and nothing of an earlier life is lost.
    /// * What is known of workers that are there is handed to it, with every run that the store before can still tell. What was
    ///   written a moment ago and what is written in a moment is in it, too.
    /// * The store before is closed, beside everything else. It need not be in order: one that is full or gone is replaced by
    ///   this, and what it did not take is handed over. One that does not come back from a write is waited for.
    ///
    /// While the new one takes what is known, wishes wait as they do for a slow disk; no worker does.
    ///
    /// # Errors
    /// [`NotKept`], also where its records of a worker contradict what is known: the store before is in use as it was.
    pub async fn set_store(&self, store: Box<dyn Store>) -> Result<(), NotKept> {
        self.keep()?.set_store(store).await
    }

    /// Tells `sinks` all events from now on, and nobody else. Those before are given what waits for them, beside everything else and
    /// for five seconds at the most; one of the same name begins when that is over. Which they are decides one moment: an event is
    /// for all of those before it or for all of those after.
    ///
    /// # Errors
    /// [`NotKept`], where one says that it could take nothing ([`HistorySink::check`]): those before go on then.
    pub async fn set_history_sinks(&self, mut sinks: Vec<Box<dyn HistorySink>>) -> Result<(), NotKept> {
        let keep = self.keep()?;
        History::check(&mut sinks).await?;
        keep.orders.send(Order::Sinks(sinks)).map_err(|_| NotKept::Closed)
    }

    /// How the sinks are, in the order they were given: what they have taken, what waits, what is lost.
    #[must_use]
    pub fn history_health(&self) -> Vec<SinkHealth> {
        self.keep().map(|keep| keep.vitals.read()).unwrap_or_default()
    }

    /// Whether what is to be remembered is. `None` where that is a daemon's affair.
    #[must_use]
    pub fn store_health(&self) -> Option<Health> {
        self.keep().ok().map(|keep| keep.store.health())
    }

    /// Waits until all that was to be remembered until now is in the store, or was refused by it.
    ///
    /// # Errors
    /// [`NotKept`].
    pub async fn flush_store(&self) -> Result<(), NotKept> {
        let asked = self.keep()?.store.ask(|_| ()).await;
        asked.map_err(|closed: Unstored| NotReplaced::from(closed).into())
    }

    fn keep(&self) -> Result<&Keep, NotKept> {
        self.inner.nursery.as_ref().and_then(|nursery| nursery.keep()).ok_or(NotKept::NotOurs)
    }
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
