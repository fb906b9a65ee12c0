//! Makes a child in a cgroup and tells how it came out.
//!
//! ```text
//! spawn ─ clone3 ─▶ child.rs: setup … "about to exec" … execve
//!    │                 │ failure record          │ EOF (CLOEXEC)
//!    └─▶ Confirm ◀─────┴─────────────────────────┘
//! ```
//!
//! The clone is fork-like. Never `CLONE_VM` (vfork, `posix_spawn`): with `memory.oom.group` set, an OOM in the target
//! before exec kills everything that shares the child's memory, us included. Its price grows with our memory, which
//! is why the small keeper does it. Everything the child needs is built before the clone, and the child does not
//! allocate, so a caller with several threads is safe too.
#![expect(unsafe_code, reason = "clone3(2) has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::child::{self, Prepared};
use super::failure::{Report, Subject};
use super::plan::LaunchPlan;
use crate::model::{Stage, StartError};

/// How a child gets into its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// It is born there: clone3(2) with `CLONE_INTO_CGROUP`.
    IntoCgroup,
    /// It is born in ours and writes itself into `cgroup.procs`, which waits for an RCU grace period (10 ms where
    /// launches are sporadic). The child waits, not we.
    Move,
}

impl Method {
    /// The other way.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::IntoCgroup => Self::Move,
            Self::Move => Self::IntoCgroup,
        }
    }
}

/// A child between clone and exec, or beyond.
#[derive(Debug)]
pub struct Child {
    /// Its number, certain until we reap it.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Whether its program runs.
    pub confirm: Confirm,
}

/// Starts `plan` in the cgroup directory `cgroup`. Returns once the child exists; [`Child::confirm`] tells the rest.
///
/// # Errors
/// What is wrong before there is a child: a frozen or removed cgroup, a NUL in an argument, clone3's own refusals.
pub fn spawn(
    plan: &LaunchPlan,
    cgroup: BorrowedFd<'_>,
    stdio: [BorrowedFd<'_>; 3],
    method: Method,
) -> Result<Child, StartError> {
    refuse_frozen(plan, cgroup)?;
    start(plan, Some((cgroup, method)), stdio)
}

/// Starts `plan` in our own cgroup; `plan.cgroup_name` is not looked at.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_here(plan: &LaunchPlan, stdio: [BorrowedFd<'_>; 3]) -> Result<Child, StartError> {
    start(plan, None, stdio)
}

