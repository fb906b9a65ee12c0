//! One message with its descriptors through a `SOCK_SEQPACKET` pair, both ways, and the sealed memfd for large bodies.
//!
//! Nothing here waits: a full or an empty socket is an answer. A Linux socket of this kind takes
//! `net.unix.max_dgram_qlen` messages (10 by default), so "full" is ordinary and whoever sends keeps an [`Outbox`].
//! What arrives is not trusted: every malformed message is an error, never a panic, and its descriptors are closed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest encoded message: two paths and an error text fit many times; a launch's body goes by memfd.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors beside one message.
pub const MAX_FDS: usize = 16;
/// The largest body: argv and environment can be 2 MB (execve(2)), and are encoded with little over it.
pub const MAX_BODY: u64 = 8 << 20;

/// Why a message did not go or come.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing to read, or no room to send: wait for readiness and try again.
    #[error("the socket is not ready")]
    WouldBlock,
    /// The other side has closed its end or died.
    #[error("the peer is gone")]
    Gone,
    /// Larger than [`MAX_MESSAGE`], or than the socket takes.
    #[error("a message of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// More bytes than fit were sent.
    #[error("a message arrived cut off")]
    Truncated,
    /// Another number of descriptors than the message states.
    #[error("{got} descriptors beside a message that has {wanted}")]
    Descriptors {
        /// What came.
        got: usize,
        /// What belongs to it.
        wanted: usize,
    },
    /// The bytes are no message of ours.
    #[error("a message that cannot be read")]
    Decode(#[source] rmp_serde::decode::Error),
    /// The value cannot be written as a message.
    #[error("a message that cannot be written")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The memfd is not sealed, or is larger than it may be.
    #[error("a body that is not sealed or too large")]
    Body,
    /// The kernel refuses, and would again.
    #[error("socket")]
    Io(#[source] io::Error),
}

impl From<Errno> for TransportError {
    fn from(e: Errno) -> Self {
        match e {
            // ENOBUFS: no memory for it now; as with a full queue, later may be better.
            Errno::AGAIN | Errno::NOBUFS => Self::WouldBlock,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Gone,
            e => Self::Io(e.into()),
        }
    }
}

/// Two connected ends, close-on-exec, non-blocking.
///
/// # Errors
/// socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The bytes of `message`.
///
/// # Errors
/// [`TransportError::Encode`], [`TransportError::TooLong`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, TransportError> {
    let bytes = rmp_serde::to_vec_named(message).map_err(TransportError::Encode)?;
    if bytes.len() > MAX_MESSAGE { Err(TransportError::TooLong { bytes: bytes.len() }) } else { Ok(bytes) }
}

/// Reads a message back.
///
/// # Errors
/// [`TransportError::Decode`].
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, TransportError> {
    rmp_serde::from_slice(bytes).map_err(TransportError::Decode)
}

/// Sends one message, whole or not at all.
///
/// # Errors
/// [`TransportError`]; `WouldBlock` leaves it to be sent again.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(TransportError::Descriptors { got: fds.len(), wanted: MAX_FDS });
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::MSGSIZE) => return Err(TransportError::TooLong { bytes: message.len() }),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One message as it came.
#[derive(Debug)]
pub struct Received<M> {
    /// What it says.
    pub message: M,
    /// What came beside it, close-on-exec. All of it or nothing.
    pub fds: Vec<OwnedFd>,
}

/// Receives messages into one buffer.
#[derive(Debug)]
pub struct Inbox {
    buffer: Vec<u8>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: vec![0; MAX_MESSAGE] }
    }
}

