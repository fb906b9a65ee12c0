//! Every message between keeper, supervisor and logger, both sides, in one file.
//!
//! Each travels as one message of a `SOCK_SEQPACKET` pair (unix(7)), encoded as MessagePack with named fields, so that a
//! later version can add fields without breaking an older peer. Descriptors travel beside it as `SCM_RIGHTS`, in the
//! order each message states. A launch's body can be 2 MB and travels in a sealed memfd (`memfd_create(2)`), because a
//! message is limited to about 212 KB.

use serde::{Deserialize, Serialize};

pub use crate::model::Stream;
use crate::model::{ExitStatus, LogPolicy, Mono, RunId, StartError, Way};

/// The version of all three conversations, and of what a keeper leaves to the next one. A peer of another version is refused with
/// a sentence.
pub const VERSION: u32 = 1;

/// Supervisor → keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The first message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Launch a run. Descriptors: the run's cgroup directory (`O_PATH` is not enough: `O_RDONLY | O_DIRECTORY`), then
    /// the sealed memfd with the [`LaunchPlan`](crate::kernel::launch::plan::LaunchPlan).
    Launch {
        /// Which.
        run: RunId,
        /// Where its output goes.
        logs: LogFiles,
        /// How it gets into its cgroup.
        #[serde(default)]
        way: Way,
    },
    /// Watch over the main process of a run that an earlier keeper had launched, and remember its end as that of a child.
    /// Descriptor: its pidfd, opened while it lived; without one it is gone, and how it ended is not known. Answer: `Exited`
    /// at its end.
    Adopt {
        /// Which.
        run: RunId,
        /// Its main process.
        pid: i32,
        /// Field 22 of `/proc/PID/stat`.
        start_ticks: u64,
        /// When its program began.
        at: Mono,
    },
    /// The exit record of `run` has been taken over and may be forgotten.
    Ack {
        /// Which.
        run: RunId,
    },
    /// Tell all that is known.
    List,
    /// What lives is supervised again and what should live is about to: from here on a death says nothing about whether the next
    /// supervisor gets as far. At most once.
    TookOver,
    /// Somebody has asked this supervisor for the end of everything: should it die over it, the next one goes on with that.
    GoingDown,
    /// Signal the main process of a run. The keeper has not reaped it, so its number is its own.
    Signal {
        /// Which.
        run: RunId,
        /// The signal's number.
        signal: i32,
    },
    /// Become the keeper of another binary, once this supervisor has ended. Descriptor: its file, which was executed and has
    /// said that it takes over from [`VERSION`]. The last message.
    Reexec {
        /// Of that binary.
        version: String,
    },
    /// For systemd, `sd_notify(3)`'s text, sent on by the keeper because only the main process is heard.
    Notify {
        /// `READY=1`, `STATUS=…`, ….
        state: String,
    },
    /// The answer to [`FromKeeper::Ping`].
    Pong {
        /// The number asked with.
        nonce: u64,
    },
}

/// Keeper → supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The answer to `Hello`. Descriptors: the locks of state directory and tree, to be held until the end.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// How many supervisors this keeper has started before this one.
        restarts: u32,
        /// How often it has executed another binary.
        #[serde(default)]
        reexecs: u32,
        /// Why the one before ended, in words, if there was one.
        previous: Option<String>,
        /// Whether somebody has asked for the end already; the signal follows.
        #[serde(default)]
        going_down: bool,
    },
    /// `run` was asked for by an earlier supervisor and is not decided: `Launched` or `Failed` follows. Only in the answer to
    /// `List`.
    Launching {
        /// Which.
        run: RunId,
    },
    /// The program of `run` runs. Descriptor: its pidfd.
    Launched {
        /// Which.
        run: RunId,
        /// Its main process.
        pid: i32,
        /// When exec was confirmed.
        at: Mono,
    },
    /// `run` never ran; its child, if there was one, has been reaped. Kept, and told again to a new supervisor, until
    /// acknowledged.
    Failed {
        /// Which.
        run: RunId,
        /// The step and the reason.
        error: StartError,
    },
    /// The main process of `run` ended, and was reaped where it was our child. Kept, and told again to a new supervisor, until acknowledged.
    Exited {
        /// Which.
        run: RunId,
        /// Its main process.
        pid: i32,
        /// waitid(2)'s word, or the kernel's of an adopted one; `None` where nobody can tell.
        status: Option<ExitStatus>,
        /// When it was reaped.
        at: Mono,
    },
    /// The answer to `List`: first one message for each run that lives (`Launched`, pidfd beside it), ended without
    /// acknowledgement (`Exited`), is in flight (`Launching`) or could not be launched, without acknowledgement
    /// (`Failed`), then this. Before a supervisor has asked for its first list,
    /// nothing is told of runs that it has not asked for itself, so nothing is told twice.
    Listed,
    /// The logger throws bytes of a run away, or has ceased to. Told to the supervisor that listens then.
    LogDropped {
        /// Which.
        run: RunId,
        /// Which of its streams.
        stream: Stream,
        /// Why.
        why: String,
        /// How many they were; absent where it has only begun.
        bytes: Option<u64>,
    },
    /// Answer with a `Pong`. Asked only where somebody waits for a sign of life, so that an idle host stays idle.
    Ping {
        /// A number to answer with.
        nonce: u64,
    },
}

/// Keeper → logger. Descriptor beside it: the read end of the run's pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToLogger {
    /// Take over a pipe.
    Attach {
        /// Whose.
        run: RunId,
        /// Which of its streams.
        stream: Stream,
        /// The first file its bytes go to, [`Segment::first`](crate::model::Segment::first) in a directory that is made where it is
        /// missing; the stream goes on in the last file that there is.
        path: std::path::PathBuf,
        /// How much is kept.
        #[serde(default)]
        policy: LogPolicy,
    },
}

/// Logger → keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromLogger {
    /// The pipe has ended and all its bytes are in the file: the keeper can let go of its spare end.
    Drained {
        /// Whose.
        run: RunId,
        /// Which of its streams.
        stream: Stream,
        /// How many bytes could not be written and were thrown away, so that the worker did not have to wait.
        #[serde(default)]
        dropped: u64,
    },
    /// Bytes are being thrown away, or no more.
    Dropping {
        /// Whose.
        run: RunId,
        /// Which of its streams.
        stream: Stream,
        /// Why.
        why: String,
        /// How many they were; absent where it has only begun.
        bytes: Option<u64>,
    },
}

/// Where a run's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// stdout's file.
    pub stdout: std::path::PathBuf,
    /// stderr's file.
    pub stderr: std::path::PathBuf,
    /// How much of each is kept.
    #[serde(default)]
    pub policy: LogPolicy,
}
