//! Signals to every process of a cgroup, each by a pidfd: by its number, a process that has just ended could be mistaken for
//! another.

use std::{io, os::fd::AsFd};

use rustix::io::Errno;

use super::{
    dir::{Dir, DirError},
    kill,
};
use crate::kernel::pidfd;

/// Thaws `dir` where it is frozen: a process that froze itself, or was frozen, hears no signal before.
///
/// # Errors
/// Where the kernel refuses.
pub fn make_heard(dir: &Dir) -> Result<(), DirError> {
    match dir.read("cgroup.freeze") {
        Ok(text) if text.trim() == "1" => kill::thaw(dir),
        Err(e) if !e.is_absent() => Err(e),
        _ => Ok(()),
    }
}

/// Sends `signal`, 1 to 64, to every process of `dir` and below. A process that forks meanwhile can leave a child without it, as
/// with kill(2) of a process group; what remains is killed by `cgroup.kill`.
///
/// # Errors
/// Where the kernel refuses. A process that has just ended is no error.
pub fn all(dir: &Dir, signal: i32) -> io::Result<()> {
    let mut held = Vec::new();
    for pid in processes_below(dir)? {
        match pidfd::open(pid) {
            Ok(fd) => held.push((pid, fd)),
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    // A number that is listed while its pidfd is open is that process's own, or that of another process of the run.
    let listed = processes_below(dir)?;
    for (pid, fd) in held {
        if listed.contains(&pid) {
            match pidfd::signal(fd.as_fd(), signal) {
                Err(e) if e.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The processes of `dir` and below. 0 stands for one in another pid namespace.
///
/// # Errors
/// Where a directory cannot be read. One that goes while we look is left out.
pub fn processes_below(dir: &Dir) -> io::Result<Vec<i32>> {
    let mut all = match dir.processes() {
        // Without the second, in a threaded cgroup: its processes are listed by the one above, where it is threaded from.
        Err(e) if e.is_absent() || e.is(&[Errno::OPNOTSUPP]) => Vec::new(),
        other => other.map_err(DirError::into_io)?,
    };
    for child in dir.children().map_err(DirError::into_io)? {
        match dir.open_below(&child) {
            Ok(child) => all.extend(processes_below(&child)?),
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e.into_io()),
        }
    }
    Ok(all)
}
