//! Workers and ends as a supervisor tells them, for the snapshots of what is printed about them.

use jiff::tz::TimeZone;

use super::Reader;
use crate::api::wire::{Breaker, Limits, Usage, Why, Worker};
use crate::model::{
    BreakerState, Class, Confidence, Counters, Decision, Detail, Event, EventKind, Evidence, ExitCause, ExitStatus,
    KilledBy, Limit, MemoryEvents, OomScope, PolicyName, Readiness, RestartCounts, Stage, State, StoppedDetail,
    StoppingDetail, Trigger, Usage as Totals, Verdict, WorkerId,
};

/// What a hostile text would do to a terminal.
pub(super) const HOSTILE: &str = "x\u{1b}[2J\nroot# \u{202e}\u{9b}";

pub(in crate::cli) fn reader() -> Reader {
    Reader { width: None, colour: false, zone: TimeZone::UTC.into(), now: "2026-11-20T12:00:00Z".parse().unwrap() }
}

pub(super) fn worker(id: &str, state: State, detail: Detail) -> Worker {
    Worker {
        id: WorkerId::new(id).unwrap(),
        declared_as: WorkerId::new(id).unwrap(),
        state,
        detail,
        pid: None,
        run: 3,
        since: "2026-11-20T11:55:00.000Z".into(),
        age_ms: 300_000,
        started: None,
        uptime_ms: None,
        restarts: 0,
        restarts_by: RestartCounts::default(),
        breaker: Vec::new(),
        violations: Vec::new(),
        cause: None,
        next_attempt: None,
        next_attempt_in_ms: None,
        desired_up: true,
        down_by: None,
        down_policy: None,
        stuck_on: None,
        desired_generation: 1,
        observed_generation: 1,
        generation: 9,
        usage: None,
    }
}

pub(in crate::cli) fn running(id: &str, readiness: Readiness) -> Worker {
    Worker {
        pid: Some(4711),
        uptime_ms: Some(300_000),
        usage: Some(Usage {
            memory_bytes: Some(31_457_280),
            cpu_usec: Some(12_345_678),
            pids: Some(4),
            ..Usage::default()
        }),
        ..worker(id, State::Running, Detail::Running(readiness))
    }
}

pub(super) fn stopped(id: &str, detail: StoppedDetail) -> Worker {
    worker(id, State::Stopped, Detail::Stopped(detail))
}

pub(super) fn by_person(id: &str) -> Worker {
    Worker {
        desired_up: false,
        down_by: Some(KilledBy::Stop),
        cause: Some(ExitCause::Killed { by: KilledBy::Stop, policy: None }),
        ..stopped(id, StoppedDetail::Stopped)
    }
}

pub(super) fn by_policy(id: &str) -> Worker {
    Worker {
        down_by: Some(KilledBy::Policy),
        down_policy: Some(PolicyName::Memory),
        cause: Some(ExitCause::Killed { by: KilledBy::Policy, policy: Some("memory".into()) }),
        ..by_person(id)
    }
}

pub(super) fn degraded(id: &str) -> Worker {
    Worker {
        declared_as: WorkerId::new("web").unwrap(),
        restarts: 6,
        restarts_by: RestartCounts { exit: 1, health: 0, violation: 5 },
        breaker: vec![
            Breaker {
                class: Class::Exit,
                state: BreakerState::Closed,
                attempts: 1,
                max_attempts: Some(3),
                until: None,
                until_in_ms: None,
            },
            Breaker {
                class: Class::Violation,
                state: BreakerState::Open,
                attempts: 5,
                max_attempts: Some(5),
                until: Some("2026-11-20T12:04:59.000Z".into()),
                until_in_ms: Some(299_000),
            },
        ],
        violations: vec![Limit::MemoryHigh, Limit::CpuMax],
        cause: Some(ExitCause::Oom { scope: OomScope::Worker }),
        ..running(id, Readiness::Degraded)
    }
}

