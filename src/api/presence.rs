//! Whether whoever has asked is still there to be answered.
//!
//! hyper learns of a client's end from reading, where it cannot tell one that has said all it had to say (`shutdown(SHUT_WR)`, as
//! `nc -N` does) from one that is gone, and does not read on behind a request that another one waits behind. The kernel knows
//! better: `EPOLLHUP` (`unix_poll` in `net/unix/af_unix.c`) is there once both directions are closed, is reported to whoever
//! waits for anything, and needs no reading. mio and tokio call it "write closed".

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream as StdStream},
};

use tokio::io::Interest;
use tokio::net::UnixStream;

/// So often has a connection its turn once its client is gone, before it is given up: what a client has sent before it went is
/// done, though nobody waits for the answer. Turns and no time: on a busy machine there are as many.
const TURNS: usize = 16;

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Presence {
    /// A descriptor of its own, with a readiness of its own.
    end: UnixStream,
}

impl Presence {
    /// Of whoever is connected by `stream`, which does not block.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub(super) fn of(stream: impl AsFd) -> io::Result<Self> {
        let own = StdStream::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { end: UnixStream::from_std(own)? })
    }

    /// Ends when it has closed both directions, and the rest of its connection's task has had its turns since.
    pub(super) async fn lost(&self) {
        // Only the runtime's end is an error here.
        while self.end.ready(Interest::WRITABLE).await.is_ok_and(|ready| !ready.is_write_closed()) {
            // It is writable, which we do not ask: until the kernel tells something new, it is not ready for us.
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            self.end.try_io(Interest::WRITABLE, nothing).unwrap_or_default();
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::Shutdown,
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    fn pair() -> (Presence, StdStream, StdStream) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Presence::of(&ours).unwrap(), ours, theirs)
    }

    /// Whether it is lost by now, once the kernel was asked.
    async fn is_lost(presence: &Presence) -> bool {
        let mut lost = pin!(presence.lost());
        for _ in 0..10 * TURNS {
            if lost.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    #[tokio::test]
    async fn whoever_closes_is_lost_and_whoever_only_says_no_more_is_not() {
        let (presence, _ours, theirs) = pair();
        assert!(!is_lost(&presence).await, "connected");
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!is_lost(&presence).await, "it can be answered");
        drop(theirs);
        assert!(is_lost(&presence).await);
    }

    #[tokio::test]
    async fn what_was_said_before_it_went_does_not_hide_that_it_went() {
        let (presence, _ours, mut theirs) = pair();
        theirs.write_all(b"more than anybody reads").unwrap();
        assert!(!is_lost(&presence).await);
        drop(theirs);
        assert!(is_lost(&presence).await);
    }

    #[tokio::test]
    async fn one_that_closes_both_directions_is_lost() {
        let (presence, _ours, theirs) = pair();
        theirs.shutdown(Shutdown::Both).unwrap();
        assert!(is_lost(&presence).await);
    }

    #[tokio::test]
    async fn what_is_urgent_is_no_end() {
        use rustix::net::{SendFlags, send};
        let (presence, _ours, theirs) = pair();
        // Kernels without CONFIG_AF_UNIX_OOB know of no such thing.
        match send(&theirs, b"!", SendFlags::OOB) {
            Ok(_) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(!is_lost(&presence).await);
        drop(theirs);
        assert!(is_lost(&presence).await);
    }
}
