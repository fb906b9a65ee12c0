//! What is written to what is meant: files are layered, defaults filled in, instances expanded, and what keys say
//! together is checked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    decode::{Cx, Field, Found, List, Table, suggest},
    health::{self, health_check},
    limits::{MIN_INTERVAL, limits, of_slice, positive},
    problem::{Place, shown},
    quantity::{Off, Time, TimeOr},
    raw,
    sink::sinks,
    types::{Config, EnvFile, Slice, Spec, Stop, Worker},
    units::Int,
};
use crate::{
    model::{LogPolicy, SliceName, WorkerId},
    policy::restart::{BudgetOverride, RestartPolicy},
};

/// More workers than any host runs; instances cost next to nothing to write down.
const MAX_WORKERS: usize = 100_000;
/// What `defaults` adds to all workers together, in bytes of text.
const MAX_INHERITED: usize = 64 << 20;

/// What holds for every worker, wherever it is declared.
#[derive(Default)]
pub(super) struct Ground {
    defaults: Field<raw::Unit>,
    slices: Slices,
}

/// Puts the files together. Problems are in `cx`; with some, the result means nothing.
pub(super) fn config(files: Vec<raw::File>, cx: &mut Cx<'_>) -> (Config, Ground) {
    let mut env: Field<raw::Env> = Field::Absent;
    let mut defaults: Field<raw::Unit> = Field::Absent;
    let mut store: Field<raw::Store> = Field::Absent;
    let mut declared = Vec::new();
    let mut slices = Slices::default();
    let mut history = Vec::new();
    let mut interval = Field::Absent;
    for mut file in files {
        // The later file is the upper layer.
        file.env.fill(&env);
        env = file.env;
        file.defaults.fill(&defaults);
        defaults = file.defaults;
        file.store.fill(&store);
        store = file.store;
        slices.declare(file.slices, cx);
        if let Field::Given(Found { value: List(sinks), .. }) = file.history {
            history.extend(sinks);
        }
        file.reconcile_interval.fill(&interval);
        interval = file.reconcile_interval;
        if let Field::Given(Found { value: List(workers), .. }) = file.workers {
            declared.extend(workers);
        }
    }
    if let Some(defaults) = defaults.found()
        && weight(&defaults.value).saturating_mul(declared.len()) > MAX_INHERITED
    {
        let message = format!("{} workers times these defaults are more than 64 MiB", declared.len());
        cx.report.add(&defaults.at, message, "move long texts into env_file or the global env");
        return (nothing(), Ground::default());
    }
    let history = sinks(&history, cx);
    let mut workers = Vec::new();
    let mut names = Names::default();
    for declaration in declared {
        worker(declaration, &defaults, &slices, &mut names, &mut workers, cx);
        if cx.report.full() {
            break;
        }
    }
    let store = store.get().and_then(|store| store.r#type.get()).map(|name| name.0).unwrap_or_default();
    let env = env.get().map(texts).unwrap_or_default();
    let whole = slices.whole.clone();
    let config = Config { env, slices: whole, store, history, workers, reconcile_interval: reconcile(&interval, cx) };
    (config, Ground { defaults, slices })
}

/// The workers of a declaration that stands in no file, on the ground of those that do.
pub(super) fn registered(declaration: Found<raw::Worker>, ground: &Ground, cx: &mut Cx<'_>) -> Vec<Worker> {
    let mut workers = Vec::new();
    worker(declaration, &ground.defaults, &ground.slices, &mut Names::default(), &mut workers, cx);
    workers.into_iter().map(|worker| Worker { registered: true, ..worker }).collect()
}

fn reconcile(field: &Field<TimeOr<Off>>, cx: &mut Cx<'_>) -> Option<Duration> {
    let interval = field.get().and_then(|interval| interval.0);
    if let (Some(found), Some(length)) = (field.found(), interval)
        && length < MIN_INTERVAL
    {
        cx.report.add(&found.at, "looks this close together are a load of their own", "write at least 100ms, or off");
    }
    interval
}

/// What stands in for a configuration that cannot be put together.
pub(super) fn nothing() -> Config {
    Config::default()
}

/// The slices of all files.
#[derive(Default)]
struct Slices {
    /// Where each is declared, the wrong ones included.
    declared: BTreeMap<SliceName, Place>,
    whole: Vec<Slice>,
    /// Whether there may be others, in what could not be read.
    broken: bool,
}

impl Slices {
    fn declare(&mut self, field: Field<raw::Slices>, cx: &mut Cx<'_>) {
        let found = match field {
            Field::Given(found) => found,
            Field::Broken => return self.broken = true,
            Field::Absent => return,
        };
        for (name, at, slice) in found.value.0 {
            if let Some(first) = self.declared.get(&name) {
                let first = cx.report.place_of(first.mark);
                let message = format!("the slice {} is given twice, first at {first}", shown(name.as_str()));
                cx.report.add(&at, message, "give one of the slices another name");
                continue;
            }
            self.declared.insert(name.clone(), at);
            if let Some(slice) = slice.get() {
                self.whole.push(Slice { name, limits: of_slice(slice, cx) });
            }
        }
    }

    /// The one that a worker asks for.
    fn of_worker(&self, field: &Field<raw::SliceRef>, cx: &mut Cx<'_>) -> Option<SliceName> {
        let Found { value: raw::SliceRef(name), at } = field.found()?;
        if self.declared.contains_key(name) || self.broken {
            return Some(name.clone());
        }
        let known: Vec<_> = self.declared.keys().map(SliceName::as_str).collect();
        let fix = match (suggest(name.as_str(), known.iter().copied()), known.as_slice()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, []) => format!("declare it: add slices with a key {name} at the top of the file, or remove the key"),
            (None, known) => format!("write one of {}, or declare it under slices", known.join(", ")),
        };
        cx.report.add(at, format!("there is no slice {}", shown(name.as_str())), fix);
        None
    }
}

