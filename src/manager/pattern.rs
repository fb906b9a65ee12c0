//! What `web`, `web-*` and `web-?,db` mean: names, and what chooses among them. Pure.

use std::collections::HashMap;

use wildmatch::WildMatch;

use crate::model::WorkerId;

/// More parts with wildcards than this are refused: each is held against every name.
pub const MAX_WILD: usize = 32;

/// The names of all workers in the order of their declaration, and what they were declared under.
#[derive(Debug, Default)]
pub struct Roster {
    names: Vec<WorkerId>,
    by_name: HashMap<WorkerId, usize>,
    by_parent: HashMap<WorkerId, Vec<usize>>,
}

/// Why a pattern chooses nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// A part of it is nobody's name, and no name is like it.
    #[error("there is no worker {part:?}")]
    NotFound {
        /// The part.
        part: String,
    },
    /// It would take too long.
    #[error("a pattern has at most {MAX_WILD} parts with * or ?, this one has {count}")]
    TooMany {
        /// How many it has.
        count: usize,
    },
}

/// Whether `pattern` means the worker `name` that was declared under `declared_as`, by the rules of [`Roster::choose`].
#[must_use]
pub fn means(pattern: &str, name: &WorkerId, declared_as: &WorkerId) -> bool {
    pattern.is_empty()
        || pattern.split(',').map(str::trim).any(|part| {
            let wild = part.contains(['*', '?']) && WildMatch::new(part).matches(name.as_str());
            wild || part == name.as_str() || part == declared_as.as_str()
        })
}

impl Roster {
    /// Names with what each was declared under, in the order of their declaration. Names are unique.
    pub fn new(names: impl IntoIterator<Item = (WorkerId, WorkerId)>) -> Self {
        let mut roster = Self::default();
        for (index, (name, declared_as)) in names.into_iter().enumerate() {
            roster.by_name.insert(name.clone(), index);
            roster.by_parent.entry(declared_as).or_default().push(index);
            roster.names.push(name);
        }
        roster
    }

