//! The event counters of a run: `memory.events`, `memory.events.local`, `pids.events`
//! (Linux Documentation/admin-guide/cgroup-v2.rst). What they mean is `policy`'s business.

use rustix::io::Errno;

use super::dir::{Dir, DirError, flat};
use crate::model::{Counters, MemoryEvents};

/// Reads all three. A file that is not there gives `None`: its controller is not enabled, or, for
/// `memory.events.local`, the kernel is older than 5.2.
///
/// # Errors
/// `ENODEV` where the cgroup is gone, so that a removed run is not taken for one without counters.
pub fn read(dir: &Dir) -> Result<Counters, DirError> {
    let mut buf = [0; 512];
    let memory = dir.read_if_there("memory.events", &mut buf)?.map(memory_events);
    let local = match memory {
        Some(_) => dir.read_if_there("memory.events.local", &mut buf)?.map(memory_events),
        None => None,
    };
    let pids_max = dir.read_if_there("pids.events", &mut buf)?.map(|text| value(text, "max"));
    if memory.is_none() && pids_max.is_none() && !dir.has("cgroup.events") {
        let source = Errno::NODEV.into();
        return Err(DirError::Io { action: "read the events of", path: dir.path().to_owned(), source });
    }
    Ok(Counters { local, memory, pids_max })
}

/// Reads `memory.events.local` alone: what happened at this cgroup's own limits. `None` where it is not there.
///
/// # Errors
/// `ENODEV` where the cgroup is gone.
pub fn local(dir: &Dir) -> Result<Option<MemoryEvents>, DirError> {
    let mut buf = [0; 512];
    Ok(dir.read_if_there("memory.events.local", &mut buf)?.map(memory_events))
}

/// `nr_dying_descendants` of `cgroup.stat`: cgroups that were removed but still hold memory.
///
/// # Errors
/// Where `cgroup.stat` cannot be read.
pub fn dying_descendants(dir: &Dir) -> Result<u64, DirError> {
    // Longer than the other files: newer kernels count every subsystem's states here.
    Ok(value(&dir.read("cgroup.stat")?, "nr_dying_descendants"))
}

fn memory_events(text: &str) -> MemoryEvents {
    let mut events = MemoryEvents::default();
    for (key, value) in flat(text) {
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            // sock_throttled and whatever comes next.
            _ => {}
        }
    }
    events
}

fn value(text: &str, key: &str) -> u64 {
    flat(text).find_map(|(k, v)| (k == key).then_some(v)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    #[test]
    fn every_counter_goes_to_its_own_field() {
        let (_tmp, dir) = fixture(&[
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("memory.events.local", "low 0\nhigh 12\nmax 13\noom 14\noom_kill 15\noom_group_kill 0\n"),
            ("pids.events", "max 9\n"),
        ]);
        let counters = read(&dir).unwrap();
        let memory = MemoryEvents { low: 1, high: 2, max: 3, oom: 4, oom_kill: 5, oom_group_kill: 6 };
        let local = MemoryEvents { low: 0, high: 12, max: 13, oom: 14, oom_kill: 15, oom_group_kill: 0 };
        assert_eq!(counters, Counters { local: Some(local), memory: Some(memory), pids_max: Some(9) });
    }

    #[test]
    fn a_key_of_a_newer_kernel_is_no_error() {
        let (_tmp, dir) = fixture(&[("memory.events", "brand_new 8\noom 4\nsock_throttled 7\nodd line here\n")]);
        assert_eq!(read(&dir).unwrap().memory, Some(MemoryEvents { oom: 4, ..Default::default() }));
    }

    #[test]
    fn without_controllers_there_are_no_counters_but_a_cgroup() {
        let (_tmp, dir) = fixture(&[("cgroup.events", "populated 1\nfrozen 0\n")]);
        assert_eq!(read(&dir).unwrap(), Counters::default());
    }

    #[test]
    fn a_removed_cgroup_is_not_one_without_counters() {
        let (tmp, dir) = fixture(&[]);
        drop(tmp);
        let err = read(&dir).unwrap_err();
        assert_eq!(err.errno(), nix::libc::ENODEV);
        assert!(err.is_absent());
    }

    #[test]
    fn dying_cgroups_are_counted() {
        let (_tmp, dir) = fixture(&[("cgroup.stat", "nr_descendants 5\nnr_dying_descendants 17\n")]);
        assert_eq!(dying_descendants(&dir).unwrap(), 17);
    }
}
