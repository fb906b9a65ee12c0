//! `events`: what happens, as it happens.

use std::cell::Cell;
use std::io::{self, Write};

use serde::Deserialize;

use super::args::{Events, Format};
use super::client::{Client, Over, Reads, Took, Whose, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, EventLines, Reader};
use crate::api::wire::{Marker, MarkerWord, Workers};
use crate::model::Event;

/// The media type of lines of JSON.
const LINES: &str = "application/x-ndjson";

/// The cursor of no event, behind which everything is.
const NOBODYS: &str = "none.0";

/// `pinfold events`: prints to `out` as it reads, and to `err` what is missing or over.
///
/// # Errors
/// [`Failure`].
pub fn events(
    args: &Events,
    client: &Client,
    reader: &Reader,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<Exit, Failure> {
    let lines = match args.output.format {
        Format::Json => None,
        // Only for their names, which align.
        Format::Table => {
            let Workers { workers, .. } = client.get("/v1/workers")?;
            let names = workers.iter().map(|worker| &worker.id);
            Some(EventLines::of_names(names, reader.zone.clone(), reader.colour))
        }
    };
    let mut printer = Printer { args, lines, cursor: None, lagged: false, resumed: Cell::new(false), out, err };
    if args.follow {
        match client.follow(LINES, &mut printer)? {
            Over::Told => {}
            Over::Ended => printer.say("the supervisor has ended"),
            Over::Lost(failure) => return Err(failure),
        }
    } else {
        client.lines(&path(args), LINES, |line| Ok(printer.take(line)? == Took::More))?;
    }
    Ok(if printer.lagged { Exit::Failed } else { Exit::Ok })
}

/// Prints what it reads.
struct Printer<'a, O, E> {
    args: &'a Events,
    lines: Option<EventLines>,
    /// Of the last event.
    cursor: Option<String>,
    lagged: bool,
    /// Another supervisor's have been asked for, and none of them has come yet.
    resumed: Cell<bool>,
    out: &'a mut O,
    err: &'a mut E,
}

/// An event's place in the stream.
#[derive(Deserialize)]
struct Placed {
    cursor: String,
}

impl<O, E: Write> Printer<'_, O, E> {
    fn say(&mut self, what: &str) {
        // Where stderr is gone there is nobody to tell.
        writeln!(self.err, "pinfold: {}", render::inert(what)).unwrap_or_default();
    }

    fn mark(&mut self, marker: &Marker) -> Took {
        // Nobody else's cursor is known to a supervisor, and what it has kept is all it has told.
        let expected = self.resumed.replace(false) && marker.marker == MarkerWord::Gap && marker.missed.is_none();
        if marker.marker == MarkerWord::End {
            return Took::TheEnd;
        }
        self.lagged |= marker.marker == MarkerWord::Lagged;
        if !expected {
            self.say(&marker.what);
        }
        Took::More
    }
}

impl<O: Write, E: Write> Reads for Printer<'_, O, E> {
    const HEEDS_INTERRUPT: bool = true;

    fn first(&self) -> String {
        path(self.args)
    }

    fn rest(&self, of: Whose) -> Option<String> {
        let cursor = match (of, &self.cursor) {
            (Whose::Another, cursor) => cursor.as_deref().unwrap_or(NOBODYS),
            (Whose::TheSame, cursor) => cursor.as_deref()?,
        };
        self.resumed.set(of == Whose::Another);
        Some(question(true, &[("after", cursor)], &self.args.filter))
    }

    fn take(&mut self, line: &[u8]) -> Result<Took, Failure> {
        if let Ok(marker) = serde_json::from_slice::<Marker>(line) {
            return Ok(self.mark(&marker));
        }
        self.resumed.set(false);
        let text = match &self.lines {
            None => Some((render::inert_json(&String::from_utf8_lossy(line)).into_owned() + "\n").into_bytes()),
            Some(lines) => {
                let event: Event =
                    serde_json::from_slice(line).map_err(|e| Failure::failed("an event is not understood", e))?;
                lines.line(&event).map(|line| format!("{line}\n").into_bytes())
            }
        };
        let printed = text.map_or(Ok(()), |text| self.out.write_all(&text).and_then(|()| self.out.flush()));
        if let Ok(Placed { cursor }) = serde_json::from_slice(line) {
            self.cursor = Some(cursor);
        }
        match printed {
            Ok(()) => Ok(Took::More),
            // Whoever reads has read enough, as head(1) does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Took::Enough),
            Err(e) => Err(Failure::failed("cannot print", e)),
        }
    }
}

fn path(args: &Events) -> String {
    let since: Vec<_> = args.since.iter().map(|since| ("since", since.as_str())).collect();
    question(args.follow, &since, &args.filter)
}

fn question(follow: bool, from: &[(&str, &str)], filters: &[String]) -> String {
    let mut path = format!("/v1/events?follow={follow}");
    let filters = filters.iter().map(|filter| ("filter", filter.as_str()));
    for (key, value) in from.iter().copied().chain(filters) {
        path.extend(["&", key, "=", &encoded(value)]);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn what_is_typed_is_what_is_asked() {
        let cli = Cli::parse_from([
            "pinfold",
            "events",
            "-f",
            "--since",
            "10m",
            "--filter",
            "worker=web-*",
            "--filter",
            "kind=exited",
        ]);
        let Command::Events(args) = &cli.command else { panic!("{cli:?}") };
        assert_eq!(path(args), "/v1/events?follow=true&since=10m&filter=worker%3Dweb-%2A&filter=kind%3Dexited");
    }
}
