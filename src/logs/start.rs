//! Where reading begins: since when, and how many of the last lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::index::{GRAIN, Index};
use super::place::Place;
use crate::model::Segment;

/// How much is read at once, backwards.
const PIECE: u64 = 64 * 1024;

/// A part of a file that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    segment: Segment,
    from: u64,
    to: u64,
}

/// Where each run of one stream is to be read from, and how many lines there are from there on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Start {
    pub(super) places: BTreeMap<u32, (Segment, u64)>,
    /// Where each of them ended.
    pub(super) ends: BTreeMap<u32, (Segment, u64)>,
    /// Only counted where the last lines were asked for.
    pub(super) lines: u64,
}

/// Where to begin with `segments`, all of one stream and in order, for what came at `since_ns` or later, and of that the last
/// `tail` lines.
///
/// # Errors
/// Where a file cannot be read.
pub(super) fn start(dir: &Path, segments: &[Segment], since_ns: Option<u64>, tail: Option<u64>) -> io::Result<Start> {
    let mut parts = Vec::new();
    let mut start = Start::default();
    for segment in segments {
        let meta = match fs::metadata(dir.join(segment.to_string())) {
            Ok(meta) => meta,
            // The oldest can go while we look.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let to = meta.len();
        // What is not read, is not read from here on either.
        start.places.insert(segment.run, (*segment, to));
        start.ends.insert(segment.run, (*segment, to));
        let from = match since_ns {
            None => Some(0),
            Some(_) if parts.last().is_some_and(|last: &Part| last.segment.is_of_the_stream_of(*segment)) => Some(0),
            Some(since) => first_since(dir, *segment, &meta, since)?,
        };
        if let Some(from) = from.filter(|from| *from < to) {
            parts.push(Part { segment: *segment, from, to });
        }
    }
    if let Some(tail) = tail {
        let (at, lines) = last_lines(dir, &parts, tail)?;
        start.lines = lines;
        let (first, from) = at.map_or((parts.len(), 0), |(i, from)| (i, from));
        parts.drain(..first);
        if let Some(part) = parts.first_mut() {
            part.from = from;
        }
    }
    for part in parts.into_iter().rev() {
        start.places.insert(part.segment.run, (part.segment, part.from));
    }
    Ok(start)
}

/// Where to go on with `segments`, all of one stream and in order: behind `places`, each of another run. Runs before the last of them
/// have been read but for those that are named, and none of those after it has.
///
/// # Errors
/// Where a file cannot be read.
pub(super) fn behind(dir: &Path, segments: &[Segment], places: &[Place]) -> io::Result<Start> {
    let mut start = start(dir, segments, None, None)?;
    let last = places.iter().map(|place| place.segment.run).max().unwrap_or(0);
    for (run, from) in &mut start.places {
        let known = places.iter().find(|place| place.segment.run == *run);
        let end = start.ends.get(run).filter(|_| *run < last);
        *from = known.map(|place| (place.segment, place.offset)).or(end.copied()).unwrap_or(*from);
    }
    Ok(start)
}

/// From where on a file has what came at `since_ns` or later, from the beginning of a line.
fn first_since(dir: &Path, segment: Segment, meta: &fs::Metadata, since_ns: u64) -> io::Result<Option<u64>> {
    // What came within a grain of a record came at its time or a little later; and the kernel dates files by its last tick.
    let since_ns = since_ns.saturating_sub(u64::try_from(GRAIN.as_nanos()).unwrap_or(0));
    let written = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    if written < i128::from(since_ns) {
        return Ok(None);
    }

    let index = Index::read(&dir.join(segment.index_name()), meta.len())?;
    if index.is_empty() {
        // Rather more than asked for.
        return Ok(Some(0));
    }
    let Some(offset) = index.since(since_ns).filter(|offset| *offset > 0) else { return Ok(index.since(since_ns)) };
    // The rest of a line that began before belongs to it.
    let file = File::open(dir.join(segment.to_string()))?;
    let mut at = offset - 1;
    let mut bytes = vec![0; usize::try_from(PIECE).unwrap_or(0)];
    while at < meta.len() {
        let n = file.read_at(&mut bytes, at)?;
        match bytes.iter().take(n).position(|byte| *byte == b'\n') {
            Some(end) => return Ok(Some(at + end as u64 + 1)),
            None if n == 0 => break,
            None => at += n as u64,
        }
    }
    Ok(Some(meta.len()))
}

/// Where the last `wanted` lines of `parts` begin, and how many there are. Lines end with their run.
fn last_lines(dir: &Path, parts: &[Part], wanted: u64) -> io::Result<(Option<(usize, u64)>, u64)> {
    let mut lines = 0;
    let mut start = None;
    let mut bytes = vec![0; usize::try_from(PIECE).unwrap_or(0)];
    for (i, part) in parts.iter().enumerate().rev() {
        let ends_the_run = parts.get(i + 1).is_none_or(|next| next.segment.run != part.segment.run);
        let file = File::open(dir.join(part.segment.to_string()))?;
        let mut end = part.to;
        while end > part.from {
            let begin = end.saturating_sub(PIECE).max(part.from);
            let piece = bytes.get_mut(..usize::try_from(end - begin).unwrap_or(0)).unwrap_or_default();
            file.read_exact_at(piece, begin)?;
            for (at, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                let behind = begin + at as u64 + 1;
                // The last byte of a run ends its last line and begins none.
                if behind == part.to && ends_the_run {
                    continue;
                }
                if lines == wanted {
                    return Ok((start, lines));
                }
                lines += 1;
                start = Some((i, behind));
            }
            end = begin;
        }
        let begins_the_run =
            i.checked_sub(1).and_then(|i| parts.get(i)).is_none_or(|before| before.segment.run != part.segment.run);
        if begins_the_run {
            if lines == wanted {
                return Ok((start, lines));
            }
            lines += 1;
            start = Some((i, part.from));
        }
    }
    Ok((start, lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::index::Record;
    use crate::model::Stream;

    fn segment(run: u32, number: u32) -> Segment {
        Segment { run, stream: Stream::Stdout, number }
    }

    /// Files of a stream, by run and number.
    fn files(of: &[(u32, u32, &str)]) -> (tempfile::TempDir, Vec<Segment>) {
        let dir = tempfile::tempdir().unwrap();
        let segments = of.iter().map(|(run, number, text)| {
            fs::write(dir.path().join(segment(*run, *number).to_string()), text).unwrap();
            segment(*run, *number)
        });
        let segments = segments.collect();
        (dir, segments)
    }

    fn index(dir: &Path, segment: Segment, records: &[(u64, u64)]) {
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|(time_ns, offset)| Record { time_ns: *time_ns, offset: *offset }.encode())
            .collect();
        fs::write(dir.join(segment.index_name()), bytes).unwrap();
    }

    #[test]
    fn the_last_lines_are_counted_over_files_and_runs() {
        let (dir, segments) = files(&[(1, 0, "a\nb"), (2, 0, "c\nd"), (2, 1, "d\ne\n"), (2, 2, "f")]);
        let begin = |n| {
            let start = start(dir.path(), &segments, None, Some(n)).unwrap();
            (start.places[&1], start.places[&2], start.lines)
        };
        let end_of_1 = (segment(1, 0), 3);
        assert_eq!(begin(0), (end_of_1, (segment(2, 2), 1), 0));
        assert_eq!(begin(1), (end_of_1, (segment(2, 1), 4), 1), "f: the byte before it is its neighbour's");
        assert_eq!(begin(2), (end_of_1, (segment(2, 1), 2), 2), "e");
        assert_eq!(begin(3), (end_of_1, (segment(2, 0), 2), 3), "dd, over two files");
        assert_eq!(begin(4), (end_of_1, (segment(2, 0), 0), 4), "c");
        assert_eq!(begin(5), ((segment(1, 0), 2), (segment(2, 0), 0), 5), "b, which its run's end ends");
        assert_eq!(begin(9), ((segment(1, 0), 0), (segment(2, 0), 0), 6));
    }

    #[test]
    fn many_lines_are_counted_however_long_the_file_is() {
        let text = (0..50_000).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
        let (dir, segments) = files(&[(1, 0, &text)]);
        let start = start(dir.path(), &segments, None, Some(20_000)).unwrap();
        let (_, from) = start.places[&1];
        assert!(text[usize::try_from(from).unwrap()..].starts_with("line 30000\n"));
    }

    #[test]
    fn what_came_before_a_time_is_left_out_and_a_line_is_never_cut() {
        let (dir, segments) = files(&[(1, 0, "a\nbb\n"), (1, 1, "c\nd\n")]);
        let s = 1_000_000_000;
        index(dir.path(), segment(1, 0), &[(100 * s, 0), (200 * s, 3)]);
        index(dir.path(), segment(1, 1), &[(300 * s, 0), (400 * s, 2)]);
        let begin = |since| start(dir.path(), &segments, Some(since * s), None).unwrap().places[&1];
        assert_eq!(begin(50), (segment(1, 0), 0));
        assert_eq!(begin(150), (segment(1, 1), 0), "the second half of bb is not shown without the first");
        assert_eq!(begin(350), (segment(1, 1), 2));
        assert_eq!(begin(450), (segment(1, 1), 4), "the end");
    }

    #[test]
    fn a_file_that_the_kernel_dates_a_tick_too_early_is_looked_into() {
        let (dir, segments) = files(&[(1, 0, "a\n")]);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(100);
        let file = File::options().write(true).open(dir.path().join("1.stdout")).unwrap();
        file.set_modified(at - std::time::Duration::from_millis(4)).unwrap();
        index(dir.path(), segment(1, 0), &[(100_000_000_000, 0)]);
        let places = start(dir.path(), &segments, Some(100_000_000_000), None).unwrap().places;
        assert_eq!(places[&1], (segment(1, 0), 0));
    }

    #[test]
    fn without_an_index_a_file_is_shown_where_it_was_written_since() {
        let (dir, segments) = files(&[(1, 0, "a\n")]);
        assert_eq!(start(dir.path(), &segments, Some(1), None).unwrap().places[&1], (segment(1, 0), 0));
        let tomorrow = u64::MAX / 2;
        assert_eq!(start(dir.path(), &segments, Some(tomorrow), None).unwrap().places[&1], (segment(1, 0), 2));
    }
}
