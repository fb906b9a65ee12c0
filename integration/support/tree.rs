//! What cgroupfs says, read without the product.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinfold::model::RunId;

use super::wait_until;

/// Where cgroup v2 is mounted; on a hybrid host that is not `/sys/fs/cgroup`.
pub(crate) fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 ")).expect("no cgroup2 is mounted on this host");
    PathBuf::from(line.split(' ').nth(4).unwrap())
}

/// A file of a cgroup, trimmed; empty where it is not there.
pub(crate) fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned()
}

/// A file of a cgroup that holds one number.
pub(crate) fn number(dir: &Path, file: &str) -> u64 {
    let text = read(dir, file);
    text.parse().unwrap_or_else(|_| panic!("{}/{file} holds {text:?}, no number", dir.display()))
}

/// One field of a flat-keyed file (`cpu.stat`, `memory.events`).
pub(crate) fn field(dir: &Path, file: &str, key: &str) -> u64 {
    let text = read(dir, file);
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{}/{file} has no {key}: {text:?}", dir.display()))
}

/// The processes directly in a cgroup.
pub(crate) fn procs(dir: &Path) -> Vec<i32> {
    read(dir, "cgroup.procs").lines().filter_map(|l| l.parse().ok()).collect()
}

/// The processes in a cgroup and all below it.
pub(crate) fn procs_below(dir: &Path) -> Vec<i32> {
    let mut found = procs(dir);
    for child in children(dir) {
        found.extend(procs_below(&child));
    }
    found
}

/// The child cgroups.
pub(crate) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs
}

/// The directories of runs below `root`, wherever they are.
pub(crate) fn run_dirs(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for child in children(root) {
        let name = child.file_name().unwrap().to_string_lossy().into_owned();
        let of_a_run = RunId::from_dir_name(&name).is_some();
        let of_run_command = child.parent().and_then(Path::file_name).is_some_and(|p| p == "runs" || p == "aux");
        if of_a_run || of_run_command {
            found.push(format!("cgroup {}", child.display()));
        }
        found.extend(run_dirs(&child));
    }
    found
}

/// Kills everything in `dir`, which is ours, and removes it.
pub(crate) fn kill_and_remove(dir: &Path) {
    if !dir.exists() {
        return;
    }
    // A frozen cgroup dies as well; that it is thawed lets its files be read.
    fs::write(dir.join("cgroup.kill"), "1").unwrap();
    wait_until(&format!("{} is removed", dir.display()), || remove(dir).ok());
}

fn remove(dir: &Path) -> std::io::Result<()> {
    for child in children(dir) {
        remove(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
