//! The command line: what can be typed, what is printed, what we end with.
//!
//! One file per command. The process choreography of `up` is the composition root's (`crate::daemon`); `run`
//! needs no daemon and is complete here.

pub mod args;
pub mod exit;
pub mod paths;
pub mod render;
