//! What waits for the disk and what does not.

use std::{sync::Mutex, time::Duration};

use super::*;
use crate::model::{
    BreakerState, Confidence, Desired, Detail, DownBy, EventKind, ExitCause, KilledBy, Mono, RunId, State as Public,
    StoppedDetail, Trigger, UnknownWhy, WorkerId,
};
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::spec::types::Spec;
use crate::store::{Ended, Intent, Unstored};
use crate::testing::{Bench, Call, Script, wait_for};
use crate::worker::actor::{Charge, Found, Shared, spawn};
use crate::worker::state::State;

const SEC: Duration = Duration::from_secs(1);

type Waiting = (Vec<Change>, oneshot::Sender<Result<(), Unstored>>);

/// A disk that is as slow as a test wants: it takes everything, and each intent comes to an end when the test says so.
#[derive(Default)]
struct SlowDisk {
    waiting: Mutex<Vec<Waiting>>,
    behind: Mutex<Vec<Change>>,
}

impl Ledger for SlowDisk {
    fn intend(&self, changes: Vec<Change>) -> Intent {
        let (done, stored) = oneshot::channel();
        self.waiting.lock().unwrap().push((changes, done));
        Box::pin(async move { stored.await.unwrap_or(Err(Unstored::Closed)) })
    }

    fn record(&self, changes: Vec<Change>) {
        self.behind.lock().unwrap().extend(changes);
    }

    fn written(&self) -> Intent {
        let (done, stored) = oneshot::channel();
        self.waiting.lock().unwrap().push((Vec::new(), done));
        Box::pin(async move { stored.await.unwrap_or(Err(Unstored::Closed)) })
    }
}

impl SlowDisk {
    fn waits(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    fn comes_back(&self) {
        for (_, done) in self.waiting.lock().unwrap().drain(..) {
            drop(done.send(Ok(())));
        }
    }
}

fn failing(max_retries: u32) -> Spec {
    let restart =
        RestartPolicy { mode: RestartMode::OnFailure, max_retries, retry_delay: Duration::ZERO, ..Default::default() };
    Spec { restart, ..Spec::new(vec!["x".into()]) }
}

/// A bench whose actors have `disk` for a store.
fn on(disk: &std::sync::Arc<SlowDisk>) -> Bench {
    let mut bench = Bench::new(1);
    let Shared { kernel, clock, records, epoch, give_up, cpus, boot_id, seed, .. } = &*bench.shared;
    bench.shared = std::sync::Arc::new(Shared {
        kernel: kernel.clone(),
        clock: *clock,
        records: records.clone(),
        ledger: disk.clone(),
        epoch: *epoch,
        give_up: give_up.clone(),
        cpus: *cpus,
        boot_id: boot_id.clone(),
        seed: *seed,
        latency: std::sync::Arc::default(),
        seqs: std::sync::Mutex::default(),
    });
    bench
}

async fn not_yet(answer: &mut crate::worker::handle::Answer) {
    tokio::time::timeout(SEC, answer).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_carried_out_at_once_and_answered_when_it_is_on_disk() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    let mut stop = worker.stop(KilledBy::Stop);
    wait_for(&worker, SEC, |s| s.detail == Detail::Stopped(StoppedDetail::Stopped)).await.unwrap();
    not_yet(&mut stop).await;
    assert!(disk.waits() > 0);
    let first = disk.waiting.lock().unwrap()[0].0.clone();
    let wish = first.iter().find_map(|c| if let Change::Wish { wish, .. } = c { Some(wish) } else { None });
    assert!(matches!(wish, Some(Desired::Down(down)) if down.by == KilledBy::Stop), "{wish:?}");
    disk.comes_back();
    stop.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_told_that_it_is_taken_when_the_wish_is_on_disk() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    let mut stop = worker.stop(KilledBy::Stop);
    tokio::time::timeout(SEC, stop.taken()).await.unwrap_err();
    disk.comes_back();
    tokio::time::timeout(SEC, stop.taken()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_automatic_restart_waits_for_no_disk_and_neither_does_a_start_by_the_configuration() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(0)).unwrap();
    for _ in 0..5 {
        bench.kernel.script(worker.id(), Script::exits(Duration::from_millis(10), 1));
    }
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, 60 * SEC, |s| s.run == 6 && s.state == Public::Running).await.unwrap();
    let starts = disk.behind.lock().unwrap().iter().filter(|c| matches!(c, Change::Started { .. })).count();
    assert_eq!(starts, 6, "each is written behind");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_keeps_an_answer_for_its_patience_and_the_worker_for_no_time() {
    let disk = std::sync::Arc::default();
    let mut bench = on(&disk);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    let stop = worker.stop(KilledBy::Stop);
    // While that hangs, everything else goes on.
    let start = worker.start(Trigger::Operator);
    wait_for(&worker, SEC, |s| s.run == 2 && s.state == Public::Running).await.unwrap();
    // All of them have the same patience, and not one after the other.
    tokio::time::timeout(PATIENCE + SEC, async { (stop.await.ok(), start.await) }).await.unwrap().1.unwrap();
    let faults = bench
        .recorded()
        .into_iter()
        .filter(|e| matches!(&e.kind, EventKind::Fault { error } if error.contains("not on disk")));
    assert!(faults.count() >= 1, "it is on record");
}

#[tokio::test(start_paused = true)]
async fn with_a_full_disk_every_verb_works_and_its_events_say_that_it_is_not_on_disk() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("w", failing(1)).unwrap();
    bench.ledger.full(true);
    worker.start(Trigger::Operator).await.unwrap();
    worker.restart(false).await.unwrap();
    worker.reset().await.unwrap();
    worker.stop(KilledBy::Stop).await.unwrap();
    worker.start(Trigger::Operator).await.unwrap();
    worker.kill(KilledBy::Operator).await.unwrap();
    let faults: Vec<_> = bench.recorded().into_iter().filter(|e| matches!(e.kind, EventKind::Fault { .. })).collect();
    assert!(faults.len() >= 4, "{faults:?}");
    let EventKind::Fault { error } = &faults[0].kind else { unreachable!() };
    assert!(error.contains("no space left on device"), "{error}");
    assert_eq!(bench.ledger.record_of(worker.id()), None);
    // The disk has room again: the last word is the one that counts.
    bench.ledger.full(false);
    worker.start(Trigger::Operator).await.unwrap();
    let record = bench.ledger.record_of(worker.id()).unwrap();
    assert!(matches!(record.wish, Some((Desired::Up, _))));
}

