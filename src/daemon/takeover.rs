//! What stood in the tree before us: sorted, taken over, held, removed.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use crate::keeper::protocol::FromKeeper;
use crate::kernel::host::{Found, HostKernel};
use crate::kernel::port::RunNote;
use crate::manager::diff::{FoundLeft, Left, Present};
use crate::manager::handle::Member;
use crate::model::{EventKind, RunId, WorkerId, chain};
use crate::spec::types;
use crate::worker::actor::{self, Charge, Shared};
use crate::worker::handle::WorkerHandle;

use super::chronicle::Chronicle;
use super::household;
use super::memory::Memory;

/// What stood in the tree before us, sorted by what becomes of it.
pub(super) struct Takeover {
    /// With a keeper that tells how they end: taken over. Without a number where the launch is not decided.
    alive: HashMap<WorkerId, (Option<i32>, RunNote)>,
    /// Those of them that were.
    pub(super) adopted: HashSet<WorkerId>,
    /// Populated, and nobody can tell anything of them: left alone, nothing is started over them.
    occupied: HashMap<WorkerId, RunId>,
    /// Those of them whose name a worker bears: its end is not ours to bring about.
    pub(super) held: Vec<RunId>,
    /// Empty or half-made: removed.
    empty: Vec<RunId>,
    /// Of which the keeper still has an exit record, and there is nothing to take over.
    over: Vec<RunId>,
    /// Alive beside a later run of the same worker.
    beside: Vec<RunId>,
    /// Not ours: reported.
    strangers: Vec<String>,
}

impl Takeover {
    pub(super) fn sort(mut found: Vec<Found>, told: &[FromKeeper], boot_id: &str) -> Self {
        let known: HashMap<&RunId, Option<i32>> = told.iter().filter_map(main_process).collect();
        found.sort_by_key(|f| f.run.as_ref().map(|run| run.number));
        let mut sorted = Self {
            alive: HashMap::new(),
            adopted: HashSet::new(),
            occupied: HashMap::new(),
            held: Vec::new(),
            empty: Vec::new(),
            over: Vec::new(),
            beside: Vec::new(),
            strangers: Vec::new(),
        };
        for Found { name, run, note, populated } in found {
            let Some(run) = run else {
                sorted.strangers.push(name);
                continue;
            };
            // A run's directory is made when all of the one before is over.
            sorted.empty.extend(sorted.alive.remove(&run.worker).map(|(_, note)| note.run));
            let ours = note.filter(|n| n.run == run && n.boot_id == boot_id);
            match (known.get(&run), ours) {
                (Some(pid), Some(note)) => drop(sorted.alive.insert(run.worker.clone(), (*pid, note))),
                _ if populated => sorted.beside.extend(sorted.occupied.insert(run.worker.clone(), run)),
                _ => sorted.empty.push(run),
            }
        }
        let taken: Vec<&RunId> = sorted.alive.values().map(|(_, note)| &note.run).collect();
        let ended = told.iter().filter_map(|message| match message {
            FromKeeper::Exited { run, .. } if !taken.contains(&run) => Some(run.clone()),
            _ => None,
        });
        sorted.over = ended.collect();
        sorted
    }

    /// What there is, for [`diff`](crate::manager::diff::diff()): with `config` all that is not in the tree is as it should be.
    pub(super) fn present(&self, config: &types::Config) -> Present {
        let alive = self
            .alive
            .values()
            .map(|(_, note)| Left { run: note.run.clone(), found: FoundLeft::Alive { launched_by: note.spec_hash } });
        let strangers = self.occupied.values().chain(&self.beside);
        let strangers = strangers.map(|run| Left { run: run.clone(), found: FoundLeft::Strangers });
        let empty = self.empty.iter().map(|run| Left { run: run.clone(), found: FoundLeft::Empty });
        Present {
            workers: Vec::new(),
            slices: config.slices.clone(),
            env: config.env.clone(),
            reconcile_interval: config.reconcile_interval,
            left: alive.chain(strangers).chain(empty).collect(),
        }
    }

