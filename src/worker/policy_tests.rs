//! What limits, health checks and the breaker do to a supervised worker, in virtual time.

use std::time::Duration;

use super::*;
use crate::model::{
    BreakerState, Class, Detail, ExitCause, ExitStatus, HealthReport, KilledBy, Limit, OomScope, PolicyName, ProbeKind,
    Readiness, State as Public, StoppedDetail, StoppingDetail, Trigger, Verdict, WorkerStatus,
};
use crate::policy::restart::{BudgetOverride, OnOpen, RestartMode, RestartPolicy};
use crate::spec::types::{Cpu, Limits, Memory, Monitoring, OomGroup, Pids, ViolationHandling, ViolationPolicy};
use crate::testing::{Bench, Call, OnSignal, Oom, Script, wait_for};
use crate::worker::handle::AskError;

const SEC: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(600);

/// On failure, three times, 5 s apart and growing; limits of every kind that only log.
fn spec(set: impl FnOnce(&mut Spec)) -> Spec {
    let restart = RestartPolicy { mode: RestartMode::OnFailure, jitter: 0.0, ..Default::default() };
    let memory = Memory { max: Some(64 << 20), high: Some(32 << 20), ..Default::default() };
    let cpu = Cpu { max_percent: Some(50.0), ..Default::default() };
    let limits = Limits { memory, cpu, pids: Pids { max: Some(9), ..Default::default() }, ..Default::default() };
    let mut spec = Spec { restart, limits, ..Spec::new(vec!["/bin/true".to_owned()]) };
    set(&mut spec);
    spec
}

async fn started(bench: &Bench, spec: Spec, script: Script) -> WorkerHandle {
    let worker = bench.worker("w", spec).unwrap();
    bench.kernel.script(worker.id(), script);
    worker.start(Trigger::Operator).await.unwrap();
    worker
}

async fn reached(worker: &WorkerHandle, level: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
    wait_for(worker, SOON, level).await.unwrap()
}

fn run_of(worker: &WorkerHandle, number: u32) -> RunId {
    RunId::new(worker.id().clone(), number)
}

fn decisions(events: &[model::Event]) -> Vec<model::Decision> {
    let decision = |e: &model::Event| match &e.kind {
        EventKind::Decision(decision) => Some(decision.clone()),
        _ => None,
    };
    events.iter().filter_map(decision).collect()
}

