//! Workers that no file declares: registered over the API, and deregistered.
//!
//! ```text
//! POST   ─▶ validate ─▶ registered.json ─▶ made, started
//! DELETE ─▶ registered.json: leaving ─▶ stopped, supervised no longer ─▶ registered.json: gone
//! ```
//! What is on disk is what a supervisor that follows brings about. The lock is not held while something stops.

use std::{collections::HashSet, io, sync::Arc};

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::api::wire::{Code, Declaration, Problem};
use crate::api::{Made, Outcomes, Patience};
use crate::manager::crew::{ManagerError, New};
use crate::manager::handle::{Action, Manager, Member, Origin, Outcome, Refusal};
use crate::model::{EventKind, WorkerId, chain};
use crate::spec::types::Worker;
use crate::spec::written::{self, Layer};
use crate::spec::{self, Source};

use super::reading::bad_worker;
use super::{Inner, applied, new};
use crate::daemon::registered::{self, Registration};

/// What messages call a declaration that is no registration yet.
pub(super) const REQUEST: &str = "the request";

/// What comes of a removal, once it has.
type Removal = watch::Receiver<Option<Result<Outcomes, Problem>>>;

/// A registration that is on its way out.
#[derive(Default)]
pub(super) struct Removing {
    /// All that it has brought about, what is gone already as well: on disk it is its own until it is forgotten.
    names: HashSet<WorkerId>,
    /// Where it is under way. Not, where something has stayed.
    under_way: Option<Removal>,
}

impl Inner {
    /// What was registered under this id.
    pub(super) fn registration(&self, id: &WorkerId) -> Option<Registration> {
        self.known().registered.iter().find(|known| known.id == *id).cloned()
    }

    /// Under the lock of changes.
    pub(super) async fn register(&self, declaration: Declaration, who: &str) -> Result<Made, Problem> {
        if self.manager.is_closed() {
            return Err(ManagerError::GoingDown.into());
        }
        // A name that is taken is told first, whatever else is wrong.
        if let Some(id) = declaration.id().and_then(|id| WorkerId::new(id).ok()) {
            self.check_free(&id)?;
        }
        let text = declaration.text();
        let workers = self.read(text.clone()).await?;
        let Some(first) = workers.first() else {
            return Err(Problem::new(Code::Failed, "nothing was declared"));
        };
        let id = first.declared_as.clone();
        for name in std::iter::once(&id).chain(workers.iter().map(|worker| &worker.id)) {
            self.check_free(name)?;
        }
        let before = self.known().registered.clone();
        let registration = Registration { id: id.clone(), declaration: text, scaled: None, leaving: false };
        let with = before.iter().cloned().chain([registration]).collect();
        self.keep_registered(with).await.map_err(|why| {
            Problem::new(Code::Failed, format!("the worker cannot be kept, and nothing is started: {why}"))
        })?;
        let members = match self.manager.add(workers.iter().map(new).collect::<Vec<New>>()) {
            Ok(members) => members,
            Err(refused) => {
                self.keep_registered(before).await.map_err(|why| {
                    let detail = format!("{}; what is kept of it cannot be taken back: {why}", chain(&refused));
                    Problem::new(Code::Failed, detail)
                })?;
                return Err(refused.into());
            }
        };
        self.chronicle.record(EventKind::Operator { who: who.to_owned(), what: format!("register {id}") });
        let start = first.enabled.then(|| self.manager.ask(id.as_str(), Action::Start, who).ok()).flatten();
        Ok(Made { id, members, start })
    }

