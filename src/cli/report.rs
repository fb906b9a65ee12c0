//! The evidence of one `pinfold run`, as `--report FILE` writes it. Scripts depend on its shape: add to it freely, break
//! it never.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::model::{AboveReading, Confidence, Counters, ExitCause, ExitStatus, StartError, Usage};

/// The version of the shape.
pub const VERSION: u32 = 1;

/// What one run was, used and came to. Times are microseconds where the name says `usec`, milliseconds where it says
/// `ms`; memory is bytes. A number that the kernel does not tell here (its controller is missing, or it is too old) is
/// absent, never 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub v: u32,
    /// The run's own identity, unlike any other's: also in the record on its cgroup.
    pub run: String,
    /// Version of pinfold.
    pub pinfold: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Directory of the run's cgroup; removed by now, unless `leftover` says otherwise.
    pub cgroup: PathBuf,
    /// When its program began, RFC 3339 in UTC; absent where it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// How long its program ran.
    pub wall_ms: u64,
    /// What `pinfold run` exits with.
    pub exit_code: u8,
    /// Why the command ended.
    pub cause: ExitCause,
    /// How sure that is.
    pub confidence: Confidence,
    /// The same in words.
    pub sentence: String,
    /// waitid(2)'s word; absent where the command never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ExitStatus>,
    /// Why it could not start, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<StartError>,
    /// Whether `--timeout` had passed.
    pub timed_out: bool,
    /// Whether its cgroup could not be emptied or removed.
    pub leftover: bool,
    /// Of its memory.
    pub memory: Memory,
    /// Of its CPU time.
    pub cpu: Cpu,
    /// Of its processes.
    pub pids: Pids,
    /// How long tasks of it waited for a resource.
    pub pressure: Pressure,
    /// What the cause was decided from.
    pub counters: Readings,
    /// What the cgroups above it say, where an OOM kill came from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Box<AboveReading>>,
    /// What it was held to.
    pub limits: Limits,
}

/// Of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// `memory.peak`, in the kernel's grain of 64 pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Growth of `oom_kill`: about how many processes the OOM killer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

/// Of its CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// `usage_usec` of `cpu.stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_usec: Option<u64>,
    /// `user_usec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_usec: Option<u64>,
    /// `system_usec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_usec: Option<u64>,
    /// `nr_periods`: enforcement periods of `cpu.max` that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub periods: Option<u64>,
    /// `nr_throttled`: periods in which the quota ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_periods: Option<u64>,
    /// `throttled_usec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_usec: Option<u64>,
}

/// Of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pids {
    /// `pids.peak`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Growth of `max` of `pids.events`: forks that were refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

/// `total` of the `some` lines of its pressure files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// `memory.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_usec: Option<u64>,
    /// `cpu.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// `io.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_usec: Option<u64>,
}

/// Two readings of the run's event counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Readings {
    /// Before the command was started.
    pub before: Counters,
    /// After its end, before it was reaped.
    pub after: Counters,
}

/// What a run was held to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// By flag, as it was typed.
    pub requested: BTreeMap<String, String>,
    /// By kernel file, as the kernel has it: rounded to its grain, written, read back.
    pub effective: BTreeMap<String, String>,
}

impl Report {
    /// Takes over the totals and the growth of the counters.
    #[must_use]
    pub fn with_usage(mut self, usage: Option<Usage>, readings: Readings) -> Self {
        let usage = usage.unwrap_or_default();
        let growth = readings.after.since(readings.before);
        self.memory = Memory {
            peak_bytes: usage.memory_peak_bytes,
            oom_kills: growth.hierarchical().map(|memory| memory.oom_kill),
        };
        self.cpu = Cpu {
            usage_usec: usage.cpu_usec,
            user_usec: usage.cpu_user_usec,
            system_usec: usage.cpu_system_usec,
            periods: usage.cpu_periods,
            throttled_periods: usage.cpu_throttled_periods,
            throttled_usec: usage.cpu_throttled_usec,
        };
        self.pids = Pids { peak: usage.pids_peak, refused: growth.pids_max };
        self.pressure = Pressure {
            memory_usec: usage.memory_pressure_usec,
            cpu_usec: usage.cpu_pressure_usec,
            io_usec: usage.io_pressure_usec,
        };
        self.counters = readings;
        self
    }

    /// Writes the report so that a reader finds the whole of it or none: a temporary file beside `path`, renamed. A
    /// device or pipe (`/dev/stdout`, `/dev/fd/3`) cannot be replaced and is written to.
    ///
    /// # Errors
    /// Where the directory or the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return std::fs::OpenOptions::new().write(true).open(path)?.write_all(&text);
        }
        // A link is kept and what it points to is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Evidence is for others to read: what a plain open(2) would give, not a temporary file's 0600.
        let mut file = tempfile::Builder::new()
            .prefix(".pinfold-report-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(dir)?;
        file.write_all(&text)?;
        file.persist(&path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemoryEvents, OomScope};

    fn report() -> Report {
        let memory = |oom_kill| {
            Some(MemoryEvents { low: 0, high: 0, max: 21, oom: oom_kill, oom_kill, oom_group_kill: oom_kill })
        };
        let usage = Usage {
            memory_current_bytes: Some(0),
            memory_peak_bytes: Some(16_777_216),
            cpu_usec: Some(30),
            cpu_user_usec: Some(10),
            cpu_system_usec: Some(20),
            cpu_periods: Some(7),
            cpu_throttled_periods: Some(6),
            cpu_throttled_usec: Some(5),
            pids_current: Some(0),
            pids_peak: Some(3),
            memory_pressure_usec: Some(11),
            cpu_pressure_usec: Some(12),
            io_pressure_usec: None,
            ..Usage::default()
        };
        Report {
            v: VERSION,
            run: "0192-…".into(),
            pinfold: "0.1.0".into(),
            command: vec!["leak".into(), "--fast".into()],
            cgroup: "/sys/fs/cgroup/pinfold/runs/leak.1".into(),
            started: Some("2026-11-20T12:34:56.789012Z".into()),
            wall_ms: 812,
            exit_code: 137,
            cause: ExitCause::Oom { scope: OomScope::Worker },
            confidence: Confidence::Certain,
            sentence: "out of memory".into(),
            status: Some(ExitStatus::Signaled { signal: 9, core: false }),
            start_error: None,
            timed_out: false,
            leftover: false,
            memory: Memory::default(),
            cpu: Cpu::default(),
            pids: Pids::default(),
            pressure: Pressure::default(),
            counters: Readings::default(),
            above: None,
            limits: Limits {
                requested: [("--memory".into(), "16M".into())].into(),
                effective: [("memory.max".into(), "16777216".into())].into(),
            },
        }
        .with_usage(
            Some(usage),
            Readings {
                before: Counters { local: memory(0), memory: memory(0), pids_max: Some(2) },
                after: Counters { local: memory(1), memory: memory(1), pids_max: Some(11) },
            },
        )
    }

    #[test]
    fn the_shape_of_a_report() {
        insta::assert_json_snapshot!(report());
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
    }

    #[test]
    fn a_report_replaces_the_file_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        report().write(&path).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&std::fs::read(&path).unwrap()).unwrap(), report());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_a_report_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        report().write(&link).unwrap();
        assert!(link.is_symlink());
        assert!(std::fs::read_to_string(&file).unwrap().contains("oom"));
    }

    #[test]
    fn a_missing_directory_is_an_error_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(report().write(&dir.path().join("none/x")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
