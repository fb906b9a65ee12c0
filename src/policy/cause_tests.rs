use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{HostOom, Level, Stage};
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
const SHUTDOWN: Asked = Asked { stop: Some((KilledBy::Shutdown, 15)), kill: None, policy: None };
const TIMEOUT: Asked = Asked { stop: Some((KilledBy::Stop, 15)), kill: Some(KilledBy::StopTimeout), policy: None };
const KILL: Asked = Asked { stop: None, kill: Some(KilledBy::Operator), policy: None };
/// A person's kill that came while a policy's stop was under way.
const ESCALATED: Asked = Asked { stop: Some((KilledBy::Policy, 15)), kill: Some(KilledBy::Operator), policy: None };
const STOP_BY_9: Asked = Asked { stop: Some((KilledBy::Shutdown, 9)), kill: None, policy: None };
/// `graceful_shutdown` or `restart` of a limit, `immediate_kill` of one, and the first one at its timeout.
const POLICY: Asked = Asked { stop: Some((KilledBy::Policy, 15)), kill: None, policy: Some(PolicyName::Pids) };
const POLICY_KILL: Asked = Asked { stop: None, kill: Some(KilledBy::Policy), policy: Some(PolicyName::Pids) };
const POLICY_TIMEOUT: Asked =
    Asked { stop: Some((KilledBy::Policy, 15)), kill: Some(KilledBy::StopTimeout), policy: Some(PolicyName::Pids) };

fn killed(by: KilledBy) -> ExitCause {
    ExitCause::Killed { by, policy: None }
}

fn killed_for(by: KilledBy, policy: PolicyName) -> ExitCause {
    ExitCause::Killed { by, policy: Some(policy.as_str().to_owned()) }
}

const fn oom(scope: OomScope) -> ExitCause {
    ExitCause::Oom { scope }
}

/// Slice, workers, ROOT: what each one's own `oom` grew by. All three begin with other numbers than zero.
fn levels(grown: [u64; 3]) -> Vec<Level> {
    let paths = ["/pinfold/workers/web.slice", "/pinfold/workers", "/pinfold"];
    let level = |(path, grown): (&str, u64)| {
        let before = MemoryEvents { max: 40, oom: 3, oom_kill: 2, ..MemoryEvents::default() };
        // Reclaim at a limit is nobody's death.
        let after = MemoryEvents { max: before.max + 9, oom: before.oom + grown, ..before };
        Level { path: path.to_owned(), before, after }
    };
    paths.into_iter().zip(grown).map(level).collect()
}

fn above(grown: [u64; 3], complete: bool) -> AboveReading {
    AboveReading { levels: levels(grown), complete, host: Some(HostOom { before: 7, after: 8 }) }
}

