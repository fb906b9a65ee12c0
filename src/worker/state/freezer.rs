//! How it stands with the freezer of a run.
//!
//! Whether it is frozen is what the kernel says of it, whoever wrote `cgroup.freeze`; nothing of it is remembered elsewhere, so that
//! nothing can disagree. What was asked for and is not so yet is known here, and asked again by nobody.

use std::time::Duration;

use super::Life;
use crate::model::{Class, Mono};
use crate::policy::decide::Pending;
use crate::policy::violation::Rules;

/// See above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::worker) struct Freezer {
    /// Since when it is frozen.
    since: Option<Mono>,
    /// How long it was before.
    before: Duration,
    /// What was asked for and is not so yet.
    pub(in crate::worker) asked: Option<Asked>,
}

/// A freeze or a thaw that is not done yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Asked {
    pub(in crate::worker) frozen: bool,
    /// Whether the kernel was asked. It is not while limits are being changed, which may freeze and thaw for that.
    pub(in crate::worker) begun: bool,
    /// When it is time to find out what holds it up.
    pub(in crate::worker) inquire_at: Option<Mono>,
}

impl Life {
    /// Takes what the kernel says.
    pub(in crate::worker) fn freezer_says(&mut self, frozen: bool, now: Mono) {
        if self.is_frozen() == frozen {
            return;
        }
        let freezer = self.freezer.get_or_insert_default();
        match freezer.since.take() {
            Some(since) => freezer.before += now.since(since),
            None => freezer.since = Some(now),
        }
    }

    /// Whether all of it stands still.
    pub(in crate::worker) fn is_frozen(&self) -> bool {
        self.freezer.as_ref().is_some_and(|freezer| freezer.since.is_some())
    }

    /// Whether it is frozen or being frozen, so that what it does not do is not its fault.
    pub(in crate::worker) fn is_held(&self) -> bool {
        self.is_frozen() || self.asked_of_freezer().is_some_and(|asked| asked.frozen)
    }

    pub(in crate::worker) fn asked_of_freezer(&self) -> Option<Asked> {
        self.freezer.as_ref()?.asked
    }

    pub(in crate::worker) fn asked_of_freezer_mut(&mut self) -> Option<&mut Option<Asked>> {
        self.freezer.as_mut().map(|freezer| &mut freezer.asked)
    }

    /// Its own time, which stands still with it: what has to last for a while does not last by a freeze.
    pub(in crate::worker) fn own_time(&self, now: Mono) -> Mono {
        let Some(freezer) = &self.freezer else { return now };
        let this = freezer.since.map_or(Duration::ZERO, |since| now.since(since));
        Mono(now.0.saturating_sub(freezer.before.saturating_add(this)))
    }

    /// When its limits are to be looked at. Never while it is frozen.
    pub(in crate::worker) fn watch_deadline(&self, rules: &Rules) -> Option<Mono> {
        let before = self.freezer.as_ref().map_or(Duration::ZERO, |freezer| freezer.before);
        self.watch.deadline(rules).filter(|_| !self.is_frozen()).map(|at| at + before)
    }

    /// The restart that was decided. One for a failed health check waits until it is thawed, and may be better then.
    pub(in crate::worker) fn pending_now(&self) -> Option<Pending> {
        self.pending.filter(|pending| pending.class != Class::Health || !self.is_held())
    }
}
