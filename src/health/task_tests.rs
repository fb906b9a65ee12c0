use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::spec::types::ProbeAction;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A worker that the test moves.
#[derive(Clone)]
struct Fake {
    /// The run that runs.
    runs: watch::Receiver<Option<RunSeen>>,
    /// By another hand, of which nobody is told.
    frozen: Arc<AtomicBool>,
    /// As is known of it.
    known: watch::Receiver<bool>,
    reports: mpsc::UnboundedSender<(u32, HealthReport)>,
    /// Open: reports are answered. Closed: they wait.
    answering: watch::Receiver<bool>,
    verdict: HealthVerdict,
}

impl Patient for Fake {
    async fn next_run(&self) -> Option<RunSeen> {
        // A closed channel still shows its last value.
        self.runs.has_changed().ok()?;
        let mut runs = self.runs.clone();
        let run = runs.wait_for(Option::is_some).await.ok()?;
        *run
    }

    async fn run_over(&self, number: u32) {
        let over = |run: &Option<RunSeen>| run.is_none_or(|run| run.number != number);
        drop(self.runs.clone().wait_for(over).await);
    }

    fn frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst) || *self.known.borrow()
    }

    async fn freezes(&self, _: u32) {
        self.known.clone().wait_for(|frozen| *frozen).await.unwrap();
    }

    async fn thaws(&self, _: u32) {
        self.known.clone().wait_for(|frozen| !frozen).await.unwrap();
    }

    async fn report(&self, number: u32, report: HealthReport) -> HealthVerdict {
        let failed = matches!(report, HealthReport::Failed { .. });
        self.reports.send((number, report)).unwrap();
        self.answering.clone().wait_for(|answering| *answering).await.unwrap();
        if failed { self.verdict.clone() } else { HealthVerdict::Noted }
    }
}

/// A prober with a script: how long the next try takes and what comes of it. Afterwards each takes no time and passes.
#[derive(Clone, Default)]
struct Script {
    next: Arc<Mutex<VecDeque<(Duration, Finding)>>>,
    tries: Arc<Mutex<Vec<(u64, u32, ProbeKind)>>>,
    in_flight: Arc<AtomicU32>,
    clock: Arc<Mutex<Option<Clock>>>,
}

/// Counts a try for as long as it is not dropped.
struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Prober for Script {
    async fn probe(&self, run: u32, kind: ProbeKind, _: &Probe) -> Outcome {
        let before = self.in_flight.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "one at a time");
        let _flying = InFlight(Arc::clone(&self.in_flight));
        let second = self.clock.lock().unwrap().unwrap().now().since(BEGIN).as_secs();
        self.tries.lock().unwrap().push((second, run, kind));
        let next = self.next.lock().unwrap().pop_front();
        let (length, finding) = next.unwrap_or((Duration::ZERO, Finding::Passed));
        tokio::time::sleep(length).await;
        Outcome { finding, observed: "seen".into() }
    }
}

const BEGIN: Mono = Mono(Duration::from_secs(5000));

