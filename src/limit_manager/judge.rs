//! What follows from what the engine finds, where no supervisor decides: findings, the handling mode and time in, actions out.
//! Nothing is done here.
//!
//! ```text
//!            shutdown                  kill_at, or kill
//!   Calm ───────────────▶ Asked ───────────────────────▶ Killed ── give_up ──▶ Stuck
//!     │ ▲                   │              refused: retry └─┘ │                  │ kill
//!     │ └── empty ──────────┴─────────────────────────────────┴──────────────────┘  (to Killed)
//!     └──────────────────────────── kill ───────────────────▲
//! ```

use std::time::Duration;

use crate::model::{Limit, Mono, Violation};
use crate::policy::dispatch::{Handler, Response, ViolationHandling, ViolationPolicy, handler, respond};
use crate::policy::violation::Finding;
use crate::spec::types::Limits;
use crate::worker::rules::policy_of;

/// From `cgroup.kill` to saying that it has not helped.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// From a refused `cgroup.kill` to the next.
const KILL_RETRY: Duration = Duration::from_millis(100);

/// What is to be done, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Put `memory.high` in force, or take it out of it.
    Tripwire { armed: bool },
    /// Put an episode on record.
    Record { violation: Violation, policy: ViolationPolicy, handler: Handler, response: Response },
    /// The episodes of this limit are over.
    Close(Limit),
    /// Hand it to the callback.
    Call { violation: Violation, policy: ViolationPolicy },
    /// There is no callback. Once.
    Unheard,
    /// SIGTERM to every process.
    Terminate,
    /// Write `cgroup.kill`. Where it is refused, say so: [`Judge::refused`].
    Kill,
    /// Watch for the end of the last process: [`Judge::empty`].
    AwaitEmpty,
    /// The kill has not helped.
    Unkillable,
    /// All have ended: watch as before.
    Settle,
}

/// Where an end that was begun has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Calm,
    Asked { kill_at: Mono },
    Killed { give_up: Mono, retry: Option<Mono> },
    Stuck,
}

/// Decides for one cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judge {
    mode: ViolationHandling,
    ending: Ending,
    /// Whether `memory.high` is out of force by our hand …
    lifted: bool,
    /// … and whether an episode of it is a reason to keep it so.
    tripped: bool,
    /// Whether it was told that there is no callback.
    told_unheard: bool,
}

impl Judge {
    pub(super) const fn new(mode: ViolationHandling) -> Self {
        Self { mode, ending: Ending::Calm, lifted: false, tripped: false, told_unheard: false }
    }

    /// What follows from `finding`. `callback`: whether there is one.
    pub(super) fn found(&mut self, limits: &Limits, finding: Finding, callback: bool, now: Mono) -> Vec<Action> {
        let mut then = Vec::new();
        match finding {
            Finding::Opened(violation) => {
                let policy = policy_of(limits, violation.limit);
                self.dispatch(limits, violation, policy, callback, now, &mut then);
            }
            Finding::Recovered { limit, .. } => then.push(Action::Close(limit)),
            Finding::LiftHigh { .. } => {
                self.tripped = true;
                self.lift(&mut then);
            }
            Finding::RearmHigh => {
                self.tripped = false;
                self.arm(&mut then);
            }
            Finding::ThrottleExpired(violation) => {
                self.tripped = true;
                // In any case: nobody is about to end it, or who is to end gracefully must get on.
                self.lift(&mut then);
                self.dispatch(limits, violation, limits.memory.policy, callback, now, &mut then);
            }
        }
        then
    }

    /// The last process has ended.
    pub(super) fn empty(&mut self) -> Vec<Action> {
        if self.ending == Ending::Calm {
            return Vec::new();
        }
        self.ending = Ending::Calm;
        let mut then = vec![Action::Settle];
        self.arm(&mut then);
        then
    }

    /// `cgroup.kill` could not be written.
    pub(super) fn refused(&mut self, now: Mono) {
        if let Ending::Killed { retry, .. } = &mut self.ending {
            *retry = Some(now + KILL_RETRY);
        }
    }

