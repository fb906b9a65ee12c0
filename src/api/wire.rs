//! What goes over the socket, as JSON. Scripts and other programs depend on these shapes: add to them freely, break them
//! never. Causes, evidence and events are those of the event stream ([`crate::model`]).
//!
//! Moments are RFC 3339 in UTC with milliseconds, and where a program would only subtract them from its own clock there
//! is the length of time beside them: milliseconds where the name says `ms`, microseconds where it says `usec`. What is
//! not known, or does not apply, is absent.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::moment::{Moment, millis};
use crate::history::SinkHealth;
pub use crate::manager::diff::{Plan, Step};
use crate::manager::handle::{Member, Outcome, Refusal};
use crate::model::{
    self, BreakerState, Class, Confidence, Detail, Event, ExitCause, KilledBy, Limit, PolicyName, RestartCounts, State,
    Story, Stream, WorkerId, WorkerStatus,
};
use crate::spec::types::Spec;
use crate::store;

/// `GET /v1/workers`: in the order of their declaration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// Them.
    pub workers: Vec<Worker>,
}

/// One worker, as it was published last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What keeps it from ending, while it is `stopping(unkillable)`.
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
    /// What it uses now; only where it was asked for (`?usage=true`) and it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One class of a worker's restart breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a run uses now. A number that the kernel does not tell here (its controller is missing) is absent, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
}

/// A line of `GET /v1/workers/{id}/logs?format=json`: a line of the worker's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it began to come, to a tenth of a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Which run wrote it.
    pub run: u32,
    /// To where.
    pub stream: Stream,
    /// What it says, without its end; absent where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The same where it is not UTF-8 (RFC 4648, with padding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Whether no end of a line follows: what comes next of the stream is the same line, or its run has ended with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// No line: so many files were removed by the quota before they could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_files: Option<u32>,
}

/// `GET /v1/workers/{id}/why`: the last end, what led to it and what was decided. Each event is as in the event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The worker as it is now.
    pub worker: Worker,
    /// Its `exited` event; absent where no run of it has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited: Option<Event>,
    /// What that run had used, read when its cgroup was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Event>,
    /// Its violations, in their order; the last few of many.
    pub violations: Vec<Event>,
    /// The last verdict of a health check about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Event>,
    /// What was decided, the last decision last.
    pub decisions: Vec<Event>,
    /// The last change of the restart breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Event>,
    /// What it is held to.
    pub limits: Limits,
    /// Where its last run's stderr is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

/// What a worker is held to, as far as an end can be about it. Absent: not configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `limits.memory.max_rss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// `limits.memory.high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// `limits.cpu.max_percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max_percent: Option<f64>,
    /// `limits.cpu.max_time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max_time_ms: Option<u64>,
    /// `limits.pids.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// `stop.signal`.
    pub stop_signal: i32,
    /// `stop.timeout`.
    pub stop_timeout_ms: u64,
}

/// The body of `POST /v1/workers/{pattern}/{start|stop|restart|kill|signal|reset}`. None at all is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// Whether the answer comes when it is done, or when every worker has taken notice.
    pub wait: bool,
    /// How long the answer may take: `500ms`, `30s`, `1m30s`. What is asked goes on afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// `restart`: also while the restart breaker is open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// `signal`: which, by name or number (`HUP`, `SIGUSR1`, `RTMIN+3`, `10`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// What came of it, for each worker in the order of their declaration. A [`Problem`] has the same where something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// Them.
    pub results: Vec<Settled>,
}

/// What came of it for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Which.
    pub worker: WorkerId,
    /// In a word.
    pub outcome: Word,
    /// With `failed`: why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// With `failed`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its state now.
    pub state: State,
    /// The finer word.
    pub detail: Detail,
    /// Its main process now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The number of its current or last run.
    pub run: u32,
}

/// The answer to `POST /v1/reload`: what `POST /v1/plan` would have told, with what came of each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The steps in the order in which they were carried out.
    pub steps: Vec<Carried>,
    /// The workers that nothing was done about, because nothing of them has changed.
    pub untouched: Vec<WorkerId>,
}

/// A step that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// What came of it.
    pub outcome: Word,
    /// With `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The body of `PUT /v1/workers/{name}/instances`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instances {
    /// How many.
    pub instances: usize,
}

/// The body of `PATCH /v1/workers/{name}/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SetLimits {
    /// Keys below `unit.limits`, like `memory.max_rss`, with their values as in a configuration; `max` takes a limit off.
    pub limits: BTreeMap<String, String>,
    /// For how long (`10m`); without it for the present run.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_: Option<String>,
    /// Also for every later run, and across reloads and supervisors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub persist: bool,
}

