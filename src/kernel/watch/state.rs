//! What is watched and for whom, what rests and until when: the state that [`Watches`](super::Watches) and
//! [`Hints`](super::Hints) share under one lock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use inotify::{EventMask, EventOwned, WatchDescriptor, WatchMask, Watches as Kernel};

use super::{Hint, Source, WatchError};
use crate::{
    kernel::cgroup::Dir,
    model::{Mono, RunId},
};

/// How long a noisy watch stays off: the first time, doubled each time after …
const FIRST_REST: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Where no watch is left for a run that drains or is frozen, it is looked at this often, until it is empty or thawed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct State {
    kernel: Kernel,
    pub(super) runs: HashMap<RunId, Run>,
    /// What each watch is for.
    pub(super) uses: HashMap<WatchDescriptor, Use>,
    pub(super) parents: BTreeMap<PathBuf, WatchDescriptor>,
    /// The cgroups above, by their paths.
    pub(super) above: HashMap<Arc<str>, (Arc<Dir>, File)>,
    /// When a resting watch is to be set again. An entry whose run is gone, or rests no more, means nothing.
    resting: BinaryHeap<Reverse<(Mono, u64, Rest)>>,
    /// Tells equal deadlines apart in the order they were made.
    serial: u64,
    /// Runs that somebody wants looked at, although nothing has fired.
    pub(super) looks: Vec<RunId>,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) dir: Arc<Dir>,
    pub(super) memory: File,
    pub(super) pids: File,
    pub(super) events: Events,
    /// Its end is waited for.
    pub(super) drains: bool,
    /// It was asked to be frozen, and not to be thawed since.
    pub(super) freezes: bool,
}

/// The eye on a run's `cgroup.events`: one for all that it says, because the kernel has one watch for a file.
#[derive(Debug, Default)]
pub(super) enum Events {
    #[default]
    No,
    Watched(WatchDescriptor),
    /// No watch was left: the serial of the next look.
    Looked(u64),
}

/// What comes at a deadline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    Counter(RunId, Source),
    Events(RunId),
    Above(Arc<str>),
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) watch: Option<WatchDescriptor>,
    /// Rests in a row.
    pub(super) noise: u8,
    /// The serial of the rest it is in.
    rest: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) enum Use {
    Counter(RunId, Source),
    Events(RunId),
    Parent,
    Above(Arc<str>),
}

