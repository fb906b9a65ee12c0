//! Several supervised workers in a hostile world, thousands of times, in virtual time, from outside.
//!
//! A seed decides everything: the workers, what their runs do, what is asked of them and when the supervisor dies. A failing
//! seed is printed. `PINFOLD_SEEDS=100000` runs more of them, `PINFOLD_SEED=17` one.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use pinfold::model::{
    BreakerState, Class, Detail, Event, EventKind, ExitCause, HealthReport, KilledBy, Mono, ProbeKind, Readiness,
    RunId, State, Trigger, UnknownWhy, Verdict, WorkerId, WorkerStatus,
};
use pinfold::policy::restart::{BudgetOverride, OnOpen, RestartMode, RestartPolicy};
use pinfold::spec::types::{
    Cpu, KillMode, Limits, Memory, Monitoring, OomGroup, Pids, Spec, Stop, ViolationHandling, ViolationPolicy,
};
use pinfold::testing::{Bench, Call};
use pinfold::worker::actor::supervise;
use pinfold::worker::gone::Seqs;
use pinfold::worker::handle::{Answer, AskError, Reach, Renew, WorkerHandle};

/// Longer than any run's end takes: a launch without an answer, a kill, a slow death.
const LONG: Duration = Duration::from_secs(3600);

fn any_spec(random: &mut fastrand::Rng) -> Spec {
    let modes = [RestartMode::Never, RestartMode::OnFailure, RestartMode::Always, RestartMode::UnlessStopped];
    let any_policy = |random: &mut fastrand::Rng| ViolationPolicy::ALL[random.usize(0..ViolationPolicy::ALL.len())];
    let restart = RestartPolicy {
        mode: modes[random.usize(0..4)],
        max_retries: random.u32(0..6),
        retry_delay: Duration::from_millis(random.u64(0..5000)),
        max_delay: Duration::from_secs(20),
        reset_after: Duration::from_secs(random.u64(1..30)),
        cooldown: if random.bool() { Some(Duration::from_secs(random.u64(1..30))) } else { None },
        startup_grace_period: Duration::from_millis(if random.bool() { 0 } else { random.u64(0..5000) }),
        resource_violations: BudgetOverride {
            retry_delay: random.bool().then(|| Duration::from_millis(random.u64(0..3000))),
            ..Default::default()
        },
        on_open: if random.u8(0..8) == 0 { OnOpen::Exit } else { OnOpen::Hold },
        ..Default::default()
    };
    let stop = Stop {
        timeout: Duration::from_millis(random.u64(0..3000)),
        kill_mode: if random.bool() { KillMode::Group } else { KillMode::Mixed },
        ..Default::default()
    };
    let memory = Memory {
        max: random.bool().then_some(64 << 20),
        high: random.bool().then_some(32 << 20),
        oom_scope: if random.bool() { OomGroup::Worker } else { OomGroup::Process },
        policy: any_policy(random),
        high_policy: any_policy(random),
        throttle_deadline: Duration::from_secs(random.u64(1..40)),
        ..Default::default()
    };
    let handling = ViolationHandling::ALL[if random.bool() { 0 } else { random.usize(0..3) }];
    let limits = Limits {
        memory,
        cpu: Cpu {
            max_percent: random.bool().then_some(50.0),
            sustained: Duration::from_secs(random.u64(1..12)),
            policy: any_policy(random),
            ..Default::default()
        },
        pids: Pids { max: random.bool().then_some(64), policy: any_policy(random) },
        monitoring: Monitoring { violation_handling: handling, ..Default::default() },
        ..Default::default()
    };
    Spec { restart, stop, limits, ..Spec::new(vec!["/bin/true".to_owned()]) }
}

struct Supervised {
    id: WorkerId,
    /// What is configured, and how often that has changed.
    spec: Arc<Spec>,
    generation: u64,
    handle: WorkerHandle,
    task: tokio::task::JoinHandle<()>,
    /// The last freeze or thaw that was asked for.
    freeze: Option<Freeze>,
}

