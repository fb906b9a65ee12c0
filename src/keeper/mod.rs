//! The process that is parent of everything.
pub mod protocol;
