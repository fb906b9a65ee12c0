//! A stream's files: a chain that only grows at its end and is cut at its beginning.
//!
//! Nothing is renamed, so there is no moment at which a kill would leave half a rotation, and a reader never meets other
//! bytes under a name that it knows. Whoever comes next goes on in the last file that there is. Several loggers can live
//! at once (one outlives its keeper), but no two have the same run: each only adds to files of its own runs, and a file
//! that somebody else has removed already is as good as removed by us.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::quota::too_many;
use crate::logs::index::{GRAIN, RECORD, Record};
use crate::model::{LogPolicy, Segment};

/// The files of one stream of one run.
#[derive(Debug)]
pub(super) struct Chain {
    dir: PathBuf,
    policy: LogPolicy,
    /// The last one.
    segment: Segment,
    /// Whether it has been looked up which that is.
    found: bool,
    file: Option<File>,
    len: u64,
    index_len: u64,
    /// The wall clock of the last record.
    recorded: Option<u64>,
}

impl Chain {
    /// That begins with `first` in `dir`. Nothing is opened yet.
    pub(super) const fn new(dir: PathBuf, first: Segment, policy: LogPolicy) -> Self {
        Self { dir, policy, segment: first, found: false, file: None, len: 0, index_len: 0, recorded: None }
    }

    /// Where the bytes go now.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(self.segment.to_string())
    }

    pub(super) const fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the file until it is needed, where the process is short of descriptors.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// How many bytes go into the file before the next one has to be begun. With an index that takes its share, so that what
    /// is configured is what the disk has to hold.
    pub(super) const fn room(&self) -> u64 {
        self.policy.max_size.saturating_sub(self.len.saturating_add(self.index_len))
    }

    /// The open file.
    pub(super) const fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// `bytes` were added to it.
    pub(super) const fn grew(&mut self, bytes: u64) {
        self.len += bytes;
    }

    /// Opens the last file; where it is full, begins the next.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if !self.found {
            let ours = segments(&self.dir)?.into_iter().filter(|s| s.is_of_the_stream_of(self.segment));
            self.segment = ours.max().unwrap_or(self.segment);
            self.found = true;
        }
        if !self.is_open() {
            self.open_this(self.segment)?;
        }
        if self.room() == 0 {
            self.open_this(self.segment.next())?;
        }
        Ok(())
    }

    fn open_this(&mut self, segment: Segment) -> io::Result<()> {
        let path = self.dir.join(segment.to_string());
        if !path.try_exists()? {
            self.make_room(segment)?;
        }
        let mut file = open(&path)?;
        self.len = file.seek(SeekFrom::End(0))?;
        self.index_len = fs::symlink_metadata(self.dir.join(segment.index_name())).map_or(0, |meta| meta.len());
        self.segment = segment;
        self.recorded = None;
        // The one before is closed only now: who sees it closed sees the next one as well, or it was the last.
        self.file = Some(file);
        Ok(())
    }

    /// Removes what is too much with `next`.
    fn make_room(&self, next: Segment) -> io::Result<()> {
        for old in too_many(segments(&self.dir)?, next, self.policy.max_files) {
            for name in [old.to_string(), old.index_name()] {
                match fs::remove_file(self.dir.join(name)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the bytes that come at `wall_ns` need a record. A clock that was set back needs one at once.
    pub(super) fn record_is_due(&self, wall_ns: u64) -> bool {
        let grain = u64::try_from(GRAIN.as_nanos()).unwrap_or(u64::MAX);
        self.recorded.is_none_or(|last| wall_ns.abs_diff(last) >= grain)
    }

    /// Records that what comes now comes at `wall_ns`. Where that fails, times are coarser; the bytes are what counts.
    pub(super) fn record(&mut self, wall_ns: u64) -> io::Result<()> {
        self.recorded = Some(wall_ns);
        // Not kept open: descriptors are scarce, and this is ten times a second at the most.
        let index = open(&self.dir.join(self.segment.index_name()))?;
        let len = index.metadata()?.len();
        // Over a torn one.
        let at = len - len % RECORD;
        index.write_all_at(&Record { time_ns: wall_ns, offset: self.len }.encode(), at)?;
        self.index_len = at + RECORD;
        Ok(())
    }
}

/// The segments in `dir`, also those of which only one of their two files is there. None, where there is no directory.
fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().unwrap_or_default();
        segments.extend(name.parse().ok().or_else(|| Segment::of_index(name)));
    }
    segments.sort_unstable();
    segments.dedup();
    Ok(segments)
}

/// For adding to its end, but not with `O_APPEND`: splice refuses that. Never through a link that somebody put there.
fn open(path: &Path) -> io::Result<File> {
    let open = || {
        let flags = libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK;
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).custom_flags(flags).open(path)
    };
    let file = match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
            }
            open()?
        }
        other => other?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}
