use axum::Router;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower_service::Service;

use super::*;
use crate::api::audience::OTHERS;
use crate::api::{Meter, Role, Told};
use crate::history::{Scribe, Vitals};
use crate::manager::handle::{Manager, Member};
use crate::metrics::Tally;
use crate::model::{Event, EventKind, ExitCause, Measured, OwnUse, RunId, Usage, WorkerId};
use crate::spec::types::Spec;
use crate::testing::Bench;

struct Nothing;

impl Meter for Nothing {
    fn measure(&self, _: &RunId) -> Measured {
        Measured::default()
    }

    fn own(&self) -> Option<OwnUse> {
        None
    }

    fn read(&self, _: &RunId) -> Usage {
        Usage::default()
    }
}

/// A supervisor's stream with workers `web-1`, `web-2` (of `web`) and `db`, as clients see it.
struct Street {
    router: Router,
    ring: Ring,
    scribe: Scribe,
    seq: u64,
    _bench: Bench,
}

/// When the supervisor began; event n is told n seconds later.
const BEGAN: &str = "2026-11-20T12:00:00Z";

impl Street {
    fn new(kept: usize) -> Self {
        let bench = Bench::new(1);
        let member = |name: &str| {
            let spec = Arc::new(Spec::new(vec!["x".into()]));
            let worker = bench.worker(name, Spec::clone(&spec)).unwrap();
            let declared_as = WorkerId::new(name.split('-').next().unwrap()).unwrap();
            Member::new(declared_as, spec, worker)
        };
        let manager = Manager::new(["web-1", "web-2", "db"].map(member).into());
        let scribe = Scribe::new("s");
        let ring = Ring::new(scribe.stream(), kept, 1 << 20);
        let told = Told {
            ring: ring.clone(),
            began: BEGAN.parse().unwrap(),
            sinks: Vitals::default(),
            tally: Tally::default(),
        };
        let runs = crate::store::MemoryStore::new();
        let day = Duration::from_secs(86_400);
        let runs = crate::store::StoreHandle::start(Box::new(runs), Vec::new(), day).unwrap();
        let (_, health) = tokio::sync::watch::channel(crate::store::Health::Ok { made_anew: None });
        let api = Api::new(manager, Arc::new(Nothing), bench.shared.clock, "/logs".into(), health, runs, told);
        Self { router: api.router(), ring, scribe, seq: 0, _bench: bench }
    }

    /// A worker's program starts, the supervisor says something, or whatever else happens.
    fn happens(&mut self, worker: Option<&str>, kind: EventKind) {
        self.seq += 1;
        let time = format!("2026-11-20T12:00:{:02}.000000Z", self.seq);
        let worker = worker.map(|id| WorkerId::new(id).unwrap());
        let event =
            Event { v: 1, epoch: 1, seq: self.seq, time, mono_ns: 0, run: worker.as_ref().map(|_| 1), worker, kind };
        self.ring.push(self.scribe.write(event));
    }

    fn starts(&mut self, workers: &[&str]) {
        for worker in workers {
            self.happens(Some(worker), EventKind::Started { pid: 1 });
        }
    }

    async fn ask_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer { uid: 1000, pid: Some(1), role: Role::Operator });
        self.router.clone().call(request).await.unwrap()
    }

    async fn ask(&self, path: &str) -> Lines {
        let response = self.ask_with(path, &[("accept", LINES)]).await;
        assert_eq!(
            (response.status(), &response.headers()[CONTENT_TYPE]),
            (StatusCode::OK, &LINES.parse().unwrap()),
            "{path}"
        );
        Lines { body: response.into_body(), read: Vec::new() }
    }

    /// The numbers of the events, and the words of the markers, up to the end.
    async fn told(&self, path: &str) -> Vec<String> {
        self.ask(path).await.all().await
    }

    async fn refused(&self, path: &str) -> (u16, String) {
        let response = self.ask_with(path, &[]).await;
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&text).unwrap();
        (status, problem["detail"].as_str().unwrap().to_owned())
    }
}

/// An answer in lines, read as it comes.
struct Lines {
    body: Body,
    read: Vec<Value>,
}

impl Lines {
    async fn next(&mut self) -> Option<Value> {
        while self.read.is_empty() {
            let data = self.body.frame().await?.unwrap().into_data().unwrap();
            self.read = data.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        }
        Some(self.read.remove(0))
    }

    async fn word(&mut self) -> Option<String> {
        let line = self.next().await?;
        Some(line["marker"].as_str().map_or_else(|| line["seq"].to_string(), str::to_owned))
    }

    async fn all(mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(word) = self.word().await {
            words.push(word);
        }
        words
    }
}

#[tokio::test]
async fn without_following_all_that_is_kept_is_told_and_that_is_it() {
    let mut street = Street::new(3);
    street.starts(&["web-1", "web-2"]);
    assert_eq!(street.told("/v1/events").await, ["1", "2"]);
    street.starts(&["db", "db"]);
    let mut lines = street.ask("/v1/events").await;
    let gap = json!({"marker": "gap", "what": "1 events are not kept any more", "missed": 1});
    assert_eq!(lines.next().await, Some(gap));
    let event = lines.next().await.unwrap();
    assert_eq!((&event["seq"], &event["worker"], &event["cursor"]), (&2.into(), &"web-2".into(), &"s.2".into()));
    assert_eq!(lines.all().await, ["3", "4"]);
}

