//! What outlives the supervisor and the host: what was wished of each worker, what its restart breaker had counted, its runs
//! and how they ended.
//!
//! ```text
//!  change   what can be remembered, and what is remembered of one worker
//!  ledger   the actors' end: hand over, and wait only for what must be on disk
//!  handle   the queue between actors and store ── writer  the one thread that writes
//!  batch    what waits to be written, folded: the newest of each kind for each worker
//!  replace  another store in the place of one that is in use
//!  sqlite   a file in the state directory ── open  found whole, damaged, newer, somebody else's
//!  memory   the same without a file
//! ```
//!
//! # Two kinds of durability
//!
//! *Intents*: what a person wished, a final policy's end and an opened breaker are on disk (`synchronous=FULL`) before they are
//! answered. Those that wait together are one transaction. *Records*: starts, exits, counts of automatic restarts and
//! statuses are written behind, some milliseconds later and without a sync: they survive the supervisor, and of what the
//! host's power takes away only the last moments are missing.
//!
//! # Failure paths
//!
//! A store that cannot be written stops nothing: what waits is kept in memory, folded and bounded, and tried again with
//! growing pauses; whoever waits for an intent is told. A file that was removed or replaced under us, or is found damaged, is
//! made anew and written from what memory has.

mod age;
mod batch;
mod change;
mod handle;
mod ledger;
mod memory;
mod open;
mod replace;
mod sqlite;
mod writer;

pub use change::{Change, Ended, Kept, Record, Run, Shown};
pub use handle::{Health, NotClosed, StoreHandle};
pub use ledger::{Intent, Ledger, Unstored};
pub use memory::MemoryStore;
pub use open::{Found, OpenError, Opened};
pub use replace::{NotReplaced, Prepared};
pub use sqlite::SqliteStore;

use jiff::Timestamp;

use crate::model::{Confidence, ExitCause, RunId, WorkerId};

/// Where it is remembered. One thread owns it; nothing here is asked by two.
pub trait Store: Send {
    /// Makes what the store needs where it is not there yet, and makes sure that it is of this version.
    ///
    /// # Errors
    /// [`StoreError`]: of another version, or it cannot be written.
    fn ensure_schema(&mut self) -> Result<(), StoreError>;

    /// Remembers all of `changes` or none; on disk when it returns.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// The same, but a loss of power may take back the last ones.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    fn apply_behind(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.apply(changes)
    }

    /// After [`StoreError::Lost`]: begins with an empty store in the same place. What is there is set aside, under a name with the moment `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn begin_anew(&mut self, now: Timestamp) -> Result<(), StoreError>;

    /// What is remembered of a worker.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_by_name(&mut self, worker: &WorkerId) -> Result<Option<Record>, StoreError>;

    /// What is remembered of all workers, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_all(&mut self) -> Result<Vec<Record>, StoreError>;

    /// Those whose last run has begun and not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_running(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(self.get_all()?.into_iter().filter(Record::is_running).collect())
    }

    /// The newest `limit` runs of a worker, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_runs(&mut self, worker: &WorkerId, limit: usize) -> Result<Vec<Run>, StoreError>;

    /// Forgets runs that ended before `moment`, but for the last of each worker. Says how many.
    ///
    /// # Errors
    /// [`StoreError`].
    fn purge_older_than(&mut self, moment: Timestamp) -> Result<usize, StoreError>;

    /// Ends it: all is on disk and in one file.
    ///
    /// # Errors
    /// [`StoreError`]. The store is gone all the same.
    fn close(self: Box<Self>) -> Result<(), StoreError>;

    /// Remembers that the program of `run` began.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn record_start(&mut self, run: &RunId, pid: i32, boot_id: &str, at: Timestamp) -> Result<(), StoreError> {
        self.apply(&[Change::Started { run: run.clone(), pid, boot_id: boot_id.into(), at, begun: None }])
    }

    /// Remembers how `run` ended.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn record_stop(
        &mut self,
        run: &RunId,
        cause: ExitCause,
        confidence: Confidence,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let ended = Box::new(Ended { cause, confidence, at });
        self.apply(&[Change::Stopped { run: run.clone(), ended, begun: None }])
    }

    /// Remembers what `worker` was last seen doing.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn upsert_status(&mut self, worker: &WorkerId, status: Shown) -> Result<(), StoreError> {
        self.apply(&[Change::Status { worker: worker.clone(), status, story: None }])
    }
}

/// Why something cannot be remembered or looked up.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file was removed, replaced or damaged while it was open.
    #[error("{path} {what}")]
    Lost {
        /// Which file.
        path: String,
        /// What was found.
        what: &'static str,
    },
    /// The database refuses.
    #[error("{doing} {path}")]
    Database {
        /// What was done.
        doing: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system refuses.
    #[error("{doing} {path}")]
    Io {
        /// What was done.
        doing: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A row is not what this version writes.
    #[error("{path}: what is remembered of {worker} is not understood")]
    Row {
        /// Which file.
        path: String,
        /// Of whom.
        worker: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What waited could not be written.
    #[error("what waited is not written: {why}")]
    Unwritten {
        /// Why not.
        why: String,
    },
    /// It is of a later version of pinfold.
    #[error(
        "{path} has version {found} and this pinfold knows {known}: start the newer pinfold that wrote it, or move the file away"
    )]
    Newer {
        /// Which file.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
}
