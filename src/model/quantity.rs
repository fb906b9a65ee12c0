use std::time::Duration;

/// `256 MiB`, `255.9 MiB`, `512 B`: powers of 1024, one decimal where the number is not whole.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    let unit = units.get(power as usize).copied().unwrap_or("EiB");
    let whole = 1_u64 << (10 * power);
    if bytes.is_multiple_of(whole) {
        return format!("{} {unit}", bytes / whole);
    }
    // Truncated, not rounded: "256.0 MiB" for a peak just below a limit of 256 MiB would look like the limit.
    format!("{}.{} {unit}", bytes / whole, bytes % whole * 10 / whole)
}

/// `250ms`, `5.0s`, `1m30s`: what is exact enough to act on.
#[must_use]
pub fn duration(time: Duration) -> String {
    match time {
        t if t < Duration::from_secs(1) => format!("{}ms", t.as_millis()),
        t if t < Duration::from_secs(60) && t.subsec_nanos() == 0 => format!("{}s", t.as_secs()),
        t if t < Duration::from_secs(60) => format!("{:.1}s", t.as_secs_f64()),
        t => humantime::format_duration(Duration::from_secs(t.as_secs())).to_string().replace(' ', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_where_they_can_be_and_never_rounded_up_to_a_limit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (16 << 20, "16 MiB"),
            ((16 << 20) - 1, "15.9 MiB"),
            (99_999_744, "95.3 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in
            [(0, "0ms"), (250, "250ms"), (5000, "5s"), (7500, "7.5s"), (90_000, "1m30s"), (3_600_000, "1h")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text, "{ms}");
        }
    }
}
