//! The limits of one cgroup, watched: for programs that have a cgroup of their own and no pinfold daemon.
//!
//! A [`LimitManager`] notices what a daemon notices of a worker, by the same engine ([`policy::violation`](crate::policy::violation)):
//! OOM kills, refused forks, throttling, memory above `memory.high`, pressure, CPU time. It starts nothing and restarts nothing.
//! Whoever asked for it decides who handles a violation ([`ViolationHandling`]); exactly one does:
//!
//! | handling | `restart`, `graceful_shutdown` | `immediate_kill` | `none`, `log`, `alert`, `throttle` |
//! |---|---|---|---|
//! | `internal`, the default | SIGTERM to all, `cgroup.kill` after 5 s | `cgroup.kill` | recorded |
//! | `external` | the callback is called | the callback is called | the callback is called |
//! | `disabled` | recorded | recorded | recorded |
//!
//! Recorded is everything ([`LimitManager::violations`]). `memory.high` is a tripwire in every mode: it is lifted at once when
//! memory that is no page cache has reached it, and in force again afterwards; with `high_policy: throttle` it stays in force for at
//! most `throttle_deadline` without progress, and then `memory.policy` is asked. There is no breaker here: restarts are the business
//! of who started the program, in a fresh cgroup, because a kernel may kill at birth what is cloned into one that saw a `cgroup.kill`.
//! The process that watches should not be in the cgroup itself: it would end with it.
//!
//! While all is quiet nothing is read and nothing wakes up.
//!
//! ```no_run
//! use std::{path::Path, sync::mpsc};
//!
//! use pinfold::limit_manager::LimitManager;
//! use pinfold::policy::dispatch::{ViolationHandling, ViolationPolicy};
//! use pinfold::spec::types::{Limits, Memory, Pids};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = Limits {
//!     memory: Memory { max: Some(256 << 20), policy: ViolationPolicy::Restart, ..Memory::default() },
//!     pids: Pids { max: Some(64), policy: ViolationPolicy::Log },
//!     ..Limits::default()
//! };
//! let manager = LimitManager::new(Path::new("/sys/fs/cgroup/jobs/7"), limits)?
//!     .with_handling(ViolationHandling::External);
//! manager.apply()?;
//! let (tell, told) = mpsc::channel();
//! manager.set_violation_callback(move |violation, policy| {
//!     // Nobody listens any more: the program is ending.
//!     drop(tell.send((violation.clone(), policy)));
//! });
//! manager.start()?;
//! // … start the program in the cgroup; whoever has `told` restarts it …
//! for episode in manager.violations() {
//!     println!("{}: {} (limit {})", episode.violation.limit, episode.violation.observed, episode.violation.configured);
//! }
//! manager.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! What is no cgroup is refused:
//!
//! ```
//! # use std::path::Path;
//! # use pinfold::{limit_manager::LimitManager, spec::types::Limits};
//! let error = LimitManager::new(Path::new("/proc"), Limits::default()).unwrap_err();
//! assert_eq!(error.to_string(), "/proc is not on a cgroup2 file system");
//! ```

mod history;
mod judge;
mod support;
mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::clock::Clock;
use crate::kernel::cgroup::{Dir, DirError, budget, limits, signal, stat};
use crate::kernel::place::{self, Situation};
use crate::kernel::watch::WatchError;
use crate::model::{Mono, Sample, StartError, Usage, Violation, Wanted, chain};
use crate::policy::dispatch::{Handler, Response, ViolationHandling, ViolationPolicy};
use crate::policy::violation::Rules;
use crate::spec::types::Limits;
use crate::worker::rules::{cpus, rules};

use history::History;
pub use history::KEPT;
pub use support::Support;
use watch::Watch;

/// How long [`LimitManager::apply`] may have memory reclaimed.
const PATIENCE: Duration = Duration::from_secs(5);

type Callback = Arc<dyn Fn(&Violation, ViolationPolicy) + Send + Sync>;

/// Watches the limits of one cgroup. See the [module](self).
///
/// Dropping it ends the watch and leaves the cgroup as it is; [`stop`](Self::stop) also puts a lifted `memory.high` in force again.
pub struct LimitManager {
    shared: Arc<Shared>,
    handling: ViolationHandling,
    running: Mutex<Option<Running>>,
}

/// What the manager and its watch have in common.
struct Shared {
    dir: Arc<Dir>,
    limits: Limits,
    rules: Rules,
    clock: Clock,
    callback: Mutex<Option<Callback>>,
    history: Mutex<History>,
}

