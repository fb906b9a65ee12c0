use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::KilledBy;
use ViolationHandling::{Disabled, External, Internal};
use ViolationPolicy::{Alert, GracefulShutdown, ImmediateKill, Log, None as Nothing, Restart, Throttle};

const MODES: [RestartMode; 4] =
    [RestartMode::Never, RestartMode::OnFailure, RestartMode::Always, RestartMode::UnlessStopped];
const CLEAN: ExitCause = ExitCause::Exited { code: 0 };
const CRASH: ExitCause = ExitCause::Exited { code: 7 };
const OOM: ExitCause = ExitCause::Oom { scope: OomScope::Worker };
const FAULT: ExitCause = ExitCause::StartFailed { stage: Stage::Spawn, errno: 0 };

fn at(secs: f64) -> Mono {
    Mono(Duration::from_secs_f64(secs))
}

fn policy(mode: RestartMode) -> RestartPolicy {
    RestartPolicy { mode, jitter: 0.0, ..Default::default() }
}

/// Of a run that was begun at 100 s, at 101 s.
fn facts(policy: &RestartPolicy, wish: Wish, life: Life) -> Facts<'_> {
    Facts { policy, wish, life, began: at(100.0), pending: None, now: at(101.0), draw: 0.5 }
}

fn alive() -> Life {
    Life::Alive { since: at(100.0) }
}

fn exit(cause: &ExitCause) -> Trigger<'_> {
    Trigger::Exit(Exit { cause, memory: (Log, External) })
}

fn breach(policy: ViolationPolicy, mode: ViolationHandling) -> Trigger<'static> {
    Trigger::Violation(Breach { limit: Limit::PidsMax, severity: Severity::Critical, policy, mode })
}

/// A breaker whose `class` is open.
fn open(class: Class) -> Breaker {
    let (mut breaker, policy) = (Breaker::default(), policy(RestartMode::Always));
    for _ in 0..100 {
        let request = Request { class, severity: Severity::Critical, began: at(1.0), alive_since: None };
        let _seat = breaker.request(&policy, request, at(2.0), 0.5);
    }
    assert!(breaker.is_open(class));
    breaker
}

fn act(trigger: &Trigger<'_>, facts: &Facts<'_>) -> Act {
    decide(trigger, facts, &mut Breaker::default()).act
}

#[test]
fn the_restart_policy_says_which_exits_are_followed_by_a_run() {
    use RestartMode::{Always, Never, OnFailure, UnlessStopped};
    let start_failed = ExitCause::StartFailed { stage: Stage::Exec, errno: 2 };
    let done = Act::Rest(Rest::Done);
    let failed = Act::Rest(Rest::Failed);
    let run = |due| Act::Run { due: at(due), class: Some(Class::Exit) };
    for (mode, cause, expected) in [
        (Never, &CRASH, failed),
        (Never, &CLEAN, done),
        (Never, &start_failed, failed),
        (OnFailure, &CRASH, run(105.0)),
        (OnFailure, &CLEAN, done),
        (OnFailure, &OOM, run(105.0)),
        (OnFailure, &start_failed, run(105.0)),
        (OnFailure, &ExitCause::Signaled { signal: 15, core: false }, run(105.0)),
        (OnFailure, &ExitCause::KilledExternal, run(105.0)),
        (Always, &CLEAN, run(105.0)),
        (UnlessStopped, &CLEAN, run(105.0)),
        (UnlessStopped, &CRASH, run(105.0)),
    ] {
        let policy = policy(mode);
        assert_eq!(act(&exit(cause), &facts(&policy, Wish::Up, Life::Over)), expected, "{mode:?} after {cause}");
    }
}

#[test]
fn another_success_code_is_a_clean_exit_and_zero_then_is_not() {
    let p = RestartPolicy { success_exit_codes: vec![7], ..policy(RestartMode::OnFailure) };
    assert_eq!(act(&exit(&CRASH), &facts(&p, Wish::Up, Life::Over)), Act::Rest(Rest::Done));
    assert!(matches!(act(&exit(&CLEAN), &facts(&p, Wish::Up, Life::Over)), Act::Run { .. }));
}

