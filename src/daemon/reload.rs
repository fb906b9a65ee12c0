//! The configuration, changed while everything runs: read anew and brought in line, workers scaled, limits set.
//!
//! ```text
//! SIGHUP, POST /v1/reload ─▶ read, validate ─▶ diff ─▶ applied.json ─▶ the steps, one after the other ─▶ outcomes
//!              POST /v1/plan ──────────────────▶ diff
//! ```
//! One at a time. What is wrong changes nothing. What is to hold is on disk before the first step: a supervisor that dies
//! in between is followed by one that brings the rest in line when it begins.

mod inspect;
mod limits;
mod reading;
mod registering;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::signal::unix::Signal;

use crate::api::wire::{Carried, Code, Declaration, Inspection, Plan, Problem, Reloaded, SetLimits, Step, Word, Wrong};
use crate::api::{Answering, Governor, Made, Outcomes, Patience};
use crate::cli::paths::ConfigSource;
use crate::clock;
use crate::kernel::host::HostKernel;
use crate::manager::crew::{ManagerError, New, Nursery};
use crate::manager::diff::Origin;
use crate::manager::handle::{Manager, Member, Renew};
use crate::model::{EventKind, SliceName, Trigger, WorkerId, chain};
use crate::spec::Source;
use crate::spec::types::{self, Config, Sink, Slice};

use super::applied::{self, Applied, Overrides, Scaled};
use super::chronicle::Chronicle;
use super::records::Sinks;
use super::registered::Registration;
use reading::Planned;
use registering::Removing;

/// Whoever changes what is configured. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reloader {
    inner: Arc<Inner>,
}

/// What it is made of.
pub(super) struct Parts {
    /// The state directory.
    pub(super) state: PathBuf,
    /// Where the configuration is read again.
    pub(super) from: Option<ConfigSource>,
    /// The configuration in force, overrides included.
    pub(super) config: Config,
    /// What they were laid over.
    pub(super) overrides: Overrides,
    /// What no file declares; the configuration above has its workers.
    pub(super) registered: Vec<Registration>,
    pub(super) manager: Manager,
    pub(super) household: Arc<dyn Nursery>,
    pub(super) kernel: HostKernel,
    pub(super) chronicle: Chronicle,
    pub(super) sinks: Sinks,
}

struct Inner {
    state: PathBuf,
    from: Option<ConfigSource>,
    manager: Manager,
    household: Arc<dyn Nursery>,
    kernel: HostKernel,
    chronicle: Chronicle,
    sinks: Sinks,
    /// Held by whoever changes something.
    one: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    /// Where actors and everything that outlives a request run.
    runtime: tokio::runtime::Handle,
}

/// What is in force beside the workers.
struct Known {
    slices: Vec<Slice>,
    env: BTreeMap<String, String>,
    reconcile_interval: Option<Duration>,
    history: Vec<Sink>,
    overrides: Overrides,
    registered: Vec<Registration>,
    /// Those of them that are on their way out, until they are forgotten.
    removing: HashMap<WorkerId, Removing>,
    /// Limits that were set for a run.
    passing: HashMap<WorkerId, Passing>,
    /// The number of the last of them.
    serial: u64,
}

struct Passing {
    run: u32,
    set: BTreeMap<String, String>,
    serial: u64,
    /// For how long, where not until the run's end.
    within: Option<Duration>,
}

