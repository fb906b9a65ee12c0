//! The live view of all workers' output that a foreground supervisor shows.
//!
//! One inotify instance with one watch for each worker's log directory; nothing is read while nothing is written. It
//! blocks, and what it feeds may block on a terminal that was stopped with Ctrl-S: it belongs on a thread of its own.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::tape::{Tape, segments};
use crate::model::{Segment, WorkerId};

/// Bytes read from a file in one turn: a flooding worker takes turns with the others.
const CHUNK: usize = 64 * 1024;

/// Files that are read before what they had is returned: what was written while a terminal was stopped is on the disk,
/// and is to stay there until the terminal takes it.
const FILES: usize = 16;

/// What a worker wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Who.
    pub worker: WorkerId,
    /// In which stream, `RUN.stdout` or `RUN.stderr`: lines of two streams are never joined. However many files it has, it
    /// is called like the first.
    pub file: OsString,
    /// The bytes, as they were written.
    pub bytes: Vec<u8>,
    /// Whether the file has ended: no process holds the stream any more. A new logger may begin it again.
    pub last: bool,
}

/// Follows the log files of a set of workers from the moment it is made.
#[derive(Debug)]
pub struct Follower {
    inotify: Inotify,
    dirs: HashMap<WatchDescriptor, Dir>,
    /// Files that may have more than was read, and what is known of them.
    touched: HashMap<Key, Touch>,
    /// The same, in the order of their turns.
    turns: VecDeque<Key>,
}

/// A stream by its first file.
type Key = (WatchDescriptor, Segment);

#[derive(Debug)]
struct Dir {
    worker: WorkerId,
    path: PathBuf,
    /// Streams that are being written.
    open: BTreeMap<Segment, Tape>,
    /// How far those that nobody writes to were shown, or how far they had come before us.
    shown: HashMap<Segment, (Segment, u64)>,
}

/// The last thing that was seen to happen to a stream, and to which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Written,
    Closed(u32),
    Deleted(u32),
}

