//! What is read, set and told of a living run: samples, the tripwire, pressure, and the engine that makes episodes of them.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pinfold::{
    clock::{Clock, monotonic},
    keeper::client,
    kernel::{
        ancestors::Ancestors,
        cgroup::{Dir, kill, stat},
        host::{HostKernel, Parts},
        news::{NewsReceiver, news},
        port::{Kernel, RunNote},
        pressure::{Pressure, triggers},
    },
    model::{Counters, KernelEventKind, Limit, Mono, RestartCounts, RunId, Sample, Wanted},
    policy::breaker::Saved,
    policy::violation::{Finding, Rules, Watchman},
    spec::types::{self, Cpu, Limits, Memory, PressureTrigger, Spec, ViolationPolicy},
    worker::rules::rules,
};

use super::{Place, Program, pause, run, tree};

const MIB: u64 = 1 << 20;

/// How many times slower than a plain machine this one may be.
fn slowness() -> f64 {
    std::env::var("PINFOLD_TEST_SLOWNESS").map_or(1.0, |v| v.parse().unwrap())
}

/// One test at a time: they count the threads of the process, and measure.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a level; only a failure takes so long.
fn wait_until(mut level: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs_f64(15.0 * slowness());
    while !level() {
        if Instant::now() > end {
            return false;
        }
        pause(Duration::from_millis(5));
    }
    true
}

/// What only a failure takes.
fn patience() -> Duration {
    Duration::from_secs_f64(30.0 + 15.0 * slowness())
}

/// The driver of a supervisor whose keeper never says anything.
struct Host {
    kernel: HostKernel,
    news: NewsReceiver,
    _keeper: OwnedFd,
    logs: tempfile::TempDir,
    place: Place,
    _alone: MutexGuard<'static, ()>,
}

impl Host {
    /// To be called within a tokio runtime.
    fn new() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let alone = alone();
        let place = Place::new();
        let tree = tree(&place);
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (keeper, events) = client::connect(ours).unwrap();
        let logs = tempfile::tempdir().unwrap();
        let (kernel, pump) = HostKernel::new(Parts {
            limits: tree.host(),
            slices: Vec::new(),
            ancestors: Ancestors::open(place.dir.path(), &[]),
            namespace: tree.xattrs,
            workers: tree.workers,
            keeper,
            news: events,
            logs: logs.path().to_owned(),
            global_env: BTreeMap::new(),
            inherited: BTreeMap::new(),
            clock: Clock::new(),
        })
        .unwrap();
        tokio::spawn(pump.run());
        let (sender, news) = news();
        kernel.attach(&run(1).worker, sender);
        Self { kernel, news, _keeper: theirs, logs, place, _alone: alone }
    }

    /// The cgroup of a new run with `limits`; nothing is in it yet.
    fn prepare(&self, number: u32, limits: Limits) -> (Arc<Spec>, Dir, Counters) {
        let spec = Arc::new(Spec { limits, ..Spec::new(vec!["true".into()]) });
        let baseline = self.kernel.prepare(&run(number), &spec, &note(&run(number))).unwrap();
        (spec, self.place.dir.open_below(&format!("root/workers/{}", run(number))).unwrap(), baseline)
    }

    /// The next news, if it comes within `patience`.
    async fn next(&mut self, patience: Duration) -> Option<KernelEventKind> {
        Some(tokio::time::timeout(patience, self.news.recv()).await.ok()?.1.kind)
    }
}

fn note(run: &RunId) -> RunNote {
    RunNote {
        v: 1,
        uuid: "0190b5a1-7b1e-7000-8000-0123456789ab".into(),
        run: run.clone(),
        spec_hash: 1,
        breaker: Saved::default(),
        restarts: RestartCounts::default(),
        desired_up: true,
        pid: None,
        pid_start_ticks: None,
        boot_id: "-".into(),
        started_mono_ns: None,
        baseline: Counters::default(),
        ending: None,
        untold: Vec::new(),
    }
}

