//! `golden --code`: the machine code of the fast paths as it runs, each piece with the place in the sources that it comes from.
//!
//! Callgrind tells which instructions of the library a loop of pairs went through each time; the disassembly what they are; the line
//! tables which function, inlined into which, they were compiled from. So the page shows what a warm call executes, in the order
//! of addresses, and nothing of the slow paths around it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::output;
use crate::library::{self, Engine};
use crate::tree;

const FILE: &str = "docs/fast-path.md";
/// The functions that are shown.
const NAMED: [&str; 3] = ["malloc", "free", "calloc"];
/// Operations of the loop: see `kmem-bench --count`.
const OPERATIONS: u64 = 1600;

const HEADER: &str = "\
<!-- Written by `cargo xtask golden --code`. -->

# The fast paths, as they run

What one warm `malloc(64)` and one warm `free` of its block execute, in a process of one thread on restartable sequences: every
instruction of the library that callgrind saw each time, in the order of addresses. A gap in the addresses is a branch that was
taken, or code that was not needed; the slow paths are there. The comments are the lines of the sources (below `crates/`) that
the next instructions were compiled from, wherever those were inlined. `golden/fast-path.txt` has the counts of these and of other loops; they are compared in every
check, this page is not.

How to read it:

- No instruction here is locked, none divides, and the only calls are those through which the program reached the library.
- `fs:` is the thread's own memory: the restartable sequence's area, which names the CPU and holds the address of the piece that
  must not be interrupted.
- A piece begins with the store of its descriptor into that area and ends with the one store that commits it. The kernel sets a
  thread that it takes off the CPU in between back to the piece's start.
- What stands after the load of the block's first words in `malloc` and before the last store in `free` is the price of noticing
  misuse: the header before the block, which tells that a block begins at the address and is not free.
";

/// Writes the page.
pub(super) fn bless(stand_in: &Path) -> Result<(), String> {
    let library = library::path(Engine::Slub);
    let library = library.canonicalize().map_err(|error| format!("{}: {error}", library.display()))?;
    let text = disassembly(&library)?;
    let mut page = HEADER.to_owned();
    for (loop_name, functions) in [("count_pair_64", &NAMED[..2]), ("count_calloc_64", &NAMED[2..])] {
        let executed = executed(&library, stand_in, loop_name)?;
        let addresses: Vec<u64> = executed.keys().copied().collect();
        let origins = origins(&library, &addresses)?;
        for function in functions {
            let lines = shown(function, &text, &executed, &origins);
            let count = lines.iter().filter(|line| !line.starts_with(';')).count();
            write!(page, "\n## {function}: {count} instructions\n\n```text\n").expect("a string");
            lines.iter().for_each(|line| writeln!(page, "{line}").expect("a string"));
            page.push_str("```\n");
        }
    }
    std::fs::write(tree::root().join(FILE), page).map_err(|error| format!("{FILE}: {error}"))
}

/// An instruction: the function that it belongs to, and its text.
type Code = BTreeMap<u64, (String, String)>;

fn disassembly(library: &Path) -> Result<Code, String> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "-M", "intel", "--no-show-raw-insn"]).arg(library);
    Ok(parse_disassembly(&output(objdump)?))
}

fn parse_disassembly(text: &str) -> Code {
    let mut function = String::new();
    let mut code = Code::new();
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            function = name.1.to_owned();
        } else if let Some((address, instruction)) = line.trim_start().split_once(":\t")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            code.insert(address, (function.clone(), instruction.trim_end().to_owned()));
        }
    }
    code
}

/// The addresses in the library that the loop went through each time.
fn executed(library: &Path, stand_in: &Path, loop_name: &str) -> Result<BTreeMap<u64, u64>, String> {
    let out = tree::target().join("xtask").join(format!("callgrind-code-{loop_name}"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"]);
    valgrind.arg("--collect-atstart=no").arg(format!("--toggle-collect={loop_name}"));
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(tree::release("kmem-bench"));
    let preload = format!("{}:{}", library.display(), stand_in.display());
    valgrind.args(["--count", "malloc"]).env_remove("KMEM_RSEQ").env("LD_PRELOAD", preload);
    output(valgrind)?;
    let text = std::fs::read_to_string(&out).map_err(|error| error.to_string())?;
    let mut counts = parse_executed(&text, &library.to_string_lossy());
    counts.retain(|_, count| *count >= OPERATIONS);
    if counts.is_empty() {
        return Err(format!("callgrind saw nothing of {loop_name} in the library"));
    }
    Ok(counts)
}

/// How often each instruction of an object ran, from callgrind's own file.
fn parse_executed(text: &str, object: &str) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    let (mut here, mut of_a_call) = (false, false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            here = name == object;
        } else if line.starts_with("calls=") {
            // The next line is the cost of what was called.
            of_a_call = true;
        } else if let Some(line) = line.strip_prefix("0x") {
            let mut words = line.split_whitespace();
            let address = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            let count = words.nth(1).and_then(|word| word.parse::<u64>().ok());
            if let (true, false, Some(address), Some(count)) = (here, of_a_call, address, count) {
                *counts.entry(address).or_insert(0) += count;
            }
            of_a_call = false;
        }
    }
    counts
}

