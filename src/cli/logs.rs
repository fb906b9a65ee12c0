//! `logs`: a worker's output, passed on as it comes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::args::{Logs, Output};
use super::client::{Client, Over, Reads, Took, Whose, encoded};
use super::exit::{Exit, Failure};
use super::render::{Prefixer, Sgr, inert_json};
use crate::api::wire::LogLine;
use crate::logs::{Plain, read::MAX_LINE};
use crate::model::Stream;

/// The media type of lines of JSON.
const LINES: &str = "application/x-ndjson";

/// `pinfold logs`, to `out`, and to `err` that it is over. `state` is where the output is kept, where that is known: what a
/// supervisor that does not run cannot tell is there to be read. `terminal` says that `out` is one, and what becomes of colours there.
///
/// # Errors
/// [`Failure`].
pub fn logs(
    args: &Logs,
    client: &Client,
    state: Option<&Path>,
    terminal: Option<Sgr>,
    out: &mut dyn io::Write,
    err: &mut dyn io::Write,
) -> Result<Exit, Failure> {
    let mut out = Out { way: Way::of(args.output.output, terminal), out };
    let passed = if args.follow { follow(args, client, &mut out, err) } else { pass(args, client, &mut out) };
    // What was left without an end is shown, too, whatever has ended it.
    let passed = match (passed, out.finish()) {
        (Ok(_), Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed("cannot print", e)),
        (passed, _) => passed,
    };
    passed.map_err(|failure| match failure {
        Failure::Unreachable(sentence) => Failure::Unreachable(match kept(args, state) {
            Some(place) => format!("{sentence}; what it wrote is kept in {place}"),
            None => sentence,
        }),
        failure => failure,
    })
}

fn pass(args: &Logs, client: &Client, out: &mut dyn io::Write) -> Result<Exit, Failure> {
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
        passed => passed.map(|()| Exit::Ok),
    }
}

fn follow(args: &Logs, client: &Client, out: &mut dyn io::Write, err: &mut dyn io::Write) -> Result<Exit, Failure> {
    let mut printer = Printer::new(args, out);
    match client.follow(LINES, &mut printer)? {
        Over::Told => {}
        // Where stderr is gone there is nobody to tell.
        Over::Ended | Over::Lost(_) => writeln!(err, "pinfold: the supervisor has ended").unwrap_or_default(),
    }
    Ok(Exit::Ok)
}

/// Prints lines as they come. What it is told are objects, however they are printed: each has its place.
struct Printer<'a> {
    args: &'a Logs,
    json: bool,
    /// Behind where each stream goes on, for each run that may still write to it: the last two.
    cursors: BTreeMap<Stream, BTreeMap<u32, String>>,
    plain: Plain,
    /// Whose line has been told in part.
    goes_on: HashSet<(u32, Stream)>,
    /// What is not printed yet.
    text: Vec<u8>,
    out: &'a mut dyn io::Write,
}

impl<'a> Printer<'a> {
    fn new(args: &'a Logs, out: &'a mut dyn io::Write) -> Self {
        let json = args.output.output == Output::Json;
        let plain = Plain::new(args.timestamps);
        Self { args, json, cursors: BTreeMap::new(), plain, goes_on: HashSet::new(), text: Vec::new(), out }
    }
}

impl Reads for Printer<'_> {
    const HEEDS_INTERRUPT: bool = false;

    fn first(&self) -> String {
        question(self.args, &["format=json", "cursors=true"])
    }

    fn rest(&self, _: Whose) -> Option<String> {
        // The files are the same, whoever reads them.
        let cursors: Vec<&str> = self.cursors.values().flat_map(BTreeMap::values).map(String::as_str).collect();
        if cursors.is_empty() {
            return Some(self.first());
        }
        let after = format!("after={}", encoded(&cursors.join(",")));
        let Logs { follow, run, stream, .. } = self.args;
        let mut query = vec![format!("follow={follow}"), "format=json".to_owned(), "cursors=true".to_owned(), after];
        query.extend(run.map(|run| format!("run={run}")));
        query.extend(stream.map(|stream| format!("stream={}", stream.as_str())));
        Some(format!("/v1/workers/{}/logs?{}", encoded(&self.args.name), query.join("&")))
    }

    fn take(&mut self, line: &[u8]) -> Result<Took, Failure> {
        let not_understood = |e| Failure::failed("a line of output is not understood", e);
        let mut line: LogLine = serde_json::from_slice(line).map_err(not_understood)?;
        let (run, stream, cursor) = (line.run, line.stream, line.cursor.take());
        let content = content(&line)?;
        match content {
            _ if self.json && (content.is_some() || line.missed_files.is_some()) => {
                serde_json::to_writer(&mut self.text, &line).map_err(not_understood)?;
                self.text.push(b'\n');
            }
            Some(mut bytes) if !self.json => {
                let goes_on = self.goes_on.remove(&(run, stream));
                if line.partial && bytes.len() >= MAX_LINE {
                    self.goes_on.insert((run, stream));
                }
                bytes.extend(Some(b'\n').filter(|_| !line.partial));
                self.plain.write(&bytes, goes_on, || line.time.clone(), &mut self.text);
            }
            _ => {}
        }
        if let Some(cursor) = cursor {
            let of = self.cursors.entry(stream).or_default();
            of.insert(run, cursor);
            while of.len() > 2 {
                of.pop_first();
            }
        }
        Ok(Took::More)
    }

    fn pause(&mut self) -> Result<Took, Failure> {
        let printed = self.out.write_all(&self.text).and_then(|()| self.out.flush());
        self.text.clear();
        match printed {
            Ok(()) => Ok(Took::More),
            // Whoever reads has read enough, as head(1) does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Took::Enough),
            Err(e) => Err(Failure::failed("cannot print", e)),
        }
    }
}

