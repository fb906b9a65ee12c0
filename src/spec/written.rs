//! Where each setting of a worker is written, in the words in which it is written: variables stand as `${NAME}`, so that nothing
//! of the supervisor's environment is in there, and env files are only named.

use std::collections::BTreeMap;

use super::{
    Source,
    expand::{MAX_EXPANDED, expand},
    problem::{Mark, Report},
    text,
    tree::{self, Entry, Node, Value},
};

/// A setting that is written somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its value, as it stands there; a list as JSON.
    pub text: String,
    /// For all workers or for this one.
    pub layer: Layer,
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
}

/// On which level something is written. The later one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The global `env`.
    Global,
    /// `defaults`.
    Defaults,
    /// The worker's own.
    Worker,
    /// The same, where no file declares it.
    Registered,
}

/// The settings that can be left out, in the order of the configuration, and what holds then: a value as it would be
/// written, or `None` where nothing does.
pub const SETTINGS: &[(&str, Option<&str>)] = &[
    ("instances", None),
    ("enabled", Some("true")),
    ("profile_type", Some("default")),
    ("slice", None),
    ("command", None),
    ("args", None),
    ("shell", Some("false")),
    ("env_file", None),
    ("working_directory", Some("/")),
    ("user", None),
    ("group", None),
    ("umask", Some("0022")),
    ("nice", Some("0")),
    ("oom_score_adj", Some("0")),
    ("stop.signal", Some("SIGTERM")),
    ("stop.timeout", Some("30s")),
    ("stop.kill_mode", Some("mixed")),
    ("restart.policy", Some("on-failure")),
    ("restart.max_retries", Some("3")),
    ("restart.retry_delay", Some("5s")),
    ("restart.backoff_rate", Some("1.5")),
    ("restart.max_delay", Some("5m")),
    ("restart.jitter", Some("0.1")),
    ("restart.reset_after", Some("10m")),
    ("restart.cooldown", Some("5m")),
    ("restart.startup_grace_period", Some("0")),
    ("restart.success_exit_codes", Some("[0]")),
    ("restart.on_open", Some("hold")),
    ("limits.memory.max_rss", None),
    ("limits.memory.high", None),
    ("limits.memory.swap_max", None),
    ("limits.memory.oom_scope", Some("worker")),
    ("limits.memory.policy", Some("log")),
    ("limits.memory.high_policy", Some("log")),
    ("limits.memory.throttle_deadline", Some("30s")),
    ("limits.cpu.max_percent", None),
    ("limits.cpu.weight", None),
    ("limits.cpu.burst", None),
    ("limits.cpu.max_time", None),
    ("limits.cpu.sustained", Some("10s")),
    ("limits.cpu.throttled_ratio", Some("0.5")),
    ("limits.cpu.policy", Some("log")),
    ("limits.pids.max", None),
    ("limits.pids.policy", Some("log")),
    ("limits.process.max_file_descriptors", None),
    ("limits.process.max_core_size", None),
    ("limits.process.max_locked_memory", None),
    ("limits.monitoring.enabled", Some("true")),
    ("limits.monitoring.interval", Some("off")),
    ("limits.monitoring.history_retention", Some("24h")),
    ("limits.monitoring.alerting_enabled", Some("true")),
    ("limits.monitoring.violation_handling", Some("external")),
    ("logs.max_size", Some("10MiB")),
    ("logs.max_files", Some("5")),
    ("logs.rate_limit", Some("none")),
    ("logs.overflow", Some("block")),
];