struct Running {
    /// Dropped, it ends the watch as well.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// One episode: a limit violated, until it was kept again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which limit, and what was seen.
    pub violation: Violation,
    /// When it was noticed (`CLOCK_MONOTONIC`, as [`clock::monotonic`](crate::clock::monotonic) reads it).
    pub since: Mono,
    /// When it was over; `None` while it goes on. OOM kills and refused forks are over when there was none for 12 s, spent CPU time
    /// never is. The end of the watch ends every episode.
    pub until: Option<Mono>,
    /// The policy that was asked: the limit's own, and where [`Throttle`](ViolationPolicy::Throttle) has not helped, that of
    /// `memory.max` in an episode of its own.
    pub policy: ViolationPolicy,
    /// Who handles it.
    pub handler: Handler,
    /// What the policy comes to: what is done by the manager, or left to the callback.
    pub response: Response,
    /// Why what the manager did has failed.
    pub error: Option<String>,
}

/// Why limits are not set or not watched.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The directory cannot be opened or read, or is no cgroup.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The host's root cgroup.
    #[error("{path} is the root cgroup, which has no limits; make a cgroup below it")]
    Root {
        /// The directory.
        path: PathBuf,
    },
    /// A limit is refused, or reads back differently. Those before it are in force.
    #[error(transparent)]
    Refused(#[from] StartError),
    /// Linux before 5.14.
    #[error("{path} has no cgroup.kill to end it with: Linux 5.14 or newer is needed, or another violation handling")]
    TooOld {
        /// The cgroup.
        path: PathBuf,
    },
    /// [`LimitManager::start`] outside of a tokio runtime.
    #[error("limits are watched by a task: start it within a tokio runtime")]
    NoRuntime,
    /// No inotify instance: `fs.inotify.max_user_instances`, or descriptors, are used up.
    #[error("the kernel's notifications cannot be had")]
    Notifications(#[source] io::Error),
    /// No watch is left, or it is refused.
    #[error(transparent)]
    Watch(WatchError),
    /// No thread for pressure triggers.
    #[error("pressure triggers cannot be had")]
    Triggers(#[source] io::Error),
}

impl LimitManager {
    /// Takes the cgroup in the directory `cgroup_dir`, which stays the caller's. Nothing is set and nothing is watched yet.
    ///
    /// Of `limits`, `process` is for who starts the program, and `monitoring.interval` and `monitoring.violation_handling` are a
    /// daemon's: see [`with_handling`](Self::with_handling).
    ///
    /// # Errors
    /// Where it is no cgroup of version 2, or the host's root.
    pub fn new(cgroup_dir: &Path, limits: Limits) -> Result<Self, LimitError> {
        let dir = Dir::open(cgroup_dir)?;
        if !dir.has("cgroup.events") {
            return Err(LimitError::Root { path: cgroup_dir.to_owned() });
        }
        Ok(Self::over(dir, limits, Clock::new()))
    }

    fn over(dir: Dir, limits: Limits, clock: Clock) -> Self {
        let shared = Shared {
            dir: Arc::new(dir),
            rules: rules(&limits, cpus()),
            history: Mutex::new(History::new(limits.monitoring.history_retention)),
            limits,
            clock,
            callback: Mutex::default(),
        };
        Self { shared: Arc::new(shared), handling: ViolationHandling::Internal, running: Mutex::default() }
    }

    /// Who handles violations: [`Internal`](ViolationHandling::Internal), unless said here, before the start.
    #[must_use]
    pub fn with_handling(mut self, handling: ViolationHandling) -> Self {
        self.handling = handling;
        self
    }

    /// Who handles violations.
    #[must_use]
    pub const fn violation_handling_mode(&self) -> ViolationHandling {
        self.handling
    }

    /// Says who hears of violations where they are handled [externally](ViolationHandling::External), instead of who heard of
    /// them before. Of each it is told once, when the episode begins, with the policy that is asked for.
    ///
    /// It is called on a thread where it may block, for one violation after the other; detection does not wait for it. A panic in
    /// it is logged. `memory.high`, where it was the reason, is out of force by then, unless it is to throttle.
    pub fn set_violation_callback(&self, callback: impl Fn(&Violation, ViolationPolicy) + Send + Sync + 'static) {
        *self.shared.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(callback));
    }

    /// Puts the limits in force, each rounded to the kernel's grain, written, read back and compared. What is not configured is left
    /// as it is.
    ///
    /// Blocks for up to five seconds where memory has to be reclaimed first; the kernel never kills for it.
    ///
    /// # Errors
    /// At the first limit that is refused, reads back differently, or would have the kernel kill what lives in the cgroup.
    pub fn apply(&self) -> Result<(), LimitError> {
        Ok(budget::amend(&self.shared.dir, &self.plan()?, PATIENCE)?)
    }

    /// Begins to watch, in a task of the current tokio runtime. What was counted before is no violation; CPU time that was used before
    /// is. A second start changes nothing. What cannot be noticed in this cgroup is no error: see
    /// [`supported_limits`](Self::supported_limits).
    ///
    /// # Errors
    /// Where the kernel gives no notifications, or the runtime is missing.
    pub fn start(&self) -> Result<(), LimitError> {
        let mut running = self.running();
        if running.as_ref().is_some_and(|running| !running.task.is_finished()) {
            return Ok(());
        }
        tokio::runtime::Handle::try_current().map_err(|_| LimitError::NoRuntime)?;
        if self.handling == ViolationHandling::Internal {
            self.can_end()?;
        }
        self.warn_of_what_is_not_in_force();
        let (stop, stopped) = oneshot::channel();
        let watch = Watch::begin(Arc::clone(&self.shared), self.handling)?;
        *running = Some(Running { stop, task: tokio::spawn(watch.run(stopped)) });
        Ok(())
    }

    /// Ends the watch, and waits for it: when this returns, every trigger in the cgroup is closed, so that it can be removed, and
    /// `memory.high` is in force again where it was lifted (the kernel reclaims for that, which may take a while). An end that the
    /// manager began is not carried through; the callback still hears of what was seen before.
    pub async fn stop(&self) {
        let running = self.running().take();
        if let Some(Running { stop, task }) = running {
            // One that has ended by itself hears nothing.
            stop.send(()).unwrap_or_default();
            if let Err(error) = task.await {
                tracing::error!(%error, "the watch of limits has failed");
            }
        }
    }

    /// Whether it watches: not before [`start`](Self::start), and no more once the cgroup was found to be gone.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running().as_ref().is_some_and(|running| !running.task.is_finished())
    }

    /// The episodes, in the order they began: those that go on, and those that have been over for no longer than
    /// `monitoring.history_retention`, of which there are [`KEPT`] at most.
    #[must_use]
    pub fn violations(&self) -> Vec<Recorded> {
        self.shared.history().list(self.shared.clock.now())
    }

    /// What the cgroup has used in all and uses now. What cannot be read is `None`.
    #[must_use]
    pub fn current_usage(&self) -> Usage {
        stat::usage(&self.shared.dir)
    }

    /// What violations are told by: its own memory without page cache, throttling, stalls. What cannot be read is `None`.
    #[must_use]
    pub fn current_sample(&self) -> Sample {
        stat::sample(&self.shared.dir, Wanted::ALL)
    }

    /// For each limit there is, configured or not, whether this cgroup can be held to it and a violation would be noticed, and if not,
    /// why. Found out by trying: pressure triggers are set and closed again, which takes some tens of milliseconds each.
    #[must_use]
    pub fn supported_limits(&self) -> Vec<Support> {
        support::of(&self.shared.dir, &self.shared.limits, &self.withheld())
    }

    fn plan(&self) -> Result<Vec<crate::kernel::cgroup::setting::Setting>, StartError> {
        let host = limits::Host { page_size: page_size(), withheld: self.withheld() };
        limits::plan(&self.shared.limits, &limits::disks(&self.shared.limits)?, &host)
    }

    /// The controllers that the cgroup does not have, as far as it can be told who keeps them.
    fn withheld(&self) -> Vec<crate::kernel::cgroup::Withheld> {
        let path = std::fs::canonicalize(self.shared.dir.path());
        let situation = Situation::of_this_process();
        match (situation, path) {
            (Ok(situation), Ok(path)) => place::withheld(&situation, &path),
            // Then the missing file is named, and no more.
            _ => Vec::new(),
        }
    }

    fn can_end(&self) -> Result<(), LimitError> {
        let dir = &self.shared.dir;
        if !dir.has("cgroup.kill") {
            return Err(LimitError::TooOld { path: dir.path().to_owned() });
        }
        let inside = |pids: Vec<i32>| pids.iter().any(|pid| u32::try_from(*pid) == Ok(std::process::id()));
        if signal::processes_below(dir).is_ok_and(inside) {
            let cgroup = dir.path().display();
            tracing::warn!(%cgroup, "this process is in the cgroup, and ends with it where a policy ends that");
        }
        Ok(())
    }

    /// A limit that is not in force is never violated.
    fn warn_of_what_is_not_in_force(&self) {
        let dir = &self.shared.dir;
        let cgroup = dir.path().display();
        match self.plan() {
            Ok(plan) => {
                for setting in plan.iter().filter(|setting| !budget::is_in_force(dir, setting)) {
                    let (file, value) = (setting.file(), setting.value());
                    tracing::warn!(%cgroup, file, value, "a limit is configured and not in force: it was not applied");
                }
            }
            Err(e) => tracing::warn!(%cgroup, error = %chain(&e), "a limit is configured and cannot be in force"),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn page_size() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

impl fmt::Debug for LimitManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitManager")
            .field("cgroup", &self.shared.dir.path())
            .field("handling", &self.handling)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("cgroup", &self.dir.path()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
