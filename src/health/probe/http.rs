//! `http_get`, as the kubelet does it: GET, 200 to 399 is success, redirects are followed to the same host only (one to
//! another host counts as what it is, a 3xx), certificates are not checked, no connection is kept, no proxy is used.

use std::{io, net::Ipv6Addr, sync::OnceLock, time::Duration};

use reqwest::{
    Response, Url,
    header::{CONNECTION, HeaderMap, HeaderName, HeaderValue},
    redirect::{Action, Attempt, Policy},
};

use super::{Outcome, words};
use crate::spec::types::HttpGet;
use crate::tls;

/// How much of a body is read: enough to tell that there is one, and what it says first.
const MAX_BODY: usize = 10 << 10;
/// The kubelet's, and every browser's, patience with redirects.
const MAX_REDIRECTS: usize = 10;

/// The client of all probes, made with the first of them.
#[derive(Debug)]
pub(super) struct Client(OnceLock<Result<reqwest::Client, String>>);

impl Client {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Asks, and reads the answer.
    pub(super) async fn get(&self, get: &HttpGet, timeout: Duration) -> Outcome {
        let client = match self.0.get_or_init(|| client().map_err(|e| root_of(&e).to_string())) {
            Ok(client) => client,
            Err(why) => return Outcome::untried(&format!("there is no HTTP client: {why}")),
        };
        let mut status = None;
        let answer = async {
            let mut response = client.get(url(get)).headers(headers(get)).send().await?;
            status = Some(response.status());
            let body = body(&mut response).await?;
            Ok::<_, reqwest::Error>(judge(get, &response, &body))
        };
        match (tokio::time::timeout(timeout, answer).await, status) {
            (Ok(Ok(outcome)), _) => outcome,
            (Ok(Err(error)), status) => failed(get, status, &error),
            (Err(_), None) => Outcome::failed(&format!("{}: no answer within {}", url(get), words(timeout))),
            (Err(_), Some(status)) => {
                Outcome::failed(&format!("HTTP {status}, and no end of its body within {}", words(timeout)))
            }
        }
    }
}

fn client() -> reqwest::Result<reqwest::Client> {
    tls::provide();
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .user_agent(concat!("pinfold/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::custom(redirect))
        .referer(false)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
}

fn redirect(attempt: Attempt<'_>) -> Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("more than 10 redirects")
    } else if attempt.previous().first().and_then(Url::host) == attempt.url().host() {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

fn url(get: &HttpGet) -> String {
    let HttpGet { tls, host, port, path, .. } = get;
    let scheme = if *tls { "https" } else { "http" };
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("{scheme}://[{host}]:{port}{path}")
    } else {
        format!("{scheme}://{host}:{port}{path}")
    }
}

/// What is configured, valid already, over what we say by ourselves.
fn headers(get: &HttpGet) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    headers.entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    headers
}

async fn body(response: &mut Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        let Some(chunk) = response.chunk().await? else { break };
        body.extend_from_slice(chunk.get(..MAX_BODY - body.len()).unwrap_or(&chunk));
    }
    Ok(body)
}

fn judge(get: &HttpGet, response: &Response, body: &[u8]) -> Outcome {
    let status = response.status();
    match status.as_u16() {
        200..=299 => Outcome::passed(&format!("HTTP {status}")),
        300..=399 => {
            let elsewhere = response
                .headers()
                .get("location")
                .and_then(|location| response.url().join(location.to_str().ok()?).ok())
                .filter(|to| Url::parse(&url(get)).is_ok_and(|from| from.host() != to.host()));
            let note = elsewhere.map_or_else(String::new, |to| format!(", not followed to another host: {to}"));
            Outcome::passed(&format!("HTTP {status}{note}"))
        }
        _ if body.is_empty() => Outcome::failed(&format!("HTTP {status}")),
        _ => Outcome::failed(&format!("HTTP {status}: {}", String::from_utf8_lossy(body))),
    }
}

fn failed(get: &HttpGet, status: Option<reqwest::StatusCode>, error: &reqwest::Error) -> Outcome {
    let root = root_of(error);
    let why = root.to_string();
    let why = why.split(" (os error").next().unwrap_or(&why);
    let observed = match status {
        None => format!("{}: {why}", url(get)),
        Some(status) => format!("HTTP {status}, and its body broke off: {why}"),
    };
    Outcome::of_error(root.downcast_ref::<io::Error>(), &observed)
}

/// The first cause: what is above it says only that a request failed.
fn root_of<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}
