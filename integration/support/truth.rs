//! An independent checker: what `/proc` and cgroupfs say of a case's tree must fit together, whatever the product says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use pinfold::model::RunId;
use serde_json::Value;

use super::{
    Case, MARK, patience, pause,
    process::{Process, cgroup_of},
    tree,
};

/// The record of a run, as root keeps it.
const RECORD: &str = "trusted.pinfold.run";

/// Where processes of ours live that are no worker's.
const LEAVES: [&str; 3] = ["keeper", "supervisor", "logger"];

/// What was seen that must not be.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// What must never be, not for a moment.
    pub(crate) broken: Vec<String>,
    /// What may be for a moment only: while a run begins or ends, or a role is being replaced.
    pub(crate) unsettled: Vec<String>,
}

/// One run's directory as it was seen.
struct RunDir {
    path: PathBuf,
    run: RunId,
    populated: bool,
}

impl Truth {
    /// Looks at everything once.
    pub(crate) fn look(case: &Case) -> Self {
        let mut truth = Self::default();
        let dirs = truth.run_dirs(&case.root.join("workers"));
        truth.one_life_each(&dirs);
        for dir in &dirs {
            truth.run(dir, &case.root);
        }
        truth.roles(case);
        truth.strangers(case);
        truth
    }

    /// Waits until nothing is unsettled. What must never be fails at once.
    pub(crate) fn wait_settled(case: &Case) {
        let started = pinfold::clock::monotonic();
        loop {
            let seen = Self::look(case);
            assert!(seen.broken.is_empty(), "{:#?}", seen.broken);
            if seen.unsettled.is_empty() {
                return;
            }
            let waited = pinfold::clock::monotonic().since(started);
            assert!(waited < patience(), "still unsettled after {waited:?}: {:#?}", seen.unsettled);
            pause(std::time::Duration::from_millis(10));
        }
    }

    /// The directories of runs, in slices, too.
    fn run_dirs(&mut self, workers: &Path) -> Vec<RunDir> {
        let mut found = Vec::new();
        for path in tree::children(workers) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.extension().is_some_and(|e| e == "slice") {
                if !tree::procs(&path).is_empty() {
                    self.broken.push(format!("processes in {} itself", path.display()));
                }
                found.extend(self.run_dirs(&path));
            } else if let Some(run) = RunId::from_dir_name(&name) {
                let populated = is_populated(&path);
                found.push(RunDir { path, run, populated });
            } else {
                self.broken.push(format!("{} is no run's", path.display()));
            }
        }
        found
    }

    /// Two runs of one worker never live at the same time.
    fn one_life_each(&mut self, dirs: &[RunDir]) {
        let mut lives: BTreeMap<&str, Vec<&RunDir>> = BTreeMap::new();
        for dir in dirs.iter().filter(|dir| dir.populated) {
            lives.entry(dir.run.worker.as_str()).or_default().push(dir);
        }
        for (worker, mut runs) in lives {
            // One was read before the other. A directory is used once: whoever lives still has lived all the time.
            runs.retain(|dir| is_populated(&dir.path));
            if runs.len() > 1 {
                let runs: Vec<String> = runs.iter().map(|dir| dir.run.to_string()).collect();
                self.broken.push(format!("{worker} lives more than once: {runs:?}"));
            }
        }
    }

    fn run(&mut self, dir: &RunDir, root: &Path) {
        let name = dir.path.display();
        if !dir.populated {
            if dir.path.exists() {
                self.unsettled.push(format!("{name} is empty"));
            }
            return;
        }
        // Nothing read here holds of one that has ended meanwhile.
        let mut unsettled = |what: String| {
            if dir.path.exists() {
                self.unsettled.push(what);
            }
        };
        let Some(record) = record(&dir.path) else { return unsettled(format!("{name} has no record")) };
        let [pid, ticks] = ["pid", "pid_start_ticks"].map(|key| record[key].as_i64());
        let (Some(pid), Some(ticks)) = (pid, ticks) else {
            return unsettled(format!("the record of {name} has no process"));
        };
        let pid = i32::try_from(pid).unwrap();
        if !tree::procs_below(&dir.path).contains(&pid) {
            return unsettled(format!("the main process {pid} is not in {name}"));
        }
        let Some([parent, started]) = parent_and_start(pid) else {
            return unsettled(format!("the main process {pid} of {name} is gone"));
        };
        if started != ticks {
            self.broken.push(format!("process {pid} of {name} began at {started}, its record says {ticks}"));
        }
        // One that has outlived its keeper is init's, or the nearest subreaper's: never another worker's.
        let parents = cgroup_of(i32::try_from(parent).unwrap());
        if parents.starts_with(root) && parents != root.join("keeper") {
            self.broken.push(format!("the parent of process {pid} of {name} is in {}", parents.display()));
        }
    }

    /// One keeper, one supervisor, and a logger of that keeper's (others may go on for runs of earlier keepers).
    fn roles(&mut self, case: &Case) {
        let [keepers, supervisors, loggers] = LEAVES.map(|leaf| tree::procs(&case.root.join(leaf)));
        let ([keeper], [_]) = (&keepers[..], &supervisors[..]) else {
            self.unsettled.push(format!("keepers {keepers:?}, supervisors {supervisors:?}"));
            return;
        };
        let own = loggers.iter().filter(|pid| parent_and_start(**pid).is_some_and(|[p, _]| p == i64::from(*keeper)));
        if own.count() != 1 {
            self.unsettled.push(format!("the keeper is {keeper}, loggers are {loggers:?}"));
        }
    }

    /// Whoever bears the case's mark is in a run's directory, or one of ours.
    fn strangers(&mut self, case: &Case) {
        let [(_, mark)] = case.mark();
        for line in super::process::with_environment(&format!("{MARK}={mark}")) {
            let pid: i32 = line.split(' ').nth(1).and_then(|pid| pid.parse().ok()).unwrap();
            let Some(process) = Process::open(pid) else { continue };
            let place = process.cgroup();
            let below = place.strip_prefix(&case.root).ok().and_then(|p| p.components().next());
            let below = below.map(|first| first.as_os_str().to_string_lossy().into_owned());
            let ours = below.is_some_and(|first| ["workers", "aux"].contains(&&*first) || LEAVES.contains(&&*first));
            if !ours && process.alive() {
                self.unsettled.push(format!("{line} is in {}", place.display()));
            }
        }
    }
}

fn is_populated(dir: &Path) -> bool {
    tree::read(dir, "cgroup.events").lines().any(|line| line == "populated 1")
}

/// The record of a run's directory, read as any MessagePack.
fn record(dir: &Path) -> Option<Value> {
    let mut bytes = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(dir, RECORD, &mut bytes).ok()?;
    Some(rmp_serde::from_slice(&bytes[..len]).unwrap_or_else(|e| panic!("{}: {e}", dir.display())))
}

/// Fields 4 and 22 of `/proc/PID/stat`, as in proc(5).
fn parent_and_start(pid: i32) -> Option<[i64; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some([fields.get(4 - 3)?.parse().ok()?, fields.get(22 - 3)?.parse().ok()?])
}
