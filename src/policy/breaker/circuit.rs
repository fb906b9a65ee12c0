//! One class of the breaker: its state, and the rules that change it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Change, Changes, LAUNCH_PATIENCE, Request, budget::Budget};
use crate::model::{BreakerState, BreakerStatus, Class, Mono, Severity};
use crate::policy::restart::RestartPolicy;

/// Nanoseconds on the host's clock. Signed, because after a restart of the host what is remembered is older than its clock.
/// Beyond 292 years it saturates: such a moment never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Moment(i64);

/// One class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Circuit {
    phase: Phase,
    /// Restarts in a row.
    attempts: u32,
    /// When the last of them was due; `Some` where there are any.
    previous: Option<Moment>,
    /// Whose budget the last one was held against.
    severity: Severity,
    /// The last of them, while its program has not begun.
    in_flight: Option<InFlight>,
}

/// What an admitted restart replaced in [`Circuit`], for the case that it is called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct InFlight {
    previous: Option<Moment>,
    severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Closed,
    Open { until: Option<Moment> },
    HalfOpen { since: Moment, trial: Trial },
}

/// The one restart of a half-open class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trial {
    /// Not asked for yet.
    Free,
    /// Admitted; its program has not begun. A run that lives is the one it replaces.
    Launching { since: Moment },
    /// Its program began. A run that lives is its own or one that goes on for it.
    Running,
}

/// What time does to a class.
pub(super) enum Step {
    Decay,
    Cool,
    Close(&'static str),
    Fail,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { phase: Phase::Closed, attempts: 0, previous: None, severity: Severity::Critical, in_flight: None }
    }
}

impl Circuit {
    pub(super) fn is_touched(&self) -> bool {
        *self != Self::default()
    }

    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn status(&self, policy: &RestartPolicy, class: Class) -> Option<BreakerStatus> {
        self.is_touched().then(|| BreakerStatus {
            class,
            state: self.state(),
            attempts: self.attempts,
            max_attempts: Budget::of(policy, class, self.severity).max,
            until: self.until(),
        })
    }

