//! What a worker's state is made of again after its supervisor, and what is kept of it for the next one.

use std::{sync::Arc, time::Duration};

use super::{After, Behalf, Body, Life, Main, Phase, Remains, Rest, State, Wish};
use crate::model::{
    Class, Counters, Desired, DownBy, Ending, ExitCause, KilledBy, Mono, Outlook, RestartCounts, UnknownWhy, WorkerId,
};
use crate::policy::breaker::{Breaker, Saved};
use crate::policy::cause::Asked;
use crate::policy::decide::Pending;
use crate::spec::types::Spec;
use crate::worker::transition::{KILL_PATIENCE, LAUNCH_PATIENCE};

/// A run that was found alive.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// Its number.
    pub run: u32,
    /// Its main process; `None` where its launch is not decided yet.
    pub pid: Option<i32>,
    /// When its program began.
    pub started: Mono,
    /// The counters when it began.
    pub baseline: Counters,
    /// What the restart breaker had counted.
    pub breaker: Saved,
    /// Whether that was recorded when its program ran already, and not before its launch.
    pub recorded_running: bool,
    /// Automatic restarts before it, in all.
    pub restarts: RestartCounts,
    /// Whether it should be up; where not, its stop is taken up again.
    pub desired_up: bool,
    /// Who took it down, where that is remembered.
    pub wish: Option<Desired>,
    /// Why the run before it ended; its own end's, where that was told already.
    pub cause: Option<ExitCause>,
    /// How it is being ended, where it is.
    pub ending: Option<Ending>,
    /// Whether it is frozen, by whomever.
    pub frozen: bool,
}

/// What a store remembers of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// The highest number that any run of it had.
    pub last_run: u32,
    /// Whether it should be up; `None` where nobody has said.
    pub wish: Option<Desired>,
    /// What the restart breaker had counted.
    pub breaker: Saved,
    /// Automatic restarts, in all.
    pub restarts: RestartCounts,
    /// What was about to follow.
    pub outlook: Outlook,
    /// Why the last run ended.
    pub cause: Option<ExitCause>,
    /// How long ago it came to what it is at: its last run ended, or it was taken down after that. `None` where that is
    /// not known.
    pub rests_for: Option<Duration>,
    /// The last run that began ended while nobody watched.
    pub unseen: Option<Unseen>,
}

/// An end that nobody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unseen {
    /// The run's number. A later one may have been given out for a run that was never launched.
    pub run: u32,
    /// Why nobody saw it.
    pub why: UnknownWhy,
    /// How long ago it began.
    pub began: Duration,
}

impl State {
    /// A worker of which nothing is left but what a store remembers.
    ///
    /// What was taken down stays down, what rests as it should goes on resting, what was due or held stays so. Nothing of
    /// that is begun anew where it is `idle`: by its configuration, or because everything is being ended.
    #[must_use]
    pub fn remembered(id: WorkerId, spec: Arc<Spec>, kept: &Remembered, idle: bool, now: Mono) -> Self {
        let mut state = Self::new(id, spec, kept.last_run, now);
        state.breaker = Breaker::restore(&kept.breaker, now);
        state.restarts = kept.restarts;
        state.cause.clone_from(&kept.cause);
        state.unseen = kept.unseen.map(Box::new);
        state.wish = match &kept.wish {
            // It is for the configuration to start it.
            _ if kept.outlook == Outlook::Start => Wish::Down(None),
            Some(Desired::Up) if !idle => Wish::Up,
            Some(Desired::Down(_)) => state.taken_down(kept.wish.as_ref()),
            Some(Desired::Up) | None => Wish::Down(None),
        };
        if matches!(kept.outlook, Outlook::Running | Outlook::Start) {
            // What was decided for a living run is lost with the supervisor that had decided it.
            for class in Class::ALL {
                state.breaker.withdraw(class);
            }
        }
        state.phase = match (state.wish, kept.outlook) {
            (Wish::Up, Outlook::Due { after, class }) => Phase::Waiting { due: now + after, class },
            (Wish::Up, Outlook::Held(class)) => Phase::Resting(Rest::Held(class)),
            (_, Outlook::Done) => Phase::Resting(Rest::Done),
            (_, Outlook::Failed) => Phase::Resting(Rest::Failed),
            _ if kept.last_run == 0 => Phase::Resting(Rest::Never),
            _ => Phase::Resting(Rest::Stopped),
        };
        // Where this boot is younger, as early as can be told.
        state.since = kept.rests_for.map_or(now, |ago| now - ago);
        state
    }

