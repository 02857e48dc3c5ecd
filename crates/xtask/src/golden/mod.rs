//! `golden`: what the fast paths cost, in instructions, loads, stores, branches and locked operations.
//!
//! `kmem-bench --count` runs loops of known length under callgrind; the inclusive cost of each loop, less that of
//! the empty one, divided by the operations in it, is the price of one. Counted on the portable path, which is what
//! a virtual CPU gets, and on the pieces for restartable sequences, by a stand-in for the kernel's part
//! (`rseq-stand-in.c`). The numbers are kept in `golden/fast-path.txt`, with the compiler they belong to: with another
//! one, an instruction count may differ by [`SLACK`].

mod code;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::library::{self, Engine};
use crate::step::{Count, Step};
use crate::tree;

const FILE: &str = "golden/fast-path.txt";
/// What another compiler may make of the same code, as a part of the count.
const SLACK: f64 = 0.10;
/// The hardened heap puts a block anywhere in its slab, by chance. Of one behind the slab's first page the portable path looks
/// up the head of the pages, in this many instructions.
const BEHIND_THE_FIRST_PAGE: f64 = 11.0;
/// Before one that begins a page it does not look, which takes so many instructions.
const LOOK_BEFORE: f64 = 12.0;

/// The loop of the hardened heap that comes by more than one block, any part of which may lie on their slab's first page. What it
/// does with a block looks for the head of the pages up to four times.
const SEVERAL_BLOCKS: &str = "pair_6000_hard";
/// The loop that frees a batch of small ones. How many of them begin a page is chance, too: one in fifty or so.
const MANY_BLOCKS: &str = "free_64_hard";

/// Loops that the hardened heap serves with mappings, at addresses by chance: how long it looks for them varies.
const BY_CHANCE: [&str; 1] = ["pair_256k"];

/// Letters for a class that no loop uses.
const ELSEWHERE: &str = "FZPU,kmalloc-2296";

/// The columns, as callgrind names them.
const EVENTS: [&str; 6] = ["Ir", "Dr", "Dw", "Bc", "Bi", "Ge"];
const HEADER: &str = "\
# What one operation of a fast path costs: instructions, loads, stores, conditional branches, indirect jumps
# (calls through the linkage table among them), locked operations. Written by `cargo xtask golden --bless`.
";
const COLUMNS: &str = "# path     loop                 instr  loads stores branch indirect locked\n";

/// A name (a row's is `path loop`), and its costs in the order of [`EVENTS`].
type Costs = BTreeMap<String, [f64; EVENTS.len()]>;

pub(crate) fn run(arguments: &[String]) -> Count {
    let bless = arguments.iter().any(|argument| argument == "--bless");
    let mut built = build();
    if built.failed > 0 {
        return built;
    }
    if arguments.iter().any(|argument| argument == "--code") {
        let outcome = stand_in().and_then(|stand_in| code::bless(&stand_in));
        if let Err(message) = &outcome {
            println!("golden --code: {message}");
        }
        return Count::of(outcome.is_ok());
    }
    built += library::build(Engine::Slab);
    built += library::build(Engine::Hardened);
    if built.failed > 0 {
        return built;
    }
    let outcome = measure().and_then(|costs| {
        let mut complaints = compare(&costs, bless)?;
        complaints.extend(with_letters_elsewhere(&costs)?);
        Ok(complaints)
    });
    let complaints = outcome.unwrap_or_else(|message| vec![message]);
    println!("{:<24} {}", "fast paths", if complaints.is_empty() { "ok" } else { "FAILED" });
    complaints.iter().for_each(|complaint| println!("    {complaint}"));
    let mut count = built;
    count += Count::of(complaints.is_empty());
    count
}

/// Builds what is counted on SLUB, and what counts.
pub(crate) fn build() -> Count {
    let build = ["build", "--release", "-p", "kmem-malloc", "-p", "kmem-bench"];
    Step::cargo("build to be counted", &build).env(library::INCREMENTAL, "0").run()
}

