//! What a worker may use, as it is written.

use crate::spec::{
    declare::{choice, record},
    decode::List,
    quantity::{Off, Share, Size, Stall, Time, TimeOr},
    types::{OomGroup, ViolationHandling, ViolationPolicy},
    units::{AbsPath, Flag, Int, Number, OrMax},
};

/// PID_MAX_LIMIT of the kernel (include/linux/threads.h): `pids.max` takes no more.
pub(super) const PID_MAX_LIMIT: i64 = 4 << 20;
/// `io.max` counts operations in 32 bits, and the largest number means "max" (block/blk-throttle.c).
pub(super) const MAX_IOPS: i64 = u32::MAX as i64 - 1;

record! {
    /// What a worker may use. Without a key there is no such limit.
    Limits {
        /// Memory of the worker's cgroup.
        memory: Memory,
        /// Processor time of the worker's cgroup.
        cpu: Cpu,
        /// Processes and threads of the worker's cgroup.
        pids: Pids,
        /// Disk traffic of the worker's cgroup, by device.
        io: List<Io>,
        /// Pressure stall triggers of the worker's cgroup.
        pressure: Pressure,
        /// Resource limits of its processes, setrlimit(2).
        process: Process,
        /// How violations are watched for.
        monitoring: Monitoring,
    }
}

record! {
    /// Memory.
    Memory {
        /// The most it may use, at least 1MiB; above it the kernel kills (memory.max). max: no limit.
        max_rss: OrMax<Size>,
        /// Where it counts as a warning: a size or a percentage of max_rss (memory.high).
        high | warning_threshold: OrMax<Share>,
        /// The most swap, where max_rss is set (memory.swap.max). Default 0.
        swap_max: OrMax<Size>,
        /// What an OOM kill takes: worker (all of it) or process (one). Default worker.
        oom_scope: OomScopeName,
        /// What an OOM kill leads to. Default log.
        policy: Policy,
        /// What high leads to; throttle leaves it in force. Default log.
        high_policy: HighPolicy,
        /// How long throttle may slow it down without progress. Default 30s.
        throttle_deadline: Time,
    }
}

record! {
    /// Processor time.
    Cpu {
        /// The most, in percent of one CPU, at least 1 (cpu.max). max: no limit.
        max_percent: OrMax<Number<1, 1_000_000>>,
        /// Its share where CPUs are short, 1 to 10000; 100 is usual (cpu.weight).
        weight: Int<1, 10_000>,
        /// Unused time that can be spent later, at most max_percent of 100ms (cpu.max.burst). Default 0.
        burst: Time,
        /// The most processor time one run may use in all.
        max_time: Time,
        /// How long it must be throttled for a violation. Default 10s.
        sustained: Time,
        /// The share of throttled periods that counts as throttled, above 0 and at most 1. Default 0.5.
        throttled_ratio: Number<0, 1>,
        /// What a violation leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Processes and threads.
    Pids {
        /// The most at once (pids.max). max: no limit.
        max: OrMax<Int<1, PID_MAX_LIMIT>>,
        /// What a refused fork leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Disk traffic on one device. At least one rate.
    Io requires [path] {
        /// A path on the device.
        path: AbsPath,
        /// Bytes read a second.
        rbps: Size,
        /// Bytes written a second.
        wbps: Size,
        /// Reads a second.
        riops: Int<1, MAX_IOPS>,
        /// Writes a second.
        wiops: Int<1, MAX_IOPS>,
        /// What a violation leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Pressure stall triggers.
    Pressure {
        /// On memory.
        memory: Trigger,
        /// On processors.
        cpu: Trigger,
        /// On disks.
        io: Trigger,
    }
}

record! {
    /// A pressure stall trigger: either some or full.
    Trigger {
        /// Some task stalls so long within a window of 500ms to 10s, like 150ms/1s.
        some: Stall,
        /// All tasks stall so long within a window of 500ms to 10s, like 150ms/1s.
        full: Stall,
        /// How long it must last for a violation. Default 20s.
        sustained: Time,
        /// What it leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Resource limits of its processes, soft and hard alike. Default: the supervisor's own.
    #[allow(clippy::struct_field_names, reason = "the names are the config's own")]
    Process {
        /// Open files (RLIMIT_NOFILE), or max.
        max_file_descriptors: OrMax<Int<8, 1_073_741_816>>,
        /// Size of a core file (RLIMIT_CORE), or max.
        max_core_size: OrMax<Size>,
        /// Locked memory (RLIMIT_MEMLOCK), or max.
        max_locked_memory: OrMax<Size>,
    }
}

record! {
    /// How violations are watched for.
    Monitoring {
        /// Whether they are at all; the kernel's limits hold regardless. Default true.
        enabled: Flag,
        /// Period of usage samples, or off. Default off.
        interval: TimeOr<Off>,
        /// How long samples and violations are kept. Default 24h.
        history_retention: Time,
        /// Whether alert is more than a log line. Default true.
        alerting_enabled: Flag,
        /// Who handles a violation: external (the worker, by its breaker), internal (the limits alone) or disabled. Default external.
        violation_handling: HandlingName,
    }
}

choice!(OomScopeName => OomGroup, "a scope of an OOM kill", {
    "worker" => OomGroup::Worker,
    "process" => OomGroup::Process,
});

choice!(Policy => ViolationPolicy, "a policy", {
    "none" => ViolationPolicy::None,
    "log" => ViolationPolicy::Log,
    "alert" => ViolationPolicy::Alert,
    "restart" => ViolationPolicy::Restart,
    "graceful_shutdown" => ViolationPolicy::GracefulShutdown,
    "immediate_kill" => ViolationPolicy::ImmediateKill,
} refuses "throttle": "is a policy of memory.high_policy only");

choice!(HighPolicy => ViolationPolicy, "a policy", {
    "none" => ViolationPolicy::None,
    "log" => ViolationPolicy::Log,
    "alert" => ViolationPolicy::Alert,
    "throttle" => ViolationPolicy::Throttle,
    "restart" => ViolationPolicy::Restart,
    "graceful_shutdown" => ViolationPolicy::GracefulShutdown,
    "immediate_kill" => ViolationPolicy::ImmediateKill,
});

choice!(HandlingName => ViolationHandling, "a way to handle violations", {
    "external" => ViolationHandling::External,
    "internal" => ViolationHandling::Internal,
    "disabled" => ViolationHandling::Disabled,
});
