//! The command line: what can be typed, what is printed, what we end with.
//!
//! A file for each command; `look`, `events` and `logs` have those that read from a running supervisor and `ask` those that ask
//! something of it, all over `client`. `run` needs no daemon and is complete here; of `up` the parsing and the printing are here,
//! its processes are the composition root's (`crate::daemon`).

pub mod args;
pub mod ask;
pub mod client;
pub mod completion;
mod connect;
pub mod doctor;
pub mod down;
pub mod events;
pub mod exit;
pub mod govern;
pub mod logs;
pub mod look;
pub mod man;
pub mod paths;
pub mod reexec;
pub mod render;
pub mod report;
pub mod run;
pub mod said;
pub mod schema;
pub mod stats;
pub mod top;
pub mod validate;
pub mod version;
pub mod watch;
