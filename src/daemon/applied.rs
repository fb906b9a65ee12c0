//! The configuration that is in force, as text, in the state directory, and where it came from.
//!
//! The supervisor reads it here and not where it came from: one that the keeper restarts must supervise what is
//! running, whatever has happened to the files meanwhile. A reload reads the files again, and writes here before it acts: one
//! that is killed half-way is finished by the next supervisor.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cli::paths::ConfigSource;
use crate::model::{WorkerId, chain};
use crate::spec::types::{Config, Spec, Worker};
use crate::spec::{self, Problems, Registered, Source, overlay};

use super::registered::{self, Joined, Registration, join};

const FILE: &str = "applied.json";
const OVERRIDES: &str = "overrides.json";

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    /// Where it is read again. `None`: an earlier version did not keep that.
    pub(super) from: Option<ConfigSource>,
    /// Its text.
    pub(super) sources: Vec<Source>,
    /// How many instances workers have been scaled to since.
    pub(super) scaled: Scaled,
}

/// Numbers of instances, by the name of whose they are.
pub(super) type Scaled = BTreeMap<WorkerId, usize>;

/// What `sources` say, in our environment, and `registrations` beside it.
///
/// # Errors
/// [`Problems`] of `sources`.
pub(super) fn parse_with(sources: &[Source], registrations: &[Registration]) -> Result<(Config, Registered), Problems> {
    let declared: Vec<Source> = registrations.iter().map(Registration::source).collect();
    spec::load_with(sources, &declared, &|name| std::env::var(name).ok())
}

/// The text of `files`, proved to be good, and what it says. Of root's files nobody else may be the owner.
///
/// # Errors
/// [`Problems`].
pub(super) fn read_files(files: &[PathBuf]) -> Result<(Vec<Source>, Config), Problems> {
    read_files_with(files, &[]).map(|(sources, config, _)| (sources, config))
}

/// The same, and what `registrations` say beside it.
///
/// # Errors
/// [`Problems`] of the files.
pub(super) fn read_files_with(
    files: &[PathBuf],
    registrations: &[Registration],
) -> Result<(Vec<Source>, Config, Registered), Problems> {
    let sources = spec::read_files(files, rustix::process::geteuid().is_root())?;
    let (config, registered) = parse_with(&sources, registrations)?;
    Ok((sources, config, registered))
}

/// Limits that were set to last, by worker and key.
pub(super) type Overrides = BTreeMap<WorkerId, BTreeMap<String, String>>;

#[derive(Serialize, Deserialize)]
struct Text {
    name: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    Whole(Whole),
    /// As it was written before there was a reload.
    Texts(Vec<Text>),
}

#[derive(Serialize, Deserialize)]
struct Whole {
    from: Option<ConfigSource>,
    files: Vec<Text>,
    #[serde(default, skip_serializing_if = "Scaled::is_empty")]
    scaled: Scaled,
}

/// Keeps `applied`, which has been validated, in `state`: whole, or as it was before. Readable by its owner alone, for
/// there can be secrets in an environment.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn store(state: &Path, applied: &Applied) -> io::Result<()> {
    let texts = applied.sources.iter().map(|source| {
        let text = String::from_utf8(source.bytes.clone()).map_err(io::Error::other)?;
        Ok(Text { name: source.name.clone(), text })
    });
    let files = texts.collect::<io::Result<Vec<_>>>()?;
    write(state, FILE, &Whole { from: applied.from.clone(), files, scaled: applied.scaled.clone() })
}

/// Why what was kept is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// Often that it is not there.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Edited, or a disk's fault.
    #[error("{} is damaged; {fix}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is to be done.
        fix: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Unreadable {
    /// Whether it says nothing of what stands there: the next try may succeed.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() != io::ErrorKind::NotFound)
    }
}

/// Reads what [`store`] kept.
///
/// # Errors
/// [`Unreadable`].
pub(super) fn load(state: &Path) -> Result<Applied, Unreadable> {
    let fix = "a reload, or the next `pinfold up`, writes it anew from the configuration's own files";
    let Whole { from, files, scaled } = match read(state, FILE, fix)? {
        Kept::Whole(whole) => whole,
        Kept::Texts(files) => Whole { from: None, files, scaled: Scaled::new() },
    };
    let sources = files.into_iter().map(|t| Source { name: t.name, bytes: t.text.into_bytes() }).collect();
    Ok(Applied { from, sources, scaled })
}

/// Keeps the limits that were set to last, as [`store`] does.
///
/// # Errors
/// Where they cannot be written.
pub(super) fn store_overrides(state: &Path, overrides: &Overrides) -> io::Result<()> {
    write(state, OVERRIDES, overrides)
}

