//! The control socket from outside: what a person types beside a running supervisor, what a program reads, and who may.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use pinfold::{
    clock,
    model::{EventKind, ExitCause, KilledBy, State},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Case, PINFOLD, misbehaving, parameter, patience, public_place,
    run::{Ran, finish},
    up::{Up, is},
    wait_until, worker,
};

const NOBODY: u32 = 65534;

/// `pinfold ARGS`, beside the supervisor of `case`.
fn pinfold(case: &Case, args: &[&str]) -> Ran {
    finish(case.pinfold(args[0]).args(&args[1..]))
}

/// The same with `-o json`, which must be one document.
fn json(case: &Case, args: &[&str]) -> (Option<i32>, Value) {
    let ran = pinfold(case, &[args, &["-o", "json"]].concat());
    let document = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {ran:?}"));
    (ran.code, document)
}

/// What it says on stdout, where it ends with `code`.
fn says(case: &Case, args: &[&str], code: i32) -> String {
    let ran = pinfold(case, args);
    assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
    ran.stdout
}

/// What it complains about, in one line, where it ends with `code` and has nothing else to say.
fn complains(case: &Case, args: &[&str], code: i32) -> String {
    let ran = pinfold(case, args);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(code), "", 1), "{args:?}: {ran:?}");
    ran.stderr
}

/// The columns of `name`'s line in what `ps` says.
fn row(table: &str, name: &str) -> Option<Vec<String>> {
    let words = |line: &str| line.split("  ").map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = table.lines().skip(1).map(words).collect();
    rows.into_iter().find(|row| row.first().is_some_and(|first| first == name))
}

fn socket(case: &Case) -> PathBuf {
    case.dir.path().join("run/api.sock")
}

/// Two instances, one that fails, one that ignores SIGTERM and one that is not enabled.
fn shop(case: &Case) -> Up {
    shop_with(case, "2s")
}

/// The same, where the one that ignores SIGTERM has so long.
fn shop_with(case: &Case, timeout: &str) -> Up {
    let told = case.file("told");
    let mut workers = misbehaving("web", &["sleep"], &[]) + "    instances: 2\n";
    workers += &worker("crash", &["/bin/sh", "-c", "echo out of ideas >&2; exit 3"], &[]);
    workers += &misbehaving("deaf", &["ignore-term", &told], &[&format!("stop: {{timeout: {timeout}}}")]);
    workers += &(misbehaving("off", &["sleep"], &[]) + "    enabled: false\n");
    let mut up = Up::start(case, &workers);
    up.state("web-1", State::Running, "ready");
    up.state("web-2", State::Running, "ready");
    up.state("crash", State::Stopped, "failed");
    case.wait_told("told", "pid ");
    up
}

// --- a newcomer's path ---------------------------------------------------------

