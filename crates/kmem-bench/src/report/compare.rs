//! What two runs differ in.
//!
//! Two runs are two machines, or two hours of one: numbers of the one are not to be held against the other's. Ratios to an allocator
//! that did not change are. So a row tells kmem's ratio to the system's malloc before and after, and to the best of the others;
//! a change counts as one when it is more than the turns of both runs vary by.

use std::fmt::Write;

use serde_json::Value;

/// One row of one run: kmem's ratio to the system's, turn by turn, and the best of the others that took part.
struct Row {
    name: String,
    to_system: Vec<f64>,
    to_best: Option<f64>,
}

fn rows(text: &str) -> Result<Vec<Row>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let rows = value["rows"].as_array().ok_or("it holds no rows")?;
    // Not there in files of before there were floors.
    let shown = |name: &str| value["shown"].as_array().is_some_and(|names| names.iter().any(|it| it == name));
    let read = |row: &Value| {
        let found = row["results"].as_object()?;
        let runs = |name: &str| -> Option<Vec<f64>> {
            found.get(name)?["runs"].as_array()?.iter().map(Value::as_f64).collect()
        };
        let others = found.iter().filter(|(name, _)| *name != "kmem" && !shown(name));
        let best = others.filter_map(|(_, of)| of["median"].as_f64()).min_by(f64::total_cmp);
        let mut to_system: Vec<f64> =
            runs("kmem")?.iter().zip(runs("system")?).map(|(kmem, system)| kmem / system).collect();
        to_system.sort_by(f64::total_cmp);
        let kmem = found["kmem"]["median"].as_f64()?;
        Some(Row { name: row["name"].as_str()?.to_owned(), to_system, to_best: best.map(|best| kmem / best) })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The value at this quarter.
fn quarter(values: &[f64], part: usize) -> f64 {
    values.get((values.len() * part / 4).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The text of a comparison of two files' contents. `Err`: one of them is not what `--json` wrote.
pub(crate) fn compare(before: &str, after: &str) -> Result<String, String> {
    let (before, after) = (rows(before)?, rows(after)?);
    let mut out = format!("{:<17} {:>18} {:>18} {:>8}\n", "kmem", "/system", "/best", "change");
    let mut changes = Vec::new();
    for new in &after {
        let Some(old) = before.iter().find(|old| old.name == new.name) else { continue };
        let (was, is) = (quarter(&old.to_system, 2), quarter(&new.to_system, 2));
        let apart = quarter(&new.to_system, 1) > quarter(&old.to_system, 3)
            || quarter(&new.to_system, 3) < quarter(&old.to_system, 1);
        let best = |row: &Row| row.to_best.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let mark = match (apart, is < was) {
            (false, _) => "",
            (true, true) => "better",
            (true, false) => "worse",
        };
        let (system, best) = (format!("{was:.2} -> {is:.2}"), format!("{} -> {}", best(old), best(new)));
        writeln!(out, "{:<17} {system:>18} {best:>18} {:>8.2} {mark}", new.name, is / was).expect("a string");
        changes.push(is / was);
    }
    if let Some(mean) = super::mean(changes.into_iter()) {
        writeln!(out, "{:<55} {mean:>8.2}", "geometric mean").expect("a string");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::{json, sample};
    use super::*;
    use crate::contest::Line;

    #[test]
    fn a_change_beyond_the_turns_is_told() {
        let system = [10.0, 10.0, 10.0, 10.0];
        let run = |kmem: [f64; 4]| json(&sample(&system, &kmem));
        let before = run([5.0, 5.1, 4.9, 5.0]);
        let told =
            |after: [f64; 4]| compare(&before, &run(after)).unwrap().lines().nth(1).unwrap().to_owned();
        assert!(told([2.5, 2.4, 2.6, 2.5]).ends_with("better"));
        assert!(told([9.0, 9.1, 9.2, 9.0]).ends_with("worse"));
        let same = told([5.0, 5.2, 4.8, 5.0]);
        assert!(same.trim_end().ends_with("1.00") && same.contains("0.50 -> 0.50"), "{same}");
        assert!(compare("{}", &before).is_err());
    }

    #[test]
    fn a_floor_is_not_the_best() {
        let row = crate::rows::all().next().expect("there are rows");
        let runs = [4.0, 2.0, 1.0].map(|number| vec![number]).to_vec();
        let lines = vec![Line { row, group: "small", runs }];
        let text = json(&crate::contest::sample(&["system", "kmem", "nothing"], lines));
        assert_eq!(rows(&text).unwrap()[0].to_best, Some(0.5));
        let unmarked = text.replace("\"shown\": [\"nothing\"], ", "");
        assert_eq!(rows(&unmarked).unwrap()[0].to_best, Some(2.0));
    }
}
