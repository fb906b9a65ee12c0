//! Our own processes are killed at random, again and again, under load, while workers are frozen and thawed: no worker notices,
//! no exit is told wrongly, who is frozen stays so, and no line is lost, but for what is written after its logger has died
//! without a keeper.
//!
//! `PINFOLD_CHAOS_WORKERS` and `PINFOLD_CHAOS_KILLS` make it larger; `PINFOLD_CHAOS_SEED` has it choose again what it chose
//! before (when it happens is the machine's part). On a machine that nobody else uses, `PINFOLD_CHAOS_WITHIN_MS` is the most
//! that a re-attachment may take, beyond the pause that the keeper makes before it starts a role again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "chaos/frozen.rs"]
mod frozen;
mod support;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use frozen::Frozen;
use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, KilledBy, Mono, UnknownWhy},
};
use rustix::process::Signal;
use serde_json::Value;
use support::{
    Case, door::Door, misbehaving, parameter, patience, pause, process::Process, scaled, tree, truth::Truth, up::Up,
    wait_until,
};

/// How many exit again and again, with codes that they tell first.
const CODED: usize = 12;
const CODED_WITHIN: &str = "600";
const PACE: &str = "50";
/// Small files, and no end to their number.
const LOGS: &str = "logs: {max_size: 64KiB, max_files: 1000}";

/// Whom a round kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Supervisor,
    Keeper,
    Logger,
    SupervisorAndLogger,
    Everybody,
    /// Nobody: the supervisor hands over to the next one, by `reexec`.
    Replaced,
}

impl Whom {
    const ALL: [Self; 6] =
        [Self::Supervisor, Self::Keeper, Self::Logger, Self::SupervisorAndLogger, Self::Everybody, Self::Replaced];

    fn keeper(self) -> bool {
        matches!(self, Self::Keeper | Self::Everybody)
    }

    fn supervisor(self) -> bool {
        matches!(self, Self::Supervisor | Self::SupervisorAndLogger | Self::Everybody)
    }

    fn logger(self) -> bool {
        matches!(self, Self::Logger | Self::SupervisorAndLogger | Self::Everybody)
    }
}

/// What a worker does, and when a person restarts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sleeps; never restarted.
    Quiet,
    /// Writes; restarted only after everybody's death, which has taken its pipe.
    Steady,
    /// Writes; restarted after every death of a keeper, so that the logger that is killed next has its pipe.
    Fresh,
}

impl Kind {
    fn of(worker: usize) -> Self {
        [Self::Quiet, Self::Steady, Self::Fresh][worker % 3]
    }

    fn restarted_after(self, whom: Whom) -> bool {
        match self {
            Self::Quiet => false,
            Self::Steady => whom == Whom::Everybody,
            Self::Fresh => whom.keeper(),
        }
    }
}

/// The one life of a worker there may be now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    kind: Kind,
    run: u32,
    pid: i32,
    start_ticks: i64,
}

/// A time in which no keeper could have seen an exit.
#[derive(Debug, Clone, Copy)]
struct Unseen {
    from: Mono,
    to: Mono,
}

/// Prints what is needed to have it again, where it fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the chaos' seed: PINFOLD_CHAOS_SEED={}", self.0);
        }
    }
}

struct Chaos<'a> {
    case: &'a Case,
    up: Up,
    /// Those whose keeper was killed.
    gone: Vec<Up>,
    lives: BTreeMap<String, Life>,
    unseen: Vec<Unseen>,
    kills: Vec<(Mono, Whom)>,
    /// How often an `up` was refused because the one before had not ended.
    refused: u32,
    took: BTreeMap<Whom, Vec<Duration>>,
    frozen: Frozen,
}

/// What a supervisor says of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    run: u32,
    pid: i32,
    frozen: bool,
}

/// The most that the keeper waits before it starts a role again that was at work.
const KEEPERS_PAUSE: Duration = Duration::from_secs(1);

