//! The supervisor's end of the keeper's socket.
//!
//! Asking never waits: a message for which the socket has no room stays in order until [`Events::next`], which has to be
//! polled all the time, has sent it. [`Client`] asks, [`Events`] tells; pings are answered here. Keeper and supervisor are
//! one version, because both are the binary that was started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::protocol::{FromKeeper, LogFiles, ToKeeper, VERSION};
use super::transport::{self, Inbox, Outbox, TransportError};
use crate::kernel::launch::plan::LaunchPlan;
use crate::model::{Mono, RunId, Way};

/// Asks the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What the keeper tells. One for each connection.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
    inbox: Inbox,
}

#[derive(Debug)]
struct Shared {
    /// tokio's type for a socket and its readiness. That this one keeps messages apart is transport's to know: it is
    /// only read and written there.
    socket: UnixStream,
    out: Mutex<Outbox>,
    more: Notify,
}

/// News and the descriptors beside it, unless our descriptor limit did not allow them: the locks with [`FromKeeper::Hello`],
/// a pidfd with [`FromKeeper::Launched`] of a child.
pub type News = (FromKeeper, Vec<OwnedFd>);

/// Takes over the keeper's socket, as [`super::role::begin`] returns it, and says hello. The keeper's own hello is the
/// first of the events. Must be called within a tokio runtime.
///
/// # Errors
/// Where it is no socket.
pub fn connect(socket: OwnedFd) -> Result<(Client, Events), TransportError> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).map_err(TransportError::Io)?;
    let socket = UnixStream::from_std(socket).map_err(TransportError::Io)?;
    let shared = Arc::new(Shared { socket, out: Mutex::default(), more: Notify::new() });
    let client = Client { shared: Arc::clone(&shared) };
    client.send(&ToKeeper::Hello { version: VERSION }, Vec::new())?;
    Ok((client, Events { shared, inbox: Inbox::default() }))
}

impl Client {
    /// Asks for a launch. Answer: `Launched` or `Failed`.
    ///
    /// # Errors
    /// Where the request cannot be made: no descriptors or memory left. No answer comes then.
    pub fn launch(
        &self,
        run: &RunId,
        logs: LogFiles,
        cgroup: BorrowedFd<'_>,
        plan: &LaunchPlan,
        way: Way,
    ) -> Result<(), TransportError> {
        let cgroup = cgroup.try_clone_to_owned().map_err(TransportError::Io)?;
        let body = transport::seal_body(plan)?;
        self.send(&ToKeeper::Launch { run: run.clone(), logs, way }, vec![cgroup, body])
    }

    /// Has the main process of an orphaned run watched: the one behind `pidfd`, or one that is gone. Answer: `Exited` at its end.
    ///
    /// # Errors
    /// [`TransportError`]. Nobody watches it then.
    pub fn adopt(
        &self,
        run: &RunId,
        (pid, start_ticks): (i32, u64),
        at: Mono,
        pidfd: Option<OwnedFd>,
    ) -> Result<(), TransportError> {
        let message = ToKeeper::Adopt { run: run.clone(), pid, start_ticks, at };
        self.send(&message, pidfd.into_iter().collect())
    }

    /// The exit record of `run` has been taken over.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn ack(&self, run: &RunId) -> Result<(), TransportError> {
        self.send(&ToKeeper::Ack { run: run.clone() }, Vec::new())
    }

    /// Asks for all that is known. Answer: one message for each run, then `Listed`.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn list(&self) -> Result<(), TransportError> {
        self.send(&ToKeeper::List, Vec::new())
    }

    /// Everything is in our hands: should we die, the next one is wanted at once.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn took_over(&self) -> Result<(), TransportError> {
        self.send(&ToKeeper::TookOver, Vec::new())
    }

    /// The end of everything was asked for: should we die over it, the next one is to go on with that.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn going_down(&self) -> Result<(), TransportError> {
        self.send(&ToKeeper::GoingDown, Vec::new())
    }

    /// Signals the main process of `run`. One that has ended is no error.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn signal(&self, run: &RunId, signal: i32) -> Result<(), TransportError> {
        self.send(&ToKeeper::Signal { run: run.clone(), signal }, Vec::new())
    }

    /// Has the keeper become one of the binary `file` of this version once this supervisor has ended, and waits until that was said.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn reexec(&self, file: OwnedFd, version: String) -> Result<(), TransportError> {
        self.send(&ToKeeper::Reexec { version }, vec![file])?;
        while self.shared.waits_for_room() {
            // What waits is sent by `Events::next`, which sees the same.
            self.shared.socket.ready(Interest::WRITABLE).await.map_err(TransportError::Io)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Tells systemd: `sd_notify(3)`'s text.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn notify(&self, state: impl Into<String>) -> Result<(), TransportError> {
        self.send(&ToKeeper::Notify { state: state.into() }, Vec::new())
    }

    fn send(&self, message: &ToKeeper, fds: Vec<OwnedFd>) -> Result<(), TransportError> {
        self.shared.send(message, fds)
    }
}

