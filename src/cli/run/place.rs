//! Where a run's cgroup is made, and what is left behind: nothing, where the place was ours alone.
//!
//! The decision is `kernel::place`'s; here it is carried out for one command. On a systemd host each run has a scope of
//! its own, which systemd removes once it is empty. Our own process goes there too, also out of a service (cron's, for
//! instance): the scope needs a process to begin with, and one that ends with the run.

use std::path::{Path, PathBuf};

use super::watch::say;
use crate::cli::exit::chain;
use crate::kernel::{
    cgroup::{Dir, kill},
    place::{
        Leaf, PlaceError, Plan, Situation, Tree,
        scope::{self, Request},
        settle,
        settle::settle_beside,
    },
};

/// A tree for one run.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) tree: Tree,
    /// Where our process was before, if it was moved into a leaf of the tree and the tree is to be taken down.
    home: Option<PathBuf>,
}

impl Place {
    /// Finds a place, or the one named by `--cgroup-root`.
    ///
    /// # Errors
    /// [`PlaceError`] says what to do.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, PlaceError> {
        let here = Situation::of_this_process()?;
        match here.plan(named, None)? {
            // Somebody's directory that we are not in, like the one of a supervisor: it stays.
            Plan::Named(root) | Plan::Recorded(root) if root != here.own_dir => Self::at(&here, &root, false),
            Plan::Top(root) => Self::at(&here, &root, here.real_root && !here.systemd),
            Plan::Delegated(root) | Plan::Named(root) | Plan::Recorded(root) => Self::inside(&here, &root),
            Plan::Scope { user, stay: _ } => Self::scope(user),
        }
    }

    fn at(here: &Situation, root: &Path, own_the_top: bool) -> Result<Self, PlaceError> {
        Ok(Self { tree: settle(here, root, own_the_top, &[])?, home: None })
    }

    /// In the cgroup that we are in ourselves: it can pass nothing on before we have left it for a leaf.
    fn inside(here: &Situation, root: &Path) -> Result<Self, PlaceError> {
        match settle(here, root, false, &[(Leaf::Supervisor, own_pid())]) {
            Ok(tree) => Ok(Self { tree, home: Some(root.to_owned()) }),
            Err(err) => {
                if let Err(left) = undo(root) {
                    say(&chain(&left));
                }
                match err {
                    // A shell or a test runner sits there and is not ours to move.
                    PlaceError::Strangers { dir, strangers } if here.root => {
                        Ok(Self { tree: settle_beside(here, &strangers, &dir, &[])?, home: None })
                    }
                    err => Err(err),
                }
            }
        }
    }

    fn scope(user: bool) -> Result<Self, PlaceError> {
        let request = Request { unit: scope::unit_of_run(), user, pids: vec![std::process::id()], join: None };
        scope::request(&request)?;
        // We are in it now, and it is delegated to us.
        let here = Situation::of_this_process()?;
        let tree = settle(&here, &here.own_dir, false, &[(Leaf::Supervisor, own_pid())])?;
        // systemd takes it down.
        Ok(Self { tree, home: None })
    }

    /// The run is over and its directory removed: takes down what was made for it alone. Another run that is still in
    /// the same place keeps it.
    pub(super) fn leave(self) {
        let Some(home) = self.home else { return };
        let left = Dir::open(&home).and_then(|home| self.tree.dissolve(&home, &[own_pid()], false));
        if let Err(err) = left
            && !err.is_busy()
        {
            say(&chain(&err));
        }
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

/// Back home, and the directories away, after a tree could not be made in `root`.
fn undo(root: &Path) -> Result<(), PlaceError> {
    let root = Dir::open(root)?;
    root.write("cgroup.procs", &own_pid().to_string())?;
    for name in Leaf::ALL.map(Leaf::name).into_iter().chain(["workers", "aux", "runs"]) {
        match kill::remove(&root, name) {
            // Another run's.
            Err(err) if err.is_busy() => {}
            other => other?,
        }
    }
    Ok(())
}
