//! The store as a file: `SQLite`, linked in, one connection that nobody shares.
//!
//! WAL, so that a write is one append, and in exclusive mode, so that a second writer is refused and no shared memory is
//! needed. What is small and read as a whole is JSON in its column: `sqlite3 pinfold.db` shows it to a person.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, named_params, params};
use serde::{Serialize, de::DeserializeOwned};

use super::change::{Change, Record, Run};
use super::open;
use super::{Store, StoreError};
use crate::model::WorkerId;

/// `PRAGMA user_version`: the version of the tables below.
pub(super) const VERSION: i64 = 2;

/// `PRAGMA application_id`: `pinf`, for file(1) and for us to know our own.
pub(super) const APPLICATION_ID: i64 = 0x7069_6e66;

const SCHEMA: &str = "
CREATE TABLE epoch (id INTEGER PRIMARY KEY CHECK (id = 0), value INTEGER NOT NULL) STRICT;
CREATE TABLE workers (
    name TEXT PRIMARY KEY,
    spec_hash INTEGER,
    wish TEXT,
    wished TEXT,
    breaker TEXT,
    status TEXT,
    story TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    worker TEXT NOT NULL,
    run INTEGER NOT NULL,
    pid INTEGER,
    boot_id TEXT,
    started TEXT,
    ended TEXT,
    ended_us INTEGER,
    begun TEXT,
    PRIMARY KEY (worker, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_ended ON runs (ended_us);
";

/// What leads from each version to the next, from version 1 on.
const UPGRADES: &[&str] = &["ALTER TABLE runs ADD COLUMN begun TEXT"];

const RECORDS: &str = "
SELECT w.name, w.spec_hash, w.wish, w.wished, w.breaker, w.status, w.story, r.run, r.pid, r.boot_id, r.started, r.ended, r.begun
FROM workers w LEFT JOIN runs r ON r.worker = w.name AND r.run = (SELECT max(run) FROM runs WHERE worker = w.name)
WHERE :name IS NULL OR w.name = :name ORDER BY w.name";

/// A store in a file.
#[derive(Debug)]
pub struct SqliteStore {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// Device and inode.
    pub(super) identity: (u64, u64),
}

/// How far a write has to have come when it returns.
#[derive(Clone, Copy)]
enum Sync {
    /// On the disk.
    Full,
    /// With the kernel: it survives us.
    Normal,
}

impl SqliteStore {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.display().to_string();
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Lost { path: path.clone(), what: "is damaged" }
            }
            _ => StoreError::Database { doing, path: path.clone(), source },
        }
    }

    /// That the file we hold is still the one of that name: what is written into one that was removed is lost with us.
    fn is_there(&self) -> Result<(), StoreError> {
        let lost = |what| StoreError::Lost { path: self.path.display().to_string(), what };
        let there = fs::symlink_metadata(&self.path).map_err(|_| lost("was removed"))?;
        if (there.dev(), there.ino()) == self.identity { Ok(()) } else { Err(lost("was replaced")) }
    }

    fn write(&mut self, changes: &[Change], sync: Sync) -> Result<(), StoreError> {
        self.is_there()?;
        let failed = self.failed("writing to");
        let level = match sync {
            Sync::Full => "FULL",
            Sync::Normal => "NORMAL",
        };
        self.connection.pragma_update(None, "synchronous", level).map_err(&failed)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        for change in changes {
            put(&transaction, change).map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }

    fn records(&mut self, name: Option<&WorkerId>) -> Result<Vec<Record>, StoreError> {
        let failed = self.failed("reading");
        let mut query = self.connection.prepare_cached(RECORDS).map_err(&failed)?;
        let mut rows = query.query(named_params! { ":name": name.map(WorkerId::as_str) }).map_err(&failed)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let worker: String = row.get(0).map_err(&failed)?;
            let record = record(&worker, row).map_err(|source| {
                let path = self.path.display().to_string();
                StoreError::Row { path, worker: worker.clone(), source }
            })?;
            records.push(record);
        }
        Ok(records)
    }

    /// Makes the epoch grow, to `least` at least.
    pub(super) fn next_epoch(&mut self, least: u64) -> Result<u64, StoreError> {
        let failed = self.failed("writing to");
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(&failed)?;
        let grow = "INSERT INTO epoch (id, value) VALUES (0, ?1) \
                    ON CONFLICT (id) DO UPDATE SET value = max(value + 1, excluded.value) RETURNING value";
        let epoch: i64 =
            self.connection.query_row(grow, params![least.cast_signed()], |row| row.get(0)).map_err(failed)?;
        Ok(epoch.cast_unsigned())
    }

    /// The epoch as it is on record.
    pub(super) fn epoch(&mut self) -> Result<u64, StoreError> {
        let failed = self.failed("reading");
        let read = self.connection.query_row("SELECT value FROM epoch", [], |row| row.get::<_, i64>(0)).optional();
        Ok(read.map_err(failed)?.unwrap_or(0).cast_unsigned())
    }
}

