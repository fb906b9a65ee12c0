//! SIGKILL to the supervisor or to the keeper before a system call of a start, a stop, a restart, a reload, a freeze or a thaw, of
//! workers that are frozen or not, by strace's injection; then what the kernel and the workers say (`support::evidence`), without a
//! word of the product, but for the one that it must agree with: who is frozen.
//!
//! strace counts the calls of each name in each thread by itself. So every (thread, name of a call) that a recording shows is
//! stepped through: the first such call, the second, …, until none is left to kill before. Left out are calls that change
//! nothing outside of their process: to die before one of them is to die before the next that does.
//!
//! A plain run takes a sample of two or three of these places for each command and victim. `PINFOLD_TEST_EVERY_CALL=1` takes
//! all of them, and tells every one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    Case, door::Door, evidence, misbehaving, parameter, process::Process, run::finish, sight::freezer, tree, up::Up,
    wait_until,
};

/// Calls that nobody outside of the process can tell from their not having been made.
const PRIVATE: &str = "read,readv,pread64,recvfrom,futex,epoll_wait,epoll_pwait,epoll_pwait2,epoll_create1,epoll_ctl,poll,\
    ppoll,mmap,munmap,mprotect,madvise,mremap,brk,rt_sigprocmask,rt_sigaction,rt_sigreturn,rt_sigtimedwait,sigaltstack,\
    sched_yield,sched_getaffinity,getrandom,clock_gettime,clock_nanosleep,fstat,newfstatat,statx,stat,lstat,lseek,\
    getdents64,readlink,readlinkat,getpid,gettid,getuid,geteuid,getgid,getegid,fcntl,access,faccessat,faccessat2,statfs,\
    fstatfs,uname,getsockopt,getsockname,getpeername,restart_syscall,set_robust_list,rseq,getxattr,fgetxattr,membarrier,\
    gettimeofday,inotify_add_watch,inotify_rm_watch,inotify_init1,eventfd2,prctl,dup,getcwd,set_tid_address,ioctl";

/// The calls of a worker's end and beginning that may still follow once the evidence is whole.
const TAIL: Duration = Duration::from_millis(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Start,
    Stop,
    Restart,
    Reload,
    Freeze,
    Thaw,
}

impl Order {
    /// Whether it is given to workers that are frozen, where it could be either.
    fn of_frozen(self, either: bool) -> bool {
        match self {
            Self::Start | Self::Stop | Self::Restart | Self::Reload => either,
            Self::Freeze => false,
            Self::Thaw => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Keeper,
}

/// Where to kill: in which thread (`None`: in any, also one that does not exist yet), before which call, at which time.
#[derive(Debug, Clone)]
struct Place {
    thread: Option<String>,
    call: String,
    nth: usize,
}

fn life(case: &Case, id: &str, told: &str) -> String {
    let again = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    misbehaving(id, &["life", &case.file(&format!("lock-{id}")), &case.file(told)], &[again])
}

fn before(case: &Case) -> String {
    life(case, "same", "same") + &life(case, "one", "one") + &life(case, "gone", "gone")
}

fn after(case: &Case) -> String {
    life(case, "same", "same") + &life(case, "one", "changed") + &life(case, "new", "new")
}

/// strace at work. It detaches when it is dropped.
struct Strace(Child);

impl Strace {
    fn attach(case: &Case, victim: &Process, threads: Option<&[i32]>, what: &[String]) -> Self {
        let (follow, tasks): (&[&str], _) = match threads {
            Some(threads) => (&[], threads.to_vec()),
            None => (&["-f"], vec![victim.pid]),
        };
        let mut command = Command::new("strace");
        command.args(["-qq", "-Y", "-o", &case.file("strace")]).args(follow).args(what);
        for task in &tasks {
            command.args(["-p", &task.to_string()]);
        }
        let says = File::create(case.file("strace.stderr")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(says).spawn();
        let mut strace = Self(child.unwrap_or_else(|e| panic!("strace, which these tests need: {e}")));
        let watched = if threads.is_some() { tasks } else { tids(victim).into_iter().map(|(tid, _)| tid).collect() };
        wait_until("strace is attached", || {
            if let Some(ended) = strace.0.try_wait().unwrap() {
                panic!("strace has ended: {ended}: {}", fs::read_to_string(case.file("strace.stderr")).unwrap());
            }
            let traced = |tid: &i32| {
                let status = fs::read_to_string(format!("/proc/{tid}/status"));
                status.map_or(true, |status| !status.contains("TracerPid:\t0\n"))
            };
            watched.iter().all(traced).then_some(())
        });
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
            self.0.wait().unwrap();
        }
    }
}

/// The threads of a process and their names.
fn tids(process: &Process) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap().flatten();
    let named = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, name.trim().to_owned()))
    };
    tasks.filter_map(named).collect()
}

