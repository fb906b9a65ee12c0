//! The configuration, changed while everything runs: read anew and brought in line, workers scaled, limits set.
//!
//! ```text
//! SIGHUP, POST /v1/reload ─▶ read, validate ─▶ diff ─▶ applied.json ─▶ the steps, one after the other ─▶ outcomes
//!              POST /v1/plan ──────────────────▶ diff
//! ```
//! One at a time. What is wrong changes nothing. What is to hold is on disk before the first step: a supervisor that dies
//! in between is followed by one that brings the rest in line when it begins.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::signal::unix::Signal;

use crate::api::wire::{Carried, Code, Plan, Problem, Reloaded, SetLimits, Step, Word, Wrong};
use crate::api::{Answering, Governor, Outcomes};
use crate::cli::paths::ConfigSource;
use crate::clock;
use crate::history::History;
use crate::kernel::host::HostKernel;
use crate::manager::crew::{ManagerError, New, Nursery};
use crate::manager::diff::{Life, Origin, Present, Standing, diff};
use crate::manager::handle::{Manager, Member, Outcome, Reach, Refusal, Renew};
use crate::model::{EventKind, SliceName, Trigger, WorkerId, chain};
use crate::spec::types::{Config, Sink, Slice, Spec, Worker};
use crate::spec::{self, Problems, Source, overlay};
use crate::worker::handle::AskError;

use super::applied::{self, Applied, Overrides, Scaled};
use super::chronicle::Chronicle;
use super::records::Sinks;

/// When a limit that could not be put back is tried again.
const AGAIN: Duration = Duration::from_secs(10);

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
    /// Limits that were set for a run.
    passing: HashMap<WorkerId, Passing>,
    /// The number of the last of them.
    serial: u64,
}

struct Passing {
    run: u32,
    set: BTreeMap<String, String>,
    serial: u64,
}

impl Reloader {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { state, from, config, overrides, manager, household, kernel, chronicle, sinks } = parts;
        let Config { env, slices, reconcile_interval, history, .. } = config;
        if let Some(interval) = reconcile_interval {
            manager.start_reconciler(interval);
        }
        let known = Known { slices, env, reconcile_interval, history, overrides, passing: HashMap::new(), serial: 0 };
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
        self.aside(async move { inner.plan().await.map(|(_, _, plan)| plan) })
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

    // ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// The configuration as its files have it now, and what stands between it and what there is.
    async fn plan(&self) -> Result<(Vec<Source>, Config, Plan), Problem> {
        let Some(from) = self.from.clone() else {
            let why = "where the configuration came from was not kept by the version that began; start pinfold up anew";
            return Err(Problem::new(Code::Failed, why));
        };
        let read = tokio::task::spawn_blocking(move || read(&from));
        let (sources, mut config) =
            read.await.unwrap_or_else(|gone| Err(Problem::new(Code::Failed, gone.to_string())))?;
        let overrides = self.known().overrides.clone();
        for (worker, problems) in lay_over(&mut config, &overrides) {
            tracing::warn!(%worker, %problems, "what was set for it does not fit what is configured, and is left out");
        }
        let present = self.present();
        if config.workers.is_empty() && present.workers.iter().any(|worker| worker.origin == Origin::Config) {
            let why = "the configuration declares no worker, as a file that is being written does, and nothing is changed; \
                       to stop every worker: pinfold stop '*'";
            return Err(Problem::new(Code::BadConfig, why));
        }
        self.check_sinks(&config.history, &present.history).await?;
        let plan = diff(&config, &present);
        Ok((sources, config, plan))
    }

    /// That each sink that would come could be used.
    async fn check_sinks(&self, wanted: &[Sink], present: &[Sink]) -> Result<(), Problem> {
        let coming = wanted.iter().filter(|sink| !present.contains(sink));
        History::check(&mut coming.map(History::sink).collect::<Vec<_>>())
            .await
            .map_err(|unusable| Problem::new(Code::BadConfig, format!("{}, and nothing is changed", chain(&unusable))))
    }

    fn present(&self) -> Present {
        let known = self.known();
        let standing = |member: &Arc<Member>| Standing {
            id: member.id().clone(),
            spec: Arc::clone(&member.spec),
            enabled: member.enabled,
            origin: member.origin,
            life: Life::of(&member.worker.status()),
        };
        Present {
            workers: self.manager.all().iter().map(standing).collect(),
            slices: known.slices.clone(),
            env: known.env.clone(),
            reconcile_interval: known.reconcile_interval,
            history: known.history.clone(),
            left: Vec::new(),
        }
    }

