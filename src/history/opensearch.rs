//! OpenSearch, or another that speaks its bulk API: `POST /INDEX/_bulk`, one `create` for each event.
//!
//! - A document's `_id` is the event's cursor, so that what is sent twice is there once: the second time it is told to be
//!   there (409), which counts as delivered. `create` and `@timestamp` are what a data stream wants, too.
//! - A document is the event with what is particular to its kind below a key of the kind's name (`exited.cause.kind`):
//!   kinds have fields of one name and different types, and an index has one type for a field.
//! - What is not delivered for a passing reason is tried again: no connection, silence, a broken answer, any status but
//!   200, and of a 200 the items with any status but 400. 400 says that the document does not fit the index: such an
//!   event is refused for good, counted, and the others go on. A batch that is too large (413) is halved.
//! - The connection is kept between batches. Passwords and keys are read from their files for each request, and are in
//!   no message.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{AbortHandle, spawn_blocking},
    time::timeout,
};
use tokio_rustls::rustls::ClientConfig;

use super::{Bounds, HistorySink, Record, WriteError, Written, look, tls};
use crate::clock;
use crate::model::steers;
use crate::spec::types::{Credentials, Endpoint, OpenSearchSink as Settings};

/// More than an answer about the largest batch has.
const MAX_ANSWER: usize = 16 << 20;

/// More than a password or a key has.
const MAX_SECRET: u64 = 64 << 10;

/// What an event always has; all else is particular to its kind.
const COMMON: &[&str] = &["v", "epoch", "seq", "time", "mono_ns", "worker", "run", "kind"];

/// What of an answer is of interest.
const ANSWER: &str = "errors,items.*.status,items.*.error.type,items.*.error.reason";

/// Bytes to and from a server.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a server is reached: in tests without a network.
type Dial = Box<dyn Fn(&Endpoint) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// The sink.
pub struct OpenSearchSink {
    settings: Arc<Settings>,
    dial: Dial,
    connection: Option<Connection>,
    tls: Option<Arc<ClientConfig>>,
    /// How many documents a request may have: the server can want fewer than a batch.
    most: usize,
}

/// A connection, which ends with its handle.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one request came to.
enum Answer {
    /// One for each document.
    Items(Vec<Fate>),
    TooLarge,
}

enum Fate {
    Delivered,
    /// For a passing reason.
    Again(String),
    /// It does not fit the index.
    Rejected(String),
}

/// Of a bulk request's answer.
#[derive(Debug, Deserialize)]
struct Bulk {
    items: Vec<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Item {
    status: u16,
    #[serde(default)]
    error: Option<Value>,
}

impl OpenSearchSink {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let dial = |endpoint: &Endpoint| -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
            let (host, port) = (endpoint.host.clone(), endpoint.port);
            Box::pin(async move {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        };
        Self::reached_by(Box::new(dial), settings)
    }

    fn reached_by(dial: Dial, settings: Settings) -> Self {
        Self { settings: Arc::new(settings), dial, connection: None, tls: None, most: usize::MAX }
    }

    async fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<Written, WriteError> {
        let (mut again, mut rejected) = (Vec::new(), Vec::new());
        let mut trouble: Option<WriteError> = None;
        let mut from = 0;
        while from < batch.len() {
            let to = batch.len().min(from.saturating_add(self.most));
            let fates = match self.ask(&batch[from..to]).await {
                Ok(Answer::Items(fates)) => fates,
                Ok(Answer::TooLarge) if to - from > 1 => {
                    self.most = (to - from) / 2;
                    continue;
                }
                Ok(Answer::TooLarge) => {
                    vec![Fate::Rejected("one event is larger than the server takes in a request (413)".to_owned())]
                }
                Err(error) if from == 0 => return Err(error),
                Err(error) => {
                    again.extend(from..batch.len());
                    trouble = Some(error);
                    break;
                }
            };
            // Back towards whole batches, a little with each that was taken.
            self.most = self.most.saturating_add(1 + self.most / 8);
            for (index, fate) in (from..to).zip(fates) {
                let (list, why) = match fate {
                    Fate::Delivered => continue,
                    Fate::Again(why) => (&mut again, why),
                    Fate::Rejected(why) => (&mut rejected, why),
                };
                list.push(index);
                trouble.get_or_insert_with(|| WriteError::new(why));
            }
            from = to;
        }
        Ok(match trouble {
            None => Written::All,
            Some(trouble) => Written::Part { again, rejected, trouble },
        })
    }

