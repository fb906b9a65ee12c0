//! How many are there for what lasts: who follows the events, and who waits for something new. Each of them is a request that takes its
//! time and costs next to nothing meanwhile; there are few such seats, and some are kept for admins.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::{Peer, Role};
use super::wire::{Code, Problem};

/// How many do the same at once, and how many of them may be other than admins.
const SEATS: usize = 64;
pub(super) const OTHERS: usize = 48;

/// Those who do the same.
#[derive(Debug, Clone)]
pub(super) struct Audience {
    all: Arc<Semaphore>,
    others: Arc<Semaphore>,
    doing: &'static str,
}

/// The seat of a request, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _one: OwnedSemaphorePermit,
    _other: Option<OwnedSemaphorePermit>,
}

impl Audience {
    /// Those who do what is said of them here.
    pub(super) fn new(doing: &'static str) -> Self {
        Self { all: Arc::new(Semaphore::new(SEATS)), others: Arc::new(Semaphore::new(OTHERS)), doing }
    }

    pub(super) fn seat(&self, peer: Peer) -> Result<Seat, Problem> {
        let taken = |seats: &Arc<Semaphore>| Arc::clone(seats).try_acquire_owned();
        let full = |_| {
            let detail = format!("{SEATS} {} already, which are all that are served at once", self.doing);
            Problem::new(Code::TooManyConnections, detail)
        };
        let other = if peer.role == Role::Operator { Some(taken(&self.others).map_err(full)?) } else { None };
        Ok(Seat { _one: taken(&self.all).map_err(full)?, _other: other })
    }
}
