//! `exec`: a program, run as the worker's user with its environment and directory, in a small cgroup of its own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{Outcome, words};
use crate::kernel::auxiliary::{self, Auxiliary, MAX_MEMORY, Seat};
use crate::kernel::launch::plan::LaunchPlan;
use crate::model::{ExitCause, ExitStatus, ProbeKind, RunId, Stage, StartError, WorkerId};
use crate::spec::types::Spec;

/// How long users, groups and env files may take to be read: they can come over a network.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Runs the programs that probe one worker.
#[derive(Debug)]
pub(super) struct Exec {
    auxiliary: Auxiliary,
    worker: WorkerId,
    spec: Arc<Spec>,
    seat: Seat,
    /// One look-up at a time: where they hang, each holds a thread.
    looking_up: Arc<Semaphore>,
    plans: Mutex<Plans>,
}

/// What was looked up for one run: once, so that its probes see what it saw at its start.
#[derive(Debug, Default)]
struct Plans {
    run: u32,
    known: Vec<(ProbeKind, Arc<LaunchPlan>)>,
}

impl Exec {
    pub(super) fn new(auxiliary: Auxiliary, worker: WorkerId, spec: Arc<Spec>) -> Self {
        Self {
            auxiliary,
            worker,
            spec,
            seat: Seat::default(),
            looking_up: Arc::new(Semaphore::new(1)),
            plans: Mutex::default(),
        }
    }

    pub(super) async fn run(&self, run: u32, kind: ProbeKind, argv: &[String], timeout: Duration) -> Outcome {
        match self.plan(run, kind, argv).await {
            Ok(plan) => judge(self.auxiliary.run(&self.seat, &plan, timeout).await, timeout),
            Err(error) => Outcome::untried(&error.to_string()),
        }
    }

    async fn plan(&self, run: u32, kind: ProbeKind, argv: &[String]) -> Result<Arc<LaunchPlan>, StartError> {
        if let Some(plan) = self.known(run, kind) {
            return Ok(plan);
        }
        let looked_up = async {
            let turn = Arc::clone(&self.looking_up).acquire_owned().await;
            let (auxiliary, spec, argv) = (self.auxiliary.clone(), Arc::clone(&self.spec), argv.to_vec());
            let run = RunId::new(self.worker.clone(), run);
            let task = spawn_blocking(move || {
                let plan = auxiliary.resolve(&run, &spec, &argv);
                drop(turn);
                plan
            });
            task.await.unwrap_or_else(|e| Err(StartError::refused(Stage::User, e.to_string())))
        };
        let Ok(plan) = tokio::time::timeout(LOOK_UP, looked_up).await else {
            let sentence = format!("looking up user, group and env files took more than {}", words(LOOK_UP));
            return Err(StartError::refused(Stage::User, sentence));
        };
        let plan = Arc::new(plan?);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.run != run {
            *plans = Plans { run, known: Vec::new() };
        }
        plans.known.push((kind, Arc::clone(&plan)));
        Ok(plan)
    }

    fn known(&self, run: u32, kind: ProbeKind) -> Option<Arc<LaunchPlan>> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this_run = plans.known.iter().filter(|_| plans.run == run);
        of_this_run.filter(|(of, _)| *of == kind).map(|(_, plan)| Arc::clone(plan)).next()
    }
}

fn judge(outcome: auxiliary::Outcome, timeout: Duration) -> Outcome {
    use auxiliary::Outcome as Ran;
    let said = |output: &[u8]| match String::from_utf8_lossy(output).trim() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    match outcome {
        Ran::Ended { status, oom, output } => {
            let cause = match status {
                ExitStatus::Exited { code } => ExitCause::Exited { code },
                ExitStatus::Signaled { signal, core } => ExitCause::Signaled { signal, core },
            };
            let memory = if oom { format!("out of memory ({} MiB), ", MAX_MEMORY >> 20) } else { String::new() };
            let observed = format!("{memory}{cause}{}", said(&output));
            if status == (ExitStatus::Exited { code: 0 }) {
                Outcome::passed(&observed)
            } else {
                Outcome::failed(&observed)
            }
        }
        Ran::TimedOut { output } => Outcome::failed(&format!("no end within {}{}", words(timeout), said(&output))),
        Ran::Occupied => Outcome::failed("the one before was killed and is still there, in uninterruptible sleep"),
        // A program that is not there is a failure, as in a shell; what else keeps it from running is not the worker's.
        Ran::NotStarted(error) if error.stage == Stage::Exec && !exhausted(error.errno) => {
            Outcome::failed(&error.to_string())
        }
        Ran::NotStarted(error) => Outcome::untried(&error.to_string()),
    }
}

fn exhausted(errno: i32) -> bool {
    [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE].contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::probe::Finding;

    fn judged(outcome: auxiliary::Outcome) -> (Finding, String) {
        let Outcome { finding, observed } = judge(outcome, Duration::from_millis(1500));
        (finding, observed)
    }

    #[test]
    fn code_0_alone_is_success() {
        let ended = |status, oom, output: &str| {
            judged(auxiliary::Outcome::Ended { status, oom, output: output.as_bytes().to_vec() })
        };
        let code = |code| ExitStatus::Exited { code };
        assert_eq!(ended(code(0), false, ""), (Finding::Passed, "exited 0".into()));
        assert_eq!(ended(code(0), false, "fine\n"), (Finding::Passed, "exited 0: fine".into()));
        assert_eq!(ended(code(3), false, "no\x1b\ndb"), (Finding::Failed, "exited 3: no\u{fffd} db".into()));
        let killed = ExitStatus::Signaled { signal: libc::SIGKILL, core: false };
        assert_eq!(ended(killed, false, ""), (Finding::Failed, "SIGKILL".into()));
        assert_eq!(ended(killed, true, ""), (Finding::Failed, "out of memory (256 MiB), SIGKILL".into()));
    }

    #[test]
    fn what_never_ran_counts_only_where_the_program_is_to_blame() {
        let late = auxiliary::Outcome::TimedOut { output: b"begun".to_vec() };
        assert_eq!(judged(late), (Finding::Failed, "no end within 1s500ms: begun".into()));
        assert_eq!(judged(auxiliary::Outcome::Occupied).0, Finding::Failed);
        let not = |error| judged(auxiliary::Outcome::NotStarted(error)).0;
        assert_eq!(not(StartError::os(Stage::Exec, "/bin/no", libc::ENOENT)), Finding::Failed);
        assert_eq!(not(StartError::os(Stage::Exec, "/bin/no", libc::ENOMEM)), Finding::Untried);
        assert_eq!(not(StartError::os(Stage::Clone, "web.1.1", libc::EAGAIN)), Finding::Untried);
        assert_eq!(not(StartError::os(Stage::Stdio, "output pipe", libc::EMFILE)), Finding::Untried);
        assert_eq!(not(StartError::refused(Stage::Timeout, "not executed")), Finding::Untried);
    }
}