fn put(to: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Declared { worker, spec_hash } => {
            let sql = "INSERT INTO workers (name, spec_hash) VALUES (?1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET spec_hash = excluded.spec_hash";
            to.prepare_cached(sql)?.execute(params![worker.as_str(), spec_hash.cast_signed()])?;
        }
        Change::Wish { worker, wish, at } => {
            let sql = "INSERT INTO workers (name, wish, wished) VALUES (?1, ?2, ?3) \
                       ON CONFLICT (name) DO UPDATE SET wish = excluded.wish, \
                       wished = CASE WHEN wish IS excluded.wish THEN wished ELSE excluded.wished END";
            to.prepare_cached(sql)?.execute(params![worker.as_str(), json(wish)?, at.to_string()])?;
        }
        Change::Breaker { worker, kept } => {
            let sql = "INSERT INTO workers (name, breaker) VALUES (?1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET breaker = excluded.breaker";
            to.prepare_cached(sql)?.execute(params![worker.as_str(), json(kept)?])?;
        }
        Change::Started { run, pid, boot_id, at, begun } => {
            known(to, &run.worker)?;
            let sql = "INSERT INTO runs (worker, run, pid, boot_id, started, begun) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                       ON CONFLICT (worker, run) DO UPDATE SET \
                       pid = excluded.pid, boot_id = excluded.boot_id, started = excluded.started, \
                       begun = coalesce(excluded.begun, begun)";
            let (at, begun) = (at.to_string(), begun.as_ref().map(json).transpose()?);
            to.prepare_cached(sql)?.execute(params![run.worker.as_str(), run.number, pid, &**boot_id, at, begun])?;
        }
        Change::Stopped { run, ended, begun } => {
            known(to, &run.worker)?;
            let sql = "INSERT INTO runs (worker, run, ended, ended_us, begun) VALUES (?1, ?2, ?3, ?4, ?5) \
                       ON CONFLICT (worker, run) DO UPDATE SET ended = excluded.ended, ended_us = excluded.ended_us, \
                       begun = coalesce(excluded.begun, begun)";
            let (at, begun) = (ended.at.as_microsecond(), begun.as_ref().map(json).transpose()?);
            to.prepare_cached(sql)?.execute(params![run.worker.as_str(), run.number, json(ended)?, at, begun])?;
        }
        Change::Status { worker, status, story } => {
            let sql = "INSERT INTO workers (name, status, story) VALUES (?1, ?2, ?3) \
                       ON CONFLICT (name) DO UPDATE SET status = excluded.status, story = coalesce(excluded.story, story)";
            let story = story.as_ref().map(json).transpose()?;
            to.prepare_cached(sql)?.execute(params![worker.as_str(), json(status)?, story])?;
        }
        Change::Forgotten { worker } => {
            to.prepare_cached("DELETE FROM workers WHERE name = ?1")?.execute([worker.as_str()])?;
            to.prepare_cached("DELETE FROM runs WHERE worker = ?1")?.execute([worker.as_str()])?;
        }
    }
    Ok(())
}

