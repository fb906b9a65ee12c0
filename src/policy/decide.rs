//! The one place that decides what follows from a trigger: an exit, a violated limit, a failed health check, a person.
//!
//! # Precedence
//!
//! operator > `immediate_kill` > `graceful_shutdown` > a limit's `restart` > a health check > `restart.policy` of an exit.
//!
//! * While it is wished that the worker is down, nothing else counts: a violation is on record, and no run follows.
//! * `immediate_kill` and `graceful_shutdown` are final: they make that the wish, until a person starts the worker.
//! * A restart that was decided for a living run stays decided when the run ends by itself meanwhile: the exit is no
//!   second trigger. Whatever else asks for a restart before the new run has begun joins it.
//! * An OOM kill at the worker's own limit belongs to that limit's policy, where the policy is to restart, however its
//!   notification and the exit came in time.
//! * Everything that restarts by itself asks the [breaker](super::breaker) for a seat in the budget of its class. A dead
//!   worker without a seat is held down; a living one goes on, degraded.
//! * A health check ends a run under `restart.policy: never` too, and no run follows it: what fails its liveness check is
//!   not left running by anybody's rules, and `never` means never.

use std::{borrow::Cow, time::Duration};

use super::breaker::{Admission, Breaker, Request, after_clean_exit};
use super::dispatch::{Response, ViolationHandling, ViolationPolicy, respond};
use super::restart::{RestartMode, RestartPolicy};
use crate::model::{
    Class, Decision, ExitCause, Limit, Mono, OomScope, Severity, Stage, Trigger as Source, UnknownWhy, Verdict,
};

/// What is wished of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it runs: the policies decide.
    Up,
    /// A new run, asked for by a person or a program.
    Again,
    /// That it is down.
    Down,
}

/// What there is of the worker when the trigger comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// No run.
    Down,
    /// A run is being made or launched.
    Starting,
    /// Its program runs, and nobody ends it.
    Alive {
        /// Since when.
        since: Mono,
    },
    /// Its main process has ended by itself; its cgroup is not proved empty yet.
    Dying,
    /// Somebody ends it.
    Ending {
        /// Whether another run follows that has been decided or asked for.
        rerun: bool,
    },
    /// The run is over: its cgroup is proved empty.
    Over,
}

/// A restart that was decided and has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// When.
    pub due: Mono,
    /// From whose budget.
    pub class: Class,
    /// For which limit; `None` for a health check.
    pub limit: Option<Limit>,
}

/// All that a verdict is made from, beside the trigger and the breaker.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// `unit.restart`.
    pub policy: &'a RestartPolicy,
    /// What is wished.
    pub wish: Wish,
    /// What there is.
    pub life: Life,
    /// When the run, or the last one, was begun.
    pub began: Mono,
    /// The restart that was decided already.
    pub pending: Option<Pending>,
    /// This moment.
    pub now: Mono,
    /// A number in [0, 1) for the jitter.
    pub draw: f64,
}

/// What asks.
#[derive(Debug, Clone, Copy)]
pub enum Trigger<'a> {
    /// A run is over.
    Exit(Exit<'a>),
    /// A limit was violated: once for an episode.
    Violation(Breach),
    /// A health check has failed as often as it may.
    Health {
        /// `startup` or `liveness`.
        probe: &'static str,
    },
    /// The cooldown of a class is over, and the worker was held down by it.
    Trial(Class),
    /// A person or a program.
    Operator(Order),
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit<'a> {
    /// Why.
    pub cause: &'a ExitCause,
    /// What an OOM kill at the worker's own limit comes to.
    pub memory: (ViolationPolicy, ViolationHandling),
}

/// A violated limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub limit: Limit,
    /// How bad.
    pub severity: Severity,
    /// The policy that is asked.
    pub policy: ViolationPolicy,
    /// Who handles it.
    pub mode: ViolationHandling,
}

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That it is up, whatever the breaker says: it closes.
    Start,
    /// That it is down.
    Stop,
    /// A new run.
    Restart {
        /// Also while the breaker is open.
        force: bool,
    },
    /// That it is down, at once.
    Kill,
}

/// The verdict and its record.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What to do.
    pub act: Act,
    /// The same for the record, with the rule.
    pub decision: Decision,
}

