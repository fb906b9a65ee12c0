//! What can be remembered, and what is remembered of one worker.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{
    Begun, Confidence, Desired, Detail, ExitCause, Outlook, RestartCounts, RunEnd, RunId, State, Story, UnknownWhy,
    WorkerId,
};
use crate::policy::breaker::Saved;

/// One thing to remember. Each says all of its kind, so that the newest of a kind stands for those before.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It stands in the configuration.
    Declared {
        /// Which worker.
        worker: WorkerId,
        /// A hash of what it runs and how.
        spec_hash: u64,
    },
    /// It should be up or down.
    Wish {
        /// Which worker.
        worker: WorkerId,
        /// Which of them.
        wish: Desired,
        /// Since when, where it was not so before.
        at: Timestamp,
    },
    /// What its restart breaker has counted, and what follows.
    Breaker {
        /// Which worker.
        worker: WorkerId,
        /// That.
        kept: Box<Kept>,
    },
    /// The program of a run began.
    Started {
        /// Which run.
        run: RunId,
        /// Its main process.
        pid: i32,
        /// `/proc/sys/kernel/random/boot_id`.
        boot_id: Arc<str>,
        /// When.
        at: Timestamp,
        /// What it was begun by, where that is known.
        begun: Option<Begun>,
    },
    /// A run ended.
    Stopped {
        /// Which run.
        run: RunId,
        /// How.
        ended: Box<Ended>,
        /// What it was begun by, where that is known: for one whose program never began.
        begun: Option<Begun>,
    },
    /// What it was last seen doing.
    Status {
        /// Which worker.
        worker: WorkerId,
        /// That.
        status: Shown,
        /// What is told of its last end, where that is new.
        story: Option<Arc<Story>>,
    },
    /// It is no worker any more.
    Forgotten {
        /// Which.
        worker: WorkerId,
    },
}

/// What a worker's restart breaker has counted, and what follows. Durations in it, never instants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The current or last run when it was saved.
    pub run: u32,
    /// The counts and deadlines.
    pub breaker: Saved,
    /// Automatic restarts in all.
    pub restarts: RestartCounts,
    /// What follows.
    pub outlook: Outlook,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub cause: ExitCause,
    /// How sure that is.
    pub confidence: Confidence,
    /// When.
    pub at: Timestamp,
}

/// What a worker was last seen doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// One of four.
    pub state: State,
    /// The finer word.
    pub detail: Detail,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub number: u32,
    /// Its main process, where its program began.
    pub pid: Option<i32>,
    /// In which boot of the host it began.
    pub boot_id: Option<Arc<str>>,
    /// When its program began.
    pub started: Option<Timestamp>,
    /// How it ended; `None` where that is not known to have happened.
    pub ended: Option<Ended>,
    /// What it was begun by, where that is known.
    pub begun: Option<Begun>,
}

impl Run {
    pub(super) const fn new(number: u32) -> Self {
        Self { number, pid: None, boot_id: None, started: None, ended: None, begun: None }
    }
}

/// What is remembered of one worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which.
    pub worker: WorkerId,
    /// A hash of what it last ran and how.
    pub spec_hash: Option<u64>,
    /// Whether it should be up, and since when; `None` where nobody has said.
    pub wish: Option<(Desired, Timestamp)>,
    /// What its restart breaker had counted.
    pub kept: Option<Kept>,
    /// Its last run.
    pub last_run: Option<Run>,
    /// What it was last seen doing.
    pub status: Option<Shown>,
    /// What is told of its last end.
    pub story: Option<Arc<Story>>,
}

impl Record {
    pub(crate) const fn new(worker: WorkerId) -> Self {
        Self { worker, spec_hash: None, wish: None, kept: None, last_run: None, status: None, story: None }
    }

