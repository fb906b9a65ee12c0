//! What a host can do to a supervisor beside killing it: each row of ARCHITECTURE.md's "What goes wrong" that needs a real kernel
//! and no controller.
//!
//! `PINFOLD_FAULTS_KILLS` makes the row of kills longer and has them come at random moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, State, UnknownWhy},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::{
    Case,
    disk::SmallDisk,
    door::Door,
    parameter, pause,
    process::Process,
    run::finish,
    tree,
    up::{Up, is},
    wait_until, worker,
};

const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
const MS: Duration = Duration::from_millis(1);

/// Waits for the `nth` supervisor that followed another, and until it answers: before that it has taken over all that lives.
fn taken_over(case: &Case, up: &mut Up, nth: usize) {
    let again = |e: &Event| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again"));
    let mut seen = 0;
    up.wait_for(&format!("another supervisor, the {nth}."), |e| {
        seen += usize::from(again(e));
        seen == nth
    });
    case.ask("count", &["*"]);
}

/// Kills the supervisor, and waits for the next one to have taken over: how long nobody was there.
fn replaced(case: &Case, up: &mut Up, nth: usize) -> Duration {
    let supervisor = case.role("supervisor");
    let killed = clock::monotonic();
    supervisor.signal(Signal::KILL);
    taken_over(case, up, nth);
    clock::monotonic().since(killed)
}

