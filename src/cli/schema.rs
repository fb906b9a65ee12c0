//! `pinfold schema`.

/// The JSON Schema of the config, its end included.
#[must_use]
pub fn text() -> String {
    let mut text = crate::spec::schema::json();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