#[test]
fn a_newcomer_looks_around() {
    let case = Case::new();
    let mut up = shop(&case);
    let main = up.started("web-1", 1);

    let table = says(&case, &["ps"], 0);
    assert_eq!(row(&table, "web-1").unwrap()[..3], ["web-1", "running", &main.pid.to_string()], "{table}");
    let crash = row(&table, "crash").expect("what failed is of interest");
    assert!(crash.contains(&"stopped (failed)".to_owned()) && crash.contains(&"exited 3".to_owned()), "{table}");
    assert_eq!(row(&table, "off"), None, "what rests is not");
    assert!(row(&says(&case, &["ps", "-a"], 0), "off").unwrap().contains(&"stopped (never)".to_owned()));
    assert_eq!(says(&case, &["ps", "-q", "web"], 0), "web-1\nweb-2\n");
    let names: Value = serde_json::from_str(&says(&case, &["ps", "-q", "-o", "json", "web"], 0)).unwrap();
    assert_eq!(names, json!(["web-1", "web-2"]));
    let (_, list) = json(&case, &["ps", "-a"]);
    let ids: Vec<&str> = list["workers"].as_array().unwrap().iter().map(|w| w["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["web-1", "web-2", "crash", "deaf", "off"], "in the order of their declaration");
    assert_eq!(list["workers"][0]["pid"], main.pid);
    assert!(list["workers"][0]["usage"]["cpu_usec"].is_u64(), "cpu.stat needs no controller: {list}");

    assert!(says(&case, &["status", "web-1"], 0).starts_with("web-1 is running, since "));
    assert!(says(&case, &["status", "crash"], 3).starts_with("crash is stopped (failed), since "));
    let (code, status) = json(&case, &["status", "crash"]);
    assert_eq!((code, &status["cause"]["kind"], &status["cause"]["code"]), (Some(3), &"exited".into(), &3.into()));

    assert_eq!(says(&case, &["count"], 0), "3\n");
    assert_eq!(says(&case, &["count", "web"], 0), "2\n");
    assert_eq!(json(&case, &["count", "crash"]).1, serde_json::json!({"running": 0, "workers": 1}));

    let why = says(&case, &["why", "crash"], 0);
    assert!(why.starts_with("crash: exited with code 3\n"), "{why}");
    let file = case.dir.path().join("state/logs/crash/1.stderr");
    assert!(why.contains(file.to_str().unwrap()), "it says where its last words are: {why}");
    assert_eq!(fs::read_to_string(file).unwrap(), "out of ideas\n");
    let (_, why) = json(&case, &["why", "crash"]);
    assert_eq!(why["exited"]["evidence"]["status"], serde_json::json!({"kind": "exited", "code": 3}));
    assert_eq!(why["decisions"].as_array().unwrap().last().unwrap()["kind"], "decision");
    assert!(says(&case, &["why", "web-1"], 0).contains("has not ended"));
    up.stop();
}

#[test]
fn whoever_watches_is_told_of_each_change_and_of_the_end() {
    let case = Case::new();
    let mut up = shop(&case);
    let mut command = case.pinfold("ps");
    command.args(["-w", "-o", "json", "web*,off"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut told = |id: &str, state: &str, run: u64| {
        loop {
            let line = lines.next().expect("it goes on").unwrap();
            let worker: Value = serde_json::from_str(&line).unwrap();
            assert_ne!(worker["id"], "off", "what rests, and has rested, is no news: {line}");
            if (&worker["id"], &worker["state"], &worker["run"]) == (&id.into(), &state.into(), &run.into()) {
                return;
            }
        }
    };
    told("web-1", "running", 1);
    told("web-2", "running", 1);
    says(&case, &["restart", "web-2"], 0);
    told("web-2", "running", 2);
    says(&case, &["stop", "web-1"], 0);
    told("web-1", "stopped", 1);
    up.stop();
    // Its reader is told when there is nobody any more who could tell of changes.
    let ended = watch.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!([Some(1), Some(6)].contains(&ended.status.code()), "{said}");
    assert!(said.contains("supervisor"), "{said}");
}

#[test]
fn a_newcomer_takes_matters_into_his_own_hands() {
    let case = Case::new();
    let mut up = shop_with(&case, "1h");
    let first = up.started("web-1", 1);

    assert_eq!(says(&case, &["stop", "web-1"], 0), "web-1: stopped\n");
    assert!(!first.alive(), "it is waited for");
    assert_eq!(up.exited("web-1", 1), ExitCause::Killed { by: KilledBy::Stop, policy: None });
    assert!(says(&case, &["status", "web-1"], 3).contains("down, by somebody who asked for a stop"));
    assert_eq!(says(&case, &["stop", "web-1"], 0), "web-1: stopped\n", "once more is no error");

    let started = says(&case, &["start", "web-1"], 0);
    let second = up.started("web-1", 2);
    assert_eq!(started, format!("web-1: running, pid {}\n", second.pid));
    assert_eq!(says(&case, &["start", "web-1"], 0), started, "it runs already");

    let (code, results) = json(&case, &["restart", "web"]);
    let (third, other) = (up.started("web-1", 3), up.started("web-2", 2));
    assert_eq!((code, &results["results"][0]["pid"]), (Some(0), &third.pid.into()), "{results}");
    assert_eq!((&results["results"][1]["pid"], &results["results"][1]["run"]), (&other.pid.into(), &2.into()));
    assert!(!second.alive());

    assert_eq!(says(&case, &["signal", "usr1", "web-1"], 0), "web-1: SIGUSR1 sent\n");
    assert_eq!(up.exited("web-1", 3), ExitCause::Signaled { signal: 10, core: false }, "a signal is a signal, no stop");
    let refused = complains(&case, &["signal", "HUP", "crash"], 1);
    assert!(refused.contains("crash: it is not running"), "{refused}");

    assert_eq!(says(&case, &["reset", "crash"], 0), "crash: reset; now stopped (failed)\n");

    // One that ignores SIGTERM for an hour: the caller need not wait, and a kill does not.
    let late = complains(&case, &["stop", "deaf", "--timeout", "50ms"], 7);
    assert!(late.contains("deaf: not done in time: it is stopping (term), and goes on"), "{late}");
    assert!(says(&case, &["stop", "deaf", "--no-wait"], 0).starts_with("deaf: accepted; now stopping"));
    assert_eq!(says(&case, &["kill", "deaf"], 0), "deaf: stopped\n");
    assert!(matches!(up.exited("deaf", 1), ExitCause::Killed { .. }));
    assert!(says(&case, &["status", "deaf"], 3).contains("wish        down"), "a kill is as final as a stop");
    let (code, results) = json(&case, &["kill", "deaf", "web-1"]);
    assert_eq!((code, results["results"].as_array().unwrap().len()), (Some(0), 2));

    assert_eq!(says(&case, &["stop", "*"], 0).lines().count(), 5);
    assert_eq!(says(&case, &["count"], 0), "0\n");
    let asked = up.wait_for("who asked", |e| is(e, "off") && matches!(e.kind, EventKind::Operator { .. }));
    let EventKind::Operator { who, what } = asked.kind else { unreachable!() };
    assert!(who.starts_with("uid 0 (pid ") && what == "stop", "{what} by {who}");
    up.stop();
}

#[test]
fn every_setting_is_shown_with_what_the_kernel_says_and_where_it_is_written() {
    let case = Case::new();
    fs::write(case.dir.path().join("secrets"), "FROM_FILE=hunter2\n").unwrap();
    let unit = [
        &format!("env_file: {}", case.file("secrets")),
        "env: {PLAIN: text, EXPANDED: \"${PINFOLD_IT_SECRET}\"}",
        "working_directory: /tmp",
        "user: nobody",
        "limits: {process: {max_file_descriptors: 99}}",
        "health_check: {liveness: {initial_delay: 1h, http_get: {port: 1, http_headers: [{name: Authorization, value: x}]}}}",
    ];
    let config = case.config_with("defaults: {stop: {timeout: 3s}}\n", &misbehaving("web", &["sleep"], &unit));
    let mut up = Up::spawn(case.pinfold("up").arg(&config).env("PINFOLD_IT_SECRET", "hunter3"));
    let main = up.started("web", 1);

    let (code, shown) = json(&case, &["inspect", "web"]);
    assert_eq!((code, &shown["pid"], &shown["run"]), (Some(0), &main.pid.into(), &1.into()));
    assert_eq!(shown["cgroup"], case.run_dir("web", 1).to_str().unwrap());
    let of = |name: &str| {
        let found = shown["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {shown}")).clone()
    };
    let text = fs::read_to_string(&config).unwrap();
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    let files = of("limits.process.max_file_descriptors");
    assert_eq!((&files["requested"], &files["effective"]), (&"99".into(), &"99".into()), "{files}");
    let source = serde_json::json!({"kind": "worker", "file": config, "line": line("max_file_descriptors")});
    assert_eq!((&files["read_from"], &files["source"]), (&"Max open files".into(), &source));
    assert_eq!((&of("user")["requested"], &of("user")["effective"]), (&"nobody".into(), &NOBODY.to_string().into()));
    assert_eq!(of("working_directory")["effective"], "/tmp");
    let timeout = serde_json::json!({"kind": "defaults", "file": config, "line": line("defaults:")});
    assert_eq!((&of("stop.timeout")["requested"], &of("stop.timeout")["source"]), (&"3s".into(), &timeout));
    let mode = serde_json::json!({"name": "stop.kill_mode", "requested": "mixed", "source": {"kind": "default"}});
    assert_eq!(of("stop.kill_mode"), mode);
    assert_eq!(of("env.PLAIN")["requested"], "text");
    assert_eq!(of("env.EXPANDED")["requested"], "${PINFOLD_IT_SECRET}", "as it is written");
    assert!(!shown.to_string().contains("hunter"), "{shown}");

    let table = says(&case, &["inspect", "web"], 0);
    assert_eq!(row(&table, "umask").unwrap(), ["umask", "0022", "umask 0022", "default"], "{table}");
    assert!(!table.contains("hunter"), "{table}");
    let nobody = complains(&case, &["inspect", "nobody"], 4);
    assert!(nobody.contains("there is no worker \"nobody\""), "{nobody}");

    let header = "health_check.liveness.http_get.http_headers[0].value";
    assert_eq!(of(header)["requested"], "x");

    // Whoever may only operate sees that there is a variable or a header, and not what is in it.
    let (_public, binary) = public_place(Path::new(PINFOLD));
    for path in [case.dir.path().to_owned(), case.dir.path().join("run"), socket(&case)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut operator = Command::new(binary);
    operator.args(["inspect", "web", "--socket"]).arg(socket(&case)).uid(NOBODY).gid(NOBODY).current_dir("/");
    let ran = finish(&mut operator);
    for secret in ["env.PLAIN", header] {
        assert_eq!(row(&ran.stdout, secret).unwrap()[1], "(withheld)", "{ran:?}");
    }

    assert_eq!(says(&case, &["stop", "web"], 0), "web: stopped\n");
    let (code, rests) = json(&case, &["inspect", "web"]);
    assert_eq!((code, &rests["pid"], &rests["cgroup"]), (Some(0), &Value::Null, &Value::Null));
    up.stop();
}

#[test]
fn a_start_that_fails_says_why_and_where_to_read_more() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("none", &["/no/such/program"], &[]));
    up.state("none", State::Stopped, "failed");
    let said = complains(&case, &["start", "none"], 1);
    assert!(said.contains("exec /no/such/program: No such file or directory; see `pinfold why none`"), "{said}");
    let (code, results) = json(&case, &["start", "none"]);
    assert_eq!((code, &results["results"][0]["code"]), (Some(1), &"start_failed".into()));
    assert!(says(&case, &["why", "none"], 0).contains("name a program that is there"));
    up.stop();
}

#[test]
fn an_open_breaker_refuses_a_restart_and_says_how_it_is_closed() {
    let case = Case::new();
    let mended = case.file("mended");
    let script = format!("test -e {mended} && exec sleep 1000; exit 3");
    let restart = "restart: {policy: on-failure, max_retries: 1, retry_delay: 0s, cooldown: hold}";
    let mut up = Up::start(&case, &worker("weak", &["/bin/sh", "-c", &script], &[restart]));
    up.state("weak", State::Stopped, "breaker_open");

    assert!(row(&says(&case, &["ps"], 0), "weak").unwrap().contains(&"stopped (breaker_open)".to_owned()));
    assert!(says(&case, &["status", "weak"], 3).contains("exit: open, until somebody closes it: 1 of 1 restarts used"));
    let why = says(&case, &["why", "weak"], 0);
    assert!(why.contains("held down") && why.ends_with("when that is mended: pinfold start weak\n"), "{why}");
    for args in [&["restart", "weak"][..], &["restart", "weak", "--no-wait"]] {
        let said = complains(&case, args, 8);
        assert!(said.contains("its restart breaker is open") && said.contains("pinfold reset weak"), "{said}");
    }
    let (code, results) = json(&case, &["restart", "weak"]);
    assert_eq!((code, &results["results"][0]["code"]), (Some(8), &"breaker_open".into()));

    fs::write(mended, "").unwrap();
    assert!(says(&case, &["restart", "--force", "weak"], 0).starts_with("weak: running"));
    assert_eq!(says(&case, &["count", "weak"], 0), "1\n");
    up.stop();
}

#[test]
fn a_reset_lets_go_of_what_the_breaker_held_down() {
    let case = Case::new();
    let mended = case.file("mended");
    let script = format!("test -e {mended} && exec sleep 1000; exit 3");
    let restart = "restart: {policy: on-failure, max_retries: 1, retry_delay: 0s, cooldown: hold}";
    let mut up = Up::start(&case, &worker("weak", &["/bin/sh", "-c", &script], &[restart]));
    up.state("weak", State::Stopped, "breaker_open");
    fs::write(mended, "").unwrap();
    assert!(says(&case, &["reset", "weak"], 0).starts_with("weak: reset; now "));
    let runs = || json(&case, &["ps", "weak"]).1["workers"][0]["state"] == "running";
    wait_until("it runs again", || runs().then_some(()));
    assert!(says(&case, &["status", "weak"], 0).starts_with("weak is running, since "));
    up.stop();
}

// --- what is not there, and who may not ----------------------------------------

#[test]
fn a_name_that_is_nobodys_is_told_and_nobody_is_asked() {
    let case = Case::new();
    let mut up = shop(&case);
    let web = up.started("web-1", 1);
    for args in [
        &["status", "nope"][..],
        &["why", "nope"],
        &["ps", "nope"],
        &["count", "nope*"],
        &["start", "nope"],
        &["stop", "web-1", "nope"],
        &["restart", "nope"],
        &["kill", "web-1,nope"],
        &["signal", "KILL", "nope"],
        &["reset", "web-3"],
        &["status", "../web-1"],
    ] {
        let said = complains(&case, args, 4);
        assert!(said.starts_with("pinfold: there is no worker "), "{args:?}: {said}");
        assert_eq!(complains(&case, &[args, &["-o", "json"]].concat(), 4), said);
    }
    assert!(complains(&case, &["status", "web"], 4).contains("web-1, web-2"), "it has instances");
    assert!(web.alive(), "of two names one was right: nothing was done");
    up.stop();
}

#[test]
fn without_a_supervisor_there_is_nobody_to_ask() {
    let case = Case::new();
    let said = complains(&case, &["ps"], 6);
    assert!(said.contains(socket(&case).to_str().unwrap()) && said.contains("pinfold up"), "{said}");
    let mut up = shop(&case);
    assert_eq!(says(&case, &["count"], 0), "3\n");
    up.stop();
    assert!(!socket(&case).exists(), "the socket goes with its supervisor");
    complains(&case, &["ps"], 6);
}

#[test]
fn only_root_and_the_sockets_group_may_ask() {
    let case = Case::new();
    let (public, binary) = public_place(Path::new(PINFOLD));
    let path = public.path().join("api.sock");
    let config = case.config(&misbehaving("web", &["sleep"], &[]));
    let mut up = Up::spawn(case.pinfold("up").arg(config).arg("--socket").arg(&path));
    let main = up.started("web", 1);
    wait_until("the socket is there", || path.exists().then_some(()));
    let file = fs::metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o7777, 0o660);

    let as_user = |uid: u32, gid: u32, args: &[&str]| {
        finish(Command::new(&binary).args(args).arg("--socket").arg(&path).uid(uid).gid(gid).current_dir("/"))
    };
    for args in [&["ps"][..], &["stop", "web"], &["kill", "web"]] {
        let ran = as_user(NOBODY, NOBODY, args);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(5), "", 1), "{ran:?}");
        assert!(ran.stderr.contains("only root and members of the socket's group may use"), "{ran:?}");
    }
    assert!(main.alive());
    // A member of the group is let in, and what he does is told of him.
    let ran = as_user(NOBODY, file.gid(), &["stop", "web"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "web: stopped\n"), "{ran:?}");
    let asked = up.wait_for("who asked", |e| is(e, "web") && matches!(e.kind, EventKind::Operator { .. }));
    let EventKind::Operator { who, .. } = asked.kind else { unreachable!() };
    assert!(who.starts_with(&format!("uid {NOBODY} (pid ")), "{who}");
    // What is for admins alone is not for him.
    let ran = as_user(NOBODY, file.gid(), &["reexec"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""), "{ran:?}");
    assert!(ran.stderr.contains("only root and the supervisor's own user may ask for /v1/reexec"), "{ran:?}");
    up.stop();
}

