//! `GET /metrics` of a supervisor on a real kernel, held against the judges of the formats: promtool and Python's parser of
//! OpenMetrics.
#![allow(dead_code, reason = "the terminal is shared with another test program")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;
#[path = "tty/terminal.rs"]
mod terminal;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use pinfold::model::{ExitCause, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{
    Case,
    door::{series, text},
    judge::{asks, openmetrics_takes, promtool_takes},
    run::finish,
    up::Up,
    wait_until, worker,
};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// What is in no answer: a value of an environment.
const SECRET: &str = "hunter2-is-no-label";

/// What `/metrics` answers.
fn scrape(case: &Case, accept: &str) -> String {
    text(&case.socket(), "/metrics", accept)
}

fn fleet(case: &Case) -> String {
    let secrets = case.file("secrets");
    fs::write(&secrets, format!("TOKEN={SECRET}\n")).unwrap();
    let env = [format!("env: {{PASSWORD: {SECRET}}}"), format!("env_file: [{secrets}]")];
    let env: Vec<&str> = env.iter().map(String::as_str).collect();
    let never = "restart: {policy: never}";
    worker("web", &["/bin/sleep", "1000"], &env)
        + &worker("crash", &["/bin/sh", "-c", "exit 3"], &[never])
        + &worker("missing", &["/no/such/program"], &[never])
        + &worker(
            "flaps",
            &["/bin/sh", "-c", "exit 1"],
            &["restart: {max_retries: 1, retry_delay: 0s, cooldown: hold}"],
        )
}

/// `fleet`, with sinks whose names have to be escaped, when all has come to rest.
fn up(case: &Case) -> Up {
    let hostile = case.file("a \\\"b\\\" \\\\c {d=e} é");
    let top = format!("history: [{{type: jsonl, path: \"{hostile}\"}}]\n");
    let config = case.config_with(&top, &fleet(case));
    let mut up = Up::spawn(case.pinfold("up").arg(config));
    up.state("web", State::Running, "ready");
    up.state("crash", State::Stopped, "failed");
    up.state("missing", State::Stopped, "failed");
    up.state("flaps", State::Stopped, "breaker_open");
    up
}

#[test]
fn prometheus_takes_every_line_of_it() {
    let case = Case::new();
    let mut up = up(&case);
    let text = scrape(&case, "text/plain");
    promtool_takes(&text);
    let told = series(&text);
    for (name, value) in [
        ("pinfold_worker_running{worker=\"web\"}", 1.0),
        ("pinfold_worker_desired_up{worker=\"crash\"}", 1.0),
        ("pinfold_worker_state{worker=\"crash\",state=\"stopped\"}", 1.0),
        ("pinfold_worker_exits_total{worker=\"crash\",cause=\"exited\"}", 1.0),
        ("pinfold_worker_exits_total{worker=\"missing\",cause=\"start_failed\"}", 1.0),
        ("pinfold_worker_exits_total{worker=\"flaps\",cause=\"exited\"}", 2.0),
        ("pinfold_worker_restarts_total{worker=\"flaps\",class=\"exit\"}", 1.0),
        ("pinfold_worker_breaker_state{worker=\"flaps\",class=\"exit\",state=\"open\"}", 1.0),
        ("pinfold_store_degraded", 0.0),
        ("pinfold_scrape_unread_runs", 0.0),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}\n{text}");
    }
    assert!(told["pinfold_worker_cpu_usage_seconds_total{worker=\"web\"}"] > 0.0, "its cgroup was read");
    assert!(told["pinfold_decision_duration_seconds_count"] >= 4.0 && told["process_open_fds"] > 3.0);
    let decided: f64 =
        told.iter().filter(|(name, _)| name.starts_with("pinfold_decisions_total")).map(|(_, n)| n).sum();
    assert!((decided - told["pinfold_decision_duration_seconds_count"]).abs() < 0.5, "each decision is measured");
    let sink = told.keys().find(|name| name.starts_with("pinfold_history_sink_ok")).unwrap();
    assert!(sink.contains("a \\\"b\\\" \\\\c {d=e} é"), "{sink}");
    up.stop();
}

#[test]
fn openmetrics_is_what_its_parser_takes_and_says_the_same() {
    let case = Case::new();
    let mut up = up(&case);
    let (text, open) = (scrape(&case, "text/plain"), scrape(&case, OPENMETRICS));
    assert_eq!(openmetrics_takes(&open), series(&text).len(), "as many series as the other format has");
    up.stop();
}

