//! When the bytes of a log file were written: pairs of a time and an offset, in a small file beside it.
//!
//! A record says that the bytes from its offset on came at its time or later, and it is written before them: a logger
//! that is killed between the two leaves a record too many, never bytes that seem older than they are. Ten a second are
//! written at the most, and none while nothing comes. The bytes themselves need no parsing and can be anything.
//!
//! What cannot be right is skipped (a torn record, zeros after a power failure, an offset behind the end): then times are
//! coarser, and nothing else is lost. Times can go backwards with the wall clock; offsets cannot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// The size of a record.
pub const RECORD: u64 = 16;

/// As much is written at the most of what comes in one while.
pub const GRAIN: Duration = Duration::from_millis(100);

/// How much of an index is read at once.
const PIECE: usize = 64 * 1024;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The wall clock, nanoseconds since 1970.
    pub time_ns: u64,
    /// In the log file.
    pub offset: u64,
}

impl Record {
    /// As it is written.
    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (time, offset) = bytes.split_at_mut(8);
        time.copy_from_slice(&self.time_ns.to_le_bytes());
        offset.copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, offset) = bytes.split_at_checked(8)?;
        let (time, offset) = (time.try_into().ok()?, offset.try_into().ok()?);
        Some(Self { time_ns: u64::from_le_bytes(time), offset: u64::from_le_bytes(offset) })
    }
}

/// What has been read of an index.
#[derive(Debug, Clone, Default)]
pub struct Index {
    records: Vec<Record>,
    /// How far it was read.
    read: u64,
}

impl Index {
    /// Takes what has been added to `index`. `len` tells how long the log file is, and is asked afterwards: no record points
    /// behind what was there then.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read_on(&mut self, index: &File, len: impl Fn() -> io::Result<u64>) -> io::Result<()> {
        let mut bytes = vec![0; PIECE];
        loop {
            let n = index.read_at(&mut bytes, self.read)?;
            let whole = n - n % 16;
            if whole == 0 {
                return Ok(());
            }
            self.extend(bytes.get(..whole).unwrap_or_default(), len()?);
            self.read += whole as u64;
        }
    }

    /// Reads the index at `path`, of a log file of `len` bytes. One that is not there is empty.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(path: &Path, len: u64) -> io::Result<Self> {
        let mut index = Self::default();
        match File::open(path) {
            Ok(file) => index.read_on(&file, || Ok(len))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(index)
    }

    fn extend(&mut self, bytes: &[u8], len: u64) {
        for record in bytes.chunks_exact(16).filter_map(Record::decode) {
            let behind = self.records.last().is_none_or(|last| last.offset <= record.offset);
            if record.time_ns > 0 && record.offset <= len && behind {
                self.records.push(record);
            }
        }
    }

    /// When the byte at `offset` came, to the grain of the index; `None` where nothing is known of it.
    #[must_use]
    pub fn time_at(&self, offset: u64) -> Option<u64> {
        let behind = self.records.partition_point(|record| record.offset <= offset);
        behind.checked_sub(1).and_then(|i| self.records.get(i)).map(|record| record.time_ns)
    }

    /// From which offset on there are bytes that came at `time_ns` or later; `None` where there are none. Where the clock
    /// was set back, from the first of them: rather more than asked for than less.
    #[must_use]
    pub fn since(&self, time_ns: u64) -> Option<u64> {
        self.records.iter().find(|record| record.time_ns >= time_ns).map(|record| record.offset)
    }

    /// Whether nothing is known of any byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(records: &[(u64, u64)], len: u64) -> Index {
        let mut index = Index::default();
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|(time_ns, offset)| Record { time_ns: *time_ns, offset: *offset }.encode())
            .collect();
        index.extend(&bytes, len);
        index
    }

    #[test]
    fn a_byte_came_when_the_last_record_before_it_says() {
        let index = index(&[(100, 0), (200, 10), (300, 10), (400, 25)], 30);
        assert_eq!([0, 9, 10, 24, 25, 99].map(|at| index.time_at(at)), [100, 100, 300, 300, 400, 400].map(Some));
        assert_eq!(Index::default().time_at(0), None);
    }

    #[test]
    fn a_search_finds_the_first_byte_of_its_time_or_later() {
        let index = index(&[(100, 0), (200, 10), (300, 25)], 30);
        assert_eq!([0, 100, 101, 200, 300].map(|t| index.since(t)), [0, 0, 10, 10, 25].map(Some));
        assert_eq!(index.since(301), None);
    }

    #[test]
    fn where_the_clock_was_set_back_more_is_found_rather_than_less() {
        let index = index(&[(100, 0), (900, 10), (200, 20), (300, 30)], 40);
        assert_eq!(index.since(250), Some(10));
        assert_eq!(index.time_at(20), Some(200));
    }

    #[test]
    fn what_cannot_be_right_is_skipped_and_what_follows_counts() {
        let index = index(&[(100, 0), (0, 0), (200, u64::MAX), (300, 20), (400, 10), (500, 30)], 40);
        assert_eq!(index.records.iter().map(|r| r.time_ns).collect::<Vec<_>>(), [100, 300, 500]);
    }

    #[test]
    fn a_torn_record_is_read_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("idx");
        let whole = Record { time_ns: 100, offset: 0 }.encode();
        std::fs::write(&path, [&whole[..], &Record { time_ns: 200, offset: 5 }.encode()[..7]].concat()).unwrap();
        let mut index = Index::default();
        index.read_on(&File::open(&path).unwrap(), || Ok(10)).unwrap();
        assert_eq!(index.since(101), None);
        std::fs::write(&path, [whole, Record { time_ns: 300, offset: 5 }.encode()].concat()).unwrap();
        index.read_on(&File::open(&path).unwrap(), || Ok(10)).unwrap();
        assert_eq!((index.since(101), index.records.len()), (Some(5), 2));
        assert!(Index::read(&dir.path().join("none"), 0).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_an_index_fail_or_point_behind_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..400), len in 0_u64..1000) {
            let mut index = Index::default();
            index.extend(&bytes, len);
            prop_assert!(index.since(0).is_none_or(|offset| offset <= len));
            prop_assert!(index.records.is_sorted_by_key(|record| record.offset));
        }
    }
}
