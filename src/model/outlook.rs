use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Class, KilledBy, Limit, PolicyName};

/// Whether a worker should be up, as it is remembered beyond its supervisor and its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It should.
    Up,
    /// It should not, until somebody starts it.
    Down(DownBy),
}

/// Who took a worker down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownBy {
    /// On whose behalf.
    pub by: KilledBy,
    /// Whose policy it was, with [`KilledBy::Policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Who asked, as the event of that request names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

/// How a run is being ended: what was asked of it, and what is to follow. Its record has this, so that its end has the same cause
/// and the same consequence under whichever supervisor it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The stop signal that is sent, and on whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<(KilledBy, i32)>,
    /// On whose behalf it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<KilledBy>,
    /// Whose policy it is, with [`KilledBy::Policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Another run was asked for.
    #[serde(default)]
    pub again: bool,
    /// The automatic restart that it is ended for: from whose budget, and for which limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<(Class, Option<Limit>)>,
}

/// What a worker is about to do, beside what is wished: what another supervisor goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// A run is being made.
    Launching,
    /// A run lives, or has ended and nothing is decided yet.
    Running,
    /// It ended with its supervisor: the next one starts it.
    Start,
    /// A run follows.
    Due {
        /// After this time, from the moment of saving.
        after: Duration,
        /// Whose restart it is.
        class: Option<Class>,
    },
    /// This class of its restart breaker admits none.
    Held(Class),
    /// It ended well, and its policy is content.
    Done,
    /// It failed, and its policy does not bring it back.
    Failed,
    /// Nothing: it was taken down, or never started.
    Rest,
}

impl Outlook {
    /// Whether what follows the last run was decided. That everything was to end decides nothing.
    #[must_use]
    pub const fn is_decided(self) -> bool {
        !matches!(self, Self::Launching | Self::Running | Self::Start)
    }

    /// Whether there is no run, nor one under way.
    #[must_use]
    pub const fn is_rest(self) -> bool {
        !matches!(self, Self::Launching | Self::Running)
    }
}
