//! Who is frozen and thawed meanwhile. What was answered is so until something else is asked for or the run has ended, whoever is
//! killed; what nobody has answered is done or not, and stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Child, Stdio},
};

use pinfold::{
    clock,
    model::{Detail, EventKind, Mono, Readiness},
};

use crate::{
    Kind, Life, coded,
    support::{Case, run::finish, sight::freezer, up::Up, wait_until},
};

/// How many are asked at a time, and how many of those that exit again and again.
const FEW: usize = 6;
const CODED_FEW: usize = 3;

/// How long a command may wait for the supervisor after the one that was killed.
const TIMEOUT: &str = "120s";

/// A command that may be cut short.
pub(crate) struct Asked {
    frozen: bool,
    names: Vec<String>,
    command: Child,
}

/// A run of one that exits again and again, which does not while it is frozen.
struct Held {
    run: u32,
    from: Mono,
}

#[derive(Default)]
pub(crate) struct Frozen {
    /// Those of whom a freeze was answered, and what they had counted by then.
    still: BTreeMap<String, Option<String>>,
    /// Of whom one was ever asked for, by their runs.
    asked: BTreeSet<(String, u32)>,
    held: BTreeMap<String, Held>,
    /// When those were held that go on, or have ended.
    holds: BTreeMap<String, Vec<(Mono, Mono)>>,
    /// How many were frozen over a kill.
    pub(crate) over_kills: usize,
}

fn counted(case: &Case, name: &str, life: &Life) -> Option<String> {
    (life.kind != Kind::Quiet).then(|| fs::read_to_string(case.file(&format!("{name}.{}", life.run))).unwrap())
}

fn few(rng: &mut fastrand::Rng, from: impl Iterator<Item = String>) -> Vec<String> {
    rng.choose_multiple(from, FEW)
}

