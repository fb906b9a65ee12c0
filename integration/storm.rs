//! Everything at once, through the control socket and on real processes.
//!
//! `PINFOLD_TEST_SECONDS` makes the storm last longer; `PINFOLD_TEST_SEED` has it choose again what it chose before (when
//! it happens is the machine's part).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use pinfold::{
    clock,
    model::{Decision, Detail, Event, EventKind, Readiness, State, Trigger, Verdict},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Case, MARK,
    door::Door,
    misbehaving, parameter, pause,
    process::Process,
    sight::freezer,
    slowness, tree,
    up::{Up, is},
    wait_until,
};

const WORKERS: usize = 50;
const ROLES: [&str; 3] = ["keeper", "supervisor", "logger"];

/// Who acts at the same time.
const HANDS: usize = 4;
const FIRST_PORT: usize = 20_000;

fn id(worker: usize) -> String {
    format!("w{worker}")
}

/// Every combination of policies and more is somewhere among the fifty.
fn unit(case: &Case, worker: usize) -> String {
    let pick = |of: &[&'static str], n: usize| of[n % of.len()];
    let (lock, told, sick) = (case.file(&format!("lock{worker}")), told(worker), sick(case, worker));
    let port = (FIRST_PORT + worker).to_string();
    let limits = format!(
        "limits: {{memory: {{max_rss: 40MiB, high: 16MiB, oom_scope: {}, policy: {}, high_policy: {}, \
         throttle_deadline: 1s}}, pids: {{max: 6, policy: {}}}}}",
        pick(&["worker", "process"], worker),
        pick(&["log", "restart", "graceful_shutdown", "immediate_kill"], worker),
        pick(&["log", "throttle", "restart", "graceful_shutdown", "immediate_kill"], worker / 2),
        pick(&["restart", "log", "immediate_kill", "graceful_shutdown", "alert"], worker / 3),
    );
    let restart = format!(
        "restart: {{policy: {}, retry_delay: {}, max_retries: {}, cooldown: 1s, reset_after: 5s}}",
        pick(&["always", "on-failure", "unless-stopped", "never"], worker / 5),
        pick(&["0s", "100ms", "1s"], worker),
        pick(&["0", "3", "1"], worker / 4),
    );
    // Programs cost more than requests: a few.
    let probe = if worker.is_multiple_of(10) {
        format!("exec: {{command: [/usr/bin/test, \"!\", -e, {sick:?}]}}")
    } else {
        format!("http_get: {{port: {port}}}")
    };
    let kind = pick(&["liveness", "liveness", "readiness", "startup"], worker);
    // A program that has just begun may not listen yet, on a slow machine for a while.
    let slow = slowness();
    let health = format!(
        "health_check: {{{kind}: {{{probe}, initial_delay: {slow}00ms, period: 1s, timeout: {slow}s, failure_threshold: 1}}}}"
    );
    let stop = format!(
        "stop: {{timeout: {}, kill_mode: {}}}",
        pick(&["500ms", "2s"], worker),
        pick(&["mixed", "group"], worker / 2)
    );
    misbehaving(&id(worker), &["life", &lock, &case.file(&told), &sick, &port], &[&limits, &restart, &health, &stop])
}

fn told(worker: usize) -> String {
    format!("told{worker}")
}

fn sick(case: &Case, worker: usize) -> String {
    case.file(&format!("sick{worker}"))
}

/// What one hand does until the storm is over.
struct Hand<'a> {
    case: &'a Case,
    door: Door,
    rng: fastrand::Rng,
    /// How often it did what, and what came of it.
    done: BTreeMap<String, u32>,
}

