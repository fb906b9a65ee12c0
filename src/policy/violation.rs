//! When a limit is violated, and when it is kept again: episodes.
//!
//! ```text
//!   counted (memory.events, pids.events grew) ─┐                    ┌─▶ Opened … Recovered      once each, in turn
//!   pressed (a pressure trigger fired) ────────┼──▶  Watchman  ─────┼─▶ LiftHigh … RearmHigh    the tripwire
//!   sampled (memory.stat, cpu.stat, pressure) ─┘   │          ▲     └─▶ ThrottleExpired
//!                                         deadline ▼          │ wanted
//!                                              time passes, then a sample
//! ```
//!
//! One [`Watchman`] belongs to one run and ends with it. While nothing is suspicious it has no deadline, wants nothing to be read
//! and holds no memory of its own: a quiet worker costs nothing. The exception is `cpu.max_time`, of which no notification
//! exists: it is looked at when it can have been reached at the earliest.
//!
//! | limit | begins | ends |
//! |---|---|---|
//! | memory.max, pids.max | `oom_kill` (with `oom`: for the own limit), `max` grew | 12 s without growth |
//! | memory.high | `high` grew, and anon + shmem is at or above it | anon + shmem below 95 % of it |
//! | cpu.max | throttled in so many periods of each second, for `sustained` | two seconds that are not |
//! | `cpu.max_time` | `usage_usec` has reached it | never |
//! | io.max, *.pressure | so much stall in each window, for `sustained` | two windows that are not |
//!
//! What follows from an episode (policies, the breaker) is decided elsewhere.

mod gauge;
mod high;
mod own_oom;
mod rules;

use std::time::Duration;

use crate::model::{Counters, Limit, MemoryEvents, Mono, Sample, Severity, Violation, Wanted, duration, size};
use gauge::{Gauge, Measure, Reading};
use high::High;
use own_oom::OwnOom;
pub use rules::{CpuMax, CpuTime, MemoryHigh, Rules, Stall};

/// How long a counter must not grow before its episode is over. More than the 10 s for which the watch on a noisy
/// file rests at the longest: a fork bomb at its limit would else recover, and violate again, at each reading.
pub const QUIET: Duration = Duration::from_secs(12);

/// From one look to the next, while nothing changes.
const STEPS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(10),
];

/// What is to be done or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An episode begins: dispatch its policy.
    Opened(Violation),
    /// It is over.
    Recovered {
        /// Which limit is kept again.
        limit: Limit,
        /// How long the episode lasted.
        lasted: Duration,
    },
    /// Take `memory.high` out of force, before anything else. Comes right before its [`Finding::Opened`].
    LiftHigh {
        /// Why, in words.
        why: &'static str,
    },
    /// Put it in force again. Comes right before its [`Finding::Recovered`].
    RearmHigh,
    /// It was left in force and the run gets nowhere: the policy of `memory.max` is due, or, where that only records, it is to be
    /// lifted (then say so: [`Watchman::lifted`]). Once in an episode, which goes on.
    ThrottleExpired(Violation),
}

/// Keeps watch over the limits of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Watchman {
    /// What is suspicious or open; nothing else.
    cases: Vec<Case>,
    time: CpuClock,
    own_oom: OwnOom,
}

/// The last look at the CPU time, and how many before it found that nothing had been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuClock {
    at: Mono,
    used_usec: u64,
    idle: u8,
}

#[derive(Debug, Clone, PartialEq)]
struct Case {
    limit: Limit,
    /// Since when it is an episode; `None` while it is only suspected.
    opened: Option<Mono>,
    /// When to look again; `None` where nothing can change any more.
    due: Option<Mono>,
    facts: Facts,
}

#[derive(Debug, Clone, PartialEq)]
enum Facts {
    /// Of an event: over once it has not happened again for a while.
    Counted,
    High(High),
    Gauge(Gauge),
    /// CPU time is not given back.
    Spent,
}

