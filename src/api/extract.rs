//! What a request brings, read within bounds; what is wrong with it is a [`Problem`].

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderValue, header::CONTENT_TYPE, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::amiss;
use super::peer::Peer;
use super::wire::{Code, Problem};

/// The largest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// A length of time that is waited.
pub(super) const WAIT: &str = "^(0|[0-9]{1,3}ms|[0-9]{1,2}s|[0-9]m)$";

/// A length of time, as far as a regular expression can tell.
pub(super) const DURATION: &str = "^(0|([0-9]{1,4}(ms|s|m|h))+)$";

/// A length of time, or a moment as RFC 3339 writes it, as far as a regular expression can tell.
pub(super) const TIME: &str = "^(0|([0-9]{1,4}(ms|s|m|h))+|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)$";

/// How long a body may take to come.
pub(super) const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// What bodies that are still coming may have together, in bytes: those of admins, and those of everybody else.
const UNDER_WAY: usize = 8 << 20;

/// With every request: the room for bodies that are still coming.
#[derive(Debug, Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNDER_WAY)))
    }
}

/// A JSON body. None at all is the default. `curl -d` says of whatever it sends that it was a form, which is put up with.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Default + JsonSchema, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media_type = parts.headers.get(CONTENT_TYPE);
        let bytes = read(&parts, body).await?;
        let bad = |what: String| Problem::new(Code::BadRequest, format!("the body is not what is expected: {what}"));
        match bytes.trim_ascii_start().first() {
            None => Ok(Self(T::default())),
            Some(_) if !may_be_json(media_type) => {
                let said = media_type.map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
                let detail =
                    format!("Content-Type: {:?} is not read; a body is application/json", said.unwrap_or_default());
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
            // serde would take a list of the values, too.
            Some(b'{') => serde_json::from_slice(&bytes)
                .map(Self)
                .map_err(|e| bad(amiss::body::<T>(&bytes).unwrap_or_else(|| e.to_string()))),
            Some(_) => Err(bad("a JSON object, or none at all".to_owned())),
        }
    }
}

/// Whether a body that is said to be this is read as JSON.
fn may_be_json(media_type: Option<&HeaderValue>) -> bool {
    let Some(said) = media_type else { return true };
    let essence = said.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/json" | "application/x-www-form-urlencoded")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// All of a body, within its bounds: in size, in time, and in what all of them may have together. It is counted by what has come
/// and not by what was announced: who says much and sends little keeps no room. Where there is none left nobody waits for it, or
/// those who have some and wait for more would wait for each other.
pub(super) async fn read(parts: &Parts, body: axum::body::Body) -> Result<Bytes, Problem> {
    let room = parts.extensions.get::<Bodies>().cloned().unwrap_or_default();
    match tokio::time::timeout(BODY_PATIENCE, collect(&room, body)).await {
        Ok(read) => read,
        Err(_) => {
            Err(Problem::new(Code::TooSlow, format!("the body did not come within {} s", BODY_PATIENCE.as_secs())))
        }
    }
}

async fn collect(Bodies(room): &Bodies, body: axum::body::Body) -> Result<Bytes, Problem> {
    let mut body = Limited::new(body, MAX_BODY);
    // Copied: a part would hold all of what was read with it.
    let (mut bytes, mut taken) = (Vec::new(), None::<SemaphorePermit<'_>>);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Problem::new(Code::TooLarge, format!("a body has at most {MAX_BODY} bytes"))
            } else {
                Problem::new(Code::BadRequest, format!("the body broke off: {error}"))
            }
        })?;
        let Some(data) = frame.data_ref() else { continue };
        let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let more = room.try_acquire_many(wanted).map_err(|_| {
            let full = "more bodies are on their way than are held at once; try again in a moment";
            Problem::new(Code::TooManyConnections, full)
        })?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

/// The parameters behind the `?`. One that is not known is refused: what is asked for in vain must not look granted.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned + JsonSchema, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri).map_err(|e| {
            let given = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|Query(given)| given);
            let told = given.ok().and_then(|given| amiss::query::<T>(&given));
            let detail = told.unwrap_or_else(|| format!("the query is not understood: {}", e.body_text()));
            Problem::new(Code::BadRequest, detail)
        })?;
        Ok(Self(params))
    }
}

/// The name or pattern in the path.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(e) => Err(Problem::new(Code::BadRequest, format!("the path is not understood: {}", e.body_text()))),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let known = parts.extensions.get::<Self>().copied();
        known.ok_or_else(|| Problem::new(Code::NotPermitted, "it is not known who asks"))
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin, task::Poll};

    use axum::body::Body as HttpBody;
    use futures_util::{poll, stream, stream::StreamExt};

    use super::*;

    fn parts(bodies: &Bodies) -> Parts {
        let mut request = Request::new(HttpBody::empty());
        request.extensions_mut().insert(bodies.clone());
        request.into_parts().0
    }

    /// A body of `n` pieces, and then silence.
    fn unfinished(n: usize) -> HttpBody {
        let piece = || Ok::<_, Infallible>(Bytes::from_static(b"12345678"));
        HttpBody::from_stream(stream::iter((0..n).map(move |_| piece())).chain(stream::pending()))
    }

    #[tokio::test]
    async fn bodies_on_their_way_are_bounded_together_and_their_room_comes_back() {
        let bodies = Bodies(Arc::new(Semaphore::new(32)));
        let parts = parts(&bodies);
        let another = || read(&parts, HttpBody::from("123456789"));
        {
            let mut slow = pin!(read(&parts, unfinished(3)));
            assert!(matches!(poll!(slow.as_mut()), Poll::Pending));
            let refused = another().await.unwrap_err();
            assert_eq!((refused.status, refused.code), (503, Code::TooManyConnections));
            assert_eq!(
                read(&parts, HttpBody::from("12345678")).await.unwrap(),
                "12345678",
                "there is room for this one"
            );
        }
        assert_eq!(another().await.unwrap(), "123456789");
        assert_eq!(another().await.unwrap(), "123456789", "what has come is on its way no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_gives_its_room_back() {
        let bodies = Bodies(Arc::new(Semaphore::new(32)));
        let late = read(&parts(&bodies), unfinished(4)).await.unwrap_err();
        assert_eq!((late.status, late.code), (408, Code::TooSlow));
        assert_eq!(bodies.0.available_permits(), 32);
    }
}
