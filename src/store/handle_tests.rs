use std::{fs, sync::mpsc};

use futures_util::future::join_all;

use super::super::sqlite::tests::{at, name};
use super::super::{MemoryStore, Run, SqliteStore};
use super::*;
use crate::model::WorkerId;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn declared(text: &str, spec_hash: u64) -> Change {
    Change::Declared { worker: name(text), spec_hash }
}

/// A store that writes when it is let, and says what it wrote.
struct Gate {
    inner: MemoryStore,
    /// Whether the next write succeeds; without a word it waits.
    may: mpsc::Receiver<bool>,
    wrote: mpsc::Sender<(bool, usize)>,
}

impl Gate {
    fn write(&mut self, durably: bool, changes: &[Change]) -> Result<(), StoreError> {
        if !self.may.recv().unwrap_or(true) {
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(StoreError::Io { doing: "writing to", path: "nothing".into(), source });
        }
        self.inner.apply(changes)?;
        self.wrote.send((durably, changes.len())).unwrap_or_default();
        Ok(())
    }
}

impl Store for Gate {
    fn ensure_schema(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(true, changes)
    }
    fn apply_behind(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(false, changes)
    }
    fn begin_anew(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.inner.begin_anew(now)
    }
    fn get_by_name(&mut self, worker: &WorkerId) -> Result<Option<Record>, StoreError> {
        self.inner.get_by_name(worker)
    }
    fn get_all(&mut self) -> Result<Vec<Record>, StoreError> {
        self.inner.get_all()
    }
    fn get_runs(&mut self, worker: &WorkerId, limit: usize) -> Result<Vec<Run>, StoreError> {
        self.inner.get_runs(worker, limit)
    }
    fn purge_older_than(&mut self, moment: Timestamp) -> Result<usize, StoreError> {
        self.inner.purge_older_than(moment)
    }
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

fn gated() -> (StoreHandle, mpsc::Sender<bool>, mpsc::Receiver<(bool, usize)>) {
    let (let_it, may) = mpsc::channel();
    let (wrote, written) = mpsc::channel();
    let gate = Gate { inner: MemoryStore::new(), may, wrote };
    (StoreHandle::start(Box::new(gate), Vec::new(), DAY).unwrap(), let_it, written)
}

#[tokio::test]
async fn an_intent_is_in_the_file_when_it_resolves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let store = SqliteStore::open(&path, at(0)).unwrap().store;
    let handle = StoreHandle::start(Box::new(store), Vec::new(), DAY).unwrap();
    handle.intend(vec![declared("w", 5)]).await.unwrap();
    // As another supervisor finds it after a SIGKILL of this one.
    let found = dir.path().join("found.db");
    fs::copy(&path, &found).unwrap();
    fs::copy(dir.path().join("pinfold.db-wal"), dir.path().join("found.db-wal")).unwrap();
    let found = SqliteStore::open(&found, at(0)).unwrap();
    assert_eq!(found.records.len(), 1);
    assert_eq!(found.records[0].spec_hash, Some(5));
}

#[tokio::test]
async fn intents_that_wait_together_are_one_transaction_and_records_go_with_them() {
    let (handle, let_it, written) = gated();
    let first = handle.intend(vec![declared("first", 1)]);
    // The thread is in the first write, or about to be.
    let others: Vec<_> = (0..50).map(|n| handle.intend(vec![declared(&format!("w-{n}"), 1)])).collect();
    handle.record(vec![declared("behind", 1)]);
    let_it.send(true).unwrap();
    let_it.send(true).unwrap();
    first.await.unwrap();
    assert!(join_all(others).await.into_iter().all(|stored| stored.is_ok()));
    let sizes: Vec<_> = written.try_iter().collect();
    assert!(sizes.len() <= 2, "{sizes:?}");
    assert!(sizes.iter().all(|(durably, _)| *durably), "{sizes:?}");
    assert_eq!(sizes.iter().map(|(_, changes)| changes).sum::<usize>(), 52);
}

