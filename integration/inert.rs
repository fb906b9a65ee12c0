//! Texts of workers, users and files, each of them meant to be taken for something else, in every place into which they can be
//! brought, against every output: they arrive as they are or not at all, and steer nobody. And a secret, which is nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use pinfold::model::{EventKind, State};
use rustix::process::Signal;
use serde_json::Value;
use support::{
    Case,
    door::text,
    judge::{documents, lines, notification, only_colours, openmetrics_takes, promtool_takes, steers_nothing, tells},
    patience,
    run::{Ran, finish},
    up::{Up, is},
    wait_until,
};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

/// What each would do, and the text. No NUL: no argument, no variable and no path can have one.
const HOSTILE: [(&str, &str); 16] = [
    ("colours", "\u{1b}[31mred"),
    ("clears and writes", "\u{1b}[2J\u{1b}[1;1Hroot# "),
    ("fills the clipboard", "\u{1b}]52;c;cm0gLXJm\u{7}"),
    ("sets the title", "\u{1b}]0;owned\u{7}"),
    ("asks the terminal", "\u{1b}[6n\u{1b}P$qm\u{1b}\\"),
    ("writes over the line", "done\rfaked"),
    ("forges a line", "x\n2026-01-01T00:00:00Z ERROR faked\nfaked  running  1"),
    ("notifies", "x\nREADY=1\nSTOPPING=1\nMAINPID=1"),
    ("ends a text of JSON", "\"},{\"worker\":\"faked\"}]}"),
    ("ends a label", "\"} 1\n# TYPE faked counter\nfaked 1"),
    ("escapes", "\\\" \\n \\u{41} ${x"),
    ("turns around", "\u{202e}gnp.\u{2066}exe\u{61c}\u{200f}"),
    ("is C1", "\u{9b}2J\u{9d}0;owned\u{9c}\u{85}faked"),
    ("separates", "\u{2028}faked\u{2029}faked"),
    ("is YAML", "*a : &b !t [}, - #"),
    ("is HTML", "<script>alert(1)</script>\u{8}\u{8}\u{7f}"),
];

/// One text that is all of them.
fn all() -> String {
    HOSTILE.map(|(_, text)| text).join("|")
}

/// `text` in quotes, as YAML and JSON have it, in ASCII; `$$` is a dollar to the configuration.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(&text.replace('$', "$$")).unwrap();
    let mut ascii = String::new();
    for c in json.chars() {
        let mut units = [0; 2];
        match c {
            ' '..='~' => ascii.push(c),
            c => ascii.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"))),
        }
    }
    ascii
}

fn entry(id: &str, command: &[&str], unit: &[String]) -> String {
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let command = format!("command: [{}]", command.join(", "));
    let restart = "restart: {policy: never}".to_owned();
    let unit: Vec<&str> = [&command, &restart].into_iter().chain(unit).map(String::as_str).collect();
    format!("  - id: {id}\n    unit:\n      {}\n", unit.join("\n      "))
}

fn pinfold(case: &Case, args: &[&str]) -> Ran {
    finish(case.pinfold(args[0]).args(&args[1..]))
}

/// Whether `line` is what a text wants to be taken for.
fn forged(line: &str) -> bool {
    ["faked", "2026-01-01", "READY=", "root#"].iter().any(|begin| line.trim_start().starts_with(begin))
}

/// Every command that shows something of `worker`, in both of its formats, judged; its documents, by command.
fn shown(case: &Case, worker: &str) -> Vec<(&'static str, Vec<Value>)> {
    let commands: [&[&str]; 7] = [
        &["ps", "-a"],
        &["status", worker],
        &["inspect", worker],
        &["why", worker],
        &["history", worker],
        &["events", "--since", "10m"],
        &["stats", "--no-stream"],
    ];
    let names = ["ps", "status", "inspect", "why", "history", "events", "stats"];
    let mut all = Vec::new();
    for (name, command) in names.into_iter().zip(commands) {
        // What it measures takes a second, and has no text: once is enough.
        if name == "stats" && worker != "args" {
            continue;
        }
        let what = format!("{command:?}");
        let table = pinfold(case, command);
        assert!(matches!(table.code, Some(0 | 3)), "{what}: {table:?}");
        steers_nothing(&what, &table.stdout);
        steers_nothing(&what, &table.stderr);
        assert!(!table.stdout.lines().any(forged), "{table:?}");
        let json = pinfold(case, &[command, &["-o", "json"]].concat());
        steers_nothing(&what, &json.stderr);
        let by_line = ["events", "stats"].contains(&name);
        all.push((name, if by_line { lines(&what, &json.stdout) } else { documents(&what, &json.stdout) }));
    }
    all
}

