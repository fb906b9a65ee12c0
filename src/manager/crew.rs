//! The workers as a library has them: made, started, scaled, changed, removed. [`Manager`] is the whole of it.
//!
//! ```text
//! start, start_n, scale, update, remove ─▶ Manager ─▶ the list, replaced as a whole
//!                                             └─────▶ Nursery: what makes a worker and lets it go
//! ```
//! What is asked of several is all or nothing where that can be: names are taken together or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;

use super::diff::Origin;
use super::handle::{Action, Manager, Member, Outcome, Refusal};
use super::pattern::NoMatch;
use crate::model::{KilledBy, RunId, State, Trigger, WorkerId, WorkerStatus, chain};
use crate::spec::types::{Spec, Takes};
use crate::worker::handle::{AskError, Reach, Renew};

pub use super::error::ManagerError;
pub use super::nursery::{Crew, Nursery};

/// The period of a reconciler for which none is given.
pub const RECONCILE: Duration = Duration::from_millis(500);

/// The most instances of one declaration.
pub const MAX_INSTANCES: usize = 10_000;

/// A worker to be.
#[derive(Debug, Clone)]
pub struct New {
    /// Its name.
    pub id: WorkerId,
    /// The id it is declared under.
    pub declared_as: WorkerId,
    /// What it runs and how.
    pub spec: Arc<Spec>,
    /// Whether it is to be started when a supervisor begins.
    pub enabled: bool,
    /// Who declares it.
    pub origin: Origin,
}

/// `K=V` lines as an environment.
///
/// # Errors
/// The first line that is none.
pub fn variables<'l>(list: impl IntoIterator<Item = &'l str>) -> Result<BTreeMap<String, String>, String> {
    let one = |line: &str| match line.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{line:?} is no KEY=VALUE")),
    };
    list.into_iter().map(one).collect()
}

impl Manager {
    /// Starts one worker and waits until it runs. One of the same name and the same spec that is there is started; else it is
    /// made.
    ///
    /// # Errors
    /// [`ManagerError`]. A worker that could not be started is there all the same: its restart policy may try again.
    pub async fn start(&self, id: WorkerId, spec: Spec) -> Result<(), ManagerError> {
        let member = match self.find(id.as_str()) {
            Some(there) if *there.spec == spec => there,
            Some(_) => return Err(ManagerError::Differs { name: id }),
            None => {
                let new =
                    New { declared_as: id.clone(), id, spec: Arc::new(spec), enabled: true, origin: Origin::Program };
                self.add(vec![new])?.swap_remove(0)
            }
        };
        let asked = self.while_open(|| Ok(member.worker.start(Trigger::Operator)))?;
        Ok(asked.await?)
    }

    /// Makes and starts the instances `id-1` to `id-COUNT`, and waits until all of them run. All or nothing: a name that is
    /// taken has none made, and one that cannot be started takes the others along.
    ///
    /// # Errors
    /// [`ManagerError`]. Nothing of it is there then.
    pub async fn start_n(&self, id: &WorkerId, spec: Spec, count: usize) -> Result<(), ManagerError> {
        if count == 0 || count > MAX_INSTANCES {
            return Err(ManagerError::Count { count });
        }
        let spec = Arc::new(spec);
        let names: Vec<WorkerId> = (1..=count).map(|number| instance(id, number)).collect::<Result<_, _>>()?;
        // A worker of the bare name would be meant by every pattern that means these.
        if self.find(id.as_str()).is_some() || !self.instances(id.as_str()).is_empty() {
            return Err(ManagerError::Taken { name: id.clone() });
        }
        let new = |name| New {
            id: name,
            declared_as: id.clone(),
            spec: Arc::clone(&spec),
            enabled: true,
            origin: Origin::Program,
        };
        let members = self.add(names.into_iter().map(new).collect())?;
        let asked = self
            .while_open(|| Ok(members.iter().map(|member| member.worker.start(Trigger::Operator)).collect::<Vec<_>>()));
        let started = match asked {
            Ok(asked) => join_all(asked).await.into_iter().collect::<Result<Vec<()>, _>>().map_err(ManagerError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            join_all(members.iter().map(|member| self.dismiss(member, "program"))).await;
            return Err(error);
        }
        Ok(())
    }

    /// Stops one worker, and waits until nothing of it is left. After `within` it is killed; without it, after its own
    /// `stop.timeout`. To stop a stopped one is no error.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub async fn stop(&self, name: &str, within: Option<Duration>) -> Result<(), ManagerError> {
        let member = self.named(name)?;
        stop(&member, within).await
    }

