//! The table that `up` ends with: each worker, how it stands, what the kernel enforced on it and why its last run
//! ended. What was enforced is added up from the events as they pass.

use std::{collections::BTreeMap, sync::Arc};

use comfy_table::{ContentArrangement, Table, presets};

use super::words::{duration, inert, size};
use crate::model::{Counters, Detail, Event, EventKind, MemoryEvents, StoppedDetail, WorkerId, WorkerStatus};
use crate::spec::types::{Spec, Worker};

/// Gathers from events; prints once.
#[derive(Debug, Default)]
pub struct Summary {
    workers: BTreeMap<WorkerId, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    /// What its limits are taken from; `None` for one that came later.
    spec: Option<Arc<Spec>>,
    /// Of runs that have ended.
    ended: Acts,
    /// Of the run that lives, as far as it was told.
    living: Acts,
    throttled_usec: u64,
}

/// What the kernel did to a run.
#[derive(Debug, Default, Clone, Copy)]
struct Acts {
    oom_kills: u64,
    refused_forks: u64,
}

impl Summary {
    /// A summary about `workers`.
    #[must_use]
    pub fn new<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> Self {
        let tally = |worker: &Worker| Tally { spec: Some(Arc::clone(&worker.spec)), ..Tally::default() };
        Self { workers: workers.into_iter().map(|worker| (worker.id.clone(), tally(worker))).collect() }
    }

    /// Adds what `event` tells of enforcement.
    pub fn observe(&mut self, event: &Event) {
        let Some(id) = &event.worker else { return };
        let tally = self.workers.entry(id.clone()).or_default();
        match &event.kind {
            EventKind::Violation { counters, .. } => tally.living.add(*counters),
            // Each run has a fresh cgroup, whose counters begin at 0: at its end they are its totals, also of what no
            // violation had told.
            EventKind::Exited { evidence, .. } => {
                tally.ended.add(evidence.after);
                tally.living = Acts::default();
            }
            EventKind::Usage { usage } => tally.throttled_usec += usage.cpu_throttled_usec.unwrap_or(0),
            _ => {}
        }
    }