fn id(worker: usize) -> String {
    match Kind::of(worker) {
        Kind::Quiet => format!("q{worker}"),
        Kind::Steady => format!("s{worker}"),
        Kind::Fresh => format!("f{worker}"),
    }
}

fn coded(worker: usize) -> String {
    format!("coded{worker}")
}

/// `reset_after` is what a reload changes, of every worker.
fn configuration(case: &Case, workers: usize, reset_after: usize) -> String {
    let always = format!("restart: {{policy: always, retry_delay: 0s, max_retries: 0, reset_after: {reset_after}s}}");
    let mut config = String::new();
    for worker in 0..workers {
        let (id, file) = (id(worker), case.file(&id(worker)));
        config += &match Kind::of(worker) {
            Kind::Quiet => misbehaving(&id, &["sleep"], &[&always]),
            Kind::Steady | Kind::Fresh => misbehaving(&id, &["count", PACE, &file], &[&always, LOGS]),
        };
    }
    for worker in (0..CODED).map(coded) {
        config += &misbehaving(&worker, &["coded", CODED_WITHIN, &case.file(&worker)], &[&always]);
    }
    config
}

/// Where the output of a run is, in the order in which it was written.
fn segments(case: &Case, worker: &str, run: u32) -> Vec<PathBuf> {
    let dir = case.dir.path().join("state/logs").join(worker);
    let first = format!("{run}.stdout");
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(&first)?;
        if name.is_empty() { Some(0) } else { name.strip_prefix('.')?.parse::<u32>().ok() }
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut found: Vec<(u32, PathBuf)> = entries.filter_map(|p| Some((number(&p)?, p))).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn written(case: &Case, worker: &str, run: u32) -> u64 {
    segments(case, worker, run).iter().filter_map(|p| Some(fs::metadata(p).ok()?.len())).sum()
}

/// Which logger the keeper has: others may go on for what earlier keepers have started.
fn logger_of(case: &Case, keeper: i32) -> Option<Process> {
    let mut loggers = tree::procs(&case.root.join("logger")).into_iter().filter_map(Process::open);
    loggers.find(|logger| logger.status("PPid") == keeper.to_string())
}

impl Chaos<'_> {
    /// What the supervisor says of those that are to live: `None` where one of them does not run.
    fn told(&self) -> Option<BTreeMap<String, Told>> {
        let answer = Door::ask_whoever_is_there(&self.case.socket(), "/v1/workers")?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut told = BTreeMap::new();
        for worker in answer.body["workers"].as_array().unwrap() {
            let name = worker["id"].as_str().unwrap();
            if name.starts_with("coded") {
                continue;
            }
            let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
            let (run, pid) = (u32::try_from(number(&worker["run"])?).unwrap(), number(&worker["pid"])?);
            if worker["state"] != "running" {
                return None;
            }
            told.insert(name.to_owned(), Told { run, pid, frozen: worker["detail"] == "frozen" });
        }
        Some(told)
    }

    /// Takes down who lives now. Those that a person restarted are in their next run, all others where they were.
    fn learn(&mut self, workers: usize, restarted: impl Fn(Kind) -> bool) {
        let told = wait_until("all run", || self.told());
        for worker in 0..workers {
            let name = id(worker);
            let Told { run, pid, .. } = told[&name];
            let start_ticks = Process::open(pid).unwrap_or_else(|| panic!("{name} is gone")).stat(22);
            let life = Life { kind: Kind::of(worker), run, pid, start_ticks };
            let before = self.lives.insert(name.clone(), life);
            match before {
                Some(before) if !restarted(before.kind) => assert_eq!(life, before, "{name}"),
                before => assert_eq!(run, before.map_or(0, |b| b.run) + 1, "{name}"),
            }
        }
    }

    fn round(&mut self, whom: Whom, rng: &mut fastrand::Rng) {
        let begun = self.frozen.begin(self.case, &self.lives, rng);
        let reload = rng.u8(..3) == 0;
        let reload = reload.then(|| {
            let mut command = self.case.pinfold("reload");
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        // From before they are taken notice of to after they are answered.
        pause(Duration::from_millis(rng.u64(..60)));
        self.kill(whom);
        self.frozen.finish(self.case, &self.lives, begun);
        if let Some(mut reload) = reload {
            reload.wait().unwrap();
        }
    }

    fn kill(&mut self, whom: Whom) {
        let keeper = self.up.pid();
        let supervisor = self.case.role("supervisor");
        let logger = wait_until("the keeper's logger", || logger_of(self.case, keeper));
        let killed = clock::monotonic();
        self.kills.push((killed, whom));
        if whom.keeper() {
            self.up.signal(Signal::KILL);
        }
        if whom.supervisor() {
            supervisor.signal_if_there(Signal::KILL);
        }
        if whom.logger() {
            logger.signal(Signal::KILL);
        }
        if whom == Whom::Everybody {
            // Those that have outlived their keepers, too.
            for logger in tree::procs(&self.case.root.join("logger")).into_iter().filter_map(Process::open) {
                logger.signal_if_there(Signal::KILL);
            }
        }
        let allowed = if whom.keeper() || whom == Whom::Replaced { Duration::ZERO } else { KEEPERS_PAUSE };
        if whom.keeper() {
            self.up.reap_killed();
            self.gone.push(std::mem::replace(&mut self.up, Up::again(self.case)));
        }
        if whom == Whom::Replaced {
            self.case.ask("reexec", &[]);
        }
        if whom.keeper() || whom.supervisor() || whom == Whom::Replaced {
            supervisor.wait_gone("the supervisor without its keeper");
        }
        let told = self.wait_supervised();
        if whom.logger() {
            let keeper = self.up.pid();
            wait_until("another logger", || logger_of(self.case, keeper).filter(|l| l.pid != logger.pid));
        }
        let now = clock::monotonic();
        let took = now.since(killed);
        self.took.entry(whom).or_default().push(took);
        if whom.keeper() {
            self.unseen.push(Unseen { from: killed, to: now });
        }
        for (name, life) in &self.lives {
            let Told { run, pid, .. } = told[name];
            assert_eq!((run, pid), (life.run, life.pid), "{name} after {whom:?}");
        }
        eprintln!("{whom:?}: {took:?} of which the keeper's pause {allowed:?}");
        // Whoever hands over first sees to its own end.
        let within = parameter("PINFOLD_CHAOS_WITHIN_MS").map(Duration::from_millis);
        if let Some(within) = within.filter(|_| whom != Whom::Replaced) {
            assert!(took < within + allowed, "{whom:?}: {took:?}, and {allowed:?} for the keeper's pause");
        }
    }

    /// Waits until all are supervised; what is told of them. One whose place is not free yet is started again.
    fn wait_supervised(&mut self) -> BTreeMap<String, Told> {
        let started = clock::monotonic();
        loop {
            if let Some(code) = self.up.over() {
                let stderr = self.up.stderr();
                let busy = ["is in use by another pinfold", "another supervisor listens"];
                assert!(code == 1 && busy.iter().any(|b| stderr.contains(b)), "up ended with {code}: {stderr}");
                eprintln!("refused: {stderr}");
                self.refused += 1;
                self.up = Up::again(self.case);
            }
            if let Some(told) = self.told() {
                return told;
            }
            let waited = clock::monotonic().since(started);
            assert!(waited < patience(), "after {waited:?} not all are supervised: {}", self.up.stderr());
            pause(Duration::from_millis(5));
        }
    }

    /// The very processes, by `/proc` alone.
    fn nobody_has_noticed(&self) {
        for (name, life) in &self.lives {
            let process = Process::open(life.pid).unwrap_or_else(|| panic!("{name} is gone: {life:?}"));
            assert!(process.alive(), "{name} is dead: {life:?}");
            assert_eq!(process.stat(22), life.start_ticks, "{name}");
            assert_eq!(process.cgroup(), self.case.run_dir(name, life.run), "{name}");
        }
    }

    fn who_is_frozen_is_so(&mut self) {
        // What a command that was cut short has asked for is told when it is so.
        wait_until("it is told who is frozen", || {
            let told = self.told()?;
            self.lives.keys().all(|name| told[name].frozen == self.frozen.is(name)).then_some(())
        });
        let told = self.told().unwrap().into_iter().map(|(name, told)| (name, told.frozen)).collect();
        self.frozen.assert_so(self.case, &self.lives, &told);
    }

    /// What is written from now on arrives, except in the pipes that nobody has any more.
    fn output_goes_on(&self, whom: Whom) {
        let writers = self.lives.iter().filter(|(name, life)| life.kind != Kind::Quiet && !self.frozen.is(name));
        let writers = writers.filter(|_| whom != Whom::Everybody);
        let before: Vec<_> = writers.map(|(name, life)| (name, life.run, written(self.case, name, life.run))).collect();
        for (name, run, before) in before {
            wait_until(&format!("more output of {name} after {whom:?}"), || {
                (written(self.case, name, run) > before).then_some(())
            });
        }
    }

    fn restart(&mut self, workers: usize, whom: Whom) {
        for (kind, pattern) in [(Kind::Steady, "s*"), (Kind::Fresh, "f*")] {
            if kind.restarted_after(whom) {
                self.case.ask("restart", &[pattern, "--timeout", "120s"]);
            }
        }
        self.learn(workers, |kind| kind.restarted_after(whom));
        self.frozen.begin_anew(&self.lives, |kind| kind.restarted_after(whom));
        self.who_is_frozen_is_so();
    }
}

/// A run's output holds every number from 1 on, up to the last that its program could write, and no other.
fn gapless(case: &Case, worker: &str, run: u32, cut: bool) {
    let last = fs::read_to_string(case.file(&format!("{worker}.{run}"))).unwrap();
    let last: u64 = last.parse().unwrap_or_else(|e| panic!("{worker}.{run}: {last:?}: {e}"));
    let files = segments(case, worker, run);
    let text: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap()).collect();
    let text = String::from_utf8(text).unwrap();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if cut {
        // What was on its way when the logger died is lost with it.
        lines.pop_if(|line| !line.ends_with('\n'));
    }
    for (line, n) in lines.iter().zip(1_u64..) {
        assert_eq!(line.trim_end().trim_end_matches('x'), format!("{n} "), "line {n} of {worker}.{run}: {line:?}");
    }
    let lines = lines.len() as u64;
    // One may have been written and not counted when it was ended.
    let fits = if cut { lines <= last + 1 } else { lines == last || lines == last + 1 };
    assert!(fits, "{worker}.{run}: {lines} lines in {} files, {last} were written", files.len());
}

/// How each run of a worker ended, as the store has it.
fn past(case: &Case, worker: &str) -> BTreeMap<u32, ExitCause> {
    let answer = Door::open(&case.socket()).get(&format!("/v1/history?worker={worker}&limit=1000"));
    let ended = |run: &Value| {
        let cause = serde_json::from_value(run["cause"].clone()).ok()?;
        Some((u32::try_from(run["run"].as_u64()?).unwrap(), cause))
    };
    answer.body["runs"].as_array().unwrap().iter().filter_map(ended).collect()
}

/// What was told of the exits, over all supervisors.
#[derive(Debug, Default)]
struct Exits {
    told: u32,
    exact: u32,
    unknown: u32,
    /// By two supervisors, as the same.
    twice: u32,
    /// In the store, while the supervisor that had it printed was killed before it was.
    unprinted: u32,
    /// Those that nobody has told although a keeper lived: missing, or unknown to the next supervisor.
    untold: Vec<(String, u32, Mono)>,
}

/// `remembered`: what the store says of each worker's runs.
fn exits(
    case: &Case,
    ups: &[Up],
    unseen: &[Unseen],
    frozen: &Frozen,
    remembered: &BTreeMap<String, BTreeMap<u32, ExitCause>>,
) -> Exits {
    let mut told: BTreeMap<(String, u32), Vec<ExitCause>> = BTreeMap::new();
    for event in ups.iter().flat_map(|up| &up.seen) {
        if let (EventKind::Exited { cause, .. }, Some(worker), Some(run)) = (&event.kind, &event.worker, event.run) {
            told.entry((worker.to_string(), run)).or_default().push(cause.clone());
        }
    }
    let mut exits = Exits::default();
    for worker in (0..CODED).map(coded) {
        let mut last = 0;
        for line in case.told(&worker) {
            let words: Vec<i64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [run, code, ns] = words[..] else { panic!("{worker}: {line}") };
            let (run, code) = (u32::try_from(run).unwrap(), i32::try_from(code).unwrap());
            assert!(run > last, "{worker}: run {run} after run {last}");
            last = run;
            let at = Mono(Duration::from_nanos(u64::try_from(ns).unwrap()));
            // Between its word and its end it may have been kept waiting.
            let until = frozen.may_have_ended(&worker, at, scaled(Duration::from_secs(1)));
            let blind = unseen.iter().any(|u| until >= u.from && at <= u.to);
            let causes = told.get(&(worker.clone(), run)).map_or(&[][..], Vec::as_slice);
            let stored = remembered[&worker].get(&run);
            exits.told += 1;
            exits.twice += u32::from(causes.len() > 1);
            exits.unprinted += u32::from(causes.is_empty());
            if let Some(other) = causes.iter().find(|cause| Some(*cause) != stored) {
                panic!("{worker}.{run}: the store has {stored:?}, told was {other:?}");
            }
            match stored {
                Some(ExitCause::Exited { code: c }) => {
                    assert_eq!(*c, code, "{worker}.{run}");
                    exits.exact += 1;
                }
                Some(ExitCause::Unknown { why: UnknownWhy::SupervisorAway }) if blind => exits.unknown += 1,
                None | Some(ExitCause::Unknown { why: UnknownWhy::SupervisorAway }) => {
                    exits.untold.push((worker.clone(), run, at));
                }
                // By the stop at the end, after its word.
                Some(ExitCause::Killed { .. }) if case.told(&worker).last() == Some(&line) => {}
                other => panic!("{worker}.{run} exited with {code}, told was {other:?}"),
            }
        }
    }
    exits
}

struct Times<'a>(&'a BTreeMap<Whom, Vec<Duration>>);

