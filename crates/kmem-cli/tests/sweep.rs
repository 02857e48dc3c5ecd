//! `kmem fail-sweep` and `kmem run --fail`, with the library that the command builds itself.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{Said, Scratch, said};

/// The command without a named library, under a time limit: a program that hangs must not hang the tests.
fn kmem() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "300", env!("CARGO_BIN_EXE_kmem")]);
    for name in ["KMEM_LIB", "LD_PRELOAD", "KMEM_RSEQ", "KMEM_DEBUG", "KMEM_FAIL", "KMEM_FAIL_REPORT"] {
        command.env_remove(name);
    }
    command
}

/// Five blocks that are looked at, one that is not, one that may be missing, one that is grown; then what the argument asks.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>

static void *checked(size_t size)
{
	void *block = malloc(size);
	if (!block) {
		fputs("no memory\n", stderr);
		exit(3);
	}
	return block;
}

__attribute__((noinline)) static char *unchecked(void)
{
	char *block = malloc(77);
	strcpy(block, "hello");
	return block;
}

int main(int argc, char **argv)
{
	static char buffer[1000];
	const char *how = argc > 1 ? argv[1] : "";
	setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
	for (int i = 0; i < 5; i++)
		free(checked(100 + i));
	char *text = unchecked();
	void *cache = malloc(5000000);
	if (!cache && !strcmp(how, "warn"))
		fputs("slower without a cache\n", stderr);
	if (!cache && !strcmp(how, "hang"))
		for (;;)
			pause();
	if (!cache && !strcmp(how, "silent"))
		text[0] = 'j';
	if (!strcmp(how, "child") && fork() == 0)
		_exit(malloc(200) ? 0 : 1);
	text = realloc(text, 3000);
	if (!text)
		return 4;
	printf("%s", text);
	if (!strcmp(how, "pid"))
		printf(" %d", getpid());
	puts("");
	return 0;
}
"#;

fn program(scratch: &Scratch) -> PathBuf {
    let program = scratch.path("prog");
    support::compile(&["-O1", "-g"], &scratch.file("prog.c", PROGRAM), &program);
    program
}

fn sweep(options: &[&str], how: &str) -> Said {
    let scratch = Scratch::new("sweep");
    let program = program(&scratch);
    said(kmem().arg("fail-sweep").args(options).arg("--").arg(program).arg(how))
}

