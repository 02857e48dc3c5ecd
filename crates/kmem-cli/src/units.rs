//! Numbers for people: bytes in binary units, counts with separators, shares in percent.

/// Bytes in at most three significant digits: `0`, `812`, `4.0K`, `37.5M`, `1.2G`. Units are powers of 1024.
pub(crate) fn bytes(value: u64) -> String {
    if value < 1024 {
        return value.to_string();
    }
    let mut scaled = value as f64 / 1024.0;
    for unit in ["K", "M", "G", "T", "P"] {
        // 1023.95 would print as "1024.0": it belongs to the next unit.
        if scaled < 99.95 {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 1023.5 {
            return format!("{scaled:.0}{unit}");
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1}E")
}

/// The bytes that a user means: a number, or one with `k`, `M` or `G` (powers of 1024) behind it.
///
/// # Errors
/// What is expected instead.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number =
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes is expected, like 1048576, 512k or 8M".to_owned())
}

/// A count with a comma every three digits: `1,048,576`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent, never rounded up to 100 nor down to 0 when it is neither; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    if part < whole && share >= 99.95 {
        return "99.9".to_owned();
    }
    if part > 0 && share < 0.05 {
        return "0.1".to_owned();
    }
    if part == whole { "100".to_owned() } else { format!("{share:.1}") }
}

/// A duration in seconds: `0.042 s`, `3.21 s`, `2 min 05 s`.
pub(crate) fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{seconds:.3} s")
    } else if seconds < 120.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_change_unit_where_the_digits_would_overflow() {
        for (value, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (102_348, "99.9K"),
            (102_400, "100K"),
            (1_048_575, "1.0M"),
            (1_048_576, "1.0M"),
            (5 << 30, "5.0G"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(bytes(value), text, "{value}");
        }
    }

    #[test]
    fn bytes_are_read_with_their_unit() {
        for (text, value) in
            [("0", 0), ("1048576", 1 << 20), ("512k", 512 << 10), ("8M", 8 << 20), ("3G", 3 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(value), "{text}");
        }
        for text in ["", "k", "much", "-1", "+1", "1.5M", "8 M", "8MB", "8T", "99999999999G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_grouped_by_three() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn percent_says_all_or_nothing_only_when_it_is_so() {
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(0, 10), "0.0");
        assert_eq!(percent(1, 1_000_000), "0.1");
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(percent(999_999, 1_000_000), "99.9");
        assert_eq!(percent(7, 7), "100");
    }

    #[test]
    fn durations() {
        use std::time::Duration;
        assert_eq!(duration(Duration::from_millis(42)), "0.042 s");
        assert_eq!(duration(Duration::from_millis(3_210)), "3.21 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
    }
}
