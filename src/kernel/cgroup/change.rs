//! Limits of a *living* run, changed while its processes go on: whole, or everything as it was before.
//!
//! ```text
//! read what is in force ─▶ does memory.max shrink? ── no ──────────────────────────────▶ write, read back
//!                               └─ yes ─▶ freeze ─▶ reclaim, read the use again ─ fits ─▶ write, read back ─▶ thaw
//!                                                          └─ does not: put back, thaw, refuse with the numbers
//! ```
//! A `memory.max` below the use kills within the write. So what is used is read while nothing can use more: frozen. The
//! time that takes is bounded. A supervisor that dies in between leaves a mark on the directory, by which the next one thaws
//! it ([`thaw_if_left`]); it never thaws what somebody else has frozen.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    budget,
    dir::{Dir, DirError, Namespace},
    kill,
    setting::Setting,
};
use crate::{
    clock,
    model::{LimitSet, Stage, StartError, chain},
};

/// The attribute that says that we have frozen a run, to change its limits.
const FROZEN_BY_US: &str = "changing";

/// How long the processes may take to be frozen. One in uninterruptible sleep takes as long as it likes; its memory
/// does not grow meanwhile.
const FREEZING: Duration = Duration::from_secs(2);

/// How long memory may be reclaimed.
const RECLAIM: Duration = Duration::from_secs(2);

/// Every file that a plan can be about.
const FILES: [&str; 9] = [
    "memory.swap.max",
    "memory.oom.group",
    "memory.high",
    "memory.max",
    "cpu.max.burst",
    "cpu.max",
    "cpu.weight",
    "pids.max",
    "io.max",
];

/// Puts `plan` in force on `dir`, whose processes live, and takes off what is not in it; where `lifted`, `memory.high` is
/// neither written nor taken off. Blocks for a few seconds at most. What is another than before.
///
/// # Errors
/// Where a setting is refused, reads back differently, or would have the kernel kill: everything is as it was before.
pub fn live(dir: &Dir, namespace: Namespace, plan: &[Setting], lifted: bool) -> Result<Vec<LimitSet>, StartError> {
    let plan: Vec<Setting> =
        plan.iter().filter(|setting| !lifted || setting.file() != "memory.high").cloned().collect();
    let before = Contents::read(dir)?;
    let ice = if shrinks(&before, &plan) { Some(Ice::form(dir, namespace)?) } else { None };
    let changed = budget::hold_living(dir, &plan, lifted, RECLAIM).and_then(|()| Contents::read(dir));
    let changed = changed.map(|after| before.changed(&after));
    let changed = changed.map_err(|error| match before.put_back(dir) {
        Ok(()) => error,
        Err(left) => StartError {
            what: format!("{}; and not everything could be put back: {}", error.what, chain(&left)),
            ..error
        },
    });
    match (ice.map_or(Ok(()), Ice::melt), changed) {
        (Ok(()), changed) => changed,
        (Err(error), _) => Err(error.at(Stage::Limit)),
    }
}

/// Thaws a run that an earlier supervisor had frozen to change its limits, and did not come to thaw.
///
/// # Errors
/// Where the kernel refuses.
pub fn thaw_if_left(dir: &Dir, namespace: Namespace) -> Result<(), DirError> {
    if dir.xattr(namespace, FROZEN_BY_US)?.is_none() {
        return Ok(());
    }
    kill::thaw(dir)?;
    dir.remove_xattr(namespace, FROZEN_BY_US)
}