/// Where each address was compiled from: the innermost place in this project, as `crate/src/file.rs:line`.
fn origins(library: &Path, addresses: &[u64]) -> Result<BTreeMap<u64, String>, String> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-f", "-i", "-C", "-e"]).arg(library).stdin(Stdio::piped()).stdout(Stdio::piped());
    let failed = |error: std::io::Error| format!("addr2line: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let input: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let mut stdin = child.stdin.take().ok_or("addr2line takes no input")?;
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    writer.join().map_err(|_| "addr2line: a thread failed")?.map_err(failed)?;
    Ok(parse_origins(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_origins(text: &str) -> BTreeMap<u64, String> {
    let mut origins = BTreeMap::new();
    let mut address = 0;
    let mut lines = text.lines();
    // Pairs of a function's name and its place follow an address.
    while let Some(line) = lines.next() {
        if let Some(hex) = line.strip_prefix("0x")
            && let Ok(next) = u64::from_str_radix(hex, 16)
        {
            address = next;
            continue;
        }
        let place = lines.next().unwrap_or_default();
        // Innermost first: the first that is ours.
        if let Some((_, place)) = place.split_once("crates/") {
            let place = place.split(" (").next().unwrap_or(place);
            origins.entry(address).or_insert_with(|| place.to_owned());
        }
    }
    origins
}

/// The line of the sources at a place, or nothing.
fn source(place: &str) -> String {
    let Some((file, line)) = place.rsplit_once(':') else { return String::new() };
    let text = std::fs::read_to_string(tree::root().join("crates").join(file)).unwrap_or_default();
    let line = line.parse::<usize>().ok().and_then(|line| text.lines().nth(line.checked_sub(1)?));
    line.unwrap_or_default().trim().to_owned()
}

/// The instructions of a function that ran, with a comment wherever they come from another place; with them those that it goes on in
/// which have no name that is asked for.
fn shown(
    function: &str,
    code: &Code,
    executed: &BTreeMap<u64, u64>,
    origins: &BTreeMap<u64, String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut origin, mut owner) = ("", "");
    for address in executed.keys() {
        let Some((of, text)) = code.get(address) else { continue };
        // The C library's other name for it stands first in the library's table.
        let of = of.strip_prefix("__libc_").unwrap_or(of);
        // What has another name is a piece that several use; it is shown with those that are asked for first.
        if of != function && (function == "free" || NAMED.contains(&of)) {
            continue;
        }
        if owner != of {
            owner = of;
            if of != function {
                lines.push(format!("; in {of}"));
            }
        }
        let from = origins.get(address).map_or("", String::as_str);
        if from != origin && !from.is_empty() && !from.ends_with('?') {
            origin = from;
            lines.push(format!("; {from:<34} {}", source(from)).trim_end().to_owned());
        }
        let text = text.split("   # ").next().unwrap_or(text).split(" <").next().unwrap_or(text).trim_end();
        lines.push(format!("{address:>8x}  {text}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_shown_with_where_it_comes_from() {
        let code = parse_disassembly(
            "\n0000000000001000 <malloc>:\n    1000:\tpush   rbx\n    1001:\tje     1010 <malloc+0x10>\n    1003:\tint3\n\n\
             0000000000001100 <free>:\n    1100:\tret\n",
        );
        let counts = "ob=/x/lib.so\nfn=malloc\n0x1000 5 1600\n0x1001 6 1600\ncalls=1 0x9\n0x1001 6 99999\n0x1003 7 1\n\
                      ob=/x/other.so\n0x1100 1 1600\nob=/x/lib.so\nfn=free\n0x1100 9 1600\n";
        let mut executed = parse_executed(counts, "/x/lib.so");
        assert_eq!(executed[&0x1001], 1600, "a call's cost is not its own");
        executed.retain(|_, count| *count >= OPERATIONS);
        let origins = parse_origins(
            "0x0000000000001000\ncore::ptr::read<u8>\n/rustc/library/core/x.rs:1\nkmem::heap::malloc\n/k/crates/kmem/none/heap.rs:7\n\
             0x0000000000001001\nkmem_core::sheaf::pop<u8>\n/k/crates/kmem-core/none/sheaf.rs:9 (discriminator 2)\n",
        );
        let lines = shown("malloc", &code, &executed, &origins);
        assert_eq!(
            lines,
            [
                "; kmem/none/heap.rs:7",
                "    1000  push   rbx",
                "; kmem-core/none/sheaf.rs:9",
                "    1001  je     1010"
            ]
        );
        assert!(source("xtask/src/golden/code.rs:1").starts_with("//! `golden --code`"));
        assert_eq!(shown("free", &code, &executed, &origins), ["    1100  ret"]);
    }
}