#[test]
fn a_supervisor_that_is_killed_again_and_again_is_replaced_as_fast_as_the_first_time() {
    let case = Case::alone();
    let random = parameter::<usize>("PINFOLD_FAULTS_KILLS");
    let workers: String = (0..5).map(|n| worker(&format!("w{n}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &workers);
    let mains: Vec<_> = (0..5).map(|n| up.started(&format!("w{n}"), 1)).collect();
    case.ask("count", &["*"]);
    let mut took = Vec::new();
    for nth in 1..=random.unwrap_or(8) {
        took.push(replaced(&case, &mut up, nth));
        if random.is_some() {
            support::pause(Duration::from_millis(fastrand::u64(0..3000)));
        }
    }
    eprintln!("nobody was there for {took:?}; at most {:?}", took.iter().max().unwrap());
    let sum = |of: &[Duration]| of.iter().sum::<Duration>();
    // A pause that doubles would make it thirty times as much.
    let (first, last) = (sum(&took[..3]), sum(&took[took.len() - 3..]));
    assert!(last < first * 4, "the last three took {last:?}, the first three {first:?}");
    assert!(mains.iter().all(Process::alive), "no worker has noticed");
    end(up);
}

/// Ends one whose supervisor was replaced: what it told last may be lost.
fn end(mut up: Up) {
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}

fn state_file(case: &Case, name: &str) -> PathBuf {
    case.dir.path().join("state").join(name)
}

fn reconciled(up: &mut Up, part: &str) -> String {
    let told = up.wait_for(part, |e| matches!(&e.kind, EventKind::Reconciled { what } if what.contains(part)));
    let EventKind::Reconciled { what } = told.kind else { unreachable!() };
    what
}

#[test]
fn over_damaged_files_of_its_own_a_supervisor_that_follows_another_goes_on_and_says_what_holds_now() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    let main = up.started("w", 1);
    case.ask("count", &["*"]);
    fs::write(state_file(&case, "applied.json"), "{\"from\": nu").unwrap();
    fs::write(state_file(&case, "overrides.json"), "[7").unwrap();
    replaced(&case, &mut up, 1);
    for (file, holds) in [
        ("applied.json", "the configuration was read anew from its own files"),
        ("overrides.json", "every worker has the limits of its configuration"),
    ] {
        let what = reconciled(&mut up, &format!("{file} is damaged"));
        let aside = format!("it is set aside as {}.corrupt", state_file(&case, file).display());
        assert!(what.contains(&aside) && what.contains(holds), "{what}");
    }
    assert_eq!(case.ask("plan", &[]).stdout, "nothing to do; 1 worker is untouched\n");
    assert!(main.alive());
    replaced(&case, &mut up, 2);
    let told = up.seen.iter().filter(|e| matches!(&e.kind, EventKind::Reconciled { what } if what.contains("damaged")));
    assert_eq!(told.count(), 2, "the next one finds all of it whole");
    end(up);
}

/// One that runs, and whose supervisor is killed when nothing says any more what is to hold; its worker, and what puts that
/// right.
fn without_a_word(case: &Case) -> (Up, Process, impl FnOnce()) {
    let mut up = Up::start(case, &worker("w", &["/bin/sleep", "1000"], &[]));
    let main = up.started("w", 1);
    case.ask("count", &["*"]);
    let config = case.file("pinfold.yaml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(state_file(case, "applied.json"), "torn").unwrap();
    fs::write(&config, "workers: 7\n").unwrap();
    case.role("supervisor").signal(Signal::KILL);
    (up, main, move || fs::write(config, good).unwrap())
}

#[test]
fn while_nothing_says_what_is_to_hold_the_next_supervisor_is_tried_again_until_something_does() {
    let case = Case::new();
    let (mut up, main, put_right) = without_a_word(&case);
    let failed = |times: usize| {
        wait_until("further tries", || {
            let said = up.stderr();
            (said.matches("before it had taken over").count() >= times).then_some(said)
        })
    };
    let said = failed(2);
    for part in ["applied.json is damaged", "pinfold.yaml"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(main.alive());
    put_right();
    taken_over(&case, &mut up, 1);
    assert!(main.alive());
    assert_eq!(tree::procs(&case.run_dir("w", 1)), [main.pid]);
    end(up);
}

#[test]
fn whoever_asks_for_the_end_of_one_that_cannot_begin_again_gets_it() {
    let case = Case::new();
    let (mut up, main, put_right) = without_a_word(&case);
    wait_until("a try", || up.stderr().contains("before it had taken over").then_some(()));
    up.signal(Signal::TERM);
    let code = wait_until("its end", || up.over());
    assert_eq!(code, 1, "{}", up.stderr());
    assert!(main.alive(), "what could not be stopped in order is left as it is");
    put_right();
    let mut next = Up::again(&case);
    reconciled(&mut next, "taken over untouched");
    next.stop();
}

#[test]
fn limits_that_were_set_and_cannot_be_read_are_no_start_and_the_file_and_the_fix_are_named() {
    let case = Case::new();
    fs::create_dir_all(case.dir.path().join("state")).unwrap();
    fs::write(state_file(&case, "overrides.json"), "[7").unwrap();
    let ran = finish(case.pinfold("up").arg(case.config(&worker("w", &["/bin/true"], &[]))));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        state_file(&case, "overrides.json").to_str().unwrap(),
        "is damaged; remove it, and set what is to hold once more",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
}

// ── processes where they do not belong ────────────────────────────────────────────────────────────────────────────

/// A process of ours that is none of a worker's.
fn stranger(case: &Case) -> (std::process::Child, Process) {
    let child = Command::new("/bin/sleep").arg("1000").envs(case.mark()).spawn().unwrap();
    let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
    (child, process)
}

fn move_to(dir: &std::path::Path, process: &Process) {
    fs::write(dir.join("cgroup.procs"), process.pid.to_string()).unwrap();
}

#[test]
fn a_foreign_process_moved_into_a_run_is_of_that_run_and_ends_with_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]));
    let main = up.started("w", 1);
    let (mut child, foreign) = stranger(&case);
    move_to(&case.run_dir("w", 1), &foreign);
    let shown = || Door::open(&case.socket()).get("/v1/workers/w").body;
    assert_eq!(shown()["pid"], main.pid, "the main process is another");

    // Its end is nobody's exit.
    foreign.signal(Signal::KILL);
    child.wait().unwrap();
    up.watch(200 * MS);
    assert_eq!(up.of("w").filter(|e| matches!(e.kind, EventKind::Exited { .. })).count(), 0);

    // What is left when the main process ends is ended before the next run, like any child of its.
    let (mut child, foreign) = stranger(&case);
    move_to(&case.run_dir("w", 1), &foreign);
    main.signal(Signal::KILL);
    assert_eq!(up.exited("w", 1), ExitCause::KilledExternal);
    let next = up.started("w", 2);
    assert!(!foreign.alive());
    child.wait().unwrap();
    assert_eq!(next.cgroup(), case.run_dir("w", 2));
    wait_until("its directory goes", || (!case.run_dir("w", 1).exists()).then_some(()));
    up.stop();
}

