//! Limits, with version 2's controllers.

use pinfold::model::{Confidence, ExitCause, OomScope};

use crate::command::Bench;

/// Allocates without end: `tail` keeps the last line, and there is none.
const LEAK: [&str; 2] = ["tail", "/dev/zero"];

#[test]
fn a_leak_is_an_oom_with_its_evidence() {
    let bench = Bench::with_controllers();
    let outcome = bench.run(&["-m", "16M", "--", LEAK[0], LEAK[1]]);
    assert_eq!(outcome.code, 137, "{}", outcome.err);
    assert!(
        outcome.err.starts_with("pinfold: out of memory: killed by the kernel at memory.max 16 MiB (peak 1"),
        "{}",
        outcome.err
    );
    let report = outcome.report;
    assert_eq!(report.cause, ExitCause::Oom { scope: OomScope::Worker });
    assert_eq!(report.confidence, Confidence::Certain);
    assert_eq!(report.limits.effective["memory.max"], "16777216");
    assert_eq!(report.limits.effective["memory.swap.max"], "0");
    assert_eq!(report.limits.requested["--memory"], "16M");
    assert!(report.memory.oom_kills >= Some(1));
    let peak = report.memory.peak_bytes.unwrap();
    assert!((15 << 20..=16 << 20).contains(&peak), "{peak}");
    assert_eq!(report.counters.before.local.unwrap().oom_kill, 0);
}

#[test]
fn limits_are_in_force_before_the_first_instruction() {
    let bench = Bench::with_controllers();
    let script = "d=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); cat $d/memory.max $d/cpu.max $d/pids.max";
    let args = ["-m", "100000000", "--cpu", "50", "--pids", "7", "--", "sh", "-c", script];
    let outcome = bench.run(&args);
    assert_eq!(outcome.out, "99999744\n50000 100000\n7\n", "rounded to pages; {}", outcome.err);
    assert_eq!(outcome.report.limits.effective["memory.max"], "99999744");
}

#[test]
fn a_cpu_limit_shows_in_the_report() {
    let bench = Bench::with_controllers();
    let outcome = bench.run(&["--cpu", "20", "--timeout", "3s", "--", "sh", "-c", "while :; do :; done"]);
    assert_eq!(outcome.code, 124);
    let report = outcome.report;
    assert!(report.cpu.throttled_periods.unwrap() > 5, "{:?}", report.cpu);
    #[expect(clippy::cast_precision_loss, reason = "a share of a few seconds")]
    let share = report.cpu.usage_usec.unwrap() as f64 / 1000.0 / report.wall_ms as f64;
    assert!((0.14..0.26).contains(&share), "{share}");
}

#[test]
fn refused_forks_are_counted_and_the_command_says_what_it_makes_of_them() {
    let bench = Bench::with_controllers();
    let outcome =
        bench.run(&["--pids", "5", "--", "bash", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; exit 6"]);
    assert!(outcome.report.pids.refused >= Some(1), "{:?} {}", outcome.report.pids, outcome.err);
    assert!(outcome.report.pids.peak <= Some(5), "{:?}", outcome.report.pids);
}

#[test]
fn a_fork_bomb_is_gone_with_its_run() {
    let bench = Bench::with_controllers();
    let bomb = "f() { f | f & f; }; f";
    let outcome = bench.run(&["--pids", "30", "--timeout", "1s", "--stop-timeout", "500ms", "--", "bash", "-c", bomb]);
    assert!(!outcome.report.leftover, "{}", outcome.err);
    assert!(outcome.report.pids.peak <= Some(30), "{:?}", outcome.report.pids);
}

#[test]
fn a_command_slowed_down_at_memory_high_still_hears_the_stop() {
    let bench = Bench::with_controllers();
    let args = ["-m", "200M", "--memory-high", "8M", "--timeout", "2s", "--", LEAK[0], LEAK[1]];
    let outcome = bench.run(&args);
    assert_eq!(outcome.code, 124, "{}", outcome.err);
}

#[test]
fn an_oom_of_a_child_under_a_shell_takes_the_whole_run() {
    let bench = Bench::with_controllers();
    let outcome = bench.run(&["-m", "16M", "--", "sh", "-c", "tail /dev/zero; exit 3"]);
    assert_eq!(outcome.code, 137, "memory.oom.group: half a run is no run; {}", outcome.err);
}
