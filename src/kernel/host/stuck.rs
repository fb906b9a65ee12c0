//! What keeps a killed run from ending, or one from being frozen: its processes, and where in the kernel each waits.

use procfs::process::{Process, Stat};

use crate::model::steers;

/// So many are named.
const NAMED: usize = 4;

/// `pid 812 (dd) D in folio_wait_bit, pid 813 (sh) D in ?`. `None` where there is none any more.
pub(super) fn describe(pids: &[i32]) -> Option<String> {
    let mut named: Vec<String> = pids.iter().filter_map(|pid| one(*pid)).take(NAMED).collect();
    if named.is_empty() {
        return None;
    }
    if pids.len() > NAMED {
        named.push(format!("{} more", pids.len() - NAMED));
    }
    Some(named.join(", "))
}

/// Those of `pids` with a thread that cannot be interrupted, for they are what a freeze waits for; all, where there is none.
pub(super) fn uninterruptible(pids: &[i32]) -> Vec<i32> {
    let waits = |pid: &&i32| Process::new(**pid).is_ok_and(|it| threads(&it).any(|(_, stat)| stat.state == 'D'));
    let waiting: Vec<i32> = pids.iter().filter(waits).copied().collect();
    if waiting.is_empty() { pids.to_vec() } else { waiting }
}

fn one(pid: i32) -> Option<String> {
    let process = Process::new(pid).ok()?;
    // Of a process with threads the one that cannot be interrupted: its leader may be dead already.
    let (thread, stat) =
        threads(&process).find(|(_, stat)| stat.state == 'D').or_else(|| Some((pid, process.stat().ok()?)))?;
    // What it calls itself can be anything.
    let name: String = stat.comm.chars().map(|c| if steers(c) { '?' } else { c }).collect();
    let place = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/wchan")).ok();
    // proc_pid_wchan(5): 0 where it does not wait, or where it may not be told.
    let place = place.filter(|place| !place.is_empty() && place != "0");
    Some(format!("pid {pid} ({name}) {} in {}", stat.state, place.as_deref().unwrap_or("?")))
}

fn threads(process: &Process) -> impl Iterator<Item = (i32, Stat)> {
    let tasks = process.tasks().into_iter().flatten().flatten();
    tasks.filter_map(|task| Some((task.tid, task.stat().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_named_with_its_state_and_what_it_waits_for() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let text = loop {
            // It bears the name from its exec on, and sleeps a moment later.
            let text = describe(&[pid]).unwrap();
            if text.starts_with(&format!("pid {pid} (sleep) S in ")) {
                break text;
            }
            std::thread::yield_now();
        };
        assert!(!text.ends_with("in ") && !text.ends_with("in 0"), "{text}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(describe(&[pid]), None, "it is gone");
    }

    #[test]
    fn not_more_than_four_are_named() {
        let own = i32::try_from(std::process::id()).unwrap();
        let text = describe(&[own; 9]).unwrap();
        assert_eq!(text.matches("pid ").count(), 4);
        assert!(text.ends_with(", 5 more"), "{text}");
    }
}
