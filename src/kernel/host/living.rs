//! What is changed of a run that lives: its limits, its triggers.

use std::sync::Arc;

use super::Inner;
use crate::kernel::cgroup::{Dir, change, limits, setting::Setting};
use crate::kernel::pressure::triggers;
use crate::model::{KernelEventKind, LimitSet, RunId, Stage, StartError, chain};
use crate::spec::types::Spec;

/// Has its limits changed aside: freezing and reclaiming take as long as they take.
pub(super) fn change_limits(inner: &Arc<Inner>, run: &RunId, spec: &Arc<Spec>, lifted: bool) {
    let (inner, run, spec) = (Arc::clone(inner), run.clone(), Arc::clone(spec));
    inner.changes_limits(&run, true);
    tokio::task::spawn_blocking(move || {
        let gone = || StartError::refused(Stage::Limit, "its cgroup is gone");
        let set = inner.dir(&run).ok_or_else(gone).and_then(|dir| inner.change_limits(&run, &dir, &spec, lifted));
        inner.changes_limits(&run, false);
        inner.tell(&run, KernelEventKind::LimitsSet(set));
    });
}

/// Sets its triggers anew.
pub(super) fn rewatch(inner: &Inner, run: &RunId, spec: &Spec) {
    let Some(dir) = inner.dir(run) else { return };
    if inner.pressure.forget(run) {
        tracing::debug!(%run, "its pressure triggers are set anew");
    }
    inner.pressure.watch(run, &dir, triggers(&spec.limits));
}

impl Inner {
    fn change_limits(&self, run: &RunId, dir: &Dir, spec: &Spec, lifted: bool) -> Result<Vec<LimitSet>, StartError> {
        let plan = self.plan(dir, spec)?;
        let set = change::live(dir, self.namespace, &plan, lifted);
        let lifted_meanwhile = !lifted && self.table().runs.get(run).is_some_and(|known| known.lifted);
        if lifted_meanwhile && let Err(error) = self.set_tripwire(run, dir, spec, false) {
            tracing::error!(%run, error = %chain(&error), "memory.high of a living run is not as it should be");
        }
        set
    }

    /// All that a run of `spec` in `dir` is held to.
    pub(super) fn plan(&self, dir: &Dir, spec: &Spec) -> Result<Vec<Setting>, StartError> {
        let disks = limits::disks(&spec.limits)?;
        let mut plan = limits::plan(&spec.limits, &disks, &self.limits)?;
        // Its slice's limit is one to run into as well; where there is no memory controller there is none.
        let of_slice = spec.oom_takes_all() && spec.limits.memory.max.is_none();
        if of_slice && dir.has("memory.oom.group") {
            plan.push(Setting::OomGroup(true));
        }
        Ok(plan)
    }

    /// An earlier supervisor may have died while it changed the limits of a run.
    pub(super) fn thaw_if_left(&self, run: &RunId, dir: &Dir) {
        if let Err(error) = change::thaw_if_left(dir, self.namespace) {
            tracing::error!(%run, error = %chain(&error), "a run may still be frozen");
        }
    }
}
