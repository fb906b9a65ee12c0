//! Waiting for children and signalling processes, by pidfd or by the number of an unreaped child.
//!
//! Owns the only calls to waitid(2). Not through nix: its waitid returns EINVAL for a child that a real-time signal
//! killed, *after* having reaped it, and the status is lost. Making the children is `launch`'s.
#![expect(
    unsafe_code,
    reason = "waitid(2) fills a siginfo_t, PIDFD_GET_INFO a pidfd_info; pidfd_send_signal(2) is a raw system call"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::model::ExitStatus;

/// Whom to wait for.
#[derive(Debug, Clone, Copy)]
pub enum Whom<'fd> {
    /// A child of ours that nobody has reaped, so that its number cannot be another's.
    Pid(i32),
    /// The process behind a pidfd, a child of ours.
    PidFd(BorrowedFd<'fd>),
}

/// A change of a child that is not its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobChange {
    /// A stop signal halted it (`CLD_STOPPED`).
    Stopped,
    /// SIGCONT went through (`CLD_CONTINUED`).
    Continued,
}

/// The status of an ended child, which stays to be reaped. `None` while it lives.
///
/// # Errors
/// waitid(2): `ECHILD` where it is no child of ours or has been reaped.
pub fn peek(whom: Whom<'_>) -> io::Result<Option<ExitStatus>> {
    Ok(wait(whom, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?.and_then(|change| change.end()))
}

/// Reaps an ended child. `None` while it lives.
///
/// # Errors
/// As [`peek`].
pub fn reap(whom: Whom<'_>) -> io::Result<Option<ExitStatus>> {
    Ok(wait(whom, libc::WEXITED | libc::WNOHANG)?.and_then(|change| change.end()))
}

/// Waits until the child has ended and reaps it. For callers with nothing else to do.
///
/// # Errors
/// As [`peek`].
pub fn reap_blocking(whom: Whom<'_>) -> io::Result<ExitStatus> {
    loop {
        match wait(whom, libc::WEXITED) {
            Ok(Some(change)) => {
                if let Some(status) = change.end() {
                    return Ok(status);
                }
            }
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The number of some child that has ended and stays to be reaped: look it up, then [`reap`] it. `None` where
/// there is none, also where there are no children at all.
///
/// # Errors
/// waitid(2), other than `ECHILD`.
pub fn next_dead() -> io::Result<Option<i32>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok(change) => Ok(change.map(|c| c.pid)),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Takes the last stop or continuation of a child that nobody has taken yet.
///
/// # Errors
/// As [`peek`].
pub fn job_change(pid: i32) -> io::Result<Option<JobChange>> {
    let change = wait(Whom::Pid(pid), libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG)?;
    Ok(change.and_then(|c| match c.code {
        libc::CLD_STOPPED => Some(JobChange::Stopped),
        libc::CLD_CONTINUED => Some(JobChange::Continued),
        _ => None,
    }))
}

/// A pidfd (`pidfd_open(2)`) of `pid`. Certain to be the process meant only where it is an unreaped child of ours, or
/// where its identity is checked afterwards.
///
/// # Errors
/// `ESRCH` where there is none.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends `signal`, 1 to 64, by `pidfd_send_signal(2)`.
///
/// # Errors
/// `ESRCH` where the process has ended and was reaped.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is borrowed for the call, the siginfo pointer may be null, flags must be 0.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a process has ended that is no child of ours. `pidfd` was opened while it lived, and has become readable.
///
/// Until its parent has reaped it, `/proc/PID/stat` has the status (`exit_code`, `proc_pid_stat(5)`); from then on the
/// kernel remembers it for whoever holds a pidfd (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, Linux 6.15). `None` where
/// neither tells, and where it lives.
#[must_use]
pub fn end_of_stranger(pidfd: BorrowedFd<'_>, pid: i32, start_ticks: u64) -> Option<ExitStatus> {
    // In this order: whoever was reaped after the first look is remembered at the second.
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok();
    let dead = stat.filter(|stat| stat.starttime == start_ticks && ['Z', 'X'].contains(&stat.state));
    let status = dead.and_then(|stat| stat.exit_code).or_else(|| remembered_end(pidfd))?;
    Some(from_wait_status(status))
}

fn remembered_end(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: it is a structure of integers, for which all zeroes is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    let mask = u64::from(libc::PIDFD_INFO_EXIT);
    info.mask = mask;
    // SAFETY: the descriptor is borrowed for the call, and the request is for a structure of this size, which lives through it.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    // The kernel leaves the bits of what it has told.
    (done == 0 && info.mask & mask != 0).then_some(info.exit_code)
}

/// The kernel's own encoding (wait(2), `WIFEXITED` and its like).
const fn from_wait_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    } else {
        ExitStatus::Exited { code: libc::WEXITSTATUS(status) }
    }
}

/// When `pid` was started, in clock ticks since boot: with the boot id it tells a process from a later one with its
/// number (field 22 of `/proc/PID/stat`, `proc_pid_stat(5)`). `None` where there is no such process any more.
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, which can hold spaces and parentheses; the last `)` ends it.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether `pid` has SIGKILL before it or is dead: `ShdPnd` and `SigPnd` of `/proc/PID/status` (`proc_pid_status(5)`). The
/// kernel leaves it there until the process is reaped, also once it is on its way out. One that is not there is dead;
/// of one that cannot be looked at for another reason nothing is said.
#[must_use]
pub fn is_dying(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(text) => says_dying(&text),
        Err(e) => [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&e.raw_os_error()),
    }
}

fn says_dying(status: &str) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let pending = |key: &str| field(key).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    field("State:").is_some_and(|state| state.starts_with(['Z', 'X']))
        || (pending("ShdPnd:") | pending("SigPnd:")) & SIGKILL != 0
}

