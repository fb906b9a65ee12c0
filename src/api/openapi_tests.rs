use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};

use super::*;
use crate::api::Peer;
use crate::api::routes::tests::{Door, as_peer};

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/openapi.json");

/// What an HTTP client can say that is a method.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

fn described() -> Value {
    serde_json::from_str(json()).unwrap()
}

/// Each path of the document with its methods.
fn operations() -> Vec<(String, Method, Value)> {
    let mut all = Vec::new();
    for (path, methods) in described()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            all.push((path.clone(), method.to_uppercase().parse().unwrap(), operation.clone()));
        }
    }
    all
}

/// A path of that form, of a worker that is there.
fn concrete(path: &str) -> String {
    path.replace("{name}", "web").replace("{pattern}", "web")
}

/// What every reference in the document leads to is in the document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(to)) = members.get("$ref") {
                found.insert(to.clone());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// `PINFOLD_BLESS=1` writes it anew.
#[test]
fn the_document_that_is_checked_in_is_the_one_that_is_served() {
    if std::env::var_os("PINFOLD_BLESS").is_some() {
        std::fs::write(CHECKED_IN, json()).unwrap();
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        checked_in == json(),
        "{CHECKED_IN} is another document: run this test with PINFOLD_BLESS=1 and look at the change"
    );
}