    /// Living runs of workers that are configured no more, taken over to be stopped. The keeper knows them, so that their end
    /// is seen; how they wished to be stopped nobody knows any more.
    pub(super) fn leftovers(
        &mut self,
        shared: &Arc<Shared>,
        kernel: &HostKernel,
        chronicle: &Chronicle,
    ) -> Vec<Member> {
        let mut members = Vec::new();
        for (id, (pid, note)) in self.alive.drain() {
            let spec = Arc::new(types::Spec::new(vec![id.to_string()]));
            if let Err(error) = kernel.adopt(note.clone(), &spec) {
                tracing::error!(run = %note.run, error = %chain(&error), "a living run cannot be taken over");
                continue;
            }
            let what = format!("stopping {}: it lives, and no worker of the configuration has its name", note.run);
            chronicle.record(EventKind::Reconciled { what });
            let found = actor::Found::Alive { pid, note: Box::new(RunNote { desired_up: false, ..note }) };
            let worker = actor::spawn(shared, Charge::new(id.clone(), Arc::clone(&spec), found));
            members.push(Member { enabled: false, ..Member::new(id, spec, worker) });
        }
        members
    }

    /// Removes and reports what no worker of the configuration was given.
    pub(super) fn clear(&mut self, kernel: &HostKernel, chronicle: &Chronicle) {
        for run in self.over.drain(..) {
            kernel.forget(&run);
        }
        for run in self.empty.drain(..) {
            chronicle.record(EventKind::Reconciled { what: format!("removed the empty directory of {run}") });
            kernel.discard(run);
        }
        for name in self.strangers.drain(..) {
            chronicle.record(EventKind::Reconciled { what: format!("left {name:?} alone: it is not ours") });
        }
        for run in self.occupied.drain().map(|(_, run)| run).chain(self.beside.drain(..)) {
            let what = format!("left {run} alone: it lives, and no worker of the configuration goes on with it");
            chronicle.record(EventKind::Reconciled { what });
        }
    }
}

fn main_process(message: &FromKeeper) -> Option<(&RunId, Option<i32>)> {
    match message {
        FromKeeper::Launched { run, pid, .. } | FromKeeper::Exited { run, pid, .. } => Some((run, Some(*pid))),
        FromKeeper::Launching { run } => Some((run, None)),
        _ => None,
    }
}

/// What an earlier supervisor left.
pub(super) struct Past<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) takeover: &'a mut Takeover,
    /// It was ended over its own end.
    pub(super) going_down: bool,
}

/// An actor for each worker, with what there is of it.
pub(super) fn begin(
    config: &types::Config,
    logs: &Path,
    shared: &Arc<Shared>,
    kernel: &HostKernel,
    past: Past<'_>,
    chronicle: &Chronicle,
) -> Vec<WorkerHandle> {
    let Past { memory, takeover, going_down } = past;
    let mut handles = Vec::with_capacity(config.workers.len());
    for worker in &config.workers {
        let found = if let Some((pid, note)) = takeover.alive.remove(&worker.id) {
            match kernel.adopt(note.clone(), &worker.spec) {
                Ok(()) => {
                    takeover.adopted.insert(worker.id.clone());
                    actor::Found::Alive { pid, note: Box::new(note) }
                }
                Err(error) => {
                    tracing::error!(run = %note.run, %error, "a living run cannot be taken over");
                    actor::Found::Occupied { run: note.run.number }
                }
            }
        } else if let Some(run) = takeover.occupied.remove(&worker.id) {
            let what = format!("found {run} alive, and nobody can tell how it will end: nothing is started over it");
            chronicle.record(EventKind::Reconciled { what });
            if let Err(error) = kernel.hold(&run) {
                tracing::error!(%run, %error, "the end of what lives there cannot be seen");
            }
            let number = run.number;
            takeover.held.push(run);
            actor::Found::Occupied { run: number }
        } else {
            actor::Found::Nothing { last_run: last_run(logs, &worker.id, takeover) }
        };
        let charge = Charge {
            remembered: memory.take(&worker.id),
            idle: !worker.enabled || going_down,
            ..Charge::new(worker.id.clone(), Arc::clone(&worker.spec), found)
        };
        handles.push(actor::spawn(shared, charge));
    }
    chronicle.supervisor(match takeover.adopted.len() {
        0 => format!("started, {} workers", handles.len()),
        n => format!("started, {} workers, {n} of them adopted", handles.len()),
    });
    handles
}

/// The highest number that a run of `worker` is known to have had: a log file or a directory bears it.
fn last_run(logs: &Path, worker: &WorkerId, takeover: &Takeover) -> u32 {
    let left = takeover.empty.iter().chain(&takeover.over).filter(|run| run.worker == *worker).map(|run| run.number);
    left.chain([household::last_run(logs, worker)]).max().unwrap_or(0)
}
