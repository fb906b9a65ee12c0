//! Every command as a person meets it, however the supervisor answers: what is printed, for people and for programs, and
//! what the command ends with. A command that is not in the table fails this.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::{collections::BTreeSet, os::unix::net::UnixListener, path::Path};

use assert_cmd::Command;
use axum::{
    Json, Router,
    extract::Request,
    http::{Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use clap::CommandFactory;
use pinfold::{
    api::{Bounds, Server},
    cli::args::Cli,
};
use serde_json::{Value, json};

/// What is typed for a command that asks a supervisor, without `-o`; or where a command that does not is tried.
enum Row {
    Asks(&'static [&'static str]),
    /// It prints this without any supervisor, and no data about one.
    Alone(&'static [&'static str]),
    /// It needs root and a cgroup, and is tried there.
    Elsewhere(&'static str),
}

const TABLE: &[(&str, Row)] = &[
    ("up", Row::Elsewhere("integration/lifecycle/main.rs")),
    ("down", Row::Asks(&["down", "--no-wait"])),
    ("run", Row::Elsewhere("integration/run.rs")),
    ("ps", Row::Asks(&["ps", "-a"])),
    ("stats", Row::Asks(&["stats", "web", "--no-stream"])),
    ("top", Row::Elsewhere("integration/metrics.rs")),
    ("inspect", Row::Asks(&["inspect", "web"])),
    ("status", Row::Asks(&["status", "web"])),
    ("count", Row::Asks(&["count", "web"])),
    ("start", Row::Asks(&["start", "web"])),
    ("stop", Row::Asks(&["stop", "web"])),
    ("restart", Row::Asks(&["restart", "web"])),
    ("kill", Row::Asks(&["kill", "web"])),
    ("signal", Row::Asks(&["signal", "HUP", "web"])),
    ("reset", Row::Asks(&["reset", "web"])),
    ("freeze", Row::Asks(&["freeze", "web"])),
    ("thaw", Row::Asks(&["thaw", "web"])),
    ("plan", Row::Asks(&["plan"])),
    ("reload", Row::Asks(&["reload"])),
    ("scale", Row::Asks(&["scale", "web=2"])),
    ("set", Row::Asks(&["set", "web", "pids.max=9"])),
    ("events", Row::Asks(&["events"])),
    ("history", Row::Asks(&["history", "web"])),
    ("why", Row::Asks(&["why", "web"])),
    ("logs", Row::Asks(&["logs", "web"])),
    ("reexec", Row::Asks(&["reexec"])),
    ("validate", Row::Alone(&["validate", "none.yaml"])),
    ("schema", Row::Alone(&["schema"])),
    ("doctor", Row::Elsewhere("src/cli/doctor.rs")),
    ("completion", Row::Alone(&["completion", "bash", "--static"])),
    ("man", Row::Alone(&["man"])),
    ("version", Row::Alone(&["version"])),
];

/// How the supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It does what it is asked.
    Well,
    /// It is not there.
    Absent,
    /// There is no such worker.
    Unknown,
    /// Who asks may not.
    Forbidden,
    /// It was not done in time.
    Slow,
}

const HOW: [How; 5] = [How::Well, How::Absent, How::Unknown, How::Forbidden, How::Slow];

impl How {
    /// The exit code that interface.md has for it.
    const fn code(self) -> i32 {
        match self {
            Self::Well => 0,
            Self::Absent => 6,
            Self::Unknown => 4,
            Self::Forbidden => 5,
            Self::Slow => 7,
        }
    }
}

fn worker() -> Value {
    json!({
        "id": "web", "declared_as": "web", "state": "running", "detail": "ready", "pid": 4711, "run": 3,
        "since": "2020-01-15T12:00:00.000Z", "age_ms": 61_000, "started": "2020-01-15T12:00:00.000Z", "uptime_ms": 61_000,
        "restarts": 2, "restarts_by": {"exit": 2, "health": 0, "violation": 0}, "breaker": [], "violations": [],
        "cause": {"kind": "exited", "code": 3}, "desired_up": true, "desired_generation": 1, "observed_generation": 1,
        "generation": 9, "usage": {"memory_bytes": 1_048_576, "cpu_usec": 1_500_000, "pids": 2},
    })
}

fn event() -> Value {
    json!({
        "v": 1, "epoch": 1, "seq": 4, "time": "2020-01-15T12:00:00.000000Z", "mono_ns": 1, "worker": "web", "run": 2,
        "kind": "exited", "cause": {"kind": "exited", "code": 3}, "confidence": "certain",
        "evidence": {"status": {"kind": "exited", "code": 3}, "before": {}, "after": {}, "wall_ms": 500},
    })
}

