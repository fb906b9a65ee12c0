use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower_service::Service;

use super::super::list::PIECE;
use super::*;
use crate::model::{EventKind, Measured, OwnUse, RunId, Usage, WorkerId};
use crate::spec::types::Spec;
use crate::testing::{Bench, Launch, OnSignal, Script};

/// Tells of each run what it was asked for.
struct Echo;

impl Meter for Echo {
    fn read(&self, run: &RunId) -> Usage {
        Usage { memory_current_bytes: Some(u64::from(run.number)), pids_current: Some(1), ..Usage::default() }
    }

    fn measure(&self, run: &RunId) -> Measured {
        Measured { used: Usage { memory_peak_bytes: Some(70), ..self.read(run) }, ..Measured::default() }
    }

    fn own(&self) -> Option<OwnUse> {
        None
    }
}

pub(in crate::api) struct Door {
    bench: Bench,
    api: Api,
    router: Router,
    manager: Manager,
    store: watch::Sender<store::Health>,
    runs: StoreHandle,
}

impl Door {
    pub(in crate::api) fn new(names: &[&str]) -> Self {
        let bench = Bench::new(1);
        let member = |name: &&str| {
            let spec = Arc::new(Spec::new(vec!["x".into()]));
            let parent = name.split('-').next().unwrap_or(name);
            let worker = bench.worker(name, Spec::clone(&spec)).unwrap();
            Member::new(WorkerId::new(parent).unwrap(), spec, worker)
        };
        let manager = Manager::new(names.iter().map(member).collect());
        let runs = store::MemoryStore::new();
        let runs = StoreHandle::start(Box::new(runs), Vec::new(), Duration::from_secs(86_400)).unwrap();
        let (store, health) = watch::channel(store::Health::Ok { made_anew: None });
        let api =
            Api::new(manager.clone(), Arc::new(Echo), bench.shared.clock, "/logs".into(), health, runs.clone(), told());
        Self { router: api.clone().router(), api, bench, manager, store, runs }
    }

    pub(in crate::api) fn governed(self, governor: Arc<dyn Governor>) -> Self {
        let api = self.api.governed_by(governor);
        Self { router: api.clone().router(), api, ..self }
    }

    pub(in crate::api) fn manager(&self) -> Manager {
        self.manager.clone()
    }

    async fn send(&self, request: Request<HttpBody>) -> (StatusCode, String, Value) {
        let response = self.router.clone().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let media_type = head.headers.get("content-type").map_or("", |v| v.to_str().unwrap()).to_owned();
        let text = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        (head.status, media_type, value)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, media_type, value) = self.send(Request::get(path).body(HttpBody::empty()).unwrap()).await;
        let expected = if status.is_success() { "application/json" } else { "application/problem+json" };
        assert_eq!(media_type, expected, "{path}: {value}");
        (status, value)
    }

    async fn post_raw(&self, path: &str, body: impl Into<HttpBody>) -> (StatusCode, Value) {
        let mut request = Request::post(path).body(body.into()).unwrap();
        request.extensions_mut().insert(peer());
        let (status, media_type, value) = self.send(request).await;
        let expected = if status.is_success() { "application/json" } else { "application/problem+json" };
        assert_eq!(media_type, expected, "{path}: {value}");
        (status, value)
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.post_raw(path, body.to_string()).await
    }

    pub(in crate::api) async fn respond(&self, request: Request<HttpBody>) -> Response {
        self.router.clone().call(request).await.unwrap()
    }

    /// The last run of a worker.
    pub(in crate::api) fn run_of(&self, worker: &str) -> u32 {
        self.manager.find(worker).unwrap().worker.status().run
    }

    /// Who asked first, as it is on record.
    pub(in crate::api) fn whose(&mut self) -> Option<String> {
        self.bench.recorded().into_iter().find_map(|event| match event.kind {
            EventKind::Operator { who, .. } => Some(who),
            _ => None,
        })
    }

    pub(in crate::api) fn now(&self) -> Mono {
        self.bench.shared.clock.now()
    }

    /// Puts the list in another order.
    pub(in crate::api) fn reorder(&self, names: &[&str]) {
        let names: Vec<WorkerId> = names.iter().map(|name| WorkerId::new(name).unwrap()).collect();
        self.manager.arrange(&names);
    }

    pub(in crate::api) fn script(&self, worker: &str, script: Script) {
        self.bench.kernel.script(&WorkerId::new(worker).unwrap(), script);
    }
}

