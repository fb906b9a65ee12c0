//! The controllers our limits need, and, where one is missing, who keeps it from us and what gives it back.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use procfs::{CGroupControllers, process::MountInfos};
use serde::{Deserialize, Serialize};

/// A controller that some limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the kernel's own")]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
    Io,
}

impl Controller {
    /// All that we use.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Pids, Self::Io];

    /// As `cgroup.controllers` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }

    /// As `/proc/cgroups` and v1 mounts spell it.
    const fn v1_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.name(),
        }
    }

    /// Whether `list`, the text of `cgroup.controllers` or `cgroup.subtree_control`, has it.
    #[must_use]
    pub fn is_in(self, list: &str) -> bool {
        list.split_ascii_whitespace().any(|c| c == self.name())
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A controller that we cannot use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Which.
    pub controller: Controller,
    /// Who keeps it.
    pub why: Why,
}

/// Who keeps a controller from us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Why {
    /// A cgroup v1 hierarchy has it: a hybrid or legacy host.
    V1 {
        /// Where that is mounted.
        mount: Option<PathBuf>,
    },
    /// `cgroup_disable=` on the kernel's command line.
    Disabled,
    /// The kernel is built without it.
    NotBuilt,
    /// Whoever made this cgroup namespace or container gave it none.
    Namespace {
        /// The topmost directory we can see.
        root: PathBuf,
    },
    /// `dir` has it and does not pass it on in `cgroup.subtree_control`.
    NotPassedOn {
        /// The cgroup.
        dir: PathBuf,
        /// Our place, somewhere below it.
        place: PathBuf,
    },
    /// Passing it on in `dir` was refused.
    Refused {
        /// The cgroup.
        dir: PathBuf,
        /// The kernel's reason, or who is in the way.
        reason: String,
    },
}

impl Why {
    /// What the user can do about it: a command, a boot option or a drop-in.
    #[must_use]
    pub fn fix(&self, controller: Controller) -> String {
        match self {
            Self::V1 { .. } => "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all".to_owned(),
            Self::Disabled => format!(
                "boot without cgroup_disable={} (or with cgroup_enable={})",
                controller.v1_name(),
                controller.v1_name()
            ),
            Self::NotBuilt => "use a kernel built with it".to_owned(),
            Self::Namespace { .. } => "let the container's manager delegate it".to_owned(),
            Self::NotPassedOn { dir, place } => match manager_of(place) {
                Manager::User => "write `[Service]` and `Delegate=cpu cpuset io memory pids` to \
                                  /etc/systemd/system/user@.service.d/delegate.conf, then `systemctl daemon-reload` and \
                                  log in anew"
                    .to_owned(),
                Manager::System => "give its unit Delegate=yes".to_owned(),
                Manager::None => format!("as its owner, `echo +{controller} > {}/cgroup.subtree_control`", dir.display()),
            },
            Self::Refused { dir, .. } => format!(
                "run in a cgroup of your own: `systemd-run --user -p Delegate=yes --scope pinfold …`, or clear {}",
                dir.display()
            ),
        }
    }
}

/// Who manages the cgroups that lead to a place.
enum Manager {
    User,
    System,
    None,
}

fn manager_of(place: &Path) -> Manager {
    let mut parts = place.iter().filter_map(|p| p.to_str());
    if parts.clone().any(|p| p.starts_with("user@")) {
        Manager::User
    } else if parts.any(|p| [".slice", ".service", ".scope"].iter().any(|end| p.ends_with(end))) {
        Manager::System
    } else {
        Manager::None
    }
}

impl fmt::Display for Withheld {
    /// `the memory controller, which this host has bound to cgroup v1 (/sys/fs/cgroup/memory): boot with …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} controller, which ", self.controller)?;
        match &self.why {
            Why::V1 { mount: Some(mount) } => write!(f, "this host has bound to cgroup v1 ({})", mount.display())?,
            Why::V1 { mount: None } => write!(f, "this host has bound to cgroup v1")?,
            Why::Disabled => write!(f, "this kernel was booted without")?,
            Why::NotBuilt => write!(f, "this kernel does not have")?,
            Why::Namespace { root } => write!(f, "this container was not given (see {})", root.display())?,
            Why::NotPassedOn { dir, .. } => {
                write!(f, "{} does not pass on (cgroup.subtree_control)", dir.display())?;
            }
            Why::Refused { dir, reason } => write!(f, "could not be enabled in {} ({reason})", dir.display())?,
        }
        write!(f, ": {}", self.why.fix(self.controller))
    }
}

/// What is known of the way from the v2 mount down to a cgroup.
pub struct Lineage<'a> {
    /// Each directory from the mount point down, with the text of its `cgroup.controllers`.
    pub chain: &'a [(PathBuf, String)],
    /// Whether the first of them is the host's real root cgroup (it has no `cgroup.events`), or a namespace's.
    pub real_root: bool,
    /// `/proc/cgroups`. From Linux 6.14 on it lists v1 controllers only.
    pub proc_cgroups: Option<&'a CGroupControllers>,
    /// `/proc/self/mountinfo`.
    pub mounts: Option<&'a MountInfos>,
}

