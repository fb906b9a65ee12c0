//! The child's side: from its first instruction to execve, in the order that makes each step possible.
//!
//! Everything is built before the clone ([`Prepared`]); what runs here are system calls on stack buffers: no
//! allocation, no lock, no return. The steps' order is the one of [`run`]; the words for a failure are
//! `failure.rs`'s.
#![expect(unsafe_code, reason = "between clone and exec there are only raw system calls")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int};
use rustix::io::Errno;

use super::clone::Method;
use super::failure::{self, DETAIL_MAX, Kind};
use super::file;
use super::plan::{Ids, LaunchPlan, Rlimit, Session};
use crate::model::{Stage, StartError};

/// What the child needs, in the shapes the kernel takes.
pub(super) struct Prepared<'fd> {
    cgroup: Option<Place<'fd>>,
    candidates: Vec<CString>,
    argv: Pointers,
    env: Pointers,
    directory: CString,
    ids: Option<Ids>,
    umask: u32,
    rlimits: Vec<Rlimit>,
    nice: Option<i32>,
    oom_score_adj: i32,
    session: Session,
    stdio: [BorrowedFd<'fd>; 3],
    report: BorrowedFd<'fd>,
}

struct Place<'fd> {
    directory: BorrowedFd<'fd>,
    name: Vec<u8>,
    move_there: bool,
}

/// A null-terminated array of C strings.
struct Pointers {
    pointers: Vec<*const c_char>,
    // Owns what the pointers point to.
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(of: &'static str, strings: &[serde_bytes::ByteBuf]) -> Result<Self, StartError> {
        let strings = strings.iter().map(|s| c_string(of, s)).collect::<Result<Vec<_>, _>>()?;
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { pointers, _strings: strings })
    }
}

fn c_string(of: &'static str, bytes: &[u8]) -> Result<CString, StartError> {
    CString::new(bytes).map_err(|_| StartError::refused(Stage::Exec, format!("a NUL byte in {of}")))
}

impl<'fd> Prepared<'fd> {
    pub(super) fn new(
        plan: &LaunchPlan,
        cgroup: Option<(BorrowedFd<'fd>, Method)>,
        stdio: [BorrowedFd<'fd>; 3],
        report: BorrowedFd<'fd>,
    ) -> Result<Self, StartError> {
        if plan.candidates.is_empty() {
            let program = plan.argv.first().map(|a| String::from_utf8_lossy(a).into_owned()).unwrap_or_default();
            let error = StartError::os(Stage::Exec, format!("{program} (PATH is empty)"), libc::ENOENT);
            return Err(error);
        }
        Ok(Self {
            cgroup: cgroup.map(|(directory, method)| Place {
                directory,
                name: plan.cgroup_name.clone().into_bytes(),
                move_there: method == Method::Move,
            }),
            candidates: plan.candidates.iter().map(|c| c_string("the program's name", c)).collect::<Result<_, _>>()?,
            argv: Pointers::new("an argument", &plan.argv)?,
            env: Pointers::new("the environment", &plan.env)?,
            directory: c_string("working_directory", &plan.working_directory)?,
            ids: plan.ids.clone(),
            umask: plan.umask,
            rlimits: plan.rlimits.clone(),
            nice: plan.nice,
            oom_score_adj: plan.oom_score_adj,
            session: plan.session,
            stdio,
            report,
        })
    }
}

/// A step that failed: what [`failure::encode`] takes, without the detail.
struct Failed {
    stage: Stage,
    kind: Kind,
    errno: Errno,
    index: u32,
}

/// The name of what a file wanted, where that is the trouble.
struct Detail {
    bytes: [u8; DETAIL_MAX],
    length: usize,
}

impl Failed {
    fn at(stage: Stage, errno: Errno) -> Self {
        Self { stage, kind: Kind::Plain, errno, index: 0 }
    }
    fn index(self, index: usize) -> Self {
        Self { index: u32::try_from(index).unwrap_or(u32::MAX), ..self }
    }
    fn not_taken(stage: Stage) -> Self {
        Self { kind: Kind::NotTaken, ..Self::at(stage, Errno::IO) }
    }
}

fn at(stage: Stage) -> impl Fn(Errno) -> Failed {
    move |errno| Failed::at(stage, errno)
}

/// Becomes the program, or says why not and exits.
pub(super) fn run(prepared: &Prepared<'_>) -> ! {
    let bomb = ExitOnUnwind;
    let mut detail = Detail { bytes: [0; DETAIL_MAX], length: 0 };
    if let Err(failed) = become_program(prepared, &mut detail) {
        let mut buffer = [0; _];
        let detail = detail.bytes.get(..detail.length).unwrap_or_default();
        let errno = failed.errno.raw_os_error();
        let words = failure::encode(&mut buffer, failed.stage, failed.kind, errno, failed.index, detail);
        // Nobody reads it where the parent is gone, and then nobody needs it.
        rustix::io::write(prepared.report, words).ok();
    }
    drop(bomb);
    exit()
}

/// Unwinding out of here would go on in a copy of the parent.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit()
    }
}

