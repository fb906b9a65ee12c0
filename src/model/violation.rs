use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A configured limit that can be violated, by the kernel file that enforces or reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Limit {
    /// `memory.max`: the OOM killer took a process.
    #[serde(rename = "memory.max")]
    MemoryMax,
    /// `memory.high`: anon and shmem memory are above it.
    #[serde(rename = "memory.high")]
    MemoryHigh,
    /// `cpu.max`: throttled in a large share of periods for a while.
    #[serde(rename = "cpu.max")]
    CpuMax,
    /// `cpu.max_time`: the run has used so much CPU time in all.
    #[serde(rename = "cpu.max_time")]
    CpuTime,
    /// `pids.max`: a fork was refused.
    #[serde(rename = "pids.max")]
    PidsMax,
    /// `io.max`: tasks stall on disks.
    #[serde(rename = "io.max")]
    IoMax,
    /// A configured trigger on `memory.pressure`.
    #[serde(rename = "memory.pressure")]
    MemoryPressure,
    /// A configured trigger on `cpu.pressure`.
    #[serde(rename = "cpu.pressure")]
    CpuPressure,
    /// A configured trigger on `io.pressure`.
    #[serde(rename = "io.pressure")]
    IoPressure,
}

impl Limit {
    /// Every limit there is.
    pub const ALL: [Self; 9] = [
        Self::MemoryMax,
        Self::MemoryHigh,
        Self::CpuMax,
        Self::CpuTime,
        Self::PidsMax,
        Self::IoMax,
        Self::MemoryPressure,
        Self::CpuPressure,
        Self::IoPressure,
    ];

    /// The kernel's file, or the config's key where the kernel has none.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemoryMax => "memory.max",
            Self::MemoryHigh => "memory.high",
            Self::CpuMax => "cpu.max",
            Self::CpuTime => "cpu.max_time",
            Self::PidsMax => "pids.max",
            Self::IoMax => "io.max",
            Self::MemoryPressure => "memory.pressure",
            Self::CpuPressure => "cpu.pressure",
            Self::IoPressure => "io.pressure",
        }
    }

    /// The resource it is a limit of: `resource` of a violation event.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::MemoryMax | Self::MemoryHigh | Self::MemoryPressure => "memory",
            Self::CpuMax | Self::CpuTime | Self::CpuPressure => "cpu",
            Self::PidsMax => "pids",
            Self::IoMax | Self::IoPressure => "io",
        }
    }

    /// Under which name its policy ends a run: `policy` of `killed{by: policy}`.
    #[must_use]
    pub const fn policy(self) -> PolicyName {
        match self {
            Self::MemoryMax | Self::MemoryHigh => PolicyName::Memory,
            Self::CpuMax | Self::CpuTime => PolicyName::Cpu,
            Self::PidsMax => PolicyName::Pids,
            Self::IoMax => PolicyName::Io,
            Self::MemoryPressure => PolicyName::MemoryPressure,
            Self::CpuPressure => PolicyName::CpuPressure,
            Self::IoPressure => PolicyName::IoPressure,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose policy ended a run, beside `by: policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the config's own")]
pub enum PolicyName {
    Memory,
    Cpu,
    Pids,
    Io,
    MemoryPressure,
    CpuPressure,
    IoPressure,
    /// A health check.
    Health,
}

impl PolicyName {
    /// The name as it is serialised.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::MemoryPressure => "memory_pressure",
            Self::CpuPressure => "cpu_pressure",
            Self::IoPressure => "io_pressure",
            Self::Health => "health",
        }
    }
}

/// How bad a violation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A tripwire or a pressure: nothing was refused yet.
    Warning,
    /// A hard limit acted.
    Critical,
    /// Nothing of ours is so bad; for users of the library.
    Emergency,
}

impl Severity {
    /// The config's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }
}

/// One breach of a limit, from when it is noticed until it has recovered: an episode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which limit.
    pub limit: Limit,
    /// How bad.
    pub severity: Severity,
    /// What was seen, in words with the kernel's names and numbers.
    pub observed: String,
    /// What is configured, in words: `256 MiB`, `75 %`.
    pub configured: String,
}

/// Which budget of the restart breaker a restart is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A run ended by itself or could not start.
    Exit,
    /// A health check failed.
    Health,
    /// A limit was violated.
    Violation,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exit, Self::Health, Self::Violation];

    /// The class's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Health => "health",
            Self::Violation => "violation",
        }
    }
}

/// The state of one class of the restart breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Restarts are admitted.
    #[default]
    Closed,
    /// None is.
    Open,
    /// One was admitted, to try; how it goes decides.
    HalfOpen,
}

impl BreakerState {
    /// The state's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_same_in_json_and_in_text() {
        let json = |v: &dyn erased::Json| v.json();
        for limit in Limit::ALL {
            assert_eq!(json(&limit), format!("\"{}\"", limit.as_str()));
            assert_eq!(json(&limit.policy()), format!("\"{}\"", limit.policy().as_str()));
        }
        for class in Class::ALL {
            assert_eq!(json(&class), format!("\"{}\"", class.as_str()));
        }
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            assert_eq!(json(&state), format!("\"{}\"", state.as_str()));
        }
        for severity in [Severity::Warning, Severity::Critical, Severity::Emergency] {
            assert_eq!(json(&severity), format!("\"{}\"", severity.as_str()));
        }
    }

    mod erased {
        pub(super) trait Json {
            fn json(&self) -> String;
        }
        impl<T: serde::Serialize> Json for T {
            fn json(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }
}
