//! What a keeper leaves to the one that follows in the same process, after it has executed another binary.
//!
//! Beside the [`Setup`](super::setup::Setup) that `up` gives goes one sealed memfd with the `State`. The descriptors it speaks of
//! (two for each run that lives) stay open over the exec under their numbers, because so many fit through no socket. What each part has to
//! leave is its own to say: `runs::handover`, `logs::handover`, `supervisor::handover`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::protocol::{ToLogger, VERSION};
use super::transport::{self, TransportError};
use super::vigil::Backoff;
use crate::kernel::inherit::{self, Inherited};
use crate::kernel::launch::Method;
use crate::kernel::launch::plan::Rlimit;
use crate::model::{ExitStatus, Mono, RunId, StartError};

/// The versions of [`VERSION`] whose keeper, supervisor's arguments and logger this binary goes on with. A binary that does not name
/// the version of the one that runs is not executed.
pub const TAKES_OVER: &[u32] = &[VERSION];

/// The largest state: some 700 bytes for each run.
const MAX_STATE: u64 = 1 << 30;

/// All of it. Each number is that of a descriptor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// How often the keeper has been replaced, this time included.
    pub(super) reexecs: u32,
    /// What a worker gets where its plan sets none.
    pub(super) descriptors: Rlimit,
    /// The keeper's present one.
    pub(super) method: Method,
    pub(super) supervisor: SupervisorState,
    pub(super) logs: LogsState,
    pub(super) runs: RunsState,
}

/// Of the supervisor's seat, which is empty.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SupervisorState {
    pub(super) backoff: Backoff,
    pub(super) restarts: u32,
    pub(super) previous: Option<String>,
    pub(super) waiting_signals: Vec<i32>,
    pub(super) going_down: Option<i32>,
    pub(super) nonce: u64,
    pub(super) method: Method,
}

/// Of the logger's seat.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LogsState {
    pub(super) logger: Option<LoggerState>,
    /// What was said of each pipe that is not drained, and its spare end: whatever a logger has to know of one is in there.
    pub(super) pipes: Vec<(ToLogger, i32)>,
    /// What waits for room in the logger's socket.
    pub(super) waiting: Vec<(ByteBuf, Vec<i32>)>,
    pub(super) backoff: Backoff,
    pub(super) restart_at: Option<Mono>,
    pub(super) method: Method,
}

/// A logger that runs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LoggerState {
    pub(super) pid: i32,
    pub(super) since: Mono,
    pub(super) kill_at: Option<Mono>,
    pub(super) socket: Option<i32>,
}

/// Of the runs; none is in flight.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunsState {
    pub(super) alive: Vec<(RunId, i32, Mono)>,
    pub(super) adopted: Vec<AdoptedState>,
    pub(super) ended: Vec<(RunId, i32, Option<ExitStatus>, Mono)>,
    pub(super) failed: Vec<(RunId, StartError)>,
}

/// A run of a keeper before that one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AdoptedState {
    pub(super) run: RunId,
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    pub(super) at: Mono,
    pub(super) pidfd: i32,
}

impl State {
    /// Into a sealed memfd.
    pub(super) fn seal(&self) -> Result<OwnedFd, TransportError> {
        transport::seal_body(self)
    }

    /// Out of one.
    pub(super) fn open(memfd: OwnedFd) -> Result<Self, TransportError> {
        transport::open_body_within(memfd, MAX_STATE)
    }
}

/// The descriptors that are left open for the next keeper: until the exec, or until this is dropped because there was none.
#[derive(Debug, Default)]
pub(super) struct Left<'fd> {
    fds: Vec<BorrowedFd<'fd>>,
}

impl<'fd> Left<'fd> {
    /// Leaves one more open; its number.
    pub(super) fn leave(&mut self, fd: &'fd OwnedFd) -> i32 {
        use std::os::fd::AsRawFd;
        self.fds.push(fd.as_fd());
        // What is open has flags to be set: where that failed all the same, the number is refused at the other end.
        inherit::leave_open(fd.as_fd()).unwrap_or(fd.as_raw_fd())
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for fd in &self.fds {
            // What is open has flags to be set; and a worker's set-up closes what it was not given.
            inherit::close_on_exec(*fd).unwrap_or_default();
        }
    }
}

/// Takes a descriptor over, or says what of `what` is lost with it.
pub(super) fn take(inherited: &mut Inherited, number: i32, what: &dyn std::fmt::Display) -> Option<OwnedFd> {
    match inherited.take(number) {
        Ok(fd) => Some(fd),
        Err(e) => {
            super::role::say("keeper", &format_args!("{what} is lost: descriptor {number}: {e}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::keeper::protocol::Stream;
    use crate::model::{LogPolicy, Stage, WorkerId};

    fn run(number: u32) -> RunId {
        RunId::new(WorkerId::new("a").unwrap(), number)
    }

    #[test]
    fn the_state_comes_out_of_its_memfd_as_it_went_in() {
        let at = Mono(std::time::Duration::new(77, 123_456_789));
        let mut backoff = Backoff::default();
        backoff.after(std::time::Duration::ZERO, false);
        let attach = ToLogger::Attach {
            run: run(1),
            stream: Stream::Stderr,
            path: "/logs/a/1.stderr".into(),
            policy: LogPolicy::default(),
        };
        let state = State {
            reexecs: 3,
            descriptors: Rlimit { resource: 7, soft: 1024, hard: u64::MAX },
            method: Method::Move,
            supervisor: SupervisorState {
                backoff: backoff.clone(),
                restarts: 5,
                previous: Some("ended by signal 9".into()),
                waiting_signals: vec![libc::SIGTERM],
                going_down: Some(libc::SIGTERM),
                nonce: 9,
                method: Method::IntoCgroup,
            },
            logs: LogsState {
                logger: Some(LoggerState { pid: 4, since: at, kill_at: Some(at), socket: Some(6) }),
                pipes: vec![(attach, 7)],
                waiting: vec![(ByteBuf::from([1, 2]), vec![8, 9])],
                backoff,
                restart_at: Some(at),
                method: Method::Move,
            },
            runs: RunsState {
                alive: vec![(run(1), 10, at)],
                adopted: vec![AdoptedState { run: run(2), pid: 11, start_ticks: 12, at, pidfd: 13 }],
                ended: vec![(run(3), 14, Some(ExitStatus::Exited { code: 7 }), at), (run(4), 15, None, at)],
                failed: vec![(run(5), StartError::refused(Stage::Exec, "x"))],
            },
        };
        assert_eq!(State::open(state.seal().unwrap()).unwrap(), state);
    }

    #[test]
    fn a_state_is_larger_than_what_is_launched_may_be() {
        let alive: Vec<_> = (0..600_000).map(|n| (run(n), 1, Mono::default())).collect();
        let sealed = transport::seal_body(&alive).unwrap();
        assert!(matches!(transport::open_body::<Vec<(RunId, i32, Mono)>>(sealed), Err(TransportError::Body)));
        let sealed = transport::seal_body(&alive).unwrap();
        assert_eq!(transport::open_body_within::<Vec<(RunId, i32, Mono)>>(sealed, MAX_STATE).unwrap(), alive);
    }

    #[test]
    fn where_there_was_no_exec_what_was_left_open_is_closed_at_the_next_one_as_before() {
        let (fd, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut left = Left::default();
        assert_eq!(left.leave(&fd), fd.as_raw_fd());
        assert_eq!(fcntl_getfd(&fd).unwrap(), FdFlags::empty());
        drop(left);
        assert_eq!(fcntl_getfd(&fd).unwrap(), FdFlags::CLOEXEC);
    }
}
