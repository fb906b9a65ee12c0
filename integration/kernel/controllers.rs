//! What needs the controllers in version 2: limits in force, counters, hints, strangers in the way.

use std::{
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use pinfold::{
    clock::Clock,
    kernel::{
        auxiliary::{Auxiliary, MAX_MEMORY, MAX_PIDS, Outcome, Parts, Seat},
        cgroup::{Dir, disk, events, kill, limits, setting::Setting, stat},
        launch::Method,
        place::{PlaceError, Tree, settle},
        watch::{self, Hint, Interest, Seen, Source},
    },
    model::{ExitStatus, RunId, WorkerId},
    spec::types::{Cpu, Io, Limits, Memory, OomGroup, Pids, Spec, ViolationPolicy},
};

use crate::fixture::{Place, Program, pause, wait_until};

mod watched;

fn tree(place: &Place) -> Tree {
    let own_the_top = !place.situation.systemd;
    // The test's directory must pass the controllers on as well; it stands for the delegated cgroup here.
    let above = Dir::open(&place.situation.mount.path).unwrap();
    for dir in [&above, &*place.dir] {
        dir.write("cgroup.subtree_control", "+memory +cpu +pids +io")
            .expect("a host whose controllers are in version 2");
    }
    let tree = settle(&place.situation, &place.dir.path().join("root"), own_the_top, &[]).unwrap();
    assert_eq!(tree.withheld, [], "this test needs a host whose controllers are in version 2: scripts/vm");
    tree
}

fn run(number: u32) -> RunId {
    RunId::new(WorkerId::new("web").unwrap(), number)
}

fn some_disk() -> PathBuf {
    let disks = std::fs::read_dir("/sys/block").unwrap();
    let mut names: Vec<_> = disks.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| !n.starts_with("loop") && !n.starts_with("ram") && !n.starts_with("fd"));
    names.sort();
    let name = names.first().expect("this test needs a disk: scripts/vm --disk 64M");
    PathBuf::from("/dev").join(name)
}

fn seven() -> Limits {
    Limits {
        memory: Memory { max: Some(100_000_000), high: Some(90_000_000), ..Memory::default() },
        cpu: Cpu { max_percent: Some(75.0), weight: Some(200), ..Cpu::default() },
        pids: Pids { max: Some(64), ..Pids::default() },
        ..Limits::default()
    }
}

#[test]
fn every_limit_is_in_force_as_the_kernel_rounds_it() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    let mut wanted = seven();
    wanted.cpu.burst_usec = Some(5000);
    let device = some_disk();
    let io = Io {
        path: device.clone(),
        rbps: None,
        wbps: Some(20_000_000),
        riops: Some(120),
        wiops: None,
        policy: ViolationPolicy::Log,
    };
    wanted.io.push(io);
    let effective = limits::set(&dir, &wanted, &tree.host()).unwrap();
    let disk = disk::of_path(&device).unwrap();
    let io_line = format!("{disk} rbps=max wbps=20000000 riops=120 wiops=max");
    for (file, text) in [
        ("memory.max", "99999744"),
        ("memory.high", "89997312"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("cpu.max", "75000 100000"),
        ("cpu.max.burst", "5000"),
        ("cpu.weight", "200"),
        ("pids.max", "64"),
        ("io.max", io_line.as_str()),
    ] {
        assert_eq!(dir.read(file).unwrap().trim_end(), text, "{file}");
        assert_eq!(effective.get(file), Some(text), "{file}");
    }
}

#[test]
fn every_share_and_weight_reads_back_as_it_was_written() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    for weight in [1, 2, 3, 7, 99, 100, 101, 999, 3333, 9999, 10_000] {
        limits::apply(&dir, &[Setting::CpuWeight(weight)]).unwrap();
    }
    for percent in [0.1, 0.5, 1.0, 3.3, 33.333, 66.67, 99.99, 100.0, 175.0, 6400.0] {
        let limits = Limits { cpu: Cpu { max_percent: Some(percent), ..Cpu::default() }, ..Limits::default() };
        limits::set(&dir, &limits, &tree.host()).unwrap_or_else(|e| panic!("{percent} %: {e}"));
    }
}

#[test]
fn what_the_kernel_refuses_or_changes_is_a_failed_start_that_names_it() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    let failed = |setting| limits::apply(&dir, &[setting]).unwrap_err().to_string();
    assert_eq!(failed(Setting::PidsMax(1 << 40)), "limit pids.max 1099511627776: Invalid argument");
    assert_eq!(failed(Setting::CpuWeight(10_001)), "limit cpu.weight 10001: Numerical result out of range");
    assert_eq!(
        failed(Setting::MemoryMax(5000)),
        "limit: memory.max was set to 5000 and the kernel made it \"4096\"",
        "a value that is not in the kernel's grain"
    );
    let huge = failed(Setting::MemoryMax(u64::MAX));
    assert!(huge.contains("memory.max was set to"), "{huge}");
}

