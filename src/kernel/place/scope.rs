//! A scope of our own, asked of systemd over D-Bus (`StartTransientUnit`, org.freedesktop.systemd1(5)).
//!
//! The D-Bus library starts threads, and a keeper with threads could not fork safely. So a short-lived child of the
//! same binary does the asking ([`child_main`]) and answers with one line of JSON ([`request`]).
//!
//! It goes over the bus. systemd's private socket would do without a D-Bus daemon, but its messages carry a sender that
//! is no unique name, which the library takes for a broken peer (zbus 5.19 panics).

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use zbus::{
    Message,
    blocking::{Connection, MessageIterator},
    message::Type,
    zvariant::{OwnedObjectPath, OwnedValue, Value},
};

use crate::{clock, model::Mono};

/// The role of the child in `main`.
pub const ROLE: &str = "__scope";
/// How long systemd may take.
const DEADLINE: Duration = Duration::from_secs(10);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The unit's name: `pinfold.scope`.
    pub unit: String,
    /// Of the user's manager instead of the system's.
    pub user: bool,
    /// The processes that begin it and keep it alive. At least one.
    pub pids: Vec<u32>,
    /// Where the unit exists already (its workers outlived a supervisor): the cgroup below it that `pids` join, with a
    /// leading slash. `None`: that it exists is an error.
    pub join: Option<String>,
}

/// The scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Its cgroup, as `0::` of `/proc/PID/cgroup` has it.
    pub control_group: String,
    /// Whether it was there before.
    pub existed: bool,
}

/// Why there is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ScopeError {
    /// The bus does not answer.
    #[error(
        "systemd cannot be reached over D-Bus ({reason}); install dbus (for a user: log in through a session that has \
         a user manager), or name a delegated cgroup with --cgroup-root"
    )]
    NoBus {
        /// What the library said.
        reason: String,
    },
    /// polkit or systemd said no.
    #[error("systemd refuses to start {unit}: {reason}; run as root, or let the user manager do it (no sudo)")]
    Denied {
        /// The unit.
        unit: String,
        /// Its words.
        reason: String,
    },
    /// Another run has this unit.
    #[error(
        "the unit {unit} exists already; `systemctl stop {unit}` (a user's: `systemctl --user stop {unit}`) ends it and \
         everything in it"
    )]
    Exists {
        /// The unit.
        unit: String,
    },
    /// Anything else systemd said.
    #[error("systemd could not start {unit}: {reason}")]
    Failed {
        /// The unit.
        unit: String,
        /// Its words.
        reason: String,
    },
    /// No answer.
    #[error("systemd did not start {unit} within {} s", DEADLINE.as_secs())]
    Timeout {
        /// The unit.
        unit: String,
    },
    /// The child that asks could not do its work.
    #[error("the helper that asks systemd for {unit} failed: {reason}")]
    Helper {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
}

/// The name of the scope of `up` with this state directory. The usual directory has the plain name.
#[must_use]
pub fn unit_of_state_dir(state_dir: &std::path::Path, usual: &std::path::Path) -> String {
    if state_dir == usual {
        return "pinfold.scope".to_owned();
    }
    format!("pinfold-{:08x}.scope", fnv(state_dir.as_os_str().as_encoded_bytes()))
}

/// The name of the scope of one `run`.
#[must_use]
pub fn unit_of_run() -> String {
    format!("pinfold-run-{}-{:06x}.scope", std::process::id(), fastrand::u32(..0x0100_0000))
}

