use proptest::prelude::*;

use super::*;
use crate::model::{KilledBy, OomScope};

const MODES: [RestartMode; 4] =
    [RestartMode::Never, RestartMode::OnFailure, RestartMode::Always, RestartMode::UnlessStopped];

fn policy(mode: RestartMode) -> RestartPolicy {
    RestartPolicy { mode, jitter: 0.0, ..Default::default() }
}

fn at(secs: f64) -> Mono {
    Mono(Duration::from_secs_f64(secs))
}

const CLEAN: ExitCause = ExitCause::Exited { code: 0 };
const CRASH: ExitCause = ExitCause::Exited { code: 7 };

/// A run that began at 100 s and ran `ran` seconds, decided when it ended.
fn after(policy: &RestartPolicy, attempts: Attempts, cause: &ExitCause, ran: f64) -> Outcome {
    let ended = Ended { cause, began: at(100.0), ran: Some(Duration::from_secs_f64(ran)) };
    decide(policy, attempts, &ended, Wish::Up, at(100.0 + ran), 0.5)
}

#[test]
fn the_mode_says_which_exits_are_followed_by_a_run() {
    let oom = ExitCause::Oom { scope: OomScope::Worker };
    let start_failed = ExitCause::StartFailed { stage: Stage::Exec, errno: 2 };
    for (mode, cause, restarts) in [
        (RestartMode::Never, &CRASH, false),
        (RestartMode::Never, &CLEAN, false),
        (RestartMode::Never, &start_failed, false),
        (RestartMode::OnFailure, &CRASH, true),
        (RestartMode::OnFailure, &CLEAN, false),
        (RestartMode::OnFailure, &oom, true),
        (RestartMode::OnFailure, &start_failed, true),
        (RestartMode::OnFailure, &ExitCause::Signaled { signal: 15, core: false }, true),
        (RestartMode::OnFailure, &ExitCause::KilledExternal, true),
        (RestartMode::Always, &CLEAN, true),
        (RestartMode::UnlessStopped, &CLEAN, true),
        (RestartMode::UnlessStopped, &CRASH, true),
    ] {
        let outcome = after(&policy(mode), Attempts::default(), cause, 1.0);
        assert_eq!(matches!(outcome.next, Next::Restart { .. }), restarts, "{mode:?} after {cause}");
    }
    assert_eq!(after(&policy(RestartMode::Never), Attempts::default(), &CLEAN, 1.0).next, Next::Done);
    assert_eq!(after(&policy(RestartMode::Never), Attempts::default(), &CRASH, 1.0).next, Next::Failed);
}

#[test]
fn a_delay_is_counted_from_start_to_start() {
    let p = policy(RestartMode::OnFailure);
    let first = after(&p, Attempts::default(), &CRASH, 2.0);
    assert_eq!(first.next, Next::Restart { due: at(105.0) }, "5 s after the run's begin, 3 s after its end");
    assert_eq!(first.decision.delay_ms, Some(3000));
    let long = after(&p, Attempts::default(), &CRASH, 60.0);
    assert_eq!(long.next, Next::Restart { due: at(160.0) }, "it ran longer than its delay: at once");
}

#[test]
fn the_second_attempt_is_counted_from_the_first_one() {
    let p = policy(RestartMode::OnFailure);
    // The restart before was due at 98 s; a person had begun this run anew at 100 s.
    let attempts = Attempts { strikes: 1, previous: Some(at(98.0)), spawn_faults: 0 };
    let outcome = after(&p, attempts, &CRASH, 1.0);
    assert_eq!(outcome.next, Next::Restart { due: at(105.5) }, "7.5 s after 98 s");
    assert_eq!(outcome.decision.attempt, Some(2));
    assert_eq!(outcome.attempts, Attempts { strikes: 2, previous: Some(at(105.5)), spawn_faults: 0 });
}

#[test]
fn an_attempt_that_was_late_counts_from_when_it_was_made() {
    let outcome = after(&policy(RestartMode::OnFailure), Attempts::default(), &CRASH, 60.0);
    assert_eq!(outcome.attempts.previous, Some(at(160.0)), "not 105, which would make the next one early");
}

#[test]
fn a_stable_run_begins_the_count_anew() {
    let p = policy(RestartMode::OnFailure);
    let tired = Attempts { strikes: 9, previous: Some(at(100.0)), spawn_faults: 2 };
    assert_eq!(after(&p, tired, &CRASH, 599.9).attempts.strikes, 10);
    let outcome = after(&p, tired, &CRASH, 600.0);
    assert_eq!((outcome.attempts.strikes, outcome.attempts.spawn_faults), (1, 0));
    assert_eq!(outcome.next, Next::Restart { due: at(700.0) });
}

#[test]
fn a_clean_exit_waits_and_is_no_strike() {
    let tired = Attempts { strikes: 4, previous: Some(at(90.0)), spawn_faults: 0 };
    let outcome = after(&policy(RestartMode::Always), tired, &CLEAN, 1.0);
    assert_eq!(outcome.next, Next::Restart { due: at(105.0) }, "retry_delay, not its fifth power");
    assert_eq!(outcome.attempts, tired);
    assert_eq!(outcome.decision.attempt, None);
}

