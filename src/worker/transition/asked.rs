//! What somebody asks of a worker.

use std::sync::Arc;

use crate::model::{Begun, EventKind, KilledBy, Target, Trigger};
use crate::policy::decide::{self, Act, Order};

use super::{Transition, breaker_open};
use crate::worker::effect::{Effect, Refusal};
use crate::worker::event::{Ask, Ticket};
use crate::worker::state::{After, Behalf, Body, Goal, Life, Main, Phase, Remains, Rest, Wish};

impl Transition<'_> {
    pub(super) fn asked(&mut self, ask: Ask, who: Option<&str>, ticket: Option<Ticket>) {
        if let Some((role, what)) = match &ask {
            Ask::Start { trigger: Trigger::Operator } => Some(("operator", "start")),
            Ask::Restart { force: false, .. } => Some(("operator", "restart")),
            Ask::Restart { force: true, .. } => Some(("operator", "restart by force")),
            Ask::Signal { .. } => Some(("operator", "signal")),
            Ask::Reset => Some(("operator", "reset")),
            Ask::Freeze { frozen: true } => Some(("operator", "freeze")),
            Ask::Freeze { frozen: false } => Some(("operator", "thaw")),
            Ask::Start { .. } | Ask::Health { .. } | Ask::Update(_) => None,
            Ask::Stop { by } => Some((role(*by), "stop")),
            Ask::Kill { by } => Some((role(*by), "kill")),
        } {
            self.emit(EventKind::Operator { who: who.unwrap_or(role).to_owned(), what: what.to_owned() });
        }
        match ask {
            Ask::Start { trigger: Trigger::Operator } => {
                self.ordered(Order::Start);
                self.wish_up();
                self.start(ticket, Begun::Start, false);
            }
            Ask::Start { .. } => self.configured(ticket),
            Ask::Restart { seen, force } => {
                if let Act::Refuse(class) = self.ordered(Order::Restart { force }) {
                    return self.reply(ticket, Err(breaker_open(class)));
                }
                self.wish_up();
                self.start(ticket, Begun::Operator, seen >= self.s.last_run);
            }
            Ask::Signal { signal } => match self.s.main_process() {
                Some(_) => {
                    // A signal asks for nothing else: whoever has frozen it thaws it.
                    self.out.push(Effect::Signal { run: self.s.run(), signal, to: Target::Main, thaws: false });
                    self.reply(ticket, Ok(()));
                }
                None => self.reply(ticket, Err(Refusal::NotRunning)),
            },
            Ask::Reset => {
                let changes = self.s.breaker.reset();
                self.changes.extend(changes);
                if matches!(self.s.phase, Phase::Resting(Rest::Held(_))) {
                    self.begin_run(Begun::Operator);
                }
                self.reply(ticket, Ok(()));
            }
            Ask::Freeze { frozen } => self.freeze(frozen, ticket),
            Ask::Update(update) => self.update(*update, who, ticket),
            Ask::Health { run, report } => self.health(run, &report, ticket),
            Ask::Stop { by } => {
                self.ordered(Order::Stop);
                self.wish_down(by.into(), who);
                self.stop(by.into(), ticket);
            }
            Ask::Kill { by } => {
                self.ordered(Order::Kill);
                self.wish_down(by.into(), who);
                self.kill(by.into(), ticket);
            }
        }
    }

    /// The configuration wants it to run, at the begin of a supervisor: what an earlier one left at rest stays so, for it has
    /// nothing to say about what was taken down, ended as it should, or was held by the breaker.
    fn configured(&mut self, ticket: Option<Ticket>) {
        match (self.s.wish, &self.s.phase) {
            (_, Phase::Resting(Rest::Held(class))) => {
                let class = *class;
                self.reply(ticket, Err(breaker_open(class)));
            }
            // What follows the end of a run is decided then.
            (Wish::Down(Some(_)), _)
            | (
                Wish::Up,
                Phase::Waiting { .. }
                | Phase::Resting(Rest::Done | Rest::Failed)
                | Phase::Terminating { .. }
                | Phase::Draining { .. }
                | Phase::Killing { .. },
            ) => self.reply(ticket, Ok(())),
            _ => {
                self.wish_up();
                self.start(ticket, Begun::Start, false);
            }
        }
    }

    /// What the one place says to a person's order. On record only where it is refused: what was asked for is an event of
    /// its own, and what follows has decisions of its own.
    fn ordered(&mut self, order: Order) -> Act {
        let mut breaker = std::mem::take(&mut self.s.breaker);
        let facts = self.facts(self.life(), self.now, None, false);
        let outcome = decide::decide(&decide::Trigger::Operator(order), &facts, &mut breaker);
        self.s.breaker = breaker;
        if let Act::Refuse(_) = outcome.act {
            self.emit(EventKind::Decision(outcome.decision));
        }
        outcome.act
    }

    fn start(&mut self, ticket: Option<Ticket>, by: Begun, anew: bool) {
        match self.take() {
            Phase::Resting(_) | Phase::Waiting { .. } => {
                self.owe(ticket, Goal::Up);
                self.begin_run(by);
            }
            Phase::Running { life, main } if anew => {
                self.owe(ticket, Goal::Up);
                self.end_for_another(life, main, by);
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
            ending @ (Phase::Terminating { .. } | Phase::Draining { .. } | Phase::Killing { .. }) => {
                self.rerun(ending, by);
                self.owe(ticket, Goal::Up);
            }
            stuck @ Phase::Stuck { .. } => {
                self.rerun(stuck, by);
                self.reply(ticket, Err(Refusal::Unkillable));
            }
        }
    }

    /// Ends a run for another, which no restart that was decided for it follows any more.
    pub(super) fn end_for_another(&mut self, mut life: Box<Life>, main: Main, by: Begun) {
        self.withdraw(&mut life);
        self.s.anew = Some(by);
        self.terminate(life, main, Behalf::STOP, After::Rerun, None);
    }

    /// Has a run that ends be followed by another.
    pub(super) fn rerun(&mut self, mut ending: Phase, by: Begun) {
        ending.rerun();
        self.s.phase = ending;
        self.s.anew = Some(by);
        self.note();
    }

    pub(super) fn stop(&mut self, by: Behalf, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } | Phase::Resting(Rest::Held(_)) => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Running { life, main } => {
                self.owe(ticket, Goal::Down);
                self.terminate(life, main, by, After::Policy, None);
            }
            // Somebody else's processes: the end of this supervisor is no reason to touch them, a person's word is.
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by.by != KilledBy::Shutdown => {
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

    pub(super) fn kill(&mut self, by: Behalf, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } | Phase::Resting(Rest::Held(_)) => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by.by == KilledBy::Shutdown => {
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

    pub(super) fn wish_down(&mut self, by: Behalf, who: Option<&str>) {
        let was = self.s.wish;
        // Who took it down first is who took it down.
        if !matches!(was, Wish::Down(Some(_))) {
            self.s.wish = Wish::Down(Some(by));
            self.s.who = who.map(Arc::from);
        }
        self.s.follow_up = false;
        self.call_off();
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
