//! The restart breaker: how often a worker is restarted by itself, and when, before it is left alone.
//!
//! Pure: the time is an argument. It is asked before a restart, told what became of it, and says when it wants to be
//! looked at again ([`Breaker::deadline`]). What the restart is for, whom it waits for and what follows a refusal is
//! decided by its caller.
//!
//! # Budgets
//!
//! Each [`Class`] (exit, health, violation) has a budget of its own, and none touches another's. With the policy's
//! `max_retries` M, `retry_delay` D, `backoff_rate` r, a severity's factor s (warning 0.5, critical 1, emergency 2) and a
//! profile's factor p (batch 3, web 1, database 5, worker 2, scheduler 2.5, default 1), either of which the policy overrides:
//!
//! * Restarts in a row: max(1, trunc(M·s·p)). M = 0 is without end and stays so.
//! * The first delay: max(1 s, D·s·p), or none where D is 0.
//! * The class `exit` has M, D and r. `health` has them too, with `health_failures` over them. `violation` has M+2 (0 stays
//!   0), 2·D and r, with `resource_violations` over these, as it is written.
//! * Severities of one class share one count; each request is held against its own severity's budget.
//!
//! # When a restart is due
//!
//! Attempt k (from 0) is due delay·rᵏ after the class's previous restart was, the first one after the begin of the run;
//! `jitter` varies the delay, `max_delay` caps it, and no moment in the past is due, but now. Delays are *distances between
//! starts*, as in [`restart`](super::restart).
//!
//! # States of a class
//!
//! ```text
//!                      one request more than the budget
//!        ┌── Closed ────────────────────────────────────▶ Open ◀────────────────────────┐
//!        │      ▲                                          │ cooldown                   │ asked again, or its
//! a stable run  │ asked for nothing while a run lived      ▼                            │ run never began
//! zeroes the    ├───────────────────────────────── HalfOpen, free                       │
//! count         │                                          │ a request: the trial       │
//!               │                                          ▼                            │
//!               └───────────────────────────────── HalfOpen, trial under way ───────────┘
//!                 the trial's run lived to its deadline, or ended well
//! ```
//!
//! * A request that was refused is not kept. When a class half-opens, its caller asks again for a worker that still
//!   lies dead or still breaks its limit.
//! * The trial is one restart, due at once and outside the count. Its deadline is min(`cooldown`, `reset_after`) after its
//!   program began; the same time without a request, in a run that lives, closes a class whose trial was not needed.
//!   Where no run begins, the trial fails [`LAUNCH_PATIENCE`] and that time after it was admitted (after the end of the run
//!   it replaces).
//! * A trial whose run ends without a request of the class has proved nothing: the next run goes on for it.
//! * `cooldown: hold` opens until [`Breaker::reset`]. Whatever is open, [`Breaker::reset`] and, of its class,
//!   [`Breaker::recovered`] close and zero.
//! * A run that lived `reset_after` is stable: what was counted before it began is forgotten. Decay and a clean end do
//!   not act on an open class: its cooldown does.
//! * A run younger than `startup_grace_period` is spared restarts for health and violations: not counted, not queued, and
//!   no failure of a trial. A dead worker is never delayed by it.
//! * A restart called off before its program began gives its attempt back ([`Breaker::withdraw`]). One class has
//!   at most one restart in flight: more triggers join it and are not asked for here.
//!
//! # What is no strike
//!
//! A clean exit ([`after_clean_exit`]) and a spawn fault of ours ([`Breaker::fault`]) are due at a time of their own and use
//! no budget.
//!
//! # What is remembered
//!
//! [`Saved`] holds distances from the moment of saving, never instants, so that neither a new clock after a restart of
//! the host nor the time nobody was there brings a restart nearer or a cooldown to its end.

mod budget;
mod circuit;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use self::circuit::{Circuit, Moment};
use super::{backoff::Backoff, restart::RestartPolicy};
use crate::model::{BreakerState, BreakerStatus, Class, Mono, Severity, Way};

/// How long a launch may take before a trial without a run has failed: longer than any launch that is still watched.
pub const LAUNCH_PATIENCE: Duration = Duration::from_secs(120);

/// Delays after a spawn fault, which is nobody's fault who could mend it.
const SPAWN_FAULT: Backoff =
    Backoff { delay: Duration::from_millis(50), rate: 2.0, max: Duration::from_secs(5), jitter: 0.1 };