/// One run as its actor will treat it, without an actor: news and time go in, findings come out and the tripwire is pulled.
struct Guard {
    host: Host,
    spec: Arc<Spec>,
    rules: Rules,
    watchman: Watchman,
    counters: Counters,
    /// What was found, and when.
    found: Vec<(Mono, Finding)>,
    /// How often the kernel told something.
    told: u32,
    /// How often something was read because of the time.
    looks: u32,
}

impl Guard {
    fn new(host: Host, limits: Limits) -> (Self, Dir) {
        let (spec, dir, counters) = host.prepare(1, limits);
        let watchman = Watchman::new(monotonic());
        let rules = rules(&spec.limits, 2);
        (Self { host, rules, spec, watchman, counters, found: Vec::new(), told: 0, looks: 0 }, dir)
    }

    /// Goes on until `enough` or for so long.
    async fn until(&mut self, patience: Duration, enough: impl Fn(&Finding) -> bool) -> bool {
        let end = monotonic() + patience;
        let seen = self.found.len();
        while !self.found[seen..].iter().any(|(_, f)| enough(f)) {
            let now = monotonic();
            if now >= end {
                return false;
            }
            let due = self.watchman.deadline(&self.rules).unwrap_or(end).min(end);
            let found = match self.host.next(due.since(now)).await {
                Some(KernelEventKind::Counted { counters, .. }) => {
                    self.told += 1;
                    let grown = counters.since(std::mem::replace(&mut self.counters, counters));
                    self.watchman.counted(&self.rules, grown, monotonic())
                }
                Some(KernelEventKind::Pressed(limit)) => {
                    self.told += 1;
                    self.watchman.pressed(&self.rules, limit, monotonic())
                }
                Some(_) => Vec::new(),
                None => {
                    let now = monotonic();
                    let wanted = self.watchman.wanted(&self.rules, now);
                    self.looks += u32::from(wanted.any());
                    let sample =
                        if wanted.any() { self.host.kernel.sample(&run(1), wanted) } else { Sample::default() };
                    self.watchman.sampled(&self.rules, &sample, now)
                }
            };
            for finding in found {
                let armed = match finding {
                    Finding::LiftHigh { .. } => Some(false),
                    Finding::RearmHigh => Some(true),
                    _ => None,
                };
                if let Some(armed) = armed {
                    self.host.kernel.tripwire(&run(1), &self.spec, armed).unwrap();
                }
                self.found.push((monotonic(), finding));
            }
        }
        true
    }
}

const fn opened(finding: &Finding) -> bool {
    matches!(finding, Finding::Opened(_))
}

const fn recovered(finding: &Finding) -> bool {
    matches!(finding, Finding::Recovered { .. })
}

fn everything() -> Wanted {
    Wanted { memory: true, cpu: true, pressure: true }
}

fn memory_high(bytes: u64) -> Limits {
    Limits { memory: Memory { high: Some(bytes), ..Memory::default() }, ..Limits::default() }
}

fn cpu_max(percent: f64, sustained: u64) -> Limits {
    let sustained = Duration::from_secs(sustained);
    Limits { cpu: Cpu { max_percent: Some(percent), sustained, ..Cpu::default() }, ..Limits::default() }
}

/// Fills `mib` of memory of its own and keeps it.
fn hog(dir: &Dir, mib: u64) -> Program {
    // Without a newline it waits for the end of the line.
    Program::sh(dir, &format!("(head -c {} /dev/zero; exec sleep 1000) | tail", mib * MIB))
}

/// Reads a large file again and again: page cache, no memory of its own.
fn reader(dir: &Dir) -> Program {
    let file = std::env::current_exe().unwrap();
    Program::sh(dir, &format!("while :; do cat {} > /dev/null; done", file.display()))
}

/// The threads of this process with this name.
fn threads(name: &str) -> Vec<std::path::PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|e| e.unwrap().path());
    tasks.filter(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|comm| comm.trim() == name)).collect()
}

