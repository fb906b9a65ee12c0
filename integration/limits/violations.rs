//! What follows from a breach, on the kernel that counts it: how soon, and at what cost while there is none.

use std::{fs, time::Duration};

use pinfold::{
    clock,
    model::{Event, EventKind, ExitCause, KilledBy, Limit, Mono, State, Trigger, Verdict},
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use crate::support::{
    Case, misbehaving, parameter, pause,
    process::Process,
    scaled, tree,
    up::{Up, at, is},
    wait_until, worker,
};
use crate::{Disk, MIB};

const SECOND: Duration = Duration::from_secs(1);

/// When the hog that tells `told` was about to touch its MiB number `n`.
fn touched(case: &Case, told: &str, n: u64) -> Mono {
    let key = format!("mib {n} ");
    let ns = wait_until(&format!("\"{key}NS\" in {told}"), || {
        case.told(told).iter().find_map(|l| l.strip_prefix(&key)?.parse().ok())
    });
    Mono(Duration::from_nanos(ns))
}

fn is_violation(event: &Event, of: Limit) -> bool {
    matches!(&event.kind, EventKind::Violation { limit, .. } if *limit == of)
}

fn decided(event: &Event, wanted: Verdict) -> bool {
    matches!(&event.kind, EventKind::Decision(d) if d.trigger == Trigger::Violation && d.verdict == wanted)
}

fn policy(name: &str) -> ExitCause {
    ExitCause::Killed { by: KilledBy::Policy, policy: Some(name.to_owned()) }
}

// --- memory.high -------------------------------------------------------------

const HIGH: u64 = 8;
const AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";

/// A hog that touches `mib` MiB, above the tripwire and below the limit.
fn hog(case: &Case, id: &str, mib: u64, high_policy: &str, more: &[&str]) -> String {
    let told = case.file(id);
    let limits = format!("limits: {{memory: {{max_rss: 512MiB, high: {HIGH}MiB, {high_policy}}}}}");
    misbehaving(id, &["hog", &mib.to_string(), "0", &told], &[&[limits.as_str()], more].concat())
}

#[test]
fn the_tripwire_lets_a_hog_go_on_and_its_policy_acts_within_a_second() {
    let case = Case::with_limits(true);
    let policies = [
        ("log", Verdict::Record),
        ("alert", Verdict::Record),
        ("restart", Verdict::Restart),
        ("graceful_shutdown", Verdict::Stop),
        ("immediate_kill", Verdict::Kill),
    ];
    for (name, verdict) in policies {
        let mut up = Up::start(&case, &hog(&case, name, 24, &format!("high_policy: {name}"), &[AT_ONCE]));
        let pid = up.begun(name, 1);
        let dir = case.run_dir(name, 1);
        let breach = touched(&case, name, HIGH);
        let within = |when: Mono, what: &str| {
            let after = when.since(breach);
            assert!(after < scaled(SECOND), "{name}: {what} {after:?} after the breach");
        };
        let seen = up.wait_for("the violation", |e| is(e, name) && is_violation(e, Limit::MemoryHigh));
        within(at(&seen), "told");
        let EventKind::Violation { resource, severity, .. } = seen.kind else { unreachable!() };
        assert_eq!((resource.as_str(), severity.as_str()), ("memory", "warning"));
        within(at(&up.wait_for("the decision", |e| is(e, name) && decided(e, verdict))), "decided");
        match verdict {
            Verdict::Record => {
                // The kernel's own word, not what was told of it.
                let free = wait_until("memory.high is lifted", || {
                    (tree::read(&dir, "memory.high") == "max").then(clock::monotonic)
                });
                within(free, "lifted");
                wait_until("the hog gets all it wants", || case.told(name).contains(&"held".to_owned()).then_some(()));
                Process::open(pid).expect("it goes on").signal(Signal::USR1);
                up.wait_for("the recovery", |e| {
                    is(e, name) && matches!(&e.kind, EventKind::Recovered { limit, .. } if *limit == Limit::MemoryHigh)
                });
                // Told before it is done.
                let armed = (HIGH * MIB).to_string();
                wait_until("it is armed again", || (tree::read(&dir, "memory.high") == armed).then_some(()));
                let told = up.of(name).filter(|e| is_violation(e, Limit::MemoryHigh)).count();
                assert_eq!(told, 1, "one episode is one violation");
            }
            Verdict::Restart => {
                assert_eq!(up.exited(name, 1), policy("memory"));
                up.begun(name, 2);
            }
            _ => {
                assert_eq!(up.exited(name, 1), policy("memory"));
                up.state(name, State::Stopped, "stopped");
                assert_eq!(up.of(name).filter(|e| e.run == Some(2)).count(), 0, "its end is final");
            }
        }
        up.stop();
    }
}

#[test]
fn a_hog_that_throttle_holds_without_progress_is_dealt_with_at_the_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let case = Case::with_limits(true);
    let policies = [
        ("log", Verdict::Record),
        ("restart", Verdict::Restart),
        ("graceful_shutdown", Verdict::Stop),
        ("immediate_kill", Verdict::Kill),
    ];
    for (name, verdict) in policies {
        let high = format!("high_policy: throttle, throttle_deadline: {}s, policy: {name}", DEADLINE.as_secs());
        let mut up = Up::start(&case, &hog(&case, name, 256, &high, &[AT_ONCE]));
        up.begun(name, 1);
        let dir = case.run_dir(name, 1);
        let breach = touched(&case, name, HIGH);
        let opened = at(&up.wait_for("the violation", |e| is(e, name) && is_violation(e, Limit::MemoryHigh)));
        up.state(name, State::Running, "throttled");
        assert_eq!(tree::number(&dir, "memory.high"), HIGH * MIB, "it stays in force");
        let acted = if verdict == Verdict::Record {
            wait_until("memory.high is lifted", || (tree::read(&dir, "memory.high") == "max").then(clock::monotonic))
        } else {
            at(&up.wait_for("the decision", |e| is(e, name) && decided(e, verdict)))
        };
        assert!(acted.since(opened) + scaled(SECOND) / 10 >= DEADLINE, "{name}: {:?} early", acted.since(opened));
        let late = acted.since(breach);
        assert!(late < DEADLINE + scaled(2 * SECOND), "{name}: {late:?} after the breach");
        if verdict == Verdict::Record {
            wait_until("the hog gets all it wants", || case.told(name).contains(&"held".to_owned()).then_some(()));
        } else {
            assert_eq!(up.exited(name, 1), policy("memory"));
            let reached = case.told(name).len();
            assert!(reached < 256, "it was held: {reached} MiB");
        }
        up.stop();
    }
}

