//! What the kernel enforces, through the `pinfold` binary: needs the memory, cpu, pids and io controllers (scripts/test
//! starts it natively or in a virtual machine). What needs no controller is in `lifecycle`.
//!
//! Limits are looked at from two sides that are not the product: the program's own reading of its cgroup's files at
//! entry, and ours from outside while it runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::cast_precision_loss, reason = "shares and rates, not counts")]

#[path = "limits/host_oom.rs"]
mod host_oom;
#[path = "limits/live.rs"]
mod live;
#[path = "limits/metrics.rs"]
mod metrics;
#[path = "limits/slices.rs"]
mod slices;
mod support;
#[path = "limits/survive.rs"]
mod survive;
#[path = "limits/violations.rs"]
mod violations;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pinfold::{
    clock,
    model::{EventKind, ExitCause, KilledBy, OomScope, State},
};
use rustix::process::Signal;
use support::{
    Case, copy_program, misbehave, misbehaving, pause,
    process::Process,
    run::{finish, run},
    seconds_since, tree,
    up::{Up, is},
    wait_until, worker,
};

const MIB: u64 = 1 << 20;
const OOM: ExitCause = ExitCause::Oom { scope: OomScope::Worker };

/// What `misbehave limits` told.
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split('\t').filter_map(|f| f.split_once('=')).collect()
}

/// `cpu.max` as a percentage of one CPU.
fn percent(cpu_max: &str) -> f64 {
    let (quota, period) = cpu_max.split_once(' ').unwrap();
    100.0 * quota.parse::<f64>().unwrap() / period.parse::<f64>().unwrap()
}

// --- before the first instruction --------------------------------------------

#[test]
fn every_limit_is_in_force_at_entry_in_500_launches() {
    const RUNS: u32 = 100;
    let case = Case::with_limits(true);
    // Five that differ in every value, so that a limit that is another's, the default or the last run's is seen.
    let mut config = String::new();
    for i in 1..=5_u64 {
        let limits = format!(
            "limits: {{memory: {{max_rss: {}MiB, high: {}MiB}}, cpu: {{max_percent: {}, weight: {}}}, pids: {{max: {}}}}}",
            32 + i,
            16 + i,
            50 + i,
            100 + i,
            10 + i
        );
        let always = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
        config += &misbehaving(&format!("w{i}"), &["limits", &case.file(&format!("w{i}"))], &[&limits, always]);
    }
    let mut up = Up::start(&case, &config);
    for i in 1..=5 {
        up.exited(&format!("w{i}"), RUNS);
    }
    up.stop();
    for i in 1..=5_u64 {
        let name = format!("w{i}");
        let lines = case.told(&name);
        assert!(lines.len() >= RUNS as usize, "{name}: {} lines", lines.len());
        let mut cgroups = BTreeSet::new();
        for line in &lines {
            let told = fields(line);
            assert_eq!(told["memory.max"], ((32 + i) * MIB).to_string(), "{line}");
            assert_eq!(told["memory.high"], ((16 + i) * MIB).to_string(), "{line}");
            assert_eq!(told["memory.swap.max"], "0", "{line}");
            assert_eq!(told["memory.oom.group"], "1", "{line}");
            assert!((percent(told["cpu.max"]) - (50.0 + i as f64)).abs() < 0.01, "{line}");
            assert_eq!(told["cpu.weight"], (100 + i).to_string(), "{line}");
            assert_eq!(told["pids.max"], (10 + i).to_string(), "{line}");
            assert!(told["cgroup"].contains(&format!("/workers/{name}.")), "{line}");
            assert!(cgroups.insert(told["cgroup"].to_owned()), "two runs in one cgroup: {line}");
        }
    }
}

