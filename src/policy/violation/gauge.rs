//! A total of the kernel's that grows too fast for too long: throttled periods of `cpu.stat`, stall time of a pressure file.
//!
//! ```text
//!   pressed ──▶ suspected ── every second (window) too much, for `sustained` ──▶ open
//!                   │ one that is not                                            │ two in a row that are not
//!                   ▼                                                            ▼
//!                 quiet ◀───────────────────────────────────────────────── recovered
//! ```
//!
//! A trigger only begins the look: it can fire once without a reason after it was set, and it fires for a burst as for an
//! overload. What counts is how far the total has grown between two readings.

use std::time::Duration;

use super::{CpuMax, STEPS, Stall};
use crate::model::{CpuStat, Mono, Stalled, duration};

/// How often the total is read at the most.
const SHORTEST: Duration = Duration::from_millis(100);
/// An episode ends with so many readings in a row that are not too much.
const QUIET: u8 = 2;

/// One reading of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reading {
    /// What is lost: throttled periods, or microseconds stalled.
    pub(super) lost: u64,
    /// What it is lost of, as far as the kernel counts it: active periods. 0 where only time is.
    pub(super) of: u64,
}

/// How fast is too fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measure {
    /// The share of units that must not be lost.
    share: f64,
    /// How long a unit is. The kernel counts no period in which nothing wants to run: one second of work in ten, throttled
    /// all along, is a tenth and no more.
    unit: Duration,
    /// Units that may lie on the edge of two readings.
    edge: u64,
    /// How often to look.
    every: Duration,
    /// How long it must last.
    sustained: Duration,
}

/// What a look comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Look again at this moment.
    Again(Mono),
    /// It has lasted long enough: an episode begins. Look again at this moment.
    Open(Mono),
    /// It is over, whatever it was.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Gauge {
    /// The last reading, and when; `None` before the first.
    last: Option<(Mono, Reading)>,
    /// The reading that the present streak began with.
    first: (Mono, Reading),
    /// Readings in a row that were not too much.
    quiet: u8,
    /// Readings in a row that could not be taken.
    blind: u8,
}

impl Measure {
    pub(super) fn of_cpu(rule: &CpuMax) -> Self {
        Self {
            share: rule.throttled_ratio,
            unit: rule.period,
            edge: 1,
            // With a period of one second, each second alone would say all or nothing.
            every: Duration::from_secs(1).max(rule.period * 4),
            sustained: rule.sustained,
        }
    }

    pub(super) fn of_stall(rule: &Stall) -> Self {
        let window = rule.window.max(SHORTEST);
        Self {
            share: rule.stall.as_secs_f64() / window.as_secs_f64(),
            unit: Duration::from_micros(1),
            edge: 0,
            every: window,
            sustained: rule.sustained,
        }
    }

    /// The share that was lost from one reading to the next.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    fn lost(&self, from: (Mono, Reading), to: (Mono, Reading)) -> f64 {
        let time = to.0.since(from.0).as_nanos() / self.unit.as_nanos().max(1);
        let passed = u64::try_from(time).unwrap_or(u64::MAX).saturating_sub(self.edge);
        let of = to.1.of.saturating_sub(from.1.of).max(passed).max(1);
        to.1.lost.saturating_sub(from.1.lost) as f64 / of as f64
    }
}

impl Gauge {
    /// Takes a reading; `None` where there was none to be had.
    pub(super) fn look(&mut self, measure: &Measure, open: bool, reading: Option<Reading>, now: Mono) -> Look {
        let Some(reading) = reading else {
            // What cannot be read is not known to be over.
            let wait = STEPS[usize::from(self.blind).min(STEPS.len() - 1)];
            self.blind = self.blind.saturating_add(1);
            return if open { Look::Again(now + wait) } else { Look::Over };
        };
        self.blind = 0;
        let (next, this) = (now + measure.every, (now, reading));
        let Some(last) = self.last.replace(this) else {
            self.first = this;
            return Look::Again(next);
        };
        let lost = measure.lost(last, this);
        if lost > 0.0 && lost >= measure.share {
            self.quiet = 0;
            let lasted = now.since(self.first.0) >= measure.sustained;
            return if lasted && !open { Look::Open(next) } else { Look::Again(next) };
        }
        self.quiet += 1;
        if open && self.quiet < QUIET { Look::Again(next) } else { Look::Over }
    }

    /// How much was lost since the streak began, in percent, and for how long.
    fn streak(&self, measure: &Measure) -> (f64, Duration) {
        let last = self.last.unwrap_or(self.first);
        (measure.lost(self.first, last) * 100.0, last.0.since(self.first.0))
    }

    pub(super) fn observed_cpu(&self, rule: &CpuMax) -> String {
        let (percent, time) = self.streak(&Measure::of_cpu(rule));
        let grown = |f: fn(&Reading) -> u64| self.last.map_or(0, |l| f(&l.1).saturating_sub(f(&self.first.1)));
        let (throttled, periods) = (grown(|r| r.lost), grown(|r| r.of));
        format!(
            "throttled in {percent:.0} % of periods for {} (nr_throttled +{throttled}, nr_periods +{periods})",
            duration(time)
        )
    }

    pub(super) fn observed_stall(&self, rule: &Stall, file: &str) -> String {
        let (percent, time) = self.streak(&Measure::of_stall(rule));
        format!("{file} {} {percent:.0} % for {}", rule.kind(), duration(time))
    }
}

impl Stall {
    const fn kind(&self) -> &'static str {
        if self.full { "full" } else { "some" }
    }

    /// As it is written in a configuration, with how long it must last.
    pub(super) fn configured(&self) -> String {
        let (stall, window) = (duration(self.stall), duration(self.window));
        format!("{} {stall}/{window} for {}", self.kind(), duration(self.sustained))
    }

    pub(super) const fn reading(&self, stalled: Stalled) -> Reading {
        Reading { lost: if self.full { stalled.full_usec } else { stalled.some_usec }, of: 0 }
    }
}

impl From<CpuStat> for Reading {
    fn from(stat: CpuStat) -> Self {
        Self { lost: stat.nr_throttled, of: stat.nr_periods }
    }
}
