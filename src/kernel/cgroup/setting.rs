//! One value for one limit file: what is written, by whom, and when the kernel's answer is that value.

use std::fmt::Write as _;

use cgroups_rs::{
    fs::MaxValue,
    fs::{blkio::BlkIoController, cpu::CpuController, memory::MemController, memory::SetMemory, pid::PidController},
};

use super::{
    controller::Controller,
    dir::{Dir, DirError},
    disk::Disk,
    handle,
};

/// A value of one file, already in the kernel's grain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `memory.swap.max`, bytes; `None` is `max`.
    SwapMax(Option<u64>),
    /// `memory.oom.group`.
    OomGroup(bool),
    /// `memory.high`, bytes.
    MemoryHigh(u64),
    /// `memory.high` out of force: `max`.
    NoMemoryHigh,
    /// `memory.max`, bytes.
    MemoryMax(u64),
    /// `cpu.max`, microseconds.
    CpuMax {
        /// Of CPU time …
        quota: u64,
        /// … in each period.
        period: u64,
    },
    /// `cpu.max.burst`, microseconds.
    CpuBurst(u64),
    /// `cpu.weight`.
    CpuWeight(u32),
    /// `pids.max`.
    PidsMax(u64),
    /// One line of `io.max`. At least one rate is set.
    IoMax {
        /// The disk.
        disk: Disk,
        /// Bytes a second.
        rbps: Option<u64>,
        /// Bytes a second.
        wbps: Option<u64>,
        /// Operations a second.
        riops: Option<u64>,
        /// Operations a second.
        wiops: Option<u64>,
    },
}

