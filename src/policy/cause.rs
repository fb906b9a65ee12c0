//! Why a run ended: exactly one cause from whatever is known, and how sure it is.
//!
//! # The rules, in the order they are asked
//!
//! 1. *Never ran.* `start_failed`, with two exceptions for a child that was killed before it could exec: our own
//!    `cgroup.kill` (`killed`) and an OOM in the run's cgroup (`oom`: the child's own set-up is charged to it).
//! 2. *Nobody saw the status.* A group OOM kill takes the main process with it, so its count tells
//!    (`oom`, likely); our own `cgroup.kill` explains it too (`killed`, likely); else `unknown`. Never a code.
//! 3. *An exit code.* `killed` where it is a success code after our stop signal, which the program then obeyed; else
//!    `exited`. SIGKILL cannot be obeyed: a code beside our `cgroup.kill` alone is the program's own.
//! 4. *A signal other than SIGKILL.* `killed` where it is the one we sent, else `signaled`.
//! 5. *SIGKILL.* Three can have sent it: the OOM killer, we, or a stranger.
//!
//! # OOM against our own kill
//!
//! The kernel counts `oom_kill` only for a victim that is not dying already (`task_will_free_mem` in `mm/oom_kill.c`).
//! So a count that grew means that the OOM killer came before our kill had reached *that* process. Where the
//! whole group goes at once (`memory.oom.group`) that process was as good as the main one: `oom`. Where single processes
//! go (`oom_scope: process`) it may have been a child, and our kill explains the main process's death: `killed`. Both
//! are `likely`, because two explanations met. It is `oom` as well where a SIGKILL was pending for the main process when
//! the count was read, and we had sent none yet. Without a kill of ours a single process's OOM and a stranger's SIGKILL within
//! one reading cannot be told apart either: `oom`, likely.
//!
//! # Whose memory ran out
//!
//! `oom` is counted in the cgroup whose limit was reached, `oom_kill` in the victim's (`mem_cgroup_oom` and
//! `__oom_kill_process`). So:
//!
//! | `oom` grew | the scope | known |
//! |---|---|---|
//! | here (`memory.events.local`) | `worker` | yes |
//! | below, in a cgroup that the worker made | `worker` | no: perhaps not on the main process |
//! | here, but before the earlier reading, and no kill had answered it (`policy::violation`) | `worker` | no |
//! | not here, but in `memory.events.local` of an ancestor | `ancestor`, the nearest such | yes |
//! | in no cgroup, and every one up to the host's root was read | `host` | yes, unless the host's own count of kills stood still |
//! | in none of those that could be read | `host` | no |
//!
//! The nearer limit wins: one that is reached further up at the same moment did not choose this victim. No limit has to
//! be reached for the host to run out, so `host` is what is left when all else is ruled out; where something could not
//! be looked at, it is the likelier reading (most hosts set no limit above a service) and not more. What is not known is
//! `likely`, as is a kill that need not have been the main process's.
//!
//! The ancestors are read by the caller, and only where a run lost a process without a limit of its own: see
//! `kernel::ancestors` for which of their earlier readings the growth is counted from.
//!
//! # The earlier reading
//!
//! The caller's `before` must not hold the growth that killed the main process. The notification of an OOM
//! comes before the exit in half of all cases, on a busy host seconds before, so "the last reading while it lived" alone is
//! not enough: where a SIGKILL was pending for the main process when a kill was read, that kill was its own. See
//! `worker::state::Readings`.

use crate::model::{
    AboveReading, Confidence, Counters, ExitCause, ExitStatus, KilledBy, MemoryEvents, OomScope, PolicyName,
    StartError, UnknownWhy,
};

/// SIGKILL, signal(7): the same number on every architecture.
const SIGKILL: i32 = 9;

/// How the main process ended, as far as anybody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// It never executed its program.
    NeverRan(&'a StartError),
    /// It was reaped.
    Reaped(ExitStatus),
    /// It is gone, and nobody saw its status.
    Unseen(UnknownWhy),
}

/// What we had asked of the run before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The stop signal that was sent, and on whose behalf.
    pub stop: Option<(KilledBy, i32)>,
    /// On whose behalf `cgroup.kill` was written.
    pub kill: Option<KilledBy>,
    /// Whose policy it was that asked, if one did.
    pub policy: Option<PolicyName>,
}

impl Asked {
    /// On whose behalf the last of it was.
    #[must_use]
    pub fn by(&self) -> Option<KilledBy> {
        self.kill.or(self.stop.map(|(by, _)| by))
    }
}

/// All that a cause is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// How it ended.
    pub end: End<'a>,
    /// The counters before what ended it.
    pub before: Counters,
    /// The counters after.
    pub after: Counters,
    /// Whether SIGKILL was pending for the main process when a kill was read, and we had sent none.
    pub doomed: bool,
    /// Whether `oom` was counted here before `before` already, and the kill that it asked for only afterwards.
    pub own_oom: bool,
    /// What the ancestors' counters say; `None` where nobody looked.
    pub above: Option<&'a AboveReading>,
    /// What we had asked.
    pub asked: Asked,
    /// Whether an OOM takes every process of the run (`memory.oom.group` 1).
    pub oom_takes_all: bool,
    /// Codes that are a clean exit.
    pub success_exit_codes: &'a [i32],
}