/// Another supervisor's view of a worker of which nothing lives.
fn next_life(bench: &Bench, name: &str, spec: Spec, idle: bool) -> crate::worker::handle::WorkerHandle {
    let id = WorkerId::new(name).unwrap();
    let remembered = bench.ledger.record_of(&id).map(Box::new);
    assert!(remembered.is_some());
    let charge = Charge::new(id, spec.into(), Found::Nothing { last_run: 0 });
    spawn(&bench.shared, Charge { remembered, idle, ..charge })
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_stays_open_for_the_next_supervisor_unless_it_is_to_run_something_else() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", failing(1)).unwrap();
    for _ in 0..2 {
        bench.kernel.script(worker.id(), Script::exits(Duration::from_millis(10), 1));
    }
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, 60 * SEC, |s| s.detail == Detail::Stopped(StoppedDetail::BreakerOpen)).await.unwrap();
    drop(worker);
    let next = next_life(&bench, "w", failing(1), false);
    assert!(next.start(Trigger::Config).await.is_err(), "the breaker refuses");
    let status = next.status();
    assert_eq!(status.breaker[0].state, BreakerState::Open);
    assert_eq!((status.run, status.restarts, status.cause), (2, 1, Some(ExitCause::Exited { code: 1 })));
    assert!(next.story().exited.is_some(), "why has something to tell");
    drop(next);
    let changed = Spec { nice: 7, ..failing(1) };
    let next = next_life(&bench, "w", changed, false);
    next.start(Trigger::Config).await.unwrap();
    assert_eq!(next.status().run, 3);
}