/// Stands between clients and the socket `real`: the first client's connection breaks when its answer has come, the second
/// client gets its own.
fn break_once(listener: &UnixListener, real: &Path) {
    for breaks in [true, false] {
        let (client, _) = listener.accept().unwrap();
        let there = UnixStream::connect(real).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), there.try_clone().unwrap());
        let asks = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut answers, mut client) = (there, client);
        if breaks {
            assert!(answers.read(&mut [0; 4096]).unwrap() > 0, "it is done by now");
            client.shutdown(Shutdown::Both).unwrap();
        } else {
            // Its end is the client's: it goes when it has what it asked for.
            std::io::copy(&mut answers, &mut client).ok();
        }
        answers.shutdown(Shutdown::Both).ok();
        client.shutdown(Shutdown::Both).ok();
        asks.join().unwrap().ok();
    }
}

#[test]
fn a_restart_whose_connection_broke_is_asked_again_and_done_once() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let between = case.dir.path().join("between.sock");
    let listener = UnixListener::bind(&between).unwrap();
    let broken = std::thread::spawn({
        let real = socket(&case);
        move || break_once(&listener, &real)
    });
    let ran = finish(case.pinfold("restart").args(["web", "-o", "json", "--socket"]).arg(&between));
    let told: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!((ran.code, &told["results"][0]["outcome"]), (Some(0), &"done".into()), "{ran:?}");
    broken.join().unwrap();
    assert_eq!(told["results"][0]["run"], 2);
    assert_eq!(json(&case, &["status", "web"]).1["run"], 2, "once, though it was asked twice");
    up.stop();
}

