//! `why`: the last end, from which evidence, what was decided by which rule, and what to change.

use std::time::Duration;

use super::reader::{Reader, Tone, state_words};
use super::words::{brief, cause_sentence, duration, inert, signal_name, size, text};
use super::workers::next;
use crate::api::wire::{Limits, Why};
use crate::model::{
    Counters, Decision, Event, EventKind, Evidence, ExitCause, ExitStatus, KilledBy, MemoryEvents, OomScope, Stage,
    Usage, Verdict,
};
use crate::spec::types::Spec;

/// All of it, each line with its end.
#[must_use]
pub fn why(why: &Why, reader: &Reader) -> String {
    let id = &why.worker.id;
    let Some((exited, cause, evidence)) = why.exited.as_ref().and_then(|event| match &event.kind {
        EventKind::Exited { cause, evidence, .. } => Some((event, cause, evidence)),
        _ => None,
    }) else {
        let state = state_words(why.worker.state, why.worker.detail);
        return format!("{id} has not ended since the supervisor knows it; it is {state}\n");
    };
    let parts = [
        ("Evidence", proof(evidence, usage(why).as_ref())),
        ("Before it", before(why, exited.run, reader)),
        ("Decided", why.decisions.iter().flat_map(|event| decided(event, reader)).collect()),
        ("Now", vec![now(why, reader)]),
        ("What to change", advice(cause, evidence, why)),
    ];
    let told = parts.into_iter().filter(|(_, lines)| !lines.is_empty()).flat_map(|(name, lines)| {
        let lines = lines.into_iter().map(|line| format!("  {line}"));
        [String::new(), name.to_owned()].into_iter().chain(lines)
    });
    head(why, exited, cause, evidence, reader) + &text(told)
}

fn head(why: &Why, exited: &Event, cause: &ExitCause, evidence: &Evidence, reader: &Reader) -> String {
    let EventKind::Exited { confidence, .. } = exited.kind else { return String::new() };
    let evidence = Evidence { usage: evidence.usage.or(usage(why)), ..evidence.clone() };
    let sentence = cause_sentence(cause, confidence, &evidence, &held_to(&why.limits));
    let tone = match cause {
        ExitCause::Exited { code: 0 } | ExitCause::Killed { by: KilledBy::Stop | KilledBy::Shutdown, .. } => {
            Tone::Plain
        }
        _ => Tone::Bad,
    };
    let run = exited.run.map_or_else(String::new, |run| format!("run {run}, "));
    let lived = match cause {
        ExitCause::StartFailed { .. } => String::new(),
        _ => format!("lived {}, ", duration(Duration::from_millis(evidence.wall_ms))),
    };
    let ended = reader.date(&exited.time);
    let ago = exited.time.parse().ok().and_then(|at| reader.now.duration_since(at).try_into().ok());
    let ago = ago.map(|ago: Duration| format!(" ({} ago)", brief(ago))).unwrap_or_default();
    format!("{}: {}\n  {run}{lived}ended {ended}{ago}\n", why.worker.id, reader.painted(tone, &sentence))
}

/// A spec of what the worker is held to, for the sentence.
fn held_to(limits: &Limits) -> Spec {
    let mut spec = Spec::new(Vec::new());
    spec.limits.memory.max = limits.memory_max_bytes;
    spec.limits.memory.high = limits.memory_high_bytes;
    spec.limits.pids.max = limits.pids_max;
    spec.stop.signal = limits.stop_signal;
    spec.stop.timeout = Duration::from_millis(limits.stop_timeout_ms);
    spec
}

fn usage(why: &Why) -> Option<Usage> {
    match why.usage.as_ref().map(|event| &event.kind) {
        Some(EventKind::Usage { usage }) => Some(*usage),
        _ => None,
    }
}