fn shrinks(before: &Contents, plan: &[Setting]) -> bool {
    let max = plan.iter().find_map(|setting| if let Setting::MemoryMax(max) = setting { Some(*max) } else { None });
    let now = before.of("memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    max.is_some_and(|max| now.is_none_or(|now| max < now))
}

/// What the files say.
struct Contents(Vec<(&'static str, String)>);

impl Contents {
    fn read(dir: &Dir) -> Result<Self, StartError> {
        let mut all = Vec::with_capacity(FILES.len());
        for file in FILES {
            match dir.read(file) {
                Ok(text) => all.push((file, text)),
                // Of a controller that is not there, nothing can be in force.
                Err(e) if e.is_absent() && dir.has("cgroup.procs") => {}
                Err(e) => return Err(e.at(Stage::Limit)),
            }
        }
        Ok(Self(all))
    }

    fn of(&self, file: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == file).map(|(_, text)| text.as_str())
    }

    fn changed(&self, after: &Self) -> Vec<LimitSet> {
        let differs = |(file, text): &&(&'static str, String)| self.of(file) != Some(text);
        let told = |(file, text): &(&'static str, String)| LimitSet { file, value: text.trim_end().to_owned() };
        after.0.iter().filter(differs).map(told).collect()
    }

    /// Writes back what is another now. The order is that of widening: a burst before its quota cannot be refused twice.
    fn put_back(&self, dir: &Dir) -> Result<(), DirError> {
        let mut refused = None;
        for _ in 0..2 {
            refused = None;
            for (file, text) in &self.0 {
                if dir.read(file)? == *text {
                    continue;
                }
                let written =
                    if *file == "io.max" { put_back_rates(dir, text) } else { dir.write(file, text.trim_end()) };
                refused = written.err().or(refused);
            }
            if refused.is_none() {
                return Ok(());
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// `io.max` has a line for each disk with a rate; one that has none any more is written as it would be.
fn put_back_rates(dir: &Dir, text: &str) -> Result<(), DirError> {
    let now = dir.read("io.max")?;
    for line in now.lines().filter(|line| !text.lines().any(|old| old == *line)) {
        if let Some((disk, _)) = line.split_once(' ') {
            dir.write("io.max", &format!("{disk} rbps=max wbps=max riops=max wiops=max"))?;
        }
    }
    text.lines().try_for_each(|line| dir.write("io.max", line))
}

/// A run that stands still while its limits change. It goes on when this is gone.
struct Ice<'d> {
    dir: &'d Dir,
    namespace: Namespace,
    /// Whether it was we who froze it, and have not thawed it.
    ours: bool,
}

impl<'d> Ice<'d> {
    fn form(dir: &'d Dir, namespace: Namespace) -> Result<Self, StartError> {
        let ours = dir.read("cgroup.freeze").map_err(|e| e.at(Stage::Limit))?.trim() != "1";
        let ice = Self { dir, namespace, ours };
        if ours {
            dir.set_xattr(namespace, FROZEN_BY_US, b"1").map_err(|e| e.at(Stage::Limit))?;
            kill::freeze(dir).map_err(|e| e.at(Stage::Limit))?;
        }
        // Somebody else's freeze may be on its way.
        wait_frozen(dir).map_err(|e| e.at(Stage::Limit))?;
        Ok(ice)
    }

    fn melt(mut self) -> Result<(), DirError> {
        self.thaw()
    }

    fn thaw(&mut self) -> Result<(), DirError> {
        if !self.ours {
            return Ok(());
        }
        kill::thaw(self.dir)?;
        self.ours = false;
        self.dir.remove_xattr(self.namespace, FROZEN_BY_US)
    }
}

impl Drop for Ice<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.thaw() {
            tracing::error!(directory = %self.dir.path().display(), error = %chain(&error), "a run may still be frozen");
        }
    }
}

/// Waits until it stands still, for a while at most.
fn wait_frozen(dir: &Dir) -> Result<(), DirError> {
    let events = dir.open_events()?;
    let give_up = clock::monotonic() + FREEZING;
    while !dir.frozen()? {
        let left = give_up.since(clock::monotonic());
        if left.is_zero() {
            return Ok(());
        }
        let patience =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        // Woken for nothing, or not at all, it is looked at all the same. The descriptor is read for what it says anew.
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => drop(rustix::io::pread(&events, &mut [0; 256], 0)),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in
            [("cgroup.procs", ""), ("cgroup.freeze", "0\n"), ("cgroup.events", "populated 1\nfrozen 1\n")]
        {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        for (name, text) in files {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    fn set(file: &'static str, value: &str) -> LimitSet {
        LimitSet { file, value: value.to_owned() }
    }

    #[test]
    fn what_is_changed_is_told_and_what_is_in_force_is_not_written() {
        let (_tmp, dir) = fixture(&[("pids.max", "9\n"), ("cpu.weight", "100\n"), ("cpu.max", "max 100000\n")]);
        let plan = [Setting::PidsMax(9), Setting::CpuWeight(7)];
        assert_eq!(live(&dir, Namespace::User, &plan, false).unwrap(), [set("cpu.weight", "7")]);
        assert_eq!(dir.read("pids.max").unwrap(), "9\n");
    }

    #[test]
    fn a_shrink_below_the_use_is_refused_with_the_numbers_and_nothing_of_the_plan_is_in_force() {
        let (_tmp, dir) = fixture(&[
            ("memory.current", "9000\n"),
            ("memory.max", "16384\n"),
            ("memory.high", "12288\n"),
            ("pids.max", "9\n"),
        ]);
        let plan = [Setting::MemoryHigh(4096), Setting::MemoryMax(8192), Setting::PidsMax(1)];
        let refused = live(&dir, Namespace::User, &plan, false).unwrap_err();
        assert!(refused.what.contains("8192 bytes is below the 9000 bytes in use"), "{refused}");
        for (file, text) in [("memory.max", "16384\n"), ("memory.high", "12288\n"), ("pids.max", "9\n")] {
            assert_eq!(dir.read(file).unwrap().trim(), text.trim(), "{file}");
        }
        assert_eq!(dir.read("cgroup.freeze").unwrap().trim(), "0", "it is never left frozen");
        assert_eq!(dir.xattr(Namespace::User, FROZEN_BY_US).unwrap(), None);
    }

    #[test]
    fn a_setting_that_is_refused_takes_those_before_it_back() {
        let (tmp, dir) = fixture(&[("cpu.weight", "100\n"), ("pids.max", "9\n")]);
        // A directory cannot be written to.
        std::fs::create_dir(tmp.path().join("memory.oom.group")).unwrap();
        let plan = [Setting::CpuWeight(7), Setting::OomGroup(true)];
        assert!(live(&dir, Namespace::User, &plan, false).is_err());
        assert_eq!(dir.read("cpu.weight").unwrap().trim(), "100");
    }

    #[test]
    fn a_lifted_tripwire_is_left_out_of_force() {
        let (_tmp, dir) = fixture(&[("memory.current", "10\n"), ("memory.high", "max\n"), ("memory.max", "max\n")]);
        let plan = [Setting::MemoryHigh(4096), Setting::MemoryMax(8192)];
        assert_eq!(live(&dir, Namespace::User, &plan, true).unwrap(), [set("memory.max", "8192")]);
        assert_eq!(dir.read("memory.high").unwrap(), "max\n");
    }

    #[test]
    fn what_somebody_has_frozen_is_so_after_a_shrink_and_after_one_that_is_refused() {
        for (current, fits) in [("10\n", true), ("9000\n", false)] {
            let (_tmp, dir) =
                fixture(&[("cgroup.freeze", "1\n"), ("memory.current", current), ("memory.max", "16384\n")]);
            let changed = live(&dir, Namespace::User, &[Setting::MemoryMax(8192)], false);
            assert_eq!(changed.is_ok(), fits, "{changed:?}");
            assert_eq!(dir.read("cgroup.freeze").unwrap().trim(), "1");
            assert_eq!(dir.xattr(Namespace::User, FROZEN_BY_US).unwrap(), None, "it is not ours to thaw");
        }
    }

    #[test]
    fn what_an_earlier_supervisor_froze_is_thawed_and_nothing_else_is() {
        let (_tmp, dir) = fixture(&[("cgroup.freeze", "1\n")]);
        thaw_if_left(&dir, Namespace::User).unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap().trim(), "1", "somebody else's");
        dir.set_xattr(Namespace::User, FROZEN_BY_US, b"1").unwrap();
        thaw_if_left(&dir, Namespace::User).unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap().trim(), "0");
    }
}
