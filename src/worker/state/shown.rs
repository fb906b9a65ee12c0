//! What the world is shown of a worker's state.

use super::{Life, Phase, Rest, State, Wish};
use crate::model::{Detail, Limit, Readiness, State as PublicState, StoppedDetail, StoppingDetail, WorkerStatus};
use crate::spec::types::ViolationPolicy;

impl State {
    /// What the world is shown. `generation` is the publisher's.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        let (state, detail) = self.public();
        let main = self.main();
        WorkerStatus {
            id: self.id.clone(),
            state,
            detail,
            pid: main.map(|m| m.pid),
            run: self.last_run,
            since: self.since,
            started: main.map(|m| m.started),
            restarts: self.restarts.total(),
            restarts_by: self.restarts,
            breaker: self.breaker.status(&self.spec.restart),
            violations: self.phase.life().map(|life| life.watch.open().collect()).unwrap_or_default(),
            cause: self.cause.clone(),
            next_attempt: match &self.phase {
                Phase::Waiting { due, .. } => Some(*due),
                Phase::Running { life, .. } => life.pending_now().map(|pending| pending.due),
                _ => None,
            },
            desired_up: self.wish == Wish::Up,
            down_by: match self.wish {
                Wish::Up => None,
                Wish::Down(behalf) => behalf.map(|behalf| behalf.by),
            },
            down_policy: match self.wish {
                Wish::Down(Some(behalf)) => behalf.policy,
                Wish::Up | Wish::Down(None) => None,
            },
            stuck_on: self.phase.life().and_then(|life| life.stuck_on.as_deref()).map(str::to_owned),
            desired_generation: self.generations.desired,
            observed_generation: self.generations.observed,
            generation: 0,
        }
    }

    pub(in crate::worker) fn public(&self) -> (PublicState, Detail) {
        use PublicState::{Running, Starting, Stopped, Stopping};
        let stopping = |detail| (Stopping, Detail::Stopping(detail));
        match &self.phase {
            Phase::Resting(rest) => (
                Stopped,
                Detail::Stopped(match rest {
                    Rest::Never => StoppedDetail::Never,
                    Rest::Done => StoppedDetail::Done,
                    Rest::Stopped => StoppedDetail::Stopped,
                    Rest::Failed => StoppedDetail::Failed,
                    Rest::Held(_) => StoppedDetail::BreakerOpen,
                }),
            ),
            Phase::Waiting { .. } => (Stopped, Detail::Stopped(StoppedDetail::Waiting)),
            Phase::Preparing { .. } => (Starting, Detail::Preparing),
            Phase::Launching { .. } => (Starting, Detail::Launching),
            Phase::Running { life, .. } => (Running, Detail::Running(self.readiness(life))),
            Phase::Terminating { .. } => stopping(StoppingDetail::Term),
            Phase::Draining { .. } => stopping(StoppingDetail::Draining),
            Phase::Killing { .. } => stopping(StoppingDetail::Kill),
            Phase::Stuck { .. } => stopping(StoppingDetail::Unkillable),
        }
    }

    /// The worst of what can be said of a living run.
    fn readiness(&self, life: &Life) -> Readiness {
        let throttles = self.spec.limits.memory.high_policy == ViolationPolicy::Throttle && !life.lifted;
        if life.is_frozen() {
            Readiness::Frozen
        } else if self.breaker.any_open() {
            Readiness::Degraded
        } else if throttles && life.watch.open().any(|limit| limit == Limit::MemoryHigh) {
            Readiness::Throttled
        } else if life.unready {
            Readiness::Unready
        } else {
            Readiness::Ready
        }
    }
}
