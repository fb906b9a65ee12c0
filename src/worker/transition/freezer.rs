//! Freezing and thawing.
//!
//! The kernel does it in its own time and says when it is so: until then what was asked for is on its way, and answered by
//! nothing else. One is on its way at a time; the opposite takes its place. It is about a run that runs: the end of that ends it.

use std::time::Duration;

use super::Transition;
use crate::model::ExitStatus;
use crate::worker::effect::{Effect, Refusal};
use crate::worker::event::Ticket;
use crate::worker::state::{AskedOfFreezer, Goal, Phase};

/// How long a freeze or a thaw may take until it is found out what holds it up.
pub(super) const HELD_UP: Duration = Duration::from_millis(300);

impl Transition<'_> {
    pub(super) fn freeze(&mut self, frozen: bool, ticket: Option<Ticket>) {
        let Phase::Running { life, .. } = &mut self.s.phase else {
            return self.reply(ticket, Err(Refusal::NotRunning));
        };
        let asked = &mut life.freezer.get_or_insert_default().asked;
        let before = *asked;
        if before.is_none_or(|before| before.frozen != frozen) {
            *asked = Some(AskedOfFreezer { frozen, begun: false, inquire_at: None });
            life.stuck_on = None;
            self.settle(Goal::Frozen(!frozen), &Err(Refusal::Superseded));
        }
        self.owe(ticket, Goal::Frozen(frozen));
        self.begin_freeze();
    }

    /// Has the kernel do what was asked for. Not while limits are changed: who freezes a run for that thaws it afterwards.
    fn begin_freeze(&mut self) {
        let (run, at) = (self.s.run(), self.now + HELD_UP);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        if life.changes > 0 {
            return;
        }
        if let Some(Some(asked)) = life.asked_of_freezer_mut()
            && !asked.begun
        {
            (asked.begun, asked.inquire_at) = (true, Some(at));
            let frozen = asked.frozen;
            self.out.push(Effect::Freeze { run, frozen });
        }
    }

    /// A change of its limits was asked of the kernel.
    pub(super) fn limits_change(&mut self) {
        if let Some(life) = self.s.phase.life_mut() {
            life.changes = life.changes.saturating_add(1);
        }
    }

    /// One is answered.
    pub(super) fn limits_have_changed(&mut self) {
        if let Some(life) = self.s.phase.life_mut() {
            life.changes = life.changes.saturating_sub(1);
        }
        self.begin_freeze();
    }

    /// The kernel says whether it is frozen.
    pub(super) fn freezer_says(&mut self, frozen: bool) {
        let now = self.now;
        let Some(life) = self.s.phase.life_mut() else { return };
        life.freezer_says(frozen, now);
        if let Some(asked) = life.asked_of_freezer_mut()
            && asked.take_if(|asked| asked.begun && asked.frozen == frozen).is_some()
        {
            life.stuck_on = None;
            self.settle(Goal::Frozen(frozen), &Ok(()));
        }
    }

    /// Its main process has ended. One that did so of its own accord had gone on, which the kernel, who tells of a change every ten
    /// milliseconds at most, says after that or never.
    pub(super) fn ended_while_frozen(&mut self, status: Option<ExitStatus>) {
        let asked = self.s.phase.life_mut().and_then(|life| life.asked_of_freezer());
        if matches!(status, Some(ExitStatus::Exited { .. })) && asked.is_some_and(|asked| asked.begun && !asked.frozen)
        {
            self.freezer_says(false);
        }
    }

    pub(super) fn freeze_refused(&mut self, why: &str) {
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        if let Some(asked) = life.asked_of_freezer_mut().and_then(Option::take) {
            life.stuck_on = None;
            self.fault(why);
            self.settle(Goal::Frozen(asked.frozen), &Err(Refusal::Kernel(why.to_owned())));
        }
    }

    /// It takes longer than it should.
    pub(super) fn inquire_freezer(&mut self) {
        let (run, now) = (self.s.run(), self.now);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        if let Some(Some(asked)) = life.asked_of_freezer_mut()
            && asked.inquire_at.take_if(|at| *at <= now).is_some()
        {
            let frozen = asked.frozen;
            self.out.push(Effect::InquireFreeze { run, frozen });
        }
    }

    /// What is on its way is for as long as the run runs.
    pub(super) fn freezer_matters(&mut self) {
        if matches!(self.s.phase, Phase::Running { .. }) {
            return;
        }
        if let Some(life) = self.s.phase.life_mut()
            && let Some(asked) = life.asked_of_freezer_mut()
            && asked.take().is_some()
        {
            life.stuck_on = None;
        }
        for frozen in [true, false] {
            self.settle(Goal::Frozen(frozen), &Err(Refusal::NotRunning));
        }
    }
}

#[cfg(test)]
#[path = "freezer_tests.rs"]
mod tests;
