//! The keeper's loop: one event at a time, and no step that waits.
//!
//! What it keeps is in `runs`, `supervisor` and `logs`; here events are read, and what follows from one for another
//! part is done.

mod launching;
mod lives;
mod reexec;
mod waiter;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::epoll;

use super::logs::{self, Logs};
use super::protocol::{FromKeeper, ToKeeper};
use super::role::{self, Binary, say};
use super::runs::{Outcome, Runs};
use super::setup::{Leaf, Setup};
use super::signals::Signals;
use super::supervisor::{End, Supervisor};
use super::systemd::Systemd;
use super::transport::{Inbox, TransportError};
use crate::clock::monotonic;
use crate::kernel::launch::Method;
use crate::kernel::launch::plan::{Rlimit, Session};
use crate::kernel::pidfd::{self, Whom};
use crate::model::{ExitStatus, Mono, RunId, Way, chain};

/// What became readable. Launches in flight and adopted processes have the tokens from here on.
const SIGNALS: u64 = 0;
const SUPERVISOR: u64 = 1;
const LOGGER: u64 = 2;
const WAITER: u64 = 3;
const FIRST_LAUNCH: u64 = 16;

/// The keeper, from [`Setup`] in its standard input to the exit of its supervisor.
#[must_use]
pub fn main() -> ExitCode {
    match Keeper::begin().and_then(|mut keeper| keeper.work()) {
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        Err(e) => {
            say("keeper", &chain(&e));
            ExitCode::FAILURE
        }
    }
}

struct Keeper {
    epoll: OwnedFd,
    signals: Signals,
    systemd: Systemd,
    watchdog_at: Option<Mono>,
    binary: Binary,
    null: OwnedFd,
    /// What a worker gets where its plan sets none: ours was raised.
    descriptors: Rlimit,
    method: Method,
    supervisor_args: Vec<OsString>,
    supervisor_leaf: Option<Leaf>,
    logger_leaf: Option<Leaf>,
    supervisor: Supervisor,
    logs: Logs,
    runs: Runs,
    inbox: Inbox,
    /// Whether the supervisor's and the logger's socket are watched for room too.
    wants_room: [bool; 2],
    /// Held, and given to each supervisor to hold, so that no other takes our place while one of us lives.
    keep: Vec<OwnedFd>,
    /// Who waits until every worker was started, until they are.
    waiter: Option<OwnedFd>,
    /// A binary that is executed once the supervisor has ended.
    reexec: Option<reexec::Pending>,
    /// How often that was done.
    reexecs: u32,
}

