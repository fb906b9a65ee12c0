//! The live view of all workers' output that a foreground supervisor shows.
//!
//! One inotify instance with one watch for each worker's log directory; nothing is read while nothing is written. It
//! blocks, and what it feeds may block on a terminal that was stopped with Ctrl-S: it belongs on a thread of its own.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::WorkerId;

/// Bytes read at once: a flooding worker takes turns with the others.
const CHUNK: usize = 64 * 1024;

/// What a worker wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Who.
    pub worker: WorkerId,
    /// In which file, `RUN.stdout` or `RUN.stderr`: lines of two files are never joined.
    pub file: OsString,
    /// The bytes, as they were written.
    pub bytes: Vec<u8>,
    /// Whether the file has ended: no process holds the stream any more.
    pub last: bool,
}

/// Follows the log files of a set of workers from the moment it is made.
#[derive(Debug)]
pub struct Follower {
    inotify: Inotify,
    dirs: HashMap<WatchDescriptor, Dir>,
}

#[derive(Debug)]
struct Dir {
    worker: WorkerId,
    path: PathBuf,
    /// Files that are being written, in the order of their names.
    open: BTreeMap<OsString, File>,
    /// How long the files were that were there before us.
    shown: HashMap<OsString, u64>,
}

impl Follower {
    /// Watches `logs/ID/` of each worker; makes the directories that are missing. Bytes already in files are skipped.
    ///
    /// # Errors
    /// Where a directory cannot be made or watched.
    pub fn new<'a>(logs: &Path, workers: impl IntoIterator<Item = &'a WorkerId>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut dirs = HashMap::new();
        for worker in workers {
            let path = logs.join(worker.as_str());
            fs::create_dir_all(&path)?;
            // ATTRIB: before Linux 6.6 a splice(2) into a file is no IN_MODIFY, so the logger touches it.
            let mask = WatchMask::MODIFY | WatchMask::ATTRIB | WatchMask::CREATE | WatchMask::CLOSE_WRITE;
            let watch = inotify.watches().add(&path, mask)?;
            let mut shown = HashMap::new();
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                shown.insert(entry.file_name(), entry.metadata()?.len());
            }
            dirs.insert(watch, Dir { worker: worker.clone(), path, open: BTreeMap::new(), shown });
        }
        Ok(Self { inotify, dirs })
    }

    /// Files that a worker still writes to, as far as has been seen.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.dirs.values().map(|d| d.open.len()).sum()
    }

    /// Waits for something to be written, at most `timeout` (`None`: however long it takes), or for `wake` to become
    /// readable or closed, and returns what there is. Empty: time or wake.
    ///
    /// # Errors
    /// Where the notifications or a file cannot be read.
    pub fn next(&mut self, wake: Option<&OwnedFd>, timeout: Option<Duration>) -> io::Result<Vec<Chunk>> {
        let limit = timeout.map_or(PollTimeout::NONE, |t| PollTimeout::try_from(t).unwrap_or(PollTimeout::MAX));
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        if !fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
            return Ok(Vec::new());
        }
        let mut buffer = [0; 4096];
        let mut touched = BTreeMap::<(usize, WatchDescriptor, OsString), bool>::new();
        let mut overflow = false;
        for (at, event) in self.inotify.read_events(&mut buffer)?.enumerate() {
            overflow |= event.mask.contains(EventMask::Q_OVERFLOW);
            if let Some(name) = event.name {
                let closed = event.mask.contains(EventMask::CLOSE_WRITE);
                let known = touched.iter_mut().find(|((_, wd, n), _)| *wd == event.wd && n == name);
                match known {
                    Some((_, last)) => *last = closed,
                    None => drop(touched.insert((at, event.wd, name.to_owned()), closed)),
                }
            }
        }
        let mut chunks = Vec::new();
        for ((_, wd, name), closed) in touched {
            if let Some(dir) = self.dirs.get_mut(&wd) {
                dir.read(&name, closed, &mut chunks)?;
            }
        }
        if overflow {
            // Notifications were lost: what is open may have grown.
            for dir in self.dirs.values_mut() {
                for name in dir.open.keys().cloned().collect::<Vec<_>>() {
                    dir.read(&name, false, &mut chunks)?;
                }
            }
        }
        Ok(chunks)
    }
}

impl Dir {
    /// Reads what `name` has grown by. A file that is closed is read to its end and forgotten.
    fn read(&mut self, name: &OsStr, closed: bool, chunks: &mut Vec<Chunk>) -> io::Result<()> {
        let mut file = match self.open.remove(name) {
            Some(file) => file,
            None => match File::open(self.path.join(name)) {
                Ok(mut file) => {
                    if let Some(shown) = self.shown.remove(name) {
                        file.seek(SeekFrom::Start(shown))?;
                    }
                    file
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        if file.metadata()?.len() < file.stream_position()? {
            // Somebody truncated it by hand.
            file.seek(SeekFrom::Start(0))?;
        }
        loop {
            let mut bytes = vec![0; CHUNK];
            let n = file.read(&mut bytes)?;
            bytes.truncate(n);
            let ended = n < CHUNK;
            let last = closed && ended;
            if n > 0 || last {
                chunks.push(Chunk { worker: self.worker.clone(), file: name.to_owned(), bytes, last });
            }
            if ended {
                break;
            }
        }
        if !closed {
            self.open.insert(name.to_owned(), file);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn never_wakes() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().unwrap()
    }

    /// Everything that comes until `enough` says so.
    fn until(f: &mut Follower, wake: &OwnedFd, enough: impl Fn(&[Chunk]) -> bool) -> Vec<Chunk> {
        let mut all = Vec::new();
        while !enough(&all) {
            all.extend(f.next(Some(wake), Some(Duration::from_secs(10))).unwrap());
        }
        all
    }

    fn text(chunks: &[Chunk]) -> String {
        chunks.iter().map(|c| String::from_utf8_lossy(&c.bytes).into_owned()).collect()
    }

    #[test]
    fn new_files_are_shown_from_their_first_byte_to_their_last() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let id = WorkerId::new("w").unwrap();
        let mut follower = Follower::new(logs.path(), [&id]).unwrap();
        let mut file = File::create(logs.path().join("w/1.stdout")).unwrap();
        file.write_all(b"one\n").unwrap();
        let seen = until(&mut follower, &wake, |c| text(c) == "one\n");
        assert!(!seen.iter().any(|c| c.last), "the file is still open");
        assert_eq!(follower.open_files(), 1);
        file.write_all(b"two").unwrap();
        drop(file);
        let seen = until(&mut follower, &wake, |c| c.iter().any(|c| c.last));
        assert_eq!(text(&seen), "two");
        assert_eq!(follower.open_files(), 0);
    }

    #[test]
    fn what_was_written_before_is_not_shown_again() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let id = WorkerId::new("w").unwrap();
        fs::create_dir(logs.path().join("w")).unwrap();
        let mut file = File::create(logs.path().join("w/1.stdout")).unwrap();
        file.write_all(b"old\n").unwrap();
        let mut follower = Follower::new(logs.path(), [&id]).unwrap();
        file.write_all(b"new\n").unwrap();
        drop(file);
        let seen = until(&mut follower, &wake, |c| c.iter().any(|c| c.last));
        assert_eq!(text(&seen), "new\n");
    }

    #[test]
    fn a_wake_ends_the_wait() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, writer) = never_wakes();
        let mut follower = Follower::new(logs.path(), []).unwrap();
        nix::unistd::write(&writer, b"x").unwrap();
        assert_eq!(follower.next(Some(&wake), None).unwrap(), []);
    }
}