// --- the supervisor's own life ---------------------------------------------------

#[test]
fn a_supervisor_that_is_replaced_answers_again_about_the_same_process() {
    let case = Case::new();
    let mut up = shop(&case);
    let main = up.started("web-1", 1);
    let first = case.role("supervisor");
    first.signal(Signal::KILL);
    first.wait_gone("the killed supervisor");
    let table = wait_until("its successor answers", || {
        let ran = pinfold(&case, &["ps"]);
        // It answers once it has taken over what lives: whoever is answered sees it.
        (ran.code == Some(0)).then_some(ran.stdout)
    });
    assert_eq!(row(&table, "web-1").unwrap()[1..3], ["running", &main.pid.to_string()], "{table}");
    assert_eq!(says(&case, &["stop", "web-1"], 0), "web-1: stopped\n");
    up.signal(Signal::TERM);
    up.reap_killed();
    up.wait_silent();
    assert!(!socket(&case).exists());
}

#[test]
fn two_supervisors_do_not_share_a_socket() {
    let (one, other) = (Case::new(), Case::new());
    let mut up = Up::start(&one, &misbehaving("web", &["sleep"], &[]));
    up.state("web", State::Running, "ready");
    let config = other.config(&misbehaving("web", &["sleep"], &[]));
    let refused = finish(other.pinfold("up").arg(config).arg("--socket").arg(socket(&one)));
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("another supervisor listens at"), "{refused:?}");
    assert_eq!(says(&one, &["count"], 0), "1\n", "the first goes on");
    up.stop();
}

