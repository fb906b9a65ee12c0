//! Who is frozen in the fake world.

use std::time::Duration;

use super::{Call, FakeKernel, World, refused};
use crate::kernel::port::KernelError;
use crate::model::{ExitStatus, KernelEventKind, RunId, WorkerId};

const EIO: i32 = 5;

/// A run's freezer.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    /// What `cgroup.freeze` says.
    asked: bool,
    /// What `cgroup.events` says.
    pub(super) frozen: bool,
    /// Whether changes of that are told.
    eye: bool,
    /// What was told last, and whether more is owed.
    told: bool,
    owed: bool,
    /// The change of limits that has frozen it, and thaws it.
    ice: Option<usize>,
    /// Whether somebody else has had a hand in it.
    others: bool,
    /// How its main process would have ended, had it not stood still.
    end: Option<ExitStatus>,
    /// What it hears when it is thawed.
    pub(super) signals: Vec<i32>,
}

impl FakeKernel {
    /// Freezes or thaws `run` as somebody else would, who tells nobody.
    pub fn freeze_by_another_hand(&self, run: &RunId, frozen: bool) {
        let mut world = self.world();
        if let Some(run) = world.runs.get_mut(run) {
            run.freezer.others = true;
        }
        self.write_freeze(&mut world, run, frozen);
    }

    /// What `cgroup.events` of `run` says.
    #[must_use]
    pub fn is_frozen(&self, run: &RunId) -> bool {
        self.world().runs.get(run).is_some_and(|run| run.freezer.frozen)
    }

    /// The same, where that is nobody's but the supervisors', and not for the moment of a change of its limits.
    #[must_use]
    pub fn is_left_frozen(&self, run: &RunId) -> Option<bool> {
        let world = self.world();
        let freezer = &world.runs.get(run).filter(|run| !run.gone && run.populated())?.freezer;
        (!freezer.others && freezer.ice.is_none()).then_some(freezer.frozen)
    }

    pub(super) fn freeze_or_thaw(&self, run: &RunId, frozen: bool) -> Result<(), KernelError> {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Freeze(run.clone(), frozen), run) else { return Ok(()) };
        if found.script.freeze_refused {
            return Err(refused("cgroup.freeze", run, EIO));
        }
        (found.freezer.eye, found.freezer.owed) = (true, true);
        if found.freezer.ice.is_some() {
            world.breach(format!("{run} is frozen or thawed while its limits are changed"));
        }
        self.write_freeze(&mut world, run, frozen);
        world.tell_freezer(run);
        Ok(())
    }

    pub(super) fn write_freeze(&self, world: &mut World, id: &RunId, frozen: bool) {
        let Some(run) = world.runs.get_mut(id).filter(|run| !run.gone) else { return };
        run.freezer.asked = frozen;
        if !frozen {
            return self.thaws(world, id);
        }
        let (id, takes) = (id.clone(), run.script.freezes_slowly);
        self.later(world, takes, move |_, world| {
            let Some(run) = world.runs.get_mut(&id) else { return };
            if run.freezer.asked && !run.freezer.frozen {
                run.freezer.frozen = true;
                world.tell_freezer(&id);
            }
        });
    }

    fn thaws(&self, world: &mut World, id: &RunId) {
        let Some(run) = world.runs.get_mut(id).filter(|run| run.freezer.frozen) else { return };
        run.freezer.frozen = false;
        let (end, signals) = (run.freezer.end.take(), std::mem::take(&mut run.freezer.signals));
        world.tell_freezer(id);
        for signal in signals {
            self.react(world, id, signal);
        }
        if let Some(status) = end {
            self.main_ends(world, id, status);
        }
    }

    /// Its main process comes to its end: not before it is thawed.
    pub(super) fn main_would_end(&self, world: &mut World, id: &RunId, status: ExitStatus) {
        match world.runs.get_mut(id) {
            Some(run) if run.freezer.frozen => {
                run.freezer.end.get_or_insert(status);
            }
            _ => self.main_ends(world, id, status),
        }
    }

    pub(super) fn melt_ice(&self, world: &mut World, id: &RunId, ice: Option<usize>) {
        let Some(run) = world.runs.get_mut(id) else { return };
        if ice.is_some() && run.freezer.ice == ice {
            run.freezer.ice = None;
            self.write_freeze(world, id, false);
        }
        world.tell_owed(id);
    }

    /// What a new supervisor does about it: it thaws what was frozen for a change of limits.
    pub(super) fn found_in_the_freezer(&self, world: &mut World, worker: &WorkerId) {
        let runs: Vec<RunId> = world.runs.keys().filter(|id| id.worker == *worker).cloned().collect();
        for id in runs {
            if world.runs.get_mut(&id).is_some_and(|run| run.freezer.ice.take().is_some()) {
                self.write_freeze(world, &id, false);
            }
            if let Some(run) = world.runs.get_mut(&id) {
                let freezer = &mut run.freezer;
                (freezer.eye, freezer.owed) = (freezer.asked || freezer.frozen, false);
                freezer.told = freezer.frozen;
            }
        }
    }

    /// Somebody freezes it for a while.
    pub(super) fn is_frozen_by_another(&self, world: &mut World, id: &RunId, lasts: Duration) {
        if let Some(run) = world.runs.get_mut(id).filter(|run| run.freezer.ice.is_none() && run.populated()) {
            run.freezer.others = true;
            self.write_freeze(world, id, true);
            let id = id.clone();
            self.later(world, lasts, move |this, world| {
                if world.runs.get(&id).is_some_and(|run| run.freezer.ice.is_none()) {
                    this.write_freeze(world, &id, false);
                }
            });
        }
    }
}

impl World {
    /// A change of limits freezes the run, where nobody has.
    pub(super) fn form_ice(&mut self, id: &RunId) -> Option<usize> {
        let serial = self.calls.len();
        let run = self.runs.get_mut(id).filter(|run| run.populated() && !run.gone && !run.freezer.asked)?;
        (run.freezer.asked, run.freezer.frozen, run.freezer.ice) = (true, true, Some(serial));
        Some(serial)
    }

    fn tell_freezer(&mut self, id: &RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let nobody = run.freezer.frozen && !run.populated();
        let freezer = &mut run.freezer;
        let mute = run.gone || run.removing || run.draining || run.script.frozen_lost || nobody;
        if mute || !freezer.eye || freezer.ice.is_some() {
            return;
        }
        let owed = std::mem::take(&mut freezer.owed);
        if freezer.told != freezer.frozen || owed {
            freezer.told = freezer.frozen;
            freezer.eye = freezer.frozen || freezer.asked;
            let frozen = freezer.frozen;
            self.tell(id, KernelEventKind::Frozen(frozen));
        }
    }

    fn tell_owed(&mut self, id: &RunId) {
        if self.runs.get(id).is_some_and(|run| run.freezer.owed) {
            self.tell_freezer(id);
        }
    }

    /// Somebody looks: what was lost, or nobody had an eye on, is told.
    pub(super) fn look_at_the_freezer(&mut self, id: &RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let lost = std::mem::take(&mut run.script.frozen_lost);
        run.freezer.eye = true;
        self.tell_freezer(id);
        if let Some(run) = self.runs.get_mut(id) {
            run.script.frozen_lost = lost;
            run.freezer.eye = run.freezer.frozen || run.freezer.asked;
        }
    }
}