/// How often a thread went to sleep and so was woken.
fn switches(thread: &Path) -> u64 {
    let text = std::fs::read_to_string(thread.join("status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// Threads of the kernel that serve triggers of the privileged.
fn psimons() -> usize {
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| std::fs::read_to_string(e.ok()?.path().join("comm")).ok());
    all.filter(|comm| comm.starts_with("psimon")).count()
}

#[tokio::test]
async fn a_sample_has_the_memory_of_the_run_itself_without_page_cache() {
    let host = Host::new();
    let (_spec, dir, _) = host.prepare(1, cpu_max(50.0, 10));
    let file = std::env::current_exe().unwrap();
    let script = format!(
        "cat {} > /dev/null; (head -c {} /dev/zero; exec sleep 1000) | tail & while :; do :; done",
        file.display(),
        20 * MIB
    );
    let _program = Program::sh(&dir, &script);
    let sample = || host.kernel.sample(&run(1), everything());
    let reached = wait_until(|| {
        let now = sample();
        now.resident_bytes.unwrap() >= 20 * MIB && now.cpu.unwrap().nr_throttled >= 10
    });
    let sample = sample();
    assert!(reached, "{sample:?}");
    let (resident, current) = (sample.resident_bytes.unwrap(), sample.memory_current_bytes.unwrap());
    assert!(resident < 90 * MIB && current > resident + MIB, "{sample:?}");
    let cpu = sample.cpu.unwrap();
    assert!(cpu.usage_usec > 100_000 && cpu.nr_periods >= cpu.nr_throttled && cpu.throttled_usec > 0, "{cpu:?}");
    let pressure = sample.pressure;
    assert!(pressure.cpu.unwrap().full_usec > 100_000, "{pressure:?}");
    assert!(pressure.memory.is_some() && pressure.io.is_some());
    assert_eq!(host.kernel.sample(&run(2), everything()), Sample::default(), "of a run that is not there");
}

#[test]
fn the_last_word_on_the_tripwire_holds() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (host, spec, dir) = runtime.block_on(async {
        let host = Host::new();
        let (spec, dir, _) = host.prepare(1, memory_high(64 * MIB));
        (host, spec, dir)
    });
    let high = || dir.read("memory.high").unwrap().trim_end().to_owned();
    let set = |armed| runtime.block_on(async { host.kernel.tripwire(&run(1), &spec, armed).unwrap() });
    assert_eq!(high(), (64 * MIB).to_string());
    set(false);
    assert_eq!(high(), "max", "lifted when the call returns");
    set(true);
    assert!(wait_until(|| high() == (64 * MIB).to_string()));
    for _ in 0..100 {
        set(true);
        set(false);
    }
    // Waits for every write that was begun aside.
    drop(runtime);
    assert_eq!(high(), "max");
}

#[tokio::test]
async fn a_hog_pulls_the_tripwire_and_it_is_set_again_when_the_memory_is_given_back() {
    let (mut guard, dir) = Guard::new(Host::new(), memory_high(48 * MIB));
    let mut program = hog(&dir, 96);
    let high = || dir.read("memory.events.local").unwrap().lines().any(|l| l.starts_with("high ") && l != "high 0");
    // In the background: the runtime of this test has one thread.
    let crossed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&crossed);
    let watch = {
        let dir = Arc::new(guard.host.place.dir.open_below("root/workers/web.1").unwrap());
        std::thread::spawn(move || {
            let high = || {
                dir.read("memory.events.local")
                    .is_ok_and(|t| t.lines().any(|l| l.starts_with("high ") && l != "high 0"))
            };
            assert!(wait_until(high));
            *seen.lock().unwrap() = Some(monotonic());
        })
    };
    assert!(guard.until(patience(), opened).await, "{:?}", guard.found);
    watch.join().unwrap();
    assert!(high());
    let reaction = guard.found[0].0.since(crossed.lock().unwrap().unwrap());
    println!("lifted {reaction:?} after memory.high was crossed");
    assert!(reaction.as_secs_f64() < slowness(), "{reaction:?}");
    assert!(matches!(guard.found[0].1, Finding::LiftHigh { .. }), "before it is told: {:?}", guard.found);
    assert_eq!(dir.read("memory.high").unwrap().trim_end(), "max");
    // Free of it, the hog takes all it wants, which is told no second time.
    assert!(wait_until(|| stat::sample(&dir, everything()).resident_bytes.unwrap() > 90 * MIB));
    kill::kill(&dir).unwrap();
    program.wait();
    assert!(guard.until(patience(), recovered).await, "{:?}", guard.found);
    let told: Vec<_> = guard.found.iter().map(|(_, f)| f).collect();
    assert!(
        matches!(told[..], [_, Finding::Opened(v), Finding::RearmHigh, Finding::Recovered { .. }] if v.limit == Limit::MemoryHigh),
        "{told:?}"
    );
    assert!(wait_until(|| dir.read("memory.high").unwrap().trim_end() == (48 * MIB).to_string()));
    assert_eq!(guard.watchman.deadline(&guard.rules), None);
}

