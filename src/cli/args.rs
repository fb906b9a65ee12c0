//! What can be typed. Only parsing: what the words mean is resolved in [`super::paths`] and [`super::run`].
//!
//! The global flags may stand before or after the subcommand. They are declared at both places and merged by
//! [`Cli::globals`], because clap's own global arguments keep only one of the two places: a `--config` before the
//! subcommand and another behind it would silently lose the first.

mod asking;
mod own;
mod shell;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use asking::{
    Ask, Count, Down, Events, History, Logs, Named, Plan, Ps, Reexec, Restart, Scale, Set, Signal, Stats, Top, Whom,
};
pub use own::{Doctor, OnTerm, Run, Schema, Up, Validate, Version};
pub use shell::{Completion, Man};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "pinfold",
    version,
    about = "Supervise programs, each in its own cgroup, held to its limits by the kernel",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    globals: Globals,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the supervisor, in the foreground or with -d in the background, and start what the config declares
    Up(Up),
    /// Stop every worker, then the supervisor, and wait until it is gone
    Down(Down),
    /// Run one command in its own cgroup, without a supervisor; exit with its code
    Run(Box<Run>),
    /// List workers: what they do, what they use, what comes next
    Ps(Ps),
    /// Show what running workers use, again and again: CPU, throttling, memory with its peak, processes, disks, stalls
    Stats(Stats),
    /// Watch workers on a screen, with keys to sort, filter, restart and freeze them
    Top(Top),
    /// Say how one worker is; exit with 0 where it runs, with 3 where it does not
    Status(Named),
    /// Show every setting of a worker: what is asked for, what the kernel holds it to, and where it is written
    Inspect(Named),
    /// Count the workers that run
    Count(Count),
    /// Start workers, and wait until they run
    Start(Ask),
    /// Stop workers, and wait until nothing of them is left
    Stop(Ask),
    /// Give workers a new run, and wait until it runs
    Restart(Restart),
    /// End workers at once, without asking them; as final as a stop
    Kill(Ask),
    /// Send a signal to the main processes of workers, and nothing else
    Signal(Signal),
    /// Close the restart breakers of workers; what an open one held down begins to start
    Reset(Ask),
    /// Have every process of workers stand still where it is, until they are thawed
    Freeze(Ask),
    /// Have frozen workers go on, by whomever they were frozen
    Thaw(Ask),
    /// Say what a reload would do, and do nothing
    Plan(Plan),
    /// Read the config anew and bring every worker in line with it; what has not changed is not touched
    Reload(Plan),
    /// Make it so many instances of a worker that has instances
    Scale(Scale),
    /// Change limits of a running worker, which goes on: for its present run, for a time, or to last
    Set(Set),
    /// Show what has happened lately, or what happens from now on
    Events(Events),
    /// List the runs of a worker: when, how long, and how each ended
    History(History),
    /// Say why a worker ended last, from which evidence, what was decided and what to change
    Why(Named),
    /// Print what a worker wrote, of all its runs that are kept, the oldest first
    Logs(Logs),
    /// Replace the binary of a running supervisor by the one that is in its place now; no worker notices
    Reexec(Reexec),
    /// Check config files; every problem with its line and what would be right
    Validate(Validate),
    /// Print the JSON Schema of the config
    Schema(Schema),
    /// Say what this host and its delegation allow, and the exact fix for what is missing
    Doctor(Doctor),
    /// Print what makes a shell complete commands, flags and the names of workers
    Completion(Completion),
    /// Print a manual page, or write all of them
    Man(Man),
    /// Print the version
    Version(Version),
}

/// Flags of every subcommand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Config file; may be given several times, files are merged.
    #[arg(
        long,
        help = "Config file; may be given several times, files are merged [env: PINFOLD_CONFIG]",
        value_name = "FILE"
    )]
    pub config: Vec<PathBuf>,
    /// Directory for sockets and locks.
    #[arg(long, help = "Directory for sockets and locks [env: PINFOLD_RUNTIME_DIR]", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Directory for the database and the logs.
    #[arg(long, help = "Directory for the database and the logs [env: PINFOLD_STATE_DIR]", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the API.
    #[arg(long, help = "Socket of the API [env: PINFOLD_SOCKET]", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// cgroup to work in, instead of the one pinfold finds for itself.
    #[arg(
        long,
        help = "cgroup to work in, instead of the one pinfold finds for itself [env: PINFOLD_CGROUP_ROOT]",
        value_name = "PATH"
    )]
    pub cgroup_root: Option<PathBuf>,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

/// `-o`, for the commands that print data.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct OutputArg {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// How data is printed by the commands that talk to a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
}

/// `-o`, for the commands that talk to a supervisor.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct FormatArg {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

