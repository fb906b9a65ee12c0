//! Workers that are registered over the socket and taken away again: what is told of them, what they outlive, and what is left where
//! a supervisor dies over it.
//!
//! `PINFOLD_REGISTER_KILLS` makes the row of kills longer, `PINFOLD_REGISTER_SEED` has it draw again what it drew before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

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

#[test]
fn a_registered_worker_outlives_a_reload_a_supervisor_and_a_binary_and_is_there_at_the_next_up() {
    let case = Case::new();
    let up = begin(&case);
    assert_eq!(post(&case, &with(sleeper("set"), &json!({"instances": 1}))).status, 201);
    assert_eq!(post(&case, &sleeper("web")).status, 201);
    case.ask("set", &["--persist", "web", "pids.max=max"]);
    case.ask("scale", &["set=3"]);
    let names = ["web", "set-1", "set-2", "set-3"];
    let mains = names.map(|name| main_of(&case, name));
    let same = |what: &str| {
        for (name, main) in names.iter().zip(&mains) {
            assert_eq!(main_of(&case, name).pid, main.pid, "{name} after {what}");
        }
    };
    // What has changed in a file is changed, and nothing else.
    case.config(&(worker("db", &["/bin/sleep", "1000"], &[]) + &worker("more", &["/bin/sleep", "1000"], &[])));
    case.ask("reload", &[]);
    same("a reload");
    replaced(&case);
    same("the death of a supervisor");
    let supervisor = case.role("supervisor");
    case.ask("reexec", &[]);
    answers(&case, supervisor.pid);
    same("another binary");
    assert_eq!(case.ask("plan", &[]).stdout, "nothing to do; 6 workers are untouched; 4 registered over the API\n");
    case.ask("stop", &["set-2"]);
    case.ask("down", &[]);
    end(up);

    let mut up = Up::again(&case);
    for name in ["web", "set-1", "set-3"] {
        assert!(up.started(name, 2).alive());
    }
    answers(&case, 0);
    assert_eq!(get(&case, "/v1/workers/set-2").body["state"], "stopped", "what a person stopped stays so");
    let gone = delete(&case, "/v1/workers/set");
    assert_eq!((gone.status, gone.body["results"].as_array().unwrap().len()), (200, 3), "{gone:?}");
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "db\nmore\nweb\n");
    up.stop();
}

#[test]
fn a_file_that_declares_its_name_takes_it_over_without_a_restart() {
    let case = Case::new();
    let mut up = begin(&case);
    assert_eq!(post(&case, &sleeper("web")).status, 201);
    assert_eq!(post(&case, &with(sleeper("set"), &json!({"instances": 2}))).status, 201);
    let main = main_of(&case, "web");
    let db = worker("db", &["/bin/sleep", "1000"], &[]);
    case.config(&(db.clone() + &worker("web", &["/bin/sleep", "1000"], &[])));
    let plan = case.ask("plan", &[]).stdout;
    assert!(plan.contains("declared over the API → in the configuration"), "{plan}");
    assert!(kept(&case).len() == 2 && main.alive(), "a plan does nothing");
    case.ask("reload", &[]);
    up.wait_for("it says so", |event| says(event, "the configuration declares web, which was registered over the API"));
    assert_eq!(main_of(&case, "web").pid, main.pid);
    let left = kept(&case);
    assert!(left.len() == 1 && left[0]["id"] == "set", "{left:?}");
    assert_eq!(code(&delete(&case, "/v1/workers/web")), (409, "declared"));
    assert_eq!(get(&case, "/v1/workers/web/inspect").body["origin"], "config");

    // One of another shape takes over as well: what it has no name for goes.
    case.config(&(db.clone() + &worker("set", &["/bin/sleep", "1000"], &[])));
    case.ask("reload", &[]);
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "db\nset\n");
    assert_eq!(kept(&case), [] as [Value; 0]);

    // The next start sees it the same way.
    assert_eq!(post(&case, &sleeper("late")).status, 201);
    up.stop();
    case.config(&(db + &worker("late", &["/bin/sleep", "2000"], &[])));
    let mut up = Up::again(&case);
    up.wait_for("it says so", |event| says(event, "the configuration declares late, which was registered"));
    up.started("late", 2);
    assert_eq!(kept(&case), [] as [Value; 0]);
    up.stop();
}