fn start(
    plan: &LaunchPlan,
    cgroup: Option<(BorrowedFd<'_>, Method)>,
    stdio: [BorrowedFd<'_>; 3],
) -> Result<Child, StartError> {
    let io = |what: &'static str| move |e: rustix::io::Errno| StartError::os(Stage::Stdio, what, e.raw_os_error());
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io("confirmation pipe"))?;
    // Only our end: the child's single write must not be refused.
    rustix::io::ioctl_fionbio(&read, true).map_err(io("confirmation pipe"))?;
    let prepared = Prepared::new(plan, cgroup, stdio, write.as_fd())?;
    let target = cgroup.filter(|(_, method)| *method == Method::IntoCgroup).map(|(fd, _)| fd);

    // No handler of ours may run in the child before its dispositions are reset.
    let mask = child::block_all_signals();
    // SAFETY: the child only runs `child::run`, which neither returns nor allocates.
    let cloned = unsafe { clone(target) };
    if matches!(cloned, Ok(Cloned::Child)) {
        child::run(&prepared);
    }
    child::restore_signals(mask);

    match cloned {
        Ok(Cloned::Parent { pid, pidfd }) => {
            let confirm = Confirm { pipe: read, about_to_exec: false, subject: Box::new(Subject::new(plan)) };
            Ok(Child { pid, pidfd, confirm })
        }
        Ok(Cloned::Child) => unreachable!("the child has become its program or exited"),
        Err(e) => Err(clone_error(plan, target.is_some(), &e)),
    }
}

/// Which side of the clone we are on.
pub(super) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// clone3(2), fork-like, into `cgroup`; clone(2) where there is none to be born in, because container run times
/// (seccomp) may refuse clone3 as a whole.
///
/// # Safety
/// In the child, only async-signal-safe calls (signal-safety(7)) until exec or `_exit`, and no return to the caller's
/// callers: locks of other threads, the allocator's included, may be held for ever there.
pub(super) unsafe fn clone(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    /// `struct clone_args`, version 2 (88 bytes).
    #[repr(C, align(8))]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    /// Not libc's constant: that one is a 32-bit int and overflows to 0, which puts the child in our own cgroup
    /// without any error.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    const CLONE_PIDFD: i32 = libc::CLONE_PIDFD;

    let mut pidfd: libc::c_int = -1;
    let pidfd_at: *mut libc::c_int = &raw mut pidfd;
    let pid = if let Some(cgroup) = cgroup {
        let args = CloneArgs {
            flags: CLONE_INTO_CGROUP | u64::from(CLONE_PIDFD.unsigned_abs()),
            pidfd: pidfd_at as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
            ..CloneArgs::default()
        };
        // SAFETY: the structure and the int it points to outlive the call; without CLONE_VM and with a null
        // stack the child goes on here in a copy of our memory.
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }
    } else {
        let flags = libc::c_long::from(CLONE_PIDFD | libc::SIGCHLD);
        // SAFETY: as above. The pidfd's place is the third argument on every architecture but s390 and cris; the
        // ones after it are unused with these flags.
        unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, pidfd_at, 0usize, 0usize) }
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Cloned::Child),
        Ok(pid) if pid > 0 => {
            // SAFETY: the clone succeeded, so the kernel has made this descriptor for us. (A clone that fails
            // writes the field too: with a number that is not open.)
            let pidfd = unsafe { crate::kernel::pidfd::own(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// A child cloned into a frozen cgroup exists and never execs.
fn refuse_frozen(plan: &LaunchPlan, cgroup: BorrowedFd<'_>) -> Result<(), StartError> {
    let read = |file: &str| {
        read_at(cgroup, file).map_err(|e| {
            let errno = e.raw_os_error().unwrap_or(0);
            StartError::os(Stage::Cgroup, format!("{}/{file}", plan.cgroup_name), errno)
        })
    };
    // `cgroup.events` also knows of an ancestor's freezer, `cgroup.freeze` of a freeze that is still on its way.
    let frozen = read("cgroup.events")?.lines().any(|l| l == "frozen 1") || read("cgroup.freeze")?.trim() == "1";
    if frozen {
        let sentence = format!("{} is frozen: nothing can start in it before it is thawed", plan.cgroup_name);
        return Err(StartError::refused(Stage::Cgroup, sentence));
    }
    Ok(())
}

/// Reads a small file of a cgroup directory.
pub(super) fn read_at(dir: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    use rustix::fs::{Mode, OFlags};
    let fd = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0; 512];
    let read = rustix::io::read(&fd, &mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned())
}

fn clone_error(plan: &LaunchPlan, into_cgroup: bool, e: &io::Error) -> StartError {
    let errno = e.raw_os_error().unwrap_or(0);
    let hint = match errno {
        libc::EAGAIN => " (pids.max here or above, or RLIMIT_NPROC)",
        libc::EBUSY if into_cgroup => " (controllers are enabled for its children)",
        libc::EACCES if into_cgroup => " (no write access to its cgroup.procs, or to that of our common ancestor)",
        libc::ENOENT | libc::ENODEV if into_cgroup => " (the directory was removed)",
        libc::EOPNOTSUPP if into_cgroup => " (a cgroup of a threaded subtree)",
        _ => "",
    };
    StartError::os(Stage::Clone, format!("{}{hint}", plan.cgroup_name), errno)
}

/// How far a child has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not executed yet: wait until [`Confirm`] is hung up.
    Pending,
    /// Its program runs, or it was killed inside execve(2): then its exit status tells.
    Execed,
    /// It never ran. The child is on its way out or dead, and has to be reaped.
    Failed(StartError),
}

/// The read end of the child's confirmation pipe. Hung up (`EPOLLHUP`, reported whatever is asked for) when all there is to
/// know is in it; readable a little earlier, with "about to exec", which is no news.
#[derive(Debug)]
pub struct Confirm {
    pipe: OwnedFd,
    about_to_exec: bool,
    subject: Box<Subject>,
}

impl Confirm {
    /// Looks, without waiting. After anything but [`Progress::Pending`] there is no more to ask.
    pub fn poll(&mut self) -> Progress {
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) if self.about_to_exec => return Progress::Execed,
                Ok(0) => return Progress::Failed(self.subject.died_before_exec()),
                Ok(read) => {
                    for report in Report::parse(buffer.get(..read).unwrap_or_default()) {
                        match report {
                            Report::AboutToExec => self.about_to_exec = true,
                            Report::Failed(failure) => return Progress::Failed(self.subject.explain(&failure)),
                        }
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Progress::Pending,
                Err(e) => return Progress::Failed(StartError::os(Stage::Spawn, "confirmation pipe", e.raw_os_error())),
            }
        }
    }

    /// Waits for the outcome. For callers with nothing else to do, like `run` before its runtime exists.
    pub fn wait(&mut self) -> Progress {
        loop {
            match self.poll() {
                Progress::Pending => {
                    let mut poll = [rustix::event::PollFd::new(&self.pipe, rustix::event::PollFlags::empty())];
                    match rustix::event::poll(&mut poll, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(e) => return Progress::Failed(StartError::os(Stage::Spawn, "poll", e.raw_os_error())),
                    }
                }
                done => return done,
            }
        }
    }
}

impl AsFd for Confirm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
