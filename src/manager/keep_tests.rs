//! In the terms of the library that users come from: `SetStore` persists what processes do, `SetHistorySinks` streams it to others.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;

use super::*;
use crate::history::{MemorySink, WriteError, Written};
use crate::model::{EventKind, RunId, State, WorkerStatus};
use crate::spec::types::Spec;
use crate::store::{Change, Run, SqliteStore, StoreError};
use crate::testing::{Bench, FakeKernel, Script, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn nginx() -> Spec {
    let mut spec = Spec::new(vec!["nginx".into()]);
    spec.restart.retry_delay = Duration::ZERO;
    spec
}

fn manager() -> (Manager, FakeKernel) {
    let clock = Clock::new();
    let kernel = FakeKernel::new(clock, 1);
    (Manager::over(Arc::new(kernel.clone()), clock).unwrap(), kernel)
}

fn numbers(store: &MemoryStore, worker: &str) -> Vec<u32> {
    store.clone().get_runs(&id(worker), 100).unwrap().iter().map(|run| run.number).collect()
}

fn names(store: &MemoryStore) -> Vec<String> {
    store.clone().get_all().unwrap().iter().map(|record| record.worker.to_string()).collect()
}

async fn reached(manager: &Manager, name: &str, level: impl FnMut(&WorkerStatus) -> bool) {
    wait_for(&manager.find(name).unwrap().worker, PATIENCE, level).await.unwrap();
}

/// A store that takes nothing: it refuses, or never comes back.
struct Broken {
    hangs: bool,
}

impl Store for Broken {
    fn ensure_schema(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        while self.hangs && !changes.is_empty() {
            std::thread::park();
        }
        let source = io::ErrorKind::StorageFull.into();
        if changes.is_empty() { Ok(()) } else { Err(StoreError::Io { doing: "writing to", path: "x".into(), source }) }
    }
    fn begin_anew(&mut self, _now: jiff::Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
    fn get_by_name(&mut self, _worker: &WorkerId) -> Result<Option<Record>, StoreError> {
        Ok(None)
    }
    fn get_all(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(Vec::new())
    }
    fn get_runs(&mut self, _worker: &WorkerId, _limit: usize) -> Result<Vec<Run>, StoreError> {
        Ok(Vec::new())
    }
    fn purge_older_than(&mut self, _moment: jiff::Timestamp) -> Result<usize, StoreError> {
        Ok(0)
    }
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A sink that never takes anything, or cannot be used at all.
struct Stuck {
    unusable: bool,
}

impl HistorySink for Stuck {
    fn name(&self) -> String {
        "stuck".to_owned()
    }
    fn check(&mut self) -> BoxFuture<'_, Result<(), WriteError>> {
        let checked = if self.unusable { Err(WriteError::new("no such directory")) } else { Ok(()) };
        Box::pin(std::future::ready(checked))
    }
    fn write<'a>(
        &'a mut self,
        _batch: &'a [Arc<crate::history::Record>],
    ) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(std::future::pending())
    }
}

/// Of which workers it has a `started` event.
fn started(sink: &MemorySink) -> BTreeSet<String> {
    let records = sink.records();
    let of = records.iter().filter(|record| matches!(record.event.kind, EventKind::Started { .. }));
    of.filter_map(|record| record.event.worker.as_ref().map(WorkerId::to_string)).collect()
}

// ── set_store ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn what_processes_do_is_persisted_without_being_asked_for() {
    let (manager, _kernel) = manager();
    let store = MemoryStore::new();
    manager.set_store(Box::new(store.clone())).await.unwrap();
    manager.start_n(&id("web-server"), nginx(), 3).await.unwrap();
    manager.stop("web-server-2", None).await.unwrap();
    manager.flush_store().await.unwrap();
    assert_eq!(names(&store), ["web-server-1", "web-server-2", "web-server-3"]);
    let running: Vec<_> = store.clone().get_running().unwrap().iter().map(|record| record.worker.to_string()).collect();
    assert_eq!(running, ["web-server-1", "web-server-3"]);
    assert!(store.clone().get_runs(&id("web-server-2"), 1).unwrap()[0].ended.is_some());
}

