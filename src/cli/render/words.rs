//! Sentences and quantities, as a person reads them.

use std::{fmt::Write, time::Duration};

use crate::model::{AboveReading, Confidence, Evidence, ExitCause, ExitStatus, KilledBy, OomScope, UnknownWhy};
pub use crate::model::{duration, inert, inert_json, size};
use crate::spec::types::Spec;

/// Why a run ended, in one sentence without a full stop. `spec` is what it ran with: its limits and stop settings name
/// what was enforced.
#[must_use]
pub fn cause_sentence(cause: &ExitCause, confidence: Confidence, evidence: &Evidence, spec: &Spec) -> String {
    let mut sentence = match cause {
        ExitCause::Exited { code } => {
            // An end of its own, but perhaps not an undisturbed one.
            let mut sentence = format!("exited with code {code}");
            let growth = evidence.after.since(evidence.before);
            if let Some(killed) = growth.memory.map(|m| m.oom_kill).filter(|&n| n > 0) {
                let at = memory_max(spec);
                write_to(
                    &mut sentence,
                    format_args!(" after an out-of-memory kill inside it{at} (oom_kill +{killed})"),
                );
            }
            if let Some(refused) = growth.pids_max.filter(|&n| n > 0) {
                let at = spec.limits.pids.max.map(|max| format!(" at pids.max {max}")).unwrap_or_default();
                write_to(&mut sentence, format_args!("; forks refused{at} (max +{refused})"));
            }
            sentence
        }
        ExitCause::Signaled { signal, core } => {
            let core = if *core { " (core dumped)" } else { "" };
            format!("killed by {}{core}", signal_name(*signal))
        }
        ExitCause::Oom { scope } => oom(*scope, evidence, spec),
        ExitCause::Killed { by, policy } => killed(*by, policy.as_deref(), evidence, spec),
        ExitCause::KilledExternal => {
            "killed by a SIGKILL from outside: neither the kernel's OOM killer nor pinfold sent it".to_owned()
        }
        ExitCause::StartFailed { .. } => match &evidence.start_error {
            Some(error) => format!("could not start: {}", inert(&error.to_string())),
            None => cause.to_string(),
        },
        ExitCause::Unknown { why } => format!(
            "ended, and nobody can know why: {}",
            match why {
                UnknownWhy::SupervisorAway => "no supervisor was there to see it",
                UnknownWhy::CgroupRemoved => "its cgroup was removed by somebody else",
                UnknownWhy::HostRebooted => "the host was restarted",
            }
        ),
    };
    if confidence == Confidence::Likely {
        sentence.push_str(", most likely: the kernel's counters allow another reading");
    }
    sentence
}

fn oom(scope: OomScope, evidence: &Evidence, spec: &Spec) -> String {
    let above = evidence.above.as_deref();
    let reached = above.and_then(AboveReading::reached);
    let place = match scope {
        OomScope::Worker => format!("killed by the kernel{}", memory_max(spec)),
        OomScope::Ancestor => match reached {
            Some(level) => format!("killed by the kernel at the limit of {}, above its own cgroup", inert(&level.path)),
            None => "killed by the kernel at the limit of a cgroup above its own".to_owned(),
        },
        OomScope::Host => "the host ran out and the kernel chose it".to_owned(),
    };
    let there = match scope {
        OomScope::Worker => None,
        OomScope::Ancestor => reached.map(|level| format!("oom +{} there", level.after.since(level.before).oom)),
        OomScope::Host => above
            .and_then(|above| above.host)
            .map(|host| format!("oom_kill +{} on the whole host", host.after.saturating_sub(host.before))),
    };
    let peak = evidence.usage.and_then(|usage| usage.memory_peak_bytes).map(|peak| format!("peak {}", size(peak)));
    let growth = evidence.after.since(evidence.before);
    let kills = growth.local.or(growth.memory).map(|m| format!("oom_kill +{}", m.oom_kill));
    let facts: Vec<String> = [peak, kills, there].into_iter().flatten().collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("out of memory: {place}{facts}")
}

