//! The control socket, spoken to without the product: HTTP by hyper, one connection that is kept.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream as StdStream,
    path::Path,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime};

use super::patience;

/// One connection. Everything happens on the caller's thread: nothing but the supervisor takes time.
pub(crate) struct Door {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer: its status and its document.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Door {
    pub(crate) fn open(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            // One that blocks waits where many come at once.
            let stream = StdStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
            stream.set_nonblocking(true).unwrap();
            let stream = UnixStream::from_std(stream).unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            // How it ends is told by a request that gets no answer.
            tokio::spawn(async move { drop(connection.await) });
            sender
        });
        Self { runtime, sender }
    }

    /// One question on a connection of its own; `None` where nobody listens, or nobody who lives to answer.
    pub(crate) fn ask_whoever_is_there(socket: &Path, path: &str) -> Option<Answer> {
        Self::tell_whoever_is_there(socket, Method::GET, path, Vec::new())
    }

    /// The same with a method and a body.
    pub(crate) fn tell_whoever_is_there(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Option<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = async {
            let stream = UnixStream::connect(socket).await.ok()?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(async move { drop(connection.await) });
            let request = Request::builder().method(method).uri(path).header("host", "pinfold");
            let request = request.body(Full::new(Bytes::from(body))).unwrap();
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            Some((head.status.as_u16(), body.collect().await.ok()?.to_bytes()))
        };
        let answered = runtime.block_on(async { tokio::time::timeout(patience(), asked).await });
        let (status, bytes) = answered.unwrap_or_else(|_| panic!("{path}: no answer in {:?}", patience()))?;
        Some(Answer {
            status,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {status}: {e}")),
        })
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path, Vec::new())
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn delete(&mut self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, Vec::new())
    }

    fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        let what = format!("{method} {path}");
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "pinfold").header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let sender = &mut self.sender;
        let answer = async {
            sender.ready().await?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head.status.as_u16(), body.collect().await?.to_bytes()))
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(patience(), answer).await });
        let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer in {:?}", patience()));
        let (status, bytes) = answer.unwrap_or_else(|e| panic!("{what}: {e}"));
        let body = serde_json::from_slice(&bytes);
        Answer { status, body: body.unwrap_or_else(|e| panic!("{what}: {status}: {e}")) }
    }
}

/// What `path` answers as text. HTTP/1.0, so that the body is all that comes until the end.
pub(crate) fn text(socket: &Path, path: &str, accept: &str) -> String {
    let mut stream = StdStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
    stream.set_read_timeout(Some(patience())).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: pinfold\r\naccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    body.to_owned()
}

/// The series of Prometheus' text format with their values.
pub(crate) fn series(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(name, value)| (name, value.parse().unwrap())).unwrap()).collect()
}
