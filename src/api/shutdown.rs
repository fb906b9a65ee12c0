//! `POST /v1/shutdown`: the end of everything. It is answered when every worker is stopped, before the supervisor itself ends.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use tokio::sync::{mpsc, watch};

use super::extract::Body;
use super::govern::Outcomes;
use super::guard::Asker;
use super::routes::{Answered, Api, settled};
use super::wire::{Code, Problem, Shutdown};
use crate::manager::handle::{Member, Outcome};
use crate::model::State as WorkerState;

/// Where wishes for the end go, and what has come of it.
#[derive(Debug, Clone)]
pub struct Shutdowns {
    /// To whoever fulfils them: who has one. Closed as soon as an end has begun.
    pub wishes: mpsc::UnboundedSender<String>,
    /// What came of it for each worker, once it is over for all of them. Closed without where they are left running.
    pub ended: watch::Receiver<Option<Arc<Outcomes>>>,
}

/// For admins alone ([`super::table`]): whoever may only start and stop workers cannot start a supervisor again.
pub(super) async fn shutdown(State(api): State<Api>, asker: Asker, Body(ask): Body<Shutdown>) -> Answered {
    let within = ask.timeout.as_deref().map(crate::spec::time).transpose();
    let within = within.map_err(|e| Problem::new(Code::BadRequest, format!("timeout: {e}")))?;
    let none = || Problem::new(Code::Failed, "what is supervised here cannot be ended over its socket");
    let Shutdowns { wishes, mut ended } = api.shutdowns().cloned().ok_or_else(none)?;
    // Closed: an end has begun, and this joins it.
    drop(wishes.send(asker.to_string()));
    let now = |otherwise: &Outcome| {
        let at_rest = |member: &Member| member.worker.status().state == WorkerState::Stopped;
        let members = api.manager().all().into_iter();
        let outcome = |member: Arc<Member>| {
            let outcome = if at_rest(&member) { Outcome::Done } else { otherwise.clone() };
            (member, outcome)
        };
        members.map(outcome).collect::<Outcomes>()
    };
    if !ask.wait {
        return settled(&now(&Outcome::Accepted));
    }
    let over = async { ended.wait_for(Option::is_some).await.ok().and_then(|outcomes| (*outcomes).clone()) };
    match tokio::time::timeout(within.unwrap_or(Duration::MAX), over).await {
        Ok(Some(outcomes)) => settled(&outcomes),
        Ok(None) => {
            let why = "the supervisor ends in another way, or makes way for another, and its workers go on";
            Err(Problem::new(Code::GoingDown, why))
        }
        Err(_) => settled(&now(&Outcome::TimedOut)),
    }
}

#[cfg(test)]
#[path = "shutdown_tests.rs"]
mod tests;