/// What is written in `files`, which are valid, about the worker that is declared as `worker`, by key: those of its `unit` as
/// they are below that, variables of its environment as `env.NAME`. `env` looks up the variables of `${NAME}`.
#[must_use]
pub fn written(files: &[Source], worker: &str, env: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, Written> {
    written_with(files, None, worker, env)
}

/// The same of a worker that is declared by `registered` and by no file, where there is that.
#[must_use]
pub fn written_with(
    files: &[Source],
    registered: Option<&Source>,
    worker: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<String, Written> {
    let all: Vec<Source> = files.iter().chain(registered).cloned().collect();
    let mut report = Report::new(&all);
    let mut roots = Vec::new();
    for (index, source) in all.iter().enumerate() {
        roots.extend(text(source, index, &mut report).and_then(|text| tree::parse(text, index, &mut report)));
    }
    let own = if registered.is_some() && roots.len() == all.len() { roots.pop() } else { None };
    let mut found = All { files: &all, found: BTreeMap::new() };
    for (key, layer) in [("env", Layer::Global), ("defaults", Layer::Defaults)] {
        // The later file is the upper one.
        for entry in roots.iter().filter_map(|root| value_of(root, key)) {
            found.take(if layer == Layer::Global { "env" } else { "" }, entry, layer);
        }
    }
    let id = |node: &Node| match value_of(node, "id").map(|id| &id.value) {
        Some(Value::Scalar { text, .. }) => expand(text, env, MAX_EXPANDED).ok().map(std::borrow::Cow::into_owned),
        _ => None,
    };
    let declared = roots.iter().filter_map(|root| match &value_of(root, "workers")?.value {
        Value::List(workers) => workers.iter().find(|node| id(node).as_deref() == Some(worker)),
        _ => None,
    });
    let layer = if own.is_some() { Layer::Registered } else { Layer::Worker };
    for node in declared.filter(|_| own.is_none()).chain(&own) {
        for entry in entries(node).iter().filter(|entry| entry.key != "id") {
            let key = if entry.key == "unit" { "" } else { &entry.key };
            found.take(key, &entry.value, layer);
        }
    }
    found.found
}

/// Whether a setting, by its key in [`written()`], may be a secret: a value of the environment, or what a probe shows to be let
/// in. A command line is none: whoever is on the host can read it.
#[must_use]
pub fn may_be_secret(key: &str, text: &str) -> bool {
    key.starts_with("env.")
        || key.contains(".http_headers[") && !key.ends_with("].name")
        || key.ends_with(".http_get.path") && text.contains('?')
}

fn entries(node: &Node) -> &[Entry] {
    if let Value::Map(entries) = &node.value { entries } else { &[] }
}

fn value_of<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    entries(node).iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}

struct All<'f> {
    files: &'f [Source],
    found: BTreeMap<String, Written>,
}

impl All<'_> {
    /// Everything below `node`, over what was found before.
    fn take(&mut self, key: &str, node: &Node, layer: Layer) {
        match &node.value {
            Value::Scalar { text, .. } => self.put(key, text.clone(), node.mark, layer),
            Value::Map(entries) => {
                for entry in entries {
                    let below = if key.is_empty() { entry.key.clone() } else { format!("{key}.{}", entry.key) };
                    self.take(canonical(&below), &entry.value, layer);
                }
            }
            Value::List(items) if key == "env" => {
                for item in items {
                    if let Value::Scalar { text, .. } = &item.value {
                        let (name, value) = text.split_once('=').unwrap_or((text, ""));
                        self.put(&format!("env.{name}"), value.to_owned(), item.mark, layer);
                    }
                }
            }
            Value::List(items) => {
                // It replaces another as a whole.
                let item = format!("{key}[");
                self.found.retain(|known, _| !known.starts_with(&item));
                let words = items.iter().map(|item| match &item.value {
                    Value::Scalar { text, quoted } => Some((text.as_str(), *quoted)),
                    _ => None,
                });
                match words.collect::<Option<Vec<_>>>() {
                    Some(words) => self.put(key, list(&words), node.mark, layer),
                    None => items.iter().enumerate().for_each(|(n, at)| self.take(&format!("{key}[{n}]"), at, layer)),
                }
            }
            Value::Unusable => {}
        }
    }

    fn put(&mut self, key: &str, text: String, at: Mark, layer: Layer) {
        let Some(source) = self.files.get(at.file) else { return };
        let before = source.bytes.iter().take(at.byte);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        self.found.insert(key.to_owned(), Written { text, layer, file: source.name.clone(), line });
    }
}

/// The first of two spellings of one key.
fn canonical(key: &str) -> &str {
    if key == "limits.memory.warning_threshold" { "limits.memory.high" } else { key }
}

/// Numbers bare, where they are not in quotes already; all else in quotes.
fn list(words: &[(&str, bool)]) -> String {
    let word = |(word, quoted): &(&str, bool)| match word.parse::<u64>() {
        Ok(number) if !quoted => number.to_string(),
        _ => serde_json::Value::from(*word).to_string(),
    };
    format!("[{}]", words.iter().map(word).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::load;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.into(), bytes: text.as_bytes().to_vec() }
    }

    fn of<'w>(written: &'w BTreeMap<String, Written>, key: &str) -> (&'w str, Layer, String) {
        let found = written.get(key).unwrap_or_else(|| panic!("{key}: {written:?}"));
        (&found.text, found.layer, format!("{}:{}", found.file, found.line))
    }

    const MAIN: &str = r#"env: {LANG: C, PORT: "1"}
defaults:
  stop: {timeout: 3s, signal: INT}
  limits:
    io: [{path: /data, wbps: 1MB}]
    memory: {warning_threshold: 80%}
workers:
  - id: other
    unit: {command: [a]}
  - id: web-${N}
    instances: 2
    unit:
      command: [/bin/web, --key, "${KEY}", "1", 2]
      env: [PORT=8080, "TOKEN=${KEY}"]
      env_file: /etc/web.env
      limits:
        memory: {max_rss: 256MB}
        io:
          - path: /srv
            rbps: 20MB