fn exit() -> ! {
    // SAFETY: _exit(2) is always allowed; it runs no handlers of the parent's.
    unsafe { libc::_exit(127) }
}

fn become_program(p: &Prepared<'_>, detail: &mut Detail) -> Result<(), Failed> {
    if p.session == Session::New {
        rustix::process::setsid().map_err(at(Stage::Session))?;
    }
    if let Some(place) = &p.cgroup {
        enter(place)?;
    }
    if matches!(p.session, Session::Foreground | Session::Group) {
        own_group(p.session)?;
    }
    reset_signals()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(p.umask));
    // What needs a new descriptor comes before the limits: RLIMIT_NOFILE can be below the number we inherited.
    place_stdio(p)?;
    set_oom_score_adj(p.oom_score_adj)?;
    set_rlimits(&p.rlimits)?;
    if let Some(nice) = p.nice {
        set_nice(nice)?;
    }
    if let Some(ids) = &p.ids {
        take_on(ids)?;
    }
    drop_capabilities()?;
    rustix::process::chdir(&*p.directory).map_err(at(Stage::Chdir))?;
    mark_descriptors()?;
    // From here a closed pipe without a failure means that execve did its work, or that it was killed in it.
    rustix::io::write(above_stdio(p.report)?, &[failure::ABOUT_TO_EXEC]).map_err(at(Stage::Spawn))?;
    Err(exec(p, detail))
}

/// Into the cgroup, where the clone has not put us there, and in any case the proof of it.
fn enter(place: &Place<'_>) -> Result<(), Failed> {
    use rustix::fs::{CWD, Mode, OFlags};
    let failed = at(Stage::Membership);
    if place.move_there {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(place.directory, c"cgroup.procs", flags, Mode::empty()).map_err(&failed)?;
        rustix::io::write(&procs, b"0").map_err(&failed)?;
    }
    let own = rustix::fs::openat(CWD, c"/proc/self/cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(&failed)?;
    let mut text = [0; 8192];
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&own, rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let text = text.get(..length).unwrap_or_default();
    if crate::kernel::pidfd::membership_is(text, &place.name) {
        Ok(())
    } else {
        Err(Failed::not_taken(Stage::Membership))
    }
}

fn own_group(session: Session) -> Result<(), Failed> {
    use rustix::fs::{CWD, Mode, OFlags};
    let failed = at(Stage::Session);
    rustix::process::setpgid(None, None).map_err(&failed)?;
    if session == Session::Foreground {
        let terminal = rustix::fs::openat(CWD, c"/dev/tty", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        // From the background this raises SIGTTOU, which is still blocked.
        rustix::termios::tcsetpgrp(terminal.map_err(&failed)?, rustix::process::getpid()).map_err(&failed)?;
    }
    Ok(())
}

/// The kernel's own view of a mask and of an action: through libc, signals 32 and 33 cannot be named.
const SIGSET_BYTES: usize = 8;

/// Blocks every signal of the calling thread; the mask from before.
pub(super) fn block_all_signals() -> u64 {
    let mut before = 0;
    // SAFETY: both pointers are to 8 bytes of ours, the size of the kernel's mask.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const ALL, &raw mut before, SIGSET_BYTES)
    };
    before
}

static ALL: u64 = u64::MAX;

/// Undoes [`block_all_signals`].
pub(super) fn restore_signals(mask: u64) {
    let none: *mut u64 = ptr::null_mut();
    // SAFETY: as above; the old mask is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, none, SIGSET_BYTES) };
}

/// Every disposition to its default (ignored ones survive exec, and Rust ignores SIGPIPE), then an empty mask.
fn reset_signals() -> Result<(), Failed> {
    // All zeroes: SIG_DFL without flags, in every architecture's `struct sigaction`, the largest of which it covers.
    let default = [0u64; 8];
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        let none: *mut u64 = ptr::null_mut();
        // SAFETY: the new action is at least as large as the kernel's, the old one is not asked for.
        let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, SIGSET_BYTES) };
        if done != 0 {
            return Err(Failed::at(Stage::Signals, last_errno()));
        }
    }
    restore_signals(0);
    Ok(())
}

