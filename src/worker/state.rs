//! What a worker's actor knows between two events.
//!
//! Each phase holds exactly what exists in it: there is no pid without a running main process, no kill deadline without a
//! kill, no baseline without a cgroup.

use std::{sync::Arc, time::Duration};

use crate::model::{
    AboveReading, Counters, Detail, ExitCause, KilledBy, MemoryEvents, Mono, Readiness, RestartCounts, RunId,
    StartError, State as PublicState, StoppedDetail, StoppingDetail, WorkerId, WorkerStatus,
};
use crate::policy::{cause::Asked, restart::Attempts};
use crate::spec::types::Spec;

use super::event::Ticket;
use super::transition::LAUNCH_PATIENCE;

/// One worker, between two events.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(super) id: WorkerId,
    pub(super) spec: Arc<Spec>,
    pub(super) wish: Wish,
    pub(super) phase: Phase,
    /// The number of the current or last run: the next one's is higher by one.
    pub(super) last_run: u32,
    pub(super) attempts: Attempts,
    pub(super) restarts: u32,
    pub(super) cause: Option<ExitCause>,
    pub(super) since: Mono,
    /// Answers that are owed.
    pub(super) owed: Vec<(Ticket, Goal)>,
    /// Runs that ended and whose directory is not known to be gone.
    pub(super) leftovers: Vec<u32>,
}

/// Whether it should be up: apart from what it does, so that a stop during a launch changes the one now and the other when
/// the kernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Up,
    /// `None`: nobody has asked for it to be up yet.
    Down(Option<KilledBy>),
}

/// What an owed answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    Down,
}

/// What it does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// No process, none due.
    Resting(Rest),
    /// No process, one due.
    Waiting { due: Mono },
    /// The run's cgroup is being made: within one turn of the actor.
    Preparing { began: Mono },
    /// The keeper was asked.
    Launching { life: Box<Life>, patience: Mono },
    /// The main process lives and nobody wants otherwise.
    Running { life: Box<Life>, main: Main },
    /// The main process was sent the stop signal.
    Terminating { life: Box<Life>, main: Main, kill_at: Mono, after: After },
    /// There is no main process; what is left was sent SIGTERM.
    Draining { life: Box<Life>, remains: Remains, kill_at: Mono, after: After },
    /// `cgroup.kill` was written, or tried.
    Killing { life: Box<Life>, body: Body, give_up: Mono, retry: Option<Mono>, after: After },
    /// It did not help.
    Stuck { life: Box<Life>, body: Body, after: After },
}

/// Why nothing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Never,
    Done,
    Stopped,
    Failed,
}

/// A run that has a cgroup.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Life {
    pub(super) began: Mono,
    pub(super) readings: Readings,
    pub(super) asked: Asked,
    /// A refused fork was reported: a fork bomb has thousands.
    pub(super) pids_reported: bool,
    /// Somebody removed its directory: there is nothing left to kill or to drain there.
    pub(super) cgroup_gone: bool,
    /// Its launch was not answered in time, and it was killed for that.
    pub(super) overdue: bool,
    /// Its main process left others behind when it ended.
    pub(super) left_behind: bool,
    /// What the cgroups above it said at its end, where an OOM kill came from there.
    pub(super) above: Option<Box<AboveReading>>,
}

/// The main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Main {
    pub(super) pid: i32,
    pub(super) started: Mono,
}

/// What a run without a main process is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Remains {
    /// The main process was reaped and the exit reported.
    Dead { ran: Duration },
    /// It could not be started. The exit is reported when the counters are final.
    Stillborn(StartError),
    /// It was called off before it was launched.
    CalledOff(KilledBy),
    /// Processes of an earlier supervisor's run, of which no record exists.
    Strangers,
}

/// What a kill is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    /// A launch that was not answered yet.
    Unborn,
    Alive(Main),
    Gone(Remains),
}

/// What follows the end of a run, where the wish is still that it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The restart policy decides.
    Policy,
    /// A new run, asked for.
    Rerun,
}

/// The counters of a run: the last reading, and the one that an exit is compared with.
///
/// An OOM kill is often read *before* the exit it causes. So a reading in which an OOM count grew does not become the
/// baseline while the main process may be dying of it: never, where an OOM takes the whole run (if the main
/// process lives on, nothing was taken), else after [`Readings::SETTLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readings {
    baseline: Counters,
    last: Counters,
    /// Since when `last` holds an OOM that `baseline` does not.
    unsettled: Option<Mono>,
}

impl Readings {
    /// How long a process that was sent SIGKILL may take to be reaped before its OOM is taken for another's.
    const SETTLE: Duration = Duration::from_secs(2);

