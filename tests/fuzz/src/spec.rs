//! Whatever the bytes, `spec::load` answers: with a configuration that keeps every promise of `spec::types`, or with
//! problems that a person can find in the file. Run from `tests/fuzz`:
//!
//! ```text
//! mkdir -p ../../target/fuzz/corpus
//! cargo run --bin spec -- -max_total_time=60 -timeout=5 -max_len=4096 -dict=spec.dict -artifact_prefix=../../target/fuzz/ \
//!     ../../target/fuzz/corpus ../fixtures/spec/good ../fixtures/spec/bad
//! ```
//!
//! The sources of the main package are compiled in, instead of the package: it would bring two hundred instrumented
//! crates of which `spec` uses ten.

#![no_main]

use std::{collections::HashSet, path::Path, time::Duration};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use pinfold::{model, policy, spec};

#[path = "../../../src"]
#[allow(
    dead_code,
    unused_imports,
    unfulfilled_lint_expectations,
    reason = "the modules are here for one of their functions"
)]
mod pinfold {
    pub mod model;
    pub mod policy;
    pub mod spec;
}

fuzz_target!(|bytes: &[u8]| {
    // Thousands of instances find nothing that ten do not, and take a hundred times as long.
    if bytes.windows(15).any(|w| w.starts_with(b"instances: ") && w[11..].iter().all(u8::is_ascii_digit)) {
        return;
    }
    let source = spec::Source { name: "fuzz.yaml".into(), bytes: bytes.to_vec() };
    let loaded = spec::load(std::slice::from_ref(&source), &environment);
    match &loaded {
        Ok(config) => promises(config),
        Err(problems) => findable(problems, bytes),
    }
    // Three loads for one are worth it now and then.
    if bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) % 8 == 0 {
        layers(source, loaded);
    }
});

// libFuzzer's own mutations break the YAML more often than its meaning. So of four, two are its own, one puts a word in
// the place of another, and one is a new configuration whose keys and kinds of values are right.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: usize| {
        // xorshift64 (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).map_or(0, |number| number % bound.max(1))
    };
    match below(4) {
        0 => {
            let mut text = String::from("defaults: ");
            write(&mut text, &UNIT, &mut below);
            text += "\nslices:\n  s: ";
            write(&mut text, &SLICE, &mut below);
            for id in ["\nworkers:\n- {id: a, slice: s, unit: ", "}\n- {id: b, unit: "] {
                text += id;
                write(&mut text, &UNIT, &mut below);
            }
            text += "}\n";
            let length = text.len().min(max_size);
            data[..length].copy_from_slice(&text.as_bytes()[..length]);
            return length;
        }
        1 => {}
        _ => return fuzzer_mutate(data, size, max_size),
    }
    let words = words(&data[..size]);
    if words.is_empty() {
        return fuzzer_mutate(data, size, max_size);
    }
    let old = words[below(words.len())].clone();
    let alike = alike(&data[old.clone()]);
    let new = match below(4) {
        0 => data[words[below(words.len())].clone()].to_vec(),
        1 => OTHERS[below(OTHERS.len())].as_bytes().to_vec(),
        _ => alike[below(alike.len())].as_bytes().to_vec(),
    };
    let mutated = [&data[..old.start], &new, &data[old.end..size]].concat();
    let length = mutated.len().min(max_size);
    data[..length].copy_from_slice(&mutated[..length]);
    length
});

enum Shape {
    One(&'static [&'static str]),
    Map(&'static [(&'static str, Shape)]),
}

/// Writes `shape` with some of its keys.
fn write(text: &mut String, shape: &Shape, below: &mut impl FnMut(usize) -> usize) {
    match shape {
        Shape::One(values) => text.push_str(values[below(values.len())]),
        Shape::Map(keys) => {
            text.push('{');
            for (key, shape) in *keys {
                if *key == "command" || below(6) == 0 {
                    *text += key;
                    *text += ": ";
                    write(text, shape, below);
                    *text += ", ";
                }
            }
            text.push('}');
        }
    }
}

