//! pinfold: a cgroup-v2-enforced, container-lite supervisor for Linux.
//!
//! The map of the crate is ARCHITECTURE.md; `tests/boundaries.rs` holds the modules to it.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod health;
pub mod history;
pub mod keeper;
pub mod kernel;
pub mod limit_manager;
pub mod logger;
pub mod logs;
pub mod manager;
pub mod metrics;
pub mod model;
pub mod policy;
pub mod spec;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod worker;
