use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use tokio::time::sleep;

use super::record::tests::event;
use super::*;
use crate::clock::Clock;
use crate::model::Mono;

const HOUR: Duration = Duration::from_secs(3600);
/// Longer than any delay between two tries.
const A_WHILE: Duration = Duration::from_secs(60);

fn records(n: u64) -> Vec<Arc<Record>> {
    let mut scribe = Scribe::new("e");
    (1..=n).map(|seq| scribe.write(event(seq, "x"))).collect()
}

fn seqs(records: &[Arc<Record>]) -> Vec<u64> {
    records.iter().map(|record| record.event.seq).collect()
}

fn start(sink: impl HistorySink) -> History {
    History::start(vec![Box::new(sink)])
}

fn tell(history: &History, n: u64) {
    for record in records(n) {
        history.tell(&record);
    }
}

fn health(history: &History) -> SinkHealth {
    history.health().remove(0)
}

/// When it was given what.
type Given = (Mono, Vec<u64>);

/// Answers from a list, and remembers what it was given and when. With a list at its end it takes everything.
#[derive(Clone)]
struct Scripted {
    clock: Clock,
    answers: Arc<Mutex<Vec<Result<Written, WriteError>>>>,
    given: Arc<Mutex<Vec<Given>>>,
    bounds: Bounds,
    /// Never answers at all.
    stuck: bool,
}

impl Scripted {
    fn answering(answers: impl IntoIterator<Item = Result<Written, WriteError>>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        let (answers, given) = (Arc::new(Mutex::new(answers)), Arc::default());
        Self { clock: Clock::new(), answers, given, bounds: Bounds::default(), stuck: false }
    }

    fn given(&self) -> Vec<Vec<u64>> {
        self.given.lock().unwrap().iter().map(|(_, seqs)| seqs.clone()).collect()
    }

    /// How long it was left alone before each further try, in seconds.
    fn gaps(&self) -> Vec<f64> {
        let given = self.given.lock().unwrap();
        given.windows(2).map(|two| two[1].0.since(two[0].0).as_secs_f64()).collect()
    }
}

