//! `plan`, `reload`, `scale` and `set`: what changes what is configured.

use std::collections::BTreeMap;

use hyper::Method;

use super::args::{Format, Plan as PlanArgs, Scale, Set};
use super::ask::failed;
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, Asked};
use super::said::{Said, document};
use crate::api::wire::{Instances, Plan, Reloaded, Results, SetLimits, Word, Worker, Workers};
use crate::model::State;
use crate::spec;

/// `pinfold plan`.
///
/// # Errors
/// [`Failure`].
pub fn plan(args: &PlanArgs, client: &Client) -> Result<Said, Failure> {
    let plan = client.post::<Plan>("/v1/plan", &serde_json::json!({}))?;
    let plan = plan.map_err(|problem| Failure::Answered(Box::new(problem)))?;
    let out = match args.output.format {
        Format::Table => render::plan(&plan),
        Format::Json => document(&plan)?,
    };
    Ok(Said { out, err: String::new(), exit: Exit::Ok })
}

/// `pinfold reload`.
///
/// # Errors
/// [`Failure`].
pub fn reload(args: &PlanArgs, client: &Client) -> Result<Said, Failure> {
    let reloaded = client.post::<Reloaded>("/v1/reload", &serde_json::json!({}))?;
    let reloaded = reloaded.map_err(|problem| Failure::Answered(Box::new(problem)))?;
    let out = match args.output.format {
        Format::Table => render::reloaded(&reloaded),
        Format::Json => document(&reloaded)?,
    };
    let some = |word| reloaded.steps.iter().any(|carried| carried.outcome == word);
    let exit = match (some(Word::Failed), some(Word::Accepted)) {
        (true, _) => Exit::Failed,
        // As of everything that has begun and is not seen to its end.
        (false, true) => Exit::TimedOut,
        (false, false) => Exit::Ok,
    };
    Ok(Said { out, err: render::not_carried(&reloaded), exit })
}

/// `pinfold scale`.
///
/// # Errors
/// [`Failure`].
pub fn scale(args: &Scale, client: &Client) -> Result<Said, Failure> {
    let like = "write NAME=N, like web=3";
    let (name, count) =
        args.target.split_once('=').ok_or_else(|| Failure::Usage(format!("{:?}: {like}", args.target)))?;
    let instances = count.parse().map_err(|_| Failure::Usage(format!("{count:?} is no number; {like}")))?;
    let path = format!("/v1/workers/{}/instances", encoded(name));
    let mut said = settle(client.ask(Method::PUT, &path, &Instances { instances })?, args.output.format)?;
    if said.out.is_empty() && said.exit == Exit::Ok {
        let Workers { workers, .. } = client.get(&format!("/v1/workers?pattern={}", encoded(name)))?;
        said.out = unchanged(name, &workers);
    }
    Ok(said)
}

/// Nothing came and nothing went.
fn unchanged(name: &str, workers: &[Worker]) -> String {
    let running = workers.iter().filter(|worker| worker.state == State::Running).count();
    let has = match workers.len() {
        1 => "1 instance".to_owned(),
        n => format!("{n} instances"),
    };
    let of_them = match running {
        n if n == workers.len() => String::new(),
        0 => format!(", none of them running; `pinfold start {name}` starts what is down"),
        n => format!(", {n} of them running; `pinfold start {name}` starts what is down"),
    };
    format!("{}: nothing to change: it has {has} already{}\n", render::inert(name), render::inert(&of_them))
}

/// `pinfold set`.
///
/// # Errors
/// [`Failure`].
pub fn set(args: &Set, client: &Client) -> Result<Said, Failure> {
    let mut limits = BTreeMap::new();
    for typed in &args.limits {
        let like = "write KEY=VALUE, like memory.max_rss=1G";
        let (key, value) = typed.split_once('=').ok_or_else(|| Failure::Usage(format!("{typed:?}: {like}")))?;
        if limits.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::Usage(format!("{key} is given twice; give it once")));
        }
    }
    if let Some(time) = &args.for_ {
        spec::time(time).map_err(|error| Failure::Usage(format!("--for: {error}")))?;
    }
    let body = SetLimits { limits, for_: args.for_.clone(), persist: args.persist };
    let path = format!("/v1/workers/{}/limits", encoded(&args.name));
    settle(client.ask(Method::PATCH, &path, &body)?, args.output.format)
}

fn settle(answer: Result<Results, crate::api::wire::Problem>, format: Format) -> Result<Said, Failure> {
    let (results, exit) = match answer {
        Ok(results) => (results, Exit::Ok),
        Err(problem) => failed(problem)?,
    };
    let out = match format {
        Format::Table => render::outcomes(&results.results, &Asked::State),
        Format::Json => document(&results)?,
    };
    Ok(Said { out, err: render::failures(&results.results), exit })
}
