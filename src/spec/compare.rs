//! What is different between two specs of one worker, and what it takes to bring a running worker from one to the other.
//! Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{EnvFile, Io, Limits, Memory, OomGroup, Pressure, Spec, SwapMax};
use crate::model::{LogPolicy, SliceName, size};

/// What a change takes, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// Nothing of the run is touched: only what is decided about it from now on is different.
    Rules,
    /// Files of its cgroup are written; its processes go on.
    Limits,
    /// A program has its arguments, its environment and its place from its start: a new run.
    NewRun,
}

/// A key whose value is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Its path below `unit`, or below the worker for `slice` and `profile_type`.
    pub key: String,
    /// What it takes.
    pub takes: Takes,
    /// The old value, of limits alone: an environment may hold secrets. Absent: not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The new value, of limits alone. Absent: not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Spec {
    /// Every key in which `next` differs, in the order of the configuration's documentation.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut all = Changes(Vec::new());
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Self {
            slice,
            argv,
            env,
            env_files,
            working_directory,
            user,
            group,
            umask,
            nice,
            oom_score_adj,
            stop,
            restart,
            limits,
            health,
            logs,
        } = self;
        all.note("slice", Takes::NewRun, *slice == next.slice);
        all.note("command", Takes::NewRun, *argv == next.argv);
        all.variables(env, &next.env);
        all.note("env_file", Takes::NewRun, *env_files == next.env_files);
        all.note("working_directory", Takes::NewRun, *working_directory == next.working_directory);
        all.note("user", Takes::NewRun, *user == next.user);
        all.note("group", Takes::NewRun, *group == next.group);
        all.note("umask", Takes::NewRun, *umask == next.umask);
        all.note("nice", Takes::NewRun, *nice == next.nice);
        all.note("oom_score_adj", Takes::NewRun, *oom_score_adj == next.oom_score_adj);
        all.note("stop", Takes::Rules, *stop == next.stop);
        all.note("restart", Takes::Rules, *restart == next.restart);
        all.limits(limits, &next.limits);
        all.note("health_check", Takes::Rules, *health == next.health);
        all.note("logs", Takes::NewRun, *logs == next.logs);
        all.0
    }

    /// A number that differs where two specs launch a run differently, to tell across supervisors, and across versions
    /// of pinfold, whether a living run is the one that the configuration asks for. Limits and rules are no part of it:
    /// they are put in force on a living run.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let launched = Launched {
            slice: self.slice.as_ref().map(SliceName::as_str),
            argv: &self.argv,
            env: &self.env,
            env_files: self
                .env_files
                .iter()
                .map(|EnvFile { path, optional }| (path.to_string_lossy(), *optional))
                .collect(),
            working_directory: self.working_directory.to_string_lossy(),
            user: self.user.as_deref(),
            group: self.group.as_deref(),
            umask: self.umask,
            nice: self.nice,
            oom_score_adj: self.oom_score_adj,
            rlimits: [
                self.limits.process.max_file_descriptors,
                self.limits.process.max_core_size,
                self.limits.process.max_locked_memory,
            ],
            logs: self.logs,
        };
        // Text and numbers cannot fail to be written.
        let text = serde_json::to_vec(&launched).unwrap_or_default();
        // FNV-1a, for std's hasher promises nothing from one build to the next.
        text.iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

/// What a run is launched with, in the one form that is hashed: what is added later is left out where it is not set, so
/// that the numbers of before stay what they are.
#[derive(Serialize)]
struct Launched<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    slice: Option<&'a str>,
    argv: &'a [String],
    env: &'a BTreeMap<String, String>,
    env_files: Vec<(std::borrow::Cow<'a, str>, bool)>,
    working_directory: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    umask: u32,
    nice: i32,
    oom_score_adj: i32,
    rlimits: [Option<u64>; 3],
    logs: LogPolicy,
}

impl Limits {
    /// The keys of a slice's limits in which `next` differs.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut all = Changes(Vec::new());
        all.limits(self, next);
        all.0
    }
}

struct Changes(Vec<Change>);

