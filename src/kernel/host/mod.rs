//! The kernel of this host, as workers use it: cgroup directories, watches and the keeper behind one [`Kernel`].
//!
//! ```text
//!  actor ── prepare, launch, kill, drain … ──▶ HostKernel ──▶ cgroupfs, keeper
//!    ▲                                            │ table of runs
//!    └──────── KernelEvent ──── Pump ◀────────────┴── keeper's messages, inotify's hints, pressure, janitor
//! ```
//!
//! What decides is elsewhere: this module reads, writes and passes on. Every answer is a level that was read, never a
//! notification that was counted. The table's lock is held for map operations only, never across a system call.

mod janitor;
mod living;
mod places;
mod pump;
mod scan;
mod stuck;
mod takeover;
mod tripwire;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::keeper::client::{Client, Events};
use crate::keeper::protocol::LogFiles;
use crate::keeper::transport::TransportError;
use crate::kernel::ancestors::{Ancestors, history::Kills};
use crate::kernel::cgroup::{Dir, DirError, Namespace, events, kill, limits, signal, stat};
use crate::kernel::launch::plan::{LaunchPlan, Session};
use crate::kernel::launch::resolve::{self, Inherit};
use crate::kernel::news::NewsSender;
use crate::kernel::port::{Kernel, KernelError, RunNote, Standing};
use crate::kernel::pressure::{Pressure, triggers};
use crate::kernel::watch::{self, Interest, WatchError, Watches};
use crate::kernel::{note, pidfd};
use crate::model::{
    AboveReading, Counters, KernelEvent, KernelEventKind, LimitSet, LogPolicy, Mono, RunId, Sample, Segment, SliceName,
    Stage, StartError, Stream, Target, Usage, Wanted, Way, WorkerId, chain,
};
use crate::spec::types::{Slice, Spec};

use janitor::Janitor;
use places::{Place, Places};
pub use pump::{Lost, Pump};
pub use scan::{Found, Scan};

/// How long users, groups and env files may take to be read: they can come over a network.
const LOOK_UP: Duration = Duration::from_secs(10);

/// What the driver is made of.
#[derive(Debug)]
pub struct Parts {
    /// `ROOT/workers`.
    pub workers: Dir,
    /// The slices of the configuration.
    pub slices: Vec<Slice>,
    /// What is above the workers, `ROOT/workers` included.
    pub ancestors: Ancestors,
    /// Where records go.
    pub namespace: Namespace,
    /// Page size, and the controllers we do not have.
    pub limits: limits::Host,
    /// The supervisor's end of the keeper: asking …
    pub keeper: Client,
    /// … and hearing.
    pub news: Events,
    /// `STATE/logs`.
    pub logs: PathBuf,
    /// The configuration's global environment.
    pub global_env: BTreeMap<String, String>,
    /// Our own environment.
    pub inherited: BTreeMap<OsString, OsString>,
    /// The clock.
    pub clock: Clock,
}

/// The kernel of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HostKernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    places: Arc<Places>,
    namespace: Namespace,
    limits: limits::Host,
    keeper: Client,
    clock: Clock,
    watches: Watches,
    pressure: Pressure,
    leaving: Leaving,
    janitor: Janitor,
    logs: PathBuf,
    global_env: RwLock<Arc<BTreeMap<String, String>>>,
    inherited: BTreeMap<OsString, OsString>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sinks: HashMap<WorkerId, NewsSender>,
    /// Boxed: a table has up to twice the room that it needs.
    runs: HashMap<RunId, Box<Run>>,
    /// Where runs of an earlier supervisor are, until something is done with them; those in `ROOT/workers` itself are not here.
    found: HashMap<RunId, Arc<Place>>,
}

/// What is known of one run.
#[derive(Debug)]
struct Run {
    dir: Arc<Dir>,
    place: Arc<Place>,
    /// `None`: a stranger's, which has no record of ours.
    note: Option<RunNote>,
    /// What its counters have said so far.
    kills: Kills,
    /// Whether its end was told with what is above it.
    ended: bool,
    /// Whether it was read to be empty at its end: nobody is left who could make its counters grow.
    empty: bool,
    /// Whether its emptiness has been asked for and not yet been told.
    draining: bool,
    /// Whether `memory.high` was last asked to be out of force.
    lifted: bool,
}

