//! What only a machine of one's own may be used for: its clock is set by years, its inotify is used up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, State},
};
use rustix::process::Signal;
use serde_json::Value;
use support::{Case, ELSEWHERE, door::Door, evidence, process::Process, run::finish, up::Up, wait_until, worker};

const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
const MS: Duration = Duration::from_millis(1);
const TEN_YEARS: i64 = 10 * 365 * 24 * 60 * 60;

fn case() -> Case {
    assert!(std::env::var_os("PINFOLD_VM").is_some(), "these tests change the whole machine: {ELSEWHERE}");
    Case::alone()
}

/// The wall clock, to be set right at the end.
struct WallClock {
    set: i64,
}

impl WallClock {
    /// By `seconds`, beside what it is.
    fn set(&mut self, seconds: i64) {
        let now = clock::wall().as_second() + seconds - self.set;
        let ran = finish(Command::new("/bin/date").args(["-s", &format!("@{now}")]));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        self.set = seconds;
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn shown(case: &Case, worker: &str) -> Value {
    Door::open(&case.socket()).get(&format!("/v1/workers/{worker}")).body
}

fn detail(case: &Case, worker: &str) -> String {
    let shown = shown(case, worker);
    format!("{}({})", shown["state"].as_str().unwrap(), shown["detail"].as_str().unwrap())
}

fn replace_supervisor(case: &Case, up: &mut Up, nth: usize) {
    case.role("supervisor").signal(Signal::KILL);
    let mut seen = 0;
    up.wait_for("another supervisor", |e: &Event| {
        seen += usize::from(matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again")));
        seen == nth
    });
    case.ask("count", &["*"]);
}

#[test]
fn a_clock_set_by_years_starts_nothing_ends_nothing_and_costs_no_history() {
    let case = case();
    let mut wall = WallClock { set: 0 };
    let failing = |rest: &str| format!("restart: {{policy: on-failure, retry_delay: 0s, max_retries: 3, {rest}}}");
    let told = case.file("told");
    let script = format!("n=0; while :; do n=$((n + 1)); echo line $n; echo $n > {told}; sleep 0.1; done");
    let workers = worker("held", &["/bin/false"], &[&failing("cooldown: hold")])
        + &worker("cooling", &["/bin/false"], &[&failing("cooldown: 1h")])
        + &worker("waiting", &["/bin/false"], &["restart: {policy: on-failure, retry_delay: 1h, max_delay: 1h}"])
        + &worker("again", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE])
        + &worker("writes", &["/bin/sh", "-c", &script], &[]);
    let mut up = Up::start(&case, &workers);
    let (again, writes) = (up.started("again", 1), up.started("writes", 1));
    for (worker, rests) in [("held", "breaker_open"), ("cooling", "breaker_open"), ("waiting", "waiting")] {
        up.state(worker, State::Stopped, rests);
    }
    let runs = |worker: &str| shown(&case, worker)["run"].clone();
    let all = ["held", "cooling", "waiting", "again", "writes"];
    let before = all.map(|worker| (detail(&case, worker), runs(worker)));
    let mut epoch = up.seen[0].epoch;

    for (nth, by) in [TEN_YEARS, -TEN_YEARS, 0].into_iter().enumerate() {
        wall.set(by);
        let line = fs::read_to_string(&told).unwrap();
        wait_until("further lines", || (fs::read_to_string(&told).unwrap() != line).then_some(()));
        up.watch(500 * MS);
        assert_eq!(all.map(|worker| (detail(&case, worker), runs(worker))), before, "set by {by} s");
        let recent = case.ask("logs", &["--since", "1m", "writes"]).stdout;
        let newest: u64 = recent.lines().last().unwrap().strip_prefix("line ").unwrap().parse().unwrap();
        let known: u64 = line.trim().parse().unwrap();
        assert!(newest >= known, "set by {by} s: {newest} is the newest of the last minute, and {known} was written");

        // Whoever follows takes over by distances and not by the clock, and forgets nothing by it.
        replace_supervisor(&case, &mut up, nth + 1);
        up.watch(500 * MS);
        assert_eq!(all.map(|worker| (detail(&case, worker), runs(worker))), before, "set by {by} s, and replaced");
        let now = up.seen.last().unwrap().epoch;
        assert!(now > epoch, "epochs grow whatever the clock says: {epoch}, {now}");
        epoch = now;
    }
    assert!(again.alive() && writes.alive());
    again.signal(Signal::KILL);
    assert_eq!(up.exited("again", 1), ExitCause::KilledExternal);
    up.started("again", 2);
    up.stop();
    assert_eq!(evidence::recorded(&case)["held"], [1, 2, 3, 4], "all of its runs are remembered");
}

/// A setting of the kernel's, to be put back at the end.
struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    fn of(name: &str) -> Self {
        let path = Path::new("/proc/sys/fs/inotify").join(name);
        Self { before: fs::read_to_string(&path).unwrap(), path }
    }

    fn set(&self, value: u32) {
        fs::write(&self.path, value.to_string()).unwrap();
    }

    fn reset(&self) {
        fs::write(&self.path, &self.before).unwrap();
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.reset();
    }
}

#[test]
fn without_a_watch_left_workers_start_end_and_are_proved_gone_all_the_same() {
    let case = case();
    let told = case.file("told");
    let script = format!("(trap '' TERM; echo left $$ >> {told}; exec sleep 1000) & wait");
    let mut up = Up::start(&case, &worker("again", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]));
    let first = up.started("again", 1);
    case.ask("count", &["*"]);
    let watches = Setting::of("max_user_watches");
    watches.set(1);
    case.config(
        &(worker("again", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE])
            + &worker("leaves", &["/bin/sh", "-c", &script], &["stop: {timeout: 10m}"])),
    );
    case.ask("reload", &[]);
    first.signal(Signal::KILL);
    assert_eq!(up.exited("again", 1), ExitCause::KilledExternal);
    up.started("again", 2);
    up.started("leaves", 1);
    wait_until("its child is deaf", || case.told("told").first().cloned());
    case.ask("stop", &["--no-wait", "leaves"]);
    up.state("leaves", State::Stopping, "draining");
    for pid in support::tree::procs_below(&case.run_dir("leaves", 1)) {
        Process::open(pid).unwrap().signal(Signal::KILL);
    }
    // No notification can tell that its cgroup is empty.
    up.state("leaves", State::Stopped, "stopped");

    // One that follows another has not even the watches that it begins with.
    replace_supervisor(&case, &mut up, 1);
    watches.reset();
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}

#[test]
fn a_supervisor_that_can_watch_nothing_is_tried_again_until_it_can_and_no_worker_notices() {
    let case = case();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    let main = up.started("w", 1);
    case.ask("count", &["*"]);
    let instances = Setting::of("max_user_instances");
    instances.set(0);
    case.role("supervisor").signal(Signal::KILL);
    let said = wait_until("two tries", || {
        let said = up.stderr();
        (said.matches("before it had taken over").count() >= 2).then_some(said)
    });
    assert!(said.contains("cannot watch the kernel") && said.contains("max_user_instances"), "{said}");
    assert!(main.alive());
    instances.reset();
    up.wait_for(
        "one that can",
        |e| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again")),
    );
    case.ask("count", &["*"]);
    assert!(main.alive());
    assert_eq!(shown(&case, "w")["pid"], main.pid);
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}
