//! The process that was typed: checks what it was given, finds a place for the tree, starts the logger there, and
//! becomes the keeper.
//!
//! It has one thread all along: what needs more (asking systemd for a scope) is done by a child of its own. Its heap
//! is left behind when it executes itself as the keeper.

use std::{convert::Infallible, fs, os::fd::OwnedFd, path::Path};

use crate::api::{socket, tenure::Tenure};
use crate::cli::args::{Globals, Up};
use crate::cli::exit::Failure;
use crate::cli::paths::{self, Paths, Who};
use crate::keeper::role::{self, Binary, Started};
use crate::keeper::setup::{Leaf as RoleLeaf, RunningLogger, Setup};
use crate::keeper::signals;
use crate::kernel::cgroup::{Dir, DirError};
use crate::kernel::launch::plan::Session;
use crate::kernel::launch::{Progress, selftest};
use crate::kernel::place::record::{self, Lock, Recorded};
use crate::kernel::place::{Claimant, Claimed, Leaf, PlaceError, Situation, claim, scope};
use crate::spec::Source;

use super::applied::{self, Applied, Scaled};
use super::reexec;
use super::registered;
use super::supervisor::Settings;

/// `pinfold up`. Returns only where it fails. `waiter` is told when every worker was started.
///
/// # Errors
/// [`Failure`]. Nothing of ours runs then.
pub fn up(args: &Up, globals: &Globals, waiter: Option<OwnedFd>) -> Result<Infallible, Failure> {
    let paths = resolve(globals, args)?;
    let applied = Applied { from: Some(paths.config.clone()), sources: read_config(&paths)?, scaled: Scaled::new() };
    let lock = Lock::take(&paths.state).map_err(|e| Failure::failed("cannot start", e))?;
    socket::check(&paths.socket).map_err(|e| Failure::failed("cannot start", e))?;
    applied::load_overrides(&paths.state).map_err(|e| Failure::failed("cannot read what was set to last", e))?;
    registered::load(&paths.state).map_err(|e| Failure::failed("cannot read what was registered over the API", e))?;
    applied::store(&paths.state, &applied).map_err(|e| Failure::failed("cannot keep the configuration", e))?;
    let situation = Situation::of_this_process().map_err(no_place)?;

    // From here on something of ours would stay behind: an end that is asked for is the keeper's to bring about.
    signals::hold().map_err(|e| Failure::failed("cannot block signals", e))?;
    role::protect().map_err(|e| Failure::failed("cannot tell the OOM killer to spare us", e))?;
    // It goes by itself when its socket is closed: with this process, unless that becomes the keeper.
    let logger = start_logger()?;
    let claimed = take_place(&paths, &situation, logger.child.pid)?;
    let method = selftest::run(claimed.tree.aux.path())
        .map_err(|e| Failure::failed("cannot try how processes get into a cgroup", e))?
        .method;
    let settings = Settings {
        state_dir: paths.state.clone(),
        root: claimed.tree.root.path().to_owned(),
        binary: Some(reexec::own_path().map_err(|e| Failure::failed("cannot find our own binary", e))?),
        home: claimed.moved.then(|| situation.own_dir.clone()),
        made: claimed.made,
        config: applied.from,
        socket: paths.socket.clone(),
        on_term: args.on_term,
        output: args.output.output,
    };
    let root = &claimed.tree.root;
    let descriptor =
        |fd: std::io::Result<OwnedFd>| fd.map_err(|e| Failure::failed("cannot hand over to the keeper", e));
    let leaf = |leaf: Leaf| -> Result<RoleLeaf, Failure> {
        let directory = root.open_below(leaf.name()).map_err(|e| no_place(e.into()))?;
        Ok(RoleLeaf {
            name: leaf.name().to_owned(),
            directory: descriptor(directory.try_clone_fd().map_err(DirError::into_io))?,
        })
    };
    let setup = Setup {
        supervisor_args: settings.to_args(),
        method,
        // A service's processes stay in its cgroup, where systemd looks for them.
        supervisor_leaf: if claimed.moved { Some(leaf(Leaf::Supervisor)?) } else { None },
        logger_leaf: Some(leaf(Leaf::Logger)?),
        logger: Some(RunningLogger { pid: logger.child.pid, socket: logger.socket }),
        state: None,
        waiter,
        keep: [
            Some(descriptor(lock.share())?),
            Some(descriptor(root.try_clone_fd().map_err(DirError::into_io))?),
            tenure(&paths.socket).map(OwnedFd::from),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    Err(Failure::failed("cannot become the keeper", setup.become_keeper()))
}

/// By what clients tell that somebody is there, or will be again. Nothing of ours depends on it.
fn tenure(socket: &Path) -> Option<Tenure> {
    let mut held = None;
    let begun = record::once_let_go(|| {
        held = Tenure::begin(socket)?;
        Ok(held.is_some())
    });
    let why = match begun {
        Ok(true) => return held,
        Ok(false) => "another holds it".to_owned(),
        Err(error) => crate::model::chain(&error as &std::io::Error),
    };
    let what = "while a supervisor is replaced, commands will say that there is none: the lock beside the socket";
    role::say("up", &format_args!("{what} cannot be had: {why}"));
    None
}

fn no_place(error: PlaceError) -> Failure {
    Failure::failed("cannot make a place for the workers", error)
}

pub(super) fn resolve(globals: &Globals, args: &Up) -> Result<Paths, Failure> {
    let cwd = std::env::current_dir().map_err(|e| Failure::failed("cannot tell the working directory", e))?;
    let var = |name: &str| std::env::var_os(name);
    let who = Who { root: rustix::process::geteuid().is_root(), cwd: &cwd, var: &var };
    paths::resolve(globals, &args.files, &who).map_err(|e| Failure::Usage(e.to_string()))
}

/// The configuration's text, proved to be good.
pub(super) fn read_config(paths: &Paths) -> Result<Vec<Source>, Failure> {
    let files = paths.config.files().map_err(|e| Failure::Config(e.to_string()))?;
    if files.iter().any(|f| f.as_os_str() == "-" || f.ends_with("-")) {
        return Err(Failure::Usage("a supervisor's configuration is kept in a file, not in the standard input".into()));
    }
    let (sources, _) = applied::read_files(&files).map_err(|problems| Failure::Config(problems.to_string()))?;
    Ok(sources)
}

fn start_logger() -> Result<Started, Failure> {
    let binary = Binary::running().map_err(|e| Failure::failed("cannot find our own binary", e))?;
    let failed = |e| Failure::failed("cannot start the logger", e);
    let mut logger = binary.start(role::LOGGER, &[], None, Session::New).map_err(failed)?;
    match logger.child.confirm.wait() {
        Progress::Failed(e) => Err(failed(e)),
        Progress::Execed | Progress::Pending => Ok(logger),
    }
}

/// Makes the tree, locks it against others and remembers where it is.
fn take_place(paths: &Paths, situation: &Situation, logger: i32) -> Result<Claimed, Failure> {
    let recording = |e: record::RecordError| Failure::failed("cannot start", e);
    let boot_id = record::boot_id().map_err(|e| Failure::failed("cannot tell this boot from another", e))?;
    let recorded = Recorded::load(&paths.state).map_err(recording)?;
    let alive = match &recorded {
        Some(recorded) => recorded.still_there(&boot_id).map_err(recording)?.map(|dir| (recorded, dir)),
        None => None,
    };
    // A place with life in it is where we go on; an empty one is chosen anew.
    let populated = match &alive {
        Some((_, dir)) => dir.populated().map_err(|e| no_place(e.into()))?,
        None => false,
    };
    let again = alive.as_ref().filter(|(r, _)| populated && r.unit.is_none()).map(|(r, _)| r.path.as_path());
    let plan = situation.plan(paths.cgroup_root.as_deref(), again).map_err(no_place)?;

    let unit = scope::unit_of_state_dir(&paths.state, Path::new("/var/lib/pinfold"));
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let who =
        Claimant { unit: &unit, own: (Leaf::Keeper, own), anchor: Some((Leaf::Logger, logger)), may_join: populated };
    let mut claimed = claim(situation, &plan, &who).map_err(no_place)?;
    let root: &Dir = &claimed.tree.root;
    if let Some(recorded) = &recorded {
        recorded.allows(root.path(), &boot_id).map_err(recording)?;
    }
    if let Some((recorded, _)) = &alive {
        claimed.made |= recorded.made && recorded.path == root.path();
    }
    record::lock_root(root).map_err(recording)?;
    let record = Recorded {
        path: root.path().to_owned(),
        cgroup_id: root.id().map_err(|e| no_place(e.into()))?,
        boot_id,
        unit: claimed.unit.clone(),
        made: claimed.made,
    };
    record.store(&paths.state).map_err(recording)?;
    for dir in [&paths.runtime, &paths.state.join("logs")] {
        fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("cannot make {}", dir.display()), e))?;
    }
    Ok(claimed)
}
