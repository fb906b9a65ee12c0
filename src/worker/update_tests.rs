//! Another spec for a worker that lives, rests, begins or ends.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::model::{Detail, EventKind, KilledBy, Stage, StartError, State as Public, StoppedDetail, Trigger};
use crate::spec::types::{Limits, Memory, Pids, Pressure, PressureTrigger, ViolationPolicy};
use crate::testing::{Bench, Call, Launch, OnSignal, Script, wait_for};
use crate::worker::handle::{AskError, Reach, Renew};

const SECOND: Duration = Duration::from_secs(1);

fn spec(program: &str) -> Spec {
    Spec::new(vec![program.to_owned()])
}

fn limited(pids: u64) -> Spec {
    Spec { limits: Limits { pids: Pids { max: Some(pids), ..Pids::default() }, ..Limits::default() }, ..spec("x") }
}

const fn config(generation: u64, renew: bool) -> Reach {
    let renew = if renew { Renew::Yes } else { Renew::No };
    Reach::Config { generation, renew }
}

fn run(number: u32) -> RunId {
    RunId::new(WorkerId::new("w").unwrap(), number)
}

fn script(bench: &Bench, script: Script) {
    bench.kernel.script(&WorkerId::new("w").unwrap(), script);
}

async fn running(bench: &Bench, spec: Spec) -> WorkerHandle {
    let worker = bench.worker("w", spec).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    worker
}

fn runs(bench: &Bench) -> usize {
    bench.kernel.calls().iter().filter(|(_, call)| matches!(call, Call::Launch(..))).count()
}