#[test]
fn values_are_rounded_to_the_kernels_grain_and_what_is_not_asked_for_is_left_alone() {
    let case = Case::with_limits(false);
    let limits = [
        // bytes that are no whole page; the kernel rounds down
        ("memory", "limits: {memory: {max_rss: 100000000, oom_scope: process, swap_max: 5000}}"),
        ("third", "limits: {cpu: {max_percent: 33.3}}"),
        // the least that can be asked for: 1 ms in the usual period of 100 ms, the kernel's own least
        ("tiny", "limits: {cpu: {max_percent: 1}}"),
        ("many", "limits: {cpu: {max_percent: 350, burst: 20ms}}"),
        ("pids", "limits: {pids: {max: 7}}"),
        ("none", "umask: 0o022"),
    ];
    let config: String = limits.iter().map(|(id, line)| worker(id, &["/bin/sleep", "1000"], &[line])).collect();
    let mut up = Up::start(&case, &config.replace("      umask: 0o022\n", ""));
    let mut file = |id: &str, key: &str| {
        let _main = up.started(id, 1);
        tree::read(&case.run_dir(id, 1), key)
    };
    assert_eq!(file("memory", "memory.max"), "99999744");
    assert_eq!(file("memory", "memory.swap.max"), "4096");
    assert_eq!(file("memory", "memory.oom.group"), "0");
    assert_eq!(file("memory", "memory.high"), "max");
    assert_eq!(file("memory", "pids.max"), "max");
    assert!((percent(&file("third", "cpu.max")) - 33.3).abs() < 0.01);
    assert!((percent(&file("tiny", "cpu.max")) - 1.0).abs() < 0.01);
    assert!((percent(&file("many", "cpu.max")) - 350.0).abs() < 0.01);
    assert_eq!(file("many", "cpu.max.burst"), "20000");
    assert_eq!(file("many", "memory.max"), "max");
    assert_eq!(file("pids", "pids.max"), "7");
    for (key, free) in [
        ("memory.max", "max"),
        ("memory.oom.group", "0"),
        ("cpu.max", "max 100000"),
        ("cpu.weight", "100"),
        ("pids.max", "max"),
    ] {
        assert_eq!(file("none", key), free, "{key}");
    }
    up.stop();
}

// --- memory ------------------------------------------------------------------

#[test]
fn a_leak_past_max_rss_is_told_as_its_own_oom_and_the_worker_comes_back() {
    let case = Case::with_limits(false);
    let unit = ["limits: {memory: {max_rss: 32MiB}}", "restart: {policy: on-failure, retry_delay: 0s, max_retries: 0}"];
    let mut up = Up::start(&case, &misbehaving("leaky", &["leak"], &unit));
    for run in 1..=3 {
        let (why, event) = up.exit_of("leaky", run);
        assert_eq!(why, OOM, "run {run}");
        let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
        let kills = evidence.after.since(evidence.before).local.expect("memory.events.local was read").oom_kill;
        assert!(kills >= 1, "the evidence shows the kill: {evidence:?}");
    }
    up.stop();
}

#[test]
fn an_oom_in_a_child_is_a_violation_that_the_main_process_survives_where_the_scope_is_a_process() {
    let case = Case::with_limits(false);
    let told = case.file("told");
    let unit = ["limits: {memory: {max_rss: 32MiB, oom_scope: process}}"];
    let mut up = Up::start(&case, &misbehaving("parent", &["leak-child", &told], &unit));
    let main = up.started("parent", 1);
    let violation = up.wait_for("the violation", |e| is(e, "parent") && matches!(e.kind, EventKind::Violation { .. }));
    let EventKind::Violation { resource, severity, counters, .. } = violation.kind else { unreachable!() };
    assert_eq!((resource.as_str(), severity.as_str()), ("memory", "critical"));
    // `memory.events` and `memory.events.local` are two files: the kill can fall between the two reads.
    assert!(counters.memory.is_some_and(|m| m.oom_kill >= 1), "{counters:?}");
    wait_until("the main process has seen its child die", || case.told("told").first().cloned());
    assert!(case.told("told")[0].contains("signal: 9"), "{:?}", case.told("told"));
    assert!(main.alive());
    assert!(tree::field(&case.run_dir("parent", 1), "memory.events.local", "oom_kill") >= 1);
    up.stop();
    let why = up.exited("parent", 1);
    assert!(matches!(why, ExitCause::Killed { by: KilledBy::Shutdown | KilledBy::Stop, .. }), "{why:?}");
}

