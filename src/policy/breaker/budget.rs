//! What a class may spend: the configured numbers, by class, severity and profile.

use std::time::Duration;

use crate::model::{Class, Severity};
use crate::policy::{
    backoff::Backoff,
    restart::{BudgetOverride, Profile, RestartPolicy},
};

/// The least a delay is multiplied down to. A delay of zero is not meant to be one, and stays.
const FLOOR: Duration = Duration::from_secs(1);

/// The budget of one class for one severity, multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Budget {
    /// Restarts in a row; `None` is without end.
    pub(super) max: Option<u32>,
    /// When each is due.
    pub(super) backoff: Backoff,
}

impl Budget {
    pub(super) fn of(policy: &RestartPolicy, class: Class, severity: Severity) -> Self {
        let (max, delay, own) = match class {
            Class::Exit => (policy.max_retries, policy.retry_delay, BudgetOverride::default()),
            Class::Health => (policy.max_retries, policy.retry_delay, policy.health_failures),
            Class::Violation => {
                let more = if policy.max_retries == 0 { 0 } else { policy.max_retries.saturating_add(2) };
                (more, policy.retry_delay.saturating_mul(2), policy.resource_violations)
            }
        };
        let factor = severity_factor(policy, severity) * profile_factor(policy);
        Self {
            max: times(own.max_retries.unwrap_or(max), factor),
            backoff: Backoff {
                delay: stretched(own.retry_delay.unwrap_or(delay), factor),
                rate: own.backoff_rate.unwrap_or(policy.backoff_rate),
                max: own.max_delay.unwrap_or(policy.max_delay),
                jitter: policy.jitter,
            },
        }
    }
}

fn severity_factor(policy: &RestartPolicy, severity: Severity) -> f64 {
    policy.severity_multipliers.get(severity.as_str()).copied().unwrap_or(match severity {
        Severity::Warning => 0.5,
        Severity::Critical => 1.0,
        Severity::Emergency => 2.0,
    })
}

fn profile_factor(policy: &RestartPolicy) -> f64 {
    policy.profile_multipliers.get(policy.profile.as_str()).copied().unwrap_or(match policy.profile {
        Profile::Batch => 3.0,
        Profile::Database => 5.0,
        Profile::Worker => 2.0,
        Profile::Scheduler => 2.5,
        Profile::Web | Profile::Default => 1.0,
    })
}

/// `max(1, trunc(max · factor))`; 0 is without end and stays so.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies between 1 and u32::MAX")]
fn times(max: u32, factor: f64) -> Option<u32> {
    if max == 0 {
        return None;
    }
    let product = f64::from(max) * factor;
    // Factors are written in decimals: 100 · 0.29 is 29, though as binary fractions it is a hair less.
    let near = product.round();
    let whole = if (product - near).abs() <= 1e-9 * near.abs() { near } else { product.trunc() };
    Some(whole.max(1.0).min(f64::from(u32::MAX)) as u32)
}

fn stretched(delay: Duration, factor: f64) -> Duration {
    if delay.is_zero() {
        return Duration::ZERO;
    }
    // What is no duration is longer than any; the backoff's own cap cuts it down.
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(Duration::MAX).max(FLOOR)
}
