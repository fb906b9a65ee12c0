//! `GET /v1/workers/{id}/logs`: a worker's output, as it was written or line by line as JSON.
//!
//! Each reader has a thread that reads files and waits for more, and a short queue to its connection: one that does not
//! take what it asked for holds up its own thread, and no worker. There are few such seats, and some are kept for admins.
//! When the connection goes, so does the thread.

use std::{io, mem, ops::ControlFlow, path::PathBuf, sync::Arc, thread};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use futures_util::stream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::extract::{Name, Params, TIME};
use super::patience::Unhurried;
use super::peer::{Peer, Role};
use super::routes::Api;
use super::wire::{Code, LogLine, Problem};
use crate::clock;
use crate::logs::{self, Line, Place, Plain, Query, Runs, Told};
use crate::model::{Stream, WorkerId};

/// Readers at once, of all workers together.
const READERS: usize = 16;
/// Of them, what is left to admins.
const RESERVED: usize = 4;
/// Parts of an answer that wait for its reader.
const QUEUE: usize = 4;
/// As large is a part while there is more, in bytes.
const PART: usize = 32 * 1024;

/// The seats of those who read.
#[derive(Debug, Clone)]
pub(super) struct Readers(Arc<Semaphore>);

impl Readers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READERS)))
    }

    fn seat(&self, peer: Peer) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || {
            let detail = format!("{READERS} readers of output are served at once; try again when one has ended");
            Problem::new(Code::TooManyConnections, detail)
        };
        let reserved = if peer.role == Role::Admin { 0 } else { RESERVED };
        if self.0.available_permits() <= reserved {
            return Err(full());
        }
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| full())
    }
}

/// How a line is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[schemars(rename = "LogFormat")]
#[serde(rename_all = "snake_case")]
enum Format {
    /// As it was written.
    #[default]
    Raw,
    /// An object a line.
    Json,
}

/// Behind the `?`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    /// Whether it goes on as more comes, and with the next run.
    follow: bool,
    /// Only what came since: a length of time before now (`10m`), or a moment as RFC 3339 writes it.
    #[schemars(regex(pattern = TIME))]
    since: Option<String>,
    /// Only so many of the last lines.
    tail: Option<u64>,
    /// Only this run.
    run: Option<u32>,
    /// Only the run before the current or last one.
    previous: bool,
    /// Only one of its streams.
    stream: Option<Stream>,
    /// As it was written, or an object a line.
    format: Format,
    /// With the time before each line, where it is as it was written.
    timestamps: bool,
    /// With the `cursor` of each line, and at first those from where on is told, where a line is an object.
    cursors: bool,
    /// Only what comes behind these cursors, with commas: the last one of each stream and run that was being read.
    #[schemars(regex(
        pattern = r"^(0|[1-9][0-9]{0,8})\.(stdout|stderr)(\.[1-9][0-9]{0,8})?:[0-9]{1,15}(,(0|[1-9][0-9]{0,8})\.(stdout|stderr)(\.[1-9][0-9]{0,8})?:[0-9]{1,15})*$"
    ))]
    after: Option<String>,
}

impl Asked {
    fn query(&self, run: u32, now: Timestamp) -> Result<Query, Problem> {
        let runs = match (self.run, self.previous) {
            (None, false) => Runs::All,
            (Some(run), false) => Runs::One(run),
            (None, true) => Runs::Before(run),
            (Some(_), true) => {
                return Err(Problem::new(
                    Code::BadRequest,
                    "run and previous: only one of them says which run is meant",
                ));
            }
        };
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        if self.cursors && self.format != Format::Json {
            return Err(bad("cursors: only an object a line can have them: format=json".to_owned()));
        }
        let after = match self.after.as_deref() {
            None => Vec::new(),
            Some(_) if self.since.is_some() || self.tail.is_some() => {
                return Err(bad("after: it says where to begin, and so do since and tail".to_owned()));
            }
            Some(text) => {
                let places = text.split(',').map(str::parse::<Place>).collect::<Result<_, _>>();
                places.map_err(|e| {
                    bad(format!("after: {text:?} is {e}; give back the cursor of a line, as it was told"))
                })?
            }
        };
        let since_ns = self.since.as_deref().map(|text| since(text, now)).transpose();
        Ok(Query {
            streams: self.stream.map_or_else(|| Stream::ALL.to_vec(), |stream| vec![stream]),
            runs,
            since_ns: since_ns.map_err(|detail| Problem::new(Code::BadRequest, detail))?,
            tail: self.tail,
            follow: self.follow,
            after,
        })
    }
}

/// `10m` before `now`, or a moment as RFC 3339 writes it; in nanoseconds since 1970.
fn since(text: &str, now: Timestamp) -> Result<u64, String> {
    let at = if let Ok(at) = text.parse::<Timestamp>() {
        at.as_nanosecond()
    } else {
        let ago = crate::spec::time(text).map_err(|e| format!("since: {e}, or a moment like 2026-01-31T12:00:00Z"))?;
        now.as_nanosecond() - i128::try_from(ago.as_nanos()).unwrap_or(i128::MAX)
    };
    Ok(u64::try_from(at).unwrap_or(0))
}