impl HistorySink for Scripted {
    fn name(&self) -> String {
        "scripted".into()
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn write<'a>(&'a mut self, batch: &'a [Arc<Record>]) -> BoxFuture<'a, Result<Written, WriteError>> {
        self.given.lock().unwrap().push((self.clock.now(), seqs(batch)));
        let answer = self.answers.lock().unwrap().pop().unwrap_or(Ok(Written::All));
        if self.stuck { Box::pin(std::future::pending()) } else { Box::pin(std::future::ready(answer)) }
    }
}

fn refused() -> Result<Written, WriteError> {
    Err(WriteError::new("no"))
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_does_not_take_for_an_hour_it_has_afterwards_without_a_gap() {
    let sink = MemorySink::new(1000);
    let history = start(sink.clone());
    sink.refuse(Some("down"));
    for record in records(360) {
        history.tell(&record);
        sleep(HOUR / 360).await;
    }
    let down = health(&history);
    assert_eq!((down.state, down.queued, down.delivered), (SinkState::Failing, 360, 0));
    assert_eq!(down.last_error.as_deref(), Some("down"));
    sink.refuse(None);
    sleep(A_WHILE).await;
    assert_eq!(seqs(&sink.records()), (1..=360).collect::<Vec<_>>());
    let up = health(&history);
    assert_eq!((up.state, up.queued, up.delivered, up.dropped), (SinkState::Ok, 0, 360, Dropped::default()));
    assert_eq!(up.last_error.as_deref(), Some("down"), "what it was is still to be seen");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_never_answers_keeps_neither_the_others_nor_the_teller_waiting() {
    let (stuck, well) = (Scripted { stuck: true, ..Scripted::answering([]) }, MemorySink::new(1000));
    let history = History::start(vec![Box::new(stuck), Box::new(well.clone())]);
    tell(&history, 100);
    sleep(HOUR).await;
    assert_eq!(well.records().len(), 100);
    assert_eq!(history.health()[0].queued, 100);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_dropped_from_the_oldest_and_counted() {
    let bounds = Bounds { events: 10, batch_events: 2, ..Bounds::default() };
    let sink = Scripted { bounds, ..Scripted::answering((0..20).map(|_| refused())) };
    let history = start(sink.clone());
    for record in records(30) {
        history.tell(&record);
        sleep(Duration::from_secs(1)).await;
    }
    let down = health(&history);
    // Two are on their way, as they were when it began; of the others the newest wait.
    assert_eq!((down.queued, down.dropped), (12, Dropped { full: 18, ..Dropped::default() }));
    sleep(HOUR).await;
    let given = sink.given();
    assert_eq!(given.last(), Some(&vec![29, 30]));
    assert_eq!((health(&history).delivered, health(&history).queued), (12, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_was_not_taken_is_tried_again_and_what_is_refused_is_counted() {
    let part = Written::Part { again: vec![1, 3], rejected: vec![0], trouble: WriteError::new("mixed") };
    let sink = Scripted::answering([Ok(part)]);
    let history = start(sink.clone());
    tell(&history, 4);
    sleep(A_WHILE).await;
    assert_eq!(sink.given(), [vec![1, 2, 3, 4], vec![2, 4]]);
    let after = health(&history);
    assert_eq!((after.delivered, after.dropped.rejected, after.queued), (3, 1, 0));
    assert_eq!((after.state, after.last_error.as_deref()), (SinkState::Ok, Some("mixed")));
}

#[tokio::test(start_paused = true)]
async fn delays_double_up_to_their_bound_and_vary() {
    let sink = Scripted::answering((0..12).map(|_| refused()));
    let history = start(sink.clone());
    tell(&history, 1);
    sleep(HOUR).await;
    let gaps = sink.gaps();
    assert_eq!(gaps.len(), 12);
    for (k, gap) in gaps.iter().enumerate() {
        let plain = (0.2 * 2f64.powi(i32::try_from(k).unwrap())).min(30.0);
        assert!((plain * 0.69..=(plain * 1.31).min(30.01)).contains(gap), "try {k}: {gap} is not about {plain}");
    }
    assert_eq!(health(&history).delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sink_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() {
    let asks =
        |seconds| Err(WriteError { retry_after: Some(Duration::from_secs(seconds)), ..WriteError::new("later") });
    let sink = Scripted::answering([asks(90), asks(u64::MAX)]);
    let history = start(sink.clone());
    tell(&history, 1);
    sleep(HOUR).await;
    let gaps = sink.gaps();
    assert!((gaps[0] - 90.0).abs() < 0.1 && (gaps[1] - 600.0).abs() < 0.1, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_while_go_together_where_a_sink_wants_that_and_a_whole_batch_goes_at_once() {
    let bounds = Bounds { linger: Duration::from_secs(1), batch_events: 5, ..Bounds::default() };
    let sink = Scripted { bounds, ..Scripted::answering([]) };
    let history = start(sink.clone());
    let records = records(12);
    history.tell(&records[0]);
    sleep(Duration::from_millis(900)).await;
    history.tell(&records[1]);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(sink.given(), [vec![1, 2]]);
    for record in &records[2..7] {
        history.tell(record);
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(sink.given().last(), Some(&vec![3, 4, 5, 6, 7]), "without waiting for the rest of the second");
}

#[tokio::test(start_paused = true)]
async fn the_end_gives_away_what_waits_and_counts_what_is_not_taken_in_time() {
    let well = MemorySink::new(1000);
    let dead = Scripted { stuck: true, ..Scripted::answering([]) };
    let clock = Clock::new();
    let history =
        History::start(vec![Box::new(well.clone()), Box::new(dead), Box::new(Scripted::answering([refused()]))]);
    tell(&history, 7);
    let began = clock.now();
    let ended = history.close(Duration::from_secs(5)).await;
    assert_eq!(clock.now().since(began), Duration::from_secs(5), "no longer than it may take");
    assert_eq!(well.records().len(), 7);
    assert_eq!((ended[0].delivered, ended[0].dropped), (7, Dropped::default()));
    assert_eq!((ended[1].queued, ended[1].dropped.closing), (0, 7));
    assert_eq!(ended[2].delivered, 7, "there was time for another try");
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_out_a_long_delay() {
    let asks = Err(WriteError { retry_after: Some(Duration::from_secs(500)), ..WriteError::new("later") });
    let sink = Scripted::answering([asks]);
    let history = start(sink.clone());
    tell(&history, 1);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(history.close(Duration::from_secs(5)).await[0].delivered, 1);
    assert!(sink.gaps()[0] < 2.0, "{:?}", sink.gaps());
}

#[test]
fn a_sink_with_nothing_to_do_is_not_woken() {
    let parked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&parked);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    runtime.block_on(async {
        let bounds = Bounds { linger: Duration::from_secs(1), ..Bounds::default() };
        let sink = Scripted { bounds, ..Scripted::answering([refused()]) };
        let history = start(sink.clone());
        tell(&history, 1);
        sleep(A_WHILE).await;
        assert_eq!(health(&history).delivered, 1);
        let before = parked.load(Ordering::Relaxed);
        sleep(24 * HOUR).await;
        // The thread waits for this test's own timer, and in paused time leaps to it: a timer of a sink's would be a stop
        // on the way. tokio's wheel of timers has six levels, and stops at each of a far one's.
        let stops = parked.load(Ordering::Relaxed) - before;
        assert!(stops <= 8, "woken {stops} times");
    });
}

#[tokio::test(start_paused = true)]
async fn another_list_of_sinks_takes_effect_between_two_events() {
    let (old, new) = (MemorySink::new(1000), MemorySink::new(1000));
    let mut history = start(old.clone());
    let all = records(10);
    for record in &all[..4] {
        history.tell(record);
    }
    // What waits for one that goes is still given to it.
    history.replace(vec![Box::new(new.clone())]);
    for record in &all[4..] {
        history.tell(record);
    }
    sleep(A_WHILE).await;
    assert_eq!(seqs(&old.records()), [1, 2, 3, 4]);
    assert_eq!(seqs(&new.records()), [5, 6, 7, 8, 9, 10]);
    assert_eq!(history.health().len(), 1, "one that has gone is not shown any more");
}

#[tokio::test(start_paused = true)]
async fn a_sink_of_the_same_name_begins_when_the_one_before_has_ended_or_its_time_is_over() {
    let slow = Scripted { stuck: true, ..Scripted::answering([]) };
    let next = Scripted { clock: slow.clock, ..Scripted::answering([]) };
    let mut history = start(slow.clone());
    tell(&history, 1);
    sleep(HOUR).await;
    let replaced = slow.clock.now();
    history.replace(vec![Box::new(next.clone())]);
    tell(&history, 2);
    sleep(A_WHILE).await;
    let (began, given) = next.given.lock().unwrap()[0].clone();
    assert_eq!((began.since(replaced), given), (FAREWELL, vec![1, 2]), "nothing that came meanwhile is lost");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_begins_behind_itself_however_often_the_list_has_changed_meanwhile() {
    let slow = Scripted { stuck: true, ..Scripted::answering([]) };
    let next = Scripted { clock: slow.clock, ..Scripted::answering([]) };
    let mut history = start(slow.clone());
    tell(&history, 1);
    sleep(HOUR).await;
    let gone = slow.clock.now();
    history.replace(Vec::new());
    sleep(Duration::from_secs(1)).await;
    history.replace(vec![Box::new(next.clone())]);
    tell(&history, 1);
    sleep(A_WHILE).await;
    let (began, _) = next.given.lock().unwrap()[0].clone();
    assert_eq!(began.since(gone), FAREWELL);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_stuck_delays_no_other_when_the_list_changes() {
    let (stuck, well) = (Scripted { stuck: true, ..Scripted::answering([]) }, MemorySink::new(1000));
    let mut history = start(stuck);
    tell(&history, 1);
    history.replace(vec![Box::new(well.clone())]);
    tell(&history, 1);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(well.records().len(), 1);
    assert_eq!(history.close(Duration::from_secs(1)).await.len(), 1);
}

#[tokio::test]
async fn a_sink_that_is_configured_unchanged_stays_with_what_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, keep| {
        Sink::Jsonl(crate::spec::types::JsonlSink { path: dir.path().join(name), max_size: 1 << 20, keep })
    };
    let mut history = History::default();
    let all = records(6);
    history.configure(&[file("same", 1), file("changed", 1), file("gone", 1)]);
    for record in &all[..3] {
        history.tell(record);
    }
    history.configure(&[file("new", 1), file("changed", 2), file("same", 1)]);
    for record in &all[3..] {
        history.tell(record);
    }
    let health = history.close(HOUR).await;
    let names: Vec<_> = health.iter().map(|sink| sink.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["new", "changed", "same"], "in the order of the configuration");
    assert_eq!(health.iter().map(|sink| sink.delivered).collect::<Vec<_>>(), [3, 3, 6]);
    let read = |name: &str| {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str::<crate::model::Event>(line).unwrap().seq).collect::<Vec<_>>()
    };
    assert_eq!(read("same"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read("changed"), [1, 2, 3, 4, 5, 6], "of two that write one file the second begins behind the first");
    assert_eq!((read("gone"), read("new")), (vec![1, 2, 3], vec![4, 5, 6]));
}
