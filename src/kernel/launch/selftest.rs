//! Tries on this kernel what a launch relies on, and chooses the way into the cgroup. No version number is compared.
//!
//! One kernel bug decides: after any `cgroup.kill`, where the kill counts of *our* cgroup and of the target differ, a
//! child cloned into the target gets SIGKILL before its first instruction (fixed upstream by 8e3599202166). Two cases
//! of it are tried for `doctor`: a target that saw a kill, and a cloner whose own cgroup saw one. Neither need be
//! fatal: a fresh directory counts 0, and our own count cannot change while we live, because a kill of our cgroup
//! kills us. So the way is `CLONE_INTO_CGROUP` where a clone from *here* into a *fresh* directory works, bug or no
//! bug. That makes the test valid for the cgroup it is run in: run it from the keeper's.
#![expect(unsafe_code, reason = "clones without executing anything")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::clone::{Cloned, Method, clone};
use crate::kernel::pidfd::{self, Whom};
use crate::model::ExitStatus;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    /// A clone from our cgroup into a fresh one arrives there and lives; else why not.
    pub into_cgroup: Result<(), String>,
    /// So does one into a cgroup that saw a kill.
    pub after_target_kill: Result<(), String>,
    /// So does one from a cgroup that saw a kill into a fresh one.
    pub after_own_kill: Result<(), String>,
    /// The way to launch.
    pub method: Method,
}

/// Makes directories of its own below `parent`, a cgroup directory we may write to and that holds no controllers'
/// domain against it, and removes them.
///
/// # Errors
/// Where directories cannot be made or removed, or no child can be made at all.
pub fn run(parent: &Path) -> io::Result<SelfTest> {
    let fresh = Scratch::new(parent, "fresh")?;
    let into_cgroup = clone_lives(&fresh)?;
    let killed = Scratch::new(parent, "killed")?;
    killed.kill()?;
    let after_target_kill = clone_lives(&killed)?;
    // The cloner has to be in a cgroup that saw a kill. Born there it would be subject to the very bug.
    let own = Scratch::new(parent, "own")?;
    own.kill()?;
    let after_own_kill = from_within(&own, &fresh)?;
    let method = if into_cgroup.is_ok() { Method::IntoCgroup } else { Method::Move };
    for scratch in [fresh, killed, own] {
        scratch.remove()?;
    }
    Ok(SelfTest { into_cgroup, after_target_kill, after_own_kill, method })
}

const WELL: i32 = 0;
const ELSEWHERE: i32 = 40;
const NOT_MOVED: i32 = 41;
const NOT_CLONED: i32 = 42;
const KILLED_AT_BIRTH: i32 = 43;

/// Clones into `target`; the child sees whether it is there and ends.
fn clone_lives(target: &Scratch) -> io::Result<Result<(), String>> {
    // SAFETY: the child makes system calls on stack buffers only, and exits.
    match unsafe { clone(Some(target.fd.as_fd())) } {
        Ok(Cloned::Child) => exit(if is_in(&target.name) { WELL } else { ELSEWHERE }),
        Ok(Cloned::Parent { pid, .. }) => Ok(words(pidfd::reap_blocking(Whom::Pid(pid))?)),
        Err(e) => Ok(Err(format!("clone3: {e}"))),
    }
}

/// The same from a helper that has moved itself into `own`.
fn from_within(own: &Scratch, target: &Scratch) -> io::Result<Result<(), String>> {
    // SAFETY: the child makes system calls on stack buffers only, and exits.
    match unsafe { clone(None) }? {
        Cloned::Child => exit(helper(own, target)),
        Cloned::Parent { pid, .. } => Ok(words(pidfd::reap_blocking(Whom::Pid(pid))?)),
    }
}

fn helper(own: &Scratch, target: &Scratch) -> i32 {
    let procs = rustix::fs::openat(&own.fd, c"cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if procs.and_then(|procs| rustix::io::write(&procs, b"0")).is_err() {
        return NOT_MOVED;
    }
    // SAFETY: as in the callers; the helper is a child itself and allocates nothing either.
    match unsafe { clone(Some(target.fd.as_fd())) } {
        Ok(Cloned::Child) => exit(if is_in(&target.name) { WELL } else { ELSEWHERE }),
        Ok(Cloned::Parent { pid, .. }) => match pidfd::reap_blocking(Whom::Pid(pid)) {
            Ok(ExitStatus::Exited { code }) => code,
            Ok(ExitStatus::Signaled { .. }) => KILLED_AT_BIRTH,
            Err(_) => NOT_CLONED,
        },
        Err(_) => NOT_CLONED,
    }
}

fn words(status: ExitStatus) -> Result<(), String> {
    let killed = "the child was killed before its first instruction (kernel bug, fixed by 8e3599202166)";
    match status {
        ExitStatus::Exited { code: WELL } => Ok(()),
        ExitStatus::Signaled { signal: libc::SIGKILL, .. } | ExitStatus::Exited { code: KILLED_AT_BIRTH } => {
            Err(killed.into())
        }
        ExitStatus::Exited { code: ELSEWHERE } => Err("the child landed in another cgroup".into()),
        ExitStatus::Exited { code: NOT_MOVED } => Err("cgroup.procs cannot be written".into()),
        ExitStatus::Exited { code: NOT_CLONED } => Err("clone3 was refused".into()),
        other => Err(format!("the child ended with {other:?}")),
    }
}

fn is_in(name: &[u8]) -> bool {
    let mut text = [0; 8192];
    let file =
        rustix::fs::openat(rustix::fs::CWD, c"/proc/self/cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let read = file.and_then(|file| rustix::io::read(&file, &mut text));
    read.ok().and_then(|n| text.get(..n)).is_some_and(|text| pidfd::membership_is(text, name))
}

fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) is always allowed; it runs no handlers of the parent's.
    unsafe { libc::_exit(code) }
}

/// A cgroup directory of the test's own, removed at the latest when dropped.
struct Scratch {
    path: PathBuf,
    name: Vec<u8>,
    fd: OwnedFd,
}

impl Scratch {
    fn new(parent: &Path, what: &str) -> io::Result<Self> {
        let name = format!("selftest-{}-{what}", std::process::id());
        let path = parent.join(&name);
        fs::create_dir(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, name: name.into_bytes(), fd })
    }

    fn kill(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, "cgroup.kill", flags, Mode::empty())?;
        rustix::io::write(&file, b"1")?;
        Ok(())
    }

    fn remove(self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After `remove`, or where a child of a failed test is still on its way out: an empty directory at worst.
        drop(fs::remove_dir(&self.path));
    }
}