#[test]
fn every_case_has_its_row() {
    use KilledBy::{Operator, Policy, Shutdown, Stop, StopTimeout};
    use OomScope::{Ancestor, Host, Worker};
    use PolicyName::Pids;
    let chdir = StartError::os(Stage::Chdir, "/srv", 2);
    let limit = StartError::refused(Stage::Limit, "memory.max needs the memory controller");
    let spawn = StartError::os(Stage::Spawn, "", 0);
    let failed = |e: &StartError| ExitCause::StartFailed { stage: e.stage, errno: e.errno };
    let unread = None;
    let slice = Some(above([1, 0, 0], true));
    let root = Some(above([0, 0, 5], true));
    let root_of_some = Some(above([0, 0, 5], false));
    let none = Some(above([0, 0, 0], true));
    let none_of_some = Some(above([0, 0, 0], false));
    let no_vmstat = none.clone().map(|none| AboveReading { host: None, ..none });
    let stood_still = none.clone().map(|none| AboveReading { host: Some(HostOom { before: 7, after: 7 }), ..none });
    let nothing_read = Some(AboveReading::default());
    let away = End::Unseen(UnknownWhy::SupervisorAway);
    let removed = End::Unseen(UnknownWhy::CgroupRemoved);
    let rebooted = End::Unseen(UnknownWhy::HostRebooted);
    let dumped = End::Reaped(ExitStatus::Signaled { signal: 11, core: true });
    let unknown = |why| ExitCause::Unknown { why };
    let signaled = |signal| ExitCause::Signaled { signal, core: false };
    // name, end, growth, above, asked, oom takes all → cause, confidence
    #[rustfmt::skip]
    let rows = [
        // exited{code}
        ("a code is a code", code(3), NOTHING, &unread, NOBODY, true, ExitCause::Exited { code: 3 }, Certain),
        ("zero is a code", code(0), NOTHING, &unread, NOBODY, true, ExitCause::Exited { code: 0 }, Certain),
        ("137 by itself is a code, no kill", code(137), NOTHING, &unread, NOBODY, true, ExitCause::Exited { code: 137 }, Certain),
        ("a child's OOM is not the cause of a code", code(1), OWN_ONE, &unread, NOBODY, false, ExitCause::Exited { code: 1 }, Certain),
        ("nor of a clean one", code(0), OWN_GROUP, &unread, NOBODY, true, ExitCause::Exited { code: 0 }, Certain),
        ("nor is one of the slice's", code(1), FOREIGN, &slice, NOBODY, false, ExitCause::Exited { code: 1 }, Certain),
        ("another code after our signal", code(143), NOTHING, &unread, STOP, true, ExitCause::Exited { code: 143 }, Certain),
        ("another code after a policy's signal", code(1), NOTHING, &unread, POLICY, true, ExitCause::Exited { code: 1 }, Certain),
        ("SIGKILL cannot be obeyed", code(0), NOTHING, &unread, KILL, true, ExitCause::Exited { code: 0 }, Certain),
        // signaled{signal, core}
        ("a foreign signal", reaped(11), NOTHING, &unread, NOBODY, true, signaled(11), Certain),
        ("a core dump", dumped, NOTHING, &unread, NOBODY, true, ExitCause::Signaled { signal: 11, core: true }, Certain),
        ("a real-time signal", reaped(40), NOTHING, &unread, NOBODY, true, signaled(40), Certain),
        ("SIGTERM that nobody here sent", reaped(15), NOTHING, &unread, NOBODY, true, signaled(15), Certain),
        ("another signal while stopping", reaped(6), NOTHING, &unread, STOP, true, signaled(6), Certain),
        ("a signal beside a child's OOM", reaped(6), OWN_ONE, &unread, NOBODY, false, signaled(6), Certain),
        ("a signal beside our kill", reaped(11), NOTHING, &unread, KILL, true, signaled(11), Certain),
        // killed{by}
        ("a success code after our signal", code(0), NOTHING, &unread, STOP, true, killed(Stop), Certain),
        ("a configured success code after our signal", code(42), NOTHING, &unread, STOP, true, killed(Stop), Certain),
        ("a success code just before cgroup.kill came", code(0), NOTHING, &unread, TIMEOUT, true, killed(Stop), Certain),
        ("our stop signal", reaped(15), NOTHING, &unread, STOP, true, killed(Stop), Certain),
        ("our stop signal, at the last moment", reaped(15), NOTHING, &unread, TIMEOUT, true, killed(Stop), Certain),
        ("our kill at the timeout", reaped(9), NOTHING, &unread, TIMEOUT, true, killed(StopTimeout), Certain),
        ("our kill", reaped(9), NOTHING, &unread, KILL, true, killed(Operator), Certain),
        ("our kill during another's stop", reaped(9), NOTHING, &unread, ESCALATED, true, killed(Operator), Certain),
        ("a stop at shutdown", reaped(15), NOTHING, &unread, SHUTDOWN, true, killed(Shutdown), Certain),
        ("SIGKILL as the stop signal", reaped(9), NOTHING, &unread, STOP_BY_9, true, killed(Shutdown), Certain),
        ("a policy's stop", reaped(15), NOTHING, &unread, POLICY, true, killed_for(Policy, Pids), Certain),
        ("a success code after a policy's stop", code(0), NOTHING, &unread, POLICY, true, killed_for(Policy, Pids), Certain),
        ("a policy's kill", reaped(9), NOTHING, &unread, POLICY_KILL, true, killed_for(Policy, Pids), Certain),
        ("a policy's stop, at the timeout", reaped(9), NOTHING, &unread, POLICY_TIMEOUT, true, killed_for(StopTimeout, Pids), Certain),
        ("one went, our kill explains the main one", reaped(9), OWN_ONE, &unread, TIMEOUT, false, killed(StopTimeout), Likely),
        ("one went by the slice, our kill explains the main one", reaped(9), FOREIGN, &slice, KILL, false, killed(Operator), Likely),
        ("an OOM below, and our kill", reaped(9), NESTED, &unread, KILL, true, killed(Operator), Likely),
        // killed_external
        ("a stranger's SIGKILL", reaped(9), NOTHING, &unread, NOBODY, true, ExitCause::KilledExternal, Certain),
        ("a stranger's SIGKILL while stopping", reaped(9), NOTHING, &unread, STOP, true, ExitCause::KilledExternal, Certain),
        ("a stranger's SIGKILL while a policy stops it", reaped(9), NOTHING, &unread, POLICY, true, ExitCause::KilledExternal, Certain),
        ("an OOM in the slice that took none of ours", reaped(9), NOTHING, &slice, NOBODY, true, ExitCause::KilledExternal, Certain),
        // oom{worker}
        ("own limit, all go", reaped(9), OWN_GROUP, &unread, NOBODY, true, oom(Worker), Certain),
        ("own limit, before Linux 5.17", reaped(9), OWN_ONE, &unread, NOBODY, true, oom(Worker), Certain),
        ("own limit, one goes: perhaps a child", reaped(9), OWN_ONE, &unread, NOBODY, false, oom(Worker), Likely),
        ("own limit while stopping", reaped(9), OWN_GROUP, &unread, STOP, true, oom(Worker), Certain),
        ("all went before our kill could take one", reaped(9), OWN_GROUP, &unread, KILL, true, oom(Worker), Likely),
        ("an OOM below, and a SIGKILL", reaped(9), NESTED, &unread, NOBODY, true, oom(Worker), Likely),
        ("own limit and the slice's: the nearer one", reaped(9), OWN_GROUP, &slice, NOBODY, true, oom(Worker), Certain),
        // oom{ancestor}
        ("the slice's limit", reaped(9), FOREIGN_GROUP, &slice, NOBODY, true, oom(Ancestor), Certain),
        ("the slice's limit, one goes: perhaps a child", reaped(9), FOREIGN, &slice, NOBODY, false, oom(Ancestor), Likely),
        ("a limit further up", reaped(9), FOREIGN_GROUP, &root, NOBODY, true, oom(Ancestor), Certain),
        ("a limit further up, and not all was read", reaped(9), FOREIGN_GROUP, &root_of_some, NOBODY, true, oom(Ancestor), Certain),
        ("the slice's limit, before our kill", reaped(9), FOREIGN_GROUP, &slice, KILL, true, oom(Ancestor), Likely),
        // oom{host}
        ("the host", reaped(9), FOREIGN_GROUP, &none, NOBODY, true, oom(Host), Certain),
        ("the host, one goes: perhaps a child", reaped(9), FOREIGN, &none, NOBODY, false, oom(Host), Likely),
        ("the host, without its own count", reaped(9), FOREIGN_GROUP, &no_vmstat, NOBODY, true, oom(Host), Certain),
        ("the host, whose own count contradicts", reaped(9), FOREIGN_GROUP, &stood_still, NOBODY, true, oom(Host), Likely),
        ("the host, or a level that was not read", reaped(9), FOREIGN_GROUP, &none_of_some, NOBODY, true, oom(Host), Likely),
        ("the host, or any level: none was read", reaped(9), FOREIGN_GROUP, &nothing_read, NOBODY, true, oom(Host), Likely),
        ("the host, or any level: nobody looked", reaped(9), FOREIGN_GROUP, &unread, NOBODY, true, oom(Host), Likely),
        // start_failed{stage, errno}
        ("never ran", End::NeverRan(&chdir), NOTHING, &unread, NOBODY, true, failed(&chdir), Certain),
        ("never ran by our own refusal", End::NeverRan(&limit), NOTHING, &unread, NOBODY, true, failed(&limit), Certain),
        ("never ran, while a kill was under way", End::NeverRan(&chdir), NOTHING, &unread, KILL, true, failed(&chdir), Certain),
        ("killed before exec by nobody we know", End::NeverRan(&spawn), NOTHING, &unread, NOBODY, true, failed(&spawn), Certain),
        // … with its two exceptions
        ("killed before exec by us", End::NeverRan(&spawn), NOTHING, &unread, KILL, true, killed(Operator), Certain),
        ("killed before exec by its own memory.max", End::NeverRan(&spawn), OWN_ONE, &unread, NOBODY, true, oom(Worker), Likely),
        ("killed before exec by the slice's", End::NeverRan(&spawn), FOREIGN, &slice, NOBODY, true, oom(Ancestor), Likely),
        // unknown{why}
        ("nobody saw it", away, NOTHING, &unread, NOBODY, true, unknown(UnknownWhy::SupervisorAway), Certain),
        ("nobody saw it, its cgroup is gone", removed, NOTHING, &unread, STOP, true, unknown(UnknownWhy::CgroupRemoved), Certain),
        ("nobody saw it, the host was restarted", rebooted, NOTHING, &unread, NOBODY, true, unknown(UnknownWhy::HostRebooted), Certain),
        ("nobody saw it, a single OOM does not tell", away, OWN_ONE, &unread, NOBODY, false, unknown(UnknownWhy::SupervisorAway), Certain),
        // … and what tells all the same
        ("nobody saw it, a group OOM tells", away, OWN_GROUP, &unread, NOBODY, true, oom(Worker), Likely),
        ("nobody saw it, a group OOM of the slice tells", away, FOREIGN_GROUP, &slice, NOBODY, true, oom(Ancestor), Likely),
        ("nobody saw it, our kill tells", away, NOTHING, &unread, KILL, true, killed(Operator), Likely),
        ("nobody saw it, our stop tells", away, NOTHING, &unread, STOP, true, killed(Stop), Likely),
        ("nobody saw it, a policy's kill tells", away, NOTHING, &unread, POLICY_KILL, true, killed_for(Policy, Pids), Likely),
    ];
    let mut seen = BTreeSet::new();
    for (name, end, grown, above, asked, oom_takes_all, cause, confidence) in rows {
        let (before, after) = counters(grown);
        let above = above.as_ref();
        let facts = Facts {
            end,
            before,
            after,
            doomed: false,
            own_oom: false,
            above,
            asked,
            oom_takes_all,
            success_exit_codes: &[0, 42],
        };
        seen.insert(branch(&cause));
        assert_eq!(decide(&facts), (cause, confidence), "{name}");
    }
    let algebra = [
        "exited",
        "killed operator",
        "killed policy",
        "killed shutdown",
        "killed stop",
        "killed stop_timeout",
        "killed_external",
        "oom ancestor",
        "oom host",
        "oom worker",
        "signaled",
        "start_failed",
        "unknown cgroup_removed",
        "unknown host_rebooted",
        "unknown supervisor_away",
    ];
    assert_eq!(seen, algebra.map(str::to_owned).into(), "every branch of the algebra has a row");
}

