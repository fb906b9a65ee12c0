//! A launch in the loop: its plan read, its confirmation pipe watched, and what has become of it told.

use std::os::fd::OwnedFd;

use rustix::event::epoll;

use super::{FIRST_LAUNCH, Keeper};
use crate::keeper::protocol::FromKeeper;
use crate::keeper::role::say;
use crate::keeper::runs::{Launch, Reaped};
use crate::keeper::transport::{self, TransportError};
use crate::kernel::launch;
use crate::kernel::launch::plan::LaunchPlan;
use crate::model::{ExitStatus, Mono, RunId, Stage, StartError, chain};

impl Keeper {
    pub(super) fn read_plan(&self, run: &RunId, fds: Vec<OwnedFd>) -> Result<(OwnedFd, Box<LaunchPlan>), StartError> {
        let refused = |why: &str| StartError::refused(Stage::Keeper, format!("the launch of {run} was refused: {why}"));
        if self.runs.knows(run) {
            return Err(refused("it is known already"));
        }
        let unreadable = |e: TransportError| refused(&chain(&e));
        let [cgroup, body] = transport::exactly(fds).map_err(unreadable)?;
        let mut plan: Box<LaunchPlan> = transport::open_body(body).map_err(unreadable)?;
        if !plan.rlimits.iter().any(|limit| limit.resource == self.descriptors.resource) {
            plan.rlimits.push(self.descriptors);
        }
        Ok((cgroup, plan))
    }

    pub(super) fn watch_launch(&mut self, token: u64) {
        let Some(launch) = self.runs.in_flight(token) else { return };
        let data = epoll::EventData::new_u64(token + FIRST_LAUNCH);
        // No flag: only the pipe's end wakes us, with everything in it, instead of "about to exec" and then the end.
        // Where this fails, the child's own end or the launch's deadline still tells.
        if let Err(e) = epoll::add(&self.epoll, &launch.child.confirm, data, epoll::EventFlags::empty()) {
            say("keeper", &format_args!("epoll: {e}"));
        }
    }

    pub(super) fn unwatch_launch(&self, launch: &Launch) {
        if let Err(e) = epoll::delete(&self.epoll, &launch.child.confirm) {
            say("keeper", &format_args!("epoll: {e}"));
        }
    }

    pub(super) fn launched(&mut self, launch: Launch, now: Mono) {
        if let Some(better) = launch.proven_method().filter(|method| *method != self.method) {
            say("keeper", &format_args!("launching by {better:?} from now on: the other way lost a child at birth"));
            self.method = better;
        }
        let (large, run, pid) = (launch.plan_was_large, launch.run, launch.child.pid);
        self.runs.is_alive(run.clone(), pid, now);
        // First of all: from here on its output no longer depends on us.
        self.logs.attach(&run, launch.logs, launch.ends);
        if self.supervisor.is_listening() {
            let news = FromKeeper::Launched { run, pid, at: now };
            self.supervisor.tell(&news, vec![launch.child.pidfd], now);
        }
        if large {
            launch::give_back();
        }
    }

    pub(super) fn launch_reaped(&mut self, token: u64, status: ExitStatus, now: Mono) {
        match self.runs.child_reaped(token) {
            Some(Reaped::Ran(launch)) => {
                let pid = launch.child.pid;
                self.unwatch_launch(&launch);
                self.launched(*launch, now);
                self.run_ended(pid, status, now);
            }
            Some(Reaped::Failed(run, error)) => self.tell_failed(run, error, now),
            None => {}
        }
    }

    pub(super) fn tell_failed(&mut self, run: RunId, error: StartError, now: Mono) {
        self.runs.failed(run.clone(), error.clone());
        if self.supervisor.is_listening() {
            self.supervisor.tell(&FromKeeper::Failed { run, error }, Vec::new(), now);
        }
    }
}
