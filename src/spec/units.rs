//! What one scalar can be: sizes, durations, counts, signals, paths. Each type with its spelling, its range and its
//! JSON Schema.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use nix::libc;
use schemars::{Schema, json_schema};

use super::decode::{FromWord, Style, Word, Wrong};

/// The longest duration of a configuration: ten years. Sums of a few of them are far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

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

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const SIZE_PATTERN: &str = r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtT]([iI]?[bB])?|[bB])?$";

impl FromWord for Size {
    const WHAT: &'static str = "a size";
    const LIKE: &'static str = "bytes or a unit, like 256MB or 256MiB";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        size(&word.text).map(Self)
    }

    fn name() -> Cow<'static, str> {
        "Size".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": i64::MAX },
            { "type": "string", "pattern": SIZE_PATTERN },
            variable(),
        ] })
    }
}

/// KB, MB, GB, TB are powers of 1000; K, M, G, T and KiB, MiB, GiB, TiB of 1024; in any case. A fraction is fine
/// where whole bytes come out.
fn size(text: &str) -> Result<u64, Wrong> {
    let not_a_size = || Wrong::is("is not a size");
    if text.starts_with('-') && text[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Wrong::is("is less than nothing"));
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let scale: u128 = match unit.as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(not_a_size()),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return Err(not_a_size()),
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    if whole.is_empty() || fraction.contains('.') {
        return Err(not_a_size());
    }
    if unit.is_empty() && whole.len() > 1 && whole.starts_with('0') {
        return Err(Wrong::is("is ambiguous: some read a leading zero as octal").fix("remove the leading zero"));
    }
    let too_large = || Wrong::is("is more than 8 EiB, the most the kernel can count");
    if whole.len() > 20 {
        return Err(too_large());
    }
    if fraction.len() > 12 {
        return Err(Wrong::is("has too many decimal places"));
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| not_a_size())?;
    let (Ok(places), Some(scaled)) = (u32::try_from(fraction.len()), digits.checked_mul(scale)) else {
        return Err(too_large());
    };
    let divisor = 10_u128.pow(places);
    if !scaled.is_multiple_of(divisor) {
        return Err(Wrong::is("is not a whole number of bytes"));
    }
    u64::try_from(scaled / divisor).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(too_large)
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

impl Limited for Size {
    const LIKE_OR_MAX: &'static str = "bytes or a unit, like 256MB or 256MiB, or max for no limit";
}

impl<const MIN: i64, const MAX: i64> Limited for Int<MIN, MAX> {
    const LIKE_OR_MAX: &'static str = "a whole number, or max for no limit";
}

impl<const MIN: i64, const MAX: i64> Limited for Number<MIN, MAX> {
    const LIKE_OR_MAX: &'static str = "a number, or max for no limit";
}

impl Limited for Share {
    const LIKE_OR_MAX: &'static str = "a size or a share of max_rss, like 200MiB or 90%, or max for none";
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

/// `memory.high`: bytes, or a percentage of `max_rss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    Bytes(u64),
    /// In hundredths of a percent, 1 to 10000.
    Percent(u64),
}

impl FromWord for Share {
    const WHAT: &'static str = "a size or a percentage";
    const LIKE: &'static str = Self::LIKE_OR_MAX;

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let Some(percent) = word.text.strip_suffix('%') else {
            return size(&word.text).map(Self::Bytes).map_err(|mut wrong| {
                if wrong.is == "is not a size" {
                    wrong.is = "is neither a size nor a percentage".into();
                }
                wrong
            });
        };
        let (whole, fraction) = percent.split_once('.').unwrap_or((percent, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() > 3 || fraction.len() > 2 {
            return Err(Wrong::is("is not a percentage").fix("write a percentage of max_rss, like 90% or 97.5%"));
        }
        let hundredths = format!("{whole}{fraction:0<2}").parse().unwrap_or(0);
        if !(1..=10_000).contains(&hundredths) {
            return Err(Wrong::is("is out of range").fix("write more than 0% and at most 100%"));
        }
        Ok(Self::Percent(hundredths))
    }

    fn name() -> Cow<'static, str> {
        "Size_or_percentage".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,2})?%$" }, Size::schema()] })
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl FromWord for Time {
    const WHAT: &'static str = "a duration";
    const LIKE: &'static str = "a number with a unit, like 500ms, 10s or 1m30s, or 0";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        duration(&word.text).map(Self)
    }

    fn name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "const": 0 },
            { "type": "string", "pattern": "^(0|([0-9]+(\\.[0-9]+)?\\s*[a-zA-Zµ]+\\s*)+)$" },
            variable(),
        ] })
    }
}