#[test]
fn what_a_file_has_taken_over_is_the_files_even_where_that_cannot_be_kept_for_a_moment() {
    let case = Case::new();
    let mut up = begin(&case);
    assert_eq!(post(&case, &sleeper("web")).status, 201);
    assert_eq!(post(&case, &with(sleeper("set"), &json!({"instances": 2}))).status, 201);
    let file = case.dir.path().join("state/registered.json");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::write(file.join("x"), "").unwrap();
    let set = worker("set", &["/bin/sleep", "1000"], &[]) + "    instances: 2\n";
    let web = worker("web", &["/bin/sleep", "1000"], &[]);
    case.config(&(worker("db", &["/bin/sleep", "1000"], &[]) + &web + &set));
    case.ask("reload", &[]);
    fs::remove_dir_all(&file).unwrap();

    assert_eq!(code(&delete(&case, "/v1/workers/web")), (409, "declared"));
    case.ask("scale", &["set=3"]);
    let applied: Value =
        serde_json::from_slice(&fs::read(case.dir.path().join("state/applied.json")).unwrap()).unwrap();
    assert_eq!(applied["scaled"], json!({"set": 3}));
    assert_eq!(post(&case, &sleeper("other")).status, 201);
    let left = kept(&case);
    assert!(left.len() == 1 && left[0]["id"] == "other", "{left:?}");
    up.stop();
}

#[test]
fn a_reload_that_a_registered_worker_does_not_fit_is_refused_and_a_start_leaves_it_out() {
    let case = Case::new();
    let db = worker("db", &["/bin/sleep", "1000"], &[]);
    let config = case.config_with("slices: {shared: {}}\n", &db);
    let mut up = Up::spawn(case.pinfold("up").arg(&config));
    up.started("db", 1);
    answers(&case, 0);
    assert_eq!(post(&case, &with(sleeper("web"), &json!({"slice": "shared"}))).status, 201);
    let main = main_of(&case, "web");
    case.config(&db);
    let refused = Door::open(&case.socket()).post("/v1/reload", &json!({}));
    assert_eq!(code(&refused), (422, "bad_config"), "{refused:?}");
    for part in ["web, which was registered over the API", "there is no slice", "DELETE /v1/workers/web"] {
        assert!(detail(&refused).contains(part), "{part}: {refused:?}");
    }
    assert_eq!(refused.body["problems"][0]["path"], "slice");
    assert!(main.alive());
    up.stop();

    let mut up = Up::again(&case);
    up.wait_for("it says so", |event| says(event, "web, which was registered over the API, is left out"));
    up.started("db", 2);
    answers(&case, 0);
    assert_eq!(case.ask("ps", &["-a", "-q"]).stdout, "db\n");
    case.ask("reload", &[]);
    let taken = post(&case, &sleeper("web"));
    assert!(code(&taken) == (409, "taken") && detail(&taken).contains("forgets it"), "{taken:?}");
    let gone = delete(&case, "/v1/workers/web");
    assert_eq!((gone.status, &gone.body["results"]), (200, &json!([])));
    assert_eq!(post(&case, &sleeper("web")).status, 201);
    up.stop();
}

