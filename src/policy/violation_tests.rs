use super::*;
use crate::model::{CpuStat, Pressures, Stalled};

/// What it does over rows of random events.
#[path = "violation_rows_tests.rs"]
mod rows;

const MIB: u64 = 1 << 20;
const HIGH: u64 = 64 * MIB;

fn at(secs: f64) -> Mono {
    Mono(Duration::from_secs_f64(1000.0 + secs))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn stall(full: bool, stall_ms: u64, window_ms: u64, sustained: u64) -> Stall {
    let ms = Duration::from_millis;
    Stall { full, stall: ms(stall_ms), window: ms(window_ms), sustained: secs(sustained) }
}

const fn high(throttle: bool) -> MemoryHigh {
    MemoryHigh { bytes: HIGH, throttle, throttle_deadline: Duration::from_secs(30) }
}

/// Every limit there is.
fn all() -> Rules {
    Rules {
        counted: true,
        memory_max: Some(256 * MIB),
        memory_high: Some(high(false)),
        cpu_max: Some(CpuMax {
            percent: 75.0,
            period: Duration::from_millis(100),
            throttled_ratio: 0.5,
            sustained: secs(10),
        }),
        cpu_time: None,
        pids_max: Some(64),
        io_max: Some(stall(false, 1000, 2000, 20)),
        memory_pressure: Some(stall(true, 150, 1000, 20)),
        cpu_pressure: Some(stall(false, 500, 1000, 0)),
        io_pressure: Some(stall(false, 100, 2000, 4)),
    }
}

fn oom_kills(n: u64) -> Counters {
    let events = MemoryEvents { oom: 1, oom_kill: n, ..MemoryEvents::default() };
    Counters { memory: Some(events), local: Some(events), pids_max: None }
}

fn high_grew(n: u64) -> Counters {
    let events = MemoryEvents { high: n, ..MemoryEvents::default() };
    Counters { memory: Some(events), local: Some(events), pids_max: None }
}

fn refused(n: u64) -> Counters {
    Counters { pids_max: Some(n), ..Counters::default() }
}

fn resident(bytes: u64) -> Sample {
    Sample { resident_bytes: Some(bytes), memory_current_bytes: Some(bytes + 9 * MIB), ..Sample::default() }
}

fn throttled(nr_throttled: u64, nr_periods: u64) -> Sample {
    Sample { cpu: Some(CpuStat { nr_periods, nr_throttled, ..CpuStat::default() }), ..Sample::default() }
}

fn used(time: Duration) -> Sample {
    let usage_usec = u64::try_from(time.as_micros()).unwrap();
    Sample { cpu: Some(CpuStat { usage_usec, ..CpuStat::default() }), ..Sample::default() }
}

fn pressure(some_usec: u64, full_usec: u64) -> Sample {
    let stalled = Some(Stalled { some_usec, full_usec });
    Sample { pressure: Pressures { memory: stalled, cpu: stalled, io: stalled }, ..Sample::default() }
}

fn opened(found: &[Finding]) -> Vec<Limit> {
    found.iter().filter_map(|f| if let Finding::Opened(v) = f { Some(v.limit) } else { None }).collect()
}

fn recovered(found: &[Finding]) -> Vec<Limit> {
    found.iter().filter_map(|f| if let Finding::Recovered { limit, .. } = f { Some(*limit) } else { None }).collect()
}

/// A run, and the moments at which something was found.
struct Scene {
    rules: Rules,
    watchman: Watchman,
    told: Vec<(f64, Finding)>,
}

impl Scene {
    fn new(rules: &Rules) -> Self {
        Self { rules: *rules, watchman: Watchman::new(at(0.0)), told: Vec::new() }
    }

    fn tell(&mut self, now: Mono, found: Vec<Finding>) {
        self.told.extend(found.into_iter().map(|f| ((now.0.as_secs_f64() - 1000.0), f)));
    }

    fn counted(&mut self, secs: f64, grown: Counters) {
        let found = self.watchman.counted(&self.rules, grown, at(secs));
        self.tell(at(secs), found);
    }

    fn pressed(&mut self, secs: f64, limit: Limit) {
        let found = self.watchman.pressed(&self.rules, limit, at(secs));
        self.tell(at(secs), found);
    }

    /// Follows the deadlines up to `until`, with what `sample` says at each. The moments at which something was read.
    fn follow(&mut self, until: f64, sample: impl Fn(f64) -> Sample) -> Vec<f64> {
        let mut looks = Vec::new();
        while let Some(due) = self.watchman.deadline(&self.rules).filter(|due| *due <= at(until)) {
            let secs = due.0.as_secs_f64() - 1000.0;
            let wanted = self.watchman.wanted(&self.rules, due);
            if wanted.any() {
                looks.push((secs * 1000.0).round() / 1000.0);
            }
            let sample = if wanted.any() { sample(secs) } else { Sample::default() };
            let found = self.watchman.sampled(&self.rules, &sample, due);
            self.tell(due, found);
        }
        looks
    }

    /// What was told, in short, and when.
    fn story(&self) -> Vec<String> {
        let told = self.told.iter().map(|(at, finding)| {
            let what = match finding {
                Finding::Opened(v) => format!("opened {}", v.limit),
                Finding::Recovered { limit, lasted } => format!("recovered {limit} after {}", duration(*lasted)),
                Finding::LiftHigh { .. } => "lift".to_owned(),
                Finding::RearmHigh => "rearm".to_owned(),
                Finding::ThrottleExpired(_) => "expired".to_owned(),
            };
            format!("{at:.2} {what}")
        });
        told.collect()
    }

    fn only_violation(&self) -> &Violation {
        let all: Vec<_> =
            self.told.iter().filter_map(|(_, f)| if let Finding::Opened(v) = f { Some(v) } else { None }).collect();
        assert_eq!(all.len(), 1, "{:?}", self.told);
        all[0]
    }

    fn is_quiet(&self) -> bool {
        self.watchman.deadline(&self.rules).is_none() && self.watchman.open().next().is_none()
    }
}

// --- counters ----------------------------------------------------------------

#[test]
fn an_episode_of_a_counter_is_one_however_often_it_grows_and_ends_after_a_time_without() {
    for (limit, growth) in [(Limit::MemoryMax, oom_kills(3)), (Limit::PidsMax, refused(12))] {
        let mut scene = Scene::new(&all());
        scene.counted(0.0, growth);
        scene.counted(5.0, growth);
        // At the rhythm of a watch that rests for 10 s at a time.
        scene.counted(15.1, growth);
        scene.counted(25.2, growth);
        assert_eq!(scene.watchman.open().collect::<Vec<_>>(), [limit]);
        assert_eq!(scene.follow(60.0, |_| unreachable!("nothing is to be read for that")), [0.0; 0]);
        scene.counted(100.0, growth);
        let name = limit.as_str();
        assert_eq!(
            scene.story(),
            [
                format!("0.00 opened {name}"),
                format!("37.20 recovered {name} after 37.2s"),
                format!("100.00 opened {name}")
            ]
        );
    }
}

#[test]
fn growth_that_comes_before_the_end_was_told_belongs_to_the_episode() {
    let mut scene = Scene::new(&all());
    scene.counted(0.0, refused(1));
    // The deadline of 12 s is late: what was counted meanwhile may have been at any time.
    scene.counted(14.0, refused(1));
    scene.follow(30.0, |_| Sample::default());
    assert_eq!(scene.story(), ["0.00 opened pids.max", "26.00 recovered pids.max after 26s"]);
}

#[test]
fn an_oom_kill_for_a_limit_further_up_violates_no_limit_of_the_run() {
    let mut scene = Scene::new(&all());
    let kill = MemoryEvents { oom_kill: 1, ..MemoryEvents::default() };
    scene.counted(0.0, Counters { local: Some(kill), memory: Some(kill), pids_max: None });
    assert_eq!(scene.story(), Vec::<String>::new());
    // The two counters grow one after the other, and a reading can fall between them.
    let ran_out = MemoryEvents { oom: 1, ..MemoryEvents::default() };
    scene.counted(5.0, Counters { local: Some(ran_out), memory: Some(ran_out), pids_max: None });
    scene.counted(5.1, Counters { local: Some(kill), memory: Some(kill), pids_max: None });
    assert_eq!(scene.only_violation().limit, Limit::MemoryMax);
}

#[test]
fn a_limit_waits_for_its_victim_for_a_minute_and_answered_for_no_other() {
    let events = |oom, oom_kill| Some(MemoryEvents { oom, oom_kill, ..MemoryEvents::default() });
    let grown = |oom, kills| Counters { local: events(oom, kills), memory: events(oom, kills), pids_max: None };
    let told = |row: &[(f64, u64, u64)]| {
        let mut scene = Scene::new(&all());
        for (at, oom, kills) in row {
            scene.follow(*at, |_| Sample::default());
            scene.counted(*at, grown(*oom, *kills));
        }
        scene.told.iter().filter(|(_, finding)| matches!(finding, Finding::Opened(_))).count()
    };
    assert_eq!(told(&[(0.0, 1, 0), (59.0, 0, 1)]), 1, "the kernel's report takes its time");
    assert_eq!(told(&[(0.0, 1, 0), (61.0, 0, 1)]), 0, "that one had no victim");
    assert_eq!(told(&[(0.0, 1, 1), (3.0, 0, 1)]), 1, "the second is another's");
    assert_eq!(told(&[(0.0, 1, 0), (30.0, 0, 1), (50.0, 0, 1)]), 1, "answered: the third is another's");
    assert_eq!(told(&[(0.0, 2, 1), (50.0, 0, 1)]), 2, "two asked for one each");
    assert_eq!(told(&[(0.0, 1, 3), (1.0, 0, 4)]), 1, "a group goes one by one, in one episode");
}

#[test]
fn an_oom_kill_below_the_runs_own_cgroup_counts_and_one_is_not_counted_twice() {
    let mut scene = Scene::new(&all());
    let below = MemoryEvents { oom: 1, oom_kill: 1, ..MemoryEvents::default() };
    scene.counted(0.0, Counters { memory: Some(below), local: Some(MemoryEvents::default()), pids_max: None });
    assert_eq!(scene.only_violation().observed, "oom_kill +1");
    let mut scene = Scene::new(&all());
    scene.counted(0.0, oom_kills(1));
    assert_eq!(scene.only_violation().observed, "oom_kill +1", "memory.events has what .local has");
}

#[test]
fn what_is_told_has_the_kernels_names_and_human_numbers() {
    let tell = |rules: &Rules, growth| {
        let mut scene = Scene::new(rules);
        scene.counted(0.0, growth);
        let v = scene.only_violation();
        format!("{} {}: {} / {}", v.severity.as_str(), v.limit, v.observed, v.configured)
    };
    assert_eq!(tell(&all(), oom_kills(2)), "critical memory.max: oom_kill +2 / 256 MiB");
    assert_eq!(tell(&all(), refused(12)), "critical pids.max: max +12: forks were refused / 64");
    let without = Rules { memory_max: None, ..all() };
    assert_eq!(tell(&without, oom_kills(1)), "critical memory.max: oom_kill +1, without a limit of its own / max");
}

#[test]
fn other_counters_than_kills_refused_forks_and_high_mean_nothing() {
    let mut scene = Scene::new(&all());
    let events = MemoryEvents { low: 9, max: 900, oom: 9, ..MemoryEvents::default() };
    scene.counted(0.0, Counters { memory: Some(events), local: Some(events), pids_max: Some(0) });
    assert!(scene.is_quiet() && scene.told.is_empty());
}

// --- memory.high -------------------------------------------------------------

#[test]
fn the_tripwire_is_lifted_before_it_is_told_and_set_again_on_recovery() {
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(3));
    let looks = scene.follow(60.0, |t| resident(if t < 20.0 { HIGH + 6 * MIB } else { HIGH * 94 / 100 }));
    assert_eq!(looks, [0.0, 1.0, 3.0, 7.0, 15.0, 25.0], "at once, then after 1, 2, 4, 8, 10 s");
    assert_eq!(
        scene.story(),
        ["0.00 lift", "0.00 opened memory.high", "25.00 rearm", "25.00 recovered memory.high after 25s"]
    );
    let v = scene.only_violation();
    assert_eq!((v.observed.as_str(), v.configured.as_str()), ("anon + shmem 70 MiB (high +3)", "64 MiB"));
    assert_eq!(v.severity, Severity::Warning);
    assert!(scene.is_quiet());
}

