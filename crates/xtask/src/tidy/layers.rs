//! The floors of the core, checked: a module names only modules of the floors below its own.

use std::path::Path;

use super::source;
use crate::tree;

/// The floors from the ground up. A floor may use those before it, and [`VOCABULARY`].
const FLOORS: [&str; 14] = [
    "platform", "fetch", "sync", "report", "fault", "page", "percpu", "reclaim", "debug", "guard", "engine",
    "cache", "kmalloc", "view",
];

/// Plain types that every floor speaks with.
const VOCABULARY: [&str; 2] = ["flags", "gfp"];

/// The value that owns one of each floor, and what it is built for. The floors from [`ON_THE_HEAP`] up are
/// methods of it; those below must do without.
const ROOF: [&str; 3] = ["lib", "heap", "config"];
const ON_THE_HEAP: &str = "cache";

/// A use that goes up on purpose: (file, module, why).
const EXCEPTIONS: [(&str, &str, &str); 8] = [
    ("platform.rs", "page", "the contract hands over the memory of page descriptors"),
    ("platform.rs", "percpu", "the contract names how CPUs are owned"),
    ("cache/bootstrap.rs", "kmalloc", "the heap's start makes the caches of the size classes"),
    ("cache/objects.rs", "kmalloc", "what a wrong free is called"),
    ("cache/guarding.rs", "kmalloc", "what a wrong free is called"),
    ("cache/debugging.rs", "kmalloc", "what a wrong free is called"),
    ("cache/letters.rs", "kmalloc", "the geometry of a class that gets letters"),
    ("cache/watched.rs", "kmalloc", "what a wrong free is called"),
];

pub(super) fn check() -> Vec<String> {
    let base = tree::root().join("crates/kmem-core/src");
    let mut complaints = Vec::new();
    let mut excused = Vec::new();
    for path in tree::files("crates/kmem-core/src") {
        let relative = path.strip_prefix(&base).unwrap_or(&path);
        if path.extension().is_none_or(|extension| extension != "rs") || relative.ends_with("tests.rs") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let code = source::code(&text);
        for (line, module, complaint) in check_file(relative, source::without_tests(&code)) {
            let excuse =
                EXCEPTIONS.iter().position(|&(file, name, _)| relative == Path::new(file) && name == module);
            match excuse {
                Some(at) => excused.push(at),
                None => complaints.push(format!("{}:{line}: {complaint}", tree::shown(&path))),
            }
        }
    }
    for (at, (file, module, _)) in EXCEPTIONS.iter().enumerate().filter(|(at, _)| !excused.contains(at)) {
        complaints.push(format!("exception {at}, {file} uses `{module}`, is no longer true: remove it"));
    }
    complaints
}

/// What is wrong with one file: line, module used, text. `path` is relative to the crate's `src`.
fn check_file(path: &Path, code: &str) -> Vec<(usize, String, String)> {
    let mut module: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let own = module[0].as_str();
    if ROOF.contains(&own) {
        return Vec::new();
    }
    let Some(height) = height(own) else {
        let text =
            format!("module `{own}` stands on no floor: add it to the table in xtask's tidy/layers.rs");
        return vec![(1, own.to_owned(), text)];
    };
    let may_use_heap = Some(height) >= self::height(ON_THE_HEAP);
    let mut found = Vec::new();
    for (line, used) in uses(code, module.len()) {
        let above = self::height(&used)
            .map_or(ROOF.contains(&used.as_str()) && !may_use_heap, |other| other >= height);
        if used != own && above {
            let text = format!("`{own}` uses `{used}`, which does not lie below it");
            found.push((line, used, text));
        }
    }
    found
}

fn height(module: &str) -> Option<usize> {
    if VOCABULARY.contains(&module) {
        return Some(0);
    }
    FLOORS.iter().position(|&floor| floor == module).map(|floor| floor + 1)
}

/// The top modules that paths in `code` name, through `crate::` or enough `super::`, with their lines.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let supers = "super::".repeat(depth);
    for prefix in ["crate::", supers.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + prefix.len()..];
            for name in first_names(rest) {
                found.push((line, name));
            }
        }
    }
    found
}

/// The first segments of what follows `crate::`: one name, or the heads of a braced list.
fn first_names(rest: &str) -> Vec<String> {
    let name =
        |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_upward_is_found_in_every_form() {
        let complaints = |path: &str, code: &str| check_file(Path::new(path), code).len();
        assert_eq!(complaints("page/mod.rs", "use crate::platform::Platform;\nuse crate::sync::Lock;"), 0);
        assert_eq!(complaints("page/mod.rs", "use crate::engine::slub::Slab;"), 1);
        assert_eq!(complaints("page/buddy.rs", "use crate::{gfp::Gfp, cache::{Cache, x}, view};"), 2);
        assert_eq!(complaints("page/buddy.rs", "use super::super::kmalloc::x; use super::desc::Page;"), 1);
        assert_eq!(complaints("cache/mod.rs", "fn f(x: crate::engine::E, y: crate::page::Page) {}"), 0);
        assert_eq!(complaints("flags.rs", "use crate::platform::Platform;"), 1);
        assert_eq!(complaints("engine/slub/mod.rs", "use crate::heap::Kmem;"), 1);
        assert_eq!(complaints("kmalloc/mod.rs", "use crate::heap::Kmem; use crate::config::Config;"), 0);
        assert_eq!(complaints("surprise.rs", ""), 1);
        assert_eq!(complaints("heap.rs", "use crate::view::x;"), 0);
        assert_eq!(complaints("page/mod.rs", "use mycrate::engine::x;"), 0);
    }
}
