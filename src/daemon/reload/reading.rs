//! The configuration as its files have it now, held against what there is: what a reload would do, and why it would not.

use std::{collections::HashSet, sync::Arc};

use crate::api::wire::{Code, Plan, Problem, Wrong};
use crate::cli::paths::ConfigSource;
use crate::history::History;
use crate::manager::diff::{Life, Origin, Present, Standing, diff};
use crate::manager::handle::Member;
use crate::model::{WorkerId, chain};
use crate::spec::types::{Config, Sink, Worker};
use crate::spec::{self, Problems, Source};

use super::Inner;
use super::applied::{self, lay_over};
use super::registering::{REQUEST, leaving};
use crate::daemon::registered::{Joined, Misfit, Registration, join};

/// What a reload would bring about.
pub(super) struct Planned {
    /// The text of the files.
    pub(super) sources: Vec<Source>,
    /// What holds then.
    pub(super) config: Config,
    /// What stands between it and what there is.
    pub(super) plan: Plan,
    /// What was registered, and is the files' from then on.
    pub(super) gave_way: Vec<WorkerId>,
}

impl Inner {
    /// The configuration as its files have it now, and what stands between it and what there is.
    pub(super) async fn plan(&self) -> Result<Planned, Problem> {
        let Some(from) = self.from.clone() else {
            let why = "where the configuration came from was not kept by the version that began; start pinfold up anew";
            return Err(Problem::new(Code::Failed, why));
        };
        let (going, registered): (Vec<_>, Vec<_>) = self.known().registered.iter().cloned().partition(|r| r.leaving);
        let read = tokio::task::spawn_blocking(move || read(&from, registered));
        let (sources, mut config, joined) =
            read.await.unwrap_or_else(|gone| Err(Problem::new(Code::Failed, gone.to_string())))?;
        let mut going = self.names_of(&going);
        going.extend(self.names_of_leaving());
        let of_both = |worker: &Worker| going.contains(&worker.id) || going.contains(&worker.declared_as);
        if let Some(worker) = config.workers.iter().find(|worker| of_both(worker)) {
            return Err(leaving(&worker.id));
        }
        self.check_registered(&joined.misfits)?;
        let overrides = self.known().overrides.clone();
        for (worker, problems) in lay_over(&mut config, &overrides) {
            tracing::warn!(%worker, %problems, "what was set for it does not fit what is configured, and is left out");
        }
        let present = self.present(&going);
        if config.workers.iter().all(|worker| worker.registered)
            && present.workers.iter().any(|worker| worker.origin == Origin::Config)
        {
            let why = "the configuration declares no worker, as a file that is being written does, and nothing is changed; \
                       to stop every worker: pinfold stop '*'";
            return Err(Problem::new(Code::BadConfig, why));
        }
        self.check_sinks(&config.history, &present.history).await?;
        let plan = diff(&config, &present);
        Ok(Planned { sources, config, plan, gave_way: joined.gave_way })
    }

    /// That each sink that would come could be used.
    async fn check_sinks(&self, wanted: &[Sink], present: &[Sink]) -> Result<(), Problem> {
        let coming = wanted.iter().filter(|sink| !present.contains(sink));
        History::check(&mut coming.map(History::sink).collect::<Vec<_>>())
            .await
            .map_err(|unusable| Problem::new(Code::BadConfig, format!("{}, and nothing is changed", chain(&unusable))))
    }

    /// The names that these stand for, and those of what there is of them.
    fn names_of(&self, registrations: &[Registration]) -> HashSet<WorkerId> {
        let all = self.manager.all();
        let of = |member: &&Arc<Member>| registrations.iter().any(|known| known.id == member.declared_as);
        let members = all.iter().filter(of).map(|member| member.id().clone());
        members.chain(registrations.iter().map(|known| known.id.clone())).collect()
    }

    /// That what is registered and supervised still can be.
    fn check_registered(&self, misfits: &[(WorkerId, Misfit)]) -> Result<(), Problem> {
        for (id, why) in misfits {
            if self.manager.instances(id.as_str()).is_empty() {
                tracing::warn!(worker = %id, %why, "it is registered over the API, and left out");
                continue;
            }
            let detail = format!(
                "{id}, which was registered over the API, does not fit this configuration, and nothing is changed: {why}; \
                 mend that, or take it away: DELETE /v1/workers/{id}"
            );
            let problems = match why {
                Misfit::Wrong(problems) => problems.0.iter().map(wrong).collect(),
                Misfit::Taken { .. } => Vec::new(),
            };
            return Err(Problem { problems, ..Problem::new(Code::BadConfig, detail) });
        }
        Ok(())
    }

    /// Without those that are `going` anyway.
    fn present(&self, going: &HashSet<WorkerId>) -> Present {
        let known = self.known();
        let standing = |member: &Arc<Member>| Standing {
            id: member.id().clone(),
            spec: Arc::clone(&member.spec),
            enabled: member.enabled,
            origin: member.origin,
            life: Life::of(&member.worker.status()),
        };
        Present {
            workers: self.manager.all().iter().filter(|member| !going.contains(member.id())).map(standing).collect(),
            slices: known.slices.clone(),
            env: known.env.clone(),
            reconcile_interval: known.reconcile_interval,
            history: known.history.clone(),
            left: Vec::new(),
        }
    }
}

fn read(from: &ConfigSource, registered: Vec<Registration>) -> Result<(Vec<Source>, Config, Joined), Problem> {
    let files = from.files().map_err(|error| Problem::new(Code::BadConfig, chain(&error)))?;
    let read = applied::read_files_with(&files, &registered);
    let (sources, mut config, expanded) = read.map_err(|problems| bad_config("configuration", &problems))?;
    let joined = join(&mut config, registered, expanded);
    Ok((sources, config, joined))
}

/// What is wrong with a declaration that is no file's.
pub(super) fn bad_worker(problems: &Problems) -> Problem {
    // Lines of a text that whoever asks has not written so say nothing to him.
    let placeless = |problem: &spec::Problem| match problem.file.as_str() {
        REQUEST => spec::Problem { line: 0, column: 0, ..problem.clone() },
        _ => problem.clone(),
    };
    bad_config("worker", &Problems(problems.0.iter().map(placeless).collect()))
}

fn bad_config(what: &str, problems: &Problems) -> Problem {
    let count = match problems.0.len() {
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let first = problems.0.first().map(|problem| wrong(problem).to_string()).unwrap_or_default();
    let detail = format!("the {what} has {count}, and nothing is changed: {first}");
    Problem { problems: problems.0.iter().map(wrong).collect(), ..Problem::new(Code::BadConfig, detail) }
}

pub(super) fn wrong(problem: &spec::Problem) -> Wrong {
    // Without the line itself, which may hold a secret: whoever may read the file looks there.
    let spec::Problem { file, line, column, path, message, fix, excerpt: _ } = problem.clone();
    Wrong { file, line, column, path, message, fix }
}
