//! Registrations that cannot be read, or are lost.

use super::*;

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
