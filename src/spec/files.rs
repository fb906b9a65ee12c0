//! Configuration files from disk, read so that a wrong path costs nothing and a foreign hand is noticed.

use std::{
    fs::{Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc;

use super::{
    MAX_FILE, Source,
    problem::{Problem, Problems},
};

/// Reads the files in this order; `-` is standard input. Whatever cannot be read is reported, all of it at once.
///
/// With `expect_root_owned` a file must belong to root and be writable by nobody else, which is asked of the opened
/// file and not of its path. Only regular files are opened, and at most [`MAX_FILE`] bytes and one more are read.
///
/// # Errors
/// A problem for each file that is missing, unreadable, of another kind, too large, or not root's.
pub fn read_files(paths: &[PathBuf], expect_root_owned: bool) -> Result<Vec<Source>, Problems> {
    let mut sources = Vec::with_capacity(paths.len());
    let mut problems = Vec::new();
    for path in paths {
        let read = if path.as_os_str() == "-" { read_stdin() } else { read_file(path, expect_root_owned) };
        match read {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(Problems(problems)) }
}

fn read_stdin() -> Result<Source, Box<Problem>> {
    let name = "<stdin>".to_owned();
    let bytes = read_capped(io::stdin().lock())
        .map_err(|error| Problem::of_file(&name, format!("cannot be read: {error}"), "check what is piped in"))?;
    Ok(Source { name, bytes })
}

fn read_file(path: &Path, expect_root_owned: bool) -> Result<Source, Box<Problem>> {
    let name = path.display().to_string();
    let unreadable = |error: &io::Error| {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "run as the user it belongs to, or let this one read it",
            _ => "check the file system",
        };
        Problem::of_file(&name, format!("cannot be read: {error}"), fix)
    };
    // Opening alone can do things to a device, so what is no file is not even opened; the path can change in between,
    // so the opened file is asked again.
    regular(&path.metadata().map_err(|error| unreadable(&error))?, &name)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    regular(&metadata, &name)?;
    if expect_root_owned {
        roots_alone(&metadata, &name)?;
    }
    if metadata.len() > MAX_FILE as u64 {
        return Err(too_large(&name));
    }
    let bytes = read_capped(file).map_err(|error| unreadable(&error))?;
    Ok(Source { name, bytes })
}

/// One byte more than allowed shows that there is more, and `load` says so.
fn read_capped(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn regular(metadata: &Metadata, name: &str) -> Result<(), Box<Problem>> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let kind = if kind.is_dir() { "a directory" } else { "not a regular file" };
    Err(Problem::of_file(name, format!("is {kind}"), "name a file, or - for standard input"))
}

fn roots_alone(metadata: &Metadata, name: &str) -> Result<(), Box<Problem>> {
    if metadata.uid() != 0 {
        let message = format!("belongs to uid {}, who could so have root run anything", metadata.uid());
        return Err(Problem::of_file(name, message, format!("run: chown root {}", shell_words::quote(name))));
    }
    if metadata.mode() & 0o022 != 0 {
        let message = format!(
            "others may write to it (mode {:04o}), and could so have root run anything",
            metadata.mode() & 0o7777
        );
        return Err(Problem::of_file(name, message, format!("run: chmod go-w {}", shell_words::quote(name))));
    }
    Ok(())
}

pub(super) fn too_large(name: &str) -> Box<Problem> {
    Problem::of_file(name, "is larger than 1 MiB", "split it: --config can be given more than once")
}
