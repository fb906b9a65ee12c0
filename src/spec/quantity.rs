//! Sizes and durations: how they are written, their range and their JSON Schema.

use std::{borrow::Cow, time::Duration};

use schemars::{Schema, json_schema};

use super::{
    decode::{FromWord, Word, Wrong},
    units::{Limited, variable},
};

/// The longest duration of a configuration: ten years. Sums of a few of them are far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// What [`size`] reads, as far as it needs no reckoning. Without a unit there is no leading zero.
const SIZE: &str =
    r"((0|[1-9][0-9]{0,19})(\.[0-9]{1,12})? ?|[0-9]{1,20}(\.[0-9]{1,12})? ?([kKmMgGtT]([iI]?[bB])?|[bB]))";

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
            { "type": "string", "pattern": format!("^{SIZE}$") },
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

impl Limited for Size {
    const LIKE_OR_MAX: &'static str = "bytes or a unit, like 256MB or 256MiB, or max for no limit";
}

impl Limited for Share {
    const LIKE_OR_MAX: &'static str = "a size or a share of max_rss, like 200MiB or 90%, or max for none";
}

/// The slowest rate limit, in bytes a second: below it a line would take longer than a person waits.
const MIN_RATE: u64 = 1 << 10;

/// `logs.rate_limit`: bytes a second, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateOrNone(pub(super) Option<u64>);

impl FromWord for RateOrNone {
    const WHAT: &'static str = "a rate";
    const LIKE: &'static str = "bytes a second, like 1MiB/s or 500KB/s, or none";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        if word.text == "none" {
            return Ok(Self(None));
        }
        let bytes = word.text.strip_suffix("/s").ok_or_else(|| Wrong::is("is not a rate")).and_then(size)?;
        if bytes < MIN_RATE {
            return Err(Wrong::is("is too slow").fix("write at least 1KiB/s, or none for no limit"));
        }
        Ok(Self(Some(bytes)))
    }

    fn name() -> Cow<'static, str> {
        "Rate_or_none".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "const": "none" },
            { "type": "string", "pattern": format!("^{SIZE}/s$") },
            variable(),
        ] })
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
        // 100, 1 to 99 and what is less, without a lookahead, which not everybody's regular expressions have.
        let parts = [r"100(\.00?)?", r"(0{0,2}[1-9]|0?[1-9][0-9])(\.[0-9]{1,2})?", r"0{1,3}\.(0[1-9]|[1-9][0-9]?)"];
        json_schema!({ "anyOf": [{ "type": "string", "pattern": format!("^({})%$", parts.join("|")) }, Size::schema()] })
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
            { "type": "string", "pattern": format!("^{DURATION}$") },
            variable(),
        ] })
    }
}

/// What [`duration`] reads, as far as it needs no reckoning. humantime overlooks white space between digits. (What a regular
/// expression of JSON Schema takes for white space and what Unicode does differ in U+0085 and U+FEFF, which nobody types.)
const DURATION: &str = concat!(
    r"(0|\s*([0-9][0-9\s]*(\.\s*[0-9][0-9\s]*)?(nanos|nsec|ns|usec|us|µs|millis|msec|ms|sec(ond)?s?|s|",
    r"min(ute)?s?|m|h(ou)?rs?|h|days?|d|weeks?|wks?|w|months?|years?|yrs?|y)\s*)+)",
);

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Err(Wrong::is("has no unit").fix("write seconds as 10s, milliseconds as 500ms, minutes as 5m"));
    }
    if text.contains('M') {
        return Err(Wrong::is("is ambiguous: M could be months").fix("write m for minutes, or days as 30d"));
    }
    let mut sum = Duration::ZERO;
    // One at a time: the sum of several that together are as long as can be counted has humantime panic.
    for span in spans(text) {
        // humantime has a 0 alone, which is no part of more.
        if span == "0" {
            return Err(Wrong::is("is not a duration"));
        }
        let length = humantime::parse_duration(span).map_err(|error| match error {
            humantime::DurationError::NumberOverflow => {
                Wrong::is("is too long, or finer than a nanosecond").fix("write at most 3650d, in whole nanoseconds")
            }
            _ => Wrong::is("is not a duration"),
        })?;
        sum = sum.saturating_add(length);
        if sum > MAX_DURATION {
            return Err(Wrong::is("is more than ten years").fix("write at most 3650d"));
        }
    }
    Ok(sum)
}

