use std::os::unix::fs::FileExt;

use super::super::change::Change;
use super::super::sqlite::tests::{at, name};
use super::*;

fn declared(text: &str) -> [Change; 1] {
    [Change::Declared { worker: name(text), spec_hash: 7 }]
}

/// A store with `workers` in it, closed.
fn made(path: &Path, workers: usize) {
    let mut store = SqliteStore::open(path, at(0)).unwrap().store;
    let changes: Vec<_> = (0..workers).flat_map(|n| declared(&format!("w-{n}"))).collect();
    store.apply(&changes).unwrap();
    Box::new(store).close().unwrap();
}

#[test]
fn the_file_is_its_owners_alone_and_its_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let mut opened = SqliteStore::open(&path, at(0)).unwrap();
    assert_eq!(opened.found, Found::Fresh);
    opened.store.apply(&declared("w")).unwrap();
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 2, "the file and its log, no shared memory: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    drop(opened);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    drop(SqliteStore::open(&path, at(0)).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_epoch_grows_with_every_opening_also_where_the_clock_stands_or_the_file_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let first = SqliteStore::open(&path, at(0)).unwrap().epoch;
    let second = SqliteStore::open(&path, at(0)).unwrap().epoch;
    let third = SqliteStore::open(&path, at(-500)).unwrap().epoch;
    assert!(first < second && second < third, "{first} {second} {third}");
    fs::remove_file(&path).unwrap();
    assert!(SqliteStore::open(&path, at(5)).unwrap().epoch > third);
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let first = SqliteStore::open(&path, at(0)).unwrap();
    let refused = SqliteStore::open(&path, at(0));
    assert!(matches!(refused, Err(OpenError::Held { .. })), "{refused:?}");
    drop(first);
    SqliteStore::open(&path, at(0)).unwrap();
}

#[test]
fn what_is_no_database_is_set_aside_under_a_name_with_the_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    for _ in 0..2 {
        fs::write(&path, "not a database, but long enough to be taken for the beginning of one, or for two of them")
            .unwrap();
        let opened = SqliteStore::open(&path, at(0)).unwrap();
        let Found::SetAside { to, why } = &opened.found else { panic!("{:?}", opened.found) };
        assert!(why.contains("is damaged"), "{why}");
        assert!(fs::read_to_string(to).unwrap().starts_with("not a database"), "nothing is thrown away");
        assert!(to.to_str().unwrap().contains("pinfold.db.corrupt-20270115T080000Z"), "{to:?}");
        assert_eq!(opened.records, []);
        drop(opened);
    }
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().contains(".corrupt-"));
    assert_eq!(aside.count(), 2, "the second one does not take the place of the first");
}

#[test]
fn damage_in_the_middle_of_the_file_is_found_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    made(&path, 2000);
    assert_eq!(SqliteStore::open(&path, at(0)).unwrap().found, Found::Intact);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(&[0xa5; 4096], len / 2 / 4096 * 4096).unwrap();
    let opened = SqliteStore::open(&path, at(0)).unwrap();
    assert!(matches!(opened.found, Found::SetAside { .. }), "{:?}", opened.found);
}

#[test]
fn a_row_that_nobody_wrote_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    made(&path, 1);
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE workers SET breaker = '{}'", []).unwrap();
    drop(connection);
    let Found::SetAside { why, .. } = SqliteStore::open(&path, at(0)).unwrap().found else { panic!("not set aside") };
    assert!(why.contains("w-0"), "{why}");
}

#[test]
fn a_newer_store_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    made(&path, 1);
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    drop(connection);
    let refused = SqliteStore::open(&path, at(0)).unwrap_err();
    assert!(matches!(refused, OpenError::Store(StoreError::Newer { found: 3, known: VERSION, .. })), "{refused:?}");
    let connection = Connection::open(&path).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, VERSION + 1);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA application_id = 5; CREATE TABLE theirs (a)").unwrap();
    drop(connection);
    let before = fs::read(&path).unwrap();
    let refused = SqliteStore::open(&path, at(0)).unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_no_plain_file_or_belongs_to_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(SqliteStore::open(&path, at(0)), Err(OpenError::NoFile { .. })));
    fs::remove_file(&path).unwrap();
    made(&path, 1);
    // Only root can give a file away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(matches!(SqliteStore::open(&path, at(0)), Err(OpenError::NotOurs { found: 65534, ours: 0, .. })));
    }
}
