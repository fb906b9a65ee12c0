use std::collections::BTreeSet;

use super::super::tally::{Counts, Tally, Totals};
use super::super::{Breaker, Gauges, Kind, Limited, Own, Row, families};
use super::*;
use crate::history::{Dropped, SinkHealth, SinkState};
use crate::model::{BreakerState, Class, Limit, OwnUse, RestartCounts, SliceName, State, Usage, WorkerId};

fn whole(format: Exposition, scrape: Scrape) -> String {
    let scrape = Arc::new(scrape);
    let told = families().into_iter().map(|family| format.family(family, &scrape).unwrap());
    told.chain([format.end().unwrap()]).collect()
}

fn row(name: &str) -> Row {
    Row {
        worker: WorkerId::new(name).unwrap(),
        declared_as: WorkerId::new("web").unwrap(),
        slice: None,
        state: State::Stopped,
        desired_up: false,
        started_seconds: None,
        restarts: RestartCounts::default(),
        breaker: Vec::new(),
        violated: Vec::new(),
        limited: Limited::default(),
        now: Gauges::default(),
        counts: Counts::default(),
    }
}

/// One that has all there is to tell, one that has nothing, and names that an encoder has to escape.
fn sample() -> Scrape {
    let busy = Row {
        slice: Some(SliceName::new("front").unwrap()),
        state: State::Running,
        desired_up: true,
        started_seconds: Some(1_795_000_000.25),
        restarts: RestartCounts { exit: 2, health: 0, violation: 1 },
        breaker: vec![Breaker { class: Class::Exit, state: BreakerState::HalfOpen, attempts: 3 }],
        violated: vec![Limit::MemoryHigh],
        limited: Limited([true, false, false, false]),
        now: Gauges {
            memory_current_bytes: Some(4096),
            memory_peak_bytes: Some(8192),
            memory_max_bytes: Some(u64::MAX),
            memory_high_bytes: None,
            pids_current: Some(3),
            pids_max: Some(64),
        },
        counts: Counts {
            exits: [1, 0, 1, 0, 0, 0, 0],
            violations: [[1, 2, 0], [0; 3], [0, 4, 0], [0; 3]],
            health_failures: [0, 1, 0],
            log_drops: [0, 1],
            log_dropped_bytes: [0, 512],
            used: Totals::from(Usage {
                cpu_usec: Some(1_500_001),
                memory_pressure_usec: Some(2_000_000),
                memory_pressure_full_usec: Some(0),
                io_read_bytes: Some(10),
                io_written_bytes: Some(20),
                io_reads: Some(1),
                io_writes: Some(2),
                ..Usage::default()
            }),
        },
        ..row("web-1")
    };
    let sink = SinkHealth {
        name: "jsonl /tmp/a \"b\"\\c\nd{e=\"f\"} # é".into(),
        state: SinkState::Failing,
        since: String::new(),
        queued: 5,
        delivered: 6,
        dropped: Dropped { full: 7, rejected: 0, closing: 0 },
        last_error: Some("not told".into()),
    };
    let tally = Tally::default();
    tally.latency().observe(std::time::Duration::from_micros(80));
    let process = OwnUse {
        cpu_seconds: 0.25,
        start_seconds: 1_795_000_000.5,
        resident_bytes: 1 << 20,
        virtual_bytes: 1 << 30,
        threads: 9,
        open_fds: 30,
        max_fds: Some(1024),
    };
    let own = Own {
        version: "0.1.0",
        reexecs: 1,
        missed_events: 11,
        decisions: tally.latency().read(),
        sinks: vec![sink],
        process: Some(process),
        ..Own::default()
    };
    Scrape { workers: vec![busy, row("web-2")], own }
}

#[test]
fn what_prometheus_reads() {
    insta::assert_snapshot!(whole(Exposition::Text, sample()));
}

#[test]
fn openmetrics_differs_in_what_it_says_of_a_family_and_in_its_end() {
    let (text, open) = (whole(Exposition::Text, sample()), whole(Exposition::OpenMetrics, sample()));
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    // Each writes real numbers, and with them the bounds of buckets, in its own way.
    let keys = |told: &str| -> Vec<String> {
        let series = told.lines().filter(|line| !line.starts_with('#'));
        let mut keys: Vec<_> =
            series.map(|line| line.rsplit_once(' ').unwrap().0.split("le=").next().unwrap().to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&open), keys(&text));
    assert!(open.contains(
        "# TYPE pinfold_worker_cpu_usage_seconds counter\n# UNIT pinfold_worker_cpu_usage_seconds seconds\n"
    ));
    assert!(open.contains("# TYPE pinfold_build info\n"));
}

#[test]
fn what_is_hostile_in_a_label_stays_in_it() {
    for format in [Exposition::Text, Exposition::OpenMetrics] {
        let told = whole(format, sample());
        let line = "pinfold_history_queued_events{sink=\"jsonl /tmp/a \\\"b\\\"\\\\c\\nd{e=\\\"f\\\"} # é\"} 5";
        assert!(told.lines().any(|told| told == line), "{told}");
    }
}

#[test]
fn no_series_is_told_twice_and_every_name_keeps_the_rules() {
    let told = whole(Exposition::Text, sample());
    let mut seen = BTreeSet::new();
    for line in told.lines().filter(|line| !line.starts_with('#')) {
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line}");
    }
    let mut names = BTreeSet::new();
    for family in families() {
        let name = family.full_name();
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert!(name.starts_with("pinfold_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        // One of the formats would have it escaped, and its encoder does not.
        assert!(!family.help.contains(['"', '\\', '\n']) && family.help.ends_with('.'), "{name}: {}", family.help);
        assert!(told.contains(&format!("# TYPE {name} ")), "{name}");
        let counter = matches!(family.kind, Kind::Counter);
        assert_eq!(name.ends_with("_total"), counter, "{name}");
    }
}

#[test]
fn who_is_not_there_has_no_series() {
    let told = whole(Exposition::Text, Scrape { workers: vec![row("web-2")], ..sample() });
    assert!(told.contains("web-2") && !told.contains("web-1"));
    assert!(!whole(Exposition::Text, Scrape { workers: Vec::new(), ..sample() }).contains("worker=\""));
}

#[test]
fn openmetrics_is_for_whoever_names_it_and_likes_nothing_better() {
    let v2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
              text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let v3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
              application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
              text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let (text, open) = (Exposition::Text, Exposition::OpenMetrics);
    for (accept, wanted) in [
        (v2, open),
        (v3, open),
        (protobuf, text),
        ("", text),
        ("*/*", text),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", text),
        ("Application/OpenMetrics-Text; Version=\"1.0.0\"", open),
        ("application/openmetrics-text", open),
        ("application/openmetrics-text;q=0", text),
        ("application/openmetrics-text;q=x", text),
        ("application/openmetrics-text;q=7", text),
        ("application/openmetrics-text;version=2.0.0", text),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.9", text),
        ("application/openmetrics-text;q=0.5,text/*;q=0.4", open),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.5", open),
        (";;;,,,\"application/openmetrics-text", text),
        ("application/json", text),
    ] {
        assert_eq!(Exposition::wanted(accept), wanted, "{accept}");
    }
}
