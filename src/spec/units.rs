//! What one scalar can be: texts, counts, paths, accounts, signals. Each type with its spelling, its range and its
//! JSON Schema. Sizes and durations are in `quantity`.

use std::{borrow::Cow, path::PathBuf};

use nix::libc;
use schemars::{Schema, json_schema};

use super::decode::{FromWord, Style, Word, Wrong};

/// In a schema: a text with a variable in it can stand for any scalar.
pub(super) fn variable() -> serde_json::Value {
    serde_json::json!({ "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}" })
}

/// Any text. Numbers and truth values are taken as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl FromWord for Text {
    const WHAT: &'static str = "text";
    const LIKE: &'static str = "a text; \"\" is the empty one";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        without_nul(&word.text).map(|text| Self(text.to_owned()))
    }

    fn name() -> Cow<'static, str> {
        "Text".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

fn without_nul(text: &str) -> Result<&str, Wrong> {
    if text.contains('\0') {
        return Err(Wrong::is("has a NUL byte, which ends a text for the kernel").fix("remove the \\0"));
    }
    Ok(text)
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

impl FromWord for Flag {
    const WHAT: &'static str = "true or false";
    const LIKE: &'static str = "true or false";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        match (&*word.text, word.style) {
            ("true" | "false", Style::Quoted) => Err(Wrong::is("is a text").fix("remove the quotes")),
            ("true", _) => Ok(Self(true)),
            ("false", _) => Ok(Self(false)),
            _ => Err(Wrong::is("is neither true nor false")),
        }
    }

    fn name() -> Cow<'static, str> {
        "Flag".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, variable()] })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int<const MIN: i64, const MAX: i64>(pub(super) i64);

impl<const MIN: i64, const MAX: i64> FromWord for Int<MIN, MAX> {
    const WHAT: &'static str = "a whole number";
    const LIKE: &'static str = "a whole number, without quotes";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let range = || format!("write a whole number from {MIN} to {MAX}");
        let number = integer(word)?.ok_or_else(|| Wrong::is("is far out of range").fix(range()))?;
        if number < MIN {
            return Err(Wrong::is(format!("is less than {MIN}")).fix(range()));
        }
        if number > MAX {
            return Err(Wrong::is(format!("is more than {MAX}")).fix(range()));
        }
        Ok(Self(number))
    }

    fn name() -> Cow<'static, str> {
        format!("Whole_{MIN}_to_{MAX}").replace('-', "minus_").into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": MIN, "maximum": MAX }, variable()] })
    }
}

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    /// The number as one without sign. `MIN` is not negative where this is used.
    pub(super) fn unsigned(self) -> u64 {
        self.0.unsigned_abs()
    }
}

/// The number of a plain scalar; `None` where it is beyond 64 bits. `010` is ten to YAML 1.2, eight to YAML 1.1, and
/// so to us neither.
fn integer(word: &Word<'_>) -> Result<Option<i64>, Wrong> {
    let text = &*word.text;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Wrong::is("is not a whole number"));
    }
    if word.style == Style::Quoted {
        return Err(Wrong::is("is a text, not a number").fix("remove the quotes"));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(Wrong::is("is ambiguous: some read a leading zero as octal").fix("remove the leading zero"));
    }
    Ok(text.parse().ok())
}

/// A number from `MIN` to `MAX`, with a fraction if need be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<const MIN: i64, const MAX: i64>(pub(super) f64);

impl<const MIN: i64, const MAX: i64> FromWord for Number<MIN, MAX> {
    const WHAT: &'static str = "a number";
    const LIKE: &'static str = "a number, without quotes";

    #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let range = || format!("write a number from {MIN} to {MAX}");
        let known = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E');
        let number = match word.text.parse::<f64>() {
            Ok(number) if word.text.bytes().all(known) => number,
            _ => return Err(Wrong::is("is not a number").fix(range())),
        };
        if word.style == Style::Quoted {
            return Err(Wrong::is("is a text, not a number").fix("remove the quotes"));
        }
        if number < MIN as f64 {
            return Err(Wrong::is(format!("is less than {MIN}")).fix(range()));
        }
        if number > MAX as f64 {
            return Err(Wrong::is(format!("is more than {MAX}")).fix(range()));
        }
        Ok(Self(number))
    }

    fn name() -> Cow<'static, str> {
        format!("Number_{MIN}_to_{MAX}").into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "number", "minimum": MIN, "maximum": MAX }, variable()] })
    }
}

/// A value, or `max` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrMax<T> {
    Max,
    At(T),
}

