//! `pinfold doctor`: takes a place as `run` would, has it probed, gives it back, and prints the judgement. What is
//! tried, and what it means, is `kernel::probe`.

use std::path::Path;

use comfy_table::{Cell, ContentArrangement, Table, presets};

use super::{
    args::Output,
    exit::{Exit, Failure},
    render::{inert, inert_json},
};
use crate::{
    api::wire::{Health, StoreHealth},
    kernel::{
        cgroup::Controller,
        cgroup::{Dir, DirError},
        place::{Claimant, Claimed, Leaf, PlaceError, Plan, Situation, claim, record, scope},
        probe::{Facts, report},
    },
    model::{Check, Soundness},
};

/// What it prints, and what it ends with: 0 where workers can be run, else 1. `running` is what the supervisor that answers
/// says of itself, where one does.
///
/// # Errors
/// Where the place that was taken cannot be given back.
pub fn doctor(
    cgroup_root: Option<&Path>,
    running: Option<&Health>,
    output: Output,
    width: Option<u16>,
) -> Result<(String, Exit), Failure> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let situation = Situation::of_this_process();
    let (facts, taken) = match &situation {
        Err(e) => (Facts::gather(None, Err(e)), None),
        Ok(situation) => {
            let claimed = take(situation, cgroup_root, own);
            let facts = Facts::gather(Some(situation), claimed.as_ref().map(|c| &c.tree));
            (facts, claimed.ok().map(|c| (situation, c)))
        }
    };
    if let Some((situation, claimed)) = taken {
        give_back(situation, claimed, own)
            .map_err(|e| Failure::failed("cannot remove the place that was taken for the probe", e))?;
    }
    let mut checks = report(&facts);
    checks.extend(running.map(|health| store(&health.store)));
    let text = match output {
        Output::Text => render(&checks, width),
        Output::Json => json(&checks),
    };
    Ok((text, if usable(&checks) { Exit::Ok } else { Exit::Failed }))
}

/// How the running supervisor's store does.
fn store(health: &StoreHealth) -> Check {
    let check =
        |verdict, fact, cost, fix| Check { name: "store".to_owned(), verdict, fact, cost, fix, required: false };
    let Some(why) = &health.why else {
        let fact = "the running supervisor remembers what happens".to_owned();
        return check(Soundness::Ok, fact, None, None);
    };
    let since = health.since.as_deref().unwrap_or("its start");
    let waiting = health.pending.unwrap_or(0);
    check(
        Soundness::Degraded,
        format!("the running supervisor cannot write its store since {since}: {why}"),
        Some(format!("what happens to {waiting} workers is kept in memory, and lost with the supervisor")),
        Some(
            "make room on the disk of the state directory, or make it writable; it is tried again by itself".to_owned(),
        ),
    )
}

fn take(situation: &Situation, cgroup_root: Option<&Path>, own: i32) -> Result<Claimed, PlaceError> {
    let mut plan = situation.plan(cgroup_root, None)?;
    if let Plan::Scope { stay, .. } = &mut plan {
        // Also where we are a service's process: there is no other to begin the scope with, and we end with it.
        *stay = false;
    }
    let unit = scope::unit_of_run();
    claim(situation, &plan, &Claimant { unit: &unit, own: (Leaf::Supervisor, own), anchor: None, may_join: false })
}

/// A scope ends with us. A directory that another pinfold lives in stays as it is.
fn give_back(situation: &Situation, claimed: Claimed, own: i32) -> Result<(), DirError> {
    if claimed.unit.is_some() || record::lock_root(&claimed.tree.root).is_err() {
        return Ok(());
    }
    let home = Dir::open(&situation.own_dir)?;
    claimed.tree.dissolve(&home, &[own], claimed.made)
}

/// The checks as a person reads them, `width` columns wide at most (`None`: as wide as they are).
#[must_use]
pub fn render(checks: &[Check], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for check in checks {
        let mut lines = vec![inert(&check.fact).into_owned()];
        lines.extend(check.cost.as_ref().map(|cost| format!("cost: {}", inert(cost))));
        lines.extend(check.fix.as_ref().map(|fix| format!("fix: {}", inert(fix))));
        table.add_row([Cell::new(check.verdict), Cell::new(&check.name), Cell::new(lines.join("\n"))]);
    }
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    format!("{}\n\n{}\n", lines.join("\n"), summary(checks))
}

/// The last line.
fn summary(checks: &[Check]) -> String {
    let fatal: Vec<&str> = checks.iter().filter(|c| c.is_fatal()).map(|c| c.name.as_str()).collect();
    if !fatal.is_empty() && fatal.iter().all(|name| Controller::ALL.iter().any(|c| c.name() == *name)) {
        let names = fatal.join(", ");
        return format!("Workers without limits run here; limits cannot be enforced before this is mended: {names}.");
    }
    if !fatal.is_empty() {
        return format!("Nothing can be run here before this is mended: {}.", fatal.join(", "));
    }
    match checks.iter().filter(|c| c.verdict != Soundness::Ok).count() {
        0 => "This host can do everything.".to_owned(),
        1 => "This host can run workers, with the one restriction above.".to_owned(),
        n => format!("This host can run workers, with the {n} restrictions above."),
    }
}

/// The checks as one JSON document.
fn json(checks: &[Check]) -> String {
    let document = serde_json::json!({ "usable": usable(checks), "checks": checks });
    inert_json(&format!("{document:#}\n")).into_owned()
}

/// Whether workers can be run and held to their limits.
fn usable(checks: &[Check]) -> bool {
    !checks.iter().any(Check::is_fatal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::probe::samples;

    #[test]
    fn a_store_that_cannot_be_written_is_a_restriction_with_its_reason() {
        let ok = StoreHealth { status: "ok".into(), why: None, since: None, pending: None, lost: None };
        assert_eq!(store(&ok).verdict, Soundness::Ok);
        let degraded = StoreHealth {
            status: "degraded".into(),
            why: Some("no space left on device".into()),
            since: Some("2027-01-15T08:00:00.000Z".into()),
            pending: Some(3),
            lost: Some(0),
        };
        let check = store(&degraded);
        assert!(check.verdict == Soundness::Degraded && !check.is_fatal());
        assert!(check.fact.contains("no space left on device"), "{check:?}");
    }

    #[test]
    fn a_host_without_fault() {
        insta::assert_snapshot!(render(&report(&samples::pure()), Some(100)));
    }

    #[test]
    fn a_hybrid_host() {
        insta::assert_snapshot!(render(&report(&samples::hybrid()), Some(100)));
    }

    #[test]
    fn an_ordinary_user() {
        insta::assert_snapshot!(render(&report(&samples::rootless()), Some(100)));
    }

    #[test]
    fn a_read_only_container() {
        insta::assert_snapshot!(render(&report(&samples::read_only()), None));
    }

    #[test]
    fn a_container_with_strangers_in_its_root() {
        insta::assert_snapshot!(render(&report(&samples::strangers()), Some(100)));
    }

    #[test]
    fn json_says_first_whether_the_host_is_usable() {
        let text = json(&report(&samples::read_only()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["usable"], false);
        let place = value["checks"].as_array().unwrap().iter().find(|c| c["name"] == "place").unwrap();
        assert_eq!((&place["verdict"], &place["required"]), (&"missing".into(), &true.into()));
        assert!(usable(&report(&samples::pure())));
    }
}
