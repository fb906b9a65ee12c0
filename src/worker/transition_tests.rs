//! Any row of events, possible or not, against invariants with names.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{
    AboveReading, CpuStat, Desired, Detail, DownBy, Ending, ExitCause, ExitStatus, HealthReport, KernelEvent, Level,
    Limit, LimitSet, MemoryEvents, OomScope, ProbeKind, RestartCounts, Sample, State as Public, StoppedDetail,
    Trigger as Cause, UnknownWhy, Usage, Verdict, WorkerId,
};
use crate::policy::breaker::Saved;
use crate::policy::restart::{RestartMode, RestartPolicy};
use crate::spec::types::{Cpu, Limits, Memory, Monitoring, Pids, Spec, Stop, ViolationHandling, ViolationPolicy};
use crate::worker::event::{Ask, Reach, Renew, Update};
use crate::worker::state::{Adopted, Remembered, Unseen};

/// An event as a test draws it: `back` says how many runs before the current one it is about.
#[derive(Debug, Clone)]
enum Drawn {
    Ask(Ask),
    /// Something the kernel can say at this point.
    News {
        kind: Box<KernelEventKind>,
        back: u32,
    },
    Prepared {
        result: Result<Counters, StartError>,
        back: u32,
    },
    KillRefused {
        back: u32,
    },
    FreezeRefused {
        back: u32,
    },
    Sampled {
        sample: Box<Sample>,
        back: u32,
    },
    /// Time goes on, and the deadline is told, whether due or not.
    Wait(Duration),
    /// Time goes on until the deadline.
    Due,
}

fn any_ending() -> impl Strategy<Value = Ending> {
    let by = || proptest::sample::select(vec![KilledBy::Stop, KilledBy::Shutdown, KilledBy::Policy]);
    let restart = proptest::sample::select(vec![(Class::Health, None), (Class::Violation, Some(Limit::PidsMax))]);
    (proptest::option::of((by(), Just(15))), proptest::option::of(by()), any::<bool>(), proptest::option::of(restart))
        .prop_map(|(stop, kill, again, restart)| Ending { stop, kill, policy: None, again, restart })
}

fn any_remembered() -> impl Strategy<Value = Remembered> {
    let class = prop_oneof![Just(Class::Exit), Just(Class::Health), Just(Class::Violation)];
    let outlook = prop_oneof![
        Just(Outlook::Launching),
        Just(Outlook::Running),
        Just(Outlook::Start),
        (0..9000u64, proptest::option::of(class.clone()))
            .prop_map(|(ms, class)| Outlook::Due { after: Duration::from_millis(ms), class }),
        class.prop_map(Outlook::Held),
        Just(Outlook::Done),
        Just(Outlook::Failed),
        Just(Outlook::Rest),
    ];
    let unseen = prop_oneof![
        Just(None),
        (2..4u32, 0..9u64).prop_map(|(run, s)| {
            Some(Unseen { run, why: UnknownWhy::SupervisorAway, began: Duration::from_secs(s) })
        }),
        Just(Some(Unseen { run: 3, why: UnknownWhy::HostRebooted, began: Duration::MAX })),
    ];
    (outlook, unseen, proptest::option::of(any::<bool>())).prop_map(|(outlook, unseen, up)| Remembered {
        last_run: 3,
        wish: up.map(|up| {
            let by = DownBy { by: KilledBy::Stop, policy: None, who: None };
            if up { Desired::Up } else { Desired::Down(by) }
        }),
        breaker: Saved::default(),
        restarts: RestartCounts::default(),
        outlook,
        cause: Some(ExitCause::KilledExternal),
        rests_for: None,
        unseen,
    })
}

fn any_error() -> impl Strategy<Value = StartError> {
    prop_oneof![Just(Stage::Spawn), Just(Stage::Exec)].prop_map(|stage| StartError::os(stage, "it", 2))
}

