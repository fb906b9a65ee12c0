//! `pinfold run` as a job of a real shell on a real terminal: what Ctrl-C, Ctrl-Z and a new window size do. As root on
//! any host with cgroup2. Nothing waits for a while: each step waits for what it must bring about.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test's support fails as a test does")]
#![allow(dead_code, reason = "the fixture is shared with the kernel's tests")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks and wait for their own children")]

#[path = "kernel/fixture.rs"]
mod fixture;
#[path = "tty/terminal.rs"]
mod terminal;

use fixture::Place;
use terminal::Shell;

/// Prints READY when it listens. Typed lines show on the terminal too, so no marker may be in them as it is printed.
const READY: &str = "printf REA%s. DY";

fn shell(place: &Place) -> Shell {
    Shell::start(&format!("{} run --cgroup-root {}", env!("CARGO_BIN_EXE_pinfold"), place.dir.path().display()))
}

#[test]
fn ctrl_c_is_the_commands_own_however_often() {
    let place = Place::new();
    let mut shell = shell(&place);
    // Were it ours too, the second one would have killed the command.
    shell.line(&format!(
        "run -- sh -c 'n=0; trap \"n=\\$((n+1)); echo INT-\\$n.\" INT; {READY}; \
         while :; do read line && exit 7; done'"
    ));
    shell.expect("READY.");
    for n in 1..=3 {
        shell.press(b"\x03");
        shell.expect(&format!("INT-{n}."));
    }
    shell.line("go");
    shell.expect_code(7);
}

#[test]
fn a_command_that_ctrl_c_ends_ends_the_run_without_a_word() {
    let place = Place::new();
    let mut shell = shell(&place);
    shell.line(&format!("run -- sh -c '{READY}; exec sleep 1000'"));
    shell.expect("READY.");
    shell.press(b"\x03");
    let said = shell.expect_code(130);
    assert!(!said.contains("pinfold:"), "{said}");
}

#[test]
fn the_command_sees_a_new_window_size() {
    let place = Place::new();
    let mut shell = shell(&place);
    shell.line(&format!("run -- sh -c 'trap \"stty size\" WINCH; {READY}; while :; do read line && exit 0; done'"));
    shell.expect("READY.");
    shell.resize(33, 101);
    shell.expect("33 101");
    shell.line("go");
    shell.expect_code(0);
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on_with_the_terminal() {
    let place = Place::new();
    let mut shell = shell(&place);
    shell.line(&format!(
        "run -- sh -c 'trap \"printf CON%s. T\" CONT; {READY}; \
         while :; do read line && break; done; printf \"got %s\\n\" \"<$line>\"; exit 4'"
    ));
    shell.expect("READY.");
    for _ in 0..3 {
        shell.press(b"\x1a");
        shell.expect("Stopped");
        // The shell has its terminal back, and what is stopped is the whole run.
        shell.line("echo \"shell $((40 + 2))\"");
        shell.expect("shell 42");
        shell.line("fg");
        // SIGCONT takes a Ctrl-Z that came before it with it, for any job (signal(7)): pressed once it runs again.
        shell.expect("CONT.");
    }
    shell.line("hello");
    shell.expect("got <hello>");
    shell.expect_code(4);
}

#[test]
fn a_background_job_that_reads_is_stopped_and_reads_after_fg() {
    let place = Place::new();
    let mut shell = shell(&place);
    shell.line(&format!("run -- sh -c '{READY}; read line; printf \"got %s\\n\" \"<$line>\"; exit 5' &"));
    shell.expect("READY.");
    // SIGTTIN stopped the command, the command's stop stopped the run; the shell reports it before its next prompt.
    shell.until("jobs", "Stopped");
    shell.line("fg");
    shell.expect("run --cgroup-root");
    shell.line("late");
    shell.expect("got <late>");
    shell.expect_code(5);
}

#[test]
fn bg_lets_a_stopped_command_go_on_without_the_terminal() {
    let place = Place::new();
    let mut shell = shell(&place);
    let fifo = place_fifo(&place);
    shell.line(&format!("run -- sh -c '{READY}; read line <{fifo}; printf \"got %s\\n\" \"<$line>\"; exit 6'"));
    shell.expect("READY.");
    shell.press(b"\x1a");
    shell.expect("Stopped");
    shell.line("bg");
    shell.line(&format!("echo word >{fifo}; wait; echo \"wait $?\""));
    shell.expect("got <word>");
    std::fs::remove_file(&fifo).unwrap();
}

#[test]
fn the_members_of_a_pipeline_keep_the_terminal() {
    let place = Place::new();
    let mut shell = shell(&place);
    // A pager reads its keys from the terminal; ctrl-c then ends both.
    shell.line(
        "run -- sh -c 'echo page; exec sleep 1000' | \
         sh -c 'read a; printf \"pager %s\\n\" \"<$a>\"; read b </dev/tty; printf \"key %s\\n\" \"<$b>\"; cat'",
    );
    shell.expect("pager <page>");
    shell.line("q");
    shell.expect("key <q>");
    shell.press(b"\x03");
    shell.line("echo \"codes ${PIPESTATUS[*]}\"");
    shell.expect("codes 130");
}

#[test]
fn the_terminal_is_given_back_to_a_shell_without_job_control() {
    let place = Place::new();
    let mut shell = shell(&place);
    // Such a shell does not take it back itself: a read from the background would fail.
    shell.line(
        "sh -c \"$RUN -- sh -c 'kill -9 \\$\\$'; echo code-\\$?; read line; printf 'got %s\\n' \\\"<\\$line>\\\"\"",
    );
    shell.expect("code-137");
    shell.line("mine");
    shell.expect("got <mine>");
}

fn place_fifo(place: &Place) -> String {
    let path = std::env::temp_dir().join(format!("{}.fifo", place.dir.name()));
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    path.display().to_string()
}
