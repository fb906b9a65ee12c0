//! Where events go: history sinks that work, fail and come back, and the stream that people and programs follow.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "history/changed.rs"]
mod changed;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use pinfold::{
    model::{Event, EventKind, State},
    testing::{Mood, SearchServer},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{
    Case, ELSEWHERE, door::Door, misbehaving, patience, pause, process::Process, run::finish, up::Up, wait_until,
    worker,
};
use tokio::net::TcpListener;

/// A worker that is back at once, however often it is killed.
const ALWAYS: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

/// OpenSearch's stand-in on a port of this host, on a thread of its own.
struct Search {
    server: SearchServer,
    port: u16,
    /// Ends the thread, and with it every connection and the port.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Search {
    fn start() -> Self {
        Self::at(0, SearchServer::new())
    }

    fn at(port: u16, server: SearchServer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(([127, 0, 0, 1], port).into()).unwrap();
            socket.listen(16).unwrap()
        });
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let here = server.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, here) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { server, port, stop: Some(stop), thread: Some(thread) }
    }

    /// It is gone: nobody listens there any more.
    fn kill(mut self) -> (u16, SearchServer) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
        (self.port, self.server.clone())
    }

    fn sink(&self) -> String {
        format!("{{type: opensearch, url: \"http://127.0.0.1:{}\", index: pinfold}}", self.port)
    }
}

async fn accept(listener: TcpListener, server: SearchServer) {
    while let Ok((stream, _)) = listener.accept().await {
        let server = server.clone();
        tokio::spawn(async move { server.serve(stream).await });
    }
}

/// What a document says that an event says too.
fn key(document: &Value) -> (String, u64, String) {
    let worker = document["worker"].as_str().unwrap_or_default();
    (worker.to_owned(), document["seq"].as_u64().unwrap(), document["kind"].as_str().unwrap().to_owned())
}

fn keys<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<(String, u64, String)> {
    let mut keys: Vec<_> = events.into_iter().map(|event| key(&serde_json::to_value(event).unwrap())).collect();
    keys.sort();
    keys
}

