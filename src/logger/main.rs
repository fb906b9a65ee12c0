//! The logger's loop.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::event::epoll;

use super::chain::Chain;
use super::sink::{Now, Sink, Turn};
use crate::clock;
use crate::keeper::protocol::{FromLogger, Stream, ToLogger};
use crate::keeper::role::{self, say};
use crate::keeper::transport::{self, Inbox, Outbox, TransportError};
use crate::model::{Mono, RunId, Segment};

/// The keeper's socket; pipes have the tokens from 1 on.
const KEEPER: u64 = 0;
/// For bytes that cannot be spliced.
const SCRATCH: usize = 16 * 1024;

/// The logger, from the keeper's socket in its standard input until that is closed and every pipe has ended.
#[must_use]
pub fn main() -> ExitCode {
    let done = role::begin(c"pinfold-logger").and_then(|socket| Logger::begin(socket)?.work());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say("logger", &e);
            ExitCode::FAILURE
        }
    }
}

fn nowhere() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

struct Logger {
    epoll: OwnedFd,
    keeper: Option<OwnedFd>,
    inbox: Inbox,
    out: Outbox,
    wants_room: bool,
    sinks: HashMap<u64, (RunId, Stream, Sink)>,
    /// Those that are not read before a moment, and are not watched until then.
    later: BTreeSet<(Mono, u64)>,
    last_token: u64,
    scratch: Vec<u8>,
}