impl Hand<'_> {
    fn act(&mut self) {
        let worker = self.rng.usize(..WORKERS);
        let (wait, force) = (self.rng.u8(..4) == 0, self.rng.bool());
        let few = format!("w{}?", self.rng.u8(1..5));
        match self.rng.u32(..100) {
            0..12 => self.signal(worker, &["HUP", "TERM", "INT", "ABRT", "RTMIN+3"]),
            12..25 => self.signal(worker, &["USR1", "USR2", "ALRM"]),
            25..33 => self.stranger(worker),
            33..41 => self.health(worker),
            41..46 => self.ask("freeze", &id(worker), &json!({ "wait": wait, "timeout": "1s" })),
            46..49 => self.ask("thaw", &id(worker), &json!({ "wait": wait, "timeout": "1s" })),
            49 => self.ask(if force { "freeze" } else { "thaw" }, &few, &json!({ "wait": false })),
            50..65 => self.ask("start", &id(worker), &json!({ "wait": wait, "timeout": "2s" })),
            65..75 => self.ask("restart", &id(worker), &json!({ "wait": false, "force": force })),
            75..82 => self.ask("stop", &id(worker), &json!({ "wait": wait, "timeout": "1s" })),
            82..88 => self.ask("kill", &id(worker), &json!({ "wait": false })),
            88..91 => self.ask("reset", &id(worker), &json!({})),
            91..93 => self.ask("start", &few, &json!({ "wait": false })),
            93 => self.ask("restart", "w*", &json!({ "wait": false })),
            94..96 => self.by_command(worker),
            _ => self.all_of_it(worker),
        }
    }

    fn count(&mut self, what: String) {
        *self.done.entry(what).or_default() += 1;
    }

    fn ask(&mut self, verb: &str, pattern: &str, ask: &Value) {
        let path = format!("/v1/workers/{}/{verb}", pattern.replace('?', "%3F"));
        let answer = self.door.post(&path, ask);
        // Done, not running, in the way of another, refused by the breaker, too late: whatever it is, it is an answer.
        let code = answer.body["code"].as_str().unwrap_or("ok").to_owned();
        self.count(format!("{verb} {} {code}", answer.status));
        let failed: Vec<&Value> = answer.body["results"].as_array().map_or_else(Vec::new, |all| {
            all.iter().filter(|one| one["outcome"] == "failed").map(|one| &one["code"]).collect()
        });
        let of_many = failed.len() > 1 && !failed.contains(&&json!("failed"));
        assert!(answer.status < 500 || answer.status == 504 || of_many, "{verb} {pattern}: {answer:?}");
    }

    fn signal(&mut self, worker: usize, of: &[&str]) {
        let signal = of[self.rng.usize(..of.len())];
        self.ask("signal", &id(worker), &json!({ "signal": signal }));
    }

    /// A SIGKILL that nobody here has sent.
    fn stranger(&mut self, worker: usize) {
        let status = self.door.get(&format!("/v1/workers/{}", id(worker))).body;
        let Some(main) = status["pid"].as_i64().and_then(|pid| Process::open(i32::try_from(pid).unwrap())) else {
            return;
        };
        // Its number may be another's by now.
        let [(_, mark)] = self.case.mark();
        if main.file("environ").split('\0').any(|v| v == format!("{MARK}={mark}")) && main.alive() {
            main.signal_if_there(Signal::KILL);
            self.count("a stranger's SIGKILL".to_owned());
        }
    }

    fn health(&mut self, worker: usize) {
        let sick = sick(self.case, worker);
        if Path::new(&sick).exists() {
            drop(fs::remove_file(sick));
        } else {
            fs::write(sick, "").unwrap();
        }
        self.count("sick or well".to_owned());
    }

    fn by_command(&mut self, worker: usize) {
        let verbs = ["start", "stop", "restart", "kill", "status", "why", "freeze", "thaw", "set", "set"];
        let verb = verbs[self.rng.usize(..verbs.len())];
        let mut command = self.case.pinfold(verb);
        command.arg(id(worker));
        if verb == "set" {
            // One that shrinks freezes what it is about.
            command.arg(format!("memory.max_rss={}MiB", self.rng.u8(20..40)));
        }
        let ran = support::run::finish(&mut command);
        // A connection that idles for as long as a command may take is closed.
        self.door = Door::open(&self.case.socket());
        self.count(format!("pinfold {verb}: {:?}", ran.code));
        assert!(ran.code.is_some_and(|code| ![2, 5, 6].contains(&code)), "pinfold {verb}: {ran:?}");
    }

    /// Exit, violations, a person's wishes: nobody has waited for anybody.
    fn all_of_it(&mut self, worker: usize) {
        let id = id(worker);
        for signal in ["USR1", "USR2", "HUP"] {
            self.ask("signal", &id, &json!({ "signal": signal }));
        }
        self.stranger(worker);
        for verb in ["freeze", "restart", "stop", "start", "freeze", "thaw", "kill", "start"] {
            if self.rng.bool() {
                self.ask(verb, &id, &json!({ "wait": false }));
            }
        }
    }
}