#[test]
fn an_oom_in_a_child_ends_the_worker_where_the_scope_is_the_worker() {
    let case = Case::with_limits(false);
    let told = case.file("told");
    let mut up =
        Up::start(&case, &misbehaving("parent", &["leak-child", &told], &["limits: {memory: {max_rss: 32MiB}}"]));
    assert_eq!(up.exited("parent", 1), OOM);
    assert_eq!(case.told("told"), Vec::<String>::new(), "the main process died with its child");
    up.stop();
}

#[test]
fn many_that_die_of_different_causes_at_once_are_told_apart() {
    let case = Case::with_limits(true);
    let mut config = String::new();
    for i in 0..30 {
        let limits = ["limits: {memory: {max_rss: 16MiB}, pids: {max: 8}}"];
        config += &misbehaving(&format!("leaky{i}"), &["leak"], &limits);
        config += &misbehaving(&format!("shot{i}"), &["sleep"], &limits);
        config += &worker(&format!("ended{i}"), &["/bin/sh", "-c", &format!("exit {}", i + 1)], &limits);
    }
    let mut up = Up::start(&case, &config);
    for i in 0..30 {
        up.started(&format!("shot{i}"), 1).signal(Signal::KILL);
    }
    for i in 0..30 {
        assert_eq!(up.exited(&format!("leaky{i}"), 1), OOM);
        assert_eq!(up.exited(&format!("shot{i}"), 1), ExitCause::KilledExternal);
        assert_eq!(up.exited(&format!("ended{i}"), 1), ExitCause::Exited { code: i + 1 });
    }
    up.stop();
}

// --- pids --------------------------------------------------------------------

#[test]
fn a_fork_bomb_stays_at_pids_max_and_is_gone_after_the_stop() {
    let case = Case::with_limits(true);
    let unit = ["limits: {pids: {max: 24}, memory: {max_rss: 256MiB}}", "stop: {timeout: 500ms}"];
    let mut up = Up::start(&case, &misbehaving("bomb", &["fork-bomb"], &unit));
    let main = up.started("bomb", 1);
    let dir = case.run_dir("bomb", 1);
    let violation = up.wait_for("the violation", |e| is(e, "bomb") && matches!(e.kind, EventKind::Violation { .. }));
    let EventKind::Violation { resource, .. } = violation.kind else { unreachable!() };
    assert_eq!(resource, "pids");
    wait_until("it is at its limit", || (tree::number(&dir, "pids.current") == 24).then_some(()));
    let started = clock::monotonic();
    while seconds_since(started) < 2.0 {
        assert!(tree::procs(&dir).len() <= 24);
        pause(Duration::from_millis(20));
    }
    assert!(tree::field(&dir, "pids.events", "max") > 0);
    if let Ok(peak) = tree::read(&dir, "pids.peak").parse::<u64>() {
        assert_eq!(peak, 24);
    }
    let asked = clock::monotonic();
    up.stop();
    assert!(seconds_since(asked) < 1.5 * f64::from(support::slowness()) + 0.5, "it took {} s", seconds_since(asked));
    assert!(!main.alive());
    assert_eq!(case.processes(), Vec::<String>::new());
}

// --- cpu ---------------------------------------------------------------------

