//! `GET /v1/events`: the stream of events, as server-sent events or as lines of JSON.
//!
//! It is served from a ring of the last events. A reader is a place in it and keeps nothing: one that is too slow falls out
//! of the ring, is told how much it has missed, and is let go. While nothing happens nothing is sent, and nobody is woken.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use schemars::JsonSchema;

use super::audience::Seat;
use super::extract::{Params, TIME};
use super::filter::Filter;
use super::peer::Peer;
use super::routes::Api;
use super::wire::{Code, Marker, MarkerWord, Problem};
use crate::clock;
use crate::history::{Cursor, Fallen, Piece, Reader, Record, Ring};
use crate::manager::pattern::means;

/// How many events are looked at before others get their turn.
const PIECE: usize = 64;

/// The header that a browser sends when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// Lines of JSON, for whoever asks for them.
const LINES: &str = "application/x-ndjson";

/// Behind the `?`, as it is described: `filter` may stand there several times.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a shape, and the words of its parts")]
pub(super) struct Known {
    /// Whether it goes on with what happens; without `since` and `after` only with that.
    follow: Option<bool>,
    /// What is younger than this (`10m`), or than a moment as RFC 3339 writes it.
    #[schemars(regex(pattern = TIME))]
    since: Option<String>,
    /// What was told behind the event with this `cursor`.
    #[schemars(regex(pattern = r"^.+\.[0-9]{1,19}$"))]
    after: Option<String>,
    /// Only events like these: `worker=PATTERN`, `kind=exited`, `run=3`, `cause=oom`, `severity=`, `state=`, `limit=`.
    filter: Option<Vec<Wanted>>,
}

/// `KEY=VALUE`.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "a shape")]
struct Wanted(#[schemars(regex(pattern = r"^(worker|kind|run|cause|severity|state|limit)=.+$"))] String);

/// What was asked for.
#[derive(Debug, Default)]
struct Asked {
    follow: bool,
    from: From,
    filter: Filter,
}

/// Where to begin.
#[derive(Debug, Default, Clone, PartialEq)]
enum From {
    /// With what is kept, or with what comes for whoever follows.
    #[default]
    Usual,
    /// With what was told since then.
    Since(Timestamp),
    /// Behind this event.
    After(Cursor),
    /// Behind an event that nobody here can know.
    Unknown,
}

impl Asked {
    fn read(pairs: &[(String, String)], headers: &HeaderMap, now: Timestamp) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        let mut asked = Self::default();
        for (key, value) in pairs {
            let again = |from: &From| match from {
                From::Usual => Ok(()),
                _ => Err(bad("since and after: say one of them, once".to_owned())),
            };
            match key.as_str() {
                "follow" => {
                    asked.follow = match value.as_str() {
                        "" | "true" => true,
                        "false" => false,
                        _ => return Err(bad(format!("follow: {value:?} is neither true nor false"))),
                    }
                }
                "since" => {
                    again(&asked.from)?;
                    asked.from = From::Since(since(value, now)?);
                }
                "after" => {
                    again(&asked.from)?;
                    let cursor = Cursor::parse(value);
                    asked.from = From::After(cursor.ok_or_else(|| {
                        bad(format!("after: {value:?} is no cursor; give back that of an event, as it was told"))
                    })?);
                }
                "filter" => asked.filter.add(value)?,
                _ => return Err(bad(format!("there is no {key:?} here; known are follow, since, after and filter"))),
            }
        }
        // Whoever comes back goes on where it was, whatever its first request had said.
        if let Some(last) = headers.get(LAST_EVENT_ID) {
            asked.from = last.to_str().ok().and_then(Cursor::parse).map_or(From::Unknown, From::After);
        }
        Ok(asked)
    }
}

