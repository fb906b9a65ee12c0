//! Starts, ends and signals: no controller is needed.

use std::time::{Duration, Instant};

use pinfold::model::{ExitCause, KilledBy, Stage};
use rustix::process::Signal;

use crate::command::Bench;
use crate::fixture::wait_until;

#[test]
fn the_commands_code_is_ours() {
    let bench = Bench::new();
    for code in [0, 1, 3, 124, 125, 126, 127, 128, 137, 255] {
        let outcome = bench.run(&["--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(outcome.code, code);
        assert_eq!(outcome.report.cause, ExitCause::Exited { code });
        assert_eq!(outcome.err, "", "an end of its own needs no words");
    }
}

#[test]
fn a_signal_is_128_and_its_number_real_time_ones_too() {
    let bench = Bench::new();
    for signal in [1, 2, 3, 6, 11, 15, 34, 64] {
        let outcome = bench.run(&["--", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(outcome.code, 128 + signal, "{}", outcome.err);
        assert!(matches!(outcome.report.cause, ExitCause::Signaled { signal: s, .. } if s == signal));
    }
    let outcome = bench.run(&["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!((outcome.code, outcome.report.cause), (137, ExitCause::KilledExternal));
    assert!(outcome.err.starts_with("pinfold: killed by a SIGKILL from outside"), "{}", outcome.err);
}

#[test]
fn the_command_is_in_its_cgroup_before_it_begins_and_has_our_streams() {
    let bench = Bench::new();
    let outcome = bench.run(&["--", "sh", "-c", "grep 0:: /proc/self/cgroup; echo words >&2"]);
    let name = bench.place.dir.name();
    assert!(outcome.out.starts_with(&format!("0::/{name}/runs/sh.")), "{}", outcome.out);
    assert_eq!(outcome.err, "words\n");
    assert!(outcome.report.cgroup.ends_with(outcome.out.trim_end().rsplit('/').next().unwrap()));
}

#[test]
fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let bench = Bench::new();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--", "no-such-program"], 127, "could not start: exec no-such-program"),
        (&["--", "/no/such/program"], 127, "could not start: exec /no/such/program: No such file or directory"),
        (&["--", "/etc/passwd"], 126, "could not start: exec /etc/passwd: Permission denied"),
        (&["-w", "/no/such", "--", "true"], 125, "could not start: chdir /no/such: No such file or directory"),
        (
            &["--env-file", "/no/such", "--", "true"],
            125,
            "could not start: env_file /no/such: No such file or directory",
        ),
        (&["-u", "nosuchuser", "--", "true"], 125, "could not start: user: there is no user \"nosuchuser\""),
    ];
    for (args, code, sentence) in cases {
        let outcome = bench.run(args);
        assert_eq!(outcome.code, code, "{args:?}: {}", outcome.err);
        assert!(outcome.err.starts_with(&format!("pinfold: {sentence}")), "{args:?}: {}", outcome.err);
        assert!(matches!(outcome.report.cause, ExitCause::StartFailed { .. }));
    }
}

#[test]
fn a_script_without_its_interpreter_names_the_interpreter() {
    let bench = Bench::new();
    let script = bench.scratch.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let outcome = bench.run(&["--", script.to_str().unwrap()]);
    assert_eq!(outcome.code, 127);
    assert!(outcome.err.contains("/no/such/interpreter"), "{}", outcome.err);
    assert_eq!(outcome.report.start_error.unwrap().stage, Stage::Exec);
}

#[test]
fn environment_directory_and_user_are_as_asked_for() {
    let bench = Bench::new();
    let file = bench.scratch.path().join("env");
    std::fs::write(&file, "A=file\nB=file\n").unwrap();
    let outcome = bench.run(&[
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "B=flag",
        "-w",
        "/usr",
        "-u",
        "nobody",
        "--",
        "sh",
        "-c",
        "echo $A $B $(pwd) $(id -un) $HOME",
    ]);
    assert_eq!(outcome.out, "file flag /usr nobody /nonexistent\n", "{}", outcome.err);
}

#[test]
fn what_the_command_leaves_behind_is_ended_with_it() {
    let bench = Bench::new();
    // Two of them: one that obeys, one in a session of its own.
    let outcome = bench.run(&["--", "sh", "-c", "sleep 1000 & setsid sleep 1001 & exit 4"]);
    assert_eq!(outcome.code, 4);
    assert!(!outcome.report.leftover);
}

#[test]
fn what_is_left_and_ignores_sigterm_is_killed_at_the_stop_timeout() {
    let bench = Bench::new();
    let began = Instant::now();
    let fifo = bench.scratch.path().join("fifo").display().to_string();
    // It says that it ignores the signal before the command ends.
    let left = &format!("mkfifo {fifo}; (trap '' TERM; echo >{fifo}; exec sleep 1000) & read x <{fifo}; exit 5");
    let outcome = bench.run(&["--stop-timeout", "300ms", "--", "sh", "-c", left]);
    assert_eq!(outcome.code, 5);
    assert!(began.elapsed() >= Duration::from_millis(300), "it had its time");
}

#[test]
fn a_timeout_is_124_however_the_command_takes_it() {
    let bench = Bench::new();
    let outcome = bench.run(&["--timeout", "200ms", "--", "sleep", "1000"]);
    assert_eq!(outcome.code, 124);
    assert_eq!(outcome.err, "pinfold: stopped at its timeout of 200ms: it ended by SIGTERM\n");
    assert!((200..5000).contains(&outcome.report.wall_ms), "{}", outcome.report.wall_ms);
    let by = ExitCause::Killed { by: KilledBy::Policy, policy: Some("timeout".into()) };
    assert_eq!(outcome.report.cause, by);

    // Long enough for a slow machine to get to the trap.
    let script = "trap '' TERM; sleep 1000 & wait; wait";
    let stubborn = &["--timeout", "2s", "--stop-timeout", "200ms", "--", "sh", "-c", script];
    let outcome = bench.run(stubborn);
    assert_eq!(outcome.code, 124);
    assert_eq!(outcome.err, "pinfold: stopped at its timeout of 2s: killed, still there 200ms after SIGTERM\n");
}

#[test]
fn a_term_to_us_asks_the_command_with_its_stop_signal() {
    let bench = Bench::new();
    let script = "trap 'echo int; exit 9' INT; echo ready; while :; do sleep 1000 & wait; done";
    let mut run = bench.start(&["--stop-signal", "INT", "--", "sh", "-c", script]);
    run.signal(Signal::TERM);
    assert_eq!(run.line(), "int");
    let outcome = run.end();
    assert_eq!((outcome.code, outcome.report.cause), (9, ExitCause::Exited { code: 9 }));
}

#[test]
fn a_command_that_obeys_a_stop_is_killed_by_it() {
    let bench = Bench::new();
    let run = bench.start(&["--", "sh", "-c", "echo ready; exec sleep 1000"]);
    run.signal(Signal::TERM);
    let outcome = run.end();
    assert_eq!(outcome.code, 143);
    assert_eq!(outcome.report.cause, ExitCause::Killed { by: KilledBy::Stop, policy: None });
    assert_eq!(outcome.err, "pinfold: stopped on request: ended by SIGTERM\n");
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let bench = Bench::new();
    let script = "trap 'echo int' INT; echo ready; while :; do sleep 1000 & wait; done";
    let mut run = bench.start(&["--", "sh", "-c", script]);
    run.signal(Signal::INT);
    assert_eq!(run.line(), "int", "the first is passed on");
    run.signal(Signal::INT);
    let outcome = run.end();
    assert_eq!(outcome.code, 137);
    assert_eq!(outcome.report.cause, ExitCause::Killed { by: KilledBy::Operator, policy: None });
}

#[test]
fn a_command_that_ignores_the_stop_is_killed_at_its_timeout() {
    let bench = Bench::new();
    let script = "trap '' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let run = bench.start(&["--stop-timeout", "300ms", "--", "sh", "-c", script]);
    let began = Instant::now();
    run.signal(Signal::TERM);
    let outcome = run.end();
    let took = began.elapsed();
    assert_eq!(outcome.code, 137);
    assert_eq!(outcome.report.cause, ExitCause::Killed { by: KilledBy::StopTimeout, policy: None });
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_hangup_is_the_commands_to_handle() {
    let bench = Bench::new();
    let script = "trap 'echo reload' HUP; trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let mut run = bench.start(&["--stop-timeout", "20s", "--", "sh", "-c", script]);
    for _ in 0..2 {
        run.signal(Signal::HUP);
        assert_eq!(run.line(), "reload");
    }
    run.signal(Signal::TERM);
    let outcome = run.end();
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.report.cause, ExitCause::Killed { by: KilledBy::Stop, policy: None });
}

#[test]
fn nohup_keeps_its_meaning() {
    let bench = Bench::new();
    let script = "trap 'echo hup' HUP; trap 'echo usr; exit 3' USR1; echo ready; while :; do sleep 1000 & wait; done";
    let wrapped =
        format!("trap '' HUP; exec \"$0\" run --cgroup-root \"$1\" -- sh -c '{}'", script.replace('\'', "'\\''"));
    let mut child = std::process::Command::new("sh")
        .args(["-c", &wrapped, env!("CARGO_BIN_EXE_pinfold")])
        .arg(bench.place.dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    std::io::BufRead::read_line(&mut out, &mut text).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    for signal in [Signal::HUP, Signal::USR1] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    assert_eq!(text, "ready\nusr\n", "the hangup was not passed on, the signal after it was");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    bench.assert_empty();
}

#[test]
fn killed_itself_a_run_leaves_its_command_fenced() {
    let bench = Bench::new();
    let mut run = bench.start(&["--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let runs = bench.runs();
    assert_eq!(runs.len(), 1);
    let dir = bench.place.dir.open_below("runs").unwrap().open_below(&runs[0]).unwrap();
    let namespace = pinfold::kernel::cgroup::Namespace::probe(&dir);
    let note = || pinfold::kernel::note::read(&dir, namespace).unwrap().expect("the record is older than the command");
    assert!(wait_until(|| note().pid.is_some()));

    run.child.kill().unwrap();
    run.child.wait().unwrap();
    assert!(dir.populated().unwrap(), "as documented: it lives on in its cgroup");
    assert_eq!(note().pid, dir.processes().unwrap().first().copied(), "and its record says who it is");
    pinfold::kernel::cgroup::kill::kill(&dir).unwrap();
    assert!(wait_until(|| !dir.populated().unwrap()));
}

#[test]
fn many_runs_in_one_place_do_not_touch_each_other() {
    let bench = Bench::new();
    let root = bench.place.dir.path().display().to_string();
    let run = |n: i32| {
        std::process::Command::new(env!("CARGO_BIN_EXE_pinfold"))
            .args(["run", "--cgroup-root", &root, "--", "sh", "-c", &format!("exit {n}")])
            .spawn()
            .unwrap()
    };
    let mut children: Vec<_> = (0..40).map(|n| (n, run(n))).collect();
    for (n, child) in &mut children {
        assert_eq!(child.wait().unwrap().code(), Some(*n));
    }
    bench.assert_empty();
}

#[test]
fn a_report_that_cannot_be_written_is_our_failure_and_says_what_came_out() {
    let bench = Bench::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pinfold"))
        .args(["run", "--report", "/no/such/dir/x", "--cgroup-root"])
        .arg(bench.place.dir.path())
        .args(["--", "sh", "-c", "exit 3"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("cannot write the report /no/such/dir/x (the command came to 3)"), "{err}");
}
