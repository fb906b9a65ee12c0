//! An open cgroup directory. It is opened once, checked to be on cgroup2, and everything afterwards is relative to the
//! descriptor: a path can come to name another cgroup, a descriptor cannot.

mod error;
mod xattr;

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub use error::DirError;
use error::io_error;
pub use xattr::{Namespace, XATTR_MAX};

/// `CGROUP2_SUPER_MAGIC`, statfs(2).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// An open directory of a cgroup2 file system. The path is for messages only.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: Box<Path>,
    /// On an ordinary file system a write must truncate; kernfs would spend memory on the attributes for nothing.
    write_flags: OFlags,
}

impl Dir {
    const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    /// Opens the cgroup at `path`.
    ///
    /// # Errors
    /// Where it cannot be opened or is not on cgroup2.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        let fd = rustix::fs::open(path, Self::FLAGS, Mode::empty()).map_err(|e| io_error("open", path, e))?;
        Self::from_fd(fd, path)
    }

    /// Takes an open directory descriptor over, for instance one that was inherited.
    ///
    /// # Errors
    /// Where it is not on cgroup2.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self, DirError> {
        let fs = rustix::fs::fstatfs(&fd).map_err(|e| io_error("stat", path, e))?;
        // f_type's type differs between architectures; the magic fits all of them.
        if u64::try_from(fs.f_type).ok() != Some(CGROUP2_SUPER_MAGIC) {
            return Err(DirError::NotCgroup2 { path: path.to_owned() });
        }
        Ok(Self { fd, path: path.into(), write_flags: OFlags::WRONLY })
    }

    /// A directory of any file system, for tests with literal kernel text.
    ///
    /// # Panics
    /// Where it cannot be opened.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests only")]
    pub fn on_any_fs(path: &Path) -> Self {
        let fd = rustix::fs::open(path, Self::FLAGS, Mode::empty()).expect("a directory");
        Self { fd, path: path.into(), write_flags: OFlags::WRONLY.union(OFlags::TRUNC) }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of its path: a run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|n| n.to_str()).unwrap_or("")
    }

    /// A path that leads to this very directory while the descriptor is open, for interfaces that take paths only.
    #[must_use]
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The cgroup's identity: its inode number, which on 64-bit kernels is its id. Unlike the path it is never
    /// another cgroup's in one boot.
    ///
    /// # Errors
    /// Where fstat(2) fails.
    pub fn id(&self) -> Result<u64, DirError> {
        Ok(rustix::fs::fstat(&self.fd).map_err(|e| io_error("stat", &self.path, e))?.st_ino)
    }

    /// Opens the cgroup `below` this one (`web.slice/web-1.3`). Never leaves this directory, never follows a link,
    /// never crosses a mount.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open_below(&self, below: &str) -> Result<Self, DirError> {
        let path = self.path.join(below);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = rustix::fs::openat2(&self.fd, below, Self::FLAGS, Mode::empty(), resolve)
            .map_err(|e| io_error("open", &path, e))?;
        Ok(Self { fd, path: path.into(), write_flags: self.write_flags })
    }

    /// The same directory, opened anew.
    pub(crate) fn reopen(&self) -> Result<Self, DirError> {
        let fd = rustix::fs::openat(&self.fd, ".", Self::FLAGS, Mode::empty())
            .map_err(|e| io_error("open", &self.path, e))?;
        Ok(Self { fd, path: self.path.clone(), write_flags: self.write_flags })
    }

    /// The directory above. cgroup2 has no rename(2), so it is the one this was made in.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(crate) fn above(&self) -> Result<Self, DirError> {
        let path = self.path.parent().unwrap_or(&self.path);
        let fd =
            rustix::fs::openat(&self.fd, "..", Self::FLAGS, Mode::empty()).map_err(|e| io_error("open", path, e))?;
        Ok(Self { fd, path: path.into(), write_flags: self.write_flags })
    }

    /// Makes the cgroup `name` and opens it.
    ///
    /// # Errors
    /// [`DirError::Exists`] where there is one already: a run never starts in a directory that may have seen a kill.
    pub fn create(&self, name: &str) -> Result<Self, DirError> {
        let path = self.path.join(name);
        self.single(name, "make")?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)).map_err(|e| match e {
            Errno::EXIST => DirError::Exists { path: path.clone() },
            Errno::AGAIN => DirError::TooMany { path: path.clone() },
            e => io_error("make", &path, e),
        })?;
        self.open_below(name)
    }

    /// Opens the cgroup `name`, making it where it is missing.
    ///
    /// # Errors
    /// Where it can be neither made nor opened.
    pub fn create_or_open(&self, name: &str) -> Result<Self, DirError> {
        match self.create(name) {
            Err(DirError::Exists { .. }) => self.open_below(name),
            other => other,
        }
    }

    /// rmdir(2) of the child `name`, which must have neither processes nor children.
    ///
    /// # Errors
    /// `EBUSY` where it has.
    pub fn remove_child(&self, name: &str) -> Result<(), DirError> {
        self.single(name, "remove")?;
        rustix::fs::unlinkat(&self.fd, name, rustix::fs::AtFlags::REMOVEDIR)
            .map_err(|e| io_error("remove", &self.path.join(name), e))
    }

    /// Writes `value` to `file` in one write(2), which is how the kernel wants it.
    ///
    /// # Errors
    /// The kernel's reason, with the file's path.
    pub fn write(&self, file: &str, value: &str) -> Result<(), DirError> {
        let fd = self.open_file(file, "write", self.write_flags)?;
        let n = rustix::io::write(&fd, value.as_bytes()).map_err(|e| self.file_error("write", file, e))?;
        if n == value.len() { Ok(()) } else { Err(self.file_error("write all of", file, Errno::IO)) }
    }

    /// Reads `file` whole.
    ///
    /// # Errors
    /// The kernel's reason, with the file's path.
    pub fn read(&self, file: &str) -> Result<String, DirError> {
        use io::Read;
        let fd = self.open_file(file, "read", OFlags::RDONLY)?;
        let mut text = String::new();
        match std::fs::File::from(fd).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(source) => Err(DirError::Io { action: "read", path: self.path.join(file), source }),
        }
    }

    /// Reads a short file (one that fits `buf`) with one read(2) and no allocation.
    ///
    /// # Errors
    /// The kernel's reason; `EFBIG` where it fills the buffer.
    pub fn read_into<'b>(&self, file: &str, buf: &'b mut [u8]) -> Result<&'b str, DirError> {
        let fd = self.open_file(file, "read", OFlags::RDONLY)?;
        let n = rustix::io::read(&fd, &mut *buf).map_err(|e| self.file_error("read", file, e))?;
        if n == buf.len() {
            return Err(self.file_error("read all of", file, Errno::FBIG));
        }
        std::str::from_utf8(&buf[..n]).map_err(|_| self.file_error("read", file, Errno::ILSEQ))
    }

    /// As [`read_into`](Self::read_into), `None` where the file is not there (its controller is not enabled, or the
    /// kernel is older than it).
    ///
    /// # Errors
    /// As there; `ENODEV` where the whole cgroup is gone.
    pub fn read_if_there<'b>(&self, file: &str, buf: &'b mut [u8]) -> Result<Option<&'b str>, DirError> {
        match self.read_into(file, buf) {
            Ok(text) => Ok(Some(text)),
            // EOPNOTSUPP is what the *.pressure files say on a host booted with psi=0.
            Err(e) if e.is(&[Errno::NOENT, Errno::OPNOTSUPP]) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether `file` is there.
    #[must_use]
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::accessat(&self.fd, file, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
    }

    /// Whether a process lives in this cgroup or below it: `populated` of `cgroup.events`. A zombie does not count.
    ///
    /// # Errors
    /// `ENODEV` or `ENOENT` where the cgroup is gone.
    pub fn populated(&self) -> Result<bool, DirError> {
        self.event("populated")
    }

    /// Whether every process of it is frozen: `frozen` of `cgroup.events`.
    ///
    /// # Errors
    /// `ENODEV` or `ENOENT` where the cgroup is gone.
    pub fn frozen(&self) -> Result<bool, DirError> {
        self.event("frozen")
    }

    fn event(&self, key: &str) -> Result<bool, DirError> {
        let mut buf = [0; 256];
        let text = self.read_into("cgroup.events", &mut buf)?;
        match flat(text).find(|(k, _)| *k == key) {
            Some((_, value)) => Ok(value != 0),
            None => Err(DirError::Format { path: self.path.join("cgroup.events"), text: text.to_owned() }),
        }
    }

    /// A descriptor of `cgroup.events` for poll(2): `POLLPRI` says that it has changed since it was opened or last
    /// read. For a caller with one cgroup and no inotify; look at [`populated`](Self::populated) after opening it.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn open_events(&self) -> Result<OwnedFd, DirError> {
        self.open_file("cgroup.events", "read", OFlags::RDONLY)
    }

    /// Opens the pressure file `file` and sets a trigger in it (Linux Documentation/accounting/psi.rst), which lives as long as
    /// the descriptor. `POLLPRI` says that it fired; asking takes that back, so the descriptor must be polled directly.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn open_trigger(&self, file: &str, text: &str) -> Result<OwnedFd, DirError> {
        let fd = self.open_file(file, "set a trigger in", OFlags::RDWR | OFlags::NONBLOCK)?;
        rustix::io::write(&fd, text.as_bytes()).map_err(|e| self.file_error("set a trigger in", file, e))?;
        Ok(fd)
    }

    /// The processes directly in it. 0 stands for one in another pid namespace.
    ///
    /// # Errors
    /// Where `cgroup.procs` cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>, DirError> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|l| l.trim().parse().ok()).collect())
    }

    /// The names of the cgroups directly below.
    ///
    /// # Errors
    /// Where the directory cannot be listed.
    pub fn children(&self) -> Result<Vec<String>, DirError> {
        let failed = |e| io_error("list", &self.path, e);
        let mut names = Vec::new();
        // A fresh descriptor: the kernel keeps the position of a listing in the open file.
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if entry.file_type() == rustix::fs::FileType::Directory
                && let Ok(name) = name.into_string()
                && name != "."
                && name != ".."
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Takes the directory's flock(2) without waiting. Held until this `Dir` and every inherited copy of its
    /// descriptor is closed. `false` where another process has it.
    ///
    /// # Errors
    /// Where the kernel refuses for another reason.
    pub fn lock(&self) -> Result<bool, DirError> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(io_error("lock", &self.path, e)),
        }
    }

    /// A second descriptor of the same directory, for a launch request or a child.
    ///
    /// # Errors
    /// Where descriptors have run out.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, DirError> {
        self.fd.try_clone().map_err(|source| DirError::Io {
            action: "duplicate",
            path: self.path.to_path_buf(),
            source,
        })
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// Where descriptors have run out.
    pub fn try_clone(&self) -> Result<Self, DirError> {
        Ok(Self { fd: self.try_clone_fd()?, path: self.path.clone(), write_flags: self.write_flags })
    }

    /// Whether the processes of the calling user may write `file` (`""`: the directory itself).
    #[must_use]
    pub fn writable(&self, file: &str) -> bool {
        let path = if file.is_empty() { "." } else { file };
        rustix::fs::accessat(&self.fd, path, rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).is_ok()
    }

    fn open_file(&self, file: &str, action: &'static str, flags: OFlags) -> Result<OwnedFd, DirError> {
        self.single(file, action)?;
        rustix::fs::openat(&self.fd, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|e| self.file_error(action, file, e))
    }

    /// One plain name cannot lead out of the directory, so it needs no openat2(2).
    fn single(&self, name: &str, action: &'static str) -> Result<(), DirError> {
        let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        if plain { Ok(()) } else { Err(self.file_error(action, name, Errno::INVAL)) }
    }

    fn file_error(&self, action: &'static str, file: &str, e: Errno) -> DirError {
        io_error(action, &self.path.join(file), e)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The pairs of a flat keyed file (`memory.events`); lines that are not of that form are left out, because newer
/// kernels may add some.
pub(super) fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::model::Stage;

    fn fixture() -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    #[test]
    fn a_directory_of_another_file_system_is_no_cgroup() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(matches!(Dir::open(tmp.path()), Err(DirError::NotCgroup2 { .. })));
    }

    #[test]
    fn an_error_names_the_file_and_the_reason() {
        let (tmp, dir) = fixture();
        let err = dir.read("memory.max").unwrap_err();
        assert_eq!(err.to_string(), format!("cannot read {}/memory.max", tmp.path().display()));
        assert_eq!(err.source().unwrap().to_string(), "No such file or directory (os error 2)");
        assert!(err.is_absent());
    }

    #[test]
    fn a_name_that_leads_out_is_refused() {
        let (tmp, dir) = fixture();
        let inner = dir.create("inner").unwrap();
        std::fs::write(tmp.path().join("secret"), "1").unwrap();
        for out in ["../secret", "..", "", ".", "/etc/passwd"] {
            assert_eq!(inner.read(out).unwrap_err().errno(), nix::libc::EINVAL, "{out}");
        }
        assert!(inner.open_below("..").is_err());
        std::os::unix::fs::symlink("/", tmp.path().join("inner/link")).unwrap();
        assert!(inner.open_below("link").is_err());
        assert_eq!(dir.open_below("inner").unwrap().id().unwrap(), inner.id().unwrap());
    }

    #[test]
    fn a_run_never_gets_a_directory_that_was_there_before() {
        let (_tmp, dir) = fixture();
        dir.create("web.1").unwrap();
        let err = dir.create("web.1").unwrap_err();
        assert!(matches!(err, DirError::Exists { .. }));
        let start = err.at(Stage::Cgroup).to_string();
        assert!(start.starts_with("cgroup: /") && start.contains("web.1 exists already"), "{start}");
        assert_eq!(dir.children().unwrap(), ["web.1"]);
    }

    #[test]
    fn a_write_replaces_what_was_there() {
        let (tmp, dir) = fixture();
        std::fs::write(tmp.path().join("pids.max"), "max\n").unwrap();
        dir.write("pids.max", "7").unwrap();
        assert_eq!(dir.read("pids.max").unwrap(), "7");
        assert!(dir.write("absent", "7").unwrap_err().is_absent(), "a missing file is not made");
    }

    #[test]
    fn a_short_read_never_truncates() {
        let (tmp, dir) = fixture();
        std::fs::write(tmp.path().join("f"), "12345678").unwrap();
        assert_eq!(dir.read_into("f", &mut [0; 9]).unwrap(), "12345678");
        assert_eq!(dir.read_into("f", &mut [0; 8]).unwrap_err().errno(), nix::libc::EFBIG);
        assert_eq!(dir.read_if_there("g", &mut [0; 8]).unwrap(), None);
    }

    #[test]
    fn populated_and_frozen_are_told_apart() {
        let (tmp, dir) = fixture();
        std::fs::write(tmp.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(dir.populated().unwrap());
        assert!(!dir.frozen().unwrap());
        std::fs::write(tmp.path().join("cgroup.events"), "populated 0\nfrozen 1\n").unwrap();
        assert!(!dir.populated().unwrap());
        assert!(dir.frozen().unwrap());
        std::fs::write(tmp.path().join("cgroup.events"), "something 1\n").unwrap();
        assert!(matches!(dir.populated(), Err(DirError::Format { .. })));
    }

    #[test]
    fn processes_are_listed_however_many() {
        let (tmp, dir) = fixture();
        let pids: Vec<i32> = (1..3000).collect();
        let text = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        std::fs::write(tmp.path().join("cgroup.procs"), text).unwrap();
        assert_eq!(dir.processes().unwrap(), pids);
    }

    #[test]
    fn a_lock_excludes_a_second_opener_until_it_is_closed() {
        let (tmp, dir) = fixture();
        assert!(dir.lock().unwrap());
        let second = Dir::on_any_fs(tmp.path());
        assert!(!second.lock().unwrap());
        drop(dir);
        assert!(second.lock().unwrap());
    }
}
