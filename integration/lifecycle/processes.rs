//! Keeper, supervisor and logger: what they cost, and what becomes of workers and their output when one of them dies.

use std::{fs, os::unix::net::UnixDatagram, path::Path, process::Command, time::Duration};

use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, State},
};
use rustix::process::Signal;

use crate::MS;
use crate::support::{
    self, Case, misbehaving, patience, process::Process, run::finish, scaled, tree, up::Up, wait_until, worker,
};

#[test]
fn keeper_and_logger_have_one_thread_and_at_most_a_megabyte_beside_their_program() {
    let case = Case::new();
    let config: String = (0..20).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..20 {
        let _main = up.started(&format!("w{i}"), 1);
    }
    let keeper = case.role("keeper");
    assert_eq!(keeper.pid, up.pid(), "the process that was started is the keeper");
    for (name, process) in [("keeper", keeper), ("logger", case.role("logger"))] {
        assert_eq!(process.status("Threads"), "1", "{name}");
        let own = process.own_bytes();
        assert!((1..=1_000_000).contains(&own), "{name} has {own} bytes of its own");
    }
    up.stop();
}

#[test]
fn nothing_of_ours_wakes_up_while_nothing_happens() {
    let case = Case::alone();
    let config: String = (0..10).map(|i| worker(&format!("w{i}"), &["/bin/sleep", "1000"], &[])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..10 {
        up.state(&format!("w{i}"), State::Running, "ready");
    }
    let ours = ["keeper", "supervisor", "logger"].map(|leaf| case.role(leaf));
    let wake_ups = || ours.iter().map(Process::wake_ups).sum::<u64>();
    // What a start leaves to be done may take a moment: quiet is one second without a wake-up, and it must come.
    wait_until("a second without a wake-up", || {
        let before = wake_ups();
        support::pause(Duration::from_secs(1));
        (wake_ups() == before).then_some(())
    });
    up.stop();
}

#[test]
fn a_killed_supervisor_is_replaced_and_the_worker_does_not_notice() {
    let case = Case::new();
    let (lock, told) = (case.file("lock"), case.file("told"));
    let restart = "restart: {policy: always, retry_delay: 0s}";
    let mut up = Up::start(&case, &misbehaving("single", &["hold-lock", &lock, &told], &[restart]));
    let main = up.started("single", 1);
    case.wait_told("told", "begin ");
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    let second = case.role("supervisor");
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.stat(4), i64::from(up.pid()), "the keeper has started it");
    // Long enough for the mistake to be seen that would be made at once.
    pause_for_a_mistake(&case, &second);
    assert!(main.alive());
    assert_eq!(main.cgroup(), case.run_dir("single", 1));
    assert_eq!(case.told("told"), [format!("begin {}", main.pid)], "no second life beside the first");
    up.signal(Signal::TERM);
    end_of_a_replaced_supervisor(&mut up);
}

#[test]
fn a_supervisor_killed_while_it_stops_everything_is_not_followed_by_one_that_starts_anything() {
    let case = Case::new();
    let told = case.file("told");
    let (slow, brisk) = (["ignore-term", told.as_str()], ["sleep"]);
    let workers = misbehaving("slow", &slow, &["stop: {timeout: 1h}"]) + &misbehaving("brisk", &brisk, &[]);
    let mut up = Up::start(&case, &workers);
    let (slow, _brisk) = (up.started("slow", 1), up.started("brisk", 1));
    case.wait_told("told", "pid");
    let first = case.role("supervisor");
    up.signal(Signal::TERM);
    up.state("brisk", State::Stopped, "stopped");
    first.signal(Signal::KILL);
    let again = |e: &Event| matches!(&e.kind, EventKind::Supervisor { what } if what.starts_with("started again"));
    up.wait_for("it is replaced", again);
    slow.signal(Signal::KILL);
    up.reap_killed();
    up.wait_silent();
    let lives = up.of("brisk").filter(|e| matches!(e.kind, EventKind::Started { .. })).count();
    assert_eq!(lives, 1, "what was stopped stays so");
}

#[test]
fn signals_that_ask_for_nothing_end_nobody() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("calm", &["sleep"], &[]));
    let _main = up.started("calm", 1);
    let supervisor = case.role("supervisor");
    // SIGUSR2 asks for another binary: `reexec.rs`.
    for signal in [Signal::USR1, Signal::HUP] {
        up.signal(signal);
    }
    pause_for_a_mistake(&case, &supervisor);
    up.stop();
}

