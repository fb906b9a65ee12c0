//! What this cgroup can be held to on this host, and whether a violation would be noticed: by looking and trying.

use std::time::Duration;

use crate::kernel::cgroup::{Controller, Dir, Withheld, disk};
use crate::kernel::pressure::{LOOK, Trigger, trigger::Privilege, triggers};
use crate::model::{Limit, chain};
use crate::spec::types::{Limits, Monitoring, Pressure, PressureTrigger, ViolationPolicy};

/// How it is with one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Which.
    pub limit: Limit,
    /// Whether the cgroup can be held to it, and a violation would be noticed.
    pub supported: bool,
    /// Why not, in a sentence, and what helps where that is known.
    pub why_not: Option<String>,
    /// Where it is supported and the kernel does not tell of a violation by itself: why, and how often it is looked for instead.
    pub by_looking: Option<String>,
}

/// All of them, in the order of [`Limit::ALL`]. `withheld`: the controllers that the cgroup does not have, with the reason.
pub(super) fn of(dir: &Dir, limits: &Limits, withheld: &[Withheld]) -> Vec<Support> {
    let triggers = try_all(dir, &everything(limits));
    let one = |limit| {
        let refusal = triggers.iter().find(|(trigger, _)| trigger.limit == limit).and_then(|(_, why)| why.clone());
        let why_not = missing(dir, limit, withheld).or_else(|| undoable(limit, limits, refusal.as_deref()));
        let by_looking = refusal.filter(|_| why_not.is_none()).map(|why| {
            let what = if limit == Limit::CpuMax { "cpu.stat is" } else { "its total is" };
            format!("{why}; {what} read every {} s instead", LOOK.as_secs())
        });
        Support { limit, supported: why_not.is_none(), why_not, by_looking }
    };
    Limit::ALL.map(one).into()
}

