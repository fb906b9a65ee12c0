//! One program beside a run, from its clone to its reaped main process.
#![expect(unsafe_code, reason = "tokio cannot know of any descriptor that it stays open")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Uid;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use super::{MAX_OUTPUT, Outcome};
use crate::kernel::cgroup::{Dir, DirError, events, kill};
use crate::kernel::launch::plan::LaunchPlan;
use crate::kernel::launch::{self, Child, Method, Progress};
use crate::kernel::pidfd::{self, Whom};
use crate::model::{Stage, StartError, chain};

/// Read at a time.
const CHUNK: usize = 16 << 10;
/// How much is read of what a program that has ended left in its pipe: more than a pipe holds.
const MAX_CHUNKS: usize = 64;

/// A program that was cloned. Dropped before it is known to be gone, it is killed.
pub(super) struct Running {
    pub(super) dir: Dir,
    child: Child,
    output: OwnedFd,
    reaped: bool,
    gone: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // The runtime is going down.
        match kill::kill(&self.dir) {
            Err(e) if !e.is_absent() => tracing::error!(error = %chain(&e), "a program beside a run lives on"),
            _ => {}
        }
    }
}

/// What came first.
enum First {
    Ended,
    Late,
    /// Nobody waits any more.
    Alone,
}

/// What a read of the output gave.
#[derive(PartialEq, Eq)]
enum Read {
    Some,
    NothingYet,
    End,
}

impl Running {
    /// Starts `plan` in `dir`.
    pub(super) fn start(plan: &LaunchPlan, dir: Dir, method: Method) -> Result<Self, (Dir, StartError)> {
        match clone(plan, &dir, method) {
            Ok((child, output)) => Ok(Self { dir, child, output, reaped: false, gone: false }),
            Err(error) => Err((dir, error)),
        }
    }

    /// Says that its directory is empty, so that its end need not be seen to.
    pub(super) const fn is_gone(&mut self) {
        self.gone = true;
    }

    /// Waits for its end, its timeout, or until nobody waits for it any more: then there is no outcome.
    pub(super) async fn outcome(&mut self, timeout: Duration, tell: &mut oneshot::Sender<Outcome>) -> Option<Outcome> {
        let mut output = Vec::new();
        let first = match self.first(timeout, &mut output, tell).await {
            Ok(First::Alone) => return None,
            Ok(first) => first,
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                return Some(Outcome::NotStarted(StartError::os(Stage::Stdio, "epoll", errno)));
            }
        };
        let status = match first {
            First::Ended => match pidfd::reap(Whom::PidFd(self.child.pidfd.as_fd())) {
                Ok(status) => status,
                Err(e) => {
                    let errno = e.raw_os_error().unwrap_or(libc::ECHILD);
                    return Some(Outcome::NotStarted(StartError::os(Stage::Spawn, "waitid", errno)));
                }
            },
            _ => None,
        };
        self.reaped = status.is_some();
        Some(match (self.child.confirm.poll(), status) {
            (Progress::Failed(error), _) => Outcome::NotStarted(error),
            (_, Some(status)) => {
                self.read_rest(&mut output);
                Outcome::Ended { status, oom: self.oom(), output }
            }
            (Progress::Execed, None) => Outcome::TimedOut { output },
            (Progress::Pending, None) => {
                let sentence = format!("the program was not executed within {}", humantime::format_duration(timeout));
                Outcome::NotStarted(StartError::refused(Stage::Timeout, sentence))
            }
        })
    }

    async fn first(
        &self,
        timeout: Duration,
        output: &mut Vec<u8>,
        tell: &mut oneshot::Sender<Outcome>,
    ) -> io::Result<First> {
        let end = watched(self.child.pidfd.as_fd(), Interest::READABLE)?;
        let pipe = watched(self.output.as_fd(), Interest::READABLE)?;
        let mut open = true;
        let late = tokio::time::sleep(timeout);
        tokio::pin!(late);
        loop {
            tokio::select! {
                biased;
                // All four are cancel-safe: each waits for a level.
                () = tell.closed() => return Ok(First::Alone),
                ended = end.readable() => return ended.map(|_| First::Ended),
                () = &mut late => return Ok(First::Late),
                readable = pipe.readable(), if open => match self.read(output) {
                    Read::Some => {}
                    Read::NothingYet => readable?.clear_ready(),
                    Read::End => open = false,
                },
            }
        }
    }

    /// Reads once; what is too much is dropped.
    fn read(&self, output: &mut Vec<u8>) -> Read {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.output, &mut chunk) {
            Ok(0) => Read::End,
            Ok(length) => {
                let kept = length.min(MAX_OUTPUT.saturating_sub(output.len()));
                output.extend_from_slice(chunk.get(..kept).unwrap_or_default());
                Read::Some
            }
            Err(Errno::AGAIN) => Read::NothingYet,
            Err(Errno::INTR) => Read::Some,
            Err(_) => Read::End,
        }
    }

    /// Reads what is in the pipe of a program that has ended. Its end is not waited for: others can hold it open.
    fn read_rest(&self, output: &mut Vec<u8>) {
        for _ in 0..MAX_CHUNKS {
            if output.len() >= MAX_OUTPUT || self.read(output) != Read::Some {
                return;
            }
        }
    }

    fn oom(&self) -> bool {
        events::read(&self.dir).is_ok_and(|counters| counters.memory.is_some_and(|memory| memory.oom_kill > 0))
    }

    /// Kills and reaps the main process, wherever it has gone.
    pub(super) async fn end(&mut self) {
        if self.reaped {
            return;
        }
        let pidfd = self.child.pidfd.as_fd();
        // Not by the cgroup alone: a process with the right to can have moved itself out.
        for killed in [kill::kill(&self.dir).map_err(DirError::into_io), pidfd::signal(pidfd, libc::SIGKILL)] {
            match killed {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    tracing::error!(%error, "a program beside a run cannot be killed");
                }
                _ => {}
            }
        }
        let reaped = async {
            let end = watched(pidfd, Interest::READABLE)?;
            drop(end.readable().await?);
            pidfd::reap(Whom::PidFd(pidfd))
        };
        match reaped.await {
            Ok(status) => self.reaped = status.is_some(),
            Err(error) => tracing::error!(%error, "the end of a program beside a run cannot be seen"),
        }
    }
}

/// Makes the child; with it the end of the pipe that its output comes from.
fn clone(plan: &LaunchPlan, dir: &Dir, method: Method) -> Result<(Child, OwnedFd), StartError> {
    let failed = |e: Errno| StartError::os(Stage::Stdio, "output pipe", e.raw_os_error());
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    // Our end only: the flag belongs to the open file, and each end is one of its own.
    rustix::io::ioctl_fionbio(&read, true).map_err(failed)?;
    if let Some(ids) = &plan.ids {
        // So that it can open /dev/stdout anew. Without privileges the child's own setresuid says so, in better words.
        match rustix::fs::fchown(&write, Some(Uid::from_raw(ids.uid)), None) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| StartError::os(Stage::Stdio, "/dev/null", e.raw_os_error()))?;
    let child = launch::spawn(plan, dir.as_fd(), [null.as_fd(), write.as_fd(), write.as_fd()], method)?;
    Ok((child, read))
}

/// `fd`, so that a task can wait for it.
pub(super) fn watched(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: what is borrowed stays open, and the same, for at least as long as the result lives.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}
