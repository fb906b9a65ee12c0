use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The step of a start that failed, in the order they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Looking up `user` or `group`, or their supplementary groups.
    User,
    /// Reading a file of `env_file`.
    EnvFile,
    /// Making the run's cgroup.
    Cgroup,
    /// Writing a limit, or reading it back as it was written.
    Limit,
    /// Opening log files, pipes or a standard stream.
    Stdio,
    /// clone3(2).
    Clone,
    /// Moving the child by `cgroup.procs`, and checking that it is where it belongs.
    Membership,
    /// setsid(2) or setpgid(2).
    Session,
    /// Signal dispositions and mask.
    Signals,
    /// setrlimit(2).
    Rlimit,
    /// `/proc/self/oom_score_adj`.
    OomScoreAdj,
    /// setpriority(2).
    Nice,
    /// setgroups(2).
    Groups,
    /// setresgid(2).
    Gid,
    /// setresuid(2).
    Uid,
    /// Clearing inheritable and ambient capabilities.
    Capabilities,
    /// chdir(2) to `working_directory`, as the worker's user.
    Chdir,
    /// `close_range(2)`: no descriptor but 0, 1 and 2 survives.
    CloseRange,
    /// execve(2).
    Exec,
    /// The child was killed before it could try to exec: a fault of ours or of the host, no strike.
    Spawn,
    /// No answer within the deadline.
    Timeout,
    /// The keeper refused or could not be asked.
    Keeper,
}

/// How a run is launched into its cgroup, as far as whoever asks for it can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The one that the keeper has found to work here.
    #[default]
    Usual,
    /// The other one: the run before was lost at birth, and nobody had killed it ([`Stage::Spawn`]).
    Other,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::EnvFile => "env_file",
            Self::Cgroup => "cgroup",
            Self::Limit => "limit",
            Self::Stdio => "stdio",
            Self::Clone => "clone",
            Self::Membership => "membership",
            Self::Session => "session",
            Self::Signals => "signals",
            Self::Rlimit => "rlimit",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Nice => "nice",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::Chdir => "chdir",
            Self::CloseRange => "close_range",
            Self::Exec => "exec",
            Self::Spawn => "spawn",
            Self::Timeout => "timeout",
            Self::Keeper => "keeper",
        })
    }
}

/// A start that failed: the step, its object and the kernel's error. Printed as
/// `chdir /srv: No such file or directory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartError {
    /// The step.
    pub stage: Stage,
    /// The kernel's error number (errno(3)); 0 where the refusal is ours and `what` says all.
    pub errno: i32,
    /// What the step was about: a path, a user, a limit's file, or a whole sentence.
    pub what: String,
}

impl StartError {
    /// A step that the kernel refused.
    pub fn os(stage: Stage, what: impl Into<String>, errno: i32) -> Self {
        Self { stage, errno, what: what.into() }
    }

    /// A refusal of our own; `sentence` says why and what to do.
    pub fn refused(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { stage, errno: 0, what: sentence.into() }
    }

    /// Somebody wished otherwise before there was a child.
    #[must_use]
    pub fn called_off() -> Self {
        Self::refused(Stage::Spawn, "called off before it was launched")
    }

    /// Whether it is no fault of the worker or its configuration: never a strike, and the next run is launched the
    /// other [`Way`] into its cgroup.
    #[must_use]
    pub fn is_spawn_fault(&self) -> bool {
        self.stage == Stage::Spawn
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        match (self.what.as_str(), self.errno) {
            ("", 0) => Ok(()),
            ("", errno) => write!(f, ": {}", errno_text(errno)),
            (what, 0) => write!(f, ": {what}"),
            (what, errno) => write!(f, " {what}: {}", errno_text(errno)),
        }
    }
}

impl std::error::Error for StartError {}

/// strerror(3)'s text.
pub(super) fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // std appends " (os error 2)", which says nothing to a person.
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_names_step_object_and_reason() {
        let err = StartError::os(Stage::Chdir, "/srv", nix::libc::ENOENT);
        assert_eq!(err.to_string(), "chdir /srv: No such file or directory");
        let err = StartError::refused(Stage::Limit, "memory.max needs the memory controller");
        assert_eq!(err.to_string(), "limit: memory.max needs the memory controller");
    }
}