    /// The same for all that `pattern` means, at once.
    ///
    /// # Errors
    /// The first of them; the others were stopped all the same.
    pub async fn stop_all(&self, pattern: &str, within: Option<Duration>) -> Result<(), ManagerError> {
        let chosen = self.choose(pattern)?;
        join_all(chosen.iter().map(|member| stop(member, within))).await.into_iter().collect()
    }

    /// How one worker is. Waits for nobody.
    ///
    /// # Errors
    /// Where there is none of this name.
    pub fn status(&self, name: &str) -> Result<WorkerStatus, ManagerError> {
        Ok(self.named(name)?.worker.status())
    }

    /// How those are that `pattern` means.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn status_all(&self, pattern: &str) -> Result<Vec<WorkerStatus>, ManagerError> {
        Ok(self.choose(pattern)?.iter().map(|member| member.worker.status()).collect())
    }

    /// How many of those that `pattern` means run.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn count(&self, pattern: &str) -> Result<usize, ManagerError> {
        Ok(self.status_all(pattern)?.iter().filter(|status| status.state == State::Running).count())
    }

    /// Has a worker go by another spec: as little as that takes is done to it, and waited for.
    ///
    /// # Errors
    /// [`ManagerError`]. Limits that are refused leave the old ones in force.
    pub async fn update(&self, name: &str, spec: Spec) -> Result<(), ManagerError> {
        let member = self.named(name)?;
        let takes = member.spec.changes(&spec).into_iter().map(|change| change.takes).max();
        let renew = if takes == Some(Takes::NewRun) { Renew::Yes } else { Renew::No };
        self.renew(&member, &Arc::new(spec), member.enabled, renew, "program").await
    }

    /// Makes it `count` instances of the declaration `name`: the lowest numbers that are free come, the highest go, and are
    /// waited for.
    ///
    /// # Errors
    /// [`ManagerError`]. What came or went before it has.
    pub async fn scale(&self, name: &str, count: usize) -> Result<Vec<(Arc<Member>, Outcome)>, ManagerError> {
        if count == 0 || count > MAX_INSTANCES {
            return Err(ManagerError::Count { count });
        }
        // By parentage: a worker that is only spelled like an instance is none.
        let mut present: Vec<(usize, Arc<Member>)> = self
            .instances(name)
            .into_iter()
            .filter_map(|member| Some((number_of(member.id(), &member.declared_as)?, member)))
            .collect();
        let Some((_, first)) = present.first() else {
            return Err(match self.find(name) {
                Some(_) => ManagerError::NotScalable { name: name.to_owned() },
                None => NoMatch::NotFound { part: name.to_owned() }.into(),
            });
        };
        let (parent, spec, enabled, origin) =
            (first.declared_as.clone(), Arc::clone(&first.spec), first.enabled, first.origin);
        present.sort_by_key(|(number, _)| *number);
        if count < present.len() {
            let mut outcomes = Vec::new();
            let going = present.split_off(count);
            let ends = join_all(going.iter().rev().map(|(_, member)| self.dismiss(member, "program"))).await;
            for ((_, member), end) in going.iter().rev().zip(ends) {
                outcomes.push((Arc::clone(member), outcome(end)));
            }
            return Ok(outcomes);
        }
        let taken: BTreeSet<usize> = present.iter().map(|(number, _)| *number).collect();
        let free = (1..).filter(|number| !taken.contains(number)).take(count - present.len());
        let names: Vec<WorkerId> = free.map(|number| instance(&parent, number)).collect::<Result<_, _>>()?;
        let new = |id| New { id, declared_as: parent.clone(), spec: Arc::clone(&spec), enabled, origin };
        let members = self.add(names.into_iter().map(new).collect())?;
        let asked = self.while_open(|| {
            let ask = |member: &Arc<Member>| member.enabled.then(|| member.worker.start(Trigger::Operator));
            Ok(members.iter().map(ask).collect::<Vec<_>>())
        })?;
        let mut outcomes = Vec::new();
        for (member, asked) in members.iter().zip(asked) {
            let done = match asked {
                Some(answer) => Outcome::of(answer.await),
                None => Outcome::Done,
            };
            outcomes.push((Arc::clone(member), done));
        }
        Ok(outcomes)
    }

    /// Supervises a worker no longer. Only one that is stopped.
    ///
    /// # Errors
    /// [`ManagerError::Running`] for one that is not.
    pub async fn remove(&self, name: &str) -> Result<(), ManagerError> {
        let member = self.named(name)?;
        let status = member.worker.status();
        if status.state != State::Stopped {
            return Err(ManagerError::Running { name: member.id().clone(), state: status.state.as_str() });
        }
        self.dismiss(&member, "program").await
    }

    /// Closes the restart breakers of those that `pattern` means; who was held down by one begins to start.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub async fn reset(&self, pattern: &str) -> Result<(), ManagerError> {
        self.all_do(pattern, Action::Reset).await
    }

    /// Ends those that `pattern` means at once, for good.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub async fn kill(&self, pattern: &str) -> Result<(), ManagerError> {
        self.all_do(pattern, Action::Kill).await
    }

    /// Has every process of those that `pattern` means stand still. Done when all of them do, also where they did already. It is for
    /// the present run: a stop is heard all the same, and the next run is not frozen.
    ///
    /// # Errors
    /// [`ManagerError`]: [`Refusal::NotRunning`] for one that does not run.
    pub async fn freeze(&self, pattern: &str) -> Result<(), ManagerError> {
        self.all_do(pattern, Action::Freeze).await
    }

    /// Has them go on, by whomever they were frozen.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub async fn thaw(&self, pattern: &str) -> Result<(), ManagerError> {
        self.all_do(pattern, Action::Thaw).await
    }

    /// The environment below each worker's own. It reaches a worker at its next run.
    ///
    /// # Errors
    /// Where the workers are fixed.
    pub fn set_global_env(&self, env: &BTreeMap<String, String>) -> Result<(), ManagerError> {
        self.nursery()?.set_global_env(env);
        Ok(())
    }

    /// Holds every worker against what the kernel says, once: of each what was missed last is told again. How many were looked at.
    #[must_use]
    pub fn reconcile_once(&self) -> usize {
        let Ok(nursery) = self.nursery() else { return 0 };
        let mut looked = 0;
        for status in self.all().iter().map(|member| member.worker.status()) {
            if status.state != State::Stopped {
                nursery.look_again(&RunId::new(status.id, status.run));
                looked += 1;
            }
        }
        looked
    }

    /// Does that again and again, every `interval`; 0 is [`RECONCILE`]. A second one changes nothing. Inside a tokio runtime.
    pub fn start_reconciler(&self, interval: Duration) {
        let interval = if interval.is_zero() { RECONCILE } else { interval };
        let mut running = self.inner.reconciler.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|task| !task.is_finished()) || self.is_closed() {
            return;
        }
        let manager = self.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                // Outside of the record, whose parts are worked out only where somebody keeps it.
                let looked = manager.reconcile_once();
                tracing::trace!(looked, "reconciled");
            }
        });
        *running = Some(task.abort_handle());
    }

    /// Ends the periodic pass.
    pub fn stop_reconciler(&self) {
        let running = self.inner.reconciler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = running {
            task.abort();
        }
    }

    /// Starts nothing any more, stops everything, and waits until nothing is left. What is asked for later fails at once. The store
    /// and the history sinks that were set here are given what waits for them, and closed.
    ///
    /// # Errors
    /// The first worker that could not be ended, or that the end is not remembered.
    pub async fn shutdown(&self) -> Result<(), ManagerError> {
        self.close();
        self.stop_reconciler();
        let all = self.all();
        let stops: Vec<_> = all.iter().map(|member| member.worker.stop(KilledBy::Shutdown)).collect();
        let stopped = join_all(stops).await.into_iter().collect::<Result<Vec<()>, _>>();
        if let Some(keep) = self.inner.nursery.as_ref().and_then(|nursery| nursery.keep()) {
            keep.close().await.map_err(|why| ManagerError::NotRemembered { why })?;
        }
        stopped?;
        Ok(())
    }

    // ── what the above is made of ─────────────────────────────────────────────────────────────────────────────────

    /// Makes workers: all of them, or none where one of the names is taken. They are not started.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub fn add(&self, new: Vec<New>) -> Result<Vec<Arc<Member>>, ManagerError> {
        let nursery = self.nursery()?;
        self.while_open(|| {
            self.change(|members| {
                let taken: BTreeSet<&WorkerId> = members.iter().map(|member| member.id()).collect();
                if let Some(name) = new.iter().map(|new| &new.id).find(|id| taken.contains(id)) {
                    return Err(ManagerError::Taken { name: name.clone() });
                }
                let make = |New { id, declared_as, spec, enabled, origin }| {
                    let worker = nursery.supervise(&id, &spec);
                    Arc::new(Member { declared_as, spec, worker, enabled, origin })
                };
                let made: Vec<Arc<Member>> = new.into_iter().map(make).collect();
                members.extend(made.iter().cloned());
                Ok(made)
            })
        })
    }

    /// Has a worker go by `spec` for good, with a new run where `renew` says so and it should be up.
    ///
    /// # Errors
    /// [`ManagerError`]. Where its limits stay as they are, so does what is known of it.
    pub async fn renew(
        &self,
        member: &Arc<Member>,
        spec: &Arc<Spec>,
        enabled: bool,
        renew: Renew,
        who: &str,
    ) -> Result<(), ManagerError> {
        let reach = Reach::Config { generation: self.next_generation(), renew };
        let worker = member.worker.on_behalf_of(who);
        let asked = self.while_open(|| Ok(worker.update(Arc::clone(spec), reach)))?;
        let done = asked.await;
        let kept = matches!(done, Err(AskError::Refused { why: Refusal::Limits(_) | Refusal::NotNow(_), .. }));
        if !kept {
            self.change(|members| {
                if let Some(known) = members.iter_mut().find(|known| known.id() == member.id()) {
                    *known = Arc::new(Member { spec: Arc::clone(spec), enabled, ..Member::clone(known) });
                }
                Ok(())
            })?;
            if let Ok(nursery) = self.nursery() {
                nursery.updated(&member.worker, spec);
            }
        }
        Ok(done?)
    }

    /// Stops a worker where it is not stopped, and supervises it no longer. It stays where it cannot be stopped.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub async fn dismiss(&self, member: &Arc<Member>, who: &str) -> Result<(), ManagerError> {
        let nursery = self.nursery()?;
        if member.worker.status().desired_up || member.worker.status().state != State::Stopped {
            member.worker.on_behalf_of(who).stop(KilledBy::Stop).await?;
        }
        member.worker.at_rest().await?;
        self.change(|members| {
            members.retain(|known| known.id() != member.id());
            Ok(())
        })?;
        nursery.dismissed(&member.worker);
        if member.worker.status().desired_up {
            // Somebody has started it in the last moment, by a handle of before.
            member.worker.on_behalf_of(who).stop(KilledBy::Stop).await?;
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Result<Arc<Member>, ManagerError> {
        self.find(name).ok_or_else(|| NoMatch::NotFound { part: name.to_owned() }.into())
    }

    fn nursery(&self) -> Result<&Arc<dyn Nursery>, ManagerError> {
        self.inner.nursery.as_ref().ok_or(ManagerError::Fixed)
    }

    async fn all_do(&self, pattern: &str, action: Action) -> Result<(), ManagerError> {
        for (member, outcome) in self.ask(pattern, action, "program")?.done(None).await {
            let worker = member.id().clone();
            match outcome {
                Outcome::Refused(why) => return Err(ManagerError::Refused { worker, why }),
                Outcome::Gone => return Err(ManagerError::Gone { worker }),
                Outcome::Done | Outcome::Accepted | Outcome::TimedOut => {}
            }
        }
        Ok(())
    }
}