#[test]
fn what_goes_down_can_be_watched_and_hurried_and_starts_nothing() {
    let case = Case::new();
    let told = case.file("told");
    let workers =
        misbehaving("deaf", &["ignore-term", &told], &["stop: {timeout: 1h}"]) + &misbehaving("brisk", &["sleep"], &[]);
    let mut up = Up::start(&case, &workers);
    case.wait_told("told", "pid ");
    up.state("brisk", State::Running, "ready");
    up.signal(Signal::TERM);
    up.state("brisk", State::Stopped, "stopped");
    let said = complains(&case, &["start", "brisk"], 1);
    assert!(said.contains("the supervisor is going down and starts nothing any more"), "{said}");
    assert!(says(&case, &["status", "deaf"], 3).starts_with("deaf is stopping (term)"));
    assert_eq!(
        says(&case, &["kill", "deaf"], 0),
        "deaf: stopped\n",
        "the end that it brings about waits for its answer"
    );
    let ended = up.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

// --- clients that are no help --------------------------------------------------

#[test]
fn clients_that_break_off_or_talk_nonsense_leave_nothing_behind() {
    let case = Case::new();
    let mut up = shop(&case);
    let supervisor = case.role("supervisor");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", supervisor.pid)).unwrap().count();
    says(&case, &["ps"], 0);
    let before = descriptors();
    let huge = format!("GET /v1/workers HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let nonsense = [
        "",
        "\0\0\0\0",
        "GET /v1/workers HTTP/1.1\r\nhost: x\r\n",
        "POST /v1/workers/web-1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        "POST /v1/workers/web-1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n{\"a\"",
        "GET /v1/workers HTTP/1.1\r\nhost: x\r\n\r\n",
        &huge,
    ];
    for _ in 0..30 {
        for said in nonsense {
            let mut client = UnixStream::connect(socket(&case)).unwrap();
            // It may have closed before it has heard all.
            drop(client.write_all(said.as_bytes()));
        }
    }
    wait_until("every descriptor is given back", || (descriptors() <= before).then_some(()));
    assert_eq!(says(&case, &["count", "web"], 0), "2\n", "what was asked by half is not done");
    up.stop();
}

// --- what it costs -----------------------------------------------------------------

/// One request on a connection that is kept, and its answer's body.
fn get(client: &mut BufReader<UnixStream>, path: &str) -> Vec<u8> {
    client.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    body
}

/// The slowest but one per cent of `reads` status reads, over all of `workers`.
fn p99(socket: &Path, workers: &[String], reads: usize) -> Duration {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut client = BufReader::new(stream);
    let mut took: Vec<Duration> = (0..reads)
        .map(|i| {
            let path = format!("/v1/workers/{}", workers[i % workers.len()]);
            let before = clock::monotonic();
            let body = get(&mut client, &path);
            assert!(!body.is_empty());
            clock::monotonic().since(before)
        })
        .collect();
    took.sort();
    took[reads * 99 / 100]
}

/// `PINFOLD_TEST_STOPPING` workers (50) that would take an hour each to die.
#[test]
fn a_status_is_read_as_fast_while_fifty_workers_are_stopping() {
    let case = Case::alone();
    let count = parameter("PINFOLD_TEST_STOPPING").unwrap_or(50);
    let told = case.file("told");
    // However long it is measured meanwhile: they are killed in the end.
    let workers =
        misbehaving("w", &["ignore-term", &told], &["stop: {timeout: 1h}"]) + &format!("    instances: {count}\n");
    let mut up = Up::start(&case, &workers);
    wait_until("all are up", || (case.told("told").len() == count).then_some(()));
    let names: Vec<String> = (1..=count).map(|i| format!("w-{i}")).collect();
    let measure = || p99(&socket(&case), &names, 1000);
    // The first warms up.
    measure();
    let before: Vec<Duration> = (0..5).map(|_| measure()).collect();
    says(&case, &["stop", "w", "--no-wait"], 0);
    // The best of them: what else this machine does is not asked about, and it may do much for a while.
    let idle = *before.iter().min().unwrap();
    let mut during = vec![measure()];
    while during.len() < 5 || (during.iter().min().unwrap() > &(idle * 2) && during.len() < 40) {
        during.push(measure());
    }
    let (_, list) = json(&case, &["ps"]);
    let still = list["workers"].as_array().unwrap().iter().filter(|w| w["state"] == "stopping").count();
    assert_eq!(still, count, "it was measured while they were stopping");
    let busy = during.iter().min().unwrap();
    let ratio = busy.as_secs_f64() / idle.as_secs_f64();
    eprintln!("p99 of a status read: idle {idle:?}, while {count} are stopping {busy:?}: {ratio:.2} x");
    assert!(ratio <= 2.0, "idle {before:?}, while stopping {during:?}");
    assert!(says(&case, &["kill", "*"], 0).lines().count() == count);
    up.stop();
}
