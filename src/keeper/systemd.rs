//! The keeper's word to systemd, `sd_notify(3)`: only the main process is heard, and the keeper is it.
//!
//! By hand instead of the sd-notify crate because that one's socket waits where systemd is slow to read, and the keeper
//! waits for nobody.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who asked to be notified.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    address: Option<SocketAddr>,
    /// `WATCHDOG_USEC`, where it is meant for us.
    pub(super) watchdog: Option<Duration>,
}

impl Systemd {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn from_env() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Ok(Self { address: Some(address), watchdog })
    }

    /// Sends `state` on; nothing happens where nobody asked.
    pub(super) fn notify(&self, state: &str) -> io::Result<()> {
        let Some(address) = &self.address else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), address)?;
        Ok(())
    }
}