/// A freeze or a thaw that was asked for, of the run that was the newest then.
struct Freeze {
    run: u32,
    frozen: bool,
    /// Until it has come.
    answer: Option<Answer>,
    done: bool,
}

impl Supervised {
    /// Asks for it; the answer to the one before, which nobody has waited for.
    fn freezes(&mut self, frozen: bool) -> Option<Answer> {
        let answer = Some(self.handle.freeze(frozen));
        let before = self.freeze.replace(Freeze { run: self.handle.status().run, frozen, answer, done: false });
        before.and_then(|before| before.answer)
    }

    /// What was asked for last and answered is so for as long as the run runs and nothing else is asked for.
    fn is_left_as_it_was_asked_to_be(&mut self, bench: &Bench) -> Result<(), String> {
        let (id, status) = (&self.id, self.handle.status());
        let Some(Freeze { run, frozen, answer, done }) = &mut self.freeze else { return Ok(()) };
        if let Some(answered) = answer.as_mut().and_then(FutureExt::now_or_never) {
            (*answer, *done) = (None, answered.is_ok());
        }
        if !*done || status.run != *run || status.state != State::Running {
            return Ok(());
        }
        match bench.kernel.is_left_frozen(&RunId::new(id.clone(), *run)) {
            Some(left) if left != *frozen => {
                Err(format!("{id} was to be frozen: {frozen}, and is: {left}: {status:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whoever looks sees how it is: what is told of a worker that runs is what its kernel says.
async fn who_looks_sees_whether_it_is_frozen(bench: &Bench, worker: &WorkerHandle) -> Result<(), String> {
    let before = worker.status();
    let run = RunId::new(before.id.clone(), before.run);
    let says = || bench.kernel.is_left_frozen(&run);
    let there = says();
    bench.shared.kernel.look_again(&run);
    // The least that is some time.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let after = worker.status();
    let same = (before.run, before.state, after.state) == (after.run, State::Running, State::Running);
    match there.filter(|there| same && says() == Some(*there)) {
        Some(frozen) if frozen != is_frozen(&after) => Err(format!("frozen: {frozen}, and told is {after:?}")),
        _ => Ok(()),
    }
}

fn is_frozen(status: &WorkerStatus) -> bool {
    status.detail == Detail::Running(Readiness::Frozen)
}

fn supervised(bench: &Bench, id: WorkerId, spec: Arc<Spec>) -> Supervised {
    let charge = bench.left_of(&id, Arc::clone(&spec));
    let (handle, actor) = supervise(&bench.shared, charge);
    Supervised { id, spec, generation: 1, handle, task: tokio::spawn(actor), freeze: None }
}

/// What was last asked of a worker, and whether that is a stop.
struct Order {
    stop: bool,
    /// Until it has come.
    answer: Option<Answer>,
    done: bool,
}

impl Order {
    /// Whether it is a stop that was answered: done.
    fn is_a_stop_that_is_done(&mut self) -> bool {
        if let Some(answered) = self.answer.as_mut().and_then(FutureExt::now_or_never) {
            (self.answer, self.done) = (None, answered.is_ok());
        }
        self.stop && self.done
    }
}

/// The supervisor is gone between two turns, and another one finds what there is.
async fn die_and_recover(
    bench: &Bench,
    workers: &mut [Supervised],
    last: &mut BTreeMap<WorkerId, Order>,
) -> Result<(), String> {
    let status = |worker: &Supervised| worker.handle.status();
    let before: Vec<_> = workers.iter().map(status).collect();
    // What is written behind is on the disk when nothing has happened for so long.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let quiet: Vec<_> = workers.iter().map(status).zip(before).map(|(now, before)| (now == before, now)).collect();
    let down: BTreeSet<_> =
        last.iter_mut().filter_map(|(id, order)| order.is_a_stop_that_is_done().then(|| id.clone())).collect();
    // All of them at this moment: while one is waited for, others would go on.
    for worker in workers.iter() {
        worker.task.abort();
    }
    for worker in workers.iter_mut() {
        assert!((&mut worker.task).await.is_err());
    }
    bench.ledger.crash();
    // The next one counts anew.
    *bench.shared.seqs.lock().unwrap_or_else(PoisonError::into_inner) = Seqs::default();
    for worker in workers.iter_mut() {
        // Before the crash, by whom it was answered.
        worker.is_left_as_it_was_asked_to_be(bench)?;
        let freeze = worker.freeze.take().filter(|freeze| freeze.done);
        *worker = Supervised { freeze, ..supervised(bench, worker.id.clone(), Arc::clone(&worker.spec)) };
    }
    for (worker, (quiet, before)) in workers.iter_mut().zip(quiet) {
        let after = worker.handle.status();
        let frozen = bench.kernel.is_frozen(&RunId::new(worker.id.clone(), after.run));
        if after.state == State::Running && is_frozen(&after) != frozen {
            return Err(format!("the next supervisor finds it frozen: {frozen}, and tells {after:?}"));
        }
        worker.is_left_as_it_was_asked_to_be(bench)?;
        if down.contains(&worker.id) && after.desired_up {
            return Err(format!("a stop that was done is undone by the crash: {before:?}, then {after:?}"));
        }
        // Where a change was refused, the next supervisor begins with what is configured.
        let in_line = before.observed_generation == before.desired_generation;
        if quiet && in_line && before.state == State::Stopped {
            the_same_is_remembered(&before, &after)?;
        }
        // As every supervisor does.
        drop(worker.handle.start(Trigger::Config));
    }
    Ok(())
}

/// A worker at rest is, after a crash, what it was before: stopped by whom it was, as often restarted, its breaker as open, and
/// no nearer to what it waits for.
fn the_same_is_remembered(before: &WorkerStatus, after: &WorkerStatus) -> Result<(), String> {
    let kept = |status: &WorkerStatus| {
        let breaker: Vec<_> = status.breaker.iter().map(|b| (b.class, b.state, b.attempts, b.max_attempts)).collect();
        let asked = (status.down_by, status.down_policy);
        (status.detail, asked, breaker, status.restarts_by, status.cause.clone(), status.run)
    };
    let waits = |status: &WorkerStatus| {
        let breaker = status.breaker.iter().map(|b| b.until);
        std::iter::once(status.next_attempt).chain(breaker).collect::<Vec<_>>()
    };
    let no_nearer = waits(before).into_iter().zip(waits(after)).all(|(before, after)| before <= after);
    if before.run == 0 || (kept(before) == kept(after) && no_nearer) {
        return Ok(());
    }
    Err(format!("{:?} {:?} is remembered as {:?} {:?}", kept(before), waits(before), kept(after), waits(after)))
}

/// `seq` has no gaps and begins at 1, for each worker and each supervisor.
fn seq_is_gapless(events: &[Event]) -> Result<(), String> {
    let mut last: BTreeMap<WorkerId, u64> = BTreeMap::new();
    for event in events {
        let worker = event.worker.clone().ok_or("a worker's event names its worker")?;
        let last = last.entry(worker).or_default();
        if event.seq != *last + 1 && event.seq != 1 {
            return Err(format!("seq {} of {:?} follows {last}", event.seq, event.worker));
        }
        *last = event.seq;
    }
    Ok(())
}

/// Each run that was begun ends once. Only where its supervisor was replaced before the store had that is it told again, by the
/// next one, once by each and as the same; a run that was cleared away half-made has no end.
fn every_run_ends_once(
    events: &[Event],
    begun: &BTreeSet<(WorkerId, u32)>,
    launched: &BTreeSet<(WorkerId, u32)>,
    crashed: bool,
) -> Result<(), String> {
    let mut ended: BTreeMap<(WorkerId, u32), u32> = BTreeMap::new();
    let mut causes: BTreeMap<(WorkerId, u32), ExitCause> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for event in events {
        if event.seq == 1 {
            told.retain(|(worker, _)| Some(worker) != event.worker.as_ref());
        }
        if let (EventKind::Exited { cause, .. }, Some(worker), Some(run)) = (&event.kind, &event.worker, event.run) {
            let before = causes.insert((worker.clone(), run), cause.clone());
            // The number of a run whose directory was never made may be another's under another supervisor, and a directory
            // that a stranger removed tells the next one nothing.
            let traced = |before: &&ExitCause| {
                !matches!(before, ExitCause::StartFailed { .. } | ExitCause::Unknown { why: UnknownWhy::CgroupRemoved })
            };
            if before.as_ref().filter(traced).is_some_and(|before| before != cause) {
                return Err(format!("{worker}.{run} ended by {cause}, and before by {before:?}"));
            }
            *ended.entry((worker.clone(), run)).or_default() += 1;
            if !told.insert((worker.clone(), run)) {
                return Err(format!("{worker}.{run} ended twice"));
            }
        }
    }
    for run in begun {
        let times = ended.get(run).copied().unwrap_or(0);
        if times != 1 && !crashed || times == 0 && launched.contains(run) {
            return Err(format!("{run:?} ended {times} times"));
        }
    }
    ended.keys().find(|run| !begun.contains(run)).map_or(Ok(()), |run| Err(format!("{run:?} ended, but never began")))
}

/// The public state and its detail belong together, and an open breaker shows.
fn the_state_is_legal(worker: &WorkerHandle) -> Result<(), String> {
    let status = worker.status();
    let fits = match status.detail {
        Detail::Stopped(_) => State::Stopped,
        Detail::Preparing | Detail::Launching => State::Starting,
        Detail::Running(_) => State::Running,
        Detail::Stopping(_) => State::Stopping,
    };
    let alone = status.pid.is_none() || matches!(status.state, State::Running | State::Stopping);
    if fits == status.state && alone { Ok(()) } else { Err(format!("no legal state: {status:?}")) }
}

/// While a class of a worker's breaker is open, no automatic restart of that class is decided.
fn an_open_breaker_admits_nothing(events: &[Event]) -> Result<(), String> {
    let mut open: BTreeSet<(WorkerId, Class)> = BTreeSet::new();
    for event in events {
        let Some(worker) = &event.worker else { continue };
        if event.seq == 1 {
            open.retain(|(of, _)| of != worker);
        }
        match &event.kind {
            EventKind::Breaker { class, state: BreakerState::Open, .. } => {
                open.insert((worker.clone(), *class));
            }
            EventKind::Breaker { class, .. } => {
                open.remove(&(worker.clone(), *class));
            }
            // A restart that was admitted before goes on; one that is admitted has a number.
            EventKind::Decision(decision) if decision.verdict == Verdict::Restart && decision.attempt.is_some() => {
                let class = decision.class.ok_or("an attempt has a class")?;
                if open.contains(&(worker.clone(), class)) {
                    return Err(format!("{worker} is restarted while its breaker is open: {decision:?}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A stop by request is never followed by an automatic restart: between it and the next word of a person no run is begun
/// by itself. What the world below counts as begun is a `Prepare`; here the decisions are looked at. The wish is on the
/// run's record, so that it is lost with the supervisor where a stranger had removed the run's cgroup: one supervisor's word.
fn no_restart_follows_a_stop(events: &[Event]) -> Result<(), String> {
    let mut down: BTreeSet<WorkerId> = BTreeSet::new();
    for event in events {
        let Some(worker) = &event.worker else { continue };
        if event.seq == 1 {
            down.remove(worker);
        }
        match &event.kind {
            EventKind::Operator { what, .. } => match what.as_str() {
                "stop" | "kill" => drop(down.insert(worker.clone())),
                "start" | "restart" | "restart by force" => drop(down.remove(worker)),
                _ => {}
            },
            EventKind::Decision(d)
                if d.trigger == Trigger::Violation && matches!(d.verdict, Verdict::Stop | Verdict::Kill) =>
            {
                down.insert(worker.clone());
            }
            EventKind::Decision(d) if d.verdict == Verdict::Restart && down.contains(worker) => {
                return Err(format!("{worker} is restarted after it was taken down: {d:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// While a worker is frozen its health decides nothing: none of its checks is told to have failed, and no run of it is ended for it.
fn a_frozen_worker_is_not_restarted_for_its_health(events: &[Event]) -> Result<(), String> {
    let (mut frozen, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let Some(worker) = &event.worker else { continue };
        if event.seq == 1 {
            frozen.remove(worker);
            ending.remove(worker);
        }
        match &event.kind {
            EventKind::State { detail: Detail::Running(Readiness::Frozen), .. } => drop(frozen.insert(worker)),
            EventKind::State { state: State::Stopping, .. } => ending.extend(frozen.take(worker)),
            EventKind::State { .. } => {
                frozen.remove(worker);
                ending.remove(worker);
            }
            EventKind::Decision(d) if d.trigger == Trigger::Health && frozen.contains(worker) => {
                return Err(format!("the health of {worker}, which is frozen, is decided about: {d:?}"));
            }
            EventKind::Exited { cause, .. } => {
                let was_frozen = frozen.remove(worker) | ending.remove(worker);
                let for_health = matches!(cause, ExitCause::Killed { policy: Some(policy), .. } if policy == "health");
                if was_frozen && for_health {
                    return Err(format!("{worker} was frozen, and is restarted for its health"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A freeze or a thaw is of the run that a person has asked it of, and of no other.
fn what_a_person_froze_is_all_that_is_frozen(events: &[Event], calls: &[(Mono, Call)]) -> Result<(), String> {
    let asked = |event: &Event| match &event.kind {
        EventKind::Operator { what, .. } if ["freeze", "thaw"].contains(&what.as_str()) => {
            Some((RunId::new(event.worker.clone()?, event.run?), what == "freeze"))
        }
        _ => None,
    };
    let asked: BTreeSet<_> = events.iter().filter_map(asked).collect();
    for (_, call) in calls {
        if let Call::Freeze(run, frozen) = call
            && !asked.contains(&(run.clone(), *frozen))
        {
            return Err(format!("{call:?} is what nobody has asked for"));
        }
    }
    Ok(())
}

fn any_report(random: &mut fastrand::Rng) -> HealthReport {
    let observed = "seen".to_owned();
    match random.u32(0..6) {
        0 => HealthReport::Alive { observed },
        1 => HealthReport::Ready { observed },
        2 => HealthReport::Unready { observed },
        _ => HealthReport::Failed { probe: ProbeKind::Liveness, observed },
    }
}

/// One of the things that arrive; what it says about the worker's being up, if anything.
fn ask_anything(worker: &mut Supervised, random: &mut fastrand::Rng) -> (Option<bool>, Option<Answer>) {
    let Supervised { handle, spec, generation, .. } = &mut *worker;
    let (up, answer) = match random.u32(0..22) {
        0..5 => (Some(true), handle.start(Trigger::Operator)),
        5..7 => (Some(true), handle.restart(random.bool())),
        7..9 => (Some(false), handle.stop(KilledBy::Stop)),
        9 => (Some(false), handle.kill(KilledBy::Operator)),
        10 => (None, handle.reset()),
        11 => (None, handle.signal(15)),
        12..15 => (None, handle.health(handle.status().run, any_report(random))),
        15 => (Some(true), handle.restart(true)),
        18..22 => return (None, worker.freezes(random.u32(0..3) > 0)),
        16 => {
            *generation += 1;
            let renew = if random.bool() { Renew::Yes } else { Renew::No };
            let reach = Reach::Config { generation: *generation, renew };
            *spec = Arc::new(any_spec(random));
            (None, handle.update(Arc::clone(spec), reach))
        }
        // For a run only limits are set.
        _ => {
            let limits = any_spec(random).limits;
            (None, handle.update(Arc::new(Spec { limits, ..Spec::clone(spec) }), Reach::Run))
        }
    };
    (up, Some(answer))
}

/// A storm: fifty workers, a minute, everything arrives together.
async fn storm(seed: u64) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new(seed);
    bench.kernel.chaos(true);
    bench.ledger.chaos(true);
    let mut workers = Vec::new();
    for n in 0..50 {
        let id = WorkerId::new(&format!("w-{n}")).map_err(|e| e.to_string())?;
        workers.push(supervised(&bench, id, Arc::new(any_spec(&mut random))));
    }
    let mut answers = Vec::new();
    let began = bench.shared.clock.now();
    while bench.shared.clock.now().since(began) < Duration::from_secs(60) {
        for worker in &mut workers {
            for _ in 0..random.u32(0..4) {
                answers.extend(ask_anything(worker, &mut random).1);
            }
        }
        // Every verb works all the same.
        bench.ledger.full(random.u8(0..4) == 0);
        tokio::time::sleep(Duration::from_millis(random.u64(0..5000))).await;
        workers.iter_mut().try_for_each(|worker| worker.is_left_as_it_was_asked_to_be(&bench))?;
    }
    end(&mut bench, workers, answers, false).await
}

async fn live(seed: u64) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new(seed);
    bench.kernel.chaos(true);
    bench.ledger.chaos(true);
    let mut workers = Vec::new();
    for n in 0..random.usize(1..6) {
        let id = WorkerId::new(&format!("w-{n}")).map_err(|e| e.to_string())?;
        workers.push(supervised(&bench, id, Arc::new(any_spec(&mut random))));
    }
    let mortal = random.u8(0..4) == 0;
    let mut crashed = false;
    let mut answers = Vec::new();
    let mut last: BTreeMap<WorkerId, Order> = BTreeMap::new();
    for _ in 0..random.u32(5..40) {
        if mortal && random.u32(0..8) == 0 {
            crashed = true;
            die_and_recover(&bench, &mut workers, &mut last).await?;
            continue;
        }
        let which = random.usize(0..workers.len());
        let worker = &mut workers[which];
        match ask_anything(worker, &mut random) {
            (Some(up), answer) => {
                let order = last.insert(worker.id.clone(), Order { stop: !up, answer, done: false });
                answers.extend(order.and_then(|order| order.answer));
            }
            (None, answer) => answers.extend(answer),
        }
        // What notifications did not say is seen by whoever looks.
        if random.u8(0..4) == 0 {
            who_looks_sees_whether_it_is_frozen(&bench, &workers[random.usize(0..workers.len())].handle).await?;
        }
        let pause = if random.bool() { 0 } else { random.u64(0..20_000) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for worker in &mut workers {
            the_state_is_legal(&worker.handle)?;
            worker.is_left_as_it_was_asked_to_be(&bench)?;
        }
    }
    answers.extend(last.into_values().filter_map(|order| order.answer));
    end(&mut bench, workers, answers, crashed).await
}

/// Ends everything and looks at what is left.
async fn end(
    bench: &mut Bench,
    mut workers: Vec<Supervised>,
    mut answers: Vec<Answer>,
    crashed: bool,
) -> Result<usize, String> {
    for worker in &mut workers {
        who_looks_sees_whether_it_is_frozen(bench, &worker.handle).await?;
        worker.is_left_as_it_was_asked_to_be(bench)?;
        answers.extend(worker.freeze.take().and_then(|freeze| freeze.answer));
    }
    answers.extend(workers.iter().map(|w| w.handle.stop(KilledBy::Shutdown)));
    for answer in answers {
        match tokio::time::timeout(LONG, answer).await {
            Ok(Err(AskError::Gone { worker })) if !crashed => return Err(format!("the actor of {worker} has ended")),
            Ok(_) => {}
            Err(_) => return Err("somebody was never answered".to_owned()),
        }
    }
    for worker in &workers {
        match tokio::time::timeout(LONG, worker.handle.at_rest()).await {
            Ok(rested) => rested.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("{:?} did not come to rest", worker.handle.status())),
        }
    }
    let runs = |bench: &Bench| {
        let prepare = |(_, call)| match call {
            Call::Prepare(run) => Some((run.worker, run.number)),
            _ => None,
        };
        bench.kernel.calls().into_iter().filter_map(prepare).collect::<BTreeSet<_>>()
    };
    let begun = runs(bench);
    let launch = |(_, call)| if let Call::Launch(run, _) = call { Some((run.worker, run.number)) } else { None };
    let launched: BTreeSet<_> = bench.kernel.calls().into_iter().filter_map(launch).collect();
    tokio::time::sleep(LONG).await;
    if runs(bench) != begun {
        return Err("a run was begun after the stop".to_owned());
    }
    if let Some(left) = bench.kernel.directories().first() {
        return Err(format!("the directory of {left} was left behind"));
    }
    if let Some(breach) = bench.kernel.breaches().first() {
        return Err(breach.clone());
    }
    if let Some(worker) = workers.iter().find(|w| w.handle.status().state != State::Stopped) {
        return Err(format!("{:?} after its stop", worker.handle.status()));
    }
    let events = bench.recorded();
    what_a_person_froze_is_all_that_is_frozen(&events, &bench.kernel.calls())?;
    seq_is_gapless(&events)?;
    an_open_breaker_admits_nothing(&events)?;
    no_restart_follows_a_stop(&events)?;
    a_frozen_worker_is_not_restarted_for_its_health(&events)?;
    every_run_ends_once(&events, &begun, &launched, crashed)?;
    Ok(begun.len())
}

fn simulate(world: impl Future<Output = Result<usize, String>>) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|e| e.to_string())?.block_on(world)
}

fn number(name: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    std::env::var(name).ok().map(|text| text.parse()).transpose()
}

/// Runs `world` for each seed: `plain` of them, unless the environment says otherwise.
fn every_seed<F: Future<Output = Result<usize, String>>>(test: &str, plain: u64, world: impl Fn(u64) -> F) {
    let seeds = match number("PINFOLD_SEED").expect("PINFOLD_SEED is a number") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PINFOLD_SEEDS").expect("PINFOLD_SEEDS is a number").unwrap_or(plain),
    };
    let mut runs = 0;
    for seed in seeds.clone() {
        match simulate(world(seed)) {
            Ok(begun) => runs += begun,
            Err(why) => {
                panic!("{why}\nagain with: PINFOLD_SEED={seed} cargo test --features testing --test simulation {test}")
            }
        }
    }
    println!("{runs} runs in {} worlds", seeds.end - seeds.start);
}

#[test]
fn no_world_breaks_the_promises() {
    every_seed("no_world_breaks_the_promises", 2000, live);
}

#[test]
fn no_storm_breaks_the_promises() {
    every_seed("no_storm_breaks_the_promises", 60, storm);
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let calls = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(seed);
            bench.kernel.chaos(true);
            let worker = bench.worker("w", any_spec(&mut fastrand::Rng::with_seed(seed))).unwrap();
            drop(worker.start(Trigger::Operator));
            tokio::time::sleep(LONG).await;
            bench.kernel.calls()
        })
    };
    assert_eq!(calls(5), calls(5));
    assert_ne!(calls(5), calls(6));
}
