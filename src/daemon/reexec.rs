//! Another binary in the place of this one: it is verified before anything else, then everything is left to it in order.
//!
//! ```text
//!  POST /v1/reexec ─┐            no: told, nothing has changed
//!  SIGUSR2 ─────────┴▶ verify ─┬─┘
//!                              └─▶ actors end ─▶ door, probes, console ─▶ Reexec to the keeper ─▶ we end
//! ```
//!
//! What is verified is a file that is open, not a path, and that very file is executed later. It is asked, by being executed
//! with [`ROLE`], which protocols it takes over from, and to read the configuration in force.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::api::{Upgrades, Wish, wire};
use crate::keeper::{handover::TAKES_OVER, protocol};
use crate::kernel::pidfd;
use crate::model::{WorkerId, chain};
use crate::worker::handle::WorkerHandle;

use super::applied::{self, Applied};
use super::registered::{self, Misfit};

/// The word by which a binary is asked what it takes over from, and, with a state directory behind it, whether it reads the
/// configuration in force there; the names behind that are of registrations that do not fit as it is.
pub const ROLE: &str = "__protocol";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a binary has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// As much as is read of an answer.
const LONGEST: usize = 64 * 1024;

/// How long actors may wait for a good moment to end. A launch, or what is left of a run, can take longer.
const LEAVE: Duration = Duration::from_secs(10);

/// What a binary says of itself: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Says {
    version: String,
    takes_over: Vec<u32>,
}

/// The binary's own answer to [`ROLE`]. `args` is what stands behind it.
#[must_use]
pub fn child_main(args: &[OsString]) -> ExitCode {
    let answer = match args {
        [] => {
            let says = Says { version: VERSION.to_owned(), takes_over: TAKES_OVER.to_vec() };
            serde_json::to_string(&says).map_err(|e| e.to_string())
        }
        [state, left_out @ ..] => reads_configuration(Path::new(state), left_out).map(|()| String::new()),
    };
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(why) => (why, ExitCode::FAILURE),
    };
    // Whoever asked has stopped waiting where it cannot be said.
    io::Write::write_all(&mut io::stdout(), format!("{text}\n").as_bytes()).map_or(ExitCode::FAILURE, |()| code)
}

fn reads_configuration(state: &Path, left_out: &[OsString]) -> Result<(), String> {
    applied::load_overrides(state).map_err(|e| chain(&e))?;
    let misfits = misfits(state)?;
    let new = misfits.iter().filter(|(id, _)| left_out.iter().all(|known| known.as_os_str() != id.as_str()));
    let told: Vec<String> =
        new.map(|(id, why)| format!("{id}, which was registered over the API, does not fit: {why}")).collect();
    if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
}

/// What is registered and is to stay, and is of no use beside the configuration in force, as this binary reads both.
fn misfits(state: &Path) -> Result<Vec<(WorkerId, Misfit)>, String> {
    let Applied { sources, scaled, .. } = applied::load(state).map_err(|e| chain(&e))?;
    let registrations = registered::load(state).map_err(|e| chain(&e))?;
    let leaving: Vec<WorkerId> =
        registrations.iter().filter(|known| known.leaving).map(|known| known.id.clone()).collect();
    let read = applied::parse_with(&sources, &registrations);
    let (mut config, expanded) = read.map_err(|problems| problems.to_string())?;
    applied::scale(&mut config, &scaled);
    let mut misfits = registered::join(&mut config, registrations, expanded).misfits;
    misfits.retain(|(id, _)| !leaving.contains(id));
    Ok(misfits)
}

/// The path by which this process was started: where another binary will be. Unlike `/proc/self/exe` it can be a link that leads
/// to another file later; where it does not lead to our own file now, it is that.
pub(super) fn own_path() -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let running = std::fs::metadata("/proc/self/exe")?;
    let is_ours =
        |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (running.dev(), running.ino()));
    let typed = std::env::args_os().next().unwrap_or_default();
    let typed = Path::new(&typed);
    let candidates: Vec<PathBuf> = if typed.components().count() > 1 {
        vec![std::env::current_dir()?.join(typed)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(typed)).collect()
    };
    Ok(candidates.into_iter().find(is_ours).unwrap_or(exe))
}

/// Why a binary does not follow this one.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{} cannot be opened", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no file", path.display())]
    NoFile { path: PathBuf },
    #[error("{} cannot be executed", path.display())]
    Execute {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not say what it takes over from within {} s: it is no pinfold, or one that cannot be upgraded to", path.display(), PATIENCE.as_secs())]
    Silent { path: PathBuf },
    #[error("{} does not say what it takes over from ({how}): it is no pinfold, or one that cannot be upgraded to", path.display())]
    NoAnswer { path: PathBuf, how: String },
    #[error(
        "pinfold {version} takes over from protocol {theirs:?}, this one speaks {}: restart the service instead",
        protocol::VERSION
    )]
    Protocol { version: String, theirs: Vec<u32> },
    #[error("pinfold {version} does not read the configuration in force: {problems}")]
    Configuration { version: String, problems: String },
}