/// Whether `pid` is directly in the cgroup whose directory is called `name`: the last component of its v2 path in
/// `/proc/PID/cgroup` (cgroups(7)).
///
/// # Errors
/// Where the file cannot be read: `ENOENT` or `ESRCH` once the process has been reaped.
pub fn is_in_cgroup(pid: i32, name: &str) -> io::Result<bool> {
    let text = std::fs::read(format!("/proc/{pid}/cgroup"))?;
    Ok(membership_is(&text, name.as_bytes()))
}

/// Whether the v2 line (`0::PATH`) of a `/proc/PID/cgroup` ends in the directory `name`.
#[must_use]
pub fn membership_is(proc_cgroup: &[u8], name: &[u8]) -> bool {
    proc_cgroup
        .split(|b| *b == b'\n')
        .filter_map(|line| line.strip_prefix(b"0::"))
        .any(|path| path.strip_suffix(name).is_some_and(|above| above.ends_with(b"/")))
}

/// What waitid(2) told.
struct Change {
    pid: i32,
    code: i32,
    status: i32,
}

impl Change {
    fn end(&self) -> Option<ExitStatus> {
        match self.code {
            libc::CLD_EXITED => Some(ExitStatus::Exited { code: self.status }),
            libc::CLD_KILLED => Some(ExitStatus::Signaled { signal: self.status, core: false }),
            libc::CLD_DUMPED => Some(ExitStatus::Signaled { signal: self.status, core: true }),
            _ => None,
        }
    }
}

fn wait(whom: Whom<'_>, options: i32) -> io::Result<Option<Change>> {
    let bad = || io::Error::from_raw_os_error(libc::ECHILD);
    match whom {
        // 0 would mean our whole process group.
        Whom::Pid(pid) => waitid(libc::P_PID, u32::try_from(pid).ok().filter(|p| *p > 0).ok_or_else(bad)?, options),
        Whom::PidFd(fd) => waitid(libc::P_PIDFD, u32::try_from(fd.as_raw_fd()).map_err(|_| bad())?, options),
    }
}

fn waitid(kind: libc::idtype_t, id: u32, options: i32) -> io::Result<Option<Change>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the pointer is to a siginfo_t of ours that lives through the call.
    let done = unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid siginfo_t, and the kernel has filled it where it had something to tell.
    let info = unsafe { info.assume_init() };
    // SAFETY: after waitid(2) si_pid is valid; with WNOHANG and nothing to tell it is 0.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above, si_status is valid after waitid(2).
    let status = unsafe { info.si_status() };
    Ok(Some(Change { pid, code: info.si_code, status }))
}