#[tokio::test]
async fn a_store_that_is_set_later_is_handed_everything_that_is_known() {
    let (manager, kernel) = manager();
    kernel.script(&id("crash"), Script::exits(Duration::ZERO, 1));
    manager.start(id("crash"), nginx()).await.unwrap();
    reached(&manager, "crash", |status| status.run == 2 && status.state == State::Running).await;
    let pid = manager.status("crash").unwrap().pid;
    let (first, second) = (MemoryStore::new(), MemoryStore::new());
    for store in [&first, &second] {
        manager.set_store(Box::new(store.clone())).await.unwrap();
    }
    manager.start(id("later"), nginx()).await.unwrap();
    manager.flush_store().await.unwrap();
    assert_eq!(numbers(&second, "crash"), [2, 1], "what was before the store was set is in it");
    assert_eq!(names(&second), ["crash", "later"]);
    assert_eq!(names(&first), ["crash"], "the one before has what was until then, and nothing after");
    assert_eq!(manager.status("crash").unwrap().pid, pid, "no worker has noticed");
}

#[tokio::test]
async fn a_worker_goes_on_where_the_store_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Box::new(SqliteStore::open(&dir.path().join("processes.db"), clock::wall()).unwrap().store);
    let (before, kernel) = manager();
    before.set_store(open()).await.unwrap();
    kernel.script(&id("web"), Script::exits(Duration::ZERO, 1));
    before.start(id("web"), nginx()).await.unwrap();
    reached(&before, "web", |status| status.run == 2 && status.state == State::Running).await;
    before.shutdown().await.unwrap();

    let (after, _kernel) = manager();
    after.set_store(open()).await.unwrap();
    after.start(id("web"), nginx()).await.unwrap();
    let status = after.status("web").unwrap();
    assert_eq!((status.run, status.restarts_by.exit), (3, 1), "numbers and counts go on");
    after.start(id("new"), nginx()).await.unwrap();
    assert_eq!(after.status("new").unwrap().run, 1);
    after.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_store_that_tells_of_another_life_of_a_worker_is_refused_and_nothing_changes() {
    let (manager, _kernel) = manager();
    let store = MemoryStore::new();
    manager.set_store(Box::new(store.clone())).await.unwrap();
    manager.start(id("web"), nginx()).await.unwrap();
    let mut foreign = MemoryStore::new();
    foreign.record_start(&RunId::new(id("web"), 7), 4711, "another boot", clock::wall()).unwrap();
    foreign.record_start(&RunId::new(id("db"), 7), 4712, "another boot", clock::wall()).unwrap();
    let refused = manager.set_store(Box::new(foreign)).await;
    assert!(matches!(refused, Err(NotKept::Store(NotReplaced::Foreign { .. }))), "{refused:?}");
    manager.start(id("db"), nginx()).await.unwrap();
    manager.flush_store().await.unwrap();
    assert_eq!(numbers(&store, "db"), [1], "nor is anything gone on with that it remembers");
}

#[tokio::test]
async fn a_store_that_fails_fails_no_process() {
    for hangs in [false, true] {
        let (manager, kernel) = manager();
        manager.set_store(Box::new(Broken { hangs })).await.unwrap();
        kernel.script(&id("web"), Script::exits(Duration::ZERO, 1));
        let worker = id("web");
        // The answer to a wish waits for its disk, for a while; the process does not.
        let (asked, ()) = tokio::join!(tokio::time::timeout(PATIENCE, manager.start(worker, nginx())), async {
            while manager.find("web").is_none() {
                tokio::task::yield_now().await;
            }
            reached(&manager, "web", |status| status.run == 2 && status.state == State::Running).await;
        });
        asked.unwrap().unwrap();
        let answer = manager.store_health();
        assert!(hangs || matches!(answer, Some(Health::Degraded { .. })), "{answer:?}");
        if !hangs {
            // Another one in its place has all that it did not take.
            let store = MemoryStore::new();
            manager.set_store(Box::new(store.clone())).await.unwrap();
            manager.flush_store().await.unwrap();
            assert_eq!(numbers(&store, "web"), [2, 1]);
        }
    }
}

#[tokio::test]
async fn who_is_removed_is_forgotten_and_its_numbers_go_on() {
    let (manager, _kernel) = manager();
    let store = MemoryStore::new();
    manager.set_store(Box::new(store.clone())).await.unwrap();
    manager.start(id("web"), nginx()).await.unwrap();
    manager.stop("web", None).await.unwrap();
    manager.remove("web").await.unwrap();
    manager.flush_store().await.unwrap();
    assert_eq!(names(&store), Vec::<String>::new());
    manager.start(id("web"), nginx()).await.unwrap();
    assert_eq!(manager.status("web").unwrap().run, 2);
}

