//! A server that answers as OpenSearch does to its bulk API, and misbehaves as one does.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

/// What it does with a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mood {
    /// Takes what fits.
    #[default]
    Well,
    /// Answers with this status, and says when to come back.
    Status(u16, Option<&'static str>),
    /// Takes what fits, and breaks off in the middle of the answer.
    Half,
    /// Takes nothing and says nothing.
    Silent,
    /// Takes what fits, but for the first documents, which get these statuses.
    Items(Vec<u16>),
    /// Takes no more than so many documents in one request.
    Small(usize),
    /// Answers with something else.
    Says(&'static str),
}

/// A server with one index. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SearchServer {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    coming: VecDeque<Mood>,
    usual: Mood,
    documents: Vec<(String, Value)>,
    /// The type that the first document with a field has given it.
    mapping: BTreeMap<String, &'static str>,
    requests: Vec<Asked>,
}

/// A request that it has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its path, with the query.
    pub path: String,
    /// Its `Authorization`.
    pub authorization: Option<String>,
    /// The ids of its documents.
    pub ids: Vec<String>,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl SearchServer {
    /// One that is well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How it is with each of the next requests. Afterwards it is as usual.
    pub fn next(&self, moods: impl IntoIterator<Item = Mood>) {
        self.lock().coming.extend(moods);
    }

    /// How it usually is.
    pub fn usually(&self, mood: Mood) {
        self.lock().usual = mood;
    }

    /// The documents it has, in the order they came, with their ids.
    #[must_use]
    pub fn documents(&self) -> Vec<(String, Value)> {
        self.lock().documents.clone()
    }

    /// The requests it has had.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        self.lock().requests.clone()
    }

    /// Answers on one connection until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| self.answer(request));
        // A client that goes away, and an answer that is broken off on purpose.
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let lines: Vec<Value> =
            body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let (pairs, _) = lines.as_chunks::<2>();
        let of = |action: &Value| action["create"]["_id"].as_str().unwrap_or_default().to_owned();
        let asked = Asked {
            path: head.uri.to_string(),
            authorization: head.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::to_owned),
            ids: pairs.iter().map(|[action, _]| of(action)).collect(),
        };
        let mood = {
            let mut inner = self.lock();
            inner.requests.push(asked);
            let usual = inner.usual.clone();
            inner.coming.pop_front().unwrap_or(usual)
        };
        let statuses = match &mood {
            Mood::Silent => std::future::pending().await,
            Mood::Status(status, after) => return Ok(plain(*status, *after, "{}")),
            Mood::Says(text) => return Ok(plain(200, None, text)),
            Mood::Small(most) if pairs.len() > *most => return Ok(plain(413, None, "")),
            Mood::Items(statuses) => statuses.as_slice(),
            _ => &[],
        };
        let items: Vec<Value> = {
            let mut inner = self.lock();
            let one = |(index, [action, document]): (usize, &[Value; 2])| {
                let (status, error) = match statuses.get(index) {
                    Some(status) if *status >= 300 => {
                        (*status, Some(json!({"type": "scripted", "reason": "as asked"})))
                    }
                    _ => inner.create(of(action), document),
                };
                json!({"create": {"status": status, "error": error}})
            };
            pairs.iter().enumerate().map(one).collect()
        };
        let text = json!({"items": items}).to_string();
        if mood != Mood::Half {
            return Ok(plain(200, None, &text));
        }
        let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
        let parts = [Ok(Frame::data(half)), Err(io::Error::other("broken off"))];
        let mut answer = Response::new(StreamBody::new(stream::iter(parts)).boxed());
        answer.headers_mut().insert(CONTENT_LENGTH, text.len().into());
        Ok(answer)
    }
}

impl Inner {
    fn create(&mut self, id: String, document: &Value) -> (u16, Option<Value>) {
        if self.documents.iter().any(|(known, _)| *known == id) {
            return (409, Some(json!({"type": "version_conflict_engine_exception", "reason": "it exists"})));
        }
        let mut types = Vec::new();
        fields("", document, &mut types);
        if let Some((name, _)) = types.iter().find(|(name, found)| self.mapping.get(name).is_some_and(|t| t != found)) {
            let reason = format!("failed to parse field [{name}]");
            return (400, Some(json!({"type": "mapper_parsing_exception", "reason": reason})));
        }
        self.mapping.extend(types);
        self.documents.push((id, document.clone()));
        (201, None)
    }
}

/// The type of each field, as dynamic mapping finds it.
fn fields(name: &str, value: &Value, found: &mut Vec<(String, &'static str)>) {
    let kind = match value {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(items) => return items.iter().for_each(|item| fields(name, item, found)),
        Value::Object(members) => {
            members.iter().for_each(|(member, value)| fields(&format!("{name}.{member}"), value, found));
            "object"
        }
    };
    found.push((name.to_owned(), kind));
}

fn plain(status: u16, after: Option<&'static str>, text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    if let Some(after) = after {
        answer.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static(after));
    }
    answer
}
