//! `kmem symbolize`: names and lines of a program whose addresses are known.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Scratch, compile, kmem, said};

/// `outer` calls `leaf` once itself and once through a function that is inlined.
const PROGRAM: &str = "\
__attribute__((noinline)) int leaf(int x)
{
	__asm__ volatile(\"\" : \"+r\"(x));
	return x + 1;
}
static inline __attribute__((always_inline)) int middle(int x)
{
	return leaf(x) * 3;
}
__attribute__((noinline)) int outer(int x)
{
	int one = leaf(x);
	return one +
		middle(x) + 5;
}
int main(int argc, char **argv)
{
	(void)argv;
	return outer(argc) + 1;
}
";

fn tool(name: &str, arguments: &[&str], file: &Path) -> String {
    let output =
        Command::new(name).args(arguments).arg(file).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The address behind each call of `leaf`, in order, with the start of `outer`.
fn returns(program: &Path) -> (u64, Vec<u64>) {
    let listing = tool("objdump", &["-d", "--no-show-raw-insn"], program);
    let mut lines = listing.lines().skip_while(|line| !line.ends_with("<outer>:"));
    let number = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap();
    let start = number(lines.next().unwrap().split(' ').next().unwrap());
    let body: Vec<(u64, &str)> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (address, text) = line.split_once(':').unwrap();
            (number(address), text)
        })
        .collect();
    let calls = body.windows(2).filter(|pair| pair[0].1.contains("<leaf>")).map(|pair| pair[1].0).collect();
    (start, calls)
}

fn built(scratch: &Scratch) -> std::path::PathBuf {
    let source = scratch.file("source.c", PROGRAM);
    let program = scratch.path("a program");
    compile(&["-O2", "-g", "-Wl,--build-id"], &source, &program);
    program
}

#[test]
fn functions_lines_and_what_was_inlined() {
    let scratch = Scratch::new("symbolize");
    let program = built(&scratch);
    let (start, calls) = returns(&program);
    assert_eq!(calls.len(), 2);
    let lines: Vec<String> = calls.iter().map(|at| format!("{} {at:#x}", program.display())).collect();
    let input = scratch.file("questions", &format!("{}\nnonsense\n{}\n", lines[0], lines[1]));
    let said = said(kmem().arg("symbolize").stdin(fs::File::open(input).unwrap()));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    let answers: Vec<&str> = said.out.lines().collect();
    assert_eq!((answers.len(), answers[1]), (3, ""));
    let source = scratch.path("source.c").display().to_string();
    let fields: Vec<&str> = answers[0].split('\t').collect();
    assert!(fields[0].starts_with(&format!("outer+{:#x}/0x", calls[0] - start)), "{}", answers[0]);
    assert_eq!(fields[1..], [format!("{source}:12")], "{}", answers[0]);
    let fields: Vec<&str> = answers[2].split('\t').collect();
    assert!(fields[0].starts_with(&format!("outer+{:#x}/0x", calls[1] - start)), "{}", answers[2]);
    assert_eq!(fields[1..], [format!("{source}:14"), format!("middle {source}:8")], "{}", answers[2]);
}

#[test]
fn a_stripped_file_is_looked_up_by_its_debug_link() {
    let scratch = Scratch::new("stripped");
    let program = built(&scratch);
    let (_, calls) = returns(&program);
    let offset = format!("{:#x}", calls[0]);
    let ask = |program: &Path| said(kmem().arg("symbolize").arg(program).arg(&offset)).out;
    let whole = ask(&program);
    let debug = scratch.path("a program.debug");
    tool("objcopy", &["--only-keep-debug", &program.display().to_string()], &debug);
    tool("strip", &[], &program);
    assert_eq!(ask(&program), "\n", "nothing is left in the file");
    tool("objcopy", &[&format!("--add-gnu-debuglink={}", debug.display())], &program);
    assert_eq!(ask(&program), whole);
    // Of another build: not to be believed.
    let other = Scratch::new("other-build");
    compile(&["-O1", "-g", "-Wl,--build-id"], &other.file("source.c", PROGRAM), &debug);
    assert_eq!(ask(&program), "\n");
}

#[test]
fn answers_come_at_once() {
    let scratch = Scratch::new("pipe");
    let program = built(&scratch);
    let mut child =
        kmem().arg("symbolize").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kmem");
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for offset in returns(&program).1 {
        writeln!(input, "{} {offset:#x}", program.display()).unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert!(answer.starts_with("outer+0x"), "{answer}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn arguments_are_checked() {
    let unreadable = said(kmem().args(["symbolize", "/nonexistent", "1"]));
    assert_eq!(
        (unreadable.status, unreadable.err.as_str()),
        (Some(1), "kmem: /nonexistent: not a program or library that can be read\n")
    );
    let bad = said(kmem().args(["symbolize", "/bin/sh", "xyz"]));
    assert_eq!((bad.status, bad.err.as_str()), (Some(1), "kmem: 'xyz' is no offset\n"));
}
