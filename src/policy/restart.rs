//! When a dead worker is started again.
//!
//! The parameters of the whole breaker are here already, because the configuration is validated against them; of
//! them `mode`, `retry_delay`, `backoff_rate`, `max_delay`, `jitter`, `success_exit_codes` and `reset_after` act.
//! `max_retries` has its seat in [`decide`]: the count it will be held against is kept ([`Attempts::strikes`]), nothing is
//! refused because of it yet. Likewise a delay is not multiplied by severity and profile, and has no floor of a second.
//!
//! # When a restart is due
//!
//! Attempt k (from 0) is due `retry_delay · backoff_rate^k` after the previous automatic restart that followed a failure, for
//! the first one after the begin of the run that ended. A delay is a *distance between starts*, not a pause after an end: a
//! worker that ran longer than its delay is back at once, one that dies at birth is held back in full.
//!
//! * A run of at least `reset_after` makes the count 0 again.
//! * A clean exit is no strike: it neither counts nor shifts the sequence, and its restart (`always`,
//!   `unless-stopped`) is due `retry_delay` after the begin of the run that ended.
//! * A spawn fault of ours is no strike either. It is retried quickly and under every mode, because the run that
//!   was wanted never took place, with delays of its own from 50 ms to 5 s.
//! * A restart that was asked for is due at once and uses no budget.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use super::backoff::Backoff;
use crate::model::{Decision, ExitCause, Mono, Stage, Trigger, UnknownWhy, Verdict};

/// `restart.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum RestartMode {
    /// Not at all.
    Never,
    /// After anything but a clean exit.
    #[default]
    OnFailure,
    /// Whatever happened, also where it had been stopped before the supervisor came up again.
    Always,
    /// Whatever happened, but one that was stopped stays so.
    UnlessStopped,
}

/// `unit.restart`.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    /// When at all.
    pub mode: RestartMode,
    /// Restarts in a row before the breaker opens; 0 is without end.
    pub max_retries: u32,
    /// Before the first.
    pub retry_delay: Duration,
    /// What each further delay is multiplied by, ≥ 1.
    pub backoff_rate: f64,
    /// What no delay exceeds.
    pub max_delay: Duration,
    /// The share of a delay, 0 to 1, by which it is varied at random in both directions.
    pub jitter: f64,
    /// After a run of so long the count of attempts is 0 again.
    pub reset_after: Duration,
    /// How long the breaker stays open; `None` waits for a person.
    pub cooldown: Option<Duration>,
    /// How long a young run is spared health and violation restarts.
    pub startup_grace_period: Duration,
    /// Codes that are a clean exit.
    pub success_exit_codes: Vec<i32>,
    /// Overrides of the budget of the health class.
    pub health_failures: BudgetOverride,
    /// Overrides of the budget of the violation class.
    pub resource_violations: BudgetOverride,
    /// By severity (`warning`, `critical`, `emergency`), over the built-in ones.
    pub severity_multipliers: BTreeMap<String, f64>,
    /// By profile, over the built-in ones.
    pub profile_multipliers: BTreeMap<String, f64>,
    /// What an open breaker does to the supervisor.
    pub on_open: OnOpen,
    /// What kind of worker it is: the worker's `profile_type`.
    pub profile: Profile,
}

impl RestartMode {
    /// The config's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

/// What a class of restarts has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[expect(missing_docs, reason = "as in RestartPolicy")]
pub struct BudgetOverride {
    pub max_retries: Option<u32>,
    pub retry_delay: Option<Duration>,
    pub backoff_rate: Option<f64>,
    pub max_delay: Option<Duration>,
}

/// `restart.on_open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOpen {
    /// The worker stays down.
    #[default]
    Hold,
    /// The supervisor ends, for whoever supervises it.
    Exit,
}

/// `profile_type`: which multipliers of the breaker apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[expect(missing_docs, reason = "the names are the config's own")]
pub enum Profile {
    Batch,
    Web,
    Database,
    Worker,
    Scheduler,
    #[default]
    Default,
}

impl Profile {
    /// The config's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Web => "web",
            Self::Database => "database",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::Default => "default",
        }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::default(),
            max_retries: 3,
            retry_delay: Duration::from_secs(5),
            backoff_rate: 1.5,
            max_delay: Duration::from_secs(300),
            jitter: 0.1,
            reset_after: Duration::from_secs(600),
            cooldown: Some(Duration::from_secs(300)),
            startup_grace_period: Duration::ZERO,
            success_exit_codes: vec![0],
            health_failures: BudgetOverride::default(),
            resource_violations: BudgetOverride::default(),
            severity_multipliers: BTreeMap::new(),
            profile_multipliers: BTreeMap::new(),
            on_open: OnOpen::default(),
            profile: Profile::default(),
        }
    }
}

/// Delays after a spawn fault, which is nobody's fault who could mend it.
const SPAWN_FAULT: Backoff =
    Backoff { delay: Duration::from_millis(50), rate: 2.0, max: Duration::from_secs(5), jitter: 0.1 };