impl Lineage<'_> {
    /// Who keeps `controller` from the last directory of the chain; `None` where it is available there.
    #[must_use]
    pub fn why(&self, controller: Controller) -> Option<Why> {
        let lacks = |(_, list): &&(PathBuf, String)| !controller.is_in(list);
        let (first, rest) = self.chain.split_first()?;
        if lacks(&first) {
            return Some(self.why_not_at_all(controller, &first.0));
        }
        let place = rest.last().map_or(&first.0, |(path, _)| path);
        let mut above = &first.0;
        for level in rest {
            if lacks(&level) {
                return Some(Why::NotPassedOn { dir: above.clone(), place: place.clone() });
            }
            above = &level.0;
        }
        None
    }

    fn why_not_at_all(&self, controller: Controller, root: &Path) -> Why {
        let row = self.proc_cgroups.and_then(|c| c.0.iter().find(|c| c.name == controller.v1_name()));
        match row {
            Some(row) if row.hierarchy != 0 => Why::V1 { mount: self.v1_mount(controller) },
            Some(row) if !row.enabled => Why::Disabled,
            _ if !self.real_root => Why::Namespace { root: root.to_owned() },
            _ => Why::NotBuilt,
        }
    }

    fn v1_mount(&self, controller: Controller) -> Option<PathBuf> {
        let mounts = self.mounts?;
        let owner = |m: &&procfs::process::MountInfo| {
            m.fs_type == "cgroup" && m.super_options.contains_key(controller.v1_name())
        };
        mounts.iter().find(owner).map(|m| m.mount_point.clone())
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead as _;

    use super::*;

    const HYBRID_CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
        cpuset\t3\t1\t1\ncpu\t1\t1\t1\nblkio\t7\t1\t1\nmemory\t4\t19\t1\nhugetlb\t0\t1\t1\npids\t0\t1\t0\n";
    const HYBRID_MOUNTS: &str = "\
        30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/blkio rw,relatime shared:11 - cgroup cgroup rw,blkio\n\
        33 30 0:29 / /sys/fs/cgroup/unified rw,relatime shared:12 - cgroup2 cgroup2 rw\n";

    fn chain(levels: &[(&str, &str)]) -> Vec<(PathBuf, String)> {
        levels.iter().map(|(path, list)| (PathBuf::from(path), format!("{list}\n"))).collect()
    }

    fn sentence(controller: Controller, why: Why) -> String {
        Withheld { controller, why }.to_string()
    }

    #[test]
    fn a_hybrid_host_names_the_v1_mount() {
        let cgroups = CGroupControllers::from_buf_read(HYBRID_CGROUPS.as_bytes()).unwrap();
        let mounts = MountInfos::from_buf_read(HYBRID_MOUNTS.as_bytes()).unwrap();
        let chain = chain(&[("/sys/fs/cgroup/unified", "hugetlb")]);
        let host = Lineage { chain: &chain, real_root: true, proc_cgroups: Some(&cgroups), mounts: Some(&mounts) };
        assert_eq!(
            sentence(Controller::Memory, host.why(Controller::Memory).unwrap()),
            "the memory controller, which this host has bound to cgroup v1 (/sys/fs/cgroup/memory): \
             boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"
        );
        let io = Why::V1 { mount: Some(PathBuf::from("/sys/fs/cgroup/blkio")) };
        assert_eq!(host.why(Controller::Io), Some(io), "io is called blkio in v1");
        assert_eq!(host.why(Controller::Cpu), Some(Why::V1 { mount: None }));
        assert_eq!(host.why(Controller::Pids), Some(Why::Disabled));
    }

    #[test]
    fn the_directory_that_does_not_pass_it_on_is_named() {
        let chain = chain(&[
            ("/sys/fs/cgroup", "cpu io memory pids"),
            ("/sys/fs/cgroup/user.slice", "cpu memory pids"),
            ("/sys/fs/cgroup/user.slice/user-1000.slice", "cpu memory pids"),
            ("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service", "memory pids"),
        ]);
        let host = Lineage { chain: &chain, real_root: true, proc_cgroups: None, mounts: None };
        let at = |dir: &str| Some(Why::NotPassedOn { dir: dir.into(), place: chain[3].0.clone() });
        assert_eq!(host.why(Controller::Memory), None);
        assert_eq!(host.why(Controller::Io), at("/sys/fs/cgroup"));
        assert_eq!(host.why(Controller::Cpu), at("/sys/fs/cgroup/user.slice/user-1000.slice"));
        let text = sentence(Controller::Cpu, host.why(Controller::Cpu).unwrap());
        assert!(text.contains("user@.service.d/delegate.conf"), "{text}");
        let bare = Why::NotPassedOn { dir: "/cg/jobs".into(), place: "/cg/jobs/7".into() };
        assert_eq!(bare.fix(Controller::Io), "as its owner, `echo +io > /cg/jobs/cgroup.subtree_control`");
    }

    #[test]
    fn a_container_and_an_old_kernel_are_told_apart() {
        let chain = chain(&[("/sys/fs/cgroup", "pids")]);
        let container = Lineage { chain: &chain, real_root: false, proc_cgroups: None, mounts: None };
        assert_eq!(container.why(Controller::Memory), Some(Why::Namespace { root: PathBuf::from("/sys/fs/cgroup") }));
        let host = Lineage { real_root: true, ..container };
        assert_eq!(host.why(Controller::Memory), Some(Why::NotBuilt));
    }

    #[test]
    fn a_name_is_no_part_of_another() {
        assert!(!Controller::Cpu.is_in("cpuset io\n"));
        assert!(Controller::Cpu.is_in("cpuset cpu io\n"));
    }
}
