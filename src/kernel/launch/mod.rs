//! Processes into cgroups.
//!
//! `resolve` turns a spec into a [`plan::LaunchPlan`] (it blocks), [`spawn`] makes the child and [`Confirm`] tells
//! whether its program runs. Who keeps the child, reaps it and remembers its end is `keeper`; the cgroup's directory
//! and limits are made before, by the rest of `kernel`.

mod child;
mod clone;
mod env_file;
mod failure;
mod file;
mod memory;
pub mod plan;
pub mod resolve;
pub mod selftest;

pub use clone::{Child, Confirm, Method, Progress, spawn, spawn_here};
pub use memory::give_back;
