//! A file of JSON lines, which is put aside when it has grown.
//!
//! - The file is made with mode 0600, is never opened through a symbolic link in its last component, and must be a plain
//!   file of ours. One that was removed or renamed (logrotate) is made again with the next event.
//! - A line is whole or not there: what a full disk took of a batch is cut off again, and what an earlier end left
//!   without its newline is closed before the next line.
//! - `PATH.1` is the newest of the files put aside. A file is never put aside in the middle of a line.
//! - Taken is what write(2) has taken. It is not synced: after a power failure the last seconds may be missing.
//!
//! Disks block, network file systems for minutes: everything here runs on a thread for blocking work.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use nix::libc;
use rustix::fs::Access;

use super::{HistorySink, Record, WriteError, Written, look};
use crate::spec::types::JsonlSink as Settings;

/// Only the owner reads: events have command lines of operators and texts of workers in them.
const MODE: u32 = 0o600;

/// The sink.
#[derive(Debug)]
pub struct JsonlSink {
    settings: Arc<Settings>,
    file: Option<File>,
}

impl JsonlSink {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), file: None }
    }
}

impl HistorySink for JsonlSink {
    fn name(&self) -> String {
        self.settings.name()
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), WriteError>> {
        let settings = Arc::clone(&self.settings);
        Box::pin(look(move || check(&settings.path)))
    }

    fn write<'a>(&'a mut self, batch: &'a [Arc<Record>]) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(async move {
            let (settings, batch) = (Arc::clone(&self.settings), batch.to_vec());
            let mut file = self.file.take();
            let append = move || {
                let written = append(&settings, &mut file, &batch);
                (file, written)
            };
            match tokio::task::spawn_blocking(append).await {
                Ok((file, written)) => {
                    self.file = file;
                    written
                }
                Err(error) => Err(WriteError::because("the thread that writes has ended", error)),
            }
        })
    }
}

fn append(settings: &Settings, file: &mut Option<File>, batch: &[Arc<Record>]) -> Result<Written, WriteError> {
    let mut taken = 0;
    while taken < batch.len() {
        match append_some(settings, file, &batch[taken..]) {
            Ok(more) => taken += more,
            Err(trouble) => {
                // Whatever it was: the next try begins with a look at what is there.
                *file = None;
                if taken == 0 {
                    return Err(trouble);
                }
                return Ok(Written::Part { again: (taken..batch.len()).collect(), rejected: Vec::new(), trouble });
            }
        }
    }
    Ok(Written::All)
}

/// Appends as much as the file has room for; 0 where it has been put aside for being full.
fn append_some(settings: &Settings, held: &mut Option<File>, batch: &[Arc<Record>]) -> Result<usize, WriteError> {
    let path = &settings.path;
    let failed =
        |doing: &str, error: io::Error| WriteError::because(format!("cannot {doing} {}", path.display()), error);
    let mut file = match held.take() {
        Some(file) if still_there(path, &file) => file,
        _ => open(path)?,
    };
    let before = file.metadata().map_err(|e| failed("look at", e))?.len();
    let mut text = Vec::new();
    let mut lines = 0;
    for record in batch {
        let after = before + (text.len() + record.json().len() + 1) as u64;
        if after > settings.max_size && before + text.len() as u64 > 0 {
            break;
        }
        text.extend_from_slice(record.json());
        text.push(b'\n');
        lines += 1;
    }
    if lines == 0 {
        drop(file);
        put_aside(path, settings.keep)?;
        return Ok(0);
    }
    if let Err(error) = file.write_all(&text) {
        if let Err(error) = file.set_len(before) {
            // The next line begins on a line of its own: `open` sees to it.
            tracing::debug!(path = %path.display(), %error, "a line that is not whole stays");
        }
        return Err(failed("write to", error));
    }
    *held = Some(file);
    Ok(lines)
}

fn still_there(path: &Path, file: &File) -> bool {
    let named = fs::symlink_metadata(path);
    let ours = file.metadata();
    matches!((named, ours), (Ok(named), Ok(ours)) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()))
}

/// That the file is one that could be appended to, or could be made. Makes none.
fn check(path: &Path) -> Result<(), WriteError> {
    match open_plain(path, false) {
        Err(error) if is_absent(&error) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let there = fs::metadata(dir)
                .and_then(|dir| if dir.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) });
            let may = there.and_then(|()| Ok(rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)?));
            may.map_err(|error| WriteError::because(format!("cannot make a file in {}", dir.display()), error))
        }
        other => other.map(drop),
    }
}