#[test]
fn a_violation_is_answered_by_its_policy_and_by_exactly_one_handler() {
    let p = policy(RestartMode::OnFailure);
    let restart = Act::Restart(Pending { due: at(110.0), class: Class::Violation, limit: Some(Limit::PidsMax) });
    let internal = Act::Shutdown { within: Some(Duration::from_secs(5)) };
    for (policy, external, by_itself) in [
        (Nothing, Act::Record, Act::Record),
        (Log, Act::Record, Act::Record),
        (Alert, Act::Record, Act::Record),
        (Throttle, Act::Record, Act::Record),
        (Restart, restart, internal),
        (GracefulShutdown, Act::Shutdown { within: None }, internal),
        (ImmediateKill, Act::Kill, Act::Kill),
    ] {
        let f = facts(&p, Wish::Up, alive());
        assert_eq!(act(&breach(policy, External), &f), external, "{policy:?}");
        assert_eq!(act(&breach(policy, Internal), &f), by_itself, "{policy:?}");
        assert_eq!(act(&breach(policy, Disabled), &f), Act::Record, "{policy:?}");
    }
}

#[test]
fn a_final_policy_goes_before_a_restart_that_is_under_way() {
    let p = policy(RestartMode::Always);
    let f = facts(&p, Wish::Up, Life::Ending { rerun: true });
    assert_eq!(act(&breach(ImmediateKill, External), &f), Act::Kill);
    assert_eq!(act(&breach(GracefulShutdown, External), &f), Act::Shutdown { within: None });
    assert_eq!(act(&breach(Restart, External), &f), Act::Record, "it joins");
}

#[test]
fn what_a_person_wants_goes_before_every_policy() {
    for mode in MODES {
        let p = policy(mode);
        for cause in [&CLEAN, &CRASH, &OOM, &FAULT, &ExitCause::Killed { by: KilledBy::Stop, policy: None }] {
            let down = act(&exit(cause), &facts(&p, Wish::Down, Life::Over));
            assert_eq!(down, Act::Rest(Rest::Stopped), "{mode:?} after {cause}");
            let again = act(&exit(cause), &facts(&p, Wish::Again, Life::Over));
            assert_eq!(again, Act::Run { due: at(101.0), class: None }, "{mode:?} after {cause}");
        }
        for violation in ViolationPolicy::ALL {
            let stopping = facts(&p, Wish::Down, Life::Ending { rerun: false });
            assert_eq!(act(&breach(violation, External), &stopping), Act::Record, "a stop is under way");
        }
    }
}

#[test]
fn an_asked_for_restart_uses_no_budget_and_is_refused_while_the_breaker_is_open_unless_forced() {
    let p = policy(RestartMode::Always);
    for class in Class::ALL {
        let (f, before) = (facts(&p, Wish::Up, alive()), open(class));
        let mut breaker = before.clone();
        let refused = decide(&Trigger::Operator(Order::Restart { force: false }), &f, &mut breaker);
        assert_eq!((refused.act, refused.decision.verdict), (Act::Refuse(class), Verdict::Hold));
        let forced = decide(&Trigger::Operator(Order::Restart { force: true }), &f, &mut breaker);
        assert_eq!((forced.act, &breaker), (Act::Obey, &before));
        let start = decide(&Trigger::Operator(Order::Start), &f, &mut breaker);
        assert_eq!((start.act, &breaker), (Act::Obey, &Breaker::default()), "a start closes it");
    }
}

fn oom(cause: &ExitCause) -> Trigger<'_> {
    Trigger::Exit(Exit { cause, memory: (Restart, External) })
}

#[test]
fn an_oom_kill_at_the_own_limit_is_the_limits_matter_however_it_was_noticed() {
    let p = policy(RestartMode::Never);
    let f = facts(&p, Wish::Up, Life::Over);
    let outcome = decide(&oom(&OOM), &f, &mut Breaker::default());
    assert_eq!(outcome.act, Act::Run { due: at(110.0), class: Some(Class::Violation) }, "twice the delay of an exit");
    assert_eq!((outcome.decision.limit, outcome.decision.class), (Some(Limit::MemoryMax), Some(Class::Violation)));
    for scope in [OomScope::Ancestor, OomScope::Host] {
        let cause = ExitCause::Oom { scope };
        assert_eq!(act(&oom(&cause), &f), Act::Rest(Rest::Failed), "it is not its own limit");
    }
    let held = decide(&oom(&OOM), &f, &mut open(Class::Violation));
    assert_eq!(held.act, Act::Rest(Rest::Open { class: Class::Violation, opened: false }));
}