fn duration(text: &str) -> Result<Duration, Wrong> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Err(Wrong::is("has no unit").fix("write seconds as 10s, milliseconds as 500ms, minutes as 5m"));
    }
    let length = humantime::parse_duration(text).map_err(|_| Wrong::is("is not a duration"))?;
    if length > MAX_DURATION {
        return Err(Wrong::is("is more than ten years").fix("write at most 3650d"));
    }
    Ok(length)
}

/// A duration or one word that stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOr<W>(pub(super) Option<Duration>, std::marker::PhantomData<W>);

/// The word of a [`TimeOr`].
pub(super) trait NoTime {
    const WORD: &'static str;
    const LIKE: &'static str;
}

/// `off`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Off;
/// `hold`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold;

impl NoTime for Off {
    const WORD: &'static str = "off";
    const LIKE: &'static str = "a number with a unit, like 500ms or 10s, or off";
}

impl NoTime for Hold {
    const WORD: &'static str = "hold";
    const LIKE: &'static str = "a number with a unit, like 30s or 5m, or hold to wait for a person";
}

impl<W: NoTime> FromWord for TimeOr<W> {
    const WHAT: &'static str = "a duration";
    const LIKE: &'static str = W::LIKE;

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let length = if word.text == W::WORD { None } else { Some(duration(&word.text)?) };
        Ok(Self(length, std::marker::PhantomData))
    }

    fn name() -> Cow<'static, str> {
        format!("Duration_or_{}", W::WORD).into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "const": W::WORD }, Time::schema()] })
    }
}

/// `150ms/1s`: stalled for so long within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) stall: Duration,
    pub(super) window: Duration,
}

impl FromWord for Stall {
    const WHAT: &'static str = "a stall time within a window";
    const LIKE: &'static str = "stall/window, like 150ms/1s";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let (stall, window) =
            word.text.split_once('/').ok_or_else(|| Wrong::is("is not a stall time within a window"))?;
        let (stall, window) = (duration(stall.trim())?, duration(window.trim())?);
        // The kernel's own bounds: Documentation/accounting/psi.rst, "Userspace monitor usage".
        if !(Duration::from_millis(500)..=Duration::from_secs(10)).contains(&window) {
            return Err(Wrong::is("has a window the kernel does not take").fix("write a window from 500ms to 10s"));
        }
        if stall < Duration::from_micros(1) {
            return Err(Wrong::is("has no stall time").fix("write at least 1us before the slash"));
        }
        if stall > window {
            return Err(Wrong::is("stalls for longer than its window").fix("write the shorter time first"));
        }
        Ok(Self { stall, window })
    }

    fn name() -> Cow<'static, str> {
        "Stall".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^[^/]+/[^/]+$" }, variable()] })
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
pub(super) fn signal(text: &str) -> Option<i32> {
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
    fn a_unit_with_b_alone_counts_in_thousands_and_all_others_in_1024s() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("3KB", 3_000),
            ("3kb", 3_000),
            ("3MB", 3_000_000),
            ("3GB", 3_000_000_000),
            ("3TB", 3_000_000_000_000),
            ("3K", 3 << 10),
            ("3m", 3 << 20),
            ("3G", 3 << 30),
            ("3T", 3 << 40),
            ("3KiB", 3 << 10),
            ("3MiB", 3 << 20),
            ("3gib", 3 << 30),
            ("3 MiB", 3 << 20),
            ("1.5GiB", 3 << 29),
            ("0.25KB", 250),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_whole_number_of_bytes_is_no_size() {
        for text in [
            "",
            "MB",
            "-1",
            "-1MB",
            "1.",
            ".5G",
            "1..5M",
            "1.1.1M",
            "0.1KiB",
            "1e6",
            "1e400",
            ".nan",
            "NaN",
            ".inf",
            "1PB",
            "256 potatoes",
            "1  MB",
            " 1MB",
            "1MB ",
            "0x10",
            "1_000",
            "010",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999999999999999999999999",
            "8388608T",
            "0.0000000000001T",
            "١MB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_needs_a_unit_unless_it_is_0() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in
            ["", "10", "-1s", "s", "1 potato", "99999999999999999999s", "4000d", "584554530872y", ".inf", "1e400"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
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
