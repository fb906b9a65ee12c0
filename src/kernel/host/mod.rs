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
//!
//! * `table`: what is known of each run. `start`: how one begins; `living`, `tripwire`, `freezer`: what is changed while it lives;
//!   `end`: what is read when it loses a process and when it ends; `janitor`: its directory removed.
//! * `places`: the directories that runs stand in. `scan`, `takeover`: what an earlier supervisor left. `pump`: all news.
//!   `stuck`: what a process that survives SIGKILL waits in.

mod end;
mod freezer;
mod gate;
mod in_force;
mod janitor;
mod living;
mod places;
mod pump;
mod scan;
mod start;
mod stuck;
mod table;
mod takeover;
mod tripwire;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::{Notify, mpsc};

use crate::clock::Clock;
use crate::keeper::client::{Client, Events};
use crate::keeper::transport::TransportError;
use crate::kernel::ancestors::Ancestors;
use crate::kernel::cgroup::{Dir, DirError, Namespace, kill, limits, signal, stat};
use crate::kernel::news::NewsSender;
use crate::kernel::note;
use crate::kernel::port::{Kernel, KernelError, RunNote, Standing};
use crate::kernel::pressure::Pressure;
use crate::kernel::watch::{self, Interest, WatchError, Watches};
use crate::model::{
    Counters, KernelEvent, KernelEventKind, LimitSet, Measured, RunId, Sample, SliceName, Stage, StartError, Target,
    Usage, Wanted, Way, WorkerId, chain,
};
use crate::spec::types::{Slice, Spec};

pub use in_force::InForce;
use janitor::Janitor;
use places::{Place, Places};
pub use pump::{Lost, Pump};
pub use scan::{Found, Scan};
use table::{Leaving, Run, Table};

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
    gate: Mutex<gate::Gate<start::Wanting>>,
    /// A launch was asked for.
    queued: Notify,
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
            gate: Mutex::default(),
            queued: Notify::new(),
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

    /// Whether the run is frozen now, or being frozen, by whomever. One that cannot be read is not said to be.
    #[must_use]
    pub fn is_frozen(&self, run: &RunId) -> bool {
        self.inner.dir(run).is_some_and(|dir| freezer::is_frozen(&dir))
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

    /// Tells the keeper that every worker is to be stopped.
    pub fn going_down(&self) {
        heard(self.inner.keeper.going_down());
    }

    /// What a living run uses: memory, CPU time, processes. What cannot be read is absent; so is all of a run that is over.
    #[must_use]
    pub fn glance(&self, run: &RunId) -> Usage {
        self.inner.dir(run).map(|dir| stat::glance(&dir, &self.inner.limits.withheld)).unwrap_or_default()
    }

    /// All that a living run uses and is held to: a dozen files. What cannot be read is absent; so is all of a run that is over.
    #[must_use]
    pub fn measure(&self, run: &RunId) -> Measured {
        self.inner.dir(run).map(|dir| stat::measure(&dir)).unwrap_or_default()
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
        start::launch(&self.inner, run, spec, way);
    }

    fn signal(&self, run: &RunId, signal: i32, to: Target, thaws: bool) -> Result<(), KernelError> {
        if thaws && let Some(Err(e)) = self.inner.dir(run).map(|dir| signal::make_heard(&dir)) {
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
        if self.inner.gate().withdraw(run) {
            self.inner.tell(run, KernelEventKind::LaunchFailed(StartError::called_off()));
        }
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

    fn freeze(&self, run: &RunId, frozen: bool) -> Result<(), KernelError> {
        freezer::freeze(&self.inner, run, frozen)
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

    fn freeze_held_up(&self, run: &RunId, frozen: bool) -> Option<String> {
        freezer::held_up(&self.inner, run, frozen)
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

    /// A run that cannot be watched is still held to its limits, and its counters are read at its end.
    fn watch(&self, run: &RunId, dir: &Arc<Dir>) {
        if let Err(e) = self.watches.add(run, dir, Interest::ALL) {
            tracing::warn!(%run, error = %chain(&e), "a run is not watched");
        }
    }

    fn write_note(&self, run: &RunId, dir: &Dir) -> Result<(), KernelError> {
        let Some(note) = self.table().runs.get(run).and_then(|r| r.note.clone()) else { return Ok(()) };
        note::write(dir, self.namespace, &note).map_err(|e| refused("record", run, io::Error::other(e)))
    }
}

/// A message that could not be sent: the keeper is gone, which the pump hears at the same moment, or we are out of
/// descriptors.
fn heard(sent: Result<(), TransportError>) {
    if let Err(e) = sent {
        tracing::error!(error = %chain(&e), "the keeper cannot be told");
    }
}

fn refused(action: &'static str, run: &RunId, source: io::Error) -> KernelError {
    KernelError { action, run: run.clone(), source }
}
