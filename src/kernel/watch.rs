//! One inotify for all runs. It owns the watches on `memory.events` and `pids.events` of each run, on `cgroup.events`
//! of a run that drains or is frozen, on the parent directories, and on `memory.events.local` of the cgroups above, and turns what they
//! say into [`Hint`]s. A hint makes the
//! driver read the file again ([`super::cgroup::events`]); it is never counted, because the kernel joins and delays
//! notifications (one in 10 ms for a file), and says nothing of what happened.
//!
//! ```text
//!                 fires                       Seen::Noise
//!   armed ──────────────▶ Hint::Changed ─────────────────────▶ off, for 1, 2, 4, 8, 10 s
//!     ▲                        │ Seen::Violation, Nothing          │ deadline
//!     └────────────────────────┴────────────── armed again, and Hint::Changed once
//! ```
//!
//! A reader of a big file at its `memory.max` makes `memory.events` fire sixty times a second for ever without a
//! violation: such a watch is taken off and set again later, with a re-read. Nothing polls: a quiet host has no timer.
//!
//! - A run's `memory.events.local` needs no watch: every event counted there is counted in `memory.events` too
//!   (`memory_events` walks up from the cgroup itself). Above the runs it is the other way round: there only what
//!   concerns that very cgroup's limit matters, and `memory.events` would fire for everything below as well.
//! - The kernel does not take the watch of a cgroup file off when the cgroup is removed; [`Watches::forget`] does, and
//!   must come before the rmdir.
//! - Nothing is said to the watch on a file when its cgroup is removed by somebody else; the parent's watch says it.

mod state;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use state::{Events, File, Rest, Run, State, Use};
use tokio::sync::Notify;

use super::cgroup::{Dir, DirError};
use crate::{
    clock::Clock,
    model::{Counters, MemoryEvents, RunId},
};

/// Bytes read from inotify at once: about 250 events.
const BUFFER: usize = 4096;

/// A reason to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A counter of the run may have changed. Read it, then say what was [`Watches::seen`].
    Changed(RunId, Source),
    /// What `cgroup.events` of the run says may have changed, or somebody wants it looked at. Read what is waited for: `populated`
    /// of one that drains, `frozen` of another.
    Events(RunId),
    /// The run's directory is gone, and not by our hand.
    Removed(RunId),
    /// The limit of this cgroup above runs may have been reached. Read its counters, then say what was
    /// [`Watches::seen_above`].
    Above(Arc<str>),
    /// Notifications were lost: look at every run.
    Rescan,
}

/// Which of a run's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `memory.events`.
    Memory,
    /// `pids.events`.
    Pids,
}

/// What a re-read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Something that matters: the watch stays on.
    Violation,
    /// The counters grew and it does not matter: the watch rests.
    Noise,
    /// The counters are as they were.
    Nothing,
}

impl Seen {
    /// Whether a file that fired, whereupon the counters were found to have grown by `grown`, did so for something that matters.
    /// Page cache at a limit, and a fork bomb that has been reported, fire sixty times a second for ever.
    #[must_use]
    pub fn of(source: Source, grown: Counters) -> Self {
        let kills = |events: Option<MemoryEvents>| events.map_or(0, |m| m.oom_kill);
        match source {
            Source::Memory if kills(grown.memory) + kills(grown.local) > 0 => Self::Violation,
            Source::Memory if grown.memory.is_some_and(|m| m != MemoryEvents::default()) => Self::Noise,
            Source::Pids if grown.pids_max.unwrap_or(0) > 0 => Self::Noise,
            Source::Memory | Source::Pids => Self::Nothing,
        }
    }
}

/// Which files of a run to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// `memory.events`.
    pub memory: bool,
    /// `pids.events`.
    pub pids: bool,
}

impl Interest {
    /// Both.
    pub const ALL: Self = Self { memory: true, pids: true };
}

/// A watch the kernel did not give.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// ENOSPC: the user's watches are used up. The run is not endangered: its counters are read at its exit.
    #[error(
        "no inotify watch is left for {path}: what happens inside {run} while it lives is seen at its exit only; \
         raise fs.inotify.max_user_watches (`sysctl fs.inotify.max_user_watches=524288`)"
    )]
    NoneLeft {
        /// Whose.
        run: String,
        /// The file.
        path: PathBuf,
    },
    /// Any other refusal.
    #[error("cannot watch {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The state of a draining run could not be read.
    #[error(transparent)]
    Dir(#[from] DirError),
}

/// The side that sets watches: cheap to clone, used from any task; no call waits.
#[derive(Debug, Clone)]
pub struct Watches {
    shared: Arc<Shared>,
}

