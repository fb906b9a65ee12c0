//! Starting the other roles of the binary, and what every role does first.
//!
//! A role's socket is its standard input, like a server's under inetd: no number to pass, nothing to guess.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use serde_bytes::ByteBuf;

use super::own_log;
use super::setup::{Leaf, bytes};
use super::transport;
use crate::kernel::launch::plan::{LaunchPlan, Session};
use crate::kernel::launch::{self, Child, Method, resolve::OURS_ALONE};
use crate::model::{Stage, StartError, inert};

/// The word that makes the binary the supervisor.
pub const SUPERVISOR: &str = "__supervisor";
/// The word that makes the binary the logger.
pub const LOGGER: &str = "__logger";

/// The binary that was started, also after its file has been replaced: a restarted role must speak the protocol of
/// those that live.
#[derive(Debug)]
pub struct Binary {
    file: File,
}

/// A role that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process.
    pub child: Child,
    /// Our end of its socket.
    pub socket: OwnedFd,
}

impl Binary {
    /// Holds on to the running one.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn running() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/exe")? })
    }

    /// Starts `role` with a socket to us as its standard input; its stdout and stderr are ours. Its exec is not waited
    /// for: look at [`Child::confirm`] before making anything of its exit code.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        &self,
        role: &str,
        args: &[OsString],
        leaf: Option<(&Leaf, Method)>,
        session: Session,
    ) -> Result<Started, StartError> {
        let (ours, theirs) = pair()?;
        let words = [OsStr::new("pinfold"), OsStr::new(role)];
        let argv = words.into_iter().chain(args.iter().map(OsString::as_os_str)).map(bytes).collect();
        let plan = LaunchPlan {
            cgroup_name: leaf.map(|(leaf, _)| leaf.name.clone()).unwrap_or_default(),
            ..self.plan(argv, session)
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let stdio = [theirs.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let child = match leaf {
            Some((leaf, method)) => launch::spawn(&plan, leaf.directory.as_fd(), stdio, method)?,
            None => launch::spawn_here(&plan, stdio)?,
        };
        Ok(Started { child, socket: ours })
    }

    /// Starts the binary with these words, `argv[0]` among them, in a session of its own, with a socket to us as its standard input
    /// and one more variable in its environment.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_apart(
        &self,
        words: &[OsString],
        (variable, value): (&str, &str),
        [stdout, stderr]: [BorrowedFd<'_>; 2],
    ) -> Result<Started, StartError> {
        let (ours, theirs) = pair()?;
        let mut plan = self.plan(words.iter().map(|word| bytes(word)).collect(), Session::New);
        let ours_alone = format!("{variable}=");
        plan.env.retain(|entry| !entry.starts_with(ours_alone.as_bytes()));
        plan.env.push(ByteBuf::from(ours_alone + value));
        let child = launch::spawn_here(&plan, [theirs.as_fd(), stdout, stderr])?;
        Ok(Started { child, socket: ours })
    }

    /// Ourselves once more, with these words.
    fn plan(&self, argv: Vec<ByteBuf>, session: Session) -> LaunchPlan {
        LaunchPlan {
            cgroup_name: String::new(),
            candidates: vec![ByteBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))],
            argv,
            env: own_env(),
            working_directory: ByteBuf::from(*b"."),
            ids: None,
            umask: umask(),
            rlimits: Vec::new(),
            nice: None,
            oom_score_adj: oom_score_adj(),
            session,
        }
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), StartError> {
    transport::pair().map_err(|e| StartError::os(Stage::Stdio, "socketpair", e.raw_os_error().unwrap_or(libc::EIO)))
}

/// Our environment without the service manager's channel to the main process.
fn own_env() -> Vec<ByteBuf> {
    let theirs = std::env::vars_os().filter(|(key, _)| !OURS_ALONE.iter().any(|ours| key == ours));
    theirs.map(|(key, value)| ByteBuf::from([key.as_bytes(), value.as_bytes()].join(&b'='))).collect()
}

fn umask() -> u32 {
    let now = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(now);
    now.as_raw_mode()
}

