//! Where our tree of cgroups lives. This module finds out where we are and decides; [`mod@settle`] makes the tree there,
//! [`scope`] asks systemd for a place of our own, [`record`] remembers the place and locks it.
//!
//! ```text
//!   --cgroup-root PATH ─────────────────────────────▶ Named
//!   recorded, same boot, still there ───────────────▶ Recorded
//!   systemd manages the host ───────────────────────▶ Scope      (not where we are in a delegated scope already)
//!   our own cgroup was delegated to us ─────────────▶ Delegated  (marked, writable, or a namespace's root)
//!   root ───────────────────────────────────────────▶ Top        <v2 mount>/pinfold
//!   else                                              an error with the command that gives a place
//! ```
//!
//! The rules: strangers are never moved, nothing outside the place is written, and the host root's
//! `cgroup.subtree_control` only where no systemd owns it.

use std::{
    fmt,
    io::BufReader,
    path::{Path, PathBuf},
};

use procfs::{
    FromBufRead, ProcessCGroups,
    process::{MountInfo, MountInfos},
};

use super::cgroup::{Dir, DirError};

pub mod claim;
pub mod record;
pub mod scope;
pub mod settle;

pub use claim::{Claimant, Claimed, claim};
pub use settle::{Leaf, Tree, settle, settle_beside, withheld};

/// Name of our directory where we make it ourselves.
const OWN_NAME: &str = "pinfold";

/// The cgroup2 file system we work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Which cgroup is at that path: `/`, but for bind mounts and foreign namespaces.
    pub root: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Whether namespaces are delegation boundaries (cgroups(7), `nsdelegate`).
    pub nsdelegate: bool,
    /// Whether v1 hierarchies are mounted beside it.
    pub hybrid: bool,
}

/// Why there is no place for us.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No cgroup2 at all.
    #[error(
        "no cgroup2 file system is mounted: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`, or boot with \
         systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    /// It is there and shows another part of the hierarchy than the one we are in.
    #[error("the cgroup2 file system at {mount} does not show our own cgroup {own}; name a place with --cgroup-root")]
    Foreign {
        /// The mount point.
        mount: PathBuf,
        /// `0::` of `/proc/self/cgroup`.
        own: String,
    },
    /// Nothing is ours to write.
    #[error(
        "no cgroup is delegated to this user ({own} is not writable); start with `systemd-run --user -p Delegate=yes \
         --scope pinfold …`, or as root"
    )]
    NotDelegated {
        /// Our own cgroup.
        own: PathBuf,
    },
    /// Somebody else's processes sit where controllers would have to be enabled.
    #[error(
        "controllers cannot be enabled in {dir}: {} sit there; start in a cgroup of your own: \
         `systemd-run --user -p Delegate=yes --scope pinfold …`",
        list(.strangers)
    )]
    Strangers {
        /// The cgroup.
        dir: PathBuf,
        /// They.
        strangers: Vec<Process>,
    },
    /// A read-only cgroupfs lets us start (`CLONE_INTO_CGROUP` works) what we could not kill.
    #[error(
        "{dir} is read-only: what is started there could not be killed; mount it writable (a container: \
         `-v /sys/fs/cgroup:/sys/fs/cgroup:rw --cgroupns=private`)"
    )]
    ReadOnly {
        /// The cgroup.
        dir: PathBuf,
    },
    /// `cgroup.kill` is missing: Linux before 5.14.
    #[error("this kernel has no cgroup.kill: Linux 5.14 or newer is needed")]
    TooOld,
    /// A system call failed.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// `/proc` cannot be read.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// systemd did not give a scope.
    #[error(transparent)]
    Scope(#[from] scope::ScopeError),
}

/// A process in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number; 0 for one of another pid namespace.
    pub pid: i32,
    /// `/proc/PID/comm`.
    pub comm: String,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Self {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, comm: comm.trim_end().to_owned() }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.comm.as_str()) {
            (0, _) => f.write_str("a process of another pid namespace"),
            (pid, "") => write!(f, "pid {pid}"),
            (pid, comm) => write!(f, "{comm} (pid {pid})"),
        }
    }
}

/// At most five of them by name.
pub(crate) fn list(processes: &[Process]) -> String {
    let mut text = processes.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if processes.len() > 5 {
        text.push_str(", …");
    }
    if text.is_empty() { "processes".to_owned() } else { text }
}

