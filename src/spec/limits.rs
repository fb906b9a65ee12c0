//! What a unit's or a slice's limits say together; the rest of a unit is `validate`'s part.

use std::{collections::HashSet, time::Duration};

use super::{
    decode::{Cx, Field, Found, List},
    problem::{Place, shown},
    quantity::{Share, Size},
    raw,
    types::{
        Cpu, Io, Limits, Memory, Monitoring, OomGroup, Pids, Pressure, PressureTrigger, Process, SwapMax,
        ViolationPolicy,
    },
    units::{Int, OrMax},
};

/// Below it an exec fails with misleading errors.
const MIN_MEMORY: u64 = 1 << 20;
/// The kernel's page: less is no memory.
const PAGE: u64 = 4096;
/// The period of `cpu.max`.
const CPU_PERIOD_USEC: f64 = 100_000.0;
/// Shorter periods of samples are a load of their own.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// What a pressure trigger must last, unless configured.
const PRESSURE_SUSTAINED: Duration = Duration::from_secs(20);

/// The limits of a slice. What only a worker can have is as it is for a worker without it.
pub(super) fn of_slice(raw: &raw::Slice, cx: &mut Cx<'_>) -> Limits {
    let memory = raw.memory.get().map(|raw| {
        let as_a_workers = raw::Memory {
            max_rss: raw.max.clone(),
            high: raw.high.clone(),
            swap_max: raw.swap_max.clone(),
            ..raw::Memory::default()
        };
        // memory.oom.group on a slice would have one worker's OOM kill all of them.
        Memory { oom_scope: OomGroup::Process, ..memory(&as_a_workers, "max", cx) }
    });
    let cpu = raw.cpu.get().map(|raw| {
        let as_a_workers = raw::Cpu {
            max_percent: raw.max_percent.clone(),
            weight: raw.weight.clone(),
            burst: raw.burst.clone(),
            ..raw::Cpu::default()
        };
        cpu(&as_a_workers, cx)
    });
    let pids = raw.pids.get().map(|raw| pids(&raw::Pids { max: raw.max.clone(), policy: Field::Absent }));
    let io = raw.io.get().map(|list| {
        let as_a_workers = list.0.iter().map(|Found { value: raw, at }| Found {
            value: raw::Io {
                path: raw.path.clone(),
                rbps: raw.rbps.clone(),
                wbps: raw.wbps.clone(),
                riops: raw.riops.clone(),
                wiops: raw.wiops.clone(),
                policy: Field::Absent,
            },
            at: at.clone(),
        });
        io(&List(as_a_workers.collect()), cx)
    });
    Limits {
        memory: memory.unwrap_or_else(|| Memory { oom_scope: OomGroup::Process, ..Memory::default() }),
        cpu: cpu.unwrap_or_default(),
        pids: pids.unwrap_or_default(),
        io: io.unwrap_or_default(),
        ..Limits::default()
    }
}

/// The limits of a unit; defaults filled in.
pub(super) fn limits(raw: &raw::Limits, cx: &mut Cx<'_>) -> Limits {
    Limits {
        memory: raw.memory.get().map(|raw| memory(raw, "max_rss", cx)).unwrap_or_default(),
        cpu: raw.cpu.get().map(|raw| cpu(raw, cx)).unwrap_or_default(),
        pids: raw.pids.get().map(pids).unwrap_or_default(),
        io: raw.io.get().map(|list| io(list, cx)).unwrap_or_default(),
        pressure: raw.pressure.get().map(|raw| pressure(raw, cx)).unwrap_or_default(),
        process: raw.process.get().map(process).unwrap_or_default(),
        monitoring: raw.monitoring.get().map(|raw| monitoring(raw, cx)).unwrap_or_default(),
    }
}

/// `max_key` is what `memory.max` is called there.
fn memory(raw: &raw::Memory, max_key: &str, cx: &mut Cx<'_>) -> Memory {
    let default = Memory::default();
    let max = raw.max_rss.get().and_then(|max| max.limit()).map(|size| size.0);
    if let (Some(max), Some(found)) = (max, raw.max_rss.found())
        && max < MIN_MEMORY
    {
        let message = format!("{max} bytes are too little to start a program in");
        cx.report.add(&found.at, message, "write at least 1MiB, or max for no limit");
    }
    if let Some(swap) = raw.swap_max.found()
        && !swap.at.inherited()
        && max.is_none()
        && raw.max_rss.is_absent()
    {
        let message = format!("swap_max acts only together with {max_key}");
        cx.report.add(&swap.at, message, format!("set {max_key} as well"));
    }
    Memory {
        max,
        high: high(raw, max, max_key, cx),
        swap_max: raw.swap_max.get().map_or(default.swap_max, |swap| match swap {
            OrMax::Max => SwapMax::Max,
            OrMax::At(size) => SwapMax::Bytes(size.0),
        }),
        oom_scope: raw.oom_scope.get().map_or(default.oom_scope, |scope| scope.0),
        policy: raw.policy.get().map_or(default.policy, |policy| policy.0),
        high_policy: raw.high_policy.get().map_or(default.high_policy, |policy| policy.0),
        throttle_deadline: raw.throttle_deadline.get().map_or(default.throttle_deadline, |time| time.0),
    }
}

