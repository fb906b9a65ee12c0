//! Two threads that serve, each with a runtime of its own: whoever asks much keeps those who ask beside him waiting, and no
//! worker. One accepts, and serves admins; it hands everybody else to the other one. So operators who flood do not keep an
//! admin waiting who comes to stop them: what they can take from him is an accept for each of their connections.
//!
//! Both run at the priority of the rest of us. A lower one for the operators' would not make it harmless: it takes the same locks
//! for a moment, and a thread that is rarely given the processor while it has one keeps workers waiting.
//!
//! Everything is bounded: connections in all and of one user (in [`connected`](super::connected), one book for both threads), the
//! head of a request in size and time, its body (in [`extract`](super::extract)), and how long a reader may leave an answer lying.

use std::{
    convert::Infallible,
    future::Future,
    io,
    os::unix::net::{UnixListener as StdListener, UnixStream as StdStream},
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
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use super::connected::{Connected, Place};
use super::crowd::Crowd;
use super::extract::Bodies;
use super::patience::{Patient, Unhurried};
use super::peer::{Peer, Role};
use super::presence::Presence;
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

/// How long answers under way at the end have to reach their readers.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where accepting fails for want of descriptors or memory, the next try is after this time.
const RESPITE: Duration = Duration::from_millis(100);

/// After so many connections of operators, as many as wait to be accepted, none is accepted for a moment: at most 25,600 a second.
/// Whoever does nothing but connect would have us do nothing but accept. More at once would be no bound, and fewer would keep
/// an admin waiting for longer who comes behind all of them.
const AT_ONCE: u32 = 128;

/// That moment.
const MOMENT: Duration = Duration::from_millis(5);

/// The threads that serve.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    ended: [oneshot::Receiver<()>; 2],
}

impl Server {
    /// Serves `router` to whoever connects to `listener`, which must not block. After a time of many connections `give_back` is
    /// called, for what memory they took.
    ///
    /// # Errors
    /// Where a thread or a runtime cannot be had.
    pub fn start(listener: StdListener, router: Router, bounds: Bounds, give_back: fn()) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        // Never longer than there are places.
        let (hand, handed) = mpsc::unbounded_channel();
        let desk = Desk { router, bounds, crowd: Crowd::new(give_back) };
        let operators = on_a_thread("api-operators", "api-op-read", {
            let desk = desk.clone();
            || Ok(serve_handed(handed, desk))
        })?;
        let admins =
            on_a_thread("api", "api-read", || Ok(accept(UnixListener::from_std(listener)?, hand, desk, stopped)))?;
        Ok(Self { stop, ended: [admins, operators] })
    }

    /// Accepts nobody any more, and waits a moment for answers that are under way.
    pub async fn stop(self) {
        // Either end is gone where it has ended already.
        self.stop.send(()).unwrap_or_default();
        for ended in self.ended {
            drop(ended.await);
        }
    }
}

/// Has a thread do what `make`, which is called here, makes for its runtime; tells when that is over. `reads` names the threads that
/// block for it.
fn on_a_thread<F>(
    name: &'static str,
    reads: &'static str,
    make: impl FnOnce() -> io::Result<F>,
) -> io::Result<oneshot::Receiver<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // What reads the kernel's files, and writes metrics.
        .max_blocking_threads(4)
        .thread_name(reads)
        .build()?;
    let work = {
        let _inside = runtime.enter();
        make()?
    };
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(work);
        runtime.shutdown_background();
        // Whoever waited for it has stopped waiting.
        end.send(()).unwrap_or_default();
    })?;
    Ok(ended)
}

/// One that has a place.
struct Newcomer<S> {
    stream: S,
    peer: Peer,
    place: Place,
}

/// Accepts until it is told to stop, serves admins and hands over everybody else.
async fn accept(
    listener: UnixListener,
    hand: mpsc::UnboundedSender<Newcomer<StdStream>>,
    desk: Desk,
    mut stopped: oneshot::Receiver<()>,
) {
    let own = rustix::process::geteuid().as_raw();
    let connected = Connected::new(desk.bounds);
    let open = Connections::default();
    let (mut refused, mut operators) = (false, 0);
    loop {
        let rest = operators == AT_ONCE;
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = tokio::time::sleep(MOMENT), if rest => {
                operators = 0;
                continue;
            }
            // Cancel-safe: a connection is accepted or stays in the backlog.
            accepted = listener.accept(), if !rest => accepted,
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
        operators += u32::from(peer.role == Role::Operator);
        let Some(place) = connected.place(peer) else {
            tracing::debug!(%peer, "too many connections to the API: one is dropped");
            continue;
        };
        match peer.role {
            Role::Admin => open.serve(Newcomer { stream, peer, place }, &desk),
            Role::Operator => match stream.into_std() {
                // Who is not taken there any more is cut off, as at the end of everything.
                Ok(stream) => drop(hand.send(Newcomer { stream, peer, place })),
                Err(error) => tracing::debug!(%peer, %error, "a connection to the API cannot be handed over"),
            },
        }
    }
    // So that the other thread ends, too, while this one waits.
    drop(hand);
    open.end().await;
}

/// Serves whom it is given, until there is nobody who could give it more.
async fn serve_handed(mut handed: mpsc::UnboundedReceiver<Newcomer<StdStream>>, desk: Desk) {
    let open = Connections::default();
    while let Some(Newcomer { stream, peer, place }) = handed.recv().await {
        match UnixStream::from_std(stream) {
            Ok(stream) => open.serve(Newcomer { stream, peer, place }, &desk),
            Err(error) => tracing::debug!(%peer, %error, "a connection to the API cannot be waited for"),
        }
    }
    open.end().await;
}

/// What is served, and how.
#[derive(Clone)]
struct Desk {
    router: Router,
    bounds: Bounds,
    /// Those of both threads.
    crowd: Crowd,
}

/// The connections of one thread.
#[derive(Default)]
struct Connections {
    graceful: GracefulShutdown,
    /// What comes over them.
    bodies: Bodies,
}

impl Connections {
    fn serve(&self, newcomer: Newcomer<UnixStream>, desk: &Desk) {
        let Newcomer { stream, peer, place } = newcomer;
        let Desk { router, bounds, crowd } = desk.clone();
        let bodies = self.bodies.clone();
        // Without a descriptor for it, it is served as well as it can be.
        let presence = Presence::of(&stream).inspect_err(|error| {
            tracing::debug!(%peer, %error, "a client that says no more is taken for one that is gone");
        });
        let presence = presence.ok();
        let unhurried = Unhurried::default();
        let stream = Patient::new(stream, bounds.write_patience, unhurried.clone());
        let standing = place.standing;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(unhurried.clone());
            request.extensions_mut().insert(bodies.clone());
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
            // Who says no more may wait for an answer.
            .half_close(presence.is_some())
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        crowd.come();
        tokio::spawn(async move {
            let lost = async {
                match &presence {
                    Some(presence) => presence.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has come is heard before its sender is taken for gone.
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection to the API broke off");
                },
                () = lost => tracing::debug!(%peer, "a client of the API has hung up before it was answered"),
            }
            // The last descriptor goes with it: whoever is still there sees the end.
            drop((presence, place));
            crowd.go().await;
        });
    }

    /// Waits a moment for answers that are under way.
    async fn end(self) {
        if tokio::time::timeout(LAST_WORDS, self.graceful.shutdown()).await.is_err() {
            tracing::debug!("connections to the API are cut off");
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
