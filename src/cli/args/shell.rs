//! The commands that tell a shell and a reader of manuals what there is.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::Globals;

/// `pinfold completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
    /// A script of its own, for a package: it never asks pinfold, and knows no workers
    #[arg(long = "static")]
    pub fixed: bool,
    #[command(flatten)]
    pub(super) globals: Globals,
}

/// `pinfold man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The page of this command [default: that of pinfold itself]
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub command: Option<String>,
    /// Write every page into this directory, which is there
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) globals: Globals,
}
