//! The configuration as it is written: every key, its type and its meaning. What a key says by itself is checked
//! while it is read; what keys say together is `validate`'s part. The comments are the descriptions of the JSON Schema.

#![expect(clippy::doc_markdown, reason = "the comments are shown by editors, as plain text")]

mod env;
mod limits;
mod slices;

use std::borrow::Cow;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    declare::{choice, record},
    decode::{Cx, Decode, Found, FromWord, List, OneOrMany, Shape, Table, Word, Wrong, from_word},
    health::HealthCheck,
    problem::Place,
    quantity::{Hold, Off, RateOrNone, Size, Time, TimeOr},
    sink::RawSink,
    tree::{Node, Value},
    types::{KillMode, Profile, StoreType},
    units::{AbsPath, Account, Flag, Int, MaybePath, Number, SignalNumber, Text, Umask},
};
use crate::{
    model::{BadWorkerId, Overflow, WorkerId},
    policy::restart::{OnOpen, RestartMode},
};

pub(super) use env::Env;
pub(super) use limits::{Cpu, Io, Limits, Memory, Monitoring, Pids, Policy, Pressure, Process, Trigger};
pub(super) use slices::{Slice, SliceRef, Slices};

record! {
    /// A configuration of pinfold.
    File {
        /// The global environment, below each worker's own.
        env: Env,
        /// Merged under the unit of every worker of every file: maps key by key, everything else as a whole.
        defaults: Unit,
        /// Budgets that workers share, by their names.
        slices: Slices,
        /// Where what outlives the supervisor is kept.
        store: Store,
        /// Where events go beside the store. Those of several files are put one after the other.
        history: List<RawSink>,
        /// How often every worker is held against what the kernel says of it, at least 100ms. Default off: notifications do.
        reconcile_interval: TimeOr<Off>,
        /// What to run.
        workers: List<Worker>,
    }
}

record! {
    /// Where wishes, restart breakers and runs are remembered.
    Store {
        /// sqlite (a file in the state directory) or memory (until the supervisor ends). Default sqlite.
        r#type: StoreTypeName,
    }
}

record! {
    /// One program, or several instances of it.
    Worker requires [id] later [depends_on] {
        /// Its name: letters, digits, - and _; it begins and ends with a letter or a digit.
        id: Id,
        /// How many of it: gives id-1, id-2 and so on. Without the key there is one, with the bare id.
        instances: Int<1, 10_000>,
        /// Whether it is started. Default true.
        enabled: Flag,
        /// Which multipliers of the restart breaker apply. Default default.
        profile_type: ProfileName,
        /// The one of slices that it shares the budget of.
        slice: SliceRef,
        /// What to run and how.
        unit: Unit,
    }
}

record! {
    /// What to run and how.
    Unit later [isolation, notify] {
        /// Program and arguments: a list, or a string that is split into words by the rules of a shell.
        command: Command,
        /// More arguments, behind those of command. With shell they are $1, $2 and so on.
        args: List<Text>,
        /// Runs command, a string, by /bin/sh -c. Default false.
        shell: Flag,
        /// Environment: a map, or a list of K=V. Above the global one.
        env: Env,
        /// Files of K=V lines, read at each start, below env; with a - before the path a file may be missing.
        env_file: OneOrMany<MaybePath>,
        /// Where it runs: an absolute path. Default /.
        working_directory: AbsPath,
        /// User, by name or number. Default: the supervisor's.
        user: Account,
        /// Group, by name or number. Default: the user's.
        group: Account,
        /// umask(2), octal digits in quotes. Default "0022".
        umask: Umask,
        /// Scheduling priority, -20 (first) to 19 (last). Default 0.
        nice: Int<-20, 19>,
        /// Whom the OOM killer takes first, -1000 to 1000. Default 0.
        oom_score_adj: Int<-1000, 1000>,
        /// How it is stopped.
        stop: Stop,
        /// When it is started again.
        restart: Restart,
        /// What it may use.
        limits: Limits,
        /// How much of its output is kept, and how fast it may come.
        logs: Logs,
        /// How its health is told.
        health_check: HealthCheck,
    }
}

record! {
    /// What is kept of a worker's output, for each of stdout and stderr: at most max_files files of max_size, of all runs together.
    Logs {
        /// The most that a file and its index take, at least 64KiB; then the next file is begun. Default 10MiB.
        max_size: Size,
        /// The most files, 2 to 1000, of all runs together; the oldest goes first, but the last of the previous run stays. Default 5.
        max_files: Int<2, 1000>,
        /// The most output a second, like 1MiB/s, at least 1KiB/s; none: no limit. Default none.
        rate_limit: RateOrNone,
        /// What becomes of more than rate_limit: block (the worker waits) or drop (it is counted). Default block.
        overflow: OverflowName,
    }
}

record! {
    /// How a worker is stopped.
    Stop {
        /// The signal that asks: a name with or without SIG, RTMIN+n, or a number. Default SIGTERM.
        signal: SignalNumber,
        /// How long it may take before everything left is killed. Default 30s.
        timeout: Time,
        /// Whom the signal is for: mixed (the main process) or group (all). Default mixed.
        kill_mode: KillModeName,
    }
}