fn settled() -> Value {
    json!({"worker": "web", "outcome": "done", "state": "running", "detail": "ready", "pid": 4711, "run": 3})
}

/// What a supervisor that is well answers.
fn well(method: &Method, path: &str) -> Response {
    let step = json!({"action": "restart", "worker": "web", "changes": []});
    let health = json!({
        "status": "ok", "version": "2.0.0", "pid": 101, "uptime_ms": 5, "workers": 1, "running": 1,
        "store": {"status": "ok"}, "reexecs": 1,
    });
    let document = match (method.as_str(), path) {
        ("GET", "/v1/workers") => json!({"generation": 9, "workers": [worker()]}),
        ("GET", "/v1/workers/web") => worker(),
        ("GET", "/v1/workers/web/why") => json!({
            "worker": worker(), "exited": event(), "violations": [], "decisions": [],
            "limits": {"stop_signal": 15, "stop_timeout_ms": 30_000}, "stderr": "/state/logs/web/2.stderr",
        }),
        ("GET", "/v1/workers/web/inspect") => json!({
            "id": "web", "declared_as": "web", "state": "running", "run": 3, "pid": 4711, "cgroup": "/pinfold/workers/web.3",
            "settings": [{
                "name": "limits.pids.max", "requested": "64", "effective": "64", "read_from": "pids.max",
                "source": {"kind": "worker", "file": "/etc/pinfold/pinfold.yaml", "line": 5},
            }],
        }),
        ("GET", "/v1/history") => json!({"worker": "web", "runs": [{
            "run": 2, "trigger": "start", "pid": 4710, "started": "2020-01-15T11:59:59.500Z",
            "ended": "2020-01-15T12:00:00.000Z", "lasted_ms": 500, "cause": {"kind": "exited", "code": 3},
            "confidence": "certain",
        }]}),
        ("GET", "/v1/health") => health,
        ("GET", "/v1/events") => {
            return ([(CONTENT_TYPE, "application/x-ndjson")], format!("{}\n", event())).into_response();
        }
        ("GET", "/v1/workers/web/logs") => {
            let line = json!({"time": "2020-01-15T12:00:00.000Z", "run": 3, "stream": "stdout", "line": "hello"});
            return format!("{line}\n").into_response();
        }
        ("POST", "/v1/plan") => json!({"steps": [step], "untouched": ["db"]}),
        ("POST", "/v1/reload") => {
            let mut carried = step;
            carried["outcome"] = json!("done");
            json!({"steps": [carried], "untouched": ["db"]})
        }
        ("POST", "/v1/reexec") => json!({
            "binary": "/usr/bin/pinfold", "version": "2.0.0", "replaces": "1.0.0", "pid": 100, "reexecs": 0,
        }),
        ("POST", "/v1/shutdown") => json!({"results": [settled()]}),
        ("POST" | "PUT" | "PATCH", path) if path.starts_with("/v1/workers/web/") => json!({"results": [settled()]}),
        _ => panic!("{method} {path} is not expected"),
    };
    Json(document).into_response()
}

fn problem(status: u16, code: &str, detail: &str, results: &[Value]) -> Response {
    let mut problem = json!({"title": "x", "status": status, "code": code, "detail": detail});
    if !results.is_empty() {
        problem["results"] = json!(results);
    }
    (StatusCode::from_u16(status).unwrap(), [(CONTENT_TYPE, "application/problem+json")], problem.to_string())
        .into_response()
}

fn answer(how: How, request: &Request) -> Response {
    match how {
        How::Well | How::Absent => well(request.method(), request.uri().path()),
        How::Unknown => problem(404, "not_found", "there is no worker \"web\"", &[]),
        How::Forbidden => {
            problem(403, "not_permitted", "only root and the supervisor's own user may; you are uid 7", &[])
        }
        How::Slow if request.method() == Method::GET => problem(504, "timed_out", "it was not read in time", &[]),
        How::Slow => {
            let mut late = settled();
            late["outcome"] = json!("failed");
            late["code"] = json!("timed_out");
            late["error"] = json!("not done in time: it is stopping (term), and goes on");
            problem(504, "timed_out", "worker web: not done in time: it is stopping (term), and goes on", &[late])
        }
    }
}

/// Serves it, until it is dropped.
fn serve(how: How, dir: &Path) -> Option<Server> {
    if how == How::Absent {
        return None;
    }
    let listener = UnixListener::bind(dir.join("s")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let router = Router::new().fallback(move |request: Request| async move { answer(how, &request) });
    Some(Server::start(listener, router, Bounds::default(), || ()).unwrap())
}

fn pinfold(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::cargo_bin("pinfold").unwrap();
    command.args(args).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir).env("TZ", "UTC");
    command
}