fn is_absent(error: &WriteError) -> bool {
    let cause = error.source.as_ref().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
}

fn open(path: &Path) -> Result<File, WriteError> {
    let failed =
        |doing: &str, error: io::Error| WriteError::because(format!("cannot {doing} {}", path.display()), error);
    let mut file = open_plain(path, true)?;
    if file.metadata().map_err(|e| failed("look at", e))?.len() > 0 {
        let mut last = [0];
        let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last));
        read.map_err(|e| failed("read the end of", e))?;
        if last != *b"\n" {
            file.write_all(b"\n").map_err(|e| failed("write to", e))?;
        }
    }
    Ok(file)
}

/// A plain file of ours, made where it is not there and that is asked for.
fn open_plain(path: &Path, create: bool) -> Result<File, WriteError> {
    let failed =
        |doing: &str, error: io::Error| WriteError::because(format!("cannot {doing} {}", path.display()), error);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(create)
        .mode(MODE)
        // A pipe that bears the name must not make us wait for its reader.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => WriteError::new(format!("{} is a symbolic link, and none is followed", path.display())),
        _ => failed("open", error),
    })?;
    let found = file.metadata().map_err(|e| failed("look at", e))?;
    if !found.is_file() {
        return Err(WriteError::new(format!("{} is no file", path.display())));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        let owner = found.uid();
        return Err(WriteError::new(format!("{} belongs to user {owner}, not to ours ({own})", path.display())));
    }
    Ok(file)
}

