//! The pressure triggers of all runs: set when a run's cgroup is made, told as `(run, limit)` when one fires, closed before the
//! cgroup is removed. That one fired proves nothing: whoever hears of it reads the totals.
//!
//! ```text
//!  Pressure ── Ask, by an eventfd ──▶ shard (64 triggers) ── Told ──▶ crier ──▶ pressed, released
//! ```
//!
//! A trigger sleeps in the kernel until it fires; nothing here wakes while all is quiet. Each shard is a thread with a
//! descriptor table of its own (`table` says why). It therefore runs nobody else's code, for that would go by descriptors which are
//! other ones there (waking a task of tokio's is a write to one): what it has to say is said by the crier.
//!
//! Where no trigger is to be had (a kernel without pressure information or older than triggers of the unprivileged, a
//! window it does not take, no descriptor left), the total is read every few seconds, for limits that somebody acts upon.

mod shard;
mod table;
pub mod trigger;

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::cgroup::Dir;
use crate::model::{Limit, RunId, chain};
pub use trigger::{Trigger, triggers};

/// Where no trigger is to be had, the totals are read this often.
pub const LOOK: Duration = Duration::from_secs(4);

/// So many triggers for each shard. The kernel closes those of a dying process in 10 to 20 ms each, those of different
/// threads at the same time: about a second.
const PER_SHARD: usize = 64;

/// Bytes. None of the threads has much to do.
const STACK: usize = 128 << 10;

/// Sets triggers and takes them off. No call waits, but one in so many for the start of a thread.
#[derive(Debug)]
pub struct Pressure {
    workers: Arc<Dir>,
    told: mpsc::Sender<Told>,
    fleet: Mutex<Fleet>,
}

#[derive(Debug, Default)]
struct Fleet {
    shards: Vec<Seat>,
    /// Which shard has the triggers of a run, and how many.
    seats: HashMap<RunId, (usize, usize)>,
}

#[derive(Debug)]
struct Seat {
    bell: Arc<Bell>,
    load: usize,
}

/// What a shard says.
#[derive(Debug)]
enum Told {
    Pressed(RunId, Limit),
    /// Nothing of the run is open any more.
    Released(RunId),
    /// No trigger could be had, and what is done instead.
    Without {
        run: RunId,
        limit: Limit,
        why: String,
        instead: Instead,
    },
    Fault(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// Nothing, and nobody would act upon it.
    Unmissed,
    /// Nothing: the total cannot be read either.
    Nothing,
    /// The total is read.
    Looks,
}

/// What a shard is asked for.
#[derive(Debug)]
enum Ask {
    Watch { run: RunId, below: Box<str>, triggers: Vec<Trigger> },
    Forget(RunId),
}

/// The way to a thread: a queue, and an eventfd(2) that wakes it.
#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    asks: Vec<Ask>,
    ended: bool,
}

impl Pressure {
    /// Triggers of runs in the directory `workers`. `pressed` hears which fired; `released` is called with each run that was to be
    /// [forgotten](Self::forget), once nothing of it is left open.
    ///
    /// # Errors
    /// Where no thread is to be had.
    pub fn start(
        workers: Arc<Dir>,
        pressed: UnboundedSender<(RunId, Limit)>,
        released: impl Fn(RunId) + Send + 'static,
    ) -> io::Result<Self> {
        let (told, hear) = mpsc::channel();
        thread::Builder::new()
            .name("pressure-crier".into())
            .stack_size(STACK)
            .spawn(move || cry(&hear, &pressed, &released))?;
        Ok(Self { workers, told, fleet: Mutex::default() })
    }