#[test]
fn who_is_moved_out_of_a_run_is_left_alone_unless_it_is_the_main_process() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("sleep 1000 & echo child $! >> {told}; wait");
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &[ALWAYS_AT_ONCE]));
    let main = up.started("w", 1);
    let child = Process::open(case.wait_told("told", "child ")).unwrap();
    let elsewhere = case.root.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    move_to(&elsewhere, &child);
    move_to(&elsewhere, &main);
    // Nobody of its own is in the run any more, and its main process lives: nothing has ended.
    up.watch(200 * MS);
    assert_eq!(up.of("w").filter(|e| matches!(e.kind, EventKind::Exited { .. })).count(), 0);
    case.ask("restart", &["w"]);
    let cause = up.exited("w", 1);
    assert!(matches!(cause, ExitCause::Killed { .. }), "{cause:?}");
    assert!(!main.alive(), "two lives of one worker there are never");
    assert!(child.alive(), "whoever has moved it has taken it over");
    up.started("w", 2);
    up.stop();
    child.signal(Signal::KILL);
    child.wait_gone("the child");
    fs::remove_dir(&elsewhere).unwrap();
}

// ── a supervisor that is held up ──────────────────────────────────────────────────────────────────────────────────

fn freeze(case: &Case, leaf: &str, how: u8) {
    let dir = case.root.join(leaf);
    fs::write(dir.join("cgroup.freeze"), how.to_string()).unwrap();
    wait_until("frozen or thawed", || (tree::field(&dir, "cgroup.events", "frozen") == u64::from(how)).then_some(()));
}

#[test]
fn what_happens_while_the_supervisor_is_held_up_is_told_once_and_acted_on_when_it_goes_on() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]));
    let main = up.started("w", 1);
    case.ask("count", &["*"]);
    let supervisor = case.role("supervisor");
    freeze(&case, "supervisor", 1);
    main.signal(Signal::TERM);
    main.wait_gone("the worker");
    freeze(&case, "supervisor", 0);
    let cause = up.exited("w", 1);
    assert!(matches!(cause, ExitCause::Signaled { signal: 15, .. }), "{cause:?}");
    let next = up.started("w", 2);
    assert_eq!(case.role("supervisor").pid, supervisor.pid);
    assert!(next.alive());
    up.stop();
}

#[test]
fn one_that_is_stopped_for_good_is_replaced_and_what_ended_meanwhile_is_told_by_the_next() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]));
    let main = up.started("w", 1);
    case.ask("count", &["*"]);
    let supervisor = case.role("supervisor");
    supervisor.signal(Signal::STOP);
    main.signal(Signal::TERM);
    supervisor.wait_gone("the stopped supervisor");
    let cause = up.exited("w", 1);
    assert!(matches!(cause, ExitCause::Signaled { signal: 15, .. }), "{cause:?}");
    assert!(up.started("w", 2).alive());
    end(up);
}

