//! What we end with: the one table of exit codes, and the one place where an error is printed.

use nix::libc;

use super::render::{inert, inert_lines};
use crate::api::wire::{Code, Problem};
use crate::model::{self, ExitCause, ExitStatus, Stage, StartError};

/// The exit codes of this version. Scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Ok,
    /// The operation failed.
    Failed,
    /// The command line or a config is wrong.
    Usage,
    /// `status`: the worker does not run.
    NotRunning,
    /// No such worker.
    NoSuchWorker,
    /// Not permitted.
    NotPermitted,
    /// No supervisor answers.
    Unreachable,
    /// It was not done in time.
    TimedOut,
    /// A restart breaker is open.
    BreakerOpen,
    /// `run`: what became of the command.
    Command(CommandEnd),
    /// `run`: we could not do our part.
    RunFailed,
}

/// What became of the command of a `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandEnd {
    /// Its own code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
    /// The OOM killer.
    Oom,
    /// `--timeout`, however it then ended.
    Timeout,
    /// It cannot be executed.
    NotExecutable,
    /// There is no such program.
    NotFound,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::NoSuchWorker => 4,
            Self::NotPermitted => 5,
            Self::Unreachable => 6,
            Self::TimedOut => 7,
            Self::BreakerOpen => 8,
            Self::RunFailed => 125,
            Self::Command(end) => match end {
                // waitid(2) gives the low 8 bits, so nothing is lost.
                CommandEnd::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
                // Signals end at 64.
                CommandEnd::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
                CommandEnd::Oom => 128 + 9,
                CommandEnd::Timeout => 124,
                CommandEnd::NotExecutable => 126,
                CommandEnd::NotFound => 127,
            },
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What a command ends with that the API answered with `code`.
#[must_use]
pub const fn of_code(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NoSuchWorker,
        Code::BadRequest
        | Code::MethodNotAllowed
        | Code::TooLarge
        | Code::UnsupportedMediaType
        | Code::IdempotencyMismatch
        | Code::BadConfig => Exit::Usage,
        Code::NotPermitted => Exit::NotPermitted,
        Code::TimedOut => Exit::TimedOut,
        Code::BreakerOpen => Exit::BreakerOpen,
        Code::NoSuchRun
        | Code::TooSlow
        | Code::TooManyConnections
        | Code::GoingDown
        | Code::NotRunning
        | Code::StartFailed
        | Code::Ended
        | Code::NotNow
        | Code::Superseded
        | Code::LimitRefused
        | Code::Busy
        | Code::Taken
        | Code::Declared
        | Code::Unkillable
        | Code::Failed
        | Code::Unknown => Exit::Failed,
    }
}

/// What `run` ends with: the command's own word where it had one, else what the shells use.
#[must_use]
pub fn of_run(
    cause: &ExitCause,
    status: Option<ExitStatus>,
    timed_out: bool,
    start_error: Option<&StartError>,
) -> Exit {
    if timed_out {
        return Exit::Command(CommandEnd::Timeout);
    }
    if let Some(error) = start_error {
        return of_start_error(error);
    }
    match (cause, status) {
        (ExitCause::Oom { .. }, _) => Exit::Command(CommandEnd::Oom),
        (_, Some(ExitStatus::Exited { code })) => Exit::Command(CommandEnd::Code(code)),
        (_, Some(ExitStatus::Signaled { signal, .. })) => Exit::Command(CommandEnd::Signal(signal)),
        (_, None) => Exit::RunFailed,
    }
}

/// What `run` ends with where the command never ran: 126 and 127 are about the program, as a shell has them; everything
/// else is about us or the host.
#[must_use]
pub fn of_start_error(error: &StartError) -> Exit {
    match (error.stage, error.errno) {
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => Exit::Command(CommandEnd::NotFound),
        (Stage::Exec, libc::ENOMEM | libc::E2BIG | libc::EAGAIN | libc::EMFILE | libc::ENFILE) => Exit::RunFailed,
        (Stage::Exec, _) => Exit::Command(CommandEnd::NotExecutable),
        _ => Exit::RunFailed,
    }
}