fn high(raw: &raw::Memory, max: Option<u64>, max_key: &str, cx: &mut Cx<'_>) -> Option<u64> {
    let found = raw.high.found()?;
    let high = match (found.value.limit()?, max) {
        (Share::Bytes(bytes), _) => bytes,
        (Share::Percent(hundredths), Some(max)) => {
            u64::try_from(u128::from(max) * u128::from(hundredths) / 10_000).unwrap_or(max)
        }
        (Share::Percent(_), None) => {
            // A default for those that have max_rss says nothing about those that have not.
            if !found.at.inherited() && !matches!(raw.max_rss, Field::Broken) {
                let message = format!("a percentage is one of {max_key}, and there is none");
                cx.report.add(&found.at, message, format!("set {max_key}, or write a size like 200MiB"));
            }
            return None;
        }
    };
    if high < PAGE {
        cx.report.add(&found.at, format!("{high} bytes are less than a page of memory"), "write at least 4KiB");
    }
    if let Some(max) = max.filter(|max| high > *max) {
        let at = if found.at.inherited() { raw.max_rss.found().map_or(&found.at, |max| &max.at) } else { &found.at };
        let message = format!("high, {high} bytes, is above {max_key}, {max} bytes, and would never act");
        cx.report.add(at, message, format!("write a size below {max_key}, or a percentage of it"));
    }
    Some(high)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1,000 and 1e9 by the key's range")]
fn quota_usec(percent: f64) -> u64 {
    (percent / 100.0 * CPU_PERIOD_USEC).round() as u64
}

fn cpu(raw: &raw::Cpu, cx: &mut Cx<'_>) -> Cpu {
    let default = Cpu::default();
    let max_percent = raw.max_percent.get().and_then(|max| max.limit()).map(|percent| percent.0);
    let burst_usec = raw.burst.get().map(|time| u64::try_from(time.0.as_micros()).unwrap_or(u64::MAX));
    if let (Some(found), Some(burst)) = (raw.burst.found(), burst_usec.filter(|burst| *burst > 0)) {
        match max_percent.map(quota_usec) {
            None if found.at.inherited() || matches!(raw.max_percent, Field::Broken) => {}
            None => cx.report.add(&found.at, "burst acts only together with max_percent", "set max_percent as well"),
            Some(quota) if burst > quota => {
                let own = raw.max_percent.found().filter(|_| found.at.inherited()).map_or(&found.at, |max| &max.at);
                let time = |usec| humantime::format_duration(Duration::from_micros(usec)).to_string();
                let message = format!("burst, {}, is more than max_percent of a period, {}", time(burst), time(quota));
                cx.report.add(own, message, format!("write a burst of at most {}", time(quota).replace(' ', "")));
            }
            Some(_) => {}
        }
    }
    if let Some(found) = raw.max_time.found()
        && found.value.0.is_zero()
    {
        cx.report.add(
            &found.at,
            "a run that may use no processor time cannot start",
            "write a time, or remove the key",
        );
    }
    if let Some(ratio) = raw.throttled_ratio.found() {
        positive(ratio.value.0, &ratio.at, cx);
    }
    Cpu {
        max_percent,
        weight: raw.weight.get().and_then(|weight| u32::try_from(weight.unsigned()).ok()),
        burst_usec: burst_usec.filter(|_| max_percent.is_some()),
        max_time: raw.max_time.get().map(|time| time.0),
        sustained: raw.sustained.get().map_or(default.sustained, |time| time.0),
        throttled_ratio: raw.throttled_ratio.get().map_or(default.throttled_ratio, |ratio| ratio.0),
        policy: raw.policy.get().map_or(default.policy, |policy| policy.0),
    }
}

fn pids(raw: &raw::Pids) -> Pids {
    Pids { max: raw.max.get().and_then(|max| max.limit()).map(Int::unsigned), policy: policy(&raw.policy) }
}

fn policy(field: &Field<raw::Policy>) -> ViolationPolicy {
    field.get().map(|policy| policy.0).unwrap_or_default()
}

fn io(list: &List<raw::Io>, cx: &mut Cx<'_>) -> Vec<Io> {
    let mut all: Vec<Io> = Vec::new();
    let mut paths = HashSet::new();
    for Found { value: raw, at } in &list.0 {
        let bytes = [&raw.rbps, &raw.wbps];
        for found in bytes.iter().filter_map(|rate| rate.found()).filter(|found| found.value == Size(0)) {
            cx.report.add(&found.at, "a rate of 0 stops the worker for ever", "write at least 1, or remove the key");
        }
        let no_rate = bytes.iter().all(|rate| rate.is_absent()) && raw.riops.is_absent() && raw.wiops.is_absent();
        if no_rate {
            cx.report.add(at, "no rate is given", "add at least one of rbps, wbps, riops, wiops");
        }
        let Some(path) = raw.path.found() else { continue };
        if !paths.insert(&path.value.0) {
            let path_text = shown(&path.value.0.to_string_lossy());
            cx.report.add(&path.at, format!("{path_text} is given twice"), "put all rates of a path into one entry");
        }
        all.push(Io {
            path: path.value.0.clone(),
            rbps: raw.rbps.get().map(|size| size.0),
            wbps: raw.wbps.get().map(|size| size.0),
            riops: raw.riops.get().map(|rate| rate.unsigned()),
            wiops: raw.wiops.get().map(|rate| rate.unsigned()),
            policy: policy(&raw.policy),
        });
        if cx.report.full() {
            break;
        }
    }
    all
}

fn pressure(raw: &raw::Pressure, cx: &mut Cx<'_>) -> Pressure {
    let mut trigger = |field: &Field<raw::Trigger>| field.found().and_then(|found| trigger(found, cx));
    Pressure { memory: trigger(&raw.memory), cpu: trigger(&raw.cpu), io: trigger(&raw.io) }
}

fn trigger(found: &Found<raw::Trigger>, cx: &mut Cx<'_>) -> Option<PressureTrigger> {
    let raw = &found.value;
    let (stall, full) = match (raw.some.found(), raw.full.found()) {
        (Some(some), None) => (some, false),
        (None, Some(full)) => (full, true),
        // What a worker writes itself replaces the other kind from the defaults.
        (Some(some), Some(full)) if full.at.inherited() && !some.at.inherited() => (some, false),
        (Some(some), Some(full)) if some.at.inherited() && !full.at.inherited() => (full, true),
        (Some(_), Some(full)) => {
            cx.report.add(&full.at, "a trigger is either some or full", "keep one of them");
            return None;
        }
        (None, None) => {
            if raw.some.is_absent() && raw.full.is_absent() {
                cx.report.add(&found.at, "a trigger needs some or full", "add one, like full: 150ms/1s");
            }
            return None;
        }
    };
    Some(PressureTrigger {
        full,
        stall: stall.value.stall,
        window: stall.value.window,
        sustained: raw.sustained.get().map_or(PRESSURE_SUSTAINED, |time| time.0),
        policy: policy(&raw.policy),
    })
}

fn process(raw: &raw::Process) -> Process {
    let size = |field: &Field<OrMax<Size>>| field.get().map(|size| size.limit().map_or(u64::MAX, |size| size.0));
    Process {
        max_file_descriptors: raw.max_file_descriptors.get().map(|count| count.limit().map_or(u64::MAX, Int::unsigned)),
        max_core_size: size(&raw.max_core_size),
        max_locked_memory: size(&raw.max_locked_memory),
    }
}

fn monitoring(raw: &raw::Monitoring, cx: &mut Cx<'_>) -> Monitoring {
    let default = Monitoring::default();
    let interval = raw.interval.get().and_then(|interval| interval.0);
    if let (Some(found), Some(length)) = (raw.interval.found(), interval)
        && length < MIN_INTERVAL
    {
        cx.report.add(&found.at, "samples this close together are a load of their own", "write at least 100ms, or off");
    }
    Monitoring {
        enabled: raw.enabled.get().map_or(default.enabled, |flag| flag.0),
        interval,
        history_retention: raw.history_retention.get().map_or(default.history_retention, |time| time.0),
        alerting_enabled: raw.alerting_enabled.get().map_or(default.alerting_enabled, |flag| flag.0),
        violation_handling: raw.violation_handling.get().map_or(default.violation_handling, |name| name.0),
    }
}

/// Reports a number that is not above 0.
pub(super) fn positive(number: f64, at: &Place, cx: &mut Cx<'_>) {
    if number <= 0.0 {
        cx.report.add(at, "0 is out of range", "write a number above 0");
    }
}