impl<T> OrMax<T> {
    /// The limit; `None` where there is none.
    pub(super) fn limit(self) -> Option<T> {
        match self {
            Self::Max => None,
            Self::At(value) => Some(value),
        }
    }
}

/// The other things one can write besides bytes.
pub(super) trait Limited: FromWord {
    const LIKE_OR_MAX: &'static str;
}

impl<const MIN: i64, const MAX: i64> Limited for Int<MIN, MAX> {
    const LIKE_OR_MAX: &'static str = "a whole number, or max for no limit";
}

impl<const MIN: i64, const MAX: i64> Limited for Number<MIN, MAX> {
    const LIKE_OR_MAX: &'static str = "a number, or max for no limit";
}

impl<T: Limited> FromWord for OrMax<T> {
    const WHAT: &'static str = T::WHAT;
    const LIKE: &'static str = T::LIKE_OR_MAX;

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        match &*word.text {
            "max" | "infinity" => Ok(Self::Max),
            _ => T::from_word(word).map(Self::At),
        }
    }

    fn name() -> Cow<'static, str> {
        format!("{}_or_max", T::name()).into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["max", "infinity"] }, T::schema()] })
    }
}

/// An absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AbsPath(pub(super) PathBuf);

impl FromWord for AbsPath {
    const WHAT: &'static str = "a path";
    const LIKE: &'static str = "an absolute path, one that begins with /";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        absolute(&word.text).map(Self)
    }

    fn name() -> Cow<'static, str> {
        "Path".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^/" }, variable()] })
    }
}

fn absolute(text: &str) -> Result<PathBuf, Wrong> {
    let text = without_nul(text)?;
    if !text.starts_with('/') {
        return Err(Wrong::is("is not an absolute path"));
    }
    Ok(PathBuf::from(text))
}

/// An absolute path, with a leading `-` where it may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MaybePath {
    pub(super) path: PathBuf,
    pub(super) optional: bool,
}

impl FromWord for MaybePath {
    const WHAT: &'static str = "a path";
    const LIKE: &'static str = "an absolute path; with a - before it the file may be missing";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        match word.text.strip_prefix('-') {
            Some(path) => Ok(Self { path: absolute(path)?, optional: true }),
            None => Ok(Self { path: absolute(&word.text)?, optional: false }),
        }
    }

    fn name() -> Cow<'static, str> {
        "Path_that_may_be_optional".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^-?/" }, variable()] })
    }
}

/// A user or a group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account(pub(super) String);

impl FromWord for Account {
    const WHAT: &'static str = "a user or group";
    const LIKE: &'static str = "a name or a number, like www-data or 33";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let name = without_nul(&word.text)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | ',');
        if name.is_empty() || name.starts_with(['-', '+', '~']) || name.contains(odd) {
            return Err(Wrong::is("is not the name of a user or group"));
        }
        let number = name.bytes().all(|b| b.is_ascii_digit());
        // setresuid(2) takes the largest number for "leave it as it is": the worker would stay root.
        if number && !name.parse::<u32>().is_ok_and(|id| id != u32::MAX) {
            return Err(Wrong::is("is not a valid id").fix("write a number from 0 to 4294967294"));
        }
        Ok(Self(name.to_owned()))
    }

    fn name() -> Cow<'static, str> {
        "Account".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 },
        ] })
    }
}

/// umask(2), in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Umask(pub(super) u32);

impl FromWord for Umask {
    const WHAT: &'static str = "a umask";
    const LIKE: &'static str = "octal digits in quotes, like \"0022\"";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let text = &*word.text;
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if !octal {
            return Err(Wrong::is("is not a umask"));
        }
        if word.style == Style::Plain && text != "0" && digits.len() == text.len() {
            return Err(Wrong::is("is ambiguous: YAML reads a decimal number here"));
        }
        let mask = u32::from_str_radix(digits, 8).map_err(|_| Wrong::is("is not a umask"))?;
        if mask > 0o777 {
            return Err(Wrong::is("is more than 0777"));
        }
        Ok(Self(mask))
    }

    fn name() -> Cow<'static, str> {
        "Umask".into()
    }

    fn schema() -> Schema {
        // YAML turns 0o22 into a number before a schema sees it, so a number cannot be refused here.
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^(0o)?[0-7]{1,4}$" },
            { "type": "integer", "minimum": 0, "maximum": 0o777 },
            variable(),
        ] })
    }
}

/// A signal by its number on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SignalNumber(pub(super) i32);

