//! Text to a validated configuration.
//!
//! ```text
//! bytes ─ tree ─▶ nodes with places ─ decode, raw ─▶ what is written ─ validate ─▶ types::Config
//!            └──────────────┴──── problem: Problems, all at once ────────┘
//! ```
//!
//! - `files` reads from disk and refuses what root must not read; `tree` knows YAML and nothing of workers; `decode`
//!   turns nodes into values, `declare` makes readers of declarations, and `raw` declares which keys there are; `units` and
//!   `quantity` know how one value is written; `expand` puts in `${NAME}`; `validate`, `limits`, `health` and `sink` layer,
//!   expand and check what keys say together; `schema` describes it all to editors; `written` tells where a setting
//!   stands.
//! - Several files are one configuration: `env` and `defaults` are merged key by key, later files win; `workers`,
//!   `slices` and `history` are put one after the other, and a worker may be in a slice of any file. `defaults` act on every worker of every file, so a file in `conf.d` can set them for all.
//! - Nothing here reads the environment or a clock, and but for [`read_files`] nothing touches a file.
//! - A failure is never partial: a configuration is whole, or there are [`Problems`].

mod compare;
mod declare;
mod decode;
mod expand;
mod files;
mod health;
mod limits;
pub mod overlay;
mod problem;
mod quantity;
mod raw;
pub mod schema;
mod sink;
mod tree;
pub mod types;
mod units;
mod validate;
pub mod written;

use decode::{Cx, Decode, FromWord};
pub use files::read_files;
pub use problem::{Excerpt, Problem, Problems};
use problem::{Mark, Path, Place, Report};
use tree::Node;
use types::Config;
pub use units::signal;

/// The largest file, in bytes. Checked before anything else is done with one.
pub const MAX_FILE: usize = 1 << 20;

/// The text of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What messages call it: its path.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads, merges and validates `files`. `env` looks up the variables of `${NAME}`.
///
/// # Errors
/// Everything that is wrong, in the order of the files. Where a file is not YAML, only that is told.
pub fn load(files: &[Source], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    load_with(files, &[], env).map(|(config, _)| config)
}

/// The workers of each declaration that stands in no file, or what is wrong with it.
pub type Registered = Vec<Result<Vec<types::Worker>, Problems>>;

/// The same, and beside it the workers that stand in no file: each of `declared` is one of them, as it would stand below `workers`. All
/// that the files say of every worker holds for them, too. What is wrong with one of them is nobody else's affair; whether
/// their names are free is for the caller to see.
///
/// # Errors
/// What is wrong with the files, as for [`load`].
pub fn load_with(
    files: &[Source],
    declared: &[Source],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Registered), Problems> {
    let all = &*[files, declared].concat();
    let mut report = Report::new(all);
    let mut nodes = Vec::new();
    for (index, source) in files.iter().enumerate() {
        nodes.extend(text(source, index, &mut report).and_then(|text| tree::parse(text, index, &mut report)));
    }
    if nodes.len() < files.len() {
        return report.into_result(validate::nothing()).map(|config| (config, Vec::new()));
    }
    let mut cx = Cx::new(report, env);
    let raw = nodes.iter().filter_map(|node| file(node, &mut cx)).collect();
    let (config, ground) = validate::config(raw, &mut cx);
    let config = cx.report.into_result(config)?;
    let registered = (files.len()..all.len()).map(|index| worker(all, index, &ground, env)).collect();
    Ok((config, registered))
}

/// The workers of source number `index`, which is the declaration of one.
fn worker(
    all: &[Source],
    index: usize,
    ground: &validate::Ground,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<types::Worker>, Problems> {
    let mut report = Report::new(all);
    let node = text(&all[index], index, &mut report).and_then(|text| tree::parse(text, index, &mut report));
    let mut cx = Cx::new(report, env);
    let workers = node.and_then(|node| {
        let at = Place { mark: node.mark, path: Path::default() };
        let value = raw::Worker::decode(&node, &at, &mut cx)?;
        Some(validate::registered(decode::Found { value, at }, ground, &mut cx))
    });
    cx.report.into_result(workers.unwrap_or_default())
}

/// A length of time as every duration of the configuration is written: `500ms`, `10s`, `1m30s`, `0`.
///
/// # Errors
/// What it is instead, and what would be right, in one sentence.
pub fn time(text: &str) -> Result<std::time::Duration, String> {
    quantity::duration(text).map_err(|wrong| {
        let fix = wrong.fix.unwrap_or_else(|| format!("write {}", quantity::Time::LIKE).into());
        format!("{text:?} {}; {fix}", wrong.is)
    })
}

fn file(node: &Node, cx: &mut Cx<'_>) -> Option<raw::File> {
    if node.is_null() {
        // Nothing but comments.
        return Some(raw::File::default());
    }
    raw::File::decode(node, &Place { mark: node.mark, path: Path::default() }, cx)
}

/// The text of a file, where it is text.
fn text<'s>(source: &'s Source, file: usize, report: &mut Report<'_>) -> Option<&'s str> {
    let bytes = &source.bytes;
    if bytes.len() > MAX_FILE {
        let too_large = files::too_large(&source.name);
        report.add_file(file, too_large.message, too_large.fix);
        return None;
    }
    let place = |byte| Place { mark: Mark { file, byte }, path: Path::default() };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            report.add(&place(error.valid_up_to()), "not UTF-8", "save the file as UTF-8");
            return None;
        }
    };
    // YAML 1.2 (5.1) has no control characters but these.
    let control = |b: &u8| (*b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r')) || *b == 0x7f;
    if let Some(at) = bytes.iter().position(control) {
        let fix = match bytes[at] {
            0 => "remove it".to_owned(),
            other => format!("remove it; in double quotes \\x{other:02x} stands for it"),
        };
        report.add(&place(at), format!("a control character, {:#04x}", bytes[at]), fix);
        return None;
    }
    Some(text)
}
