//! The grammar of the debug options (`slub_debug=` of a kernel's command line).
//!
//! ```text
//! blocks  := block { ";" block }                    empty blocks are skipped
//! block   := letters [ "," names ] | "," names
//! letters := { F | Z | P | U | T | A | O | "-" }    either case
//! names   := pattern { "," pattern }
//! pattern := exact name of a cache | prefix "*"     the text after the star is ignored
//! ```
//! No text at all is no option; an empty text means F Z P U for every cache.
//!
//! # Rules
//! - A block without names sets the default of all caches; the last one wins. When there is none, but blocks
//!   with names, the default stays what the heap was built with.
//! - For a cache the first block with a matching pattern counts: its letters are added to the creator's, the
//!   default is not.
//! - A cache with [`SlabFlags::NO_USER_FLAGS`] ignores everything; one with [`SlabFlags::NOLEAKTRACE`] drops U
//!   from the default, but not from a block that names it.
//!
//! Pure functions over the text: nothing is parsed ahead, nothing is allocated. Caches are made rarely.

use core::fmt;

use crate::flags::SlabFlags;

/// What an empty text, or a block that starts with its names, asks for.
pub const ALL: SlabFlags = SlabFlags::CONSISTENCY_CHECKS
    .union(SlabFlags::RED_ZONE)
    .union(SlabFlags::POISON)
    .union(SlabFlags::STORE_USER);

/// One block of the text.
struct Block<'a> {
    /// Nothing: the block starts with its names.
    letters: Option<&'a str>,
    names: Option<&'a str>,
}

impl<'a> Block<'a> {
    fn of(text: &'a str) -> Self {
        match text.split_once(',') {
            None => Self { letters: Some(text), names: None },
            Some(("", names)) => Self { letters: None, names: Some(names) },
            Some((letters, names)) => Self { letters: Some(letters), names: Some(names) },
        }
    }

    fn flags(&self) -> SlabFlags {
        let Some(letters) = self.letters else { return ALL };
        letters.chars().fold(SlabFlags::empty(), |flags, letter| match meaning(letter) {
            Some(Letter::Flag(flag)) => flags | flag,
            Some(Letter::Clear) => SlabFlags::empty(),
            Some(Letter::KeepOrder) | None => flags,
        })
    }

    fn names(&self, name: &str) -> bool {
        self.names.is_some_and(|names| names.split(',').any(|pattern| matches(pattern, name)))
    }
}

enum Letter {
    Flag(SlabFlags),
    Clear,
    KeepOrder,
}

fn meaning(letter: char) -> Option<Letter> {
    Some(match letter.to_ascii_lowercase() {
        '-' => Letter::Clear,
        'f' => Letter::Flag(SlabFlags::CONSISTENCY_CHECKS),
        'z' => Letter::Flag(SlabFlags::RED_ZONE),
        'p' => Letter::Flag(SlabFlags::POISON),
        'u' => Letter::Flag(SlabFlags::STORE_USER),
        't' => Letter::Flag(SlabFlags::TRACE),
        'a' => Letter::Flag(SlabFlags::FAILSLAB),
        'o' => Letter::KeepOrder,
        _ => return None,
    })
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((prefix, _)) => name.starts_with(prefix),
        None => !pattern.is_empty() && pattern == name,
    }
}

fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    text.split(';').filter(|block| !block.is_empty()).map(Block::of)
}

/// The flags of a new cache of this name: those of its creator and what the options add. `built_in`: the
/// default of a heap that was given no options.
#[must_use]
pub fn flags_for(text: Option<&str>, built_in: SlabFlags, name: &str, flags: SlabFlags) -> SlabFlags {
    if flags.contains(SlabFlags::NO_USER_FLAGS) {
        return flags;
    }
    if let Some(block) = blocks(text.unwrap_or_default()).find(|block| block.names(name)) {
        return flags | block.flags();
    }
    let mut default = default_flags(text, built_in);
    if flags.contains(SlabFlags::NOLEAKTRACE) {
        default -= SlabFlags::STORE_USER;
    }
    flags | default
}

/// What the options ask of caches that no block names.
fn default_flags(text: Option<&str>, built_in: SlabFlags) -> SlabFlags {
    let Some(text) = text else { return built_in };
    if text.is_empty() {
        return ALL;
    }
    let mut named = false;
    let mut unnamed = None;
    for block in blocks(text) {
        match block.names {
            None => unnamed = Some(block.flags()),
            Some(_) => named = true,
        }
    }
    unnamed.unwrap_or(if named { built_in } else { SlabFlags::empty() })
}

/// The letters that a text, given while a heap is used, says a cache shall have: those of the block that names it, or else of the
/// last block without names. Nothing: it says nothing of this cache.
#[must_use]
pub fn said_of(text: &str, name: &str, flags: SlabFlags) -> Option<SlabFlags> {
    let named = blocks(text).any(|block| block.names(name));
    let all = text.is_empty() || blocks(text).any(|block| block.names.is_none());
    ((named || all) && !flags.contains(SlabFlags::NO_USER_FLAGS)).then(|| {
        let origin = flags & SlabFlags::NOLEAKTRACE;
        flags_for(Some(text), SlabFlags::empty(), name, origin) - origin
    })
}

/// What holds for new caches after `text` was said, where `before` held: the text alone if it says something of all caches,
/// else its blocks in front of those before, as the first that names a cache counts.
///
/// # Errors
/// What `out` answers: there is no room.
pub fn joined(out: &mut dyn fmt::Write, text: &str, before: Option<&str>) -> fmt::Result {
    out.write_str(text)?;
    match before.filter(|_| !text.is_empty() && blocks(text).all(|block| block.names.is_some())) {
        // No letters of a default: F Z P U for all.
        Some("") => write!(out, ";{}", shown(ALL)),
        Some(before) => write!(out, ";{before}"),
        None => Ok(()),
    }
}

/// True (letter O, in any block): a cache does without its metadata where they would raise its least order.
#[must_use]
pub fn keep_order(text: Option<&str>) -> bool {
    letters(text.unwrap_or_default()).any(|letter| matches!(meaning(letter), Some(Letter::KeepOrder)))
}

/// The letters that mean nothing, in the order in which they stand in the text.
pub fn unknown(text: &str) -> impl Iterator<Item = char> + '_ {
    letters(text).filter(|&letter| meaning(letter).is_none())
}

/// All letters that the options ask for, of whatever caches.
#[must_use]
pub fn asked(text: &str) -> SlabFlags {
    if text.is_empty() {
        return ALL;
    }
    blocks(text).fold(SlabFlags::empty(), |all, block| all | block.flags())
}

fn letters(text: &str) -> impl Iterator<Item = char> + '_ {
    blocks(text).flat_map(|block| block.letters.unwrap_or_default().chars())
}

/// The letters of a cache's flags, as a user would write them; `-` for none.
#[must_use]
pub fn shown(flags: SlabFlags) -> impl fmt::Display {
    struct Letters(SlabFlags);
    impl fmt::Display for Letters {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut any = false;
            for letter in ['F', 'Z', 'P', 'U', 'T', 'A'] {
                if let Some(Letter::Flag(flag)) = meaning(letter)
                    && self.0.contains(flag)
                {
                    fmt::Write::write_char(f, letter)?;
                    any = true;
                }
            }
            if any { Ok(()) } else { fmt::Write::write_char(f, '-') }
        }
    }
    Letters(flags)
}

#[cfg(test)]
#[path = "options/tests.rs"]
mod tests;
