//! What is amiss with a query or a body that was not understood, told by the shape that it should have: which parameter, what was
//! given, what would be right. Only what was refused already is looked at here.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// As much is repeated of what was given, in characters.
const REPEATED: usize = 60;

/// What is amiss with the parameters `given`, which should have the shape of `T`; `None` where that does not tell.
pub(super) fn query<T: JsonSchema>(given: &[(String, String)]) -> Option<String> {
    let shape = shape::<T>();
    let known = members(&shape)?;
    for (i, (key, text)) in given.iter().enumerate() {
        let Some(schema) = known.get(key) else { return Some(unknown("parameter", key, known)) };
        if given.iter().take(i).any(|(before, _)| before == key) {
            return Some(format!("{key}: it is given twice; give it once"));
        }
        let value = read(schema, text);
        if let Some(right) = right(schema, &value) {
            return Some(format!("{key}: {} is not {right}", repeated(&Value::String(text.clone()))));
        }
    }
    missing(&shape, |key| given.iter().any(|(given, _)| given == key))
}

/// What is amiss with `body`, which should be a JSON object of the shape of `T`; `None` where that does not tell.
pub(super) fn body<T: JsonSchema>(body: &[u8]) -> Option<String> {
    let given: Value = match serde_json::from_slice(body) {
        Ok(given) => given,
        Err(error) => return Some(format!("it is no JSON: {error}")),
    };
    object("", &shape::<T>(), given.as_object()?)
}

/// The same of an object that stands at `path`.
fn object(path: &str, schema: &Value, given: &Map<String, Value>) -> Option<String> {
    let none = Map::new();
    let known = members(schema).unwrap_or(&none);
    for (key, value) in given {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(schema) = known.get(key).or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
        else {
            return Some(unknown("key", &at, known));
        };
        let at = inert(&at);
        if let Some(right) = right(schema, value) {
            return Some(format!("{at}: {} is not {right}", repeated(value)));
        }
        let below = value.as_object().and_then(|given| object(&at, schema, given));
        if below.is_some() {
            return below;
        }
    }
    missing(schema, |key| given.contains_key(key))
}