    pub(super) const fn new(baseline: Counters) -> Self {
        Self { baseline, last: baseline, unsettled: None }
    }

    /// Takes a new reading; answers with the growth since the one before.
    pub(super) fn read(&mut self, counters: Counters, oom_takes_all: bool, now: Mono) -> Counters {
        if !oom_takes_all && self.unsettled.is_some_and(|since| now.since(since) >= Self::SETTLE) {
            self.baseline = self.last;
            self.unsettled = None;
        }
        let grown = counters.since(self.last);
        if oom_grew(counters.since(self.baseline)) {
            // Later growth begins the wait anew: whoever dies of it has had no time yet.
            if oom_grew(grown) || self.unsettled.is_none() {
                self.unsettled = Some(now);
            }
        } else {
            self.baseline = counters;
        }
        self.last = counters;
        grown
    }

    /// The reading that an exit at `now` is compared with.
    pub(super) fn before_exit(&self, oom_takes_all: bool, now: Mono) -> Counters {
        match self.unsettled {
            Some(since) if !oom_takes_all && now.since(since) >= Self::SETTLE => self.last,
            _ => self.baseline,
        }
    }

    pub(super) const fn last(&self) -> Counters {
        self.last
    }
}

fn oom_grew(grown: Counters) -> bool {
    let any = |e: Option<MemoryEvents>| e.is_some_and(|e| e.oom > 0 || e.oom_kill > 0 || e.oom_group_kill > 0);
    any(grown.local) || any(grown.memory)
}

/// A run that was found alive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adopted {
    /// Its number.
    pub run: u32,
    /// Its main process; `None` where its launch is not decided yet.
    pub pid: Option<i32>,
    /// When its program began.
    pub started: Mono,
    /// The counters when it began.
    pub baseline: Counters,
    /// Automatic restarts in a row before it.
    pub attempts: u32,
    /// Automatic restarts before it, in all.
    pub restarts: u32,
    /// Whether it should be up; where not, its stop is taken up again.
    pub desired_up: bool,
}

impl State {
    /// A worker that nobody has started. `last_run` is the highest number any run of it ever had, 0 for none.
    #[must_use]
    pub fn new(id: WorkerId, spec: Arc<Spec>, last_run: u32, now: Mono) -> Self {
        Self {
            id,
            spec,
            wish: Wish::Down(None),
            phase: Phase::Resting(Rest::Never),
            last_run,
            attempts: Attempts::default(),
            restarts: 0,
            cause: None,
            since: now,
            owed: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// A worker whose run was found alive with its keeper: nothing is started or stopped, the watch goes on.
    #[must_use]
    pub fn adopted(id: WorkerId, spec: Arc<Spec>, found: &Adopted, now: Mono) -> Self {
        let mut state = Self::new(id, spec, found.run, now);
        state.wish = if found.desired_up { Wish::Up } else { Wish::Down(Some(KilledBy::Stop)) };
        // When the run before it ended is not on record: its own start is the latest that can have been.
        let previous = (found.attempts > 0).then_some(found.started);
        state.attempts = Attempts { strikes: found.attempts, previous, spawn_faults: 0 };
        state.restarts = found.restarts;
        state.since = found.started;
        let life = Box::new(Life::new(found.started, found.baseline));
        state.phase = match found.pid {
            Some(pid) => Phase::Running { life, main: Main { pid, started: found.started } },
            None => Phase::Launching { life, patience: now + LAUNCH_PATIENCE },
        };
        state
    }

    /// A worker whose cgroup of run `run` holds processes that nobody has a record of: nothing is started over them,
    /// and they are left alone until they are gone or somebody asks for a stop or a kill.
    #[must_use]
    pub fn occupied(id: WorkerId, spec: Arc<Spec>, run: u32, now: Mono) -> Self {
        let mut state = Self::new(id, spec, run, now);
        state.phase = Phase::Stuck {
            life: Box::new(Life::new(now, Counters::default())),
            body: Body::Gone(Remains::Strangers),
            after: After::Rerun,
        };
        state
    }

    /// When [`Event::Deadline`](super::event::Event::Deadline) is due, if at all.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        match &self.phase {
            // Preparing is answered within the turn; nothing is awaited of the others but what only an event can bring.
            Phase::Resting(_) | Phase::Preparing { .. } | Phase::Running { .. } | Phase::Stuck { .. } => None,
            Phase::Waiting { due } => Some(*due),
            Phase::Launching { patience, .. } => Some(*patience),
            Phase::Terminating { kill_at, .. } | Phase::Draining { kill_at, .. } => Some(*kill_at),
            Phase::Killing { give_up, retry, .. } => Some(retry.map_or(*give_up, |retry| retry.min(*give_up))),
        }
    }

