//! A worker's output as lines: of all its runs or one, from a time on, the last few, and on and on as they come.
//!
//! Within a stream the order is exact and no byte is missed or told twice. Between stdout and stderr it is that of their
//! indexes: what came within the same tenth of a second may be told in either order.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::index::Index;
use super::place::Place;
use super::start::{Start, behind, start};
use super::tape::{Tape, segments};
use crate::model::{Segment, Stream};

/// Longer lines are told in parts.
pub const MAX_LINE: usize = 64 * 1024;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Which runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runs {
    /// All that are kept, the oldest first.
    #[default]
    All,
    /// This one.
    One(u32),
    /// The last one before this one that has written something.
    Before(u32),
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which streams.
    pub streams: Vec<Stream>,
    /// Which runs.
    pub runs: Runs,
    /// Only what came then or later: nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Only so many lines, the last.
    pub tail: Option<u64>,
    /// Whether to go on as more comes, and with the next run.
    pub follow: bool,
    /// Behind where to go on, of each stream and run that was being read. Of a stream that has such a place, `since_ns` and `tail`
    /// say nothing.
    pub after: Vec<Place>,
}

/// What is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// At the beginning, before anything else, for each stream: everything before has been told, or is not asked for.
    From(Place),
    /// A line, or a part of one.
    Line(Line<'a>),
    /// Files that the quota removed before they could be read.
    Missed {
        /// Of which run.
        run: u32,
        /// Of which stream.
        stream: Stream,
        /// How many.
        files: u32,
    },
    /// Nothing more is there now: what has been told should reach whoever reads.
    Pause,
}

/// A line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Who wrote it.
    pub run: u32,
    /// To where.
    pub stream: Stream,
    /// When it began to come, nanoseconds since 1970; `None` where that is not known.
    pub time_ns: Option<u64>,
    /// Whether it is a part behind another one of the same line.
    pub goes_on: bool,
    /// As it was written, with its `\n`; without one, where it is a part of a longer line or its run ended with it.
    pub bytes: &'a [u8],
    /// Where the bytes end.
    pub end: Place,
}

