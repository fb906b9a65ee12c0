//! A kernel in memory: what it is asked it does by [`Script`], and what breaks the contract of the port it writes down.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod freezer;
mod happenings;

use crate::clock::Clock;
use crate::kernel::news::NewsSender;
use crate::kernel::port::{Kernel, KernelError, RunNote, Standing};
use crate::model::{
    AboveReading, Counters, CpuStat, ExitStatus, KernelEvent, KernelEventKind, LimitSet, MemoryEvents, Mono, Pressures,
    RunId, Sample, Stage, StartError, Target, Wanted, Way, WorkerId,
};
use crate::spec::types::{Limits, Spec};

use super::script::{Children, Launch, Oom, Script};

const SIGKILL: i32 = 9;
const EAGAIN: i32 = 11;
const ENODEV: i32 = 19;

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

impl Kernel for FakeKernel {
    fn attach(&self, worker: &WorkerId, events: NewsSender) {
        let mut world = self.world();
        world.sinks.insert(worker.clone(), events);
        let untold: Vec<_> = world
            .runs
            .iter()
            .filter_map(|(id, run)| match run.main {
                Main::Reaped(_, status) if id.worker == *worker && !run.removing => {
                    Some((id.clone(), status, run.counters, run.populated(), run.above.clone()))
                }
                _ => None,
            })
            .collect();
        for (id, status, counters, populated, above) in untold {
            world.tell(&id, KernelEventKind::Exited { status, counters, populated, above });
        }
        let failed = world.runs.iter().filter(|(id, run)| id.worker == *worker && !run.removing);
        let failed: Vec<_> = failed.filter_map(|(id, run)| Some((id.clone(), run.failed.clone()?))).collect();
        for (id, error) in failed {
            world.tell(&id, KernelEventKind::LaunchFailed(error));
        }
    }

    fn prepare(&self, run: &RunId, spec: &Arc<Spec>, note: &RunNote) -> Result<Counters, StartError> {
        let now = self.clock.now();
        let mut world = self.world();
        world.calls.push((now, Call::Prepare(run.clone())));
        let last = world.last_run.insert(run.worker.clone(), run.number).unwrap_or(0);
        if run.number <= last {
            world.breach(format!("{run} is prepared after run {last}"));
        }
        let live = world.runs.iter().find(|(id, other)| id.worker == run.worker && other.populated());
        if let Some((live, _)) = live {
            let breach = format!("{run} is prepared while {live} lives");
            world.breach(breach);
        }
        let script = world.next_script(&run.worker);
        if let Some(error) = script.prepare {
            return Err(error);
        }
        world.last_made.insert(run.worker.clone(), run.number);
        let counters =
            Counters { local: Some(MemoryEvents::default()), memory: Some(MemoryEvents::default()), pids_max: Some(0) };
        let mut made = Run {
            script,
            note: RunNote { baseline: counters, ..note.clone() },
            main: Main::Unborn,
            children: false,
            counters,
            launched: now,
            dying: false,
            above_high: false,
            throttled: (None, Duration::ZERO),
            failed: None,
            above: None,
            draining: false,
            told_empty: false,
            found_empty: false,
            gone: false,
            removing: false,
            limits: InForce::default(),
            freezer: freezer::Freezer::default(),
            takeovers: 0,
            exit_lost: false,
            env: BTreeMap::new(),
        };
        made.limits.set(&spec.limits, false);
        world.runs.insert(run.clone(), made);
        Ok(counters)
    }

    fn launch(&self, run: &RunId, _spec: &Arc<Spec>, way: Way) {
        let mut world = self.world();
        let env = world.env.clone();
        let Some(found) = world.called(self.clock.now(), Call::Launch(run.clone(), way), run) else { return };
        if found.main != Main::Unborn {
            return world.breach(format!("{run} is launched twice"));
        }
        found.main = Main::Asked;
        found.env = env;
        let id = run.clone();
        match found.script.launch.clone() {
            Launch::Runs(after) => self.later(&mut world, after, move |this, world| this.main_lives(world, &id)),
            Launch::Fails(after, error) => {
                self.later(&mut world, after, move |_, world| world.launch_fails(&id, error));
            }
            Launch::Unanswered => {}
        }
    }

    fn signal(&self, run: &RunId, signal: i32, to: Target, thaws: bool) -> Result<(), KernelError> {
        let mut world = self.world();
        if thaws {
            self.write_freeze(&mut world, run, false);
        }
        let Some(found) = world.called(self.clock.now(), Call::Signal(run.clone(), signal, to), run) else {
            return Ok(());
        };
        let children_obey = to == Target::All && matches!(found.script.children, Children::Brief(_));
        self.react(&mut world, run, signal);
        if children_obey {
            self.children_end(&mut world, run);
        }
        Ok(())
    }