#[tokio::test(start_paused = true)]
async fn rules_change_and_nothing_of_the_run_is_touched() {
    let mut bench = Bench::new(1);
    let worker = running(&bench, spec("x")).await;
    bench.recorded();
    let calls = bench.kernel.calls().len();
    let mut patient = spec("x");
    patient.stop.timeout = 99 * SECOND;
    worker.update(Arc::new(patient), config(2, false)).await.unwrap();
    assert_eq!(bench.kernel.calls().len(), calls, "the kernel hears nothing");
    let status = worker.status();
    assert_eq!((status.run, status.desired_generation, status.observed_generation), (1, 2, 2));
    // And it goes by them: the stop takes as long as it now may.
    script(&bench, Script::default());
    let said = bench.recorded().into_iter().find_map(|event| match event.kind {
        EventKind::Operator { what, .. } => Some(what),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("update to generation 2: stop"));
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_it_runs_and_each_file_is_an_event() {
    let mut bench = Bench::new(1);
    let worker = running(&bench, limited(5)).await;
    let pid = worker.status().pid;
    bench.recorded();
    worker.update(Arc::new(limited(9)), config(2, false)).await.unwrap();
    assert_eq!((worker.status().pid, worker.status().observed_generation), (pid, 2));
    assert_eq!(bench.kernel.limit(&run(1), "pids.max").as_deref(), Some("9"));
    let set: Vec<_> = bench
        .recorded()
        .into_iter()
        .filter_map(|event| match event.kind {
            EventKind::LimitChanged { file, value, .. } => Some((file, value)),
            _ => None,
        })
        .collect();
    assert_eq!(set, [("pids.max".to_owned(), "9".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn limits_that_are_refused_leave_the_old_ones_and_hold_from_the_next_run() {
    let bench = Bench::new(1);
    script(
        &bench,
        Script { limits_refused: Some(StartError::refused(Stage::Limit, "9 is below 10")), ..Script::default() },
    );
    let worker = running(&bench, limited(50)).await;
    let refused = worker.update(Arc::new(limited(9)), config(2, false)).await;
    let Err(AskError::Refused { why: Refusal::Limits(why), .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(why, "9 is below 10");
    let status = worker.status();
    assert_eq!((status.state, status.desired_generation, status.observed_generation), (Public::Running, 2, 1));
    assert_eq!(bench.kernel.limit(&run(1), "pids.max").as_deref(), Some("50"));
    worker.restart(false).await.unwrap();
    assert_eq!(bench.kernel.limit(&run(2), "pids.max").as_deref(), Some("9"));
    assert_eq!(worker.status().observed_generation, 2);
}

#[tokio::test(start_paused = true)]
async fn limits_for_a_run_end_with_it() {
    let bench = Bench::new(1);
    let worker = running(&bench, limited(5)).await;
    worker.update(Arc::new(limited(9)), Reach::Run).await.unwrap();
    worker.update(Arc::new(limited(10)), Reach::Run).await.unwrap();
    assert_eq!(bench.kernel.limit(&run(1), "pids.max").as_deref(), Some("10"));
    assert_eq!(worker.status().desired_generation, 1, "nothing else is configured");
    worker.restart(false).await.unwrap();
    assert_eq!(bench.kernel.limit(&run(2), "pids.max").as_deref(), Some("5"));
    worker.stop(KilledBy::Stop).await.unwrap();
    let refused = worker.update(Arc::new(limited(9)), Reach::Run).await;
    assert!(matches!(refused, Err(AskError::Refused { why: Refusal::NotRunning, .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_limits_is_on_record_as_asking_whatever_comes_of_it() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("w", limited(5)).unwrap();
    worker.update(Arc::new(limited(9)), Reach::Run).await.unwrap_err();
    let said = bench.recorded().into_iter().find_map(|event| match event.kind {
        EventKind::Operator { what, .. } => Some(what),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("asked to set for this run: limits.pids.max from 5 to 9"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_while_its_limits_change_is_followed_by_one_that_has_them() {
    let bench = Bench::new(1);
    script(&bench, Script { limits_take: 5 * SECOND, ..Script::exits(SECOND, 1) });
    let worker = running(&bench, limited(5)).await;
    worker.update(Arc::new(limited(9)), config(2, false)).await.unwrap();
    let status = wait_for(&worker, 60 * SECOND, |s| s.state == Public::Running && s.run == 2).await.unwrap();
    assert_eq!(status.observed_generation, 2);
    assert_eq!(bench.kernel.limit(&run(2), "pids.max").as_deref(), Some("9"));
}

#[tokio::test(start_paused = true)]
async fn two_changes_of_limits_at_once_are_not_mixed() {
    let bench = Bench::new(1);
    script(&bench, Script { limits_take: 5 * SECOND, ..Script::default() });
    let worker = running(&bench, limited(5)).await;
    let first = worker.update(Arc::new(limited(9)), config(2, false));
    let second = worker.update(Arc::new(limited(7)), Reach::Run).await;
    assert!(matches!(second, Err(AskError::Refused { why: Refusal::NotNow(_), .. })), "{second:?}");
    first.await.unwrap();
    assert_eq!(bench.kernel.limit(&run(1), "pids.max").as_deref(), Some("9"));
}

#[tokio::test(start_paused = true)]
async fn another_program_is_a_new_run_by_the_old_ones_stop() {
    let bench = Bench::new(1);
    let mut old = spec("x");
    old.stop.signal = 2;
    let worker = running(&bench, old).await;
    worker.update(Arc::new(spec("y")), config(2, true)).await.unwrap();
    let status = worker.status();
    assert_eq!((status.run, status.observed_generation, status.restarts), (2, 2, 0));
    let signals: Vec<i32> = bench
        .kernel
        .calls()
        .iter()
        .filter_map(|(_, call)| if let Call::Signal(_, signal, _) = call { Some(*signal) } else { None })
        .collect();
    assert_eq!(signals, [2], "what runs understands its own signal");
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_the_old_spec_is_followed_by_one_run_of_the_new() {
    let bench = Bench::new(1);
    script(&bench, Script { launch: Launch::Runs(5 * SECOND), ..Script::default() });
    let worker = bench.worker("w", spec("x")).unwrap();
    let started = worker.start(Trigger::Config);
    wait_for(&worker, SECOND, |s| s.detail == Detail::Launching).await.unwrap();
    // Ten triggers, and one run follows.
    let updates: Vec<_> =
        (2..7).map(|generation| worker.update(Arc::new(spec("y")), config(generation, true))).collect();
    let restarts: Vec<_> = (0..5).map(|_| worker.restart(false)).collect();
    started.await.unwrap();
    for answer in updates.into_iter().chain(restarts) {
        answer.await.unwrap();
    }
    let status = worker.status();
    assert_eq!((status.run, status.desired_generation, status.observed_generation), (2, 6, 6));
    assert_eq!(runs(&bench), 2);
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_the_old_spec_that_fails_is_no_answer_to_who_asked_for_the_new() {
    let bench = Bench::new(1);
    let error = StartError::os(Stage::Exec, "x", 2);
    script(&bench, Script { launch: Launch::Fails(5 * SECOND, error), ..Script::default() });
    let worker = bench.worker("w", spec("x")).unwrap();
    drop(worker.start(Trigger::Config));
    wait_for(&worker, SECOND, |s| s.detail == Detail::Launching).await.unwrap();
    worker.update(Arc::new(spec("y")), config(2, true)).await.unwrap();
    assert_eq!((worker.status().run, worker.status().state), (2, Public::Running));
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_is_under_way_is_joined_for_it_starts_the_latest() {
    let bench = Bench::new(1);
    script(&bench, Script { on_signal: OnSignal::Dies(5 * SECOND), ..Script::default() });
    let worker = running(&bench, spec("x")).await;
    let restart = worker.restart(false);
    tokio::time::sleep(SECOND).await;
    worker.update(Arc::new(spec("y")), config(2, true)).await.unwrap();
    restart.await.unwrap();
    assert_eq!((worker.status().run, worker.status().observed_generation), (2, 2));
    assert_eq!(runs(&bench), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_goes_before_a_new_run_that_was_asked_for() {
    let bench = Bench::new(1);
    script(&bench, Script { launch: Launch::Runs(5 * SECOND), ..Script::default() });
    let worker = bench.worker("w", spec("x")).unwrap();
    drop(worker.start(Trigger::Config));
    wait_for(&worker, SECOND, |s| s.detail == Detail::Launching).await.unwrap();
    let update = worker.update(Arc::new(spec("y")), config(2, true));
    worker.stop(KilledBy::Stop).await.unwrap();
    assert!(matches!(update.await, Err(AskError::Refused { why: Refusal::Superseded, .. })));
    worker.at_rest().await.unwrap();
    assert_eq!(runs(&bench), 1);
    // Whoever starts it later starts what is configured.
    worker.start(Trigger::Operator).await.unwrap();
    assert_eq!(worker.status().observed_generation, 2);
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_down_stays_down_whatever_is_configured() {
    let bench = Bench::new(1);
    let worker = running(&bench, spec("x")).await;
    worker.stop(KilledBy::Stop).await.unwrap();
    worker.update(Arc::new(spec("y")), config(2, true)).await.unwrap();
    let status = worker.status();
    assert_eq!((status.detail, status.run), (Detail::Stopped(StoppedDetail::Stopped), 1));
    assert_eq!(
        (status.desired_generation, status.observed_generation),
        (2, 2),
        "there is nothing that goes by another"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_closes_an_open_breaker_and_starts_who_was_held_down() {
    let bench = Bench::new(1);
    let mut crashing = spec("x");
    crashing.restart.max_retries = 1;
    for _ in 0..2 {
        script(&bench, Script::exits(SECOND, 1));
    }
    let worker = running(&bench, crashing.clone()).await;
    wait_for(&worker, 60 * SECOND, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await.unwrap();
    worker.update(Arc::new(Spec { argv: vec!["y".into()], ..crashing }), config(2, false)).await.unwrap();
    assert_eq!((worker.status().state, worker.status().run), (Public::Running, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lifted_tripwire_is_not_written_under_its_feet() {
    let bench = Bench::new(1);
    script(&bench, Script { above_high: Some((SECOND, 600 * SECOND)), ..Script::default() });
    let high = |high| {
        let memory = Memory { max: Some(1 << 30), high: Some(high), ..Memory::default() };
        Spec { limits: Limits { memory, ..Limits::default() }, ..spec("x") }
    };
    let worker = running(&bench, high(1 << 20)).await;
    wait_for(&worker, 60 * SECOND, |s| !s.violations.is_empty()).await.unwrap();
    worker.update(Arc::new(high(2 << 20)), config(2, false)).await.unwrap();
    assert_eq!(bench.kernel.limit(&run(1), "memory.high"), Some((1 << 20).to_string()), "as it was left");
}

#[tokio::test(start_paused = true)]
async fn pressure_triggers_are_set_anew_where_a_limit_has_changed() {
    let bench = Bench::new(1);
    let worker = running(&bench, spec("x")).await;
    let policy = ViolationPolicy::Alert;
    let (stall, window) = (Duration::from_millis(100), SECOND);
    let trigger = PressureTrigger { full: false, stall, window, sustained: SECOND, policy };
    let pressure = Pressure { memory: Some(trigger), ..Pressure::default() };
    let watched = Spec { limits: Limits { pressure, ..Limits::default() }, ..spec("x") };
    worker.update(Arc::new(watched), config(2, false)).await.unwrap();
    assert!(bench.kernel.calls().iter().any(|(_, call)| *call == Call::Rewatch(run(1))));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_to_be_replaced_and_has_ended_itself_costs_its_follower_no_restart() {
    let bench = Bench::new(1);
    let wanted = Arc::new(spec("x"));
    let worker = running(&bench, spec("x")).await;
    let of = |run| Reach::Config { generation: 2, renew: Renew::Of(run) };
    worker.update(Arc::clone(&wanted), of(1)).await.unwrap();
    wait_for(&worker, 60 * SECOND, |s| s.state == Public::Running && s.run == 2).await.unwrap();
    worker.update(wanted, of(1)).await.unwrap();
    assert_eq!((runs(&bench), worker.status().run), (2, 2), "run 2 is of that spec already");
}