#[test]
fn at_the_edge_an_episode_does_not_come_and_go() {
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(1));
    let looks = std::cell::Cell::new(0_u32);
    scene.follow(300.0, |_| {
        looks.set(looks.get() + 1);
        resident(if looks.get() % 2 == 1 { HIGH } else { HIGH * 96 / 100 })
    });
    assert_eq!(scene.story(), ["0.00 lift", "0.00 opened memory.high"]);
    assert!(looks.get() > 10);
}

#[test]
fn page_cache_alone_is_no_violation_and_not_looked_at_twice() {
    let mut scene = Scene::new(&all());
    for minute in 0..60 {
        scene.counted(f64::from(minute) * 10.0, high_grew(600));
        let looks = scene.follow(f64::from(minute) * 10.0 + 9.9, |_| resident(HIGH / 3));
        assert_eq!(looks.len(), 1, "{looks:?}");
    }
    assert!(scene.told.is_empty() && scene.is_quiet());
}

#[test]
fn a_run_on_its_way_is_looked_at_a_few_times_more() {
    // The counter grew early, for cache was charged too: 1 MiB each 50 ms from then on.
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(1));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let looks = scene.follow(10.0, |t| resident(50 * MIB + (t * 20.0) as u64 * MIB));
    assert_eq!(scene.story()[..2], ["0.75 lift", "0.75 opened memory.high"], "{looks:?}");
    // One that stays there is left alone.
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(1));
    assert_eq!(scene.follow(60.0, |_| resident(HIGH - 1)), [0.0, 0.25, 0.75, 1.75]);
    assert!(scene.told.is_empty() && scene.is_quiet());
}

