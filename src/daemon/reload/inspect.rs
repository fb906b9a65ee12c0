//! Every setting of one worker: what is written where, what was set since, and what the kernel says.

use std::collections::BTreeMap;

use crate::api::wire::{Code, Inspection, Problem, Provenance, Setting};
use crate::kernel::host::InForce;
use crate::manager::diff::Origin;
use crate::model::{RunId, State, chain};
use crate::spec::written::{self, Layer, SETTINGS, Written};

use super::{Inner, applied};

/// Where the kernel has its word on a setting.
const READ_FROM: [(&str, &str); 17] = [
    ("working_directory", "cwd"),
    ("user", "uid"),
    ("group", "gid"),
    ("umask", "umask"),
    ("nice", "nice"),
    ("oom_score_adj", "oom_score_adj"),
    ("limits.memory.max_rss", "memory.max"),
    ("limits.memory.high", "memory.high"),
    ("limits.memory.swap_max", "memory.swap.max"),
    ("limits.memory.oom_scope", "memory.oom.group"),
    ("limits.cpu.max_percent", "cpu.max"),
    ("limits.cpu.burst", "cpu.max.burst"),
    ("limits.cpu.weight", "cpu.weight"),
    ("limits.pids.max", "pids.max"),
    ("limits.process.max_file_descriptors", "Max open files"),
    ("limits.process.max_core_size", "Max core file size"),
    ("limits.process.max_locked_memory", "Max locked memory"),
];

/// What is known of a worker's settings beside the kernel's word.
#[derive(Debug, Default)]
struct Known {
    written: BTreeMap<String, Written>,
    /// By key below `unit.limits`.
    to_last: BTreeMap<String, String>,
    for_run: BTreeMap<String, String>,
    /// For how long those were set, where not until the run's end.
    within: Option<String>,
    /// Whether what may be a secret is for whoever asks.
    shows_secrets: bool,
}

impl Inner {
    pub(super) async fn inspect(&self, name: &str, shows_secrets: bool) -> Result<Inspection, Problem> {
        let member = self.manager.find(name);
        let member = member.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no worker {name:?}")))?;
        let status = member.worker.status();
        let (to_last, passing) = {
            let known = self.known();
            let to_last = known.overrides.get(member.id()).cloned().unwrap_or_default();
            let passing = known.passing.get(member.id()).filter(|passing| passing.run == status.run);
            (to_last, passing.map(|passing| (passing.set.clone(), passing.within)))
        };
        let (for_run, within) = passing.unwrap_or_default();
        let within = within.map(|within| humantime::format_duration(within).to_string());
        let run = (status.state != State::Stopped).then(|| RunId::new(status.id.clone(), status.run));
        let (state, kernel, declared_as) = (self.state.clone(), self.kernel.clone(), member.declared_as.clone());
        let registered = self.registration(&declared_as).filter(|_| member.origin == Origin::Registered);
        let read = tokio::task::spawn_blocking(move || {
            let sources = applied::load(&state)?.sources;
            let own = registered.map(|registration| registration.source());
            let env = |name: &str| std::env::var(name).ok();
            let written = written::written_with(&sources, own.as_ref(), declared_as.as_str(), &env);
            let in_force = run.map(|run| kernel.in_force(&run, status.pid)).unwrap_or_default();
            Ok::<_, applied::Unreadable>((written, in_force))
        });
        let failed = |why: String| Problem::new(Code::Failed, format!("where it is configured cannot be read: {why}"));
        let read = read.await.map_err(|gone| failed(gone.to_string()))?;
        let (written, in_force) = read.map_err(|error| failed(chain(&error)))?;
        let settings = settings(Known { written, to_last, for_run, within, shows_secrets }, &in_force);
        Ok(Inspection {
            id: member.id().clone(),
            declared_as: member.declared_as.clone(),
            origin: member.origin,
            state: status.state,
            run: status.run,
            pid: status.pid,
            cgroup: in_force.cgroup.map(|path| path.to_string_lossy().into_owned()),
            settings,
        })
    }
}

fn settings(mut known: Known, in_force: &InForce) -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    for (name, default) in SETTINGS {
        let written = known.written.remove(*name);
        all.push(setting(name, written, *default, &known, in_force));
        if *name == "env_file" {
            let of_env = |key: &String| key.starts_with("env.");
            let names: Vec<String> = known.written.keys().filter(|key| of_env(key)).cloned().collect();
            for name in names {
                let written = known.written.remove(&name);
                all.push(setting(&name, written, None, &known, in_force));
            }
        }
    }
    // What is there only where somebody has written it.
    let rest = std::mem::take(&mut known.written);
    let mut io = false;
    for (name, written) in rest {
        let first_of_io = !io && name.starts_with("limits.io");
        io |= first_of_io;
        let mut setting = setting(&name, Some(written), None, &known, in_force);
        if first_of_io {
            (setting.effective, setting.read_from) = read(in_force, "io.max");
        }
        all.push(setting);
    }
    all
}

