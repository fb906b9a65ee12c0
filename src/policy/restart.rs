//! `unit.restart`: what is configured about restarts. What follows from it is decided in [`decide`](super::decide), how often
//! and when by the [`breaker`](super::breaker).

use std::{collections::BTreeMap, time::Duration};

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
