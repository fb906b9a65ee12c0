//! The workers' lives as the keeper knows them: in flight, alive, ended until acknowledged.
//!
//! ```text
//!             ┌ confirmed ──────────────▶ alive ── reaped ──▶ ended ── Ack ──▶ forgotten
//!   in flight ┤
//!             └ failed ─▶ doomed ─ reaped ┬ a spawn fault, once: in flight again, by the other method
//!                                         └ failed ── Ack ──▶ forgotten
//! ```
//!
//! A child is found by its number, which is its own until we reap it. No descriptor is kept for a child that lives: its
//! pidfd is opened where somebody asks for it, so that ten thousand workers fit under a limit of twenty thousand files.
//! What an earlier keeper had launched is no child of ours, and its number is nobody's promise: of those the pidfd is kept.

mod handover;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::logs::Ends;
use super::protocol::LogFiles;
use crate::kernel::launch::plan::LaunchPlan;
use crate::kernel::launch::{self, Child, Method, Progress};
use crate::kernel::pidfd;
use crate::model::{ExitStatus, Mono, RunId, Stage, StartError, Way};

/// How long from clone to exec. A `cpu.max` of 1 % can stretch an exec over seconds; what takes longer than this is
/// stuck: frozen meanwhile, or on a file system that does not answer.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);

/// A launch between clone and confirmed exec.
pub(super) struct Launch {
    pub(super) run: RunId,
    pub(super) logs: LogFiles,
    pub(super) ends: Ends,
    pub(super) child: Child,
    /// Whether the plan was large enough to leave a hole in the heap.
    pub(super) plan_was_large: bool,
    method: Method,
    way: Way,
    deadline: Mono,
    doomed: Option<StartError>,
}

/// A run that is no longer in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    Alive {
        pid: i32,
        at: Mono,
    },
    /// Of an earlier keeper, under this token.
    Adopted {
        pid: i32,
        at: Mono,
        token: u64,
    },
    Ended {
        pid: i32,
        status: Option<ExitStatus>,
        at: Mono,
    },
    /// Never ran.
    Failed(StartError),
}

/// The main process of a run that an earlier keeper had launched.
pub(super) struct Adopted {
    pub(super) run: RunId,
    pub(super) pidfd: OwnedFd,
    pid: i32,
    start_ticks: u64,
}

/// What a launch's confirmation pipe said.
pub(super) enum Outcome {
    Pending,
    Execed(Box<Launch>),
    /// Its child is on its way out; reaping it decides.
    Doomed,
}

/// What the end of a launch's child means.
pub(super) enum Reaped {
    /// It had executed its program after all, and that has ended.
    Ran(Box<Launch>),
    Failed(RunId, StartError),
}

#[derive(Default)]
pub(super) struct Runs {
    launches: HashMap<u64, Launch>,
    adopted: HashMap<u64, Adopted>,
    lives: HashMap<RunId, Life>,
    launching: HashMap<RunId, u64>,
    launching_by_pid: HashMap<i32, u64>,
    alive_by_pid: HashMap<i32, RunId>,
    last_token: u64,
}

impl Runs {
    pub(super) fn knows(&self, run: &RunId) -> bool {
        self.lives.contains_key(run) || self.launching.contains_key(run)
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = (&RunId, &Life)> {
        self.lives.iter()
    }

    /// The runs in flight.
    pub(super) fn launches(&self) -> impl Iterator<Item = &RunId> {
        self.launching.keys()
    }

    pub(super) fn life(&self, run: &RunId) -> Option<&Life> {
        self.lives.get(run)
    }

    /// Makes the child. Returns the token under which it is in flight.
    pub(super) fn launch(
        &mut self,
        what: (RunId, LogFiles, Box<LaunchPlan>, OwnedFd),
        null: &OwnedFd,
        (way, method): (Way, Method),
        now: Mono,
    ) -> Result<u64, (RunId, StartError)> {
        let (run, logs, plan, cgroup) = what;
        let born = Ends::new(plan.ids.as_ref().map(|ids| ids.uid)).and_then(|ends| {
            let child = spawn(&plan, &cgroup, null, &ends, method)?;
            Ok((ends, child))
        });
        match born {
            Ok((ends, child)) => {
                let deadline = now + EXEC_DEADLINE;
                let plan_was_large = is_large(&plan);
                let launch = Launch { run, logs, ends, child, plan_was_large, method, way, deadline, doomed: None };
                Ok(self.put_in_flight(launch))
            }
            Err(e) => Err((run, e)),
        }
    }

    fn put_in_flight(&mut self, launch: Launch) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.launching.insert(launch.run.clone(), token);
        self.launching_by_pid.insert(launch.child.pid, token);
        self.launches.insert(token, launch);
        token
    }

    pub(super) fn in_flight(&self, token: u64) -> Option<&Launch> {
        self.launches.get(&token)
    }

    fn take(&mut self, token: u64) -> Option<Box<Launch>> {
        let launch = self.launches.remove(&token)?;
        self.launching.remove(&launch.run);
        self.launching_by_pid.remove(&launch.child.pid);
        Some(Box::new(launch))
    }

    /// Looks at a confirmation pipe.
    pub(super) fn confirm(&mut self, token: u64) -> Outcome {
        let Some(launch) = self.launches.get_mut(&token) else { return Outcome::Pending };
        if launch.doomed.is_some() {
            return Outcome::Doomed;
        }
        match launch.child.confirm.poll() {
            Progress::Pending => Outcome::Pending,
            Progress::Execed => self.take(token).map_or(Outcome::Pending, Outcome::Execed),
            Progress::Failed(e) => {
                launch.doomed = Some(e);
                Outcome::Doomed
            }
        }
    }

