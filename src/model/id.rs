use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The name of one worker: `[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?`.
///
/// The alphabet keeps a name a safe file name and a safe cgroup name, and free of `.`, which separates it
/// from the run's number in a directory's name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The longest name, in bytes: a host name label (RFC 1123) plus one.
    pub const MAX_LEN: usize = 64;

    /// The grammar as a regular expression, for schemas.
    pub const PATTERN: &'static str = "^[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$";

    /// Checks `name` against the grammar of a worker's name.
    ///
    /// # Errors
    /// [`BadWorkerId`] says which rule `name` breaks.
    pub fn new(name: &str) -> Result<Self, BadWorkerId> {
        let bytes = name.as_bytes();
        let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let Some((first, last)) = bytes.first().zip(bytes.last()) else {
            return Err(BadWorkerId::Empty);
        };
        if bytes.len() > Self::MAX_LEN {
            return Err(BadWorkerId::TooLong { len: bytes.len() });
        }
        if let Some(bad) = name.chars().find(|c| !c.is_ascii() || !inner(&(*c as u8))) {
            return Err(BadWorkerId::Character { bad });
        }
        if !first.is_ascii_alphanumeric() || !last.is_ascii_alphanumeric() {
            return Err(BadWorkerId::Edge);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a worker's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWorkerId {
    /// The empty text.
    #[error("a worker's id cannot be empty")]
    Empty,
    /// Longer than [`WorkerId::MAX_LEN`].
    #[error("a worker's id has at most 64 characters, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside the alphabet.
    #[error("a worker's id is made of letters, digits, '-' and '_', not {bad:?}")]
    Character {
        /// The first such character.
        bad: char,
    },
    /// `-` or `_` at one of the ends.
    #[error("a worker's id begins and ends with a letter or a digit")]
    Edge,
}

impl FromStr for WorkerId {
    type Err = BadWorkerId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl JsonSchema for WorkerId {
    fn schema_name() -> Cow<'static, str> {
        "WorkerId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Self::PATTERN })
    }
}

impl<'de> Deserialize<'de> for WorkerId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a slice: a cgroup that the runs of several workers are made in, so that they share its limits. The grammar
/// is that of a worker's name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SliceName(WorkerId);

impl SliceName {
    /// What its directory's name ends with. A worker's name has no `.`, so that no run's directory can be one.
    const SUFFIX: &'static str = ".slice";

    /// Checks `name`.
    ///
    /// # Errors
    /// [`BadWorkerId`] says which rule `name` breaks.
    pub fn new(name: &str) -> Result<Self, BadWorkerId> {
        WorkerId::new(name).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// `NAME.slice`, the name of its directory.
    #[must_use]
    pub fn dir_name(&self) -> String {
        format!("{}{}", self.0, Self::SUFFIX)
    }

    /// Reads `NAME.slice`. `None` where `name` is not of that form.
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        Self::new(name.strip_suffix(Self::SUFFIX)?).ok()
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One life of a worker. Numbers start at 1 and are never used twice by one supervisor, so that an event of
/// run 3 can never be taken for one of run 4. Printed as `ID.RUN`, which is the name of the run's cgroup.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RunId {
    /// Whose life.
    pub worker: WorkerId,
    /// Which one, from 1.
    pub number: u32,
}

impl RunId {
    /// Names a run.
    #[must_use]
    pub const fn new(worker: WorkerId, number: u32) -> Self {
        Self { worker, number }
    }

    /// Reads `ID.RUN`, the name of a run's cgroup directory. `None` where `name` is not of that form.
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (worker, number) = name.rsplit_once('.')?;
        let canonical = !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|_| canonical)?;
        Some(Self { worker: WorkerId::new(worker).ok()?, number })
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.worker, self.number)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_letters_digits_dash_and_underscore_with_plain_ends() {
        for good in ["a", "A9", "web-server-1", "a_b", &"x".repeat(64)] {
            assert!(WorkerId::new(good).is_ok(), "{good}");
        }
        assert_eq!(WorkerId::new(""), Err(BadWorkerId::Empty));
        assert_eq!(WorkerId::new(&"x".repeat(65)), Err(BadWorkerId::TooLong { len: 65 }));
        assert_eq!(WorkerId::new("a.b"), Err(BadWorkerId::Character { bad: '.' }));
        assert_eq!(WorkerId::new("a/b"), Err(BadWorkerId::Character { bad: '/' }));
        assert_eq!(WorkerId::new("é"), Err(BadWorkerId::Character { bad: 'é' }));
        for edge in ["-a", "a-", "_", "a_"] {
            assert_eq!(WorkerId::new(edge), Err(BadWorkerId::Edge), "{edge}");
        }
    }

    #[test]
    fn a_slice_is_read_back_from_its_directory_name_and_is_no_run() {
        let web = SliceName::new("web-1").unwrap();
        assert_eq!(SliceName::from_dir_name(&web.dir_name()), Some(web.clone()));
        assert_eq!(RunId::from_dir_name(&web.dir_name()), None);
        for stranger in ["web-1", "web-1.3", ".slice", "a.b.slice", "web-1.slices", "a b.slice"] {
            assert_eq!(SliceName::from_dir_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_run_is_read_back_from_its_directory_name_and_nothing_else_is() {
        let run = RunId::new(WorkerId::new("web-1").unwrap(), 12);
        assert_eq!(RunId::from_dir_name(&run.to_string()), Some(run));
        for stranger in ["web-1", "web-1.", "web-1.x", "web-1.+3", "web-1.03", "web-1.0", ".3", "a b.3", "a.4294967296"]
        {
            assert_eq!(RunId::from_dir_name(stranger), None, "{stranger}");
        }
    }
}
