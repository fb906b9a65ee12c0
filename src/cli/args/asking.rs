//! The commands that ask a supervisor through its socket.

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{FormatArg, Globals, OutputArg};
use crate::cli::completion::workers;
use crate::model::Stream;

/// `pinfold ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// A name, or part of it with * and ?; several with commas [default: all]
    #[arg(value_name = "PATTERN", add = ArgValueCompleter::new(workers))]
    pub pattern: Option<String>,
    /// Also workers that rest: stopped on request, done, or never started
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Only names, one a line; with -o json a list of them
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Go on: a terminal shows the table in the place of the one before; a pipe has a row (-o json: a line) at each change
    #[arg(short = 'w', long, conflicts_with = "quiet")]
    pub watch: bool,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// A name, or part of it with * and ?; several with commas [default: all]
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// Only once, measured over a second
    #[arg(long)]
    pub no_stream: bool,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold top`.
#[derive(Debug, Args)]
pub struct Top {
    /// A name, or part of it with * and ?; several with commas [default: all]
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold status`, `pinfold inspect` and `pinfold why`.
#[derive(Debug, Args)]
pub struct Named {
    /// The worker
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(workers))]
    pub name: String,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold count`.
#[derive(Debug, Args)]
pub struct Count {
    /// A name, or part of it with * and ?; several with commas [default: all]
    #[arg(value_name = "PATTERN", add = ArgValueCompleter::new(workers))]
    pub pattern: Option<String>,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// Whom something is asked of, and how long to wait for it.
#[derive(Debug, Args)]
pub struct Whom {
    /// Names, or parts of them with * and ?
    #[arg(value_name = "PATTERN", required = true, add = ArgValueCompleter::new(workers))]
    pub patterns: Vec<String>,
    /// Wait no longer than this (30s, 1m30s); what was asked goes on [default: until it is done]
    #[arg(long, value_name = "DURATION", conflicts_with = "no_wait")]
    pub timeout: Option<String>,
    /// Do not wait until it is done, only until every worker has taken notice
    #[arg(long)]
    pub no_wait: bool,
}

/// `pinfold start`, `stop`, `kill`, `reset`, `freeze` and `thaw`.
#[derive(Debug, Args)]
pub struct Ask {
    /// Whom.
    #[command(flatten)]
    pub whom: Whom,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold restart`.
#[derive(Debug, Args)]
pub struct Restart {
    /// Also where the restart breaker is open
    #[arg(long)]
    pub force: bool,
    /// Whom.
    #[command(flatten)]
    pub whom: Whom,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold signal`.
#[derive(Debug, Args)]
pub struct Signal {
    /// Which signal: HUP, SIGUSR1, RTMIN+3, 10
    #[arg(value_name = "SIG")]
    pub signal: String,
    /// Whom.
    #[command(flatten)]
    pub whom: Whom,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Wait no longer than this (30s, 1m30s); what was asked goes on [default: until it is gone]
    #[arg(long, value_name = "DURATION", conflicts_with = "no_wait")]
    pub timeout: Option<String>,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold plan` and `pinfold reload`.
#[derive(Debug, Args)]
pub struct Plan {
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold scale`.
#[derive(Debug, Args)]
pub struct Scale {
    /// Which worker, and how many instances of it, until the next reload
    #[arg(value_name = "NAME=N")]
    pub target: String,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The worker
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(workers))]
    pub name: String,
    /// Limits by their keys in the config.
    #[arg(
        value_name = "KEY=VALUE",
        required = true,
        help = "Limits by their keys in the config: memory.max_rss=1G pids.max=100"
    )]
    pub limits: Vec<String>,
    /// Put the configured limits back after this time (10m)
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "persist")]
    pub for_: Option<String>,
    /// Keep them for every later run, too, over what is configured
    #[arg(long)]
    pub persist: bool,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with what happens, until interrupted; without --since only with that
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Only what is younger than this (10m, 1h30m), or than a moment (2026-11-20T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only events like this: worker=PATTERN, kind=exited, cause=oom, run=3, severity=, state=, limit=; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold history`.
#[derive(Debug, Args)]
pub struct History {
    /// The worker
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(workers))]
    pub name: String,
    /// How many runs, the newest first: 1 to 1000
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub number: u32,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The worker
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(workers))]
    pub name: String,
    /// Go on as more comes, and with the next run
    #[arg(short = 'f', long, conflicts_with = "previous")]
    pub follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u64>,
    /// Only what came since: a time before now (10m), or a moment (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only the run before the current or last one
    #[arg(short = 'p', long)]
    pub previous: bool,
    /// Only this run
    #[arg(long, value_name = "N", conflicts_with = "previous")]
    pub run: Option<u32>,
    /// Only one of its streams [default: both]
    #[arg(long, value_name = "STREAM", value_parser = stream)]
    pub stream: Option<Stream>,
    /// The time before each line, to a tenth of a second
    #[arg(short = 't', long, conflicts_with = "output")]
    pub timestamps: bool,
    /// `-o`.
    #[command(flatten)]
    pub output: OutputArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

fn stream(word: &str) -> Result<Stream, String> {
    let found = Stream::ALL.into_iter().find(|stream| stream.as_str() == word);
    found.ok_or_else(|| "write stdout or stderr".to_owned())
}

/// `pinfold reexec`.
#[derive(Debug, Args)]
pub struct Reexec {
    /// Wait no longer than this until the new one answers (30s, 1m30s)
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: String,
    /// `-o`.
    #[command(flatten)]
    pub output: FormatArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}
