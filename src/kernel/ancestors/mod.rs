//! The cgroups above the runs, from the slice or `ROOT/workers` up to the host's root, and the host itself: whose limit was
//! reached when a run lost a process to the OOM killer without having reached one of its own.
//!
//! ```text
//!   /                       no memory.events: nothing is limited there      /proc/vmstat oom_kill
//!   └ system.slice          memory.events.local ─┐
//!     └ pinfold.scope                            ├─ observed at the start, when one of them changes, and at such a kill
//!       └ workers                                │
//!         └ web.slice       ─────────────────────┘
//!           └ api.3         memory.events: oom_kill +1, oom +0
//! ```
//!
//! Everything is read, nothing is written: most of it is not ours. An exit without an OOM kill reads nothing here. From
//! which observation a growth is counted is [`history`]'s part; what it means is `policy::cause`'s.
//!
//! `memory.events.local` and not `memory.events` is watched and read: the latter also counts, and is notified of, what
//! happens in every cgroup below, reclaim at each worker's own limit included.

pub mod history;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::cgroup::{Dir, events};
use crate::model::{AboveReading, HostOom, Level, MemoryEvents, Mono, chain};
use history::{Before, History};

/// One cgroup above runs.
#[derive(Debug)]
pub struct Ancestor {
    dir: Arc<Dir>,
    path: Arc<str>,
    seen: Mutex<History<MemoryEvents>>,
}

/// The cgroups above a directory that runs or slices are made in.
#[derive(Debug)]
pub struct Ancestors {
    mount: PathBuf,
    /// The nearest first.
    chain: Vec<Arc<Ancestor>>,
    /// Whether the chain ends below the host's root, and nothing in it is missing.
    whole: bool,
    host: Mutex<History<u64>>,
}

impl Ancestor {
    fn new(mount: &Path, dir: Arc<Dir>, seen: History<MemoryEvents>) -> Self {
        let below = dir.path().strip_prefix(mount).unwrap_or(dir.path());
        let path = format!("/{}", below.display()).into();
        Self { dir, path, seen: Mutex::new(seen) }
    }

    /// The cgroup below the cgroup2 mount: `/pinfold/workers/web.slice`.
    #[must_use]
    pub const fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Its directory.
    #[must_use]
    pub const fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Reads its counters, and says what they have grown by since they were last read. `None` where they cannot be.
    pub fn observe(&self, now: Mono) -> Option<MemoryEvents> {
        let events = self.read()?;
        let mut seen = lock(&self.seen);
        let grown = events.since(seen.last().unwrap_or(events));
        seen.observe(now, events);
        Some(grown)
    }

    fn read(&self) -> Option<MemoryEvents> {
        events::local(&self.dir).unwrap_or_else(|error| {
            // A slice can be removed from outside at any time, once it is empty.
            if !error.is_absent() {
                tracing::warn!(error = %chain(&error), "the events of a cgroup above the workers cannot be read");
            }
            None
        })
    }

    /// The growth that can have killed a process whose death was first seen at `dead`. `None` where that cannot be told.
    fn level(&self, dead: Mono, now: Mono) -> Option<Level> {
        let after = self.read()?;
        let mut seen = lock(&self.seen);
        let before = match seen.before(dead) {
            // It is being reached, and was reached shortly before: the victim of that may be this one.
            Before::Sound(before) if after.oom == before.oom && after.max > before.max => {
                Some(seen.before_growth(dead, |events| events.oom).unwrap_or(before))
            }
            Before::Sound(before) => Some(before),
            Before::Close(before) if after.since(before).oom > 0 => Some(before),
            // Whatever was read when: its limit was never reached since it was made.
            _ if after.oom == 0 => Some(MemoryEvents::default()),
            Before::Close(_) | Before::Unknown => None,
        };
        seen.observe(now, after);
        Some(Level { path: self.path.to_string(), before: before?, after })
    }
}

impl Ancestors {
    /// Opens `dirs`: the directories from `mount`, where cgroup2 is mounted, down to the one that runs are made in.
    #[must_use]
    pub fn open(mount: &Path, dirs: &[PathBuf]) -> Self {
        let opened: Vec<_> = dirs.iter().map(|path| Dir::open(path).ok().map(Arc::new)).collect();
        Self::of(mount, &opened)
    }

