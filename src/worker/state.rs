//! What a worker's actor knows between two events.
//!
//! Each phase holds exactly what exists in it: there is no pid without a running main process, no kill deadline without a
//! kill, no baseline without a cgroup.

use std::{sync::Arc, time::Duration};

use crate::model::{
    AboveReading, Begun, Class, Counters, ExitCause, KilledBy, Mono, PolicyName, RestartCounts, RunId, StartError,
    WorkerId,
};
use crate::policy::{
    breaker::{Breaker, Saved},
    cause::Asked,
    decide::{Breach, Pending},
    violation::{Rules, Watchman},
};
use crate::spec::types::Spec;

use super::event::{Ticket, Update};

mod freezer;
mod past;
mod readings;
mod shown;

pub(super) use freezer::{Asked as AskedOfFreezer, Freezer};
pub use past::{Adopted, Remembered, Unseen};
pub(super) use readings::Readings;

/// One worker, between two events.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(super) id: WorkerId,
    /// What the current or last run goes by.
    pub(super) spec: Arc<Spec>,
    /// What the next one goes by, where that is another.
    pub(super) next: Option<Arc<Spec>>,
    /// The number of the spec that is wanted, and of the one that is in force.
    pub(super) generations: Generations,
    /// A change of the living run's limits that is not answered yet.
    pub(super) changing: Option<Box<Changing>>,
    /// The launch under way is of an older spec: another run follows it.
    pub(super) follow_up: bool,
    pub(super) wish: Wish,
    pub(super) phase: Phase,
    /// The number of the current or last run: the next one's is higher by one.
    pub(super) last_run: u32,
    /// What began it; `None` where that was under an earlier supervisor.
    pub(super) begun: Option<Begun>,
    /// What the run that is asked for anew is asked for by.
    pub(super) anew: Option<Begun>,
    pub(super) breaker: Breaker,
    pub(super) restarts: RestartCounts,
    pub(super) cause: Option<ExitCause>,
    pub(super) since: Mono,
    /// Answers that are owed.
    pub(super) owed: Vec<(Ticket, Goal)>,
    /// How many CPUs a run can use at the most.
    pub(super) cpus: u32,
    /// Runs that ended and whose directory is not known to be gone.
    pub(super) leftovers: Vec<u32>,
    /// Who asked for the wish there is.
    pub(super) who: Option<Arc<str>>,
    /// The last run ended while nobody watched: not told yet.
    pub(super) unseen: Option<Box<Unseen>>,
}

/// Which spec is wanted, and which one is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generations {
    pub(super) desired: u64,
    pub(super) observed: u64,
}

/// Limits on their way into force.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Changing {
    pub(super) update: Update,
    pub(super) ticket: Option<Ticket>,
}

/// Whether it should be up: apart from what it does, so that a stop during a launch changes the one now and the other when
/// the kernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Up,
    /// `None`: nobody has asked for it to be up yet.
    Down(Option<Behalf>),
}

/// On whose behalf a run is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behalf {
    pub(super) by: KilledBy,
    /// Whose policy it is, with [`KilledBy::Policy`].
    pub(super) policy: Option<PolicyName>,
}

impl Behalf {
    pub(super) const STOP: Self = Self { by: KilledBy::Stop, policy: None };

    pub(super) const fn policy(policy: PolicyName) -> Self {
        Self { by: KilledBy::Policy, policy: Some(policy) }
    }
}

impl From<KilledBy> for Behalf {
    fn from(by: KilledBy) -> Self {
        Self { by, policy: None }
    }
}

/// What an owed answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    Down,
    /// That the present run is frozen, or that it is not.
    Frozen(bool),
}

/// What it does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// No process, none due.
    Resting(Rest),
    /// No process, one due.
    Waiting { due: Mono, class: Option<Class> },
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
    /// This class of the breaker admits no run.
    Held(Class),
}

/// A run that has a cgroup.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Life {
    pub(super) began: Mono,
    pub(super) readings: Readings,
    pub(super) asked: Asked,
    pub(super) watch: Watchman,
    /// A restart that was decided, and has not begun.
    pub(super) pending: Option<Pending>,
    /// A restart that an open breaker refused, while the violation lasts.
    pub(super) unserved: Option<Breach>,
    /// `memory.high` was lifted.
    pub(super) lifted: bool,
    /// When the next usage sample is due, where they are configured.
    pub(super) sample_at: Option<Mono>,
    /// Its startup or readiness check has not passed.
    pub(super) unready: bool,
    /// Its liveness check was told to have failed, and has not passed since.
    pub(super) unhealthy: bool,
    /// What keeps it from ending, once it is stuck, or from being frozen or thawed.
    pub(super) stuck_on: Option<Box<str>>,
    /// Boxed: most runs are never frozen.
    pub(super) freezer: Option<Box<Freezer>>,
    /// How many changes of its limits are not answered yet.
    pub(super) changes: u8,
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
    CalledOff(Behalf),
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

