//! The workers' output on a terminal: every line behind its worker's name, and nothing in it that could move the
//! cursor, set the title, answer a query or write over another worker's line.
//!
//! Kept of what a worker writes: text and tabs, and the colours and styles of its lines (SGR), which begin anew
//! behind each prefix and end before the next one. Dropped: every other escape sequence and whatever else [`steers`].
//! What is not UTF-8 becomes U+FFFD. A carriage return alone ends the line, so that a progress bar is a list of its
//! steps. The raw bytes are in the log files.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anstyle_parse::{Params, Parser, Perform};

use crate::model::steers;

/// The longest text of one line, in bytes; what is longer goes on in the next line, and the cut is marked by `…`.
pub const MAX_LINE: usize = 16 * 1024;

/// How many bytes may come without a printable character before a begun escape sequence is taken for broken.
const MAX_SEQUENCE: usize = 4096;

/// How many bytes of styles are carried over to the next line.
const MAX_STYLE: usize = 256;

/// What becomes of the colours and styles in a worker's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sgr {
    /// The reader has colours.
    Keep,
    /// The reader has not, or does not want them.
    Drop,
}

/// The colour of a worker's name, by its place among the workers.
#[must_use]
pub fn worker_style(index: usize) -> Style {
    // Red is for failures, black and white vanish on somebody's background.
    const COLOURS: [AnsiColor; 10] = [
        AnsiColor::Cyan,
        AnsiColor::Yellow,
        AnsiColor::Green,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::BrightCyan,
        AnsiColor::BrightYellow,
        AnsiColor::BrightGreen,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightBlue,
    ];
    Style::new().fg_color(Some(COLOURS[index % COLOURS.len()].into()))
}

/// One stream of one worker: bytes in as they come, whole prefixed lines out.
#[derive(Debug)]
pub struct Prefixer {
    prefix: Vec<u8>,
    parser: Parser,
    line: Line,
    /// The first bytes of a character whose others have not come yet.
    cut: Vec<u8>,
    /// Bytes since the parser last said something.
    silent: usize,
}

/// The line in the making.
#[derive(Debug)]
struct Line {
    sgr: Sgr,
    text: Vec<u8>,
    /// Printable characters are in `text`, not only styles.
    visible: bool,
    /// The styles in force, as they were written since the last reset.
    style: Vec<u8>,
    /// A carriage return came, and it is not known yet whether a line feed follows.
    returned: bool,
    /// The parser said something.
    heard: bool,
}

impl Prefixer {
    /// Output of the worker `name`, padded to `width` columns.
    #[must_use]
    pub fn new(name: &str, width: usize, style: Style, sgr: Sgr) -> Self {
        let prefix = match sgr {
            Sgr::Keep => format!("{style}{name:<width$} |{style:#} "),
            Sgr::Drop => format!("{name:<width$} | "),
        };
        Self::behind(prefix, sgr)
    }

    /// Output behind no name, where there is one worker only.
    #[must_use]
    pub fn bare(sgr: Sgr) -> Self {
        Self::behind(String::new(), sgr)
    }

    fn behind(prefix: String, sgr: Sgr) -> Self {
        Self {
            prefix: prefix.into_bytes(),
            parser: Parser::default(),
            line: Line { sgr, text: Vec::new(), visible: false, style: Vec::new(), returned: false, heard: false },
            cut: Vec::new(),
            silent: 0,
        }
    }

    /// Takes what the worker wrote and appends the lines it completes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let joined;
        let bytes = if self.cut.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.cut).as_slice(), bytes].concat();
            &joined
        };
        let mut rest = bytes.len();
        for chunk in bytes.utf8_chunks() {
            self.text(chunk.valid(), out);
            rest -= chunk.valid().len() + chunk.invalid().len();
            let incomplete = std::str::from_utf8(chunk.invalid()).is_err_and(|err| err.error_len().is_none());
            if rest == 0 && incomplete {
                self.cut.extend_from_slice(chunk.invalid());
            } else if !chunk.invalid().is_empty() {
                self.text("\u{fffd}", out);
            }
        }
    }

    /// The stream has ended: appends the line that was left without an end, if there is one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.cut).is_empty() {
            self.text("\u{fffd}", out);
        }
        self.cancel();
        if self.line.visible {
            self.end_line(b"", out);
        }
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                // A line's end ends whatever sequence had begun: a worker that writes half of one hides one line, not
                // all that follows.
                self.cancel();
                self.line.returned = false;
                self.end_line(b"", out);
                continue;
            }
            if self.line.returned && byte != b'\r' {
                self.line.returned = false;
                if self.line.visible {
                    self.end_line(b"", out);
                }
            }
            if self.line.text.len() >= MAX_LINE {
                self.end_line("…".as_bytes(), out);
            }
            self.parser.advance(&mut self.line, byte);
            self.silent = if std::mem::take(&mut self.line.heard) { 0 } else { self.silent + 1 };
            if self.silent > MAX_SEQUENCE {
                self.cancel();
            }
        }
    }

    /// Back to plain text, whatever had begun.
    fn cancel(&mut self) {
        const CAN: u8 = 0x18;
        self.parser.advance(&mut self.line, CAN);
        self.silent = 0;
    }

    fn end_line(&mut self, mark: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.append(&mut self.line.text);
        if !self.line.style.is_empty() {
            out.extend_from_slice(b"\x1b[0m");
            self.line.text.extend_from_slice(&self.line.style);
        }
        out.extend_from_slice(mark);
        out.push(b'\n');
        self.line.visible = false;
    }
}

