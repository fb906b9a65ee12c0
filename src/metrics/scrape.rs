//! What one scrape is told from: plain numbers, read once, small enough for ten thousand workers.

use crate::history::SinkHealth;
use crate::model::{BreakerState, Class, Limit, Measured, OwnUse, RestartCounts, SliceName, State, WorkerId};
use crate::spec::types::Limits;

use super::latency::Latencies;
use super::tally::{Counts, Overall};

/// Everything.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The workers, in the order of their declaration.
    pub workers: Vec<Row>,
    /// Ourselves.
    pub own: Own,
}

/// One worker.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub worker: WorkerId,
    /// The id it was declared under.
    pub declared_as: WorkerId,
    /// The budget that it shares.
    pub slice: Option<SliceName>,
    /// Its state.
    pub state: State,
    /// Whether it should be up: not one that has ended as it should.
    pub desired_up: bool,
    /// When its program began, in seconds since 1970; only while it runs.
    pub started_seconds: Option<f64>,
    /// Automatic restarts.
    pub restarts: RestartCounts,
    /// The classes of its restart breaker that have counted something or are not closed.
    pub breaker: Vec<Breaker>,
    /// The limits that are violated now.
    pub violated: Vec<Limit>,
    /// Which resources it has limits of.
    pub limited: Limited,
    /// What it uses now.
    pub now: Gauges,
    /// What was counted.
    pub counts: Counts,
}

/// One class of a restart breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the status has them")]
pub struct Breaker {
    pub class: Class,
    pub state: BreakerState,
    pub attempts: u32,
}

/// Whether there is a limit of each resource, as [`RESOURCES`](super::tally::RESOURCES) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limited(pub [bool; 4]);

impl From<&Limits> for Limited {
    fn from(limits: &Limits) -> Self {
        let Limits { memory, cpu, pids, io, pressure, .. } = limits;
        Self([
            memory.max.is_some() || memory.high.is_some() || pressure.memory.is_some(),
            cpu.max_percent.is_some() || cpu.max_time.is_some() || pressure.cpu.is_some(),
            pids.max.is_some(),
            !io.is_empty() || pressure.io.is_some(),
        ])
    }
}

/// What goes up and down. `None`: it does not run, there is no such limit, or the kernel does not tell here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Gauges {
    pub memory_current_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_max_bytes: Option<u64>,
    pub memory_high_bytes: Option<u64>,
    pub pids_current: Option<u64>,
    pub pids_max: Option<u64>,
}

impl From<Measured> for Gauges {
    fn from(Measured { used, ceilings }: Measured) -> Self {
        Self {
            memory_current_bytes: used.memory_current_bytes,
            memory_peak_bytes: used.memory_peak_bytes,
            memory_max_bytes: ceilings.memory_max_bytes,
            memory_high_bytes: ceilings.memory_high_bytes,
            pids_current: used.pids_current,
            pids_max: ceilings.pids_max,
        }
    }
}

/// Ourselves.
#[derive(Debug, Default)]
pub struct Own {
    /// Our version.
    pub version: &'static str,
    /// Whether every worker is being stopped.
    pub going_down: bool,
    /// How often the binary was replaced.
    pub reexecs: u32,
    /// Whether another supervisor went before, under the same keeper.
    pub replaced: bool,
    /// Events and decisions.
    pub overall: Overall,
    /// Events that readers of the stream were too slow for.
    pub missed_events: u64,
    /// How long decisions took.
    pub decisions: Latencies,
    /// The history sinks; no two of one name.
    pub sinks: Vec<SinkHealth>,
    /// The store.
    pub store: Store,
    /// The supervisor's process.
    pub process: Option<OwnUse>,
    /// Living runs whose numbers could not be read in time.
    pub unread: u64,
}

/// How the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Store {
    /// Whether it is not written.
    pub degraded: bool,
    /// Of how many workers something waits.
    pub pending: u64,
    /// How many starts and exits had no room in memory since it is degraded.
    pub lost: u64,
}

impl From<&crate::store::Health> for Store {
    fn from(health: &crate::store::Health) -> Self {
        use crate::store::Health;
        match health {
            Health::Ok { .. } => Self::default(),
            Health::Degraded { pending, lost, .. } => {
                Self { degraded: true, pending: u64::try_from(*pending).unwrap_or(u64::MAX), lost: *lost }
            }
        }
    }
}
