//! Tree to typed values: what can be read from a tree, and how. What is a record is declared (`declare`).
//!
//! Nothing stops at a mistake: it is reported, the field is marked [`Field::Broken`], and reading goes on.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    expand::{MAX_EXPANDED, expand},
    problem::{Place, Report, shown},
    tree::{Entry, Node, Value},
};

/// Longer keys are no typing mistakes, and measuring their distance would take time.
const MAX_SUGGESTED: usize = 40;

/// What reading needs besides the node: where problems go, and the environment.
pub(super) struct Cx<'a> {
    pub(super) report: Report<'a>,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// How many bytes variables may still bring in.
    room: usize,
}

/// Something of the configuration that can be read from a tree.
pub(super) trait Decode: Sized {
    /// Reports what is wrong and returns `None`, or returns the value.
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self>;

    /// Takes from `base` what is missing here. What is not a record or a map replaces as a whole.
    fn fill(&mut self, _base: &Self) {}

    /// A name that no other type has, for the schema's definitions.
    fn name() -> Cow<'static, str>;

    /// Its JSON Schema.
    fn schema(schemas: &mut SchemaGenerator) -> Schema;
}

/// A value that is one scalar.
pub(super) trait FromWord: Sized {
    /// What it is, with its article.
    const WHAT: &'static str;
    /// What to write.
    const LIKE: &'static str;

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong>;
    fn name() -> Cow<'static, str>;
    fn schema() -> Schema;
}

/// Why a scalar is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What it is instead, after the value: "is negative".
    pub(super) is: Cow<'static, str>,
    /// What to do, where it is not "write" and the usual.
    pub(super) fix: Option<Cow<'static, str>>,
}

impl Wrong {
    pub(super) fn is(is: impl Into<Cow<'static, str>>) -> Self {
        Self { is: is.into(), fix: None }
    }

    pub(super) fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// A scalar after expansion.
#[derive(Debug)]
pub(super) struct Word<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it stands: YAML may see a number or a truth value in it.
    Plain,
    /// Text by its quotes.
    Quoted,
    /// Had a variable in it: text to YAML, to us whatever the key wants.
    Expanded,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: Place,
}

/// A key of a record.
#[derive(Debug, Clone, Default)]
pub(super) enum Field<T> {
    /// Not written.
    #[default]
    Absent,
    /// Written, but wrong, and reported.
    Broken,
    /// Written.
    Given(Found<T>),
}

impl<T> Field<T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.found().map(|found| &found.value)
    }

    pub(super) fn found(&self) -> Option<&Found<T>> {
        if let Self::Given(found) = self { Some(found) } else { None }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl<T: Decode + Clone> Field<T> {
    pub(super) fn fill(&mut self, base: &Self) {
        match (self, base) {
            (own @ Self::Absent, base) => *own = base.clone(),
            (Self::Given(own), Self::Given(base)) => own.value.fill(&base.value),
            _ => {}
        }
    }

    /// Reads the entry's value into the field.
    pub(super) fn take(&mut self, entry: &Entry, parent: &Place, cx: &mut Cx<'_>) {
        let path = parent.path.key(&entry.key);
        if !self.is_absent() {
            // By another spelling of the same key: the tree refuses the same one twice.
            let at = Place { mark: entry.key_mark, path };
            cx.report.add(&at, "this says again what another key here says", "keep one of the two spellings");
            return;
        }
        let at = Place { mark: entry.value.mark, path };
        *self = match T::decode(&entry.value, &at, cx) {
            Some(value) => Self::Given(Found { value, at }),
            None => Self::Broken,
        };
    }
}

impl<'a> Cx<'a> {
    pub(super) fn new(report: Report<'a>, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { report, env, room: MAX_EXPANDED }
    }

    /// The entries of a map; anything else is a problem.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, at: &Place, keys: &[&str]) -> Option<&'n [Entry]> {
        if let Value::Map(entries) = &node.value {
            return Some(entries);
        }
        let example = keys.first().map_or_else(String::new, |key| format!(" like {key}"));
        self.misfit(node, at, "a map", &format!("keys{example} below this one"));
        None
    }

    /// The items of a list; anything else is a problem.
    pub(super) fn items<'n>(&mut self, node: &'n Node, at: &Place) -> Option<&'n [Node]> {
        if let Value::List(items) = &node.value {
            return Some(items);
        }
        self.misfit(node, at, "a list", "a list: [a, b], or one \"- a\" a line");
        None
    }

    /// The scalar, expanded; anything else is a problem.
    pub(super) fn word<'n>(&mut self, node: &'n Node, at: &Place, what: &str, like: &str) -> Option<Word<'n>> {
        match &node.value {
            Value::Scalar { text, quoted } if !node.is_null() => {
                let style = if *quoted { Style::Quoted } else { Style::Plain };
                self.expand(text, style, at)
            }
            _ => {
                self.misfit(node, at, what, like);
                None
            }
        }
    }

    pub(super) fn expand<'t>(&mut self, text: &'t str, style: Style, at: &Place) -> Option<Word<'t>> {
        match expand(text, self.env, self.room) {
            Ok(Cow::Borrowed(text)) => Some(Word { text: Cow::Borrowed(text), style }),
            Ok(Cow::Owned(expanded)) => {
                self.room = self.room.saturating_sub(expanded.len());
                // `$$` alone is no reason to read a quoted text as a number.
                let style = if text.contains("${") { Style::Expanded } else { style };
                Some(Word { text: Cow::Owned(expanded), style })
            }
            Err(bad) => {
                self.report.add(at, bad.message, bad.fix);
                None
            }
        }
    }

    fn misfit(&mut self, node: &Node, at: &Place, what: &str, like: &str) {
        let message = match &node.value {
            Value::Unusable => return,
            Value::List(_) => format!("a list is not {what}"),
            Value::Map(_) => format!("a map is not {what}"),
            Value::Scalar { .. } if node.is_null() => {
                self.report.add(at, "nothing is given", format!("write {like}, or remove the key"));
                return;
            }
            Value::Scalar { text, .. } => format!("{} is not {what}", at.shown(text)),
        };
        self.report.add(at, message, format!("write {like}"));
    }

    /// Reports a key that `keys` does not have.
    pub(super) fn unknown_key(&mut self, entry: &Entry, parent: &Place, keys: &[&str], later: &[&str]) {
        let key = entry.key.as_str();
        let at = Place { mark: entry.key_mark, path: parent.path.key(key) };
        if later.contains(&key) {
            let message = format!("{key} comes in a later version of pinfold; this one does not know it");
            self.report.add(&at, message, "remove the key");
            return;
        }
        let fix = suggest(key, keys.iter().copied())
            .map_or_else(|| format!("known here: {}", keys.join(", ")), |near| format!("did you mean {near}?"));
        self.report.add(&at, format!("unknown key {}", shown(key)), fix);
    }
}

