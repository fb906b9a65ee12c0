//! What stands between what there is and what a configuration asks for, as a list of steps. Pure: nothing is done here, and
//! what carries the steps out takes exactly this list, so that what `plan` prints is what `reload` does.
//!
//! The order is that in which the least is in the way of anything else: what goes makes room before something comes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Detail, RunId, SliceName, StoppedDetail, WorkerId, WorkerStatus, duration};
use crate::spec::types::{Change, Config, Limits, Sink, Slice, Spec, Takes, Worker, differing};

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// The workers that are supervised.
    pub workers: Vec<Standing>,
    /// The slices that are declared.
    pub slices: Vec<Slice>,
    /// The global environment.
    pub env: BTreeMap<String, String>,
    /// How often every worker is held against what the kernel says.
    pub reconcile_interval: Option<Duration>,
    /// The history sinks.
    pub history: Vec<Sink>,
    /// What was found in the tree and belongs to nobody yet: when a supervisor starts.
    pub left: Vec<Left>,
}

/// One supervised worker.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub id: WorkerId,
    /// What it goes by.
    pub spec: Arc<Spec>,
    /// Whether the configuration declares that it is started.
    pub enabled: bool,
    /// Who declared it.
    pub origin: Origin,
    /// What it does.
    pub life: Life,
}

/// Who declared a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration, which therefore can take it away.
    #[default]
    Config,
    /// An admin, over the API: it stays until it is deregistered, or the configuration declares one of its name.
    Registered,
    /// A program, through the library: no configuration touches it.
    Program,
}

impl Origin {
    /// Who declares `worker`.
    #[must_use]
    pub const fn of(worker: &Worker) -> Self {
        if worker.registered { Self::Registered } else { Self::Config }
    }
}

/// What a worker does, as far as a change of its configuration depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs, or is about to, or would be restarted.
    Up,
    /// It failed, or is held down by its breaker, and should be up.
    Failed,
    /// It has ended well, and nothing is wrong with that.
    Done,
    /// Nobody has asked for it yet.
    Never,
    /// A person took it down.
    Down,
    /// A policy that is final took it down: only a person starts it again.
    Final,
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub run: RunId,
    /// What is in its directory.
    pub found: FoundLeft,
}

/// What is in a directory that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundLeft {
    /// A run that can be taken over; it was launched by a spec of this digest.
    Alive {
        /// [`Spec::digest`].
        launched_by: u64,
    },
    /// Processes that nobody has a record of.
    Strangers,
    /// Nothing.
    Empty,
}