#[test]
fn a_cpu_burner_gets_its_quota_and_no_more() {
    const WINDOW: Duration = Duration::from_secs(8);
    let case = Case::with_limits(true);
    let mut config = misbehaving("quarter", &["burn"], &["limits: {cpu: {max_percent: 25}}"]);
    config += &misbehaving("half", &["burn"], &["limits: {cpu: {max_percent: 50}}"]);
    let mut up = Up::start(&case, &config);
    let dirs = ["quarter", "half"].map(|id| {
        let _main = up.started(id, 1);
        case.run_dir(id, 1)
    });
    let used = |dir: &Path| tree::field(dir, "cpu.stat", "usage_usec");
    // From a throttled state to a throttled state: the exec itself is over.
    for dir in &dirs {
        wait_until("it is throttled", || (tree::field(dir, "cpu.stat", "nr_throttled") > 2).then_some(()));
    }
    let before = dirs.each_ref().map(|dir| (used(dir), clock::monotonic()));
    up.watch(WINDOW);
    for ((dir, (usage, then)), quota) in dirs.iter().zip(before).zip([0.25, 0.50]) {
        let wall = seconds_since(then);
        let share = (used(dir) - usage) as f64 / 1e6 / wall;
        assert!((share / quota - 1.0).abs() < 0.05, "{}: {share:.4} of a CPU for a quota of {quota}", dir.display());
    }
    up.stop();
}

// --- io ----------------------------------------------------------------------

/// A file system of its own: on the disk that scripts/vm adds, on a loop device elsewhere.
struct Disk {
    dir: PathBuf,
}

impl Disk {
    fn new(case: &Case) -> Self {
        let dir = PathBuf::from(case.file("disk"));
        fs::create_dir(&dir).unwrap();
        let (device, option) = if env::var_os("PINFOLD_VM").is_some() {
            assert!(Path::new("/dev/vda").exists(), "scripts/vm was started without --disk: {}", support::ELSEWHERE);
            ("/dev/vda".to_owned(), "")
        } else {
            let image = case.file("image");
            fs::File::create(&image).unwrap().set_len(128 * MIB).unwrap();
            (image, "-o loop")
        };
        let mount = format!("mkfs.ext4 -q -F {device} && mount {option} {device} {}", dir.display());
        let made = finish(Command::new("sh").args(["-c", &mount]));
        assert_eq!(made.code, Some(0), "{mount}: {made:?}");
        Self { dir }
    }

    /// Every writer waits, in uninterruptible sleep, until the answer is dropped.
    fn freeze(&self) -> Frozen<'_> {
        let frozen = finish(Command::new("fsfreeze").arg("--freeze").arg(&self.dir));
        assert_eq!(frozen.code, Some(0), "{frozen:?}");
        Frozen(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failed test may have a writer left, which the case kills after this.
        let undone = finish(Command::new("umount").arg("--lazy").arg(&self.dir));
        assert!(std::thread::panicking() || undone.code == Some(0), "{undone:?}");
    }
}

struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = finish(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0.dir));
        assert!(std::thread::panicking() || thawed.code == Some(0), "{thawed:?}");
    }
}

#[test]
fn a_disk_writer_gets_its_rate() {
    const RATE: u64 = 2 * MIB;
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    let dir = disk.dir.to_str().unwrap();
    let limits = format!("limits: {{io: [{{path: {dir}, wbps: {RATE}}}]}}");
    let mut up = Up::start(&case, &misbehaving("writer", &["write-disk", dir], &[&limits]));
    let main = up.started("writer", 1);
    let cgroup = case.run_dir("writer", 1);
    assert!(tree::read(&cgroup, "io.max").contains(&format!("wbps={RATE}")), "{}", tree::read(&cgroup, "io.max"));
    let written = || -> u64 {
        let stat = tree::read(&cgroup, "io.stat");
        stat.split_whitespace().filter_map(|f| f.strip_prefix("wbytes=")?.parse::<u64>().ok()).sum()
    };
    wait_until("it writes", || (written() > RATE / 2).then_some(()));
    let (before, then) = (written(), clock::monotonic());
    up.watch(Duration::from_secs(5));
    let rate = (written() - before) as f64 / seconds_since(then);
    assert!(main.alive());
    assert!((rate / RATE as f64 - 1.0).abs() < 0.2, "{rate:.0} bytes a second for a limit of {RATE}");
    up.stop();
}