/// What to do. Of a run that is over only the last three, of one that is not none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// What was asked for.
    Obey,
    /// Nothing of what was asked for: this class of the breaker is open.
    Refuse(Class),
    /// Nothing but the record.
    Record,
    /// The run ends gracefully when it is due, and another follows.
    Restart(Pending),
    /// The run ends gracefully, and what then follows its exit says.
    End,
    /// The run ends gracefully, for good.
    Shutdown {
        /// The timeout, where it is not the worker's own.
        within: Option<Duration>,
    },
    /// The run is killed, for good.
    Kill,
    /// No restart: the class is open. A living run goes on.
    Hold {
        /// Which class.
        class: Class,
        /// Whether it was this request that opened it.
        opened: bool,
    },
    /// A new run.
    Run {
        /// When; a moment in the past is now.
        due: Mono,
        /// As which automatic restart it counts; `None` for one that was asked for.
        class: Option<Class>,
    },
    /// None.
    Rest(Rest),
}

/// Why no run follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It ended well.
    Done,
    /// It failed.
    Failed,
    /// It was asked to be down.
    Stopped,
    /// The breaker is open.
    Open {
        /// Which class.
        class: Class,
        /// Whether it was this exit that opened it.
        opened: bool,
    },
}

/// Decides what follows from `trigger`. The breaker is asked at most once.
#[must_use]
pub fn decide(trigger: &Trigger<'_>, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    match trigger {
        Trigger::Exit(exit) => exited(exit, facts, breaker),
        Trigger::Violation(breach) => violated(*breach, facts, breaker),
        Trigger::Health { probe } => unhealthy(probe, facts, breaker),
        Trigger::Trial(class) => tried(*class, facts, breaker),
        Trigger::Operator(order) => ordered(*order, facts, breaker),
    }
}

/// A verdict with its rule, before it is a record.
struct Finding {
    act: Act,
    rule: Cow<'static, str>,
    class: Option<Class>,
    attempt: Option<(u32, Option<u32>)>,
    due: Option<Mono>,
}

fn plain(act: Act, rule: impl Into<Cow<'static, str>>) -> Finding {
    let due = match act {
        Act::Run { due, .. } => Some(due),
        Act::Restart(pending) => Some(pending.due),
        _ => None,
    };
    Finding { act, rule: rule.into(), class: None, attempt: None, due }
}

fn ordered(order: Order, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    let found = match order {
        Order::Start => {
            // The caller sees what changed by looking.
            drop(breaker.reset());
            plain(Act::Obey, "a start closes the breaker: a mended worker needs no second command")
        }
        Order::Stop | Order::Kill => plain(Act::Obey, "what a person asks for goes before every policy"),
        Order::Restart { force } => match Class::ALL.into_iter().find(|class| breaker.is_open(*class)) {
            Some(class) if !force => Finding {
                class: Some(class),
                ..plain(
                    Act::Refuse(class),
                    "its breaker is open: mend it and start it, reset the breaker, or restart it by force",
                )
            },
            _ => plain(Act::Obey, "a restart that was asked for uses no budget"),
        },
    };
    record(found, Source::Operator, "operator", "asked for".into(), None, facts.now)
}

fn violated(breach: Breach, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    let Breach { limit, severity, policy, mode } = breach;
    let evidence = format!("{limit} ({})", severity.as_str());
    let response = respond(policy, mode);
    let found = match response {
        Response::Record if mode == ViolationHandling::Disabled => {
            plain(Act::Record, "violation_handling is disabled: recorded, and the kernel's limits hold")
        }
        Response::Record => plain(Act::Record, format!("{}: recorded, the run goes on", policy.as_str())),
        _ if facts.wish == Wish::Down => plain(Act::Record, "it is being stopped: nothing else counts"),
        _ if matches!(facts.life, Life::Down | Life::Over) => plain(Act::Record, "the run is over"),
        Response::Kill => plain(Act::Kill, format!("{}: killed, and no run follows", policy.as_str())),
        Response::Shutdown { within } => {
            plain(Act::Shutdown { within }, format!("{}: stopped, and no run follows", policy.as_str()))
        }
        Response::Restart => {
            let pending = |due| Pending { due, class: Class::Violation, limit: Some(limit) };
            seat(Class::Violation, severity, pending, facts, breaker)
        }
    };
    record(found, Source::Violation, policy.as_str(), evidence, Some(limit), facts.now)
}

fn unhealthy(probe: &str, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    let alive = matches!(facts.life, Life::Alive { .. });
    let found = match facts.wish {
        Wish::Down => plain(Act::Record, "it is being stopped: nothing else counts"),
        Wish::Up | Wish::Again if !alive && !matches!(facts.life, Life::Ending { rerun: true }) => {
            plain(Act::Record, "the run has ended by itself meanwhile")
        }
        Wish::Up | Wish::Again if alive && facts.pending.is_none() && facts.policy.mode == RestartMode::Never => {
            plain(Act::End, "never: what fails its check is ended, and no run follows another")
        }
        Wish::Up | Wish::Again => {
            let pending = |due| Pending { due, class: Class::Health, limit: None };
            seat(Class::Health, Severity::Critical, pending, facts, breaker)
        }
    };
    record(found, Source::Health, "health_check", format!("the {probe} check fails"), None, facts.now)
}