impl Changes {
    fn note(&mut self, key: &str, takes: Takes, same: bool) {
        if !same {
            self.0.push(Change { key: key.to_owned(), takes, from: None, to: None });
        }
    }

    fn limit(&mut self, key: &str, from: Option<String>, to: Option<String>) {
        if from != to {
            self.0.push(Change { key: format!("limits.{key}"), takes: Takes::Limits, from, to });
        }
    }

    fn variables(&mut self, from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) {
        for name in differing(from, to) {
            self.note(&format!("env.{name}"), Takes::NewRun, false);
        }
    }

    fn limits(&mut self, from: &Limits, to: &Limits) {
        let Limits { memory, cpu, pids, io, pressure, process, monitoring } = from;
        let Memory { max, high, swap_max, oom_scope, policy, high_policy, throttle_deadline } = memory;
        let bytes = |bytes: Option<u64>| bytes.map(exact);
        let count = |count: Option<u64>| count.map(|count| count.to_string());
        let swap = |swap: SwapMax| match swap {
            SwapMax::Max => Some("max".to_owned()),
            SwapMax::Bytes(n) => bytes(Some(n)),
        };
        let scope = |scope: OomGroup| Some(if scope == OomGroup::Worker { "worker" } else { "process" }.to_owned());
        self.limit("memory.max_rss", bytes(*max), bytes(to.memory.max));
        self.limit("memory.high", bytes(*high), bytes(to.memory.high));
        self.limit("memory.swap_max", swap(*swap_max), swap(to.memory.swap_max));
        self.limit("memory.oom_scope", scope(*oom_scope), scope(to.memory.oom_scope));
        self.note("limits.memory.policy", Takes::Rules, *policy == to.memory.policy);
        self.note("limits.memory.high_policy", Takes::Rules, *high_policy == to.memory.high_policy);
        self.note("limits.memory.throttle_deadline", Takes::Rules, *throttle_deadline == to.memory.throttle_deadline);
        let percent = |percent: Option<f64>| percent.map(|percent| format!("{percent} %"));
        let usec = |usec: Option<u64>| usec.map(|usec| format!("{usec} µs"));
        self.limit("cpu.max_percent", percent(cpu.max_percent), percent(to.cpu.max_percent));
        self.limit("cpu.weight", count(cpu.weight.map(u64::from)), count(to.cpu.weight.map(u64::from)));
        self.limit("cpu.burst", usec(cpu.burst_usec), usec(to.cpu.burst_usec));
        self.note("limits.cpu.max_time", Takes::Rules, cpu.max_time == to.cpu.max_time);
        self.note("limits.cpu.sustained", Takes::Rules, cpu.sustained == to.cpu.sustained);
        let same_ratio = cpu.throttled_ratio.to_bits() == to.cpu.throttled_ratio.to_bits();
        self.note("limits.cpu.throttled_ratio", Takes::Rules, same_ratio);
        self.note("limits.cpu.policy", Takes::Rules, cpu.policy == to.cpu.policy);
        self.limit("pids.max", count(pids.max), count(to.pids.max));
        self.note("limits.pids.policy", Takes::Rules, pids.policy == to.pids.policy);
        self.rates(io, &to.io);
        let Pressure { memory, cpu, io } = pressure;
        self.note("limits.pressure.memory", Takes::Rules, *memory == to.pressure.memory);
        self.note("limits.pressure.cpu", Takes::Rules, *cpu == to.pressure.cpu);
        self.note("limits.pressure.io", Takes::Rules, *io == to.pressure.io);
        // setrlimit(2) is of a process and what it forks: those that run have theirs.
        self.note("limits.process", Takes::NewRun, *process == to.process);
        self.note("limits.monitoring", Takes::Rules, *monitoring == to.monitoring);
    }

    fn rates(&mut self, from: &[Io], to: &[Io]) {
        let of = |list: &[Io], path: &std::path::Path| list.iter().find(|io| io.path == path).map(rates);
        let mut paths: Vec<_> = from.iter().chain(to).map(|io| io.path.as_path()).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            self.limit(&format!("io[{}]", path.display()), of(from, path), of(to, path));
        }
        let policies = |list: &[Io]| list.iter().map(|io| (io.path.clone(), io.policy)).collect::<Vec<_>>();
        let (old, new) = (policies(from), policies(to));
        let same = old.iter().all(|(path, policy)| new.iter().all(|(other, next)| other != path || next == policy));
        self.note("limits.io.policy", Takes::Rules, same);
    }
}

