use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::*;
use crate::logs::index::Record;

struct Logs(tempfile::TempDir);

fn segment(run: u32, stream: Stream, number: u32) -> Segment {
    Segment { run, stream, number }
}

const OUT: Stream = Stream::Stdout;
const ERR: Stream = Stream::Stderr;

impl Logs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Adds to a file what came at `second`.
    fn add(&self, segment: Segment, second: u64, bytes: impl AsRef<[u8]>) {
        let append = |name: String| File::options().create(true).append(true).open(self.dir().join(name)).unwrap();
        let mut file = append(segment.to_string());
        let record = Record { time_ns: second * 1_000_000_000, offset: file.metadata().unwrap().len() };
        append(segment.index_name()).write_all(&record.encode()).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    /// What is told without waiting, as `RUN STREAM SECOND TEXT`.
    fn told(&self, query: &Query) -> Vec<String> {
        let (wake, _) = nix::unistd::pipe().unwrap();
        let mut told = Vec::new();
        read(self.dir(), query, &wake, |news| {
            told.extend(words(&news));
            ControlFlow::Continue(())
        })
        .unwrap();
        told
    }

    /// Follows on a thread of its own, until the end of what is returned first.
    fn follow(&self, query: Query) -> (OwnedFd, Receiver<String>) {
        let (wake, closes) = nix::unistd::pipe().unwrap();
        let (send, told) = channel();
        let dir = self.dir().to_owned();
        std::thread::spawn(move || {
            read(&dir, &query, &wake, |news| {
                let sent = words(&news).map(|line| send.send(line)).transpose();
                if sent.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        });
        (closes, told)
    }
}

fn words(news: &Told<'_>) -> Option<String> {
    match news {
        Told::Line(Line { run, stream, time_ns, bytes, .. }) => {
            let second = time_ns.map_or("-".to_owned(), |ns| (ns / 1_000_000_000).to_string());
            Some(format!("{run} {stream} {second} {}", String::from_utf8_lossy(bytes)))
        }
        Told::Missed { run, stream, files } => Some(format!("{run} {stream} missed {files}")),
        Told::From(_) | Told::Pause => None,
    }
}

fn all() -> Query {
    Query {
        streams: Stream::ALL.to_vec(),
        runs: Runs::All,
        since_ns: None,
        tail: None,
        follow: false,
        after: Vec::new(),
    }
}

fn next(told: &Receiver<String>) -> String {
    told.recv_timeout(Duration::from_secs(10)).expect("nothing was told")
}

#[test]
fn runs_come_one_after_the_other_and_their_streams_in_the_order_of_their_times() {
    let logs = Logs::new();
    logs.add(segment(2, OUT, 0), 20, "e\n");
    logs.add(segment(1, OUT, 0), 10, "a\n");
    logs.add(segment(1, ERR, 0), 11, "b\n");
    logs.add(segment(1, OUT, 0), 12, "c\nc\n");
    logs.add(segment(1, ERR, 0), 13, "d\n");
    let expected = [
        "1 stdout 10 a\n",
        "1 stderr 11 b\n",
        "1 stdout 12 c\n",
        "1 stdout 12 c\n",
        "1 stderr 13 d\n",
        "2 stdout 20 e\n",
    ];
    assert_eq!(logs.told(&all()), expected);
    let one = Query { runs: Runs::One(1), streams: vec![ERR], ..all() };
    assert_eq!(logs.told(&one), ["1 stderr 11 b\n", "1 stderr 13 d\n"]);
    assert_eq!(logs.told(&Query { since_ns: Some(12_500_000_000), ..all() }), ["1 stderr 13 d\n", "2 stdout 20 e\n"]);
}

#[test]
fn the_last_lines_are_those_of_both_streams_together() {
    let logs = Logs::new();
    for n in 1..=10 {
        logs.add(segment(1, if n % 2 == 0 { OUT } else { ERR }, 0), n, format!("{n}\n"));
    }
    for tail in 0..12_u64 {
        let told = logs.told(&Query { tail: Some(tail), ..all() });
        let expected: Vec<String> = (11 - tail.min(10)..=10).map(|n| format!(" {n} {n}\n")).collect();
        assert_eq!(told.len(), expected.len());
        assert!(told.iter().zip(&expected).all(|(told, expected)| told.ends_with(expected)), "{told:?}");
    }
}

#[test]
fn the_previous_run_is_the_last_one_that_wrote_something() {
    let logs = Logs::new();
    logs.add(segment(3, OUT, 0), 1, "a\n");
    logs.add(segment(7, OUT, 0), 2, "b\n");
    let before = |run| logs.told(&Query { runs: Runs::Before(run), ..all() });
    assert_eq!((before(7), before(8)), (vec!["3 stdout 1 a\n".to_owned()], vec!["7 stdout 2 b\n".to_owned()]));
    assert_eq!(before(3), [""; 0]);
}

#[test]
fn where_nothing_was_ever_written_nothing_is_told() {
    let logs = Logs::new();
    assert_eq!(logs.told(&all()), [""; 0]);
    let (wake, _) = nix::unistd::pipe().unwrap();
    read(&logs.dir().join("none"), &all(), &wake, |_| panic!()).unwrap();
}

#[test]
fn bytes_pass_unchanged_whatever_they_are() {
    let logs = Logs::new();
    let bytes: Vec<u8> = (0..500_000_u64).map(|n| u8::try_from((n * n / 7) % 256).unwrap()).collect();
    for (number, part) in bytes.chunks(130_000).enumerate() {
        logs.add(segment(1, OUT, u32::try_from(number).unwrap()), 1, part);
    }
    let long = vec![b'x'; 3 * MAX_LINE];
    logs.add(segment(2, OUT, 0), 1, &long);
    let (wake, _) = nix::unistd::pipe().unwrap();
    let (mut told, mut longest) = (Vec::new(), 0);
    read(logs.dir(), &all(), &wake, |news| {
        if let Told::Line(line) = news {
            told.extend_from_slice(line.bytes);
            longest = longest.max(line.bytes.len());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(told == [bytes, long].concat(), "unchanged");
    assert_eq!(longest, MAX_LINE);
}

#[test]
fn a_long_line_is_told_in_parts_that_no_other_line_comes_between() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 10, format!("{}\n", "x".repeat(2 * MAX_LINE)));
    logs.add(segment(1, ERR, 0), 9, "before\n");
    logs.add(segment(1, ERR, 0), 11, "behind\n");
    let told: Vec<(String, usize)> =
        logs.told(&all()).into_iter().map(|line| (line[..12].to_owned(), line.len())).collect();
    let order: Vec<&str> = told.iter().map(|(begin, _)| begin.as_str()).collect();
    assert_eq!(order, ["1 stderr 9 b", "1 stdout 10 ", "1 stdout 10 ", "1 stdout 10 ", "1 stderr 11 "]);
}

#[test]
fn whoever_follows_sees_every_line_once_over_files_and_runs() {
    let logs = Logs::new();
    let (_wake, told) = logs.follow(Query { follow: true, ..all() });
    logs.add(segment(1, OUT, 0), 1, "a\nb");
    assert_eq!(next(&told), "1 stdout 1 a\n");
    logs.add(segment(1, OUT, 1), 2, "b\n");
    assert_eq!(next(&told), "1 stdout 1 bb\n", "the line began in the file before");
    logs.add(segment(1, ERR, 0), 3, "no end");
    logs.add(segment(2, OUT, 0), 4, "c\n");
    assert_eq!(next(&told), "1 stderr 3 no end");
    assert_eq!(next(&told), "2 stdout 4 c\n");
    logs.add(segment(1, OUT, 1), 5, "late\n");
    assert_eq!(next(&told), "1 stdout 5 late\n", "of a run that is over, and was still in its pipe");
}

#[test]
fn whoever_follows_the_last_lines_goes_on_behind_them() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 1, "a\nb\nc\n");
    let (_wake, told) = logs.follow(Query { follow: true, tail: Some(1), ..all() });
    assert_eq!(next(&told), "1 stdout 1 c\n");
    logs.add(segment(1, OUT, 0), 2, "d\n");
    assert_eq!(next(&told), "1 stdout 2 d\n");
}

#[test]
fn whoever_does_not_follow_is_told_what_there_was_however_much_comes_meanwhile() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 1, "a\nb\n");
    let (wake, _) = nix::unistd::pipe().unwrap();
    let mut told = 0;
    read(logs.dir(), &all(), &wake, |news| {
        told += u32::from(matches!(news, Told::Line(_)));
        logs.add(segment(1, OUT, told), 2, "more\n");
        logs.add(segment(1, ERR, 0), 2, "more\n");
        logs.add(segment(2, OUT, 0), 2, "more\n");
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told, 2);
}