/// Something that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// The file.
    pub file: String,
    /// Its line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// The keys that lead there; empty at the top of a file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It is done.
    Done,
    /// It is under way.
    Accepted,
    /// It was refused, failed or took too long.
    Failed,
}

/// `GET /v1/health`: that there is an answer says that the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`; `degraded` while the store is; `going_down` while every worker is being stopped.
    pub status: String,
    /// Of pinfold.
    pub version: String,
    /// The supervisor's process.
    pub pid: u32,
    /// For how long the API has been answering.
    pub uptime_ms: u64,
    /// How many workers there are.
    pub workers: usize,
    /// How many of them run.
    pub running: usize,
    /// How the store does.
    pub store: StoreHealth,
    /// How each history sink is, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<SinkHealth>,
    /// How often the binary was replaced since `up`.
    #[serde(default)]
    pub reexecs: u32,
    /// Why the supervisor before this one has ended, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Whether what outlives the supervisor gets where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreHealth {
    /// `ok`, or `degraded`: what happens is kept in memory until the store can be written.
    pub status: String,
    /// Why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Of how many workers something waits to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<usize>,
    /// How many starts and exits of runs had no room in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

impl From<&store::Health> for StoreHealth {
    fn from(health: &store::Health) -> Self {
        match health {
            store::Health::Ok { .. } => {
                Self { status: "ok".to_owned(), why: None, since: None, pending: None, lost: None }
            }
            store::Health::Degraded { why, since, pending, lost } => Self {
                status: "degraded".to_owned(),
                why: Some(why.clone()),
                since: Some(format!("{since:.3}")),
                pending: Some(*pending),
                lost: Some(*lost),
            },
        }
    }
}

/// `GET /v1/history?worker=ID`: the runs of a worker that are remembered, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Whose.
    pub worker: WorkerId,
    /// Them.
    pub runs: Vec<PastRun>,
}

/// One run, as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRun {
    /// Its number.
    pub run: u32,
    /// Its main process; absent where its program never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When its program began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended; absent while it runs, or where nobody saw its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How long it ran, by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<ExitCause>,
    /// How sure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

impl From<store::Run> for PastRun {
    fn from(run: store::Run) -> Self {
        let ended = run.ended.as_ref().map(|ended| ended.at);
        let lasted = run.started.zip(ended).map(|(from, to)| to.duration_since(from).unsigned_abs());
        Self {
            run: run.number,
            pid: run.pid,
            started: run.started.map(|at| format!("{at:.3}")),
            ended: ended.map(|at| format!("{at:.3}")),
            lasted_ms: lasted.map(millis),
            confidence: run.ended.as_ref().map(|ended| ended.confidence),
            cause: run.ended.map(|ended| ended.cause),
        }
    }
}

/// What `GET /v1/events` says about the stream itself, between events: a line of JSON that has `marker`, or a
/// server-sent event of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// What it is about.
    pub marker: MarkerWord,
    /// In words.
    pub what: String,
    /// How many events are missing here, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// What a [`Marker`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerWord {
    /// At the beginning: not all that was asked for is kept.
    Gap,
    /// The last: who reads was too slow, and is let go.
    Lagged,
    /// The last: the supervisor has ended.
    End,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl MarkerWord {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Lagged => "lagged",
            Self::End => "end",
            Self::Unknown => "unknown",
        }
    }
}

/// `POST /v1/reexec`: the binary is good, and takes over next. The supervisor that has answered ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reexec {
    /// Where it is.
    pub binary: String,
    /// Its version.
    pub version: String,
    /// That of the one that runs.
    pub replaces: String,
    /// The supervisor that ends.
    pub pid: u32,
    /// How often the binary was replaced before: [`Health::reexecs`] is greater by one when it is done.
    pub reexecs: u32,
}

/// An error: RFC 9457, `application/problem+json`. Its `type` is left out, which means `about:blank`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong and what to do, for people.
    pub detail: String,
    /// Where workers were asked: what came of it for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Settled>,
    /// Where a configuration was read: everything that is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Wrong>,
}