    /// The same of a worker whose name is taken by processes that nobody can tell anything of.
    pub fn recall(&mut self, kept: &Remembered, now: Mono) {
        self.breaker = Breaker::restore(&kept.breaker, now);
        self.restarts = kept.restarts;
        self.cause.clone_from(&kept.cause);
        if let Some(Desired::Down(_)) = kept.wish {
            self.wish = self.taken_down(kept.wish.as_ref());
        }
    }

    /// The wish that it is down, of whoever had it.
    fn taken_down(&mut self, wish: Option<&Desired>) -> Wish {
        let Some(Desired::Down(down)) = wish else { return Wish::Down(Some(Behalf::STOP)) };
        self.who = down.who.as_deref().map(Arc::from);
        Wish::Down(Some(Behalf { by: down.by, policy: down.policy }))
    }

    /// A worker whose run was found alive with its keeper: nothing is started or stopped, the watch goes on, and an end
    /// that was under way is carried through. `idle` as for [`remembered`](Self::remembered).
    #[must_use]
    pub fn adopted(id: WorkerId, spec: Arc<Spec>, found: &Adopted, idle: bool, now: Mono) -> Self {
        let (mut state, life) = Self::taken_over(id, spec, found, idle, now);
        let after = found.ending.map_or(After::Policy, after);
        let Some(pid) = found.pid else {
            state.phase = Phase::Launching { life, patience: now + LAUNCH_PATIENCE };
            return state;
        };
        let main = Main { pid, started: found.started };
        state.phase = if life.asked.kill.is_some() {
            Phase::Killing { life, body: Body::Alive(main), give_up: now + KILL_PATIENCE, retry: None, after }
        } else if life.asked.stop.is_some() {
            let kill_at = now + state.spec.stop.timeout;
            Phase::Terminating { life, main, kill_at, after }
        } else {
            Phase::Running { life, main }
        };
        state
    }

    /// A worker whose run had ended and been told of, and was not cleared away: what is left of it is seen to its end, and
    /// what follows is decided then: nothing, where it is `idle`.
    #[must_use]
    pub fn over(id: WorkerId, spec: Arc<Spec>, found: &Adopted, idle: bool, now: Mono) -> Self {
        let (mut state, mut life) = Self::taken_over(id, spec, found, idle, now);
        if idle && state.wish == Wish::Up {
            state.wish = Wish::Down(None);
        }
        life.left_behind = true;
        let killed = found.ending.is_some_and(|ending| ending.kill.is_some());
        let kill_at = if killed { now } else { now + state.spec.stop.timeout };
        let remains = Remains::Dead { ran: Duration::ZERO };
        state.phase = Phase::Draining { life, remains, kill_at, after: found.ending.map_or(After::Policy, after) };
        state
    }