fn killed(by: KilledBy, policy: Option<&str>, evidence: &Evidence, spec: &Spec) -> String {
    let end = match evidence.status {
        Some(ExitStatus::Exited { code }) => format!("exited with code {code}"),
        Some(ExitStatus::Signaled { signal, .. }) => format!("ended by {}", signal_name(signal)),
        None => "ended".to_owned(),
    };
    match by {
        KilledBy::Stop => format!("stopped on request: {end}"),
        KilledBy::StopTimeout => format!(
            "killed: still there {} after it was asked to stop with {}",
            duration(spec.stop.timeout),
            signal_name(spec.stop.signal)
        ),
        KilledBy::Operator => "killed on request".to_owned(),
        KilledBy::Shutdown => format!("stopped because the supervisor goes down: {end}"),
        KilledBy::Policy => match policy {
            Some("timeout") => format!("stopped because its time had passed: {end}"),
            Some("health") => format!("stopped because its health check failed: {end}"),
            Some(resource) => format!("stopped by the policy of its {} limit: {end}", inert(resource)),
            None => format!("stopped by the policy of a limit: {end}"),
        },
    }
}

fn memory_max(spec: &Spec) -> String {
    spec.limits.memory.max.map(|max| format!(" at memory.max {}", size(max))).unwrap_or_default()
}

/// Appends to a `String`, which cannot fail.
fn write_to(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).unwrap_or_default();
}

/// A text of `lines`, each with its end.
#[must_use]
pub fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// `2h 5m` as `2h5m`, `3days4h`, `1m30s`, `12s`, `250ms`: the two greatest units, for a column.
#[must_use]
pub fn brief(time: Duration) -> String {
    let whole = if time < Duration::from_secs(1) {
        Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0))
    } else {
        Duration::from_secs(time.as_secs())
    };
    let mut text = humantime::format_duration(whole).to_string();
    if let Some((third, _)) = text.match_indices(' ').nth(1) {
        text.truncate(third);
    }
    text.retain(|c| c != ' ');
    text
}

/// `SIGTERM`, `SIGRTMIN+3`.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    // The model prints a cause by the same names.
    ExitCause::Signaled { signal, core: false }.to_string()
}