/// FNV-1a: a name that stays the same for ever, which std's hasher does not promise.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Asks for a scope through a child of this binary, and waits for the answer, 10 s at most.
///
/// # Errors
/// [`ScopeError`] says which of the ways it went wrong, and what to do.
pub fn request(request: &Request) -> Result<Scope, ScopeError> {
    let failed = |reason: String| ScopeError::Helper { unit: request.unit.clone(), reason };
    let body = serde_json::to_string(request).map_err(|e| failed(e.to_string()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("pinfold")
        .arg(ROLE)
        .arg(body)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let answer = read_line(&mut child, clock::monotonic() + DEADLINE);
    if !matches!(answer, Ok(Some(_))) {
        // It may hang on a socket. It is our child and not yet reaped, so the number is its own.
        child.kill().map_err(|e| failed(e.to_string()))?;
    }
    child.wait().map_err(|e| failed(e.to_string()))?;
    match answer.map_err(|e| failed(e.to_string()))? {
        None => Err(ScopeError::Timeout { unit: request.unit.clone() }),
        Some(line) => serde_json::from_str::<Result<Scope, ScopeError>>(&line)
            .unwrap_or_else(|e| Err(failed(format!("it said {line:?} ({e})")))),
    }
}

/// All that the child writes, `None` at the deadline.
fn read_line(child: &mut Child, deadline: Mono) -> std::io::Result<Option<String>> {
    let Some(mut out) = child.stdout.take() else { return Ok(Some(String::new())) };
    let mut text = Vec::new();
    loop {
        let left = deadline.since(clock::monotonic());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut fds = [PollFd::new(&out, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(rustix::io::Errno::INTR) if fds[0].revents().is_empty() => {}
            Ok(_) => {
                let mut part = [0; 4096];
                match out.read(&mut part)? {
                    0 => return Ok(Some(String::from_utf8_lossy(&text).into_owned())),
                    n => text.extend_from_slice(&part[..n]),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// The child: asks, prints the answer as one line of JSON on stdout.
#[must_use]
pub fn child_main(args: &[String]) -> ExitCode {
    let answer = match args {
        [body] => match serde_json::from_str::<Request>(body) {
            Ok(request) => start(&request),
            Err(e) => Err(ScopeError::Helper { unit: String::new(), reason: e.to_string() }),
        },
        _ => Err(ScopeError::Helper { unit: String::new(), reason: "one argument is expected".to_owned() }),
    };
    let printed = serde_json::to_string(&answer)
        .map_err(std::io::Error::other)
        .and_then(|line| writeln!(std::io::stdout(), "{line}"));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start(request: &Request) -> Result<Scope, ScopeError> {
    let bus = if request.user { Connection::session() } else { Connection::system() };
    let bus = Bus(bus.map_err(|e| ScopeError::NoBus { reason: e.to_string() })?);
    let failed = |e: zbus::Error| explain(&request.unit, &e);
    // Before the call, so that its end cannot be missed.
    let messages = MessageIterator::from(&bus.0);
    let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
    let dbus = "org.freedesktop.DBus";
    bus.0.call_method(Some(dbus), "/org/freedesktop/DBus", Some(dbus), "AddMatch", &rule).map_err(failed)?;
    bus.manager("Subscribe", &()).map_err(failed)?;
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let started = bus.manager("StartTransientUnit", &(&request.unit, "fail", properties(request), auxiliary));
    let existed = match (started, &request.join) {
        (Ok(reply), _) => {
            let job: OwnedObjectPath = reply.body().deserialize().map_err(failed)?;
            wait_for_job(messages, &job, &request.unit)?;
            false
        }
        (Err(e), Some(below)) if is_named(&e, "UnitExists") => {
            let body = (&request.unit, below, &request.pids);
            bus.manager("AttachProcessesToUnit", &body).map_err(failed)?;
            true
        }
        (Err(e), _) => return Err(failed(e)),
    };
    let control_group = bus.control_group(&request.unit).map_err(failed)?;
    Ok(Scope { control_group, existed })
}

/// What the scope is like. It ends when its last process does, and leaves nothing behind then, failed or not. Its
/// stop (at shutdown, or by `systemctl stop`) is systemd's ordinary one: SIGTERM to all in it, SIGKILL 90 s later.
fn properties(request: &Request) -> Vec<(&'static str, Value<'_>)> {
    vec![
        ("Description", Value::from("Workers of pinfold")),
        ("Delegate", Value::from(true)),
        ("CollectMode", Value::from("inactive-or-failed")),
        // systemd's default is a share of the host's pids, for all workers together.
        ("TasksMax", Value::from(u64::MAX)),
        ("PIDs", Value::from(request.pids.as_slice())),
    ]
}

fn wait_for_job(messages: MessageIterator, job: &OwnedObjectPath, unit: &str) -> Result<(), ScopeError> {
    for message in messages {
        let message = message.map_err(|e| explain(unit, &e))?;
        let header = message.header();
        let is_end = message.message_type() == Type::Signal && header.member().is_some_and(|m| m == "JobRemoved");
        if !is_end {
            continue;
        }
        let body = message.body().deserialize::<(u32, OwnedObjectPath, String, String)>();
        let (_, ended, _, result) = body.map_err(|e| explain(unit, &e))?;
        if ended == *job {
            return match result.as_str() {
                "done" => Ok(()),
                other => {
                    Err(ScopeError::Failed { unit: unit.to_owned(), reason: format!("its start job ended as {other}") })
                }
            };
        }
    }
    Err(ScopeError::NoBus { reason: "the connection ended".to_owned() })
}

/// A connection to systemd's manager.
struct Bus(Connection);

impl Bus {
    fn manager<B: Serialize + zbus::zvariant::DynamicType>(&self, method: &str, body: &B) -> zbus::Result<Message> {
        self.0.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body)
    }

    fn control_group(&self, unit: &str) -> zbus::Result<String> {
        let path: OwnedObjectPath = self.manager("GetUnit", &unit)?.body().deserialize()?;
        let body = ("org.freedesktop.systemd1.Scope", "ControlGroup");
        let properties = Some("org.freedesktop.DBus.Properties");
        let reply = self.0.call_method(Some(SYSTEMD), path, properties, "Get", &body)?;
        let value: OwnedValue = reply.body().deserialize()?;
        Ok(String::try_from(value)?)
    }
}

fn is_named(e: &zbus::Error, name: &str) -> bool {
    matches!(e, zbus::Error::MethodError(n, ..) if n.as_str().rsplit('.').next() == Some(name))
}

fn explain(unit: &str, e: &zbus::Error) -> ScopeError {
    let unit = unit.to_owned();
    let reason = match e {
        zbus::Error::MethodError(name, detail, _) => detail.clone().unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    };
    if is_named(e, "UnitExists") {
        ScopeError::Exists { unit }
    } else if ["AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed"].iter().any(|n| is_named(e, n)) {
        ScopeError::Denied { unit, reason }
    } else {
        ScopeError::Failed { unit, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_state_directory_always_has_the_same_unit_and_no_other_has_it() {
        let usual = Path::new("/var/lib/pinfold");
        assert_eq!(unit_of_state_dir(usual, usual), "pinfold.scope");
        let other = unit_of_state_dir(Path::new("/srv/a"), usual);
        assert_eq!(other, unit_of_state_dir(Path::new("/srv/a"), usual));
        assert_ne!(other, unit_of_state_dir(Path::new("/srv/b"), usual));
        // FNV-1a's published test vector: the name must survive upgrades.
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn every_answer_survives_the_pipe() {
        let answers: [Result<Scope, ScopeError>; 3] = [
            Ok(Scope { control_group: "/system.slice/pinfold.scope".into(), existed: true }),
            Err(ScopeError::Exists { unit: "pinfold.scope".into() }),
            Err(ScopeError::NoBus { reason: "no such file".into() }),
        ];
        for answer in answers {
            let line = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Result<Scope, ScopeError>>(&line).unwrap(), answer);
        }
    }

    #[test]
    fn the_helper_that_says_nothing_is_given_up_at_the_deadline() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        let deadline = clock::monotonic() + Duration::from_millis(20);
        assert_eq!(read_line(&mut child, deadline).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut child = Command::new("echo").arg("hello").stdout(Stdio::piped()).spawn().unwrap();
        let deadline = clock::monotonic() + Duration::from_secs(10);
        assert_eq!(read_line(&mut child, deadline).unwrap().as_deref(), Some("hello\n"));
        child.wait().unwrap();
    }
}
