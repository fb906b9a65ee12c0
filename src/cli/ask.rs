//! `start`, `stop`, `restart`, `kill`, `signal`, `reset`, `freeze` and `thaw`: what is asked of workers.

use super::args::{Format, FormatArg, Whom};
use super::client::{Client, encoded};
use super::exit::{self, Exit, Failure};
use super::render::{self, Asked, signal_name};
use super::said::{Said, document};
use crate::api::wire::{Ask, Problem, Results, Word};
use crate::spec;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// To be up.
    Start,
    /// To be down.
    Stop,
    /// A new run.
    Restart {
        /// Also while the restart breaker is open.
        force: bool,
    },
    /// To be down at once.
    Kill,
    /// A signal, as it was typed.
    Signal(String),
    /// To close the restart breaker.
    Reset,
    /// To stand still.
    Freeze,
    /// To go on.
    Thaw,
}

impl Verb {
    const fn path(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart { .. } => "restart",
            Self::Kill => "kill",
            Self::Signal(_) => "signal",
            Self::Reset => "reset",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// Asks, and tells what came of it.
///
/// # Errors
/// [`Failure`], where nobody was asked.
pub fn ask(verb: &Verb, whom: &Whom, output: FormatArg, client: &Client) -> Result<Said, Failure> {
    let asked = match verb {
        Verb::Signal(typed) => {
            let like = "a name like HUP or RTMIN+3, or a number from 1 to 64";
            let number = spec::signal(typed);
            let number = number.ok_or_else(|| Failure::Usage(format!("SIG: {typed:?} is no signal; write {like}")))?;
            Asked::Signal(signal_name(number))
        }
        Verb::Reset => Asked::Reset,
        _ => Asked::State,
    };
    let timeout = whom.timeout.as_deref().map(spec::time).transpose();
    let timeout = timeout.map_err(|e| Failure::Usage(format!("--timeout: {e}")))?;
    let client = timeout.map_or_else(|| client.clone(), |timeout| client.clone().patient_for(timeout));
    let body = Ask {
        wait: !whom.no_wait,
        timeout: whom.timeout.clone(),
        force: matches!(verb, Verb::Restart { force: true }),
        signal: if let Verb::Signal(typed) = verb { Some(typed.clone()) } else { None },
    };
    // An empty word means all, as everywhere, but is no segment of a path; in a list it is a mistake, and told as one.
    let patterns = if whom.patterns == [""] { "*".to_owned() } else { whom.patterns.join(",") };
    let path = format!("/v1/workers/{}/{}", encoded(&patterns), verb.path());
    let (results, exit) = match client.post::<Results>(&path, &body)? {
        Ok(results) => (results, Exit::Ok),
        Err(problem) => failed(problem)?,
    };
    let out = match output.format {
        Format::Table => render::outcomes(&results.results, &asked),
        Format::Json => document(&results)?,
    };
    Ok(Said { out, err: render::failures(&results.results), exit })
}

/// What came of it for each worker, where workers were asked.
pub(super) fn failed(problem: Problem) -> Result<(Results, Exit), Failure> {
    if problem.results.iter().all(|settled| settled.outcome != Word::Failed) {
        return Err(Failure::Answered(Box::new(problem)));
    }
    Ok((Results { results: problem.results }, exit::of_code(problem.code)))
}
