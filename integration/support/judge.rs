//! What an output may be, whatever texts of others are in it: by means of our own, and by the judges of the formats.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::ELSEWHERE;

/// A table, a sentence, a log: lines and nothing that would steer who shows them. `what` is it.
pub(crate) fn steers_nothing(what: &str, text: &str) {
    // UAX 9, table 4, and the separators; `is_control` is C0, DEL and C1.
    let turns =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let found = text.chars().find(|c| *c != '\n' && (c.is_control() || turns(*c)));
    assert_eq!(found, None, "{what}: {text:?}");
}

/// What a terminal was given, where colours are kept: text, the ends of lines, and sequences that colour (SGR).
pub(crate) fn only_colours(what: &str, text: &str) {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && !";:".contains(c));
        let rest = end.and_then(|end| part[end..].strip_prefix('m'));
        plain += rest.unwrap_or_else(|| panic!("{what}: a sequence that does more than colour: {part:?}"));
    }
    steers_nothing(what, &plain.replace("\r\n", "\n").replace('\t', ""));
}

/// One document of JSON after another. They steer nothing either.
pub(crate) fn documents(what: &str, text: &str) -> Vec<Value> {
    steers_nothing(what, text);
    let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    documents.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{what}: {e}: {text}"))
}

/// One document of JSON a line.
pub(crate) fn lines(what: &str, text: &str) -> Vec<Value> {
    steers_nothing(what, text);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{what}: {e}: {line}"))).collect()
}

/// Whether some text in `value` has `text` in it, as it is.
pub(crate) fn tells(value: &Value, text: &str) -> bool {
    match value {
        Value::String(told) => told.contains(text),
        Value::Array(values) => values.iter().any(|value| tells(value, text)),
        Value::Object(values) => values.values().any(|value| tells(value, text)),
        _ => false,
    }
}

/// A message to a service manager, `sd_notify(3)`: each line is an assignment, each key is there once and one of ours.
pub(crate) fn notification(message: &str) {
    const OURS: [&str; 7] = ["READY", "STATUS", "STOPPING", "RELOADING", "WATCHDOG", "MAINPID", "MONOTONIC_USEC"];
    let mut keys = Vec::new();
    for line in message.lines() {
        let (key, _) = line.split_once('=').unwrap_or_else(|| panic!("no assignment: {message:?}"));
        assert!(OURS.contains(&key) && !keys.contains(&key), "{key}: {message:?}");
        keys.push(key);
    }
    steers_nothing("a notification", message);
}

/// What `program` makes of `input`: whether it takes it, and what it has to say.
pub(crate) fn asks(program: &mut Command, input: &str) -> (bool, String) {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap_or_else(|e| panic!("{program:?}: {e}; {ELSEWHERE}"));
    let mut to = child.stdin.take().unwrap();
    // One that has seen enough hangs up.
    to.write_all(input.as_bytes()).unwrap_or_default();
    drop(to);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// Prometheus' own tool has nothing to say of `text`.
pub(crate) fn promtool_takes(text: &str) {
    let (fine, said) = asks(Command::new("promtool").args(["check", "metrics"]), text);
    assert!(fine && said.is_empty(), "{said}\n{text}");
}

/// The parser of OpenMetrics takes `text`; how many series it reads in it.
pub(crate) fn openmetrics_takes(text: &str) -> usize {
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let python = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                  print(sum(len(f.samples) for f in read(sys.stdin.read())))";
    let (fine, said) = asks(Command::new("python3").args(["-c", python]).env("PYTHONIOENCODING", "utf-8"), text);
    assert!(fine, "{said}\n{ELSEWHERE}");
    said.trim().parse().unwrap()
}
