//! `up -d`: the process that was typed starts another in a session of its own, which does what `up` does, and waits until every
//! worker was started for the first time.
//!
//! ```text
//!  up -d ── starts ─▶ up (new session, stdin and stdout /dev/null, stderr STATE/pinfold.log) ── becomes ─▶ keeper
//!    │ ◀────────────────── one byte, with the supervisor's READY=1 ───────────────────────────────────────────┘
//!    └ asks for the workers, prints them, ends
//! ```
//!
//! Both hold one end of a socket pair. Where its other end closes without a byte, the new one has ended: its last words are
//! those of its log. Where *we* end before the byte, or are interrupted, the keeper sees our end closed and stops everything.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

use crate::api::wire::Workers;
use crate::cli::args::{Cli, Command, Globals, Output, Up};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::render;
use crate::cli::said::Said;
use crate::keeper::own_log;
use crate::keeper::role::{self, Binary, Started};
use crate::kernel::launch::Progress;
use crate::kernel::pidfd::{self, Whom};
use crate::kernel::place::record::Lock;
use crate::model::ExitStatus;

use super::up;

/// The word that makes the binary the one that is started; what was typed stands behind it.
pub const ROLE: &str = "__detached";

/// As much of the last words is shown.
const LAST_WORDS: u64 = 4096;

/// The main of the process that is started. Returns only where it fails.
///
/// # Errors
/// [`Failure`].
pub fn child_main() -> Result<Exit, Failure> {
    let waiter = role::begin(c"pinfold-keeper")
        .map_err(|e| Failure::failed("this word is for `up -d` to say, not for a person", e))?;
    let mut words: Vec<OsString> = std::env::args_os().collect();
    // The role's own.
    words.remove(1);
    let cli = <Cli as clap::Parser>::try_parse_from(words).map_err(|e| Failure::Usage(e.to_string()))?;
    let Command::Up(args) = &cli.command else {
        return Err(Failure::Usage("only `up` can be detached".to_owned()));
    };
    match up::up(args, &cli.globals(), Some(waiter)) {
        Err(failure) => Err(failure),
        Ok(never) => match never {},
    }
}

/// `pinfold up -d`. To be called before there is a second thread.
///
/// # Errors
/// [`Failure`]: nothing of ours runs then, unless it says so.
pub fn up(args: &Up, globals: &Globals, client: &Client) -> Result<Said, Failure> {
    let paths = up::resolve(globals, args)?;
    // What is wrong with it is told here, as without `-d`.
    up::read_config(&paths)?;
    drop(Lock::take(&paths.state).map_err(|e| Failure::failed("cannot start", e))?);
    let (log_path, log, known_as) = own_log::open(&paths.state)
        .map_err(|e| Failure::failed(format!("cannot open a log in {}", paths.state.display()), e))?;
    let from = log.metadata().map_or(0, |meta| meta.len());
    let signals = hold_signals().map_err(|e| Failure::failed("cannot block signals", e))?;
    let started = start(&log, &known_as)?;
    match wait(&started, &signals).map_err(|e| Failure::failed("cannot wait for the supervisor", e))? {
        Came::Ready => told(client, args.output.output),
        Came::Nothing { interrupted } => {
            let failed = |e| Failure::failed("cannot tell how the supervisor has ended", e);
            let status = pidfd::reap_blocking(Whom::PidFd(started.child.pidfd.as_fd())).map_err(failed)?;
            let words = last_words(&log, from).unwrap_or_default();
            Ok(ended(status, &words, interrupted, &log_path))
        }
    }
}

