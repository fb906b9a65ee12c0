//! The configuration as it is written: every key, its type and its meaning. What a key says by itself is checked
//! while it is read; what keys say together is `validate`'s part. The comments are the descriptions of the JSON Schema.

#![expect(clippy::doc_markdown, reason = "the comments are shown by editors, as plain text")]

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    decode::{
        Cx, Decode, Field, Found, FromWord, List, OneOrMany, Shape, Style, Table, Word, Wrong, choice, from_word,
        record,
    },
    health::HealthCheck,
    problem::{Place, shown},
    quantity::{Hold, Off, RateOrNone, Share, Size, Stall, Time, TimeOr},
    sink::RawSink,
    tree::{Node, Value},
    types::{KillMode, OomGroup, Profile, StoreType, ViolationHandling, ViolationPolicy},
    units::{AbsPath, Account, Flag, Int, MaybePath, Number, OrMax, SignalNumber, Text, Umask},
};
use crate::{
    model::{BadWorkerId, Overflow, SliceName, WorkerId},
    policy::restart::{OnOpen, RestartMode},
};

/// PID_MAX_LIMIT of the kernel (include/linux/threads.h): `pids.max` takes no more.
const PID_MAX_LIMIT: i64 = 4 << 20;
/// `io.max` counts operations in 32 bits, and the largest number means "max" (block/blk-throttle.c).
const MAX_IOPS: i64 = u32::MAX as i64 - 1;

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
    /// A budget that the workers in it share, each still within its own limits. Without a key there is no such limit.
    Slice {
        /// Memory of all of them together.
        memory: SliceMemory,
        /// Processor time of all of them together.
        cpu: SliceCpu,
        /// Processes and threads of all of them together.
        pids: SlicePids,
        /// Disk traffic of all of them together, by device.
        io: List<SliceIo>,
    }
}

record! {
    /// Memory of a slice.
    SliceMemory {
        /// The most they may use, at least 1MiB; above it the kernel kills one of them (memory.max). max: no limit.
        max | max_rss: OrMax<Size>,
        /// Where the kernel slows them down: a size or a percentage of max (memory.high).
        high: OrMax<Share>,
        /// The most swap, where max is set (memory.swap.max). Default 0.
        swap_max: OrMax<Size>,
    }
}

record! {
    /// Processor time of a slice.
    SliceCpu {
        /// The most, in percent of one CPU, at least 1 (cpu.max). max: no limit.
        max_percent: OrMax<Number<1, 1_000_000>>,
        /// Its share where CPUs are short, beside other slices and workers without one, 1 to 10000; 100 is usual (cpu.weight).
        weight: Int<1, 10_000>,
        /// Unused time that can be spent later, at most max_percent of 100ms (cpu.max.burst). Default 0.
        burst: Time,
    }
}

record! {
    /// Processes and threads of a slice.
    SlicePids {
        /// The most at once (pids.max). max: no limit.
        max: OrMax<Int<1, PID_MAX_LIMIT>>,
    }
}

