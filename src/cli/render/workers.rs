//! `ps`: a line for each worker.

use std::time::Duration;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use super::reader::{Reader, Tone, state_words};
use super::words::{brief, inert, size};
use crate::api::wire::{Usage, Worker};
use crate::model::{Detail, KilledBy, State, StoppedDetail};

/// Whether a list without `-a` has it: what runs, what is on its way, and what should run and does not. Not what rests
/// as it should: stopped by a person, done, never started.
#[must_use]
pub fn is_of_interest(worker: &Worker) -> bool {
    match (worker.state, worker.detail) {
        // What a policy took down is down for good and by nobody's wish.
        (State::Stopped, Detail::Stopped(StoppedDetail::Never | StoppedDetail::Done | StoppedDetail::Stopped)) => {
            worker.down_by == Some(KilledBy::Policy)
        }
        _ => true,
    }
}

/// The table, with a line end behind every row.
#[must_use]
pub fn worker_table(workers: &[Worker], reader: &Reader) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    if let Some(width) = reader.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    if reader.colour {
        table.enforce_styling();
    }
    table.set_header(["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "CAUSE", "MEM", "CPU", "PIDS", "NEXT"]);
    for worker in workers {
        let usage = worker.usage.unwrap_or_default();
        table.add_row([
            Cell::new(&worker.id),
            state(worker),
            cell(worker.pid),
            cell(worker.uptime_ms.map(|ms| brief(Duration::from_millis(ms)))),
            Cell::new(worker.restarts),
            cell(worker.cause.as_ref().map(|cause| inert(&cause.to_string()).into_owned())),
            cell(usage.memory_bytes.map(size)),
            cell(cpu(&usage)),
            cell(usage.pids),
            cell(next(worker).map(brief)),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn state(worker: &Worker) -> Cell {
    let cell = Cell::new(state_words(worker.state, worker.detail));
    match Tone::of(worker.detail) {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed),
    }
}

fn cell(value: Option<impl ToString>) -> Cell {
    Cell::new(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
}

fn cpu(usage: &Usage) -> Option<String> {
    usage.cpu_usec.map(|usec| brief(Duration::from_micros(usec)))
}

/// How long it is until it is tried again: the next attempt, or the trial of an open breaker.
pub(super) fn next(worker: &Worker) -> Option<Duration> {
    let trials = worker.breaker.iter().filter_map(|class| class.until_in_ms);
    worker.next_attempt_in_ms.into_iter().chain(trials).min().map(Duration::from_millis)
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