/// Those by which a person, a shell or a service manager ends us, readable instead.
fn hold_signals() -> io::Result<SignalFd> {
    let asked = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
    asked.thread_block()?;
    Ok(SignalFd::with_flags(&asked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn start(log: &File, known_as: &str) -> Result<Started, Failure> {
    let binary = Binary::running().map_err(|e| Failure::failed("cannot find our own binary", e))?;
    let null = File::options().write(true).open("/dev/null");
    let null = null.map_err(|e| Failure::failed("cannot open /dev/null", e))?;
    let mut typed = std::env::args_os();
    let program = typed.next().unwrap_or_else(|| "pinfold".into());
    let words: Vec<OsString> = [program, ROLE.into()].into_iter().chain(typed).collect();
    let failed = |e| Failure::failed("cannot start the supervisor", e);
    let variable = (own_log::VARIABLE, known_as);
    let mut started = binary.start_apart(&words, variable, [null.as_fd(), log.as_fd()]).map_err(failed)?;
    match started.child.confirm.wait() {
        Progress::Failed(e) => Err(failed(e)),
        Progress::Execed | Progress::Pending => Ok(started),
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Every worker was started for the first time.
    Ready,
    /// The other end has closed.
    Nothing { interrupted: bool },
}

/// Waits for the byte or the end, however long that takes. A first signal asks for the end, a second one ends the waiting.
fn wait(started: &Started, signals: &SignalFd) -> io::Result<Came> {
    let mut interrupted = false;
    loop {
        let mut polled =
            [PollFd::new(&started.socket, PollFlags::IN), PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        if signals.read_signal()?.is_some() {
            if interrupted {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted once more; it is being stopped"));
            }
            interrupted = true;
            rustix::net::shutdown(&started.socket, rustix::net::Shutdown::Write)?;
        }
        match rustix::io::read(&started.socket, &mut [0_u8; 1]) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(Came::Nothing { interrupted }),
            Ok(_) => return Ok(Came::Ready),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Every worker as it is by now.
fn told(client: &Client, output: Output) -> Result<Said, Failure> {
    let workers: Workers = client.get("/v1/workers")?;
    let (out, err) = match output {
        Output::Text => (render::started(&workers.workers), render::not_started(&workers.workers)),
        Output::Json => (crate::cli::said::document(&workers)?, String::new()),
    };
    Ok(Said { out, err, exit: Exit::Ok })
}

/// The end of what was started, in its own words where it had some.
fn ended(status: ExitStatus, words: &str, interrupted: bool, log: &Path) -> Said {
    let exit = match status {
        ExitStatus::Exited { code: 2 } => Exit::Usage,
        ExitStatus::Exited { code: 5 } => Exit::NotPermitted,
        _ => Exit::Failed,
    };
    let mut err = render::inert_lines(words);
    if interrupted && status == (ExitStatus::Exited { code: 0 }) {
        err.push_str("pinfold: interrupted before every worker was started: all of them are stopped, and the supervisor has ended\n");
    } else if err.is_empty() {
        let how = match status {
            ExitStatus::Exited { code } => format!("ended with code {code}"),
            ExitStatus::Signaled { signal, .. } => format!("was ended by {}", render::signal_name(signal)),
        };
        let log = render::inert(&log.to_string_lossy()).into_owned();
        err = format!("pinfold: the supervisor {how} before every worker was started; its log is {log}\n");
    }
    Said { out: String::new(), err, exit }
}

/// What the file has got since it had `from` bytes, or the last of it.
fn last_words(log: &File, from: u64) -> io::Result<String> {
    let length = log.metadata()?.len();
    // Shorter than it was: it was cut off in between.
    let from = if length < from { 0 } else { from }.max(length.saturating_sub(LAST_WORDS));
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    let read = log.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: ExitStatus, words: &str, interrupted: bool) -> (u8, String) {
        let said = ended(status, words, interrupted, Path::new("/s/pinfold.log"));
        assert_eq!(said.out, "");
        (said.exit.code(), said.err)
    }

    #[test]
    fn what_ends_before_every_worker_was_started_is_told_in_its_own_words_with_its_own_code() {
        let exited = |code| ExitStatus::Exited { code };
        let killed = ExitStatus::Signaled { signal: 9, core: false };
        assert_eq!(of(exited(1), "pinfold: no\x1b[2J place\n", false), (1, "pinfold: no\\u{1b}[2J place\n".into()));
        assert_eq!(of(exited(2), "a\nb", false), (2, "a\nb\n".into()));
        assert_eq!(of(exited(5), "not permitted\n", false).0, 5);
        let silent =
            "pinfold: the supervisor was ended by SIGKILL before every worker was started; its log is /s/pinfold.log\n";
        assert_eq!(of(killed, "", false), (1, silent.into()));
        assert_eq!(of(exited(0), "", false).0, 1, "an end is no success, however good");
        assert!(of(exited(0), "", true).1.contains("interrupted before every worker was started"));
    }

    #[test]
    fn the_last_words_are_what_came_since_and_at_most_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::write(&path, "before\nsince\n").unwrap();
        assert_eq!(last_words(&log, 7).unwrap(), "since\n");
        assert_eq!(last_words(&log, 13).unwrap(), "");
        assert_eq!(last_words(&log, 99).unwrap(), "before\nsince\n", "it was cut off meanwhile");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert_eq!(last_words(&log, 7).unwrap().len(), 4096);
    }
}
