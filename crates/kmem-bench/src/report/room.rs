//! How much room there is: beside the floors, which do (nearly) nothing.

use std::fmt::Write;

use super::{best, mean};
use crate::contest::{Line, Results, Standing};
use crate::rows::Work;

/// The floor that does a row in the way in which kmem does it: through calls, or inlined. Of several the last, which does most.
fn floor(results: &Results, line: &Line) -> Option<usize> {
    let inlined = matches!(line.row.work, Work::Typed { .. });
    let standing = if inlined { Standing::Inlined } else { Standing::Floor };
    results.allocators.iter().rposition(|allocator| allocator.standing == standing)
}

/// Whether there is a floor at all.
pub(super) fn floored(results: &Results) -> bool {
    results.allocators.iter().any(|allocator| allocator.is_floor())
}

/// kmem's number over that of the row's floor.
pub(super) fn above(results: &Results, line: &Line, kmem: usize) -> Option<f64> {
    Some(line.median(kmem)? / line.median(floor(results, line)?)?)
}

/// A line for each floor: the geometric means of the best of kmem's rivals, and of kmem, over it. Typed rows are the inlined
/// floor's, where no rival is inlined too; all others are the rest's.
pub(super) fn room(results: &Results) -> String {
    let mut out = String::new();
    for (at, allocator) in results.allocators.iter().enumerate().filter(|(_, it)| it.is_floor()) {
        let inlined = allocator.standing == Standing::Inlined;
        let lines =
            results.lines.iter().filter(|line| matches!(line.row.work, Work::Typed { .. }) == inlined);
        let over = |number: &dyn Fn(&Line) -> Option<f64>| -> Vec<f64> {
            lines.clone().filter_map(|line| Some(number(line)? / line.median(at)?)).collect()
        };
        let kmem = over(&|line| line.median(results.kmem()?));
        let rivals = over(&|line| Some(best(results, line)?.1).filter(|_| !inlined));
        let shown = |values: &[f64]| {
            mean(values.iter().copied()).map_or_else(|| "-".to_owned(), |mean| format!("{mean:.2}"))
        };
        let count = kmem.len().max(rivals.len());
        if count > 0 {
            let (rivals, kmem) = (shown(&rivals), shown(&kmem));
            writeln!(out, "{:<17} {count:>4} {rivals:>9} {kmem:>9}", allocator.name).expect("a string");
        }
    }
    match out.is_empty() {
        true => out,
        false => format!("{:<17} {:>4} {:>9} {:>9}\n{out}", "over the floor", "rows", "best", "kmem"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;

    /// A row of malloc and a typed one. `system` is the best rival, kmem's number is 3.
    fn two() -> Results {
        let line = |name: &str, runs: [&[f64]; 5]| Line {
            row: rows::all().find(|row| row.name == name).expect("there is one"),
            group: rows::FLOORED,
            runs: runs.map(<[f64]>::to_vec).to_vec(),
        };
        let lines = vec![
            line("pair_64", [&[4.0], &[3.0], &[1.0], &[2.0], &[]]),
            line("typed_pair_64", [&[4.0], &[3.0], &[1.0], &[2.0], &[0.5]]),
        ];
        crate::contest::sample(&["system", "kmem", "nothing", "barest", "floor_inline"], lines)
    }

    #[test]
    fn a_row_stands_on_the_floor_of_its_kind() {
        let results = two();
        assert_eq!(
            results.lines.iter().map(|line| above(&results, line, 1)).collect::<Vec<_>>(),
            [Some(1.5), Some(6.0)]
        );
        assert!(floored(&results) && !floored(&super::super::sample(&[1.0], &[1.0])));
    }

    #[test]
    fn floors_are_measured_by_and_not_counted() {
        let results = two();
        assert_eq!(best(&results, &results.lines[0]), Some((0, 4.0)), "not a floor, though they are less");
        let text = room(&results);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1..],
            [
                ["nothing", "1", "4.00", "3.00"],
                ["barest", "1", "2.00", "1.50"],
                ["floor_inline", "1", "-", "6.00"]
            ]
        );
        assert_eq!(room(&super::super::sample(&[1.0], &[1.0])), "");
    }
}
