//! One supervisor dies between two turns, and the next one goes on: what had ended is told, once and as it was; what was being
//! ended is ended, and what was to follow follows.

use std::time::Duration;

use super::*;
use crate::model::{
    Class, Detail, Event as Told, ExitCause, HealthReport, KilledBy, PolicyName, ProbeKind, Stage, StartError,
    State as Public, StoppedDetail, Trigger,
};
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::testing::{Bench, Call, Children, OnSignal, Script, wait_for};

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(600);

struct Mortal {
    worker: WorkerHandle,
    task: tokio::task::JoinHandle<()>,
}

fn supervised(bench: &Bench, id: &WorkerId, spec: &Spec) -> Mortal {
    let (worker, actor) = supervise(&bench.shared, bench.left_of(id, Arc::new(spec.clone())));
    Mortal { worker, task: tokio::spawn(actor) }
}

/// The supervisor dies, and with it what is in its memory; another one begins.
async fn next(bench: &mut Bench, died: Mortal, spec: &Spec) -> (Mortal, Vec<Told>) {
    died.task.abort();
    drop(died.task.await);
    bench.ledger.crash();
    let told = bench.recorded();
    (supervised(bench, died.worker.id(), spec), told)
}

fn at_once(mode: RestartMode) -> Spec {
    let restart =
        RestartPolicy { mode, max_retries: 9, retry_delay: Duration::ZERO, jitter: 0.0, ..Default::default() };
    Spec { restart, ..Spec::new(vec!["x".into()]) }
}

fn ends(told: &[Told]) -> Vec<(u32, ExitCause)> {
    let end = |e: &Told| match &e.kind {
        EventKind::Exited { cause, .. } => Some((e.run?, cause.clone())),
        _ => None,
    };
    told.iter().filter_map(end).collect()
}

fn id() -> WorkerId {
    WorkerId::new("w").unwrap()
}

async fn begun(bench: &Bench, spec: &Spec, scripts: impl IntoIterator<Item = Script>) -> Mortal {
    for script in scripts {
        bench.kernel.script(&id(), script);
    }
    let mortal = supervised(bench, &id(), spec);
    mortal.worker.start(Trigger::Operator).await.unwrap();
    mortal
}

/// A worker as [`begun`], of which `ask` is asked, and whose supervisor is replaced when its run ends.
async fn replaced_while_it_ends(
    bench: &mut Bench,
    spec: &Spec,
    script: Script,
    ask: impl FnOnce(&WorkerHandle),
) -> (WorkerHandle, Vec<Told>) {
    let first = begun(bench, spec, [script]).await;
    ask(&first.worker);
    wait_for(&first.worker, SOON, |s| s.state == Public::Stopping).await.unwrap();
    let (second, told) = next(bench, first, spec).await;
    (second.worker, told)
}

fn liveness_fails(worker: &WorkerHandle) {
    let report = HealthReport::Failed { probe: ProbeKind::Liveness, observed: "no answer".into() };
    drop(worker.health(1, report));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_store_has_not_is_told_again_by_the_keeper_and_one_that_it_has_is_not() {
    let mut had = [0, 0];
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.ledger.chaos(true);
        let spec = at_once(RestartMode::Never);
        let first = begun(&bench, &spec, [Script::exits(SEC, 3)]).await;
        wait_for(&first.worker, SOON, |s| s.detail == Detail::Stopped(StoppedDetail::Failed)).await.unwrap();
        // It was written a moment ago, or is about to be.
        let (second, before) = next(&mut bench, first, &spec).await;
        let stored = bench.ledger.record_of(&id()).is_some_and(|record| record.has_end_of(1));
        assert_eq!(ends(&before), [(1, ExitCause::Exited { code: 3 })]);
        wait_for(&second.worker, SOON, |s| s.detail == Detail::Stopped(StoppedDetail::Failed)).await.unwrap();
        tokio::time::sleep(SEC).await;
        let again = if stored { vec![] } else { vec![(1, ExitCause::Exited { code: 3 })] };
        assert_eq!(ends(&bench.recorded()), again, "stored: {stored}");
        assert_eq!(bench.kernel.directories(), [], "and it is cleared away");
        let ended = bench.ledger.record_of(&id()).unwrap().last_run.unwrap().ended.unwrap();
        assert_eq!(ended.cause, ExitCause::Exited { code: 3 });
        had[usize::from(stored)] += 1;
    }
    assert!(had.iter().all(|n| *n > 0), "{had:?}");
}

