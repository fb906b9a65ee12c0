//! What makes a worker and lets it go: the supervisor's own, or [`Crew`] for users of the library.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::keep::Keep;
use crate::model::{RunId, WorkerId};
use crate::spec::types::Spec;
use crate::store::Change;
use crate::worker::actor::{self, Charge, Found, Shared};
use crate::worker::gone::Gone;
use crate::worker::handle::WorkerHandle;

/// What makes workers, and is told of what becomes of them. No method waits.
pub trait Nursery: Send + Sync + 'static {
    /// Begins to supervise `id`. Nothing is started.
    fn supervise(&self, id: &WorkerId, spec: &Arc<Spec>) -> WorkerHandle;

    /// `worker` goes by `spec` now.
    fn updated(&self, worker: &WorkerHandle, spec: &Arc<Spec>);

    /// `worker`, which is at rest, is supervised no longer.
    fn dismissed(&self, worker: &WorkerHandle);

    /// The global environment of every run that begins from now on.
    fn set_global_env(&self, env: &BTreeMap<String, String>);

    /// Asks the kernel for the truth about a run whose notifications may be lost.
    fn look_again(&self, run: &RunId);

    /// The store and the history sinks, where a user of the library decides on them.
    fn keep(&self) -> Option<&Keep> {
        None
    }
}

/// Workers on what actors share, and nothing beside: no probes, no logs.
pub struct Crew {
    shared: Arc<Shared>,
    keep: Option<Keep>,
    /// The last runs of workers that are supervised no longer: should they come back, their numbers go on.
    last_runs: Mutex<Gone<u32>>,
}

impl Crew {
    /// On `shared`, which says where is remembered and told what happens.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, keep: None, last_runs: Mutex::default() }
    }

    pub(super) fn keeping(self, keep: Keep) -> Self {
        Self { keep: Some(keep), ..self }
    }

    fn last_runs(&self) -> MutexGuard<'_, Gone<u32>> {
        self.last_runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nursery for Crew {
    fn supervise(&self, id: &WorkerId, spec: &Arc<Spec>) -> WorkerHandle {
        let found = Found::Nothing { last_run: self.last_runs().recall(id).unwrap_or(0) };
        let remembered = self.keep.as_ref().and_then(|keep| keep.take(id));
        // It is started by whoever has it made.
        actor::spawn(
            &self.shared,
            Charge { remembered, idle: true, ..Charge::new(id.clone(), Arc::clone(spec), found) },
        )
    }

    fn updated(&self, _worker: &WorkerHandle, _spec: &Arc<Spec>) {}

    fn dismissed(&self, worker: &WorkerHandle) {
        // Whoever removes a worker has no wish left for one of its name.
        self.shared.ledger.record(vec![Change::Forgotten { worker: worker.id().clone() }]);
        self.last_runs().remember(worker.id().clone(), worker.status().run);
    }

    fn set_global_env(&self, env: &BTreeMap<String, String>) {
        self.shared.kernel.set_global_env(env);
    }

    fn look_again(&self, run: &RunId) {
        self.shared.kernel.look_again(run);
    }

    fn keep(&self) -> Option<&Keep> {
        self.keep.as_ref()
    }
}
