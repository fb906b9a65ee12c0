//! How a process becomes the keeper: it executes itself, with what the keeper needs waiting in its standard input.
//!
//! The setup travels as one message with its descriptors through a socket pair, so that no descriptor's number has to
//! be told and none is left open by accident. Executing anew, instead of going on, gives the keeper a small heap and
//! one thread; children and their statuses stay its own (the process is the same).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::handover::TAKES_OVER;
use super::protocol::VERSION;
use super::transport::{self, Inbox, TransportError};
use crate::kernel::launch::Method;

/// What the keeper starts with.
#[derive(Debug)]
pub struct Setup {
    /// The supervisor's arguments, after its role's word.
    pub supervisor_args: Vec<OsString>,
    /// The way into a cgroup, by the self-test.
    pub method: Method,
    /// Where a supervisor is started; `None`: in the keeper's own cgroup.
    pub supervisor_leaf: Option<Leaf>,
    /// Where a logger is started; `None`: in the keeper's own cgroup.
    pub logger_leaf: Option<Leaf>,
    /// A logger that runs already, a child of the process that becomes the keeper; `None`: the keeper starts one.
    pub logger: Option<RunningLogger>,
    /// What the keeper before has left, where this process was one already; it is not `up`'s to say.
    pub state: Option<OwnedFd>,
    /// Where `up -d` waits until every worker was started.
    pub waiter: Option<OwnedFd>,
    /// Descriptors to hold until the end: locks. At most ten.
    pub keep: Vec<OwnedFd>,
}

/// A cgroup of one of our own roles.
#[derive(Debug)]
pub struct Leaf {
    /// Its directory's name.
    pub name: String,
    /// Its directory, open for reading.
    pub directory: OwnedFd,
}

/// A logger that runs already.
#[derive(Debug)]
pub struct RunningLogger {
    /// Its process.
    pub pid: i32,
    /// Our end of its socket.
    pub socket: OwnedFd,
}

/// [`Setup`] without its descriptors, which stand beside it in this order: supervisor's leaf, logger's leaf, logger's
/// socket, what the keeper before has left, where somebody waits, what is kept.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    supervisor_args: Vec<ByteBuf>,
    method: Method,
    supervisor_leaf: Option<String>,
    logger_leaf: Option<String>,
    logger_pid: Option<i32>,
    #[serde(default)]
    state: bool,
    #[serde(default)]
    waiter: bool,
}

/// The word that makes the binary the keeper.
pub const ROLE: &str = "__keeper";

impl Setup {
    /// Becomes the keeper. Returns only where that fails.
    #[must_use]
    pub fn become_keeper(self) -> io::Error {
        match self.hand_over() {
            Ok(stdin) => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0("pinfold").arg(ROLE).stdin(Stdio::from(stdin)).exec()
            }
            Err(e) => io::Error::other(e),
        }
    }

    /// Becomes the keeper of another binary. Returns only where that fails: nothing has changed then.
    pub(super) fn become_keeper_of(self, binary: &OwnedFd) -> io::Error {
        let execute = || -> io::Result<Infallible> {
            let stdin = self.hand_over().map_err(io::Error::other)?;
            let path = CString::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))?;
            let role = CString::new(ROLE)?;
            nix::unistd::dup2_stdin(&stdin)?;
            // Not by `Command`, which would have SIGPIPE end us where this fails. Blocked signals stay blocked and pending.
            let Err(refused) = nix::unistd::execv(&path, &[c"pinfold", &role]);
            nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
            Err(refused.into())
        };
        let Err(error) = execute();
        error
    }

    fn hand_over(self) -> Result<OwnedFd, TransportError> {
        let (ours, keepers) = transport::pair().map_err(TransportError::Io)?;
        let wire = Wire {
            version: VERSION,
            supervisor_args: self.supervisor_args.into_iter().map(|a| ByteBuf::from(a.into_vec())).collect(),
            method: self.method,
            supervisor_leaf: self.supervisor_leaf.as_ref().map(|l| l.name.clone()),
            logger_leaf: self.logger_leaf.as_ref().map(|l| l.name.clone()),
            logger_pid: self.logger.as_ref().map(|l| l.pid),
            state: self.state.is_some(),
            waiter: self.waiter.is_some(),
        };
        let leaves = [self.supervisor_leaf, self.logger_leaf].into_iter().flatten().map(|l| l.directory);
        let fds: Vec<_> =
            leaves.chain(self.logger.map(|l| l.socket)).chain(self.state).chain(self.waiter).chain(self.keep).collect();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        transport::send(ours.as_fd(), &transport::encode(&wire)?, &borrowed)?;
        Ok(keepers)
    }

    /// Takes the setup out of the standard input.
    ///
    /// # Errors
    /// Where there is none: the keeper is not meant to be started by hand.
    pub(super) fn receive() -> Result<Self, TransportError> {
        let got = Inbox::default().recv::<Wire>(io::stdin().as_fd())?;
        let wire = got.message;
        if !TAKES_OVER.contains(&wire.version) {
            return Err(TransportError::Io(io::Error::other("the setup is of another version")));
        }
        let count = got.fds.len();
        let mut fds = got.fds.into_iter();
        let mut next = || fds.next().ok_or(TransportError::Descriptors { got: count, wanted: count + 1 });
        let mut leaf = |name: Option<String>| match name {
            Some(name) => next().map(|directory| Some(Leaf { name, directory })),
            None => Ok(None),
        };
        let supervisor_leaf = leaf(wire.supervisor_leaf)?;
        let logger_leaf = leaf(wire.logger_leaf)?;
        let logger = match wire.logger_pid {
            Some(pid) => Some(RunningLogger { pid, socket: next()? }),
            None => None,
        };
        let state = wire.state.then(&mut next).transpose()?;
        let waiter = wire.waiter.then(next).transpose()?;
        Ok(Self {
            supervisor_args: wire.supervisor_args.into_iter().map(|a| OsString::from_vec(a.into_vec())).collect(),
            method: wire.method,
            supervisor_leaf,
            logger_leaf,
            logger,
            state,
            waiter,
            keep: fds.collect(),
        })
    }
}

/// An argument as a plan takes it.
pub(super) fn bytes(argument: &std::ffi::OsStr) -> ByteBuf {
    ByteBuf::from(argument.as_bytes())
}
