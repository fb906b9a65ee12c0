//! The commands that do their work themselves, without asking a supervisor.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Globals, OutputArg};

/// `pinfold up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Config files, beside those of --config
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Go on in the background once every worker was started; its own messages go to pinfold.log in the state directory
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// What SIGTERM does
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub on_term: OnTerm,
    /// `-o`.
    #[command(flatten)]
    pub output: OutputArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `--on-term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnTerm {
    /// Stop every worker, then end.
    #[default]
    Stop,
    /// End and leave the workers running; the next up takes them over.
    Detach,
}

/// `pinfold run`. Numbers, sizes, durations and signals are kept as they were typed: `spec` reads them, by the rules of the
/// config, so that a flag and its key can never differ.
#[derive(Debug, Args)]
#[command(override_usage = "pinfold run [OPTIONS] [--] CMD [ARG]...")]
pub struct Run {
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
    /// Memory, enforced by the OOM killer: memory.max (256M, 1GiB)
    #[arg(short = 'm', long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<String>,
    /// Memory from where the kernel slows the command down and reclaims: memory.high (a size, or 90%)
    #[arg(long, value_name = "SIZE|PERCENT", help_heading = "Limits")]
    pub memory_high: Option<String>,
    /// Swap beside --memory: memory.swap.max (a size or max; without it none)
    #[arg(long, value_name = "SIZE", requires = "memory", help_heading = "Limits")]
    pub swap: Option<String>,
    /// CPU time, in percent of one CPU: cpu.max
    #[arg(long, value_name = "PERCENT", help_heading = "Limits")]
    pub cpu: Option<String>,
    /// Share of the CPU under contention: cpu.weight (1 to 10000, others have 100)
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits")]
    pub cpu_weight: Option<String>,
    /// Processes and threads: pids.max
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub pids: Option<String>,
    /// Rates of the disk that holds PATH: io.max (/data:wbps=20M,riops=500); may be given several times
    #[arg(long, value_name = "PATH:KEY=RATE,…", help_heading = "Limits")]
    pub io: Vec<String>,
    /// Stop the command after this time and exit with 124 (30s, 1m30s)
    #[arg(long, value_name = "DURATION", help_heading = "Time")]
    pub timeout: Option<String>,
    /// How long the command has to end once it was asked to, before everything of it is killed [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Time")]
    pub stop_timeout: Option<String>,
    /// The signal that asks it to end [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Time")]
    pub stop_signal: Option<String>,
    /// User, by name or number; with its own and its supplementary groups
    #[arg(short = 'u', long, value_name = "USER", help_heading = "Environment")]
    pub user: Option<String>,
    /// Group, by name or number, instead of the user's own
    #[arg(short = 'g', long, value_name = "GROUP", help_heading = "Environment")]
    pub group: Option<String>,
    /// Directory to start in [default: the current one]
    #[arg(short = 'w', long, value_name = "DIR", help_heading = "Environment")]
    pub workdir: Option<PathBuf>,
    /// Environment variable, over the current environment; may be given several times
    #[arg(short = 'e', long, value_name = "KEY=VALUE", help_heading = "Environment")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines, below --env; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    pub env_file: Vec<PathBuf>,
    /// Write the evidence as JSON to FILE: cause, peak memory, CPU, throttling, counters, time
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// Config files, beside those of --config; without any, the files that up would read
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// `-o`.
    #[command(flatten)]
    pub output: OutputArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold schema`.
#[derive(Debug, Args)]
pub struct Schema {
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// `-o`.
    #[command(flatten)]
    pub output: OutputArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold version`.
#[derive(Debug, Args)]
pub struct Version {
    /// `-o`.
    #[command(flatten)]
    pub output: OutputArg,
    #[command(flatten)]
    pub(super) globals: Globals,
}