/// A text of lines that are our own making, each with its end, and nothing else in it that would steer a terminal.
#[must_use]
pub fn inert_lines(lines: &str) -> String {
    text(lines.lines().map(|line| inert(line).into_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Counters, HostOom, Level, MemoryEvents, Stage, StartError, Usage};

    pub(in crate::cli) fn evidence() -> Evidence {
        Evidence {
            status: None,
            before: Counters::default(),
            after: Counters::default(),
            usage: None,
            asked_by: None,
            above: None,
            start_error: None,
            wall_ms: 1234,
        }
    }

    fn spec() -> Spec {
        let mut spec = Spec::new(vec!["x".into()]);
        spec.limits.memory.max = Some(256 << 20);
        spec.limits.pids.max = Some(64);
        spec
    }

    fn say(cause: &ExitCause, evidence: &Evidence) -> String {
        cause_sentence(cause, Confidence::Certain, evidence, &spec())
    }

    fn oom_kills(n: u64) -> MemoryEvents {
        MemoryEvents { oom_kill: n, ..MemoryEvents::default() }
    }

    #[test]
    fn an_oom_names_limit_peak_and_the_growth_of_the_counter() {
        let mut evidence = evidence();
        evidence.before.local = Some(oom_kills(4));
        evidence.after.local = Some(oom_kills(5));
        evidence.usage = Some(Usage { memory_peak_bytes: Some((256 << 20) - 65536), ..Usage::default() });
        insta::assert_snapshot!(
            say(&ExitCause::Oom { scope: OomScope::Worker }, &evidence),
            @"out of memory: killed by the kernel at memory.max 256 MiB (peak 255.9 MiB, oom_kill +1)"
        );
        evidence.usage = None;
        insta::assert_snapshot!(
            say(&ExitCause::Oom { scope: OomScope::Host }, &evidence),
            @"out of memory: the host ran out and the kernel chose it (oom_kill +1)"
        );
    }

    #[test]
    fn an_oom_from_above_names_whose_memory_it_was() {
        let events = |oom| MemoryEvents { oom, ..MemoryEvents::default() };
        let level =
            |path: &str, grown: u64| Level { path: path.to_owned(), before: events(3), after: events(3 + grown) };
        let mut evidence = evidence();
        evidence.after.local = Some(oom_kills(1));
        let mut reading = AboveReading {
            levels: vec![
                level("/pinfold/workers/\u{1b}web.slice", 0),
                level("/pinfold/workers", 2),
                level("/pinfold", 1),
            ],
            complete: true,
            host: Some(HostOom { before: 7, after: 9 }),
        };
        evidence.above = Some(Box::new(reading.clone()));
        insta::assert_snapshot!(
            say(&ExitCause::Oom { scope: OomScope::Ancestor }, &evidence),
            @"out of memory: killed by the kernel at the limit of /pinfold/workers, above its own cgroup (oom_kill +1, oom +2 there)"
        );
        reading.levels[0].after.oom = 4;
        evidence.above = Some(Box::new(reading.clone()));
        insta::assert_snapshot!(
            say(&ExitCause::Oom { scope: OomScope::Ancestor }, &evidence),
            @r"out of memory: killed by the kernel at the limit of /pinfold/workers/\u{1b}web.slice, above its own cgroup (oom_kill +1, oom +1 there)"
        );
        insta::assert_snapshot!(
            say(&ExitCause::Oom { scope: OomScope::Host }, &evidence),
            @"out of memory: the host ran out and the kernel chose it (oom_kill +1, oom_kill +2 on the whole host)"
        );
    }

    #[test]
    fn an_exit_by_itself_tells_what_the_kernel_did_on_the_way() {
        let mut evidence = evidence();
        insta::assert_snapshot!(say(&ExitCause::Exited { code: 3 }, &evidence), @"exited with code 3");
        evidence.after = Counters { memory: Some(oom_kills(2)), pids_max: Some(9), ..Counters::default() };
        insta::assert_snapshot!(
            say(&ExitCause::Exited { code: 1 }, &evidence),
            @"exited with code 1 after an out-of-memory kill inside it at memory.max 256 MiB (oom_kill +2); forks refused at pids.max 64 (max +9)"
        );
    }

    #[test]
    fn a_kill_of_ours_says_for_whom() {
        let mut evidence = evidence();
        evidence.status = Some(ExitStatus::Signaled { signal: 15, core: false });
        let killed = |by, policy: Option<&str>| ExitCause::Killed { by, policy: policy.map(Into::into) };
        let all = [
            killed(KilledBy::Stop, None),
            killed(KilledBy::StopTimeout, None),
            killed(KilledBy::Operator, None),
            killed(KilledBy::Shutdown, None),
            killed(KilledBy::Policy, Some("pids")),
            killed(KilledBy::Policy, Some("health")),
            killed(KilledBy::Policy, Some("timeout")),
        ];
        let said: Vec<String> = all.iter().map(|cause| say(cause, &evidence)).collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        stopped on request: ended by SIGTERM
        killed: still there 30s after it was asked to stop with SIGTERM
        killed on request
        stopped because the supervisor goes down: ended by SIGTERM
        stopped by the policy of its pids limit: ended by SIGTERM
        stopped because its health check failed: ended by SIGTERM
        stopped because its time had passed: ended by SIGTERM
        ");
    }

    #[test]
    fn what_is_only_likely_says_so() {
        let said = cause_sentence(&ExitCause::KilledExternal, Confidence::Likely, &evidence(), &spec());
        assert!(said.ends_with("most likely: the kernel's counters allow another reading"), "{said}");
    }

    #[test]
    fn a_failed_start_cannot_write_to_the_terminal() {
        let mut evidence = evidence();
        let error = StartError::os(Stage::Exec, "/tmp/\u{1b}[2J\nx", nix::libc::ENOENT);
        let cause = ExitCause::StartFailed { stage: error.stage, errno: error.errno };
        evidence.start_error = Some(error);
        insta::assert_snapshot!(
            say(&cause, &evidence),
            @r"could not start: exec /tmp/\u{1b}[2J\nx: No such file or directory"
        );
    }

    #[test]
    fn a_column_has_the_two_greatest_units() {
        for (ms, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1999, "1s"),
            (90_500, "1m30s"),
            (7_500_000, "2h5m"),
            (7_200_000, "2h"),
            (7_205_000, "2h5s"),
            (273_600_000, "3days4h"),
        ] {
            assert_eq!(brief(Duration::from_millis(ms)), text, "{ms}");
        }
    }
}