impl Perform for Line {
    fn print(&mut self, c: char) {
        self.heard = true;
        if !steers(c) {
            self.visible = true;
            self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\t' => {
                self.visible = true;
                self.text.push(b'\t');
            }
            b'\r' => self.returned = true,
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        self.heard = true;
        if action != b'm' || !intermediates.is_empty() || ignore || self.sgr == Sgr::Drop {
            return;
        }
        let mut sequence = b"\x1b[".to_vec();
        for (i, param) in params.iter().enumerate() {
            for (j, number) in param.iter().enumerate() {
                let separator = match (i, j) {
                    (0, 0) => "",
                    (_, 0) => ";",
                    _ => ":",
                };
                // Writing to a Vec cannot fail.
                write!(sequence, "{separator}{number}").unwrap_or_default();
            }
        }
        sequence.push(b'm');
        if params.iter().next().is_none_or(|first| first == [0]) {
            self.style.clear();
        }
        if params.len() > 1 || params.iter().next().is_some_and(|only| only != [0]) {
            if self.style.len() + sequence.len() > MAX_STYLE {
                self.style.clear();
            }
            self.style.extend_from_slice(&sequence);
        }
        self.text.extend_from_slice(&sequence);
    }

    fn esc_dispatch(&mut self, _: &[u8], _: bool, _: u8) {
        self.heard = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(sgr: Sgr) -> Prefixer {
        Prefixer::new("web", 5, Style::new(), sgr)
    }

    fn through(sgr: Sgr, chunks: &[&[u8]]) -> String {
        let (mut prefixer, mut out) = (plain(sgr), Vec::new());
        for chunk in chunks {
            prefixer.push(chunk, &mut out);
        }
        prefixer.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let (mut prefixer, mut out) = (plain(Sgr::Keep), Vec::new());
        prefixer.push(b"hel", &mut out);
        assert!(out.is_empty(), "half a line is nobody's line yet");
        prefixer.push(b"lo\nwor", &mut out);
        assert_eq!(out, b"web   | hello\n");
        prefixer.finish(&mut out);
        assert_eq!(out, b"web   | hello\nweb   | wor\n");
    }

    #[test]
    fn an_empty_line_stays_and_an_end_without_text_adds_none() {
        assert_eq!(through(Sgr::Keep, &[b"a\n\nb\n"]), "web   | a\nweb   | \nweb   | b\n");
    }

    #[test]
    fn the_name_has_its_colour_where_colours_are_wanted() {
        let mut out = Vec::new();
        Prefixer::new("a", 1, worker_style(0), Sgr::Keep).push(b"x\n", &mut out);
        assert_eq!(out, b"\x1b[36ma |\x1b[0m x\n");
        out.clear();
        Prefixer::new("a", 1, worker_style(0), Sgr::Drop).push(b"\x1b[31mx\n", &mut out);
        assert_eq!(out, b"a | x\n");
    }

    #[test]
    fn a_style_ends_with_its_line_and_begins_again_in_the_next() {
        let out = through(Sgr::Keep, &[b"\x1b[1;38:5:9mred\nstill\x1b[0m plain\nplain\n"]);
        assert_eq!(
            out,
            "web   | \u{1b}[1;38:5:9mred\u{1b}[0m\n\
             web   | \u{1b}[1;38:5:9mstill\u{1b}[0m plain\n\
             web   | plain\n"
        );
    }

    #[test]
    fn everything_that_could_steer_the_terminal_is_dropped() {
        for (name, bytes) in [
            ("clear the screen", &b"\x1b[2Jx"[..]),
            ("cursor up", b"\x1b[1Ax"),
            ("report the cursor", b"\x1b[6nx"),
            ("set the title", b"\x1b]0;owned\x07x"),
            ("write the clipboard", b"\x1b]52;c;ZXZpbA==\x1b\\x"),
            ("device control", b"\x1bP$qm\x1b\\x"),
            ("full reset", b"\x1bcx"),
            ("keyboard mode, ends in m as well", b"\x1b[>4;2mx"),
            ("CSI as one character", "\u{9b}x".as_bytes()),
            ("backspaces and a bell", b"\x08\x08\x07x"),
        ] {
            assert_eq!(through(Sgr::Keep, &[bytes]), "web   | x\n", "{name}");
        }
    }

    #[test]
    fn a_sequence_cut_between_two_reads_is_still_one() {
        assert_eq!(through(Sgr::Keep, &[b"a\x1b", b"[", b"2", b"Jb\n"]), "web   | ab\n");
        assert_eq!(through(Sgr::Keep, &["ä".as_bytes().split_at(1).0, "ä".as_bytes().split_at(1).1]), "web   | ä\n");
    }

    #[test]
    fn a_sequence_without_an_end_hides_its_line_and_no_other() {
        assert_eq!(through(Sgr::Keep, &[b"a\x1b]0;title\nb\n"]), "web   | a\nweb   | b\n");
        let mut endless = b"\x1b]".to_vec();
        endless.resize(MAX_SEQUENCE * 3, b'x');
        assert!(through(Sgr::Keep, &[&endless]).contains("xxx"));
    }

    #[test]
    fn a_carriage_return_ends_a_line_unless_a_line_feed_does() {
        assert_eq!(through(Sgr::Keep, &[b"a\r\nb\r", b"\nc\n"]), "web   | a\nweb   | b\nweb   | c\n");
        assert_eq!(through(Sgr::Keep, &[b"10%\r20%\r\r\n"]), "web   | 10%\nweb   | 20%\n");
    }

    #[test]
    fn what_is_not_utf8_is_marked() {
        assert_eq!(through(Sgr::Keep, &[b"a\xff\xfeb\n"]), "web   | a\u{fffd}\u{fffd}b\n");
        assert_eq!(
            through(Sgr::Keep, &[b"a\xe2\n"]),
            "web   | a\u{fffd}\n",
            "a cut character does not eat the line's end"
        );
    }

    #[test]
    fn a_very_long_line_is_cut_and_the_cut_is_marked() {
        let out = through(Sgr::Keep, &[&vec![b'x'; 2 * MAX_LINE + 5], b"\n"]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].len(), "web   | ".len() + MAX_LINE + "…".len());
        assert!(lines[1].ends_with("x…"));
        assert_eq!(lines[2], "web   | xxxxx");
    }