impl Watchman {
    /// Watches a run that began at `started`, having used nothing. Of one that was found alive the same moment is given:
    /// what it has used since is read when the first deadline says so, which may be at once.
    #[must_use]
    pub const fn new(started: Mono) -> Self {
        Self {
            cases: Vec::new(),
            time: CpuClock { at: started, used_usec: 0, idle: 0 },
            own_oom: OwnOom { until: None },
        }
    }

    /// The event counters have grown by `grown` since they were last read.
    pub fn counted(&mut self, rules: &Rules, grown: Counters, now: Mono) -> Vec<Finding> {
        let mut found = self.settle(rules, now);
        let of = |f: fn(&MemoryEvents) -> u64, e: Option<MemoryEvents>| e.as_ref().map_or(0, f);
        let kills = of(|e| e.oom_kill, grown.hierarchical());
        self.own_oom.counted(grown, now);
        // Else it was a limit further up, or the host, that took a process: no limit of this worker is violated.
        if kills > 0 && self.own_oom.explains(now) {
            self.event(rules, Limit::MemoryMax, now, &mut found, || oom(rules, kills));
        }
        let refused = grown.pids_max.unwrap_or(0);
        if refused > 0 {
            self.event(rules, Limit::PidsMax, now, &mut found, || forks(rules, refused));
        }
        let high = of(|e| e.high, grown.local.or(grown.memory));
        if high > 0 && rules.has(Limit::MemoryHigh) {
            self.high_grew(high, now);
        }
        found
    }

    /// Whether a kill that is counted `now` is for the run's own limit, as far as the readings say.
    #[must_use]
    pub fn explains_oom_kill(&self, now: Mono) -> bool {
        self.own_oom.explains(now)
    }

    /// A pressure trigger that was set for `limit` fired, perhaps for nothing: the look begins.
    pub fn pressed(&mut self, rules: &Rules, limit: Limit, now: Mono) -> Vec<Finding> {
        let found = self.settle(rules, now);
        let seen_by_pressure = limit == Limit::CpuMax || rules.stall(limit).is_some();
        if rules.has(limit) && seen_by_pressure && self.case(limit).is_none() {
            let facts = Facts::Gauge(Gauge::default());
            self.cases.push(Case { limit, opened: None, due: Some(now), facts });
        }
        found
    }

    /// Takes what was read because it was [`wanted`](Self::wanted), and what time has brought. To be called at every
    /// [`deadline`](Self::deadline), with an empty sample where nothing was wanted. Afterwards the deadline is a later one.
    pub fn sampled(&mut self, rules: &Rules, sample: &Sample, now: Mono) -> Vec<Finding> {
        let mut found = self.settle(rules, now);
        self.cases.retain_mut(|case| !case.is_due(now) || case.look(rules, sample, now, &mut found));
        if self.time_due(rules).is_some_and(|at| at <= now) {
            found.extend(self.look_at_time(rules, sample, now));
        }
        found
    }

    /// What to read now.
    #[must_use]
    pub fn wanted(&self, rules: &Rules, now: Mono) -> Wanted {
        let mut wanted = Wanted { cpu: self.time_due(rules).is_some_and(|at| at <= now), ..Wanted::default() };
        for case in self.cases.iter().filter(|case| case.is_due(now) && rules.has(case.limit)) {
            match case.facts {
                Facts::High(_) => wanted.memory = true,
                Facts::Gauge(_) if case.limit == Limit::CpuMax => wanted.cpu = true,
                Facts::Gauge(_) => wanted.pressure = true,
                Facts::Counted | Facts::Spent => {}
            }
        }
        wanted
    }

    /// When to call [`sampled`](Self::sampled), if at all: `None` while nothing is suspicious.
    #[must_use]
    pub fn deadline(&self, rules: &Rules) -> Option<Mono> {
        let cases = self.cases.iter().filter_map(|case| case.due);
        cases.chain(self.time_due(rules)).min()
    }

