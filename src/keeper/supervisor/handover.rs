//! The supervisor's seat as the next keeper gets it: empty, and with its history.

use super::{End, Supervisor};
use crate::keeper::handover::SupervisorState;
use crate::model::{Mono, chain};

impl Supervisor {
    /// It has asked for another binary, and is about to end.
    pub(in crate::keeper) fn makes_way(&mut self, now: Mono) {
        if let Some(seat) = &mut self.seat {
            seat.listening = false;
            seat.vigil.leaving(now);
        }
    }

    /// It has made way: `end` is what its end would have meant otherwise.
    pub(in crate::keeper) fn made_way(&mut self, end: &End, version: &str) {
        if let End::Leave(_) = end {
            self.restarts += 1;
        }
        self.previous = Some(format!("the binary was replaced by version {version}"));
        self.take_up_the_end_again();
        // The next one is of that binary, or follows when it cannot be executed.
        self.restart_at = None;
    }

    /// The exec failed: the next supervisor is one of the old binary.
    pub(in crate::keeper) fn stays(&mut self, why: &(dyn std::error::Error + 'static), now: Mono) {
        self.previous = Some(format!("the new binary could not be executed: {}", chain(why)));
        self.restart_at = Some(now);
    }

    /// All of it.
    pub(in crate::keeper) fn leave(&self) -> SupervisorState {
        SupervisorState {
            backoff: self.backoff.clone(),
            restarts: self.restarts,
            previous: self.previous.clone(),
            waiting_signals: self.waiting_signals.clone(),
            going_down: self.going_down,
            nonce: self.nonce,
            method: self.method,
        }
    }

    /// Goes on where the keeper before was; one is due at once.
    pub(in crate::keeper) fn take_over(&mut self, state: SupervisorState, now: Mono) {
        let SupervisorState { backoff, restarts, previous, waiting_signals, going_down, nonce, method } = state;
        (self.backoff, self.restarts, self.previous) = (backoff, restarts, previous);
        (self.waiting_signals, self.going_down) = (waiting_signals, going_down);
        (self.nonce, self.method, self.restart_at) = (nonce, method, Some(now));
    }
}
