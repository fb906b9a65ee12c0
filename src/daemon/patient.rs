//! A worker as the monitor of its health sees it: what it publishes, whether it is frozen, and whom to tell.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::health::task::{Patient, RunSeen};
use crate::kernel::host::HostKernel;
use crate::model::{Detail, HealthReport, HealthVerdict, Readiness, RunId, State, WorkerStatus, chain};
use crate::worker::effect::Refusal;
use crate::worker::handle::{AskError, WorkerHandle};

/// One worker with a health check.
pub(super) struct Attended {
    worker: WorkerHandle,
    kernel: HostKernel,
    /// The last run that was seen; 0 before the first. One that was let go of does not come again.
    seen: AtomicU32,
}

impl Attended {
    pub(super) const fn new(worker: WorkerHandle, kernel: HostKernel) -> Self {
        Self { worker, kernel, seen: AtomicU32::new(0) }
    }
}

fn runs(status: &WorkerStatus) -> bool {
    status.state == State::Running
}

fn is_frozen(status: &WorkerStatus) -> bool {
    status.detail == Detail::Running(Readiness::Frozen)
}

impl Patient for Attended {
    async fn next_run(&self) -> Option<RunSeen> {
        let seen = self.seen.load(Ordering::Relaxed);
        let next = |status: &WorkerStatus| runs(status) && status.run > seen && status.started.is_some();
        let status = self.worker.wait_for(next).await.ok()?;
        self.seen.store(status.run, Ordering::Relaxed);
        Some(RunSeen { number: status.run, started: status.started? })
    }

    async fn run_over(&self, number: u32) {
        // An actor that has ended has no run.
        drop(self.worker.wait_for(|status| !runs(status) || status.run != number).await);
    }

    fn frozen(&self) -> bool {
        self.kernel.is_frozen(&RunId::new(self.worker.id().clone(), self.seen.load(Ordering::Relaxed)))
    }

    async fn freezes(&self, number: u32) {
        let frozen = |status: &WorkerStatus| status.run == number && is_frozen(status);
        if self.worker.wait_for(frozen).await.is_err() {
            // An actor that has ended freezes nobody.
            std::future::pending::<()>().await;
        }
    }

    async fn thaws(&self, number: u32) {
        drop(self.worker.wait_for(|status| status.run != number || !is_frozen(status)).await);
    }

    async fn report(&self, number: u32, report: HealthReport) -> HealthVerdict {
        let failed = matches!(report, HealthReport::Failed { .. });
        match self.worker.health(number, report).await {
            Ok(()) if failed => HealthVerdict::Restarting,
            Ok(()) => HealthVerdict::Noted,
            Err(AskError::Refused { why: Refusal::NotNow(_), .. }) => HealthVerdict::Muted,
            Err(AskError::Refused { why, .. }) => HealthVerdict::Refused(chain(&why)),
            Err(gone) => HealthVerdict::Refused(gone.to_string()),
        }
    }
}
