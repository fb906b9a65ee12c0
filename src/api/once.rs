//! `Idempotency-Key` (the IETF's draft of that name): what bears the same key is done once, and answered as often as it is
//! asked. What was begun goes on to its answer, whoever still waits for it.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio::sync::watch;

use super::extract;
use super::guard::{MAX_NAME, is_name};
use super::keys::{Found, Keys, Ticket};
use super::peer::Peer;
use super::routes::Api;
use super::wire::{Code, Problem};
use crate::clock::Clock;

/// The header that has the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer that can be given again.
#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    media_type: Option<HeaderValue>,
    location: Option<HeaderValue>,
    body: Bytes,
}

type Waiting = watch::Receiver<Option<Answer>>;

/// What was asked under which key.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    keys: Arc<Mutex<Keys<Waiting>>>,
    clock: Clock,
}

/// One that is under way, until it is answered; dropped before, it was never asked.
struct UnderWay {
    memory: Memory,
    ticket: Option<Ticket>,
}

impl Memory {
    pub(super) fn new(clock: Clock) -> Self {
        Self { keys: Arc::default(), clock }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys<Waiting>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn answered(mut self, bytes: usize) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.memory.clock.now();
            self.memory.keys().answered(ticket, now, bytes);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.memory.keys().dropped(ticket);
        }
    }
}

/// Does it, or gives the answer of whoever has asked for it by the same key.
pub(super) async fn once(api: &Api, peer: Option<Peer>, request: Request, next: Next) -> Response {
    let (key, peer) = match (key(request.headers()), peer) {
        (Err(problem), _) => return problem.into_response(),
        (Ok(Some(key)), Some(peer)) => (key, peer),
        // Whom nobody knows is refused behind this.
        (Ok(None), _) | (_, None) => return next.run(request).await,
    };
    let (parts, body) = request.into_parts();
    let body = match extract::read(&parts, body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let mut print = DefaultHasher::new();
    (parts.method.as_str(), parts.uri.path(), parts.uri.query(), &body[..]).hash(&mut print);
    let (tell, told) = watch::channel(None);
    let memory = api.memory().clone();
    let found = memory.keys().begin(memory.clock.now(), peer.uid, &key, print.finish(), told.clone());
    match found {
        Found::New(ticket) => {
            let under_way = UnderWay { memory, ticket: Some(ticket) };
            let request = Request::from_parts(parts, Body::from(body));
            // On its own: who asked may go away, and come back for the answer.
            tokio::spawn(async move {
                let answer = Answer::read(next.run(request).await).await;
                let bytes = answer.body.len();
                tell.send_replace(Some(answer));
                under_way.answered(bytes);
            });
            answer(told).await
        }
        Found::Same(known) => {
            let mut response = answer(known).await;
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            response
        }
        Found::Differs => {
            let detail = format!("something else was asked under the key {key:?}: take a new one for each request");
            Problem::new(Code::IdempotencyMismatch, detail).into_response()
        }
        Found::Full => {
            let detail = "too many requests with a key are under way; try again when one of them is answered";
            Problem::new(Code::TooManyConnections, detail).into_response()
        }
    }
}

async fn answer(mut told: Waiting) -> Response {
    // Cancel-safe: nothing is taken.
    match told.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
        Ok(Some(answer)) => answer.into_response(),
        _ => Problem::new(Code::Failed, "it was broken off before it was answered").into_response(),
    }
}

/// The key that a request bears: a string as RFC 8941 writes one, or the bare word.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(KEY).iter();
    let (Some(value), another) = (given.next(), given.next()) else { return Ok(None) };
    let text = value.as_bytes();
    let word = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    let fits = another.is_none() && is_name(word) && !word.iter().any(|b| matches!(b, b'"' | b'\\'));
    match String::from_utf8(word.to_vec()) {
        Ok(word) if fits => Ok(Some(word)),
        _ => {
            let detail =
                format!("Idempotency-Key: one, of 1 to {MAX_NAME} printable characters without space, \" and \\");
            Err(Problem::new(Code::BadRequest, detail))
        }
    }
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        // What answers a mutation is whole in memory, and cannot break off.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let header = |name: HeaderName| parts.headers.get(name).cloned();
        Self { status: parts.status, media_type: header(CONTENT_TYPE), location: header(LOCATION), body }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        match self.media_type {
            Some(media_type) => response.headers_mut().insert(CONTENT_TYPE, media_type),
            None => response.headers_mut().remove(CONTENT_TYPE),
        };
        if let Some(location) = self.location {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

#[cfg(test)]
#[path = "once_tests.rs"]
mod tests;