fn set_rlimits(limits: &[Rlimit]) -> Result<(), Failed> {
    for (i, limit) in limits.iter().enumerate() {
        let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
        // The type of the resource differs between C libraries.
        #[allow(clippy::cast_possible_wrap, clippy::useless_conversion, clippy::unnecessary_cast)]
        // SAFETY: the pointer is to a structure of ours; an unknown resource is an error.
        let done = unsafe { libc::setrlimit(limit.resource as _, &raw const value) };
        if done != 0 {
            return Err(Failed::at(Stage::Rlimit, last_errno()).index(i));
        }
    }
    Ok(())
}

/// Written only where it differs: without privileges the value cannot be lowered, not even to itself.
fn set_oom_score_adj(wanted: i32) -> Result<(), Failed> {
    use rustix::fs::{CWD, Mode, OFlags};
    let failed = at(Stage::OomScoreAdj);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, c"/proc/self/oom_score_adj", flags, Mode::empty()).map_err(&failed)?;
    let mut buffer = [0; 16];
    let length = rustix::io::read(&file, &mut buffer).map_err(&failed)?;
    let now: Option<i32> =
        buffer.get(..length).and_then(|b| std::str::from_utf8(b).ok()).and_then(|t| t.trim().parse().ok());
    if now != Some(wanted) {
        let mut text = [0; 12];
        match rustix::io::write(&file, decimal(wanted, &mut text)) {
            // 0 takes a protection of ours off the worker. In a user's session, which is given a score above 0 that
            // nobody unprivileged can lower, there is none to take off.
            Err(Errno::ACCESS) if wanted == 0 && now.is_some_and(|now| now > 0) => {}
            written => drop(written.map_err(&failed)?),
        }
    }
    Ok(())
}

/// `n` in digits, without allocating.
fn decimal(n: i32, to: &mut [u8; 12]) -> &[u8] {
    let mut rest = n.unsigned_abs();
    let mut start = to.len();
    loop {
        start -= 1;
        to[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        start -= 1;
        to[start] = b'-';
    }
    to.get(start..).unwrap_or_default()
}

fn set_nice(wanted: i32) -> Result<(), Failed> {
    let failed = at(Stage::Nice);
    if rustix::process::getpriority_process(None).map_err(&failed)? != wanted {
        rustix::process::setpriority_process(None, wanted).map_err(&failed)?;
    }
    Ok(())
}

/// Groups, group, user, in this order, because each needs a privilege that the last one gives up; then the proof. A
/// step that would change nothing is left out, so that an unprivileged caller can be asked for itself.
fn take_on(ids: &Ids) -> Result<(), Failed> {
    if !groups_are(&ids.groups) {
        // SAFETY: pointer and length are of one slice. The raw call is this thread's alone, the only one here.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()) };
        if done != 0 {
            return Err(Failed::at(Stage::Groups, last_errno()));
        }
        if !groups_are(&ids.groups) {
            return Err(Failed::not_taken(Stage::Groups));
        }
    }
    if gids() != [ids.gid; 3] {
        // SAFETY: plain numbers; the raw call is this thread's alone, the only one here.
        let done = unsafe { libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid) };
        if done != 0 {
            return Err(Failed::at(Stage::Gid, last_errno()));
        }
        if gids() != [ids.gid; 3] {
            return Err(Failed::not_taken(Stage::Gid));
        }
    }
    if uids() != [ids.uid; 3] {
        // SAFETY: as above.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid) };
        if done != 0 {
            return Err(Failed::at(Stage::Uid, last_errno()));
        }
        if uids() != [ids.uid; 3] {
            return Err(Failed::not_taken(Stage::Uid));
        }
    }
    Ok(())
}

fn gids() -> [u32; 3] {
    let [mut real, mut effective, mut saved] = [u32::MAX; 3];
    // SAFETY: three pointers to numbers of ours.
    unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) };
    [real, effective, saved]
}

fn uids() -> [u32; 3] {
    let [mut real, mut effective, mut saved] = [u32::MAX; 3];
    // SAFETY: three pointers to numbers of ours.
    unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    [real, effective, saved]
}

/// Whether the supplementary groups are these, in whatever order. More than fit here count as different.
fn groups_are(wanted: &[u32]) -> bool {
    let mut now = [0u32; 256];
    // SAFETY: pointer and length are of one array.
    let count = unsafe { libc::getgroups(256, now.as_mut_ptr()) };
    let now = usize::try_from(count).ok().and_then(|n| now.get(..n));
    now.is_some_and(|now| wanted.iter().all(|g| now.contains(g)) && now.iter().all(|g| wanted.contains(g)))
}

