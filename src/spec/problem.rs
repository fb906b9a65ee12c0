//! What is wrong with a configuration, said so that a person can mend it without reading the manual.
//!
//! [`Problem`] and [`Problems`] are what a caller sees; [`Report`] gathers them while the rest of `spec` reads. A
//! place is a byte of a file plus the key path that leads there; the text of the line is cut out here, once.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    rc::Rc,
};

use serde::Serialize;

use super::Source;
use crate::model;

/// Only so many problems are gathered: who has more of them fixes these first.
pub(super) const MAX_PROBLEMS: usize = 100;
/// The widest excerpt of a line, in characters.
const EXCERPT_WIDTH: usize = 100;
/// The longest part of a value that a message repeats, in characters.
const SHOWN_WIDTH: usize = 60;

/// One thing that is wrong. Printed as `file:line:column: path: message; fix`, with the line and a caret below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, by the name it was given.
    pub file: String,
    /// Its line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// The keys that lead there, like `workers[0].unit.limits.memory.max_rss`; empty at the top of a file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
    /// The line itself; `None` where the file as a whole is meant.
    pub excerpt: Option<Excerpt>,
}

/// A line of a file, ready to print: cut to a window around the place, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// The text.
    pub text: String,
    /// How many characters of it stand before the place.
    pub caret: usize,
}

/// Everything that is wrong, in the order of the files. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}; {}", self.message, self.fix)?;
        if let Some(Excerpt { text, caret }) = &self.excerpt {
            write!(f, "\n    {text}\n    {:caret$}^", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_char('\n')?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem of a file as a whole.
    pub(super) fn of_file(file: &str, message: impl Into<String>, fix: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            file: shown_name(file),
            line: 0,
            column: 0,
            path: String::new(),
            message: shown_name(&message.into()),
            fix: shown_name(&fix.into()),
            excerpt: None,
        })
    }
}

/// A point of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Index into the sources.
    pub(super) file: usize,
    /// Byte offset.
    pub(super) byte: usize,
}

/// The keys that lead to a value. A list linked towards the root, so that going deeper costs one allocation and
/// text is made only for a problem.
#[derive(Debug, Clone, Default)]
pub(super) struct Path(Option<Rc<(Path, Step)>>);

#[derive(Debug)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

impl Path {
    pub(super) fn key(&self, key: &str) -> Self {
        Self(Some(Rc::new((self.clone(), Step::Key(key.into())))))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(Some(Rc::new((self.clone(), Step::Index(index)))))
    }

    fn leads_through(&self, wanted: &str) -> bool {
        self.last() == Some(wanted) || self.0.as_ref().is_some_and(|link| link.0.leads_through(wanted))
    }

    /// The key that it ends with, where it ends with one.
    fn last(&self) -> Option<&str> {
        match &self.0.as_ref()?.1 {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        }
    }

    /// The first key.
    fn root(&self) -> Option<&str> {
        let mut path = self;
        let mut root = None;
        while let Some(link) = &path.0 {
            root = match &link.1 {
                Step::Key(key) => Some(&**key),
                Step::Index(_) => None,
            };
            path = &link.0;
        }
        root
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(link) = &self.0 else { return Ok(()) };
        let (parent, step) = &**link;
        parent.fmt(f)?;
        match step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if is_plain_key(key) => {
                if parent.0.is_some() {
                    f.write_char('.')?;
                }
                f.write_str(key)
            }
            Step::Key(key) => write!(f, "[{}]", shown(key)),
        }
    }
}

fn is_plain_key(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$' | b'/');
    !key.is_empty() && key.len() <= SHOWN_WIDTH && key.bytes().all(plain)
}

/// Where a value stands: the byte and the keys.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) mark: Mark,
    pub(super) path: Path,
}

impl Place {
    /// Whether the value was written under `defaults`, so that a worker has it without having asked for it.
    pub(super) fn inherited(&self) -> bool {
        self.path.root() == Some("defaults")
    }

