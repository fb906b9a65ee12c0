use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{BreakerState, Class, ExitCause, KilledBy, Limit, Mono, PolicyName, WorkerId};

/// The four public states. Everything finer is a [`Detail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No process of it is alive: proved, not assumed.
    Stopped,
    /// A run is being prepared or launched.
    Starting,
    /// Its main process has executed its program and has not been seen to end.
    Running,
    /// It is being ended, or its main process has ended and others of its cgroup have not.
    Stopping,
}

/// The word beside a state. Serialised as that word alone, which no two details share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// While [`State::Stopped`].
    Stopped(StoppedDetail),
    /// While [`State::Starting`]: making the cgroup and its limits.
    Preparing,
    /// While [`State::Starting`]: asked of the keeper, not yet confirmed.
    Launching,
    /// While [`State::Running`].
    Running(Readiness),
    /// While [`State::Stopping`].
    Stopping(StoppingDetail),
}

/// Why a worker is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedDetail {
    /// It was never started.
    Never,
    /// It ended well and its restart policy is content.
    Done,
    /// Somebody asked for it.
    Stopped,
    /// It failed and its restart policy does not bring it back.
    Failed,
    /// The restart breaker is open.
    BreakerOpen,
    /// A restart is due, at [`WorkerStatus::next_attempt`].
    Waiting,
}

/// How well a running worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing speaks against it.
    Ready,
    /// Its startup or readiness check has not passed.
    Unready,
    /// A class of its restart breaker is open: what it would be restarted for is put up with.
    Degraded,
    /// It is held at `memory.high`.
    Throttled,
    /// It is frozen.
    Frozen,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppingDetail {
    /// The stop signal was sent; its timeout runs.
    Term,
    /// `cgroup.kill` was written.
    Kill,
    /// The main process ended by itself; what it left behind was sent SIGTERM.
    Draining,
    /// Killed, and still not empty after the time this takes: in uninterruptible sleep, or frozen below. Nothing is
    /// started over it; it clears itself when the processes are gone.
    Unkillable,
}

/// What a worker is doing, as its actor last published it. Reading it never waits for the actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Which worker.
    pub id: WorkerId,
    /// One of four.
    pub state: State,
    /// The finer word.
    pub detail: Detail,
    /// The main process, while it lives.
    pub pid: Option<i32>,
    /// The number of the current or last run; 0 before the first.
    pub run: u32,
    /// Since when the worker is in this state.
    pub since: Mono,
    /// When the current run's program began, while it runs.
    pub started: Option<Mono>,
    /// Automatic restarts since the supervisor learned of the worker.
    pub restarts: u32,
    /// The same, by what they were for.
    pub restarts_by: RestartCounts,
    /// The classes of the restart breaker that have counted something or are not closed.
    pub breaker: Vec<BreakerStatus>,
    /// The limits that are violated now.
    pub violations: Vec<Limit>,
    /// Why the last run ended.
    pub cause: Option<ExitCause>,
    /// When the next attempt is due.
    pub next_attempt: Option<Mono>,
    /// Whether it should be up.
    pub desired_up: bool,
    /// On whose behalf it is down, where it should not be up.
    pub down_by: Option<KilledBy>,
    /// Whose policy it was, where it is down by one.
    pub down_policy: Option<PolicyName>,
    /// What keeps it from ending, while it is `stopping(unkillable)`: its processes and what they wait for in the kernel. While it
    /// runs, what keeps it from being frozen or thawed as was asked for.
    pub stuck_on: Option<String>,
    /// The number of the spec it should run by: each change of its configuration has a higher one.
    pub desired_generation: u64,
    /// The number of the spec that it does run by; lower while a change is under way, was refused or waits for its next run.
    pub observed_generation: u64,
    /// Grows with every publication.
    pub generation: u64,
}

/// Automatic restarts, by what they were for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the classes")]
pub struct RestartCounts {
    pub exit: u32,
    pub health: u32,
    pub violation: u32,
}

