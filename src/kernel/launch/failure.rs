//! The child's last words, and what they mean to a person.
//!
//! On the pipe: `X` ("about to exec"), and for a failure `F stage kind length errno index detail…`, at most 256 bytes
//! in one atomic write. The child cannot allocate, so it sends numbers; the parent knows the plan and makes the words.

use super::plan::LaunchPlan;
use crate::model::{Stage, StartError};

/// A failed step, as the child can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) errno: i32,
    /// Which of several: rlimit, candidate, standard stream, or the number found instead of the one asked for.
    pub(super) index: u32,
    pub(super) kind: Kind,
    /// The interpreter's name, where the kind has one.
    pub(super) detail: Vec<u8>,
}

/// What the child found out about a file that it could not execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// The `#!` line names a file that cannot be executed.
    Interpreter,
    /// The dynamic loader that the ELF file names is not there.
    Loader,
    Directory,
    /// None of several candidates is there.
    NotInPath,
    /// The kernel said yes and did something else.
    NotTaken,
}

const KINDS: [Kind; 6] =
    [Kind::Plain, Kind::Interpreter, Kind::Loader, Kind::Directory, Kind::NotInPath, Kind::NotTaken];

/// The stages a child can fail in; a stage's place here is its number on the pipe.
const STAGES: [Stage; 15] = [
    Stage::Session,
    Stage::Membership,
    Stage::Signals,
    Stage::Rlimit,
    Stage::OomScoreAdj,
    Stage::Nice,
    Stage::Groups,
    Stage::Gid,
    Stage::Uid,
    Stage::Capabilities,
    Stage::Chdir,
    Stage::Stdio,
    Stage::CloseRange,
    Stage::Exec,
    Stage::Spawn,
];

pub(super) const ABOUT_TO_EXEC: u8 = b'X';
const FAILED: u8 = b'F';
const HEADER: usize = 12;
/// The longest detail.
pub(super) const DETAIL_MAX: usize = 200;

/// Writes a failure into `to` without allocating; the bytes to send.
pub(super) fn encode<'b>(
    to: &'b mut [u8; HEADER + DETAIL_MAX],
    stage: Stage,
    kind: Kind,
    errno: i32,
    index: u32,
    detail: &[u8],
) -> &'b [u8] {
    let detail = detail.get(..detail.len().min(DETAIL_MAX)).unwrap_or_default();
    let place = |n: Option<usize>| n.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX);
    let head = [
        FAILED,
        place(STAGES.iter().position(|s| *s == stage)),
        place(KINDS.iter().position(|k| *k == kind)),
        place(Some(detail.len())),
    ];
    let parts = [&head[..], &errno.to_le_bytes(), &index.to_le_bytes(), detail];
    let mut length = 0;
    for byte in parts.into_iter().flatten() {
        if let Some(slot) = to.get_mut(length) {
            *slot = *byte;
            length += 1;
        }
    }
    to.get(..length).unwrap_or_default()
}

/// One thing a child says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    AboutToExec,
    Failed(Failure),
}

impl Report {
    /// Reads what came through the pipe. Anything that is not of our making ends the list as a failed spawn.
    pub(super) fn parse(mut bytes: &[u8]) -> Vec<Self> {
        let mut reports = Vec::new();
        while let Some((first, rest)) = bytes.split_first() {
            if *first == ABOUT_TO_EXEC {
                reports.push(Self::AboutToExec);
                bytes = rest;
            } else {
                let garbled = || Failure {
                    stage: Stage::Spawn,
                    errno: libc::EBADMSG,
                    index: 0,
                    kind: Kind::Plain,
                    detail: Vec::new(),
                };
                let failure = (*first == FAILED).then(|| parse_failure(rest)).flatten();
                reports.push(Self::Failed(failure.unwrap_or_else(garbled)));
                break;
            }
        }
        reports
    }
}

fn parse_failure(bytes: &[u8]) -> Option<Failure> {
    let (&[stage, kind, length], bytes) = bytes.split_first_chunk()?;
    let (errno, bytes) = bytes.split_first_chunk()?;
    let (index, bytes) = bytes.split_first_chunk()?;
    Some(Failure {
        stage: *STAGES.get(usize::from(stage))?,
        errno: i32::from_le_bytes(*errno),
        index: u32::from_le_bytes(*index),
        kind: *KINDS.get(usize::from(kind))?,
        detail: bytes.get(..usize::from(length))?.to_vec(),
    })
}

/// What a failure's words are made of: the small part of a plan that is kept until exec is confirmed.
#[derive(Debug)]
pub(super) struct Subject {
    cgroup: String,
    program: String,
    candidates: Vec<String>,
    directory: String,
    ids: Option<super::plan::Ids>,
    rlimits: Vec<super::plan::Rlimit>,
    nice: Option<i32>,
    oom_score_adj: i32,
    bytes: usize,
}

