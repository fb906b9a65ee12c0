//! One stream's way into its file.
//!
//! A worker never waits for a disk: what cannot be written is thrown away and counted. The file is opened with the
//! first byte, because many a stream never has one and descriptors are scarce.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

/// How much one turn takes from one pipe, so that a loud worker does not keep the others waiting: a full pipe, twice.
const TURN: usize = 128 * 1024;

/// How far a turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The pipe is empty, or had its share.
    More,
    /// All writers are gone and all bytes are where they go.
    Ended,
    /// The file cannot be opened before another is closed.
    NoDescriptors,
}

/// A pipe and its file.
#[derive(Debug)]
pub(super) struct Sink {
    pipe: OwnedFd,
    path: PathBuf,
    file: Option<File>,
    /// splice is not possible into every file system.
    copies: bool,
    dropped: u64,
    /// Why, while bytes are being dropped.
    trouble: Option<String>,
}

impl Sink {
    pub(super) fn new(pipe: OwnedFd, path: PathBuf) -> Self {
        Self { pipe, path, file: None, copies: false, dropped: 0, trouble: None }
    }

    pub(super) fn pipe(&self) -> &OwnedFd {
        &self.pipe
    }

    /// Bytes thrown away so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Closes the file until the next byte, where the process is short of descriptors.
    pub(super) fn rest(&mut self) {
        self.file = None;
    }

    /// Moves what the pipe has. The text, where there is one, is news of a trouble's beginning or end.
    /// With `patient`, a lack of descriptors is an answer; without, it costs bytes as any other trouble.
    pub(super) fn turn(&mut self, scratch: &mut [u8], patient: bool) -> (Turn, Option<String>) {
        let before = self.trouble.is_some();
        let mut moved = 0;
        let turn = loop {
            if moved >= TURN {
                break Turn::More;
            }
            match self.step(scratch, patient) {
                Ok(0) => break Turn::Ended,
                Ok(n) => moved += n,
                Err(Errno::AGAIN) => break Turn::More,
                Err(Errno::INTR) => {}
                Err(Errno::MFILE) => break Turn::NoDescriptors,
                // Reading our own pipe does not fail otherwise; then it has nothing more to give.
                Err(_) => break Turn::Ended,
            }
        };
        let news = match (&self.trouble, before) {
            (Some(why), false) => Some(format!("{}: {why}; what comes is dropped", self.path.display())),
            (None, true) => {
                Some(format!("{}: written again, {} bytes were dropped", self.path.display(), self.dropped))
            }
            _ => None,
        };
        (turn, news)
    }

    /// Moves once; 0 at the end of the pipe.
    fn step(&mut self, scratch: &mut [u8], patient: bool) -> Result<usize, Errno> {
        if self.file.is_none() {
            // Nothing is opened for a stream that ends without a byte.
            let flags = poll_now(&self.pipe)?;
            if !flags.contains(PollFlags::IN) {
                return if flags.contains(PollFlags::HUP) { Ok(0) } else { Err(Errno::AGAIN) };
            }
            match self.open() {
                Ok(file) => self.file = Some(file),
                Err(e) if patient && e.raw_os_error() == Some(libc::EMFILE) => return Err(Errno::MFILE),
                Err(e) => return self.drop_some(scratch, &e),
            }
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        if self.copies {
            return match rustix::io::read(&self.pipe, &mut *scratch)? {
                0 => Ok(0),
                n => {
                    match file.write_all(scratch.get(..n).unwrap_or_default()) {
                        Ok(()) => self.trouble = None,
                        Err(e) => self.count(n, &e),
                    }
                    Ok(n)
                }
            };
        }
        match rustix::pipe::splice(&self.pipe, None, file, None, TURN, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(n) => {
                if n > 0 {
                    self.trouble = None;
                }
                Ok(n)
            }
            Err(e @ (Errno::AGAIN | Errno::INTR)) => Err(e),
            Err(Errno::INVAL) => {
                self.copies = true;
                Err(Errno::INTR)
            }
            Err(e) => self.drop_some(scratch, &e.into()),
        }
    }

    fn drop_some(&mut self, scratch: &mut [u8], why: &io::Error) -> Result<usize, Errno> {
        let n = rustix::io::read(&self.pipe, scratch)?;
        if n > 0 {
            self.count(n, why);
        }
        Ok(n)
    }

    fn count(&mut self, bytes: usize, why: &io::Error) {
        self.dropped += bytes as u64;
        self.trouble.get_or_insert_with(|| why.to_string());
    }

    /// At its end, not with `O_APPEND`: splice refuses that. Never through a link that somebody put there.
    fn open(&self) -> io::Result<File> {
        let open = || {
            let flags = libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK;
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).custom_flags(flags).open(&self.path)
        };
        let mut file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = self.path.parent() {
                    DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
                }
                open()?
            }
            other => other?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    }
}