#[tokio::test]
async fn what_is_written_behind_is_said_to_be_written_when_it_is_and_nothing_is_hurried_for_it() {
    let (handle, let_it, written) = gated();
    handle.record(vec![declared("w", 1)]);
    let mut stored = handle.written();
    tokio::time::timeout(Duration::from_millis(50), &mut stored).await.unwrap_err();
    let_it.send(true).unwrap();
    stored.await.unwrap();
    assert_eq!(written.recv(), Ok((false, 1)), "without a sync");
    // With nothing on its way there is nothing to wait for.
    handle.written().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_a_disk_that_refuses_is_told_so_and_from_then_on_at_once() {
    let (handle, let_it, _written) = gated();
    handle.record(vec![declared("w", 1)]);
    let stored = handle.written();
    let_it.send(false).unwrap();
    assert!(matches!(stored.await, Err(Unstored::Refused { .. })));
    let Err(Unstored::Refused { why }) = handle.written().await else { panic!("it does not wait for the next try") };
    assert!(why.contains("writing to"), "{why}");
    let_it.send(true).unwrap();
    let mut health = handle.watch();
    health.wait_for(|health| matches!(health, Health::Ok { .. })).await.unwrap();
    handle.written().await.unwrap();
}

#[tokio::test]
async fn a_record_alone_is_written_behind() {
    let (handle, let_it, written) = gated();
    handle.record(vec![declared("w", 1)]);
    handle.record(vec![declared("w", 2)]);
    let_it.send(true).unwrap();
    let (durably, changes) = tokio::task::spawn_blocking(move || written.recv()).await.unwrap().unwrap();
    assert!(!durably);
    assert_eq!(changes, 1, "the newer one stands for both");
}

#[tokio::test]
async fn a_disk_that_refuses_is_told_and_what_waits_is_folded_and_written_later() {
    let (handle, let_it, written) = gated();
    let_it.send(false).unwrap();
    let refused = handle.intend(vec![declared("w", 1)]).await.unwrap_err();
    assert!(matches!(&refused, Unstored::Refused { why } if why.contains("writing to nothing")), "{refused:?}");
    let Health::Degraded { pending, lost, why, .. } = handle.health() else { panic!("{:?}", handle.health()) };
    assert_eq!((pending, lost), (1, 0));
    assert!(why.contains("writing to nothing"));
    let_it.send(false).unwrap();
    let changes = (2..5000).map(|n| declared("w", n)).chain((0..3).map(|n| declared(&format!("o-{n}"), n)));
    assert!(handle.intend(changes.collect()).await.is_err());
    assert!(matches!(handle.health(), Health::Degraded { pending: 4, lost: 0, .. }), "{:?}", handle.health());
    // Nobody asks any more: it is tried again by itself.
    let_it.send(true).unwrap();
    let mut health = handle.watch();
    health.wait_for(|health| matches!(health, Health::Ok { .. })).await.unwrap();
    assert_eq!(written.try_recv().unwrap().1, 4);
    let record = handle.ask(|store| store.get_by_name(&name("w"))).await.unwrap().unwrap().unwrap();
    assert_eq!(record.spec_hash, Some(4999), "the last word counts");
}

#[tokio::test]
async fn runs_that_have_no_room_in_memory_are_counted() {
    let (handle, let_it, _written) = gated();
    let stopped = |number| {
        let ended = super::super::Ended {
            cause: crate::model::ExitCause::KilledExternal,
            confidence: crate::model::Confidence::Certain,
            at: at(0),
        };
        Change::Stopped { run: crate::model::RunId::new(name("w"), number), ended: Box::new(ended), begun: None }
    };
    let_it.send(false).unwrap();
    assert!(handle.intend((1..=40).map(stopped).collect()).await.is_err());
    assert!(matches!(handle.health(), Health::Degraded { lost: 8, .. }), "{:?}", handle.health());
}

#[tokio::test]
async fn a_file_lost_while_it_is_open_is_made_anew_from_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let mut opened = SqliteStore::open(&path, at(0)).unwrap();
    opened.store.apply(&[declared("earlier", 1)]).unwrap();
    let known = opened.store.get_all().unwrap();
    let handle = StoreHandle::start(Box::new(opened.store), known, DAY).unwrap();
    handle.intend(vec![declared("before", 2)]).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(dir.path().join("pinfold.db-wal")).unwrap();
    handle.intend(vec![declared("after", 3)]).await.unwrap();
    assert!(matches!(handle.health(), Health::Ok { made_anew: Some(_) }), "{:?}", handle.health());
    handle.close(Duration::from_secs(30)).await.unwrap();
    let found = SqliteStore::open(&path, at(0)).unwrap().records;
    let hashes: Vec<_> = found.iter().map(|record| (record.worker.as_str(), record.spec_hash)).collect();
    assert_eq!(hashes, [("after", Some(3)), ("before", Some(2)), ("earlier", Some(1))]);
}

#[tokio::test]
async fn closing_writes_what_waits_and_nothing_is_taken_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let store = SqliteStore::open(&path, at(0)).unwrap().store;
    let handle = StoreHandle::start(Box::new(store), Vec::new(), DAY).unwrap();
    handle.record(vec![declared("w", 5)]);
    handle.close(Duration::from_secs(30)).await.unwrap();
    assert!(matches!(handle.close(Duration::from_secs(30)).await, Err(NotClosed::Already)));
    assert_eq!(handle.intend(vec![declared("w", 6)]).await, Err(Unstored::Closed));
    assert_eq!(handle.ask(|_| ()).await, Err(Unstored::Closed));
    assert!(!dir.path().join("pinfold.db-wal").exists(), "all is in one file");
    assert_eq!(SqliteStore::open(&path, at(0)).unwrap().records[0].spec_hash, Some(5));
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_more_than_the_patience_of_who_closes() {
    let (handle, let_it, _written) = gated();
    handle.record(vec![declared("w", 5)]);
    let closed = handle.close(Duration::from_millis(50)).await;
    assert!(matches!(closed, Err(NotClosed::TimedOut(_))), "{closed:?}");
    drop(let_it);
}