impl State {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            runs: HashMap::new(),
            uses: HashMap::new(),
            parents: BTreeMap::new(),
            above: HashMap::new(),
            resting: BinaryHeap::new(),
            serial: 0,
            looks: Vec::new(),
        }
    }

    /// When the next of what rests is due.
    pub(super) fn due(&self) -> Option<Mono> {
        self.resting.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn file(&mut self, run: &RunId, source: Source) -> Option<&mut File> {
        self.runs.get_mut(run).map(|r| match source {
            Source::Memory => &mut r.memory,
            Source::Pids => &mut r.pids,
        })
    }

    pub(super) fn add(
        &mut self,
        dir: &Dir,
        file: &str,
        mask: WatchMask,
        run: &str,
    ) -> Result<WatchDescriptor, WatchError> {
        // By descriptor: the path may name another cgroup by now.
        self.kernel.add(dir.proc_path().join(file), mask).map_err(|source| {
            let path = dir.path().join(file);
            match source.raw_os_error() {
                Some(nix::libc::ENOSPC) => WatchError::NoneLeft { run: run.to_owned(), path },
                _ => WatchError::Io { path, source },
            }
        })
    }

    pub(super) fn arm(&mut self, run: &RunId, source: Source) -> Result<(), WatchError> {
        let Some(known) = self.runs.get(run) else { return Ok(()) };
        let (dir, file) = (Arc::clone(&known.dir), source.file());
        let watch = match self.add(&dir, file, WatchMask::MODIFY, &run.to_string()) {
            Ok(watch) => watch,
            Err(WatchError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        self.uses.insert(watch.clone(), Use::Counter(run.clone(), source));
        if let Some(file) = self.file(run, source) {
            file.watch = Some(watch);
        }
        Ok(())
    }

    pub(super) fn arm_above(&mut self, name: &Arc<str>) -> Result<(), WatchError> {
        let Some((dir, _)) = self.above.get(name) else { return Ok(()) };
        let dir = Arc::clone(dir);
        let watch = match self.add(&dir, "memory.events.local", WatchMask::MODIFY, name) {
            Ok(watch) => watch,
            Err(WatchError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        self.uses.insert(watch.clone(), Use::Above(Arc::clone(name)));
        if let Some((_, file)) = self.above.get_mut(name) {
            file.watch = Some(watch);
        }
        Ok(())
    }

    /// The file that rests or is to.
    fn resting_file(&mut self, rest: &Rest) -> Option<&mut File> {
        match rest {
            Rest::Counter(run, source) => self.file(run, *source),
            Rest::Above(name) => self.above.get_mut(name).map(|(_, file)| file),
            Rest::Events(_) => None,
        }
    }

    /// Takes a noisy watch off until later. Whether there is a new deadline.
    pub(super) fn rest(&mut self, what: &Rest, now: Mono) -> bool {
        self.serial += 1;
        let serial = self.serial;
        let Some(file) = self.resting_file(what) else { return false };
        let Some(watch) = file.watch.take() else { return false };
        let rest = FIRST_REST.saturating_mul(1 << file.noise.min(4)).min(LONGEST_REST);
        file.noise = file.noise.saturating_add(1);
        file.rest = Some(serial);
        self.drop_watch(Some(watch));
        self.resting.push(Reverse((now + rest, serial, what.clone())));
        true
    }

    /// Sets an eye on the run's `cgroup.events`, where there is none yet. Whether it is new.
    pub(super) fn eye(&mut self, run: &RunId, dir: &Dir, now: Mono) -> Result<bool, WatchError> {
        if self.runs.get(run).is_none_or(|known| !matches!(known.events, Events::No)) {
            return Ok(false);
        }
        let eye = match self.add(dir, "cgroup.events", WatchMask::MODIFY, &run.to_string()) {
            Ok(watch) => {
                self.uses.insert(watch.clone(), Use::Events(run.clone()));
                Events::Watched(watch)
            }
            Err(WatchError::NoneLeft { .. }) => Events::Looked(self.look_again(run, now)),
            Err(e) => return Err(e),
        };
        if let Some(known) = self.runs.get_mut(run) {
            known.events = eye;
        }
        Ok(true)
    }

    pub(super) fn look_again(&mut self, run: &RunId, now: Mono) -> u64 {
        self.serial += 1;
        self.resting.push(Reverse((now + LOOK_AGAIN, self.serial, Rest::Events(run.clone()))));
        self.serial
    }

    pub(super) fn drop_watch(&mut self, watch: Option<WatchDescriptor>) {
        if let Some(watch) = watch {
            self.uses.remove(&watch);
            if let Err(e) = self.kernel.remove(watch) {
                // EINVAL: the kernel took it off itself, with the file system or the directory.
                tracing::debug!(error = %e, "an inotify watch was gone already");
            }
        }
    }

    /// Sets again what has rested long enough.
    pub(super) fn wake(&mut self, now: Mono, ready: &mut VecDeque<Hint>) {
        while let Some(Reverse((at, ..))) = self.resting.peek()
            && *at <= now
        {
            let Some(Reverse((_, serial, rest))) = self.resting.pop() else { return };
            if let Rest::Events(run) = &rest {
                let looked = |r: &Run| matches!(r.events, Events::Looked(s) if s == serial);
                if self.runs.get(run).is_some_and(looked) {
                    let next = self.look_again(run, now);
                    if let Some(known) = self.runs.get_mut(run) {
                        known.events = Events::Looked(next);
                    }
                    ready.push_back(Hint::Events(run.clone()));
                }
                continue;
            }
            match self.resting_file(&rest) {
                Some(file) if file.rest == Some(serial) => file.rest = None,
                _ => continue,
            }
            let (armed, hint) = match &rest {
                Rest::Counter(run, source) => (self.arm(run, *source), Hint::Changed(run.clone(), *source)),
                Rest::Above(name) => (self.arm_above(name), Hint::Above(Arc::clone(name))),
                Rest::Events(_) => continue,
            };
            if let Err(e) = armed {
                tracing::warn!(error = %e, "a watch could not be set again; trying again later");
                self.serial += 1;
                let serial = self.serial;
                if let Some(file) = self.resting_file(&rest) {
                    file.rest = Some(serial);
                }
                self.resting.push(Reverse((now + LONGEST_REST, serial, rest)));
            }
            ready.push_back(hint);
        }
    }

    pub(super) fn meaning(&self, event: &EventOwned) -> Option<Hint> {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Some(Hint::Rescan);
        }
        match self.uses.get(&event.wd)? {
            Use::Counter(run, source) => Some(Hint::Changed(run.clone(), *source)),
            Use::Events(run) => Some(Hint::Events(run.clone())),
            Use::Above(name) => Some(Hint::Above(Arc::clone(name))),
            Use::Parent => {
                let run = RunId::from_dir_name(event.name.as_ref()?.to_str()?)?;
                // One that we removed ourselves has been forgotten before.
                self.runs.contains_key(&run).then_some(Hint::Removed(run))
            }
        }
    }
}

impl Source {
    const fn file(self) -> &'static str {
        match self {
            Self::Memory => "memory.events",
            Self::Pids => "pids.events",
        }
    }
}