/// A supervised case, ready for the order.
struct Scene {
    order: Order,
    /// Whether all of them were frozen before it.
    frozen: bool,
    case: Case,
    up: Up,
    same: Process,
    victim: Process,
}

impl Scene {
    fn set(order: Order, victim: Victim, frozen: bool) -> Self {
        let case = Case::new();
        let mut up = Up::start(&case, &before(&case));
        let [same, _one, _gone] = ["same", "one", "gone"].map(|name| up.started(name, 1));
        wait_until("all of them live", || {
            ["same", "one", "gone"].iter().all(|told| !case.told(told).is_empty()).then_some(())
        });
        settled(&case);
        if frozen {
            case.ask("freeze", &["*"]);
        }
        match order {
            Order::Start => drop(case.ask("stop", &["one"])),
            Order::Reload => drop(case.config(&after(&case))),
            Order::Stop | Order::Restart | Order::Freeze | Order::Thaw => {}
        }
        wait_until("the scene is set", || evidence::faults(&case).is_empty().then_some(()));
        let victim = case.role(match victim {
            Victim::Supervisor => "supervisor",
            Victim::Keeper => "keeper",
        });
        Self { order, frozen, case, up, same, victim }
    }

    /// Gives the order; whether it was answered that it is done.
    fn give(&self) -> bool {
        let case = &self.case;
        let ran = match self.order {
            Order::Start => finish(case.pinfold("start").arg("one")),
            Order::Stop => finish(case.pinfold("stop").arg("one")),
            Order::Restart => finish(case.pinfold("restart").arg("one")),
            Order::Reload => finish(&mut case.pinfold("reload")),
            Order::Freeze => finish(case.pinfold("freeze").arg("one")),
            Order::Thaw => finish(case.pinfold("thaw").arg("one")),
        };
        ran.code == Some(0)
    }

    /// What is wrong, with an order that was answered or not.
    fn wrong(&self, answered: bool) -> Vec<String> {
        let case = &self.case;
        let mut wrong = evidence::faults(case);
        let runs = evidence::runs(case);
        let alive = |name: &str| runs.iter().filter(|run| run.id.worker.as_str() == name).count();
        let lives = |told: &str| evidence::lives(case, told).len();
        let mut expect = |what: &str, holds: bool| {
            if !holds {
                let ids: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
                let told = ["same", "one", "changed", "gone", "new"].map(|told| (told, case.told(told)));
                wrong.push(format!("{what} (answered: {answered}); there are {ids:?}, and told is {told:?}"));
            }
        };
        let same = case.run_dir("same", 1);
        expect("the bystander is untouched", self.same.alive() && lives("same") == 1);
        expect("it is where it was", tree::procs(&same) == [self.same.pid]);
        for run in &runs {
            let worker = run.id.worker.as_str();
            let begun = evidence::lives(case, worker).contains(&run.id.number);
            let changed = worker == "one" && evidence::lives(case, "changed").contains(&run.id.number);
            expect("whoever lives has told so", begun || changed);
            let frozen = run.freezer.0;
            match self.order {
                Order::Freeze | Order::Thaw if worker == "one" => {
                    expect("done where it was answered", !answered || frozen == (self.order == Order::Freeze));
                }
                _ => {
                    let from_before = self.frozen && run.id.number == 1 && worker != "new";
                    expect("who was frozen before is so, and nobody else", frozen == from_before);
                }
            }
        }
        let one = (alive("one"), lives("one"));
        match self.order {
            Order::Start if answered => expect("started once", one == (1, 2)),
            Order::Start => expect("started once or not", [(1, 2), (0, 1)].contains(&one)),
            Order::Stop if answered => expect("stopped", one == (0, 1)),
            Order::Stop => expect("stopped or not", [(0, 1), (1, 1)].contains(&one)),
            Order::Restart if answered => expect("restarted once", one == (1, 2)),
            Order::Restart => expect("restarted once or not", [(1, 2), (1, 1)].contains(&one)),
            Order::Freeze | Order::Thaw => expect("it is the same life", one == (1, 1)),
            Order::Reload => {
                let applied = fs::read_to_string(case.dir.path().join("state/applied.json")).unwrap();
                let anew = applied.contains("lock-new");
                expect("what was answered is in force", anew || !answered);
                let now = (alive("same"), alive("one"), alive("gone"), alive("new"));
                let lived = (lives("one"), lives("changed"), lives("gone"), lives("new"));
                let whole = if anew { ((1, 1, 0, 1), (1, 1, 1, 1)) } else { ((1, 1, 1, 0), (1, 0, 1, 0)) };
                expect(if anew { "the new as a whole" } else { "the old as a whole" }, (now, lived) == whole);
                return wrong;
            }
        }
        let others = (alive("gone"), lives("gone"), alive("new"));
        expect("the others are untouched", others == (1, 1, 0));
        wrong
    }