/// The text a unit hands down, in bytes.
fn weight(unit: &raw::Unit) -> usize {
    let env = unit.env.get().map_or(0, |env| env.0.iter().map(|(k, v)| k.len() + v.value.0.len() + 64).sum());
    let command = unit.command.get().map_or(0, raw::Command::weight);
    let args = unit.args.get().map_or(0, |args| raw::weight(&args.0));
    let files = unit.env_file.get().map_or(0, |list| list.0.iter().map(|f| f.value.path.as_os_str().len() + 64).sum());
    let io = unit.limits.get().and_then(|limits| limits.io.get()).map_or(0, |io| io.0.len() * 256);
    let codes = unit.restart.get().and_then(|r| r.success_exit_codes.get()).map_or(0, |codes| codes.0.len() * 32);
    let health = unit.health_check.get().map_or(0, health::weight);
    env + command + args + files + io + codes + health
}

/// Which names are taken, and by which declaration.
#[derive(Default)]
struct Names {
    declared: HashMap<WorkerId, Place>,
    expanded: HashMap<WorkerId, Place>,
}

fn worker(
    declaration: Found<raw::Worker>,
    defaults: &Field<raw::Unit>,
    slices: &Slices,
    names: &mut Names,
    workers: &mut Vec<Worker>,
    cx: &mut Cx<'_>,
) {
    let Found { value: mut raw, at } = declaration;
    raw.unit.fill(defaults);
    let slice = slices.of_worker(&raw.slice, cx);
    let profile = raw.profile_type.get().map(|name| name.0).unwrap_or_default();
    let spec = match raw.unit.found() {
        Some(unit) => spec(&unit.value, &unit.at, &at, cx).map(|mut spec| {
            // Keys of the worker, not of its unit: `unit.restart` may not even be written.
            spec.restart.profile = profile;
            spec.slice = slice;
            Arc::new(spec)
        }),
        None if raw.unit.is_absent() => {
            missing_command(&at, cx);
            None
        }
        None => None,
    };
    let Some(id) = raw.id.found() else { return };
    if let Some(first) = names.declared.get(&id.value.0) {
        let first = cx.report.place_of(first.mark);
        let message = format!("the id {} is given twice, first at {first}", shown(id.value.0.as_str()));
        cx.report.add(&id.at, message, "give one of the workers another id");
        return;
    }
    names.declared.insert(id.value.0.clone(), id.at.clone());
    let Some(ids) = instances(id, &raw.instances, names.expanded.len(), cx) else { return };
    for name in ids {
        if let Some(other) = names.expanded.get(&name) {
            let other = cx.report.place_of(other.mark);
            let message = format!("this worker and the one at {other} would both be named {}", shown(name.as_str()));
            cx.report.add(&id.at, message, "give one of the workers another id");
            return;
        }
        names.expanded.insert(name.clone(), id.at.clone());
        if let Some(spec) = &spec {
            workers.push(Worker {
                id: name,
                declared_as: id.value.0.clone(),
                enabled: raw.enabled.get().is_none_or(|flag| flag.0),
                registered: false,
                spec: Arc::clone(spec),
            });
        }
    }
}

