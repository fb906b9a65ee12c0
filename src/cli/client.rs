//! One request to a supervisor over its socket, and the answer: the only part of the command line that talks to one.

mod follow;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

pub use follow::{Over, Reads, Took, Whose};

use super::args::Globals;
use super::connect::connect;
use super::exit::Failure;
use super::paths::{self, Who};
use crate::api::tenure;
use crate::api::wire::Problem;
use crate::clock;
use crate::model::Mono;

/// What is answered at once is waited for so long: it comes in milliseconds, but a supervisor that begins takes over
/// what lives first.
const PATIENCE: Duration = Duration::from_secs(30);

/// So long is waited for a supervisor that is to follow another, unless something else was asked for: that takes a fifth of a second,
/// and longer only where something is amiss.
const SUCCESSION: Duration = Duration::from_secs(10);

/// The shortest and the longest time between two looks for it.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The way to a supervisor. Nothing is opened before something is asked.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// Another supervisor's socket that is there, for whoever looked in the wrong place.
    other: Option<PathBuf>,
    /// How long what is answered at once is waited for.
    patience: Duration,
    /// How long a supervisor is waited for that is to follow another.
    succession: Duration,
}

impl Client {
    /// To the supervisor that `globals` name, or the one of whoever asks.
    ///
    /// # Errors
    /// [`Failure::Usage`] where there is no saying which one that is.
    pub fn new(globals: &Globals, who: &Who<'_>) -> Result<Self, Failure> {
        let socket = paths::socket(globals, who).map_err(|e| Failure::Usage(e.to_string()))?;
        let system = Path::new(paths::SYSTEM_RUNTIME).join("api.sock");
        let other = (system != socket && system.exists()).then_some(system);
        Ok(Self { socket, other, patience: PATIENCE, succession: SUCCESSION })
    }

