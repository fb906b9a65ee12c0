use std::time::Duration;

use super::*;
use crate::model::{
    Detail, ExitCause, ExitStatus, KilledBy, OomScope, Stage, StartError, State as Public, StoppingDetail, Target,
    Trigger, Way,
};
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::spec::types::{KillMode, Limits, Memory, OomGroup};
use crate::testing::{Bench, Call, Children, Launch, OnSignal, Oom, Script, wait_for};
use crate::worker::handle::AskError;
use crate::worker::state::Life;

const SEC: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(600);

fn spec(mode: RestartMode) -> Spec {
    let restart = RestartPolicy { mode, jitter: 0.0, ..Default::default() };
    Spec { restart, ..Spec::new(vec!["/bin/true".to_owned()]) }
}

fn never() -> Spec {
    spec(RestartMode::Never)
}

fn run(worker: &WorkerHandle, number: u32) -> RunId {
    RunId::new(worker.id().clone(), number)
}

fn causes(bench: &mut Bench) -> Vec<ExitCause> {
    let exited = |e: model::Event| match e.kind {
        EventKind::Exited { cause, .. } => Some(cause),
        _ => None,
    };
    bench.recorded().into_iter().filter_map(exited).collect()
}

async fn rest(worker: &WorkerHandle) {
    tokio::time::timeout(SOON, worker.at_rest()).await.expect("it comes to rest").unwrap();
}