fn any_counters() -> impl Strategy<Value = Counters> {
    (0..5u64, 0..5u64, 0..3u64, 0..3u64).prop_map(|(oom, oom_kill, forks, high)| {
        let events = MemoryEvents { high, oom, oom_kill, oom_group_kill: oom_kill / 2, ..Default::default() };
        Counters { local: Some(events), memory: Some(events), pids_max: Some(forks) }
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Start { trigger: Cause::Operator }),
        Just(Ask::Stop { by: KilledBy::Stop }),
        Just(Ask::Stop { by: KilledBy::Shutdown }),
        (0..4u32).prop_map(|seen| Ask::Restart { seen: if seen == 0 { 0 } else { u32::MAX }, force: seen == 3 }),
        Just(Ask::Kill { by: KilledBy::Operator }),
        Just(Ask::Signal { signal: 10 }),
        Just(Ask::Reset),
        any::<bool>().prop_map(|frozen| Ask::Freeze { frozen }),
        (any_report(), 0..6u32).prop_map(|(report, run)| Ask::Health { run, report }),
        any_update().prop_map(|update| Ask::Update(Box::new(update))),
    ]
}

/// Rules, limits or a new run, for good or for the present run.
fn any_update() -> impl Strategy<Value = Update> {
    let reach = (0..3u64, prop_oneof![Just(Renew::No), Just(Renew::Yes), (0..4u32).prop_map(Renew::Of)]).prop_map(
        |(generation, renew)| match generation {
            0 => Reach::Run,
            generation => Reach::Config { generation, renew },
        },
    );
    (0..3u64, 0..3u64, 0..3u32, reach).prop_map(|(program, pids, retries, reach)| {
        let mut spec = Spec::new(vec![format!("x{program}")]);
        spec.limits.pids.max = (pids > 0).then_some(pids);
        spec.restart.max_retries = retries;
        Update { spec: Arc::new(spec), reach }
    })
}

fn any_report() -> impl Strategy<Value = HealthReport> {
    let observed = || "seen".to_owned();
    prop_oneof![
        1 => Just(HealthReport::Started { observed: observed() }),
        1 => Just(HealthReport::Alive { observed: observed() }),
        3 => Just(HealthReport::Failed { probe: ProbeKind::Liveness, observed: observed() }),
        1 => Just(HealthReport::Ready { observed: observed() }),
        1 => Just(HealthReport::Unready { observed: observed() }),
    ]
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (0..3u64, 0..100u64, 0..100u64).prop_map(|(resident, periods, throttled)| Sample {
        resident_bytes: Some(resident << 26),
        memory_current_bytes: Some(resident << 26),
        cpu: Some(CpuStat {
            usage_usec: periods * 1_000_000,
            nr_periods: periods,
            nr_throttled: throttled,
            throttled_usec: throttled,
        }),
        ..Default::default()
    })
}

