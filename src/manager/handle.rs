//! What everybody else holds of all workers: find, look, ask several at once. Cheap to clone.
//!
//! Looking reads what each worker published last and waits for nobody. Asking hands the wish to every chosen worker
//! before the first answer is waited for, so that ten stops take as long as the longest of them.
//!
//! Which workers there are can change at any time: whoever looks has the list as it was then, and no lock is held while
//! anything is waited for.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::watch;

use super::crew::{ManagerError, Nursery};
pub use super::diff::Origin;
use super::pattern::{NoMatch, Roster};
use crate::model::{KilledBy, Trigger, WorkerId};
use crate::spec::types::Spec;
use crate::worker::handle::{Answer, AskError, WorkerHandle};
pub use crate::worker::handle::{Reach, Refusal, Renew};

/// One worker, with what it was declared as.
#[derive(Debug, Clone)]
pub struct Member {
    /// The id it was declared under: another than its own where it is one of several instances.
    pub declared_as: WorkerId,
    /// What it runs and how.
    pub spec: Arc<Spec>,
    /// The worker.
    pub worker: WorkerHandle,
    /// Whether it is to be started when a supervisor begins.
    pub enabled: bool,
    /// Who declared it.
    pub origin: Origin,
}

impl Member {
    /// A worker that a configuration declares, and has started.
    #[must_use]
    pub const fn new(declared_as: WorkerId, spec: Arc<Spec>, worker: WorkerHandle) -> Self {
        Self { declared_as, spec, worker, enabled: true, origin: Origin::Config }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &WorkerId {
        self.worker.id()
    }
}

/// All workers.
#[derive(Clone)]
pub struct Manager {
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Manager").field(&self.roll()).finish()
    }
}

pub(super) struct Inner {
    /// Replaced as a whole: whoever has one looks at it for as long as he likes.
    roll: RwLock<Arc<Roll>>,
    /// What makes workers; `None` where there are those that there are.
    pub(super) nursery: Option<Arc<dyn Nursery>>,
    /// The highest number of a spec.
    generation: AtomicU64,
    /// One for each change of the list, and what those had published who are not in it any more.
    listed: watch::Sender<u64>,
    pub(super) reconciler: Mutex<Option<tokio::task::AbortHandle>>,
    /// Set once. Held while wishes are handed over: what was let through is with the workers before the door closes.
    closed: RwLock<bool>,
    /// Set once, before that.
    makes_way: AtomicBool,
}

/// The workers there are at one moment.
#[derive(Debug)]
struct Roll {
    members: Vec<Arc<Member>>,
    roster: Roster,
}

impl Roll {
    fn new(mut members: Vec<Arc<Member>>) -> Self {
        // Collected in place, they stand in the room of what they were made from.
        members.shrink_to_fit();
        let roster = Roster::new(members.iter().map(|m| (m.worker.id().clone(), m.declared_as.clone())));
        Self { members, roster }
    }
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
    /// That the present run stands still.
    Freeze,
    /// That it goes on.
    Thaw,
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
    /// These workers, in the order of their declaration, and no others ever.
    #[must_use]
    pub fn new(members: Vec<Member>) -> Self {
        Self::begin(None, members)
    }

    /// These workers, and those that are made later by `nursery`.
    #[must_use]
    pub fn with(nursery: Arc<dyn Nursery>, members: Vec<Member>) -> Self {
        Self::begin(Some(nursery), members)
    }

    fn begin(nursery: Option<Arc<dyn Nursery>>, members: Vec<Member>) -> Self {
        let roll = Roll::new(members.into_iter().map(Arc::new).collect());
        let inner = Inner {
            roll: RwLock::new(Arc::new(roll)),
            nursery,
            generation: AtomicU64::new(1),
            listed: watch::Sender::new(0),
            reconciler: Mutex::default(),
            closed: RwLock::new(false),
            makes_way: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.inner.roll.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every worker, in the order of their declaration.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Member>> {
        self.roll().members.clone()
    }

    /// The worker of exactly this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Member>> {
        let roll = self.roll();
        roll.members.get(roll.roster.find(name)?).cloned()
    }

    /// The workers that were declared under `name`.
    #[must_use]
    pub fn instances(&self, name: &str) -> Vec<Arc<Member>> {
        let roll = self.roll();
        roll.roster.instances(name).iter().filter_map(|index| roll.members.get(*index).cloned()).collect()
    }

    /// The workers that `pattern` means ([`Roster::choose`]), in the order of their declaration.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn choose(&self, pattern: &str) -> Result<Vec<Arc<Member>>, NoMatch> {
        let roll = self.roll();
        let chosen = roll.roster.choose(pattern)?;
        Ok(chosen.into_iter().filter_map(|index| roll.members.get(index).cloned()).collect())
    }

