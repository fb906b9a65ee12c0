//! Launch, keeper and logger on the real kernel: placement, set-up, failures, survival.
//!
//! No controller is needed, so this runs natively on any host with a cgroup v2 mount, as root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helper fails as its test does")]

mod failure;
mod keeper;
mod logger;
mod reexec;
mod setup;
mod supervisor;
mod support;
mod way;