#[test]
fn what_takes_long_to_stop_holds_nobody_up_and_is_not_started_again_meanwhile() {
    let case = Case::new();
    let mut up = begin(&case);
    let told = case.file("told");
    let unit = json!({"command": [misbehave(), "ignore-term", told], "stop": {"timeout": "5m"}});
    assert_eq!(post(&case, &json!({"id": "deaf", "unit": unit})).status, 201);
    case.wait_told("told", "pid ");
    let main = main_of(&case, "deaf");
    let late = delete(&case, "/v1/workers/deaf?timeout=10ms");
    assert_eq!(code(&late), (504, "timed_out"), "{late:?}");
    let accepted = delete(&case, "/v1/workers/deaf?wait=false");
    assert_eq!((accepted.status, &accepted.body["results"][0]["outcome"]), (200, &"accepted".into()));

    assert_eq!(post(&case, &sleeper("other")).status, 201);
    case.ask("reload", &[]);
    assert_eq!(code(&post(&case, &sleeper("deaf"))), (409, "not_now"));
    case.config(&(worker("db", &["/bin/sleep", "1000"], &[]) + &misbehaving("deaf", &["sleep"], &[])));
    assert_eq!(code(&Door::open(&case.socket()).post("/v1/reload", &json!({}))), (409, "not_now"));
    case.config(&worker("db", &["/bin/sleep", "1000"], &[]));
    // Neither a start nor another supervisor takes it back.
    let started = Door::open(&case.socket()).post("/v1/workers/deaf/start", &json!({"wait": false}));
    assert_eq!(started.status, 200, "{started:?}");
    replaced(&case);
    assert_eq!(main_of(&case, "deaf").pid, main.pid, "it goes on to be stopped");
    up.wait_for("it says so", |event| says(event, "finishing the removal of deaf"));
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| delete(&case, "/v1/workers/deaf"));
        wait_until("it is stopping again", || {
            let told = get(&case, "/v1/workers/deaf").body;
            (told["state"] == "stopping").then_some(())
        });
        main.signal(Signal::KILL);
        waiting.join().unwrap()
    });
    assert_eq!((waiting.status, &waiting.body["results"][0]["outcome"]), (200, &"done".into()), "{waiting:?}");
    assert_eq!(code(&get(&case, "/v1/workers/deaf")), (404, "not_found"));
    end(up);
}

