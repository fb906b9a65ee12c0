use std::sync::{Arc, Mutex};

use axum::body::Body as HttpBody;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::api::routes::tests::{Door, as_peer};
use crate::api::wire::{Inspection, Plan, Reloaded, SetLimits};
use crate::api::{Answering, Governor, Made, Outcomes, Role};
use crate::manager::handle::{Action, Manager, Outcome};
use crate::model::WorkerId;

/// Knows what it was asked for, and does it to workers that are there already.
struct Clerk {
    manager: Manager,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Clerk {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Governor for Clerk {
    fn register(&self, declaration: Declaration, who: String) -> Answering<'_, Made> {
        let id = declaration.id().unwrap().to_owned();
        self.note(format!("register {id}, {who}"));
        let start = self.manager.ask(&id, Action::Start, &who).ok();
        Box::pin(
            async move { Ok(Made { members: self.manager.instances(&id), id: WorkerId::new(&id).unwrap(), start }) },
        )
    }

    fn deregister(&self, name: String, patience: Patience, who: String) -> Answering<'_, Outcomes> {
        self.note(format!("deregister {name}, {patience:?}, {who}"));
        let members = self.manager.instances(&name);
        Box::pin(async move { Ok(members.into_iter().map(|member| (member, Outcome::Done)).collect()) })
    }

    fn plan(&self) -> Answering<'_, Plan> {
        nothing_else()
    }

    fn reload(&self, _: String) -> Answering<'_, Reloaded> {
        nothing_else()
    }

    fn scale(&self, _: String, _: usize) -> Answering<'_, Outcomes> {
        nothing_else()
    }

    fn inspect(&self, _: String, _: bool) -> Answering<'_, Inspection> {
        nothing_else()
    }

    fn set(&self, _: String, _: SetLimits, _: String) -> Answering<'_, Outcomes> {
        nothing_else()
    }
}

fn nothing_else<T>() -> Answering<'static, T> {
    Box::pin(async { Err(Problem::new(Code::Failed, "that is not asked here")) })
}

fn door(names: &[&str]) -> (Door, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let door = Door::new(names);
    let clerk = Clerk { manager: door.manager(), asked: Arc::clone(&asked) };
    (door.governed(Arc::new(clerk)), asked)
}

/// Asks as root does: status, place, what is told, and whether it was told before.
async fn ask(door: &Door, method: Method, path: &str, key: &str, body: &str) -> (u16, Option<String>, Value, bool) {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(HttpBody::from(body.to_owned())).unwrap();
    let (head, body) = door.respond(as_peer(request, 0, Role::Admin)).await.into_parts();
    let location = head.headers.get(LOCATION).map(|place| place.to_str().unwrap().to_owned());
    let value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    (head.status.as_u16(), location, value, head.headers.contains_key("idempotency-replayed"))
}

#[tokio::test(start_paused = true)]
async fn what_is_made_is_told_with_its_place_and_runs_by_then() {
    let (door, asked) = door(&["web", "set-1", "set-2"]);
    let (status, place, told, _) = ask(&door, Method::POST, "/v1/workers", "", r#"{"id": "web"}"#).await;
    assert_eq!((status, place.as_deref()), (201, Some("/v1/workers/web")));
    assert_eq!((&told["workers"][0]["id"], &told["workers"][0]["state"]), (&"web".into(), &"running".into()));
    let (status, _, one, _) = ask(&door, Method::GET, place.as_deref().unwrap(), "", "").await;
    assert_eq!((status, &one), (200, &told["workers"][0]), "as it is told there");
    let (status, place, told, _) = ask(&door, Method::POST, "/v1/workers?wait=false", "", r#"{"id": "set"}"#).await;
    assert_eq!((status, place.as_deref()), (201, Some("/v1/workers?pattern=set")));
    assert_eq!(told["workers"].as_array().unwrap().len(), 2);
    assert_eq!(ask(&door, Method::GET, place.as_deref().unwrap(), "", "").await.0, 200);
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, ["register web, uid 0 (pid 4711)", "register set, uid 0 (pid 4711)"]);
}

#[tokio::test(start_paused = true)]
async fn what_bears_the_same_key_is_made_once_and_its_place_told_again() {
    let (door, asked) = door(&["web"]);
    let first = ask(&door, Method::POST, "/v1/workers", "k1", r#"{"id": "web"}"#).await;
    let second = ask(&door, Method::POST, "/v1/workers", "k1", r#"{"id": "web"}"#).await;
    assert_eq!((first.0, &first.1, first.3), (201, &Some("/v1/workers/web".to_owned()), false));
    assert_eq!((second.0, &second.1, second.3), (201, &first.1, true));
    assert_eq!(first.2, second.2);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn how_long_a_removal_is_waited_for_is_what_was_asked() {
    let (door, asked) = door(&["web"]);
    for query in ["", "?timeout=3s", "?wait=false"] {
        let path = format!("/v1/workers/web{query}");
        let (status, place, told, _) = ask(&door, Method::DELETE, &path, "", "").await;
        assert_eq!((status, place, &told["results"][0]["outcome"]), (200, None, &"done".into()), "{told}");
    }
    let (status, _, told, _) = ask(&door, Method::DELETE, "/v1/workers/web?timeout=soon", "", "").await;
    assert_eq!((status, &told["code"]), (400, &"bad_request".into()), "{told}");
    let asked = asked.lock().unwrap();
    let expected = ["Done { within: None }", "Done { within: Some(3s) }", "Accepted"];
    assert_eq!(*asked, expected.map(|patience| format!("deregister web, {patience}, uid 0 (pid 4711)")));
}
