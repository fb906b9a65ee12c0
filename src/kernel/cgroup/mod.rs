//! One cgroup of version 2, file by file: the directory, its limits, its counters, its end.
//!
//! Owns every path below a cgroup directory and the text of every file in it. Which directories exist is decided by
//! [`super::place`] (ours) and by the driver (one for each run); what a counter means is decided in `policy`.
//!
//! ```text
//! Dir ── limits   plan (pure) → apply: set, read back, compare
//!     ── budget   the same for a slice, which may be populated
//!     ── events   memory.events, pids.events → Counters
//!     ── stat     cpu.stat, memory.peak, … → Usage
//!     ── kill     cgroup.kill, freeze, remove
//!     ── signal   to every process
//!     ── handle   the same directory as a `cgroups_rs::fs::Cgroup`
//! ```

pub mod budget;
pub mod change;
pub mod controller;
pub mod dir;
pub mod disk;
pub mod events;
pub mod handle;
pub mod kill;
pub mod limits;
pub mod setting;
pub mod signal;
pub mod stat;

pub use controller::{Controller, Why, Withheld};
pub use dir::{Dir, DirError, Namespace};