/// What the decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The file system.
    pub mount: Mount,
    /// `0::` of `/proc/self/cgroup`.
    pub own: String,
    /// The directory of that.
    pub own_dir: PathBuf,
    /// Whether we run as root (effective).
    pub root: bool,
    /// Whether systemd manages this host: `/run/systemd/system` is there (`sd_booted(3)`).
    pub systemd: bool,
    /// Whether `own_dir`, its `cgroup.procs` and `cgroup.subtree_control` can be written.
    pub writable: bool,
    /// Whether systemd marked `own_dir` as delegated (extended attribute `user.delegate` or `trusted.delegate`).
    pub marked: bool,
    /// Whether `own_dir` is the host's root cgroup.
    pub real_root: bool,
    /// The directory from which on down to `own_dir` everything is ours to write: `own_dir` itself, or, for an
    /// unprivileged user without systemd, the top of what was delegated. A shell sits in a leaf of that, and only at the
    /// top can controllers be passed on past it.
    pub delegated: PathBuf,
}

/// The place chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The user said so.
    Named(PathBuf),
    /// Where we were before.
    Recorded(PathBuf),
    /// A scope of our own has to be asked for.
    Scope {
        /// Of the user's manager instead of the system's.
        user: bool,
        /// Our own process stays where it is, because it is a service's.
        stay: bool,
    },
    /// Our own cgroup.
    Delegated(PathBuf),
    /// A directory of our own at the top.
    Top(PathBuf),
}

impl Situation {
    /// Looks around.
    ///
    /// # Errors
    /// Where there is no cgroup2 or our own cgroup cannot be seen in it.
    pub fn of_this_process() -> Result<Self, PlaceError> {
        let mounts: MountInfos = proc_file("/proc/self/mountinfo")?;
        let cgroups: ProcessCGroups = proc_file("/proc/self/cgroup")?;
        let mount = find_mount(&mounts).ok_or(PlaceError::NoCgroup2)?;
        let own = own_path(&cgroups).ok_or(PlaceError::NoCgroup2)?;
        let own_dir =
            locate(&mount, &own).ok_or_else(|| PlaceError::Foreign { mount: mount.path.clone(), own: own.clone() })?;
        let dir = Dir::open(&own_dir)?;
        let mark = |name| matches!(dir.raw_xattr(name), Ok(Some(v)) if v == b"1");
        let root = rustix::process::geteuid().is_root();
        let delegated = if root { own_dir.clone() } else { top_of_ours(&mount.path, &own_dir) };
        Ok(Self {
            root,
            systemd: Path::new("/run/systemd/system").is_dir(),
            writable: is_ours(&dir),
            marked: mark("user.delegate") || mark("trusted.delegate"),
            real_root: !dir.has("cgroup.events"),
            mount,
            own,
            own_dir,
            delegated,
        })
    }

    /// Decides. `named` is `--cgroup-root`; `recorded` is the place of this state directory, known to be alive.
    ///
    /// # Errors
    /// [`PlaceError::NotDelegated`] where nothing is ours.
    pub fn plan(&self, named: Option<&Path>, recorded: Option<&Path>) -> Result<Plan, PlaceError> {
        if let Some(path) = named {
            return Ok(Plan::Named(path.to_owned()));
        }
        if let Some(path) = recorded {
            return Ok(Plan::Recorded(path.to_owned()));
        }
        let unit = unit_of(&self.own);
        if self.systemd {
            return Ok(match unit {
                // Below a service the tree could not outlive it: a scope stands beside it.
                Some(unit) if is_kind(unit, "scope") && self.marked && self.writable => {
                    Plan::Delegated(self.own_dir.clone())
                }
                unit => Plan::Scope { user: !self.root, stay: unit.is_some_and(|u| is_kind(u, "service")) },
            });
        }
        let namespace_root = self.own == "/" && !self.real_root;
        if self.writable && !self.real_root && (!self.root || self.marked || namespace_root) {
            return Ok(Plan::Delegated(self.delegated.clone()));
        }
        if self.root {
            return Ok(Plan::Top(self.top()));
        }
        Err(PlaceError::NotDelegated { own: self.own_dir.clone() })
    }

    /// `<v2 mount>/pinfold`.
    #[must_use]
    pub fn top(&self) -> PathBuf {
        self.mount.path.join(OWN_NAME)
    }
}

/// What makes a cgroup ours to work in (Linux Documentation/admin-guide/cgroup-v2.rst, "Delegation").
fn is_ours(dir: &Dir) -> bool {
    ["", "cgroup.procs", "cgroup.subtree_control"].iter().all(|f| dir.writable(f))
}

/// The highest directory on the way from `own` up to `mount` below which nothing but ours is passed.
fn top_of_ours(mount: &Path, own: &Path) -> PathBuf {
    let ours = |path: &&Path| Dir::open(path).is_ok_and(|dir| is_ours(&dir));
    let above = own.ancestors().take_while(|a| a.starts_with(mount)).take_while(ours).last();
    above.unwrap_or(own).to_owned()
}

