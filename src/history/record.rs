//! An event on its way out, and how one is told from every other.

use std::{fmt, sync::Arc};

use hyper::body::Bytes;
use serde::Serialize;

use crate::clock;
use crate::model::Event;

/// An event, numbered and written once for everybody who tells it.
#[derive(Debug)]
pub struct Record {
    /// What happened.
    pub event: Event,
    cursor: Cursor,
    json: Bytes,
}

/// A place in the stream of events of one supervisor, as text `STREAM.POSITION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which stream: another supervisor has another.
    pub stream: Arc<str>,
    /// How many events it had told then, that of this cursor included.
    pub position: u64,
}

impl Cursor {
    /// Reads what [`Display`](fmt::Display) has written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, position) = text.rsplit_once('.')?;
        let digits = !position.is_empty() && position.bytes().all(|b| b.is_ascii_digit());
        let position = position.parse().ok().filter(|_| digits && !stream.is_empty())?;
        Some(Self { stream: stream.into(), position })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stream, self.position)
    }
}

/// The line of a record: the event's own, and what tells it from every other.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    cursor: String,
}

impl Record {
    /// Its place in the stream: no other event has it, however often this one is told.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// One line of JSON without its end: the event's own shape, with `cursor`.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// What it takes of memory, about, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.json.len() + size_of::<Self>()
    }
}

/// Turns events into records. One for each stream.
#[derive(Debug)]
pub struct Scribe {
    stream: Arc<str>,
    told: u64,
}

impl Scribe {
    /// A stream of this name, which must be another for every supervisor there ever is.
    #[must_use]
    pub fn new(stream: &str) -> Self {
        Self { stream: stream.into(), told: 0 }
    }

    /// A stream of its own, of which no other has the name: none begins in the same nanosecond of the same boot, whose id is `boot`.
    #[must_use]
    pub fn begin(boot: &str) -> Self {
        let boot = boot.split('-').next().unwrap_or(boot);
        Self::new(&format!("{boot}-{:x}", clock::monotonic().as_nanos()))
    }

    /// The stream of its cursors.
    #[must_use]
    pub fn stream(&self) -> Arc<str> {
        Arc::clone(&self.stream)
    }

    /// The next record.
    #[must_use]
    pub fn write(&mut self, event: Event) -> Arc<Record> {
        self.told += 1;
        let cursor = Cursor { stream: Arc::clone(&self.stream), position: self.told };
        let line = Line { event: &event, cursor: cursor.to_string() };
        // Nothing in an event's shape can fail to be written. Boxed, it has no room to spare: the ring keeps thousands.
        let json = serde_json::to_vec(&line).unwrap_or_default().into_boxed_slice().into();
        Arc::new(Record { event, cursor, json })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{EventKind, WorkerId};

    /// The supervisor's event number `seq`, which says `what`.
    pub(in crate::history) fn event(seq: u64, what: &str) -> Event {
        let kind = EventKind::Supervisor { what: what.to_owned() };
        let time = format!("2026-11-20T12:00:{:02}.000000Z", seq % 60);
        Event { v: 1, epoch: 1, seq, time, mono_ns: seq * 1_000_000_000, worker: None, run: None, kind }
    }

    #[test]
    fn a_record_reads_back_as_its_event_and_knows_its_place() {
        let mut scribe = Scribe::new("e1");
        let worker = WorkerId::new("web-1").unwrap();
        let event = Event { worker: Some(worker), run: Some(2), ..event(7, "x") };
        let record = scribe.write(event.clone());
        assert_eq!(serde_json::from_slice::<Event>(record.json()).unwrap(), event);
        assert!(!record.json().contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(record.json()).unwrap();
        assert_eq!((record.cursor().to_string().as_str(), &json["cursor"]), ("e1.1", &"e1.1".into()));
        assert_eq!(scribe.write(event).cursor().to_string(), "e1.2");
    }

    #[test]
    fn a_cursor_reads_back_and_what_is_none_is_refused() {
        let cursor = Cursor { stream: "7f0a.1".into(), position: 12 };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "7", ".7", "e.", "e.-1", "e.+1", "e.99999999999999999999", "e.1x"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