/// What our own processes hold: descriptors, threads, inotify watches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    descriptors: Vec<String>,
    threads: usize,
    watches: usize,
}

impl Held {
    fn by(process: &Process) -> Self {
        let list = |dir: &str| fs::read_dir(format!("/proc/{}/{dir}", process.pid)).unwrap().flatten();
        // Without the numbers of pipes and sockets, of which every one has another.
        let target = |e: fs::DirEntry| {
            let to = fs::read_link(e.path()).unwrap_or_default().to_string_lossy().into_owned();
            to.split_once(":[").map_or(to.clone(), |(kind, _)| kind.to_owned())
        };
        let mut descriptors: Vec<String> = list("fd").map(target).collect();
        descriptors.sort();
        let watches = |e: fs::DirEntry| fs::read_to_string(e.path()).unwrap_or_default().matches("inotify wd:").count();
        Self { descriptors, threads: list("task").count(), watches: list("fdinfo").map(watches).sum() }
    }

    fn fits_in(&self, before: &Self) -> bool {
        self.descriptors.len() <= before.descriptors.len()
            && self.threads <= before.threads
            && self.watches <= before.watches
    }
}

/// Prints what is needed to have it again, where it fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the storm's seed: PINFOLD_TEST_SEED={}", self.0);
        }
    }
}

#[test]
fn a_storm_leaves_one_life_a_worker_at_most_and_nothing_behind() {
    let case = Case::with_limits(true);
    let seed = Seed(parameter("PINFOLD_TEST_SEED").unwrap_or_else(|| fastrand::u64(..)));
    let time = Duration::from_secs(parameter("PINFOLD_TEST_SECONDS").unwrap_or(20));
    let mut up = Up::start(&case, &(0..WORKERS).map(|worker| unit(&case, worker)).collect::<String>());
    for worker in (0..WORKERS).map(id) {
        up.wait_for("its program runs", |e| is(e, &worker) && matches!(e.kind, EventKind::Started { .. }));
    }
    let roles = ROLES.map(|role| case.role(role));
    let calm = |up: &mut Up| {
        case.ask("stop", &["*", "--timeout", "300s"]);
        up.watch(Duration::from_millis(1));
    };
    calm(&mut up);
    let before = roles.each_ref().map(Held::by);
    case.ask("start", &["*", "--timeout", "300s"]);

    let over = clock::monotonic() + time;
    let done = std::thread::scope(|scope| {
        let case = &case;
        let hands: Vec<_> = (0..HANDS as u64)
            .map(|hand| {
                let rng = fastrand::Rng::with_seed(seed.0.wrapping_add(hand));
                scope.spawn(move || {
                    let mut hand = Hand { case, door: Door::open(&case.socket()), rng, done: BTreeMap::new() };
                    while clock::monotonic() < over {
                        hand.act();
                        pause(Duration::from_millis(hand.rng.u64(..40)));
                    }
                    hand.done
                })
            })
            .collect();
        // Its pipe must not fill up meanwhile.
        up.watch(time);
        hands.into_iter().map(|hand| hand.join().unwrap()).collect::<Vec<_>>()
    });
    for worker in 0..WORKERS {
        drop(fs::remove_file(sick(&case, worker)));
    }
    let frozen = (0..WORKERS).filter(|worker| is_told_as_it_is(&case, *worker)).count();
    calm(&mut up);

    // Nothing is left of it, while the supervisor lives.
    let told = case.ask("ps", &["-a", "-o", "json"]).stdout;
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("ps -o json: {e}: {told}"));
    assert_eq!(tree::run_dirs(&case.root), Vec::<String>::new());
    let ours = |line: &String| roles.iter().any(|role| line.starts_with(&format!("process {} ", role.pid)));
    let strangers: Vec<String> = case.processes().into_iter().filter(|line| !ours(line)).collect();
    assert_eq!(strangers, Vec::<String>::new());
    for ((role, name), before) in roles.iter().zip(ROLES).zip(&before) {
        // A thread for what blocks goes after a while without work.
        wait_until(&format!("{name} holds no more than {before:?}"), || Held::by(role).fits_in(before).then_some(()));
    }
    up.stop();

    let mut all: BTreeMap<String, u32> = BTreeMap::new();
    done.into_iter().flatten().for_each(|(what, n)| *all.entry(what).or_default() += n);
    let runs = up.seen.iter().filter(|e| matches!(e.kind, EventKind::Started { .. })).count();
    eprintln!(
        "storm: {runs} runs in {time:?}, {} events, {frozen} frozen at its end, seed {}: {all:?}",
        up.seen.len(),
        seed.0
    );
    assert_eq!(told["workers"].as_array().map(Vec::len), Some(WORKERS), "{told}");
    for worker in told["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "stopped", "{worker}");
    }
    for worker in 0..WORKERS {
        lives_fit(&case, &up, worker);
        no_wish_is_ignored(&up.of(&id(worker)).collect::<Vec<_>>());
        nobody_is_frozen_unasked(&up.of(&id(worker)).collect::<Vec<_>>());
    }
}

