//! What is shown: a table with ratios, JSON with everything, a picture, what two runs differ in, and the rows that were lost.

mod compare;
mod json;
mod plot;
mod room;
mod table;

pub(crate) use compare::compare;
pub(crate) use json::json;
pub(crate) use plot::plot;
pub(crate) use table::{objects, table};

use crate::contest::{Line, Results, Standing};

/// kmem beside the system's malloc, and beside the best of all others.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratios {
    system: f64,
    best: f64,
    /// Half of what lies between the quarters of the ratios to that best one, turn by turn.
    spread: f64,
}

/// The best of kmem's rivals, and its number.
fn best(results: &Results, line: &Line) -> Option<(usize, f64)> {
    let rival =
        |at: &usize| Some(*at) != results.kmem() && results.allocators[*at].standing == Standing::Rival;
    (0..line.runs.len())
        .filter(rival)
        .filter_map(|at| Some((at, line.median(at)?)))
        .min_by(|(_, left), (_, right)| left.total_cmp(right))
}

/// `None` where kmem or all its rivals have no numbers.
fn ratios(results: &Results, line: &Line, kmem: usize) -> Option<Ratios> {
    let ours = line.median(kmem)?;
    let (best, number) = best(results, line)?;
    let mut turns: Vec<f64> =
        line.runs[kmem].iter().zip(&line.runs[best]).map(|(ours, theirs)| ours / theirs).collect();
    turns.sort_by(f64::total_cmp);
    let quarter = |part: usize| turns.get(turns.len() * part / 4).copied().unwrap_or(0.0);
    let system = ours / line.median(0)?;
    Some(Ratios { system, best: ours / number, spread: (quarter(3) - quarter(1)) / 2.0 })
}

/// The geometric mean.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// Three figures.
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

/// A row of two allocators, for tests: `system` and `kmem`.
#[cfg(test)]
fn sample(system: &[f64], kmem: &[f64]) -> Results {
    let row = crate::rows::all().next().expect("there are rows");
    let line = Line { row, group: "small", runs: vec![system.to_vec(), kmem.to_vec()] };
    crate::contest::sample(&["system", "kmem"], vec![line])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gated_row_is_lost_unless_faster() {
        let system = [7.0, 9.0, 8.0];
        assert!(lost(&sample(&system, &[3.0, 4.0, 100.0])).is_empty(), "the median counts");
        let level = sample(&system, &[8.0, 8.0, 8.0]);
        assert_eq!(lost(&level), [level.lines[0].row.name]);
    }

    #[test]
    fn ratios_have_a_spread_of_their_turns() {
        let results = sample(&[4.0, 4.0, 4.0, 4.0, 4.0], &[2.0, 4.0, 3.0, 1.0, 5.0]);
        let found = ratios(&results, &results.lines[0], 1).unwrap();
        assert_eq!(found, Ratios { system: 0.75, best: 0.75, spread: 0.25 });
        let none = sample(&[1.0], &[]);
        assert_eq!(ratios(&none, &none.lines[0], 1), None, "it did not do the row");
    }

    #[test]
    fn numbers_keep_three_figures() {
        assert_eq!([7.456, 123.4, 123_456.0].map(number), ["7.46", "123", "123k"]);
        assert_eq!(crate::contest::median(Vec::new()), None);
        assert!((mean([2.0, 8.0].into_iter()).unwrap() - 4.0).abs() < 1e-9);
    }
}