/// The names a declaration stands for.
fn instances(
    id: &Found<raw::Id>,
    count: &Field<Int<1, 10_000>>,
    so_far: usize,
    cx: &mut Cx<'_>,
) -> Option<Vec<WorkerId>> {
    let id_text = id.value.0.as_str();
    let Some(count) = count.found() else { return Some(vec![id.value.0.clone()]) };
    let number = usize::try_from(count.value.unsigned()).ok()?;
    if so_far + number > MAX_WORKERS {
        cx.report.add(
            &count.at,
            format!("that makes more than {MAX_WORKERS} workers"),
            "lower the number of instances of some",
        );
        return None;
    }
    let longest = format!("{id_text}-{number}");
    if longest.len() > WorkerId::MAX_LEN {
        let message = format!("the last instance, {}, would have {} characters", shown(&longest), longest.len());
        cx.report.add(&id.at, message, format!("shorten the id: a name has at most {}", WorkerId::MAX_LEN));
        return None;
    }
    (1..=number).map(|n| WorkerId::new(&format!("{id_text}-{n}")).ok()).collect()
}

fn missing_command(at: &Place, cx: &mut Cx<'_>) {
    cx.report.add(at, "this worker has no command", "add unit.command, like [/usr/bin/sleep, \"10\"]");
}

fn texts(env: &raw::Env) -> BTreeMap<String, String> {
    env.0.iter().map(|(name, value)| (name.clone(), value.value.0.clone())).collect()
}

fn spec(unit: &raw::Unit, unit_at: &Place, worker_at: &Place, cx: &mut Cx<'_>) -> Option<Spec> {
    if unit.command.is_absent() {
        missing_command(if unit_at.inherited() { worker_at } else { unit_at }, cx);
    }
    let words = argv(unit, cx);
    let stop = unit.stop.get().map(stop).unwrap_or_default();
    let restart = unit.restart.get().map(|raw| restart(raw, cx)).unwrap_or_default();
    let limits = unit.limits.get().map(|raw| limits(raw, cx)).unwrap_or_default();
    let health = unit.health_check.get().and_then(|raw| health_check(raw, cx)).map(Arc::new);
    let mut spec = Spec::new(words?);
    spec.env = unit.env.get().map(texts).unwrap_or_default();
    spec.env_files = unit.env_file.get().map_or_else(Vec::new, |files| {
        files.0.iter().map(|f| EnvFile { path: f.value.path.clone(), optional: f.value.optional }).collect()
    });
    if let Some(directory) = unit.working_directory.get() {
        spec.working_directory.clone_from(&directory.0);
    }
    spec.user = unit.user.get().map(|user| user.0.clone());
    spec.group = unit.group.get().map(|group| group.0.clone());
    spec.umask = unit.umask.get().map_or(spec.umask, |umask| umask.0);
    spec.nice = unit.nice.get().and_then(|nice| i32::try_from(nice.0).ok()).unwrap_or(spec.nice);
    spec.oom_score_adj =
        unit.oom_score_adj.get().and_then(|score| i32::try_from(score.0).ok()).unwrap_or(spec.oom_score_adj);
    spec.stop = stop;
    spec.restart = restart;
    spec.limits = limits;
    spec.logs = unit.logs.get().map(|raw| logs(raw, cx)).unwrap_or_default();
    spec.health = health;
    Some(spec)
}

