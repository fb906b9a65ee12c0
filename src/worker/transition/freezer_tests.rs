//! What a freeze and a thaw come to in each phase, and what time does to a worker that stands still.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::model::{
    Counters, CpuStat, Detail, EventKind, ExitStatus, HealthReport, KernelEvent, KernelEventKind, KilledBy, Limit,
    Mono, ProbeKind, Readiness, Sample, Target, Trigger, WorkerId,
};
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::spec::types::{Cpu, Limits, Spec, ViolationPolicy};
use crate::worker::event::{Ask, Event, Reach, Turn, Update};
use crate::worker::state::State;

const SEC: Duration = Duration::from_secs(1);

/// A worker and the time, which the test moves.
struct Bed {
    state: State,
    now: Mono,
    tickets: u64,
}

impl Bed {
    fn new(spec: Spec) -> Self {
        let now = Mono(100 * SEC);
        let state = State::new(WorkerId::new("w").unwrap(), Arc::new(spec), 0, now);
        let mut bed = Self { state, now, tickets: 0 };
        drop(bed.step(Event::Begin));
        bed
    }

    fn running(spec: Spec) -> Self {
        let mut bed = Self::new(spec);
        bed.ask(Ask::Start { trigger: Trigger::Operator });
        drop(bed.step(Event::Prepared { run: 1, result: Box::new(Ok(Counters::default())) }));
        bed.hears(KernelEventKind::Launched { pid: 7 });
        bed
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.state.advance(event, Turn { now: self.now, jitter: 0.5 })
    }

    fn ask(&mut self, ask: Ask) -> (Ticket, Vec<Effect>) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        (ticket, self.step(Event::Operator { ask, who: None, ticket: Some(ticket) }))
    }

    fn hears(&mut self, kind: KernelEventKind) -> Vec<Effect> {
        let run = self.state.run();
        self.step(Event::Kernel(Box::new(KernelEvent { run, kind })))
    }

    /// As a kernel that does it at once.
    fn frozen(&mut self, frozen: bool) {
        self.ask(Ask::Freeze { frozen });
        self.hears(KernelEventKind::Frozen(frozen));
        assert_eq!(self.detail() == Detail::Running(Readiness::Frozen), frozen);
    }

    /// Time goes by, with what is due in it.
    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut all = Vec::new();
        for _ in 0..1000 {
            let Some(due) = self.state.deadline().filter(|due| *due <= end) else { break };
            self.now = due.max(self.now);
            all.append(&mut self.step(Event::Deadline));
        }
        self.now = end;
        all
    }

    fn detail(&self) -> Detail {
        self.state.status().detail
    }
}

fn plain() -> Spec {
    Spec::new(vec!["x".to_owned()])
}

fn freezes(effects: &[Effect]) -> Vec<bool> {
    let of = |effect: &Effect| if let Effect::Freeze { frozen, .. } = effect { Some(*frozen) } else { None };
    effects.iter().filter_map(of).collect()
}

fn answers(effects: &[Effect]) -> Vec<(u64, Result<(), Refusal>)> {
    let of = |effect: &Effect| match effect {
        Effect::Reply { ticket, result } => Some((ticket.0, result.clone())),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn events(effects: &[Effect]) -> Vec<&EventKind> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Emit { kind, .. } = effect { Some(&**kind) } else { None })
        .collect()
}

#[test]
fn only_a_run_that_runs_can_be_frozen_or_thawed() {
    let rests = || Bed::new(plain());
    let launches = || {
        let mut bed = Bed::new(plain());
        bed.ask(Ask::Start { trigger: Trigger::Operator });
        drop(bed.step(Event::Prepared { run: 1, result: Box::new(Ok(Counters::default())) }));
        bed
    };
    let stops = || {
        let mut bed = Bed::running(plain());
        bed.ask(Ask::Stop { by: KilledBy::Stop });
        bed
    };
    let is_killed = || {
        let mut bed = Bed::running(plain());
        bed.ask(Ask::Kill { by: KilledBy::Operator });
        bed
    };
    let phases: [(&str, &dyn Fn() -> Bed); 4] =
        [("rests", &rests), ("launches", &launches), ("stops", &stops), ("is killed", &is_killed)];
    for (phase, bed) in phases {
        for frozen in [true, false] {
            let mut bed = bed();
            let (ticket, effects) = bed.ask(Ask::Freeze { frozen });
            assert_eq!(answers(&effects), [(ticket.0, Err(Refusal::NotRunning))], "{phase}");
            assert!(freezes(&effects).is_empty(), "{phase}");
        }
    }
}

