//! `GET /metrics`: what a monitoring system reads, in the format that it asks for.
//!
//! A scrape is gathered in pieces and told family by family, so that ten thousand workers neither hold up who else asks nor are
//! in memory as text. Whoever asks while one is being gathered is told the same: many cost what one does.

use std::{
    collections::BTreeMap,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
    stream,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

use super::list::PIECE;
use super::routes::Api;
use super::usage::Meter;
use super::wire::{Code, Problem};
use crate::history::{SinkHealth, SinkState};
use crate::manager::handle::Member;
use crate::metrics::{Breaker, Exposition, Gauges, Limited, Own, Row, Scrape, families};
use crate::model::{Detail, Measured, RunId, State as WorkerState, StoppedDetail};

/// How many are told at once: two servers, and people who look.
const SEATS: usize = 8;

/// How long the kernel's files are waited for. Prometheus gives up after ten seconds unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(7);

/// A scrape on its way, for all who wait for it.
type Gathering = BoxFuture<'static, Arc<Scrape>>;

/// What all scrapes share.
#[derive(Debug)]
pub(super) struct Scraping {
    seats: Arc<Semaphore>,
    /// The last one that was begun, as long as somebody waits for it.
    gathering: Mutex<Option<WeakShared<Gathering>>>,
    /// Of the one reading that may be under way: where the kernel hangs, no second thread is given to it.
    reading: Arc<Semaphore>,
}

impl Scraping {
    pub(super) fn new() -> Self {
        Self {
            seats: Arc::new(Semaphore::new(SEATS)),
            gathering: Mutex::new(None),
            reading: Arc::new(Semaphore::new(1)),
        }
    }
}

pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    let full = |_| {
        let detail = format!("{SEATS} are reading the metrics already, which are all that are served at once");
        Problem::new(Code::TooManyConnections, detail)
    };
    let seat = Arc::clone(&api.scraping().seats).try_acquire_owned().map_err(full)?;
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Exposition::wanted(&accept.join(","));
    let scrape = api.scrape().await;
    let told = tell(scrape, format, seat);
    let head = [(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, "no-store"), (VARY, "accept")];
    Ok((head, Body::from_stream(told)).into_response())
}

/// The text, one family after the other, each written on a thread when the one before has been taken.
fn tell(
    scrape: Arc<Scrape>,
    format: Exposition,
    seat: OwnedSemaphorePermit,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let mut left = families();
    left.reverse();
    stream::unfold(Some((left, seat)), move |left| {
        let scrape = Arc::clone(&scrape);
        async move {
            let (mut left, seat) = left?;
            let Some(family) = left.pop() else {
                // A String takes everything.
                return Some((format.end().map(Bytes::from).map_err(io::Error::other), None));
            };
            let written = tokio::task::spawn_blocking(move || format.family(family, &scrape)).await;
            let text = written.map_err(io::Error::other).and_then(|text| text.map_err(io::Error::other));
            // What broke off must not look whole.
            let next = text.is_ok().then_some((left, seat));
            Some((text.map(Bytes::from), next))
        }
    })
}

impl Api {
    /// What is to be told now: what is being gathered for somebody else, where that is not over before it is asked for.
    fn scrape(&self) -> Shared<Gathering> {
        let mut last = self.scraping().gathering.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = last.as_ref().and_then(WeakShared::upgrade).filter(|gathering| gathering.peek().is_none());
        under_way.unwrap_or_else(|| {
            let api = self.clone();
            let gathering = async move { Arc::new(api.gather().await) }.boxed().shared();
            *last = gathering.downgrade();
            gathering
        })
    }

    async fn gather(&self) -> Scrape {
        let members = self.manager().all();
        let patience = pin!(tokio::time::sleep(PATIENCE));
        let mut reading = Reading::begin(self, patience);
        let process = reading.read(Meter::own).await.flatten();
        let mut workers = Vec::with_capacity(members.len());
        let mut unread = 0;
        for piece in members.chunks(PIECE) {
            tokio::task::yield_now().await;
            unread += self.gather_piece(piece, &mut reading, &mut workers).await;
        }
        if self.tally().len() > members.len() {
            self.tally().forget(|worker| self.manager().find(worker.as_str()).is_some());
        }
        Scrape { workers, own: Own { process, unread, ..self.own() } }
    }

