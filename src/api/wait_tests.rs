use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::api::Role;
use crate::api::routes::tests::{Door, as_peer};

async fn get(door: &Door, path: &str, role: Role) -> (u16, Value) {
    let request = as_peer(Request::get(path).body(Body::empty()).unwrap(), 1000, role);
    let (head, body) = door.respond(request).await.into_parts();
    (head.status.as_u16(), serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
}

/// That of now, once everybody has published what they begin with.
async fn number(door: &Door, path: &str) -> u64 {
    tokio::time::sleep(Duration::from_millis(1)).await;
    get(door, path, Role::Operator).await.1["generation"].as_u64().unwrap()
}

async fn start(door: &Door, worker: &str) {
    let request = Request::post(format!("/v1/workers/{worker}/start")).body(Body::empty()).unwrap();
    assert!(door.respond(as_peer(request, 0, Role::Admin)).await.status().is_success());
}

/// What `future` gives, and how long it took by the paused clock.
async fn timed<T>(door: &Door, future: impl Future<Output = T>) -> (T, Duration) {
    let began = door.now();
    let given = future.await;
    (given, door.now().since(began))
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_is_newer_already_is_told_at_once() {
    let door = Door::new(&["a", "b"]);
    start(&door, "a").await;
    for path in ["/v1/workers/a", "/v1/workers"] {
        let ((status, value), took) =
            timed(&door, get(&door, &format!("{path}?wait_generation=0"), Role::Operator)).await;
        assert_eq!((status, took < SECOND), (200, true), "{path}");
        assert!(value["generation"].as_u64().unwrap() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_new_it_is_told_as_it_is_when_the_time_is_up() {
    let door = Door::new(&["a"]);
    for path in ["/v1/workers/a", "/v1/workers"] {
        let now = number(&door, path).await;
        for (timeout, expected) in [("", 30), ("&timeout=5s", 5)] {
            let path = format!("{path}?wait_generation={now}{timeout}");
            let ((status, value), took) = timed(&door, get(&door, &path, Role::Operator)).await;
            assert_eq!((status, value["generation"].as_u64()), (200, Some(now)), "{path}");
            assert!(took >= expected * SECOND && took < (expected + 1) * SECOND, "{path}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_ends_the_wait() {
    for path in ["/v1/workers/b", "/v1/workers", "/v1/workers?pattern=b"] {
        let door = Door::new(&["a", "b"]);
        let now = number(&door, path).await;
        let sign = if path.contains('?') { '&' } else { '?' };
        let waits = format!("{path}{sign}wait_generation={now}&timeout=1m");
        let change = async {
            tokio::time::sleep(2 * SECOND).await;
            start(&door, "b").await;
        };
        let ((answer, ()), took) =
            timed(&door, async { tokio::join!(get(&door, &waits, Role::Operator), change) }).await;
        assert!(answer.1["generation"].as_u64().unwrap() > now, "{path}");
        assert!(took < 10 * SECOND, "{path}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_others_changes_a_wait_knows_nothing() {
    let door = Door::new(&["a", "b"]);
    let now = number(&door, "/v1/workers?pattern=b").await;
    let waits = format!("/v1/workers?pattern=b&wait_generation={now}&timeout=3s");
    let ((_, took), ()) = tokio::join!(timed(&door, get(&door, &waits, Role::Operator)), start(&door, "a"));
    assert!(took >= 3 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_list_ends_the_wait_and_its_number_never_shrinks() {
    let door = Door::new(&["a", "b"]);
    start(&door, "a").await;
    let now = number(&door, "/v1/workers").await;
    let waits = format!("/v1/workers?wait_generation={now}&timeout=1m");
    let reorder = async {
        tokio::time::sleep(SECOND).await;
        door.reorder(&["b", "a"]);
    };
    let ((_, took), ()) = tokio::join!(timed(&door, get(&door, &waits, Role::Operator)), reorder);
    assert!(took < 10 * SECOND, "{took:?}");
    assert!(number(&door, "/v1/workers").await > now);
}

#[tokio::test(start_paused = true)]
async fn a_number_that_nobody_has_told_is_another_supervisors_and_not_waited_for() {
    let door = Door::new(&["a", "b"]);
    for path in ["/v1/workers", "/v1/workers/a"] {
        let now = number(&door, path).await;
        let waits = format!("{path}?wait_generation={}&timeout=1m", now + 1);
        let ((status, value), took) = timed(&door, get(&door, &waits, Role::Operator)).await;
        assert_eq!((status, value["generation"].as_u64()), (200, Some(now)), "{path}");
        assert!(took < SECOND, "{path}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_seats_are_bounded_and_some_are_kept_for_admins() {
    let door = Door::new(&["a"]);
    let now = number(&door, "/v1/workers/a").await;
    let path = format!("/v1/workers/a?wait_generation={now}");
    let mut waiting: Vec<_> = (0..48).map(|_| Box::pin(get(&door, &path, Role::Operator))).collect();
    for wait in &mut waiting {
        assert!(futures_util::poll!(wait).is_pending());
    }
    let (status, problem) = get(&door, &path, Role::Operator).await;
    assert_eq!((status, &problem["code"]), (503, &"too_many_connections".into()));
    let mut admin = Box::pin(get(&door, &path, Role::Admin));
    assert!(futures_util::poll!(&mut admin).is_pending());
    // Whoever goes gives the seat back.
    waiting.pop();
    let mut next = Box::pin(get(&door, &path, Role::Operator));
    assert!(futures_util::poll!(&mut next).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_makes_no_sense_is_refused() {
    let door = Door::new(&["a"]);
    for query in ["timeout=3s", "wait_generation=x", "wait_generation=1&timeout=soon", "wait_generation=1&timeout=1h"] {
        for path in ["/v1/workers/a", "/v1/workers"] {
            assert_eq!(get(&door, &format!("{path}?{query}"), Role::Admin).await.0, 400, "{path}?{query}");
        }
    }
}
