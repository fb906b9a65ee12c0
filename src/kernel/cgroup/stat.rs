//! What a run used: `cpu.stat`, `memory.peak` and their like, and the totals of the pressure files.

use super::dir::{Dir, flat};
use crate::model::Usage;

/// Reads all of it. What cannot be read is `None`: totals are a report, never a reason to fail.
#[must_use]
pub fn usage(dir: &Dir) -> Usage {
    let mut buf = [0; 2048];
    let mut usage = Usage {
        memory_current_bytes: number(dir, "memory.current", &mut buf),
        memory_peak_bytes: number(dir, "memory.peak", &mut buf),
        pids_current: number(dir, "pids.current", &mut buf),
        pids_peak: number(dir, "pids.peak", &mut buf),
        memory_pressure_usec: stalled(dir, "memory.pressure", &mut buf),
        cpu_pressure_usec: stalled(dir, "cpu.pressure", &mut buf),
        io_pressure_usec: stalled(dir, "io.pressure", &mut buf),
        ..Usage::default()
    };
    if let Ok(text) = dir.read_into("cpu.stat", &mut buf) {
        for (key, value) in flat(text) {
            match key {
                "usage_usec" => usage.cpu_usec = Some(value),
                "user_usec" => usage.cpu_user_usec = Some(value),
                "system_usec" => usage.cpu_system_usec = Some(value),
                "nr_periods" => usage.cpu_periods = Some(value),
                "nr_throttled" => usage.cpu_throttled_periods = Some(value),
                "throttled_usec" => usage.cpu_throttled_usec = Some(value),
                _ => {}
            }
        }
    }
    usage
}

/// Reads what a person looks at first of a living cgroup: memory, CPU time, processes.
#[must_use]
pub fn glance(dir: &Dir) -> Usage {
    let mut buf = [0; 2048];
    let mut usage = Usage {
        memory_current_bytes: number(dir, "memory.current", &mut buf),
        pids_current: number(dir, "pids.current", &mut buf),
        ..Usage::default()
    };
    if let Ok(text) = dir.read_into("cpu.stat", &mut buf) {
        usage.cpu_usec = flat(text).find(|(key, _)| *key == "usage_usec").map(|(_, value)| value);
    }
    usage
}

fn number(dir: &Dir, file: &str, buf: &mut [u8]) -> Option<u64> {
    dir.read_into(file, buf).ok()?.trim().parse().ok()
}

/// `total` of the `some` line, microseconds.
fn stalled(dir: &Dir, file: &str, buf: &mut [u8]) -> Option<u64> {
    let text = dir.read_into(file, buf).ok()?;
    let (some, _full) = procfs::get_pressure(text.as_bytes()).ok()?;
    Some(some.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cgroup_gives_every_number() {
        let tmp = tempfile::tempdir().unwrap();
        let psi = |total: u64| {
            format!(
                "some avg10=0.00 avg60=1.50 avg300=0.42 total={total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"
            )
        };
        for (name, text) in [
            ("memory.current", "4096\n".to_owned()),
            ("memory.peak", "8192\n".to_owned()),
            ("pids.current", "2\n".to_owned()),
            ("pids.peak", "5\n".to_owned()),
            ("memory.pressure", psi(101)),
            ("cpu.pressure", psi(102)),
            ("io.pressure", psi(103)),
            (
                "cpu.stat",
                "usage_usec 70\nuser_usec 50\nsystem_usec 20\ncore_sched.force_idle_usec 1\nnr_periods 11\n\
                 nr_throttled 4\nthrottled_usec 900\nnr_bursts 0\nburst_usec 0\n"
                    .to_owned(),
            ),
        ] {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let expected = Usage {
            memory_current_bytes: Some(4096),
            memory_peak_bytes: Some(8192),
            cpu_usec: Some(70),
            cpu_user_usec: Some(50),
            cpu_system_usec: Some(20),
            cpu_periods: Some(11),
            cpu_throttled_periods: Some(4),
            cpu_throttled_usec: Some(900),
            pids_current: Some(2),
            pids_peak: Some(5),
            memory_pressure_usec: Some(101),
            cpu_pressure_usec: Some(102),
            io_pressure_usec: Some(103),
        };
        assert_eq!(usage(&Dir::on_any_fs(tmp.path())), expected);
        let first =
            Usage { memory_current_bytes: Some(4096), cpu_usec: Some(70), pids_current: Some(2), ..Usage::default() };
        assert_eq!(glance(&Dir::on_any_fs(tmp.path())), first);
    }

    #[test]
    fn an_older_kernel_gives_what_it_has() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("cpu.stat"), "usage_usec 70\n").unwrap();
        let expected = Usage { cpu_usec: Some(70), ..Usage::default() };
        assert_eq!(usage(&Dir::on_any_fs(tmp.path())), expected);
    }
}
