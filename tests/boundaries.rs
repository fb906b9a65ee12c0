//! Holds the modules to the table of ARCHITECTURE.md: who may use whom. Data flows one way; when this test fails,
//! either the import is wrong or the table is, and then both change together, with a reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One row: the files it speaks of (a path prefix under `src/`, the longest wins), the paths of this crate they may
/// use, and the crates they must not.
struct Row {
    files: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const ASYNC: &[&str] = &["tokio", "futures_channel", "futures_util", "inotify"];
const PURE: &[&str] = &[
    "tokio",
    "futures_channel",
    "futures_util",
    "inotify",
    "nix",
    "rustix",
    "libc",
    "cgroups_rs",
    "tracing",
    "fastrand",
    "jiff",
];

const TABLE: &[Row] = &[
    Row { files: "model", may_use: &["model"], never: ASYNC },
    Row { files: "clock.rs", may_use: &["model"], never: &[] },
    Row { files: "policy", may_use: &["model", "policy"], never: PURE },
    Row { files: "spec", may_use: &["model", "policy::restart", "policy::dispatch", "spec"], never: ASYNC },
    Row {
        files: "kernel",
        may_use: &["model", "spec::types", "kernel", "clock"],
        never: &["cgroups_rs::fs::cgroup_builder"],
    },
    // A run's record remembers what the breaker had counted.
    Row { files: "kernel/port.rs", may_use: &["model", "spec::types", "policy::breaker", "kernel"], never: &[] },
    // The driver joins cgroups, watches and the keeper into the `Kernel` that workers use.
    Row { files: "kernel/host", may_use: &["model", "spec::types", "kernel", "clock", "keeper"], never: &[] },
    Row {
        files: "keeper",
        may_use: &["model", "kernel::launch", "kernel::pidfd", "kernel::inherit", "keeper", "clock"],
        never: ASYNC,
    },
    Row {
        files: "keeper/client.rs",
        may_use: &["model", "kernel::launch", "kernel::pidfd", "keeper", "clock"],
        never: &[],
    },
    Row {
        files: "logger",
        may_use: &["model", "keeper::protocol", "keeper::transport", "keeper::role", "logs::index", "clock", "logger"],
        never: ASYNC,
    },
    Row { files: "logger/bucket.rs", may_use: &["model"], never: PURE },
    Row { files: "logger/quota.rs", may_use: &["model"], never: PURE },
    // Counted by whoever does something, told by whoever is asked: neither knows the other.
    Row { files: "metrics", may_use: &["model", "spec::types", "history", "store", "metrics"], never: PURE },
    Row { files: "metrics/latency.rs", may_use: &[], never: PURE },
    Row { files: "metrics/tally.rs", may_use: &["model", "metrics::latency"], never: PURE },
    Row { files: "worker", may_use: &["model", "policy", "spec::types", "worker"], never: PURE },
    Row {
        files: "worker/actor.rs",
        may_use: &[
            "model",
            "policy",
            "spec::types",
            "worker",
            "kernel::port",
            "kernel::news",
            "store",
            "clock",
            "metrics::latency",
        ],
        never: &["nix", "rustix"],
    },
    // Beside the actor: what it begins with.
    Row {
        files: "worker/charge.rs",
        may_use: &["model", "spec::types", "worker", "kernel::port", "store", "clock"],
        never: &["nix", "rustix"],
    },
    // Beside the actor: what it hands to the store, and what it waits for.
    Row {
        files: "worker/keeping.rs",
        may_use: &["model", "policy", "spec::types", "worker", "kernel::port", "store"],
        never: &["nix", "rustix"],
    },
    Row {
        files: "worker/handle.rs",
        may_use: &["model", "policy", "spec::types", "worker", "kernel::port", "kernel::news", "clock"],
        never: &["nix", "rustix"],
    },
    Row {
        files: "limit_manager",
        may_use: &["model", "policy", "spec::types", "kernel", "clock", "worker::rules", "limit_manager"],
        never: &["nix", "inotify"],
    },
    Row { files: "limit_manager/judge.rs", may_use: &["model", "policy", "spec::types", "worker::rules"], never: PURE },
    Row { files: "limit_manager/history.rs", may_use: &["model", "policy"], never: PURE },
    Row {
        files: "testing",
        may_use: &[
            "model",
            "policy",
            "spec::types",
            "worker",
            "kernel::port",
            "kernel::news",
            "store",
            "clock",
            "testing",
        ],
        never: &["nix", "rustix"],
    },
    // A sink's delays are a worker's, with other numbers.
    Row {
        files: "history",
        may_use: &["model", "spec::types", "policy::backoff", "clock", "history"],
        never: &["inotify", "cgroups_rs", "axum"],
    },
    Row {
        files: "manager",
        may_use: &["model", "spec::types", "worker::handle", "manager", "clock"],
        never: &["nix", "rustix", "libc", "axum", "hyper"],
    },
    // It makes workers: their actors, on what those share.
    Row {
        files: "manager/nursery.rs",
        may_use: &["model", "spec::types", "worker::handle", "worker::actor", "worker::gone", "store", "manager"],
        never: &["nix", "rustix", "libc", "axum", "hyper"],
    },
    // The store and the sinks of whoever uses the library.
    Row {
        files: "manager/keep.rs",
        may_use: &[
            "model",
            "kernel::port",
            "kernel::place::record",
            "worker::actor",
            "worker::rules",
            "store",
            "history",
            "manager",
            "clock",
        ],
        never: &["nix", "rustix", "libc", "axum", "hyper"],
    },
    Row { files: "manager/diff.rs", may_use: &["model", "spec::types"], never: PURE },
    Row {
        files: "manager/pattern.rs",
        may_use: &["model"],
        never: &["tokio", "futures_util", "nix", "rustix", "libc", "tracing", "jiff"],
    },
    // The config's spelling of a signal and of a time is the API's too.
    Row {
        files: "api",
        may_use: &[
            "model",
            "manager",
            "history",
            "spec::types",
            "spec::signal",
            "spec::time",
            "store",
            "clock",
            "logs",
            "metrics",
            "api",
        ],
        never: &["cgroups_rs", "procfs"],
    },
    Row { files: "api/keys.rs", may_use: &["model"], never: PURE },
    Row {
        files: "api/wire",
        may_use: &["model", "manager::handle", "manager::diff", "history::SinkHealth", "spec::types", "store"],
        never: &["tokio", "nix", "rustix"],
    },
    Row {
        files: "cli",
        may_use: &["model", "spec", "kernel", "policy", "cli", "clock", "api::wire", "api::tenure"],
        never: &[],
    },
    // It prints a followed worker's output as the supervisor prints what is not followed.
    Row { files: "cli/logs.rs", may_use: &["model", "cli", "api::wire", "logs"], never: &[] },
    Row {
        files: "daemon",
        may_use: &[
            "model", "spec", "kernel", "keeper", "logger", "logs", "health", "history", "worker", "manager", "api",
            "policy", "store", "cli", "clock", "metrics", "daemon",
        ],
        never: &[],
    },
    Row {
        files: "health",
        may_use: &["model", "spec::types", "health", "clock"],
        never: &["nix", "rustix", "inotify", "cgroups_rs"],
    },
    Row { files: "health/monitor.rs", may_use: &["model", "spec::types", "health"], never: PURE },
    Row {
        files: "health/probe",
        may_use: &["model", "spec::types", "health", "kernel::auxiliary"],
        never: &["nix", "rustix", "inotify", "cgroups_rs"],
    },
    Row {
        files: "health/probe/exec.rs",
        may_use: &["model", "spec::types", "health", "kernel::auxiliary", "kernel::launch::plan"],
        never: &["nix", "rustix", "inotify", "cgroups_rs"],
    },
    // What waits to be written is folded, looked up and opened without a runtime; the handle alone is for tasks.
    Row {
        files: "store",
        may_use: &["model", "spec::types", "policy::breaker", "store"],
        never: &["tokio", "futures_util", "inotify", "libc", "cgroups_rs"],
    },
    Row {
        files: "store/handle.rs",
        may_use: &["model", "spec::types", "policy::breaker", "store"],
        never: &["inotify", "nix", "rustix", "libc", "cgroups_rs"],
    },
    Row {
        files: "store/writer.rs",
        may_use: &["model", "spec::types", "policy::breaker", "store", "clock"],
        never: &["tokio", "inotify", "nix", "rustix", "libc", "cgroups_rs"],
    },
    Row { files: "logs", may_use: &["model", "spec::types", "logs"], never: &["tokio"] },
    Row { files: "lib.rs", may_use: &[], never: ASYNC },
    Row { files: "main.rs", may_use: &[], never: ASYNC },
];

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.to_str().unwrap().ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The part of a file that ships: tests stand last, behind `#[cfg(test)]`. Comments name neighbours freely.
fn shipped(text: &str) -> String {
    let behind = |(at, attribute): &(usize, &str)| text[at + attribute.len()..].lines().next().unwrap_or_default();
    // Some are seen by other tests.
    let tests = text.match_indices("\n#[cfg(test)]\n").find(|found| behind(found).ends_with("mod tests {"));
    let text = &text[..tests.map_or(text.len(), |(at, _)| at)];
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `root::`, with its `{…}` groups opened.
fn paths_after(root: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(&format!("{root}::")) {
        let before = text[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
            open("", &text[at + root.len() + 2..], &mut found);
        }
    }
    found
}

/// Reads one path of `text` behind `prefix` into `found`, and returns how much of `text` that took.
fn open(prefix: &str, text: &str, found: &mut BTreeSet<String>) -> usize {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
    let mut taken = word.len();
    if !text[taken..].starts_with('{') {
        found.insert(format!("{prefix}{}", word.trim_end_matches(':')));
        return taken;
    }
    taken += 1;
    loop {
        taken += text[taken..].len() - text[taken..].trim_start_matches([' ', '\n', ',']).len();
        if taken >= text.len() || text[taken..].starts_with('}') {
            return taken + 1;
        }
        let read = open(&format!("{prefix}{word}"), &text[taken..], found);
        // What no path starts with (`*`, `as x`) is passed over.
        taken += read.max(1);
    }
}

fn allowed(path: &str, may_use: &[&str]) -> bool {
    may_use.iter().any(|a| path == *a || path.starts_with(&format!("{a}::")))
}

fn row_of(file: &str) -> Option<&'static Row> {
    TABLE
        .iter()
        .filter(|r| {
            file.strip_prefix(r.files)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('.'))
        })
        .max_by_key(|r| r.files.len())
}

