/// An error and its reasons, each said once, without std's `(os error 2)`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        let said = said.split(" (os error").next().unwrap_or(&said);
        // A transparent wrapper says what its source says.
        if !text.ends_with(said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(said);
        }
        next = error.source();
    }
    text
}