/// What the cause was decided from: the wait status, and every counter that grew, before and after.
fn proof(evidence: &Evidence, usage: Option<&Usage>) -> Vec<String> {
    let mut lines = Vec::new();
    match evidence.status {
        Some(ExitStatus::Exited { code }) => lines.push(format!("wait status: exited with code {code}")),
        Some(ExitStatus::Signaled { signal, core }) => {
            let core = if core { ", core dumped" } else { "" };
            lines.push(format!("wait status: ended by {}{core}", signal_name(signal)));
        }
        None if evidence.start_error.is_none() => lines.push("wait status: nobody saw it".to_owned()),
        None => {}
    }
    if let Some(by) = evidence.asked_by {
        lines.push(format!("pinfold had asked it to end: {}", asked_by(by)));
    }
    lines.extend(grown(&evidence.before, &evidence.after));
    for level in evidence.above.iter().flat_map(|above| &above.levels) {
        let file = format!("memory.events.local of {}", inert(&level.path));
        lines.extend(memory_grown(&file, level.before, level.after));
    }
    if let Some(host) = evidence.above.as_ref().and_then(|above| above.host).filter(|host| host.after > host.before) {
        lines.push(format!("oom_kill of /proc/vmstat: {} → {}", host.before, host.after));
    }
    lines.extend(usage.and_then(used));
    lines
}

const fn asked_by(by: KilledBy) -> &'static str {
    match by {
        KilledBy::Stop | KilledBy::StopTimeout => "a requested stop",
        KilledBy::Operator => "a requested kill",
        KilledBy::Shutdown => "the supervisor's end",
        KilledBy::Policy => "a policy",
    }
}

fn grown(before: &Counters, after: &Counters) -> Vec<String> {
    let mut lines = Vec::new();
    let local = after.local.map(|now| (before.local.unwrap_or_default(), now));
    let all = after.memory.map(|now| (before.memory.unwrap_or_default(), now));
    if let Some((then, now)) = local {
        lines.extend(memory_grown("memory.events.local", then, now));
    }
    // The same again, unless a cgroup below it did something.
    if let Some((then, now)) = all.filter(|all| Some(*all) != local) {
        lines.extend(memory_grown("memory.events", then, now));
    }
    let (then, now) = (before.pids_max.unwrap_or(0), after.pids_max.unwrap_or(0));
    if now > then {
        lines.push(format!("pids.events: max {then} → {now}"));
    }
    let unread = [("memory", after.memory.is_none()), ("pids", after.pids_max.is_none())];
    let unread: Vec<_> = unread.iter().filter(|(_, absent)| *absent).map(|(name, _)| *name).collect();
    match (lines.is_empty(), unread.is_empty()) {
        (true, true) => lines.push("counters: none of the kernel's grew".to_owned()),
        (_, false) => lines.push(format!("counters: none to read of {} (no controller)", unread.join(" and "))),
        (false, true) => {}
    }
    lines
}

fn memory_grown(file: &str, then: MemoryEvents, now: MemoryEvents) -> Option<String> {
    let all = [
        ("high", then.high, now.high),
        ("max", then.max, now.max),
        ("oom", then.oom, now.oom),
        ("oom_kill", then.oom_kill, now.oom_kill),
        ("oom_group_kill", then.oom_group_kill, now.oom_group_kill),
    ];
    let grown: Vec<String> =
        all.iter().filter(|(_, a, b)| b > a).map(|(name, a, b)| format!("{name} {a} → {b}")).collect();
    (!grown.is_empty()).then(|| format!("{file}: {}", grown.join(", ")))
}

fn used(usage: &Usage) -> Option<String> {
    let peak = usage.memory_peak_bytes.map(|bytes| format!("memory peak {}", size(bytes)));
    let cpu = usage.cpu_usec.map(|usec| format!("CPU time {}", duration(Duration::from_micros(usec))));
    let throttled = usage.cpu_throttled_usec.filter(|usec| *usec > 0);
    let throttled = throttled.map(|usec| format!("throttled for {}", duration(Duration::from_micros(usec))));
    let pids = usage.pids_peak.map(|n| format!("pids peak {n}"));
    let parts: Vec<String> = [peak, cpu, throttled, pids].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("used: {}", parts.join(", ")))
}