#[test]
fn what_is_secret_is_in_no_label() {
    let case = Case::new();
    let mut up = up(&case);
    for accept in ["text/plain", OPENMETRICS] {
        let text = scrape(&case, accept);
        assert!(text.contains("web") && !text.contains(SECRET));
    }
    up.stop();
}

#[test]
fn a_counter_goes_on_over_runs_and_a_worker_that_is_removed_is_gone() {
    let case = Case::new();
    let busy = ["/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 1000"];
    let mut up = Up::start(&case, &(worker("busy", &busy, &[]) + &worker("other", &["/bin/sleep", "1000"], &[])));
    up.state("busy", State::Running, "ready");
    up.state("other", State::Running, "ready");
    let used = |case: &Case| {
        let text = scrape(case, "*/*");
        let told = series(&text);
        let at = |name: &str| told[&*format!("pinfold_worker_{name}")];
        (at("cpu_usage_seconds_total{worker=\"busy\"}"), at("exits_total{worker=\"busy\",cause=\"killed\"}"))
    };
    let (mut before, _) = used(&case);
    for killed in 1..=3 {
        let ran = case.ask("restart", &["busy"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let (now, exits) = used(&case);
        assert!(now >= before, "{now} after {before}");
        assert!((exits - f64::from(killed)).abs() < 0.5, "{exits} of {killed}");
        before = now;
    }
    case.config(&worker("busy", &busy, &[]));
    assert_eq!(case.ask("reload", &[]).code, Some(0));
    let text = scrape(&case, "*/*");
    assert!(text.contains("worker=\"busy\"") && !text.contains("worker=\"other\""), "{text}");
    up.stop();
}

#[test]
fn another_supervisor_counts_anew_and_says_that_it_is_another() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("web", &["/bin/sleep", "1000"], &[]));
    up.started("web", 1).signal(Signal::KILL);
    up.exited("web", 1);
    // Its directory has gone, so the end is in the store: a supervisor that is killed before that is followed by one that tells it again.
    up.state("web", State::Stopped, "failed");
    let before = scrape(&case, "*/*");
    let exits = "pinfold_worker_exits_total{worker=\"web\",cause=\"killed_external\"}";
    assert_eq!((series(&before)[exits], series(&before)["pinfold_supervisor_replaced"]), (1.0, 0.0));
    let supervisor = case.role("supervisor");
    supervisor.signal(Signal::KILL);
    supervisor.wait_gone("the killed supervisor");
    let after = wait_until("another supervisor answers", || {
        UnixStream::connect(case.socket()).ok()?;
        let text = scrape(&case, "*/*");
        (series(&text)["pinfold_supervisor_replaced"] > 0.5).then_some(text)
    });
    promtool_takes(&after);
    assert!(series(&after)[exits] < 0.5, "{after}");
    assert!(series(&after)["process_start_time_seconds"] > series(&before)["process_start_time_seconds"]);
    up.stop();
}

