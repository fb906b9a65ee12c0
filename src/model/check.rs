use std::fmt;

use serde::{Deserialize, Serialize};

/// One fact about the host, judged: a line of `pinfold doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it is about, in a word: `memory`, `place`.
    pub name: String,
    /// How it is.
    pub verdict: Soundness,
    /// The fact.
    pub fact: String,
    /// What it costs the user. `None` where nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The command, boot option or drop-in that mends it. `None` where nothing does, or nothing need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Whether nothing can be run without it.
    pub required: bool,
}

/// How a fact of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Soundness {
    /// As it should be.
    Ok,
    /// It works, and costs something.
    Degraded,
    /// It is not there.
    Missing,
}

impl Check {
    /// Whether nothing can be run because of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.required && self.verdict == Soundness::Missing
    }
}

impl fmt::Display for Soundness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        })
    }
}
