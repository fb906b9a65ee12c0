//! Workers that are made over the socket, and taken away again. An admin's affair: a worker runs as whatever user it says.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{Body, DURATION, Name, Params};
use super::guard::Asker;
use super::routes::{Answered, Api, settled};
use super::usage::Look;
use super::wire::{Code, Declaration, Problem, Workers};
use crate::manager::handle::{Asked, Outcome};
use crate::model::{Detail, State as WorkerState, StoppingDetail, WorkerStatus};

/// The query of both routes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settling {
    /// Whether the answer comes when it is done, or as soon as it is kept and under way.
    wait: bool,
    /// How long the answer may take: `500ms`, `30s`, `1m30s`. What is asked goes on afterwards.
    #[schemars(regex(pattern = DURATION))]
    timeout: Option<String>,
}

impl Default for Settling {
    fn default() -> Self {
        Self { wait: true, timeout: None }
    }
}

impl Settling {
    fn patience(&self) -> Result<Patience, Problem> {
        let within = self.timeout.as_deref().map(crate::spec::time).transpose();
        let within = within.map_err(|e| Problem::new(Code::BadRequest, format!("timeout: {e}")))?;
        Ok(if self.wait { Patience::Done { within } } else { Patience::Accepted })
    }
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// That it is under way.
    Accepted,
    /// That it is done.
    Done {
        /// For so long at most.
        within: Option<std::time::Duration>,
    },
}

/// `POST /v1/workers`.
pub(super) async fn register(
    State(api): State<Api>,
    asker: Asker,
    Params(settling): Params<Settling>,
    Body(declaration): Body<Declaration>,
) -> Result<Response, Problem> {
    let patience = settling.patience()?;
    let made = api.governor()?.register(declaration, asker.to_string()).await?;
    // It is there, whatever comes of its start: that is told by its state.
    match (made.start, patience) {
        (Some(start), Patience::Done { within: None }) => over(start).await,
        (Some(start), Patience::Done { within: Some(within) }) => drop(tokio::time::timeout(within, over(start)).await),
        (Some(start), Patience::Accepted) => drop(start.taken().await),
        (None, _) => {}
    }
    let generation = api.manager().generation(&made.members);
    let workers = api.tell_listed(&made.members, Look::False).await;
    let place = match made.members.as_slice() {
        [one] if *one.id() == made.id => format!("/v1/workers/{}", made.id),
        // Of several there is no single one.
        _ => format!("/v1/workers?pattern={}", made.id),
    };
    let location: [(HeaderName, String); 1] = [(LOCATION, place)];
    Ok((StatusCode::CREATED, location, Json(Workers { generation, workers })).into_response())
}

/// Until a start is over, and what is left of one that failed is cleared away: why it failed is told from then on.
async fn over(start: Asked) {
    for (member, outcome) in start.done(None).await {
        let settled = |status: &WorkerStatus| {
            matches!(status.state, WorkerState::Running | WorkerState::Stopped)
                || status.detail == Detail::Stopping(StoppingDetail::Unkillable)
        };
        if outcome != Outcome::Done {
            // One that is not supervised any more has nothing to be waited for.
            drop(member.worker.wait_for(settled).await);
        }
    }
}

/// `DELETE /v1/workers/{name}`.
pub(super) async fn deregister(
    State(api): State<Api>,
    asker: Asker,
    Name(name): Name,
    Params(settling): Params<Settling>,
) -> Answered {
    let patience = settling.patience()?;
    settled(&api.governor()?.deregister(name, patience, asker.to_string()).await?)
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