impl Setting {
    /// The file it goes to.
    #[must_use]
    pub const fn file(&self) -> &'static str {
        match self {
            Self::SwapMax(_) => "memory.swap.max",
            Self::OomGroup(_) => "memory.oom.group",
            Self::MemoryHigh(_) | Self::NoMemoryHigh => "memory.high",
            Self::MemoryMax(_) => "memory.max",
            Self::CpuMax { .. } => "cpu.max",
            Self::CpuBurst(_) => "cpu.max.burst",
            Self::CpuWeight(_) => "cpu.weight",
            Self::PidsMax(_) => "pids.max",
            Self::IoMax { .. } => "io.max",
        }
    }

    /// The controller the file belongs to.
    #[must_use]
    pub const fn controller(&self) -> Controller {
        match self {
            Self::SwapMax(_) | Self::OomGroup(_) | Self::MemoryHigh(_) | Self::NoMemoryHigh | Self::MemoryMax(_) => {
                Controller::Memory
            }
            Self::CpuMax { .. } | Self::CpuBurst(_) | Self::CpuWeight(_) => Controller::Cpu,
            Self::PidsMax(_) => Controller::Pids,
            Self::IoMax { .. } => Controller::Io,
        }
    }

    /// The text that is written.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::SwapMax(None) | Self::NoMemoryHigh => "max".to_owned(),
            Self::SwapMax(Some(n))
            | Self::MemoryHigh(n)
            | Self::MemoryMax(n)
            | Self::CpuBurst(n)
            | Self::PidsMax(n) => n.to_string(),
            Self::OomGroup(on) => u8::from(*on).to_string(),
            Self::CpuMax { quota, period } => format!("{quota} {period}"),
            Self::CpuWeight(n) => n.to_string(),
            Self::IoMax { disk, .. } => {
                let mut line = disk.to_string();
                for (key, rate) in self.rates() {
                    // Writing to a String cannot fail.
                    write!(line, " {key}={rate}").unwrap_or_default();
                }
                line
            }
        }
    }

    /// Whether `text`, read from the file, says what was written.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        match self {
            Self::IoMax { disk, .. } => {
                let disk = disk.to_string();
                text.lines().filter_map(|l| l.split_once(' ')).any(|(device, line)| {
                    let has = |(key, rate)| line.split(' ').any(|t| t == format!("{key}={rate}"));
                    device == disk && self.rates().all(has)
                })
            }
            other => text.trim_end() == other.value(),
        }
    }

    /// The rates of an `io.max` line that are set.
    fn rates(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let all = match *self {
            Self::IoMax { rbps, wbps, riops, wiops, .. } => {
                [("rbps", rbps), ("wbps", wbps), ("riops", riops), ("wiops", wiops)]
            }
            _ => [("", None); 4],
        };
        all.into_iter().filter_map(|(key, rate)| Some((key, rate?)))
    }

    /// Writes it in one write(2) relative to the directory.
    pub(super) fn write(&self, dir: &Dir) -> Result<(), DirError> {
        dir.write(self.file(), &self.value())
    }

    /// Writes it with the setter of cgroups-rs, where that crate has one that is sound; otherwise as
    /// [`write`](Self::write) does. For living runs: at a launch the crate's way (the path anew for each file, with
    /// `O_CREAT | O_TRUNC`) was three times as slow, and it says EACCES of a file that is not there.
    pub(super) fn write_through(&self, cgroup: &cgroups_rs::fs::Cgroup, dir: &Dir) -> Result<(), DirError> {
        let value = |n: u64| i64::try_from(n).map_or(MaxValue::Max, MaxValue::Value);
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let memory = || cgroup.controller_of::<MemController>();
        let nothing = SetMemory { low: None, high: None, min: None, max: None };
        let done = match *self {
            Self::MemoryMax(n) => memory().map(|c| c.set_mem(SetMemory { max: Some(value(n)), ..nothing })),
            Self::MemoryHigh(n) => memory().map(|c| c.set_mem(SetMemory { high: Some(value(n)), ..nothing })),
            Self::NoMemoryHigh => memory().map(|c| c.set_mem(SetMemory { high: Some(MaxValue::Max), ..nothing })),
            // -1 is its word for `max`.
            Self::SwapMax(n) => memory().map(|c| c.set_memswap_limit(n.map_or(-1, signed))),
            Self::CpuMax { quota, period } => cgroup
                .controller_of::<CpuController>()
                .map(|c| c.set_cfs_quota_and_period(Some(signed(quota)), Some(period))),
            Self::PidsMax(n) => cgroup.controller_of::<PidController>().map(|c| c.set_pid_max(value(n))),
            Self::IoMax { disk, rbps, wbps, riops, wiops } => {
                let (major, minor) = (u64::from(disk.major), u64::from(disk.minor));
                cgroup.controller_of::<BlkIoController>().map(|c| {
                    rbps.map_or(Ok(()), |n| c.throttle_read_bps_for_device(major, minor, n))?;
                    wbps.map_or(Ok(()), |n| c.throttle_write_bps_for_device(major, minor, n))?;
                    riops.map_or(Ok(()), |n| c.throttle_read_iops_for_device(major, minor, n))?;
                    wiops.map_or(Ok(()), |n| c.throttle_write_iops_for_device(major, minor, n))
                })
            }
            // It has no setter for these, or one that writes another file (`set_weight`).
            Self::OomGroup(_) | Self::CpuBurst(_) | Self::CpuWeight(_) => None,
        };
        match done {
            Some(result) => result.map_err(|e| handle::error(dir, self.file(), &e)),
            None => self.write(dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: Setting = Setting::IoMax {
        disk: Disk { major: 8, minor: 16 },
        rbps: None,
        wbps: Some(1_048_576),
        riops: None,
        wiops: Some(120),
    };

    #[test]
    fn each_value_is_the_kernels_text() {
        for (setting, file, value) in [
            (Setting::SwapMax(None), "memory.swap.max", "max"),
            (Setting::SwapMax(Some(0)), "memory.swap.max", "0"),
            (Setting::OomGroup(true), "memory.oom.group", "1"),
            (Setting::CpuMax { quota: 75_000, period: 100_000 }, "cpu.max", "75000 100000"),
            (Setting::PidsMax(64), "pids.max", "64"),
            (IO, "io.max", "8:16 wbps=1048576 wiops=120"),
        ] {
            assert_eq!((setting.file(), setting.value().as_str()), (file, value));
        }
    }

    #[test]
    fn an_answer_that_differs_is_seen() {
        assert!(Setting::MemoryMax(8192).is_in("8192\n"));
        assert!(!Setting::MemoryMax(8193).is_in("8192\n"));
        assert!(!Setting::PidsMax(6).is_in("64\n"));
        assert!(!Setting::PidsMax(6).is_in("max\n"));
        assert!(Setting::SwapMax(None).is_in("max\n"));
    }

    #[test]
    fn a_disk_is_found_among_others_and_all_its_rates_must_hold() {
        assert!(IO.is_in("8:1 rbps=1 wbps=1 riops=max wiops=max\n8:16 rbps=max wbps=1048576 riops=max wiops=120\n"));
        assert!(!IO.is_in("8:16 rbps=max wbps=1048576 riops=max wiops=max\n"), "one rate is missing");
        assert!(!IO.is_in("8:1 rbps=max wbps=1048576 riops=max wiops=120\n"), "another disk");
        assert!(!IO.is_in(""));
    }

    #[test]
    fn both_ways_of_writing_leave_the_same_text() {
        let settings = [
            Setting::MemoryMax(8192),
            Setting::MemoryHigh(4096),
            Setting::NoMemoryHigh,
            Setting::SwapMax(Some(12_288)),
            Setting::SwapMax(None),
            Setting::OomGroup(true),
            Setting::CpuMax { quota: 75_000, period: 100_000 },
            Setting::CpuBurst(1000),
            Setting::CpuWeight(42),
            Setting::PidsMax(64),
            Setting::IoMax { disk: Disk { major: 8, minor: 0 }, rbps: Some(5), wbps: None, riops: None, wiops: None },
        ];
        for setting in settings {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Dir::on_any_fs(tmp.path());
            // The crate reads cpu.max before it writes it.
            std::fs::write(tmp.path().join(setting.file()), "max 100000\n").unwrap();
            setting.write(&dir).unwrap();
            let ours = dir.read(setting.file()).unwrap();
            std::fs::write(tmp.path().join(setting.file()), "max 100000\n").unwrap();
            setting.write_through(&handle::load(&dir), &dir).unwrap();
            assert_eq!(dir.read(setting.file()).unwrap(), ours, "{setting:?}");
            assert!(setting.is_in(&ours));
        }
    }

    #[test]
    fn the_crates_error_keeps_the_kernels_reason() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::on_any_fs(tmp.path());
        let err = Setting::CpuMax { quota: 1, period: 2 }.write_through(&handle::load(&dir), &dir).unwrap_err();
        assert!(err.is_absent(), "{err:?}");
    }
}