#[test]
fn throttling_without_progress_expires_once_and_is_not_lifted() {
    let mut scene = Scene::new(&Rules { memory_high: Some(high(true)), ..all() });
    scene.counted(0.0, high_grew(1));
    let looks = scene.follow(120.0, |_| resident(HIGH + MIB));
    assert_eq!(scene.story(), ["0.00 opened memory.high", "30.00 expired"]);
    assert_eq!(looks[..7], [0.0, 1.0, 3.0, 7.0, 15.0, 25.0, 30.0]);
    let Some((_, Finding::ThrottleExpired(v))) = scene.told.last() else { unreachable!() };
    assert_eq!(v.observed, "throttled at memory.high for 30s without progress: anon + shmem 65 MiB");
    assert_eq!(v.severity, Severity::Critical);
    // Lifted by whoever heard that, it is set again when it is over.
    scene.watchman.lifted();
    scene.follow(200.0, |t| resident(if t < 145.0 { HIGH + MIB } else { 0 }));
    assert_eq!(scene.story()[2..], ["150.00 rearm", "150.00 recovered memory.high after 2m30s"]);
}

#[test]
fn progress_under_throttling_gives_it_more_time() {
    // 1 MiB less every 12 s from 20 MiB above: more than 1 % of the limit, so each starts the deadline anew.
    let mut scene = Scene::new(&Rules { memory_high: Some(high(true)), ..all() });
    scene.counted(0.0, high_grew(1));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let shrinking = |t: f64| resident(HIGH + 20 * MIB - ((t / 12.0) as u64).min(10) * MIB);
    scene.follow(600.0, shrinking);
    let (expired, _) = scene.told.last().unwrap();
    assert!((150.0..=160.0).contains(expired), "10 steps, the last seen at or after 120 s, and 30 s: {expired}");
    // Less than the kernel's grain of charging is no progress.
    let mut scene = Scene::new(&Rules { memory_high: Some(high(true)), ..all() });
    scene.counted(0.0, high_grew(1));
    scene.follow(600.0, |t| resident(HIGH + MIB - if t < 5.0 { 0 } else { 200 << 10 }));
    assert_eq!(scene.story()[1], "30.00 expired");
}