    // ── doing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn reload(&self, who: &str) -> Result<Reloaded, Problem> {
        let (sources, config, plan) = match self.plan().await {
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
        self.kernel.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().0.as_micros()));
        let (steps, untouched) = (plan.steps.len(), plan.untouched.len());
        self.chronicle.supervisor(format!("reloading ({who}): {steps} steps, {untouched} workers untouched"));
        let wanted: HashMap<&WorkerId, New> = config.workers.iter().map(|worker| (&worker.id, new(worker))).collect();
        let slices: HashMap<&SliceName, &Slice> = config.slices.iter().map(|slice| (&slice.name, slice)).collect();
        let mut carried = Vec::with_capacity(plan.steps.len());
        for step in plan.steps {
            let done = self.perform(&step, &config, &wanted, &slices).await;
            if let Err(error) = &done {
                let (verb, what, _) = step.words();
                tracing::error!("reload: {verb} {what}: {error}");
            }
            let outcome = if done.is_ok() { Word::Done } else { Word::Failed };
            carried.push(Carried { step, outcome, error: done.err() });
        }
        self.manager.arrange(config.workers.iter().map(|worker| &worker.id));
        let failed = carried.iter().filter(|carried| carried.outcome == Word::Failed).count();
        self.chronicle.supervisor(format!("reloaded: {steps} steps, {failed} of them failed"));
        self.kernel.notify(&format!("READY=1\nSTATUS={} workers", config.workers.len()));
        Ok(Reloaded { steps: carried, untouched: plan.untouched })
    }

    /// On disk before anything is done: a supervisor that is killed half-way is followed by one that goes on.
    async fn scale(&self, name: &str, instances: usize) -> Result<Outcomes, Problem> {
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

    // ── limits of one worker ──────────────────────────────────────────────────────────────────────────────────────

    async fn set(self: Arc<Self>, name: &str, ask: SetLimits, who: &str) -> Result<Outcomes, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        let member = self.manager.find(name);
        let member = member.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no worker {name:?}")))?;
        let within = ask.for_.as_deref().map(spec::time).transpose().map_err(|error| bad(format!("for: {error}")))?;
        if ask.limits.is_empty() {
            return Err(bad(format!("limits: which ones is to be said: {}", overlay::KEYS.join(", "))));
        }
        if ask.persist && within.is_some() {
            return Err(bad("persist and for contradict each other; choose one".to_owned()));
        }
        if ask.persist {
            return self.set_to_last(&member, ask.limits, who).await;
        }
        let run = member.worker.status().run;
        let before = self.known().passing.get(member.id()).filter(|passing| passing.run == run).map(|p| p.set.clone());
        let mut set = before.unwrap_or_default();
        set.extend(ask.limits);
        let spec = laid_over(&member.spec, &set)?;
        let asked = member.worker.on_behalf_of(who).update(Arc::new(spec), Reach::Run).await;
        if asked.is_ok() {
            let serial = {
                let mut known = self.known();
                known.serial += 1;
                let serial = known.serial;
                known.passing.insert(member.id().clone(), Passing { run, set, serial });
                serial
            };
            if let Some(within) = within {
                tokio::spawn(Arc::clone(&self).put_back(member.id().clone(), serial, within));
            }
        }
        Ok(vec![(member, told(asked))])
    }

    async fn set_to_last(
        &self,
        member: &Arc<Member>,
        limits: BTreeMap<String, String>,
        who: &str,
    ) -> Result<Outcomes, Problem> {
        let mut overrides = self.known().overrides.clone();
        let set = overrides.entry(member.id().clone()).or_default();
        let spec = laid_over(&member.spec, &limits)?;
        set.extend(limits);
        let done = self.manager.renew(member, &Arc::new(spec), member.enabled, Renew::No, who).await;
        if done.is_ok() {
            let state = self.state.clone();
            let kept = overrides.clone();
            let stored = tokio::task::spawn_blocking(move || applied::store_overrides(&state, &kept)).await;
            stored.map_err(io::Error::other).flatten().map_err(|error| {
                let why = chain(&error);
                Problem::new(Code::Failed, format!("the limits are in force, and cannot be kept for later: {why}"))
            })?;
            let mut known = self.known();
            known.overrides = overrides;
            known.passing.remove(member.id());
        }
        let outcome = match done {
            Ok(()) => Outcome::Done,
            Err(ManagerError::Refused { why, .. }) => Outcome::Refused(why),
            Err(ManagerError::Gone { .. }) => Outcome::Gone,
            Err(other) => return Err(other.into()),
        };
        Ok(vec![(Arc::clone(member), outcome)])
    }

    /// After `within`, what is configured is in force again, unless something else was asked for meanwhile.
    async fn put_back(self: Arc<Self>, worker: WorkerId, serial: u64, within: Duration) {
        let mut wait = within;
        loop {
            tokio::time::sleep(wait).await;
            wait = AGAIN;
            let _one = self.one.lock().await;
            let run = self.known().passing.get(&worker).filter(|passing| passing.serial == serial).map(|p| p.run);
            let (Some(run), Some(member)) = (run, self.manager.find(worker.as_str())) else { return };
            let status = member.worker.status();
            let done = if status.run == run {
                let reach = Reach::Config { generation: status.desired_generation, renew: Renew::No };
                member.worker.on_behalf_of("timer").update(Arc::clone(&member.spec), reach).await
            } else {
                Ok(())
            };
            if let Err(AskError::Refused { why: why @ (Refusal::Limits(_) | Refusal::NotNow(_)), .. }) = done {
                tracing::warn!(%worker, %why, "the limits of before cannot be put back yet");
            } else {
                self.known().passing.remove(&worker);
                return;
            }
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

fn told(asked: Result<(), AskError>) -> Outcome {
    match asked {
        Ok(()) => Outcome::Done,
        Err(AskError::Refused { why, .. }) => Outcome::Refused(why),
        Err(AskError::Gone { .. }) => Outcome::Gone,
    }
}

fn new(worker: &spec::types::Worker) -> New {
    New {
        id: worker.id.clone(),
        declared_as: worker.declared_as.clone(),
        spec: Arc::clone(&worker.spec),
        enabled: worker.enabled,
        origin: Origin::Config,
    }
}

fn read(from: &ConfigSource) -> Result<(Vec<Source>, Config), Problem> {
    let files = from.files().map_err(|error| Problem::new(Code::BadConfig, chain(&error)))?;
    applied::read_files(&files).map_err(|problems| bad_config(&problems))
}

fn bad_config(problems: &Problems) -> Problem {
    let count = match problems.0.len() {
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let first = problems.0.first().map(|problem| wrong(problem).to_string()).unwrap_or_default();
    let detail = format!("the configuration has {count}, and nothing is changed: {first}");
    Problem { problems: problems.0.iter().map(wrong).collect(), ..Problem::new(Code::BadConfig, detail) }
}

fn wrong(problem: &spec::Problem) -> Wrong {
    // Without the line itself, which may hold a secret: whoever may read the file looks there.
    let spec::Problem { file, line, column, path, message, fix, excerpt: _ } = problem.clone();
    Wrong { file, line, column, path, message, fix }
}

fn laid_over(spec: &Spec, set: &BTreeMap<String, String>) -> Result<Spec, Problem> {
    let limits = overlay::overlay(&spec.limits, set).map_err(|problems| {
        let said = problems.0.iter().map(|problem| format!("{}: {}; {}", problem.path, problem.message, problem.fix));
        let detail = said.collect::<Vec<_>>().join("; ");
        Problem { problems: problems.0.iter().map(wrong).collect(), ..Problem::new(Code::BadRequest, detail) }
    })?;
    Ok(Spec { limits, ..spec.clone() })
}

/// Gives `config` as many instances as workers were scaled to.
pub(super) fn scale(config: &mut Config, scaled: &Scaled) {
    for (parent, count) in scaled {
        let is_instance = |worker: &Worker| worker.declared_as == *parent && worker.id != *parent;
        let Some(at) = config.workers.iter().position(is_instance) else { continue };
        let Some(first) = config.workers.get(at).cloned() else { continue };
        let names = (1..=*count).filter_map(|number| WorkerId::new(&format!("{parent}-{number}")).ok());
        let wanted: Vec<WorkerId> = names.collect();
        config.workers.retain(|worker| !is_instance(worker) || wanted.contains(&worker.id));
        for id in wanted {
            if config.workers.iter().all(|worker| worker.id != id) {
                config.workers.push(Worker { id, ..first.clone() });
            }
        }
    }
}

/// Lays what was set to last over what is configured; what does not fit is left out, and told.
pub(super) fn lay_over(config: &mut Config, overrides: &Overrides) -> Vec<(WorkerId, Problems)> {
    let mut misfits = Vec::new();
    for worker in &mut config.workers {
        let Some(set) = overrides.get(&worker.id) else { continue };
        match overlay::overlay(&worker.spec.limits, set) {
            Ok(limits) => worker.spec = Arc::new(Spec { limits, ..Spec::clone(&worker.spec) }),
            Err(problems) => misfits.push((worker.id.clone(), problems)),
        }
    }
    misfits
}