impl fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<Duration> = self.0.values().flatten().copied().collect();
        let one = |name: String, times: &[Duration], f: &mut fmt::Formatter<'_>| {
            let mut times = times.to_vec();
            times.sort();
            let (p50, max) = (times[times.len() / 2], times[times.len() - 1]);
            writeln!(f, "  {name}: {} times, p50 {p50:?}, max {max:?}", times.len())
        };
        for (whom, times) in self.0 {
            one(format!("{whom:?}"), times, f)?;
        }
        one("all".to_owned(), &all, f)
    }
}

#[test]
fn whichever_of_ours_is_killed_no_worker_notices_and_every_exit_and_line_is_accounted_for() {
    let case = Case::alone();
    let seed = Seed(parameter("PINFOLD_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..)));
    let kills: u32 = parameter("PINFOLD_CHAOS_KILLS").unwrap_or(10);
    let workers: usize = parameter("PINFOLD_CHAOS_WORKERS").unwrap_or(60);
    eprintln!("chaos: {kills} kills, {workers} workers, seed {}", seed.0);
    let mut rng = fastrand::Rng::with_seed(seed.0);
    case.config(&configuration(&case, workers, 60));
    let mut chaos = Chaos {
        case: &case,
        up: Up::again(&case),
        gone: Vec::new(),
        lives: BTreeMap::new(),
        unseen: Vec::new(),
        kills: Vec::new(),
        refused: 0,
        took: BTreeMap::new(),
        frozen: Frozen::default(),
    };
    chaos.learn(workers, |_| true);
    // Runs whose pipes nobody has any more.
    let mut cut: Vec<(String, u32)> = Vec::new();
    let mut over: Vec<(String, u32)> = Vec::new();
    // Each once, in any order, before chance alone decides.
    let mut order = Whom::ALL;
    rng.shuffle(&mut order);
    for round in 0..kills as usize {
        let whom = order.get(round).copied().unwrap_or_else(|| Whom::ALL[rng.usize(..Whom::ALL.len())]);
        chaos.frozen.ask(&case, &chaos.lives, &mut rng);
        // What the next who reads it finds, by a reload or because it is the next one.
        case.config(&configuration(&case, workers, 61 + round));
        pause(Duration::from_millis(rng.u64(..1000)));
        chaos.round(whom, &mut rng);
        chaos.nobody_has_noticed();
        chaos.who_is_frozen_is_so();
        chaos.output_goes_on(whom);
        Truth::wait_settled(&case);
        for (name, life) in chaos.lives.iter().filter(|(_, life)| life.kind.restarted_after(whom)) {
            if whom == Whom::Everybody { &mut cut } else { &mut over }.push((name.clone(), life.run));
        }
        chaos.restart(workers, whom);
    }
    let Chaos { mut up, gone, lives, unseen, kills, refused, took, mut frozen, .. } = chaos;
    case.ask("stop", &["*", "--timeout", "300s"]);
    frozen.end();
    // When the store has all of it.
    wait_until("every directory is gone", || tree::run_dirs(&case.root).is_empty().then_some(()));
    let names = (0..CODED).map(coded).chain(lives.keys().cloned());
    let remembered: BTreeMap<_, _> = names.map(|name| (name.clone(), past(&case, &name))).collect();
    up.signal(Signal::TERM);
    up.reap_killed();
    let mut ups = gone;
    ups.push(up);
    ups.iter_mut().for_each(Up::wait_silent);
    wait_until("every logger has ended", || tree::procs(&case.root.join("logger")).is_empty().then_some(()));

    over.extend(lives.iter().filter(|(_, l)| l.kind != Kind::Quiet).map(|(name, life)| (name.clone(), life.run)));
    for (name, run) in &over {
        gapless(&case, name, *run, false);
    }
    for (name, run) in &cut {
        gapless(&case, name, *run, true);
    }
    frozen.assert_told(&ups, &lives);
    let outlasted = |cause: &&ExitCause| matches!(cause, ExitCause::Killed { by: KilledBy::StopTimeout, .. });
    for (name, past) in &remembered {
        assert_eq!(past.values().find(outlasted), None, "{name}, frozen or not, ends when it is asked to: {past:?}");
    }
    let exits = exits(&case, &ups, &unseen, &frozen, &remembered);
    for (name, run, at) in &exits.untold {
        let near = kills.iter().min_by_key(|(killed, _)| killed.since(*at).max(at.since(*killed))).unwrap();
        let after = near.0.as_nanos().cast_signed() - at.as_nanos().cast_signed();
        let in_store = remembered[name].get(run);
        eprintln!("untold: {name}.{run}, {} us before {:?}; the store: {in_store:?}", after / 1000, near.1);
        let id = format!("{name}.{run}");
        let tells = |event: &&Event| match &event.kind {
            EventKind::Reconciled { what } => what.contains(&id),
            _ => {
                event.worker.as_ref().is_some_and(|w| w.as_str() == name)
                    && event.run.is_some_and(|r| r.abs_diff(*run) < 2)
            }
        };
        for event in ups.iter().flat_map(|up| &up.seen).filter(tells) {
            eprintln!("    {}", serde_json::to_string(event).unwrap());
        }
    }
    eprint!("re-attached, the keeper's pause included:\n{}", Times(&took));
    eprintln!("frozen over kills: {}", frozen.over_kills);
    assert!(frozen.over_kills > 0);
    eprintln!("up refused at first: {refused}; logs whole {}, cut {}; {exits:?}", over.len(), cut.len());
    assert!(exits.exact > 0);
    assert!(exits.untold.is_empty(), "{exits:?}");
    for name in lives.iter().filter(|(_, life)| life.kind == Kind::Quiet).map(|(name, _)| name) {
        assert!(!Path::new(&case.run_dir(name, 2)).exists());
    }
}
