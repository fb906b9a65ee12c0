//! What is counted as it happens, because nobody can see it afterwards: how runs ended, what was violated, what was
//! dropped, and what ended runs had used.
//!
//! One task notes every event ([`Tally::note`]), behind the actors; a scrape reads. The lock between the two is held for an event, or
//! for a piece of the workers.
//!
//! **What ended runs had used.** Each run has a cgroup of its own, whose counters begin at zero and go with it. A run's last
//! numbers come as an event; until then what a scrape has read of it last stands for them. So the sum over all runs is what
//! is known of each run once, and never less than what was told before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::latency::Latency;
use crate::model::{Event, EventKind, ExitCause, ProbeKind, Severity, Stream, Trigger, Usage, Verdict, WorkerId};

/// The words of every cause, as [`ExitCause::word`] has them.
pub const CAUSES: [&str; 7] = ["exited", "signaled", "oom", "killed", "killed_external", "start_failed", "unknown"];

/// The resources that a limit can be of.
pub const RESOURCES: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// How bad a violation can be.
pub const SEVERITIES: [Severity; 3] = [Severity::Warning, Severity::Critical, Severity::Emergency];

/// The probes.
pub const PROBES: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

/// What can ask for a decision, with its word.
pub const TRIGGERS: [(Trigger, &str); 5] = [
    (Trigger::Exit, "exit"),
    (Trigger::Violation, "violation"),
    (Trigger::Health, "health"),
    (Trigger::Operator, "operator"),
    (Trigger::Config, "config"),
];

/// What can come of one, with its word.
pub const VERDICTS: [(Verdict, &str); 7] = [
    (Verdict::Restart, "restart"),
    (Verdict::Stay, "stay"),
    (Verdict::GiveUp, "give_up"),
    (Verdict::Record, "record"),
    (Verdict::Stop, "stop"),
    (Verdict::Kill, "kill"),
    (Verdict::Hold, "hold"),
];

/// What is counted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    inner: Arc<Mutex<Inner>>,
    latency: Arc<Latency>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: HashMap<WorkerId, Box<Entry>>,
    all: Overall,
}

/// What is counted of all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overall {
    /// Events, by their kind, in the order of [`EventKind::WORDS`].
    pub events: [u64; EventKind::WORDS.len()],
    /// Decisions, by what asked and what came of it, as [`TRIGGERS`] and [`VERDICTS`] have them.
    pub decisions: [[u64; VERDICTS.len()]; TRIGGERS.len()],
}

/// What is counted of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Runs that ended, as [`CAUSES`] has them.
    pub exits: [u32; CAUSES.len()],
    /// Episodes, as [`RESOURCES`] and [`SEVERITIES`] have them.
    pub violations: [[u32; SEVERITIES.len()]; RESOURCES.len()],
    /// Health checks that began to fail, as [`PROBES`] has them.
    pub health_failures: [u32; PROBES.len()],
    /// How often output began to be dropped: of stdout, of stderr.
    pub log_drops: [u32; 2],
    /// How many bytes of it were.
    pub log_dropped_bytes: [u64; 2],
    /// What all its runs have used.
    pub used: Totals,
}

#[derive(Debug, Default)]
struct Entry {
    counts: Counts,
    /// The last run whose totals are in `counts.used`.
    settled: u32,
    /// A later one, and what was read of it last.
    seen: Option<(u32, Totals)>,
}

/// What only grows while a run lives. A number for each of [`Total`], in their order; ten thousand workers have two of these each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals([u64; Total::COUNT]);

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of Usage")]
pub enum Total {
    CpuUsec,
    CpuThrottledUsec,
    CpuPeriods,
    CpuThrottledPeriods,
    MemorySomeUsec,
    MemoryFullUsec,
    CpuSomeUsec,
    CpuFullUsec,
    IoSomeUsec,
    IoFullUsec,
    ReadBytes,
    WrittenBytes,
    Reads,
    Writes,
}

impl Total {
    const COUNT: usize = Self::Writes as usize + 1;
}

/// The kernel does not tell here.
const UNTOLD: u64 = u64::MAX;

impl Default for Totals {
    fn default() -> Self {
        Self([UNTOLD; Total::COUNT])
    }
}

impl From<Usage> for Totals {
    fn from(usage: Usage) -> Self {
        let told = [
            usage.cpu_usec,
            usage.cpu_throttled_usec,
            usage.cpu_periods,
            usage.cpu_throttled_periods,
            usage.memory_pressure_usec,
            usage.memory_pressure_full_usec,
            usage.cpu_pressure_usec,
            usage.cpu_pressure_full_usec,
            usage.io_pressure_usec,
            usage.io_pressure_full_usec,
            usage.io_read_bytes,
            usage.io_written_bytes,
            usage.io_reads,
            usage.io_writes,
        ];
        Self(told.map(|number| number.unwrap_or(UNTOLD)))
    }
}

impl Totals {
    /// One of them; `None` where the kernel does not tell.
    #[must_use]
    pub const fn get(&self, total: Total) -> Option<u64> {
        match self.0[total as usize] {
            UNTOLD => None,
            told => Some(told),
        }
    }

    fn each(&mut self, other: &Self, join: fn(u64, u64) -> u64) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours = match (*ours, theirs) {
                (told, UNTOLD) | (UNTOLD, told) => told,
                (a, b) => join(a, b),
            };
        }
    }

    fn add(&mut self, other: &Self) {
        self.each(other, u64::saturating_add);
    }

    fn raise(&mut self, other: &Self) {
        self.each(other, u64::max);
    }
}

