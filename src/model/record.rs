use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AboveReading, Begun, BreakerState, Class, Confidence, Counters, Detail, ExitCause, ExitStatus, KilledBy, Limit,
    Sample, StartError, State, Stream, Usage, WorkerId,
};

/// One line of the event stream (`up -o json`, later `events`, the store and the history sinks).
///
/// `seq` has no gaps for one worker, and begins anew with every supervisor, whose `epoch` is greater than that of any
/// before: `(epoch, seq)` orders the events of a worker. `time` is the wall clock for people and other systems, `mono_ns` is what
/// orders and measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// The version of this shape.
    pub v: u32,
    /// The supervisor's number: greater than any earlier one's. 0 in what was written before there were any.
    #[serde(default)]
    pub epoch: u64,
    /// Its number among the events of this worker in this epoch, from 1.
    pub seq: u64,
    /// RFC 3339, UTC, with microseconds.
    pub time: String,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
    /// Whose event; `None` for the supervisor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Which run; `None` where the event is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The worker's state or detail changed.
    State {
        /// The new state.
        state: State,
        /// Its detail.
        detail: Detail,
    },
    /// Its program runs.
    Started {
        /// The main process.
        pid: i32,
    },
    /// A run ended: once for each run, with its one cause.
    Exited {
        /// Why.
        cause: ExitCause,
        /// How sure that is.
        confidence: Confidence,
        /// What it was decided from.
        evidence: Box<Evidence>,
    },
    /// What an ended run used in all, read when its cgroup was empty: after its `exited`, which does not wait for it.
    Usage {
        /// The totals.
        usage: Usage,
    },
    /// A usage sample of a living run, where `monitoring.interval` asks for them.
    Sample {
        /// What it uses.
        sample: Sample,
    },
    /// A limit was hit: once for each episode, from the breach until it has recovered.
    Violation {
        /// `memory`, `cpu`, `pids`, `io`.
        resource: String,
        /// Which limit of it.
        limit: Limit,
        /// `warning` or `critical`.
        severity: String,
        /// What was seen, in words with the kernel's names.
        observed: String,
        /// What is configured, in words.
        configured: String,
        /// The growth of the counters since the last reading.
        counters: Counters,
    },
    /// An episode is over: the limit is kept again.
    Recovered {
        /// `memory`, `cpu`, `pids`, `io`.
        resource: String,
        /// Which limit of it.
        limit: Limit,
        /// How long the episode lasted, in milliseconds.
        after_ms: u64,
    },
    /// A class of the restart breaker changed.
    Breaker {
        /// Which class.
        class: Class,
        /// Its new state.
        state: BreakerState,
        /// The rule, in words.
        rule: String,
        /// How long it stays open, in milliseconds; absent where it is not open or waits for a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// A health check's verdict changed.
    Health {
        /// `startup`, `liveness` or `readiness`.
        probe: String,
        /// Whether it passes now.
        healthy: bool,
        /// What the last probe said.
        observed: String,
    },
    /// A limit of a living run was changed by us.
    LimitChanged {
        /// The kernel's file.
        file: String,
        /// Its new content.
        value: String,
        /// Why.
        why: String,
    },
    /// Output of a run is thrown away: the disk is full, or it is more than its `rate_limit` with `overflow: drop`. Told
    /// when it begins and, with the number of bytes, when it is over.
    LogDropped {
        /// `stdout` or `stderr`.
        stream: Stream,
        /// Why, in words.
        why: String,
        /// How many bytes; absent where it has only begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// What was decided about a trigger, by which rule.
    Decision(Decision),
    /// Somebody asked for something.
    Operator {
        /// Who.
        who: String,
        /// What.
        what: String,
    },
    /// A run directory that an earlier supervisor left was dealt with.
    Reconciled {
        /// What was found and done.
        what: String,
    },
    /// A step of ours failed where it must not pass in silence.
    Fault {
        /// The whole chain of reasons.
        error: String,
    },
    /// The supervisor's own life: started, stopping.
    Supervisor {
        /// What it does.
        what: String,
    },
}

impl EventKind {
    /// The word of every kind.
    pub const WORDS: &[&str] = &[
        "state",
        "started",
        "exited",
        "usage",
        "sample",
        "violation",
        "recovered",
        "breaker",
        "health",
        "limit_changed",
        "log_dropped",
        "decision",
        "operator",
        "reconciled",
        "fault",
        "supervisor",
    ];

    /// `kind` of its JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Started { .. } => "started",
            Self::Exited { .. } => "exited",
            Self::Usage { .. } => "usage",
            Self::Sample { .. } => "sample",
            Self::Violation { .. } => "violation",
            Self::Recovered { .. } => "recovered",
            Self::Breaker { .. } => "breaker",
            Self::Health { .. } => "health",
            Self::LimitChanged { .. } => "limit_changed",
            Self::LogDropped { .. } => "log_dropped",
            Self::Decision(_) => "decision",
            Self::Operator { .. } => "operator",
            Self::Reconciled { .. } => "reconciled",
            Self::Fault { .. } => "fault",
            Self::Supervisor { .. } => "supervisor",
        }
    }
}

