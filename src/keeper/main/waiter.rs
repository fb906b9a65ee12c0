//! Whoever waits for the first start of every worker: `up -d`, at the other end of a socket.

use rustix::event::epoll;
use rustix::net::SendFlags;

use super::Keeper;
use crate::keeper::role::say;

impl Keeper {
    /// Tells who waits, where this is what is waited for.
    pub(super) fn tell_waiter(&mut self, state: &str) {
        if !state.lines().any(|line| line == "READY=1") {
            return;
        }
        let waiter = self.waiter.take();
        if let Some(waiter) = &waiter {
            // Whoever waited has ended in this very moment: it is up all the same.
            rustix::net::send(waiter, b"R", SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
        }
        self.close(waiter);
    }

    /// Who waits does so no more for the start, but for the end: what was begun is taken back.
    pub(super) fn abandoned(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if let Err(e) = epoll::delete(&self.epoll, &waiter) {
            say("keeper", &format_args!("epoll: {e}"));
        }
        // Until our end, which is what is waited for now.
        self.keep.push(waiter);
        self.supervisor.signal(libc::SIGINT);
    }
}
