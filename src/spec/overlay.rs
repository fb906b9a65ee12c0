//! Single limits over those of a spec, written and checked as in a configuration.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::types::{Limits, SwapMax};
use super::{Problem, Problems, Source};

/// The keys below `unit.limits` that can be laid over. They are the kernel's: what else a limit has are rules, whose place is
/// the configuration.
pub const KEYS: [&str; 7] =
    ["memory.max_rss", "memory.high", "memory.swap_max", "cpu.max_percent", "cpu.weight", "cpu.burst", "pids.max"];

/// `limits` with `set` over them. Where `memory.max_rss` is set and `memory.high` is not, that keeps its share of it.
///
/// # Errors
/// Everything that is wrong, by the rules and in the words of a configuration; the path is the key.
pub fn overlay(limits: &Limits, set: &BTreeMap<String, String>) -> Result<Limits, Problems> {
    let unknown = set.keys().filter(|key| !KEYS.contains(&key.as_str()));
    let unknown: Vec<Problem> = unknown
        .map(|key| Problem {
            path: key.clone(),
            ..*Problem::of_file("set", "is no limit that can be set", format!("write one of {}", KEYS.join(", ")))
        })
        .collect();
    if !unknown.is_empty() {
        return Err(Problems(unknown));
    }
    let mut unit = Map::new();
    for (key, value) in present(limits).into_iter().filter(|(key, _)| !set.contains_key(*key)) {
        put(&mut unit, key, value);
    }
    for (key, value) in set {
        put(&mut unit, key, scalar(value));
    }
    if let (Some(max), Some(high), true, false) =
        (limits.memory.max, limits.memory.high, set.contains_key("memory.max_rss"), set.contains_key("memory.high"))
    {
        let hundredths = u128::from(high) * 10_000 / u128::from(max.max(1));
        put(&mut unit, "memory.high", Value::String(format!("{}.{:02}%", hundredths / 100, hundredths % 100)));
    }
    let config = json!({ "workers": [{ "id": "set", "unit": { "command": ["unused"], "limits": unit } }] });
    // JSON is YAML.
    let source = Source { name: "set".to_owned(), bytes: config.to_string().into_bytes() };
    let read = super::load(&[source], &|_| None).map_err(|problems| {
        let below = |problem: Problem| Problem {
            path: problem.path.strip_prefix("workers[0].unit.limits.").unwrap_or(&problem.path).to_owned(),
            line: 0,
            column: 0,
            excerpt: None,
            ..problem
        };
        Problems(problems.0.into_iter().map(below).collect())
    })?;
    let mut laid = limits.clone();
    if let Some(worker) = read.workers.first() {
        let Limits { memory, cpu, pids, .. } = &worker.spec.limits;
        (laid.memory.max, laid.memory.high, laid.memory.swap_max) = (memory.max, memory.high, memory.swap_max);
        (laid.cpu.max_percent, laid.cpu.weight, laid.cpu.burst_usec) = (cpu.max_percent, cpu.weight, cpu.burst_usec);
        laid.pids.max = pids.max;
    }
    Ok(laid)
}

/// What is in force, as it would be written.
fn present(limits: &Limits) -> Vec<(&'static str, Value)> {
    let Limits { memory, cpu, pids, .. } = limits;
    let swap = match memory.swap_max {
        SwapMax::Max => Some(json!("max")),
        SwapMax::Bytes(0) => None,
        SwapMax::Bytes(bytes) => Some(json!(bytes)),
    };
    let all = [
        ("memory.max_rss", memory.max.map(|max| json!(max))),
        ("memory.high", memory.high.map(|high| json!(high))),
        ("memory.swap_max", swap),
        ("cpu.max_percent", cpu.max_percent.map(|percent| json!(percent))),
        ("cpu.weight", cpu.weight.map(|weight| json!(weight))),
        ("cpu.burst", cpu.burst_usec.map(|usec| json!(format!("{usec}us")))),
        ("pids.max", pids.max.map(|max| json!(max))),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn put(unit: &mut Map<String, Value>, key: &str, value: Value) {
    if let Some((group, name)) = key.split_once('.') {
        let group = unit.entry(group).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(group) = group {
            group.insert(name.to_owned(), value);
        }
    }
}

/// A number bare, all else in quotes; a dollar is one.
fn scalar(typed: &str) -> Value {
    typed.parse().map_or_else(|_| Value::String(typed.replace('$', "$$")), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::types::{Cpu, Memory, Pids, ViolationPolicy};

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn limits() -> Limits {
        Limits {
            memory: Memory {
                max: Some(256 << 20),
                high: Some(128 << 20),
                policy: ViolationPolicy::Alert,
                ..Memory::default()
            },
            cpu: Cpu { max_percent: Some(75.0), burst_usec: Some(5000), ..Cpu::default() },
            pids: Pids { max: Some(64), ..Pids::default() },
            ..Limits::default()
        }
    }

    #[test]
    fn what_is_set_is_another_and_everything_else_stays() {
        let laid = overlay(&limits(), &set(&[("pids.max", "9"), ("cpu.weight", "300")])).unwrap();
        assert_eq!(laid.pids.max, Some(9));
        assert_eq!(laid.cpu.weight, Some(300));
        let expected = Limits {
            cpu: Cpu { weight: Some(300), ..limits().cpu },
            pids: Pids { max: Some(9), ..limits().pids },
            ..limits()
        };
        assert_eq!(laid, expected);
        assert_eq!(overlay(&limits(), &BTreeMap::new()).unwrap(), limits());
    }

    #[test]
    fn the_tripwire_keeps_its_share_of_memory() {
        let laid = overlay(&limits(), &set(&[("memory.max_rss", "100MiB")])).unwrap();
        assert_eq!((laid.memory.max, laid.memory.high), (Some(100 << 20), Some(50 << 20)));
        let both = overlay(&limits(), &set(&[("memory.max_rss", "100MiB"), ("memory.high", "90MiB")])).unwrap();
        assert_eq!(both.memory.high, Some(90 << 20));
    }

    #[test]
    fn a_limit_is_taken_off_with_max() {
        assert_eq!(overlay(&limits(), &set(&[("pids.max", "max")])).unwrap().pids.max, None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key_and_what_would_be_right() {
        for (key, value, part) in [
            ("memory.max", "1G", "write one of memory.max_rss"),
            ("memory.max_rss", "1 cow", "cow"),
            ("memory.max_rss", "1", "MiB"),
            ("memory.high", "1GiB", "memory.high"),
            ("pids.max", "0", "0"),
        ] {
            let problems = overlay(&limits(), &set(&[(key, value)])).unwrap_err();
            assert!(problems.to_string().contains(part), "{key}={value}: {problems}");
        }
    }
}
