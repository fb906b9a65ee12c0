//! What everybody else holds of a worker: ask, look, wait. Cheap to clone.
//!
//! Looking never waits for the actor: it reads what was published last. Asking hands over a wish at once; its [`Answer`]
//! can be awaited, or dropped by whoever does not care. A handle whose actor has ended says [`AskError::Gone`].

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_channel::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use crate::model::{HealthReport, KilledBy, Story, Trigger, WorkerId, WorkerStatus};
use crate::spec::types::Spec;

pub use super::effect::Refusal;
use super::event::Ask;
pub use super::event::{Reach, Renew, Update};

/// What is published of a worker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Published {
    pub(super) status: WorkerStatus,
    /// Nothing runs, nothing is due, and every directory is gone.
    pub(super) at_rest: bool,
    pub(super) story: Arc<Story>,
}

/// Something asked of the actor.
pub(super) struct Command {
    pub(super) ask: Ask,
    pub(super) who: Option<Arc<str>>,
    /// Dropped when the actor has taken its turn over it.
    pub(super) taken: oneshot::Sender<()>,
    pub(super) answer: oneshot::Sender<Result<(), Refusal>>,
}

/// What comes through an actor's queue.
pub(super) enum Message {
    /// Boxed: a queue has room for one message while it is empty.
    Ask(Box<Command>),
    /// See [`WorkerHandle::leave`]; `now`: whatever it is about.
    Leave { now: bool },
}

/// A worker, for whoever does not own it.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) id: WorkerId,
    pub(super) who: Option<Arc<str>>,
    pub(super) commands: UnboundedSender<Message>,
    pub(super) published: watch::Receiver<Published>,
}

/// Why something asked did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The worker is not supervised any more.
    #[error("worker {worker} is not supervised any more")]
    Gone {
        /// Which.
        worker: WorkerId,
    },
    /// The worker's own answer.
    #[error("worker {worker}")]
    Refused {
        /// Which.
        worker: WorkerId,
        /// Why.
        #[source]
        why: Refusal,
    },
}

/// The answer to something that was asked, once it is done. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Answer {
    worker: WorkerId,
    taken: oneshot::Receiver<()>,
    receiver: oneshot::Receiver<Result<(), Refusal>>,
}

impl Answer {
    /// Waits until the worker has taken notice. What it refuses or does at once is answered by then; what is not answered
    /// is accepted and under way.
    pub async fn taken(&mut self) {
        // Nothing is ever sent: the end of the sender is the news.
        drop((&mut self.taken).await);
    }
}