fn any_drawn() -> impl Strategy<Value = Drawn> {
    let status = prop_oneof![
        Just(None),
        (0..3).prop_map(|code| Some(ExitStatus::Exited { code })),
        prop_oneof![Just(9), Just(15), Just(11)].prop_map(|signal| Some(ExitStatus::Signaled { signal, core: false })),
    ];
    let kind = prop_oneof![
        3 => (1..99).prop_map(|pid| KernelEventKind::Launched { pid }),
        2 => any_error().prop_map(KernelEventKind::LaunchFailed),
        2 => (any_counters(), any::<bool>())
            .prop_map(|(counters, main_is_dying)| KernelEventKind::Counted { counters, main_is_dying }),
        4 => (status, any_counters(), any::<bool>())
            .prop_map(|(status, counters, populated)| KernelEventKind::Exited { status, counters, populated, above: None }),
        5 => any_counters().prop_map(|counters| KernelEventKind::Unpopulated { usage: Usage::default(), counters, above: None }),
        2 => prop_oneof![
            any_error().prop_map(|error| KernelEventKind::LimitsSet(Err(error))),
            Just(KernelEventKind::LimitsSet(Ok(vec![LimitSet { file: "pids.max", value: "7".into() }]))),
        ],
        3 => any::<bool>().prop_map(KernelEventKind::Frozen),
        3 => Just(KernelEventKind::Removed),
        1 => Just(KernelEventKind::CgroupGone),
        2 => (0..Limit::ALL.len()).prop_map(|limit| KernelEventKind::Pressed(Limit::ALL[limit])),
    ];
    let back = prop_oneof![9 => Just(0u32), 1 => 1..3u32];
    prop_oneof![
        4 => any_ask().prop_map(Drawn::Ask),
        12 => (kind, back.clone()).prop_map(|(kind, back)| Drawn::News { kind: Box::new(kind), back }),
        5 => (prop_oneof![4 => any_counters().prop_map(Ok), 1 => any_error().prop_map(Err)], back.clone())
            .prop_map(|(result, back)| Drawn::Prepared { result, back }),
        1 => back.clone().prop_map(|back| Drawn::KillRefused { back }),
        1 => back.clone().prop_map(|back| Drawn::FreezeRefused { back }),
        3 => (any_sample(), back).prop_map(|(sample, back)| Drawn::Sampled { sample: Box::new(sample), back }),
        3 => (0..20_000u64).prop_map(|ms| Drawn::Wait(Duration::from_millis(ms))),
        3 => Just(Drawn::Due),
    ]
}

fn any_spec() -> impl Strategy<Value = Spec> {
    use RestartMode::{Always, Never, OnFailure, UnlessStopped};
    let mode = prop_oneof![Just(Never), Just(OnFailure), Just(Always), Just(UnlessStopped)];
    let policy = || (0..ViolationPolicy::ALL.len()).prop_map(|p| ViolationPolicy::ALL[p]);
    let handling = (0..ViolationHandling::ALL.len()).prop_map(|h| ViolationHandling::ALL[h]);
    let restart = (mode, 0..3u64, 0..4u32, proptest::option::of(0..3u64), 0..2u64).prop_map(
        |(mode, delay, max_retries, cooldown, grace)| RestartPolicy {
            mode,
            retry_delay: Duration::from_secs(delay),
            max_retries,
            cooldown: cooldown.map(Duration::from_secs),
            startup_grace_period: Duration::from_secs(grace),
            ..Default::default()
        },
    );
    let limits = (any::<bool>(), any::<bool>(), policy(), policy(), policy(), policy(), handling).prop_map(
        |(limited, high, policy, high_policy, cpu, pids, violation_handling)| Limits {
            memory: Memory {
                max: limited.then_some(1 << 26),
                high: high.then_some(1 << 25),
                policy,
                high_policy,
                ..Default::default()
            },
            cpu: Cpu { max_percent: Some(50.0), policy: cpu, ..Default::default() },
            pids: Pids { max: Some(9), policy: pids },
            monitoring: Monitoring { violation_handling, ..Default::default() },
            ..Default::default()
        },
    );
    (restart, limits, 0..3u64, any::<bool>()).prop_map(|(restart, limits, timeout, group)| Spec {
        restart,
        stop: Stop {
            timeout: Duration::from_secs(timeout),
            kill_mode: if group { KillMode::Group } else { KillMode::Mixed },
            ..Default::default()
        },
        limits,
        ..Spec::new(vec!["x".to_owned()])
    })
}

/// What a witness of the effects knows, without looking into the state.
#[derive(Default)]
struct Witness {
    /// Runs whose cgroup was asked for, in order.
    prepared: Vec<u32>,
    /// The one that was launched and not removed.
    live: Option<u32>,
    prepared_ok: Option<u32>,
    removed: Vec<u32>,
    exited: Vec<u32>,
    /// Down was asked for last.
    down: bool,
    tickets: u64,
    open: Vec<u64>,
}