#[test]
fn every_module_uses_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let Some(row) = row_of(&name) else {
            wrong.push(format!("{name}: no row of the table speaks of it"));
            continue;
        };
        let text = shipped(&fs::read_to_string(&file).unwrap());
        for path in paths_after("crate", &text) {
            if name != "lib.rs" && name != "main.rs" && !allowed(&path, row.may_use) {
                wrong.push(format!("{name}: uses crate::{path}; it may use {:?}", row.may_use));
            }
        }
        for banned in row.never {
            if text.contains(&format!("{banned}::")) {
                wrong.push(format!("{name}: uses {banned}"));
            }
        }
        if text.contains("unsafe ") && !name.starts_with("kernel/") {
            wrong.push(format!("{name}: unsafe stands in kernel/ only"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_groups_and_plain_paths() {
    let text = "use crate::{model::{A, id::B}, policy::x};\nlet a = crate::kernel::port::Kernel;\nmy_crate::nothing";
    let found: Vec<_> = paths_after("crate", text).into_iter().collect();
    assert_eq!(found, ["kernel::port::Kernel", "model::A", "model::id::B", "policy::x"]);
    assert!(!allowed("worker::state", &["worker::handle"]));
    assert!(!allowed("spec", &["spec::types"]));
    assert!(allowed("spec::types::Spec", &["spec::types"]));
}
