use super::super::samples::HOSTILE;
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
    pinfold: hostile: x\u{1b}[2J\nroot#
    ");
}
