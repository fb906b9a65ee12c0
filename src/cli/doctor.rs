//! `pinfold doctor`: the judgement of the host as text. What is judged, and how, is `kernel::probe`.

use comfy_table::{Cell, ContentArrangement, Table, presets};

use crate::model::{Check, Soundness};

/// The checks as a person reads them, `width` columns wide at most (`None`: as wide as they are).
#[must_use]
pub fn render(checks: &[Check], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for check in checks {
        let mut lines = vec![check.fact.clone()];
        lines.extend(check.cost.as_ref().map(|cost| format!("cost: {cost}")));
        lines.extend(check.fix.as_ref().map(|fix| format!("fix: {fix}")));
        table.add_row([Cell::new(check.verdict), Cell::new(&check.name), Cell::new(lines.join("\n"))]);
    }
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    format!("{}\n\n{}\n", lines.join("\n"), summary(checks))
}

/// The last line.
fn summary(checks: &[Check]) -> String {
    let fatal: Vec<&str> = checks.iter().filter(|c| c.is_fatal()).map(|c| c.name.as_str()).collect();
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
///
/// # Errors
/// Never in practice: the shape is plain data.
pub fn json(checks: &[Check]) -> Result<String, serde_json::Error> {
    let document = serde_json::json!({ "usable": usable(checks), "checks": checks });
    serde_json::to_string_pretty(&document)
}

/// Whether anything can be run: exit 0, else 1.
#[must_use]
pub fn usable(checks: &[Check]) -> bool {
    !checks.iter().any(Check::is_fatal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::probe::{report, samples};

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
        let text = json(&report(&samples::read_only())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["usable"], false);
        let place = value["checks"].as_array().unwrap().iter().find(|c| c["name"] == "place").unwrap();
        assert_eq!((&place["verdict"], &place["required"]), (&"missing".into(), &true.into()));
        assert!(usable(&report(&samples::hybrid())));
    }
}
