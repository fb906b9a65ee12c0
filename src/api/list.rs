//! Workers as they are now: all of them, some, or one.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, future::ready, stream};
use schemars::JsonSchema;
use serde::Deserialize;

use super::audience::Seat;
use super::extract::{Name, Params, WAIT};
use super::peer::Peer;
use super::routes::{Api, tell};
use super::usage::{self, Look};
use super::wait::Wait;
use super::wire::{Code, Problem, Worker};
use crate::manager::handle::Member;
use crate::model::{RunId, State as WorkerState};

/// How many workers are told in one piece of a list: what a list costs at once, in time and memory, however long it is.
pub(super) const PIECE: usize = 64;

/// How many of them are made at once.
const AT_ONCE: usize = 2;

/// Of `GET /v1/workers`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct List {
    /// Names, or parts of them with `*` and `?`, several with commas; without one all.
    pattern: String,
    /// Whether what they use is told, too: `true` as it was at most half a second ago, `full` as it is.
    usage: Look,
    /// Wait until the list's `generation` is greater than this.
    wait_generation: Option<u64>,
    /// How long that may take (`30s`, which it is without it; at most `10m`); then they are told as they are.
    #[schemars(regex(pattern = WAIT))]
    timeout: Option<String>,
}

/// Of `GET /v1/workers/{id}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct One {
    /// Whether what it uses is read, too.
    usage: Look,
    /// Wait until its `generation` is greater than this.
    wait_generation: Option<u64>,
    /// How long that may take (`30s`, which it is without it; at most `10m`); then it is told as it is.
    #[schemars(regex(pattern = WAIT))]
    timeout: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    Params(list): Params<List>,
) -> Result<Response, Problem> {
    let manager = api.manager();
    let mut chosen = manager.choose(&list.pattern)?;
    if let Some(wait) = Wait::of(list.wait_generation, list.timeout.as_deref())? {
        let _seat = api.seat_to_wait(peer)?;
        wait.for_all(manager, &list.pattern).await;
        chosen = manager.choose(&list.pattern)?;
    }
    // Before the workers are told: what changes meanwhile is news to whoever waits for it next.
    let generation = manager.generation(&chosen);
    // `{"generation":…,"workers":[…]}` in pieces: ten thousand workers are told without holding them all, and without keeping
    // others waiting meanwhile.
    let pieces: Vec<Vec<Arc<Member>>> = chosen.chunks(PIECE).map(<[_]>::to_vec).collect();
    let pieces =
        stream::iter(pieces.into_iter().enumerate()).map(move |(n, piece)| piece_of(api.clone(), n, piece, list.usage));
    let begin = stream::once(ready(format!("{{\"generation\":{generation},\"workers\":[").into_bytes()));
    let end = stream::once(ready(b"]}".to_vec()));
    // While one is read of the kernel, another is written.
    let all = begin.chain(pieces.buffered(AT_ONCE)).chain(end).map(Ok::<_, Infallible>);
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, axum::body::Body::from_stream(all)).into_response())
}

/// The `n`th piece of a list.
async fn piece_of(api: Api, n: usize, piece: Vec<Arc<Member>>, look: Look) -> Vec<u8> {
    tokio::task::yield_now().await;
    let workers = api.tell_listed(&piece, look).await;
    let mut text = Vec::with_capacity(workers.len() * 512);
    for (i, worker) in workers.iter().enumerate() {
        text.extend_from_slice(if n + i == 0 { b"" } else { b"," });
        // Nothing in a worker's shape can fail to be written.
        serde_json::to_writer(&mut text, worker).unwrap_or_default();
    }
    text
}

pub(super) async fn one(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    Name(name): Name,
    Params(one): Params<One>,
) -> Result<Json<Worker>, Problem> {
    let mut member = api.find(&name)?;
    if let Some(wait) = Wait::of(one.wait_generation, one.timeout.as_deref())? {
        let _seat = api.seat_to_wait(peer)?;
        wait.for_one(&member).await;
        // Another may bear its name by now, or nobody.
        member = api.find(&name)?;
    }
    Ok(Json(api.tell_one(&member, one.usage).await))
}

impl Api {
    /// A place to wait for something new.
    fn seat_to_wait(&self, peer: Option<Extension<Peer>>) -> Result<Seat, Problem> {
        let Some(Extension(peer)) = peer else {
            return Err(Problem::new(Code::NotPermitted, "it is not known who asks"));
        };
        self.waiting().seat(peer)
    }

    /// A member as it is now.
    async fn tell_one(&self, member: &Member, look: Look) -> Worker {
        let mut told = tell(member, &self.moment());
        if look != Look::False && told.state == WorkerState::Running {
            let run = RunId::new(told.id.clone(), told.run);
            told.usage = usage::read(self.meter(), vec![run], look).await.into_iter().next();
        }
        told
    }

    /// Members as they are now; what they use may have been read for another list just before.
    pub(super) async fn tell_listed(&self, members: &[Arc<Member>], look: Look) -> Vec<Worker> {
        let now = self.moment();
        let mut told: Vec<Worker> = members.iter().map(|member| tell(member, &now)).collect();
        if look != Look::False {
            let running: Vec<usize> = (0..told.len()).filter(|i| told[*i].state == WorkerState::Running).collect();
            let runs = running.iter().map(|i| RunId::new(told[*i].id.clone(), told[*i].run)).collect();
            let used = match look {
                Look::True => self.glances().read(self.meter(), runs, now.now).await,
                Look::False | Look::Full => usage::read(self.meter(), runs, look).await,
            };
            for (i, used) in running.into_iter().zip(used) {
                told[i].usage = Some(used);
            }
        }
        told
    }
}
