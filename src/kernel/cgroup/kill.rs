//! The end of a cgroup: everything in it killed, then its directories removed.
//!
//! Waiting for `populated 0` in between is [`super::super::watch`]'s part: a successful write to `cgroup.kill` is not
//! death (a task in uninterruptible sleep stays).

use cgroups_rs::fs::freezer::FreezerController;
use rustix::io::Errno;

use super::{
    dir::{Dir, DirError},
    handle,
};

/// More directories than this below one run are not removed in one go.
const MAX_DIRECTORIES: usize = 100_000;

/// SIGKILL for every process of `dir` and below, forking and frozen ones too (`cgroup.kill`, Linux 5.14).
///
/// # Errors
/// Where the kernel refuses, or is too old.
pub fn kill(dir: &Dir) -> Result<(), DirError> {
    dir.write("cgroup.kill", "1")
}

/// Stops every process of `dir` and below where it is (`cgroup.freeze`). It is done when `frozen` says so.
///
/// # Errors
/// Where the kernel refuses.
pub fn freeze(dir: &Dir) -> Result<(), DirError> {
    freezer(dir, FreezerController::freeze)
}

/// Lets every process of `dir` go on.
///
/// # Errors
/// Where the kernel refuses.
pub fn thaw(dir: &Dir) -> Result<(), DirError> {
    freezer(dir, FreezerController::thaw)
}

fn freezer(
    dir: &Dir,
    act: impl FnOnce(&FreezerController) -> cgroups_rs::fs::error::Result<()>,
) -> Result<(), DirError> {
    // Through a Hierarchy of ours, so that it cannot be missing.
    let cgroup = handle::load(dir);
    match cgroup.controller_of::<FreezerController>() {
        Some(freezer) => act(freezer).map_err(|e| handle::error(dir, "cgroup.freeze", &e)),
        None => Err(DirError::Io {
            action: "write",
            path: dir.path().join("cgroup.freeze"),
            source: std::io::Error::from(std::io::ErrorKind::Unsupported),
        }),
    }
}

/// Removes the child `name` of `parent` with the cgroups the worker made below it, deepest first. One that is not
/// there is removed already.
///
/// # Errors
/// [`DirError::is_busy`] where processes are left, or while the kernel has not finished with those that left: wait
/// for `populated 0` and call again.
pub fn remove(parent: &Dir, name: &str) -> Result<(), DirError> {
    match parent.remove_child(name) {
        Err(e) if e.is(&[Errno::NOENT]) => Ok(()),
        // It has processes or children; cgroup2 says EBUSY for both.
        Err(e) if e.is(&[Errno::BUSY, Errno::NOTEMPTY]) => match parent.open_below(name) {
            Ok(dir) => {
                remove_below(&dir)?;
                match parent.remove_child(name) {
                    Err(e) if e.is(&[Errno::NOENT]) => Ok(()),
                    other => other,
                }
            }
            Err(e) if e.is_absent() => Ok(()),
            Err(e) => Err(e),
        },
        other => other,
    }
}

/// Removes every directory below `top`, with one descriptor however deep they are.
fn remove_below(top: &Dir) -> Result<(), DirError> {
    /// One directory on the way down: its name and the children not yet visited.
    struct Level {
        name: String,
        todo: Vec<String>,
    }
    let mut seen = 0;
    let mut here = top.reopen()?;
    let mut levels = vec![Level { name: String::new(), todo: here.children()? }];
    while let Some(level) = levels.last_mut() {
        if let Some(child) = level.todo.pop() {
            seen += 1;
            if seen > MAX_DIRECTORIES {
                return Err(failed(&here, Errno::TOOBIG));
            }
            match here.remove_child(&child) {
                Err(e) if e.is(&[Errno::BUSY, Errno::NOTEMPTY]) => {
                    here = here.open_below(&child)?;
                    levels.push(Level { name: child, todo: here.children()? });
                }
                Err(e) if !e.is(&[Errno::NOENT]) => return Err(e),
                _ => {}
            }
        } else if let Some(done) = levels.pop()
            && !levels.is_empty()
        {
            here = here.above()?;
            match here.remove_child(&done.name) {
                Err(e) if !e.is(&[Errno::NOENT]) => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

fn failed(dir: &Dir, e: Errno) -> DirError {
    DirError::Io { action: "remove what is below", path: dir.path().to_owned(), source: e.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    #[test]
    fn a_kill_writes_1_and_needs_the_kernels_file() {
        let (tmp, dir) = fixture();
        assert!(kill(&dir).unwrap_err().is_absent());
        std::fs::write(tmp.path().join("cgroup.kill"), "").unwrap();
        kill(&dir).unwrap();
        assert_eq!(dir.read("cgroup.kill").unwrap(), "1");
    }

    #[test]
    fn freeze_and_thaw_write_the_kernels_file() {
        let (tmp, dir) = fixture();
        std::fs::write(tmp.path().join("cgroup.freeze"), "0\n").unwrap();
        freeze(&dir).unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap(), "1");
        thaw(&dir).unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap(), "0");
    }

    #[test]
    fn what_the_worker_made_below_goes_too_however_deep() {
        let (tmp, dir) = fixture();
        let mut deep = tmp.path().join("web.1");
        std::fs::create_dir_all(tmp.path().join("web.1/side/shelf")).unwrap();
        for level in 0..200 {
            deep.push(format!("d{level}"));
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir(tmp.path().join("web.2")).unwrap();
        remove(&dir, "web.1").unwrap();
        assert_eq!(dir.children().unwrap(), ["web.2"]);
    }

    #[test]
    fn removing_twice_is_no_error() {
        let (_tmp, dir) = fixture();
        dir.create("web.1").unwrap();
        remove(&dir, "web.1").unwrap();
        remove(&dir, "web.1").unwrap();
    }

    #[test]
    fn links_are_never_followed() {
        let (tmp, dir) = fixture();
        std::fs::create_dir_all(tmp.path().join("precious/child")).unwrap();
        std::fs::create_dir(tmp.path().join("web.1")).unwrap();
        std::os::unix::fs::symlink(tmp.path().join("precious"), tmp.path().join("web.1/link")).unwrap();
        // A file system with links keeps the directory; what matters is what is behind the link.
        assert!(remove(&dir, "web.1").is_err());
        assert!(tmp.path().join("precious/child").exists());
    }
}
