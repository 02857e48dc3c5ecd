//! Tables for a terminal, and for a page in a fixed font.

use std::fmt::Write;

use super::{mean, number, ratios, room};
use crate::contest::Results;

/// A column of allocators; a longer name is cut.
const COLUMN: usize = 10;

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

/// Medians by row and allocator; then kmem's over the system's, over the best of the others, and how much the latter varied from turn
/// to turn; and over the floor, where there are floors. Last, the geometric means of the groups, and how much room there is.
pub(crate) fn table(results: &Results) -> String {
    let mut out = format!("{:<17} {:<4}", "row", "");
    for allocator in &results.allocators {
        let name: String = allocator.name.chars().take(COLUMN - 1).collect();
        write!(out, "{name:>COLUMN$}").expect("a string");
    }
    let kmem = results.kmem();
    let floored = room::floored(results);
    out.push_str(if kmem.is_some() { "  | /system   /best    +-" } else { "" });
    out.push_str(if kmem.is_some() && floored { "  /floor\n" } else { "\n" });
    let mut groups: Vec<(&str, Vec<f64>, Vec<f64>)> = Vec::new();
    for line in &results.lines {
        write!(out, "{:<17} {:<4}", line.row.name, line.row.unit.name()).expect("a string");
        for at in 0..results.allocators.len() {
            write!(out, "{:>COLUMN$}", cell(line.median(at))).expect("a string");
        }
        if let Some(found) = kmem.and_then(|kmem| ratios(results, line, kmem)) {
            write!(out, "  | {:>7.2} {:>7.2} {:>5.2}", found.system, found.best, found.spread)
                .expect("a string");
            if groups.last().is_none_or(|(group, ..)| *group != line.group) {
                groups.push((line.group, Vec::new(), Vec::new()));
            }
            let (_, system, best) = groups.last_mut().expect("there is one");
            system.push(found.system);
            best.push(found.best);
        }
        if let Some(above) = kmem.and_then(|kmem| room::above(results, line, kmem)) {
            write!(out, " {above:>7.2}").expect("a string");
        }
        out.push('\n');
    }
    let width = 22 + COLUMN * results.allocators.len();
    let whole = (
        "all",
        groups.iter().flat_map(|group| group.1.clone()).collect(),
        groups.iter().flat_map(|group| group.2.clone()).collect(),
    );
    if results.lines.len() > 1 {
        for (group, system, best) in groups.iter().chain([&whole]) {
            let text = format!("geometric mean, {group}");
            let (Some(system), Some(best)) = (mean(system.iter().copied()), mean(best.iter().copied()))
            else {
                continue;
            };
            writeln!(out, "{text:<width$}  | {system:>7.2} {best:>7.2}").expect("a string");
        }
    }
    out.push_str(&room::room(results));
    out
}

/// The table of `--objects`: a line for each allocator, as there are more of them than rows.
pub(crate) fn objects(results: &Results) -> String {
    let mut out = format!("{:<22}", "ns");
    results.lines.iter().for_each(|line| write!(out, "{:>14}", line.row.name).expect("a string"));
    out.push('\n');
    for (at, allocator) in results.allocators.iter().enumerate() {
        write!(out, "{:<22}", allocator.name).expect("a string");
        results.lines.iter().for_each(|line| write!(out, "{:>14}", cell(line.median(at))).expect("a string"));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::contest::Line;

    #[test]
    fn a_row_has_its_numbers_and_its_ratios() {
        let results = sample(&[8.0, 8.0, 8.0], &[4.0, 4.0, 4.0]);
        let text = table(&results);
        let line = text.lines().nth(1).unwrap();
        let parts: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(parts, [results.lines[0].row.name, "ns", "8.00", "4.00", "|", "0.50", "0.50", "0.00"]);
        let text = table(&sample(&[8.0], &[]));
        assert!(text.lines().nth(1).unwrap().trim_end().ends_with('-'), "{text}");
        assert_eq!(objects(&results).lines().count(), 3);
    }

    #[test]
    fn a_floor_is_a_column_and_a_ratio() {
        let names = ["system", "other", "kmem", "barest"];
        let row = crate::rows::all().next().expect("there are rows");
        let runs = [8.0, 6.0, 3.0, 2.0].map(|number| vec![number]).to_vec();
        let results = crate::contest::sample(&names, vec![Line { row, group: "small", runs }]);
        let text = table(&results);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[0][1..],
            ["system", "other", "kmem", "barest", "|", "/system", "/best", "+-", "/floor"]
        );
        assert_eq!(lines[1][2..], ["8.00", "6.00", "3.00", "2.00", "|", "0.38", "0.50", "0.00", "1.50"]);
        assert_eq!(lines[3], ["barest", "1", "3.00", "1.50"]);
    }
}
