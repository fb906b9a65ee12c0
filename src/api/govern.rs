//! What is asked about the configuration itself, and who does it.

use std::{future::Future, pin::Pin, sync::Arc};

use super::register::Patience;
use super::wire::{Declaration, Inspection, Plan, Problem, Reloaded, SetLimits};
use crate::manager::handle::{Asked, Member, Outcome};
use crate::model::WorkerId;

/// What is answered once it is done.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send + 'a>>;

/// What came of it for each worker.
pub type Outcomes = Vec<(Arc<Member>, Outcome)>;

/// Workers that were registered.
#[derive(Debug)]
pub struct Made {
    /// The id they were declared under.
    pub id: WorkerId,
    /// Them.
    pub members: Vec<Arc<Member>>,
    /// Their start, where they are to be started.
    pub start: Option<Asked>,
}

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

    /// Has one more worker, for good, and has it started where it says so. Answered once that is kept and under way.
    fn register(&self, declaration: Declaration, who: String) -> Answering<'_, Made>;

    /// Stops what was registered as `name`, and has it no longer.
    fn deregister(&self, name: String, patience: Patience, who: String) -> Answering<'_, Outcomes>;

    /// Changes the limits of a worker, on behalf of `who`.
    fn set(&self, name: String, ask: SetLimits, who: String) -> Answering<'_, Outcomes>;
}
