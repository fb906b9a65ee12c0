//! The loop that accepts, on a thread and a runtime of its own: whoever asks much keeps others who ask waiting, and no
//! worker.
//!
//! Everything is bounded: connections in all and of one user, the head of a request in size and time, its body (in
//! [`extract`](super::extract)), and how long a reader may leave an answer lying.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    os::unix::net::UnixListener as StdListener,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tower_service::Service;

use super::patience::{Patient, Unhurried};
use super::peer::{Peer, Role};
use super::wire::{Code, Problem};

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections in all.
    pub connections: usize,
    /// Of them, what is left to admins.
    pub reserved: usize,
    /// Connections of one user who is no admin.
    pub of_one_user: usize,
    /// The largest head of a request, in bytes.
    pub head: usize,
    /// How long a head may take to come. Also how long a connection may idle.
    pub head_patience: Duration,
    /// How long an answer may wait for its reader to take a part of it.
    pub write_patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 256,
            reserved: 64,
            of_one_user: 64,
            head: 64 << 10,
            head_patience: Duration::from_secs(10),
            write_patience: Duration::from_secs(30),
        }
    }
}

/// Lines of a head.
const MAX_HEADERS: usize = 100;

/// Who comes when every place is taken is told so, as long as there are not more of them than this.
const STANDING: usize = 32;

/// How long answers under way at the end have to reach their readers.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where accepting fails for want of descriptors or memory, the next try is after this time.
const RESPITE: Duration = Duration::from_millis(100);

/// The thread that serves.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Serves `router` to whoever connects to `listener`, which must not block.
    ///
    /// # Errors
    /// Where a thread or a runtime cannot be had.
    pub fn start(listener: StdListener, router: Router, bounds: Bounds) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // What reads the kernel's files, and writes metrics.
            .max_blocking_threads(4)
            .thread_name("api-read")
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(serve(&listener, router, bounds, stopped));
            drop(listener);
            runtime.shutdown_background();
            // Whoever waited for it has stopped waiting.
            end.send(()).unwrap_or_default();
        })?;
        Ok(Self { stop, ended })
    }

    /// Accepts nobody any more, and waits a moment for answers that are under way.
    pub async fn stop(self) {
        // Either end is gone where it has ended already.
        self.stop.send(()).unwrap_or_default();
        drop(self.ended.await);
    }
}

/// Accepts until it is told to stop.
async fn serve(listener: &UnixListener, router: Router, bounds: Bounds, mut stopped: oneshot::Receiver<()>) {
    let own = rustix::process::geteuid().as_raw();
    let seats = Seats::new(bounds);
    let graceful = GracefulShutdown::new();
    let mut refused = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            // Cancel-safe: a connection is accepted or stays in the backlog.
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                refused = false;
                stream
            }
            Err(error) => {
                // Once for all that follow.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "no connection to the API can be accepted; whoever comes waits");
                }
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        let peer = match stream.peer_cred() {
            Ok(credentials) => Peer::new(&credentials, own),
            Err(error) => {
                tracing::warn!(%error, "it is not known who has connected to the API");
                continue;
            }
        };
        if let Some(seat) = seats.take(peer) {
            attend(stream, peer, seat, router.clone(), bounds, &graceful);
        } else {
            tracing::debug!(%peer, "too many connections to the API: one is dropped");
        }
    }
    if tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections to the API are cut off");
    }
}

fn attend(stream: UnixStream, peer: Peer, seat: Seat, router: Router, bounds: Bounds, graceful: &GracefulShutdown) {
    let unhurried = Unhurried::default();
    let stream = Patient::new(stream, bounds.write_patience, unhurried.clone());
    let standing = seat.standing;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(unhurried.clone());
        let mut router = router.clone();
        async move {
            if standing {
                let full = "more connections are open than are served at once; try again in a moment";
                let mut response = Problem::new(Code::TooManyConnections, full).into_response();
                let close = axum::http::HeaderValue::from_static("close");
                response.headers_mut().insert(axum::http::header::CONNECTION, close);
                return Ok::<Response, Infallible>(response);
            }
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_patience)
        .max_header_size(bounds.head)
        .max_headers(MAX_HEADERS)
        // Must hold a head; what it holds beyond is an answer's part.
        .max_buf_size(2 * bounds.head)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%peer, %error, "a connection to the API broke off");
        }
        drop(seat);
    });
}

/// Who is connected.
#[derive(Debug, Clone)]
struct Seats {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    standing: usize,
    /// Of those who are no admins.
    others: usize,
    of_user: HashMap<u32, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    peer: Peer,
    /// Only to be told that there is none.
    standing: bool,
}

impl Seats {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, peer: Peer) -> Option<Seat> {
        let mut taken = self.taken();
        let of_user = taken.of_user.get(&peer.uid).copied().unwrap_or(0);
        let free = taken.all < self.bounds.connections;
        let served = match peer.role {
            Role::Admin => free,
            Role::Operator => {
                let theirs = self.bounds.connections.saturating_sub(self.bounds.reserved);
                free && taken.others < theirs && of_user < self.bounds.of_one_user
            }
        };
        if !served {
            let stands = taken.standing < STANDING;
            taken.standing += usize::from(stands);
            return stands.then(|| Seat { seats: self.clone(), peer, standing: true });
        }
        taken.all += 1;
        if peer.role == Role::Operator {
            taken.others += 1;
            *taken.of_user.entry(peer.uid).or_default() += 1;
        }
        Some(Seat { seats: self.clone(), peer, standing: false })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if self.standing {
            taken.standing -= 1;
            return;
        }
        taken.all -= 1;
        if self.peer.role == Role::Operator {
            taken.others -= 1;
            let left = taken.of_user.get_mut(&self.peer.uid).map(|n| {
                *n -= 1;
                *n
            });
            if left == Some(0) {
                taken.of_user.remove(&self.peer.uid);
            }
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
