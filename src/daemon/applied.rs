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
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cli::paths::ConfigSource;
use crate::model::WorkerId;
use crate::spec::types::Config;
use crate::spec::{self, Problems, Source};

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

/// What `sources` say, in our environment.
///
/// # Errors
/// [`Problems`].
pub(super) fn parse(sources: &[Source]) -> Result<Config, Problems> {
    spec::load(sources, &|name| std::env::var(name).ok())
}

/// The text of `files`, proved to be good, and what it says. Of root's files nobody else may be the owner.
///
/// # Errors
/// [`Problems`].
pub(super) fn read_files(files: &[PathBuf]) -> Result<(Vec<Source>, Config), Problems> {
    let sources = spec::read_files(files, rustix::process::geteuid().is_root())?;
    let config = parse(&sources)?;
    Ok((sources, config))
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

/// Reads what [`store`] kept.
///
/// # Errors
/// Where there is nothing, or it is not understood.
pub(super) fn load(state: &Path) -> io::Result<Applied> {
    let Whole { from, files, scaled } = match read(state, FILE)? {
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
/// Where they are there and not understood.
pub(super) fn load_overrides(state: &Path) -> io::Result<Overrides> {
    match read(state, OVERRIDES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Overrides::new()),
        other => other,
    }
}

fn write(state: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    serde_json::to_writer(&mut file, value)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(state.join(name)).map_err(|e| e.error)?;
    File::open(state)?.sync_all()
}

fn read<T: DeserializeOwned>(state: &Path, name: &str) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(state.join(name))?)?)
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
}
