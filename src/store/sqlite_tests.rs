use std::{fs, time::Duration};

use super::super::change::{Ended, Kept, Shown};
use super::super::{Found, MemoryStore, Opened};
use super::*;
use crate::model::{
    Begun, Class, Confidence, Desired, Detail, DownBy, ExitCause, KilledBy, Mono, Outlook, PolicyName, RestartCounts,
    RunId, Severity, State, StoppedDetail, Story,
};
use crate::policy::breaker::{Breaker, Request};
use crate::policy::restart::RestartPolicy;

pub(in crate::store) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(in crate::store) fn name(text: &str) -> WorkerId {
    WorkerId::new(text).unwrap()
}

fn opened(path: &Path) -> Opened {
    SqliteStore::open(path, at(0)).unwrap()
}

fn a_breaker_with(strikes: u32) -> Kept {
    let (policy, now) = (RestartPolicy::default(), Mono(Duration::from_secs(100)));
    let mut breaker = Breaker::default();
    for _ in 0..strikes {
        let request = Request { class: Class::Exit, severity: Severity::Critical, began: now, alive_since: None };
        let _admission = breaker.request(&policy, request, now, 0.5);
    }
    let restarts = RestartCounts { exit: strikes, ..Default::default() };
    let outlook = Outlook::Due { after: Duration::from_millis(1500), class: Some(Class::Exit) };
    Kept { run: strikes, breaker: breaker.save(now), restarts, outlook }
}

fn begun(random: &mut fastrand::Rng) -> Option<Begun> {
    [None, Some(Begun::Start), Some(Begun::Violation)][random.usize(0..3)]
}

fn any_change(random: &mut fastrand::Rng) -> Change {
    let worker = name(["a", "b-1", "b-2"][random.usize(0..3)]);
    let run = RunId::new(worker.clone(), random.u32(1..9));
    let at = at(random.i64(0..1000));
    match random.u32(0..16) {
        0 => Change::Forgotten { worker },
        1 | 2 => Change::Declared { worker, spec_hash: random.u64(..) },
        3 => Change::Wish { worker, wish: Desired::Up, at },
        4 => {
            let by = DownBy { by: KilledBy::Policy, policy: Some(PolicyName::Pids), who: Some("uid 5 \"x\"".into()) };
            Change::Wish { worker, wish: Desired::Down(by), at }
        }
        5 | 6 => Change::Breaker { worker, kept: Box::new(a_breaker_with(random.u32(0..6))) },
        7..10 => Change::Started { run, pid: random.i32(2..99), boot_id: "one".into(), at, begun: begun(random) },
        10..13 => {
            let cause = ExitCause::Exited { code: random.i32(0..256) };
            let ended = Box::new(Ended { cause, confidence: Confidence::Certain, at });
            Change::Stopped { run, ended, begun: begun(random) }
        }
        n => {
            let shown = Shown { state: State::Stopped, detail: Detail::Stopped(StoppedDetail::Done) };
            let story = (n == 13).then(|| Arc::new(Story::default()));
            Change::Status { worker, status: shown, story }
        }
    }
}

type Told = (Vec<Record>, Vec<Record>, Vec<Option<Record>>, Vec<Vec<Run>>);

/// All that can be asked of a store.
fn told(store: &mut dyn Store) -> Told {
    let names = ["a", "b-1", "b-2", "never"].map(name);
    (
        store.get_all().unwrap(),
        store.get_running().unwrap(),
        names.iter().map(|worker| store.get_by_name(worker).unwrap()).collect(),
        names.iter().map(|worker| store.get_runs(worker, 5).unwrap()).collect(),
    )
}

#[test]
fn a_file_remembers_the_same_as_memory_also_when_it_is_opened_again() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pinfold.db");
        let mut file = opened(&path).store;
        let mut memory = MemoryStore::new();
        for _ in 0..random.usize(1..12) {
            let changes: Vec<_> = (0..random.usize(1..12)).map(|_| any_change(&mut random)).collect();
            memory.apply(&changes).unwrap();
            if random.bool() { file.apply(&changes) } else { file.apply_behind(&changes) }.unwrap();
            if random.u32(0..4) == 0 {
                let before = at(random.i64(0..1000));
                let purged = memory.purge_older_than(before).unwrap();
                assert_eq!(file.purge_older_than(before).unwrap(), purged, "seed {seed}");
            }
            assert_eq!(told(&mut file), told(&mut memory), "seed {seed}");
        }
        Box::new(file).close().unwrap();
        let Opened { mut store, found, records, .. } = opened(&path);
        assert_eq!(found, Found::Intact);
        assert_eq!(told(&mut store), told(&mut memory), "seed {seed}");
        assert_eq!(records, memory.get_all().unwrap(), "seed {seed}");
    }
}

