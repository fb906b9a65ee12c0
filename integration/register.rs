//! Workers that are registered over the socket and taken away again: what is told of them, what they outlive, and what is left where
//! a supervisor dies over it.
//!
//! `PINFOLD_REGISTER_KILLS` makes the row of kills longer, `PINFOLD_REGISTER_SEED` has it draw again what it drew before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "register/files.rs"]
mod files;
#[path = "register/killed.rs"]
mod killed;
#[path = "register/removal.rs"]
mod removal;
mod support;
#[path = "register/torn.rs"]
mod torn;

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use hyper::Method;
use pinfold::{
    clock,
    model::{Event, EventKind, State},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Case,
    door::{Answer, Door},
    misbehave, misbehaving, parameter,
    process::Process,
    public_dir,
    up::Up,
    wait_until, worker,
};

const NOBODY: u32 = 65534;

fn sleeper(id: &str) -> Value {
    json!({"id": id, "unit": {"command": ["/bin/sleep", "1000"], "restart": {"policy": "never"}}})
}

/// The body of one that has further keys.
fn with(mut worker: Value, more: &Value) -> Value {
    worker.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    worker
}

fn post(case: &Case, worker: &Value) -> Answer {
    Door::open(&case.socket()).post("/v1/workers", worker)
}

fn get(case: &Case, path: &str) -> Answer {
    Door::open(&case.socket()).get(path)
}

fn delete(case: &Case, path: &str) -> Answer {
    Door::open(&case.socket()).delete(path)
}

/// The main process of a worker that runs.
fn main_of(case: &Case, name: &str) -> Process {
    let told = get(case, &format!("/v1/workers/{name}")).body;
    let pid = told["pid"].as_i64().unwrap_or_else(|| panic!("{name} does not run: {told}"));
    Process::open(i32::try_from(pid).unwrap()).unwrap()
}

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["code"].as_str().unwrap_or_default())
}

fn detail(answer: &Answer) -> &str {
    answer.body["detail"].as_str().unwrap_or_default()
}

/// What is registered, as it is kept.
fn kept(case: &Case) -> Vec<Value> {
    let text = fs::read_to_string(case.dir.path().join("state/registered.json")).unwrap_or("[]".into());
    serde_json::from_str(&text).unwrap()
}

fn says(event: &Event, part: &str) -> bool {
    matches!(&event.kind, EventKind::Supervisor { what } if what.contains(part))
}

/// Kills the supervisor, and waits until another one answers.
fn replaced(case: &Case) {
    let supervisor = case.role("supervisor");
    supervisor.signal(Signal::KILL);
    supervisor.wait_gone("the killed supervisor");
    answers(case, supervisor.pid);
}

/// Waits until a supervisor that is not `other` answers.
fn answers(case: &Case, other: i32) {
    wait_until("another supervisor answers", || {
        let health = Door::ask_whoever_is_there(&case.socket(), "/v1/health")?;
        (health.status == 200 && health.body["pid"] != other).then_some(())
    });
}

/// One that declares `db`, and answers.
fn begin(case: &Case) -> Up {
    let mut up = Up::start(case, &worker("db", &["/bin/sleep", "1000"], &[]));
    up.started("db", 1);
    answers(case, 0);
    up
}

/// Ends one whose supervisor was replaced: what it told last may be lost.
fn end(mut up: Up) {
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}

