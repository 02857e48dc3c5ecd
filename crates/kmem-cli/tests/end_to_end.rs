//! The command with the library it builds itself: nothing is told where anything is.

mod support;

use std::fs;
use std::process::Command;

use support::{Scratch, said, slabtop};

/// The command without a named library, under a time limit: a heap that hangs must not hang the tests.
fn kmem() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "300", env!("CARGO_BIN_EXE_kmem")]);
    command.env_remove("KMEM_LIB").env_remove("LD_PRELOAD").env_remove("KMEM_RSEQ");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KMEM_")) {
        command.env_remove(name);
    }
    command
}

/// Allocates 20,000 blocks of 100 bytes, keeps half of them, and leaves without freeing.
const PROGRAM: &str = "
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *blocks[20000];
int main(void)
{
	for (int i = 0; i < 20000; i++)
		memset(blocks[i] = malloc(100), i, 100);
	for (int i = 0; i < 20000; i += 2)
		free(blocks[i]);
	for (int i = 1; i < 20000; i += 2)
		for (int j = 0; j < 100; j++)
			if (blocks[i][j] != (char)i)
				return 1;
	puts(\"intact\");
	return 3;
}
";

#[test]
fn a_program_runs_on_the_library_that_was_built_for_it() {
    let scratch = Scratch::new("real");
    let source = scratch.file("p.c", PROGRAM);
    let program = scratch.path("p");
    support::compile(&["-O1"], &source, &program);
    let table = scratch.path("slabinfo");
    for options in [&[][..], &["--no-rseq"]] {
        let mut command = kmem();
        command.args(["run", "--summary", "--top", "0"]).args(options).arg("--slabinfo").arg(&table);
        let said = said(command.arg("--").arg(&program));
        assert_eq!((said.status, said.out.as_str()), (Some(3), "intact\n"), "{}", said.err);

        // One cache served the blocks; which one is for the heap to choose.
        let number = |cell: &str| cell.replace(',', "").parse::<u64>().unwrap_or(0);
        let served = |row: &&str| {
            row.starts_with("kmalloc-") && number(row.split_whitespace().nth(9).unwrap()) >= 20_000
        };
        let row = said.err.lines().find(served).expect(&said.err);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert!((100..=128).contains(&number(cells[1])), "size: {row}");
        assert!((10_000..10_100).contains(&number(cells[2])), "in use: {row}");
        assert!(number(cells[3]) >= 20_000, "held: {row}");
        assert!((20_000..20_100).contains(&number(cells[9])), "allocations: {row}");
        if options.is_empty() {
            assert!(cells[10].parse::<f64>().unwrap() > 90.0, "most come from a CPU's stack: {row}");
        }

        // The table that was saved is one that we and procps read, with the same totals.
        let text = fs::read_to_string(&table).unwrap();
        assert!(text.lines().any(|line| line.split(' ').next() == Some(cells[0])));
        let human = support::said(kmem().args(["info", "--human"]).arg(&table)).out;
        let total: Vec<&str> = human.lines().last().unwrap().split_whitespace().collect();
        let Some(top) = slabtop(&table) else { continue };
        let objects = top.lines().find(|line| line.contains("Total Objects")).unwrap();
        let expected = format!(": {} / {} (", total[4].replace(',', ""), total[5].replace(',', ""));
        assert!(objects.contains(&expected), "{objects} and {total:?}");
        let slabs = top.lines().find(|line| line.contains("Total Slabs")).unwrap();
        assert!(slabs.contains(&format!(" / {} (", total[7].replace(',', ""))), "{slabs} and {total:?}");
    }
}

#[test]
fn away_from_its_tree_the_command_says_where_it_looked() {
    let scratch = Scratch::new("alone");
    let alone = scratch.path("kmem");
    fs::copy(env!("CARGO_BIN_EXE_kmem"), &alone).unwrap();
    let run = || said(Command::new(&alone).env_remove("KMEM_LIB").args(["run", "--", "echo", "ran"]));
    let missing = run();
    assert_eq!((missing.status, missing.out.as_str()), (Some(125), ""));
    assert!(missing.err.starts_with("kmem: libkmem_malloc.so is neither in "), "{}", missing.err);
    assert_eq!(missing.err.lines().count(), 1);
    // An installed tree: the library beside it.
    fs::copy(support::fake_library(), scratch.path("libkmem_malloc.so")).unwrap();
    assert_eq!(run().out, "ran\n");
}

#[test]
fn each_engine_runs_programs_from_a_library_of_its_own() {
    let scratch = Scratch::new("engines");
    let source = scratch.file("p.c", PROGRAM);
    let program = scratch.path("p");
    support::compile(&["-O1"], &source, &program);
    // Odd numbers up and even ones down: what sort makes of them is known without sort.
    let numbers: Vec<u32> = (0..20_000).map(|i| if i % 2 == 0 { 40_000 - i } else { i }).collect();
    let text: String = numbers.iter().map(|number| format!("{number}\n")).collect();
    let mut sorted = numbers;
    sorted.sort_unstable();
    let sorted: String = sorted.iter().map(|number| format!("{number}\n")).collect();
    let file = scratch.file("numbers", &text);

    for engine in ["slub", "slab", "slob"] {
        let run = || {
            let mut command = kmem();
            command.args(["run", "--summary", "--engine", engine, "--"]);
            command
        };
        let ours = said(run().arg(&program));
        assert_eq!((ours.status, ours.out.as_str()), (Some(3), "intact\n"), "{engine}: {}", ours.err);
        assert!(ours.err.contains(&format!("engine {engine}, ")), "{engine}: {}", ours.err);
        // The classes of sizes are rows of the summary, where there are classes.
        assert_eq!(ours.err.contains("kmalloc-"), engine != "slob", "{engine}: {}", ours.err);
        let theirs = said(run().args(["sort", "-n", "--parallel=2"]).arg(&file));
        assert!(theirs.status == Some(0) && theirs.out == sorted, "{engine}: {}", theirs.err);
        assert!(theirs.err.contains(&format!("engine {engine}, ")), "{engine}: {}", theirs.err);
    }
}

/// Writes one byte past a block, frees it, and goes on if it may.
const OVERFLOW: &str = "
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
	char *volatile block = malloc(41);
	block[41] = 1;
	free(block);
	puts(\"on\");
	return 3;
}
";

#[test]
fn debug_letters_reach_the_program() {
    let scratch = Scratch::new("debug");
    let source = scratch.file("p.c", OVERFLOW);
    let program = scratch.path("p");
    support::compile(&["-O0"], &source, &program);
    let run = |options: &[&str]| said(kmem().arg("run").args(options).arg("--").arg(&program));
    let plain = run(&[]);
    assert_eq!((plain.status, plain.out.as_str()), (Some(3), "on\n"));
    // The first run may tell that it built the library.
    assert!(!plain.err.contains("BUG"), "{}", plain.err);
    let stopped = run(&["--debug", "FZU", "--summary"]);
    assert_eq!((stopped.out.as_str(), stopped.status == Some(3)), ("", false), "{}", stopped.err);
    assert!(stopped.err.contains("kmalloc Redzone overwritten"), "{}", stopped.err);
    assert!(stopped.err.contains("Allocated in main+0x"), "{}", stopped.err);
    let warned = run(&["--debug", "FZU", "--on-error", "warn"]);
    assert_eq!((warned.status, warned.out.as_str()), (Some(3), "on\n"));
    assert!(warned.err.contains("FIX kmalloc-56: Restoring kmalloc Redzone"), "{}", warned.err);
    // Without letters all of them are meant.
    let all = run(&["--debug"]);
    assert!(all.status != Some(3) && all.err.contains("kmalloc Redzone overwritten"), "{}", all.err);
    let elsewhere = run(&["--debug", "FZU,kmalloc-72"]);
    assert_eq!((elsewhere.status, elsewhere.err.as_str()), (Some(3), ""));
}

/// Leaks three blocks, from a function that is inlined.
const LEAK: &str = "
#include <stdlib.h>
static void *volatile kept;
static inline __attribute__((always_inline)) void leak(int size)
{
	kept = malloc(size);
}
int main(void)
{
	for (int i = 0; i < 3; i++)
		leak(40);
	return 3;
}
";

#[test]
fn stacks_have_functions_and_lines() {
    let scratch = Scratch::new("lines");
    let source = scratch.file("overflow.c", OVERFLOW);
    let program = scratch.path("overflow");
    support::compile(&["-O0", "-g"], &source, &program);
    let run = said(kmem().args(["run", "--debug", "FZU", "--on-error", "warn", "--"]).arg(&program));
    let allocated = format!(" {}:6\n", source.display());
    assert!(run.err.contains(&allocated), "{}", run.err);
    let freed = format!(" {}:8\n", source.display());
    assert!(run.err.contains(&freed), "{}", run.err);
    assert!(run.err.lines().any(|line| line.starts_with("Allocated in main+0x")), "{}", run.err);

    let source = scratch.file("leak.c", LEAK);
    let program = scratch.path("leak");
    support::compile(&["-O2", "-g"], &source, &program);
    let log = scratch.path("leaks.log");
    let run = said(
        kmem().args(["run", "--leaks=7", "--leaks-show=in-use", "--log"]).arg(&log).arg("--").arg(&program),
    );
    assert_eq!(run.status, Some(7), "{}", run.err);
    let text = fs::read_to_string(&log).unwrap();
    let shown = source.display();
    assert!(text.contains("]: 120 bytes in 3 objects of 40 bytes, allocated at\n"), "{text}");
    assert!(text.contains(&format!(" {shown}:11 [inlined leak {shown}:6]\n")), "{text}");
    assert!(text.contains("]: SUMMARY: 120 bytes in 3 objects leaked, from 1 place"), "{text}");

    let traces = scratch.path("traces/deep");
    let run = said(
        kmem()
            .args(["run", "--leaks", "--leaks-show", "in-use", "--traces"])
            .arg(&traces)
            .arg("--")
            .arg(&program),
    );
    assert_eq!(run.status, Some(3), "{}", run.err);
    assert!(run.err.contains("SUMMARY: 120 bytes in 3 objects leaked"), "{}", run.err);
    let process = fs::read_dir(&traces).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(process.join("kmalloc-40/alloc_traces")).unwrap();
    assert!(text.starts_with("      3 main+0x"), "{text}");
}

/// Reads a block that was freed.
const STALE: &str = "
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
	char *volatile block = malloc(100);
	free(block);
	int byte = block[50];
	puts(byte == 256 ? \"\" : \"read\");
	return 0;
}
";

#[test]
fn the_guard_reaches_the_program() {
    let scratch = Scratch::new("guard");
    let source = scratch.file("p.c", STALE);
    let program = scratch.path("p");
    support::compile(&["-O0", "-w"], &source, &program);
    let run = |options: &[&str]| {
        let mut command = kmem();
        said(command.arg("run").args(options).arg("--").arg(&program))
    };
    let stopped = run(&["--guard=all"]);
    assert_eq!((stopped.out.as_str(), stopped.status == Some(0)), ("", false), "{}", stopped.err);
    assert!(stopped.err.contains("BUG: kmem: use-after-free read in main+0x"), "{}", stopped.err);
    let warned = run(&["--guard=all", "--on-error", "warn"]);
    assert_eq!((warned.status, warned.out.as_str()), (Some(0), "read\n"), "{}", warned.err);
    assert!(warned.err.contains("BUG: kmem: use-after-free read"), "{}", warned.err);
    let told = run(&["--guard=all", "--on-error", "warn", "--summary"]);
    let guard: Vec<_> = told.err.lines().filter(|line| line.starts_with("guard: ")).collect();
    let [guard] = guard[..] else { panic!("{}", told.err) };
    assert!(guard.contains(" sample") && guard.ends_with(" without one, 1 error"), "{guard}");
    for options in [&[][..], &["--guard"], &["--guard=5000"]] {
        let unseen = run(options);
        assert_eq!((unseen.out.as_str(), unseen.err.as_str()), ("read\n", ""), "{options:?}");
    }
    let refused = run(&["--guard=soon"]);
    assert_eq!(refused.status, Some(125), "{}", refused.err);
    assert!(refused.err.contains("a number of milliseconds, or 'all'"), "{}", refused.err);
}
