//! Keys, from the bytes that a terminal sends for them.
//!
//! A terminal sends a key in one piece, so an escape that nothing follows is the key of that name. What is no key that the view
//! knows is passed over, whatever it is: bytes come from outside.

/// A key of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Esc.
    Esc,
    /// Backspace.
    Backspace,
    /// ^C.
    Interrupt,
    /// Arrow.
    Up,
    /// Arrow.
    Down,
    /// Arrow.
    Left,
    /// Arrow.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
}

/// The keys that these bytes are.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (key, rest) = match (first, rest) {
            (0x1b, []) => (Some(Key::Esc), rest),
            (0x1b, [b'[' | b'O', rest @ ..]) => sequence(rest),
            // With Alt: the key is what follows.
            (0x1b, rest) => (None, rest),
            (b'\r' | b'\n', rest) => (Some(Key::Enter), rest),
            (0x7f | 0x08, rest) => (Some(Key::Backspace), rest),
            (0x03, rest) => (Some(Key::Interrupt), rest),
            (b' '..=b'~', rest) => (Some(Key::Char(char::from(*first))), rest),
            (_, rest) => (None, rest),
        };
        keys.extend(key);
        bytes = rest;
    }
    keys
}

/// Numbers and a last byte that tells what it is; of the numbers those behind the first are Shift and its like.
fn sequence(bytes: &[u8]) -> (Option<Key>, &[u8]) {
    let Some(at) = bytes.iter().position(|byte| (0x40..=0x7e).contains(byte)) else { return (None, &[]) };
    let number = bytes[..at].split(|byte| *byte == b';').next().unwrap_or_default();
    let key = match (bytes[at], number) {
        (b'A', _) => Some(Key::Up),
        (b'B', _) => Some(Key::Down),
        (b'C', _) => Some(Key::Right),
        (b'D', _) => Some(Key::Left),
        (b'H', _) | (b'~', b"1" | b"7") => Some(Key::Home),
        (b'F', _) | (b'~', b"4" | b"8") => Some(Key::End),
        (b'~', b"5") => Some(Key::PageUp),
        (b'~', b"6") => Some(Key::PageDown),
        _ => None,
    };
    (key, &bytes[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_keys() {
        for (bytes, keys) in [
            (&b"q"[..], &[Key::Char('q')][..]),
            (b"\x1b", &[Key::Esc]),
            (b"\x1b[A\x1bOB\x1b[1;2C\x1b[D", &[Key::Up, Key::Down, Key::Right, Key::Left]),
            (b"\x1b[5~\x1b[6;5~", &[Key::PageUp, Key::PageDown]),
            (b"\x1b[H\x1b[F\x1b[1~\x1b[4~", &[Key::Home, Key::End, Key::Home, Key::End]),
            (b"\r\x03\x7f", &[Key::Enter, Key::Interrupt, Key::Backspace]),
            (b"s\x1b[H\x1b", &[Key::Char('s'), Key::Home, Key::Esc]),
            ("\u{e4}q".as_bytes(), &[Key::Char('q')]),
            (b"\x1b[", &[]),
            (b"\x1b[12", &[]),
            (b"\x1b[2~\x1b[99999999999999999999~q", &[Key::Char('q')]),
            (b"\x1bx", &[Key::Char('x')]),
            (b"", &[]),
        ] {
            assert_eq!(parse(bytes), keys, "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_are_too_much() {
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..7)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\x1b[O;~A1\xff\x00q"[(state >> 16) as usize % 10]
                })
                .collect();
            assert!(parse(&bytes).len() <= bytes.len());
        }
    }
}