#[test]
fn a_notification_that_was_lost_in_an_overflow_is_made_good_by_reading_everything() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("(trap '' TERM; echo left $$ >> {told}; exec sleep 1000) & wait");
    let mut up = Up::start(&case, &worker("w", &["/bin/sh", "-c", &script], &["stop: {timeout: 10m}"]));
    let _main = up.started("w", 1);
    wait_until("its child is deaf", || case.told("told").first().cloned());
    case.ask("stop", &["--no-wait", "w"]);
    up.state("w", State::Stopping, "draining");
    let left = tree::procs_below(&case.run_dir("w", 1));
    let [left] = left[..] else { panic!("{left:?}") };
    let left = Process::open(left).unwrap();
    freeze(&case, "supervisor", 1);
    // Each removal below a directory of runs is one event.
    let room: u32 = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let name = |n: u32| case.root.join("workers").join(format!("no-run-{}", n % 2));
    for n in 0..room + 100 {
        fs::create_dir(name(n)).unwrap();
        fs::remove_dir(name(n)).unwrap();
    }
    // That its cgroup is empty is told to nobody.
    left.signal(Signal::KILL);
    left.wait_gone("what was left");
    wait_until("an empty cgroup", || {
        (tree::field(&case.run_dir("w", 1), "cgroup.events", "populated") == 0).then_some(())
    });
    freeze(&case, "supervisor", 0);
    up.state("w", State::Stopped, "stopped");
    up.stop();
}

// ── descriptors ───────────────────────────────────────────────────────────────────────────────────────────────────

/// CPU time of a process so far, in ticks of 10 ms.
fn ticks(process: &Process) -> i64 {
    process.stat(14) + process.stat(15)
}

#[test]
fn a_supervisor_without_descriptors_loses_no_exit_does_not_spin_and_goes_on_when_it_has_some() {
    let case = Case::new();
    let workers =
        worker("again", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE]) + &worker("still", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &workers);
    let (again, still) = (up.started("again", 1), up.started("still", 1));
    case.ask("count", &["*"]);
    let supervisor = case.role("supervisor");
    let pid = Pid::from_raw(supervisor.pid);
    let text = supervisor.file("limits");
    let hard = text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1));
    let limit = |current| Rlimit { current: Some(current), maximum: Some(hard.unwrap().parse().unwrap()) };
    let before = prlimit(pid, Resource::Nofile, limit(3)).unwrap();
    again.signal(Signal::KILL);
    assert_eq!(up.exited("again", 1), ExitCause::KilledExternal);
    let waits = std::os::unix::net::UnixStream::connect(case.socket()).unwrap();
    let spent = ticks(&supervisor);
    pause(Duration::from_secs(2));
    let spent = ticks(&supervisor) - spent;
    eprintln!("{spent} of 200 ticks without descriptors");
    assert!(spent < 100, "{spent} of 200 ticks: it spins");
    prlimit(pid, Resource::Nofile, before).unwrap();
    drop(waits);
    case.ask("count", &["*"]);
    up.wait_for("it runs again", |e| {
        is(e, "again") && e.run.is_some_and(|run| run > 1) && matches!(e.kind, EventKind::Started { .. })
    });
    assert!(still.alive());
    assert_eq!(case.role("supervisor").pid, supervisor.pid, "it is the same one");
    up.stop();
}