impl Keeper {
    fn begin() -> Result<Self, Failure> {
        let setup = Setup::receive().map_err(Failure::Setup)?;
        drop(role::begin(c"pinfold-keeper").map_err(Failure::at("standard input"))?);
        role::protect().map_err(Failure::at("oom_score_adj"))?;
        // Orphans of workers come to us, so that no zombie keeps a number that somebody still means.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Failure::at("subreaper"))?;
        let signals = Signals::block().map_err(Failure::at("signalfd"))?;
        let systemd = Systemd::from_env().map_err(Failure::at("NOTIFY_SOCKET"))?;
        let before = role::raise_descriptor_limit().map_err(Failure::at("RLIMIT_NOFILE"))?;
        let infinite = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let descriptors =
            Rlimit { resource: libc::RLIMIT_NOFILE, soft: infinite(before.current), hard: infinite(before.maximum) };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failure::at("epoll"))?;
        let now = monotonic();
        let mut logs = Logs::new(now, setup.method);
        if let Some(running) = setup.logger {
            logs.adopt(running.pid, running.socket, now);
        }
        let mut keeper = Self {
            watchdog_at: systemd.watchdog.map(|limit| now + limit / 2),
            supervisor: Supervisor::new(now, setup.method, systemd.watchdog),
            epoll,
            signals,
            systemd,
            binary: Binary::running().map_err(Failure::at("/proc/self/exe"))?,
            null: logs::null().map_err(Failure::at("/dev/null"))?,
            descriptors,
            method: setup.method,
            supervisor_args: setup.supervisor_args,
            supervisor_leaf: setup.supervisor_leaf,
            logger_leaf: setup.logger_leaf,
            logs,
            runs: Runs::default(),
            inbox: Inbox::default(),
            wants_room: [false; 2],
            keep: setup.keep,
            waiter: setup.waiter,
            reexec: None,
            reexecs: 0,
        };
        let readable = epoll::EventFlags::IN;
        let data = epoll::EventData::new_u64;
        epoll::add(&keeper.epoll, &keeper.signals, data(SIGNALS), readable).map_err(Failure::at("epoll"))?;
        if let Some(socket) = keeper.logs.socket() {
            epoll::add(&keeper.epoll, socket, data(LOGGER), readable).map_err(Failure::at("epoll"))?;
        }
        if let Some(waiter) = &keeper.waiter {
            epoll::add(&keeper.epoll, waiter, data(WAITER), readable).map_err(Failure::at("epoll"))?;
        }
        if let Some(memfd) = setup.state {
            keeper.take_over(memfd, now)?;
        }
        Ok(keeper)
    }

    /// The supervisor's exit code.
    fn work(&mut self) -> Result<i32, Failure> {
        let mut events = Vec::with_capacity(64);
        // What ended before anybody looked. No supervisor runs yet, so nothing follows for us.
        self.reap(monotonic())?;
        loop {
            let looked = monotonic();
            self.reexecute_when_ready(looked);
            self.ask_for_room()?;
            let timeout = self.deadline().map(|at| timespec(at.since(looked)));
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Failure::at("epoll_wait")(e)),
            }
            let now = monotonic();
            for event in &events {
                let ended = match event.data.u64() {
                    SIGNALS => self.take_signals(now)?,
                    SUPERVISOR => {
                        self.supervisor.flush();
                        self.hear_supervisor(now);
                        None
                    }
                    LOGGER => {
                        self.logs.flush();
                        self.hear_logger(now);
                        None
                    }
                    WAITER => {
                        self.abandoned();
                        None
                    }
                    other => {
                        self.look_at(other - FIRST_LAUNCH, now);
                        None
                    }
                };
                if let Some(code) = ended {
                    self.hand_pipes_over();
                    return Ok(code);
                }
            }
            // Nobody is given up for what only waits to be read: it may be us who are late, stopped or kept from the processor. So
            // time has come no further than to the last look at everything.
            if events.len() < events.capacity() {
                self.tick(looked);
            }
        }
    }

    fn deadline(&self) -> Option<Mono> {
        let all = [self.supervisor.deadline(), self.logs.deadline(), self.runs.deadline(), self.watchdog_at];
        all.into_iter().chain([self.reexec_deadline()]).flatten().min()
    }

    fn tick(&mut self, now: Mono) {
        self.supervisor.tick(now);
        self.runs.tick(now);
        self.logs.tick(now);
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        if due(self.logs.restart_at()) {
            let leaf = self.logger_leaf.as_ref().map(|leaf| (leaf, self.logs.method()));
            let started = self.binary.start(role::LOGGER, &[], leaf, Session::New);
            self.logs.started(started, now);
            self.watch(LOGGER);
        }
        if due(self.supervisor.restart_at()) {
            let leaf = self.supervisor_leaf.as_ref().map(|leaf| (leaf, self.supervisor.method()));
            // An own process group: a terminal's Ctrl-C reaches the keeper alone, which forwards it once.
            let started = self.binary.start(role::SUPERVISOR, &self.supervisor_args, leaf, Session::Group);
            self.supervisor.started(started, now);
            self.watch(SUPERVISOR);
        }
        if due(self.watchdog_at) {
            if self.supervisor.is_greeted() {
                self.supervisor.ping(now);
            } else {
                // Between two supervisors the keeper is what lives, and it is at work on the next.
                self.notify("WATCHDOG=1");
            }
            self.watchdog_at = self.systemd.watchdog.map(|limit| now + limit / 2);
        }
    }

    fn notify(&self, state: &str) {
        if let Err(e) = self.systemd.notify(state) {
            say("keeper", &format_args!("to systemd: {e}"));
        }
    }

    /// Puts a new socket under watch.
    fn watch(&mut self, who: u64) {
        let (socket, wants_room) = match (who, &mut self.wants_room) {
            (LOGGER, [_, logger]) => (self.logs.socket(), logger),
            (_, [supervisor, _]) => (self.supervisor.socket(), supervisor),
        };
        *wants_room = false;
        let Some(socket) = socket else { return };
        let data = epoll::EventData::new_u64(who);
        if let Err(e) = epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN) {
            say("keeper", &format_args!("epoll: {e}"));
        }
    }

    /// Also waits for room where messages wait for it.
    fn ask_for_room(&mut self) -> Result<(), Failure> {
        let ends = [
            (SUPERVISOR, self.supervisor.socket(), self.supervisor.has_more_to_send()),
            (LOGGER, self.logs.socket(), self.logs.has_more_to_send()),
        ];
        for ((who, socket, more), asked) in ends.into_iter().zip(&mut self.wants_room) {
            let Some(socket) = socket.filter(|_| *asked != more) else { continue };
            *asked = more;
            let flags = if more { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            let data = epoll::EventData::new_u64(who);
            epoll::modify(&self.epoll, socket, data, flags).map_err(Failure::at("epoll"))?;
        }
        Ok(())
    }

    /// Takes a socket out of the watch, and closes it.
    fn close(&self, socket: Option<OwnedFd>) {
        // Closing alone is not enough: a child between clone and exec has a copy.
        if let Some(Err(e)) = socket.map(|socket| epoll::delete(&self.epoll, &socket)) {
            say("keeper", &format_args!("epoll: {e}"));
        }
    }

    fn take_signals(&mut self, now: Mono) -> Result<Option<i32>, Failure> {
        while let Some(signal) = self.signals.next().map_err(Failure::at("signalfd"))? {
            if signal == libc::SIGCHLD {
                self.supervisor.look_for_a_stop(now);
                self.logs.look_for_a_stop(now);
                if let Some(code) = self.reap(now)? {
                    return Ok(Some(code));
                }
            } else {
                self.supervisor.signal(signal);
            }
        }
        Ok(None)
    }

    /// Reaps whatever has ended: looks first whose it is, so that no status of ours is lost on a stranger.
    fn reap(&mut self, now: Mono) -> Result<Option<i32>, Failure> {
        while let Some(pid) = pidfd::next_dead().map_err(Failure::at("waitid"))? {
            let Some(status) = pidfd::reap(Whom::Pid(pid)).map_err(Failure::at("waitid"))? else { continue };
            if self.supervisor.pid() == Some(pid) {
                self.hear_supervisor(now);
                let socket = self.supervisor.hang_up(now);
                self.close(socket);
                let end = self.supervisor.ended(status, now);
                if let Some(pending) = &self.reexec {
                    self.supervisor.made_way(&end, &pending.version);
                    self.wait_for_launches(now);
                } else if let End::Leave(code) = end {
                    return Ok(Some(code));
                }
            } else if self.logs.pid() == Some(pid) {
                self.hear_logger(now);
                let socket = self.logs.hang_up();
                self.close(socket);
                self.logs.ended(now);
            } else if let Some(token) = self.runs.launching(pid) {
                self.launch_reaped(token, status, now);
            } else if self.runs.alive(pid).is_some() {
                self.run_ended(pid, status, now);
            }
            // Anybody else was a worker's orphan.
        }
        Ok(None)
    }

    /// Everything the supervisor has said; also what it said before it died.
    fn hear_supervisor(&mut self, now: Mono) {
        loop {
            let Some(socket) = self.supervisor.socket() else { return };
            match self.inbox.recv::<ToKeeper>(socket.as_fd()) {
                Ok(got) => {
                    self.supervisor.heard();
                    self.obey(got.message, got.fds, now);
                }
                Err(TransportError::WouldBlock) => return,
                Err(e @ (TransportError::Gone | TransportError::Io(_))) => {
                    if let TransportError::Io(e) = e {
                        say("keeper", &format_args!("from the supervisor: {e}"));
                    }
                    let socket = self.supervisor.hang_up(now);
                    return self.close(socket);
                }
                Err(e) => say("keeper", &format_args!("from the supervisor: {}", chain(&e))),
            }
        }
    }

    fn obey(&mut self, message: ToKeeper, fds: Vec<OwnedFd>, now: Mono) {
        match message {
            ToKeeper::Hello { version } => {
                let locks = self.keep.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
                if let Err(e) = &locks {
                    say("keeper", &format_args!("the supervisor holds no lock: {e}"));
                }
                self.supervisor.greet(version, self.reexecs, locks.unwrap_or_default());
            }
            ToKeeper::Launch { run, logs, way } => {
                self.supervisor.listens();
                let method = match way {
                    Way::Usual => self.method,
                    Way::Other => self.method.other(),
                };
                let told = self.read_plan(&run, fds).map_err(|e| (run.clone(), e)).and_then(|(cgroup, plan)| {
                    self.runs.launch((run, logs, plan, cgroup), &self.null, (way, method), now)
                });
                match told {
                    Ok(token) => self.watch_launch(token),
                    Err((run, error)) => self.tell_failed(run, error, now),
                }
            }
            ToKeeper::Adopt { run, pid, start_ticks, at } => {
                self.supervisor.listens();
                self.adopt(run, (pid, start_ticks), at, fds, now);
            }
            ToKeeper::Ack { run } => self.runs.forget(&run),
            ToKeeper::List => self.list(now),
            ToKeeper::TookOver => self.supervisor.took_over(),
            ToKeeper::GoingDown => self.supervisor.goes_down(),
            ToKeeper::Signal { run, signal } => self.signal_run(&run, signal),
            ToKeeper::Reexec { version } => self.accept(version, fds, now),
            ToKeeper::Notify { state } => {
                self.tell_waiter(&state);
                self.notify(&state);
            }
            ToKeeper::Pong { .. } => {
                if self.systemd.watchdog.is_some() {
                    self.notify("WATCHDOG=1");
                }
            }
        }
    }

    /// A confirmation pipe has something to say, or an adopted process has ended.
    fn look_at(&mut self, token: u64, now: Mono) {
        if self.runs.adopted(token).is_some() {
            return self.adopted_ended(token, now);
        }
        match self.runs.confirm(token) {
            Outcome::Pending => {}
            Outcome::Execed(launch) => {
                self.unwatch_launch(&launch);
                self.launched(*launch, now);
            }
            Outcome::Doomed => {
                if let Some(launch) = self.runs.in_flight(token) {
                    self.unwatch_launch(launch);
                }
            }
        }
    }

    fn run_ended(&mut self, pid: i32, status: ExitStatus, now: Mono) {
        if let Some(run) = self.runs.ended(pid, status, now) {
            self.tell_ended(run, pid, Some(status), now);
        }
    }

    fn tell_ended(&mut self, run: RunId, pid: i32, status: Option<ExitStatus>, now: Mono) {
        if self.supervisor.is_listening() {
            self.supervisor.tell(&FromKeeper::Exited { run, pid, status, at: now }, Vec::new(), now);
        }
    }

    fn hear_logger(&mut self, now: Mono) {
        let Self { supervisor, .. } = self;
        let tell = |news| {
            if supervisor.is_listening() {
                supervisor.tell(&news, Vec::new(), now);
            }
        };
        if self.logs.socket().is_some() && !self.logs.read(&mut self.inbox, tell) {
            let socket = self.logs.hang_up();
            self.close(socket);
        }
    }

    /// The keeper exits: the logger, which stays, gets what it has not got yet, those of launches in flight included.
    fn hand_pipes_over(&mut self) {
        for launch in self.runs.abandon() {
            self.logs.attach(&launch.run, launch.logs, launch.ends);
        }
        let deadline = monotonic() + Duration::from_secs(1);
        while self.logs.has_more_to_send() && monotonic() < deadline {
            let Some(socket) = self.logs.socket() else { return };
            let mut poll = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
            if rustix::event::poll(&mut poll, Some(&timespec(deadline.since(monotonic())))).is_err() {
                return;
            }
            self.logs.flush();
        }
    }
}

fn timespec(d: Duration) -> rustix::event::Timespec {
    let secs = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    rustix::event::Timespec { tv_sec: secs, tv_nsec: d.subsec_nanos().into() }
}

/// What ends the keeper before its supervisor does.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no setup in the standard input; the keeper is started by `pinfold up`")]
    Setup(#[source] TransportError),
    #[error("{what}")]
    Os {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Failure {
    fn at<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |e| Self::Os { what, source: e.into() }
    }
}
