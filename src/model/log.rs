use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunId;

/// One of a run's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// `stdout` or `stderr`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a worker's output is kept and how fast it may come: `unit.logs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// What one file and its index take together at the most, in bytes.
    pub max_size: u64,
    /// So many files of each stream are kept, of all runs together. At least 2.
    pub max_files: u32,
    /// Bytes a second of each stream; a second's worth may come at once. `None` is without end.
    pub rate_limit: Option<u64>,
    /// What becomes of more.
    pub overflow: Overflow,
}

/// `logs.overflow`: what becomes of output above the rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It stays in the pipe; once that is full, whoever writes waits.
    #[default]
    Block,
    /// It is thrown away and counted.
    Drop,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5, rate_limit: None, overflow: Overflow::default() }
    }
}

/// One file of a stream. A stream is a chain of them with growing numbers; bytes are only ever added to the last, and a
/// name never means another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The run.
    pub run: u32,
    /// The stream.
    pub stream: Stream,
    /// Its place in the chain, from 0.
    pub number: u32,
}

/// What the name of a segment's index ends in.
const INDEX: &str = ".idx";

impl Segment {
    /// The first of a stream.
    #[must_use]
    pub const fn first(run: &RunId, stream: Stream) -> Self {
        Self { run: run.number, stream, number: 0 }
    }

    /// The one behind it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }

    /// Whether both are of one stream of one run.
    #[must_use]
    pub fn is_of_the_stream_of(self, other: Self) -> bool {
        (self.run, self.stream) == (other.run, other.stream)
    }

    /// The name of its index: `RUN.stdout.idx`, `RUN.stdout.1.idx`.
    #[must_use]
    pub fn index_name(self) -> String {
        format!("{self}{INDEX}")
    }

    /// The segment that an index of this name is of.
    #[must_use]
    pub fn of_index(name: &str) -> Option<Self> {
        name.strip_suffix(INDEX)?.parse().ok()
    }
}

/// Its file's name: `RUN.stdout`, then `RUN.stdout.1` and so on.
impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.stream)?;
        if self.number > 0 { write!(f, ".{}", self.number) } else { Ok(()) }
    }
}

/// A name that is no segment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no log file's name")]
pub struct NoSegment;

impl FromStr for Segment {
    type Err = NoSegment;

    fn from_str(name: &str) -> Result<Self, NoSegment> {
        let mut parts = name.split('.');
        let run = parts.next().and_then(number).ok_or(NoSegment)?;
        let word = parts.next().ok_or(NoSegment)?;
        let stream = Stream::ALL.into_iter().find(|stream| stream.as_str() == word).ok_or(NoSegment)?;
        let number = match parts.next() {
            None => 0,
            Some(digits) => number(digits).filter(|n| *n > 0).ok_or(NoSegment)?,
        };
        if parts.next().is_some() { Err(NoSegment) } else { Ok(Self { run, stream, number }) }
    }
}

/// A number as we write it: no sign, no leading zero.
fn number(digits: &str) -> Option<u32> {
    let ours = digits == "0" || digits.starts_with(|c: char| matches!(c, '1'..='9'));
    if ours { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_from_the_name_it_is_written_as_and_from_no_other() {
        for (run, number, name) in [(1, 0, "1.stdout"), (12, 3, "12.stdout.3"), (0, 10, "0.stdout.10")] {
            let segment = Segment { run, stream: Stream::Stdout, number };
            assert_eq!(segment.to_string(), name);
            assert_eq!(name.parse(), Ok(segment));
            assert_eq!(Segment::of_index(&segment.index_name()), Some(segment));
        }
        for name in
            ["", "1", "1.out", "1.stdout.0", "1.stdout.01", "01.stdout", "+1.stdout", "1.stdout.1.idx", "x.stderr"]
        {
            assert_eq!(name.parse::<Segment>(), Err(NoSegment), "{name}");
        }
        assert_eq!(Segment::of_index("1.stdout"), None);
    }

    #[test]
    fn segments_are_in_the_order_of_their_runs_and_then_of_their_numbers() {
        let segment = |run, number| Segment { run, stream: Stream::Stderr, number };
        let mut all = [segment(10, 0), segment(2, 10), segment(2, 9), segment(9, 1)];
        all.sort();
        assert_eq!(all, [segment(2, 9), segment(2, 10), segment(9, 1), segment(10, 0)]);
    }
}
