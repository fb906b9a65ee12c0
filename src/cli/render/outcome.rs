//! `start`, `stop` and their like: what came of it, a line for each worker.

use super::reader::state_words;
use super::words::{inert, text};
use crate::api::wire::{Code, Settled, Word};

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
        None => state,
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

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