// ── set_history_sinks ─────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn lifecycle_events_are_streamed_to_every_sink_and_to_the_last_one() {
    let (manager, _kernel) = manager();
    let (one, two) = (MemorySink::new(1000), MemorySink::new(1000));
    manager.set_history_sinks(vec![Box::new(one.clone()), Box::new(two.clone())]).await.unwrap();
    manager.start(id("web"), nginx()).await.unwrap();
    manager.shutdown().await.unwrap();
    let kinds: Vec<_> = one.records().iter().map(|record| record.event.kind.word()).collect();
    assert!(kinds.contains(&"started") && kinds.contains(&"exited"), "{kinds:?}");
    let seqs: Vec<_> = one.records().iter().map(|record| record.event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "without a gap");
    assert_eq!(two.records().len(), one.records().len());
}

#[tokio::test]
async fn other_sinks_have_every_event_from_then_on_and_those_before_none() {
    let (manager, _kernel) = manager();
    let (before, after) = (MemorySink::new(1000), MemorySink::new(1000));
    manager.set_history_sinks(vec![Box::new(before.clone())]).await.unwrap();
    manager.start(id("a"), nginx()).await.unwrap();
    manager.set_history_sinks(vec![Box::new(after.clone())]).await.unwrap();
    manager.start(id("b"), nginx()).await.unwrap();
    manager.shutdown().await.unwrap();
    assert_eq!(started(&before), BTreeSet::from(["a".to_owned()]));
    assert_eq!(started(&after), BTreeSet::from(["b".to_owned()]));
    let (first, last) = (before.records(), after.records());
    let position =
        |records: &[Arc<crate::history::Record>]| records.iter().map(|r| r.cursor().position).collect::<Vec<_>>();
    let all = [position(&first), position(&last)].concat();
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>(), "none is lost and none is there twice");
}

#[tokio::test]
async fn a_sink_that_is_stuck_holds_up_neither_a_process_nor_another_sink() {
    let (manager, _kernel) = manager();
    let well = MemorySink::new(1000);
    manager.set_history_sinks(vec![Box::new(Stuck { unusable: false }), Box::new(well.clone())]).await.unwrap();
    manager.start(id("web"), nginx()).await.unwrap();
    manager.stop("web", None).await.unwrap();
    let all = async {
        while well.records().iter().all(|record| record.event.kind.word() != "exited") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    let health = manager.history_health();
    assert_eq!((health[0].delivered, health[1].queued), (0, 0));
    assert!(health[0].queued > 0, "what waits is counted");
}

#[tokio::test]
async fn a_sink_that_cannot_be_used_is_refused_and_those_before_go_on() {
    let (manager, _kernel) = manager();
    let (before, after) = (MemorySink::new(1000), MemorySink::new(1000));
    manager.set_history_sinks(vec![Box::new(before.clone())]).await.unwrap();
    let sinks: Vec<Box<dyn HistorySink>> = vec![Box::new(after.clone()), Box::new(Stuck { unusable: true })];
    let refused = manager.set_history_sinks(sinks).await.unwrap_err();
    assert_eq!(chain(&refused), "the history sink stuck cannot be used: no such directory");
    manager.start(id("web"), nginx()).await.unwrap();
    manager.shutdown().await.unwrap();
    assert_eq!((started(&before).len(), after.records().len()), (1, 0));
}

#[tokio::test]
async fn after_the_shutdown_nothing_can_be_set_any_more() {
    let (manager, _kernel) = manager();
    manager.shutdown().await.unwrap();
    let store = manager.set_store(Box::new(MemoryStore::new())).await;
    assert!(matches!(store, Err(NotKept::Store(NotReplaced::Closed(_)))), "{store:?}");
    assert!(matches!(manager.set_history_sinks(Vec::new()).await, Err(NotKept::Closed)));
}

#[tokio::test]
async fn a_manager_that_did_not_bring_its_own_refuses_both() {
    let bench = Bench::new(1);
    let crew = Manager::with(Arc::new(Crew::new(Arc::clone(&bench.shared))), Vec::new());
    for manager in [crew, Manager::new(Vec::new())] {
        assert!(matches!(manager.set_store(Box::new(MemoryStore::new())).await, Err(NotKept::NotOurs)));
        assert!(matches!(manager.set_history_sinks(Vec::new()).await, Err(NotKept::NotOurs)));
        assert_eq!((manager.history_health().len(), manager.store_health()), (0, None));
    }
}