/// The smallest log file, in bytes: what a pipe holds.
const MIN_LOG: u64 = 64 << 10;

fn logs(raw: &raw::Logs, cx: &mut Cx<'_>) -> LogPolicy {
    let default = LogPolicy::default();
    if let Some(size) = raw.max_size.found().filter(|size| size.value.0 < MIN_LOG) {
        cx.report.add(
            &size.at,
            format!("{} bytes are too little for a log file", size.value.0),
            "write at least 64KiB",
        );
    }
    LogPolicy {
        max_size: raw.max_size.get().map_or(default.max_size, |size| size.0),
        max_files: raw.max_files.get().and_then(|n| u32::try_from(n.unsigned()).ok()).unwrap_or(default.max_files),
        rate_limit: raw.rate_limit.get().map_or(default.rate_limit, |rate| rate.0),
        overflow: raw.overflow.get().map_or(default.overflow, |overflow| overflow.0),
    }
}

/// Words that only a shell understands, when they stand alone in a string that no shell will see.
const SHELL_WORDS: &[&str] = &["|", "||", "&&", "&", ";", ">", ">>", "<", "2>", "2>&1", "&>", "|&"];

fn argv(unit: &raw::Unit, cx: &mut Cx<'_>) -> Option<Vec<String>> {
    let command = unit.command.found()?;
    let at = &command.at;
    let shell = unit.shell.get().is_some_and(|flag| flag.0);
    let more: Vec<String> =
        unit.args.get().map_or_else(Vec::new, |args| args.0.iter().map(|arg| arg.value.0.clone()).collect());
    let mut argv = match (&command.value, shell) {
        (raw::Command::Words(_), true) => {
            let fix = "write the command as one string, or set shell: false";
            cx.report.add(at, "shell: true runs a string, and this is a list", fix);
            return None;
        }
        (raw::Command::Words(words), false) => words.iter().map(|word| word.value.0.clone()).collect(),
        (raw::Command::Line(line), true) => {
            if line.trim().is_empty() {
                cx.report.add(at, "the command is empty", "write what /bin/sh shall run");
                return None;
            }
            let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()];
            if !more.is_empty() {
                // The word after the script is its $0.
                argv.push("sh".to_owned());
            }
            argv
        }
        (raw::Command::Line(line), false) => split(line, at, "set shell: true, or write the command as a list", cx)?,
    };
    match argv.first() {
        None => {
            cx.report.add(at, "the command is empty", "write a program and its arguments");
            return None;
        }
        Some(program) if program.is_empty() => {
            cx.report.add(at, "the program's name is empty", "write a path or a name as the first word");
            return None;
        }
        Some(_) => {}
    }
    argv.extend(more);
    Some(argv)
}

/// The words of a command that no shell sees; `otherwise` is what to do where one was meant to.
pub(super) fn split(line: &str, at: &Place, otherwise: &str, cx: &mut Cx<'_>) -> Option<Vec<String>> {
    let Ok(words) = shell_words::split(line) else {
        cx.report.add(at, "a quote in the command is not closed", "close it, or write the command as a list");
        return None;
    };
    if let Some(word) = words.iter().find(|word| SHELL_WORDS.contains(&word.as_str())) {
        let message = format!("{} means something to a shell only, and none runs here", shown(word));
        cx.report.add(at, message, otherwise);
        return None;
    }
    Some(words)
}

fn stop(raw: &raw::Stop) -> Stop {
    let default = Stop::default();
    Stop {
        signal: raw.signal.get().map_or(default.signal, |signal| signal.0),
        timeout: raw.timeout.get().map_or(default.timeout, |time| time.0),
        kill_mode: raw.kill_mode.get().map_or(default.kill_mode, |mode| mode.0),
    }
}