/// Asks for the restart of a run that is not over.
fn seat(
    class: Class,
    severity: Severity,
    pending: impl Fn(Mono) -> Pending,
    facts: &Facts<'_>,
    breaker: &mut Breaker,
) -> Finding {
    if facts.pending.is_some() || matches!(facts.life, Life::Ending { rerun: true }) {
        return plain(Act::Record, "it joins the restart that is under way");
    }
    // A dead worker is not spared, for it is not young: it is dead.
    let alive = match facts.life {
        Life::Alive { since } => Some(since),
        Life::Starting => Some(facts.now),
        Life::Down | Life::Dying | Life::Ending { .. } | Life::Over => None,
    };
    let admission = breaker.request(
        facts.policy,
        Request { class, severity, began: facts.began, alive_since: alive },
        facts.now,
        facts.draw,
    );
    let found = match admission {
        Admission::Admitted { due, attempt, max } => Finding {
            attempt: Some((attempt, max)),
            ..plain(Act::Restart(pending(due)), "restart: a graceful end, then a new run")
        },
        Admission::Opens { .. } => plain(Act::Hold { class, opened: true }, used_up(class)),
        Admission::Refused { .. } => plain(Act::Hold { class, opened: false }, held(class)),
        Admission::Muted { .. } => {
            plain(Act::Record, "startup_grace_period: a young run is spared, and it is no strike")
        }
    };
    Finding { class: Some(class), ..found }
}

fn used_up(class: Class) -> Cow<'static, str> {
    format!("all restarts in a row for {} are used: the breaker opens", purpose(class)).into()
}

fn held(class: Class) -> Cow<'static, str> {
    format!("the breaker is open for {}", purpose(class)).into()
}

const fn purpose(class: Class) -> &'static str {
    match class {
        Class::Exit => "exits",
        Class::Health => "failed health checks",
        Class::Violation => "violated limits",
    }
}

fn exited(exit: &Exit<'_>, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    let evidence = exit.cause.to_string();
    let mode = facts.policy.mode;
    let of_exit = |found, breaker_class: Option<Class>| {
        let found = Finding { class: breaker_class, ..found };
        record(found, Source::Exit, mode.as_str(), evidence.clone(), None, facts.now)
    };
    match facts.wish {
        Wish::Down => {
            let found = plain(Act::Rest(Rest::Stopped), "it was asked to stop: no automatic restart follows");
            return record(found, Source::Operator, mode.as_str(), evidence, None, facts.now);
        }
        Wish::Again => {
            let act = Act::Run { due: facts.now, class: None };
            let found = plain(act, "a new run was asked for: at once, and it uses no budget");
            return record(found, Source::Operator, mode.as_str(), evidence, None, facts.now);
        }
        Wish::Up => {}
    }
    if let Some(Pending { due, class, limit }) = facts.pending {
        let (source, what) = match limit {
            Some(limit) => (Source::Violation, limit.as_str()),
            None => (Source::Health, "a health check"),
        };
        let act = Act::Run { due: due.max(facts.now), class: Some(class) };
        let found = Finding { class: Some(class), ..plain(act, format!("the restart that {what} asked for")) };
        return record(found, source, "restart", evidence, limit, facts.now);
    }
    match judge(facts.policy, exit) {
        Judgement::SpawnFault => {
            let act = Act::Run { due: breaker.fault(facts.now, facts.draw), class: Some(Class::Exit) };
            of_exit(plain(act, "a fault of ours at the start: retried under every policy, no strike"), None)
        }
        Judgement::OutOfMemory => {
            let found = over(Class::Violation, facts, breaker, "restart: its memory ran out");
            record(found, Source::Violation, "restart", evidence, Some(Limit::MemoryMax), facts.now)
        }
        Judgement::Clean => match mode {
            RestartMode::Never => of_exit(plain(Act::Rest(Rest::Done), "never: no run follows another"), None),
            RestartMode::OnFailure => {
                of_exit(plain(Act::Rest(Rest::Done), "on-failure: a clean exit is no failure"), None)
            }
            RestartMode::Always | RestartMode::UnlessStopped => {
                let due = after_clean_exit(facts.policy, facts.began, facts.now, facts.draw);
                let rule = format!("{}: a clean exit waits retry_delay and is no strike", mode.as_str());
                of_exit(plain(Act::Run { due, class: Some(Class::Exit) }, rule), None)
            }
        },
        Judgement::Failure { strike } => match mode {
            RestartMode::Never => of_exit(plain(Act::Rest(Rest::Failed), "never: no run follows another"), None),
            RestartMode::OnFailure | RestartMode::Always | RestartMode::UnlessStopped if !strike => {
                let due = after_clean_exit(facts.policy, facts.began, facts.now, facts.draw);
                let rule = "a restart of the host says nothing about the worker: no strike";
                of_exit(plain(Act::Run { due, class: Some(Class::Exit) }, rule), None)
            }
            RestartMode::OnFailure | RestartMode::Always | RestartMode::UnlessStopped => {
                let rule = format!("{}: {} is a failure", mode.as_str(), exit.cause);
                of_exit(over(Class::Exit, facts, breaker, rule), Some(Class::Exit))
            }
        },
    }
}

