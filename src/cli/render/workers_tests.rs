use super::super::samples::{fleet, reader};
use super::*;

fn seen() -> Vec<Glimpse> {
    fleet().iter().map(Glimpse::from).collect()
}

#[test]
fn every_worker_is_a_line() {
    insta::assert_snapshot!(worker_table(&seen(), &reader()));
}

#[test]
fn without_a_all_that_should_run_or_does_is_of_interest() {
    let fleet = fleet();
    let names: Vec<_> =
        fleet.iter().filter(|worker| worker.is_of_interest()).map(|worker| worker.id.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2", "new", "crashing", "held", "failed", "hog", "stuck"]);
    assert!(fleet.iter().all(|worker| Glimpse::from(worker).is_of_interest() == worker.is_of_interest()));
}

#[test]
fn a_terminal_has_its_width_and_colours_in_the_state_alone() {
    let terminal = Reader { width: Some(100), colour: true, ..reader() };
    let table = worker_table(&seen(), &terminal);
    let plain = anstream::adapter::strip_str(&table).to_string();
    assert!(plain.lines().all(|line| line.chars().count() <= 100), "{plain}");
    insta::assert_snapshot!(table.escape_debug().to_string().replace("\\n", "\n"));
}

#[test]
fn nobody_is_a_header() {
    assert_eq!(worker_table(&[], &reader()).lines().count(), 1);
}

#[test]
fn a_glimpse_is_what_is_read_of_the_whole() {
    for worker in fleet() {
        let read: Glimpse = serde_json::from_value(serde_json::to_value(&worker).unwrap()).unwrap();
        assert_eq!(read, Glimpse::from(&worker));
    }
}
