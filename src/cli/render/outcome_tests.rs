use super::super::samples::{HOSTILE, worker};
use super::*;
use crate::model::{Detail, Readiness, State, StoppedDetail, StoppingDetail, WorkerId};

fn settled(worker: &str, outcome: Word, state: State, detail: Detail) -> Settled {
    let pid = matches!(state, State::Running | State::Stopping).then_some(4711);
    let worker = WorkerId::new(worker).unwrap();
    Settled { worker, outcome, code: None, error: None, state, detail, pid, run: 3 }
}

fn failed(worker: &str, code: Code, error: &str) -> Settled {
    let state = settled(worker, Word::Failed, State::Stopped, Detail::Stopped(StoppedDetail::Failed));
    Settled { code: Some(code), error: Some(error.into()), ..state }
}

fn results() -> Vec<Settled> {
    vec![
        settled("up", Word::Done, State::Running, Detail::Running(Readiness::Ready)),
        settled("down", Word::Done, State::Stopped, Detail::Stopped(StoppedDetail::Stopped)),
        settled("going", Word::Accepted, State::Stopping, Detail::Stopping(StoppingDetail::Term)),
        failed("held", Code::BreakerOpen, "its restart breaker is open: exit restarts are used up"),
        failed("broken", Code::StartFailed, "it could not be started: exec /none: No such file or directory"),
        failed("hostile", Code::Failed, HOSTILE),
    ]
}

#[test]
fn what_is_done_is_a_line_of_stdout() {
    let all: Vec<String> =
        [Asked::State, Asked::Signal("SIGHUP".into()), Asked::Reset].map(|asked| outcomes(&results(), &asked)).into();
    insta::assert_snapshot!(all.join("--\n"), @r"
    up: running, pid 4711
    down: stopped
    going: accepted; now stopping (term), pid 4711
    --
    up: SIGHUP sent
    down: SIGHUP sent
    going: accepted; now stopping (term), pid 4711
    --
    up: reset; now running, pid 4711
    down: reset; now stopped
    going: accepted; now stopping (term), pid 4711
    ");
}

#[test]
fn what_failed_is_a_line_of_stderr_that_says_what_to_do() {
    insta::assert_snapshot!(failures(&results()), @r"
    pinfold: held: its restart breaker is open: exit restarts are used up; `pinfold start held` or `pinfold reset held` closes it, --force tries all the same
    pinfold: broken: it could not be started: exec /none: No such file or directory; see `pinfold why broken`
    pinfold: hostile: x\u{1b}[2J\nroot# \u{202e}\u{9b}
    ");
}

#[test]
fn after_up_d_each_worker_has_a_line_and_who_could_not_be_started_has_it_on_stderr() {
    let ready = worker("web", State::Running, Detail::Running(Readiness::Ready));
    let never = worker("off", State::Stopped, Detail::Stopped(StoppedDetail::Never));
    let mut broken = worker("broken", State::Stopped, Detail::Stopped(StoppedDetail::Waiting));
    broken.cause = Some(ExitCause::StartFailed { stage: crate::model::Stage::Exec, errno: 2 });
    let again = Worker { pid: Some(4712), state: State::Running, detail: ready.detail, ..broken.clone() };
    let workers = [Worker { pid: Some(4711), ..ready }, never, broken, again];
    insta::assert_snapshot!(started(&workers), @r"
    web: running, pid 4711
    off: stopped (never)
    broken: running, pid 4712
    ");
    insta::assert_snapshot!(not_started(&workers), @"pinfold: broken: start failed: exec: No such file or directory; see `pinfold why broken`");
}
