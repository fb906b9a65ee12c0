//! Budgets that workers share: in force before the first instruction of any of them, kept and renewed over supervisors,
//! gone at the end; and whose memory it was when one of them loses a process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinfold::model::{AboveReading, Confidence, Event, EventKind, ExitCause, OomScope, Stage};
use rustix::process::Signal;

use crate::support::{
    Case, misbehave, misbehaving,
    process::Process,
    tree,
    up::{Up, is},
    wait_until, worker,
};
use crate::{MIB, OOM, fields};

pub(crate) const OOM_ABOVE: ExitCause = ExitCause::Oom { scope: OomScope::Ancestor };

/// `workers` and, at the top of the same file, `slices`.
pub(crate) fn config(slices: &str, workers: &str) -> String {
    format!("{workers}\nslices:\n{slices}\n")
}

/// The same for a worker in a slice.
pub(crate) fn within(slice: &str, worker: &str) -> String {
    worker.replacen("    unit:\n", &format!("    slice: {slice}\n    unit:\n"), 1)
}

fn slice_dir(case: &Case, slice: &str) -> PathBuf {
    case.root.join("workers").join(format!("{slice}.slice"))
}

fn run_dir(case: &Case, slice: &str, worker: &str, run: u32) -> PathBuf {
    slice_dir(case, slice).join(format!("{worker}.{run}"))
}