fn told() -> Told {
    let (ring, sinks, tally) = (Ring::new("s".into(), 9, 1 << 20), Vitals::default(), Tally::default());
    Told { ring, began: Timestamp::UNIX_EPOCH, sinks, tally }
}

/// A request of such a client.
pub(in crate::api) fn as_peer<B>(mut request: Request<B>, uid: u32, role: crate::api::Role) -> Request<B> {
    request.extensions_mut().insert(Peer { uid, pid: Some(4711), role });
    request
}

fn peer() -> Peer {
    Peer { uid: 1000, pid: Some(4711), role: crate::api::Role::Operator }
}

fn ids(value: &Value) -> Vec<&str> {
    value["workers"].as_array().unwrap().iter().map(|w| w["id"].as_str().unwrap()).collect()
}

fn code((status, value): &(StatusCode, Value)) -> (u16, &str) {
    assert_eq!(u64::from(status.as_u16()), value["status"].as_u64().unwrap(), "{value}");
    assert!(!value["title"].as_str().unwrap().is_empty() && !value["detail"].as_str().unwrap().is_empty(), "{value}");
    (status.as_u16(), value["code"].as_str().unwrap())
}

const SLOW: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn workers_are_told_in_the_order_of_their_declaration_and_by_pattern() {
    let door = Door::new(&["web-2", "web-1", "db"]);
    assert_eq!(ids(&door.get("/v1/workers").await.1), ["web-2", "web-1", "db"]);
    assert_eq!(ids(&door.get("/v1/workers?pattern=web").await.1), ["web-2", "web-1"]);
    assert_eq!(ids(&door.get("/v1/workers?pattern=*-1,db").await.1), ["web-1", "db"]);
    assert_eq!(ids(&door.get("/v1/workers?pattern=%3F%3F").await.1), ["db"]);
    assert_eq!(code(&door.get("/v1/workers?pattern=none").await), (404, "not_found"));
    assert_eq!(ids(&Door::new(&[]).get("/v1/workers").await.1), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_one_document_however_many_pieces_it_is_told_in() {
    for count in [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
        let names: Vec<String> = (0..count).map(|i| format!("w{i}")).collect();
        let door = Door::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (_, value) = door.get("/v1/workers").await;
        assert_eq!(ids(&value), names);
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_uses_is_read_of_what_runs_and_only_where_it_is_asked_for() {
    let door = Door::new(&["up", "down"]);
    door.post("/v1/workers/up/start", json!({})).await;
    let (_, value) = door.get("/v1/workers?usage=true").await;
    assert_eq!(value["workers"][0]["usage"], json!({"memory_bytes": 1, "pids": 1}), "what cannot be read is absent");
    assert_eq!(value["workers"][1].get("usage"), None);
    let (_, value) = door.get("/v1/workers").await;
    assert_eq!(value["workers"][0].get("usage"), None);
    let (_, mut value) = door.get("/v1/workers?usage=full").await;
    let usage = value["workers"][0]["usage"].as_object_mut().unwrap();
    assert!(usage.remove("at_usec").unwrap().as_u64().unwrap() > 0, "two readings are measured by their time");
    assert_eq!(value["workers"][0]["usage"], json!({"memory_bytes": 1, "memory_peak_bytes": 70, "pids": 1}));
    assert_eq!(code(&door.get("/v1/workers?usage=much").await), (400, "bad_request"));
    let (_, value) = door.get("/v1/workers/up?usage=true").await;
    assert_eq!(value["usage"]["memory_bytes"], 1);
}

#[tokio::test(start_paused = true)]
async fn one_worker_is_found_by_its_name_alone() {
    let door = Door::new(&["web-1", "web-2", "db"]);
    let (status, value) = door.get("/v1/workers/db").await;
    assert_eq!((status.as_u16(), &value["id"], &value["state"]), (200, &json!("db"), &json!("stopped")));
    for path in
        ["/v1/workers/none", "/v1/workers/*", "/v1/workers/d%62%00", "/v1/workers/..%2fdb/why", "/v1/workers/web"]
    {
        assert_eq!(code(&door.get(path).await), (404, "not_found"), "{path}");
    }
    let (_, value) = door.get("/v1/workers/web").await;
    assert_eq!(value["detail"], "web has instances, of which one is to be named: web-1, web-2");
}

#[tokio::test(start_paused = true)]
async fn why_tells_the_last_end_and_what_was_decided() {
    let door = Door::new(&["a"]);
    let (_, value) = door.get("/v1/workers/a/why").await;
    assert_eq!((value.get("exited"), &value["decisions"]), (None, &json!([])), "it has never run");
    door.script("a", Script::exits(Duration::from_millis(10), 3));
    door.post("/v1/workers/a/start", json!({})).await;
    let worker = door.manager.find("a").unwrap().worker.clone();
    crate::testing::wait_for(&worker, SLOW, |s| s.cause.is_some()).await.unwrap();
    let (_, value) = door.get("/v1/workers/a/why").await;
    assert_eq!(value["exited"]["cause"], json!({"kind": "exited", "code": 3}));
    assert_eq!(value["stderr"], "/logs/a/1.stderr");
    assert_eq!(value["decisions"][0]["verdict"], "restart");
    assert_eq!(value["worker"]["id"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_started_stopped_restarted_signalled_reset_and_killed() {
    let door = Door::new(&["a"]);
    let result = |(status, value): (StatusCode, Value)| {
        let r = &value["results"][0];
        assert_eq!(r["worker"], "a", "{value}");
        let word = |key: &str| r[key].as_str().unwrap_or_default().to_owned();
        (status.as_u16(), word("outcome"), word("state"), r["run"].as_u64().unwrap())
    };
    let done = |state: &str, run| (200, "done".to_owned(), state.to_owned(), run);
    assert_eq!(result(door.post_raw("/v1/workers/a/start", "").await), done("running", 1));
    assert_eq!(result(door.post("/v1/workers/a/start", json!({})).await), done("running", 1), "it runs already");
    assert_eq!(result(door.post("/v1/workers/a/restart", json!({"force": true})).await), done("running", 2));
    assert_eq!(result(door.post("/v1/workers/a/stop", json!({"wait": true})).await), done("stopped", 2));
    door.script("a", Script { on_signal: OnSignal::Ignores, ..Script::default() });
    assert_eq!(result(door.post("/v1/workers/a/start", json!({})).await), done("running", 3));
    assert_eq!(result(door.post("/v1/workers/a/signal", json!({"signal": "rtmin+1"})).await), done("running", 3));
    assert_eq!(result(door.post("/v1/workers/a/reset", json!({})).await).0, 200);
    assert_eq!(result(door.post("/v1/workers/a/kill", json!({})).await), done("stopped", 3));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_frozen_and_thawed_and_what_does_not_run_is_refused() {
    let door = Door::new(&["a"]);
    for verb in ["freeze", "thaw"] {
        let (status, value) = door.post(&format!("/v1/workers/a/{verb}"), json!({})).await;
        assert_eq!((status.as_u16(), &value["code"]), (409, &json!("not_running")), "{value}");
    }
    door.script("a", Script { freezes_slowly: Duration::from_secs(5), ..Script::default() });
    door.post("/v1/workers/a/start", json!({})).await;
    let (status, value) = door.post("/v1/workers/a/freeze", json!({"timeout": "1s"})).await;
    assert_eq!((status.as_u16(), &value["code"]), (504, &json!("timed_out")));
    let error =
        "not done in time: it is running (ready), and goes on; not frozen yet: pid 300 (fake) D in folio_wait_bit";
    assert_eq!(value["results"][0]["error"], error);
    let (_, value) = door.post("/v1/workers/a/freeze", json!({"wait": false})).await;
    assert_eq!(value["results"][0]["outcome"], "accepted");
    for _ in 0..2 {
        let (status, value) = door.post_raw("/v1/workers/a/freeze", "").await;
        let result = &value["results"][0];
        let told = (status.as_u16(), &result["outcome"], &result["state"], &result["detail"], &result["run"]);
        assert_eq!(told, (200, &json!("done"), &json!("running"), &json!("frozen"), &json!(1)));
    }
    for _ in 0..2 {
        let (status, value) = door.post_raw("/v1/workers/a/thaw", "").await;
        assert_eq!((status.as_u16(), &value["results"][0]["detail"]), (200, &json!("ready")));
    }
    let (status, _) = door.post("/v1/workers/a/freeze", json!({"force": true})).await;
    assert_eq!(status.as_u16(), 400, "force is a restart's");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_is_recorded_with_the_peer_it_came_from() {
    let mut door = Door::new(&["a"]);
    door.post("/v1/workers/a/start", json!({})).await;
    assert_eq!(door.whose().as_deref(), Some("uid 1000 (pid 4711)"));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_by_whom_nobody_knows() {
    let door = Door::new(&["a"]);
    let request = Request::post("/v1/workers/a/start").body(HttpBody::empty()).unwrap();
    let (status, _, value) = door.send(request).await;
    assert_eq!(code(&(status, value)), (403, "not_permitted"));
    assert_eq!(door.manager.find("a").unwrap().worker.status().run, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_told_with_its_reason() {
    let door = Door::new(&["a", "b"]);
    let error = crate::model::StartError::os(crate::model::Stage::Exec, "/none", 2);
    door.script("a", Script { launch: Launch::Fails(Duration::ZERO, error), ..Script::default() });
    let (status, value) = door.post("/v1/workers/*/start", json!({})).await;
    assert_eq!(code(&(status, value.clone())), (422, "start_failed"));
    assert_eq!(value["results"][0]["error"], "it could not be started: exec /none: No such file or directory");
    assert_eq!(value["results"][1]["outcome"], "done");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_told_and_the_stop_goes_on() {
    let door = Door::new(&["a"]);
    door.script("a", Script { on_signal: OnSignal::Dies(SLOW), ..Script::default() });
    door.post("/v1/workers/a/start", json!({})).await;
    let (status, value) = door.post("/v1/workers/a/stop", json!({"timeout": "1s500ms"})).await;
    assert_eq!(code(&(status, value.clone())), (504, "timed_out"));
    assert_eq!(value["results"][0]["detail"], "term");
    let (status, value) = door.post("/v1/workers/a/stop", json!({"wait": false})).await;
    assert_eq!((status.as_u16(), &value["results"][0]["outcome"]), (200, &json!("accepted")));
    let (_, value) = door.post("/v1/workers/a/stop", json!({})).await;
    assert_eq!(value["results"][0]["state"], "stopped");
}

#[tokio::test(start_paused = true)]
async fn a_signal_to_what_does_not_run_is_refused_also_where_nobody_waits() {
    let door = Door::new(&["a"]);
    for wait in [true, false] {
        let answer = door.post("/v1/workers/a/signal", json!({"signal": "HUP", "wait": wait})).await;
        assert_eq!(code(&answer), (409, "not_running"), "wait: {wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_done() {
    let door = Door::new(&["a"]);
    for (path, body) in [
        ("/v1/workers/a/start", "{"),
        ("/v1/workers/a/start", "[]"),
        ("/v1/workers/a/start", "\"start\""),
        ("/v1/workers/a/start", "{\"wait\":\"yes\"}"),
        ("/v1/workers/a/start", "{\"wait\":true,\"wait\":false}"),
        ("/v1/workers/a/start", "{\"when\":\"now\"}"),
        ("/v1/workers/a/start", "{\"timeout\":\"30\"}"),
        ("/v1/workers/a/start", "{\"timeout\":30}"),
        ("/v1/workers/a/start", "{\"timeout\":\"-1s\"}"),
        ("/v1/workers/a/start", "{\"force\":true}"),
        ("/v1/workers/a/start", "{\"signal\":\"HUP\"}"),
        ("/v1/workers/a/start", "\u{0}"),
        ("/v1/workers/a/signal", "{}"),
        ("/v1/workers/a/signal", "{\"signal\":\"SIGNOTHING\"}"),
        ("/v1/workers/a/signal", "{\"signal\":\"0\"}"),
        ("/v1/workers/a/signal", "{\"signal\":\"32\"}"),
        ("/v1/workers/%ff/start", "{}"),
    ] {
        let answer = door.post_raw(path, body).await;
        assert_eq!(code(&answer), (400, "bad_request"), "{path} {body:?}: {}", answer.1);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(code(&door.post_raw("/v1/workers/a/start", deep).await).0, 400);
    for path in ["/v1/workers?patern=a", "/v1/workers?usage=maybe", "/v1/workers/a?pattern=b"] {
        assert_eq!(code(&door.get(path).await), (400, "bad_request"), "{path}");
    }
    assert_eq!(code(&door.post("/v1/workers/none/start", json!({})).await), (404, "not_found"));
    assert_eq!(door.manager.find("a").unwrap().worker.status().run, 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_said_to_be_no_json_is_refused_unless_curl_says_so_of_whatever_it_sends() {
    let door = Door::new(&["a"]);
    let ask = async |media_type: &str, body: &'static str| {
        let request =
            Request::post("/v1/workers/a/reset").header("content-type", media_type).body(body.into()).unwrap();
        let (status, _, value) = door.send(as_peer(request, 0, crate::api::Role::Admin)).await;
        (status.as_u16(), value)
    };
    for read in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/a+json",
    ] {
        assert_eq!(ask(read, "{}").await.0, 200, "{read}");
    }
    for other in ["text/plain", "text/xml", "multipart/form-data; boundary=x", "json", "", "text/a+json", "\u{e9}"] {
        let (status, problem) = ask(other, "{}").await;
        assert_eq!((status, &problem["code"]), (415, &json!("unsupported_media_type")), "{other}");
        assert_eq!(ask(other, "").await.0, 200, "{other}: of nothing it does not matter what it is");
    }
    let (_, problem) = ask("text/xml", "<a/>").await;
    assert_eq!(problem["detail"], "Content-Type: \"text/xml\" is not read; a body is application/json");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bounded_in_size_and_in_time() {
    let door = Door::new(&["a"]);
    let fits = format!("{{}}{}", " ".repeat(crate::api::MAX_BODY - 2));
    assert_eq!(door.post_raw("/v1/workers/a/start", fits.clone()).await.0.as_u16(), 200);
    assert_eq!(code(&door.post_raw("/v1/workers/a/start", fits + " ").await), (413, "too_large"));
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::convert::Infallible>>();
    let answer = door.post_raw("/v1/workers/a/start", HttpBody::from_stream(never)).await;
    assert_eq!(code(&answer), (408, "too_slow"));
}

#[tokio::test(start_paused = true)]
async fn other_paths_and_methods_are_problems_too() {
    let door = Door::new(&["a"]);
    for path in ["/", "/v1", "/v2/workers", "/v1/workers/a/why/not", "/v1/workers//why"] {
        assert_eq!(code(&door.get(path).await), (404, "not_found"), "{path}");
    }
    assert_eq!(code(&door.get("/v1/workers/a/start").await), (405, "method_not_allowed"));
    assert_eq!(code(&door.post("/v1/history", json!({})).await), (405, "method_not_allowed"));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_nothing_is_started_and_everything_can_be_read_and_ended() {
    let door = Door::new(&["a"]);
    door.post("/v1/workers/a/start", json!({})).await;
    assert_eq!(door.get("/v1/health").await.1["status"], "ok");
    let since = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let why = "writing to x: no space left".to_owned();
    door.store.send_replace(store::Health::Degraded { why: why.clone(), since, pending: 2, lost: 1 });
    let (_, degraded) = door.get("/v1/health").await;
    let shown = json!({"status": "degraded", "why": why, "since": "2027-01-15T08:00:00.000Z", "pending": 2, "lost": 1});
    assert_eq!((&degraded["status"], &degraded["store"]), (&json!("degraded"), &shown));
    door.store.send_replace(store::Health::Ok { made_anew: None });
    door.manager.close();
    assert_eq!(code(&door.post("/v1/workers/a/start", json!({})).await), (503, "going_down"));
    let (_, health) = door.get("/v1/health").await;
    assert_eq!(
        (&health["status"], &health["workers"], &health["running"]),
        (&json!("going_down"), &json!(1), &json!(1))
    );
    assert_eq!(door.post("/v1/workers/a/kill", json!({})).await.0.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_answered_while_the_worker_cannot_be() {
    // A worker that takes for ever to die, and whose actor is owed nothing: reads come from what it has published.
    let door = Door::new(&["a"]);
    door.script("a", Script { on_signal: OnSignal::Dies(SLOW), ..Script::default() });
    door.post("/v1/workers/a/start", json!({})).await;
    door.post("/v1/workers/a/stop", json!({"wait": false})).await;
    let before = door.bench.shared.clock.now();
    let (_, value) = door.get("/v1/workers/a").await;
    assert_eq!((&value["state"], &value["detail"]), (&json!("stopping"), &json!("term")));
    assert_eq!(door.bench.shared.clock.now(), before);
}

#[tokio::test(start_paused = true)]
async fn the_runs_of_a_worker_are_told_the_newest_first() {
    let door = Door::new(&["a"]);
    let run = |number| RunId::new(WorkerId::new("a").unwrap(), number);
    let at = |second| Timestamp::from_second(second).unwrap();
    let ended = |cause| Box::new(store::Ended { cause, confidence: crate::model::Confidence::Certain, at: at(20) });
    let changes = vec![
        store::Change::Started {
            run: run(1),
            pid: 7,
            boot_id: "b".into(),
            at: at(10),
            begun: Some(crate::model::Begun::Start),
        },
        store::Change::Stopped { run: run(1), ended: ended(crate::model::ExitCause::Exited { code: 3 }), begun: None },
        store::Change::Started {
            run: run(2),
            pid: 8,
            boot_id: "b".into(),
            at: at(30),
            begun: Some(crate::model::Begun::Exit),
        },
    ];
    door.runs.ask(move |store| store.apply(&changes).unwrap()).await.unwrap();
    let first = json!({
        "run": 1, "trigger": "start", "pid": 7, "started": "1970-01-01T00:00:10.000Z", "ended": "1970-01-01T00:00:20.000Z",
        "lasted_ms": 10_000, "cause": {"kind": "exited", "code": 3}, "confidence": "certain",
    });
    let second = json!({"run": 2, "trigger": "exit", "pid": 8, "started": "1970-01-01T00:00:30.000Z"});
    let (_, history) = door.get("/v1/history?worker=a").await;
    assert_eq!(history, json!({"worker": "a", "runs": [second, first]}));
    assert_eq!(door.get("/v1/history?worker=a&limit=1").await.1["runs"], json!([second]));
    for (path, expected) in [
        ("/v1/history?worker=none", (404, "not_found")),
        ("/v1/history?worker=..", (404, "not_found")),
        ("/v1/history?worker=a&limit=0", (400, "bad_request")),
        ("/v1/history", (400, "bad_request")),
    ] {
        assert_eq!(code(&door.get(path).await), expected, "{path}");
    }
}

/// A door whose binary can be replaced, asked by a client in `role`, and what whoever replaces it is asked.
fn upgradable(role: crate::api::Role) -> (Router, tokio::sync::mpsc::Receiver<crate::api::Wish>) {
    let bench = Bench::new(1);
    let (wishes, asked) = tokio::sync::mpsc::channel(1);
    let runs = store::MemoryStore::new();
    let runs = StoreHandle::start(Box::new(runs), Vec::new(), Duration::from_secs(86_400)).unwrap();
    let (_, health) = watch::channel(store::Health::Ok { made_anew: None });
    let manager = Manager::new(Vec::new());
    let api = Api::new(manager, Arc::new(Echo), bench.shared.clock, "/logs".into(), health, runs, told());
    let upgrades = Upgrades { wishes, reexecs: 4, previous: Some("ended by signal 9".into()) };
    let router = api.with_upgrades(upgrades).router();
    let as_client = axum::Extension(Peer { uid: 1000, pid: Some(4711), role });
    (router.layer(as_client), asked)
}

async fn call(mut router: Router, request: Request<HttpBody>) -> (u16, Value) {
    let response = router.call(request).await.unwrap();
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_admins_wish_for_another_binary_is_answered_by_what_comes_of_it() {
    let wish = |body: &'static str| Request::post("/v1/reexec").body(HttpBody::from(body)).unwrap();
    let (router, mut asked) = upgradable(crate::api::Role::Admin);
    let replacing = tokio::spawn(async move {
        let good = crate::api::wire::Reexec {
            binary: "/usr/bin/pinfold".into(),
            version: "2.0.0".into(),
            replaces: "1.0.0".into(),
            pid: 5,
            reexecs: 4,
        };
        for answer in [Ok(good), Err("/usr/bin/pinfold is no file".to_owned())] {
            let wish = asked.recv().await.unwrap();
            assert_eq!(wish.who, "uid 1000 (pid 4711)");
            wish.answer.send(answer).unwrap();
        }
    });
    let (status, value) = call(router.clone(), wish("")).await;
    assert_eq!((status, &value["version"], &value["reexecs"]), (200, &json!("2.0.0"), &json!(4)));
    let (status, value) = call(router.clone(), wish("{}")).await;
    assert_eq!(
        (status, &value["code"], &value["detail"]),
        (409, &json!("not_now"), &json!("/usr/bin/pinfold is no file"))
    );
    replacing.await.unwrap();
    assert_eq!(call(router.clone(), wish("")).await.0, 503, "nobody is there any more");
    assert_eq!(call(router.clone(), wish(r#"{"force": true}"#)).await.0, 400);
    let (_, health) = call(router, Request::get("/v1/health").body(HttpBody::empty()).unwrap()).await;
    assert_eq!((&health["reexecs"], &health["previous"]), (&json!(4), &json!("ended by signal 9")));
}

#[tokio::test(start_paused = true)]
async fn an_operator_does_not_replace_the_binary() {
    let (router, mut asked) = upgradable(crate::api::Role::Operator);
    let (status, value) = call(router, Request::post("/v1/reexec").body(HttpBody::empty()).unwrap()).await;
    assert_eq!((status, &value["code"]), (403, &json!("not_permitted")));
    assert!(asked.try_recv().is_err(), "nobody was asked");
}