/// The limits that were set to last.
///
/// # Errors
/// [`Unreadable`], but for a file that is not there.
pub(super) fn load_overrides(state: &Path) -> Result<Overrides, Unreadable> {
    let fix = "remove it, and set what is to hold once more (`pinfold set --persist`)";
    match read(state, OVERRIDES, fix) {
        Err(Unreadable::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Overrides::new()),
        other => other,
    }
}

/// All that is to hold.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) from: Option<ConfigSource>,
    /// With as many instances as workers were scaled to, and what was registered over the API.
    pub(super) config: Config,
    pub(super) overrides: Overrides,
    pub(super) registered: Vec<Registration>,
    /// What could not be read and what holds in its place, in sentences.
    pub(super) amiss: Vec<String>,
    /// What has become of registrations, in sentences.
    pub(super) told: Vec<String>,
    /// That there may have been registrations nobody knows of any more: what lives and is declared nowhere may be theirs.
    pub(super) lost: bool,
}

/// Why nobody can tell what is to hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    /// Neither what was kept nor where it came from says it.
    #[error("what was kept of it: {kept}; its own files: {files}")]
    Nothing {
        /// Why that is of no use.
        kept: String,
        /// And that.
        files: String,
    },
    /// The text may be as good as ever: descriptors or memory have run out, or the disk answers no more.
    #[error("everything is left as it is until this can be read")]
    Unread(#[source] Unreadable),
}

/// Reads all of it. What is damaged is set aside, and a supervisor goes on all the same: the configuration is read anew from its own
/// files, `source` where the kept one does not say which, as a reload would. Limits that were set are those of the configuration then.
///
/// # Errors
/// [`Untold`]; everything is left as it is.
pub(super) fn restore(state: &Path, source: Option<&ConfigSource>) -> Result<InForce, Untold> {
    let (mut amiss, mut told) = (Vec::new(), Vec::new());
    let (registrations, unreadable) = match registered::load(state) {
        Ok(registrations) => (registrations, None),
        Err(unread @ Unreadable::Io { .. }) => return Err(Untold::Unread(unread)),
        Err(damaged @ Unreadable::Damaged { .. }) => (Vec::new(), Some(damaged)),
    };
    let parsed = |applied: &Applied| parse_with(&applied.sources, &registrations);
    let kept = match load(state) {
        Ok(applied) => match parsed(&applied) {
            Ok(parsed) => Ok((applied, parsed)),
            Err(wrong) => Err((applied.from, format!("{} is not understood: {wrong}", state.join(FILE).display()))),
        },
        Err(unread) if unread.may_pass() => return Err(Untold::Unread(unread)),
        Err(unreadable) => Err((None, chain(&unreadable))),
    };
    let overrides = match load_overrides(state) {
        Err(unread) if unread.may_pass() => return Err(Untold::Unread(unread)),
        overrides => overrides,
    };
    let (Applied { from, scaled, .. }, (mut config, expanded)) = match kept {
        Ok(kept) => kept,
        Err((from, kept)) => {
            let nothing = |files: String| Untold::Nothing { kept: kept.clone(), files };
            let Some(from) = from.or_else(|| source.cloned()) else {
                return Err(nothing(
                    "which they are is not known; `pinfold up` with them goes on with what lives".into(),
                ));
            };
            let files = from.files().map_err(|e| nothing(chain(&e)))?;
            let (sources, config, expanded) =
                read_files_with(&files, &registrations).map_err(|wrong| nothing(wrong.to_string()))?;
            let aside = set_aside(state, FILE);
            let applied = Applied { from: Some(from), sources, scaled: Scaled::new() };
            let stored =
                store(state, &applied).map_or_else(|e| format!(", but cannot be kept ({e})"), |()| String::new());
            amiss.push(format!(
                "{kept}{aside}; the configuration was read anew from its own files{stored}, and what was scaled is as they say"
            ));
            (applied, (config, expanded))
        }
    };
    amiss.extend(unreadable.map(|unreadable| registered::set_aside(state, &unreadable)));
    scale(&mut config, &scaled);
    let Joined { kept, gave_way, misfits } = join(&mut config, registrations, expanded);
    told.extend(gave_way.iter().map(registered::gave_way));
    told.extend(misfits.iter().map(|(id, why)| format!("{id}, which was registered over the API, is left out: {why}")));
    if !gave_way.is_empty()
        && let Err(error) = registered::store(state, &kept)
    {
        // It is seen by the next one, too.
        amiss.push(format!("what is registered over the API cannot be kept: {}", chain(&error)));
    }
    let overrides = overrides.unwrap_or_else(|error| {
        let aside = set_aside(state, OVERRIDES);
        amiss.push(format!("{}{aside}; every worker has the limits of its configuration", chain(&error)));
        Overrides::new()
    });
    Ok(InForce { from, config, overrides, registered: kept, amiss, told, lost: registered::are_lost(state) })
}

