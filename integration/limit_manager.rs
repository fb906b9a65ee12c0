//! The limit manager through its public interface, on a real kernel with the controllers in version 2, as root: cgroups of
//! the test's own, programs that violate their limits, and no daemon.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks and wait for their own children")]

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use pinfold::{
    clock::monotonic,
    kernel::cgroup::{Dir, kill},
    limit_manager::{LimitManager, Recorded},
    model::Limit,
    policy::dispatch::{Handler, INTERNAL_TIMEOUT, Response, ViolationHandling, ViolationPolicy},
    spec::types::{Cpu, Limits, Memory, OomGroup, Pids},
};

#[allow(dead_code, reason = "shared with the tests of the kernel fence")]
#[path = "kernel/fixture.rs"]
mod fixture;

use ViolationHandling::{Disabled, External, Internal};
use ViolationPolicy::{GracefulShutdown, ImmediateKill, Log, Restart};
use fixture::{Place, Program};

const MIB: u64 = 1 << 20;

/// A cgroup with every controller, below one of the test's own.
struct Cgroup {
    dir: Arc<Dir>,
    _place: Place,
}

impl Cgroup {
    fn new() -> Self {
        let place = Place::new();
        for dir in [&Dir::open(&place.situation.mount.path).unwrap(), &*place.dir] {
            dir.write("cgroup.subtree_control", "+memory +cpu +pids +io")
                .expect("a host whose controllers are in version 2: scripts/vm");
        }
        let (_, dir) = place.run(1);
        Self { dir, _place: place }
    }

    /// A manager that has applied `limits` and watches them.
    fn managed(&self, limits: Limits, handling: ViolationHandling) -> LimitManager {
        let manager = LimitManager::new(self.dir.path(), limits).unwrap().with_handling(handling);
        manager.apply().unwrap();
        manager.start().unwrap();
        manager
    }

    fn text(&self, file: &str) -> String {
        self.dir.read(file).unwrap().trim_end().to_owned()
    }
}

fn slowness() -> f64 {
    std::env::var("PINFOLD_TEST_SLOWNESS").map_or(1.0, |v| v.parse().unwrap())
}