impl Inbox {
    /// Takes the next message.
    ///
    /// # Errors
    /// [`TransportError`]; `WouldBlock` where there is none.
    pub fn recv<M: DeserializeOwned>(&mut self, socket: BorrowedFd<'_>) -> Result<Received<M>, TransportError> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut self.buffer)], &mut control, flags) {
                Ok(got) => break got,
                // CONNRESET: the peer has closed without having read all. It is said once, before what had come from it.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = rights.flatten().collect();
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(TransportError::Truncated);
        }
        if got.bytes == 0 {
            return Err(TransportError::Gone);
        }
        let message = decode(self.buffer.get(..got.bytes).unwrap_or_default())?;
        // The kernel drops descriptors that do not fit, or that our limit does not allow, and says so only here. The
        // message still has to be answered: it is told as one without descriptors.
        let whole = !got.flags.contains(ReturnFlags::CTRUNC);
        Ok(Received { message, fds: if whole { fds } else { Vec::new() } })
    }
}

/// The descriptors of a message, where it must have exactly so many.
///
/// # Errors
/// [`TransportError::Descriptors`].
pub fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], TransportError> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| TransportError::Descriptors { got: fds.len(), wanted: N })
}

/// Messages that wait for room in a socket, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Outbox {
    /// Puts a message behind those that wait.
    ///
    /// # Errors
    /// [`encode`]'s.
    pub fn push<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), TransportError> {
        self.waiting.push_back((encode(message)?, fds));
        Ok(())
    }

    /// Sends as many as there is room for. A message that can never be sent is taken out and reported; the rest stays.
    ///
    /// # Errors
    /// [`TransportError`], never `WouldBlock`.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<(), TransportError> {
        while let Some((message, fds)) = self.waiting.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match send(socket, message, &fds) {
                Err(TransportError::WouldBlock) => return Ok(()),
                sent => {
                    drop(fds);
                    self.waiting.pop_front();
                    sent?;
                }
            }
        }
        Ok(())
    }

    /// What waits, in order: encoded messages, each with its descriptors.
    pub fn waiting(&self) -> impl Iterator<Item = (&[u8], &[OwnedFd])> {
        self.waiting.iter().map(|(message, fds)| (message.as_slice(), fds.as_slice()))
    }

    /// Puts a message that waited elsewhere behind those that wait.
    pub fn push_encoded(&mut self, message: Vec<u8>, fds: Vec<OwnedFd>) {
        self.waiting.push_back((message, fds));
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets what waits: the peer is gone.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Puts `body` into a memfd and seals it, so that the reader can trust its length and content.
///
/// # Errors
/// `memfd_create(2)`, or the encoding.
pub fn seal_body<B: Serialize>(body: &B) -> Result<OwnedFd, TransportError> {
    let bytes = rmp_serde::to_vec_named(body).map_err(TransportError::Encode)?;
    let io = |e: Errno| TransportError::Io(e.into());
    let memfd =
        rustix::fs::memfd_create("pinfold-body", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(io)?;
    let mut file = std::fs::File::from(memfd);
    io::Write::write_all(&mut file, &bytes).map_err(TransportError::Io)?;
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(io)?;
    Ok(file.into())
}

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Reads a sealed body.
///
/// # Errors
/// [`TransportError::Body`] where its writer could still change it.
pub fn open_body<B: DeserializeOwned>(memfd: OwnedFd) -> Result<B, TransportError> {
    open_body_within(memfd, MAX_BODY)
}

/// Reads a sealed body of at most `limit` bytes.
///
/// # Errors
/// As [`open_body`].
pub fn open_body_within<B: DeserializeOwned>(memfd: OwnedFd, limit: u64) -> Result<B, TransportError> {
    // Also refuses what is no memfd at all: F_GET_SEALS is EINVAL there.
    let seals = rustix::fs::fcntl_get_seals(&memfd).map_err(|_| TransportError::Body)?;
    let file = std::fs::File::from(memfd);
    let length = file.metadata().map_err(TransportError::Io)?.len();
    if !seals.contains(SEALS) || length > limit {
        return Err(TransportError::Body);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| TransportError::Body)?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).map_err(TransportError::Io)?;
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keeper::protocol::{FromKeeper, FromLogger, LogFiles, ToKeeper, ToLogger};
    use crate::kernel::launch::plan::LaunchPlan;
    use crate::model::{ExitStatus, Mono, RunId, Stage, StartError, WorkerId};

    fn run() -> impl Strategy<Value = RunId> {
        ("[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?", any::<u32>())
            .prop_map(|(id, number)| RunId::new(WorkerId::new(&id).unwrap(), number))
    }

    fn to_keeper() -> impl Strategy<Value = ToKeeper> {
        prop_oneof![
            any::<u32>().prop_map(|version| ToKeeper::Hello { version }),
            (run(), "/\\PC{0,300}", "/\\PC{0,300}").prop_map(|(run, stdout, stderr)| ToKeeper::Launch {
                way: crate::model::Way::Other,
                run,
                logs: LogFiles {
                    stdout: stdout.into(),
                    stderr: stderr.into(),
                    policy: crate::model::LogPolicy::default()
                }
            }),
            run().prop_map(|run| ToKeeper::Ack { run }),
            (run(), any::<i32>(), any::<u64>(), at()).prop_map(|(run, pid, start_ticks, at)| ToKeeper::Adopt {
                run,
                pid,
                start_ticks,
                at
            }),
            Just(ToKeeper::List),
            Just(ToKeeper::TookOver),
            Just(ToKeeper::GoingDown),
            (run(), any::<i32>()).prop_map(|(run, signal)| ToKeeper::Signal { run, signal }),
            "\\PC{0,300}".prop_map(|state| ToKeeper::Notify { state }),
            "\\PC{0,100}".prop_map(|version| ToKeeper::Reexec { version }),
            any::<u64>().prop_map(|nonce| ToKeeper::Pong { nonce }),
        ]
    }

    fn at() -> impl Strategy<Value = Mono> + Clone {
        any::<u64>().prop_map(|n| Mono(std::time::Duration::from_nanos(n)))
    }

    fn from_keeper() -> impl Strategy<Value = FromKeeper> {
        let status = prop_oneof![
            any::<i32>().prop_map(|code| ExitStatus::Exited { code }),
            (any::<i32>(), any::<bool>()).prop_map(|(signal, core)| ExitStatus::Signaled { signal, core }),
        ];
        prop_oneof![
            (any::<u32>(), any::<[u32; 2]>(), proptest::option::of("\\PC{0,100}"), any::<bool>()).prop_map(
                |(version, [restarts, reexecs], previous, going_down)| FromKeeper::Hello {
                    version,
                    restarts,
                    reexecs,
                    previous,
                    going_down
                }
            ),
            run().prop_map(|run| FromKeeper::Launching { run }),
            (run(), any::<i32>(), at()).prop_map(|(run, pid, at)| FromKeeper::Launched { run, pid, at }),
            (run(), "\\PC{0,300}", any::<i32>()).prop_map(|(run, what, errno)| FromKeeper::Failed {
                run,
                error: StartError::os(Stage::Exec, what, errno)
            }),
            (run(), any::<i32>(), proptest::option::of(status), at())
                .prop_map(|(run, pid, status, at)| FromKeeper::Exited { run, pid, status, at }),
            Just(FromKeeper::Listed),
            (run(), "\\PC{0,300}", any::<Option<u64>>()).prop_map(|(run, why, bytes)| FromKeeper::LogDropped {
                stream: crate::model::Stream::Stderr,
                run,
                why,
                bytes
            }),
            any::<u64>().prop_map(|nonce| FromKeeper::Ping { nonce }),
        ]
    }

    proptest! {
        #[test]
        fn every_message_comes_out_as_it_went_in(to in to_keeper(), from in from_keeper()) {
            let (a, b) = pair().unwrap();
            let mut inbox = Inbox::default();
            send(a.as_fd(), &encode(&to).unwrap(), &[a.as_fd()]).unwrap();
            let got = inbox.recv::<ToKeeper>(b.as_fd()).unwrap();
            prop_assert_eq!((got.message, got.fds.len()), (to, 1));
            send(a.as_fd(), &encode(&from).unwrap(), &[]).unwrap();
            let got = inbox.recv::<FromKeeper>(b.as_fd()).unwrap();
            prop_assert_eq!((got.message, got.fds.len()), (from, 0));
        }

        #[test]
        fn no_bytes_make_the_decoder_fail_otherwise_than_by_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop((decode::<ToKeeper>(&bytes), decode::<FromKeeper>(&bytes), decode::<LaunchPlan>(&bytes)));
            drop((decode::<ToLogger>(&bytes), decode::<FromLogger>(&bytes)));
        }

        #[test]
        fn a_cut_message_is_an_error(message in to_keeper(), cut in any::<proptest::sample::Index>()) {
            let bytes = encode(&message).unwrap();
            prop_assert!(decode::<ToKeeper>(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        #[derive(Serialize)]
        enum Later {
            Ack { run: RunId, added: Vec<u8> },
        }
        let run = RunId::new(WorkerId::new("a").unwrap(), 1);
        let bytes = encode(&Later::Ack { run: run.clone(), added: vec![1, 2] }).unwrap();
        assert_eq!(decode::<ToKeeper>(&bytes).unwrap(), ToKeeper::Ack { run });
    }

    #[test]
    fn a_full_socket_keeps_messages_waiting_in_order() {
        let (a, b) = pair().unwrap();
        let mut out = Outbox::default();
        for nonce in 0..1000 {
            out.push(&ToKeeper::Pong { nonce }, Vec::new()).unwrap();
        }
        out.flush(a.as_fd()).unwrap();
        assert!(!out.is_empty(), "1000 messages do not fit");
        let mut inbox = Inbox::default();
        for nonce in 0..1000 {
            out.flush(a.as_fd()).unwrap();
            assert_eq!(inbox.recv::<ToKeeper>(b.as_fd()).unwrap().message, ToKeeper::Pong { nonce });
        }
        assert!(out.is_empty());
        assert!(matches!(inbox.recv::<ToKeeper>(b.as_fd()), Err(TransportError::WouldBlock)));
    }

    #[test]
    fn a_closed_peer_is_gone_in_both_directions() {
        let (a, b) = pair().unwrap();
        drop(b);
        assert!(matches!(send(a.as_fd(), b"x", &[]), Err(TransportError::Gone)));
        assert!(matches!(Inbox::default().recv::<ToKeeper>(a.as_fd()), Err(TransportError::Gone)));
    }

    #[test]
    fn what_a_peer_has_said_is_heard_also_where_it_has_closed_without_reading() {
        let (a, b) = pair().unwrap();
        send(b.as_fd(), &encode(&FromKeeper::Listed).unwrap(), &[]).unwrap();
        send(a.as_fd(), &encode(&ToKeeper::List).unwrap(), &[]).unwrap();
        drop(a);
        let mut inbox = Inbox::default();
        assert_eq!(inbox.recv::<ToKeeper>(b.as_fd()).unwrap().message, ToKeeper::List);
        assert!(matches!(inbox.recv::<ToKeeper>(b.as_fd()), Err(TransportError::Gone)));
    }

    #[test]
    fn of_too_many_descriptors_none_is_taken_and_too_many_bytes_are_refused() {
        let (a, b) = pair().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [a.as_fd(); 40];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = encode(&ToKeeper::List).unwrap();
        rustix::net::sendmsg(&a, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        let got = Inbox::default().recv::<ToKeeper>(b.as_fd()).unwrap();
        assert_eq!((got.message, got.fds.len()), (ToKeeper::List, 0), "none instead of some");
        send(a.as_fd(), &vec![0; MAX_MESSAGE + 1], &[]).unwrap();
        assert!(matches!(Inbox::default().recv::<ToKeeper>(b.as_fd()), Err(TransportError::Truncated)));
        let long = ToKeeper::Notify { state: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(encode(&long), Err(TransportError::TooLong { .. })));
    }

    #[test]
    fn only_a_sealed_body_is_read() {
        let body = vec!["x".repeat(1000); 2000];
        assert_eq!(open_body::<Vec<String>>(seal_body(&body).unwrap()).unwrap(), body);
        let open = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(open_body::<Vec<String>>(open), Err(TransportError::Body)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(open_body::<Vec<String>>(file.into()), Err(TransportError::Body)));
    }
}
