//! Data in, text out. Nothing here writes, reads a clock or asks a terminal: the caller says how wide and how
//! colourful the reader is, so that every line has a snapshot.
//!
//! `words` has the sentences, `event` the lines of `up`, `prefix` the workers' own output, `summary` the table
//! at the end.

mod event;
mod prefix;
mod summary;
mod words;

pub use event::{EventLines, json_line};
pub use prefix::{MAX_LINE, Prefixer, Sgr, worker_style};
pub use summary::Summary;
pub use words::{cause_sentence, duration, inert, signal_name, size};