#[tokio::test]
async fn a_reader_at_memory_high_is_no_violation_and_lets_us_sleep() {
    let (mut guard, dir) = Guard::new(Host::new(), memory_high(8 * MIB));
    let _program = reader(&dir);
    // 1, 2, 4 and 8 s of rest.
    guard.until(Duration::from_secs(15), |_| true).await;
    assert!(guard.told >= 2, "the reader is not at its limit");
    (guard.told, guard.looks) = (0, 0);
    guard.until(Duration::from_secs(20), |_| true).await;
    println!("{} notifications and {} looks in 20 s", guard.told, guard.looks);
    assert!((1..=4).contains(&guard.told) && guard.looks <= 4, "{} {}", guard.told, guard.looks);
    assert!(guard.found.is_empty(), "{:?}", guard.found);
}

#[tokio::test]
async fn a_busy_loop_under_cpu_max_is_a_violation_until_it_stops() {
    let (mut guard, dir) = Guard::new(Host::new(), cpu_max(20.0, 3));
    let _program = Program::sh(&dir, "while :; do :; done");
    let start = Instant::now();
    assert!(guard.until(patience(), opened).await, "no trigger fired: {}", guard.told);
    println!("told after {:?}, with {} looks", start.elapsed(), guard.looks);
    let Some((_, Finding::Opened(violation))) = guard.found.last().cloned() else { unreachable!() };
    assert_eq!((violation.limit, violation.configured.as_str()), (Limit::CpuMax, "20 %"));
    assert!(violation.observed.contains("nr_throttled +"), "{}", violation.observed);
    kill::freeze(&dir).unwrap();
    assert!(guard.until(patience(), recovered).await);
    assert_eq!(guard.watchman.deadline(&guard.rules), None, "nothing is read any more");
    kill::thaw(&dir).unwrap();
    assert!(guard.until(patience(), opened).await, "a second episode is told again");
}

#[tokio::test]
async fn a_share_that_is_enough_is_no_violation() {
    let (mut guard, dir) = Guard::new(Host::new(), cpu_max(80.0, 1));
    let _program = Program::sh(&dir, "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; sleep 60");
    guard.until(Duration::from_secs(8), |_| true).await;
    assert!(guard.found.is_empty(), "{:?}", guard.found);
    assert_eq!(guard.watchman.deadline(&guard.rules), None);
}

#[tokio::test]
async fn the_triggers_of_a_run_are_closed_before_its_directory_goes() {
    let mut host = Host::new();
    let (_spec, dir, _) = host.prepare(1, cpu_max(50.0, 10));
    assert!(wait_until(|| threads("pressure").len() == 1));
    host.kernel.remove(&run(1));
    let removed = host.next(Duration::from_secs(20)).await;
    assert_eq!(removed, Some(KernelEventKind::Removed));
    assert!(dir.populated().unwrap_err().is_absent());
    assert!(host.logs.path().exists());
}

