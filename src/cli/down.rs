//! `down`: every worker is stopped, then the supervisor, whose end is waited for.
//!
//! That it has ended is the kernel's word: pidfds of supervisor and keeper, opened while they answer, so that no number can be
//! another's by then.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::args::{Down, Format};
use super::ask::failed;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::{self, Asked};
use super::said::{Said, document};
use crate::api::wire::{Health, Results, Shutdown};
use crate::clock;
use crate::kernel::pidfd;
use crate::model::Mono;
use crate::spec;

/// `pinfold down`.
///
/// # Errors
/// [`Failure`], where nobody was asked, or nobody has answered.
pub fn down(args: &Down, client: &Client) -> Result<Said, Failure> {
    let timeout = args.timeout.as_deref().map(spec::time).transpose();
    let timeout = timeout.map_err(|e| Failure::Usage(format!("--timeout: {e}")))?;
    let client = &timeout.map_or_else(|| client.clone(), |timeout| client.clone().patient_for(timeout));
    let until = timeout.map(|timeout| clock::monotonic() + timeout);
    let processes = Processes::that_answer(client)?;
    let body = Shutdown { wait: !args.no_wait, timeout: args.timeout.clone() };
    let (results, mut exit) = match client.post::<Results>("/v1/shutdown", &body) {
        Ok(Ok(results)) => (results, Exit::Ok),
        Ok(Err(problem)) => failed(problem)?,
        Err(failure) => {
            // It broke off: whoever follows it goes on with the end, and what came of each worker is not known.
            processes.ended(until)?;
            return Err(failure);
        }
    };
    let out = match args.output.format {
        Format::Table => render::outcomes(&results.results, &Asked::State),
        Format::Json => document(&results)?,
    };
    let mut err = render::failures(&results.results);
    if !args.no_wait && exit != Exit::TimedOut && !processes.ended(until)? {
        err.push_str("pinfold: the supervisor has not ended in time, and goes on ending\n");
        exit = if exit == Exit::Ok { Exit::TimedOut } else { exit };
    }
    Ok(Said { out, err, exit })
}

/// Those of a supervisor and its keeper.
struct Processes {
    alive: Vec<OwnedFd>,
}

impl Processes {
    /// Of the supervisor that answers now.
    fn that_answer(client: &Client) -> Result<Self, Failure> {
        loop {
            let before: Health = client.get("/v1/health")?;
            let listener = client.listener()?;
            // The keeper's number is the supervisor's word, which counts where both of us count alike.
            let same_numbers = listener.is_some_and(|pid| u32::try_from(pid) == Ok(before.pid));
            let keeper = i32::try_from(before.keeper).ok().filter(|pid| same_numbers && *pid > 1);
            let opened = [listener, keeper].into_iter().flatten().map(pidfd::open).collect::<Result<Vec<_>, _>>();
            let after: Health = client.get("/v1/health")?;
            if (before.pid, before.keeper) != (after.pid, after.keeper) {
                // Another one meanwhile.
                continue;
            }
            let alive = opened.map_err(|e| Failure::failed("cannot watch the supervisor's end", e))?;
            return Ok(Self { alive });
        }
    }

    /// Waits until all of them have ended; `false` where they have not by then.
    fn ended(&self, until: Option<Mono>) -> Result<bool, Failure> {
        for process in &self.alive {
            let mut polled = [PollFd::new(process, PollFlags::IN)];
            loop {
                let left = until.map(|until| timespec(until.since(clock::monotonic())));
                match poll(&mut polled, left.as_ref()) {
                    Ok(0) => return Ok(false),
                    Ok(_) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(e) => {
                        return Err(Failure::failed("cannot watch the supervisor's end", std::io::Error::from(e)));
                    }
                }
            }
        }
        Ok(true)
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