/// Nothing that an exec would hand on. The bounding set is isolation's.
fn drop_capabilities() -> Result<(), Failed> {
    use rustix::thread::CapabilitySet;
    let failed = at(Stage::Capabilities);
    rustix::thread::clear_ambient_capability_set().map_err(&failed)?;
    let mut sets = rustix::thread::capabilities(None).map_err(&failed)?;
    if !sets.inheritable.is_empty() {
        sets.inheritable = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).map_err(&failed)?;
    }
    Ok(())
}

/// The sources may themselves be any of 0, 1 and 2, in any order, so
/// they are lifted above first.
fn place_stdio(p: &Prepared<'_>) -> Result<(), Failed> {
    let mut lifted: [RawFd; 3] = [-1; 3];
    for ((i, source), to) in p.stdio.iter().enumerate().zip(&mut lifted) {
        // SAFETY: fcntl on a descriptor that is borrowed for the child's whole life.
        *to = unsafe { libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
        if *to < 0 {
            return Err(Failed::at(Stage::Stdio, last_errno()).index(i));
        }
    }
    above_stdio(p.report)?;
    for (i, from) in lifted.into_iter().enumerate() {
        let to = c_int::try_from(i).unwrap_or(c_int::MAX);
        // SAFETY: both numbers are ours; what 0, 1 and 2 were is not used again.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(Failed::at(Stage::Stdio, last_errno()).index(i));
        }
    }
    Ok(())
}

/// Nothing but 0, 1 and 2 goes across the exec.
fn mark_descriptors() -> Result<(), Failed> {
    // SAFETY: marks descriptors, closes none.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(Failed::at(Stage::CloseRange, last_errno())) }
}

/// Rust's runtime opens 0, 1 and 2 where they are closed, so the report pipe has a higher number. Proved, not assumed.
fn above_stdio(report: BorrowedFd<'_>) -> Result<BorrowedFd<'_>, Failed> {
    if report.as_raw_fd() > 2 { Ok(report) } else { Err(Failed::at(Stage::Stdio, Errno::BADF)) }
}

/// execve over the candidates, by the rules of execvp(3): a missing file is passed over, a forbidden one is remembered.
/// Not by its rule that a file of unknown format is given to a shell.
fn exec(p: &Prepared<'_>, detail: &mut Detail) -> Failed {
    let mut forbidden = None;
    for (i, candidate) in p.candidates.iter().enumerate() {
        // SAFETY: the strings and the null-terminated arrays of pointers to them live until the exec is done.
        unsafe { libc::execve(candidate.as_ptr(), p.argv.pointers.as_ptr(), p.env.pointers.as_ptr()) };
        match last_errno() {
            Errno::ACCESS => {
                forbidden.get_or_insert(i);
            }
            // A script without its interpreter is there, and hides nothing behind it.
            Errno::NOENT if file::exists(candidate) => return explain(p, i, Errno::NOENT, detail),
            Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT if p.candidates.len() > 1 => {}
            errno => return explain(p, i, errno, detail),
        }
    }
    match forbidden {
        Some(i) => explain(p, i, Errno::ACCESS, detail),
        None => Failed { kind: Kind::NotInPath, ..Failed::at(Stage::Exec, Errno::NOENT) },
    }
}

/// Whether the file itself or what it names is the trouble.
fn explain(p: &Prepared<'_>, index: usize, errno: Errno, detail: &mut Detail) -> Failed {
    let mut failed = Failed::at(Stage::Exec, errno).index(index);
    let Some(candidate) = p.candidates.get(index) else { return failed };
    let candidate: &CStr = candidate;
    if errno == Errno::ACCESS && file::is_directory(candidate) {
        failed.kind = Kind::Directory;
    } else if errno == Errno::NOENT || (errno == Errno::ACCESS && file::is_executable(candidate)) {
        // A low RLIMIT_NOFILE would forbid the look; nobody reads a standard input here any more.
        // SAFETY: the child's own copy, not used again.
        unsafe { libc::close(0) };
        let mut head = [0; file::HEAD];
        let head = file::read_head(candidate, &mut head);
        let named = match (file::interpreter(head), file::loader(head)) {
            (Some(interpreter), _) => Some((Kind::Interpreter, interpreter)),
            (None, Some(loader)) => Some((Kind::Loader, loader)),
            (None, None) => None,
        };
        if let Some((kind, name)) = named {
            failed.kind = kind;
            for (to, from) in detail.bytes.iter_mut().zip(name) {
                *to = *from;
                detail.length += 1;
            }
        }
    }
    failed
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_allocating() {
        for n in [0, 7, -1, 1000, -1000, i32::MIN, i32::MAX] {
            assert_eq!(decimal(n, &mut [0; 12]), n.to_string().as_bytes());
        }
    }
}