fn started(text: &str, run: u32, pid: i32) -> Change {
    let run = crate::model::RunId::new(name(text), run);
    Change::Started { run, pid, boot_id: "boot".into(), at: at(i64::from(pid)), begun: None }
}

fn prepared(store: impl Store + 'static) -> Prepared {
    Prepared::new(Box::new(store)).unwrap()
}

async fn numbers(handle: &StoreHandle, text: &str) -> Vec<u32> {
    let name = name(text);
    let runs = handle.ask(move |store| store.get_runs(&name, 100).unwrap()).await.unwrap();
    runs.into_iter().map(|run| run.number).collect()
}

#[tokio::test]
async fn another_store_has_all_that_the_one_before_knew_and_what_comes_after() {
    let handle = StoreHandle::start(Box::new(MemoryStore::new()), Vec::new(), DAY).unwrap();
    handle.record(vec![declared("w", 5), started("w", 1, 11), started("w", 2, 12), declared("idle", 6)]);
    let mut other = MemoryStore::new();
    other.apply(&[declared("other", 9), started("other", 7, 17)]).unwrap();
    handle.replace(prepared(other)).await.unwrap();
    handle.record(vec![started("w", 3, 13)]);
    let all = handle.ask(|store| store.get_all().unwrap()).await.unwrap();
    let names: Vec<_> = all.iter().map(|record| (record.worker.as_str(), record.spec_hash)).collect();
    assert_eq!(names, [("idle", Some(6)), ("other", Some(9)), ("w", Some(5))]);
    assert_eq!(numbers(&handle, "w").await, [3, 2, 1], "every run, and not the last alone");
    assert_eq!(numbers(&handle, "other").await, [7]);
}

#[tokio::test]
async fn a_store_that_refuses_what_is_known_is_not_used_and_the_one_before_goes_on() {
    let handle = StoreHandle::start(Box::new(MemoryStore::new()), Vec::new(), DAY).unwrap();
    handle.intend(vec![declared("w", 5)]).await.unwrap();
    let (let_it, may) = mpsc::channel();
    let_it.send(false).unwrap();
    let gate = Gate { inner: MemoryStore::new(), may, wrote: mpsc::channel().0 };
    assert!(matches!(handle.replace(prepared(gate)).await, Err(NotReplaced::Refused(_))));
    handle.intend(vec![declared("v", 6)]).await.unwrap();
    assert_eq!(handle.ask(|store| store.get_all().unwrap().len()).await, Ok(2));
    assert_eq!(handle.health(), Health::Ok { made_anew: None });
}

#[tokio::test]
async fn a_store_with_runs_of_another_life_of_a_worker_is_refused_and_not_written() {
    let handle = StoreHandle::start(Box::new(MemoryStore::new()), Vec::new(), DAY).unwrap();
    handle.record(vec![started("w", 1, 11), started("w", 2, 12)]);
    for (theirs, fits) in [
        (vec![started("w", 2, 12)], true),
        (vec![started("w", 1, 11)], true),
        (vec![started("w", 2, 99)], false),
        (vec![started("w", 3, 13)], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pinfold.db");
        let mut store = SqliteStore::open(&path, at(0)).unwrap().store;
        store.apply(&theirs).unwrap();
        let done = handle.replace(prepared(store)).await;
        match done {
            Ok(()) => assert!(fits, "{theirs:?}"),
            Err(NotReplaced::Foreign { run }) => {
                assert!(!fits && run.worker == name("w"), "{theirs:?}");
                let mut again = SqliteStore::open(&path, at(0)).unwrap().store;
                assert_eq!(again.get_runs(&name("w"), 9).unwrap().len(), theirs.len());
            }
            Err(other) => panic!("{theirs:?}: {other}"),
        }
    }
    assert_eq!(numbers(&handle, "w").await, [2, 1]);
}

#[tokio::test]
async fn what_a_full_store_did_not_take_another_has() {
    let (handle, let_it, _written) = gated();
    // It is tried again when another is to take its place.
    for _ in 0..9 {
        let_it.send(false).unwrap();
    }
    assert!(handle.intend(vec![declared("w", 5)]).await.is_err());
    assert!(matches!(handle.health(), Health::Degraded { .. }));
    handle.replace(prepared(MemoryStore::new())).await.unwrap();
    assert_eq!(handle.health(), Health::Ok { made_anew: None });
    let hash = handle.ask(|store| store.get_by_name(&name("w")).unwrap().unwrap().spec_hash).await;
    assert_eq!(hash, Ok(Some(5)));
}
