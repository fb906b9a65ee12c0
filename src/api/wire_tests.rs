use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::api::Moment;
use crate::manager::handle::Member;
use crate::model::{
    BreakerState, BreakerStatus, Class, Confidence, Counters, Decision, Detail, Event, EventKind, Evidence, ExitCause,
    ExitStatus, KilledBy, Limit, MemoryEvents, Mono, OomScope, PolicyName, Readiness, RestartCounts, State,
    StoppedDetail, Story, Trigger, Verdict, WorkerId, WorkerStatus,
};
use crate::spec::types::Spec;
use crate::testing::Bench;

fn at(ms: u64) -> Mono {
    Mono(Duration::from_millis(ms))
}

fn now() -> Moment {
    Moment::new(at(2_000_000), "2026-11-20T12:00:00Z".parse().unwrap())
}

fn member(bench: &Bench) -> Member {
    let mut spec = Spec::new(vec!["x".into()]);
    spec.limits.memory.max = Some(256 << 20);
    spec.limits.cpu.max_percent = Some(75.0);
    let worker = bench.worker("web-1", spec.clone()).unwrap();
    Member::new(WorkerId::new("web").unwrap(), Arc::new(spec), worker)
}

fn running() -> WorkerStatus {
    WorkerStatus {
        id: WorkerId::new("web-1").unwrap(),
        state: State::Running,
        detail: Detail::Running(Readiness::Degraded),
        pid: Some(4711),
        run: 3,
        since: at(1_940_000),
        started: Some(at(1_939_500)),
        restarts: 2,
        restarts_by: RestartCounts { exit: 1, health: 0, violation: 1 },
        breaker: vec![BreakerStatus {
            class: Class::Violation,
            state: BreakerState::Open,
            attempts: 5,
            max_attempts: Some(5),
            until: Some(at(2_299_000)),
        }],
        violations: vec![Limit::MemoryHigh],
        cause: Some(ExitCause::Oom { scope: OomScope::Worker }),
        next_attempt: None,
        desired_up: true,
        down_by: None,
        down_policy: None,
        stuck_on: None,
        desired_generation: 3,
        observed_generation: 2,
        generation: 17,
    }
}

fn event(kind: EventKind) -> Event {
    Event {
        v: 1,
        epoch: 3,
        seq: 7,
        time: "2026-11-20T11:59:00.123456Z".into(),
        mono_ns: 1_940_000_000_000,
        worker: Some(WorkerId::new("web-1").unwrap()),
        run: Some(2),
        kind,
    }
}

fn story() -> Story {
    let oom = |n| Some(MemoryEvents { oom_kill: n, ..MemoryEvents::default() });
    let evidence = Evidence {
        status: Some(ExitStatus::Signaled { signal: 9, core: false }),
        before: Counters { local: oom(0), ..Counters::default() },
        after: Counters { local: oom(1), ..Counters::default() },
        usage: None,
        asked_by: None,
        above: None,
        start_error: None,
        wall_ms: 12_345,
    };
    let cause = ExitCause::Oom { scope: OomScope::Worker };
    let mut story = Story::default();
    story.tell(&event(EventKind::Exited { cause, confidence: Confidence::Certain, evidence: Box::new(evidence) }));
    story.tell(&event(EventKind::Decision(Decision {
        trigger: Trigger::Exit,
        evidence: "oom".into(),
        class: Some(Class::Exit),
        limit: None,
        policy: "on-failure".into(),
        verdict: Verdict::Restart,
        rule: "a failure is restarted".into(),
        attempt: Some(2),
        max_attempts: Some(3),
        delay_ms: Some(7500),
    })));
    story
}

#[tokio::test]
async fn the_shape_of_a_worker() {
    let bench = Bench::new(1);
    let member = member(&bench);
    let mut up = Worker::new(&member, running(), &now());
    up.usage = Some(Usage { memory_bytes: Some(1 << 20), cpu_usec: Some(1500), ..Usage::default() });
    insta::assert_json_snapshot!("a_running_worker", up);
    let down = WorkerStatus {
        state: State::Stopped,
        detail: Detail::Stopped(StoppedDetail::Waiting),
        pid: None,
        started: None,
        next_attempt: Some(at(2_005_250)),
        breaker: Vec::new(),
        violations: Vec::new(),
        cause: Some(ExitCause::Killed { by: KilledBy::Policy, policy: Some("memory".into()) }),
        desired_up: false,
        down_by: Some(KilledBy::Policy),
        down_policy: Some(PolicyName::Memory),
        stuck_on: Some("4711 (x): nfs_wait".into()),
        ..running()
    };
    insta::assert_json_snapshot!("a_stopped_worker", Worker::new(&member, down, &now()));
}

