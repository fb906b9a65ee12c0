use std::borrow::Cow;

/// Whether a character steers whoever shows it, instead of being shown: the control characters, C1 among them (U+009B begins a
/// sequence as ESC does), the separators of lines and paragraphs, and what turns the direction of a text around, so that it reads
/// as something else (Unicode Standard Annex 9, table 4).
#[must_use]
pub const fn steers(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Text from outside (a file's name, a worker's argument) that cannot steer a terminal or forge a line: every character that
/// [`steers`] is written as `\n`, `\u{1b}`, ….
#[must_use]
pub fn inert(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// The same document of JSON with nothing in it that [`steers`] but white space between its parts: what JSON has no need to escape
/// is escaped, too.
#[must_use]
pub fn inert_json(document: &str) -> Cow<'_, str> {
    // Within a text the lower ones are escaped already (RFC 8259, 7); all are in the first plane.
    let bare = |c: char| c >= '\u{7f}' && steers(c);
    if !document.contains(bare) {
        return Cow::Borrowed(document);
    }
    let mut safe = String::with_capacity(document.len() + 8);
    for c in document.chars() {
        if !bare(c) {
            safe.push(c);
            continue;
        }
        let digit = |shift: u32| char::from_digit((u32::from(c) >> shift) & 0xf, 16);
        safe.push_str("\\u");
        safe.extend([12, 8, 4, 0].into_iter().filter_map(digit));
    }
    Cow::Owned(safe)
}

/// The same as [`inert`], with U+FFFD for each of them, where the place on a line counts or there is no room.
#[must_use]
pub const fn printable(c: char) -> char {
    if steers(c) { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_and_every_turn_of_direction_is_written_out() {
        let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'];
        for c in (char::MIN..=char::MAX).filter(|c| c.is_control()).chain(['\u{2028}', '\u{2029}']).chain(turns) {
            let safe = inert(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(steers(c) && safe.starts_with('\\') && safe.is_ascii(), "{c:?} {safe}");
            assert_eq!(printable(c), char::REPLACEMENT_CHARACTER);
        }
        assert_eq!(inert("x\u{1b}[2J\n\u{202e}y"), r"x\u{1b}[2J\n\u{202e}y");
    }

    #[test]
    fn a_document_of_json_steers_nothing_and_means_the_same() {
        let all: String = (char::MIN..=char::MAX).filter(|c| steers(*c)).chain("x🦀\\\"".chars()).collect();
        let document = serde_json::to_string_pretty(&[&all]).unwrap();
        let safe = inert_json(&document);
        assert!(safe.chars().all(|c| c == '\n' || !steers(c)), "{safe}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&safe).unwrap(), [all]);
        assert!(matches!(inert_json("{\n \"é\": 1}"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_read_is_left_as_it_is() {
        // Joiners, a soft hyphen and marks are part of words, right to left or not.
        for text in
            ["", "a b", r"a\n", "é e\u{301}", "日本", "مرحبا", "👩\u{200d}🚀", "a\u{ad}b", "\u{feff}", "\u{2065}"]
        {
            assert!(matches!(inert(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }
}
