//! What a worker's limits mean to the violation engine, and which policy each limit has.

use crate::model::Limit;
use crate::policy::{dispatch::ViolationPolicy, violation::Rules};
use crate::spec::types::Limits;

/// What is watched for.
pub(super) fn rules(_limits: &Limits) -> Rules {
    Rules
}

/// The policy of `limit`.
pub(super) fn policy_of(limits: &Limits, limit: Limit) -> ViolationPolicy {
    let pressure = |trigger: &Option<crate::spec::types::PressureTrigger>| {
        trigger.as_ref().map_or(ViolationPolicy::Log, |trigger| trigger.policy)
    };
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
