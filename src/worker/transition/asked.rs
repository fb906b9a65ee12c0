//! What somebody asks of a worker.

use crate::model::{EventKind, KilledBy, Target, Trigger};
use crate::policy::restart::Attempts;

use super::Transition;
use crate::worker::effect::Refusal;
use crate::worker::event::{Ask, Ticket};
use crate::worker::state::{After, Body, Goal, Phase, Remains, Rest, Wish};

impl Transition<'_> {
    pub(super) fn asked(&mut self, ask: Ask, who: Option<&str>, ticket: Option<Ticket>) {
        if let Some((role, what)) = match ask {
            Ask::Start { trigger: Trigger::Operator } => Some(("operator", "start")),
            Ask::Start { .. } => None,
            Ask::Restart { force: false, .. } => Some(("operator", "restart")),
            Ask::Restart { force: true, .. } => Some(("operator", "restart by force")),
            Ask::Signal { .. } => Some(("operator", "signal")),
            Ask::Reset => Some(("operator", "reset")),
            Ask::Stop { by } => Some((role(by), "stop")),
            Ask::Kill { by } => Some((role(by), "kill")),
        } {
            self.emit(EventKind::Operator { who: who.unwrap_or(role).to_owned(), what: what.to_owned() });
        }
        match ask {
            Ask::Start { .. } => {
                self.s.attempts = Attempts::default();
                self.wish_up();
                self.start(ticket, false);
            }
            Ask::Restart { seen, force: _ } => {
                self.wish_up();
                self.start(ticket, seen >= self.s.last_run);
            }
            Ask::Signal { signal } => match self.s.main_process() {
                Some(_) => {
                    self.signal(signal, Target::Main);
                    self.reply(ticket, Ok(()));
                }
                None => self.reply(ticket, Err(Refusal::NotRunning)),
            },
            Ask::Reset => {
                self.s.attempts = Attempts::default();
                self.reply(ticket, Ok(()));
            }
            Ask::Stop { by } => {
                self.wish_down(by);
                self.stop(by, ticket);
            }
            Ask::Kill { by } => {
                self.wish_down(by);
                self.kill(by, ticket);
            }
        }
    }

    fn start(&mut self, ticket: Option<Ticket>, anew: bool) {
        match self.take() {
            Phase::Resting(_) | Phase::Waiting { .. } => {
                self.owe(ticket, Goal::Up);
                self.begin_run();
            }
            Phase::Running { life, main } if anew => {
                self.owe(ticket, Goal::Up);
                self.terminate(life, main, KilledBy::Stop, After::Rerun);
            }
            running @ Phase::Running { .. } => {
                self.s.phase = running;
                self.reply(ticket, Ok(()));
            }
            // The launch under way starts what was asked for.
            starting @ (Phase::Preparing { .. } | Phase::Launching { .. }) => {
                self.s.phase = starting;
                self.owe(ticket, Goal::Up);
            }
            mut ending @ (Phase::Terminating { .. } | Phase::Draining { .. } | Phase::Killing { .. }) => {
                ending.rerun();
                self.s.phase = ending;
                self.owe(ticket, Goal::Up);
            }
            mut stuck @ Phase::Stuck { .. } => {
                stuck.rerun();
                self.s.phase = stuck;
                self.reply(ticket, Err(Refusal::Unkillable));
            }
        }
    }

    fn stop(&mut self, by: KilledBy, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Running { life, main } => {
                self.owe(ticket, Goal::Down);
                self.terminate(life, main, by, After::Policy);
            }
            // Somebody else's processes: the end of this supervisor is no reason to touch them, a person's word is.
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by != KilledBy::Shutdown => {
                self.owe(ticket, Goal::Down);
                self.signal(self.s.spec.stop.signal, Target::All);
                let kill_at = self.now + self.s.spec.stop.timeout;
                self.s.phase = Phase::Draining { life, remains: Remains::Strangers, kill_at, after };
            }
            stuck @ Phase::Stuck { .. } => {
                self.s.phase = stuck;
                self.reply(ticket, Err(Refusal::Unkillable));
            }
            // The kernel's answer to a launch comes first; what ends already goes on ending.
            other => {
                self.s.phase = other;
                self.owe(ticket, Goal::Down);
            }
        }
    }

    fn kill(&mut self, by: KilledBy, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by == KilledBy::Shutdown => {
                self.s.phase = Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after };
                self.reply(ticket, Err(Refusal::Unkillable));
            }
            Phase::Launching { life, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Unborn, by, After::Policy);
            }
            Phase::Running { life, main } | Phase::Terminating { life, main, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Alive(main), by, After::Policy);
            }
            Phase::Draining { life, remains, after, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Gone(remains), by, after);
            }
            Phase::Stuck { life, body, after } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, body, by, after);
            }
            other @ (Phase::Preparing { .. } | Phase::Killing { .. }) => {
                self.s.phase = other;
                self.owe(ticket, Goal::Down);
            }
        }
    }

    fn wish_up(&mut self) {
        let was = std::mem::replace(&mut self.s.wish, Wish::Up);
        // A stop that only waited for the launch has not begun: it is called off. One that has begun is carried through.
        if was != Wish::Up && matches!(self.s.phase, Phase::Preparing { .. } | Phase::Launching { .. }) {
            self.settle(Goal::Down, &Err(Refusal::Superseded));
        }
        if was != Wish::Up {
            self.note();
        }
    }

    fn wish_down(&mut self, by: KilledBy) {
        let was = std::mem::replace(&mut self.s.wish, Wish::Down(Some(by)));
        self.settle(Goal::Up, &Err(Refusal::Superseded));
        if was == Wish::Up {
            self.note();
        }
    }
}

impl Phase {
    fn rerun(&mut self) {
        match self {
            Self::Terminating { after, .. }
            | Self::Draining { after, .. }
            | Self::Killing { after, .. }
            | Self::Stuck { after, .. } => *after = After::Rerun,
            Self::Resting(_)
            | Self::Waiting { .. }
            | Self::Preparing { .. }
            | Self::Launching { .. }
            | Self::Running { .. } => {}
        }
    }
}

const fn role(by: KilledBy) -> &'static str {
    match by {
        KilledBy::Stop | KilledBy::StopTimeout | KilledBy::Operator => "operator",
        KilledBy::Shutdown => "supervisor",
        KilledBy::Policy => "policy",
    }
}