#[test]
fn it_is_done_when_the_kernel_says_so_and_who_asks_meanwhile_waits_for_the_same() {
    for frozen in [true, false] {
        let mut bed = Bed::running(plain());
        let (first, effects) = bed.ask(Ask::Freeze { frozen });
        assert_eq!((freezes(&effects), answers(&effects)), (vec![frozen], vec![]));
        let (second, effects) = bed.ask(Ask::Freeze { frozen });
        assert_eq!((freezes(&effects), answers(&effects)), (vec![], vec![]), "one is on its way");
        assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(!frozen))), [], "it is not so yet");
        let effects = bed.hears(KernelEventKind::Frozen(frozen));
        assert_eq!(answers(&effects), [(first.0, Ok(())), (second.0, Ok(()))]);
        let (third, effects) = bed.ask(Ask::Freeze { frozen });
        assert_eq!(freezes(&effects), [frozen], "the kernel is asked all the same: somebody else can have been there");
        assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(frozen))), [(third.0, Ok(()))]);
    }
}

#[test]
fn the_opposite_takes_the_place_of_what_is_on_its_way() {
    let mut bed = Bed::running(plain());
    let (freeze, _) = bed.ask(Ask::Freeze { frozen: true });
    let (thaw, effects) = bed.ask(Ask::Freeze { frozen: false });
    assert_eq!(answers(&effects), [(freeze.0, Err(Refusal::Superseded))]);
    assert_eq!(freezes(&effects), [false]);
    assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(true))), [], "it comes too late");
    assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(false))), [(thaw.0, Ok(()))]);
}

#[test]
fn the_end_of_the_run_is_the_end_of_what_is_on_its_way() {
    for end in
        [Ask::Stop { by: KilledBy::Stop }, Ask::Kill { by: KilledBy::Operator }, Ask::Restart { seen: 1, force: false }]
    {
        let mut bed = Bed::running(plain());
        let (freeze, _) = bed.ask(Ask::Freeze { frozen: true });
        let (_, effects) = bed.ask(end.clone());
        assert!(answers(&effects).contains(&(freeze.0, Err(Refusal::NotRunning))), "{end:?}: {effects:?}");
        assert_eq!(bed.state.status().stuck_on, None);
    }
}

#[test]
fn who_ends_of_its_own_accord_was_thawed_and_who_is_killed_may_not_have_been() {
    let killed = ExitStatus::Signaled { signal: 15, core: false };
    let exited = ExitStatus::Exited { code: 0 };
    for (frozen, status, answer) in [
        (false, exited, Ok(())),
        (false, killed, Err(Refusal::NotRunning)),
        (true, exited, Err(Refusal::NotRunning)),
        (true, killed, Err(Refusal::NotRunning)),
    ] {
        let mut bed = Bed::running(plain());
        bed.frozen(!frozen);
        let (ticket, _) = bed.ask(Ask::Freeze { frozen });
        let counters = Counters::default();
        let exit = KernelEventKind::Exited { status: Some(status), counters, populated: false, above: None };
        assert_eq!(answers(&bed.hears(exit)), [(ticket.0, answer)], "{frozen} {status:?}");
    }
}

#[test]
fn while_limits_are_changed_nothing_is_frozen_or_thawed() {
    for frozen in [true, false] {
        let mut bed = Bed::running(plain());
        let mut smaller = plain();
        smaller.limits.memory.max = Some(1 << 20);
        bed.ask(Ask::Update(Box::new(Update { spec: Arc::new(smaller), reach: Reach::Run })));
        let (ticket, effects) = bed.ask(Ask::Freeze { frozen });
        assert_eq!((freezes(&effects), answers(&effects)), (vec![], vec![]), "who froze it for them would thaw it");
        assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(frozen))), [], "that is theirs");
        let effects = bed.hears(KernelEventKind::LimitsSet(Ok(Vec::new())));
        assert_eq!(freezes(&effects), [frozen]);
        assert_eq!(answers(&bed.hears(KernelEventKind::Frozen(frozen))), [(ticket.0, Ok(()))]);
    }
}