fn causes(events: &[model::Event]) -> Vec<ExitCause> {
    let cause = |e: &model::Event| match &e.kind {
        EventKind::Exited { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    events.iter().filter_map(cause).collect()
}

fn by_policy(policy: PolicyName) -> ExitCause {
    ExitCause::Killed { by: KilledBy::Policy, policy: Some(policy.as_str().to_owned()) }
}

fn forks_refused() -> Script {
    Script { refused_forks: Some((SEC, 5)), ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn the_fourth_failure_in_a_row_opens_the_breaker_and_holds_the_worker_down() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("w", spec(|s| s.restart.cooldown = None)).unwrap();
    for _ in 0..9 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    let status = reached(&worker, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await;
    assert_eq!((status.run, status.restarts, status.restarts_by.exit), (4, 3, 3));
    assert_eq!((status.breaker[0].state, status.breaker[0].until), (BreakerState::Open, None));
    assert_eq!(status.next_attempt, None, "it waits for a person");
    let events = bench.recorded();
    let attempts: Vec<_> = decisions(&events).iter().map(|d| (d.verdict, d.attempt, d.max_attempts)).collect();
    let restart = |k| (Verdict::Restart, Some(k), Some(3));
    assert_eq!(attempts, [restart(1), restart(2), restart(3), (Verdict::Hold, None, None)]);
    let opened = |e: &&model::Event| matches!(e.kind, EventKind::Breaker { state: BreakerState::Open, .. });
    assert_eq!(events.iter().filter(opened).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_the_cooldown_one_trial_decides() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec(|s| s.restart.cooldown = Some(60 * SEC))).unwrap();
    for _ in 0..5 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    let open = |s: &WorkerStatus| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen);
    let first = reached(&worker, |s| open(s) && s.run == 4).await;
    let trial = reached(&worker, |s| s.run == 5 && s.state == Public::Running).await;
    assert_eq!(trial.since.since(first.since).as_secs(), 60);
    let again = reached(&worker, |s| open(s) && s.run == 5).await;
    assert_eq!(again.breaker[0].state, BreakerState::Open, "the trial failed");
    let trial = reached(&worker, |s| s.run == 6 && s.state == Public::Running).await;
    let closed = reached(&worker, |s| s.breaker.is_empty()).await;
    assert_eq!((closed.run, closed.state), (6, Public::Running), "the trial lived");
    assert!(bench.shared.clock.now().since(trial.since) >= 60 * SEC);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_a_restart_but_not_one_by_force_nor_a_start() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec(|s| (s.restart.cooldown, s.restart.max_retries) = (None, 1))).unwrap();
    for _ in 0..2 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    reached(&worker, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await;
    let why = |e: AskError| match e {
        AskError::Refused { why, .. } => why,
        AskError::Gone { .. } => panic!("gone"),
    };
    let refused = worker.restart(false).await.map_err(why);
    assert_eq!(refused, Err(Refusal::BreakerOpen { restarts: "exit" }));
    let config = worker.start(Trigger::Config).await.map_err(why);
    assert_eq!(config, Err(Refusal::BreakerOpen { restarts: "exit" }), "a configuration mends nothing");
    worker.restart(true).await.unwrap();
    assert_eq!(worker.status().detail, Detail::Running(Readiness::Degraded), "forced, and still open");
    worker.start(Trigger::Operator).await.unwrap();
    assert_eq!((worker.status().detail, worker.status().breaker.len()), (Detail::Running(Readiness::Ready), 0));
}

#[tokio::test(start_paused = true)]
async fn a_reset_starts_what_the_breaker_held_down() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec(|s| (s.restart.cooldown, s.restart.max_retries) = (None, 1))).unwrap();
    for _ in 0..2 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    reached(&worker, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await;
    worker.reset().await.unwrap();
    assert_eq!(reached(&worker, |s| s.state == Public::Running).await.run, 3);
    worker.stop(KilledBy::Stop).await.unwrap();
    worker.reset().await.unwrap();
    assert_eq!(worker.status().state, Public::Stopped, "what a person stopped stays stopped");
}

#[tokio::test(start_paused = true)]
async fn an_opened_breaker_can_end_the_supervisor() {
    let mut bench = Bench::new(1);
    let set = |s: &mut Spec| (s.restart.max_retries, s.restart.on_open) = (1, OnOpen::Exit);
    let worker = bench.worker("w", spec(set)).unwrap();
    for _ in 0..2 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    assert_eq!(bench.given_up.recv().await.as_ref(), Some(worker.id()));
}

#[tokio::test(start_paused = true)]
async fn a_violation_that_restarts_ends_the_run_gracefully_when_its_turn_comes() {
    let mut bench = Bench::new(1);
    let worker = started(&bench, spec(|s| s.limits.pids.policy = ViolationPolicy::Restart), forks_refused()).await;
    let waiting = reached(&worker, |s| s.next_attempt.is_some()).await;
    assert_eq!((waiting.state, waiting.run), (Public::Running, 1), "detection waits for nothing");
    assert_eq!(waiting.violations, [Limit::PidsMax]);
    let began = waiting.started.unwrap();
    let status = reached(&worker, |s| s.run == 2 && s.state == Public::Running).await;
    assert_eq!(status.since.since(began).as_secs(), 10, "twice retry_delay after the run's begin");
    assert_eq!((status.restarts_by.violation, status.restarts_by.exit), (1, 0));
    let events = bench.recorded();
    assert_eq!(causes(&events), [by_policy(PolicyName::Pids)]);
    let decisions = decisions(&events);
    assert_eq!(
        (decisions[0].trigger, decisions[0].verdict, decisions[0].attempt),
        (Trigger::Violation, Verdict::Restart, Some(1))
    );
    assert_eq!(
        (decisions[1].verdict, decisions[1].delay_ms),
        (Verdict::Restart, Some(0)),
        "the exit is no second trigger"
    );
    let calls = bench.kernel.calls();
    let lifted = calls.iter().position(|(_, c)| *c == Call::Tripwire(run_of(&worker, 1), false));
    let asked = calls.iter().position(|(_, c)| matches!(c, Call::Signal(..)));
    assert!(lifted.is_some() && lifted < asked, "memory.high is lifted first");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_dies_before_its_restart_is_due_waits_for_that_one() {
    let mut bench = Bench::new(1);
    let script = Script { exits: Some((3 * SEC, ExitStatus::Exited { code: 1 })), ..forks_refused() };
    let worker = started(&bench, spec(|s| s.limits.pids.policy = ViolationPolicy::Restart), script).await;
    let began = worker.status().since;
    let status = reached(&worker, |s| s.run == 2 && s.state == Public::Running).await;
    assert_eq!(status.since.since(began).as_secs(), 10);
    assert_eq!((status.restarts_by.violation, status.restarts_by.exit), (1, 0), "one restart, of one class");
    assert_eq!(causes(&bench.recorded()), [ExitCause::Exited { code: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_calls_a_decided_restart_off() {
    let bench = Bench::new(1);
    let worker = started(&bench, spec(|s| s.limits.pids.policy = ViolationPolicy::Restart), forks_refused()).await;
    reached(&worker, |s| s.next_attempt.is_some()).await;
    worker.stop(KilledBy::Stop).await.unwrap();
    tokio::time::sleep(SOON).await;
    let status = worker.status();
    assert_eq!((status.state, status.run, status.breaker.len()), (Public::Stopped, 1, 0), "and gives its seat back");
}

#[tokio::test(start_paused = true)]
async fn a_final_policy_takes_the_worker_down_until_a_person_starts_it() {
    for (policy, within) in [(ViolationPolicy::GracefulShutdown, 30), (ViolationPolicy::ImmediateKill, 0)] {
        let mut bench = Bench::new(1);
        let script = Script { on_signal: OnSignal::Ignores, ..forks_refused() };
        let worker = started(&bench, spec(|s| s.limits.pids.policy = policy), script).await;
        let violated = worker.status().since + SEC;
        let status = reached(&worker, |s| s.state == Public::Stopped).await;
        assert_eq!(status.since.since(violated).as_secs(), within, "{policy:?}");
        assert_eq!(status.detail, Detail::Stopped(StoppedDetail::Stopped));
        assert_eq!((status.down_by, status.down_policy), (Some(KilledBy::Policy), Some(PolicyName::Pids)));
        assert!(!status.desired_up);
        let cause = causes(&bench.recorded());
        let by = if within == 0 { KilledBy::Policy } else { KilledBy::StopTimeout };
        assert_eq!(cause, [ExitCause::Killed { by, policy: Some("pids".to_owned()) }]);
        tokio::time::sleep(SOON).await;
        assert_eq!(worker.status().run, 1, "nothing follows");
        worker.start(Trigger::Operator).await.unwrap();
        assert_eq!(worker.status().run, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_internal_handler_stops_within_five_seconds_and_knows_no_restart() {
    let bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.pids.policy = ViolationPolicy::Restart;
        s.limits.monitoring = Monitoring { violation_handling: ViolationHandling::Internal, ..Default::default() };
    };
    let worker = started(&bench, spec(set), Script { on_signal: OnSignal::Ignores, ..forks_refused() }).await;
    let stopping = reached(&worker, |s| s.state == Public::Stopping).await;
    let status = reached(&worker, |s| s.state == Public::Stopped).await;
    assert_eq!(status.since.since(stopping.since).as_secs(), 5);
    assert_eq!((status.run, status.desired_up), (1, false));
}

#[tokio::test(start_paused = true)]
async fn an_oom_kill_restarts_in_the_class_of_its_limit_whether_or_not_its_notification_came_first() {
    for notified in [true, false] {
        let mut bench = Bench::new(1);
        let set = |s: &mut Spec| {
            s.limits.memory.policy = ViolationPolicy::Restart;
            s.restart.mode = RestartMode::Never;
        };
        let script = Script { oom: Some((SEC, Oom::All { notified })), ..Script::default() };
        let worker = started(&bench, spec(set), script).await;
        let status = reached(&worker, |s| s.run == 2 && s.state == Public::Running).await;
        assert_eq!((status.restarts_by.violation, status.restarts_by.exit), (1, 0), "notified: {notified}");
        let events = bench.recorded();
        let violations = events.iter().filter(|e| matches!(e.kind, EventKind::Violation { .. })).count();
        assert_eq!(violations, 1, "one episode");
    }
}

/// On a busy host seconds lie between the count of the limit, that of the kill, and the end.
#[tokio::test(start_paused = true)]
async fn an_oom_that_takes_its_time_is_the_workers_own_all_the_same() {
    for (report, lingers) in [(0, 0), (0, 20), (20, 0), (20, 20)] {
        let mut bench = Bench::new(1);
        let set = |s: &mut Spec| {
            s.limits.memory.oom_scope = OomGroup::Process;
            s.limits.memory.policy = ViolationPolicy::Restart;
        };
        let oom = Oom::Main { report: report * SEC, lingers: lingers * SEC };
        let worker = started(&bench, spec(set), Script { oom: Some((SEC, oom)), ..Script::default() }).await;
        let status = reached(&worker, |s| s.run == 2 && s.state == Public::Running).await;
        assert_eq!((status.restarts_by.violation, status.restarts_by.exit), (1, 0), "{oom:?}");
        let events = bench.recorded();
        assert_eq!(causes(&events), [ExitCause::Oom { scope: OomScope::Worker }], "{oom:?}");
        let violation = events.iter().find_map(|e| match &e.kind {
            EventKind::Violation { severity, .. } => Some(severity.as_str()),
            _ => None,
        });
        assert_eq!(violation, Some("critical"), "{oom:?}: its limit's, not another's");
    }
}

#[tokio::test(start_paused = true)]
async fn an_oom_kill_without_a_seat_in_the_budget_holds_the_worker_down() {
    let bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.memory.policy = ViolationPolicy::Restart;
        s.restart.resource_violations = BudgetOverride { max_retries: Some(1), ..Default::default() };
        s.restart.cooldown = None;
    };
    let worker = bench.worker("w", spec(set)).unwrap();
    for _ in 0..2 {
        bench.kernel.script(worker.id(), Script { oom: Some((SEC, Oom::All { notified: true })), ..Script::default() });
    }
    worker.start(Trigger::Operator).await.unwrap();
    let status = reached(&worker, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await;
    assert_eq!((status.run, status.breaker[0].class), (2, Class::Violation));
}

#[tokio::test(start_paused = true)]
async fn above_memory_high_the_tripwire_is_lifted_and_set_again_on_recovery() {
    let mut bench = Bench::new(1);
    let script = Script { above_high: Some((SEC, 20 * SEC)), ..Script::default() };
    let worker = started(&bench, spec(|_| {}), script).await;
    reached(&worker, |s| s.violations == [Limit::MemoryHigh]).await;
    reached(&worker, |s| s.violations.is_empty()).await;
    let tripwire = |(_, c): (Mono, Call)| match c {
        Call::Tripwire(_, armed) => Some(armed),
        _ => None,
    };
    let set: Vec<bool> = bench.kernel.calls().into_iter().filter_map(tripwire).collect();
    assert_eq!(set, [false, true]);
    let events = bench.recorded();
    assert!(events.iter().any(|e| matches!(&e.kind, EventKind::Recovered { limit: Limit::MemoryHigh, .. })));
    assert_eq!(worker.status().run, 1, "it only logs");
}

#[tokio::test(start_paused = true)]
async fn throttling_without_progress_gives_way_to_the_policy_of_memory_max() {
    let mut bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.memory.high_policy = ViolationPolicy::Throttle;
        s.limits.memory.policy = ViolationPolicy::GracefulShutdown;
        s.limits.memory.throttle_deadline = 30 * SEC;
    };
    let script = Script { above_high: Some((SEC, 10_000 * SEC)), ..Script::default() };
    let worker = started(&bench, spec(set), script).await;
    let throttled = reached(&worker, |s| s.detail == Detail::Running(Readiness::Throttled)).await;
    let status = reached(&worker, |s| s.state == Public::Stopped).await;
    let took = status.since.since(throttled.started.unwrap() + SEC);
    assert!((30 * SEC..=32 * SEC).contains(&took), "{took:?}");
    assert_eq!(causes(&bench.recorded()), [by_policy(PolicyName::Memory)]);
}

#[tokio::test(start_paused = true)]
async fn sustained_throttling_of_the_cpu_is_a_violation_and_recovers() {
    let mut bench = Bench::new(1);
    let script = Script { throttled: Some((SEC, 30 * SEC)), ..Script::default() };
    let worker = started(&bench, spec(|_| {}), script).await;
    let open = reached(&worker, |s| s.violations == [Limit::CpuMax]).await;
    assert_eq!(open.state, Public::Running);
    reached(&worker, |s| s.violations.is_empty()).await;
    let sampled = bench.kernel.calls().iter().filter(|(_, c)| matches!(c, Call::Sample(_))).count();
    tokio::time::sleep(SOON).await;
    let later = bench.kernel.calls().iter().filter(|(_, c)| matches!(c, Call::Sample(_))).count();
    assert_eq!(sampled, later, "nothing is sampled while it is quiet");
    let told = |e: &model::Event| match &e.kind {
        EventKind::Violation { limit, .. } => Some(("violation", *limit)),
        EventKind::Recovered { limit, .. } => Some(("recovered", *limit)),
        _ => None,
    };
    let told: Vec<_> = bench.recorded().iter().filter_map(told).collect();
    assert_eq!(told, [("violation", Limit::CpuMax), ("recovered", Limit::CpuMax)]);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_calls_off_the_restart_that_the_episode_had_asked_for() {
    let bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.cpu.policy = ViolationPolicy::Restart;
        s.restart.resource_violations = BudgetOverride { retry_delay: Some(60 * SEC), ..Default::default() };
    };
    let script = Script { throttled: Some((SEC, 15 * SEC)), ..Script::default() };
    let worker = started(&bench, spec(set), script).await;
    reached(&worker, |s| s.next_attempt.is_some()).await;
    reached(&worker, |s| s.violations.is_empty()).await;
    let status = worker.status();
    assert_eq!((status.next_attempt, status.breaker.len()), (None, 0), "the seat is given back");
    tokio::time::sleep(SOON).await;
    assert_eq!(worker.status().run, 1);
}

fn failed() -> HealthReport {
    HealthReport::Failed { probe: ProbeKind::Liveness, observed: "HTTP 503".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn the_health_monitor_gets_the_verdict_and_the_new_run() {
    let mut bench = Bench::new(1);
    let worker = started(&bench, spec(|_| {}), Script::default()).await;
    worker.health(1, failed()).await.unwrap();
    let status = worker.status();
    assert_eq!((status.run, status.state, status.restarts_by.health), (2, Public::Running, 1));
    assert_eq!(causes(&bench.recorded()), [by_policy(PolicyName::Health)]);
    assert!(worker.health(1, failed()).await.is_err(), "a verdict about another run counts for nothing");
    assert_eq!(worker.status().run, 2);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_worker_without_budget_goes_on_degraded_and_its_recovery_closes_the_class() {
    let bench = Bench::new(1);
    let worker = started(&bench, spec(|s| s.restart.max_retries = 1), Script::default()).await;
    worker.health(1, failed()).await.unwrap();
    let refused = worker.health(2, failed()).await;
    assert!(matches!(refused, Err(AskError::Refused { why: Refusal::BreakerOpen { restarts: "health" }, .. })));
    let status = worker.status();
    assert_eq!((status.run, status.detail), (2, Detail::Running(Readiness::Degraded)), "put up with");
    worker.health(2, HealthReport::Alive { observed: "200".to_owned() }).await.unwrap();
    assert_eq!((worker.status().detail, worker.status().breaker.len()), (Detail::Running(Readiness::Ready), 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_ends_what_is_never_restarted() {
    let bench = Bench::new(1);
    let worker = started(&bench, spec(|s| s.restart.mode = RestartMode::Never), Script::default()).await;
    worker.health(1, failed()).await.unwrap();
    let status = reached(&worker, |s| s.state == Public::Stopped).await;
    assert_eq!(
        (status.detail, status.cause),
        (Detail::Stopped(StoppedDetail::Failed), Some(by_policy(PolicyName::Health)))
    );
}

#[tokio::test(start_paused = true)]
async fn any_number_of_triggers_at_once_is_one_restart() {
    let mut bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.pids.policy = ViolationPolicy::Restart;
        s.limits.memory.policy = ViolationPolicy::Restart;
    };
    let script = Script { oom: Some((SEC, Oom::Child)), ..forks_refused() };
    let worker = started(&bench, spec(set), script).await;
    tokio::time::sleep(SEC).await;
    let (first, second) = (worker.health(1, failed()), worker.health(1, failed()));
    let asked = worker.restart(false);
    first.await.unwrap();
    second.await.unwrap();
    asked.await.unwrap();
    assert_eq!((worker.status().run, worker.status().state), (2, Public::Running));
    tokio::time::sleep(SOON).await;
    assert_eq!(worker.status().run, 2);
    assert_eq!(causes(&bench.recorded()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kill_during_a_policys_stop_escalates_and_a_second_violation_changes_nothing() {
    let mut bench = Bench::new(1);
    let set = |s: &mut Spec| {
        s.limits.pids.policy = ViolationPolicy::GracefulShutdown;
        s.limits.memory.policy = ViolationPolicy::ImmediateKill;
        s.limits.memory.oom_scope = OomGroup::Process;
    };
    let script = Script { on_signal: OnSignal::Ignores, oom: Some((3 * SEC, Oom::Child)), ..forks_refused() };
    let worker = started(&bench, spec(set), script).await;
    let stopping = reached(&worker, |s| s.detail == Detail::Stopping(StoppingDetail::Term)).await;
    tokio::time::sleep(5 * SEC).await;
    assert_eq!(worker.status().since, stopping.since, "the OOM kill of a child meanwhile changed nothing");
    worker.kill(KilledBy::Operator).await.unwrap();
    assert!(bench.shared.clock.now().since(stopping.since) < 10 * SEC);
    let cause = causes(&bench.recorded());
    assert!(matches!(cause[..], [ExitCause::Killed { by: KilledBy::Operator, .. }]), "{cause:?}");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_an_unkillable_run_is_told_and_clears_itself() {
    let bench = Bench::new(1);
    let script = Script { dies_slowly: 60 * SEC, on_signal: OnSignal::Ignores, ..Script::default() };
    let worker = started(&bench, spec(|_| {}), script).await;
    assert!(worker.kill(KilledBy::Operator).await.is_err());
    let status = reached(&worker, |s| s.stuck_on.is_some()).await;
    assert_eq!(status.detail, Detail::Stopping(StoppingDetail::Unkillable));
    assert!(status.stuck_on.unwrap().contains("folio_wait_bit"));
    let status = reached(&worker, |s| s.state == Public::Stopped).await;
    assert_eq!(status.stuck_on, None);
}

#[tokio::test(start_paused = true)]
async fn the_story_of_the_last_end_has_its_violations_its_evidence_and_what_was_decided() {
    let bench = Bench::new(1);
    let set = |s: &mut Spec| s.limits.memory.policy = ViolationPolicy::Restart;
    let script = Script { oom: Some((SEC, Oom::All { notified: true })), ..Script::default() };
    let worker = started(&bench, spec(set), script).await;
    reached(&worker, |s| s.run == 2 && s.state == Public::Running).await;
    let story = worker.story();
    let run = |e: &model::Event| e.run;
    assert_eq!(story.exited.as_deref().and_then(run), Some(1));
    assert_eq!(story.usage.as_deref().and_then(run), Some(1));
    assert_eq!(story.violations.iter().map(run).collect::<Vec<_>>(), [Some(1)]);
    assert!(story.decisions.iter().all(|e| run(e) == Some(1)) && !story.decisions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn usage_samples_are_taken_at_their_period_and_only_where_they_are_asked_for() {
    let mut bench = Bench::new(1);
    let set = |s: &mut Spec| s.limits.monitoring.interval = Some(10 * SEC);
    let _worker = started(&bench, spec(set), Script::default()).await;
    tokio::time::sleep(55 * SEC).await;
    let samples = bench.recorded().iter().filter(|e| matches!(e.kind, EventKind::Sample { .. })).count();
    assert_eq!(samples, 5);
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_lost_its_cgroup_ends_the_main_process_all_the_same() {
    let bench = Bench::new(1);
    let script = Script { kill_refusals: 99, on_signal: OnSignal::Ignores, ..Script::default() };
    let worker = started(&bench, spec(|_| {}), script).await;
    let killed = worker.kill(KilledBy::Operator);
    tokio::time::sleep(SEC / 20).await;
    bench.kernel.steal_directory(&run_of(&worker, 1));
    killed.await.unwrap();
    assert_eq!(worker.status().state, Public::Stopped);
}
