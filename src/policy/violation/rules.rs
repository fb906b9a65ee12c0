//! What a run is held to, in plain numbers.

use std::time::Duration;

use crate::model::Limit;

/// The limits whose violations are looked for. `None`: not configured. The default detects nothing
/// (`monitoring.enabled: false`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rules {
    /// Whether growth of the event counters is a violation. It is one also where no limit of the run's own is configured: then a
    /// cgroup above, or the host, ran out, and the run lost a process all the same.
    pub counted: bool,
    /// `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// `memory.high`.
    pub memory_high: Option<MemoryHigh>,
    /// `cpu.max`.
    pub cpu_max: Option<CpuMax>,
    /// `cpu.max_time`.
    pub cpu_time: Option<CpuTime>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
    /// The stall on `io.pressure` that a violation of `io.max` is seen by.
    pub io_max: Option<Stall>,
    /// The trigger on `memory.pressure`.
    pub memory_pressure: Option<Stall>,
    /// The trigger on `cpu.pressure`.
    pub cpu_pressure: Option<Stall>,
    /// The trigger on `io.pressure`.
    pub io_pressure: Option<Stall>,
}

/// How `memory.high` is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryHigh {
    /// `memory.high`, bytes.
    pub bytes: u64,
    /// Whether it stays in force when it is crossed (`high_policy: throttle`). Otherwise it is a tripwire: lifted at once.
    pub throttle: bool,
    /// How long it may throttle without progress.
    pub throttle_deadline: Duration,
}

/// How `cpu.max` is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuMax {
    /// As a percentage of one CPU.
    pub percent: f64,
    /// The enforcement period.
    pub period: Duration,
    /// The share of throttled periods, above 0 and up to 1, that counts as throttling.
    pub throttled_ratio: f64,
    /// How long it lasts before it is a violation.
    pub sustained: Duration,
}

/// How `cpu.max_time` is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTime {
    /// The CPU time a run may use in all.
    pub max: Duration,
    /// The most CPU time that can be used in a second, in seconds: the CPUs of the host, or less by `cpu.max`.
    pub parallelism: f64,
}

/// A pressure that is too much: `stall` in each `window`, for `sustained`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// `full` (every task stalls) instead of `some`.
    pub full: bool,
    /// Stall time.
    pub stall: Duration,
    /// The window it is measured over.
    pub window: Duration,
    /// How long it lasts before it is a violation.
    pub sustained: Duration,
}

impl Rules {
    /// Whether violations of `limit` are looked for.
    #[must_use]
    pub const fn has(&self, limit: Limit) -> bool {
        match limit {
            Limit::MemoryMax | Limit::PidsMax => self.counted,
            Limit::MemoryHigh => self.memory_high.is_some(),
            Limit::CpuMax => self.cpu_max.is_some(),
            Limit::CpuTime => self.cpu_time.is_some(),
            Limit::IoMax | Limit::MemoryPressure | Limit::CpuPressure | Limit::IoPressure => {
                self.stall(limit).is_some()
            }
        }
    }

    /// The stall that `limit` is seen by; `None` for limits that have none.
    pub(super) const fn stall(&self, limit: Limit) -> Option<Stall> {
        match limit {
            Limit::IoMax => self.io_max,
            Limit::MemoryPressure => self.memory_pressure,
            Limit::CpuPressure => self.cpu_pressure,
            Limit::IoPressure => self.io_pressure,
            Limit::MemoryMax | Limit::MemoryHigh | Limit::CpuMax | Limit::CpuTime | Limit::PidsMax => None,
        }
    }
}
