//! Whether an OOM kill was for the run's own limit.

use std::time::Duration;

use crate::model::{Counters, MemoryEvents, Mono};

/// How long a limit that was reached may take to have its victim. `oom` is counted first (`mem_cgroup_oom`), then
/// the allocation waits for a lock that all cgroups share and under which the kernel writes its report, over a slow console
/// for seconds each. Only then `oom_kill` is counted (`__oom_kill_process`, both in `mm/`). Not for ever: a task that finds
/// another dying already has counted an `oom` that no kill answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after a kill another can be of the same OOM: those of a group are counted one by one.
const SAME: Duration = Duration::from_secs(2);

/// What the growth of `oom` and `oom_kill` says of the next kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OwnOom {
    /// Until when a kill is for the run's own limit.
    pub(super) until: Option<Mono>,
}

impl OwnOom {
    /// Takes what has grown since the last reading.
    pub(super) fn counted(&mut self, grown: Counters, now: Mono) {
        let MemoryEvents { oom, oom_kill, .. } = grown.hierarchical().unwrap_or_default();
        if oom > 0 {
            self.until = Some(now + if oom_kill < oom { PATIENCE } else { SAME });
        } else if oom_kill > 0 && self.explains(now) {
            self.until = Some(now + SAME);
        }
    }

    /// Whether a kill that is counted `now` is for the run's own limit.
    #[must_use]
    pub(super) fn explains(self, now: Mono) -> bool {
        self.until.is_some_and(|until| now <= until)
    }
}