impl Witness {
    fn runs_are_numbered_upwards(&self, run: u32) -> bool {
        self.prepared.last().is_none_or(|last| *last < run)
    }

    fn at_most_one_run_lives(&self) -> bool {
        self.live.is_none()
    }

    fn limits_precede_launch(&self, run: u32) -> bool {
        self.prepared_ok == Some(run)
    }

    fn an_exit_is_told_once(&self, run: u32) -> bool {
        !self.exited.contains(&run)
    }

    fn a_finished_run_is_left_alone(&self, run: u32) -> bool {
        !self.removed.contains(&run)
    }

    fn see(&mut self, effect: &Effect) -> Result<(), TestCaseError> {
        match effect {
            Effect::Prepare(run) => {
                prop_assert!(self.runs_are_numbered_upwards(run.number), "{run} after {:?}", self.prepared);
                prop_assert!(self.at_most_one_run_lives(), "{run} is begun while {:?} lives", self.live);
                prop_assert!(!self.down, "{run} is begun although a stop was asked for");
                self.prepared.push(run.number);
            }
            Effect::Launch(run, _) => {
                prop_assert!(self.limits_precede_launch(run.number), "{run} is launched without a cgroup");
                prop_assert!(!self.down, "{run} is launched although a stop was asked for");
                self.live = Some(run.number);
            }
            Effect::Signal { run, .. }
            | Effect::Kill(run)
            | Effect::Drain(run)
            | Effect::Note(run)
            | Effect::Sample { run, .. }
            | Effect::Tripwire { run, .. }
            | Effect::Limits { run, .. }
            | Effect::Freeze { run, .. }
            | Effect::InquireFreeze { run, .. }
            | Effect::Rewatch(run)
            | Effect::Inquire(run) => {
                prop_assert!(self.a_finished_run_is_left_alone(run.number), "{effect:?} of a run that is over");
            }
            Effect::Remove(run) => {
                prop_assert!(self.a_finished_run_is_left_alone(run.number), "{run} is removed twice");
                self.removed.push(run.number);
                self.live = None;
            }
            Effect::Emit { run, kind } => {
                if let (EventKind::Exited { .. }, Some(run)) = (kind.as_ref(), run) {
                    prop_assert!(self.an_exit_is_told_once(*run), "run {run} ends twice");
                    self.exited.push(*run);
                }
                if let EventKind::Decision(decision) = kind.as_ref() {
                    // A limit's final policy is as good as a person's word, until a person says otherwise.
                    let ends = matches!(decision.verdict, Verdict::Stop | Verdict::Kill);
                    self.down |= ends && decision.trigger == Cause::Violation;
                }
            }
            Effect::Reply { ticket, .. } => {
                let open = self.open.iter().position(|open| *open == ticket.0);
                prop_assert!(open.is_some(), "{ticket:?} is answered twice, or was never given");
                self.open.swap_remove(open.unwrap());
            }
            Effect::Publish | Effect::GiveUp | Effect::Remember { .. } => {}
        }
        Ok(())
    }
}

fn what_can_never_come_has_a_deadline(state: &State) -> bool {
    match state.public() {
        (Public::Starting, Detail::Launching) | (Public::Stopped, Detail::Stopped(StoppedDetail::Waiting)) => {
            state.deadline().is_some()
        }
        (Public::Stopping, _) => state.deadline().is_some() || matches!(state.phase, Phase::Stuck { .. }),
        _ => true,
    }
}

fn nobody_waits_for_a_worker_that_does_nothing(state: &State) -> bool {
    let idle = match &state.phase {
        Phase::Running { life, .. } => life.pending.is_none() && life.asked_of_freezer().is_none(),
        phase => matches!(phase, Phase::Resting(_) | Phase::Stuck { .. }),
    };
    !idle || state.owed() == 0
}

