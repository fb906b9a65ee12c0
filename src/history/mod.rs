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

use std::{error::Error, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};

pub use jsonl::JsonlSink;
pub use memory::MemorySink;
pub use opensearch::OpenSearchSink;
pub use outlet::{Dropped, SinkHealth, SinkState};
pub use record::{Cursor, Record, Scribe};
pub use ring::{Fallen, Piece, Reader, Ring};

use crate::spec::types::Sink;
use outlet::Outlet;

/// What takes events away. Called by one task, one batch at a time.
pub trait HistorySink: Send + 'static {
    /// What it is called in messages and in `/v1/health`.
    fn name(&self) -> String;

    /// What it is given at once, and what waits for it.
    fn bounds(&self) -> Bounds {
        Bounds::default()
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

/// All sinks.
#[derive(Debug, Default)]
pub struct History {
    outlets: Vec<Outlet>,
}

/// How the sinks are, for whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    shared: Vec<Arc<outlet::Shared>>,
}

impl History {
    /// Starts a task for each of `sinks`. Call it inside a tokio runtime.
    #[must_use]
    pub fn start(sinks: Vec<Box<dyn HistorySink>>) -> Self {
        Self { outlets: sinks.into_iter().map(Outlet::start).collect() }
    }

    /// The sinks that a configuration asks for. Nothing is opened before there is something to write.
    #[must_use]
    pub fn sinks(configured: &[Sink]) -> Vec<Box<dyn HistorySink>> {
        let sink = |sink: &Sink| -> Box<dyn HistorySink> {
            match sink {
                Sink::Jsonl(file) => Box::new(JsonlSink::new(file.clone())),
                Sink::OpenSearch(server) => Box::new(OpenSearchSink::new(server.clone())),
            }
        };
        configured.iter().map(sink).collect()
    }

    /// Gives `record` to every sink's queue. Never waits.
    pub fn tell(&self, record: &Arc<Record>) {
        for outlet in &self.outlets {
            outlet.tell(record);
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
        Vitals { shared: self.outlets.iter().map(Outlet::shared).collect() }
    }

    /// Gives every sink what waits for it, for at most `within`. What has not been taken then is dropped and counted.
    pub async fn close(self, within: Duration) -> Vec<SinkHealth> {
        let vitals = self.vitals();
        join_all(self.outlets.into_iter().map(|outlet| outlet.close(within))).await;
        vitals.read()
    }
}

impl Vitals {
    /// As they are now.
    #[must_use]
    pub fn read(&self) -> Vec<SinkHealth> {
        self.shared.iter().map(|shared| shared.health()).collect()
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