/// `1m`, `30s` of `1m30s`: each number with what follows it.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let mut unit = false;
    let ends = text.char_indices().filter_map(move |(at, c)| {
        let begins = unit && c.is_ascii_digit();
        unit = !begins && (unit || c.is_alphabetic());
        begins.then_some(at)
    });
    let mut from = 0;
    ends.chain([text.len()]).map(move |end| &text[std::mem::replace(&mut from, end)..end])
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
        let pattern = format!(r"^\s*{DURATION}\s*/\s*{DURATION}\s*$");
        json_schema!({ "anyOf": [{ "type": "string", "pattern": pattern }, variable()] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::decode::Style;

    /// What is refused for what it comes to, and not for how it is written.
    const RECKONED: [&str; 8] = [
        "is too slow",
        "is not a whole number of bytes",
        "is more than 8 EiB, the most the kernel can count",
        "is more than ten years",
        "is too long, or finer than a nanosecond",
        "has a window the kernel does not take",
        "has no stall time",
        "stalls for longer than its window",
    ];

    fn agrees<T: FromWord>(text: &str) -> Result<(), TestCaseError> {
        thread_local! {
            static KNOWN: std::cell::RefCell<std::collections::BTreeMap<String, jsonschema::Validator>> = std::cell::RefCell::default();
        }
        let valid = KNOWN.with_borrow_mut(|known| {
            let validator = known
                .entry(T::name().into_owned())
                .or_insert_with(|| jsonschema::draft7::new(T::schema().as_value()).unwrap());
            validator.is_valid(&text.into())
        });
        match T::from_word(&Word { text: text.into(), style: Style::Quoted }) {
            Ok(_) => prop_assert!(valid, "the schema of {} refuses {text:?}", T::name()),
            Err(wrong) if RECKONED.contains(&&*wrong.is) => {}
            Err(wrong) => prop_assert!(!valid, "the schema of {} takes {text:?}, which {}", T::name(), wrong.is),
        }
        Ok(())
    }

    fn all_agree(text: &str) -> Result<(), TestCaseError> {
        agrees::<Size>(text)?;
        agrees::<RateOrNone>(text)?;
        agrees::<Share>(text)?;
        agrees::<Time>(text)?;
        agrees::<TimeOr<Off>>(text)?;
        agrees::<TimeOr<Hold>>(text)?;
        agrees::<Stall>(text)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_schema_says_of_every_quantity_what_the_parser_says(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "0", "1", "9", "12", "00", "100", "123456789012", ".", ".5", ".25", "%", "/", "/s", " ", "\t", "\u{a0}",
                     "s", "ms", "m", "h", "M", "d", "µs", "μs", "us", "ns", "sec", "seconds", "secs", "min", "mins", "minutes",
                    "hr", "hrs", "hour", "hours", "day", "week", "wks", "month", "months", "y", "yrs", "yr", "years", "K", "k", "MiB",
                    "kb", "b", "B", "T", "GIB", "P", "-", "+", "e", "none", "off", "hold", "\u{661}", "\n",
                ]),
                0..7,
            ),
        ) {
            all_agree(&parts.concat())?;
        }

        #[test]
        fn and_of_what_looks_like_one(text in r"[0-9]{1,3}(\.[0-9]{0,3})?[ \t]?(s|ms|m|h|d|%|[kKmMgGtT]?[iI]?[bB]?(/s)?|)( ?/? ?[0-9]{1,2}(m?s)?)?") {
            all_agree(&text)?;
        }
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
        for text in [
            "",
            "10",
            "-1s",
            "s",
            "1 potato",
            "1m0",
            "0s0",
            "99999999999999999999s",
            "18446744073709551615s1000ms",
            "1s18446744073709551615s",
            "4000d",
            "584554530872y",
            ".inf",
            "1e400",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