#[test]
fn everything_that_is_referred_to_is_there_and_every_operation_has_a_name_of_its_own() {
    let document = described();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for to in found {
        assert!(document.pointer(to.strip_prefix('#').unwrap()).is_some(), "{to} is not in the document");
    }
    let names: Vec<_> =
        operations().into_iter().map(|(_, _, op)| op["operationId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

#[test]
fn a_shape_that_is_both_asked_and_told_is_one() {
    // Where a type had two forms, the later would have displaced the earlier without a word.
    let settings = SchemaSettings::draft2020_12();
    let mut told = settings.clone().for_serialize().into_generator();
    let mut asked = settings.for_deserialize().into_generator();
    for route in routes() {
        route.answers.iter().filter_map(|(_, shape)| *shape).for_each(|shape| drop(shape(&mut told)));
        route.query.into_iter().chain(route.body).for_each(|shape| drop(shape(&mut asked)));
    }
    let told = told.take_definitions(true);
    for (name, schema) in asked.take_definitions(true) {
        assert!(told.get(&name).is_none_or(|other| *other == schema), "{name}");
    }
}

/// Asks as root does; how the router answers, and with which `Allow`.
async fn asked(door: &Door, method: Method, path: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = door.respond(as_peer(request, 0, Role::Admin)).await;
    let allow = response.headers().get("allow").map_or("", |v| v.to_str().unwrap()).to_owned();
    (response.status().as_u16(), allow)
}

#[tokio::test(start_paused = true)]
async fn what_is_described_is_served_and_what_is_served_is_described() {
    let door = Door::new(&["web"]);
    let described: Vec<(String, Method)> = operations().into_iter().map(|(path, method, _)| (path, method)).collect();
    assert!(described.len() > 15);
    for path in described.iter().map(|(path, _)| path).collect::<BTreeSet<_>>() {
        for method in METHODS {
            let (status, allow) = asked(&door, method.clone(), &concrete(path)).await;
            // HEAD is wherever GET is, by the protocol.
            let as_if = if method == Method::HEAD { Method::GET } else { method.clone() };
            let is_described = described.contains(&(path.clone(), as_if));
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
            assert_ne!(status, 404, "{method} {path}: nothing is served there");
            if status == 405 {
                let allowed: BTreeSet<&str> = allow.split(',').collect();
                let here = described.iter().filter(|(other, _)| other == path);
                assert!(here.clone().all(|(_, method)| allowed.contains(method.as_str())), "{path}: allow: {allow}");
                assert!(!allowed.contains(method.as_str()), "{method} {path}: allow: {allow}");
            }
        }
    }
}

#[test]
fn the_table_alone_makes_routes() {
    // What is served elsewhere would be neither described nor guarded.
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api")).unwrap();
    for file in sources.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let makes = text.contains(".route(") || text.contains(".nest(");
        let may = ["table.rs", "serve_tests.rs", "openapi_tests.rs"].iter().any(|name| file.ends_with(name));
        assert!(!makes || may, "{}", file.display());
    }
}

#[tokio::test(start_paused = true)]
async fn every_role_may_what_the_table_says_and_nobody_else_anything_that_changes() {
    let ours = 1000;
    // Whose the door is decides what a uid may: root and our own are admins, every other uid that the group lets in is not.
    let peers = [(0, Role::Admin), (ours, Role::Admin), (1001, Role::Operator), (65534, Role::Operator)];
    let mut admins_alone = BTreeSet::new();
    for route in routes() {
        let path = concrete(route.path);
        for (uid, role) in peers {
            assert_eq!(Peer::of(uid, Some(7), ours).role, role);
            let door = Door::new(&["web"]);
            let request = Request::builder().method(route.method.clone()).uri(&path).body(Body::empty()).unwrap();
            let status = door.respond(as_peer(request, uid, role)).await.status().as_u16();
            let may = role == Role::Admin || route.role == Role::Operator;
            assert_eq!(status != 403, may, "uid {uid} {} {path}: {status}", route.method);
        }
        if route.is_mutation() {
            let door = Door::new(&["web"]);
            let request = Request::builder().method(route.method.clone()).uri(&path).body(Body::empty()).unwrap();
            let status = door.respond(request).await.status().as_u16();
            // What only looks at the configuration, or changes it, is not asked on anybody's behalf; that there is none comes first.
            let unnamed = ["/v1/plan", "/v1/workers/{name}/instances"].contains(&route.path);
            assert!(status == 403 || unnamed, "nobody {} {path}: {status}", route.method);
        }
        if route.role == Role::Admin {
            admins_alone.insert(format!("{} {}", route.method, route.path));
        }
    }
    // A route that is added to these is a promise that is broken to whoever is in the group.
    let expected = ["DELETE /v1/workers/{name}", "POST /v1/reexec", "POST /v1/shutdown", "POST /v1/workers"];
    assert_eq!(admins_alone, expected.map(str::to_owned).into());
    let roles = operations().into_iter().filter(|(_, _, op)| op["x-role"] == "admin");
    assert_eq!(roles.map(|(path, method, _)| format!("{method} {path}")).collect::<BTreeSet<_>>(), admins_alone);
}

#[tokio::test(start_paused = true)]
async fn an_answer_bears_the_name_of_its_request_and_so_does_the_record() {
    let mut door = Door::new(&["web"]);
    for (path, status) in [("/v1/health", 200), ("/nothing", 404), ("/v1/workers/web/start", 405)] {
        let request = Request::get(path).header("x-request-id", "7f-3.a").body(Body::empty()).unwrap();
        let response = door.respond(as_peer(request, 0, Role::Admin)).await;
        let name = response.headers().get("x-request-id").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!((response.status().as_u16(), name.as_deref()), (status, Some("7f-3.a")), "{path}");
    }
    for bad in ["", "two words", &"x".repeat(MAX_NAME + 1)] {
        let request = Request::get("/v1/health").header("x-request-id", bad).body(Body::empty()).unwrap();
        assert_eq!(door.respond(request).await.headers().get("x-request-id"), None, "{bad:?}");
    }
    let request = Request::post("/v1/workers/web/start").header("x-request-id", "7f3a").body(Body::empty()).unwrap();
    door.respond(as_peer(request, 1000, Role::Operator)).await;
    assert_eq!(door.whose(), Some("uid 1000 (pid 4711), request 7f3a".to_owned()));
}

/// Every error that the router's tests provoke has a status and a code that the document has for its operation.
#[tokio::test(start_paused = true)]
async fn what_is_answered_is_described() {
    let door = Door::new(&["web"]);
    let operations = operations();
    let mut seen = BTreeSet::new();
    for (path, method, operation) in &operations {
        let long = "x".repeat(crate::api::MAX_BODY + 1);
        for (target, media_type, body) in [
            (concrete(path), None, ""),
            (path.replace("{name}", "none").replace("{pattern}", "none"), None, ""),
            (path.replace("{name}", "%ff").replace("{pattern}", "%ff"), None, ""),
            (concrete(path) + "?colour=red", None, ""),
            (concrete(path) + "?limit=0&worker=web", None, ""),
            (concrete(path) + "?worker=never", None, ""),
            (concrete(path), None, "["),
            (concrete(path), Some("text/xml"), "{}"),
            (concrete(path), None, long.as_str()),
        ] {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(target.as_str())
                .body(Body::from(body.to_owned()))
                .unwrap();
            if let Some(media_type) = media_type {
                request.headers_mut().insert(CONTENT_TYPE, media_type.parse().unwrap());
            }
            let response = door.respond(as_peer(request, 1000, Role::Operator)).await;
            let status = response.status().as_u16().to_string();
            let described = &operation["responses"][&status];
            assert!(described.is_object(), "{method} {target} {body:.9}: {status} is not described");
            seen.insert(status);
        }
    }
    for status in ["200", "400", "403", "404", "413", "415"] {
        assert!(seen.contains(status), "{status} was not provoked: {seen:?}");
    }
}

/// A shape that says more than its route takes would send clients astray.
#[tokio::test(start_paused = true)]
async fn a_parameter_that_is_described_is_understood() {
    let door = Door::new(&["web"]);
    for (path, method, operation) in operations() {
        for parameter in operation["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let request = Request::builder().method(method.clone()).uri(format!("{}?{name}=%00", concrete(&path)));
            let response = door.respond(as_peer(request.body(Body::empty()).unwrap(), 0, Role::Admin)).await;
            let text = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&text);
            assert!(
                !text.contains("unknown field") && !text.contains("there is no \\\"{name}"),
                "{path} {name}: {text}"
            );
        }
    }
}
