//! What becomes of the workers' output, through the `pinfold` binary: files, quota and rate, what a kill of the logger and
//! a full disk cost, and what `pinfold logs` prints of it. Needs no controller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
};

use pinfold::{
    clock,
    model::{EventKind, ExitCause, State, Stream},
};
use rustix::process::Signal;
use support::{Case, disk::SmallDisk, misbehaving, pause, run::finish, up::Up, wait_until, worker};

const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

/// Where the output of a worker is.
fn files_of(case: &Case, worker: &str) -> PathBuf {
    case.dir.path().join("state/logs").join(worker)
}

/// What all files of a worker take on the disk, by their names.
fn sizes(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    // One can go while we look.
    let sizes = entries.filter_map(|e| Some((e.file_name().into_string().unwrap(), e.metadata().ok()?.len())));
    sizes.collect()
}

fn logs(case: &Case, args: &[&str]) -> String {
    let ran = case.ask("logs", args);
    assert_eq!(ran.stderr, "", "{args:?}");
    ran.stdout
}

/// The numbers in the worker's output, which is nothing but numbers.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("no number: {line:?}"))).collect()
}

/// Waits until `last` is the last line of the output.
fn wait_written(case: &Case, worker: &str, last: &str) {
    wait_until(&format!("{last} in the log of {worker}"), || {
        (logs(case, &[worker, "-n", "1"]).trim_end() == last).then_some(())
    });
}

/// A `pinfold logs` that goes on.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn new(case: &Case, args: &[&str]) -> Self {
        let mut child = case.pinfold("logs").args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Already over where its supervisor is.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The end of an episode of dropping: why, and how many bytes.
fn dropped(up: &mut Up, worker: &str) -> (String, u64) {
    let event = up.wait_for("log_dropped with its bytes", |event| {
        event.worker.as_ref().is_some_and(|id| id.as_str() == worker)
            && matches!(event.kind, EventKind::LogDropped { bytes: Some(_), .. })
    });
    match event.kind {
        EventKind::LogDropped { stream: Stream::Stdout, why, bytes: Some(bytes) } => (why, bytes),
        other => panic!("{other:?}"),
    }
}

// --- files and quota ---------------------------------------------------------

#[test]
fn of_what_a_worker_writes_the_end_is_kept_without_a_gap_and_within_its_quota() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["seq", "1", "400000"], &["logs: {max_size: 256KiB, max_files: 3}"]));
    up.exited("w", 1);
    wait_written(&case, "w", "400000");
    let text = logs(&case, &["w"]);
    // Where the oldest file was removed, its first line is cut.
    let (_, whole) = text.split_once('\n').unwrap();
    let kept = numbers(whole);
    assert!(kept.is_sorted_by(|a, b| a + 1 == *b), "gapless");
    assert_eq!(kept.last(), Some(&400_000));
    assert!(text.len() > 2 * 240 * 1024, "{} bytes", text.len());
    let sizes = sizes(&files_of(&case, "w"));
    assert!(sizes.iter().map(|(_, size)| size).sum::<u64>() <= 3 * 256 * 1024, "{sizes:?}");
    up.stop();
}

#[test]
fn a_worker_that_fails_again_and_again_does_not_fill_the_disk_with_a_file_for_each_run() {
    let case = Case::new();
    let unit = [ALWAYS_AT_ONCE, "logs: {max_files: 4}"];
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", "echo out; echo err >&2; exit 1"], &unit));
    up.exited("w", 40);
    let names: Vec<String> = sizes(&files_of(&case, "w")).into_iter().map(|(name, _)| name).collect();
    for stream in ["stdout", "stderr"] {
        let files = names.iter().filter(|name| name.ends_with(stream)).count();
        // One can have been begun while we looked.
        assert!((1..=5).contains(&files), "{names:?}");
    }
    up.stop();
}

#[test]
fn the_end_of_the_run_before_stays_however_much_this_one_writes() {
    let case = Case::new();
    let told = case.file("lives");
    let script =
        format!("if [ -e {told} ]; then seq 1 300000; exec sleep 1000; fi; : > {told}; echo last words; exit 1");
    let unit = [ALWAYS_AT_ONCE, "logs: {max_size: 64KiB, max_files: 3}"];
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &unit));
    up.started("w", 2);
    wait_written(&case, "w", "300000");
    assert_eq!(logs(&case, &["w", "--previous"]), "last words\n");
    up.stop();
}

// --- the logger's death ------------------------------------------------------

