//! `${NAME}` and `${NAME:-default}` in a value, after parsing: what comes in is text and never becomes YAML.

use std::borrow::Cow;

/// All values together may grow to so many bytes: a file of 1 MiB could repeat a long variable often.
pub(super) const MAX_EXPANDED: usize = 4 << 20;

/// Why a value cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unexpandable {
    pub(super) message: String,
    pub(super) fix: String,
}

/// Replaces `${NAME}`, `${NAME:-default}` (the default also stands in for an empty value, as in a shell) and `$$`.
/// A `$` before anything else is left alone. Text without a dollar is returned as it is. No more than `room` bytes
/// are made.
pub(super) fn expand<'t>(
    text: &'t str,
    lookup: &dyn Fn(&str) -> Option<String>,
    room: usize,
) -> Result<Cow<'t, str>, Unexpandable> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((inside, after)) = after.split_once('}') else {
                return Err(Unexpandable {
                    message: "\"${\" is not closed".into(),
                    fix: "close it with }, or write $${ for a literal ${".into(),
                });
            };
            out.push_str(&value_of(inside, lookup)?);
            if out.len() > room {
                return Err(Unexpandable {
                    message: format!("the variables up to here come to more than {} MiB", MAX_EXPANDED >> 20),
                    fix: "use them less often, or env_file".into(),
                });
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn value_of(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Unexpandable> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(word) {
        // What is behind a name may be its default, and that a secret.
        let cut = inside.find(|c: char| !c.is_ascii() || !word(c as u8)).filter(|cut| *cut > 0);
        let inside = cut.map_or(inside.into(), |cut| format!("{}…", &inside[..cut]));
        return Err(Unexpandable {
            message: format!("{} is not a variable", super::problem::shown(&format!("${{{inside}}}"))),
            fix: "write ${NAME} or ${NAME:-default}, or $${ for a literal ${".into(),
        });
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Unexpandable {
            message: format!("the default of ${{{name}}} has a variable inside"),
            fix: "defaults are plain text: set the variable for the supervisor instead".into(),
        });
    }
    match (lookup(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.replace("$$", "$")),
        (None, None) => Err(Unexpandable {
            message: format!("the variable {name} is not set in the supervisor's environment"),
            fix: format!("set it, or give a default like ${{{name}:-value}}; a literal dollar is $$"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db.example".into()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST} $$ {a: b}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_dollars_expand_and_a_bare_dollar_stays() {
        for (text, expected) in [
            ("plain", "plain"),
            ("tcp://${HOST}:5432", "tcp://db.example:5432"),
            ("${NONE:-x y}", "x y"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-full}", "full"),
            ("${HOST:-unused}", "db.example"),
            ("$HOST costs $5 and $", "$HOST costs $5 and $"),
            ("$${HOST}", "${HOST}"),
            ("$$$${HOST}", "$${HOST}"),
            ("$$${HOST}", "$db.example"),
            ("${NONE:-a$$b}", "a$b"),
        ] {
            assert_eq!(expand(text, &lookup, MAX_EXPANDED).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("${TRICK}", &lookup, MAX_EXPANDED).as_deref(), Ok("${HOST} $$ {a: b}"));
    }

    #[test]
    fn no_more_is_made_than_there_is_room_for() {
        assert!(expand("${HOST}${HOST}", &lookup, 20).is_ok());
        assert!(expand("${HOST}${HOST}", &lookup, 19).is_err());
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error_and_never_an_empty_text() {
        for text in ["${NONE}", "${", "${HOST", "${}", "${1}", "${A B}", "${HOST:?gone}", "${NONE:-${HOST}}"] {
            assert!(expand(text, &lookup, MAX_EXPANDED).is_err(), "{text}");
        }
    }
}