fn shape<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn members(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn unknown(what: &str, key: &str, known: &Map<String, Value>) -> String {
    let known: Vec<&str> = known.keys().map(String::as_str).collect();
    let known = match known.split_last() {
        None => "none is known".to_owned(),
        Some((one, [])) => format!("known is {one}"),
        Some((last, others)) => format!("known are {} and {last}", others.join(", ")),
    };
    format!("there is no {what} {} here; {known}", repeated(&Value::String(key.to_owned())))
}

fn missing(schema: &Value, is_given: impl Fn(&str) -> bool) -> Option<String> {
    let needed = schema.get("required")?.as_array()?.iter().filter_map(Value::as_str);
    needed.filter(|key| !is_given(key)).map(|key| format!("{key}: it is not given, and has to be")).next()
}

/// The value that `text` is where one of `schema` is expected.
fn read(schema: &Value, text: &str) -> Value {
    let number = || text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok();
    let truth = || text.parse::<bool>().map(Value::from).ok();
    let read = if is(schema, "integer") {
        number()
    } else if is(schema, "boolean") {
        truth()
    } else {
        None
    };
    read.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Whether `schema` allows values of this type.
fn is(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}

/// The words that `schema` allows, where it names them.
fn words(schema: &Value) -> Vec<&str> {
    let several = |key| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    let own = schema.get("const").into_iter().chain(several("enum")).filter_map(Value::as_str);
    own.chain(several("oneOf").chain(several("anyOf")).flat_map(words)).collect()
}

/// What would be right, where `value` is not, as far as types tell.
fn right(schema: &Value, value: &Value) -> Option<String> {
    let words = words(schema);
    if !words.is_empty() {
        let right = value.is_null() || value.as_str().is_some_and(|word| words.contains(&word));
        return (!right).then(|| match words.split_last() {
            Some((last, others @ [_, ..])) => format!("{} or {last}", others.join(", ")),
            _ => words.concat(),
        });
    }
    if value.is_null() && is(schema, "null") {
        return None;
    }
    if is(schema, "integer") {
        let least = schema.get("minimum").and_then(Value::as_u64).unwrap_or(0);
        let narrow = (schema.get("format").and_then(Value::as_str) == Some("uint32")).then_some(u64::from(u32::MAX));
        let most = schema.get("maximum").and_then(Value::as_u64).or(narrow);
        let right = value.as_u64().is_some_and(|n| n >= least && most.is_none_or(|most| n <= most));
        let upwards = || format!("a whole number, {least} or more");
        return (!right).then(|| most.map_or_else(upwards, |most| format!("a whole number from {least} to {most}")));
    }
    let types = [
        ("boolean", value.is_boolean(), "true or false"),
        ("string", value.is_string(), "a text in quotes"),
        ("object", value.is_object(), "an object"),
        ("array", value.is_array(), "a list"),
    ];
    types.into_iter().find(|(name, ..)| is(schema, name)).and_then(|(_, right, like)| (!right).then(|| like.to_owned()))
}

/// What was given, as far as a line has room, and with nothing in it that a terminal would act on.
fn repeated(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().nth(REPEATED).is_some() => {
            format!("{:?}…", text.chars().take(REPEATED).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}

fn inert(text: &str) -> String {
    text.chars().take(REPEATED).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "a shape")]
    enum Colour {
        /// Like grass.
        Green,
        Red,
    }

    #[derive(Default, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Asked {
        generation: Option<u64>,
        run: Option<u32>,
        follow: bool,
        colour: Option<Colour>,
        since: Option<String>,
        limits: BTreeMap<String, String>,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "a shape")]
    struct Needs {
        worker: String,
        #[schemars(range(min = 1, max = 1000))]
        limit: usize,
    }

    fn of_query<T: JsonSchema>(given: &[(&str, &str)]) -> String {
        let given: Vec<_> = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        query::<T>(&given).unwrap_or_default()
    }

    #[test]
    fn a_parameter_is_named_with_what_was_given_and_what_would_be_right() {
        let of = |key, value| of_query::<Asked>(&[("follow", "true"), (key, value)]);
        assert_eq!(of("generation", "abc"), r#"generation: "abc" is not a whole number, 0 or more"#);
        assert_eq!(of("generation", "-1"), r#"generation: "-1" is not a whole number, 0 or more"#);
        assert_eq!(of("run", "4294967296"), r#"run: "4294967296" is not a whole number from 0 to 4294967295"#);
        assert_eq!(of("run", ""), r#"run: "" is not a whole number from 0 to 4294967295"#);
        assert_eq!(of("colour", "blue"), r#"colour: "blue" is not red or green"#);
        assert_eq!(of("follow", "true"), "follow: it is given twice; give it once");
        let known = "known are colour, follow, generation, limits, run and since";
        assert_eq!(of("fllow", "1"), format!(r#"there is no parameter "fllow" here; {known}"#));
        assert_eq!(of_query::<Asked>(&[("follow", "yes")]), r#"follow: "yes" is not true or false"#);
        assert_eq!(
            of_query::<Needs>(&[("worker", "a"), ("limit", "0")]),
            r#"limit: "0" is not a whole number from 1 to 1000"#
        );
        assert_eq!(of_query::<Needs>(&[("limit", "1")]), "worker: it is not given, and has to be");
        assert_eq!(of_query::<Asked>(&[("run", "3"), ("since", "soon")]), "", "of that the shape knows nothing");
    }

    #[test]
    fn what_was_given_is_repeated_inert_and_not_at_length() {
        let hostile = of_query::<Asked>(&[("run", "\u{1b}[2J\n")]);
        assert!(hostile.starts_with(r#"run: "\u{1b}[2J\n" is not "#), "{hostile}");
        assert!(of_query::<Asked>(&[("run", &"9".repeat(5000))]).len() < 200);
        assert!(of_query::<Asked>(&[(&"k".repeat(5000), "")]).len() < 200);
        assert!(!body::<Asked>(b"{\"\\u001b\": 1}").unwrap().contains('\u{1b}'));
    }

    #[test]
    fn a_key_of_a_body_is_named_in_the_same_way() {
        let of = |text: &str| body::<Asked>(text.as_bytes()).unwrap_or_default();
        assert_eq!(of(r#"{"follow": "yes"}"#), r#"follow: "yes" is not true or false"#);
        assert_eq!(of(r#"{"since": 5}"#), "since: 5 is not a text in quotes");
        assert_eq!(of(r#"{"run": 1.5}"#), "run: 1.5 is not a whole number from 0 to 4294967295");
        assert_eq!(of(r#"{"limits": {"memory.max_rss": 5}}"#), "limits.memory.max_rss: 5 is not a text in quotes");
        assert_eq!(of(r#"{"limits": []}"#), "limits: a list is not an object");
        assert!(of(r#"{"fllow": true}"#).starts_with(r#"there is no key "fllow" here; known are colour, "#));
        assert!(of(r#"{"follow": tru"#).starts_with("it is no JSON: "));
        assert_eq!(of(r#"{"since": null, "run": null}"#), "");
    }
}
