//! Holds the alert rules to what is exposed: a rule over a metric or a label that does not exist is silent for ever.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

use std::collections::{BTreeMap, BTreeSet};

use pinfold::metrics::{Kind, families};
use serde::Deserialize;

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// What Prometheus adds to every series of a target.
const TARGET: [&str; 2] = ["job", "instance"];

fn rules() -> Vec<Rule> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/package/alerts.yml");
    let rules: Rules = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Every metric with its labels.
fn exposed() -> BTreeMap<String, BTreeSet<&'static str>> {
    families().into_iter().map(|family| (family.full_name(), family.labels.iter().copied().collect())).collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics of an expression, each with its label matchers. A word that is followed by neither is a function's or a label's.
fn metrics(expr: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        let ours = ["pinfold_", "process_"].iter().any(|prefix| word.starts_with(prefix));
        if !ours && word != "up" {
            continue;
        }
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        rest = &rest[if matchers.is_empty() { 0 } else { matchers.len() + 2 }..];
        let pair = |pair: &str| {
            let (label, value) = pair.split_once('=').unwrap();
            (label.trim().to_owned(), value.trim().trim_matches('"').to_owned())
        };
        found.push((word.to_owned(), matchers.split(',').filter(|m| !m.is_empty()).map(pair).collect()));
    }
    found
}

#[test]
fn every_metric_and_every_label_of_a_rule_is_exposed() {
    let exposed = exposed();
    let rules = rules();
    assert!(rules.len() > 10, "the rules were not found");
    for Rule { alert, expr, annotations, .. } in &rules {
        let metrics = metrics(expr);
        assert!(!metrics.is_empty(), "{alert}: {expr}");
        let mut known: BTreeSet<&str> = TARGET.into();
        for (name, matchers) in &metrics {
            if name != "up" {
                known.extend(exposed.get(name).unwrap_or_else(|| panic!("{alert}: there is no metric {name}")));
            }
            for (label, _) in matchers {
                let has = TARGET.contains(&label.as_str()) || exposed[name].contains(label.as_str());
                assert!(has, "{alert}: {name} has no label {label}");
            }
        }
        for by in expr.split(" by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',') {
                assert!(known.contains(label.trim()), "{alert}: by {label}");
            }
        }
        for text in annotations.values() {
            for used in text.split("$labels.").skip(1) {
                let label: String = used.chars().take_while(|c| is_word(*c)).collect();
                assert!(known.contains(label.as_str()), "{alert}: no label {label} is left for {text:?}");
            }
        }
    }
}

#[test]
fn the_values_that_rules_match_are_words_that_are_told() {
    let causes = pinfold::metrics::tally::CAUSES;
    for Rule { alert, expr, .. } in rules() {
        for (name, matchers) in metrics(&expr) {
            for (label, value) in matchers {
                let known = match label.as_str() {
                    "job" => value == "pinfold",
                    "cause" => causes.contains(&value.as_str()),
                    "state" => ["closed", "open", "half_open"].contains(&value.as_str()),
                    other => panic!("{alert}: say here which values {other} of {name} can have"),
                };
                assert!(known, "{alert}: {label}={value}");
            }
        }
    }
}

#[test]
fn a_rate_is_of_a_counter_and_a_level_of_a_gauge() {
    let kinds: BTreeMap<String, Kind> =
        families().into_iter().map(|family| (family.full_name(), family.kind)).collect();
    for Rule { alert, expr, .. } in rules() {
        for (name, _) in metrics(&expr).into_iter().filter(|(name, _)| name != "up") {
            let at = expr.find(&name).unwrap();
            let of_time = expr[..at].ends_with("increase(") || expr[..at].ends_with("rate(");
            let moving = of_time || expr[..at].ends_with("changes(");
            assert!(moving || kinds[&name] == Kind::Gauge, "{alert}: {name} only grows");
            assert!(!of_time || kinds[&name] == Kind::Counter, "{alert}: {name} goes up and down");
        }
    }
}

#[test]
fn every_rule_says_how_bad_it_is_and_what_to_do() {
    let mut names = BTreeSet::new();
    for Rule { alert, labels, annotations, .. } in rules() {
        assert!(names.insert(alert.clone()), "{alert} is there twice");
        assert!(["info", "warning", "critical"].contains(&labels["severity"].as_str()), "{alert}");
        assert!(annotations["summary"].contains("$labels.instance"), "{alert}: where?");
        assert!(annotations.contains_key("description"), "{alert}");
    }
}

#[test]
fn the_reader_of_expressions_sees_names_and_matchers() {
    let found = metrics("sum by (job) (rate(pinfold_a_total{x=\"1\", y=\"b\"}[5m])) / up > 5 and process_b == 0");
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(found[0], ("pinfold_a_total".to_owned(), vec![pair("x", "1"), pair("y", "b")]));
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["pinfold_a_total", "up", "process_b"]);
}