    /// The same, which waits no longer than this for what is answered at once.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, succession: patience.min(self.succession), ..self }
    }

    /// The same, which waits for so long for a supervisor that is to follow another.
    #[must_use]
    pub fn patient_for(self, succession: Duration) -> Self {
        Self { succession, ..self }
    }

    /// The process that listens, by its number here; `None` where it cannot be seen from here (another pid namespace).
    ///
    /// # Errors
    /// [`Failure`].
    pub fn listener(&self) -> Result<Option<i32>, Failure> {
        let (stream, _) = runtime()?.block_on(self.connect())?;
        let credentials = getsockopt(&stream, PeerCredentials);
        let credentials = credentials.map_err(|e| Failure::failed("cannot tell who listens", io::Error::from(e)))?;
        Ok(Some(credentials.pid()).filter(|pid| *pid > 0))
    }

    /// Reads what is under `path`; once more of the supervisor that follows one that breaks off.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = runtime()?.block_on(async {
            let answered = tokio::time::timeout(self.patience, self.look(path)).await;
            answered.unwrap_or_else(|_| Err(self.silent(self.patience)))
        })?;
        self.read(&answer)?.map_err(|problem| Failure::Answered(Box::new(problem)))
    }

    /// Asks for something under `path`, and waits for as long as it takes. A problem may have more to tell than its
    /// sentence, and is given back as it is.
    ///
    /// # Errors
    /// [`Failure`], where there was no answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<Result<T, Problem>, Failure> {
        self.ask(Method::POST, path, body)
    }

    /// The same by another method.
    ///
    /// It bears a key, by which it is done once. So where the connection breaks before there is an answer it is asked once
    /// more, of the same supervisor: another one knows nothing of the key.
    ///
    /// # Errors
    /// [`Failure`], where there was no answer.
    pub fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Result<T, Problem>, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::failed("cannot write the request", e))?;
        let answer = self.exchange(method, path, body.into())?;
        self.read(&answer)
    }

    /// Reads lines from under `path` and gives each to `take`, without its end, until there are no more, `take` has had
    /// enough (`false`), or somebody interrupts (SIGINT).
    ///
    /// # Errors
    /// [`Failure`], also where they broke off.
    pub fn lines(
        &self,
        path: &str,
        media_type: &str,
        mut take: impl FnMut(&[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let request = lines_of(path, media_type)?;
        let read = async {
            let began = tokio::time::timeout(PATIENCE, self.begin(request)).await;
            let mut body = self.refused(began.unwrap_or_else(|_| Err(self.silent(PATIENCE)))?).await?;
            let mut lines = Lines::default();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|e| self.gone(e))?.into_data() else { continue };
                for line in lines.add(&data) {
                    if !take(line)? {
                        return Ok(());
                    }
                }
                lines.taken();
            }
            Ok(())
        };
        until_interrupted(read, ())
    }

    /// Reads what is under `path` part by part, for as long as it comes, until `take` fails.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn stream(&self, path: &str, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let request = request(Method::GET, path, Bytes::new())?;
        runtime()?.block_on(async {
            let begun = tokio::time::timeout(PATIENCE, self.begin(request)).await;
            let mut body = self.refused(begun.unwrap_or_else(|_| Err(self.silent(PATIENCE)))?).await?;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| self.broke_off(e))?;
                if let Some(bytes) = frame.data_ref() {
                    take(bytes).map_err(|e| Failure::failed("cannot print", e))?;
                }
            }
            Ok(())
        })
    }

    /// The body of an answer that is none of a problem.
    async fn refused(&self, answer: Response<Incoming>) -> Result<Incoming, Failure> {
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| self.broke_off(e))?.to_bytes();
        match self.read::<serde::de::IgnoredAny>(&Response::from_parts(head, body))? {
            Err(problem) => Err(Failure::Answered(Box::new(problem))),
            Ok(_) => Err(Failure::failed("cannot talk to a supervisor", "an answer is success and none")),
        }
    }

    fn read<T: DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<Result<T, Problem>, Failure> {
        let read = if answer.status().is_success() {
            serde_json::from_slice(answer.body()).map(Ok)
        } else {
            serde_json::from_slice(answer.body()).map(Err)
        };
        read.map_err(|e| {
            let doing = format!("{} answers what is not understood ({})", self.socket.display(), answer.status());
            Failure::failed(doing, e)
        })
    }

    fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, Failure> {
        let key = format!("{:032x}", fastrand::u128(..));
        let keyed = |method, body| -> Result<_, Failure> {
            let mut request = request(method, path, body)?;
            let key = HeaderValue::from_str(&key).map_err(|e| Failure::failed("cannot write the request", e))?;
            request.headers_mut().insert("idempotency-key", key);
            Ok(request)
        };
        let (first, again) = (keyed(method.clone(), body.clone())?, keyed(method, body)?);
        runtime()?.block_on(async {
            let (stream, asked) = self.connect().await?;
            let failure = match self.talk_over(stream, first).await {
                Err(failure @ Failure::BrokeOff { .. }) => failure,
                answered => return answered,
            };
            match self.connect().await {
                Ok((stream, there)) if asked.is_some() && asked == there => self.talk_over(stream, again).await,
                _ => Err(failure),
            }
        })
    }

    /// Asks for what can be asked twice.
    async fn look(&self, path: &str) -> Result<Response<Bytes>, Failure> {
        // Which one broke off, and when.
        let mut broke: Option<(Option<i32>, Mono)> = None;
        let mut pause = LOOKS.0;
        loop {
            let (stream, listener) = self.connect().await?;
            let failure = match self.talk_over(stream, request(Method::GET, path, Bytes::new())?).await {
                Err(failure @ Failure::BrokeOff { .. }) => failure,
                answered => return answered,
            };
            let now = clock::monotonic();
            let (one, since) = *broke.get_or_insert((listener, now));
            // One that is killed takes connections for a moment longer than it has others.
            let is_the_same = listener == one && (now == since || now.since(since) < self.succession);
            if !is_the_same || !tenure::is_held(&self.socket) {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    async fn talk_over(&self, stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let (head, body) = self.begin_over(stream, request).await?.into_parts();
        let body = body.collect().await.map_err(|e| self.broke_off(e))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// A connection, and the process that listens there, where that can be known. Where nobody does, somebody who will is
    /// waited for.
    async fn connect(&self) -> Result<(UnixStream, Option<i32>), Failure> {
        self.find().await?.map_err(|error| self.no_connection(error))
    }

    /// The same, or why there is nobody, and nobody to come.
    async fn find(&self) -> Result<Result<(UnixStream, Option<i32>), io::Error>, Failure> {
        let until = clock::monotonic() + self.succession;
        let mut pause = LOOKS.0;
        let stream = loop {
            let error = match connect(&self.socket, self.patience).await {
                Ok(stream) => break stream,
                Err(error) => error,
            };
            if !is_nobody(&error) {
                return Err(self.no_connection(error));
            }
            if !tenure::is_held(&self.socket) {
                return Ok(Err(error));
            }
            if clock::monotonic() >= until {
                return Err(self.no_successor());
            }
            // A socket on which nobody listens yet cannot be waited for.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        };
        // One of another pid namespace has no number here.
        let listener = stream.peer_cred().ok().and_then(|credentials| credentials.pid()).filter(|pid| *pid > 0);
        Ok(Ok((stream, listener)))
    }

    /// Asks, and waits until an answer begins.
    async fn begin(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let (stream, _) = self.connect().await?;
        self.begin_over(stream, request).await
    }

    async fn begin_over(
        &self,
        stream: UnixStream,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broke_off(e))?;
        // How it ends is told by the answer, or by that there is none.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(|e| self.broke_off(e))
    }

    fn broke_off(&self, error: hyper::Error) -> Failure {
        let doing = format!("the supervisor at {} broke off before it had answered", self.socket.display());
        Failure::BrokeOff { doing, source: error.into() }
    }

    fn gone(&self, error: hyper::Error) -> Failure {
        Failure::failed(
            format!("the supervisor at {} broke off: it has ended, or was killed", self.socket.display()),
            error,
        )
    }

    fn no_connection(&self, error: io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            _ if is_nobody(&error) => {
                let other = self.other.as_ref().map(|other| format!(" (there is one at {})", other.display()));
                Failure::Unreachable(format!(
                    "no supervisor answers at {socket}: start one with `pinfold up`, or name its socket with --socket{}",
                    other.unwrap_or_default()
                ))
            }
            io::ErrorKind::PermissionDenied => Failure::failed(
                format!("only root and members of the socket's group may use {socket}; ask as one of them"),
                error,
            ),
            io::ErrorKind::WouldBlock => self.silent(self.patience),
            _ => Failure::failed(format!("cannot connect to {socket}"), error),
        }
    }

    fn no_successor(&self) -> Failure {
        Failure::Unreachable(format!(
            "the supervisor at {} begins, or is being replaced, and has not answered for {}: look at what it says where it \
             was started (its log, or its journal)",
            self.socket.display(),
            humantime::format_duration(self.succession)
        ))
    }

    fn silent(&self, patience: Duration) -> Failure {
        Failure::Unreachable(format!(
            "the supervisor at {} has not answered for {} s: look whether it is stopped or stuck",
            self.socket.display(),
            patience.as_secs()
        ))
    }
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "pinfold")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|e| Failure::Usage(format!("that is too much for one request: {e}")))
}

