//! How long a worker is dead: from its death to the first instruction of its next life. It runs out of memory, or kills
//! itself; a bare parent, pinfold and systemd bring it back, in turns.
//!
//! The worker takes both times itself: of the last thing it did, and of the first. What the kernel needs for an OOM kill
//! (reclaim, choice, report) is everybody's alike and nobody's reaction: there it begins with the kernel's own word, its
//! tracepoint `oom:mark_victim`.
//!
//! `scripts/bench --vm reaction`: needs a machine whose init is systemd, with all controllers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails as a test does")]

#[path = "../support/mod.rs"]
mod support;

use std::{
    cell::Cell,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::{Case, pause, run::finish, up::Up, wait_until, worker};

/// Deaths of each kind for each contender.
const ROUNDS: usize = 25;
/// Between two deaths: whoever tidies up after one is to be done with it.
const REST: Duration = Duration::from_millis(200);
/// Little: to take it back is the kernel's part as well, and under an emulated processor it would soon be the largest.
const MEMORY_MIB: u32 = 4;

fn main() {
    let program = std::env::var("PINFOLD_BENCH_REACT").expect("run me by scripts/bench --vm reaction");
    let init = fs::read_to_string("/proc/1/comm").unwrap();
    if init.trim() != "systemd" {
        println!("reaction: init is {}, not systemd: there is nobody to compare with", init.trim());
        return;
    }
    let case = Case::with_limits(false);
    // Ours, from the beginning: systemd takes controllers away from children that do not hold on to them.
    fs::write(case.root.join("cgroup.subtree_control"), "+memory +cpu +pids +io").unwrap();
    let [bare, always, policy, theirs] =
        ["bare", "always", "policy", "systemd"].map(|name| Mortal::new(&case, &program, name));
    let (at_once, limit) =
        ("restart: {policy: always, retry_delay: 0s, max_retries: 0}", format!("max_rss: {MEMORY_MIB}MiB"));
    let mut workers = worker("always", &always.command, &[at_once, &format!("limits: {{memory: {{{limit}}}}}")]);
    workers +=
        &worker("policy", &policy.command, &[at_once, &format!("limits: {{memory: {{{limit}, policy: restart}}}}")]);
    let mut up = Up::start(&case, &workers);
    let _service = Service::start(&case, &theirs);
    let mut parent = Parent::start(&case, &bare);
    for mortal in [&bare, &always, &policy, &theirs] {
        mortal.wait_lives(1);
    }

    keep_the_report_out();
    let trace = Trace::new();
    println!("dead for, {ROUNDS} times each{:>35} {:>10} {:>10}", "median", "p90", "ratio");
    for (order, what) in [("m", "out of memory"), ("k", "SIGKILL")] {
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for (i, mortal) in [&bare, &always, &policy, &theirs].into_iter().enumerate() {
                pause(REST);
                mortal.order(order);
                if i == 0 {
                    parent.again(&bare);
                }
                times[i].push(mortal.dead_for(order, &trace));
                // Its pipe must not fill up.
                up.watch(Duration::from_millis(1));
            }
        }
        let [bare, always, policy, theirs] = &mut times;
        let floor = print(what, "bare parent: wait, spawn", bare, None);
        print(what, "pinfold, memory.policy restart", policy, Some(floor));
        let ours = print(what, "pinfold, restart.policy always", always, Some(floor));
        print(what, "systemd, Restart=always RestartSec=0", theirs, Some(floor));
        println!("  {what:<14} systemd takes {:.1} times as long as pinfold", ratio(median(theirs), ours));
    }
    up.stop();
    parent.child.kill().unwrap();
    parent.child.wait().unwrap();
}

/// The least that anybody could do: a parent that waits for its child's death and spawns it again. Its memory is limited
/// by being moved, once it lives.
struct Parent {
    cgroup: PathBuf,
    child: Child,
}

impl Parent {
    fn start(case: &Case, mortal: &Mortal) -> Self {
        let cgroup = case.root.join("bare");
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("memory.max"), format!("{MEMORY_MIB}M")).unwrap();
        fs::write(cgroup.join("memory.swap.max"), "0").unwrap();
        let child = Self::spawn(mortal);
        let parent = Self { cgroup, child };
        parent.limit();
        parent
    }

    fn spawn(mortal: &Mortal) -> Child {
        Command::new(&mortal.command[0]).args(&mortal.command[1..]).stdin(Stdio::null()).spawn().unwrap()
    }

    fn limit(&self) {
        fs::write(self.cgroup.join("cgroup.procs"), self.child.id().to_string()).unwrap();
    }

    fn again(&mut self, mortal: &Mortal) {
        self.child.wait().unwrap();
        self.child = Self::spawn(mortal);
        self.limit();
    }
}

/// A worker of programs/react.c.
struct Mortal {
    command: Vec<String>,
    times: PathBuf,
    /// Open for reading as well, so that there is always somebody to write to.
    orders: File,
    deaths: Cell<usize>,
}