#[test]
fn the_names_of_what_is_being_removed_are_nobody_elses_until_all_of_it_is_gone() {
    let case = Case::new();
    let up = begin(&case);
    let told = case.file("told");
    let unit = json!({"command": [misbehave(), "ignore-term", told], "stop": {"timeout": "5m"}, "restart": {"policy": "never"}});
    assert_eq!(post(&case, &json!({"id": "set", "instances": 2, "unit": unit})).status, 201);
    wait_until("both are deaf", || (case.told("told").len() == 2).then_some(()));
    let [first, second] = ["set-1", "set-2"].map(|name| main_of(&case, name));
    assert_eq!(delete(&case, "/v1/workers/set?wait=false").status, 200);
    first.signal(Signal::KILL);
    wait_until("the first is gone", || (get(&case, "/v1/workers/set-1").status == 404).then_some(()));
    let refused = post(&case, &sleeper("set-1"));
    assert!(code(&refused) == (409, "not_now") && detail(&refused).contains("set-1 is being removed"), "{refused:?}");
    case.config(&(worker("db", &["/bin/sleep", "1000"], &[]) + &worker("set-1", &["/bin/sleep", "1000"], &[])));
    let refused = Door::open(&case.socket()).post("/v1/reload", &json!({}));
    assert_eq!(code(&refused), (409, "not_now"), "{refused:?}");
    case.config(&worker("db", &["/bin/sleep", "1000"], &[]));

    second.signal(Signal::KILL);
    assert_eq!(delete(&case, "/v1/workers/set").status, 200);
    assert_eq!(post(&case, &sleeper("set-1")).status, 201);
    let main = main_of(&case, "set-1");
    replaced(&case);
    let shown = get(&case, "/v1/workers/set-1").body;
    assert_eq!(
        (&shown["pid"], &shown["state"]),
        (&main.pid.into(), &"running".into()),
        "it is nobody's instance: {shown}"
    );
    end(up);
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

/// Kills the supervisor of one that has `db` and the registered `web`, which runs, when its registrations are `torn`.
fn torn(case: &Case, tear: impl FnOnce(&Path)) -> (Up, Process) {
    let up = begin(case);
    assert_eq!(post(case, &sleeper("web")).status, 201);
    let main = main_of(case, "web");
    tear(&case.dir.path().join("state/registered.json"));
    case.role("supervisor").signal(Signal::KILL);
    (up, main)
}

#[test]
fn registrations_that_cannot_be_read_for_a_moment_are_tried_again_and_nobody_is_touched() {
    let case = Case::new();
    let file = case.dir.path().join("state/registered.json");
    let beside = file.with_extension("beside");
    let (up, main) = torn(&case, |file| {
        fs::rename(file, &beside).unwrap();
        // It is there, and no read of it succeeds.
        fs::create_dir(file).unwrap();
    });
    let said = wait_until("further tries", || {
        let said = up.stderr();
        (said.matches("before it had taken over").count() >= 2).then_some(said)
    });
    assert!(said.contains("cannot read") && said.contains("registered.json"), "{said}");
    assert!(main.alive());
    fs::remove_dir(&file).unwrap();
    fs::rename(&beside, &file).unwrap();
    answers(&case, 0);
    assert_eq!(main_of(&case, "web").pid, main.pid);
    assert!(!file.with_extension("json.corrupt").exists());
    end(up);
}

#[test]
fn what_lives_outlives_the_loss_of_its_registration_and_is_not_started_beside_itself() {
    let case = Case::new();
    let (mut up, main) = torn(&case, |file| fs::write(file, "[{").unwrap());
    let corrupt = case.dir.path().join("state/registered.json.corrupt");
    let told = up.wait_for(
        "what is lost",
        |event| matches!(&event.kind, EventKind::Reconciled { what } if what.contains("registered.json is damaged")),
    );
    let EventKind::Reconciled { what } = told.kind else { unreachable!() };
    assert!(what.contains(&corrupt.display().to_string()) && what.contains("is left alone"), "{what}");
    up.wait_for(
        "it is left alone",
        |event| matches!(&event.kind, EventKind::Reconciled { what } if what.starts_with("left web.1 alone")),
    );
    answers(&case, 0);
    assert_eq!(get(&case, "/v1/workers/web").status, 404);
    // Nor does the next one end it, which finds no damage any more.
    replaced(&case);
    assert!(main.alive());

    // Registered anew it waits for the end of the one that lives, and the next supervisor goes on with that.
    let made = Door::open(&case.socket()).post("/v1/workers?wait=false", &sleeper("web"));
    assert_eq!(made.status, 201, "{made:?}");
    assert_ne!(get(&case, "/v1/workers/web").body["state"], "running");
    fs::remove_file(&corrupt).unwrap();
    replaced(&case);
    assert_eq!(main_of(&case, "web").pid, main.pid);
    assert_eq!(delete(&case, "/v1/workers/web").status, 200);
    assert!(!main.alive());
    end(up);
}

#[test]
fn what_is_left_alone_outlives_a_down_and_an_up_and_is_gone_on_with_once_its_registration_is_mended() {
    let case = Case::new();
    let state = case.dir.path().join("state");
    let (file, corrupt) = (state.join("registered.json"), state.join("registered.json.corrupt"));
    let mut good = Vec::new();
    let (mut up, main) = torn(&case, |file| {
        good = fs::read(file).unwrap();
        fs::write(file, &good[..good.len() - 3]).unwrap();
    });
    let left =
        |event: &Event| matches!(&event.kind, EventKind::Reconciled { what } if what.starts_with("left web.1 alone"));
    up.wait_for("it is left alone", left);
    answers(&case, 0);
    case.ask("down", &[]);
    up.reap_killed();
    up.wait_silent();
    assert!(main.alive());
    let mut up = Up::again(&case);
    up.wait_for("it is left alone", left);
    answers(&case, 0);
    fs::rename(&corrupt, &file).unwrap();
    fs::write(&file, &good).unwrap();
    let supervisor = case.role("supervisor");
    case.ask("reexec", &[]);
    answers(&case, supervisor.pid);
    assert_eq!(main_of(&case, "web").pid, main.pid);
    assert_eq!(delete(&case, "/v1/workers/web").status, 200);
    end(up);
}

/// What came of an order over which the supervisor was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Answered,
    Unanswered,
}

struct Rows<'a> {
    case: &'a Case,
    draw: fastrand::Rng,
    /// How long an order takes that nobody is killed over.
    takes: Duration,
}

