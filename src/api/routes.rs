//! What is served under which path. Everything that is read comes from what the workers have published.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Json, Router, extract::State, middleware};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::audience::Audience;
use super::extract::{Body, Name, Params};
use super::govern::Governor;
use super::guard::{self, Asker};
use super::logs::Readers;
use super::metrics::Scraping;
use super::moment::{Calendar, Moment};
use super::once::Memory;
use super::peer::{Peer, Role};
use super::reexec::Upgrades;
use super::shutdown::Shutdowns;
use super::table;
use super::usage::{Glances, Meter};
use super::wire::{
    Ask, Code, Health, History, Inspection, Instances, PastRun, Plan, Problem, Reloaded, Results, SetLimits, Settled,
    StoreHealth, Why, Worker,
};
use crate::clock::Clock;
use crate::history::{Ring, SinkHealth, Vitals};
use crate::manager::handle::{Action, Manager, Member, Outcome};
use crate::metrics::Tally;
use crate::model::{Mono, State as WorkerState, WorkerId, chain};
use crate::store::{self, StoreHandle};

/// What the routes serve from. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
    governor: Option<Arc<dyn Governor>>,
    shutdowns: Option<Shutdowns>,
}

struct Inner {
    manager: Manager,
    meter: Arc<dyn Meter>,
    calendar: Calendar,
    began: Mono,
    logs: PathBuf,
    store: watch::Receiver<store::Health>,
    runs: StoreHandle,
    told: Told,
    /// Of those who read the events.
    following: Audience,
    glances: Glances,
    /// Of those who wait for something new.
    waiting: Audience,
    readers: Readers,
    memory: Memory,
    scraping: Scraping,
    upgrades: Option<Upgrades>,
}

/// What events leave behind: the last of them, and how those are who take them away.
#[derive(Debug, Clone)]
pub struct Told {
    /// The last events.
    pub ring: Ring,
    /// When the first of them can have been told.
    pub began: Timestamp,
    /// The history sinks.
    pub sinks: Vitals,
    /// What is counted of them.
    pub tally: Tally,
}

impl Api {
    /// Serves `manager`'s workers. `logs` is where their output is kept: `LOGS/ID/RUN.stderr`; `store` is how the store does.
    #[must_use]
    pub fn new(
        manager: Manager,
        meter: Arc<dyn Meter>,
        clock: Clock,
        logs: PathBuf,
        store: watch::Receiver<store::Health>,
        runs: StoreHandle,
        told: Told,
    ) -> Self {
        let (calendar, began) = (Calendar::new(clock), clock.now());
        let inner = Inner {
            manager,
            meter,
            calendar,
            began,
            logs,
            store,
            runs,
            told,
            following: Audience::new("read the events"),
            glances: Glances::default(),
            waiting: Audience::new("wait for something new"),
            readers: Readers::new(),
            memory: Memory::new(clock),
            scraping: Scraping::new(),
            upgrades: None,
        };
        Self { inner: Arc::new(inner), governor: None, shutdowns: None }
    }

    /// The same, where what is configured can be changed through `governor`.
    #[must_use]
    pub fn governed_by(self, governor: Arc<dyn Governor>) -> Self {
        Self { governor: Some(governor), ..self }
    }

    pub(super) fn manager(&self) -> &Manager {
        &self.inner.manager
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.inner.told.ring
    }

    pub(super) fn began(&self) -> Timestamp {
        self.inner.told.began
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.inner.told.tally
    }

    pub(super) fn sinks(&self) -> Vec<SinkHealth> {
        self.inner.told.sinks.read()
    }

    pub(super) fn store(&self) -> store::Health {
        self.inner.store.borrow().clone()
    }

    pub(super) fn meter(&self) -> &Arc<dyn Meter> {
        &self.inner.meter
    }

    pub(super) fn scraping(&self) -> &Scraping {
        &self.inner.scraping
    }

    pub(super) fn moment(&self) -> Moment {
        self.inner.calendar.now()
    }

    pub(super) fn glances(&self) -> &Glances {
        &self.inner.glances
    }

    pub(super) fn waiting(&self) -> &Audience {
        &self.inner.waiting
    }

    pub(super) fn following(&self) -> &Audience {
        &self.inner.following
    }