#[test]
fn every_command_has_a_row() {
    let commands: BTreeSet<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(commands, rows, "each command is tried here, or says where it is");
    for (name, row) in TABLE {
        if let Row::Elsewhere(file) = row {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(path.exists(), "{name}: {file}");
        }
    }
}

#[test]
fn whatever_the_supervisor_answers_it_is_told_and_the_code_says_the_same() {
    let mut wrong = Vec::new();
    let mut told: Vec<(&str, String)> = Vec::new();
    for how in HOW {
        let dir = tempfile::tempdir().unwrap();
        let _server = serve(how, dir.path());
        for (name, row) in TABLE {
            let Row::Asks(typed) = row else { continue };
            for format in ["table", "json"] {
                // `reexec` and `logs` call what people read by its older name.
                let args = [*typed, &["-o", if format == "table" { "text" } else { format }, "--socket", "s"]].concat();
                let output = pinfold(&args, dir.path()).output().unwrap();
                let said = |bytes: &[u8]| {
                    String::from_utf8(bytes.to_vec()).unwrap().replace(&dir.path().display().to_string(), "DIR")
                };
                let (out, err) = (said(&output.stdout), said(&output.stderr));
                let code = output.status.code();
                let text = format!("--- {how:?} -o {format}: {}\n{out}--- stderr\n{err}", code.unwrap_or(-1));
                // On a host with a supervisor of root's, that one is mentioned.
                told.push((name, text.replace(" (there is one at /run/pinfold/api.sock)", "")));
                if code != Some(how.code()) {
                    wrong.push(format!("{args:?} {how:?}: {code:?}, not {}", how.code()));
                }
                if err.lines().count() != usize::from(how != How::Well) {
                    wrong.push(format!("{args:?} {how:?}: one sentence, where it is not well: {err:?}"));
                }
                if format == "json"
                    && serde_json::Deserializer::from_str(&out).into_iter::<Value>().any(|read| read.is_err())
                {
                    wrong.push(format!("{args:?} {how:?}: no JSON: {out:?}"));
                }
                if format == "json" && how == How::Well && out.is_empty() {
                    wrong.push(format!("{args:?}: nothing is told"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // How long ago it is goes by the host's clock.
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\([^()]* ago\)", "(… ago)");
    let _filtered = settings.bind_to_scope();
    for (name, row) in TABLE {
        if let Row::Asks(typed) = row {
            let mine: Vec<&str> =
                told.iter().filter(|(whose, _)| whose == name).map(|(_, text)| text.as_str()).collect();
            insta::assert_snapshot!(*name, format!("$ pinfold {}\n{}", typed.join(" "), mine.join("\n")));
        }
    }
}

#[test]
fn what_asks_nobody_needs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    for (name, row) in TABLE {
        let Row::Alone(typed) = row else { continue };
        let output = pinfold(&[*typed, &["--socket", "none"]].concat(), dir.path()).output().unwrap();
        let code = if *name == "validate" { 2 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{name}");
    }
}

#[test]
fn every_manual_page_is_written_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    pinfold(&["man", "--dir", "."], dir.path()).assert().success().stdout("");
    let found: BTreeSet<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let commands = Cli::command();
    let mut expected: BTreeSet<String> =
        commands.get_subcommands().map(|c| format!("pinfold-{}.1", c.get_name())).collect();
    expected.insert("pinfold.1".to_owned());
    assert_eq!(found, expected);
    pinfold(&["man", "ps"], dir.path()).assert().success();
    pinfold(&["man", "fly"], dir.path()).assert().code(2);
    pinfold(&["man", "--dir", "none"], dir.path()).assert().code(1);
}

/// What the binary offers for a line, as bash asks it.
fn offered(line: &[&str], dir: &Path, socket: &str) -> Vec<String> {
    let words = [&["--", "pinfold"][..], line].concat();
    let mut command = pinfold(&words, dir);
    command.env("PINFOLD_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", line.len().to_string());
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    command.env("PINFOLD_SOCKET", socket);
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_is_offered_every_command_and_the_workers_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(How::Well, dir.path());
    let commands = offered(&[""], dir.path(), "s");
    for command in Cli::command().get_subcommands() {
        assert!(commands.iter().any(|offer| offer == command.get_name()), "{}: {commands:?}", command.get_name());
    }
    for command in ["status", "stop", "why", "logs"] {
        assert!(offered(&[command, "w"], dir.path(), "s").contains(&"web".to_owned()), "{command}");
        assert!(!offered(&[command, "x"], dir.path(), "s").contains(&"web".to_owned()), "{command}");
        let nobody = offered(&[command, "w"], dir.path(), "none");
        assert!(!nobody.contains(&"web".to_owned()), "{command}: where nobody answers there are none: {nobody:?}");
    }
}
