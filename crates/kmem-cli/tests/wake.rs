//! `kmem ctl` and `kmem top` with programs that make no slow call by themselves, under `kmem run`.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::{Said, Scratch, eventually, real, said};

/// Works until there is a table (unless it is to sleep early), loses a hundred blocks, says that it is ready, and waits, in `poll` or in a loop that takes and gives
/// back one block; in the end it tells how often its own handler of SIGURG ran, if it has one.
const PROGRAM: &str = "
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static void *blocks[3000];
static volatile int heard;
static void own(int signal)
{
	(void)signal;
	heard++;
}
static void work(int milliseconds)
{
	struct timespec now, start;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		for (int i = 0; i < 3000; i++)
			memset(blocks[i] = malloc(500), 1, 500);
		for (int i = 0; i < 3000; i++) {
			free(blocks[i]);
			blocks[i] = 0;
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
}
int main(int count, char **arguments)
{
	struct sigaction action = {.sa_handler = own, .sa_flags = SA_RESTART};
	const char *how = count > 1 ? arguments[1] : \"\";
	static void *kept[100];
	struct pollfd in = {0, POLLIN, 0};
	char end;
	if (strcmp(how, \"early\"))
		work(200);
	for (int i = 0; i < 100; i++)
		memset(kept[i] = malloc(200), 0, 200);
	memset(kept, 0, sizeof kept);
	if (!strcmp(how, \"own\")) {
		sigaction(SIGURG, &action, NULL);
		work(50);
	}
	puts(\"ready\");
	fflush(stdout);
	if (!strcmp(how, \"spin\"))
		for (;;) {
			void *volatile at = malloc(60);
			free(at);
		}
	if (!strcmp(how, \"read\"))
		printf(\"read %d\\n\", (int)fread(&end, 1, 1, stdin));
	else
		while (poll(&in, 1, -1) < 0 && errno == EINTR)
			;
	printf(\"heard %d\\n\", heard);
	return 0;
}
";

/// The program under `kmem run` with the library that it builds itself.
struct Sleeper {
    child: Child,
    lines: BufReader<ChildStdout>,
    directory: PathBuf,
    _scratch: Scratch,
}

impl Sleeper {
    fn new(how: &str) -> Self {
        let scratch = Scratch::new(how);
        let source = scratch.file("p.c", PROGRAM);
        let program = scratch.path("sleeper");
        support::compile(&["-O1", "-g"], &source, &program);
        let runtime = scratch.path("runtime");
        fs::create_dir(&runtime).unwrap();
        let mut command = real(&runtime);
        command.args(["run", "--no-summary", "--"]).arg(&program).arg(how);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut sleeper = Sleeper { child, lines, directory: runtime, _scratch: scratch };
        assert_eq!(sleeper.line(), "ready");
        sleeper
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn kmem(&self, arguments: &[&str]) -> Said {
        said(real(&self.directory).args(arguments))
    }

    /// Asks a program that sleeps; what it answered.
    fn ctl(&self, arguments: &[&str]) -> String {
        let said = self.kmem(&[&["ctl", "--wait", "60", "sleeper"], arguments].concat());
        assert_eq!(said.status, Some(0), "{arguments:?}: {}", said.err);
        said.out
    }

    /// Nobody answers, and nobody was woken.
    fn is_silent(&self, options: &[&str]) {
        let late = self.kmem(&[&["ctl", "--wait", "1"], options, &["sleeper", "validate"]].concat());
        assert_eq!((late.status, late.out.as_str()), (Some(1), ""));
        assert!(late.err.contains(": the program did not allocate or free meanwhile"), "{}", late.err);
    }

    fn tables(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.directory.join("kmem")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|kind| kind == "table")).collect()
    }

    fn table(&self) -> PathBuf {
        self.tables().remove(0)
    }

    fn written(&self) -> SystemTime {
        fs::metadata(self.table()).unwrap().modified().unwrap()
    }

    /// Has it end by itself; what it said.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.lines.read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        said
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The program itself, of which `timeout` and `kmem run` hear then.
        if let Ok(mut files) = fs::read_dir(self.directory.join("kmem"))
            && let Some(Ok(file)) = files.next()
            && let Some(pid) = file.file_name().to_str().and_then(|name| name.split('.').next()?.parse().ok())
        {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_program_that_sleeps_is_woken_and_answers() {
    let sleeper = Sleeper::new("poll");
    sleeper.is_silent(&["--no-wake"]);
    assert!(sleeper.ctl(&["validate"]).ends_with(" looked at, 0 errors\n"));
    let leaks = sleeper.ctl(&["leaks"]);
    assert!(leaks.contains(" objects of 200 bytes, definitely lost"), "{leaks}");
    assert!(sleeper.ctl(&["letters", "FZPU,kmalloc-*"]).contains(" these letters\n"));
    assert!(sleeper.ctl(&["shrink"]).ends_with(" pages given back\n"));
    assert_eq!(sleeper.end(), "heard 0\n");
}

#[test]
fn a_program_that_went_to_sleep_before_its_first_table_is_woken_too() {
    // On a busy machine one may take so long to begin that it leaves one.
    let mut early = (0..20).map(|_| Sleeper::new("early"));
    let sleeper = early.find(|sleeper| sleeper.tables().is_empty()).expect("one that sleeps soon");
    sleeper.is_silent(&["--no-wake"]);
    assert!(sleeper.tables().is_empty());
    let leaks = sleeper.ctl(&["leaks"]);
    assert!(leaks.contains(" objects of 200 bytes, definitely lost"), "{leaks}");
    assert_eq!(sleeper.tables().len(), 1);
    assert!(sleeper.ctl(&["validate"]).ends_with(" looked at, 0 errors\n"));
    assert_eq!(sleeper.end(), "heard 0\n");
}

#[test]
fn a_program_in_balance_is_woken_and_its_next_blocks_are_checked() {
    let sleeper = Sleeper::new("spin");
    // Until the last table of its busy time is old.
    thread::sleep(Duration::from_millis(1200));
    sleeper.is_silent(&["--no-wake"]);
    assert!(sleeper.ctl(&["validate"]).starts_with("0 slabs "));
    assert!(sleeper.ctl(&["letters", "FZ,kmalloc-72"]).starts_with("1 cache has these letters\n"));
    eventually("a slab that is checked", || {
        (!sleeper.ctl(&["validate"]).starts_with("0 slabs ")).then_some(())
    });
}

#[test]
fn a_call_that_waits_goes_on_after_the_answer() {
    let mut sleeper = Sleeper::new("read");
    assert!(sleeper.ctl(&["validate"]).ends_with(" looked at, 0 errors\n"));
    sleeper.child.stdin.as_ref().unwrap().write_all(b"x").unwrap();
    assert_eq!(sleeper.line(), "read 1");
    sleeper.end();
}

#[test]
fn a_program_that_has_the_signal_for_itself_is_left_alone() {
    let listens = |sleeper: &Sleeper| fs::read_to_string(sleeper.table()).unwrap().contains("\nwake 23\n");
    assert!(listens(&Sleeper::new("poll")));
    let sleeper = Sleeper::new("own");
    assert!(!listens(&sleeper), "its table was renewed since");
    sleeper.is_silent(&[]);
    assert_eq!(sleeper.end(), "heard 0\n");
}

#[test]
fn top_wakes_only_if_it_is_told_to() {
    let sleeper = Sleeper::new("poll");
    thread::sleep(Duration::from_millis(2500));
    let before = sleeper.written();
    assert_eq!(sleeper.kmem(&["top", "--once", "--delay", "0.5"]).status, Some(0));
    assert_eq!(sleeper.written(), before);
    let start = Instant::now();
    assert_eq!(sleeper.kmem(&["top", "--once", "--delay", "0.5", "--wake"]).status, Some(0));
    while sleeper.written() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "never woken");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(sleeper.end(), "heard 0\n");
}
