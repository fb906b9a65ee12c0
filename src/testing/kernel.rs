//! A kernel in memory: what it is asked it does by [`Script`], and what breaks the contract of the port it writes down.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod asked;
mod freezer;
mod happenings;

use crate::clock::Clock;
use crate::kernel::news::NewsSender;
use crate::kernel::port::{KernelError, RunNote};
use crate::model::{
    AboveReading, Counters, ExitStatus, KernelEvent, KernelEventKind, LimitSet, Mono, RunId, StartError, Target, Way,
    WorkerId,
};
use crate::spec::types::Limits;

use super::script::{Oom, Script};

const SIGKILL: i32 = 9;

/// Numbers are scarce, so that they are used again soon.
const PIDS: std::ops::RangeInclusive<i32> = 300..=340;

/// The fake. Cheap to clone; all clones are one kernel.
#[derive(Clone)]
pub struct FakeKernel {
    clock: Clock,
    world: Arc<Mutex<World>>,
}

/// Something that was asked of the kernel, in the order it was.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the port's")]
pub enum Call {
    Prepare(RunId),
    Launch(RunId, Way),
    Signal(RunId, i32, Target),
    Kill(RunId),
    Drain(RunId),
    Remove(RunId),
    Note(RunId),
    Sample(RunId),
    Tripwire(RunId, bool),
    Limits(RunId),
    Freeze(RunId, bool),
    Rewatch(RunId),
}

/// What a supervisor has left of a worker.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The highest number that any run of it ever had.
    pub last_run: u32,
    /// The newest run that its keeper knows.
    pub newest: Option<Left>,
    /// The record of a later one that was never launched.
    pub half_made: Option<Box<RunNote>>,
    /// All others.
    pub debris: Vec<RunId>,
}

/// A run whose keeper has not been told to forget it.
#[derive(Debug, Clone)]
pub struct Left {
    /// Its main process; `None` where its launch is not decided yet, or has failed.
    pub pid: Option<i32>,
    /// Its record.
    pub note: Box<RunNote>,
    /// Its keeper has seen its end.
    pub ended: bool,
    /// It is frozen.
    pub frozen: bool,
}

struct World {
    random: fastrand::Rng,
    chaos: bool,
    sinks: BTreeMap<WorkerId, NewsSender>,
    scripts: BTreeMap<WorkerId, VecDeque<Script>>,
    runs: BTreeMap<RunId, Run>,
    /// The highest number that was given out, and the highest whose directory was made: a supervisor that dies at once may leave
    /// no trace of one that was not.
    last_run: BTreeMap<WorkerId, u32>,
    last_made: BTreeMap<WorkerId, u32>,
    pids: BTreeSet<i32>,
    calls: Vec<(Mono, Call)>,
    breaches: Vec<String>,
    env: BTreeMap<String, String>,
}

struct Run {
    script: Script,
    note: RunNote,
    main: Main,
    children: bool,
    counters: Counters,
    launched: Mono,
    /// Its main process was sent SIGKILL: nothing else can end it any more.
    dying: bool,
    above_high: bool,
    /// When its quota began to run out, and for how long it has in all.
    throttled: (Option<Mono>, Duration),
    /// Why it never ran.
    failed: Option<StartError>,
    /// The cgroups above it, where an OOM came from there.
    above: Option<Box<AboveReading>>,
    draining: bool,
    told_empty: bool,
    /// A supervisor has found it so.
    found_empty: bool,
    gone: bool,
    removing: bool,
    limits: InForce,
    freezer: freezer::Freezer,
    /// How many supervisors have found it.
    takeovers: u32,
    /// Nobody was told how its main process ended.
    exit_lost: bool,
    /// The global environment it was launched with.
    env: BTreeMap<String, String>,
}

