//! When the probes of one run are due, and what their outcomes amount to. Time is an argument.
//!
//! The rules are Kubernetes' (Probe v1; pkg/kubelet/prober), where it has some:
//! - Until the startup probe has passed, the others are not tried; from then on it is not. Where there is none, a run has
//!   started at once.
//! - The first try is `initial_delay` after the program's start, for the others than startup after its success. Tries
//!   are `period` apart from begin to begin, and one that takes longer is followed at once. Unlike the kubelet, which draws
//!   the first moment at random, this is the same every time.
//! - One is tried at a time: of two that are due the one that was due first, of two at the same moment liveness.
//! - `failure_threshold` failures in a row are a failure, `success_threshold` successes in a row a success.
//!
//! What is told is a change: the first success of a run, and what follows from there. A failure of startup or liveness is
//! told again after each further `failure_threshold` failures, unless the answer was that a restart is on its way. A try
//! that could not be made counts as neither, and `failure_threshold` of them in a row are told once.

use std::{sync::Arc, time::Duration};

use super::probe::{Finding, Outcome};
use crate::model::{HealthReport, HealthVerdict, Mono, ProbeKind};
use crate::spec::types::{HealthCheck, Probe};

/// The monitor of one run.
#[derive(Debug, Clone)]
pub struct Monitor {
    check: Arc<HealthCheck>,
    /// `None` where there is no such probe, or it has passed.
    startup: Option<Track>,
    liveness: Option<Track>,
    readiness: Option<Track>,
}

/// The next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Of which probe.
    pub kind: ProbeKind,
    /// When it is due.
    pub at: Mono,
}

/// One probe's tries so far.
#[derive(Debug, Clone, Copy)]
struct Track {
    due: Mono,
    /// In a row, as the next two.
    passes: u32,
    failures: u32,
    untried: u32,
    told: Told,
    /// Whether the answer to its failure was that a restart is on its way.
    restarting: bool,
}

/// What was told of a probe last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Passed,
    Failed,
}

impl Track {
    fn new(probe: &Probe, from: Mono) -> Self {
        let due = from + probe.initial_delay;
        Self { due, passes: 0, failures: 0, untried: 0, told: Told::Nothing, restarting: false }
    }
}

impl Monitor {
    /// Begins to watch a run whose program began at `started`.
    #[must_use]
    pub fn new(check: &Arc<HealthCheck>, started: Mono) -> Self {
        let track = |probe: &Option<Probe>| probe.as_ref().map(|probe| Track::new(probe, started));
        Self {
            startup: track(&check.startup),
            liveness: track(&check.liveness),
            readiness: track(&check.readiness),
            check: Arc::clone(check),
        }
    }

    /// What is to be tried next. `None` where nothing is left to try.
    #[must_use]
    pub fn next(&self) -> Option<Due> {
        let due = |track: &Option<Track>, kind| track.map(|track| Due { kind, at: track.due });
        if self.startup.is_some() {
            return due(&self.startup, ProbeKind::Startup);
        }
        let both = [due(&self.liveness, ProbeKind::Liveness), due(&self.readiness, ProbeKind::Readiness)];
        both.into_iter().flatten().min_by_key(|due| due.at)
    }

    /// How a probe is tried.
    #[must_use]
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.check.startup.as_ref(),
            ProbeKind::Liveness => self.check.liveness.as_ref(),
            ProbeKind::Readiness => self.check.readiness.as_ref(),
        }
    }

    /// A try begins now, or is passed over (the worker is frozen): the next one is due a period later.
    pub fn begin(&mut self, kind: ProbeKind, now: Mono) {
        let period = self.probe(kind).map(|probe| probe.period);
        if let (Some(period), Some(track)) = (period, self.track(kind)) {
            track.due = now + period;
        }
    }

    /// So much time has passed that counts for nothing: everything is due by so much later.
    pub fn put_off(&mut self, by: Duration) {
        for track in [&mut self.startup, &mut self.liveness, &mut self.readiness].into_iter().flatten() {
            track.due = track.due + by;
        }
    }

    /// A try has ended. What there is to tell.
    pub fn end(&mut self, kind: ProbeKind, outcome: Outcome, now: Mono) -> Option<HealthReport> {
        let probe = self.probe(kind)?;
        let (enough, too_many) = (probe.success_threshold, probe.failure_threshold);
        let track = self.track(kind)?;
        let Outcome { finding, observed } = outcome;
        match finding {
            Finding::Passed => {
                track.passes = track.passes.saturating_add(1);
                (track.failures, track.untried) = (0, 0);
                if track.passes < enough || track.told == Told::Passed {
                    return None;
                }
                (track.told, track.restarting) = (Told::Passed, false);
                Some(match kind {
                    ProbeKind::Startup => {
                        self.begin_others(now);
                        HealthReport::Started { observed }
                    }
                    ProbeKind::Liveness => HealthReport::Alive { observed },
                    ProbeKind::Readiness => HealthReport::Ready { observed },
                })
            }
            Finding::Failed => {
                track.failures = track.failures.saturating_add(1);
                (track.passes, track.untried) = (0, 0);
                if track.failures < too_many {
                    return None;
                }
                if kind == ProbeKind::Readiness {
                    let news = track.told != Told::Failed;
                    track.told = Told::Failed;
                    return news.then_some(HealthReport::Unready { observed });
                }
                (track.told, track.failures) = (Told::Failed, 0);
                (!track.restarting).then_some(HealthReport::Failed { probe: kind, observed })
            }
            Finding::Untried => {
                track.untried = track.untried.saturating_add(1);
                (track.untried == too_many).then_some(HealthReport::Untried { probe: kind, observed })
            }
        }
    }

    /// What was told has been answered.
    pub fn answered(&mut self, kind: ProbeKind, verdict: &HealthVerdict) {
        let Some(track) = self.track(kind) else { return };
        match verdict {
            HealthVerdict::Restarting => track.restarting = true,
            HealthVerdict::Refused(_) | HealthVerdict::Muted => track.restarting = false,
            HealthVerdict::Noted => {}
        }
    }

    fn track(&mut self, kind: ProbeKind) -> Option<&mut Track> {
        match kind {
            ProbeKind::Startup => self.startup.as_mut(),
            ProbeKind::Liveness => self.liveness.as_mut(),
            ProbeKind::Readiness => self.readiness.as_mut(),
        }
    }

    fn begin_others(&mut self, now: Mono) {
        self.startup = None;
        self.liveness = self.check.liveness.as_ref().map(|probe| Track::new(probe, now));
        self.readiness = self.check.readiness.as_ref().map(|probe| Track::new(probe, now));
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
