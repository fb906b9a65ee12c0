//! From a child that exists to a cgroup that is empty: one poll(2) over the child, our signals and the next deadline.
//!
//! No thread and no second process. What to do is `ladder`'s, who has the terminal is `terminal`'s; this file waits and
//! acts.

use std::{io, os::fd::AsFd, time::Duration};

use nix::libc;
use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    ladder::{Act, Ladder},
    terminal::Terminal,
};
use crate::cli::render::duration;
use crate::clock;
use crate::kernel::{
    cgroup::{Dir, events, kill, stat},
    launch::{Child, Progress},
    pidfd::{self, JobChange, Whom},
    signals::is_ignored,
};
use crate::model::{Counters, ExitStatus, Mono, StartError, Usage};

/// Passed on to the command.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
];

/// Our signals, as descriptors.
#[derive(Debug)]
pub(super) struct Signals {
    all: SignalFd,
    /// SIGCONT by itself: a stop signal that comes after it takes it out of the queue again (signal(7)), so it cannot be
    /// relied on and must be told apart.
    cont: SignalFd,
}

impl Signals {
    /// Blocks them, so that from here on none is lost and none ends us. The child's are reset by its launch. One that
    /// we were told to ignore (nohup) stays ignored.
    pub(super) fn take() -> io::Result<Self> {
        let heard = PASSED_ON.into_iter().filter(|&signal| !is_ignored(signal as i32));
        let all: SigSet = heard.chain([Signal::SIGCHLD]).collect();
        let cont: SigSet = [Signal::SIGCONT].into_iter().collect();
        // Blocked and never read: setting the terminal's foreground group from the background raises it.
        let background: SigSet = [Signal::SIGTTOU].into_iter().collect();
        for set in [&all, &cont, &background] {
            set.thread_block()?;
        }
        let descriptor = |set| SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        Ok(Self { all: descriptor(&all)?, cont: descriptor(&cont)? })
    }

    /// Whether we were told to go on. Asking takes it back.
    fn continued(&self) -> io::Result<bool> {
        let mut told = false;
        while self.cont.read_signal()?.is_some() {
            told = true;
        }
        Ok(told)
    }
}

/// How the launch came out.
#[derive(Debug)]
pub(super) enum Launch {
    /// Its program runs, since this moment.
    Runs(Mono),
    /// It never ran, and has been reaped with this status.
    Failed(StartError, ExitStatus),
}

/// How the main process ended.
#[derive(Debug)]
pub(super) struct End {
    /// waitid(2)'s word.
    pub(super) status: ExitStatus,
    /// The counters, read after its end and before it was reaped.
    pub(super) counters: Counters,
    /// When.
    pub(super) at: Mono,
}

/// One command in its cgroup.
pub(super) struct Watch<'a> {
    pub(super) dir: &'a Dir,
    pub(super) signals: &'a Signals,
    pub(super) ladder: &'a mut Ladder,
    pub(super) terminal: &'a mut Terminal,
    /// The child, until it is reaped.
    pub(super) child: Option<Child>,
}

/// What [`Watch::wait`] saw.
#[derive(Debug, Default)]
struct Ready {
    confirm: bool,
    ended: bool,
    changed: bool,
}

