//! What a child does between clone and exec, as data: made by the supervisor (or `run`), carried out by the child.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Everything a launch needs but its descriptors (cgroup directory, stdin, stdout, stderr).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Name of the run's cgroup directory: where the child must find itself.
    pub cgroup_name: String,
    /// Files to try to execute, in this order: one, or one for each entry of the worker's `PATH`.
    pub candidates: Vec<ByteBuf>,
    /// Arguments, the zeroth included. No NUL inside.
    pub argv: Vec<ByteBuf>,
    /// `K=V`. No NUL inside.
    pub env: Vec<ByteBuf>,
    /// chdir(2) target, entered as the worker's user.
    pub working_directory: ByteBuf,
    /// Credentials to take on; `None` keeps ours.
    pub ids: Option<Ids>,
    /// umask(2).
    pub umask: u32,
    /// setrlimit(2).
    pub rlimits: Vec<Rlimit>,
    /// setpriority(2); `None` leaves it.
    pub nice: Option<i32>,
    /// Written to `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// The relation to sessions and terminals.
    pub session: Session,
}

/// Numeric credentials: looked up before, because the look-up can block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, the whole list.
    pub groups: Vec<u32>,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_…`, the kernel's number.
    pub resource: u32,
    /// What is in force; `u64::MAX` is infinity.
    pub soft: u64,
    /// How far the program may raise it.
    pub hard: u64,
}

/// The child's relation to sessions and terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Session {
    /// setsid(2): a worker.
    New,
    /// An own process group, made the terminal's foreground group: `run` on a terminal, so that Ctrl-C and
    /// Ctrl-Z are the command's.
    Foreground,
    /// An own process group, no terminal involved: `run` without one.
    Group,
    /// Our own process group: `run` as part of a shell's pipeline on a terminal, whose members the terminal and the
    /// shell address as one.
    Shared,
}
