//! Where runs are made: `ROOT/workers`, and the slices in it.
//!
//! A slice is made, and held to its limits, before a run is made in it; one of an earlier supervisor is taken over with
//! what lives in it. One whose limits cannot be set keeps its own workers from starting, and nobody else: each of their
//! starts tries again, for what stood in the way (too much in use, a disk that was not there) may be gone by then.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::clock::Clock;
use crate::kernel::ancestors::{Ancestor, Ancestors};
use crate::kernel::cgroup::{Controller, Dir, DirError, Namespace, budget, change, limits};
use crate::kernel::place::{self, settle};
use crate::kernel::watch::Watches;
use crate::model::{LimitSet, SliceName, Stage, StartError, chain};
use crate::spec::types;

/// How long memory may be reclaimed at our start, so that a slice fits into a limit that was lowered meanwhile. The keeper
/// takes a supervisor that says nothing for longer for hung.
const RECLAIM: Duration = Duration::from_secs(2);

/// A directory that runs are made in.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: Arc<Dir>,
    /// Where it is a slice: its counters.
    pub(super) slice: Option<Arc<Ancestor>>,
    /// It is a slice that no configuration names: it goes with its last run.
    spent: AtomicBool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Places {
    workers: Arc<Place>,
    ancestors: Ancestors,
    limits: limits::Host,
    watches: Watches,
    clock: Clock,
    slices: Mutex<HashMap<SliceName, Slice>>,
}

#[derive(Debug)]
struct Slice {
    /// `None`: no configuration names it.
    limits: Option<types::Limits>,
    place: Option<Arc<Place>>,
    ready: Result<(), StartError>,
}

impl Places {
    pub(super) fn new(
        workers: Dir,
        ancestors: Ancestors,
        limits: limits::Host,
        watches: Watches,
        clock: Clock,
    ) -> Self {
        let workers = Arc::new(Place { dir: Arc::new(workers), slice: None, spent: AtomicBool::new(false) });
        let places = Self { workers, ancestors, limits, watches, clock, slices: Mutex::default() };
        for ancestor in places.ancestors.chain() {
            places.watch_limits(ancestor);
        }
        places.ancestors.observe(None, clock.now());
        places
    }

    /// Makes the slices of the configuration, or takes them over.
    pub(super) fn declare(&self, slices: Vec<types::Slice>, namespace: Namespace) {
        for slice in slices {
            if let Err(error) = self.declare_one(&slice) {
                tracing::error!(slice = %slice.name, %error, "a slice is not as configured: no worker is started in it");
            }
            let place = self.slices().get(&slice.name).and_then(|slice| slice.place.clone());
            // An earlier supervisor may have died while it changed the limits of it.
            if let Some(Err(error)) = place.map(|place| change::thaw_if_left(&place.dir, namespace)) {
                tracing::error!(slice = %slice.name, error = %chain(&error), "a slice may still be frozen");
            }
        }
    }

    /// Makes one, or takes it over.
    ///
    /// # Errors
    /// Where it is not as it should be. It is tried again for each run in it.
    pub(super) fn declare_one(&self, types::Slice { name, limits }: &types::Slice) -> Result<(), StartError> {
        let (place, ready) = self.make(name, limits, RECLAIM);
        let slice = Slice { limits: Some(limits.clone()), place, ready: ready.clone() };
        if let Some(Slice { place: Some(before), .. }) = self.slices().insert(name.clone(), slice) {
            // Runs of before are in it: their end is not its end.
            before.spent.store(false, Ordering::Relaxed);
        }
        ready
    }

