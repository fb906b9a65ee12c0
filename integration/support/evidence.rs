//! The judge of a case in which all is settled: what must be exactly so. Beside what `sight` reads there is what workers told of
//! their lives, and the rows of the store's file. Nothing is asked of the product.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Case,
    sight::{ROLES, Run, Sight},
    tree,
};

/// The runs there are directories of, in the order of their names.
pub(crate) fn runs(case: &Case) -> Vec<Run> {
    Sight::of(case).runs
}

/// The value of a variable in the environment that a process began with.
fn variable(pid: i32, name: &str) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |entry: &[u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    environ.split(|byte| *byte == 0).find_map(of).and_then(|value| String::from_utf8(value).ok())
}

/// What must not be while all is settled: a directory that is half-made, empty, on its way to be frozen or thawed, or the
/// second of its worker; a process in the directory of a run that is not its own, or nowhere.
pub(crate) fn faults(case: &Case) -> Vec<String> {
    let sight = Sight::of(case);
    let mut faults: Vec<String> = sight.no_runs.iter().map(|dir| format!("{} is no run's", dir.display())).collect();
    faults.extend(sight.peopled_slices.iter().map(|dir| format!("processes in {} itself", dir.display())));
    let mut known = BTreeSet::new();
    let mut workers = BTreeSet::new();
    for Run { id, freezer, procs, record, .. } in &sight.runs {
        if freezer.0 != freezer.1 {
            faults.push(format!("{id} is to be frozen and is: {freezer:?}"));
        }
        if !workers.insert(id.worker.clone()) {
            faults.push(format!("{id} is the second run of its worker"));
        }
        if procs.is_empty() {
            faults.push(format!("{id} has a directory and no process"));
        }
        match record {
            None => faults.push(format!("{id} has no record")),
            Some(record) => {
                if !record.pid.is_some_and(|main| procs.contains(&main)) {
                    faults.push(format!("{id} is recorded with the main process {:?}, and has {procs:?}", record.pid));
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
    for (role, procs) in ROLES.iter().zip(&sight.roles) {
        // The logger of a dead keeper goes when the last run that it reads has ended.
        if procs.len() != 1 && (*role != "logger" || procs.is_empty()) {
            faults.push(format!("{role} is {procs:?}"));
        }
        known.extend(procs);
    }
    let strays = sight.marked.iter().filter(|marked| !known.contains(&marked.pid));
    faults.extend(strays.map(|stray| format!("{} is in no run's directory and no role", stray.line)));
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
