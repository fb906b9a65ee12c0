//! What stands before every route: whether who asks may, whether it was asked before, and the name that a request bears.

use std::fmt;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::once::once;
use super::peer::{Peer, Role};
use super::routes::Api;
use super::wire::{Code, Problem};

/// The header that names a request, for whoever looks for it afterwards.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name of a request, and the longest key.
pub(super) const MAX_NAME: usize = 128;

/// What holds for one route.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) role: Role,
    /// Whether it is done once for each key.
    pub(super) once: bool,
    pub(super) api: Api,
}

/// Lets through what may pass.
pub(super) async fn guard(State(rule): State<Guard>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    if let Err(refused) = allowed(peer, rule.role, request.uri().path()) {
        return refused.into_response();
    }
    if rule.once { once(&rule.api, peer, request, next).await } else { next.run(request).await }
}

fn allowed(peer: Option<Peer>, role: Role, path: &str) -> Result<(), Problem> {
    let (Role::Admin, Some(Peer { role: Role::Operator, .. }) | None) = (role, peer) else { return Ok(()) };
    let you = peer.map_or_else(|| "it is not known who asks".to_owned(), |peer| format!("you are {peer}"));
    let who = format!("only root and the supervisor's own user may ask for {path}");
    Err(Problem::new(Code::NotPermitted, format!("{who}; {you}")))
}

/// Gives every answer the name that its request bears.
pub(super) async fn name(request: Request, next: Next) -> Response {
    let name = named(request.headers());
    let mut response = next.run(request).await;
    if let Some(name) = name {
        response.headers_mut().insert(REQUEST_ID, name);
    }
    response
}

/// The name that a request bears, if it is one: what is too long, or nothing to print, is no name.
fn named(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(REQUEST_ID).filter(|name| is_name(name.as_bytes())).cloned()
}

/// Whether this is short, and printable without a space.
pub(super) fn is_name(text: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// Who asks, as it is put on record: `uid 1000 (pid 4711)`, with `, request NAME` behind it where the request bears one.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) peer: Peer,
    request: Option<String>,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        match &self.request {
            Some(request) => write!(f, ", request {request}"),
            None => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let peer = Peer::from_request_parts(parts, state).await?;
        let request = named(&parts.headers).and_then(|name| name.to_str().map(str::to_owned).ok());
        Ok(Self { peer, request })
    }
}