#[test]
fn following_ends_when_the_one_who_wakes_is_gone_and_one_runs_with_it() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 1, "a\n");
    let (wake, told) = logs.follow(Query { follow: true, ..all() });
    assert_eq!(next(&told), "1 stdout 1 a\n");
    drop(wake);
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    let (_wake, told) = logs.follow(Query { follow: true, runs: Runs::One(1), ..all() });
    assert_eq!(next(&told), "1 stdout 1 a\n");
    logs.add(segment(2, OUT, 0), 2, "b\n");
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn what_the_quota_removed_before_it_was_read_is_said() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 1, "a\n");
    let (_wake, told) = logs.follow(Query { follow: true, ..all() });
    assert_eq!(next(&told), "1 stdout 1 a\n");
    // As one step: the reader has not had its turn meanwhile.
    let aside = tempfile::tempdir_in(logs.dir()).unwrap();
    fs::write(aside.path().join("x"), "d\n").unwrap();
    fs::remove_file(logs.dir().join("1.stdout")).unwrap();
    fs::rename(aside.path().join("x"), logs.dir().join("1.stdout.3")).unwrap();
    logs.add(segment(1, OUT, 3), 2, "e\n");
    assert_eq!(next(&told), "1 stdout missed 2");
    assert_eq!(next(&told), "1 stdout 1 d\n");
}

