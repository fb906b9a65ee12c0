//! The terminal that a command shares with the shell it was typed into: job control, as a shell does it for its jobs.
//!
//! ```text
//! shell ── makes us the foreground group ──▶ we ── lend it to the command's group
//!   ▲                                         │ Ctrl-C, Ctrl-\, Ctrl-Z, window size: the kernel tells the command
//!   └── command stopped: take it back, stop ──┘ SIGCONT (fg): lend again; (bg): only let it go on
//! ```
//! Of a pipeline (`pinfold run … | less`) every member has to stay in the one group that the shell made: the others
//! could not read the terminal otherwise. There the command stays in our group and the terminal tells both of us.

use std::{fs::File, io, os::fd::AsFd};

use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use rustix::fs::FileType;

use crate::kernel::launch::plan::Session;

/// Our controlling terminal, if there is one, and who has it.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: Option<File>,
    session: Session,
    lent: bool,
}

impl Terminal {
    /// Looks where we stand. SIGTTOU must be blocked from before this until the end.
    pub(super) fn new() -> Self {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok();
        let session = match &tty {
            Some(_) if in_pipeline() => Session::Shared,
            Some(tty) if tcgetpgrp(tty) == Ok(getpgrp()) => Session::Foreground,
            // No terminal, or started in the background: then `fg` lends it later.
            _ => Session::Group,
        };
        Self { tty, session, lent: false }
    }

    /// How the command is to be launched. With [`Session::Foreground`] it takes the terminal itself, before its exec.
    pub(super) fn session(&self) -> Session {
        self.session
    }

    /// Whether what the terminal sends reaches the command without us, although it reaches us as well.
    pub(super) fn is_shared(&self) -> bool {
        self.session == Session::Shared
    }

    /// The command was launched.
    pub(super) fn launched(&mut self) {
        self.lent = self.session == Session::Foreground;
    }

    /// Hands the terminal to the command's group if it is ours to hand over: after `fg`.
    pub(super) fn lend(&mut self, command: i32) -> io::Result<()> {
        if let Some(tty) = &self.tty
            && self.session != Session::Shared
            && tcgetpgrp(tty)? == getpgrp()
        {
            tcsetpgrp(tty, Pid::from_raw(command))?;
            self.lent = true;
        }
        Ok(())
    }

    /// Takes the terminal back, whichever group of the command has it by now.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        if let Some(tty) = &self.tty
            && std::mem::take(&mut self.lent)
        {
            tcsetpgrp(tty.as_fd(), getpgrp())?;
        }
        Ok(())
    }
}

/// Whether a pipe connects us to somebody else's standard stream: a shell has put both into one group.
fn in_pipeline() -> bool {
    let piped = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
    };
    piped(io::stdin().as_fd()) || piped(io::stdout().as_fd()) || piped(io::stderr().as_fd())
}