/// What the programs stamped of their lives, against what was told of their runs.
fn lives_fit(case: &Case, up: &Up, worker: usize) {
    let name = id(worker);
    let (mut started, mut ended) = (BTreeMap::new(), BTreeSet::new());
    for event in up.of(&name) {
        let run = event.run.unwrap_or_default();
        match event.kind {
            EventKind::Started { pid } => assert_eq!(started.insert(run, pid), None, "{name}.{run} started twice"),
            EventKind::Exited { .. } => assert!(ended.insert(run), "{name}.{run} ended twice"),
            _ => {}
        }
    }
    let unended: Vec<&u32> = started.keys().filter(|run| !ended.contains(*run)).collect();
    assert!(unended.is_empty(), "{name}: runs {unended:?} have no end");
    let mut last = 0;
    for stamp in case.told(&told(worker)) {
        let words: Vec<&str> = stamp.split(' ').collect();
        let [what, pid, run] = words[..] else { panic!("{name}: what is {stamp:?}?") };
        let run: u32 = run.parse().unwrap();
        assert_ne!(what, "second", "{name}: two lives at once: {stamp}");
        assert_eq!(started.get(&run).map(ToString::to_string).as_deref(), Some(pid), "{name}: {stamp}");
        if what == "begin" {
            assert!(run > last, "{name}: {stamp} after run {last}");
            last = run;
        }
    }
}

/// After a stop or a kill by a person, and after a final policy, nothing begins until a person starts it again.
fn no_wish_is_ignored(events: &[&Event]) {
    let mut down: Option<&Event> = None;
    for event in events {
        match &event.kind {
            EventKind::Operator { what, .. } if ["stop", "kill"].contains(&what.as_str()) => down = Some(event),
            EventKind::Operator { .. } => down = None,
            EventKind::Decision(Decision {
                trigger: Trigger::Violation,
                verdict: Verdict::Stop | Verdict::Kill,
                ..
            }) => {
                down = Some(event);
            }
            EventKind::State { state: State::Starting, detail: Detail::Preparing } => {
                assert!(down.is_none(), "a new run in spite of {:?}: {event:?}", down.map(|e| &e.kind));
            }
            _ => {}
        }
    }
}

/// Waits until what is told of one that runs is what its cgroup says; whether it is frozen.
fn is_told_as_it_is(case: &Case, worker: usize) -> bool {
    let name = id(worker);
    let mut door = Door::open(&case.socket());
    wait_until(&format!("it is told whether {name} is frozen"), || {
        let status = door.get(&format!("/v1/workers/{name}")).body;
        let run = status["run"].as_u64().and_then(|run| u32::try_from(run).ok()).unwrap();
        match status["state"].as_str() {
            Some("running") => {
                let told = status["detail"] == "frozen";
                (freezer(&case.run_dir(&name, run)) == (told, told)).then_some(told)
            }
            Some("stopped") => Some(false),
            _ => None,
        }
    })
}

/// A run is frozen after a person has asked for that, and its health decides nothing while it is.
fn nobody_is_frozen_unasked(events: &[&Event]) {
    let mut asked = BTreeSet::new();
    let mut frozen = false;
    for event in events {
        match &event.kind {
            EventKind::Operator { what, .. } if what == "freeze" => drop(asked.insert(event.run)),
            EventKind::State { detail, .. } => {
                frozen = *detail == Detail::Running(Readiness::Frozen);
                assert!(!frozen || asked.contains(&event.run), "nobody has asked for it: {event:?}");
            }
            EventKind::Decision(Decision { trigger: Trigger::Health, .. }) => {
                assert!(!frozen, "the health of one that is frozen: {event:?}");
            }
            _ => {}
        }
    }
}
