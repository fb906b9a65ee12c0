//! Errors, for programs and for people.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settled;
use crate::manager::handle::Refusal;

/// An error: RFC 9457, `application/problem+json`. Its `type` is left out, which means `about:blank`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No such worker, or no such path.
    NotFound,
    /// The worker has had no run of this number.
    NoSuchRun,
    /// The request is not understood.
    BadRequest,
    /// Not with this path.
    MethodNotAllowed,
    /// Who asks may not.
    NotPermitted,
    /// The body is larger than [`MAX_BODY`](crate::api::MAX_BODY).
    TooLarge,
    /// The body is said to be something other than JSON.
    UnsupportedMediaType,
    /// The body did not come in time.
    TooSlow,
    /// Something else was asked under the same `Idempotency-Key`.
    IdempotencyMismatch,
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
    /// It is declared elsewhere: in the configuration, or as one of several instances.
    Declared,
    /// Processes of it survive SIGKILL.
    Unkillable,
    /// It was not done in time, and goes on.
    TimedOut,
    /// It failed in another way, or several workers failed in different ways.
    Failed,
    /// One that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Something that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl Code {
    pub(in super::super) fn of(refusal: &Refusal) -> Self {
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
            Self::NotFound | Self::NoSuchRun => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::BreakerOpen
            | Self::NotRunning
            | Self::NotNow
            | Self::Superseded
            | Self::Unkillable
            | Self::LimitRefused
            | Self::Busy
            | Self::Taken
            | Self::Declared => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::StartFailed | Self::Ended | Self::BadConfig | Self::IdempotencyMismatch => 422,
            Self::Failed | Self::Unknown => 500,
            Self::TooManyConnections | Self::GoingDown => 503,
            Self::TimedOut => 504,
        }
    }
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