/// A supervisor that would start a second life does it right after its start, when it applies the configuration. It
/// is past that when it waits in epoll or futex with nothing more to do.
fn pause_for_a_mistake(case: &Case, supervisor: &Process) {
    support::pause(scaled(300 * MS));
    assert!(supervisor.alive(), "the new supervisor lives: {:?}", case.processes());
}

/// `seq` begins anew with a new supervisor (the store that carries it over comes later): only the end is looked at.
fn end_of_a_replaced_supervisor(up: &mut Up) {
    up.reap_killed();
}

#[test]
fn a_silent_supervisor_under_a_watchdog_is_replaced_and_systemd_hears_only_the_keeper() {
    let case = Case::new();
    let socket = case.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(patience())).unwrap();
    let mut heard = String::new();
    let mut hear = |wanted: &str, times: usize| {
        let mut bytes = [0; 4096];
        let before = heard.matches(wanted).count();
        while heard.matches(wanted).count() < before + times {
            let n = manager.recv(&mut bytes).unwrap_or_else(|e| panic!("{wanted} was not heard: {e}; {heard}"));
            heard.push_str(&String::from_utf8_lossy(&bytes[..n]));
            heard.push('\n');
        }
    };
    let config = case.config(&worker("w", &["/bin/sleep", "1000"], &[]));
    let mut command = case.pinfold("up");
    command.arg(config).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000");
    let mut up = Up::spawn(&mut command);
    let main = up.started("w", 1);
    hear("READY=1", 1);
    hear("WATCHDOG=1", 2);

    let first = case.role("supervisor");
    first.signal(Signal::STOP);
    first.wait_gone("the supervisor that no longer answers");
    let second = case.role("supervisor");
    assert_ne!(second.pid, first.pid);
    hear("WATCHDOG=1", 2);
    assert!(main.alive());
    up.signal(Signal::TERM);
    end_of_a_replaced_supervisor(&mut up);
}

#[test]
fn a_killed_keeper_takes_the_supervisor_along_but_no_worker_and_no_line_of_output() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("ticking", &["tick", &told], &[]));
    let main = up.started("ticking", 1);
    let (supervisor, logger) = (case.role("supervisor"), case.role("logger"));
    wait_until("a first tick", || case.told("told").first().cloned());

    up.signal(Signal::KILL);
    up.reap_killed();
    supervisor.wait_gone("the supervisor without its keeper");
    up.wait_silent();
    let ticks = case.told("told").len();
    wait_until("ticks after the keeper's death", || (case.told("told").len() > ticks + 10).then_some(()));
    assert!(main.alive());
    assert!(logger.alive(), "the logger stays while there is something to log");

    // Its end is the end of the pipe, and that is the logger's.
    main.signal(Signal::KILL);
    main.wait_gone("the worker");
    logger.wait_gone("the logger whose pipes have ended");
    let lines = logged(&case.dir.path().join("state/logs/ticking"));
    let told = case.told("told");
    // A tick is printed before it is told.
    assert!(lines.len() - told.len() <= 1, "{} lines logged, {} told", lines.len(), told.len());
    assert_eq!(lines[..told.len()], told, "every line that was printed is in the log");
    // The tree keeps the empty directory of a run whose end nobody could see: the next `up` finds it.
    for dir in tree::children(&case.root.join("workers")) {
        assert_eq!(tree::procs(&dir), Vec::<i32>::new());
        fs::remove_dir(dir).unwrap();
    }
}

/// The lines of a worker's log, all its files in order.
fn logged(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().contains(".stdout") && !p.to_string_lossy().ends_with(".idx"))
        .collect();
    files.sort();
    let text: String = files.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_a_worker_prints_is_in_its_log_to_the_last_line() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("printing", &["print", "5000"], &[]));
    assert_eq!(up.exited("printing", 1), ExitCause::Exited { code: 0 });
    up.stop();
    let expected: Vec<String> = (1..=5000).map(|i| format!("line {i}")).collect();
    assert_eq!(logged(&case.dir.path().join("state/logs/printing")), expected);
}

