//! What was violated, and what was done about it: as long as it goes on, and for a while afterwards.

use std::{collections::VecDeque, time::Duration};

use super::Recorded;
use crate::model::{Limit, Mono};
use crate::policy::dispatch::{Handler, Response};

/// So many are kept, whatever `history_retention` says: a program that violates a limit again and again must not fill the memory
/// of who watches it.
pub const KEPT: usize = 1000;

/// The episodes, in the order they began.
#[derive(Debug)]
pub(super) struct History {
    all: VecDeque<Recorded>,
    retention: Duration,
}

impl History {
    pub(super) const fn new(retention: Duration) -> Self {
        Self { all: VecDeque::new(), retention }
    }

    pub(super) fn add(&mut self, one: Recorded) {
        self.prune(one.since);
        self.all.push_back(one);
    }

    /// The episodes of `limit`, or of all of them, are over.
    pub(super) fn close(&mut self, limit: Option<Limit>, now: Mono) {
        for one in self.all.iter_mut().filter(|one| limit.is_none_or(|limit| one.violation.limit == limit)) {
            one.until = one.until.or(Some(now));
        }
    }

    /// What the manager did about a violation has failed. The first reason counts: what comes after follows from it.
    pub(super) fn failed(&mut self, why: String) {
        let acted = |one: &&mut Recorded| one.handler == Handler::Manager && one.response != Response::Record;
        if let Some(one) = self.all.iter_mut().rev().find(acted) {
            one.error.get_or_insert(why);
        }
    }

    pub(super) fn list(&mut self, now: Mono) -> Vec<Recorded> {
        self.prune(now);
        self.all.iter().cloned().collect()
    }

    fn prune(&mut self, now: Mono) {
        let retention = self.retention;
        self.all.retain(|one| one.until.is_none_or(|until| now.since(until) <= retention));
        // Episodes that go on are few, at most two of each limit, and are kept.
        while self.all.len() >= KEPT
            && let Some(oldest) = self.all.iter().position(|one| one.until.is_some())
        {
            self.all.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Severity, Violation};
    use crate::policy::dispatch::ViolationPolicy;

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    fn one(limit: Limit, since: Mono) -> Recorded {
        let violation =
            Violation { limit, severity: Severity::Critical, observed: String::new(), configured: String::new() };
        Recorded {
            violation,
            since,
            until: None,
            policy: ViolationPolicy::Restart,
            handler: Handler::Manager,
            response: Response::Shutdown { within: None },
            error: None,
        }
    }

    #[test]
    fn an_episode_is_kept_while_it_goes_on_and_for_a_while_afterwards() {
        let mut history = History::new(Duration::from_secs(60));
        history.add(one(Limit::PidsMax, at(0)));
        history.add(one(Limit::CpuTime, at(1)));
        history.close(Some(Limit::PidsMax), at(10));
        let list = history.list(at(70));
        assert_eq!(list.iter().map(|one| one.until).collect::<Vec<_>>(), [Some(at(10)), None]);
        let list = history.list(at(71));
        assert_eq!(list.iter().map(|one| one.violation.limit).collect::<Vec<_>>(), [Limit::CpuTime]);
        history.close(None, at(80));
        history.close(None, at(90));
        assert_eq!(history.list(at(95))[0].until, Some(at(80)), "it was over then");
    }

    #[test]
    fn however_often_a_limit_is_violated_only_so_many_are_kept() {
        let mut history = History::new(Duration::MAX);
        history.add(one(Limit::CpuTime, at(0)));
        for n in 1..=3000 {
            history.add(one(Limit::PidsMax, at(n)));
            history.close(Some(Limit::PidsMax), at(n));
        }
        let list = history.list(at(4000));
        assert!(list.len() <= KEPT, "{}", list.len());
        assert_eq!(list[0].violation.limit, Limit::CpuTime, "it goes on");
        assert_eq!(list.last().map(|one| one.since), Some(at(3000)));
    }

    #[test]
    fn a_failure_belongs_to_what_was_acted_upon_last() {
        let mut history = History::new(Duration::from_secs(60));
        history.add(one(Limit::PidsMax, at(0)));
        history.add(Recorded { response: Response::Record, ..one(Limit::MemoryMax, at(1)) });
        history.failed("no signal".into());
        history.failed("no kill".into());
        let errors: Vec<_> = history.list(at(2)).into_iter().map(|one| one.error).collect();
        assert_eq!(errors, [Some("no signal".to_owned()), None]);
    }
}
