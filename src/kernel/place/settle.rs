//! Our tree, made in the place that was found: leaves for ourselves, directories for the runs, and the controllers
//! enabled down to them. Doing it again changes nothing.
//!
//! ```text
//! ROOT ─┬─ keeper  supervisor  logger     our own processes, because a cgroup that has processes passes nothing on
//!       ├─ workers/[SLICE.slice/]ID.RUN
//!       ├─ aux/ID.RUN.N
//!       └─ runs/…
//! ```

use std::path::{Path, PathBuf};

use procfs::{CGroupControllers, process::MountInfos};
use rustix::io::Errno;

use super::{PlaceError, Process, Situation, list, proc_file};
use crate::kernel::cgroup::{
    Controller, Dir, DirError, Namespace, Why, Withheld, controller::Lineage, kill, limits::Host,
};

/// One of our own leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the processes'")]
pub enum Leaf {
    Keeper,
    Supervisor,
    Logger,
}

impl Leaf {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Keeper, Self::Supervisor, Self::Logger];

    /// The directory's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Supervisor => "supervisor",
            Self::Logger => "logger",
        }
    }
}

/// Our tree, ready for runs.
#[derive(Debug)]
pub struct Tree {
    /// ROOT.
    pub root: Dir,
    /// `ROOT/workers`.
    pub workers: Dir,
    /// `ROOT/aux`.
    pub aux: Dir,
    /// `ROOT/runs`.
    pub runs: Dir,
    /// The controllers that runs do not have, and why.
    pub withheld: Vec<Withheld>,
    /// The kind of extended attributes that works here.
    pub xattrs: Namespace,
    /// The directories from the v2 mount down to `root`, both included: the runs' ancestors, for telling whose memory
    /// limit killed. Those that cannot be opened are left out.
    pub ancestors: Vec<PathBuf>,
}

impl Tree {
    /// What limits are planned with.
    #[must_use]
    pub fn host(&self) -> Host {
        let page_size = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Host { page_size, withheld: self.withheld.clone() }
    }

    /// Takes the tree down at the end: moves `own` (our processes in the leaves) to `home`, removes the leaves and the
    /// empty directories, then ROOT where `made` says that we made it.
    ///
    /// # Errors
    /// [`DirError::is_busy`] where something still lives in it; then it stays.
    pub fn dissolve(self, home: &Dir, own: &[i32], made: bool) -> Result<(), DirError> {
        for name in ["workers", "aux", "runs"] {
            kill::remove(&self.root, name)?;
        }
        // A cgroup that passes controllers on takes no process back, and home may be ROOT itself.
        let enabled = self.root.read("cgroup.subtree_control")?;
        let off: Vec<String> = enabled.split_ascii_whitespace().map(|c| format!("-{c}")).collect();
        if !off.is_empty() {
            self.root.write("cgroup.subtree_control", &off.join(" "))?;
        }
        for pid in own {
            match home.write("cgroup.procs", &pid.to_string()) {
                Err(e) if !e.is(&[Errno::SRCH]) => return Err(e),
                _ => {}
            }
        }
        for leaf in Leaf::ALL {
            kill::remove(&self.root, leaf.name())?;
        }
        if self.root.read("memory.min").is_ok_and(|min| min.trim() == protected_together().to_string()) {
            self.root.write("memory.min", "0")?;
        }
        if made {
            kill::remove(&self.root.above()?, self.root.name())?;
        }
        Ok(())
    }
}

/// Makes our tree in `root`, which is opened, or made where only its last part is missing, and moves our own processes
/// `moves` into their leaves.
///
/// `own_the_top` says that the directory above `root` is ours as well, because it is the host's root cgroup and no
/// systemd manages it: only then is anything written there, and only its `cgroup.subtree_control`.
///
/// # Errors
/// [`PlaceError::ReadOnly`], [`PlaceError::Strangers`] and what the kernel refuses else. A controller that is missing
/// is no error: the reason is in [`Tree::withheld`], for the run that asks for it.
pub fn settle(
    situation: &Situation,
    root: &Path,
    own_the_top: bool,
    moves: &[(Leaf, i32)],
) -> Result<Tree, PlaceError> {
    let root = open_or_make(root)?;
    writable(&root)?;
    if own_the_top {
        let top = root.above()?;
        // Refusals show in the root's cgroup.controllers, and are explained from there.
        for controller in Controller::ALL {
            enable(&top, controller).unwrap_or_default();
        }
    }
    for leaf in Leaf::ALL {
        root.create_or_open(leaf.name())?;
    }
    let [workers, aux, runs] = ["workers", "aux", "runs"].map(|name| root.create_or_open(name));
    let (workers, aux, runs) = (workers?, aux?, runs?);
    for (leaf, pid) in moves {
        root.open_below(leaf.name())?.write("cgroup.procs", &pid.to_string())?;
    }

    let ancestors = ancestors(&situation.mount.path, root.path());
    let mut withheld = missing_above(situation, &ancestors);
    let available: Vec<_> =
        Controller::ALL.into_iter().filter(|c| withheld.iter().all(|w| w.controller != *c)).collect();
    for controller in available {
        for dir in [&root, &workers, &aux, &runs] {
            if let Err(e) = enable(dir, controller) {
                withheld.push(refusal(controller, dir, &e)?);
                break;
            }
        }
    }
    Ok(Tree { xattrs: Namespace::probe(&workers), root, workers, aux, runs, withheld, ancestors })
}