    /// `text`, which stands here, for a message: in quotes, unless it may be a secret. Problems are told to more people than may read
    /// the file, and are logged.
    pub(super) fn shown(&self, text: &str) -> Cow<'static, str> {
        let path = &self.path;
        let header = path.leads_through("http_headers") && path.last() != Some("name");
        let query = path.leads_through("http_get") && path.last() == Some("path") && text.contains('?');
        let secret = path.leads_through("env") || header || query;
        if secret { "what is written here".into() } else { shown(text).into() }
    }
}

/// Gathers problems, each place and message once: a mistake in `defaults` concerns every worker.
pub(super) struct Report<'a> {
    sources: &'a [Source],
    found: Vec<(Mark, Problem)>,
    seen: HashSet<(Mark, String)>,
    /// Made when a file has its first problem.
    lines: HashMap<usize, Lines>,
    more: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Self {
        Self { sources, found: Vec::new(), seen: HashSet::new(), lines: HashMap::new(), more: false }
    }

    pub(super) fn add(&mut self, at: &Place, message: impl Into<String>, fix: impl Into<String>) {
        if self.found.len() >= MAX_PROBLEMS {
            self.more = true;
            return;
        }
        let message = message.into();
        if !self.seen.insert((at.mark, message.clone())) {
            return;
        }
        let Some(source) = self.sources.get(at.mark.file) else { return };
        let lines = self.lines.entry(at.mark.file).or_insert_with(|| Lines::of(&source.bytes));
        let spot = lines.locate(&source.bytes, at.mark.byte);
        let problem = Problem {
            file: shown_name(&source.name),
            line: spot.line,
            column: spot.column,
            path: at.path.to_string(),
            message,
            fix: fix.into(),
            excerpt: Some(spot.excerpt),
        };
        self.found.push((at.mark, problem));
    }

    /// A problem of a file as a whole.
    pub(super) fn add_file(&mut self, file: usize, message: impl Into<String>, fix: impl Into<String>) {
        let Some(source) = self.sources.get(file) else { return };
        self.found.push((Mark { file, byte: 0 }, *Problem::of_file(&source.name, message, fix)));
    }

    /// `FILE:LINE` of a mark, for a message about another place.
    pub(super) fn place_of(&mut self, mark: Mark) -> String {
        let Some(source) = self.sources.get(mark.file) else { return String::new() };
        let lines = self.lines.entry(mark.file).or_insert_with(|| Lines::of(&source.bytes));
        format!("{}:{}", shown_name(&source.name), lines.number(mark.byte))
    }

    /// Whether there are more problems than are told, so that reading on is of no use.
    pub(super) fn full(&self) -> bool {
        self.more
    }

    pub(super) fn into_result<T>(mut self, value: T) -> Result<T, Problems> {
        if self.found.is_empty() {
            return Ok(value);
        }
        self.found.sort_by_key(|(mark, _)| *mark);
        let last = self.found.last().filter(|_| self.more).map(|(_, problem)| problem.file.clone());
        let mut problems: Vec<_> = self.found.into_iter().map(|(_, problem)| problem).collect();
        if let Some(file) = last {
            let message = format!("there are more than {MAX_PROBLEMS} problems");
            problems.push(*Problem::of_file(&file, message, "fix those above first"));
        }
        Err(Problems(problems))
    }
}

struct Spot {
    line: usize,
    column: usize,
    excerpt: Excerpt,
}

/// Where the lines of a file begin. They end where YAML 1.2 (5.4) ends them: at LF, CR LF or a lone CR.
struct Lines(Vec<usize>);

