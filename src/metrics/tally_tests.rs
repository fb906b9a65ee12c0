use proptest::prelude::*;

use super::*;
use crate::model::{Confidence, Counters, Evidence, KilledBy, Limit, OomScope, Stage, UnknownWhy};

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn event(worker: &str, run: u32, kind: EventKind) -> Event {
    Event { v: 1, epoch: 1, seq: 1, time: String::new(), mono_ns: 0, worker: Some(id(worker)), run: Some(run), kind }
}

fn exited(cause: ExitCause) -> EventKind {
    let counters = Counters::default();
    let evidence = Evidence {
        status: None,
        before: counters,
        after: counters,
        usage: None,
        asked_by: None,
        above: None,
        start_error: None,
        wall_ms: 0,
    };
    EventKind::Exited { cause, confidence: Confidence::Certain, evidence: Box::new(evidence) }
}

fn cpu(usec: u64) -> Usage {
    Usage { cpu_usec: Some(usec), ..Usage::default() }
}

fn told(tally: &Tally, worker: &str, living: Option<(u32, u64)>) -> Counts {
    tally.read([(&id(worker), living.map(|(run, usec)| (run, cpu(usec))))])[0]
}

#[test]
fn every_cause_has_a_place_of_its_own() {
    let causes = [
        ExitCause::Exited { code: 3 },
        ExitCause::Signaled { signal: 11, core: true },
        ExitCause::Oom { scope: OomScope::Host },
        ExitCause::Killed { by: KilledBy::Stop, policy: None },
        ExitCause::KilledExternal,
        ExitCause::StartFailed { stage: Stage::Exec, errno: 2 },
        ExitCause::Unknown { why: UnknownWhy::HostRebooted },
    ];
    assert_eq!(causes.each_ref().map(ExitCause::word), CAUSES);
}

#[test]
fn the_words_are_those_of_the_events() {
    let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    for (trigger, known) in TRIGGERS {
        assert_eq!(word(serde_json::to_value(trigger).unwrap()), known);
    }
    for (verdict, known) in VERDICTS {
        assert_eq!(word(serde_json::to_value(verdict).unwrap()), known);
    }
    for limit in Limit::ALL {
        assert!(RESOURCES.contains(&limit.resource()), "{limit}");
    }
}

#[test]
fn each_event_is_counted_once_and_for_its_worker() {
    let tally = Tally::default();
    let violation = EventKind::Violation {
        resource: "pids".into(),
        limit: Limit::PidsMax,
        severity: "critical".into(),
        observed: String::new(),
        configured: String::new(),
        counters: Counters::default(),
    };
    let dropped = |bytes| EventKind::LogDropped { stream: Stream::Stderr, why: "full".into(), bytes };
    let health = |healthy| EventKind::Health { probe: "liveness".into(), healthy, observed: String::new() };
    let oom = ExitCause::Oom { scope: OomScope::Worker };
    for kind in
        [exited(oom.clone()), exited(oom), violation, dropped(None), dropped(Some(7)), health(false), health(true)]
    {
        tally.note(&event("a", 1, kind));
    }
    let counts = told(&tally, "a", None);
    assert_eq!(counts.exits, [0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(counts.violations, [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]);
    assert_eq!((counts.log_drops, counts.log_dropped_bytes), ([0, 1], [0, 7]));
    assert_eq!(counts.health_failures, [0, 1, 0], "what passes again is no failure");
    assert_eq!(told(&tally, "b", None), Counts::default());
    let kinds = tally.overall().events;
    let of = |word| kinds[EventKind::WORDS.iter().position(|known| *known == word).unwrap()];
    assert_eq!((of("exited"), of("violation"), of("log_dropped"), of("state")), (2, 1, 2, 0));
}

#[test]
fn what_ended_runs_have_used_is_added_to_what_the_living_one_has() {
    let tally = Tally::default();
    assert_eq!(told(&tally, "a", Some((1, 10))).used.get(Total::CpuUsec), Some(10));
    tally.note(&event("a", 1, EventKind::Usage { usage: cpu(15) }));
    assert_eq!(told(&tally, "a", None).used.get(Total::CpuUsec), Some(15), "its last word counts, once");
    assert_eq!(
        told(&tally, "a", Some((1, 15))).used.get(Total::CpuUsec),
        Some(15),
        "it was read before its last word came"
    );
    assert_eq!(told(&tally, "a", Some((2, 1))).used.get(Total::CpuUsec), Some(16));
    assert_eq!(
        told(&tally, "a", None).used.get(Total::CpuUsec),
        Some(16),
        "what could not be read this time is as it was"
    );
    assert_eq!(told(&tally, "a", None).used.get(Total::ReadBytes), None, "what the kernel does not tell is absent");
}

#[test]
fn a_name_that_another_has_now_is_counted_on_though_its_runs_begin_anew() {
    let tally = Tally::default();
    tally.note(&event("a", 9, EventKind::Usage { usage: cpu(5) }));
    tally.note(&event("a", 1, EventKind::Started { pid: 1 }));
    assert_eq!(told(&tally, "a", Some((1, 2))).used.get(Total::CpuUsec), Some(7));
}

#[test]
fn who_is_not_there_any_more_is_forgotten() {
    let tally = Tally::default();
    for worker in ["a", "b"] {
        tally.note(&event(worker, 1, exited(ExitCause::KilledExternal)));
    }
    tally.forget(|worker| worker.as_str() == "b");
    assert_eq!((tally.len(), told(&tally, "a", None).exits[4], told(&tally, "b", None).exits[4]), (1, 0, 1));
}

proptest! {
    /// Runs that use something, scrapes in between, last words that come late, or never.
    #[test]
    fn a_counter_never_goes_back_and_never_tells_more_than_was_used(
        steps in proptest::collection::vec((0_u8..5, 0_u64..100), 1..60)
    ) {
        let tally = Tally::default();
        let (mut run, mut living, mut over) = (1_u32, 0_u64, 0_u64);
        let mut late: Vec<(u32, u64)> = Vec::new();
        let mut last = 0;
        let mut in_time = true;
        for (step, n) in steps {
            match step {
                0 => living += n,
                // The run ends; its last word is on its way, or will never come.
                1 => {
                    if n % 4 == 0 { in_time = false } else { late.push((run, living)) }
                    over += living;
                    living = 0;
                    run += 1;
                }
                2 if !late.is_empty() => {
                    let (run, usec) = late.remove(0);
                    tally.note(&event("a", run, EventKind::Usage { usage: cpu(usec) }));
                }
                _ => {
                    in_time &= late.is_empty();
                    let now = told(&tally, "a", Some((run, living))).used.get(Total::CpuUsec).unwrap_or(0);
                    prop_assert!(now >= last, "{now} after {last}");
                    prop_assert!(now <= over + living, "{now} of {}", over + living);
                    prop_assert!(!in_time || now == over + living, "{now} of {}", over + living);
                    last = now;
                }
            }
        }
    }
}

#[test]
fn ten_thousand_workers_are_counted_in_a_few_megabytes() {
    assert!(size_of::<Entry>() <= 400, "{}", size_of::<Entry>());
    assert!(size_of::<super::super::Row>() <= 520, "{}", size_of::<super::super::Row>());
}
