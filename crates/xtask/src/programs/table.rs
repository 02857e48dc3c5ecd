//! How the programs suite is shown: one row a variant, and a short difference where outputs part.

use std::time::Duration;

use super::Measured;
use super::case::Variant;
use crate::library::Engine;

/// Lines of a difference that are shown.
const SHOWN: usize = 12;

pub(super) fn head(engine: Engine) {
    println!(
        "{:<15} {:<9} {:<6} {:>7} {:>6} {:>7} {:>6} {:>9} {:>6}",
        "program",
        "on",
        engine.name(),
        "wall s",
        "x",
        "cpu s",
        "x",
        "peak MiB",
        "x"
    );
}

/// One variant's row; ratios are to the system's row.
pub(super) fn row(case: &str, row: &Measured, system: &Measured) {
    let name = if row.variant == Variant::System { case } else { "" };
    let word = match (row.wrong.is_empty(), row.variant) {
        (false, _) => "FAILED",
        (true, Variant::System) => "",
        (true, _) => "same",
    };
    let ratio = |a: f64, b: f64| {
        if row.variant == Variant::System { String::new() } else { format!("{:.2}", a / b.max(1e-9)) }
    };
    let seconds = Duration::as_secs_f64;
    println!(
        "{name:<15} {:<9} {word:<6} {:>7.2} {:>6} {:>7.2} {:>6} {:>9.1} {:>6}",
        row.variant.name(),
        seconds(&row.wall),
        ratio(seconds(&row.wall), seconds(&system.wall)),
        seconds(&row.cpu),
        ratio(seconds(&row.cpu), seconds(&system.cpu)),
        row.peak as f64 / f64::from(1 << 20),
        ratio(row.peak as f64, system.peak as f64),
    );
}

/// The lines in which two outputs differ, `-` the expected and `+` the other, cut after a few.
pub(super) fn difference(expected: &[u8], other: &[u8]) -> String {
    let (expected, other) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(other));
    let (mut a, mut b) = (expected.lines(), other.lines());
    let mut out = String::new();
    let mut lines = 0;
    loop {
        let pair = (a.next(), b.next());
        if pair == (None, None) || lines >= SHOWN {
            break;
        }
        if pair.0 != pair.1 {
            for (mark, line) in [('-', pair.0), ('+', pair.1)] {
                if let Some(line) = line {
                    out.push_str(&format!("{mark} {line}\n"));
                    lines += 1;
                }
            }
        }
    }
    if out.is_empty() { "(only in line ends)\n".to_owned() } else { out }
}

/// The last `lines` lines.
pub(super) fn tail(text: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_short_and_complete() {
        assert_eq!(difference(b"a\nb\nc\n", b"a\nx\nc\nd\n"), "- b\n+ x\n+ d\n");
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(difference(many.as_bytes(), b"").lines().count(), SHOWN);
        assert_eq!(difference(b"a", b"a\n"), "(only in line ends)\n");
        assert_eq!(tail(b"a\nb\nc\n", 2), "b\nc\n");
    }
}
