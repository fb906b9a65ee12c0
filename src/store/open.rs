//! Opening the file, whatever is found there.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::change::Record;
use super::sqlite::{APPLICATION_ID, SqliteStore, VERSION};
use super::{Store, StoreError};
use crate::model::chain;

/// How long somebody else may hold the file, before it is theirs: a supervisor that is just ending.
const PATIENCE: Duration = Duration::from_millis(500);

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SqliteStore,
    /// Greater than that of any opening before: `seq` of events begins anew with it. Never below the seconds since 1970,
    /// so that it grows although the file was lost.
    pub epoch: u64,
    /// What was there.
    pub found: Found,
    /// What is remembered, in the order of the workers' names.
    pub records: Vec<Record>,
}

/// What was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: an empty store was made.
    Fresh,
    /// A store, and it is whole.
    Intact,
    /// A file that is damaged. It was renamed, and an empty store was made.
    SetAside {
        /// The name it has now.
        to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "another process has {path} open: a second supervisor of the same state directory, or a tool that reads it"
    )]
    Held {
        /// Which file.
        path: String,
    },
    /// It belongs to another user.
    #[error("{path} belongs to user {found}, and this is user {ours}: give it to that user, or move it away")]
    NotOurs {
        /// Which file.
        path: String,
        /// Its owner.
        found: u32,
        /// Our user.
        ours: u32,
    },
    /// It is a directory, a link, a socket.
    #[error("{path} is no plain file: move it away")]
    NoFile {
        /// Which.
        path: String,
    },
    /// It is a database of another program.
    #[error("{path} is a database of another program: move it away")]
    Foreign {
        /// Which file.
        path: String,
    },
    /// All else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What keeps a file from being the store.
enum Trouble {
    Damaged(String),
    Refused(OpenError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Lost { .. } | StoreError::Row { .. } => Self::Damaged(chain(&error)),
            StoreError::Database { ref path, ref source, .. }
                if matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) =>
            {
                Self::Refused(OpenError::Held { path: path.clone() })
            }
            error => Self::Refused(error.into()),
        }
    }
}

impl SqliteStore {
    /// Opens the store in the file `path`, or makes it; its directory is there. Reads all of it once, so that damage is
    /// found now. `now` is for the epoch and for the name of what is set aside.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing was changed then.
    pub fn open(path: &Path, now: Timestamp) -> Result<Opened, OpenError> {
        let found = if is_there(path)? { Found::Intact } else { Found::Fresh };
        match Self::try_open(path, found, now) {
            Ok(opened) => Ok(opened),
            Err(Trouble::Refused(error)) => Err(error),
            Err(Trouble::Damaged(why)) => {
                let to = set_aside(path, now)?.unwrap_or_else(|| path.to_owned());
                match Self::try_open(path, Found::SetAside { to, why }, now) {
                    Ok(opened) => Ok(opened),
                    Err(Trouble::Refused(error)) => Err(error),
                    Err(Trouble::Damaged(_)) => {
                        Err(StoreError::Lost { path: path.display().to_string(), what: "is damaged as soon as made" }
                            .into())
                    }
                }
            }
        }
    }

    fn try_open(path: &Path, found: Found, now: Timestamp) -> Result<Opened, Trouble> {
        let mut store = make(path)?;
        store.check()?;
        store.ensure_schema()?;
        let records = store.get_all()?;
        let least = u64::try_from(now.as_second()).unwrap_or(0);
        let epoch = match store.next_epoch(least) {
            Ok(epoch) => epoch,
            // Full or read-only: what is remembered counts all the same, and each write will say so.
            Err(StoreError::Database { .. }) => store.epoch()?.saturating_add(1).max(least),
            Err(error) => return Err(error.into()),
        };
        Ok(Opened { store, epoch, found, records })
    }

    /// That it is ours, of a version we know, and whole.
    fn check(&self) -> Result<(), Trouble> {
        let failed = self.failed("reading");
        let number =
            |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(&failed);
        let path = || self.path.display().to_string();
        let (application, version) = (number("application_id")?, number("user_version")?);
        let tables: i64 =
            self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(&failed)?;
        if application != APPLICATION_ID && (application, version, tables) != (0, 0, 0) {
            return Err(Trouble::Refused(OpenError::Foreign { path: path() }));
        }
        if version > VERSION {
            let newer = StoreError::Newer { path: path(), found: version, known: VERSION };
            return Err(Trouble::Refused(newer.into()));
        }
        let checked = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match checked.map_err(&failed)?.as_str() {
            "ok" => Ok(()),
            wrong => Err(Trouble::Damaged(wrong.lines().last().unwrap_or(wrong).to_owned())),
        }
    }
}

/// Opens what is at `path`, an empty file where there is nothing. It is ours alone from then on.
pub(super) fn make(path: &Path) -> Result<SqliteStore, StoreError> {
    let shown = || path.display().to_string();
    let io = |doing| move |source| StoreError::Io { doing, path: path.display().to_string(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => sync_directory(path).map_err(io("making"))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io("making")(error)),
    }
    let there = fs::symlink_metadata(path).map_err(io("looking at"))?;
    if there.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io("closing to others"))?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |source| StoreError::Database { doing: "opening", path: shown(), source };
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let store = SqliteStore { connection, path: path.to_owned(), identity: (there.dev(), there.ino()) };
    let failed = store.failed("opening");
    let set = || {
        let to = &store.connection;
        to.busy_timeout(PATIENCE)?;
        // Before the first look, which from then on keeps others out.
        to.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        to.pragma_update(None, "trusted_schema", false)?;
        to.pragma_update(None, "cache_size", -512)?;
        to.pragma_update(None, "journal_size_limit", 1 << 20)?;
        let application: i64 = to.pragma_query_value(None, "application_id", |row| row.get(0))?;
        // Another program's stays as it is.
        if application == APPLICATION_ID || application == 0 {
            to.pragma_update(None, "journal_mode", "WAL")?;
        }
        Ok(())
    };
    set().map_err(failed)?;
    Ok(store)
}

/// Whether there is a file that can be the store.
fn is_there(path: &Path) -> Result<bool, OpenError> {
    let shown = || path.display().to_string();
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StoreError::Io { doing: "looking at", path: shown(), source }.into()),
    };
    let ours = rustix::process::geteuid().as_raw();
    if !there.is_file() {
        return Err(OpenError::NoFile { path: shown() });
    }
    if there.uid() != ours {
        return Err(OpenError::NotOurs { path: shown(), found: there.uid(), ours });
    }
    Ok(there.len() > 0)
}

/// Gives the file and its log another name, under which they can still be opened together. `None` where there is none.
pub(super) fn set_aside(path: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let with = |path: &Path, end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let base = with(path, &format!(".corrupt-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    let free = |n: u32| if n == 0 { base.clone() } else { with(&base, &format!("-{n}")) };
    let to = (0..1000).map(free).find(|to| !fs::exists(to).unwrap_or(true)).unwrap_or(base);
    let mut moved = None;
    // The log first: were it left behind, it would be taken for that of the file that comes.
    for end in ["-wal", "-shm", ""] {
        match fs::rename(with(path, end), with(&to, end)) {
            Ok(()) => moved = Some(to.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(StoreError::Io { doing: "setting aside", path: path.display().to_string(), source });
            }
        }
    }
    Ok(moved)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
