//! `status`: one worker in words.

use std::time::Duration;

use super::reader::{Reader, Tone, state_words};
use super::words::{brief, duration, inert, size, text};
use super::workers::next;
use crate::api::wire::{Breaker, Worker};
use crate::model::{BreakerState, Detail, KilledBy, PolicyName, Readiness};

/// A head line, and a line for each thing that there is to say, each with its end.
#[must_use]
pub fn worker_status(worker: &Worker, reader: &Reader) -> String {
    let age = brief(Duration::from_millis(worker.age_ms));
    let state = reader.painted(Tone::of(worker.detail), &state_words(worker.state, worker.detail));
    let head = format!("{} is {state}, since {} ({age})", worker.id, reader.date(&worker.since));
    text([head].into_iter().chain(facts(worker).into_iter().map(|(what, said)| format!("  {what:<11} {said}"))))
}

fn facts(worker: &Worker) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    match (worker.pid, worker.run) {
        (Some(pid), run) => facts.push(("process", format!("{pid} (run {run})"))),
        (None, 0) => {}
        (None, run) => facts.push(("last run", run.to_string())),
    }
    if worker.declared_as != worker.id {
        facts.push(("instance of", worker.declared_as.to_string()));
    }
    facts.extend(usage(worker).map(|used| ("uses", used)));
    facts.push(("wish", wish(worker)));
    facts.push(("restarts", restarts(worker)));
    facts.extend(worker.breaker.iter().map(|class| ("breaker", breaker(class))));
    if !worker.violations.is_empty() {
        let limits: Vec<_> = worker.violations.iter().map(|limit| limit.as_str()).collect();
        facts.push(("violates", limits.join(", ")));
    }
    facts.extend(worker.cause.as_ref().map(|cause| ("last end", inert(&cause.to_string()).into_owned())));
    facts
        .extend(next(worker.next_attempt_in_ms, &worker.breaker).map(|due| ("next try", format!("in {}", brief(due)))));
    if worker.detail == Detail::Running(Readiness::Frozen) {
        facts.push(("frozen", format!("every process stands still; pinfold thaw {} lets it go on", worker.id)));
    }
    facts.extend(worker.stuck_on.as_ref().map(|what| ("stuck on", inert(what).into_owned())));
    facts
}

fn usage(worker: &Worker) -> Option<String> {
    let usage = worker.usage?;
    let memory = usage.memory_bytes.map(|bytes| format!("{} of memory", size(bytes)));
    let cpu = usage.cpu_usec.map(|usec| format!("{} of CPU time", duration(Duration::from_micros(usec))));
    let pids =
        usage.pids.map(|n| if n == 1 { "1 process or thread".into() } else { format!("{n} processes and threads") });
    let parts: Vec<String> = [memory, cpu, pids].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What it should be, and who says so.
fn wish(worker: &Worker) -> String {
    if worker.desired_up {
        return "up".to_owned();
    }
    let who = match worker.down_by {
        None => return "down".to_owned(),
        Some(KilledBy::Policy) => {
            let whose = worker.down_policy.map_or("own", PolicyName::as_str);
            format!("its {whose} policy; a start brings it up again")
        }
        Some(KilledBy::Shutdown) => "the supervisor, which goes down".to_owned(),
        Some(KilledBy::Stop | KilledBy::StopTimeout) => "somebody who asked for a stop".to_owned(),
        Some(KilledBy::Operator) => "somebody who asked for a kill".to_owned(),
    };
    format!("down, by {who}")
}

fn restarts(worker: &Worker) -> String {
    let by = worker.restarts_by;
    let classes = [("after an exit", by.exit), ("by a health check", by.health), ("by a violation", by.violation)];
    let named: Vec<String> = classes.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    match (worker.restarts, named.as_slice()) {
        (0, _) => "none".to_owned(),
        (n, []) => n.to_string(),
        (n, named) => format!("{n}: {}", named.join(", ")),
    }
}

fn breaker(class: &Breaker) -> String {
    let used = match class.max_attempts {
        Some(max) => format!("{} of {max} restarts used", class.attempts),
        None => format!("{} restarts in a row", class.attempts),
    };
    let trial = class.until_in_ms.map(|ms| format!(", a trial in {}", brief(Duration::from_millis(ms))));
    let state = match class.state {
        BreakerState::Closed => String::new(),
        BreakerState::Open => format!("open{}: ", trial.as_deref().unwrap_or(", until somebody closes it")),
        BreakerState::HalfOpen => "half-open, a trial runs: ".to_owned(),
    };
    format!("{}: {state}{used}", class.class.as_str())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
