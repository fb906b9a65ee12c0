//! What a step wants done. Performed in order, by the actor alone.

use std::sync::Arc;

use crate::model::{EventKind, RunId, StartError, Target, Wanted, Way};
use crate::spec::types::Spec;

use super::event::Ticket;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the run's cgroup and its limits. The answer is [`Event::Prepared`](super::event::Event::Prepared), before any
    /// other event.
    Prepare(RunId),
    /// Have its program executed.
    Launch(RunId, Way),
    /// Send a signal.
    Signal {
        /// To which run.
        run: RunId,
        /// The signal's number.
        signal: i32,
        /// To which of its processes.
        to: Target,
        /// Whether a frozen run is thawed to hear it.
        thaws: bool,
    },
    /// Write `cgroup.kill`.
    Kill(RunId),
    /// Have it told when the cgroup is empty.
    Drain(RunId),
    /// Forget the run and remove its directory.
    Remove(RunId),
    /// Read what it uses. The answer is [`Event::Sampled`](super::event::Event::Sampled), in the same turn.
    Sample {
        /// Which run.
        run: RunId,
        /// What of it.
        wanted: Wanted,
        /// Whether it is one of the configured usage samples, to be put on record.
        periodic: bool,
    },
    /// Lift `memory.high`, or set it again.
    Tripwire {
        /// Of which run.
        run: RunId,
        /// Whether it is to be in force.
        armed: bool,
    },
    /// Change the limits of a living run to those of `spec`. The answer is
    /// [`LimitsSet`](crate::model::KernelEventKind::LimitsSet).
    Limits {
        /// Of which run.
        run: RunId,
        /// The spec that has them.
        spec: Arc<Spec>,
        /// Whether `memory.high` is out of force, and to be left so.
        lifted: bool,
    },
    /// Freeze the run, or thaw it. The answer is [`Frozen`](crate::model::KernelEventKind::Frozen), or
    /// [`Event::FreezeRefused`](super::event::Event::FreezeRefused).
    Freeze {
        /// Which run.
        run: RunId,
        /// Whether it is to be frozen.
        frozen: bool,
    },
    /// Find out what keeps the run from being frozen, or from being thawed. The answer is
    /// [`Event::StuckOn`](super::event::Event::StuckOn), in the same turn.
    InquireFreeze {
        /// Which run.
        run: RunId,
        /// Whether it is to be frozen.
        frozen: bool,
    },
    /// Set the run's pressure triggers anew, as the spec now in force has them.
    Rewatch(RunId),
    /// Find out what keeps a killed run from ending. The answer is
    /// [`Event::StuckOn`](super::event::Event::StuckOn), in the same turn.
    Inquire(RunId),
    /// Tell the supervisor that this worker is why it ends: its breaker has opened, and `on_open` is `exit`.
    GiveUp,
    /// Rewrite the run's record on its cgroup.
    Note(RunId),
    /// Have what is wished, counted and about to follow remembered, as it is after this step.
    Remember {
        /// On disk before anything that is answered from now on.
        durably: bool,
    },
    /// Add to the record of what happened.
    Emit {
        /// About which run.
        run: Option<u32>,
        /// What.
        kind: Box<EventKind>,
    },
    /// Answer somebody who waits.
    Reply {
        /// Whom.
        ticket: Ticket,
        /// With what.
        result: Result<(), Refusal>,
    },
    /// Show the status as it is after this step. Nothing but answers comes after it.
    Publish,
}

/// Why what was asked did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The run could not be started. A retry may be due by the restart policy.
    #[error("it could not be started")]
    StartFailed(#[source] StartError),
    /// The restart breaker is open.
    #[error("its restart breaker is open: {restarts} restarts are used up")]
    BreakerOpen {
        /// What they are for: `exit`, `health`, `violation`.
        restarts: &'static str,
    },
    /// It is not the time for it.
    #[error("{0}")]
    NotNow(String),
    /// Its run was over as soon as it had begun, and no other follows.
    #[error("it has ended, and no run follows by its restart policy")]
    Ended,
    /// There is no main process that a signal could be sent to.
    #[error("it is not running")]
    NotRunning,
    /// Its limits cannot be changed so while it runs; the old ones hold.
    #[error("its limits stay as they are: {0}")]
    Limits(String),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
    /// Something asked for later contradicts it.
    #[error("it was asked for the opposite meanwhile")]
    Superseded,
    /// Not every process could be ended, or its own end not be proved; nothing is started over them.
    #[error("processes of it survive SIGKILL, or were left by an earlier supervisor; see `stopping(unkillable)`")]
    Unkillable,
}
