//! `events`: what happens, as it happens.

use std::io::{self, Write};

use super::args::{Events, Format};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, EventLines, Reader};
use crate::api::wire::{Marker, MarkerWord, Workers};
use crate::model::Event;

/// The media type of lines of JSON.
const LINES: &str = "application/x-ndjson";

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
    let mut lagged = false;
    let mut print = |line: &[u8]| {
        if let Ok(marker) = serde_json::from_slice::<Marker>(line) {
            lagged |= marker.marker == MarkerWord::Lagged;
            // Where stderr is gone there is nobody to tell.
            writeln!(err, "pinfold: {}", render::inert(&marker.what)).unwrap_or_default();
            return Ok(true);
        }
        let text = match &lines {
            None => Some((render::inert_json(&String::from_utf8_lossy(line)).into_owned() + "\n").into_bytes()),
            Some(lines) => {
                let event: Event =
                    serde_json::from_slice(line).map_err(|e| Failure::failed("an event is not understood", e))?;
                lines.line(&event).map(|line| format!("{line}\n").into_bytes())
            }
        };
        let printed = text.map_or(Ok(()), |text| out.write_all(&text).and_then(|()| out.flush()));
        match printed {
            Ok(()) => Ok(true),
            // Whoever reads has read enough, as head(1) does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Failure::failed("cannot print", e)),
        }
    };
    client.lines(&path(args), LINES, &mut print)?;
    Ok(if lagged { Exit::Failed } else { Exit::Ok })
}

fn path(args: &Events) -> String {
    let mut path = format!("/v1/events?follow={}", args.follow);
    let more = args.since.iter().map(|since| ("since", since)).chain(args.filter.iter().map(|f| ("filter", f)));
    for (key, value) in more {
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