impl Run {
    #[expect(clippy::large_types_passed_by_value, reason = "it is moved into place")]
    fn new(dir: Arc<Dir>, place: Arc<Place>, note: Option<RunNote>, kills: Kills) -> Box<Self> {
        Box::new(Self { dir, place, note, kills, ended: false, empty: false, draining: false, lifted: false })
    }
}

/// Runs that are over and whose triggers are being closed, with the directory that theirs is in.
#[derive(Debug, Clone, Default)]
struct Leaving(Arc<Mutex<HashMap<RunId, Arc<Place>>>>);

impl Leaving {
    fn add(&self, run: &RunId, place: &Arc<Place>) {
        self.map().insert(run.clone(), Arc::clone(place));
    }

    fn take(&self, run: &RunId) -> Option<Arc<Place>> {
        self.map().remove(run)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Place>>> {
        // The map is whole between any two of its operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostKernel {
    /// Puts the parts together. Call it inside a tokio runtime; the [`Pump`] must run for any answer to come.
    ///
    /// # Errors
    /// Where inotify or a thread cannot be had.
    pub fn new(parts: Parts) -> io::Result<(Self, Pump)> {
        let (watches, hints) = watch::channel(parts.clock)?;
        watches.add_parent(&parts.workers).map_err(io::Error::other)?;
        let (done, removed) = mpsc::unbounded_channel();
        let workers = Arc::new(parts.workers.try_clone().map_err(DirError::into_io)?);
        let places = Places::new(parts.workers, parts.ancestors, parts.limits.clone(), watches.clone(), parts.clock);
        places.declare(parts.slices, parts.namespace);
        let places = Arc::new(places);
        let janitor = Janitor::start(Arc::clone(&places), done)?;
        let (press, pressed) = mpsc::unbounded_channel();
        let leaving = Leaving::default();
        let pressure = Pressure::start(workers, press, {
            let (janitor, leaving) = (janitor.clone(), leaving.clone());
            move |run| {
                if let Some(place) = leaving.take(&run) {
                    janitor.remove(run, place);
                }
            }
        })?;
        let inner = Arc::new(Inner {
            places,
            namespace: parts.namespace,
            limits: parts.limits,
            keeper: parts.keeper,
            clock: parts.clock,
            watches,
            pressure,
            leaving,
            janitor,
            logs: parts.logs,
            global_env: RwLock::new(Arc::new(parts.global_env)),
            inherited: parts.inherited,
            table: Mutex::default(),
        });
        Ok((Self { inner: Arc::clone(&inner) }, Pump::new(inner, parts.news, hints, pressed, removed)))
    }

    /// Makes a slice, for runs that begin from now on. It blocks, for a few seconds at most.
    ///
    /// # Errors
    /// Where it is not as it should be; each start in it tries again.
    pub fn make_slice(&self, slice: &Slice) -> Result<(), StartError> {
        self.inner.places.declare_one(slice)
    }

    /// Gives a slice other limits, with everything in it going on. It blocks, for a few seconds at most. What was changed.
    ///
    /// # Errors
    /// Where they cannot be had: the old ones are in force then.
    pub fn change_slice(&self, slice: &Slice) -> Result<Vec<LimitSet>, StartError> {
        self.inner.places.change(slice, self.inner.namespace)
    }

    /// Removes a slice, or has it removed with the last run in it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove_slice(&self, slice: &SliceName) -> Result<(), DirError> {
        self.inner.places.undeclare(slice)
    }

    /// Whether the run is frozen now. One that cannot be read is not said to be.
    #[must_use]
    pub fn is_frozen(&self, run: &RunId) -> bool {
        self.inner.dir(run).is_some_and(|dir| dir.frozen().unwrap_or(false))
    }

    /// Has the keeper become one of the binary `file` once we have ended.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn reexec(&self, file: OwnedFd, version: String) -> Result<(), TransportError> {
        self.inner.keeper.reexec(file, version).await
    }