// --- what is no violation ----------------------------------------------------

/// Page cache is taken back when it is in the way: it says nothing about a worker. But it lets the kernel's counters of
/// both limits grow for ever.
#[test]
fn page_cache_alone_is_no_violation_and_is_soon_not_looked_at_any_more() {
    /// What comes to rest has to: a watch that fires for nothing is set again after 1, 2, 4, 8, and then 10 s.
    const SETTLE: Duration = Duration::from_secs(20);
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    let file = disk.dir.join("large");
    // Holes are read from the page cache as everything is.
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let file = file.to_str().unwrap();
    let limits = [("below-max", "max_rss: 64MiB"), ("above-high", "max_rss: 512MiB, high: 64MiB")];
    let reader = |(id, memory): (&str, &str)| {
        misbehaving(id, &["read", file, &case.file(id)], &[&format!("limits: {{memory: {{{memory}}}}}")])
    };
    let mut up = Up::start(&case, &limits.map(reader).concat());
    let dirs = limits.map(|(id, _)| {
        let _main = up.started(id, 1);
        case.run_dir(id, 1)
    });
    let counter = ["max", "high"];
    for (dir, key) in dirs.iter().zip(counter) {
        wait_until("the limit is reached", || (tree::field(dir, "memory.events.local", key) > 0).then_some(()));
    }
    up.watch(SETTLE);
    let roles = ["keeper", "supervisor", "logger"].map(|role| case.role(role));
    let wake_ups = || roles.iter().map(Process::wake_ups).sum::<u64>();
    let counted =
        || dirs.iter().zip(counter).map(|(d, k)| tree::field(d, "memory.events.local", k)).collect::<Vec<_>>();
    let (before, grown_from, time) = (
        wake_ups(),
        counted(),
        Duration::from_secs(parameter("PINFOLD_TEST_SECONDS").unwrap_or(40)).saturating_sub(SETTLE).max(10 * SECOND),
    );
    up.watch(time);
    let (woken, grown_to) = (wake_ups() - before, counted());
    for (from, to) in grown_from.iter().zip(&grown_to) {
        assert!(to > from, "they still reach their limits: {grown_from:?} {grown_to:?}");
    }
    eprintln!("page cache: {woken} wake-ups in {time:?}, while the counters grew from {grown_from:?} to {grown_to:?}");
    assert!(woken < time.as_secs(), "{woken} wake-ups in {time:?}");
    for (id, _) in limits {
        wait_until("it has read the whole file", || case.told(id).first().filter(|l| *l == "read 1073741824").cloned());
        assert_eq!(up.of(id).filter(|e| matches!(e.kind, EventKind::Violation { .. })).count(), 0, "{id}");
    }
    up.stop();
}

