//! In the terms of the package that users come from: `web-server`, of which there are three, and what is done to them.

use super::*;
use crate::model::{Detail, Mono, Readiness, Stage, StartError, StoppedDetail};
use crate::spec::types::{Limits, Pids};
use crate::testing::{Bench, Launch, OnSignal, Script, wait_for};

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn nginx() -> Spec {
    Spec::new(vec!["nginx".into(), "-g".into(), "daemon off;".into()])
}

fn manager(bench: &Bench) -> Manager {
    Manager::with(Arc::new(Crew::new(Arc::clone(&bench.shared))), Vec::new())
}

/// `web-server-1` to `-3`, all of them running.
async fn three(bench: &Bench) -> Manager {
    let manager = manager(bench);
    manager.start_n(&id("web-server"), nginx(), 3).await.unwrap();
    manager
}

fn names(manager: &Manager) -> Vec<String> {
    manager.all().iter().map(|member| member.id().to_string()).collect()
}

fn script(bench: &Bench, worker: &str, script: Script) {
    bench.kernel.script(&id(worker), script);
}

fn run(worker: &str, number: u32) -> RunId {
    RunId::new(id(worker), number)
}

#[tokio::test(start_paused = true)]
async fn start_runs_one_process_and_status_says_so() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    manager.start(id("web-server"), nginx()).await.unwrap();
    let status = manager.status("web-server").unwrap();
    assert_eq!((status.state, status.run), (State::Running, 1));
    assert!(status.pid.is_some());
    manager.start(id("web-server"), nginx()).await.unwrap();
    assert_eq!(manager.status("web-server").unwrap().run, 1, "it runs already");
    let other = manager.start(id("web-server"), Spec::new(vec!["apache".into()])).await;
    assert_eq!(other, Err(ManagerError::Differs { name: id("web-server") }));
}

#[tokio::test(start_paused = true)]
async fn a_start_error_is_returned_at_once() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    let error = StartError::os(Stage::Exec, "nginx", 2);
    script(&bench, "web", Script { launch: Launch::Fails(Duration::ZERO, error.clone()), ..Script::default() });
    let refused = manager.start(id("web"), nginx()).await;
    assert_eq!(refused, Err(ManagerError::Refused { worker: id("web"), why: Refusal::StartFailed(error) }));
}

#[tokio::test(start_paused = true)]
async fn start_n_creates_numbered_instances_and_patterns_mean_them() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    assert_eq!(names(&manager), ["web-server-1", "web-server-2", "web-server-3"]);
    manager.start(id("web-server-x"), nginx()).await.unwrap();
    for (pattern, count) in
        [("web-server", 3), ("web-server*", 4), ("web-server-?", 4), ("*", 4), ("", 4), ("web-server-2", 1), ("*-1", 1)]
    {
        assert_eq!(manager.count(pattern).unwrap(), count, "{pattern:?}");
        assert_eq!(manager.status_all(pattern).unwrap().len(), count, "{pattern:?}");
    }
    assert_eq!(manager.count("db"), Err(ManagerError::NoMatch(NoMatch::NotFound { part: "db".into() })));
    manager.stop("web-server-2", None).await.unwrap();
    assert_eq!(manager.count("web-server").unwrap(), 2, "only what runs is counted");
}

#[tokio::test(start_paused = true)]
async fn start_n_over_a_name_that_is_taken_makes_nothing() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    manager.start(id("web-server-2"), nginx()).await.unwrap();
    let refused = manager.start_n(&id("web-server"), nginx(), 3).await;
    assert_eq!(refused, Err(ManagerError::Taken { name: id("web-server-2") }));
    assert_eq!(names(&manager), ["web-server-2"]);
    let none = manager.start_n(&id("web-server"), nginx(), 0).await;
    assert_eq!(none, Err(ManagerError::Count { count: 0 }));
}

