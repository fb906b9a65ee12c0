//! The configuration as its files have it now, held against what there is: what a reload would do, and why it would not.

use std::sync::Arc;

use crate::api::wire::{Code, Plan, Problem, Wrong};
use crate::cli::paths::ConfigSource;
use crate::history::History;
use crate::manager::diff::{Life, Origin, Present, Standing, diff};
use crate::manager::handle::Member;
use crate::model::chain;
use crate::spec::types::{Config, Sink};
use crate::spec::{self, Problems, Source};

use super::Inner;
use super::applied::{self, lay_over};

impl Inner {
    /// The configuration as its files have it now, and what stands between it and what there is.
    pub(super) async fn plan(&self) -> Result<(Vec<Source>, Config, Plan), Problem> {
        let Some(from) = self.from.clone() else {
            let why = "where the configuration came from was not kept by the version that began; start pinfold up anew";
            return Err(Problem::new(Code::Failed, why));
        };
        let read = tokio::task::spawn_blocking(move || read(&from));
        let (sources, mut config) =
            read.await.unwrap_or_else(|gone| Err(Problem::new(Code::Failed, gone.to_string())))?;
        let overrides = self.known().overrides.clone();
        for (worker, problems) in lay_over(&mut config, &overrides) {
            tracing::warn!(%worker, %problems, "what was set for it does not fit what is configured, and is left out");
        }
        let present = self.present();
        if config.workers.is_empty() && present.workers.iter().any(|worker| worker.origin == Origin::Config) {
            let why = "the configuration declares no worker, as a file that is being written does, and nothing is changed; \
                       to stop every worker: pinfold stop '*'";
            return Err(Problem::new(Code::BadConfig, why));
        }
        self.check_sinks(&config.history, &present.history).await?;
        let plan = diff(&config, &present);
        Ok((sources, config, plan))
    }

    /// That each sink that would come could be used.
    async fn check_sinks(&self, wanted: &[Sink], present: &[Sink]) -> Result<(), Problem> {
        let coming = wanted.iter().filter(|sink| !present.contains(sink));
        History::check(&mut coming.map(History::sink).collect::<Vec<_>>())
            .await
            .map_err(|unusable| Problem::new(Code::BadConfig, format!("{}, and nothing is changed", chain(&unusable))))
    }

    fn present(&self) -> Present {
        let known = self.known();
        let standing = |member: &Arc<Member>| Standing {
            id: member.id().clone(),
            spec: Arc::clone(&member.spec),
            enabled: member.enabled,
            origin: member.origin,
            life: Life::of(&member.worker.status()),
        };
        Present {
            workers: self.manager.all().iter().map(standing).collect(),
            slices: known.slices.clone(),
            env: known.env.clone(),
            reconcile_interval: known.reconcile_interval,
            history: known.history.clone(),
            left: Vec::new(),
        }
    }
}

fn read(from: &ConfigSource) -> Result<(Vec<Source>, Config), Problem> {
    let files = from.files().map_err(|error| Problem::new(Code::BadConfig, chain(&error)))?;
    applied::read_files(&files).map_err(|problems| bad_config(&problems))
}

fn bad_config(problems: &Problems) -> Problem {
    let count = match problems.0.len() {
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let first = problems.0.first().map(|problem| wrong(problem).to_string()).unwrap_or_default();
    let detail = format!("the configuration has {count}, and nothing is changed: {first}");
    Problem { problems: problems.0.iter().map(wrong).collect(), ..Problem::new(Code::BadConfig, detail) }
}

pub(super) fn wrong(problem: &spec::Problem) -> Wrong {
    // Without the line itself, which may hold a secret: whoever may read the file looks there.
    let spec::Problem { file, line, column, path, message, fix, excerpt: _ } = problem.clone();
    Wrong { file, line, column, path, message, fix }
}