    /// Tells the keeper something for systemd (`sd_notify(3)`).
    pub fn notify(&self, state: &str) {
        heard(self.inner.keeper.notify(state));
    }

    /// Tells the keeper that what lives is supervised.
    pub fn took_over(&self) {
        heard(self.inner.keeper.took_over());
    }

    /// What a living run uses: memory, CPU time, processes. What cannot be read is absent; so is all of a run that is over.
    #[must_use]
    pub fn glance(&self, run: &RunId) -> Usage {
        self.inner.dir(run).map(|dir| stat::glance(&dir)).unwrap_or_default()
    }
}

impl Kernel for HostKernel {
    fn attach(&self, worker: &WorkerId, events: NewsSender) {
        self.inner.table().sinks.insert(worker.clone(), events);
    }

    fn prepare(&self, run: &RunId, spec: &Arc<Spec>, note: &RunNote) -> Result<Counters, StartError> {
        let name = run.to_string();
        let place = self.inner.places.of(spec)?;
        let dir = place.dir.create(&name).map_err(|e| e.at(Stage::Cgroup))?;
        match self.inner.furnish(run, (&place, dir), spec, note) {
            Ok(counters) => Ok(counters),
            Err(error) => {
                self.inner.watches.forget(run);
                if let Err(e) = kill::remove(&place.dir, &name) {
                    tracing::error!(%run, error = %chain(&e), "the directory of a failed start could not be removed");
                }
                Err(error)
            }
        }
    }

    fn launch(&self, run: &RunId, spec: &Arc<Spec>, way: Way) {
        let inner = Arc::clone(&self.inner);
        let (run, spec) = (run.clone(), Arc::clone(spec));
        // What can wait for a disk or a network is looked up aside, and only then: a thread hop costs a restart more
        // than the rest of the plan.
        if spec.user.is_none() && spec.group.is_none() && spec.env_files.is_empty() {
            let plan = inner.resolve(&run, &spec);
            return inner.launch(&run, plan, spec.logs, way);
        }
        let policy = spec.logs;
        tokio::spawn(async move {
            let aside = {
                let (inner, run) = (Arc::clone(&inner), run.clone());
                tokio::task::spawn_blocking(move || inner.resolve(&run, &spec))
            };
            let plan = match tokio::time::timeout(LOOK_UP, aside).await {
                Ok(Ok(plan)) => plan,
                Ok(Err(gone)) => Err(StartError::refused(Stage::User, gone.to_string())),
                Err(_) => Err(StartError::refused(
                    Stage::User,
                    format!("looking up user, group and env files took more than {} s", LOOK_UP.as_secs()),
                )),
            };
            inner.launch(&run, plan, policy, way);
        });
    }

    fn signal(&self, run: &RunId, signal: i32, to: Target) -> Result<(), KernelError> {
        if let Some(Err(e)) = self.inner.dir(run).map(|dir| signal::make_heard(&dir)) {
            tracing::warn!(%run, error = %chain(&e), "a frozen run cannot be thawed");
        }
        match to {
            // Its parent has not reaped it, so the number is its own; an ended one is no error there.
            Target::Main => {
                let sent = self.inner.keeper.signal(run, signal);
                sent.map_err(|e| refused("signal", run, io::Error::other(e)))
            }
            Target::All => {
                let Some(dir) = self.inner.dir(run) else { return Ok(()) };
                signal::all(&dir, signal).map_err(|source| refused("signal", run, source))
            }
        }
    }

    fn kill(&self, run: &RunId) -> Result<(), KernelError> {
        let Some(dir) = self.inner.dir(run) else { return Ok(()) };
        // A process with the right to can have moved itself out; the main process is found all the same.
        heard(self.inner.keeper.signal(run, libc::SIGKILL));
        match kill::kill(&dir) {
            Err(e) if e.is_absent() => Ok(()),
            other => other.map_err(|e| refused("cgroup.kill", run, e.into_io())),
        }
    }