    /// The limits that are violated now.
    pub fn open(&self) -> impl Iterator<Item = Limit> + '_ {
        self.cases.iter().filter(|case| case.opened.is_some()).map(|case| case.limit)
    }

    /// `memory.high` was taken out of force for another reason than a [`Finding::LiftHigh`]: an episode of it, should there be
    /// one, throttles no more, and its end puts it in force again.
    pub fn lifted(&mut self) {
        for case in &mut self.cases {
            if let Facts::High(high) = &mut case.facts {
                high.lifted = true;
            }
        }
    }

    fn case(&mut self, limit: Limit) -> Option<&mut Case> {
        self.cases.iter_mut().find(|case| case.limit == limit)
    }

    /// Ends the episodes of limits that are configured no more.
    fn settle(&mut self, rules: &Rules, now: Mono) -> Vec<Finding> {
        let mut found = Vec::new();
        for case in self.cases.extract_if(.., |case| !rules.has(case.limit)) {
            case.close(now, &mut found);
        }
        found
    }

    /// Something was counted against `limit`.
    fn event(
        &mut self,
        rules: &Rules,
        limit: Limit,
        now: Mono,
        found: &mut Vec<Finding>,
        violation: impl FnOnce() -> Violation,
    ) {
        if !rules.has(limit) {
            return;
        }
        let due = Some(now + QUIET);
        if let Some(case) = self.case(limit) {
            case.due = due;
        } else {
            self.cases.push(Case { limit, opened: Some(now), due, facts: Facts::Counted });
            found.push(Finding::Opened(violation()));
        }
    }

    fn high_grew(&mut self, grown: u64, now: Mono) {
        match self.case(Limit::MemoryHigh) {
            Some(Case { opened: None, due, facts: Facts::High(high), .. }) => {
                high.suspect(grown);
                *due = Some(now);
            }
            Some(_) => {}
            None => {
                let mut high = High::default();
                high.suspect(grown);
                let facts = Facts::High(high);
                self.cases.push(Case { limit: Limit::MemoryHigh, opened: None, due: Some(now), facts });
            }
        }
    }

    /// When the CPU time can have been used up at the earliest.
    fn time_due(&self, rules: &Rules) -> Option<Mono> {
        let rule = rules.cpu_time?;
        if self.cases.iter().any(|case| case.limit == Limit::CpuTime) {
            return None;
        }
        let left = rule.max.saturating_sub(Duration::from_micros(self.time.used_usec)).as_secs_f64();
        let earliest = Duration::try_from_secs_f64(left / rule.parallelism.max(f64::MIN_POSITIVE));
        let step = STEPS[usize::from(self.time.idle).min(STEPS.len() - 1)];
        Some(self.time.at + earliest.unwrap_or(Duration::MAX).max(step))
    }

    fn look_at_time(&mut self, rules: &Rules, sample: &Sample, now: Mono) -> Option<Finding> {
        let rule = rules.cpu_time?;
        let used = sample.cpu.map(|cpu| cpu.usage_usec);
        let moved = used.is_some_and(|used| used > self.time.used_usec);
        let idle = if moved { 0 } else { self.time.idle.saturating_add(1) };
        self.time = CpuClock { at: now, used_usec: used.unwrap_or(self.time.used_usec), idle };
        let used = used.map(Duration::from_micros).filter(|used| *used >= rule.max)?;
        self.cases.push(Case { limit: Limit::CpuTime, opened: Some(now), due: None, facts: Facts::Spent });
        Some(Finding::Opened(Violation {
            limit: Limit::CpuTime,
            severity: Severity::Critical,
            observed: format!("{} of CPU time used (usage_usec {})", duration(used), used.as_micros()),
            configured: duration(rule.max),
        }))
    }
}

impl Case {
    fn is_due(&self, now: Mono) -> bool {
        self.due.is_some_and(|at| at <= now)
    }

    /// Looks at what is due. Whether the case goes on.
    fn look(&mut self, rules: &Rules, sample: &Sample, now: Mono, found: &mut Vec<Finding>) -> bool {
        let going_on = match self.facts {
            Facts::Counted => false,
            Facts::High(_) => self.look_at_memory(rules, sample, now, found),
            Facts::Gauge(_) => self.look_at_gauge(rules, sample, now, found),
            Facts::Spent => true,
        };
        if !going_on {
            self.close(now, found);
        }
        going_on
    }

