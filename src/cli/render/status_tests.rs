use super::super::samples::{by_person, by_policy, degraded, fleet, reader, running, unkillable, waiting};
use super::*;

#[test]
fn a_worker_is_told_in_words() {
    let workers = [
        degraded("web-2"),
        waiting("crashing"),
        by_person("resting"),
        by_policy("hog"),
        unkillable("stuck"),
        running("still", Readiness::Frozen),
    ];
    let text: Vec<String> = workers.iter().map(|worker| worker_status(worker, &reader())).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn nothing_in_it_acts_on_a_terminal() {
    for worker in fleet() {
        let text = worker_status(&worker, &reader());
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains("\nroot# "), "a forged line: {text}");
    }
}
