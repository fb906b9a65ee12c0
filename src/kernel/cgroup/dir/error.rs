//! What the kernel refused in a cgroup directory, and what that says.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::model::{Stage, StartError};

/// Something the kernel refused in a cgroup directory.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb: `open`, `read`, `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A directory on some other file system.
    #[error("{path} is not on a cgroup2 file system")]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that should have been ours to make.
    #[error(
        "{path} exists already; a run is started in a fresh cgroup only, so remove it (`rmdir {path}`) if nothing uses it"
    )]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// EAGAIN of mkdir(2) on cgroup2.
    #[error("cannot make {path}: cgroup.max.descendants or cgroup.max.depth of a cgroup above it is reached")]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// A file whose content is not what the kernel documents.
    #[error("{path} says {text:?}, which is not understood")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
    },
}

impl DirError {
    /// The kernel's error number; 0 where the refusal is ours.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Exists { .. } => Errno::EXIST.raw_os_error(),
            Self::TooMany { .. } => Errno::AGAIN.raw_os_error(),
            Self::NotCgroup2 { .. } | Self::Format { .. } => 0,
        }
    }

    /// Whether the file, or the whole cgroup, is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.is(&[Errno::NOENT, Errno::NODEV])
    }

    /// Whether processes or child cgroups are in the way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is(&[Errno::BUSY])
    }

    /// Whether it is one of `errnos`.
    #[must_use]
    pub fn is(&self, errnos: &[Errno]) -> bool {
        errnos.iter().any(|e| e.raw_os_error() == self.errno())
    }

    /// As a failed step of a start.
    #[must_use]
    pub fn at(&self, stage: Stage) -> StartError {
        match self {
            Self::Io { path, .. } => StartError::os(stage, path.display().to_string(), self.errno()),
            other => StartError { stage, errno: 0, what: other.to_string() },
        }
    }

    /// As an [`io::Error`] that keeps the error number where there is one.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self.errno() {
            0 => io::Error::other(self),
            errno => io::Error::from_raw_os_error(errno),
        }
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, e: Errno) -> DirError {
    DirError::Io { action, path: path.to_owned(), source: e.into() }
}
