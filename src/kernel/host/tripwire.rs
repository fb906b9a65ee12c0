//! `memory.high` of a living run, in force or not.

use std::{io, sync::Arc};

use super::{Inner, refused};
use crate::kernel::cgroup::{Dir, limits};
use crate::kernel::port::KernelError;
use crate::model::{RunId, chain};
use crate::spec::types::Spec;

/// Takes it out of force at once, or has it put in force again aside: that write reclaims, and takes as long as it takes.
pub(super) fn pull(inner: &Arc<Inner>, run: &RunId, spec: &Arc<Spec>, armed: bool) -> Result<(), KernelError> {
    let dir = {
        let mut table = inner.table();
        let Some(known) = table.runs.get_mut(run) else { return Ok(()) };
        known.lifted = !armed;
        Arc::clone(&known.dir)
    };
    if !armed {
        return inner.set_tripwire(run, &dir, spec, false);
    }
    let (inner, run, spec) = (Arc::clone(inner), run.clone(), Arc::clone(spec));
    tokio::task::spawn_blocking(move || inner.arm_tripwire(&run, &dir, &spec));
    Ok(())
}

impl Inner {
    pub(super) fn set_tripwire(&self, run: &RunId, dir: &Dir, spec: &Spec, armed: bool) -> Result<(), KernelError> {
        match limits::tripwire(dir, &spec.limits.memory, self.limits.page_size, armed) {
            // Its end is told by others.
            Err(_) if !dir.has("cgroup.events") => Ok(()),
            set => set.map_err(|e| refused("memory.high", run, io::Error::other(e))),
        }
    }

    /// Should it be lifted once more meanwhile, that is what holds in the end, whoever of the two wrote last.
    fn arm_tripwire(&self, run: &RunId, dir: &Dir, spec: &Spec) {
        let lifted = || self.table().runs.get(run).is_none_or(|known| known.lifted);
        for armed in [true, false] {
            if lifted() == armed {
                continue;
            }
            if let Err(e) = self.set_tripwire(run, dir, spec, armed) {
                tracing::error!(%run, error = %chain(&e), "memory.high of a living run is not as it should be");
            }
        }
    }
}
