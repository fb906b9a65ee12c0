//! Data in, text out. Nothing here writes, reads a clock or asks a terminal: the caller says how wide and how
//! colourful the reader is, so that every line has a snapshot. Only the system's time zone is looked for here, once a time is
//! told.
//!
//! `words` has the sentences, `event` the lines of `up`, `prefix` the workers' own output, `summary` the table
//! at the end. `workers`, `stats`, `status`, `why`, `history`, `outcome` and `plan` are what the commands print that talk to a supervisor,
//! for a
//! `reader`.

mod event;
mod history;
mod inspect;
mod outcome;
mod plan;
mod prefix;
mod reader;
#[cfg(test)]
pub(super) mod samples;
mod stats;
mod status;
mod summary;
mod table;
mod why;
mod words;
mod workers;

#[cfg(test)]
pub(crate) use event::tests::every_kind;
pub use event::{EventLines, json_line};
pub use history::history_table;
pub use inspect::inspection;
pub use outcome::{Asked, failures, not_started, outcomes, started};
pub use plan::{not_carried, plan, reloaded};
pub use prefix::{MAX_LINE, Prefixer, Sgr, worker_style};
pub(super) use reader::Tone;
pub use reader::{Reader, Zone};
pub use stats::stats_table;
pub use status::worker_status;
pub use summary::Summary;
pub use why::why;
pub use words::{brief, cause_sentence, duration, inert, inert_json, inert_lines, signal_name, size, text};
pub use workers::{Listed, worker_table};
