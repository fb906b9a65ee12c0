use super::super::samples::{fleet, reader};
use super::*;

#[test]
fn every_worker_is_a_line() {
    insta::assert_snapshot!(worker_table(&fleet(), &reader()));
}

#[test]
fn without_a_all_that_should_run_or_does_is_of_interest() {
    let fleet = fleet();
    let names: Vec<_> = fleet.iter().filter(|w| is_of_interest(w)).map(|w| w.id.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2", "new", "crashing", "held", "failed", "hog", "stuck"]);
}

#[test]
fn a_terminal_has_its_width_and_colours_in_the_state_alone() {
    let terminal = Reader { width: Some(100), colour: true, ..reader() };
    let table = worker_table(&fleet(), &terminal);
    let plain = anstream::adapter::strip_str(&table).to_string();
    assert!(plain.lines().all(|line| line.chars().count() <= 100), "{plain}");
    insta::assert_snapshot!(table.escape_debug().to_string().replace("\\n", "\n"));
}

#[test]
fn nobody_is_a_header() {
    assert_eq!(worker_table(&[], &reader()).lines().count(), 1);
}
