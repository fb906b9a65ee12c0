//! Short programs beside a run (health probes), each in a small cgroup of its own: `ROOT/aux/ID.RUN.N`.
//!
//! ```text
//! run ─ seat ─ mkdir, limits, clone ─▶ ended | timed out | nobody waits any more ─▶ Outcome
//!                                                        └─▶ cgroup.kill ─ reap ─ unpopulated ─ rmdir
//! ```
//!
//! They are the supervisor's own children, not the keeper's: once the supervisor is gone nobody wants to know how they
//! end, and their directories are swept by the next one. What each costs a cgroup for is the certain end: whatever it
//! forked, wherever its session is, whoever holds its output open, it is killed by one write. All of that is done in a
//! task of its own, so that whoever asked can stop waiting at any moment and nothing is left behind.
//!
//! What blocks (user look-ups, mkdir, limits, clone, rmdir) is done on tokio's threads for that.

mod running;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::fd::AsFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use tokio::{
    io::Interest,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::spawn_blocking,
};

use crate::kernel::cgroup::{Dir, DirError, kill, limits, setting::Setting};
use crate::kernel::launch::Method;
use crate::kernel::launch::plan::{LaunchPlan, Rlimit, Session};
use crate::kernel::launch::resolve::{self, Inherit};
use crate::model::{ExitStatus, RunId, Stage, StartError, chain};
use crate::spec::types::{Limits, Memory, Pids, Spec};
use running::{Running, watched};

/// `pids.max` of each, where there is the controller.
pub const MAX_PIDS: u64 = 64;
/// `memory.max` of each, in bytes, where there is the controller.
pub const MAX_MEMORY: u64 = 256 << 20;
/// How much of the output is kept, in bytes; the rest is read and dropped, so that nobody is blocked writing it.
pub const MAX_OUTPUT: usize = 4096;

/// Names that are tried: one is taken only where an earlier supervisor's program cannot be killed.
const TRIES: u32 = 100;
/// A killed program that is still there is worth a word after so long.
const SLOW: Duration = Duration::from_secs(10);
/// The first wait for a directory that is still busy although nothing lives in it; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(1);
/// No such wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A directory that is busy for so long is left to the next start.
const GIVE_UP: Duration = Duration::from_secs(30);
/// The soft `RLIMIT_NOFILE` where the worker has none of its own: the kernel's default. Ours is raised to the hard limit,
/// and many a program closes every descriptor up to it.
const MAX_DESCRIPTORS: u64 = 1024;

/// What it takes to run programs beside runs.
#[derive(Debug)]
pub struct Parts {
    /// `ROOT/aux`.
    pub dir: Dir,
    /// Page size, and the controllers we do not have.
    pub limits: limits::Host,
    /// The configuration's global environment.
    pub global_env: BTreeMap<String, String>,
    /// Our own environment.
    pub inherited: BTreeMap<OsString, OsString>,
    /// The way into a cgroup that is tried first; where only the other one works, that is found out.
    pub method: Method,
}

/// The runner of programs beside runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Auxiliary {
    inner: Arc<Inner>,
}

/// A worker's place: one program of it at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seat(Arc<Semaphore>);

/// How a program came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself. What it had left behind is killed.
    Ended {
        /// How its main process ended.
        status: ExitStatus,
        /// Whether the kernel's OOM killer took a process of it.
        oom: bool,
        /// The first [`MAX_OUTPUT`] bytes of its stdout and stderr.
        output: Vec<u8>,
    },
    /// It had not ended in time, and is killed.
    TimedOut {
        /// As above.
        output: Vec<u8>,
    },
    /// The one before was killed and is still there: uninterruptible sleep.
    Occupied,
    /// It never ran.
    NotStarted(StartError),
}

#[derive(Debug)]
struct Inner {
    dir: Dir,
    budget: Vec<Setting>,
    global_env: RwLock<Arc<BTreeMap<String, String>>>,
    inherited: BTreeMap<OsString, OsString>,
    /// The last part of the next directory's name.
    next: AtomicU64,
    /// Whether the way into a cgroup is [`Method::Move`].
    moved: AtomicBool,
    /// One clone at a time: a child would hold the pipes of another that is being made until it executes its program.
    cloning: Mutex<()>,
    /// How many programs or leftovers are not proved gone.
    living: watch::Sender<usize>,
}

