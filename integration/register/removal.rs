//! Removals that take long.

use super::*;

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
