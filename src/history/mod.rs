//! Where events go beside the store: a file, a search engine, whatever a user of the library brings.
//!
//! ```text
//!                        ┌─▶ outlet ─ queue ─ task ─▶ HistorySink (jsonl, opensearch, memory, yours)
//!  Event ─ Scribe ─▶ Record ─▶ outlet ─ …
//!                        └─▶ Ring ◀── readers (`GET /v1/events`)
//! ```
//!
//! - An event is written as JSON once, by the [`Scribe`]; what is shared afterwards is an [`Arc<Record>`](Record).
//! - Each sink has a task and a queue of its own, bounded in events and in bytes. [`History::tell`] only puts an event
//!   into the queues: it never waits, so that a sink that is slow or dead touches no worker and no other sink.
//! - **Delivery** is at least once: what a sink has not confirmed is tried again, after a delay that doubles. Readers
//!   tell one event that came twice by its [`Cursor`].
//! - **Loss** is bounded and counted. A queue that is full drops its *oldest* event: whoever looks after an outage wants
//!   the present, and finds one gap, at its beginning. What a sink refuses for good, and what is left at the end, is
//!   counted by its reason ([`Dropped`]).
//! - **Another list of sinks** ([`History::replace`], [`History::configure`]) takes effect between two events: what came before is
//!   for those that go, what comes after for those that come, and those that stay notice nothing. Those that go are given what
//!   waits for them, beside everything else, for a while. One of the same name begins when they are gone: two never
//!   write one file.
//! - **Idle** costs nothing: no timer runs while a queue is empty.
//! - That a sink fails is said on stderr and in its [`SinkHealth`], once for each change, and is no event: an event
//!   would have to go through that sink.

mod jsonl;
mod memory;
mod opensearch;
mod outlet;
mod queue;
mod record;
mod ring;
mod tls;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::task::JoinSet;

pub use jsonl::JsonlSink;
pub use memory::MemorySink;
pub use opensearch::OpenSearchSink;
pub use outlet::{Dropped, SinkHealth, SinkState};
pub use record::{Cursor, Record, Scribe};
pub use ring::{Fallen, Piece, Reader, Ring};

use crate::spec::types::Sink;
use outlet::{Alive, Outlet};

/// What takes events away. Called by one task, one batch at a time.
pub trait HistorySink: Send + 'static {
    /// What it is called in messages and in `/v1/health`.
    fn name(&self) -> String;

    /// What it is given at once, and what waits for it.
    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    /// Whether it could take something, as far as that can be told without giving it anything; nothing is changed by it. That a
    /// server is not there now is no error: it may come back.
    ///
    /// # Errors
    /// Why it could not.
    fn check(&mut self) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Takes `batch`, which is not empty, in its order. What it has taken must not be lost by it.
    ///
    /// Whoever blocks here blocks the runtime: work that blocks belongs on a thread (`tokio::task::spawn_blocking`). The
    /// future is dropped where the end does not wait for it.
    ///
    /// # Errors
    /// Nothing is known to have been taken: all of it is tried again.
    fn write<'a>(&'a mut self, batch: &'a [Arc<Record>]) -> BoxFuture<'a, Result<Written, WriteError>>;

    /// The end: nothing is written any more.
    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What became of a batch.
#[derive(Debug)]
pub enum Written {
    /// All of it was taken.
    All,
    /// Not all of it was.
    Part {
        /// Indices into the batch of what is to be tried again.
        again: Vec<usize>,
        /// Indices of what is refused for good.
        rejected: Vec<usize>,
        /// Why.
        trouble: WriteError,
    },
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct WriteError {
    /// What was tried, and what came of it.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
    /// How long the sink wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl WriteError {
    /// Without a cause of its own.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, retry_after: None }
    }

    /// With its cause.
    #[must_use]
    pub fn because(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()), retry_after: None }
    }
}

/// Has something looked at on a thread of its own, for it may block.
async fn look(at: impl FnOnce() -> Result<(), WriteError> + Send + 'static) -> Result<(), WriteError> {
    let looked = tokio::task::spawn_blocking(at).await;
    looked.unwrap_or_else(|error| Err(WriteError::because("the thread that looks has ended", error)))
}

/// How much waits for a sink, and how much it is given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Events that wait.
    pub events: usize,
    /// Their size, in bytes.
    pub bytes: usize,
    /// Events of one batch.
    pub batch_events: usize,
    /// Its size, in bytes. One event that is larger is a batch by itself.
    pub batch_bytes: usize,
    /// How long the first event of a batch waits for others.
    pub linger: Duration,
    /// The first delay before another try; each further one is twice as long.
    pub first_retry: Duration,
    /// What no delay exceeds.
    pub max_retry: Duration,
}

impl Default for Bounds {
    /// 50,000 events or 32 MiB wait, 500 or 1 MiB go at once and without lingering; 200 ms to 30 s between tries.
    fn default() -> Self {
        Self {
            events: 50_000,
            bytes: 32 << 20,
            batch_events: 500,
            batch_bytes: 1 << 20,
            linger: Duration::ZERO,
            first_retry: Duration::from_millis(200),
            max_retry: Duration::from_secs(30),
        }
    }
}

/// Why a sink is not used.
#[derive(Debug, thiserror::Error)]
#[error("the history sink {name} cannot be used")]
pub struct Unusable {
    /// Which.
    pub name: String,
    /// Why not.
    #[source]
    pub source: WriteError,
}

