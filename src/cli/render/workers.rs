//! `ps`: a line for each worker.

use std::time::Duration;

use super::reader::{Reader, Tone, state_words};
use super::table::{Field, table};
use super::words::{brief, inert, size};
use crate::api::wire::{Breaker, Glance, Glimpse, Worker};
use crate::model::{Detail, KilledBy, State, StoppedDetail};

/// A worker, as much of it as is listed.
pub trait Listed {
    /// Whether a list without `-a` has it: what runs, what is on its way, and what should run and does not. Not what rests
    /// as it should: stopped by a person, done, never started.
    #[must_use]
    fn is_of_interest(&self) -> bool;
}

impl Listed for Worker {
    fn is_of_interest(&self) -> bool {
        !rests(self.state, self.detail, self.down_by)
    }
}

impl Listed for Glimpse {
    fn is_of_interest(&self) -> bool {
        !rests(self.state, self.detail, self.down_by)
    }
}

fn rests(state: State, detail: Detail, down_by: Option<KilledBy>) -> bool {
    match (state, detail) {
        // What a policy took down is down for good and by nobody's wish.
        (State::Stopped, Detail::Stopped(StoppedDetail::Never | StoppedDetail::Done | StoppedDetail::Stopped)) => {
            down_by != Some(KilledBy::Policy)
        }
        _ => false,
    }
}

/// The table, with a line end behind every row.
#[must_use]
pub fn worker_table(workers: &[Glimpse], reader: &Reader) -> String {
    let header = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "CAUSE", "MEM", "CPU", "PIDS", "NEXT"];
    let rows = workers.iter().map(|worker| {
        let usage = worker.usage.unwrap_or_default();
        [
            Field::from(worker.id.as_str()),
            Field::toned(state_words(worker.state, worker.detail), Tone::of(worker.detail)),
            Field::or_dash(worker.pid),
            Field::or_dash(worker.uptime_ms.map(|ms| brief(Duration::from_millis(ms)))),
            Field::from(worker.restarts.to_string()),
            Field::or_dash(worker.cause.as_ref().map(|cause| inert(&cause.to_string()).into_owned())),
            Field::or_dash(usage.memory_bytes.map(size)),
            Field::or_dash(cpu(usage)),
            Field::or_dash(usage.pids),
            Field::or_dash(next(worker.next_attempt_in_ms, &worker.breaker).map(brief)),
        ]
    });
    table(Some(header), rows, reader)
}

fn cpu(usage: Glance) -> Option<String> {
    usage.cpu_usec.map(|usec| brief(Duration::from_micros(usec)))
}

/// How long it is until it is tried again: the next attempt, or the trial of an open breaker.
pub(super) fn next(attempt_in_ms: Option<u64>, breaker: &[Breaker]) -> Option<Duration> {
    let trials = breaker.iter().filter_map(|class| class.until_in_ms);
    attempt_in_ms.into_iter().chain(trials).min().map(Duration::from_millis)
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