    /// One request and its answer.
    async fn ask(&mut self, batch: &[Arc<Record>]) -> Result<Answer, WriteError> {
        let request = request(&self.settings, body(batch)).await?;
        let within = self.settings.timeout;
        let kept = self.connection.take().filter(|kept| !kept.sender.is_closed());
        let reused = kept.is_some();
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let mut answered = timeout(within, exchange(&mut connection, request.clone())).await;
        if reused && matches!(&answered, Ok(Err(_))) {
            // A server closes what has idled, and that can cross with a request.
            connection = self.connect().await?;
            answered = timeout(within, exchange(&mut connection, request)).await;
        }
        let (status, headers, answer) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(WriteError::because(format!("{} broke off", self.settings.endpoint), error)),
            Err(_) => {
                let what = format!("{} has not answered within {}", self.settings.endpoint, words(within));
                return Err(WriteError::new(what));
            }
        };
        self.connection = Some(connection);
        match status {
            StatusCode::OK => fates(&answer, batch.len()).map(Answer::Items),
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Answer::TooLarge),
            _ => {
                let what = format!("{} says {status}{}", self.settings.endpoint, reason(&answer));
                Err(WriteError { retry_after: retry_after(&headers, clock::wall()), ..WriteError::new(what) })
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, WriteError> {
        let settings = Arc::clone(&self.settings);
        let within = settings.connect_timeout;
        if settings.endpoint.tls && self.tls.is_none() {
            let settings = Arc::clone(&settings);
            let read = spawn_blocking(move || tls::config(settings.ca_file.as_deref())).await;
            self.tls = Some(read.map_err(|e| WriteError::because("cannot speak TLS", e))??);
        }
        let tls = self.tls.clone();
        let endpoint = &settings.endpoint;
        let connected = timeout(within, async {
            let stream = (self.dial)(endpoint).await?;
            match tls {
                Some(config) => converse(tls::connect(config, &endpoint.host, stream).await?).await,
                None => converse(stream).await,
            }
        });
        match connected.await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                // Who is believed may have changed meanwhile.
                self.tls = None;
                Err(WriteError::because(format!("cannot connect to {endpoint}"), error))
            }
            Err(_) => Err(WriteError::new(format!("{endpoint} takes no connection within {}", words(within)))),
        }
    }
}

impl fmt::Debug for OpenSearchSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSearchSink").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HistorySink for OpenSearchSink {
    fn name(&self) -> String {
        self.settings.name()
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), WriteError>> {
        let settings = Arc::clone(&self.settings);
        Box::pin(look(move || {
            settings.credentials.as_ref().map(authorization).transpose()?;
            settings.endpoint.tls.then(|| tls::config(settings.ca_file.as_deref())).transpose()?;
            Ok(())
        }))
    }

    fn bounds(&self) -> Bounds {
        // A request costs the server more than an event does.
        Bounds { linger: Duration::from_millis(500), ..Bounds::default() }
    }

    fn write<'a>(&'a mut self, batch: &'a [Arc<Record>]) -> BoxFuture<'a, Result<Written, WriteError>> {
        Box::pin(self.deliver(batch))
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Connection> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // How it ends is told by the answer, or by that there is none.
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Connection { sender, task })
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, HeaderMap, Bytes), Broken> {
    connection.sender.ready().await?;
    let (head, body) = connection.sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    Ok((head.status, head.headers, body))
}

