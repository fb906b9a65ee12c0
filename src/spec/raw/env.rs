//! Environments, as they are written.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::spec::{
    decode::{Cx, Decode, Found, Shape, Style, from_word},
    problem::{Place, shown},
    tree::{Node, Value},
    units::Text,
};

/// `env`: a map, or a list of `K=V`.
#[derive(Debug, Clone, Default)]
pub(in crate::spec) struct Env(pub(in crate::spec) BTreeMap<String, Found<Text>>);

impl Decode for Env {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let mut env = BTreeMap::new();
        if let Value::List(items) = &node.value {
            for (index, item) in items.iter().enumerate() {
                let at = Place { mark: item.mark, path: at.path.index(index) };
                if let Some((name, value)) = Self::pair(item, &at, cx)
                    && env.insert(name.to_owned(), Found { value, at: at.clone() }).is_some()
                {
                    cx.report.add(&at, format!("{} is given twice", shown(name)), "keep one of them");
                }
                if cx.report.full() {
                    break;
                }
            }
            return Some(Self(env));
        }
        for entry in cx.entries(node, at, &["NAME: value"])? {
            let name_at = Place { mark: entry.key_mark, path: at.path.key(&entry.key) };
            check_name(&entry.key, &name_at, cx);
            let at = Place { mark: entry.value.mark, path: name_at.path };
            if let Some(value) = Text::decode(&entry.value, &at, cx) {
                env.insert(entry.key.clone(), Found { value, at });
            }
            if cx.report.full() {
                break;
            }
        }
        Some(Self(env))
    }

    fn fill(&mut self, base: &Self) {
        for (name, value) in &base.0 {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    fn name() -> Cow<'static, str> {
        "Environment".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let text = schemas.subschema_for::<Shape<Text>>();
        json_schema!({ "anyOf": [
            { "type": "object", "additionalProperties": text, "propertyNames": { "pattern": "^[^=$\\u0000]+$" } },
            { "type": "array", "items": { "type": "string", "pattern": "^[^=$\\u0000]+=" } },
        ] })
    }
}

impl Env {
    /// `K=V`, taken apart before variables expand: a value cannot move the border.
    fn pair<'n>(item: &'n Node, at: &Place, cx: &mut Cx<'_>) -> Option<(&'n str, Text)> {
        let like = "NAME=value";
        let Value::Scalar { text, quoted } = &item.value else {
            cx.word(item, at, like, like)?;
            return None;
        };
        let Some((name, value)) = text.split_once('=') else {
            cx.report.add(at, format!("{} has no =", at.shown(text)), format!("write {like}"));
            return None;
        };
        if !check_name(name, at, cx) {
            return None;
        }
        let style = if *quoted { Style::Quoted } else { Style::Plain };
        let value = cx.expand(value, style, at)?;
        Some((name, from_word(&value, at, cx)?))
    }
}

fn check_name(name: &str, at: &Place, cx: &mut Cx<'_>) -> bool {
    let (message, fix) = if name.is_empty() {
        ("a variable without a name".to_owned(), "write NAME before the value")
    } else if name.contains(['=', '\0']) {
        (format!("{} cannot be the name of a variable", shown(name)), "leave out = and NUL")
    } else if name.contains('$') {
        (format!("{} cannot be the name of a variable", shown(name)), "write the name itself: only values expand")
    } else {
        return true;
    };
    cx.report.add(at, message, fix);
    false
}