#[test]
fn what_cannot_be_frozen_is_named_and_nothing_else_waits_for_it() {
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    let dir = disk.dir.to_str().unwrap();
    let mut up = Up::start(&case, &misbehaving("writer", &["write-disk", dir], &[]));
    let main = up.started("writer", 1);
    let frozen = disk.freeze();
    wait_until("it is in uninterruptible sleep", || main.status("State").starts_with('D').then_some(()));
    let ran = finish(case.pinfold("freeze").args(["writer", "--timeout", "3s"]));
    let named = format!("it is running (ready), and goes on; not frozen yet: pid {} (misbehave) D in ", main.pid);
    assert!(ran.code == Some(7) && ran.stderr.contains(&named), "{ran:?}");
    assert!(case.ask("status", &["writer"]).stdout.contains("not frozen yet: pid "));
    drop(frozen);
    up.state("writer", State::Running, "frozen");
    assert!(main.alive());
    up.stop();
}

#[test]
fn what_cannot_be_killed_is_never_called_stopped() {
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    let dir = disk.dir.to_str().unwrap();
    let mut up = Up::start(&case, &misbehaving("writer", &["write-disk", dir], &["stop: {timeout: 200ms}"]));
    let main = up.started("writer", 1);
    let frozen = disk.freeze();
    wait_until("it is in uninterruptible sleep", || main.status("State").starts_with('D').then_some(()));
    up.signal(Signal::TERM);
    up.state("writer", State::Stopping, "unkillable");
    assert!(main.alive());
    let stopped = |up: &Up| up.states("writer").iter().any(|s| s.starts_with("stopped"));
    assert!(!stopped(&up), "{:?}", up.states("writer"));
    // It does not wait for ever, and does not pretend either.
    let ended = up.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("writer"), "who could not be ended is named: {}", ended.stderr);
    assert!(main.alive());
    assert!(!stopped(&up), "{:?}", up.states("writer"));
    drop(frozen);
    main.wait_gone("the thawed writer");
    wait_until("its cgroup can be removed", || fs::remove_dir(case.run_dir("writer", 1)).ok());
}

#[test]
fn a_rate_for_what_is_no_disk_is_an_honest_refusal() {
    let case = Case::with_limits(false);
    let limits = "limits: {io: [{path: /proc, wbps: 1MiB}]}";
    let mut up = Up::start(&case, &worker("nowhere", &["/bin/sleep", "1000"], &[limits]));
    let (why, event) = up.exit_of("nowhere", 1);
    assert!(matches!(why, ExitCause::StartFailed { .. }), "{why:?}");
    let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
    let sentence = evidence.start_error.expect("the reason").to_string();
    assert!(sentence.contains("/proc"), "{sentence}");
    assert!(!case.run_dir("nowhere", 1).exists());
    up.stop();
}

// --- hostile limits ----------------------------------------------------------

#[test]
fn limits_that_hardly_let_a_program_live_end_in_a_cause_and_never_in_a_hang() {
    let case = Case::with_limits(true);
    let hostile = [
        ("one-mib", "limits: {memory: {max_rss: 1MiB}}"),
        ("one-mib-each", "limits: {memory: {max_rss: 1MiB, oom_scope: process}}"),
        ("one-pid", "limits: {pids: {max: 1}}"),
        ("slow", "limits: {cpu: {max_percent: 2}}"),
        ("low-high", "limits: {memory: {max_rss: 64MiB, high: 1MiB}}"),
    ];
    // The shell has to fork for its command.
    let config: String =
        hostile.iter().map(|(id, l)| worker(id, &["/bin/sh", "-c", "/bin/true; exit 7"], &[l])).collect();
    let mut up = Up::start(&case, &config);
    for (id, _) in hostile {
        let why = up.exited(id, 1);
        let fits = match id {
            "one-pid" => matches!(why, ExitCause::Exited { code } if code != 7),
            "slow" | "low-high" => why == ExitCause::Exited { code: 7 },
            // Whether the kernel lets it begin is the kernel's; but it is told as what it is.
            _ => matches!(
                why,
                ExitCause::Oom { scope: OomScope::Worker } | ExitCause::StartFailed { .. } | ExitCause::Exited { .. }
            ),
        };
        assert!(fits, "{id}: {why:?}");
    }
    up.wait_for("the refused fork is told", |e| {
        is(e, "one-pid") && matches!(&e.kind, EventKind::Violation { resource, .. } if resource == "pids")
    });
    up.stop();
}

