//! What the supervisor is started with, as its command line has it.

use std::{ffi::OsString, path::PathBuf};

use clap::Parser;

use crate::cli::args::{OnTerm, Output};
use crate::cli::paths::ConfigSource;

/// What the supervisor is started with. Written and read by this binary only.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "pinfold __supervisor", disable_help_flag = true)]
pub struct Settings {
    /// Where the lock, the configuration in force and the logs are.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// ROOT of the tree.
    #[arg(long)]
    pub root: PathBuf,
    /// The path we were started by, where another binary will be.
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Where our own processes came from, and go back to at the end, where they were moved at all.
    #[arg(long)]
    pub home: Option<PathBuf>,
    /// Whether ROOT was made by us.
    #[arg(long)]
    pub made: bool,
    /// Where the configuration comes from, as JSON, should what was kept of it be damaged.
    #[arg(long, value_parser = config_source)]
    pub config: Option<ConfigSource>,
    /// Where commands are heard.
    #[arg(long)]
    pub socket: PathBuf,
    /// What SIGTERM does.
    #[arg(long)]
    pub on_term: OnTerm,
    /// How events are printed.
    #[arg(long)]
    pub output: Output,
}

fn config_source(text: &str) -> Result<ConfigSource, serde_json::Error> {
    serde_json::from_str(text)
}

impl Settings {
    /// The arguments that [`Parser`] reads back.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let word = |v: &dyn std::fmt::Debug| OsString::from(format!("{v:?}").to_lowercase());
        let mut args: Vec<OsString> = vec!["--state-dir".into(), self.state_dir.clone().into()];
        args.extend(["--root".into(), self.root.clone().into()]);
        if let Some(binary) = &self.binary {
            args.extend(["--binary".into(), binary.clone().into()]);
        }
        if let Some(home) = &self.home {
            args.extend(["--home".into(), home.clone().into()]);
        }
        if self.made {
            args.push("--made".into());
        }
        // A path that is no UTF-8 is none of ours to keep: the configuration in force could not be kept either.
        if let Some(config) = self.config.as_ref().and_then(|config| serde_json::to_string(config).ok()) {
            args.extend(["--config".into(), config.into()]);
        }
        args.extend(["--socket".into(), self.socket.clone().into()]);
        args.extend(["--on-term".into(), word(&self.on_term), "--output".into(), word(&self.output)]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_way_through_the_command_line() {
        let settings = Settings {
            state_dir: "/var/lib/a b".into(),
            root: "/sys/fs/cgroup/pinfold".into(),
            binary: Some("/usr/local/s bin/pinfold".into()),
            home: Some("/sys/fs/cgroup/user.slice".into()),
            made: true,
            config: Some(ConfigSource::Named(vec!["/etc/a b.yaml".into(), "--x".into()])),
            socket: "/run/a b/api.sock".into(),
            on_term: OnTerm::Detach,
            output: Output::Json,
        };
        let words = std::iter::once("pinfold".into()).chain(settings.to_args());
        assert_eq!(Settings::try_parse_from(words).unwrap(), settings);
        let settings = Settings {
            binary: None,
            home: None,
            made: false,
            config: None,
            on_term: OnTerm::Stop,
            output: Output::Text,
            ..settings
        };
        let words = std::iter::once("pinfold".into()).chain(settings.to_args());
        assert_eq!(Settings::try_parse_from(words).unwrap(), settings);
    }
}