/// The rows of the table: words, blanks evened out.
fn rows(said: &Said) -> Vec<String> {
    let lines = said.out.lines().skip_while(|line| !line.trim_start().starts_with("FAILED")).skip(1);
    let rows = lines.take_while(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// A hardened heap refuses the same requests, by its own paths, and names them as they were made: without the seal.
#[test]
fn a_hardened_heap_is_swept_as_well() {
    let said = sweep(&["--hardened"], "");
    let expected = [
        "1-5 5 clean error: exit status 3",
        "6 1 CRASH: SIGSEGV, at A",
        "7 1 as without the failure",
        "8 1 clean error: exit status 4",
    ];
    assert_eq!(rows(&said), expected, "{}", said.out);
    // The library may have had to be built.
    let other = said.err.lines().filter(|line| !line.starts_with("kmem: buil"));
    assert_eq!((said.status, other.collect::<Vec<_>>()), (Some(1), vec![]));
    assert!(said.out.contains("request 6: 77 bytes (kmalloc-80), asked for by"), "{}", said.out);
}

#[test]
fn the_unchecked_request_is_found() {
    let said = sweep(&[], "");
    assert_eq!(
        rows(&said),
        [
            "1-5 5 clean error: exit status 3",
            "6 1 CRASH: SIGSEGV, at A",
            "7 1 as without the failure",
            "8 1 clean error: exit status 4",
        ],
        "{}",
        said.out
    );
    assert_eq!((said.status, said.err.as_str()), (Some(1), ""));
    let head = said.out.lines().next().unwrap();
    assert!(head.ends_with("prog: 8 requests for memory since main, exit status 0"), "{head}");
    // Who asked, the nearest first: the function, main, and the C library's start.
    let at =
        said.out.lines().skip_while(|line| !line.starts_with("A  CRASH: SIGSEGV, when request 6 failed"));
    let place: Vec<&str> = at.collect();
    assert_eq!(place[1], "   request 6: 77 bytes (kmalloc-88), asked for by", "{}", said.out);
    let line = |text: &str| 1 + PROGRAM.lines().position(|line| line.contains(text)).unwrap();
    let function = |line: &str, name: &str, number: usize| {
        line.starts_with(&format!("     {name}+0x")) && line.ends_with(&format!("/prog.c:{number}"))
    };
    assert!(function(place[2], "unchecked", line("malloc(77)")), "{}", said.out);
    assert!(function(place[3], "main", line("text = unchecked()")), "{}", said.out);
    assert!(place[4].contains("[libc.so.6]"), "{}", said.out);
    let sum = "1 as without, 6 clean errors, 0 told and gone on, 1 crashes, 0 hangs, 0 silent changes";
    assert!(said.out.contains("8 failures in ") && said.out.contains(sum), "{}", said.out);
    assert!(said.out.contains("again: kmem run --fail 'nth=6,since=main' -- "), "{}", said.out);
}

#[test]
fn the_same_again_is_the_same_whatever_runs_beside() {
    let told = |options: &[&str]| {
        let said = sweep(options, "");
        let lines = said.out.lines().filter(|line| !line.contains(" failures in ") && !line.contains("prog"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let first = told(&[]);
    assert_eq!(told(&["--jobs", "3"]), first);
    assert_eq!(told(&[]), first);
}

#[test]
fn outcomes_are_told_apart() {
    let outcome = |options: &[&str], how| {
        let said = sweep(&[&["--from", "7", "--to", "7"], options].concat(), how);
        let rows = rows(&said);
        assert_eq!(rows.len(), 1, "{}{}", said.out, said.err);
        (said.status, rows[0].clone())
    };
    let warned = "7 1 as without the failure, but told of it on stderr";
    assert_eq!(outcome(&[], "warn"), (Some(0), warned.to_owned()));
    assert_eq!(outcome(&[], "silent"), (Some(0), "7 1 OTHER OUTPUT, and nothing told, at A".to_owned()));
    assert_eq!(outcome(&["--timeout", "0.5"], "hang"), (Some(1), "7 1 HANGS, at A".to_owned()));
}

#[test]
fn output_that_differs_anyway_is_not_compared() {
    let said = sweep(&["--from", "7"], "pid");
    assert!(
        said.out.contains("standard output differs from run to run, and is not compared"),
        "{}",
        said.out
    );
    assert_eq!(rows(&said), ["7 1 as without the failure", "8 1 clean error: exit status 4"]);
}

#[test]
fn a_part_of_the_requests_may_do() {
    assert_eq!(rows(&sweep(&["--stop-after", "1", "--jobs", "2"], "")).len(), 2, "to the first crash");
    let said = sweep(&["--only", "size=1000-"], "");
    assert_eq!(rows(&said), ["1 1 as without the failure", "2 1 clean error: exit status 4"]);
    assert!(said.out.contains("prog: 2 requests"), "{}", said.out);
    let none = sweep(&["--only", "cache=dentry"], "");
    assert!(none.out.contains("prog: 0 requests") && none.status == Some(0), "{}", none.out);
    let more = sweep(&["--from-start", "--to", "1"], "");
    assert!(more.out.contains(" requests for memory, exit status 0"), "{}", more.out);
}

#[test]
fn children_run_in_peace() {
    let said = sweep(&[], "child");
    assert!(said.out.contains("prog: 8 requests"), "{}", said.out);
    assert_eq!(rows(&said).len(), 4);
}

#[test]
fn a_program_behind_another_is_meant_by_its_name() {
    let scratch = Scratch::new("behind");
    let program = program(&scratch).display().to_string();
    let line = format!("exec {program}");
    let said = said(kmem().args(["fail-sweep", "--only", "program=prog", "--", "sh", "-c", &line]));
    assert!(said.out.starts_with("sh: 8 requests for memory"), "{}{}", said.out, said.err);
    assert_eq!(rows(&said)[1], "6 1 CRASH: SIGSEGV, at A");
}

#[test]
fn what_cannot_be_swept_is_said() {
    let refused = |arguments: &[&str]| {
        let said = said(kmem().arg("fail-sweep").args(arguments));
        assert_eq!((said.status, said.out.as_str()), (Some(125), ""), "{arguments:?}: {}", said.err);
        said.err
    };
    assert_eq!(
        refused(&["sh", "-c", "kill -SEGV $$"]),
        "kmem: the program ends by SIGSEGV without any refusal\n"
    );
    let slow = refused(&["--timeout", "0.3", "sleep", "9"]);
    assert_eq!(slow, "kmem: without any refusal the program takes more than 0.3 s\n");
    assert!(refused(&["--only", "program=nobody", "true"]).contains("no process has the name asked for"));
    assert!(refused(&["--only", "nth=3", "true"]).contains("'nth' is no filter"));
    assert!(refused(&["--timeout", "0", "true"]).contains("not a number of seconds"));
    let missing = said(kmem().args(["fail-sweep", "no-such-program"]));
    assert_eq!(missing.status, Some(127));
}

#[test]
fn run_has_requests_fail() {
    let scratch = Scratch::new("run");
    let program = program(&scratch);
    let run = |rule: &str| said(kmem().args(["run", "--fail", rule, "--"]).arg(&program));
    let status = |rule| run(rule).status;
    assert_eq!((status("nth=1,since=main"), status("nth=8,since=main")), (Some(3), Some(4)));
    assert_eq!(status("nth=9,since=main"), Some(0));
    assert_eq!(status("size=3000-4000"), Some(4));
    let wrong = run("nth=1,sized=3");
    assert_eq!(
        (wrong.status, wrong.err.as_str()),
        (Some(125), "kmem: --fail: 'sized' is no property of failures\n")
    );
}
