//! A source file has one purpose; one that grows past [`LIMIT`] lines has probably two.

use crate::tree;

/// Lines of a source file, tests in it included.
const LIMIT: usize = 800;

/// Files that are longer with a reason: (path, lines allowed, why).
const EXCEPTIONS: [(&str, usize, &str); 1] =
    [("crates/kmem-malloc/tests/preload/misuse/table.rs", 1200, "a table, a row for each misuse")];

pub(super) fn check() -> Vec<String> {
    let mut complaints = Vec::new();
    for path in ["crates", "models", "programs"].into_iter().flat_map(tree::files) {
        if !path
            .extension()
            .is_some_and(|extension| ["rs", "c", "h", "sh", "py"].iter().any(|e| extension == *e))
        {
            continue;
        }
        let name = tree::shown(&path);
        let limit = EXCEPTIONS.iter().find(|(file, ..)| *file == name).map_or(LIMIT, |(_, lines, _)| *lines);
        let lines = std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
        if lines > limit {
            complaints.push(format!("{name}: {lines} lines (at most {limit})"));
        }
    }
    complaints
}
