//! What stood in the tree before us: sorted, taken over, held, removed.

use std::{
    collections::{HashMap, HashSet},
    mem,
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
use crate::worker::actor::{self, Charge, Fate, Shared};
use crate::worker::handle::WorkerHandle;

use super::chronicle::Chronicle;
use super::household;
use super::memory::Memory;

/// What stood in the tree before us, sorted by what becomes of it.
#[derive(Default)]
pub(super) struct Takeover {
    /// With a keeper that tells how they end: taken over.
    alive: HashMap<WorkerId, Known>,
    /// Those of them that were.
    pub(super) adopted: HashSet<WorkerId>,
    /// Populated, and nobody can tell anything of them: left alone, nothing is started over them.
    occupied: HashMap<WorkerId, RunId>,
    /// Those of them whose name a worker bears: its end is not ours to bring about.
    pub(super) held: Vec<RunId>,
    /// Empty or half-made: removed.
    empty: Vec<RunId>,
    /// Made after a run whose end is not seen to yet, and never furnished: removed first.
    unmade: Vec<RunId>,
    /// The records of those that came no further, each its worker's newest.
    half_made: HashMap<WorkerId, RunNote>,
    /// Of which the keeper still has an exit record, and there is nothing to take over.
    over: Vec<RunId>,
    /// Alive beside a later run of the same worker.
    beside: Vec<RunId>,
    /// Not ours: reported.
    strangers: Vec<String>,
}

/// A run that the keeper knows.
struct Known {
    /// Without one the launch is not decided.
    pid: Option<i32>,
    note: RunNote,
    /// The keeper has seen its end.
    ended: bool,
}

impl Known {
    fn fate(&self, memory: &Memory) -> Fate {
        let RunId { worker, number } = &self.note.run;
        Fate::of(*number, self.ended, memory.of(worker))
    }
}

impl Takeover {
    pub(super) fn sort(mut found: Vec<Found>, told: &[FromKeeper], boot_id: &str) -> Self {
        let known: HashMap<&RunId, (Option<i32>, bool)> = told.iter().filter_map(main_process).collect();
        found.sort_by_key(|f| f.run.as_ref().map(|run| run.number));
        let mut sorted = Self::default();
        for Found { name, run, note, populated } in found {
            let Some(run) = run else {
                sorted.strangers.push(name);
                continue;
            };
            let ours = note.filter(|n| n.run == run && n.boot_id == boot_id);
            let known = known.get(&run).copied();
            if ours.is_none() && known.is_none() && !populated && sorted.alive.contains_key(&run.worker) {
                sorted.unmade.push(run);
                continue;
            }
            // A run's directory is made when all of the one before is over, and so is its record.
            sorted.empty.extend(sorted.alive.remove(&run.worker).map(|known| known.note.run));
            match (known, ours) {
                (Some((pid, ended)), Some(note)) => {
                    sorted.alive.insert(run.worker.clone(), Known { pid, note, ended });
                }
                _ if populated => sorted.beside.extend(sorted.occupied.insert(run.worker.clone(), run)),
                (_, note) => {
                    sorted.half_made.extend(note.map(|note| (run.worker.clone(), note)));
                    sorted.empty.push(run);
                }
            }
        }
        // What lives and nobody can tell anything of is held, whatever the keeper has of it.
        let held = sorted.occupied.values().chain(&sorted.beside);
        let taken: HashSet<&RunId> = sorted.alive.values().map(|known| &known.note.run).chain(held).collect();
        let ended = told.iter().filter_map(|message| match message {
            FromKeeper::Exited { run, .. } | FromKeeper::Failed { run, .. } if !taken.contains(run) => {
                Some(run.clone())
            }
            _ => None,
        });
        sorted.over = ended.collect();
        sorted
    }

    /// What there is, for [`diff`](crate::manager::diff::diff()): with `config` all that is not in the tree is as it should be.
    pub(super) fn present(&self, config: &types::Config) -> Present {
        let alive = self.alive.values().map(|Known { note, .. }| Left {
            run: note.run.clone(),
            found: FoundLeft::Alive { launched_by: note.spec_hash },
        });
        let strangers = self.occupied.values().chain(&self.beside);
        let strangers = strangers.map(|run| Left { run: run.clone(), found: FoundLeft::Strangers });
        let empty = self.empty.iter().map(|run| Left { run: run.clone(), found: FoundLeft::Empty });
        Present {
            workers: Vec::new(),
            slices: config.slices.clone(),
            env: config.env.clone(),
            reconcile_interval: config.reconcile_interval,
            history: config.history.clone(),
            left: alive.chain(strangers).chain(empty).collect(),
        }
    }

    /// Leaves living runs alone whose workers are declared nowhere: how they are to run and to be stopped is not known, and their
    /// declarations may be lost. Which they are: nothing is to be started over them.
    pub(super) fn hold_undeclared(&mut self, config: &types::Config, memory: &Memory) -> HashMap<WorkerId, RunId> {
        let declared: HashSet<&WorkerId> = config.workers.iter().map(|worker| &worker.id).collect();
        let alive = self
            .alive
            .extract_if(|id, known| !declared.contains(id) && !known.ended && known.fate(memory) == Fate::Alive);
        let held: HashMap<WorkerId, RunId> = alive.map(|(id, known)| (id, known.note.run)).collect();
        self.beside.extend(held.values().cloned());
        held
    }

    /// Living runs of workers that are configured no more, taken over to be stopped. The keeper knows them, so that their end
    /// is seen; how they wished to be stopped nobody knows any more.
    pub(super) fn leftovers(
        &mut self,
        shared: &Arc<Shared>,
        kernel: &HostKernel,
        memory: &Memory,
        chronicle: &Chronicle,
    ) -> Vec<Member> {
        let mut members = Vec::new();
        for (id, known) in mem::take(&mut self.alive) {
            let fate = known.fate(memory);
            let Known { pid, note, .. } = known;
            if fate != Fate::Alive {
                self.over.push(note.run.clone());
                self.empty.push(note.run);
                continue;
            }
            let spec = Arc::new(types::Spec::new(vec![id.to_string()]));
            let frozen = match kernel.adopt(note.clone(), &spec) {
                Ok(frozen) => frozen,
                Err(error) => {
                    tracing::error!(run = %note.run, error = %chain(&error), "a living run cannot be taken over");
                    continue;
                }
            };
            let what = format!("stopping {}: it lives, and no worker of the configuration has its name", note.run);
            chronicle.record(EventKind::Reconciled { what });
            let note = Box::new(RunNote { desired_up: false, ..note });
            let found = actor::Found::Alive { pid, note, frozen };
            let worker = actor::spawn(shared, Charge::new(id.clone(), Arc::clone(&spec), found));
            members.push(Member { enabled: false, ..Member::new(id, spec, worker) });
        }
        members
    }

    /// Removes what would be in the way of the next run. Where that cannot be, the run before it is given up for it.
    fn unmake(&mut self, kernel: &HostKernel, chronicle: &Chronicle) {
        for run in mem::take(&mut self.unmade) {
            match kernel.unmake(&run) {
                Ok(()) => chronicle
                    .record(EventKind::Reconciled { what: format!("removed the half-made directory of {run}") }),
                Err(error) => {
                    tracing::error!(%run, error = %chain(&error), "a half-made directory cannot be removed");
                    self.empty.extend(self.alive.remove(&run.worker).map(|known| known.note.run));
                    self.empty.push(run);
                }
            }
        }
    }

    /// What is left of runs that are over, for the workers of the configuration: what the keeper and the tree have of a run goes
    /// when the store has its end.
    fn debris(
        &mut self,
        config: &types::Config,
        memory: &Memory,
        chronicle: &Chronicle,
    ) -> HashMap<WorkerId, Vec<RunId>> {
        for (_, known) in self.alive.extract_if(|_, known| known.fate(memory) == Fate::Debris) {
            self.empty.push(known.note.run);
        }
        let configured: HashSet<&WorkerId> = config.workers.iter().map(|worker| &worker.id).collect();
        let mut debris: HashMap<WorkerId, Vec<RunId>> = HashMap::new();
        for run in self.empty.extract_if(.., |run| configured.contains(&run.worker)) {
            tell_of_an_empty(&run, chronicle);
            debris.entry(run.worker.clone()).or_default().push(run);
        }
        for run in self.over.extract_if(.., |run| configured.contains(&run.worker)) {
            let of = debris.entry(run.worker.clone()).or_default();
            if !of.contains(&run) {
                of.push(run);
            }
        }
        debris
    }

    /// Removes and reports what no worker of the configuration was given.
    pub(super) fn clear(&mut self, kernel: &HostKernel, chronicle: &Chronicle) {
        for run in self.over.drain(..) {
            kernel.forget(&run);
        }
        for run in self.empty.drain(..) {
            tell_of_an_empty(&run, chronicle);
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

fn tell_of_an_empty(run: &RunId, chronicle: &Chronicle) {
    chronicle.record(EventKind::Reconciled { what: format!("removed the empty directory of {run}") });
}

/// The main process of the run that is spoken of, and whether it has ended.
fn main_process(message: &FromKeeper) -> Option<(&RunId, (Option<i32>, bool))> {
    match message {
        FromKeeper::Launched { run, pid, .. } => Some((run, (Some(*pid), false))),
        FromKeeper::Exited { run, pid, .. } => Some((run, (Some(*pid), true))),
        FromKeeper::Launching { run } => Some((run, (None, false))),
        FromKeeper::Failed { run, .. } => Some((run, (None, true))),
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
    takeover.unmake(kernel, chronicle);
    let mut debris = takeover.debris(config, memory, chronicle);
    for worker in &config.workers {
        let debris = debris.remove(&worker.id).unwrap_or_default();
        let found = if let Some(known) = takeover.alive.remove(&worker.id) {
            let fate = known.fate(memory);
            let Known { pid, note, .. } = known;
            match kernel.adopt(note.clone(), &worker.spec) {
                Ok(_) if fate == Fate::Over => actor::Found::Over { note: Box::new(note) },
                Ok(frozen) => {
                    takeover.adopted.insert(worker.id.clone());
                    actor::Found::Alive { pid, note: Box::new(note), frozen }
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
            let left = debris.iter().map(|run| run.number).max().unwrap_or(0);
            actor::Found::Nothing { last_run: household::last_run(logs, &worker.id).max(left) }
        };
        let charge = Charge {
            remembered: memory.take(&worker.id),
            half_made: takeover.half_made.remove(&worker.id).map(Box::new),
            debris,
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

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