fn news_of_another_run(state: &State, event: &Event) -> bool {
    match event {
        Event::Kernel(news) => news.run.number != state.last_run && news.kind != KernelEventKind::Removed,
        Event::Prepared { run, .. }
        | Event::KillRefused { run }
        | Event::FreezeRefused { run, .. }
        | Event::Sampled { run, .. }
        | Event::StuckOn { run, .. } => *run != state.last_run,
        Event::Begin | Event::Operator { .. } | Event::Deadline => false,
    }
}

/// Feeds `drawn`, then ends everything as a kernel that answers would, and says how it ended.
fn live_through(mut state: State, drawn: Vec<Drawn>) -> Result<(), TestCaseError> {
    let down = matches!(state.wish, Wish::Down(Some(_)));
    let mut w = Witness { live: state.main_process().map(|_| state.last_run), down, ..Default::default() };
    w.prepared.push(state.last_run);
    let mut now = Mono(Duration::from_secs(100));
    let feed = |state: &mut State, w: &mut Witness, event: Event, now: Mono| {
        let before = state.clone();
        if let Event::Prepared { run, result } = &event
            && matches!(state.phase, Phase::Preparing { .. })
            && result.is_ok()
        {
            w.prepared_ok = Some(*run);
        }
        if let Event::Operator { ask, .. } = &event {
            w.down = match ask {
                Ask::Stop { .. } | Ask::Kill { .. } => true,
                Ask::Start { trigger: Cause::Operator } | Ask::Restart { .. } => false,
                // The configuration is no person.
                Ask::Start { .. }
                | Ask::Signal { .. }
                | Ask::Freeze { .. }
                | Ask::Reset
                | Ask::Health { .. }
                | Ask::Update(_) => w.down,
            };
        }
        let again = step(before.clone(), event.clone(), Turn { now, jitter: 0.3 });
        let of_another_run = news_of_another_run(&before, &event);
        let effects = state.advance(event, Turn { now, jitter: 0.3 });
        prop_assert!(
            !of_another_run || (effects.is_empty() && *state == before),
            "news of another run touched {:?}",
            before
        );
        prop_assert_eq!(&again, &(state.clone(), effects.clone()), "the same again gives the same again");
        for effect in &effects {
            w.see(effect)?;
        }
        prop_assert!(what_can_never_come_has_a_deadline(state), "{:?} from {:?}", state, before);
        prop_assert!(nobody_waits_for_a_worker_that_does_nothing(state), "{:?} from {:?}", state, before);
        prop_assert!(!(w.down && state.wish == Wish::Up), "nothing but a request ends the wish that it is down");
        Ok(())
    };
    feed(&mut state, &mut w, Event::Begin, now)?;
    for event in drawn {
        let run = |back: u32| RunId::new(state.id.clone(), state.last_run.saturating_sub(back));
        let event = match event {
            Drawn::Ask(ask) => {
                w.tickets += 1;
                w.open.push(w.tickets);
                Event::Operator { ask, who: None, ticket: Some(Ticket(w.tickets)) }
            }
            Drawn::News { kind, back } => Event::Kernel(Box::new(KernelEvent { run: run(back), kind: *kind })),
            Drawn::Prepared { result, back } => Event::Prepared { run: run(back).number, result: Box::new(result) },
            Drawn::KillRefused { back } => Event::KillRefused { run: run(back).number },
            Drawn::FreezeRefused { back } => Event::FreezeRefused { run: run(back).number, why: "not so".into() },
            Drawn::Sampled { sample, back } => Event::Sampled { run: run(back).number, sample, periodic: back == 0 },
            Drawn::Wait(time) => {
                now = now + time;
                Event::Deadline
            }
            Drawn::Due => {
                now = state.deadline().unwrap_or(now).max(now);
                Event::Deadline
            }
        };
        feed(&mut state, &mut w, event, now)?;
    }
    // What is changed of a run is answered.
    let answer = KernelEventKind::LimitsSet(Ok(Vec::new()));
    let run = state.run();
    feed(&mut state, &mut w, Event::Kernel(Box::new(KernelEvent { run, kind: answer })), now)?;
    // Every stop ends in `stopped`, or in `unkillable` where nothing is proved.
    let stop = Event::Operator { ask: Ask::Stop { by: KilledBy::Stop }, who: None, ticket: None };
    feed(&mut state, &mut w, stop, now)?;
    if matches!(state.phase, Phase::Preparing { .. }) {
        let event = Event::Prepared { run: state.last_run, result: Box::new(Ok(Counters::default())) };
        feed(&mut state, &mut w, event, now)?;
    }
    for _ in 0..500 {
        let Some(due) = state.deadline() else { break };
        now = due.max(now);
        feed(&mut state, &mut w, Event::Deadline, now)?;
    }
    let (public, _) = state.public();
    prop_assert!(public == Public::Stopped || matches!(state.phase, Phase::Stuck { .. }), "{:?}", state);
    prop_assert!(w.open.is_empty(), "{:?} were never answered", w.open);
    // And a kernel that tells how it ends clears it.
    for kind in [
        KernelEventKind::LaunchFailed(StartError::os(Stage::Exec, "it", 2)),
        KernelEventKind::Exited { status: None, counters: Counters::default(), populated: false, above: None },
        KernelEventKind::Unpopulated { usage: Usage::default(), counters: Counters::default(), above: None },
    ] {
        let run = state.run();
        feed(&mut state, &mut w, Event::Kernel(Box::new(KernelEvent { run, kind })), now)?;
    }
    prop_assert_eq!(state.public().0, Public::Stopped);
    let told: Vec<u32> = w.prepared[1..].iter().copied().filter(|run| !w.exited.contains(run)).collect();
    prop_assert!(told.is_empty(), "runs {told:?} ended without a word");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(500), ..Default::default() })]

    #[test]
    fn no_row_of_events_breaks_an_invariant(
        spec in any_spec(), drawn in proptest::collection::vec(any_drawn(), 1..60), from in 0..11u8,
        remembered in any_remembered(), ending in proptest::option::of(any_ending()),
    ) {
        let (id, spec, now) = (WorkerId::new("w").unwrap(), Arc::new(spec), Mono(Duration::from_secs(90)));
        let state = match from {
            0 => State::occupied(id, spec, 3, now),
            1 | 2 | 9 | 10 => {
                let found = Adopted {
                    run: 3,
                    pid: (from != 2).then_some(77),
                    started: now,
                    baseline: Counters::default(),
                    breaker: Saved::default(),
                    recorded_running: from != 2,
                    restarts: RestartCounts::default(),
                    desired_up: true,
                    wish: None,
                    cause: (from > 8).then_some(ExitCause::Exited { code: 3 }),
                    ending,
                    frozen: from == 1,
                };
                if from > 8 {
                    State::over(id, spec, &found, from == 10, now)
                } else {
                    State::adopted(id, spec, &found, false, now)
                }
            }
            5..9 => State::remembered(id, spec, &remembered, from == 8, now),
            _ => State::new(id, spec, 3, now),
        };
        live_through(state, drawn)?;
    }
}

