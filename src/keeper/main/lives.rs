//! What the supervisor asks about runs that are no longer in flight: all there are, a signal to one, and to watch over one that an
//! earlier keeper had launched.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;

use super::{FIRST_LAUNCH, Keeper};
use crate::keeper::protocol::FromKeeper;
use crate::keeper::role::say;
use crate::keeper::runs::Life;
use crate::kernel::pidfd;
use crate::model::{Mono, RunId};

impl Keeper {
    pub(super) fn list(&mut self, now: Mono) {
        self.supervisor.listens();
        for (run, life) in self.runs.lives() {
            let run = run.clone();
            match life {
                // Not reaped, so the number is its own.
                Life::Alive { pid, at } => match pidfd::open(*pid) {
                    Ok(fd) => self.supervisor.tell(&FromKeeper::Launched { run, pid: *pid, at: *at }, vec![fd], now),
                    Err(e) => say("keeper", &format_args!("{run} cannot be listed: pidfd_open: {e}")),
                },
                Life::Adopted { pid, at, token } => {
                    // Its pidfd is not needed there: what is to be signalled is signalled from here.
                    if self.runs.adopted(*token).is_some() {
                        let news = FromKeeper::Launched { run, pid: *pid, at: *at };
                        self.supervisor.tell(&news, Vec::new(), now);
                    }
                }
                Life::Ended { pid, status, at } => {
                    let news = FromKeeper::Exited { run, pid: *pid, status: *status, at: *at };
                    self.supervisor.tell(&news, Vec::new(), now);
                }
                Life::Failed(error) => {
                    let news = FromKeeper::Failed { run, error: error.clone() };
                    self.supervisor.tell(&news, Vec::new(), now);
                }
            }
        }
        for run in self.runs.launches() {
            self.supervisor.tell(&FromKeeper::Launching { run: run.clone() }, Vec::new(), now);
        }
        self.supervisor.tell(&FromKeeper::Listed, Vec::new(), now);
    }

    pub(super) fn signal_run(&self, run: &RunId, signal: i32) {
        let sent = match self.runs.life(run) {
            // Not reaped, so the number is its own.
            Some(Life::Alive { pid, .. }) => pidfd::open(*pid).and_then(|fd| pidfd::signal(fd.as_fd(), signal)),
            Some(Life::Adopted { token, .. }) => match self.runs.adopted(*token) {
                Some(adopted) => ended_is_fine(pidfd::signal(adopted.pidfd.as_fd(), signal)),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if let Err(e) = sent {
            say("keeper", &format_args!("signal {signal} to {run}: {e}"));
        }
    }

    /// Watches over a run of an earlier keeper.
    pub(super) fn adopt(&mut self, run: RunId, process: (i32, u64), at: Mono, fds: Vec<OwnedFd>, now: Mono) {
        if self.runs.knows(&run) {
            return say("keeper", &format_args!("{run} cannot be adopted: it is known already"));
        }
        let Some(pidfd) = fds.into_iter().next() else {
            self.runs.ended_unseen(run.clone(), process.0, now);
            return self.tell_ended(run, process.0, None, now);
        };
        let token = self.runs.adopt(run, process, at, pidfd);
        let Some(adopted) = self.runs.adopted(token) else { return };
        let data = epoll::EventData::new_u64(token + FIRST_LAUNCH);
        if let Err(e) = epoll::add(&self.epoll, &adopted.pidfd, data, epoll::EventFlags::IN) {
            say("keeper", &format_args!("the end of {} will not be seen: epoll: {e}", adopted.run));
        }
    }

    /// The process behind an adopted pidfd has ended.
    pub(super) fn adopted_ended(&mut self, token: u64, now: Mono) {
        if let Some(Err(e)) = self.runs.adopted(token).map(|adopted| epoll::delete(&self.epoll, &adopted.pidfd)) {
            say("keeper", &format_args!("epoll: {e}"));
        }
        if let Some((run, pid, status)) = self.runs.adopted_ended(token, now) {
            self.tell_ended(run, pid, status, now);
        }
    }
}

/// A process that is no child of ours can be reaped at any moment.
fn ended_is_fine(sent: io::Result<()>) -> io::Result<()> {
    sent.or_else(|e| if e.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(e) })
}