use Shape::{Map, One};

const UNIT: Shape = Map(&[
    ("command", One(&["[x]", "x y", "[\"/bin/x\", 1]"])),
    ("shell", One(&["true", "false"])),
    ("env", One(&["{A: b}", "[B=c]", "{C: \"${B:-x}\"}"])),
    ("nice", One(NUMBERS)),
    ("umask", One(&["\"0022\"", "0o77", "22"])),
    ("stop", Map(&[("signal", One(&["TERM", "9", "RTMIN+3", "64", "65"])), ("timeout", One(TIMES))])),
    (
        "restart",
        Map(&[
            ("max_retries", One(NUMBERS)),
            ("retry_delay", One(TIMES)),
            ("backoff_rate", One(NUMBERS)),
            ("max_delay", One(TIMES)),
            ("jitter", One(NUMBERS)),
            ("cooldown", One(&["hold", "1s"])),
            ("success_exit_codes", One(&["[0, 255]", "[256]"])),
            ("health_failures", Map(&[("retry_delay", One(TIMES)), ("max_delay", One(TIMES))])),
            ("severity_multipliers", Map(&[("warning", One(NUMBERS))])),
        ]),
    ),
    (
        "limits",
        Map(&[
            (
                "memory",
                Map(&[("max_rss", One(SIZES)), ("high", One(SIZES)), ("high", One(SHARES)), ("swap_max", One(SIZES))]),
            ),
            (
                "cpu",
                Map(&[
                    ("max_percent", One(NUMBERS)),
                    ("weight", One(NUMBERS)),
                    ("burst", One(TIMES)),
                    ("max_time", One(TIMES)),
                    ("throttled_ratio", One(NUMBERS)),
                ]),
            ),
            ("pids", Map(&[("max", One(NUMBERS))])),
            ("io", One(&["[{path: /x, wbps: 1MB}]", "[{path: /x, riops: 1}, {path: /y, rbps: 0B}]"])),
            (
                "pressure",
                Map(&[
                    ("memory", Map(&[("some", One(STALLS)), ("full", One(STALLS)), ("sustained", One(TIMES))])),
                    ("io", Map(&[("some", One(STALLS)), ("full", One(STALLS))])),
                ]),
            ),
            ("monitoring", Map(&[("interval", One(TIMES)), ("history_retention", One(TIMES))])),
        ]),
    ),
    ("health_check", Map(&[("startup", PROBE), ("liveness", PROBE), ("readiness", PROBE)])),
]);

const PROBE: Shape = Map(&[
    ("exec", One(&["{command: [x]}", "{command: x y}", "{command: [\"\"]}", "{command: a | b}"])),
    ("http_get", One(&["{port: 1}", "{port: 65535, path: /x?y, scheme: https, http_headers: [{name: A, value: 1}]}"])),
    ("tcp_socket", One(&["{port: 1}", "{port: 80, host: \"::1\"}", "{port: 0, host: a/b}"])),
    ("initial_delay", One(TIMES)),
    ("initial_delay_seconds", One(NUMBERS)),
    ("period", One(TIMES)),
    ("period_seconds", One(NUMBERS)),
    ("timeout", One(TIMES)),
    ("timeout_seconds", One(NUMBERS)),
    ("failure_threshold", One(NUMBERS)),
    ("success_threshold", One(NUMBERS)),
]);

const SLICE: Shape = Map(&[
    (
        "memory",
        Map(&[("max", One(SIZES)), ("max_rss", One(SIZES)), ("high", One(SIZES)), ("swap_max", One(SIZES))]),
    ),
    ("cpu", Map(&[("max_percent", One(NUMBERS)), ("weight", One(NUMBERS)), ("burst", One(TIMES))])),
    ("pids", Map(&[("max", One(NUMBERS))])),
    ("io", One(&["[{path: /x, wbps: 1MB}]", "[{path: /x, riops: 1}, {path: /y, rbps: 0B}]"])),
]);

