//! `pinfold validate FILE…`: the config as `up` would read it, without running it.

use std::path::PathBuf;

use serde_json::json;

use super::{
    args::Output,
    exit::Exit,
    render::{inert, inert_json, inert_lines},
};
use crate::spec::{self, Problems, types::Config};

/// What it prints and ends with.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// For stdout.
    pub out: String,
    /// For stderr.
    pub err: String,
    /// Ok or usage.
    pub exit: Exit,
}

/// Reads and checks `files` as one configuration, as `up` does. With `expect_root_owned` also that only root can change
/// them. `env` looks variables up.
#[must_use]
pub fn validate(
    files: &[PathBuf],
    expect_root_owned: bool,
    env: &dyn Fn(&str) -> Option<String>,
    output: Output,
) -> Answer {
    let read = spec::read_files(files, expect_root_owned).and_then(|sources| spec::load(&sources, env));
    answer(files, &read, output)
}

fn answer(files: &[PathBuf], read: &Result<Config, Problems>, output: Output) -> Answer {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let (out, err, exit) = match (read, output) {
        (Ok(config), Output::Text) => {
            let workers = match config.workers.len() {
                1 => "1 worker".to_owned(),
                n => format!("{n} workers"),
            };
            (format!("{}: ok, {workers}\n", inert(&names.join(", "))), String::new(), Exit::Ok)
        }
        (Ok(config), Output::Json) => {
            let workers: Vec<&str> = config.workers.iter().map(|worker| worker.id.as_str()).collect();
            (line(&json!({ "ok": true, "files": names, "workers": workers, "problems": [] })), String::new(), Exit::Ok)
        }
        (Err(problems), Output::Text) => (String::new(), inert_lines(&problems.to_string()), Exit::Usage),
        (Err(problems), Output::Json) => {
            (line(&json!({ "ok": false, "files": names, "problems": problems })), String::new(), Exit::Usage)
        }
    };
    Answer { out, err, exit }
}

fn line(value: &serde_json::Value) -> String {
    inert_json(&value.to_string()).into_owned() + "\n"
}
