//! A host that runs out of memory, on a machine that is ours to do so: scripts/test runs this in the virtual machine alone.
//!
//! The kernel's own OOM killer is asked for by SysRq-f (Linux Documentation/admin-guide/sysrq.rst): it chooses and kills
//! exactly as when the host has run out, and nothing else on the machine has to starve for that. It takes the process
//! of the highest score; an `oom_score_adj` of 1000 is above every other.

use std::{env, fs, path::Path, time::Duration};

use pinfold::model::{Confidence, EventKind, ExitCause, OomScope};

use crate::MIB;
use crate::slices::{OOM_ABOVE, above, config, leak_once, within};
use crate::support::{
    Case, ELSEWHERE, misbehaving, scaled, tree,
    up::{Up, is},
    wait_until, worker,
};

const OOM_OF_HOST: ExitCause = ExitCause::Oom { scope: OomScope::Host };

fn case() -> Case {
    assert!(env::var_os("PINFOLD_VM").is_some(), "this kills on the whole machine: {ELSEWHERE}");
    Case::with_limits(true)
}

fn host_kills() -> u64 {
    tree::field(Path::new("/proc"), "vmstat", "oom_kill")
}

/// Has the kernel's OOM killer take one process of this machine.
fn run_out_of_memory() {
    let before = host_kills();
    fs::write("/proc/sysrq-trigger", "f").unwrap();
    wait_until("the OOM killer has taken somebody", || (host_kills() > before).then_some(()));
}

#[test]
fn the_host_is_named_where_no_limit_was_reached() {
    let case = case();
    let first = "oom_score_adj: 1000";
    let workers = within("web", &misbehaving("fenced", &["sleep"], &[first, "limits: {memory: {max_rss: 32MiB}}"]))
        + &misbehaving("calm", &["sleep"], &[]);
    let mut up = Up::start(&case, &config("  web: {memory: {max: 64MiB}}", &workers));
    let (_fenced, calm) = (up.started("fenced", 1), up.started("calm", 1));
    run_out_of_memory();
    let (why, event) = up.exit_of("fenced", 1);
    assert_eq!(why, OOM_OF_HOST);
    let (confidence, reading) = above(&event);
    assert!(reading.complete && reading.reached().is_none(), "{reading:?}");
    assert!(reading.host.is_some_and(|host| host.after > host.before), "{reading:?}");
    assert_eq!(confidence, Confidence::Certain, "all of the run went, and no limit is left to have been reached");
    assert!(calm.alive());
    up.stop();
}

#[test]
fn an_oom_that_a_sibling_caused_in_the_slice_before_is_not_blamed_for_the_hosts_now() {
    let case = case();
    let go = case.file("go");
    let workers = within("web", &worker("hog", &leak_once(&go), &[]))
        + &within("web", &misbehaving("later", &["sleep"], &["oom_score_adj: -900"]));
    let mut up = Up::start(&case, &config("  web: {memory: {max: 48MiB}}", &workers));
    let (_hog, later) = (up.started("hog", 1), up.started("later", 1));
    fs::write(&go, "").unwrap();
    assert_eq!(up.exit_of("hog", 1).0, OOM_ABOVE);
    // A death within two seconds could still come of that OOM; one after them cannot.
    up.watch(scaled(Duration::from_millis(300)).max(Duration::from_millis(2500)));
    fs::write(format!("/proc/{}/oom_score_adj", later.pid), "1000").unwrap();
    run_out_of_memory();
    let (why, event) = up.exit_of("later", 1);
    assert_eq!(why, OOM_OF_HOST, "{event:?}");
    let (_, reading) = above(&event);
    assert!(reading.complete, "{reading:?}");
    assert!(reading.levels[0].path.ends_with("/workers/web.slice"), "{reading:?}");
    assert!(reading.levels[0].before.oom > 0, "what happened before is in the earlier reading: {reading:?}");
    up.stop();
}

#[test]
fn an_oom_of_a_strangers_in_a_cgroup_above_is_not_blamed_for_the_hosts_later() {
    let case = case();
    let mut up = Up::start(&case, &misbehaving("later", &["sleep"], &["oom_score_adj: 1000"]));
    let later = up.started("later", 1);
    // Somebody beside our tree runs into the limit of a cgroup that is above it: nothing of ours is taken.
    fs::write(format!("/proc/{}/oom_score_adj", later.pid), "-1000").unwrap();
    for leaf in ["keeper", "supervisor", "logger"] {
        let pid = case.role(leaf).pid;
        fs::write(format!("/proc/{pid}/oom_score_adj"), "-1000").unwrap();
    }
    let beside = case.root.join("beside");
    fs::create_dir(&beside).unwrap();
    let room = tree::number(&case.root, "memory.current") + 32 * MIB;
    fs::write(case.root.join("memory.max"), room.to_string()).unwrap();
    fs::write(case.root.join("memory.swap.max"), "0").unwrap();
    let script = format!("echo $$ >{}/cgroup.procs; exec {} leak", beside.display(), crate::support::misbehave());
    let stranger = std::process::Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
    assert!(!stranger.success(), "{stranger:?}");
    assert!(tree::field(&case.root, "memory.events.local", "oom") > 0);
    fs::write(case.root.join("memory.max"), "max").unwrap();
    fs::remove_dir(&beside).unwrap();
    up.watch(scaled(Duration::from_millis(300)).max(Duration::from_millis(2500)));
    fs::write(format!("/proc/{}/oom_score_adj", later.pid), "1000").unwrap();
    run_out_of_memory();
    let (why, event) = up.exit_of("later", 1);
    assert_eq!(why, OOM_OF_HOST, "{event:?}");
    assert!(above(&event).1.complete);
    up.stop();
}

#[test]
fn a_child_that_the_host_takes_is_no_end_of_its_worker() {
    let case = case();
    let told = case.file("told");
    let script =
        format!("sh -c 'echo 1000 >/proc/self/oom_score_adj; exec sleep 1000' & echo pid $! >>{told}; wait; exit 7");
    let mut up = Up::start(&case, &worker("parent", &["/bin/sh", "-c", &script], &[]));
    let _main = up.started("parent", 1);
    let child = case.wait_told("told", "pid");
    wait_until("it stands first", || {
        let score = fs::read_to_string(format!("/proc/{child}/oom_score_adj")).ok()?;
        (score.trim() == "1000").then_some(())
    });
    run_out_of_memory();
    let why = up.exited("parent", 1);
    assert_eq!(why, ExitCause::Exited { code: 7 });
    assert!(up.of("parent").any(|e| is(e, "parent") && matches!(e.kind, EventKind::Violation { .. })));
    up.stop();
}