fn told_by(shown: &[(&str, Vec<Value>)], command: &str, text: &str) {
    let (_, documents) = shown.iter().find(|(name, _)| *name == command).unwrap();
    assert!(documents.iter().any(|document| tells(document, text)), "{command} does not tell {text:?}: {documents:#?}");
}

#[test]
fn what_workers_and_files_say_arrives_as_it_is_and_steers_nobody() {
    let case = Case::new();
    let hostile = all();
    let said = case.file("said");
    fs::write(&said, HOSTILE.map(|(_, text)| text.to_owned() + "\n").concat() + &"x".repeat(64 << 10) + &hostile)
        .unwrap();
    // A name is 255 bytes at most.
    let odd = "a\u{1b}[2J\n\"} 1\\\u{202e}\u{9b}é";
    let show = format!("cat {said}; cat {said} >&2");
    let probe = format!(
        "health_check: {{readiness: {{period: 100ms, failure_threshold: 1, exec: {{command: [/bin/sh, -c, \"head -c 200 {said}; exit 1\"]}}}}}}"
    );
    let workers = [
        entry(
            "args",
            &["/bin/sh", "-c", "exec sleep 1000", &hostile],
            &[format!("env: {{HOSTILE: {}}}", quoted(&hostile))],
        ),
        entry("says", &["/bin/sh", "-c", &format!("{show}; exec sleep 1000")], &[]),
        entry("ends", &["/bin/sh", "-c", &format!("{show}; exit 3")], &[]),
        entry("comm", &["/bin/sh", "-c", "printf '\\033[2J\\nREADY=1' >/proc/$$/comm; sleep 1000 & wait"], &[]),
        entry("missing", &[&format!("/no/{odd}")], &[]),
        entry("nowhere", &["/bin/true"], &[format!("working_directory: {}", quoted(&format!("/no/{hostile}")))]),
        entry("nobody", &["/bin/true"], &["user: \"a\\u202eb\"".to_owned()]),
        entry("probed", &["/bin/sleep", "1000"], &[probe]),
    ];
    let sink = case.file(odd);
    let top = format!("history: [{{type: jsonl, path: {}}}]\n", quoted(&sink));
    let written = case.config_with(&top, &workers.concat());
    let config = case.file(&format!("{odd}.yaml"));
    fs::rename(written, &config).unwrap();
    let socket = case.file("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut up = case.pinfold("up");
    up.arg(&config).env("NOTIFY_SOCKET", &socket).env("PINFOLD_LOG", "debug");
    let mut up = Up::spawn(&mut up);
    for worker in ["args", "says", "comm"] {
        up.state(worker, State::Running, "ready");
    }
    for worker in ["missing", "nowhere", "nobody", "ends"] {
        up.state(worker, State::Stopped, "failed");
    }
    up.wait_for("a probe that fails", |e| {
        is(e, "probed") && matches!(e.kind, EventKind::Health { healthy: false, .. })
    });

    let of_args = shown(&case, "args");
    told_by(&of_args, "inspect", &serde_json::to_string(&hostile).unwrap().replace('$', "$$"));
    told_by(&of_args, "inspect", &hostile.replace('$', "$$"));
    told_by(&of_args, "inspect", &config);
    for (worker, path) in [
        ("missing", format!("/no/{odd}")),
        ("nowhere", "/no/\u{1b}[31mred|".to_owned()),
        ("nobody", format!("there is no user {:?}", "a\u{202e}b")),
    ] {
        let shown = shown(&case, worker);
        told_by(&shown, "why", &path);
        told_by(&shown, "events", &path);
    }
    for worker in ["says", "ends", "comm", "probed"] {
        shown(&case, worker);
    }

    // A file gets it as it was written, a program line by line as it was.
    let text = fs::read_to_string(&said).unwrap();
    let logs = |args: &[&str]| pinfold(&case, &[&["logs", "ends", "--stream", "stdout"], args].concat()).stdout;
    wait_until("all that was said", || (logs(&[]) == text).then_some(()));
    let mut back = String::new();
    for line in lines("logs -o json", &logs(&["-o", "json"])) {
        back += line["line"].as_str().unwrap_or_else(|| panic!("{line}"));
        back += if line["partial"] == true { "" } else { "\n" };
    }
    assert_eq!(back, text);

    // A terminal gets all of the text, and nothing that steers it.
    let seen = on_terminal(case.pinfold("logs").args(["ends", "--stream", "stdout"]).env("TERM", "xterm-256color"));
    only_colours("logs on a terminal", &seen);
    assert!(seen.contains("red") && seen.contains("gnp.exe") && seen.contains("TYPE faked counter"), "{seen:?}");

    let (plain, open) = (text_of(&case, "text/plain"), text_of(&case, OPENMETRICS));
    promtool_takes(&plain);
    assert_eq!(openmetrics_takes(&open), plain.lines().filter(|line| !line.starts_with('#')).count());
    assert!(!plain.lines().any(|line| line.starts_with("faked") || line.contains("TYPE faked")), "{plain}");

    // What a reload cannot read it names in the log.
    fs::remove_file(&config).unwrap();
    up.signal(Signal::HUP);
    wait_until("a word in the log", || up.stderr().contains("not reloaded").then_some(()));
    let ended = up.stop();
    steers_nothing("the log", &ended.stderr);
    assert!(ended.stderr.lines().all(|line| line.contains(" ERROR ") && !forged(line)), "{:?}", ended.stderr);
    manager.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    let mut heard = 0;
    while let Ok(n) = manager.recv(&mut bytes) {
        notification(std::str::from_utf8(&bytes[..n]).unwrap());
        heard += 1;
    }
    assert!(heard >= 2, "READY and STATUS, and the end");
    let kept = fs::read_to_string(&sink).unwrap();
    assert!(kept.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{kept}");
}

/// What `command` gives a terminal that is its standard output.
fn on_terminal(command: &mut Command) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(pty.slave).stderr(Stdio::inherit()).spawn().unwrap();
    // The command has it, too, until it has gone.
    command.stdout(Stdio::null());
    let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
    let mut master = fs::File::from(pty.master);
    // EIO once nobody has the other side.
    while let Ok(n @ 1..) = master.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..n]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(seen).unwrap()
}

