//! What running workers use, read from the kernel for whoever asks, on a thread where that may take a moment.
//!
//! Never through an actor: whether somebody looks must not change what a worker does.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::wire;
use crate::clock;
use crate::model::{Measured, OwnUse, Pressures, RunId, Stalled, Usage};

/// Reading takes microseconds. Where a kernel takes longer (a flush of its statistics on a busy host), the answer comes
/// without the numbers rather than late.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that reads what a run uses. May block.
pub trait Meter: Send + Sync + 'static {
    /// What `run` uses now. What cannot be read is absent.
    fn read(&self, run: &RunId) -> Usage;

    /// All that `run` uses and is held to. What cannot be read is absent.
    fn measure(&self, run: &RunId) -> Measured;

    /// What this process uses itself; `None` where it cannot be read.
    fn own(&self) -> Option<OwnUse>;
}

/// How much is asked for: `?usage=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Look {
    /// Nothing.
    #[default]
    False,
    /// What a person looks at first: a few files.
    True,
    /// All there is: a dozen.
    Full,
}

/// What each of `runs` uses, in their order; empty where it could not be read in time.
pub(super) async fn read(meter: &Arc<dyn Meter>, runs: Vec<RunId>, look: Look) -> Vec<wire::Usage> {
    if runs.is_empty() {
        return Vec::new();
    }
    let meter = Arc::clone(meter);
    let one = move |run: &RunId| match look {
        Look::Full => {
            let measured = meter.measure(run);
            let at_usec = u64::try_from(clock::monotonic().0.as_micros()).ok();
            wire::Usage { at_usec, ..measured.into() }
        }
        Look::True | Look::False => meter.read(run).into(),
    };
    let reading = tokio::task::spawn_blocking(move || runs.iter().map(one).collect());
    // Where the reading has failed there are no numbers either.
    tokio::time::timeout(PATIENCE, reading).await.ok().and_then(Result::ok).unwrap_or_default()
}

impl From<Usage> for wire::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { memory_current_bytes: memory_bytes, cpu_usec, pids_current: pids, .. } = usage;
        Self { memory_bytes, cpu_usec, pids, ..Self::default() }
    }
}

impl From<Measured> for wire::Usage {
    fn from(Measured { used, ceilings }: Measured) -> Self {
        let stalled =
            |some: Option<u64>, full: Option<u64>| Some(Stalled { some_usec: some?, full_usec: full.unwrap_or(0) });
        let pressure = Pressures {
            memory: stalled(used.memory_pressure_usec, used.memory_pressure_full_usec),
            cpu: stalled(used.cpu_pressure_usec, used.cpu_pressure_full_usec),
            io: stalled(used.io_pressure_usec, used.io_pressure_full_usec),
        };
        Self {
            memory_peak_bytes: used.memory_peak_bytes,
            memory_max_bytes: ceilings.memory_max_bytes,
            memory_high_bytes: ceilings.memory_high_bytes,
            cpu_periods: used.cpu_periods,
            cpu_throttled_periods: used.cpu_throttled_periods,
            cpu_throttled_usec: used.cpu_throttled_usec,
            pids_max: ceilings.pids_max,
            pressure: (pressure != Pressures::default()).then_some(pressure),
            io_read_bytes: used.io_read_bytes,
            io_written_bytes: used.io_written_bytes,
            io_reads: used.io_reads,
            io_writes: used.io_writes,
            ..used.into()
        }
    }
}