/// Compiles the stand-in for what the kernel does of restartable sequences.
fn stand_in() -> Result<PathBuf, String> {
    let directory = tree::target().join("xtask");
    let stand_in = directory.join("rseq-stand-in.so");
    let source = tree::root().join("crates/xtask/src/golden/rseq-stand-in.c");
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&stand_in).arg(&source);
    output(gcc)?;
    Ok(stand_in)
}

/// Counts all loops on both paths.
fn measure() -> Result<Costs, String> {
    let directory = tree::target().join("xtask");
    let stand_in = stand_in()?.display().to_string();
    let mut costs = Costs::new();
    for path in ["rseq", "portable"] {
        for (kind, suffix, engine) in KINDS {
            let out = directory.join(format!("callgrind-{path}-{kind}{suffix}"));
            for (name, cost) in measure_one(kind, &preloads(kind, path, engine, &stand_in), None, &out)? {
                if engine == Engine::Hardened && BY_CHANCE.contains(&name.as_str()) {
                    continue;
                }
                costs.insert(format!("{path:<10} {name}{suffix}"), cost);
            }
        }
    }
    Ok(costs)
}

/// What is counted: loops on malloc, on a typed cache or on the core's own calls, what is put behind their names, and the preloaded library's engine.
/// SLOB is not here: it has no fast path.
const KINDS: [(&str, &str, Engine); 5] = [
    ("malloc", "", Engine::Slub),
    ("malloc", "_slab", Engine::Slab),
    ("malloc", "_hard", Engine::Hardened),
    ("typed", "", Engine::Slub),
    ("core", "", Engine::Slub),
];

/// What is preloaded to count loops of this kind on this path.
fn preloads(kind: &str, path: &str, engine: Engine, stand_in: &str) -> String {
    let library = library::path(engine).display().to_string();
    let files = [(kind == "malloc", library.as_str()), (path == "rseq", stand_in)];
    let files: Vec<&str> = files.iter().filter(|(wanted, _)| *wanted).map(|(_, file)| *file).collect();
    files.join(":")
}

/// The loops on malloc once more, while a class that none of them uses has all letters: an unchecked class pays nothing for that, so each
/// loop takes what it took.
fn with_letters_elsewhere(costs: &Costs) -> Result<Vec<String>, String> {
    let directory = tree::target().join("xtask");
    let stand_in = stand_in()?.display().to_string();
    let mut complaints = Vec::new();
    for path in ["rseq", "portable"] {
        let out = directory.join(format!("callgrind-{path}-malloc-letters"));
        let preloads = preloads("malloc", path, Engine::Slub, &stand_in);
        for (name, cost) in measure_one("malloc", &preloads, Some(ELSEWHERE), &out)? {
            let name = format!("{path:<10} {name}");
            if costs.get(&name).is_none_or(|before| (before[0] - cost[0]).abs() > 0.2) {
                complaints.push(format!("with {ELSEWHERE}: {}", row(&name, &cost)));
            }
        }
    }
    Ok(complaints)
}

