//! What everybody else holds of all workers: find, look, ask several at once. Cheap to clone.
//!
//! Looking reads what each worker published last and waits for nobody. Asking hands the wish to every chosen worker
//! before the first answer is waited for, so that ten stops take as long as the longest of them.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::FutureExt;

use super::pattern::{NoMatch, Roster};
use crate::model::{KilledBy, Trigger, WorkerId};
use crate::spec::types::Spec;
pub use crate::worker::handle::Refusal;
use crate::worker::handle::{Answer, AskError, WorkerHandle};

/// One worker, with what it was declared as.
#[derive(Debug, Clone)]
pub struct Member {
    /// The id it was declared under: another than its own where it is one of several instances.
    pub declared_as: WorkerId,
    /// What it runs and how.
    pub spec: Arc<Spec>,
    /// The worker.
    pub worker: WorkerHandle,
}

/// All workers.
#[derive(Debug, Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    members: Vec<Arc<Member>>,
    roster: Roster,
    /// Set once. Held while wishes are handed over: what was let through is with the workers before the door closes.
    closed: RwLock<bool>,
}

/// What can be asked of several workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To be up.
    Start,
    /// To be down, by the stop signal first.
    Stop,
    /// A new run.
    Restart {
        /// Also while the restart breaker is open.
        force: bool,
    },
    /// To be down at once.
    Kill,
    /// Only a signal to the main process.
    Signal(i32),
    /// To close the restart breaker.
    Reset,
}

/// Why nobody was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// The pattern chooses nobody.
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    /// Nothing is started any more.
    #[error("the supervisor is going down and starts nothing any more")]
    GoingDown,
}

/// What came of it for one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The worker has taken notice and is about it.
    Accepted,
    /// It was not done within the time. It goes on all the same.
    TimedOut,
    /// The worker's refusal.
    Refused(Refusal),
    /// The worker is not supervised any more.
    Gone,
}

/// Wishes that were handed over. Dropping them takes nothing back.
#[derive(Debug)]
pub struct Asked {
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    member: Arc<Member>,
    answer: Answer,
    outcome: Option<Outcome>,
}

impl Manager {
    /// All workers there are, in the order of their declaration.
    #[must_use]
    pub fn new(members: Vec<Member>) -> Self {
        let names = members.iter().map(|m| (m.worker.id().clone(), m.declared_as.clone()));
        let roster = Roster::new(names);
        let members = members.into_iter().map(Arc::new).collect();
        Self { inner: Arc::new(Inner { members, roster, closed: RwLock::new(false) }) }
    }

    /// Every worker, in the order of their declaration.
    #[must_use]
    pub fn all(&self) -> &[Arc<Member>] {
        &self.inner.members
    }

    /// The worker of exactly this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Member>> {
        self.inner.members.get(self.inner.roster.find(name)?)
    }

    /// The workers that were declared under `name`.
    pub fn instances(&self, name: &str) -> impl Iterator<Item = &Arc<Member>> {
        self.inner.roster.instances(name).iter().filter_map(|index| self.inner.members.get(*index))
    }

    /// The workers that `pattern` means ([`Roster::choose`]), in the order of their declaration.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn choose(&self, pattern: &str) -> Result<Vec<Arc<Member>>, NoMatch> {
        let chosen = self.inner.roster.choose(pattern)?;
        Ok(chosen.into_iter().filter_map(|index| self.inner.members.get(index).cloned()).collect())
    }

    /// Asks all that `pattern` means, on behalf of `who`.
    ///
    /// # Errors
    /// [`NotAsked`]: nobody was asked then.
    pub fn ask(&self, pattern: &str, action: Action, who: &str) -> Result<Asked, NotAsked> {
        let chosen = self.choose(pattern)?;
        let closed = self.inner.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed && action.may_start() {
            return Err(NotAsked::GoingDown);
        }
        let pending = chosen.into_iter().map(|member| {
            let answer = action.ask(&member.worker.on_behalf_of(who));
            Pending { member, answer, outcome: None }
        });
        Ok(Asked { pending: pending.collect() })
    }

    /// Lets nothing be started any more. What was asked before is with the workers when this returns, so that a stop
    /// asked for now comes behind it.
    pub fn close(&self) {
        *self.inner.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Whether the supervisor is going down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.inner.closed.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Action {
    const fn may_start(self) -> bool {
        matches!(self, Self::Start | Self::Restart { .. } | Self::Reset)
    }

    fn ask(self, worker: &WorkerHandle) -> Answer {
        match self {
            Self::Start => worker.start(Trigger::Operator),
            Self::Stop => worker.stop(KilledBy::Stop),
            Self::Restart { force } => worker.restart(force),
            Self::Kill => worker.kill(KilledBy::Operator),
            Self::Signal(signal) => worker.signal(signal),
            Self::Reset => worker.reset(),
        }
    }
}

impl Asked {
    /// Waits until every worker has taken notice: what is refused or done at once is told, the rest is accepted.
    pub async fn taken(mut self) -> Vec<(Arc<Member>, Outcome)> {
        for pending in &mut self.pending {
            pending.answer.taken().await;
        }
        self.told(&Outcome::Accepted)
    }

    /// Waits until every worker has done it or refused, for `within` at most.
    pub async fn done(mut self, within: Option<Duration>) -> Vec<(Arc<Member>, Outcome)> {
        let all = async {
            for pending in &mut self.pending {
                pending.outcome = Some(Outcome::of((&mut pending.answer).await));
            }
        };
        match within {
            None => all.await,
            // What is missing afterwards is told as such.
            Some(within) => drop(tokio::time::timeout(within, all).await),
        }
        self.told(&Outcome::TimedOut)
    }

    /// What is answered by now; the others are `otherwise`.
    fn told(self, otherwise: &Outcome) -> Vec<(Arc<Member>, Outcome)> {
        let told = self.pending.into_iter().map(|Pending { member, mut answer, outcome }| {
            // Without tokio's budget, which may be used up by the others: an answer that is there is to be found.
            let now = || tokio::task::unconstrained(&mut answer).now_or_never().map(Outcome::of);
            (member, outcome.or_else(now).unwrap_or_else(|| otherwise.clone()))
        });
        told.collect()
    }
}

impl Outcome {
    fn of(answer: Result<(), AskError>) -> Self {
        match answer {
            Ok(()) => Self::Done,
            Err(AskError::Refused { why, .. }) => Self::Refused(why),
            Err(AskError::Gone { .. }) => Self::Gone,
        }
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
