//! `start`, `stop` and their like: what came of it, a line for each worker.

use super::reader::state_words;
use super::words::{inert, text};
use crate::api::wire::{Code, Settled, Word, Worker};
use crate::model::ExitCause;

/// What was asked for, as far as the words depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// That it runs or rests: how it is now says all.
    State,
    /// A signal, by its name.
    Signal(String),
    /// That the breaker closes.
    Reset,
}

/// What is done or under way, for stdout: each line with its end.
#[must_use]
pub fn outcomes(results: &[Settled], asked: &Asked) -> String {
    let succeeded = results.iter().filter(|settled| settled.outcome != Word::Failed);
    text(succeeded.map(|settled| format!("{}: {}", settled.worker, said(settled, asked))))
}

fn said(settled: &Settled, asked: &Asked) -> String {
    let state = state_words(settled.state, settled.detail);
    let now = match settled.pid {
        Some(pid) => format!("{state}, pid {pid}"),
        None => state.into_owned(),
    };
    match (settled.outcome, asked) {
        (Word::Accepted, _) => format!("accepted; now {now}"),
        (_, Asked::State) => now,
        (_, Asked::Signal(name)) => format!("{name} sent"),
        (_, Asked::Reset) => format!("reset; now {now}"),
    }
}

/// What has failed, for stderr: each line with its end, and with what can be done about it.
#[must_use]
pub fn failures(results: &[Settled]) -> String {
    let failed = results.iter().filter(|settled| settled.outcome == Word::Failed);
    let line = |settled: &Settled| {
        let (worker, error) = (&settled.worker, inert(settled.error.as_deref().unwrap_or("it failed")));
        let advice = match settled.code {
            Some(Code::BreakerOpen) => {
                format!("; `pinfold start {worker}` or `pinfold reset {worker}` closes it, --force tries all the same")
            }
            Some(Code::StartFailed | Code::Ended) => format!("; see `pinfold why {worker}`"),
            _ => String::new(),
        };
        format!("pinfold: {worker}: {error}{advice}")
    };
    text(failed.map(line))
}

/// How workers are after the first start of each, for stdout: each line with its end. Who could not be started is not among them.
#[must_use]
pub fn started(workers: &[Worker]) -> String {
    let line = |worker: &Worker| {
        let state = state_words(worker.state, worker.detail);
        match worker.pid {
            Some(pid) => format!("{}: {state}, pid {pid}", worker.id),
            None => format!("{}: {state}", worker.id),
        }
    };
    text(workers.iter().filter(|worker| why_not_started(worker).is_none()).map(line))
}

/// Who could not be started, for stderr: each line with its end.
#[must_use]
pub fn not_started(workers: &[Worker]) -> String {
    text(workers.iter().filter_map(|worker| {
        let why = why_not_started(worker)?.to_string();
        Some(format!("pinfold: {0}: {1}; see `pinfold why {0}`", worker.id, inert(&why)))
    }))
}

fn why_not_started(worker: &Worker) -> Option<&ExitCause> {
    worker.cause.as_ref().filter(|cause| worker.pid.is_none() && matches!(cause, ExitCause::StartFailed { .. }))
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