/// Takes over a descriptor that the kernel has just made for us.
///
/// # Safety
/// `fd` is open and nobody else's.
pub(super) unsafe fn own(fd: i32) -> OwnedFd {
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use serde_bytes::ByteBuf;

    use super::*;
    use crate::kernel::launch::plan::{LaunchPlan, Rlimit, Session};
    use crate::kernel::launch::{Child, Progress, spawn_here};

    /// Not by std: ours resets dispositions and mask, which a test runner can have set for signal 32.
    fn launch(argv: &[&str], stdin: BorrowedFd<'_>) -> Child {
        let plan = LaunchPlan {
            cgroup_name: String::new(),
            candidates: vec![ByteBuf::from(argv[0])],
            argv: argv.iter().map(|a| ByteBuf::from(*a)).collect(),
            env: Vec::new(),
            working_directory: ByteBuf::from("/"),
            ids: None,
            umask: 0o022,
            rlimits: vec![Rlimit { resource: libc::RLIMIT_CORE, soft: 0, hard: 0 }],
            nice: None,
            oom_score_adj: 0,
            session: Session::New,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut child = spawn_here(&plan, [stdin, null.as_fd(), null.as_fd()]).unwrap();
        assert_eq!(child.confirm.wait(), Progress::Execed);
        child
    }

    #[test]
    fn every_exit_code_is_told_once() {
        let null = std::fs::File::open("/dev/null").unwrap();
        for code in 0..=255 {
            let child = launch(&["/bin/sh", "-c", &format!("exit {code}")], null.as_fd());
            let status = reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
            assert_eq!(status, ExitStatus::Exited { code });
            assert_eq!(peek(Whom::Pid(child.pid)).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        }
    }

    #[test]
    fn every_deadly_signal_is_told_real_time_ones_included() {
        // Default is not to end: signal(7).
        let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        let null = std::fs::File::open("/dev/null").unwrap();
        for signal in (1..=64).filter(|s| !harmless.contains(s) && !stops.contains(s)) {
            let child = launch(&["/bin/sleep", "60"], null.as_fd());
            super::signal(child.pidfd.as_fd(), signal).unwrap();
            let status = reap_blocking(Whom::Pid(child.pid)).unwrap();
            assert!(matches!(status, ExitStatus::Signaled { signal: by, .. } if by == signal), "{signal}: {status:?}");
        }
    }

    #[test]
    fn the_end_of_a_stranger_is_told_exactly_or_not_at_all() {
        let ends = [("exit 0", ExitStatus::Exited { code: 0 }), ("exit 255", ExitStatus::Exited { code: 255 })];
        let killed = [("kill -TERM $$", libc::SIGTERM), ("kill -KILL $$", libc::SIGKILL)]
            .map(|(script, signal)| (script, ExitStatus::Signaled { signal, core: false }));
        for (script, end) in ends.into_iter().chain(killed) {
            let (stdin, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            let child = launch(&["/bin/sh", "-c", &format!("read x; {script}")], stdin.as_fd());
            let (pidfd, ticks) = (child.pidfd.as_fd(), start_ticks(child.pid).unwrap());
            assert_eq!(end_of_stranger(pidfd, child.pid, ticks), None, "it lives");
            drop(ours);
            let mut poll = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
            assert_eq!(end_of_stranger(pidfd, child.pid, ticks), Some(end), "{script}: before it is reaped");
            assert_eq!(reap(Whom::Pid(child.pid)).unwrap(), Some(end));
            // Older kernels forget: then nothing is said, and never a code 0.
            let remembered = end_of_stranger(pidfd, child.pid, ticks);
            assert!(remembered.is_none_or(|told| told == end), "{script}: {remembered:?}");
        }
    }

    #[test]
    fn a_peek_leaves_the_child_to_be_reaped() {
        let (stdin, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let child = launch(&["/bin/sh", "-c", "read x; exit 9"], stdin.as_fd());
        assert_eq!(peek(Whom::Pid(child.pid)).unwrap(), None);
        assert_eq!(reap(Whom::PidFd(child.pidfd.as_fd())).unwrap(), None);
        drop(ours);
        let mut poll = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        for _ in 0..2 {
            assert_eq!(peek(Whom::Pid(child.pid)).unwrap(), Some(ExitStatus::Exited { code: 9 }));
        }
        assert_eq!(reap(Whom::Pid(child.pid)).unwrap(), Some(ExitStatus::Exited { code: 9 }));
    }

    #[test]
    fn a_stop_and_a_continuation_are_each_told_once() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let child = launch(&["/bin/sleep", "60"], null.as_fd());
        let tell = |signal, change| {
            super::signal(child.pidfd.as_fd(), signal).unwrap();
            while job_change(child.pid).unwrap() != Some(change) {}
            assert_eq!(job_change(child.pid).unwrap(), None);
        };
        tell(libc::SIGSTOP, JobChange::Stopped);
        tell(libc::SIGCONT, JobChange::Continued);
        super::signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        reap_blocking(Whom::Pid(child.pid)).unwrap();
    }

    #[test]
    fn whoever_was_sent_sigkill_is_dying_at_every_moment_until_it_is_reaped() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_dying(std::process::id().cast_signed()));
        for _ in 0..100 {
            let child = launch(&["/bin/sleep", "60"], null.as_fd());
            assert!(!is_dying(child.pid));
            super::signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
            assert!(is_dying(child.pid));
            while peek(Whom::Pid(child.pid)).unwrap().is_none() {
                assert!(is_dying(child.pid));
            }
            assert!(is_dying(child.pid), "a zombie is dead");
            reap_blocking(Whom::Pid(child.pid)).unwrap();
            assert!(is_dying(child.pid), "and so is what is not there");
        }
    }

    #[test]
    fn membership_is_the_last_component_of_the_v2_line_only() {
        let text = b"9:name=systemd:/web.1\n0::/pinfold/workers/web.12\n";
        assert!(membership_is(text, b"web.12"));
        for stranger in ["eb.12", "web.1", "workers", "web.12/x"] {
            assert!(!membership_is(text, stranger.as_bytes()), "{stranger}");
        }
    }
}
