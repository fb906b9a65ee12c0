//! What is asked about the configuration itself, and who does it.

use std::{future::Future, pin::Pin, sync::Arc};

use super::wire::{Inspection, Plan, Problem, Reloaded, SetLimits};
use crate::manager::handle::{Member, Outcome};

/// What is answered once it is done.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send + 'a>>;

/// What came of it for each worker.
pub type Outcomes = Vec<(Arc<Member>, Outcome)>;

/// Whoever can change which workers there are and what they go by. What was begun goes on when nobody waits for it any
/// more.
pub trait Governor: Send + Sync + 'static {
    /// What [`reload`](Self::reload) would do now.
    fn plan(&self) -> Answering<'_, Plan>;

    /// Reads the configuration anew and brings everything in line with it, on behalf of `who`.
    fn reload(&self, who: String) -> Answering<'_, Reloaded>;

    /// Makes it so many instances of a declaration.
    fn scale(&self, name: String, instances: usize) -> Answering<'_, Outcomes>;

    /// Every setting of a worker; what may be a secret only where `shows_secrets` is.
    fn inspect(&self, name: String, shows_secrets: bool) -> Answering<'_, Inspection>;

    /// Changes the limits of a worker, on behalf of `who`.
    fn set(&self, name: String, ask: SetLimits, who: String) -> Answering<'_, Outcomes>;
}