#[test]
fn a_worker_comes_runs_is_told_of_and_goes() {
    let case = Case::new();
    let mut up = begin(&case);
    let made = post(&case, &sleeper("web"));
    assert_eq!((made.status, made.body["workers"].as_array().unwrap().len()), (201, 1), "{made:?}");
    assert_eq!((&made.body["workers"][0]["id"], &made.body["workers"][0]["state"]), (&"web".into(), &"running".into()));
    let main = up.started("web", 1);
    assert_eq!(made.body["workers"][0]["pid"], main.pid);
    let by = up.wait_for(
        "who has registered it",
        |event| matches!(&event.kind, EventKind::Operator { what, .. } if what == "register web"),
    );
    assert!(matches!(by.kind, EventKind::Operator { who, .. } if who.starts_with("uid 0 (pid ")));
    assert_eq!(case.ask("ps", &["-q"]).stdout, "db\nweb\n", "behind those of the files");
    assert_eq!(case.ask("plan", &[]).stdout, "nothing to do; 2 workers are untouched; 1 registered over the API\n");
    let shown = get(&case, "/v1/workers/web/inspect").body;
    assert_eq!(shown["origin"], "registered");
    let settings = shown["settings"].as_array().unwrap();
    let command = settings.iter().find(|setting| setting["name"] == "command").unwrap();
    assert_eq!(command["source"], json!({"kind": "registered"}));
    assert_eq!(get(&case, "/v1/workers/db/inspect").body["origin"], "config");

    let gone = delete(&case, "/v1/workers/web");
    assert_eq!((gone.status, &gone.body["results"][0]["outcome"]), (200, &"done".into()), "{gone:?}");
    assert_eq!(gone.body["results"][0]["state"], "stopped");
    assert!(!main.alive(), "it is waited for");
    assert_eq!(code(&get(&case, "/v1/workers/web")), (404, "not_found"));
    assert_eq!(code(&delete(&case, "/v1/workers/web")), (404, "not_found"));
    assert_eq!(kept(&case), [] as [Value; 0]);
    // The name is free again, and its runs are counted on.
    assert_eq!(post(&case, &sleeper("web")).body["workers"][0]["run"], 2);
    up.stop();
}

#[test]
fn one_that_is_not_enabled_waits_and_one_that_cannot_be_started_is_there_all_the_same() {
    let case = Case::new();
    let mut up = begin(&case);
    let made = post(&case, &with(sleeper("off"), &json!({"enabled": false})));
    assert_eq!((made.status, &made.body["workers"][0]["detail"]), (201, &"never".into()), "{made:?}");
    let typo = json!({"id": "typo", "unit": {"command": ["/bin/sleeep"], "restart": {"policy": "never"}}});
    let made = post(&case, &typo);
    let told = &made.body["workers"][0];
    assert_eq!((made.status, &told["state"], &told["detail"]), (201, &"stopped".into(), &"failed".into()), "{made:?}");
    assert_eq!(told["cause"]["kind"], "start_failed", "{made:?}");
    case.ask("start", &["off"]);
    assert_eq!(delete(&case, "/v1/workers/typo").status, 200);
    assert_eq!(delete(&case, "/v1/workers/off").status, 200);
    up.stop();
}

#[test]
fn what_is_wrong_is_told_by_its_keys_all_at_once_and_nothing_is_made() {
    let case = Case::new();
    let mut up = begin(&case);
    let wrong = json!({"id": "web", "slice": "none", "unit": {"command": ["x"], "nise": 3, "umask": "9999"}});
    let refused = post(&case, &wrong);
    assert_eq!(code(&refused), (422, "bad_config"), "{refused:?}");
    assert!(
        detail(&refused).starts_with("the worker has 3 problems, and nothing is changed: the request: "),
        "{refused:?}"
    );
    let mut paths: Vec<&str> =
        refused.body["problems"].as_array().unwrap().iter().map(|wrong| wrong["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["slice", "unit.nise", "unit.umask"]);
    let refused = post(&case, &json!({"id": "web"}));
    assert!(code(&refused) == (422, "bad_config") && detail(&refused).contains("has no command"), "{refused:?}");
    let refused = post(&case, &json!({}));
    assert!(code(&refused) == (422, "bad_config") && detail(&refused).contains("id"), "{refused:?}");
    // A name is somebody's by each of its instances, too.
    assert_eq!(post(&case, &with(sleeper("set"), &json!({"instances": 2}))).status, 201);
    for (taken, whose) in [
        (sleeper("db"), "declared in the configuration"),
        (sleeper("set"), "DELETE /v1/workers/set first"),
        (sleeper("set-2"), "DELETE /v1/workers/set first"),
        (with(sleeper("db"), &json!({"instances": 2})), "declared in the configuration"),
    ] {
        let refused = post(&case, &taken);
        assert!(code(&refused) == (409, "taken") && detail(&refused).contains(whose), "{taken}: {refused:?}");
    }
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "db\nset-1\nset-2\n");
    assert_eq!(kept(&case).len(), 1);
    up.stop();
}

#[test]
fn what_cannot_be_kept_is_not_started_and_what_cannot_be_marked_is_not_stopped() {
    let case = Case::new();
    let mut up = begin(&case);
    let file = case.dir.path().join("state/registered.json");
    let in_the_way = || {
        fs::create_dir(&file).unwrap();
        fs::write(file.join("x"), "").unwrap();
    };
    in_the_way();
    let refused = post(&case, &sleeper("web"));
    assert!(code(&refused) == (500, "failed") && detail(&refused).contains("nothing is started"), "{refused:?}");
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "db\n");
    fs::remove_dir_all(&file).unwrap();
    assert_eq!(post(&case, &sleeper("web")).status, 201);
    let main = main_of(&case, "web");
    fs::remove_file(&file).unwrap();
    in_the_way();
    let refused = delete(&case, "/v1/workers/web");
    assert!(code(&refused) == (500, "failed") && detail(&refused).contains("nothing is changed"), "{refused:?}");
    assert!(main.alive());
    fs::remove_dir_all(&file).unwrap();
    assert_eq!(delete(&case, "/v1/workers/web").status, 200);
    up.stop();
}

