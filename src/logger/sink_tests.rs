use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::logs::index::Index;
use crate::model::{Segment, Stream};

const KIB: u64 = 1 << 10;

fn at(seconds: u64) -> Now {
    Now { mono: Mono(Duration::from_secs(seconds)), wall_ns: (1_000 + seconds) * 1_000_000_000 }
}

fn sink_with(dir: impl AsRef<Path>, run: u32, policy: LogPolicy) -> (Sink, Option<File>) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    let first = Segment { run, stream: Stream::Stdout, number: 0 };
    let chain = Chain::new(dir.as_ref().to_owned(), first, policy);
    (Sink::new(read, chain, policy, at(0).mono), Some(write.into()))
}

fn sink(dir: impl AsRef<Path>) -> (Sink, Option<File>) {
    sink_with(dir, 1, LogPolicy::default())
}

fn say(writer: Option<&File>, text: impl AsRef<[u8]>) {
    { writer.unwrap() }.write_all(text.as_ref()).unwrap();
}

/// Turns until the end. A child that another test is forking holds the pipe's other end too, until it executes its
/// program, so that the end may be a few turns away.
fn to_the_end(sink: &mut Sink, now: Now) -> Vec<News> {
    let mut told = Vec::new();
    loop {
        let (turn, news) = sink.turn(&mut [0; 64], true, now);
        told.extend(news);
        if turn == Turn::Ended {
            return told;
        }
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bytes_are_added_to_what_was_there_and_the_end_is_told_once_all_are_written() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("logs/web");
    let mut scratch = [0; 64];
    for text in ["first\n", "second\n"] {
        let (mut sink, mut writer) = sink(&dir);
        say(writer.as_ref(), text);
        assert_eq!(sink.turn(&mut scratch, true, at(1)), (Turn::More, None));
        say(writer.as_ref(), "end\n");
        writer.take();
        assert_eq!(to_the_end(&mut sink, at(1)), []);
        assert_eq!(sink.dropped(), 0);
    }
    assert_eq!(fs::read_to_string(dir.join("1.stdout")).unwrap(), "first\nend\nsecond\nend\n");
    let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.join("1.stdout")) & !0o640, 0);
    assert_eq!(mode(&dir.join("1.stdout.idx")) & !0o640, 0);
    assert_eq!(mode(&dir) & !0o750, 0);
}

#[test]
fn a_stream_without_a_byte_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, mut writer) = sink(dir.path());
    assert_eq!(sink.turn(&mut [0; 64], true, at(0)), (Turn::More, None));
    writer.take();
    assert_eq!(to_the_end(&mut sink, at(0)), []);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn what_cannot_be_written_is_dropped_with_a_count_and_the_worker_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let (mut sink, mut writer) = sink(dir.path().join("file/w"));
    let mut scratch = [0; 64];
    say(writer.as_ref(), "x".repeat(60_000));
    let (turn, news) = sink.turn(&mut scratch, true, at(0));
    assert_eq!((turn, sink.dropped()), (Turn::More, 60_000));
    let news = news.unwrap();
    assert!(news.why.contains("Not a directory") && news.bytes.is_none(), "{news:?}");
    say(writer.as_ref(), "y");
    assert_eq!(sink.turn(&mut scratch, true, at(1)), (Turn::More, None), "told once");
    fs::remove_file(dir.path().join("file")).unwrap();
    say(writer.as_ref(), "z");
    assert_eq!(sink.turn(&mut scratch, true, at(2)), (Turn::More, None), "it may come back at once");
    say(writer.as_ref(), "z");
    let (_, news) = sink.turn(&mut scratch, true, at(6));
    assert_eq!(news.unwrap().bytes, Some(60_001));
    writer.take();
    assert_eq!(to_the_end(&mut sink, at(6)), []);
    assert_eq!(fs::read_to_string(dir.path().join("file/w/1.stdout")).unwrap(), "zz");
}

#[test]
fn what_was_dropped_until_the_end_is_told_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let (mut sink, mut writer) = sink(dir.path().join("file/w"));
    say(writer.as_ref(), "xyz");
    writer.take();
    let told = to_the_end(&mut sink, at(0));
    assert_eq!(told.last().unwrap().bytes, Some(3));
}

#[test]
fn a_link_in_the_place_of_the_log_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join("1.stdout")).unwrap();
    let (mut sink, mut writer) = sink(dir.path());
    say(writer.as_ref(), "x");
    writer.take();
    to_the_end(&mut sink, at(0));
    assert_eq!(sink.dropped(), 1);
    assert!(!dir.path().join("target").exists());
}

/// A policy of `files` files of `kib` KiB.
fn quota(files: u32, kib: u64) -> LogPolicy {
    LogPolicy { max_size: kib * KIB, max_files: files, ..LogPolicy::default() }
}

/// Numbers of eight bytes each.
fn numbers(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|n| format!("{n:07}\n").into_bytes()).collect()
}

/// What the files of the run hold, joined in the order of their numbers.
fn kept(dir: &Path, run: u32) -> Vec<u8> {
    let mut segments: Vec<Segment> =
        files(dir).iter().filter_map(|name| name.parse().ok()).filter(|s: &Segment| s.run == run).collect();
    segments.sort();
    segments.into_iter().flat_map(|s| fs::read(dir.join(s.to_string())).unwrap()).collect()
}