impl Shared {
    fn send(&self, message: &ToKeeper, fds: Vec<OwnedFd>) -> Result<(), TransportError> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let room = out.is_empty();
        out.push(message, fds)?;
        // Straight to the kernel where nothing waits: no turn of the runtime between asking and being heard.
        if room {
            out.flush(self.socket.as_fd())?;
        }
        if !out.is_empty() {
            self.more.notify_one();
        }
        Ok(())
    }

    fn waits_for_room(&self) -> bool {
        !self.out.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Events {
    /// The next news. [`TransportError::Gone`] where the keeper is dead: there is nothing left to supervise by.
    ///
    /// Cancel safe: nothing is taken from the socket before it is returned.
    ///
    /// # Errors
    /// [`TransportError`], never `WouldBlock`.
    pub async fn next(&mut self) -> Result<News, TransportError> {
        loop {
            let interest =
                if self.shared.waits_for_room() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = tokio::select! {
                ready = self.shared.socket.ready(interest) => ready.map_err(TransportError::Io)?,
                () = self.shared.more.notified() => continue,
            };
            if ready.is_writable() {
                self.flush()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                match self.receive() {
                    Ok(Some(news)) => return Ok(news),
                    Ok(None) => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }

    /// `None` where there was nothing, or only a ping.
    fn receive(&mut self) -> Result<Option<News>, TransportError> {
        let (inbox, socket) = (&mut self.inbox, &self.shared.socket);
        let mut result = None;
        // try_io clears tokio's readiness where the kernel says that there is nothing.
        let tried = socket.try_io(Interest::READABLE, || match inbox.recv::<FromKeeper>(socket.as_fd()) {
            Err(TransportError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            other => {
                result = Some(other);
                Ok(())
            }
        });
        let got = match (tried, result) {
            (_, Some(got)) => got?,
            (Err(e), None) if e.kind() != io::ErrorKind::WouldBlock => return Err(TransportError::Io(e)),
            _ => return Ok(None),
        };
        match got.message {
            FromKeeper::Ping { nonce } => {
                self.shared.send(&ToKeeper::Pong { nonce }, Vec::new())?;
                Ok(None)
            }
            message => Ok(Some((message, got.fds))),
        }
    }

    fn flush(&self) -> Result<(), TransportError> {
        let mut out = self.shared.out.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = &self.shared.socket;
        let mut failed = None;
        let tried = socket.try_io(Interest::WRITABLE, || {
            if let Err(e) = out.flush(socket.as_fd()) {
                failed = Some(e);
            }
            if out.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match (tried, failed) {
            (_, Some(e)) => Err(e),
            (Err(e), None) if e.kind() != io::ErrorKind::WouldBlock => Err(TransportError::Io(e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mono, WorkerId};

    fn run(number: u32) -> RunId {
        RunId::new(WorkerId::new("a").unwrap(), number)
    }

    #[tokio::test]
    async fn requests_beyond_the_sockets_room_arrive_in_order_once_there_is_room() {
        let (supervisors, keepers) = transport::pair().unwrap();
        let (client, mut events) = connect(supervisors).unwrap();
        for number in 1..=500 {
            client.ack(&run(number)).unwrap();
        }
        let keeper = std::thread::spawn(move || {
            let mut inbox = Inbox::default();
            let mut numbers = Vec::new();
            while numbers.len() < 500 {
                let mut poll = [rustix::event::PollFd::new(&keepers, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut poll, None).unwrap();
                match inbox.recv::<ToKeeper>(keepers.as_fd()) {
                    Ok(got) => match got.message {
                        ToKeeper::Hello { version: VERSION } => {}
                        ToKeeper::Ack { run } => numbers.push(run.number),
                        other => panic!("{other:?}"),
                    },
                    Err(TransportError::WouldBlock) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            transport::send(keepers.as_fd(), &transport::encode(&FromKeeper::Listed).unwrap(), &[]).unwrap();
            numbers
        });
        assert_eq!(events.next().await.unwrap().0, FromKeeper::Listed);
        assert_eq!(keeper.join().unwrap(), (1..=500).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn pings_are_answered_without_being_told_and_a_dead_keeper_is_told() {
        let (supervisors, keepers) = transport::pair().unwrap();
        let (_client, mut events) = connect(supervisors).unwrap();
        let tell = |message: &FromKeeper, fds: &[BorrowedFd<'_>]| {
            transport::send(keepers.as_fd(), &transport::encode(message).unwrap(), fds).unwrap();
        };
        tell(&FromKeeper::Ping { nonce: 77 }, &[]);
        tell(&FromKeeper::Launched { run: run(1), pid: 5, at: Mono::default() }, &[keepers.as_fd()]);
        let (message, pidfd) = events.next().await.unwrap();
        assert!(matches!(message, FromKeeper::Launched { pid: 5, .. }) && pidfd.len() == 1);
        let mut inbox = Inbox::default();
        let said: Vec<_> = (0..2).map(|_| inbox.recv::<ToKeeper>(keepers.as_fd()).unwrap().message).collect();
        assert_eq!(said, [ToKeeper::Hello { version: VERSION }, ToKeeper::Pong { nonce: 77 }]);
        drop((pidfd, keepers));
        assert!(matches!(events.next().await, Err(TransportError::Gone)));
    }

    #[tokio::test]
    async fn a_request_wakes_an_events_loop_that_already_waits() {
        let (supervisors, keepers) = transport::pair().unwrap();
        let (client, mut events) = connect(supervisors).unwrap();
        let events = tokio::spawn(async move { events.next().await.map(|(message, _)| message) });
        tokio::task::yield_now().await;
        for number in 1..=50 {
            client.ack(&run(number)).unwrap();
        }
        let mut inbox = Inbox::default();
        let mut got = 0;
        while got < 51 {
            match inbox.recv::<ToKeeper>(keepers.as_fd()) {
                Ok(_) => got += 1,
                Err(TransportError::WouldBlock) => tokio::task::yield_now().await,
                Err(e) => panic!("{e}"),
            }
        }
        drop(keepers);
        assert!(matches!(events.await.unwrap(), Err(TransportError::Gone)));
    }
}