/// The cgroup2 mount to use: one that shows the whole hierarchy before one that shows a part.
#[must_use]
pub fn find_mount(mounts: &MountInfos) -> Option<Mount> {
    let rank = |m: &&MountInfo| (m.root != "/", !m.mount_point.starts_with("/sys/fs/cgroup"), m.mnt_id);
    let found = mounts.iter().filter(|m| m.fs_type == "cgroup2").min_by_key(rank)?;
    Some(Mount {
        path: found.mount_point.clone(),
        root: found.root.clone(),
        read_only: found.mount_options.contains_key("ro") || found.super_options.contains_key("ro"),
        nsdelegate: found.super_options.contains_key("nsdelegate"),
        hybrid: mounts.iter().any(|m| m.fs_type == "cgroup"),
    })
}

/// Our own cgroup of version 2.
fn own_path(cgroups: &ProcessCGroups) -> Option<String> {
    cgroups.0.iter().find(|c| c.hierarchy == 0 && c.controllers.is_empty()).map(|c| c.pathname.clone())
}

/// Where cgroup `own` is found below `mount`. `None` where the mount does not show it.
#[must_use]
pub fn locate(mount: &Mount, own: &str) -> Option<PathBuf> {
    let own = own.trim_end_matches(" (deleted)");
    if own.starts_with("/..") || mount.root.starts_with("/..") {
        return None;
    }
    let below = Path::new(own).strip_prefix(&mount.root).ok()?;
    Some(if below.as_os_str().is_empty() { mount.path.clone() } else { mount.path.join(below) })
}

/// The systemd unit that cgroup `own` belongs to: the first part that is no slice. Below a user's manager it is the
/// user's unit.
#[must_use]
pub fn unit_of(own: &str) -> Option<&str> {
    let is_unit = |p: &&str| {
        let manager = p.starts_with("user@") && is_kind(p, "service");
        !p.is_empty() && !is_kind(p, "slice") && !manager
    };
    let unit = own.split('/').find(is_unit)?;
    (is_kind(unit, "service") || is_kind(unit, "scope")).then_some(unit)
}

fn is_kind(unit: &str, kind: &str) -> bool {
    Path::new(unit).extension().is_some_and(|e| e == kind)
}

