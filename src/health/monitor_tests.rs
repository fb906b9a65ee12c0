use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::spec::types::ProbeAction;
use Finding::{Failed, Passed, Untried};
use ProbeKind::{Liveness, Readiness, Startup};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn probe(period: u64, failure_threshold: u32) -> Probe {
    Probe {
        action: ProbeAction::TcpSocket { host: "127.0.0.1".into(), port: 1 },
        initial_delay: Duration::ZERO,
        period: secs(period),
        timeout: secs(1),
        failure_threshold,
        success_threshold: 1,
    }
}

fn check(startup: Option<Probe>, liveness: Option<Probe>, readiness: Option<Probe>) -> Arc<HealthCheck> {
    Arc::new(HealthCheck { startup, liveness, readiness })
}

const BEGIN: Mono = Mono(Duration::from_secs(1000));

/// Goes through `outcomes`, each of which takes `length` and is answered by `verdict` where it is told. The tries as
/// `second kind`, with what was told of each behind it.
fn story(check: &Arc<HealthCheck>, length: Duration, verdict: &HealthVerdict, outcomes: &[Finding]) -> Vec<String> {
    let mut monitor = Monitor::new(check, BEGIN);
    let mut now = BEGIN;
    let mut lines = Vec::new();
    for finding in outcomes {
        let Some(due) = monitor.next() else { break };
        now = now.max(due.at);
        let mut line = format!("{} {}", now.since(BEGIN).as_secs(), due.kind);
        monitor.begin(due.kind, now);
        now = now + length;
        let outcome = Outcome { finding: *finding, observed: "seen".into() };
        if let Some(report) = monitor.end(due.kind, outcome, now) {
            assert_eq!((report.probe(), report.observed()), (due.kind, "seen"));
            line += match report {
                HealthReport::Started { .. } => ": started",
                HealthReport::Alive { .. } => ": alive",
                HealthReport::Failed { .. } => ": failed",
                HealthReport::Ready { .. } => ": ready",
                HealthReport::Unready { .. } => ": unready",
                HealthReport::Untried { .. } => ": untried",
            };
            let failed = matches!(report, HealthReport::Failed { .. });
            monitor.answered(due.kind, if failed { verdict } else { &HealthVerdict::Noted });
        }
        lines.push(line);
    }
    lines
}

fn told(check: &Arc<HealthCheck>, verdict: &HealthVerdict, outcomes: &[Finding]) -> Vec<String> {
    let lines = story(check, Duration::ZERO, verdict, outcomes);
    lines.into_iter().map(|line| line.split_once(": ").map_or_else(String::new, |(_, told)| told.to_owned())).collect()
}

const RESTARTING: HealthVerdict = HealthVerdict::Restarting;
const MUTED: HealthVerdict = HealthVerdict::Muted;

#[test]
fn liveness_fails_at_the_threshold_of_failures_in_a_row() {
    let check = check(None, Some(probe(10, 3)), None);
    let outcomes = [Passed, Failed, Failed, Passed, Failed, Failed, Failed];
    assert_eq!(told(&check, &RESTARTING, &outcomes), ["alive", "", "", "", "", "", "failed"]);
}

#[test]
fn a_failure_that_is_answered_by_a_restart_is_told_once_and_its_recovery_too() {
    let check = check(None, Some(probe(10, 2)), None);
    let outcomes = [Failed, Failed, Failed, Failed, Failed, Passed, Passed, Failed, Failed];
    assert_eq!(told(&check, &RESTARTING, &outcomes), ["", "failed", "", "", "", "alive", "", "", "failed"]);
}

#[test]
fn a_failure_from_which_nothing_follows_is_told_again_after_as_many_more() {
    let check = check(None, Some(probe(10, 2)), None);
    let outcomes = [Failed, Failed, Failed, Failed, Failed, Passed, Failed, Failed];
    for verdict in [MUTED, HealthVerdict::Refused("the breaker is open".into())] {
        assert_eq!(told(&check, &verdict, &outcomes), ["", "failed", "", "failed", "", "alive", "", "failed"]);
    }
}