#[test]
fn an_exit_during_a_decided_restart_is_no_second_trigger() {
    let p = policy(RestartMode::OnFailure);
    let pending = Pending { due: at(120.0), class: Class::Violation, limit: Some(Limit::CpuMax) };
    let f = Facts { pending: Some(pending), ..facts(&p, Wish::Up, Life::Over) };
    let mut breaker = Breaker::default();
    for cause in [&CLEAN, &CRASH, &OOM] {
        let outcome = decide(&exit(cause), &f, &mut breaker);
        assert_eq!(outcome.act, Act::Run { due: at(120.0), class: Some(Class::Violation) });
    }
    assert_eq!(breaker, Breaker::default(), "nothing more was counted");
    let alive = Facts { pending: Some(pending), ..facts(&p, Wish::Up, alive()) };
    assert_eq!(act(&breach(Restart, External), &alive), Act::Record);
    assert_eq!(act(&Trigger::Health { probe: "liveness" }, &alive), Act::Record);
}

#[test]
fn a_failed_health_check_restarts_through_its_own_class_and_ends_a_run_that_is_never_restarted() {
    let health = Trigger::Health { probe: "liveness" };
    for mode in [RestartMode::OnFailure, RestartMode::Always, RestartMode::UnlessStopped] {
        let p = policy(mode);
        let expected = Act::Restart(Pending { due: at(105.0), class: Class::Health, limit: None });
        assert_eq!(act(&health, &facts(&p, Wish::Up, alive())), expected);
        let held = decide(&health, &facts(&p, Wish::Up, alive()), &mut open(Class::Health)).act;
        assert_eq!(held, Act::Hold { class: Class::Health, opened: false });
    }
    assert_eq!(act(&health, &facts(&policy(RestartMode::Never), Wish::Up, alive())), Act::End);
}

#[test]
fn a_young_run_is_spared_and_a_dead_one_is_not_young() {
    let p = RestartPolicy { startup_grace_period: Duration::from_secs(60), ..policy(RestartMode::OnFailure) };
    let mut breaker = Breaker::default();
    let young = decide(&breach(Restart, External), &facts(&p, Wish::Up, alive()), &mut breaker);
    assert_eq!((young.act, young.decision.verdict), (Act::Record, Verdict::Record));
    assert_eq!(breaker, Breaker::default(), "not counted, not queued");
    assert!(matches!(act(&breach(Restart, External), &facts(&p, Wish::Up, Life::Dying)), Act::Restart(_)));
    assert!(matches!(act(&exit(&CRASH), &facts(&p, Wish::Up, Life::Over)), Act::Run { .. }));
}