fn lines_of(path: &str, media_type: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = request(Method::GET, path, Bytes::new())?;
    let accept = HeaderValue::from_str(media_type).map_err(|e| Failure::failed("cannot write the request", e))?;
    request.headers_mut().insert("accept", accept);
    Ok(request)
}

/// Cuts what comes into lines.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    whole: usize,
}

impl Lines {
    /// What is whole by now, without its ends. [`taken`](Self::taken) follows.
    fn add(&mut self, data: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.whole = data.iter().rposition(|b| *b == b'\n').map_or(0, |end| self.text.len() + end + 1);
        self.text.extend_from_slice(data);
        let whole = self.text.get(..self.whole).unwrap_or_default();
        whole.split(|b| *b == b'\n').filter(|line| !line.is_empty())
    }

    fn taken(&mut self) {
        self.text.drain(..self.whole);
        self.whole = 0;
    }
}

/// Whether nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}

/// Does `what` until it is done, or somebody interrupts (SIGINT), which is answered with `enough`.
fn until_interrupted<T>(what: impl Future<Output = Result<T, Failure>>, enough: T) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::failed("cannot be interrupted", e))?;
        tokio::select! {
            done = what => done,
            _ = interrupt.recv() => Ok(enough),
        }
    });
    // Who interrupts does not wait for a thread that is waiting for a connection.
    runtime.shutdown_background();
    done
}

/// For nothing but one conversation.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|e| Failure::failed("cannot talk to a supervisor", e))
}