/// How long a sink may take to say whether it can be used.
const CHECK: Duration = Duration::from_secs(5);

/// How long a sink that goes is given for what waits for it.
const FAREWELL: Duration = Duration::from_secs(5);

/// All sinks.
#[derive(Debug, Default)]
pub struct History {
    slots: Vec<Slot>,
    vitals: Vitals,
    /// Those that go.
    leaving: JoinSet<()>,
    /// The names of those, and whether they are there still.
    going: Vec<(String, Alive)>,
}

/// One sink.
#[derive(Debug)]
struct Slot {
    /// What asks for it, where that is a configuration.
    configured: Option<Sink>,
    outlet: Outlet,
}

/// One of the sinks that are to be there.
enum Next {
    Stays(Slot),
    Comes(Option<Sink>, Box<dyn HistorySink>),
}

/// How the sinks are, for whoever asks: those that there are then. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    shared: Arc<Mutex<Vec<Arc<outlet::Shared>>>>,
}

impl History {
    /// Starts a task for each of `sinks`. Call it inside a tokio runtime.
    #[must_use]
    pub fn start(sinks: Vec<Box<dyn HistorySink>>) -> Self {
        let mut history = Self::default();
        history.replace(sinks);
        history
    }

    /// The sink that a configuration asks for. Nothing is opened before there is something to write.
    #[must_use]
    pub fn sink(configured: &Sink) -> Box<dyn HistorySink> {
        match configured {
            Sink::Jsonl(file) => Box::new(JsonlSink::new(file.clone())),
            Sink::OpenSearch(server) => Box::new(OpenSearchSink::new(server.clone())),
        }
    }

    /// That each of `sinks` could take something ([`HistorySink::check`]).
    ///
    /// # Errors
    /// The first that could not, or does not say so for five seconds.
    pub async fn check(sinks: &mut [Box<dyn HistorySink>]) -> Result<(), Unusable> {
        let all = sinks.iter_mut().map(|sink| async move {
            let name = sink.name();
            let silent = || WriteError::new(format!("it has not answered within {CHECK:?}"));
            let checked = tokio::time::timeout(CHECK, sink.check()).await.unwrap_or_else(|_| Err(silent()));
            checked.map_err(|source| Unusable { name, source })
        });
        join_all(all).await.into_iter().collect()
    }

    /// Has every event from now on go to `sinks`, and to none of those before. Never waits. Call it inside a tokio runtime.
    pub fn replace(&mut self, sinks: Vec<Box<dyn HistorySink>>) {
        let go = std::mem::take(&mut self.slots);
        self.change(sinks.into_iter().map(|sink| Next::Comes(None, sink)), go);
    }

    /// The same for what a configuration asks for: a sink that it asks for unchanged stays as it is, with what waits for it.
    pub fn configure(&mut self, wanted: &[Sink]) {
        let mut there = std::mem::take(&mut self.slots);
        let next = |sink: &Sink| match there.iter().position(|slot| slot.configured.as_ref() == Some(sink)) {
            Some(at) => Next::Stays(there.remove(at)),
            None => Next::Comes(Some(sink.clone()), Self::sink(sink)),
        };
        let next: Vec<Next> = wanted.iter().map(next).collect();
        self.change(next, there);
    }

    fn change(&mut self, next: impl IntoIterator<Item = Next>, go: Vec<Slot>) {
        // Closed is what has gone.
        self.going.retain(|(_, alive)| alive.has_changed().is_ok());
        self.going.extend(go.iter().map(|slot| (slot.outlet.name().to_owned(), slot.outlet.alive())));
        let slot = |next| match next {
            Next::Stays(slot) => slot,
            Next::Comes(configured, sink) => {
                let name = sink.name();
                let before = self.going.iter().filter(|(going, _)| *going == name).map(|(_, alive)| alive.clone());
                Slot { configured, outlet: Outlet::start(sink, before.collect()) }
            }
        };
        self.slots = next.into_iter().map(slot).collect();
        self.vitals.set(self.slots.iter().map(|slot| slot.outlet.shared()).collect());
        // Those that have gone are let go of.
        while self.leaving.try_join_next().is_some() {}
        for slot in go {
            self.leaving.spawn(slot.outlet.close(FAREWELL));
        }
    }

    /// Gives `record` to every sink's queue. Never waits.
    pub fn tell(&self, record: &Arc<Record>) {
        for slot in &self.slots {
            slot.outlet.tell(record);
        }
    }

    /// How each sink is, in the order they were given.
    #[must_use]
    pub fn health(&self) -> Vec<SinkHealth> {
        self.vitals().read()
    }

    /// The same for somebody else.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Gives every sink what waits for it, for at most `within`. What has not been taken then is dropped and counted. Those that
    /// are going are waited for, too.
    pub async fn close(self, within: Duration) -> Vec<SinkHealth> {
        let Self { slots, vitals, leaving, .. } = self;
        let closed = join_all(slots.into_iter().map(|slot| slot.outlet.close(within)));
        futures_util::future::join(closed, leaving.join_all()).await;
        vitals.read()
    }
}

impl Vitals {
    /// As they are now.
    #[must_use]
    pub fn read(&self) -> Vec<SinkHealth> {
        self.list().iter().map(|shared| shared.health()).collect()
    }

    fn set(&self, sinks: Vec<Arc<outlet::Shared>>) {
        *self.list() = sinks;
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<outlet::Shared>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
