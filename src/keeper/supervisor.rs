//! The supervisor's seat: the process, its socket, what waits to be sent, and the watch over it.
//!
//! ```text
//!   waiting(until) ─▶ starting ─ Hello ─▶ serving ─ TookOver ─▶ … ─ signalled or silent, at any time ─▶ waiting(backoff)
//!                                            └───── exits ──▶ the keeper exits with its code, unless
//!                                                    one that follows another has not come to take over
//! ```

mod handover;

use std::os::fd::{AsFd, OwnedFd};

use super::protocol::{FromKeeper, VERSION};
use super::role::{Started, say};
use super::transport::{Outbox, TransportError};
use super::vigil::{Backoff, Due, Vigil};
use crate::kernel::launch::{Child, Method, Progress};
use crate::kernel::pidfd::{self, JobChange};
use crate::model::chain;
use crate::model::{ExitStatus, Mono, StartError};

/// One supervisor's process.
struct Seat {
    child: Child,
    since: Mono,
    socket: Option<OwnedFd>,
    greeted: bool,
    listening: bool,
    /// Whether it has come as far as its work.
    took_over: bool,
    vigil: Vigil,
    /// Why we have killed it, if we have.
    given_up: Option<&'static str>,
}

pub(super) struct Supervisor {
    seat: Option<Seat>,
    out: Outbox,
    backoff: Backoff,
    restart_at: Option<Mono>,
    restarts: u32,
    previous: Option<String>,
    /// Signals that came before a supervisor could take them.
    waiting_signals: Vec<i32>,
    /// SIGTERM or SIGINT, once it was given: a supervisor that dies over it leaves it to the next.
    going_down: Option<i32>,
    nonce: u64,
    method: Method,
    watchdog: Option<std::time::Duration>,
}

/// What an ended supervisor means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The keeper exits with this code.
    Leave(i32),
    /// The next one starts when its time has come.
    Replace,
}

impl Supervisor {
    pub(super) fn new(now: Mono, method: Method, watchdog: Option<std::time::Duration>) -> Self {
        Self {
            seat: None,
            out: Outbox::default(),
            backoff: Backoff::default(),
            restart_at: Some(now),
            restarts: 0,
            previous: None,
            waiting_signals: Vec::new(),
            going_down: None,
            nonce: 0,
            method,
            watchdog,
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.seat.as_ref().map(|seat| seat.child.pid)
    }

    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.seat.as_ref().and_then(|seat| seat.socket.as_ref())
    }

    pub(super) fn has_more_to_send(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn restart_at(&self) -> Option<Mono> {
        self.restart_at
    }

    /// Whether news of runs can be told.
    pub(super) fn is_listening(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.listening && seat.socket.is_some())
    }