#[test]
fn a_logger_that_is_killed_again_and_again_costs_no_byte_of_a_flood() {
    let case = Case::new();
    // As slow as it must be to go on over all kills, and in many files.
    let unit = ["logs: {max_size: 256KiB, max_files: 100, rate_limit: 1MiB/s, overflow: block}"];
    let mut up = Up::start(&case, &worker("w", &["seq", "1", "1000000"], &unit));
    up.started("w", 1);
    let dir = files_of(&case, "w");
    let written = || if dir.exists() { sizes(&dir).iter().map(|(_, size)| size).sum() } else { 0 };
    for _ in 0..5 {
        let before = written();
        let logger = case.role("logger");
        wait_until("more of the flood", || (written() > before + 100_000).then_some(()));
        logger.signal(Signal::KILL);
        logger.wait_gone("the logger");
    }
    wait_written(&case, "w", "1000000");
    assert_eq!(up.exited("w", 1), ExitCause::Exited { code: 0 });
    assert!(numbers(&logs(&case, &["w"])).into_iter().eq(1..=1_000_000), "every number, once and in order");
    assert!(up.of("w").all(|event| !matches!(event.kind, EventKind::LogDropped { .. })));
    up.stop();
}

// --- reading -----------------------------------------------------------------

#[test]
fn whoever_follows_sees_every_line_of_every_run_in_order() {
    let case = Case::new();
    let count = case.file("count");
    let script = format!("n=$(cat {count} 2>/dev/null | wc -c); printf x >> {count}; echo begin $n; echo end $n");
    let unit = [ALWAYS_AT_ONCE, "logs: {max_files: 1000}"];
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &unit));
    up.exited("w", 1);
    let mut following = Following::new(&case, &["w", "-f"]);
    for run in 0..30 {
        assert_eq!(following.next(), format!("begin {run}"));
        assert_eq!(following.next(), format!("end {run}"));
    }
    drop(following);
    up.stop();
}

#[test]
fn lines_can_be_asked_for_by_run_number_time_and_stream() {
    let case = Case::new();
    let go = case.file("go");
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let script = format!("echo out $$; echo err $$ >&2; read word < {go}; echo got $word; exec sleep 1000");
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &[]));
    let first = up.started("w", 1).pid;
    wait_until("both lines of the first run", || (logs(&case, &["w"]).lines().count() == 2).then_some(()));
    case.ask("restart", &["w"]);
    let second = up.started("w", 2).pid;
    let all = wait_until("both lines of the second run", || {
        Some(logs(&case, &["w"])).filter(|text| text.lines().count() == 4)
    });
    let mut lines: Vec<&str> = all.lines().collect();
    // Both streams are written to in the same moment.
    lines[..2].sort_unstable();
    lines[2..].sort_unstable();
    let of = |pid: i32| [format!("err {pid}"), format!("out {pid}")];
    assert_eq!(lines, [of(first), of(second)].concat());
    assert_eq!(logs(&case, &["w", "-p", "--stream", "stdout"]), format!("out {first}\n"));
    assert_eq!(logs(&case, &["w", "--run", "2", "--stream", "stderr"]), format!("err {second}\n"));
    assert_eq!(logs(&case, &["w", "--since", "1h"]).lines().count(), 4);

    // What comes within a tenth of a second of something else counts as coming with it.
    pause(std::time::Duration::from_millis(250));
    let between = clock::wall();
    fs::write(&go, "it\n").unwrap();
    wait_written(&case, "w", "got it");
    assert_eq!(logs(&case, &["w", "--since", &between.to_string()]), "got it\n");
    assert_eq!(logs(&case, &["w", "-n", "0"]), "");

    let line: serde_json::Value = serde_json::from_str(&logs(&case, &["w", "-n", "1", "-o", "json"])).unwrap();
    assert_eq!((&line["line"], &line["run"], &line["stream"]), (&"got it".into(), &2.into(), &"stdout".into()));
    let time: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
    // It is told to the millisecond.
    assert!(time.as_millisecond() >= between.as_millisecond() && time < clock::wall(), "{time}");
    assert_eq!(logs(&case, &["w", "-n", "1", "-t"]), format!("{} got it\n", line["time"].as_str().unwrap()));
    up.stop();
}

#[test]
fn what_is_no_text_comes_out_as_it_went_in() {
    let case = Case::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    fs::write(case.file("bytes"), &bytes).unwrap();
    let mut up = Up::start(&case, &worker("w", &["cat", &case.file("bytes")], &[]));
    up.exited("w", 1);
    let dir = files_of(&case, "w");
    wait_until("all bytes", || (fs::metadata(dir.join("1.stdout")).ok()?.len() == 100_000).then_some(()));
    let output = case.pinfold("logs").arg("w").output().unwrap();
    assert!(output.status.success() && output.stdout == bytes);
    up.stop();
}

