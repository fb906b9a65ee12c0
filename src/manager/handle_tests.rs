use std::time::Duration;

use super::*;
use crate::model::{EventKind, Stage, StartError, State};
use crate::spec::types::Spec;
use crate::testing::{Bench, Launch, OnSignal, Script};

const MS: Duration = Duration::from_millis(1);

/// A manager of `names` (a worker of the name, declared under what comes before its `-`), none of them started.
fn manager(bench: &Bench, names: &[&str]) -> Manager {
    let member = |name: &&str| {
        let spec = Arc::new(Spec::new(vec!["x".into()]));
        let worker = bench.worker(name, Spec::clone(&spec)).unwrap();
        let parent = name.split('-').next().unwrap_or(name);
        Member::new(WorkerId::new(parent).unwrap(), spec, worker)
    };
    Manager::new(names.iter().map(member).collect())
}

fn outcomes(told: &[(Arc<Member>, Outcome)]) -> Vec<(&str, &Outcome)> {
    told.iter().map(|(member, outcome)| (member.worker.id().as_str(), outcome)).collect()
}

fn script(bench: &Bench, worker: &str, script: Script) {
    bench.kernel.script(&WorkerId::new(worker).unwrap(), script);
}

async fn done(manager: &Manager, pattern: &str, action: Action) -> Vec<(Arc<Member>, Outcome)> {
    manager.ask(pattern, action, "uid 7").unwrap().done(None).await
}

#[tokio::test(start_paused = true)]
async fn all_that_a_pattern_means_are_asked_before_the_first_is_waited_for() {
    let bench = Bench::new(1);
    let manager = manager(&bench, &["web-1", "web-2", "web-3", "db"]);
    for worker in ["web-1", "web-2", "web-3"] {
        let on_signal = OnSignal::Dies(Duration::from_secs(20));
        script(&bench, worker, Script { on_signal, ..Script::default() });
    }
    done(&manager, "", Action::Start).await;
    let before = bench.shared.clock.now();
    let told = done(&manager, "web", Action::Stop).await;
    assert_eq!(outcomes(&told), [("web-1", &Outcome::Done), ("web-2", &Outcome::Done), ("web-3", &Outcome::Done)]);
    let took = bench.shared.clock.now().since(before);
    assert!(took < Duration::from_secs(21), "three stops of 20 s each took {took:?}");
    assert_eq!(manager.find("db").unwrap().worker.status().state, State::Running, "nobody else was asked");
}

#[tokio::test(start_paused = true)]
async fn a_time_that_has_passed_is_told_of_those_alone_that_are_not_done() {
    let bench = Bench::new(1);
    let names: Vec<String> = (0..300).map(|i| format!("w-{i}")).collect();
    let manager = manager(&bench, &names.iter().map(String::as_str).collect::<Vec<_>>());
    script(&bench, "w-7", Script { on_signal: OnSignal::Dies(Duration::from_secs(20)), ..Script::default() });
    done(&manager, "*", Action::Start).await;
    let told = manager.ask("*", Action::Stop, "x").unwrap().done(Some(Duration::from_secs(5))).await;
    let late: Vec<_> = outcomes(&told).into_iter().filter(|(_, outcome)| **outcome != Outcome::Done).collect();
    assert_eq!(late, [("w-7", &Outcome::TimedOut)]);
    // It goes on all the same.
    let w7 = manager.find("w-7").unwrap().worker.clone();
    crate::testing::wait_for(&w7, Duration::from_secs(60), |s| s.state == State::Stopped).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_hears_of_refusals_all_the_same() {
    let bench = Bench::new(1);
    let manager = manager(&bench, &["up", "down"]);
    script(&bench, "up", Script { on_signal: OnSignal::Dies(Duration::from_secs(3)), ..Script::default() });
    done(&manager, "up", Action::Start).await;
    let before = bench.shared.clock.now();
    let told = manager.ask("*", Action::Signal(1), "x").unwrap().taken().await;
    assert_eq!(outcomes(&told), [("up", &Outcome::Done), ("down", &Outcome::Refused(Refusal::NotRunning))]);
    let told = manager.ask("up", Action::Restart { force: false }, "x").unwrap().taken().await;
    assert_eq!(outcomes(&told), [("up", &Outcome::Accepted)]);
    assert!(bench.shared.clock.now().since(before) < MS, "nothing was waited for");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_why_and_the_others_go_on() {
    let bench = Bench::new(1);
    let manager = manager(&bench, &["good", "bad"]);
    let error = StartError::os(Stage::Exec, "/none", 2);
    script(&bench, "bad", Script { launch: Launch::Fails(Duration::ZERO, error.clone()), ..Script::default() });
    let told = done(&manager, "bad,good", Action::Start).await;
    let refused = Outcome::Refused(Refusal::StartFailed(error));
    assert_eq!(outcomes(&told), [("good", &Outcome::Done), ("bad", &refused)]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_nobodys_asks_nobody() {
    let mut bench = Bench::new(1);
    let manager = manager(&bench, &["a", "b"]);
    done(&manager, "*", Action::Start).await;
    bench.recorded();
    let refused = manager.ask("a,none", Action::Stop, "x").err();
    assert_eq!(refused, Some(NotAsked::NoMatch(NoMatch::NotFound { part: "none".into() })));
    tokio::task::yield_now().await;
    assert_eq!(bench.recorded(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_is_recorded_as_asked_by_whoever_asked() {
    let mut bench = Bench::new(1);
    let manager = manager(&bench, &["a"]);
    done(&manager, "a", Action::Start).await;
    let said = bench.recorded().into_iter().find_map(|event| match event.kind {
        EventKind::Operator { who, what } => Some((who, what)),
        _ => None,
    });
    assert_eq!(said, Some(("uid 7".into(), "start".into())));
}

#[tokio::test(start_paused = true)]
async fn behind_the_closed_door_nothing_starts_and_everything_can_be_ended() {
    let bench = Bench::new(1);
    let manager = manager(&bench, &["a"]);
    done(&manager, "a", Action::Start).await;
    manager.close();
    for action in [Action::Start, Action::Restart { force: true }, Action::Reset] {
        assert_eq!(manager.ask("a", action, "x").err(), Some(NotAsked::GoingDown), "{action:?}");
    }
    assert_eq!(outcomes(&done(&manager, "a", Action::Kill).await), [("a", &Outcome::Done)]);
}