    pub(super) fn listens(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.listening = true;
        }
    }

    pub(super) fn took_over(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.took_over = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let seat = self.seat.as_ref().filter(|seat| seat.given_up.is_none());
        [self.restart_at, seat.and_then(|seat| seat.vigil.deadline())].into_iter().flatten().min()
    }

    /// What time alone has brought about. All that it had said and done by `now` has been read.
    pub(super) fn tick(&mut self, now: Mono) {
        let Some(seat) = self.seat.as_mut().filter(|seat| seat.given_up.is_none()) else { return };
        seat.vigil.read_late(now);
        match seat.vigil.due(now) {
            Some(Due::Ask) => self.ping(now),
            Some(Due::GiveUp(why)) => self.give_up(why),
            None => {}
        }
    }

    /// Asks for a sign of life. `false` where there is nobody to ask.
    pub(super) fn ping(&mut self, now: Mono) {
        self.nonce += 1;
        let nonce = self.nonce;
        self.send(&FromKeeper::Ping { nonce }, Vec::new());
        if let Some(seat) = &mut self.seat {
            seat.vigil.asked(now);
        }
    }

    /// Whether one has said hello, and can be asked.
    pub(super) fn is_greeted(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.greeted && seat.socket.is_some())
    }

    /// Tells news of a run.
    pub(super) fn tell(&mut self, news: &FromKeeper, fds: Vec<OwnedFd>, now: Mono) {
        self.send(news, fds);
        if let Some(seat) = &mut self.seat {
            seat.vigil.told(now);
        }
    }

    fn send(&mut self, message: &FromKeeper, fds: Vec<OwnedFd>) {
        if self.socket().is_none() {
            return;
        }
        if let Err(e) = self.out.push(message, fds) {
            say("keeper", &format_args!("to the supervisor: {}", chain(&e)));
        }
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        let Some(socket) = self.seat.as_ref().and_then(|seat| seat.socket.as_ref()) else { return };
        match self.out.flush(socket.as_fd()) {
            // The end of the process tells the rest.
            Ok(()) | Err(TransportError::Gone) => {}
            Err(e) => say("keeper", &format_args!("to the supervisor: {}", chain(&e))),
        }
    }

    /// Any message is a sign of life.
    pub(super) fn heard(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.vigil.heard();
        }
    }

    /// Answers its hello, with `locks` to hold as long as it lives and how often the keeper has executed another binary, and gives it the signals that came before it could take them.
    pub(super) fn greet(&mut self, version: u32, reexecs: u32, locks: Vec<OwnedFd>) {
        let (restarts, previous) = (self.restarts, self.previous.clone());
        let going_down = self.going_down.is_some();
        self.send(&FromKeeper::Hello { version: VERSION, restarts, reexecs, previous, going_down }, locks);
        if version != VERSION {
            say("keeper", &format_args!("a supervisor of protocol {version}, this keeper speaks {VERSION}"));
            self.give_up("it speaks another version of the protocol");
            return;
        }
        if let Some(seat) = &mut self.seat {
            seat.greeted = true;
        }
        for signal in std::mem::take(&mut self.waiting_signals) {
            self.signal(signal);
        }
    }

    /// Forwards a signal, or keeps it for the next supervisor where it asks to go down.
    pub(super) fn signal(&mut self, signal: i32) {
        let down = [libc::SIGTERM, libc::SIGINT].contains(&signal);
        if let Some(seat) = self.seat.as_ref().filter(|seat| seat.greeted && seat.given_up.is_none()) {
            if let Err(e) = pidfd::signal(seat.child.pidfd.as_fd(), signal) {
                say("keeper", &format_args!("signal {signal} to the supervisor: {e}"));
            }
        } else if down && !self.waiting_signals.contains(&signal) {
            // Its default action would end a supervisor that has not set its handlers up.
            self.waiting_signals.push(signal);
        }
        if down {
            self.going_down = Some(signal);
        }
    }

    /// It was asked for the end by somebody else than us.
    pub(super) fn goes_down(&mut self) {
        // What stops every worker, whatever SIGTERM does.
        self.going_down = Some(libc::SIGINT);
    }

    pub(super) fn give_up(&mut self, why: &'static str) {
        let Some(seat) = &mut self.seat else { return };
        seat.given_up = Some(why);
        say("keeper", &format_args!("the supervisor is killed: {why}"));
        if let Err(e) = pidfd::signal(seat.child.pidfd.as_fd(), libc::SIGKILL) {
            say("keeper", &format_args!("SIGKILL to the supervisor: {e}"));
        }
    }

    /// It closed its socket: it ends, or has ended.
    pub(super) fn hang_up(&mut self, now: Mono) -> Option<OwnedFd> {
        self.out.clear();
        let seat = self.seat.as_mut()?;
        seat.vigil.leaving(now);
        seat.socket.take()
    }

    /// Something has become of one of our children: perhaps it was stopped.
    pub(super) fn look_for_a_stop(&mut self, now: Mono) {
        let Some(seat) = &mut self.seat else { return };
        while let Ok(Some(change)) = pidfd::job_change(seat.child.pid) {
            match change {
                JobChange::Stopped => seat.vigil.stopped(now),
                JobChange::Continued => seat.vigil.continued(now),
            }
        }
    }

    /// A supervisor was started, or was not.
    pub(super) fn started(&mut self, started: Result<Started, StartError>, now: Mono) {
        match started {
            Ok(Started { child, socket }) => {
                self.restart_at = None;
                let vigil = Vigil::new(now, self.watchdog);
                let socket = Some(socket);
                let [greeted, listening, took_over] = [false; 3];
                self.seat =
                    Some(Seat { child, since: now, socket, greeted, listening, took_over, vigil, given_up: None });
            }
            Err(e) => {
                say("keeper", &format_args!("the supervisor cannot be started: {e}"));
                self.not_started(&e);
                self.restart_at = Some(now + self.backoff.after(std::time::Duration::ZERO, false));
            }
        }
    }

    fn not_started(&mut self, e: &StartError) {
        self.previous = Some(e.to_string());
        if e.is_spawn_fault() {
            self.method = self.method.other();
        }
    }

    /// The supervisor was reaped.
    pub(super) fn ended(&mut self, status: ExitStatus, now: Mono) -> End {
        self.out.clear();
        let Some(mut seat) = self.seat.take() else { return End::Replace };
        let life = now.since(seat.since);
        if let Progress::Failed(e) = seat.child.confirm.poll() {
            say("keeper", &format_args!("the supervisor did not start: {e}"));
            self.not_started(&e);
        } else {
            let may_end = seat.took_over || self.restarts == 0 || self.going_down.is_some();
            let why = match (status, seat.given_up) {
                (ExitStatus::Exited { code }, None) if may_end => return End::Leave(code),
                // What keeps it from beginning can be over in a moment, and what lives is not left alone for it.
                (ExitStatus::Exited { code }, None) => format!("ended with code {code} before it had taken over"),
                (_, Some(why)) => format!("killed: {why}"),
                (ExitStatus::Signaled { signal, core }, None) => {
                    format!("ended by signal {signal}{}", if core { ", core dumped" } else { "" })
                }
            };
            say("keeper", &format_args!("the supervisor is gone, {why}; the workers are untouched"));
            self.previous = Some(why);
            self.take_up_the_end_again();
        }
        self.restarts += 1;
        self.restart_at = Some(now + self.backoff.after(life, seat.took_over));
        End::Replace
    }
    /// Somebody has asked for the end, and the one who was asked is no more: the next is.
    fn take_up_the_end_again(&mut self) {
        if let Some(signal) = self.going_down.filter(|signal| !self.waiting_signals.contains(signal)) {
            self.waiting_signals.push(signal);
        }
    }
}
