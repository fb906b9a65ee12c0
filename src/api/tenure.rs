//! The file beside the socket by which whoever finds nobody there tells "one is being replaced" from "there is none".
//!
//! It is locked for as long as a keeper, or the supervisor that it has given the lock to, lives: between two supervisors, too, when
//! the socket is gone or refused. A supervisor after which none comes lets go of it before it closes its door. The lock is an open
//! file description's (`F_OFD_SETLK` of fcntl(2)), which goes through a socket and over an exec like any descriptor. To ask for it
//! takes no right but to open the file for reading, and nobody who may only read can take one that keeps others out.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Whoever is in the socket's group may look.
const MODE: u32 = 0o640;

/// A lock that says that there is, or soon will be, somebody behind a socket.
#[derive(Debug)]
pub struct Tenure {
    file: File,
}

/// The file of the socket at `socket`.
fn beside(socket: &Path) -> PathBuf {
    let mut name = OsString::from(socket);
    name.push(".lock");
    name.into()
}

/// All of a file.
const fn lock(kind: libc::c_int) -> libc::flock {
    // The values of l_type are 0 to 2.
    #[expect(clippy::cast_possible_truncation, reason = "the values of l_type are 0 to 2")]
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

impl Tenure {
    /// The file of `socket`, made where it is missing and locked. `None`: another has the lock.
    ///
    /// # Errors
    /// Where it cannot be made, opened or locked.
    pub fn begin(socket: &Path) -> io::Result<Option<Self>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let path = beside(socket);
        let tenure = Self { file: options.open(&path)? };
        match tenure.hold() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && is_locked(&tenure.file)? => Ok(None),
            // Somebody who may only look has locked it for reading. A fresh one is not his.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Self::afresh(&path).map(Some),
            held => held.map(|()| Some(tenure)),
        }
    }

    fn afresh(path: &Path) -> io::Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // For its owner alone, until it is opened to a group.
        let made = tempfile::Builder::new().prefix(".api.sock.lock.").tempfile_in(dir)?;
        let tenure = Self { file: made.as_file().try_clone()? };
        tenure.hold()?;
        made.persist(path).map_err(|e| e.error)?;
        Ok(tenure)
    }

    /// That of `socket` among the descriptors that were handed over.
    #[must_use]
    pub fn among(handed_over: &[OwnedFd], socket: &Path) -> Option<Self> {
        let id = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
        let wanted = id(&beside(socket).symlink_metadata().ok()?);
        let files = handed_over.iter().filter_map(|fd| fd.try_clone().ok()).map(File::from);
        let found = files.into_iter().find(|file| file.metadata().is_ok_and(|meta| id(&meta) == wanted))?;
        Some(Self { file: found })
    }

    /// Locks it, again or for the first time.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another has the lock.
    pub fn hold(&self) -> io::Result<()> {
        self.set(libc::F_WRLCK)
    }

    /// Lets the members of `group` (a number; `None`: our own group) look.
    ///
    /// # Errors
    /// Where the file's mode or group cannot be changed.
    pub fn open_to(&self, group: Option<u32>) -> io::Result<()> {
        if group.is_some() {
            fchown(&self.file, None, group)?;
        }
        self.file.set_permissions(std::fs::Permissions::from_mode(MODE))
    }

    /// Nobody will be there any more. Whoever else holds the same lock holds it no longer.
    ///
    /// # Errors
    /// Where it cannot be let go of.
    pub fn end(&self) -> io::Result<()> {
        self.set(libc::F_UNLCK)
    }

    fn set(&self, kind: libc::c_int) -> io::Result<()> {
        fcntl(self.file.as_fd(), FcntlArg::F_OFD_SETLK(&lock(kind)))?;
        Ok(())
    }
}

impl From<Tenure> for OwnedFd {
    fn from(tenure: Tenure) -> Self {
        tenure.file.into()
    }
}

/// Whether somebody is, or soon will be, behind `socket`. One that may not be asked is nobody.
#[must_use]
pub fn is_held(socket: &Path) -> bool {
    let asked = || -> io::Result<bool> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(beside(socket))?;
        is_locked(&file)
    };
    asked().unwrap_or(false)
}

fn is_locked(file: &File) -> io::Result<bool> {
    // A reader's lock would go beside any other's but a holder's.
    let mut lock = lock(libc::F_RDLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_until_its_last_holder_is_gone_or_one_of_them_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        assert!(!is_held(&socket), "nobody was ever there");
        let ours = Tenure::begin(&socket).unwrap().unwrap();
        assert!(is_held(&socket));
        assert!(Tenure::begin(&socket).unwrap().is_none(), "it is one's at a time");
        ours.open_to(None).unwrap();
        assert_eq!(beside(&socket).metadata().unwrap().mode() & 0o777, MODE);

        let handed_over = [OwnedFd::from(File::open("/dev/null").unwrap()), ours.file.try_clone().unwrap().into()];
        assert!(Tenure::among(&handed_over[..1], &socket).is_none());
        let theirs = Tenure::among(&handed_over, &socket).unwrap();
        drop((ours, handed_over));
        assert!(is_held(&socket), "another has the same lock");
        theirs.end().unwrap();
        assert!(!is_held(&socket));
        theirs.hold().unwrap();
        assert!(is_held(&socket));
        drop(theirs);
        assert!(!is_held(&socket));
    }

    #[test]
    fn whoever_may_only_look_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        drop(Tenure::begin(&socket).unwrap().unwrap());
        let reader = File::open(beside(&socket)).unwrap();
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&lock(libc::F_WRLCK))).unwrap_err();
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK))).unwrap();
        assert!(!is_held(&socket), "a reader is nobody");
        let tenure = Tenure::begin(&socket).unwrap().expect("and in nobody's way");
        assert!(is_held(&socket));
        tenure.open_to(None).unwrap();
        assert!(Tenure::begin(&socket).unwrap().is_none());
        drop(tenure);
        assert!(!is_held(&socket));
    }

    #[test]
    fn what_is_no_file_of_ours_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        std::os::unix::fs::symlink("/etc/passwd", beside(&socket)).unwrap();
        assert!(!is_held(&socket));
        assert!(Tenure::begin(&socket).is_err());
    }
}
