//! Who handles a violation, and what its policy comes to: the matrix of policies and handling modes.
//!
//! | policy | `external` | `internal` | waits for it | asks the breaker | final |
//! |---|---|---|---|---|---|
//! | `none`, `log`, `alert` | record | record | no | no | no |
//! | `throttle` | record; `memory.high` stays in force | record | no | no | no |
//! | `restart` | restart, gracefully | shutdown | no | external only | internal only |
//! | `graceful_shutdown` | shutdown | shutdown | no | no | yes |
//! | `immediate_kill` | kill | kill | yes: one write to `cgroup.kill` | no | yes |
//!
//! In mode `disabled` everything is a record: the kernel's limits hold all the same. The internal handler enforces alone
//! and knows no breaker, so its `restart` ends the run and begins none; its shutdown is SIGTERM, five seconds, `cgroup.kill`.
//! Exactly one handler sees a violation: [`handler`] names it.

use std::time::Duration;

/// How long the internal handler waits between SIGTERM and `cgroup.kill`.
pub const INTERNAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A limit's `policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[expect(missing_docs, reason = "the names are the config's own")]
pub enum ViolationPolicy {
    None,
    #[default]
    Log,
    Alert,
    Throttle,
    Restart,
    GracefulShutdown,
    ImmediateKill,
}

impl ViolationPolicy {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Log,
        Self::Alert,
        Self::Throttle,
        Self::Restart,
        Self::GracefulShutdown,
        Self::ImmediateKill,
    ];

    /// The config's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Log => "log",
            Self::Alert => "alert",
            Self::Throttle => "throttle",
            Self::Restart => "restart",
            Self::GracefulShutdown => "graceful_shutdown",
            Self::ImmediateKill => "immediate_kill",
        }
    }
}

/// `monitoring.violation_handling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ViolationHandling {
    /// The worker's own decision, through the breaker.
    #[default]
    External,
    /// The limit manager alone.
    Internal,
    /// Recorded only.
    Disabled,
}

impl ViolationHandling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::External, Self::Internal, Self::Disabled];

    /// The config's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Internal => "internal",
            Self::Disabled => "disabled",
        }
    }
}

/// What a policy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// It is recorded, nothing else.
    Record,
    /// The run is ended gracefully and another follows, if the breaker admits it.
    Restart,
    /// The run is ended gracefully, for good. `within` is the handler's own timeout; without one the worker's counts.
    Shutdown {
        /// From the signal to `cgroup.kill`.
        within: Option<Duration>,
    },
    /// The run is killed, for good.
    Kill,
}

impl Response {
    /// Whether the worker stays down until a person starts it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Shutdown { .. } | Self::Kill)
    }

    /// Whether the restart breaker is asked.
    #[must_use]
    pub const fn asks_breaker(self) -> bool {
        matches!(self, Self::Restart)
    }

    /// Whether who noticed the violation waits until it is done: only for what is one quick write.
    #[must_use]
    pub const fn is_waited_for(self) -> bool {
        matches!(self, Self::Kill)
    }
}

/// What `policy` comes to where `mode` handles it.
#[must_use]
pub const fn respond(policy: ViolationPolicy, mode: ViolationHandling) -> Response {
    use ViolationHandling::{Disabled, External, Internal};
    use ViolationPolicy::{Alert, GracefulShutdown, ImmediateKill, Log, None as Nothing, Restart, Throttle};
    match (mode, policy) {
        (Disabled, _) | (_, Nothing | Log | Alert | Throttle) => Response::Record,
        (External, Restart) => Response::Restart,
        (External, GracefulShutdown) => Response::Shutdown { within: None },
        (Internal, Restart | GracefulShutdown) => Response::Shutdown { within: Some(INTERNAL_TIMEOUT) },
        (External | Internal, ImmediateKill) => Response::Kill,
    }
}

/// The one that handles a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Whoever was given the violation: the worker, or a user of the library by its callback.
    Callback,
    /// The limit manager.
    Manager,
    /// Nobody; it is on record.
    Nobody,
}

/// Who handles violations in `mode`.
#[must_use]
pub const fn handler(mode: ViolationHandling) -> Handler {
    match mode {
        ViolationHandling::External => Handler::Callback,
        ViolationHandling::Internal => Handler::Manager,
        ViolationHandling::Disabled => Handler::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ViolationHandling::{Disabled, External, Internal};
    use ViolationPolicy::{Alert, GracefulShutdown, ImmediateKill, Log, None as Nothing, Restart, Throttle};

    #[test]
    fn the_matrix_row_by_row() {
        let five = Response::Shutdown { within: Some(Duration::from_secs(5)) };
        for (policy, external, internal) in [
            (Nothing, Response::Record, Response::Record),
            (Log, Response::Record, Response::Record),
            (Alert, Response::Record, Response::Record),
            (Throttle, Response::Record, Response::Record),
            (Restart, Response::Restart, five),
            (GracefulShutdown, Response::Shutdown { within: None }, five),
            (ImmediateKill, Response::Kill, Response::Kill),
        ] {
            assert_eq!(respond(policy, External), external, "{policy:?}");
            assert_eq!(respond(policy, Internal), internal, "{policy:?}");
            assert_eq!(respond(policy, Disabled), Response::Record, "{policy:?}");
        }
    }

    #[test]
    fn only_a_restart_asks_the_breaker_only_a_kill_is_waited_for_and_only_an_end_is_final() {
        for (response, asks, waits, ends) in [
            (Response::Record, false, false, false),
            (Response::Restart, true, false, false),
            (Response::Shutdown { within: None }, false, false, true),
            (Response::Kill, false, true, true),
        ] {
            assert_eq!((response.asks_breaker(), response.is_waited_for(), response.is_final()), (asks, waits, ends));
        }
    }

    #[test]
    fn the_internal_handler_begins_no_run() {
        assert!(ViolationPolicy::ALL.iter().all(|p| respond(*p, Internal) != Response::Restart));
    }
}