    /// `dirs`, the topmost first; `None` stands for one that cannot be opened.
    fn of(mount: &Path, dirs: &[Option<Arc<Dir>>]) -> Self {
        // The host's root alone has no cgroup.events. A namespace's or a container's root looks like one and has.
        let is_root = |dir: &Option<Arc<Dir>>| dir.as_ref().is_some_and(|dir| !dir.has("cgroup.events"));
        let rooted = dirs.first().is_some_and(is_root);
        let below = &dirs[usize::from(rooted)..];
        let whole = rooted && below.iter().all(Option::is_some);
        let ancestor = |dir: &Arc<Dir>| Arc::new(Ancestor::new(mount, Arc::clone(dir), History::default()));
        let chain = below.iter().rev().flatten().map(ancestor).collect();
        Self { mount: mount.to_owned(), chain, whole, host: Mutex::default() }
    }

    /// A slice below them. One that was `made` just now has counted nothing before.
    #[must_use]
    pub fn slice(&self, dir: Arc<Dir>, made: bool) -> Arc<Ancestor> {
        let seen = if made { History::since_ever(MemoryEvents::default()) } else { History::default() };
        Arc::new(Ancestor::new(&self.mount, dir, seen))
    }

    /// The nearest first, without slices.
    #[must_use]
    pub fn chain(&self) -> &[Arc<Ancestor>] {
        &self.chain
    }

    /// Reads them all, for a growth that is to be counted from now on.
    pub fn observe(&self, slice: Option<&Ancestor>, now: Mono) {
        for ancestor in slice.into_iter().chain(self.chain.iter().map(Arc::as_ref)) {
            ancestor.observe(now);
        }
        if let Some(kills) = host_kills() {
            lock(&self.host).observe(now, kills);
        }
    }

    /// What they say of a process that the OOM killer took without a limit of its run's own, and whose death was first
    /// seen at `dead`. `slice` is the one that the run is in.
    #[must_use]
    pub fn read(&self, slice: Option<&Ancestor>, dead: Mono, now: Mono) -> AboveReading {
        let mut complete = self.whole;
        let mut levels = Vec::with_capacity(self.chain.len() + 1);
        for ancestor in slice.into_iter().chain(self.chain.iter().map(Arc::as_ref)) {
            match ancestor.level(dead, now) {
                Some(level) => levels.push(level),
                None => complete = false,
            }
        }
        AboveReading { levels, complete, host: self.host(dead, now) }
    }

    fn host(&self, dead: Mono, now: Mono) -> Option<HostOom> {
        let after = host_kills()?;
        let mut seen = lock(&self.host);
        let before = match seen.before(dead) {
            Before::Sound(before) => Some(before),
            Before::Close(before) => Some(before).filter(|before| *before < after),
            Before::Unknown => None,
        };
        seen.observe(now, after);
        Some(HostOom { before: before?, after })
    }
}

