//! Workers that were registered over the API, in the state directory beside the configuration in force: no file declares them.
//!
//! What is written here is what there is. One that is to be supervised stands here before it is made, and one that is to go is
//! marked as such before it is stopped: whoever follows a supervisor that was killed in between makes it, or finishes it off.

use std::{collections::HashSet, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::model::{WorkerId, chain};
use crate::spec::types::{Config, Worker};
use crate::spec::{Problem, Problems, Registered, Source};

use super::applied::{self, Scaled, Unreadable};

const FILE: &str = "registered.json";

/// What is to be done where the file is damaged. What has stood in it lives nowhere else.
const FIX: &str = "mend or remove it, and register what is to be there once more";

/// One declaration, of a worker or of several instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    /// The id it was declared under.
    pub(super) id: WorkerId,
    /// As it was declared: a JSON object, which is YAML, too.
    pub(super) declaration: String,
    /// How many instances it was scaled to since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scaled: Option<usize>,
    /// It is stopped, and then no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaving: bool,
}

impl Registration {
    /// For the loader. Its name is what messages call it.
    pub(super) fn source(&self) -> Source {
        Source { name: format!("registered worker {}", self.id), bytes: self.declaration.clone().into_bytes() }
    }
}

/// Keeps them, in the order in which they came: whole, or as they were before.
///
/// # Errors
/// Where they cannot be written.
pub(super) fn store(state: &Path, registrations: &[Registration]) -> io::Result<()> {
    applied::write(state, FILE, &registrations)
}

