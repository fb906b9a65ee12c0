//! The configuration that is in force, as text, in the state directory.
//!
//! The supervisor reads it here and not where it came from: one that the keeper restarts must supervise what is
//! running, whatever has happened to the files meanwhile.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::spec::Source;

const FILE: &str = "applied.json";

#[derive(Serialize, Deserialize)]
struct Text {
    name: String,
    text: String,
}

/// Keeps `sources`, which have been validated, in `state`: whole, or as it was before. Readable by its owner alone, for
/// there can be secrets in an environment.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn store(state: &Path, sources: &[Source]) -> io::Result<()> {
    let texts = sources.iter().map(|source| {
        let text = String::from_utf8(source.bytes.clone()).map_err(io::Error::other)?;
        Ok(Text { name: source.name.clone(), text })
    });
    let texts = texts.collect::<io::Result<Vec<_>>>()?;
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    serde_json::to_writer(&mut file, &texts)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(state.join(FILE)).map_err(|e| e.error)?;
    File::open(state)?.sync_all()
}

/// Reads what [`store`] kept.
///
/// # Errors
/// Where there is nothing, or it is not understood.
pub(super) fn load(state: &Path) -> io::Result<Vec<Source>> {
    let texts: Vec<Text> = serde_json::from_slice(&fs::read(state.join(FILE))?)?;
    Ok(texts.into_iter().map(|t| Source { name: t.name, bytes: t.text.into_bytes() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_read_back_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let sources = [Source { name: "/etc/é.yaml".into(), bytes: "env: {A: \"\\u0041\"}\n".into() }];
        store(state.path(), &sources).unwrap();
        assert_eq!(load(state.path()).unwrap(), sources);
        let mode = fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}
