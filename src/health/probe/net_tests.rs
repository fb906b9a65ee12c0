//! The probes over the network against servers of every sort, on loopback.

use std::{
    future::Future,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::rustls;

use super::{Finding, Outcome, http::Client, tcp};
use crate::spec::types::HttpGet;

/// What only a failure reaches.
const PATIENCE: Duration = Duration::from_secs(30);
/// A timeout that is meant to be reached.
const SHORT: Duration = Duration::from_millis(500);
/// Between two bytes of a server that dribbles.
const DRIBBLE: Duration = Duration::from_millis(5);

/// A server that reads a request's head and then does as it is told.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start<F, T>(behave: F) -> Self
    where
        F: Fn(TcpStream, String) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                kept.lock().unwrap().push(head.clone());
                tokio::spawn(behave(stream, head));
            }
        });
        Self { port, heads, task }
    }

    /// One that gives the same answer to everybody, and closes.
    async fn answering(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(move |mut stream, _| {
            let answer = answer.clone();
            async move { drop(stream.write_all(answer.as_bytes()).await) }
        })
        .await
    }

    async fn get(&self, path: &str, timeout: Duration) -> Outcome {
        Client::new().get(&request(self.port, path), timeout).await
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn request(port: u16, path: &str) -> HttpGet {
    HttpGet { tls: false, host: "127.0.0.1".into(), port, path: path.into(), headers: Vec::new() }
}

fn passed(observed: &str) -> Outcome {
    Outcome { finding: Finding::Passed, observed: observed.into() }
}

fn failed(observed: &str) -> Outcome {
    Outcome { finding: Finding::Failed, observed: observed.into() }
}

/// A port of the loopback that nobody listens on, and nobody else is given for now.
fn closed_port() -> (u16, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}

#[tokio::test]
async fn codes_from_200_to_399_are_success() {
    for (code, finding) in [
        ("200 OK", Finding::Passed),
        ("204 No Content", Finding::Passed),
        ("304 Not Modified", Finding::Passed),
        ("302 Found", Finding::Passed),
        ("400 Bad Request", Finding::Failed),
        ("404 Not Found", Finding::Failed),
        ("500 Internal Server Error", Finding::Failed),
        ("503 Service Unavailable", Finding::Failed),
    ] {
        let server = Server::answering(&format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n")).await;
        let outcome = server.get("/", PATIENCE).await;
        assert_eq!(outcome, Outcome { finding, observed: format!("HTTP {code}") });
    }
}

#[tokio::test]
async fn a_failure_says_what_the_server_said_and_cannot_steer_a_terminal() {
    let server =
        Server::answering("HTTP/1.1 503 Service Unavailable\r\n\r\ndatabase:\n\t\x1b[31mgone\x07\r\n\u{202e}!").await;
    let expected = "HTTP 503 Service Unavailable: database: \u{fffd}[31mgone\u{fffd} \u{fffd}!";
    assert_eq!(server.get("/", PATIENCE).await, failed(expected));
    let long = format!("HTTP/1.1 500 Internal Server Error\r\n\r\n{}", "é".repeat(5000));
    let outcome = Server::answering(&long).await.get("/", PATIENCE).await;
    assert!(outcome.observed.len() <= super::MAX_OBSERVED && outcome.observed.ends_with('…'), "{outcome:?}");
}

#[tokio::test]
async fn a_request_says_who_asks_and_keeps_nothing_open() {
    let server = Server::answering("HTTP/1.1 200 OK\r\n\r\nfine").await;
    assert_eq!(server.get("/a?b=c%20d", PATIENCE).await, passed("HTTP 200 OK"));
    let head = server.heads().remove(0).to_lowercase();
    let user_agent = concat!("user-agent: pinfold/", env!("CARGO_PKG_VERSION"), "\r\n");
    for line in ["get /a?b=c%20d http/1.1\r\n", user_agent, "connection: close\r\n", "accept: */*\r\n"] {
        assert!(head.contains(line), "{line:?} is not in {head}");
    }
    assert!(head.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{head}");
}

#[tokio::test]
async fn headers_of_the_configuration_go_before_ours() {
    let server = Server::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let headers = [("Host", "shop.internal"), ("User-Agent", "mine"), ("X-A", "1"), ("X-A", "2")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let get = HttpGet { headers, ..request(server.port, "/") };
    assert_eq!(Client::new().get(&get, PATIENCE).await.finding, Finding::Passed);
    let head = server.heads().remove(0).to_lowercase();
    for line in ["host: shop.internal\r\n", "user-agent: mine\r\n", "x-a: 1\r\n", "x-a: 2\r\n"] {
        assert!(head.contains(line), "{line:?} is not in {head}");
    }
    assert_eq!((head.matches("host:").count(), head.matches("user-agent:").count()), (1, 1), "{head}");
}

#[tokio::test]
async fn a_redirect_to_the_same_host_is_followed_and_decides() {
    let redirecting = |last: &'static str| async move {
        let server = Server::start(move |mut stream, head| async move {
            let answer = match head.split(' ').nth(1) {
                Some("/") => "HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n",
                Some("/next") => "HTTP/1.1 301 Moved Permanently\r\nLocation: last\r\n\r\n",
                _ => last,
            };
            drop(stream.write_all(answer.as_bytes()).await);
        })
        .await;
        (server.get("/", PATIENCE).await, server.heads().len())
    };
    assert_eq!(redirecting("HTTP/1.1 200 OK\r\n\r\n").await, (passed("HTTP 200 OK"), 3));
    assert_eq!(redirecting("HTTP/1.1 410 Gone\r\n\r\n").await, (failed("HTTP 410 Gone"), 3));
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed_and_is_success() {
    let elsewhere = Server::answering("HTTP/1.1 500 Never\r\n\r\n").await;
    let location = format!("http://localhost:{}/x", elsewhere.port);
    let server = Server::answering(&format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n\r\n")).await;
    let observed = format!("HTTP 307 Temporary Redirect, not followed to another host: {location}");
    assert_eq!(server.get("/", PATIENCE).await, passed(&observed));
    assert!(elsewhere.heads().is_empty(), "nobody was sent there");
}

#[tokio::test]
async fn what_was_seen_has_no_query_for_it_may_be_a_secret() {
    let (port, _held) = closed_port();
    let outcome = Client::new().get(&request(port, "/x?key=hunter2"), PATIENCE).await;
    assert_eq!(outcome, failed(&format!("http://127.0.0.1:{port}/x?…: Connection refused")));
    for (location, expected) in [
        (
            "http://elsewhere:1/x?key=hunter2",
            passed("HTTP 302 Found, not followed to another host: http://elsewhere:1/x?…"),
        ),
        ("ftp:x?key=hunter2", failed("redirected to \"ftp:x\"?…, which is not understood")),
    ] {
        let server = Server::answering(&format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n")).await;
        let outcome = server.get("/", PATIENCE).await;
        let here = format!("http://127.0.0.1:{}/: ", server.port);
        assert_eq!(Outcome { observed: outcome.observed.replace(&here, ""), ..outcome }, expected);
    }
}

#[tokio::test]
async fn redirects_without_end_are_a_failure() {
    let server = Server::answering("HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n").await;
    let outcome = server.get("/", PATIENCE).await;
    assert_eq!(outcome.finding, Finding::Failed);
    assert!(outcome.observed.ends_with(": more than 10 redirects"), "{outcome:?}");
    assert_eq!(server.heads().len(), 11);
}

#[tokio::test]
async fn nobody_there_is_a_failure_at_once() {
    let (port, _held) = closed_port();
    let outcome = Client::new().get(&request(port, "/"), PATIENCE).await;
    assert_eq!(outcome, failed(&format!("http://127.0.0.1:{port}/: Connection refused")));
}

#[tokio::test]
async fn no_answer_is_a_failure_at_the_timeout() {
    let silent = Server::start(|stream, _| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let expected = |port| failed(&format!("http://127.0.0.1:{port}/: no answer within 500ms"));
    assert_eq!(silent.get("/", SHORT).await, expected(silent.port));

    let dribbling = Server::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(DRIBBLE).await;
        }
    })
    .await;
    assert_eq!(dribbling.get("/", SHORT).await, expected(dribbling.port), "bytes of a header are no answer");
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_a_failure() {
    let dribbling = Server::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(DRIBBLE).await;
        }
    })
    .await;
    let outcome = dribbling.get("/", SHORT).await;
    assert_eq!(outcome, failed("HTTP 200 OK, and no end of its body within 500ms"));
}

#[tokio::test]
async fn half_an_answer_is_a_failure() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Le").await;
    assert_eq!(server.get("/", PATIENCE).await.finding, Finding::Failed);
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!").await;
    let outcome = server.get("/", PATIENCE).await;
    assert_eq!(outcome.finding, Finding::Failed);
    assert!(outcome.observed.starts_with("HTTP 200 OK, and its body broke off: "), "{outcome:?}");
}

#[tokio::test]
async fn a_reset_and_what_is_no_http_are_failures() {
    let resetting = Server::start(|stream, _| async move {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    })
    .await;
    let outcome = resetting.get("/", PATIENCE).await;
    assert_eq!(outcome, failed(&format!("http://127.0.0.1:{}/: Connection reset by peer", resetting.port)));
    let babbling = Server::answering("220 mail.example ESMTP\r\n\r\n").await;
    assert_eq!(babbling.get("/", PATIENCE).await.finding, Finding::Failed);
}

#[tokio::test]
async fn of_a_large_body_only_the_first_part_is_read() {
    const WHOLE: u64 = 64 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let server = Server::start(move |mut stream, _| {
        let counted = Arc::clone(&counted);
        async move {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            while counted.load(Ordering::SeqCst) < WHOLE && stream.write_all(&[b'x'; 4096]).await.is_ok() {
                counted.fetch_add(4096, Ordering::SeqCst);
            }
        }
    })
    .await;
    assert_eq!(server.get("/", PATIENCE).await, passed("HTTP 200 OK"));
    assert!(written.load(Ordering::SeqCst) < WHOLE / 2, "what the sockets hold, and no more");
}

#[tokio::test]
async fn a_head_without_bounds_is_a_failure() {
    let server = Server::start(|mut stream, _| async move {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while sent.is_ok() {
            sent = stream.write_all(b"X-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await;
        }
    })
    .await;
    assert_eq!(server.get("/", PATIENCE).await.finding, Finding::Failed);
}

#[tokio::test]
async fn certificates_are_not_checked() {
    let read =
        |name: &str| std::fs::read(format!("{}/tests/fixtures/tls/{name}.der", env!("CARGO_MANIFEST_DIR"))).unwrap();
    // For another host, expired, and by nobody known.
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![read("expired.cert").into()], read("expired.key").try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut head = [0; 1024];
        let read = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8_lossy(&head[..read]).into_owned()
    });
    let get = HttpGet { tls: true, ..request(port, "/secure") };
    assert_eq!(Client::new().get(&get, PATIENCE).await, passed("HTTP 200 OK"));
    assert!(server.await.unwrap().starts_with("GET /secure HTTP/1.1\r\n"));
    let plain = Server::answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let get = HttpGet { tls: true, ..request(plain.port, "/") };
    let (outcome, _) = (Client::new().get(&get, SHORT).await, plain);
    assert_eq!(outcome.finding, Finding::Failed, "no TLS there");
}

