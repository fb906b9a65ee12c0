//! The binary: picks its role before any runtime exists.

use std::process::ExitCode;

use clap::Parser;
use pinfold::cli::{
    args::{Cli, Command},
    exit::{Exit, Failure},
    paths::{self, Who},
    run, schema, validate, version,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|role| role == pinfold::kernel::place::scope::ROLE) {
        return pinfold::kernel::place::scope::child_main(&args);
    }
    let cli = Cli::parse();
    match client(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            anstream::eprintln!("{}", failure.sentence());
            failure.exit().into()
        }
    }
}

fn client(cli: &Cli) -> Result<Exit, Failure> {
    let globals = cli.globals();
    let cwd = std::env::current_dir().map_err(|err| Failure::failed("cannot find the current directory", err))?;
    let root = rustix::process::geteuid().is_root();
    let who = Who { root, cwd: &cwd, var: &|name| std::env::var_os(name) };
    match &cli.command {
        Command::Run(args) => run::run(args, paths::cgroup_root(&globals, &who).as_deref()),
        Command::Validate(args) => {
            let source = paths::config(&globals, &args.files, &who).map_err(|err| Failure::Usage(err.to_string()))?;
            let files = source.files().map_err(|err| Failure::Usage(pinfold::cli::exit::chain(&err)))?;
            let answer = validate::validate(&files, root, &|name| std::env::var(name).ok(), args.output.output);
            anstream::print!("{}", answer.out);
            anstream::eprint!("{}", answer.err);
            Ok(answer.exit)
        }
        Command::Schema(_) => {
            anstream::print!("{}", schema::text());
            Ok(Exit::Ok)
        }
        Command::Version(args) => {
            anstream::print!("{}", version::text(args.output.output));
            Ok(Exit::Ok)
        }
        Command::Up(_) | Command::Doctor(_) => Err(Failure::Usage("not part of this branch".to_owned())),
    }
}
