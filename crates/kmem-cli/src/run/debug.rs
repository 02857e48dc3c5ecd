//! The argument of `--debug`: the grammar of the kernel's `slub_debug` option, checked before the program starts.

use kmem_core::debug::options;
use kmem_core::engine::Engine as _;
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;

use crate::cli::Engine;

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
/// The first letter that is none, with the list of those that are; letters of which the engine has no checks for any.
pub(crate) fn check(text: &str, engine: Engine) -> Result<(), String> {
    if let Some(letter) = options::unknown(text).next() {
        let known: Vec<String> = LETTERS.iter().map(|(letter, what)| format!("{letter} {what}")).collect();
        return Err(format!("unknown debug letter '{letter}' (there are: {})", known.join(", ")));
    }
    let asked = options::asked(text);
    if asked.is_empty() || asked.intersects(checks_of(engine)) {
        return Ok(());
    }
    let (letters, engine) = (options::shown(asked), engine.name());
    Err(format!("--debug: the engine {engine} has no checks for {letters} (slub and slab have)"))
}

/// The letters that an engine has checks for.
const fn checks_of(engine: Engine) -> SlabFlags {
    let checks = match engine {
        Engine::Slub => Slub::LETTERS,
        Engine::Slab => Slab::LETTERS,
        Engine::Slob => Slob::LETTERS,
    };
    // No check, but every engine's.
    checks.union(SlabFlags::FAILSLAB)
}

#[cfg(test)]
mod tests {
    use super::{Engine, LETTERS};

    fn check(text: &str) -> Result<(), String> {
        super::check(text, Engine::Slub)
    }

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
    fn an_engine_without_checks_refuses_letters_that_ask_for_some() {
        let slob = |text| super::check(text, Engine::Slob);
        assert_eq!(
            slob("Z,kmalloc-64").unwrap_err(),
            "--debug: the engine slob has no checks for Z (slub and slab have)"
        );
        assert!(slob("").unwrap_err().contains(" FZPU "));
        assert_eq!((slob("-"), slob("FZ-")), (Ok(()), Ok(())));
    }

    #[test]
    fn the_list_is_that_of_the_library() {
        for (letter, what) in LETTERS {
            assert_eq!(check(&letter.to_string()), Ok(()), "{what}");
        }
        assert_eq!((' '..='~').filter(|c| check(&c.to_string()).is_ok()).count(), 2 * 7 + 3);
    }
}