impl Logger {
    fn begin(keeper: OwnedFd) -> io::Result<Self> {
        // Blocked for good: a terminal or a service manager asks everybody to end, and the workers may write on.
        let mut deaf = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            deaf.add(signal);
        }
        deaf.thread_block()?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
        // Nothing is said there; and who reads it through a pipe would wait for us long after its end.
        nix::unistd::dup2_stdout(nowhere()?)?;
        role::raise_descriptor_limit()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &keeper, epoll::EventData::new_u64(KEEPER), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            keeper: Some(keeper),
            inbox: Inbox::default(),
            out: Outbox::default(),
            wants_room: false,
            sinks: HashMap::new(),
            later: BTreeSet::new(),
            last_token: KEEPER,
            scratch: vec![0; SCRATCH],
        })
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        while self.keeper.is_some() || !self.sinks.is_empty() {
            self.ask_for_room()?;
            events.clear();
            let timeout = self.later.first().map(|(at, _)| timespec(at.since(clock::monotonic())));
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                match event.data.u64() {
                    KEEPER => self.hear(),
                    token => self.move_bytes(token),
                }
            }
            self.read_again();
            self.flush();
        }
        Ok(())
    }

    /// Watches those again whose moment has come.
    fn read_again(&mut self) {
        let now = clock::monotonic();
        while let Some((_, token)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.pop_first();
            let Some((run, stream, sink)) = self.sinks.get(&token) else { continue };
            let data = epoll::EventData::new_u64(token);
            if let Err(e) = epoll::add(&self.epoll, sink.pipe(), data, epoll::EventFlags::IN) {
                say("logger", &format_args!("{run} {stream} is not read any more: {e}"));
            }
        }
    }

    /// Stops to watch a pipe. Without interest in anything it would still wake us: its end is always told.
    fn unwatch(&self, sink: &Sink) {
        if let Err(e) = epoll::delete(&self.epoll, sink.pipe()) {
            say("logger", &format_args!("epoll: {e}"));
        }
    }

    fn ask_for_room(&mut self) -> io::Result<()> {
        let Some(keeper) = self.keeper.as_ref().filter(|_| self.wants_room == self.out.is_empty()) else {
            return Ok(());
        };
        self.wants_room = !self.out.is_empty();
        let flags =
            if self.wants_room { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        Ok(epoll::modify(&self.epoll, keeper, epoll::EventData::new_u64(KEEPER), flags)?)
    }

    fn hear(&mut self) {
        loop {
            let Some(keeper) = &self.keeper else { return };
            match self.inbox.recv::<ToLogger>(keeper.as_fd()) {
                Ok(got) => match transport::exactly(got.fds) {
                    Ok([pipe]) => self.attach(got.message, pipe),
                    Err(e) => say("logger", &e),
                },
                Err(TransportError::WouldBlock) => return,
                Err(e @ (TransportError::Gone | TransportError::Io(_))) => {
                    if let TransportError::Io(e) = e {
                        say("logger", &format_args!("from the keeper: {e}"));
                    }
                    self.out.clear();
                    self.keeper = None;
                    leave_stderr();
                }
                Err(e) => say("logger", &e),
            }
        }
    }

    fn attach(&mut self, message: ToLogger, pipe: OwnedFd) {
        let ToLogger::Attach { run, stream, path, policy } = message;
        self.last_token += 1;
        let data = epoll::EventData::new_u64(self.last_token);
        if let Err(e) = epoll::add(&self.epoll, &pipe, data, epoll::EventFlags::IN) {
            say("logger", &format_args!("{run} {stream} is not read: {e}"));
            return;
        }
        let dir = path.parent().unwrap_or(&path).to_owned();
        let chain = Chain::new(dir, Segment::first(&run, stream), policy);
        let sink = Sink::new(pipe, chain, policy, clock::monotonic());
        self.sinks.insert(self.last_token, (run, stream, sink));
    }

    fn move_bytes(&mut self, token: u64) {
        let now = now();
        let Some((_, _, sink)) = self.sinks.get_mut(&token) else { return };
        let (mut turn, mut news) = sink.turn(&mut self.scratch, true, now);
        if turn == Turn::NoDescriptors {
            // Most files are not being written to; each opens again with its next byte.
            self.sinks.values_mut().for_each(|(_, _, sink)| sink.rest());
            let Some((_, _, sink)) = self.sinks.get_mut(&token) else { return };
            let again;
            (turn, again) = sink.turn(&mut self.scratch, false, now);
            news = news.or(again);
        }
        let Some((run, stream, sink)) = self.sinks.get(&token) else { return };
        if let Some(news) = news {
            let (place, why) = (sink.place(), &news.why);
            match news.bytes {
                None => say("logger", &format_args!("{place}: {why}; what comes is dropped")),
                Some(n) => say("logger", &format_args!("{place}: written again, {n} bytes were dropped ({why})")),
            }
            let (run, stream) = (run.clone(), *stream);
            self.tell(&FromLogger::Dropping { run, stream, why: news.why, bytes: news.bytes });
        }
        match turn {
            Turn::Later(at) => {
                if let Some((_, _, sink)) = self.sinks.get(&token) {
                    self.unwatch(sink);
                    self.later.insert((at, token));
                }
            }
            Turn::Ended => {
                if let Some((run, stream, sink)) = self.sinks.remove(&token) {
                    self.unwatch(&sink);
                    self.tell(&FromLogger::Drained { run, stream, dropped: sink.dropped() });
                }
            }
            Turn::More | Turn::NoDescriptors => {}
        }
    }

    fn tell(&mut self, news: &FromLogger) {
        if self.keeper.is_some()
            && let Err(e) = self.out.push(news, Vec::new())
        {
            say("logger", &e);
        }
    }

    fn flush(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        if let Err(e) = self.out.flush(keeper.as_fd())
            && !matches!(e, TransportError::Gone)
        {
            say("logger", &e);
        }
    }
}

fn now() -> Now {
    let wall_ns = u64::try_from(clock::wall().as_nanosecond()).unwrap_or(0);
    Now { mono: clock::monotonic(), wall_ns }
}

fn timespec(time: Duration) -> rustix::event::Timespec {
    let secs = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    rustix::event::Timespec { tv_sec: secs, tv_nsec: time.subsec_nanos().into() }
}

/// Without a keeper there is nobody left to be told anything, and as with stdout, somebody may wait for its end.
fn leave_stderr() {
    if let Err(e) = nowhere().and_then(|nowhere| Ok(nix::unistd::dup2_stderr(nowhere)?)) {
        say("logger", &e);
    }
}