impl Entry {
    /// The last word about run `run`.
    fn settle(&mut self, run: u32, mut totals: Totals) {
        if run <= self.settled {
            return;
        }
        if let Some((number, seen)) = self.seen.take_if(|(number, _)| *number <= run) {
            // What was told once is not taken back.
            if number == run { totals.raise(&seen) } else { self.counts.used.add(&seen) }
        }
        self.counts.used.add(&totals);
        self.settled = run;
    }

    /// What was read of run `run` while it lived.
    fn see(&mut self, run: u32, totals: Totals) {
        if run <= self.settled {
            return;
        }
        match &mut self.seen {
            Some((number, seen)) if *number == run => seen.raise(&totals),
            Some((number, _)) if *number > run => {}
            // Of the one before there will be no last word, or one that comes too late to be of use.
            seen => {
                if let Some((number, before)) = seen.replace((run, totals)) {
                    self.counts.used.add(&before);
                    self.settled = number;
                }
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = self.counts;
        if let Some((_, seen)) = &self.seen {
            counts.used.add(seen);
        }
        counts
    }

    fn note(&mut self, run: Option<u32>, kind: &EventKind) {
        let counts = &mut self.counts;
        match kind {
            // A name that is another worker's now, whose runs are numbered anew.
            EventKind::Started { .. } => self.settled = self.settled.min(run.unwrap_or(0).saturating_sub(1)),
            EventKind::Exited { cause, .. } => counts.exits[cause_index(cause)] += 1,
            EventKind::Violation { resource, severity, .. } => {
                let resource = RESOURCES.iter().position(|known| known == resource);
                let severity = SEVERITIES.iter().position(|known| known.as_str() == severity);
                if let (Some(resource), Some(severity)) = (resource, severity) {
                    counts.violations[resource][severity] += 1;
                }
            }
            EventKind::Health { probe, healthy: false, .. } => {
                if let Some(probe) = PROBES.iter().position(|known| known.as_str() == probe) {
                    counts.health_failures[probe] += 1;
                }
            }
            EventKind::LogDropped { stream, bytes, .. } => {
                let stream = usize::from(*stream == Stream::Stderr);
                match bytes {
                    None => counts.log_drops[stream] += 1,
                    Some(bytes) => counts.log_dropped_bytes[stream] += bytes,
                }
            }
            EventKind::Usage { usage } => self.settle(run.unwrap_or(0), Totals::from(*usage)),
            _ => {}
        }
    }
}

fn cause_index(cause: &ExitCause) -> usize {
    // Every word is one of them: a test holds it.
    CAUSES.iter().position(|word| *word == cause.word()).unwrap_or(CAUSES.len() - 1)
}

/// Whether an event of this kind is counted for its worker.
const fn counts(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Started { .. }
            | EventKind::Exited { .. }
            | EventKind::Violation { .. }
            | EventKind::Health { .. }
            | EventKind::LogDropped { .. }
            | EventKind::Usage { .. }
    )
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole between any two of its operations.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what `event` tells.
    pub fn note(&self, event: &Event) {
        let mut inner = self.lock();
        if let Some(kind) = EventKind::WORDS.iter().position(|word| *word == event.kind.word()) {
            inner.all.events[kind] += 1;
        }
        if let EventKind::Decision(decision) = &event.kind {
            let trigger = TRIGGERS.iter().position(|(trigger, _)| *trigger == decision.trigger);
            let verdict = VERDICTS.iter().position(|(verdict, _)| *verdict == decision.verdict);
            if let (Some(trigger), Some(verdict)) = (trigger, verdict) {
                inner.all.decisions[trigger][verdict] += 1;
            }
        }
        if let Some(worker) = event.worker.as_ref().filter(|_| counts(&event.kind)) {
            match inner.workers.get_mut(worker) {
                Some(entry) => entry.note(event.run, &event.kind),
                None => inner.workers.entry(worker.clone()).or_default().note(event.run, &event.kind),
            }
        }
    }

    /// How long decisions take, for those who make them.
    #[must_use]
    pub const fn latency(&self) -> &Arc<Latency> {
        &self.latency
    }

    /// Of how many workers something is counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().workers.len()
    }

    /// Whether nothing is counted of any worker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is counted of all workers together.
    #[must_use]
    pub fn overall(&self) -> Overall {
        self.lock().all
    }

    /// What is counted of each of these workers, in their order. With one comes the number of its living run and what was read of
    /// it just now.
    #[must_use]
    pub fn read<'w>(&self, workers: impl IntoIterator<Item = (&'w WorkerId, Option<(u32, Usage)>)>) -> Vec<Counts> {
        let mut inner = self.lock();
        let read = |(worker, living): (&WorkerId, Option<(u32, Usage)>)| {
            if let Some((run, usage)) = living {
                match inner.workers.get_mut(worker) {
                    Some(entry) => entry.see(run, usage.into()),
                    None => inner.workers.entry(worker.clone()).or_default().see(run, usage.into()),
                }
            }
            inner.workers.get(worker).map(|entry| entry.counts()).unwrap_or_default()
        };
        workers.into_iter().map(read).collect()
    }

    /// Forgets workers that are not there any more.
    pub fn forget(&self, is_there: impl Fn(&WorkerId) -> bool) {
        let mut inner = self.lock();
        inner.workers.retain(|worker, _| is_there(worker));
        inner.workers.shrink_to_fit();
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