async fn request(settings: &Arc<Settings>, body: Vec<u8>) -> Result<Request<Full<Bytes>>, WriteError> {
    let odd = |e: hyper::http::Error| WriteError::because("the request cannot be written", e);
    let authorization = match settings.credentials.clone() {
        None => None,
        Some(credentials) => {
            let read = spawn_blocking(move || authorization(&credentials)).await;
            Some(read.map_err(|e| WriteError::because("cannot read the credentials", e))??)
        }
    };
    let endpoint = &settings.endpoint;
    let mut request = Request::post(format!("{}/{}/_bulk?filter_path={ANSWER}", endpoint.path, settings.index))
        .header(HOST, endpoint.authority())
        .header(USER_AGENT, concat!("pinfold/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-ndjson")
        .body(Full::new(body.into()))
        .map_err(odd)?;
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The header that says who we are. Blocks.
fn authorization(credentials: &Credentials) -> Result<HeaderValue, WriteError> {
    let text = match credentials {
        Credentials::Basic { username, password_file } => {
            format!("Basic {}", STANDARD.encode(format!("{username}:{}", secret(password_file)?)))
        }
        Credentials::ApiKey { file } => format!("ApiKey {}", secret(file)?),
    };
    // The cause would name the text.
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| WriteError::new("a key has a character that no header can have; write it as one line"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A file's content without the newline that editors put behind it.
fn secret(path: &Path) -> Result<String, WriteError> {
    use io::Read;
    let failed = |e: io::Error| WriteError::because(format!("cannot read {}", path.display()), e);
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_SECRET).read_to_string(&mut text).map_err(failed)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(WriteError::new(format!("{} is empty", path.display())));
    }
    Ok(text.to_owned())
}

/// Two lines for each event: what is to be done, and the document.
fn body(batch: &[Arc<Record>]) -> Vec<u8> {
    let mut text = Vec::new();
    for record in batch {
        for line in [json!({ "create": { "_id": record.cursor().to_string() } }), document(record)] {
            // Nothing of a value can fail to be written.
            serde_json::to_writer(&mut text, &line).unwrap_or_default();
            text.push(b'\n');
        }
    }
    text
}

/// The event as an index can take it: what is particular to its kind is below the kind's name.
fn document(record: &Record) -> Value {
    let Ok(Value::Object(event)) = serde_json::to_value(&record.event) else { return Value::Null };
    let (mut common, own): (Map<_, _>, Map<_, _>) =
        event.into_iter().partition(|(name, _)| COMMON.contains(&name.as_str()));
    common.insert("@timestamp".to_owned(), record.event.time.as_str().into());
    if let Some(kind) = common.get("kind").and_then(Value::as_str).map(str::to_owned) {
        common.insert(kind, own.into());
    }
    common.into()
}

/// What became of each of `sent` documents.
fn fates(answer: &[u8], sent: usize) -> Result<Vec<Fate>, WriteError> {
    let odd = |e| WriteError::because("the answer to a bulk request is not understood", e);
    let bulk: Bulk = serde_json::from_slice(answer).map_err(odd)?;
    if bulk.items.len() != sent {
        let told = bulk.items.len();
        return Err(WriteError::new(format!("the answer to a bulk request is about {told} events, not {sent}")));
    }
    let fate = |item: Map<String, Value>| {
        let (_, item) = item.into_iter().next().unwrap_or_default();
        let Item { status, error } = serde_json::from_value(item).map_err(odd)?;
        let why = || format!("status {status}{}", error.as_ref().map(said).unwrap_or_default());
        Ok(match status {
            // 409: it is there already.
            200 | 201 | 409 => Fate::Delivered,
            400 => Fate::Rejected(why()),
            _ => Fate::Again(why()),
        })
    };
    bulk.items.into_iter().map(fate).collect()
}

/// `: TYPE: REASON` of an error as the API has it.
fn said(error: &Value) -> String {
    let text = match error {
        Value::String(text) => text.clone(),
        error => {
            let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{}: {}", part("type"), part("reason"))
        }
    };
    // Others see it in a terminal, and a document's content can be in it.
    let text: String = text.chars().filter(|c| !steers(*c)).take(300).collect();
    format!(": {text}")
}

/// The same of a whole answer, where it has one.
fn reason(answer: &[u8]) -> String {
    let error =
        serde_json::from_slice::<Value>(answer).ok().and_then(|mut answer| answer.get_mut("error").map(Value::take));
    error.as_ref().map(said).unwrap_or_default()
}

/// RFC 9110, 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now.into()).unwrap_or_default())
}

fn words(time: Duration) -> impl std::fmt::Display {
    humantime::format_duration(time)
}

#[cfg(test)]
#[path = "opensearch_tests.rs"]
mod tests;
