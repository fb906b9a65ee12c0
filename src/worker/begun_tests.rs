//! What began each run, as the store remembers it.

use std::time::Duration;

use super::*;
use crate::model::{ExitCause, HealthReport, ProbeKind, Stage, State as Public, Trigger};
use crate::spec::types::ViolationPolicy;
use crate::testing::{Bench, Script, wait_for};
use crate::worker::handle::{Reach, Renew};

const SOON: Duration = Duration::from_secs(600);

fn spec() -> Spec {
    let mut spec = Spec::new(vec!["x".to_owned()]);
    spec.limits.pids.max = Some(9);
    spec.limits.pids.policy = ViolationPolicy::Restart;
    spec
}

fn last(bench: &Bench, worker: &WorkerHandle) -> (u32, Option<Begun>) {
    let run = bench.ledger.record_of(worker.id()).unwrap().last_run.unwrap();
    (run.number, run.begun)
}

async fn runs(worker: &WorkerHandle, number: u32) {
    wait_for(worker, SOON, |s| s.run == number && s.state == Public::Running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_run_is_remembered_with_what_began_it() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec()).unwrap();
    bench.kernel.script(worker.id(), Script::exits(Duration::from_secs(1), 1));
    worker.start(Trigger::Config).await.unwrap();
    assert_eq!(last(&bench, &worker), (1, Some(Begun::Start)));
    runs(&worker, 2).await;
    assert_eq!(last(&bench, &worker), (2, Some(Begun::Exit)));
    let failed = HealthReport::Failed { probe: ProbeKind::Liveness, observed: "HTTP 503".to_owned() };
    worker.health(2, failed).await.unwrap();
    runs(&worker, 3).await;
    assert_eq!(last(&bench, &worker), (3, Some(Begun::Health)));
    worker.restart(false).await.unwrap();
    assert_eq!(last(&bench, &worker), (4, Some(Begun::Operator)));
    let other = Spec { argv: vec!["y".to_owned()], ..spec() };
    let reach = Reach::Config { generation: 2, renew: Renew::Yes };
    worker.update(Arc::new(other), reach).await.unwrap();
    assert_eq!(last(&bench, &worker), (5, Some(Begun::Reload)));
    worker.stop(model::KilledBy::Stop).await.unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    assert_eq!(last(&bench, &worker), (6, Some(Begun::Start)), "what was before is not what began it");
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_a_limit_asked_for_says_so() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec()).unwrap();
    bench.kernel.script(worker.id(), Script { refused_forks: Some((Duration::from_secs(1), 1)), ..Script::default() });
    worker.start(Trigger::Operator).await.unwrap();
    runs(&worker, 2).await;
    assert_eq!(last(&bench, &worker), (2, Some(Begun::Violation)));
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_program_never_began_is_remembered_with_it_too() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec()).unwrap();
    bench.kernel.script(worker.id(), Script::fails(Stage::Exec, 2));
    assert!(worker.start(Trigger::Operator).await.is_err());
    let run = bench.ledger.record_of(worker.id()).unwrap().last_run.unwrap();
    assert!(matches!(run.ended.unwrap().cause, ExitCause::StartFailed { .. }));
    assert_eq!((run.pid, run.begun), (None, Some(Begun::Start)));
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_joins_a_restart_under_way_is_what_the_run_is_for() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", spec()).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    let on_signal = crate::testing::OnSignal::Dies(Duration::from_secs(5));
    bench.kernel.script(worker.id(), Script { on_signal, ..Script::default() });
    worker.restart(false).await.unwrap();
    let failed = HealthReport::Failed { probe: ProbeKind::Liveness, observed: "x".to_owned() };
    let health = worker.health(2, failed);
    let asked = worker.restart(false);
    drop(health.await);
    asked.await.unwrap();
    assert_eq!(last(&bench, &worker), (3, Some(Begun::Operator)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_taken_over_keeps_what_began_it_or_is_called_adopted_where_nobody_knows() {
    let bench = Bench::new(1);
    let id = WorkerId::new("w").unwrap();
    let worker = bench.worker("w", spec()).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    worker.restart(false).await.unwrap();
    let known = bench.ledger.record_of(&id).unwrap();
    drop(worker);
    let note = bench.kernel.note_of(&RunId::new(id.clone(), 2)).unwrap();
    for (remembered, expected) in [(Some(Box::new(known)), Begun::Operator), (None, Begun::Adopted)] {
        let found = Found::Alive { pid: note.pid, note: Box::new(note.clone()), frozen: false };
        let charge = Charge { remembered, ..Charge::new(id.clone(), Arc::new(spec()), found) };
        let next = spawn(&bench.shared, charge);
        runs(&next, 2).await;
        tokio::task::yield_now().await;
        assert_eq!(last(&bench, &next), (2, Some(expected)));
    }
}
