use proptest::prelude::*;

use super::*;
use crate::model::Stage;
use Confidence::{Certain, Likely};

const fn reaped(signal: i32) -> End<'static> {
    End::Reaped(ExitStatus::Signaled { signal, core: false })
}

const fn code(code: i32) -> End<'static> {
    End::Reaped(ExitStatus::Exited { code })
}

/// What the memory counters of one run grew by. All rows begin with other numbers than zero, so that a rule that
/// looks at the total instead of the growth fails.
#[derive(Clone, Copy, Default)]
struct Grown {
    oom: u64,
    kill: u64,
    group: u64,
    /// Growth below the run's cgroup, seen by memory.events alone.
    below: u64,
}

const NOTHING: Grown = Grown { oom: 0, kill: 0, group: 0, below: 0 };
/// The run's own limit, everything killed.
const OWN_GROUP: Grown = Grown { oom: 1, kill: 3, group: 1, below: 0 };
/// The run's own limit, one process killed.
const OWN_ONE: Grown = Grown { oom: 4, kill: 1, group: 0, below: 0 };
/// Somebody else's limit, one process of ours killed.
const FOREIGN: Grown = Grown { oom: 0, kill: 1, group: 0, below: 0 };
const FOREIGN_GROUP: Grown = Grown { oom: 0, kill: 2, group: 1, below: 0 };
/// A cgroup that the worker made below its own.
const NESTED: Grown = Grown { oom: 0, kill: 0, group: 0, below: 1 };

fn counters(grown: Grown) -> (Counters, Counters) {
    let local = MemoryEvents { max: 7, oom: 2, oom_kill: 2, oom_group_kill: 1, ..Default::default() };
    let all = MemoryEvents { oom_kill: 5, ..local };
    let before = Counters { local: Some(local), memory: Some(all), pids_max: Some(1) };
    let add = |e: MemoryEvents, below| MemoryEvents {
        max: e.max + 100,
        oom: e.oom + grown.oom + below,
        oom_kill: e.oom_kill + grown.kill + below,
        oom_group_kill: e.oom_group_kill + grown.group,
        ..e
    };
    let after = Counters { local: Some(add(local, 0)), memory: Some(add(all, grown.below)), pids_max: Some(1) };
    (before, after)
}

const NOBODY: Asked = Asked { stop: None, kill: None, policy: None };
const STOP: Asked = Asked { stop: Some((KilledBy::Stop, 15)), kill: None, policy: None };
const TIMEOUT: Asked = Asked { stop: Some((KilledBy::Stop, 15)), kill: Some(KilledBy::StopTimeout), policy: None };
const KILL: Asked = Asked { stop: None, kill: Some(KilledBy::Operator), policy: None };
const STOP_BY_9: Asked = Asked { stop: Some((KilledBy::Shutdown, 9)), kill: None, policy: None };

fn killed(by: KilledBy) -> ExitCause {
    ExitCause::Killed { by, policy: None }
}

const fn oom(scope: OomScope) -> ExitCause {
    ExitCause::Oom { scope }
}

