//! A worker as a program declares it.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The body of `POST /v1/workers`. What its keys mean and may say is the configuration's affair, which reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declaration(Map<String, Value>);

impl Declaration {
    /// Its id, where that is a text.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.0.get("id")?.as_str()
    }

    /// As JSON that is YAML, too: what YAML has no place for in a text is escaped.
    #[must_use]
    pub fn text(&self) -> String {
        let json = serde_json::to_string(&self.0).unwrap_or_default();
        let mut text = String::with_capacity(json.len());
        for c in json.chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    let escaped = format!("\\u{:04x}", u32::from(c));
                    text.push_str(&escaped);
                }
                _ => text.push(c),
            }
        }
        text
    }
}

/// A worker, as it stands below `workers` in a configuration: the same keys, rules and defaults. `pinfold schema` describes them
/// all; `defaults` of the configuration in force lie below it, and variables are those of the supervisor.
#[derive(JsonSchema)]
#[schemars(rename = "Declaration", deny_unknown_fields)]
#[expect(dead_code, reason = "a shape that is described and never made")]
struct Shape {
    /// Its name.
    #[schemars(regex(pattern = crate::model::WorkerId::PATTERN))]
    id: String,
    /// As many of it, as `id-1`, `id-2`, …; without it one of the bare name.
    #[schemars(range(min = 1, max = 10_000), with = "u32", default, skip_serializing_if = "Option::is_none")]
    instances: Option<u32>,
    /// Whether it is started, which it is without a word.
    #[schemars(with = "bool", default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    /// `batch`, `web`, `database`, `worker`, `scheduler` or `default`.
    #[schemars(with = "String", default, skip_serializing_if = "Option::is_none")]
    profile_type: Option<String>,
    /// One of the configuration's slices.
    #[schemars(with = "String", default, skip_serializing_if = "Option::is_none")]
    slice: Option<String>,
    /// What to run and how; `command` is needed, here or in the `defaults`.
    #[schemars(with = "Map<String, Value>", default, skip_serializing_if = "Option::is_none")]
    unit: Option<Map<String, Value>>,
}

impl JsonSchema for Declaration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Shape::schema_name()
    }

    fn json_schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Shape::json_schema(schemas)
    }
}

impl<'de> Deserialize<'de> for Declaration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Strict::deserialize(deserializer)?.0 {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(D::Error::custom("a JSON object")),
        }
    }
}

/// A value in which no key is given twice: which of the two was meant nobody knows, and a configuration refuses it, too.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is given twice")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Source, load_with};

    fn read(text: &str) -> Result<Declaration, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_key_that_is_given_twice_is_refused_wherever_it_stands() {
        for text in [r#"{"id": "a", "id": "b"}"#, r#"{"unit": {"env": [{"A": 1, "A": 1}]}}"#] {
            assert!(read(text).unwrap_err().contains("is given twice"), "{text}");
        }
        assert!(read("[]").is_err());
    }

    #[test]
    fn every_text_that_json_can_have_reaches_the_worker_as_it_is() {
        // What Python writes of it; a tab, DEL, a line separator, and what YAML takes for a line's end.
        let ascii = r#"{"id": "a", "unit": {"command": ["x", "\ud83d\ude00 \u00e9\t\u007f\u0085\u2028\ufeff \\ \/ \"", "- : #"], "env": {"N": 1.5, "T": true}}}"#;
        let source = Source { name: "r".into(), bytes: read(ascii).unwrap().text().into_bytes() };
        let (_, mut workers) = load_with(&[], &[source], &|_| None).unwrap();
        let workers = workers.remove(0).unwrap_or_else(|e| panic!("{e}"));
        let expected = ["x", "\u{1f600} \u{e9}\t\u{7f}\u{85}\u{2028}\u{feff} \\ / \"", "- : #"];
        assert_eq!(workers[0].spec.argv, expected);
        assert_eq!(workers[0].spec.env["N"], "1.5");
    }

    #[test]
    fn its_id_is_read_where_it_is_a_text() {
        assert_eq!(read(r#"{"id": "a"}"#).unwrap().id(), Some("a"));
        assert_eq!(read(r#"{"id": 7}"#).unwrap().id(), None);
        assert_eq!(Declaration::default().id(), None);
    }
}
