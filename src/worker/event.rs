//! What can happen to a worker, as its `step` takes it.

use std::sync::Arc;

use crate::model::{Counters, HealthReport, KernelEvent, KilledBy, Mono, Sample, StartError, Trigger};
use crate::spec::types::Spec;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The actor has begun. Once, first.
    Begin,
    /// Somebody asks.
    Operator {
        /// For what.
        ask: Ask,
        /// Who, for the record; `None` for the supervisor itself.
        who: Option<Arc<str>>,
        /// What to answer under, once it is done; `None` where nobody waits.
        ticket: Option<Ticket>,
    },
    /// News of one run.
    Kernel(Box<KernelEvent>),
    /// The answer to [`Effect::Prepare`](super::effect::Effect::Prepare).
    Prepared {
        /// Of which run.
        run: u32,
        /// The baseline, or why there is no cgroup.
        result: Box<Result<Counters, StartError>>,
    },
    /// The answer to [`Effect::Sample`](super::effect::Effect::Sample).
    Sampled {
        /// Of which run.
        run: u32,
        /// What was read.
        sample: Box<Sample>,
        /// As it was asked.
        periodic: bool,
    },
    /// The answer to [`Effect::Inquire`](super::effect::Effect::Inquire) and
    /// [`Effect::InquireFreeze`](super::effect::Effect::InquireFreeze).
    StuckOn {
        /// Of which run.
        run: u32,
        /// Its processes and what they wait for.
        what: Box<str>,
    },
    /// `cgroup.kill` of this run was refused.
    KillRefused {
        /// Of which run.
        run: u32,
    },
    /// This run could not be frozen, or thawed.
    FreezeRefused {
        /// Of which run.
        run: u32,
        /// Why not.
        why: Box<str>,
    },
    /// The moment that `State::deadline` named has come. Too early or once too often does nothing.
    Deadline,
}

impl Event {
    /// Whether a person or a program asks for something, rather than the configuration, a health check or the end of everything.
    #[must_use]
    pub const fn is_a_persons(&self) -> bool {
        let Self::Operator { ask, .. } = self else { return false };
        match ask {
            Ask::Start { trigger } => matches!(trigger, Trigger::Operator),
            Ask::Stop { by } | Ask::Kill { by } => !matches!(by, KilledBy::Shutdown),
            Ask::Restart { .. } | Ask::Reset => true,
            Ask::Signal { .. } | Ask::Freeze { .. } | Ask::Health { .. } | Ask::Update(_) => false,
        }
    }
}

/// What can be asked of a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// That it is up; the count of attempts begins anew. Done when its program runs; nothing to do where it does already.
    Start {
        /// [`Trigger::Config`] at the supervisor's start, [`Trigger::Operator`] for a person or a program.
        trigger: Trigger,
    },
    /// That it is down. Done when its cgroup is empty; a second one changes nothing and waits for the same.
    Stop {
        /// On whose behalf.
        by: KilledBy,
    },
    /// A new run. Done when its program runs.
    ///
    /// Two at the same time are one: what was asked while `seen` was the latest run is served by any later one.
    Restart {
        /// The latest run that whoever asks knew of.
        seen: u32,
        /// Also while a class of the restart breaker is open.
        force: bool,
    },
    /// That the present run stands still, or goes on. Done when the kernel says so; at once where it is so already.
    Freeze {
        /// Whether it is to stand still.
        frozen: bool,
    },
    /// Only a signal to the main process: nothing is wished, nothing waited for. One that is frozen is not thawed for it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// A health check of run `run` says something. Done when it is acted on; a failure when its new run runs.
    Health {
        /// Which run was probed: a verdict about another one counts for nothing.
        run: u32,
        /// What.
        report: HealthReport,
    },
    /// That it goes by another spec from now on. Done when it does: at once, when its limits are changed, when its new run
    /// runs.
    Update(Box<Update>),
    /// That the restart breaker closes and forgets. A worker that it held down is started.
    Reset,
    /// That it is down, without being asked first. Done when its cgroup is empty.
    Kill {
        /// On whose behalf.
        by: KilledBy,
    },
}

/// Another spec for a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The spec.
    pub spec: Arc<Spec>,
    /// For how long.
    pub reach: Reach,
}

/// How far another spec reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// For good: it is what is configured.
    Config {
        /// Its number.
        generation: u64,
        /// Whether what should be up gets a new run for it.
        renew: Renew,
    },
    /// Its limits, and for the present run alone: the next one is held to what is configured.
    Run,
}

/// Whether another spec takes a new run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// No: the run there is lives on.
    No,
    /// Yes, whatever there is.
    Yes,
    /// Only where this run is still the last one: one that has followed it is of the spec already.
    Of(u32),
}

/// A number under which an answer is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a step takes from the world beside the event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// This moment.
    pub now: Mono,
    /// A number in [0, 1), drawn anew for each turn.
    pub jitter: f64,
}