    fn drain(&self, run: &RunId) {
        let (dir, empty) = {
            let mut table = self.inner.table();
            let Some(known) = table.runs.get_mut(run) else { return };
            known.draining = true;
            (Arc::clone(&known.dir), known.empty)
        };
        if empty {
            return self.inner.unpopulated(run);
        }
        match self.inner.watches.drain(run, &dir) {
            Ok(true) => {}
            Ok(false) => self.inner.unpopulated(run),
            Err(WatchError::Dir(e)) if e.is_absent() => self.inner.tell(run, KernelEventKind::CgroupGone),
            // It stays `stopping` meanwhile: not proved dead is not stopped.
            Err(e) => self.inner.end_unread(run, &e),
        }
    }

    fn remove(&self, run: &RunId) {
        // Before the rmdir: the kernel keeps the watch of a removed cgroup's file for ever.
        self.inner.watches.forget(run);
        let known = self.inner.table().runs.remove(run);
        // Before the keeper forgets it: a directory with a record, of which nobody knows anything, is taken for a run that
        // ended unseen.
        let erased = match &known {
            Some(known) if known.note.is_some() => note::erase(&known.dir, self.inner.namespace),
            Some(_) => Ok(()),
            None => self.inner.found_dir(run).and_then(|dir| note::erase_if_there(&dir, self.inner.namespace)),
        };
        if let Err(e) = erased
            && !e.is_absent()
        {
            tracing::warn!(%run, error = %chain(&e), "the record of an ended run stays");
        }
        heard(self.inner.keeper.ack(run));
        let place = known.map_or_else(|| self.inner.place_of(run), |known| known.place);
        self.inner.leaving.add(run, &place);
        // With triggers it goes to the janitor once they are closed, which takes longer than an actor may wait.
        if !self.inner.pressure.forget(run)
            && let Some(place) = self.inner.leaving.take(run)
        {
            self.inner.janitor.remove(run.clone(), place);
        }
    }

    fn sample(&self, run: &RunId, wanted: Wanted) -> Sample {
        self.inner.dir(run).map(|dir| stat::sample(&dir, wanted)).unwrap_or_default()
    }

    fn tripwire(&self, run: &RunId, spec: &Arc<Spec>, armed: bool) -> Result<(), KernelError> {
        tripwire::pull(&self.inner, run, spec, armed)
    }

    fn change_limits(&self, run: &RunId, spec: &Arc<Spec>, lifted: bool) {
        living::change_limits(&self.inner, run, spec, lifted);
    }

    fn rewatch(&self, run: &RunId, spec: &Arc<Spec>) {
        living::rewatch(&self.inner, run, spec);
    }

    fn set_global_env(&self, env: &BTreeMap<String, String>) {
        *self.inner.global_env.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(env.clone());
    }

    fn look_again(&self, run: &RunId) {
        self.inner.look_again(run);
    }

    fn stuck_on(&self, run: &RunId) -> Option<String> {
        stuck::describe(&signal::processes_below(&*self.inner.dir(run)?).ok()?)
    }

    fn note(&self, run: &RunId, now: Standing) -> Result<(), KernelError> {
        let dir = {
            let mut table = self.inner.table();
            let Some(known) = table.runs.get_mut(run) else { return Ok(()) };
            let Some(note) = &mut known.note else { return Ok(()) };
            note.stands(now);
            Arc::clone(&known.dir)
        };
        self.inner.write_note(run, &dir)
    }
}