#[test]
fn what_cannot_be_written_as_a_whole_is_not_written_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = opened(&dir.path().join("pinfold.db")).store;
    let worker = name("w");
    store.apply(&[Change::Declared { worker: worker.clone(), spec_hash: 1 }]).unwrap();
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let many = (0..5000).map(|n| Change::Declared { worker: name(&format!("n-{n}")), spec_hash: 2 });
    let changes: Vec<_> =
        std::iter::once(Change::Declared { worker: worker.clone(), spec_hash: 2 }).chain(many).collect();
    let error = store.apply(&changes).unwrap_err();
    assert!(crate::model::chain(&error).contains("disk is full"), "{error:?}");
    assert_eq!(store.get_all().unwrap().len(), 1);
    assert_eq!(store.get_by_name(&worker).unwrap().unwrap().spec_hash, Some(1));
    store.connection.pragma_update(None, "max_page_count", 1 << 20).unwrap();
    store.apply(&changes).unwrap();
    assert_eq!(store.get_all().unwrap().len(), 5001);
}

#[test]
fn the_last_run_of_a_worker_is_never_purged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = opened(&dir.path().join("pinfold.db")).store;
    for number in 1..=3 {
        let run = RunId::new(name("w"), number);
        store.record_start(&run, 7, "boot", at(0)).unwrap();
        store.record_stop(&run, ExitCause::KilledExternal, Confidence::Certain, at(i64::from(number))).unwrap();
    }
    assert_eq!(store.purge_older_than(at(2)).unwrap(), 1);
    assert_eq!(store.purge_older_than(at(100)).unwrap(), 1);
    let left = store.get_runs(&name("w"), 9).unwrap();
    assert_eq!(left.iter().map(|run| run.number).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_file_that_was_removed_or_replaced_while_it_is_open_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let mut store = opened(&path).store;
    let change = [Change::Declared { worker: name("w"), spec_hash: 1 }];
    store.apply(&change).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.apply(&change), Err(StoreError::Lost { what: "was removed", .. })));
    fs::write(&path, "something else").unwrap();
    assert!(matches!(store.apply(&change), Err(StoreError::Lost { what: "was replaced", .. })));
    store.begin_anew(at(1)).unwrap();
    store.apply(&change).unwrap();
    assert_eq!(store.get_all().unwrap().len(), 1);
    let aside = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let aside: Vec<_> = aside.filter(|name| name.contains(".corrupt-") && !name.ends_with("-wal")).collect();
    assert_eq!(aside.len(), 1, "what was put there is kept: {aside:?}");
}

#[test]
fn a_file_of_the_first_version_is_brought_to_this_one_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pinfold.db");
    let run = RunId::new(name("w"), 3);
    let mut store = SqliteStore::open(&path, at(0)).unwrap().store;
    store.record_start(&run, 7, "boot", at(1)).unwrap();
    Box::new(store).close().unwrap();
    // As the first version made it.
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("ALTER TABLE runs DROP COLUMN begun; PRAGMA user_version = 1").unwrap();
    connection.close().unwrap();

    let opened = SqliteStore::open(&path, at(9)).unwrap();
    assert_eq!(opened.found, open::Found::Intact);
    let mut store = opened.store;
    let last = store.get_runs(&name("w"), 9).unwrap().remove(0);
    assert_eq!((last.number, last.pid, last.begun), (3, Some(7), None));
    let next = RunId::new(name("w"), 4);
    let begun = Some(Begun::Reload);
    store.apply(&[Change::Started { run: next, pid: 8, boot_id: "boot".into(), at: at(2), begun }]).unwrap();
    Box::new(store).close().unwrap();
    let again = SqliteStore::open(&path, at(10)).unwrap();
    assert_eq!((again.found, again.records[0].last_run.as_ref().unwrap().begun), (open::Found::Intact, begun));
}