impl Mortal {
    fn new(case: &Case, program: &str, name: &str) -> Self {
        let [page, times, orders] = ["page", "times", "orders"].map(|file| case.file(&format!("{name}-{file}")));
        fs::write(&page, [0; 4096]).unwrap();
        fs::write(&times, []).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &orders, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        Self {
            command: vec![program.to_owned(), page, times.clone(), orders.clone()],
            times: times.into(),
            orders: File::options().read(true).write(true).open(orders).unwrap(),
            deaths: Cell::new(0),
        }
    }

    /// The first moment of each life, and the last of the one before; nanoseconds.
    fn lives(&self) -> Vec<(u64, u64)> {
        let bytes = fs::read(&self.times).unwrap();
        let number = |b: &[u8]| u64::from_ne_bytes(b.try_into().unwrap());
        bytes.chunks_exact(16).map(|life| (number(&life[..8]), number(&life[8..]))).collect()
    }

    fn wait_lives(&self, count: usize) {
        wait_until(&format!("life {count} of {}", self.command[1]), || (self.lives().len() >= count).then_some(()));
    }

    /// Lets it die.
    fn order(&self, order: &str) {
        (&self.orders).write_all(order.as_bytes()).unwrap();
        self.deaths.set(self.deaths.get() + 1);
    }

    /// How long it was dead, once it lives again.
    fn dead_for(&self, order: &str, trace: &Trace) -> Duration {
        self.wait_lives(self.deaths.get() + 1);
        let (last, first) = self.lives()[self.deaths.get()];
        let killed = if order == "m" { trace.victim_between(last, first) } else { last };
        Duration::from_nanos(first - killed)
    }
}

/// With an OOM kill comes a long report, and systemd's journal would copy it while everybody waits for the one processor.
/// The kernel itself writes it to the serial console, one letter at a time, before it goes on: nobody's reaction either.
fn keep_the_report_out() {
    fs::write("/proc/sys/kernel/printk", "1").unwrap();
    let dir = Path::new("/run/systemd/journald.conf.d");
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("pinfold-bench.conf"), "[Journal]\nReadKMsg=no\n").unwrap();
    let restarted = finish(Command::new("systemctl").args(["restart", "systemd-journald.service"]));
    assert_eq!(restarted.code, Some(0), "{restarted:?}");
}

/// The kernel's word on whom the OOM killer takes, in a trace buffer of our own.
struct Trace {
    dir: PathBuf,
}

impl Trace {
    fn new() -> Self {
        if !Path::new("/sys/kernel/tracing/instances").exists() {
            let mounted = finish(Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]));
            assert_eq!(mounted.code, Some(0), "{mounted:?}");
        }
        let dir = PathBuf::from(format!("/sys/kernel/tracing/instances/pinfold-bench-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("trace_clock"), "mono").unwrap();
        fs::write(dir.join("events/oom/mark_victim/enable"), "1").unwrap();
        Self { dir }
    }

    /// The last kill between two moments; a line is `COMM-PID [CPU] FLAGS SECONDS.MICROSECONDS: mark_victim: pid=N`.
    fn victim_between(&self, last: u64, first: u64) -> u64 {
        let text = fs::read_to_string(self.dir.join("trace")).unwrap();
        let kills = text.lines().filter_map(|line| {
            let (before, _) = line.split_once(": mark_victim: ")?;
            let (seconds, micros) = before.rsplit(' ').next()?.split_once('.')?;
            Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?) * 1000)
        });
        let kill = kills.filter(|at| (last..first).contains(at)).max();
        kill.unwrap_or_else(|| panic!("no OOM kill between {last} and {first}:\n{text}"))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        fs::remove_dir(&self.dir).unwrap();
    }
}

/// The same as a service of systemd, gone at the end.
struct Service {
    name: String,
}

impl Service {
    fn start(case: &Case, mortal: &Mortal) -> Self {
        let service = Self { name: format!("pinfold-bench-{}.service", std::process::id()) };
        let mark = case.mark().map(|(key, value)| format!("{key}={value}")).concat();
        let text = format!(
            "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=0\n\
             MemoryMax={MEMORY_MIB}M\nMemorySwapMax=0\nStandardOutput=null\nStandardError=null\nEnvironment={mark}\n\
             ExecStart={}\n",
            mortal.command.join(" ")
        );
        fs::write(service.path(), text).unwrap();
        for args in [&["daemon-reload"][..], &["start", &service.name]] {
            let ran = finish(Command::new("systemctl").args(args));
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        service
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/systemd/system").join(&self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _stopped = finish(Command::new("systemctl").args(["stop", &self.name]));
        fs::remove_file(self.path()).unwrap();
        let _reloaded = finish(Command::new("systemctl").arg("daemon-reload"));
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// One line; its median.
fn print(what: &str, who: &str, times: &mut [Duration], against: Option<Duration>) -> Duration {
    let median = median(times);
    let p90 = times[(times.len() - 1) * 9 / 10];
    let ratio = against.map_or_else(String::new, |peer| format!("{:.1}", ratio(median, peer)));
    println!("  {what:<14} {who:<38} {median:>10.1?} {p90:>10.1?} {ratio:>10}");
    median
}