/// Which branch of the algebra a cause is: its `kind`, and what tells causes of one kind apart.
fn branch(cause: &ExitCause) -> String {
    let json = serde_json::to_value(cause).unwrap();
    let words = ["kind", "scope", "by", "why"].iter().filter_map(|key| json[key].as_str());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_policy_is_named_by_the_resource_it_is_about_and_nobody_elses_kill_bears_a_name() {
    use PolicyName::{Cpu, CpuPressure, Health, Io, IoPressure, Memory, MemoryPressure, Pids};
    let (before, after) = counters(NOTHING);
    let names = [Memory, Cpu, Pids, Io, MemoryPressure, CpuPressure, IoPressure, Health];
    for policy in names {
        let facts = |end, stop, kill| Facts {
            end,
            before,
            after,
            doomed: false,
            own_oom: false,
            above: None,
            asked: Asked { stop, kill, policy: Some(policy) },
            oom_takes_all: true,
            success_exit_codes: &[0],
        };
        let by_policy = (killed_for(KilledBy::Policy, policy), Certain);
        assert_eq!(decide(&facts(reaped(15), Some((KilledBy::Policy, 15)), None)), by_policy);
        assert_eq!(decide(&facts(reaped(9), None, Some(KilledBy::Policy))), by_policy);
        let timeout = facts(reaped(9), Some((KilledBy::Policy, 15)), Some(KilledBy::StopTimeout));
        assert_eq!(
            decide(&timeout),
            (killed_for(KilledBy::StopTimeout, policy), Certain),
            "whose stop it was stays known"
        );
        let operator = facts(reaped(9), Some((KilledBy::Policy, 15)), Some(KilledBy::Operator));
        assert_eq!(decide(&operator), (killed(KilledBy::Operator), Certain), "a person's kill is a person's");
    }
}

#[test]
fn the_nearest_ancestor_that_reached_its_limit_is_the_one_to_name() {
    let reached = |grown| above(grown, true).reached().map(|level| level.path.clone());
    assert_eq!(reached([0, 0, 0]), None);
    assert_eq!(reached([0, 2, 1]).as_deref(), Some("/pinfold/workers"));
    assert_eq!(reached([1, 1, 1]).as_deref(), Some("/pinfold/workers/web.slice"));
}

#[test]
fn without_the_memory_controller_a_foreign_sigkill_is_only_likely() {
    let facts = Facts {
        end: reaped(9),
        before: Counters::default(),
        after: Counters { pids_max: Some(4), ..Default::default() },
        doomed: false,
        own_oom: false,
        above: None,
        asked: NOBODY,
        oom_takes_all: false,
        success_exit_codes: &[0],
    };
    assert_eq!(decide(&facts), (ExitCause::KilledExternal, Likely));
}

#[test]
fn a_limit_that_was_reached_before_the_earlier_reading_is_named_for_the_kill_that_came_after_it() {
    let events = |oom_kill| Some(MemoryEvents { oom: 1, oom_kill, ..MemoryEvents::default() });
    let of = |oom_kill| Counters { local: events(oom_kill), memory: events(oom_kill), pids_max: None };
    let facts = |own_oom| Facts {
        end: reaped(9),
        before: of(0),
        after: of(1),
        doomed: false,
        own_oom,
        above: None,
        asked: NOBODY,
        oom_takes_all: false,
        success_exit_codes: &[0],
    };
    assert_eq!(decide(&facts(true)), (ExitCause::Oom { scope: OomScope::Worker }, Likely));
    assert_eq!(decide(&facts(false)), (ExitCause::Oom { scope: OomScope::Host }, Likely));
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

fn any_asked() -> impl Strategy<Value = Asked> {
    let stop = proptest::option::of((any_by(), prop_oneof![Just(15), Just(9), 1..65]));
    let policy = prop_oneof![Just(None), Just(Some(PolicyName::Memory)), Just(Some(PolicyName::Health))];
    (stop, proptest::option::of(any_by()), policy).prop_map(|(stop, kill, policy)| Asked { stop, kill, policy })
}

fn any_above() -> impl Strategy<Value = Option<AboveReading>> {
    let host = proptest::option::of((0..3u64, 0..3u64).prop_map(|(before, after)| HostOom { before, after }));
    let reading = (proptest::array::uniform3(0..2u64), any::<bool>(), host);
    proptest::option::of(reading.prop_map(|(grown, complete, host)| AboveReading {
        levels: levels(grown),
        complete,
        host,
    }))
}

/// The kinds that the evidence speaks for, each by a rule of its own that knows nothing of the others and of the order
/// in which `decide` asks.
fn explanations(facts: &Facts<'_>) -> Vec<&'static str> {
    let grown = facts.after.since(facts.before);
    let count = |of: fn(MemoryEvents) -> u64| [grown.local, grown.memory].into_iter().flatten().map(of).sum::<u64>();
    let kills = count(|e| e.oom_kill) + count(|e| e.oom_group_kill) > 0;
    let of_all = kills
        && (count(|e| e.oom_group_kill) > 0
            || facts.oom_takes_all && grown.local.is_some_and(|local| local.oom_kill > 0));
    let asked = facts.asked;
    let signal_of_ours = |signal| asked.stop.is_some_and(|(_, ours)| ours == signal);
    let unseen = matches!(facts.end, End::Unseen(_));
    let (never, unborn) = match facts.end {
        End::NeverRan(error) => (true, error.is_spawn_fault()),
        _ => (false, false),
    };
    let code = match facts.end {
        End::Reaped(ExitStatus::Exited { code }) => Some(code),
        _ => None,
    };
    let signal = match facts.end {
        End::Reaped(ExitStatus::Signaled { signal, .. }) => Some(signal),
        _ => None,
    };
    let obeyed = code.is_some_and(|code| asked.stop.is_some() && facts.success_exit_codes.contains(&code));
    let shot = signal == Some(9);
    let shot_by_us = shot && (asked.kill.is_some() || signal_of_ours(9));
    let rules = [
        ("exited", code.is_some() && !obeyed),
        ("signaled", signal.is_some_and(|signal| signal != 9 && !signal_of_ours(signal))),
        (
            "oom",
            shot && kills && (of_all || facts.doomed || !shot_by_us)
                || unseen && of_all
                || unborn && kills && asked.kill.is_none(),
        ),
        (
            "killed",
            obeyed
                || signal.is_some_and(|signal| signal != 9 && signal_of_ours(signal))
                || shot_by_us && !of_all && !(kills && facts.doomed)
                || unseen && asked.by().is_some() && !of_all
                || unborn && asked.kill.is_some(),
        ),
        ("killed_external", shot && !shot_by_us && !kills),
        ("start_failed", never && !(unborn && (kills || asked.kill.is_some()))),
        ("unknown", unseen && asked.by().is_none() && !of_all),
    ];
    rules.into_iter().filter_map(|(kind, speaks)| speaks.then_some(kind)).collect()
}

proptest! {
    #[test]
    fn exactly_one_cause_results_from_any_evidence_and_none_is_invented(
        end in any_end(), spawn_fault in any::<bool>(),
        before in (any_events(), any_events()), after in (any_events(), any_events()),
        asked in any_asked(), oom_takes_all in any::<bool>(), own_oom in any::<bool>(), doomed in any::<bool>(), above in any_above(),
    ) {
        let error = StartError::os(if spawn_fault { Stage::Spawn } else { Stage::Exec }, "", 2);
        let of = |(local, memory)| Counters { local, memory, pids_max: None };
        let facts = Facts {
            end: match end {
                None => End::NeverRan(&error),
                Some(None) => End::Unseen(UnknownWhy::SupervisorAway),
                Some(Some(status)) => End::Reaped(status),
            },
            before: of(before), after: of(after), doomed, own_oom, above: above.as_ref(), oom_takes_all, success_exit_codes: &[0], asked,
        };
        let (cause, confidence) = decide(&facts);
        let kind = serde_json::to_value(&cause).unwrap()["kind"].as_str().unwrap().to_owned();
        prop_assert_eq!(explanations(&facts), [kind.as_str()], "one kind, and the evidence speaks for it alone");
        prop_assert_eq!(decide(&facts), (cause.clone(), confidence), "and nothing else decides");

        let status = end.flatten();
        let grown = facts.after.since(facts.before);
        let own = [grown.local, grown.memory].into_iter().flatten().any(|e| e.oom > 0) || own_oom;
        let further_up = above.as_ref().is_some_and(|above| above.levels.iter().any(|l| l.after.oom > l.before.oom));
        match &cause {
            ExitCause::Exited { code } => prop_assert_eq!(status, Some(ExitStatus::Exited { code: *code })),
            ExitCause::Signaled { signal, core } => {
                prop_assert_eq!(status, Some(ExitStatus::Signaled { signal: *signal, core: *core }));
            }
            ExitCause::StartFailed { stage, errno } => {
                prop_assert_eq!((*stage, *errno), (error.stage, error.errno));
            }
            ExitCause::Unknown { why } => prop_assert_eq!(*why, UnknownWhy::SupervisorAway),
            ExitCause::Killed { by, policy } => {
                let asked_by = asked.kill == Some(*by) || asked.stop.is_some_and(|(stop, _)| stop == *by);
                prop_assert!(asked_by, "killed by who was asked");
                prop_assert!(policy.is_none() || policy.as_deref() == asked.policy.map(PolicyName::as_str));
            }
            ExitCause::KilledExternal => {}
            ExitCause::Oom { scope } => {
                let expected = match (own, further_up) {
                    (true, _) => OomScope::Worker,
                    (false, true) => OomScope::Ancestor,
                    (false, false) => OomScope::Host,
                };
                prop_assert_eq!(*scope, expected);
                let whole = above.as_ref().is_some_and(|above| above.complete);
                prop_assert!(confidence == Likely || *scope != OomScope::Host || whole, "no certainty from a part");
            }
        }
    }
}
