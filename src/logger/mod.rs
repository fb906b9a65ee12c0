//! The process between the workers' pipes and their files, so that neither supervisor nor keeper has a hand on a byte.
//!
//! ```text
//!   keeper ─ Attach (read end, path) ─▶ main ─ readable pipe ─▶ sink: splice(2) ─▶ file
//!          ◀─ Drained ──────────────────┘ end of pipe
//! ```
//!
//! One thread, its own session, deaf to the signals that ask for an end: it lives until the keeper's socket is closed
//! *and* every pipe has ended. Where it is killed, the bytes wait in the pipes (the keeper holds a spare end of each)
//! for the next logger: `splice` moves a byte from pipe to file in one step, so none is in between.
//!
//! `sink` is one pipe: how fast it may come (`bucket`, pure) and what becomes of what cannot be written. `chain` is the files
//! of one stream: when the next is begun, which have to go for it (`quota`, pure), and the index of their times.
//!
//! One turn takes a bounded part of one pipe, and all readable pipes have a turn before one has its second: a flood is
//! as fast as this thread, and as loud as its files are large; neither the others' output nor our memory feels it.

mod bucket;
mod chain;
pub mod main;
mod quota;
mod sink;
