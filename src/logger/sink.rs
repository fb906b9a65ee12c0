//! One stream's way into its files.
//!
//! A worker never waits for a disk: what cannot be written is thrown away and counted. It may have to wait for its own
//! rate limit, where its configuration says so. A file is opened with the first byte, because many a stream never has
//! one and descriptors are scarce.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::bucket::Bucket;
use super::chain::Chain;
use crate::model::{LogPolicy, Mono, Overflow, size};

/// How much one turn takes from one pipe, so that a loud worker does not keep the others waiting: a full pipe, twice.
const TURN: u64 = 128 * 1024;

/// Bytes are said to be kept again once none was dropped for so long: what is at the edge of its limit, or of the disk, is one
/// piece of news and not thousands.
const QUIET: Duration = Duration::from_secs(5);

/// This moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) mono: Mono,
    /// The wall clock, nanoseconds since 1970.
    pub(super) wall_ns: u64,
}

/// How far a turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The pipe is empty, or had its share.
    More,
    /// Nothing is to be read before this moment.
    Later(Mono),
    /// All writers are gone and all bytes are where they go.
    Ended,
    /// The file cannot be opened before another is closed.
    NoDescriptors,
}

/// Bytes are dropped, or no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub(super) why: String,
    /// How many; `None` where it has only begun.
    pub(super) bytes: Option<u64>,
}

/// Bytes are being dropped.
#[derive(Debug)]
struct Trouble {
    why: String,
    bytes: u64,
    last: Mono,
    told: bool,
}

/// A pipe and its files.
#[derive(Debug)]
pub(super) struct Sink {
    pipe: OwnedFd,
    chain: Chain,
    bucket: Option<Bucket>,
    overflow: Overflow,
    /// splice is not possible into every file system.
    copies: bool,
    dropped: u64,
    trouble: Option<Trouble>,
}