impl Cli {
    /// The global flags, from before and behind the subcommand: lists are joined, of two single values the one behind
    /// counts.
    #[must_use]
    pub fn globals(&self) -> Globals {
        let behind = match &self.command {
            Command::Up(args) => &args.globals,
            Command::Down(args) => &args.globals,
            Command::Run(args) => &args.globals,
            Command::Ps(args) => &args.globals,
            Command::Stats(args) => &args.globals,
            Command::Top(args) => &args.globals,
            Command::Status(args) | Command::Inspect(args) | Command::Why(args) => &args.globals,
            Command::Logs(args) => &args.globals,
            Command::Count(args) => &args.globals,
            Command::Start(args)
            | Command::Stop(args)
            | Command::Kill(args)
            | Command::Reset(args)
            | Command::Freeze(args)
            | Command::Thaw(args) => &args.globals,
            Command::Restart(args) => &args.globals,
            Command::Signal(args) => &args.globals,
            Command::Events(args) => &args.globals,
            Command::History(args) => &args.globals,
            Command::Plan(args) | Command::Reload(args) => &args.globals,
            Command::Scale(args) => &args.globals,
            Command::Set(args) => &args.globals,
            Command::Reexec(args) => &args.globals,
            Command::Validate(args) => &args.globals,
            Command::Schema(args) => &args.globals,
            Command::Doctor(args) => &args.globals,
            Command::Completion(args) => &args.globals,
            Command::Man(args) => &args.globals,
            Command::Version(args) => &args.globals,
        };
        let before = &self.globals;
        let last = |behind: &Option<PathBuf>, before: &Option<PathBuf>| behind.as_ref().or(before.as_ref()).cloned();
        Globals {
            config: before.config.iter().chain(&behind.config).cloned().collect(),
            runtime_dir: last(&behind.runtime_dir, &before.runtime_dir),
            state_dir: last(&behind.state_dir, &before.state_dir),
            socket: last(&behind.socket, &before.socket),
            cgroup_root: last(&behind.cgroup_root, &before.cgroup_root),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(shell_words::split(line).unwrap()).unwrap_or_else(|err| panic!("{line}: {err}"))
    }

    #[test]
    fn the_declaration_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_behind_the_subcommand() {
        let both = parse("pinfold --config a.yaml --state-dir /s up --config b.yaml --cgroup-root /c x.yaml").globals();
        assert_eq!(both.config, [PathBuf::from("a.yaml"), PathBuf::from("b.yaml")]);
        assert_eq!(both.state_dir, Some("/s".into()));
        assert_eq!(both.cgroup_root, Some("/c".into()));
    }

    #[test]
    fn of_two_single_values_the_one_behind_the_subcommand_counts() {
        assert_eq!(parse("pinfold --socket /a version --socket /b").globals().socket, Some("/b".into()));
    }

    fn run(line: &str) -> Box<Run> {
        match parse(line).command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_behind_the_command_is_the_commands_own() {
        let args = run("pinfold run -m 256M -- sh -c 'exit 3' --memory 1G");
        assert_eq!(args.memory.as_deref(), Some("256M"));
        assert_eq!(args.command, ["sh", "-c", "exit 3", "--memory", "1G"]);
        let args = run("pinfold run --pids 3 ls -la -- --report x");
        assert_eq!(args.command, ["ls", "-la", "--", "--report", "x"]);
        assert_eq!(args.report, None);
    }

    #[test]
    fn swap_without_memory_is_refused_because_nothing_would_be_limited() {
        assert!(Cli::try_parse_from(["pinfold", "run", "--swap", "1G", "true"]).is_err());
    }

    #[test]
    fn a_run_needs_a_command() {
        assert!(Cli::try_parse_from(["pinfold", "run"]).is_err());
        assert!(Cli::try_parse_from(["pinfold", "run", "-m", "1G", "--"]).is_err());
    }

    #[test]
    fn several_patterns_are_given_as_words() {
        let Command::Restart(args) = parse("pinfold restart --force 'web-*' db --timeout 5s").command else { panic!() };
        assert_eq!(args.whom.patterns, ["web-*", "db"]);
        assert_eq!((args.force, args.whom.timeout.as_deref(), args.whom.no_wait), (true, Some("5s"), false));
        let Command::Signal(args) = parse("pinfold signal HUP web -o json").command else { panic!() };
        assert_eq!((args.signal.as_str(), &args.whom.patterns[..]), ("HUP", &["web".to_owned()][..]));
        assert!(Cli::try_parse_from(["pinfold", "stop"]).is_err(), "nobody named is nobody meant");
        assert!(Cli::try_parse_from(["pinfold", "stop", "a", "--no-wait", "--timeout", "1s"]).is_err());
    }

    #[test]
    fn a_list_is_of_names_alone_or_in_a_format() {
        let Command::Ps(args) = parse("pinfold ps -aq web").command else { panic!() };
        assert_eq!((args.all, args.quiet, args.pattern.as_deref()), (true, true, Some("web")));
        let Command::Ps(args) = parse("pinfold ps -q -o json").command else { panic!() };
        assert_eq!((args.quiet, args.output.format), (true, Format::Json));
        assert!(Cli::try_parse_from(["pinfold", "ps", "-o", "text"]).is_ok(), "as the other commands call it");
    }

    #[test]
    fn a_number_of_runs_that_is_out_of_range_is_told_with_the_range() {
        for number in ["0", "-1", "1001"] {
            let refused = Cli::try_parse_from(["pinfold", "history", "web", "-n", number]).unwrap_err().to_string();
            assert!(refused.contains("1..=1000"), "{number}: {refused}");
        }
    }

    #[test]
    fn the_terms_of_up() {
        let Command::Up(up) = parse("pinfold up a.yaml b.yaml --on-term=detach -o json").command else { panic!() };
        assert_eq!((up.on_term, up.output.output, up.files.len()), (OnTerm::Detach, Output::Json, 2));
    }
}
