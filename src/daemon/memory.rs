//! The store, joined to the supervisor: opened before the keeper hears of us, judged when it is known whether workers live,
//! watched, and closed at the end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::cli::exit::Failure;
use crate::clock;
use crate::model::{EventKind, RunId, WorkerId, chain};
use crate::spec::types::{Config, StoreType};
use crate::store::{Found, Health, MemoryStore, OpenError, Opened, Record, SqliteStore, Store, StoreHandle};

use super::chronicle::Chronicle;

const FILE: &str = "pinfold.db";

/// How long the end waits for the disk. What waits then are records of what is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long runs are remembered where no worker says otherwise: `monitoring.history_retention`.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// A store that was opened, or tried to be.
pub(super) struct Opening {
    path: PathBuf,
    retention: Duration,
    opened: Option<Result<Opened, OpenError>>,
}

/// What outlives the supervisor.
pub(super) struct Memory {
    pub(super) handle: StoreHandle,
    pub(super) epoch: u64,
    /// Each is taken once: what stays is a table of pointers.
    records: HashMap<WorkerId, Box<Record>>,
    to_tell: Option<EventKind>,
}

/// Opens the store in `state`. Slow where it is large, for it is read as a whole.
pub(super) fn open(state: &Path, config: &Config) -> Opening {
    let path = state.join(FILE);
    let kept = config.workers.iter().map(|worker| worker.spec.limits.monitoring.history_retention);
    let opened = match config.store {
        StoreType::Sqlite => Some(SqliteStore::open(&path, clock::wall())),
        StoreType::Memory => None,
    };
    Opening { path, retention: kept.max().unwrap_or(RETENTION), opened }
}

impl Opening {
    /// Goes on with what was opened. Where that failed, a fresh start is refused; a supervisor that the keeper has started again
    /// goes on without, for what lives is not given up for it.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) fn settle(self, started_again: bool) -> Result<Memory, Failure> {
        let (store, records, epoch, to_tell): (Box<dyn Store>, Vec<Record>, u64, Option<EventKind>) = match self.opened
        {
            None => (Box::new(MemoryStore::new()), Vec::new(), epoch_of(clock::wall()), None),
            Some(Ok(Opened { store, epoch, found, records })) => {
                (Box::new(store), records, epoch, reconciled(&self.path, &found))
            }
            Some(Err(error)) if started_again => {
                let error = format!(
                    "the store cannot be opened, and nothing is remembered beyond this supervisor: {}",
                    chain(&error)
                );
                tracing::error!("{error}");
                (Box::new(MemoryStore::new()), Vec::new(), epoch_of(clock::wall()), Some(EventKind::Fault { error }))
            }
            Some(Err(error)) => return Err(Failure::failed("cannot open the store", error)),
        };
        let handle = StoreHandle::start(store, records.clone(), self.retention)
            .map_err(|e| Failure::failed("cannot start the store", e))?;
        let records = records.into_iter().map(|record| (record.worker.clone(), Box::new(record))).collect();
        Ok(Memory { handle, epoch, records, to_tell })
    }
}

/// Beyond that of a store that was opened in the same second.
fn epoch_of(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0).saturating_add(1)
}

fn reconciled(path: &Path, found: &Found) -> Option<EventKind> {
    let Found::SetAside { to, why } = found else { return None };
    let what = format!(
        "the store {} is damaged ({why}): it is set aside as {}, and a new one is made from the configuration and from \
         what lives; what was stopped is started again",
        path.display(),
        to.display()
    );
    tracing::error!("{what}");
    Some(EventKind::Reconciled { what })
}

impl Memory {
    /// Whether the end of a run is remembered: what is said of it once more is old.
    pub(super) fn has_end_of(&self, run: &RunId) -> bool {
        self.of(&run.worker).is_some_and(|record| record.has_end_of(run.number))
    }

    /// What is remembered of a worker, until it is taken.
    pub(super) fn of(&self, worker: &WorkerId) -> Option<&Record> {
        self.records.get(worker).map(|record| &**record)
    }

    /// What is remembered of a worker. Once.
    pub(super) fn take(&mut self, worker: &WorkerId) -> Option<Box<Record>> {
        self.records.remove(worker)
    }

    /// Tells what was found, and from now on whenever the store begins or ceases to take what it is given.
    pub(super) fn tell(&mut self, chronicle: &Chronicle) {
        if let Some(kind) = self.to_tell.take() {
            chronicle.record(kind);
        }
        tokio::spawn(watch_over(self.handle.watch(), chronicle.clone()));
    }

    /// Writes what waits, and closes.
    pub(super) async fn close(self) {
        if let Err(error) = self.handle.close(PATIENCE).await {
            tracing::error!(error = %chain(&error), "what happened last is not remembered");
        }
    }
}

/// Until the store is closed.
async fn watch_over(mut health: watch::Receiver<Health>, chronicle: Chronicle) {
    let mut degraded = false;
    let mut anew = None;
    while health.changed().await.is_ok() {
        let now = health.borrow_and_update().clone();
        match now {
            Health::Ok { made_anew } => {
                if made_anew.is_some() && made_anew != anew {
                    anew = made_anew;
                    let what = "the store's file was lost while it was open: it is made anew from memory, without its \
                                history";
                    chronicle.record(EventKind::Reconciled { what: what.to_owned() });
                } else if degraded {
                    chronicle.supervisor("the store is written again".to_owned());
                }
                degraded = false;
            }
            Health::Degraded { why, .. } => {
                if !degraded {
                    let error = format!("the store cannot be written, what happens is kept in memory: {why}");
                    chronicle.record(EventKind::Fault { error });
                }
                degraded = true;
            }
        }
    }
}