#[expect(clippy::must_use_candidate, reason = "an answer need not be waited for")]
impl WorkerHandle {
    /// Which worker.
    #[must_use]
    pub const fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Its status as it was published last.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        self.published.borrow().status.clone()
    }

    /// The number of that status.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.published.borrow().status.generation
    }

    /// What is remembered of its last end, as it was published last.
    #[must_use]
    pub fn story(&self) -> Arc<Story> {
        Arc::clone(&self.published.borrow().story)
    }

    /// The same worker, and what is asked of it is recorded as asked by `who`.
    #[must_use]
    pub fn on_behalf_of(&self, who: &str) -> Self {
        Self { who: Some(who.into()), ..self.clone() }
    }

    /// Asks for it to be up. Answered when its program runs.
    pub fn start(&self, trigger: Trigger) -> Answer {
        self.ask(Ask::Start { trigger })
    }

    /// Asks for it to be down, by its stop signal first. Answered when its cgroup is empty.
    pub fn stop(&self, by: KilledBy) -> Answer {
        self.ask(Ask::Stop { by })
    }

    /// Asks for a new run: newer than the one in the status as it is published now. Answered when its program runs.
    /// Refused while a class of its restart breaker is open, unless by `force`.
    pub fn restart(&self, force: bool) -> Answer {
        let seen = self.published.borrow().status.run;
        self.ask(Ask::Restart { seen, force })
    }

    /// Asks for a signal to its main process. Answered when it is sent. One that is frozen hears what it handles when it is thawed; what it does not,
    /// and would end it, ends it at once.
    pub fn signal(&self, signal: i32) -> Answer {
        self.ask(Ask::Signal { signal })
    }

    /// Asks for its present run to stand still, or to go on. Answered when the kernel says that all of it does.
    pub fn freeze(&self, frozen: bool) -> Answer {
        self.ask(Ask::Freeze { frozen })
    }

    /// Tells what a health check says of run `run`. Answered when it is acted on: a failure when its new run runs, or with
    /// why none follows.
    pub fn health(&self, run: u32, report: HealthReport) -> Answer {
        self.ask(Ask::Health { run, report })
    }

    /// Asks for its restart breaker to close. Answered at once; a worker that was held down by it begins to start.
    pub fn reset(&self) -> Answer {
        self.ask(Ask::Reset)
    }

    /// Asks for it to go by another spec. Answered when it does, or with why not.
    pub fn update(&self, spec: Arc<Spec>, reach: Reach) -> Answer {
        self.ask(Ask::Update(Box::new(Update { spec, reach })))
    }

    /// Asks for it to be down at once. Answered when its cgroup is empty.
    pub fn kill(&self, by: KilledBy) -> Answer {
        self.ask(Ask::Kill { by })
    }

    fn ask(&self, ask: Ask) -> Answer {
        let (answer, receiver) = oneshot::channel();
        let (hearer, taken) = oneshot::channel();
        // A closed channel drops the sender with the command: the answer says so.
        let command = Box::new(Command { ask, who: self.who.clone(), taken: hearer, answer });
        drop(self.commands.unbounded_send(Message::Ask(command)));
        Answer { worker: self.id.clone(), taken, receiver }
    }

    /// Has its actor end with everything as it is, for another supervisor to go on with: at a moment at which that one finds all
    /// there is to know (no launch undecided, no end told and not cleared away, nobody waiting for an answer), or else
    /// `now`, between two events. [`Self::gone`] tells when.
    pub fn leave(&self, now: bool) {
        // A closed channel: it has ended.
        drop(self.commands.unbounded_send(Message::Leave { now }));
    }

    /// Waits until its actor has ended.
    pub async fn gone(&self) {
        // No status is waited for: the end of who publishes them is the news.
        drop(self.wait_for(|_| false).await);
    }

    /// Waits until a published status satisfies `level`, which may be the present one.
    ///
    /// A status that was overwritten before it was looked at is not seen: wait for what lasts.
    ///
    /// # Errors
    /// [`AskError::Gone`] if the actor ends before.
    pub async fn wait_for(&self, mut level: impl FnMut(&WorkerStatus) -> bool) -> Result<WorkerStatus, AskError> {
        let mut published = self.published.clone();
        let reached = published.wait_for(|p| level(&p.status)).await;
        reached.map(|p| p.status.clone()).map_err(|_| self.is_gone())
    }

    /// Waits until nothing of it runs, nothing is due and none of its directories is left. To end it, await the answer to
    /// a stop first: a worker that was asked for something a moment ago may still be at rest.
    ///
    /// # Errors
    /// [`AskError::Gone`] if the actor ends before.
    pub async fn at_rest(&self) -> Result<(), AskError> {
        let mut published = self.published.clone();
        let reached = published.wait_for(|p| p.at_rest).await;
        reached.map(drop).map_err(|_| self.is_gone())
    }

    /// Waits for the next publication after the last one this handle has seen; what is published now counts as seen by a
    /// clone.
    ///
    /// # Errors
    /// [`AskError::Gone`] if the actor ends before.
    pub async fn changed(&mut self) -> Result<WorkerStatus, AskError> {
        if self.published.changed().await.is_err() {
            return Err(self.is_gone());
        }
        Ok(self.published.borrow_and_update().status.clone())
    }

    fn is_gone(&self) -> AskError {
        AskError::Gone { worker: self.id.clone() }
    }
}

impl Future for Answer {
    type Output = Result<(), AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = std::task::ready!(Pin::new(&mut self.receiver).poll(cx));
        let worker = self.worker.clone();
        Poll::Ready(match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(AskError::Refused { worker, why }),
            Err(_) => Err(AskError::Gone { worker }),
        })
    }
}
