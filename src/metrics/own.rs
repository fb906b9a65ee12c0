//! What is told of the supervisor itself, of its events, sinks and store.

use prometheus_client::registry::Unit;

use super::family::{Family, Kind, Value};
use super::tally::{TRIGGERS, VERDICTS};
use crate::history::SinkState;
use crate::model::EventKind;

const NONE: &[&str] = &[];
const SINK: &[&str] = &["sink"];

/// In the order they are told.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "pinfold_build",
        unit: None,
        kind: Kind::Info,
        labels: &["version"],
        help: "The supervisor that answers.",
        tell: |scrape, series| series.tell(&[scrape.own.version], 1_u64),
    },
    Family {
        name: "pinfold_going_down",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "1 while every worker is being stopped.",
        tell: |scrape, series| series.tell(&[], scrape.own.going_down),
    },
    Family {
        name: "pinfold_supervisor_replaced",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "1 where the keeper has started this supervisor in the place of another: one that died, or one of another binary.",
        tell: |scrape, series| series.tell(&[], scrape.own.replaced),
    },
    Family {
        name: "pinfold_reexecs",
        unit: None,
        kind: Kind::Counter,
        labels: NONE,
        help: "How often the binary was replaced since up.",
        tell: |scrape, series| series.tell(&[], scrape.own.reexecs),
    },
    Family {
        name: "pinfold_decision_duration",
        unit: Some(Unit::Seconds),
        kind: Kind::Histogram,
        labels: NONE,
        help: "From the news about a worker, or the moment at which something was due, to the decision about it.",
        tell: |scrape, series| series.distribution(&scrape.own.decisions),
    },
    Family {
        name: "pinfold_decisions",
        unit: None,
        kind: Kind::Counter,
        labels: &["trigger", "verdict"],
        help: "Decisions by what asked for them and what came of it. Only of those that were made.",
        tell: |scrape, series| {
            TRIGGERS.iter().zip(scrape.own.overall.decisions).try_for_each(|((_, trigger), counts)| {
                VERDICTS
                    .iter()
                    .zip(counts)
                    .filter(|(_, count)| *count > 0)
                    .try_for_each(|((_, verdict), count)| series.tell(&[trigger, verdict], count))
            })
        },
    },
    Family {
        name: "pinfold_events",
        unit: None,
        kind: Kind::Counter,
        labels: &["kind"],
        help: "Events that were told.",
        tell: |scrape, series| {
            EventKind::WORDS
                .iter()
                .zip(scrape.own.overall.events)
                .try_for_each(|(kind, count)| series.tell(&[kind], count))
        },
    },
    Family {
        name: "pinfold_event_stream_missed",
        unit: None,
        kind: Kind::Counter,
        labels: NONE,
        help: "Events that followers of the stream were too slow for.",
        tell: |scrape, series| series.tell(&[], scrape.own.missed_events),
    },
    Family {
        name: "pinfold_history_sink_ok",
        unit: None,
        kind: Kind::Gauge,
        labels: SINK,
        help: "1 where a history sink takes what it is given, 0 while it fails.",
        tell: |scrape, series| {
            scrape.own.sinks.iter().try_for_each(|sink| series.tell(&[&sink.name], sink.state == SinkState::Ok))
        },
    },
    Family {
        name: "pinfold_history_queued_events",
        unit: None,
        kind: Kind::Gauge,
        labels: SINK,
        help: "Events that wait for a history sink or are on their way.",
        tell: |scrape, series| {
            let queued = |queued| u64::try_from(queued).unwrap_or(u64::MAX);
            scrape.own.sinks.iter().try_for_each(|sink| series.tell(&[&sink.name], queued(sink.queued)))
        },
    },
    Family {
        name: "pinfold_history_delivered_events",
        unit: None,
        kind: Kind::Counter,
        labels: SINK,
        help: "Events that a history sink has taken.",
        tell: |scrape, series| scrape.own.sinks.iter().try_for_each(|sink| series.tell(&[&sink.name], sink.delivered)),
    },
    Family {
        name: "pinfold_history_dropped_events",
        unit: None,
        kind: Kind::Counter,
        labels: &["sink", "reason"],
        help: "Events that a history sink will never have: too many waited, it refused them, or it was the end.",
        tell: |scrape, series| {
            scrape.own.sinks.iter().try_for_each(|sink| {
                let dropped = sink.dropped;
                [("full", dropped.full), ("rejected", dropped.rejected), ("closing", dropped.closing)]
                    .into_iter()
                    .try_for_each(|(reason, count)| series.tell(&[&sink.name, reason], count))
            })
        },
    },
    Family {
        name: "pinfold_store_degraded",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "1 while the store is not written: what is to be remembered is kept in memory and tried again.",
        tell: |scrape, series| series.tell(&[], scrape.own.store.degraded),
    },
    Family {
        name: "pinfold_store_pending_workers",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "Workers of which something waits while the store is not written.",
        tell: |scrape, series| series.tell(&[], scrape.own.store.pending),
    },
    Family {
        name: "pinfold_store_lost_records",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "Starts and exits that had no room in memory while the store is not written.",
        tell: |scrape, series| series.tell(&[], scrape.own.store.lost),
    },
    Family {
        name: "pinfold_scrape_unread_runs",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "Living runs whose files could not be read in time for this scrape.",
        tell: |scrape, series| series.tell(&[], scrape.own.unread),
    },
    Family {
        name: "process_cpu",
        unit: Some(Unit::Seconds),
        kind: Kind::Counter,
        labels: NONE,
        help: "CPU time of the supervisor.",
        tell: |scrape, series| {
            scrape.own.process.map_or(Ok(()), |process| series.tell(&[], Value::Real(process.cpu_seconds)))
        },
    },
    Family {
        name: "process_start_time",
        unit: Some(Unit::Seconds),
        kind: Kind::Gauge,
        labels: NONE,
        help: "When the supervisor began, in seconds since 1970.",
        tell: |scrape, series| {
            scrape.own.process.map_or(Ok(()), |process| series.tell(&[], Value::Real(process.start_seconds)))
        },
    },
    Family {
        name: "process_resident_memory",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: NONE,
        help: "Resident memory of the supervisor.",
        tell: |scrape, series| scrape.own.process.map_or(Ok(()), |process| series.tell(&[], process.resident_bytes)),
    },
    Family {
        name: "process_virtual_memory",
        unit: Some(Unit::Bytes),
        kind: Kind::Gauge,
        labels: NONE,
        help: "Address space of the supervisor.",
        tell: |scrape, series| scrape.own.process.map_or(Ok(()), |process| series.tell(&[], process.virtual_bytes)),
    },
    Family {
        name: "process_threads",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "Threads of the supervisor.",
        tell: |scrape, series| scrape.own.process.map_or(Ok(()), |process| series.tell(&[], process.threads)),
    },
    Family {
        name: "process_open_fds",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "Open file descriptors of the supervisor.",
        tell: |scrape, series| scrape.own.process.map_or(Ok(()), |process| series.tell(&[], process.open_fds)),
    },
    Family {
        name: "process_max_fds",
        unit: None,
        kind: Kind::Gauge,
        labels: NONE,
        help: "How many file descriptors the supervisor may have open. Only where there is an end.",
        tell: |scrape, series| {
            let max = scrape.own.process.and_then(|process| process.max_fds);
            max.map_or(Ok(()), |max| series.tell(&[], max))
        },
    },
];