/// The limits of a run.
#[derive(Debug, Default)]
struct InForce(BTreeMap<&'static str, String>);

impl InForce {
    /// Holds the run to `limits`; what is another than before.
    fn set(&mut self, limits: &Limits, lifted: bool) -> Vec<LimitSet> {
        let text = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        let mut files = vec![("memory.max", text(limits.memory.max)), ("pids.max", text(limits.pids.max))];
        if !lifted {
            files.push(("memory.high", text(limits.memory.high)));
        }
        let changed =
            files.into_iter().filter(|(file, value)| self.0.insert(*file, value.clone()).as_ref() != Some(value));
        changed.map(|(file, value)| LimitSet { file, value }).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Main {
    Unborn,
    Asked,
    Alive(i32),
    Reaped(i32, Option<ExitStatus>),
    Failed,
}

impl Run {
    fn populated(&self) -> bool {
        matches!(self.main, Main::Asked | Main::Alive(_)) || self.children
    }
}

impl FakeKernel {
    /// A kernel whose every choice comes from `seed`.
    #[must_use]
    pub fn new(clock: Clock, seed: u64) -> Self {
        let world = World {
            random: fastrand::Rng::with_seed(seed),
            chaos: false,
            sinks: BTreeMap::new(),
            scripts: BTreeMap::new(),
            runs: BTreeMap::new(),
            last_run: BTreeMap::new(),
            last_made: BTreeMap::new(),
            pids: BTreeSet::new(),
            calls: Vec::new(),
            breaches: Vec::new(),
            env: BTreeMap::new(),
        };
        Self { clock, world: Arc::new(Mutex::new(world)) }
    }

    /// How the next run of `worker` for which nothing is said yet behaves.
    pub fn script(&self, worker: &WorkerId, script: Script) {
        self.world().scripts.entry(worker.clone()).or_default().push_back(script);
    }

    /// Whether runs that nothing is said for behave at random.
    pub fn chaos(&self, on: bool) {
        self.world().chaos = on;
    }

    /// What was asked, with the moment.
    #[must_use]
    pub fn calls(&self) -> Vec<(Mono, Call)> {
        self.world().calls.clone()
    }

    /// What was asked against the contract of the port, in words. Empty is right.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        self.world().breaches.clone()
    }

    /// Directories that exist.
    #[must_use]
    pub fn directories(&self) -> Vec<RunId> {
        self.world().runs.iter().filter(|(_, run)| !run.gone).map(|(id, _)| id.clone()).collect()
    }

    /// The record on a run's directory.
    #[must_use]
    pub fn note_of(&self, run: &RunId) -> Option<RunNote> {
        self.world().runs.get(run).map(|run| run.note.clone())
    }

    /// Ends the main process of `run` now.
    pub fn exit(&self, run: &RunId, status: ExitStatus) {
        self.main_ends(&mut self.world(), run, status);
    }

    /// Lets the OOM killer take something of `run` now.
    pub fn oom(&self, run: &RunId, what: Oom) {
        self.oom_kill(&mut self.world(), run, what);
    }

    /// The global environment that `run` was launched with.
    #[must_use]
    pub fn env_of(&self, run: &RunId) -> BTreeMap<String, String> {
        self.world().runs.get(run).map(|found| found.env.clone()).unwrap_or_default()
    }

    /// What `file` of `run` says.
    #[must_use]
    pub fn limit(&self, run: &RunId, file: &str) -> Option<String> {
        self.world().runs.get(run)?.limits.0.get(file).cloned()
    }

    /// Removes the directory of `run` as a stranger would, and says so.
    pub fn steal_directory(&self, run: &RunId) {
        self.world().lose(run);
    }

    /// What a new supervisor finds of `worker` before its actors begin. How a run ended is told again once the worker is
    /// attached, until it is removed.
    #[must_use]
    pub fn recover(&self, worker: &WorkerId) -> Recovered {
        let mut world = self.world();
        world.sinks.remove(worker);
        let last_run = world.last_made.get(worker).copied().unwrap_or(0);
        world.last_run.insert(worker.clone(), last_run);
        let mut found = Recovered { last_run, newest: None, half_made: None, debris: Vec::new() };
        world.runs.retain(|id, run| id.worker != *worker || !run.removing);
        self.found_in_the_freezer(&mut world, worker);
        for (id, run) in world.runs.iter_mut().filter(|(id, _)| id.worker == *worker) {
            run.takeovers += 1;
            run.draining = false;
            run.told_empty = false;
            run.found_empty = !run.populated();
            let (pid, ended) = match run.main {
                Main::Alive(pid) => (Some(pid), false),
                Main::Reaped(pid, _) => (Some(pid), true),
                Main::Asked => (None, false),
                Main::Failed => (None, true),
                Main::Unborn => {
                    found.half_made = Some(Box::new(run.note.clone()));
                    found.debris.push(id.clone());
                    continue;
                }
            };
            let newest = Left { pid, note: Box::new(run.note.clone()), ended, frozen: run.freezer.frozen };
            found.debris.extend(found.newest.replace(newest).map(|earlier| earlier.note.run));
        }
        let numbers = (&found.newest, &found.half_made);
        if let (Some(newest), Some(half_made)) = numbers {
            if half_made.run.number > newest.note.run.number {
                found.debris.extend(found.newest.take().map(|earlier| earlier.note.run));
            } else {
                found.half_made = None;
            }
        }
        found
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Somebody moves the processes of `run` out and removes its directory.
    fn lose(&mut self, run: &RunId) {
        if let Some(found) = self.runs.get_mut(run).filter(|run| !run.gone && !run.removing) {
            found.gone = true;
            // What is outside is none of the run's any more.
            found.children = false;
            self.tell(run, KernelEventKind::CgroupGone);
        }
    }

    fn launch_fails(&mut self, id: &RunId, error: StartError) {
        let Some(run) = self.runs.get_mut(id) else { return };
        if run.main == Main::Asked {
            run.main = Main::Failed;
            run.failed = Some(error.clone());
            self.tell(id, KernelEventKind::LaunchFailed(error));
        }
    }

    fn tell(&mut self, run: &RunId, kind: KernelEventKind) {
        if let Some(sink) = self.sinks.get(&run.worker) {
            sink.send(KernelEvent { run: run.clone(), kind });
        }
    }

    /// Notes a call, and whether its run is one that may be spoken of.
    fn called(&mut self, now: Mono, call: Call, run: &RunId) -> Option<&mut Run> {
        let known = self.runs.get(run).is_some_and(|run| !run.removing);
        if !known {
            self.breaches.push(format!("{call:?} of a run that does not exist"));
        }
        self.calls.push((now, call));
        self.runs.get_mut(run).filter(|run| !run.removing)
    }

    fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    fn next_script(&mut self, worker: &WorkerId) -> Script {
        let said = self.scripts.get_mut(worker).and_then(VecDeque::pop_front);
        said.unwrap_or_else(|| if self.chaos { Script::random(&mut self.random) } else { Script::default() })
    }
}

fn refused(action: &'static str, run: &RunId, errno: i32) -> KernelError {
    KernelError { action, run: run.clone(), source: io::Error::from_raw_os_error(errno) }
}