/// Reads and parses a file of `/proc`.
pub(crate) fn proc_file<T: FromBufRead>(path: &'static str) -> Result<T, PlaceError> {
    let file = std::fs::File::open(path).map_err(|e| PlaceError::Proc { path, source: Box::new(e) })?;
    T::from_buf_read(BufReader::new(file)).map_err(|e| PlaceError::Proc { path, source: Box::new(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(text: &str) -> MountInfos {
        MountInfos::from_buf_read(text.as_bytes()).unwrap()
    }

    fn pure_v2() -> Mount {
        Mount { path: "/sys/fs/cgroup".into(), root: "/".into(), read_only: false, nsdelegate: true, hybrid: false }
    }

    /// Root in a plain login shell of a systemd host.
    fn shell() -> Situation {
        Situation {
            mount: pure_v2(),
            own: "/user.slice/user-0.slice/session-3.scope".into(),
            own_dir: "/sys/fs/cgroup/user.slice/user-0.slice/session-3.scope".into(),
            root: true,
            systemd: true,
            writable: true,
            marked: false,
            real_root: false,
            delegated: "/sys/fs/cgroup/user.slice/user-0.slice/session-3.scope".into(),
        }
    }

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let hybrid = mounts(
            "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        let found = find_mount(&hybrid).unwrap();
        assert_eq!(found.path, Path::new("/sys/fs/cgroup/unified"));
        assert!(found.hybrid && found.nsdelegate && !found.read_only);

        let bound_twice = mounts(
            "31 30 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
             33 30 0:27 / /mnt/cg ro,relatime - cgroup2 cgroup rw\n",
        );
        let found = find_mount(&bound_twice).unwrap();
        assert_eq!((found.path.to_str(), found.read_only), (Some("/mnt/cg"), true), "the whole before a part");
        assert_eq!(find_mount(&mounts("30 24 0:26 / / rw - ext4 /dev/sda rw\n")), None);
    }

    #[test]
    fn our_own_cgroup_is_located_through_bind_mounts_and_not_in_foreign_namespaces() {
        let bound = Mount { root: "/docker/abc".into(), ..pure_v2() };
        assert_eq!(locate(&bound, "/docker/abc/x"), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(locate(&bound, "/docker/abc"), Some("/sys/fs/cgroup".into()));
        assert_eq!(locate(&bound, "/system.slice"), None);
        assert_eq!(locate(&pure_v2(), "/../other"), None);
        assert_eq!(locate(&Mount { root: "/../..".into(), ..pure_v2() }, "/"), None);
    }

    #[test]
    fn the_unit_is_the_first_part_that_is_no_slice() {
        for (own, unit) in [
            ("/system.slice/pinfold.service", Some("pinfold.service")),
            ("/system.slice/pinfold.scope/workers/a.1", Some("pinfold.scope")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/run-7.service", Some("run-7.service")),
            ("/", None),
            ("/pinfold/keeper", None),
        ] {
            assert_eq!(unit_of(own), unit, "{own}");
        }
    }

    #[test]
    fn on_a_systemd_host_we_ask_for_a_scope_of_our_own() {
        assert_eq!(shell().plan(None, None).unwrap(), Plan::Scope { user: false, stay: false });
        let service = Situation { own: "/system.slice/pinfold.service".into(), marked: true, ..shell() };
        assert_eq!(
            service.plan(None, None).unwrap(),
            Plan::Scope { user: false, stay: true },
            "also where the service is delegated: below it the tree could not outlive it"
        );
        let user = Situation { root: false, writable: false, ..shell() };
        assert_eq!(user.plan(None, None).unwrap(), Plan::Scope { user: true, stay: false });
    }

    #[test]
    fn a_delegated_scope_is_place_enough() {
        let scope = Situation { own: "/system.slice/run-r1.scope".into(), marked: true, ..shell() };
        assert_eq!(scope.plan(None, None).unwrap(), Plan::Delegated(scope.own_dir.clone()));
        let not_marked = Situation { marked: false, ..scope };
        assert!(matches!(not_marked.plan(None, None).unwrap(), Plan::Scope { .. }));
    }

    #[test]
    fn without_systemd_the_delegated_cgroup_comes_before_the_top() {
        let bare = Situation {
            systemd: false,
            own: "/jobs/7".into(),
            own_dir: "/cg/jobs/7".into(),
            delegated: "/cg/jobs/7".into(),
            ..shell()
        };
        assert_eq!(bare.plan(None, None).unwrap(), Plan::Top("/sys/fs/cgroup/pinfold".into()));
        let marked = Situation { marked: true, ..bare.clone() };
        assert_eq!(marked.plan(None, None).unwrap(), Plan::Delegated("/cg/jobs/7".into()));
        let user = Situation { root: false, ..bare.clone() };
        assert_eq!(user.plan(None, None).unwrap(), Plan::Delegated("/cg/jobs/7".into()));
        let beside_a_shell = Situation { delegated: "/cg/jobs".into(), ..user.clone() };
        assert_eq!(beside_a_shell.plan(None, None).unwrap(), Plan::Delegated("/cg/jobs".into()), "the top of ours");
        let container = Situation {
            own: "/".into(),
            own_dir: "/sys/fs/cgroup".into(),
            delegated: "/sys/fs/cgroup".into(),
            ..bare.clone()
        };
        assert_eq!(container.plan(None, None).unwrap(), Plan::Delegated("/sys/fs/cgroup".into()));
        let host_root = Situation { real_root: true, ..container };
        assert_eq!(host_root.plan(None, None).unwrap(), Plan::Top("/sys/fs/cgroup/pinfold".into()));
        let nobody = Situation { root: false, writable: false, ..bare };
        let err = nobody.plan(None, None).unwrap_err();
        assert!(err.to_string().contains("systemd-run --user -p Delegate=yes"), "{err}");
    }

    #[test]
    fn the_users_word_goes_before_the_record_and_the_record_before_everything_else() {
        let (named, recorded) = (Path::new("/cg/named"), Path::new("/cg/recorded"));
        assert_eq!(shell().plan(Some(named), Some(recorded)).unwrap(), Plan::Named(named.into()));
        assert_eq!(shell().plan(None, Some(recorded)).unwrap(), Plan::Recorded(recorded.into()));
    }

    #[test]
    fn those_in_the_way_are_named() {
        let strangers = vec![Process { pid: 7, comm: "bash".into() }, Process { pid: 0, comm: String::new() }];
        let err = PlaceError::Strangers { dir: "/sys/fs/cgroup".into(), strangers };
        assert_eq!(
            err.to_string(),
            "controllers cannot be enabled in /sys/fs/cgroup: bash (pid 7), a process of another pid namespace sit \
             there; start in a cgroup of your own: `systemd-run --user -p Delegate=yes --scope pinfold …`"
        );
    }
}