/// A binary that can follow this one.
#[derive(Debug)]
pub(super) struct Verified {
    file: File,
    path: PathBuf,
    pub(super) version: String,
    /// Who has asked, for the record.
    pub(super) who: String,
}

/// Verifies what is at `path` now. Waits for it: see [`PATIENCE`].
fn verify(path: &Path, state: &Path, who: String) -> Result<Verified, Refused> {
    let open = |source| Refused::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    if !file.metadata().map_err(open)?.is_file() {
        return Err(Refused::NoFile { path: path.to_owned() });
    }
    let answer = ask(&file, &[ROLE.as_ref()]).map_err(|e| e.about(path))?;
    let no_answer = |how: String| Refused::NoAnswer { path: path.to_owned(), how };
    if !answer.status.success() {
        return Err(no_answer(answer.status.to_string()));
    }
    let Says { version, takes_over } =
        serde_json::from_str(&answer.text).map_err(|e| no_answer(format!("its answer: {e}")))?;
    if !takes_over.contains(&protocol::VERSION) {
        return Err(Refused::Protocol { version, theirs: takes_over });
    }
    // What we leave out ourselves is no worse off with it. Where we cannot tell, it is to read everything.
    let left_out = misfits(state).unwrap_or_default();
    let left_out = left_out.iter().map(|(id, _)| OsStr::new(id.as_str()));
    let args: Vec<&OsStr> = [ROLE.as_ref(), state.as_os_str()].into_iter().chain(left_out).collect();
    let answer = ask(&file, &args).map_err(|e| e.about(path))?;
    if !answer.status.success() {
        let problems = match answer.text.trim_end() {
            "" => answer.status.to_string(),
            problems => problems.to_owned(),
        };
        return Err(Refused::Configuration { version, problems });
    }
    Ok(Verified { file, path: path.to_owned(), version, who })
}

struct Answer {
    status: std::process::ExitStatus,
    text: String,
}

enum Unasked {
    Execute(io::Error),
    Silent,
}

impl Unasked {
    fn about(self, path: &Path) -> Refused {
        let path = path.to_owned();
        match self {
            Self::Execute(source) => Refused::Execute { path, source },
            Self::Silent => Refused::Silent { path },
        }
    }
}

/// Executes `file`, and takes what it prints. It is read once it has ended: what prints without an end waits for room until it is
/// killed.
fn ask(file: &File, args: &[&OsStr]) -> Result<Answer, Unasked> {
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.arg0("pinfold").args(args).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(Unasked::Execute)?;
    let ended = i32::try_from(child.id()).map_err(io::Error::other).and_then(pidfd::open).and_then(|pidfd| {
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        loop {
            match rustix::event::poll(&mut poll, Some(&patience)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    });
    if !matches!(ended, Ok(true)) {
        // Not reaped yet, so that the number is its group's own.
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
            .map_err(|e| Unasked::Execute(e.into()))?;
    }
    let status = child.wait().map_err(Unasked::Execute)?;
    if !ended.map_err(Unasked::Execute)? {
        return Err(Unasked::Silent);
    }
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // What it may have left behind can hold the pipe open.
        rustix::io::ioctl_fionbio(&stdout, true).map_err(|e| Unasked::Execute(e.into()))?;
        match stdout.take(LONGEST as u64).read_to_end(&mut text) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(Unasked::Execute(e)),
            _ => {}
        }
    }
    Ok(Answer { status, text: String::from_utf8_lossy(&text).into_owned() })
}

/// Whom to tell what came of a wish.
type Answerer = oneshot::Sender<Result<wire::Reexec, String>>;

/// A binary that is being verified.
#[derive(Debug)]
struct Attempt {
    verifying: JoinHandle<Result<Verified, Refused>>,
    /// Nobody, where it was a signal.
    answer: Option<Answerer>,
}

/// Takes wishes for another binary, one at a time.
#[derive(Debug)]
pub(super) struct Desk {
    wishes: mpsc::Receiver<Wish>,
    signal: Signal,
    path: PathBuf,
    state: PathBuf,
    upgrades: Upgrades,
    trying: Option<Attempt>,
}

impl Desk {
    /// For the binary at `path`. `reexecs` and `previous` are the keeper's word.
    ///
    /// # Errors
    /// Where SIGUSR2 cannot be handled.
    pub(super) fn new(path: &Path, state: &Path, reexecs: u32, previous: Option<String>) -> io::Result<Self> {
        let (sender, wishes) = mpsc::channel(1);
        Ok(Self {
            wishes,
            signal: signal(SignalKind::user_defined2())?,
            path: path.to_owned(),
            state: state.to_owned(),
            upgrades: Upgrades { wishes: sender, reexecs, previous },
            trying: None,
        })
    }

