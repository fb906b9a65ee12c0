//! The queue between those who want something remembered and the thread that writes.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use super::batch::Batch;
use super::change::{Change, Record};
use super::ledger::{Intent, Ledger, Unstored};
use super::replace::{NotReplaced, Prepared};
use super::writer::Writer;
use super::{Store, StoreError};

/// Whether what is handed over gets where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok {
        /// When it last had to be made anew, because its file was lost while it was open.
        made_anew: Option<Timestamp>,
    },
    /// It is kept in memory, and tried again.
    Degraded {
        /// The whole chain of reasons.
        why: String,
        /// Since when.
        since: Timestamp,
        /// Of how many workers something waits.
        pending: usize,
        /// How many starts and exits had no room in memory.
        lost: u64,
    },
}

type Replacement = (Prepared, oneshot::Sender<Result<(), NotReplaced>>);

type Ask = Box<dyn FnOnce(&mut dyn Store) + Send>;

/// What the thread finds when it looks.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) batch: Batch,
    pub(super) intents: Vec<oneshot::Sender<Result<(), Unstored>>>,
    /// Of those who wait for what is written behind.
    pub(super) behind: Vec<oneshot::Sender<Result<(), Unstored>>>,
    pub(super) asks: Vec<Ask>,
    pub(super) replacements: Vec<Replacement>,
    pub(super) closing: Option<oneshot::Sender<Result<(), StoreError>>>,
    /// The last handle is gone, or the thread has ended.
    pub(super) over: bool,
}

impl Queue {
    /// Whether there is something that does not wait.
    pub(super) fn is_urgent(&self) -> bool {
        !self.intents.is_empty()
            || !self.asks.is_empty()
            || !self.replacements.is_empty()
            || self.closing.is_some()
            || self.over
    }

    /// Whether nobody waits for anything.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.behind.is_empty()
    }
}

pub(super) struct Shared {
    queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    pub(super) health: watch::Sender<Health>,
}

impl Shared {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store, for everybody. Cheap to clone. When the last one is gone, what waits is written and the store is closed.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.queue().over = true;
        self.0.wake.notify_one();
    }
}

/// Why a store was not closed in order.
#[derive(Debug, thiserror::Error)]
pub enum NotClosed {
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It takes too long.
    #[error("the store was not closed within {0:?}")]
    TimedOut(Duration),
    /// It had been closed before.
    #[error("the store is closed already")]
    Already,
}

impl StoreHandle {
    /// Has `store` written by a thread of its own. `known` is what it remembers now, for the case that the file is lost; runs
    /// are forgotten `retention` after their end.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(store: Box<dyn Store>, known: Vec<Record>, retention: Duration) -> io::Result<Self> {
        let (health, _) = watch::channel(Health::Ok { made_anew: None });
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), health });
        let writer = Writer::new(Arc::clone(&shared), store, known, retention);
        thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())?;
        Ok(Self { _last: Arc::new(Last(Arc::clone(&shared))), shared })
    }

    /// How it does.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// The same, to wait for a change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Has `question` asked of the store, behind all that was handed over before.
    ///
    /// # Errors
    /// [`Unstored::Closed`].
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store) -> T + Send + 'static,
    ) -> Result<T, Unstored> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.over {
                return Err(Unstored::Closed);
            }
            queue.asks.push(Box::new(move |store: &mut dyn Store| {
                // Whoever asked may have gone away.
                drop(answer.send(question(store)));
            }));
        }
        self.shared.wake.notify_one();
        answered.await.map_err(|_| Unstored::Closed)
    }

    /// Forgets runs that ended before `moment`.
    ///
    /// # Errors
    /// [`Unstored`].
    pub async fn purge(&self, moment: Timestamp) -> Result<usize, Unstored> {
        let purged = self.ask(move |store| store.purge_older_than(moment)).await?;
        purged.map_err(|e| Unstored::Refused { why: crate::model::chain(&e) })
    }

    /// Uses another store from now on: it is handed all that is known, and then what comes; nothing is lost between, and what could
    /// not be written until now goes to it. The one before is closed aside. What the other remembers of workers that are not known
    /// here stays in it.
    ///
    /// # Errors
    /// [`NotReplaced`]: everything is as it was then.
    pub async fn replace(&self, with: Prepared) -> Result<(), NotReplaced> {
        let (done, replaced) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.over {
                return Err(Unstored::Closed.into());
            }
            queue.replacements.push((with, done));
        }
        self.shared.wake.notify_one();
        replaced.await.unwrap_or(Err(NotReplaced::Closed(Unstored::Closed)))
    }

    /// Writes what waits and closes, within `timeout`.
    ///
    /// # Errors
    /// [`NotClosed`]; what waited is lost then, but for what the runs' own records hold.
    pub async fn close(&self, timeout: Duration) -> Result<(), NotClosed> {
        let (done, closed) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.over || queue.closing.is_some() {
                return Err(NotClosed::Already);
            }
            queue.closing = Some(done);
        }
        self.shared.wake.notify_one();
        match tokio::time::timeout(timeout, closed).await {
            Ok(Ok(closed)) => Ok(closed?),
            Ok(Err(_)) => Err(NotClosed::Already),
            Err(_) => Err(NotClosed::TimedOut(timeout)),
        }
    }
}

impl Ledger for StoreHandle {
    fn intend(&self, changes: Vec<Change>) -> Intent {
        let (done, stored) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            for change in changes {
                queue.batch.add(change);
            }
            if !queue.over {
                queue.intents.retain(|waiting| !waiting.is_closed());
                queue.intents.push(done);
            }
        }
        self.shared.wake.notify_one();
        Box::pin(async move { stored.await.unwrap_or(Err(Unstored::Closed)) })
    }

    fn record(&self, changes: Vec<Change>) {
        let was_empty = {
            let mut queue = self.shared.queue();
            let was_empty = queue.is_empty();
            for change in changes {
                queue.batch.add(change);
            }
            was_empty
        };
        if was_empty {
            self.shared.wake.notify_one();
        }
    }

    fn written(&self) -> Intent {
        // Its next try may be half a minute away.
        if let Health::Degraded { why, .. } = &*self.shared.health.borrow() {
            return Box::pin(std::future::ready(Err(Unstored::Refused { why: why.clone() })));
        }
        let (done, stored) = oneshot::channel();
        let was_empty = {
            let mut queue = self.shared.queue();
            let was_empty = queue.is_empty();
            if !queue.over {
                // While a disk hangs nobody comes to those whose patience is at its end.
                queue.behind.retain(|waiting| !waiting.is_closed());
                queue.behind.push(done);
            }
            was_empty
        };
        if was_empty {
            self.shared.wake.notify_one();
        }
        Box::pin(async move { stored.await.unwrap_or(Err(Unstored::Closed)) })
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
