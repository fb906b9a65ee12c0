//! The cgroups above the runs, from the slice or `ROOT/workers` up to the host's root, and the host itself: whose limit was
//! reached when a run lost a process to the OOM killer without having reached one of its own.
//!
//! ```text
//!   /                       no memory.events: nothing is limited there      /proc/vmstat oom_kill, allocstall
//!   └ system.slice          memory.events.local ─┐
//!     └ pinfold.scope                            ├─ observed at the start, when one of them changes, and at such a kill
//!       └ workers                                │
//!         └ web.slice       ─────────────────────┘
//!           └ api.3         memory.events: oom_kill +1, oom +0
//! ```
//!
//! Between the `oom` of a limit and the kill that it asked for the kernel waits for a lock and writes its report: seconds,
//! minutes where a hundred limits are reached at once. Such a kill is told from one of the host's by what else was counted
//! since: `max`, where the limit is still being reached, or `allocstall_*`, which the host cannot run out of memory without.
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
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    events: History<MemoryEvents>,
    /// How many runs were told to have ended of its limit.
    victims: History<u64>,
}

impl Seen {
    /// Whether its limit has asked for more kills lately than it was told to have had victims.
    fn owes(&self, dead: Mono, oom: u64) -> bool {
        let asked = oom - self.events.oldest_for(dead).map_or(oom, |events| events.oom.min(oom));
        let had = self.victims.last().unwrap_or(0) - self.victims.oldest_for(dead).unwrap_or(0);
        asked > had
    }
}

/// The cgroups above a directory that runs or slices are made in.
#[derive(Debug)]
pub struct Ancestors {
    mount: PathBuf,
    /// The nearest first.
    chain: Vec<Arc<Ancestor>>,
    /// Whether the chain ends below the host's root, and nothing in it is missing.
    whole: bool,
    vmstat: PathBuf,
    host: Mutex<History<HostWide>>,
}

/// What /proc/vmstat counts. No namespace has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostWide {
    /// `oom_kill` (Linux 4.13): the processes that any OOM killer of the host took.
    kills: u64,
    /// `allocstall_*` together: how often an allocation had to reclaim memory of the host itself. Reclaim at a cgroup's limit
    /// is not counted (`do_try_to_free_pages` in `mm/vmscan.c`), and no OOM of the host comes without: an allocation
    /// tries this first (`__alloc_pages_slowpath` in `mm/page_alloc.c`).
    stalls: u64,
}

