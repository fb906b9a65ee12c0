use super::super::samples::{HOSTILE, ended, event, evidence, reader, running};
use super::*;
use crate::model::{AboveReading, Confidence, HostOom, Level, Limit, Readiness, StartError, StoppedDetail, UnknownWhy};

fn text(story: &Why) -> String {
    why(story, &reader())
}

fn oom_kills(n: u64) -> MemoryEvents {
    MemoryEvents { max: 20 * n, oom: n, oom_kill: n, oom_group_kill: n, ..MemoryEvents::default() }
}

fn exited(code: i32) -> Evidence {
    Evidence { status: Some(ExitStatus::Exited { code }), ..evidence() }
}

fn out_of_memory(scope: OomScope) -> Why {
    let mut evidence = evidence();
    // The victim of a limit that is not its own has been killed without having been out of memory itself.
    let victim = Some(MemoryEvents { oom_kill: 1, ..MemoryEvents::default() });
    (evidence.after.local, evidence.after.memory) = (victim, victim);
    match scope {
        OomScope::Worker => {
            (evidence.after.local, evidence.after.memory) = (Some(oom_kills(1)), Some(oom_kills(1)));
        }
        OomScope::Ancestor => {
            let level = Level {
                path: "pinfold/workers/web.slice".into(),
                before: MemoryEvents::default(),
                after: oom_kills(1),
            };
            let above = AboveReading { levels: vec![level], complete: true, host: None };
            evidence.above = Some(Box::new(above));
        }
        OomScope::Host => {
            let host = Some(HostOom { before: 3, after: 4 });
            evidence.above = Some(Box::new(AboveReading { levels: Vec::new(), complete: true, host }));
        }
    }
    ended(ExitCause::Oom { scope }, evidence)
}

#[test]
fn an_out_of_memory_is_told_with_what_led_to_it() {
    let mut story = out_of_memory(OomScope::Worker);
    story.violations.push(event(
        12,
        EventKind::Violation {
            resource: "memory".into(),
            limit: Limit::MemoryHigh,
            severity: "warning".into(),
            observed: "anon+shmem 231 MiB, high +14".into(),
            configured: "230 MiB".into(),
            counters: Counters::default(),
        },
    ));
    story.health =
        Some(event(15, EventKind::Health { probe: "liveness".into(), healthy: false, observed: "HTTP 503".into() }));
    insta::assert_snapshot!(text(&story));
}

