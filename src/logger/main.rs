//! The logger's loop.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use rustix::event::epoll;

use super::sink::{Sink, Turn};
use crate::keeper::protocol::{FromLogger, Stream, ToLogger};
use crate::keeper::role::{self, say};
use crate::keeper::transport::{self, Inbox, Outbox, TransportError};
use crate::model::RunId;

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
            last_token: KEEPER,
            scratch: vec![0; SCRATCH],
        })
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        while self.keeper.is_some() || !self.sinks.is_empty() {
            self.ask_for_room()?;
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                match event.data.u64() {
                    KEEPER => self.hear(),
                    token => self.move_bytes(token),
                }
            }
            self.flush();
        }
        Ok(())
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
        let ToLogger::Attach { run, stream, path } = message;
        self.last_token += 1;
        let data = epoll::EventData::new_u64(self.last_token);
        if let Err(e) = epoll::add(&self.epoll, &pipe, data, epoll::EventFlags::IN) {
            say("logger", &format_args!("{run} {stream:?} is not read: {e}"));
            return;
        }
        self.sinks.insert(self.last_token, (run, stream, Sink::new(pipe, path)));
    }

    fn move_bytes(&mut self, token: u64) {
        let Some((_, _, sink)) = self.sinks.get_mut(&token) else { return };
        let (mut turn, mut news) = sink.turn(&mut self.scratch, true);
        if turn == Turn::NoDescriptors {
            // Most files are not being written to; each opens again with its next byte.
            self.sinks.values_mut().for_each(|(_, _, sink)| sink.rest());
            let Some((_, _, sink)) = self.sinks.get_mut(&token) else { return };
            (turn, news) = sink.turn(&mut self.scratch, false);
        }
        let Some((run, stream, _)) = self.sinks.get(&token) else { return };
        if let Some(news) = news {
            say("logger", &format_args!("{run} {stream:?}: {news}"));
        }
        if turn == Turn::Ended
            && let Some((run, stream, sink)) = self.sinks.remove(&token)
        {
            if let Err(e) = epoll::delete(&self.epoll, sink.pipe()) {
                say("logger", &format_args!("epoll: {e}"));
            }
            let drained = FromLogger::Drained { run, stream, dropped: sink.dropped() };
            if self.keeper.is_some()
                && let Err(e) = self.out.push(&drained, Vec::new())
            {
                say("logger", &e);
            }
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

/// Without a keeper there is nobody left to be told anything, and as with stdout, somebody may wait for its end.
fn leave_stderr() {
    if let Err(e) = nowhere().and_then(|nowhere| Ok(nix::unistd::dup2_stderr(nowhere)?)) {
        say("logger", &e);
    }
}