#[test]
fn a_lift_for_another_reason_ends_the_throttling_and_its_deadline() {
    let mut scene = Scene::new(&Rules { memory_high: Some(high(true)), ..all() });
    scene.counted(0.0, high_grew(1));
    scene.follow(10.0, |_| resident(HIGH + MIB));
    scene.watchman.lifted();
    scene.follow(100.0, |t| resident(if t < 50.0 { HIGH + MIB } else { 0 }));
    assert_eq!(scene.story()[1..], ["55.00 rearm", "55.00 recovered memory.high after 55s"]);
}

#[test]
fn memory_that_cannot_be_read_is_neither_a_violation_nor_a_recovery() {
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(1));
    scene.follow(60.0, |_| Sample::default());
    assert!(scene.told.is_empty() && scene.is_quiet());
    scene.counted(100.0, high_grew(1));
    scene.follow(300.0, |t| if t < 101.0 { resident(HIGH) } else { Sample::default() });
    assert_eq!(scene.story(), ["100.00 lift", "100.00 opened memory.high"]);
}

// --- cpu.max -----------------------------------------------------------------

/// `cpu.stat` of a run that is throttled in `share` of ten periods a second from the beginning up to `until`, then in none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
fn throttled_until(until: f64, share: f64) -> impl Fn(f64) -> Sample {
    move |t| throttled(777 + (t.min(until) * 10.0 * share).round() as u64, 5000 + (t * 10.0).round() as u64)
}

