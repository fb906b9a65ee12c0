//! Extended attributes of a cgroup directory: they last as long as the cgroup, and so outlive us.

use rustix::{fs::XattrFlags, io::Errno};

use super::{Dir, DirError, error::io_error};

/// The longest extended attribute we write. kernfs allows 64 KiB for all of one directory's `user.*` attributes
/// together, and 16 KiB is what a run's record may grow to.
pub const XATTR_MAX: usize = 16 << 10;

/// Which extended attributes hold our records (xattr(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// `trusted.pinfold.*`: only a process with `CAP_SYS_ADMIN` can read or write them, so no worker can forge one.
    Trusted,
    /// `user.pinfold.*`: whoever may write the directory. For rootless use.
    User,
}

impl Namespace {
    /// The full name of attribute `key`.
    #[must_use]
    pub fn name(self, key: &str) -> String {
        match self {
            Self::Trusted => format!("trusted.pinfold.{key}"),
            Self::User => format!("user.pinfold.{key}"),
        }
    }

    /// What works on `dir`: `trusted` where we may, else `user`.
    #[must_use]
    pub fn probe(dir: &Dir) -> Self {
        let works = dir.set_xattr(Self::Trusted, "probe", b"1").and_then(|()| dir.remove_xattr(Self::Trusted, "probe"));
        if works.is_ok() { Self::Trusted } else { Self::User }
    }
}

impl Dir {
    /// Sets the extended attribute `key`.
    ///
    /// # Errors
    /// Where it is longer than [`XATTR_MAX`] or the kernel refuses.
    pub fn set_xattr(&self, ns: Namespace, key: &str, value: &[u8]) -> Result<(), DirError> {
        let refused = |e| io_error("set an extended attribute of", &self.path, e);
        if value.len() > XATTR_MAX {
            return Err(refused(Errno::TOOBIG));
        }
        rustix::fs::fsetxattr(&self.fd, ns.name(key), value, XattrFlags::empty()).map_err(refused)
    }

    /// Reads the extended attribute `key`, `None` where there is none.
    ///
    /// # Errors
    /// Where it is longer than [`XATTR_MAX`] or the kernel refuses.
    pub fn xattr(&self, ns: Namespace, key: &str) -> Result<Option<Vec<u8>>, DirError> {
        self.raw_xattr(&ns.name(key))
    }

    /// Reads the extended attribute of this full name, for instance systemd's `trusted.delegate`.
    ///
    /// # Errors
    /// As [`xattr`](Self::xattr).
    pub fn raw_xattr(&self, name: &str) -> Result<Option<Vec<u8>>, DirError> {
        let mut buf = vec![0; XATTR_MAX];
        match rustix::fs::fgetxattr(&self.fd, name, &mut buf[..]) {
            Ok(n) => {
                buf.truncate(n);
                Ok(Some(buf))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(io_error("read an extended attribute of", &self.path, e)),
        }
    }

    /// Removes the extended attribute `key`.
    ///
    /// # Errors
    /// `ENODATA` where there is none.
    pub fn remove_xattr(&self, ns: Namespace, key: &str) -> Result<(), DirError> {
        rustix::fs::fremovexattr(&self.fd, ns.name(key))
            .map_err(|e| io_error("remove an extended attribute of", &self.path, e))
    }
}
