//! A run's record in an extended attribute of its cgroup directory: it lives and dies with the run, survives every
//! supervisor, and a half-made directory has none.
//!
//! MessagePack with named fields, so that a later version can add some. What the record means is the worker's and the
//! manager's business.

use super::{
    cgroup::{Dir, DirError, Namespace, dir::XATTR_MAX},
    port::RunNote,
};

/// The attribute's name after `trusted.pinfold.` or `user.pinfold.`.
const KEY: &str = "run";

/// Why a run's record could not be kept or understood.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The kernel refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// It does not fit the attribute.
    #[error("the record of {run} is {len} bytes long; {XATTR_MAX} is the most")]
    TooLong {
        /// Whose.
        run: crate::model::RunId,
        /// Its length in bytes.
        len: usize,
    },
    /// It cannot be encoded.
    #[error("the record of {run} cannot be encoded")]
    Encode {
        /// Whose.
        run: crate::model::RunId,
        /// Why.
        #[source]
        source: rmp_serde::encode::Error,
    },
    /// Something else is there.
    #[error("the record of {path} is not understood")]
    Decode {
        /// The run's directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// A random identity for a run (version 4, RFC 9562), from the kernel.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn new_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// Writes `note` to `dir`, over the one before.
///
/// # Errors
/// Where it is too long or the kernel refuses.
pub fn write(dir: &Dir, ns: Namespace, note: &RunNote) -> Result<(), NoteError> {
    let bytes = encode(note)?;
    Ok(dir.set_xattr(ns, KEY, &bytes)?)
}

/// Removes the record of `dir`, whose run is over and has been told of.
///
/// # Errors
/// `ENODATA` where there is none; where the kernel refuses.
pub fn erase(dir: &Dir, ns: Namespace) -> Result<(), DirError> {
    dir.remove_xattr(ns, KEY)
}

/// The same, of a directory that may have none.
///
/// # Errors
/// Where the kernel refuses.
pub fn erase_if_there(dir: &Dir, ns: Namespace) -> Result<(), DirError> {
    if dir.xattr(ns, KEY)?.is_some() { erase(dir, ns) } else { Ok(()) }
}

/// Reads the record of `dir`; `None` where there is none.
///
/// # Errors
/// Where it is not understood: then the run is a stranger, not a half-made one.
pub fn read(dir: &Dir, ns: Namespace) -> Result<Option<RunNote>, NoteError> {
    let Some(bytes) = dir.xattr(ns, KEY)? else { return Ok(None) };
    match rmp_serde::from_slice(&bytes) {
        Ok(note) => Ok(Some(note)),
        Err(source) => Err(NoteError::Decode { path: dir.path().to_owned(), source }),
    }
}

fn encode(note: &RunNote) -> Result<Vec<u8>, NoteError> {
    let bytes = rmp_serde::to_vec_named(note).map_err(|source| NoteError::Encode { run: note.run.clone(), source })?;
    if bytes.len() > XATTR_MAX && !note.untold.is_empty() {
        // The last ones are the likeliest not to be known elsewhere.
        let untold = note.untold[note.untold.len().div_ceil(2)..].to_vec();
        return encode(&RunNote { untold, ..note.clone() });
    }
    if bytes.len() > XATTR_MAX {
        return Err(NoteError::TooLong { run: note.run.clone(), len: bytes.len() });
    }
    Ok(bytes)
}

#[cfg(test)]
pub(in crate::kernel) mod tests {
    use super::*;
    use crate::model::{Confidence, Counters, Evidence, ExitCause, MemoryEvents, RunEnd, RunId, WorkerId};

    pub(in crate::kernel) fn note() -> RunNote {
        let id = "x".repeat(WorkerId::MAX_LEN);
        let memory = MemoryEvents { low: u64::MAX, oom: 3, ..MemoryEvents::default() };
        RunNote {
            v: 1,
            uuid: "0190b5a1-7b1e-7000-8000-0123456789ab".into(),
            run: RunId::new(WorkerId::new(&id).unwrap(), u32::MAX),
            spec_hash: u64::MAX,
            breaker: crate::policy::breaker::Saved::default(),
            restarts: crate::model::RestartCounts::default(),
            desired_up: true,
            pid: Some(4_194_304),
            pid_start_ticks: Some(u64::MAX),
            boot_id: "2c1f3a46-6d4b-4a43-8f55-6a1a34a6d1fe".into(),
            started_mono_ns: Some(u64::MAX),
            baseline: Counters { local: Some(memory), memory: Some(memory), pids_max: Some(7) },
            ending: None,
            untold: Vec::new(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_stays_small() {
        let bytes = encode(&note()).unwrap();
        assert_eq!(rmp_serde::from_slice::<RunNote>(&bytes).unwrap(), note());
        assert!(bytes.len() < XATTR_MAX / 4, "{} bytes", bytes.len());
    }

    #[test]
    fn a_record_that_does_not_fit_is_refused_before_the_kernel_is_asked() {
        let note = RunNote { uuid: "x".repeat(XATTR_MAX), ..note() };
        assert!(matches!(encode(&note), Err(NoteError::TooLong { .. })));
    }

    #[test]
    fn ends_that_do_not_fit_are_left_out_the_oldest_first_rather_than_the_record() {
        let end = |run| RunEnd {
            run,
            began: Some((5, jiff::Timestamp::UNIX_EPOCH)),
            begun: None,
            at: jiff::Timestamp::UNIX_EPOCH,
            cause: ExitCause::Exited { code: 1 },
            confidence: Confidence::Certain,
            evidence: Box::new(Evidence {
                status: None,
                before: note().baseline,
                after: note().baseline,
                usage: None,
                asked_by: None,
                above: None,
                start_error: None,
                wall_ms: 1,
            }),
        };
        let kept = |ends: u32| {
            let bytes = encode(&RunNote { untold: (1..=ends).map(end).collect(), ..note() }).unwrap();
            assert!(bytes.len() <= XATTR_MAX);
            rmp_serde::from_slice::<RunNote>(&bytes).unwrap().untold
        };
        assert_eq!(kept(8).len(), 8, "so many fit");
        let some = kept(500);
        assert!(some.len() >= 4, "{}", some.len());
        assert_eq!(some.last(), Some(&end(500)));
    }

    #[test]
    fn a_later_versions_field_is_no_obstacle() {
        let mut value: serde_json::Value = serde_json::to_value(note()).unwrap();
        value["new_in_v2"] = serde_json::json!(["whatever"]);
        let bytes = rmp_serde::to_vec_named(&value).unwrap();
        assert_eq!(rmp_serde::from_slice::<RunNote>(&bytes).unwrap(), note());
    }
}