#[test]
fn throttling_is_a_violation_once_it_has_lasted_and_over_after_two_quiet_seconds() {
    let mut scene = Scene::new(&all());
    scene.pressed(2.0, Limit::CpuMax);
    let looks = scene.follow(60.0, throttled_until(20.0, 0.9));
    assert_eq!(scene.story(), ["12.00 opened cpu.max", "22.00 recovered cpu.max after 10s"]);
    assert_eq!(looks.first().zip(looks.last()), Some((&2.0, &22.0)));
    assert_eq!(looks.len(), 21, "each second");
    let v = scene.only_violation();
    assert_eq!(v.observed, "throttled in 90 % of periods for 10s (nr_throttled +90, nr_periods +100)");
    assert_eq!((v.configured.as_str(), v.severity), ("75 %", Severity::Critical));
    assert!(scene.is_quiet());
}

#[test]
fn a_trigger_that_fired_for_nothing_costs_two_looks() {
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::CpuMax);
    assert_eq!(scene.follow(60.0, throttled_until(60.0, 0.4)), [0.0, 1.0]);
    assert!(scene.told.is_empty() && scene.is_quiet());
}

#[test]
fn one_quiet_second_ends_a_suspicion_and_does_not_end_an_episode() {
    let noisy = |pause: f64| {
        move |t: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
            let busy = (if t < pause { t } else { (t - 1.0).max(pause) } * 10.0).round() as u64;
            throttled(busy, busy)
        }
    };
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::CpuMax);
    let looks = scene.follow(60.0, noisy(9.0));
    assert_eq!((scene.told.len(), looks.last()), (0, Some(&10.0)), "nine seconds and one without");
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::CpuMax);
    scene.follow(60.0, noisy(15.0));
    assert_eq!(scene.story(), ["10.00 opened cpu.max"]);
}

#[test]
fn a_burst_each_second_is_no_overload_though_each_of_its_periods_is_throttled() {
    // The kernel counts no period in which nothing wants to run: 3 of 3 are throttled, 7 are idle.
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::CpuMax);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    let looks = scene.follow(60.0, |t| throttled(3 * t as u64, 3 * t as u64));
    assert!(scene.told.is_empty(), "{:?}", scene.told);
    assert_eq!(looks, [0.0, 1.0]);
}

#[test]
fn with_periods_of_a_second_a_look_covers_several() {
    let mut rules = all();
    rules.cpu_max = rules.cpu_max.map(|cpu| CpuMax { percent: 0.5, period: secs(1), throttled_ratio: 1.0, ..cpu });
    let mut scene = Scene::new(&rules);
    scene.pressed(0.0, Limit::CpuMax);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    let looks = scene.follow(13.0, |t| throttled((t + 0.7) as u64, (t + 0.7) as u64));
    assert_eq!(looks, [0.0, 4.0, 8.0, 12.0]);
    assert_eq!(scene.story(), ["12.00 opened cpu.max"]);
}