#[test]
fn what_holds_a_freeze_up_is_found_out_once_and_shown_until_it_is_over() {
    let mut bed = Bed::running(plain());
    bed.ask(Ask::Freeze { frozen: true });
    let inquiries = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::InquireFreeze { .. })).count();
    assert_eq!(inquiries(&bed.pass(HELD_UP / 2)), 0);
    assert_eq!(inquiries(&bed.pass(60 * SEC)), 1);
    drop(bed.step(Event::StuckOn { run: 1, what: "not frozen yet: pid 7".into() }));
    assert_eq!(bed.state.status().stuck_on.as_deref(), Some("not frozen yet: pid 7"));
    bed.hears(KernelEventKind::Frozen(true));
    assert_eq!(bed.state.status().stuck_on, None);
    drop(bed.step(Event::StuckOn { run: 1, what: "too late".into() }));
    assert_eq!(bed.state.status().stuck_on, None);
}

#[test]
fn a_refusal_of_the_kernel_is_told_and_answered() {
    let mut bed = Bed::running(plain());
    let (ticket, _) = bed.ask(Ask::Freeze { frozen: true });
    let effects = bed.step(Event::FreezeRefused { run: 1, why: "cgroup.freeze of w.1: no".into() });
    assert_eq!(answers(&effects), [(ticket.0, Err(Refusal::Kernel("cgroup.freeze of w.1: no".to_owned())))]);
    assert!(events(&effects).iter().any(|kind| matches!(kind, EventKind::Fault { .. })));
    assert_eq!(bed.detail(), Detail::Running(Readiness::Ready));
}

#[test]
fn who_froze_it_and_that_it_is_frozen_are_on_record_and_another_hand_shows_as_well() {
    let mut bed = Bed::running(plain());
    let ask = Ask::Freeze { frozen: true };
    let effects = bed.step(Event::Operator { ask, who: Some("uid 0".into()), ticket: None });
    let operator = EventKind::Operator { who: "uid 0".to_owned(), what: "freeze".to_owned() };
    assert_eq!(events(&effects), [&operator]);
    let told = |effects: &[Effect]| match events(effects).as_slice() {
        [EventKind::State { detail, .. }] => Some(*detail),
        _ => None,
    };
    assert_eq!(told(&bed.hears(KernelEventKind::Frozen(true))), Some(Detail::Running(Readiness::Frozen)));
    assert_eq!(
        told(&bed.hears(KernelEventKind::Frozen(false))),
        Some(Detail::Running(Readiness::Ready)),
        "somebody's echo 0"
    );
    assert_eq!(
        told(&bed.hears(KernelEventKind::Frozen(true))),
        Some(Detail::Running(Readiness::Frozen)),
        "and their echo 1"
    );
}

#[test]
fn a_stop_thaws_to_be_heard_and_a_mere_signal_does_not() {
    let sent = |effects: &[Effect]| {
        effects.iter().find_map(|e| {
            if let Effect::Signal { signal, to, thaws, .. } = e { Some((*signal, *to, *thaws)) } else { None }
        })
    };
    let mut bed = Bed::running(plain());
    bed.frozen(true);
    let (_, effects) = bed.ask(Ask::Signal { signal: 10 });
    assert_eq!(sent(&effects), Some((10, Target::Main, false)));
    let (_, effects) = bed.ask(Ask::Stop { by: KilledBy::Stop });
    assert_eq!(sent(&effects), Some((15, Target::Main, true)));
}

fn failed() -> HealthReport {
    HealthReport::Failed { probe: ProbeKind::Liveness, observed: "no answer".to_owned() }
}

#[test]
fn a_check_that_fails_of_a_freeze_is_no_failure() {
    for freezing in [KernelEventKind::Frozen(true), KernelEventKind::Frozen(false)] {
        let mut bed = Bed::running(plain());
        bed.ask(Ask::Freeze { frozen: true });
        // Also while it is on its way, for most of it may stand still by then.
        bed.hears(freezing);
        let (ticket, effects) = bed.ask(Ask::Health { run: 1, report: failed() });
        assert_eq!(answers(&effects), [(ticket.0, Err(Refusal::NotNow("it is frozen".to_owned())))]);
        assert_eq!(events(&effects), [] as [&EventKind; 0]);
    }
}

