//! What a command has to say, and what it ends with.

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::render::inert_json;

/// All of it, printed once and at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For stdout.
    pub out: String,
    /// For stderr.
    pub err: String,
    /// The exit code.
    pub exit: Exit,
}

/// A line of JSON for each of `values`.
///
/// # Errors
/// [`Failure`], where one cannot be written as JSON.
pub fn lines(values: &[impl Serialize]) -> Result<String, Failure> {
    let line = |value| serde_json::to_string(value).map(|text| inert_json(&text).into_owned() + "\n");
    let text: Result<String, _> = values.iter().map(line).collect();
    text.map_err(|e| Failure::failed("cannot write the answer", e))
}

/// A JSON document for stdout, its end included.
///
/// # Errors
/// [`Failure`], where it cannot be written as JSON.
pub fn document(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::failed("cannot write the answer", e))?;
    Ok(inert_json(&text).into_owned() + "\n")
}