/// The side that waits; one task.
#[derive(Debug)]
pub struct Hints {
    shared: Arc<Shared>,
    stream: EventStream<Vec<u8>>,
    ready: VecDeque<Hint>,
    clock: Clock,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Said when a deadline is new.
    sooner: Notify,
    clock: Clock,
}

/// Makes the one inotify.
///
/// # Errors
/// Where `fs.inotify.max_user_instances` or the descriptors are used up. Call it inside a tokio runtime.
pub fn channel(clock: Clock) -> io::Result<(Watches, Hints)> {
    let inotify = Inotify::init()?;
    let shared = Arc::new(Shared { state: Mutex::new(State::new(inotify.watches())), sooner: Notify::new(), clock });
    let stream = inotify.into_event_stream(vec![0; BUFFER])?;
    Ok((Watches { shared: Arc::clone(&shared) }, Hints { shared, stream, ready: VecDeque::new(), clock }))
}

impl Watches {
    /// Watches a directory of runs for removals. Once for each is enough; again is no error.
    ///
    /// # Errors
    /// Where no watch is left.
    pub fn add_parent(&self, parent: &Dir) -> Result<(), WatchError> {
        let mut state = self.shared.lock();
        if state.parents.contains_key(parent.path()) {
            return Ok(());
        }
        let mask = WatchMask::DELETE | WatchMask::ONLYDIR;
        let watch = state.add(parent, "", mask, "the workers")?;
        state.uses.insert(watch.clone(), Use::Parent);
        state.parents.insert(parent.path().to_owned(), watch);
        Ok(())
    }

    /// Takes the watch of a directory of runs off, and that of its limits if it had one: it is gone.
    pub fn forget_parent(&self, parent: &Path, above: &str) {
        let mut state = self.shared.lock();
        let watch = state.parents.remove(parent);
        state.drop_watch(watch);
        if let Some((_, file)) = state.above.remove(above) {
            state.drop_watch(file.watch);
        }
    }

    /// Watches the limits of a cgroup above runs, which hints will call `name`. Where it has no memory controller,
    /// nothing will be said of it.
    ///
    /// # Errors
    /// Where no watch is left.
    pub fn add_above(&self, name: &Arc<str>, dir: &Arc<Dir>) -> Result<(), WatchError> {
        let mut state = self.shared.lock();
        if let Some((_, before)) = state.above.insert(Arc::clone(name), (Arc::clone(dir), File::default())) {
            state.drop_watch(before.watch);
        }
        state.arm_above(name)
    }