/// The files a limit lives by; the first of the others that is read, and where it enforces something, the one that is written.
const fn files(limit: Limit) -> (Option<&'static str>, &'static [&'static str]) {
    match limit {
        Limit::MemoryMax => (Some("memory.max"), &["memory.events"]),
        Limit::MemoryHigh => (Some("memory.high"), &["memory.events", "memory.stat"]),
        Limit::CpuMax => (Some("cpu.max"), &["cpu.stat"]),
        Limit::CpuTime => (None, &["cpu.stat"]),
        Limit::PidsMax => (Some("pids.max"), &["pids.events"]),
        Limit::IoMax => (Some("io.max"), &["io.pressure"]),
        Limit::MemoryPressure => (None, &["memory.pressure"]),
        Limit::CpuPressure => (None, &["cpu.pressure"]),
        Limit::IoPressure => (None, &["io.pressure"]),
    }
}

const fn controller(limit: Limit) -> Option<Controller> {
    match limit {
        Limit::MemoryMax | Limit::MemoryHigh => Some(Controller::Memory),
        Limit::CpuMax => Some(Controller::Cpu),
        Limit::PidsMax => Some(Controller::Pids),
        Limit::IoMax => Some(Controller::Io),
        // The kernel counts these without one.
        Limit::CpuTime | Limit::MemoryPressure | Limit::CpuPressure | Limit::IoPressure => None,
    }
}

/// The first file that it lacks.
fn missing(dir: &Dir, limit: Limit, withheld: &[Withheld]) -> Option<String> {
    let (written, read) = files(limit);
    let absent = |file: &str| {
        let blamed = withheld.iter().find(|w| Some(w.controller) == controller(limit));
        match (blamed, controller(limit)) {
            (Some(withheld), _) => format!("{file} needs {withheld}"),
            (None, Some(controller)) => format!(
                "{file} is not there: the {controller} controller is not enabled for this cgroup, or the kernel is older than the file"
            ),
            (None, None) if file.ends_with(".pressure") => {
                format!("{file} is not there: boot with psi=1, and leave cgroup.pressure at 1")
            }
            (None, None) => format!("{file} is not there: the kernel is older than the file"),
        }
    };
    if let Some(file) = written {
        if !dir.has(file) {
            return Some(absent(file));
        }
        if !dir.writable(file) {
            return Some(format!("{file} cannot be written by this process"));
        }
    }
    let mut buf = vec![0; 8192];
    read.iter().find_map(|file| match dir.read_if_there(file, &mut buf) {
        Ok(Some(_)) => None,
        Ok(None) => Some(absent(file)),
        Err(e) => Some(chain(&e)),
    })
}

/// What else is in the way of `io.max`: nothing but a trigger tells of its violations, and it needs a disk.
fn undoable(limit: Limit, limits: &Limits, refusal: Option<&str>) -> Option<String> {
    if limit != Limit::IoMax {
        return None;
    }
    let disk = limits.io.iter().find_map(|io| disk::of_path(&io.path).err());
    let unnoticed = || refusal.map(|why| format!("its violations would not be noticed: {why}"));
    disk.map(|e| e.to_string()).or_else(unnoticed)
}

/// `limits`, with an example of each that is not configured and is noticed by pressure.
fn everything(limits: &Limits) -> Vec<Trigger> {
    let example = || PressureTrigger {
        full: false,
        stall: Duration::from_millis(150),
        window: Duration::from_secs(2),
        sustained: Duration::from_secs(20),
        policy: ViolationPolicy::Log,
    };
    let mut all = limits.clone();
    all.monitoring = Monitoring::default();
    all.cpu.max_percent.get_or_insert(100.0);
    if all.io.is_empty() {
        all.io.push(crate::spec::types::Io {
            path: "/".into(),
            rbps: None,
            wbps: None,
            riops: None,
            wiops: None,
            policy: ViolationPolicy::Log,
        });
    }
    let Pressure { memory, cpu, io } = &mut all.pressure;
    for trigger in [memory, cpu, io] {
        trigger.get_or_insert_with(example);
    }
    triggers(&all)
}

/// Sets each, and closes it again; why it cannot be. In a thread of its own, which loses a privilege for it.
fn try_all(dir: &Dir, triggers: &[Trigger]) -> Vec<(Trigger, Option<String>)> {
    let tried = std::thread::scope(|scope| {
        let trial = scope.spawn(|| {
            let privilege = Privilege::put_aside();
            let refusal = |trigger: &Trigger| privilege.set(dir, trigger).map(drop).err().map(|e| chain(&e));
            triggers.iter().map(|trigger| (*trigger, refusal(trigger))).collect()
        });
        trial.join()
    });
    let untried = |_| triggers.iter().map(|trigger| (*trigger, Some("it could not be tried".to_owned()))).collect();
    tried.unwrap_or_else(untried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::Why;
    use crate::spec::types::Io;

    /// Every file there is, as the kernel writes it.
    const FILES: [(&str, &str); 11] = [
        ("memory.max", "max\n"),
        ("memory.high", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"),
        ("memory.stat", "anon 0\nfile 0\nshmem 0\n"),
        ("cpu.max", "max 100000\n"),
        ("cpu.stat", "usage_usec 0\nnr_periods 0\nnr_throttled 0\n"),
        ("pids.max", "max\n"),
        ("pids.events", "max 0\n"),
        ("io.max", ""),
        ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ];

    fn fixture(but: &[&str]) -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in FILES.iter().chain(&[("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")])
        {
            if !but.contains(name) {
                std::fs::write(tmp.path().join(name), text).unwrap();
            }
        }
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    fn unsupported(all: &[Support]) -> Vec<Limit> {
        all.iter().filter(|one| !one.supported).map(|one| one.limit).collect()
    }

    fn about(all: &[Support], limit: Limit) -> &Support {
        all.iter().find(|one| one.limit == limit).unwrap()
    }

    #[test]
    fn where_every_file_is_there_every_limit_is_supported() {
        let (_tmp, dir) = fixture(&[]);
        let all = of(&dir, &Limits::default(), &[]);
        assert_eq!(all.iter().map(|one| one.limit).collect::<Vec<_>>(), Limit::ALL);
        assert_eq!(unsupported(&all), []);
        assert!(all.iter().all(|one| one.why_not.is_none() && one.by_looking.is_none()), "{all:?}");
    }

    #[test]
    fn a_missing_file_is_named_with_who_keeps_its_controller() {
        let (_tmp, dir) = fixture(&["memory.high", "memory.max", "pids.events", "cpu.stat"]);
        let why = Why::NotPassedOn { dir: "/cg".into(), place: "/cg/jobs".into() };
        let all = of(&dir, &Limits::default(), &[Withheld { controller: Controller::Memory, why }]);
        assert_eq!(
            unsupported(&all),
            [Limit::MemoryMax, Limit::MemoryHigh, Limit::CpuMax, Limit::CpuTime, Limit::PidsMax]
        );
        assert_eq!(
            about(&all, Limit::MemoryMax).why_not.as_deref(),
            Some(
                "memory.max needs the memory controller, which /cg does not pass on (cgroup.subtree_control): as its owner, \
                 `echo +memory > /cg/cgroup.subtree_control`"
            )
        );
        let pids = about(&all, Limit::PidsMax).why_not.as_deref().unwrap();
        assert!(pids.starts_with("pids.events is not there: the pids controller is not enabled"), "{pids}");
    }

    #[test]
    fn without_pressure_files_throttling_is_looked_for_and_io_is_not_noticed() {
        let (_tmp, dir) = fixture(&["memory.pressure", "cpu.pressure", "io.pressure"]);
        let all = of(&dir, &Limits::default(), &[]);
        assert_eq!(
            unsupported(&all),
            [Limit::IoMax, Limit::MemoryPressure, Limit::CpuPressure, Limit::IoPressure],
            "{all:?}"
        );
        let cpu = about(&all, Limit::CpuMax).by_looking.as_deref().unwrap();
        assert!(cpu.ends_with("cpu.stat is read every 4 s instead") && cpu.contains("cpu.pressure"), "{cpu}");
        let pressure = about(&all, Limit::CpuPressure).why_not.as_deref().unwrap();
        assert!(pressure.contains("boot with psi=1"), "{pressure}");
    }

    #[test]
    fn a_path_without_a_disk_of_its_own_is_told() {
        let (_tmp, dir) = fixture(&[]);
        let io = Io {
            path: "/proc".into(),
            rbps: Some(1),
            wbps: None,
            riops: None,
            wiops: None,
            policy: ViolationPolicy::Log,
        };
        let all = of(&dir, &Limits { io: vec![io], ..Limits::default() }, &[]);
        let why = about(&all, Limit::IoMax).why_not.as_deref().unwrap();
        assert!(why.contains("io.max of /proc is impossible"), "{why}");
    }
}
