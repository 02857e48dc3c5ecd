//! The argument of `--debug`: the grammar of the kernel's `slub_debug` option, checked before the program starts.

use kmem_core::debug::options;

/// What each letter asks for.
const LETTERS: &[(char, &str)] = &[
    ('F', "consistency checks"),
    ('Z', "red zones"),
    ('P', "poisoning"),
    ('U', "user tracking"),
    ('T', "trace"),
    ('A', "fault injection"),
    ('O', "no debugging that would raise a cache's order"),
    ('-', "none of the letters before it"),
];

/// Checks the letters of all blocks. What is good is passed on to the library as it stands.
///
/// # Errors
/// The first letter that is none, with the list of those that are.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let Some(letter) = options::unknown(text).next() else { return Ok(()) };
    let known: Vec<String> = LETTERS.iter().map(|(letter, what)| format!("{letter} {what}")).collect();
    Err(format!("unknown debug letter '{letter}' (there are: {})", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{LETTERS, check};

    #[test]
    fn letters_of_all_blocks_are_checked() {
        for good in ["", "fzpu", "FZPUTAO-", "-", "F,kmalloc-64", "Z,a,b*;,c;;PU"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let refused = check("FX").unwrap_err();
        assert!(
            refused.starts_with("unknown debug letter 'X' (there are: F consistency checks,"),
            "{refused}"
        );
        assert!(check("F;,x;q").unwrap_err().contains("'q'"));
    }

    #[test]
    fn the_list_is_that_of_the_library() {
        for (letter, what) in LETTERS {
            assert_eq!(check(&letter.to_string()), Ok(()), "{what}");
        }
        assert_eq!((' '..='~').filter(|c| check(&c.to_string()).is_ok()).count(), 2 * 7 + 3);
    }
}
