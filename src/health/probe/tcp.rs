//! `tcp_socket`: a connection that is accepted, and closed at once.

use std::{io, time::Duration};

use tokio::net::TcpStream;

use super::{Outcome, words};
use crate::model::chain;

/// Connects to `host`, a name or an address.
pub(super) async fn connect(host: &str, port: u16, timeout: Duration) -> Outcome {
    let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, connected(host, port)).await {
        Ok(Ok(())) => Outcome::passed(&format!("connected to {to}")),
        Ok(Err(e)) => Outcome::of_error(Some(&e), &format!("{to}: {}", chain(&e))),
        Err(_) => Outcome::failed(&format!("{to}: no connection within {}", words(timeout))),
    }
}

async fn connected(host: &str, port: u16) -> io::Result<()> {
    other_end(&TcpStream::connect((host, port)).await?)
}

/// A port that nobody listens on can be drawn as our own, and then connects to itself (simultaneous open, RFC 9293, 3.5).
/// That is no answer, and while it is open the worker cannot have its port.
pub(super) fn other_end(stream: &TcpStream) -> io::Result<()> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok(())
}