impl Default for Seat {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Auxiliary {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { dir, limits, global_env, inherited, method } = parts;
        Self {
            inner: Arc::new(Inner {
                budget: budget(&limits),
                dir,
                global_env: RwLock::new(Arc::new(global_env)),
                inherited,
                next: AtomicU64::new(0),
                moved: AtomicBool::new(method == Method::Move),
                cloning: Mutex::new(()),
                living: watch::Sender::new(0),
            }),
        }
    }

    /// The global environment of every program that is looked up from now on.
    pub fn set_global_env(&self, env: &BTreeMap<String, String>) {
        *self.inner.global_env.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(env.clone());
    }

    /// Kills what earlier supervisors left in `ROOT/aux` and removes it, in tasks of their own; the names of what was
    /// found. Once, before the first program is run. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where `ROOT/aux` cannot be read.
    pub fn sweep(&self) -> Result<Vec<String>, DirError> {
        let names = self.inner.dir.children()?;
        for name in &names {
            match self.inner.dir.open_below(name) {
                Ok(dir) => {
                    let living = Living::new(&self.inner);
                    tokio::spawn(async move {
                        living.0.clear(&dir).await;
                        drop(living);
                    });
                }
                Err(e) if e.is_absent() => {}
                Err(error) => tracing::error!(name, error = %chain(&error), "what an earlier supervisor left stays"),
            }
        }
        Ok(names)
    }

    /// Looks up what running `argv` as the worker of `run` does takes: its user, environment and working directory. It
    /// blocks, like [`resolve::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, run: &RunId, spec: &Spec, argv: &[String]) -> Result<LaunchPlan, StartError> {
        let global_env = Arc::clone(&self.inner.global_env.read().unwrap_or_else(PoisonError::into_inner));
        let context = resolve::Context {
            run,
            global_env: &global_env,
            inherited: &self.inner.inherited,
            inherit: Inherit::AllowList,
            session: Session::New,
        };
        let mut plan = resolve::resolve(&Spec { argv: argv.to_vec(), ..spec.clone() }, &context)?;
        // A protection of the worker's is not its probe's; and what cannot be killed cannot be held to its memory.
        plan.oom_score_adj = plan.oom_score_adj.max(0);
        if spec.limits.process.max_file_descriptors.is_none() {
            let ours = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
            plan.rlimits.push(Rlimit { resource: libc::RLIMIT_NOFILE, soft: MAX_DESCRIPTORS.min(ours), hard: ours });
        }
        Ok(plan)
    }

    /// Runs `plan`, of which the cgroup's name is that of the run, for at most `timeout` from the moment it is cloned.
    ///
    /// The answer does not wait for the program's end after its timeout, nor for the removal of its directory; the next
    /// one of the same `seat` does, for at most its own timeout. Dropping the future kills the program.
    pub async fn run(&self, seat: &Seat, plan: &Arc<LaunchPlan>, timeout: Duration) -> Outcome {
        let Ok(Ok(place)) = tokio::time::timeout(timeout, Arc::clone(&seat.0).acquire_owned()).await else {
            return Outcome::Occupied;
        };
        let (tell, told) = oneshot::channel();
        let task = attend(Living::new(&self.inner), place, Arc::clone(plan), timeout, tell);
        tokio::spawn(task);
        told.await.unwrap_or_else(|_| {
            Outcome::NotStarted(StartError::refused(Stage::Spawn, "the supervisor is on its way down"))
        })
    }

    /// Waits until every program is gone with its directory, those that nobody waits for included.
    pub async fn idle(&self) {
        // The sender is ours, so that the channel cannot be closed.
        drop(self.inner.living.subscribe().wait_for(|living| *living == 0).await);
    }
}

/// Counts one program for as long as it is there.
struct Living(Arc<Inner>);