fn sorted(documents: impl IntoIterator<Item = Value>) -> Vec<(String, u64, String)> {
    let mut keys: Vec<_> = documents.into_iter().map(|document| key(&document)).collect();
    keys.sort();
    keys
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A supervisor whose configuration has `sinks`.
fn up_with(case: &Case, sinks: &[String], workers: &str) -> Up {
    let config = case.config_with(&format!("history: [{}]\n", sinks.join(", ")), workers);
    Up::spawn(case.pinfold("up").arg(config))
}

fn health(case: &Case) -> Vec<Value> {
    let answer = Door::open(&case.socket()).get("/v1/health");
    answer.body["history"].as_array().unwrap().clone()
}

// --- sinks ---------------------------------------------------------------------

#[test]
fn every_event_is_in_every_sink_and_none_is_there_twice() {
    let case = Case::new();
    let search = Search::start();
    let file = case.file("events.jsonl");
    let sinks = [format!("{{type: jsonl, path: {file}}}"), search.sink()];
    let workers = misbehaving("web", &["sleep"], &[]) + &worker("crash", &["/bin/sh", "-c", "exit 3"], &[]);
    let mut up = up_with(&case, &sinks, &workers);
    up.state("web", State::Running, "ready");
    up.state("crash", State::Stopped, "failed");
    case.ask("restart", &["web"]);
    up.stop();
    let told = keys(&up.seen);
    assert_eq!(sorted(lines(&file)), told, "the file has what was told");
    assert_eq!(sorted(search.server.documents().into_iter().map(|(_, document)| document)), told);
    let cursors: Vec<_> = lines(&file).into_iter().map(|line| line["cursor"].as_str().unwrap().to_owned()).collect();
    let ids: Vec<_> = search.server.documents().into_iter().map(|(id, _)| id).collect();
    assert_eq!(cursors, ids, "a document's id is its event's cursor");
    let exited = search.server.documents().into_iter().find(|(_, d)| d["kind"] == "exited").unwrap().1;
    assert_eq!((&exited["worker"], &exited["exited"]["cause"]["code"]), (&"crash".into(), &3.into()));
}

#[test]
fn a_sink_that_is_down_has_everything_when_it_is_back_and_no_worker_has_noticed() {
    let case = Case::new();
    let (port, server) = Search::start().kill();
    let sink = format!("{{type: opensearch, url: \"http://127.0.0.1:{port}\", index: pinfold, timeout: 2s}}");
    let file = case.file("events.jsonl");
    let sinks = [sink, format!("{{type: jsonl, path: {file}}}")];
    let mut up = up_with(&case, &sinks, &misbehaving("web", &["sleep"], &[ALWAYS]));
    up.started("web", 1);
    wait_until("the sink is called failing", || {
        let health = health(&case);
        (health[0]["state"] == "failing" && health[1]["state"] == "ok").then_some(())
    });
    for run in 1..=5 {
        up.started("web", run).signal(Signal::KILL);
        up.exited("web", run);
    }
    up.started("web", 6);
    let down = health(&case);
    assert_eq!((&down[0]["delivered"], &down[0]["dropped"]["full"]), (&0.into(), &0.into()), "{down:?}");
    assert!(down[0]["last_error"].as_str().unwrap().contains("Connection refused"), "{down:?}");
    // Busy, broken off and silent before it is well.
    server.next([Mood::Status(503, None), Mood::Half, Mood::Silent, Mood::Items(vec![429, 201])]);
    let search = Search::at(port, server);
    wait_until("the sink is well", || {
        (health(&case)[0]["state"] == "ok" && health(&case)[0]["queued"] == 0).then_some(())
    });
    let said = up.stop().stderr;
    assert_eq!(said.matches("a history sink takes no events; they wait").count(), 1, "{said}");
    assert_eq!(said.matches("a history sink takes events again").count(), 1, "{said}");
    assert_eq!(sorted(search.server.documents().into_iter().map(|(_, document)| document)), keys(&up.seen));
    assert_eq!(sorted(lines(&file)), keys(&up.seen), "the other sink never waited");
}

#[test]
fn the_end_does_not_wait_long_for_a_sink_that_is_down_and_says_what_it_lost() {
    let case = Case::new();
    let (port, _) = Search::start().kill();
    let sink = format!("{{type: opensearch, url: \"http://127.0.0.1:{port}\", index: pinfold}}");
    let mut up = up_with(&case, &[sink], &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let said = up.stop().stderr;
    assert!(said.contains("the end does not wait for a history sink"), "{said}");
}

#[test]
fn a_full_disk_costs_no_line_that_was_whole_and_is_over_when_there_is_room_again() {
    let case = Case::new();
    let disk = Disk::mount(case.dir.path().join("disk"));
    let file = disk.path.join("events.jsonl");
    let ballast = disk.path.join("ballast");
    let sinks = [format!("{{type: jsonl, path: {}}}", file.display())];
    let mut up = up_with(&case, &sinks, &misbehaving("web", &["sleep"], &[ALWAYS]));
    up.started("web", 1);
    wait_until("the file is there", || file.exists().then_some(()));
    fill(&ballast);
    let mut run = 1;
    wait_until("the sink is called failing", || {
        up.started("web", run).signal(Signal::KILL);
        up.exited("web", run);
        run += 1;
        (health(&case)[0]["state"] == "failing").then_some(())
    });
    assert!(health(&case)[0]["last_error"].as_str().unwrap().contains("No space left on device"));
    lines(&file);
    fs::remove_file(&ballast).unwrap();
    up.started("web", run);
    up.stop();
    assert_eq!(sorted(lines(&file)), keys(&up.seen));
}

/// A small disk, for as long as the handle lives.
struct Disk {
    path: std::path::PathBuf,
}

impl Disk {
    fn mount(path: std::path::PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("size=256k"))
            .unwrap_or_else(|e| panic!("tmpfs: {e}: {ELSEWHERE}"));
        Self { path }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
}

#[test]
fn sinks_and_followers_wake_nobody_while_nothing_happens() {
    let case = Case::alone();
    let search = Search::start();
    let sinks = [format!("{{type: jsonl, path: {}}}", case.file("e")), search.sink()];
    let mut up = up_with(&case, &sinks, &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let follower = Follower::start(&case, &["-f"]);
    let ours = case.role("supervisor");
    wait_until("everything is delivered", || health(&case).iter().all(|sink| sink["queued"] == 0).then_some(()));
    wait_until("two seconds without a wake-up", || {
        let before = Process::wake_ups(&ours);
        pause(Duration::from_secs(2));
        (Process::wake_ups(&ours) == before).then_some(())
    });
    assert!(follower.lines.try_recv().is_err());
}

// --- the stream ------------------------------------------------------------------

/// `pinfold events`, read as it comes.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(case: &Case, args: &[&str]) -> Self {
        Self::spawn(case.pinfold("events").args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    /// The first line to come that has all of `words`.
    fn wait_for(&self, words: &[&str]) -> String {
        loop {
            let line = self.lines.recv_timeout(patience()).unwrap_or_else(|e| panic!("{e}: no line with {words:?}"));
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }

    /// Its end: the code, and what it complained about.
    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

#[test]
fn a_person_sees_a_restart_as_it_happens_and_is_told_of_the_end() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[ALWAYS]));
    let main = up.started("web", 1);
    let follower = Follower::start(&case, &["-f", "--since", "1h", "--filter", "worker=web"]);
    follower.wait_for(&["web", "started (pid"]);
    main.signal(Signal::KILL);
    follower.wait_for(&["web", "killed"]);
    follower.wait_for(&["web", "restarting now"]);
    let next = up.started("web", 2);
    follower.wait_for(&["web", &format!("started (pid {})", next.pid)]);

    let past: Value = serde_json::from_str(&case.ask("history", &["web", "-o", "json"]).stdout).unwrap();
    let runs: Vec<_> =
        past["runs"].as_array().unwrap().iter().map(|run| (&run["run"], &run["cause"]["kind"])).collect();
    assert_eq!(runs, [(&json!(2), &Value::Null), (&json!(1), &json!("killed_external"))], "{past}");
    assert_eq!(past["runs"][0]["pid"], next.pid);
    let triggers: Vec<_> = past["runs"].as_array().unwrap().iter().map(|run| &run["trigger"]).collect();
    assert_eq!(triggers, [&json!("exit"), &json!("start")], "what began each");
    assert!(case.ask("history", &["web"]).stdout.contains("restart: exit"));
    assert_eq!(case.ask("history", &["web", "-n", "1"]).stdout.lines().count(), 2, "a head and a line");

    let interrupted = Follower::start(&case, &["-f", "--since", "1h"]);
    interrupted.wait_for(&["started (pid"]);
    kill_process(Pid::from_child(&interrupted.child), Signal::INT).unwrap();
    let (code, said) = interrupted.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("pinfold: nothing is kept of what was before ") && said.lines().count() == 1, "{said}");

    let lately = finish(case.pinfold("events").args(["-o", "json", "--filter", "kind=exited"]));
    let exited: Event = serde_json::from_str(lately.stdout.trim()).unwrap();
    assert!(matches!(exited.kind, EventKind::Exited { .. }) && lately.code == Some(0), "{lately:?}");
    let wrong = finish(case.pinfold("events").args(["--filter", "worker=none"]));
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(4), ""), "{wrong:?}");
    assert_eq!(finish(case.pinfold("events").args(["--since", "ten"])).code, Some(2));

    up.stop();
    follower.wait_for(&["web", "stopped at shutdown"]);
    let (code, said) = follower.end();
    assert_eq!((code, said.lines().last()), (Some(0), Some("pinfold: the supervisor has ended")), "{said}");
}

