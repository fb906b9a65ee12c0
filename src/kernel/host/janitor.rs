//! The thread that removes the directories of ended runs.
//!
//! A removal takes the host-wide cgroup lock and can wait for it while hundreds of workers die, so no actor does it; and
//! the next run needs a fresh directory, not the old one gone.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::places::{Place, Places};
use crate::clock::monotonic;
use crate::kernel::cgroup::{DirError, kill};
use crate::model::{Mono, RunId, chain};

/// Before the first try: the worker's next run, which may follow at once, takes the host-wide lock for its own directory
/// and goes first.
const HEAD_START: Duration = Duration::from_millis(20);
/// The first wait for a directory that is still busy; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(1);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A directory that is busy for so long after it was empty is reported and left to the next start.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Where the outcome of each removal goes.
type Done = UnboundedSender<(RunId, Result<(), DirError>)>;

/// Where runs are handed in.
#[derive(Debug, Clone)]
pub(super) struct Janitor {
    jobs: mpsc::Sender<Job>,
}

/// A directory to remove.
struct Job {
    run: RunId,
    place: Arc<Place>,
}

/// Its next try.
struct Try {
    place: Arc<Place>,
    wait: Duration,
    give_up: Mono,
}

impl Janitor {
    /// Starts the thread. `done` hears of each removal. It ends with the last clone of the handle.
    pub(super) fn start(places: Arc<Places>, done: Done) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        thread::Builder::new().name("janitor".into()).spawn(move || work(&places, &queue, &done))?;
        Ok(Self { jobs })
    }

    /// Has the directory of `run` in `place` removed. Its cgroup has been read to be empty.
    pub(super) fn remove(&self, run: RunId, place: Arc<Place>) {
        if let Err(mpsc::SendError(Job { run, .. })) = self.jobs.send(Job { run, place }) {
            tracing::error!(%run, "the janitor is gone: the run's directory stays");
        }
    }
}

fn work(places: &Places, queue: &mpsc::Receiver<Job>, done: &Done) {
    let mut tries: BTreeMap<(Mono, RunId), Try> = BTreeMap::new();
    loop {
        let new = match tries.first_key_value() {
            None => match queue.recv() {
                Ok(job) => Some(job),
                Err(mpsc::RecvError) => return,
            },
            Some(((at, _), _)) => match queue.recv_timeout(at.since(monotonic())) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        let now = monotonic();
        if let Some(Job { run, place }) = new {
            tries.insert((now + HEAD_START, run), Try { place, wait: FIRST_WAIT, give_up: now + GIVE_UP });
            continue;
        }
        let Some(due) = tries.first_entry().filter(|first| first.key().0 <= now) else { continue };
        let ((_, run), Try { place, wait, give_up }) = due.remove_entry();
        match kill::remove(&place.dir, &run.to_string()) {
            Err(e) if e.is_busy() && now < give_up => {
                tries.insert((now + wait, run), Try { place, wait: (wait * 2).min(LONGEST_WAIT), give_up });
            }
            result => {
                if done.send((run, result)).is_err() {
                    return;
                }
                sweep(places, &place);
            }
        }
    }
}

/// A slice that no configuration names goes with its last run.
fn sweep(places: &Places, place: &Place) {
    match places.sweep(place) {
        Err(error) if !error.is_absent() => {
            tracing::warn!(error = %chain(&error), "an unused slice could not be removed");
        }
        _ => {}
    }
}
