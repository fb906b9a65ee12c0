use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What waitid(2) said of a dead process: `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this code, 0 to 255.
    Exited {
        /// The code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's number, real-time signals (32 to 64) included.
        signal: i32,
        /// Whether the kernel wrote a core dump (`CLD_DUMPED`).
        core: bool,
    },
}

/// Why a run ended. Every run has exactly one, decided once (`policy::cause`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitCause {
    /// It ended by itself with a code.
    Exited {
        /// The code, 0 to 255.
        code: i32,
    },
    /// A signal that nobody here sent, and that is not SIGKILL.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
    },
    /// The kernel's OOM killer.
    Oom {
        /// Whose memory had run out.
        scope: OomScope,
    },
    /// We ended it.
    Killed {
        /// On whose behalf.
        by: KilledBy,
        /// With `by: policy`, the resource whose policy it was (`memory`, `cpu`, `pids`, …).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<String>,
    },
    /// A SIGKILL that neither the kernel's counters nor we account for: somebody else on this host.
    KilledExternal,
    /// It never ran.
    StartFailed {
        /// The step that failed, as in [`super::Stage`].
        stage: super::Stage,
        /// The kernel's error number; 0 where the refusal was ours.
        errno: i32,
    },
    /// Nobody can know.
    Unknown {
        /// What keeps it from being known.
        why: UnknownWhy,
    },
}

/// Whose memory limit an OOM kill enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OomScope {
    /// The worker's own `memory.max`.
    Worker,
    /// A limit of a cgroup above it.
    Ancestor,
    /// The host ran out.
    Host,
}

/// On whose behalf we ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KilledBy {
    /// A requested stop, within its timeout.
    Stop,
    /// A requested stop, killed when its timeout had passed.
    StopTimeout,
    /// A requested kill.
    Operator,
    /// The supervisor is going down.
    Shutdown,
    /// A limit's policy.
    Policy,
}

/// What keeps a cause from being known. Never turned into a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownWhy {
    /// It ended while no keeper and no supervisor lived.
    SupervisorAway,
    /// Its cgroup was removed underneath us.
    CgroupRemoved,
    /// The host was restarted.
    HostRebooted,
}

/// How sure a cause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The evidence allows no other reading.
    Certain,
    /// The kernel cannot tell it from another cause (a child's OOM and a foreign SIGKILL within one read).
    Likely,
}

impl ExitCause {
    /// `kind` of its JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signaled { .. } => "signaled",
            Self::Oom { .. } => "oom",
            Self::Killed { .. } => "killed",
            Self::KilledExternal => "killed_external",
            Self::StartFailed { .. } => "start_failed",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl fmt::Display for ExitCause {
    /// As a person reads it in the CAUSE column: `exited 3`, `oom`, `killed by stop`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited {code}"),
            Self::Signaled { signal, core } => {
                write!(f, "{}", signal_name(*signal))?;
                if *core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Oom { scope: OomScope::Worker } => f.write_str("oom"),
            Self::Oom { scope: OomScope::Ancestor } => f.write_str("oom of an ancestor"),
            Self::Oom { scope: OomScope::Host } => f.write_str("oom of the host"),
            Self::Killed { by: KilledBy::Policy, policy } => {
                write!(f, "killed by {} policy", policy.as_deref().unwrap_or("a"))
            }
            Self::Killed { by, .. } => f.write_str(match by {
                KilledBy::Stop => "stopped",
                KilledBy::StopTimeout => "killed at the stop timeout",
                KilledBy::Operator => "killed by operator",
                KilledBy::Shutdown => "stopped at shutdown",
                KilledBy::Policy => unreachable!("matched above"),
            }),
            Self::KilledExternal => f.write_str("killed from outside"),
            Self::StartFailed { stage, errno } => {
                write!(f, "start failed: {stage}")?;
                if *errno == 0 { Ok(()) } else { write!(f, ": {}", super::start_error::errno_text(*errno)) }
            }
            Self::Unknown { why } => f.write_str(match why {
                UnknownWhy::SupervisorAway => "unknown: ended while the supervisor was away",
                UnknownWhy::CgroupRemoved => "unknown: its cgroup was removed",
                UnknownWhy::HostRebooted => "unknown: the host was restarted",
            }),
        }
    }
}

/// `SIGTERM`, `SIGRTMIN+3`: signal(7)'s spelling, numbers as this architecture has them.
#[must_use]
pub(super) fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        // glibc's SIGRTMIN is 34: it keeps 32 and 33 for its threads, signal(7).
        Err(_) if (34..=64).contains(&signal) => match signal - 34 {
            0 => "SIGRTMIN".to_owned(),
            n => format!("SIGRTMIN+{n}"),
        },
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_the_json_that_the_interface_promises() {
        let json = |c: &ExitCause| serde_json::to_string(c).unwrap();
        assert_eq!(json(&ExitCause::Oom { scope: OomScope::Worker }), r#"{"kind":"oom","scope":"worker"}"#);
        assert_eq!(json(&ExitCause::Exited { code: 3 }), r#"{"kind":"exited","code":3}"#);
        assert_eq!(
            json(&ExitCause::Killed { by: KilledBy::Policy, policy: Some("pids".into()) }),
            r#"{"kind":"killed","by":"policy","policy":"pids"}"#
        );
        assert_eq!(
            json(&ExitCause::Killed { by: KilledBy::StopTimeout, policy: None }),
            r#"{"kind":"killed","by":"stop_timeout"}"#
        );
        assert_eq!(json(&ExitCause::KilledExternal), r#"{"kind":"killed_external"}"#);
    }

    #[test]
    fn real_time_signals_have_names() {
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(34), "SIGRTMIN");
        assert_eq!(signal_name(40), "SIGRTMIN+6");
        assert_eq!(signal_name(33), "signal 33");
    }
}
