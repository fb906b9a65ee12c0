//! How a run begins: its directory furnished, its plan handed to the keeper, its main process put on record.

use std::{
    os::fd::AsFd,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use super::Inner;
use super::gate::Gate;
use super::places::Place;
use super::table::Run;
use crate::keeper::protocol::LogFiles;
use crate::keeper::transport::TransportError;
use crate::kernel::ancestors::history::Kills;
use crate::kernel::cgroup::{Dir, events, limits};
use crate::kernel::launch::plan::{LaunchPlan, Session};
use crate::kernel::launch::resolve::{self, Inherit};
use crate::kernel::port::RunNote;
use crate::kernel::pressure::triggers;
use crate::kernel::{note, pidfd};
use crate::model::{Counters, KernelEventKind, LogPolicy, RunId, Segment, Stage, StartError, Stream, Way, chain};
use crate::spec::types::Spec;

/// How long users, groups and env files may take to be read: they can come over a network.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Has the plan of a prepared run made, and handed to the keeper.
pub(super) fn launch(inner: &Arc<Inner>, run: &RunId, spec: &Arc<Spec>, way: Way) {
    let (inner, run, spec) = (Arc::clone(inner), run.clone(), Arc::clone(spec));
    // What can wait for a disk or a network is looked up aside, and only then: a thread hop costs a restart more
    // than the rest of the plan.
    if spec.user.is_none() && spec.group.is_none() && spec.env_files.is_empty() {
        return inner.queue(run, Wanting { spec, plan: None, way });
    }
    tokio::spawn(async move {
        let aside = {
            let (inner, run, spec) = (Arc::clone(&inner), run.clone(), Arc::clone(&spec));
            tokio::task::spawn_blocking(move || inner.resolve(&run, &spec))
        };
        let plan = match tokio::time::timeout(LOOK_UP, aside).await {
            Ok(Ok(plan)) => plan,
            Ok(Err(gone)) => Err(StartError::refused(Stage::User, gone.to_string())),
            Err(_) => Err(StartError::refused(
                Stage::User,
                format!("looking up user, group and env files took more than {} s", LOOK_UP.as_secs()),
            )),
        };
        match plan {
            Ok(plan) => inner.queue(run, Wanting { spec, plan: Some(Box::new(plan)), way }),
            Err(error) => inner.tell(&run, KernelEventKind::LaunchFailed(error)),
        }
    });
}

/// What a launch needs.
#[derive(Debug)]
pub(super) struct Wanting {
    spec: Arc<Spec>,
    /// Where it was looked up aside.
    plan: Option<Box<LaunchPlan>>,
    way: Way,
}

impl Inner {
    /// Limits, record, baseline and watches of a fresh directory.
    pub(super) fn furnish(
        &self,
        run: &RunId,
        (place, dir): (&Arc<Place>, Dir),
        spec: &Spec,
        note: &RunNote,
    ) -> Result<Counters, StartError> {
        limits::apply(&dir, &self.plan(&dir, spec)?)?;
        let counters = events::read(&dir).map_err(|e| e.at(Stage::Cgroup))?;
        let note = RunNote { baseline: counters, ..note.clone() };
        note::write(&dir, self.namespace, &note).map_err(|e| StartError::refused(Stage::Cgroup, chain(&e)))?;
        let dir = Arc::new(dir);
        self.watch(run, &dir);
        // Last: nothing can fail any more, so that a directory with triggers is never removed but by `remove`.
        self.pressure.watch(run, &dir, triggers(&spec.limits));
        let (place, kills) = (Arc::clone(place), Kills::since(counters));
        self.table().runs.insert(run.clone(), Run::new(dir, place, Some(note), kills));
        Ok(counters)
    }

    fn resolve(&self, run: &RunId, spec: &Spec) -> Result<LaunchPlan, StartError> {
        let global_env = Arc::clone(&self.global_env.read().unwrap_or_else(PoisonError::into_inner));
        let context = resolve::Context {
            run,
            global_env: &global_env,
            inherited: &self.inherited,
            inherit: Inherit::AllowList,
            session: Session::New,
        };
        resolve::resolve(spec, &context)
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate<Wanting>> {
        // The gate is whole between any two of its operations.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, run: RunId, wanting: Wanting) {
        self.gate().queue(run, wanting);
        self.let_in();
        // Whoever waits now may have to be let in without a word of the keeper's.
        self.queued.notify_one();
    }

    /// A launch is decided.
    pub(super) fn answered(&self, run: &RunId) {
        self.gate().answered(run);
        self.let_in();
    }

    /// Asks the keeper for the launches whose turn it is.
    pub(super) fn let_in(&self) {
        loop {
            // Nothing that takes time under the lock.
            let Some((run, wanting)) = self.gate().next(self.clock.now()) else { return };
            if let Err(error) = self.hand_over(&run, wanting) {
                self.gate().answered(&run);
                self.tell(&run, KernelEventKind::LaunchFailed(error));
            }
        }
    }

    fn hand_over(&self, run: &RunId, Wanting { spec, plan, way }: Wanting) -> Result<(), StartError> {
        let Some(dir) = self.dir(run) else {
            self.gate().answered(run);
            return Ok(());
        };
        let plan = plan.map_or_else(|| self.resolve(run, &spec).map(Box::new), Ok)?;
        match self.keeper.launch(run, log_files(&self.logs, run, spec.logs), dir.as_fd(), &plan, way) {
            // The supervisor is about to end for that: the run is for the next one, and was no failure.
            Err(TransportError::Gone) => Ok(()),
            asked => asked.map_err(|e| StartError::refused(Stage::Keeper, chain(&e))),
        }
    }

    /// Whether the supervisor before us came no further than to the launch of a run that lives.
    pub(super) fn has_unfinished_record(&self, run: &RunId) -> bool {
        let table = self.table();
        let note = table.runs.get(run).and_then(|known| known.note.as_ref());
        note.is_some_and(|note| note.pid_start_ticks.is_none())
    }

    /// Writes what that one did not: its worker, which goes on, has no reason to.
    pub(super) fn finish_record(&self, run: &RunId) {
        if let Some(dir) = self.dir(run)
            && let Err(e) = self.write_note(run, &dir)
        {
            tracing::warn!(%run, error = %chain(&e), "a run's record could not be written");
        }
    }

    /// Puts the main process on record, once it is known.
    pub(super) fn launched(&self, run: &RunId, pid: i32, started_mono_ns: u64) {
        let ticks = pidfd::start_ticks(pid);
        {
            let mut table = self.table();
            let Some(note) = table.runs.get_mut(run).and_then(|known| known.note.as_mut()) else { return };
            (note.pid, note.pid_start_ticks, note.started_mono_ns) = (Some(pid), ticks, Some(started_mono_ns));
        }
        // It is written with the worker's answer to this, by nobody else: two writers could leave the older of two records.
        self.tell(run, KernelEventKind::Launched { pid });
    }
}

/// Where the output of `run` goes: `LOGS/ID/RUN.stdout` and `LOGS/ID/RUN.stderr` are the first files.
fn log_files(logs: &Path, run: &RunId, policy: LogPolicy) -> LogFiles {
    let file = |stream| logs.join(run.worker.as_str()).join(Segment::first(run, stream).to_string());
    LogFiles { stdout: file(Stream::Stdout), stderr: file(Stream::Stderr), policy }
}