#[test]
fn a_spawn_fault_is_retried_quickly_under_every_mode_and_is_no_strike() {
    for mode in MODES {
        let (p, mut breaker) = (policy(mode), Breaker::default());
        let mut gaps = Vec::new();
        for _ in 0..9 {
            let outcome = decide(&exit(&FAULT), &facts(&p, Wish::Up, Life::Over), &mut breaker);
            let Act::Run { due, .. } = outcome.act else { panic!("{mode:?}: {outcome:?}") };
            gaps.push(due.since(at(101.0)).as_millis());
        }
        assert_eq!(gaps, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(breaker.attempts(Class::Exit), 0);
    }
}

#[test]
fn a_clean_exit_and_a_restart_of_the_host_are_no_strike() {
    let (p, mut breaker) = (policy(RestartMode::Always), Breaker::default());
    let rebooted = ExitCause::Unknown { why: UnknownWhy::HostRebooted };
    for cause in [&CLEAN, &rebooted] {
        let outcome = decide(&exit(cause), &facts(&p, Wish::Up, Life::Over), &mut breaker);
        assert_eq!(outcome.act, Act::Run { due: at(105.0), class: Some(Class::Exit) }, "{cause} waits retry_delay");
        assert_eq!(outcome.decision.attempt, None);
    }
    assert_eq!(breaker.attempts(Class::Exit), 0);
}

#[test]
fn an_exit_beyond_the_budget_opens_the_breaker_and_says_attempt_and_budget_before() {
    let (p, mut breaker) = (policy(RestartMode::OnFailure), Breaker::default());
    for k in 1..=3 {
        let outcome = decide(&exit(&CRASH), &facts(&p, Wish::Up, Life::Over), &mut breaker);
        assert!(matches!(outcome.act, Act::Run { class: Some(Class::Exit), .. }));
        assert_eq!((outcome.decision.attempt, outcome.decision.max_attempts), (Some(k), Some(3)));
    }
    let fourth = decide(&exit(&CRASH), &facts(&p, Wish::Up, Life::Over), &mut breaker);
    assert_eq!(fourth.act, Act::Rest(Rest::Open { class: Class::Exit, opened: true }));
    assert_eq!(fourth.decision.verdict, Verdict::Hold);
}

fn any_life() -> impl Strategy<Value = Life> {
    prop_oneof![
        Just(Life::Down),
        Just(Life::Starting),
        Just(alive()),
        Just(Life::Dying),
        any::<bool>().prop_map(|rerun| Life::Ending { rerun }),
        Just(Life::Over),
    ]
}

fn any_cause() -> impl Strategy<Value = ExitCause> {
    let by = prop_oneof![Just(KilledBy::Stop), Just(KilledBy::Policy), Just(KilledBy::Operator)];
    prop_oneof![
        (0..9).prop_map(|code| ExitCause::Exited { code }),
        Just(ExitCause::Signaled { signal: 11, core: true }),
        prop_oneof![Just(OomScope::Worker), Just(OomScope::Ancestor), Just(OomScope::Host)]
            .prop_map(|scope| ExitCause::Oom { scope }),
        by.prop_map(|by| ExitCause::Killed { by, policy: None }),
        Just(ExitCause::KilledExternal),
        Just(FAULT),
        Just(ExitCause::Unknown { why: UnknownWhy::HostRebooted }),
        Just(ExitCause::Unknown { why: UnknownWhy::SupervisorAway }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..Default::default() })]

    /// Over all triggers, policies, modes and states: exactly one verdict that fits what there is; no run is begun over a
    /// living one; after a final policy or a stop none is begun at all; and an open breaker admits nothing.
    #[test]
    fn every_trigger_has_one_verdict_that_fits(
        kind in 0..4u8, cause in any_cause(), life in any_life(), mode in 0..4usize,
        policy_of in 0..7usize, handled in 0..3usize, order in 0..5u8,
        wish in prop_oneof![Just(Wish::Up), Just(Wish::Again), Just(Wish::Down)],
        opened in proptest::option::of(0..3usize), pending in any::<bool>(), limit in 0..9usize,
    ) {
        let p = policy(MODES[mode]);
        let (violation, handling) = (ViolationPolicy::ALL[policy_of], ViolationHandling::ALL[handled]);
        let limit = Limit::ALL[limit];
        // An exit is decided when the run is over, and nothing else is.
        let life = if kind == 0 { Life::Over } else if life == Life::Over { Life::Down } else { life };
        let trigger = match kind {
            0 => Trigger::Exit(Exit { cause: &cause, memory: (violation, handling) }),
            1 => Trigger::Violation(Breach { limit, severity: Severity::Warning, policy: violation, mode: handling }),
            2 => Trigger::Health { probe: "liveness" },
            _ => Trigger::Operator(match order {
                0 => Order::Start,
                1 => Order::Stop,
                2 => Order::Restart { force: false },
                3 => Order::Restart { force: true },
                _ => Order::Kill,
            }),
        };
        let mut breaker = opened.map_or_else(Breaker::default, |class| open(Class::ALL[class]));
        let was_open = Class::ALL.map(|class| breaker.is_open(class));
        let pending = pending.then_some(Pending { due: at(130.0), class: Class::Violation, limit: Some(limit) });
        let f = Facts { pending, ..facts(&p, wish, life) };
        let outcome = decide(&trigger, &f, &mut breaker);

        let of_an_exit = matches!(outcome.act, Act::Run { .. } | Act::Rest(_));
        prop_assert_eq!(of_an_exit, life == Life::Over, "{:?} while {:?}", outcome.act, life);
        if wish == Wish::Down {
            let begins = matches!(outcome.act, Act::Run { .. } | Act::Restart(_) | Act::End);
            prop_assert!(!begins, "a restart after a stop or a final policy: {:?}", outcome.act);
        }
        let admitted = match outcome.act {
            Act::Run { class: Some(class), .. } if pending.is_none() => outcome.decision.attempt.map(|_| class),
            Act::Restart(pending) => Some(pending.class),
            _ => None,
        };
        for (class, open) in Class::ALL.into_iter().zip(was_open) {
            prop_assert!(!(open && admitted == Some(class)), "an open breaker admitted {:?}", class);
        }
        prop_assert!(!outcome.decision.rule.is_empty());
        let again = decide(&trigger, &f, &mut opened.map_or_else(Breaker::default, |class| open(Class::ALL[class])));
        prop_assert_eq!(again, outcome, "the same again gives the same again");
    }
}