/// Violations and a failed check of the run that ended.
fn before(why: &Why, run: Option<u32>, reader: &Reader) -> Vec<String> {
    let mut events: Vec<&Event> = why.violations.iter().chain(&why.health).filter(|e| e.run == run).collect();
    events.sort_by_key(|event| event.seq);
    let said = |event: &&Event| {
        let what = match &event.kind {
            EventKind::Violation { limit, severity, observed, configured, .. } => {
                let (severity, observed, configured) = (inert(severity), inert(observed), inert(configured));
                format!("{limit} ({severity}): {observed}; configured: {configured}")
            }
            EventKind::Health { probe, healthy, observed } => {
                let word = if *healthy { "passed" } else { "failed" };
                format!("{} check {word}: {}", inert(probe), inert(observed))
            }
            _ => return None,
        };
        Some(format!("{} {what}", reader.time(&event.time)))
    };
    events.iter().filter_map(said).collect()
}

fn decided(event: &Event, reader: &Reader) -> Vec<String> {
    let EventKind::Decision(decision) = &event.kind else { return Vec::new() };
    let time = reader.time(&event.time);
    let attempt = match (decision.attempt, decision.max_attempts) {
        (Some(k), Some(max)) => format!(", attempt {k} of {max}"),
        (Some(k), None) => format!(", attempt {k}"),
        (None, _) => String::new(),
    };
    let rule = format!("rule: {}", inert(&decision.rule));
    let policy = format!("policy: {}", inert(&decision.policy));
    vec![format!("{time} {}{attempt}", verdict(decision)), format!("{:w$} {rule}; {policy}", "", w = time.len())]
}

fn verdict(decision: &Decision) -> String {
    match decision.verdict {
        Verdict::Restart => match decision.delay_ms.unwrap_or(0) {
            0 => "a new run at once".to_owned(),
            ms => format!("a new run in {}", duration(Duration::from_millis(ms))),
        },
        Verdict::Stay => "it stays as it is".to_owned(),
        Verdict::GiveUp => "given up".to_owned(),
        Verdict::Record => "recorded, nothing else".to_owned(),
        Verdict::Stop => "stopped for good".to_owned(),
        Verdict::Kill => "killed for good".to_owned(),
        Verdict::Hold => "held down: its restart breaker is open".to_owned(),
    }
}

fn now(why: &Why, reader: &Reader) -> String {
    let worker = &why.worker;
    let state = reader.painted(Tone::of(worker.detail), &state_words(worker.state, worker.detail));
    let due = next(worker.next_attempt_in_ms, &worker.breaker)
        .map(|due| format!(", next try in {}", brief(due)))
        .unwrap_or_default();
    match worker.pid {
        Some(pid) => format!("{state}, run {}, pid {pid}{due}", worker.run),
        None => format!("{state}{due}"),
    }
}

