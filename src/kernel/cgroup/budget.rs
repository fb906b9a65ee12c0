//! Limits of a cgroup that lives on while its configuration changes: a slice's, or one of a user of the library.
//!
//! A run's cgroup is fresh, and its limits are written once, before anything is in it. A slice may be there from an earlier
//! supervisor, with other limits and with workers in it. So what is in force already is not written; what no key asks for any
//! more goes back to the kernel's default; and `memory.max` is not set below what is used, because the kernel would
//! kill for it, within that write.

use std::time::Duration;

use rustix::io::Errno;

use super::{
    dir::{Dir, DirError},
    limits::{change, no_swap, read_back, refused},
    setting::Setting,
};
use crate::{
    clock,
    model::{Mono, Stage, StartError},
};

/// The first word of each file that says "no limit" (Linux Documentation/admin-guide/cgroup-v2.rst). A burst goes before the
/// quota it has to fit in.
const DEFAULTS: [(&str, &str); 8] = [
    ("memory.swap.max", "max"),
    ("memory.oom.group", "0"),
    ("memory.high", "max"),
    ("memory.max", "max"),
    ("cpu.max.burst", "0"),
    ("cpu.max", "max"),
    ("cpu.weight", "100"),
    ("pids.max", "max"),
];

/// So much is reclaimed in one write, in bytes, so that there is an end to waiting for it.
const CHUNK: u64 = 64 << 20;

/// Puts `plan` in force on `dir`, which may be populated, and nothing else. Where memory has to be reclaimed for that, for
/// `patience` at most.
///
/// # Errors
/// At the first setting that is refused, reads back differently, or would have the kernel kill what lives there. The
/// settings before it are in force then.
pub fn renew(dir: &Dir, plan: &[Setting], patience: Duration) -> Result<(), StartError> {
    make_room_for(dir, plan, patience)?;
    take_off(dir, plan, false)?;
    write(dir, plan)
}

/// As [`renew`], for a run whose processes live: by the setters for those; where `lifted`, `memory.high` is left as it is.
///
/// # Errors
/// As there.
pub(super) fn hold_living(dir: &Dir, plan: &[Setting], lifted: bool, patience: Duration) -> Result<(), StartError> {
    make_room_for(dir, plan, patience)?;
    take_off(dir, plan, lifted)?;
    for setting in plan.iter().filter(|setting| !is_in_force(dir, setting)) {
        change(dir, setting)?;
    }
    Ok(())
}

/// As [`renew`], but what `plan` does not name is left as it is.
///
/// # Errors
/// As there.
pub fn amend(dir: &Dir, plan: &[Setting], patience: Duration) -> Result<(), StartError> {
    make_room_for(dir, plan, patience)?;
    let has = |file: &str| plan.iter().any(|s| s.file() == file && !is_in_force(dir, s));
    // The old one may not fit in the new quota, and the kernel would refuse that.
    if has("cpu.max.burst") && has("cpu.max") {
        lift(dir, "cpu.max.burst", "0").map_err(|e| e.at(Stage::Limit))?;
    }
    write(dir, plan)
}

/// Whether `setting` is what the kernel says. Not where it cannot be read.
#[must_use]
pub fn is_in_force(dir: &Dir, setting: &Setting) -> bool {
    let mut buf = [0; 4096];
    match dir.read_into(setting.file(), &mut buf) {
        Ok(text) => setting.is_in(text),
        // A kernel without swap has no file to forbid it with, and nothing to forbid.
        Err(e) => e.is_absent() && *setting == Setting::SwapMax(Some(0)) && no_swap(),
    }
}

/// Takes off what `plan` does not name.
fn take_off(dir: &Dir, plan: &[Setting], lifted: bool) -> Result<(), StartError> {
    let new_quota = plan.iter().any(|s| matches!(s, Setting::CpuMax { .. }) && !is_in_force(dir, s));
    for (file, default) in DEFAULTS {
        let kept = plan.iter().any(|setting| setting.file() == file) && !(new_quota && file == "cpu.max.burst");
        let left_alone = lifted && file == "memory.high";
        if !kept && !left_alone {
            lift(dir, file, default).map_err(|e| e.at(Stage::Limit))?;
        }
    }
    lift_rates(dir, plan).map_err(|e| e.at(Stage::Limit))
}

