//! What this very process costs: its entry in /proc.

use std::sync::OnceLock;

use procfs::process::Process;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::clock;
use crate::model::OwnUse;

/// What this process uses now; `None` where its entry cannot be read.
#[must_use]
pub fn read() -> Option<OwnUse> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    Some(OwnUse {
        cpu_seconds: seconds(stat.utime + stat.stime, ticks),
        start_seconds: start(seconds(stat.starttime, ticks)),
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
        open_fds: u64::try_from(process.fd_count().ok()?).unwrap_or(u64::MAX),
        max_fds: getrlimit(Resource::Nofile).current,
    })
}

#[expect(clippy::cast_precision_loss, reason = "ticks of 285,000 years are told exactly")]
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second as f64
}

/// When this process began, `after_boot` seconds after the host: seconds since 1970. Told once and for all, for whoever takes a
/// change of it for another process.
fn start(after_boot: f64) -> f64 {
    static START: OnceLock<f64> = OnceLock::new();
    *START.get_or_init(|| {
        let boot = clock_gettime(ClockId::Boottime);
        #[expect(clippy::cast_precision_loss, reason = "the same")]
        let up = boot.tv_sec as f64 + boot.tv_nsec as f64 / 1e9;
        clock::wall().duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64() - (up - after_boot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_begun_in_the_past_and_costs_something() {
        let own = read().unwrap();
        let now = clock::wall().duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
        assert!(own.start_seconds < now && own.start_seconds > now - 1e6, "{own:?}");
        assert!(own.resident_bytes > 1 << 20 && own.virtual_bytes > own.resident_bytes, "{own:?}");
        assert!(own.open_fds >= 3 && own.threads >= 1, "{own:?}");
        assert!(own.max_fds.is_none_or(|max| max >= own.open_fds), "{own:?}");
    }

    #[test]
    fn its_beginning_is_the_same_whenever_it_is_asked() {
        let first = read().unwrap().start_seconds;
        assert!(first.to_bits() == read().unwrap().start_seconds.to_bits());
    }
}
