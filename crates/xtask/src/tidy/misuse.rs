//! The page about misuse, `docs/misuse.md`: made from the table that the tests check, so that it cannot say what is not true.

use std::fmt::Write;

use crate::tree;

#[path = "../../../kmem-malloc/tests/preload/misuse/table/mod.rs"]
mod table;

use table::{End, GLIBC, PROGRAMS, Program, Row};

const FILE: &str = "docs/misuse.md";

const HEADER: &str = "\
<!-- Written by `cargo xtask tidy --bless` from the table in crates/kmem-malloc/tests/preload/misuse/table/. -->

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
| dies | one of these three, different from run to run |
| reads *n* | the program goes on, with what it reads there |
| unnoticed | the program goes on; the heap hands nothing out twice and loses nothing |
| **broken** | the program goes on, and the heap hands out memory that is in use |

`…` in a message stands for the address. Columns: the C library's own allocator; kmem as it comes; the hardened library
(`kmem run --hardened`); kmem with the debug letters F Z P U (`KMEM_DEBUG=FZPU`, `kmem run --debug`). One row by hand:

```
gcc -pthread -fno-builtin -w -o double_free crates/kmem-malloc/tests/c/misuse/double_free.c
LD_PRELOAD=target/release/libkmem_malloc.so ./double_free small
LD_PRELOAD=target/release/libkmem_malloc.so KMEM_DEBUG=FZPU ./double_free small
```

Misuse of caches of one's own (an object freed to another cache, a cache destroyed with objects in use, and so on) has its rows in
`crates/kmem/tests/misuse.rs`, and in process in `crates/kmem-core/tests/debug`.
";

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
    let mut out = String::from(HEADER);
    let (mut rows, mut stopped, mut worse, mut better) = (0, 0, 0, 0);
    for program in PROGRAMS {
        write!(out, "\n{}", section(program)).expect("a string");
        rows += program.rows.len();
        stopped += program.rows.iter().filter(|row| matches!(row.debug, End::Stopped(_))).count();
        worse += program.rows.iter().filter(|row| table::worse(row)).count();
        better += program.rows.iter().filter(|row| table::better(row)).count();
    }
    write!(
        out,
        "\n## Sum\n\nOf {rows} rows, kmem by default stops {better} with a message that the C library does not notice or cannot \
         explain; in {worse}, marked ¹, it is the other way round. With debug letters {stopped} are stopped with a message in \
         the very call or at the next use of the block.\n"
    )
    .expect("a string");
    out
}

fn section(program: &Program) -> String {
    let mut out = format!("## {}\n\n", program.title);
    let name = program.name;
    writeln!(
        out,
        "| `{name}` | what | glibc {GLIBC} | default | hardened | F Z P U |\n|---|---|---|---|---|---|"
    )
    .expect("a string");
    for row in program.rows {
        let Row { case, what, glibc, default, hardened, debug } = row;
        let note = if table::worse(row) { " ¹" } else { "" };
        let [glibc, default, hardened, debug] = [glibc, default, hardened, debug].map(|end| shown(*end));
        writeln!(out, "| `{case}` | {what} | {glibc} | {default}{note} | {hardened} | {debug} |")
            .expect("a string");
    }
    if !program.remark.is_empty() {
        writeln!(out, "\n¹ {}", program.remark).expect("a string");
    }
    out
}

fn shown(end: End) -> String {
    let said = |text: &str| text.replace("{}", "…").replace('|', "\\|");
    match end {
        End::Stopped(text) => format!("**stopped**: {}", said(text)),
        End::Later(text) => format!("**stopped later**: {}", said(text)),
        End::Perhaps(text) => format!("stopped, or unnoticed, as the address falls: {}", said(text)),
        End::Fault => "fault".to_owned(),
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
    }
}