/// So much of our own memory is not reclaimed, however short it is. More than each of us uses, and only what is used counts; but
/// what ROOT has beyond that, a kernel with `memory_recursiveprot` lends to the workers, so that it is not much more.
const PROTECTED: [(Leaf, u64); 3] = [(Leaf::Keeper, 16 << 20), (Leaf::Supervisor, 64 << 20), (Leaf::Logger, 16 << 20)];

fn protected_together() -> u64 {
    PROTECTED.iter().map(|(_, bytes)| bytes).sum()
}

/// Sets `memory.min` of our own leaves; and of ROOT, where nobody is above it who would have to grant it (a cgroup is protected only as
/// far as those above it are).
pub(super) fn protect(root: &Dir, topmost: bool) {
    let set = |dir: &Dir, bytes: u64| {
        if dir.has("memory.min") {
            // It is a help, and no reason not to begin.
            dir.write("memory.min", &bytes.to_string()).unwrap_or_default();
        }
    };
    for (leaf, bytes) in PROTECTED {
        if let Ok(dir) = root.open_below(leaf.name()) {
            set(&dir, bytes);
        }
    }
    if topmost {
        set(root, protected_together());
    }
}

fn open_or_make(path: &Path) -> Result<Dir, PlaceError> {
    match Dir::open(path) {
        Err(e) if e.is_absent() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
                return Err(e.into());
            };
            Dir::open(parent)?.create_or_open(name).map_err(|e| explain(e, parent))
        }
        other => Ok(other?),
    }
}

fn explain(e: DirError, dir: &Path) -> PlaceError {
    if e.is(&[Errno::ROFS]) {
        return PlaceError::ReadOnly { dir: dir.to_owned() };
    }
    if e.is(&[Errno::ACCESS, Errno::PERM]) {
        return PlaceError::NotDelegated { own: dir.to_owned() };
    }
    e.into()
}

/// Tries it: a permission bit says nothing of a read-only mount.
fn writable(root: &Dir) -> Result<(), PlaceError> {
    let name = format!("probe-{}", std::process::id());
    match root.create(&name) {
        Ok(probe) => {
            let can_kill = probe.has("cgroup.kill");
            drop(probe);
            kill::remove(root, &name)?;
            if can_kill { Ok(()) } else { Err(PlaceError::TooOld) }
        }
        Err(e) => Err(explain(e, root.path())),
    }
}

/// Passes `controller` on to what is below `dir`. What it passes on already is not written again.
pub(crate) fn enable(dir: &Dir, controller: Controller) -> Result<(), DirError> {
    if controller.is_in(&dir.read("cgroup.subtree_control")?) {
        return Ok(());
    }
    dir.write("cgroup.subtree_control", &format!("+{controller}"))
}

/// A controller that is there and could not be passed on. EBUSY means processes in the way: never ours to move.
fn refusal(controller: Controller, dir: &Dir, e: &DirError) -> Result<Withheld, PlaceError> {
    if e.is_busy() {
        let strangers = dir.processes()?.into_iter().map(Process::of).collect();
        return Err(PlaceError::Strangers { dir: dir.path().to_owned(), strangers });
    }
    let reason = std::io::Error::from_raw_os_error(e.errno()).to_string();
    let dir = dir.path().to_owned();
    Ok(Withheld { controller, why: Why::Refused { dir, reason } })
}

