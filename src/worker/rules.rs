//! A worker's limits as [`policy::violation`](crate::policy::violation) takes them: what is looked for, in plain numbers.

use std::time::Duration;

use crate::model::Limit;
use crate::policy::violation::{CpuMax, CpuTime, MemoryHigh, Rules, Stall};
use crate::spec::types::{Cpu, Limits, PressureTrigger, ViolationPolicy};

/// The stall on `io.pressure` that a violation of `io.max` is seen by: half of each 2 s, for 20 s.
const IO: Stall = Stall {
    full: false,
    stall: Duration::from_secs(1),
    window: Duration::from_secs(2),
    sustained: Duration::from_secs(20),
};

/// How many CPUs a run can use at the most: as many as this process (`sched_getaffinity(2)`, and the quota of its cgroup).
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// What is looked for. `cpus`: how many the host has.
#[must_use]
pub fn rules(limits: &Limits, cpus: u32) -> Rules {
    if !limits.monitoring.enabled {
        return Rules::default();
    }
    let (memory, cpu) = (&limits.memory, &limits.cpu);
    let cpus = f64::from(cpus.max(1));
    Rules {
        counted: true,
        memory_max: memory.max,
        memory_high: memory.high.map(|bytes| MemoryHigh {
            bytes,
            throttle: memory.high_policy == ViolationPolicy::Throttle,
            throttle_deadline: memory.throttle_deadline,
        }),
        cpu_max: cpu.max_percent.map(|percent| CpuMax {
            percent,
            period: Cpu::period(percent),
            throttled_ratio: cpu.throttled_ratio,
            sustained: cpu.sustained,
        }),
        cpu_time: cpu.max_time.map(|max| CpuTime {
            max,
            parallelism: cpu.max_percent.map_or(cpus, |percent| (percent / 100.0).min(cpus)),
        }),
        pids_max: limits.pids.max,
        io_max: (!limits.io.is_empty()).then_some(IO),
        memory_pressure: limits.pressure.memory.as_ref().map(stall),
        cpu_pressure: limits.pressure.cpu.as_ref().map(stall),
        io_pressure: limits.pressure.io.as_ref().map(stall),
    }
}

fn stall(trigger: &PressureTrigger) -> Stall {
    let PressureTrigger { full, stall, window, sustained, .. } = *trigger;
    Stall { full, stall, window, sustained }
}

/// The policy of `limit`.
#[must_use]
pub fn policy_of(limits: &Limits, limit: Limit) -> ViolationPolicy {
    let pressure =
        |trigger: &Option<PressureTrigger>| trigger.as_ref().map_or(ViolationPolicy::Log, |trigger| trigger.policy);
    match limit {
        Limit::MemoryMax => limits.memory.policy,
        Limit::MemoryHigh => limits.memory.high_policy,
        Limit::CpuMax | Limit::CpuTime => limits.cpu.policy,
        Limit::PidsMax => limits.pids.policy,
        // io.pressure does not say which disk: the strictest policy of them all acts.
        Limit::IoMax => limits.io.iter().map(|io| io.policy).max_by_key(|p| severity(*p)).unwrap_or_default(),
        Limit::MemoryPressure => pressure(&limits.pressure.memory),
        Limit::CpuPressure => pressure(&limits.pressure.cpu),
        Limit::IoPressure => pressure(&limits.pressure.io),
    }
}

/// How far a policy goes: their order in the configuration's documentation.
fn severity(policy: ViolationPolicy) -> usize {
    ViolationPolicy::ALL.iter().position(|p| *p == policy).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limit;
    use crate::spec::types::{Io, Memory, Monitoring, Pids, Pressure};

    fn trigger(full: bool) -> PressureTrigger {
        let ms = Duration::from_millis;
        let policy = ViolationPolicy::Alert;
        PressureTrigger { full, stall: ms(150), window: ms(1000), sustained: ms(20_000), policy }
    }

    fn everything() -> Limits {
        Limits {
            memory: Memory {
                max: Some(256),
                high: Some(200),
                high_policy: ViolationPolicy::Throttle,
                ..Memory::default()
            },
            cpu: Cpu { max_percent: Some(75.0), max_time: Some(Duration::from_secs(60)), ..Cpu::default() },
            pids: Pids { max: Some(64), ..Pids::default() },
            io: vec![Io {
                path: "/data".into(),
                rbps: None,
                wbps: Some(1),
                riops: None,
                wiops: None,
                policy: ViolationPolicy::Log,
            }],
            pressure: Pressure { memory: Some(trigger(true)), cpu: Some(trigger(false)), io: Some(trigger(true)) },
            ..Limits::default()
        }
    }

    #[test]
    fn every_limit_has_its_rule_and_none_has_another() {
        let rules = rules(&everything(), 8);
        for limit in Limit::ALL {
            assert!(rules.has(limit), "{limit}");
        }
        assert_eq!((rules.memory_max, rules.pids_max), (Some(256), Some(64)));
        assert!(rules.memory_high.is_some_and(|high| high.bytes == 200 && high.throttle));
        assert_eq!(rules.cpu_max.map(|cpu| cpu.period), Some(Duration::from_millis(100)));
        assert!(rules.memory_pressure.is_some_and(|p| p.full) && rules.cpu_pressure.is_some_and(|p| !p.full));
        let none = super::rules(&Limits::default(), 8);
        let looked_for: Vec<_> = Limit::ALL.into_iter().filter(|limit| none.has(*limit)).collect();
        assert_eq!(looked_for, [Limit::MemoryMax, Limit::PidsMax], "an OOM kill matters to a run without a limit, too");
    }

    #[test]
    fn without_monitoring_nothing_is_looked_for() {
        let monitoring = Monitoring { enabled: false, ..Monitoring::default() };
        assert_eq!(rules(&Limits { monitoring, ..everything() }, 8), Rules::default());
    }

    #[test]
    fn cpu_time_goes_by_as_fast_as_the_share_and_the_host_allow() {
        let parallelism = |max_percent, cpus| {
            let cpu = Cpu { max_percent, max_time: Some(Duration::from_secs(60)), ..Cpu::default() };
            rules(&Limits { cpu, ..Limits::default() }, cpus).cpu_time.unwrap().parallelism
        };
        for (percent, cpus, expected) in
            [(Some(75.0), 8, 0.75), (Some(350.0), 8, 3.5), (Some(350.0), 2, 2.0), (None, 8, 8.0), (None, 0, 1.0)]
        {
            assert!((parallelism(percent, cpus) - expected).abs() < 1e-9, "{percent:?} on {cpus}");
        }
    }
}
