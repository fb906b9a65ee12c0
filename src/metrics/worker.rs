//! What is told of each worker.

use prometheus_client::registry::Unit;

use super::family::{Family, Kind, Value};
use super::tally::{CAUSES, PROBES, RESOURCES, SEVERITIES, Total};
use crate::model::{Class, State, Stream};

const WORKER: &[&str] = &["worker"];
const PRESSURES: [(&str, &str, Total); 6] = [
    ("memory", "some", Total::MemorySomeUsec),
    ("memory", "full", Total::MemoryFullUsec),
    ("cpu", "some", Total::CpuSomeUsec),
    ("cpu", "full", Total::CpuFullUsec),
    ("io", "some", Total::IoSomeUsec),
    ("io", "full", Total::IoFullUsec),
];

/// In the order they are told.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "pinfold_worker",
        unit: None,
        kind: Kind::Info,
        labels: &["worker", "declared_as", "slice"],
        help: "A worker: the id it was declared under, and the slice whose budget it shares (empty: none).",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                let slice = row.slice.as_ref().map_or("", |slice| slice.as_str());
                series.tell(&[row.worker.as_str(), row.declared_as.as_str(), slice], 1_u64)
            })
        },
    },
    Family {
        name: "pinfold_worker_state",
        unit: None,
        kind: Kind::Gauge,
        labels: &["worker", "state"],
        help: "1 for the state that the worker is in, 0 for the others.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                [State::Stopped, State::Starting, State::Running, State::Stopping]
                    .into_iter()
                    .try_for_each(|state| series.tell(&[row.worker.as_str(), state.as_str()], row.state == state))
            })
        },
    },
    Family {
        name: "pinfold_worker_running",
        unit: None,
        kind: Kind::Gauge,
        labels: WORKER,
        help: "1 while the main process runs.",
        tell: |scrape, series| series.of_each(scrape, |row| Some((row.state == State::Running).into())),
    },
    Family {
        name: "pinfold_worker_desired_up",
        unit: None,
        kind: Kind::Gauge,
        labels: WORKER,
        help: "1 where the worker should be up: it was started, has not ended as it should, and nobody has taken it down.",
        tell: |scrape, series| series.of_each(scrape, |row| Some(row.desired_up.into())),
    },
    Family {
        name: "pinfold_worker_start_time",
        unit: Some(Unit::Seconds),
        kind: Kind::Gauge,
        labels: WORKER,
        help: "When the program of the present run began, in seconds since 1970. Only while it runs.",
        tell: |scrape, series| series.of_each(scrape, |row| row.started_seconds.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_restarts",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "class"],
        help: "Automatic restarts by what they were for.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                Class::ALL.into_iter().try_for_each(|class| {
                    let count = match class {
                        Class::Exit => row.restarts.exit,
                        Class::Health => row.restarts.health,
                        Class::Violation => row.restarts.violation,
                    };
                    series.tell(&[row.worker.as_str(), class.as_str()], count)
                })
            })
        },
    },
    Family {
        name: "pinfold_worker_exits",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "cause"],
        help: "Runs that ended, by cause.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                CAUSES
                    .iter()
                    .zip(row.counts.exits)
                    .try_for_each(|(cause, count)| series.tell(&[row.worker.as_str(), cause], count))
            })
        },
    },
    Family {
        name: "pinfold_worker_breaker_state",
        unit: None,
        kind: Kind::Gauge,
        labels: &["worker", "class", "state"],
        help: "1: the state of a class of the restart breaker that has counted something or is not closed.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                row.breaker.iter().try_for_each(|class| {
                    series.tell(&[row.worker.as_str(), class.class.as_str(), class.state.as_str()], 1_u64)
                })
            })
        },
    },
    Family {
        name: "pinfold_worker_breaker_attempts",
        unit: None,
        kind: Kind::Gauge,
        labels: &["worker", "class"],
        help: "Restarts in a row that a class of the restart breaker has counted.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                row.breaker
                    .iter()
                    .try_for_each(|class| series.tell(&[row.worker.as_str(), class.class.as_str()], class.attempts))
            })
        },
    },
    Family {
        name: "pinfold_worker_limit_violated",
        unit: None,
        kind: Kind::Gauge,
        labels: &["worker", "limit"],
        help: "1: a limit that is violated now.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                row.violated.iter().try_for_each(|limit| series.tell(&[row.worker.as_str(), limit.as_str()], 1_u64))
            })
        },
    },
    Family {
        name: "pinfold_worker_violations",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "resource", "severity"],
        help: "Violations of limits, one for each episode, of resources that the worker has limits of.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                RESOURCES.iter().zip(row.counts.violations).zip(row.limited.0).try_for_each(
                    |((resource, counts), limited)| {
                        SEVERITIES.iter().zip(counts).try_for_each(|(severity, count)| match (limited, count) {
                            (false, 0) => Ok(()),
                            _ => series.tell(&[row.worker.as_str(), resource, severity.as_str()], count),
                        })
                    },
                )
            })
        },
    },
    Family {
        name: "pinfold_worker_health_failures",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "probe"],
        help: "How often a health check has begun to fail. Only of checks that have.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                PROBES
                    .iter()
                    .zip(row.counts.health_failures)
                    .filter(|(_, count)| *count > 0)
                    .try_for_each(|(probe, count)| series.tell(&[row.worker.as_str(), probe.as_str()], count))
            })
        },
    },
    Family {
        name: "pinfold_worker_memory_current",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: WORKER,
        help: "memory.current of the present run: page cache included.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.memory_current_bytes.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_memory_peak",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: WORKER,
        help: "memory.peak of the present run.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.memory_peak_bytes.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_memory_high",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: WORKER,
        help: "memory.high in force. Only where there is one.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.memory_high_bytes.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_memory_max",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: WORKER,
        help: "memory.max in force. Only where there is one.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.memory_max_bytes.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_cpu_usage",
        unit: Some(Unit::Seconds),
        kind: Kind::Counter,
        labels: WORKER,
        help: "CPU time that all runs have used.",
        tell: |scrape, series| series.of_each(scrape, |row| row.counts.used.get(Total::CpuUsec).map(Value::seconds)),
    },
    Family {
        name: "pinfold_worker_cpu_throttled",
        unit: Some(Unit::Seconds),
        kind: Kind::Counter,
        labels: WORKER,
        help: "How long CPUs were throttled by cpu.max, in all runs.",
        tell: |scrape, series| {
            series.of_each(scrape, |row| row.counts.used.get(Total::CpuThrottledUsec).map(Value::seconds))
        },
    },
    Family {
        name: "pinfold_worker_cpu_periods",
        unit: None,
        kind: Kind::Counter,
        labels: WORKER,
        help: "Enforcement periods of cpu.max that passed, in all runs.",
        tell: |scrape, series| series.of_each(scrape, |row| row.counts.used.get(Total::CpuPeriods).map(Value::from)),
    },
    Family {
        name: "pinfold_worker_cpu_throttled_periods",
        unit: None,
        kind: Kind::Counter,
        labels: WORKER,
        help: "Enforcement periods of cpu.max in which the quota ran out, in all runs.",
        tell: |scrape, series| {
            series.of_each(scrape, |row| row.counts.used.get(Total::CpuThrottledPeriods).map(Value::from))
        },
    },
    Family {
        name: "pinfold_worker_pids_current",
        unit: None,
        kind: Kind::Gauge,
        labels: WORKER,
        help: "Processes and threads of the present run.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.pids_current.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_pids_max",
        unit: None,
        kind: Kind::Gauge,
        labels: WORKER,
        help: "pids.max in force. Only where there is one.",
        tell: |scrape, series| series.of_each(scrape, |row| row.now.pids_max.map(Value::from)),
    },
    Family {
        name: "pinfold_worker_io",
        unit: Some(Unit::Bytes),
        kind: Kind::Counter,
        labels: &["worker", "direction"],
        help: "Bytes read from and written to disks, in all runs. A device on another one counts beside it.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                [("read", Total::ReadBytes), ("write", Total::WrittenBytes)].iter().try_for_each(
                    |(direction, total)| {
                        let bytes = row.counts.used.get(*total);
                        bytes.map_or(Ok(()), |bytes| series.tell(&[row.worker.as_str(), direction], bytes))
                    },
                )
            })
        },
    },
    Family {
        name: "pinfold_worker_io_operations",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "direction"],
        help: "Reads from and writes to disks, in all runs. A device on another one counts beside it.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                [("read", Total::Reads), ("write", Total::Writes)].iter().try_for_each(|(direction, total)| {
                    let count = row.counts.used.get(*total);
                    count.map_or(Ok(()), |count| series.tell(&[row.worker.as_str(), direction], count))
                })
            })
        },
    },
    Family {
        name: "pinfold_worker_pressure_stalled",
        unit: Some(Unit::Seconds),
        kind: Kind::Counter,
        labels: &["worker", "resource", "tasks"],
        help: "How long some tasks, or the full number of them, stalled for want of a resource, in all runs.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                PRESSURES.iter().try_for_each(|(resource, tasks, total)| match row.counts.used.get(*total) {
                    None => Ok(()),
                    Some(usec) => series.tell(&[row.worker.as_str(), resource, tasks], Value::seconds(usec)),
                })
            })
        },
    },
    Family {
        name: "pinfold_worker_log_drops",
        unit: None,
        kind: Kind::Counter,
        labels: &["worker", "stream"],
        help: "How often output has begun to be dropped: a full disk, or a rate limit with overflow: drop.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                Stream::ALL
                    .iter()
                    .zip(row.counts.log_drops)
                    .try_for_each(|(stream, count)| series.tell(&[row.worker.as_str(), stream.as_str()], count))
            })
        },
    },
    Family {
        name: "pinfold_worker_log_dropped",
        unit: Some(Unit::Bytes),
        kind: Kind::Counter,
        labels: &["worker", "stream"],
        help: "Output that was dropped. Counted when it is over.",
        tell: |scrape, series| {
            scrape.workers.iter().try_for_each(|row| {
                Stream::ALL
                    .iter()
                    .zip(row.counts.log_dropped_bytes)
                    .try_for_each(|(stream, bytes)| series.tell(&[row.worker.as_str(), stream.as_str()], bytes))
            })
        },
    },
];