/// Makes the tree without controllers where strangers sit in the way of them: in `<v2 mount>/pinfold`, as root.
/// `strangers` are who they are.
///
/// # Errors
/// As [`settle`].
pub fn settle_beside(
    situation: &Situation,
    strangers: &[Process],
    blocked: &Path,
    moves: &[(Leaf, i32)],
) -> Result<Tree, PlaceError> {
    let mut tree = settle(situation, &situation.top(), situation.real_root && !situation.systemd, moves)?;
    for withheld in &mut tree.withheld {
        if matches!(&withheld.why, Why::NotPassedOn { dir, .. } if dir == blocked) {
            withheld.why = Why::Refused { dir: blocked.to_owned(), reason: format!("{} sit there", list(strangers)) };
        }
    }
    Ok(tree)
}

/// The directories from `mount` down to `dir`.
fn ancestors(mount: &Path, dir: &Path) -> Vec<PathBuf> {
    let mut chain: Vec<PathBuf> = dir.ancestors().take_while(|a| a.starts_with(mount)).map(Path::to_owned).collect();
    chain.reverse();
    chain
}

/// The controllers that the cgroup at `dir`, below the mount, does not have, and who keeps each from it. `dir` is absolute and free
/// of links.
#[must_use]
pub fn withheld(situation: &Situation, dir: &Path) -> Vec<Withheld> {
    missing_above(situation, &ancestors(&situation.mount.path, dir))
}

/// The controllers that `chain`'s last directory does not have. Without a single wanted one, nothing more is read.
fn missing_above(situation: &Situation, chain: &[PathBuf]) -> Vec<Withheld> {
    let chain: Vec<(PathBuf, String)> = chain
        .iter()
        .filter_map(|path| Some((path.clone(), Dir::open(path).ok()?.read("cgroup.controllers").ok()?)))
        .collect();
    let complete = chain.last().is_some_and(|(_, list)| Controller::ALL.iter().all(|c| c.is_in(list)));
    if complete {
        return Vec::new();
    }
    let proc_cgroups: Option<CGroupControllers> = proc_file("/proc/cgroups").ok();
    let mounts: Option<MountInfos> = proc_file("/proc/self/mountinfo").ok();
    let lineage = Lineage {
        real_root: !situation.mount.path.join("cgroup.events").exists(),
        chain: &chain,
        proc_cgroups: proc_cgroups.as_ref(),
        mounts: mounts.as_ref(),
    };
    Controller::ALL
        .into_iter()
        .filter_map(|controller| Some(Withheld { controller, why: lineage.why(controller)? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_down_begins_at_the_mount() {
        let chain = ancestors(Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/system.slice/pinfold.scope"));
        let expected = ["/sys/fs/cgroup", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/system.slice/pinfold.scope"];
        assert_eq!(chain, expected.map(PathBuf::from));
    }

    #[test]
    fn a_controller_is_enabled_once() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::on_any_fs(tmp.path());
        std::fs::write(tmp.path().join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        enable(&dir, Controller::Pids).unwrap();
        assert_eq!(dir.read("cgroup.subtree_control").unwrap(), "cpu pids\n", "nothing was written");
        enable(&dir, Controller::Memory).unwrap();
        assert_eq!(dir.read("cgroup.subtree_control").unwrap(), "+memory");
    }

    #[test]
    fn our_own_leaves_are_protected_and_what_is_above_them_only_where_nobody_else_is() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Dir::on_any_fs(tmp.path());
        for leaf in [".", "keeper", "supervisor"] {
            std::fs::create_dir_all(tmp.path().join(leaf)).unwrap();
            std::fs::write(tmp.path().join(leaf).join("memory.min"), "0\n").unwrap();
        }
        let read = |leaf: &str| std::fs::read_to_string(tmp.path().join(leaf).join("memory.min")).unwrap();
        protect(&root, false);
        assert_eq!(
            (read("keeper"), read("supervisor"), read(".")),
            ("16777216".into(), "67108864".into(), "0\n".into())
        );
        protect(&root, true);
        assert_eq!(read("."), "100663296");
    }

    #[test]
    fn a_read_only_file_system_is_refused_with_the_reason() {
        let e = DirError::Io { action: "make", path: "/cg/probe".into(), source: Errno::ROFS.into() };
        let err = explain(e, Path::new("/cg"));
        assert!(err.to_string().starts_with("/cg is read-only: what is started there could not be killed"), "{err}");
        let e = DirError::Io { action: "make", path: "/cg/probe".into(), source: Errno::ACCESS.into() };
        assert!(matches!(explain(e, Path::new("/cg")), PlaceError::NotDelegated { .. }));
    }
}
