//! The signals that reach the keeper: SIGCHLD for itself, the others for the supervisor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is for the supervisor: the signals by which people, shells and service managers ask for something.
const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

fn forwarded() -> SigSet {
    FORWARDED.into_iter().collect()
}

/// Keeps the signals that are for the supervisor until the keeper reads them: a blocked one stays pending over exec(2).
///
/// # Errors
/// `sigprocmask(2)`.
pub fn hold() -> io::Result<()> {
    Ok(forwarded().thread_block()?)
}

/// The signals, blocked and readable.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    pub(super) fn block() -> io::Result<Self> {
        let mut mask = forwarded();
        mask.add(Signal::SIGCHLD);
        // Blocked and never read: a keeper stopped by Ctrl-Z would reap nobody.
        let mut all = mask;
        all.add(Signal::SIGTSTP);
        all.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next one, without waiting.
    pub(super) fn next(&self) -> io::Result<Option<i32>> {
        Ok(self.fd.read_signal()?.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