impl State {
    /// A worker that nobody has started. `last_run` is the highest number any run of it ever had, 0 for none.
    #[must_use]
    pub fn new(id: WorkerId, spec: Arc<Spec>, last_run: u32, now: Mono) -> Self {
        Self {
            id,
            spec,
            next: None,
            generations: Generations { desired: 1, observed: 1 },
            changing: None,
            follow_up: false,
            wish: Wish::Down(None),
            phase: Phase::Resting(Rest::Never),
            last_run,
            begun: None,
            anew: None,
            breaker: Breaker::default(),
            restarts: RestartCounts::default(),
            cause: None,
            since: now,
            owed: Vec::new(),
            cpus: 1,
            leftovers: Vec::new(),
            who: None,
            unseen: None,
        }
    }

    /// What began the current or last run; `None` where that was under an earlier supervisor.
    #[must_use]
    pub const fn begun(&self) -> Option<Begun> {
        self.begun
    }

    /// The same on a host of `cpus` CPUs.
    #[must_use]
    pub const fn on_cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
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

    /// Gives back the room that nothing is in.
    pub(super) fn shrink(&mut self) {
        self.owed.shrink_to_fit();
        self.leftovers.shrink_to_fit();
    }

    /// When [`Event::Deadline`](super::event::Event::Deadline) is due, if at all.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let phase = match &self.phase {
            // Preparing is answered within the turn; nothing is awaited of the others but what only an event can bring.
            Phase::Resting(_) | Phase::Preparing { .. } | Phase::Stuck { .. } => None,
            Phase::Running { life, .. } => {
                let due = life.pending_now().map(|pending| pending.due);
                let inquire = life.asked_of_freezer().and_then(|asked| asked.inquire_at);
                earlier(earlier(due, inquire), earlier(life.sample_at, life.watch_deadline(&self.rules())))
            }
            Phase::Waiting { due, .. } => Some(*due),
            Phase::Launching { patience, .. } => Some(*patience),
            Phase::Terminating { kill_at, .. } | Phase::Draining { kill_at, .. } => Some(*kill_at),
            Phase::Killing { give_up, retry, .. } => Some(retry.map_or(*give_up, |retry| retry.min(*give_up))),
        };
        earlier(phase, self.breaker.deadline(&self.spec.restart, self.alive_since()))
    }

    /// Since when its program has run, while it does and nobody ends it.
    pub(super) const fn alive_since(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Running { main, .. } => Some(main.started),
            _ => None,
        }
    }

    /// Runs that have ended and whose directory is not known to be gone.
    #[must_use]
    pub fn leftovers(&self) -> &[u32] {
        &self.leftovers
    }

    /// What the restart breaker has counted, for the run's record.
    #[must_use]
    pub fn breaker(&self, now: Mono) -> Saved {
        self.breaker.save(now)
    }

    /// The current or last run.
    #[must_use]
    pub fn run(&self) -> RunId {
        RunId::new(self.id.clone(), self.last_run)
    }

    /// What its current or last run goes by.
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

    /// Whether another supervisor finds all there is to know of it: no launch is undecided, no end is told whose run is not cleared
    /// away (the keeper would tell it again), no new run is asked for that only we know of, and nobody waits for its end.
    #[must_use]
    pub fn can_be_left(&self) -> bool {
        match &self.phase {
            Phase::Resting(_) | Phase::Waiting { .. } | Phase::Stuck { .. } => true,
            Phase::Running { life, .. } => life.asked_of_freezer().is_none(),
            Phase::Terminating { after, .. } | Phase::Killing { body: Body::Alive(_), after, .. } => {
                *after == After::Policy && self.owed.is_empty()
            }
            Phase::Preparing { .. } | Phase::Launching { .. } | Phase::Draining { .. } | Phase::Killing { .. } => false,
        }
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

    /// What is watched for.
    pub(super) fn rules(&self) -> Rules {
        super::rules::rules(&self.spec.limits, self.cpus)
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
            watch: Watchman::new(began),
            pending: None,
            unserved: None,
            lifted: false,
            sample_at: None,
            unready: false,
            unhealthy: false,
            stuck_on: None,
            freezer: None,
            changes: 0,
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

fn earlier(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