impl Reloader {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { state, from, config, overrides, registered, manager, household, kernel, chronicle, sinks } = parts;
        let Config { env, slices, reconcile_interval, history, .. } = config;
        if let Some(interval) = reconcile_interval {
            manager.start_reconciler(interval);
        }
        let known = Known {
            slices,
            env,
            reconcile_interval,
            history,
            overrides,
            registered,
            removing: HashMap::new(),
            passing: HashMap::new(),
            serial: 0,
        };
        let runtime = tokio::runtime::Handle::current();
        let inner = Inner {
            state,
            from,
            manager,
            household,
            kernel,
            chronicle,
            sinks,
            one: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
            runtime,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Does what `plan`, made at the start, has about runs that live and are not what is configured: one after the other.
    pub(super) async fn bring_in_line(&self, plan: Plan) {
        let _one = self.inner.one.lock().await;
        let manager = &self.inner.manager;
        let found: HashMap<WorkerId, u32> = plan.steps.iter().filter_map(adopted).collect();
        // Whatever has followed it in the meantime is of what is configured.
        let of = |worker: &WorkerId| found.get(worker).map_or(Renew::Yes, |run| Renew::Of(*run));
        for step in plan.steps {
            let done = match &step {
                Step::Restart { worker, .. } => match manager.find(worker.as_str()) {
                    Some(member) => {
                        manager.renew(&member, &member.spec, member.enabled, of(worker), "configuration").await
                    }
                    None => Ok(()),
                },
                Step::StopLeftover { run } => match manager.find(run.worker.as_str()) {
                    Some(member) => manager.dismiss(&member, "configuration").await,
                    None => Ok(()),
                },
                _ => Ok(()),
            };
            if let Err(error) = done {
                let (verb, what, _) = step.words();
                tracing::error!(error = %chain(&error), "cannot {verb} {what}");
            }
        }
    }

    /// Finishes off what an earlier supervisor was to remove.
    pub(super) async fn finish_removals(&self) {
        Arc::clone(&self.inner).finish_removals().await;
    }

    /// Reloads at each SIGHUP, for ever. However many come while one is under way, one more follows.
    pub(super) async fn on_hangup(self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let _one = self.inner.one.lock().await;
            match self.inner.reload("SIGHUP").await {
                Ok(_) => drop(self.inner.manager.reconcile_once()),
                Err(problem) => {
                    let wrong = problem.problems.iter().skip(1).map(Wrong::to_string);
                    let all = std::iter::once(problem.detail.clone()).chain(wrong).collect::<Vec<_>>().join("; ");
                    tracing::error!("not reloaded: {all}");
                }
            }
        }
    }

    /// Runs `what` where it goes on whoever waits for it.
    fn aside<T: Send + 'static>(
        &self,
        what: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Answering<'static, T> {
        let task = self.inner.runtime.spawn(what);
        Box::pin(async move { task.await.unwrap_or_else(|gone| Err(Problem::new(Code::Failed, gone.to_string()))) })
    }
}

impl Governor for Reloader {
    fn plan(&self) -> Answering<'_, Plan> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move { inner.plan().await.map(|planned| planned.plan) })
    }

    fn reload(&self, who: String) -> Answering<'_, Reloaded> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move {
            let busy = "another change is under way; ask again when it is done";
            let _one = inner.one.try_lock().map_err(|_| Problem::new(Code::Busy, busy))?;
            inner.reload(&who).await
        })
    }

    fn scale(&self, name: String, instances: usize) -> Answering<'_, Outcomes> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move {
            let _one = inner.one.lock().await;
            inner.scale(&name, instances).await
        })
    }

    fn inspect(&self, name: String, shows_secrets: bool) -> Answering<'_, Inspection> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move { inner.inspect(&name, shows_secrets).await })
    }

    fn register(&self, declaration: Declaration, who: String) -> Answering<'_, Made> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move {
            let _one = inner.one.lock().await;
            inner.register(declaration, &who).await
        })
    }

    fn deregister(&self, name: String, patience: Patience, who: String) -> Answering<'_, Outcomes> {
        let inner = Arc::clone(&self.inner);
        self.aside(inner.deregister(name, patience, who))
    }

    fn set(&self, name: String, ask: SetLimits, who: String) -> Answering<'_, Outcomes> {
        let inner = Arc::clone(&self.inner);
        self.aside(async move {
            let _one = inner.one.lock().await;
            Arc::clone(&inner).set(&name, ask, &who).await
        })
    }
}

