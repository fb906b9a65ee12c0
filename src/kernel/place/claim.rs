//! From a plan to a place that exists: asks systemd for the scope where there is to be one, and says which of our
//! processes belong into which leaf.

use std::path::{Path, PathBuf};

use super::scope::{self, Request, Scope};
use super::settle::protect;
use super::{Leaf, PlaceError, Plan, Situation, Tree, locate, settle, settle_beside};

/// Who of us asks, and what for.
#[derive(Debug)]
pub struct Claimant<'a> {
    /// Name of the scope's unit, where there is to be one.
    pub unit: &'a str,
    /// The process that asks, and its leaf.
    pub own: (Leaf, i32),
    /// A child of it that begins the tree and keeps it alive, and its leaf.
    pub anchor: Option<(Leaf, i32)>,
    /// Whether a scope that is there already, with workers that outlived us, is joined. Else it is an error.
    pub may_join: bool,
}

/// A place that is ours now.
#[derive(Debug)]
pub struct Claimed {
    /// The tree in it.
    pub tree: Tree,
    /// The scope's unit, where it is one.
    pub unit: Option<String>,
    /// Whether the directory was made by us.
    pub made: bool,
    /// Whether the process that asked is in its leaf; else it stayed where it was.
    pub moved: bool,
}

/// Makes `plan` true.
///
/// # Errors
/// [`PlaceError`]. A scope that was made ends with the processes that began it.
pub fn claim(situation: &Situation, plan: &Plan, who: &Claimant<'_>) -> Result<Claimed, PlaceError> {
    let everybody = || who.anchor.into_iter().chain([who.own]).collect::<Vec<_>>();
    match plan {
        Plan::Scope { user, stay } => {
            let moves = if *stay { who.anchor.into_iter().collect() } else { everybody() };
            let root = ask(situation, who, *user, &moves)?;
            let tree = settle(situation, &root, false, &moves)?;
            protect(&tree.root, false);
            Ok(Claimed { tree, unit: Some(who.unit.to_owned()), made: false, moved: !*stay })
        }
        Plan::Named(root) | Plan::Recorded(root) | Plan::Delegated(root) | Plan::Top(root) => {
            in_directory(situation, root, &everybody())
        }
    }
}

/// A directory, made where only its last part is missing.
fn in_directory(situation: &Situation, root: &Path, moves: &[(Leaf, i32)]) -> Result<Claimed, PlaceError> {
    let made = !root.exists();
    // Only the host's root has no cgroup.events. Where no systemd owns it, root does: us.
    let below_host_root =
        root.parent() == Some(&situation.mount.path) && !situation.mount.path.join("cgroup.events").exists();
    let own_the_top = below_host_root && situation.root && !situation.systemd;
    match settle(situation, root, own_the_top, moves) {
        // Root can go elsewhere, without the controllers that the strangers keep from us.
        Err(PlaceError::Strangers { dir, strangers }) if situation.root && dir != situation.top() => {
            let made = !situation.top().exists();
            let tree = settle_beside(situation, &strangers, &dir, moves)?;
            Ok(Claimed { tree, unit: None, made, moved: true })
        }
        other => {
            let tree = other?;
            protect(&tree.root, own_the_top);
            Ok(Claimed { tree, unit: None, made, moved: true })
        }
    }
}

fn ask(situation: &Situation, who: &Claimant<'_>, user: bool, moves: &[(Leaf, i32)]) -> Result<PathBuf, PlaceError> {
    let pids = moves.iter().filter_map(|(_, pid)| u32::try_from(*pid).ok()).collect();
    let join = who.may_join.then(|| format!("/{}", Leaf::Logger.name()));
    let Scope { control_group, .. } = scope::request(&Request { unit: who.unit.to_owned(), user, pids, join })?;
    locate(&situation.mount, &control_group)
        .ok_or_else(|| PlaceError::Foreign { mount: situation.mount.path.clone(), own: control_group })
}
