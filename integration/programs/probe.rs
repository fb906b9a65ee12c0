//! The small program that the tests on a real kernel supervise: one name, many ways to behave.
//!
//! It uses nothing of the crate and no runtime, so that it starts as fast as a program can.

use std::io::{Read, Write};
use std::process::ExitCode;

use rustix::process::getpid;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<i64>().ok()).unwrap_or(0);
    match args.first().map(String::as_str) {
        Some("report-self") => report_self(),
        Some("exit") => return ExitCode::from(u8::try_from(number(1)).unwrap_or(255)),
        Some("signal") => signal_self(i32::try_from(number(1)).unwrap_or(0)),
        Some("sleep") => wait_for_ever(),
        Some("ignore-term") => {
            let mut mask = nix::sys::signal::SigSet::empty();
            mask.add(nix::sys::signal::Signal::SIGTERM);
            mask.thread_block().ok();
            println!("ignoring SIGTERM");
            wait_for_ever();
        }
        Some("double-fork") => return double_fork(),
        // Lines `0`, `1`, … as fast as they are taken, so that a missing or a doubled byte shows.
        Some("count") => return count(number(1)),
        // The same, one every N ms, until a write fails: then with the error's number.
        Some("tick") => return tick(number(1)),
        Some("cat") => return cat(),
        _ => {
            eprintln!("probe: how?");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// What a child finds itself to be, one fact a line.
fn report_self() {
    let mut open: Vec<String> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        // Our own look at the directory.
        if !target.ends_with("fd") {
            open.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    open.sort();
    println!("fds {}", open.join(" "));
    println!("stdin {}", std::fs::read_link("/proc/self/fd/0").unwrap_or_default().display());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for key in ["SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups", "Umask", "CapInh", "CapAmb", "CapEff"] {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
        println!("{key} {}", value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    println!("cgroup {}", cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default());
    let of = |what: Result<rustix::process::Pid, rustix::io::Errno>| match what {
        Ok(pid) if pid == getpid() => "own",
        _ => "another's",
    };
    println!("session {}", of(rustix::process::getsid(None)));
    println!("group {}", of(rustix::process::getpgid(None)));
    println!("foreground {}", of(rustix::termios::tcgetpgrp(std::io::stdin())));
    println!("cwd {}", std::env::current_dir().unwrap_or_default().display());
    println!("nice {}", rustix::process::getpriority_process(None).unwrap_or(99));
    println!("oom_score_adj {}", std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default().trim());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    println!("nofile {:?} {:?}", limit.current, limit.maximum);
    for (key, value) in std::env::vars() {
        println!("env {key}={value}");
    }
}

fn signal_self(signal: i32) {
    // The shell's kill knows every number; it signals us, its parent, by the number of a process that is alive.
    let done = std::process::Command::new("/bin/sh").args(["-c", &format!("kill -{signal} $PPID")]).status();
    drop(done);
    wait_for_ever();
}

fn wait_for_ever() {
    loop {
        rustix::event::pause();
    }
}

/// Leaves a grandchild in a session of its own, and ends.
fn double_fork() -> ExitCode {
    let script = "setsid sh -c 'echo $$; exec sleep 1000' &";
    let child = std::process::Command::new("/bin/sh").args(["-c", script]).status();
    if child.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn count(lines: i64) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = (0..lines).try_for_each(|n| writeln!(out, "{n}")).and_then(|()| out.flush());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tick(every_ms: i64) -> ExitCode {
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: every_ms * 1_000_000 };
    for n in 0.. {
        if let Err(e) = writeln!(std::io::stdout(), "{n}") {
            return ExitCode::from(u8::try_from(e.raw_os_error().unwrap_or(255)).unwrap_or(255));
        }
        rustix::event::poll(&mut [], Some(&pause)).ok();
    }
    ExitCode::SUCCESS
}

fn cat() -> ExitCode {
    let mut all = Vec::new();
    let done = std::io::stdin().read_to_end(&mut all).and_then(|_| std::io::stdout().write_all(&all));
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