/// When the run after a clean exit is due, where the policy wants one: `retry_delay` after the begin of the run that ended,
/// as it is configured. It is no strike. `draw` is a number in [0, 1).
#[must_use]
pub fn after_clean_exit(policy: &RestartPolicy, began: Mono, now: Mono, draw: f64) -> Mono {
    (began + Backoff::of(policy).delay(0, draw)).max(now)
}

/// What is remembered of one worker's automatic restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breaker {
    circuits: [Circuit; Class::ALL.len()],
    spawn_faults: u32,
}

/// A restart that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whose budget it is taken from.
    pub class: Class,
    /// How bad what it is for is; [`Severity::Critical`] for exits and health.
    pub severity: Severity,
    /// When the run it follows was begun, before anything of it was prepared.
    pub began: Mono,
    /// When that run's program began, where it still runs; `None` for a dead one.
    pub alive_since: Option<Mono>,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is to be made.
    Admitted {
        /// When; never before now.
        due: Mono,
        /// Which in a row it is, from 1. The trial of a half-open class is the first of one.
        attempt: u32,
        /// How many in a row are admitted; `None` is without end.
        max: Option<u32>,
    },
    /// It is not, and with this refusal the class opened.
    Opens {
        /// When it admits a trial; `None` waits for a person.
        until: Option<Mono>,
        /// The restarts in a row that were made.
        attempts: u32,
    },
    /// It is not: the class was open already.
    Refused {
        /// When it admits a trial; `None` waits for a person.
        until: Option<Mono>,
    },
    /// It is not, because the run is too young. It was not counted, and is not kept for later.
    Muted {
        /// When the run no longer is.
        until: Mono,
    },
}

/// A class that changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub class: Class,
    /// Its new state.
    pub state: BreakerState,
    /// Where it opened: when it admits a trial; `None` waits for a person.
    pub until: Option<Mono>,
    /// Why, in words.
    pub rule: &'static str,
}

/// The changes of one call, those of one class in their order; mostly none.
pub type Changes = Vec<Change>;

impl Breaker {
    /// A restart is wanted. `draw` is a number in [0, 1) for the jitter.
    ///
    /// Answers for this moment even where [`tick`](Self::tick) was not called in time; only a call of it tells what
    /// changed meanwhile.
    #[must_use]
    pub fn request(&mut self, policy: &RestartPolicy, request: Request, now: Mono, draw: f64) -> Admission {
        let Request { class, alive_since, .. } = request;
        if class != Class::Exit
            && let Some(until) = alive_since.map(|since| since + policy.startup_grace_period)
            && now < until
        {
            return Admission::Muted { until };
        }
        let circuit = self.circuit_mut(class);
        circuit.advance(class, policy, alive_since.map(Moment::of), Moment::of(now), &mut Changes::new());
        circuit.request(policy, &request, Moment::of(now), draw)
    }

    /// An admitted restart was called off before its program began (stopped, removed, lost with the supervisor): it is as
    /// if it had not been asked for. Without one it does nothing.
    pub fn withdraw(&mut self, class: Class) {
        self.circuit_mut(class).withdraw();
    }

    /// The program of a new run began, whoever started it: what was in flight has arrived. To be called too for a run that
    /// is found alive and was launched for a restart this breaker still holds in flight.
    pub fn began(&mut self) {
        self.spawn_faults = 0;
        for circuit in &mut self.circuits {
            circuit.began();
        }
    }

    /// A run ended after its program ran for `ran`, `None` where it never did. `clean`: by itself, with a code of success.
    /// To be called before the [`request`](Self::request) for that exit.
    #[must_use]
    pub fn ended(&mut self, policy: &RestartPolicy, ran: Option<Duration>, clean: bool, now: Mono) -> Changes {
        let now = Moment::of(now);
        let alive = ran.map(|ran| now.minus(ran));
        self.each(|class, circuit, changes| {
            circuit.advance(class, policy, alive, now, changes);
            if alive.is_some() {
                circuit.ended(class, clean, now, changes);
            }
        })
    }

    /// Time passed. Calling it more often than [`deadline`](Self::deadline) asks changes nothing.
    #[must_use]
    pub fn tick(&mut self, policy: &RestartPolicy, alive_since: Option<Mono>, now: Mono) -> Changes {
        let (alive, now) = (alive_since.map(Moment::of), Moment::of(now));
        self.each(|class, circuit, changes| circuit.advance(class, policy, alive, now, changes))
    }

