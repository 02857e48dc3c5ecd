//! A source file has one purpose; one that grows past [`LIMIT`] lines has probably two.

use crate::tree;

/// Lines of a source file, tests in it included.
const LIMIT: usize = 800;

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
        let lines = std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
        if lines > LIMIT {
            complaints.push(format!("{name}: {lines} lines (at most {LIMIT})"));
        }
    }
    complaints
}
