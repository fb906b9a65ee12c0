//! When a worker comes back by itself, and after how long.

use std::{collections::BTreeSet, fs, time::Duration};

use pinfold::model::{EventKind, ExitCause, State, Verdict};

use crate::support::{
    Case, misbehaving, scaled,
    up::{Up, at},
    worker,
};
use crate::{ALWAYS_AT_ONCE, MS};

/// The time from each run's end to the next run's start, as its program's own life shows it.
fn gaps(up: &Up, worker: &str) -> Vec<Duration> {
    let mut gaps = Vec::new();
    let mut ended = None;
    for event in up.of(worker) {
        match event.kind {
            EventKind::Exited { .. } => ended = Some(at(event)),
            EventKind::Started { .. } => gaps.extend(ended.take().map(|ended| at(event).since(ended))),
            _ => {}
        }
    }
    gaps
}

#[test]
fn a_failing_worker_comes_back_after_growing_delays() {
    let case = Case::alone();
    let restart = "restart: {policy: on-failure, retry_delay: 1s, backoff_rate: 1.5, jitter: 0}";
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("failing", &["exit", "3", &told], &[restart]));
    assert_eq!(up.exited("failing", 4), ExitCause::Exited { code: 3 });
    assert_eq!(case.told("told").len(), 4, "the program itself ran four times");

    let attempts: Vec<Option<u32>> = up
        .decisions("failing")
        .into_iter()
        .filter(|(_, d)| d.verdict == Verdict::Restart)
        .map(|(_, d)| d.attempt)
        .collect();
    assert_eq!(attempts[..3], [Some(1), Some(2), Some(3)]);
    for (gap, planned) in gaps(&up, "failing").into_iter().zip([1000, 1500, 2250]) {
        let planned = Duration::from_millis(planned);
        assert!(gap + scaled(100 * MS) > planned && gap < planned + scaled(250 * MS), "{gap:?} for {planned:?}");
    }
    up.stop();
}

#[test]
fn a_worker_without_a_delay_is_back_at_once_in_a_cgroup_of_its_own() {
    let case = Case::new();
    let told = case.file("told");
    let mut up = Up::start(&case, &misbehaving("busy", &["limits", &told], &[ALWAYS_AT_ONCE]));
    up.exited("busy", 30);
    up.stop();
    let lines = case.told("told");
    let cgroups: BTreeSet<&str> =
        lines.iter().filter_map(|l| l.split('\t').find_map(|f| f.strip_prefix("cgroup="))).collect();
    assert!(lines.len() >= 30);
    assert_eq!(cgroups.len(), lines.len(), "no run uses the cgroup of another");
    assert!(cgroups.iter().all(|c| c.contains("/workers/busy.")), "{cgroups:?}");
}

#[test]
fn never_means_never_and_always_means_always() {
    let case = Case::new();
    let mut config = worker("never", &["/bin/false"], &["restart: {policy: never, retry_delay: 0s}"]);
    config += &worker("always", &["/bin/true"], &[ALWAYS_AT_ONCE]);
    config +=
        &worker("on-failure", &["/bin/false"], &["restart: {policy: on-failure, retry_delay: 0s, max_retries: 0}"]);
    config +=
        &worker("unless", &["/bin/true"], &["restart: {policy: unless-stopped, retry_delay: 0s, max_retries: 0}"]);
    let mut up = Up::start(&case, &config);
    up.state("never", State::Stopped, "failed");
    for restarted in ["always", "on-failure", "unless"] {
        up.exited(restarted, 3);
    }
    assert_eq!(up.of("never").filter(|e| e.run > Some(1)).count(), 0);
    up.stop();
}

#[test]
fn a_start_that_always_fails_at_once_does_not_keep_a_stop_from_being_heard() {
    let case = Case::new();
    let workers = case.root.join("workers");
    fs::create_dir(&workers).unwrap();
    fs::write(workers.join("cgroup.max.descendants"), "0").unwrap();
    let restart = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    let config: String = (0..4).map(|i| worker(&format!("w{i}"), &["/bin/true"], &[restart])).collect();
    let mut up = Up::start(&case, &config);
    for i in 0..4 {
        up.exited(&format!("w{i}"), 20);
    }
    up.stop();
}