    /// Changes the list: as a whole, or not at all. Nobody sees a state in between.
    pub(super) fn change<T>(
        &self,
        how: impl FnOnce(&mut Vec<Arc<Member>>) -> Result<T, ManagerError>,
    ) -> Result<T, ManagerError> {
        let mut roll = self.inner.roll.write().unwrap_or_else(PoisonError::into_inner);
        let mut members = roll.members.clone();
        let done = how(&mut members)?;
        let before = std::mem::replace(&mut *roll, Arc::new(Roll::new(members)));
        let still: HashSet<&WorkerId> = roll.members.iter().map(|member| member.id()).collect();
        let gone = before.members.iter().filter(|member| !still.contains(member.id()));
        let counted: u64 = gone.map(|member| member.worker.generation()).sum();
        self.inner.listed.send_modify(|listed| *listed += 1 + counted);
        Ok(done)
    }

    /// Tells whoever waits for it that the list is another.
    #[must_use]
    pub fn listed(&self) -> watch::Receiver<u64> {
        self.inner.listed.subscribe()
    }

    /// A number that grows with whatever one of `members` publishes, and with every change of the list.
    #[must_use]
    pub fn generation(&self, members: &[Arc<Member>]) -> u64 {
        let published: u64 = members.iter().map(|member| member.worker.generation()).sum();
        published + *self.inner.listed.borrow()
    }

    /// Puts the list in this order; who is not in it stands behind.
    pub fn arrange<'n>(&self, order: impl IntoIterator<Item = &'n WorkerId>) {
        let place: HashMap<&WorkerId, usize> = order.into_iter().enumerate().map(|(at, id)| (id, at)).collect();
        let sorted = self.change(|members| {
            members.sort_by_key(|member| place.get(member.id()).copied().unwrap_or(usize::MAX));
            Ok(())
        });
        // An order cannot be refused.
        drop(sorted);
    }

    /// Says anew who declares workers; of those that are not named nothing changes.
    pub fn attribute(&self, origins: &HashMap<&WorkerId, Origin>) {
        let other = |member: &Arc<Member>| origins.get(member.id()).copied().filter(|origin| *origin != member.origin);
        if !self.all().iter().any(|member| other(member).is_some()) {
            return;
        }
        let said = self.change(|members| {
            for member in members {
                if let Some(origin) = other(member) {
                    *member = Arc::new(Member { origin, ..Member::clone(member) });
                }
            }
            Ok(())
        });
        // It cannot be refused.
        drop(said);
    }

    /// A number for another spec, higher than every one before.
    pub(super) fn next_generation(&self) -> u64 {
        self.inner.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Does something that starts workers: not once nothing is started any more, and before the door is closed.
    pub(super) fn while_open<T>(&self, what: impl FnOnce() -> Result<T, ManagerError>) -> Result<T, ManagerError> {
        let closed = self.inner.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed { Err(ManagerError::GoingDown) } else { what() }
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

    /// The same, because another supervisor takes over: what is not done by now is that one's to do.
    pub fn make_way(&self) {
        self.inner.makes_way.store(true, Ordering::Release);
        self.close();
    }

    /// Whether another supervisor takes over.
    #[must_use]
    pub fn makes_way(&self) -> bool {
        self.inner.makes_way.load(Ordering::Acquire)
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
            Self::Freeze => worker.freeze(true),
            Self::Thaw => worker.freeze(false),
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
    /// What `answer` says.
    #[must_use]
    pub fn of(answer: Result<(), AskError>) -> Self {
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