#[test]
fn a_restart_for_its_health_waits_until_it_is_thawed_and_one_for_a_limit_does_not() {
    let delayed = || {
        let mut spec = plain();
        spec.restart = RestartPolicy { mode: RestartMode::Always, jitter: 0.0, ..spec.restart };
        spec.limits.pids.max = Some(9);
        spec.limits.pids.policy = ViolationPolicy::Restart;
        spec
    };
    let ends = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Signal { signal: 15, .. }));
    let mut bed = Bed::running(delayed());
    bed.ask(Ask::Health { run: 1, report: failed() });
    assert!(bed.state.status().next_attempt.is_some(), "a restart is decided: {:?}", bed.state.status());
    bed.frozen(true);
    assert!(!ends(&bed.pass(600 * SEC)));
    assert_eq!(bed.state.status().next_attempt, None);
    bed.frozen(false);
    assert!(ends(&bed.pass(Duration::ZERO)), "it was not well before");

    let mut bed = Bed::running(delayed());
    let refused = Counters { pids_max: Some(5), ..Counters::default() };
    let mut effects = bed.hears(KernelEventKind::Counted { counters: refused, main_is_dying: false });
    bed.frozen(true);
    effects.extend(bed.pass(60 * SEC));
    assert!(ends(&effects), "a limit's policy acts on a frozen worker, too");
}

#[test]
fn what_has_to_last_to_be_a_violation_does_not_last_by_a_freeze() {
    let sample = |own: u64| Sample {
        cpu: Some(CpuStat {
            usage_usec: own * 500_000,
            nr_periods: own * 10,
            nr_throttled: own * 10,
            throttled_usec: own * 500_000,
        }),
        ..Sample::default()
    };
    // Throttled in every period of its own time; when it is told of, in seconds of that.
    let opened_after = |frozen_at: Option<u64>| {
        let cpu = Cpu { max_percent: Some(50.0), sustained: 10 * SEC, ..Cpu::default() };
        let mut bed = Bed::running(Spec { limits: Limits { cpu, ..Limits::default() }, ..plain() });
        let mut effects = bed.hears(KernelEventKind::Pressed(Limit::CpuMax));
        for own in 0..60 {
            if Some(own) == frozen_at {
                bed.frozen(true);
                let asked = bed.pass(3600 * SEC);
                assert!(!asked.iter().any(|effect| matches!(effect, Effect::Sample { .. })), "nothing is looked at");
                bed.frozen(false);
            }
            while effects.iter().any(|effect| matches!(effect, Effect::Sample { .. })) {
                effects = bed.step(Event::Sampled { run: 1, sample: Box::new(sample(own)), periodic: false });
                if events(&effects).iter().any(|kind| matches!(kind, EventKind::Violation { .. })) {
                    return Some(own);
                }
            }
            effects = bed.pass(SEC);
        }
        None
    };
    let without = opened_after(None);
    assert!(without.is_some_and(|own| own >= 10), "{without:?}");
    assert_eq!(opened_after(Some(4)), without);
}

#[test]
fn a_run_found_frozen_is_shown_so_from_the_first_moment() {
    let mut found = crate::worker::state::Adopted {
        run: 3,
        pid: Some(7),
        started: Mono(SEC),
        baseline: Counters::default(),
        breaker: crate::policy::breaker::Saved::default(),
        recorded_running: true,
        restarts: crate::model::RestartCounts::default(),
        desired_up: true,
        wish: None,
        cause: None,
        ending: None,
        frozen: true,
    };
    let adopted =
        |found: &_| State::adopted(WorkerId::new("w").unwrap(), Arc::new(plain()), found, false, Mono(100 * SEC));
    assert_eq!(adopted(&found).status().detail, Detail::Running(Readiness::Frozen));
    found.frozen = false;
    let mut bed = Bed { state: adopted(&found), now: Mono(100 * SEC), tickets: 0 };
    drop(bed.step(Event::Begin));
    let (_, effects) = bed.ask(Ask::Freeze { frozen: true });
    assert!(freezes(&effects).is_empty(), "it is being held to its limits");
    assert_eq!(freezes(&bed.hears(KernelEventKind::LimitsSet(Ok(Vec::new())))), [true]);
}