fn known(to: &Connection, worker: &WorkerId) -> rusqlite::Result<()> {
    let sql = "INSERT INTO workers (name) VALUES (?1) ON CONFLICT (name) DO NOTHING";
    to.prepare_cached(sql)?.execute([worker.as_str()]).map(drop)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

type NotUnderstood = Box<dyn std::error::Error + Send + std::marker::Sync>;

fn parsed<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, NotUnderstood> {
    Ok(text.map(serde_json::from_str).transpose()?)
}

fn moment(text: Option<&str>) -> Result<Option<Timestamp>, NotUnderstood> {
    Ok(text.map(str::parse).transpose()?)
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>, NotUnderstood> {
    Ok(row.get_ref(column)?.as_str_or_null()?)
}

fn record(worker: &str, row: &Row<'_>) -> Result<Record, NotUnderstood> {
    let last_run = row.get::<_, Option<u32>>(7)?.map(|number| run(number, row, 8)).transpose()?;
    Ok(Record {
        worker: WorkerId::new(worker)?,
        spec_hash: row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned),
        wish: parsed(text(row, 2)?)?.zip(moment(text(row, 3)?)?),
        kept: parsed(text(row, 4)?)?,
        last_run,
        status: parsed(text(row, 5)?)?,
        story: parsed(text(row, 6)?)?.map(Arc::new),
    })
}

/// Reads a run whose columns begin at `from`.
fn run(number: u32, row: &Row<'_>, from: usize) -> Result<Run, NotUnderstood> {
    Ok(Run {
        number,
        pid: row.get(from)?,
        boot_id: row.get::<_, Option<String>>(from + 1)?.map(Arc::from),
        started: moment(text(row, from + 2)?)?,
        ended: parsed(text(row, from + 3)?)?,
        begun: parsed(text(row, from + 4)?)?,
    })
}

impl Store for SqliteStore {
    fn ensure_schema(&mut self) -> Result<(), StoreError> {
        let failed = self.failed("making the tables of");
        let found: i64 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(&failed)?;
        if found == VERSION {
            return Ok(());
        }
        if !(0..VERSION).contains(&found) {
            return Err(StoreError::Newer { path: self.path.display().to_string(), found, known: VERSION });
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        match usize::try_from(found).unwrap_or(0).checked_sub(1) {
            None => transaction.execute_batch(SCHEMA).map_err(&failed)?,
            // All of it or nothing: a file is of one version.
            Some(from) => {
                for upgrade in UPGRADES.iter().skip(from) {
                    transaction.execute_batch(upgrade).map_err(&failed)?;
                }
            }
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(&failed)?;
        transaction.pragma_update(None, "user_version", VERSION).map_err(&failed)?;
        transaction.commit().map_err(failed)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes, Sync::Full)
    }

    fn apply_behind(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes, Sync::Normal)
    }

    fn begin_anew(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let failed = self.failed("letting go of");
        // Closed before another is opened in its place: it would remove the other's log at its end.
        drop(std::mem::replace(&mut self.connection, Connection::open_in_memory().map_err(failed)?));
        open::set_aside(&self.path, now)?;
        let made = open::make(&self.path)?;
        *self = made;
        self.ensure_schema()
    }

    fn get_by_name(&mut self, worker: &WorkerId) -> Result<Option<Record>, StoreError> {
        Ok(self.records(Some(worker))?.pop())
    }

    fn get_all(&mut self) -> Result<Vec<Record>, StoreError> {
        self.records(None)
    }

    fn get_runs(&mut self, worker: &WorkerId, limit: usize) -> Result<Vec<Run>, StoreError> {
        let failed = self.failed("reading");
        let sql =
            "SELECT run, pid, boot_id, started, ended, begun FROM runs WHERE worker = ?1 ORDER BY run DESC LIMIT ?2";
        let mut query = self.connection.prepare_cached(sql).map_err(&failed)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = query.query(params![worker.as_str(), limit]).map_err(&failed)?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let number = row.get(0).map_err(&failed)?;
            runs.push(run(number, row, 1).map_err(|source| {
                let path = self.path.display().to_string();
                StoreError::Row { path, worker: worker.to_string(), source }
            })?);
        }
        Ok(runs)
    }

    fn purge_older_than(&mut self, moment: Timestamp) -> Result<usize, StoreError> {
        self.is_there()?;
        let sql = "DELETE FROM runs WHERE ended_us < ?1 \
                   AND run < (SELECT max(run) FROM runs AS later WHERE later.worker = runs.worker)";
        let moment = moment.as_microsecond();
        self.connection.execute(sql, [moment]).map_err(self.failed("purging"))
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let failed = self.failed("closing");
        let Self { connection, .. } = *self;
        // The last connection moves the log into the file and removes it.
        connection.close().map_err(|(_, source)| failed(source))
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
pub(super) mod tests;
