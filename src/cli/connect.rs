//! The way into a supervisor's socket. Those who come faster than they are accepted wait in the kernel's queue; where that is full,
//! too, a socket that does not block is refused (EAGAIN, connect(2)), and one that blocks waits its turn with the others.

use std::{io, os::unix::net::UnixStream as StdStream, path::Path, time::Duration};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use crate::clock;

/// Connects to `socket`. Where many do, it waits its turn for `patience` at the most.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where its turn has not come by then.
pub(super) async fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    match UnixStream::connect(socket).await {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        connected => return connected,
    }
    let socket = socket.to_owned();
    let waits = tokio::task::spawn_blocking(move || connect_blocking(&socket, patience));
    let stream = waits.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The same by a thread that waits; the stream blocks.
fn connect_blocking(socket: &Path, patience: Duration) -> io::Result<StdStream> {
    let address = SocketAddrUnix::new(socket)?;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let began = clock::monotonic();
    loop {
        let left = patience.saturating_sub(clock::monotonic().since(began));
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // It holds for connect(2), too (unix_stream_connect in net/unix/af_unix.c).
        set_socket_timeout(&stream, Timeout::Send, Some(left))?;
        match rustix::net::connect(&stream, &address) {
            // A signal that somebody handles; a connect with a timeout is not gone on with by itself, signal(7).
            Err(Errno::INTR) => {}
            connected => {
                connected?;
                break;
            }
        }
    }
    set_socket_timeout(&stream, Timeout::Send, None)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A listener with a full queue, and those in it.
    fn full(path: &Path) -> (UnixListener, Vec<UnixStream>) {
        let listener = UnixListener::bind(path).unwrap();
        rustix::net::listen(&listener, 2).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let mut queue = Vec::new();
        loop {
            match runtime.block_on(UnixStream::connect(path)) {
                Ok(stream) => queue.push(stream),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (listener, queue),
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_waits_until_his_time_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _full = std::thread::scope(|scope| scope.spawn(|| full(&path)).join().unwrap());
        let patience = Duration::from_millis(100);
        let began = clock::monotonic();
        let error = connect(&path, patience).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // The kernel counts in ticks.
        assert!(clock::monotonic().since(began) > patience / 2);
    }

    #[test]
    fn whoever_finds_the_queue_full_comes_in_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, _queue) = full(&path);
        let blocked = std::thread::spawn({
            let path = path.clone();
            move || connect_blocking(&path, Duration::from_secs(20))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connected = runtime.block_on(async {
            let waits = connect(&path, Duration::from_secs(20));
            let accepts =
                tokio::task::spawn_blocking(move || (0..5).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>());
            let (connected, accepted) = tokio::join!(waits, accepts);
            assert_eq!(accepted.unwrap().len(), 5);
            connected
        });
        connected.unwrap();
        blocked.join().unwrap().unwrap();
    }

    #[test]
    fn where_nobody_listens_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let kind = |path: &Path| connect_blocking(path, Duration::from_secs(20)).unwrap_err().kind();
        assert_eq!(kind(&path), io::ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(kind(&path), io::ErrorKind::ConnectionRefused);
    }
}