    /// For the API.
    pub(super) fn upgrades(&self) -> Upgrades {
        self.upgrades.clone()
    }

    /// Waits until a binary was verified (its asker has been told), or one was refused: why, for the record.
    ///
    /// Cancel safe: what is under way stays.
    pub(super) async fn next(&mut self) -> Result<Verified, String> {
        loop {
            tokio::select! {
                Some(Wish { who, answer }) = self.wishes.recv() => {
                    if self.trying.is_some() {
                        // Whoever asked may have stopped waiting.
                        drop(answer.send(Err("a binary is being verified already; ask again".to_owned())));
                    } else {
                        self.attempt(who, Some(answer));
                    }
                }
                _ = self.signal.recv() => {
                    if self.trying.is_none() {
                        self.attempt("SIGUSR2".to_owned(), None);
                    }
                }
                verified = async {
                    match &mut self.trying {
                        Some(attempt) => (&mut attempt.verifying).await,
                        None => std::future::pending().await,
                    }
                } => return self.settle(verified),
            }
        }
    }

    fn attempt(&mut self, who: String, answer: Option<Answerer>) {
        let (path, state) = (self.path.clone(), self.state.clone());
        let verifying = tokio::task::spawn_blocking(move || verify(&path, &state, who));
        self.trying = Some(Attempt { verifying, answer });
    }

    fn settle(
        &mut self,
        verified: Result<Result<Verified, Refused>, tokio::task::JoinError>,
    ) -> Result<Verified, String> {
        let answer = self.trying.take().and_then(|attempt| attempt.answer);
        let verified = match verified {
            Ok(Ok(verified)) => Ok(verified),
            Ok(Err(refused)) => Err(chain(&refused)),
            Err(error) => Err(error.to_string()),
        };
        if let Some(answer) = answer {
            let told = verified.as_ref().map_err(Clone::clone).map(|verified| wire::Reexec {
                binary: verified.path.display().to_string(),
                version: verified.version.clone(),
                replaces: VERSION.to_owned(),
                pid: std::process::id(),
                reexecs: self.upgrades.reexecs,
            });
            // Whoever asked may have stopped waiting; what was asked goes on.
            drop(answer.send(told));
        }
        verified
    }
}

impl Verified {
    /// The file, for the keeper.
    pub(super) fn into_file(self) -> (OwnedFd, String) {
        (self.file.into(), self.version)
    }
}

/// Ends the actors between two events, whatever they are about.
pub(super) async fn leave_at_once(handles: &[WorkerHandle]) {
    for handle in handles {
        handle.leave(true);
    }
    join_all(handles.iter().map(WorkerHandle::gone)).await;
}

/// Ends every actor at a moment at which the next supervisor finds all there is to know; what has none in time is left as it is.
/// From then on nothing is decided, and nothing that the keeper tells is acknowledged.
pub(super) async fn leave(handles: &[WorkerHandle]) {
    let all_gone = || join_all(handles.iter().map(WorkerHandle::gone));
    for handle in handles {
        handle.leave(false);
    }
    if tokio::time::timeout(LEAVE, all_gone()).await.is_err() {
        leave_at_once(handles).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::registered::Registration;
    use crate::spec::Source;

    #[test]
    fn a_binary_reads_what_is_registered_too_but_for_what_goes_or_is_left_out_already() {
        let state = tempfile::tempdir().unwrap();
        let sources = vec![Source { name: "a.yaml".into(), bytes: "workers: [{id: w, unit: {command: [x]}}]".into() }];
        applied::store(state.path(), &Applied { from: None, sources, scaled: applied::Scaled::new() }).unwrap();
        let registration = |id: &str, more: &str, leaving| {
            let declaration = format!(r#"{{"id": "{id}", "unit": {{"command": ["x"]{more}}}}}"#);
            Registration { id: WorkerId::new(id).unwrap(), declaration, scaled: None, leaving }
        };
        let strange = r#", "added_by_another_version": 1"#;
        let good = registration("good", "", false);
        for (second, left_out, why) in [
            (registration("fine", "", false), None, None),
            (registration("strange", strange, false), None, Some("strange, which was registered over the API")),
            (registration("strange", strange, false), Some("other"), Some("added_by_another_version")),
            (registration("strange", strange, false), Some("strange"), None),
            (registration("strange", strange, true), None, None),
        ] {
            registered::store(state.path(), &[good.clone(), second.clone()]).unwrap();
            let left_out: Vec<OsString> = left_out.into_iter().map(OsString::from).collect();
            let said = reads_configuration(state.path(), &left_out);
            match why {
                Some(why) => assert!(said.as_ref().is_err_and(|said| said.contains(why)), "{second:?}: {said:?}"),
                None => assert_eq!(said, Ok(()), "{second:?}"),
            }
        }
    }
}
