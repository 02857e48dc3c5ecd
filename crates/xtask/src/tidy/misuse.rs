//! The page about misuse, `docs/misuse.md`: made from the table that the tests check, so that it cannot say what is not true.

use std::fmt::Write;

use crate::misuse::{FILE as MEASURED, PEERS};
use crate::tree;

#[path = "../../../kmem-malloc/tests/preload/misuse/table/mod.rs"]
mod table;

#[path = "../../../kmem/tests/misuse/table.rs"]
mod caches;

use table::{End, GLIBC, PROGRAMS, Program, Row};

const FILE: &str = "docs/misuse.md";

const HEADER: &str = "\
<!-- Written by `cargo xtask tidy --bless` from the tables in crates/kmem-malloc/tests/preload/misuse/table/ and
     crates/kmem/tests/misuse/table.rs. -->

# What becomes of misuse

Each row is a program that commits one sin, and its nearest neighbour that commits none. The tests run both, on every push: the
sin must end as the row says, with that message, and about the neighbour nobody may say a word. A row with debug letters
is run twice: once where errors stop the program (`KMEM_ON_ERROR=abort`, as by default), and once where they do not
(`warn`): then the message is the same, what is damaged is repaired or left alone, the program goes on, and its heap is
whole afterwards.

| word | means |
|---|---|
| **stopped** | SIGABRT in the call that is wrong or at the next use of the block, with this message |
| **stopped later** | the same when the heap is used for something else |
| fault | SIGSEGV at the access: the processor stops it, nobody says why |
| **fault** | the same, and before it this message |
| dies | one of these, different from run to run |
| reads *n* | the program goes on, with what it reads there |
| unnoticed | the program goes on; the heap hands nothing out twice and loses nothing |
| **broken** | the program goes on, and the heap hands out memory that is in use |

