//! What holds for a run now, by the kernel's word: the files of its cgroup and what `/proc` says of its main process.

use std::path::PathBuf;

use procfs::process::{LimitValue, Process};

use super::HostKernel;
use crate::kernel::cgroup::Dir;
use crate::kernel::pidfd;
use crate::model::RunId;

/// The files of a cgroup that hold a limit.
const FILES: [&str; 9] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "memory.oom.group",
    "cpu.max",
    "cpu.max.burst",
    "cpu.weight",
    "pids.max",
    "io.max",
];

/// What holds for a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InForce {
    /// Its cgroup.
    pub cgroup: Option<PathBuf>,
    /// Files with what is in them, and what is known of its main process by its name in `/proc` (`cwd`, `uid`, `Max open files`).
    /// What cannot be read, because a controller is missing or the process is gone, is absent.
    pub values: Vec<(&'static str, String)>,
}

impl HostKernel {
    /// What holds for `run`, whose main process is `pid`. Reads some ten files: not to be called where nothing may wait.
    #[must_use]
    pub fn in_force(&self, run: &RunId, pid: Option<i32>) -> InForce {
        let Some(dir) = self.inner.dir(run) else { return InForce::default() };
        let mut values = limits(&dir);
        let process = pid.and_then(process);
        // By then its number could have become another's: whoever is in the run's cgroup is of the run.
        if pid.is_some_and(|pid| pidfd::is_in_cgroup(pid, dir.name()).unwrap_or(false)) {
            values.extend(process.into_iter().flatten());
        }
        InForce { cgroup: Some(dir.path().to_owned()), values }
    }
}

fn limits(dir: &Dir) -> Vec<(&'static str, String)> {
    let mut room = [0; 4096];
    let mut read =
        |file| dir.read_if_there(file, &mut room).ok().flatten().map(|text| text.trim_end().replace('\n', "; "));
    FILES.into_iter().filter_map(|file| Some((file, read(file)?))).collect()
}

fn process(pid: i32) -> Option<Vec<(&'static str, String)>> {
    let process = Process::new(pid).ok()?;
    let status = process.status().ok()?;
    let mut values = vec![("uid", status.euid.to_string()), ("gid", status.egid.to_string())];
    values.extend(status.umask.map(|umask| ("umask", format!("{umask:04o}"))));
    values.extend(process.stat().ok().map(|stat| ("nice", stat.nice.to_string())));
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    values.extend(score.ok().map(|score| ("oom_score_adj", score.trim().to_owned())));
    values.extend(process.cwd().ok().map(|cwd| ("cwd", cwd.to_string_lossy().into_owned())));
    if let Ok(limits) = process.limits() {
        let soft = |limit: LimitValue| match limit {
            LimitValue::Unlimited => "unlimited".to_owned(),
            LimitValue::Value(value) => value.to_string(),
        };
        values.extend([
            ("Max open files", soft(limits.max_open_files.soft_limit)),
            ("Max core file size", soft(limits.max_core_file_size.soft_limit)),
            ("Max locked memory", soft(limits.max_locked_memory.soft_limit)),
        ]);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_absent_and_one_of_several_lines_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.max"), "67108864\n").unwrap();
        std::fs::write(dir.path().join("io.max"), "8:0 rbps=max\n9:0 wbps=1\n").unwrap();
        let read = limits(&Dir::on_any_fs(dir.path()));
        assert_eq!(read, [("memory.max", "67108864".to_owned()), ("io.max", "8:0 rbps=max; 9:0 wbps=1".to_owned())]);
    }

    #[test]
    fn a_process_is_known_by_what_the_kernel_says_of_it() {
        let own = process(i32::try_from(std::process::id()).unwrap()).unwrap();
        let of = |name| own.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        assert_eq!(of("uid"), Some(rustix::process::geteuid().as_raw().to_string().as_str()));
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(of("Max open files"), Some(files.map_or("unlimited".into(), |n| n.to_string()).as_str()));
        assert_eq!(of("cwd"), std::env::current_dir().unwrap().to_str());
        assert_eq!(process(i32::MAX), None);
    }
}
