//! `pinfold run`: one command in its own cgroup, without a daemon and without a second process.
//!
//! ```text
//! request ─▶ place ─▶ mkdir, limits, baseline ─▶ spawn ─▶ confirm ─▶ watch ─▶ counters, reap ─▶ drain ─▶ totals, rmdir
//!  (flags)                                                                                          └▶ verdict, report
//! ```
//! `request` reads the flags by the rules of the config, `watch` waits, `ladder` decides about signals and
//! deadlines, `terminal` is job control, `verdict` says what came out. It launches before it starts any thread and
//! starts none afterwards.
//!
//! Killed with SIGKILL itself, it leaves the command running in its cgroup, limits in force: the directory under
//! `runs/` stays populated, and `doctor` or an operator's `cgroup.kill` finds it there. The kernel's way to tie
//! a child to its parent (`PR_SET_PDEATHSIG`) fires when a *thread* ends and is cleared by set-user-ID programs, so it is
//! no fence.

mod ladder;
mod place;
mod request;
mod terminal;
mod verdict;
mod watch;

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::libc::SIGKILL;

use self::{
    ladder::Ladder,
    place::Place,
    request::Request,
    terminal::Terminal,
    verdict::Facets,
    watch::{Launch, Signals, Watch, say},
};
use super::{
    args,
    exit::{Exit, Failure, chain},
};
use crate::clock;
use crate::kernel::{
    ancestors::{Ancestors, history::Kills},
    cgroup::{Dir, DirError, events, kill, limits, limits::Effective},
    launch::{
        self, Method,
        plan::LaunchPlan,
        resolve::{Context, Inherit, resolve},
    },
    note,
    place::record::boot_id,
    port::RunNote,
};
use crate::model::{AboveReading, Counters, Mono, RunId, Stage, StartError};

/// How often a directory is tried that should be empty and is still busy, and for how long at most.
const REMOVE_TRIES: u32 = 10;

/// Runs the command and says on stderr why it died, if it did not end by itself. `cgroup_root` is `--cgroup-root`.
///
/// # Errors
/// What keeps us from doing our part. A command that could not be started is no error here: it is an [`Exit`].
pub fn run(args: &args::Run, cgroup_root: Option<&Path>) -> Result<Exit, Failure> {
    let failed =
        |doing: &'static str| move |source: io::Error| Failure::Run { doing: doing.to_owned(), source: source.into() };
    let cwd = std::env::current_dir().map_err(failed("cannot find the current directory"))?;
    let request = Request::new(args, &cwd, own_umask())?;
    // First of all: what is sent from here on is heard, and cannot end us with a directory half made.
    let signals = Signals::take().map_err(failed("cannot take over signals"))?;
    let mut terminal = Terminal::new();
    let place = Place::find(cgroup_root)
        .map_err(|err| Failure::Run { doing: "there is no cgroup to run in".to_owned(), source: err.into() })?;
    let uuid = note::new_uuid().map_err(failed("cannot make an identity for the run"))?;

    let facets = Attempts { request: &request, place: &place, signals: &signals, uuid: &uuid }.make(&mut terminal);
    if let Err(err) = terminal.take_back() {
        say(&format!("cannot take the terminal back: {}", chain(&err)));
    }
    place.leave();
    let verdict = facets.map_err(failed("cannot follow the command"))?.verdict(&request);
    if let Some(sentence) = &verdict.sentence {
        say(sentence);
    }
    if let Some(path) = &request.report {
        verdict.report.write(path).map_err(|err| Failure::Run {
            doing: format!("cannot write the report {} (the command came to {})", path.display(), verdict.exit.code()),
            source: err.into(),
        })?;
    }
    Ok(verdict.exit)
}

/// One command, and the two ways into its cgroup.
struct Attempts<'a> {
    request: &'a Request,
    place: &'a Place,
    signals: &'a Signals,
    uuid: &'a str,
}

/// A fresh directory with its limits in force.
struct Prepared {
    run: RunId,
    dir: Dir,
    effective: Effective,
    before: Counters,
    above: Ancestors,
}