/// What a person could do about it. Nothing where nothing is wrong.
fn advice(cause: &ExitCause, evidence: &Evidence, why: &Why) -> Vec<String> {
    let mut lines = Vec::new();
    let limits = &why.limits;
    let refused_forks = evidence.after.since(evidence.before).pids_max.unwrap_or(0) > 0;
    if refused_forks {
        let max = limits.pids_max.map_or_else(String::new, |max| format!(" (now {max})"));
        lines.push(format!("raise limits.pids.max{max}, or find what forks so much"));
    }
    let its_output = || why.stderr.as_ref().map(|file| format!("what it said last: {}", inert(file)));
    match cause {
        ExitCause::Exited { code: 0 }
        | ExitCause::Killed { by: KilledBy::Stop | KilledBy::Operator | KilledBy::Shutdown, .. }
        | ExitCause::Unknown { .. } => {}
        ExitCause::Exited { .. } => lines.extend(its_output()),
        ExitCause::Signaled { signal, core } => {
            lines.extend(its_output());
            let crash =
                [nix::libc::SIGSEGV, nix::libc::SIGBUS, nix::libc::SIGABRT, nix::libc::SIGILL, nix::libc::SIGFPE];
            if crash.contains(signal) && !core {
                lines.push("a crash of the program; limits.process.max_core_size lets it leave a core dump".to_owned());
            } else if !crash.contains(signal) {
                lines.push(format!("find who sends it {}: no part of pinfold did", signal_name(*signal)));
            }
        }
        ExitCause::Oom { scope: OomScope::Worker } => {
            let max = limits.memory_max_bytes.map_or_else(String::new, |max| format!(" (now {})", size(max)));
            lines.push(format!("raise limits.memory.max_rss{max}, or find what it keeps in memory"));
            if limits.memory_high_bytes.is_none() {
                lines.push("limits.memory.high gives warning before it comes to this".to_owned());
            }
        }
        ExitCause::Oom { scope: OomScope::Ancestor } => {
            lines
                .push("a budget above its own ran out: raise it, or hold the workers that share it to less".to_owned());
        }
        ExitCause::Oom { scope: OomScope::Host } => {
            lines.push("the host ran out: hold every worker to a limits.memory.max_rss, so that all fit".to_owned());
        }
        ExitCause::Killed { by: KilledBy::StopTimeout, .. } => {
            let (signal, timeout) = (limits.stop_signal, Duration::from_millis(limits.stop_timeout_ms));
            lines.push(format!(
                "let it end within {} of {}, raise stop.timeout, or choose the stop.signal that it obeys",
                duration(timeout),
                signal_name(signal)
            ));
        }
        ExitCause::Killed { by: KilledBy::Policy, policy } if policy.as_deref() == Some("health") => {
            lines.push("mend what the check asks about, or give it more time (timeout, failure_threshold)".to_owned());
        }
        ExitCause::Killed { by: KilledBy::Policy, policy } => {
            let resource = policy.as_deref().map_or("of its limit".into(), inert);
            lines.push(format!("raise the limit, or give it another policy (policy {resource}); then start it again"));
        }
        ExitCause::KilledExternal => lines.push(
            "find who kills on this host: a person, another manager, a memory daemon (systemd-oomd, earlyoom)"
                .to_owned(),
        ),
        ExitCause::StartFailed { stage, errno } => lines.extend(start_advice(*stage, *errno).map(str::to_owned)),
    }
    let held = matches!(
        why.decisions.last().map(|e| &e.kind),
        Some(EventKind::Decision(Decision { verdict: Verdict::Hold | Verdict::GiveUp, .. }))
    );
    if held {
        lines.push(format!("when that is mended: pinfold start {}", why.worker.id));
    }
    lines
}

const fn start_advice(stage: Stage, errno: i32) -> Option<&'static str> {
    use nix::libc;
    Some(match (stage, errno) {
        (Stage::Exec, libc::ENOENT) => "name a program that is there: command, PATH in env, the first line of a script",
        (Stage::Exec, libc::EACCES) => "make the program executable for its user, or name another in command",
        (Stage::Exec, libc::ENOEXEC) => "name a program of this machine in command, or use shell: true",
        (Stage::EnvFile, _) => {
            "name an env_file that is there and can be read, or write `-` before one that may be missing"
        }
        (Stage::User, _) => "name a user and group that this host knows",
        (Stage::Chdir, _) => "name a working_directory that is there and open to its user",
        (Stage::Limit | Stage::Cgroup, _) => "see `pinfold doctor`: what this host can enforce, and how it is mended",
        (Stage::Rlimit, _) => "lower what limits.process asks for",
        (Stage::Timeout, _) => "look whether its program lies on a file system that does not answer",
        (Stage::Spawn | Stage::Keeper | Stage::Clone | Stage::Membership, _) => {
            "not the worker's fault: look at the host (memory, processes) and at the supervisor's stderr"
        }
        _ => return None,
    })
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