    /// Sets `triggers` of `run`, whose directory is `dir`, that of the workers or somewhere below it. What cannot be set is logged, for
    /// a run is held to its limits without.
    pub fn watch(&self, run: &RunId, dir: &Dir, triggers: Vec<Trigger>) {
        if triggers.is_empty() {
            return;
        }
        let below = dir.path().strip_prefix(self.workers.path()).ok().and_then(|path| path.to_str());
        let Some(below) = below else {
            tracing::error!(%run, directory = %dir.path().display(), "a run outside of the workers' directory is not watched");
            return;
        };
        let below = if below.is_empty() { "." } else { below };
        let load = triggers.len();
        let mut fleet = self.fleet();
        let free = fleet.shards.iter().position(|seat| seat.load + load <= PER_SHARD);
        let number = free.unwrap_or(fleet.shards.len());
        if free.is_none() {
            match self.start_shard() {
                Ok(bell) => fleet.shards.push(Seat { bell, load: 0 }),
                Err(e) => {
                    tracing::error!(%run, error = %chain(&e), "no thread for pressure triggers; a run is not watched");
                    return;
                }
            }
        }
        let Some(seat) = fleet.shards.get_mut(number) else { return };
        seat.load += load;
        seat.bell.ask(Ask::Watch { run: run.clone(), below: below.into(), triggers });
        fleet.seats.insert(run.clone(), (number, load));
    }

    /// Takes the triggers of `run` off, before its directory is removed. Whether there are any: only then is it released.
    #[must_use]
    pub fn forget(&self, run: &RunId) -> bool {
        let mut fleet = self.fleet();
        let Some((number, load)) = fleet.seats.remove(run) else { return false };
        let Some(seat) = fleet.shards.get_mut(number) else { return false };
        seat.load = seat.load.saturating_sub(load);
        seat.bell.ask(Ask::Forget(run.clone()));
        true
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // Nothing under this lock can panic half-way.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_shard(&self) -> io::Result<Arc<Bell>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Bell { fd, asked: Mutex::default() });
        let (workers, told, theirs) = (Arc::clone(&self.workers), self.told.clone(), Arc::clone(&bell));
        let (begun, answer) = mpsc::sync_channel(1);
        thread::Builder::new().name("pressure".into()).stack_size(STACK).spawn(move || {
            let shard = shard::begin(&workers, theirs, told);
            drop(workers);
            // Whoever waits for the answer is there.
            match shard {
                Ok(shard) => {
                    drop(begun.send(Ok(())));
                    shard.work();
                }
                Err(e) => drop(begun.send(Err(e))),
            }
        })?;
        // The descriptors it goes by must not be closed before it has copies of them.
        answer.recv().map_err(io::Error::other)??;
        Ok(bell)
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        for seat in &self.fleet().shards {
            seat.bell.asked().ended = true;
            seat.bell.ring();
        }
    }
}

/// Passes on what the shards say, until the last of them has ended.
fn cry(hear: &mpsc::Receiver<Told>, pressed: &UnboundedSender<(RunId, Limit)>, released: &impl Fn(RunId)) {
    let mut looks_told = false;
    for told in hear {
        match told {
            // Nobody hears any more: the supervisor is going down.
            Told::Pressed(run, limit) => drop(pressed.send((run, limit))),
            Told::Released(run) => released(run),
            Told::Without { run, limit, why, instead: Instead::Unmissed } => {
                tracing::debug!(%run, %limit, why, "a pressure is not watched");
            }
            Told::Without { run, limit, why, instead: Instead::Nothing } => {
                tracing::warn!(%run, %limit, why, "a pressure cannot be watched");
            }
            Told::Without { run, limit, why, instead: Instead::Looks } => {
                // Of a whole fleet once: it is the host's doing.
                if !std::mem::replace(&mut looks_told, true) {
                    let every = LOOK.as_secs();
                    tracing::warn!(%run, %limit, why, "totals are read every {every} s for want of pressure triggers");
                }
            }
            Told::Fault(error) => tracing::error!(error, "pressure triggers are not heard as they should be"),
        }
    }
}

impl Bell {
    fn ask(&self, ask: Ask) {
        self.asked().asks.push(ask);
        self.ring();
    }

    fn ring(&self) {
        match rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
            // It has rung more often than can be counted, so it is heard.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "a thread for pressure triggers cannot be woken"),
        }
    }

    fn hear(&self) -> io::Result<()> {
        match rustix::io::read(&self.fd, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What was asked for since the last time, and whether that was the last.
    fn take(&self) -> (Vec<Ask>, bool) {
        let mut asked = self.asked();
        (std::mem::take(&mut asked.asks), asked.ended)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
