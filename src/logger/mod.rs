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
//! Rotation, the time index and the policies of overflow have their seat in `sink`.

pub mod main;
mod sink;