#[test]
fn what_a_file_declares_and_one_of_several_instances_are_not_deleted() {
    let case = Case::new();
    let workers = worker("db", &["/bin/sleep", "1000"], &[])
        + &worker("web", &["/bin/sleep", "1000"], &[])
        + "    instances: 2\n";
    let mut up = Up::start(&case, &workers);
    up.started("web-2", 1);
    answers(&case, 0);
    assert_eq!(post(&case, &with(sleeper("set"), &json!({"instances": 2}))).status, 201);
    let file = format!("in {}", case.file("pinfold.yaml"));
    for (name, part) in [
        ("db", format!("db is declared {file}; remove it there, and reload")),
        ("web", format!("web is declared {file}; remove it there")),
        ("web-2", format!("web-2 is declared {file} as an instance of web;")),
        ("set-2", "set-2 is one of the instances of set: DELETE /v1/workers/set takes all of them".to_owned()),
    ] {
        let refused = delete(&case, &format!("/v1/workers/{name}"));
        assert!(code(&refused) == (409, "declared") && detail(&refused).contains(&part), "{name}: {refused:?}");
    }
    assert_eq!(code(&delete(&case, "/v1/workers/none")), (404, "not_found"));
    assert_eq!(case.ask("count", &[]).stdout, "5\n", "nobody was touched");
    up.stop();
}

/// Asks as a user whom the group of `socket` lets in. The kernel notes of a connection who made it, and a user is a thread's.
fn as_operator(socket: &Path, method: Method, path: &str, body: &Value) -> Answer {
    let gid = fs::metadata(socket).unwrap().gid();
    let body = serde_json::to_vec(body).unwrap();
    let asked = || {
        let (uid, gid) = (rustix::process::Uid::from_raw(NOBODY), rustix::process::Gid::from_raw(gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        Door::tell_whoever_is_there(socket, method, path, body)
    };
    std::thread::scope(|scope| scope.spawn(asked).join().unwrap()).expect("it is let in")
}

#[test]
fn only_an_admin_may() {
    let case = Case::new();
    let public = public_dir();
    let socket = public.path().join("api.sock");
    let config = case.config(&worker("db", &["/bin/sleep", "1000"], &[]));
    let mut up = Up::spawn(case.pinfold("up").arg(config).arg("--socket").arg(&socket));
    up.started("db", 1);
    wait_until("it answers", || Door::ask_whoever_is_there(&socket, "/v1/health"));
    let seen = as_operator(&socket, Method::GET, "/v1/workers/db", &json!({}));
    assert_eq!((seen.status, &seen.body["id"]), (200, &"db".into()), "an operator is let in: {seen:?}");
    let refused = as_operator(&socket, Method::POST, "/v1/workers", &sleeper("web"));
    assert_eq!(code(&refused), (403, "not_permitted"), "{refused:?}");
    assert_eq!(Door::open(&socket).post("/v1/workers", &sleeper("web")).status, 201);
    let refused = as_operator(&socket, Method::DELETE, "/v1/workers/web", &json!({}));
    assert_eq!(code(&refused), (403, "not_permitted"), "{refused:?}");
    let still = Door::open(&socket).get("/v1/workers/web").body;
    assert_eq!(still["state"], State::Running.as_str());
    let by_him = |event: &Event| matches!(&event.kind, EventKind::Operator { who, .. } if who.starts_with(&format!("uid {NOBODY} ")));
    assert!(!up.seen.iter().any(by_him));
    up.stop();
}