/// Gives `config` as many instances as workers were scaled to.
pub(super) fn scale(config: &mut Config, scaled: &Scaled) {
    for (parent, count) in scaled {
        let is_instance = |worker: &Worker| worker.declared_as == *parent && worker.id != *parent;
        let Some(at) = config.workers.iter().position(is_instance) else { continue };
        let Some(first) = config.workers.get(at).cloned() else { continue };
        let names = (1..=*count).filter_map(|number| WorkerId::new(&format!("{parent}-{number}")).ok());
        let wanted: Vec<WorkerId> = names.collect();
        config.workers.retain(|worker| !is_instance(worker) || wanted.contains(&worker.id));
        for id in wanted {
            if config.workers.iter().all(|worker| worker.id != id) {
                config.workers.push(Worker { id, ..first.clone() });
            }
        }
    }
}

/// Lays what was set to last over what is configured; what does not fit is left out, and told.
pub(super) fn lay_over(config: &mut Config, overrides: &Overrides) -> Vec<(WorkerId, Problems)> {
    let mut misfits = Vec::new();
    for worker in &mut config.workers {
        let Some(set) = overrides.get(&worker.id) else { continue };
        match overlay::overlay(&worker.spec.limits, set) {
            Ok(limits) => worker.spec = Arc::new(Spec { limits, ..Spec::clone(&worker.spec) }),
            Err(problems) => misfits.push((worker.id.clone(), problems)),
        }
    }
    misfits
}