/// A size that tells it from every other: short where that is exact.
fn exact(bytes: u64) -> String {
    let short = size(bytes);
    if short.contains('.') { format!("{bytes} B") } else { short }
}

fn rates(io: &Io) -> String {
    let Io { path: _, rbps, wbps, riops, wiops, policy: _ } = io;
    let all = [("rbps", rbps), ("wbps", wbps), ("riops", riops), ("wiops", wiops)];
    let set = all.into_iter().filter_map(|(key, rate)| Some(format!("{key}={}", (*rate)?)));
    set.collect::<Vec<_>>().join(" ")
}

/// The names whose values differ, in their order.
#[must_use]
pub fn differing<'a>(from: &'a BTreeMap<String, String>, to: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = from.keys().chain(to.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| from.get(*name) != to.get(*name));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::types::Pids;

    fn spec() -> Spec {
        let mut spec = Spec::new(vec!["/bin/x".into(), "y".into()]);
        spec.env.insert("A".into(), "secret".into());
        spec
    }

    fn keys(next: &Spec) -> Vec<(String, Takes)> {
        spec().changes(next).into_iter().map(|change| (change.key, change.takes)).collect()
    }

    #[test]
    fn each_change_is_told_by_its_key_with_what_it_takes() {
        let mut next = spec();
        assert_eq!(keys(&next), []);
        next.argv.push("z".into());
        next.env.insert("A".into(), "other".into());
        next.env.insert("B".into(), "new".into());
        next.restart.max_retries = 99;
        next.limits.memory.max = Some(1 << 30);
        next.limits.memory.policy = crate::spec::types::ViolationPolicy::Alert;
        next.limits.pids = Pids { max: Some(7), ..Pids::default() };
        next.limits.process.max_core_size = Some(0);
        let expected = [
            ("command", Takes::NewRun),
            ("env.A", Takes::NewRun),
            ("env.B", Takes::NewRun),
            ("restart", Takes::Rules),
            ("limits.memory.max_rss", Takes::Limits),
            ("limits.memory.policy", Takes::Rules),
            ("limits.pids.max", Takes::Limits),
            ("limits.process", Takes::NewRun),
        ];
        assert_eq!(keys(&next), expected.map(|(key, takes)| (key.to_owned(), takes)));
    }

    #[test]
    fn values_are_told_of_limits_alone_and_tell_each_from_every_other() {
        let mut next = spec();
        next.env.insert("A".into(), "other".into());
        next.limits.memory.max = Some((1 << 30) + 4096);
        let told = spec().changes(&next);
        assert!(!format!("{told:?}").contains("secret"));
        assert_eq!(told[1].to.as_deref(), Some("1073745920 B"));
    }

    #[test]
    fn the_number_of_a_launch_is_the_same_in_every_build_and_version() {
        // On the cgroups of living runs: where it changed, an upgrade would restart everything.
        assert_eq!(spec().digest(), 3_442_908_523_633_951_245);
    }

    #[test]
    fn the_number_of_a_launch_tells_another_launch_and_nothing_else() {
        let mut limits = spec();
        limits.limits.pids.max = Some(9);
        limits.restart.max_retries = 99;
        assert_eq!(limits.digest(), spec().digest());
        let changed: [fn(&mut Spec); 6] = [
            |spec| spec.argv.push("z".into()),
            |spec| drop(spec.env.remove("A")),
            |spec| spec.user = Some("nobody".into()),
            |spec| spec.umask = 0,
            |spec| spec.limits.process.max_core_size = Some(0),
            |spec| spec.working_directory = "/srv".into(),
        ];
        for (at, change) in changed.iter().enumerate() {
            let mut other = spec();
            change(&mut other);
            assert_ne!(other.digest(), spec().digest(), "{at}");
        }
    }
}
