//! The place remembered in the state directory and locked, so that no two supervisors ever share a tree, and no
//! second tree grows while the first one lives.
//!
//! `lock` holds a flock(2) for as long as a keeper or supervisor lives: the descriptor is handed to them, and not to the
//! logger, which may outlive both. `root.json` says which cgroup it was, by id and boot, because a path can come to
//! name another.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::kernel::cgroup::{Dir, DirError};
use crate::kernel::pidfd;

const LOCK: &str = "lock";
const ROOT: &str = "root.json";

/// How long a supervisor may take to end once it has lost its keeper: less than a person's patience.
const ENDING: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(5);

/// Why the place cannot be ours now.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The state directory is in use.
    #[error("{path} is in use by another pinfold{}; stop that one, or choose another --state-dir", pid(*.holder))]
    Held {
        /// The state directory.
        path: PathBuf,
        /// Its pid, as it wrote it.
        holder: Option<i32>,
    },
    /// The cgroup is in use, by a supervisor with another state directory.
    #[error("the cgroup {path} is in use by another pinfold; stop it, or choose another --cgroup-root")]
    RootHeld {
        /// ROOT.
        path: PathBuf,
    },
    /// The state directory is none for us.
    #[error("{path} cannot be the state directory; {fix}, or name another with --state-dir")]
    Unfit {
        /// The state directory.
        path: PathBuf,
        /// What would make it one.
        fix: String,
        /// Why it is none.
        #[source]
        source: io::Error,
    },
    /// The tree of this state directory is elsewhere and not empty.
    #[error(
        "workers of this state directory still live in {recorded}; start without --cgroup-root (or with \
         --cgroup-root {recorded}) to take them over, or end them first"
    )]
    Elsewhere {
        /// Where they live.
        recorded: PathBuf,
    },
    /// A file of the state directory.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record that somebody has edited.
    #[error("{path} is not understood; remove it once no worker of this state directory lives")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// ROOT itself.
    #[error(transparent)]
    Dir(#[from] DirError),
}

fn pid(holder: Option<i32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Why nothing can be kept in `dir`, with what to do about it; `source` is the kernel's word.
fn unfit(dir: &Path, action: &'static str, file: &Path, source: io::Error) -> RecordError {
    use std::os::unix::fs::MetadataExt;
    let ours = rustix::process::geteuid().as_raw();
    let owner = dir.metadata().map(|meta| meta.uid()).ok().filter(|owner| *owner != ours);
    let fix = match (source.raw_os_error(), owner) {
        (Some(libc::EEXIST | libc::ENOTDIR), _) => "move the file that is in its place away".to_owned(),
        (Some(libc::EACCES | libc::EPERM), Some(owner)) => {
            format!("it belongs to user {owner}: start as that user, or give it to user {ours} (chown -R)")
        }
        (Some(libc::EACCES | libc::EPERM), None) => format!("have user {ours} allowed to make it and to write there"),
        (Some(libc::EROFS), _) => "mount its file system writable".to_owned(),
        (Some(libc::ENOSPC | libc::EDQUOT), _) => "make room on its file system".to_owned(),
        _ => return RecordError::Io { action, path: file.to_owned(), source },
    };
    RecordError::Unfit { path: dir.to_owned(), fix, source }
}

/// The state directory is ours while this, or a descriptor from [`Lock::share`], is open.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of `state_dir`, which is made (0700) where it is missing. Waits only for a supervisor whose keeper is dead:
    /// it is about to end.
    ///
    /// # Errors
    /// [`RecordError::Held`] with the holder's pid.
    pub fn take(state_dir: &Path) -> Result<Self, RecordError> {
        Self::take_after(state_dir, soon)
    }

    /// `pause` is between two tries.
    fn take_after(state_dir: &Path, mut pause: impl FnMut()) -> Result<Self, RecordError> {
        let patience = clock::monotonic() + ENDING;
        loop {
            match Self::try_take(state_dir) {
                // A killed keeper stays a zombie while whoever has started it does not look.
                Err(RecordError::Held { holder: Some(pid), .. })
                    if pidfd::is_dying(pid) && clock::monotonic() < patience =>
                {
                    pause();
                }
                other => return other,
            }
        }
    }

    fn try_take(state_dir: &Path) -> Result<Self, RecordError> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let path = state_dir.join(LOCK);
        let failed = |action, file: &Path| {
            let file = file.to_owned();
            move |source| unfit(state_dir, action, &file, source)
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(state_dir).map_err(failed("make", state_dir))?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed("read", &path))?;
                return Err(RecordError::Held { path: state_dir.to_owned(), holder: text.trim().parse().ok() });
            }
            Err(e) => return Err(failed("lock", &path)(e.into())),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(failed("write", &path))?;
        Ok(Self { file })
    }

    /// Takes over a descriptor that [`share`](Self::share) gave to our parent's child: us.
    #[must_use]
    pub fn inherited(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }

    /// A descriptor of the same lock that survives exec(2), for a child that must hold it as well.
    ///
    /// # Errors
    /// Where descriptors have run out.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::dup(&self.file)?)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The place of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// ROOT.
    pub path: PathBuf,
    /// [`Dir::id`] of it.
    pub cgroup_id: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The scope's unit, where it is one.
    pub unit: Option<String>,
    /// Whether we made the directory, and so remove it at the end.
    pub made: bool,
}

