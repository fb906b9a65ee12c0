//! A place in a worker's output, by which reading goes on where it was left.

use std::{fmt, str::FromStr};

use crate::model::Segment;

/// A place between two bytes of a stream, as text `RUN.STREAM[.NUMBER]:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub segment: Segment,
    /// So many bytes into it.
    pub offset: u64,
}

/// A text that is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no place in a worker's output, which is like 4.stdout:1024")]
pub struct NoPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (segment, offset) = text.split_once(':').ok_or(NoPlace)?;
        let digits = !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_digit());
        let offset = offset.parse().ok().filter(|_| digits).ok_or(NoPlace)?;
        Ok(Self { segment: segment.parse().map_err(|_| NoPlace)?, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stream;

    #[test]
    fn a_place_reads_back_and_what_is_none_is_refused() {
        for number in [0, 12] {
            let place = Place { segment: Segment { run: 4, stream: Stream::Stderr, number }, offset: 1 << 40 };
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for text in ["", "4.stdout", "4.stdout:", ":1", "4.stdout:+1", "4.stdout:-1", "4.stdin:1", "4.stdout:1:2"] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }
}
