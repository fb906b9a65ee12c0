//! What began a run.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Class;

/// What began a run. In JSON its own word, for people with `restart` before it where it followed another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Begun {
    /// A start: by the configuration, or asked for by a person or a program.
    Start,
    /// The end of the run before it, by the restart policy.
    Exit,
    /// A failed health check of the run before it.
    Health,
    /// A limit that the run before it violated.
    Violation,
    /// A person or a program, who asked for a restart or freed it from its breaker.
    Operator,
    /// A changed configuration.
    Reload,
    /// Not known: the run was taken over from an earlier supervisor, and the store did not know it.
    Adopted,
}

impl Begun {
    /// That of an automatic restart of `class`; without one the run before it counted for none.
    #[must_use]
    pub const fn of(class: Option<Class>) -> Self {
        match class {
            Some(Class::Health) => Self::Health,
            Some(Class::Violation) => Self::Violation,
            Some(Class::Exit) | None => Self::Exit,
        }
    }
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Exit => "restart: exit",
            Self::Health => "restart: health",
            Self::Violation => "restart: violation",
            Self::Operator => "restart: operator",
            Self::Reload => "restart: reload",
            Self::Adopted => "adopted",
        })
    }
}