    /// The same, and the binary can be replaced by `upgrades`.
    /// To be said before anything is served.
    #[must_use]
    pub fn with_upgrades(mut self, upgrades: Upgrades) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.upgrades = Some(upgrades);
        }
        self
    }

    /// The same, and it can be ended by `shutdowns`.
    #[must_use]
    pub fn with_shutdowns(self, shutdowns: Shutdowns) -> Self {
        Self { shutdowns: Some(shutdowns), ..self }
    }

    pub(super) fn shutdowns(&self) -> Option<&Shutdowns> {
        self.shutdowns.as_ref()
    }

    pub(super) fn upgrades(&self) -> Option<&Upgrades> {
        self.inner.upgrades.as_ref()
    }

    /// All routes. Every request must carry the [`Peer`] it came from.
    pub fn router(self) -> Router {
        table::router(&self)
            .fallback(nothing_here)
            .method_not_allowed_fallback(another_method)
            .layer(middleware::from_fn(guard::name))
            .with_state(self)
    }

    /// Where output is kept.
    pub(super) fn logs(&self) -> &Path {
        &self.inner.logs
    }

    /// What was asked under which key.
    pub(super) fn memory(&self) -> &Memory {
        &self.inner.memory
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Member>, Problem> {
        let manager = &self.inner.manager;
        manager.find(name).ok_or_else(|| {
            let instances = manager.instances(name);
            let some: Vec<&str> = instances.iter().take(5).map(|member| member.worker.id().as_str()).collect();
            let more = if instances.len() > some.len() { ", …" } else { "" };
            let detail = match some.as_slice() {
                [] => format!("there is no worker {name:?}"),
                some => format!("{name} has instances, of which one is to be named: {}{more}", some.join(", ")),
            };
            Problem::new(Code::NotFound, detail)
        })
    }
}

pub(super) fn tell(member: &Member, now: &Moment) -> Worker {
    Worker::new(member, member.worker.status(), now)
}

pub(super) async fn why(State(api): State<Api>, Name(name): Name) -> Result<Json<Why>, Problem> {
    let member = api.find(&name)?;
    let worker = tell(&member, &api.inner.calendar.now());
    let stderr = |run: u32| api.inner.logs.join(&name).join(format!("{run}.stderr")).display().to_string();
    Ok(Json(Why::new(worker, &member.worker.story(), (&*member.spec).into(), stderr)))
}

/// What a worker's environment holds is for admins: a literal secret is one.
pub(super) async fn inspect(State(api): State<Api>, peer: Peer, Name(name): Name) -> Result<Json<Inspection>, Problem> {
    api.find(&name)?;
    api.governor()?.inspect(name, peer.role == Role::Admin).await.map(Json)
}

pub(super) async fn health(State(api): State<Api>) -> Json<Health> {
    let Inner { manager, calendar, began, store, told, upgrades, .. } = &*api.inner;
    let store = StoreHealth::from(&*store.borrow());
    let all = manager.all();
    let running = all.iter().filter(|m| m.worker.status().state == WorkerState::Running).count();
    let status = if manager.is_closed() { "going_down" } else { store.status.as_str() };
    Json(Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        keeper: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
        uptime_ms: calendar.now().since_ms(*began),
        workers: all.len(),
        running,
        store,
        history: told.sinks.read(),
        reexecs: upgrades.as_ref().map_or(0, |upgrades| upgrades.reexecs),
        previous: upgrades.as_ref().and_then(|upgrades| upgrades.previous.clone()),
    })
}

/// Of `GET /v1/history`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Past {
    /// Whose runs.
    #[schemars(regex(pattern = WorkerId::PATTERN))]
    worker: String,
    /// How many of the newest.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "Past::usual")]
    limit: usize,
}

impl Past {
    const MOST: usize = 1000;

    const fn usual() -> usize {
        20
    }
}

pub(super) async fn history(State(api): State<Api>, Params(past): Params<Past>) -> Result<Json<History>, Problem> {
    if !(1..=Past::MOST).contains(&past.limit) {
        let detail = format!("limit: {} is not a number from 1 to {}", past.limit, Past::MOST);
        return Err(Problem::new(Code::BadRequest, detail));
    }
    // Whoever bears no name of a worker has no history; whoever is not configured any more may still have one.
    let nobody = |_| Problem::new(Code::NotFound, format!("there is no worker {:?}", past.worker));
    let worker = WorkerId::new(&past.worker).map_err(nobody)?;
    let (name, limit) = (worker.clone(), past.limit);
    let asked = api.inner.runs.ask(move |store| store.get_runs(&name, limit).map_err(|e| chain(&e))).await;
    let failed = |why: String| Problem::new(Code::Failed, format!("the store cannot be read: {why}"));
    let runs = asked.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
    if runs.is_empty() {
        api.find(&past.worker)?;
    }
    Ok(Json(History { worker, runs: runs.into_iter().map(PastRun::from).collect() }))
}