#[tokio::test(start_paused = true)]
async fn an_end_before_the_run_there_is_is_in_that_runs_record_until_the_store_has_it() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.ledger.chaos(true);
        let spec = at_once(RestartMode::OnFailure);
        let first = begun(&bench, &spec, [Script::exits(SEC, 1), Script::exits(MS, 2)]).await;
        wait_for(&first.worker, SOON, |s| s.run == 3 && s.state == Public::Running).await.unwrap();
        let (second, before) = next(&mut bench, first, &spec).await;
        let all = [(1, ExitCause::Exited { code: 1 }), (2, ExitCause::Exited { code: 2 })];
        assert_eq!(ends(&before), all);
        let record = bench.ledger.record_of(&id());
        let missing = (1..3).filter(|run| !record.as_ref().is_some_and(|record| record.has_end_of(*run))).count();
        lost += missing;
        let status = wait_for(&second.worker, SOON, |s| s.state == Public::Running).await.unwrap();
        assert_eq!((status.run, status.restarts), (3, 2), "untouched, and nothing is forgotten");
        tokio::time::sleep(SEC).await;
        assert_eq!(ends(&bench.recorded()), all[2 - missing..], "what the store has not is told once more");
        assert!(bench.ledger.record_of(&id()).unwrap().has_end_of(2));
        assert_eq!(bench.kernel.directories().len(), 1);
    }
    assert!(lost > 0);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_told_while_something_is_left_of_it_is_no_second_strike() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::OnFailure);
    let script = Script { children: Children::Stubborn, ..Script::exits(SEC, 1) };
    let (second, before) = replaced_while_it_ends(&mut bench, &spec, script, |_| ()).await;
    assert_eq!(ends(&before).len(), 1);
    // As every supervisor does: it is no reason to start what its policy has to decide on.
    second.start(Trigger::Config).await.unwrap();
    let status = wait_for(&second, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert_eq!((status.restarts, status.breaker[0].attempts), (1, 1));
    assert_eq!(ends(&bench.recorded()), []);
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_whose_remains_outlive_the_supervisor_stays_an_end() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::OnFailure);
    let script = Script { children: Children::Stubborn, ..Script::exits(SEC, 0) };
    let (second, _) = replaced_while_it_ends(&mut bench, &spec, script, |_| ()).await;
    second.start(Trigger::Config).await.unwrap();
    let status = wait_for(&second, SOON, |s| s.state == Public::Stopped).await.unwrap();
    assert_eq!((status.run, status.detail), (1, Detail::Stopped(StoppedDetail::Done)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_has_begun_is_carried_through_and_its_end_is_ours() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::Never);
    let script = Script { on_signal: OnSignal::Dies(5 * SEC), ..Default::default() };
    let restart = |worker: &WorkerHandle| drop(worker.restart(false));
    let (second, _) = replaced_while_it_ends(&mut bench, &spec, script, restart).await;
    let status = wait_for(&second, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert_eq!(status.restarts, 0, "it was asked for");
    let killed = ExitCause::Killed { by: KilledBy::Stop, policy: None };
    assert_eq!(ends(&bench.recorded()), [(1, killed)], "no stranger's signal");
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_a_failed_check_is_carried_through_and_counted_once() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::Never);
    let spec = Spec { restart: RestartPolicy { mode: RestartMode::OnFailure, ..spec.restart.clone() }, ..spec };
    let script = Script { on_signal: OnSignal::Exits(5 * SEC, 0), ..Default::default() };
    let (second, _) = replaced_while_it_ends(&mut bench, &spec, script, liveness_fails).await;
    let status = wait_for(&second, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert_eq!((status.restarts, status.restarts_by.health), (1, 1));
    let class = status.breaker.iter().find(|class| class.class == Class::Health).unwrap();
    assert_eq!(class.attempts, 1);
    let killed = ExitCause::Killed { by: KilledBy::Policy, policy: Some(PolicyName::Health.as_str().to_owned()) };
    assert_eq!(ends(&bench.recorded()), [(1, killed)]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_has_begun_is_tried_again_and_is_ours() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::Always);
    let script = Script { dies_slowly: 5 * SEC, ..Default::default() };
    let kill = |worker: &WorkerHandle| drop(worker.kill(KilledBy::Operator));
    let (second, _) = replaced_while_it_ends(&mut bench, &spec, script, kill).await;
    wait_for(&second, SOON, |s| s.state == Public::Stopped).await.unwrap();
    let killed = ExitCause::Killed { by: KilledBy::Operator, policy: None };
    assert_eq!(ends(&bench.recorded()), [(1, killed)]);
    let kills = bench.kernel.calls().into_iter().filter(|(_, call)| matches!(call, Call::Kill(_)));
    assert_eq!(kills.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_failed_is_told_until_the_store_has_it() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.ledger.chaos(true);
        let spec = at_once(RestartMode::Never);
        let error = StartError::os(Stage::Exec, "it", 2);
        bench.kernel.script(&id(), Script { launch: crate::testing::Launch::Fails(MS, error), ..Default::default() });
        let first = supervised(&bench, &id(), &spec);
        first.worker.start(Trigger::Operator).await.unwrap_err();
        let (second, before) = next(&mut bench, first, &spec).await;
        assert!(matches!(ends(&before)[..], [(1, ExitCause::StartFailed { .. })]), "{before:?}");
        let stored = bench.ledger.record_of(&id()).is_some_and(|record| record.has_end_of(1));
        wait_for(&second.worker, SOON, |s| s.state == Public::Stopped).await.unwrap();
        tokio::time::sleep(SEC).await;
        let again = ends(&bench.recorded());
        assert_eq!(again.is_empty(), stored, "{again:?}");
        lost += usize::from(!stored);
        assert!(bench.ledger.record_of(&id()).unwrap().has_end_of(1));
        assert_eq!(bench.kernel.directories(), []);
    }
    assert!(lost > 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_run_is_cleared_away_before_the_store_has_its_end() {
    let bench = Bench::new(1);
    bench.ledger.chaos(true);
    let first = begun(&bench, &at_once(RestartMode::Never), [Script::exits(SEC, 3)]).await;
    wait_for(&first.worker, SOON, |s| s.state == Public::Stopped).await.unwrap();
    let removed = || bench.kernel.calls().iter().any(|(_, call)| matches!(call, Call::Remove(_)));
    assert!(!removed());
    tokio::time::sleep(SEC).await;
    assert!(removed());
    assert_eq!(
        bench.ledger.record_of(&id()).unwrap().last_run.unwrap().ended.unwrap().cause,
        ExitCause::Exited { code: 3 }
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_no_run_from_being_cleared_away() {
    let bench = Bench::new(1);
    bench.ledger.full(true);
    let first = begun(&bench, &at_once(RestartMode::Never), [Script::exits(SEC, 3)]).await;
    wait_for(&first.worker, SOON, |s| s.state == Public::Stopped).await.unwrap();
    tokio::time::sleep(SEC).await;
    assert_eq!(bench.kernel.directories(), []);
}

#[tokio::test(start_paused = true)]
async fn what_ended_with_everything_is_started_again_unless_everything_is_to_end_still() {
    for idle in [true, false] {
        let mut bench = Bench::new(1);
        let spec = at_once(RestartMode::Never);
        let script = Script { on_signal: OnSignal::Dies(5 * SEC), ..Default::default() };
        let first = begun(&bench, &spec, [script]).await;
        drop(first.worker.stop(KilledBy::Shutdown));
        wait_for(&first.worker, SOON, |s| s.state == Public::Stopping).await.unwrap();
        first.task.abort();
        drop(first.task.await);
        let charge = bench.left_of(&id(), Arc::new(spec));
        let second = spawn(&bench.shared, Charge { idle, ..charge });
        bench.recorded();
        let last = if idle { (1, Public::Stopped) } else { (2, Public::Running) };
        let status = wait_for(&second, SOON, |s| (s.run, s.state) == last).await.unwrap();
        assert_eq!(status.restarts, 0);
        assert_eq!(ends(&bench.recorded()), [(1, ExitCause::Killed { by: KilledBy::Shutdown, policy: None })]);
        tokio::time::sleep(SOON).await;
        assert_eq!(second.status().run, last.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_was_decided_outlives_its_run_and_its_supervisor() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::OnFailure);
    let health = crate::policy::restart::BudgetOverride { retry_delay: Some(60 * SEC), ..Default::default() };
    let spec = Spec { restart: RestartPolicy { health_failures: health, ..spec.restart.clone() }, ..spec };
    let script = Script { children: Children::Stubborn, ..Script::exits(5 * SEC, 0) };
    let (second, _) = replaced_while_it_ends(&mut bench, &spec, script, liveness_fails).await;
    let status = wait_for(&second, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert_eq!((status.restarts, status.restarts_by.health), (1, 1), "a clean end alone would be followed by nothing");
}

#[tokio::test(start_paused = true)]
async fn the_kill_of_what_a_run_has_left_behind_does_not_begin_with_patience_again() {
    let mut bench = Bench::new(1);
    let spec = at_once(RestartMode::Never);
    let script = Script { children: Children::Stubborn, dies_slowly: 2 * SEC, ..Script::exits(SEC, 0) };
    let first = begun(&bench, &spec, [script]).await;
    wait_for(&first.worker, SOON, |s| s.state == Public::Stopping).await.unwrap();
    drop(first.worker.kill(KilledBy::Operator));
    let killed = |bench: &Bench| bench.kernel.calls().iter().filter(|(_, call)| matches!(call, Call::Kill(_))).count();
    while killed(&bench) == 0 {
        tokio::task::yield_now().await;
    }
    let at = bench.shared.clock.now();
    let (second, _) = next(&mut bench, first, &spec).await;
    wait_for(&second.worker, SOON, |s| s.state == Public::Stopped).await.unwrap();
    assert!(bench.shared.clock.now().since(at) < 5 * SEC && killed(&bench) == 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_record_is_written_after_its_end_is_told_once_by_each() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.ledger.chaos(true);
        let spec = at_once(RestartMode::OnFailure);
        let script = Script { children: Children::Stubborn, ..Script::exits(SEC, 3) };
        let first = begun(&bench, &spec, [script]).await;
        wait_for(&first.worker, SOON, |s| s.state == Public::Stopping).await.unwrap();
        drop(first.worker.kill(KilledBy::Operator));
        // Its turn, and no more.
        first.worker.wait_for(|s| !s.desired_up).await.unwrap();
        let (second, _) = next(&mut bench, first, &spec).await;
        lost += usize::from(!bench.ledger.record_of(&id()).is_some_and(|record| record.has_end_of(1)));
        wait_for(&second.worker, SOON, |s| s.state == Public::Stopped).await.unwrap();
        assert!(ends(&bench.recorded()).len() <= 1);
    }
    assert!(lost > 0);
}
