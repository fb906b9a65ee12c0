use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One reading of a run's event counters. Counters only grow while a cgroup lives; what happened between two
/// readings is their difference, never the number of notifications, which the kernel coalesces.
///
/// `None` means that the file is not there: its controller is not enabled for this cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// `memory.events.local`: this cgroup's own limits only.
    pub local: Option<MemoryEvents>,
    /// `memory.events`: this cgroup and all below it.
    pub memory: Option<MemoryEvents>,
    /// `max` of `pids.events`: forks that were refused. Before Linux 6.12 counted where the fork was tried, from
    /// then on where the limit is.
    pub pids_max: Option<u64>,
}

/// `memory.events` or `memory.events.local` (Linux Documentation/admin-guide/cgroup-v2.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryEvents {
    /// Times the use went over `memory.low` protection.
    pub low: u64,
    /// Times tasks were throttled and made to reclaim at `memory.high`.
    pub high: u64,
    /// Times the use was about to go over `memory.max`.
    pub max: u64,
    /// Times an allocation was about to fail at the limit. No count of kills.
    pub oom: u64,
    /// Processes of this cgroup killed by any kind of OOM killer. Not exact (3 were seen for 2).
    pub oom_kill: u64,
    /// Times the whole group was killed (`memory.oom.group`).
    pub oom_group_kill: u64,
}

/// What a run used. Times are microseconds, memory is bytes. `None`: the kernel does not tell here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RunUsage")]
pub struct Usage {
    /// `memory.current`, page cache included.
    pub memory_current_bytes: Option<u64>,
    /// `memory.peak` (Linux 5.19), in the kernel's grain of 64 pages.
    pub memory_peak_bytes: Option<u64>,
    /// `usage_usec` of `cpu.stat`.
    pub cpu_usec: Option<u64>,
    /// `user_usec` of `cpu.stat`.
    pub cpu_user_usec: Option<u64>,
    /// `system_usec` of `cpu.stat`.
    pub cpu_system_usec: Option<u64>,
    /// `nr_periods` of `cpu.stat`: enforcement periods of `cpu.max` that passed.
    pub cpu_periods: Option<u64>,
    /// `nr_throttled` of `cpu.stat`: periods in which the quota ran out.
    pub cpu_throttled_periods: Option<u64>,
    /// `throttled_usec` of `cpu.stat`.
    pub cpu_throttled_usec: Option<u64>,
    /// `pids.current`.
    pub pids_current: Option<u64>,
    /// `pids.peak` (Linux 6.1).
    pub pids_peak: Option<u64>,
    /// `total` of the `some` line of `memory.pressure`.
    pub memory_pressure_usec: Option<u64>,
    /// `total` of the `some` line of `cpu.pressure`.
    pub cpu_pressure_usec: Option<u64>,
    /// `total` of the `some` line of `io.pressure`.
    pub io_pressure_usec: Option<u64>,
    /// `total` of the `full` line of `memory.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_pressure_full_usec: Option<u64>,
    /// `total` of the `full` line of `cpu.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_pressure_full_usec: Option<u64>,
    /// `total` of the `full` line of `io.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_pressure_full_usec: Option<u64>,
    /// `rbytes` of `io.stat`, of all devices: one that lies on another counts beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// `wbytes` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_written_bytes: Option<u64>,
    /// `rios` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_reads: Option<u64>,
    /// `wios` of `io.stat`, of all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_writes: Option<u64>,
}

/// What a living run uses and is held to, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// What it uses, and has used in all.
    pub used: Usage,
    /// What it is held to.
    pub ceilings: Ceilings,
}

/// What a process of ours uses itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnUse {
    /// CPU time, in user mode and in the kernel, in seconds.
    pub cpu_seconds: f64,
    /// When it began: seconds since 1970.
    pub start_seconds: f64,
    /// Its resident memory.
    pub resident_bytes: u64,
    /// Its address space.
    pub virtual_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Descriptors that are open.
    pub open_fds: u64,
    /// How many may be; `None` where there is no end.
    pub max_fds: Option<u64>,
}

/// The limits in force, by the kernel's files. `None`: there is no such limit, or the kernel does not tell here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ceilings {
    /// `memory.max`.
    pub memory_max_bytes: Option<u64>,
    /// `memory.high`.
    pub memory_high_bytes: Option<u64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
}

/// Which numbers of a living run to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the resources")]
pub struct Wanted {
    pub memory: bool,
    pub cpu: bool,
    pub pressure: bool,
}