/// What is remembered of the attempts so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// Failures in a row that led to a restart.
    pub strikes: u32,
    /// When the last of those restarts was due.
    pub previous: Option<Mono>,
    /// Spawn faults in a row.
    pub spawn_faults: u32,
}

/// A run that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Why.
    pub cause: &'a ExitCause,
    /// When it was begun, before anything of it was prepared.
    pub began: Mono,
    /// How long its program ran; `None` where it never did.
    pub ran: Option<Duration>,
}

/// What is wanted of the worker when a run of it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it runs: the policy decides.
    Up,
    /// A new run, asked for by a person or a program.
    Again,
    /// That it is down.
    Down,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What to do.
    pub next: Next,
    /// The same for the record, with the rule.
    pub decision: Decision,
    /// What to remember.
    pub attempts: Attempts,
}

/// What to do after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A new run at this moment; one in the past is now.
    Restart {
        /// When.
        due: Mono,
    },
    /// None: it ended well.
    Done,
    /// None, although it failed.
    Failed,
    /// None, because it was asked to stop.
    Stopped,
}

/// Decides what follows a run that ended. `draw` is a number in [0, 1) for the jitter.
#[must_use]
pub fn decide(
    policy: &RestartPolicy,
    attempts: Attempts,
    ended: &Ended<'_>,
    wish: Wish,
    now: Mono,
    draw: f64,
) -> Outcome {
    let stable = ended.ran.is_some_and(|ran| ran >= policy.reset_after);
    let attempts = if stable { Attempts::default() } else { attempts };
    let outcome = |trigger, next, attempts: Attempts, attempt, rule: Cow<'static, str>| {
        let (verdict, delay) = match next {
            Next::Restart { due } => (Verdict::Restart, Some(due.since(now))),
            Next::Done | Next::Stopped => (Verdict::Stay, None),
            Next::Failed => (Verdict::GiveUp, None),
        };
        let decision = Decision {
            trigger,
            evidence: ended.cause.to_string(),
            class: None,
            limit: None,
            policy: policy.mode.as_str().to_owned(),
            verdict,
            rule: rule.into_owned(),
            attempt,
            max_attempts: None,
            delay_ms: delay.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        };
        Outcome { next, decision, attempts }
    };
    match wish {
        Wish::Down => {
            let rule = "it was asked to stop: no automatic restart follows";
            return outcome(Trigger::Operator, Next::Stopped, attempts, None, rule.into());
        }
        Wish::Again => {
            let rule = "a new run was asked for: at once, and it uses no budget";
            return outcome(Trigger::Operator, Next::Restart { due: now }, attempts, None, rule.into());
        }
        Wish::Up => {}
    }
    let (next, after, attempt, rule): (_, _, _, Cow<'static, str>) = match judge(policy, ended.cause) {
        Judgement::SpawnFault => {
            let due = now + SPAWN_FAULT.delay(attempts.spawn_faults, draw);
            let after = Attempts { spawn_faults: attempts.spawn_faults.saturating_add(1), ..attempts };
            (
                Next::Restart { due },
                after,
                None,
                "a fault of ours at the start: retried under every policy, no strike".into(),
            )
        }
        Judgement::Clean => match policy.mode {
            RestartMode::Never => (Next::Done, attempts, None, "never: no run follows another".into()),
            RestartMode::OnFailure => (Next::Done, attempts, None, "on-failure: a clean exit is no failure".into()),
            RestartMode::Always | RestartMode::UnlessStopped => {
                let due = (ended.began + Backoff::of(policy).delay(0, draw)).max(now);
                let rule = format!("{}: a clean exit waits retry_delay and is no strike", policy.mode.as_str());
                (Next::Restart { due }, attempts, None, rule.into())
            }
        },
        Judgement::Failure { strike } => match policy.mode {
            RestartMode::Never => (Next::Failed, attempts, None, "never: no run follows another".into()),
            RestartMode::OnFailure | RestartMode::Always | RestartMode::UnlessStopped => {
                let k = attempts.strikes;
                let from = attempts.previous.unwrap_or(ended.began);
                let due = (from + Backoff::of(policy).delay(k, draw)).max(now);
                let strikes = k.saturating_add(u32::from(strike));
                let after = Attempts { strikes, previous: strike.then_some(due).or(attempts.previous), ..attempts };
                let rule = format!("{}: {} is a failure", policy.mode.as_str(), ended.cause);
                (Next::Restart { due }, after, strike.then_some(strikes), rule.into())
            }
        },
    };
    outcome(Trigger::Exit, next, after, attempt, rule)
}

/// What an exit means to the policy.
enum Judgement {
    Clean,
    SpawnFault,
    Failure { strike: bool },
}

fn judge(policy: &RestartPolicy, cause: &ExitCause) -> Judgement {
    match cause {
        ExitCause::Exited { code } if policy.success_exit_codes.contains(code) => Judgement::Clean,
        ExitCause::StartFailed { stage: Stage::Spawn, .. } => Judgement::SpawnFault,
        // The host's restart says nothing about the worker.
        ExitCause::Unknown { why: UnknownWhy::HostRebooted } => Judgement::Failure { strike: false },
        _ => Judgement::Failure { strike: true },
    }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