/// Tells what `query` asks for of the output in `dir`, until it is told or, where it follows, `wake` is closed. Blocks.
/// `tell` can put an end to it.
///
/// # Errors
/// Where a file, the directory or a notification cannot be read.
pub fn read(
    dir: &Path,
    query: &Query,
    wake: &OwnedFd,
    mut tell: impl FnMut(Told<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    // Before anything is looked at, so that nothing comes unseen.
    let mut watch = if query.follow { Some(Watch::new(dir)?) } else { None };
    let mut reading = Reading::begin(dir, query)?;
    while let Some(run) = reading.runs.pop_first() {
        reading.turn_to(run);
        let flow = reading.all_there_is(&mut tell)?;
        // What has no end yet may get one.
        let last = reading.runs.is_empty() && watch.is_some();
        if flow.is_break() || (!last && reading.finish(&mut tell).is_break()) {
            return Ok(());
        }
    }
    let Some(watch) = &mut watch else { return Ok(()) };
    loop {
        if reading.all_there_is(&mut tell)?.is_break() {
            return Ok(());
        }
        if let Some(next) = reading.next_run()? {
            // What the run before has written is there now, but for what is still on its way.
            if reading.all_there_is(&mut tell)?.is_break() || reading.finish(&mut tell).is_break() {
                return Ok(());
            }
            if query.runs != Runs::All {
                return Ok(());
            }
            reading.add(next);
            continue;
        }
        if reading.say_from(&mut tell).is_break() || tell(Told::Pause).is_break() || !watch.wait(wake)? {
            return Ok(());
        }
    }
}

/// Says when something in a directory has changed.
struct Watch {
    inotify: Inotify,
}

impl Watch {
    fn new(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let inotify = Inotify::init()?;
        inotify.watches().add(dir, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::ONLYDIR)?;
        Ok(Self { inotify })
    }

    /// Waits for a change; `false` where `wake` came first.
    fn wait(&mut self, wake: &OwnedFd) -> io::Result<bool> {
        let mut fds =
            [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let [_, woken] = fds.map(|fd| fd.any().unwrap_or(true));
        // What they say is read from the files; here they only have to be gone, as far as one look goes.
        let mut buffer = [0; 16 * 1024];
        match self.inotify.read_events(&mut buffer) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
        Ok(!woken)
    }
}

struct Reading<'a> {
    dir: &'a Path,
    query: &'a Query,
    starts: Vec<(Stream, Start)>,
    /// Those that are to be read.
    runs: BTreeSet<u32>,
    /// The last that was begun.
    run: u32,
    heads: Vec<Head>,
    /// Whose line is told in parts and has not ended.
    open: Option<usize>,
    /// Lines that are not among the last that were asked for.
    skip: u64,
    /// Nothing has been told yet.
    fresh: bool,
}

impl<'a> Reading<'a> {
    fn begin(dir: &'a Path, query: &'a Query) -> io::Result<Self> {
        let mut there = segments(dir)?;
        there.retain(|segment| query.streams.contains(&segment.stream));
        match query.runs {
            Runs::All => {}
            Runs::One(run) => there.retain(|segment| segment.run == run),
            Runs::Before(run) => {
                let last = there.iter().map(|segment| segment.run).filter(|r| *r < run).max();
                there.retain(|segment| Some(segment.run) == last);
            }
        }
        let runs = there.iter().map(|segment| segment.run).collect();
        let mut starts = Vec::new();
        for stream in &query.streams {
            let of: Vec<Segment> = there.iter().copied().filter(|segment| segment.stream == *stream).collect();
            let places: Vec<Place> =
                query.after.iter().copied().filter(|place| place.segment.stream == *stream).collect();
            let from =
                if places.is_empty() { start(dir, &of, query.since_ns, query.tail) } else { behind(dir, &of, &places) };
            starts.push((*stream, from?));
        }
        let lines: u64 = starts.iter().map(|(_, start)| start.lines).sum();
        let skip = query.tail.map_or(0, |tail| lines.saturating_sub(tail));
        let run = if let Runs::One(run) = query.runs { run } else { 0 };
        let mut reading = Self { dir, query, starts, runs, run, heads: Vec::new(), open: None, skip, fresh: true };
        if reading.runs.is_empty() && run > 0 {
            // Its output may come yet.
            reading.turn_to(run);
        }
        Ok(reading)
    }

    /// Reads `run` and no other.
    fn turn_to(&mut self, run: u32) {
        self.heads.clear();
        self.add(run);
    }

    /// Reads `run` beside the one before, whose last bytes may come late.
    fn add(&mut self, run: u32) {
        let before = mem::replace(&mut self.run, run);
        self.heads.retain(|head| head.run == before);
        self.open = None;
        for (stream, start) in &self.starts {
            let first = Segment { run, stream: *stream, number: 0 };
            let (segment, offset) = start.places.get(&run).copied().unwrap_or((first, 0));
            // Whoever does not follow is told what there was when they asked, however fast more comes.
            let end = (!self.query.follow).then(|| start.ends.get(&run).copied().unwrap_or((first, 0)));
            self.heads.push(Head::new(self.dir.to_owned(), segment, offset, end));
        }
    }

    /// The run behind the last, where there is one by now.
    fn next_run(&self) -> io::Result<Option<u32>> {
        let all = segments(self.dir)?;
        let runs = all.iter().filter(|segment| self.query.streams.contains(&segment.stream)).map(|segment| segment.run);
        Ok(runs.filter(|run| *run > self.run).min())
    }

    /// Tells every line that is there, in the order of their times.
    fn all_there_is(&mut self, tell: &mut impl FnMut(Told<'_>) -> ControlFlow<()>) -> io::Result<ControlFlow<()>> {
        let mut read = None;
        loop {
            let so_far = self.heads.iter().map(|head| head.chunks).sum::<u64>();
            if read.replace(so_far) != Some(so_far) {
                // Those that had nothing are asked again with each chunk of another, and not with each line.
                self.heads.iter_mut().for_each(|head| head.dry = false);
            }
            let mut next: Option<(usize, u64)> = None;
            for (i, head) in self.heads.iter_mut().enumerate() {
                let ready = head.fill()?;
                let missed = head.tape.missed();
                if missed > 0 {
                    let (run, stream) = (head.run, head.stream);
                    if tell(Told::Missed { run, stream, files: missed }).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                let time = head.time_ns.unwrap_or(0);
                if ready && (self.open == Some(i) || next.is_none_or(|(j, least)| self.open != Some(j) && time < least))
                {
                    next = Some((i, time));
                }
            }
            let Some((i, _)) = next else { return Ok(ControlFlow::Continue(())) };
            if self.tell_head(i, tell).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Tells what has no end, where none is to come.
    fn finish(&mut self, tell: &mut impl FnMut(Told<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        for i in 0..self.heads.len() {
            if self.heads.get(i).is_some_and(|head| !head.line.is_empty()) {
                self.tell_head(i, tell)?;
            }
        }
        self.open = None;
        ControlFlow::Continue(())
    }

    /// Says from where on is told, before anything is.
    fn say_from(&mut self, tell: &mut impl FnMut(Told<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        if mem::take(&mut self.fresh) {
            for stream in &self.query.streams {
                let first = Place { segment: Segment { run: self.run, stream: *stream, number: 0 }, offset: 0 };
                let head = self.heads.iter().find(|head| head.stream == *stream);
                tell(Told::From(head.map_or(first, |head| head.told)))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn tell_head(&mut self, i: usize, tell: &mut impl FnMut(Told<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.skip == 0 {
            self.say_from(tell)?;
        }
        let Some(head) = self.heads.get_mut(i) else { return ControlFlow::Continue(()) };
        let goes_on = head.goes_on;
        let bytes = head.take();
        let whole = bytes.ends_with(b"\n");
        self.open = (!whole).then_some(i);
        if self.skip > 0 {
            // A part that its run's end has made the last counts as well, and so do the parts of a long line only together.
            self.skip -= u64::from(whole || bytes.len() < MAX_LINE);
            return ControlFlow::Continue(());
        }
        let (run, stream, time_ns, end) = (head.run, head.stream, head.time_ns, head.told);
        tell(Told::Line(Line { run, stream, time_ns, goes_on, bytes: &bytes, end }))
    }
}

/// One stream of one run, cut into lines.
struct Head {
    run: u32,
    stream: Stream,
    tape: Tape,
    index: Index,
    /// Whose index it is.
    indexed: Segment,
    chunk: Vec<u8>,
    /// How much of the chunk has been used.
    used: usize,
    /// What was read behind the chunk, and is not told.
    behind: u64,
    /// The next line, as far as it has come.
    line: Vec<u8>,
    /// When it began.
    time_ns: Option<u64>,
    /// Whether it is a part behind another.
    goes_on: bool,
    /// Where the last one ended.
    told: Place,
    ready: bool,
    /// Where it is to end.
    end: Option<(Segment, u64)>,
    /// How many chunks it has read.
    chunks: u64,
    /// It has just had nothing more.
    dry: bool,
}

impl Head {
    fn new(dir: PathBuf, segment: Segment, offset: u64, end: Option<(Segment, u64)>) -> Self {
        Self {
            run: segment.run,
            stream: segment.stream,
            tape: Tape::new(dir, segment, offset),
            index: Index::default(),
            indexed: segment,
            chunk: Vec::new(),
            used: 0,
            behind: 0,
            line: Vec::new(),
            time_ns: None,
            goes_on: false,
            told: Place { segment, offset },
            ready: false,
            end,
            chunks: 0,
            dry: false,
        }
    }

    /// Whether there is a line, or a part that is long enough.
    fn fill(&mut self) -> io::Result<bool> {
        while !self.ready {
            if self.used == self.chunk.len() && (self.dry || !self.read_on()?) {
                self.dry = true;
                return Ok(false);
            }
            let rest = self.chunk.get(self.used..).unwrap_or_default();
            if self.line.is_empty() && !self.goes_on {
                let begins = self.tape.position().1.saturating_sub(rest.len() as u64 + self.behind);
                self.time_ns = self.index.time_at(begins).or(self.time_ns);
            }
            let room = MAX_LINE - self.line.len();
            let piece = rest.get(..room).unwrap_or(rest);
            let end = piece.iter().position(|byte| *byte == b'\n').map_or(piece.len(), |end| end + 1);
            self.line.extend_from_slice(piece.get(..end).unwrap_or_default());
            self.used += end;
            self.ready = self.line.ends_with(b"\n") || self.line.len() == MAX_LINE;
        }
        Ok(true)
    }

    fn read_on(&mut self) -> io::Result<bool> {
        self.used = 0;
        self.chunk.clear();
        if self.end.is_some_and(|end| self.tape.position() >= end) {
            return Ok(false);
        }
        self.chunk.resize(CHUNK, 0);
        let read = self.tape.read(&mut self.chunk);
        self.chunk.truncate(*read.as_ref().unwrap_or(&0));
        if read? == 0 {
            return Ok(false);
        }
        self.chunks += 1;
        let (segment, offset) = self.tape.position();
        self.behind = 0;
        if let Some((last, len)) = self.end.filter(|end| (segment, offset) > *end) {
            self.behind = if segment == last { offset - len } else { self.chunk.len() as u64 };
            let kept = self.chunk.len().saturating_sub(usize::try_from(self.behind).unwrap_or(usize::MAX));
            self.chunk.truncate(kept);
        }
        if segment != self.indexed {
            (self.indexed, self.index) = (segment, Index::default());
        }
        self.tape.read_index(&mut self.index)?;
        Ok(true)
    }

    fn take(&mut self) -> Vec<u8> {
        self.ready = false;
        let line = mem::take(&mut self.line);
        self.goes_on = line.len() == MAX_LINE && !line.ends_with(b"\n");
        let (segment, offset) = self.tape.position();
        let rest = (self.chunk.len() - self.used) as u64 + self.behind;
        self.told = Place { segment, offset: offset.saturating_sub(rest) };
        line
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