pub(super) type Answered = Result<Json<Results>, Problem>;

pub(super) async fn start(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Start, &ask, &asker).await
}

pub(super) async fn stop(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Stop, &ask, &asker).await
}

pub(super) async fn restart(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Restart, &ask, &asker).await
}

pub(super) async fn kill(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Kill, &ask, &asker).await
}

pub(super) async fn signal(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Signal, &ask, &asker).await
}

pub(super) async fn reset(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Reset, &ask, &asker).await
}

pub(super) async fn freeze(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Freeze, &ask, &asker).await
}

pub(super) async fn thaw(State(api): State<Api>, asker: Asker, Name(name): Name, Body(ask): Body<Ask>) -> Answered {
    api.ask(&name, Verb::Thaw, &ask, &asker).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Restart,
    Kill,
    Signal,
    Reset,
    Freeze,
    Thaw,
}

impl Verb {
    /// The action, with what `ask` says of it and nothing that is about another.
    fn with(self, ask: &Ask) -> Result<Action, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        if ask.force && self != Self::Restart {
            return Err(bad("force: it is for a restart only".to_owned()));
        }
        if ask.signal.is_some() && self != Self::Signal {
            return Err(bad("signal: it is for the path …/signal only".to_owned()));
        }
        Ok(match self {
            Self::Start => Action::Start,
            Self::Stop => Action::Stop,
            Self::Restart => Action::Restart { force: ask.force },
            Self::Kill => Action::Kill,
            Self::Reset => Action::Reset,
            Self::Freeze => Action::Freeze,
            Self::Thaw => Action::Thaw,
            Self::Signal => {
                let typed = ask.signal.as_deref().ok_or_else(|| bad("signal: which one is to be said".to_owned()))?;
                let known = crate::spec::signal(typed);
                Action::Signal(known.ok_or_else(|| {
                    bad(format!(
                        "signal: {typed:?} is none; write a name like HUP or RTMIN+3, or a number from 1 to 64"
                    ))
                })?)
            }
        })
    }
}

impl Api {
    pub(super) fn governor(&self) -> Result<&dyn Governor, Problem> {
        let none = || Problem::new(Code::Failed, "what is configured cannot be changed here");
        self.governor.as_deref().ok_or_else(none)
    }

    async fn ask(&self, pattern: &str, verb: Verb, ask: &Ask, asker: &Asker) -> Answered {
        let action = verb.with(ask)?;
        let within = ask.timeout.as_deref().map(crate::spec::time).transpose();
        let within = within.map_err(|e| Problem::new(Code::BadRequest, format!("timeout: {e}")))?;
        let asked = self.inner.manager.ask(pattern, action, &asker.to_string())?;
        let told = if ask.wait { asked.done(within).await } else { asked.taken().await };
        settled(&told)
    }
}

pub(super) async fn plan(State(api): State<Api>, Body(Nothing {}): Body<Nothing>) -> Result<Json<Plan>, Problem> {
    api.governor()?.plan().await.map(Json)
}

pub(super) async fn reload(
    State(api): State<Api>,
    asker: Asker,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<Reloaded>, Problem> {
    api.governor()?.reload(asker.to_string()).await.map(Json)
}

pub(super) async fn scale(State(api): State<Api>, Name(name): Name, Body(ask): Body<Instances>) -> Answered {
    settled(&api.governor()?.scale(name, ask.instances).await?)
}

pub(super) async fn set_limits(
    State(api): State<Api>,
    asker: Asker,
    Name(name): Name,
    Body(ask): Body<SetLimits>,
) -> Answered {
    settled(&api.governor()?.set(name, ask, asker.to_string()).await?)
}

pub(super) fn settled(told: &[(Arc<Member>, Outcome)]) -> Answered {
    let results: Vec<Settled> = told.iter().map(|(member, outcome)| Settled::new(member, outcome)).collect();
    match Problem::of(&results) {
        None => Ok(Json(Results { results })),
        Some(problem) => Err(problem),
    }
}

/// A body that says nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

async fn nothing_here(uri: axum::http::Uri) -> Problem {
    Problem::new(Code::NotFound, format!("nothing is served under {:?}", uri.path()))
}

async fn another_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{method} is not for {:?}", uri.path()))
}

#[cfg(test)]
#[path = "routes_tests.rs"]
pub(super) mod tests;