/// What is wrong. A program may meet one that it does not know: new ones are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No such worker, or no such path.
    NotFound,
    /// The request is not understood.
    BadRequest,
    /// Not with this path.
    MethodNotAllowed,
    /// Who asks may not.
    NotPermitted,
    /// The body is larger than [`super::MAX_BODY`].
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// More connections than are served at once.
    TooManyConnections,
    /// Nothing is started any more.
    GoingDown,
    /// The restart breaker is open.
    BreakerOpen,
    /// There is no main process.
    NotRunning,
    /// It could not be started.
    StartFailed,
    /// It ran, and has ended already; no run follows by its restart policy.
    Ended,
    /// It is not the time for it.
    NotNow,
    /// It was asked for the opposite meanwhile.
    Superseded,
    /// The limits cannot be changed so while it runs.
    LimitRefused,
    /// Another change is under way.
    Busy,
    /// The configuration has problems.
    BadConfig,
    /// The name is another worker's.
    Taken,
    /// Processes of it survive SIGKILL.
    Unkillable,
    /// It was not done in time, and goes on.
    TimedOut,
    /// It failed in another way, or several workers failed in different ways.
    Failed,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, path, message, fix } = self;
        f.write_str(file)?;
        if *line > 0 {
            write!(f, ":{line}:{column}")?;
        }
        if !path.is_empty() {
            write!(f, ": {path}")?;
        }
        write!(f, ": {message}; {fix}")
    }
}

impl Default for Ask {
    fn default() -> Self {
        Self { wait: true, timeout: None, force: false, signal: None }
    }
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
        Self {
            declared_as: member.declared_as.clone(),
            state: status.state,
            detail: status.detail,
            pid: status.pid,
            run: status.run,
            since: now.date(status.since),
            age_ms: now.since_ms(status.since),
            started: status.started.map(|at| now.date(at)),
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

impl Why {
    /// What `story` tells of the worker, which is as `worker` says now. `stderr` is where the output of a run goes.
    #[must_use]
    pub fn new(worker: Worker, story: &Story, limits: Limits, stderr: impl FnOnce(u32) -> String) -> Self {
        let run = story.exited.as_ref().and_then(|event| event.run);
        Self {
            worker,
            exited: story.exited.clone(),
            usage: story.usage.clone(),
            violations: story.violations.clone(),
            health: story.health.clone(),
            decisions: story.decisions.clone(),
            breaker: story.breaker.clone(),
            limits,
            stderr: run.map(stderr),
        }
    }
}

impl From<&Spec> for Limits {
    fn from(spec: &Spec) -> Self {
        Self {
            memory_max_bytes: spec.limits.memory.max,
            memory_high_bytes: spec.limits.memory.high,
            cpu_max_percent: spec.limits.cpu.max_percent,
            cpu_max_time_ms: spec.limits.cpu.max_time.map(millis),
            pids_max: spec.limits.pids.max,
            stop_signal: spec.stop.signal,
            stop_timeout_ms: millis(spec.stop.timeout),
        }
    }
}

impl Settled {
    /// What came of it for `member`, and how it stands.
    #[must_use]
    pub fn new(member: &Member, outcome: &Outcome) -> Self {
        let status = member.worker.status();
        let (outcome, code, error) = match outcome {
            Outcome::Done => (Word::Done, None, None),
            Outcome::Accepted => (Word::Accepted, None, None),
            Outcome::TimedOut => {
                let so_far = format!("not done in time: it is {}, and goes on", said(&status));
                (Word::Failed, Some(Code::TimedOut), Some(so_far))
            }
            Outcome::Refused(why) => (Word::Failed, Some(Code::of(why)), Some(model::chain(why))),
            Outcome::Gone => {
                let why = "its supervisor has ended, or is being replaced: ask again";
                (Word::Failed, Some(Code::NotNow), Some(why.into()))
            }
        };
        Self {
            worker: status.id,
            outcome,
            code,
            error,
            state: status.state,
            detail: status.detail,
            pid: status.pid,
            run: status.run,
        }
    }
}

fn said(status: &WorkerStatus) -> String {
    format!("{} ({})", status.state.as_str(), status.detail.as_str())
}

impl Code {
    pub(super) fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::StartFailed(_) => Self::StartFailed,
            Refusal::BreakerOpen { .. } => Self::BreakerOpen,
            Refusal::NotRunning => Self::NotRunning,
            Refusal::Ended => Self::Ended,
            Refusal::NotNow(_) => Self::NotNow,
            Refusal::Superseded => Self::Superseded,
            Refusal::Unkillable => Self::Unkillable,
            Refusal::Limits(_) => Self::LimitRefused,
            Refusal::Kernel(_) => Self::Failed,
        }
    }

    /// The HTTP status it comes with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::BreakerOpen
            | Self::NotRunning
            | Self::NotNow
            | Self::Superseded
            | Self::Unkillable
            | Self::LimitRefused
            | Self::Busy
            | Self::Taken => 409,
            Self::TooLarge => 413,
            Self::StartFailed | Self::Ended | Self::BadConfig => 422,
            Self::Failed | Self::Unknown => 500,
            Self::TooManyConnections | Self::GoingDown => 503,
            Self::TimedOut => 504,
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
