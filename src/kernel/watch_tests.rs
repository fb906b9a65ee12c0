use std::time::Duration;

use inotify::{EventMask, EventOwned};

use super::*;
use crate::model::WorkerId;

struct Fixture {
    tmp: tempfile::TempDir,
    parent: Dir,
    watches: Watches,
    hints: Hints,
}

fn run(number: u32) -> RunId {
    RunId::new(WorkerId::new("web").unwrap(), number)
}

impl Fixture {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let parent = Dir::on_any_fs(tmp.path());
        let (watches, hints) = channel(Clock::new()).unwrap();
        watches.add_parent(&parent).unwrap();
        Self { tmp, parent, watches, hints }
    }

    fn add(&self, number: u32, files: &[&str]) -> Arc<Dir> {
        let dir = Arc::new(self.parent.create(&run(number).to_string()).unwrap());
        for file in files {
            std::fs::write(dir.path().join(file), "max 0\n").unwrap();
        }
        self.watches.add(&run(number), &dir, Interest::ALL).unwrap();
        dir
    }

    /// What is there already, without waiting for more than the queue takes.
    async fn pending(&mut self) -> Option<Hint> {
        tokio::select! {
            biased;
            hint = self.hints.next() => Some(hint.unwrap()),
            () = async { for _ in 0..20 { tokio::task::yield_now().await } } => None,
        }
    }
}

#[tokio::test]
async fn a_change_names_the_run_and_the_file() {
    let mut f = Fixture::new();
    f.add(1, &["memory.events", "pids.events"]);
    let second = f.add(2, &["pids.events"]);
    second.write("pids.events", "max 1\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Changed(run(2), Source::Pids));
    assert_eq!(f.watches.len(), 4, "three files and the parent: a missing file has no watch");
}

#[tokio::test]
async fn a_removal_by_somebody_else_is_told_and_ours_is_not() {
    let mut f = Fixture::new();
    f.add(1, &[]);
    f.add(2, &[]);
    f.watches.forget(&run(1));
    f.parent.remove_child("web.1").unwrap();
    std::fs::create_dir(f.tmp.path().join("stranger")).unwrap();
    f.parent.remove_child("stranger").unwrap();
    f.parent.remove_child("web.2").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Removed(run(2)));
}

#[tokio::test]
async fn a_forgotten_run_leaves_no_watch_and_says_nothing() {
    let mut f = Fixture::new();
    let dir = f.add(1, &["memory.events", "pids.events"]);
    dir.write("memory.events", "oom 1\n").unwrap();
    f.watches.forget(&run(1));
    assert_eq!(f.watches.len(), 1);
    dir.write("memory.events", "oom 2\n").unwrap();
    assert_eq!(f.pending().await, None);
}

