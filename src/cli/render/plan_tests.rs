use super::*;
use crate::model::{RunId, SliceName, WorkerId};
use crate::spec::types::{Change, Takes};

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn change(key: &str, values: Option<(Option<&str>, Option<&str>)>) -> Change {
    let (from, to) = values.unwrap_or_default();
    Change { key: key.to_owned(), takes: Takes::Rules, from: from.map(str::to_owned), to: to.map(str::to_owned) }
}

/// Every step there is.
fn steps() -> Vec<Step> {
    let limits = || {
        vec![
            change("limits.memory.max_rss", Some((Some("256 MiB"), Some("512 MiB")))),
            change("limits.pids.max", Some((None, Some("64")))),
        ]
    };
    let slice = SliceName::new("shared").unwrap();
    vec![
        Step::RemoveEmpty { run: RunId::new(id("web"), 3) },
        Step::Adopt { worker: id("web"), run: 4 },
        Step::StopLeftover { run: RunId::new(id("old"), 1) },
        Step::SetEnv { variables: vec!["LANG".into(), "TZ\u{1b}".into()] },
        Step::SetReconciler { interval_ms: Some(5000) },
        Step::SetReconciler { interval_ms: None },
        Step::RemoveSink { sink: "jsonl /var/log/old.jsonl".into() },
        Step::ChangeSink { sink: "jsonl /var/log/events.jsonl".into(), keys: vec!["max_size".into(), "keep".into()] },
        Step::AddSink { sink: "opensearch https://search.example:9200/pinfold".into() },
        Step::MakeSlice { slice: slice.clone() },
        Step::Remove { worker: id("gone") },
        Step::Stop { worker: id("off") },
        Step::ChangeSlice { slice: slice.clone(), changes: vec![change("pids.max", Some((Some("9"), None)))] },
        Step::Update { worker: id("api"), changes: vec![change("restart", None), change("stop", None)] },
        Step::ChangeLimits { worker: id("db"), changes: limits() },
        Step::Restart { worker: id("web"), changes: vec![change("command", None), change("env.PORT", None)] },
        Step::Restart { worker: id("cache"), changes: Vec::new() },
        Step::Start { worker: id("failed"), changes: limits() },
        Step::Add { worker: id("new"), start: true },
        Step::Add { worker: id("later"), start: false },
        Step::RemoveSlice { slice },
        Step::LeaveAlone { what: "job".into(), why: "no configuration declares it: a program made it".into() },
    ]
}

#[test]
fn every_step_is_a_line_that_says_what_and_why() {
    let (untouched, registered) = (vec![id("a"), id("b")], Vec::new());
    insta::assert_snapshot!(plan(&Plan { steps: steps(), untouched, registered }));
}

#[test]
fn nothing_to_do_is_said() {
    let nothing = |registered| plan(&Plan { steps: Vec::new(), untouched: vec![id("a")], registered });
    assert_eq!(nothing(Vec::new()), "nothing to do; 1 worker is untouched\n");
    assert_eq!(nothing(vec![id("a")]), "nothing to do; 1 worker is untouched; 1 registered over the API\n");
}

#[test]
fn what_has_failed_is_told_beside_what_was_done() {
    let restart = Step::Restart { worker: id("web"), changes: vec![change("command", None)] };
    let limits = Step::ChangeLimits { worker: id("db"), changes: vec![change("limits.pids.max", None)] };
    let carried = Reloaded {
        steps: vec![
            Carried { step: restart, outcome: Word::Done, error: None },
            Carried { step: limits, outcome: Word::Failed, error: Some("worker db: not\n\u{1b}so".into()) },
            Carried { step: Step::Stop { worker: id("job") }, outcome: Word::Accepted, error: None },
        ],
        untouched: Vec::new(),
    };
    insta::assert_snapshot!(reloaded(&carried) + &not_carried(&carried));
}