// ── disks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn with_one_full_disk_below_store_and_logs_every_order_is_carried_out_and_all_is_written_again_when_there_is_room() {
    let case = Case::new();
    let disk = SmallDisk::at(case.dir.path().join("state"), "2m");
    let workers = worker("again", &["/bin/sleep", "1000"], &[ALWAYS_AT_ONCE])
        + &worker("flood", &["/bin/sh", "-c", "seq 1 2000000; exec sleep 1000"], &["logs: {max_size: 64MiB}"])
        + &worker("held", &["/bin/sleep", "1000"], &[]);
    let mut up = Up::start(&case, &workers);
    let (again, held) = (up.started("again", 1), up.started("held", 1));
    up.wait_for("log_dropped", |e| matches!(e.kind, EventKind::LogDropped { bytes: None, .. }));
    let health = || Door::open(&case.socket()).get("/v1/health").body;

    // Exits, policies and orders go on without a disk.
    again.signal(Signal::KILL);
    assert_eq!(up.exited("again", 1), ExitCause::KilledExternal);
    let second = up.started("again", 2);
    case.ask("stop", &["held"]);
    assert!(!held.alive());
    case.ask("restart", &["again"]);
    assert!(!second.alive());
    let third = up.started("again", 3);
    wait_until("the store says so", || (health()["store"]["status"] == "degraded").then_some(()));

    // So does a supervisor that follows another.
    replaced(&case, &mut up, 1);
    assert!(third.alive());
    let shown = Door::open(&case.socket()).get("/v1/workers/again").body;
    assert_eq!(shown["pid"], third.pid, "{shown}");
    case.ask("stop", &["again"]);

    disk.grow("64m");
    replaced(&case, &mut up, 2);
    let store = |what: &str| (health()["store"]["status"] == what).then_some(());
    wait_until("the store is written", || store("ok"));
    case.ask("start", &["again"]);
    case.ask("stop", &["flood"]);
    replaced(&case, &mut up, 3);
    let shown =
        |worker: &str| Door::open(&case.socket()).get(&format!("/v1/workers/{worker}")).body["desired_up"].clone();
    assert_eq!([shown("again"), shown("flood")], [true, false], "what was ordered since is remembered");
    end(up);
}

// ── the host's end ────────────────────────────────────────────────────────────────────────────────────────────────

/// What is left of everything when the host has gone down without a word: files.
fn power_cut(case: &Case, mut up: Up, workers: &[Process]) {
    let roles = ["supervisor", "logger"].map(|leaf| case.role(leaf));
    up.signal(Signal::KILL);
    roles.iter().chain(workers).for_each(|process| process.signal_if_there(Signal::KILL));
    up.reap_killed();
    roles.iter().chain(workers).for_each(|process| _ = process.wait_gone("everything"));
    for dir in tree::children(&case.root.join("workers")).into_iter().chain(tree::children(&case.root)) {
        wait_until("no cgroup is left", || {
            for dir in tree::children(&dir) {
                drop(fs::remove_dir(dir));
            }
            fs::remove_dir(&dir).ok().or_else(|| (!dir.exists()).then_some(()))
        });
    }
}

#[test]
fn after_a_reboot_what_ran_has_ended_by_it_without_a_strike_and_what_was_stopped_stays_so() {
    let case = Case::new();
    let once = "restart: {policy: on-failure, retry_delay: 0s, max_retries: 1, cooldown: hold}";
    let sleeps = ["/bin/sleep", "1000"];
    let workers =
        worker("ran", &sleeps, &[once]) + &worker("stopped", &sleeps, &[once]) + &worker("never", &sleeps, &[]);
    let mut up = Up::start(&case, &workers);
    let mains = ["ran", "stopped", "never"].map(|name| up.started(name, 1));
    case.ask("stop", &["stopped"]);
    power_cut(&case, up, &mains);

    // Another boot's id, for this one only: in a mount namespace of its own.
    let id = case.file("boot_id");
    fs::write(&id, "00000000-0000-4000-8000-000000000001\n").unwrap();
    let script = "mount --make-rprivate / && mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let typed = case.pinfold("up");
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["-m", "/bin/sh", "-c", script, &id]).arg(typed.get_program()).args(typed.get_args());
    for (name, value) in typed.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut up = Up::spawn(command.current_dir("/").arg(case.file("pinfold.yaml")));
    let rebooted = ExitCause::Unknown { why: UnknownWhy::HostRebooted };
    assert_eq!(up.exited("ran", 1), rebooted);
    assert_eq!(up.exited("never", 1), rebooted);
    let again = up.started("ran", 2);
    // A strike would have left no further try.
    again.signal(Signal::KILL);
    up.started("ran", 3);
    up.state("never", State::Stopped, "failed");
    assert_eq!(up.of("stopped").filter(|e| matches!(e.kind, EventKind::Started { .. })).count(), 0);
    up.stop();
}