    /// Says what a read after [`Hint::Above`] found.
    pub fn seen_above(&self, name: &Arc<str>, seen: Seen) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let Some((_, file)) = state.above.get_mut(name) else { return };
        match seen {
            Seen::Violation | Seen::Nothing => file.noise = 0,
            Seen::Noise => {
                if state.rest(&Rest::Above(Arc::clone(name)), now) {
                    drop(state);
                    self.shared.sooner.notify_one();
                }
            }
        }
    }

    /// Watches a run. A file that is not there (no such controller) is left out.
    ///
    /// # Errors
    /// Where a watch is refused. The run is known then all the same, with the watches it got.
    pub fn add(&self, run: &RunId, dir: &Arc<Dir>, interest: Interest) -> Result<(), WatchError> {
        let mut state = self.shared.lock();
        let known = Run {
            dir: Arc::clone(dir),
            memory: File::default(),
            pids: File::default(),
            events: Events::No,
            drains: false,
            freezes: false,
        };
        state.runs.insert(run.clone(), known);
        for (wanted, source) in [(interest.memory, Source::Memory), (interest.pids, Source::Pids)] {
            if wanted {
                state.arm(run, source)?;
            }
        }
        Ok(())
    }

    /// Says what a re-read after [`Hint::Changed`] found.
    pub fn seen(&self, run: &RunId, source: Source, seen: Seen) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        match seen {
            Seen::Violation | Seen::Nothing => {
                if let Some(file) = state.file(run, source) {
                    file.noise = 0;
                }
            }
            Seen::Noise => {
                if state.rest(&Rest::Counter(run.clone(), source), now) {
                    drop(state);
                    self.shared.sooner.notify_one();
                }
            }
        }
    }

    /// Waits for the end of a run: says whether it is populated now, and if so hints at every change from here on.
    /// Because it looks after the watch is set, no change is missed.
    ///
    /// The run must have been [added](Self::add). Where no watch is left, it is looked at ten times a second instead.
    ///
    /// # Errors
    /// Where neither a watch nor a look is possible. [`DirError::is_absent`] inside: the cgroup is gone.
    pub fn drain(&self, run: &RunId, dir: &Dir) -> Result<bool, WatchError> {
        // A young cgroup's notification can be late by 12 ms: look first. Most runs are empty by now.
        if !dir.populated()? {
            return Ok(false);
        }
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        if let Some(known) = state.runs.get_mut(run) {
            known.drains = true;
        }
        let new = state.eye(run, dir, now)?;
        drop(state);
        if new {
            self.shared.sooner.notify_one();
        }
        Ok(dir.populated()?)
    }

    /// Keeps an eye on whether a run is frozen: hints at every change from here on, until it is [found thawed](Self::thawed) and
    /// not asked to be `frozen`. `None` asks nothing of that. Whether the eye is new: look then, and no change is missed.
    ///
    /// The run must have been [added](Self::add). Where no watch is left, it is looked at ten times a second instead.
    ///
    /// # Errors
    /// Where a watch is refused.
    pub fn freezer(&self, run: &RunId, dir: &Dir, frozen: Option<bool>) -> Result<bool, WatchError> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        if let (Some(known), Some(frozen)) = (state.runs.get_mut(run), frozen) {
            known.freezes = frozen;
        }
        let new = state.eye(run, dir, now)?;
        drop(state);
        if new {
            self.shared.sooner.notify_one();
        }
        Ok(new)
    }

    /// The run was read to be thawed: nothing is waited for any more, unless it was asked to be frozen, or drains.
    pub fn thawed(&self, run: &RunId) {
        let mut state = self.shared.lock();
        let Some(known) = state.runs.get_mut(run).filter(|known| !known.drains && !known.freezes) else { return };
        if let Events::Watched(watch) = std::mem::take(&mut known.events) {
            state.drop_watch(Some(watch));
        }
    }

    /// Has [`Hint::Events`] come of the run, as if something had fired.
    pub fn look(&self, run: &RunId) {
        self.shared.lock().looks.push(run.clone());
        self.shared.sooner.notify_one();
    }

    /// The state of a draining run could not be read, for want of descriptors or memory: it is looked at ten times a second from here
    /// on, because no notification comes twice. Says whether that is new.
    #[must_use]
    pub fn unread(&self, run: &RunId) -> bool {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let watch = match state.runs.get_mut(run).map(|known| std::mem::replace(&mut known.events, Events::No)) {
            Some(Events::Watched(watch)) => Some(watch),
            Some(Events::No) => None,
            Some(looked @ Events::Looked(_)) => {
                if let Some(known) = state.runs.get_mut(run) {
                    known.events = looked;
                }
                return false;
            }
            None => return false,
        };
        state.drop_watch(watch);
        let serial = state.look_again(run, now);
        if let Some(known) = state.runs.get_mut(run) {
            known.events = Events::Looked(serial);
        }
        drop(state);
        self.shared.sooner.notify_one();
        true
    }

    /// Takes every watch of the run off. Before its directory is removed: afterwards they would be lost to us for ever.
    pub fn forget(&self, run: &RunId) {
        let mut state = self.shared.lock();
        if let Some(known) = state.runs.remove(run) {
            let drain = match known.events {
                Events::Watched(watch) => Some(watch),
                Events::No | Events::Looked(_) => None,
            };
            for watch in [known.memory.watch, known.pids.watch, drain] {
                state.drop_watch(watch);
            }
        }
    }

    /// How many watches are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().uses.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    /// Nothing under this lock can panic half-way, so a poisoned one is as good as new.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hints {
    /// The next reason to look. Cancel safe: a hint is not lost when the future is dropped.
    ///
    /// # Errors
    /// Where inotify itself fails: then nothing more will come of it.
    pub async fn next(&mut self) -> io::Result<Hint> {
        loop {
            if let Some(hint) = self.ready.pop_front() {
                return Ok(hint);
            }
            let due = {
                let mut state = self.shared.lock();
                self.ready.extend(std::mem::take(&mut state.looks).into_iter().map(Hint::Events));
                state.due()
            };
            if !self.ready.is_empty() {
                continue;
            }
            let rested = async {
                match due {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // All three are cancel safe: each leaves what it has not given out where it was.
                event = self.stream.next() => match event {
                    Some(event) => {
                        let event = event?;
                        self.ready.extend(self.shared.lock().meaning(&event));
                    }
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                },
                () = rested => self.shared.lock().wake(self.clock.now(), &mut self.ready),
                () = self.shared.sooner.notified() => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
