//! The cgroup that pinfold works in: whose it is, what it allows, what was there before.

use std::{fs, process::Command, time::Duration};

use pinfold::model::{EventKind, ExitCause, Stage};
use rustix::process::Signal;

use crate::support::{
    Case, misbehave, misbehaving,
    run::finish,
    scaled, tree,
    up::{Up, is},
    wait_until, worker,
};

#[test]
fn a_second_up_on_the_same_state_directory_is_refused_at_once_and_the_first_does_not_notice() {
    let case = Case::alone();
    let config = worker("only", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let main = up.started("only", 1);
    let second = finish(case.pinfold("up").arg(case.file("pinfold.yaml")).args(["-o", "json"]));
    assert!(second.took < scaled(Duration::from_secs(1)), "{:?}", second.took);
    assert!(second.code.is_some_and(|c| c != 0), "{second:?}");
    assert!(second.stderr.contains("already") || second.stderr.contains("another"), "{}", second.stderr);
    assert!(main.alive());
    assert_eq!(main.cgroup(), case.run_dir("only", 1));
    up.stop();
}

#[test]
fn a_limit_that_this_place_cannot_enforce_fails_the_start_with_its_controller_and_the_reason() {
    let case = Case::below_a_parent_without_controllers();
    let mut config = worker("limited", &["/bin/sleep", "1000"], &["limits: {memory: {max_rss: 64MiB}}"]);
    config += &worker("plain", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let (why, event) = up.exit_of("limited", 1);
    assert!(matches!(why, ExitCause::StartFailed { stage: Stage::Limit | Stage::Cgroup, .. }), "{why:?}");
    let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
    let sentence = evidence.start_error.expect("the reason").to_string();
    assert!(sentence.contains("memory"), "the controller is named: {sentence}");
    // /proc/cgroups: name, hierarchy (not 0: bound to v1), number of cgroups, enabled.
    let controllers = fs::read_to_string("/proc/cgroups").unwrap();
    let memory = controllers.lines().find_map(|l| l.strip_prefix("memory\t")).unwrap_or("0");
    if memory.starts_with("0\t") {
        let withholding = case.root.parent().unwrap().to_str().unwrap();
        assert!(sentence.contains(withholding), "who withholds it is named: {sentence}");
    } else {
        assert!(sentence.contains("v1"), "the reason is named: {sentence}");
    }
    let plain = up.started("plain", 1);
    assert!(plain.alive(), "a worker without limits runs");
    assert!(!case.run_dir("limited", 1).exists(), "the failed start has left no directory");
    up.stop();
}

#[test]
fn a_directory_that_already_has_our_runs_name_is_never_started_over() {
    let case = Case::new();
    let taken = case.run_dir("taken", 1);
    fs::create_dir_all(&taken).unwrap();
    let mut stranger = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    fs::write(taken.join("cgroup.procs"), stranger.id().to_string()).unwrap();

    let mut config = worker("taken", &["/bin/sleep", "1000"], &[]);
    config += &worker("free", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config);
    let _free = up.started("free", 1);
    up.wait_for("what was found is told", |e| is(e, "taken") && matches!(e.kind, EventKind::Reconciled { .. }));
    assert_eq!(
        tree::procs(&taken),
        [i32::try_from(stranger.id()).unwrap()],
        "nothing of ours is in a stranger's cgroup"
    );
    assert_eq!(stranger.try_wait().unwrap(), None, "and the stranger lives");
    up.signal(Signal::TERM);
    let ended = up.end();
    assert_eq!(stranger.try_wait().unwrap(), None, "also after the end");
    assert_eq!(up.of("taken").filter(|e| matches!(e.kind, EventKind::Started { .. })).count(), 0);
    assert!(!ended.stderr.contains("SIGKILL"), "nobody has tried to kill it: {}", ended.stderr);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    wait_until("the stranger's cgroup can be removed", || fs::remove_dir(&taken).ok());
}

#[test]
fn an_empty_directory_of_our_runs_name_is_no_obstacle() {
    let case = Case::new();
    fs::create_dir_all(case.run_dir("again", 1)).unwrap();
    let mut up = Up::start(&case, &worker("again", &["/bin/sleep", "1000"], &[]));
    let started = up.wait_for("it runs", |e| is(e, "again") && matches!(e.kind, EventKind::Started { .. }));
    let EventKind::Started { pid } = started.kind else { unreachable!() };
    assert_eq!(tree::procs(&case.run_dir("again", started.run.unwrap())), [pid]);
    up.stop();
}

#[test]
fn a_frozen_place_fails_the_start_instead_of_hanging_it() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir_all(&workers).unwrap();
    fs::write(workers.join("cgroup.freeze"), "1").unwrap();
    let mut up = Up::start(&case, &worker("cold", &["/bin/sleep", "1000"], &[]));
    let why = up.exited("cold", 1);
    assert!(matches!(why, ExitCause::StartFailed { .. }), "{why:?}");
    up.stop();
}

#[test]
fn a_place_without_room_fails_the_start_of_what_does_not_fit_and_nothing_else() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir(&workers).unwrap();
    fs::write(workers.join("cgroup.max.descendants"), "2").unwrap();
    let config: String = (0..4).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    let (mut run, mut failed) = (0, 0);
    for i in 0..4 {
        let event = up.wait_for("each runs or has failed", |e| {
            is(e, &format!("w{i}")) && matches!(e.kind, EventKind::Started { .. } | EventKind::Exited { .. })
        });
        match event.kind {
            EventKind::Exited { cause: ExitCause::StartFailed { stage: Stage::Cgroup, .. }, evidence, .. } => {
                let sentence = evidence.start_error.expect("the reason").to_string();
                assert!(sentence.contains("cgroup.max.descendants"), "{sentence}");
                failed += 1;
            }
            EventKind::Started { .. } => run += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((run, failed), (2, 2));
    up.stop();
}

#[test]
fn a_read_only_cgroupfs_is_refused_before_anything_is_started() {
    let case = Case::new();
    let told = case.file("told");
    let config = case.config(&misbehaving("never", &["sleep", &told], &[]));
    let mount = tree::mount();
    for subcommand in ["up", "run"] {
        let pinfold = case.pinfold(subcommand);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg("mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"").arg("sh").arg(&mount);
        command.arg(pinfold.get_program()).args(pinfold.get_args());
        match subcommand {
            "up" => command.arg(&config),
            _ => command.args(["--", &misbehave(), "sleep", &told]),
        };
        let ran = finish(&mut command);
        let expected = if subcommand == "run" { 125 } else { 1 };
        assert_eq!(ran.code, Some(expected), "{subcommand}: {ran:?}");
        assert!(ran.stderr.to_lowercase().contains("read-only"), "{subcommand}: {}", ran.stderr);
    }
    assert_eq!(case.told("told"), Vec::<String>::new(), "nothing was started");
}
