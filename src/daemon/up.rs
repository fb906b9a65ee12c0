//! The process that was typed: checks what it was given, finds a place for the tree, starts the logger there, and
//! becomes the keeper.
//!
//! It has one thread all along. What needs more (asking systemd for a scope) is done by a child of its own, and its
//! heap is left behind when it executes itself as the keeper.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs,
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use crate::cli::args::{Globals, OnTerm, Output, Up};
use crate::cli::exit::Failure;
use crate::cli::paths::{self, Paths, Who};
use crate::keeper::role::{self, Binary, Started};
use crate::keeper::setup::{Leaf as RoleLeaf, RunningLogger, Setup};
use crate::kernel::cgroup::Dir;
use crate::kernel::launch::plan::Session;
use crate::kernel::launch::{Progress, selftest};
use crate::kernel::place::record::{self, Lock, Recorded};
use crate::kernel::place::scope::{self, Request};
use crate::kernel::place::{self, Leaf, PlaceError, Plan, Situation, Tree};
use crate::spec;

use super::applied;
use super::supervisor::Settings;

/// `pinfold up`. Returns only where it fails.
///
/// # Errors
/// [`Failure`], with nothing left behind: no logger, no directory of ours that was not there before.
pub fn up(args: &Up, globals: &Globals) -> Result<Infallible, Failure> {
    let paths = resolve(globals, &args.files)?;
    let sources = read_config(&paths)?;
    let lock = Lock::take(&paths.state).map_err(|e| Failure::failed("cannot start", e))?;
    applied::store(&paths.state, &sources).map_err(|e| Failure::failed("cannot keep the configuration", e))?;
    let home = Situation::of_this_process().map_err(no_place)?;
    let found = Place::find(&paths, &home)?;

    let binary = Binary::running().map_err(|e| Failure::failed("cannot find our own binary", e))?;
    let logger = start_logger(&binary)?;
    let settled = found.settle(&paths, &home, logger.child.pid);
    let tree = settled.inspect_err(|_| end_logger(&logger))?;
    become_keeper(args, &paths, &home, lock, &tree, logger).map_err(|(failure, logger)| {
        end_logger(&logger);
        failure
    })
}

fn no_place(error: PlaceError) -> Failure {
    Failure::failed("cannot make a place for the workers", error)
}
