//! The socket's file: made, guarded by its mode and group, and removed.
//!
//! A file that an earlier supervisor left is removed only when nobody listens there. Looking and replacing happen under
//! a lock on the directory, so that of two supervisors that begin at once one finds the other.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Whoever is in the socket's group may operate; nobody else may even connect.
pub const MODE: u32 = 0o660;

/// The group that the socket is given where there is one of this name.
pub const GROUP: &str = "pinfold";

/// Connections that wait to be accepted. While a supervisor takes over what lives, they wait here.
const BACKLOG: i32 = 128;

/// Neither who accepts nor who looks whether somebody does waits in the kernel.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// `sun_path` of unix(7), without its last byte.
const MAX_PATH: usize = 107;

/// A listening socket and its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket: it is ours as long as it is the one we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself, by whatever name: as long as it is held, no other can get its number.
    held: File,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than an address can be.
    #[error("the socket's path {} has {} bytes, more than the {MAX_PATH} of an address; name a shorter one with --socket", .path.display(), .path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody answers there.
    #[error("another supervisor listens at {}; name another socket with --socket", .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else bears the name.
    #[error("{} is there already and is no socket; remove it, or name another with --socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Whether a socket can be made at `path`, as far as it can be told beforehand.
///
/// # Errors
/// [`SocketError`].
pub fn check(path: &Path) -> Result<(), SocketError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong { path: path.to_owned() });
    }
    is_free(path).map(drop)
}

/// Whether there is a file that nobody listens at, which may go.
fn is_free(path: &Path) -> Result<bool, SocketError> {
    let failed = |action, source| SocketError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed("look at", e)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong { path: path.to_owned() })?;
    let looks = || {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        rustix::net::connect(&socket, &address)
    };
    match looks() {
        // A full backlog is somebody's, too.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(failed("look who listens at", e.into())),
    }
}

impl Socket {
    /// Listens at `path`, for the members of `group` (a number; `None`: our own group) and nobody else. Blocks for as long
    /// as another supervisor does the same.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        let failed = |action| {
            let path = path.to_owned();
            move |source: io::Error| SocketError::Io { action, path, source }
        };
        let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong { path: path.to_owned() })?;
        let _turn = turn(path)?;
        check(path)?;
        if is_free(path)? {
            fs::remove_file(path).map_err(failed("remove"))?;
        }
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
            .map_err(|e| failed("make a socket for")(e.into()))?;
        // The file gets this mode at its birth (less the umask): there is no moment at which others could connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| failed("make a socket for")(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|e| failed("make")(e.into()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
        let file = SocketFile { path: path.to_owned(), held: File::from(held) };
        // From here on an error removes what was made.
        let opened = open_to(path, group).and_then(|()| listen(&socket)).map_err(failed("open to its group"));
        match opened {
            Ok(()) => Ok(Self { listener: UnixListener::from(socket), file }),
            Err(e) => {
                file.remove();
                Err(e)
            }
        }
    }

    /// The listener, which does not block, and its file, which outlives it until it is removed.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    /// Removes the file, unless another has taken its place.
    pub fn remove(&self) {
        let removed = turn(&self.path).and_then(|_turn| {
            let failed = |action| {
                let path = self.path.clone();
                move |source: io::Error| SocketError::Io { action, path, source }
            };
            let ours = self.held.metadata().map_err(failed("look at"))?;
            match fs::symlink_metadata(&self.path) {
                Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => {
                    fs::remove_file(&self.path).map_err(failed("remove"))
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("look at")(e)),
                _ => Ok(()),
            }
        });
        if let Err(error) = removed {
            // The next supervisor removes it: nobody listens there.
            tracing::warn!(error = %crate::model::chain(&error), "the socket's file stays");
        }
    }
}

/// The group first: with the mode first, members of another group could connect for a moment.
fn open_to(path: &Path, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::lchown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

fn listen(socket: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// Our turn with the directory of `path`, until it is dropped.
fn turn(path: &Path) -> Result<File, SocketError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |action, source| SocketError::Io { action, path: dir.to_owned(), source };
    let dir = File::open(dir).map_err(|e| failed("open", e))?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(|e| failed("lock", e.into()))?;
    Ok(dir)
}

/// The group that the socket is to have, by number: [`GROUP`] where there is one, else that of root for root, else our
/// own. Asks the host's user database, which can be on a network: blocks.
///
/// # Errors
/// Where the database cannot be asked.
pub fn group() -> io::Result<Option<u32>> {
    let known = nix::unistd::Group::from_name(GROUP).map_err(io::Error::from)?;
    let root = rustix::process::geteuid().is_root();
    let own = rustix::process::getegid().as_raw();
    Ok(match known.map(|group| group.gid.as_raw()) {
        Some(gid) if root || gid == own || is_member(gid)? => Some(gid),
        _ if root => Some(0),
        _ => Some(own),
    })
}

fn is_member(gid: u32) -> io::Result<bool> {
    Ok(rustix::process::getgroups()?.iter().any(|group| group.as_raw() == gid))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        (dir, path)
    }

    #[test]
    fn a_socket_is_for_owner_and_group_alone() {
        let (_dir, path) = place();
        let _socket = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_one_with_a_listener_is_not() {
        let (_dir, path) = place();
        drop(Socket::bind(&path, None).unwrap().into_parts().0);
        assert!(path.exists(), "a supervisor that is killed leaves its file");
        let socket = Socket::bind(&path, None).unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::InUse { .. })));
        assert!(matches!(check(&path), Err(SocketError::InUse { .. })));
        drop(socket);
        assert!(check(&path).is_ok());
    }

    #[test]
    fn one_whose_backlog_is_full_has_a_listener_and_nobody_waits_to_be_told() {
        let (_dir, path) = place();
        let socket = Socket::bind(&path, None).unwrap();
        rustix::net::listen(&socket.listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert!(matches!(check(&path), Err(SocketError::InUse { .. })));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let (_dir, path) = place();
        File::create(&path).unwrap().write_all(b"precious").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket { .. })));
    }

    #[test]
    fn the_file_goes_with_its_socket_and_not_with_anothers() {
        let (_dir, path) = place();
        let (listener, file) = Socket::bind(&path, None).unwrap().into_parts();
        drop(listener);
        let (_listener, later) = Socket::bind(&path, None).unwrap().into_parts();
        file.remove();
        assert!(path.exists(), "that was another's");
        later.remove();
        assert!(!path.exists());
        later.remove();
    }

    #[test]
    fn a_path_that_is_no_address_is_told_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        let error = check(&path).unwrap_err();
        assert!(error.to_string().contains("name a shorter one with --socket"), "{error}");
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::TooLong { .. })));
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = Socket::bind(&dir.path().join("none/api.sock"), None).unwrap_err();
        assert!(crate::model::chain(&error).ends_with("none: No such file or directory"), "{error:?}");
    }

    #[test]
    fn of_many_that_begin_at_once_one_listens() {
        let (_dir, path) = place();
        drop(Socket::bind(&path, None).unwrap().into_parts().0);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let begin = || Socket::bind(&path, None);
            let all: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|b| b.is_ok()).count(), 1, "{bound:?}");
    }
}
