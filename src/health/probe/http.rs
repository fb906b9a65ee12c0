//! `http_get`, as the kubelet does it: GET, 200 to 399 is success, redirects are followed to the same host only (one to
//! another host counts as what it is, a 3xx), certificates are not checked, no connection is kept, no proxy is used.
//!
//! On hyper's connection, like the command line's client: a probe needs of a larger one what is here, and the larger
//! ones bring thirty crates.

use std::{borrow::Cow, error::Error, io, net::Ipv6Addr, pin::pin, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use iri_string::types::{UriAbsoluteString, UriReferenceStr, UriString};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Outcome, tcp, tls, words};
use crate::spec::types::HttpGet;

/// How much of a body is read: enough to tell that there is one, and what it says first.
const MAX_BODY: usize = 10 << 10;
/// How long the head of an answer may be, and how much of one is read at a time.
const MAX_HEAD: usize = 64 << 10;
/// The kubelet's, and every browser's, patience with redirects.
const MAX_REDIRECTS: u32 = 10;
/// What is no character of a URI (RFC 3986) and is written all the same.
const ODD: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// Why there was no whole answer.
type Broken = Box<dyn Error + Send + Sync>;

/// The client of all probes.
#[derive(Debug)]
pub(super) struct Client {
    tls: tls::Connector,
}

impl Client {
    pub(super) const fn new() -> Self {
        Self { tls: tls::Connector::new() }
    }

    /// Asks, and reads the answer.
    pub(super) async fn get(&self, get: &HttpGet, timeout: Duration) -> Outcome {
        let mut status = None;
        match (tokio::time::timeout(timeout, self.follow(get, &mut status)).await, status) {
            (Ok(Ok(outcome)), _) => outcome,
            (Ok(Err(broken)), status) => failed(get, status, &*broken),
            (Err(_), None) => {
                Outcome::failed(&format!("{}: no answer within {}", Target::of(get).shown(), words(timeout)))
            }
            (Err(_), Some(status)) => {
                Outcome::failed(&format!("HTTP {status}, and no end of its body within {}", words(timeout)))
            }
        }
    }

    /// Asks until somebody answers with more than where to ask. `status` is told once that answer has begun.
    async fn follow(&self, get: &HttpGet, status: &mut Option<StatusCode>) -> Result<Outcome, Broken> {
        let mut target = Target::of(get);
        let mut headers = headers(get);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&target, &headers, status).await?;
            let Some(location) = answer.location else { return Ok(judge(answer.status, &answer.body)) };
            let next = target.resolve(&location)?;
            if !next.host.eq_ignore_ascii_case(&get.host) {
                let note = format!("HTTP {}, not followed to another host: {}", answer.status, next.shown());
                return Ok(Outcome::passed(&note));
            }
            if !location.starts_with('/') && location.contains("://") {
                // As Go's client has it: a name of the configuration's is for the server that was configured.
                headers.remove(HOST);
            }
            target = next;
        }
        Err("more than 10 redirects".into())
    }

    async fn ask(
        &self,
        target: &Target,
        headers: &HeaderMap,
        status: &mut Option<StatusCode>,
    ) -> Result<Answer, Broken> {
        let mut request = Request::get(&*target.path).body(Empty::new())?;
        let own = request.headers_mut();
        own.insert(USER_AGENT, HeaderValue::from_static(concat!("pinfold/", env!("CARGO_PKG_VERSION"))));
        own.insert(ACCEPT, HeaderValue::from_static("*/*"));
        own.insert(CONNECTION, HeaderValue::from_static("close"));
        own.insert(HOST, HeaderValue::from_str(&target.authority())?);
        for name in headers.keys() {
            own.remove(name);
        }
        own.extend(headers.clone());
        let stream = TcpStream::connect((&*target.host, target.port)).await?;
        tcp::other_end(&stream)?;
        if target.tls {
            exchange(self.tls.connect(&target.host, stream).await?, request, status).await
        } else {
            exchange(stream, request, status).await
        }
    }
}

/// What a server said.
struct Answer {
    status: StatusCode,
    /// Where to ask instead; then the body is left unread.
    location: Option<String>,
    body: Vec<u8>,
}

/// One request and its answer on a connection that ends with it.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    seen: &mut Option<StatusCode>,
) -> Result<Answer, Broken> {
    let (mut sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    let mut answer = pin!(async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let status = head.status;
        // RFC 9110, 15.4: those that a GET is repeated for.
        let elsewhere = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = head.headers.get(LOCATION).filter(|_| elsewhere);
        if let Some(location) = location {
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            return Ok(Answer { status, location: Some(location), body: Vec::new() });
        }
        *seen = Some(status);
        Ok(Answer { status, location: None, body: read(body).await? })
    });
    tokio::select! {
        answer = &mut answer => answer,
        // Whatever it has brought, and how it ended, is with the answer.
        _ended = connection => answer.await,
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut read = Vec::new();
    while read.len() < MAX_BODY
        && let Some(frame) = body.frame().await
    {
        // Trailers are none of our business.
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(data.get(..MAX_BODY - read.len()).unwrap_or(&data));
        }
    }
    Ok(read)
}