fn make_room_for(dir: &Dir, plan: &[Setting], patience: Duration) -> Result<(), StartError> {
    for setting in plan {
        if let Setting::MemoryMax(max) = setting
            && !is_in_force(dir, setting)
        {
            make_room(dir, *max, patience)?;
        }
    }
    Ok(())
}

fn write(dir: &Dir, plan: &[Setting]) -> Result<(), StartError> {
    for setting in plan.iter().filter(|setting| !is_in_force(dir, setting)) {
        setting.write(dir).map_err(|e| refused(dir, setting, &e))?;
        read_back(dir, setting)?;
    }
    Ok(())
}

/// Takes a limit off. A file that is not there has none.
fn lift(dir: &Dir, file: &str, default: &str) -> Result<(), DirError> {
    let mut buf = [0; 4096];
    match dir.read_if_there(file, &mut buf)? {
        Some(text) if text.split_ascii_whitespace().next() != Some(default) => dir.write(file, default),
        _ => Ok(()),
    }
}

/// Takes the rates off that `plan` does not name, of every disk that has one.
fn lift_rates(dir: &Dir, plan: &[Setting]) -> Result<(), DirError> {
    let mut buf = [0; 4096];
    let Some(text) = dir.read_if_there("io.max", &mut buf)? else { return Ok(()) };
    for (disk, rates) in text.lines().filter_map(|line| line.split_once(' ')) {
        let planned = plan.iter().find(|s| matches!(s, Setting::IoMax { disk: d, .. } if d.to_string() == disk));
        let planned = planned.map(Setting::value).unwrap_or_default();
        let named =
            |key: &str| planned.split(' ').any(|rate| rate.starts_with(key) && rate[key.len()..].starts_with('='));
        let stale = rates.split(' ').filter_map(|rate| rate.split_once('='));
        let stale = stale.filter(|(key, rate)| *rate != "max" && !named(key)).map(|(key, _)| key);
        let off = stale.fold(String::new(), |off, key| off + " " + key + "=max");
        if !off.is_empty() {
            dir.write("io.max", &format!("{disk}{off}"))?;
        }
    }
    Ok(())
}

/// Has what is above `max` reclaimed.
fn make_room(dir: &Dir, max: u64, patience: Duration) -> Result<(), StartError> {
    let used = || number(dir, "memory.current").map_err(|e| e.at(Stage::Limit));
    let mut now = used()?;
    let give_up: Mono = clock::monotonic() + patience;
    while now > max && clock::monotonic() < give_up {
        let asked = match dir.write("memory.reclaim", &(now - max).min(CHUNK).to_string()) {
            // Before Linux 5.19. This reclaims as well, in one go, and is put right below.
            Err(e) if e.is_absent() => dir.write("memory.high", &max.to_string()),
            other => other,
        };
        let before = std::mem::replace(&mut now, used()?);
        match asked {
            // EAGAIN: some of it, perhaps.
            Err(e) if !e.is(&[Errno::AGAIN]) => return Err(e.at(Stage::Limit)),
            _ if now >= before => break,
            _ => {}
        }
    }
    if now <= max {
        return Ok(());
    }
    let sentence = format!(
        "memory.max of {max} bytes is below the {now} bytes in use, and what lives there would be killed for it; stop \
         some of its workers, or raise the limit"
    );
    Err(StartError::refused(Stage::Limit, sentence))
}