impl RestartCounts {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.exit.saturating_add(self.health).saturating_add(self.violation)
    }

    /// Counts one more.
    pub const fn add(&mut self, class: Class) {
        let count = match class {
            Class::Exit => &mut self.exit,
            Class::Health => &mut self.health,
            Class::Violation => &mut self.violation,
        };
        *count = count.saturating_add(1);
    }
}

/// One class of the restart breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerStatus {
    /// Which class.
    pub class: Class,
    /// Its state.
    pub state: BreakerState,
    /// Restarts in a row.
    pub attempts: u32,
    /// How many are admitted; `None` where there is no end.
    pub max_attempts: Option<u32>,
    /// When an open one admits a trial; `None` where it is not open or waits for a person.
    pub until: Option<Mono>,
}

impl State {
    /// The state's word, as `ps` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

impl Detail {
    /// The detail's word, as it stands in parentheses beside the state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped(StoppedDetail::Never) => "never",
            Self::Stopped(StoppedDetail::Done) => "done",
            Self::Stopped(StoppedDetail::Stopped) => "stopped",
            Self::Stopped(StoppedDetail::Failed) => "failed",
            Self::Stopped(StoppedDetail::BreakerOpen) => "breaker_open",
            Self::Stopped(StoppedDetail::Waiting) => "waiting",
            Self::Preparing => "preparing",
            Self::Launching => "launching",
            Self::Running(Readiness::Ready) => "ready",
            Self::Running(Readiness::Unready) => "unready",
            Self::Running(Readiness::Degraded) => "degraded",
            Self::Running(Readiness::Throttled) => "throttled",
            Self::Running(Readiness::Frozen) => "frozen",
            Self::Stopping(StoppingDetail::Term) => "term",
            Self::Stopping(StoppingDetail::Kill) => "kill",
            Self::Stopping(StoppingDetail::Draining) => "draining",
            Self::Stopping(StoppingDetail::Unkillable) => "unkillable",
        }
    }

    /// Every detail there is.
    pub const ALL: [Self; 17] = [
        Self::Stopped(StoppedDetail::Never),
        Self::Stopped(StoppedDetail::Done),
        Self::Stopped(StoppedDetail::Stopped),
        Self::Stopped(StoppedDetail::Failed),
        Self::Stopped(StoppedDetail::BreakerOpen),
        Self::Stopped(StoppedDetail::Waiting),
        Self::Preparing,
        Self::Launching,
        Self::Running(Readiness::Ready),
        Self::Running(Readiness::Unready),
        Self::Running(Readiness::Degraded),
        Self::Running(Readiness::Throttled),
        Self::Running(Readiness::Frozen),
        Self::Stopping(StoppingDetail::Term),
        Self::Stopping(StoppingDetail::Kill),
        Self::Stopping(StoppingDetail::Draining),
        Self::Stopping(StoppingDetail::Unkillable),
    ];
}

impl Serialize for Detail {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl JsonSchema for Detail {
    fn schema_name() -> Cow<'static, str> {
        "Detail".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The word beside a state.",
            "type": "string",
            "enum": Self::ALL.map(Self::as_str),
        })
    }
}

impl<'de> Deserialize<'de> for Detail {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let word = Cow::<'de, str>::deserialize(d)?;
        let known = Self::ALL.into_iter().find(|detail| detail.as_str() == word);
        known.ok_or_else(|| serde::de::Error::custom(format!("no detail of a state is called {word:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_detail_is_one_word_of_its_own() {
        for detail in Detail::ALL {
            let json = serde_json::to_string(&detail).unwrap();
            assert_eq!(json, format!("\"{}\"", detail.as_str()));
            assert_eq!(serde_json::from_str::<Detail>(&json).unwrap(), detail);
        }
        assert!(serde_json::from_str::<Detail>("\"asleep\"").is_err());
    }
}