    /// What time brings. To be called at every [`deadline`](Self::deadline).
    pub(super) fn time(&mut self, now: Mono) -> Vec<Action> {
        match &mut self.ending {
            Ending::Asked { kill_at } if *kill_at <= now => self.kill(now),
            Ending::Killed { give_up, .. } if *give_up <= now => {
                self.ending = Ending::Stuck;
                vec![Action::Unkillable]
            }
            Ending::Killed { retry, .. } if retry.is_some_and(|at| at <= now) => {
                *retry = None;
                vec![Action::Kill]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        match self.ending {
            Ending::Calm | Ending::Stuck => None,
            Ending::Asked { kill_at } => Some(kill_at),
            Ending::Killed { give_up, retry } => Some(retry.unwrap_or(give_up).min(give_up)),
        }
    }

    /// One violation, one handler.
    fn dispatch(
        &mut self,
        limits: &Limits,
        violation: Violation,
        policy: ViolationPolicy,
        callback: bool,
        now: Mono,
        then: &mut Vec<Action>,
    ) {
        let policy = match policy {
            ViolationPolicy::Alert if !limits.monitoring.alerting_enabled => ViolationPolicy::Log,
            policy => policy,
        };
        let (handler, response) = match handler(self.mode) {
            Handler::Callback if !callback => (Handler::Nobody, Response::Record),
            handler => (handler, respond(policy, self.mode)),
        };
        then.push(Action::Record { violation: violation.clone(), policy, handler, response });
        match (handler, response) {
            (Handler::Callback, _) => then.push(Action::Call { violation, policy }),
            (Handler::Nobody, _) if self.mode == ViolationHandling::External && !self.told_unheard => {
                self.told_unheard = true;
                then.push(Action::Unheard);
            }
            (Handler::Manager, Response::Shutdown { within }) if self.ending == Ending::Calm => {
                self.ending = Ending::Asked { kill_at: now + within.unwrap_or_default() };
                if limits.memory.high.is_some() {
                    // Whoever is throttled gets nowhere, not to his end either.
                    self.lift(then);
                }
                then.extend([Action::Terminate, Action::AwaitEmpty]);
            }
            (Handler::Manager, Response::Kill) => then.extend(self.kill(now)),
            // A record, or an end that has begun; a restart is none of the manager's.
            _ => {}
        }
    }

    fn kill(&mut self, now: Mono) -> Vec<Action> {
        let before = self.ending;
        if matches!(before, Ending::Killed { .. }) {
            return Vec::new();
        }
        self.ending = Ending::Killed { give_up: now + KILL_PATIENCE, retry: None };
        if before == Ending::Calm { vec![Action::Kill, Action::AwaitEmpty] } else { vec![Action::Kill] }
    }

    fn lift(&mut self, then: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.lifted, true) {
            then.push(Action::Tripwire { armed: false });
        }
    }

    /// Once there is no reason left not to.
    fn arm(&mut self, then: &mut Vec<Action>) {
        if self.lifted && !self.tripped && self.ending == Ending::Calm {
            self.lifted = false;
            then.push(Action::Tripwire { armed: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Severity;
    use crate::policy::dispatch::INTERNAL_TIMEOUT;
    use crate::spec::types::{Memory, Monitoring, Pids};
    use ViolationHandling::{Disabled, External, Internal};
    use ViolationPolicy::{Alert, GracefulShutdown, ImmediateKill, Log, None as Nothing, Restart, Throttle};

    const NOW: Mono = Mono(Duration::from_secs(100));

    fn violation(limit: Limit) -> Violation {
        Violation { limit, severity: Severity::Critical, observed: "seen".into(), configured: "64".into() }
    }

    fn pids(policy: ViolationPolicy) -> Limits {
        Limits { pids: Pids { max: Some(64), policy }, ..Limits::default() }
    }

    fn high(policy: ViolationPolicy, high_policy: ViolationPolicy) -> Limits {
        let memory = Memory { max: Some(200), high: Some(100), policy, high_policy, ..Memory::default() };
        Limits { memory, ..Limits::default() }
    }

    /// What follows the record of a violated `pids.max`, in words.
    fn after(mode: ViolationHandling, policy: ViolationPolicy, callback: bool) -> (Handler, Vec<Action>) {
        let mut judge = Judge::new(mode);
        let then = judge.found(&pids(policy), Finding::Opened(violation(Limit::PidsMax)), callback, NOW);
        match then.split_first() {
            Some((Action::Record { violation: v, policy: p, handler, .. }, rest)) => {
                assert_eq!((v, *p), (&violation(Limit::PidsMax), policy));
                (*handler, rest.to_vec())
            }
            other => panic!("it is put on record first: {other:?}"),
        }
    }

    #[test]
    fn each_violation_has_one_handler_and_only_that_one_acts() {
        let call = |policy| vec![Action::Call { violation: violation(Limit::PidsMax), policy }];
        let end = || vec![Action::Terminate, Action::AwaitEmpty];
        let kill = || vec![Action::Kill, Action::AwaitEmpty];
        for (policy, internal) in [
            (Nothing, vec![]),
            (Log, vec![]),
            (Alert, vec![]),
            (Throttle, vec![]),
            (Restart, end()),
            (GracefulShutdown, end()),
            (ImmediateKill, kill()),
        ] {
            for callback in [true, false] {
                assert_eq!(after(Internal, policy, callback), (Handler::Manager, internal.clone()), "{policy:?}");
                assert_eq!(after(Disabled, policy, callback), (Handler::Nobody, vec![]), "{policy:?}");
            }
            assert_eq!(after(External, policy, true), (Handler::Callback, call(policy)), "{policy:?}");
            assert_eq!(after(External, policy, false), (Handler::Nobody, vec![Action::Unheard]), "{policy:?}");
        }
    }

    #[test]
    fn that_nobody_hears_is_told_once() {
        let mut judge = Judge::new(External);
        let mut open = |callback| judge.found(&pids(Log), Finding::Opened(violation(Limit::PidsMax)), callback, NOW);
        assert!(open(false).contains(&Action::Unheard));
        assert_eq!(open(false).len(), 1, "on record, and no second warning");
        assert!(matches!(open(true)[..], [_, Action::Call { .. }]), "it may come later");
    }

    #[test]
    fn without_alerting_an_alert_is_a_log_line() {
        let monitoring = Monitoring { alerting_enabled: false, ..Monitoring::default() };
        let limits = Limits { monitoring, ..pids(Alert) };
        let then = Judge::new(External).found(&limits, Finding::Opened(violation(Limit::PidsMax)), true, NOW);
        assert!(matches!(then[..], [_, Action::Call { policy: Log, .. }]), "{then:?}");
    }

    fn shut_down() -> Judge {
        let mut judge = Judge::new(Internal);
        judge.found(&pids(GracefulShutdown), Finding::Opened(violation(Limit::PidsMax)), false, NOW);
        judge
    }

    #[test]
    fn a_shutdown_is_term_five_seconds_and_a_kill() {
        let mut judge = shut_down();
        assert_eq!(judge.deadline(), Some(NOW + INTERNAL_TIMEOUT));
        assert_eq!(judge.time(NOW + INTERNAL_TIMEOUT / 2), []);
        let killed = NOW + INTERNAL_TIMEOUT;
        assert_eq!(judge.time(killed), [Action::Kill]);
        assert_eq!(judge.deadline(), Some(killed + KILL_PATIENCE));
        assert_eq!(judge.empty(), [Action::Settle]);
        assert_eq!((judge.deadline(), judge.empty()), (None, vec![]), "once");
    }

    #[test]
    fn who_ends_in_time_is_not_killed() {
        let mut judge = shut_down();
        assert_eq!(judge.empty(), [Action::Settle]);
        assert_eq!((judge.time(NOW + INTERNAL_TIMEOUT), judge.deadline()), (vec![], None));
    }

    #[test]
    fn a_second_shutdown_changes_nothing_and_a_kill_makes_it_a_kill_at_once() {
        let mut judge = shut_down();
        let limits = high(Restart, Log);
        let again = judge.found(&limits, Finding::Opened(violation(Limit::MemoryMax)), false, NOW + KILL_RETRY);
        assert_eq!((again.len(), judge.deadline()), (1, Some(NOW + INTERNAL_TIMEOUT)), "{again:?}");
        let kill = |judge: &mut Judge| {
            judge.found(&pids(ImmediateKill), Finding::Opened(violation(Limit::PidsMax)), false, NOW)
        };
        assert_eq!(kill(&mut judge)[1..], [Action::Kill]);
        assert_eq!(kill(&mut judge)[1..], [], "it has been");
    }

    #[test]
    fn a_refused_kill_is_tried_again_until_it_is_given_up_and_the_end_is_still_noticed() {
        let mut judge = shut_down();
        let killed = NOW + INTERNAL_TIMEOUT;
        judge.time(killed);
        judge.refused(killed);
        assert_eq!(judge.deadline(), Some(killed + KILL_RETRY));
        assert_eq!(judge.time(killed + KILL_RETRY), [Action::Kill]);
        assert_eq!(judge.deadline(), Some(killed + KILL_PATIENCE));
        assert_eq!(judge.time(killed + KILL_PATIENCE), [Action::Unkillable]);
        assert_eq!(judge.deadline(), None);
        assert_eq!(judge.empty(), [Action::Settle]);
    }

    #[test]
    fn the_tripwire_is_lifted_before_anything_else_and_set_again_at_the_end_of_the_episode() {
        let limits = high(Restart, Log);
        for mode in [Internal, External, Disabled] {
            let mut judge = Judge::new(mode);
            let mut found = |finding| judge.found(&limits, finding, false, NOW);
            assert_eq!(found(Finding::LiftHigh { why: "" }), [Action::Tripwire { armed: false }], "{mode:?}");
            let opened = found(Finding::Opened(violation(Limit::MemoryHigh)));
            assert!(matches!(opened[0], Action::Record { policy: Log, response: Response::Record, .. }), "{opened:?}");
            assert_eq!(found(Finding::RearmHigh), [Action::Tripwire { armed: true }]);
            let over = Finding::Recovered { limit: Limit::MemoryHigh, lasted: Duration::ZERO };
            assert_eq!(found(over), [Action::Close(Limit::MemoryHigh)]);
        }
    }

    #[test]
    fn a_throttle_without_progress_asks_the_policy_of_memory_max_and_is_lifted_whatever_that_is() {
        for (mode, policy, callback, expected) in [
            (Internal, Log, false, vec![]),
            (Internal, Restart, false, vec![Action::Terminate, Action::AwaitEmpty]),
            (Internal, ImmediateKill, false, vec![Action::Kill, Action::AwaitEmpty]),
            (External, Restart, false, vec![Action::Unheard]),
            (Disabled, Restart, true, vec![]),
            (External, Restart, true, vec![Action::Call { violation: violation(Limit::MemoryHigh), policy: Restart }]),
        ] {
            let mut judge = Judge::new(mode);
            let expired = Finding::ThrottleExpired(violation(Limit::MemoryHigh));
            let then = judge.found(&high(policy, Throttle), expired, callback, NOW);
            assert_eq!(then[0], Action::Tripwire { armed: false }, "{mode:?} {policy:?}");
            assert!(matches!(then[1], Action::Record { policy: p, .. } if p == policy), "{then:?}");
            assert_eq!(then[2..], expected, "{mode:?} {policy:?}");
        }
    }

    #[test]
    fn a_shutdown_lifts_memory_high_until_all_have_ended() {
        let limits = high(GracefulShutdown, Log);
        let mut judge = Judge::new(Internal);
        let then = judge.found(&limits, Finding::Opened(violation(Limit::MemoryMax)), false, NOW);
        assert_eq!(then[1..], [Action::Tripwire { armed: false }, Action::Terminate, Action::AwaitEmpty]);
        let mut tripped = judge.clone();
        assert_eq!(judge.empty(), [Action::Settle, Action::Tripwire { armed: true }]);
        // An episode of its own that begins and ends meanwhile changes nothing of that …
        for finding in [Finding::LiftHigh { why: "" }, Finding::RearmHigh] {
            assert_eq!(tripped.clone().found(&limits, finding, false, NOW), []);
        }
        // … and one that goes on outlasts it.
        tripped.found(&limits, Finding::LiftHigh { why: "" }, false, NOW);
        assert_eq!(tripped.empty(), [Action::Settle]);
        assert_eq!(tripped.found(&limits, Finding::RearmHigh, false, NOW), [Action::Tripwire { armed: true }]);
    }
}
