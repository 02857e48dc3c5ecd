//! The letters of `--debug`: the kernel's `slub_debug` option, without the list of names behind a comma.

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

/// Checks the letters; returns the options they turn on, in the order of the table, upper case.
/// No letters ask for what the kernel turns on then: F, Z, P and U.
///
/// # Errors
/// The first letter that is none, with the list of those that are.
pub(crate) fn parse(letters: &str) -> Result<String, String> {
    let mut chosen = [false; LETTERS.len()];
    for letter in letters.chars() {
        let upper = letter.to_ascii_uppercase();
        let Some(index) = LETTERS.iter().position(|(known, _)| *known == upper) else {
            let known: Vec<String> =
                LETTERS.iter().map(|(letter, what)| format!("{letter} {what}")).collect();
            return Err(format!("unknown debug letter '{letter}' (there are: {})", known.join(", ")));
        };
        if upper == '-' {
            chosen = [false; LETTERS.len()];
        } else {
            chosen[index] = true;
        }
    }
    if letters.is_empty() {
        return Ok("FZPU".to_owned());
    }
    Ok(LETTERS.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|((letter, _), _)| *letter).collect())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn letters_in_either_case_and_the_dash() {
        assert_eq!(parse("").unwrap(), "FZPU");
        assert_eq!(parse("fzpu").unwrap(), "FZPU");
        assert_eq!(parse("UF").unwrap(), "FU");
        assert_eq!(parse("O").unwrap(), "O");
        assert_eq!(parse("-").unwrap(), "");
        assert_eq!(parse("FZ-T").unwrap(), "T");
        assert!(
            parse("FX")
                .unwrap_err()
                .starts_with("unknown debug letter 'X' (there are: F consistency checks,")
        );
        assert!(parse("F,kmalloc-64").unwrap_err().contains("','"));
    }
}