#[tokio::test(start_paused = true)]
async fn start_n_is_all_or_nothing_when_one_cannot_be_started() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    script(&bench, "web-server-2", Script::fails(Stage::Exec, 2));
    assert!(manager.start_n(&id("web-server"), nginx(), 3).await.is_err());
    assert_eq!(names(&manager), Vec::<String>::new());
    assert_eq!(bench.kernel.directories(), [], "and nothing of them is left");
    manager.start_n(&id("web-server"), nginx(), 3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_who_want_the_same_names_at_once_do_not_both_get_them() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    let (name, other) = (id("web-server"), id("web-server"));
    let both = tokio::join!(manager.start_n(&name, nginx(), 3), manager.start_n(&other, nginx(), 3));
    assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
    assert_eq!(manager.count("web-server").unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_and_a_process_that_does_not_listen_is_killed_when_the_time_is_over() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    script(&bench, "deaf", Script { on_signal: OnSignal::Ignores, ..Script::default() });
    manager.start(id("deaf"), nginx()).await.unwrap();
    let before = bench.shared.clock.now();
    manager.stop("deaf", Some(10 * SECOND)).await.unwrap();
    let took = bench.shared.clock.now().since(before);
    assert!(took >= 10 * SECOND && took < 11 * SECOND, "{took:?}");
    assert_eq!(manager.status("deaf").unwrap().state, State::Stopped);
    manager.stop("deaf", None).await.unwrap();
    assert!(matches!(manager.stop("none", None).await, Err(ManagerError::NoMatch(_))));
}

#[tokio::test(start_paused = true)]
async fn stop_all_stops_what_the_pattern_means_at_once_and_nobody_else() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    for number in 1..=3 {
        let on_signal = OnSignal::Dies(5 * SECOND);
        script(&bench, &format!("web-server-{number}"), Script { on_signal, ..Script::default() });
    }
    manager.start_n(&id("web-server"), nginx(), 3).await.unwrap();
    manager.start(id("db"), nginx()).await.unwrap();
    let before = bench.shared.clock.now();
    manager.stop_all("web-server*", Some(10 * SECOND)).await.unwrap();
    assert!(bench.shared.clock.now().since(before) < 6 * SECOND, "one after the other would take 15 s");
    assert_eq!((manager.count("web-server").unwrap(), manager.count("*").unwrap()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn scale_adds_the_lowest_free_numbers_and_takes_the_highest() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    let pid = manager.status("web-server-1").unwrap().pid;
    manager.scale("web-server", 5).await.unwrap();
    assert_eq!(manager.count("web-server").unwrap(), 5);
    let went = manager.scale("web-server", 2).await.unwrap();
    let went: Vec<_> = went.iter().map(|(member, outcome)| (member.id().as_str(), outcome)).collect();
    let done = &Outcome::Done;
    assert_eq!(went, [("web-server-5", done), ("web-server-4", done), ("web-server-3", done)]);
    assert_eq!(names(&manager), ["web-server-1", "web-server-2"]);
    manager.stop("web-server-1", None).await.unwrap();
    manager.remove("web-server-1").await.unwrap();
    manager.scale("web-server", 3).await.unwrap();
    assert_eq!(names(&manager), ["web-server-2", "web-server-1", "web-server-3"]);
    assert_ne!(manager.status("web-server-1").unwrap().pid, None);
    assert!(pid.is_some());
}

#[tokio::test(start_paused = true)]
async fn scale_goes_by_parentage_and_never_touches_what_is_only_spelled_so() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    manager.start_n(&id("x"), nginx(), 1).await.unwrap();
    manager.start(id("x-canary"), nginx()).await.unwrap();
    manager.start(id("x-7"), nginx()).await.unwrap();
    let before: Vec<_> = ["x-canary", "x-7", "x-1"].map(|name| manager.status(name).unwrap().pid).into();
    manager.scale("x", 2).await.unwrap();
    manager.scale("x", 1).await.unwrap();
    let after: Vec<_> = ["x-canary", "x-7", "x-1"].map(|name| manager.status(name).unwrap().pid).into();
    assert_eq!(before, after);
    assert_eq!(names(&manager), ["x-1", "x-canary", "x-7"]);
    // The name of the seventh is another worker's: nothing is made.
    let refused = manager.scale("x", 7).await.map(|_| ());
    assert_eq!(refused, Err(ManagerError::Taken { name: id("x-7") }));
    assert_eq!(manager.count("x").unwrap(), 1);
    let bare = manager.scale("x-canary", 2).await.map(|_| ());
    assert_eq!(bare, Err(ManagerError::NotScalable { name: "x-canary".into() }));
    assert!(matches!(manager.scale("none", 2).await, Err(ManagerError::NoMatch(_))));
    assert!(matches!(manager.scale("x", 0).await, Err(ManagerError::Count { count: 0 })));
}

#[tokio::test(start_paused = true)]
async fn update_does_as_little_as_the_change_takes() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    let pids = Pids { max: Some(9), ..Pids::default() };
    let limited = Spec { limits: Limits { pids, ..Limits::default() }, ..nginx() };
    let before = manager.status("web-server-1").unwrap();
    manager.update("web-server-1", limited.clone()).await.unwrap();
    let after = manager.status("web-server-1").unwrap();
    assert_eq!((after.pid, after.run), (before.pid, 1), "its processes go on");
    assert_eq!(bench.kernel.limit(&run("web-server-1", 1), "pids.max").as_deref(), Some("9"));
    assert!(after.desired_generation > before.desired_generation);
    assert_eq!(after.observed_generation, after.desired_generation);
    manager.update("web-server-1", Spec { argv: vec!["apache".into()], ..limited }).await.unwrap();
    assert_eq!(manager.status("web-server-1").unwrap().run, 2, "a program has its arguments from its start");
    assert_eq!(manager.status("web-server-2").unwrap().run, 1);
}

