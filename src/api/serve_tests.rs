use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Client;
use std::path::PathBuf;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Extension,
    body::{Body, Bytes},
    routing::{get, post},
};
use futures_util::stream;

use super::*;
use crate::clock;

/// Long enough for whatever must come by itself; only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the server waits for a head or a reader here.
const SHORT: Duration = Duration::from_millis(300);

struct Place {
    path: PathBuf,
    _dir: tempfile::TempDir,
    _server: Server,
}

fn serve_with(router: Router, bounds: Bounds) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = StdListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    Place { path, _dir: dir, _server: Server::start(listener, router, bounds, || ()).unwrap() }
}

fn bounds() -> Bounds {
    Bounds { head: 16 << 10, head_patience: SHORT, write_patience: SHORT, ..Bounds::default() }
}

fn router() -> Router {
    let endless = async || Body::from_stream(stream::repeat(Ok::<_, Infallible>(vec![0; 4096])));
    let unhurried = async move |Extension(unhurried): Extension<Unhurried>| {
        unhurried.allow();
        endless().await
    };
    Router::new()
        .route("/who", get(async |peer: Peer| format!("<{peer}>")))
        .route("/never", get(std::future::pending::<()>))
        .route("/endless", get(endless))
        .route("/unhurried", get(unhurried))
}

impl Place {
    fn connect(&self) -> Client {
        let client = Client::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// Asks, and reads until the server closes.
    fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        rest(&mut client)
    }
}