    #[test]
    fn what_would_turn_a_line_around_is_dropped() {
        let text = "a\u{202e}b\u{2066}c\u{61c}d\u{2028}e\u{9b}f\n";
        assert_eq!(through(Sgr::Keep, &[text.as_bytes()]), "web   | abcdef\n");
    }

    /// Takes the sequences away that [`Prefixer`] promises to keep; anything left that a terminal obeys is a leak.
    fn leaks(out: &[u8]) -> bool {
        let text = String::from_utf8(out.to_vec()).unwrap();
        let mut rest = text.as_str();
        while let Some(at) = rest.find('\u{1b}') {
            if rest[..at].chars().any(|c| steers(c) && c != '\n' && c != '\t') {
                return true;
            }
            let Some(sequence) = rest[at + 1..].strip_prefix('[') else { return true };
            let numbers = sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';' || c == ':');
            let Some(after) = numbers.strip_prefix('m') else { return true };
            rest = after;
        }
        rest.chars().any(|c| steers(c) && c != '\n' && c != '\t')
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_reach_the_terminal_as_commands(
            chunks in prop::collection::vec(prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"\x1b[]P;:0129mJ\r\n\x07\x9b\xc2".to_vec())], 0..40), 0..6)
        ) {
            let (mut prefixer, mut out) = (plain(Sgr::Keep), Vec::new());
            for chunk in &chunks {
                prefixer.push(chunk, &mut out);
            }
            prefixer.finish(&mut out);
            prop_assert!(!leaks(&out), "{:?}", String::from_utf8_lossy(&out));
            // However the bytes were cut, the lines are the same.
            let (mut prefixer, mut whole) = (plain(Sgr::Keep), Vec::new());
            prefixer.push(&chunks.concat(), &mut whole);
            prefixer.finish(&mut whole);
            prop_assert_eq!(out, whole);
        }
    }
}
