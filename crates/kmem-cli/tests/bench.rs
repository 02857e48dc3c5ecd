//! `kmem bench engines` as its user runs it: short turns, and every number that it prints looked at.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Said, Scratch, kmem, said};

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../programs/traces/sqlite.trace");

/// Runs it without Valgrind, which no path leads to.
fn quick(arguments: &[&str]) -> Said {
    let mut command = kmem();
    command.env("PATH", "/nowhere").args(["bench", "engines", "--quick"]).args(arguments);
    said(&mut command)
}

/// The cells of the line that begins with this word.
fn cells<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(name));
    lines.next().unwrap_or_else(|| panic!("no line {name} in\n{text}")).split_whitespace().collect()
}

fn number(cell: &str) -> f64 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("no number: {cell}"))
}

#[test]
fn every_engine_does_every_row() {
    let said = quick(&["--config", "kernel"]);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    let loops: Vec<&str> = said
        .out
        .lines()
        .skip_while(|line| !line.starts_with("LOOP"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(loops.len() >= 12, "{}", said.out);
    for line in loops {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells.len(), 13, "{line}");
        for cell in &cells[1..6] {
            assert!((0.0..10_000_000.0).contains(&number(cell)) && number(cell) > 0.0, "{line}");
        }
        assert_eq!(cells[6..11], ["-"; 5], "without Valgrind: {line}");
        // A cell is printed with three digits, and the multiple with the whole number.
        let multiple = number(cells[2]) / number(cells[1]);
        assert!((multiple / number(cells[3]) - 1.0).abs() < 0.1, "{line}");
    }
    // A pair never leaves its CPU's stack, and blocks beyond the classes have none.
    assert!(
        number(cells(&said.out, "object_64")[11]) > 99.0 && number(cells(&said.out, "object_64")[12]) > 99.0
    );
    let fifo = cells(&said.out, "thousand_1024");
    assert!(number(fifo[11]) < 99.5 && number(fifo[12]) < 99.5, "a thousand do not fit on a stack: {fifo:?}");
}

#[test]
fn a_trace_is_held_by_all_and_written_down() {
    let scratch = Scratch::new("bench");
    let (json, plots) = (scratch.path("out.json"), scratch.path("plots"));
    let options = ["--json", json.to_str().unwrap(), "--svg", plots.to_str().unwrap(), "--trace", TRACE];
    let said = quick(&options);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    assert!(
        said.out.contains("the kernel's limits") && said.out.contains("Engines as for programs"),
        "{}",
        said.out
    );
    let row = cells(&said.out, "sqlite");
    // Nothing holds less than what is alive.
    assert!(row[6..9].iter().all(|held| (1.0..10.0).contains(&number(held))), "{row:?}");
    assert!(row[9..12].iter().all(|held| held.ends_with(['K', 'M'])), "{row:?}");
    for engine in ["slub", "slab", "slob"] {
        let line = said.out.lines().find(|line| line.split_whitespace().take(2).eq(["sqlite", engine]));
        let line: Vec<&str> = line.expect(&said.out).split_whitespace().collect();
        // Only SLAB has an index, only SLOB headers, and only SLOB no arrays.
        assert_eq!(
            (line[4] == "0", line[5] == "0", line[6] == "0"),
            match engine {
                "slub" => (false, true, true),
                "slab" => (false, false, true),
                _ => (true, true, false),
            },
            "{line:?}"
        );
    }
    let valid = Command::new("python3").args(["-m", "json.tool"]).arg(&json).output();
    if let Ok(output) = valid {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(&json).unwrap();
    assert_eq!(text.matches("\"config\"").count(), 2);
    assert_eq!(text.matches("\"series\"").count(), 6);
    for kind in ["kernel", "user"] {
        for what in ["time", "fragmentation", "trace-sqlite"] {
            let plot = fs::read_to_string(plots.join(format!("{kind}-{what}.svg"))).unwrap();
            assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"), "{what}");
        }
        assert!(!plots.join(format!("{kind}-instructions.svg")).exists(), "nothing was counted");
    }
}

/// Counts are exact: each engine has the same in two runs, and SLAB's fast path is as short as SLUB's, or nearly.
#[test]
fn instructions_are_the_same_in_every_run() {
    if !Path::new("/usr/bin/valgrind").exists() {
        return; // the other tests have what is printed then
    }
    let counted = || {
        let mut command = kmem();
        let said = said(command.args(["bench", "engines", "--quick", "--config", "kernel"]));
        assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
        ["object_64", "kmalloc_64"].map(|row| {
            let cells = cells(&said.out, row);
            [6, 7, 9].map(|cell| number(cells[cell]))
        })
    };
    let first = counted();
    for [slub, slab, slob] in first {
        assert!(slub > 10.0 && slob > slub, "{first:?}");
        assert!(slab <= 1.3 * slub, "SLAB's fast path: {first:?}");
    }
    assert_eq!(first, counted());
}

#[test]
fn bad_files_are_told() {
    let scratch = Scratch::new("bench-bad");
    let file = scratch.file("no.trace", "not a trace");
    let said = quick(&["--config", "kernel", "--trace", file.to_str().unwrap()]);
    assert_eq!(said.status, Some(1));
    assert!(said.err.starts_with("kmem: ") && said.err.contains("no.trace"), "{}", said.err);
    assert!(said.out.is_empty(), "nothing is measured in vain: {}", said.out);
    let said = quick(&["--config", "kernel", "--json", "/nowhere/out.json"]);
    assert_eq!(said.status, Some(1));
    assert!(said.err.starts_with("kmem: /nowhere/out.json: "), "{}", said.err);
}
