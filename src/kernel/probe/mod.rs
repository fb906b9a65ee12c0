//! What this host and our delegation allow, found out by trying: no version number is compared, because vendors
//! backport and containers forbid. `report` judges the facts; `cli::doctor` prints the judgement.

#![expect(unsafe_code, reason = "one ioctl(2) that no crate wraps")]

use crate::model::chain;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
};

use caps::{CapSet, Capability};

use super::{
    cgroup::{Controller, Namespace, Withheld, events, kill},
    launch::selftest,
    place::{Mount, PlaceError, Situation, Tree},
    pressure::trigger::Privilege,
};

mod report;
#[cfg(test)]
pub(crate) mod samples;

pub use report::report;

/// The capabilities that the supervisor makes use of when it runs as root, and for what.
const USEFUL: [(Capability, &str); 7] = [
    (Capability::CAP_SETUID, "user: of a worker"),
    (Capability::CAP_SETGID, "group: of a worker"),
    (Capability::CAP_CHOWN, "output pipes that a worker of another user can reopen"),
    (Capability::CAP_KILL, "signals to workers of other users"),
    (Capability::CAP_SYS_RESOURCE, "limits.process above our own, oom_score_adj below our own"),
    (Capability::CAP_SYS_NICE, "nice below 0"),
    (Capability::CAP_SYS_ADMIN, "records that no worker can forge"),
];

/// Everything that was found out.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `uname -r`, for people only.
    pub kernel: String,
    /// systemd's version where it manages this host, for people only.
    pub systemd: Option<String>,
    /// Whether we are root.
    pub root: bool,
    /// The cgroup2 mount.
    pub mount: Option<Mount>,
    /// Our own cgroup at the start: `0::` of `/proc/self/cgroup`.
    pub own: Option<String>,
    /// Our place, or why there is none.
    pub place: Result<Place, String>,
    /// Launching: three tries, or why none could be made.
    pub launch: Result<Launch, String>,
    /// `pidfd_open(2)`.
    pub pidfd: bool,
    /// Whether a pidfd tells the status of a process that somebody else reaped (`PIDFD_INFO_EXIT`).
    pub pidfd_exit_info: bool,
    /// Pressure stall information.
    pub pressure: Pressure,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: Option<u64>,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: Option<u64>,
    /// Whether an inotify instance is to be had now.
    pub inotify: Result<(), String>,
    /// The hard limit of open files.
    pub open_files: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// As root: the useful capabilities that we do not have, and for what.
    pub lacking: Vec<(String, &'static str)>,
}

/// What our place is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// ROOT.
    pub root: PathBuf,
    /// The controllers that are missing.
    pub withheld: Vec<Withheld>,
    /// Which extended attributes work.
    pub xattrs: Namespace,
    /// The optional files of a run's cgroup.
    pub files: Files,
    /// Removed cgroups that still hold memory.
    pub dying: u64,
}

/// Files that depend on the kernel's age. Meaningless where their controller is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// `memory.peak`.
    pub memory_peak: bool,
    /// `memory.swap.max`.
    pub swap_max: bool,
    /// `cpu.max.burst`.
    pub cpu_burst: bool,
    /// `pids.events.local`.
    pub pids_events_local: bool,
}

/// How clone3(2) into a cgroup went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// From here into a fresh cgroup.
    pub into_cgroup: Result<(), String>,
    /// Into one that saw a kill.
    pub after_target_kill: Result<(), String>,
    /// From one that saw a kill.
    pub after_own_kill: Result<(), String>,
}

/// Pressure stall information and its triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// The files can be read.
    pub readable: bool,
    /// A trigger with a window of two seconds is accepted without a privilege: it costs next to nothing.
    pub plain: bool,
    /// One with a window of one second is, with what privilege we have.
    pub any_window: bool,
}

impl Facts {
    /// Looks around and tries. `tree` is our place, made by the caller (`place::claim` or `place::settle`), who takes
    /// it down again; nothing of what is tried in it remains. `Err` is why there is none.
    #[must_use]
    pub fn gather(situation: Option<&Situation>, tree: Result<&Tree, &PlaceError>) -> Self {
        let root = rustix::process::geteuid().is_root();
        let place = tree.map_err(|e| chain(e)).and_then(|tree| Place::of(tree).map_err(|e| chain(&e)));
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            systemd: situation.is_some_and(|s| s.systemd).then(systemd_version),
            root,
            mount: situation.map(|s| s.mount.clone()),
            own: situation.map(|s| s.own.clone()),
            launch: match tree {
                Ok(tree) => Launch::of(tree).map_err(|e| e.to_string()),
                Err(_) => Err("it can be tried only in a place of our own".to_owned()),
            },
            place,
            pidfd: super::pidfd::open(rustix::process::getpid().as_raw_nonzero().get()).is_ok(),
            pidfd_exit_info: exit_info().unwrap_or(false),
            pressure: Pressure::of(tree.ok()),
            inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
            inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
            inotify: inotify::Inotify::init().map(drop).map_err(|e| e.to_string()),
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX),
            swap: swap_bytes(),
            lacking: if root { lacking() } else { Vec::new() },
        }
    }
}