#[test]
fn readiness_is_told_when_it_changes_and_at_its_own_thresholds() {
    let readiness = Probe { success_threshold: 2, ..probe(10, 3) };
    let check = check(None, None, Some(readiness));
    let outcomes = [Passed, Failed, Passed, Passed, Passed, Failed, Failed, Passed, Failed, Failed, Failed, Failed];
    let expected = ["", "", "", "ready", "", "", "", "", "", "", "unready", ""];
    assert_eq!(told(&check, &RESTARTING, &outcomes), expected);
}

#[test]
fn a_worker_that_is_never_ready_is_told_to_be_unready_once() {
    let check = check(None, None, Some(probe(10, 2)));
    assert_eq!(told(&check, &RESTARTING, &[Failed; 6]), ["", "unready", "", "", "", ""]);
}

#[test]
fn a_try_that_could_not_be_made_counts_as_neither_and_many_are_told_once() {
    let check = check(None, Some(probe(10, 2)), None);
    let outcomes = [Failed, Untried, Failed, Untried, Untried, Untried, Untried, Passed, Untried, Untried];
    let expected = ["", "", "failed", "", "untried", "", "", "alive", "", "untried"];
    assert_eq!(told(&check, &MUTED, &outcomes), expected);
}

#[test]
fn until_startup_has_passed_nothing_else_is_tried_and_then_it_is_not() {
    let check = check(Some(probe(1, 3)), Some(probe(10, 3)), Some(probe(10, 3)));
    let outcomes = [Failed, Failed, Passed, Passed, Passed, Failed];
    let expected =
        ["0 startup", "1 startup", "2 startup: started", "2 liveness: alive", "2 readiness: ready", "12 liveness"];
    assert_eq!(story(&check, Duration::ZERO, &RESTARTING, &outcomes), expected);
}

#[test]
fn a_run_of_which_only_the_start_is_probed_is_left_alone_afterwards() {
    let mut monitor = Monitor::new(&check(Some(probe(1, 1)), None, None), BEGIN);
    assert_eq!(monitor.next(), Some(Due { kind: Startup, at: BEGIN }));
    let report = monitor.end(Startup, Outcome::passed("up"), BEGIN);
    assert_eq!(report, Some(HealthReport::Started { observed: "up".into() }));
    assert_eq!(monitor.next(), None);
}

#[test]
fn startup_is_told_to_have_failed_like_liveness() {
    let check = check(Some(probe(1, 2)), Some(probe(10, 3)), None);
    let outcomes = [Failed, Failed, Failed, Failed, Passed, Passed];
    assert_eq!(told(&check, &MUTED, &outcomes), ["", "failed", "", "failed", "started", "alive"]);
    assert_eq!(told(&check, &RESTARTING, &outcomes), ["", "failed", "", "", "started", "alive"]);
}

#[test]
fn initial_delays_run_from_the_programs_start_or_from_the_success_of_startup() {
    let delayed = |delay, period| Some(Probe { initial_delay: secs(delay), ..probe(period, 3) });
    let without = check(None, delayed(5, 10), delayed(3, 10));
    assert_eq!(
        story(&without, Duration::ZERO, &RESTARTING, &[Passed; 4]),
        ["3 readiness: ready", "5 liveness: alive", "13 readiness", "15 liveness"]
    );
    let with = check(delayed(2, 4), delayed(5, 10), delayed(3, 10));
    assert_eq!(
        story(&with, Duration::ZERO, &RESTARTING, &[Failed, Passed, Passed, Passed]),
        ["2 startup", "6 startup: started", "9 readiness: ready", "11 liveness: alive"]
    );
}