#[test]
fn an_oom_is_counted_in_the_run_and_kills_all_of_it() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    let memory = Memory { max: Some(16 << 20), ..Memory::default() };
    limits::set(&dir, &Limits { memory, ..Limits::default() }, &tree.host()).unwrap();
    let before = events::read(&dir).unwrap();
    assert_eq!(before.memory.unwrap().oom_kill, 0);
    let mut program =
        Program::sh(&dir, "sleep 600 & x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo $x | tail -c 1");
    assert_eq!(program.wait().signal(), Some(9));
    let delta = events::read(&dir).unwrap().since(before);
    let (memory, local) = (delta.memory.unwrap(), delta.local.unwrap());
    assert!(memory.oom_kill > 0 && local.oom_kill > 0 && local.max > 0, "{delta:?}");
    assert!(wait_until(|| !dir.populated().unwrap()), "memory.oom.group: its child went with it");
    let usage = stat::usage(&dir);
    assert!(usage.memory_peak_bytes.unwrap() > 8 << 20, "{usage:?}");
    assert!(usage.memory_current_bytes.is_some() && usage.pids_current.is_some(), "{usage:?}");
}

#[test]
fn with_oom_scope_process_the_others_live() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    let memory = Memory { max: Some(16 << 20), oom_scope: OomGroup::Process, ..Memory::default() };
    limits::set(&dir, &Limits { memory, ..Limits::default() }, &tree.host()).unwrap();
    // A machine that is slow to free what one victim had lets the kernel choose another: not the one that waits.
    let hog = "echo 1000 >/proc/self/oom_score_adj; x=$(head -c 60000000 /dev/zero | tr \"\\0\" x); echo $x";
    let mut program = Program::sh(&dir, &format!("sh -c '{hog}'; exit 7"));
    assert_eq!(program.wait().code(), Some(7));
    assert!(events::read(&dir).unwrap().memory.unwrap().oom_kill > 0);
}

#[tokio::test]
async fn a_refused_fork_is_hinted_at_and_counted() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = Arc::new(tree.workers.create("web.1").unwrap());
    let pids = Pids { max: Some(3), ..Pids::default() };
    limits::set(&dir, &Limits { pids, ..Limits::default() }, &tree.host()).unwrap();
    let (watches, mut hints) = watch::channel(Clock::new()).unwrap();
    watches.add(&run(1), &dir, Interest::ALL).unwrap();
    assert_eq!(watches.len(), 2, "both files are there");
    let _program = Program::sh(&dir, "for i in 1 2 3 4 5 6; do sleep 60 & done; wait");
    let hint = tokio::time::timeout(Duration::from_secs(20), hints.next()).await.expect("no hint").unwrap();
    assert_eq!(hint, Hint::Changed(run(1), Source::Pids));
    assert!(events::read(&dir).unwrap().pids_max.unwrap() > 0);
}

#[tokio::test]
async fn a_reader_at_its_limit_wakes_us_a_few_times_and_not_for_ever() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = Arc::new(tree.workers.create("web.1").unwrap());
    let memory = Memory { max: Some(8 << 20), ..Memory::default() };
    limits::set(&dir, &Limits { memory, ..Limits::default() }, &tree.host()).unwrap();
    let (watches, mut hints) = watch::channel(Clock::new()).unwrap();
    watches.add(&run(1), &dir, Interest::ALL).unwrap();
    // Page cache only: tmpfs would be charged for good.
    let file = std::env::current_exe().unwrap();
    let script = format!("while :; do cat {} > /dev/null; echo 1 > /dev/null; done", file.display());
    let _program = Program::sh(&dir, &script);
    let mut wake_ups = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(8);
    while let Ok(hint) = tokio::time::timeout_at(end, hints.next()).await {
        assert_eq!(hint.unwrap(), Hint::Changed(run(1), Source::Memory));
        wake_ups += 1;
        watches.seen(&run(1), Source::Memory, Seen::Noise);
    }
    let events = events::read(&dir).unwrap().memory.unwrap();
    assert!(events.max > 50, "the reader was not at its limit: {events:?}");
    assert_eq!(events.oom_kill, 0);
    assert!((1..=5).contains(&wake_ups), "{wake_ups} wake-ups in 8 s; 1, 2 and 4 s of rest allow 4");
}

