//! What an actor has remembered beyond its supervisor, and the answers that wait for it.
//!
//! What a turn changes is handed over together. The action it stands beside does not wait for a disk, nor does the next
//! command: only the answers do, of this turn and of those that come before it is on disk, and the run's own record: while the
//! store does not know what was wished, that and the keeper's are all there is of it. An end is written behind, and what the
//! keeper has of it stays until it is written, so that one of the two has it whenever the supervisor is killed.

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

use crate::kernel::port::RunNote;
use crate::model::{Desired, Detail, Outlook, RunEnd, RunId, State as PublicState, WorkerId, chain};
use crate::policy::breaker::Saved;
use crate::store::{Change, Intent, Kept, Ledger, Record};

use super::effect::Refusal;
use super::state::{Remembered, Unseen};

/// So many ends go with the next run's record. A worker that fails at once, without a delay between its runs, has more of them in the
/// milliseconds until the store has written the first than a record can hold.
const UNTOLD: usize = 8;

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
    /// While there is an end that is not seen to.
    ends: Option<Box<Ends>>,
    shown: Option<(PublicState, Detail)>,
}

type Stored = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

struct Held {
    intent: Stored,
    answers: Vec<(Answer, Result<(), Refusal>)>,
    /// Of commands that were taken meanwhile.
    taken: Vec<oneshot::Sender<()>>,
}

/// What has ended.
#[derive(Default)]
struct Ends {
    /// Under the supervisor before, which has not had it remembered.
    late: Vec<RunEnd>,
    /// In this turn.
    fresh: Vec<RunEnd>,
    /// On their way to the store, in their order.
    behind: VecDeque<Behind>,
    /// The last of those that the store has refused, until it takes others.
    refused: Vec<RunEnd>,
    /// Runs of which nothing is left since this turn.
    just_over: Vec<RunId>,
    /// And before, until what was on its way then has come.
    over: Vec<Over>,
    /// How many intents, and how many groups of ends, have come since this was made.
    come: (usize, usize),
}

struct Behind {
    stored: Stored,
    ends: Vec<RunEnd>,
}

struct Over {
    run: RunId,
    /// How many have to have come.
    after: (usize, usize),
}

impl Ends {
    /// Those of which nothing is to be kept any longer.
    fn removable(&mut self) -> Vec<RunId> {
        let come = self.come;
        let has_come = |over: &mut Over| over.after.0 <= come.0 && over.after.1 <= come.1;
        self.over.extract_if(.., has_come).map(|over| over.run).collect()
    }

    /// The oldest on their way have come. What the store refuses is the next run's to remember.
    fn have_come(&mut self, stored: bool) {
        self.come.1 += 1;
        let ends = self.behind.pop_front().map(|behind| behind.ends).unwrap_or_default();
        if stored {
            self.refused.clear();
            return;
        }
        self.refused.extend(ends);
        let surplus = self.refused.len().saturating_sub(UNTOLD);
        self.refused.drain(..surplus);
    }

    fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.fresh.is_empty()
            && self.behind.is_empty()
            && self.just_over.is_empty()
            && self.over.is_empty()
    }
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

    /// Takes down an end of a run of `worker`.
    pub(super) fn ended(&mut self, worker: WorkerId, end: RunEnd) {
        self.add(Change::stopped(worker, &end));
        self.ends().fresh.push(end);
    }

    fn ends(&mut self) -> &mut Ends {
        self.ends.get_or_insert_default()
    }

    /// Ends that the supervisor before has seen and not had remembered, and runs of which nothing is left.
    pub(super) fn left(&mut self, late: Vec<RunEnd>, debris: Vec<RunId>) {
        if !late.is_empty() || !debris.is_empty() {
            let ends = self.ends();
            (ends.late, ends.just_over) = (late, debris);
        }
    }

    /// The former, once.
    pub(super) fn late(&mut self) -> Vec<RunEnd> {
        self.ends.as_mut().map(|ends| mem::take(&mut ends.late)).unwrap_or_default()
    }

    /// The last ends before `run` that the store is not known to have. Its own is the keeper's to tell.
    pub(super) fn untold(&self, run: u32) -> Vec<RunEnd> {
        let Some(ends) = &self.ends else { return Vec::new() };
        let all = ends.refused.iter().chain(ends.behind.iter().flat_map(|behind| &behind.ends)).chain(&ends.fresh);
        let all = all.filter(|end| end.run < run);
        let mut last: Vec<RunEnd> = all.rev().take(UNTOLD).cloned().collect();
        last.reverse();
        last
    }

    /// Hands over what there is.
    pub(super) fn hand_over(&mut self, ledger: &dyn Ledger) {
        if self.changes.is_empty() {
            return;
        }
        let changes = mem::take(&mut self.changes);
        if mem::take(&mut self.durably) {
            let intent = patiently(ledger.intend(changes));
            self.intents.push_back(Held { intent, answers: Vec::new(), taken: Vec::new() });
        } else {
            ledger.record(changes);
        }
        if let Some(ends) = self.ends.as_mut().filter(|ends| !ends.fresh.is_empty()) {
            let fresh = mem::take(&mut ends.fresh);
            ends.behind.push_back(Behind { stored: patiently(ledger.written()), ends: fresh });
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.intents.is_empty() && self.ends.as_ref().is_none_or(|ends| ends.behind.is_empty())
    }

    /// Gives back the room that nothing is in.
    pub(super) fn shrink(&mut self) {
        self.intents.shrink_to_fit();
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

    /// Something has come; of an intent, why it is not on disk. Where nothing is on its way, it is never ready.
    pub(super) fn poll_stored(&mut self, context: &mut Context<'_>) -> Poll<Come> {
        if let Some(held) = self.intents.front_mut()
            && let Poll::Ready(stored) = held.intent.as_mut().poll(context)
        {
            return Poll::Ready(Come::Intent(stored));
        }
        let oldest = self.ends.as_mut().and_then(|ends| ends.behind.front_mut());
        match oldest.map(|behind| behind.stored.as_mut().poll(context)) {
            // A store that refuses says so itself, and keeps it in memory.
            Some(Poll::Ready(stored)) => Poll::Ready(Come::Ends { stored: stored.is_ok() }),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    /// Keeps what is left of `run`, which is over, until all that is handed over by the end of this turn has come.
    pub(super) fn over(&mut self, run: RunId) {
        self.ends().just_over.push(run);
    }

    /// The turn has ended, and what it changed is handed over: the runs of which nothing is to be kept any longer.
    pub(super) fn end_of_turn(&mut self) -> Vec<RunId> {
        let Some(ends) = &mut self.ends else { return Vec::new() };
        let after = (ends.come.0 + self.intents.len(), ends.come.1 + ends.behind.len());
        ends.over.extend(ends.just_over.drain(..).map(|run| Over { run, after }));
        self.removable()
    }

    fn removable(&mut self) -> Vec<RunId> {
        let removable = self.ends.as_mut().map(|ends| ends.removable()).unwrap_or_default();
        self.ends.take_if(|ends| ends.is_empty());
        removable
    }

    /// Lets go what waited for what has come: the runs that are over by `remove`, then the answers.
    pub(super) fn let_go(&mut self, come: &Come, remove: impl Fn(&RunId)) {
        let held = match come {
            Come::Intent(_) => {
                if let Some(ends) = &mut self.ends {
                    ends.come.0 += 1;
                }
                self.intents.pop_front()
            }
            Come::Ends { stored } => {
                if let Some(ends) = &mut self.ends {
                    ends.have_come(*stored);
                }
                None
            }
        };
        self.removable().iter().for_each(remove);
        let Some(Held { answers, taken, .. }) = held else { return };
        for (answer, result) in answers {
            // Whoever asked may have stopped waiting.
            drop(answer.send(result));
        }
        // Behind the answers, so that one that is given by now is found.
        drop(taken);
    }
}

/// What has come to the store, or does not.
pub(super) enum Come {
    /// The oldest intent; why it is not on disk.
    Intent(Result<(), String>),
    /// The oldest ends, whether or not the store takes them now.
    Ends {
        /// It does.
        stored: bool,
    },
}

/// Patience counts from now, however many others are before it.
fn patiently(stored: Intent) -> Stored {
    let stored = tokio::time::timeout(PATIENCE, stored);
    Box::pin(async move {
        match stored.await {
            Ok(stored) => stored.map_err(|why| chain(&why)),
            Err(_) => Err(format!("the store has not written it within {PATIENCE:?}")),
        }
    })
}

/// Brings `record` of `worker` up to what `note`, of its newest run, says of the runs before it: the store may not have had the
/// time to write it. Answers with the ends that it does not have. `half_made`: that run is not there.
pub(super) fn catch_up(
    worker: &WorkerId,
    record: &mut Option<Box<Record>>,
    note: &RunNote,
    half_made: bool,
) -> Vec<RunEnd> {
    let known = |end: &&RunEnd| record.as_ref().is_some_and(|record| record.has_end_of(end.run));
    let late: Vec<RunEnd> = note.untold.iter().filter(|end| !known(end)).cloned().collect();
    if late.is_empty() && record.is_none() {
        return late;
    }
    let record = record.get_or_insert_with(|| Box::new(Record::new(worker.clone())));
    for end in &late {
        record.take(&Change::stopped(worker.clone(), end));
    }
    let newest = note.run.number;
    if half_made && record.kept.as_ref().is_none_or(|kept| kept.run < newest) {
        let (breaker, restarts) = (note.breaker.clone(), note.restarts);
        record.kept = Some(Kept { run: newest, breaker, restarts, outlook: Outlook::Launching });
    }
    late
}

/// What `record` says to the state of a worker whose runs so far had numbers up to `last_run`. `spec_hash` is of what it is to
/// run, and `now` the wall clock.
pub(super) fn remembered(record: &Record, last_run: u32, spec_hash: u64, boot_id: &str, now: Timestamp) -> Remembered {
    let kept = record.kept.clone();
    let ended = record.last_run.as_ref().and_then(|run| run.ended.as_ref());
    let began = record.last_run.as_ref().and_then(|run| run.started);
    let ago = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
    let taken_down = record.wish.as_ref().filter(|(wish, _)| matches!(wish, Desired::Down(_))).map(|(_, at)| *at);
    let highest = record.last_run.as_ref().map_or(0, |run| run.number).max(kept.as_ref().map_or(0, |kept| kept.run));
    let mut remembered = Remembered {
        last_run: last_run.max(highest),
        wish: record.wish.as_ref().map(|(wish, _)| wish.clone()),
        breaker: kept.as_ref().map(|kept| kept.breaker.clone()).unwrap_or_default(),
        restarts: kept.as_ref().map(|kept| kept.restarts).unwrap_or_default(),
        outlook: kept.as_ref().map_or(Outlook::Start, |kept| kept.outlook),
        cause: ended.map(|ended| ended.cause.clone()),
        rests_for: ended.map(|ended| ended.at).max(taken_down).map(ago),
        unseen: record.last_run.as_ref().zip(record.unseen_end(boot_id)).map(|(run, why)| Unseen {
            run: run.number,
            why,
            began: began.map_or(Duration::ZERO, ago),
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
