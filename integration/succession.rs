//! What clients notice where one supervisor follows another, because its binary was replaced or because it was killed: nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use pinfold::model::EventKind;
use rustix::process::Signal;
use serde_json::Value;
use support::{Case, door::Door, misbehaving, run::finish, up::Up, wait_until, worker};

/// How one comes to follow another.
#[derive(Debug, Clone, Copy)]
enum How {
    Replaced,
    Killed,
}

const BOTH: [How; 4] = [How::Replaced, How::Killed, How::Killed, How::Replaced];

impl How {
    /// Has it done, and waits until the next one answers.
    fn carry_out(self, case: &Case) {
        let old = case.role("supervisor");
        match self {
            Self::Replaced => {
                let ran = finish(&mut case.pinfold("reexec"));
                assert_eq!(ran.code, Some(0), "{ran:?}");
            }
            Self::Killed => old.signal(Signal::KILL),
        }
        old.wait_gone("the old supervisor");
        wait_until("another one answers", || Door::ask_whoever_is_there(&case.socket(), "/v1/health"));
    }
}

/// A command that goes on, and the lines that it has printed.
struct Following {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Following {
    fn new(case: &Case, subcommand: &str, args: &[&str]) -> Self {
        let mut command = case.pinfold(subcommand);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&lines);
        let reader = thread::spawn(move || out.lines().for_each(|line| theirs.lock().unwrap().push(line.unwrap())));
        Self { child, lines, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        wait_until(what, || self.lines().iter().any(|line| wanted(line)).then_some(()));
    }

    /// Waits for its end: its code, its lines, and what it has said on stderr.
    fn end(mut self) -> (Option<i32>, Vec<String>, String) {
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, self.lines(), said)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Already over, but where a test has failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn whoever_asks_meanwhile_is_answered_by_the_next_one() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    let main = up.started("w", 1);
    let (over, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let ran = finish(case.pinfold("ps").arg("-q"));
                assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "w\n"), "{ran:?}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        for how in BOTH {
            let before = asked.load(Ordering::Relaxed);
            how.carry_out(&case);
            wait_until("somebody has asked", || (asked.load(Ordering::Relaxed) > before).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(main.alive());
    // What is asked once it is over is told at once that there is nobody.
    let down = finish(&mut case.pinfold("down"));
    assert_eq!(down.code, Some(0), "{down:?}");
    let nobody = finish(&mut case.pinfold("ps"));
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert!(nobody.stderr.contains("no supervisor answers"), "{nobody:?}");
    up.reap_killed();
}

#[test]
fn whoever_follows_output_has_every_line_once_and_ends_with_the_last_supervisor() {
    let case = Case::new();
    let ticks = case.file("ticks");
    let mut up = Up::start(&case, &misbehaving("writer", &["tick", &ticks], &[]));
    up.started("writer", 1);
    let ways: [&[&str]; 2] = [&["writer", "-f"], &["writer", "-f", "-o", "json"]];
    let followers = ways.map(|args| Following::new(&case, "logs", args));
    let is_there = |n: usize| {
        wait_until("it writes", || (case.told("ticks").len() >= n).then_some(()));
        for follower in &followers {
            follower.wait_for("a line", |line| line.contains(&format!("tick {n}")));
        }
    };
    is_there(1);
    for how in BOTH {
        how.carry_out(&case);
        is_there(case.told("ticks").len() + 2);
    }
    let followed = case.told("ticks").len();
    is_there(followed);
    assert_eq!(finish(&mut case.pinfold("down")).code, Some(0));
    for (follower, args) in followers.into_iter().zip(ways) {
        let (code, lines, said) = follower.end();
        assert_eq!((code, said.as_str()), (Some(0), "pinfold: the supervisor has ended\n"), "{args:?}");
        assert!(lines.len() >= followed, "{args:?}: {} of {followed}", lines.len());
        for (i, line) in lines.iter().enumerate() {
            let text = match serde_json::from_str::<Value>(line) {
                Ok(object) => {
                    assert_eq!(object.get("cursor"), None, "nobody has asked for it: {line}");
                    object["line"].as_str().unwrap().to_owned()
                }
                Err(_) => line.clone(),
            };
            assert_eq!(text, format!("tick {}", i + 1), "{args:?}");
        }
    }
    up.reap_killed();
}

#[test]
fn whoever_follows_events_has_each_once_of_one_supervisor_after_the_other() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    up.started("w", 1);
    let all = Following::new(&case, "events", &["-f", "--since", "10m", "-o", "json"]);
    let few = Following::new(&case, "events", &["-f", "-o", "json", "--filter", "kind=started"]);
    let started = |line: &str, run: u64| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["kind"] == "started" && event["run"] == run
    };
    all.wait_for("the first run", |line| started(line, 1));
    let runs = 2..2 + u64::try_from(BOTH.len()).unwrap();
    for (how, run) in BOTH.into_iter().zip(runs.clone()) {
        // The first time nothing that the second one wants has ever come.
        how.carry_out(&case);
        case.ask("restart", &["w"]);
        for follower in [&all, &few] {
            follower.wait_for("the next run", |line| started(line, run));
        }
    }
    assert_eq!(finish(&mut case.pinfold("down")).code, Some(0));
    let (code, lines, said) = all.end();
    let [gap, end] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(gap.starts_with("pinfold: nothing is kept of what was before "), "{said}");
    assert_eq!((code, end), (Some(0), "pinfold: the supervisor has ended"));
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cursors: HashSet<&str> = events.iter().map(|event| event["cursor"].as_str().unwrap()).collect();
    assert_eq!(cursors.len(), events.len(), "each once");
    let epochs: Vec<u64> = events.iter().map(|event| event["epoch"].as_u64().unwrap()).collect();
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "{epochs:?}");
    let (code, lines, said) = few.end();
    assert_eq!((code, said.as_str()), (Some(0), "pinfold: the supervisor has ended\n"));
    assert_eq!(lines.len(), runs.clone().count(), "{lines:?}");
    assert!(lines.iter().zip(runs).all(|(line, run)| started(line, run)), "{lines:?}");
    up.reap_killed();
}

#[test]
fn whoever_follows_is_told_where_the_supervisor_is_lost_with_all_that_would_replace_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &worker("w", &["/bin/sleep", "1000"], &[]));
    up.started("w", 1);
    let events = Following::new(&case, "events", &["-f", "--since", "10m"]);
    events.wait_for("the first run", |line| line.contains("started"));
    let supervisor = case.role("supervisor");
    case.role("keeper").signal(Signal::KILL);
    supervisor.signal_if_there(Signal::KILL);
    let (code, _, said) = events.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it has ended, or was killed"), "{said}");
    up.reap_killed();
    let mut next = Up::again(&case);
    next.wait_for("it goes on", |e| matches!(&e.kind, EventKind::Supervisor { what } if what.contains("adopted")));
    next.stop();
    assert!(!fs::exists(case.socket()).unwrap());
}
