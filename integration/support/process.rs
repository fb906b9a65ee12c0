//! What `/proc` and pidfds say, read without the product.

use std::{fs, os::fd::OwnedFd, path::PathBuf, process::Command, time::Duration};

use pinfold::{clock, model::Mono};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::patience;

/// A process that cannot be mistaken for another one with its number.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// `None` where it is gone.
    pub(crate) fn open(pid: i32) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.fd, signal).unwrap_or_else(|e| panic!("signal {signal:?} to {}: {e}", self.pid));
    }

    /// The same, where it may have gone in the meantime.
    pub(crate) fn signal_if_there(&self, signal: Signal) {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => panic!("signal {signal:?} to {}: {e}", self.pid),
        }
    }

    /// The same by number. The real-time signals, which rustix has no names for, go through a shell's `kill`.
    pub(crate) fn signal_number(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            return self.signal(signal);
        }
        let kill = ["-c", "kill -\"$1\" \"$2\"", "sh", &number.to_string(), &self.pid.to_string()];
        let ran = super::run::finish(Command::new("/bin/sh").args(kill));
        assert_eq!(ran.code, Some(0), "signal {number} to {}: {ran:?}", self.pid);
    }

    pub(crate) fn alive(&self) -> bool {
        !self.gone_within(Duration::ZERO)
    }

    /// Waits for its end; when that was.
    pub(crate) fn wait_gone(&self, what: &str) -> Mono {
        assert!(self.gone_within(patience()), "{what} (process {}) is still there after {:?}", self.pid, patience());
        clock::monotonic()
    }

    pub(crate) fn gone_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let time = Timespec::try_from(time).unwrap();
        loop {
            match poll(&mut fds, Some(&time)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready.unwrap() > 0,
            }
        }
    }

    /// A file of `/proc/PID`, empty where it is gone.
    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// A field of `/proc/PID/status`.
    pub(crate) fn status(&self, key: &str) -> String {
        let text = self.file("status");
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
    }

    /// A field of a `/proc/PID` file that is a number of kB, in bytes.
    pub(crate) fn bytes(&self, file: &str, key: &str) -> u64 {
        let text = self.file(file);
        let kb = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kb.unwrap_or_else(|| panic!("/proc/{}/{file} has no {key}", self.pid)) * 1024
    }

    /// `Private_Dirty` of all its mappings but those of its program's file, in bytes: what the loader relocates there goes with
    /// the size of the build.
    pub(crate) fn own_bytes(&self) -> u64 {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap();
        let (mut of_program, mut kb) = (false, 0);
        for line in self.file("smaps").lines() {
            // proc_pid_smaps(5): a mapping begins with its addresses and ends with its file, where it has one.
            if line.split(' ').next().is_some_and(|range| range.contains('-')) {
                of_program = line.ends_with(&*program.to_string_lossy());
            } else if let Some(dirty) = line.strip_prefix("Private_Dirty:").filter(|_| !of_program) {
                kb += dirty.trim().strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok()).unwrap();
            }
        }
        kb * 1024
    }

    /// How often its threads have gone to sleep of their own accord, and so have been woken.
    pub(crate) fn wake_ups(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let count = |status: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        threads.filter_map(|t| count(&fs::read_to_string(t.path().join("status")).ok()?)).sum()
    }

    /// Its cgroup, as a directory.
    pub(crate) fn cgroup(&self) -> PathBuf {
        cgroup_of(self.pid)
    }

    /// The n-th field of `/proc/PID/stat`, counted from 1 as in proc(5), from the third on.
    pub(crate) fn stat(&self, field: usize) -> i64 {
        let text = self.file("stat");
        let after_name = text.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let value = after_name.split(' ').nth(field - 3).and_then(|v| v.trim().parse().ok());
        value.unwrap_or_else(|| panic!("/proc/{}/stat has no number in field {field}: {text:?}", self.pid))
    }
}

/// The cgroup v2 of a process, as a directory.
pub(crate) fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("(gone)");
    super::tree::mount().join(path)
}

/// Every process on the host whose environment holds `variable` (`K=V`): `PID COMMAND`. Zombies have none left.
pub(crate) fn with_environment(variable: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let marked = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == variable.as_bytes())
    };
    pids.filter(marked)
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("process {pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}
