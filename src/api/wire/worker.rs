//! Workers as they are now, and what they use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::moment::Moment;
use crate::manager::handle::Member;
use crate::model::{
    BreakerState, Class, Detail, ExitCause, KilledBy, Limit, PolicyName, Pressures, RestartCounts, State, WorkerId,
    WorkerStatus,
};

/// `GET /v1/workers`: in the order of their declaration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workers {
    /// Grows with whatever one of them publishes, and with every change of the list: `wait_generation` waits for that.
    #[serde(default)]
    pub generation: u64,
    /// Them.
    pub workers: Vec<Worker>,
}

/// One worker, as it was published last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// The id it was declared under: another than its own where it is one of several instances.
    pub declared_as: WorkerId,
    /// `stopped`, `starting`, `running`, `stopping`.
    pub state: State,
    /// The finer word.
    pub detail: Detail,
    /// The main process, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The number of the current or last run; 0 before the first.
    pub run: u32,
    /// Since when it is in this state.
    pub since: String,
    /// For how long.
    pub age_ms: u64,
    /// When the current run's program began, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// How long that is ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Automatic restarts since the supervisor learned of it.
    pub restarts: u32,
    /// The same, by what they were for.
    pub restarts_by: RestartCounts,
    /// The classes of its restart breaker that have counted something or are not closed.
    pub breaker: Vec<Breaker>,
    /// The limits that are violated now.
    pub violations: Vec<Limit>,
    /// Why its last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<ExitCause>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// How long it is until then; 0 where it is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_in_ms: Option<u64>,
    /// Whether it should be up.
    pub desired_up: bool,
    /// On whose behalf it is down, where it should not be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_by: Option<KilledBy>,
    /// Whose policy it was, where it is down by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_policy: Option<PolicyName>,
    /// What keeps it from ending, while it is `stopping(unkillable)`; while it runs, from being frozen or thawed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_on: Option<String>,
    /// The number of the spec it should run by: each change of its configuration has a higher one.
    #[serde(default)]
    pub desired_generation: u64,
    /// The number of the spec it does run by: lower while a change is under way, was refused, or waits for its next run.
    #[serde(default)]
    pub observed_generation: u64,
    /// Grows with every change of the above.
    pub generation: u64,
    /// What it uses now; only where it was asked for (`?usage=true`, `?usage=full`) and it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a line of `ps` shows of a worker. Read in the place of a [`Worker`] where there are thousands: what is not shown is passed over,
/// and not made.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Glimpse {
    /// Its name.
    pub id: WorkerId,
    /// As a [`Worker`]'s, as are all of these.
    pub state: State,
    /// The finer word.
    pub detail: Detail,
    /// The main process.
    pub pid: Option<i32>,
    /// How long it has run.
    pub uptime_ms: Option<u64>,
    /// Automatic restarts.
    pub restarts: u32,
    /// The classes of its breaker.
    pub breaker: Vec<Breaker>,
    /// Why its last run ended.
    pub cause: Option<ExitCause>,
    /// How long it is until the next attempt.
    pub next_attempt_in_ms: Option<u64>,
    /// On whose behalf it is down.
    pub down_by: Option<KilledBy>,
    /// What it uses.
    pub usage: Option<Glance>,
}

/// What a line of `ps` shows of a [`Usage`], which is ten times as large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Glance {
    /// `memory.current`.
    pub memory_bytes: Option<u64>,
    /// `usage_usec` of `cpu.stat`.
    pub cpu_usec: Option<u64>,
    /// `pids.current`.
    pub pids: Option<u64>,
}

impl From<Usage> for Glance {
    fn from(Usage { memory_bytes, cpu_usec, pids, .. }: Usage) -> Self {
        Self { memory_bytes, cpu_usec, pids }
    }
}

/// `GET /v1/workers`, for a table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Glimpses {
    /// In the order of their declaration.
    pub workers: Vec<Glimpse>,
}

impl From<&Worker> for Glimpse {
    fn from(worker: &Worker) -> Self {
        Self {
            id: worker.id.clone(),
            state: worker.state,
            detail: worker.detail,
            pid: worker.pid,
            uptime_ms: worker.uptime_ms,
            restarts: worker.restarts,
            breaker: worker.breaker.clone(),
            cause: worker.cause.clone(),
            next_attempt_in_ms: worker.next_attempt_in_ms,
            down_by: worker.down_by,
            usage: worker.usage.map(Into::into),
        }
    }
}

/// One class of a worker's restart breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Breaker {
    /// What its restarts are for.
    pub class: Class,
    /// `closed`, `open`, `half_open`.
    pub state: BreakerState,
    /// Restarts in a row.
    pub attempts: u32,
    /// How many are admitted; absent where there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// When an open one admits a trial; absent where it is not open or waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// How long it is until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_in_ms: Option<u64>,
}

/// What a run uses now. A number that the kernel does not tell here (its controller is missing) is absent, never 0. What stands
/// behind `pids` is read only where it is asked for (`?usage=full`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// `memory.current`: page cache included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// `usage_usec` of `cpu.stat`: since the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// `pids.current`: processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// `memory.peak`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// `memory.max` in force; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// `memory.high` in force; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// `nr_periods` of `cpu.stat`: enforcement periods of `cpu.max` that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_periods: Option<u64>,
    /// `nr_throttled` of `cpu.stat`: periods in which the quota ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled_periods: Option<u64>,
    /// `throttled_usec` of `cpu.stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled_usec: Option<u64>,
    /// `pids.max` in force; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// How long tasks have stalled, since the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressures>,
    /// `rbytes` of `io.stat`, of all devices: one that lies on another counts beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// `wbytes` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_written_bytes: Option<u64>,
    /// `rios` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_reads: Option<u64>,
    /// `wios` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_writes: Option<u64>,
    /// When it was read: microseconds of `CLOCK_MONOTONIC`, which two readings are measured by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_usec: Option<u64>,
}

impl Worker {
    /// `member` as `status` has it, told at `now`.
    #[must_use]
    pub fn new(member: &Member, status: WorkerStatus, now: &Moment) -> Self {
        let breaker = status.breaker.iter().map(|b| Breaker {
            class: b.class,
            state: b.state,
            attempts: b.attempts,
            max_attempts: b.max_attempts,
            until: b.until.map(|at| now.date(at)),
            until_in_ms: b.until.map(|at| now.until_ms(at)),
        });
        let since = now.date(status.since);
        // Mostly it is the same moment, and a date takes ten times as long to write as to copy.
        let started = status.started.map(|at| if at == status.since { since.clone() } else { now.date(at) });
        Self {
            declared_as: member.declared_as.clone(),
            state: status.state,
            detail: status.detail,
            pid: status.pid,
            run: status.run,
            since,
            age_ms: now.since_ms(status.since),
            started,
            uptime_ms: status.started.map(|at| now.since_ms(at)),
            restarts: status.restarts,
            restarts_by: status.restarts_by,
            breaker: breaker.collect(),
            violations: status.violations,
            cause: status.cause,
            next_attempt: status.next_attempt.map(|at| now.date(at)),
            next_attempt_in_ms: status.next_attempt.map(|at| now.until_ms(at)),
            desired_up: status.desired_up,
            down_by: status.down_by,
            down_policy: status.down_policy,
            stuck_on: status.stuck_on,
            desired_generation: status.desired_generation,
            observed_generation: status.observed_generation,
            generation: status.generation,
            usage: None,
            id: status.id,
        }
    }
}