#[test]
fn every_case_has_its_row() {
    use KilledBy::{Operator, Shutdown, Stop, StopTimeout};
    use OomScope::{Ancestor, Host, Worker};
    let chdir = StartError::os(Stage::Chdir, "/srv", 2);
    let spawn = StartError::os(Stage::Spawn, "", 0);
    let failed = |e: &StartError| ExitCause::StartFailed { stage: e.stage, errno: e.errno };
    let unread = Above::Unread;
    let away = End::Unseen(UnknownWhy::SupervisorAway);
    let removed = End::Unseen(UnknownWhy::CgroupRemoved);
    let unknown = |why| ExitCause::Unknown { why };
    // name, end, growth, above, asked, oom takes all → cause, confidence
    #[rustfmt::skip]
    let rows = [
        ("a code is a code", code(3), NOTHING, unread, NOBODY, true, ExitCause::Exited { code: 3 }, Certain),
        ("zero is a code", code(0), NOTHING, unread, NOBODY, true, ExitCause::Exited { code: 0 }, Certain),
        ("137 by itself is a code, no kill", code(137), NOTHING, unread, NOBODY, true, ExitCause::Exited { code: 137 }, Certain),
        ("a child's OOM is not the cause of a code", code(1), OWN_ONE, unread, NOBODY, false, ExitCause::Exited { code: 1 }, Certain),
        ("nor of a clean one", code(0), OWN_GROUP, unread, NOBODY, true, ExitCause::Exited { code: 0 }, Certain),
        ("a success code after our signal", code(0), NOTHING, unread, STOP, true, killed(Stop), Certain),
        ("a configured success code after our signal", code(42), NOTHING, unread, STOP, true, killed(Stop), Certain),
        ("another code after our signal", code(143), NOTHING, unread, STOP, true, ExitCause::Exited { code: 143 }, Certain),
        ("a success code just before cgroup.kill came", code(0), NOTHING, unread, TIMEOUT, true, killed(Stop), Certain),
        ("SIGKILL cannot be obeyed", code(0), NOTHING, unread, KILL, true, ExitCause::Exited { code: 0 }, Certain),
        ("a foreign signal", reaped(11), NOTHING, unread, NOBODY, true, ExitCause::Signaled { signal: 11, core: false }, Certain),
        ("a real-time signal", reaped(40), NOTHING, unread, NOBODY, true, ExitCause::Signaled { signal: 40, core: false }, Certain),
        ("SIGTERM that nobody here sent", reaped(15), NOTHING, unread, NOBODY, true, ExitCause::Signaled { signal: 15, core: false }, Certain),
        ("our stop signal", reaped(15), NOTHING, unread, STOP, true, killed(Stop), Certain),
        ("our stop signal, at the last moment", reaped(15), NOTHING, unread, TIMEOUT, true, killed(Stop), Certain),
        ("another signal while stopping", reaped(6), NOTHING, unread, STOP, true, ExitCause::Signaled { signal: 6, core: false }, Certain),
        ("a signal beside a child's OOM", reaped(6), OWN_ONE, unread, NOBODY, false, ExitCause::Signaled { signal: 6, core: false }, Certain),
        ("our kill at the timeout", reaped(9), NOTHING, unread, TIMEOUT, true, killed(StopTimeout), Certain),
        ("our kill", reaped(9), NOTHING, unread, KILL, true, killed(Operator), Certain),
        ("SIGKILL as the stop signal", reaped(9), NOTHING, unread, STOP_BY_9, true, killed(Shutdown), Certain),
        ("a stranger's SIGKILL", reaped(9), NOTHING, unread, NOBODY, true, ExitCause::KilledExternal, Certain),
        ("a stranger's SIGKILL while stopping", reaped(9), NOTHING, unread, STOP, true, ExitCause::KilledExternal, Certain),
        ("own limit, all go", reaped(9), OWN_GROUP, unread, NOBODY, true, oom(Worker), Certain),
        ("own limit, before Linux 5.17", reaped(9), OWN_ONE, unread, NOBODY, true, oom(Worker), Certain),
        ("own limit, one goes: perhaps a child", reaped(9), OWN_ONE, unread, NOBODY, false, oom(Worker), Likely),
        ("own limit while stopping", reaped(9), OWN_GROUP, unread, STOP, true, oom(Worker), Certain),
        ("all went before our kill could take one", reaped(9), OWN_GROUP, unread, KILL, true, oom(Worker), Likely),
        ("one went, our kill explains the main one", reaped(9), OWN_ONE, unread, TIMEOUT, false, killed(StopTimeout), Likely),
        ("an OOM below, and a SIGKILL", reaped(9), NESTED, unread, NOBODY, true, oom(Worker), Likely),
        ("an OOM below, and our kill", reaped(9), NESTED, unread, KILL, true, killed(Operator), Likely),
        ("not our limit, ancestors unread", reaped(9), FOREIGN, unread, NOBODY, true, oom(Host), Likely),
        ("an ancestor's limit", reaped(9), FOREIGN_GROUP, Above::LimitReached, NOBODY, true, oom(Ancestor), Certain),
        ("the host", reaped(9), FOREIGN_GROUP, Above::Untouched, NOBODY, true, oom(Host), Certain),
        ("the host, one goes", reaped(9), FOREIGN, Above::Untouched, NOBODY, false, oom(Host), Likely),
        ("own limit and an ancestor's: the nearer one", reaped(9), OWN_GROUP, Above::LimitReached, NOBODY, true, oom(Worker), Certain),
        ("never ran", End::NeverRan(&chdir), NOTHING, unread, NOBODY, true, failed(&chdir), Certain),
        ("never ran, while a kill was under way", End::NeverRan(&chdir), NOTHING, unread, KILL, true, failed(&chdir), Certain),
        ("killed before exec by nobody we know", End::NeverRan(&spawn), NOTHING, unread, NOBODY, true, failed(&spawn), Certain),
        ("killed before exec by us", End::NeverRan(&spawn), NOTHING, unread, KILL, true, killed(Operator), Certain),
        ("killed before exec by its own memory.max", End::NeverRan(&spawn), OWN_ONE, unread, NOBODY, true, oom(Worker), Likely),
        ("nobody saw it", away, NOTHING, unread, NOBODY, true, unknown(UnknownWhy::SupervisorAway), Certain),
        ("nobody saw it, its cgroup is gone", removed, NOTHING, unread, STOP, true, unknown(UnknownWhy::CgroupRemoved), Certain),
        ("nobody saw it, a group OOM tells", away, OWN_GROUP, unread, NOBODY, true, oom(Worker), Likely),
        ("nobody saw it, a single OOM does not", away, OWN_ONE, unread, NOBODY, false, unknown(UnknownWhy::SupervisorAway), Certain),
        ("nobody saw it, our kill tells", away, NOTHING, unread, KILL, true, killed(Operator), Likely),
    ];
    for (name, end, grown, above, asked, oom_takes_all, cause, confidence) in rows {
        let (before, after) = counters(grown);
        let facts = Facts { end, before, after, above, asked, oom_takes_all, success_exit_codes: &[0, 42] };
        assert_eq!(decide(&facts), (cause, confidence), "{name}");
    }
}

