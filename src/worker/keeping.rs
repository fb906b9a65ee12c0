//! What an actor has remembered beyond its supervisor, and the answers that wait for it.
//!
//! What a turn changes is handed over together. The action it stands beside does not wait for a disk, nor does the next
//! command: only the answers do, of this turn and of those that come before it is on disk, and the run's own record: while the
//! store does not know what was wished, that and the keeper's are all there is of it.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::model::{Detail, Outlook, RunId, State as PublicState, chain};
use crate::policy::breaker::Saved;
use crate::store::{Change, Ledger, Record};

use super::effect::Refusal;
use super::state::{Remembered, Unseen};

/// How long an answer waits for a disk that does not come back to us.
const PATIENCE: Duration = Duration::from_secs(5);

type Answer = oneshot::Sender<Result<(), Refusal>>;

/// See above.
#[derive(Default)]
pub(super) struct Keeping {
    /// Of this turn.
    changes: Vec<Change>,
    /// Whether they are to be on disk before an answer.
    durably: bool,
    /// On their way to the disk, in their order.
    intents: VecDeque<Held>,
    shown: Option<(PublicState, Detail)>,
}

struct Held {
    intent: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
    answers: Vec<(Answer, Result<(), Refusal>)>,
    /// Of commands that were taken meanwhile.
    taken: Vec<oneshot::Sender<()>>,
    /// Of runs that ended meanwhile.
    over: Vec<RunId>,
}

impl Keeping {
    pub(super) fn add(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) const fn durably(&mut self) {
        self.durably = true;
    }

    /// Whether that is not what was shown before.
    pub(super) fn is_new(&mut self, shown: (PublicState, Detail)) -> bool {
        self.shown.replace(shown) != Some(shown)
    }

    /// Hands over what there is.
    pub(super) fn hand_over(&mut self, ledger: &dyn Ledger) {
        if self.changes.is_empty() {
            return;
        }
        let changes = mem::take(&mut self.changes);
        if !mem::take(&mut self.durably) {
            return ledger.record(changes);
        }
        let intent = ledger.intend(changes);
        let intent = Box::pin(async move {
            match tokio::time::timeout(PATIENCE, intent).await {
                Ok(stored) => stored.map_err(|why| chain(&why)),
                Err(_) => Err(format!("the store has not written it within {PATIENCE:?}")),
            }
        });
        self.intents.push_back(Held { intent, answers: Vec::new(), taken: Vec::new(), over: Vec::new() });
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.intents.is_empty()
    }

    /// Answers, when all that is on its way has come to the disk.
    pub(super) fn answer(&mut self, answer: Answer, result: Result<(), Refusal>) {
        match self.intents.back_mut() {
            Some(last) => last.answers.push((answer, result)),
            // Whoever asked may have stopped waiting.
            None => drop(answer.send(result)),
        }
    }

    /// Says that a command was taken, when all that is on its way has come to the disk.
    pub(super) fn taken(&mut self, taken: oneshot::Sender<()>) {
        if let Some(last) = self.intents.back_mut() {
            last.taken.push(taken);
        }
    }

    /// The end of the oldest that is on its way; why it is not on disk. Where nothing is, it is never ready.
    pub(super) fn poll_stored(&mut self, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.intents.front_mut().map_or(Poll::Pending, |held| held.intent.as_mut().poll(context))
    }

    /// Keeps what is left of `run`, which is over, until all that is on its way has come to the disk. `false`: nothing is.
    pub(super) fn holds(&mut self, run: &RunId) -> bool {
        let Some(last) = self.intents.back_mut() else { return false };
        last.over.push(run.clone());
        true
    }

    /// Lets go what waited for the oldest: the runs that are over by `remove`, then the answers.
    pub(super) fn let_go(&mut self, remove: impl Fn(&RunId)) {
        let Some(Held { answers, taken, over, .. }) = self.intents.pop_front() else { return };
        over.iter().for_each(remove);
        for (answer, result) in answers {
            // Whoever asked may have stopped waiting.
            drop(answer.send(result));
        }
        // Behind the answers, so that one that is given by now is found.
        drop(taken);
    }
}

/// What `record` says to the state of a worker whose runs so far had numbers up to `last_run`. `spec_hash` is of what it is to
/// run, and `now` the wall clock.
pub(super) fn remembered(record: &Record, last_run: u32, spec_hash: u64, boot_id: &str, now: Timestamp) -> Remembered {
    let kept = record.kept.clone();
    let ended = record.last_run.as_ref().and_then(|run| run.ended.as_ref());
    let began = record.last_run.as_ref().and_then(|run| run.started);
    let began_ago = began.map_or(Duration::ZERO, |began| now.duration_since(began).try_into().unwrap_or_default());
    let highest = record.last_run.as_ref().map_or(0, |run| run.number).max(kept.as_ref().map_or(0, |kept| kept.run));
    let mut remembered = Remembered {
        last_run: last_run.max(highest),
        wish: record.wish.as_ref().map(|(wish, _)| wish.clone()),
        breaker: kept.as_ref().map(|kept| kept.breaker.clone()).unwrap_or_default(),
        restarts: kept.as_ref().map(|kept| kept.restarts).unwrap_or_default(),
        outlook: kept.as_ref().map_or(Outlook::Start, |kept| kept.outlook),
        cause: ended.map(|ended| ended.cause.clone()),
        unseen: record.last_run.as_ref().zip(record.unseen_end(boot_id)).map(|(run, why)| Unseen {
            run: run.number,
            why,
            began: began_ago,
        }),
    };
    // Another program is held down for nothing of what this one did.
    if matches!(remembered.outlook, Outlook::Held(_)) && record.spec_hash.is_some_and(|hash| hash != spec_hash) {
        remembered.outlook = Outlook::Start;
        remembered.breaker = Saved::default();
    }
    remembered
}

#[cfg(test)]
#[path = "keeping_tests.rs"]
mod tests;
