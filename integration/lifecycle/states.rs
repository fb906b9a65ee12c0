//! A worker goes through its states, and its cgroup with it.

use pinfold::model::{EventKind, ExitCause, State};

use crate::MS;
use crate::support::{Case, misbehaving, tree, up::Up, worker};

#[test]
fn a_worker_goes_through_its_states_in_order_and_its_cgroup_with_it() {
    let case = Case::new();
    let mut up = Up::start(&case, &misbehaving("plain", &["sleep"], &[]));
    let main = up.started("plain", 1);
    up.state("plain", State::Running, "ready");

    let dir = case.run_dir("plain", 1);
    assert_eq!(main.cgroup(), dir, "it is in its own cgroup");
    assert_eq!(tree::procs(&dir), [main.pid], "alone");
    assert_eq!(main.stat(4), i64::from(up.pid()), "its parent is the keeper");
    assert_eq!(main.stat(6), i64::from(main.pid), "it leads a session of its own");
    assert_eq!(main.stat(7), 0, "it has no terminal");

    up.stop();
    assert!(!main.alive());
    assert!(!dir.exists());
    let states = up.states("plain");
    let expected = ["starting(preparing)", "starting(launching)", "running(ready)", "stopping(term)"];
    assert_eq!(states[..4], expected, "{states:?}");
    assert_eq!(states.last().map(String::as_str), Some("stopped(stopped)"), "{states:?}");
}

#[test]
fn a_worker_that_ends_well_stays_ended_and_up_stays() {
    let case = Case::new();
    let on_failure = "restart: {policy: on-failure, retry_delay: 0s}";
    let mut up = Up::start(&case, &worker("good", &["/bin/true"], &[on_failure]));
    assert_eq!(up.exited("good", 1), ExitCause::Exited { code: 0 });
    up.state("good", State::Stopped, "done");
    up.watch(200 * MS);
    assert_eq!(up.of("good").filter(|e| e.run == Some(2)).count(), 0, "no second run");
    up.stop();
}

#[test]
fn a_worker_that_is_not_enabled_is_not_started() {
    let case = Case::new();
    let off = misbehaving("off", &["sleep"], &[]) + "    enabled: false\n";
    let mut up = Up::start(&case, &(off + &misbehaving("on", &["sleep"], &[])));
    let _on = up.started("on", 1);
    up.stop();
    assert_eq!(up.of("off").filter(|e| matches!(e.kind, EventKind::Started { .. })).count(), 0);
}
