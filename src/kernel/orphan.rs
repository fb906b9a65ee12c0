//! Runs that have outlived the keeper that started them: which process is the main one, and is it still there?
//!
//! A number alone says nothing, because the kernel gives it out again. What identifies a process is its number together with the
//! moment it was started (field 22 of `/proc/PID/stat`, `proc_pid_stat(5)`) and the boot, all of which are in the run's record. A
//! keeper that died between the launch and that record leaves its place in the cgroup: the main process leads a session and is
//! the oldest of its run.

use std::{io, os::fd::OwnedFd, os::unix::fs::MetadataExt};

use procfs::process::{Process, Stat};

use super::{
    cgroup::{Dir, signal::processes_below},
    pidfd,
    port::RunNote,
};

/// What is left of a run's main process.
#[derive(Debug)]
pub enum Orphan {
    /// It lives.
    Alive {
        /// Its number.
        pid: i32,
        /// When it was started, in clock ticks since boot.
        start_ticks: u64,
        /// Opened before it was looked at, so that it is this process's.
        pidfd: OwnedFd,
    },
    /// It ran, and is gone.
    Gone,
    /// It has not run: there is a child that has not executed its program.
    Unlaunched,
    /// Nobody is there, and the record names nobody.
    Nobody,
}

/// Looks for the main process of the run in `dir`, of this boot.
///
/// # Errors
/// Where the directory cannot be read, or descriptors have run out.
pub fn identify(dir: &Dir, note: &RunNote) -> io::Result<Orphan> {
    if let (Some(pid), Some(start_ticks)) = (note.pid, note.pid_start_ticks) {
        return Ok(opened(pid, start_ticks)?.unwrap_or(Orphan::Gone));
    }
    let stats = processes_below(dir)?.into_iter().filter_map(|pid| Process::new(pid).and_then(|p| p.stat()).ok());
    let stats: Vec<Stat> = stats.collect();
    let main = oldest_leader(&stats).filter(|main| note.pid.is_none_or(|pid| pid == main.pid));
    let Some(main) = main else {
        return Ok(if note.pid.is_some() || !stats.is_empty() { Orphan::Gone } else { Orphan::Nobody });
    };
    if executes_us(main.pid) {
        return Ok(Orphan::Unlaunched);
    }
    Ok(opened(main.pid, main.starttime)?.unwrap_or(Orphan::Gone))
}

/// The main process of a run whose record does not name it: a launch begins with setsid(2), and every other process of the run
/// comes from it. `None` where it is gone: what is the oldest then leads no session, or is one of its children.
fn oldest_leader(stats: &[Stat]) -> Option<&Stat> {
    stats.iter().min_by_key(|stat| (stat.starttime, stat.pid)).filter(|stat| stat.session == stat.pid)
}

/// Whether `pid` still executes our own binary: it is a child of the keeper's that has not come to its program.
fn executes_us(pid: i32) -> bool {
    let file = |path: String| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (file(format!("/proc/{pid}/exe")), file("/proc/self/exe".to_owned())) {
        (Ok(its), Ok(ours)) => its == ours,
        _ => false,
    }
}

/// `None` where `pid` is not, or no longer, the process that was started at `start_ticks`.
fn opened(pid: i32, start_ticks: u64) -> io::Result<Option<Orphan>> {
    let pidfd = match pidfd::open(pid) {
        Ok(pidfd) => pidfd,
        // The number can be a thread's by now: EINVAL, and ENOENT on later kernels (pidfd_open(2)).
        Err(e) if [libc::ESRCH, libc::EINVAL, libc::ENOENT].map(Some).contains(&e.raw_os_error()) => return Ok(None),
        Err(e) => return Err(e),
    };
    // After the pidfd was opened: from here on the number cannot become another's behind it.
    Ok((pidfd::start_ticks(pid) == Some(start_ticks)).then_some(Orphan::Alive { pid, start_ticks, pidfd }))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::kernel::note::tests::note;

    fn stat(pid: i32, session: i32, starttime: u64) -> Stat {
        let mut stat = Process::myself().unwrap().stat().unwrap();
        (stat.pid, stat.session, stat.starttime) = (pid, session, starttime);
        stat
    }

    #[test]
    fn the_main_process_is_the_oldest_of_its_run_and_leads_a_session() {
        let main = |stats: &[Stat]| oldest_leader(stats).map(|stat| stat.pid);
        assert_eq!(main(&[stat(12, 10, 5), stat(10, 10, 5), stat(11, 11, 6)]), Some(10));
        // A number that was given out again is smaller than its parent's.
        assert_eq!(main(&[stat(3, 3, 9), stat(10, 10, 5)]), Some(10));
        assert_eq!(main(&[stat(12, 10, 6), stat(13, 13, 7)]), None, "its main process is gone");
        assert_eq!(main(&[]), None);
    }

    #[test]
    fn of_nobody_it_is_not_said_that_he_had_not_come_to_his_program() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("cgroup.procs"), "").unwrap();
        let dir = Dir::on_any_fs(tmp.path());
        // He may have ended since somebody was last seen there.
        let unnamed = RunNote { pid: None, pid_start_ticks: None, ..note() };
        assert!(matches!(identify(&dir, &unnamed).unwrap(), Orphan::Nobody));
        let named = RunNote { pid_start_ticks: None, ..note() };
        assert!(matches!(identify(&dir, &named).unwrap(), Orphan::Gone));
    }

    #[test]
    fn a_number_that_has_become_a_threads_is_not_the_process() {
        let (tell, tid) = std::sync::mpsc::channel();
        let (stay, until) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            until.recv().unwrap_err();
        });
        let tid = tid.recv().unwrap();
        assert!(opened(tid, pidfd::start_ticks(tid).unwrap()).unwrap().is_none());
        drop(stay);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_is_known_by_its_number_and_the_moment_it_was_started() {
        let mut child = Command::new("/bin/sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start_ticks = pidfd::start_ticks(pid).unwrap();
        let found = opened(pid, start_ticks).unwrap();
        assert!(matches!(found, Some(Orphan::Alive { pid: same, .. }) if same == pid));
        assert!(opened(pid, start_ticks + 1).unwrap().is_none(), "another with its number");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(opened(pid, start_ticks).unwrap().is_none(), "gone");
    }
}