#[test]
fn strangers_are_named_and_never_moved() {
    let place = Place::new();
    let above = Dir::open(&place.situation.mount.path).unwrap();
    for dir in [&above, &*place.dir] {
        dir.write("cgroup.subtree_control", "+memory +cpu +pids +io")
            .expect("a host whose controllers are in version 2");
    }
    let root = place.dir.create("root").unwrap();
    let mut stranger = Program::sh(&root, "exec sleep 600");
    let pid = i32::try_from(stranger.0.id()).unwrap();
    assert!(wait_until(|| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"));
    let err = settle(&place.situation, root.path(), false, &[]).unwrap_err();
    assert!(matches!(err, PlaceError::Strangers { .. }), "{err:?}");
    let text = err.to_string();
    assert!(text.contains(&format!("sleep (pid {pid})")), "{text}");
    assert_eq!(root.processes().unwrap(), [pid]);
    kill::kill(&root).unwrap();
    stranger.wait();
}

#[test]
fn a_living_run_is_changed_through_cgroups_rs_and_read_back() {
    let place = Place::new();
    let tree = tree(&place);
    let dir = tree.workers.create("web.1").unwrap();
    limits::set(&dir, &seven(), &tree.host()).unwrap();
    let _program = Program::sh(&dir, "sleep 60");
    for (setting, text) in [
        (Setting::MemoryHigh(16 << 20), "16777216"),
        (Setting::MemoryMax(32 << 20), "33554432"),
        (Setting::SwapMax(None), "max"),
        (Setting::CpuMax { quota: 20_000, period: 50_000 }, "20000 50000"),
        (Setting::CpuWeight(50), "50"),
        (Setting::PidsMax(9), "9"),
    ] {
        assert_eq!(limits::change(&dir, &setting).unwrap(), text, "{setting:?}");
        assert_eq!(dir.read(setting.file()).unwrap().trim_end(), text, "{setting:?}");
    }
    let err = limits::change(&dir, &Setting::PidsMax(1 << 40)).unwrap_err();
    assert_eq!(err.to_string(), "limit pids.max 1099511627776: Invalid argument", "the crate's error keeps its cause");
}

#[test]
fn limits_cost_a_launch_little_and_less_than_through_the_crate() {
    let place = Place::new();
    let tree = tree(&place);
    let plan = limits::plan(&seven(), &[], &tree.host()).unwrap();
    assert_eq!(plan.len(), 7);
    let (mut made, mut bare, mut crate_way) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..400 {
        let name = format!("web.{number}");
        let start = Instant::now();
        let dir = tree.workers.create(&name).unwrap();
        made.push(start.elapsed());
        // Each on a fresh directory: the kernel skips much where a value is not new.
        let start = Instant::now();
        if number % 2 == 0 {
            limits::apply(&dir, &plan).unwrap();
            bare.push(start.elapsed());
        } else {
            for setting in &plan {
                limits::change(&dir, setting).unwrap();
            }
            crate_way.push(start.elapsed());
        }
        kill::remove(&tree.workers, &name).unwrap();
    }
    // A neighbour that takes the processor away for a moment says nothing about either.
    let [made, bare, crate_way] = [made, bare, crate_way].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("mkdir {made:?}, seven limits set and read back {bare:?}, the same through cgroups-rs {crate_way:?}");
    assert!(bare < made * 8, "limits cost out of proportion: {bare:?} against {made:?} for the directory");
}

/// Probes of health: what they may use does not depend on the worker, and is not the worker's.
#[tokio::test]
async fn a_program_beside_a_run_is_held_to_a_small_budget_of_its_own() {
    let place = Place::new();
    let tree = tree(&place);
    let aux = tree.aux.path().to_owned();
    let parts = Parts {
        limits: tree.host(),
        dir: tree.aux,
        global_env: [].into(),
        inherited: [].into(),
        method: Method::IntoCgroup,
    };
    let (auxiliary, seat) = (Auxiliary::new(parts), Seat::default());
    let mut spec = Spec::new(vec!["/bin/true".into()]);
    // A protected worker's probe is not protected: what cannot be killed cannot be held to its memory.
    spec.oom_score_adj = -1000;
    let sh = async |script: &str| {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let plan = Arc::new(auxiliary.resolve(&run(1), &spec, &argv).unwrap());
        auxiliary.run(&seat, &plan, Duration::from_secs(60)).await
    };

    let own = format!("cd {}/web.1.1 && cat memory.max memory.oom.group memory.swap.max pids.max", aux.display());
    let Outcome::Ended { output, .. } = sh(&own).await else { panic!("no end") };
    let expected = format!("{MAX_MEMORY}\n1\n0\n{MAX_PIDS}\n");
    assert_eq!(String::from_utf8(output).unwrap(), expected);

    let Outcome::Ended { status, oom, .. } = sh("tail /dev/zero; exit 0").await else { panic!("no end") };
    assert_eq!((status, oom), (ExitStatus::Signaled { signal: 9, core: false }, true));

    let forks = "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done 2>/dev/null; echo never";
    let Outcome::Ended { status, .. } = sh(forks).await else { panic!("no end") };
    assert_ne!(status, ExitStatus::Exited { code: 0 }, "a fork was refused");
    auxiliary.idle().await;
    assert_eq!(Dir::open(&aux).unwrap().children().unwrap(), Vec::<String>::new());
}
