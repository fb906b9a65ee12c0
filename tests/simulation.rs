//! Several supervised workers in a hostile world, thousands of times, in virtual time, from outside.
//!
//! A seed decides everything: the workers, what their runs do, what is asked of them and when the supervisor dies. A failing
//! seed is printed. `PINFOLD_SEEDS=100000` runs more of them, `PINFOLD_SEED=17` one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use pinfold::model::{Event, EventKind, KilledBy, State, Trigger, WorkerId};
use pinfold::policy::restart::{RestartMode, RestartPolicy};
use pinfold::spec::types::{KillMode, Limits, Memory, OomGroup, Spec, Stop};
use pinfold::testing::{Bench, Call, Recovered};
use pinfold::worker::actor::{Charge, Found, supervise};
use pinfold::worker::handle::{AskError, WorkerHandle};

/// Longer than any run's end takes: a launch without an answer, a kill, a slow death.
const LONG: Duration = Duration::from_secs(3600);

fn any_spec(random: &mut fastrand::Rng) -> Spec {
    let modes = [RestartMode::Never, RestartMode::OnFailure, RestartMode::Always, RestartMode::UnlessStopped];
    let restart = RestartPolicy {
        mode: modes[random.usize(0..4)],
        retry_delay: Duration::from_millis(random.u64(0..5000)),
        max_delay: Duration::from_secs(20),
        reset_after: Duration::from_secs(random.u64(1..30)),
        ..Default::default()
    };
    let stop = Stop {
        timeout: Duration::from_millis(random.u64(0..3000)),
        kill_mode: if random.bool() { KillMode::Group } else { KillMode::Mixed },
        ..Default::default()
    };
    let memory = Memory {
        max: random.bool().then_some(64 << 20),
        oom_scope: if random.bool() { OomGroup::Worker } else { OomGroup::Process },
        ..Default::default()
    };
    let limits = Limits { memory, ..Default::default() };
    Spec { restart, stop, limits, ..Spec::new(vec!["/bin/true".to_owned()]) }
}

struct Supervised {
    id: WorkerId,
    spec: Arc<Spec>,
    handle: WorkerHandle,
    task: tokio::task::JoinHandle<()>,
}

fn supervised(bench: &Bench, id: WorkerId, spec: Arc<Spec>, found: Found) -> Supervised {
    let charge = Charge { id: id.clone(), spec: Arc::clone(&spec), spec_hash: 1, found };
    let (handle, actor) = supervise(&bench.shared, charge);
    Supervised { id, spec, handle, task: tokio::spawn(actor) }
}

/// The supervisor is gone between two turns, and another one finds what there is.
async fn die_and_recover(bench: &Bench, workers: &mut [Supervised]) {
    for worker in workers.iter_mut() {
        worker.task.abort();
        assert!((&mut worker.task).await.is_err());
    }
    for worker in workers {
        let found = match bench.kernel.recover(&worker.id) {
            Recovered::Nothing { last_run } => Found::Nothing { last_run },
            Recovered::Alive { pid, note } => Found::Alive { pid, note },
        };
        *worker = supervised(bench, worker.id.clone(), Arc::clone(&worker.spec), found);
    }
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

/// Each run that was begun ends once. Only where its supervisor was replaced before the run was cleared away is it told again, by
/// the next one, and once by each; a run that was cleared away half-made has no end.
fn every_run_ends_once(events: &[Event], begun: &BTreeSet<(WorkerId, u32)>, crashed: bool) -> Result<(), String> {
    let mut ended: BTreeMap<(WorkerId, u32), u32> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for event in events {
        if event.seq == 1 {
            told.retain(|(worker, _)| Some(worker) != event.worker.as_ref());
        }
        if let (EventKind::Exited { .. }, Some(worker), Some(run)) = (&event.kind, &event.worker, event.run) {
            *ended.entry((worker.clone(), run)).or_default() += 1;
            if !told.insert((worker.clone(), run)) {
                return Err(format!("{worker}.{run} ended twice"));
            }
        }
    }
    for run in begun {
        let times = ended.get(run).copied().unwrap_or(0);
        if times != 1 && !crashed {
            return Err(format!("{run:?} ended {times} times"));
        }
    }
    ended.keys().find(|run| !begun.contains(run)).map_or(Ok(()), |run| Err(format!("{run:?} ended, but never began")))
}

async fn live(seed: u64) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new(seed);
    bench.kernel.chaos(true);
    let mut workers = Vec::new();
    for n in 0..random.usize(1..6) {
        let id = WorkerId::new(&format!("w-{n}")).map_err(|e| e.to_string())?;
        let found = Found::Nothing { last_run: 0 };
        workers.push(supervised(&bench, id, Arc::new(any_spec(&mut random)), found));
    }
    let mortal = random.u8(0..4) == 0;
    let mut crashed = false;
    let mut answers = Vec::new();
    for _ in 0..random.u32(5..40) {
        let worker = &workers[random.usize(0..workers.len())].handle;
        answers.push(match random.u32(0..12) {
            0..5 => worker.start(Trigger::Operator),
            5..7 => worker.restart(false),
            7..9 => worker.stop(KilledBy::Stop),
            9 => worker.kill(KilledBy::Operator),
            _ if mortal => {
                crashed = true;
                die_and_recover(&bench, &mut workers).await;
                continue;
            }
            _ => worker.start(Trigger::Config),
        });
        let pause = if random.bool() { 0 } else { random.u64(0..20_000) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
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
    let begun = runs(&bench);
    tokio::time::sleep(LONG).await;
    if runs(&bench) != begun {
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
    seq_is_gapless(&events)?;
    every_run_ends_once(&events, &begun, crashed)?;
    Ok(begun.len())
}

fn simulate(seed: u64) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|e| e.to_string())?.block_on(live(seed))
}

fn number(name: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    std::env::var(name).ok().map(|text| text.parse()).transpose()
}

#[test]
fn no_world_breaks_the_promises() {
    let seeds = match number("PINFOLD_SEED").expect("PINFOLD_SEED is a number") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PINFOLD_SEEDS").expect("PINFOLD_SEEDS is a number").unwrap_or(1000),
    };
    let mut runs = 0;
    for seed in seeds.clone() {
        match simulate(seed) {
            Ok(begun) => runs += begun,
            Err(why) => {
                panic!("{why}\nagain with: PINFOLD_SEED={seed} cargo test --features testing --test simulation")
            }
        }
    }
    println!("{runs} runs in {} worlds", seeds.end - seeds.start);
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
