//! What is registered, beside what the files declare: reloads, other binaries, the next `up`.

use super::*;

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