/// By what a stream is known.
const fn stream_of(segment: Segment) -> Segment {
    Segment { number: 0, ..segment }
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
            let written = WatchMask::MODIFY | WatchMask::CREATE;
            let watch = inotify.watches().add(&path, written | WatchMask::CLOSE_WRITE | WatchMask::DELETE)?;
            let mut shown = HashMap::new();
            // In their order: the last of each stream stays.
            for segment in segments(&path)? {
                match path.join(segment.to_string()).metadata() {
                    Ok(meta) => drop(shown.insert(stream_of(segment), (segment, meta.len()))),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            dirs.insert(watch, Dir { worker: worker.clone(), path, open: BTreeMap::new(), shown });
        }
        Ok(Self { inotify, dirs, touched: HashMap::new(), turns: VecDeque::new() })
    }

    /// Streams that a worker still writes to, or that have more to show, as far as has been seen.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let unopened = |(wd, stream): &&Key| self.dirs.get(wd).is_none_or(|dir| !dir.open.contains_key(stream));
        self.touched.keys().filter(unopened).count() + self.dirs.values().map(|dir| dir.open.len()).sum::<usize>()
    }

    /// Waits for something to be written, at most `timeout` (`None`: however long it takes), or for `wake` to become
    /// readable or closed, and returns a part of what there is, which can be nothing yet. `None`: time or wake.
    ///
    /// # Errors
    /// Where the notifications or a file cannot be read.
    pub fn next(&mut self, wake: Option<&OwnedFd>, timeout: Option<Duration>) -> io::Result<Option<Vec<Chunk>>> {
        let more = !self.turns.is_empty();
        let limit = match timeout {
            _ if more => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(timeout) => PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Some(Vec::new())),
            Err(errno) => return Err(errno.into()),
        }
        if fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
            let mut buffer = [0; 4096];
            let events = self.inotify.read_events(&mut buffer)?.map(|event| event.to_owned()).collect::<Vec<_>>();
            for event in events {
                self.take(event);
            }
        } else if !more {
            return Ok(None);
        }
        let mut chunks = Vec::new();
        for _ in 0..FILES.min(self.turns.len()) {
            self.read_next(&mut chunks)?;
        }
        Ok(Some(chunks))
    }

    fn take(&mut self, event: Event<OsString>) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            // Notifications were lost: what is open may have grown, or gone.
            let open = self.dirs.iter().flat_map(|(wd, dir)| {
                dir.open.iter().map(|(stream, tape)| {
                    let gone = tape.is_gone().then(|| Touch::Deleted(tape.position().0.number));
                    ((wd.clone(), *stream), gone.unwrap_or(Touch::Written))
                })
            });
            for (key, touch) in open.collect::<Vec<_>>() {
                self.touch(key, touch);
            }
        }
        // An index has another name.
        let segment = event.name.as_deref().and_then(OsStr::to_str).and_then(|name| name.parse::<Segment>().ok());
        let Some(segment) = segment else { return };
        let (key, number) = ((event.wd, stream_of(segment)), segment.number);
        let touch = if event.mask.contains(EventMask::DELETE) {
            // Of an old file, for the sake of a new one.
            let reading = self.dirs.get(&key.0).and_then(|dir| dir.open.get(&key.1));
            match reading {
                Some(tape) if tape.position().0.number <= number => Touch::Deleted(number),
                Some(_) => return,
                None => return self.forget(&key),
            }
        } else if event.mask.contains(EventMask::CLOSE_WRITE) {
            Touch::Closed(number)
        } else {
            Touch::Written
        };
        self.touch(key, touch);
    }

    /// A file that is not being read is gone. Where it is the one that was shown last, nothing more comes of its stream.
    fn forget(&mut self, key: &Key) {
        let Some(dir) = self.dirs.get_mut(&key.0) else { return };
        let gone = |(segment, _): &(Segment, u64)| !dir.path.join(segment.to_string()).exists();
        if dir.shown.get(&key.1).is_some_and(gone) {
            dir.shown.remove(&key.1);
        }
    }

    fn touch(&mut self, key: Key, touch: Touch) {
        if self.touched.insert(key.clone(), touch).is_none() {
            self.turns.push_back(key);
        }
    }

    fn read_next(&mut self, chunks: &mut Vec<Chunk>) -> io::Result<()> {
        let Some(key) = self.turns.pop_front() else { return Ok(()) };
        let Some(touch) = self.touched.remove(&key) else { return Ok(()) };
        let Some(dir) = self.dirs.get_mut(&key.0) else { return Ok(()) };
        if dir.read(key.1, touch, chunks)? {
            self.touch(key, touch);
        }
        Ok(())
    }
}

impl Dir {
    /// Reads what `stream` has grown by, at most a chunk; whether there may be more. A stream whose last file is closed is
    /// forgotten at its end, but for how far it was shown.
    fn read(&mut self, stream: Segment, touch: Touch, chunks: &mut Vec<Chunk>) -> io::Result<bool> {
        let mut tape = self.open.remove(&stream).unwrap_or_else(|| {
            let (segment, offset) = self.shown.remove(&stream).unwrap_or((stream, 0));
            Tape::new(self.path.clone(), segment, offset)
        });
        let mut bytes = vec![0; CHUNK];
        let n = tape.read(&mut bytes)?;
        bytes.truncate(n);
        let (segment, offset) = tape.position();
        let last = n == 0
            && match touch {
                Touch::Written => false,
                // The next file is begun before this one is closed.
                Touch::Closed(number) | Touch::Deleted(number) => number >= segment.number,
            };
        if n > 0 || last {
            chunks.push(Chunk { worker: self.worker.clone(), file: stream.to_string().into(), bytes, last });
        }
        if !last {
            self.open.insert(stream, tape);
        } else if matches!(touch, Touch::Closed(_)) {
            self.shown.insert(stream, (segment, offset));
        }
        Ok(n > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    fn never_wakes() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().unwrap()
    }

    /// Everything that comes until `enough` says so.
    fn until(f: &mut Follower, wake: &OwnedFd, enough: impl Fn(&[Chunk]) -> bool) -> Vec<Chunk> {
        let mut all = Vec::new();
        while !enough(&all) {
            all.extend(f.next(Some(wake), Some(Duration::from_secs(10))).unwrap().expect("nothing came"));
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
        assert_eq!(follower.next(Some(&wake), None).unwrap(), None);
    }

    #[test]
    fn a_file_that_a_new_logger_goes_on_with_is_not_shown_again() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let id = WorkerId::new("w").unwrap();
        let mut follower = Follower::new(logs.path(), [&id]).unwrap();
        let path = logs.path().join("w/1.stdout");
        fs::write(&path, "one\n").unwrap();
        let seen = until(&mut follower, &wake, |c| c.iter().any(|c| c.last));
        assert_eq!(text(&seen), "one\n");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"two\n").unwrap();
        let seen = until(&mut follower, &wake, |c| text(c).ends_with("two\n"));
        assert_eq!(text(&seen), "two\n");
    }

