use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Waker};

use axum::Router;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tower_service::Service;

use super::*;
use crate::api::Told;
use crate::history::{Ring, Vitals};
use crate::manager::handle::Manager;
use crate::metrics::Tally;
use crate::model::{Ceilings, Event, EventKind, OwnUse, Trigger, Usage, WorkerId};
use crate::spec::types::Spec;
use crate::store::{self, StoreHandle};
use crate::testing::Bench;

/// Says that a run has used a second, and how often it was asked. Where there are gates, every look tells of itself and waits
/// to be let through.
#[derive(Default)]
struct Meters {
    looks: AtomicUsize,
    gates: Option<(Sender<()>, std::sync::Mutex<Receiver<()>>)>,
}

impl Meter for Meters {
    fn read(&self, _: &RunId) -> Usage {
        Usage::default()
    }

    fn measure(&self, _: &RunId) -> Measured {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if let Some((come, gate)) = &self.gates {
            come.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap_or_default();
        }
        let used = Usage { cpu_usec: Some(1_000_000), memory_current_bytes: Some(4096), ..Usage::default() };
        Measured { used, ceilings: Ceilings { memory_max_bytes: Some(8192), ..Ceilings::default() } }
    }

    fn own(&self) -> Option<OwnUse> {
        None
    }
}

struct Door {
    bench: Bench,
    api: Api,
    router: Router,
    manager: Manager,
    tally: Tally,
    meter: Arc<Meters>,
    _store: tokio::sync::watch::Sender<store::Health>,
}

impl Door {
    fn new<'n>(names: impl IntoIterator<Item = &'n str>, meter: Meters) -> Self {
        let bench = Bench::new(1);
        let member = |name| {
            let worker = bench.worker(name, Spec::new(vec!["x".into()])).unwrap();
            Member::new(WorkerId::new(name).unwrap(), Arc::new(Spec::new(vec!["x".into()])), worker)
        };
        let manager = Manager::new(names.into_iter().map(member).collect());
        let runs = StoreHandle::start(Box::new(store::MemoryStore::new()), Vec::new(), Duration::MAX).unwrap();
        let (store, health) = tokio::sync::watch::channel(store::Health::Ok { made_anew: None });
        let (meter, tally) = (Arc::new(meter), Tally::default());
        let (ring, sinks) = (Ring::new("s".into(), 9, 1 << 20), Vitals::default());
        let told = Told { ring, began: Timestamp::UNIX_EPOCH, sinks, tally: tally.clone() };
        let api = Api::new(
            manager.clone(),
            Arc::<Meters>::clone(&meter),
            bench.shared.clock,
            "/logs".into(),
            health,
            runs,
            told,
        );
        Self { router: api.clone().router(), api, bench, manager, tally, meter, _store: store }
    }

    async fn up(&self, name: &str) {
        self.manager.find(name).unwrap().worker.start(Trigger::Config).await.unwrap();
    }

    async fn ask(&self, accept: &str) -> Response {
        let request = Request::get("/metrics").header("accept", accept).body(Body::empty()).unwrap();
        self.router.clone().call(request).await.unwrap()
    }

    async fn scrape(&self) -> String {
        read(self.ask("*/*").await).await
    }
}

