//! Another spec: for good, or for the limits of the present run.
//!
//! A run that ends already is followed by one of the latest spec whoever asked for it, so that what is asked for joins it. A
//! launch is of the spec that was wanted when it began: where a later one is to run, another run follows it.

use std::sync::Arc;

use crate::model::{Begun, Class, EventKind, LimitSet, StartError};
use crate::spec::types::{Change, Spec, Takes};

use super::Transition;
use crate::worker::effect::{Effect, Refusal};
use crate::worker::event::{Reach, Renew, Ticket, Update};
use crate::worker::state::{After, Changing, Goal, Phase, Rest, Wish};

/// So many keys are named in a record of a change.
const NAMED: usize = 8;

impl Transition<'_> {
    pub(super) fn update(&mut self, update: Update, who: Option<&str>, ticket: Option<Ticket>) {
        let changes = self.s.spec.changes(&update.spec);
        let what = words(&changes, update.reach);
        self.emit(EventKind::Operator { who: who.unwrap_or("supervisor").to_owned(), what });
        match update.reach {
            Reach::Run => self.change_limits(update, ticket),
            Reach::Config { generation, renew } => {
                self.s.generations.desired = generation;
                let renew = self.s.wish == Wish::Up && self.takes_new_run(renew);
                if Class::ALL.into_iter().any(|class| self.s.breaker.is_open(class)) {
                    // What it was held for may be mended by this.
                    let changes = self.s.breaker.reset();
                    self.changes.extend(changes);
                }
                let takes = changes.iter().map(|change| change.takes).max();
                self.configure(update, takes, renew, ticket);
            }
        }
    }

    fn takes_new_run(&self, renew: Renew) -> bool {
        match renew {
            Renew::No => false,
            Renew::Yes => true,
            Renew::Of(run) => self.s.run().number == run,
        }
    }

    fn configure(&mut self, update: Update, takes: Option<Takes>, renew: bool, ticket: Option<Ticket>) {
        match self.take() {
            resting @ (Phase::Resting(_) | Phase::Waiting { .. }) => {
                let held = matches!(resting, Phase::Resting(Rest::Held(_))) && self.s.wish == Wish::Up;
                self.s.phase = resting;
                (self.s.spec, self.s.next) = (update.spec, None);
                self.s.generations.observed = self.s.generations.desired;
                if renew || held {
                    self.owe(ticket, Goal::Up);
                    self.begin_run(Begun::Reload);
                } else {
                    self.reply(ticket, Ok(()));
                }
            }
            Phase::Running { life, main } if renew => {
                self.s.next = Some(update.spec);
                self.owe(ticket, Goal::Up);
                self.end_for_another(life, main, Begun::Reload);
            }
            starting @ (Phase::Preparing { .. } | Phase::Launching { .. }) if renew => {
                self.s.phase = starting;
                self.s.next = Some(update.spec);
                self.s.follow_up = true;
                self.s.anew = Some(Begun::Reload);
                self.owe(ticket, Goal::Up);
            }
            living @ (Phase::Running { .. } | Phase::Preparing { .. } | Phase::Launching { .. }) => {
                self.s.phase = living;
                match takes {
                    Some(Takes::NewRun) => {
                        self.s.next = Some(update.spec);
                        self.reply(ticket, Ok(()));
                    }
                    Some(Takes::Limits) => self.change_limits(update, ticket),
                    Some(Takes::Rules) | None => {
                        self.s.next = None;
                        self.go_by(update.spec);
                        self.s.generations.observed = self.s.generations.desired;
                        self.reply(ticket, Ok(()));
                    }
                }
            }
            ending @ (Phase::Terminating { .. } | Phase::Draining { .. } | Phase::Killing { .. }) if renew => {
                self.s.next = Some(update.spec);
                self.rerun(ending, Begun::Reload);
                self.owe(ticket, Goal::Up);
            }
            stuck @ Phase::Stuck { .. } if renew => {
                self.s.next = Some(update.spec);
                self.rerun(stuck, Begun::Reload);
                self.reply(ticket, Err(Refusal::Unkillable));
            }
            ending @ (Phase::Terminating { .. }
            | Phase::Draining { .. }
            | Phase::Killing { .. }
            | Phase::Stuck { .. }) => {
                self.s.next = Some(update.spec);
                self.s.phase = ending;
                self.reply(ticket, Ok(()));
            }
        }
    }

    fn change_limits(&mut self, update: Update, ticket: Option<Ticket>) {
        if self.s.changing.is_some() {
            return self.reply(ticket, Err(Refusal::NotNow("its limits are being changed; ask again".to_owned())));
        }
        let (Phase::Running { life, .. } | Phase::Launching { life, .. }) = &self.s.phase else {
            return self.reply(ticket, Err(Refusal::NotRunning));
        };
        let (spec, lifted) = (Arc::clone(&update.spec), life.lifted);
        self.out.push(Effect::Limits { run: self.s.run(), spec, lifted });
        self.s.changing = Some(Box::new(Changing { update, ticket }));
        self.limits_change();
    }

    /// A run that was found alive is held to what is configured now.
    pub(super) fn hold_to_limits(&mut self) {
        let (spec, lifted) = (Arc::clone(&self.s.spec), self.s.phase.life().is_some_and(|life| life.lifted));
        self.out.push(Effect::Limits { run: self.s.run(), spec, lifted });
        self.limits_change();
    }

    pub(super) fn limits_set(&mut self, result: Result<Vec<LimitSet>, StartError>) {
        if self.s.phase.life().is_none() {
            return;
        }
        let changing = self.s.changing.take();
        let files = match result {
            Ok(files) => files,
            Err(error) => {
                self.fault(&format!("its limits stay as they are: {}", error.what));
                if let Some(Changing { update: Update { spec, reach }, ticket }) = changing.map(|changing| *changing) {
                    if let Reach::Config { .. } = reach {
                        self.s.next = Some(spec);
                    }
                    self.reply(ticket, Err(Refusal::Limits(error.what)));
                }
                return;
            }
        };
        for LimitSet { file, value } in files {
            let why = match changing.as_deref().map(|changing| changing.update.reach) {
                Some(Reach::Run) => "it was asked for",
                Some(Reach::Config { .. }) | None => "it is configured",
            };
            self.emit(EventKind::LimitChanged { file: file.to_owned(), value, why: why.to_owned() });
        }
        let Some(Changing { update: Update { spec, reach }, ticket }) = changing.map(|changing| *changing) else {
            return;
        };
        match reach {
            Reach::Run => {
                let configured = self.s.next.take().unwrap_or_else(|| Arc::clone(&self.s.spec));
                self.s.next = Some(configured);
            }
            Reach::Config { .. } => {
                self.s.next = None;
                self.s.generations.observed = self.s.generations.desired;
            }
        }
        self.go_by(spec);
        self.reply(ticket, Ok(()));
    }

    /// The run whose limits were being changed is over.
    pub(super) fn change_is_over(&mut self) {
        let Some(Changing { update, ticket }) = self.s.changing.take().map(|changing| *changing) else { return };
        match update.reach {
            Reach::Config { .. } => {
                self.s.next = Some(update.spec);
                self.reply(ticket, Ok(()));
            }
            Reach::Run => self.reply(ticket, Err(Refusal::NotRunning)),
        }
    }

    /// Goes by `spec` from now on, the run there is included.
    fn go_by(&mut self, spec: Arc<Spec>) {
        let before = std::mem::replace(&mut self.s.spec, spec);
        let (limits, now) = (&self.s.spec.limits, self.now);
        let interval = limits.monitoring.interval;
        let (rewatch, resample) =
            (before.limits != *limits, before.limits.monitoring.interval != limits.monitoring.interval);
        let waits = self.s.spec.waits_for_readiness();
        let run = self.s.run();
        if let Some(life) = self.s.phase.life_mut() {
            if resample {
                life.sample_at = interval.map(|interval| now + interval);
            }
            // Nobody is left to say that it is ready.
            life.unready &= waits;
            if rewatch {
                self.out.push(Effect::Rewatch(run));
            }
        }
    }

    /// What follows the launch under way, should it fail.
    pub(super) const fn after_launch(&self) -> After {
        if self.s.follow_up { After::Rerun } else { After::Policy }
    }
}

fn words(changes: &[Change], reach: Reach) -> String {
    let named = changes.iter().take(NAMED).map(|change| match (&change.from, &change.to) {
        (None, None) => change.key.clone(),
        (from, to) => {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            format!("{} from {} to {}", change.key, value(from), value(to))
        }
    });
    let mut words = named.collect::<Vec<_>>().join(", ");
    if changes.len() > NAMED {
        words += ", …";
    }
    if words.is_empty() {
        "nothing".clone_into(&mut words);
    }
    match reach {
        Reach::Config { generation, .. } => format!("update to generation {generation}: {words}"),
        Reach::Run => format!("asked to set for this run: {words}"),
    }
}