#[tokio::test]
async fn a_drain_looks_before_it_waits() {
    let mut f = Fixture::new();
    let dir = f.add(1, &[]);
    std::fs::write(dir.path().join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    assert!(!f.watches.drain(&run(1), &dir).unwrap());
    assert_eq!(f.watches.len(), 1, "an empty run needs no watch");
    std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    assert!(f.watches.drain(&run(1), &dir).unwrap());
    dir.write("cgroup.events", "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Events(run(1)));
}

#[tokio::test]
async fn an_eye_on_a_freezer_stays_while_it_is_frozen_or_to_be_and_is_the_one_that_a_drain_needs() {
    let mut f = Fixture::new();
    let dir = f.add(1, &[]);
    let says = |text: &str| std::fs::write(dir.path().join("cgroup.events"), text).unwrap();
    says("populated 1\nfrozen 0\n");
    assert!(f.watches.freezer(&run(1), &dir, Some(true)).unwrap(), "it is new");
    assert!(!f.watches.freezer(&run(1), &dir, None).unwrap());
    assert_eq!(f.watches.len(), 2, "the parent, and this");
    f.watches.thawed(&run(1));
    assert_eq!(f.watches.len(), 2, "not yet frozen is no reason to close it");
    dir.write("cgroup.events", "populated 1\nfrozen 1\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Events(run(1)));
    f.watches.freezer(&run(1), &dir, Some(false)).unwrap();
    // The kernel has one watch for a file: whoever took the first one off would take both.
    assert!(f.watches.drain(&run(1), &dir).unwrap());
    f.watches.thawed(&run(1));
    assert_eq!(f.watches.len(), 2);
    dir.write("cgroup.events", "populated 0\nfrozen 0\n").unwrap();
    while f.hints.next().await.unwrap() != Hint::Events(run(1)) {}
    f.watches.forget(&run(1));
    assert_eq!(f.watches.len(), 1);

    let dir = f.add(2, &[]);
    std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    f.watches.freezer(&run(2), &dir, Some(false)).unwrap();
    f.watches.thawed(&run(2));
    assert_eq!(f.watches.len(), 1, "thawed, and nobody wants it otherwise");
}

#[tokio::test]
async fn who_wants_a_run_looked_at_gets_its_hint_though_nothing_fires() {
    let mut f = Fixture::new();
    f.add(1, &[]);
    assert_eq!(f.pending().await, None);
    let watches = f.watches.clone();
    let (hint, ()) = tokio::join!(f.hints.next(), async { watches.look(&run(1)) });
    assert_eq!(hint.unwrap(), Hint::Events(run(1)));
}

#[tokio::test(start_paused = true)]
async fn a_noisy_watch_rests_longer_each_time_and_is_read_again_when_it_comes_back() {
    let mut f = Fixture::new();
    let dir = f.add(1, &["memory.events"]);
    dir.write("memory.events", "max 1\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Changed(run(1), Source::Memory));
    let start = f.hints.clock.now();
    for total in [1, 3, 7, 15, 25, 35] {
        f.watches.seen(&run(1), Source::Memory, Seen::Noise);
        assert_eq!(f.watches.len(), 1, "only the parent is watched");
        dir.write("memory.events", "max 2\n").unwrap();
        assert_eq!(f.hints.next().await.unwrap(), Hint::Changed(run(1), Source::Memory));
        let slept = f.hints.clock.now().since(start).as_secs_f64();
        assert!((slept - f64::from(total)).abs() < 0.1, "{slept} s, not {total}");
        assert_eq!(f.watches.len(), 2);
    }
    f.watches.seen(&run(1), Source::Memory, Seen::Nothing);
    f.watches.seen(&run(1), Source::Memory, Seen::Noise);
    let start = f.hints.clock.now();
    f.hints.next().await.unwrap();
    assert!(f.hints.clock.now().since(start) < Duration::from_secs(2), "quiet in between: from 1 s again");
}

#[tokio::test]
async fn a_run_that_is_forgotten_while_its_watch_rests_does_not_come_back() {
    tokio::time::pause();
    let mut f = Fixture::new();
    f.add(1, &["memory.events"]);
    f.watches.seen(&run(1), Source::Memory, Seen::Noise);
    f.watches.forget(&run(1));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(f.pending().await, None);
    assert_eq!(f.watches.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_watch_is_looked_at_until_it_is_forgotten() {
    let mut f = Fixture::new();
    f.add(1, &[]);
    let now = f.hints.clock.now();
    {
        let mut state = f.watches.shared.lock();
        let serial = state.look_again(&run(1), now);
        state.runs.get_mut(&run(1)).unwrap().events = Events::Looked(serial);
    }
    for _ in 0..3 {
        assert_eq!(f.hints.next().await.unwrap(), Hint::Events(run(1)));
    }
    assert_eq!(f.hints.clock.now().since(now).as_millis() / 100, 3);
    f.watches.forget(&run(1));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(f.pending().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_end_could_not_be_read_is_looked_at_until_it_is_forgotten() {
    let mut f = Fixture::new();
    let dir = f.add(1, &[]);
    std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    assert!(f.watches.drain(&run(1), &dir).unwrap());
    assert!(f.watches.unread(&run(1)), "it is new");
    assert!(!f.watches.unread(&run(1)), "it is not");
    let start = f.hints.clock.now();
    for _ in 0..3 {
        assert_eq!(f.hints.next().await.unwrap(), Hint::Events(run(1)));
    }
    assert_eq!(f.hints.clock.now().since(start).as_millis() / 100, 3);
    f.watches.forget(&run(1));
    assert!(!f.watches.unread(&run(1)), "nobody asks any more");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(f.pending().await, None);
}

#[tokio::test]
async fn a_lost_notification_makes_us_look_at_everything() {
    let f = Fixture::new();
    f.add(1, &["memory.events"]);
    let state = f.watches.shared.lock();
    let wd = state.uses.keys().next().unwrap().clone();
    let lost = EventOwned { wd, mask: EventMask::Q_OVERFLOW, cookie: 0, name: None };
    assert_eq!(state.meaning(&lost), Some(Hint::Rescan));
}

#[tokio::test(start_paused = true)]
async fn a_cgroup_above_is_watched_at_its_own_limit_and_rests_like_a_run() {
    let mut f = Fixture::new();
    let dir = Arc::new(f.parent.create("web.slice").unwrap());
    for file in ["memory.events", "memory.events.local"] {
        std::fs::write(dir.path().join(file), "max 0\n").unwrap();
    }
    let name: Arc<str> = "/workers/web.slice".into();
    f.watches.add_above(&name, &dir).unwrap();
    dir.write("memory.events", "max 1\n").unwrap();
    assert_eq!(f.pending().await, None, "what happens below it is no news");
    dir.write("memory.events.local", "max 1\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Above(Arc::clone(&name)));
    f.watches.seen_above(&name, Seen::Noise);
    assert_eq!(f.watches.len(), 1, "only the parent is watched");
    assert_eq!(f.hints.next().await.unwrap(), Hint::Above(Arc::clone(&name)), "read again after its rest");
    f.watches.seen_above(&name, Seen::Violation);
    assert_eq!(f.watches.len(), 2);
    f.watches.forget_parent(dir.path(), &name);
    dir.write("memory.events.local", "max 2\n").unwrap();
    assert_eq!(f.pending().await, None);
}

#[tokio::test]
async fn a_violation_leaves_the_watch_on() {
    let mut f = Fixture::new();
    let dir = f.add(1, &["memory.events"]);
    dir.write("memory.events", "oom 1\n").unwrap();
    f.hints.next().await.unwrap();
    f.watches.seen(&run(1), Source::Memory, Seen::Violation);
    dir.write("memory.events", "oom 2\n").unwrap();
    assert_eq!(f.hints.next().await.unwrap(), Hint::Changed(run(1), Source::Memory));
}

fn memory(events: MemoryEvents) -> Counters {
    Counters { memory: Some(events), ..Counters::default() }
}

#[test]
fn a_kill_keeps_the_watch_on_and_reclaim_at_the_limit_rests_it() {
    let kill = memory(MemoryEvents { max: 3, oom: 1, oom_kill: 1, ..MemoryEvents::default() });
    let reclaim = memory(MemoryEvents { max: 60, ..MemoryEvents::default() });
    assert_eq!(Seen::of(Source::Memory, kill), Seen::Violation);
    assert_eq!(Seen::of(Source::Memory, reclaim), Seen::Noise);
    let throttled = memory(MemoryEvents { high: 60, ..MemoryEvents::default() });
    assert_eq!(
        Seen::of(Source::Memory, throttled),
        Seen::Noise,
        "it is told all the same: page cache does this for ever"
    );
    assert_eq!(Seen::of(Source::Memory, memory(MemoryEvents::default())), Seen::Nothing);
}

#[test]
fn refused_forks_are_told_and_then_rested() {
    let refused = Counters { pids_max: Some(12), ..Counters::default() };
    assert_eq!(Seen::of(Source::Pids, refused), Seen::Noise);
    assert_eq!(Seen::of(Source::Pids, Counters::default()), Seen::Nothing);
}