    pub(super) const fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn until(&self) -> Option<Mono> {
        match self.phase {
            Phase::Open { until } => until.map(Moment::mono),
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    /// What time does next, and when: the one source of both `tick` and `deadline`.
    pub(super) fn next(&self, policy: &RestartPolicy, alive: Option<Moment>) -> Option<(Moment, Step)> {
        let trial_time = policy.cooldown.unwrap_or(Duration::MAX).min(policy.reset_after);
        match self.phase {
            // What is in flight was asked for in the run that lives: this one cannot have made it good.
            Phase::Closed if self.attempts > u32::from(self.in_flight.is_some()) => {
                Some((alive?.plus(policy.reset_after), Step::Decay))
            }
            Phase::Closed => None,
            Phase::Open { until } => Some((until?, Step::Cool)),
            Phase::HalfOpen { since, trial: Trial::Free } => {
                let rule = "no restart was asked for as long as a trial lasts";
                Some((alive?.max(since).plus(trial_time), Step::Close(rule)))
            }
            // While the run it replaces lives, that one's stop has a time limit of its own.
            Phase::HalfOpen { trial: Trial::Launching { .. }, .. } if alive.is_some() => None,
            Phase::HalfOpen { trial: Trial::Launching { since }, .. } => {
                Some((since.plus(LAUNCH_PATIENCE).plus(trial_time), Step::Fail))
            }
            Phase::HalfOpen { trial: Trial::Running, .. } => {
                Some((alive?.plus(trial_time), Step::Close("the trial lived to its deadline")))
            }
        }
    }

    /// Does all that is due by `now`, each step as of when it was due, so that it does not matter how late this is called.
    pub(super) fn advance(
        &mut self,
        class: Class,
        policy: &RestartPolicy,
        alive: Option<Moment>,
        now: Moment,
        changes: &mut Changes,
    ) {
        while let Some((at, step)) = self.next(policy, alive)
            && at <= now
        {
            match step {
                Step::Decay => self.decay(),
                Step::Cool => {
                    self.phase = Phase::HalfOpen { since: at, trial: Trial::Free };
                    changes.push(self.change(class, "its cooldown has passed: one restart may try"));
                }
                Step::Close(rule) => self.close(class, rule, changes),
                Step::Fail => {
                    self.open(policy, at);
                    changes.push(self.change(class, "the run of its trial never began"));
                }
            }
        }
    }

    pub(super) fn request(&mut self, policy: &RestartPolicy, request: &Request, now: Moment, draw: f64) -> Admission {
        let Request { class, severity, began, .. } = *request;
        match self.phase {
            Phase::Closed => {
                let budget = Budget::of(policy, class, severity);
                let replaced = InFlight { previous: self.previous, severity: self.severity };
                self.severity = severity;
                if budget.max.is_some_and(|max| self.attempts >= max) {
                    return self.open(policy, now);
                }
                let from = self.previous.unwrap_or(Moment::of(began));
                let due = from.plus(budget.backoff.delay(self.attempts, draw)).max(now);
                self.attempts = self.attempts.saturating_add(1);
                self.previous = Some(due);
                self.in_flight = Some(replaced);
                Admission::Admitted { due: due.mono(), attempt: self.attempts, max: budget.max }
            }
            Phase::Open { .. } => Admission::Refused { until: self.until() },
            Phase::HalfOpen { since, trial: Trial::Free } => {
                self.phase = Phase::HalfOpen { since, trial: Trial::Launching { since: now } };
                Admission::Admitted { due: now.mono(), attempt: 1, max: Some(1) }
            }
            Phase::HalfOpen { .. } => self.open(policy, now),
        }
    }

    fn open(&mut self, policy: &RestartPolicy, at: Moment) -> Admission {
        self.phase = Phase::Open { until: policy.cooldown.map(|cooldown| at.plus(cooldown)) };
        self.in_flight = None;
        Admission::Opens { until: self.until(), attempts: self.attempts }
    }

    pub(super) fn close(&mut self, class: Class, rule: &'static str, changes: &mut Changes) {
        let was = self.state();
        *self = Self::default();
        if was != BreakerState::Closed {
            changes.push(self.change(class, rule));
        }
    }

    /// Forgets what was counted before the run that lives began.
    fn decay(&mut self) {
        match &mut self.in_flight {
            None => *self = Self::default(),
            Some(in_flight) => {
                *in_flight = InFlight { previous: None, severity: Severity::Critical };
                self.attempts = 1;
            }
        }
    }

    pub(super) fn withdraw(&mut self) {
        if let Phase::HalfOpen { trial: trial @ Trial::Launching { .. }, .. } = &mut self.phase {
            *trial = Trial::Free;
        } else if let Some(InFlight { previous, severity }) = self.in_flight.take() {
            self.attempts = self.attempts.saturating_sub(1);
            (self.previous, self.severity) = (previous, severity);
        }
    }

    pub(super) fn began(&mut self) {
        self.in_flight = None;
        if let Phase::HalfOpen { trial: trial @ Trial::Launching { .. }, .. } = &mut self.phase {
            *trial = Trial::Running;
        }
    }

    /// A run whose program had begun ended.
    pub(super) fn ended(&mut self, class: Class, clean: bool, now: Moment, changes: &mut Changes) {
        match &mut self.phase {
            // The run that the trial replaces: only now can the launch begin.
            Phase::HalfOpen { trial: Trial::Launching { since }, .. } => *since = now,
            Phase::HalfOpen { .. } if clean => self.close(class, "a run ended well", changes),
            Phase::Closed | Phase::Open { .. } | Phase::HalfOpen { .. } => {}
        }
    }

    fn change(&self, class: Class, rule: &'static str) -> Change {
        Change { class, state: self.state(), until: self.until(), rule }
    }

    /// The same on a clock that says `new` where this one says `old`.
    pub(super) fn on_clock(&self, old: Moment, new: Moment) -> Self {
        let moved = |moment: Moment| Moment(moment.0.saturating_sub(old.0).saturating_add(new.0));
        let phase = match self.phase {
            Phase::Closed => Phase::Closed,
            Phase::Open { until } => Phase::Open { until: until.map(moved) },
            Phase::HalfOpen { since, trial } => {
                let trial = match trial {
                    Trial::Launching { since } => Trial::Launching { since: moved(since) },
                    Trial::Free | Trial::Running => trial,
                };
                Phase::HalfOpen { since: moved(since), trial }
            }
        };
        let in_flight = self.in_flight.map(|it| InFlight { previous: it.previous.map(moved), ..it });
        Self { phase, previous: self.previous.map(moved), in_flight, ..*self }
    }
}

impl Moment {
    pub(super) const ORIGIN: Self = Self(0);

    pub(super) fn of(at: Mono) -> Self {
        Self(nanos(at.0))
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanos(time)))
    }

    pub(super) fn minus(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(time)))
    }

    /// As the rest of the crate knows moments: none lies before the clock's begin.
    pub(super) fn mono(self) -> Mono {
        Mono(Duration::from_nanos(u64::try_from(self.0).unwrap_or(0)))
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
