//! The manager over a directory with the kernel's files, whose text the tests write. Time is tokio's, and paused.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    sync::Mutex,
};

use super::*;
use crate::model::Limit;
use crate::spec::types::{Cpu, Memory, Pids};
use ViolationHandling::{Disabled, External, Internal};
use ViolationPolicy::{GracefulShutdown, ImmediateKill, Log, Restart};

const MIB: u64 = 1 << 20;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

struct Fixture {
    tmp: tempfile::TempDir,
    /// A process that is listed as one of the cgroup's.
    child: Child,
}

impl Fixture {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let fixture = Self { tmp, child };
        for (file, text) in [
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("cgroup.procs", &*format!("{}\n", fixture.child.id())),
            ("cgroup.freeze", "0\n"),
            ("cgroup.kill", ""),
            ("memory.current", "0\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "max\n"),
            ("memory.oom.group", "0\n"),
            ("memory.high", "max\n"),
            ("memory.events", "low 0\nhigh 7\nmax 0\noom 3\noom_kill 3\n"),
            ("memory.stat", "anon 0\nfile 0\nshmem 0\n"),
            ("cpu.weight", "100\n"),
            ("cpu.stat", "usage_usec 0\n"),
            ("pids.max", "max\n"),
            ("pids.events", "max 5\n"),
        ] {
            fixture.write(file, text);
        }
        fixture
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.tmp.path().join(file), text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.tmp.path().join(file)).unwrap()
    }

    fn manager(&self, limits: Limits, handling: ViolationHandling) -> LimitManager {
        LimitManager::over(Dir::on_any_fs(self.tmp.path()), limits, Clock::new()).with_handling(handling)
    }

    /// A manager that watches.
    fn started(&self, limits: Limits, handling: ViolationHandling) -> LimitManager {
        let manager = self.manager(limits, handling);
        manager.start().unwrap();
        manager
    }

    /// The signal that its process ended by, or now ends by: 9 where it was sent none before.
    fn ended_by(&mut self) -> Option<i32> {
        ended_by(&mut self.child)
    }
}

