//! The JSON Schema of a configuration file, for editors. It is made from the same declarations that read one.

use schemars::generate::SchemaSettings;

use super::{decode::Shape, raw::File};

/// The schema, draft 7: what editors complete by. The checked-in copy is `src/spec/pinfold.schema.json`.
#[must_use]
pub fn json() -> String {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Shape<File>>();
    schema.insert("title".to_owned(), "pinfold configuration, version 1".into());
    format!("{:#}\n", schema.as_value())
}