fn number(dir: &Dir, file: &str) -> Result<u64, DirError> {
    let text = dir.read(file)?;
    let format = || DirError::Format { path: dir.path().join(file), text: text.clone() };
    text.trim().parse().map_err(|_| format())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::disk::Disk;

    const NOW: Duration = Duration::ZERO;

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    #[test]
    fn what_is_in_force_is_not_written_and_what_nobody_asks_for_any_more_is_lifted() {
        let (_tmp, dir) = fixture(&[
            ("memory.current", "5000\n"),
            ("memory.max", "8192\n"),
            ("memory.high", "4096\n"),
            ("memory.oom.group", "0\n"),
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "100\n"),
            ("pids.max", "9\n"),
        ]);
        renew(&dir, &[Setting::MemoryMax(8192), Setting::CpuWeight(7)], NOW).unwrap();
        // The kernel's text ends with a newline and ours does not: so it can be told what was written.
        for (file, text) in [
            ("memory.max", "8192\n"),
            ("memory.high", "max"),
            ("memory.oom.group", "0\n"),
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "7"),
            ("pids.max", "max"),
        ] {
            assert_eq!(dir.read(file).unwrap(), text, "{file}");
        }
    }

    #[test]
    fn memory_is_never_limited_below_its_use() {
        let (_tmp, dir) = fixture(&[("memory.current", "9000\n"), ("memory.max", "16384\n")]);
        let err = renew(&dir, &[Setting::MemoryMax(8192)], NOW).unwrap_err();
        assert_eq!(
            err.to_string(),
            "limit: memory.max of 8192 bytes is below the 9000 bytes in use, and what lives there would be killed for it; \
             stop some of its workers, or raise the limit"
        );
        assert_eq!(dir.read("memory.max").unwrap(), "16384\n", "the old limit holds");
        renew(&dir, &[Setting::MemoryMax(12_288)], NOW).unwrap();
        assert_eq!(dir.read("memory.max").unwrap(), "12288");
    }

    #[test]
    fn what_a_plan_does_not_name_is_left_alone_where_it_only_amends() {
        let (_tmp, dir) = fixture(&[
            ("cpu.max", "90000 100000\n"),
            ("cpu.max.burst", "50000\n"),
            ("cpu.weight", "333\n"),
            ("memory.current", "5000\n"),
            ("memory.max", "max\n"),
            ("io.max", "8:0 rbps=7 wbps=max riops=max wiops=max\n"),
        ]);
        let plan =
            [Setting::MemoryMax(8192), Setting::CpuMax { quota: 20_000, period: 100_000 }, Setting::CpuBurst(9000)];
        amend(&dir, &plan, NOW).unwrap();
        for (file, text) in [
            ("memory.max", "8192"),
            ("cpu.max", "20000 100000"),
            ("cpu.max.burst", "9000"),
            ("cpu.weight", "333\n"),
            ("io.max", "8:0 rbps=7 wbps=max riops=max wiops=max\n"),
        ] {
            assert_eq!(dir.read(file).unwrap(), text, "{file}");
        }
        let err = amend(&dir, &[Setting::MemoryMax(4096)], NOW).unwrap_err();
        assert!(err.to_string().contains("below the 5000 bytes in use"), "{err}");
    }

    #[test]
    fn what_can_be_reclaimed_is_asked_for_once_where_that_does_not_help() {
        let (_tmp, dir) = fixture(&[("memory.current", "9000\n"), ("memory.max", "max\n"), ("memory.reclaim", "")]);
        renew(&dir, &[Setting::MemoryMax(8192)], Duration::from_secs(60)).unwrap_err();
        assert_eq!(dir.read("memory.reclaim").unwrap(), "808");
    }

    #[test]
    fn a_smaller_quota_finds_the_old_burst_gone() {
        let (_tmp, dir) = fixture(&[("cpu.max", "90000 100000\n"), ("cpu.max.burst", "50000\n")]);
        let plan = [Setting::CpuMax { quota: 20_000, period: 100_000 }, Setting::CpuBurst(10_000)];
        renew(&dir, &plan, NOW).unwrap();
        assert_eq!(dir.read("cpu.max").unwrap(), "20000 100000");
        assert_eq!(dir.read("cpu.max.burst").unwrap(), "10000");
        let (_tmp, dir) = fixture(&[("cpu.max", "20000 100000\n"), ("cpu.max.burst", "10000\n")]);
        renew(&dir, &plan, NOW).unwrap();
        assert_eq!(dir.read("cpu.max.burst").unwrap(), "10000\n", "with the same quota it is left alone");
    }

    #[test]
    fn rates_that_are_asked_for_no_more_are_lifted_disk_by_disk() {
        let plan =
            [Setting::IoMax { disk: Disk { major: 8, minor: 0 }, rbps: None, wbps: Some(5), riops: None, wiops: None }];
        let lifted = |text: &str| {
            let (_tmp, dir) = fixture(&[("io.max", text)]);
            lift_rates(&dir, &plan).unwrap();
            dir.read("io.max").unwrap()
        };
        assert_eq!(lifted("8:0 rbps=7 wbps=5 riops=9 wiops=max\n"), "8:0 rbps=max riops=max");
        assert_eq!(lifted("8:16 rbps=7 wbps=max riops=max wiops=max\n"), "8:16 rbps=max");
        let kept = "8:0 rbps=max wbps=9 riops=max wiops=max\n";
        assert_eq!(lifted(kept), kept, "that one is about to be set");
    }
}