    /// When [`tick`](Self::tick) next has something to do, if it ever has; `None` where nothing was counted.
    #[must_use]
    pub fn deadline(&self, policy: &RestartPolicy, alive_since: Option<Mono>) -> Option<Mono> {
        let alive = alive_since.map(Moment::of);
        self.circuits.iter().filter_map(|circuit| circuit.next(policy, alive)).map(|(at, _)| at.mono()).min()
    }

    /// What the class is asked for is well again: it is closed and its count 0.
    #[must_use]
    pub fn recovered(&mut self, class: Class) -> Changes {
        let mut changes = Changes::new();
        self.circuit_mut(class).close(class, "what it was for has recovered", &mut changes);
        changes
    }

    /// A person wants it anew: all closed, all counts 0.
    #[must_use]
    pub fn reset(&mut self) -> Changes {
        self.spawn_faults = 0;
        self.each(|class, circuit, changes| circuit.close(class, "it was asked for", changes))
    }

    /// A spawn of ours failed. Says when the next is due: 50 ms from now, doubled up to 5 s until a program
    /// [began](Self::began). No class counts it. `draw` is a number in [0, 1).
    pub fn fault(&mut self, now: Mono, draw: f64) -> Mono {
        let due = now + SPAWN_FAULT.delay(self.spawn_faults, draw);
        self.spawn_faults = self.spawn_faults.saturating_add(1);
        due
    }

    /// How the next run is to be launched: after each fault of ours in a row the other way.
    #[must_use]
    pub const fn way(&self) -> Way {
        if self.spawn_faults % 2 == 1 { Way::Other } else { Way::Usual }
    }

    /// Whether the class admits nothing. A half-open one does, once.
    #[must_use]
    pub fn is_open(&self, class: Class) -> bool {
        self.state(class) == BreakerState::Open
    }

    /// Whether any class is open.
    #[must_use]
    pub fn any_open(&self) -> bool {
        Class::ALL.into_iter().any(|class| self.is_open(class))
    }

    /// The class's state, as of the last call with a time.
    #[must_use]
    pub fn state(&self, class: Class) -> BreakerState {
        self.circuit(class).state()
    }

    /// The class's restarts in a row, without the trial of a half-open one.
    #[must_use]
    pub fn attempts(&self, class: Class) -> u32 {
        self.circuit(class).attempts()
    }

    /// The classes that have counted something or are not closed. What they admit is said for the severity they were last
    /// asked with.
    #[must_use]
    pub fn status(&self, policy: &RestartPolicy) -> Vec<BreakerStatus> {
        let circuits = Class::ALL.into_iter().zip(&self.circuits);
        circuits.filter_map(|(class, circuit)| circuit.status(policy, class)).collect()
    }

    /// What is to outlive the supervisor and the host.
    #[must_use]
    pub fn save(&self, now: Mono) -> Saved {
        let now = Moment::of(now);
        let touched = Class::ALL.into_iter().zip(self.circuits).filter(|(_, circuit)| circuit.is_touched());
        let classes = touched.map(|(class, circuit)| (class, circuit.on_clock(now, Moment::ORIGIN))).collect();
        Saved { classes, spawn_faults: self.spawn_faults }
    }

    /// The same breaker on another clock: as far from every deadline, and from every restart, as when it was saved.
    #[must_use]
    pub fn restore(saved: &Saved, now: Mono) -> Self {
        let mut breaker = Self { spawn_faults: saved.spawn_faults, ..Self::default() };
        for (class, circuit) in &saved.classes {
            *breaker.circuit_mut(*class) = circuit.on_clock(Moment::ORIGIN, Moment::of(now));
        }
        breaker
    }

    const fn circuit(&self, class: Class) -> &Circuit {
        &self.circuits[class as usize]
    }

    const fn circuit_mut(&mut self, class: Class) -> &mut Circuit {
        &mut self.circuits[class as usize]
    }

    fn each(&mut self, mut act: impl FnMut(Class, &mut Circuit, &mut Changes)) -> Changes {
        let mut changes = Changes::new();
        for (class, circuit) in Class::ALL.into_iter().zip(&mut self.circuits) {
            act(class, circuit, &mut changes);
        }
        changes
    }
}

/// A [`Breaker`] at rest. Empty (its default) where nothing is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// The moments in it count from the moment of saving.
    classes: BTreeMap<Class, Circuit>,
    spawn_faults: u32,
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