/// What is remembered of a worker's last end and of what led to it: what `why` tells.
///
/// Boxed, for most have little to tell.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Story {
    /// Violations of the run that ended, in their order; the last few of many.
    pub violations: Vec<Event>,
    /// The last health verdict about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<Event>>,
    /// Its `exited` event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited: Option<Box<Event>>,
    /// What it had used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<Event>>,
    /// What was decided, the last decision last.
    pub decisions: Vec<Event>,
    /// The last change of the restart breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Box<Event>>,
}

impl Story {
    /// Of each kind no more is kept.
    const KEPT: usize = 6;

    /// That of a worker that has not ended yet: one for all of them.
    #[must_use]
    pub fn untold() -> Arc<Self> {
        static UNTOLD: LazyLock<Arc<Story>> = LazyLock::new(Arc::default);
        Arc::clone(&UNTOLD)
    }

    /// Why the run ended that it tells of.
    #[must_use]
    pub fn cause(&self) -> Option<ExitCause> {
        match &self.exited.as_ref()?.kind {
            EventKind::Exited { cause, .. } => Some(cause.clone()),
            _ => None,
        }
    }

    /// Whether an event of this kind adds to it.
    #[must_use]
    pub const fn concerns(kind: &EventKind) -> bool {
        matches!(
            kind,
            EventKind::Violation { .. }
                | EventKind::Decision(_)
                | EventKind::Health { .. }
                | EventKind::Breaker { .. }
                | EventKind::Usage { .. }
                | EventKind::Exited { .. }
        )
    }

    /// Adds what `event` tells.
    ///
    /// What happens to the next run does not displace the last end: its violations wait for its own.
    pub fn tell(&mut self, event: &Event) {
        let kept = |list: &mut Vec<Event>| {
            if list.len() == Self::KEPT {
                list.remove(0);
            }
            list.push(event.clone());
        };
        match &event.kind {
            EventKind::Violation { .. } => kept(&mut self.violations),
            EventKind::Decision(_) => kept(&mut self.decisions),
            EventKind::Health { .. } => self.health = Some(Box::new(event.clone())),
            EventKind::Breaker { .. } => self.breaker = Some(Box::new(event.clone())),
            EventKind::Usage { .. } => self.usage = Some(Box::new(event.clone())),
            EventKind::Exited { .. } => {
                self.violations.retain(|e| e.run == event.run);
                self.decisions.retain(|e| e.run == event.run);
                self.health = self.health.take().filter(|e| e.run == event.run);
                self.usage = None;
                self.exited = Some(Box::new(event.clone()));
            }
            _ => {}
        }
    }
}

/// What an exit's cause was decided from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// waitid(2)'s word; absent where nobody saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ExitStatus>,
    /// The counters when they were last read while the main process lived.
    pub before: Counters,
    /// The counters at its end.
    pub after: Counters,
    /// What the run used, where the exit is told only after the whole cgroup has ended (`run --report`). A
    /// supervised worker's exit is told at once; its use follows as an event of kind `usage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// On whose behalf we had signalled or killed it, if we had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<KilledBy>,
    /// What the cgroups above it say, where an OOM kill came from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Box<AboveReading>>,
    /// Why it could not start, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<StartError>,
    /// How long its program ran, in milliseconds.
    pub wall_ms: u64,
}

/// An end that only the supervisor knows that has seen it, until the store does: kept in the record of the run that follows,
/// for the case that this supervisor is gone by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The run's number.
    pub run: u32,
    /// Its main process and when its program began, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<(i32, jiff::Timestamp)>,
    /// For what it was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    /// When the end was seen.
    pub at: jiff::Timestamp,
    /// Why it ended.
    pub cause: ExitCause,
    /// How sure that is.
    pub confidence: Confidence,
    /// What that was decided from.
    pub evidence: Box<Evidence>,
}

/// One decision: what asked for it, what came of it and which rule said so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// What asked.
    pub trigger: Trigger,
    /// What it was decided from, in words.
    pub evidence: String,
    /// The class of restarts whose budget was asked; absent where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The limit that was violated, with a trigger of `violation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// The configured policy that was consulted, in the config's spelling.
    pub policy: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The rule, in words.
    pub rule: String,
    /// Which automatic attempt in a row this is, from 1; absent where the verdict is not a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How many are allowed in a row; absent where there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long until it is due, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// What can ask for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A run ended by itself or could not start.
    Exit,
    /// A limit was hit.
    Violation,
    /// A health check failed.
    Health,
    /// A person or a program asked.
    Operator,
    /// The configuration, at start.
    Config,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A new run now, or when its delay has passed.
    Restart,
    /// It stays as it is.
    Stay,
    /// No further attempt.
    GiveUp,
    /// Recorded, nothing else.
    Record,
    /// It is stopped, for good.
    Stop,
    /// It is killed, for good.
    Kill,
    /// The breaker admits no restart.
    Hold,
}