impl Living {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.living.send_modify(|living| *living += 1);
        Self(Arc::clone(inner))
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.living.send_modify(|living| *living = living.saturating_sub(1));
    }
}

/// What each program may use. What needs a controller that we do not have is left out: here a limit is a precaution,
/// not a promise.
fn budget(host: &limits::Host) -> Vec<Setting> {
    let memory = Limits { memory: Memory { max: Some(MAX_MEMORY), ..Memory::default() }, ..Limits::default() };
    let pids = Limits { pids: Pids { max: Some(MAX_PIDS), ..Pids::default() }, ..Limits::default() };
    [memory, pids].iter().filter_map(|limits| limits::plan(limits, &[], host).ok()).flatten().collect()
}

/// Owns one program from its clone to the removal of its directory.
async fn attend(
    living: Living,
    place: OwnedSemaphorePermit,
    plan: Arc<LaunchPlan>,
    timeout: Duration,
    mut tell: oneshot::Sender<Outcome>,
) {
    let inner = &living.0;
    let first = inner.method();
    let (mut outcome, mut running) = inner.attempt(&plan, first, timeout, &mut tell).await;
    if let Some(Outcome::NotStarted(error)) = &outcome
        && other_way_helps(error)
    {
        if let Some(failed) = running.take() {
            inner.finish(failed).await;
        }
        (outcome, running) = inner.attempt(&plan, first.other(), timeout, &mut tell).await;
        if matches!(outcome, Some(Outcome::Ended { .. } | Outcome::TimedOut { .. })) {
            inner.moved.store(first.other() == Method::Move, Ordering::Relaxed);
        }
    }
    if let Some(outcome) = outcome {
        // Whoever asked may have stopped waiting.
        drop(tell.send(outcome));
    }
    if let Some(running) = running {
        inner.finish(running).await;
    }
    // In this order: whoever waits for idleness finds the seat free.
    drop(place);
    drop(living);
}

/// Whether a child that could not be made, or never got as far as its program, could by [`Method::other`].
fn other_way_helps(error: &StartError) -> bool {
    let exhausted = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.is_spawn_fault() || (error.stage == Stage::Clone && !exhausted.contains(&error.errno))
}

impl Inner {
    fn method(&self) -> Method {
        if self.moved.load(Ordering::Relaxed) { Method::Move } else { Method::IntoCgroup }
    }

    /// Starts a program and waits for its end. No outcome where nobody waits for it any more; the program is there to be
    /// finished wherever it was cloned.
    async fn attempt(
        self: &Arc<Self>,
        plan: &Arc<LaunchPlan>,
        method: Method,
        timeout: Duration,
        tell: &mut oneshot::Sender<Outcome>,
    ) -> (Option<Outcome>, Option<Running>) {
        match self.launch(plan, method).await {
            Ok(mut running) => (running.outcome(timeout, tell).await, Some(running)),
            Err(error) => (Some(Outcome::NotStarted(error)), None),
        }
    }

    async fn launch(self: &Arc<Self>, plan: &Arc<LaunchPlan>, method: Method) -> Result<Running, StartError> {
        let _turn = self.cloning.lock().await;
        let (inner, plan) = (Arc::clone(self), Arc::clone(plan));
        let launched = spawn_blocking(move || inner.launch_blocking(&plan, method)).await;
        launched.unwrap_or_else(|e| Err(StartError::refused(Stage::Spawn, e.to_string())))
    }

    fn launch_blocking(&self, plan: &LaunchPlan, method: Method) -> Result<Running, StartError> {
        let dir = self.make(&plan.cgroup_name)?;
        let plan = LaunchPlan { cgroup_name: dir.name().to_owned(), ..plan.clone() };
        let started = match limits::apply(&dir, &self.budget) {
            Ok(_) => Running::start(&plan, dir, method),
            Err(error) => Err((dir, error)),
        };
        started.map_err(|(dir, error)| {
            if let Err(e) = kill::remove(&self.dir, dir.name()) {
                tracing::error!(error = %chain(&e), "the directory of a failed start could not be removed");
            }
            error
        })
    }