impl Lines {
    fn of(bytes: &[u8]) -> Self {
        let ends = |i: usize| bytes[i] == b'\n' || (bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n'));
        Self(std::iter::once(0).chain((0..bytes.len()).filter(|&i| ends(i)).map(|i| i + 1)).collect())
    }

    /// The number of the line that `byte` is in, from 1.
    fn number(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }

    /// Line, column and text at `byte` of the `bytes` these lines are of.
    fn locate(&self, bytes: &[u8], byte: usize) -> Spot {
        let byte = byte.min(bytes.len());
        let line = self.number(byte);
        let start = self.0[line - 1];
        // More than fits into an excerpt, whatever the characters.
        let near = &bytes[byte..bytes.len().min(byte + 4 * EXCERPT_WIDTH + 4)];
        let end = near.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(near.len());
        let head = String::from_utf8_lossy(&bytes[start..byte]);
        let head = head.strip_prefix('\u{feff}').unwrap_or(&head);
        let tail = String::from_utf8_lossy(&near[..end]);
        Spot { line, column: head.chars().count() + 1, excerpt: excerpt(head, &tail) }
    }
}

fn excerpt(head: &str, tail: &str) -> Excerpt {
    // Indentation says nothing where it is all there is to the left.
    let head = head.trim_start_matches([' ', '\t']);
    let skip = head.chars().count().saturating_sub(EXCERPT_WIDTH / 2);
    let mut text = String::new();
    if skip > 0 {
        text.push('…');
    }
    text.extend(head.chars().skip(skip).map(printable));
    let caret = text.chars().count();
    let mut rest = tail.chars();
    text.extend(rest.by_ref().take(EXCERPT_WIDTH.saturating_sub(caret)).map(printable));
    if rest.next().is_some() {
        text.push('…');
    }
    text.truncate(text.trim_end().len());
    Excerpt { text, caret }
}

/// A terminal must not obey what a file says.
fn printable(c: char) -> char {
    if c == '\t' { ' ' } else { model::printable(c) }
}

fn shown_name(name: &str) -> String {
    name.chars().map(printable).collect()
}

/// `text` in quotes, escaped and cut, for a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_WIDTH) {
        None => format!("{:?}", text.chars().map(bidi_free).collect::<String>()),
        Some((cut, _)) => format!("{:?}…", text[..cut].chars().map(bidi_free).collect::<String>()),
    }
}

/// Control characters are left to `{:?}`, which escapes them readably.
fn bidi_free(c: char) -> char {
    if c.is_control() { c } else { printable(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(bytes: &[u8], byte: usize) -> Spot {
        Lines::of(bytes).locate(bytes, byte)
    }

    #[test]
    fn a_line_ends_at_lf_crlf_or_a_lone_cr() {
        let text = b"a\r\nb\rc\nd";
        let lines: Vec<_> = [0, 3, 5, 7].map(|byte| locate(text, byte).line).into();
        assert_eq!(lines, [1, 2, 3, 4]);
        assert_eq!(locate(text, 5).excerpt.text, "c");
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let text = "ключ: x".as_bytes();
        assert_eq!(locate(text, text.len() - 1).column, 7);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let Excerpt { text, caret } = locate(text.as_bytes(), 500).excerpt;
        assert!(text.chars().count() <= EXCERPT_WIDTH + 2, "{text}");
        assert_eq!(text.chars().skip(caret).take(4).collect::<String>(), "HERE");
    }

    #[test]
    fn nothing_of_a_file_reaches_the_terminal_as_a_control_sequence() {
        let Excerpt { text, .. } = locate(b"key: \x1b[2Jx", 0).excerpt;
        assert!(!text.contains('\x1b'), "{text:?}");
        let Excerpt { text, .. } = locate("key: a\u{202e}b\u{61c}c\u{9b}d".as_bytes(), 0).excerpt;
        assert_eq!(text, "key: a\u{fffd}b\u{fffd}c\u{fffd}d");
        assert_eq!(shown("\x1b[2J"), r#""\u{1b}[2J""#);
    }

    #[test]
    fn a_path_reads_like_the_access_it_means() {
        let path = Path::default().key("workers").index(2).key("unit").key("env").key("A B");
        assert_eq!(path.to_string(), r#"workers[2].unit.env["A B"]"#);
    }
}