#[test]
fn we_are_the_last_for_the_oom_killer_and_have_room_for_descriptors_and_workers_have_what_was_there_before() {
    let case = Case::new();
    let config = case.config(&misbehaving("web", &["sleep"], &[]));
    let pinfold = case.pinfold("up");
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -Sn 300 && exec \"$0\" \"$@\""]).arg(pinfold.get_program()).args(pinfold.get_args());
    limited.arg(config).envs(case.mark()).current_dir("/");
    let mut up = Up::spawn(&mut limited);
    let web = up.started("web", 1);
    let files = |process: &Process| {
        let text = process.file("limits");
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[3].to_owned(), words[4].to_owned())
    };
    let hard = files(&web).1;
    // Without the privilege (CAP_SYS_RESOURCE), which not every container's root has, all is as it was.
    let may = finish(Command::new("/bin/sh").args(["-c", "echo -900 > /proc/self/oom_score_adj"])).code == Some(0);
    let spared = if may { "-900" } else { "0" };
    for leaf in ["keeper", "supervisor", "logger"] {
        let role = case.role(leaf);
        assert_eq!(role.file("oom_score_adj").trim(), spared, "{leaf}");
        assert_eq!(files(&role), (hard.clone(), hard.clone()), "{leaf}");
    }
    assert_eq!(web.file("oom_score_adj").trim(), "0");
    assert_eq!(files(&web), ("300".into(), hard));
    // One that follows is as protected as the first.
    case.role("supervisor").signal(Signal::KILL);
    up.wait_for(
        "the next one",
        |e| matches!(&e.kind, EventKind::Supervisor { what } if what.contains("started again")),
    );
    assert_eq!(case.role("supervisor").file("oom_score_adj").trim(), spared);
    up.signal(Signal::TERM);
    end_of_a_replaced_supervisor(&mut up);
}

#[test]
fn a_service_manager_is_told_how_workers_do_at_most_once_a_second_and_nothing_while_nothing_happens() {
    let case = Case::alone();
    let socket = case.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let hear = |within: Duration| {
        manager.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 4096];
        let n = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    };
    let flapping = "restart: {policy: always, max_retries: 0, retry_delay: 20ms, backoff_rate: 1, jitter: 0}";
    let workers = worker("a", &["/bin/sleep", "1000"], &[]) + &worker("flap", &["/bin/sleep", "0.02"], &[flapping]);
    let mut up = Up::spawn(case.pinfold("up").arg(case.config(&workers)).env("NOTIFY_SOCKET", &socket));
    let ready = hear(patience()).expect("READY");
    assert!(ready.starts_with("READY=1\nSTATUS=") && ready.contains(" of 2 workers running"), "{ready}");

    let begun = clock::monotonic();
    let mut told = Vec::new();
    while clock::monotonic().since(begun) < 4 * 1000 * MS {
        told.extend(hear(500 * MS));
    }
    assert!(told.iter().all(|text| text.starts_with("STATUS=") && text.lines().count() == 1), "{told:?}");
    assert!(told.len() <= 5, "four seconds are five lines at the most: {told:?}");
    case.ask("stop", &["flap"]);
    let last = loop {
        let text = hear(patience()).expect("the last word on it");
        if text == "STATUS=1 of 2 workers running" {
            break text;
        }
    };
    assert_eq!(hear(2 * 1000 * MS), None, "nothing happens: {last}");
    up.signal(Signal::TERM);
    let end = hear(patience()).expect("the end");
    assert_eq!(end, "STOPPING=1\nSTATUS=stopping every worker");
    assert_eq!(up.end().code, Some(0));
}

#[test]
fn in_the_journal_each_line_has_its_priority_and_no_time_of_its_own() {
    use std::os::unix::fs::MetadataExt;
    let case = Case::new();
    let path = case.dir.path().join("journal");
    let journal = fs::File::options().create(true).append(true).open(&path).unwrap();
    let meta = journal.metadata().unwrap();
    let config = case.config(&worker("w", &["/bin/sleep", "1000"], &[]));
    let mut command = case.pinfold("up");
    command.arg(config).env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())).env("PINFOLD_LOG", "info");
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(journal);
    let mut up = command.spawn().unwrap();
    let first = case.role("supervisor");
    wait_until("it runs", || fs::read_dir(case.run_dir("w", 1)).ok().map(drop));
    first.signal(Signal::KILL);
    let said = || fs::read_to_string(&path).unwrap();
    let gone = "<4>pinfold keeper: the supervisor is gone, ended by signal 9; the workers are untouched\n";
    wait_until("the keeper's word", || said().contains(gone).then_some(()));
    assert!(said().lines().all(|line| line.starts_with('<')), "{}", said());
    wait_until("the next one", || (finish(case.pinfold("count").arg("w")).stdout == "1\n").then_some(()));
    case.ask("down", &[]);
    assert!(up.wait().unwrap().success());
}