async fn read(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn value<'t>(text: &'t str, series: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[tokio::test(start_paused = true)]
async fn what_runs_has_its_numbers_and_what_does_not_has_none() {
    let door = Door::new(["up", "down"], Meters::default());
    door.up("up").await;
    let text = door.scrape().await;
    assert_eq!(value(&text, "pinfold_worker_running{worker=\"up\"}"), Some("1"));
    assert_eq!(value(&text, "pinfold_worker_running{worker=\"down\"}"), Some("0"));
    assert_eq!(value(&text, "pinfold_worker_state{worker=\"down\",state=\"stopped\"}"), Some("1"));
    assert_eq!(value(&text, "pinfold_worker_memory_max_bytes{worker=\"up\"}"), Some("8192"));
    assert_eq!(value(&text, "pinfold_worker_memory_max_bytes{worker=\"down\"}"), None);
    assert_eq!(value(&text, "pinfold_worker_memory_peak_bytes{worker=\"up\"}"), None, "what is not told is absent");
    assert_eq!(value(&text, "pinfold_worker_cpu_usage_seconds_total{worker=\"up\"}"), Some("1.0"));
    assert_eq!(door.meter.looks.load(Ordering::SeqCst), 1, "what does not run is not looked at");
}

#[tokio::test(start_paused = true)]
async fn who_has_ended_as_it_should_is_not_missed_and_who_has_failed_is() {
    let door = Door::new(["done", "failed"], Meters::default());
    for (name, code) in [("done", 0), ("failed", 3)] {
        let id = WorkerId::new(name).unwrap();
        for _ in 0..9 {
            door.bench.kernel.script(&id, crate::testing::Script::exits(Duration::from_millis(10), code));
        }
        let worker = door.manager.find(name).unwrap().worker.clone();
        door.up(name).await;
        crate::testing::wait_for(&worker, Duration::from_secs(60), |s| s.cause.is_some()).await.unwrap();
    }
    let text = door.scrape().await;
    assert_eq!(value(&text, "pinfold_worker_desired_up{worker=\"done\"}"), Some("0"));
    assert_eq!(value(&text, "pinfold_worker_desired_up{worker=\"failed\"}"), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn the_format_is_the_one_that_was_asked_for() {
    let door = Door::new(["a"], Meters::default());
    for (accept, content_type, end) in [
        (
            "application/openmetrics-text;version=1.0.0,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            true,
        ),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", false),
    ] {
        let response = door.ask(accept).await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert_eq!(read(response).await.ends_with("# EOF\n"), end, "{accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_many_is_told_once_however_many_pieces_they_are_read_in() {
    let names: Vec<String> = (0..=2 * PIECE).map(|i| format!("w{i}")).collect();
    let door = Door::new(names.iter().map(String::as_str), Meters::default());
    door.up("w0").await;
    door.up(&format!("w{}", 2 * PIECE)).await;
    let text = door.scrape().await;
    assert_eq!(text.matches("pinfold_worker_running{").count(), names.len());
    let living: Vec<_> = text.lines().filter(|line| line.starts_with("pinfold_worker_memory_current_bytes{")).collect();
    let told = |i| format!("pinfold_worker_memory_current_bytes{{worker=\"w{i}\"}} 4096");
    assert_eq!(living, [told(0), told(2 * PIECE)], "each has its own numbers");
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_is_not_told_and_not_remembered() {
    let door = Door::new(["a"], Meters::default());
    for worker in ["a", "gone"] {
        let worker = Some(WorkerId::new(worker).unwrap());
        let kind = EventKind::Usage { usage: Usage { cpu_usec: Some(7_000_000), ..Usage::default() } };
        let time = String::new();
        door.tally.note(&Event { v: 1, epoch: 1, seq: 1, time, mono_ns: 0, worker, run: Some(1), kind });
    }
    let text = door.scrape().await;
    assert_eq!(
        value(&text, "pinfold_worker_cpu_usage_seconds_total{worker=\"a\"}"),
        Some("7.0"),
        "of a run that is over"
    );
    assert!(!text.contains("gone"));
    assert_eq!(door.tally.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_cost_what_one_does() {
    let (come, came) = channel();
    let (go, gate) = channel();
    let door = Arc::new(Door::new(["a"], Meters { gates: Some((come, gate.into())), ..Meters::default() }));
    door.up("a").await;
    let asking: Vec<_> = (0..SEATS)
        .map(|_| {
            let door = Arc::clone(&door);
            tokio::spawn(async move { door.scrape().await })
        })
        .collect();
    let looking = tokio::task::spawn_blocking(move || came.recv().unwrap());
    looking.await.unwrap();
    let refused = door.ask("*/*").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "one more is refused");
    go.send(()).unwrap();
    for asked in asking {
        assert!(asked.await.unwrap().contains("pinfold_worker_memory_current_bytes{worker=\"a\"} 4096"));
    }
    assert_eq!(door.meter.looks.load(Ordering::SeqCst), 1);
    drop(go);
    door.scrape().await;
    assert_eq!(door.meter.looks.load(Ordering::SeqCst), 2, "who asks later is told what is so later");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_the_same_however_soon_the_others_have_been_told() {
    let (come, _came) = channel();
    let (go, gate) = channel();
    let door = Door::new(["a"], Meters { gates: Some((come, gate.into())), ..Meters::default() });
    door.up("a").await;
    let (mut first, mut second) = (pin!(door.api.scrape()), pin!(door.api.scrape()));
    let asleep = &mut Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(asleep).is_pending() && second.as_mut().poll(asleep).is_pending());
    drop(go);
    drop(first.await);
    drop(second.await);
    assert_eq!(door.meter.looks.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_does_not_answer_costs_numbers_and_one_thread() {
    let (come, came) = channel();
    let (go, gate) = channel();
    let door = Arc::new(Door::new(["a"], Meters { gates: Some((come, gate.into())), ..Meters::default() }));
    door.up("a").await;
    let here = Arc::clone(&door);
    let asking = tokio::spawn(async move { here.scrape().await });
    let looking = tokio::task::spawn_blocking(move || came.recv().map(|()| came));
    let came = looking.await.unwrap().unwrap();
    tokio::time::advance(PATIENCE).await;
    let text = asking.await.unwrap();
    assert_eq!(value(&text, "pinfold_scrape_unread_runs"), Some("1"));
    assert_eq!(value(&text, "pinfold_worker_running{worker=\"a\"}"), Some("1"), "what is published is told");
    assert_eq!(value(&text, "pinfold_worker_memory_current_bytes{worker=\"a\"}"), None);
    let here = Arc::clone(&door);
    let asking = tokio::spawn(async move { here.scrape().await });
    while !asking.is_finished() {
        tokio::time::advance(PATIENCE).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(value(&asking.await.unwrap(), "pinfold_scrape_unread_runs"), Some("1"));
    assert!(came.try_recv().is_err(), "nobody has looked beside the one who still does");
    drop(go);
    assert_eq!(value(&door.scrape().await, "pinfold_scrape_unread_runs"), Some("0"), "it answers again");
}

#[test]
fn sinks_of_one_name_are_told_as_one() {
    let sink = |name: &str, state, delivered| SinkHealth {
        name: name.into(),
        state,
        since: String::new(),
        queued: 1,
        delivered,
        dropped: crate::history::Dropped::default(),
        last_error: None,
    };
    let (ok, failing) = (SinkState::Ok, SinkState::Failing);
    let one = by_name(vec![sink("a", ok, 1), sink("b", ok, 2), sink("a", failing, 4)]);
    let told: Vec<_> = one.iter().map(|s| (s.name.as_str(), s.state, s.queued, s.delivered)).collect();
    assert_eq!(told, [("a", failing, 2, 5), ("b", ok, 1, 2)]);
}