#[test]
fn a_worker_at_rest_is_so_since_its_run_ended_or_it_was_taken_down_and_not_since_its_supervisor_began() {
    let id = WorkerId::new("w").unwrap();
    let (day, hour) = (Duration::from_secs(86_400), Duration::from_secs(3600));
    let now = Timestamp::from_second(1_000_000).unwrap();
    let ends = Change::Stopped {
        run: RunId::new(id.clone(), 1),
        ended: Box::new(Ended {
            cause: ExitCause::Exited { code: 1 },
            confidence: Confidence::Certain,
            at: now - 2 * hour,
        }),
        begun: None,
    };
    let down = |at| {
        let wish = Desired::Down(DownBy { by: KilledBy::Stop, policy: None, who: None });
        Change::Wish { worker: id.clone(), wish, at }
    };
    let up = |at| Change::Wish { worker: id.clone(), wish: Desired::Up, at };
    let cases = [
        (vec![ends.clone()], 2 * hour),
        (vec![up(now - 3 * hour), ends.clone()], 2 * hour),
        (vec![down(now - 3 * hour), ends.clone()], 2 * hour),
        (vec![ends, down(now - hour)], hour),
        // A clock that was set back meanwhile.
        (vec![down(now + hour)], Duration::ZERO),
        (vec![], Duration::ZERO),
    ];
    for (changes, ago) in cases {
        let mut record = Record::new(id.clone());
        for change in &changes {
            record.take(change);
        }
        let kept = remembered(&record, 1, 0, "this boot", now);
        let begins = Mono(day);
        let state = State::remembered(id.clone(), failing(1).into(), &kept, false, begins);
        assert_eq!(begins.since(state.status().since), ago, "{changes:?}");
        let young = State::remembered(id.clone(), failing(1).into(), &kept, false, Mono(hour / 2));
        assert_eq!(young.status().since, Mono((hour / 2).saturating_sub(ago)), "not before the boot");
    }
}