impl Subject {
    pub(super) fn new(plan: &LaunchPlan) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            cgroup: plan.cgroup_name.clone(),
            program: plan.argv.first().map(|a| text(a)).unwrap_or_default(),
            candidates: plan.candidates.iter().map(|c| text(c)).collect(),
            directory: text(&plan.working_directory),
            ids: plan.ids.clone(),
            rlimits: plan.rlimits.clone(),
            nice: plan.nice,
            oom_score_adj: plan.oom_score_adj,
            bytes: plan.argv.iter().chain(&plan.env).map(|s| s.len() + 1).sum(),
        }
    }

    /// The pipe ended before the child said that it was about to exec.
    pub(super) fn died_before_exec(&self) -> StartError {
        let sentence = format!("the child was killed in {} before it could execute {}", self.cgroup, self.program);
        StartError::refused(Stage::Spawn, sentence)
    }

    pub(super) fn explain(&self, failure: &Failure) -> StartError {
        let index = usize::try_from(failure.index).unwrap_or(usize::MAX);
        let what = match failure.stage {
            Stage::Membership => self.cgroup.clone(),
            Stage::Rlimit => self.rlimits.get(index).map(rlimit_text).unwrap_or_default(),
            Stage::OomScoreAdj => self.oom_score_adj.to_string(),
            Stage::Nice => self.nice.unwrap_or(0).to_string(),
            Stage::Groups => {
                let groups = self.ids.as_ref().map(|i| i.groups.as_slice()).unwrap_or_default();
                groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
            }
            Stage::Gid => self.ids.as_ref().map(|i| i.gid.to_string()).unwrap_or_default(),
            Stage::Uid => self.ids.as_ref().map(|i| i.uid.to_string()).unwrap_or_default(),
            Stage::Chdir => self.directory.clone(),
            Stage::Stdio => format!("descriptor {index}"),
            Stage::Exec => self.exec_text(failure, index),
            _ => String::new(),
        };
        match (failure.kind, failure.stage) {
            (Kind::NotTaken, Stage::Membership) => {
                let sentence = format!("the child is not in {what} although the kernel reported success");
                StartError::refused(failure.stage, sentence)
            }
            (Kind::NotTaken, _) => {
                StartError::refused(failure.stage, format!("{what} was not taken on although the kernel said so"))
            }
            _ => StartError::os(failure.stage, what, failure.errno),
        }
    }

    fn exec_text(&self, failure: &Failure, index: usize) -> String {
        let file = self.candidates.get(index).unwrap_or(&self.program);
        let detail = failure.detail.escape_ascii();
        match failure.kind {
            Kind::Interpreter => format!("{file}: interpreter {detail}"),
            Kind::Loader => format!("{file}: dynamic loader {detail}"),
            Kind::Directory => format!("{file} (a directory)"),
            Kind::NotInPath => {
                let directories: Vec<_> = self.candidates.iter().filter_map(|c| c.rsplit_once('/')).collect();
                let path = directories.iter().map(|(dir, _)| if dir.is_empty() { "/" } else { dir });
                format!("{} (not found in PATH={})", self.program, path.collect::<Vec<_>>().join(":"))
            }
            _ if failure.errno == libc::E2BIG => {
                format!("{file} ({} bytes of arguments and environment)", self.bytes)
            }
            _ if failure.errno == libc::ENOEXEC => format!("{file} (neither a program nor a script with a #! line)"),
            _ => file.clone(),
        }
    }
}

fn rlimit_text(limit: &super::plan::Rlimit) -> String {
    let name = match limit.resource {
        libc::RLIMIT_NOFILE => "RLIMIT_NOFILE",
        libc::RLIMIT_CORE => "RLIMIT_CORE",
        libc::RLIMIT_MEMLOCK => "RLIMIT_MEMLOCK",
        other => return format!("{other}={}", limit.soft),
    };
    format!("{name}={}", limit.soft)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failure_comes_through_the_pipe_as_it_was() {
        let mut buffer = [0; HEADER + DETAIL_MAX];
        let bytes = encode(&mut buffer, Stage::Exec, Kind::Interpreter, libc::ENOENT, 3, b"/bin/nosuch");
        let failure = Failure {
            stage: Stage::Exec,
            errno: libc::ENOENT,
            index: 3,
            kind: Kind::Interpreter,
            detail: b"/bin/nosuch".to_vec(),
        };
        let all = [&[ABOUT_TO_EXEC], bytes].concat();
        assert_eq!(Report::parse(&all), [Report::AboutToExec, Report::Failed(failure)]);
    }

    #[test]
    fn every_stage_and_kind_has_its_own_number() {
        let mut buffer = [0; HEADER + DETAIL_MAX];
        for stage in STAGES {
            for kind in KINDS {
                let bytes = encode(&mut buffer, stage, kind, 1, 0, &[b'x'; 999]).to_vec();
                let reports = Report::parse(&bytes);
                let [Report::Failed(failure)] = reports.as_slice() else { panic!("{reports:?}") };
                assert_eq!((failure.stage, failure.kind, failure.detail.len()), (stage, kind, DETAIL_MAX));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let reports = Report::parse(&bytes);
            prop_assert_eq!(reports.is_empty(), bytes.is_empty());
        }
    }
}
