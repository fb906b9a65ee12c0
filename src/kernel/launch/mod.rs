//! Processes into cgroups.
pub mod plan;
