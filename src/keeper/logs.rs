//! The logger's seat: hands it the read ends of the workers' pipes and keeps a spare of each until it is drained.
//!
//! The spare end is what lets the logger die: a pipe with a reader raises no SIGPIPE and loses no byte, and the next
//! logger gets the same pipe. What the logger does with the bytes is `logger`'s.

mod handover;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use super::protocol::{FromKeeper, FromLogger, LogFiles, Stream, ToLogger};
use super::role::{Started, say};
use super::transport::{Inbox, Outbox, TransportError};
use super::vigil::Backoff;
use crate::kernel::launch::{Child, Method, Progress};
use crate::kernel::pidfd::{self, JobChange};
use crate::model::{LogPolicy, Mono, RunId, Stage, StartError, chain};

/// A pipe that is not drained.
struct Pipe {
    path: PathBuf,
    policy: LogPolicy,
    spare: OwnedFd,
}

impl Pipe {
    /// What a logger is told of it.
    fn attach(&self, run: &RunId, stream: Stream) -> ToLogger {
        ToLogger::Attach { run: run.clone(), stream, path: self.path.clone(), policy: self.policy }
    }
}

/// The pipes' ends of one run, before it runs.
pub(super) struct Ends {
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

impl Ends {
    /// Two pipes; the worker's ends belong to `uid`, so that it can open `/dev/stdout` anew.
    pub(super) fn new(uid: Option<u32>) -> Result<Self, StartError> {
        let pipe = || -> Result<_, rustix::io::Errno> {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            // The read end only: the flag belongs to the open file, and each end is one of its own.
            rustix::io::ioctl_fionbio(&read, true)?;
            if let Some(uid) = uid {
                match rustix::fs::fchown(&write, Some(rustix::process::Uid::from_raw(uid)), None) {
                    // Without privileges: then the child's own setresuid says so, in better words.
                    Ok(()) | Err(rustix::io::Errno::PERM) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok((read, write))
        };
        let failed = |e: rustix::io::Errno| StartError::os(Stage::Stdio, "log pipe", e.raw_os_error());
        Ok(Self { stdout: pipe().map_err(failed)?, stderr: pipe().map_err(failed)? })
    }

    /// The worker's ends.
    pub(super) fn for_worker(&self) -> [&OwnedFd; 2] {
        [&self.stdout.1, &self.stderr.1]
    }
}

/// How long a logger may stay stopped (SIGSTOP): every worker that writes waits for it.
const STOPPED: Duration = Duration::from_secs(2);

/// How long one has lived that has been at work: there is nothing to do before.
const SETTLED: Duration = Duration::from_secs(1);

/// The logger that runs, if one does.
struct Seat {
    pid: i32,
    /// When it is killed for having been stopped.
    kill_at: Option<Mono>,
    since: Mono,
    /// `None` for one that ran before we did.
    child: Option<Child>,
    socket: Option<OwnedFd>,
}

pub(super) struct Logs {
    pipes: HashMap<(RunId, Stream), Pipe>,
    seat: Option<Seat>,
    out: Outbox,
    backoff: Backoff,
    restart_at: Option<Mono>,
    method: Method,
}

impl Logs {
    /// Without a logger; one is due at once.
    pub(super) fn new(now: Mono, method: Method) -> Self {
        let (pipes, out, backoff) = (HashMap::new(), Outbox::default(), Backoff::default());
        Self { pipes, seat: None, out, backoff, restart_at: Some(now), method }
    }

    /// With one that runs already.
    pub(super) fn adopt(&mut self, pid: i32, socket: OwnedFd, now: Mono) {
        self.restart_at = None;
        self.seat = Some(Seat { pid, kill_at: None, since: now, child: None, socket: Some(socket) });
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.seat.as_ref().map(|seat| seat.pid)
    }

    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.seat.as_ref().and_then(|seat| seat.socket.as_ref())
    }

    pub(super) fn has_more_to_send(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn restart_at(&self) -> Option<Mono> {
        self.restart_at
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        [self.restart_at, self.seat.as_ref().and_then(|seat| seat.kill_at)].into_iter().flatten().min()
    }

    /// Something has become of one of our children: perhaps it was stopped.
    pub(super) fn look_for_a_stop(&mut self, now: Mono) {
        let Some(seat) = &mut self.seat else { return };
        while let Ok(Some(change)) = pidfd::job_change(seat.pid) {
            seat.kill_at = (change == JobChange::Stopped).then(|| now + STOPPED);
        }
    }

    /// What time alone has brought about: the next logger takes over from one that stays stopped.
    pub(super) fn tick(&mut self, now: Mono) {
        let Some(seat) = self.seat.as_mut().filter(|seat| seat.kill_at.is_some_and(|at| at <= now)) else { return };
        seat.kill_at = None;
        say("keeper", &"the logger is killed: it was stopped (SIGSTOP) and not continued");
        // Not reaped, so the number is its own.
        if let Err(e) = pidfd::open(seat.pid).and_then(|fd| pidfd::signal(fd.as_fd(), libc::SIGKILL)) {
            say("keeper", &format_args!("SIGKILL to the logger: {e}"));
        }
    }

    /// The run's program runs: its pipes go to the logger. The worker's ends are closed.
    pub(super) fn attach(&mut self, run: &RunId, files: LogFiles, ends: Ends) {
        let both = [(Stream::Stdout, files.stdout, ends.stdout), (Stream::Stderr, files.stderr, ends.stderr)];
        for (stream, path, (spare, _workers)) in both {
            self.pipes.insert((run.clone(), stream), Pipe { path, policy: files.policy, spare });
            self.hand_over(run, stream);
        }
        self.flush();
    }

    fn hand_over(&mut self, run: &RunId, stream: Stream) {
        let Some(pipe) = self.pipes.get(&(run.clone(), stream)) else { return };
        if self.seat.is_none() {
            return;
        }
        let message = pipe.attach(run, stream);
        let end = pipe.spare.try_clone().map_err(TransportError::Io);
        if let Err(e) = end.and_then(|end| self.out.push(&message, vec![end])) {
            say("keeper", &format_args!("the log of {run} is not written: {}", chain(&e)));
        }
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        let Some(socket) = self.seat.as_ref().and_then(|seat| seat.socket.as_ref()) else { return };
        match self.out.flush(socket.as_fd()) {
            // The end of the process tells the rest.
            Ok(()) | Err(TransportError::Gone) => {}
            Err(e) => say("keeper", &format_args!("to the logger: {}", chain(&e))),
        }
    }

    /// Reads what the logger says; what the supervisor should hear goes to `tell`. `false` once it says nothing more: its
    /// socket has to be let go.
    pub(super) fn read(&mut self, inbox: &mut Inbox, mut tell: impl FnMut(FromKeeper)) -> bool {
        loop {
            let Some(socket) = self.seat.as_ref().and_then(|seat| seat.socket.as_ref()) else { return false };
            match inbox.recv::<FromLogger>(socket.as_fd()) {
                Ok(got) => match got.message {
                    FromLogger::Drained { run, stream, dropped } => {
                        if dropped > 0 {
                            say("keeper", &format_args!("{run}: {dropped} bytes of {stream} were dropped"));
                        }
                        self.pipes.remove(&(run, stream));
                    }
                    FromLogger::Dropping { run, stream, why, bytes } => {
                        tell(FromKeeper::LogDropped { run, stream, why, bytes });
                    }
                },
                Err(TransportError::WouldBlock) => return true,
                Err(TransportError::Gone) => return false,
                Err(TransportError::Io(e)) => {
                    say("keeper", &format_args!("from the logger: {e}"));
                    return false;
                }
                Err(e) => say("keeper", &format_args!("from the logger: {}", chain(&e))),
            }
        }
    }

    /// Lets go of the socket. The logger ends or has ended; its death makes room for the next.
    pub(super) fn hang_up(&mut self) -> Option<OwnedFd> {
        self.seat.as_mut().and_then(|seat| seat.socket.take())
    }

    /// The logger was reaped.
    pub(super) fn ended(&mut self, now: Mono) {
        let Some(mut seat) = self.seat.take() else { return };
        if let Some(Progress::Failed(e)) = seat.child.as_mut().map(|child| child.confirm.poll()) {
            say("keeper", &format_args!("the logger did not start: {e}"));
            self.other_way_after(&e);
        } else {
            say("keeper", &"the logger ended; the next one takes over its pipes");
        }
        self.out.clear();
        let life = now.since(seat.since);
        self.restart_at = Some(now + self.backoff.after(life, life >= SETTLED));
    }

    /// A logger was started, or was not.
    pub(super) fn started(&mut self, started: Result<Started, StartError>, now: Mono) {
        match started {
            Ok(Started { child, socket }) => {
                self.restart_at = None;
                let (pid, kill_at) = (child.pid, None);
                self.seat = Some(Seat { pid, kill_at, since: now, child: Some(child), socket: Some(socket) });
                let keys: Vec<_> = self.pipes.keys().cloned().collect();
                for (run, stream) in keys {
                    self.hand_over(&run, stream);
                }
                self.flush();
            }
            Err(e) => {
                say("keeper", &format_args!("the logger cannot be started: {e}"));
                self.other_way_after(&e);
                self.restart_at = Some(now + self.backoff.after(Duration::ZERO, false));
            }
        }
    }

    fn other_way_after(&mut self, e: &StartError) {
        if e.is_spawn_fault() {
            self.method = self.method.other();
        }
    }
}

/// `/dev/null`, a worker's standard input.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}