/// `oom_kill` of /proc/vmstat (Linux 4.13): every process that any OOM killer of the host took. No namespace has its own.
fn host_kills() -> Option<u64> {
    oom_kill(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn oom_kill(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Nothing under these locks can panic half-way, so a poisoned one is as good as new.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    /// `/`, `/pinfold`, `/pinfold/workers` and, below it, a slice: with the kernel's text in them.
    struct Host {
        tmp: tempfile::TempDir,
        ancestors: Ancestors,
        slice: Arc<Ancestor>,
    }

    const DIRS: [&str; 3] = ["", "pinfold", "pinfold/workers"];
    const SLICE: &str = "pinfold/workers/web.slice";

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    impl Host {
        fn new() -> Self {
            Self::seen_from(&[], true)
        }

        /// With further files (a namespace's root has cgroup.events), and a slice that is new or was there before.
        fn seen_from(files: &[&str], made: bool) -> Self {
            let tmp = tempfile::tempdir().unwrap();
            fs::create_dir_all(tmp.path().join(SLICE)).unwrap();
            for dir in &DIRS[1..] {
                fs::write(tmp.path().join(dir).join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
            }
            for file in files {
                fs::write(tmp.path().join(file), "populated 1\nfrozen 0\n").unwrap();
            }
            let open = |dir: &str| Arc::new(Dir::on_any_fs(&tmp.path().join(dir)));
            let ancestors = Ancestors::of(tmp.path(), &DIRS.map(|dir| Some(open(dir))));
            let slice = ancestors.slice(open(SLICE), made);
            let host = Self { tmp, ancestors, slice };
            host.counts(["", "pinfold", "pinfold/workers", SLICE].map(|dir| (dir, 0)));
            host
        }

        fn counts<const N: usize>(&self, all: [(&str, u64); N]) {
            for (dir, oom) in all {
                let text = format!("low 0\nhigh 0\nmax {}\noom {oom}\noom_kill 0\noom_group_kill 0\n", oom * 20);
                fs::write(self.tmp.path().join(dir).join("memory.events.local"), text).unwrap();
            }
        }

        fn read(&self, dead: u64) -> AboveReading {
            self.ancestors.read(Some(&self.slice), at(dead), at(dead))
        }

        fn reached(&self, dead: u64) -> Option<String> {
            self.read(dead).reached().map(|level| level.path.clone())
        }
    }

    #[test]
    fn the_levels_are_named_from_the_nearest_up_to_what_is_below_the_hosts_root() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        let reading = host.read(10);
        let paths: Vec<_> = reading.levels.iter().map(|level| level.path.as_str()).collect();
        assert_eq!(paths, ["/pinfold/workers/web.slice", "/pinfold/workers", "/pinfold"]);
        assert!(reading.complete);
    }

    #[test]
    fn a_slice_at_its_limit_is_found_for_every_victim_and_forgotten_after_them() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.counts([(SLICE, 1)]);
        assert_eq!(host.reached(100).as_deref(), Some("/pinfold/workers/web.slice"));
        assert_eq!(host.reached(101).as_deref(), Some("/pinfold/workers/web.slice"), "the second victim");
        assert_eq!(host.reached(300), None, "a kill of the host's, minutes later");
        assert!(host.read(300).complete);
    }

    /// On a busy host the kernel is long about a kill: the lock, the report.
    #[test]
    fn a_slice_still_at_its_limit_is_named_for_a_victim_that_is_killed_seconds_after_the_count() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        let slice = |max| {
            let text = format!("low 0\nhigh 0\nmax {max}\noom 1\noom_kill 0\noom_group_kill 0\n");
            fs::write(host.tmp.path().join(SLICE).join("memory.events.local"), text).unwrap();
        };
        slice(20);
        host.slice.observe(at(50));
        assert_eq!(host.reached(55), None, "it is not at its limit any more: the host's");
        slice(37);
        assert_eq!(host.reached(56).as_deref(), Some("/pinfold/workers/web.slice"));
        slice(50);
        assert_eq!(host.reached(111), None, "that of a minute ago had its victim, or none");
    }

    #[test]
    fn an_oom_that_took_none_of_ours_is_known_to_have_been_before() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.counts([("pinfold", 3)]);
        let pinfold = Arc::clone(host.ancestors.chain().last().unwrap());
        assert_eq!(pinfold.observe(at(50)).unwrap().oom, 3);
        assert_eq!(pinfold.observe(at(51)).unwrap().oom, 0);
        assert_eq!(host.reached(100), None);
    }

    #[test]
    fn in_a_namespace_what_is_above_its_root_is_not_known_and_its_root_is_one_of_the_levels() {
        let host = Host::seen_from(&["cgroup.events"], true);
        host.ancestors.observe(Some(&host.slice), at(1));
        let reading = host.read(100);
        assert_eq!(reading.levels.last().map(|level| level.path.as_str()), Some("/"));
        assert!(!reading.complete);
        host.counts([("", 1)]);
        assert_eq!(host.reached(200).as_deref(), Some("/"));
    }

    #[test]
    fn a_level_that_cannot_be_read_makes_the_reading_incomplete() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        fs::remove_file(host.tmp.path().join("pinfold/memory.events.local")).unwrap();
        let reading = host.read(100);
        assert_eq!((reading.levels.len(), reading.complete), (2, false));

        let missing = Ancestors::of(host.tmp.path(), &[Some(Arc::new(Dir::on_any_fs(host.tmp.path()))), None]);
        assert!(!missing.read(None, at(100), at(100)).complete);
        assert!(!Ancestors::of(host.tmp.path(), &[]).read(None, at(100), at(100)).complete);
    }

    #[test]
    fn a_count_that_was_there_before_us_proves_nothing_about_a_death_just_after_our_start() {
        let host = Host::seen_from(&[], false);
        host.counts([(SLICE, 2)]);
        host.ancestors.observe(Some(&host.slice), at(100));
        let reading = host.read(101);
        assert!(!reading.complete && reading.reached().is_none(), "{reading:?}");
        host.counts([(SLICE, 3)]);
        assert_eq!(host.reached(101).as_deref(), Some("/pinfold/workers/web.slice"), "growth does");
    }

    #[test]
    fn a_limit_that_was_never_reached_is_known_without_an_earlier_reading() {
        let host = Host::seen_from(&[], false);
        let reading = host.read(100);
        assert!(reading.complete && reading.reached().is_none(), "{reading:?}");
    }

    #[test]
    fn the_hosts_kills_are_one_line_among_many() {
        assert_eq!(oom_kill("nr_free_pages 7\noom_kill_ignored 9\noom_kill 12\nswap_ra 0\n"), Some(12));
        assert_eq!(oom_kill("nr_free_pages 7\n"), None);
    }
}