#[test]
fn each_cause_has_its_sentence_its_proof_and_its_advice() {
    let killed = |by, policy: Option<&str>| ExitCause::Killed { by, policy: policy.map(Into::into) };
    let asked = |by| Evidence { asked_by: Some(by), ..evidence() };
    let mut forks = exited(11);
    forks.after.pids_max = Some(941);
    let failed = |stage, errno: i32, what: &str| {
        let start_error = Some(StartError::os(stage, what, errno));
        ended(ExitCause::StartFailed { stage, errno }, Evidence { status: None, start_error, ..evidence() })
    };
    let stories = vec![
        out_of_memory(OomScope::Ancestor),
        out_of_memory(OomScope::Host),
        ended(ExitCause::Exited { code: 0 }, exited(0)),
        ended(ExitCause::Exited { code: 11 }, forks),
        ended(
            ExitCause::Signaled { signal: 11, core: false },
            Evidence { status: Some(ExitStatus::Signaled { signal: 11, core: false }), ..evidence() },
        ),
        ended(
            ExitCause::Signaled { signal: 1, core: false },
            Evidence { status: Some(ExitStatus::Signaled { signal: 1, core: false }), ..evidence() },
        ),
        ended(killed(KilledBy::Stop, None), asked(KilledBy::Stop)),
        ended(killed(KilledBy::StopTimeout, None), asked(KilledBy::Stop)),
        ended(killed(KilledBy::Policy, Some("pids")), asked(KilledBy::Policy)),
        ended(ExitCause::KilledExternal, evidence()),
        failed(Stage::Exec, nix::libc::ENOENT, "/usr/bin/none"),
        failed(Stage::Chdir, nix::libc::EACCES, "/srv"),
        ended(
            ExitCause::Unknown { why: UnknownWhy::SupervisorAway },
            Evidence { status: None, before: Counters::default(), after: Counters::default(), ..evidence() },
        ),
    ];
    // The first line, the evidence and the advice: the rest is the same in all.
    let excerpt = |story: &Why| {
        let text = text(story);
        let parts = text.split("\n\n").filter(|part| !part.starts_with("Decided") && !part.starts_with("Now"));
        parts.map(str::trim_end).collect::<Vec<_>>().join("\n")
    };
    let all: Vec<String> = stories.iter().map(excerpt).collect();
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn what_was_given_up_says_how_to_go_on() {
    let mut story = ended(ExitCause::Exited { code: 3 }, exited(3));
    if let EventKind::Decision(decision) = &mut story.decisions[0].kind {
        decision.verdict = Verdict::Hold;
        decision.rule = "3 restarts are used up".into();
        (decision.attempt, decision.delay_ms) = (None, None);
    }
    let text = text(&story);
    assert!(text.contains("held down: its restart breaker is open"), "{text}");
    assert!(text.ends_with("when that is mended: pinfold start web-1\n"), "{text}");
}

#[test]
fn one_that_has_not_ended_has_nothing_to_tell() {
    let mut story = ended(ExitCause::Exited { code: 0 }, exited(0));
    story.exited = None;
    story.worker = running("web-1", Readiness::Ready);
    assert_eq!(text(&story), "web-1 has not ended since the supervisor knows it; it is running\n");
    story.worker = super::super::samples::stopped("web-1", StoppedDetail::Never);
    assert_eq!(text(&story), "web-1 has not ended since the supervisor knows it; it is stopped (never)\n");
}

#[test]
fn what_is_only_likely_says_so() {
    let mut story = ended(ExitCause::KilledExternal, evidence());
    if let Some(EventKind::Exited { confidence, .. }) = story.exited.as_mut().map(|event| &mut event.kind) {
        *confidence = Confidence::Likely;
    }
    assert!(text(&story).contains("most likely"), "{}", text(&story));
}

#[test]
fn nothing_in_it_acts_on_a_terminal_or_forges_a_line() {
    let start_error = Some(StartError::os(Stage::Exec, HOSTILE, 2));
    let level = Level { path: HOSTILE.into(), before: MemoryEvents::default(), after: oom_kills(1) };
    let above = Some(Box::new(AboveReading { levels: vec![level], complete: false, host: None }));
    let evidence = Evidence { above, start_error, ..evidence() };
    let mut story = ended(ExitCause::StartFailed { stage: Stage::Exec, errno: 2 }, evidence);
    story.exited.as_mut().unwrap().time = HOSTILE.into();
    story.stderr = Some(HOSTILE.into());
    story.violations.push(event(
        1,
        EventKind::Violation {
            resource: HOSTILE.into(),
            limit: Limit::CpuMax,
            severity: HOSTILE.into(),
            observed: HOSTILE.into(),
            configured: HOSTILE.into(),
            counters: Counters::default(),
        },
    ));
    story.health = Some(event(2, EventKind::Health { probe: HOSTILE.into(), healthy: true, observed: HOSTILE.into() }));
    if let EventKind::Decision(decision) = &mut story.decisions[0].kind {
        decision.rule = HOSTILE.into();
        decision.policy = HOSTILE.into();
    }
    for cause in [
        ExitCause::StartFailed { stage: Stage::Exec, errno: 2 },
        ExitCause::Exited { code: 1 },
        ExitCause::Killed { by: KilledBy::Policy, policy: Some(HOSTILE.into()) },
    ] {
        if let Some(EventKind::Exited { cause: told, .. }) = story.exited.as_mut().map(|event| &mut event.kind) {
            *told = cause;
        }
        let text = text(&story);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains("\nroot# "), "{text}");
    }
}