impl Inner {
    /// Nothing under this lock can panic half-way.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reload(&self, who: &str) -> Result<Reloaded, Problem> {
        let Planned { sources, config, plan, gave_way } = match self.plan().await {
            Ok(planned) => planned,
            Err(problem) => {
                self.chronicle.supervisor(format!("not reloaded, and nothing is changed: {}", problem.detail));
                return Err(problem);
            }
        };
        if self.manager.is_closed() {
            return Err(ManagerError::GoingDown.into());
        }
        self.keep(sources).await?;
        self.give_way(&gave_way).await;
        self.kernel.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().0.as_micros()));
        let (steps, untouched) = (plan.steps.len(), plan.untouched.len());
        self.chronicle.supervisor(format!("reloading ({who}): {steps} steps, {untouched} workers untouched"));
        let wanted: HashMap<&WorkerId, New> = config.workers.iter().map(|worker| (&worker.id, new(worker))).collect();
        let slices: HashMap<&SliceName, &Slice> = config.slices.iter().map(|slice| (&slice.name, slice)).collect();
        let mut carried = Vec::with_capacity(plan.steps.len());
        for step in plan.steps {
            let begins = !self.manager.makes_way();
            let done = if begins { self.perform(&step, &config, &wanted, &slices).await } else { Err(String::new()) };
            let (outcome, error) = match (done, &step) {
                (Ok(()), _) => (Word::Done, None),
                // Whoever follows finds it running, and cannot tell it from one that a person has started.
                (Err(_), Step::Stop { worker }) if !begins => {
                    let why =
                        format!("another supervisor takes over, which lets it run; `pinfold stop {worker}` ends it");
                    (Word::Failed, Some(why))
                }
                // Its workers have been let go of. What is to hold is on disk, and whoever follows brings it about.
                (Err(_), _) if self.manager.makes_way() => (Word::Accepted, None),
                (Err(error), _) => {
                    let (verb, what, _) = step.words();
                    tracing::error!("reload: {verb} {what}: {error}");
                    (Word::Failed, Some(error))
                }
            };
            carried.push(Carried { step, outcome, error });
        }
        let of = |word| carried.iter().filter(|carried| carried.outcome == word).count();
        let (failed, left) = (of(Word::Failed), of(Word::Accepted));
        if left > 0 {
            let done = steps - failed - left;
            self.chronicle.supervisor(format!("reload: {done} of {steps} steps are done, {failed} failed, {left} are left to the supervisor that follows"));
            return Ok(Reloaded { steps: carried, untouched: plan.untouched });
        }
        self.manager.arrange(config.workers.iter().map(|worker| &worker.id));
        self.manager.attribute(&config.workers.iter().map(|worker| (&worker.id, Origin::of(worker))).collect());
        self.chronicle.supervisor(format!("reloaded: {steps} steps, {failed} of them failed"));
        self.kernel.notify("READY=1");
        Ok(Reloaded { steps: carried, untouched: plan.untouched })
    }

    /// On disk before anything is done: a supervisor that is killed half-way is followed by one that goes on.
    async fn scale(&self, name: &str, instances: usize) -> Result<Outcomes, Problem> {
        if let Some(registration) = WorkerId::new(name).ok().and_then(|id| self.registration(&id)) {
            return self.scale_registered(registration, instances).await;
        }
        let before = match WorkerId::new(name) {
            // What cannot be scaled is refused below, in better words.
            Ok(id) if !self.manager.instances(name).is_empty() => Some(self.keep_scaled(id, instances).await?),
            _ => None,
        };
        match self.manager.scale(name, instances).await {
            Ok(outcomes) => Ok(outcomes),
            Err(refused) => {
                if let Some(before) = before {
                    self.keep_applied(before).await?;
                }
                Err(refused.into())
            }
        }
    }

    /// Answers with what was kept before.
    async fn keep_scaled(&self, id: WorkerId, instances: usize) -> Result<Applied, Problem> {
        let state = self.state.clone();
        let unread = |why: String| {
            let detail = format!("the configuration in force cannot be read, and nothing is changed: {why}");
            Problem::new(Code::Failed, detail)
        };
        let before = tokio::task::spawn_blocking(move || applied::load(&state)).await;
        let before = before.map_err(|gone| unread(gone.to_string()))?.map_err(|error| unread(chain(&error)))?;
        let mut applied = before.clone();
        applied.scaled.insert(id, instances);
        self.keep_applied(applied).await?;
        Ok(before)
    }

    /// On disk before anything is done.
    async fn keep(&self, sources: Vec<Source>) -> Result<(), Problem> {
        self.keep_applied(Applied { from: self.from.clone(), sources, scaled: Scaled::new() }).await
    }

    async fn keep_applied(&self, applied: Applied) -> Result<(), Problem> {
        let state = self.state.clone();
        let stored = tokio::task::spawn_blocking(move || applied::store(&state, &applied)).await;
        stored.map_err(io::Error::other).flatten().map_err(|error| {
            Problem::new(
                Code::Failed,
                format!("the configuration cannot be kept, and nothing is changed: {}", chain(&error)),
            )
        })
    }

    async fn perform(
        &self,
        step: &Step,
        config: &Config,
        wanted: &HashMap<&WorkerId, New>,
        slices: &HashMap<&SliceName, &Slice>,
    ) -> Result<(), String> {
        match step {
            Step::SetEnv { .. } => {
                self.household.set_global_env(&config.env);
                self.known().env.clone_from(&config.env);
                Ok(())
            }
            Step::SetReconciler { .. } => {
                self.manager.stop_reconciler();
                if let Some(interval) = config.reconcile_interval {
                    self.manager.start_reconciler(interval);
                }
                self.known().reconcile_interval = config.reconcile_interval;
                Ok(())
            }
            Step::RemoveSink { .. } | Step::ChangeSink { .. } | Step::AddSink { .. } => {
                // All of them at once: no event is for a part of them.
                self.sinks.configure(&config.history).await;
                self.known().history.clone_from(&config.history);
                Ok(())
            }
            Step::MakeSlice { slice } | Step::ChangeSlice { slice, .. } => match slices.get(slice) {
                Some(wanted) => self.slice(Slice::clone(wanted), matches!(step, Step::MakeSlice { .. })).await,
                None => Ok(()),
            },
            Step::RemoveSlice { slice } => {
                self.known().slices.retain(|known| known.name != *slice);
                self.kernel.remove_slice(slice).map_err(|error| chain(&error))
            }
            Step::Add { worker, start } => {
                let Some(new) = wanted.get(worker) else { return Ok(()) };
                let made = self.manager.add(vec![new.clone()]).map_err(|error| chain(&error))?;
                match made.first().filter(|_| *start) {
                    Some(member) => started(member).await,
                    None => Ok(()),
                }
            }
            Step::Remove { worker } => match self.manager.find(worker.as_str()) {
                Some(member) => {
                    self.forget_override(worker);
                    self.manager.dismiss(&member, "reload").await.map_err(|error| chain(&error))
                }
                None => Ok(()),
            },
            Step::Stop { worker }
            | Step::Update { worker, .. }
            | Step::ChangeLimits { worker, .. }
            | Step::Restart { worker, .. }
            | Step::Start { worker, .. } => {
                let (Some(member), Some(new)) = (self.manager.find(worker.as_str()), wanted.get(worker)) else {
                    return Err("it is not supervised any more".to_owned());
                };
                self.known().passing.remove(worker);
                let renew = match step {
                    Step::Restart { .. } | Step::Start { .. } => Renew::Yes,
                    _ => Renew::No,
                };
                let done = self.manager.renew(&member, &new.spec, new.enabled, renew, "reload").await;
                done.map_err(|error| chain(&error))?;
                match step {
                    Step::Stop { .. } => self.manager.stop(worker.as_str(), None).await.map_err(|error| chain(&error)),
                    Step::Start { .. } => started(&member).await,
                    _ => Ok(()),
                }
            }
            // What is found in the tree is found once, at the start.
            Step::LeaveAlone { .. } | Step::RemoveEmpty { .. } | Step::Adopt { .. } | Step::StopLeftover { .. } => {
                Ok(())
            }
        }
    }

    async fn slice(&self, slice: Slice, make: bool) -> Result<(), String> {
        let (kernel, wanted) = (self.kernel.clone(), slice.clone());
        let set = tokio::task::spawn_blocking(move || {
            if make { kernel.make_slice(&wanted).map(|()| Vec::new()) } else { kernel.change_slice(&wanted) }
        });
        let set = set.await.map_err(|gone| gone.to_string())?;
        // One that was declared is, whether it is as it should be or not; of one that is changed the old limits hold.
        if make || set.is_ok() {
            let mut known = self.known();
            known.slices.retain(|known| known.name != slice.name);
            known.slices.push(slice.clone());
        }
        for file in set.map_err(|error| error.to_string())? {
            let why = format!("slice {}", slice.name);
            self.chronicle.record(EventKind::LimitChanged { file: file.file.to_owned(), value: file.value, why });
        }
        Ok(())
    }

    fn forget_override(&self, worker: &WorkerId) {
        let overrides = {
            let mut known = self.known();
            known.passing.remove(worker);
            if known.overrides.remove(worker).is_none() {
                return;
            }
            known.overrides.clone()
        };
        if let Err(error) = applied::store_overrides(&self.state, &overrides) {
            tracing::error!(%worker, error = %chain(&error), "what was set for it is still kept");
        }
    }
}

/// The run that a plan's step takes over.
fn adopted(step: &Step) -> Option<(WorkerId, u32)> {
    match step {
        Step::Adopt { worker, run } => Some((worker.clone(), *run)),
        _ => None,
    }
}

async fn started(member: &Member) -> Result<(), String> {
    member.worker.start(Trigger::Config).await.map_err(|error| chain(&error))
}

fn new(worker: &types::Worker) -> New {
    New {
        id: worker.id.clone(),
        declared_as: worker.declared_as.clone(),
        spec: Arc::clone(&worker.spec),
        enabled: worker.enabled,
        origin: Origin::of(worker),
    }
}
