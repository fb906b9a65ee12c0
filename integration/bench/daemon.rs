//! What the whole daemon costs: from a death to its published event and to the next life's first instruction, a thousand
//! workers up and down, what it does while nothing happens, and its memory. Beside it, in turns and in the same run, the
//! least that anybody could do for the same: a parent that spawns, waits for the death and spawns again.
//!
//! `scripts/bench daemon`. Prints ratios where there is such a peer. With arguments only these parts: `deaths 200 1000`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails as a test does")]

#[path = "../support/mod.rs"]
mod support;

use std::{
    fmt::Write,
    fs::File,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use pinfold::{
    clock::monotonic,
    model::{Event, EventKind, Mono},
};
use rustix::process::{Pid, Signal, kill_process};
use support::{Case, pause, process::Process};

const DEATHS: u32 = 300;
/// As long as nothing happens.
const QUIET: Duration = Duration::from_secs(10);
const ROLES: [&str; 3] = ["keeper", "supervisor", "logger"];

fn main() {
    let program = std::env::var("PINFOLD_BENCH_ANNOUNCE").expect("run me by scripts/bench daemon");
    let parts: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let asked = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    if asked("deaths") {
        deaths(&program);
    }
    for count in [200, 1000] {
        if asked(&count.to_string()) {
            many(&program, count);
        }
    }
}

/// `pinfold up -o json`, its stdout read by this thread alone: no hop between an event and its time.
struct Daemon {
    child: Child,
    events: BufReader<ChildStdout>,
}

impl Daemon {
    fn start(case: &Case, workers: &str) -> Self {
        let config = case.config(workers);
        let mut command = case.pinfold("up");
        command.arg(config).args(["-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let events = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
        Self { child, events }
    }

    /// Reads up to the next event that `wanted` accepts; it, and when it was here.
    fn next(&mut self, mut wanted: impl FnMut(&EventKind) -> bool) -> (EventKind, Mono) {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.events.read_line(&mut line).unwrap() > 0, "pinfold up ended");
            let at = monotonic();
            let event: Event = serde_json::from_str(&line).unwrap();
            if wanted(&event.kind) {
                return (event.kind, at);
            }
        }
    }

    fn next_pid(&mut self) -> i32 {
        match self.next(|kind| matches!(kind, EventKind::Started { .. })).0 {
            EventKind::Started { pid } => pid,
            _ => unreachable!(),
        }
    }

    /// From SIGTERM to its end.
    fn stop(mut self) -> Duration {
        let begin = monotonic();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        // Read all the time: what is measured is not how much a pipe holds.
        let mut rest = Vec::new();
        self.events.read_to_end(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        monotonic().since(begin)
    }
}

/// A worker is killed; its exit's event is waited for, and its next life's first word.
fn deaths(program: &str) {
    let case = Case::new();
    let fifo = case.file("alive");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // Open for writing as well, so that a reader between two lives does not see an end.
    let mut alive = File::options().read(true).write(true).open(&fifo).unwrap();
    let mut first_word = || {
        alive.read_exact(&mut [0]).unwrap();
        monotonic()
    };
    let unit = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    let mut daemon = Daemon::start(&case, &support::worker("one", &[program, &fifo], &[unit]));
    first_word();
    let mut pid = daemon.next_pid();
    let bare = || Command::new(program).arg(&fifo).stdin(Stdio::null()).spawn().unwrap();
    let mut child = bare();
    first_word();

    let (mut published, mut alive_again) = (Vec::new(), Vec::new());
    let (mut seen, mut alive_again_bare) = (Vec::new(), Vec::new());
    for _ in 0..DEATHS {
        pause(Duration::from_millis(5));
        let begin = monotonic();
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        seen.push(monotonic().since(begin));
        child = bare();
        alive_again_bare.push(first_word().since(begin));

        pause(Duration::from_millis(5));
        let begin = monotonic();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        published.push(daemon.next(|kind| matches!(kind, EventKind::Exited { .. })).1.since(begin));
        first_word();
        pid = daemon.next_pid();

        // Not in one with the event, whose reading would delay the look at the other.
        pause(Duration::from_millis(5));
        let begin = monotonic();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        alive_again.push(first_word().since(begin));
        pid = daemon.next_pid();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    println!("{DEATHS} deaths by SIGKILL, 5 ms apart{:>18} {:>10} {:>10}", "median", "p99", "ratio");
    let bare = print("bare parent: death seen", &mut seen, None);
    print("pinfold: exit's event read", &mut published, Some(bare));
    let bare = print("bare parent: next life's first word", &mut alive_again_bare, None);
    print("pinfold: next life's first word", &mut alive_again, Some(bare));
    daemon.stop();
}

/// `count` quiet workers: up, watched while nothing happens, down.
fn many(program: &str, count: usize) {
    println!("\n{count} workers");
    let begin = monotonic();
    let mut children: Vec<_> =
        (0..count).map(|_| Command::new(program).stdin(Stdio::null()).spawn().unwrap()).collect();
    let bare_up = monotonic().since(begin);
    let begin = monotonic();
    for child in &children {
        kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    }
    for child in &mut children {
        child.wait().unwrap();
    }
    let bare_down = monotonic().since(begin);

    let case = Case::new();
    let mut workers = String::new();
    for i in 0..count {
        workers.write_str(&support::worker(&format!("w{i}"), &[program], &[])).unwrap();
    }
    let begin = monotonic();
    let mut daemon = Daemon::start(&case, &workers);
    daemon.next(|kind| matches!(kind, EventKind::Supervisor { .. }));
    let ready = monotonic().since(begin);
    for _ in 0..count {
        daemon.next_pid();
    }
    let up = monotonic().since(begin);
    println!(
        "  up: {up:.0?}, of them {ready:.0?} to the first event; bare spawns {bare_up:.0?}, ratio {:.1}",
        ratio(up, bare_up)
    );

    let roles = ROLES.map(|role| case.role(role));
    settle(&roles);
    let before = roles.each_ref().map(Process::wake_ups);
    pause(QUIET);
    let after = roles.each_ref().map(Process::wake_ups);
    for ((role, name), (before, after)) in roles.iter().zip(ROLES).zip(before.into_iter().zip(after)) {
        let mib = |file: &str, key: &str| f64::from(u32::try_from(role.bytes(file, key) >> 10).unwrap()) / 1024.0;
        let open = std::fs::read_dir(format!("/proc/{}/fd", role.pid)).unwrap().count();
        println!(
            "  {name:<11} {:>5.1} MiB resident, {:>4.1} of them its share; {open:>4} descriptors; {} wake-ups in {QUIET:?}",
            mib("status", "VmRSS"),
            mib("smaps_rollup", "Pss"),
            after - before
        );
    }
    let down = daemon.stop();
    println!("  down: {down:.0?}; bare kills and waits {bare_down:.0?}, ratio {:.1}", ratio(down, bare_down));
}

/// Until nothing was woken for a second: the start is over.
fn settle(roles: &[Process]) {
    let sum = || roles.iter().map(Process::wake_ups).sum::<u64>();
    let mut last = sum();
    for _ in 0..30 {
        pause(Duration::from_secs(1));
        let now = sum();
        if std::mem::replace(&mut last, now) == now {
            return;
        }
    }
    println!("  it never came to rest");
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

/// One line; its median.
fn print(what: &str, times: &mut [Duration], against: Option<Duration>) -> Duration {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let ratio = against.map_or_else(String::new, |peer| format!("{:.2}", ratio(at(50), peer)));
    println!("  {what:<40} {:>10.1?} {:>10.1?} {ratio:>10}", at(50), at(99));
    at(50)
}