/// The candidate that `word` was probably meant to be.
pub(super) fn suggest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > MAX_SUGGESTED {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word, &candidate.replace('-', "_"));
    let near = candidates.map(|candidate| (distance(candidate), candidate)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4).map(|(_, c)| c)
}

impl<T: FromWord> Decode for T {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let word = cx.word(node, at, T::WHAT, T::LIKE)?;
        from_word(&word, at, cx)
    }

    fn name() -> Cow<'static, str> {
        <T as FromWord>::name()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        <T as FromWord>::schema()
    }
}

/// Reads a word that is at hand, reporting what is wrong with it.
pub(super) fn from_word<T: FromWord>(word: &Word<'_>, at: &Place, cx: &mut Cx<'_>) -> Option<T> {
    match T::from_word(word) {
        Ok(value) => Some(value),
        Err(wrong) => {
            let fix = wrong.fix.unwrap_or_else(|| format!("write {}", T::LIKE).into());
            cx.report.add(at, format!("{} {}", at.shown(&word.text), wrong.is), fix);
            None
        }
    }
}

/// `[a, b]`.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub(super) Vec<Found<T>>);

impl<T: Decode> Decode for List<T> {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let nodes = cx.items(node, at)?;
        let mut items = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let at = Place { mark: node.mark, path: at.path.index(index) };
            // What is wrong with an item is no reason to say nothing about the others.
            items.extend(T::decode(node, &at, cx).map(|value| Found { value, at }));
            if cx.report.full() {
                break;
            }
        }
        Some(Self(items))
    }

    fn name() -> Cow<'static, str> {
        format!("List_of_{}", T::name()).into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": schemas.subschema_for::<Shape<T>>() })
    }
}

/// One, or a list of them.
#[derive(Debug, Clone)]
pub(super) struct OneOrMany<T>(pub(super) Vec<Found<T>>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        if matches!(node.value, Value::List(_)) {
            return List::decode(node, at, cx).map(|list| Self(list.0));
        }
        T::decode(node, at, cx).map(|value| Self(vec![Found { value, at: at.clone() }]))
    }

    fn name() -> Cow<'static, str> {
        format!("One_or_list_of_{}", T::name()).into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let one = schemas.subschema_for::<Shape<T>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// `{name: value}` with names of the user's choice or from a list.
#[derive(Debug, Clone)]
pub(super) struct Table<K, V>(pub(super) BTreeMap<String, Found<V>>, PhantomData<K>);

/// The names a [`Table`] may have.
pub(super) trait Names {
    const NAMES: &'static [&'static str];
    const CALLED: &'static str;
}

impl<K: Names, V: Decode + Clone> Decode for Table<K, V> {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let mut table = BTreeMap::new();
        for entry in cx.entries(node, at, K::NAMES)? {
            if !K::NAMES.contains(&entry.key.as_str()) {
                cx.unknown_key(entry, at, K::NAMES, &[]);
                continue;
            }
            let at = Place { mark: entry.value.mark, path: at.path.key(&entry.key) };
            if let Some(value) = V::decode(&entry.value, &at, cx) {
                table.insert(entry.key.clone(), Found { value, at });
            }
        }
        Some(Self(table, PhantomData))
    }

    fn fill(&mut self, base: &Self) {
        for (name, value) in &base.0 {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    fn name() -> Cow<'static, str> {
        format!("{}_of_{}", V::name(), K::CALLED).into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let value = schemas.subschema_for::<Shape<V>>();
        let properties: serde_json::Map<_, _> =
            K::NAMES.iter().map(|name| ((*name).to_owned(), value.clone().to_value())).collect();
        json_schema!({ "type": "object", "additionalProperties": false, "properties": properties })
    }
}

/// Lends a type to schemars, whose trait cannot be implemented for all [`Decode`] at once.
pub(super) struct Shape<T>(PhantomData<T>);

impl<T: Decode> JsonSchema for Shape<T> {
    fn schema_name() -> Cow<'static, str> {
        T::name()
    }

    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        T::schema(schemas)
    }
}
