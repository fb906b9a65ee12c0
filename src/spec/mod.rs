//! Text to a validated configuration.

pub mod types;