#[test]
fn a_thousand_quiet_workers_with_every_limit_cost_no_wake_up() {
    const WORKERS: usize = 1000;
    /// Started at the same time.
    const BATCH: usize = 50;
    let case = Case::with_limits(true);
    let disk = Disk::new(&case);
    // A machine's default may be less than what so many pressure triggers need.
    let many = Rlimit { current: Some(1 << 16), maximum: Some(1 << 16) };
    setrlimit(Resource::Nofile, many).unwrap();
    let stall = "{some: 500ms/2s, policy: alert}";
    let limits = format!(
        "limits: {{memory: {{max_rss: 64MiB, high: 75%, policy: restart, high_policy: throttle}}, \
         cpu: {{max_percent: 50, weight: 50, max_time: 10h, policy: restart}}, pids: {{max: 8, policy: immediate_kill}}, \
         io: [{{path: {}, wbps: 1MiB}}], pressure: {{memory: {stall}, cpu: {stall}, io: {stall}}}}}",
        disk.dir.display()
    );
    let ids: Vec<String> = (1..=WORKERS).map(|i| format!("w-{i}")).collect();
    let config = worker("w", &["/bin/sleep", "100000"], &[&limits]);
    let mut up = Up::start(&case, &format!("{config}    instances: {WORKERS}\n    enabled: false\n"));
    wait_until("the socket", || case.socket().exists().then_some(()));
    for batch in ids.chunks(BATCH) {
        case.ask("start", &batch.iter().map(String::as_str).collect::<Vec<_>>());
        up.watch(Duration::from_millis(1));
    }
    let roles = ["keeper", "supervisor", "logger"].map(|role| case.role(role));
    let wake_ups = || roles.iter().map(Process::wake_ups).sum::<u64>();
    // A start leaves something to be done, the end of threads that were needed for it after ten seconds included. But
    // then nothing wakes anybody up any more.
    wait_until(&format!("ten seconds without a wake-up, with {WORKERS} workers"), || {
        let before = wake_ups();
        pause(10 * SECOND);
        (wake_ups() == before).then_some(())
    });
    let violations = up.seen.iter().filter(|e| matches!(e.kind, EventKind::Violation { .. })).count();
    assert_eq!(violations, 0);
    up.stop();
}
