//! What running workers use, read from the kernel for whoever asks, on a thread where that may take a moment.
//!
//! Never through an actor: whether somebody looks must not change what a worker does.

use std::{sync::Arc, time::Duration};

use super::wire;
use crate::model::{RunId, Usage};

/// Reading takes microseconds. Where a kernel takes longer (a flush of its statistics on a busy host), the answer comes
/// without the numbers rather than late.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that reads what a run uses. May block.
pub trait Meter: Send + Sync + 'static {
    /// What `run` uses now. What cannot be read is absent.
    fn read(&self, run: &RunId) -> Usage;
}

/// What each of `runs` uses, in their order; empty where it could not be read in time.
pub(super) async fn read(meter: &Arc<dyn Meter>, runs: Vec<RunId>) -> Vec<wire::Usage> {
    if runs.is_empty() {
        return Vec::new();
    }
    let meter = Arc::clone(meter);
    let reading = tokio::task::spawn_blocking(move || runs.iter().map(|run| meter.read(run).into()).collect());
    // Where the reading has failed there are no numbers either.
    tokio::time::timeout(PATIENCE, reading).await.ok().and_then(Result::ok).unwrap_or_default()
}

impl From<Usage> for wire::Usage {
    fn from(usage: Usage) -> Self {
        Self { memory_bytes: usage.memory_current_bytes, cpu_usec: usage.cpu_usec, pids: usage.pids_current }
    }
}
