use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the three probes of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// Whether the program has come up. Until it passes, the other two are not asked.
    Startup,
    /// Whether it still works. Where it fails, a restart helps.
    Liveness,
    /// Whether it can serve now. Where it fails, waiting helps.
    Readiness,
}

impl ProbeKind {
    /// Its word: `probe` of a health event, and the key of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the health monitor of a worker has to say of one run. `observed` is what the probe that decided it saw, at most
/// 256 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthReport {
    /// The startup probe has passed: once in a run, and only where there is one.
    Started {
        /// What was seen.
        observed: String,
    },
    /// The liveness probe has passed: for the first time in the run, or for the first time since it was told to have
    /// failed.
    Alive {
        /// What was seen.
        observed: String,
    },
    /// The startup or the liveness probe has failed `failure_threshold` times in a row.
    Failed {
        /// Which of the two.
        probe: ProbeKind,
        /// What was seen.
        observed: String,
    },
    /// The readiness probe has passed `success_threshold` times in a row, and had not before.
    Ready {
        /// What was seen.
        observed: String,
    },
    /// The readiness probe has failed `failure_threshold` times in a row, and had not before.
    Unready {
        /// What was seen.
        observed: String,
    },
    /// For reasons of ours a probe could not be carried out `failure_threshold` times in a row: the worker's health is
    /// not known, and nothing may follow from that.
    Untried {
        /// Which.
        probe: ProbeKind,
        /// Why.
        observed: String,
    },
}

impl HealthReport {
    /// Whose outcome it is.
    #[must_use]
    pub const fn probe(&self) -> ProbeKind {
        match self {
            Self::Started { .. } => ProbeKind::Startup,
            Self::Alive { .. } => ProbeKind::Liveness,
            Self::Ready { .. } | Self::Unready { .. } => ProbeKind::Readiness,
            Self::Failed { probe, .. } | Self::Untried { probe, .. } => *probe,
        }
    }

    /// What was seen.
    #[must_use]
    pub fn observed(&self) -> &str {
        match self {
            Self::Started { observed }
            | Self::Alive { observed }
            | Self::Failed { observed, .. }
            | Self::Ready { observed }
            | Self::Unready { observed }
            | Self::Untried { observed, .. } => observed,
        }
    }
}

/// The answer to a [`HealthReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthVerdict {
    /// Nothing follows: the answer to everything but [`HealthReport::Failed`].
    Noted,
    /// A restart is under way, or due.
    Restarting,
    /// There will be none, and why.
    Refused(String),
    /// There will be none yet: the run is younger than `startup_grace_period`.
    Muted,
}
