//! What is shown: a table with ratios, JSON with everything, and the rows that were lost.

use std::fmt::Write;

use crate::contest::{Line, Results};

/// The table: medians, and kmem's over the system's and over the best of the others.
pub(crate) fn table(results: &Results) {
    let mut head = format!("{:<17} {:<4}", "row", "");
    results.allocators.iter().for_each(|allocator| write!(head, "{:>10}", allocator.name).expect("a string"));
    let kmem = results.kmem();
    if kmem.is_some() {
        head.push_str("  | /system   /best");
    }
    println!("{head}");
    let (mut to_system, mut to_best) = (Vec::new(), Vec::new());
    for line in &results.lines {
        let mut text = format!("{:<17} {:<4}", line.row.name, line.row.unit.name());
        (0..results.allocators.len())
            .for_each(|at| write!(text, "{:>10}", number(line.median(at))).expect("a string"));
        if let Some(kmem) = kmem {
            let ratios = ratios(line, kmem);
            write!(text, "  | {:>7.2} {:>7.2}", ratios.0, ratios.1).expect("a string");
            to_system.push(ratios.0);
            to_best.push(ratios.1);
        }
        println!("{text}");
    }
    if to_system.len() > 1 {
        let mean =
            |ratios: &[f64]| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        let width = 22 + 10 * results.allocators.len();
        println!(
            "{:<width$}  | {:>7.2} {:>7.2}",
            "geometric mean of the ratios",
            mean(&to_system),
            mean(&to_best)
        );
    }
}

/// kmem over the system's, and over the best of all others.
fn ratios(line: &Line, kmem: usize) -> (f64, f64) {
    let best =
        (0..line.runs.len()).filter(|&at| at != kmem).map(|at| line.median(at)).fold(f64::INFINITY, f64::min);
    (line.median(kmem) / line.median(0), line.median(kmem) / best)
}

fn number(value: f64) -> String {
    match value {
        value if value < 100.0 => format!("{value:.2}"),
        value if value < 10_000.0 => format!("{value:.0}"),
        value => format!("{:.0}k", value / 1000.0),
    }
}

/// Gated rows in which kmem's median is not below the system's.
pub(crate) fn lost(results: &Results) -> Vec<&'static str> {
    let Some(kmem) = results.kmem() else { return Vec::new() };
    let slower = |line: &&Line| line.row.gate && line.median(kmem) >= line.median(0);
    results.lines.iter().filter(slower).map(|line| line.row.name).collect()
}

/// `{"rows": [{"name", "unit", "what", "results": {allocator: {"median", "runs"}}}]}`.
pub(crate) fn json(results: &Results) -> String {
    let mut out = String::from("{\"rows\": [\n");
    for (at, line) in results.lines.iter().enumerate() {
        let row = line.row;
        write!(
            out,
            "{{\"name\": \"{}\", \"unit\": \"{}\", \"what\": \"{}\", \"results\": {{",
            row.name,
            row.unit.name(),
            row.what
        )
        .expect("a string");
        for (n, allocator) in results.allocators.iter().enumerate() {
            let runs: Vec<String> = line.runs[n].iter().map(|run| format!("{run:.4}")).collect();
            let comma = if n == 0 { "" } else { ", " };
            write!(
                out,
                "{comma}\"{}\": {{\"median\": {:.4}, \"runs\": [{}]}}",
                allocator.name,
                line.median(n),
                runs.join(", ")
            )
            .expect("a string");
        }
        out.push_str(if at + 1 < results.lines.len() { "}},\n" } else { "}}\n" });
    }
    out.push_str("]}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn a_gated_row_is_lost_unless_faster() {
        let line = |runs: [f64; 3]| Line { row: &ROWS[0], runs: vec![vec![7.0, 9.0, 8.0], runs.to_vec()] };
        let results = |runs| Results {
            allocators: crate::contest::named(&["system", "kmem"]),
            lines: vec![line(runs)],
        };
        assert!(lost(&results([3.0, 4.0, 100.0])).is_empty(), "the median counts");
        assert_eq!(lost(&results([8.0, 8.0, 8.0])), [ROWS[0].name]);
        assert_eq!(ratios(&line([4.0, 4.0, 4.0]), 1), (0.5, 0.5));
        let text = json(&results([1.0, 2.0, 3.0]));
        assert!(
            text.contains("\"kmem\": {\"median\": 2.0000, \"runs\": [1.0000, 2.0000, 3.0000]}"),
            "{text}"
        );
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn numbers_keep_three_figures() {
        assert_eq!([7.456, 123.4, 123_456.0].map(number), ["7.46", "123", "123k"]);
    }
}
