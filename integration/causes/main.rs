//! Who names how many causes of death rightly: 1,000 workers die of 22 kinds of death, most of them in the same moment,
//! and what pinfold says of each is compared with what was done to it. The same deaths then befall 900 services of
//! systemd. Needs a machine whose init is systemd and whose memory may run out: scripts/test boots one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod deaths;
#[path = "../support/mod.rs"]
mod support;
mod systemd;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    time::Duration,
};

use deaths::{Answer, By, Death, Places, SLICE_MIB, SLICES, deaths};
use pinfold::{
    clock,
    model::{Event, EventKind, Mono},
};
use rustix::process::Signal;
use support::{
    Case, patience, pause,
    process::Process,
    run::finish,
    scaled, tree,
    up::{Up, is},
    wait_until, worker,
};

const ALL: usize = 1000;
/// Started at the same time.
const AT_A_TIME: usize = 50;

/// What is done, and how long it took so far: for one who waits.
fn say(started: Mono, what: &str) {
    eprintln!("causes: {:>4.0} s: {what}", support::seconds_since(started));
}

#[test]
fn a_thousand_mixed_exits_have_a_thousand_right_causes() {
    let case = Case::with_limits(true);
    // Ours, from the beginning: systemd takes controllers away from children that do not hold on to them.
    fs::write(case.root.join("cgroup.subtree_control"), "+memory +cpu +pids +io").unwrap();

    let places = Places::new(&case, "pinfold");
    let all = chosen(deaths(&places));
    let (exits, seen) = by_pinfold(&case, &places, &all);
    let cause = |d: &Death| match &exits.get(&d.id)?.kind {
        EventKind::Exited { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    let right = |d: &Death| cause(d).as_ref() == Some(&d.cause);
    let wrong: Vec<&Death> = all.iter().filter(|d| !right(d)).collect();
    eprintln!("causes: pinfold named {} of {} rightly", all.len() - wrong.len(), all.len());
    for death in &wrong {
        eprintln!("causes: wrong: {} ended as {:?}; what was told:", death.id, death.cause);
        for event in seen.iter().filter(|e| is(e, &death.id)) {
            eprintln!("{}", serde_json::to_string(event).unwrap());
        }
    }

    let theirs = Places::new(&case, "systemd");
    let answers = systemd::answers(&theirs, &chosen(deaths(&theirs)));
    eprintln!("{}", table(&all, right, &answers));
    assert_eq!(wrong.len(), 0, "wrong causes, shown above");
    assert!(all.len() == ALL || narrowed().is_some(), "{} of {ALL}", all.len());
}

/// The kinds in `PINFOLD_CAUSES`, separated by commas, for one who works on a few of them.
fn narrowed() -> Option<Vec<String>> {
    env::var("PINFOLD_CAUSES").ok().map(|kinds| kinds.split(',').map(str::to_owned).collect())
}

fn chosen(all: Vec<Death>) -> Vec<Death> {
    match narrowed() {
        Some(kinds) => all.into_iter().filter(|d| kinds.iter().any(|k| k == d.kind)).collect(),
        None => all,
    }
}

/// What is to happen, and has happened, to the first run of every worker.
#[derive(Default)]
struct Lives {
    /// Looked at so far.
    events: usize,
    pids: BTreeMap<String, i32>,
    violated: BTreeSet<String>,
    exits: BTreeMap<String, Event>,
}

impl Lives {
    /// Takes what has been told since the last time.
    fn take(&mut self, up: &Up) {
        for event in &up.seen[self.events..] {
            let Some(worker) = event.worker.as_ref().filter(|_| event.run == Some(1)) else { continue };
            let id = worker.as_str().to_owned();
            match &event.kind {
                EventKind::Started { pid } => drop(self.pids.insert(id, *pid)),
                EventKind::Violation { .. } => drop(self.violated.insert(id)),
                EventKind::Exited { .. } => drop(self.exits.insert(id, event.clone())),
                _ => {}
            }
        }
        self.events = up.seen.len();
    }

    /// Takes events until `wanted` holds.
    fn until(&mut self, up: &mut Up, what: &str, wanted: impl Fn(&Self) -> bool) {
        wait_until(what, || {
            up.watch(Duration::from_millis(50));
            self.take(up);
            wanted(self).then_some(())
        });
    }

    /// Takes events until all of them have ended. Who does not, is a wrong cause, not a reason to ask no further.
    fn until_dead(&mut self, up: &mut Up, who: &str, deaths: &[&Death]) {
        let began = clock::monotonic();
        while clock::monotonic().since(began) < patience() {
            let left = deaths.iter().filter(|d| !self.exits.contains_key(&d.id)).count();
            if left == 0 {
                return;
            }
            up.watch(Duration::from_millis(200));
            self.take(up);
        }
        let left: Vec<&str> =
            deaths.iter().filter(|d| !self.exits.contains_key(&d.id)).map(|d| d.id.as_str()).collect();
        eprintln!("causes: {who}: still alive after {:?}: {left:?}", patience());
    }

    fn main(&self, death: &Death) -> Process {
        Process::open(self.pids[&death.id]).unwrap_or_else(|| panic!("{} is gone already", death.id))
    }
}

/// Every worker's exit, and everything else, as pinfold tells it.
fn by_pinfold(case: &Case, places: &Places, all: &[Death]) -> (BTreeMap<String, Event>, Vec<Event>) {
    let began = clock::monotonic();
    let mut up = Up::spawn(case.pinfold("up").arg(config(case, all)));
    let mut lives = Lives::default();
    let seen = |lives: &Lives| lives.pids.len() + lives.exits.keys().filter(|id| !lives.pids.contains_key(*id)).count();
    // Not all at the same time: on a slow machine the last would not have executed their program before their deadline.
    let asked: Vec<&str> = all.iter().filter(|d| !d.at_once()).map(|d| d.id.as_str()).collect();
    wait_until("the socket", || case.socket().exists().then_some(()));
    for batch in asked.chunks(AT_A_TIME) {
        case.ask("start", batch);
    }
    lives.until(&mut up, "every program runs", |lives| seen(lives) == all.len());
    places.wait_ready(all.iter());
    say(began, &format!("{} workers of pinfold run", lives.pids.len()));

    // All at once: the gate opens, a stranger signals, operators stop and kill.
    let gate = open(&places.gate);
    std::thread::scope(|scope| {
        for (command, by) in [("stop", By::Stop), ("kill", By::Kill)] {
            let ids: Vec<&str> = all.iter().filter(|d| d.by == by).map(|d| d.id.as_str()).collect();
            if !ids.is_empty() {
                // Not how it ended: with so much to do the kernel may not be done with all of them in time.
                scope.spawn(move || finish(case.pinfold(command).args(ids)));
            }
        }
        for death in all {
            if let By::Stranger(signal) = death.by {
                lives.main(death).signal_number(signal);
            }
        }
        let orphaned: Vec<&Death> = all.iter().filter(|d| d.by == By::StrangerAfterChild).collect();
        lives.until(&mut up, "the children's OOM", |lives| orphaned.iter().all(|d| lives.violated.contains(&d.id)));
        // Within one reading the kernel cannot tell a child's OOM and then a stranger's SIGKILL from one OOM: it is
        // what happens later that is known for certain.
        if !orphaned.is_empty() {
            pause(Duration::from_secs(2) + scaled(Duration::from_millis(300)));
        }
        for death in orphaned {
            lives.main(death).signal(Signal::KILL);
        }
        let awaited = |d: &&Death| d.by != By::Shutdown && d.kind != "oom-of-the-host";
        let awaited: Vec<&Death> = all.iter().filter(awaited).collect();
        lives.until_dead(&mut up, "the first wave", &awaited);
    });
    drop(gate);
    say(began, "the first wave is over");

    let scarce = Scarce::new();
    let gate = open(&places.last_gate);
    let awaited: Vec<&Death> = all.iter().filter(|d| d.kind == "oom-of-the-host").collect();
    lives.until_dead(&mut up, "those whom the host's OOM takes", &awaited);
    drop((gate, scarce));
    say(began, "the host's memory ran out");

    up.stop();
    say(began, "up has ended");
    let left: Vec<&Death> = all.iter().filter(|d| !lives.exits.contains_key(&d.id)).collect();
    for death in left {
        lives.exits.insert(death.id.clone(), up.exit_of(&death.id, 1).1);
    }
    (lives.exits, std::mem::take(&mut up.seen))
}

/// A gate, open for as long as the answer lives: whoever comes later finds it open.
fn open(gate: &str) -> File {
    File::options().read(true).write(true).open(gate).unwrap()
}

/// As long as it lives the host has little memory to give: the rest is set aside as huge pages, which nobody uses. To
/// fill gigabytes would say the same and take minutes.
struct Scarce;

impl Scarce {
    const LEFT_MIB: u64 = 256;
    const PAGES: &str = "/proc/sys/vm/nr_hugepages";

    fn new() -> Self {
        let free_kib = tree::field(Path::new("/proc"), "meminfo", "MemAvailable:");
        fs::write(Self::PAGES, ((free_kib / 1024).saturating_sub(Self::LEFT_MIB) / 2).to_string()).unwrap();
        Self
    }
}

impl Drop for Scarce {
    fn drop(&mut self) {
        fs::write(Self::PAGES, "0").unwrap();
    }
}

fn config(case: &Case, all: &[Death]) -> String {
    let slices: Vec<String> = (0..SLICES).map(|i| format!("s{i}: {{memory: {{max: {SLICE_MIB}MiB}}}}")).collect();
    // A core dump would be a cause of its own.
    let mut top = "defaults: {limits: {process: {max_core_size: 0}}}\n".to_owned();
    if all.iter().any(|d| d.slice.is_some()) {
        writeln!(top, "slices: {{{}}}", slices.join(", ")).unwrap();
    }
    let one = |d: &Death| {
        let unit: Vec<&str> = d.unit.iter().map(String::as_str).collect();
        let slice = d.slice.map_or_else(String::new, |s| format!("    slice: s{s}\n"));
        let enabled = format!("    enabled: {}\n", d.at_once());
        worker(&d.id, &d.command, &unit) + &slice + &enabled
    };
    case.config_with(&top, &all.iter().map(one).collect::<String>())
}

/// The table of the README.
fn table(all: &[Death], right: impl Fn(&Death) -> bool, answers: &BTreeMap<String, systemd::Said>) -> String {
    let mut text = "| death | of them | pinfold | systemd | true, but for others too | systemd's words |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    let mut kinds: Vec<&str> = all.iter().map(|d| d.kind).collect();
    kinds.dedup();
    let mut sums = [0; 5];
    for kind in kinds {
        let of_kind: Vec<&Death> = all.iter().filter(|d| d.kind == kind).collect();
        let comparable = of_kind.iter().filter(|d| d.service.is_some()).count();
        let said = |d: &&&Death, names: bool| {
            let said = answers.get(&d.id);
            match d.answer {
                Answer::Names(result, main) => names && said.is_some_and(|s| s.is(result, main)),
                Answer::Shares(result, main) => !names && said.is_some_and(|s| s.is(result, main)),
                Answer::Nothing => false,
            }
        };
        let mut words: BTreeMap<String, usize> = BTreeMap::new();
        for said in of_kind.iter().filter_map(|d| answers.get(&d.id)) {
            *words.entry(said.words()).or_default() += 1;
        }
        let words: Vec<String> = words.into_iter().map(|(words, n)| format!("{words} ×{n}")).collect();
        let row = [
            of_kind.len(),
            of_kind.iter().filter(|d| right(d)).count(),
            comparable,
            of_kind.iter().filter(|d| said(d, true)).count(),
            of_kind.iter().filter(|d| said(d, false)).count(),
        ];
        for (sum, n) in sums.iter_mut().zip(row) {
            *sum += n;
        }
        let words = if comparable == 0 { "has nothing of the kind".to_owned() } else { words.join(", ") };
        text += &line(kind, row, &words);
    }
    text + &line("together", sums, &format!("of {} that it can have", sums[2]))
}

fn line(kind: &str, [all, ours, comparable, named, shared]: [usize; 5], words: &str) -> String {
    let theirs = |n: usize| if comparable == 0 { "–".to_owned() } else { n.to_string() };
    format!("| {} | {all} | {ours} | {} | {} | {words} |\n", kind.replace('-', " "), theirs(named), theirs(shared))
}

impl Places {
    /// Waits until every program that has to be ready for a signal is.
    fn wait_ready<'a>(&self, all: impl Iterator<Item = &'a Death>) {
        for death in all.filter(|d| ["code-after-stop", "stop-timeout"].contains(&d.kind)) {
            wait_until(&format!("{} is ready", death.id), || fs::read(self.told(&death.id)).ok());
        }
    }

    /// Waits until every child that is to die first has.
    fn wait_children<'a>(&self, all: impl Iterator<Item = &'a Death>) {
        for death in all.filter(|d| d.by == By::StrangerAfterChild) {
            wait_until(&format!("the child of {} is dead", death.id), || fs::read(self.told(&death.id)).ok());
        }
    }
}
