//! What the drawings of all engines have in common.

use crate::table::Paint;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Only ASCII characters.
    pub(crate) ascii: bool,
    /// Colours.
    pub(crate) paint: Paint,
}

impl Style {
    /// Between the members of a list.
    pub(crate) fn arrow(self) -> &'static str {
        if self.ascii { " > " } else { " \u{2192} " }
    }

    /// What was left out.
    pub(crate) fn dots(self) -> &'static str {
        if self.ascii { "..." } else { "\u{2026}" }
    }

    /// An object in use.
    pub(crate) fn block(self) -> char {
        if self.ascii { '#' } else { '\u{2588}' }
    }

    /// An object that is free where it lies.
    pub(crate) fn dot(self) -> char {
        if self.ascii { '.' } else { '\u{b7}' }
    }
}

/// A line of a list.
pub(crate) fn entry(what: &str, text: &str) -> String {
    format!("  {what:<17} {text}\n")
}

/// `A4 > A5 > A6`; of more than `named` those in the middle are counted.
pub(crate) fn chain(objects: &[usize], named: usize, name: impl Fn(usize) -> String, style: Style) -> String {
    if objects.is_empty() {
        return "empty".to_owned();
    }
    let mut names: Vec<String> = objects.iter().take(named).map(|object| name(*object)).collect();
    if objects.len() > named {
        names.truncate(named - 2);
        let dots = style.dots();
        names.push(format!("{dots} {} more {dots}", objects.len() - (named - 2) - 1));
        names.push(name(objects[objects.len() - 1]));
    }
    names.join(style.arrow())
}

/// A, B, …, Z, AA, AB, …: what a slab or a page is called.
pub(crate) fn letters(mut number: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'A' + (number % 26) as u8));
        if number < 26 {
            break;
        }
        number = number / 26 - 1;
    }
    letters.iter().rev().collect()
}

/// `1 page`, `2 pages`.
pub(crate) fn plural(number: impl TryInto<u64>, word: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as hexadecimal and text, sixteen a line.
pub(crate) fn hexdump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let visible =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(visible).collect();
        out.push_str(&format!("  {:04x}  {:<47}  {text}\n", index * 16, hex.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: Style = Style { ascii: true, paint: Paint { on: false } };

    #[test]
    fn long_lists_are_shortened() {
        let name = |object: usize| format!("A{object}");
        let list: Vec<usize> = (0..30).collect();
        assert_eq!(
            chain(&list, 12, name, ASCII),
            "A0 > A1 > A2 > A3 > A4 > A5 > A6 > A7 > A8 > A9 > ... 19 more ... > A29"
        );
        assert_eq!(chain(&list[..12], 12, name, ASCII).matches(" > ").count(), 11);
        assert_eq!(chain(&[], 12, name, ASCII), "empty");
    }

    #[test]
    fn names() {
        assert_eq!([0, 25, 26, 27, 702].map(letters), ["A", "Z", "AA", "AB", "AAA"]);
        assert_eq!([plural(1, "page"), plural(0, "page")], ["1 page", "0 pages"]);
    }

    #[test]
    fn bytes_in_hexadecimal() {
        let expected = concat!(
            "  0000  68 65 6c 6c 6f 2c 20 73 6c 61 62 20 00 ff 20 31  hello, slab .. 1\n",
            "  0010  32 33 34 35 36                                   23456\n",
        );
        assert_eq!(hexdump(b"hello, slab \x00\xff 123456"), expected);
    }
}