/// Why it ended, and how sure that is.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> (ExitCause, Confidence) {
    use Confidence::{Certain, Likely};
    let asked = facts.asked;
    let killed = |by| killed(by, asked);
    match facts.end {
        End::NeverRan(error) if error.is_spawn_fault() => match (asked.kill, oom(facts)) {
            (Some(by), _) => (killed(by), Certain),
            (None, Some(oom)) => (ExitCause::Oom { scope: oom.scope }, Likely),
            (None, None) => (start_failed(error), Certain),
        },
        End::NeverRan(error) => (start_failed(error), Certain),
        End::Unseen(why) => match (oom(facts), asked.kill, asked.stop) {
            (Some(Oom { scope, takes_all: true, .. }), ..) => (ExitCause::Oom { scope }, Likely),
            (_, Some(by), _) => (killed(by), Likely),
            // Of a run of an earlier keeper the status can be lost while we watch: whether it had a code of its own for the
            // stop that we had asked for nobody knows.
            (_, None, Some((by, _))) if why == UnknownWhy::SupervisorAway => (killed(by), Likely),
            _ => (ExitCause::Unknown { why }, Certain),
        },
        End::Reaped(ExitStatus::Exited { code }) => match asked.stop {
            Some((by, _)) if facts.success_exit_codes.contains(&code) => (killed(by), Certain),
            _ => (ExitCause::Exited { code }, Certain),
        },
        End::Reaped(ExitStatus::Signaled { signal: SIGKILL, .. }) => by_sigkill(facts),
        End::Reaped(ExitStatus::Signaled { signal, core }) => match asked.stop {
            Some((by, ours)) if ours == signal => (killed(by), Certain),
            _ => (ExitCause::Signaled { signal, core }, Certain),
        },
    }
}

fn by_sigkill(facts: &Facts<'_>) -> (ExitCause, Confidence) {
    use Confidence::{Certain, Likely};
    let ours = facts.asked.kill.or(match facts.asked.stop {
        Some((by, SIGKILL)) => Some(by),
        _ => None,
    });
    match (oom(facts), ours) {
        (Some(oom), None) => (ExitCause::Oom { scope: oom.scope }, oom.confidence),
        (Some(oom), Some(_)) if oom.takes_all || facts.doomed => (ExitCause::Oom { scope: oom.scope }, Likely),
        (Some(_), Some(by)) => (killed(by, facts.asked), Likely),
        (None, Some(by)) => (killed(by, facts.asked), Certain),
        // Without the memory controller an OOM of the host leaves no trace that we could read.
        (None, None) if facts.after.hierarchical().is_none() => (ExitCause::KilledExternal, Likely),
        (None, None) => (ExitCause::KilledExternal, Certain),
    }
}

/// A stop that a policy asked for stays its stop when the timeout has to finish it.
fn killed(by: KilledBy, asked: Asked) -> ExitCause {
    let policy = match by {
        KilledBy::Policy | KilledBy::StopTimeout => asked.policy.map(|p| p.as_str().to_owned()),
        KilledBy::Stop | KilledBy::Operator | KilledBy::Shutdown => None,
    };
    ExitCause::Killed { by, policy }
}

fn start_failed(error: &StartError) -> ExitCause {
    ExitCause::StartFailed { stage: error.stage, errno: error.errno }
}

struct Oom {
    scope: OomScope,
    takes_all: bool,
    /// That it killed the main process, and whose memory it was.
    confidence: Confidence,
}

/// Whether the OOM killer took anything of the run since the earlier reading.
fn oom(facts: &Facts<'_>) -> Option<Oom> {
    let grown = facts.after.since(facts.before);
    let local = grown.local.unwrap_or_default();
    let all = grown.memory.unwrap_or_default();
    let any = |count: fn(&MemoryEvents) -> u64| count(&local) > 0 || count(&all) > 0;
    if !any(|e| e.oom_kill) && !any(|e| e.oom_group_kill) {
        return None;
    }
    // The count of group kills came with Linux 5.17; before it only the setting tells.
    let takes_all = any(|e| e.oom_group_kill) || (facts.oom_takes_all && local.oom_kill > 0);
    // Counted below the run's cgroup only: a limit that the worker itself set there, and perhaps not on the main process.
    let (scope, known) = if local.oom > 0 || all.oom > 0 || facts.own_oom {
        (OomScope::Worker, local.oom > 0)
    } else {
        further_up(facts.above)
    };
    let confidence = if takes_all && known { Confidence::Certain } else { Confidence::Likely };
    Some(Oom { scope, takes_all, confidence })
}

/// Whose memory ran out where no limit of the run's own was reached, and whether that is known.
fn further_up(above: Option<&AboveReading>) -> (OomScope, bool) {
    let Some(above) = above else { return (OomScope::Host, false) };
    if above.reached().is_some() {
        return (OomScope::Ancestor, true);
    }
    // It counts every kill, a cgroup's too. Where it has not grown one of the readings is wrong.
    let stood_still = above.host.is_some_and(|host| host.after <= host.before);
    (OomScope::Host, above.complete && !stood_still)
}

#[cfg(test)]
#[path = "cause_tests.rs"]
mod tests;