#[test]
fn strangers_in_the_cgroup_are_left_alone_and_nothing_is_started_over_them() {
    let turn = Turn { now: Mono(Duration::from_secs(1)), jitter: 0.5 };
    let spec = Arc::new(Spec::new(vec!["x".to_owned()]));
    let mut state = State::occupied(WorkerId::new("w").unwrap(), spec, 7, turn.now);
    let run = state.run();
    let ask = |ask| Event::Operator { ask, who: None, ticket: Some(Ticket(1)) };
    let touches = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Signal { .. } | Effect::Kill(_)));
    let refused = |effects: &[Effect]| {
        effects.iter().any(|e| matches!(e, Effect::Reply { result: Err(Refusal::Unkillable), .. }))
    };

    assert!(
        state.advance(Event::Begin, turn).contains(&Effect::Drain(run.clone())),
        "it wants to know when they are gone"
    );
    for by_us in [Ask::Stop { by: KilledBy::Shutdown }, Ask::Kill { by: KilledBy::Shutdown }] {
        let effects = state.clone().advance(ask(by_us.clone()), turn);
        assert!(refused(&effects) && !touches(&effects), "{by_us:?}: {effects:?}");
    }
    let start = state.advance(ask(Ask::Start { trigger: Cause::Config }), turn);
    assert!(refused(&start) && !start.iter().any(|e| matches!(e, Effect::Prepare(_))), "{start:?}");

    let mut asked = state.clone();
    let stop = asked.advance(ask(Ask::Stop { by: KilledBy::Stop }), turn);
    assert!(touches(&stop), "a person's word is another thing: {stop:?}");

    let kind = KernelEventKind::Unpopulated { usage: Usage::default(), counters: Counters::default(), above: None };
    let gone = state.advance(Event::Kernel(Box::new(KernelEvent { run, kind })), turn);
    let next = RunId::new(WorkerId::new("w").unwrap(), 8);
    assert!(gone.contains(&Effect::Prepare(next)), "what was asked for meanwhile happens then: {gone:?}");
    assert!(!gone.iter().any(|e| matches!(e, Effect::Emit { kind, .. } if matches!(**kind, EventKind::Exited { .. }))));
}

