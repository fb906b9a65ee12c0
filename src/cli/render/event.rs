//! The lines of `up`: an event as a person reads it, or as the program's JSON line.

use std::{collections::BTreeMap, sync::Arc};

use anstyle::{Effects, Style};
use jiff::Timestamp;

use super::reader::{Tone, Zone};
use super::words::{cause_sentence, duration, inert, inert_json};
use crate::model::{
    BreakerState, Decision, Detail, Event, EventKind, ExitCause, KilledBy, Readiness, State, StoppingDetail, Trigger,
    Verdict, WorkerId,
};
use crate::spec::types::{Spec, Worker};

/// Turns events into lines. Knows the workers, to name the limits that ended them and to align their names.
#[derive(Debug)]
pub struct EventLines {
    specs: BTreeMap<WorkerId, Arc<Spec>>,
    width: usize,
    zone: Zone,
    colour: bool,
}

/// Who speaks where no worker does.
const OURSELVES: &str = "pinfold";

impl EventLines {
    /// Lines about `workers`, with times of `zone`, coloured or not.
    #[must_use]
    pub fn new<'a>(workers: impl IntoIterator<Item = &'a Worker>, zone: Zone, colour: bool) -> Self {
        let specs: BTreeMap<_, _> =
            workers.into_iter().map(|worker| (worker.id.clone(), Arc::clone(&worker.spec))).collect();
        let width = specs.keys().map(|id| id.as_str().len()).chain([OURSELVES.len()]).max().unwrap_or(0);
        Self { specs, width, zone, colour }
    }

    /// The same where nothing but names is known.
    #[must_use]
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a WorkerId>, zone: Zone, colour: bool) -> Self {
        let longest = names.into_iter().map(|id| id.as_str().len()).max().unwrap_or(0);
        Self { specs: BTreeMap::new(), width: longest.max(OURSELVES.len()), zone, colour }
    }

    /// The columns that the names take: the same for [`super::Prefixer`], so that both align.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The event's line without its end; `None` for one that tells a person nothing beside the others.
    #[must_use]
    pub fn line(&self, event: &Event) -> Option<String> {
        let (tone, message) = self.message(event)?;
        let time = event.time.parse::<Timestamp>().map_or_else(
            |_| inert(&event.time).into_owned(),
            |time| time.to_zoned(self.zone.get().clone()).strftime("%H:%M:%S%.3f").to_string(),
        );
        let name = event.worker.as_ref().map_or(OURSELVES, WorkerId::as_str);
        let width = self.width;
        Some(if self.colour {
            let (dim, style) = (Style::new().effects(Effects::DIMMED), tone.style());
            format!("{dim}{time}{dim:#} {name:<width$} {style}{message}{style:#}")
        } else {
            format!("{time} {name:<width$} {message}")
        })
    }

    fn message(&self, event: &Event) -> Option<(Tone, String)> {
        Some(match &event.kind {
            EventKind::State { state, detail } => return stage(*state, *detail),
            EventKind::Started { pid } => (Tone::Good, format!("started (pid {pid})")),
            EventKind::Exited { cause, confidence, evidence } => {
                let spec = event.worker.as_ref().and_then(|id| self.specs.get(id));
                let sentence = match spec {
                    Some(spec) => cause_sentence(cause, *confidence, evidence, spec),
                    None => inert(&cause.to_string()).into_owned(),
                };
                // The others have a verb of their own.
                let sentence = match cause {
                    ExitCause::Oom { .. } => format!("exited: {sentence}"),
                    _ => sentence,
                };
                (tone_of(cause), sentence)
            }
            // Numbers for the table and for programs.
            EventKind::Usage { .. } | EventKind::Sample { .. } => return None,
            EventKind::Violation { limit, severity, observed, .. } => {
                let tone = if severity == "warning" { Tone::Warn } else { Tone::Bad };
                (tone, format!("limit hit: {limit} ({}): {}", inert(severity), inert(observed)))
            }
            EventKind::Recovered { limit, after_ms, .. } => {
                let lasted = duration(std::time::Duration::from_millis(*after_ms));
                (Tone::Good, format!("limit kept again: {limit}, after {lasted}"))
            }
            EventKind::Breaker { class, state, rule, .. } => {
                let tone = if *state == BreakerState::Closed { Tone::Good } else { Tone::Bad };
                (tone, format!("breaker {} for {} restarts: {}", words_of(*state), class.as_str(), inert(rule)))
            }
            EventKind::Health { probe, healthy, observed } => {
                let (tone, word) = if *healthy { (Tone::Good, "passes") } else { (Tone::Bad, "fails") };
                (tone, format!("{} check {word}: {}", inert(probe), inert(observed)))
            }
            EventKind::LimitChanged { file, value, why } => {
                (Tone::Plain, format!("{} is now {}: {}", inert(file), inert(value), inert(why)))
            }
            EventKind::LogDropped { stream, why, bytes: None } => {
                (Tone::Bad, format!("output is dropped ({stream}): {}", inert(why)))
            }
            EventKind::LogDropped { stream, why, bytes: Some(bytes) } => {
                (Tone::Warn, format!("output is kept again ({stream}); {bytes} bytes were dropped: {}", inert(why)))
            }
            EventKind::Decision(decision) => return decided(decision),
            EventKind::Operator { who, what } => (Tone::Plain, format!("{} by {}", inert(what), inert(who))),
            EventKind::Reconciled { what } => (Tone::Plain, format!("found: {}", inert(what))),
            EventKind::Fault { error } => (Tone::Bad, format!("fault: {}", inert(error))),
            EventKind::Supervisor { what } => (Tone::Plain, inert(what).into_owned()),
        })
    }
}

