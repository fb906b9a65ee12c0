//! The thread that removes the directories of ended runs.
//!
//! A removal takes the host-wide cgroup lock and can wait for it while hundreds of workers die, so no actor does it; and
//! the next run needs a fresh directory, not the old one gone.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::monotonic;
use crate::keeper::protocol::LogFiles;
use crate::kernel::cgroup::{
    dir::{Dir, DirError},
    kill,
};
use crate::model::{Mono, RunId};

/// The first wait for a directory that is still busy; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(1);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A directory that is busy for so long after it was empty is reported and left to the next start.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Runs of a worker whose output is kept, the last one included. Rotation within a run is not here yet.
const KEPT_LOGS: u32 = 5;

/// Where the outcome of each removal goes.
type Done = UnboundedSender<(RunId, Result<(), DirError>)>;

/// Where runs are handed in.
#[derive(Debug, Clone)]
pub(super) struct Janitor {
    jobs: mpsc::Sender<RunId>,
}

/// A directory that was busy.
struct Again {
    run: RunId,
    at: Mono,
    wait: Duration,
    give_up: Mono,
}

impl Janitor {
    /// Starts the thread. `done` hears of each removal. It ends with the last clone of the handle.
    pub(super) fn start(workers: Dir, logs: PathBuf, done: Done) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        thread::Builder::new().name("janitor".into()).spawn(move || work(&workers, &logs, &queue, &done))?;
        Ok(Self { jobs })
    }

    /// Has the directory of `run` removed. Its cgroup has been read to be empty.
    pub(super) fn remove(&self, run: RunId) {
        if let Err(mpsc::SendError(run)) = self.jobs.send(run) {
            tracing::error!(%run, "the janitor is gone: the run's directory stays");
        }
    }
}

fn work(workers: &Dir, logs: &Path, queue: &mpsc::Receiver<RunId>, done: &Done) {
    // In the order of their next tries, for new ones come last and each wait grows alike: near enough to sorted that
    // the earliest is looked for, not kept.
    let mut busy: VecDeque<Again> = VecDeque::new();
    loop {
        let next = busy.iter().map(|a| a.at).min();
        let new = match next {
            None => match queue.recv() {
                Ok(run) => Some(run),
                Err(mpsc::RecvError) => return,
            },
            Some(at) => match queue.recv_timeout(at.since(monotonic())) {
                Ok(run) => Some(run),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        let now = monotonic();
        let due = match new {
            Some(run) => Again { run, at: now, wait: FIRST_WAIT, give_up: now + GIVE_UP },
            None => match busy.iter().position(|a| a.at <= now).and_then(|i| busy.remove(i)) {
                Some(again) => again,
                None => continue,
            },
        };
        match kill::remove(workers, &due.run.to_string()) {
            Err(e) if e.is_busy() && now < due.give_up => {
                let wait = (due.wait * 2).min(LONGEST_WAIT);
                busy.push_back(Again { at: now + due.wait, wait, ..due });
            }
            result => {
                forget_logs(logs, &due.run);
                if done.send((due.run, result)).is_err() {
                    return;
                }
            }
        }
    }
}

/// Removes the output of the run that is one too old now. Numbers are never used twice, so each comes by once.
fn forget_logs(logs: &Path, run: &RunId) {
    let Some(old) = run.number.checked_sub(KEPT_LOGS).map(|n| RunId::new(run.worker.clone(), n)) else { return };
    let LogFiles { stdout, stderr } = super::log_files(logs, &old);
    for file in [stdout, stderr] {
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), error = %e, "an old log file could not be removed");
            }
            _ => {}
        }
    }
}