    /// Where `name` stands, as it is written. At once, however many there are.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&WorkerId::new(name).ok()?).copied()
    }

    /// The workers that were declared under `name`, in their order: its instances, or itself where it is the only one.
    #[must_use]
    pub fn instances(&self, name: &str) -> &[usize] {
        WorkerId::new(name).ok().and_then(|id| self.by_parent.get(&id)).map_or(&[], Vec::as_slice)
    }

    /// The workers that `pattern` means, in the order of their declaration, each once.
    ///
    /// The empty pattern and `*` mean all, also where there is none. `*` stands for any text and `?` for one character,
    /// anywhere. A name without either means the worker of this name and the instances declared under it: by parentage,
    /// not by spelling, so that `web` never means a worker that somebody has called `web-x`. Several parts are separated
    /// by commas.
    ///
    /// # Errors
    /// [`NoMatch`]. Every part must match: one that does not is a mistake, and nothing is done by half.
    pub fn choose(&self, pattern: &str) -> Result<Vec<usize>, NoMatch> {
        let is_wild = |part: &&str| part.contains(['*', '?']);
        let count = pattern.split(',').filter(is_wild).count();
        if count > MAX_WILD {
            return Err(NoMatch::TooMany { count });
        }
        let mut chosen = vec![false; self.names.len()];
        for part in pattern.split(',').map(str::trim) {
            if part.bytes().all(|b| b == b'*') && (pattern.is_empty() || !part.is_empty()) {
                chosen.fill(true);
                continue;
            }
            let found = if is_wild(&part) { self.like(part) } else { self.called(part) };
            if found.is_empty() {
                return Err(NoMatch::NotFound { part: part.to_owned() });
            }
            for index in found {
                chosen[index] = true;
            }
        }
        Ok((0..chosen.len()).filter(|index| chosen[*index]).collect())
    }

    fn called(&self, name: &str) -> Vec<usize> {
        let own = self.find(name);
        self.instances(name).iter().copied().chain(own).collect()
    }

    fn like(&self, part: &str) -> Vec<usize> {
        // What has to match more characters than a name can have matches none, and is not tried.
        if part.chars().filter(|c| *c != '*').count() > WorkerId::MAX_LEN {
            return Vec::new();
        }
        let wild = WildMatch::new(part);
        let names = self.names.iter().enumerate();
        names.filter(|(_, name)| wild.matches(name.as_str())).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn roster(names: &[(&str, &str)]) -> Roster {
        Roster::new(names.iter().map(|(name, parent)| (id(name), id(parent))))
    }

    fn shop() -> Roster {
        roster(&[
            ("web-1", "web"),
            ("web-2", "web"),
            ("web-x", "web-x"),
            ("db", "db"),
            ("webs", "webs"),
            ("api-1", "api"),
        ])
    }

    fn chosen(pattern: &str) -> Vec<&'static str> {
        let names = ["web-1", "web-2", "web-x", "db", "webs", "api-1"];
        shop().choose(pattern).map(|found| found.into_iter().map(|i| names[i]).collect()).unwrap_or_default()
    }

    #[test]
    fn what_a_pattern_means() {
        let all = vec!["web-1", "web-2", "web-x", "db", "webs", "api-1"];
        for pattern in ["", "*", "**", "web*,db,api", "?*"] {
            assert_eq!(chosen(pattern), all, "{pattern:?}");
        }
        for (pattern, expected) in [
            ("web", vec!["web-1", "web-2"]),
            ("web-1", vec!["web-1"]),
            ("web-x", vec!["web-x"]),
            ("web-*", vec!["web-1", "web-2", "web-x"]),
            ("web-?", vec!["web-1", "web-2", "web-x"]),
            ("*1", vec!["web-1", "api-1"]),
            ("*b*", vec!["web-1", "web-2", "web-x", "db", "webs"]),
            ("w?bs", vec!["webs"]),
            ("??", vec!["db"]),
            ("db,web", vec!["web-1", "web-2", "db"]),
            ("web-1,web,web-1", vec!["web-1", "web-2"]),
            (" db , api ", vec!["db", "api-1"]),
        ] {
            assert_eq!(chosen(pattern), expected, "{pattern:?}");
            let parents = ["web", "web", "web-x", "db", "webs", "api"];
            let meant = all.iter().zip(parents).filter(|(name, parent)| means(pattern, &id(name), &id(parent)));
            assert_eq!(meant.map(|(name, _)| *name).collect::<Vec<_>>(), expected, "{pattern:?}, one by one");
        }
    }

    #[test]
    fn what_matches_nothing_is_told_and_chooses_nothing_at_all() {
        for (pattern, part) in [
            ("none", "none"),
            ("web-3", "web-3"),
            ("WEB", "WEB"),
            ("x*", "x*"),
            ("db,none", "none"),
            ("db,", ""),
            (",", ""),
            ("we", "we"),
            ("web-1/../db", "web-1/../db"),
            ("\u{1b}[2J", "\u{1b}[2J"),
        ] {
            assert_eq!(shop().choose(pattern), Err(NoMatch::NotFound { part: part.into() }), "{pattern:?}");
        }
        let long = "?".repeat(65);
        assert_eq!(shop().choose(&long), Err(NoMatch::NotFound { part: long }));
    }

    #[test]
    fn no_workers_are_all_workers_where_there_are_none() {
        assert_eq!(Roster::default().choose("*"), Ok(vec![]));
        assert_eq!(Roster::default().choose(""), Ok(vec![]));
        assert!(Roster::default().choose("a").is_err());
    }

    #[test]
    fn a_pattern_that_would_take_long_is_refused() {
        let many = vec!["a*"; MAX_WILD + 1].join(",");
        assert_eq!(shop().choose(&many), Err(NoMatch::TooMany { count: MAX_WILD + 1 }));
        assert_eq!(chosen(&vec!["db"; 5000].join(",")), ["db"]);
        assert_eq!(chosen(&"*".repeat(60_000)).len(), 6);
    }

    /// The plainest matcher there is, to hold the other against.
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                matches(rest, text) || text.split_first().is_some_and(|(_, tail)| matches(pattern, tail))
            }
            (Some(('?', rest)), Some((_, tail))) => matches(rest, tail),
            (Some((p, rest)), Some((t, tail))) if p == t => matches(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_choose_exactly_what_is_spelled_so(
            names in proptest::collection::btree_set("[ab][ab-]{0,4}[ab]", 1..8),
            pattern in "[ab*?-]{1,6}",
        ) {
            prop_assume!(pattern.contains(['*', '?']));
            let names: Vec<_> = names.into_iter().collect();
            // By spelling alone: the parent, which no pattern with a wildcard means, is another name.
            let roster = Roster::new(names.iter().map(|name| (id(name), id("parent"))));
            let pattern_chars: Vec<char> = pattern.chars().collect();
            let spelled: Vec<usize> = (0..names.len())
                .filter(|i| matches(&pattern_chars, &names[*i].chars().collect::<Vec<_>>()))
                .collect();
            match roster.choose(&pattern) {
                Ok(found) => prop_assert_eq!(found, spelled),
                Err(_) => prop_assert!(spelled.is_empty() && !pattern.bytes().all(|b| b == b'*')),
            }
        }

        #[test]
        fn a_name_means_itself_and_its_own_whatever_is_declared_beside_it(
            counts in proptest::collection::vec(1_usize..4, 1..6),
        ) {
            // Parents p0, p1, … with instances p0-1, …, and beside each a stranger that is spelled alike.
            let mut declared = Vec::new();
            for (p, count) in counts.iter().enumerate() {
                declared.extend((1..=*count).map(|i| (id(&format!("p{p}-{i}")), id(&format!("p{p}")))));
                declared.push((id(&format!("p{p}-x")), id(&format!("p{p}-x"))));
            }
            let roster = Roster::new(declared.clone());
            for (p, count) in counts.iter().enumerate() {
                prop_assert_eq!(roster.choose(&format!("p{p}")).unwrap().len(), *count);
                prop_assert_eq!(roster.choose(&format!("p{p}-x")).unwrap().len(), 1);
            }
            for (index, (name, _)) in declared.iter().enumerate() {
                prop_assert_eq!(roster.choose(name.as_str()), Ok(vec![index]));
                prop_assert_eq!(roster.find(name.as_str()), Some(index));
            }
        }
    }
}
