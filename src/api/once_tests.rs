use std::time::Duration;

use axum::http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::api::Role;
use crate::api::keys::KEPT;
use crate::api::routes::tests::{Door, as_peer};
use crate::testing::{OnSignal, Script};

fn request(path: &str, key: &str, uid: u32, body: &str) -> Request {
    let request = Request::builder().method(Method::POST).uri(path).header(KEY, key).body(Body::from(body.to_owned()));
    as_peer(request.unwrap(), uid, Role::Operator)
}

/// The status, whether it was given before, and the answer.
async fn ask(door: &Door, request: Request) -> (u16, bool, Value) {
    read(door.respond(request).await).await
}

async fn read(response: Response) -> (u16, bool, Value) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers.contains_key(&REPLAYED), serde_json::from_slice(&body).unwrap())
}

fn runs(door: &Door) -> u32 {
    door.run_of("a")
}

const RESTART: &str = "/v1/workers/a/restart";

#[tokio::test(start_paused = true)]
async fn what_is_asked_twice_by_one_key_is_done_once() {
    let door = Door::new(&["a"]);
    let (status, replayed, first) = ask(&door, request(RESTART, "\"k 1\"", 7, "{}")).await;
    assert_eq!((status, replayed), (400, false), "no space: {first}");
    let (status, replayed, first) = ask(&door, request(RESTART, "\"k1\"", 7, "{}")).await;
    assert_eq!((status, replayed, runs(&door)), (200, false, 1), "{first}");
    // Bare it is the same key.
    let (status, replayed, second) = ask(&door, request(RESTART, "k1", 7, "{}")).await;
    assert_eq!((status, replayed, runs(&door)), (200, true, 1));
    assert_eq!(first, second);
    ask(&door, request(RESTART, "k2", 7, "{}")).await;
    assert_eq!(runs(&door), 2, "another key is another request");
    ask(&door, request(RESTART, "k1", 8, "{}")).await;
    assert_eq!(runs(&door), 3, "another user's key is another one");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_given_again_too() {
    let door = Door::new(&["a"]);
    for replayed in [false, true] {
        let (status, again, problem) = ask(&door, request("/v1/workers/a/signal", "k", 7, r#"{"signal":"HUP"}"#)).await;
        assert_eq!((status, again, &problem["code"]), (409, replayed, &"not_running".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_another_body_or_path_is_refused_and_nothing_is_done() {
    let door = Door::new(&["a"]);
    ask(&door, request(RESTART, "k", 7, "{}")).await;
    for (path, body) in [(RESTART, r#"{"force":true}"#), ("/v1/workers/a/stop", "{}"), ("/v1/workers/*/restart", "{}")]
    {
        let (status, _, problem) = ask(&door, request(path, "k", 7, body)).await;
        assert_eq!((status, &problem["code"]), (422, &"idempotency_mismatch".into()), "{path} {body}");
    }
    assert_eq!(runs(&door), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_it_is_under_way_joins_it_also_where_the_first_has_gone() {
    let door = Door::new(&["a"]);
    door.script("a", Script { on_signal: OnSignal::Dies(Duration::from_secs(20)), ..Script::default() });
    ask(&door, request("/v1/workers/a/start", "s", 7, "{}")).await;
    // Long before the worker ends, its first client goes.
    let first = tokio::time::timeout(Duration::from_secs(1), door.respond(request(RESTART, "r", 7, "{}"))).await;
    assert!(first.is_err(), "it takes 20 s");
    let (status, replayed, answer) = ask(&door, request(RESTART, "r", 7, "{}")).await;
    assert_eq!((status, replayed, &answer["results"][0]["run"]), (200, true, &2.into()), "{answer}");
    assert_eq!(runs(&door), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_forgotten_in_time() {
    let door = Door::new(&["a"]);
    ask(&door, request(RESTART, "k", 7, "{}")).await;
    tokio::time::advance(KEPT + Duration::from_secs(1)).await;
    let (_, replayed, _) = ask(&door, request(RESTART, "k", 7, "{}")).await;
    assert_eq!((replayed, runs(&door)), (false, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_said_and_nothing_is_done() {
    let door = Door::new(&["a"]);
    for bad in ["", "\"\"", "a b", "a\"b", "\\", &"x".repeat(MAX_NAME + 1)] {
        let (status, _, problem) = ask(&door, request(RESTART, bad, 7, "{}")).await;
        assert_eq!((status, &problem["code"]), (400, &"bad_request".into()), "{bad:?}");
    }
    let mut two = request(RESTART, "a", 7, "{}");
    two.headers_mut().append(KEY, HeaderValue::from_static("b"));
    assert_eq!(ask(&door, two).await.0, 400);
    assert_eq!(runs(&door), 0);
}