/// A length of time before now, or a moment.
fn since(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let ago: Duration = crate::spec::time(text)
        .map_err(|e| Problem::new(Code::BadRequest, format!("since: {e}; or a moment like 2026-11-20T12:00:00Z")))?;
    Ok(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
}

/// What a reader is told.
enum Told {
    Event(Arc<Record>),
    Marker(Marker),
}

/// A reader's conversation.
struct Conversation {
    api: Api,
    reader: Reader,
    asked: Asked,
    /// Said before everything else.
    first: Option<Marker>,
    /// Nothing has been told yet: what is missing is missing at the beginning.
    fresh: bool,
    over: bool,
    _seat: Seat,
}

impl Conversation {
    fn begin(api: Api, asked: Asked, seat: Seat) -> Self {
        let ring = api.ring();
        let gap = |what: &str| Some(Marker { marker: MarkerWord::Gap, what: what.to_owned(), missed: None });
        let another = "that event is of another supervisor; here is all that this one has kept";
        let (reader, first) = match &asked.from {
            From::Usual if asked.follow => (ring.from_now(), None),
            From::Usual => (ring.from_the_beginning(), None),
            From::Since(moment) => (ring.from_the_beginning(), beginning(ring, *moment, api.began())),
            From::After(cursor) => match ring.after(cursor) {
                Some(reader) => (reader, None),
                None => (ring.from_the_beginning(), gap(another)),
            },
            From::Unknown => (ring.from_the_beginning(), gap(another)),
        };
        Self { reader, first, asked, fresh: true, over: false, _seat: seat, api }
    }

    /// What comes next; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Told>> {
        if let Some(marker) = self.first.take() {
            return Some(vec![Told::Marker(marker)]);
        }
        loop {
            if self.over {
                return None;
            }
            tokio::task::yield_now().await;
            match self.reader.next(PIECE) {
                Piece::Events(events) => {
                    self.fresh = false;
                    let wanted: Vec<_> =
                        events.into_iter().filter(|event| self.wants(event)).map(Told::Event).collect();
                    if !wanted.is_empty() {
                        return Some(wanted);
                    }
                }
                Piece::Fallen(fallen) => {
                    // Who asks for a time has been told already whether all of it is kept.
                    if self.fresh && matches!(self.asked.from, From::Since(_)) {
                        continue;
                    }
                    self.over = !self.fresh;
                    if self.over {
                        self.api.ring().miss(fallen);
                    }
                    return Some(vec![Told::Marker(missed(fallen, self.over))]);
                }
                Piece::Nothing if !self.asked.follow => return None,
                Piece::Nothing => self.reader.changed().await,
                Piece::Over => {
                    self.over = true;
                    let what = "the supervisor has ended".to_owned();
                    let end = Marker { marker: MarkerWord::End, what, missed: None };
                    return self.asked.follow.then(|| vec![Told::Marker(end)]);
                }
            }
        }
    }

    fn wants(&mut self, record: &Record) -> bool {
        if let From::Since(moment) = self.asked.from
            && record.event.time.parse::<Timestamp>().is_ok_and(|time| time < moment)
        {
            return false;
        }
        let (api, pattern) = (&self.api, self.asked.filter.workers().unwrap_or_default().to_owned());
        self.asked.filter.wants(&record.event, |id| {
            api.manager().find(id.as_str()).is_some_and(|member| means(&pattern, id, &member.declared_as))
        })
    }
}

/// What to say to somebody who asks for more than there is.
fn beginning(ring: &Ring, moment: Timestamp, began: Timestamp) -> Option<Marker> {
    let (missed, from) = match ring.oldest() {
        Some(oldest) if ring.gone() > 0 => (Some(ring.gone()), oldest.event.time.parse().unwrap_or(began)),
        _ => (None, began),
    };
    (moment < from).then(|| {
        let what = format!("nothing is kept of what was before {from:.3}");
        Marker { marker: MarkerWord::Gap, what, missed }
    })
}

fn missed(Fallen { missed }: Fallen, slow: bool) -> Marker {
    let (marker, what) = if slow {
        (
            MarkerWord::Lagged,
            format!("{missed} events have been missed: they were read too slowly; come back behind the last"),
        )
    } else {
        (MarkerWord::Gap, format!("{missed} events are not kept any more"))
    };
    Marker { marker, what, missed: Some(missed) }
}

pub(super) async fn events(
    State(api): State<Api>,
    peer: Peer,
    headers: HeaderMap,
    Params(pairs): Params<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let asked = Asked::read(&pairs, &headers, clock::wall())?;
    if let Some(pattern) = asked.filter.workers() {
        // A name that nobody has is a mistake, not silence.
        api.manager().choose(pattern)?;
    }
    let seat = api.following().seat(peer)?;
    let conversation = Conversation::begin(api, asked, seat);
    let told = stream::unfold(conversation, |mut conversation| async {
        let told = conversation.next().await?;
        Some((told, conversation))
    });
    let lines = headers.get_all(ACCEPT).iter().any(|accept| accept.to_str().is_ok_and(|text| text.contains(LINES)));
    let fresh = (CACHE_CONTROL, "no-store");
    Ok(if lines {
        let body = Body::from_stream(told.map(|told| Ok::<_, Infallible>(as_lines(&told))));
        ([(CONTENT_TYPE, LINES), fresh], body).into_response()
    } else {
        ([fresh], Sse::new(as_server_sent(told))).into_response()
    })
}

fn as_lines(told: &[Told]) -> Bytes {
    let mut text = Vec::new();
    for told in told {
        match told {
            Told::Event(record) => text.extend_from_slice(record.json()),
            // Nothing in a marker can fail to be written.
            Told::Marker(marker) => serde_json::to_writer(&mut text, marker).unwrap_or_default(),
        }
        text.push(b'\n');
    }
    text.into()
}

fn as_server_sent(told: impl Stream<Item = Vec<Told>>) -> impl Stream<Item = Result<sse::Event, axum::Error>> {
    let one = |told| match told {
        Told::Event(record) => {
            let data = std::str::from_utf8(record.json()).unwrap_or_default();
            Ok(sse::Event::default().id(record.cursor().to_string()).data(data))
        }
        Told::Marker(marker) => sse::Event::default().event(marker.marker.as_str()).json_data(marker),
    };
    told.flat_map(move |told| stream::iter(told.into_iter().map(one)))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