#[tokio::test(start_paused = true)]
async fn what_ran_when_its_supervisor_ended_is_started_by_the_next_one() {
    let bench = Bench::new(1);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    worker.stop(KilledBy::Shutdown).await.unwrap();
    drop(worker);
    let next = next_life(&bench, "w", failing(1), false);
    assert_eq!(next.status().down_by, None, "the end of everything is nobody's wish");
    next.start(Trigger::Config).await.unwrap();
    assert_eq!(next.status().run, 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_configuration_does_not_want_is_not_begun_by_what_was_due() {
    let bench = Bench::new(1);
    let spec =
        || Spec { restart: RestartPolicy { retry_delay: 9 * SEC, jitter: 0.0, ..failing(3).restart }, ..failing(3) };
    let worker = bench.worker("w", spec()).unwrap();
    bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, 5 * SEC, |s| s.detail == Detail::Stopped(StoppedDetail::Waiting)).await.unwrap();
    drop(worker);
    let idle = next_life(&bench, "w", spec(), true);
    tokio::time::sleep(60 * SEC).await;
    assert_eq!((idle.status().state, idle.status().run), (Public::Stopped, 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_gone_without_a_word_has_one_unknown_end_and_goes_through_the_breaker() {
    let (away, rebooted) = (UnknownWhy::SupervisorAway, UnknownWhy::HostRebooted);
    // In the last, another run had a number already and was never launched.
    for (boot, why, strikes, last) in [(None, away, 1, 4), (Some("another"), rebooted, 0, 4), (None, away, 1, 5)] {
        let mut bench = Bench::new(1);
        let (id, boot_id) = (WorkerId::new("w").unwrap(), bench.shared.boot_id.clone());
        let boot_id = boot.map_or(boot_id, Into::into);
        let run = RunId::new(id.clone(), 4);
        let at = clock_of_the_host();
        bench.ledger.record(vec![
            Change::Wish { worker: id.clone(), wish: Desired::Up, at },
            Change::Breaker {
                worker: id.clone(),
                kept: Box::new(crate::store::Kept {
                    run: last,
                    breaker: Saved::default(),
                    restarts: crate::model::RestartCounts::default(),
                    outlook: Outlook::Running,
                }),
            },
            Change::Started { run, pid: 5, boot_id, at, begun: None },
        ]);
        let next = next_life(&bench, "w", failing(3), false);
        let status = wait_for(&next, 60 * SEC, |s| s.run == last + 1 && s.state == Public::Running).await.unwrap();
        let attempts = status.breaker.first().map_or(0, |class| class.attempts);
        assert_eq!(attempts, strikes, "{why:?}");
        let ends: Vec<_> = bench
            .recorded()
            .into_iter()
            .filter_map(|e| if let EventKind::Exited { cause, .. } = e.kind { Some((e.run, cause)) } else { None })
            .collect();
        assert_eq!(ends, [(Some(4), ExitCause::Unknown { why })]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_taken_over_is_remembered_where_the_store_has_lost_it() {
    let mut bench = Bench::new(1);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    drop(worker);
    let id = WorkerId::new("w").unwrap();
    let crate::testing::Left { pid, note, .. } = bench.kernel.recover(&id).newest.unwrap();
    let disk: std::sync::Arc<SlowDisk> = std::sync::Arc::default();
    let empty = on(&disk);
    bench.shared = empty.shared.clone();
    let charge = Charge::new(id, failing(1).into(), Found::Alive { pid, note, frozen: false });
    let worker = spawn(&bench.shared, charge);
    wait_for(&worker, SEC, |s| s.state == Public::Running).await.unwrap();
    tokio::time::sleep(SEC).await;
    let known = disk.behind.lock().unwrap();
    assert!(known.iter().any(|c| matches!(c, Change::Started { run, .. } if run.number == 1)), "{known:?}");
    assert!(known.iter().any(|c| matches!(c, Change::Wish { wish: Desired::Up, .. })), "{known:?}");
}

fn clock_of_the_host() -> Timestamp {
    crate::clock::wall()
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_keeps_of_a_stopped_run_stays_until_the_stop_is_on_disk() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(1)).unwrap();
    worker.start(Trigger::Config).await.unwrap();
    let stop = worker.stop(KilledBy::Stop);
    wait_for(&worker, SEC, |s| s.detail == Detail::Stopped(StoppedDetail::Stopped)).await.unwrap();
    let removed = || bench.kernel.calls().iter().any(|(_, call)| matches!(call, Call::Remove(_)));
    tokio::time::sleep(SEC).await;
    // A supervisor that is killed now leaves nothing else that says it was to be stopped.
    assert!(!removed());
    disk.comes_back();
    stop.await.unwrap();
    assert!(removed(), "and goes before the answer");
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_run_has_a_few_ends_however_many_the_store_has_not() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(0)).unwrap();
    for _ in 0..40 {
        bench.kernel.script(worker.id(), Script::exits(Duration::from_millis(1), 1));
    }
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, SEC, |s| s.run == 41 && s.state == Public::Running).await.unwrap();
    let note = bench.kernel.note_of(&RunId::new(worker.id().clone(), 41)).unwrap();
    let ends: Vec<u32> = note.untold.iter().map(|end| end.run).collect();
    assert_eq!(ends, (33..=40).collect::<Vec<_>>(), "the last ones");
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_a_disk_hangs_is_cleared_away_within_one_patience() {
    let disk = std::sync::Arc::default();
    let bench = on(&disk);
    let worker = bench.worker("w", failing(0)).unwrap();
    for _ in 0..20 {
        bench.kernel.script(worker.id(), Script::exits(SEC / 10, 1));
    }
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, 60 * SEC, |s| s.run == 21 && s.state == Public::Running).await.unwrap();
    tokio::time::sleep(PATIENCE + SEC).await;
    assert_eq!(bench.kernel.directories(), [RunId::new(worker.id().clone(), 21)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_full_disk_refuses_is_in_the_records_of_the_runs_that_follow_until_it_does_not() {
    let bench = Bench::new(1);
    let restart = RestartPolicy { retry_delay: 2 * SEC, jitter: 0.0, ..failing(9).restart };
    let worker = bench.worker("w", Spec { restart, ..failing(9) }).unwrap();
    for _ in 0..3 {
        bench.kernel.script(worker.id(), Script::exits(SEC, 1));
    }
    let untold = |run| {
        let note = bench.kernel.note_of(&RunId::new(worker.id().clone(), run)).unwrap();
        note.untold.iter().map(|end| end.run).collect::<Vec<_>>()
    };
    bench.ledger.full(true);
    worker.start(Trigger::Config).await.unwrap();
    wait_for(&worker, 60 * SEC, |s| s.run == 3 && s.state == Public::Running).await.unwrap();
    assert_eq!(untold(3), [1, 2]);
    bench.ledger.full(false);
    wait_for(&worker, 60 * SEC, |s| s.run == 4 && s.state == Public::Running).await.unwrap();
    assert_eq!(untold(4), [0; 0], "the store has them all");
}