/// The first fatal signal is the status, however late it is delivered (`complete_signal()` of the kernel).
fn ended_by(child: &mut Child) -> Option<i32> {
    child.kill().unwrap();
    child.wait().unwrap().signal()
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pids(policy: ViolationPolicy) -> Limits {
    Limits { pids: Pids { max: Some(64), policy }, ..Limits::default() }
}

/// Waits for a level; a minute of paused time is enough for all that the tests wait for.
async fn until(what: &str, mut level: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if level() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

type Heard = Arc<Mutex<Vec<(Limit, ViolationPolicy)>>>;

/// What a callback of `manager` has heard.
fn hear(manager: &LimitManager) -> Heard {
    let heard = Heard::default();
    let theirs = Arc::clone(&heard);
    manager.set_violation_callback(move |violation, policy| theirs.lock().unwrap().push((violation.limit, policy)));
    heard
}

#[tokio::test(start_paused = true)]
async fn internally_a_violation_ends_all_processes_and_kills_what_is_left_after_five_seconds() {
    let mut f = Fixture::new();
    let manager = f.started(pids(Restart), Internal);
    let heard = hear(&manager);
    f.write("pids.events", "max 6\n");
    until("it is noticed", || !manager.violations().is_empty()).await;
    assert_eq!((f.ended_by(), f.read("cgroup.kill").as_str()), (Some(SIGTERM), ""), "not killed at once");
    pass(4).await;
    assert_eq!(f.read("cgroup.kill"), "");
    pass(2).await;
    assert_eq!(f.read("cgroup.kill"), "1");
    let [episode] = &manager.violations()[..] else { panic!("one episode") };
    assert_eq!((episode.violation.limit, episode.policy, episode.handler), (Limit::PidsMax, Restart, Handler::Manager));
    assert_eq!((episode.until, &episode.error), (None, &None));
    assert!(heard.lock().unwrap().is_empty(), "one handler");
    f.write("cgroup.events", "populated 0\nfrozen 0\n");
    pass(60).await;
    let [episode] = &manager.violations()[..] else { panic!("one episode") };
    assert_eq!((episode.until.is_some(), &episode.error), (true, &None), "and it was seen that all have ended");
    assert!(manager.is_running());
}

#[tokio::test(start_paused = true)]
async fn what_ends_by_itself_is_not_killed_and_the_next_violation_is_noticed_as_well() {
    let mut f = Fixture::new();
    let manager = f.started(pids(GracefulShutdown), Internal);
    f.write("pids.events", "max 6\n");
    until("it is noticed", || !manager.violations().is_empty()).await;
    assert_eq!(f.ended_by(), Some(SIGTERM));
    f.write("cgroup.events", "populated 0\nfrozen 0\n");
    pass(20).await;
    assert_eq!(f.read("cgroup.kill"), "");
    // Somebody starts another program in it.
    let mut second = Command::new("sleep").arg("1000").spawn().unwrap();
    f.write("cgroup.procs", &format!("{}\n", second.id()));
    f.write("cgroup.events", "populated 1\nfrozen 0\n");
    f.write("pids.events", "max 7\n");
    until("it is noticed", || manager.violations().len() == 2).await;
    assert_eq!(ended_by(&mut second), Some(SIGTERM));
}

#[tokio::test(start_paused = true)]
async fn an_immediate_kill_is_one_write_and_a_refused_one_is_on_record_and_tried_again() {
    let mut f = Fixture::new();
    let manager = f.started(pids(ImmediateKill), Internal);
    std::fs::remove_file(f.tmp.path().join("cgroup.kill")).unwrap();
    std::fs::create_dir(f.tmp.path().join("cgroup.kill")).unwrap();
    f.write("pids.events", "max 6\n");
    let error = || manager.violations().first().and_then(|one| one.error.clone());
    until("it is refused", || error().is_some()).await;
    assert!(error().unwrap().contains("cgroup.kill: Is a directory"), "{:?}", error());
    std::fs::remove_dir(f.tmp.path().join("cgroup.kill")).unwrap();
    f.write("cgroup.kill", "");
    until("it is written", || f.read("cgroup.kill") == "1").await;
    assert_eq!(f.ended_by(), Some(SIGKILL), "nothing else was sent");
}

#[tokio::test(start_paused = true)]
async fn externally_the_callback_hears_of_each_episode_once_and_nothing_is_done() {
    let mut f = Fixture::new();
    let manager = f.manager(pids(ImmediateKill), External);
    let heard = hear(&manager);
    manager.start().unwrap();
    f.write("pids.events", "max 6\n");
    until("it is heard", || !heard.lock().unwrap().is_empty()).await;
    f.write("pids.events", "max 60\n");
    pass(5).await;
    assert_eq!(*heard.lock().unwrap(), [(Limit::PidsMax, ImmediateKill)]);
    assert_eq!((manager.violations()[0].handler, manager.violations()[0].until), (Handler::Callback, None));
    pass(20).await;
    assert!(manager.violations()[0].until.is_some(), "12 s without a refused fork");
    f.write("pids.events", "max 61\n");
    until("a second episode", || heard.lock().unwrap().len() == 2).await;
    pass(10).await;
    assert_eq!((f.read("cgroup.kill").as_str(), f.ended_by()), ("", Some(SIGKILL)));
}

#[tokio::test(start_paused = true)]
async fn without_a_callback_or_with_handling_disabled_nobody_acts() {
    for handling in [External, Disabled] {
        let mut f = Fixture::new();
        let manager = f.started(pids(ImmediateKill), handling);
        let heard = if handling == Disabled { hear(&manager) } else { Heard::default() };
        f.write("pids.events", "max 6\n");
        until("it is on record", || !manager.violations().is_empty()).await;
        pass(10).await;
        assert_eq!(manager.violations()[0].handler, Handler::Nobody, "{handling:?}");
        assert_eq!((f.read("cgroup.kill").as_str(), f.ended_by()), ("", Some(SIGKILL)), "{handling:?}");
        assert!(heard.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_or_blocks_holds_up_nothing_but_the_next_call() {
    let f = Fixture::new();
    let limits = Limits { memory: Memory { max: Some(MIB), ..Memory::default() }, ..pids(Log) };
    let manager = f.manager(limits, External);
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (blocked, heard) = (Mutex::new(blocked), Heard::default());
    let theirs = Arc::clone(&heard);
    manager.set_violation_callback(move |violation, policy| {
        theirs.lock().unwrap().push((violation.limit, policy));
        if violation.limit == Limit::PidsMax {
            blocked.lock().unwrap().recv().unwrap();
            panic!("a fault of the user's");
        }
    });
    manager.start().unwrap();
    // Time does not pass by itself while a thread is blocked.
    tokio::time::resume();
    f.write("pids.events", "max 6\n");
    until("it is called", || heard.lock().unwrap().len() == 1).await;
    f.write("memory.events", "low 0\nhigh 7\nmax 0\noom 4\noom_kill 4\n");
    until("detection goes on", || manager.violations().len() == 2).await;
    assert_eq!(heard.lock().unwrap().len(), 1);
    release.send(()).unwrap();
    until("the next is told", || heard.lock().unwrap().len() == 2).await;
    assert!(manager.is_running());
}

#[tokio::test(start_paused = true)]
async fn memory_high_is_lifted_at_once_and_set_again_when_the_memory_is_given_back() {
    let f = Fixture::new();
    let limits = Limits { memory: Memory { high: Some(64 * MIB), ..Memory::default() }, ..Limits::default() };
    let manager = f.manager(limits, Internal);
    manager.apply().unwrap();
    manager.start().unwrap();
    assert_eq!(f.read("memory.high"), (64 * MIB).to_string());
    f.write("memory.stat", &format!("anon {}\nfile 0\nshmem {}\n", 60 * MIB, 5 * MIB));
    f.write("memory.events", "low 0\nhigh 8\nmax 0\noom 3\noom_kill 3\n");
    until("it is lifted", || f.read("memory.high") == "max").await;
    assert_eq!(manager.violations()[0].violation.limit, Limit::MemoryHigh);
    f.write("memory.stat", "anon 0\nfile 0\nshmem 0\n");
    until("it is over", || manager.violations()[0].until.is_some()).await;
    until("it is in force again", || f.read("memory.high") == (64 * MIB).to_string()).await;
}

#[tokio::test(start_paused = true)]
async fn page_cache_above_memory_high_is_no_violation() {
    let f = Fixture::new();
    let limits = Limits { memory: Memory { high: Some(64 * MIB), ..Memory::default() }, ..Limits::default() };
    let manager = f.started(limits, Internal);
    f.write("memory.stat", &format!("anon {MIB}\nfile {}\nshmem 0\n", 60 * MIB));
    f.write("memory.events", "low 0\nhigh 900\nmax 0\noom 3\noom_kill 3\n");
    pass(30).await;
    assert_eq!((manager.violations(), f.read("memory.high").as_str()), (vec![], "max\n"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_sets_a_lifted_memory_high_again_and_a_drop_leaves_the_cgroup_alone() {
    for stop in [true, false] {
        let f = Fixture::new();
        let limits = Limits { memory: Memory { high: Some(64 * MIB), ..Memory::default() }, ..Limits::default() };
        let manager = f.started(limits, Internal);
        f.write("memory.stat", &format!("anon {}\nfile 0\nshmem 0\n", 65 * MIB));
        f.write("memory.events", "low 0\nhigh 8\nmax 0\noom 3\noom_kill 3\n");
        until("it is lifted", || f.read("memory.high") == "max").await;
        if stop {
            manager.stop().await;
            assert_eq!(f.read("memory.high"), (64 * MIB).to_string());
            assert!(!manager.is_running() && manager.violations()[0].until.is_some());
        } else {
            let shared = Arc::downgrade(&manager.shared);
            drop(manager);
            until("the watch has ended", || shared.upgrade().is_none()).await;
            assert_eq!(f.read("memory.high"), "max");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_before_the_start_or_between_two_is_no_violation() {
    let f = Fixture::new();
    let manager = f.started(pids(Log), Internal);
    manager.start().expect("a second start changes nothing");
    manager.stop().await;
    f.write("pids.events", "max 900\n");
    manager.start().unwrap();
    pass(30).await;
    assert_eq!(manager.violations(), []);
    f.write("pids.events", "max 901\n");
    until("it is noticed", || !manager.violations().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn cpu_time_that_was_used_before_the_start_counts() {
    let f = Fixture::new();
    let max_time = Some(Duration::from_secs(3));
    let limits = Limits { cpu: Cpu { max_time, policy: ImmediateKill, ..Cpu::default() }, ..Limits::default() };
    f.write("cpu.stat", "usage_usec 4000000\n");
    let manager = f.started(limits, Internal);
    until("it is killed", || f.read("cgroup.kill") == "1").await;
    let [episode] = &manager.violations()[..] else { panic!("one episode") };
    assert_eq!((episode.violation.limit, episode.until), (Limit::CpuTime, None));
}

#[tokio::test(start_paused = true)]
async fn a_cgroup_that_goes_ends_the_watch() {
    let f = Fixture::new();
    let manager = f.started(pids(Log), Internal);
    f.write("pids.events", "max 6\n");
    until("it is noticed", || !manager.violations().is_empty()).await;
    for entry in std::fs::read_dir(f.tmp.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    until("the watch has ended", || !manager.is_running()).await;
    assert!(manager.violations()[0].until.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_monitoring_nothing_is_noticed() {
    let f = Fixture::new();
    let mut limits = pids(ImmediateKill);
    limits.monitoring.enabled = false;
    let manager = f.started(limits, Internal);
    f.write("pids.events", "max 6\n");
    pass(30).await;
    assert_eq!((manager.violations(), f.read("cgroup.kill").as_str()), (vec![], ""));
}

#[test]
fn limits_are_set_and_what_is_not_configured_is_left_alone() {
    let f = Fixture::new();
    let memory = Memory { max: Some(100_000_000), ..Memory::default() };
    let manager = f.manager(Limits { memory, ..pids(Log) }, Internal);
    assert_eq!(manager.violation_handling_mode(), Internal);
    manager.apply().unwrap();
    for (file, text) in [
        ("memory.max", "99999744"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("memory.high", "max\n"),
        ("pids.max", "64"),
        ("cpu.weight", "100\n"),
    ] {
        assert_eq!(f.read(file), text, "{file}");
    }
    f.write("memory.current", "200000000\n");
    f.write("memory.max", "max\n");
    let error = manager.apply().unwrap_err().to_string();
    assert!(error.contains("memory.max of 99999744 bytes is below the 200000000 bytes in use"), "{error}");
    assert_eq!(manager.current_usage().memory_current_bytes, Some(200_000_000));
}

#[test]
fn what_cannot_be_watched_says_so_at_the_start() {
    let f = Fixture::new();
    let manager = f.manager(pids(Log), Internal);
    assert!(matches!(manager.start(), Err(LimitError::NoRuntime)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    std::fs::remove_file(f.tmp.path().join("cgroup.kill")).unwrap();
    assert!(matches!(manager.start(), Err(LimitError::TooOld { .. })));
    f.manager(pids(Log), External).start().expect("it needs no kill");
    assert!(!manager.is_running());
}
