//! What the roles say where nobody looks: after `up -d` stderr is a file in the state directory, and its own readers keep it
//! within a bound.
//!
//! Each role knows that file by its device and inode, as `JOURNAL_STREAM` of systemd.exec(5) has them, so that a file that
//! somebody has sent stderr to is never shortened. All of them write to the same open file, at its end: whoever finds it too
//! long puts its last part in the place of all of it. Lines that come between the two steps may be lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `DEVICE:INODE` of the file.
pub const VARIABLE: &str = "PINFOLD_OWN_LOG";

/// Its name in the state directory.
const NAME: &str = "pinfold.log";

/// It is never longer, but for one line.
const MOST: u64 = 1 << 20;

/// As much is left of one that was too long.
const KEPT: usize = 256 << 10;

/// What stands in the place of what was dropped.
const DROPPED: &[u8] = b"pinfold: what was here before is gone: this file is kept within 1 MiB\n";

/// The file below `state_dir`, which is made (0700) where it is missing, and how a role knows it.
///
/// # Errors
/// Where it cannot be opened or made, or is no file.
pub fn open(state_dir: &Path) -> io::Result<(PathBuf, File, String)> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let path = state_dir.join(NAME);
    let mut options = OpenOptions::new();
    // Not through a link, and without waiting for the other end of a fifo.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(&path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    keep_within(&file, meta.len(), MOST, KEPT)?;
    let known_as = name(&meta);
    Ok((path, file, known_as))
}

fn name(meta: &std::fs::Metadata) -> String {
    format!("{}:{}", meta.dev(), meta.ino())
}

/// Something was written to `stderr`: where that is our own file, it is kept short.
pub(super) fn written(stderr: BorrowedFd<'_>) {
    static OURS: OnceLock<Option<File>> = OnceLock::new();
    let ours = || is_named_by(stderr, VARIABLE).then(|| stderr.try_clone_to_owned().ok().map(File::from)).flatten();
    if let Some(file) = OURS.get_or_init(ours) {
        // There is nowhere to report that it cannot be shortened; the next line tries again.
        file.metadata().and_then(|meta| keep_within(file, meta.len(), MOST, KEPT)).ok();
    }
}

/// Whether `file` is the one whose device and inode this variable of our environment has.
pub(super) fn is_named_by(file: BorrowedFd<'_>, variable: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else { return false };
    std::env::var(variable).is_ok_and(|known_as| known_as == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn keep_within(file: &File, length: u64, most: u64, kept: usize) -> io::Result<()> {
    if length <= most {
        return Ok(());
    }
    let mut last = vec![0; kept];
    let from = length - kept as u64;
    file.read_exact_at(&mut last, from)?;
    // What is appended meanwhile goes with it.
    file.set_len(0)?;
    let text = [DROPPED, whole_lines(&last)].concat();
    // Appended, wherever that is by now: the file was opened so.
    io::Write::write_all(&mut &*file, &text)
}

/// `text` without the rest of a line at its beginning.
fn whole_lines(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n');
    end.map_or(text, |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_is_too_long_keeps_its_last_whole_lines_and_grows_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut file, _) = open(&dir.path().join("state")).unwrap();
        for n in 0..100 {
            writeln!(file, "line {n:03}").unwrap();
        }
        keep_within(&file, 900, 900, 20).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 900, "not yet");
        keep_within(&file, 900, 899, 20).unwrap();
        writeln!(file, "line 100").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}line 098\nline 099\nline 100\n", str::from_utf8(DROPPED).unwrap()));
    }

    #[test]
    fn it_is_ours_alone_and_no_link_is_followed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, file, known_as) = open(dir.path()).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (_, again, same) = open(dir.path()).unwrap();
        assert_eq!((known_as, file.metadata().unwrap().ino()), (same, again.metadata().unwrap().ino()));
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(open(dir.path()).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}
