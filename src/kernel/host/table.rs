//! What the driver knows of each run, and of those that are on their way out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::places::Place;
use crate::kernel::ancestors::history::Kills;
use crate::kernel::cgroup::Dir;
use crate::kernel::news::NewsSender;
use crate::kernel::port::RunNote;
use crate::model::{RunId, WorkerId};

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sinks: HashMap<WorkerId, NewsSender>,
    /// Boxed: a table has up to twice the room that it needs.
    pub(super) runs: HashMap<RunId, Box<Run>>,
    /// Where runs of an earlier supervisor are, until something is done with them; those in `ROOT/workers` itself are not here.
    pub(super) found: HashMap<RunId, Arc<Place>>,
}

/// What is known of one run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) dir: Arc<Dir>,
    pub(super) place: Arc<Place>,
    /// `None`: a stranger's, which has no record of ours.
    pub(super) note: Option<RunNote>,
    /// What its counters have said so far.
    pub(super) kills: Kills,
    /// Whether its end was told with what is above it.
    pub(super) ended: bool,
    /// Whether it was read to be empty at its end: nobody is left who could make its counters grow.
    pub(super) empty: bool,
    /// Whether its emptiness has been asked for and not yet been told.
    pub(super) draining: bool,
    /// Whether `memory.high` was last asked to be out of force.
    pub(super) lifted: bool,
    pub(super) freezer: Freezer,
}

/// What is known of a run's freezer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Freezer {
    /// Whether it was frozen when that was read last.
    pub(super) frozen: bool,
    /// Somebody asked for it to be frozen or thawed, and waits to be told how it is.
    pub(super) owed: bool,
    /// How many changes of its limits are under way, which freeze and thaw as they like.
    pub(super) changes: u8,
}

impl Run {
    pub(super) fn new(dir: Arc<Dir>, place: Arc<Place>, note: Option<RunNote>, kills: Kills) -> Box<Self> {
        Box::new(Self {
            dir,
            place,
            note,
            kills,
            ended: false,
            empty: false,
            draining: false,
            lifted: false,
            freezer: Freezer::default(),
        })
    }
}

/// Runs that are over and whose triggers are being closed, with the directory that theirs is in.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving(Arc<Mutex<HashMap<RunId, Arc<Place>>>>);

impl Leaving {
    pub(super) fn add(&self, run: &RunId, place: &Arc<Place>) {
        self.map().insert(run.clone(), Arc::clone(place));
    }

    pub(super) fn take(&self, run: &RunId) -> Option<Arc<Place>> {
        self.map().remove(run)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Place>>> {
        // The map is whole between any two of its operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
