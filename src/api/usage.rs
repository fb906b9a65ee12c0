//! What running workers use, read from the kernel for whoever asks, on a thread where that may take a moment.
//!
//! Never through an actor: whether somebody looks must not change what a worker does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::wire;
use crate::clock;
use crate::model::{Measured, Mono, OwnUse, Pressures, RunId, Stalled, Usage};

/// Reading takes microseconds. Where a kernel takes longer (a flush of its statistics on a busy host), the answer comes
/// without the numbers rather than late.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was read for one list is told in another for so long: whoever asks for lists of ten thousand workers has the kernel read of no
/// more than twice a second, however often he asks. Those who ask at the very same time read beside each other, so that nobody
/// waits for another's reading.
pub(super) const FRESH: Duration = Duration::from_millis(500);

/// What was read for lists just now.
#[derive(Debug, Default)]
pub(super) struct Glances {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    read: HashMap<RunId, (Mono, wire::Usage)>,
    /// When what is old was forgotten last.
    swept: Mono,
}

impl Glances {
    /// What each of `runs` uses, in their order, as it was at most [`FRESH`] before `now`.
    pub(super) async fn read(&self, meter: &Arc<dyn Meter>, runs: Vec<RunId>, now: Mono) -> Vec<wire::Usage> {
        let known: Vec<Option<wire::Usage>> = {
            let mut known = self.known();
            if now.since(known.swept) > FRESH {
                known.swept = now;
                known.read.retain(|_, (at, _)| now.since(*at) <= FRESH);
            }
            let fresh = |run| known.read.get(run).filter(|(at, _)| now.since(*at) <= FRESH);
            runs.iter().map(|run| fresh(run).map(|(_, usage)| *usage)).collect()
        };
        let missing: Vec<RunId> =
            runs.into_iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(run, _)| run).collect();
        let read = read(meter, missing.clone(), Look::True).await;
        let mut news = read.iter().copied();
        // What could not be read in time is not known, and not remembered.
        let all = known.into_iter().map(|known| known.or_else(|| news.next()).unwrap_or_default()).collect();
        self.known().read.extend(missing.into_iter().zip(read.into_iter().map(|usage| (now, usage))));
        all
    }

    /// Nothing under this lock can panic half-way.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::WorkerId;

    /// Tells how often it was asked.
    #[derive(Default)]
    struct Counting {
        asked: AtomicU64,
    }

    impl Meter for Counting {
        fn read(&self, _: &RunId) -> Usage {
            Usage { pids_current: Some(self.asked.fetch_add(1, Ordering::Relaxed) + 1), ..Usage::default() }
        }

        fn measure(&self, run: &RunId) -> Measured {
            Measured { used: self.read(run), ..Measured::default() }
        }

        fn own(&self) -> Option<OwnUse> {
            None
        }
    }

    #[tokio::test]
    async fn a_list_reads_what_none_has_read_just_now_and_nothing_else() {
        let meter: Arc<dyn Meter> = Arc::new(Counting::default());
        let glances = Glances::default();
        let run = |number| RunId::new(WorkerId::new("w").unwrap(), number);
        let read = async |runs: &[u32], at| {
            let runs = runs.iter().map(|number| run(*number)).collect();
            let used = glances.read(&meter, runs, Mono(at)).await;
            used.into_iter().map(|usage| usage.pids).collect::<Vec<_>>()
        };
        let second = Duration::from_secs(1);
        assert_eq!(read(&[1, 2], second).await, [Some(1), Some(2)]);
        assert_eq!(read(&[3, 2, 1], second + FRESH).await, [Some(3), Some(2), Some(1)], "another run is another's");
        assert_eq!(read(&[1, 3], second + FRESH * 3 / 2).await, [Some(4), Some(3)], "what is old is read again");
        assert_eq!(read(&[], 10 * second).await, []);
        assert!(glances.known().read.is_empty(), "and forgotten");
    }
}