#[test]
fn whoever_comes_back_with_a_cursor_misses_nothing() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let cursors = |after: &str| -> Vec<Value> {
        let mut stream = UnixStream::connect(case.socket()).unwrap();
        let request = format!(
            "GET /v1/events{after} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: application/x-ndjson\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
        body.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
    };
    let first = cursors("");
    let last = first.last().unwrap()["cursor"].as_str().unwrap().to_owned();
    case.ask("restart", &["web"]);
    let more = cursors(&format!("?after={last}"));
    let of_another = cursors("?after=another.1").remove(0);
    let together = sorted(first.iter().chain(&more).cloned());
    up.stop();
    let seqs: Vec<u64> = together.iter().filter(|(worker, ..)| worker == "web").map(|(_, seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "no gap and nothing twice");
    assert!(more.iter().any(|event| event["kind"] == "started"), "{more:?}");
    assert_eq!(of_another["marker"], "gap", "{of_another}");
}

#[test]
fn a_follower_that_does_not_read_slows_nobody_down_and_is_let_go() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[]));
    up.started("web", 1);
    let mut deaf = UnixStream::connect(case.socket()).unwrap();
    deaf.write_all(b"GET /v1/events?follow HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n").unwrap();
    let mut door = Door::open(&case.socket());
    // More than the ring keeps and every buffer on the way holds.
    for _ in 0..8000 {
        let answer = door.post("/v1/workers/web/signal", &json!({ "signal": "WINCH" }));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    deaf.set_read_timeout(Some(patience())).unwrap();
    let (mut text, mut part) = (Vec::new(), vec![0; 64 << 10]);
    while !String::from_utf8_lossy(&text).contains("\"marker\":\"lagged\"") {
        let read = deaf.read(&mut part).unwrap();
        assert_ne!(read, 0, "it was let go without a word: {}", String::from_utf8_lossy(&text[text.len() - 200..]));
        text.extend_from_slice(&part[..read]);
    }
    up.stop();
}