impl Attempts<'_> {
    fn make(&self, terminal: &mut Terminal) -> io::Result<Facets> {
        let mut ladder = Ladder::new(self.request.spec.stop.clone());
        let first = self.attempt(Method::IntoCgroup, &mut ladder, terminal)?;
        match &first.end {
            // A fault of this kernel or of ours, not of the command: the other way, in a fresh directory.
            Err(error) if retry_by_moving(error) && ladder.asked().by().is_none() => {
                self.attempt(Method::Move, &mut ladder, terminal)
            }
            _ => Ok(first),
        }
    }

    fn attempt(&self, method: Method, ladder: &mut Ladder, terminal: &mut Terminal) -> io::Result<Facets> {
        let (prepared, plan) = match self.prepare(terminal) {
            Ok(prepared) => prepared,
            Err((cgroup, error)) => return Ok(Facets::never_ran(self.uuid.to_owned(), cgroup, error)),
        };
        let facets = self.launch(&prepared, &plan, method, ladder, terminal);
        let removed = remove(&self.place.tree.runs, &prepared.dir);
        let mut facets = facets?;
        if let Err(err) = removed {
            facets.leftover = true;
            say(&chain(&err));
        }
        Ok(facets)
    }

    /// Everything before there is a child. What fails leaves no directory behind.
    fn prepare(&self, terminal: &Terminal) -> Result<(Prepared, LaunchPlan), (PathBuf, StartError)> {
        let runs = &self.place.tree.runs;
        let nowhere = |error| (runs.path().to_owned(), error);
        let (run, dir) = self.fresh().map_err(|err| nowhere(err.at(Stage::Cgroup)))?;
        let prepared = (|| {
            // Users and groups may be asked of a network: still before the clone.
            let plan = resolve(
                &self.request.spec,
                &Context {
                    run: &run,
                    global_env: &BTreeMap::new(),
                    inherited: &std::env::vars_os().collect(),
                    inherit: Inherit::All,
                    session: terminal.session(),
                },
            )?;
            let effective = limits::set(&dir, &self.request.spec.limits, &self.place.tree.host())?;
            let before = events::read(&dir).map_err(|err| err.at(Stage::Cgroup))?;
            Ok((effective, before, plan))
        })();
        match prepared {
            Ok((effective, before, plan)) => {
                let above = self.ancestors();
                above.observe(None, clock::monotonic());
                Ok((Prepared { run, dir, effective, before, above }, plan))
            }
            Err(error) => {
                let path = dir.path().to_owned();
                if let Err(err) = remove(runs, &dir) {
                    say(&chain(&err));
                }
                Err((path, error))
            }
        }
    }

    /// The cgroups above the run's.
    fn ancestors(&self) -> Ancestors {
        let tree = &self.place.tree;
        let dirs: Vec<_> = tree.ancestors.iter().cloned().chain([tree.runs.path().to_owned()]).collect();
        // The first of them is where cgroup2 is mounted.
        Ancestors::open(dirs.first().map_or(Path::new("/"), PathBuf::as_path), &dirs)
    }

    /// A directory that nobody has used: named after our pid, or after chance where that one is taken (a run of the same
    /// number that was killed with SIGKILL and whose command lives on).
    fn fresh(&self) -> Result<(RunId, Dir), DirError> {
        let runs = &self.place.tree.runs;
        let make = |number| {
            let run = RunId::new(self.request.name.clone(), number);
            runs.create(&run.to_string()).map(|dir| (run, dir))
        };
        match make(std::process::id()) {
            Err(DirError::Exists { .. }) => make(fastrand::u32(1 << 24..)),
            other => other,
        }
    }

    fn launch(
        &self,
        prepared: &Prepared,
        plan: &LaunchPlan,
        method: Method,
        ladder: &mut Ladder,
        terminal: &mut Terminal,
    ) -> io::Result<Facets> {
        let dir = &prepared.dir;
        let facets = |end| Facets {
            effective: prepared.effective.clone(),
            before: prepared.before,
            after: prepared.before,
            had_terminal: terminal.session() == launch::plan::Session::Foreground,
            ..Facets::never_ran(self.uuid.to_owned(), dir.path().to_owned(), end)
        };
        // Before there is anything to find: a directory without a record is taken for a half-made one.
        self.note(prepared, None);
        let cgroup = dir.try_clone_fd().map_err(DirError::into_io)?;
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let spawned = launch::spawn(plan, cgroup.as_fd(), [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], method);
        let child = match spawned {
            Ok(child) => child,
            Err(error) => return Ok(facets(error)),
        };
        self.note(prepared, Some(child.pid));
        let mut out = facets(StartError::refused(Stage::Spawn, "it was not followed"));

        terminal.launched();
        let mut watch = Watch { dir, signals: self.signals, ladder, terminal, child: Some(child) };
        let mut ended = clock::monotonic();
        let began = match watch.confirm()? {
            Launch::Runs(since) => {
                watch.ladder.started(since, self.request.timeout);
                // Microseconds, as in events.
                out.started = Some(format!("{:.6}", clock::wall()));
                Some(since)
            }
            Launch::Failed(error, status) => {
                // Killed by somebody before it could exec is no fault of the way in.
                out.end = match status {
                    crate::model::ExitStatus::Signaled { signal, .. }
                        if error.is_spawn_fault() && (signal != SIGKILL || watch.ladder.asked().kill.is_some()) =>
                    {
                        Ok(status)
                    }
                    _ => Err(error),
                };
                out.after = events::read(dir).map_err(DirError::into_io)?;
                None
            }
        };
        if let Some(began) = began {
            let end = watch.main_process()?;
            out.end = Ok(end.status);
            out.after = end.counters;
            ended = end.at;
            out.wall_ms = u64::try_from(end.at.since(began).as_millis()).unwrap_or(u64::MAX);
        }
        out.above = above(prepared, out.after, ended);
        out.asked = watch.ladder.asked();
        out.timed_out = watch.ladder.timed_out();
        out.leftover = !watch.drain()?;
        out.usage = Some(watch.usage());
        Ok(out)
    }

    fn note(&self, prepared: &Prepared, pid: Option<i32>) {
        let note = RunNote {
            v: 1,
            uuid: self.uuid.to_owned(),
            run: prepared.run.clone(),
            spec_hash: 0,
            breaker: crate::policy::breaker::Saved::default(),
            restarts: crate::model::RestartCounts::default(),
            desired_up: false,
            pid,
            pid_start_ticks: None,
            boot_id: boot_id().unwrap_or_default(),
            started_mono_ns: pid.map(|_| clock::monotonic().as_nanos()),
            baseline: prepared.before,
            ending: None,
            untold: Vec::new(),
        };
        if let Err(err) = note::write(&prepared.dir, self.place.tree.xattrs, &note) {
            say(&format!("the run cannot be recorded: {}", chain(&err)));
        }
    }
}