    #[test]
    fn what_piled_up_is_returned_in_parts_and_whole() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let id = WorkerId::new("w").unwrap();
        let mut follower = Follower::new(logs.path(), [&id]).unwrap();
        let size = 10 * CHUNK + 7;
        fs::write(logs.path().join("w/1.stdout"), vec![b'x'; size]).unwrap();
        let (mut most, mut all, mut ended) = (0, 0, false);
        while !ended {
            let chunks = follower.next(Some(&wake), Some(Duration::from_secs(10))).unwrap().expect("nothing came");
            let part: usize = chunks.iter().map(|c| c.bytes.len()).sum();
            (most, all, ended) = (most.max(part), all + part, chunks.iter().any(|c| c.last));
        }
        assert_eq!(all, size);
        assert!(most <= CHUNK, "{most} bytes at once");
    }

    #[test]
    fn a_stream_goes_on_over_its_files_as_one_and_its_end_is_that_of_the_last() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let id = WorkerId::new("w").unwrap();
        let mut follower = Follower::new(logs.path(), [&id]).unwrap();
        let dir = logs.path().join("w");
        let mut all = Vec::new();
        let mut open = None;
        for n in 0..20_u32 {
            let name = if n == 0 { "1.stdout".to_owned() } else { format!("1.stdout.{n}") };
            let mut file = File::create(dir.join(&name)).unwrap();
            fs::write(dir.join(name + ".idx"), [1; 16]).unwrap();
            // The one before is closed once the next is there, and the oldest are removed, as the logger does it.
            drop(open.take());
            if n >= 3 {
                let old = if n == 3 { "1.stdout".to_owned() } else { format!("1.stdout.{}", n - 3) };
                fs::remove_file(dir.join(old)).unwrap();
            }
            let part = vec![b'a' + u8::try_from(n).unwrap(); CHUNK + 10];
            file.write_all(&part).unwrap();
            all.extend(part);
            open = Some(file);
            if n % 2 == 1 {
                let shown =
                    until(&mut follower, &wake, |c| c.iter().map(|c| c.bytes.len()).sum::<usize>() == all.len());
                assert!(shown.iter().all(|c| !c.last && c.file == "1.stdout"));
                let bytes: Vec<u8> = shown.into_iter().flat_map(|c| c.bytes).collect();
                assert!(bytes == all, "whole and in order");
                all.clear();
            }
        }
        drop(open);
        let seen = until(&mut follower, &wake, |c| c.iter().any(|c| c.last));
        assert_eq!((seen.len(), follower.open_files()), (1, 0));
    }

    #[test]
    fn a_removed_directory_is_no_end_and_a_removed_file_is_let_go_of() {
        let logs = tempfile::tempdir().unwrap();
        let (wake, _writer) = never_wakes();
        let ids = ["a", "b"].map(|id| WorkerId::new(id).unwrap());
        let mut follower = Follower::new(logs.path(), &ids).unwrap();
        let mut file = File::create(logs.path().join("b/1.stdout")).unwrap();
        file.write_all(b"one\n").unwrap();
        until(&mut follower, &wake, |c| text(c) == "one\n");
        fs::remove_dir_all(logs.path().join("a")).unwrap();
        assert_eq!(follower.next(Some(&wake), None).unwrap(), Some(Vec::new()));
        file.write_all(b"two\n").unwrap();
        fs::remove_file(logs.path().join("b/1.stdout")).unwrap();
        let seen = until(&mut follower, &wake, |c| c.iter().any(|c| c.last));
        assert_eq!(text(&seen), "two\n");
        assert_eq!(follower.open_files(), 0);
    }
}
