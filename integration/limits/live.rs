//! Limits of a living run, changed: by `set`, and by a reload.

use std::process::Stdio;

use super::*;

/// A worker that holds `mib` of memory, held to `max`.
fn hog(case: &Case, mib: u64, max: &str) -> String {
    let held = case.file("held");
    let limits = format!("limits: {{memory: {{max_rss: {max}}}, pids: {{max: 50}}}}");
    misbehaving("hog", &["hog", &mib.to_string(), "0", &held], &[&limits])
}

/// Waits until the hog holds all that it is to hold.
fn holds(case: &Case) {
    wait_until("it holds its memory", || case.told("held").into_iter().find(|line| line == "held"));
}

fn file(case: &Case, name: &str) -> String {
    tree::read(&case.run_dir("hog", 1), name).trim().to_owned()
}

fn set(case: &Case, args: &[&str]) -> support::run::Ran {
    finish(case.pinfold("set").arg("hog").args(args))
}

#[test]
fn limits_grow_and_shrink_while_the_processes_go_on_and_a_shrink_below_the_use_is_refused() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 64, "256MiB"));
    let main = up.started("hog", 1);
    holds(&case);

    assert_eq!(set(&case, &["memory.max_rss=512MiB", "pids.max=60"]).code, Some(0));
    assert_eq!((file(&case, "memory.max"), file(&case, "pids.max")), ((512 * MIB).to_string(), "60".into()));
    assert_eq!(set(&case, &["memory.max_rss=128MiB"]).code, Some(0));
    assert_eq!(file(&case, "memory.max"), (128 * MIB).to_string());
    assert_eq!(file(&case, "pids.max"), "60", "what was set before holds beside it");
    up.wait_for("each file is an event", |event| {
        matches!(&event.kind, EventKind::LimitChanged { file, value, .. }
            if file == "memory.max" && *value == (128 * MIB).to_string())
    });

    let ran = set(&case, &["memory.max_rss=16MiB", "pids.max=70"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{} bytes is below the ", 16 * MIB)), "{ran:?}");
    assert_eq!((file(&case, "memory.max"), file(&case, "pids.max")), ((128 * MIB).to_string(), "60".into()));
    assert_eq!((file(&case, "cgroup.freeze"), main.alive()), ("0".into(), true));

    // The next run is held to what is configured.
    case.ask("restart", &["hog"]);
    assert_eq!(tree::read(&case.run_dir("hog", 2), "memory.max").trim(), (256 * MIB).to_string());
    up.stop();
}

/// Whether the hog is asked to stand still, and whether it does.
fn frozen(case: &Case) -> (String, u64) {
    (file(case, "cgroup.freeze"), tree::field(&case.run_dir("hog", 1), "cgroup.events", "frozen"))
}

#[test]
fn a_frozen_worker_stays_frozen_while_its_memory_shrinks_and_one_that_goes_on_is_not_told_to_be_frozen() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 64, "512MiB"));
    let main = up.started("hog", 1);
    holds(&case);
    case.ask("freeze", &["hog"]);
    assert_eq!(set(&case, &["memory.max_rss=256MiB"]).code, Some(0));
    assert_eq!(file(&case, "memory.max"), (256 * MIB).to_string());
    assert_eq!(frozen(&case), ("1".into(), 1));
    // Refused, after all that could be was reclaimed: it is as frozen as before.
    assert_eq!(set(&case, &["memory.max_rss=16MiB"]).code, Some(1));
    assert_eq!((frozen(&case), file(&case, "memory.max")), (("1".into(), 1), (256 * MIB).to_string()));
    case.ask("thaw", &["hog"]);
    assert_eq!(frozen(&case), ("0".into(), 0));
    assert_eq!(set(&case, &["memory.max_rss=16MiB"]).code, Some(1));
    assert_eq!(frozen(&case), ("0".into(), 0));
    assert!(main.alive());
    up.stop();
    let shown = up.states("hog").into_iter().filter(|state| state == "running(frozen)").count();
    assert_eq!(shown, 1, "for nobody's limits");
}

