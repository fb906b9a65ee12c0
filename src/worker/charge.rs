//! A worker that is given to an actor, and the state that its supervision begins in: of what was found of it, and of
//! what is remembered.

use std::{sync::Arc, time::Duration};

use crate::clock;
use crate::kernel::port::RunNote;
use crate::model::{Mono, Outlook, RunEnd, RunId, WorkerId};
use crate::spec::types::Spec;
use crate::store::Record;

use super::keeping::{catch_up, remembered};
use super::state::{Adopted, State};

/// A worker to supervise.
pub struct Charge {
    /// Its name.
    pub id: WorkerId,
    /// What to run and how.
    pub spec: Arc<Spec>,
    /// What there is of it.
    pub found: Found,
    /// What is remembered of it.
    pub remembered: Option<Box<Record>>,
    /// The record of its newest run, where that was left behind half-made.
    pub half_made: Option<Box<RunNote>>,
    /// Runs of which nothing is left but their directories and what the keeper knows.
    pub debris: Vec<RunId>,
    /// That nothing of it is begun by itself: its configuration does not want it, or everything is being ended.
    pub idle: bool,
}

impl Charge {
    /// A worker of which nothing is remembered.
    #[must_use]
    pub fn new(id: WorkerId, spec: Arc<Spec>, found: Found) -> Self {
        Self { id, spec, found, remembered: None, half_made: None, debris: Vec::new(), idle: false }
    }

    /// Makes a state out of it, for supervision that begins `now`, in the boot `boot_id`.
    pub(super) fn take(self, boot_id: &str, now: Mono) -> Taken {
        let Self { id, spec, found, remembered: mut record, half_made, debris, idle } = self;
        let spec_hash = spec.digest();
        let newest = match &found {
            Found::Alive { note, .. } | Found::Over { note } => Some((&**note, false)),
            Found::Nothing { .. } | Found::Occupied { .. } => half_made.as_deref().map(|note| (note, true)),
        };
        let late = newest.map(|(note, half_made)| catch_up(&id, &mut record, note, half_made)).unwrap_or_default();
        let known = record.as_deref();
        let kept = |last_run| known.map(|r| remembered(r, last_run, spec_hash, boot_id, clock::wall()));
        let state = match found {
            Found::Nothing { last_run } => match kept(last_run) {
                Some(kept) => State::remembered(id.clone(), spec, &kept, idle, now),
                None => State::new(id.clone(), spec, last_run, now),
            },
            Found::Occupied { run } => {
                let mut state = State::occupied(id.clone(), spec, run, now);
                if let Some(kept) = kept(run) {
                    state.recall(&kept, now);
                }
                state
            }
            Found::Over { note: found } => {
                State::over(id.clone(), spec, &adopted(known, &found, None, true, now), idle, now)
            }
            Found::Alive { pid, note: found, frozen } => {
                let kept = known.and_then(|known| known.kept_of(found.run.number));
                let running = kept.map_or(found.pid.is_some(), |kept| kept.outlook != Outlook::Launching);
                let found = Adopted { frozen, ..adopted(known, &found, pid, running, now) };
                State::adopted(id.clone(), spec, &found, idle, now)
            }
        };
        Taken { id, spec_hash, state, record, late, debris }
    }
}

/// What there is of a worker when its supervision begins.
pub enum Found {
    /// Nothing.
    Nothing {
        /// The highest number that any run of it ever had; 0 for none.
        last_run: u32,
    },
    /// A live run, with its record and its keeper.
    Alive {
        /// Its main process; `None` where its launch is not decided yet.
        pid: Option<i32>,
        /// Its record.
        note: Box<RunNote>,
        /// Whether it is frozen, by whomever.
        frozen: bool,
    },
    /// What is left of a run that has ended, as the store knows, and was not cleared away.
    Over {
        /// Its record.
        note: Box<RunNote>,
    },
    /// A populated cgroup that nobody can tell anything of.
    Occupied {
        /// The number in its name.
        run: u32,
    },
}

/// What becomes of a run that the keeper knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Taken over ([`Found::Alive`]), with its end where there is one.
    Alive,
    /// Its end is told: what is left of it is seen to its end ([`Found::Over`]).
    Over,
    /// So is what follows it: it is cleared away ([`Charge::debris`]).
    Debris,
}

impl Fate {
    /// That of run number `run`, whose end the keeper has where it has `ended`, with `record` of its worker.
    #[must_use]
    pub fn of(run: u32, ended: bool, record: Option<&Record>) -> Self {
        match record.filter(|record| ended && record.has_end_of(run)) {
            Some(record) if record.has_decided_after(run) => Self::Debris,
            Some(_) => Self::Over,
            None => Self::Alive,
        }
    }
}

/// What a [`Charge`] comes to.
pub(super) struct Taken {
    /// Its name.
    pub(super) id: WorkerId,
    /// Of what it is to run.
    pub(super) spec_hash: u64,
    /// What its supervision begins with.
    pub(super) state: State,
    /// What is remembered of it, with what the record of its newest run adds.
    pub(super) record: Option<Box<Record>>,
    /// Ends that nobody has told for certain.
    pub(super) late: Vec<RunEnd>,
    /// Runs of which nothing is left but their directories and what the keeper knows.
    pub(super) debris: Vec<RunId>,
}

/// What is known of the run that `note` is of. What was counted since the note was written the store alone knows.
fn adopted(record: Option<&Record>, note: &RunNote, pid: Option<i32>, recorded_running: bool, now: Mono) -> Adopted {
    let kept = record.and_then(|record| record.kept_of(note.run.number));
    let ended = record.and_then(|record| record.last_run.as_ref()).and_then(|run| run.ended.as_ref());
    let story = record.and_then(|record| record.story.as_ref());
    Adopted {
        run: note.run.number,
        pid,
        started: note.started_mono_ns.map_or(now, |ns| Mono(Duration::from_nanos(ns))),
        baseline: note.baseline,
        breaker: kept.map_or_else(|| note.breaker.clone(), |kept| kept.breaker.clone()),
        recorded_running,
        restarts: kept.map_or(note.restarts, |kept| kept.restarts),
        desired_up: note.desired_up,
        wish: record.and_then(|record| record.wish.as_ref()).map(|(wish, _)| wish.clone()),
        cause: ended.map(|ended| ended.cause.clone()).or_else(|| story.and_then(|story| story.cause())),
        ending: note.ending,
        frozen: false,
    }
}