/// A program that does nothing before `file` is there, and then leaks.
pub(crate) fn leak_once(file: &str) -> [String; 3] {
    let script = format!("until [ -e {file} ]; do sleep 0.05; done; exec {} leak", misbehave());
    ["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// What the evidence of an exit says of what is above.
pub(crate) fn above(event: &Event) -> (Confidence, AboveReading) {
    let EventKind::Exited { confidence, evidence, .. } = &event.kind else { unreachable!() };
    let above = evidence.above.as_deref().unwrap_or_else(|| panic!("nothing above was read: {evidence:?}"));
    (*confidence, above.clone())
}

fn reached(event: &Event) -> String {
    above(event).1.reached().expect("a limit above was reached").path.clone()
}

/// Where a cgroup is below the mount, as the evidence names it.
fn path_of(dir: &Path) -> String {
    format!("/{}", dir.strip_prefix(tree::mount()).unwrap().display())
}

// --- limits ------------------------------------------------------------------

#[test]
fn a_slices_limits_are_in_force_before_the_first_instruction_and_its_workers_have_their_own_below_them() {
    let case = Case::with_limits(false);
    // What holds in the cgroup above a program, told by its first command.
    let files = "memory.max memory.high memory.swap.max memory.oom.group cpu.max cpu.max.burst cpu.weight pids.max";
    let script = format!(
        "own=$(sed -n 's/^0:://p' /proc/self/cgroup); cd {}${{own%/*}}; \
         for f in {files}; do printf '%s=%s\\t' $f \"$(cat $f)\"; done >{told}.new; mv {told}.new {told}; exec {} limits {}",
        tree::mount().display(),
        misbehave(),
        case.file("own"),
        told = case.file("above"),
    );
    let unit = ["limits: {memory: {max_rss: 32MiB}, pids: {max: 9}}"];
    let slices = "  web:\n    memory: {max: 100000000, high: 64MiB, swap_max: 8MiB}\n    cpu: {max_percent: 150, weight: 50, burst: 10ms}\n    pids: {max: 77}";
    let workers = within("web", &worker("first", &["/bin/sh", "-c", &script], &unit))
        + &worker("alone", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &config(slices, &workers));
    assert_eq!(up.exited("first", 1), ExitCause::Exited { code: 0 });
    let text = fs::read_to_string(case.file("above")).unwrap();
    let told = fields(text.trim());
    for (file, value) in [
        ("memory.max", "99999744"),
        ("memory.high", "67108864"),
        ("memory.swap.max", "8388608"),
        ("memory.oom.group", "0"),
        ("cpu.max", "150000 100000"),
        ("cpu.max.burst", "10000"),
        ("cpu.weight", "50"),
        ("pids.max", "77"),
    ] {
        assert_eq!(told[file], value, "{file}");
    }
    let own = case.told("own");
    let own = fields(&own[0]);
    assert_eq!((own["memory.max"], own["pids.max"]), ((32 * MIB).to_string().as_str(), "9"));
    assert_eq!(own["cgroup"], path_of(&run_dir(&case, "web", "first", 1)));
    let alone = up.started("alone", 1);
    assert_eq!(alone.cgroup(), case.run_dir("alone", 1), "whoever names no slice is in none");
    up.stop();
    assert!(!case.root.join("workers").exists(), "slices go at the end");
}

#[test]
fn a_slice_that_cannot_be_made_keeps_its_own_workers_from_starting_and_nobody_else() {
    let case = Case::with_limits(false);
    let slices = "  bad: {io: [{path: /proc, wbps: 1MiB}]}\n  good: {pids: {max: 50}}";
    let workers = within("bad", &misbehaving("refused", &["sleep"], &[]))
        + &within("good", &misbehaving("runs", &["sleep"], &[]));
    let mut up = Up::start(&case, &config(slices, &workers));
    let _runs = up.started("runs", 1);
    let (why, event) = up.exit_of("refused", 1);
    assert!(matches!(why, ExitCause::StartFailed { stage: Stage::Limit, .. }), "{why:?}");
    let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
    let sentence = evidence.start_error.expect("the reason").to_string();
    assert!(sentence.contains("slice bad") && sentence.contains("/proc"), "{sentence}");
    up.stop();
}

#[test]
fn a_slice_that_somebody_removed_while_it_was_empty_is_made_again_for_the_next_run() {
    let case = Case::with_limits(false);
    let once = "test -e $0 || { touch $0; exit 1; }; exec sleep 1000";
    let workers = within("web", &worker("again", &["/bin/sh", "-c", once, &case.file("once")], &[]));
    let mut up = Up::start(&case, &config("  web: {pids: {max: 33}}", &workers));
    assert_eq!(up.exited("again", 1), ExitCause::Exited { code: 1 });
    let dir = slice_dir(&case, "web");
    wait_until("the empty slice is removed", || fs::remove_dir(&dir).ok());
    case.ask("start", &["again"]);
    let second = up.started("again", 2);
    assert_eq!(second.cgroup(), run_dir(&case, "web", "again", 2));
    assert_eq!(tree::read(&dir, "pids.max"), "33");
    up.stop();
}

// --- over supervisors --------------------------------------------------------

#[test]
fn a_killed_supervisors_successor_finds_the_runs_in_their_slices_and_tells_their_ends() {
    let case = Case::with_limits(false);
    let go = case.file("go");
    let unit = ["limits: {memory: {max_rss: 64MiB}}"];
    let workers = within("web", &worker("own", &leak_once(&go), &unit))
        + &within("small", &worker("shared", &leak_once(&go), &[]))
        + &within("web", &misbehaving("calm", &["sleep"], &[]));
    let mut up = Up::start(&case, &config("  web: {memory: {max: 512MiB}}\n  small: {memory: {max: 48MiB}}", &workers));
    let mains = ["own", "shared", "calm"].map(|id| up.started(id, 1));
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    up.wait_for(
        "a successor",
        |e| matches!(&e.kind, EventKind::Supervisor { what } if what.contains("3 of them adopted")),
    );
    assert!(mains.iter().all(Process::alive), "nobody was touched");
    assert_eq!(tree::read(&slice_dir(&case, "small"), "memory.max"), (48 * MIB).to_string());
    fs::write(&go, "").unwrap();
    assert_eq!(up.exited("own", 1), OOM);
    let (why, event) = up.exit_of("shared", 1);
    assert_eq!(why, OOM_ABOVE);
    assert_eq!(reached(&event), path_of(&slice_dir(&case, "small")));
    wait_until("their directories are gone", || {
        let gone = [run_dir(&case, "web", "own", 1), run_dir(&case, "small", "shared", 1)];
        gone.iter().all(|dir| !dir.exists()).then_some(())
    });
    assert!(mains[2].alive());
    // `seq` begins anew with a new supervisor: only the end is looked at.
    up.signal(Signal::TERM);
    up.reap_killed();
    assert!(!case.root.join("workers").exists());
}

#[test]
fn another_configuration_renews_the_slices_limits_lifts_what_is_gone_and_removes_what_nobody_names() {
    let case = Case::with_limits(false);
    let unit = ["restart: {policy: always, retry_delay: 0s}"];
    let workers = within("kept", &misbehaving("left", &["sleep"], &unit))
        + &within("gone", &misbehaving("orphan", &["sleep"], &unit))
        + &within("empty", &worker("ended", &["/bin/true"], &[]));
    let slices = "  kept: {memory: {max: 256MiB, high: 200MiB}, cpu: {max_percent: 90, burst: 50ms}, pids: {max: 40}}\n  gone: {pids: {max: 41}}\n  empty: {pids: {max: 42}}";
    let mut up = Up::spawn(case.pinfold("up").arg("--on-term=detach").arg(case.config(&config(slices, &workers))));
    let (left, orphan) = (up.started("left", 1), up.started("orphan", 1));
    up.exited("ended", 1);
    wait_until("what has ended is gone", || (!run_dir(&case, "empty", "ended", 1).exists()).then_some(()));
    up.signal(Signal::TERM);
    up.reap_killed();
    drop(up);

    let workers = within("kept", &misbehaving("left", &["sleep"], &unit)) + &misbehaving("orphan", &["sleep"], &unit);
    let slices = "  kept: {memory: {max: 128MiB}, cpu: {max_percent: 30, burst: 5ms, weight: 7}}\n  fresh: {}";
    case.config(&config(slices, &workers));
    let mut up = Up::again(&case);
    let found = |worker: &'static str| move |e: &Event| is(e, worker) && matches!(e.kind, EventKind::Reconciled { .. });
    up.wait_for("it is found where it is", found("left"));
    up.wait_for("it is found where it is", found("orphan"));
    assert!(left.alive());
    let kept = slice_dir(&case, "kept");
    for (file, value) in [
        ("memory.max", (128 * MIB).to_string().as_str()),
        ("memory.high", "max"),
        ("cpu.max", "30000 100000"),
        ("cpu.max.burst", "5000"),
        ("cpu.weight", "7"),
        ("pids.max", "max"),
    ] {
        assert_eq!(tree::read(&kept, file), value, "{file}");
    }
    assert!(slice_dir(&case, "fresh").exists());
    assert!(!slice_dir(&case, "empty").exists(), "nobody names it, and nothing was in it");
    up.wait_for(
        "its removal is told",
        |e| matches!(&e.kind, EventKind::Reconciled { what } if what.contains("the empty slice empty")),
    );
    // What is configured elsewhere is another launch.
    orphan.wait_gone("the run in the slice that is gone");
    let second = up.started("orphan", 2);
    assert_eq!(second.cgroup(), case.run_dir("orphan", 2), "the next run is where the configuration has it");
    wait_until("a slice that nobody names goes with its last run", || {
        (!slice_dir(&case, "gone").exists()).then_some(())
    });
    left.signal(Signal::KILL);
    let second = up.started("left", 2);
    assert_eq!(second.cgroup(), run_dir(&case, "kept", "left", 2));
    up.stop();
    assert!(!case.root.join("workers").exists());
}

#[test]
fn a_limit_below_what_a_slice_uses_kills_nobody_and_is_told_to_who_is_to_start_there() {
    let case = Case::with_limits(true);
    let again = "restart: {policy: always, retry_delay: 0s}";
    let big = ["/bin/sh", "-c", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep 1000"];
    let first = within("web", &worker("big", &big, &[again]));
    let path = case.config(&config("  web: {memory: {max: 512MiB}}", &first));
    let mut up = Up::spawn(case.pinfold("up").arg("--on-term=detach").arg(path));
    let main = up.started("big", 1);
    let dir = slice_dir(&case, "web");
    wait_until("it holds its memory", || (tree::field(&dir, "memory.stat", "anon") > 40_000_000).then_some(()));
    up.signal(Signal::TERM);
    up.reap_killed();
    drop(up);

    let both = first.clone() + &within("web", &misbehaving("next", &["sleep"], &["restart: {policy: never}"]));
    case.config(&config("  web: {memory: {max: 16MiB}}", &both));
    let mut up = Up::again(&case);
    let (why, event) = up.exit_of("next", 1);
    assert!(matches!(why, ExitCause::StartFailed { stage: Stage::Limit, .. }), "{why:?}");
    let EventKind::Exited { evidence, .. } = event.kind else { unreachable!() };
    let sentence = evidence.start_error.expect("the reason").to_string();
    assert!(sentence.contains("slice web: memory.max of 16777216 bytes is below the "), "{sentence}");
    assert!(main.alive());
    assert_eq!(tree::read(&dir, "memory.max"), (512 * MIB).to_string(), "the old limit holds");
    // What stood in the way goes, the shell's child with it: the next start finds the limit in force.
    fs::write(run_dir(&case, "web", "big", 1).join("cgroup.kill"), "1").unwrap();
    let _second = up.started("big", 2);
    assert_eq!(tree::read(&dir, "memory.max"), (16 * MIB).to_string());
    up.stop();
}

// --- whose memory it was -----------------------------------------------------

#[test]
fn an_oom_of_the_slice_names_it_for_every_victim_and_one_of_a_worker_in_it_does_not() {
    let case = Case::with_limits(true);
    let go = case.file("go");
    // The kernel takes these first, one after the other: what they hold does not help the hog, which is next.
    let (first, last) = ("oom_score_adj: 1000", "oom_score_adj: -500");
    let workers = within("web", &misbehaving("fenced", &["sleep"], &[first, "limits: {memory: {max_rss: 32MiB}}"]))
        + &within("web", &misbehaving("bare", &["sleep"], &[first]))
        + &within("web", &worker("hog", &leak_once(&go), &[last, "limits: {memory: {oom_scope: process}}"]))
        + &within("roomy", &worker("leaky", &leak_once(&go), &["limits: {memory: {max_rss: 32MiB}}"]))
        + &worker("outside", &leak_once(&go), &["limits: {memory: {max_rss: 32MiB}}"])
        + &misbehaving("calm", &["sleep"], &[]);
    let slices = "  web: {memory: {max: 64MiB}}\n  roomy: {memory: {max: 256MiB}}";
    let mut up = Up::start(&case, &config(slices, &workers));
    for id in ["fenced", "bare", "hog", "leaky", "outside"] {
        let _main = up.started(id, 1);
    }
    let calm = up.started("calm", 1);
    fs::write(&go, "").unwrap();
    let web = path_of(&slice_dir(&case, "web"));
    for (id, confidence) in
        [("fenced", Confidence::Certain), ("bare", Confidence::Certain), ("hog", Confidence::Likely)]
    {
        let (why, event) = up.exit_of(id, 1);
        assert_eq!((why, reached(&event)), (OOM_ABOVE, web.clone()), "{id}");
        let (sure, reading) = above(&event);
        // With memory.oom.group the kernel says that all of the run was taken; else it may have been a child.
        assert_eq!((sure, reading.complete), (confidence, true), "{id}: {reading:?}");
        assert!(reading.host.is_some_and(|host| host.after > host.before), "{id}: {reading:?}");
    }
    for id in ["leaky", "outside"] {
        let (why, event) = up.exit_of(id, 1);
        let EventKind::Exited { evidence, confidence, .. } = event.kind else { unreachable!() };
        assert_eq!((why, confidence), (OOM, Confidence::Certain), "{id}");
        assert_eq!(evidence.above, None, "{id}: its own limit explains it, and nothing else is looked at");
    }
    assert!(calm.alive());
    up.stop();
}

#[test]
fn an_oom_of_a_cgroup_above_the_tree_is_named_as_well() {
    let case = Case::with_limits(true);
    let go = case.file("go");
    let workers = within("web", &worker("hog", &leak_once(&go), &[])) + &misbehaving("calm", &["sleep"], &[]);
    let mut up = Up::start(&case, &config("  web: {memory: {max: 512MiB}}", &workers));
    let (_hog, _calm) = (up.started("hog", 1), up.started("calm", 1));
    // As whoever delegated the place to us could do at any time. Above what lives there already.
    let room = tree::number(&case.root, "memory.current") + 48 * MIB;
    fs::write(case.root.join("memory.max"), room.to_string()).unwrap();
    fs::write(case.root.join("memory.swap.max"), "0").unwrap();
    // Our own processes are in there, too.
    for leaf in ["keeper", "supervisor", "logger"] {
        let pid = case.role(leaf).pid;
        fs::write(format!("/proc/{pid}/oom_score_adj"), "-1000").unwrap();
    }
    fs::write(&go, "").unwrap();
    let (why, event) = up.exit_of("hog", 1);
    assert_eq!((why, reached(&event)), (OOM_ABOVE, path_of(&case.root)));
    fs::write(case.root.join("memory.max"), "max").unwrap();
    up.stop();
}

#[test]
fn run_names_the_cgroup_above_it_that_ran_out() {
    let case = Case::with_limits(true);
    let go = case.file("go");
    let mut command = case.pinfold("run");
    command.args(["--report", &case.file("report"), "--"]).args(leak_once(&go));
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let runs = case.root.join("runs");
    wait_until("it runs", || {
        let dir = tree::children(&runs).into_iter().next()?;
        (!tree::procs(&dir).is_empty()).then_some(())
    });
    fs::write(runs.join("memory.max"), (48 * MIB).to_string()).unwrap();
    fs::write(runs.join("memory.swap.max"), "0").unwrap();
    fs::write(&go, "").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(137));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains(&format!("at the limit of {}, above its own cgroup", path_of(&runs))), "{said}");
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(case.file("report")).unwrap()).unwrap();
    assert_eq!(report["cause"]["scope"], "ancestor");
    assert_eq!(report["above"]["levels"][0]["path"], path_of(&runs));
}
