//! YAML text to a tree whose every node knows its place.
//!
//! A tree instead of a typed reader, because problems are reported all at once, as they were written (`0022` is not
//! 22, `1.10` is not 1.1), and because what YAML offers beyond maps, lists and text is refused where it stands: an
//! alias repeats what nobody wrote there, a tag asks for a type we do not have, a merge key hides where a value is
//! from. The parser is granit-parser's; its events are put together with an explicit stack, so depth costs no stack.

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};

use super::problem::{Mark, Path, Place, Report, shown};

/// Deeper than any configuration, far less than any stack.
const MAX_DEPTH: usize = 64;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Text as YAML unescapes it, and whether it stood in quotes (or in a block).
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already reported.
    Unusable,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_mark: Mark,
    pub(super) value: Node,
}

impl Node {
    /// Whether YAML reads it as null. Only what is not in quotes can be.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads `text`, file number `file`. `None` where it is not YAML; an empty file is an empty map.
pub(super) fn parse(text: &str, file: usize, report: &mut Report<'_>) -> Option<Node> {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder { file, report, frames: Vec::new(), root: None, anchored: Path::default(), documents: 0 };
    for step in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match step {
            Ok(step) => step,
            Err(error) => {
                let byte = error.marker().byte_offset().unwrap_or(text.len());
                builder.syntax(byte, error.kind());
                return None;
            }
        };
        if builder.take(event, &span).is_break() || builder.report.full() {
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node { mark: Mark { file, byte: 0 }, value: Value::Map(Vec::new()) }))
}

struct Builder<'r, 'a> {
    file: usize,
    report: &'r mut Report<'a>,
    frames: Vec<Frame>,
    root: Option<Node>,
    /// The path of the last node, for the anchor that is told after it.
    anchored: Path,
    documents: usize,
}

enum Frame {
    List { mark: Mark, items: Vec<Node> },
    Map { mark: Mark, entries: Vec<Entry>, seen: HashMap<String, Mark>, key: Option<Key> },
}

struct Key {
    text: String,
    mark: Mark,
    /// Whether it was refused: then its value is read and dropped.
    refused: bool,
}

enum KeyTrouble {
    Merge,
    NotText,
    Twice(Mark),
}

type Flow = std::ops::ControlFlow<()>;

impl Builder<'_, '_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Flow {
        let mark = self.mark(span.start.byte_offset());
        self.anchored_path(&event);
        if let Some(tag) = event.tag() {
            let tag_mark = span.tag_start().map_or(mark, |start| self.mark(start.byte_offset()));
            let message = format!("YAML tags like {} are not supported", shown(&tag.original()));
            self.problem(tag_mark, message, "remove the tag; put text that looks like a number in quotes");
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problem(mark, "a second YAML document begins here", "use one file for each document");
                    return Flow::Break(());
                }
            }
            Event::Scalar(text, style, ..) => {
                let quoted = style != ScalarStyle::Plain;
                self.put(Node { mark, value: Value::Scalar { text: text.into_owned(), quoted } });
            }
            Event::SequenceStart(..) => self.frames.push(Frame::List { mark, items: Vec::new() }),
            Event::MappingStart(..) => {
                self.frames.push(Frame::Map { mark, entries: Vec::new(), seen: HashMap::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.frames.pop() {
                Some(Frame::List { mark, items }) => self.put(Node { mark, value: Value::List(items) }),
                Some(Frame::Map { mark, entries, .. }) => self.put(Node { mark, value: Value::Map(entries) }),
                None => {}
            },
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.problem(mark, "YAML aliases are not supported", "write the value out, or put it under defaults");
                self.put(Node { mark, value: Value::Unusable });
            }
            Event::Anchor(_, name) => {
                let place = Place { mark, path: self.anchored.clone() };
                let message = format!("YAML anchors like {} are not supported", shown(&format!("&{name}")));
                self.report.add(&place, message, "remove it; what workers share goes under defaults");
            }
            _ => {}
        }
        Flow::Continue(())
    }

    /// Hands a finished node to what it is part of.
    fn put(&mut self, node: Node) {
        let mark = node.mark;
        let trouble = match self.frames.last_mut() {
            None => {
                self.root = Some(node);
                return;
            }
            Some(Frame::List { items, .. }) => {
                items.push(node);
                return;
            }
            Some(Frame::Map { entries, seen, key, .. }) => {
                if let Some(Key { text, mark: key_mark, refused }) = key.take() {
                    if !refused {
                        entries.push(Entry { key: text, key_mark, value: node });
                    }
                    return;
                }
                let (text, trouble) = match node.value {
                    Value::Scalar { text, quoted: false } if text == "<<" => (text, Some(KeyTrouble::Merge)),
                    Value::Scalar { text, .. } => {
                        let first = seen.insert(text.clone(), mark);
                        (text, first.map(KeyTrouble::Twice))
                    }
                    _ => (String::new(), Some(KeyTrouble::NotText)),
                };
                *key = Some(Key { text, mark, refused: trouble.is_some() });
                trouble
            }
        };
        match trouble {
            None => {}
            Some(KeyTrouble::Merge) => {
                let fix = "write the keys out, or put what workers share under defaults";
                self.problem(mark, "YAML merge keys are not supported", fix);
            }
            Some(KeyTrouble::NotText) => {
                self.problem(mark, "a list, map or alias cannot be a key", "write a word");
            }
            Some(KeyTrouble::Twice(first)) => {
                let message = format!("this key is given twice, first at {}", self.report.place_of(first));
                self.problem(mark, message, "keep one of them");
            }
        }
    }

    fn anchored_path(&mut self, event: &Event<'_>) {
        if event.anchor_id().is_some() {
            self.anchored = self.path();
        }
    }

    fn path(&self) -> Path {
        self.frames.iter().fold(Path::default(), |path, frame| match frame {
            Frame::List { items, .. } => path.index(items.len()),
            Frame::Map { key: Some(key), .. } if !(key.refused && key.text.is_empty()) => path.key(&key.text),
            Frame::Map { .. } => path,
        })
    }

    fn mark(&self, byte: Option<usize>) -> Mark {
        Mark { file: self.file, byte: byte.unwrap_or(0) }
    }

    fn problem(&mut self, mark: Mark, message: impl Into<String>, fix: &str) {
        let at = Place { mark, path: self.path() };
        self.report.add(&at, message, fix);
    }

    fn syntax(&mut self, byte: usize, kind: &ErrorKind) {
        let (message, fix): (Cow<'_, str>, &str) = match kind {
            ErrorKind::RecursionLimitExceeded => {
                (format!("nested deeper than {MAX_DEPTH} levels").into(), "a configuration needs about ten")
            }
            ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
                ("not valid YAML: a tab stands where spaces belong".into(), "indent with spaces")
            }
            ErrorKind::DirectiveDisallowed => ("YAML directives are not supported".into(), "remove the line"),
            ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => (
                format!("not valid YAML: {kind}").into(),
                "check the indentation; put text that has \": \" inside in quotes",
            ),
            ErrorKind::UnclosedQuotedScalar => ("not valid YAML: a quote is not closed".into(), "close it"),
            kind => (format!("not valid YAML: {kind}").into(), "check indentation, quotes and brackets around here"),
        };
        self.problem(self.mark(Some(byte)), message, fix);
    }
}