/// What comes until the server closes.
fn rest(client: &mut Client) -> String {
    let mut text = Vec::new();
    match client.read_to_end(&mut text) {
        Ok(_) => {}
        // It closed with something of ours unread.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("not closed: {e}; so far {:?}", String::from_utf8_lossy(&text)),
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn status(answer: &str) -> &str {
    answer.lines().next().unwrap_or("(nothing)")
}

const WHO: &str = "GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[test]
fn a_request_carries_whom_the_kernel_names() {
    let answer = serve_with(router(), bounds()).ask(WHO);
    assert_eq!(status(&answer), "HTTP/1.1 200 OK");
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    assert!(answer.ends_with(&format!("<uid {uid} (pid {pid})>")), "{answer}");
}

#[test]
fn what_is_no_request_is_refused() {
    let place = serve_with(router(), bounds());
    for garbage in ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "HELO\r\n\r\n", "GET /who HTTP/1.1\r\n: x\r\n\r\n"] {
        assert_eq!(status(&place.ask(garbage)), "HTTP/1.1 400 Bad Request", "{garbage:?}");
    }
}

#[test]
fn a_head_is_bounded_in_size_and_in_lines() {
    let place = serve_with(router(), bounds());
    let mut client = place.connect();
    // A megabyte: the server may close before it has taken all of it.
    let huge = format!("GET /who HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    match client.write_all(huge.as_bytes()) {
        Ok(()) => {}
        Err(e) => assert!(matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{e}"),
    }
    assert_eq!(status(&rest(&mut client)), "HTTP/1.1 431 Request Header Fields Too Large");
    let many = "x: y\r\n".repeat(MAX_HEADERS + 1);
    let answer = place.ask(&format!("GET /who HTTP/1.1\r\n{many}\r\n"));
    assert_eq!(status(&answer), "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(status(&place.ask(WHO)), "HTTP/1.1 200 OK", "others are served all the same");
}

#[test]
fn a_head_that_does_not_come_costs_its_connection() {
    let place = serve_with(router(), bounds());
    // Nothing at all, and half a head.
    for said in ["", "GET /who HTTP/1.1\r\nho"] {
        let answer = place.ask(said);
        assert!(answer.is_empty() || status(&answer).starts_with("HTTP/1.1 4"), "{answer}");
    }
    // One that always has a little more to say.
    let mut client = place.connect();
    client.write_all(b"GET /who HTTP/1.1\r\n").unwrap();
    client.set_read_timeout(Some(SHORT / 10)).unwrap();
    let mut bytes = [0; 4096];
    for _ in 0..10_000 {
        match client.write_all(b"x: y\r\n") {
            Err(_) => return,
            Ok(()) => match client.read(&mut bytes) {
                Ok(0) => return,
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
                _ => {}
            },
        }
    }
    panic!("a head went on for ever");
}

#[test]
fn a_connection_that_is_kept_for_nothing_is_closed() {
    let place = serve_with(router(), bounds());
    let answer = place.ask("GET /who HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status(&answer), "HTTP/1.1 200 OK");
}

#[test]
fn a_reader_that_takes_nothing_loses_its_place() {
    let place = serve_with(router(), Bounds { connections: 1, reserved: 0, ..bounds() });
    let mut lazy = place.connect();
    lazy.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    until_served(&place);
}

#[test]
fn a_reader_that_may_take_its_time_keeps_its_place() {
    let place = serve_with(router(), Bounds { connections: 2, reserved: 0, ..bounds() });
    let read = |client: &mut Client, n: usize| client.read_exact(&mut vec![0; n]).unwrap();
    let mut pager = place.connect();
    pager.write_all(b"GET /unhurried HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    read(&mut pager, 1000);
    // One that may not comes later, and goes.
    let mut lazy = place.connect();
    lazy.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    read(&mut lazy, 1000);
    until_served(&place);
    // More than any buffer between here and there holds.
    read(&mut pager, 16 << 20);
}

#[test]
fn who_goes_away_while_he_waits_gives_his_place_back() {
    let place = serve_with(router(), Bounds { connections: 1, reserved: 0, ..bounds() });
    let mut client = place.connect();
    client.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(status(&place.ask(WHO)), "HTTP/1.1 503 Service Unavailable");
    drop(client);
    until_served(&place);
}

#[test]
fn of_two_hundred_who_hang_up_while_they_wait_every_place_comes_free() {
    let bounds = Bounds { connections: 200, reserved: 0, head_patience: PATIENCE, ..bounds() };
    let place = serve_with(router(), bounds);
    // What is behind the first request is not read before that is answered: so the end is not read either.
    let asks = "GET /never HTTP/1.1\r\nhost: x\r\n\r\n".to_owned() + WHO;
    let waiting: Vec<Client> = (0..200)
        .map(|n| {
            let mut client = place.connect();
            client.write_all(asks.as_bytes()).unwrap();
            if n % 2 == 0 {
                client.shutdown(Shutdown::Write).unwrap();
            }
            client
        })
        .collect();
    assert_eq!(status(&place.ask(WHO)), "HTTP/1.1 503 Service Unavailable", "every place is taken");
    drop(waiting);
    // All of them, and not one: two hundred sit there at once again.
    let mut sitting: Vec<Client> = Vec::new();
    for _ in 0..100_000 {
        let mut client = place.connect();
        client.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut head = [0; 12];
        if client.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 200" {
            sitting.push(client);
        }
        if sitting.len() == 200 {
            return;
        }
    }
    panic!("{} places came free", sitting.len());
}

#[test]
fn who_has_said_all_he_had_to_say_is_answered() {
    let (open, opened) = tokio::sync::watch::channel(false);
    let late = async move || {
        let mut opened = opened.clone();
        drop(opened.wait_for(|open| *open).await);
        "here it is"
    };
    let place = serve_with(router().route("/late", get(late)), Bounds { head_patience: PATIENCE, ..bounds() });
    let mut client = place.connect();
    client.write_all(b"GET /late HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    // Whatever the server makes of that end, it has made by now.
    for _ in 0..10 {
        assert_eq!(status(&place.ask(WHO)), "HTTP/1.1 200 OK");
    }
    open.send_replace(true);
    let answer = rest(&mut client);
    assert_eq!(status(&answer), "HTTP/1.1 200 OK");
    assert!(answer.ends_with("here it is"), "{answer}");
}

#[test]
fn what_was_asked_is_done_though_who_asked_is_gone_at_once() {
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = {
        let heard = Arc::clone(&heard);
        async move |body: Bytes| {
            heard.fetch_add(body.len(), Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    };
    let place = serve_with(router().route("/hear", post(hears)), bounds());
    // Rather more than is read in one turn.
    let body = "x".repeat(150_000);
    for n in 1..=50 {
        let mut client = place.connect();
        write!(client, "POST /hear HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        drop(client);
        // Served in the order of their coming, but by turns.
        for _ in 0..10_000 {
            if heard.load(Ordering::Relaxed) == n * body.len() {
                break;
            }
            place.ask(WHO);
        }
        assert_eq!(heard.load(Ordering::Relaxed), n * body.len());
    }
}

/// Asks until there is a place.
fn until_served(place: &Place) {
    let began = clock::monotonic();
    while clock::monotonic().since(began) < PATIENCE {
        let answer = place.ask(WHO);
        if status(&answer) == "HTTP/1.1 200 OK" {
            return;
        }
        assert!(answer.is_empty() || answer.contains("too_many_connections"), "{answer}");
    }
    panic!("no place came free");
}

#[test]
fn who_finds_no_place_is_told_so() {
    let place = serve_with(router(), Bounds { connections: 1, reserved: 0, ..bounds() });
    let mut sitting = place.connect();
    sitting.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = place.ask("GET /who HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status(&answer), "HTTP/1.1 503 Service Unavailable");
    assert!(answer.contains(r#""code":"too_many_connections""#), "{answer}");
}

#[tokio::test]
async fn at_the_end_nobody_is_accepted_and_who_waits_is_cut_off() {
    let place = serve_with(router(), bounds());
    let mut waiting = place.connect();
    waiting.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let Place { path, _dir, _server: server } = place;
    server.stop().await;
    assert_eq!(rest(&mut waiting), "");
    assert_eq!(Client::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
