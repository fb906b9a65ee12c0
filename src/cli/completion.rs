//! `pinfold completion`: what makes a shell complete.
//!
//! The script that is to be sourced asks the binary itself, by the variable [`VAR`], so that it always knows the commands
//! of the binary that is there, and the workers of the supervisor that runs.

use std::{ffi::OsStr, time::Duration};

use clap::CommandFactory;
use clap_complete::{
    CompletionCandidate, Shell, aot,
    env::{CompleteEnv, Shells},
};

use super::args::{Cli, Completion, Globals};
use super::client::Client;
use super::exit::Failure;
use super::paths::Who;
use crate::api::wire::Workers;

/// The variable by which a shell asks.
pub const VAR: &str = "PINFOLD_COMPLETE";

/// A person who has pressed a key waits no longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers a shell that asks, and ends; else nothing. To be called before anything is printed.
pub fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VAR).complete();
}

/// What it prints.
///
/// # Errors
/// [`Failure`], where there is no script for the shell.
pub fn text(args: &Completion) -> Result<String, Failure> {
    let mut script = Vec::new();
    if args.fixed {
        aot::generate(args.shell, &mut Cli::command(), "pinfold", &mut script);
    } else {
        let none = || Failure::Usage(format!("{}: there is only a --static script for it", args.shell));
        let shells = Shells::builtins();
        let shell = shells.completer(word(args.shell)).ok_or_else(none)?;
        let written = shell.write_registration(VAR, "pinfold", "pinfold", "pinfold", &mut script);
        written.map_err(|e| Failure::failed("cannot write the script", e))?;
    }
    String::from_utf8(script).map_err(|e| Failure::failed("cannot write the script", e))
}

const fn word(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => "bash",
        Shell::Elvish => "elvish",
        Shell::Fish => "fish",
        Shell::PowerShell => "powershell",
        Shell::Zsh => "zsh",
        // One that this version does not know.
        _ => "",
    }
}

/// The workers of the supervisor that runs whose names go on from what is typed. Where none answers in time there are none.
pub(super) fn workers(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let workers = ask().map(|list| list.workers).unwrap_or_default();
    let mut names: Vec<CompletionCandidate> = Vec::new();
    for worker in workers.iter().filter(|worker| worker.id.as_str().starts_with(&*typed)) {
        let says = format!("{} ({})", worker.state.as_str(), worker.detail.as_str());
        names.push(CompletionCandidate::new(worker.id.as_str()).help(Some(says.into())));
    }
    names
}

fn ask() -> Option<Workers> {
    let cwd = std::env::current_dir().ok()?;
    let root = rustix::process::geteuid().is_root();
    let who = Who { root, cwd: &cwd, var: &|name| std::env::var_os(name) };
    Client::new(&Globals::default(), &who).ok()?.within(PATIENCE).get("/v1/workers").ok()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn script(shell: Shell, fixed: bool) -> String {
        let line = ["pinfold", "completion", word(shell), "--static"];
        let line = &line[..if fixed { 4 } else { 3 }];
        match <Cli as clap::Parser>::try_parse_from(line).unwrap().command {
            super::super::args::Command::Completion(args) => text(&args).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_static_script_has_every_command() {
        for shell in Shell::value_variants() {
            let script = script(*shell, true);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn the_other_asks_the_binary_by_our_variable() {
        for shell in Shell::value_variants() {
            let script = script(*shell, false);
            assert!(script.contains(VAR) && script.contains("pinfold"), "{shell}: {script}");
        }
    }
}