record! {
    /// Disk traffic of a slice on one device. At least one rate.
    SliceIo requires [path] {
        /// A path on the device.
        path: AbsPath,
        /// Bytes read a second.
        rbps: Size,
        /// Bytes written a second.
        wbps: Size,
        /// Reads a second.
        riops: Int<1, MAX_IOPS>,
        /// Writes a second.
        wiops: Int<1, MAX_IOPS>,
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

record! {
    /// What a worker may use. Without a key there is no such limit.
    Limits {
        /// Memory of the worker's cgroup.
        memory: Memory,
        /// Processor time of the worker's cgroup.
        cpu: Cpu,
        /// Processes and threads of the worker's cgroup.
        pids: Pids,
        /// Disk traffic of the worker's cgroup, by device.
        io: List<Io>,
        /// Pressure stall triggers of the worker's cgroup.
        pressure: Pressure,
        /// Resource limits of its processes, setrlimit(2).
        process: Process,
        /// How violations are watched for.
        monitoring: Monitoring,
    }
}

record! {
    /// Memory.
    Memory {
        /// The most it may use, at least 1MiB; above it the kernel kills (memory.max). max: no limit.
        max_rss: OrMax<Size>,
        /// Where it counts as a warning: a size or a percentage of max_rss (memory.high).
        high | warning_threshold: OrMax<Share>,
        /// The most swap, where max_rss is set (memory.swap.max). Default 0.
        swap_max: OrMax<Size>,
        /// What an OOM kill takes: worker (all of it) or process (one). Default worker.
        oom_scope: OomScopeName,
        /// What an OOM kill leads to. Default log.
        policy: Policy,
        /// What high leads to; throttle leaves it in force. Default log.
        high_policy: HighPolicy,
        /// How long throttle may slow it down without progress. Default 30s.
        throttle_deadline: Time,
    }
}

record! {
    /// Processor time.
    Cpu {
        /// The most, in percent of one CPU, at least 1 (cpu.max). max: no limit.
        max_percent: OrMax<Number<1, 1_000_000>>,
        /// Its share where CPUs are short, 1 to 10000; 100 is usual (cpu.weight).
        weight: Int<1, 10_000>,
        /// Unused time that can be spent later, at most max_percent of 100ms (cpu.max.burst). Default 0.
        burst: Time,
        /// The most processor time one run may use in all.
        max_time: Time,
        /// How long it must be throttled for a violation. Default 10s.
        sustained: Time,
        /// The share of throttled periods that counts as throttled, above 0 and at most 1. Default 0.5.
        throttled_ratio: Number<0, 1>,
        /// What a violation leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Processes and threads.
    Pids {
        /// The most at once (pids.max). max: no limit.
        max: OrMax<Int<1, PID_MAX_LIMIT>>,
        /// What a refused fork leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Disk traffic on one device. At least one rate.
    Io requires [path] {
        /// A path on the device.
        path: AbsPath,
        /// Bytes read a second.
        rbps: Size,
        /// Bytes written a second.
        wbps: Size,
        /// Reads a second.
        riops: Int<1, MAX_IOPS>,
        /// Writes a second.
        wiops: Int<1, MAX_IOPS>,
        /// What a violation leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Pressure stall triggers.
    Pressure {
        /// On memory.
        memory: Trigger,
        /// On processors.
        cpu: Trigger,
        /// On disks.
        io: Trigger,
    }
}

record! {
    /// A pressure stall trigger: either some or full.
    Trigger {
        /// Some task stalls so long within a window of 500ms to 10s, like 150ms/1s.
        some: Stall,
        /// All tasks stall so long within a window of 500ms to 10s, like 150ms/1s.
        full: Stall,
        /// How long it must last for a violation. Default 20s.
        sustained: Time,
        /// What it leads to. Default log.
        policy: Policy,
    }
}

record! {
    /// Resource limits of its processes, soft and hard alike. Default: the supervisor's own.
    #[allow(clippy::struct_field_names, reason = "the names are the config's own")]
    Process {
        /// Open files (RLIMIT_NOFILE), or max.
        max_file_descriptors: OrMax<Int<8, 1_073_741_816>>,
        /// Size of a core file (RLIMIT_CORE), or max.
        max_core_size: OrMax<Size>,
        /// Locked memory (RLIMIT_MEMLOCK), or max.
        max_locked_memory: OrMax<Size>,
    }
}

record! {
    /// How violations are watched for.
    Monitoring {
        /// Whether they are at all; the kernel's limits hold regardless. Default true.
        enabled: Flag,
        /// Period of usage samples, or off. Default off.
        interval: TimeOr<Off>,
        /// How long samples and violations are kept. Default 24h.
        history_retention: Time,
        /// Whether alert is more than a log line. Default true.
        alerting_enabled: Flag,
        /// Who handles a violation: external (the worker, by its breaker), internal (the limits alone) or disabled. Default external.
        violation_handling: HandlingName,
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

choice!(OomScopeName => OomGroup, "a scope of an OOM kill", {
    "worker" => OomGroup::Worker,
    "process" => OomGroup::Process,
});

choice!(Policy => ViolationPolicy, "a policy", {
    "none" => ViolationPolicy::None,
    "log" => ViolationPolicy::Log,
    "alert" => ViolationPolicy::Alert,
    "restart" => ViolationPolicy::Restart,
    "graceful_shutdown" => ViolationPolicy::GracefulShutdown,
    "immediate_kill" => ViolationPolicy::ImmediateKill,
} refuses "throttle": "is a policy of memory.high_policy only");

choice!(HighPolicy => ViolationPolicy, "a policy", {
    "none" => ViolationPolicy::None,
    "log" => ViolationPolicy::Log,
    "alert" => ViolationPolicy::Alert,
    "throttle" => ViolationPolicy::Throttle,
    "restart" => ViolationPolicy::Restart,
    "graceful_shutdown" => ViolationPolicy::GracefulShutdown,
    "immediate_kill" => ViolationPolicy::ImmediateKill,
});

choice!(OverflowName => Overflow, "what can become of too much output", {
    "block" => Overflow::Block,
    "drop" => Overflow::Drop,
});

choice!(HandlingName => ViolationHandling, "a way to handle violations", {
    "external" => ViolationHandling::External,
    "internal" => ViolationHandling::Internal,
    "disabled" => ViolationHandling::Disabled,
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

/// A slice's name, where a worker asks for it.
#[derive(Debug, Clone)]
pub(super) struct SliceRef(pub(super) SliceName);

impl FromWord for SliceRef {
    const WHAT: &'static str = "the name of a slice";
    const LIKE: &'static str = "one of the names under slices";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        SliceName::new(&word.text).map(Self).map_err(|_| Wrong::is("is not the name of a slice"))
    }

    fn name() -> Cow<'static, str> {
        "Name_of_a_slice".into()
    }

    fn schema() -> Schema {
        <Id as FromWord>::schema()
    }
}

/// `slices`: a map, in the order of the file. A slice whose own keys are wrong is still one that a worker can name.
#[derive(Debug, Clone)]
pub(super) struct Slices(pub(super) Vec<(SliceName, Place, Field<Slice>)>);

impl Decode for Slices {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let mut slices = Vec::new();
        for entry in cx.entries(node, at, &["web: {memory: {max: 2GiB}}"])? {
            let name_at = Place { mark: entry.key_mark, path: at.path.key(&entry.key) };
            if let Ok(name) = SliceName::new(&entry.key) {
                let mut slice = Field::Absent;
                slice.take(entry, at, cx);
                slices.push((name, name_at, slice));
            } else {
                let fix = format!("write {}, with at most {} characters", Id::LIKE, WorkerId::MAX_LEN);
                cx.report.add(&name_at, format!("{} cannot be the name of a slice", shown(&entry.key)), fix);
            }
            if cx.report.full() {
                break;
            }
        }
        Some(Self(slices))
    }

    fn name() -> Cow<'static, str> {
        "Slices".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let slice = schemas.subschema_for::<Shape<Slice>>();
        json_schema!({ "type": "object", "additionalProperties": slice, "propertyNames": { "pattern": ID_PATTERN } })
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

/// `env`: a map, or a list of `K=V`.
#[derive(Debug, Clone, Default)]
pub(super) struct Env(pub(super) BTreeMap<String, Found<Text>>);

impl Decode for Env {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let mut env = BTreeMap::new();
        if let Value::List(items) = &node.value {
            for (index, item) in items.iter().enumerate() {
                let at = Place { mark: item.mark, path: at.path.index(index) };
                if let Some((name, value)) = Self::pair(item, &at, cx)
                    && env.insert(name.to_owned(), Found { value, at: at.clone() }).is_some()
                {
                    cx.report.add(&at, format!("{} is given twice", shown(name)), "keep one of them");
                }
                if cx.report.full() {
                    break;
                }
            }
            return Some(Self(env));
        }
        for entry in cx.entries(node, at, &["NAME: value"])? {
            let name_at = Place { mark: entry.key_mark, path: at.path.key(&entry.key) };
            check_name(&entry.key, &name_at, cx);
            let at = Place { mark: entry.value.mark, path: name_at.path };
            if let Some(value) = Text::decode(&entry.value, &at, cx) {
                env.insert(entry.key.clone(), Found { value, at });
            }
            if cx.report.full() {
                break;
            }
        }
        Some(Self(env))
    }

    fn fill(&mut self, base: &Self) {
        for (name, value) in &base.0 {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    fn name() -> Cow<'static, str> {
        "Environment".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let text = schemas.subschema_for::<Shape<Text>>();
        json_schema!({ "anyOf": [
            { "type": "object", "additionalProperties": text, "propertyNames": { "pattern": "^[^=$\\u0000]+$" } },
            { "type": "array", "items": { "type": "string", "pattern": "^[^=$\\u0000]+=" } },
        ] })
    }
}

impl Env {
    /// `K=V`, taken apart before variables expand: a value cannot move the border.
    fn pair<'n>(item: &'n Node, at: &Place, cx: &mut Cx<'_>) -> Option<(&'n str, Text)> {
        let like = "NAME=value";
        let Value::Scalar { text, quoted } = &item.value else {
            cx.word(item, at, like, like)?;
            return None;
        };
        let Some((name, value)) = text.split_once('=') else {
            cx.report.add(at, format!("{} has no =", shown(text)), format!("write {like}"));
            return None;
        };
        if !check_name(name, at, cx) {
            return None;
        }
        let style = if *quoted { Style::Quoted } else { Style::Plain };
        let value = cx.expand(value, style, at)?;
        Some((name, from_word(&value, at, cx)?))
    }
}

fn check_name(name: &str, at: &Place, cx: &mut Cx<'_>) -> bool {
    let (message, fix) = if name.is_empty() {
        ("a variable without a name".to_owned(), "write NAME before the value")
    } else if name.contains(['=', '\0']) {
        (format!("{} cannot be the name of a variable", shown(name)), "leave out = and NUL")
    } else if name.contains('$') {
        (format!("{} cannot be the name of a variable", shown(name)), "write the name itself: only values expand")
    } else {
        return true;
    };
    cx.report.add(at, message, fix);
    false
}