#[test]
fn a_worker_that_wrote_nothing_prints_nothing_and_one_that_is_not_there_is_an_error() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("quiet", &["sleep"], &[]));
    up.state("quiet", State::Running, "ready");
    assert_eq!(logs(&case, &["quiet"]), "");
    assert_eq!(logs(&case, &["quiet", "--previous"]), "");
    let ran = finish(case.pinfold("logs").arg("nobody"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{ran:?}");
    let ran = finish(case.pinfold("logs").args(["quiet", "--since", "soon"]));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    up.stop();
}

// --- too much ----------------------------------------------------------------

#[test]
fn a_flood_leaves_the_others_output_our_memory_and_the_disk_alone() {
    let case = Case::alone();
    let told = case.file("ticks");
    let mut config = worker("flood", &["yes"], &["logs: {max_size: 64KiB, max_files: 2}"]);
    config += &misbehaving("tick", &["tick", &told], &[]);
    let mut up = Up::start(&case, &config);
    up.started("flood", 1);
    up.started("tick", 1);
    // Readers that take nothing are nobody's trouble either.
    let lazy: Vec<Following> = (0..4).map(|_| Following::new(&case, &["flood", "-f"])).collect();
    let logger = case.role("logger");
    let dir = files_of(&case, "flood");
    for round in 1..=10 {
        wait_until("ticks", || (case.told("ticks").len() > round * 20).then_some(()));
        // What has been told by now is in the log before half a second's worth more has.
        let before = case.told("ticks").len();
        let tick = files_of(&case, "tick").join("1.stdout");
        wait_until("the same ticks in the log", || {
            (fs::read_to_string(&tick).unwrap_or_default().lines().count() >= before).then_some(())
        });
        let later = case.told("ticks").len() - before;
        assert!(later <= 25, "{later} more ticks were told before {before} were in the log");
        let own = logger.own_bytes();
        assert!(own <= 1 << 20, "{own} bytes");
        let sizes = sizes(&dir);
        assert!(sizes.iter().map(|(_, size)| size).sum::<u64>() <= 3 * 64 * 1024, "{sizes:?}");
    }
    let last: u32 =
        sizes(&dir).iter().filter_map(|(name, _)| name.strip_prefix("1.stdout.")?.parse().ok()).max().unwrap();
    assert!(last > 100, "it was no flood: {last} files");
    drop(lazy);
    up.stop();
}

#[test]
fn above_its_rate_a_worker_that_drops_does_not_wait_and_what_it_loses_is_told() {
    let case = Case::new();
    let unit = ["logs: {rate_limit: 64KiB/s, overflow: drop}"];
    let mut up = Up::start(&case, &worker("w", &["seq", "1", "100000"], &unit));
    assert_eq!(up.exited("w", 1), ExitCause::Exited { code: 0 });
    let (why, bytes) = dropped(&mut up, "w");
    assert_eq!(why, "more than its rate_limit of 64 KiB/s");
    let all: u64 = (1..=100_000_u64).map(|n| n.to_string().len() as u64 + 1).sum();
    let kept = fs::metadata(files_of(&case, "w").join("1.stdout")).unwrap().len();
    assert!(kept >= 64 * 1024);
    assert_eq!(kept + bytes, all, "every byte is kept or counted");
    up.stop();
}

#[test]
fn a_full_disk_costs_counted_bytes_never_the_worker_its_time_and_is_used_again_once_it_has_room() {
    let case = Case::new();
    let disk = SmallDisk::at(case.dir.path().join("state/logs"), "256k");
    let (told, go) = (case.file("told"), case.file("go"));
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let script = format!("seq 1 200000; echo done 1 > {told}; read word < {go}; echo $word");
    // Blocking is for one's own rate, never for the disk.
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &["logs: {overflow: block}"]));
    case.wait_told("told", "done");
    up.wait_for("log_dropped", |event| matches!(event.kind, EventKind::LogDropped { bytes: None, .. }));
    let full = wait_until("a full disk", || {
        let len = fs::metadata(files_of(&case, "w").join("1.stdout")).ok()?.len();
        (len > 200_000).then_some(len)
    });
    disk.grow("8m");
    fs::write(&go, "again\n").unwrap();
    assert_eq!(up.exited("w", 1), ExitCause::Exited { code: 0 });
    wait_written(&case, "w", "again");
    let (why, bytes) = dropped(&mut up, "w");
    assert!(why.starts_with("No space left on device"), "{why}");
    let all: u64 = (1..=200_000_u64).map(|n| n.to_string().len() as u64 + 1).sum();
    assert_eq!(full + bytes, all, "every byte is kept or counted");
    up.stop();
}
