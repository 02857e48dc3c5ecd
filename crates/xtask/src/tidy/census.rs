//! The census of `unsafe`: how many blocks, functions and implementations each file has, written down in
//! `golden/unsafe-census.txt` so that a review sees the change.

use std::fmt::Write;

use super::source;
use crate::tree;

const FILE: &str = "golden/unsafe-census.txt";

/// Crates whose `unsafe` is counted: those that a user's process runs.
const CRATES: [&str; 4] =
    ["crates/kmem-core/src", "crates/kmem/src", "crates/kmem-malloc/src", "crates/kmem-sim/src"];

const HEADER: &str = "\
# Places with `unsafe` outside tests: blocks, functions (declared, or extern blocks), trait implementations and traits.
# Written by `cargo xtask tidy --bless`. A row that grows wants its reason in the change that grows it.
#
# blocks functions impls file
";

pub(super) fn check(bless: bool) -> Vec<String> {
    let now = census();
    let path = tree::root().join(FILE);
    if bless {
        return match std::fs::write(&path, &now) {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{FILE}: {error}")],
        };
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let mut complaints: Vec<String> = Vec::new();
    complaints.extend(
        before.lines().filter(|row| !now.lines().any(|line| line == *row)).map(|row| format!("- {row}")),
    );
    complaints.extend(
        now.lines().filter(|row| !before.lines().any(|line| line == *row)).map(|row| format!("+ {row}")),
    );
    if !complaints.is_empty() {
        complaints.push("`cargo xtask tidy --bless` writes the new census".to_owned());
    }
    complaints
}

fn census() -> String {
    let mut out = String::from(HEADER);
    for dir in CRATES {
        let mut sum = [0; 3];
        for path in tree::files(dir) {
            if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let code = source::code(&text);
            let row = count(source::without_tests(&code));
            if row != [0; 3] {
                writeln!(out, "{:>8} {:>9} {:>5} {}", row[0], row[1], row[2], tree::shown(&path))
                    .expect("a string");
            }
            sum.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
        }
        writeln!(out, "{:>8} {:>9} {:>5} {dir} in all", sum[0], sum[1], sum[2]).expect("a string");
    }
    out
}

/// Blocks, functions and implementations marked `unsafe`. Attributes such as `#[unsafe(no_mangle)]` are none.
fn count(code: &str) -> [usize; 3] {
    let mut count = [0; 3];
    for at in source::whole_words(code, "unsafe") {
        let after = &code[at + "unsafe".len()..];
        let after = after.trim_start();
        if after.starts_with('{') {
            count[0] += 1;
        } else if after.starts_with("fn") || after.starts_with("extern") {
            count[1] += 1;
        } else if after.starts_with("impl") || after.starts_with("trait") {
            count[2] += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_once() {
        let code = "#[unsafe(no_mangle)] pub unsafe extern \"C\" fn a() { unsafe { b() } }\n\
                    unsafe impl Send for X {} unsafe\n{ c() } pub unsafe fn d() {} fn unsafe_name() {}";
        assert_eq!(count(code), [2, 2, 1]);
    }
}