    /// Gives a slice other limits, with everything in it going on.
    ///
    /// # Errors
    /// Where they cannot be had: the old ones are in force then.
    pub(super) fn change(&self, slice: &types::Slice, namespace: Namespace) -> Result<Vec<LimitSet>, StartError> {
        let types::Slice { name, limits } = slice;
        let place = self.slices().get(name).and_then(|slice| slice.place.clone());
        let Some(place) = place.filter(|place| place.dir.has("cgroup.procs")) else {
            return self.declare_one(slice).map(|()| Vec::new());
        };
        let plan = limits::plan(limits, &limits::disks(limits)?, &self.limits).map_err(|e| of_slice(name, &e))?;
        let set = change::live(&place.dir, namespace, &plan, false).map_err(|error| of_slice(name, &error))?;
        self.slices().insert(name.clone(), Slice { limits: Some(limits.clone()), place: Some(place), ready: Ok(()) });
        Ok(set)
    }

    /// No configuration names it any more: it goes with its last run, or now.
    ///
    /// # Errors
    /// Where it is empty and the kernel refuses.
    pub(super) fn undeclare(&self, name: &SliceName) -> Result<(), DirError> {
        let place = match self.slices().get_mut(name) {
            Some(slice) => {
                slice.limits = None;
                slice.place.clone()
            }
            None => None,
        };
        let Some(place) = place else { return Ok(()) };
        place.spent.store(true, Ordering::Relaxed);
        self.sweep(&place).map(drop)
    }

    /// `ROOT/workers`.
    pub(super) const fn workers(&self) -> &Arc<Place> {
        &self.workers
    }

    /// What is above `workers`.
    pub(super) const fn ancestors(&self) -> &Ancestors {
        &self.ancestors
    }

    /// Where the next run of `spec` is to be made.
    ///
    /// # Errors
    /// Where its slice is not as it should be.
    pub(super) fn of(&self, spec: &types::Spec) -> Result<Arc<Place>, StartError> {
        let Some(name) = &spec.slice else { return Ok(Arc::clone(&self.workers)) };
        let (limits, place, ready) = match self.slices().get(name) {
            Some(Slice { limits: Some(limits), place, ready }) => (limits.clone(), place.clone(), ready.is_ok()),
            _ => return Err(StartError::refused(Stage::Cgroup, format!("there is no slice {name}"))),
        };
        let (place, ready) = match place {
            // One that somebody has removed, while it was empty, has no files.
            Some(place) if place.dir.has("cgroup.procs") => {
                if ready {
                    return Ok(place);
                }
                let ready = self.hold(&place.dir, &limits, Duration::ZERO).map_err(|error| of_slice(name, &error));
                (Some(place), ready)
            }
            gone => {
                if let Some(place) = &gone {
                    self.unwatch(place);
                }
                self.make(name, &limits, Duration::ZERO)
            }
        };
        let answer = match (&place, &ready) {
            (Some(place), Ok(())) => Ok(Arc::clone(place)),
            (_, Err(error)) => Err(error.clone()),
            (None, Ok(())) => Err(StartError::refused(Stage::Cgroup, format!("slice {name} could not be made"))),
        };
        self.slices().insert(name.clone(), Slice { limits: Some(limits), place, ready });
        answer
    }

