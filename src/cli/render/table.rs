//! Rows in columns that are as wide as their widest cell.
//!
//! What a program reads has a line for each row, however long, and is laid out in one pass: a list of a thousand workers is
//! to be there at once. What a person reads is wrapped within the terminal's width.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::AnsiColor;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use tabwriter::TabWriter;

use super::reader::{Reader, Tone};

/// A cell: inert text, and how it is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field<'a> {
    text: Cow<'a, str>,
    tone: Tone,
}

impl<'a> Field<'a> {
    /// What is shown in the colour of `tone`, where colours are seen.
    pub(super) fn toned(text: impl Into<Cow<'a, str>>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// A value; where there is none, a dash.
    pub(super) fn or_dash(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::from("-"), |value| Self::from(value.to_string()))
    }
}

impl<'a, T: Into<Cow<'a, str>>> From<T> for Field<'a> {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// `rows`, below `header` where there is one, each with a line end. No cell may be empty, or have a tab or a line end.
pub(super) fn table<'a, const N: usize>(
    header: Option<[&'a str; N]>,
    rows: impl Iterator<Item = [Field<'a>; N]>,
    reader: &Reader,
) -> String {
    let rows = header.map(|header| header.map(Field::from)).into_iter().chain(rows);
    match reader.width {
        Some(width) => wrapped(rows, width, reader.colour),
        // Nothing of it can fail: it is written to memory.
        None => laid_out(rows, reader.colour).unwrap_or_default(),
    }
}

/// Rows without a header, a line for each whoever reads them.
pub(super) fn lines<'a, const N: usize>(rows: impl Iterator<Item = [Field<'a>; N]>) -> String {
    laid_out(rows, false).unwrap_or_default()
}

fn laid_out<'a, const N: usize>(rows: impl Iterator<Item = [Field<'a>; N]>, colour: bool) -> io::Result<String> {
    let mut lines = TabWriter::new(Vec::new()).minwidth(0).padding(2).ansi(colour);
    let mut line = String::new();
    for row in rows {
        line.clear();
        for (i, Field { text, tone }) in row.iter().enumerate() {
            line.push(if i == 0 { ' ' } else { '\t' });
            if colour && *tone != Tone::Plain {
                let style = tone.style();
                write!(line, "{style}{text}{style:#}").map_err(io::Error::other)?;
            } else {
                line.push_str(text);
            }
        }
        line.push('\n');
        lines.write_all(line.as_bytes())?;
    }
    let text = lines.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
    Ok(trimmed(String::from_utf8(text).map_err(io::Error::other)?.lines()))
}

fn wrapped<'a, const N: usize>(rows: impl Iterator<Item = [Field<'a>; N]>, width: u16, colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.force_no_tty();
    if colour {
        table.enforce_styling();
    }
    for row in rows {
        table.add_row(row.map(|Field { text, tone }| match tone.colour() {
            Some(AnsiColor::Green) => Cell::new(text).fg(Color::DarkGreen),
            Some(AnsiColor::Yellow) => Cell::new(text).fg(Color::DarkYellow),
            Some(_) => Cell::new(text).fg(Color::DarkRed),
            None => Cell::new(text),
        }));
    }
    trimmed(table.lines())
}

fn trimmed(lines: impl Iterator<Item = impl AsRef<str>>) -> String {
    lines.fold(String::new(), |text, line| text + line.as_ref().trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::reader;
    use super::*;

    proptest! {
        #[test]
        fn programs_and_people_are_shown_the_same_where_it_is_wide_enough(
            rows in proptest::collection::vec(proptest::array::uniform3("[a-z/é–ʻ漢][a-z/é–ʻ漢 ]{0,12}"), 1..6), coloured in any::<bool>(),
        ) {
            let fields = || rows.iter().map(|row| {
                let [a, b, c] = row.each_ref().map(|text| text.trim());
                [Field::from(a), Field::toned(b, Tone::Good), Field::from(c)]
            });
            let program = Reader { colour: coloured, ..reader() };
            let person = Reader { width: Some(500), ..program.clone() };
            let plain = |reader: &Reader| {
                let table = table(Some(["ONE", "TWO", "THREE"]), fields(), reader);
                anstream::adapter::strip_str(&table).to_string()
            };
            prop_assert_eq!(plain(&program), plain(&person));
        }
    }

    #[test]
    fn a_row_is_a_line_for_a_program_however_long_it_is() {
        let rows = || std::iter::once([Field::from("x".repeat(300)), Field::from("y")]);
        assert_eq!(table(None, rows(), &reader()).lines().count(), 1);
        let narrow = Reader { width: Some(80), ..reader() };
        assert!(table(None, rows(), &narrow).lines().count() > 3);
    }
}
