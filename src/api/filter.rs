//! Which events somebody wants: `filter=KEY=VALUE`, pure. The same key several times means any of its values, several
//! keys mean all of them.

use std::collections::HashMap;

use super::wire::{Code, Problem};
use crate::model::{Event, EventKind, WorkerId};

/// The keys there are.
const KEYS: &[&str] = &["worker", "kind", "run", "cause", "severity", "state", "limit"];

/// What is wanted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    wanted: Vec<(&'static str, Vec<String>)>,
    workers: Option<String>,
    /// What was found out about a worker, once for each.
    known: HashMap<WorkerId, bool>,
}

impl Filter {
    /// Adds `KEY=VALUE`.
    ///
    /// # Errors
    /// What is not understood, with what would be.
    pub(super) fn add(&mut self, text: &str) -> Result<(), Problem> {
        let bad = |detail: String| Err(Problem::new(Code::BadRequest, detail));
        let Some((key, value)) = text.split_once('=') else {
            return bad(format!("filter: {text:?} has no =; write KEY=VALUE, like kind=exited"));
        };
        let Some(key) = KEYS.iter().find(|known| **known == key) else {
            return bad(format!("filter: there is no key {key:?}; known are {}", KEYS.join(", ")));
        };
        let fits = match *key {
            "kind" => EventKind::WORDS.contains(&value),
            "run" => value.parse::<u32>().is_ok(),
            _ => !value.is_empty(),
        };
        if !fits {
            let like = match *key {
                "kind" => EventKind::WORDS.join(", "),
                "run" => "a number".to_owned(),
                _ => "a word".to_owned(),
            };
            return bad(format!("filter: {value:?} is no {key}; write {like}"));
        }
        if *key == "worker" {
            // A pattern of several has commas.
            let pattern = self.workers.get_or_insert_default();
            if !pattern.is_empty() {
                pattern.push(',');
            }
            pattern.push_str(value);
            return Ok(());
        }
        match self.wanted.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) => values.push(value.to_owned()),
            None => self.wanted.push((key, vec![value.to_owned()])),
        }
        Ok(())
    }

    /// The pattern of the workers that are wanted; `None`: everybody's events, and the supervisor's own.
    pub(super) fn workers(&self) -> Option<&str> {
        self.workers.as_deref()
    }

    /// Whether `event` is wanted. `means` says whether the pattern means a worker, which is asked once for each.
    pub(super) fn wants(&mut self, event: &Event, means: impl FnOnce(&WorkerId) -> bool) -> bool {
        if self.workers.is_some() {
            let Some(worker) = &event.worker else { return false };
            let known = self.known.get(worker).copied();
            let meant = known.unwrap_or_else(|| {
                let meant = means(worker);
                self.known.insert(worker.clone(), meant);
                meant
            });
            if !meant {
                return false;
            }
        }
        self.wanted.iter().all(|(key, values)| {
            let found = word_of(event, key);
            found.is_some_and(|found| values.contains(&found))
        })
    }
}

/// What an event has under `key`.
fn word_of(event: &Event, key: &str) -> Option<String> {
    match (key, &event.kind) {
        ("kind", kind) => Some(kind.word().to_owned()),
        ("run", _) => event.run.map(|run| run.to_string()),
        ("cause", EventKind::Exited { cause, .. }) => Some(cause.word().to_owned()),
        ("severity", EventKind::Violation { severity, .. }) => Some(severity.clone()),
        ("state", EventKind::State { state, .. }) => Some(state.as_str().to_owned()),
        ("limit", EventKind::Violation { limit, .. } | EventKind::Recovered { limit, .. }) => Some(limit.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::every_kind;

    fn filter(texts: &[&str]) -> Filter {
        let mut filter = Filter::default();
        for text in texts {
            filter.add(text).unwrap();
        }
        filter
    }

    /// The kinds of those of all events that `texts` want.
    fn kinds(texts: &[&str]) -> Vec<&'static str> {
        let mut filter = filter(texts);
        let wanted = |event: &Event| filter.wants(event, |id| id.as_str() == "leaky");
        let mut kinds: Vec<_> = every_kind().into_iter().filter(wanted).map(|event| event.kind.word()).collect();
        kinds.dedup();
        kinds
    }

    #[test]
    fn one_key_is_any_of_its_values_and_several_keys_are_all() {
        assert_eq!(kinds(&["kind=started", "kind=usage"]), ["started", "usage"]);
        assert_eq!(kinds(&["kind=started", "severity=critical"]), [""; 0]);
        assert_eq!(kinds(&["severity=critical"]), ["violation"]);
        assert_eq!(kinds(&["cause=oom"]), ["exited"]);
        assert_eq!(kinds(&["state=running"]), ["state"]);
        assert_eq!(kinds(&["limit=cpu.max"]), ["recovered"]);
        assert_eq!(kinds(&["run=4"]), [""; 0]);
        assert_eq!(kinds(&[]).first(), Some(&"supervisor"));
    }

    #[test]
    fn a_worker_that_is_meant_is_asked_about_once_and_the_supervisor_is_none() {
        assert_eq!(kinds(&["worker=leaky", "kind=supervisor"]), [""; 0]);
        assert_eq!(kinds(&["worker=leaky", "kind=started"]), ["started"]);
        let mut filter = filter(&["worker=a", "worker=b*"]);
        assert_eq!(filter.workers(), Some("a,b*"));
        let event = &every_kind()[2];
        assert!(filter.wants(event, |_| true));
        assert!(filter.wants(event, |_| panic!("asked again")));
    }

    #[test]
    fn what_no_event_can_have_is_refused_with_what_it_can() {
        let refused = |text: &str| Filter::default().add(text).unwrap_err().detail;
        assert!(refused("oom").contains("has no =; write KEY=VALUE"));
        assert!(refused("colour=red").contains("known are worker, kind, run"));
        assert!(refused("kind=exit").contains("exited"));
        assert!(refused("run=x").contains("write a number"));
        assert!(refused("worker=").contains("\"\" is no worker"));
    }

    #[test]
    fn every_kind_has_the_word_that_its_json_has() {
        let mut words = std::collections::BTreeSet::new();
        for event in every_kind() {
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["kind"], event.kind.word());
            words.insert(event.kind.word());
            if let EventKind::Exited { cause, .. } = &event.kind {
                assert_eq!(json["cause"]["kind"], cause.word());
            }
        }
        assert_eq!(words, EventKind::WORDS.iter().copied().collect(), "every kind has a sample, and its word is known");
    }
}
