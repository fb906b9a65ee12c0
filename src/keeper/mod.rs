//! The process that is parent of everything: launches, reaps, remembers, and restarts the supervisor and the logger.
//!
//! ```text
//!  systemd ◀─ READY, WATCHDOG ─ keeper ─▶ supervisor   client.rs  launches, acknowledges, answers pings
//!  TERM, INT, HUP ─ forwarded ─▶   │
//!                                  ├─▶ logger          logs.rs    hands over read ends, keeps spare ones
//!                                  └─▶ workers …       runs.rs    in flight, alive, ended until acknowledged
//! ```
//!
//! - `main`: the loop. One thread, no tokio, because a fork copies what the process has and because the child's
//!   set-up must meet no lock. It never waits for one thing.
//! - `setup`: how a process becomes the keeper, by executing itself.
//! - `protocol` and `transport`: what is said and how it travels.
//! - `vigil`: when a supervisor counts as silent, and how long to wait before the next one. Pure.
//! - `client`: the supervisor's end, the only part that knows tokio.
//!
//! Where it fails: a dead supervisor or logger is replaced; a dead *keeper* leaves workers and logger alone, and the
//! supervisor sees its socket end and exits.

pub mod client;
pub mod handover;
mod logs;
pub mod main;
pub mod own_log;
pub mod protocol;
pub mod role;
mod runs;
pub mod setup;
pub mod signals;
mod supervisor;
mod systemd;
pub mod transport;
mod vigil;
