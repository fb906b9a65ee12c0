//! The JSON Schema that editors use: the checked-in copy is current, and it agrees with the loader on every fixture
//! as far as a schema can see.
//!
//! `PINFOLD_BLESS=1` rewrites the checked-in copy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinfold::spec::schema;
use serde_json::Value;

/// What is wrong with these only the loader sees: keys that contradict each other, ranges behind a unit, what a
/// variable brings in, and YAML itself. Every other bad fixture is wrong to the schema too.
const BEYOND_A_SCHEMA: &[&str] = &[
    "command-blank",
    "command-empty-program",
    "command-nul",
    "command-pipe",
    "command-shell-list",
    "command-unclosed-quote",
    "cpu-burst",
    "cpu-burst-alone",
    "cpu-ratio",
    "cpu-time-zero",
    "defaults-with-worker",
    "duration-huge",
    "expand-forms",
    "expand-type",
    "expand-unknown",
    "health-no-action",
    "health-success-threshold",
    "health-time-twice",
    "health-times",
    "health-two-actions",
    "history-credentials",
    "history-numbers",
    "history-path",
    "history-url-host",
    "io-no-rate",
    "io-twice",
    "key-alias-twice",
    "logs-rate-slow",
    "logs-size",
    "memory-high-above",
    "memory-high-page",
    "memory-high-percent",
    "memory-swap-alone",
    "memory-too-small",
    "monitoring-interval",
    "number-leading-zero",
    "path-nul",
    "pressure-both",
    "pressure-neither",
    "pressure-stall",
    "pressure-window",
    "reconcile-interval",
    "restart-delays",
    "size-fraction",
    "slice-limits",
    "slice-undeclared",
    "slice-unknown",
    "stop-signal",
    "stop-signal-stop",
    "umask-ambiguous",
    "umask-range",
    "worker-id-twice",
    "worker-id-twice-expanded",
    "worker-instances-name",
    "worker-instances-total",
    "worker-without-command",
];

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&schema::json()).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#", "what editors complete by");
    jsonschema::draft7::new(&schema).unwrap()
}

/// The file as an editor sees it: YAML 1.2 to JSON. `None` where it is none.
fn read(file: &Path) -> Option<Value> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
    };
    let text = fs::read_to_string(file).ok()?;
    serde_saphyr::from_str_with_options(&text, options).ok()
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path("tests/fixtures/spec").join(kind)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn the_checked_in_schema_is_the_one_of_the_code() {
    let file = path("src/spec/pinfold.schema.json");
    if std::env::var_os("PINFOLD_BLESS").is_some() {
        fs::write(&file, schema::json()).unwrap();
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    assert!(checked_in == schema::json(), "{} is not current: run with PINFOLD_BLESS=1", file.display());
}

#[test]
fn the_schema_accepts_every_good_fixture() {
    let validator = validator();
    for file in fixtures("good") {
        let Some(value) = read(&file).filter(|value| !value.is_null()) else {
            assert!(file.ends_with("empty.yaml") || file.ends_with("only-comments.yaml"), "{}", file.display());
            continue;
        };
        if let Err(error) = validator.validate(&value) {
            panic!("{}: {}: {error}", file.display(), error.instance_path());
        }
    }
}

#[test]
fn the_schema_refuses_what_it_can_see_and_nothing_else() {
    let validator = validator();
    let mut differences = Vec::new();
    for file in fixtures("bad") {
        let name = file.file_stem().unwrap().to_str().unwrap();
        if name.starts_with("yaml-") || name.starts_with("bytes-") {
            continue;
        }
        let value = read(&file).unwrap_or_else(|| panic!("{name} is no YAML"));
        if validator.is_valid(&value) != BEYOND_A_SCHEMA.contains(&name) {
            differences.push(name.to_owned());
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn every_key_has_a_description() {
    fn check(at: &str, schema: &Value) {
        let Value::Object(members) = schema else { return };
        if let Some(Value::Object(properties)) = members.get("properties") {
            for (key, property) in properties {
                let described = property["description"].as_str().is_some_and(|text| text.len() > 8);
                // A table's keys are names; the table has the description.
                assert!(described || at.contains("_of_"), "{at}.{key}");
            }
        }
        for (key, member) in members {
            check(key, member);
        }
    }
    check("", &serde_json::from_str(&schema::json()).unwrap());
}
