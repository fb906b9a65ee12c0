//! A run's directory as a `cgroups_rs::fs::Cgroup`, the safe part of that crate.
//!
//! Its builder and `apply` swallow write errors and enable controllers in the host's root (`clippy.toml` bans them),
//! and its `V2` hierarchy hard-codes `/sys/fs/cgroup`. What is sound are the controllers' own setters, `freeze`,
//! `thaw` and `kill`, over a `Hierarchy` of ours: it is rooted at the *descriptor* of the directory
//! (`/proc/self/fd/N`), so that it is as sure of its cgroup as [`Dir`] is.

use std::{error::Error as _, io, path::PathBuf};

use cgroups_rs::fs::{
    Cgroup, Hierarchy, Subsystem, blkio::BlkIoController, cpu::CpuController, freezer::FreezerController,
    memory::MemController, pid::PidController,
};

use super::dir::{Dir, DirError};

/// One cgroup that is the root of its own hierarchy.
#[derive(Debug, Clone)]
struct Rooted {
    root: PathBuf,
}

impl Hierarchy for Rooted {
    fn subsystems(&self) -> Vec<Subsystem> {
        let (root, v2) = (|| self.root.clone(), true);
        vec![
            Subsystem::Mem(MemController::new(root(), PathBuf::new(), v2)),
            Subsystem::Cpu(CpuController::new(root(), PathBuf::new(), v2)),
            Subsystem::Pid(PidController::new(root(), PathBuf::new(), v2)),
            Subsystem::BlkIo(BlkIoController::new(root(), PathBuf::new(), v2)),
            Subsystem::Freezer(FreezerController::new(root(), PathBuf::new(), v2)),
        ]
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    /// There is nothing above it that is ours.
    fn parent_control_group(&self, _path: &str) -> Cgroup {
        self.root_control_group()
    }

    fn v2(&self) -> bool {
        true
    }
}

/// `dir` as cgroups-rs sees it. Not to be kept longer than `dir`, whose descriptor it goes through.
pub(super) fn load(dir: &Dir) -> Cgroup {
    Cgroup::load(Box::new(Rooted { root: dir.proc_path() }), "")
}

/// The reason inside one of the crate's errors.
pub(super) fn reason(e: &cgroups_rs::fs::error::Error) -> io::Error {
    match e.source().and_then(|s| s.downcast_ref::<io::Error>()) {
        Some(cause) => match cause.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(cause.kind(), cause.to_string()),
        },
        None => io::Error::other(e.to_string()),
    }
}

/// The crate's error as one that names the file.
pub(super) fn error(dir: &Dir, file: &str, e: &cgroups_rs::fs::error::Error) -> DirError {
    DirError::Io { action: "write", path: dir.path().join(file), source: reason(e) }
}
