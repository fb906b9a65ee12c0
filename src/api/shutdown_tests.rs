use axum::{Router, body::Body as HttpBody, http::Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_service::Service;

use super::*;
use crate::api::peer::{Peer, Role};
use crate::api::{Meter, Told};
use crate::history::{Ring, Vitals};
use crate::manager::handle::{Manager, Refusal};
use crate::metrics::Tally;
use crate::model::{Measured, OwnUse, RunId, Trigger, Usage, WorkerId};
use crate::spec::types::Spec;
use crate::store::{self, StoreHandle};
use crate::testing::Bench;

struct Nothing;

impl Meter for Nothing {
    fn read(&self, _: &RunId) -> Usage {
        Usage::default()
    }

    fn measure(&self, _: &RunId) -> Measured {
        Measured::default()
    }

    fn own(&self) -> Option<OwnUse> {
        None
    }
}

/// A supervisor's door, and who fulfils wishes behind it.
struct Door {
    _bench: Bench,
    router: Router,
    manager: Manager,
    wishes: mpsc::UnboundedReceiver<String>,
    ended: watch::Sender<Option<Arc<Outcomes>>>,
}

impl Door {
    /// `up` runs, `off` has never been started.
    async fn new() -> Self {
        let bench = Bench::new(1);
        let member = |name: &str| {
            let spec = Arc::new(Spec::new(vec!["x".into()]));
            let worker = bench.worker(name, Spec::clone(&spec)).unwrap();
            Member::new(WorkerId::new(name).unwrap(), spec, worker)
        };
        let manager = Manager::new(vec![member("up"), member("off")]);
        manager.find("up").unwrap().worker.start(Trigger::Config).await.unwrap();
        let runs = StoreHandle::start(Box::new(store::MemoryStore::new()), Vec::new(), Duration::from_secs(9)).unwrap();
        let (_, health) = watch::channel(store::Health::Ok { made_anew: None });
        let told = Told {
            ring: Ring::new("s".into(), 9, 1 << 20),
            began: Timestamp::UNIX_EPOCH,
            sinks: Vitals::default(),
            tally: Tally::default(),
        };
        let clock = bench.shared.clock;
        let api = Api::new(manager.clone(), Arc::new(Nothing), clock, "/logs".into(), health, runs, told);
        let (sender, wishes) = mpsc::unbounded_channel();
        let (ended, watched) = watch::channel(None);
        let router = api.with_shutdowns(Shutdowns { wishes: sender, ended: watched }).router();
        Self { _bench: bench, router, manager, wishes, ended }
    }

    /// Asks, without waiting for the answer.
    fn ask(&self, role: Role, body: &Value) -> JoinHandle<(u16, Value)> {
        let mut request = Request::post("/v1/shutdown").body(HttpBody::from(body.to_string())).unwrap();
        request.extensions_mut().insert(Peer { uid: 1000, pid: Some(4711), role });
        let mut router = self.router.clone();
        tokio::spawn(async move {
            let (head, body) = router.call(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
        })
    }

    /// It is over for both.
    fn over(&self, outcomes: [Outcome; 2]) {
        self.ended.send_replace(Some(Arc::new(self.manager.all().into_iter().zip(outcomes).collect())));
    }
}

fn outcomes(value: &Value) -> Vec<&str> {
    value["results"].as_array().unwrap().iter().map(|settled| settled["outcome"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn operators_may_not_end_the_supervisor() {
    let mut door = Door::new().await;
    let (status, problem) = door.ask(Role::Operator, &json!({})).await.unwrap();
    assert_eq!((status, &problem["code"]), (403, &"not_permitted".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("you are uid 1000 (pid 4711)"), "{problem}");
    assert!(door.wishes.try_recv().is_err(), "nobody hears of it");
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_when_it_is_over_for_every_worker_and_who_asks_meanwhile_has_the_same() {
    let mut door = Door::new().await;
    let first = door.ask(Role::Admin, &json!({}));
    assert_eq!(door.wishes.recv().await.unwrap(), "uid 1000 (pid 4711)");
    door.wishes.close();
    let second = door.ask(Role::Admin, &json!({"timeout": "1h"}));
    // The clock of this test goes on only while nobody has anything else to do: both wait.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!first.is_finished() && !second.is_finished());
    door.over([Outcome::Done, Outcome::Done]);
    for answer in [first.await.unwrap(), second.await.unwrap()] {
        assert_eq!((answer.0, outcomes(&answer.1)), (200, vec!["done", "done"]), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_be_proved_dead_is_not_told_as_stopped() {
    let door = Door::new().await;
    let answer = door.ask(Role::Admin, &json!({}));
    door.over([Outcome::Refused(Refusal::Unkillable), Outcome::Done]);
    let (status, problem) = answer.await.unwrap();
    assert_eq!((status, &problem["code"]), (409, &"unkillable".into()), "{problem}");
    assert_eq!(outcomes(&problem), ["failed", "done"]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_is_answered_at_once_and_who_waits_in_vain_in_time() {
    let mut door = Door::new().await;
    let (status, results) = door.ask(Role::Admin, &json!({"wait": false})).await.unwrap();
    assert_eq!((status, outcomes(&results)), (200, vec!["accepted", "done"]), "what rests is done: {results}");
    assert!(door.wishes.try_recv().is_ok(), "it is asked for all the same");
    let (status, problem) = door.ask(Role::Admin, &json!({"timeout": "2s"})).await.unwrap();
    assert_eq!((status, &problem["code"], outcomes(&problem)), (504, &"timed_out".into(), vec!["failed", "done"]));
}

#[tokio::test(start_paused = true)]
async fn where_the_workers_are_left_running_it_is_said_so() {
    let door = Door::new().await;
    let answer = door.ask(Role::Admin, &json!({}));
    drop(door.ended);
    let (status, problem) = answer.await.unwrap();
    assert_eq!((status, &problem["code"]), (503, &"going_down".into()), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_wrongly_ends_nothing() {
    let mut door = Door::new().await;
    for body in [json!({"timeout": "soon"}), json!({"force": true}), json!([true])] {
        let (status, problem) = door.ask(Role::Admin, &body).await.unwrap();
        assert_eq!((status, &problem["code"]), (400, &"bad_request".into()), "{body}: {problem}");
    }
    assert!(door.wishes.try_recv().is_err());
}