#[test]
fn a_late_look_measures_the_time_that_passed() {
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::CpuMax);
    for (secs, nr_throttled, nr_periods) in [(0.0, 0, 0), (3.7, 30, 37), (9.9, 85, 99), (12.0, 105, 120)] {
        let found = scene.watchman.sampled(&scene.rules, &throttled(nr_throttled, nr_periods), at(secs));
        scene.tell(at(secs), found);
    }
    assert_eq!(scene.story(), ["12.00 opened cpu.max"]);
}

// --- cpu.max_time ------------------------------------------------------------

fn with_time(max: Duration, parallelism: f64) -> Rules {
    Rules { cpu_time: Some(CpuTime { max, parallelism }), ..Rules::default() }
}

#[test]
fn cpu_time_is_looked_at_when_it_can_have_been_used_up() {
    // An hour on two CPUs cannot be over before half an hour.
    let mut scene = Scene::new(&with_time(secs(3600), 2.0));
    let looks = scene.follow(4000.0, |t| used(Duration::from_secs_f64(t)));
    assert_eq!(looks[..3], [1800.0, 2700.0, 3150.0], "half of what is left, each time");
    assert!((3600.0..3601.0).contains(&scene.told[0].0), "at most one second late: {:?}", scene.told);
    let v = scene.only_violation();
    assert_eq!((v.configured.as_str(), v.severity), ("1h", Severity::Critical));
    assert!(v.observed.starts_with("1h of CPU time used (usage_usec 3600"), "{}", v.observed);
    assert_eq!(scene.watchman.deadline(&scene.rules), None, "it never recovers, and opens once");
}

#[test]
fn an_idle_run_near_its_cpu_time_is_looked_at_less_and_less() {
    let mut scene = Scene::new(&with_time(secs(10), 1.0));
    let looks = scene.follow(60.0, |t| used(if t < 50.0 { Duration::from_millis(9900) } else { secs(11) }));
    assert_eq!(looks, [10.0, 11.0, 13.0, 17.0, 25.0, 35.0, 45.0, 55.0]);
    assert_eq!(scene.story(), ["55.00 opened cpu.max_time"]);
}

#[test]
fn a_run_that_was_found_alive_is_looked_at_as_soon_as_it_can_have_used_its_time() {
    let rules = with_time(secs(60), 4.0);
    let mut old = Watchman::new(at(-900.0));
    assert!(old.deadline(&rules).unwrap() <= at(0.0) && old.wanted(&rules, at(0.0)).cpu);
    let found = old.sampled(&rules, &used(secs(20)), at(0.0));
    assert!(found.is_empty());
    assert_eq!(old.deadline(&rules), Some(at(10.0)));
    assert_eq!(Watchman::new(at(0.0)).deadline(&rules), Some(at(15.0)));
}

// --- pressure ----------------------------------------------------------------

#[test]
fn a_stall_is_confirmed_by_the_totals_over_each_window() {
    // (limit, some and full in microseconds a second, what is told up to 60 s when it ends at 40 s)
    let rows: [(Limit, u64, u64, &[&str]); 8] = [
        (Limit::IoMax, 500_000, 0, &["20.00 opened io.max", "44.00 recovered io.max after 24s"]),
        (Limit::IoMax, 490_000, 490_000, &[]),
        (
            Limit::MemoryPressure,
            900_000,
            150_000,
            &["20.00 opened memory.pressure", "42.00 recovered memory.pressure after 22s"],
        ),
        (Limit::MemoryPressure, 900_000, 140_000, &[]),
        (Limit::CpuPressure, 500_000, 0, &["1.00 opened cpu.pressure", "42.00 recovered cpu.pressure after 41s"]),
        (Limit::IoPressure, 50_000, 0, &["4.00 opened io.pressure", "44.00 recovered io.pressure after 40s"]),
        (Limit::IoPressure, 49_000, 0, &[]),
        (Limit::IoPressure, 0, 0, &[]),
    ];
    for (limit, some, full, told) in rows {
        let mut scene = Scene::new(&all());
        scene.pressed(0.0, limit);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small positive numbers"
        )]
        let total = |t: f64, rate: u64| 123_456 + (t.min(40.0) * rate as f64).round() as u64;
        scene.follow(60.0, |t| pressure(total(t, some), total(t, full)));
        assert_eq!(scene.story(), told, "{limit} at {some}, {full}");
        assert!(scene.is_quiet());
    }
}

