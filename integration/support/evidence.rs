//! What the kernel, the workers and the files say of a case once all is settled: `/proc`, cgroupfs, what workers told of
//! their lives, and the rows of the store's file. Nothing is asked of the product.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use pinfold::model::RunId;
use serde_json::Value;

use super::{Case, process::Process, tree};

/// Where the processes of a case are allowed to be beside the runs.
const ROLES: [&str; 3] = ["keeper", "supervisor", "logger"];

/// One directory of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) procs: Vec<i32>,
    dir: PathBuf,
}

/// The runs there are directories of, in the order of their names.
pub(crate) fn runs(case: &Case) -> Vec<Run> {
    let run = |dir: PathBuf| {
        let id = RunId::from_dir_name(dir.file_name()?.to_str()?)?;
        Some(Run { id, procs: tree::procs_below(&dir), dir })
    };
    tree::children(&case.root.join("workers")).into_iter().filter_map(run).collect()
}

/// The record of a run, as its directory bears it.
fn record(dir: &Path) -> Option<Value> {
    let mut bytes = vec![0; 4096];
    let read = |key: &str, bytes: &mut Vec<u8>| rustix::fs::getxattr(dir, key, bytes.as_mut_slice()).ok();
    let len = read("trusted.pinfold.run", &mut bytes).or_else(|| read("user.pinfold.run", &mut bytes))?;
    rmp_serde::from_slice(&bytes[..len]).ok()
}

/// The value of a variable in the environment that a process began with.
fn variable(pid: i32, name: &str) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |entry: &[u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    environ.split(|byte| *byte == 0).find_map(of).and_then(|value| String::from_utf8(value).ok())
}

/// What must not be while all is settled: a directory that is half-made, empty or the second of its worker; a process in
/// the directory of a run that is not its own, or nowhere.
pub(crate) fn faults(case: &Case) -> Vec<String> {
    let mut faults = Vec::new();
    let runs = runs(case);
    let mut known = BTreeSet::new();
    for other in tree::children(&case.root.join("workers")) {
        if !runs.iter().any(|run| run.dir == other) {
            faults.push(format!("{} is no run's", other.display()));
        }
    }
    let mut workers = BTreeSet::new();
    for Run { id, procs, dir } in &runs {
        if !workers.insert(id.worker.clone()) {
            faults.push(format!("{id} is the second run of its worker"));
        }
        if procs.is_empty() {
            faults.push(format!("{id} has a directory and no process"));
        }
        match record(dir) {
            None => faults.push(format!("{id} has no record")),
            Some(record) => {
                let main = record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
                if !main.is_some_and(|main| procs.contains(&main)) {
                    faults.push(format!("{id} is recorded with the main process {main:?}, and has {procs:?}"));
                }
            }
        }
        for pid in procs {
            known.insert(*pid);
            let [worker, run] = ["PINFOLD_WORKER", "PINFOLD_RUN"].map(|name| variable(*pid, name).unwrap_or_default());
            if (worker.as_str(), run) != (id.worker.as_str(), id.number.to_string()) {
                faults.push(format!("process {pid} in {id} was launched for another run, of {worker:?}"));
            }
        }
    }
    for role in ROLES {
        let procs = tree::procs(&case.root.join(role));
        // The logger of a dead keeper goes when the last run that it reads has ended.
        if procs.len() != 1 && (role != "logger" || procs.is_empty()) {
            faults.push(format!("{role} is {procs:?}"));
        }
        known.extend(procs);
    }
    let pid = |told: &String| told.split(' ').nth(1).and_then(|pid| pid.parse().ok());
    for stray in case.processes().iter().filter(|told| !pid(told).is_some_and(|pid: i32| known.contains(&pid))) {
        // One that has ended between the two looks is none.
        if pid(stray).and_then(Process::open).is_some_and(|process| process.alive()) {
            faults.push(format!("{stray} is in no run's directory and no role"));
        }
    }
    for other in ["aux", "runs"] {
        faults.extend(tree::children(&case.root.join(other)).iter().map(|dir| format!("{} is left", dir.display())));
    }
    faults
}

/// The lives that were told to file `name` (`life` of the misbehaving program): the runs' numbers, in the order in which they
/// began.
///
/// # Panics
/// Where one began beside another, or a run began twice.
pub(crate) fn lives(case: &Case, name: &str) -> Vec<u32> {
    let mut begun = Vec::new();
    for line in case.told(name) {
        let word: Vec<&str> = line.split(' ').collect();
        let [what, _, run] = word[..] else { panic!("{name} tells {line:?}") };
        match what {
            "begin" => {
                let run = run.parse().unwrap();
                assert!(!begun.contains(&run), "{name}: run {run} began twice: {:?}", case.told(name));
                begun.push(run);
            }
            "end" => {}
            _ => panic!("a worker lived twice at a time: {:?}", case.told(name)),
        }
    }
    begun
}

/// The runs whose beginning the store's file tells, by worker. Nobody may have it open.
pub(crate) fn recorded(case: &Case) -> BTreeMap<String, Vec<u32>> {
    let file = case.dir.path().join("state/pinfold.db");
    let database = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let sql = "SELECT worker, run FROM runs WHERE started IS NOT NULL ORDER BY worker, run";
    let mut rows = database.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let mut recorded = BTreeMap::<String, Vec<u32>>::new();
    for row in rows {
        let (worker, run): (String, u32) = row.unwrap();
        recorded.entry(worker).or_default().push(run);
    }
    recorded
}