impl Wanted {
    /// All of it.
    pub const ALL: Self = Self { memory: true, cpu: true, pressure: true };

    /// Whether anything is.
    #[must_use]
    pub const fn any(self) -> bool {
        self.memory || self.cpu || self.pressure
    }
}

/// One reading of what a living run uses, of what was [`Wanted`]. `None`: not asked for, or the kernel does not tell here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// `anon` + `shmem` of `memory.stat`, bytes: what a person calls RSS. Page cache is no part of it.
    pub resident_bytes: Option<u64>,
    /// `memory.current`, bytes.
    pub memory_current_bytes: Option<u64>,
    /// `cpu.stat`.
    pub cpu: Option<CpuStat>,
    /// `total` of the pressure files.
    pub pressure: Pressures,
}

/// Of `cpu.stat`. Times are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CpuStat {
    /// CPU time used, of all processes of the run that ever were.
    pub usage_usec: u64,
    /// Enforcement periods of `cpu.max` that passed while the run had something to do.
    pub nr_periods: u64,
    /// Of them those in which the quota ran out.
    pub nr_throttled: u64,
    /// How long its CPUs were throttled, in all.
    pub throttled_usec: u64,
}

/// The totals of the three pressure files (Linux Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the resources")]
pub struct Pressures {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Stalled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Stalled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Stalled>,
}

/// `total` of both lines of a pressure file, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Stalled {
    /// Some task stalled.
    pub some_usec: u64,
    /// Every task did.
    pub full_usec: u64,
}

/// What the cgroups above a run's, and the host, say about an OOM kill in it: read when a run lost a process to the
/// OOM killer without having reached a limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AboveReading {
    /// The ancestors, the nearest first.
    pub levels: Vec<Level>,
    /// Whether every ancestor up to the host's root was read. In a cgroup namespace, or without permission, some are not.
    pub complete: bool,
    /// `oom_kill` of /proc/vmstat, where it could be read twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostOom>,
}

/// One ancestor's `memory.events.local`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Level {
    /// The cgroup below the cgroup2 mount, as /proc/PID/cgroup spells it: `/pinfold/workers/web.slice`.
    pub path: String,
    /// Before the OOM.
    pub before: MemoryEvents,
    /// After it.
    pub after: MemoryEvents,
}

/// `oom_kill` of /proc/vmstat: processes killed by any OOM killer of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "two readings")]
pub struct HostOom {
    pub before: u64,
    pub after: u64,
}

impl AboveReading {
    /// The nearest ancestor whose own limit was reached.
    #[must_use]
    pub fn reached(&self) -> Option<&Level> {
        self.levels.iter().find(|level| level.after.since(level.before).oom > 0)
    }
}

impl MemoryEvents {
    /// What happened since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            low: self.low.saturating_sub(earlier.low),
            high: self.high.saturating_sub(earlier.high),
            max: self.max.saturating_sub(earlier.max),
            oom: self.oom.saturating_sub(earlier.oom),
            oom_kill: self.oom_kill.saturating_sub(earlier.oom_kill),
            oom_group_kill: self.oom_group_kill.saturating_sub(earlier.oom_group_kill),
        }
    }
}

impl Counters {
    /// What happened since `earlier`; a counter that only one of the readings has counts from zero.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let events =
            |now: Option<MemoryEvents>, then: Option<MemoryEvents>| now.map(|now| now.since(then.unwrap_or_default()));
        Self {
            local: events(self.local, earlier.local),
            memory: events(self.memory, earlier.memory),
            pids_max: self.pids_max.map(|now| now.saturating_sub(earlier.pids_max.unwrap_or(0))),
        }
    }

    /// `memory.events`, which counts what happens below too; `memory.events.local` where only that is there.
    #[must_use]
    pub const fn hierarchical(self) -> Option<MemoryEvents> {
        if self.memory.is_some() { self.memory } else { self.local }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_never_goes_below_zero() {
        let older = Counters { pids_max: Some(9), ..Default::default() };
        let newer = Counters { pids_max: Some(4), ..Default::default() };
        assert_eq!(newer.since(older).pids_max, Some(0));
    }

    #[test]
    fn a_file_that_is_not_there_gives_no_number() {
        let older = Counters { pids_max: Some(9), ..Default::default() };
        assert_eq!(Counters::default().since(older), Counters::default());
    }
}
