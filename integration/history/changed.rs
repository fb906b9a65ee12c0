//! The list of sinks changed under a running supervisor.

use std::collections::BTreeSet;

use super::*;

fn jsonl(case: &Case, name: &str, keep: u32) -> String {
    format!("{{type: jsonl, path: {}, keep: {keep}}}", case.file(name))
}

fn configure(case: &Case, sinks: &[String], workers: &str) {
    case.config_with(&format!("history: [{}]\n", sinks.join(", ")), workers);
}

/// The steps of a plan or of a reload about sinks: `ACTION` and the last part of where it leads.
fn steps(case: &Case, command: &str) -> Vec<String> {
    let ran = finish(case.pinfold(command).args(["-o", "json"]));
    let document: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{command}: {e}: {ran:?}"));
    let one = |step: &Value| {
        assert!(command == "plan" || step["outcome"] == "done", "{step}");
        let sink = step["sink"].as_str().unwrap_or_default();
        format!("{} {}", step["action"].as_str().unwrap(), sink.rsplit('/').next().unwrap())
    };
    document["steps"].as_array().unwrap().iter().map(one).collect()
}

/// What was told, by the place in the stream.
fn cursors(path: &str) -> Vec<u64> {
    let place = |line: Value| line["cursor"].as_str().unwrap().rsplit_once('.').unwrap().1.parse().unwrap();
    lines(path).into_iter().map(place).collect()
}

#[test]
fn a_reload_changes_sinks_between_two_events_and_those_that_stay_miss_nothing() {
    let case = Case::new();
    // Never at rest: events come before, while and after the sinks are changed.
    let crash = worker("crash", &["/bin/sleep", "0.05"], &[ALWAYS]);
    let sinks = [jsonl(&case, "same", 5), jsonl(&case, "gone", 5), jsonl(&case, "changed", 5)];
    let mut up = up_with(&case, &sinks, &(crash.clone() + &misbehaving("web", &["sleep"], &[])));
    let web = up.started("web", 1).pid;
    up.begun("crash", 3);
    let supervisor = case.role("supervisor").pid;
    assert_eq!(steps(&case, "plan"), Vec::<String>::new());

    let sinks = [jsonl(&case, "new", 5), jsonl(&case, "changed", 9), jsonl(&case, "same", 5)];
    configure(&case, &sinks, &(crash + &misbehaving("web", &["sleep"], &[])));
    let expected = ["remove_sink gone", "change_sink changed", "add_sink new"];
    assert_eq!(steps(&case, "plan"), expected);
    assert_eq!(steps(&case, "reload"), expected, "what the plan says is what is done");
    assert_eq!(steps(&case, "plan"), Vec::<String>::new());
    let names: BTreeSet<_> = health(&case)
        .iter()
        .map(|sink| sink["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, BTreeSet::from(["same", "changed", "new"].map(str::to_owned)));
    let next = up.seen.iter().filter_map(|event| event.run).max().unwrap() + 3;
    up.begun("crash", next);
    assert_eq!(case.role("supervisor").pid, supervisor, "the same supervisor goes on");
    assert_eq!(up.started("web", 1).pid, web, "and no worker has noticed");
    up.stop();

    let told = keys(&up.seen);
    assert_eq!(sorted(lines(case.file("same"))), told, "one that stays misses nothing and has nothing twice");
    assert_eq!(sorted(lines(case.file("changed"))), told, "nor does a file that goes on with other settings");
    let (gone, new) = (cursors(&case.file("gone")), cursors(&case.file("new")));
    assert!(!gone.is_empty() && !new.is_empty());
    assert_eq!([gone, new].concat(), (1..=told.len() as u64).collect::<Vec<_>>(), "every event is in one of the two");
}

#[test]
fn a_sink_that_cannot_be_used_refuses_the_reload_before_anything_is_changed() {
    let case = Case::new();
    let sinks = [jsonl(&case, "events", 5)];
    let mut up = up_with(&case, &sinks, &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let applied = case.dir.path().join("state/applied.json");
    let before = fs::read(&applied).unwrap();
    fs::write(case.file("no-certificates"), "").unwrap();
    let ca = format!(
        "{{type: opensearch, url: \"https://127.0.0.1:1\", index: x, ca_file: {}}}",
        case.file("no-certificates")
    );
    for (sink, why) in [(jsonl(&case, "none/events", 5), "No such file or directory"), (ca, "has no certificate")] {
        // The other changes would be good.
        configure(&case, &[jsonl(&case, "new", 5), sink], &misbehaving("other", &["sleep"], &[]));
        for command in ["plan", "reload"] {
            let ran = finish(&mut case.pinfold(command));
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
            for part in ["cannot be used", why, "nothing is changed"] {
                assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
            }
        }
        up.signal(Signal::HUP);
        up.wait_for(
            "the supervisor says so",
            |event| matches!(&event.kind, EventKind::Supervisor { what } if what.starts_with("not reloaded")),
        );
    }
    assert_eq!(fs::read(&applied).unwrap(), before);
    assert!(!Path::new(&case.file("new")).exists(), "not even a file is made");
    assert_eq!(health(&case).len(), 1);
    up.stop();
    assert!(up.seen.iter().all(|event| event.worker.as_ref().is_none_or(|worker| worker.as_str() == "web")));
    assert_eq!(sorted(lines(case.file("events"))), keys(&up.seen));
}

#[test]
fn a_sink_that_is_stuck_goes_without_holding_up_the_reload_or_another_sink() {
    let case = Case::new();
    let search = Search::start();
    search.server.next(vec![Mood::Silent; 100]);
    let mut up = up_with(&case, &[search.sink(), jsonl(&case, "same", 5)], &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    wait_until("something waits for it", || (health(&case)[0]["queued"] != 0).then_some(()));
    configure(&case, &[jsonl(&case, "same", 5), jsonl(&case, "new", 5)], &misbehaving("web", &["sleep"], &[]));
    assert_eq!(steps(&case, "reload"), ["remove_sink pinfold", "add_sink new"]);
    // Its time is not over yet, and everything else goes on.
    case.ask("restart", &["web"]);
    up.started("web", 2);
    wait_until("the others have everything", || health(&case).iter().all(|sink| sink["queued"] == 0).then_some(()));
    let said = up.stop().stderr;
    assert!(said.contains("the end does not wait for a history sink"), "what is lost is said: {said}");
    assert_eq!(sorted(lines(case.file("same"))), keys(&up.seen));
    let new = cursors(&case.file("new"));
    assert_eq!(new.last().copied(), Some(up.seen.len() as u64));
}