fn text_of(case: &Case, accept: &str) -> String {
    text(&case.socket(), "/metrics", accept)
}

// --- what a user brings --------------------------------------------------------------

/// Everything but letters and digits, so that it is one segment of a path or one value of a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// One request as it is, by HTTP/1.0; the answer's status and body.
fn ask(socket: &Path, method: &str, target: &str, headers: &[u8], body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let head = format!("{method} {target} HTTP/1.0\r\nhost: pinfold\r\ncontent-length: {}\r\n", body.len());
    stream.write_all(&[head.as_bytes(), headers, b"\r\n", body.as_bytes()].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {target}: {answer:?}"));
    steers_nothing("the head of an answer", &head.replace("\r\n", "\n"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn what_is_asked_for_is_refused_in_words_that_steer_nobody() {
    let case = Case::new();
    let mut up = case.pinfold("up");
    up.arg(case.config(&entry("web", &["/bin/sleep", "1000"], &[]))).env("PINFOLD_LOG", "debug");
    let mut up = Up::spawn(&mut up);
    up.state("web", State::Running, "ready");
    let socket = case.socket();
    let refused = |what: &str, (status, body): (u16, String)| {
        assert!((400..500).contains(&status), "{what}: {status} {body}");
        // Raw, as some client may show it; JSON may have what is above U+007F as it is.
        assert!(!body.bytes().any(|b| b < 0x20), "{what}: {body:?}");
        let problem: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{what}: {e}: {body}"));
        assert_eq!(problem["status"], status, "{what}: {body}");
    };
    for (what, text) in HOSTILE.into_iter().chain([("has a NUL", "a\0b")]) {
        let name = encoded(text);
        for path in ["", "/why", "/inspect", "/logs"] {
            refused(what, ask(&socket, "GET", &format!("/v1/workers/{name}{path}"), b"", ""));
        }
        refused(what, ask(&socket, "GET", &format!("/v1/history?worker={name}"), b"", ""));
        refused(what, ask(&socket, "GET", &format!("/v1/events?follow=false&since={name}"), b"", ""));
        refused(what, ask(&socket, "GET", &format!("/v1/events?follow=false&filter={name}"), b"", ""));
        refused(what, ask(&socket, "GET", &format!("/v1/workers?{name}=1"), b"", ""));
        refused(what, ask(&socket, "GET", &format!("/{name}"), b"", ""));
        refused(what, ask(&socket, "POST", &format!("/v1/workers/{name}/stop"), b"", "{}"));
        let body = |value: Value| value.to_string();
        refused(
            what,
            ask(&socket, "POST", "/v1/workers/web/signal", b"", &body(serde_json::json!({ "signal": text }))),
        );
        refused(what, ask(&socket, "POST", "/v1/workers/web/stop", b"", &body(serde_json::json!({ "timeout": text }))));
        refused(what, ask(&socket, "POST", "/v1/workers/web/stop", b"", &body(serde_json::json!({ text: 1 }))));
        refused(what, ask(&socket, "POST", "/v1/workers/web/stop", b"", text));
        for set in [serde_json::json!({ "memory.max_rss": text }), serde_json::json!({ text: "1" })] {
            let set = body(serde_json::json!({ "set": set }));
            refused(what, ask(&socket, "PATCH", "/v1/workers/web/limits", b"", &set));
        }
        // A line of a header has no line's end in it; all else is sent as it is.
        let value: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n' | 0)).chain(*b" \xff").collect();
        let key = [b"idempotency-key: ".as_slice(), &value, b"\r\n"].concat();
        let (status, body) = ask(&socket, "POST", "/v1/workers/web/start", &key, "{}");
        assert_eq!(status, 400, "{what}: {body:?}");
        steers_nothing(what, &body);

        if text.contains('\0') {
            continue;
        }
        for command in ["status", "inspect", "why", "history", "logs", "stop", "ps"] {
            let ran = pinfold(&case, &[command, "--", text]);
            assert_ne!(ran.code, Some(0), "{what}: {command}: {ran:?}");
            steers_nothing(what, &(ran.stdout + &ran.stderr));
            assert!(
                ran.stderr.starts_with("pinfold: ") && ran.stderr.lines().count() == 1,
                "{what}: {command}: {}",
                ran.stderr
            );
        }
        for wrong in
            [&["scale", text][..], &["set", "web", text], &["signal", text, "web"], &["events", "--since", text]]
        {
            let ran = pinfold(&case, wrong);
            assert_ne!(ran.code, Some(0), "{what}: {wrong:?}: {ran:?}");
            steers_nothing(what, &(ran.stdout + &ran.stderr));
        }
    }
    shown(&case, "web");
    promtool_takes(&text_of(&case, "text/plain"));
    steers_nothing("the log", &up.stop().stderr);
}

#[test]
fn a_name_that_is_none_is_refused_in_words_that_steer_nobody() {
    let case = Case::new();
    for (what, text) in HOSTILE.into_iter().chain([("has a NUL", "a\0b")]) {
        let good = entry("web", &["/bin/true"], &[]);
        for workers in [
            entry(&quoted(text), &["/bin/true"], &[]),
            good.clone() + &format!("      {}: 1\n", quoted(text)),
            good.clone() + &format!("      user: {}\n", quoted(&format!("{text}:"))),
            good.clone() + &format!("      stop: {{timeout: {}}}\n", quoted(text)),
            good.clone() + &format!("      slice: {}\n", quoted(text)),
        ] {
            let config = case.config(&workers);
            for command in ["validate", "up"] {
                let ran = pinfold(&case, &[command, &config]);
                assert_eq!(ran.code, Some(2), "{what}: {ran:?}");
                steers_nothing(what, &(ran.stdout + &ran.stderr));
            }
            let ran = pinfold(&case, &["validate", "-o", "json", &config]);
            assert_eq!(lines(what, &ran.stdout)[0]["ok"], false);
        }
    }
}

// --- what nobody is told ---------------------------------------------------------------

/// What has `secret` in it, of all files below `directory`.
fn files_with(directory: &Path, secret: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, secret));
        } else if path.is_file() && fs::read(&path).unwrap().windows(secret.len()).any(|part| part == secret.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_secret_of_an_env_file_is_for_its_worker_alone() {
    const SECRET: &str = "hunter2-correct-horse";
    let case = Case::new();
    let file = |name: &str, text: &str| {
        let path = case.file(name);
        fs::write(&path, text).unwrap();
        format!("env_file: {}", quoted(&path))
    };
    let (good, bad) = (file("secrets", &format!("TOKEN={SECRET}\n")), file("bad", &format!("A=1\n{SECRET}\n")));
    let quote = file("quote", &format!("TOKEN=\"{SECRET}\n"));
    let told = case.file("told");
    let tell = format!("printf '%s\\n' \"$TOKEN\" >{told}; exec sleep 1000");
    let probe =
        "health_check: {readiness: {period: 100ms, exec: {command: [/bin/sh, -c, 'test -n \"$$TOKEN\"']}}}".to_owned();
    let workers = [
        entry("web", &["/bin/sh", "-c", &tell], &[good.clone(), probe]),
        entry("crash", &["/bin/sh", "-c", "exit 3"], std::slice::from_ref(&good)),
        entry("missing", &["/no/such/program"], &[good]),
        entry("line", &["/bin/true"], &[bad]),
        entry("quote", &["/bin/true"], &[quote]),
    ];
    let sink = case.file("state/history.jsonl");
    fs::create_dir(case.file("state")).unwrap();
    let config = case.config_with(&format!("history: [{{type: jsonl, path: {}}}]\n", quoted(&sink)), &workers.concat());
    let mut up = case.pinfold("up");
    up.arg(config).env("PINFOLD_LOG", "trace");
    let mut up = Up::spawn(&mut up);
    up.state("web", State::Running, "ready");
    for worker in ["crash", "missing", "line"] {
        up.state(worker, State::Stopped, "failed");
    }
    wait_until("its worker has it", || (case.told("told") == [SECRET]).then_some(()));

    let mut outputs = vec![text_of(&case, "text/plain"), text_of(&case, OPENMETRICS)];
    for worker in ["web", "crash", "missing", "line", "quote"] {
        for command in [
            &["ps", "-a"][..],
            &["status", worker],
            &["inspect", worker],
            &["why", worker],
            &["history", worker],
            &["logs", worker],
            &["events", "--since", "10m"],
            &["start", "line"],
            &["plan"],
        ] {
            for format in [&[][..], &["-o", "json"]] {
                let ran = pinfold(&case, &[command, format].concat());
                outputs.push(ran.stdout + &ran.stderr);
            }
        }
    }
    assert!(
        outputs.iter().any(|output| output.contains("bad:2") || output.contains("line 2")),
        "the line is told: {outputs:#?}"
    );
    let ended = up.stop();
    outputs.push(ended.stderr);
    outputs.push(up.seen.iter().map(|event| serde_json::to_string(event).unwrap()).collect());
    for output in outputs {
        assert!(!output.contains(SECRET), "{output}");
    }
    assert_eq!(files_with(&case.dir.path().join("state"), SECRET), <[&Path; 0]>::default());
    assert_eq!(files_with(&case.dir.path().join("run"), SECRET), <[&Path; 0]>::default());
}
