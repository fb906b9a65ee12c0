//! What the keeper reaps, keeps, passes on and costs.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::pidfd;
use pinfold::model::{ExitStatus, RunId};
use serde_bytes::ByteBuf;

use crate::support::{Bed, MISBEHAVE, launched, pause, plan, run, slow_plan, wait_for};

#[test]
fn every_exit_code_and_every_deadly_signal_is_told_and_kept_until_acknowledged() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let signals = (1..=64).filter(|s| !harmless.contains(s) && !stops.contains(s));
    let mut expected = BTreeMap::new();
    for code in 0..=255u8 {
        let run = run("exit", u32::from(code) + 1);
        bed.launch(&fake, &plan(&run, &[MISBEHAVE, "exit", &code.to_string()]));
        expected.insert(run, i32::from(code));
    }
    for signal in signals {
        let run = run("signal", u32::try_from(signal).unwrap());
        // A program that leaves every disposition as it finds it.
        bed.launch(&fake, &plan(&run, &["/bin/sleep", "1000"]));
        expected.insert(run, -signal);
    }
    let told = |status: ExitStatus| match status {
        ExitStatus::Exited { code } => code,
        ExitStatus::Signaled { signal, .. } => -signal,
    };
    let mut seen = BTreeMap::new();
    while seen.len() < expected.len() {
        match fake.next().0 {
            FromKeeper::Launched { run, .. } if run.worker.as_str() == "signal" => {
                let signal = i32::try_from(run.number).unwrap();
                fake.send(&ToKeeper::Signal { run, signal }, &[]);
            }
            FromKeeper::Launched { .. } => {}
            FromKeeper::Exited { run, status: Some(status), .. } => _ = seen.insert(run, told(status)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, expected);
    let listed = |all: Vec<FromKeeper>| -> BTreeMap<RunId, i32> {
        let each = all.into_iter().map(|message| match message {
            FromKeeper::Exited { run, status: Some(status), .. } => (run, told(status)),
            other => panic!("{other:?}"),
        });
        each.collect()
    };
    assert_eq!(listed(fake.list()), expected, "kept");
    for n in 1..=256 {
        fake.send(&ToKeeper::Ack { run: run("exit", n) }, &[]);
    }
    expected.retain(|run, _| run.worker.as_str() == "signal");
    assert_eq!(listed(fake.list()), expected, "forgotten only once acknowledged");
}

#[test]
fn strangers_are_reaped_and_no_zombie_stays() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("escape", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "double-fork"]));
    launched(fake.next().0);
    let path = bed.logs(&run).stdout;
    let orphan: i32 = wait_for("the grandchild", || std::fs::read_to_string(&path).ok()?.trim().parse().ok());
    let (FromKeeper::Exited { .. }, _) = fake.next() else { panic!() };
    let parent = || {
        let stat = std::fs::read_to_string(format!("/proc/{orphan}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    wait_for("the keeper as its parent", || (parent() == Some(bed.keeper_pid())).then_some(()));
    bed.tree.write("escape.1/cgroup.kill", "1");
    wait_for("its reaping", || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()));
}

#[test]
fn systemd_hears_the_supervisor_through_the_keeper_and_the_workers_never_get_its_socket() {
    let systemd = std::cell::OnceCell::new();
    let bed = Bed::start_with("into-cgroup", |command, dir| {
        let path = dir.join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        systemd.set(socket).unwrap();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "4000000");
    });
    let heard = || {
        let mut buffer = [0; 200];
        let n = systemd.get().unwrap().recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    let (mut fake, ..) = bed.greeted();
    fake.send(&ToKeeper::Notify { state: "READY=1\nSTATUS=up".into() }, &[]);
    wait_for("READY", || (heard() == "READY=1\nSTATUS=up").then_some(()));
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", fake.pid)).unwrap();
    assert!(environ.contains("PATH=") && !environ.contains("NOTIFY_SOCKET") && !environ.contains("WATCHDOG"));
    let begin = monotonic();
    // `next` answers pings; what ends it here is the worker's exit, told in between.
    bed.launch(&fake, &plan(&run("second", 1), &["/bin/sleep", "5"]));
    while !matches!(fake.next().0, FromKeeper::Exited { .. }) {}
    assert_eq!(heard(), "WATCHDOG=1");
    assert!(monotonic().since(begin) >= Duration::from_secs(5));
    // Silent from now on: replaced well before systemd's limit, which goes on being served meanwhile.
    let (_second, _, previous) = bed.greeted();
    assert_eq!(previous.as_deref(), Some("killed: it did not answer"));
}

#[test]
fn a_keeper_that_could_not_listen_holds_nothing_against_its_supervisor() {
    let bed = Bed::start_with("into-cgroup", |command, dir| {
        command.env("NOTIFY_SOCKET", dir.join("nobody")).env("WATCHDOG_USEC", "8000000");
    });
    let (mut fake, ..) = bed.greeted();
    let keeper = pidfd::open(bed.keeper_pid()).unwrap();
    let signal = |signal| pidfd::signal(keeper.as_fd(), signal).unwrap();
    let wait_state = |letter| {
        let is_so = || std::fs::read_to_string(format!("/proc/{}/stat", bed.keeper_pid())).unwrap().contains(letter);
        wait_for(letter, || is_so().then_some(()));
    };
    // It was said in time and is read late, or nobody could say anything: both stood still, frozen together.
    for said_in_time in [true, false] {
        let nonce = fake.asked();
        let asked = monotonic();
        signal(libc::SIGSTOP);
        wait_state(") T ");
        if said_in_time {
            fake.send(&ToKeeper::Pong { nonce }, &[]);
        }
        // A quarter of the watchdog's limit is its patience, and a second more is late.
        wait_for("its end of patience", || (monotonic().since(asked) > Duration::from_secs(4)).then_some(()));
        signal(libc::SIGCONT);
        wait_state(") S ");
        if !said_in_time {
            fake.send(&ToKeeper::Pong { nonce }, &[]);
        }
        assert_eq!(fake.list(), []);
        assert!(!bed.said().contains("is killed"), "{}", bed.said());
    }
}

#[test]
fn a_launch_that_has_executed_while_the_keeper_was_stopped_has_not_taken_too_long() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("late", 1);
    bed.launch(&fake, &slow_plan(&run));
    let child = wait_for("its process", || bed.tree.pids("late.1").first().copied());
    let tries = || procfs::process::Process::new(child).and_then(|p| p.stat()).is_ok_and(|stat| stat.stime > 1);
    wait_for("its tries", || tries().then_some(()));
    bed.tree.write("late.1/cgroup.freeze", "1");
    let keeper = pidfd::open(bed.keeper_pid()).unwrap();
    pidfd::signal(keeper.as_fd(), libc::SIGSTOP).unwrap();
    bed.tree.write("late.1/cgroup.freeze", "0");
    wait_for("its program", || {
        std::fs::read_link(format!("/proc/{child}/exe")).ok().filter(|exe| exe == Path::new(MISBEHAVE))
    });
    // Thirty seconds is what a launch may take.
    pause(30_000);
    pidfd::signal(keeper.as_fd(), libc::SIGCONT).unwrap();
    assert_eq!(launched(fake.next().0).0, run);
}