fn oom_score_adj() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The OOM killer takes almost anything else first: what is gone with us is the supervision of all the others. Not −1000, which
/// would have us outlive our own fault.
const PROTECTED: i32 = -900;

/// Has the OOM killer spare this process, and the roles that it starts. Workers, and what else is launched by a plan, have the score
/// of theirs. Without the privilege (`CAP_SYS_RESOURCE`) everything stays as it is.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn protect() -> io::Result<()> {
    if oom_score_adj() <= PROTECTED {
        return Ok(());
    }
    match std::fs::write("/proc/self/oom_score_adj", PROTECTED.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        written => written,
    }
}

/// Takes the role's socket out of the standard input, which is `/dev/null` afterwards, and gives the process a name.
///
/// # Errors
/// Where the standard input is no such socket: a role is not meant to be started by hand.
pub fn begin(name: &CStr) -> io::Result<OwnedFd> {
    rustix::thread::set_name(name)?;
    let stdin = io::stdin();
    if rustix::net::sockopt::socket_type(&stdin)? != rustix::net::SocketType::SEQPACKET {
        return Err(io::Error::other("the standard input is not our socket"));
    }
    let socket = stdin.as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(socket)
}

/// One line on stderr. Dropped where it would have to wait: a stuck terminal or log must not stop the role.
pub fn say(role: &str, line: &dyn std::fmt::Display) {
    let text = format!("pinfold {role}: {}\n", inert(&line.to_string()));
    if is_journal() { offer(&prefixed(Priority::Warning, text.as_bytes())) } else { offer(text.as_bytes()) }
}

/// syslog(3)'s priorities, as far as we have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are syslog's")]
pub enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// Whether stderr is the journal's (`JOURNAL_STREAM`, systemd.exec(5)). It has the time of each line by itself, and its priority from
/// what [`prefixed`] puts before it. By prefix, and not through the journal's own socket: that waits where the journal is stuck.
#[must_use]
pub fn is_journal() -> bool {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    *JOURNAL.get_or_init(|| own_log::is_named_by(io::stderr().as_fd(), "JOURNAL_STREAM"))
}

/// Each line of `text` with its priority, as sd-daemon(3) has it.
#[must_use]
pub fn prefixed(priority: Priority, text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let prefix = format!("<{}>", priority as u8);
    lines.flat_map(|line| [prefix.as_bytes(), line].concat()).collect()
}

/// One event of the log as one line, whatever names and reasons it repeats. An ESC that is still in there is a colour of tracing's
/// own: those of others it has written out itself.
#[must_use]
pub fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
    let words: Vec<_> = line.split('\u{1b}').map(inert).collect();
    (words.join("\u{1b}") + end).into_bytes()
}

/// `text` on stderr, or nowhere: see [`say`].
pub fn offer(text: &[u8]) {
    let stderr = io::stderr();
    let mut poll = [rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready == 1) {
        // There is nowhere to report that stderr is gone.
        stderr.lock().write_all(text).ok();
        own_log::written(stderr.as_fd());
    }
}

/// Raises the soft limit of open files to the hard one; the limit from before, for children to get back.
///
/// # Errors
/// setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<rustix::process::Rlimit> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_one_line_whatever_it_repeats() {
        for (event, line) in [
            ("WARN \u{1b}[2mx\u{1b}[0m\n", "WARN \u{1b}[2mx\u{1b}[0m\n"),
            ("a\nERROR b\r\u{202e}\u{9b}c\n\n", "a\\nERROR b\\r\\u{202e}\\u{9b}c\\n\n"),
            ("no end", "no end"),
        ] {
            assert_eq!(String::from_utf8(one_line(event.as_bytes())).unwrap(), line);
        }
    }

    #[test]
    fn every_line_has_its_priority_and_none_can_have_another() {
        assert_eq!(prefixed(Priority::Error, b"one\ntwo\n"), b"<3>one\n<3>two\n");
        assert_eq!(prefixed(Priority::Debug, b"<0>forged"), b"<7><0>forged");
        assert_eq!(prefixed(Priority::Info, b""), b"");
    }
}