#[test]
fn a_stall_is_told_as_it_is_written() {
    let mut scene = Scene::new(&all());
    scene.pressed(0.0, Limit::MemoryPressure);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    scene.follow(20.0, |t| pressure(0, (t * 310_000.0) as u64));
    let v = scene.only_violation();
    assert_eq!(v.observed, "memory.pressure full 31 % for 20s");
    assert_eq!(v.configured, "full 150ms/1s for 20s");
    assert_eq!(v.severity, Severity::Warning);
}

#[test]
fn a_trigger_of_a_limit_that_is_not_configured_means_nothing() {
    let mut scene = Scene::new(&Rules::default());
    for limit in Limit::ALL {
        scene.pressed(0.0, limit);
    }
    assert!(scene.is_quiet());
    // And nothing that is no trigger's can be pressed.
    let mut scene = Scene::new(&all());
    for limit in [Limit::MemoryMax, Limit::MemoryHigh, Limit::PidsMax, Limit::CpuTime] {
        scene.pressed(0.0, limit);
    }
    assert!(scene.is_quiet());
}

// --- all of them -------------------------------------------------------------

#[test]
fn a_quiet_run_has_no_deadline_wants_nothing_and_holds_nothing() {
    let watchman = Watchman::new(at(0.0));
    assert_eq!(watchman.deadline(&all()), None);
    assert!(!watchman.wanted(&all(), at(1e6)).any());
    assert_eq!(watchman.cases.capacity(), 0);
    assert!(size_of::<Watchman>() <= 72, "{}", size_of::<Watchman>());
}

#[test]
fn without_monitoring_nothing_is_detected() {
    let mut scene = Scene::new(&Rules::default());
    scene.counted(0.0, oom_kills(1));
    scene.counted(0.0, refused(1));
    scene.counted(0.0, high_grew(1));
    assert!(scene.is_quiet() && scene.told.is_empty());
}

#[test]
fn a_limit_that_is_taken_away_ends_its_episode() {
    let mut scene = Scene::new(&all());
    scene.counted(0.0, high_grew(1));
    scene.follow(0.0, |_| resident(HIGH));
    scene.rules = Rules::default();
    scene.counted(5.0, Counters::default());
    assert_eq!(scene.story()[2..], ["5.00 rearm", "5.00 recovered memory.high after 5s"]);
    assert!(scene.is_quiet());
}

#[test]
fn episodes_of_several_limits_go_on_side_by_side() {
    let mut scene = Scene::new(&all());
    let mut growth = oom_kills(1);
    growth.pids_max = Some(4);
    growth.local = growth.local.map(|e| MemoryEvents { high: 2, ..e });
    scene.counted(0.0, growth);
    scene.pressed(0.0, Limit::CpuMax);
    let wanted = scene.watchman.wanted(&scene.rules, at(0.0));
    assert_eq!(wanted, Wanted { memory: true, cpu: true, pressure: false });
    let both = |t: f64| Sample { cpu: throttled_until(30.0, 1.0)(t).cpu, ..resident(if t < 40.0 { HIGH } else { 0 }) };
    scene.follow(100.0, both);
    assert_eq!(
        scene.story(),
        [
            "0.00 opened memory.max",
            "0.00 opened pids.max",
            "0.00 lift",
            "0.00 opened memory.high",
            "10.00 opened cpu.max",
            "12.00 recovered memory.max after 12s",
            "12.00 recovered pids.max after 12s",
            "32.00 recovered cpu.max after 22s",
            "45.00 rearm",
            "45.00 recovered memory.high after 45s",
        ]
    );
}
