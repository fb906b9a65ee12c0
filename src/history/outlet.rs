//! One sink with its queue, its task and its state.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};

use super::queue::Queue;
use super::{Bounds, HistorySink, Record, WriteError, Written};
use crate::clock;
use crate::model::chain;
use crate::policy::backoff::Backoff;

/// However long a sink wants to be left alone, it is tried again after this time.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// A first failure is often a connection that had grown old: a sink is called failing from the second in a row.
const FAILING: u32 = 2;

/// How a sink is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SinkHealth {
    /// Its kind and where it leads.
    pub name: String,
    /// `ok` or `failing`.
    pub state: SinkState,
    /// Since when: RFC 3339, UTC.
    pub since: String,
    /// Events that wait, or are on their way.
    pub queued: usize,
    /// Events that it has taken.
    pub delivered: u64,
    /// Events that it will never have.
    pub dropped: Dropped,
    /// What failed last, also where it was a while ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A sink's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// It takes what it is given, as far as is known.
    #[default]
    Ok,
    /// It does not; it is tried again and again.
    Failing,
}

/// Events that a sink will never have, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// Too many waited: the oldest went.
    pub full: u64,
    /// It refused them for good.
    pub rejected: u64,
    /// They still waited at the end.
    pub closing: u64,
}

/// What the sink's task and everybody else share.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    state: Mutex<State>,
    /// Something waits, a batch is whole, or it is the end.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    in_flight: usize,
    delivered: u64,
    dropped: Dropped,
    failures: u32,
    last_error: Option<String>,
    since: Timestamp,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> SinkHealth {
        let state = self.lock();
        SinkHealth {
            name: self.name.clone(),
            state: if state.failures >= FAILING { SinkState::Failing } else { SinkState::Ok },
            since: format!("{:.3}", state.since),
            queued: state.queue.len() + state.in_flight,
            delivered: state.delivered,
            dropped: state.dropped,
            last_error: state.last_error.clone(),
        }
    }

    /// Adds to `batch` what waits, once something does; `false` at the end, where nothing does.
    async fn gather(&self, batch: &mut Vec<Arc<Record>>, linger: Duration) -> bool {
        loop {
            {
                let state = self.lock();
                if state.queue.len() > 0 {
                    break;
                }
                if state.closing {
                    return false;
                }
            }
            self.wake.notified().await;
        }
        let whole = async {
            while !self.lock().queue.is_batch() && !self.lock().closing {
                self.wake.notified().await;
            }
        };
        if !linger.is_zero() {
            // Either way what waits now is the batch.
            drop(tokio::time::timeout(linger, whole).await);
        }
        self.take(batch);
        true
    }

    fn take(&self, batch: &mut Vec<Arc<Record>>) {
        let mut state = self.lock();
        state.queue.take(batch);
        state.in_flight = batch.len();
    }

    /// Waits for `delay`, or until it is the end for the first time.
    async fn pause(&self, delay: Duration, hurried: &mut bool) {
        let end = async {
            while *hurried || !self.lock().closing {
                self.wake.notified().await;
            }
        };
        tokio::select! {
            () = sleep(delay) => {}
            () = end => {}
        }
        *hurried |= self.lock().closing;
    }

    fn succeeded(&self, delivered: usize, rejected: usize, trouble: Option<&WriteError>) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(delivered + rejected);
        state.delivered += delivered as u64;
        state.dropped.rejected += rejected as u64;
        if let Some(trouble) = trouble {
            state.last_error = Some(chain(trouble));
            if rejected > 0 {
                tracing::warn!(sink = self.name, rejected, error = %chain(trouble), "a history sink refuses events");
            }
        }
        if state.failures >= FAILING {
            let lasted = clock::wall().duration_since(state.since);
            state.since = clock::wall();
            let (waiting, dropped) = (state.queue.len() + state.in_flight, state.dropped.full);
            tracing::warn!(sink = self.name, ?lasted, waiting, dropped, "a history sink takes events again");
        }
        state.failures = 0;
    }

    fn failed(&self, trouble: &WriteError) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(chain(trouble));
        if state.failures == FAILING {
            state.since = clock::wall();
            tracing::warn!(sink = self.name, error = %chain(trouble), "a history sink takes no events; they wait");
        }
    }
}