impl Watch<'_> {
    /// Waits until the program runs or the launch has failed.
    pub(super) fn confirm(&mut self) -> io::Result<Launch> {
        loop {
            let Some(child) = &mut self.child else { return Err(gone()) };
            match child.confirm.poll() {
                Progress::Execed => return Ok(Launch::Runs(clock::monotonic())),
                Progress::Failed(error) => {
                    let status = pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd()))?;
                    self.child = None;
                    return Ok(Launch::Failed(error, status));
                }
                Progress::Pending => {
                    self.wait(true, None)?;
                }
            }
        }
    }

    /// Waits for the main process and reaps it. The order is what makes its cause certain: its end, the counters, the
    /// reaping.
    pub(super) fn main_process(&mut self) -> io::Result<End> {
        while !self.wait(false, None)?.ended {}
        let at = clock::monotonic();
        let counters = events::read(self.dir).map_err(crate::kernel::cgroup::DirError::into_io)?;
        let Some(child) = self.child.take() else { return Err(gone()) };
        let status = pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd()))?;
        Ok(End { status, counters, at })
    }

    /// Ends what the main process has left in the cgroup. `false` where something of it does not die.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        let into_io = crate::kernel::cgroup::DirError::into_io;
        // The usual case, and the notification would be late.
        if !self.dir.populated().map_err(into_io)? {
            return Ok(true);
        }
        let changes = self.dir.open_events().map_err(into_io)?;
        if let Some(act) = self.ladder.drain(clock::monotonic()) {
            self.act(act);
        }
        loop {
            // Reading takes the notification back, so it comes before the look: a change after it is told again.
            rustix::io::pread(&changes, &mut [0; 64], 0)?;
            if !self.dir.populated().map_err(into_io)? {
                return Ok(true);
            }
            if self.ladder.gave_up() {
                return Ok(false);
            }
            self.wait(false, Some(&changes))?;
        }
    }

    /// What the run used, as far as the kernel tells.
    pub(super) fn usage(&self) -> Usage {
        stat::usage(self.dir)
    }

    /// Waits for the next thing to happen and does what signals and deadlines ask for.
    fn wait(&mut self, launching: bool, changes: Option<&std::os::fd::OwnedFd>) -> io::Result<Ready> {
        let signals = [&self.signals.all, &self.signals.cont];
        let mut fds: Vec<_> = signals.map(|fd| PollFd::new(fd, PollFlags::IN)).into();
        if let Some(child) = &self.child {
            fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
            if launching {
                fds.push(PollFd::new(&child.confirm, PollFlags::IN));
            }
        }
        if let Some(changes) = changes {
            fds.push(PollFd::new(changes, PollFlags::PRI));
        }
        let left = self.ladder.deadline().map(|deadline| timespec(deadline.since(clock::monotonic())));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (signalled, continued) = (is_ready(0), is_ready(1));
        let ready = Ready {
            ended: self.child.is_some() && is_ready(2),
            confirm: launching && is_ready(3),
            changed: changes.is_some() && is_ready(fds.len() - 1),
        };
        drop(fds);
        // Its end first: what comes with it cannot reach it any more.
        if ready.ended || ready.confirm || ready.changed {
            return Ok(ready);
        }
        if continued && self.signals.continued()? {
            self.resume();
        }
        if signalled {
            self.hear()?;
        }
        if let Some(act) = self.ladder.on_deadline(clock::monotonic()) {
            self.act(act);
        }
        Ok(ready)
    }

    fn hear(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.all.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            match number {
                libc::SIGCHLD => self.job_changed()?,
                // The terminal has told the command itself.
                _ if self.terminal.is_shared() && info.ssi_code == libc::SI_KERNEL => {}
                libc::SIGTSTP => self.send_to_job(libc::SIGTSTP),
                _ => {
                    if let Some(act) = self.ladder.on_signal(number, clock::monotonic()) {
                        self.act(act);
                    }
                }
            }
        }
        Ok(())
    }

    /// A stopped command stops us, so that the shell sees its job stopped and comes back.
    fn job_changed(&mut self) -> io::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let change = match pidfd::job_change(child.pid) {
            // Of a child that has ended waitid(2) knows no stops any more; its pidfd tells the rest.
            Err(err) if err.raw_os_error() == Some(libc::ECHILD) => None,
            change => change?,
        };
        if change == Some(JobChange::Stopped) {
            if let Err(err) = self.terminal.take_back() {
                say(&format!("cannot take the terminal back: {err}"));
            }
            // Returns once the shell says SIGCONT. A Ctrl-Z right after that takes it out of our descriptor again, so
            // that we are here is what counts.
            raise(Signal::SIGSTOP)?;
            self.signals.continued()?;
            self.resume();
        }
        Ok(())
    }

    /// We go on, and so does the command; in the foreground if we are.
    fn resume(&mut self) {
        let Some(child) = &self.child else { return };
        if let Err(err) = self.terminal.lend(child.pid) {
            say(&format!("cannot hand the terminal to the command: {err}"));
        }
        self.send_to_job(libc::SIGCONT);
    }

    /// To the command as the terminal and the shell know it: its process group. The members of a pipeline are the
    /// shell's to address.
    fn send_to_job(&self, signal: i32) {
        let Some(child) = &self.child else { return self.send(signal) };
        let group = rustix::process::Pid::from_raw(child.pid).filter(|_| !self.terminal.is_shared());
        let Some((group, known)) = group.zip(rustix::process::Signal::from_named_raw(signal)) else {
            return self.send(signal);
        };
        match rustix::process::kill_process_group(group, known) {
            // Nobody of that group is left, or the command has made itself another.
            Err(rustix::io::Errno::SRCH) => self.send(signal),
            Err(err) => say(&format!("cannot send signal {signal}: {err}")),
            Ok(()) => {}
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Signal(signal) => self.send(signal),
            Act::Ask(signal) => {
                // Above memory.high without swap it would hardly get to its handler.
                if self.dir.has("memory.high")
                    && let Err(err) = self.dir.write("memory.high", "max")
                {
                    say(&crate::cli::exit::chain(&err));
                }
                self.send(signal);
                // A stopped process hears nothing.
                self.send_to_job(libc::SIGCONT);
            }
            Act::Kill => {
                if let Err(err) = kill::kill(self.dir) {
                    say(&crate::cli::exit::chain(&err));
                }
            }
            Act::SayUnkillable => say(&format!(
                "killed, and still not dead after {}: a process of {} is in uninterruptible sleep or frozen; waiting for it",
                duration(super::ladder::UNKILLABLE_AFTER),
                self.dir.path().display()
            )),
        }
    }

    /// To the main process; once it has ended, to everything it has left.
    fn send(&self, signal: i32) {
        let sent = match &self.child {
            Some(child) => pidfd::signal(child.pidfd.as_fd(), signal),
            None => self.send_to_all(signal),
        };
        // ESRCH: it ended in between, which is what the signal was for.
        if let Err(err) = sent
            && err.raw_os_error() != Some(libc::ESRCH)
        {
            say(&format!("cannot send signal {signal}: {err}"));
        }
    }

    fn send_to_all(&self, signal: i32) -> io::Result<()> {
        for pid in self.dir.processes().map_err(crate::kernel::cgroup::DirError::into_io)? {
            // The pidfd first, then the proof that it is one of ours: the number may be another's by now.
            let Ok(process) = pidfd::open(pid) else { continue };
            if pidfd::is_in_cgroup(pid, self.dir.name()).unwrap_or(false) {
                match pidfd::signal(process.as_fd(), signal) {
                    Err(err) if err.raw_os_error() != Some(libc::ESRCH) => return Err(err),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A line of ours on the command's stderr.
pub(super) fn say(sentence: &str) {
    anstream::eprintln!("pinfold: {}", crate::cli::render::inert(sentence));
}

fn gone() -> io::Error {
    io::Error::other("the command was reaped already")
}

fn timespec(left: Duration) -> Timespec {
    // Rounded up: waking a moment early would find nothing due and wait again.
    let left = left.saturating_add(Duration::from_micros(1));
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}
