//! Which pressure triggers a run needs, and how one is set (Linux Documentation/accounting/psi.rst).
//!
//! Set by a process with `CAP_SYS_RESOURCE`, a trigger may have any window from 500 ms to 10 s, and costs a kernel thread. Without
//! it only windows that are multiples of 2 s are accepted, and nothing but 3 KiB is spent. What decides is the effective
//! set of the thread that *opens* the file, so that it is put aside wherever the window allows it.

use std::{io, os::fd::OwnedFd, time::Duration};

use caps::{CapSet, Capability};

use crate::kernel::cgroup::{Dir, DirError};
use crate::model::Limit;
use crate::spec::types::{Limits, PressureTrigger, ViolationPolicy};

/// Windows are multiples of this for whoever has no privilege.
const PLAIN: Duration = Duration::from_secs(2);

/// A trigger to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// What it is a sign of.
    pub limit: Limit,
    /// `full` instead of `some`.
    pub full: bool,
    /// So much stall …
    pub stall: Duration,
    /// … within so much time.
    pub window: Duration,
    /// Whether to look every few seconds where no trigger is to be had: somebody acts upon it.
    pub missed: bool,
}

/// The triggers that `limits` need. None where nothing is watched.
#[must_use]
pub fn triggers(limits: &Limits) -> Vec<Trigger> {
    let mut all = Vec::new();
    if !limits.monitoring.enabled {
        return all;
    }
    if limits.cpu.max_percent.is_some() {
        // Throttling stalls every task of the run.
        let (stall, missed) = (Duration::from_millis(50), limits.cpu.policy != ViolationPolicy::None);
        all.push(Trigger { limit: Limit::CpuMax, full: true, stall, window: PLAIN, missed });
    }
    if !limits.io.is_empty() {
        // Half of the window: an episode asks for no less.
        all.push(Trigger { limit: Limit::IoMax, full: false, stall: PLAIN / 2, window: PLAIN, missed: false });
    }
    let pressure = &limits.pressure;
    let configured = [
        (Limit::MemoryPressure, &pressure.memory),
        (Limit::CpuPressure, &pressure.cpu),
        (Limit::IoPressure, &pressure.io),
    ];
    all.extend(configured.into_iter().filter_map(|(limit, trigger)| {
        let PressureTrigger { full, stall, window, .. } = *trigger.as_ref()?;
        Some(Trigger { limit, full, stall, window, missed: true })
    }));
    all
}

impl Trigger {
    /// The file it is set in.
    #[must_use]
    pub const fn file(&self) -> &'static str {
        match self.limit.resource().as_bytes() {
            b"memory" => "memory.pressure",
            b"cpu" => "cpu.pressure",
            _ => "io.pressure",
        }
    }

    /// What is written.
    #[must_use]
    pub fn text(&self) -> String {
        let kind = if self.full { "full" } else { "some" };
        format!("{kind} {} {}", self.stall.as_micros(), self.window.as_micros())
    }

    /// Whether it can be set without the privilege.
    const fn is_plain(&self) -> bool {
        self.window.subsec_nanos() == 0 && self.window.as_secs().is_multiple_of(PLAIN.as_secs())
    }
}

/// This thread's right to set triggers of any window, put aside. Not to be handed to another thread.
#[derive(Debug)]
pub struct Privilege {
    held: bool,
    thread: std::marker::PhantomData<*const ()>,
}

impl Privilege {
    /// Takes `CAP_SYS_RESOURCE` out of this thread's effective set; it stays permitted.
    #[must_use]
    pub fn put_aside() -> Self {
        let held = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE)
            .and_then(|held| caps::drop(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).map(|()| held));
        // A thread that may not change its capabilities goes on with what it has.
        Self { held: held.unwrap_or(false), thread: std::marker::PhantomData }
    }

    /// Sets `trigger` in the cgroup `dir`: without the privilege where that is possible. It lives until the
    /// descriptor is closed, which waits for the kernel's readers (10 to 20 ms), and must come before the rmdir.
    ///
    /// # Errors
    /// `EINVAL` or `EPERM` where the kernel wants the privilege, `EOPNOTSUPP` where it counts no pressure.
    pub fn set(&self, dir: &Dir, trigger: &Trigger) -> Result<OwnedFd, DirError> {
        let plainly = || dir.open_trigger(trigger.file(), &trigger.text());
        if !self.held {
            return plainly();
        }
        if trigger.is_plain() {
            match plainly() {
                // A kernel that knows triggers of the privileged only.
                Err(e) if e.is(&[rustix::io::Errno::INVAL, rustix::io::Errno::PERM]) => {}
                other => return other,
            }
        }
        let change = |e: caps::errors::CapsError| DirError::Io {
            action: "change CAP_SYS_RESOURCE for",
            path: dir.path().join(trigger.file()),
            source: io::Error::other(e),
        };
        caps::raise(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).map_err(change)?;
        let set = plainly();
        caps::drop(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).map_err(change)?;
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::types::{Cpu, Io, Monitoring, Pressure};

    fn limits() -> Limits {
        let trigger = |full, window_ms| PressureTrigger {
            full,
            stall: Duration::from_millis(150),
            window: Duration::from_millis(window_ms),
            sustained: Duration::from_secs(20),
            policy: ViolationPolicy::Log,
        };
        Limits {
            cpu: Cpu { max_percent: Some(75.0), ..Cpu::default() },
            io: vec![Io {
                path: "/data".into(),
                rbps: Some(1),
                wbps: None,
                riops: None,
                wiops: None,
                policy: ViolationPolicy::Log,
            }],
            pressure: Pressure { memory: Some(trigger(true, 1000)), cpu: Some(trigger(false, 4000)), io: None },
            ..Limits::default()
        }
    }

    #[test]
    fn each_limit_that_is_seen_by_pressure_has_its_trigger() {
        let all = triggers(&limits());
        let told: Vec<_> =
            all.iter().map(|t| format!("{}: {} < {} {}", t.limit, t.file(), t.text(), t.missed)).collect();
        assert_eq!(
            told,
            [
                "cpu.max: cpu.pressure < full 50000 2000000 true",
                "io.max: io.pressure < some 1000000 2000000 false",
                "memory.pressure: memory.pressure < full 150000 1000000 true",
                "cpu.pressure: cpu.pressure < some 150000 4000000 true",
            ]
        );
        assert_eq!(all.iter().map(Trigger::is_plain).collect::<Vec<_>>(), [true, true, false, true]);
    }

    #[test]
    fn what_nobody_acts_upon_is_not_looked_for_by_other_means() {
        let mut limits = limits();
        limits.cpu.policy = ViolationPolicy::None;
        assert!(!triggers(&limits)[0].missed);
    }

    #[test]
    fn no_limit_and_no_monitoring_need_no_trigger() {
        assert_eq!(triggers(&Limits::default()), []);
        let monitoring = Monitoring { enabled: false, ..Monitoring::default() };
        assert_eq!(triggers(&Limits { monitoring, ..limits() }), []);
    }
}
