//! `pinfold version`.

use serde::Serialize;

use super::args::Output;

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

/// What it prints, its end included.
#[must_use]
pub fn text(output: Output) -> String {
    let version = Version { name: "pinfold", version: env!("CARGO_PKG_VERSION") };
    match output {
        Output::Text => format!("{} {}\n", version.name, version.version),
        Output::Json => serde_json::json!(version).to_string() + "\n",
    }
}