/// The event as one line of JSON, its end included.
///
/// # Errors
/// None that an [`Event`] can cause: its shape is all strings and numbers.
pub fn json_line(event: &Event) -> Result<Vec<u8>, serde_json::Error> {
    let line = serde_json::to_string(event)?;
    Ok((inert_json(&line).into_owned() + "\n").into_bytes())
}

/// Only what no other event tells: starts, ends and restarts have their own lines.
fn stage(state: State, detail: Detail) -> Option<(Tone, String)> {
    if detail == Detail::Running(Readiness::Frozen) {
        return Some((Tone::Warn, "frozen: every process of it stands still".into()));
    }
    let (State::Stopping, Detail::Stopping(detail)) = (state, detail) else { return None };
    Some(match detail {
        StoppingDetail::Term => (Tone::Plain, "stopping".into()),
        StoppingDetail::Kill => (Tone::Warn, "killing everything in its cgroup".into()),
        StoppingDetail::Draining => (Tone::Plain, "its main process has ended; stopping what it left behind".into()),
        StoppingDetail::Unkillable => {
            (Tone::Bad, "still not dead after a kill: in uninterruptible sleep or frozen; waiting for it".into())
        }
    })
}

fn decided(decision: &Decision) -> Option<(Tone, String)> {
    let rule = inert(&decision.rule);
    let attempt = match (decision.attempt, decision.max_attempts) {
        (Some(k), Some(max)) => format!("attempt {k} of {max}; "),
        (Some(k), None) => format!("attempt {k}; "),
        (None, _) => String::new(),
    };
    let policy = inert(&decision.policy);
    Some(match decision.verdict {
        Verdict::Restart => {
            let when = match decision.delay_ms.unwrap_or(0) {
                0 => "now".to_owned(),
                ms => format!("in {}", duration(std::time::Duration::from_millis(ms))),
            };
            (Tone::Warn, format!("restarting {when} ({attempt}{policy})"))
        }
        // Who asked has a line already.
        Verdict::Stay if decision.trigger == Trigger::Operator => return None,
        Verdict::Stay => (Tone::Plain, format!("not started again: {rule}")),
        Verdict::GiveUp => (Tone::Bad, format!("given up: {rule}")),
        // What happened has its own line; that nothing follows from it needs none.
        Verdict::Record => return None,
        Verdict::Stop => (Tone::Bad, format!("stopping for good ({policy}): {rule}")),
        Verdict::Kill => (Tone::Bad, format!("killing for good ({policy}): {rule}")),
        Verdict::Hold => (Tone::Bad, format!("no restart: {rule}")),
    })
}

