//! What a worker needs of the kernel, in the worker's own nouns: the seam between deciding and doing.
//!
//! `host::HostKernel` does it on a real host; `testing::FakeKernel` does it in memory, for tests
//! and for the deterministic simulation. The answers to everything that takes time come back as
//! [`KernelEvent`](crate::model::KernelEvent)s on the channel given to [`Kernel::attach`].

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::news::NewsSender;
use crate::model::{
    Counters, Ending, Mono, RestartCounts, RunEnd, RunId, Sample, StartError, Target, Wanted, Way, WorkerId,
};
use crate::policy::breaker::Saved;
use crate::spec::types::Spec;

/// The kernel as one worker's actor uses it. No method waits for a process: each is a handful of system calls at most.
pub trait Kernel: Send + Sync + 'static {
    /// Says where the events of `worker`'s runs go. Once, before anything else is asked for the worker.
    fn attach(&self, worker: &WorkerId, events: NewsSender);

    /// Makes the run's cgroup, sets its limits and reads each back, records `note` on it and takes the baseline.
    ///
    /// # Errors
    /// [`StartError`] with the step that failed. Nothing is left behind then: no directory, no watch.
    fn prepare(&self, run: &RunId, spec: &Arc<Spec>, note: &RunNote) -> Result<Counters, StartError>;

    /// Asks for the program to be executed in the prepared cgroup.
    /// Answer: `Launched` or `LaunchFailed`, in any case one of them, within a deadline.
    fn launch(&self, run: &RunId, spec: &Arc<Spec>, way: Way);

    /// Sends `signal`. A run that has just ended is no error. One that is frozen, by whomever, handles it when it is thawed: at once
    /// where this `thaws` it. What is not handled and ends a program does so in the freezer, too.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn signal(&self, run: &RunId, signal: i32, to: Target, thaws: bool) -> Result<(), KernelError>;

    /// Writes `cgroup.kill`: every process of the run, also forking and frozen ones. That it succeeds is not death.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn kill(&self, run: &RunId) -> Result<(), KernelError>;

    /// Waits for `populated 0`. Answer: `Unpopulated`, as soon as it is so, however long it takes; `CgroupGone` where the
    /// directory is not there any more.
    /// Asked once the main process has been reaped, or for a run whose launch failed.
    fn drain(&self, run: &RunId);

    /// Forgets the run: its exit record is acknowledged, its watches are taken off, its directory is removed.
    /// Answer: `Removed`. Asked only after `Unpopulated` or `CgroupGone`.
    fn remove(&self, run: &RunId);

    /// Reads what a living run uses. What cannot be read is absent.
    fn sample(&self, run: &RunId, wanted: Wanted) -> Sample;

    /// Lifts `memory.high` of a living run, or sets it again to what `spec` says. Lifting is done when this returns;
    /// setting may be carried out aside, because the kernel reclaims within that write.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn tripwire(&self, run: &RunId, spec: &Arc<Spec>, armed: bool) -> Result<(), KernelError>;

    /// Brings the limits of a living run to those of `spec`; where `lifted`, `memory.high` is left out of force. It may take
    /// a while, and is carried out aside.
    /// Answer: `LimitsSet`, with what was changed; where it failed, everything is as it was before.
    fn change_limits(&self, run: &RunId, spec: &Arc<Spec>, lifted: bool);

    /// Has a living run `frozen` (`cgroup.freeze`), or thawed.
    /// Answer: `Frozen`, with how it is now; and again whenever that changes, until it has been told that it is thawed. A run in
    /// which nobody is left is never told to be frozen: its end is the answer. Not asked while limits of it are being changed.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn freeze(&self, run: &RunId, frozen: bool) -> Result<(), KernelError>;

    /// Sets the pressure triggers of a living run anew, as `spec` has them.
    fn rewatch(&self, run: &RunId, spec: &Arc<Spec>);

    /// The global environment of every run that is launched from now on.
    fn set_global_env(&self, env: &BTreeMap<String, String>);

    /// Looks at a run whose notifications may have been lost, and tells again what is not as the last news had it.
    fn look_again(&self, run: &RunId);

    /// What keeps a killed run from ending: its processes, with the place in the kernel where each waits (`wchan`,
    /// `proc_pid_wchan(5)`). `None` where nothing can be told.
    fn stuck_on(&self, run: &RunId) -> Option<String>;

    /// What keeps a run from being `frozen`, or from being thawed: the processes that cannot be interrupted, with the place in the
    /// kernel where each waits, or a frozen cgroup above it. `None` where nothing can be told.
    fn freeze_held_up(&self, run: &RunId, frozen: bool) -> Option<String>;

    /// Has the run's record say how it stands now.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn note(&self, run: &RunId, now: Standing) -> Result<(), KernelError>;
}

/// What changes in a run's record while it lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// [`RunNote::desired_up`].
    pub desired_up: bool,
    /// [`RunNote::breaker`].
    pub breaker: Saved,
    /// The main process, while it lives, and when its program began.
    pub main: Option<(i32, Mono)>,
    /// [`RunNote::ending`].
    pub ending: Option<Ending>,
    /// [`RunNote::untold`].
    pub untold: Vec<RunEnd>,
}

/// What a run's cgroup directory remembers of it, in an extended attribute, so that it lives and dies with the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunNote {
    /// The version of this shape.
    pub v: u32,
    /// The run's own identity, unlike any other's on any host.
    pub uuid: String,
    /// Which run.
    pub run: RunId,
    /// Hash of what it was launched with ([`Spec::digest`]), to tell a changed configuration.
    pub spec_hash: u64,
    /// What the restart breaker had counted.
    pub breaker: Saved,
    /// Automatic restarts before this run, in all.
    pub restarts: RestartCounts,
    /// Whether the worker should be up.
    pub desired_up: bool,
    /// The main process, from the time it is known.
    pub pid: Option<i32>,
    /// Field 22 of `/proc/PID/stat`: with the boot id it tells a process from a later one with its number.
    pub pid_start_ticks: Option<u64>,
    /// `/proc/sys/kernel/random/boot_id` at the start.
    pub boot_id: String,
    /// `CLOCK_MONOTONIC` at which the program began, nanoseconds.
    pub started_mono_ns: Option<u64>,
    /// The counters when the run began.
    pub baseline: Counters,
    /// How it is being ended, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// How runs before it ended, as far as the store did not have it when this was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untold: Vec<RunEnd>,
}

impl RunNote {
    /// Takes over how the run stands now.
    pub fn stands(&mut self, Standing { desired_up, breaker, main, ending, untold }: Standing) {
        (self.desired_up, self.breaker) = (desired_up, breaker);
        (self.ending, self.untold) = (ending, untold);
        if let Some((pid, started)) = main {
            (self.pid, self.started_mono_ns) = (Some(pid), Some(started.as_nanos()));
        }
    }
}

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{action} of {run}")]
pub struct KernelError {
    /// What was asked, in words: `cgroup.kill`.
    pub action: &'static str,
    /// For which run.
    pub run: RunId,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}