    fn kill(&self, run: &RunId) -> Result<(), KernelError> {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Kill(run.clone()), run) else { return Ok(()) };
        if found.gone {
            return Err(refused("cgroup.kill", run, ENODEV));
        }
        if found.script.kill_refusals > 0 {
            found.script.kill_refusals -= 1;
            return Err(refused("cgroup.kill", run, EAGAIN));
        }
        let slowly = found.script.dies_slowly;
        let id = run.clone();
        self.later(&mut world, slowly, move |this, world| {
            world.launch_fails(&id, StartError::os(Stage::Spawn, "", 0));
            this.main_ends(world, &id, ExitStatus::Signaled { signal: SIGKILL, core: false });
            this.children_end(world, &id);
        });
        Ok(())
    }

    fn drain(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Drain(run.clone()), run) else { return };
        found.draining = true;
        if matches!(found.main, Main::Asked | Main::Alive(_)) {
            world.breach(format!("{run} is drained while its main process lives"));
        }
        self.tell_if_empty(&mut world, run);
    }

    fn remove(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Remove(run.clone()), run) else { return };
        if found.populated() || !(found.told_empty || found.found_empty || found.gone) {
            return world.breach(format!("{run} is removed before it was empty"));
        }
        found.removing = true;
        let takes = found.script.removal_takes;
        let id = run.clone();
        self.later(&mut world, takes, move |_, world| {
            world.runs.remove(&id);
            world.tell(&id, KernelEventKind::Removed);
        });
    }

    fn sample(&self, run: &RunId, _wanted: Wanted) -> Sample {
        let now = self.clock.now();
        let mut world = self.world();
        let Some(found) = world.called(now, Call::Sample(run.clone()), run) else { return Sample::default() };
        let periods = |time: Duration| u64::try_from(time.as_millis() / 100).unwrap_or(u64::MAX);
        let (since, before) = found.throttled;
        let throttled = before + since.map_or(Duration::ZERO, |since| now.since(since));
        Sample {
            resident_bytes: Some(if found.above_high { 1 << 40 } else { 1 << 12 }),
            memory_current_bytes: Some(1 << 13),
            cpu: Some(CpuStat {
                usage_usec: 1000 * periods(now.since(found.launched)),
                nr_periods: periods(now.since(found.launched)),
                nr_throttled: periods(throttled),
                throttled_usec: u64::try_from(throttled.as_micros() / 2).unwrap_or(u64::MAX),
            }),
            pressure: Pressures::default(),
        }
    }

    fn tripwire(&self, run: &RunId, _spec: &Arc<Spec>, armed: bool) -> Result<(), KernelError> {
        let mut world = self.world();
        world.called(self.clock.now(), Call::Tripwire(run.clone(), armed), run);
        Ok(())
    }

    fn change_limits(&self, run: &RunId, spec: &Arc<Spec>, lifted: bool) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Limits(run.clone()), run) else { return };
        let set = match &found.script.limits_refused {
            Some(error) => Err(error.clone()),
            None => Ok(found.limits.set(&spec.limits, lifted)),
        };
        let (id, takes, takeovers) = (run.clone(), found.script.limits_take, found.takeovers);
        let ice = world.form_ice(run);
        self.later(&mut world, takes, move |this, world| {
            // Nobody carries on what a supervisor had begun that is gone.
            if world.runs.get(&id).is_none_or(|run| run.takeovers == takeovers) {
                this.melt_ice(world, &id, ice);
                world.tell(&id, KernelEventKind::LimitsSet(set));
            }
        });
    }

    fn freeze(&self, run: &RunId, frozen: bool) -> Result<(), KernelError> {
        self.freeze_or_thaw(run, frozen)
    }

    fn rewatch(&self, run: &RunId, _spec: &Arc<Spec>) {
        self.world().called(self.clock.now(), Call::Rewatch(run.clone()), run);
    }

    fn set_global_env(&self, env: &BTreeMap<String, String>) {
        self.world().env.clone_from(env);
    }

    fn look_again(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.runs.get_mut(run).filter(|found| !found.removing) else { return };
        if let Main::Reaped(_, status) = found.main
            && std::mem::take(&mut found.exit_lost)
        {
            let (counters, populated, above) = (found.counters, found.populated(), found.above.clone());
            world.tell(run, KernelEventKind::Exited { status, counters, populated, above });
        }
        self.tell_if_empty(&mut world, run);
        world.look_at_the_freezer(run);
    }

    fn freeze_held_up(&self, run: &RunId, frozen: bool) -> Option<String> {
        let world = self.world();
        let found = world.runs.get(run)?;
        (found.freezer.frozen != frozen).then(|| "not frozen yet: pid 300 (fake) D in folio_wait_bit".to_owned())
    }

    fn stuck_on(&self, run: &RunId) -> Option<String> {
        self.world().runs.get(run).map(|_| "pid 300 (fake) D in folio_wait_bit".to_owned())
    }

    fn note(&self, run: &RunId, now: Standing) -> Result<(), KernelError> {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Note(run.clone()), run) else { return Ok(()) };
        found.note.stands(now);
        Ok(())
    }
}