    /// Waits until nothing is wrong.
    fn wait_whole(&self, answered: bool) {
        let mut wrong = Vec::new();
        let started = pinfold::clock::monotonic();
        while pinfold::clock::monotonic().since(started) < support::patience() {
            wrong = self.wrong(answered);
            if wrong.is_empty() {
                return;
            }
            support::pause(Duration::from_millis(10));
        }
        panic!("it stays wrong:\n  {}", wrong.join("\n  "));
    }

    /// Ends everything, and compares what the store has recorded with what the workers have told.
    fn end(mut self) {
        self.up.signal(Signal::TERM);
        self.up.reap_killed();
        let recorded = evidence::recorded(&self.case);
        let changed = evidence::lives(&self.case, "changed");
        let mut lived: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for name in ["same", "one", "gone", "new"] {
            let mut lives = evidence::lives(&self.case, name);
            if name == "one" {
                lives.extend(&changed);
            }
            // Who is no worker any more is forgotten.
            if !lives.is_empty() && (name != "gone" || recorded.contains_key(name)) {
                lived.insert(name.to_owned(), lives);
            }
        }
        assert_eq!(recorded, lived, "what is recorded, and what has lived");
    }
}

/// Waits until a supervisor serves and none of its workers is on the way to anywhere; it says of each whether it is frozen.
fn settled(case: &Case) {
    wait_until("a supervisor whose workers are settled", || {
        UnixStream::connect(case.socket()).ok()?;
        let shown = Door::open(&case.socket()).get("/v1/workers").body;
        let rests = |worker: &serde_json::Value| match (worker["state"].as_str(), worker["run"].as_u64()) {
            (Some("running"), Some(run)) => {
                let dir = case.run_dir(worker["id"].as_str().unwrap(), u32::try_from(run).unwrap());
                worker["detail"] == if freezer(&dir).1 { "frozen" } else { "ready" }
            }
            (Some("stopped"), _) => worker["detail"] == "stopped",
            _ => false,
        };
        shown["workers"].as_array()?.iter().all(rests).then_some(())
    });
}

/// One order, with a kill at `place`. Whether it came to it.
fn injected(order: Order, victim: Victim, place: &Place) -> bool {
    let frozen = order.of_frozen(place.nth.is_multiple_of(2));
    let mut scene = Scene::set(order, victim, frozen);
    let supervisor = scene.case.role("supervisor");
    let named = place.thread.as_ref().map(|name| {
        let threads = tids(&scene.victim).into_iter().filter(|(_, comm)| comm == name);
        threads.map(|(tid, _)| tid).collect::<Vec<_>>()
    });
    if named.as_ref().is_some_and(Vec::is_empty) {
        scene.end();
        return false;
    }
    let Place { call, nth, .. } = place;
    let what =
        ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), format!("inject={call}:signal=KILL:when={nth}")];
    let strace = Strace::attach(&scene.case, &scene.victim, named.as_deref(), &what);
    let answered = scene.give();
    // What follows the answer is a part of it: it can be killed until the last of it is done.
    wait_until("the order is done, or its victim dead", || {
        (!scene.victim.alive() || scene.wrong(answered).is_empty()).then_some(())
    });
    let killed = scene.victim.gone_within(TAIL);
    drop(strace);
    if killed {
        if victim == Victim::Keeper {
            scene.up.reap_killed();
            supervisor.wait_gone("the supervisor without its keeper");
            scene.up = Up::again(&scene.case);
        }
        settled(&scene.case);
    }
    scene.wait_whole(answered);
    settled(&scene.case);
    scene.end();
    killed
}