    /// The latest moment that it tells of.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let run = self.last_run.as_ref();
        let ended = run.and_then(|run| run.ended.as_ref()).map(|ended| ended.at);
        [self.wish.as_ref().map(|(_, at)| *at), run.and_then(|run| run.started), ended].into_iter().flatten().max()
    }

    /// Whether its last run has begun, and nothing is known of its end.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.last_run.as_ref().is_some_and(|run| run.ended.is_none())
    }

    /// Whether the end of a run is remembered: what is said of it once more is old.
    #[must_use]
    pub fn has_end_of(&self, run: u32) -> bool {
        let last = self.last_run.as_ref();
        last.is_some_and(|last| last.number > run || last.number == run && last.ended.is_some())
    }

    /// What was counted and was to follow when `run` was the current or last run.
    #[must_use]
    pub fn kept_of(&self, run: u32) -> Option<&Kept> {
        self.kept.as_ref().filter(|kept| kept.run == run)
    }

    /// Whether what follows a run was decided.
    #[must_use]
    pub fn has_decided_after(&self, run: u32) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.run > run || kept.run == run && kept.outlook.is_decided())
    }

    /// Why nobody can know how its last run ended, where it is not there any more: the host is another boot's, or
    /// nobody watched.
    #[must_use]
    pub fn unseen_end(&self, boot_id: &str) -> Option<UnknownWhy> {
        let run = self.last_run.as_ref().filter(|run| run.ended.is_none())?;
        let same_boot = run.boot_id.as_deref() == Some(boot_id);
        Some(if same_boot { UnknownWhy::SupervisorAway } else { UnknownWhy::HostRebooted })
    }

    /// Takes one of its own changes.
    pub(crate) fn take(&mut self, change: &Change) {
        match change {
            Change::Declared { spec_hash, .. } => self.spec_hash = Some(*spec_hash),
            // Said once more, it is as old as before.
            Change::Wish { wish, .. } if self.wish.as_ref().is_some_and(|(known, _)| known == wish) => {}
            Change::Wish { wish, at, .. } => self.wish = Some((wish.clone(), *at)),
            Change::Breaker { kept, .. } => self.kept = Some((**kept).clone()),
            Change::Started { run, .. } | Change::Stopped { run, .. } => {
                let last = self.last_run.get_or_insert_with(|| Run::new(run.number));
                if last.number < run.number {
                    *last = Run::new(run.number);
                }
                if last.number == run.number {
                    last.take(change);
                }
            }
            Change::Status { status, story, .. } => {
                self.status = Some(*status);
                if let Some(story) = story {
                    self.story = Some(Arc::clone(story));
                }
            }
            Change::Forgotten { .. } => *self = Self::new(self.worker.clone()),
        }
    }

    /// The changes that lead from nothing to this.
    pub(super) fn changes(&self, out: &mut Vec<Change>) {
        let worker = || self.worker.clone();
        out.push(Change::Forgotten { worker: worker() });
        out.extend(self.spec_hash.map(|spec_hash| Change::Declared { worker: worker(), spec_hash }));
        out.extend(self.wish.clone().map(|(wish, at)| Change::Wish { worker: worker(), wish, at }));
        out.extend(self.kept.clone().map(|kept| Change::Breaker { worker: worker(), kept: Box::new(kept) }));
        if let Some(run) = &self.last_run {
            run.changes(&self.worker, out);
        }
        if let Some(status) = self.status {
            out.push(Change::Status { worker: worker(), status, story: self.story.clone() });
        }
    }
}

impl Run {
    /// The changes that lead from nothing to this.
    pub(super) fn changes(&self, worker: &WorkerId, out: &mut Vec<Change>) {
        let run = RunId::new(worker.clone(), self.number);
        if let (Some(pid), Some(boot_id), Some(at)) = (self.pid, self.boot_id.clone(), self.started) {
            out.push(Change::Started { run: run.clone(), pid, boot_id, at, begun: self.begun });
        }
        let begun = self.begun;
        out.extend(self.ended.clone().map(|ended| Change::Stopped { run, ended: Box::new(ended), begun }));
    }

    /// Takes one of its own changes.
    pub(super) fn take(&mut self, change: &Change) {
        match change {
            Change::Started { pid, boot_id, at, begun, .. } => {
                self.begun = begun.or(self.begun);
                (self.pid, self.boot_id, self.started) = (Some(*pid), Some(Arc::clone(boot_id)), Some(*at));
            }
            Change::Stopped { ended, begun, .. } => {
                self.begun = begun.or(self.begun);
                self.ended = Some((**ended).clone());
            }
            _ => {}
        }
    }
}

impl Change {
    /// That a run of `worker` ended as `end` says.
    #[must_use]
    pub fn stopped(worker: WorkerId, end: &RunEnd) -> Self {
        let ended = Ended { cause: end.cause.clone(), confidence: end.confidence, at: end.at };
        Self::Stopped { run: RunId::new(worker, end.run), ended: Box::new(ended), begun: end.begun }
    }

    /// Of whom it speaks.
    #[must_use]
    pub const fn worker(&self) -> &WorkerId {
        match self {
            Self::Declared { worker, .. }
            | Self::Wish { worker, .. }
            | Self::Breaker { worker, .. }
            | Self::Status { worker, .. }
            | Self::Forgotten { worker } => worker,
            Self::Started { run, .. } | Self::Stopped { run, .. } => &run.worker,
        }
    }
}