#[test]
fn a_thousand_triggers_cost_no_thread_of_the_kernel_no_wake_up_and_none_of_our_descriptors() {
    const RUNS: u32 = 1000;
    let _alone = alone();
    let place = Place::new();
    let tree = tree(&place);
    let workers = Arc::new(tree.workers);
    let (press, mut pressed) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel();
    let pressure = Pressure::start(Arc::clone(&workers), press, move |run| release.send(run).unwrap()).unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, kernel_threads) = (descriptors(), psimons());
    let wanted = triggers(&cpu_max(50.0, 10));
    for number in 1..=RUNS {
        let dir = workers.create(&run(number).to_string()).unwrap();
        pressure.watch(&run(number), &dir, wanted.clone());
    }
    let own = threads("pressure");
    assert_eq!(own.len(), 16, "64 triggers for each");
    let armed = || -> usize {
        let links = own.iter().flat_map(|t| std::fs::read_dir(t.join("fd")).unwrap());
        links
            .filter(|l| std::fs::read_link(l.as_ref().unwrap().path()).is_ok_and(|l| l.ends_with("cpu.pressure")))
            .count()
    };
    assert!(wait_until(|| armed() == RUNS as usize), "{} triggers are set", armed());
    // Less where a test before this one was still letting go of its own.
    assert!(descriptors() <= before + own.len(), "one for each thread, to wake it: {before}, {}", descriptors());
    assert_eq!(psimons(), kernel_threads, "without the privilege none is needed");

    let asleep = || own.iter().map(|t| switches(t)).sum::<u64>();
    let then = asleep();
    pause(Duration::from_secs(10));
    assert_eq!(asleep() - then, 0, "wake-ups in 10 s");
    assert!(pressed.try_recv().is_err());

    let start = Instant::now();
    for number in 1..=RUNS {
        assert!(pressure.forget(&run(number)));
    }
    for _ in 1..=RUNS {
        let run = released.recv_timeout(Duration::from_secs(60)).unwrap();
        kill::remove(&workers, &run.to_string()).unwrap();
    }
    println!("{RUNS} triggers closed and directories removed in {:?}", start.elapsed());
    assert_eq!(armed(), 0);
    assert!(!pressure.forget(&run(1)), "once");
    drop(pressure);
    let left = || threads("pressure").len() + threads("pressure-crier").len();
    assert!(wait_until(|| left() == 0), "they end with their handle");
}

#[test]
fn a_window_of_a_second_is_set_with_the_privilege_or_looked_at_without() {
    let _alone = alone();
    let place = Place::new();
    let tree = tree(&place);
    let workers = Arc::new(tree.workers);
    let trigger = PressureTrigger {
        full: false,
        stall: Duration::from_millis(100),
        window: Duration::from_secs(1),
        sustained: Duration::from_secs(1),
        policy: ViolationPolicy::Log,
    };
    let pressure = types::Pressure { cpu: Some(trigger), ..types::Pressure::default() };
    let wanted = triggers(&Limits { pressure, ..Limits::default() });
    for privileged in [true, false] {
        let number = if privileged { 1 } else { 2 };
        let dir = workers.create(&run(number).to_string()).unwrap();
        // Throttled, so that it stalls whatever else the host does.
        dir.write("cpu.max", "20000 100000").unwrap();
        let (workers, wanted) = (Arc::clone(&workers), wanted.clone());
        let in_thread = std::thread::spawn(move || {
            if !privileged {
                use caps::{CapSet, Capability::CAP_SYS_RESOURCE};
                caps::drop(None, CapSet::Effective, CAP_SYS_RESOURCE).unwrap();
                caps::drop(None, CapSet::Permitted, CAP_SYS_RESOURCE).unwrap();
            }
            let monitors = psimons();
            let (press, mut pressed) = tokio::sync::mpsc::unbounded_channel();
            let pressure = Pressure::start(workers, press, |_| {}).unwrap();
            pressure.watch(&run(number), &dir, wanted);
            let mut program = Program::sh(&dir, "while :; do :; done");
            assert!(wait_until(|| pressed.try_recv().is_ok_and(|p| p == (run(number), Limit::CpuPressure))));
            assert_eq!(psimons() > monitors, privileged, "privileged: {privileged}");
            kill::kill(&dir).unwrap();
            program.wait();
        });
        in_thread.join().unwrap();
    }
}