async fn stopped(worker: &WorkerHandle) -> model::WorkerStatus {
    wait_for(worker, SOON, |s| s.state == Public::Stopped).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_start_makes_the_cgroup_first_and_is_answered_when_the_program_runs() {
    let bench = Bench::new(1);
    let worker = bench.worker("web", never()).unwrap();
    bench.kernel.script(worker.id(), Script { launch: Launch::Runs(2 * SEC), ..Default::default() });
    let asked = bench.shared.clock.now();
    worker.start(Trigger::Operator).await.unwrap();
    assert!(bench.shared.clock.now().since(asked) >= 2 * SEC);
    let status = worker.status();
    assert_eq!((status.state, status.run, status.pid), (Public::Running, 1, Some(300)));
    let calls: Vec<_> = bench.kernel.calls().into_iter().map(|(_, call)| call).collect();
    let r = run(&worker, 1);
    assert_eq!(calls, [Call::Prepare(r.clone()), Call::Launch(r.clone(), Way::Usual), Call::Note(r.clone())]);
    let note = bench.kernel.note_of(&r).unwrap();
    assert_eq!((note.pid, note.desired_up, note.uuid.len()), (Some(300), true, 36));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_always_fails_at_once_does_not_keep_a_stop_from_being_heard() {
    let bench = Bench::new(1);
    let restart = RestartPolicy { mode: RestartMode::Always, retry_delay: Duration::ZERO, ..Default::default() };
    let spec = Spec { restart, ..never() };
    let worker = bench.worker("hot", spec).unwrap();
    let refused = StartError::refused(Stage::Limit, "there is no memory controller");
    bench.kernel.script(worker.id(), Script { prepare: Some(refused), ..Default::default() });
    assert!(worker.start(Trigger::Config).await.is_err());
    worker.stop(KilledBy::Operator).await.unwrap();
    assert_eq!(worker.status().state, Public::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_is_reported_once_and_leaves_no_directory() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("job", never()).unwrap();
    bench.kernel.script(worker.id(), Script { removal_takes: SEC, ..Script::exits(5 * SEC, 3) });
    worker.start(Trigger::Config).await.unwrap();
    let status = stopped(&worker).await;
    assert_eq!(status.cause, Some(ExitCause::Exited { code: 3 }));
    assert_eq!(bench.kernel.directories().len(), 1, "stopped does not mean removed");
    rest(&worker).await;
    assert_eq!(bench.kernel.directories(), []);
    let events = bench.recorded();
    assert!(events.iter().map(|e| e.seq).eq(1..=events.len() as u64), "gapless from 1");
    let kinds: Vec<_> =
        events.iter().map(|e| serde_json::to_value(e).unwrap()["kind"].as_str().unwrap().to_owned()).collect();
    let expected = ["state", "state", "started", "state", "exited", "usage", "decision", "state"];
    assert_eq!(kinds, expected);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_events_go_on_when_a_worker_comes_back_and_nothing_is_held_for_one_that_is_gone() {
    let mut bench = Bench::new(1);
    let mut last: Option<WorkerHandle> = None;
    for round in 0..4 {
        // Every other one begins while the last one is there still.
        let worker = bench.worker("job", never()).unwrap();
        if let Some(last) = last.take() {
            last.leave(true);
            last.gone().await;
        }
        bench.kernel.script(worker.id(), Script::exits(SEC, 0));
        worker.start(Trigger::Config).await.unwrap();
        rest(&worker).await;
        if round % 2 == 0 {
            last = Some(worker);
        } else {
            worker.leave(true);
            worker.gone().await;
            assert!(bench.shared.seqs().held.is_empty());
        }
    }
    let events = bench.recorded();
    assert!(events.iter().map(|e| e.seq).eq(1..=events.len() as u64), "gapless from 1");
}

#[tokio::test(start_paused = true)]
async fn a_stop_asks_then_kills_at_the_timeout() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("deaf", never()).unwrap();
    bench.kernel.script(worker.id(), Script { on_signal: OnSignal::Ignores, ..Default::default() });
    worker.start(Trigger::Operator).await.unwrap();
    let asked = bench.shared.clock.now();
    worker.stop(KilledBy::Stop).await.unwrap();
    let took = bench.shared.clock.now().since(asked);
    assert!((30 * SEC..31 * SEC).contains(&took), "{took:?}");
    assert_eq!(causes(&mut bench), [ExitCause::Killed { by: KilledBy::StopTimeout, policy: None }]);
    assert!(bench.kernel.calls().iter().any(|(_, c)| *c == Call::Signal(run(&worker, 1), 15, Target::Main)));
}

#[tokio::test(start_paused = true)]
async fn kill_mode_group_asks_every_process_and_asks_once() {
    let bench = Bench::new(1);
    let mut group = never();
    group.stop.kill_mode = KillMode::Group;
    group.stop.signal = 2;
    let worker = bench.worker("group", group).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    worker.stop(KilledBy::Stop).await.unwrap();
    let signals: Vec<_> =
        bench.kernel.calls().into_iter().filter(|(_, c)| matches!(c, Call::Signal(..))).map(|(_, c)| c).collect();
    assert_eq!(signals, [Call::Signal(run(&worker, 1), 2, Target::All)]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_during_a_stop_escalates_and_answers_both() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("deaf", never()).unwrap();
    bench.kernel.script(worker.id(), Script { on_signal: OnSignal::Ignores, ..Default::default() });
    worker.start(Trigger::Operator).await.unwrap();
    let asked = bench.shared.clock.now();
    let stop = worker.stop(KilledBy::Stop);
    let (stop, kill) = tokio::join!(stop, async {
        wait_for(&worker, SOON, |s| s.detail == Detail::Stopping(StoppingDetail::Term)).await.unwrap();
        worker.kill(KilledBy::Operator).await
    });
    assert_eq!((stop, kill), (Ok(()), Ok(())));
    assert!(bench.shared.clock.now().since(asked) < SEC);
    assert_eq!(causes(&mut bench), [ExitCause::Killed { by: KilledBy::Operator, policy: None }]);
}

#[tokio::test(start_paused = true)]
async fn what_survives_sigkill_stays_unkillable_until_it_is_gone() {
    let bench = Bench::new(1);
    let worker = bench.worker("stuck", spec(RestartMode::Always)).unwrap();
    bench.kernel.script(worker.id(), Script { dies_slowly: 60 * SEC, ..Default::default() });
    worker.start(Trigger::Operator).await.unwrap();
    let answer = worker.kill(KilledBy::Operator).await;
    assert!(matches!(answer, Err(AskError::Refused { why: Refusal::Unkillable, .. })), "{answer:?}");
    assert_eq!(worker.status().detail, Detail::Stopping(StoppingDetail::Unkillable));
    let start = worker.start(Trigger::Operator).await;
    assert!(matches!(start, Err(AskError::Refused { why: Refusal::Unkillable, .. })), "nothing is started over it");
    assert_eq!(worker.status().run, 1);
    let status = wait_for(&worker, SOON, |s| s.state == Public::Running).await.unwrap();
    assert_eq!(status.run, 2, "it cleared itself, and the wish of the start stood");
}

#[tokio::test(start_paused = true)]
async fn a_refused_cgroup_kill_is_recorded_and_tried_again() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("again", never()).unwrap();
    bench.kernel.script(worker.id(), Script { kill_refusals: 3, ..Default::default() });
    worker.start(Trigger::Operator).await.unwrap();
    worker.kill(KilledBy::Operator).await.unwrap();
    let faults: Vec<_> = bench
        .recorded()
        .into_iter()
        .filter_map(|e| if let EventKind::Fault { error } = e.kind { Some(error) } else { None })
        .collect();
    assert_eq!(faults.len(), 3);
    assert!(faults[0].starts_with("cgroup.kill of again.1: Resource temporarily unavailable"), "{}", faults[0]);
}

#[tokio::test(start_paused = true)]
async fn the_next_try_is_not_forgotten_when_the_main_process_ends_meanwhile() {
    let bench = Bench::new(1);
    let worker = bench.worker("again", never()).unwrap();
    let script = Script { kill_refusals: 1, children: Children::Stubborn, ..Script::exits(50 * SEC / 1000, 0) };
    bench.kernel.script(worker.id(), script);
    worker.start(Trigger::Operator).await.unwrap();
    worker.kill(KilledBy::Operator).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn children_that_outlive_the_main_process_are_asked_then_killed() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("fork", never()).unwrap();
    bench.kernel.script(worker.id(), Script { children: Children::Stubborn, ..Script::exits(SEC, 0) });
    worker.start(Trigger::Operator).await.unwrap();
    let draining = wait_for(&worker, SOON, |s| s.detail == Detail::Stopping(StoppingDetail::Draining)).await.unwrap();
    assert_eq!((draining.pid, draining.cause), (None, Some(ExitCause::Exited { code: 0 })));
    stopped(&worker).await;
    let r = run(&worker, 1);
    let calls = bench.kernel.calls();
    let when = |call: Call| calls.iter().find(|(_, c)| *c == call).map(|(at, _)| *at).unwrap();
    let waited = when(Call::Kill(r.clone())).since(when(Call::Signal(r, 15, Target::All)));
    assert!((30 * SEC..31 * SEC).contains(&waited), "{waited:?}");
    assert_eq!(causes(&mut bench).len(), 1, "the exit is reported once");
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_held_back_from_start_to_start() {
    let bench = Bench::new(1);
    let mut endless = spec(RestartMode::OnFailure);
    endless.restart.max_retries = 0;
    let worker = bench.worker("loop", endless).unwrap();
    for _ in 0..4 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    worker.start(Trigger::Operator).await.unwrap();
    let status = wait_for(&worker, SOON, |s| s.run == 5 && s.state == Public::Running).await.unwrap();
    assert_eq!(status.restarts, 4);
    let calls = bench.kernel.calls();
    let begins: Vec<_> = calls.iter().filter(|(_, c)| matches!(c, Call::Prepare(_))).map(|(at, _)| *at).collect();
    let gaps: Vec<_> = begins.windows(2).map(|w| w[1].since(w[0]).as_secs_f64()).collect();
    for (gap, expected) in gaps.iter().zip([5.0, 7.5, 11.25, 16.875]) {
        assert!((expected..expected + 0.005).contains(gap), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_pending_restart() {
    let bench = Bench::new(1);
    let worker = bench.worker("loop", spec(RestartMode::Always)).unwrap();
    bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    worker.start(Trigger::Operator).await.unwrap();
    let waiting = wait_for(&worker, SOON, |s| s.next_attempt.is_some()).await.unwrap();
    assert_eq!((waiting.state, waiting.run), (Public::Stopped, 1));
    worker.stop(KilledBy::Stop).await.unwrap();
    tokio::time::sleep(SOON).await;
    let status = worker.status();
    assert_eq!((status.run, status.next_attempt, status.down_by), (1, None, Some(KilledBy::Stop)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_launch_changes_the_wish_now_and_the_state_later() {
    let bench = Bench::new(1);
    let worker = bench.worker("slow", spec(RestartMode::Always)).unwrap();
    bench.kernel.script(worker.id(), Script { launch: Launch::Runs(3 * SEC), ..Default::default() });
    let start = worker.start(Trigger::Operator);
    wait_for(&worker, SOON, |s| s.state == Public::Starting).await.unwrap();
    let stop = worker.stop(KilledBy::Stop);
    let status = wait_for(&worker, SEC, |s| !s.desired_up).await.unwrap();
    assert_eq!(status.state, Public::Starting);
    assert!(matches!(start.await, Err(AskError::Refused { why: Refusal::Superseded, .. })));
    stop.await.unwrap();
    assert_eq!(worker.status().cause, Some(ExitCause::Killed { by: KilledBy::Stop, policy: None }));
}

#[tokio::test(start_paused = true)]
async fn two_restarts_at_once_are_one_new_run_and_no_strike() {
    let bench = Bench::new(1);
    let worker = bench.worker("web", spec(RestartMode::OnFailure)).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    let (a, b) = tokio::join!(worker.restart(false), worker.restart(false));
    assert_eq!((a, b), (Ok(()), Ok(())));
    let status = worker.status();
    assert_eq!((status.state, status.run, status.restarts), (Public::Running, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_says_step_and_reason_and_is_retried_as_a_failure() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("typo", spec(RestartMode::OnFailure)).unwrap();
    bench.kernel.script(worker.id(), Script::fails(Stage::Exec, 2));
    let Err(AskError::Refused { why: Refusal::StartFailed(error), .. }) = worker.start(Trigger::Operator).await else {
        panic!("it cannot have started");
    };
    assert_eq!(error.to_string(), "exec it: No such file or directory");
    let status = wait_for(&worker, SOON, |s| s.state == Public::Running).await.unwrap();
    assert_eq!((status.run, status.restarts), (2, 1));
    assert_eq!(causes(&mut bench), [ExitCause::StartFailed { stage: Stage::Exec, errno: 2 }]);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_ran_ends_a_row_of_spawn_faults() {
    let bench = Bench::new(1);
    let worker = bench.worker("unlucky", spec(RestartMode::Never)).unwrap();
    for script in [Script::fails(Stage::Spawn, 0), Script::fails(Stage::Spawn, 0), Script::default()] {
        bench.kernel.script(worker.id(), script);
    }
    drop(worker.start(Trigger::Operator));
    wait_for(&worker, SOON, |s| s.run == 3 && s.state == Public::Running).await.unwrap();
    let ways = |(_, call)| if let Call::Launch(_, way) = call { Some(way) } else { None };
    let ways: Vec<Way> = bench.kernel.calls().into_iter().filter_map(ways).collect();
    assert_eq!(ways, [Way::Usual, Way::Other, Way::Usual], "after a fault, the other way");
    bench.kernel.script(worker.id(), Script::fails(Stage::Spawn, 0));
    drop(worker.restart(false));
    let waiting = wait_for(&worker, SOON, |s| s.run == 4 && s.next_attempt.is_some()).await.unwrap();
    let delay = waiting.next_attempt.unwrap().since(waiting.since);
    assert!(delay < Duration::from_millis(60), "{delay:?}: the first of a new row");
    assert_eq!(waiting.restarts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_cannot_be_set_is_a_failed_start_without_a_launch() {
    let bench = Bench::new(1);
    let worker = bench.worker("limit", never()).unwrap();
    let error = StartErrorOf::limit();
    bench.kernel.script(worker.id(), Script { prepare: Some(error.clone()), ..Default::default() });
    let answer = worker.start(Trigger::Operator).await;
    assert_eq!(answer, Err(AskError::Refused { worker: worker.id().clone(), why: Refusal::StartFailed(error) }));
    rest(&worker).await;
    assert!(!bench.kernel.calls().iter().any(|(_, c)| matches!(c, Call::Launch(..))));
}

struct StartErrorOf;
impl StartErrorOf {
    fn limit() -> crate::model::StartError {
        crate::model::StartError::refused(Stage::Limit, "memory.max needs the memory controller")
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_is_never_answered_is_killed() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("mute", never()).unwrap();
    bench.kernel.script(worker.id(), Script { launch: Launch::Unanswered, ..Default::default() });
    let answer = worker.start(Trigger::Operator).await;
    assert!(matches!(answer, Err(AskError::Refused { why: Refusal::StartFailed(_), .. })), "{answer:?}");
    rest(&worker).await;
    assert_eq!(causes(&mut bench), [ExitCause::StartFailed { stage: Stage::Timeout, errno: 0 }]);
}

fn leaky(oom_scope: OomGroup) -> Spec {
    let memory = Memory { max: Some(64 << 20), oom_scope, ..Default::default() };
    Spec { limits: Limits { memory, ..Default::default() }, ..never() }
}

#[tokio::test(start_paused = true)]
async fn an_oom_kill_is_the_cause_whether_or_not_its_notification_came_first() {
    for notified in [true, false] {
        let mut bench = Bench::new(1);
        let worker = bench.worker("leak", leaky(OomGroup::Worker)).unwrap();
        bench.kernel.script(worker.id(), Script { oom: Some((SEC, Oom::All { notified })), ..Default::default() });
        worker.start(Trigger::Operator).await.unwrap();
        stopped(&worker).await;
        let events = bench.recorded();
        let violations = events.iter().filter(|e| matches!(e.kind, EventKind::Violation { .. })).count();
        assert_eq!(violations, 1, "notified: {notified}");
        assert_eq!(worker.status().cause, Some(ExitCause::Oom { scope: OomScope::Worker }), "notified: {notified}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_childs_oom_is_an_event_and_not_the_cause_of_a_later_kill() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("child", leaky(OomGroup::Process)).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    bench.kernel.oom(&run(&worker, 1), Oom::Child);
    tokio::time::sleep(5 * SEC).await;
    assert_eq!(worker.status().state, Public::Running, "the main process lives");
    bench.kernel.exit(&run(&worker, 1), ExitStatus::Signaled { signal: 9, core: false });
    assert_eq!(stopped(&worker).await.cause, Some(ExitCause::KilledExternal));
    assert!(
        bench
            .recorded()
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Violation { resource, .. } if resource == "memory"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_childs_oom_and_a_kill_shortly_after_cannot_be_told_apart() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("child", leaky(OomGroup::Process)).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    bench.kernel.oom(&run(&worker, 1), Oom::Child);
    tokio::time::sleep(SEC).await;
    bench.kernel.exit(&run(&worker, 1), ExitStatus::Signaled { signal: 9, core: false });
    stopped(&worker).await;
    let confidence = bench.recorded().into_iter().find_map(|e| match e.kind {
        EventKind::Exited { cause: ExitCause::Oom { .. }, confidence, .. } => Some(confidence),
        _ => None,
    });
    assert_eq!(confidence, Some(model::Confidence::Likely));
}

#[tokio::test(start_paused = true)]
async fn a_fork_bomb_is_reported_once_in_a_run() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("bomb", never()).unwrap();
    for millis in [10, 20, 30] {
        bench.kernel.script(
            worker.id(),
            Script { refused_forks: Some((Duration::from_millis(millis), 5000)), ..Default::default() },
        );
    }
    worker.start(Trigger::Operator).await.unwrap();
    tokio::time::sleep(SEC).await;
    let forks = |e: &model::Event| matches!(&e.kind, EventKind::Violation { resource, .. } if resource == "pids");
    assert_eq!(bench.recorded().iter().filter(|e| forks(e)).count(), 1);
    worker.restart(false).await.unwrap();
    tokio::time::sleep(SEC).await;
    assert_eq!(bench.recorded().iter().filter(|e| forks(e)).count(), 1, "a new run, a new report");
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_its_cgroup_is_not_left_running() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("moved", never()).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    bench.kernel.steal_directory(&run(&worker, 1));
    rest(&worker).await;
    assert!(bench.kernel.calls().iter().any(|(_, c)| *c == Call::Signal(run(&worker, 1), 9, Target::Main)));
    let why = model::UnknownWhy::CgroupRemoved;
    assert_eq!(causes(&mut bench), [ExitCause::Unknown { why }], "it was not killed by somebody else, but by us");
}

#[tokio::test(start_paused = true)]
async fn a_run_found_alive_goes_on_under_the_same_pid() {
    let mut bench = Bench::new(1);
    let id = WorkerId::new("survivor").unwrap();
    let worker = bench.worker("survivor", spec(RestartMode::OnFailure)).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    let before = bench.kernel.calls().len();
    let crate::testing::Left { pid, note, .. } = bench.kernel.recover(&id).newest.unwrap();
    let charge = Charge::new(id, Arc::new(spec(RestartMode::OnFailure)), Found::Alive { pid, note, frozen: false });
    let worker = spawn(&bench.shared, charge);
    let status = wait_for(&worker, SOON, |s| s.state == Public::Running).await.unwrap();
    assert_eq!((status.pid, status.run), (Some(300), 1));
    tokio::time::sleep(7 * SEC).await;
    let asked: Vec<_> = bench.kernel.calls().into_iter().skip(before).map(|(_, call)| call).collect();
    assert_eq!(asked, [Call::Limits(run(&worker, 1))], "it is held to what is configured, and nothing else is asked");
    bench.recorded();
    bench.kernel.exit(&run(&worker, 1), ExitStatus::Exited { code: 9 });
    let status = wait_for(&worker, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert_eq!(status.restarts, 1);
    assert_eq!(causes(&mut bench), [ExitCause::Exited { code: 9 }]);
}

#[tokio::test(start_paused = true)]
async fn looking_never_waits_for_a_stop() {
    let bench = Bench::new(1);
    let worker = bench.worker("deaf", never()).unwrap();
    bench.kernel.script(worker.id(), Script { on_signal: OnSignal::Ignores, ..Default::default() });
    worker.start(Trigger::Operator).await.unwrap();
    let stop = worker.stop(KilledBy::Stop);
    wait_for(&worker, SOON, |s| s.state == Public::Stopping).await.unwrap();
    let at = bench.shared.clock.now();
    assert_eq!(worker.status().detail, Detail::Stopping(StoppingDetail::Term));
    assert_eq!(bench.shared.clock.now(), at);
    drop(stop);
    assert_eq!(stopped(&worker).await.state, Public::Stopped, "who stops waiting takes nothing back");
}

#[tokio::test(start_paused = true)]
async fn an_actor_without_handles_stays_with_its_worker_until_it_rests() {
    let bench = Bench::new(1);
    let found = Found::Nothing { last_run: 41 };
    let charge = Charge::new(WorkerId::new("orphan").unwrap(), Arc::new(never()), found);
    let (worker, actor) = supervise(&bench.shared, charge);
    let task = tokio::spawn(actor);
    bench.kernel.script(worker.id(), Script::exits(100 * SEC, 0));
    worker.start(Trigger::Operator).await.unwrap();
    assert_eq!(worker.status().run, 42, "numbers go on where they were");
    let began = bench.shared.clock.now();
    drop(worker);
    task.await.unwrap();
    assert!(bench.shared.clock.now().since(began) >= 99 * SEC);
    assert_eq!(bench.kernel.directories(), []);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_of_them_stay_small() {
    let bench = Bench::new(1);
    let found = Found::Nothing { last_run: 0 };
    let charge = Charge::new(WorkerId::new("small").unwrap(), Arc::new(never()), found);
    let (_worker, actor) = supervise(&bench.shared, charge);
    let sizes = (size_of::<State>(), size_of_val(&actor), size_of::<Published>());
    assert!(sizes.0 <= 512 && sizes.1 <= 1056 && sizes.2 <= 248, "state, task, published: {sizes:?}");
    let sizes = (size_of::<Life>(), size_of::<Story>(), size_of::<Message>());
    // The empty node of its queue is as large as a message.
    assert!(sizes.0 <= 328 && sizes.1 <= 80 && sizes.2 <= 16, "life, story, message: {sizes:?}");
}

#[test]
fn a_uuid_says_its_version_and_variant() {
    let mut random = fastrand::Rng::with_seed(7);
    let text = uuid(&mut random);
    assert_eq!((text.len(), &text[14..15]), (36, "4"), "{text}");
    assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_is_to_leave_does_so_at_once_where_its_worker_runs_or_rests_and_changes_nothing() {
    let bench = Bench::new(1);
    let (runs, rests) = (bench.worker("runs", never()).unwrap(), bench.worker("rests", never()).unwrap());
    bench.kernel.script(runs.id(), Script::default());
    runs.start(Trigger::Operator).await.unwrap();
    let before = bench.shared.clock.now();
    for worker in [&runs, &rests] {
        worker.leave(false);
        worker.gone().await;
    }
    assert_eq!(bench.shared.clock.now(), before);
    assert_eq!(bench.kernel.directories().len(), 1, "its run goes on");
    assert!(matches!(runs.stop(KilledBy::Stop).await, Err(AskError::Gone { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_is_to_leave_first_brings_a_launch_and_the_end_of_a_run_to_their_ends() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("web", never()).unwrap();
    bench.kernel.script(worker.id(), Script { launch: Launch::Runs(2 * SEC), ..Script::default() });
    let asked = bench.shared.clock.now();
    let started = worker.start(Trigger::Operator);
    worker.leave(false);
    worker.gone().await;
    assert!(bench.shared.clock.now().since(asked) >= 2 * SEC, "the launch is decided");
    started.await.unwrap();

    let worker = bench.worker("job", never()).unwrap();
    bench.kernel.script(worker.id(), Script { children: Children::Stubborn, ..Script::exits(SEC, 3) });
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, SOON, |s| s.cause.is_some()).await.unwrap();
    worker.leave(false);
    worker.gone().await;
    assert_eq!(worker.status().state, Public::Stopped, "what was left of it is gone, too");
    assert_eq!(causes(&mut bench), [ExitCause::Exited { code: 3 }]);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_has_to_leave_now_waits_for_nothing() {
    let bench = Bench::new(1);
    let worker = bench.worker("web", never()).unwrap();
    bench.kernel.script(worker.id(), Script { launch: Launch::Runs(20 * SEC), ..Script::default() });
    let started = worker.start(Trigger::Operator);
    worker.leave(true);
    let before = bench.shared.clock.now();
    worker.gone().await;
    assert_eq!(bench.shared.clock.now(), before);
    assert!(matches!(started.await, Err(AskError::Gone { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_is_to_leave_answers_whoever_waits_for_its_workers_end_first() {
    let bench = Bench::new(1);
    let worker = bench.worker("web", never()).unwrap();
    bench.kernel.script(worker.id(), Script { on_signal: OnSignal::Dies(2 * SEC), ..Script::default() });
    worker.start(Trigger::Operator).await.unwrap();
    let stopped = worker.stop(KilledBy::Stop);
    worker.leave(false);
    worker.gone().await;
    stopped.await.unwrap();
}