fn setting(name: &str, written: Option<Written>, default: Option<&str>, known: &Known, in_force: &InForce) -> Setting {
    let key = name.strip_prefix("limits.").unwrap_or_default();
    let set = |set: &BTreeMap<String, String>| set.get(key).cloned();
    let (requested, source) = if let Some(value) = set(&known.for_run) {
        (Some(value), Provenance::SetForRun { for_: known.within.clone() })
    } else if let Some(value) = set(&known.to_last) {
        (Some(value), Provenance::SetToLast)
    } else if let Some(Written { text, layer, file, line }) = written {
        let source = match layer {
            Layer::Global => Provenance::Global { file, line },
            Layer::Defaults => Provenance::Defaults { file, line },
            Layer::Worker => Provenance::Worker { file, line },
            Layer::Registered => Provenance::Registered,
        };
        (Some(text), source)
    } else {
        (default.map(str::to_owned), Provenance::Default)
    };
    let withheld = !known.shows_secrets && requested.as_ref().is_some_and(|text| written::may_be_secret(name, text));
    let requested = requested.filter(|_| !withheld);
    let word = READ_FROM.iter().find(|(setting, _)| *setting == name).map(|(_, word)| *word);
    let (effective, read_from) = word.map(|word| read(in_force, word)).unwrap_or_default();
    Setting { name: name.to_owned(), requested, withheld, effective, read_from, source }
}

/// What the kernel says, and where.
fn read(in_force: &InForce, word: &str) -> (Option<String>, Option<String>) {
    let value = in_force.values.iter().find(|(known, _)| *known == word).map(|(_, value)| value.clone());
    let read_from = value.is_some().then(|| word.to_owned());
    (value, read_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, layer: Layer) -> Written {
        Written { text: text.into(), layer, file: "a.yaml".into(), line: 7 }
    }

    fn known() -> Known {
        let set = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let all = [
            ("command", written("[\"x\"]", Layer::Worker)),
            ("stop.timeout", written("3s", Layer::Defaults)),
            ("env.TOKEN", written("hunter2", Layer::Worker)),
            ("env.LANG", written("C", Layer::Global)),
            ("health_check.liveness.http_get.path", written("/healthz?key=hunter2", Layer::Worker)),
            ("health_check.readiness.http_get.path", written("/ready", Layer::Worker)),
            ("health_check.liveness.http_get.http_headers[0].name", written("Authorization", Layer::Worker)),
            ("health_check.liveness.http_get.http_headers[0].value", written("Bearer hunter2", Layer::Defaults)),
            ("limits.memory.max_rss", written("256MB", Layer::Worker)),
            ("limits.pids.max", written("64", Layer::Worker)),
            ("limits.io[0].path", written("/data", Layer::Worker)),
            ("limits.io[0].wbps", written("1MB", Layer::Worker)),
        ];
        Known {
            written: all.into_iter().map(|(key, written)| (key.to_owned(), written)).collect(),
            to_last: set("pids.max", "9"),
            for_run: set("memory.max_rss", "1G"),
            within: Some("10m".into()),
            shows_secrets: false,
        }
    }

    fn of<'s>(settings: &'s [Setting], name: &str) -> &'s Setting {
        settings.iter().find(|setting| setting.name == name).unwrap_or_else(|| panic!("{name}: {settings:?}"))
    }

    #[test]
    fn what_was_set_is_over_what_is_written_and_that_over_the_default() {
        let values = vec![("memory.max", "1073741824".to_owned()), ("io.max", "8:0 wbps=1000000".to_owned())];
        let all = settings(known(), &InForce { cgroup: None, values });
        let memory = of(&all, "limits.memory.max_rss");
        assert_eq!((memory.requested.as_deref(), memory.effective.as_deref()), (Some("1G"), Some("1073741824")));
        assert_eq!(memory.read_from.as_deref(), Some("memory.max"));
        assert_eq!(memory.source, Provenance::SetForRun { for_: Some("10m".into()) });
        let pids = of(&all, "limits.pids.max");
        assert_eq!((pids.requested.as_deref(), &pids.source), (Some("9"), &Provenance::SetToLast));
        assert_eq!((&pids.effective, &pids.read_from), (&None, &None), "what cannot be read is absent");
        let timeout = of(&all, "stop.timeout");
        assert_eq!(timeout.source, Provenance::Defaults { file: "a.yaml".into(), line: 7 });
        let mode = of(&all, "stop.kill_mode");
        assert_eq!((mode.requested.as_deref(), &mode.source), (Some("mixed"), &Provenance::Default));
        assert_eq!(of(&all, "limits.io[0].path").effective.as_deref(), Some("8:0 wbps=1000000"));
        assert_eq!(of(&all, "limits.io[0].wbps").effective, None, "once is enough");
    }

    #[test]
    fn what_may_be_a_secret_is_not_for_everybody() {
        let secrets = [
            ("env.TOKEN", "hunter2"),
            ("health_check.liveness.http_get.path", "/healthz?key=hunter2"),
            ("health_check.liveness.http_get.http_headers[0].value", "Bearer hunter2"),
        ];
        let all = settings(known(), &InForce::default());
        for (name, _) in secrets {
            let setting = of(&all, name);
            assert_eq!((&setting.requested, setting.withheld), (&None, true), "{name}");
        }
        assert!(!format!("{all:?}").contains("hunter2"), "{all:?}");
        let shown = |name: &str| (of(&all, name).requested.as_deref(), of(&all, name).withheld);
        assert_eq!(shown("health_check.liveness.http_get.http_headers[0].name"), (Some("Authorization"), false));
        assert_eq!(shown("health_check.readiness.http_get.path"), (Some("/ready"), false));
        let all = settings(Known { shows_secrets: true, ..known() }, &InForce::default());
        for (name, value) in secrets {
            let setting = of(&all, name);
            assert_eq!((setting.requested.as_deref(), setting.withheld), (Some(value), false), "{name}");
        }
        assert_eq!(of(&all, "env.LANG").source, Provenance::Global { file: "a.yaml".into(), line: 7 });
    }
}