impl Rows<'_> {
    /// Gives an order, kills the supervisor at a moment that is drawn, and waits until what is kept is decided: registered, or not.
    fn killed_over(&mut self, method: &Method, path: &str, body: &Value, id: &str) -> (Came, bool) {
        let supervisor = self.case.role("supervisor");
        let (socket, body) = (self.case.socket(), serde_json::to_vec(body).unwrap());
        let after = self.takes.mul_f64(self.draw.f64() * 1.2);
        let answer = std::thread::scope(|scope| {
            let (method, socket) = (method.clone(), &socket);
            let asked = scope.spawn(move || Door::tell_whoever_is_there(socket, method, path, body));
            support::pause(after);
            supervisor.signal(Signal::KILL);
            asked.join().unwrap()
        });
        if let Some(answer) = &answer {
            assert!(matches!(answer.status, 200 | 201), "{method} {path}: {answer:?}");
        }
        answers(self.case, supervisor.pid);
        let registered = wait_until("it is registered, or not any more", || {
            let kept = kept(self.case).into_iter().find(|kept| kept["id"] == id);
            let leaving = kept.as_ref().is_some_and(|kept| kept["leaving"] == true);
            (!leaving).then_some(kept.is_some())
        });
        (if answer.is_some() { Came::Answered } else { Came::Unanswered }, registered)
    }

    /// Waits until `id` is what it is to be: one live run, or nothing at all.
    fn settled(&self, id: &str, registered: bool) {
        let lives = || {
            let marked = self.case.processes();
            marked
                .iter()
                .filter(|process| process.contains("hold-lock") && process.contains(&format!("lock-{id}")))
                .count()
        };
        wait_until(&format!("{id} is settled, registered: {registered}"), || {
            let told = Door::ask_whoever_is_there(&self.case.socket(), &format!("/v1/workers/{id}"))?;
            let as_told = if registered { told.body["detail"] == "ready" } else { told.status == 404 };
            (as_told && lives() == usize::from(registered)).then_some(())
        });
    }

    fn round(&mut self, id: &str) -> [Came; 2] {
        let (lock, told) = (self.case.file(&format!("lock-{id}")), self.case.file(&format!("told-{id}")));
        let unit = json!({"command": [misbehave(), "hold-lock", lock, told], "restart": {"policy": "never"}});
        let (body, path) = (json!({"id": id, "unit": unit}), format!("/v1/workers/{id}"));
        let (made, registered) = self.killed_over(&Method::POST, "/v1/workers", &body, id);
        assert!(registered || made == Came::Unanswered, "what was answered is kept");
        self.settled(id, registered);
        if !registered {
            assert_eq!(post(self.case, &body).status, 201);
        }
        let (gone, registered) = self.killed_over(&Method::DELETE, &path, &json!({}), id);
        assert!(!registered || gone == Came::Unanswered, "what was answered is done");
        self.settled(id, registered);
        if registered {
            assert_eq!(delete(self.case, &path).status, 200);
            self.settled(id, false);
        }
        let second: Vec<String> = self.case.told(&format!("told-{id}"));
        assert!(second.iter().all(|line| line.starts_with("begin ")), "never two lives at once: {second:?}");
        [made, gone]
    }
}

#[test]
fn a_supervisor_that_is_killed_over_it_leaves_a_worker_that_is_there_or_is_not() {
    const BESIDE: usize = 4;
    let kills: usize = parameter("PINFOLD_REGISTER_KILLS").unwrap_or(40);
    let seed: u64 = parameter("PINFOLD_REGISTER_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("PINFOLD_REGISTER_SEED={seed}");
    // A supervisor is not followed by another more than once a second: several of them at once.
    let row = |nth: usize| {
        let case = Case::new();
        let up = begin(&case);
        let db = main_of(&case, "db");
        let began = clock::monotonic();
        assert_eq!(post(&case, &sleeper("first")).status, 201);
        assert_eq!(delete(&case, "/v1/workers/first").status, 200);
        let takes = clock::monotonic().since(began) / 2;
        let draw = fastrand::Rng::with_seed(seed.wrapping_add(nth as u64));
        let mut rows = Rows { case: &case, draw, takes };
        let rounds = kills.div_ceil(2 * BESIDE);
        let came: Vec<Came> = (0..rounds).flat_map(|round| rows.round(&format!("w{round}"))).collect();
        assert!(db.alive(), "whoever is not concerned has not noticed");
        assert_eq!(kept(&case), [] as [Value; 0]);
        end(up);
        came
    };
    let came: Vec<Came> = std::thread::scope(|scope| {
        let rows: Vec<_> = (0..BESIDE).map(|nth| scope.spawn(move || row(nth))).collect();
        rows.into_iter().flat_map(|row| row.join().unwrap()).collect()
    });
    let unanswered = came.iter().filter(|came| **came == Came::Unanswered).count();
    eprintln!("{} kills, {unanswered} of them before the answer", came.len());
    assert!(unanswered > 0, "not one of {} kills was in time", came.len());
}
