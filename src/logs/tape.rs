//! One stream of one run, read over its files as if they were one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::index::Index;
use crate::model::Segment;

/// A place in a stream, from which it is read on.
#[derive(Debug)]
pub(super) struct Tape {
    dir: PathBuf,
    at: Segment,
    offset: u64,
    file: Option<File>,
    missed: u32,
}

impl Tape {
    /// From `offset` of `at`, in `dir`.
    pub(super) const fn new(dir: PathBuf, at: Segment, offset: u64) -> Self {
        Self { dir, at, offset, file: None, missed: 0 }
    }

    /// Up to where it has been read.
    pub(super) const fn position(&self) -> (Segment, u64) {
        (self.at, self.offset)
    }

    /// Whether the file that is being read has been removed.
    pub(super) fn is_gone(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.metadata().is_ok_and(|meta| meta.nlink() == 0))
    }

    /// Takes what the index of the file that is being read has got since it was asked last.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn read_index(&self, index: &mut Index) -> io::Result<()> {
        let Some(data) = &self.file else { return Ok(()) };
        match File::open(self.dir.join(self.at.index_name())) {
            Ok(file) => index.read_on(&file, || Ok(data.metadata()?.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// How many files were removed before they could be read, since this was asked last.
    pub(super) const fn missed(&mut self) -> u32 {
        std::mem::replace(&mut self.missed, 0)
    }

    /// Reads on; 0 where nothing more is there yet. What is read is of one file, and ends at [`Self::position`].
    ///
    /// # Errors
    /// Where a file or the directory cannot be read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.read_here(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            let Some(next) = self.next()? else { return Ok(0) };
            // The next file is begun once this one is whole: what is here is here now.
            let n = self.read_here(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            let skipped = next.number.saturating_sub(self.at.number).saturating_sub(1);
            self.missed += skipped + u32::from(self.file.is_none());
            (self.at, self.offset, self.file) = (next, 0, None);
        }
    }

    fn read_here(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => match File::open(self.dir.join(self.at.to_string())) {
                Ok(file) => self.file.insert(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(e) => return Err(e),
            },
        };
        let mut n = file.read_at(buffer, self.offset)?;
        if n == 0 && file.metadata()?.len() < self.offset {
            // Somebody truncated it by hand.
            self.offset = 0;
            n = file.read_at(buffer, 0)?;
        }
        self.offset += n as u64;
        Ok(n)
    }

    /// The file behind this one, where there is one.
    fn next(&self) -> io::Result<Option<Segment>> {
        let next = self.at.next();
        if self.dir.join(next.to_string()).try_exists()? {
            return Ok(Some(next));
        }
        // The oldest are removed first, so that where this one is there, the next would be.
        if !self.is_gone() {
            return Ok(None);
        }
        let behind = segments(&self.dir)?.into_iter().filter(|s| s.is_of_the_stream_of(self.at) && *s > self.at);
        Ok(behind.min())
    }
}

/// The log files in `dir`, in order. None, where there is no directory.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        segments.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Segment>().ok()));
    }
    segments.sort_unstable();
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stream;

    fn segment(number: u32) -> Segment {
        Segment { run: 1, stream: Stream::Stdout, number }
    }

    fn write(dir: &Path, number: u32, text: &str) {
        use std::io::Write;
        let path = dir.join(segment(number).to_string());
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rest(tape: &mut Tape) -> String {
        let (mut text, mut buffer) = (String::new(), [0; 3]);
        loop {
            match tape.read(&mut buffer).unwrap() {
                0 => return text,
                n => text += std::str::from_utf8(&buffer[..n]).unwrap(),
            }
        }
    }

    #[test]
    fn a_chain_of_files_reads_as_one_and_grows_as_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let mut tape = Tape::new(dir.to_owned(), segment(0), 0);
        assert_eq!(rest(&mut tape), "", "nothing is there yet");
        write(dir, 0, "one ");
        assert_eq!(rest(&mut tape), "one ");
        write(dir, 0, "two ");
        write(dir, 1, "three ");
        write(dir, 2, "four");
        assert_eq!(rest(&mut tape), "two three four");
        assert_eq!(tape.position(), (segment(2), 4));
        assert_eq!(tape.missed(), 0);
    }

    #[test]
    fn a_file_that_is_removed_while_it_is_read_is_read_to_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        write(dir, 0, "one two ");
        let mut tape = Tape::new(dir.to_owned(), segment(0), 0);
        assert_eq!(tape.read(&mut [0; 4]).unwrap(), 4);
        for (number, text) in [(1, "three "), (2, "four "), (3, "five")] {
            write(dir, number, text);
        }
        for number in 0..2 {
            fs::remove_file(dir.join(segment(number).to_string())).unwrap();
        }
        assert_eq!(rest(&mut tape), "two four five");
        assert_eq!((tape.missed(), tape.missed()), (1, 0), "the one with three in it");
    }

    #[test]
    fn other_runs_and_streams_are_not_read() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["2.stdout", "1.stderr", "1.stdout.idx", "notes"] {
            fs::write(temp.path().join(name), "x").unwrap();
        }
        assert_eq!(rest(&mut Tape::new(temp.path().to_owned(), segment(0), 0)), "");
    }
}