/// The costs of one operation of each loop of this kind, by the loop's name; `letters`: with these.
fn measure_one(kind: &str, preloads: &str, letters: Option<&str>, out: &Path) -> Result<Costs, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--cache-sim=yes", "--branch-sim=yes", "--collect-bus=yes"]);
    valgrind.args(["--collect-atstart=no", "--toggle-collect=counted"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(tree::release("kmem-bench"));
    valgrind.args(["--count", kind]).env_remove("KMEM_RSEQ").env("LD_PRELOAD", preloads);
    valgrind.env_remove("KMEM_DEBUG").envs(letters.map(|letters| ("KMEM_DEBUG", letters)));
    let operations: f64 = output(valgrind)?.trim().parse().map_err(|_| "kmem-bench printed no number")?;
    let mut annotate = Command::new("callgrind_annotate");
    annotate.args(["--inclusive=yes", "--threshold=100", "--auto=no"]).arg(out);
    let mut table = inclusive(&output(annotate)?);
    let empty = table.remove("count_loop").ok_or("callgrind does not know count_loop")?;
    let mut costs = Costs::new();
    for (name, mut each) in table {
        each.iter_mut().zip(empty).for_each(|(cost, empty)| *cost = (*cost - empty) / operations);
        costs.insert(name.trim_start_matches("count_").to_owned(), each);
    }
    Ok(costs)
}

/// What a command prints; `Err` with its errors if it fails.
fn output(mut command: Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().map_err(|error| format!("{name}: {error} (scripts/install-deps gets it)"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The rows of functions called `count_*` in what callgrind_annotate prints, in the order of [`EVENTS`].
fn inclusive(text: &str) -> BTreeMap<String, [f64; EVENTS.len()]> {
    let shown = text.lines().find_map(|line| line.strip_prefix("Events shown:")).unwrap_or_default();
    let columns: Vec<&str> = shown.split_whitespace().collect();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let Some(name) = line.split(":count_").nth(1).and_then(|rest| rest.split([' ', '\'']).next()) else {
            continue;
        };
        // Numbers have commas; each is followed by its share in brackets; `.` stands for none.
        let numbers: Vec<f64> = line
            .split_whitespace()
            .filter(|word| !word.starts_with('(') && !word.ends_with(')'))
            .take(columns.len())
            .map(|word| word.replace(',', "").parse().unwrap_or(0.0))
            .collect();
        let mut row = [0.0; EVENTS.len()];
        for (slot, event) in row.iter_mut().zip(EVENTS) {
            let at = columns.iter().position(|column| *column == event);
            *slot = at.and_then(|at| numbers.get(at).copied()).unwrap_or(0.0);
        }
        // A function has several rows, one for each file that its code comes from; the largest is the whole.
        let whole: &mut [f64; EVENTS.len()] = rows.entry(format!("count_{name}")).or_insert(row);
        if row[0] > whole[0] {
            *whole = row;
        }
    }
    rows
}

fn compare(costs: &Costs, bless: bool) -> Result<Vec<String>, String> {
    let path = tree::root().join(FILE);
    let mut rustc = tree::command("rustc");
    rustc.arg("--version");
    let compiler = output(rustc)?;
    let compiler = compiler.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    if bless {
        let text = render(costs, &compiler);
        return std::fs::write(&path, text).map(|()| Vec::new()).map_err(|error| format!("{FILE}: {error}"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{FILE}: {error}"))?;
    Ok(differences(&text, costs, &compiler))
}

fn row(name: &str, cost: &[f64; EVENTS.len()]) -> String {
    let (path, work) = name.split_once(' ').unwrap_or((name, ""));
    let mut text = format!("{path:<10} {:<18}", work.trim());
    for (value, width) in cost.iter().zip([8, 6, 6, 6, 8, 6]) {
        write!(text, " {value:>width$.1}").expect("a string");
    }
    text
}

fn render(costs: &Costs, compiler: &str) -> String {
    let mut text = format!("{HEADER}# compiler: {compiler}\n{COLUMNS}");
    costs.iter().for_each(|(name, cost)| writeln!(text, "{}", row(name, cost)).expect("a string"));
    text
}

/// Rows of the file that are no longer true, and rows it does not have.
fn differences(file: &str, costs: &Costs, compiler: &str) -> Vec<String> {
    let same_compiler = file.lines().any(|line| line == format!("# compiler: {compiler}"));
    let old: Vec<&str> = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let instructions = |row: &str| row.split_whitespace().nth(2).and_then(|word| word.parse::<f64>().ok());
    let mut complaints = Vec::new();
    for (name, cost) in costs {
        let now = row(name, cost);
        let key: Vec<&str> = name.split_whitespace().collect();
        let before = old.iter().find(|line| line.split_whitespace().take(2).eq(key.iter().copied()));
        let fine = before.and_then(|before| instructions(before)).is_some_and(|counted| {
            let off = (counted - cost[0]).abs();
            match same_compiler {
                // Within a compiler version a count is exact up to what the loop's start and end add.
                true if name.ends_with(SEVERAL_BLOCKS) => {
                    off <= 4.0 * (BEHIND_THE_FIRST_PAGE + LOOK_BEFORE) + 0.2
                }
                true if name.ends_with(MANY_BLOCKS) => off <= 0.1 * LOOK_BEFORE + 0.2,
                true if name.ends_with("_hard") => {
                    let (page, look) = (BEHIND_THE_FIRST_PAGE, LOOK_BEFORE);
                    [0.0, page, look, look - page, look + page].iter().any(|by| (off - by).abs() <= 0.2)
                }
                true => off <= 0.2,
                false => off <= counted * SLACK,
            }
        });
        if !fine {
            complaints.extend(before.map(|before| format!("- {before}")));
            complaints.push(format!("+ {now}"));
        }
    }
    let gone =
        |line: &&&str| !costs.keys().any(|name| name.split_whitespace().eq(line.split_whitespace().take(2)));
    complaints.extend(old.iter().filter(gone).map(|line| format!("- {line}")));
    if !complaints.is_empty() {
        complaints.push("`cargo xtask golden --bless` writes the new counts".to_owned());
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Events shown:     Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw Bc Bcm Bi Bim Ge
48,000 (1.0%) 16,000 (2.0%) 9,600 (3.0%) 3 (0.1%) . . . . . 4,800 (1.0%) 2 (0.1%) 3,200 (9.1%) . .  ???:count_pair_64 [/x]
 1,600 (1.0%)      . . . . . . . . 1,600 (1.0%) . . . .  src/count.rs:count_loop'2 [/x]
   100 ( 0.1%)  50 ( 0.1%) . . . . . . . . . . . .  core/hint.rs:count_pair_64
";

    #[test]
    fn annotated_rows_are_read() {
        let rows = inclusive(TABLE);
        assert_eq!(rows["count_pair_64"], [48_000.0, 16_000.0, 9_600.0, 4_800.0, 3_200.0, 0.0]);
        assert_eq!(rows["count_loop"], [1_600.0, 0.0, 0.0, 1_600.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_placed_at_random_may_differ_a_little() {
        let cost = |count: f64| -> Costs {
            [("rseq       pair_64_hard".to_owned(), [count, 1.0, 1.0, 1.0, 0.0, 0.0])].into()
        };
        let file = render(&cost(200.0), "1.95.0");
        assert!(differences(&file, &cost(200.0 + BEHIND_THE_FIRST_PAGE), "1.95.0").is_empty());
        assert!(differences(&file, &cost(200.0 - LOOK_BEFORE), "1.95.0").is_empty());
        assert_eq!(differences(&file, &cost(205.0), "1.95.0").len(), 3);

        let many = |count: f64| -> Costs {
            [("rseq       free_64_hard".to_owned(), [count, 1.0, 1.0, 1.0, 0.0, 0.0])].into()
        };
        let file = render(&many(150.0), "1.95.0");
        assert!(differences(&file, &many(149.1), "1.95.0").is_empty());
        assert_eq!(differences(&file, &many(153.0), "1.95.0").len(), 3);

        let several = |count: f64| -> Costs {
            [(format!("portable   {SEVERAL_BLOCKS}"), [count, 1.0, 1.0, 1.0, 0.0, 0.0])].into()
        };
        let file = render(&several(8000.0), "1.95.0");
        assert!(differences(&file, &several(7973.6), "1.95.0").is_empty());
        assert_eq!(differences(&file, &several(8105.0), "1.95.0").len(), 3);
    }

    #[test]
    fn a_change_is_a_complaint_and_another_compiler_gets_slack() {
        let costs: Costs = [("rseq       pair_64".to_owned(), [30.0, 10.0, 6.0, 3.0, 2.0, 0.0])].into();
        let file = render(&costs, "1.95.0");
        assert!(differences(&file, &costs, "1.95.0").is_empty(), "{file}");
        let mut slower = costs.clone();
        slower.values_mut().for_each(|cost| cost[0] = 32.0);
        assert_eq!(differences(&file, &slower, "1.95.0").len(), 3);
        assert!(differences(&file, &slower, "1.96.0").is_empty());
        slower.values_mut().for_each(|cost| cost[0] = 34.0);
        assert_eq!(differences(&file, &slower, "1.96.0").len(), 3);
        assert_eq!(differences(&file, &Costs::new(), "1.95.0").len(), 2, "a row that is gone");
    }
}