/// `PATH` to `PATH.1`, what is there to the next number, and what is beyond `keep` away.
fn put_aside(path: &Path, keep: u32) -> Result<(), WriteError> {
    let failed = |error| WriteError::because(format!("cannot put {} aside", path.display()), error);
    let absent = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(failed(error)) };
    if keep == 0 {
        return fs::remove_file(path).or_else(absent);
    }
    for number in (1..keep).rev() {
        fs::rename(numbered(path, number), numbered(path, number + 1)).or_else(absent)?;
    }
    fs::rename(path, numbered(path, 1)).or_else(absent)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::history::Scribe;
    use crate::history::record::tests::event;

    struct Place {
        dir: tempfile::TempDir,
        scribe: Scribe,
        seq: u64,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), scribe: Scribe::new("e"), seq: 0 }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn sink(&self, max_size: u64, keep: u32) -> JsonlSink {
            JsonlSink::new(Settings { path: self.path("events"), max_size, keep })
        }

        fn records(&mut self, n: u64) -> Vec<Arc<Record>> {
            let from = self.seq + 1;
            self.seq += n;
            (from..from + n).map(|seq| self.scribe.write(event(seq, "x"))).collect()
        }

        /// The numbers of the events in a file, whose lines are all whole.
        fn seqs(&self, name: &str) -> Vec<u64> {
            let text = fs::read_to_string(self.path(name)).unwrap();
            assert!(text.ends_with('\n'), "{text}");
            let seq = |line: &str| serde_json::from_str::<crate::model::Event>(line).unwrap().seq;
            text.lines().map(seq).collect()
        }
    }

    #[tokio::test]
    async fn events_are_appended_to_a_file_that_only_its_owner_reads() {
        let mut place = Place::new();
        let mut sink = place.sink(1 << 20, 5);
        for n in [2, 1] {
            let batch = place.records(n);
            assert!(matches!(sink.write(&batch).await, Ok(Written::All)));
        }
        assert_eq!(place.seqs("events"), [1, 2, 3]);
        assert_eq!(fs::metadata(place.path("events")).unwrap().permissions().mode() & 0o7777, 0o600);
        let batch = place.records(1);
        assert!(matches!(place.sink(1 << 20, 5).write(&batch).await, Ok(Written::All)));
        assert_eq!(place.seqs("events"), [1, 2, 3, 4], "another start goes on with it");
    }

    #[tokio::test]
    async fn a_full_file_is_put_aside_between_two_lines_and_the_oldest_goes() {
        let mut place = Place::new();
        let one = place.records(1)[0].json().len() as u64 + 1;
        place.seq = 0;
        let mut sink = place.sink(2 * one, 2);
        let batch = place.records(7);
        assert!(matches!(sink.write(&batch).await, Ok(Written::All)));
        assert_eq!(place.seqs("events"), [7]);
        assert_eq!(place.seqs("events.1"), [5, 6]);
        assert_eq!(place.seqs("events.2"), [3, 4]);
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 3, "1 and 2 are gone");
        assert_eq!(fs::metadata(place.path("events")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[tokio::test]
    async fn an_event_that_is_larger_than_a_file_may_be_has_one_of_its_own() {
        let mut place = Place::new();
        let mut sink = place.sink(1, 9);
        let batch = place.records(3);
        assert!(matches!(sink.write(&batch).await, Ok(Written::All)));
        assert_eq!((place.seqs("events"), place.seqs("events.1"), place.seqs("events.2")), (vec![3], vec![2], vec![1]));
    }

    #[tokio::test]
    async fn where_nothing_is_kept_a_full_file_goes() {
        let mut place = Place::new();
        let mut sink = place.sink(1, 0);
        let batch = place.records(3);
        assert!(matches!(sink.write(&batch).await, Ok(Written::All)));
        assert_eq!(place.seqs("events"), [3]);
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_was_taken_away_is_made_again() {
        let mut place = Place::new();
        let mut sink = place.sink(1 << 20, 5);
        let (first, second, third) = (place.records(1), place.records(1), place.records(1));
        sink.write(&first).await.unwrap();
        fs::rename(place.path("events"), place.path("elsewhere")).unwrap();
        sink.write(&second).await.unwrap();
        fs::remove_file(place.path("events")).unwrap();
        sink.write(&third).await.unwrap();
        assert_eq!((place.seqs("elsewhere"), place.seqs("events")), (vec![1], vec![3]));
    }

    #[tokio::test]
    async fn what_is_no_file_of_ours_is_refused_and_left_alone() {
        let mut place = Place::new();
        let batch = place.records(1);
        let refused = async |place: &Place| {
            let error = place.sink(1 << 20, 5).write(&batch).await.unwrap_err();
            crate::model::chain(&error)
        };
        fs::write(place.path("precious"), "precious").unwrap();
        symlink(place.path("precious"), place.path("events")).unwrap();
        assert!(refused(&place).await.ends_with("is a symbolic link, and none is followed"));
        assert_eq!(fs::read(place.path("precious")).unwrap(), b"precious");
        fs::remove_file(place.path("events")).unwrap();
        nix::unistd::mkfifo(&place.path("events"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused(&place).await.ends_with("is no file"));
        fs::remove_file(place.path("events")).unwrap();
        fs::create_dir(place.path("events")).unwrap();
        assert!(refused(&place).await.ends_with("Is a directory"));
        fs::remove_dir(place.path("events")).unwrap();
        fs::remove_file(place.path("precious")).unwrap();
        fs::remove_dir(place.dir.path()).unwrap();
        assert!(refused(&place).await.ends_with("events: No such file or directory"));
    }

    #[tokio::test]
    async fn a_line_that_an_earlier_end_left_half_written_is_closed() {
        let mut place = Place::new();
        fs::write(place.path("events"), "{\"half\":").unwrap();
        let batch = place.records(1);
        place.sink(1 << 20, 5).write(&batch).await.unwrap();
        let text = fs::read_to_string(place.path("events")).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("{\"half\":\n{\"v\":1,"), "{text}");
    }

    #[tokio::test]
    async fn whether_a_file_can_be_written_is_known_without_making_it() {
        let place = Place::new();
        let check = async |path: PathBuf| {
            let mut sink = JsonlSink::new(Settings { path, max_size: 1 << 20, keep: 1 });
            sink.check().await.map_err(|error| crate::model::chain(&error))
        };
        assert_eq!(check(place.path("new")).await, Ok(()));
        assert!(!place.path("new").exists(), "to look makes nothing");
        fs::write(place.path("there"), "a line without its end").unwrap();
        assert_eq!(check(place.path("there")).await, Ok(()));
        assert_eq!(fs::read_to_string(place.path("there")).unwrap(), "a line without its end");
        symlink("there", place.path("link")).unwrap();
        for (path, why) in [
            ("link", "symbolic link"),
            ("none/events", "cannot make a file in"),
            ("there/events", "cannot open"),
            ("", "cannot open"),
        ] {
            let refused = check(place.path(path)).await.unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }
}
