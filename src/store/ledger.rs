//! The actors' end of the store.

use std::{future::Future, pin::Pin};

use super::change::Change;

/// What actors hand over. Nothing of it blocks.
pub trait Ledger: Send + Sync + 'static {
    /// Has all of `changes` remembered together. The future resolves when they are on disk, or with why they are not yet:
    /// they are kept all the same, and written when that can be done.
    fn intend(&self, changes: Vec<Change>) -> Intent;

    /// Has them remembered together, some moments later.
    fn record(&self, changes: Vec<Change>);

    /// Resolves when all that was handed over so far is where the end of this process cannot reach it, or with why it is not yet.
    /// Nothing is hurried for it.
    fn written(&self) -> Intent;
}

/// See [`Ledger::intend`]. Dropping it takes nothing back.
pub type Intent = Pin<Box<dyn Future<Output = Result<(), Unstored>> + Send>>;

/// Why what was handed over is not on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unstored {
    /// The store refuses. It is kept in memory and tried again.
    #[error("it is kept in memory only until the store can be written: {why}")]
    Refused {
        /// The whole chain of reasons.
        why: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
