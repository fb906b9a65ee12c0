//! What can be ordered, and what came of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::extract::DURATION;
use super::{Code, Step};
use crate::manager::handle::{Member, Outcome};
use crate::model::{self, Detail, State, WorkerId, WorkerStatus};

/// The body of `POST /v1/workers/{pattern}/{start|stop|restart|kill|signal|reset|freeze|thaw}`. None at all is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// Whether the answer comes when it is done, or when every worker has taken notice.
    pub wait: bool,
    /// How long the answer may take: `500ms`, `30s`, `1m30s`. What is asked goes on afterwards.
    #[schemars(regex(pattern = DURATION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// `restart`: also while the restart breaker is open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// `signal`: which, by name or number (`HUP`, `SIGUSR1`, `RTMIN+3`, `10`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// What came of it, for each worker in the order of their declaration. A [`Problem`](super::Problem) has the same where something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// Them.
    pub results: Vec<Settled>,
}

/// What came of it for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It is done.
    Done,
    /// It is under way.
    Accepted,
    /// It was refused, failed or took too long.
    Failed,
}

/// The answer to `POST /v1/reload`: what `POST /v1/plan` would have told, with what came of each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The steps in the order in which they were carried out.
    pub steps: Vec<Carried>,
    /// The workers that nothing was done about, because nothing of them has changed.
    pub untouched: Vec<WorkerId>,
}

/// A step that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instances {
    /// How many.
    pub instances: usize,
}

/// The body of `PATCH /v1/workers/{name}/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetLimits {
    /// Keys below `unit.limits`, like `memory.max_rss`, with their values as in a configuration; `max` takes a limit off.
    #[schemars(extend("minProperties" = 1))]
    pub limits: BTreeMap<String, String>,
    /// For how long (`10m`); without it for the present run.
    #[schemars(regex(pattern = DURATION))]
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_: Option<String>,
    /// Also for every later run, and across reloads and supervisors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub persist: bool,
}

/// The body of `POST /v1/shutdown`. None at all is the default. The answer is [`Results`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Whether the answer comes when every worker is stopped, or at once.
    pub wait: bool,
    /// How long the answer may take: `500ms`, `30s`, `1m30s`. What is asked goes on afterwards.
    #[schemars(regex(pattern = DURATION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// `POST /v1/reexec`: the binary is good, and takes over next. The supervisor that has answered ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reexec {
    /// Where it is.
    pub binary: String,
    /// Its version.
    pub version: String,
    /// That of the one that runs.
    pub replaces: String,
    /// The supervisor that ends.
    pub pid: u32,
    /// How often the binary was replaced before: [`Health::reexecs`](super::Health::reexecs) is greater by one when it is done.
    pub reexecs: u32,
}

impl Default for Ask {
    fn default() -> Self {
        Self { wait: true, timeout: None, force: false, signal: None }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { wait: true, timeout: None }
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
                let held_up = status.stuck_on.as_ref().map(|what| format!("; {what}")).unwrap_or_default();
                let so_far = format!("not done in time: it is {}, and goes on{held_up}", said(&status));
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