#[tokio::test(start_paused = true)]
async fn remove_of_a_running_worker_says_stop_first() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    let refused = manager.remove("web-server-1").await;
    assert_eq!(refused, Err(ManagerError::Running { name: id("web-server-1"), state: "running" }));
    manager.stop("web-server-1", None).await.unwrap();
    manager.remove("web-server-1").await.unwrap();
    assert!(matches!(manager.status("web-server-1"), Err(ManagerError::NoMatch(_))));
    manager.start(id("web-server-1"), nginx()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn freeze_and_thaw_are_for_what_runs() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    manager.freeze("web-server*").await.unwrap();
    let details =
        || manager.status_all("web-server*").unwrap().into_iter().map(|status| status.detail).collect::<Vec<_>>();
    assert_eq!(details(), [Detail::Running(Readiness::Frozen); 3]);
    manager.thaw("web-server*").await.unwrap();
    assert_eq!(details(), [Detail::Running(Readiness::Ready); 3]);
    manager.stop("web-server-1", None).await.unwrap();
    let refused = manager.freeze("web-server-1").await;
    assert_eq!(refused, Err(ManagerError::Refused { worker: id("web-server-1"), why: Refusal::NotRunning }));
}

#[tokio::test(start_paused = true)]
async fn kill_ends_at_once_and_reset_frees_who_was_held_down() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    script(&bench, "deaf", Script { on_signal: OnSignal::Ignores, ..Script::default() });
    manager.start(id("deaf"), nginx()).await.unwrap();
    manager.kill("deaf").await.unwrap();
    assert_eq!(manager.status("deaf").unwrap().state, State::Stopped);
    let mut crashing = nginx();
    crashing.restart.max_retries = 1;
    for _ in 0..2 {
        script(&bench, "crash", Script::exits(SECOND, 1));
    }
    manager.start(id("crash"), crashing).await.unwrap();
    let crash = manager.find("crash").unwrap().worker.clone();
    let held = |s: &WorkerStatus| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen);
    wait_for(&crash, 60 * SECOND, held).await.unwrap();
    manager.reset("crash").await.unwrap();
    wait_for(&crash, SECOND, |s| s.state == State::Running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_global_environment_reaches_a_worker_at_its_next_run() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    let env = variables(["NODE_ENV=production", "LOG_LEVEL=info"]).unwrap();
    manager.set_global_env(&env).unwrap();
    assert_eq!(bench.kernel.env_of(&run("web-server-1", 1)), BTreeMap::new());
    manager.find("web-server-1").unwrap().worker.restart(false).await.unwrap();
    assert_eq!(bench.kernel.env_of(&run("web-server-1", 2)), env);
    assert!(variables(["NO VALUE"]).is_err() && variables(["=x"]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_pass_of_the_reconciler_repairs_what_a_lost_notification_left() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    script(&bench, "web", Script { exit_lost: true, ..Script::exits(SECOND, 0) });
    manager.start(id("web"), nginx()).await.unwrap();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(manager.status("web").unwrap().state, State::Running, "nobody was told");
    assert_eq!(manager.reconcile_once(), 1);
    let web = manager.find("web").unwrap().worker.clone();
    wait_for(&web, SECOND, |s| s.state == State::Stopped).await.unwrap();
    assert_eq!(manager.reconcile_once(), 0, "there is nothing to ask about what is stopped");
}

#[tokio::test(start_paused = true)]
async fn the_reconciler_passes_every_half_second_unless_told_otherwise_and_is_one() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    manager.start_reconciler(Duration::ZERO);
    manager.start_reconciler(Duration::from_millis(1));
    script(&bench, "web", Script { exit_lost: true, ..Script::exits(SECOND, 0) });
    manager.start(id("web"), nginx()).await.unwrap();
    let started = bench.shared.clock.now();
    let web = manager.find("web").unwrap().worker.clone();
    wait_for(&web, 10 * SECOND, |s| s.state == State::Stopped).await.unwrap();
    let after: Duration = bench.shared.clock.now().since(started);
    assert!(after >= SECOND && after <= SECOND + RECONCILE, "{after:?}");
    manager.stop_reconciler();
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_everything_and_what_comes_later_fails_at_once() {
    let bench = Bench::new(1);
    let manager = three(&bench).await;
    manager.start_reconciler(Duration::ZERO);
    manager.shutdown().await.unwrap();
    assert_eq!(manager.count("*").unwrap(), 0);
    assert_eq!(manager.start(id("late"), nginx()).await, Err(ManagerError::GoingDown));
    assert_eq!(manager.start_n(&id("late"), nginx(), 2).await, Err(ManagerError::GoingDown));
    assert_eq!(manager.scale("web-server", 4).await.map(|_| ()), Err(ManagerError::GoingDown));
    assert_eq!(manager.update("web-server-1", nginx()).await, Err(ManagerError::GoingDown));
    assert_eq!(manager.stop("web-server-1", None).await, Ok(()), "to end what is ended is no error");
    assert_eq!(bench.kernel.breaches(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_status_costs_nothing_while_everything_is_being_stopped() {
    let bench = Bench::new(1);
    let manager = manager(&bench);
    for number in 1..=50 {
        let on_signal = OnSignal::Dies(20 * SECOND);
        script(&bench, &format!("w-{number}"), Script { on_signal, ..Script::default() });
    }
    manager.start_n(&id("w"), nginx(), 50).await.unwrap();
    let stopping = manager.clone();
    let stops = tokio::spawn(async move { stopping.stop_all("w", None).await });
    tokio::task::yield_now().await;
    let before: Mono = bench.shared.clock.now();
    assert_eq!(manager.status_all("*").unwrap().len(), 50);
    assert_eq!(bench.shared.clock.now(), before);
    stops.await.unwrap().unwrap();
}