/// What a step has come to, where it moved nothing.
enum Stop {
    Os(Errno),
    Later(Mono),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl Sink {
    pub(super) fn new(pipe: OwnedFd, chain: Chain, policy: LogPolicy, now: Mono) -> Self {
        let bucket = policy.rate_limit.map(|rate| Bucket::new(rate, now));
        Self { pipe, chain, bucket, overflow: policy.overflow, copies: false, dropped: 0, trouble: None }
    }

    pub(super) fn pipe(&self) -> &OwnedFd {
        &self.pipe
    }

    /// Where the bytes go, in words.
    pub(super) fn place(&self) -> String {
        self.chain.path().display().to_string()
    }

    /// Bytes thrown away so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Closes the file until the next byte, where the process is short of descriptors.
    pub(super) fn rest(&mut self) {
        self.chain.close();
    }

    /// Moves what the pipe has. With `patient`, a lack of descriptors is an answer; without, it costs bytes as any other
    /// trouble.
    pub(super) fn turn(&mut self, scratch: &mut [u8], patient: bool, now: Now) -> (Turn, Option<News>) {
        let mut moved = 0;
        let turn = loop {
            if moved >= TURN {
                break Turn::More;
            }
            match self.step(scratch, patient, now) {
                Ok(0) => break Turn::Ended,
                Ok(n) => moved += n,
                Err(Stop::Later(at)) => break Turn::Later(at),
                Err(Stop::Os(Errno::AGAIN)) => break Turn::More,
                Err(Stop::Os(Errno::INTR)) => {}
                Err(Stop::Os(Errno::MFILE)) => break Turn::NoDescriptors,
                // Reading our own pipe does not fail otherwise; then it has nothing more to give.
                Err(Stop::Os(_)) => break Turn::Ended,
            }
        };
        let news = self.news(now.mono, turn == Turn::Ended);
        (turn, news)
    }

    fn news(&mut self, now: Mono, ended: bool) -> Option<News> {
        let trouble = self.trouble.as_mut()?;
        if ended || now.since(trouble.last) >= QUIET {
            let Trouble { why, bytes, .. } = self.trouble.take()?;
            return Some(News { why, bytes: Some(bytes) });
        }
        let first = !std::mem::replace(&mut trouble.told, true);
        first.then(|| News { why: trouble.why.clone(), bytes: None })
    }

    /// Moves once; 0 at the end of the pipe.
    fn step(&mut self, scratch: &mut [u8], patient: bool, now: Now) -> Result<u64, Stop> {
        let allowed = match &mut self.bucket {
            None => u64::MAX,
            Some(bucket) => match (bucket.available(now.mono), self.overflow) {
                (0, Overflow::Block) => return Err(Stop::Later(bucket.refilled_at())),
                (0, Overflow::Drop) => {
                    let why = format!("more than its rate_limit of {}/s", size(bucket.rate()));
                    return self.drop_some(scratch, &why, now.mono);
                }
                (allowed, _) => allowed,
            },
        };
        let opens = !self.chain.is_open() || self.chain.room() == 0;
        let records = opens || self.chain.record_is_due(now.wall_ns);
        if records {
            // Nothing is opened or recorded for a stream that ends without a further byte.
            let flags = poll_now(&self.pipe)?;
            if !flags.contains(PollFlags::IN) {
                return if flags.contains(PollFlags::HUP) { Ok(0) } else { Err(Errno::AGAIN.into()) };
            }
        }
        if opens {
            match self.chain.open() {
                Ok(()) => {}
                Err(e) if patient && e.raw_os_error() == Some(libc::EMFILE) => return Err(Errno::MFILE.into()),
                Err(e) => return self.drop_some(scratch, &e.to_string(), now.mono),
            }
        }
        if records && self.chain.record_is_due(now.wall_ns) {
            // Where the disk is full, the bytes will say so.
            drop(self.chain.record(now.wall_ns));
        }
        let most = usize::try_from(allowed.min(self.chain.room().max(1)).min(TURN)).unwrap_or(usize::MAX);
        let moved = self.put(scratch, most, now)?;
        if let Some(bucket) = &mut self.bucket {
            bucket.take(moved);
        }
        Ok(moved)
    }

    /// Moves at most `most` bytes into the open file.
    fn put(&mut self, scratch: &mut [u8], most: usize, now: Now) -> Result<u64, Stop> {
        let Some(file) = self.chain.file() else { return Ok(0) };
        if self.copies {
            let most = most.min(scratch.len());
            let n = rustix::io::read(&self.pipe, scratch.get_mut(..most).unwrap_or_default())?;
            let (written, failed) = write_some(file, scratch.get(..n).unwrap_or_default());
            self.chain.grew(written as u64);
            if let Some(e) = failed {
                self.count(n - written, &e.to_string(), now.mono);
            }
            return Ok(n as u64);
        }
        match rustix::pipe::splice(&self.pipe, None, file, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(n) => {
                self.chain.grew(n as u64);
                Ok(n as u64)
            }
            Err(e @ (Errno::AGAIN | Errno::INTR)) => Err(e.into()),
            Err(Errno::INVAL) => {
                self.copies = true;
                Err(Errno::INTR.into())
            }
            Err(e) => self.drop_some(scratch, &io::Error::from(e).to_string(), now.mono),
        }
    }

    fn drop_some(&mut self, scratch: &mut [u8], why: &str, now: Mono) -> Result<u64, Stop> {
        let n = rustix::io::read(&self.pipe, scratch)?;
        if n > 0 {
            self.count(n, why, now);
        }
        Ok(n as u64)
    }

    fn count(&mut self, bytes: usize, why: &str, now: Mono) {
        let bytes = bytes as u64;
        self.dropped += bytes;
        let begun = || Trouble { why: why.to_owned(), bytes: 0, last: now, told: false };
        let trouble = self.trouble.get_or_insert_with(begun);
        trouble.bytes += bytes;
        trouble.last = now;
    }
}

/// Writes as much as can be; how much that was, and what stopped it.
fn write_some(mut file: &File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (written, Some(e)),
        }
    }
    (written, None)
}

fn poll_now(pipe: &OwnedFd) -> Result<PollFlags, Errno> {
    let mut poll = [rustix::event::PollFd::new(pipe, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now))?;
    let [poll] = &poll;
    Ok(poll.revents())
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
