//! What has become of a worker's runs: why the last one ended, which ones are remembered, what they wrote.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::moment::millis;
use super::Worker;
use crate::model::{Begun, Confidence, Event, ExitCause, Story, Stream, WorkerId};
use crate::spec::types::Spec;
use crate::store;

/// `GET /v1/workers/{id}/why`: the last end, what led to it and what was decided. Each event is as in the event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// `GET /v1/history?worker=ID`: the runs of a worker that are remembered, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Whose.
    pub worker: WorkerId,
    /// Them.
    pub runs: Vec<PastRun>,
}

/// One run, as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastRun {
    /// Its number.
    pub run: u32,
    /// What began it: `start`, or what the run before it was followed for. Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Begun>,
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

/// A line of `GET /v1/workers/{id}/logs?format=json`: a line of the worker's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// With `cursors`: where it ends in its stream. Without a line: from where on the stream is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl LogLine {
    /// Of this stream of this run, and with nothing in it.
    #[must_use]
    pub const fn of(run: u32, stream: Stream) -> Self {
        Self { time: None, run, stream, line: None, base64: None, partial: false, missed_files: None, cursor: None }
    }
}

impl Why {
    /// What `story` tells of the worker, which is as `worker` says now. `stderr` is where the output of a run goes.
    #[must_use]
    pub fn new(worker: Worker, story: &Story, limits: Limits, stderr: impl FnOnce(u32) -> String) -> Self {
        let run = story.exited.as_ref().and_then(|event| event.run);
        Self {
            worker,
            exited: story.exited.as_deref().cloned(),
            usage: story.usage.as_deref().cloned(),
            violations: story.violations.clone(),
            health: story.health.as_deref().cloned(),
            decisions: story.decisions.clone(),
            breaker: story.breaker.as_deref().cloned(),
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

impl From<store::Run> for PastRun {
    fn from(run: store::Run) -> Self {
        let ended = run.ended.as_ref().map(|ended| ended.at);
        let lasted = run.started.zip(ended).map(|(from, to)| to.duration_since(from).unsigned_abs());
        Self {
            run: run.number,
            trigger: run.begun,
            pid: run.pid,
            started: run.started.map(|at| format!("{at:.3}")),
            ended: ended.map(|at| format!("{at:.3}")),
            lasted_ms: lasted.map(millis),
            confidence: run.ended.as_ref().map(|ended| ended.confidence),
            cause: run.ended.map(|ended| ended.cause),
        }
    }
}
