//! The task that watches one worker's health: sleeps until a probe is due, has it carried out, tells what it amounts to.
//!
//! It holds nothing of the worker and is held by nobody: what it follows is what the worker publishes, what it finds it
//! tells and gets an answer to. While no run runs it waits for one, and nothing wakes it. Dropping it, like the end of a
//! run, drops the try that is in flight; what that had started is ended by whoever started it.

use std::{convert::Infallible, future::Future, sync::Arc};

use super::monitor::Monitor;
use super::probe::{Finding, Outcome};
use crate::clock::Clock;
use crate::model::{HealthReport, HealthVerdict, Mono, ProbeKind};
use crate::spec::types::{HealthCheck, Probe};

/// A run as its monitor needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSeen {
    /// Its number.
    pub number: u32,
    /// When its program began.
    pub started: Mono,
}

/// A worker, as the monitor of its health sees it.
pub trait Patient: Send + Sync + 'static {
    /// Waits for a run that runs, which may be the present one, but never one that [`run_over`](Self::run_over) has let go
    /// of. `None`: the worker is not supervised any more.
    fn next_run(&self) -> impl Future<Output = Option<RunSeen>> + Send;

    /// Waits until run `number` does not run, which includes that it is being stopped.
    fn run_over(&self, number: u32) -> impl Future<Output = ()> + Send;

    /// Whether it is frozen now, by whomever. Asked before each try, and after one that failed.
    fn frozen(&self) -> bool;

    /// Waits until run `number` is known to be frozen.
    fn freezes(&self, number: u32) -> impl Future<Output = ()> + Send;

    /// Waits until run `number` is not known to be frozen any more.
    fn thaws(&self, number: u32) -> impl Future<Output = ()> + Send;

    /// Takes a report of run `number`. To [`HealthReport::Failed`] the answer is what follows from it, to all others
    /// [`HealthVerdict::Noted`]. Nothing is tried before the answer is there.
    fn report(&self, number: u32, report: HealthReport) -> impl Future<Output = HealthVerdict> + Send;
}

/// Whoever carries out a try.
pub trait Prober: Send + Sync + 'static {
    /// Tries `probe` for run `run`, within its timeout. Dropping the future ends the try.
    fn probe(&self, run: u32, kind: ProbeKind, probe: &Probe) -> impl Future<Output = Outcome> + Send;
}

/// Watches the health of `patient` until it is not supervised any more.
pub async fn attend(patient: impl Patient, prober: impl Prober, check: Arc<HealthCheck>, clock: Clock) {
    while let Some(run) = patient.next_run().await {
        let monitor = Monitor::new(&check, run.started);
        tokio::select! {
            biased;
            () = patient.run_over(run.number) => {}
            // Boxed, so that an idle task is small.
            never = Box::pin(watch(&patient, &prober, run.number, monitor, clock)) => match never {},
        }
    }
}

/// Watches one run, for ever. While it is frozen nothing is tried and no time passes: a try that was in flight is dropped, and what
/// was due is due by so much later.
async fn watch(
    patient: &impl Patient,
    prober: &impl Prober,
    run: u32,
    mut monitor: Monitor,
    clock: Clock,
) -> Infallible {
    loop {
        tokio::select! {
            biased;
            () = patient.freezes(run) => {}
            never = watch_unfrozen(patient, prober, run, &mut monitor, clock) => match never {},
        }
        let since = clock.now();
        patient.thaws(run).await;
        monitor.put_off(clock.now().since(since));
    }
}

async fn watch_unfrozen(
    patient: &impl Patient,
    prober: &impl Prober,
    run: u32,
    monitor: &mut Monitor,
    clock: Clock,
) -> Infallible {
    loop {
        let Some(due) = monitor.next() else { return std::future::pending().await };
        tokio::time::sleep_until(clock.instant(due.at)).await;
        monitor.begin(due.kind, clock.now());
        let Some(probe) = monitor.probe(due.kind).filter(|_| !patient.frozen()) else { continue };
        let outcome = prober.probe(run, due.kind, probe).await;
        // Frozen meanwhile, it cannot have answered.
        if outcome.finding == Finding::Failed && patient.frozen() {
            continue;
        }
        if let Some(report) = monitor.end(due.kind, outcome, clock.now()) {
            let verdict = patient.report(run, report).await;
            monitor.answered(due.kind, &verdict);
        }
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