impl FromWord for SignalNumber {
    const WHAT: &'static str = "a signal";
    const LIKE: &'static str = "a name like SIGTERM, TERM or RTMIN+3, or a number from 1 to 64";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let signal = signal(&word.text).ok_or_else(|| Wrong::is("is not a signal"))?;
        if matches!(signal, libc::SIGSTOP | libc::SIGCONT) {
            return Err(Wrong::is("does not end a process").fix("write a signal that does, like SIGTERM"));
        }
        Ok(Self(signal))
    }

    fn name() -> Cow<'static, str> {
        "Signal".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^(([sS][iI][gG])?[a-zA-Z]+[0-9]*([+-][0-9]+)?|[0-9]+)$" },
            { "type": "integer", "minimum": 1, "maximum": 64 },
            variable(),
        ] })
    }
}

/// The number of a signal that is written as a name, with or without `SIG` and in any case, as `RTMIN+n` or
/// `RTMAX-n`, or as a number. 32 and 33 belong to the C library and are no signals to send.
#[must_use]
pub fn signal(text: &str) -> Option<i32> {
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    if let Ok(number) = text.parse::<i32>() {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        return Some(number).filter(|n| plain && ((1..32).contains(n) || (min..=max).contains(n)));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |digits: &str| -> Option<i32> {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let real_time = match name {
        "RTMIN" => Some(min),
        "RTMAX" => Some(max),
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(above), _) => Some(min + offset(above)?),
            (_, Some(below)) => Some(max - offset(below)?),
            _ => None,
        },
    };
    match real_time {
        Some(number) => Some(number).filter(|n| (min..=max).contains(n)),
        None => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Word<'_> {
        Word { text: text.into(), style: Style::Plain }
    }

    fn quoted(text: &str) -> Word<'_> {
        Word { text: text.into(), style: Style::Quoted }
    }

    #[test]
    fn a_count_is_decimal_and_within_its_range() {
        type Small = Int<1, 64>;
        let value = |word: &Word<'_>| Small::from_word(word).map(|int| int.0);
        assert_eq!(value(&plain("64")), Ok(64));
        for text in ["0", "65", "-1", "1.0", "1e1", "0x1", "007", "18446744073709551616", "", "-", "+1", ".nan"] {
            assert!(value(&plain(text)).is_err(), "{text}");
        }
        assert!(value(&quoted("5")).is_err(), "quotes make a text of it");
        assert_eq!(value(&Word { text: "5".into(), style: Style::Expanded }), Ok(5));
    }

    #[test]
    fn a_number_is_finite_and_within_its_range() {
        type Rate = Number<1, 100>;
        assert!(Rate::from_word(&plain("1.5")).is_ok_and(|rate| (rate.0 - 1.5).abs() < f64::EPSILON));
        for text in ["0.99", "101", "1e400", "-1e400", ".inf", "inf", "nan", "NaN", ".nan", "1,5", "infinity"] {
            assert!(Rate::from_word(&plain(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_signal_has_many_spellings() {
        let min = libc::SIGRTMIN();
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigint", 2),
            ("HUP", 1),
            ("9", 9),
            ("RTMIN", min),
            ("SIGRTMIN+3", min + 3),
            ("rtmax-1", libc::SIGRTMAX() - 1),
            ("64", 64),
        ] {
            assert_eq!(signal(text), Some(number), "{text}");
        }
        for text in [
            "0",
            "32",
            "33",
            "65",
            "-9",
            "+9",
            "09",
            "",
            "SIG",
            "SIGSIGTERM",
            "BOGUS",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN++1",
            "SIG9",
        ] {
            assert_eq!(signal(text), None, "{text}");
        }
    }

    #[test]
    fn a_umask_is_octal_for_certain_or_refused() {
        assert_eq!(Umask::from_word(&quoted("0022")), Ok(Umask(0o022)));
        assert_eq!(Umask::from_word(&quoted("77")), Ok(Umask(0o077)));
        assert_eq!(Umask::from_word(&plain("0o027")), Ok(Umask(0o027)));
        assert_eq!(Umask::from_word(&plain("0")), Ok(Umask(0)));
        for word in [plain("0022"), plain("22"), quoted("0088"), quoted("7777"), quoted(""), quoted("-1")] {
            assert!(Umask::from_word(&word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn the_id_that_means_leave_it_is_no_account() {
        assert!(Account::from_word(&plain("4294967294")).is_ok());
        for text in ["4294967295", "4294967296", "-1", "", "a:b", "~root", "a b"] {
            assert!(Account::from_word(&quoted(text)).is_err(), "{text}");
        }
    }
}