/// A command that could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong where clap cannot know it; each problem is a line.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong: the loader's text, with an excerpt below each problem.
    #[error("{0}")]
    Config(String),
    /// The operation failed.
    #[error("{doing}")]
    Failed {
        /// What was being done: `cannot write /x`.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection to a supervisor broke before there was an answer: nobody knows what has come of it.
    #[error("{doing}")]
    BrokeOff {
        /// What was not answered.
        doing: String,
        /// Why it broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No supervisor answers; the sentence says where it was looked for, and what to do.
    #[error("{0}")]
    Unreachable(String),
    /// The supervisor's own word.
    #[error("{}", .0.detail)]
    Answered(Box<Problem>),
    /// `run`: we could not do our part.
    #[error("{doing}")]
    Run {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Failure {
    /// An operation that failed.
    pub fn failed(doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    /// What we end with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config(_) => Exit::Usage,
            Self::Failed { source, .. } if denied(source.as_ref()) => Exit::NotPermitted,
            Self::Failed { .. } | Self::BrokeOff { .. } => Exit::Failed,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Answered(problem) => of_code(problem.code),
            Self::Run { .. } => Exit::RunFailed,
        }
    }

    /// The error and its whole chain of reasons in one line: `pinfold: cannot read /x: Permission denied`.
    #[must_use]
    pub fn sentence(&self) -> String {
        // Several problems are several lines, all of our own making; no other error has more than one.
        match self {
            Self::Usage(problems) => {
                let lines: Vec<_> = problems.lines().map(|line| format!("pinfold: {}", inert(line))).collect();
                return lines.join("\n");
            }
            Self::Config(problems) => return format!("pinfold: {}", inert_lines(problems).trim_end()),
            // One line for each: together they are no sentence.
            Self::Answered(problem) if problem.problems.len() > 1 => {
                let told = problem.detail.split(": ").next().unwrap_or_default();
                let wrong = problem.problems.iter().map(|wrong| inert(&wrong.to_string()).into_owned());
                return format!("pinfold: {}:\n{}", inert(told), wrong.collect::<Vec<_>>().join("\n"));
            }
            _ => {}
        }
        format!("pinfold: {}", chain(self))
    }
}

fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::PermissionDenied;
        }
        next = error.source();
    }
    false
}

/// An error and its reasons on one line, with nothing in it that a terminal would act on.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    inert(&model::chain(error)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KilledBy, OomScope};

    #[test]
    fn the_codes_of_run_are_those_of_the_shells_and_of_timeout() {
        let exited = |code| Some(ExitStatus::Exited { code });
        let signaled = |signal| Some(ExitStatus::Signaled { signal, core: false });
        let stopped = ExitCause::Killed { by: KilledBy::Stop, policy: None };
        let code = |cause: &ExitCause, status, timed_out| of_run(cause, status, timed_out, None).code();
        assert_eq!(code(&ExitCause::Exited { code: 255 }, exited(255), false), 255);
        assert_eq!(code(&ExitCause::Signaled { signal: 11, core: false }, signaled(11), false), 139);
        assert_eq!(code(&ExitCause::Signaled { signal: 64, core: false }, signaled(64), false), 192);
        assert_eq!(code(&ExitCause::Oom { scope: OomScope::Worker }, signaled(9), false), 137);
        assert_eq!(code(&ExitCause::Oom { scope: OomScope::Ancestor }, exited(1), false), 137);
        assert_eq!(code(&stopped, exited(0), false), 0, "a command that ends well when asked has ended well");
        assert_eq!(code(&stopped, signaled(15), false), 143);
        assert_eq!(code(&stopped, signaled(15), true), 124);
        assert_eq!(code(&ExitCause::KilledExternal, signaled(9), false), 137);
    }

    #[test]
    fn a_command_that_never_ran_has_the_shells_codes() {
        let code = |stage, errno| of_start_error(&StartError::os(stage, "x", errno)).code();
        assert_eq!(code(Stage::Exec, libc::ENOENT), 127);
        assert_eq!(code(Stage::Exec, libc::EACCES), 126);
        assert_eq!(code(Stage::Exec, libc::ENOEXEC), 126);
        assert_eq!(code(Stage::Exec, libc::ENOMEM), 125, "the host's fault, not the program's");
        assert_eq!(code(Stage::Chdir, libc::ENOENT), 125);
        assert_eq!(code(Stage::Limit, 0), 125);
        assert_eq!(code(Stage::EnvFile, libc::ENOENT), 125, "it is ours to read");
    }

    #[test]
    fn the_codes_of_what_the_supervisor_says() {
        let exit = |code| Failure::Answered(Box::new(Problem::new(code, "x"))).exit().code();
        assert_eq!(exit(Code::NotFound), 4);
        assert_eq!(exit(Code::NotPermitted), 5);
        assert_eq!(Failure::Unreachable("nobody".into()).exit().code(), 6);
        assert_eq!(exit(Code::TimedOut), 7);
        assert_eq!(exit(Code::BreakerOpen), 8);
        assert_eq!(exit(Code::BadRequest), 2);
        for failed in [Code::StartFailed, Code::Unkillable, Code::GoingDown, Code::NotRunning, Code::Unknown] {
            assert_eq!(exit(failed), 1, "{failed:?}");
        }
        let hostile = Failure::Answered(Box::new(Problem::new(Code::NotFound, "no \u{1b}[2J\nworker")));
        assert_eq!(hostile.sentence(), r"pinfold: no \u{1b}[2J\nworker");
    }

    #[test]
    fn an_error_is_one_line_with_its_reasons() {
        let denied = std::io::Error::from_raw_os_error(libc::EACCES);
        let failure = Failure::failed("cannot write /x/\u{1b}y", denied);
        assert_eq!(failure.sentence(), r"pinfold: cannot write /x/\u{1b}y: Permission denied");
        assert_eq!(failure.exit().code(), 5);
        let two = Failure::Usage("--cpu: wrong\n--pids: \u{1b}wrong".into());
        assert_eq!(two.sentence(), "pinfold: --cpu: wrong\npinfold: --pids: \\u{1b}wrong");
    }
}