impl Inner {
    /// Nothing under this lock can panic half-way, so a poisoned one is as good as new.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, run: &RunId) -> Option<Arc<Dir>> {
        self.table().runs.get(run).map(|r| Arc::clone(&r.dir))
    }

    /// Where a run stands that an earlier supervisor made.
    fn place_of(&self, run: &RunId) -> Arc<Place> {
        let found = self.table().found.remove(run);
        found.unwrap_or_else(|| Arc::clone(self.places.workers()))
    }

    fn tell(&self, run: &RunId, kind: KernelEventKind) {
        let sink = self.table().sinks.get(&run.worker).cloned();
        if let Some(sink) = sink {
            sink.send(KernelEvent { run: run.clone(), kind });
        } else {
            tracing::debug!(%run, "news of a run that no worker has");
        }
    }

    /// Limits, record, baseline and watches of a fresh directory.
    fn furnish(
        &self,
        run: &RunId,
        (place, dir): (&Arc<Place>, Dir),
        spec: &Spec,
        note: &RunNote,
    ) -> Result<Counters, StartError> {
        limits::apply(&dir, &self.plan(&dir, spec)?)?;
        let counters = events::read(&dir).map_err(|e| e.at(Stage::Cgroup))?;
        let note = RunNote { baseline: counters, ..note.clone() };
        note::write(&dir, self.namespace, &note).map_err(|e| StartError::refused(Stage::Cgroup, chain(&e)))?;
        let dir = Arc::new(dir);
        self.watch(run, &dir);
        // Last: nothing can fail any more, so that a directory with triggers is never removed but by `remove`.
        self.pressure.watch(run, &dir, triggers(&spec.limits));
        let (place, kills) = (Arc::clone(place), Kills::since(counters));
        self.table().runs.insert(run.clone(), Run::new(dir, place, Some(note), kills));
        Ok(counters)
    }

    /// A run that cannot be watched is still held to its limits, and its counters are read at its end.
    fn watch(&self, run: &RunId, dir: &Arc<Dir>) {
        if let Err(e) = self.watches.add(run, dir, Interest::ALL) {
            tracing::warn!(%run, error = %chain(&e), "a run is not watched");
        }
    }

    fn resolve(&self, run: &RunId, spec: &Spec) -> Result<LaunchPlan, StartError> {
        let global_env = Arc::clone(&self.global_env.read().unwrap_or_else(PoisonError::into_inner));
        let context = resolve::Context {
            run,
            global_env: &global_env,
            inherited: &self.inherited,
            inherit: Inherit::AllowList,
            session: Session::New,
        };
        resolve::resolve(spec, &context)
    }

    fn launch(&self, run: &RunId, plan: Result<LaunchPlan, StartError>, policy: LogPolicy, way: Way) {
        let Some(dir) = self.dir(run) else { return };
        let logs = log_files(&self.logs, run, policy);
        let asked = plan.and_then(|plan| match self.keeper.launch(run, logs, dir.as_fd(), &plan, way) {
            // The supervisor is about to end for that: the run is for the next one, and was no failure.
            Err(TransportError::Gone) => Ok(()),
            asked => asked.map_err(|e| StartError::refused(Stage::Keeper, chain(&e))),
        });
        if let Err(error) = asked {
            self.tell(run, KernelEventKind::LaunchFailed(error));
        }
    }

    /// Puts the main process on record, once it is known.
    fn launched(&self, run: &RunId, pid: i32, started_mono_ns: u64) {
        let dir = {
            let mut table = self.table();
            let Some(known) = table.runs.get_mut(run) else { return };
            let Some(note) = &mut known.note else { return };
            note.pid = Some(pid);
            note.started_mono_ns = Some(started_mono_ns);
            Arc::clone(&known.dir)
        };
        // The worker hears of it first: the record is for a supervisor that comes after us.
        self.tell(run, KernelEventKind::Launched { pid });
        let ticks = pidfd::start_ticks(pid);
        if let Some(note) = self.table().runs.get_mut(run).and_then(|known| known.note.as_mut()) {
            note.pid_start_ticks = ticks;
        }
        if let Err(e) = self.write_note(run, &dir) {
            tracing::warn!(%run, error = %chain(&e), "a run's record could not be written");
        }
    }

    fn write_note(&self, run: &RunId, dir: &Dir) -> Result<(), KernelError> {
        let Some(note) = self.table().runs.get(run).and_then(|r| r.note.clone()) else { return Ok(()) };
        note::write(dir, self.namespace, &note).map_err(|e| refused("record", run, io::Error::other(e)))
    }

    /// Reads the counters of a run, and says what they were before.
    fn count(&self, run: &RunId) -> Option<(Counters, Counters)> {
        let dir = self.dir(run)?;
        match events::read(&dir) {
            Ok(now) => {
                let read_at = self.clock.now();
                let before = self.table().runs.get_mut(run).map(|r| r.kills.read(read_at, now))?;
                Some((before, now))
            }
            Err(e) => {
                if !e.is_absent() {
                    tracing::error!(%run, error = %chain(&e), "the counters of a run cannot be read");
                }
                None
            }
        }
    }

    /// Whether a run whose main process was reaped still has others. Unreadable is not empty.
    fn populated_at_the_end(&self, run: &RunId) -> bool {
        let populated = self.dir(run).is_none_or(|dir| dir.populated().unwrap_or(true));
        if let Some(known) = self.table().runs.get_mut(run) {
            known.empty = !populated;
        }
        populated
    }

    /// Whether the main process of a run that has just lost one is it.
    fn main_is_dying(&self, run: &RunId) -> bool {
        let pid = self.table().runs.get(run).and_then(|known| known.note.as_ref()?.pid);
        pid.is_some_and(pidfd::is_dying)
    }

    /// Tells of a draining run that it has been read to be empty: once.
    fn unpopulated(&self, run: &RunId) {
        let (dir, known) = {
            let mut table = self.table();
            let Some(run) = table.runs.get_mut(run).filter(|run| run.draining) else { return };
            run.draining = false;
            (Arc::clone(&run.dir), run.empty.then(|| run.kills.last()))
        };
        let counters = known.or_else(|| self.count(run).map(|(_, now)| now)).unwrap_or_default();
        // An end that was reported has been told with it; one of a run that could not be launched is reported now.
        let above = self.above(run, self.clock.now());
        self.tell(run, KernelEventKind::Unpopulated { usage: stat::usage(&dir), counters, above });
    }

    /// What is above a run that has ended at `end`, where it lost a process to a limit there or to the host. Once; for
    /// every other end nothing is read.
    fn above(&self, run: &RunId, end: Mono) -> Option<Box<AboveReading>> {
        let (place, dead) = {
            let mut table = self.table();
            let known = table.runs.get_mut(run)?;
            if std::mem::replace(&mut known.ended, true) {
                return None;
            }
            (Arc::clone(&known.place), known.kills.from_above()?.min(end))
        };
        Some(Box::new(self.places.ancestors().read(place.slice.as_deref(), dead, self.clock.now())))
    }

    /// Notes what is above a run that lost a process and lives on: its own end may come of it, or a later one must not
    /// be blamed on it.
    fn observe_above(&self, run: &RunId) {
        let place = self.table().runs.get(run).filter(|r| r.kills.from_above().is_some()).map(|r| Arc::clone(&r.place));
        if let Some(place) = place {
            self.places.ancestors().observe(place.slice.as_deref(), self.clock.now());
        }
    }
}

/// A message that could not be sent: the keeper is gone, which the pump hears at the same moment, or we are out of
/// descriptors.
fn heard(sent: Result<(), TransportError>) {
    if let Err(e) = sent {
        tracing::error!(error = %chain(&e), "the keeper cannot be told");
    }
}

/// Where the output of `run` goes: `LOGS/ID/RUN.stdout` and `LOGS/ID/RUN.stderr` are the first files.
fn log_files(logs: &Path, run: &RunId, policy: LogPolicy) -> LogFiles {
    let file = |stream| logs.join(run.worker.as_str()).join(Segment::first(run, stream).to_string());
    LogFiles { stdout: file(Stream::Stdout), stderr: file(Stream::Stderr), policy }
}

fn refused(action: &'static str, run: &RunId, source: io::Error) -> KernelError {
    KernelError { action, run: run.clone(), source }
}
