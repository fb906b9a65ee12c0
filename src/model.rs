//! The vocabulary of the crate: plain data that every other module speaks, and no logic beyond
//! printing it and telling two values apart.
//!
//! Nothing here reads a clock, a file or the kernel. The serialised shapes (`serde`) are part of the
//! interface a user scripts against: events, `--report` and `status -o json` all show them.

mod begun;
mod cause;
mod chain;
mod check;
mod counters;
mod event;
mod health;
mod id;
mod log;
mod outlook;
mod quantity;
mod record;
mod start_error;
mod status;
mod text;
mod time;
mod violation;

pub use begun::Begun;
pub use cause::{Confidence, ExitCause, ExitStatus, KilledBy, OomScope, UnknownWhy};
pub use chain::chain;
pub use check::{Check, Soundness};
pub use counters::{
    AboveReading, Ceilings, Counters, CpuStat, HostOom, Level, Measured, MemoryEvents, OwnUse, Pressures, Sample,
    Stalled, Usage, Wanted,
};
pub use event::{KernelEvent, KernelEventKind, LimitSet, Target};
pub use health::{HealthReport, HealthVerdict, ProbeKind};
pub use id::{BadWorkerId, RunId, SliceName, WorkerId};
pub use log::{LogPolicy, NoSegment, Overflow, Segment, Stream};
pub use outlook::{Desired, DownBy, Ending, Outlook};
pub use quantity::{duration, size};
pub use record::{Decision, Event, EventKind, Evidence, RunEnd, Story, Trigger, Verdict};
pub use start_error::{Stage, StartError, Way};
pub use status::{BreakerStatus, Detail, Readiness, RestartCounts, State, StoppedDetail, StoppingDetail, WorkerStatus};
pub use text::{inert, inert_json, printable, steers};
pub use time::Mono;
pub use violation::{BreakerState, Class, Limit, PolicyName, Severity, Violation};