/// All that is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// The workers that nothing is done about, because nothing of them has changed.
    pub untouched: Vec<WorkerId>,
    /// Those that there will be and no file declares, for they were registered over the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registered: Vec<WorkerId>,
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Step {
    /// A directory that is empty goes.
    RemoveEmpty {
        /// Of which run.
        run: RunId,
    },
    /// A living run is taken over, untouched.
    Adopt {
        /// Whose.
        worker: WorkerId,
        /// Which.
        run: u32,
    },
    /// A living run of a worker that is not configured any more is stopped.
    StopLeftover {
        /// Which.
        run: RunId,
    },
    /// The global environment is another: for every run that begins from now on.
    SetEnv {
        /// The variables that differ.
        variables: Vec<String>,
    },
    /// Every worker is held against what the kernel says as often as this; absent: where there is a reason only.
    SetReconciler {
        /// The period, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval_ms: Option<u64>,
    },
    /// A history sink is given what waits for it, for a while and beside everything else, and nothing more.
    RemoveSink {
        /// Its kind and where it leads.
        sink: String,
    },
    /// The same, and another goes on in the same place.
    ChangeSink {
        /// Its kind and where it leads.
        sink: String,
        /// The keys that differ.
        keys: Vec<String>,
    },
    /// A history sink gets every event from now on.
    AddSink {
        /// Its kind and where it leads.
        sink: String,
    },
    /// A slice is made.
    MakeSlice {
        /// Which.
        slice: SliceName,
    },
    /// A worker that is not configured any more is stopped, and supervised no longer.
    Remove {
        /// Which.
        worker: WorkerId,
    },
    /// A worker that is not to be started any more is stopped.
    Stop {
        /// Which.
        worker: WorkerId,
    },
    /// A slice gets other limits, with the workers in it going on.
    ChangeSlice {
        /// Which.
        slice: SliceName,
        /// In what.
        changes: Vec<Change>,
    },
    /// A worker goes by other rules. Nothing of its run is touched.
    Update {
        /// Which.
        worker: WorkerId,
        /// In what.
        changes: Vec<Change>,
    },
    /// A running worker gets other limits, and goes on.
    ChangeLimits {
        /// Which.
        worker: WorkerId,
        /// In what.
        changes: Vec<Change>,
    },
    /// A running worker gets a new run: one worker after the other.
    Restart {
        /// Which.
        worker: WorkerId,
        /// In what; empty where that is not known, for its run is an earlier supervisor's.
        changes: Vec<Change>,
    },
    /// A worker that is there, and does not run, is started.
    Start {
        /// Which.
        worker: WorkerId,
        /// In what it has changed.
        changes: Vec<Change>,
    },
    /// A worker comes to be supervised.
    Add {
        /// Which.
        worker: WorkerId,
        /// Whether it is started.
        start: bool,
    },
    /// A slice goes, once nothing is in it.
    RemoveSlice {
        /// Which.
        slice: SliceName,
    },
    /// Something is left as it is, and why.
    LeaveAlone {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// What is to be done to get from `present` to `desired`.
#[must_use]
pub fn diff(desired: &Config, present: &Present) -> Plan {
    let wanted: HashMap<&WorkerId, &Worker> = desired.workers.iter().map(|worker| (&worker.id, worker)).collect();
    let there: HashMap<&WorkerId, &Standing> = present.workers.iter().map(|worker| (&worker.id, worker)).collect();
    let mut plan = Plan::default();
    let mut late = Vec::new();
    take_over(&wanted, &present.left, &mut plan, &mut late);
    let variables = differing(&present.env, &desired.env);
    if !variables.is_empty() {
        plan.steps.push(Step::SetEnv { variables: variables.into_iter().map(str::to_owned).collect() });
    }
    if present.reconcile_interval != desired.reconcile_interval {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        plan.steps.push(Step::SetReconciler { interval_ms: desired.reconcile_interval.map(ms) });
    }
    plan.steps.extend(sinks(&desired.history, &present.history));
    let slices = slices(desired, present);
    plan.steps.extend(slices.made);
    for standing in &present.workers {
        if !wanted.contains_key(&standing.id) {
            plan.steps.push(gone(standing));
        }
    }
    let (mut stopped, mut changed, mut restarted) = (Vec::new(), Vec::new(), Vec::new());
    for worker in &desired.workers {
        let Some(standing) = there.get(&worker.id) else { continue };
        match change(worker, standing) {
            None => plan.untouched.push(worker.id.clone()),
            Some(step @ Step::Stop { .. }) => stopped.push(step),
            Some(step @ (Step::Restart { .. } | Step::Start { .. })) => restarted.push(step),
            Some(step) => changed.push(step),
        }
    }
    let found: BTreeSet<&WorkerId> =
        present.left.iter().filter(|left| left.lives()).map(|left| &left.run.worker).collect();
    let new = desired.workers.iter().filter(|worker| !there.contains_key(&worker.id) && !found.contains(&worker.id));
    let added = new.map(|worker| Step::Add { worker: worker.id.clone(), start: worker.enabled });
    plan.steps.extend(stopped.into_iter().chain(slices.changed).chain(changed).chain(restarted).chain(added));
    plan.steps.extend(late.into_iter().chain(slices.gone));
    let registered = desired.workers.iter().filter(|worker| worker.registered);
    plan.registered = registered.map(|worker| worker.id.clone()).collect();
    plan
}

impl Plan {
    /// Whether anything is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::LeaveAlone { .. }))
    }
}

impl Life {
    /// That of a worker whose status this is.
    #[must_use]
    pub fn of(status: &WorkerStatus) -> Self {
        match (status.desired_up, status.detail) {
            (true, Detail::Stopped(StoppedDetail::Failed | StoppedDetail::BreakerOpen)) => Self::Failed,
            (true, Detail::Stopped(StoppedDetail::Done)) => Self::Done,
            (true, _) => Self::Up,
            (false, _) if status.down_policy.is_some() => Self::Final,
            (false, _) if status.down_by.is_some() => Self::Down,
            (false, _) => Self::Never,
        }
    }
}

impl Step {
    /// In three words: what is done, to what, and in which respect.
    #[must_use]
    pub fn words(&self) -> (&'static str, String, String) {
        match self {
            Self::RemoveEmpty { run } => ("remove", run.to_string(), "its directory is empty".to_owned()),
            Self::Adopt { worker, run } => ("adopt", worker.to_string(), format!("run {run} lives on")),
            Self::StopLeftover { run } => ("stop", run.to_string(), "its worker is configured no more".to_owned()),
            Self::SetEnv { variables } => {
                ("set env", variables.join(", "), "for every run that begins from now on".to_owned())
            }
            Self::SetReconciler { interval_ms: Some(ms) } => {
                ("reconcile", format!("every {}", duration(Duration::from_millis(*ms))), String::new())
            }
            Self::SetReconciler { interval_ms: None } => ("reconcile", "off".to_owned(), String::new()),
            Self::RemoveSink { sink } => ("remove sink", sink.clone(), "it is given what waits for it".to_owned()),
            Self::ChangeSink { sink, keys } => ("change sink", sink.clone(), keys.join(", ")),
            Self::AddSink { sink } => ("add sink", sink.clone(), "for every event from now on".to_owned()),
            Self::MakeSlice { slice } => ("make slice", slice.to_string(), String::new()),
            Self::Remove { worker } => ("remove", worker.to_string(), "stopped first".to_owned()),
            Self::Stop { worker } => ("stop", worker.to_string(), "it is not enabled any more".to_owned()),
            Self::ChangeSlice { slice, changes } => ("change slice", slice.to_string(), told(changes)),
            Self::Update { worker, changes } => ("update", worker.to_string(), told(changes)),
            Self::ChangeLimits { worker, changes } => ("set limits", worker.to_string(), told(changes)),
            Self::Restart { worker, changes } if changes.is_empty() => {
                ("restart", worker.to_string(), "what it was launched with is not what is configured".to_owned())
            }
            Self::Restart { worker, changes } => ("restart", worker.to_string(), told(changes)),
            Self::Start { worker, changes } => ("start", worker.to_string(), told(changes)),
            Self::Add { worker, start: true } => ("add", worker.to_string(), "and start it".to_owned()),
            Self::Add { worker, start: false } => ("add", worker.to_string(), "not enabled".to_owned()),
            Self::RemoveSlice { slice } => ("remove slice", slice.to_string(), "once nothing is in it".to_owned()),
            Self::LeaveAlone { what, why } => ("leave alone", what.clone(), why.clone()),
        }
    }
}

fn told(changes: &[Change]) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let one = |change: &Change| match (&change.from, &change.to) {
        (None, None) => change.key.clone(),
        (from, to) => format!("{} {} → {}", change.key, value(from), value(to)),
    };
    match changes {
        [] => "enabled".to_owned(),
        changes => changes.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

impl Left {
    const fn lives(&self) -> bool {
        matches!(self.found, FoundLeft::Alive { .. } | FoundLeft::Strangers)
    }
}

fn take_over(wanted: &HashMap<&WorkerId, &Worker>, left: &[Left], plan: &mut Plan, late: &mut Vec<Step>) {
    for Left { run, found } in left {
        let worker = wanted.get(&run.worker);
        let step = match (found, worker) {
            (FoundLeft::Empty, _) => Step::RemoveEmpty { run: run.clone() },
            (FoundLeft::Strangers, _) => {
                let why = "it lives, and nobody has a record of it: nothing is started over it";
                Step::LeaveAlone { what: run.to_string(), why: why.to_owned() }
            }
            (FoundLeft::Alive { launched_by }, Some(worker)) => {
                if worker.spec.digest() != *launched_by && worker.enabled {
                    late.push(Step::Restart { worker: run.worker.clone(), changes: Vec::new() });
                }
                Step::Adopt { worker: run.worker.clone(), run: run.number }
            }
            (FoundLeft::Alive { .. }, None) => Step::StopLeftover { run: run.clone() },
        };
        plan.steps.push(step);
    }
}

/// What goes, what is another in the same place, what comes.
fn sinks(desired: &[Sink], present: &[Sink]) -> Vec<Step> {
    let mut there: Vec<&Sink> = present.iter().collect();
    let mut coming: Vec<&Sink> = desired.iter().collect();
    coming.retain(|sink| match there.iter().position(|known| known == sink) {
        Some(at) => {
            there.remove(at);
            false
        }
        None => true,
    });
    let (mut changed, mut added) = (Vec::new(), Vec::new());
    for sink in coming {
        let name = sink.name();
        if let Some(at) = there.iter().position(|known| known.name() == name) {
            let keys = there.remove(at).differing(sink).into_iter().map(str::to_owned).collect();
            changed.push(Step::ChangeSink { sink: name, keys });
        } else {
            added.push(Step::AddSink { sink: name });
        }
    }
    let removed = there.into_iter().map(|sink| Step::RemoveSink { sink: sink.name() });
    removed.chain(changed).chain(added).collect()
}

#[derive(Default)]
struct Slices {
    made: Vec<Step>,
    changed: Vec<Step>,
    gone: Vec<Step>,
}

fn slices(desired: &Config, present: &Present) -> Slices {
    let mut steps = Slices::default();
    let known: HashMap<&SliceName, &Limits> = present.slices.iter().map(|slice| (&slice.name, &slice.limits)).collect();
    for Slice { name, limits } in &desired.slices {
        match known.get(name).map(|before| before.changes(limits)) {
            None => steps.made.push(Step::MakeSlice { slice: name.clone() }),
            Some(changes) if changes.is_empty() => {}
            Some(changes) => {
                // A slice has no policies, and its keys stand in it directly.
                let changes = changes.into_iter().map(|change| Change {
                    key: change.key.strip_prefix("limits.").unwrap_or(&change.key).to_owned(),
                    ..change
                });
                steps.changed.push(Step::ChangeSlice { slice: name.clone(), changes: changes.collect() });
            }
        }
    }
    let wanted: BTreeSet<&SliceName> = desired.slices.iter().map(|slice| &slice.name).collect();
    let gone = present.slices.iter().filter(|slice| !wanted.contains(&slice.name));
    steps.gone = gone.map(|slice| Step::RemoveSlice { slice: slice.name.clone() }).collect();
    steps
}

fn gone(standing: &Standing) -> Step {
    match standing.origin {
        Origin::Config | Origin::Registered => Step::Remove { worker: standing.id.clone() },
        Origin::Program => Step::LeaveAlone {
            what: standing.id.to_string(),
            why: "no configuration declares it: a program made it".to_owned(),
        },
    }
}

fn change(worker: &Worker, standing: &Standing) -> Option<Step> {
    let id = worker.id.clone();
    if standing.origin == Origin::Program {
        let why = "a program made a worker of this name before the configuration did; remove that one first";
        return Some(Step::LeaveAlone { what: id.to_string(), why: why.to_owned() });
    }
    let mut changes = standing.spec.changes(&worker.spec);
    if standing.origin == Origin::Registered && !worker.registered {
        // Whose it is says nothing of its run.
        let (from, to) = ("over the API".to_owned(), "in the configuration".to_owned());
        let (key, takes) = ("declared".to_owned(), Takes::Rules);
        changes.insert(0, Change { key, takes, from: Some(from), to: Some(to) });
    }
    let takes = changes.iter().map(|change| change.takes).max();
    match (standing.life, takes) {
        (Life::Up | Life::Failed | Life::Done, _) if standing.enabled && !worker.enabled => {
            Some(Step::Stop { worker: id })
        }
        (Life::Never | Life::Down, _) if !standing.enabled && worker.enabled => {
            Some(Step::Start { worker: id, changes })
        }
        (_, None) => (standing.enabled != worker.enabled).then_some(Step::Update { worker: id, changes }),
        (Life::Up, Some(Takes::NewRun)) => Some(Step::Restart { worker: id, changes }),
        (Life::Up, Some(Takes::Limits)) => Some(Step::ChangeLimits { worker: id, changes }),
        (Life::Failed, Some(_)) => Some(Step::Start { worker: id, changes }),
        // Of what rests, nothing but the next run is concerned.
        (_, Some(_)) => Some(Step::Update { worker: id, changes }),
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
