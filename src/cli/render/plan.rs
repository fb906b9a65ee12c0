//! `plan` and `reload`: a line for each step, and how many workers are left as they are.

use super::table::{Field, lines};
use super::words::{inert, text};
use crate::api::wire::{Carried, Plan, Reloaded, Step, Word};

/// What would be done.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let rows = plan.steps.iter().map(|step| row(step, None));
    rows_and_rest(rows, plan.untouched.len(), plan.registered.len())
}

/// What was done, and what came of it.
#[must_use]
pub fn reloaded(reloaded: &Reloaded) -> String {
    let rows = reloaded.steps.iter().map(|carried| row(&carried.step, Some(carried.outcome)));
    rows_and_rest(rows, reloaded.untouched.len(), 0)
}

/// What could not be done, for stderr: each line with its end.
#[must_use]
pub fn not_carried(reloaded: &Reloaded) -> String {
    let not_done = reloaded.steps.iter().filter(|carried| carried.outcome != Word::Done);
    text(not_done.map(|Carried { step, outcome, error }| {
        let (verb, what, _) = step.words();
        let why = match outcome {
            Word::Accepted => "left to the supervisor that takes over; `pinfold plan` says what is still to be done",
            Word::Done | Word::Failed => error.as_deref().unwrap_or("it failed"),
        };
        format!("pinfold: {verb} {}: {}", inert(&what), inert(why))
    }))
}

fn row(step: &Step, outcome: Option<Word>) -> [String; 3] {
    let (verb, what, how) = step.words();
    let how = match outcome {
        Some(Word::Failed) => format!("FAILED: {how}"),
        Some(Word::Accepted) => format!("LEFT: {how}"),
        _ => how,
    };
    [verb.to_owned(), inert(&what).into_owned(), inert(&how).into_owned()]
}

fn rows_and_rest(rows: impl ExactSizeIterator<Item = [String; 3]>, untouched: usize, registered: usize) -> String {
    let nothing = rows.len() == 0;
    let lines = lines(rows.map(|row| row.map(Field::from)));
    let rest = match untouched {
        1 => "1 worker is untouched".to_owned(),
        n => format!("{n} workers are untouched"),
    };
    let of_api = match registered {
        0 => String::new(),
        n => format!("; {n} registered over the API"),
    };
    if nothing { format!("nothing to do; {rest}{of_api}\n") } else { format!("{lines}{rest}{of_api}\n") }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
