//! What it takes to have one more worker in a running supervisor, or one less: its actor, and whoever watches its health.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::health::{
    self,
    probe::{Probes, Tools},
};
use crate::kernel::host::HostKernel;
use crate::kernel::port::Kernel;
use crate::manager::crew::Nursery;
use crate::model::{RunId, WorkerId, chain};
use crate::spec::types::{HealthCheck, Spec};
use crate::store::Change;
use crate::worker::actor::{self, Charge, Found, Shared};
use crate::worker::gone::Gone;
use crate::worker::handle::WorkerHandle;

use super::patient::Attended;

/// The parts.
pub(super) struct Household {
    pub(super) shared: Arc<Shared>,
    pub(super) kernel: HostKernel,
    pub(super) probes: Arc<Tools>,
    pub(super) clock: Clock,
    pub(super) logs: PathBuf,
    /// Who is watched, by what.
    pub(super) attended: Mutex<HashMap<WorkerId, Watched>>,
    /// The last runs of workers that are supervised no longer: should they come back, their numbers go on.
    pub(super) last_runs: Mutex<Gone<u32>>,
    /// Runs that were found alive and left alone: should workers of their names come, nothing is started over them.
    pub(super) held: Mutex<HashMap<WorkerId, RunId>>,
}

/// A health check that is carried out.
pub(super) struct Watched {
    task: AbortHandle,
    check: Arc<HealthCheck>,
    /// Its programs run as it has it.
    spec: Arc<Spec>,
}

impl Household {
    /// Has the health of a worker watched as `spec` has it, from now on.
    pub(super) fn attend(&self, worker: &WorkerHandle, spec: &Arc<Spec>) {
        let mut attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = attended.get(worker.id()).is_some_and(|watched| {
            spec.health.as_ref() == Some(&watched.check) && watched.spec.digest() == spec.digest()
        });
        if goes_on {
            return;
        }
        if let Some(before) = attended.remove(worker.id()) {
            before.task.abort();
        }
        if let Some(check) = &spec.health {
            let patient = Attended::new(worker.on_behalf_of("health"), self.kernel.clone());
            let prober = Probes::new(&self.probes, worker.id(), spec);
            let task = tokio::spawn(health::task::attend(patient, prober, Arc::clone(check), self.clock));
            let watched = Watched { task: task.abort_handle(), check: Arc::clone(check), spec: Arc::clone(spec) };
            attended.insert(worker.id().clone(), watched);
        }
    }

    fn occupied(&self, run: &RunId) -> Found {
        if let Err(error) = self.kernel.hold(run) {
            tracing::error!(%run, error = %chain(&error), "the end of what lives there cannot be seen");
        }
        Found::Occupied { run: run.number }
    }
}

impl Nursery for Household {
    fn supervise(&self, id: &WorkerId, spec: &Arc<Spec>) -> WorkerHandle {
        let known = self.last_runs.lock().unwrap_or_else(PoisonError::into_inner).recall(id).unwrap_or(0);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let found = match held {
            Some(run) => self.occupied(&run),
            None => Found::Nothing { last_run: last_run(&self.logs, id).max(known) },
        };
        let worker = actor::spawn(&self.shared, Charge::new(id.clone(), Arc::clone(spec), found));
        self.attend(&worker, spec);
        worker
    }

    fn updated(&self, worker: &WorkerHandle, spec: &Arc<Spec>) {
        self.attend(worker, spec);
    }

    fn dismissed(&self, worker: &WorkerHandle) {
        if let Some(watched) = self.attended.lock().unwrap_or_else(PoisonError::into_inner).remove(worker.id()) {
            watched.task.abort();
        }
        // Whoever takes a worker out of the configuration has no wish left for one of its name.
        self.shared.ledger.record(vec![Change::Forgotten { worker: worker.id().clone() }]);
        let mut last_runs = self.last_runs.lock().unwrap_or_else(PoisonError::into_inner);
        last_runs.remember(worker.id().clone(), worker.status().run);
    }

    fn set_global_env(&self, env: &BTreeMap<String, String>) {
        self.kernel.set_global_env(env);
        self.probes.set_global_env(env);
    }

    fn look_again(&self, run: &RunId) {
        self.kernel.look_again(run);
    }
}

/// The highest number of a run of which `worker` has a log file; 0 where it has none.
pub(super) fn last_run(logs: &Path, worker: &WorkerId) -> u32 {
    let files = fs::read_dir(logs.join(worker.as_str())).into_iter().flatten().flatten();
    let logged = files.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.split_once('.')?.0.parse::<u32>().ok()
    });
    logged.max().unwrap_or(0)
}
