use std::collections::BTreeMap;

use super::*;
use crate::policy::restart::{BudgetOverride, Profile};

/// What it does over rows of random events.
#[path = "breaker_rows_tests.rs"]
mod rows;

use Class::{Exit, Health, Violation};
use Severity::{Critical, Emergency, Warning};

fn secs(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

fn at(n: f64) -> Mono {
    Mono(secs(n))
}

fn plain() -> RestartPolicy {
    RestartPolicy { jitter: 0.0, ..Default::default() }
}

/// A request for a run that began at `began` s and is dead.
fn dead(class: Class, began: f64) -> Request {
    Request { class, severity: Critical, began: at(began), alive_since: None }
}

/// A request in a run whose program began at `since` s and lives.
fn living(class: Class, since: f64) -> Request {
    Request { class, severity: Critical, began: at(since), alive_since: Some(at(since)) }
}

/// Asks for the exit class at `now` s, after a run that died when it began.
fn crash(breaker: &mut Breaker, policy: &RestartPolicy, now: f64) -> Admission {
    assert_eq!(breaker.ended(policy, Some(Duration::ZERO), false, at(now)), []);
    breaker.request(policy, dead(Exit, now), at(now), 0.5)
}

/// A breaker whose exit class opened at 0 s.
fn opened(policy: &RestartPolicy) -> Breaker {
    let mut breaker = Breaker::default();
    let once = RestartPolicy { max_retries: 1, retry_delay: Duration::ZERO, ..policy.clone() };
    assert!(matches!(crash(&mut breaker, &once, 0.0), Admission::Admitted { .. }));
    breaker.began();
    assert!(matches!(crash(&mut breaker, &once, 0.0), Admission::Opens { .. }));
    breaker
}

/// The same, with the trial admitted at `now` s.
fn on_trial(policy: &RestartPolicy, now: f64) -> Breaker {
    let mut breaker = opened(policy);
    assert_eq!(states(&breaker.tick(policy, None, at(now))), [(Exit, BreakerState::HalfOpen)]);
    let trial = Admission::Admitted { due: at(now), attempt: 1, max: Some(1) };
    assert_eq!(breaker.request(policy, dead(Exit, 0.0), at(now), 0.5), trial);
    breaker
}

fn states(changes: &[Change]) -> Vec<(Class, BreakerState)> {
    changes.iter().map(|change| (change.class, change.state)).collect()
}

/// The budget of a class, as the gaps between starts of runs that die at birth; then it has to open.
fn spend(policy: &RestartPolicy, class: Class, severity: Severity) -> (u32, Vec<f64>) {
    let (mut breaker, mut now, mut gaps) = (Breaker::default(), 1000.0, Vec::new());
    loop {
        let request = Request { class, severity, began: at(now), alive_since: None };
        match breaker.request(policy, request, at(now), 0.5) {
            Admission::Admitted { due, attempt, .. } => {
                gaps.push(due.0.as_secs_f64() - now);
                now = due.0.as_secs_f64();
                assert_eq!(usize::try_from(attempt), Ok(gaps.len()));
                breaker.began();
            }
            Admission::Opens { attempts, .. } => return (attempts, gaps),
            other => panic!("neither admitted nor opened: {other:?}"),
        }
    }
}

#[test]
fn the_vectors_of_the_design() {
    struct Row(u32, f64, f64, Severity, Profile, u32, &'static [f64]);
    for Row(max, delay, rate, severity, profile, budget, expected) in [
        Row(3, 5.0, 1.5, Critical, Profile::Web, 3, &[5.0, 7.5, 11.25]),
        Row(5, 10.0, 1.5, Critical, Profile::Web, 5, &[10.0, 15.0, 22.5, 33.75, 50.625]),
        Row(5, 10.0, 1.5, Critical, Profile::Batch, 15, &[30.0, 45.0, 67.5]),
        Row(3, 5.0, 1.5, Critical, Profile::Scheduler, 7, &[12.5, 18.75]),
        Row(1, 1.0, 1.5, Warning, Profile::Web, 1, &[1.0]),
    ] {
        let policy = RestartPolicy {
            max_retries: max,
            retry_delay: secs(delay),
            backoff_rate: rate,
            max_delay: secs(1e6),
            profile,
            ..plain()
        };
        let (made, gaps) = spend(&policy, Exit, severity);
        assert_eq!(made, budget, "{profile:?}: so many succeed, one more opens");
        for (k, expected) in expected.iter().enumerate() {
            assert!((gaps[k] - expected).abs() < 1e-6, "{profile:?}: attempt {k} after {} s, not {expected}", gaps[k]);
        }
    }
}

#[test]
fn each_class_has_a_budget_of_its_own() {
    let own = BudgetOverride {
        max_retries: Some(4),
        retry_delay: Some(secs(2.0)),
        backoff_rate: Some(3.0),
        max_delay: Some(secs(15.0)),
    };
    let default = plain();
    let all = RestartPolicy { health_failures: own, resource_violations: own, ..plain() };
    let rate = RestartPolicy { backoff_rate: 2.0, ..plain() };
    let some = BudgetOverride { max_retries: Some(1), ..Default::default() };
    let some = RestartPolicy { resource_violations: some, ..plain() };
    for (policy, class, expected) in [
        (&default, Exit, &[5.0, 7.5, 11.25][..]),
        (&default, Health, &[5.0, 7.5, 11.25]),
        (&default, Violation, &[10.0, 15.0, 22.5, 33.75, 50.625]),
        (&all, Exit, &[5.0, 7.5, 11.25]),
        (&all, Health, &[2.0, 6.0, 15.0, 15.0]),
        (&all, Violation, &[2.0, 6.0, 15.0, 15.0]),
        (&rate, Violation, &[10.0, 20.0, 40.0, 80.0, 160.0]),
        (&some, Violation, &[10.0]),
    ] {
        let (_, gaps) = spend(policy, class, Critical);
        assert_eq!(gaps.len(), expected.len(), "{class:?}: {gaps:?}");
        assert!(gaps.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{class:?}: {gaps:?}");
    }
}

#[test]
fn a_factor_of_the_policy_goes_before_the_built_in_one() {
    let named = |name: &str, factor| BTreeMap::from([(name.to_owned(), factor)]);
    let count = |policy: &RestartPolicy, severity| spend(policy, Exit, severity).0;
    let policy = RestartPolicy { max_retries: 10, max_delay: secs(1.0), ..plain() };
    assert_eq!([Warning, Critical, Emergency].map(|severity| count(&policy, severity)), [5, 10, 20]);
    let profiles =
        [Profile::Batch, Profile::Web, Profile::Database, Profile::Worker, Profile::Scheduler, Profile::Default];
    let counts = profiles.map(|profile| count(&RestartPolicy { profile, ..policy.clone() }, Critical));
    assert_eq!(counts, [30, 10, 50, 20, 25, 10]);
    let severity = RestartPolicy { severity_multipliers: named("warning", 0.3), ..policy.clone() };
    assert_eq!([Warning, Critical].map(|s| count(&severity, s)), [3, 10], "only the one that is named");
    for profile in profiles {
        let policy = RestartPolicy { profile, profile_multipliers: named(profile.as_str(), 0.2), ..policy.clone() };
        assert_eq!(count(&policy, Critical), 2, "{profile:?}");
        assert_eq!(count(&policy, Emergency), 4, "{profile:?}: the two are multiplied");
    }
}

#[test]
fn a_budget_is_a_whole_number_of_at_least_one() {
    let max = |max_retries, factor| {
        let policy = RestartPolicy {
            max_retries,
            profile_multipliers: BTreeMap::from([("default".to_owned(), factor)]),
            ..plain()
        };
        budget::Budget::of(&policy, Exit, Critical).max
    };
    assert_eq!(max(3, 0.99), Some(2), "cut off, not rounded");
    assert_eq!(max(1, 0.001), Some(1), "not 0, which would be without end");
    assert_eq!(max(100, 0.29), Some(29), "as it is written, though 100 · 0.29 is 28.999999999999996 in binary");
    assert_eq!(max(1_000_000, 1000.0), Some(1_000_000_000));
    assert_eq!(max(u32::MAX, 1000.0), Some(u32::MAX));
    assert_eq!(max(3, f64::NAN), Some(1));
    assert_eq!(max(0, 1000.0), None, "0 is without end and stays so");
}

#[test]
fn zero_retries_are_without_end_in_every_class() {
    let policy = RestartPolicy { max_retries: 0, ..plain() };
    for class in Class::ALL {
        let mut breaker = Breaker::default();
        for attempt in 1..=100 {
            let answer = breaker.request(&policy, dead(class, 0.0), at(0.0), 0.5);
            assert!(matches!(answer, Admission::Admitted { attempt: a, max: None, .. } if a == attempt), "{answer:?}");
        }
    }
}

#[test]
fn a_delay_is_at_least_a_second_unless_it_is_none() {
    let first = |retry_delay: f64, max_delay: f64| {
        let policy = RestartPolicy { retry_delay: secs(retry_delay), max_delay: secs(max_delay), ..plain() };
        spend(&policy, Exit, Warning).1[0]
    };
    assert!((first(0.1, 300.0) - 1.0).abs() < 1e-6);
    assert!((first(3.0, 300.0) - 1.5).abs() < 1e-6);
    assert!((first(0.1, 0.2) - 0.2).abs() < 1e-6, "the cap is what somebody wrote, the floor is not");
    assert!(first(0.0, 300.0).abs() < 1e-6, "0 is meant");
    let endless = BTreeMap::from([("warning".to_owned(), f64::INFINITY)]);
    let policy = RestartPolicy { max_retries: 0, severity_multipliers: endless, ..plain() };
    let request = Request { severity: Warning, ..dead(Exit, 0.0) };
    let answer = Breaker::default().request(&policy, request, at(0.0), 0.5);
    assert_eq!(
        answer,
        Admission::Admitted { due: at(300.0), attempt: 1, max: None },
        "what is no duration is the longest"
    );
}

#[test]
fn what_is_due_in_the_past_is_due_now() {
    let mut breaker = Breaker::default();
    let policy = plain();
    let due = |answer| match answer {
        Admission::Admitted { due, .. } => due,
        other => panic!("{other:?}"),
    };
    assert_eq!(due(breaker.request(&policy, living(Health, 10.0), at(300.0), 0.5)), at(300.0), "5 s after 10 s");
    breaker.began();
    let second = due(breaker.request(&policy, living(Health, 302.0), at(303.0), 0.5));
    assert_eq!(second, at(307.5), "7.5 s after the one at 300 s, whenever its program began");
}

#[test]
fn severities_share_one_count() {
    let policy =
        RestartPolicy { resource_violations: BudgetOverride { max_retries: Some(4), ..Default::default() }, ..plain() };
    let mut breaker = Breaker::default();
    let mut ask = |severity| breaker.request(&policy, Request { severity, ..dead(Violation, 0.0) }, at(0.0), 0.5);
    assert!(matches!(ask(Critical), Admission::Admitted { attempt: 1, max: Some(4), .. }));
    assert!(matches!(ask(Warning), Admission::Admitted { attempt: 2, max: Some(2), .. }));
    assert!(matches!(ask(Critical), Admission::Admitted { attempt: 3, max: Some(4), .. }));
    assert!(matches!(ask(Warning), Admission::Opens { attempts: 3, .. }), "a warning's two are used");
}

#[test]
fn a_young_run_is_spared_health_and_violation_restarts() {
    let policy = RestartPolicy { startup_grace_period: secs(30.0), ..plain() };
    for class in [Health, Violation] {
        let mut breaker = Breaker::default();
        let muted = breaker.request(&policy, living(class, 100.0), at(129.9), 0.5);
        assert_eq!(muted, Admission::Muted { until: at(130.0) });
        assert_eq!(breaker, Breaker::default(), "not counted");
        assert!(matches!(breaker.request(&policy, living(class, 100.0), at(130.0), 0.5), Admission::Admitted { .. }));
        let dead = breaker.request(&policy, dead(class, 131.0), at(131.0), 0.5);
        assert!(matches!(dead, Admission::Admitted { .. }), "a dead worker is not delayed: {dead:?}");
    }
    let exit = Breaker::default().request(&policy, living(Exit, 100.0), at(100.0), 0.5);
    assert!(matches!(exit, Admission::Admitted { .. }));
}

#[test]
fn an_open_class_admits_one_trial_after_its_cooldown() {
    let policy = plain();
    let mut breaker = opened(&policy);
    assert_eq!(breaker.deadline(&policy, None), Some(at(300.0)));
    assert_eq!(crash(&mut breaker, &policy, 299.9), Admission::Refused { until: Some(at(300.0)) });
    let changes = breaker.tick(&policy, None, at(300.0));
    assert_eq!(states(&changes), [(Exit, BreakerState::HalfOpen)]);
    assert!(!breaker.is_open(Exit));
    assert_eq!(breaker.deadline(&policy, None), None, "nothing to wait for while nothing runs");
    let trial = Admission::Admitted { due: at(301.0), attempt: 1, max: Some(1) };
    assert_eq!(breaker.request(&policy, dead(Exit, 0.0), at(301.0), 0.5), trial, "at once");
}

#[test]
fn a_trial_that_lives_to_its_deadline_closes_the_class() {
    for (cooldown, reset_after, deadline) in [(300.0, 600.0, 300.0), (300.0, 60.0, 60.0)] {
        let policy = RestartPolicy { cooldown: Some(secs(cooldown)), reset_after: secs(reset_after), ..plain() };
        let mut breaker = on_trial(&policy, 300.0);
        breaker.began();
        let alive = Some(at(302.0));
        assert_eq!(breaker.deadline(&policy, alive), Some(at(302.0 + deadline)));
        assert_eq!(breaker.tick(&policy, alive, at(301.9 + deadline)), []);
        assert_eq!(states(&breaker.tick(&policy, alive, at(302.0 + deadline))), [(Exit, BreakerState::Closed)]);
        assert_eq!(breaker, Breaker::default(), "and its count is 0");
    }
}

#[test]
fn a_trial_that_ends_well_closes_the_class() {
    let policy = plain();
    let mut breaker = on_trial(&policy, 300.0);
    breaker.began();
    assert_eq!(states(&breaker.ended(&policy, Some(secs(1.0)), true, at(302.0))), [(Exit, BreakerState::Closed)]);
    assert_eq!(breaker, Breaker::default());
}

#[test]
fn a_trial_that_fails_opens_the_class_again() {
    let policy = plain();
    let mut breaker = on_trial(&policy, 300.0);
    breaker.began();
    assert_eq!(crash(&mut breaker, &policy, 310.0), Admission::Opens { until: Some(at(610.0)), attempts: 1 });
    let mut unborn = on_trial(&policy, 300.0);
    assert_eq!(unborn.ended(&policy, None, false, at(301.0)), [], "its program could not be executed");
    let answer = unborn.request(&policy, dead(Exit, 300.0), at(301.0), 0.5);
    assert_eq!(answer, Admission::Opens { until: Some(at(601.0)), attempts: 1 });
}

#[test]
fn a_trial_without_a_run_fails_in_the_end() {
    let policy = plain();
    let mut breaker = on_trial(&policy, 1000.0);
    let end = 1000.0 + 120.0 + 300.0;
    assert_eq!(breaker.deadline(&policy, None), Some(at(end)));
    assert_eq!(breaker.tick(&policy, None, at(end - 0.1)), []);
    assert_eq!(breaker.ended(&policy, None, false, at(end - 0.1)), []);
    assert_eq!(breaker.deadline(&policy, None), Some(at(end)), "spawn faults do not draw it out");
    let changes = breaker.tick(&policy, None, at(end));
    assert_eq!(states(&changes), [(Exit, BreakerState::Open)]);
    assert_eq!(changes[0].until, Some(at(end + 300.0)));
}

#[test]
fn a_slow_stop_of_the_run_to_be_replaced_does_not_fail_the_trial() {
    let policy = RestartPolicy {
        max_retries: 1,
        resource_violations: BudgetOverride { max_retries: Some(1), ..Default::default() },
        ..plain()
    };
    let mut breaker = Breaker::default();
    let alive = Some(at(0.0));
    assert!(matches!(breaker.request(&policy, living(Violation, 0.0), at(1.0), 0.5), Admission::Admitted { .. }));
    breaker.began();
    assert!(matches!(breaker.request(&policy, living(Violation, 0.0), at(1.0), 0.5), Admission::Opens { .. }));
    assert_eq!(states(&breaker.tick(&policy, alive, at(301.0))), [(Violation, BreakerState::HalfOpen)]);
    assert!(matches!(breaker.request(&policy, living(Violation, 0.0), at(310.0), 0.5), Admission::Admitted { .. }));
    assert_eq!(breaker.deadline(&policy, alive), None, "the stop has a time limit of its own");
    assert_eq!(breaker.tick(&policy, alive, at(5000.0)), []);
    assert_eq!(breaker.ended(&policy, Some(secs(5000.0)), true, at(5000.0)), [], "its end says nothing of the trial");
    assert_eq!(breaker.deadline(&policy, None), Some(at(5000.0 + 120.0 + 300.0)));
    breaker.began();
    let next = breaker.request(&policy, living(Violation, 5001.0), at(5002.0), 0.5);
    assert!(matches!(next, Admission::Opens { .. }), "{next:?}");
}

#[test]
fn a_trial_that_ends_for_another_reason_goes_on_in_the_next_run() {
    let policy = plain();
    let mut breaker = on_trial(&policy, 300.0);
    breaker.began();
    assert_eq!(breaker.ended(&policy, Some(secs(100.0)), false, at(400.0)), []);
    assert_eq!(breaker.deadline(&policy, None), None, "nothing is tried while nothing runs");
    assert_eq!(breaker.tick(&policy, None, at(9000.0)), [], "and nothing is proved");
    breaker.began();
    let alive = Some(at(9000.0));
    assert_eq!(breaker.tick(&policy, alive, at(9299.9)), [], "it counts from its own begin");
    assert_eq!(states(&breaker.tick(&policy, alive, at(9300.0))), [(Exit, BreakerState::Closed)]);
}

#[test]
fn a_half_open_class_that_is_asked_for_nothing_closes() {
    let policy = plain();
    let mut breaker = opened(&policy);
    // Somebody forced a restart of the worker while the class was open.
    breaker.began();
    let alive = Some(at(50.0));
    assert_eq!(states(&breaker.tick(&policy, alive, at(300.0))), [(Exit, BreakerState::HalfOpen)]);
    assert_eq!(breaker.deadline(&policy, alive), Some(at(600.0)));
    assert_eq!(states(&breaker.tick(&policy, alive, at(600.0))), [(Exit, BreakerState::Closed)]);
    assert_eq!(breaker, Breaker::default());
}

#[test]
fn hold_waits_for_a_person() {
    let policy = RestartPolicy { cooldown: None, ..plain() };
    let mut breaker = opened(&policy);
    assert_eq!(breaker.deadline(&policy, Some(at(0.0))), None);
    assert_eq!(breaker.tick(&policy, Some(at(0.0)), at(1e9)), []);
    assert_eq!(breaker.request(&policy, dead(Exit, 0.0), at(1e9), 0.5), Admission::Refused { until: None });
    assert_eq!(states(&breaker.reset()), [(Exit, BreakerState::Closed)]);
    assert_eq!(breaker, Breaker::default());
    assert_eq!(breaker.reset(), [], "of a closed one there is nothing to tell");
}

#[test]
fn a_recovery_closes_and_zeroes_its_class_alone() {
    let policy = plain();
    let mut breaker = opened(&policy);
    assert!(matches!(breaker.request(&policy, living(Health, 0.0), at(1.0), 0.5), Admission::Admitted { .. }));
    assert_eq!(breaker.recovered(Health), [], "it was not open");
    assert_eq!((breaker.attempts(Health), breaker.attempts(Exit)), (0, 1));
    assert!(breaker.is_open(Exit) && breaker.any_open());
    assert_eq!(states(&breaker.recovered(Exit)), [(Exit, BreakerState::Closed)]);
    assert!(!breaker.any_open());
    assert_eq!(breaker, Breaker::default());
}

#[test]
fn a_stable_run_zeroes_what_was_counted_before_it() {
    let policy = plain();
    let mut breaker = Breaker::default();
    for _ in 0..3 {
        assert!(matches!(crash(&mut breaker, &policy, 0.0), Admission::Admitted { .. }));
    }
    breaker.began();
    let mut ended = breaker.clone();
    let alive = Some(at(20.0));
    assert_eq!(breaker.deadline(&policy, alive), Some(at(620.0)));
    assert_eq!(breaker.tick(&policy, alive, at(619.9)), []);
    assert_eq!(breaker.attempts(Exit), 3);
    assert_eq!(breaker.tick(&policy, alive, at(620.0)), [], "no state changed");
    assert_eq!(breaker, Breaker::default());
    assert_eq!(ended.ended(&policy, Some(secs(600.0)), false, at(700.0)), [], "or nobody looked before it ended");
    let next = ended.request(&policy, dead(Exit, 20.0), at(700.0), 0.5);
    assert_eq!(next, Admission::Admitted { due: at(700.0), attempt: 1, max: Some(3) });
}

#[test]
fn a_stable_run_does_not_zero_the_restart_that_replaces_it() {
    let policy = plain();
    let mut breaker = Breaker::default();
    assert!(matches!(crash(&mut breaker, &policy, 0.0), Admission::Admitted { .. }));
    assert!(matches!(breaker.request(&policy, dead(Health, 0.0), at(0.0), 0.5), Admission::Admitted { .. }));
    breaker.began();
    // Within its first ten minutes it is to be restarted for its health, and its stop outlasts them.
    let alive = Some(at(10.0));
    assert!(matches!(
        breaker.request(&policy, living(Health, 10.0), at(600.0), 0.5),
        Admission::Admitted { attempt: 2, .. }
    ));
    assert_eq!(breaker.tick(&policy, alive, at(620.0)), []);
    assert_eq!((breaker.attempts(Exit), breaker.attempts(Health)), (0, 1));
    assert_eq!(breaker.deadline(&policy, alive), None);
    breaker.withdraw(Health);
    assert_eq!(breaker, Breaker::default());
}

#[test]
fn an_attempt_called_off_is_given_back_once() {
    let policy = plain();
    let mut breaker = Breaker::default();
    assert!(matches!(crash(&mut breaker, &policy, 0.0), Admission::Admitted { .. }));
    breaker.began();
    let before = breaker.clone();
    let first = crash(&mut breaker, &policy, 6.0);
    breaker.withdraw(Exit);
    assert_eq!(breaker, before);
    breaker.withdraw(Exit);
    assert_eq!(breaker, before, "there was nothing more in flight");
    assert_eq!(crash(&mut breaker, &policy, 6.0), first);
    breaker.began();
    breaker.withdraw(Exit);
    assert_eq!(breaker.attempts(Exit), 2, "its program runs: it was made");
}

#[test]
fn a_trial_called_off_is_still_to_be_had() {
    let policy = plain();
    let mut breaker = on_trial(&policy, 300.0);
    breaker.withdraw(Exit);
    assert_eq!(breaker.state(Exit), BreakerState::HalfOpen);
    let trial = Admission::Admitted { due: at(400.0), attempt: 1, max: Some(1) };
    assert_eq!(breaker.request(&policy, dead(Exit, 0.0), at(400.0), 0.5), trial);
}

#[test]
fn a_request_answers_for_its_moment_though_nobody_ticked() {
    let policy = plain();
    let mut breaker = opened(&policy);
    let trial = breaker.request(&policy, dead(Exit, 0.0), at(300.0), 0.5);
    assert_eq!(trial, Admission::Admitted { due: at(300.0), attempt: 1, max: Some(1) });
    breaker.began();
    let late = breaker.request(&policy, living(Exit, 300.0), at(601.0), 0.5);
    assert_eq!(late, Admission::Admitted { due: at(601.0), attempt: 1, max: Some(3) }, "the trial had succeeded");
}

#[test]
fn a_spawn_fault_is_retried_quickly_and_counts_in_no_class() {
    let mut breaker = Breaker::default();
    let faults = |breaker: &mut Breaker, n| -> Vec<u128> {
        (0..n).map(|_| breaker.fault(at(100.0), 0.5).since(at(100.0)).as_millis()).collect()
    };
    assert_eq!(faults(&mut breaker, 9), [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(Class::ALL.map(|class| breaker.attempts(class)), [0, 0, 0]);
    assert_eq!(breaker.ended(&plain(), None, false, at(100.0)), []);
    assert_eq!(faults(&mut breaker, 1), [5000], "until a program begins");
    breaker.began();
    assert_eq!(faults(&mut breaker, 1), [50]);
    assert_eq!(breaker.reset(), []);
    assert_eq!(breaker, Breaker::default(), "or a person wants it anew");
}

#[test]
fn a_clean_exit_waits_the_configured_delay_from_the_begin() {
    let policy = RestartPolicy { profile: Profile::Batch, ..plain() };
    assert_eq!(after_clean_exit(&policy, at(100.0), at(101.0), 0.5), at(105.0), "not multiplied: it is no strike");
    assert_eq!(after_clean_exit(&policy, at(100.0), at(190.0), 0.5), at(190.0));
}

#[test]
fn the_status_names_the_classes_that_were_touched() {
    let policy = plain();
    assert_eq!(Breaker::default().status(&policy), []);
    let mut breaker = opened(&policy);
    assert!(matches!(
        breaker.request(&policy, Request { severity: Warning, ..living(Violation, 0.0) }, at(1.0), 0.5),
        Admission::Admitted { .. }
    ));
    let row = |class, state, max_attempts, until| BreakerStatus { class, state, attempts: 1, max_attempts, until };
    let expected =
        [row(Exit, BreakerState::Open, Some(3), Some(at(300.0))), row(Violation, BreakerState::Closed, Some(2), None)];
    assert_eq!(breaker.status(&policy), expected, "a warning has half of five, cut off");
}

#[test]
fn a_quiet_worker_costs_no_timer_and_little_memory() {
    assert_eq!(Breaker::default().deadline(&plain(), Some(at(5.0))), None);
    assert!(size_of::<Breaker>() <= 256, "{} bytes", size_of::<Breaker>());
}

#[test]
fn what_is_saved_holds_distances_and_reads_back() {
    let policy = plain();
    let mut breaker = opened(&policy);
    assert!(matches!(breaker.request(&policy, living(Health, 10.0), at(12.0), 0.5), Admission::Admitted { .. }));
    breaker.fault(at(12.0), 0.5);
    let saved = breaker.save(at(100.0));
    let json = serde_json::to_value(&saved).unwrap();
    let expected = serde_json::json!({
        "classes": {
            "exit": {
                "phase": {"open": {"until": 200_000_000_000_i64}}, "attempts": 1, "previous": -100_000_000_000_i64,
                "severity": "critical", "in_flight": null
            },
            "health": {
                "phase": "closed", "attempts": 1, "previous": -85_000_000_000_i64,
                "severity": "critical", "in_flight": {"previous": null, "severity": "critical"}
            }
        },
        "spawn_faults": 1
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<Saved>(json).unwrap(), saved);
    let bytes = rmp_serde::to_vec_named(&saved).unwrap();
    assert!(bytes.len() < 512, "it shares the 4 KiB of a run's record: {} bytes", bytes.len());
    assert_eq!(rmp_serde::from_slice::<Saved>(&bytes).unwrap(), saved);
    assert_eq!(Breaker::restore(&saved, at(100.0)), breaker);
    assert_eq!(serde_json::from_str::<Saved>("{}").unwrap(), Breaker::default().save(at(7.0)));
}

#[test]
fn the_past_may_be_older_than_the_host() {
    let policy = RestartPolicy { retry_delay: secs(100.0), ..plain() };
    let mut breaker = Breaker::default();
    assert!(matches!(crash(&mut breaker, &policy, 5000.0), Admission::Admitted { .. }));
    let mut restored = Breaker::restore(&breaker.save(at(5200.0)), at(1.0));
    let due = |breaker: &mut Breaker, now| match breaker.request(&policy, dead(Exit, now), at(now), 0.5) {
        Admission::Admitted { due, .. } => due.since(at(now)),
        other => panic!("{other:?}"),
    };
    assert_eq!(due(&mut breaker, 5200.0), secs(50.0), "150 s after the one at 5100 s");
    assert_eq!(due(&mut restored, 1.0), secs(50.0), "which was 99 s before this host's clock began");
}