impl Recorded {
    /// Reads the record of `state_dir`; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be read or is not understood.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = state_dir.join(ROOT);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Io { action: "read", path, source }),
        };
        serde_json::from_str(&text).map(Some).map_err(|source| RecordError::Format { path, source })
    }

    /// Writes the record of `state_dir`: after a power loss it is the old one or the new one, whole.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn store(&self, state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(ROOT);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(state_dir)?.sync_all()
        };
        write().map_err(|source| RecordError::Io { action: "write", path: path.clone(), source })
    }

    /// Forgets the place, at the end of an orderly stop.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn erase(state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(ROOT);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Io { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The cgroup that was recorded, if it is still that one: the same boot, the same id.
    ///
    /// # Errors
    /// Where it is there and cannot be looked at.
    pub fn still_there(&self, boot_id: &str) -> Result<Option<Dir>, RecordError> {
        if self.boot_id != boot_id {
            return Ok(None);
        }
        match Dir::open(&self.path) {
            Ok(dir) => Ok((dir.id()? == self.cgroup_id).then_some(dir)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Refuses `chosen` while what was recorded is another cgroup with life in it.
    ///
    /// # Errors
    /// [`RecordError::Elsewhere`].
    pub fn allows(&self, chosen: &Path, boot_id: &str) -> Result<(), RecordError> {
        match self.still_there(boot_id)? {
            Some(dir) if self.path != chosen && dir.populated()? => {
                Err(RecordError::Elsewhere { recorded: self.path.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Locks ROOT itself, against a supervisor with another state directory. Held while `root` is open.
///
/// # Errors
/// [`RecordError::RootHeld`].
pub fn lock_root(root: &Dir) -> Result<(), RecordError> {
    if once_let_go(|| root.lock())? { Ok(()) } else { Err(RecordError::RootHeld { path: root.path().to_owned() }) }
}

/// Tries to get what another may be letting go of: whoever has let go of the state directory lets go of the rest next.
///
/// # Errors
/// Those of `attempt`.
pub fn once_let_go<E>(mut attempt: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let patience = clock::monotonic() + ENDING;
    while !attempt()? {
        if clock::monotonic() >= patience {
            return Ok(false);
        }
        soon();
    }
    Ok(true)
}

#[expect(clippy::disallowed_methods, reason = "flock(2) cannot be waited for with a deadline")]
fn soon() {
    std::thread::sleep(AGAIN);
}

/// This boot's id.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Recorded {
        Recorded {
            path: "/sys/fs/cgroup/pinfold".into(),
            cgroup_id: 4711,
            boot_id: "this".into(),
            unit: Some("pinfold.scope".into()),
            made: true,
        }
    }

    /// A child that another test is forking has our descriptors too, until it executes its program, and what is to
    /// survive exec until it ends.
    fn until_free(dir: &Path) -> Lock {
        let patience = crate::clock::monotonic() + std::time::Duration::from_secs(60);
        loop {
            match Lock::take(dir) {
                Err(RecordError::Held { .. }) if crate::clock::monotonic() < patience => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn a_second_supervisor_is_refused_and_told_who_holds_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("new/state");
        let lock = Lock::take(&dir).unwrap();
        let err = Lock::take(&dir).unwrap_err();
        let expected = format!(
            "{} is in use by another pinfold (pid {}); stop that one, or choose another --state-dir",
            dir.display(),
            std::process::id()
        );
        assert_eq!(err.to_string(), expected);
        drop(lock);
        until_free(&dir);
    }

    #[test]
    fn a_supervisor_whose_keeper_was_killed_is_waited_for_also_while_nobody_has_reaped_the_keeper() {
        let tmp = tempfile::tempdir().unwrap();
        let mut keeper = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(keeper.id()).unwrap();
        let mut supervisor = Some(Lock::take(tmp.path()).unwrap());
        std::fs::write(tmp.path().join(LOCK), format!("{pid}\n")).unwrap();
        let alive = Lock::take_after(tmp.path(), || panic!("nobody waits for one whose keeper lives"));
        assert!(matches!(alive, Err(RecordError::Held { holder: Some(holder), .. }) if holder == pid));
        keeper.kill().unwrap();
        Lock::take_after(tmp.path(), || drop(supervisor.take())).unwrap();
        keeper.wait().unwrap();
    }

    #[test]
    fn a_directory_in_which_nothing_can_be_kept_is_told_with_what_to_do_about_it() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        for dir in [file.clone(), file.join("below")] {
            let told = crate::model::chain(&Lock::take(&dir).unwrap_err());
            let fix = "cannot be the state directory; move the file that is in its place away, or name another with --state-dir: ";
            assert!(told.starts_with(&format!("{} {fix}", dir.display())), "{told}");
        }
        let told = |dir: &Path, errno| {
            crate::model::chain(&unfit(dir, "open", &dir.join(LOCK), io::Error::from_raw_os_error(errno)))
        };
        assert!(told(tmp.path(), libc::EACCES).contains("allowed to make it and to write there"));
        assert!(told(tmp.path(), libc::EROFS).contains("mount its file system writable"));
        assert!(told(tmp.path(), libc::ENOSPC).contains("make room on its file system"));
        assert_eq!(told(Path::new("/s"), libc::EIO), "cannot open /s/lock: Input/output error");
        std::os::unix::fs::chown(&file, Some(4711), None).unwrap();
        let others = told(&file, libc::EACCES);
        assert!(others.contains("it belongs to user 4711: start as that user, or give it to user 0"), "{others}");
    }

    #[test]
    fn a_shared_lock_is_held_until_its_last_holder_ends() {
        let tmp = tempfile::tempdir().unwrap();
        let lock = Lock::take(tmp.path()).unwrap();
        let child = lock.share().unwrap();
        let flags = rustix::io::fcntl_getfd(&child).unwrap();
        assert!(!flags.contains(rustix::io::FdFlags::CLOEXEC), "it must survive exec");
        assert!(rustix::io::fcntl_getfd(&lock).unwrap().contains(rustix::io::FdFlags::CLOEXEC), "this one must not");
        drop(lock);
        assert!(matches!(Lock::take(tmp.path()), Err(RecordError::Held { .. })));
        drop(child);
        until_free(tmp.path());
    }

    #[test]
    fn a_place_is_remembered_and_forgotten() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(Recorded::load(tmp.path()).unwrap(), None);
        recorded().store(tmp.path()).unwrap();
        assert_eq!(Recorded::load(tmp.path()).unwrap(), Some(recorded()));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1, "no temporary file is left");
        Recorded::erase(tmp.path()).unwrap();
        Recorded::erase(tmp.path()).unwrap();
        assert_eq!(Recorded::load(tmp.path()).unwrap(), None);
    }

    #[test]
    fn a_broken_record_is_an_error_and_not_an_empty_one() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(ROOT), "{").unwrap();
        assert!(matches!(Recorded::load(tmp.path()), Err(RecordError::Format { .. })));
    }

    #[test]
    fn another_boot_frees_the_place_whatever_is_at_its_path() {
        let other = Recorded { path: "/".into(), ..recorded() };
        assert!(other.still_there("another").unwrap().is_none());
        other.allows(Path::new("/sys/fs/cgroup/elsewhere"), "another").unwrap();
        assert!(other.still_there("this").is_err(), "a path that is no cgroup is not silently free");
    }
}