    fn look_at_memory(&mut self, rules: &Rules, sample: &Sample, now: Mono, found: &mut Vec<Finding>) -> bool {
        let (Facts::High(high), Some(rule)) = (&mut self.facts, &rules.memory_high) else { return false };
        let violation = |severity, observed| Violation {
            limit: Limit::MemoryHigh,
            severity,
            observed,
            configured: size(rule.bytes),
        };
        let next = match high.look(rule, self.opened.is_some(), sample.resident_bytes, now) {
            high::Look::Over => return false,
            high::Look::Again(next) => next,
            high::Look::Open(next) => {
                if high.lifted {
                    let why = "anon and shmem memory have reached it: a tripwire, no brake";
                    found.push(Finding::LiftHigh { why });
                }
                found.push(Finding::Opened(violation(Severity::Warning, high.observed())));
                self.opened = Some(now);
                next
            }
            high::Look::Expired(next) => {
                found.push(Finding::ThrottleExpired(violation(Severity::Critical, high.stuck(now))));
                next
            }
        };
        self.due = Some(next);
        true
    }

    fn look_at_gauge(&mut self, rules: &Rules, sample: &Sample, now: Mono, found: &mut Vec<Finding>) -> bool {
        let Facts::Gauge(gauge) = &mut self.facts else { return false };
        let (measure, reading) = match (self.limit, &rules.cpu_max, rules.stall(self.limit)) {
            (Limit::CpuMax, Some(rule), _) => (Measure::of_cpu(rule), sample.cpu.map(Reading::from)),
            (limit, _, Some(rule)) => {
                let stalled = match limit.resource() {
                    "memory" => sample.pressure.memory,
                    "cpu" => sample.pressure.cpu,
                    _ => sample.pressure.io,
                };
                (Measure::of_stall(&rule), stalled.map(|stalled| rule.reading(stalled)))
            }
            _ => return false,
        };
        match gauge.look(&measure, self.opened.is_some(), reading, now) {
            gauge::Look::Over => return false,
            gauge::Look::Again(next) => self.due = Some(next),
            gauge::Look::Open(next) => {
                self.due = Some(next);
                self.opened = Some(now);
                found.push(Finding::Opened(gauged(rules, self.limit, gauge)));
            }
        }
        true
    }

    fn close(&self, now: Mono, found: &mut Vec<Finding>) {
        let Some(opened) = self.opened else { return };
        if matches!(self.facts, Facts::High(high) if high.lifted) {
            found.push(Finding::RearmHigh);
        }
        found.push(Finding::Recovered { limit: self.limit, lasted: now.since(opened) });
    }
}

fn gauged(rules: &Rules, limit: Limit, gauge: &Gauge) -> Violation {
    let (severity, observed, configured) = match (&rules.cpu_max, rules.stall(limit)) {
        (_, Some(rule)) => {
            let file = if limit == Limit::IoMax { "io.pressure" } else { limit.as_str() };
            (Severity::Warning, gauge.observed_stall(&rule, file), rule.configured())
        }
        (Some(rule), None) => (Severity::Critical, gauge.observed_cpu(rule), format!("{} %", rule.percent)),
        (None, None) => (Severity::Warning, String::new(), String::new()),
    };
    Violation { limit, severity, observed, configured }
}

fn oom(rules: &Rules, kills: u64) -> Violation {
    // Whose memory had run out is told by the exit's cause, from all the levels there are.
    let without = if rules.memory_max.is_none() { ", without a limit of its own" } else { "" };
    Violation {
        limit: Limit::MemoryMax,
        severity: Severity::Critical,
        observed: format!("oom_kill +{kills}{without}"),
        configured: rules.memory_max.map_or_else(|| "max".to_owned(), size),
    }
}

fn forks(rules: &Rules, refused: u64) -> Violation {
    Violation {
        limit: Limit::PidsMax,
        severity: Severity::Critical,
        observed: format!("max +{refused}: forks were refused"),
        configured: rules.pids_max.map_or_else(|| "max".to_owned(), |max| max.to_string()),
    }
}

#[cfg(test)]
#[path = "violation_tests.rs"]
mod tests;