pub(super) async fn logs(
    State(api): State<Api>,
    peer: Peer,
    unhurried: Option<Extension<Unhurried>>,
    Name(name): Name,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    let member = api.find(&name)?;
    let last = member.worker.status().run;
    asked.run.map_or(Ok(()), |run| exists(member.worker.id(), run, last))?;
    let query = asked.query(last, clock::wall())?;
    let seat = api.readers().seat(peer)?;
    // A pager takes what it shows; how long it shows it is its reader's.
    if let Some(Extension(unhurried)) = unhurried {
        unhurried.allow();
    }
    let dir = api.logs().join(member.worker.id().as_str());
    let format = Writer { format: asked.format, cursors: asked.cursors, plain: Plain::new(asked.timestamps) };
    let body = begin(dir, query, format, seat)
        .map_err(|e| Problem::new(Code::Failed, format!("the output cannot be read now: {e}")))?;
    let media_type = match asked.format {
        Format::Raw => "application/octet-stream",
        Format::Json => "application/x-ndjson",
    };
    Ok(([(header::CONTENT_TYPE, media_type)], body).into_response())
}

/// Whether a worker whose last run is `last` has had this one. A number that it never had is a mistake, not silence.
fn exists(worker: &WorkerId, run: u32, last: u32) -> Result<(), Problem> {
    let had = match last {
        _ if (1..=last).contains(&run) => return Ok(()),
        0 => "it has not run yet".to_owned(),
        1 => "it has run once".to_owned(),
        last => format!("it has had 1 to {last}"),
    };
    Err(Problem::new(Code::NoSuchRun, format!("{worker} has no run {run}; {had}")))
}

/// Has a thread of its own read, until it has told all or the body is gone.
fn begin(dir: PathBuf, query: Query, mut writer: Writer, seat: OwnedSemaphorePermit) -> io::Result<Body> {
    let (wake, connection) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (send, parts) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    thread::Builder::new().name("api-logs".into()).spawn(move || {
        let mut text = Vec::new();
        let read = logs::read(&dir, &query, &wake, |told| {
            writer.write(&told, &mut text);
            let enough = if told == Told::Pause { 1 } else { PART };
            if text.len() < enough {
                return ControlFlow::Continue(());
            }
            match send.blocking_send(Ok(mem::take(&mut text).into())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        // Refused only where nobody reads any more.
        drop(send.blocking_send(read.map(|()| text.into())));
        drop(seat);
    })?;
    let parts = stream::unfold((parts, connection), |(mut parts, connection)| async move {
        // Cancel-safe: a part is taken or stays.
        parts.recv().await.map(|part| (part, (parts, connection)))
    });
    Ok(Body::from_stream(parts))
}

/// Turns lines into what is sent.
#[derive(Debug)]
struct Writer {
    format: Format,
    /// Whether a line has its cursor.
    cursors: bool,
    plain: Plain,
}

impl Writer {
    fn write(&mut self, told: &Told<'_>, text: &mut Vec<u8>) {
        match (self.format, told) {
            (Format::Json, _) => {
                if let Some(line) = shape(told, self.cursors) {
                    // Nothing in a line's shape can fail to be written.
                    serde_json::to_writer(&mut *text, &line).unwrap_or_default();
                    text.push(b'\n');
                }
            }
            (Format::Raw, Told::Line(line)) => {
                self.plain.write(line.bytes, line.goes_on, || date(line.time_ns), text);
            }
            (Format::Raw, Told::From(_) | Told::Missed { .. } | Told::Pause) => {}
        }
    }
}

fn shape(told: &Told<'_>, cursors: bool) -> Option<LogLine> {
    match told {
        Told::From(place) => cursors.then(|| LogLine {
            cursor: Some(place.to_string()),
            ..LogLine::of(place.segment.run, place.segment.stream)
        }),
        Told::Line(Line { run, stream, time_ns, bytes, end, .. }) => {
            let whole = bytes.strip_suffix(b"\n");
            let content = whole.unwrap_or(bytes);
            let text = std::str::from_utf8(content).ok();
            Some(LogLine {
                time: date(*time_ns),
                line: text.map(str::to_owned),
                base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(content)),
                partial: whole.is_none(),
                cursor: cursors.then(|| end.to_string()),
                ..LogLine::of(*run, *stream)
            })
        }
        Told::Missed { run, stream, files } => {
            Some(LogLine { missed_files: Some(*files), ..LogLine::of(*run, *stream) })
        }
        Told::Pause => None,
    }
}

/// RFC 3339 in UTC with milliseconds.
fn date(ns: Option<u64>) -> Option<String> {
    let at = Timestamp::from_nanosecond(i128::from(ns?)).ok()?;
    Some(format!("{at:.3}"))
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