/// A monitor's task, and everything around it in the test's hand.
struct Bed {
    clock: Clock,
    run: watch::Sender<Option<RunSeen>>,
    frozen: Arc<AtomicBool>,
    known: watch::Sender<bool>,
    answering: watch::Sender<bool>,
    reports: mpsc::UnboundedReceiver<(u32, HealthReport)>,
    script: Script,
    /// How often the task was polled.
    woken: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Bed {
    fn new(check: HealthCheck, verdict: HealthVerdict, script: &[(u64, Finding)]) -> Self {
        let clock = Clock::anchored_at(BEGIN);
        let (run, runs) = watch::channel(None);
        let (answering, answers) = watch::channel(true);
        let (freezing, known) = watch::channel(false);
        let (sender, reports) = mpsc::unbounded_channel();
        let frozen = Arc::new(AtomicBool::new(false));
        let icy = Arc::clone(&frozen);
        let fake = Fake { runs, frozen: icy, known, reports: sender, answering: answers, verdict };
        let played = Script::default();
        *played.clock.lock().unwrap() = Some(clock);
        played.next.lock().unwrap().extend(script.iter().map(|(length, finding)| (secs(*length), *finding)));
        let woken = Arc::new(AtomicU32::new(0));
        let (count, mut attend) = (Arc::clone(&woken), Box::pin(attend(fake, played.clone(), Arc::new(check), clock)));
        let task = tokio::spawn(std::future::poll_fn(move |cx| {
            count.fetch_add(1, Ordering::SeqCst);
            attend.as_mut().poll(cx)
        }));
        Self { clock, run, frozen, known: freezing, answering, reports, script: played, woken, task }
    }

    fn starts(&self, number: u32) {
        self.run.send_replace(Some(RunSeen { number, started: self.clock.now() }));
    }

    fn ends(&self) {
        self.run.send_replace(None);
    }

    /// Lets `n` seconds go by, and everything happen that is due in them.
    async fn pass(&self, n: u64) {
        tokio::time::sleep(secs(n)).await;
    }

    fn tries(&self) -> Vec<(u64, u32)> {
        self.script.tries.lock().unwrap().iter().map(|(second, run, _)| (*second, *run)).collect()
    }

    fn in_flight(&self) -> u32 {
        self.script.in_flight.load(Ordering::SeqCst)
    }

    async fn report(&mut self) -> (u32, HealthReport) {
        timeout(secs(1000), self.reports.recv()).await.expect("no report").unwrap()
    }
}

fn liveness(failure_threshold: u32) -> HealthCheck {
    let probe = Probe {
        action: ProbeAction::TcpSocket { host: "127.0.0.1".into(), port: 1 },
        initial_delay: Duration::ZERO,
        period: secs(10),
        timeout: secs(5),
        failure_threshold,
        success_threshold: 1,
    };
    HealthCheck { startup: None, liveness: Some(probe), readiness: None }
}

const FAILED: (u64, Finding) = (0, Finding::Failed);
const RESTARTING: HealthVerdict = HealthVerdict::Restarting;

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_and_nothing_wakes_while_no_run_runs() {
    let bed = Bed::new(liveness(3), RESTARTING, &[]);
    bed.pass(1).await;
    let before = bed.woken.load(Ordering::SeqCst);
    bed.pass(100_000).await;
    assert_eq!(bed.woken.load(Ordering::SeqCst), before);
    assert_eq!(bed.tries(), []);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_probed_from_its_start_in_its_period_until_its_end() {
    let mut bed = Bed::new(liveness(3), RESTARTING, &[]);
    bed.pass(3).await;
    bed.starts(1);
    bed.pass(25).await;
    bed.ends();
    bed.pass(100).await;
    assert_eq!(bed.tries(), [(3, 1), (13, 1), (23, 1)]);
    assert_eq!(bed.report().await, (1, HealthReport::Alive { observed: "seen".into() }));
    assert!(bed.reports.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_ends_the_try_in_flight_and_its_outcome_never_counts_for_the_next() {
    let mut bed = Bed::new(liveness(1), RESTARTING, &[(4, Finding::Failed)]);
    bed.starts(3);
    bed.pass(2).await;
    assert_eq!(bed.in_flight(), 1);
    bed.starts(4);
    tokio::task::yield_now().await;
    bed.pass(1).await;
    assert_eq!(bed.in_flight(), 0, "dropped with its run");
    assert_eq!(bed.report().await, (4, HealthReport::Alive { observed: "seen".into() }));
    assert_eq!(bed.tries(), [(0, 3), (2, 4)]);
    assert!(bed.reports.is_empty(), "run 3's try was never told");
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_run_are_not_carried_over_to_the_next() {
    let mut bed = Bed::new(liveness(2), RESTARTING, &[FAILED, FAILED, FAILED, FAILED]);
    bed.starts(1);
    bed.pass(5).await;
    bed.starts(2);
    bed.pass(5).await;
    assert!(bed.reports.is_empty(), "one failure of each");
    let (run, report) = bed.report().await;
    assert_eq!((run, report.probe()), (2, ProbeKind::Liveness));
    assert_eq!(bed.tries(), [(0, 1), (5, 2), (15, 2)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_until_a_report_is_answered() {
    let mut bed = Bed::new(liveness(1), HealthVerdict::Muted, &[FAILED, FAILED]);
    bed.answering.send_replace(false);
    bed.starts(1);
    bed.pass(35).await;
    assert_eq!(bed.tries(), [(0, 1)]);
    bed.answering.send_replace(true);
    bed.pass(1).await;
    assert_eq!(bed.tries(), [(0, 1), (35, 1)], "what was due meanwhile, once");
    for _ in 0..2 {
        assert!(matches!(bed.report().await, (1, HealthReport::Failed { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_is_not_held_up_by_an_answer() {
    let bed = Bed::new(liveness(1), RESTARTING, &[FAILED]);
    bed.answering.send_replace(false);
    bed.starts(1);
    bed.pass(1).await;
    bed.starts(2);
    bed.pass(1).await;
    assert_eq!(bed.tries(), [(0, 1), (1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_worker_is_not_probed_and_its_failures_do_not_count() {
    let mut bed = Bed::new(liveness(1), RESTARTING, &[(0, Finding::Passed), (5, Finding::Failed)]);
    bed.starts(1);
    bed.pass(12).await;
    assert_eq!(bed.in_flight(), 1);
    bed.frozen.store(true, Ordering::SeqCst);
    bed.pass(40).await;
    assert_eq!(bed.tries(), [(0, 1), (10, 1)]);
    bed.frozen.store(false, Ordering::SeqCst);
    bed.pass(10).await;
    assert_eq!(bed.tries(), [(0, 1), (10, 1), (60, 1)]);
    assert!(matches!(bed.report().await, (1, HealthReport::Alive { .. })));
    assert!(bed.reports.is_empty(), "what failed in the freezer was not told");
}

#[tokio::test(start_paused = true)]
async fn the_time_in_the_freezer_counts_for_nothing_and_a_try_that_it_met_is_made_again() {
    let mut bed = Bed::new(liveness(1), RESTARTING, &[(0, Finding::Passed), (5, Finding::Failed)]);
    bed.starts(1);
    bed.pass(12).await;
    assert_eq!(bed.in_flight(), 1);
    bed.known.send_replace(true);
    bed.pass(1).await;
    assert_eq!(bed.in_flight(), 0, "it could not be answered");
    // Thawed before its timeout: the try would have failed for the time that it stood still.
    bed.known.send_replace(false);
    bed.pass(15).await;
    assert_eq!(
        bed.tries(),
        [(0, 1), (10, 1), (21, 1)],
        "due ten seconds after the last one, and one that did not count"
    );
    bed.known.send_replace(true);
    bed.pass(1000).await;
    bed.known.send_replace(false);
    bed.pass(4).await;
    assert_eq!(bed.tries().len(), 4, "28 s into it three seconds were left, and still are: {:?}", bed.tries());
    assert!(matches!(bed.report().await, (1, HealthReport::Alive { .. })));
    assert!(bed.reports.is_empty(), "nothing failed");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_frozen_run_is_the_end_of_its_watch() {
    let bed = Bed::new(liveness(1), RESTARTING, &[]);
    bed.starts(1);
    bed.pass(1).await;
    bed.known.send_replace(true);
    bed.pass(1).await;
    bed.ends();
    bed.known.send_replace(false);
    bed.starts(2);
    bed.pass(1).await;
    assert_eq!(bed.tries(), [(0, 1), (2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn two_probes_that_are_due_at_once_are_tried_one_after_the_other() {
    let check = liveness(3);
    let check = HealthCheck { readiness: check.liveness.clone(), ..check };
    let bed = Bed::new(check, RESTARTING, &[(3, Finding::Passed), (3, Finding::Passed)]);
    bed.starts(1);
    bed.pass(12).await;
    let tries = bed.script.tries.lock().unwrap().clone();
    let expected = [(0, 1, ProbeKind::Liveness), (3, 1, ProbeKind::Readiness), (10, 1, ProbeKind::Liveness)];
    assert_eq!(tries, expected);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_worker_whatever_it_does() {
    for running in [false, true] {
        let bed = Bed::new(liveness(3), RESTARTING, &[(1000, Finding::Passed)]);
        if running {
            bed.starts(1);
        }
        bed.pass(1).await;
        drop(bed.run);
        timeout(secs(1), bed.task).await.expect("it goes on").unwrap();
        assert_eq!(bed.script.in_flight.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_task_drops_its_try() {
    let bed = Bed::new(liveness(3), RESTARTING, &[(1000, Finding::Passed)]);
    bed.starts(1);
    bed.pass(1).await;
    assert_eq!(bed.in_flight(), 1);
    bed.task.abort();
    assert!(bed.task.await.unwrap_err().is_cancelled());
    assert_eq!(bed.script.in_flight.load(Ordering::SeqCst), 0);
}
