//! Why something that was asked of the workers did not come about.

use super::crew::MAX_INSTANCES;
use super::handle::{NotAsked, Refusal};
use super::pattern::NoMatch;
use crate::model::{BadWorkerId, WorkerId};
use crate::worker::handle::AskError;

/// Why something did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerError {
    /// Nothing is started any more.
    #[error("the supervisor is going down and starts nothing any more")]
    GoingDown,
    /// No workers can be made.
    #[error("the workers of this manager are those that it has")]
    Fixed,
    /// There is none.
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    /// The name is another's.
    #[error("there is a worker {name} already; nothing was made")]
    Taken {
        /// Which.
        name: WorkerId,
    },
    /// It is there, and another than the one that is to be started.
    #[error("worker {name} is there with another spec; update it, or remove it first")]
    Differs {
        /// Which.
        name: WorkerId,
    },
    /// It has no instances.
    #[error("{name} is declared without instances, and so there is one of it; write instances: 1 to scale it")]
    NotScalable {
        /// Which.
        name: String,
    },
    /// Not so many.
    #[error("{count} instances cannot be: write a number from 1 to {MAX_INSTANCES}")]
    Count {
        /// How many were asked for.
        count: usize,
    },
    /// The name of an instance would be none.
    #[error("{name:?} is not the name of a worker")]
    Name {
        /// It.
        name: String,
        /// Why.
        #[source]
        source: BadWorkerId,
    },
    /// It is not stopped.
    #[error("worker {name} is {state}; stop it first")]
    Running {
        /// Which.
        name: WorkerId,
        /// What it does.
        state: &'static str,
    },
    /// The worker's own answer.
    #[error("worker {worker}")]
    Refused {
        /// Which.
        worker: WorkerId,
        /// Why.
        #[source]
        why: Refusal,
    },
    /// It is not supervised any more.
    #[error("worker {worker} is not supervised any more")]
    Gone {
        /// Which.
        worker: WorkerId,
    },
    /// It is done, and not on record.
    #[error("everything is stopped, and what happened last is not remembered: {why}")]
    NotRemembered {
        /// The whole chain of reasons.
        why: String,
    },
}

impl From<AskError> for ManagerError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Gone { worker } => Self::Gone { worker },
            AskError::Refused { worker, why } => Self::Refused { worker, why },
        }
    }
}

impl From<NotAsked> for ManagerError {
    fn from(error: NotAsked) -> Self {
        match error {
            NotAsked::NoMatch(error) => Self::NoMatch(error),
            NotAsked::GoingDown => Self::GoingDown,
        }
    }
}
