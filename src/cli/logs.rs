//! `logs`: a worker's output, passed on as it comes.

use std::{borrow::Cow, io, path::Path};

use super::args::{Logs, Output};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{Prefixer, Sgr, inert_json};

/// `pinfold logs`, to `out`. `state` is where the output is kept, where that is known: what a supervisor that does not run
/// cannot tell is there to be read. `terminal` says that `out` is one, and what becomes of colours there.
///
/// # Errors
/// [`Failure`].
pub fn logs(
    args: &Logs,
    client: &Client,
    state: Option<&Path>,
    terminal: Option<Sgr>,
    out: &mut dyn io::Write,
) -> Result<Exit, Failure> {
    let mut way = match (args.output.output, terminal) {
        (Output::Json, _) => Way::Json(Vec::new()),
        (Output::Text, Some(sgr)) => Way::Terminal(Box::new(Prefixer::bare(sgr))),
        (Output::Text, None) => Way::AsItIs,
    };
    let mut gone = false;
    let mut write = |bytes: &[u8]| match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever reads has read enough, as head(1) does.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            gone = true;
            Err(e)
        }
        written => written,
    };
    let passed = client.stream(&path(args), &mut |bytes| write(&way.pass(bytes)));
    // What was left without an end is shown, too, whatever has ended it.
    let left = write(&way.finish());
    let passed = passed.and_then(|()| left.map_err(|e| Failure::failed("cannot print", e)));
    match passed {
        Err(_) if gone => Ok(Exit::Ok),
        Err(Failure::Unreachable(sentence)) => Err(Failure::Unreachable(match kept(args, state) {
            Some(place) => format!("{sentence}; what it wrote is kept in {place}"),
            None => sentence,
        })),
        passed => passed.map(|()| Exit::Ok),
    }
}

/// How it is passed on.
enum Way {
    /// To a file or a program: what a worker prints is its own.
    AsItIs,
    /// To a terminal, which it must not steer.
    Terminal(Box<Prefixer>),
    /// Lines of JSON; what has come of the next one.
    Json(Vec<u8>),
}

impl Way {
    fn pass<'b>(&mut self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        match self {
            Self::AsItIs => bytes.into(),
            Self::Terminal(lines) => {
                let mut shown = Vec::new();
                lines.push(bytes, &mut shown);
                shown.into()
            }
            Self::Json(next) => {
                next.extend_from_slice(bytes);
                let end = next.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let rest = next.split_off(end);
                json(&std::mem::replace(next, rest)).into()
            }
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::AsItIs => Vec::new(),
            Self::Terminal(lines) => {
                let mut shown = Vec::new();
                lines.finish(&mut shown);
                shown
            }
            Self::Json(next) => json(next),
        }
    }
}

fn json(lines: &[u8]) -> Vec<u8> {
    inert_json(&String::from_utf8_lossy(lines)).into_owned().into_bytes()
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
    fn what_a_worker_wrote_steers_no_terminal_and_is_otherwise_as_it_was() {
        let written = "a\u{1b}]0;x\u{7}\u{202e}b\n\u{1b}[31mred\u{1b}[0m\nend".as_bytes();
        let through = |mut way: Way| {
            let cut: Vec<u8> = written.chunks(3).flat_map(|bytes| way.pass(bytes).into_owned()).collect();
            String::from_utf8([cut, way.finish()].concat()).unwrap()
        };
        assert_eq!(through(Way::AsItIs).as_bytes(), written);
        assert_eq!(through(Way::Terminal(Box::new(Prefixer::bare(Sgr::Drop)))), "ab\nred\nend\n");
        let coloured = through(Way::Terminal(Box::new(Prefixer::bare(Sgr::Keep))));
        assert!(coloured.contains("\u{1b}[31mred\u{1b}[0m\n") && !coloured.contains(']'), "{coloured:?}");
    }

    #[test]
    fn lines_of_json_mean_the_same_wherever_they_are_cut() {
        let line = |text: &str| serde_json::json!({ "line": text }).to_string() + "\n";
        let written = line("\u{9b}2J\u{202e}é") + &line("b");
        let mut way = Way::Json(Vec::new());
        let passed: Vec<u8> = written.as_bytes().chunks(1).flat_map(|bytes| way.pass(bytes).into_owned()).collect();
        assert_eq!(way.finish(), b"");
        let passed = String::from_utf8(passed).unwrap();
        assert_eq!(passed, written.replace('\u{9b}', "\\u009b").replace('\u{202e}', "\\u202e"));
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