#[test]
fn periods_run_from_begin_to_begin_and_what_takes_longer_is_followed_at_once() {
    let check = check(None, Some(probe(10, 3)), None);
    let at = |length| story(&check, secs(length), &RESTARTING, &[Passed; 3]);
    assert_eq!(at(4), ["0 liveness: alive", "10 liveness", "20 liveness"]);
    assert_eq!(at(15), ["0 liveness: alive", "15 liveness", "30 liveness"]);
}

#[test]
fn of_two_probes_that_keep_each_other_waiting_neither_starves() {
    let check = check(None, Some(probe(1, 3)), Some(probe(1, 3)));
    let lines = story(&check, secs(5), &RESTARTING, &[Passed; 6]);
    let kinds: Vec<_> = lines.iter().map(|line| line.split([' ', ':']).nth(1).unwrap()).collect();
    assert_eq!(kinds, ["liveness", "readiness", "liveness", "readiness", "liveness", "readiness"]);
}

#[test]
fn a_run_that_was_there_before_its_monitor_is_probed_at_once() {
    let liveness = Probe { initial_delay: secs(30), ..probe(10, 3) };
    let monitor = Monitor::new(&check(None, Some(liveness), None), Mono(secs(10)));
    assert!(monitor.next().is_some_and(|due| due.at < BEGIN), "its delay passed long ago");
}

fn finding() -> impl Strategy<Value = Finding> {
    prop_oneof![Just(Passed), Just(Failed), Just(Untried)]
}

proptest! {
    /// Against the rule as it is written down: a failure is told exactly where the last `threshold` tries that were
    /// made failed since the last time it was told, or since the last success.
    #[test]
    fn nobody_is_told_to_have_failed_before_the_threshold(
        threshold in 1_u32..5,
        outcomes in proptest::collection::vec(finding(), 0..60),
    ) {
        let check = check(None, Some(probe(1, threshold)), None);
        let mut in_a_row = 0;
        for (finding, told) in outcomes.iter().zip(told(&check, &MUTED, &outcomes)) {
            match finding {
                Passed => in_a_row = 0,
                Failed => in_a_row += 1,
                Untried => {}
            }
            let due = *finding == Failed && in_a_row == threshold;
            prop_assert_eq!(told == "failed", due);
            if due {
                in_a_row = 0;
            }
        }
    }

    /// Readiness alternates: nobody hears twice in a row what he knows already.
    #[test]
    fn readiness_is_told_as_a_change_only(
        thresholds in (1_u32..4, 1_u32..4),
        outcomes in proptest::collection::vec(finding(), 0..60),
    ) {
        let readiness = Probe { success_threshold: thresholds.1, ..probe(1, thresholds.0) };
        let check = check(None, None, Some(readiness));
        let mut changes = told(&check, &MUTED, &outcomes);
        changes.retain(|told| !told.is_empty() && told != "untried");
        prop_assert!(changes.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", changes);
    }

    /// Whatever comes, the next try of each probe is never more than a period after the end of what kept it waiting.
    #[test]
    fn no_probe_is_forgotten(lengths in proptest::collection::vec(0_u64..4, 1..40)) {
        let check = check(None, Some(probe(2, 3)), Some(probe(3, 3)));
        let mut monitor = Monitor::new(&check, BEGIN);
        let mut now = BEGIN;
        let mut last = [(Liveness, BEGIN), (Readiness, BEGIN)];
        for length in lengths {
            let due = monitor.next().unwrap();
            now = now.max(due.at);
            monitor.begin(due.kind, now);
            for (kind, begun) in &mut last {
                if *kind == due.kind {
                    *begun = now;
                }
                prop_assert!(now.since(*begun) <= secs(3 + 2 * 4), "{} waits", kind);
            }
            now = now + secs(length);
            let told = monitor.end(due.kind, Outcome::passed(""), now);
            prop_assert!(told.is_none_or(|report| report.probe() == due.kind));
        }
    }
}