impl Ancestor {
    fn new(mount: &Path, dir: Arc<Dir>, seen: History<MemoryEvents>) -> Self {
        let below = dir.path().strip_prefix(mount).unwrap_or(dir.path());
        let path = format!("/{}", below.display()).into();
        Self { dir, path, seen: Mutex::new(Seen { events: seen, victims: History::since_ever(0) }) }
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
        let grown = events.since(seen.events.last().unwrap_or(events));
        seen.events.observe(now, events);
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
    /// `calm` says whether the host has had memory since a moment.
    fn level(&self, dead: Mono, now: Mono, calm: impl Fn(Mono) -> bool) -> Option<Level> {
        let after = self.read()?;
        let mut seen = lock(&self.seen);
        let before = match seen.events.before(dead) {
            // It was reached before, and still is being, or nobody else can have asked for this kill.
            Before::Sound(before) if after.oom == before.oom => {
                let growth = seen.events.before_growth(dead, |events| events.oom);
                let due = |grown_at| after.max > before.max || (seen.owes(dead, after.oom) && calm(grown_at));
                Some(growth.filter(|(grown_at, _)| due(*grown_at)).map_or(before, |(_, earlier)| earlier))
            }
            Before::Sound(before) => Some(before),
            Before::Close(before) if after.since(before).oom > 0 => Some(before),
            // Whatever was read when: its limit was never reached since it was made.
            _ if after.oom == 0 => Some(MemoryEvents::default()),
            Before::Close(_) | Before::Unknown => None,
        };
        seen.events.observe(now, after);
        if before.is_some_and(|before| after.oom > before.oom) {
            let victims = seen.victims.last().unwrap_or(0) + 1;
            seen.victims.observe(dead, victims);
        }
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
        Self { mount: mount.to_owned(), chain, whole, vmstat: "/proc/vmstat".into(), host: Mutex::default() }
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
        self.observe_host(now);
    }

    /// Reads what is counted for the whole host.
    pub fn observe_host(&self, now: Mono) {
        if let Some(host) = self.read_host() {
            lock(&self.host).observe(now, host);
        }
    }

    /// What they say of a process that the OOM killer took without a limit of its run's own, and whose death was first
    /// seen at `dead`. `slice` is the one that the run is in.
    #[must_use]
    pub fn read(&self, slice: Option<&Ancestor>, dead: Mono, now: Mono) -> AboveReading {
        let host = self.read_host();
        let calm =
            |since| host.is_some_and(|now| lock(&self.host).at(since).is_some_and(|then| then.stalls == now.stalls));
        let mut complete = self.whole;
        let mut levels = Vec::with_capacity(self.chain.len() + 1);
        for ancestor in slice.into_iter().chain(self.chain.iter().map(Arc::as_ref)) {
            match ancestor.level(dead, now, calm) {
                Some(level) => levels.push(level),
                None => complete = false,
            }
        }
        let host = host.and_then(|host| self.host_oom(host, dead, now));
        AboveReading { levels, complete, host }
    }

    fn host_oom(&self, after: HostWide, dead: Mono, now: Mono) -> Option<HostOom> {
        let mut seen = lock(&self.host);
        let before = match seen.before(dead) {
            Before::Sound(before) => Some(before.kills),
            Before::Close(before) => Some(before.kills).filter(|before| *before < after.kills),
            Before::Unknown => None,
        };
        seen.observe(now, after);
        Some(HostOom { before: before?, after: after.kills })
    }

    fn read_host(&self) -> Option<HostWide> {
        host(&std::fs::read_to_string(&self.vmstat).ok()?)
    }
}

fn host(vmstat: &str) -> Option<HostWide> {
    let counters = vmstat.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse::<u64>().ok()?))
    });
    let kills = counters.clone().find_map(|(name, value)| (name == "oom_kill").then_some(value))?;
    let stalls = counters.filter(|(name, _)| name.starts_with("allocstall")).map(|(_, value)| value);
    Some(HostWide { kills, stalls: stalls.fold(0, u64::saturating_add) })
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
            let mut ancestors = Ancestors::of(tmp.path(), &DIRS.map(|dir| Some(open(dir))));
            ancestors.vmstat = tmp.path().join("vmstat");
            let slice = ancestors.slice(open(SLICE), made);
            let host = Self { tmp, ancestors, slice };
            host.counts(["", "pinfold", "pinfold/workers", SLICE].map(|dir| (dir, 0)));
            host.stalls(1);
            host
        }

        fn counts<const N: usize>(&self, all: [(&str, u64); N]) {
            for (dir, oom) in all {
                let text = format!("low 0\nhigh 0\nmax {}\noom {oom}\noom_kill 0\noom_group_kill 0\n", oom * 20);
                fs::write(self.tmp.path().join(dir).join("memory.events.local"), text).unwrap();
            }
        }

        fn stalls(&self, times: u64) {
            fs::write(self.tmp.path().join("vmstat"), format!("allocstall_normal {times}\noom_kill 3\n")).unwrap();
        }

        /// With one `oom`.
        fn max_of_slice(&self, max: u64) {
            let text = format!("low 0\nhigh 0\nmax {max}\noom 1\noom_kill 0\noom_group_kill 0\n");
            fs::write(self.tmp.path().join(SLICE).join("memory.events.local"), text).unwrap();
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
        host.max_of_slice(20);
        host.slice.observe(at(50));
        host.stalls(2);
        assert_eq!(host.reached(55), None, "it is not at its limit any more: the host's");
        host.max_of_slice(37);
        assert_eq!(host.reached(56).as_deref(), Some("/pinfold/workers/web.slice"));
        host.max_of_slice(50);
        assert_eq!(host.reached(351), None, "that of minutes ago had its victim, or none");
    }

    /// Whoever reached the limit stands still until the kill, so that its `max` does.
    #[test]
    fn a_slice_is_named_for_a_victim_of_minutes_later_where_the_host_has_had_memory_since() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.max_of_slice(20);
        host.slice.observe(at(50));
        assert_eq!(host.reached(200).as_deref(), Some("/pinfold/workers/web.slice"));
        assert_eq!(host.reached(210), None, "it has had its victim: whoever asked for this one, it was not the slice");
    }

    #[test]
    fn every_kill_that_a_limit_asked_for_has_its_victim_however_late() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.counts([(SLICE, 2)]);
        let slice = Some("/pinfold/workers/web.slice");
        assert_eq!((host.reached(50).as_deref(), host.reached(90).as_deref()), (slice, slice));
        assert_eq!(host.reached(130), None);
        host.counts([(SLICE, 3)]);
        host.slice.observe(at(140));
        assert_eq!(host.reached(200).as_deref(), slice);
        assert_eq!(host.reached(230), None);
    }

    #[test]
    fn a_host_that_was_short_of_memory_before_the_limit_was_reached_is_not_blamed_for_it() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.stalls(2);
        host.max_of_slice(20);
        host.ancestors.observe(Some(&host.slice), at(50));
        assert_eq!(host.reached(60).as_deref(), Some("/pinfold/workers/web.slice"));
    }

    #[test]
    fn an_oom_that_took_none_of_ours_is_known_to_have_been_before() {
        let host = Host::new();
        host.ancestors.observe(Some(&host.slice), at(1));
        host.counts([("pinfold", 3)]);
        let pinfold = Arc::clone(host.ancestors.chain().last().unwrap());
        assert_eq!(pinfold.observe(at(50)).unwrap().oom, 3);
        assert_eq!(pinfold.observe(at(51)).unwrap().oom, 0);
        host.stalls(2);
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
    fn the_hosts_kills_and_stalls_are_a_few_lines_among_many() {
        let text =
            "nr_free_pages 7\nallocstall_dma 1\nallocstall_movable 4\noom_kill_ignored 9\noom_kill 12\nswap_ra 0\n";
        assert_eq!(host(text), Some(HostWide { kills: 12, stalls: 5 }));
        assert_eq!(host("nr_free_pages 7\n"), None);
    }
}