/// Reads what [`store`] kept.
///
/// # Errors
/// [`Unreadable`], but for a file that is not there.
pub(super) fn load(state: &Path) -> Result<Vec<Registration>, Unreadable> {
    match applied::read(state, FILE, FIX) {
        Err(Unreadable::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Sets aside what is damaged, for a supervisor that goes on all the same; what it tells of it.
pub(super) fn set_aside(state: &Path, damaged: &Unreadable) -> String {
    let aside = applied::set_aside(state, FILE);
    format!(
        "{}{aside}; what was registered over the API is not supervised any more. While that file is there, what lives and is \
         declared nowhere is left alone: mended and put back it holds again from `pinfold reexec` on; without it, such runs \
         are stopped by the next supervisor",
        chain(damaged)
    )
}

/// Whether something was set aside, and nobody has mended or removed it since.
pub(super) fn are_lost(state: &Path) -> bool {
    // Where that cannot be told, nobody is ended over it.
    state.join(format!("{FILE}.corrupt")).try_exists().unwrap_or(true)
}

/// Registrations beside a configuration.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// Those that go on.
    pub(super) kept: Vec<Registration>,
    /// Those whose names the configuration has taken over.
    pub(super) gave_way: Vec<WorkerId>,
    /// Those that are kept and cannot be supervised, and why.
    pub(super) misfits: Vec<(WorkerId, Misfit)>,
}

/// Why a registration is of no use beside a configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misfit {
    /// A slice that is gone, a default that is too much, a variable that is not set any more.
    #[error("{}", sentences(.0))]
    Wrong(Problems),
    /// An earlier registration has one of its names.
    #[error("there is another worker {name}")]
    Taken {
        /// Which.
        name: WorkerId,
    },
}

/// Puts the workers of `registrations` behind those of `config`; what is `expanded` of each is at the same place. Whatever the
/// configuration declares wins. What is about to leave is not to be started.
pub(super) fn join(config: &mut Config, registrations: Vec<Registration>, expanded: Registered) -> Joined {
    let mut joined = Joined::default();
    let declared: HashSet<WorkerId> = names(&config.workers).cloned().collect();
    let mut taken = declared.clone();
    for (registration, workers) in registrations.into_iter().zip(expanded) {
        let id = registration.id.clone();
        let workers = workers.map(|workers| resized(workers, &registration));
        let known = match &workers {
            Ok(workers) => names(workers).chain([&id]).find(|name| taken.contains(*name)).cloned(),
            Err(_) => Some(id.clone()).filter(|id| taken.contains(id)),
        };
        match (workers, known) {
            (_, Some(name)) if declared.contains(&name) => {
                joined.gave_way.push(id);
                continue;
            }
            (Ok(_), Some(name)) => joined.misfits.push((id, Misfit::Taken { name })),
            (Err(problems), _) => joined.misfits.push((id, Misfit::Wrong(problems))),
            (Ok(workers), None) => {
                taken.extend(names(&workers).cloned());
                config.workers.extend(workers);
            }
        }
        joined.kept.push(registration);
    }
    joined
}

/// Without what is written there, which may hold a secret.
fn sentences(problems: &Problems) -> String {
    let one = |problem: &Problem| format!("{}: {}; {}", problem.path, problem.message, problem.fix);
    problems.0.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What is told of a registration that gave way.
pub(super) fn gave_way(id: &WorkerId) -> String {
    format!("the configuration declares {id}, which was registered over the API: it goes by the configuration now")
}

/// What these and their declarations are called.
fn names(workers: &[Worker]) -> impl Iterator<Item = &WorkerId> {
    workers.iter().flat_map(|worker| [&worker.id, &worker.declared_as])
}

fn resized(workers: Vec<Worker>, registration: &Registration) -> Vec<Worker> {
    let mut config = Config { workers, ..Config::default() };
    let scaled = registration.scaled.map(|count| (registration.id.clone(), count));
    applied::scale(&mut config, &Scaled::from_iter(scaled));
    let enabled = |worker: Worker| Worker { enabled: worker.enabled && !registration.leaving, ..worker };
    config.workers.into_iter().map(enabled).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::spec::load_with;

    fn registration(id: &str, more: &str) -> Registration {
        let declaration = format!(r#"{{"id": "{id}", "unit": {{"command": ["/bin/true"]}}{more}}}"#);
        Registration { id: WorkerId::new(id).unwrap(), declaration, scaled: None, leaving: false }
    }

    fn joined(yaml: &str, registrations: Vec<Registration>) -> (Config, Joined) {
        let files = [Source { name: "a.yaml".into(), bytes: yaml.into() }];
        let sources: Vec<Source> = registrations.iter().map(Registration::source).collect();
        let (mut config, expanded) = load_with(&files, &sources, &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let joined = join(&mut config, registrations, expanded);
        (config, joined)
    }

    fn ids(config: &Config) -> Vec<&str> {
        config.workers.iter().map(|worker| worker.id.as_str()).collect()
    }

    const WEB: &str = "workers: [{id: web, unit: {command: [/bin/web]}}]\n";

    #[test]
    fn what_was_kept_is_read_back_and_nothing_is_none() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), []);
        let leaving = Registration { scaled: Some(3), leaving: true, ..registration("b", "") };
        let all = vec![registration("a", ""), leaving];
        store(state.path(), &all).unwrap();
        assert_eq!(load(state.path()).unwrap(), all);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_told() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "[{").unwrap();
        let told = set_aside(state.path(), &load(state.path()).unwrap_err());
        assert!(told.contains("registered.json is damaged; mend") && told.contains("it is set aside as"), "{told}");
        assert!(state.path().join("registered.json.corrupt").exists() && !state.path().join(FILE).exists());
    }

    #[test]
    fn registered_workers_stand_behind_those_of_the_files_and_go_by_what_these_say_of_all() {
        let yaml = format!("defaults: {{umask: \"0077\"}}\n{WEB}");
        let (config, joined) = joined(&yaml, vec![registration("b", ""), registration("set", r#", "instances": 2"#)]);
        assert_eq!(ids(&config), ["web", "b", "set-1", "set-2"]);
        let registered: Vec<bool> = config.workers.iter().map(|worker| worker.registered).collect();
        assert_eq!(registered, [false, true, true, true]);
        assert_eq!(config.workers[1].spec.umask, 0o077);
        assert_eq!((joined.kept.len(), joined.gave_way.len(), joined.misfits.len()), (2, 0, 0));
    }

    #[test]
    fn the_number_of_instances_is_the_one_that_was_asked_for_last() {
        for (scaled, expected) in [(1, &["set-1"][..]), (3, &["set-1", "set-2", "set-3"])] {
            let set = Registration { scaled: Some(scaled), ..registration("set", r#", "instances": 2"#) };
            assert_eq!(ids(&joined("", vec![set]).0), expected);
        }
    }

    #[test]
    fn what_the_configuration_declares_takes_a_registration_over_by_any_of_its_names() {
        let set = |id: &str| registration(id, r#", "instances": 2"#);
        for (yaml, registration) in [
            (WEB, registration("web", "")),
            (WEB, set("web")),
            ("workers: [{id: web, instances: 2, unit: {command: [x]}}]", registration("web", "")),
            ("workers: [{id: web, instances: 2, unit: {command: [x]}}]", registration("web-2", "")),
            ("workers: [{id: set-2, unit: {command: [x]}}]", set("set")),
            // Of one that is wrong, too: it will never come back.
            (WEB, registration("web", r#", "slice": "none""#)),
        ] {
            let id = registration.id.clone();
            let (config, joined) = joined(yaml, vec![registration, super::tests::registration("other", "")]);
            assert_eq!(joined.gave_way, std::slice::from_ref(&id), "{yaml}");
            assert_eq!(joined.kept.iter().map(|kept| kept.id.as_str()).collect::<Vec<_>>(), ["other"], "{yaml}");
            let registered: Vec<&Worker> = config.workers.iter().filter(|worker| worker.registered).collect();
            assert!(registered.len() == 1 && registered[0].id.as_str() == "other", "{id}");
        }
    }

    #[test]
    fn one_that_does_not_fit_is_kept_and_told_and_is_no_other_ones_affair() {
        let mut wrong = registration("lost", r#", "slice": "none""#);
        wrong.declaration = wrong.declaration.replace("/bin/true", "--password=hunter2");
        let twice = registration("set-1", "");
        let (config, joined) = joined(WEB, vec![wrong, registration("set", r#", "instances": 1"#), twice]);
        assert_eq!(ids(&config), ["web", "set-1"]);
        assert_eq!((joined.kept.len(), joined.gave_way.len()), (3, 0));
        let told: Vec<String> = joined.misfits.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        assert!(told[0].starts_with("lost: ") && told[0].contains("there is no slice"), "{told:?}");
        assert!(told[0].starts_with("lost: slice: ") && !told[0].contains("hunter2"), "{told:?}");
        assert_eq!(told[1], "set-1: there is another worker set-1");
    }

    #[test]
    fn what_is_leaving_is_not_to_be_started() {
        let leaving = Registration { leaving: true, ..registration("a", "") };
        let (config, _) =
            joined("", vec![leaving, registration("off", r#", "enabled": false"#), registration("on", "")]);
        assert_eq!(config.workers.iter().map(|worker| worker.enabled).collect::<Vec<_>>(), [false, false, true]);
    }
}