record! {
    /// When a worker is started again. Delay k is retry_delay times backoff_rate to the power of k, at most max_delay.
    Restart {
        /// never, on-failure, always or unless-stopped. Default on-failure.
        policy: RestartName,
        /// Restarts in a row before the breaker opens; 0 is without end. Default 3.
        max_retries: Retries,
        /// Before the first restart. Default 5s.
        retry_delay: Time,
        /// What each further delay is multiplied by. Default 1.5.
        backoff_rate: Rate,
        /// What no delay exceeds. Default 5m.
        max_delay: Time,
        /// The share of a delay by which it is varied at random, 0 to 1. Default 0.1.
        jitter: Number<0, 1>,
        /// After a run of so long the count of restarts is 0 again. Default 10m.
        reset_after: Time,
        /// How long an open breaker stays open, or hold to wait for a person. Default 5m.
        cooldown: TimeOr<Hold>,
        /// How long a young run is spared health and violation restarts. Default 0.
        startup_grace_period: Time,
        /// Exit codes that are no failure. Default `[0]`.
        success_exit_codes: List<Int<0, 255>>,
        /// Overrides for restarts by health checks.
        health_failures: Budget,
        /// Overrides for restarts by violations of limits.
        resource_violations: Budget,
        /// Factors by severity, over the built-in ones.
        severity_multipliers: Table<SeverityName, Factor>,
        /// Factors by profile, over the built-in ones.
        profile_multipliers: Table<ProfileName, Factor>,
        /// What an open breaker does: hold (the worker stays down) or exit (the supervisor ends). Default hold.
        on_open: OnOpenName,
    }
}

record! {
    /// What one class of restarts has of its own.
    Budget {
        /// Restarts in a row before the breaker opens; 0 is without end.
        max_retries: Retries,
        /// Before the first restart.
        retry_delay: Time,
        /// What each further delay is multiplied by.
        backoff_rate: Rate,
        /// What no delay exceeds.
        max_delay: Time,
    }
}

pub(super) type Retries = Int<0, 1_000_000>;
pub(super) type Rate = Number<1, 1000>;
pub(super) type Factor = Number<0, 1000>;

choice!(StoreTypeName => StoreType, "a type of store", {
    "sqlite" => StoreType::Sqlite,
    "memory" => StoreType::Memory,
});

choice!(ProfileName => Profile, "a profile", {
    "batch" => Profile::Batch,
    "web" => Profile::Web,
    "database" => Profile::Database,
    "worker" => Profile::Worker,
    "scheduler" => Profile::Scheduler,
    "default" => Profile::Default,
});

choice!(SeverityName => (), "a severity", { "warning" => (), "critical" => (), "emergency" => (), });

choice!(KillModeName => KillMode, "a kill mode", { "mixed" => KillMode::Mixed, "group" => KillMode::Group, });

choice!(RestartName => RestartMode, "a restart policy", {
    "never" => RestartMode::Never,
    "on-failure" => RestartMode::OnFailure,
    "always" => RestartMode::Always,
    "unless-stopped" => RestartMode::UnlessStopped,
});

choice!(OnOpenName => OnOpen, "what an open breaker can do", { "hold" => OnOpen::Hold, "exit" => OnOpen::Exit, });

choice!(OverflowName => Overflow, "what can become of too much output", {
    "block" => Overflow::Block,
    "drop" => Overflow::Drop,
});

/// A worker's or a slice's name.
const ID_PATTERN: &str = "^[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$";

/// A worker's id.
#[derive(Debug, Clone)]
pub(super) struct Id(pub(super) WorkerId);

impl FromWord for Id {
    const WHAT: &'static str = "a worker's id";
    const LIKE: &'static str = "a name of letters, digits, - and _, like web-server";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        WorkerId::new(&word.text).map(Self).map_err(|bad| match bad {
            BadWorkerId::Empty => Wrong::is("is no id"),
            BadWorkerId::TooLong { len } => {
                Wrong::is(format!("has {len} characters")).fix(format!("write at most {}", WorkerId::MAX_LEN))
            }
            BadWorkerId::Character { bad } => Wrong::is(format!("has a character an id cannot have: {bad:?}")),
            BadWorkerId::Edge => {
                Wrong::is("does not begin and end with a letter or a digit").fix("move - and _ inside the id")
            }
        })
    }

    fn name() -> Cow<'static, str> {
        "Id".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": ID_PATTERN },
            { "type": "integer", "minimum": 0 },
            super::units::variable(),
        ] })
    }
}

/// `command`.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Line(String),
    Words(Vec<Found<Text>>),
}

impl Decode for Command {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::List(nodes) = &node.value {
            let words = List::decode(node, at, cx)?.0;
            // With a word missing, what follows from the others would mislead.
            return (words.len() == nodes.len()).then_some(Self::Words(words));
        }
        let word = cx.word(node, at, "a command", "a list like [/usr/bin/sleep, \"10\"], or a string")?;
        from_word::<Text>(&word, at, cx).map(|text| Self::Line(text.0))
    }

    fn name() -> Cow<'static, str> {
        "Command".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let text = schemas.subschema_for::<Shape<Text>>();
        json_schema!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": text, "minItems": 1 },
        ] })
    }
}

impl Command {
    /// Its text, in bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Words(words) => weight(words),
        }
    }
}

/// The text of `words`, in bytes, with what each costs beside it.
pub(super) fn weight(words: &[Found<Text>]) -> usize {
    words.iter().map(|word| word.value.0.len() + 32).sum()
}