#[test]
fn what_is_above_a_run_decides_whose_memory_it_was_and_stays_as_evidence() {
    let turn = Turn { now: Mono(Duration::from_secs(1)), jitter: 0.5 };
    let lost = MemoryEvents { oom_kill: 1, oom_group_kill: 1, ..Default::default() };
    let counters = Counters { local: Some(lost), memory: Some(lost), pids_max: Some(0) };
    let reached = MemoryEvents { oom: 1, ..Default::default() };
    let level = Level { path: "/workers/web.slice".into(), before: MemoryEvents::default(), after: reached };
    let above = Some(Box::new(AboveReading { levels: vec![level], complete: true, host: None }));
    let launched = || {
        let mut spec = Spec::new(vec!["x".to_owned()]);
        spec.restart.mode = RestartMode::Never;
        let mut state = State::new(WorkerId::new("w").unwrap(), Arc::new(spec), 0, turn.now);
        drop(state.advance(Event::Begin, turn));
        let start = Ask::Start { trigger: Cause::Operator };
        drop(state.advance(Event::Operator { ask: start, who: None, ticket: None }, turn));
        drop(state.advance(Event::Prepared { run: 1, result: Box::new(Ok(Counters::default())) }, turn));
        state
    };
    let tell = |state: &mut State, kind| {
        let effects = state.advance(Event::Kernel(Box::new(KernelEvent { run: state.run(), kind })), turn);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Emit { kind, .. } => match *kind {
                EventKind::Exited { cause, evidence, .. } => Some((cause, evidence.above)),
                _ => None,
            },
            _ => None,
        })
    };
    let expected = Some((ExitCause::Oom { scope: OomScope::Ancestor }, above.clone()));

    let mut ran = launched();
    assert_eq!(tell(&mut ran, KernelEventKind::Launched { pid: 7 }), None);
    let status = Some(ExitStatus::Signaled { signal: SIGKILL, core: false });
    let exited = KernelEventKind::Exited { status, counters, populated: false, above: above.clone() };
    assert_eq!(tell(&mut ran, exited), expected);

    let mut stillborn = launched();
    let fault = StartError::os(Stage::Spawn, "", 0);
    assert_eq!(tell(&mut stillborn, KernelEventKind::LaunchFailed(fault)), None, "told when its counters are final");
    let unpopulated = KernelEventKind::Unpopulated { usage: Usage::default(), counters, above };
    assert_eq!(tell(&mut stillborn, unpopulated), expected);
}