#[test]
fn the_alert_rules_are_taken_and_do_what_their_tests_say() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/package");
    for (checked, file) in [("check", "alerts.yml"), ("test", "alerts_test.yml")] {
        let (fine, said) = asks(Command::new("promtool").args([checked, "rules", file]).current_dir(&rules), "");
        assert!(fine && said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn stats_tell_rates_of_what_runs_and_of_nothing_else() {
    let case = Case::new();
    let busy = ["/bin/sh", "-c", "while :; do :; done"];
    let mut up = Up::start(
        &case,
        &(worker("busy", &busy, &[])
            + &worker("idle", &["/bin/sleep", "1000"], &[])
            + &worker("over", &["/bin/true"], &["restart: {policy: never}"])),
    );
    up.state("busy", State::Running, "ready");
    up.state("idle", State::Running, "ready");
    up.state("over", State::Stopped, "done");
    let ran = finish(case.pinfold("stats").args(["--no-stream", "-o", "json"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let told: BTreeMap<String, Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["worker"].as_str().unwrap().to_owned(), line))
        .collect();
    assert_eq!(told.keys().collect::<Vec<_>>(), ["busy", "idle"]);
    let cpu = |worker: &str| told[worker]["cpu_percent"].as_f64().unwrap();
    assert!(cpu("busy") > 10.0 * cpu("idle") && cpu("busy") < 150.0, "{told:?}");
    let table = finish(case.pinfold("stats").args(["b*", "--no-stream"])).stdout;
    assert!(table.lines().count() == 2 && table.lines().last().unwrap().trim_start().starts_with("busy"), "{table}");
    let ran = finish(case.pinfold("stats").arg("nobody"));
    assert_eq!(ran.code, Some(4), "{ran:?}");
    up.stop();
}

#[test]
fn a_stream_of_stats_is_lines_of_json_until_its_reader_has_enough() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("web", &["/bin/sleep", "1000"], &[]));
    up.state("web", State::Running, "ready");
    let mut child = case.pinfold("stats").args(["-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let (first, second) = (next(), next());
    assert!(first.get("cpu_percent").is_none(), "nothing can be said of the first moment: {first}");
    assert!(second["cpu_percent"].as_f64().is_some_and(|percent| percent < 50.0), "{second}");
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0), "as head(1) leaves it");
    up.stop();
}

#[test]
fn an_end_that_nobody_saw_is_counted_once_by_whoever_tells_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("web", &["/bin/sleep", "1000"], &["restart: {policy: never}"]));
    let process = up.started("web", 1);
    let supervisor = case.role("supervisor");
    supervisor.signal(Signal::STOP);
    process.signal(Signal::KILL);
    process.wait_gone("the worker, unseen");
    // The keeper kills one that stays stopped.
    supervisor.signal_if_there(Signal::KILL);
    supervisor.wait_gone("the killed supervisor");
    assert_eq!(up.exited("web", 1), ExitCause::KilledExternal);
    up.state("web", State::Stopped, "failed");
    let text = scrape(&case, "*/*");
    let exits: f64 =
        series(&text).iter().filter(|(n, _)| n.starts_with("pinfold_worker_exits_total")).map(|(_, v)| v).sum();
    assert!((exits - 1.0).abs() < 0.5, "{text}");
    up.stop();
}

/// The process of `pinfold top` beside this supervisor.
fn top_of(case: &Case) -> Option<Pid> {
    let socket = case.socket().display().to_string();
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(|process| {
        let said = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let words: Vec<&str> = said.split('\0').collect();
        let is_it = words.contains(&"top") && words.contains(&&*socket) && !words.contains(&"-i");
        is_it.then(|| Pid::from_raw(process.file_name().to_str()?.parse().ok()?)).flatten()
    })
}

#[test]
fn the_screen_of_top_is_given_back_however_it_ends() {
    const TAKEN: &str = "\x1b[?1049h";
    const GIVEN_BACK: &str = "\x1b[?1049l";
    let case = Case::new();
    let mut up = Up::start(&case, &worker("web", &["/bin/sleep", "1000"], &[]));
    up.state("web", State::Running, "ready");
    let mut shell = terminal::Shell::start(&format!("{} --socket {}", support::PINFOLD, case.socket().display()));
    shell.resize(24, 80);
    let cooked = |shell: &mut terminal::Shell| {
        shell.expect(GIVEN_BACK);
        // The shell has the keyboard again.
        shell.expect("ready> ");
        shell.expect_code(0);
        shell.line("stty -a | grep -q -e -icanon && echo ra\"\"w. || echo cook\"\"ed.");
        shell.expect("cooked.");
    };

    shell.line("run top");
    shell.expect(TAKEN);
    shell.expect("1 worker, 1 running");
    shell.expect("events");
    shell.press(b"r");
    shell.expect("restart web?");
    shell.press(b"n");
    shell.press(b"ry");
    up.started("web", 2);
    shell.press(b"q");
    cooked(&mut shell);
    assert!(up.of("web").all(|event| event.run != Some(3)), "what was answered with no was not done");

    shell.line("run top 'w*'");
    shell.expect(TAKEN);
    kill_process(top_of(&case).expect("it runs"), Signal::TERM).unwrap();
    cooked(&mut shell);

    shell.line("run top nobody");
    shell.expect("no worker");
    shell.expect("ready> ");
    shell.expect_code(4);
    up.stop();
}

#[test]
fn top_without_a_terminal_says_what_to_use() {
    let case = Case::new();
    let ran = finish(case.pinfold("top").stdin(Stdio::null()));
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("pinfold stats"), "{ran:?}");
}
