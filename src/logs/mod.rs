//! Reading what the logger wrote.
//!
//! The logger (`crate::logger`) owns the files; this module only ever reads them. [`Follower`] shows them as they grow.

mod follow;
pub mod index;
mod tape;

pub use follow::{Chunk, Follower};