    /// A fresh directory for a program of `run`.
    fn make(&self, run: &str) -> Result<Dir, StartError> {
        let mut tries = 0;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            tries += 1;
            match self.dir.create(&format!("{run}.{number}")) {
                Err(DirError::Exists { .. }) if tries < TRIES => {}
                made => return made.map_err(|e| e.at(Stage::Cgroup)),
            }
        }
    }

    /// Sees a program and everything it left behind to its end.
    async fn finish(self: &Arc<Self>, mut running: Running) {
        running.end().await;
        self.clear(&running.dir).await;
        running.is_gone();
    }

    /// Kills what is in `dir`, waits until it is gone, and removes the directory.
    async fn clear(self: &Arc<Self>, dir: &Dir) {
        let empty = empty(dir);
        tokio::pin!(empty);
        let emptied = if let Ok(emptied) = tokio::time::timeout(SLOW, &mut empty).await {
            emptied
        } else {
            tracing::warn!(dir = dir.name(), "killed, and still there: its processes are in uninterruptible sleep");
            empty.await
        };
        match emptied {
            Err(e) if e.is_absent() => return,
            Err(error) => tracing::error!(error = %chain(&error), "a program beside a run cannot be ended"),
            Ok(()) => {}
        }
        self.remove(dir.name()).await;
    }

    async fn remove(self: &Arc<Self>, name: &str) {
        let (mut wait, mut waited) = (FIRST_WAIT, Duration::ZERO);
        loop {
            let (inner, child) = (Arc::clone(self), name.to_owned());
            match spawn_blocking(move || kill::remove(&inner.dir, &child)).await {
                Ok(Err(e)) if e.is_busy() && waited < GIVE_UP => {
                    tokio::time::sleep(wait).await;
                    waited += wait;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Ok(Err(error)) => {
                    tracing::error!(error = %chain(&error), "the directory of a program beside a run stays");
                    return;
                }
                // Without an answer the runtime is going down.
                Ok(Ok(())) | Err(_) => return,
            }
        }
    }
}

/// Kills everything in `dir` and waits until `populated` is 0, however long that takes.
async fn empty(dir: &Dir) -> Result<(), DirError> {
    if !dir.populated()? {
        return Ok(());
    }
    kill::kill(dir)?;
    let unwatched = |source| DirError::Io { action: "wait for", path: dir.path().join("cgroup.events"), source };
    let events = dir.open_events()?;
    let events = watched(events.as_fd(), Interest::PRIORITY).map_err(unwatched)?;
    while dir.populated()? {
        events.ready(Interest::PRIORITY).await.map_err(unwatched)?.clear_ready();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::{Controller, Why, Withheld};

    #[test]
    fn what_this_host_cannot_limit_is_left_out() {
        let withheld =
            |controller| Withheld { controller, why: Why::Refused { dir: "/cg".into(), reason: "for a test".into() } };
        let files = |withheld| -> Vec<_> {
            budget(&limits::Host { page_size: 4096, withheld }).iter().map(Setting::file).collect()
        };
        let memory = ["memory.swap.max", "memory.oom.group", "memory.max"];
        assert_eq!(files(vec![]), [&memory[..], &["pids.max"]].concat());
        assert_eq!(files(vec![withheld(Controller::Memory)]), ["pids.max"]);
        assert_eq!(files(vec![withheld(Controller::Pids)]), memory);
        assert!(files(vec![withheld(Controller::Pids), withheld(Controller::Memory)]).is_empty());
    }

    #[test]
    fn only_what_the_way_into_the_cgroup_can_have_caused_is_tried_the_other_way() {
        assert!(other_way_helps(&StartError::refused(Stage::Spawn, "killed at birth")));
        assert!(other_way_helps(&StartError::os(Stage::Clone, "web.1.1", libc::ENOSYS)));
        for errno in [libc::EAGAIN, libc::ENOMEM] {
            assert!(!other_way_helps(&StartError::os(Stage::Clone, "web.1.1", errno)));
        }
        assert!(!other_way_helps(&StartError::os(Stage::Exec, "/bin/no", libc::ENOENT)));
    }
}