    /// What the world is shown. `generation` is the publisher's.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        let (state, detail) = self.public();
        let main = self.main();
        WorkerStatus {
            id: self.id.clone(),
            state,
            detail,
            pid: main.map(|m| m.pid),
            run: self.last_run,
            since: self.since,
            started: main.map(|m| m.started),
            restarts: self.restarts,
            restarts_by: RestartCounts::default(),
            breaker: Vec::new(),
            violations: Vec::new(),
            cause: self.cause.clone(),
            next_attempt: match self.phase {
                Phase::Waiting { due } => Some(due),
                _ => None,
            },
            desired_up: self.wish == Wish::Up,
            down_by: match self.wish {
                Wish::Up => None,
                Wish::Down(by) => by,
            },
            down_policy: None,
            stuck_on: None,
            generation: 0,
        }
    }

    /// Runs that have ended and whose directory is not known to be gone.
    #[must_use]
    pub fn leftovers(&self) -> &[u32] {
        &self.leftovers
    }

    /// Automatic restarts in a row.
    #[must_use]
    pub fn strikes(&self) -> u32 {
        self.attempts.strikes
    }

    /// The current or last run.
    #[must_use]
    pub fn run(&self) -> RunId {
        RunId::new(self.id.clone(), self.last_run)
    }

    /// What it runs and how.
    #[must_use]
    pub const fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// The main process and when its program began, while it lives.
    #[must_use]
    pub fn main_process(&self) -> Option<(i32, Mono)> {
        self.main().map(|main| (main.pid, main.started))
    }

    /// Whether the worker has come to rest: nothing runs, nothing is due, nothing is left.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Resting(_)) && self.leftovers.is_empty()
    }

    /// How many answers are owed.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    fn main(&self) -> Option<Main> {
        match &self.phase {
            Phase::Running { main, .. } | Phase::Terminating { main, .. } => Some(*main),
            Phase::Killing { body: Body::Alive(main), .. } | Phase::Stuck { body: Body::Alive(main), .. } => {
                Some(*main)
            }
            _ => None,
        }
    }

    pub(super) fn public(&self) -> (PublicState, Detail) {
        use PublicState::{Running, Starting, Stopped, Stopping};
        let stopping = |detail| (Stopping, Detail::Stopping(detail));
        match &self.phase {
            Phase::Resting(rest) => (
                Stopped,
                Detail::Stopped(match rest {
                    Rest::Never => StoppedDetail::Never,
                    Rest::Done => StoppedDetail::Done,
                    Rest::Stopped => StoppedDetail::Stopped,
                    Rest::Failed => StoppedDetail::Failed,
                }),
            ),
            Phase::Waiting { .. } => (Stopped, Detail::Stopped(StoppedDetail::Waiting)),
            Phase::Preparing { .. } => (Starting, Detail::Preparing),
            Phase::Launching { .. } => (Starting, Detail::Launching),
            Phase::Running { .. } => (Running, Detail::Running(Readiness::Ready)),
            Phase::Terminating { .. } => stopping(StoppingDetail::Term),
            Phase::Draining { .. } => stopping(StoppingDetail::Draining),
            Phase::Killing { .. } => stopping(StoppingDetail::Kill),
            Phase::Stuck { .. } => stopping(StoppingDetail::Unkillable),
        }
    }

    pub(super) fn oom_takes_all(&self) -> bool {
        self.spec.oom_takes_all()
    }
}

impl Life {
    pub(super) fn new(began: Mono, baseline: Counters) -> Self {
        Self {
            began,
            readings: Readings::new(baseline),
            asked: Asked::default(),
            pids_reported: false,
            cgroup_gone: false,
            left_behind: false,
            above: None,
            overdue: false,
        }
    }
}

impl Phase {
    pub(super) fn life(&self) -> Option<&Life> {
        match self {
            Self::Resting(_) | Self::Waiting { .. } | Self::Preparing { .. } => None,
            Self::Launching { life, .. }
            | Self::Running { life, .. }
            | Self::Terminating { life, .. }
            | Self::Draining { life, .. }
            | Self::Killing { life, .. }
            | Self::Stuck { life, .. } => Some(life),
        }
    }

    pub(super) fn life_mut(&mut self) -> Option<&mut Life> {
        match self {
            Self::Resting(_) | Self::Waiting { .. } | Self::Preparing { .. } => None,
            Self::Launching { life, .. }
            | Self::Running { life, .. }
            | Self::Terminating { life, .. }
            | Self::Draining { life, .. }
            | Self::Killing { life, .. }
            | Self::Stuck { life, .. } => Some(life),
        }
    }
}