#[test]
fn without_the_memory_controller_a_foreign_sigkill_is_only_likely() {
    let facts = Facts {
        end: reaped(9),
        before: Counters::default(),
        after: Counters { pids_max: Some(4), ..Default::default() },
        above: Above::Unread,
        asked: NOBODY,
        oom_takes_all: false,
        success_exit_codes: &[0],
    };
    assert_eq!(decide(&facts), (ExitCause::KilledExternal, Likely));
}

fn any_end() -> impl Strategy<Value = Option<Option<ExitStatus>>> {
    prop_oneof![
        Just(None),
        Just(Some(None)),
        (0..256).prop_map(|code| Some(Some(ExitStatus::Exited { code }))),
        (prop_oneof![1..65, Just(9), Just(15)], any::<bool>())
            .prop_map(|(signal, core)| Some(Some(ExitStatus::Signaled { signal, core }))),
    ]
}

fn any_events() -> impl Strategy<Value = Option<MemoryEvents>> {
    proptest::option::of((0..3u64, 0..3u64, 0..3u64, 0..3u64).prop_map(|(max, oom, oom_kill, oom_group_kill)| {
        MemoryEvents { max, oom, oom_kill, oom_group_kill, ..Default::default() }
    }))
}

fn any_by() -> impl Strategy<Value = KilledBy> {
    use KilledBy::{Operator, Policy, Shutdown, Stop, StopTimeout};
    prop_oneof![Just(Stop), Just(StopTimeout), Just(Operator), Just(Shutdown), Just(Policy)]
}

proptest! {
    #[test]
    fn any_evidence_has_a_cause_and_no_code_or_signal_is_invented(
        end in any_end(), spawn_fault in any::<bool>(),
        before in (any_events(), any_events()), after in (any_events(), any_events()),
        stop in proptest::option::of((any_by(), prop_oneof![Just(15), Just(9), 1..65])),
        kill in proptest::option::of(any_by()), oom_takes_all in any::<bool>(),
        above in prop_oneof![Just(Above::Unread), Just(Above::LimitReached), Just(Above::Untouched)],
    ) {
        let error = StartError::os(if spawn_fault { Stage::Spawn } else { Stage::Exec }, "", 2);
        let of = |(local, memory)| Counters { local, memory, pids_max: None };
        let facts = Facts {
            end: match end {
                None => End::NeverRan(&error),
                Some(None) => End::Unseen(UnknownWhy::SupervisorAway),
                Some(Some(status)) => End::Reaped(status),
            },
            before: of(before), after: of(after), above, oom_takes_all, success_exit_codes: &[0],
            asked: Asked { stop, kill, policy: None },
        };
        let (cause, _) = decide(&facts);
        let status = end.flatten();
        match cause {
            ExitCause::Exited { code } => prop_assert_eq!(status, Some(ExitStatus::Exited { code })),
            ExitCause::Signaled { signal, core } => prop_assert_eq!(status, Some(ExitStatus::Signaled { signal, core })),
            ExitCause::StartFailed { .. } => prop_assert!(end.is_none()),
            ExitCause::Unknown { .. } => prop_assert_eq!(end, Some(None)),
            ExitCause::Killed { by, .. } => prop_assert!(
                Some(by) == kill || Some(by) == stop.map(|(by, _)| by), "killed by who was asked"
            ),
            ExitCause::KilledExternal => {
                let by_9 = matches!(status, Some(ExitStatus::Signaled { signal: 9, .. }));
                prop_assert!(by_9 && kill.is_none());
            }
            ExitCause::Oom { .. } => {
                let grown = facts.after.since(facts.before);
                let kills = |e: Option<MemoryEvents>| e.is_some_and(|e| e.oom_kill + e.oom_group_kill > 0);
                prop_assert!(kills(grown.local) || kills(grown.memory), "no OOM without a count");
                prop_assert!(!matches!(status, Some(ExitStatus::Exited { .. })), "a code is no OOM");
            }
        }
    }
}