/// What became of it, in words that follow others. Only the last of each name is kept.
pub(super) fn set_aside(state: &Path, name: &str) -> String {
    let to = state.join(format!("{name}.corrupt"));
    match fs::rename(state.join(name), &to) {
        Ok(()) => format!(": it is set aside as {}", to.display()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => format!(": it cannot be set aside ({e})"),
    }
}

pub(super) fn write(state: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    serde_json::to_writer(&mut file, value)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(state.join(name)).map_err(|e| e.error)?;
    File::open(state)?.sync_all()
}

pub(super) fn read<T: DeserializeOwned>(state: &Path, name: &str, fix: &'static str) -> Result<T, Unreadable> {
    let path = state.join(name);
    let text = fs::read(&path).map_err(|source| Unreadable::Io { path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|source| Unreadable::Damaged { path, fix, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        vec![Source { name: "/etc/é.yaml".into(), bytes: "env: {A: \"\\u0041\"}\n".into() }]
    }

    #[test]
    fn what_was_applied_is_read_back_with_where_it_came_from_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let from =
            ConfigSource::Default { file: "/etc/pinfold/pinfold.yaml".into(), dir: "/etc/pinfold/conf.d".into() };
        let scaled = Scaled::from([(WorkerId::new("web").unwrap(), 3)]);
        let applied = Applied { from: Some(from), sources: sources(), scaled };
        store(state.path(), &applied).unwrap();
        assert_eq!(load(state.path()).unwrap(), applied);
        let mode = fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }

    #[test]
    fn what_an_earlier_version_kept_is_understood() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), r#"[{"name":"/etc/é.yaml","text":"env: {A: \"\\u0041\"}\n"}]"#).unwrap();
        assert_eq!(load(state.path()).unwrap(), Applied { from: None, sources: sources(), scaled: Scaled::new() });
    }

    #[test]
    fn overrides_are_none_before_there_are_some() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load_overrides(state.path()).unwrap(), Overrides::new());
        let set = BTreeMap::from([("pids.max".to_owned(), "9".to_owned())]);
        let overrides = Overrides::from([(WorkerId::new("db").unwrap(), set)]);
        store_overrides(state.path(), &overrides).unwrap();
        assert_eq!(load_overrides(state.path()).unwrap(), overrides);
    }

    const CONFIG: &str = "workers: [{id: w, unit: {command: [/bin/true]}}]\n";

    /// A state directory, and the configuration's file beside it.
    fn place() -> (tempfile::TempDir, ConfigSource) {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("pinfold.yaml");
        fs::write(&file, CONFIG).unwrap();
        (state, ConfigSource::Named(vec![file]))
    }

    #[test]
    fn what_is_damaged_is_named_with_the_file_and_the_fix() {
        let (state, _) = place();
        fs::write(state.path().join(OVERRIDES), "{\"db\":").unwrap();
        let text = chain(&load_overrides(state.path()).unwrap_err());
        let expected = format!(
            "{} is damaged; remove it, and set what is to hold once more (`pinfold set --persist`): EOF while parsing a value \
             at line 1 column 6",
            state.path().join(OVERRIDES).display()
        );
        assert_eq!(text, expected);
        fs::write(state.path().join(FILE), "torn").unwrap();
        let text = chain(&load(state.path()).unwrap_err());
        assert!(text.contains("applied.json is damaged; a reload, or the next `pinfold up`, writes it anew"), "{text}");
    }

    #[test]
    fn nothing_is_amiss_where_nothing_is_damaged() {
        let (state, from) = place();
        let sources = vec![Source { name: "/etc/x.yaml".into(), bytes: CONFIG.into() }];
        store(state.path(), &Applied { from: Some(from), sources, scaled: Scaled::new() }).unwrap();
        let InForce { config, amiss, .. } = restore(state.path(), None).unwrap();
        assert_eq!((config.workers.len(), amiss), (1, Vec::new()));
    }

    #[test]
    fn a_damaged_configuration_is_set_aside_and_read_anew_from_where_it_came_from() {
        for damaged in [Some("{\"from\": nu"), Some("[{\"name\": \"/x.yaml\", \"text\": \"workers: 7\"}]"), None] {
            let (state, source) = place();
            if let Some(damaged) = damaged {
                fs::write(state.path().join(FILE), damaged).unwrap();
            }
            let InForce { from, config, amiss, .. } = restore(state.path(), Some(&source)).unwrap();
            assert_eq!((from, config.workers.len(), amiss.len()), (Some(source), 1, 1), "{damaged:?}");
            let kept = fs::read_to_string(state.path().join("applied.json.corrupt")).ok();
            assert_eq!(kept.as_deref(), damaged);
            assert!(restore(state.path(), None).unwrap().amiss.is_empty(), "the next one finds it whole");
        }
    }

    #[test]
    fn where_its_own_files_are_wrong_too_everything_is_left_as_it_is_and_both_are_named() {
        let (state, source) = place();
        fs::write(state.path().join(FILE), "torn").unwrap();
        fs::write(state.path().join("pinfold.yaml"), "workers: 7\n").unwrap();
        let text = restore(state.path(), Some(&source)).unwrap_err().to_string();
        assert!(text.contains("applied.json is damaged") && text.contains("pinfold.yaml"), "{text}");
        assert_eq!(fs::read_to_string(state.path().join(FILE)).unwrap(), "torn");
    }

    #[test]
    fn what_is_not_damaged_and_cannot_be_read_is_left_where_it_is_and_nothing_holds_in_its_place() {
        for name in [FILE, OVERRIDES, "registered.json"] {
            let (state, source) = place();
            // It is there, and no read of it succeeds.
            fs::create_dir(state.path().join(name)).unwrap();
            let error = chain(&restore(state.path(), Some(&source)).unwrap_err());
            assert!(error.contains("left as it is") && error.contains(name), "{error}");
            let names: Vec<_> = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(names.len() == 2 && names.iter().any(|there| there == name), "{names:?}");
        }
    }

    #[test]
    fn registrations_are_lost_from_their_damage_on_until_somebody_has_seen_to_it() {
        let (state, source) = place();
        fs::write(state.path().join("registered.json"), "[{").unwrap();
        let restored = || restore(state.path(), Some(&source)).unwrap();
        let aside = state.path().join("registered.json.corrupt");
        let first = restored();
        assert!(first.lost && first.amiss.iter().any(|what| what.contains(aside.to_str().unwrap())), "{first:?}");
        let second = restored();
        assert!(second.lost && second.amiss.is_empty(), "{second:?}");
        fs::remove_file(aside).unwrap();
        assert!(!restored().lost);
    }

    #[test]
    fn damaged_overrides_are_set_aside_and_those_of_the_configuration_hold() {
        let (state, source) = place();
        fs::write(state.path().join(OVERRIDES), "[]").unwrap();
        let InForce { overrides, amiss, .. } = restore(state.path(), Some(&source)).unwrap();
        assert!(overrides.is_empty());
        assert!(amiss.iter().any(|what| what.contains("it is set aside as")), "{amiss:?}");
        assert!(!state.path().join(OVERRIDES).exists() && state.path().join("overrides.json.corrupt").exists());
    }
}