#[tokio::test]
async fn an_address_of_version_6_is_reached() {
    let listener = TcpListener::bind(("::1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(tcp::connect("::1", port, PATIENCE).await, passed(&format!("connected to [::1]:{port}")));
    let get = HttpGet { host: "::1".into(), ..request(port, "/") };
    let outcome = Client::new().get(&get, SHORT).await;
    assert_eq!(outcome, failed(&format!("http://[::1]:{port}/: no answer within 500ms")));
}

#[tokio::test]
async fn an_accepted_connection_is_success_even_if_nobody_takes_it() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(tcp::connect("127.0.0.1", port, PATIENCE).await, passed(&format!("connected to 127.0.0.1:{port}")));
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "closed at once, without a word");
}

#[tokio::test]
async fn a_refused_connection_and_a_name_that_is_none_are_failures() {
    let (port, _held) = closed_port();
    let outcome = tcp::connect("127.0.0.1", port, PATIENCE).await;
    assert_eq!(outcome, failed(&format!("127.0.0.1:{port}: Connection refused")));
    let outcome = tcp::connect("no-such-host.invalid", 80, PATIENCE).await;
    assert_eq!(outcome.finding, Finding::Failed, "{outcome:?}");
}

#[tokio::test]
async fn a_connection_that_is_not_answered_is_a_failure_at_the_timeout() {
    // A queue of connections that is full: the kernel drops what comes then.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(SHORT, TcpStream::connect(("127.0.0.1", port))).await {
        queued.push(connected.unwrap());
        assert!(queued.len() < 100, "the queue is not bounded");
    }
    let outcome = tcp::connect("127.0.0.1", port, SHORT).await;
    assert_eq!(outcome, failed(&format!("127.0.0.1:{port}: no connection within 500ms")));
}

#[tokio::test]
async fn a_connection_to_itself_is_nobody_there() {
    // Linux draws a source port for each connection; bound to the very port that is called, it is certain.
    let (port, caller) = closed_port();
    let own = caller.connect(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let refused = tcp::other_end(&own).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