    /// Adds the rows of `piece`; of how many living runs nothing could be read.
    async fn gather_piece(&self, piece: &[Arc<Member>], reading: &mut Reading<'_>, rows: &mut Vec<Row>) -> u64 {
        let moment = self.moment();
        let seen: Vec<_> = piece.iter().map(|member| (member, member.worker.status())).collect();
        let is_alive = |state| matches!(state, WorkerState::Running | WorkerState::Stopping);
        let living = seen.iter().filter(|(_, status)| is_alive(status.state));
        let runs: Vec<RunId> = living.map(|(_, status)| RunId::new(status.id.clone(), status.run)).collect();
        let asked = runs.len();
        let read = reading.read(move |meter| runs.iter().map(|run| meter.measure(run)).collect::<Vec<_>>()).await;
        let unread = if read.is_none() { asked as u64 } else { 0 };
        let mut read = read.unwrap_or_default().into_iter();
        let measured: Vec<Option<Measured>> =
            seen.iter().map(|(_, status)| is_alive(status.state).then(|| read.next()).flatten()).collect();
        let used = seen
            .iter()
            .zip(&measured)
            .map(|((_, status), measured)| (&status.id, measured.map(|measured| (status.run, measured.used))));
        let counts = self.tally().read(used);
        for (((member, status), measured), counts) in seen.into_iter().zip(measured).zip(counts) {
            let breaker = status.breaker.iter();
            rows.push(Row {
                declared_as: member.declared_as.clone(),
                slice: member.spec.slice.clone(),
                state: status.state,
                // Who has done what it was for is not missed.
                desired_up: status.desired_up && status.detail != Detail::Stopped(StoppedDetail::Done),
                started_seconds: status.started.map(|at| moment.seconds(at)),
                restarts: status.restarts_by,
                breaker: breaker.map(|b| Breaker { class: b.class, state: b.state, attempts: b.attempts }).collect(),
                violated: status.violations,
                limited: Limited::from(&member.spec.limits),
                now: measured.map(Gauges::from).unwrap_or_default(),
                counts,
                worker: status.id,
            });
        }
        unread
    }

    /// All of it that is known without reading anything.
    fn own(&self) -> Own {
        let upgrades = self.upgrades();
        Own {
            version: env!("CARGO_PKG_VERSION"),
            going_down: self.manager().is_closed(),
            reexecs: upgrades.map_or(0, |upgrades| upgrades.reexecs),
            replaced: upgrades.is_some_and(|upgrades| upgrades.previous.is_some()),
            overall: self.tally().overall(),
            missed_events: self.ring().missed(),
            decisions: self.tally().latency().read(),
            sinks: by_name(self.sinks()),
            store: (&self.store()).into(),
            ..Own::default()
        }
    }
}

/// Sinks of one name as one: no series may be told twice.
fn by_name(sinks: Vec<SinkHealth>) -> Vec<SinkHealth> {
    let mut named: BTreeMap<String, SinkHealth> = BTreeMap::new();
    for sink in sinks {
        match named.get_mut(&sink.name) {
            None => drop(named.insert(sink.name.clone(), sink)),
            Some(one) => {
                one.state = if one.state == sink.state { one.state } else { SinkState::Failing };
                one.queued += sink.queued;
                one.delivered += sink.delivered;
                one.dropped.full += sink.dropped.full;
                one.dropped.rejected += sink.dropped.rejected;
                one.dropped.closing += sink.dropped.closing;
            }
        }
    }
    named.into_values().collect()
}

/// The reading of the kernel's files for one scrape: on a thread, in pieces, for so long and no longer.
struct Reading<'p> {
    meter: Arc<dyn Meter>,
    turn: Arc<Semaphore>,
    patience: Pin<&'p mut Sleep>,
    over: bool,
}

impl<'p> Reading<'p> {
    fn begin(api: &Api, patience: Pin<&'p mut Sleep>) -> Self {
        let turn = Arc::clone(&api.scraping().reading);
        Self { meter: Arc::clone(api.meter()), turn, patience, over: false }
    }

    /// What `look` sees; `None` where patience has run out, now or before.
    async fn read<T: Send + 'static>(&mut self, look: impl FnOnce(&dyn Meter) -> T + Send + 'static) -> Option<T> {
        if self.over {
            return None;
        }
        let (meter, turn) = (Arc::clone(&self.meter), Arc::clone(&self.turn));
        let seen = async move {
            let turn = turn.acquire_owned().await.ok()?;
            let looked = tokio::task::spawn_blocking(move || {
                let seen = look(&*meter);
                drop(turn);
                seen
            });
            looked.await.ok()
        };
        tokio::select! {
            biased;
            seen = seen => seen,
            () = self.patience.as_mut() => {
                self.over = true;
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
