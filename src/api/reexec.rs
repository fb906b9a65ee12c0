//! `POST /v1/reexec`: a wish for another binary. It is answered when that binary was verified or refused, before it takes over.

use axum::{Json, extract::State};
use tokio::sync::{mpsc, oneshot};

use super::extract::Body;
use super::guard::Asker;
use super::routes::Api;
use super::wire::{Ask, Code, Problem, Reexec};

/// A wish.
#[derive(Debug)]
pub struct Wish {
    /// Who has it.
    pub who: String,
    /// What comes of it, or why nothing does.
    pub answer: oneshot::Sender<Result<Reexec, String>>,
}

/// Where wishes go, and what is known of those before.
#[derive(Debug, Clone)]
pub struct Upgrades {
    /// To whoever fulfils them.
    pub wishes: mpsc::Sender<Wish>,
    /// How often the keeper has executed another binary.
    pub reexecs: u32,
    /// Why the supervisor before this one has ended, if there was one.
    pub previous: Option<String>,
}

/// For admins alone ([`super::table`]): what runs afterwards is whatever is in the place of the binary.
pub(super) async fn reexec(
    State(api): State<Api>,
    asker: Asker,
    Body(ask): Body<Ask>,
) -> Result<Json<Reexec>, Problem> {
    if ask != Ask::default() {
        return Err(Problem::new(Code::BadRequest, "nothing can be said about a reexec: send no body"));
    }
    let going_down = || Problem::new(Code::GoingDown, "the supervisor is ending; the binary is not replaced");
    let wishes = api.upgrades().map(|upgrades| upgrades.wishes.clone()).ok_or_else(going_down)?;
    let (answer, answered) = oneshot::channel();
    wishes.send(Wish { who: asker.to_string(), answer }).await.map_err(|_| going_down())?;
    match answered.await {
        Ok(Ok(accepted)) => Ok(Json(accepted)),
        Ok(Err(why)) => Err(Problem::new(Code::NotNow, why)),
        Err(_) => Err(going_down()),
    }
}
