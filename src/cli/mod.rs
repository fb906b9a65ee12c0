//! The command line: what can be typed, what is printed, what we end with.
//!
//! One file per command. `run` needs no daemon and is complete here; of `up` the parsing and the printing are here, its
//! processes are the composition root's (`crate::daemon`).

pub mod args;
pub mod doctor;
pub mod exit;
pub mod paths;
pub mod render;
pub mod report;
pub mod run;
pub mod schema;
pub mod validate;
pub mod version;
