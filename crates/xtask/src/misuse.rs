//! `misuse --peers`: what becomes of each row of `docs/misuse.md` under other allocators that are made to be attacked.
//!
//! The peers are those of `bench --hardened`: scudo, which LLVM's packages bring, and hardened_malloc, compiled from the sources that
//! Cargo fetches. Each row's program runs a few times on each; how it ended is written to [`FILE`], which is under review like every
//! other fact, and which `tidy` puts on the page beside kmem's own columns. Neither is built or run by `ci`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::peers::{self, Which};
use crate::step::Count;
use crate::tidy::misuse_rows;
use crate::{child, tree};

/// The measured columns.
pub(crate) const FILE: &str = "crates/kmem-malloc/tests/preload/misuse/peers.txt";

/// Their names, as the page and [`peers`] have them; and how many there are.
pub(crate) const PEERS: [(&str, &str); 2] = [("scudo", "scudo"), ("hardened", "hardened_malloc")];

/// Runs of a row: places are drawn at random.
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(20);
/// The longest message that is kept.
const MESSAGE: usize = 90;

pub(crate) fn run(arguments: &[String]) -> Count {
    if arguments != ["--peers"] {
        println!("cargo xtask misuse --peers   measures the columns of other allocators on docs/misuse.md");
        return Count::FAILED;
    }
    match measure() {
        Ok(text) => match fs::write(tree::root().join(FILE), text) {
            Ok(()) => {
                println!("{FILE} written; `cargo xtask tidy --bless` puts it on the page");
                Count::PASSED
            }
            Err(error) => failed(&format!("{FILE}: {error}")),
        },
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> Count {
    println!("{why}");
    Count::FAILED
}

fn measure() -> Result<String, String> {
    let found = peers::find(&Which::Hardened);
    let peers = PEERS.map(|(name, shown)| {
        let library = found.iter().find(|(peer, _)| *peer == name).map(|(_, library)| library.clone());
        library.ok_or_else(|| format!("{shown} cannot be had"))
    });
    let [scudo, hardened] = peers;
    let libraries = [scudo?, hardened?];
    let work = tree::target().join("xtask/misuse");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let mut out = String::from(
        "# What becomes of the rows of docs/misuse.md under other allocators, by tabs. Written by `cargo xtask misuse --peers`.\n",
    );
    for ((_, shown), library) in PEERS.iter().zip(&libraries) {
        out += &format!("# {shown}: {}\n", version(library));
    }
    for (program, cases) in misuse_rows() {
        let binary = compile(program, &work)?;
        for case in cases {
            out += &format!("{program}/{case}");
            for library in &libraries {
                let ends =
                    (0..RUNS).map(|_| once(&binary, case, library, &work)).collect::<Result<_, _>>()?;
                out += &format!("\t{}", together(ends));
            }
            out.push('\n');
        }
        println!("{program}");
    }
    Ok(out)
}

/// What is known of a library's version: from the directory that it lies in.
fn version(library: &Path) -> String {
    let parts: Vec<_> = library.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let named = |start: &str| parts.iter().find_map(|part| part.strip_prefix(start).map(str::to_owned));
    if let Some(llvm) = named("llvm-") {
        return format!("of LLVM {llvm}");
    }
    named("hardened-malloc-sys-").map_or_else(
        || "version unknown".to_owned(),
        |version| format!("of the package hardened-malloc-sys {version}, default configuration"),
    )
}

/// A program of misuse, as the tests of `kmem-malloc` compile it.
fn compile(program: &str, work: &Path) -> Result<PathBuf, String> {
    let (compiler, kind, standard) =
        if program == "mismatch" { ("g++", "cc", "-std=gnu++17") } else { ("gcc", "c", "-std=gnu17") };
    let source = tree::root().join(format!("crates/kmem-malloc/tests/c/misuse/{program}.{kind}"));
    let binary = work.join(program);
    let mut command = Command::new(compiler);
    command
        .args([standard, "-O1", "-g", "-pthread", "-fno-builtin", "-w"])
        .arg(&source)
        .arg("-o")
        .arg(&binary);
    let status = command.arg("-ldl").status().map_err(|error| format!("{compiler}: {error}"))?;
    if status.success() { Ok(binary) } else { Err(format!("{} does not compile", source.display())) }
}

/// Runs a row; says how it ended, in the page's words.
fn once(binary: &Path, case: &str, library: &Path, work: &Path) -> Result<String, String> {
    let (out, err) = (work.join("stdout"), work.join("stderr"));
    let file = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut command = Command::new(binary);
    command.arg(case).env("LD_PRELOAD", library).env_remove("SCUDO_OPTIONS");
    command.stdin(Stdio::null()).stdout(file(&out)?).stderr(file(&err)?);
    let end = child::run(&mut command, LIMIT).map_err(|error| format!("{}: {error}", binary.display()))?;
    let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (out, err) = (text(&out).unwrap_or_default(), text(&err).unwrap_or_default());
    if end.timed_out { Ok("hangs".to_owned()) } else { Ok(told(end.status, &out, &err)) }
}

fn told(status: ExitStatus, out: &str, err: &str) -> String {
    let line = |text: &str| out.lines().any(|line| line == text);
    let message = message(err);
    match (status.signal(), status.code()) {
        (Some(libc::SIGSEGV | libc::SIGBUS), _) if message.is_empty() => "fault".to_owned(),
        (Some(_), _) => {
            let word = if line("after") { "stopped later" } else { "stopped" };
            let told = if message.is_empty() { "without a word".to_owned() } else { message };
            format!("**{word}**: {told}")
        }
        (None, Some(0)) => match out.lines().find_map(|line| line.strip_prefix("read ")) {
            Some(byte) => format!("reads {byte}"),
            None => "unnoticed".to_owned(),
        },
        (None, Some(3)) => "**broken**".to_owned(),
        // The program found no blocks side by side, or has no such function.
        _ => "cannot be done".to_owned(),
    }
}

/// The first line that was said, without what differs from run to run.
fn message(err: &str) -> String {
    let line = err.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("0x") {
        out += &rest[..at];
        out.push('…');
        rest = rest[at + 2..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    out += rest;
    out.replace('|', "/").chars().take(MESSAGE).collect()
}

/// One cell for all runs.
fn together(ends: Vec<String>) -> String {
    let different: BTreeSet<String> = ends.into_iter().collect();
    let mut words = different.into_iter();
    let first = words.next().unwrap_or_default();
    words.fold(first, |all, word| format!("{all}; or {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_the_pages_words() {
        let signal = |signal| ExitStatus::from_raw(signal);
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        for (status, out, err, cell) in [
            (signal(libc::SIGABRT), "0x1\n", "\nbad 0x7fff12 | here\nmore\n", "**stopped**: bad … / here"),
            (signal(libc::SIGABRT), "0x1\nafter\n", "bad\n", "**stopped later**: bad"),
            (signal(libc::SIGSEGV), "0x1\n", "", "fault"),
            (signal(libc::SIGSEGV), "0x1\n", "bad\n", "**stopped**: bad"),
            (signal(libc::SIGTRAP), "0x1\n", "", "**stopped**: without a word"),
            (code(0), "0x1\nafter\nwhole\n", "", "unnoticed"),
            (code(0), "0x1\nread 0x6b\nafter\nwhole\n", "", "reads 0x6b"),
            (code(3), "0x1\nafter\n", "", "**broken**"),
            (code(1), "", "failed", "cannot be done"),
        ] {
            assert_eq!(told(status, out, err), cell, "{status:?} {out:?} {err:?}");
        }
    }

    #[test]
    fn runs_that_differ_are_all_told() {
        let ends = |ends: &[&str]| together(ends.iter().map(|end| (*end).to_owned()).collect());
        assert_eq!(ends(&["fault", "fault"]), "fault");
        assert_eq!(ends(&["unnoticed", "fault", "unnoticed"]), "fault; or unnoticed");
    }
}