/// Waits for a level; only a failure takes so long.
async fn until(what: &str, mut level: impl FnMut() -> bool) {
    let end = monotonic() + Duration::from_secs_f64(30.0 + 15.0 * slowness());
    while !level() {
        assert!(monotonic() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn first_violation(manager: &LimitManager) -> Recorded {
    until("a violation", || !manager.violations().is_empty()).await;
    manager.violations().swap_remove(0)
}

fn memory(policy: ViolationPolicy) -> Limits {
    let memory = Memory { max: Some(16 * MIB), oom_scope: OomGroup::Process, policy, ..Memory::default() };
    Limits { memory, ..Limits::default() }
}

fn pids(policy: ViolationPolicy) -> Limits {
    Limits { pids: Pids { max: Some(3), policy }, ..Limits::default() }
}

/// A shell that lets a child run out of memory and goes on, itself spared by the OOM killer.
const LOSES_A_CHILD: &str = "echo -1000 > /proc/self/oom_score_adj; \
     sh -c 'echo 0 > /proc/self/oom_score_adj; x=$(head -c 60000000 /dev/zero | tr \"\\0\" x); echo $x'; \
     while :; do sleep 1; done";
/// A shell that forks more often than it may, in one of its own, for it gives up when it is refused; then it needs no fork more.
const FORKS: &str = "(for i in 1 2 3 4 5 6; do sleep 600 & done); exec sleep 1000";

#[tokio::test]
async fn an_oom_kill_leads_to_sigterm_for_whatever_is_left_and_to_no_new_run() {
    let cgroup = Cgroup::new();
    let manager = cgroup.managed(memory(GracefulShutdown), Internal);
    let mut program = Program::sh(&cgroup.dir, LOSES_A_CHILD);
    let episode = first_violation(&manager).await;
    assert_eq!((episode.violation.limit, episode.handler), (Limit::MemoryMax, Handler::Manager));
    assert_eq!(episode.response, Response::Shutdown { within: Some(INTERNAL_TIMEOUT) });
    until("all have ended", || !cgroup.dir.populated().unwrap()).await;
    assert_eq!(program.wait().signal(), Some(15));
    assert_eq!(manager.violations()[0].error, None);
    manager.stop().await;
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_five_seconds() {
    let cgroup = Cgroup::new();
    let manager = cgroup.managed(memory(Restart), Internal);
    let mut program = Program::sh(&cgroup.dir, &format!("trap '' TERM; {LOSES_A_CHILD}"));
    let episode = first_violation(&manager).await;
    until("all have ended", || !cgroup.dir.populated().unwrap()).await;
    let took = monotonic().since(episode.since);
    println!("ended {took:?} after the violation was noticed");
    assert!(took >= INTERNAL_TIMEOUT, "{took:?}");
    assert_eq!(program.wait().signal(), Some(9));
}

#[tokio::test]
async fn an_immediate_kill_waits_for_nothing() {
    let cgroup = Cgroup::new();
    let manager = cgroup.managed(pids(ImmediateKill), Internal);
    let mut program = Program::sh(&cgroup.dir, &format!("trap '' TERM; {FORKS}"));
    let episode = first_violation(&manager).await;
    assert_eq!((episode.violation.limit, episode.response), (Limit::PidsMax, Response::Kill));
    until("all have ended", || !cgroup.dir.populated().unwrap()).await;
    assert_eq!(program.wait().signal(), Some(9));
}

#[tokio::test]
async fn externally_a_refused_fork_is_told_to_the_callback_once_and_the_program_is_left_alone() {
    let cgroup = Cgroup::new();
    let manager = cgroup.managed(pids(GracefulShutdown), External);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&heard);
    manager.set_violation_callback(move |violation, policy| theirs.lock().unwrap().push((violation.clone(), policy)));
    let mut program = Program::sh(&cgroup.dir, FORKS);
    until("it is told", || !heard.lock().unwrap().is_empty()).await;
    let (violation, policy) = heard.lock().unwrap()[0].clone();
    assert_eq!((violation.limit, violation.configured.as_str(), policy), (Limit::PidsMax, "3", GracefulShutdown));
    assert!(violation.observed.contains("forks were refused"), "{violation:?}");
    // Nothing more comes: no fork is refused any more, and the episode ends.
    until("it is over", || manager.violations()[0].until.is_some()).await;
    assert_eq!((heard.lock().unwrap().len(), manager.violations().len()), (1, 1));
    assert_eq!(manager.violations()[0].handler, Handler::Callback);
    assert!(program.0.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn disabled_or_without_a_callback_a_violation_is_recorded_and_nobody_acts() {
    for handling in [Disabled, External] {
        let cgroup = Cgroup::new();
        let manager = cgroup.managed(pids(ImmediateKill), handling);
        let mut program = Program::sh(&cgroup.dir, FORKS);
        let episode = first_violation(&manager).await;
        assert_eq!((episode.handler, episode.response), (Handler::Nobody, Response::Record), "{handling:?}");
        until("it is over", || manager.violations()[0].until.is_some()).await;
        assert!(program.0.try_wait().unwrap().is_none(), "{handling:?}");
    }
}

#[tokio::test]
async fn throttling_is_noticed_while_it_lasts_and_the_cgroup_can_be_removed_after_the_stop() {
    let cgroup = Cgroup::new();
    let sustained = Duration::from_secs(3);
    let cpu = Cpu { max_percent: Some(20.0), sustained, policy: Log, ..Cpu::default() };
    let manager = cgroup.managed(Limits { cpu, ..Limits::default() }, Internal);
    let mut program = Program::sh(&cgroup.dir, "while :; do :; done");
    let episode = first_violation(&manager).await;
    assert_eq!((episode.violation.limit, episode.response), (Limit::CpuMax, Response::Record));
    assert!(episode.violation.observed.contains("nr_throttled +"), "{episode:?}");
    assert!(manager.current_sample().cpu.unwrap().nr_throttled > 0);
    kill::freeze(&cgroup.dir).unwrap();
    until("it is over", || manager.violations()[0].until.is_some()).await;
    kill::kill(&cgroup.dir).unwrap();
    program.wait();
    until("it is empty", || !cgroup.dir.populated().unwrap()).await;
    manager.stop().await;
    assert!(!manager.is_running());
    kill::remove(&cgroup.dir_above(), cgroup.dir.name()).unwrap();
}

#[tokio::test]
async fn a_hog_pulls_the_tripwire_and_it_is_set_again_when_the_memory_is_given_back() {
    let cgroup = Cgroup::new();
    let memory = Memory { high: Some(48 * MIB), ..Memory::default() };
    let manager = cgroup.managed(Limits { memory, ..Limits::default() }, Internal);
    assert_eq!(cgroup.text("memory.high"), (48 * MIB).to_string());
    // Without a newline `tail` keeps all of it.
    let script = format!("(head -c {} /dev/zero; exec sleep 1000) | tail", 96 * MIB);
    let mut program = Program::sh(&cgroup.dir, &script);
    let episode = first_violation(&manager).await;
    assert_eq!((episode.violation.limit, episode.policy), (Limit::MemoryHigh, Log));
    assert_eq!(cgroup.text("memory.high"), "max");
    until("it takes all it wants", || manager.current_sample().resident_bytes.unwrap() > 90 * MIB).await;
    kill::kill(&cgroup.dir).unwrap();
    program.wait();
    until("it is over", || manager.violations()[0].until.is_some()).await;
    until("it is in force again", || cgroup.text("memory.high") == (48 * MIB).to_string()).await;
    assert_eq!(manager.violations().len(), 1);
}

#[tokio::test]
async fn limits_are_set_below_a_program_without_killing_it() {
    let cgroup = Cgroup::new();
    cgroup.dir.write("cpu.weight", "333").unwrap();
    let script = format!("(head -c {} /dev/zero; exec sleep 1000) | tail", 40 * MIB);
    let mut program = Program::sh(&cgroup.dir, &script);
    let over = |max| {
        LimitManager::new(
            cgroup.dir.path(),
            Limits { memory: Memory { max: Some(max), ..Memory::default() }, ..pids(Log) },
        )
    };
    let tight = over(16 * MIB).unwrap();
    until("it holds its memory", || tight.current_sample().resident_bytes.unwrap() > 40 * MIB).await;
    let error = tight.apply().unwrap_err().to_string();
    assert!(error.contains("memory.max of 16777216 bytes is below the "), "{error}");
    assert_eq!(cgroup.text("memory.max"), "max");
    over(256 * MIB).unwrap().apply().unwrap();
    for (file, text) in
        [("memory.max", "268435456"), ("memory.swap.max", "0"), ("pids.max", "3"), ("cpu.weight", "333")]
    {
        assert_eq!(cgroup.text(file), text, "{file}");
    }
    assert!(program.0.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn what_is_supported_is_the_truth_for_this_cgroup() {
    let cgroup = Cgroup::new();
    let all = LimitManager::new(cgroup.dir.path(), Limits::default()).unwrap().supported_limits();
    assert_eq!(all.iter().map(|one| one.limit).collect::<Vec<_>>(), Limit::ALL);
    assert!(all.iter().all(|one| one.supported && one.by_looking.is_none()), "{all:#?}");
    // Nothing is passed on to the next.
    let below = cgroup.dir.create("below").unwrap();
    let all = LimitManager::new(below.path(), Limits::default()).unwrap().supported_limits();
    for one in &all {
        let needs =
            matches!(one.limit, Limit::MemoryMax | Limit::MemoryHigh | Limit::CpuMax | Limit::PidsMax | Limit::IoMax);
        assert_eq!(one.supported, !needs, "{one:?}");
        if let Some(why) = &one.why_not {
            let told = format!("which {} does not pass on (cgroup.subtree_control)", cgroup.dir.path().display());
            assert!(why.contains(&told), "{why}");
        }
    }
    let root = cgroup.root();
    assert!(LimitManager::new(&root, Limits::default()).unwrap_err().to_string().contains("is the root cgroup"));
}

#[test]
fn a_quiet_manager_wakes_nobody() {
    let cgroup = Cgroup::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sustained = Duration::from_secs(3);
    let cpu = Cpu { max_percent: Some(50.0), sustained, policy: Log, ..Cpu::default() };
    let memory = Memory { high: Some(48 * MIB), ..Memory::default() };
    let limits = Limits { cpu, memory, ..pids(Log) };
    let _program = Program::sh(&cgroup.dir, "exec sleep 1000");
    let path = cgroup.dir.path().to_owned();
    let (begun, running) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            let manager = LimitManager::new(&path, limits).unwrap();
            manager.apply().unwrap();
            manager.start().unwrap();
            tokio::task::yield_now().await;
            begun.send(rustix::thread::gettid()).unwrap();
            ended.await.unwrap();
            manager.stop().await;
        });
    });
    let thread_id = running.recv().unwrap().as_raw_nonzero();
    let status = PathBuf::from(format!("/proc/self/task/{thread_id}/status"));
    // A trigger can fire once for nothing after it was set, and the program has to get going.
    let woken = || {
        let before = switches(&status);
        std::thread::sleep(Duration::from_secs(6));
        switches(&status) - before
    };
    let counts: Vec<_> = (0..4).map(|_| woken()).collect();
    println!("woken in each of 6 s: {counts:?}");
    assert!(counts.contains(&0), "{counts:?}");
    end.send(()).unwrap();
    thread.join().unwrap();
}

/// How often a thread went to sleep and so was woken.
fn switches(status: &Path) -> u64 {
    let text = std::fs::read_to_string(status).unwrap();
    text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap().trim().parse().unwrap()
}

impl Cgroup {
    fn dir_above(&self) -> Dir {
        Dir::open(self.dir.path().parent().unwrap()).unwrap()
    }

    /// The host's root cgroup.
    fn root(&self) -> PathBuf {
        self.dir
            .path()
            .ancestors()
            .find(|a| a.join("cgroup.procs").exists() && !a.join("cgroup.events").exists())
            .unwrap()
            .to_owned()
    }
}
