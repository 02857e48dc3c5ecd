//! The comparison for programs: one list, an object for each configuration.

use super::subject::NAMES;
use super::told::title;
use super::{Cell, Comparison, TraceCell, TraceRow};
use crate::replay::pass::Point;

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character.is_control() => out += &format!("\\u{:04x}", character as u32),
            character => out.push(character),
        }
    }
    out.push('"');
    out
}

fn number(value: Option<f64>) -> String {
    value.map_or("null".to_owned(), |value| format!("{value:.4}"))
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}: {value}", quoted(name))).collect();
    format!("{{{}}}", fields.join(", "))
}

fn by_engine<T>(cells: &[T; 3], show: impl Fn(&T) -> String) -> Vec<(&'static str, String)> {
    NAMES.into_iter().zip(cells).map(|(name, cell)| (name, show(cell))).collect()
}

fn cell(cell: &Cell) -> String {
    object(&[
        ("ns", number(Some(cell.ns))),
        ("instructions", number(cell.instructions)),
        ("hit_rate", number(cell.hits)),
    ])
}

fn point(point: &Point) -> String {
    format!("[{}, {}, {}]", point.call, point.live, point.held)
}

fn trace_cell(cell: &TraceCell) -> String {
    let memory = &cell.held.memory;
    let metadata = &cell.held.metadata;
    let series: Vec<String> = memory.series.iter().map(point).collect();
    object(&[
        ("ns_per_call", number(Some(cell.ns))),
        ("hit_rate", number(cell.held.hits)),
        ("at_peak", point(&memory.at_peak)),
        ("at_end", point(&memory.at_end)),
        ("peak_held", memory.most_held.to_string()),
        (
            "metadata_bytes",
            object(&[
                ("pages", metadata.pages.to_string()),
                ("caches", metadata.caches.to_string()),
                ("arrays", metadata.arrays.to_string()),
                ("index", metadata.index.to_string()),
                ("headers", metadata.headers.to_string()),
                ("sum", metadata.sum().to_string()),
            ]),
        ),
        ("series", format!("[{}]", series.join(", "))),
    ])
}

fn trace(row: &TraceRow) -> String {
    let mut fields = vec![
        ("trace", quoted(&row.name)),
        ("calls", row.about.calls.to_string()),
        ("peak_live", row.about.peak.to_string()),
    ];
    fields.extend(by_engine(&row.cells, trace_cell));
    object(&fields)
}

/// The text. A point is [call, live, held].
pub(super) fn of(all: &[Comparison]) -> String {
    let lines = |lines: Vec<String>| match lines.is_empty() {
        true => "[]".to_owned(),
        false => format!("[\n    {}\n  ]", lines.join(",\n    ")),
    };
    let mut parts = Vec::new();
    for found in all {
        let rows = found.rows.iter().map(|row| {
            let mut fields = vec![("loop", quoted(row.name))];
            fields.extend(by_engine(&row.cells, cell));
            object(&fields)
        });
        parts.push(format!(
            "{{\n  \"config\": {},\n  \"ownership\": {},\n  \"counted_on\": {},\n  \"turns\": {},\n  \"loops\": {},\n  \"traces\": {}\n}}",
            quoted(title(found.config)),
            quoted(found.ownership),
            found.counted_on.as_deref().map_or("null".to_owned(), quoted),
            found.turns,
            lines(rows.collect()),
            lines(found.traces.iter().map(trace).collect()),
        ));
    }
    format!("[{}]\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn a_list_of_objects() {
        let text = of(&[sample::comparison()]);
        for part in [
            r#"{"loop": "object_64", "slub": {"ns": 10.0000, "instructions": 100.0000, "hit_rate": 1.0000}"#,
            r#""slob": {"ns": 1200.0000, "instructions": null, "hit_rate": null}}"#,
            r#"{"trace": "prog", "calls": 100, "peak_live": 4000, "slub": {"ns_per_call": 10.0000"#,
            r#""metadata_bytes": {"pages": 264, "caches": 2048, "arrays": 0, "index": 16, "headers": 8, "sum": 2336}"#,
            r#""series": [[25, 1000, 8192], [50, 2000, 16384], [75, 3000, 24576], [100, 4000, 32768]]}"#,
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let open = text.matches(['{', '[']).count();
        assert_eq!(open, text.matches(['}', ']']).count());
        assert_eq!(quoted("a\"b\\\n"), r#""a\"b\\\u000a""#);
    }
}