fn tried(class: Class, facts: &Facts<'_>, breaker: &mut Breaker) -> Outcome {
    let source = match class {
        Class::Exit => Source::Exit,
        Class::Health => Source::Health,
        Class::Violation => Source::Violation,
    };
    let found = if facts.wish == Wish::Down {
        plain(Act::Rest(Rest::Stopped), "it was asked to stop: no automatic restart follows")
    } else {
        over(class, facts, breaker, "the cooldown is over: one trial, which decides")
    };
    record(found, source, facts.policy.mode.as_str(), "the breaker was open".into(), None, facts.now)
}

/// Asks for a run after one that is over.
fn over(class: Class, facts: &Facts<'_>, breaker: &mut Breaker, rule: impl Into<Cow<'static, str>>) -> Finding {
    let request = Request { class, severity: Severity::Critical, began: facts.began, alive_since: None };
    let asked = breaker.request(facts.policy, request, facts.now, facts.draw);
    let found = match asked {
        Admission::Admitted { due, attempt, max } => {
            Finding { attempt: Some((attempt, max)), ..plain(Act::Run { due, class: Some(class) }, rule) }
        }
        Admission::Opens { .. } => plain(Act::Rest(Rest::Open { class, opened: true }), used_up(class)),
        // Only the living are muted.
        Admission::Refused { .. } | Admission::Muted { .. } => {
            plain(Act::Rest(Rest::Open { class, opened: false }), held(class))
        }
    };
    Finding { class: Some(class), ..found }
}

/// What an exit means to the policy.
enum Judgement {
    Clean,
    SpawnFault,
    OutOfMemory,
    Failure { strike: bool },
}

fn judge(policy: &RestartPolicy, exit: &Exit<'_>) -> Judgement {
    match exit.cause {
        ExitCause::Exited { code } if policy.success_exit_codes.contains(code) => Judgement::Clean,
        ExitCause::StartFailed { stage: Stage::Spawn, .. } => Judgement::SpawnFault,
        ExitCause::Oom { scope: OomScope::Worker } if respond(exit.memory.0, exit.memory.1) == Response::Restart => {
            Judgement::OutOfMemory
        }
        ExitCause::Unknown { why: UnknownWhy::HostRebooted } => Judgement::Failure { strike: false },
        _ => Judgement::Failure { strike: true },
    }
}

/// Whether `cause` is no failure.
#[must_use]
pub fn is_clean(policy: &RestartPolicy, cause: &ExitCause) -> bool {
    matches!(cause, ExitCause::Exited { code } if policy.success_exit_codes.contains(code))
}

fn record(found: Finding, trigger: Source, policy: &str, evidence: String, limit: Option<Limit>, now: Mono) -> Outcome {
    let verdict = match found.act {
        Act::Obey | Act::Rest(Rest::Done | Rest::Stopped) => Verdict::Stay,
        Act::Record => Verdict::Record,
        Act::Restart(_) | Act::Run { .. } => Verdict::Restart,
        Act::End | Act::Shutdown { .. } => Verdict::Stop,
        Act::Kill => Verdict::Kill,
        Act::Refuse(_) | Act::Hold { .. } | Act::Rest(Rest::Open { .. }) => Verdict::Hold,
        Act::Rest(Rest::Failed) => Verdict::GiveUp,
    };
    let decision = Decision {
        trigger,
        evidence,
        class: found.class,
        limit,
        policy: policy.to_owned(),
        verdict,
        rule: found.rule.into_owned(),
        attempt: found.attempt.map(|(k, _)| k),
        max_attempts: found.attempt.and_then(|(_, max)| max),
        delay_ms: found.due.map(|due| u64::try_from(due.since(now).as_millis()).unwrap_or(u64::MAX)),
    };
    Outcome { act: found.act, decision }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