const TIMES: &[&str] = &["0", "1us", "10ms", "100ms", "500ms", "1s", "10s", "2m", "10m", "24h", "3650d", "3651d"];
const STALLS: &[&str] = &["1us/500ms", "150ms/1s", "1s/1s", "2s/1s", "10s/10s", "1s/11s"];
const SIZES: &[&str] = &["0B", "4095B", "4KiB", "1MiB", "1MB", "2MB", "0.5GiB", "256MiB", "256MB", "1T", "8388608T"];
const SHARES: &[&str] = &["0%", "0.01%", "1%", "50%", "99.99%", "100%", "101%"];
const NUMBERS: &[&str] = &[
    "0", "1", "2", "7", "64", "255", "256", "-1", "-20", "0.5", "0.999", "1.5", "100", "1000", "1e400", ".nan", "010",
];
const OTHERS: &[&str] = &[
    "true", "false", "~", "\"\"", "\"x\"", "[]", "{}", "x", "/x", "max", "off", "hold", "TERM", "RTMIN+3", "none",
    "log", "restart", "throttle", "always", "a", "a-1", "a-2", "${A}", "${B}", "${C:-x}", "$$", "&a", "*a", "!!str",
];

/// Values of the kind of `word`: what is near a border is most often found from the other side of it.
fn alike(word: &[u8]) -> &'static [&'static str] {
    let ends = |units: &[&[u8]]| units.iter().any(|unit| word.ends_with(unit));
    match word.first() {
        Some(b'0'..=b'9') if word.contains(&b'/') => STALLS,
        Some(b'0'..=b'9') if ends(&[b"%"]) => SHARES,
        Some(b'0'..=b'9') if ends(&[b"s", b"m", b"h", b"d"]) => TIMES,
        Some(b'0'..=b'9') if ends(&[b"B", b"K", b"M", b"G", b"T"]) => SIZES,
        Some(b'0'..=b'9' | b'-' | b'.') => NUMBERS,
        _ => OTHERS,
    }
}

/// Where the words are: what stands between white space and YAML's punctuation.
fn words(text: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut start = 0;
    for (at, byte) in text.iter().chain(b" ").enumerate() {
        if byte.is_ascii_whitespace() || matches!(byte, b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"') {
            if at > start {
                words.push(start..at);
            }
            start = at + 1;
        }
    }
    words
}

fn environment(name: &str) -> Option<String> {
    match name {
        "A" => Some("1".into()),
        "B" => Some("${A} [x]: {y} \0\n- z".into()),
        "C" => Some(String::new()),
        _ => None,
    }
}

/// A file beside an empty one is the same configuration; beside itself it has every worker, every slice and every file
/// of `history` twice.
fn layers(source: spec::Source, loaded: Result<spec::types::Config, spec::Problems>) {
    let empty = spec::Source { name: "empty.yaml".into(), bytes: Vec::new() };
    let with_empty = spec::load(&[source.clone(), empty], &environment);
    assert_eq!(loaded, with_empty);
    if let Ok(config) = loaded {
        let twice = spec::load(&[source.clone(), source], &environment);
        let file = config.history.iter().any(|sink| matches!(sink, spec::types::Sink::Jsonl(_)));
        assert_eq!(twice.is_err(), !config.workers.is_empty() || !config.slices.is_empty() || file);
    }
}