/// Whom a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

impl Target {
    fn of(get: &HttpGet) -> Self {
        Self { tls: get.tls, host: get.host.clone(), port: get.port, path: get.path.clone() }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// The URL for those who may read what was seen: its query may let somebody in.
    fn shown(&self) -> String {
        let mut url = self.url();
        if let Some(query) = url.find('?') {
            url.replace_range(query + 1.., "…");
        }
        url
    }

    fn authority(&self) -> String {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Where `location` leads from here.
    fn resolve(&self, location: &str) -> Result<Self, Broken> {
        let (before_query, query) = location.split_once('?').map_or((location, ""), |(before, _)| (before, "?…"));
        let unclear = || format!("redirected to {before_query:?}{query}, which is not understood");
        let base = UriAbsoluteString::try_from(encoded(&self.url()).into_owned()).map_err(|_| unclear())?;
        let location = encoded(location);
        let reference = UriReferenceStr::new(&location).map_err(|_| unclear())?;
        let to: UriString = reference.resolve_against(&base).into();
        let tls = match to.scheme_str() {
            "http" => false,
            "https" => true,
            _ => return Err(unclear().into()),
        };
        let authority = to.authority_components().ok_or_else(unclear)?;
        let port = match authority.port() {
            None | Some("") => Some(if tls { 443 } else { 80 }),
            Some(port) => port.parse().ok(),
        };
        let path = match to.path_str() {
            "" => "/",
            path => path,
        };
        let query = to.query_str().map_or_else(String::new, |query| format!("?{query}"));
        match (authority.host().trim_start_matches('[').trim_end_matches(']'), port) {
            ("", _) | (_, None) => Err(unclear().into()),
            (host, Some(port)) => Ok(Self { tls, host: host.to_owned(), port, path: format!("{path}{query}") }),
        }
    }
}

fn encoded(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ODD).into()
}

/// What is configured, valid already.
fn headers(get: &HttpGet) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    headers
}

fn judge(status: StatusCode, body: &[u8]) -> Outcome {
    match status.as_u16() {
        200..=399 => Outcome::passed(&format!("HTTP {status}")),
        _ if body.is_empty() => Outcome::failed(&format!("HTTP {status}")),
        _ => Outcome::failed(&format!("HTTP {status}: {}", String::from_utf8_lossy(body))),
    }
}

fn failed(get: &HttpGet, status: Option<StatusCode>, broken: &(dyn Error + 'static)) -> Outcome {
    // The first cause: what is above it says only that a request failed.
    let mut root = broken;
    while let Some(source) = root.source() {
        root = source;
    }
    let why = root.to_string();
    let why = why.split(" (os error").next().unwrap_or(&why);
    let observed = match status {
        None => format!("{}: {why}", Target::of(get).shown()),
        Some(status) => format!("HTTP {status}, and its body broke off: {why}"),
    };
    Outcome::of_error(root.downcast_ref::<io::Error>(), &observed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(tls: bool, host: &str, port: u16, path: &str) -> Target {
        Target { tls, host: host.into(), port, path: path.into() }
    }

    #[test]
    fn a_location_is_read_as_the_standard_has_it_and_what_is_odd_is_encoded() {
        let base = target(false, "10.0.0.1", 8080, "/a/b?c=d");
        for (location, expected) in [
            ("/x?y=z", target(false, "10.0.0.1", 8080, "/x?y=z")),
            ("x", target(false, "10.0.0.1", 8080, "/a/x")),
            ("../x#part", target(false, "10.0.0.1", 8080, "/x")),
            ("?q", target(false, "10.0.0.1", 8080, "/a/b?q")),
            ("//other/x", target(false, "other", 80, "/x")),
            ("https://10.0.0.1", target(true, "10.0.0.1", 443, "/")),
            ("http://10.0.0.1:81/é {x}|", target(false, "10.0.0.1", 81, "/%C3%A9%20%7Bx%7D%7C")),
            ("http://user:pass@[::1]:9/x", target(false, "::1", 9, "/x")),
        ] {
            assert_eq!(base.resolve(location).unwrap(), expected, "{location}");
        }
        for location in ["ftp://10.0.0.1/x", "http://10.0.0.1:99999/", "http://[::1/", "mailto:x", "/%zz", "http:///x"]
        {
            assert!(base.resolve(location).is_err(), "{location}");
        }
        let six = target(true, "::1", 443, "/{odd}");
        assert_eq!(six.resolve("/y").unwrap(), target(true, "::1", 443, "/y"));
    }
}