/// A sink that runs.
#[derive(Debug)]
pub(super) struct Outlet {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    alive: Alive,
}

/// Closed when a sink's task has ended.
pub(super) type Alive = watch::Receiver<()>;

impl Outlet {
    /// Gives it nothing before those are gone that are to have come `before` it.
    pub(super) fn start(sink: Box<dyn HistorySink>, before: Vec<Alive>) -> Self {
        let bounds = sink.bounds();
        let state = State {
            queue: Queue::new(bounds),
            in_flight: 0,
            delivered: 0,
            dropped: Dropped::default(),
            failures: 0,
            last_error: None,
            since: clock::wall(),
            closing: false,
        };
        let shared = Arc::new(Shared { name: sink.name(), state: Mutex::new(state), wake: Notify::new() });
        let (lives, alive) = watch::channel(());
        let here = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            for mut other in before {
                while other.changed().await.is_ok() {}
            }
            deliver(sink, bounds, here).await;
            drop(lives);
        });
        Self { shared, task, alive }
    }

    /// For whoever is to come behind it.
    pub(super) fn alive(&self) -> Alive {
        self.alive.clone()
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn tell(&self, record: &Arc<Record>) {
        let mut state = self.shared.lock();
        if state.closing {
            state.dropped.closing += 1;
            return;
        }
        let idle = state.queue.len() == 0;
        let partial = !state.queue.is_batch();
        state.dropped.full += state.queue.push(Arc::clone(record));
        let whole = partial && state.queue.is_batch();
        drop(state);
        if idle || whole {
            self.shared.wake.notify_one();
        }
    }

    /// Waits for what is left to be taken, for at most `within`.
    pub(super) async fn close(mut self, within: Duration) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
            // Cancelled is what it is to be.
            drop(self.task.await);
        }
        let mut state = self.shared.lock();
        let left = state.queue.clear() + std::mem::take(&mut state.in_flight);
        state.dropped.closing += left as u64;
        if left > 0 {
            let error = state.last_error.as_deref().unwrap_or("it was too slow");
            tracing::warn!(sink = self.shared.name, events = left, error, "the end does not wait for a history sink");
        }
    }
}

/// Gives the sink one batch after the other, until the end.
async fn deliver(mut sink: Box<dyn HistorySink>, bounds: Bounds, shared: Arc<Shared>) {
    let backoff = Backoff { delay: bounds.first_retry, rate: 2.0, max: bounds.max_retry, jitter: 0.3 };
    let mut batch: Vec<Arc<Record>> = Vec::new();
    let mut tries = 0;
    let mut hurried = false;
    while !batch.is_empty() || shared.gather(&mut batch, bounds.linger).await {
        let asked_for = match sink.write(&batch).await {
            Ok(Written::All) => {
                shared.succeeded(batch.len(), 0, None);
                batch.clear();
                tries = 0;
                continue;
            }
            Ok(Written::Part { again, rejected, trouble }) => {
                let before = batch.len();
                let mut index = 0..;
                batch.retain(|_| index.next().is_some_and(|i| again.contains(&i)));
                let taken = before.saturating_sub(batch.len() + rejected.len());
                if taken + rejected.len() > 0 {
                    shared.succeeded(taken, rejected.len(), Some(&trouble));
                } else {
                    shared.failed(&trouble);
                }
                if batch.is_empty() {
                    tries = 0;
                    continue;
                }
                trouble.retry_after
            }
            Err(trouble) => {
                shared.failed(&trouble);
                trouble.retry_after
            }
        };
        let delay = backoff.delay(tries, fastrand::f64()).max(asked_for.unwrap_or_default().min(MAX_RETRY_AFTER));
        tries = tries.saturating_add(1);
        shared.pause(delay, &mut hurried).await;
        shared.take(&mut batch);
    }
    sink.close().await;
}