    /// The workers of a declaration, by the rules of the configuration in force.
    async fn read(&self, declaration: String) -> Result<Vec<Worker>, Problem> {
        let state = self.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let sources = applied::load(&state).map_err(|error| chain(&error))?.sources;
            let declared = [Source { name: REQUEST.to_owned(), bytes: declaration.into_bytes() }];
            let read = spec::load_with(&sources, &declared, &|name| std::env::var(name).ok());
            let (_, mut workers) = read.map_err(|problems| problems.to_string())?;
            workers.pop().ok_or_else(|| "nothing was declared".to_owned())
        });
        let unread = |why: String| {
            let detail = format!("the configuration in force cannot be read, and nothing is changed: {why}");
            Problem::new(Code::Failed, detail)
        };
        let read = read.await.map_err(|gone| unread(gone.to_string()))?.map_err(unread)?;
        read.map_err(|problems| bad_worker(&problems))
    }

    /// That nobody has this name, and nobody is declared by it.
    fn check_free(&self, name: &WorkerId) -> Result<(), Problem> {
        let known = self.registration(name);
        if known.as_ref().is_some_and(|known| known.leaving) || self.names_of_leaving().contains(name) {
            return Err(leaving(name));
        }
        let instances = self.manager.instances(name.as_str());
        let there = self.manager.find(name.as_str()).or_else(|| instances.into_iter().next());
        let whose = match (there.as_deref(), known) {
            (Some(member), _) if member.origin == Origin::Registered => {
                format!("registered already; to replace it, DELETE /v1/workers/{} first", member.declared_as)
            }
            (Some(_), _) => "declared in the configuration; change it there, and reload".to_owned(),
            (None, Some(_)) => {
                format!("registered, though it does not fit the configuration; DELETE /v1/workers/{name} forgets it")
            }
            (None, None) => return Ok(()),
        };
        Err(Problem::new(Code::Taken, format!("there is a worker {name}, {whose}; nothing was made")))
    }

    /// What those have brought about that are on their way out.
    pub(super) fn names_of_leaving(&self) -> HashSet<WorkerId> {
        self.known().removing.values().flat_map(|removing| &removing.names).cloned().collect()
    }

    pub(super) async fn deregister(
        self: Arc<Self>,
        name: String,
        patience: Patience,
        who: String,
    ) -> Result<Outcomes, Problem> {
        let (members, mut removal) = {
            let _one = self.one.lock().await;
            Arc::clone(&self).begin_removal(&name, &who).await?
        };
        let told = |outcome: Outcome| Ok(members.iter().map(|member| (Arc::clone(member), outcome.clone())).collect());
        let done = async {
            // Cancel-safe: what is done goes on.
            let done = removal.wait_for(Option::is_some).await.ok().and_then(|done| done.clone());
            done.unwrap_or_else(|| Err(Problem::new(Code::Failed, "it was broken off before it was done")))
        };
        match patience {
            Patience::Accepted => told(Outcome::Accepted),
            Patience::Done { within: None } => done.await,
            Patience::Done { within: Some(within) } => {
                tokio::time::timeout(within, done).await.unwrap_or_else(|_| told(Outcome::TimedOut))
            }
        }
    }

    /// Goes on with what an earlier supervisor did not finish.
    pub(super) async fn finish_removals(self: Arc<Self>) {
        let _one = self.one.lock().await;
        let unfinished: Vec<WorkerId> = {
            let known = self.known();
            let begun = |registration: &&Registration| {
                known.removing.get(&registration.id).is_some_and(|removing| removing.under_way.is_some())
            };
            let leaving = known.registered.iter().filter(|known| known.leaving).filter(|known| !begun(known));
            leaving.map(|known| known.id.clone()).collect()
        };
        for id in unfinished {
            self.chronicle.supervisor(format!("finishing the removal of {id}, which was asked for before"));
            drop(Arc::clone(&self).remove(id, "deregister"));
        }
    }

    /// Under the lock of changes. Whoever comes second waits for the same.
    async fn begin_removal(self: Arc<Self>, name: &str, who: &str) -> Result<(Vec<Arc<Member>>, Removal), Problem> {
        let known = WorkerId::new(name).ok().and_then(|id| self.registration(&id));
        let Some(Registration { id, leaving, .. }) = known else { return Err(self.not_registered(name).await) };
        let members = self.manager.instances(name);
        let under_way = self.known().removing.get(&id).and_then(|removing| removing.under_way.clone());
        if let Some(removal) = under_way {
            return Ok((members, removal));
        }
        if !leaving {
            let mut marked = self.known().registered.clone();
            for known in marked.iter_mut().filter(|known| known.id == id) {
                known.leaving = true;
            }
            self.keep_registered(marked).await.map_err(|why| {
                Problem::new(Code::Failed, format!("that it goes cannot be kept, and nothing is changed: {why}"))
            })?;
        }
        self.chronicle.record(EventKind::Operator { who: who.to_owned(), what: format!("deregister {id}") });
        Ok((members, self.remove(id, who)))
    }

    /// Has what is marked as leaving stopped and forgotten, whoever waits for it.
    fn remove(self: Arc<Self>, id: WorkerId, who: &str) -> Removal {
        let (tell, removal) = watch::channel(None);
        let names: Vec<WorkerId> =
            self.manager.instances(id.as_str()).iter().map(|member| member.id().clone()).collect();
        {
            let mut known = self.known();
            let removing = known.removing.entry(id.clone()).or_default();
            removing.names.extend(names);
            removing.under_way = Some(removal.clone());
        }
        let who = who.to_owned();
        tokio::spawn(async move {
            let members = self.manager.instances(id.as_str());
            let ends = join_all(members.iter().map(|member| dismiss(&self.manager, member, &who))).await;
            let _one = self.one.lock().await;
            let done = self.seen_off(&id, members.into_iter().zip(ends).collect()).await;
            {
                let mut known = self.known();
                if known.registered.iter().all(|known| known.id != id) {
                    known.removing.remove(&id);
                } else if let Some(removing) = known.removing.get_mut(&id) {
                    removing.under_way = None;
                }
            }
            tell.send_replace(Some(done));
        });
        removal
    }

    /// Under the lock of changes.
    async fn seen_off(&self, id: &WorkerId, outcomes: Outcomes) -> Result<Outcomes, Problem> {
        let stays = outcomes.iter().any(|(_, end)| *end != Outcome::Done);
        // First what was set for it: the next one of its name has nothing of it.
        for (member, outcome) in &outcomes {
            if *outcome == Outcome::Done {
                self.forget_override(member.id());
            }
        }
        if stays {
            // It is asked to go still: whoever asks again, and the next supervisor, goes on with that.
            return Ok(outcomes);
        }
        let without = self.known().registered.iter().filter(|known| known.id != *id).cloned().collect();
        self.keep_registered(without).await.map_err(|why| {
            let detail = format!("{id} is stopped, and that it is gone cannot be kept: {why}; ask for it again");
            Problem::new(Code::Failed, detail)
        })?;
        Ok(outcomes)
    }

    /// Why `name` cannot be deregistered.
    async fn not_registered(&self, name: &str) -> Problem {
        let instances = self.manager.instances(name);
        let Some(member) = self.manager.find(name).or_else(|| instances.into_iter().next()) else {
            return Problem::new(Code::NotFound, format!("there is no worker {name:?}"));
        };
        let set = &member.declared_as;
        let place = match member.origin {
            Origin::Registered => {
                let fix = format!("DELETE /v1/workers/{set} takes all of them, PUT /v1/workers/{set}/instances some");
                return Problem::new(Code::Declared, format!("{name} is one of the instances of {set}: {fix}"));
            }
            Origin::Program => "by a program".to_owned(),
            Origin::Config => self.place_of(set.clone()).await,
        };
        let instance = if set.as_str() == name { String::new() } else { format!(" as an instance of {set}") };
        let detail = format!("{name} is declared {place}{instance}; remove it there, and reload");
        Problem::new(Code::Declared, detail)
    }

    /// Where the configuration declares `id`, in words.
    async fn place_of(&self, id: WorkerId) -> String {
        let state = self.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let sources = applied::load(&state).ok()?.sources;
            let written = written::written(&sources, id.as_str(), &|name| std::env::var(name).ok());
            let own = written.into_values().filter(|written| written.layer == Layer::Worker);
            own.min_by_key(|written| written.line).map(|written| format!("in {}", written.file))
        });
        read.await.ok().flatten().unwrap_or_else(|| "in the configuration".to_owned())
    }

    /// The number of instances is a part of what was registered: no file has another one.
    pub(super) async fn scale_registered(
        &self,
        registration: Registration,
        instances: usize,
    ) -> Result<Outcomes, Problem> {
        let Registration { id, leaving: goes, .. } = registration;
        if goes {
            return Err(leaving(&id));
        }
        let before = self.known().registered.clone();
        let mut scaled = before.clone();
        // What cannot be scaled is refused below, in better words.
        if self.manager.instances(id.as_str()).iter().any(|member| *member.id() != id) {
            for known in scaled.iter_mut().filter(|known| known.id == id) {
                known.scaled = Some(instances);
            }
            self.keep_registered(scaled).await.map_err(|why| {
                Problem::new(Code::Failed, format!("the number cannot be kept, and nothing is changed: {why}"))
            })?;
        }
        match self.manager.scale(id.as_str(), instances).await {
            Ok(outcomes) => Ok(outcomes),
            Err(refused) => {
                self.keep_registered(before).await.map_err(|why| Problem::new(Code::Failed, why))?;
                Err(refused.into())
            }
        }
    }

    /// Forgets registrations that the configuration in force, which is on disk, has taken over.
    pub(super) async fn give_way(&self, taken_over: &[WorkerId]) {
        if taken_over.is_empty() {
            return;
        }
        for id in taken_over {
            self.chronicle.supervisor(registered::gave_way(id));
        }
        let known = self.known().registered.clone();
        let kept: Vec<Registration> = known.into_iter().filter(|known| !taken_over.contains(&known.id)).collect();
        if let Err(why) = self.keep_registered(kept.clone()).await {
            // Whoever reads both sees what wins, and the next change of them writes it.
            tracing::error!("what is registered over the API cannot be kept: {why}");
            self.known().registered = kept;
        }
    }

    /// On disk, and then what is known. Under the lock of changes.
    pub(super) async fn keep_registered(&self, registrations: Vec<Registration>) -> Result<(), String> {
        let (state, kept) = (self.state.clone(), registrations.clone());
        let stored = tokio::task::spawn_blocking(move || registered::store(&state, &kept)).await;
        stored.map_err(io::Error::other).flatten().map_err(|error| chain(&error))?;
        self.known().registered = registrations;
        Ok(())
    }
}

pub(super) fn leaving(name: &WorkerId) -> Problem {
    Problem::new(Code::NotNow, format!("{name} is being removed; ask again when it is gone"))
}

/// A start that comes in between takes nothing back.
async fn dismiss(manager: &Manager, member: &Arc<Member>, who: &str) -> Outcome {
    loop {
        match manager.dismiss(member, who).await {
            Ok(()) => return Outcome::Done,
            Err(ManagerError::Refused { why: Refusal::Superseded, .. }) => {}
            Err(ManagerError::Refused { why, .. }) => return Outcome::Refused(why),
            Err(ManagerError::Gone { .. }) => return Outcome::Gone,
            Err(other) => return Outcome::Refused(Refusal::Kernel(chain(&other))),
        }
    }
}
