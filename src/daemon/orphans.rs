//! Runs that have outlived the keeper that started them: they are handed to the new one, which watches over them as over its
//! own children, so that from then on there is one kind of run.

use std::{collections::HashSet, time::Duration};

use crate::clock::Clock;
use crate::keeper::protocol::FromKeeper;
use crate::kernel::host::{Found, HostKernel};
use crate::kernel::orphan::Orphan;
use crate::kernel::port::RunNote;
use crate::model::{Mono, RunId, WorkerId, chain};

use super::memory::Memory;

/// What became of the runs that the keeper knew nothing of.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Re-attached: their main processes live.
    pub(super) alive: Vec<RunId>,
    /// They ended while nobody watched.
    pub(super) ended: Vec<RunId>,
    /// Killed: their programs had never begun.
    pub(super) half_made: Vec<RunId>,
    /// What the keeper would have told of them, had it been theirs.
    pub(super) told: Vec<FromKeeper>,
}

/// Finds the runs of this boot, with records of ours, that the keeper does not know, and has it adopt them: but for those
/// whose end is known.
pub(super) fn hand_over(
    kernel: &HostKernel,
    found: &[Found],
    told: &[FromKeeper],
    memory: &Memory,
    boot_id: &str,
    clock: Clock,
) -> Orphans {
    let known: HashSet<&RunId> = told.iter().filter_map(run_of).collect();
    let notes = found.iter().filter_map(|found| found.note.as_ref());
    let ended: HashSet<(&WorkerId, u32)> =
        notes.flat_map(|note| note.untold.iter().map(|end| (&note.run.worker, end.run))).collect();
    let mut orphans = Orphans::default();
    for Found { run, note, populated, .. } in found {
        let (Some(run), Some(note)) = (run, note) else { continue };
        if known.contains(run) || note.run != *run || note.boot_id != boot_id {
            continue;
        }
        if memory.has_end_of(run) || ended.contains(&(&run.worker, run.number)) {
            if *populated {
                // Known to have ended, and something of it is left: that is seen to its end as under the keeper that has seen it.
                let (pid, at) = (note.pid.unwrap_or(0), clock.now());
                orphans.told.push(FromKeeper::Exited { run: run.clone(), pid, status: None, at });
            }
            continue;
        }
        if let Err(error) = orphans.take(kernel, note, clock) {
            // It is left alone then, and nothing is started over it.
            tracing::error!(%run, error = %chain(&*error), "an orphaned run cannot be taken over");
        }
    }
    orphans
}

impl Orphans {
    fn take(&mut self, kernel: &HostKernel, note: &RunNote, clock: Clock) -> Result<(), Box<dyn std::error::Error>> {
        let run = &note.run;
        let at = note.started_mono_ns.map_or_else(|| clock.now(), |ns| Mono(Duration::from_nanos(ns)));
        let (process, pidfd) = match kernel.orphan(note)? {
            Orphan::Alive { pid, start_ticks, pidfd } => ((pid, start_ticks), Some(pidfd)),
            Orphan::Gone => ((note.pid.unwrap_or(0), note.pid_start_ticks.unwrap_or(0)), None),
            Orphan::Unlaunched => {
                kernel.kill_half_made(run)?;
                self.half_made.push(run.clone());
                return Ok(());
            }
            // Whether whoever was in it came to his program nobody can tell any more.
            Orphan::Nobody if kernel.was_inhabited(run)? => ((0, 0), None),
            Orphan::Nobody => return Ok(()),
        };
        let alive = pidfd.is_some();
        kernel.entrust(run, process, at, pidfd)?;
        if alive { &mut self.alive } else { &mut self.ended }.push(run.clone());
        self.told.push(FromKeeper::Launched { run: run.clone(), pid: process.0, at });
        Ok(())
    }
}

fn run_of(message: &FromKeeper) -> Option<&RunId> {
    match message {
        FromKeeper::Launched { run, .. }
        | FromKeeper::Exited { run, .. }
        | FromKeeper::Launching { run }
        | FromKeeper::Failed { run, .. } => Some(run),
        FromKeeper::Hello { .. } | FromKeeper::Listed | FromKeeper::Ping { .. } | FromKeeper::LogDropped { .. } => None,
    }
}