#[test]
fn files_are_begun_at_their_size_and_of_all_bytes_the_last_are_kept_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, mut writer) = sink_with(dir.path(), 1, quota(3, 64));
    for part in 0..100_u32 {
        say(writer.as_ref(), numbers(part * 1000..part * 1000 + 1000));
        assert_eq!(sink.turn(&mut [0; 64], true, at(u64::from(part))), (Turn::More, None));
        for name in files(dir.path()) {
            assert!(dir.path().join(&name).metadata().unwrap().len() <= 64 * KIB, "{name}");
        }
    }
    writer.take();
    to_the_end(&mut sink, at(100));
    let (all, kept) = (numbers(0..100_000), kept(dir.path(), 1));
    assert!(all.ends_with(&kept), "the end, gapless");
    assert!(kept.len() as u64 > 2 * 60 * KIB && kept.len() as u64 <= 3 * 64 * KIB, "{}", kept.len());
    assert_eq!(files(dir.path()).len(), 6, "three files, each with its index: {:?}", files(dir.path()));
}

#[test]
fn whoever_comes_next_goes_on_where_the_files_end() {
    let dir = tempfile::tempdir().unwrap();
    for part in 0..40_u32 {
        // Killed after each turn: nothing is kept but the files.
        let (mut sink, writer) = sink_with(dir.path(), 1, quota(9, 64));
        say(writer.as_ref(), numbers(part * 1000..part * 1000 + 1000));
        assert_eq!(sink.turn(&mut [0; 64], true, at(0)), (Turn::More, None));
    }
    assert_eq!(kept(dir.path(), 1), numbers(0..40_000));
}

#[test]
fn runs_share_the_files_that_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for run in 1..=7 {
        let (mut sink, writer) = sink_with(dir.path(), run, quota(3, 64));
        say(writer.as_ref(), format!("run {run}\n"));
        assert_eq!(sink.turn(&mut [0; 64], true, at(0)), (Turn::More, None));
    }
    let runs: Vec<String> = files(dir.path()).into_iter().filter(|n| n.parse::<Segment>().is_ok()).collect();
    assert_eq!(runs, ["5.stdout", "6.stdout", "7.stdout"]);
}

#[test]
fn the_index_tells_when_each_part_came_and_is_silent_while_nothing_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, writer) = sink(dir.path());
    for (second, text) in [(0, "a"), (0, "b"), (3, "c"), (5, ""), (9, "d")] {
        say(writer.as_ref(), text);
        assert_eq!(sink.turn(&mut [0; 64], true, at(second)), (Turn::More, None));
    }
    let path = dir.path().join("1.stdout.idx");
    let index = Index::read(&path, 4).unwrap();
    let times = [0, 1, 2, 3].map(|offset| index.time_at(offset).unwrap() / 1_000_000_000);
    assert_eq!(times, [1000, 1000, 1003, 1009]);
    assert_eq!(path.metadata().unwrap().len(), 3 * 16);
}

#[test]
fn a_torn_record_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("1.stdout.idx"), [7; 5]).unwrap();
    let (mut sink, writer) = sink(dir.path());
    say(writer.as_ref(), "a");
    assert_eq!(sink.turn(&mut [0; 64], true, at(1)), (Turn::More, None));
    let index = Index::read(&dir.path().join("1.stdout.idx"), 1).unwrap();
    assert_eq!(index.time_at(0), Some(1_001_000_000_000));
}

#[test]
fn above_its_rate_a_stream_waits_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let policy = LogPolicy { rate_limit: Some(2048), ..LogPolicy::default() };
    let (mut sink, writer) = sink_with(dir.path(), 1, policy);
    say(writer.as_ref(), numbers(0..1000));
    let (Turn::Later(next), None) = sink.turn(&mut [0; 64], true, at(0)) else { panic!() };
    assert_eq!(kept(dir.path(), 1), numbers(0..256));
    assert!(next > at(0).mono && next < at(1).mono);
    assert!(matches!(sink.turn(&mut [0; 64], true, at(1)), (Turn::Later(_), None)));
    assert_eq!(kept(dir.path(), 1), numbers(0..512));
    assert_eq!(sink.dropped(), 0);
}

#[test]
fn above_its_rate_a_stream_that_drops_never_makes_its_writer_wait() {
    let dir = tempfile::tempdir().unwrap();
    let policy = LogPolicy { rate_limit: Some(2048), overflow: Overflow::Drop, ..LogPolicy::default() };
    let (mut sink, writer) = sink_with(dir.path(), 1, policy);
    say(writer.as_ref(), numbers(0..1000));
    let (turn, news) = sink.turn(&mut [0; 4096], true, at(0));
    assert_eq!((turn, sink.dropped()), (Turn::More, 8000 - 2048));
    assert_eq!(news.unwrap().why, "more than its rate_limit of 2 KiB/s");
    say(writer.as_ref(), numbers(1000..1100));
    assert_eq!(sink.turn(&mut [0; 4096], true, at(1)), (Turn::More, None));
    assert_eq!(kept(dir.path(), 1), [numbers(0..256), numbers(1000..1100)].concat());
}
