//! The logger: killed, stopped, alone, and before a full disk.

use std::os::fd::AsFd;
use std::path::Path;

use pinfold::keeper::protocol::FromKeeper;
use pinfold::kernel::pidfd;
use pinfold::model::{ExitStatus, RunId};

use crate::support::{Bed, MISBEHAVE, launched, plan, run, wait_for};

/// `0\n1\n…` without a gap, from the beginning.
fn assert_no_byte_is_missing(path: &Path, lines: u64) {
    let text = std::fs::read_to_string(path).unwrap();
    let seen = text.lines().zip(0..).take_while(|(line, n)| line.parse::<u64>() == Ok(*n)).count();
    assert_eq!((seen as u64, text.lines().count() as u64), (lines, lines), "{}", path.display());
}

#[test]
fn a_logger_killed_under_load_loses_no_byte() {
    const LINES: u64 = 2_000_000;
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let runs: Vec<_> = (1..=3).map(|n| run("loud", n)).collect();
    for run in &runs {
        bed.launch(&fake, &plan(run, &[MISBEHAVE, "count", &LINES.to_string()]));
    }
    let size = |run: &RunId| bed.logs(run).stdout.metadata().map_or(0, |m| m.len());
    let mut killed = Vec::new();
    for step in 1..=3 {
        wait_for("bytes", || (size(&runs[0]) > step * 1_000_000).then_some(()));
        let logger = bed.logger_pid();
        assert!(!killed.contains(&logger));
        let pidfd = pidfd::open(logger).unwrap();
        pidfd::signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        killed.push(logger);
        wait_for("the next logger", || bed.tree.pids("logger").first().copied().filter(|pid| *pid != logger));
    }
    let mut ended = 0;
    while ended < runs.len() {
        if let FromKeeper::Exited { status, .. } = fake.next().0 {
            assert_eq!(status, Some(ExitStatus::Exited { code: 0 }));
            ended += 1;
        }
    }
    let whole: u64 = (0..LINES).map(|n| n.to_string().len() as u64 + 1).sum();
    for run in &runs {
        wait_for("the last byte", || (size(run) >= whole).then_some(()));
        assert_no_byte_is_missing(&bed.logs(run).stdout, LINES);
    }
    assert_eq!(killed.len(), 3);
}

#[test]
fn workers_go_on_writing_without_keeper_and_supervisor_while_the_logger_lives() {
    let mut bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    let (_, pid) = launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    bed.keeper.kill().unwrap();
    bed.keeper.wait().unwrap();
    fake.signal_self(libc::SIGKILL);
    drop(fake);
    let before = lines();
    wait_for("lines after the keeper", || (lines() > before + 100).then_some(()));
    assert_eq!(bed.tree.pids("ticker.1"), [pid]);
    assert_eq!(bed.tree.pids("logger"), [logger]);
    bed.tree.write("ticker.1/cgroup.kill", "1");
    wait_for("the logger's end with its last pipe", || bed.tree.pids("logger").is_empty().then_some(()));
}

#[test]
fn the_logger_is_deaf_to_requests_to_end() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    // One that has only been started has not blocked anything yet.
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    let pidfd = pidfd::open(logger).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        pidfd::signal(pidfd.as_fd(), signal).unwrap();
    }
    let before = lines();
    wait_for("lines after the signals", || (lines() > before + 50).then_some(()));
    assert_eq!(bed.tree.pids("logger"), [logger]);
}

#[test]
fn a_stopped_logger_is_replaced_so_that_no_writer_waits_for_it() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let lines = || std::fs::read_to_string(bed.logs(&run).stdout).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let logger = bed.logger_pid();
    let pidfd = pidfd::open(logger).unwrap();
    pidfd::signal(pidfd.as_fd(), libc::SIGSTOP).unwrap();
    let before = lines();
    wait_for("another logger", || bed.tree.pids("logger").iter().any(|pid| *pid != logger).then_some(()));
    wait_for("lines after the stop", || (lines() > before + 50).then_some(()));
}

#[test]
fn a_logger_that_ran_before_the_keeper_is_taken_over_and_replaced_like_any_other() {
    let bed = Bed::start_with("into-cgroup", |command, _| _ = command.env("TESTBED_LOGGER", "1"));
    let (mut fake, ..) = bed.greeted();
    let run = run("ticker", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "tick", "1"]));
    launched(fake.next().0);
    let lines = || std::fs::read_to_string(bed.logs(&run).stdout).map_or(0, |text| text.lines().count());
    wait_for("the first lines", || (lines() > 10).then_some(()));
    let first = bed.tree.pids("logger");
    assert_eq!(first.len(), 1, "one logger, not a second one of the keeper's");
    // Also where its leaf's kill count keeps a child from being born there.
    bed.tree.write("logger/cgroup.kill", "1");
    wait_for("the next logger", || bed.tree.pids("logger").first().copied().filter(|pid| *pid != first[0]));
    let before = lines();
    wait_for("lines by the next logger", || (lines() > before + 100).then_some(()));
    // One that was killed at birth may still be listed until it is reaped.
    wait_for("one logger again", || (bed.tree.pids("logger").len() == 1).then_some(()));
}

#[test]
fn a_full_disk_costs_counted_bytes_and_never_the_worker_its_time() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let small = bed.dir.path().join("logs");
    std::fs::create_dir(&small).unwrap();
    mount(Some("none"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    let run = run("loud", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "count", "500000"]));
    launched(fake.next().0);
    let mut told = Vec::new();
    let status = loop {
        match fake.next().0 {
            FromKeeper::Exited { status, .. } => break status,
            FromKeeper::LogDropped { why, bytes, .. } => told.push((why, bytes)),
            other => panic!("{other:?}"),
        }
    };
    let kept = wait_for("the keeper's word", || {
        let said = bed.said();
        let line = said.lines().find(|line| line.contains("bytes of stdout were dropped"))?;
        let dropped: u64 = line.split(' ').find_map(|word| word.parse().ok())?;
        Some((bed.logs(&run).stdout.metadata().unwrap().len(), dropped))
    });
    umount2(&small, MntFlags::MNT_DETACH).unwrap();
    while told.last().is_none_or(|(_, bytes)| bytes.is_none()) {
        let (FromKeeper::LogDropped { why, bytes, .. }, _) = fake.next() else { panic!() };
        told.push((why, bytes));
    }
    let no_space = |bytes| ("No space left on device (os error 28)".to_owned(), bytes);
    assert_eq!(told, [no_space(None), no_space(Some(kept.1))], "told when it began and when it was over");
    assert_eq!(status, Some(ExitStatus::Exited { code: 0 }));
    assert!(bed.said().contains("No space left on device"), "{}", bed.said());
    let whole: u64 = (0..500_000).map(|n: u32| n.to_string().len() as u64 + 1).sum();
    assert!(kept.0 > 100_000, "{kept:?}");
    assert_eq!(kept.0 + kept.1, whole, "every byte is either kept or counted");
}