pub(super) fn waiting(id: &str) -> Worker {
    Worker {
        cause: Some(ExitCause::Exited { code: 3 }),
        next_attempt: Some("2026-11-20T12:00:07.500Z".into()),
        next_attempt_in_ms: Some(7500),
        restarts: 1,
        restarts_by: RestartCounts { exit: 1, ..RestartCounts::default() },
        ..stopped(id, StoppedDetail::Waiting)
    }
}

pub(super) fn unkillable(id: &str) -> Worker {
    Worker {
        pid: Some(99),
        stuck_on: Some(format!("99 (mount.nfs): rpc_wait; {HOSTILE}")),
        desired_up: false,
        down_by: Some(KilledBy::Operator),
        ..worker(id, State::Stopping, Detail::Stopping(StoppingDetail::Unkillable))
    }
}

/// One of everything.
pub(in crate::cli) fn fleet() -> Vec<Worker> {
    vec![
        running("web-1", Readiness::Ready),
        degraded("web-2"),
        worker("new", State::Starting, Detail::Launching),
        waiting("crashing"),
        Worker {
            breaker: vec![Breaker {
                class: Class::Exit,
                state: BreakerState::Open,
                attempts: 3,
                max_attempts: Some(3),
                until: None,
                until_in_ms: None,
            }],
            restarts: 3,
            cause: Some(ExitCause::StartFailed { stage: Stage::Exec, errno: 2 }),
            ..stopped("held", StoppedDetail::BreakerOpen)
        },
        stopped("failed", StoppedDetail::Failed),
        by_policy("hog"),
        unkillable("stuck"),
        by_person("resting"),
        stopped("done", StoppedDetail::Done),
        Worker { run: 0, desired_up: false, ..stopped("off", StoppedDetail::Never) },
    ]
}

pub(super) fn event(seq: u64, kind: EventKind) -> Event {
    Event {
        v: 1,
        epoch: 3,
        seq,
        time: format!("2026-11-20T11:58:{seq:02}.250000Z"),
        mono_ns: seq,
        worker: Some(WorkerId::new("web-1").unwrap()),
        run: Some(3),
        kind,
    }
}

pub(super) fn evidence() -> Evidence {
    let none =
        Counters { local: Some(MemoryEvents::default()), memory: Some(MemoryEvents::default()), pids_max: Some(0) };
    Evidence {
        status: Some(ExitStatus::Signaled { signal: 9, core: false }),
        before: none,
        after: none,
        usage: None,
        asked_by: None,
        above: None,
        start_error: None,
        wall_ms: 72_300,
    }
}

/// The story of an end by `cause`, and of a restart that follows.
pub(super) fn ended(cause: ExitCause, evidence: Evidence) -> Why {
    let decision = Decision {
        trigger: Trigger::Exit,
        evidence: "it failed".into(),
        class: Some(Class::Exit),
        limit: None,
        policy: "on-failure".into(),
        verdict: Verdict::Restart,
        rule: "on-failure: a failure is restarted".into(),
        attempt: Some(2),
        max_attempts: Some(3),
        delay_ms: Some(7500),
    };
    let usage = Totals {
        memory_peak_bytes: Some((256 << 20) - 65536),
        cpu_usec: Some(1_250_000),
        cpu_throttled_usec: Some(3_100_000),
        pids_peak: Some(7),
        ..Totals::default()
    };
    Why {
        worker: waiting("web-1"),
        exited: Some(event(
            20,
            EventKind::Exited { cause, confidence: Confidence::Certain, evidence: Box::new(evidence) },
        )),
        usage: Some(event(22, EventKind::Usage { usage })),
        violations: Vec::new(),
        health: None,
        decisions: vec![event(21, EventKind::Decision(decision))],
        breaker: None,
        limits: Limits {
            memory_max_bytes: Some(256 << 20),
            memory_high_bytes: None,
            cpu_max_percent: Some(75.0),
            cpu_max_time_ms: None,
            pids_max: Some(64),
            stop_signal: 15,
            stop_timeout_ms: 30_000,
        },
        stderr: Some("/var/lib/pinfold/logs/web-1/3.stderr".into()),
    }
}
