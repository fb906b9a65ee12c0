//! pinfold: a cgroup-v2-enforced, container-lite supervisor for Linux.
//!
//! The map of the crate is ARCHITECTURE.md; `tests/boundaries.rs` holds the modules to it.

#![deny(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod keeper;
pub mod kernel;
pub mod model;
pub mod policy;
pub mod spec;
pub mod worker;