fn findable(problems: &spec::Problems, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let breaks = text.replace("\r\n", "\n").matches(['\n', '\r']).count();
    assert!((1..=101).contains(&problems.0.len()));
    for problem in &problems.0 {
        assert!(problem.line <= breaks + 1, "{problem:?}");
        assert_eq!(problem.line == 0, problem.column == 0, "{problem:?}");
        assert_eq!(problem.line == 0, problem.excerpt.is_none(), "{problem:?}");
        assert!(!problem.message.is_empty() && !problem.fix.is_empty(), "{problem:?}");
        if let Some(excerpt) = &problem.excerpt {
            assert!(excerpt.text.chars().count() <= 102 && excerpt.caret <= 102, "{problem:?}");
        }
    }
    let printed = problems.to_string();
    assert!(printed.chars().all(|c| c == '\n' || !c.is_control()), "{printed:?}");
    assert!(printed.lines().count() <= 3 * problems.0.len(), "{printed}");
}

fn promises(config: &spec::types::Config) {
    assert!(config.workers.len() <= 100_000);
    environment_is_sound(&config.env);
    let mut slices = HashSet::new();
    for slice in &config.slices {
        assert!(slices.insert(&slice.name), "{} is there twice", slice.name);
        assert!(model::SliceName::from_dir_name(&slice.name.dir_name()).as_ref() == Some(&slice.name));
        assert!(slice.limits.memory.oom_scope == spec::types::OomGroup::Process);
        limits_are_sound(&slice.limits);
    }
    let mut names = HashSet::new();
    for worker in &config.workers {
        assert!(worker.spec.slice.as_ref().is_none_or(|slice| slices.contains(slice)), "{} is nowhere", worker.id);
        assert!(names.insert(&worker.id), "{} is there twice", worker.id);
        assert!(model::WorkerId::new(worker.id.as_str()).is_ok());
        let instance = worker.id.as_str().strip_prefix(worker.declared_as.as_str());
        assert!(instance.is_some_and(|rest| rest.is_empty() || rest[1..].parse::<u32>().is_ok()));
    }
    // Instances share their spec: the first of a declaration speaks for all.
    for pair in config.workers.windows(2) {
        if pair[0].declared_as != pair[1].declared_as {
            spec_is_sound(&pair[1].spec);
        }
    }
    if let Some(first) = config.workers.first() {
        spec_is_sound(&first.spec);
    }
}

fn environment_is_sound(env: &std::collections::BTreeMap<String, String>) {
    for (name, value) in env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'), "{name:?}={value:?}");
    }
}

fn path_is_sound(path: &Path) {
    assert!(path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0), "{}", path.display());
}

fn spec_is_sound(spec: &spec::types::Spec) {
    assert!(spec.argv.first().is_some_and(|program| !program.is_empty()));
    assert!(spec.argv.iter().chain(&spec.user).chain(&spec.group).all(|text| !text.contains('\0')));
    environment_is_sound(&spec.env);
    spec.env_files.iter().for_each(|file| path_is_sound(&file.path));
    path_is_sound(&spec.working_directory);
    assert!(spec.umask <= 0o777);
    assert!((-20..=19).contains(&spec.nice));
    assert!((-1000..=1000).contains(&spec.oom_score_adj));
    assert!(matches!(spec.stop.signal, 1..=31 | 34..=64) && spec.stop.signal != 19);
    bounded(&[spec.stop.timeout]);
    restart_is_sound(&spec.restart);
    limits_are_sound(&spec.limits);
    if let Some(check) = &spec.health {
        let once = [&check.startup, &check.liveness].into_iter().flatten();
        assert!(once.clone().all(|probe| probe.success_threshold == 1));
        assert!(once.chain(&check.readiness).map(probe_is_sound).count() > 0);
    }
}