"#;

    #[test]
    fn each_setting_has_its_place_and_the_upper_layer_wins() {
        let files = [source("a.yaml", MAIN), source("b.yaml", "# later\ndefaults: {stop: {timeout: 4s}}\n")];
        let env = |name: &str| Some(if name == "N" { "1".to_owned() } else { "hunter2".to_owned() });
        load(&files, &env).unwrap();
        let written = written(&files, "web-1", &env);
        assert_eq!(of(&written, "stop.timeout"), ("4s", Layer::Defaults, "b.yaml:2".into()));
        assert_eq!(of(&written, "stop.signal"), ("INT", Layer::Defaults, "a.yaml:3".into()));
        assert_eq!(of(&written, "limits.memory.high"), ("80%", Layer::Defaults, "a.yaml:6".into()));
        assert_eq!(of(&written, "limits.memory.max_rss"), ("256MB", Layer::Worker, "a.yaml:17".into()));
        assert_eq!(of(&written, "instances"), ("2", Layer::Worker, "a.yaml:11".into()));
        assert_eq!(of(&written, "env.LANG"), ("C", Layer::Global, "a.yaml:1".into()));
        assert_eq!(of(&written, "env.PORT"), ("8080", Layer::Worker, "a.yaml:14".into()));
        assert_eq!(of(&written, "env_file").0, "/etc/web.env");
        let io: Vec<&str> = written.keys().filter(|key| key.starts_with("limits.io")).map(String::as_str).collect();
        assert_eq!(io, ["limits.io[0].path", "limits.io[0].rbps"], "a list replaces that of the defaults");
        assert_eq!(of(&written, "command").0, r#"["/bin/web", "--key", "${KEY}", "1", 2]"#);
        assert!(!format!("{written:?}").contains("hunter2"), "nothing of the supervisor's environment");
    }

    #[test]
    fn what_holds_where_nothing_is_written_is_what_the_loader_fills_in() {
        let bare = "workers:\n  - id: a\n    unit: {command: [x]}\n";
        let mut worker = serde_json::json!({"id": "a"});
        let mut unit = serde_json::json!({"command": ["x"]});
        for (key, value) in SETTINGS {
            let Some(value) = value else { continue };
            let at_top = ["enabled", "profile_type"].contains(key);
            let mut node = if at_top { &mut worker } else { &mut unit };
            for part in key.split('.') {
                node = node.as_object_mut().unwrap().entry(part).or_insert_with(|| serde_json::json!({}));
            }
            *node =
                if *key == "umask" { (*value).into() } else { serde_json::from_str(value).unwrap_or((*value).into()) };
        }
        worker["unit"] = unit;
        let full = serde_json::json!({"workers": [worker]}).to_string();
        let read = |text: &str| load(&[source("f", text)], &|_| None).unwrap_or_else(|e| panic!("{e}")).workers;
        assert_eq!(read(&full), read(bare));
    }

    #[test]
    fn every_single_setting_of_the_schema_is_known() {
        let schema: serde_json::Value = serde_json::from_str(&crate::spec::schema::json()).unwrap();
        let mut keys = Vec::new();
        for (record, below) in [("Worker", ""), ("Unit", "")] {
            leaves(&schema, &schema["definitions"][record], below, &mut keys);
        }
        // What has parts that are only there where somebody writes them.
        let open = [
            "id",
            "unit",
            "env",
            "health_check",
            "limits.io",
            "limits.pressure",
            "restart.health_failures",
            "restart.resource_violations",
            "restart.severity_multipliers",
            "restart.profile_multipliers",
        ];
        let known = |key: &str| SETTINGS.iter().any(|(name, _)| *name == key);
        let missing: Vec<&String> = keys
            .iter()
            .filter(|key| {
                !known(canonical(key))
                    && !open.iter().any(|open| {
                        key.split(['.', '[']).collect::<Vec<_>>().starts_with(&open.split('.').collect::<Vec<_>>())
                    })
            })
            .collect();
        assert!(keys.len() > 50 && missing.is_empty(), "{missing:?} of {keys:?}");
    }

    /// The keys below a record of the schema that are no records themselves.
    fn leaves(schema: &serde_json::Value, record: &serde_json::Value, below: &str, keys: &mut Vec<String>) {
        for (key, value) in record["properties"].as_object().unwrap() {
            let key = if below.is_empty() { key.clone() } else { format!("{below}.{key}") };
            let name = value["allOf"][0]["$ref"].as_str().and_then(|name| name.strip_prefix("#/definitions/"));
            match name.map(|name| &schema["definitions"][name]).filter(|inner| inner["properties"].is_object()) {
                Some(inner) if key != "unit" => leaves(schema, inner, &key, keys),
                _ => keys.push(key),
            }
        }
    }
}