#[test]
fn limits_below_what_the_kernel_can_hold_are_refused_before_anything_starts() {
    let case = Case::with_limits(false);
    for limits in [
        "{memory: {max_rss: 1MB}}",
        "{memory: {max_rss: 0}}",
        "{pids: {max: 0}}",
        "{cpu: {max_percent: 0.5}}",
        "{cpu: {weight: 10001}}",
    ] {
        let config = case.config(&worker("a", &["/bin/true"], &[&format!("limits: {limits}")]));
        let ran = finish(case.pinfold("up").arg(&config));
        assert_eq!(ran.code, Some(2), "{limits}: {ran:?}");
    }
}

// --- run ---------------------------------------------------------------------

#[test]
fn run_holds_its_command_to_the_limits_on_the_command_line() {
    let case = Case::with_limits(false);
    let args = ["-m", "48M", "--cpu", "75", "--pids", "9", "--", &misbehave(), "limits"];
    let ran = run(&case, &args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = fields(ran.stdout.trim());
    assert_eq!(told["memory.max"], (48 * MIB).to_string());
    assert!((percent(told["cpu.max"]) - 75.0).abs() < 0.01, "{told:?}");
    assert_eq!(told["pids.max"], "9");
}

#[test]
fn run_explains_an_oom_kill_and_ends_with_137() {
    let case = Case::with_limits(false);
    let ran = run(&case, &["-m", "32M", "--", &misbehave(), "leak"]);
    assert_eq!(ran.code, Some(137), "{ran:?}");
    assert_eq!(ran.cause(), OOM);
    assert!(ran.stderr.to_lowercase().contains("memory") || ran.stderr.contains("oom"), "{}", ran.stderr);
    let text = ran.report.expect("a report").to_string();
    assert!(text.contains("peak") && text.contains("oom_kill"), "the evidence is in the report: {text}");
    assert_eq!(tree::run_dirs(&case.root), Vec::<String>::new());
}

#[test]
fn run_reports_what_its_command_used() {
    let case = Case::with_limits(true);
    let ran = run(&case, &["--cpu", "40", "--timeout", "6s", "--", &misbehave(), "burn"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    let report = ran.report.as_ref().expect("a report");
    let number =
        |at: &str| report.pointer(at).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{at}: {report}"));
    let share = number("/cpu/usage_usec") / 1e6 / (number("/wall_ms") / 1e3);
    assert!((share / 0.40 - 1.0).abs() < 0.1, "{share:.3} of a CPU for a quota of 0.4: {report}");
    assert!(number("/cpu/throttled_periods") > 10.0, "{report}");
}

// --- delegated, without systemd ----------------------------------------------

/// A subtree that root gave to somebody else, as `cgroup-v2.rst` says it: the directory, `cgroup.procs`,
/// `cgroup.subtree_control` and `cgroup.threads`.
struct Delegated {
    dir: PathBuf,
    pinfold: String,
    misbehave: String,
}

const NOBODY: u32 = 65534;

impl Delegated {
    fn new(case: &Case) -> Self {
        fs::write(case.root.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
        let dir = case.root.join("delegated");
        fs::create_dir(&dir).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(dir.join(file), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // The programs where such a user can reach them, wherever this was built.
        let copy = |from: &str, name: &str| {
            let to = case.file(name);
            copy_program(from.as_ref(), to.as_ref());
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
            to
        };
        let (pinfold, misbehave) = (copy(support::PINFOLD, "pinfold"), copy(&misbehave(), "misbehave"));
        chown(case.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        Self { dir, pinfold, misbehave }
    }

    /// A shell of that user in the cgroup `at` of the subtree (made where it is missing), with `$PINFOLD` and
    /// `$MISBEHAVE`.
    fn shell(&self, case: &Case, at: &str, script: &str) -> Command {
        let place = self.dir.join(at);
        let mut command = Command::new("/bin/sh");
        // Root puts the shell in; from there on it is on its own.
        command.arg("-ec").arg(
            "if ! [ -d \"$1\" ]; then setpriv --reuid 65534 --regid 65534 --clear-groups mkdir \"$1\"; fi
             echo $$ >\"$1/cgroup.procs\"; shift
             exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all /bin/sh -c \"$@\"",
        );
        command.arg("sh").arg(place).arg(script).arg("sh");
        command.current_dir("/").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("PINFOLD", &self.pinfold).env("MISBEHAVE", &self.misbehave);
        command.env("HOME", case.dir.path()).env("XDG_RUNTIME_DIR", case.file("xdg-run"));
        command.env("XDG_STATE_HOME", case.file("xdg-state")).env("XDG_CONFIG_HOME", case.file("xdg-config"));
        for dir in ["xdg-run", "xdg-state", "xdg-config"] {
            fs::create_dir_all(case.file(dir)).unwrap();
            chown(case.file(dir), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command
    }
}

#[test]
fn run_works_in_a_bare_delegated_subtree_for_an_unprivileged_user() {
    // Alone in the delegated cgroup itself; and beside a shell in a leaf of its own, as a login would have it.
    for (at, script) in [
        ("", "exec \"$PINFOLD\" run -m 32M --pids 9 -- \"$MISBEHAVE\" limits"),
        ("shell", "\"$PINFOLD\" run -m 32M --pids 9 -- \"$MISBEHAVE\" limits; exit $?"),
    ] {
        let case = Case::with_limits(false);
        let delegated = Delegated::new(&case);
        let ran = finish(&mut delegated.shell(&case, at, script));
        assert_eq!(ran.code, Some(0), "in {at:?}: {ran:?}");
        let told = fields(ran.stdout.trim());
        assert_eq!(told["memory.max"], (32 * MIB).to_string(), "in {at:?}");
        assert_eq!(told["pids.max"], "9", "in {at:?}");
        assert!(told["cgroup"].contains("/delegated/"), "in {at:?}: {told:?}");
    }
}

#[test]
fn up_works_in_a_bare_delegated_subtree_for_an_unprivileged_user() {
    let case = Case::with_limits(false);
    let delegated = Delegated::new(&case);
    let command = [delegated.misbehave.as_str(), "leak"];
    let unit = ["limits: {memory: {max_rss: 32MiB}}", "restart: {policy: on-failure, retry_delay: 0s, max_retries: 0}"];
    let config = case.config(&worker("leaky", &command, &unit));
    chown(&config, Some(NOBODY), Some(NOBODY)).unwrap();
    let script = format!("exec \"$PINFOLD\" up {config} -o json");
    let mut up = Up::spawn_as_it_is(&mut delegated.shell(&case, "shell", &script));
    assert_eq!(up.exited("leaky", 1), OOM);
    // It ends as fast as the first.
    up.begun("leaky", 2);
    let keeper = Process::open(up.pid()).expect("it runs");
    assert_eq!(keeper.status("Uid").split_whitespace().next(), Some("65534"));
    assert!(keeper.cgroup().starts_with(&delegated.dir), "{}", keeper.cgroup().display());
    up.stop();
}

#[test]
fn a_stranger_in_the_delegated_cgroup_is_named_and_never_moved() {
    let case = Case::with_limits(false);
    let delegated = Delegated::new(&case);
    let script = "echo shell $$; \"$PINFOLD\" run -m 32M -- /bin/true; exit $?";
    let ran = finish(&mut delegated.shell(&case, "", script));
    let shell = ran.stdout.trim().strip_prefix("shell ").expect("the shell's pid");
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(ran.stderr.contains(shell), "process {shell} is named: {}", ran.stderr);
}