async fn stop(member: &Member, within: Option<Duration>) -> Result<(), ManagerError> {
    let asked = member.worker.stop(KilledBy::Stop);
    let Some(within) = within else { return Ok(asked.await?) };
    match tokio::time::timeout(within, asked).await {
        Ok(done) => Ok(done?),
        Err(_) => Ok(member.worker.kill(KilledBy::StopTimeout).await?),
    }
}

fn outcome(done: Result<(), ManagerError>) -> Outcome {
    match done {
        Ok(()) => Outcome::Done,
        Err(ManagerError::Refused { why, .. }) => Outcome::Refused(why),
        Err(ManagerError::Gone { .. }) => Outcome::Gone,
        Err(other) => Outcome::Refused(Refusal::Kernel(chain(&other))),
    }
}

fn instance(parent: &WorkerId, number: usize) -> Result<WorkerId, ManagerError> {
    let name = format!("{parent}-{number}");
    WorkerId::new(&name).map_err(|source| ManagerError::Name { name, source })
}

/// Which instance of its declaration it is; `None` where it is the only one, under the bare name.
fn number_of(id: &WorkerId, declared_as: &WorkerId) -> Option<usize> {
    id.as_str().strip_prefix(declared_as.as_str())?.strip_prefix('-')?.parse().ok()
}

#[cfg(test)]
#[path = "crew_tests.rs"]
mod tests;