    fn taken_over(id: WorkerId, spec: Arc<Spec>, found: &Adopted, idle: bool, now: Mono) -> (Self, Box<Life>) {
        let mut state = Self::new(id, spec, found.run, now);
        state.wish = match found.ending {
            Some(ending) if idle && found.desired_up && everything_was_to_end(ending) => {
                Wish::Down(Some(KilledBy::Shutdown.into()))
            }
            _ if found.desired_up => Wish::Up,
            _ => state.taken_down(found.wish.as_ref()),
        };
        state.cause.clone_from(&found.cause);
        state.breaker = Breaker::restore(&found.breaker, now);
        if found.recorded_running {
            // A restart that was due is lost with the supervisor that had decided it, unless it has begun.
            let begun = found.ending.and_then(|ending| ending.restart).map(|(class, _)| class);
            for class in Class::ALL.into_iter().filter(|class| Some(*class) != begun) {
                state.breaker.withdraw(class);
            }
        } else {
            // What was in flight is the run that was found.
            state.breaker.began();
        }
        state.restarts = found.restarts;
        state.since = found.started;
        let mut life = Box::new(Life::new(found.started, found.baseline));
        life.sample_at = state.spec.limits.monitoring.interval.map(|interval| now + interval);
        if let Some(Ending { stop, kill, policy, restart, .. }) = found.ending {
            life.asked = Asked { stop, kill, policy };
            life.pending = restart.map(|(class, limit)| Pending { due: now, class, limit });
        }
        life.freezer_says(found.frozen, now);
        (state, life)
    }

    /// How its run is being ended, where it is, for that run's record.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        let (Phase::Terminating { life, after, .. }
        | Phase::Draining { life, after, .. }
        | Phase::Killing { life, after, .. }
        | Phase::Stuck { life, after, .. }) = &self.phase
        else {
            return None;
        };
        let Asked { stop, kill, policy } = life.asked;
        let restart = life.pending.map(|Pending { class, limit, .. }| (class, limit));
        Some(Ending { stop, kill, policy, again: *after == After::Rerun, restart })
    }

    /// Whether it should be up, beyond the end of this supervisor.
    #[must_use]
    pub fn should_be_up(&self) -> bool {
        self.wish == Wish::Up || self.is_shutting_down()
    }

    /// Whether it should be up, beyond the end of this supervisor; `None` where nobody has said.
    #[must_use]
    pub fn desired(&self) -> Option<Desired> {
        match self.wish {
            Wish::Down(None) => None,
            // That everything ends is no wish about this worker.
            Wish::Up | Wish::Down(Some(Behalf { by: KilledBy::Shutdown, .. })) => Some(Desired::Up),
            Wish::Down(Some(Behalf { by, policy })) => {
                let who = self.who.as_deref().map(str::to_owned);
                Some(Desired::Down(DownBy { by, policy, who }))
            }
        }
    }

    /// What is remembered of it, to tell whether that has changed.
    pub(in crate::worker) fn memory(&self) -> (Wish, Breaker, RestartCounts, Outlook) {
        (self.wish, self.breaker.clone(), self.restarts, self.outlook(Mono::default()))
    }

    /// What another supervisor would go on with.
    #[must_use]
    pub fn outlook(&self, now: Mono) -> Outlook {
        let ends = self.is_shutting_down();
        match &self.phase {
            Phase::Waiting { due, class } => Outlook::Due { after: due.since(now), class: *class },
            Phase::Resting(Rest::Held(class)) => Outlook::Held(*class),
            Phase::Resting(Rest::Done) => Outlook::Done,
            Phase::Resting(Rest::Failed) => Outlook::Failed,
            Phase::Resting(Rest::Never | Rest::Stopped) if !ends => Outlook::Rest,
            _ if ends => Outlook::Start,
            Phase::Preparing { .. } | Phase::Launching { .. } => Outlook::Launching,
            _ => Outlook::Running,
        }
    }

    /// Whether it ends with its supervisor.
    pub(in crate::worker) const fn is_shutting_down(&self) -> bool {
        matches!(self.wish, Wish::Down(Some(Behalf { by: KilledBy::Shutdown, .. })))
    }
}

/// What follows, where it is to be up.
fn after(ending: Ending) -> After {
    // Where it is, that everything was to end has ended with the supervisor before.
    if ending.again || everything_was_to_end(ending) { After::Rerun } else { After::Policy }
}

fn everything_was_to_end(ending: Ending) -> bool {
    let shutdown = |by| by == KilledBy::Shutdown;
    ending.kill.is_some_and(shutdown) || ending.stop.is_some_and(|(by, _)| shutdown(by))
}