    pub(super) fn is_alive(&mut self, run: RunId, pid: i32, at: Mono) {
        self.alive_by_pid.insert(pid, run.clone());
        self.lives.insert(run, Life::Alive { pid, at });
    }

    /// The run behind a child, where it lives.
    pub(super) fn alive(&self, pid: i32) -> Option<&RunId> {
        self.alive_by_pid.get(&pid)
    }

    /// The launch behind a child.
    pub(super) fn launching(&self, pid: i32) -> Option<u64> {
        self.launching_by_pid.get(&pid).copied()
    }

    /// Takes over the main process of an earlier keeper's run. Returns the token of its pidfd.
    pub(super) fn adopt(&mut self, run: RunId, (pid, start_ticks): (i32, u64), at: Mono, pidfd: OwnedFd) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.lives.insert(run.clone(), Life::Adopted { pid, at, token });
        self.adopted.insert(token, Adopted { run, pidfd, pid, start_ticks });
        token
    }

    /// An earlier keeper's run whose main process is gone, and nobody knows how it ended.
    pub(super) fn ended_unseen(&mut self, run: RunId, pid: i32, at: Mono) {
        self.lives.insert(run, Life::Ended { pid, status: None, at });
    }

    /// The adopted process behind a token.
    pub(super) fn adopted(&self, token: u64) -> Option<&Adopted> {
        self.adopted.get(&token)
    }

    /// The main process of a live run was reaped.
    pub(super) fn ended(&mut self, pid: i32, status: ExitStatus, at: Mono) -> Option<RunId> {
        let run = self.alive_by_pid.remove(&pid)?;
        self.lives.insert(run.clone(), Life::Ended { pid, status: Some(status), at });
        Some(run)
    }

    /// An adopted process has ended.
    pub(super) fn adopted_ended(&mut self, token: u64, at: Mono) -> Option<(RunId, i32, Option<ExitStatus>)> {
        let Adopted { run, pidfd, pid, start_ticks } = self.adopted.remove(&token)?;
        let status = pidfd::end_of_stranger(pidfd.as_fd(), pid, start_ticks);
        self.lives.insert(run.clone(), Life::Ended { pid, status, at });
        Some((run, pid, status))
    }

    /// A run that never ran. One that is known by that name already is another.
    pub(super) fn failed(&mut self, run: RunId, error: StartError) {
        if !self.launching.contains_key(&run) {
            self.lives.entry(run).or_insert(Life::Failed(error));
        }
    }

    /// Forgets an ended run. One that lives is not forgotten, whatever somebody says.
    pub(super) fn forget(&mut self, run: &RunId) {
        if !matches!(self.lives.get(run), Some(Life::Alive { .. } | Life::Adopted { .. })) {
            self.lives.remove(run);
        }
    }

    /// The child of a launch in flight was reaped. One that was lost at birth is not made again here: whether somebody
    /// has killed it meanwhile, the supervisor knows.
    pub(super) fn child_reaped(&mut self, token: u64) -> Option<Reaped> {
        if let Outcome::Execed(launch) = self.confirm(token) {
            return Some(Reaped::Ran(launch));
        }
        let mut launch = self.take(token)?;
        // The pipe has ended with the child, unless somebody else was given its end.
        let pending = || StartError::refused(Stage::Spawn, format!("the child of {} died in silence", launch.run));
        let error = launch.doomed.take().unwrap_or_else(pending);
        Some(Reaped::Failed(launch.run, error))
    }

    /// The next deadline of a launch in flight.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.launches.values().filter(|l| l.doomed.is_none()).map(|l| l.deadline).min()
    }

    /// Kills the children whose time is over; their reaping tells the rest.
    pub(super) fn tick(&mut self, now: Mono) {
        for launch in self.launches.values_mut().filter(|l| l.doomed.is_none() && l.deadline <= now) {
            let seconds = EXEC_DEADLINE.as_secs();
            let sentence = format!("{} had not executed its program after {seconds} s", launch.run);
            launch.doomed = Some(StartError::refused(Stage::Timeout, sentence));
            if let Err(e) = pidfd::signal(launch.child.pidfd.as_fd(), libc::SIGKILL) {
                super::role::say("keeper", &format_args!("SIGKILL to the child of {}: {e}", launch.run));
            }
        }
    }

    /// Everything in flight, given up for the sake of its pipes: the keeper exits.
    pub(super) fn abandon(&mut self) -> Vec<Launch> {
        self.launches.drain().map(|(_, launch)| launch).collect()
    }
}

impl Launch {
    /// The method that it has shown to work where the usual one had lost a child.
    pub(super) fn proven_method(&self) -> Option<Method> {
        (self.way == Way::Other).then_some(self.method)
    }
}

fn is_large(plan: &LaunchPlan) -> bool {
    let strings = plan.argv.iter().chain(&plan.env);
    strings.map(|s| s.len()).sum::<usize>() > 64 * 1024
}

fn spawn(
    plan: &LaunchPlan,
    cgroup: &OwnedFd,
    null: &OwnedFd,
    ends: &Ends,
    method: Method,
) -> Result<Child, StartError> {
    let [stdout, stderr] = ends.for_worker();
    launch::spawn(plan, cgroup.as_fd(), [null.as_fd(), stdout.as_fd(), stderr.as_fd()], method)
}