/// One thread, and at most 2 MB that the process alone costs: what it has written to, or made without a file
/// (`Private_Dirty` of `/proc/PID/smaps_rollup`, proc(5)). Pages of the binary are shared by the three roles and can be
/// dropped at any time.
#[test]
fn keeper_and_logger_have_one_thread_and_two_megabytes() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let mut started = 0;
    for n in 1..=200 {
        let mut plan = plan(&run("many", n), &[MISBEHAVE, "sleep"]);
        if n % 50 == 0 {
            // 1.5 MB of environment, in pieces that the kernel takes (MAX_ARG_STRLEN is 128 KiB).
            plan.env = (0..15).map(|i| ByteBuf::from(format!("K{i}={}", "x".repeat(100_000)))).collect();
        }
        bed.launch(&fake, &plan);
    }
    while started < 200 {
        launched(fake.next().0);
        started += 1;
    }
    for (who, pid) in [("keeper", bed.keeper_pid()), ("logger", bed.logger_pid())] {
        let field = |file: &str, key: &str| -> u64 {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        // Told before the plan's memory is given back.
        let private = wait_for("its memory", || Some(field("smaps_rollup", "Private_Dirty:")).filter(|kb| *kb <= 2048));
        println!("{who}: {private} kB private, {} kB Pss", field("smaps_rollup", "Pss:"));
        assert_eq!(field("status", "Threads:"), 1, "{who}");
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name.trim(), format!("pinfold-{who}"));
    }
}