/// `text` as one segment of a path, or as one value of a query.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    pub(super) fn client(socket: &Path) -> Client {
        Client { socket: socket.to_owned(), other: None, patience: PATIENCE, succession: SUCCESSION }
    }

    fn failure(client: &Client) -> (u8, String) {
        let failure = client.get::<serde_json::Value>("/v1/health").unwrap_err();
        (failure.exit().code(), failure.sentence())
    }

    #[test]
    fn a_pattern_is_one_segment_whatever_is_in_it() {
        assert_eq!(encoded("web-*,db?"), "web-%2A%2Cdb%3F");
        assert_eq!(encoded("../x y%é"), "..%2Fx%20y%25%C3%A9");
    }

    #[test]
    fn where_no_supervisor_is_it_is_said_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("api.sock");
        let (code, sentence) = failure(&client(&absent));
        assert_eq!(code, 6);
        assert!(sentence.contains("pinfold up") && sentence.contains("--socket"), "{sentence}");
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert_eq!(failure(&client(&stale)).0, 6);
        assert_eq!(failure(&client(&stale.join("x"))).0, 6);
        let there = Client { other: Some("/run/pinfold/api.sock".into()), ..client(&absent) };
        assert!(failure(&there).1.ends_with("--socket (there is one at /run/pinfold/api.sock)"));
    }

    /// Answers whoever comes next.
    fn answer(listener: &UnixListener) {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        heard(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    }

    #[test]
    fn one_that_follows_another_is_waited_for_however_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _there = tenure::Tenure::begin(&path).unwrap().unwrap();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| client(&path).get::<serde_json::Value>("/v1/health").unwrap());
            // It refuses, breaks off more than once and is gone before it answers.
            drop(UnixListener::bind(&path).unwrap());
            std::fs::remove_file(&path).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            drop(listener.accept().unwrap());
            let (taken, _) = listener.accept().unwrap();
            drop(listener);
            std::fs::remove_file(&path).unwrap();
            drop(taken);
            answer(&UnixListener::bind(&path).unwrap());
            assert_eq!(asked.join().unwrap(), serde_json::json!({}));
        });
    }

    #[test]
    fn one_that_does_not_follow_is_waited_for_no_longer_than_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _there = tenure::Tenure::begin(&path).unwrap().unwrap();
        let (code, sentence) = failure(&client(&path).patient_for(Duration::from_millis(20)));
        assert_eq!(code, 6);
        assert!(sentence.contains("is being replaced, and has not answered for 20ms"), "{sentence}");
    }

    #[test]
    fn a_supervisor_that_breaks_off_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(listener.accept().unwrap()));
            let (code, sentence) = failure(&client(&path));
            assert_eq!(code, 1);
            assert!(sentence.contains("broke off before it had answered"), "{sentence}");
        });
    }

    /// The head and body of a request.
    fn heard(stream: &mut std::os::unix::net::UnixStream) -> String {
        use std::io::Read;
        let mut text = [0; 4096];
        let read = stream.read(&mut text).unwrap();
        String::from_utf8_lossy(&text[..read]).into_owned()
    }

    #[test]
    fn what_broke_off_is_asked_once_more_by_the_same_key_and_never_a_third_time() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = client(&path);
        for answers in [true, false] {
            std::thread::scope(|scope| {
                let served = scope.spawn(|| {
                    let requests: Vec<String> = (0..2)
                        .map(|n| {
                            let (mut stream, _) = listener.accept().unwrap();
                            let request = heard(&mut stream);
                            if n == 1 && answers {
                                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
                            }
                            request
                        })
                        .collect();
                    requests
                });
                let answer = client.post::<serde_json::Value>("/v1/x", &serde_json::json!({}));
                // Whoever came a third time would wait in the backlog without an answer.
                let key = |request: &String| {
                    let line = request.lines().find(|line| line.starts_with("idempotency-key: ")).map(str::to_owned);
                    line.unwrap_or_else(|| panic!("{request}"))
                };
                let requests = served.join().unwrap();
                assert_eq!(key(&requests[0]), key(&requests[1]));
                assert!(key(&requests[0]).len() > 40);
                match answer {
                    Ok(Ok(_)) => assert!(answers),
                    Ok(Err(problem)) => panic!("{problem:?}"),
                    Err(failure) => {
                        assert!(!answers && failure.sentence().contains("broke off before it had answered"));
                        assert_eq!(failure.exit().code(), 1);
                    }
                }
            });
        }
    }

    #[test]
    fn an_answer_that_is_none_of_a_supervisors_is_told() {
        use std::io::{Read, Write};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").unwrap();
            });
            let (code, sentence) = failure(&client(&path));
            assert_eq!(code, 1);
            assert!(sentence.contains("answers what is not understood (200 OK)"), "{sentence}");
        });
    }
}