fn restart(raw: &raw::Restart, cx: &mut Cx<'_>) -> RestartPolicy {
    let default = RestartPolicy::default();
    let time = |field: &Field<Time>, default| field.get().map_or(default, |time| time.0);
    let max_retries = raw.max_retries.get().copied().map_or(default.max_retries, retries);
    let retry_delay = time(&raw.retry_delay, default.retry_delay);
    let max_delay = time(&raw.max_delay, default.max_delay);
    ordered_delays(&raw.retry_delay, &raw.max_delay, (retry_delay, max_delay), cx);
    RestartPolicy {
        mode: raw.policy.get().map_or(default.mode, |mode| mode.0),
        max_retries,
        retry_delay,
        backoff_rate: raw.backoff_rate.get().map_or(default.backoff_rate, |rate| rate.0),
        max_delay,
        jitter: raw.jitter.get().map_or(default.jitter, |jitter| jitter.0),
        reset_after: time(&raw.reset_after, default.reset_after),
        cooldown: raw.cooldown.get().map_or(default.cooldown, |time| time.0),
        startup_grace_period: time(&raw.startup_grace_period, default.startup_grace_period),
        success_exit_codes: raw.success_exit_codes.get().map_or(default.success_exit_codes, exit_codes),
        health_failures: raw.health_failures.get().map(|b| budget(b, (retry_delay, max_delay), cx)).unwrap_or_default(),
        resource_violations: raw
            .resource_violations
            .get()
            .map(|b| budget(b, (retry_delay, max_delay), cx))
            .unwrap_or_default(),
        severity_multipliers: factors(&raw.severity_multipliers, cx),
        profile_multipliers: factors(&raw.profile_multipliers, cx),
        on_open: raw.on_open.get().map_or(default.on_open, |on_open| on_open.0),
        profile: default.profile,
    }
}

fn retries(count: raw::Retries) -> u32 {
    u32::try_from(count.unsigned()).unwrap_or(u32::MAX)
}

fn exit_codes(codes: &List<Int<0, 255>>) -> Vec<i32> {
    let mut codes: Vec<_> = codes.0.iter().filter_map(|code| i32::try_from(code.value.0).ok()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn budget(raw: &raw::Budget, base: (Duration, Duration), cx: &mut Cx<'_>) -> BudgetOverride {
    let retry_delay = raw.retry_delay.get().map(|time| time.0);
    let max_delay = raw.max_delay.get().map(|time| time.0);
    let both = (retry_delay.unwrap_or(base.0), max_delay.unwrap_or(base.1));
    ordered_delays(&raw.retry_delay, &raw.max_delay, both, cx);
    BudgetOverride {
        max_retries: raw.max_retries.get().copied().map(retries),
        retry_delay,
        backoff_rate: raw.backoff_rate.get().map(|rate| rate.0),
        max_delay,
    }
}

/// A first delay above the longest is a contradiction, not something to cut down silently.
fn ordered_delays(
    first: &Field<Time>,
    longest: &Field<Time>,
    (retry_delay, max_delay): (Duration, Duration),
    cx: &mut Cx<'_>,
) {
    let Some(at) = first.found().or(longest.found()).map(|found| &found.at) else { return };
    if retry_delay > max_delay {
        let times = (humantime::format_duration(retry_delay), humantime::format_duration(max_delay));
        let message = format!("retry_delay is {}, but no delay exceeds max_delay, {}", times.0, times.1);
        cx.report.add(at, message, "raise max_delay, or lower retry_delay");
    }
}

fn factors<K>(table: &Field<Table<K, raw::Factor>>, cx: &mut Cx<'_>) -> BTreeMap<String, f64> {
    let mut factors = BTreeMap::new();
    for (name, factor) in table.get().into_iter().flat_map(|table| &table.0) {
        positive(factor.value.0, &factor.at, cx);
        factors.insert(name.clone(), factor.value.0);
    }
    factors
}
