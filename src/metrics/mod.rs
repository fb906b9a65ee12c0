//! What pinfold tells a monitoring system about itself and its workers: which metrics there are, what is counted for them,
//! and how they are written.
//!
//! ```text
//!  actors ── Latency (atomics) ──────────────┐
//!  events ── Tally (counts of each worker) ──┼─▶ Scrape ── families ── Exposition ─▶ text
//!  published status, the kernel's files ─────┘
//! ```
//!
//! - Nothing is registered: a [`Scrape`] is put together when somebody asks, from what is published then. A worker that is gone has no
//!   series, and nothing has to be taken away for that.
//! - What cannot be seen afterwards is counted as it happens: [`Tally`] sees every event once, behind the actors, and
//!   [`Latency`](latency::Latency) is a handful of atomics.
//! - A counter of a worker never goes back while a supervisor lives, though each run has a cgroup with counters of its own: what ended
//!   runs have used is added to what the living one has ([`tally`]).
//! - [`families`] is the whole list: name, unit, labels and where the numbers come from. The text is prometheus-client's.

mod exposition;
mod family;
pub mod latency;
mod own;
mod scrape;
pub mod tally;
mod worker;

pub use exposition::Exposition;
pub use family::{Family, Kind, families};
pub use scrape::{Breaker, Gauges, Limited, Own, Row, Scrape};
pub use tally::Tally;
