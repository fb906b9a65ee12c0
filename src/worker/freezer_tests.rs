//! A frozen worker under an actor, in virtual time: what lasts, what a crash leaves, what is seen though nobody told it.

use std::time::Duration;

use super::*;
use crate::model::{Detail, ExitCause, KilledBy, Readiness, State as Public, Trigger, WorkerStatus};
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::testing::{Bench, Script, wait_for};
use crate::worker::handle::{AskError, Reach};

const SEC: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(600);

fn spec() -> Spec {
    let restart = RestartPolicy { mode: RestartMode::Always, jitter: 0.0, ..Default::default() };
    Spec { restart, ..Spec::new(vec!["x".into()]) }
}

fn id() -> WorkerId {
    WorkerId::new("w").unwrap()
}

fn run(number: u32) -> RunId {
    RunId::new(id(), number)
}

async fn started(bench: &Bench, script: Script) -> WorkerHandle {
    bench.kernel.script(&id(), script);
    let worker = bench.worker("w", spec()).unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    worker
}

fn is_frozen(status: &WorkerStatus) -> bool {
    status.detail == Detail::Running(Readiness::Frozen)
}

#[tokio::test(start_paused = true)]
async fn a_frozen_worker_stands_still_and_goes_on_as_the_same_run() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script { freezes_slowly: 2 * SEC, ..Script::exits(10 * SEC, 0) }).await;
    let (asked, before) = (bench.shared.clock.now(), worker.status());
    worker.freeze(true).await.unwrap();
    assert!(bench.shared.clock.now().since(asked) >= 2 * SEC, "it is answered when all of it stands still");
    let status = worker.status();
    assert!(is_frozen(&status));
    assert_eq!((status.run, status.pid, status.started, status.since), (1, before.pid, before.started, before.since));
    tokio::time::sleep(1000 * SEC).await;
    assert_eq!(worker.status().run, 1, "it does not come to its end");
    worker.freeze(false).await.unwrap();
    let status = wait_for(&worker, SOON, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    assert!(!is_frozen(&status), "a new run is not frozen");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_worker_is_stopped_killed_and_restarted_in_its_usual_time() {
    for how in ["stop", "kill", "restart"] {
        let bench = Bench::new(1);
        let worker = started(&bench, Script::default()).await;
        worker.freeze(true).await.unwrap();
        let asked = bench.shared.clock.now();
        match how {
            "stop" => worker.stop(KilledBy::Stop).await.unwrap(),
            "kill" => worker.kill(KilledBy::Operator).await.unwrap(),
            _ => worker.restart(false).await.unwrap(),
        }
        assert_eq!(bench.shared.clock.now(), asked, "{how}");
        let status = worker.status();
        assert!(!is_frozen(&status), "{how}: {status:?}");
        if how == "stop" {
            assert_eq!(status.cause, Some(ExitCause::Killed { by: KilledBy::Stop, policy: None }));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_dies_over_a_freeze_leaves_one_that_the_next_one_finds() {
    // Before the first moment of it, on its way, and long done.
    for (slowly, later) in [(2 * SEC, Duration::ZERO), (2 * SEC, SEC), (Duration::ZERO, 60 * SEC)] {
        let mut bench = Bench::new(1);
        bench.kernel.script(&id(), Script { freezes_slowly: slowly, ..Script::default() });
        let (worker, actor) = supervise(&bench.shared, bench.left_of(&id(), Arc::new(spec())));
        let task = tokio::spawn(actor);
        worker.start(Trigger::Operator).await.unwrap();
        let mut freeze = worker.freeze(true);
        freeze.taken().await;
        tokio::time::sleep(later).await;
        task.abort();
        drop(task.await);
        bench.ledger.crash();
        bench.recorded();
        let worker = spawn(&bench.shared, bench.left_of(&id(), Arc::new(spec())));
        assert_eq!(is_frozen(&worker.status()), slowly.is_zero(), "it is shown as it is from the first moment");
        let status = wait_for(&worker, SOON, is_frozen).await.unwrap();
        assert_eq!(status.run, 1);
        assert!(bench.kernel.is_frozen(&run(1)));
        worker.freeze(false).await.unwrap();
        assert!(!bench.kernel.is_frozen(&run(1)) && !is_frozen(&worker.status()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_hand_freezes_is_seen_by_whoever_looks_and_thawed_like_any_other() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script::default()).await;
    bench.kernel.freeze_by_another_hand(&run(1), true);
    tokio::time::sleep(SEC).await;
    assert!(!is_frozen(&worker.status()), "nobody has an eye on it");
    bench.shared.kernel.look_again(&run(1));
    wait_for(&worker, SOON, is_frozen).await.unwrap();
    bench.kernel.freeze_by_another_hand(&run(1), false);
    wait_for(&worker, SOON, |status| !is_frozen(status)).await.unwrap();

    bench.kernel.freeze_by_another_hand(&run(1), true);
    worker.freeze(false).await.unwrap();
    assert!(!bench.kernel.is_frozen(&run(1)), "a thaw thaws it, although it was not known to be frozen");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_shrinks_leaves_frozen_what_was_and_a_freeze_meanwhile_outlasts_it() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script { limits_take: 3 * SEC, ..Script::default() }).await;
    let smaller = || {
        let mut spec = spec();
        spec.limits.memory.max = Some(1 << 20);
        Arc::new(spec)
    };
    let set = worker.update(smaller(), Reach::Run);
    let freeze = worker.freeze(true);
    set.await.unwrap();
    freeze.await.unwrap();
    assert!(bench.kernel.is_frozen(&run(1)), "it was asked for during the change, which thaws what it froze");
    worker.update(Arc::new(spec()), Reach::Run).await.unwrap();
    tokio::time::sleep(SEC).await;
    assert!(bench.kernel.is_frozen(&run(1)) && is_frozen(&worker.status()));
    assert_eq!(bench.kernel.breaches(), [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn news_that_are_lost_are_told_when_somebody_looks() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script { frozen_lost: true, ..Script::default() }).await;
    let mut freeze = worker.freeze(true);
    assert!(tokio::time::timeout(60 * SEC, &mut freeze).await.is_err(), "nobody says so");
    bench.shared.kernel.look_again(&run(1));
    freeze.await.unwrap();
    assert!(is_frozen(&worker.status()));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_freeze_is_named_and_goes_on_to() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script { freezes_slowly: 5 * SEC, ..Script::default() }).await;
    let freeze = worker.freeze(true);
    let status = wait_for(&worker, SEC, |status| status.stuck_on.is_some()).await.unwrap();
    assert!(status.stuck_on.unwrap().starts_with("not frozen yet: pid 300 (fake) D in "));
    freeze.await.unwrap();
    assert_eq!(worker.status().stuck_on, None);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_is_quoted() {
    let bench = Bench::new(1);
    let worker = started(&bench, Script { freeze_refused: true, ..Script::default() }).await;
    let Err(AskError::Refused { why: Refusal::Kernel(why), .. }) = worker.freeze(true).await else { panic!() };
    assert!(why.starts_with("cgroup.freeze of w.1"), "{why}");
    assert!(!is_frozen(&worker.status()));
}