#[test]
fn another_success_code_is_a_clean_exit_and_zero_then_is_not() {
    let p = RestartPolicy { success_exit_codes: vec![7], ..policy(RestartMode::OnFailure) };
    assert_eq!(after(&p, Attempts::default(), &CRASH, 1.0).next, Next::Done);
    assert!(matches!(after(&p, Attempts::default(), &CLEAN, 1.0).next, Next::Restart { .. }));
}

#[test]
fn a_spawn_fault_is_retried_quickly_under_every_mode_and_is_no_strike() {
    let fault = ExitCause::StartFailed { stage: Stage::Spawn, errno: 0 };
    for mode in MODES {
        let mut attempts = Attempts { strikes: 3, previous: Some(at(90.0)), spawn_faults: 0 };
        let mut gaps = Vec::new();
        for _ in 0..9 {
            let ended = Ended { cause: &fault, began: at(100.0), ran: None };
            let outcome = decide(&policy(mode), attempts, &ended, Wish::Up, at(100.0), 0.5);
            let Next::Restart { due } = outcome.next else { panic!("{mode:?}: {outcome:?}") };
            gaps.push(due.since(at(100.0)).as_millis());
            attempts = outcome.attempts;
        }
        assert_eq!(gaps, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(attempts.strikes, 3);
    }
}

#[test]
fn a_restart_of_the_host_is_no_strike() {
    let rebooted = ExitCause::Unknown { why: UnknownWhy::HostRebooted };
    let outcome = after(&policy(RestartMode::OnFailure), Attempts::default(), &rebooted, 1.0);
    assert!(matches!(outcome.next, Next::Restart { .. }));
    assert_eq!(outcome.attempts, Attempts::default());
}

#[test]
fn what_was_asked_for_goes_before_every_policy() {
    let tired = Attempts { strikes: 4, previous: Some(at(90.0)), spawn_faults: 0 };
    for mode in MODES {
        for cause in [&CLEAN, &CRASH, &ExitCause::Killed { by: KilledBy::Stop, policy: None }] {
            let ended = Ended { cause, began: at(100.0), ran: Some(Duration::from_secs(1)) };
            let down = decide(&policy(mode), tired, &ended, Wish::Down, at(101.0), 0.5);
            assert_eq!(down.next, Next::Stopped, "{mode:?} after {cause}");
            let again = decide(&policy(mode), tired, &ended, Wish::Again, at(101.0), 0.5);
            assert_eq!(again.next, Next::Restart { due: at(101.0) }, "{mode:?} after {cause}");
            assert_eq!(again.attempts, tired, "it uses no budget");
        }
    }
}

/// The rules of the module's header a second time, naively: seconds as numbers, the whole history instead of a summary.
mod reference {
    /// `runs`: begin, seconds it ran, whether it failed; in order. Answers with the due time after the last one.
    pub(super) fn due(runs: &[(f64, f64, bool)], restarts: &[f64], delay: f64, rate: f64, max: f64, reset: f64) -> f64 {
        let stable = runs.iter().rposition(|(_, ran, _)| *ran >= reset).unwrap_or(0);
        // A stable run that fails is itself the first strike of a new row.
        let strikes: Vec<usize> = (stable..runs.len()).filter(|i| runs[*i].2).collect();
        let (begin, ran, failed) = runs[runs.len() - 1];
        let due = if failed {
            let k = strikes.len() - 1;
            let from = match k {
                0 => begin,
                _ => restarts[strikes[k - 1]],
            };
            from + (delay * (0..k).fold(1.0, |p, _| p * rate)).min(max)
        } else {
            begin + delay.min(max)
        };
        due.max(begin + ran)
    }
}

proptest! {
    #[test]
    fn a_row_of_runs_agrees_with_the_naive_model(
        lives in proptest::collection::vec((0.0..30.0f64, any::<bool>(), 0.0..3.0f64), 1..20),
        delay in 0.0..10.0f64, rate in 1.0..3.0f64, max in 1.0..40.0f64, reset in 15.0..30.0f64,
    ) {
        let p = RestartPolicy {
            retry_delay: Duration::from_secs_f64(delay), backoff_rate: rate, max_delay: Duration::from_secs_f64(max),
            reset_after: Duration::from_secs_f64(reset), ..policy(RestartMode::Always)
        };
        let (mut begin, mut attempts) = (50.0, Attempts::default());
        let (mut runs, mut restarts) = (Vec::new(), Vec::new());
        for (ran, failed, operator_late) in lives {
            let cause = if failed { CRASH } else { CLEAN };
            let ended = Ended { cause: &cause, began: at(begin), ran: Some(Duration::from_secs_f64(ran)) };
            let outcome = decide(&p, attempts, &ended, Wish::Up, at(begin + ran), 0.5);
            let Next::Restart { due } = outcome.next else { panic!("always restarts: {outcome:?}") };
            runs.push((begin, ran, failed));
            let expected = reference::due(&runs, &restarts, delay, rate, max, reset);
            prop_assert!((due.0.as_secs_f64() - expected).abs() < 1e-6, "due {due:?}, the model says {expected}");
            restarts.push(due.0.as_secs_f64());
            attempts = outcome.attempts;
            // Sometimes a person begins the run anew a little later, which the sequence must not notice.
            begin = due.0.as_secs_f64() + operator_late;
        }
    }
}
