//! The keeper becomes one of another binary: same process, so that children, their statuses and systemd stay its own.
//!
//! ```text
//!  Reexec ─▶ the supervisor ends ─▶ nothing is in flight ─▶ exec ─▶ take over, reap, start a supervisor
//!                                          └ not in time    └ fails ─▶ a supervisor of the old binary
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll;

use super::{FIRST_LAUNCH, Failure, Keeper, LOGGER};
use crate::keeper::handover::{Left, State};
use crate::keeper::role::say;
use crate::keeper::setup::{Leaf, Setup};
use crate::keeper::transport::TransportError;
use crate::kernel::inherit::Inherited;
use crate::kernel::launch;
use crate::model::Mono;

/// How long a launch in flight may hold an exec up, from the end of the supervisor on: longer than its own deadline. What
/// survives SIGKILL must not leave the host without a supervisor.
const IN_FLIGHT: Duration = Duration::from_secs(40);

/// Another binary, verified by the supervisor.
pub(super) struct Pending {
    file: OwnedFd,
    pub(super) version: String,
    /// Since the supervisor has ended.
    give_up_at: Option<Mono>,
}

impl Keeper {
    /// The supervisor has found a binary to follow us.
    pub(super) fn accept(&mut self, version: String, fds: Vec<OwnedFd>, now: Mono) {
        let Some(file) = fds.into_iter().next() else {
            // It has let go of everything: another takes its place.
            return self.supervisor.give_up("the new binary did not come with its request");
        };
        self.reexec = Some(Pending { file, version, give_up_at: None });
        self.supervisor.makes_way(now);
    }

    /// The supervisor has ended while a binary waits to follow us.
    pub(super) fn wait_for_launches(&mut self, now: Mono) {
        if let Some(pending) = &mut self.reexec {
            pending.give_up_at = Some(now + IN_FLIGHT);
        }
    }

    pub(super) fn reexec_deadline(&self) -> Option<Mono> {
        self.reexec.as_ref().and_then(|pending| pending.give_up_at)
    }

    /// Executes what waits to be, when nothing is in the way any more. Returns where it does not come to that, or fails.
    pub(super) fn reexecute_when_ready(&mut self, now: Mono) {
        let Some(give_up_at) = self.reexec_deadline() else { return };
        let in_flight = self.runs.launches().next().is_some();
        if in_flight && now < give_up_at {
            return;
        }
        let Some(Pending { file, .. }) = self.reexec.take() else { return };
        let error = if in_flight {
            io::Error::new(io::ErrorKind::TimedOut, "a launch in flight did not end")
        } else {
            self.execute(&file)
        };
        say("keeper", &format_args!("the new binary could not be executed: {error}; this one goes on"));
        self.supervisor.stays(&error, now);
    }

    /// Returns only where it fails; everything is as before then.
    fn execute(&self, file: &OwnedFd) -> io::Error {
        let mut left = Left::default();
        let state = State {
            reexecs: self.reexecs + 1,
            descriptors: self.descriptors,
            method: self.method,
            supervisor: self.supervisor.leave(),
            logs: self.logs.leave(&mut left),
            runs: self.runs.leave(&mut left),
        };
        match self.setup(&state) {
            Ok(setup) => setup.become_keeper_of(file),
            Err(e) => io::Error::other(e),
        }
    }

    fn setup(&self, state: &State) -> Result<Setup, TransportError> {
        let leaf = |leaf: &Option<Leaf>| -> io::Result<Option<Leaf>> {
            let Some(Leaf { name, directory }) = leaf else { return Ok(None) };
            Ok(Some(Leaf { name: name.clone(), directory: directory.try_clone()? }))
        };
        Ok(Setup {
            supervisor_args: self.supervisor_args.clone(),
            method: self.method,
            supervisor_leaf: leaf(&self.supervisor_leaf).map_err(TransportError::Io)?,
            logger_leaf: leaf(&self.logger_leaf).map_err(TransportError::Io)?,
            logger: None,
            state: Some(state.seal()?),
            waiter: self.waiter.as_ref().map(OwnedFd::try_clone).transpose().map_err(TransportError::Io)?,
            keep: self.keep.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>().map_err(TransportError::Io)?,
        })
    }

    /// Goes on as the keeper that has executed us.
    pub(super) fn take_over(&mut self, memfd: OwnedFd, now: Mono) -> Result<(), Failure> {
        let State { reexecs, descriptors, method, supervisor, logs, runs } =
            State::open(memfd).map_err(Failure::Setup)?;
        let mut inherited = Inherited::claim()
            .ok_or_else(|| Failure::at("what is inherited")(io::Error::other("it was taken over before")))?;
        (self.reexecs, self.descriptors, self.method) = (reexecs, descriptors, method);
        // It was due in between.
        self.watchdog_at = self.systemd.watchdog.map(|_| now);
        self.supervisor.take_over(supervisor, now);
        self.logs.take_over(logs, &mut inherited);
        self.runs.take_over(runs, &mut inherited);
        inherited.leave_the_rest().map_err(Failure::at("close_range"))?;
        self.watch(LOGGER);
        for (token, adopted) in self.runs.all_adopted() {
            let data = epoll::EventData::new_u64(token + FIRST_LAUNCH);
            epoll::add(&self.epoll, &adopted.pidfd, data, epoll::EventFlags::IN).map_err(Failure::at("epoll"))?;
        }
        launch::give_back();
        Ok(())
    }
}