const fn words_of(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half-open",
    }
}

fn tone_of(cause: &ExitCause) -> Tone {
    match cause {
        ExitCause::Exited { code: 0 }
        | ExitCause::Killed { by: KilledBy::Stop | KilledBy::Operator | KilledBy::Shutdown, .. } => Tone::Plain,
        ExitCause::Killed { by: KilledBy::StopTimeout, .. } | ExitCause::Unknown { .. } => Tone::Warn,
        ExitCause::Exited { .. }
        | ExitCause::Signaled { .. }
        | ExitCause::Oom { .. }
        | ExitCause::Killed { by: KilledBy::Policy, .. }
        | ExitCause::KilledExternal
        | ExitCause::StartFailed { .. } => Tone::Bad,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::render::words::tests::evidence;
    use crate::model::{
        Class, Confidence, Counters, ExitStatus, Limit, MemoryEvents, OomScope, Sample, Stage, StartError,
        StoppedDetail, Usage,
    };

    fn worker(id: &str) -> Worker {
        let mut spec = Spec::new(vec!["x".into()]);
        spec.limits.memory.max = Some(16 << 20);
        let id = WorkerId::new(id).unwrap();
        Worker { declared_as: id.clone(), id, enabled: true, registered: false, spec: Arc::new(spec) }
    }

    fn event(worker: Option<&str>, kind: EventKind) -> Event {
        Event {
            v: 1,
            epoch: 3,
            seq: 7,
            time: "2026-11-20T12:34:56.789012Z".into(),
            mono_ns: 42,
            worker: worker.map(|id| WorkerId::new(id).unwrap()),
            run: worker.map(|_| 3),
            kind,
        }
    }

    fn exited(cause: ExitCause) -> EventKind {
        let mut evidence = evidence();
        evidence.status = Some(ExitStatus::Signaled { signal: 15, core: false });
        if matches!(cause, ExitCause::Oom { .. }) {
            evidence.after =
                Counters { local: Some(MemoryEvents { oom_kill: 1, ..Default::default() }), ..Default::default() };
        }
        if let ExitCause::StartFailed { stage, errno } = cause {
            evidence.start_error = Some(StartError::os(stage, "/srv", errno));
        }
        EventKind::Exited { cause, confidence: Confidence::Certain, evidence: Box::new(evidence) }
    }

    fn decision(verdict: Verdict, delay_ms: Option<u64>) -> EventKind {
        EventKind::Decision(Decision {
            trigger: Trigger::Exit,
            policy: "on-failure".into(),
            evidence: "exited 3".into(),
            class: None,
            limit: None,
            verdict,
            rule: "the rule in words".into(),
            attempt: delay_ms.map(|_| 2),
            max_attempts: delay_ms.filter(|&ms| ms > 0).map(|_| 3),
            delay_ms,
        })
    }

    pub(crate) fn every_kind() -> Vec<Event> {
        let stopping = |detail| EventKind::State { state: State::Stopping, detail: Detail::Stopping(detail) };
        let killed = |by| exited(ExitCause::Killed { by, policy: None });
        let of = |kind| event(Some("leaky"), kind);
        vec![
            event(None, EventKind::Supervisor { what: "started".into() }),
            of(EventKind::State { state: State::Starting, detail: Detail::Launching }),
            of(EventKind::Started { pid: 123 }),
            of(EventKind::State { state: State::Running, detail: Detail::Running(Readiness::Ready) }),
            of(EventKind::State { state: State::Running, detail: Detail::Running(Readiness::Frozen) }),
            of(EventKind::Violation {
                resource: "memory".into(),
                limit: Limit::MemoryMax,
                severity: "critical".into(),
                observed: "oom_kill +1".into(),
                configured: "16 MiB".into(),
                counters: Counters::default(),
            }),
            of(EventKind::Recovered { resource: "cpu".into(), limit: Limit::CpuMax, after_ms: 12_000 }),
            of(EventKind::Breaker {
                class: Class::Exit,
                state: BreakerState::Open,
                rule: "3 restarts are used".into(),
                for_ms: Some(300_000),
            }),
            of(EventKind::Health { probe: "liveness".into(), healthy: false, observed: "HTTP 503".into() }),
            of(EventKind::LimitChanged { file: "memory.high".into(), value: "max".into(), why: "tripwire".into() }),
            of(exited(ExitCause::Oom { scope: OomScope::Worker })),
            of(EventKind::Usage { usage: Usage::default() }),
            of(EventKind::Sample { sample: Sample::default() }),
            of(exited(ExitCause::Exited { code: 3 })),
            of(exited(ExitCause::Signaled { signal: 11, core: true })),
            of(exited(ExitCause::StartFailed { stage: Stage::Chdir, errno: nix::libc::ENOENT })),
            of(decision(Verdict::Restart, Some(5000))),
            of(decision(Verdict::Restart, Some(0))),
            of(decision(Verdict::Stay, None)),
            of(decision(Verdict::GiveUp, None)),
            of(decision(Verdict::Record, None)),
            of(decision(Verdict::Stop, None)),
            of(decision(Verdict::Kill, None)),
            of(decision(Verdict::Hold, None)),
            of(stopping(StoppingDetail::Term)),
            of(stopping(StoppingDetail::Kill)),
            of(stopping(StoppingDetail::Draining)),
            of(stopping(StoppingDetail::Unkillable)),
            of(killed(KilledBy::StopTimeout)),
            of(killed(KilledBy::Shutdown)),
            of(EventKind::State { state: State::Stopped, detail: Detail::Stopped(StoppedDetail::Stopped) }),
            event(Some("web-1"), EventKind::Operator { who: "uid 0".into(), what: "stop".into() }),
            of(EventKind::LogDropped {
                stream: crate::model::Stream::Stderr,
                why: "No space left on device".into(),
                bytes: None,
            }),
            of(EventKind::LogDropped {
                stream: crate::model::Stream::Stdout,
                why: "more than 1 MiB a second".into(),
                bytes: Some(4096),
            }),
            event(Some("web-1"), EventKind::Reconciled { what: "a half-made directory, removed".into() }),
            event(Some("web-1"), EventKind::Fault { error: "signal of web-1.3: \u{1b}[2J".into() }),
        ]
    }

    #[test]
    fn every_event_has_its_line() {
        let lines = EventLines::new(&[worker("leaky"), worker("web-1")], jiff::tz::TimeZone::UTC.into(), false);
        let text: Vec<String> = every_kind().iter().filter_map(|event| lines.line(event)).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn colours_are_only_around_time_and_message() {
        let lines = EventLines::new(&[worker("a")], jiff::tz::TimeZone::UTC.into(), true);
        let line = lines.line(&event(Some("a"), EventKind::Started { pid: 1 })).unwrap();
        insta::assert_snapshot!(line.escape_debug(), @r"\u{1b}[2m12:34:56.789\u{1b}[0m a       \u{1b}[32mstarted (pid 1)\u{1b}[0m");
    }

    #[test]
    fn the_time_is_the_readers() {
        let lines = EventLines::new(&[], jiff::tz::Offset::constant(2).to_time_zone().into(), false);
        let line = lines.line(&event(None, EventKind::Supervisor { what: "x".into() })).unwrap();
        assert_eq!(line, "14:34:56.789 pinfold x");
    }

    #[test]
    fn json_is_one_line_and_reads_back_as_the_event() {
        for event in every_kind() {
            let line = json_line(&event).unwrap();
            assert_eq!(line.iter().position(|&b| b == b'\n'), Some(line.len() - 1));
            assert_eq!(serde_json::from_slice::<Event>(&line).unwrap(), event);
        }
    }
}
