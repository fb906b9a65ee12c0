//! What a run used in all, and what a living one uses: `cpu.stat`, `memory.stat`, `memory.peak` and their like, and the
//! totals of the pressure files.

use super::controller::{Controller, Withheld};
use super::dir::{Dir, flat};
use crate::model::{Ceilings, CpuStat, Measured, Pressures, Sample, Stalled, Usage, Wanted};

/// Reads all of it. What cannot be read is `None`: totals are a report, never a reason to fail.
#[must_use]
pub fn usage(dir: &Dir) -> Usage {
    // The longest of them, io.stat, has a line for each disk.
    let mut buf = [0; 8192];
    let mut usage = Usage {
        memory_current_bytes: number(dir, "memory.current", &mut buf),
        memory_peak_bytes: number(dir, "memory.peak", &mut buf),
        pids_current: number(dir, "pids.current", &mut buf),
        pids_peak: number(dir, "pids.peak", &mut buf),
        ..Usage::default()
    };
    let memory = totals(dir, "memory.pressure", &mut buf);
    (usage.memory_pressure_usec, usage.memory_pressure_full_usec) = both(memory);
    let cpu = totals(dir, "cpu.pressure", &mut buf);
    (usage.cpu_pressure_usec, usage.cpu_pressure_full_usec) = both(cpu);
    let io = totals(dir, "io.pressure", &mut buf);
    (usage.io_pressure_usec, usage.io_pressure_full_usec) = both(io);
    if let Ok(text) = dir.read_into("io.stat", &mut buf) {
        let sum = |key| Some(of_all_devices(text, key));
        (usage.io_read_bytes, usage.io_written_bytes) = (sum("rbytes"), sum("wbytes"));
        (usage.io_reads, usage.io_writes) = (sum("rios"), sum("wios"));
    }
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

/// Reads all of it, and what the cgroup is held to.
#[must_use]
pub fn measure(dir: &Dir) -> Measured {
    let mut buf = [0; 64];
    // `max` is no number: there is no limit.
    let ceilings = Ceilings {
        memory_max_bytes: number(dir, "memory.max", &mut buf),
        memory_high_bytes: number(dir, "memory.high", &mut buf),
        pids_max: number(dir, "pids.max", &mut buf),
    };
    Measured { used: usage(dir), ceilings }
}

/// Reads what a person looks at first of a living cgroup: memory, CPU time, processes. The files of what is `withheld` are not
/// looked for: of a file that is not there the kernel remembers nothing, and to find that out takes as long as to read one.
#[must_use]
pub fn glance(dir: &Dir, withheld: &[Withheld]) -> Usage {
    let mut buf = [0; 2048];
    let mut of = |controller, file| {
        let there = withheld.iter().all(|withheld| withheld.controller != controller);
        if there { number(dir, file, &mut buf) } else { None }
    };
    let mut usage = Usage {
        memory_current_bytes: of(Controller::Memory, "memory.current"),
        pids_current: of(Controller::Pids, "pids.current"),
        ..Usage::default()
    };
    if let Ok(text) = dir.read_into("cpu.stat", &mut buf) {
        usage.cpu_usec = flat(text).find(|(key, _)| *key == "usage_usec").map(|(_, value)| value);
    }
    usage
}

/// Reads what is `wanted` of a living run, and no file for anything else. What cannot be read is `None`.
#[must_use]
pub fn sample(dir: &Dir, wanted: Wanted) -> Sample {
    // The longest of them, memory.stat, is at most a page of the kernel's.
    let mut buf = [0; 8192];
    let mut sample = Sample::default();
    if wanted.memory {
        sample.resident_bytes = resident(dir, &mut buf);
        sample.memory_current_bytes = number(dir, "memory.current", &mut buf);
    }
    if wanted.cpu {
        sample.cpu = cpu(dir, &mut buf);
    }
    if wanted.pressure {
        sample.pressure = Pressures {
            memory: totals(dir, "memory.pressure", &mut buf),
            cpu: totals(dir, "cpu.pressure", &mut buf),
            io: totals(dir, "io.pressure", &mut buf),
        };
    }
    sample
}

/// Anon + shmem of `memory.stat`: tmpfs is charged to who wrote it, and no more reclaimed than anonymous memory without swap.
fn resident(dir: &Dir, buf: &mut [u8]) -> Option<u64> {
    let text = dir.read_into("memory.stat", buf).ok()?;
    let value = |key| flat(text).find_map(|(k, v)| (k == key).then_some(v));
    Some(value("anon")? + value("shmem")?)
}

fn cpu(dir: &Dir, buf: &mut [u8]) -> Option<CpuStat> {
    let text = dir.read_into("cpu.stat", buf).ok()?;
    let mut stat = CpuStat::default();
    for (key, value) in flat(text) {
        match key {
            "usage_usec" => stat.usage_usec = value,
            "nr_periods" => stat.nr_periods = value,
            "nr_throttled" => stat.nr_throttled = value,
            "throttled_usec" => stat.throttled_usec = value,
            _ => {}
        }
    }
    Some(stat)
}

/// `total` of both lines, microseconds.
fn totals(dir: &Dir, file: &str, buf: &mut [u8]) -> Option<Stalled> {
    let text = dir.read_into(file, buf).ok()?;
    let (some, full) = procfs::get_pressure(text.as_bytes()).ok()?;
    Some(Stalled { some_usec: some.total, full_usec: full.total })
}

fn number(dir: &Dir, file: &str, buf: &mut [u8]) -> Option<u64> {
    dir.read_into(file, buf).ok()?.trim().parse().ok()
}

const fn both(stalled: Option<Stalled>) -> (Option<u64>, Option<u64>) {
    match stalled {
        Some(Stalled { some_usec, full_usec }) => (Some(some_usec), Some(full_usec)),
        None => (None, None),
    }
}

/// The sum of `key` over the lines of `io.stat`: `8:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0`.
fn of_all_devices(text: &str, key: &str) -> u64 {
    let pairs = text.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    let values = pairs.filter_map(|(name, value)| (name == key).then(|| value.parse::<u64>().ok())?);
    values.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::super::controller::Why;
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
                "io.stat",
                "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n\
                 253:0 rbytes=100 wbytes=0 rios=1 wios=0 dbytes=7 dios=7\n\
                 7:0 \n"
                    .to_owned(),
            ),
            ("memory.max", "16384\n".to_owned()),
            ("memory.high", "max\n".to_owned()),
            ("pids.max", "64\n".to_owned()),
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
            memory_pressure_full_usec: Some(3),
            cpu_pressure_full_usec: Some(3),
            io_pressure_full_usec: Some(3),
            io_read_bytes: Some(4196),
            io_written_bytes: Some(8192),
            io_reads: Some(2),
            io_writes: Some(2),
        };
        assert_eq!(usage(&Dir::on_any_fs(tmp.path())), expected);
        let ceilings = Ceilings { memory_max_bytes: Some(16384), memory_high_bytes: None, pids_max: Some(64) };
        assert_eq!(measure(&Dir::on_any_fs(tmp.path())), Measured { used: expected, ceilings }, "`max` is no limit");
        let first =
            Usage { memory_current_bytes: Some(4096), cpu_usec: Some(70), pids_current: Some(2), ..Usage::default() };
        assert_eq!(glance(&Dir::on_any_fs(tmp.path()), &[]), first);
        let why = Why::Refused { dir: "/".into(), reason: String::new() };
        let withheld = [Withheld { controller: Controller::Memory, why }];
        let glanced = glance(&Dir::on_any_fs(tmp.path()), &withheld);
        assert_eq!(glanced, Usage { memory_current_bytes: None, ..first }, "not looked for");
    }

    #[test]
    fn an_older_kernel_gives_what_it_has() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("cpu.stat"), "usage_usec 70\n").unwrap();
        let expected = Usage { cpu_usec: Some(70), ..Usage::default() };
        assert_eq!(usage(&Dir::on_any_fs(tmp.path())), expected);
    }

    #[test]
    fn a_sample_reads_what_is_wanted_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("memory.current", "70000\n"),
            ("memory.stat", "anon 4096\nfile 60000\nkernel 1024\nshmem 8192\nfile_mapped 17\nanon_thp 2\n"),
            (
                "cpu.stat",
                "usage_usec 70\nuser_usec 50\nsystem_usec 20\nnr_periods 11\nnr_throttled 4\nthrottled_usec 900\n",
            ),
            (
                "io.pressure",
                "some avg10=0.00 avg60=1.50 avg300=0.42 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            ),
        ] {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let dir = Dir::on_any_fs(tmp.path());
        assert_eq!(sample(&dir, Wanted::default()), Sample::default());
        let memory = sample(&dir, Wanted { memory: true, ..Wanted::default() });
        let expected =
            Sample { resident_bytes: Some(4096 + 8192), memory_current_bytes: Some(70_000), ..Sample::default() };
        assert_eq!(memory, expected);
        let cpu = sample(&dir, Wanted { cpu: true, ..Wanted::default() });
        let stat = CpuStat { usage_usec: 70, nr_periods: 11, nr_throttled: 4, throttled_usec: 900 };
        assert_eq!(cpu, Sample { cpu: Some(stat), ..Sample::default() });
        let pressure = sample(&dir, Wanted { pressure: true, ..Wanted::default() });
        let io = Some(Stalled { some_usec: 12, full_usec: 3 });
        assert_eq!(pressure.pressure, Pressures { io, ..Pressures::default() }, "what is not there is absent");
        assert_eq!(pressure.cpu, None);
    }
}
