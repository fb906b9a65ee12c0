//! What `/proc` and cgroupfs say of a case, read once and without the product. What it means is for two judges: `evidence`,
//! who knows that all is settled, and `truth`, who looks while everything moves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinfold::model::RunId;
use serde_json::Value;

use super::{Case, MARK, process::Process, tree};

/// Where processes of ours live that are no worker's.
pub(crate) const ROLES: [&str; 3] = ["keeper", "supervisor", "logger"];

/// All of it.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The directories of runs, in slices, too, in the order of their names.
    pub(crate) runs: Vec<Run>,
    /// Directories among them that are no run's.
    pub(crate) no_runs: Vec<PathBuf>,
    /// Slices that have processes of their own.
    pub(crate) peopled_slices: Vec<PathBuf>,
    /// The processes of each of [`ROLES`].
    pub(crate) roles: [Vec<i32>; 3],
    /// Every process that bears the case's mark and lives, wherever it is.
    pub(crate) marked: Vec<Marked>,
}

/// One directory of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) dir: PathBuf,
    pub(crate) populated: bool,
    /// What its `cgroup.freeze` asks for, and whether all of it is frozen.
    pub(crate) freezer: (bool, bool),
    /// The processes in it and below.
    pub(crate) procs: Vec<i32>,
    pub(crate) record: Option<Record>,
}

/// What its record says of its main process.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) pid: Option<i32>,
    pub(crate) start_ticks: Option<i64>,
}

/// One that was launched by the case.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) pid: i32,
    /// `process PID COMMAND`.
    pub(crate) line: String,
    /// Its cgroup.
    pub(crate) place: PathBuf,
}

impl Sight {
    /// Looks at everything once.
    pub(crate) fn of(case: &Case) -> Self {
        let mut sight = Self {
            runs: Vec::new(),
            no_runs: Vec::new(),
            peopled_slices: Vec::new(),
            roles: ROLES.map(|role| tree::procs(&case.root.join(role))),
            marked: Vec::new(),
        };
        sight.read_runs(&case.root.join("workers"));
        let [(_, mark)] = case.mark();
        let marked = super::process::with_environment(&format!("{MARK}={mark}")).into_iter().filter_map(|line| {
            let pid = line.split(' ').nth(1)?.parse().ok()?;
            let process = Process::open(pid)?;
            let place = process.cgroup();
            process.alive().then_some(Marked { pid, line, place })
        });
        sight.marked = marked.collect();
        sight
    }

    fn read_runs(&mut self, workers: &Path) {
        for dir in tree::children(workers) {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            if dir.extension().is_some_and(|e| e == "slice") {
                if !tree::procs(&dir).is_empty() {
                    self.peopled_slices.push(dir.clone());
                }
                self.read_runs(&dir);
            } else if let Some(id) = RunId::from_dir_name(&name) {
                let (populated, record, procs) = (is_populated(&dir), record(&dir), tree::procs_below(&dir));
                let freezer = freezer(&dir);
                self.runs.push(Run { id, dir, populated, freezer, procs, record });
            } else {
                self.no_runs.push(dir);
            }
        }
    }
}

/// Whether `cgroup.events` has this line. Not where the directory is gone.
fn says(dir: &Path, line: &str) -> bool {
    tree::read(dir, "cgroup.events").lines().any(|said| said == line)
}

pub(crate) fn is_populated(dir: &Path) -> bool {
    says(dir, "populated 1")
}

/// What `cgroup.freeze` asks for, and whether all of it is frozen.
pub(crate) fn freezer(dir: &Path) -> (bool, bool) {
    (tree::read(dir, "cgroup.freeze") == "1", says(dir, "frozen 1"))
}

/// The record of a run's directory, read as any MessagePack: root's, or a user's.
fn record(dir: &Path) -> Option<Record> {
    let mut bytes = vec![0; 64 << 10];
    let read = |key: &str, bytes: &mut Vec<u8>| rustix::fs::getxattr(dir, key, bytes.as_mut_slice()).ok();
    let len = read("trusted.pinfold.run", &mut bytes).or_else(|| read("user.pinfold.run", &mut bytes))?;
    let record: Value = rmp_serde::from_slice(&bytes[..len]).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let pid = record["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap());
    Some(Record { pid, start_ticks: record["pid_start_ticks"].as_i64() })
}

/// Fields 4 and 22 of `/proc/PID/stat`, as in proc(5). `None` where it is gone.
pub(crate) fn parent_and_start(pid: i32) -> Option<[i64; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some([fields.get(4 - 3)?.parse().ok()?, fields.get(22 - 3)?.parse().ok()?])
}