#[test]
fn who_is_frozen_by_a_person_while_its_memory_shrinks_stays_frozen_after_that() {
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    let (told, held, program) = (case.file("told"), case.file("held"), misbehave());
    // What waits for a disk cannot be frozen: the shrink waits for that, for two seconds, and tells nobody when it does.
    let script = format!(
        "{program} write-disk {} & echo writer $! >>{told}; exec {program} hog 64 0 {held}",
        disk.dir.display()
    );
    let limits = "limits: {memory: {max_rss: 512MiB}}";
    let mut up = Up::start(&case, &worker("hog", &["/bin/sh", "-c", &script], &[limits]));
    let main = up.started("hog", 1);
    holds(&case);
    let writer = Process::open(case.wait_told("told", "writer")).unwrap();
    let stuck = disk.freeze();
    wait_until("it is in uninterruptible sleep", || writer.status("State").starts_with('D').then_some(()));

    let mut shrinks = case.pinfold("set").args(["hog", "memory.max_rss=16MiB"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is frozen for its limits", || (file(&case, "cgroup.freeze") == "1").then_some(()));
    // The shrink thaws what it has frozen; what a person asked for meanwhile comes after that.
    let mut freezes = case.pinfold("freeze").arg("hog").stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(shrinks.wait().unwrap().code(), Some(1));
    drop(stuck);
    assert_eq!(freezes.wait().unwrap().code(), Some(0));
    assert_eq!((frozen(&case), file(&case, "memory.max")), (("1".into(), 1), (512 * MIB).to_string()));
    assert!(main.alive());
    up.stop();
}

#[test]
fn what_is_asked_for_and_what_the_kernel_has_is_shown_side_by_side() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 8, "256MiB"));
    holds(&case);
    assert_eq!(set(&case, &["pids.max=40", "--persist"]).code, Some(0));
    let shown = || case.ask("inspect", &["hog"]).stdout;
    let has = |table: &str, name: &str, columns: [&str; 3]| {
        let words = |line: &str| line.split("  ").map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let rows: Vec<Vec<String>> = table.lines().map(words).collect();
        let row = rows.into_iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {table}"));
        assert_eq!(row[1..], columns, "{table}");
    };
    has(&shown(), "limits.pids.max", ["40", "pids.max 40", "set --persist"]);
    assert_eq!(set(&case, &["memory.max_rss=512MiB", "--for", "1h"]).code, Some(0));
    has(&shown(), "limits.memory.max_rss", ["512MiB", "memory.max 512 MiB", "set --for 1h"]);
    has(&shown(), "limits.memory.swap_max", ["-", "memory.swap.max 0", "default"]);
    case.ask("restart", &["hog"]);
    let line = format!("{}:6", case.file("pinfold.yaml"));
    has(&shown(), "limits.memory.max_rss", ["256MiB", "memory.max 256 MiB", &line]);
    up.stop();
}

#[test]
fn our_own_memory_is_not_reclaimed() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 8, "256MiB"));
    up.started("hog", 1);
    for (leaf, mib) in [("keeper", 16), ("supervisor", 64), ("logger", 16)] {
        assert_eq!(tree::read(&case.root.join(leaf), "memory.min").trim(), (mib * MIB).to_string(), "{leaf}");
    }
    // Only below the host's root cgroup, and without systemd, is nobody above it who would have to grant it.
    let above = case.root.parent() == Some(&*tree::mount()) && !Path::new("/run/systemd/system").exists();
    let root = if above { 96 * MIB } else { 0 };
    assert_eq!(tree::read(&case.root, "memory.min").trim(), root.to_string());
    assert_eq!(file(&case, "memory.min"), "0", "a worker is held to its own limits");
    up.stop();
    assert_eq!(tree::read(&case.root, "memory.min").trim(), "0", "it is left as it was found");
}

#[test]
fn a_reload_changes_limits_in_place_or_says_why_not() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 64, "256MiB"));
    let main = up.started("hog", 1);
    holds(&case);
    case.config(&hog(&case, 64, "512MiB"));
    assert!(case.ask("plan", &[]).stdout.contains("limits.memory.max_rss 256 MiB → 512 MiB"));
    case.ask("reload", &[]);
    assert_eq!((file(&case, "memory.max"), main.alive()), ((512 * MIB).to_string(), true));
    case.config(&hog(&case, 64, "16MiB"));
    let ran = finish(&mut case.pinfold("reload"));
    assert_eq!((ran.code, ran.stderr.contains("bytes in use")), (Some(1), true), "{ran:?}");
    assert_eq!((file(&case, "memory.max"), main.alive()), ((512 * MIB).to_string(), true));
    assert!(case.ask("plan", &[]).stdout.contains("512 MiB → 16 MiB"), "it is still to be done");
    up.stop();
}

#[test]
fn what_is_set_for_a_time_is_put_back_and_what_is_set_to_last_outlives_the_supervisor() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 8, "256MiB"));
    let main = up.started("hog", 1);
    assert_eq!(set(&case, &["pids.max=60", "--for", "1s"]).code, Some(0));
    // Told, because the second can be over before anybody reads the file.
    for wanted in ["60", "50"] {
        up.wait_for(&format!("pids.max is {wanted}"), |event| {
            matches!(&event.kind, EventKind::LimitChanged { file, value, .. } if file == "pids.max" && value == wanted)
        });
    }
    assert_eq!(file(&case, "pids.max"), "50", "what is configured is in force again");
    assert_eq!(set(&case, &["pids.max=70", "--persist"]).code, Some(0));
    assert_eq!(file(&case, "pids.max"), "70");
    assert!(case.ask("plan", &[]).stdout.starts_with("nothing to do"), "it is laid over what is configured");
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    case.role("supervisor");
    wait_until("another answers", || (finish(&mut case.pinfold("ps")).code == Some(0)).then_some(()));
    case.ask("reload", &[]);
    assert_eq!((file(&case, "pids.max"), main.alive()), ("70".into(), true));
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}

#[test]
fn what_a_dead_supervisor_had_frozen_or_set_is_as_configured_when_the_next_one_has_begun() {
    let case = Case::with_limits(false);
    let mut up = Up::start(&case, &hog(&case, 8, "256MiB"));
    let main = up.started("hog", 1);
    assert_eq!(set(&case, &["pids.max=60"]).code, Some(0));
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    wait_until("what is configured is in force again", || (file(&case, "pids.max") == "50").then_some(()));
    assert!(main.alive());
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}