`…` in a message stands for the address. Columns: the C library's own allocator; two that are made to be attacked, as `cargo xtask misuse
--peers` found them in five runs of each row ({peers}; *cannot be done*: there is no such function, or no two blocks
lie side by side); kmem as it comes; the hardened library (`kmem run --hardened`); kmem with the debug letters F Z P U
(`KMEM_DEBUG=FZPU`, `kmem run --debug`). One row by hand:

```
gcc -pthread -fno-builtin -w -o double_free crates/kmem-malloc/tests/c/misuse/double_free.c
LD_PRELOAD=target/release/libkmem_malloc.so ./double_free small
LD_PRELOAD=target/release/libkmem_malloc.so KMEM_DEBUG=FZPU ./double_free small
```

Misuse of caches of one's own has a table at the end; each detection of the debug letters is tested in process, too, in
`crates/kmem-core/tests/debug`.
";

const CACHES: &str = "
## A cache of one's own is misused

Caches are made by `Kmem::create`; `Cache<T>` of the crate `kmem` cannot be misused so by safe code. The tests
(`crates/kmem/tests/misuse/`) run each row in a process of its own. Where a call has an answer to give, it gives it and nothing is
said: to whom it matters, asks. *Told*: a message, and the process goes on. With letters a row that is stopped goes on after the same
message where errors do not stop the process.

| row | what | default | hardened | F Z P U |
|---|---|---|---|---|
";

const LEAKS: &str = "
## What is told of lost blocks

No allocator can know before the end, so the row `lost` is unnoticed in every column: letters alone say nothing either.
`kmem run --leaks` (`KMEM_LEAKS=1`) tells at the end which blocks no pointer leads to any more ([diagnostics.md](diagnostics.md)). Of
that row:

| `kmem run` | default | hardened |
|---|---|---|
";

const LIVE: &str = "
A cache that is destroyed with objects in use tells of them in every mode: the row `live`.
";

/// The programs of misuse, and the names of their rows.
pub(crate) fn rows() -> impl Iterator<Item = (&'static str, impl Iterator<Item = &'static str>)> {
    PROGRAMS.iter().map(|program| (program.name, program.rows.iter().map(|row| row.case)))
}

/// What was measured under other allocators: a cell for each of [`PEERS`].
struct Measured(String);

impl Measured {
    fn read() -> Self {
        Self(std::fs::read_to_string(tree::root().join(MEASURED)).unwrap_or_default())
    }

    /// The cells of a row. Where nobody measured it yet, they say so.
    fn cells(&self, program: &str, case: &str) -> [&str; PEERS.len()] {
        let line = self.0.lines().find_map(|line| {
            line.strip_prefix(program)?.strip_prefix('/')?.strip_prefix(case)?.strip_prefix('\t')
        });
        let mut cells = line.unwrap_or_default().split('\t');
        PEERS.map(|_| cells.next().filter(|cell| !cell.is_empty()).unwrap_or("not measured"))
    }

    /// What the peers were, as the file's header says.
    fn versions(&self) -> String {
        let told = |(_, shown): (&str, &str)| {
            let begin = format!("# {shown}: ");
            let version = self.0.lines().find_map(|line| line.strip_prefix(begin.as_str()));
            format!("{shown} {}", version.unwrap_or("of an unknown version"))
        };
        PEERS.map(told).join(", ")
    }
}

pub(super) fn check(bless: bool) -> Vec<String> {
    let now = page();
    let path = tree::root().join(FILE);
    if bless {
        return match std::fs::write(&path, &now) {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{FILE}: {error}")],
        };
    }
    if std::fs::read_to_string(&path).is_ok_and(|before| before == now) {
        return Vec::new();
    }
    vec![format!("{FILE} is not what the table says; `cargo xtask tidy --bless` writes it")]
}

fn page() -> String {
    let measured = Measured::read();
    let mut out = HEADER.replace("{peers}", &measured.versions());
    let (mut rows, mut stopped, mut better) = (0, 0, 0);
    for program in PROGRAMS {
        write!(out, "\n{}", section(program, &measured)).expect("a string");
        rows += program.rows.len();
        stopped += program.rows.iter().filter(|row| matches!(row.debug, End::Stopped(_))).count();
        better += program.rows.iter().filter(|row| table::better(row)).count();
    }
    out.push_str(CACHES);
    for caches::Row { case, what, default, hardened, debug } in caches::ROWS {
        let [default, hardened, debug] = [default, hardened, debug].map(|end| of_cache(*end));
        writeln!(out, "| `{case}` | {what} | {default} | {hardened} | {debug} |").expect("a string");
    }
    out.push_str(LEAKS);
    for table::Leak { options, variables, default, hardened } in table::LEAKS {
        let variables: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(out, "| `{options}` (`{}`) | {default} | {hardened} |", variables.join(" "))
            .expect("a string");
    }
    out.push_str(LIVE);
    write!(
        out,
        "\n## Sum\n\nOf {rows} rows, kmem by default stops {better} with a message that the C library does not notice or cannot \
         explain; where the C library notices, so does kmem. With debug letters {stopped} are stopped with a message in \
         the very call or at the next use of the block.\n"
    )
    .expect("a string");
    out
}

fn section(program: &Program, measured: &Measured) -> String {
    let mut out = format!("## {}\n\n", program.title);
    let name = program.name;
    writeln!(
        out,
        "| `{name}` | what | glibc {GLIBC} | {} | default | hardened | F Z P U |\n|---|---|---|---|---|---|---|---|",
        PEERS.map(|(_, shown)| shown).join(" | ")
    )
    .expect("a string");
    for row in program.rows {
        let Row { case, what, glibc, default, hardened, debug } = row;
        let peers = measured.cells(name, case).join(" | ");
        let [glibc, default, hardened, debug] = [glibc, default, hardened, debug].map(|end| shown(*end));
        writeln!(out, "| `{case}` | {what} | {glibc} | {peers} | {default} | {hardened} | {debug} |")
            .expect("a string");
    }
    out
}

/// A text as a table can hold it.
fn said(text: &str) -> String {
    text.replace("{}", "…").replace('|', "\\|")
}

fn of_cache(end: caches::End) -> String {
    match end {
        caches::End::Stopped(text) => format!("**stopped**: {}", said(text)),
        caches::End::Fault(text) => format!("**fault**: {}", said(text)),
        caches::End::Told(text) => format!("told: {}", said(text)),
        caches::End::Answers(text) => text.to_owned(),
        caches::End::Unnoticed => "unnoticed".to_owned(),
    }
}

fn shown(end: End) -> String {
    match end {
        End::Stopped(text) => format!("**stopped**: {}", said(text)),
        End::Later(text) => format!("**stopped later**: {}", said(text)),
        End::Noticed(text) => format!("**stopped**, at once or later, as the address falls: {}", said(text)),
        End::Fault => "fault".to_owned(),
        End::Named(text) => format!("**fault**: {}", said(text)),
        End::Dies => "dies".to_owned(),
        End::Reads(byte) => format!("reads {byte}"),
        End::Unnoticed => "unnoticed".to_owned(),
        End::Broken => "**broken**".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_on_the_page_and_has_a_name_of_its_own() {
        let page = page();
        for program in PROGRAMS {
            for (at, row) in program.rows.iter().enumerate() {
                assert!(page.contains(&format!("| `{}` | {} |", row.case, row.what)), "{}", row.case);
                assert!(program.rows[..at].iter().all(|before| before.case != row.case), "{}", row.case);
            }
        }
        for (at, row) in caches::ROWS.iter().enumerate() {
            assert!(page.contains(&format!("| `{}` | {} |", row.case, row.what)), "{}", row.case);
            assert!(caches::ROWS[..at].iter().all(|before| before.case != row.case), "{}", row.case);
        }
    }

    /// Somebody measured each row, and none that is not there.
    #[test]
    fn every_row_was_measured_under_the_peers() {
        let measured = Measured::read();
        let lines = measured.0.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(lines, PROGRAMS.iter().map(|program| program.rows.len()).sum::<usize>());
        for (program, row) in
            PROGRAMS.iter().flat_map(|program| program.rows.iter().map(move |row| (program, row)))
        {
            let cells = measured.cells(program.name, row.case);
            assert!(!cells.contains(&"not measured"), "{} {}", program.name, row.case);
        }
    }

    /// What is made to be attacked stops nothing that the hardened heap lets go on.
    #[test]
    fn the_hardened_heap_stops_what_the_peers_stop() {
        let measured = Measured::read();
        for (program, row) in
            PROGRAMS.iter().flat_map(|program| program.rows.iter().map(move |row| (program, row)))
        {
            let stops = !matches!(row.hardened, End::Reads(_) | End::Unnoticed | End::Broken | End::Dies);
            for ((_, peer), cell) in PEERS.iter().zip(measured.cells(program.name, row.case)) {
                let always = !cell.contains("unnoticed")
                    && !cell.contains("reads")
                    && cell != "cannot be done"
                    && cell != "**broken**";
                assert!(stops || !always, "{peer}, {} {}: {cell}", program.name, row.case);
            }
        }
    }
}