fn probe_is_sound(probe: &spec::types::Probe) {
    use spec::types::ProbeAction;
    bounded(&[probe.initial_delay, probe.period, probe.timeout]);
    assert!(probe.period >= Duration::from_millis(100) && !probe.timeout.is_zero());
    assert!(probe.failure_threshold > 0 && probe.success_threshold > 0);
    let host_is_sound = |host: &str| !host.is_empty() && !host.contains(['/', '@', '[', ' ', '\0']);
    match &probe.action {
        ProbeAction::Exec { argv } => {
            assert!(argv.first().is_some_and(|program| !program.is_empty()));
            assert!(argv.iter().all(|text| !text.contains('\0')));
        }
        ProbeAction::HttpGet(get) => {
            assert!(host_is_sound(&get.host) && get.port > 0 && get.path.starts_with('/') && get.path.is_ascii());
            assert!(get.headers.iter().all(|(name, value)| !format!("{name}{value}").contains(['\r', '\n', '\0'])));
        }
        ProbeAction::TcpSocket { host, port } => assert!(host_is_sound(host) && *port > 0),
    }
}

fn bounded(times: &[Duration]) {
    assert!(times.iter().all(|time| *time <= Duration::from_secs(3650 * 86_400)), "{times:?}");
}

fn restart_is_sound(restart: &policy::restart::RestartPolicy) {
    bounded(&[restart.retry_delay, restart.max_delay, restart.reset_after, restart.startup_grace_period]);
    bounded(&[restart.cooldown.unwrap_or_default()]);
    assert!(restart.retry_delay <= restart.max_delay);
    assert!((1.0..=1000.0).contains(&restart.backoff_rate));
    assert!((0.0..=1.0).contains(&restart.jitter));
    assert!(restart.success_exit_codes.iter().all(|code| (0..=255).contains(code)));
    let factors = restart.severity_multipliers.values().chain(restart.profile_multipliers.values());
    assert!(factors.into_iter().all(|factor| *factor > 0.0 && *factor <= 1000.0));
    for class in [&restart.health_failures, &restart.resource_violations] {
        assert!(class.retry_delay.unwrap_or(restart.retry_delay) <= class.max_delay.unwrap_or(restart.max_delay));
        assert!(class.backoff_rate.is_none_or(|rate| (1.0..=1000.0).contains(&rate)));
    }
}

fn limits_are_sound(limits: &spec::types::Limits) {
    use spec::types::ViolationPolicy::Throttle;
    let memory = &limits.memory;
    assert!(memory.max.is_none_or(|max| (1 << 20..=i64::MAX as u64).contains(&max)));
    assert!(memory.high.is_none_or(|high| high >= 4096 && high <= memory.max.unwrap_or(i64::MAX as u64)));
    assert!(memory.policy != Throttle);
    let cpu = &limits.cpu;
    assert!(cpu.max_percent.is_none_or(|percent| (1.0..=1_000_000.0).contains(&percent)));
    assert!(cpu.weight.is_none_or(|weight| (1..=10_000).contains(&weight)));
    assert!(cpu.burst_usec.is_none_or(|burst| burst as f64 <= cpu.max_percent.unwrap_or(0.0) * 1000.0 + 1.0));
    assert!(cpu.max_time.is_none_or(|time| !time.is_zero()));
    assert!(cpu.throttled_ratio > 0.0 && cpu.throttled_ratio <= 1.0);
    assert!(cpu.policy != Throttle);
    assert!(limits.pids.max.is_none_or(|max| (1..=1 << 22).contains(&max)));
    for io in &limits.io {
        path_is_sound(&io.path);
        let rates = [io.rbps, io.wbps, io.riops, io.wiops];
        assert!(rates.iter().any(Option::is_some) && !rates.contains(&Some(0)));
        assert!(io.riops.max(io.wiops) < Some(u64::from(u32::MAX)));
    }
    for trigger in [&limits.pressure.memory, &limits.pressure.cpu, &limits.pressure.io].into_iter().flatten() {
        assert!((500..=10_000).contains(&trigger.window.as_millis()));
        assert!(trigger.stall <= trigger.window && trigger.stall >= Duration::from_micros(1));
        bounded(&[trigger.sustained]);
    }
    assert!(limits.monitoring.interval.is_none_or(|interval| interval >= Duration::from_millis(100)));
}
