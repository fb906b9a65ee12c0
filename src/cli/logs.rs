//! `logs`: a worker's output, passed on as it comes.

use std::{io, path::Path};

use super::args::{Logs, Output};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};

/// `pinfold logs`, to `out`. `state` is where the output is kept, where that is known: what a supervisor that does not run
/// cannot tell is there to be read.
///
/// # Errors
/// [`Failure`].
pub fn logs(args: &Logs, client: &Client, state: Option<&Path>, out: &mut dyn io::Write) -> Result<Exit, Failure> {
    let mut gone = false;
    let passed = client.stream(&path(args), &mut |bytes| match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever reads has read enough, as head(1) does.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            gone = true;
            Err(e)
        }
        written => written,
    });
    match passed {
        Err(_) if gone => Ok(Exit::Ok),
        Err(Failure::Unreachable(sentence)) => Err(Failure::Unreachable(match kept(args, state) {
            Some(place) => format!("{sentence}; what it wrote is kept in {place}"),
            None => sentence,
        })),
        passed => passed.map(|()| Exit::Ok),
    }
}

fn kept(args: &Logs, state: Option<&Path>) -> Option<String> {
    // A name, and no way out of the directory.
    let id = crate::model::WorkerId::new(&args.name).ok()?;
    let dir = state?.join("logs").join(id.as_str());
    dir.is_dir().then(|| dir.display().to_string())
}

fn path(args: &Logs) -> String {
    let mut query = Vec::new();
    let mut flag = |on: bool, name: &str| query.extend(on.then(|| format!("{name}=true")));
    flag(args.follow, "follow");
    flag(args.previous, "previous");
    flag(args.timestamps, "timestamps");
    query.extend(args.since.as_deref().map(|since| format!("since={}", encoded(since))));
    query.extend(args.lines.map(|lines| format!("tail={lines}")));
    query.extend(args.run.map(|run| format!("run={run}")));
    query.extend(args.stream.map(|stream| format!("stream={}", stream.as_str())));
    query.extend((args.output.output == Output::Json).then(|| "format=json".to_owned()));
    let question = if query.is_empty() { "" } else { "?" };
    format!("/v1/workers/{}/logs{question}{}", encoded(&args.name), query.join("&"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn asked(line: &str) -> String {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Logs(args) => path(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_reaches_the_supervisor() {
        assert_eq!(asked("pinfold logs web-1"), "/v1/workers/web-1/logs");
        assert_eq!(
            asked("pinfold logs web -f -n 10 --since 2026-01-31T12:00:00+01:00 --stream stderr -o json"),
            "/v1/workers/web/logs?follow=true&since=2026-01-31T12%3A00%3A00%2B01%3A00&tail=10&stream=stderr&format=json"
        );
        assert_eq!(asked("pinfold logs web -p -t"), "/v1/workers/web/logs?previous=true&timestamps=true");
        assert_eq!(asked("pinfold logs web --run 7"), "/v1/workers/web/logs?run=7");
        for wrong in ["logs", "logs web -p --run 7", "logs web -p -f", "logs web -t -o json", "logs web -n -1"] {
            let line = format!("pinfold {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