#[tokio::test]
async fn whoever_follows_has_what_comes_up_to_the_end() {
    let mut street = Street::new(9);
    street.starts(&["web-1"]);
    let mut lines = street.ask("/v1/events?follow=true").await;
    street.starts(&["web-2"]);
    assert_eq!(lines.word().await.as_deref(), Some("2"));
    let waiting = tokio::spawn(async move { lines.all().await });
    tokio::task::yield_now().await;
    street.starts(&["db"]);
    street.ring.close();
    assert_eq!(waiting.await.unwrap(), ["3", "end"]);
}

#[tokio::test]
async fn whoever_comes_back_goes_on_where_it_was() {
    let mut street = Street::new(3);
    street.starts(&["web-1", "web-2", "db"]);
    assert_eq!(street.told("/v1/events?after=s.1").await, ["2", "3"]);
    let back = street.ask_with("/v1/events?since=1h", &[("accept", LINES), ("last-event-id", "s.2")]).await;
    assert_eq!(Lines { body: back.into_body(), read: Vec::new() }.all().await, ["3"], "whatever it said at first");
    assert_eq!(street.told("/v1/events?after=s.3").await, [""; 0]);
    street.starts(&["db", "db"]);
    assert_eq!(street.told("/v1/events?after=s.1").await, ["gap", "3", "4", "5"]);
    assert_eq!(street.told("/v1/events?after=another.1").await, ["gap", "gap", "3", "4", "5"]);
}

#[tokio::test]
async fn since_is_a_moment_or_a_time_and_what_it_asks_in_vain_is_said() {
    let mut street = Street::new(3);
    street.starts(&["web-1", "web-2", "db"]);
    assert_eq!(street.told("/v1/events?since=2026-11-20T12:00:02Z").await, ["2", "3"]);
    assert_eq!(street.told("/v1/events?since=1s").await, [""; 0], "they were told in the past");
    assert_eq!(street.told("/v1/events?since=2026-11-20T11:00:00Z").await, ["gap", "1", "2", "3"]);
    street.starts(&["db"]);
    assert_eq!(street.told("/v1/events?since=2026-11-20T12:00:03Z").await, ["3", "4"]);
    let mut lines = street.ask("/v1/events?since=2026-11-20T12:00:01Z").await;
    let what = "nothing is kept of what was before 2026-11-20T12:00:02.000Z";
    assert_eq!(lines.next().await.unwrap(), json!({"marker": "gap", "what": what, "missed": 1}));
}

#[tokio::test]
async fn filters_choose_by_worker_and_by_what_happened() {
    let mut street = Street::new(9);
    street.starts(&["web-1", "db", "web-2"]);
    street.happens(None, EventKind::Supervisor { what: "x".into() });
    assert_eq!(street.told("/v1/events?filter=worker%3Dweb").await, ["1", "3"]);
    assert_eq!(street.told("/v1/events?filter=worker%3D*-2&filter=worker%3Ddb").await, ["2", "3"]);
    assert_eq!(street.told("/v1/events?filter=kind%3Dsupervisor").await, ["4"]);
    assert_eq!(street.told("/v1/events?filter=kind%3Dstarted&filter=worker%3Ddb&filter=run%3D1").await, ["2"]);
    assert_eq!(ExitCause::KilledExternal.word(), "killed_external");
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed_and_let_go() {
    let mut street = Street::new(3);
    let mut lines = street.ask("/v1/events?follow=true").await;
    street.starts(&["db"]);
    assert_eq!(lines.word().await.as_deref(), Some("1"));
    street.starts(&["db"; 5]);
    let last = lines.next().await.unwrap();
    assert_eq!((&last["marker"], &last["missed"]), (&"lagged".into(), &2.into()));
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn a_browser_has_server_sent_events_with_ids() {
    let mut street = Street::new(1);
    street.starts(&["web-1", "web-2"]);
    let response = street.ask_with("/v1/events", &[]).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    let (gap, event) = text.split_once("\n\n").unwrap();
    assert!(gap.starts_with("event: gap\ndata: {\"marker\":\"gap\","), "{text}");
    assert!(event.starts_with("id: s.2\ndata: {\"v\":1,") && event.ends_with("}\n\n"), "{text}");
}

#[tokio::test]
async fn only_so_many_read_at_once_and_a_place_is_free_again_with_its_reader() {
    let street = Street::new(9);
    let mut readers = Vec::new();
    for _ in 0..OTHERS {
        readers.push(street.ask("/v1/events?follow").await);
    }
    assert_eq!(street.refused("/v1/events").await.0, 503);
    readers.pop();
    assert_eq!(street.told("/v1/events").await, [""; 0]);
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_what_would_be() {
    let street = Street::new(9);
    for (path, status, detail) in [
        ("/v1/events?folow=true", 400, "known are follow, since, after and filter"),
        ("/v1/events?follow=yes", 400, "\"yes\" is neither true nor false"),
        ("/v1/events?since=ten", 400, "or a moment like 2026-11-20T12:00:00Z"),
        ("/v1/events?after=12", 400, "\"12\" is no cursor"),
        ("/v1/events?since=1m&after=s.1", 400, "say one of them"),
        ("/v1/events?filter=oom", 400, "write KEY=VALUE"),
        ("/v1/events?filter=worker%3Dnone", 404, "there is no worker \"none\""),
    ] {
        let (found, said) = street.refused(path).await;
        assert!(found == status && said.contains(detail), "{path}: {found} {said}");
    }
}