/// Where it is printed, and how.
struct Out<'a> {
    way: Way,
    out: &'a mut dyn io::Write,
}

impl io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(&self.way.pass(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Out<'_> {
    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(&self.way.finish())?;
        self.out.flush()
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
    fn of(output: Output, terminal: Option<Sgr>) -> Self {
        match (output, terminal) {
            (Output::Json, _) => Self::Json(Vec::new()),
            (Output::Text, Some(sgr)) => Self::Terminal(Box::new(Prefixer::bare(sgr))),
            (Output::Text, None) => Self::AsItIs,
        }
    }

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

/// What a worker wrote.
fn content(line: &LogLine) -> Result<Option<Vec<u8>>, Failure> {
    let decoded = line.base64.as_ref().map(|text| STANDARD.decode(text)).transpose();
    let decoded = decoded.map_err(|e| Failure::failed("a line of output is not understood", e))?;
    Ok(line.line.as_ref().map(|text| text.clone().into_bytes()).or(decoded))
}

fn kept(args: &Logs, state: Option<&Path>) -> Option<String> {
    // A name, and no way out of the directory.
    let id = crate::model::WorkerId::new(&args.name).ok()?;
    let dir = state?.join("logs").join(id.as_str());
    dir.is_dir().then(|| dir.display().to_string())
}

fn path(args: &Logs) -> String {
    question(args, if args.output.output == Output::Json { &["format=json"] } else { &[] })
}

fn question(args: &Logs, shape: &[&str]) -> String {
    let mut query = Vec::new();
    let mut flag = |on: bool, name: &str| query.extend(on.then(|| format!("{name}=true")));
    flag(args.follow, "follow");
    flag(args.previous, "previous");
    flag(args.timestamps && !args.follow, "timestamps");
    query.extend(args.since.as_deref().map(|since| format!("since={}", encoded(since))));
    query.extend(args.lines.map(|lines| format!("tail={lines}")));
    query.extend(args.run.map(|run| format!("run={run}")));
    query.extend(args.stream.map(|stream| format!("stream={}", stream.as_str())));
    query.extend(shape.iter().map(|word| (*word).to_owned()));
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

    /// What `told` is printed as, and what is asked for afterwards.
    fn followed(line: &str, told: &[&str]) -> (String, String) {
        let Command::Logs(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("{line}") };
        let mut out = Vec::new();
        let mut printer = Printer::new(&args, &mut out);
        for line in told {
            assert_eq!(printer.take(line.as_bytes()).unwrap(), Took::More);
        }
        printer.pause().unwrap();
        let rest = printer.rest(Whose::Another).unwrap();
        (String::from_utf8_lossy(&out).into_owned(), rest)
    }

    #[test]
    fn what_is_followed_is_printed_as_whoever_does_not_follow_would_have_it() {
        let long = "x".repeat(MAX_LINE);
        let part = format!(
            r#"{{"time":"T2","run":2,"stream":"stdout","line":"{long}","partial":true,"cursor":"2.stdout:2"}}"#
        );
        let told = [
            r#"{"run":2,"stream":"stdout","cursor":"2.stdout:0"}"#,
            r#"{"time":"T1","run":2,"stream":"stdout","line":"a","cursor":"2.stdout:1"}"#,
            &part,
            r#"{"time":"T2","run":2,"stream":"stdout","line":"x","cursor":"2.stdout:3"}"#,
            r#"{"run":2,"stream":"stderr","missed_files":1}"#,
            r#"{"run":2,"stream":"stderr","base64":"/w==","partial":true,"cursor":"2.stderr:1"}"#,
        ];
        let printed = |line: &str| followed(line, &told).0;
        assert_eq!(printed("pinfold logs web -f"), format!("a\n{long}x\n\u{fffd}"));
        assert_eq!(printed("pinfold logs web -f -t"), format!("T1 a\nT2 {long}x\n- \u{fffd}"));
        let json = printed("pinfold logs web -f -o json");
        assert_eq!(json.lines().count(), 5, "where reading begins is no line");
        assert!(json.starts_with("{\"time\":\"T1\",\"run\":2,\"stream\":\"stdout\",\"line\":\"a\"}\n"), "{json}");
        assert!(!json.contains("cursor") && json.contains("missed_files"));
    }

    #[test]
    fn reading_goes_on_behind_the_last_line_of_each_stream_and_run_that_may_still_be_written_to() {
        let at = |run, stream, cursor| format!(r#"{{"run":{run},"stream":"{stream}","line":"","cursor":"{cursor}"}}"#);
        let told = [
            at(1, "stdout", "1.stdout:9"),
            at(2, "stdout", "2.stdout:1"),
            at(2, "stdout", "2.stdout:5"),
            at(3, "stdout", "3.stdout:7"),
            at(3, "stderr", "3.stderr.1:4"),
        ];
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let (_, rest) = followed("pinfold logs web -f -n 5 -t --since 10m", &told);
        let after = encoded("2.stdout:5,3.stdout:7,3.stderr.1:4");
        assert_eq!(rest, format!("/v1/workers/web/logs?follow=true&format=json&cursors=true&after={after}"));
        let (_, rest) = followed("pinfold logs web -f -n 5 --run 2", &[]);
        assert_eq!(
            rest, "/v1/workers/web/logs?follow=true&tail=5&run=2&format=json&cursors=true",
            "nothing has been told"
        );
        let (_, rest) = followed("pinfold logs web -f --run 2 --stream stdout", &told[1..2]);
        assert!(rest.ends_with("&after=2.stdout%3A1&run=2&stream=stdout"), "{rest}");
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
}