    /// A slice that stands there, declared or not.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(super) fn found(&self, name: &SliceName) -> Result<Arc<Place>, DirError> {
        if let Some(Slice { place: Some(place), .. }) = self.slices().get(name) {
            return Ok(Arc::clone(place));
        }
        let dir = self.workers.dir.open_below(&name.dir_name())?;
        let declared = self.slices().contains_key(name);
        let place = self.take_up(dir, false, !declared);
        let mut slices = self.slices();
        let slice = slices.entry(name.clone()).or_insert(Slice { limits: None, place: None, ready: Ok(()) });
        slice.place = Some(Arc::clone(&place));
        Ok(place)
    }

    /// Removes `place` where it is a slice that no configuration names and nothing is in it any more. Whether it did.
    ///
    /// # Errors
    /// Where the kernel refuses, with [`DirError::is_busy`] for processes in it.
    pub(super) fn sweep(&self, place: &Place) -> Result<bool, DirError> {
        if !place.spent.load(Ordering::Relaxed) || !place.dir.children()?.is_empty() {
            return Ok(false);
        }
        // Before the rmdir: the kernel keeps the watch of a removed cgroup's file for ever.
        self.unwatch(place);
        place.dir.above()?.remove_child(place.dir.name())?;
        self.slices().retain(|_, slice| slice.place.as_deref().is_none_or(|known| !std::ptr::eq(known, place)));
        Ok(true)
    }

    /// The cgroup above runs that hints call `path`.
    pub(super) fn above(&self, path: &str) -> Option<Arc<Ancestor>> {
        self.all_above().into_iter().find(|ancestor| **ancestor.path() == *path)
    }

    /// Every cgroup above runs.
    pub(super) fn all_above(&self) -> Vec<Arc<Ancestor>> {
        let mut all = self.ancestors.chain().to_vec();
        all.extend(self.slices().values().filter_map(|slice| slice.place.as_ref()?.slice.clone()));
        all
    }

    /// Nothing under this lock can panic half-way, so a poisoned one is as good as new.
    fn slices(&self) -> MutexGuard<'_, HashMap<SliceName, Slice>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(
        &self,
        name: &SliceName,
        limits: &types::Limits,
        patience: Duration,
    ) -> (Option<Arc<Place>>, Result<(), StartError>) {
        let workers = &self.workers.dir;
        let (dir, made) = match workers.create(&name.dir_name()) {
            Ok(dir) => (Ok(dir), true),
            Err(DirError::Exists { .. }) => (workers.open_below(&name.dir_name()), false),
            Err(error) => (Err(error), false),
        };
        match dir {
            Ok(dir) => {
                let ready = self.hold(&dir, limits, patience).map_err(|error| of_slice(name, &error));
                (Some(self.take_up(dir, made, false)), ready)
            }
            Err(error) => (None, Err(of_slice(name, &error.at(Stage::Cgroup)))),
        }
    }

    /// Passes controllers on, and puts the limits in force. `memory.oom.group` stays 0: 1 here would have the OOM of one
    /// worker kill every worker of the slice.
    fn hold(&self, dir: &Dir, limits: &types::Limits, patience: Duration) -> Result<(), StartError> {
        for controller in Controller::ALL {
            if self.limits.withheld.iter().any(|withheld| withheld.controller == controller) {
                continue;
            }
            settle::enable(dir, controller).map_err(|error| in_the_way(dir, &error))?;
        }
        let disks = limits::disks(limits)?;
        budget::renew(dir, &limits::plan(limits, &disks, &self.limits)?, patience)
    }

    fn take_up(&self, dir: Dir, made: bool, spent: bool) -> Arc<Place> {
        let dir = Arc::new(dir);
        let slice = self.ancestors.slice(Arc::clone(&dir), made);
        if let Err(error) = self.watches.add_parent(&dir) {
            tracing::warn!(error = %chain(&error), "a slice is not watched for removals");
        }
        self.watch_limits(&slice);
        slice.observe(self.clock.now());
        Arc::new(Place { dir, slice: Some(slice), spent: AtomicBool::new(spent) })
    }

    fn unwatch(&self, place: &Place) {
        if let Some(slice) = &place.slice {
            self.watches.forget_parent(place.dir.path(), slice.path());
        }
    }

    /// Without it, an OOM there that takes no main process of ours is not known to have been before a later one.
    fn watch_limits(&self, ancestor: &Ancestor) {
        if let Err(error) = self.watches.add_above(ancestor.path(), ancestor.dir()) {
            tracing::warn!(error = %chain(&error), "the limits of a cgroup above the workers are not watched");
        }
    }
}

fn in_the_way(dir: &Dir, error: &DirError) -> StartError {
    if !error.is_busy() {
        return error.at(Stage::Cgroup);
    }
    let strangers: Vec<_> = dir.processes().unwrap_or_default().into_iter().map(place::Process::of).collect();
    let sentence =
        format!("{} sit in {}, which so can pass no controller on", place::list(&strangers), dir.path().display());
    StartError::refused(Stage::Cgroup, sentence)
}

fn of_slice(name: &SliceName, error: &StartError) -> StartError {
    StartError { what: format!("slice {name}: {}", error.what), ..error.clone() }
}