/// Whether the way into the cgroup failed, and not the command: clone3(2) is missing or forbidden, or the kernel has the
/// bug that kills a child at its birth.
fn retry_by_moving(error: &StartError) -> bool {
    let refused = [nix::libc::ENOSYS, nix::libc::EPERM, nix::libc::E2BIG, nix::libc::EINVAL];
    error.is_spawn_fault() || (error.stage == Stage::Clone && refused.contains(&error.errno))
}

/// What is above the run, where it lost a process to a limit there or to the host.
fn above(prepared: &Prepared, after: Counters, end: Mono) -> Option<Box<AboveReading>> {
    let mut kills = Kills::since(prepared.before);
    kills.read(end, after);
    kills.from_above().map(|dead| Box::new(prepared.above.read(None, dead, clock::monotonic())))
}

/// Removes the run's directory. Right after a mass exit the kernel can be busy with it although `populated` is 0, and
/// says nothing when it is done: looked at again when its events change, or after 2, 4, … 512 ms.
fn remove(runs: &Dir, dir: &Dir) -> Result<(), DirError> {
    let mut tries = 0;
    loop {
        match kill::remove(runs, dir.name()) {
            Err(err) if err.is_busy() && tries < REMOVE_TRIES && !dir.populated().unwrap_or(true) => {
                tries += 1;
                let changes = dir.open_events()?;
                let time = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 1_000_000 << tries.min(9) };
                let mut fds = [rustix::event::PollFd::new(&changes, rustix::event::PollFlags::PRI)];
                if rustix::event::poll(&mut fds, Some(&time)).is_err() {
                    return Err(err);
                }
            }
            other => return other,
        }
    }
}

/// umask(2) cannot be asked without being set; nothing else runs in between, there is one thread.
fn own_umask() -> u32 {
    let now = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(now);
    now.bits()
}
