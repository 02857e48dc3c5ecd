//! Words that do not belong: unfinished marks and machine paths anywhere, allocation in the core.

use super::source;
use crate::tree;

/// Unfinished marks and paths of somebody's machine. Spelled in halves, so that this file passes.
const NOWHERE: [&str; 9] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX:"),
    concat!("unimple", "mented!"),
    concat!("to", "do!("),
    concat!("db", "g!("),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// What code below malloc never names: the standard library, and all that allocates.
const NOT_BELOW_MALLOC: [&str; 9] = [
    "std::",
    "alloc::vec",
    "alloc::string",
    "alloc::boxed",
    "extern crate alloc",
    "format!(",
    "vec![",
    "println!(",
    "eprintln!(",
];

/// Crates that run below malloc.
const BELOW_MALLOC: [&str; 3] = ["crates/kmem-core/src", "crates/kmem/src", "crates/kmem-malloc/src"];

pub(super) fn check() -> Vec<String> {
    let mut complaints = Vec::new();
    for path in tree::files("") {
        // What a lock file or a licence says is not ours to word.
        if path.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in NOWHERE.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: `{word}`", tree::shown(&path), number + 1));
            }
        }
    }
    for dir in BELOW_MALLOC {
        for path in tree::files(dir) {
            if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let code = source::code(&text);
            for (number, line) in source::without_tests(&code).lines().enumerate() {
                for word in NOT_BELOW_MALLOC.iter().filter(|word| names(line, word)) {
                    complaints.push(format!("{}:{}: `{word}` below malloc", tree::shown(&path), number + 1));
                }
            }
        }
    }
    complaints
}

/// Whether `line` has `word` at the start of a word (`std::`, not `mystd::`).
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_only() {
        assert!(names("use std::fmt;", "std::"));
        assert!(names("(::std::mem)", "std::"));
        assert!(!names("use my_std::fmt;", "std::"));
    }
}