impl Frozen {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.still.contains_key(name)
    }

    fn verb(frozen: bool) -> &'static str {
        if frozen { "freeze" } else { "thaw" }
    }

    /// Freezes some and thaws some, and has that answered.
    pub(crate) fn ask(&mut self, case: &Case, lives: &BTreeMap<String, Life>, rng: &mut fastrand::Rng) {
        for frozen in [false, true] {
            let names = self.choose(lives, rng, frozen);
            if names.is_empty() {
                continue;
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            case.ask(Self::verb(frozen), &names);
            for name in names {
                self.answered(case, name, &lives[name], frozen);
            }
        }
        self.thaw_coded(case, rng);
        self.freeze_coded(case, rng);
    }

    fn choose(&mut self, lives: &BTreeMap<String, Life>, rng: &mut fastrand::Rng, frozen: bool) -> Vec<String> {
        let names = few(rng, lives.keys().filter(|name| self.is(name) != frozen).cloned());
        if frozen {
            self.asked.extend(names.iter().map(|name| (name.clone(), lives[name].run)));
        }
        names
    }

    fn answered(&mut self, case: &Case, name: &str, life: &Life, frozen: bool) {
        assert_eq!(freezer(&case.run_dir(name, life.run)), (frozen, frozen), "{name}: {life:?}");
        self.is_now(case, name, life, frozen);
    }

    fn is_now(&mut self, case: &Case, name: &str, life: &Life, frozen: bool) {
        if frozen {
            self.still.entry(name.to_owned()).or_insert_with(|| counted(case, name, life));
        } else {
            self.still.remove(name);
        }
    }

    /// Asks for the same, and waits for nothing.
    pub(crate) fn begin(&mut self, case: &Case, lives: &BTreeMap<String, Life>, rng: &mut fastrand::Rng) -> Vec<Asked> {
        let mut begun = Vec::new();
        for frozen in [false, true] {
            let names = self.choose(lives, rng, frozen);
            if !names.is_empty() {
                let mut command = case.pinfold(Self::verb(frozen));
                command.args(&names).args(["--timeout", TIMEOUT]).stdout(Stdio::null()).stderr(Stdio::null());
                begun.push(Asked { frozen, names, command: command.spawn().unwrap() });
            }
        }
        begun
    }

    /// Takes down what has come of it.
    pub(crate) fn finish(&mut self, case: &Case, lives: &BTreeMap<String, Life>, begun: Vec<Asked>) {
        for Asked { frozen, names, mut command } in begun {
            let done = command.wait().unwrap().success();
            for name in names {
                let life = &lives[&name];
                if done {
                    self.answered(case, &name, life, frozen);
                } else {
                    // Done or not: what has been written comes about.
                    let dir = case.run_dir(&name, life.run);
                    let is = wait_until(&format!("{name} is as it was asked to be"), || {
                        let (asked, is) = freezer(&dir);
                        (asked == is).then_some(is)
                    });
                    self.is_now(case, &name, life, is);
                }
            }
        }
    }

    /// Those that were ended and begun again: nobody has frozen them.
    pub(crate) fn begin_anew(&mut self, lives: &BTreeMap<String, Life>, restarted: impl Fn(Kind) -> bool) {
        self.still.retain(|name, _| !restarted(lives[name].kind));
    }

    /// What is frozen is what is to be, by the kernel and by what is `told`.
    pub(crate) fn assert_so(&mut self, case: &Case, lives: &BTreeMap<String, Life>, told: &BTreeMap<String, bool>) {
        for (name, life) in lives {
            let frozen = self.is(name);
            let dir = case.run_dir(name, life.run);
            wait_until(&format!("{name} is frozen: {frozen}"), || (freezer(&dir).1 == frozen).then_some(()));
            assert_eq!((freezer(&dir), told[name]), ((frozen, frozen), frozen), "{name}: {life:?}, and what is told");
        }
        for (name, before) in &self.still {
            assert_eq!(counted(case, name, &lives[name]), *before, "{name} stands still");
        }
        for (name, Held { run, .. }) in &self.held {
            assert_eq!(freezer(&case.run_dir(name, *run)), (true, true), "{name}.{run}");
        }
        self.over_kills += self.still.len() + self.held.len();
    }

    /// Whoever runs just now; another may be between two runs, and has nothing that could be frozen.
    fn freeze_coded(&mut self, case: &Case, rng: &mut fastrand::Rng) {
        for name in rng.choose_multiple((0..crate::CODED).map(coded), CODED_FEW) {
            if self.held.contains_key(&name) {
                continue;
            }
            let from = clock::monotonic();
            let ran = finish(case.pinfold("freeze").args([&*name, "-o", "json"]));
            if ran.code == Some(0) {
                let status: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
                let run = &status["results"][0]["run"];
                let run = run.as_u64().unwrap_or_else(|| panic!("{status}"));
                self.held.insert(name, Held { run: u32::try_from(run).unwrap(), from });
            } else {
                assert!(ran.code == Some(1) && ran.stderr.contains("it is not running"), "{ran:?}");
            }
        }
    }

    fn thaw_coded(&mut self, case: &Case, rng: &mut fastrand::Rng) {
        let names = rng.choose_multiple(self.held.keys().cloned(), CODED_FEW);
        for name in names {
            case.ask("thaw", &[&name]);
            self.goes_on(&name);
        }
    }

    fn goes_on(&mut self, name: &str) {
        if let Some(Held { from, .. }) = self.held.remove(name) {
            self.holds.entry(name.to_owned()).or_default().push((from, clock::monotonic()));
        }
    }

    /// When one may have ended that has said so at `at`, and was held.
    pub(crate) fn may_have_ended(&self, name: &str, at: Mono, late: std::time::Duration) -> Mono {
        let holds = self.holds.get(name).map_or(&[][..], Vec::as_slice);
        holds.iter().fold(
            at + late,
            |until, (from, to)| if *from <= until && *to >= at { until.max(*to + late) } else { until },
        )
    }

    /// Everybody is stopped.
    pub(crate) fn end(&mut self) {
        for name in self.held.keys().cloned().collect::<Vec<_>>() {
            self.goes_on(&name);
        }
    }

    /// Only of whom a freeze was asked is it told.
    pub(crate) fn assert_told(&self, ups: &[Up], lives: &BTreeMap<String, Life>) {
        for event in ups.iter().flat_map(|up| &up.seen) {
            if let EventKind::State { detail: Detail::Running(Readiness::Frozen), .. } = event.kind
                && let (Some(worker), Some(run)) = (&event.worker, event.run)
                && lives.contains_key(worker.as_str())
            {
                assert!(self.asked.contains(&(worker.to_string(), run)), "{worker}.{run} is told to be frozen");
            }
        }
    }
}