    /// The table, at most `width` columns wide where a width is given, without a line end behind the last row.
    #[must_use]
    pub fn table(&self, statuses: &[WorkerStatus], width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        match width {
            Some(width) => table.set_width(width),
            // Not a person: one line a worker, however long.
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.set_header(["WORKER", "STATE", "RUNS", "RESTARTS", "ENFORCED", "CAUSE"]);
        for status in statuses {
            table.add_row([
                status.id.to_string(),
                state(status),
                status.run.to_string(),
                status.restarts.to_string(),
                self.workers.get(&status.id).map_or_else(|| "-".into(), Tally::enforced),
                status.cause.as_ref().map_or_else(|| "-".into(), |cause| inert(&cause.to_string()).into_owned()),
            ]);
        }
        table.trim_fmt()
    }
}

fn state(status: &WorkerStatus) -> String {
    match status.detail {
        // The CAUSE column says it.
        Detail::Stopped(StoppedDetail::Stopped) | Detail::Running(_) => status.state.as_str().into(),
        detail => format!("{} ({})", status.state.as_str(), detail.as_str()),
    }
}

impl Acts {
    fn add(&mut self, growth: Counters) {
        // A kill of the whole group is one, however many processes it took; the kernel's own count of those is not exact.
        let kills = |memory: MemoryEvents| match memory.oom_group_kill {
            0 => memory.oom_kill,
            groups => groups,
        };
        self.oom_kills += growth.hierarchical().map_or(0, kills);
        self.refused_forks += growth.pids_max.unwrap_or(0);
    }
}

impl Tally {
    /// `memory.max 16 MiB: 3 OOM kills`: only what acted.
    fn enforced(&self) -> String {
        let mut acted = Vec::new();
        let limits = self.spec.as_ref().map(|spec| &spec.limits);
        let oom_kills = self.ended.oom_kills + self.living.oom_kills;
        let refused_forks = self.ended.refused_forks + self.living.refused_forks;
        if oom_kills > 0 {
            let limit =
                limits.and_then(|l| l.memory.max).map_or("memory".into(), |max| format!("memory.max {}", size(max)));
            acted.push(format!("{limit}: {oom_kills} OOM kill{}", if oom_kills == 1 { "" } else { "s" }));
        }
        if refused_forks > 0 {
            let limit = limits.and_then(|l| l.pids.max).map_or("pids".into(), |max| format!("pids.max {max}"));
            acted.push(format!("{limit}: {refused_forks} forks refused"));
        }
        if self.throttled_usec > 0 {
            let limit =
                limits.and_then(|l| l.cpu.max_percent).map_or("cpu".into(), |percent| format!("cpu.max {percent}%"));
            let throttled = duration(std::time::Duration::from_micros(self.throttled_usec));
            acted.push(format!("{limit}: throttled for {throttled}"));
        }
        if acted.is_empty() { "-".into() } else { acted.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::words::tests::evidence;
    use crate::model::{
        Confidence, ExitCause, KilledBy, Limit, MemoryEvents, Mono, OomScope, Readiness, RestartCounts, State,
        StoppingDetail, Usage,
    };
    use crate::spec::types::Limits;

    fn status(id: &str, state: State, detail: Detail, cause: Option<ExitCause>) -> WorkerStatus {
        WorkerStatus {
            id: WorkerId::new(id).unwrap(),
            state,
            detail,
            pid: None,
            run: 4,
            since: Mono::default(),
            started: None,
            restarts: 3,
            restarts_by: RestartCounts { exit: 3, ..Default::default() },
            breaker: Vec::new(),
            violations: Vec::new(),
            cause,
            next_attempt: None,
            desired_up: false,
            down_by: Some(KilledBy::Shutdown),
            down_policy: None,
            stuck_on: None,
            desired_generation: 1,
            observed_generation: 1,
            generation: 9,
        }
    }

    fn worker(id: &str, set: impl FnOnce(&mut Limits)) -> Worker {
        let mut spec = Spec::new(vec!["x".into()]);
        set(&mut spec.limits);
        let id = WorkerId::new(id).unwrap();
        Worker { declared_as: id.clone(), id, enabled: true, registered: false, spec: Arc::new(spec) }
    }

    fn event(id: &str, kind: EventKind) -> Event {
        Event {
            v: 1,
            epoch: 3,
            seq: 1,
            time: String::new(),
            mono_ns: 0,
            worker: Some(WorkerId::new(id).unwrap()),
            run: Some(1),
            kind,
        }
    }

    fn filled() -> (Summary, Vec<WorkerStatus>) {
        let mut summary = Summary::new(&[
            worker("leaky", |limits| limits.memory.max = Some(16 << 20)),
            worker("bomb", |limits| limits.pids.max = Some(20)),
            worker("burner", |limits| limits.cpu.max_percent = Some(12.5)),
        ]);
        let oom = |n| Some(MemoryEvents { oom_kill: n, ..Default::default() });
        for _ in 0..3 {
            summary.observe(&event(
                "leaky",
                EventKind::Violation {
                    resource: "memory".into(),
                    limit: Limit::MemoryMax,
                    severity: "critical".into(),
                    observed: String::new(),
                    configured: String::new(),
                    counters: Counters { memory: oom(1), ..Default::default() },
                },
            ));
            let mut evidence = evidence();
            evidence.after.memory = oom(1);
            let cause = ExitCause::Oom { scope: OomScope::Worker };
            let kind = EventKind::Exited { cause, confidence: Confidence::Certain, evidence: Box::new(evidence) };
            summary.observe(&event("leaky", kind));
        }
        summary.observe(&event(
            "bomb",
            EventKind::Violation {
                resource: "pids".into(),
                limit: Limit::PidsMax,
                severity: "critical".into(),
                observed: String::new(),
                configured: String::new(),
                counters: Counters { pids_max: Some(941), ..Default::default() },
            },
        ));
        let usage = Usage { cpu_throttled_usec: Some(6_150_000), ..Default::default() };
        for _ in 0..2 {
            summary.observe(&event("burner", EventKind::Usage { usage }));
        }

        let stopped = |id, detail, cause| status(id, State::Stopped, Detail::Stopped(detail), Some(cause));
        let statuses = vec![
            stopped("leaky", StoppedDetail::Failed, ExitCause::Oom { scope: OomScope::Worker }),
            stopped("bomb", StoppedDetail::Stopped, ExitCause::Killed { by: KilledBy::StopTimeout, policy: None }),
            stopped("burner", StoppedDetail::Stopped, ExitCause::Killed { by: KilledBy::Shutdown, policy: None }),
            status("stuck", State::Stopping, Detail::Stopping(StoppingDetail::Unkillable), None),
            status("redis", State::Running, Detail::Running(Readiness::Ready), None),
        ];
        (summary, statuses)
    }

    #[test]
    fn the_table_says_what_was_enforced_and_why_each_ended() {
        let (summary, statuses) = filled();
        insta::assert_snapshot!(summary.table(&statuses, Some(120)));
    }

    #[test]
    fn a_narrow_terminal_wraps_and_a_pipe_does_not() {
        let (summary, statuses) = filled();
        assert!(summary.table(&statuses, Some(60)).lines().all(|line| line.chars().count() <= 60));
        assert_eq!(summary.table(&statuses, None).lines().count(), 1 + statuses.len());
    }
}