fn poll_now(pipe: &OwnedFd) -> Result<PollFlags, Errno> {
    let mut poll = [rustix::event::PollFd::new(pipe, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now))?;
    let [poll] = &poll;
    Ok(poll.revents())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sink(path: impl Into<PathBuf>) -> (Sink, Option<File>) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        (Sink::new(read, path.into()), Some(write.into()))
    }

    fn say(writer: Option<&File>, text: &str) {
        { writer.unwrap() }.write_all(text.as_bytes()).unwrap();
    }

    /// Turns until the end. A child that another test is forking holds the pipe's other end too, until it executes its
    /// program, so that the end may be a few turns away.
    fn to_the_end(sink: &mut Sink, scratch: &mut [u8]) -> Option<String> {
        let mut told = None;
        loop {
            let (turn, news) = sink.turn(scratch, true);
            told = told.or(news);
            if turn == Turn::Ended {
                return told;
            }
        }
    }

    #[test]
    fn bytes_are_added_to_what_was_there_and_the_end_is_told_once_all_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web/1/stdout");
        let mut scratch = [0; 64];
        for text in ["first\n", "second\n"] {
            let (mut sink, mut writer) = sink(&path);
            say(writer.as_ref(), text);
            assert_eq!(sink.turn(&mut scratch, true), (Turn::More, None));
            say(writer.as_ref(), "end\n");
            writer.take();
            assert_eq!(to_the_end(&mut sink, &mut scratch), None);
            assert_eq!(sink.dropped(), 0);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nend\nsecond\nend\n");
        let mode = |p: &std::path::Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path) & !0o640, 0);
        assert_eq!(mode(path.parent().unwrap()) & !0o750, 0);
    }

    #[test]
    fn a_stream_without_a_byte_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sink, mut writer) = sink(dir.path().join("out"));
        let mut scratch = [0; 64];
        assert_eq!(sink.turn(&mut scratch, true), (Turn::More, None));
        writer.take();
        assert_eq!(to_the_end(&mut sink, &mut scratch), None);
        assert!(!dir.path().join("out").exists());
    }

    #[test]
    fn what_cannot_be_written_is_dropped_with_a_count_and_the_worker_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let (mut sink, mut writer) = sink(dir.path().join("file/out"));
        let mut scratch = [0; 64];
        say(writer.as_ref(), &"x".repeat(60_000));
        let (turn, news) = sink.turn(&mut scratch, true);
        assert_eq!((turn, sink.dropped()), (Turn::More, 60_000));
        assert!(news.unwrap().contains("Not a directory"));
        say(writer.as_ref(), "y");
        assert_eq!(sink.turn(&mut scratch, true), (Turn::More, None), "told once");
        std::fs::remove_file(dir.path().join("file")).unwrap();
        say(writer.as_ref(), "z");
        let (_, news) = sink.turn(&mut scratch, true);
        assert!(news.unwrap().ends_with("written again, 60001 bytes were dropped"));
        writer.take();
        assert_eq!(to_the_end(&mut sink, &mut scratch), None);
        assert_eq!(std::fs::read_to_string(dir.path().join("file/out")).unwrap(), "z");
    }

    #[test]
    fn a_link_in_the_place_of_the_log_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join("out")).unwrap();
        let (mut sink, mut writer) = sink(dir.path().join("out"));
        say(writer.as_ref(), "x");
        writer.take();
        to_the_end(&mut sink, &mut [0; 64]);
        assert_eq!(sink.dropped(), 1);
        assert!(!dir.path().join("target").exists());
    }
}
