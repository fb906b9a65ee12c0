//! What a request brings, read within bounds; what is wrong with it is a [`Problem`].

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderValue, header::CONTENT_TYPE, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

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

/// A JSON body. None at all is the default. `curl -d` says of whatever it sends that it was a form, which is put up with.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Default + JsonSchema, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = request.headers().get(CONTENT_TYPE).cloned();
        let bytes = read(request.into_body()).await?;
        let bad = |what: String| Problem::new(Code::BadRequest, format!("the body is not what is expected: {what}"));
        match bytes.trim_ascii_start().first() {
            None => Ok(Self(T::default())),
            Some(_) if !may_be_json(media_type.as_ref()) => {
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

/// All of a body, within its bounds.
pub(super) async fn read(body: axum::body::Body) -> Result<Bytes, Problem> {
    let body = Limited::new(body, MAX_BODY).collect();
    match tokio::time::timeout(BODY_PATIENCE, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            Err(Problem::new(Code::TooLarge, format!("a body has at most {MAX_BODY} bytes")))
        }
        Ok(Err(e)) => Err(Problem::new(Code::BadRequest, format!("the body broke off: {e}"))),
        Err(_) => {
            Err(Problem::new(Code::TooSlow, format!("the body did not come within {} s", BODY_PATIENCE.as_secs())))
        }
    }
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
