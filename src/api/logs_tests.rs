use super::*;
use crate::model::Segment;

const SECOND: u64 = 1_000_000_000;

fn line(bytes: &[u8], goes_on: bool) -> Told<'_> {
    let segment = Segment { run: 3, stream: Stream::Stderr, number: 1 };
    let end = Place { segment, offset: 77 };
    Told::Line(Line { run: 3, stream: Stream::Stderr, time_ns: Some(12 * SECOND), goes_on, bytes, end })
}

fn written(format: Format, timestamps: bool, told: &[Told<'_>]) -> String {
    let mut writer = Writer { format, cursors: false, plain: Plain::new(timestamps) };
    let mut text = Vec::new();
    for told in told {
        writer.write(told, &mut text);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn json_has_text_where_it_is_text_and_base64_where_it_is_not() {
    let missed = Told::Missed { run: 3, stream: Stream::Stdout, files: 2 };
    let told = [line("grüß\n".as_bytes(), false), line(b"\xff\0\n", false), line(b"part", false), missed, Told::Pause];
    assert_eq!(
        written(Format::Json, false, &told),
        r#"{"time":"1970-01-01T00:00:12.000Z","run":3,"stream":"stderr","line":"grüß"}
{"time":"1970-01-01T00:00:12.000Z","run":3,"stream":"stderr","base64":"/wA="}
{"time":"1970-01-01T00:00:12.000Z","run":3,"stream":"stderr","line":"part","partial":true}
{"run":3,"stream":"stdout","missed_files":2}
"#
    );
}

#[test]
fn with_cursors_a_line_says_where_it_ends_and_first_where_reading_begins() {
    let mut writer = Writer { format: Format::Json, cursors: true, plain: Plain::new(false) };
    let mut text = Vec::new();
    let begin = Place { segment: Segment { run: 2, stream: Stream::Stdout, number: 0 }, offset: 5 };
    writer.write(&Told::From(begin), &mut text);
    writer.write(&line(b"a\n", false), &mut text);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"{"run":2,"stream":"stdout","cursor":"2.stdout:5"}
{"time":"1970-01-01T00:00:12.000Z","run":3,"stream":"stderr","line":"a","cursor":"3.stderr.1:77"}
"#
    );
    assert_eq!(written(Format::Json, false, &[Told::From(begin)]), "", "who has not asked for them is not told");
}

#[test]
fn raw_is_as_it_was_written_and_a_time_stands_before_each_line_where_it_is_asked_for() {
    let told = [line(b"a\n", false), line(b"no end", false), line(b"b", false), line(b"b\n", true)];
    assert_eq!(written(Format::Raw, false, &told), "a\nno endbb\n");
    let at = "1970-01-01T00:00:12.000Z";
    assert_eq!(written(Format::Raw, true, &told), format!("{at} a\n{at} no end\n{at} bb\n"));
}

#[test]
fn since_is_a_length_of_time_or_a_moment() {
    let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    let ago = |text| since(text, now).map(|ns| (now.as_nanosecond() - i128::from(ns)) / 1_000_000_000);
    assert_eq!(ago("10m"), Ok(600));
    assert_eq!(ago("2026-11-20T11:59:30Z"), Ok(30));
    assert_eq!(since("3650d", Timestamp::UNIX_EPOCH), Ok(0));
    let wrong = since("soon", now).unwrap_err();
    assert!(wrong.contains("1m30s") && wrong.contains("2026-01-31T12:00:00Z"), "{wrong}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let asked = Asked { run: Some(1), previous: true, ..Asked::default() };
    assert_eq!(asked.query(5, Timestamp::UNIX_EPOCH).unwrap_err().code, Code::BadRequest);
    let refused = |asked: Asked| asked.query(5, Timestamp::UNIX_EPOCH).unwrap_err().detail;
    let after = |text: &str| Some(text.to_owned());
    let both = refused(Asked { after: after("1.stdout:0"), tail: Some(1), ..Asked::default() });
    assert!(both.starts_with("after: it says where to begin"), "{both}");
    let wrong = refused(Asked { after: after("1.stdout:0,7"), ..Asked::default() });
    assert!(wrong.starts_with(r#"after: "1.stdout:0,7" is no place in a worker's output"#), "{wrong}");
    assert!(refused(Asked { cursors: true, ..Asked::default() }).contains("format=json"));
}

#[test]
fn a_run_that_there_never_was_is_a_mistake() {
    let told = |run, last| exists(&WorkerId::new("web").unwrap(), run, last).unwrap_err().detail;
    assert_eq!(told(99, 4), "web has no run 99; it has had 1 to 4");
    assert_eq!(told(0, 4), "web has no run 0; it has had 1 to 4");
    assert_eq!(told(2, 1), "web has no run 2; it has run once");
    assert_eq!(told(1, 0), "web has no run 1; it has not run yet");
    assert!((1..=4).all(|run| exists(&WorkerId::new("web").unwrap(), run, 4).is_ok()));
}

#[test]
fn readers_are_few_and_some_seats_are_kept_for_admins() {
    let readers = Readers::new();
    let of = |role| Peer { uid: 1, pid: None, role };
    let mut seats = Vec::new();
    while let Ok(seat) = readers.seat(of(Role::Operator)) {
        seats.push(seat);
    }
    assert_eq!(seats.len(), READERS - RESERVED);
    while let Ok(seat) = readers.seat(of(Role::Admin)) {
        seats.push(seat);
    }
    assert_eq!(seats.len(), READERS);
    drop(seats);
    assert!(readers.seat(of(Role::Operator)).is_ok());
}
