use super::{AboveReading, Counters, ExitStatus, Limit, RunId, StartError, Stream, Usage};

/// What the kernel (through the keeper, inotify or a read) says of one run. It carries the run, so that news of
/// run 3 can never touch run 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// Whose news.
    pub run: RunId,
    /// The news.
    pub kind: KernelEventKind,
}

/// The news of one run, in the order they come in a plain life:
/// `Launched`, `Counted`…, `Exited`, `Unpopulated`, `Removed`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "wherever one waits it is in a box of its own")]
pub enum KernelEventKind {
    /// Its program runs: exec succeeded.
    Launched {
        /// The main process.
        pid: i32,
    },
    /// It never ran. Its child, if there was one, has been reaped.
    LaunchFailed(StartError),
    /// Its counters were read anew because a notification hinted at a change.
    Counted {
        /// The counters.
        counters: Counters,
        /// Whether a kill of a single process (`oom_kill`) was counted, and the main process was about to die then.
        main_is_dying: bool,
    },
    /// The logger throws output of it away, or has ceased to. Comes of runs that are over, too.
    LogDropped {
        /// Which stream.
        stream: Stream,
        /// Why.
        why: String,
        /// How many bytes they were; absent where it has only begun.
        bytes: Option<u64>,
    },
    /// A pressure trigger set for this limit fired: a reason to look, no proof.
    Pressed(Limit),
    /// Its main process ended and was reaped. The counters were read after the exit and before anything was removed.
    Exited {
        /// waitid(2)'s word; `None` where the process is gone and nobody saw its status.
        status: Option<ExitStatus>,
        /// The counters at its end.
        counters: Counters,
        /// Whether it left processes behind in its cgroup, as was read after its end.
        populated: bool,
        /// What is above it, where an OOM kill came from there.
        above: Option<Box<AboveReading>>,
    },
    /// `populated 0`: not one process is left in its cgroup. Comes after `Exited` or `LaunchFailed`, never before.
    Unpopulated {
        /// The totals, read last.
        usage: Usage,
        /// The counters, read last: children may have died after the main process.
        counters: Counters,
        /// What is above a run that could not be launched, where an OOM kill came from there; else it came with `Exited`.
        above: Option<Box<AboveReading>>,
    },
    /// The limits of a living run were changed, or are as they were before.
    LimitsSet(Result<Vec<LimitSet>, StartError>),
    /// Whether all of it is frozen (`frozen` of `cgroup.events`), by whomever.
    Frozen(bool),
    /// Its directory is gone by our hand; everything about the run is released.
    Removed,
    /// Somebody else removed its directory.
    CgroupGone,
}

/// A file of a living run's cgroup that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSet {
    /// The kernel's name of it.
    pub file: &'static str,
    /// What it says now.
    pub value: String,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The main process.
    Main,
    /// Every process of the run's cgroup.
    All,
}