impl Place {
    fn of(tree: &Tree) -> Result<Self, super::cgroup::DirError> {
        let name = format!("doctor-{}", std::process::id());
        let dir = tree.workers.create(&name)?;
        let files = Files {
            memory_peak: dir.has("memory.peak"),
            swap_max: dir.has("memory.swap.max"),
            cpu_burst: dir.has("cpu.max.burst"),
            pids_events_local: dir.has("pids.events.local"),
        };
        kill::kill(&dir)?;
        kill::remove(&tree.workers, &name)?;
        Ok(Self {
            root: tree.root.path().to_owned(),
            withheld: tree.withheld.clone(),
            xattrs: tree.xattrs,
            files,
            dying: events::dying_descendants(&tree.root)?,
        })
    }

    /// Whether runs have `controller`.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.withheld.iter().all(|w| w.controller != controller)
    }
}

impl Launch {
    fn of(tree: &Tree) -> io::Result<Self> {
        let tested = selftest::run(tree.aux.path())?;
        Ok(Self {
            into_cgroup: tested.into_cgroup,
            after_target_kill: tested.after_target_kill,
            after_own_kill: tested.after_own_kill,
        })
    }
}

impl Pressure {
    /// In our place, because elsewhere the file may belong to somebody else.
    fn of(tree: Option<&Tree>) -> Self {
        let file = match tree {
            Some(tree) => tree.workers.path().join("cpu.pressure"),
            None => PathBuf::from("/proc/pressure/cpu"),
        };
        let trigger = |window: u32| {
            let open = std::fs::File::options().read(true).write(true).open(&file);
            // The trigger lives until the file is closed.
            open.and_then(|mut f| io::Write::write_all(&mut f, format!("some 150000 {window}\0").as_bytes())).is_ok()
        };
        // In a thread of its own, which loses the privilege half-way.
        let tried = std::thread::scope(|scope| {
            let trial = scope.spawn(|| {
                let any_window = trigger(1_000_000);
                let _aside = Privilege::put_aside();
                (trigger(2_000_000), any_window)
            });
            trial.join()
        });
        let (plain, any_window) = tried.unwrap_or((false, false));
        Self { readable: std::fs::read(&file).is_ok(), plain, any_window }
    }
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sizes in `/proc/swaps` are KiB.
fn swap_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let sizes = text.lines().skip(1).filter_map(|l| l.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    sizes.sum::<u64>() * 1024
}

fn systemd_version() -> String {
    let output = Command::new("systemctl").arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).unwrap_or("of unknown version").to_owned()
}

fn lacking() -> Vec<(String, &'static str)> {
    // Where they cannot even be read, none is taken for lacking.
    let has = |c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(true);
    USEFUL.into_iter().filter(|(c, _)| !has(*c)).map(|(c, what)| (c.to_string(), what)).collect()
}

/// `struct pidfd_info` of linux/pidfd.h in its first, shortest form.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: u32 = 0xC000_FF0B | (PIDFD_INFO_SIZE << 16);
/// `PIDFD_INFO_SIZE_VER0`.
const PIDFD_INFO_SIZE: u32 = 64;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// Lets a child end, reaps it, and asks its pidfd how it ended.
fn exit_info() -> io::Result<bool> {
    let mut child = Command::new("/bin/sh").args(["-c", "exit 7"]).stdin(Stdio::null()).spawn()?;
    let pidfd = i32::try_from(child.id()).map_err(io::Error::other).and_then(super::pidfd::open);
    child.wait()?;
    let info = get_info(&pidfd?)?;
    Ok(info.mask & PIDFD_INFO_EXIT != 0 && info.exit_code == 7 << 8)
}

fn get_info(pidfd: &OwnedFd) -> io::Result<PidfdInfo> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes at most the size that is encoded in the request: that of `info`, which is plain data.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO.into(), &raw mut info) };
    if done == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_number_is_the_kernels() {
        assert_eq!(u32::try_from(size_of::<PidfdInfo>()), Ok(PIDFD_INFO_SIZE));
        assert_eq!(PIDFD_GET_INFO, 0xC040_FF0B);
    }

    #[test]
    fn facts_are_gathered_even_where_there_is_no_place() {
        let no_place = PlaceError::NotDelegated { own: "/sys/fs/cgroup/x".into() };
        let facts = Facts::gather(None, Err(&no_place));
        assert!(facts.place.unwrap_err().starts_with("no cgroup is delegated to this user (/sys/fs/cgroup/x"));
        assert!(facts.launch.is_err());
        assert!(!facts.kernel.is_empty());
        assert!(facts.open_files > 0);
        assert!(facts.inotify_watches.is_some());
    }
}