/// Every (thread, call) of an order, and how often it was made.
fn recording(order: Order, victim: Victim) -> Vec<(Option<String>, String, usize)> {
    let scene = Scene::set(order, victim, order.of_frozen(true));
    let there = tids(&scene.victim);
    let threads = [scene.victim.pid];
    let what = ["-e".to_owned(), format!("trace=!{PRIVATE}")];
    // The keeper has one thread, and what it makes is no part of it.
    let only = (victim == Victim::Keeper).then_some(&threads[..]);
    let strace = Strace::attach(&scene.case, &scene.victim, only, &what);
    assert!(scene.give(), "{order:?} without a kill");
    scene.wait_whole(true);
    assert!(!scene.victim.gone_within(TAIL));
    drop(strace);
    let text = fs::read_to_string(PathBuf::from(scene.case.file("strace"))).unwrap();
    scene.end();
    let mut counts: BTreeMap<(Option<String>, String), usize> = BTreeMap::new();
    for line in text.lines() {
        let (thread, call) = match victim {
            Victim::Keeper => (Some(there[0].1.clone()), line),
            Victim::Supervisor => {
                let Some((task, call)) = line.split_once(' ') else { continue };
                let tid = task.split('<').next().unwrap_or_default();
                (there.iter().find(|(known, _)| known.to_string() == tid).map(|(_, comm)| comm.clone()), call.trim())
            }
        };
        let name: String = call.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && call[name.len()..].starts_with('(') {
            *counts.entry((thread, name)).or_default() += 1;
        }
    }
    assert!(!counts.is_empty(), "strace has seen nothing: {text}");
    counts.into_iter().map(|((thread, call), count)| (thread, call, count)).collect()
}

fn go_through(order: Order, victim: Victim, sample: usize) {
    let recorded = recording(order, victim);
    if parameter::<u32>("PINFOLD_TEST_EVERY_CALL").unwrap_or(0) == 0 {
        let mut hit = 0;
        for n in 1..=sample {
            let (thread, call, count) = recorded[recorded.len() * n / (sample + 1)].clone();
            let place = Place { thread, call, nth: count.div_ceil(2) };
            eprintln!("{order:?}, {victim:?}: {place:?}");
            hit += usize::from(injected(order, victim, &place));
        }
        assert!(hit > 0, "not one of {sample} kills was reached");
        return;
    }
    let (mut kills, mut failures) = (0, Vec::new());
    for (thread, call, _) in recorded {
        for nth in 1.. {
            let place = Place { thread: thread.clone(), call: call.clone(), nth };
            let came = catch_unwind(AssertUnwindSafe(|| injected(order, victim, &place)));
            eprintln!("{order:?}, {victim:?}: {place:?}: {came:?}");
            match came {
                Ok(false) => break,
                Ok(true) => kills += 1,
                Err(_) => {
                    kills += 1;
                    failures.push(place);
                }
            }
        }
    }
    eprintln!("{order:?}, {victim:?}: {kills} kills, {} failures: {failures:?}", failures.len());
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn a_start_that_its_supervisor_dies_in_is_done_once_or_not_at_all() {
    go_through(Order::Start, Victim::Supervisor, 2);
}

#[test]
fn a_start_that_its_keeper_dies_in_is_done_once_or_not_at_all() {
    go_through(Order::Start, Victim::Keeper, 1);
}

#[test]
fn a_stop_that_its_supervisor_dies_in_is_done_or_not_and_never_undone() {
    go_through(Order::Stop, Victim::Supervisor, 2);
}

#[test]
fn a_stop_that_its_keeper_dies_in_is_done_or_not_and_never_undone() {
    go_through(Order::Stop, Victim::Keeper, 1);
}

#[test]
fn a_restart_that_its_supervisor_dies_in_is_done_once_or_not_at_all() {
    go_through(Order::Restart, Victim::Supervisor, 2);
}

#[test]
fn a_restart_that_its_keeper_dies_in_is_done_once_or_not_at_all() {
    go_through(Order::Restart, Victim::Keeper, 1);
}

#[test]
fn a_reload_that_its_supervisor_dies_in_leaves_the_old_or_the_new_as_a_whole() {
    go_through(Order::Reload, Victim::Supervisor, 2);
}

#[test]
fn a_reload_that_its_keeper_dies_in_leaves_the_old_or_the_new_as_a_whole() {
    go_through(Order::Reload, Victim::Keeper, 1);
}

#[test]
fn a_freeze_that_its_supervisor_dies_in_is_done_or_not_and_told_as_it_is() {
    go_through(Order::Freeze, Victim::Supervisor, 2);
}

#[test]
fn a_thaw_that_its_supervisor_dies_in_is_done_or_not_and_told_as_it_is() {
    go_through(Order::Thaw, Victim::Supervisor, 2);
}