/// Reads by `query` until `lines` have been told, or all there is, and says behind where it goes on.
fn read_part(logs: &Logs, query: &Query, lines: usize, told: &mut Vec<String>) -> Vec<Place> {
    let (wake, _) = nix::unistd::pipe().unwrap();
    let mut places: BTreeMap<(Stream, u32), Place> = query.after.iter().map(|place| (key(*place), *place)).collect();
    let mut left = lines;
    read(logs.dir(), query, &wake, |news| {
        match &news {
            Told::From(place) => drop(places.insert(key(*place), *place)),
            Told::Line(line) if left > 0 => {
                left -= 1;
                told.extend(words(&news));
                places.insert(key(line.end), line.end);
            }
            Told::Line(_) | Told::Pause => return ControlFlow::Break(()),
            Told::Missed { .. } => {}
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    places.into_values().collect()
}

const fn key(place: Place) -> (Stream, u32) {
    (place.segment.stream, place.segment.run)
}

#[test]
fn wherever_reading_is_left_it_goes_on_behind_what_was_told() {
    let logs = Logs::new();
    logs.add(segment(1, OUT, 0), 1, "old\n");
    logs.add(segment(2, OUT, 0), 10, "a\nbb\nsplit ");
    logs.add(segment(2, OUT, 1), 11, "over two\n");
    logs.add(segment(2, ERR, 0), 10, "E\nno end");
    logs.add(segment(3, OUT, 0), 12, format!("{}\nlast\n", "x".repeat(MAX_LINE + 3)));
    let whole = Query { follow: true, ..all() };
    let mut all_of_it = Vec::new();
    read_part(&logs, &whole, usize::MAX, &mut all_of_it);
    let tail = Query { tail: Some(3), ..whole.clone() };
    let mut last = Vec::new();
    read_part(&logs, &tail, usize::MAX, &mut last);
    for (query, expected) in [(whole, all_of_it), (tail, last)] {
        assert!(expected.len() > 3, "{expected:?}");
        for first in 0..=expected.len() {
            let mut told = Vec::new();
            let after = read_part(&logs, &query, first, &mut told);
            assert_eq!(told.len(), first);
            let rest = Query { after, tail: None, ..query.clone() };
            read_part(&logs, &rest, usize::MAX, &mut told);
            // Which of two streams comes first is told anew; the order within each is not.
            let of = |lines: &[String], stream: &str| -> Vec<String> {
                let text = |line: &String| line.splitn(4, ' ').nth(3).unwrap().to_owned();
                lines.iter().filter(|line| line.contains(&format!(" {stream} "))).map(text).collect()
            };
            for stream in ["stdout", "stderr"] {
                assert_eq!(of(&told, stream), of(&expected, stream), "left behind {first}");
            }
        }
    }
}

#[test]
fn what_comes_while_nobody_reads_is_told_to_whoever_goes_on() {
    let logs = Logs::new();
    let query = Query { follow: true, tail: Some(0), ..all() };
    let after = read_part(&logs, &query, 9, &mut Vec::new());
    logs.add(segment(1, OUT, 0), 1, "first\n");
    let mut told = Vec::new();
    let after = read_part(&logs, &Query { after, tail: None, ..query.clone() }, 9, &mut told);
    logs.add(segment(1, OUT, 0), 2, "late\n");
    logs.add(segment(2, ERR, 0), 3, "next\n");
    let after = read_part(&logs, &Query { after, tail: None, ..query.clone() }, 9, &mut told);
    read_part(&logs, &Query { after, tail: None, ..query }, 9, &mut told);
    let text: Vec<&str> = told.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(text, ["first\n", "late\n", "next\n"]);
}