#[tokio::test]
async fn the_shape_of_why() {
    let bench = Bench::new(1);
    let member = member(&bench);
    let worker = Worker::new(&member, running(), &now());
    let why = Why::new(worker, &story(), (&*member.spec).into(), |run| format!("/logs/web-1/{run}.stderr"));
    insta::assert_json_snapshot!(why);
}

#[tokio::test]
async fn a_client_reads_what_was_written() {
    let bench = Bench::new(1);
    let member = member(&bench);
    let worker = Worker::new(&member, running(), &now());
    let why = Why::new(worker.clone(), &story(), (&*member.spec).into(), |run| run.to_string());
    let again: Why = serde_json::from_str(&serde_json::to_string(&why).unwrap()).unwrap();
    assert_eq!(again, why);
    let problem = Problem::new(Code::NotFound, "there is no worker");
    assert_eq!(serde_json::from_str::<Problem>(&serde_json::to_string(&problem).unwrap()).unwrap(), problem);
    assert_eq!(serde_json::from_str::<Ask>("{}").unwrap(), Ask::default());
}

#[test]
fn a_client_lives_with_fields_and_codes_that_it_does_not_know() {
    let newer = r#"{"title":"x","status":418,"code":"is_a_teapot","detail":"y","more":[1]}"#;
    let problem: Problem = serde_json::from_str(newer).unwrap();
    assert_eq!((problem.status, problem.code), (418, Code::Unknown));
}

#[test]
fn every_code_has_a_word_and_a_status_of_its_kind() {
    let codes = [
        Code::NotFound,
        Code::BadRequest,
        Code::MethodNotAllowed,
        Code::NotPermitted,
        Code::TooLarge,
        Code::TooSlow,
        Code::TooManyConnections,
        Code::GoingDown,
        Code::BreakerOpen,
        Code::NotRunning,
        Code::StartFailed,
        Code::Ended,
        Code::NotNow,
        Code::Superseded,
        Code::Unkillable,
        Code::TimedOut,
        Code::Failed,
    ];
    let table: Vec<String> =
        codes.map(|code| format!("{} {}", code.status(), serde_json::to_string(&code).unwrap())).into();
    insta::assert_snapshot!(table.join("\n"));
}

#[test]
fn what_several_failed_in_is_told_as_one_only_where_it_is_one() {
    let settled = |worker: &str, code: Option<Code>| Settled {
        worker: WorkerId::new(worker).unwrap(),
        outcome: if code.is_some() { Word::Failed } else { Word::Done },
        code,
        error: code.map(|_| "why".to_owned()),
        state: State::Stopped,
        detail: Detail::Stopped(StoppedDetail::Stopped),
        pid: None,
        run: 1,
    };
    let code = |results: &[Settled]| Problem::of(results).map(|p| (p.code, p.status));
    assert_eq!(code(&[settled("a", None)]), None);
    let open = Some(Code::BreakerOpen);
    assert_eq!(code(&[settled("a", None), settled("b", open)]), Some((Code::BreakerOpen, 409)));
    assert_eq!(code(&[settled("a", open), settled("b", open)]), Some((Code::BreakerOpen, 409)));
    let conflicts = [settled("a", open), settled("b", Some(Code::Superseded))];
    assert_eq!(code(&conflicts), Some((Code::Failed, 409)), "nothing is wrong with the server");
    let mixed = [settled("a", open), settled("b", Some(Code::TimedOut)), settled("c", None)];
    assert_eq!(code(&mixed), Some((Code::Failed, 500)));
    let problem = Problem::of(&mixed).unwrap();
    assert_eq!(problem.detail, "worker a: why; and 1 more of 3 have failed");
    assert_eq!(problem.results.len(), 3, "also those that have not");
}
