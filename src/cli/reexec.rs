//! `reexec`: the supervisor is asked for another binary, and the next one for what has come of it.

use std::time::Duration;

use serde::Serialize;

use super::args::{Format, Reexec};
use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::inert;
use super::said::{Said, document};
use crate::api::wire::{self, Health};
use crate::clock;
use crate::spec;

/// Between two looks for the next supervisor: there is nothing to wait on while nobody listens.
const LOOK: Duration = Duration::from_millis(50);

/// What has come of it, as JSON.
#[derive(Serialize)]
struct Done {
    binary: String,
    version: String,
    replaces: String,
    supervisor: u32,
    reexecs: u32,
}

/// `pinfold reexec`.
///
/// # Errors
/// [`Failure`]: refused, not executed after all, or not in time.
pub fn reexec(args: &Reexec, client: &Client) -> Result<Said, Failure> {
    let timeout = spec::time(&args.timeout).map_err(|e| Failure::Usage(format!("--timeout: {e}")))?;
    let client = &client.clone().patient_for(timeout);
    let accepted: wire::Reexec =
        client.post("/v1/reexec", &serde_json::json!({}))?.map_err(|problem| Failure::Answered(Box::new(problem)))?;
    let next = next_supervisor(client, &accepted, timeout)?;
    if next.reexecs <= accepted.reexecs {
        let why = next.previous.unwrap_or_else(|| "its predecessor does not say why".to_owned());
        return Err(Failure::failed(format!("the binary was not replaced, version {} goes on", next.version), why));
    }
    let wire::Reexec { binary, replaces, .. } = accepted;
    let done = Done { binary, version: next.version, replaces, supervisor: next.pid, reexecs: next.reexecs };
    let out = match args.output.format {
        Format::Table => format!("{} runs: version {}, before {}\n", inert(&done.binary), done.version, done.replaces),
        Format::Json => document(&done)?,
    };
    Ok(Said { out, err: String::new(), exit: Exit::Ok })
}

#[expect(clippy::disallowed_methods, reason = "a socket on which nobody listens yet cannot be waited for")]
fn next_supervisor(client: &Client, before: &wire::Reexec, timeout: Duration) -> Result<Health, Failure> {
    let begun = clock::monotonic();
    loop {
        match client.get::<Health>("/v1/health") {
            Ok(health) if health.pid != before.pid => return Ok(health),
            _ => {}
        }
        if clock::monotonic().since(begun) >= timeout {
            let why = format!("no new supervisor has answered for {}", humantime::format_duration(timeout));
            return Err(Failure::failed("the new binary was accepted", why));
        }
        std::thread::sleep(LOOK);
    }
}
