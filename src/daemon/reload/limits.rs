//! The limits of one worker, changed by whoever asks for it: for a run, for a time, or to last.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use crate::api::Outcomes;
use crate::api::wire::{Code, Problem, SetLimits};
use crate::manager::crew::ManagerError;
use crate::manager::handle::{Member, Outcome, Reach, Refusal, Renew};
use crate::model::{WorkerId, chain};
use crate::spec::types::Spec;
use crate::spec::{self, overlay};
use crate::worker::handle::AskError;

use super::reading::wrong;
use super::{Inner, Passing, applied};

/// When a limit that could not be put back is tried again.
const AGAIN: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) async fn set(self: Arc<Self>, name: &str, ask: SetLimits, who: &str) -> Result<Outcomes, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        let member = self.manager.find(name);
        let member = member.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no worker {name:?}")))?;
        let within = ask.for_.as_deref().map(spec::time).transpose().map_err(|error| bad(format!("for: {error}")))?;
        if ask.limits.is_empty() {
            return Err(bad(format!("limits: which ones is to be said: {}", overlay::KEYS.join(", "))));
        }
        if ask.persist && within.is_some() {
            return Err(bad("persist and for contradict each other; choose one".to_owned()));
        }
        if ask.persist {
            return self.set_to_last(&member, ask.limits, who).await;
        }
        let run = member.worker.status().run;
        let before = self.known().passing.get(member.id()).filter(|passing| passing.run == run).map(|p| p.set.clone());
        let mut set = before.unwrap_or_default();
        set.extend(ask.limits);
        let spec = laid_over(&member.spec, &set)?;
        let asked = member.worker.on_behalf_of(who).update(Arc::new(spec), Reach::Run).await;
        if asked.is_ok() {
            let serial = {
                let mut known = self.known();
                known.serial += 1;
                let serial = known.serial;
                known.passing.insert(member.id().clone(), Passing { run, set, serial, within });
                serial
            };
            if let Some(within) = within {
                tokio::spawn(Arc::clone(&self).put_back(member.id().clone(), serial, within));
            }
        }
        Ok(vec![(member, told(asked))])
    }

    async fn set_to_last(
        &self,
        member: &Arc<Member>,
        limits: BTreeMap<String, String>,
        who: &str,
    ) -> Result<Outcomes, Problem> {
        let mut overrides = self.known().overrides.clone();
        let set = overrides.entry(member.id().clone()).or_default();
        let spec = laid_over(&member.spec, &limits)?;
        set.extend(limits);
        let done = self.manager.renew(member, &Arc::new(spec), member.enabled, Renew::No, who).await;
        if done.is_ok() {
            let state = self.state.clone();
            let kept = overrides.clone();
            let stored = tokio::task::spawn_blocking(move || applied::store_overrides(&state, &kept)).await;
            stored.map_err(io::Error::other).flatten().map_err(|error| {
                let why = chain(&error);
                Problem::new(Code::Failed, format!("the limits are in force, and cannot be kept for later: {why}"))
            })?;
            let mut known = self.known();
            known.overrides = overrides;
            known.passing.remove(member.id());
        }
        let outcome = match done {
            Ok(()) => Outcome::Done,
            Err(ManagerError::Refused { why, .. }) => Outcome::Refused(why),
            Err(ManagerError::Gone { .. }) => Outcome::Gone,
            Err(other) => return Err(other.into()),
        };
        Ok(vec![(Arc::clone(member), outcome)])
    }

    /// After `within`, what is configured is in force again, unless something else was asked for meanwhile.
    async fn put_back(self: Arc<Self>, worker: WorkerId, serial: u64, within: Duration) {
        let mut wait = within;
        loop {
            tokio::time::sleep(wait).await;
            wait = AGAIN;
            let _one = self.one.lock().await;
            let run = self.known().passing.get(&worker).filter(|passing| passing.serial == serial).map(|p| p.run);
            let (Some(run), Some(member)) = (run, self.manager.find(worker.as_str())) else { return };
            let status = member.worker.status();
            let done = if status.run == run {
                let reach = Reach::Config { generation: status.desired_generation, renew: Renew::No };
                member.worker.on_behalf_of("timer").update(Arc::clone(&member.spec), reach).await
            } else {
                Ok(())
            };
            if let Err(AskError::Refused { why: why @ (Refusal::Limits(_) | Refusal::NotNow(_)), .. }) = done {
                tracing::warn!(%worker, %why, "the limits of before cannot be put back yet");
            } else {
                self.known().passing.remove(&worker);
                return;
            }
        }
    }
}

fn told(asked: Result<(), AskError>) -> Outcome {
    match asked {
        Ok(()) => Outcome::Done,
        Err(AskError::Refused { why, .. }) => Outcome::Refused(why),
        Err(AskError::Gone { .. }) => Outcome::Gone,
    }
}

fn laid_over(spec: &Spec, set: &BTreeMap<String, String>) -> Result<Spec, Problem> {
    let limits = overlay::overlay(&spec.limits, set).map_err(|problems| {
        let said = problems.0.iter().map(|problem| format!("{}: {}; {}", problem.path, problem.message, problem.fix));
        let detail = said.collect::<Vec<_>>().join("; ");
        Problem { problems: problems.0.iter().map(wrong).collect(), ..Problem::new(Code::BadRequest, detail) }
    })?;
    Ok(Spec { limits, ..spec.clone() })
}
