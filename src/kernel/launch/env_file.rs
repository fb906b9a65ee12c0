//! Environment files, read as systemd reads `EnvironmentFile=` (systemd.exec(5)): `K=V` lines, `#` and `;` comments,
//! quotes, `\` continuations, no expansion of any kind. Stricter in one point: a line that is none of these is an
//! error with its number, not a warning.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::model::{Stage, StartError};

/// More than the kernel lets an environment be on most hosts (execve(2): a quarter of the stack's limit).
const MAX_BYTES: u64 = 4 << 20;

/// `K` and `V`, in the order of the file.
pub(super) type Assignments = Vec<(Vec<u8>, Vec<u8>)>;

/// The assignments of `path` in their order. `None` where the file is not there.
pub(super) fn read(path: &Path) -> Result<Option<Assignments>, StartError> {
    let refused = |why: String| StartError::refused(Stage::EnvFile, format!("{}: {why}", path.display()));
    let failed = |e: &std::io::Error| {
        StartError::os(Stage::EnvFile, path.display().to_string(), e.raw_os_error().unwrap_or(libc::EIO))
    };
    // Not waiting for a FIFO's writer.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| failed(&e))?,
    };
    if !file.metadata().map_err(|e| failed(&e))?.is_file() {
        return Err(refused("it is not a regular file".into()));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| failed(&e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refused(format!("it is larger than {MAX_BYTES} bytes")));
    }
    let parsed = parse(&text).map_err(|e| refused(format!("line {}: {}", e.line, e.why)))?;
    Ok(Some(parsed))
}

#[derive(Debug, PartialEq, Eq)]
struct BadLine {
    line: usize,
    why: String,
}

fn parse(text: &[u8]) -> Result<Assignments, BadLine> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut all = Vec::new();
    while let Some(first) = reader.peek() {
        match first {
            b' ' | b'\t' | b'\r' | b'\n' => _ = reader.next(),
            b'#' | b';' => reader.skip_comment(),
            _ => {
                let line = reader.line;
                let bad = |why: String| BadLine { line, why };
                let key = reader.key().map_err(bad)?;
                let value = reader.value().map_err(bad)?;
                if value.contains(&0) {
                    return Err(bad("a NUL byte".into()));
                }
                all.push((key, value));
            }
        }
    }
    Ok(all)
}

struct Reader<'t> {
    rest: &'t [u8],
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    /// To the end of the line; a `\` at its end makes the next line comment too, as systemd has it.
    fn skip_comment(&mut self) {
        while let Some(byte) = self.next() {
            match byte {
                b'\\' => _ = self.next(),
                b'\n' => break,
                _ => {}
            }
        }
    }

    fn key(&mut self) -> Result<Vec<u8>, String> {
        let mut key = Vec::new();
        loop {
            match self.next() {
                Some(b'=') => break,
                None | Some(b'\n') => {
                    // Of what is in the file nothing is told: it may be the rest of a secret.
                    return Err("it is no K=V assignment".into());
                }
                Some(byte) => key.push(byte),
            }
        }
        let key = key.trim_ascii().to_vec();
        let starts = key.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        if starts && key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            Ok(key)
        } else {
            let hint = if key.starts_with(b"export ") { ": write it without `export`" } else { "" };
            Err(format!("what is before its = is no name of a variable{hint}"))
        }
    }

    fn value(&mut self) -> Result<Vec<u8>, String> {
        let mut value = Vec::new();
        // What stands before this cannot be trailing white space.
        let mut solid = 0;
        while let Some(byte) = self.next() {
            match byte {
                b'\n' => break,
                b' ' | b'\t' | b'\r' if value.is_empty() && solid == 0 => {}
                b'\'' | b'"' => {
                    self.quoted(byte, &mut value)?;
                    solid = value.len();
                }
                b'\\' => {
                    match self.next() {
                        Some(b'\n') | None => {}
                        Some(byte) => value.push(byte),
                    }
                    solid = value.len();
                }
                _ => {
                    value.push(byte);
                    if !byte.is_ascii_whitespace() {
                        solid = value.len();
                    }
                }
            }
        }
        value.truncate(solid);
        Ok(value)
    }

    fn quoted(&mut self, quote: u8, value: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.next().ok_or("a quote without its end")? {
                byte if byte == quote => return Ok(()),
                b'\\' if quote == b'"' => match self.next() {
                    Some(b'\n') => {}
                    Some(byte @ (b'"' | b'\\' | b'`' | b'$')) => value.push(byte),
                    Some(byte) => value.extend([b'\\', byte]),
                    None => return Err("a quote without its end".into()),
                },
                byte => value.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> String {
        let all = parse(text.as_bytes()).unwrap();
        let [(key, value)] = all.try_into().unwrap();
        assert_eq!(key, b"K");
        String::from_utf8(value).unwrap()
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (text, value) in [
            ("K=plain", "plain"),
            ("  K = spaced out  \n", "spaced out"),
            ("K=", ""),
            ("K=a=b", "a=b"),
            ("K=\"two words\"", "two words"),
            ("K='it is \"$HOME\" \\n'", "it is \"$HOME\" \\n"),
            ("K=\"\\$x \\\" \\\\ \\n\"", "$x \" \\ \\n"),
            ("K=\"two\nlines\"", "two\nlines"),
            ("K=one \\\n  two", "one   two"),
            ("K=a\\ ", "a "),
            ("K=a # no comment", "a # no comment"),
            ("# K=no\n; K=no \\\nK=no either\n\nK=yes\r\n", "yes"),
            ("K='a'\"b\"c", "abc"),
            ("K=\"kept  \"  ", "kept  "),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_assignment_is_named() {
        for (text, line, why) in [
            ("A=1\nnonsense\n", 2, "it is no K=V assignment"),
            ("\n\n1A=x", 3, "what is before its = is no name of a variable"),
            ("export A=1", 1, "what is before its = is no name of a variable: write it without `export`"),
            ("A=\"x\n\n", 1, "a quote without its end"),
            ("A=x\0y", 1, "a NUL byte"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(BadLine { line, why: why.into() }), "{text:?}");
        }
    }

    #[test]
    fn a_fifo_or_a_missing_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let err = read(&fifo).unwrap_err().to_string();
        assert_eq!(err, format!("env_file: {}: it is not a regular file", fifo.display()));
        assert_eq!(read(&dir.path().join("nothing")).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_fail_or_gives_a_bad_key(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'='), Just(b'"'), Just(b'\\')], 0..200)
        ) {
            for (key, value) in parse(&bytes).unwrap_or_default() {
                prop_assert!(!key.is_empty() && !key.contains(&b'=') && !value.contains(&0));
            }
        }
    }
}
