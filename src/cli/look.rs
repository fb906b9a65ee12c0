//! `ps`, `status`, `inspect`, `count`, `why` and `history`: what is read of a supervisor.

use serde::de::DeserializeOwned;
use serde_json::json;

use super::args::{self, Count, Format, Named, Ps};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, Listed, Reader};
use super::said::{Said, document};
use crate::api::wire::{Glimpses, History, Inspection, Why, Worker, Workers};
use crate::model::State;

/// `pinfold ps`.
///
/// # Errors
/// [`Failure`].
pub fn ps(args: &Ps, client: &Client, reader: &Reader) -> Result<Said, Failure> {
    let pattern = args.pattern.as_deref();
    match (args.output.format, args.quiet) {
        (Format::Json, false) => {
            let Workers { generation, mut workers } = list(client, pattern, true)?;
            workers.retain(|worker| args.all || worker.is_of_interest());
            Ok(Said { out: document(&Workers { generation, workers })?, err: String::new(), exit: Exit::Ok })
        }
        (format, quiet) => {
            // Names cost no reading.
            let Glimpses { mut workers } = list(client, pattern, !quiet)?;
            let matched = workers.len();
            workers.retain(|worker| args.all || worker.is_of_interest());
            let names = || workers.iter().map(|worker| &worker.id);
            let out = match (format, quiet) {
                (Format::Json, _) => document(&names().collect::<Vec<_>>())?,
                (Format::Table, true) => render::text(names().map(ToString::to_string)),
                (Format::Table, false) => render::worker_table(&workers, reader),
            };
            // Whoever sees nothing and expected something is told.
            let nothing = workers.is_empty() && matched > 0 && !quiet;
            let err = if nothing { format!("pinfold: {}\n", resting(matched)) } else { String::new() };
            Ok(Said { out, err, exit: Exit::Ok })
        }
    }
}

fn resting(hidden: usize) -> String {
    match hidden {
        1 => "1 worker rests, which -a shows".to_owned(),
        n => format!("{n} workers rest, which -a shows"),
    }
}

/// `pinfold status`.
///
/// # Errors
/// [`Failure`].
pub fn status(args: &Named, client: &Client, reader: &Reader) -> Result<Said, Failure> {
    let worker: Worker = client.get(&format!("/v1/workers/{}?usage=true", encoded(&args.name)))?;
    let out = match args.output.format {
        Format::Table => render::worker_status(&worker, reader),
        Format::Json => document(&worker)?,
    };
    let exit = if worker.state == State::Running { Exit::Ok } else { Exit::NotRunning };
    Ok(Said { out, err: String::new(), exit })
}

/// `pinfold inspect`.
///
/// # Errors
/// [`Failure`].
pub fn inspect(args: &Named, client: &Client, reader: &Reader) -> Result<Said, Failure> {
    let inspection: Inspection = client.get(&format!("/v1/workers/{}/inspect", encoded(&args.name)))?;
    let out = match args.output.format {
        Format::Table => render::inspection(&inspection, reader),
        Format::Json => document(&inspection)?,
    };
    Ok(Said { out, err: String::new(), exit: Exit::Ok })
}

/// `pinfold count`.
///
/// # Errors
/// [`Failure`].
pub fn count(args: &Count, client: &Client) -> Result<Said, Failure> {
    let Glimpses { workers } = list(client, args.pattern.as_deref(), false)?;
    let running = workers.iter().filter(|worker| worker.state == State::Running).count();
    let out = match args.output.format {
        Format::Table => format!("{running}\n"),
        Format::Json => document(&json!({ "running": running, "workers": workers.len() }))?,
    };
    Ok(Said { out, err: String::new(), exit: Exit::Ok })
}

/// `pinfold why`.
///
/// # Errors
/// [`Failure`].
pub fn why(args: &Named, client: &Client, reader: &Reader) -> Result<Said, Failure> {
    let why: Why = client.get(&format!("/v1/workers/{}/why", encoded(&args.name)))?;
    let out = match args.output.format {
        Format::Table => render::why(&why, reader),
        Format::Json => document(&why)?,
    };
    Ok(Said { out, err: String::new(), exit: Exit::Ok })
}

/// `pinfold history`.
///
/// # Errors
/// [`Failure`].
pub fn history(args: &args::History, client: &Client, reader: &Reader) -> Result<Said, Failure> {
    let path = format!("/v1/history?worker={}&limit={}", encoded(&args.name), args.number);
    let history: History = client.get(&path)?;
    let out = match args.output.format {
        Format::Table => render::history_table(&history, reader),
        Format::Json => document(&history)?,
    };
    let nothing = history.runs.is_empty() && args.output.format == Format::Table;
    let err = if nothing { format!("pinfold: {} has not run yet\n", history.worker) } else { String::new() };
    Ok(Said { out, err, exit: Exit::Ok })
}

fn list<T: DeserializeOwned>(client: &Client, pattern: Option<&str>, usage: bool) -> Result<T, Failure> {
    client.get(&format!("/v1/workers?pattern={}&usage={usage}", encoded(pattern.unwrap_or_default())))
}
