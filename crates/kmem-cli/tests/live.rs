//! `kmem ctl` and `kmem top` with programs that run: against a stand-in that answers as the library does, and against the library.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{Said, Scratch, eventually, kmem, real, said};

/// A directory with a table of this very process, which a thread of the test answers for.
struct StandIn {
    scratch: Scratch,
    pid: u32,
}

impl StandIn {
    fn new(name: &str) -> Self {
        let (scratch, pid) = (Scratch::new(name), std::process::id());
        let table = format!(
            "kmem-report 1\nprocess {pid} standin\nengine slub cpus 1 nodes 1 ownership rseq\n\
             cache kmalloc-64 64 64 64 64 1 130 192 3 1 30 9 2 1 5 1000\nend\n"
        );
        scratch.file(&format!("{pid}.table"), &table);
        StandIn { scratch, pid }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.scratch.path(&format!("{}.{kind}", self.pid))
    }

    fn ctl(&self, arguments: &[&str]) -> Said {
        said(kmem().arg("ctl").arg("--dir").arg(self.scratch.path("")).args(arguments))
    }

    /// Takes one ask and answers; returns the command.
    fn answer(&self, text: &str) -> String {
        let line = eventually("an ask", || fs::read_to_string(self.file("ask")).ok());
        fs::remove_file(self.file("ask")).unwrap();
        let (number, command) = line.strip_suffix('\n').unwrap().split_once(' ').unwrap();
        assert!(number.parse::<i64>().unwrap() > 0);
        fs::write(self.file("told"), text).unwrap();
        fs::rename(self.file("told"), self.file(&format!("answer.{number}"))).unwrap();
        command.to_owned()
    }

    /// Asks, while somebody answers: the command that arrived, and what came of it.
    fn talk(&self, arguments: &[&str], text: &str) -> (String, Said) {
        thread::scope(|scope| {
            let asked = scope.spawn(|| self.ctl(arguments));
            let command = self.answer(text);
            (command, asked.join().unwrap())
        })
    }

    fn files(&self) -> usize {
        fs::read_dir(self.scratch.path("")).unwrap().count()
    }
}

#[test]
fn each_command_arrives_and_its_answer_is_printed() {
    let process = StandIn::new("commands");
    let pid = process.pid.to_string();
    for (arguments, command) in [
        (&["letters", "FZPU,kmalloc-64;-,kmalloc-1*"][..], "letters FZPU,kmalloc-64;-,kmalloc-1*"),
        (&["letters", "-"], "letters -"),
        (&["validate"], "validate"),
        (&["traces"], "traces"),
        (&["leaks"], "leaks lost"),
        (&["leaks", "in-use"], "leaks in-use"),
        (&["shrink"], "shrink"),
        (&["on-error", "warn"], "on-error warn"),
    ] {
        let (arrived, said) = process.talk(&[&[pid.as_str()], arguments].concat(), "ok\nline 1\nline 2\n");
        assert_eq!(arrived, command);
        assert_eq!((said.status, said.out.as_str(), said.err.as_str()), (Some(0), "line 1\nline 2\n", ""));
        assert_eq!(process.files(), 1, "only the table is left");
    }
    let (_, said) = process.talk(&["standin", "shrink"], "ok\n");
    assert_eq!((said.status, said.out.as_str()), (Some(0), ""), "by its name");
}

#[test]
fn what_a_process_cannot_do_is_an_error() {
    let process = StandIn::new("refused");
    let pid = process.pid;
    let (_, said) = process.talk(&[&pid.to_string(), "validate"], "error: no checked caches\nmore\n");
    let expected = format!("kmem: process {pid}: no checked caches\n");
    assert_eq!((said.status, said.out.as_str(), said.err), (Some(1), "more\n", expected));
}

#[test]
fn who_does_not_answer_is_not_asked_any_more() {
    let process = StandIn::new("silent");
    let pid = process.pid;
    let start = Instant::now();
    let late = process.ctl(&["--wait", "0.2", &pid.to_string(), "shrink"]);
    let expected = format!(
        "kmem: no answer from process {pid} within 0.2 s: \
         the program did not allocate or free meanwhile (or only what its CPUs have at hand)\n"
    );
    assert_eq!((late.status, late.out.as_str(), late.err), (Some(1), "", expected));
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(process.files(), 1);
}

#[test]
fn an_asker_that_is_stopped_takes_its_ask_back() {
    let process = StandIn::new("stopped");
    let mut command = kmem();
    command.arg("ctl").arg("--dir").arg(process.scratch.path("")).args(["--wait", "60"]);
    let mut child = command.args([&process.pid.to_string(), "shrink"]).spawn().unwrap();
    eventually("the ask", || process.file("ask").exists().then_some(()));
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGTERM));
    assert_eq!(process.files(), 1);
}

#[test]
fn nonsense_is_refused_before_anybody_is_asked() {
    let process = StandIn::new("nonsense");
    let pid = process.pid.to_string();
    for (arguments, message) in [
        (&[pid.as_str(), "letters", "FX"][..], "unknown debug letter 'X'"),
        (&[&pid, "letters", "F,a\nb"], "no cache has such a name"),
        (&[&pid, "letters", &"F,".repeat(2000)], "no command is longer than"),
        (&[&pid, "leaks", "some"], "invalid value 'some'"),
        (&[&pid, "on-error", "stop"], "invalid value 'stop'"),
        (&[&pid, "--wait", "0", "shrink"], "--wait"),
        (&[&pid, "explode"], "'explode'"),
        (&["nobody", "shrink"], "no process called nobody has a table in"),
        (&["4194304", "shrink"], "there is no process 4194304"),
    ] {
        let refused = process.ctl(arguments);
        assert_eq!((refused.status, refused.out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(refused.err.starts_with("kmem: ") && refused.err.contains(message), "{}", refused.err);
        assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
        assert_eq!(process.files(), 1);
    }
}

/// Does what it is told by lines of its standard input, and says so: `work` allocates and frees so that slow paths are
/// met, `keep` keeps a hundred blocks, `lose` forgets them, `damage` writes behind one.
const PROGRAM: &str = "
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *blocks[4000];
static void *kept[100];
static void work(void)
{
	for (int i = 0; i < 4000; i++)
		memset(blocks[i] = malloc(500), 1, 500);
	for (int i = 0; i < 4000; i++)
		free(blocks[i]);
}
int main(void)
{
	char line[100];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, \"keep\\n\"))
			for (int i = 0; i < 100; i++)
				kept[i] = malloc(200);
		if (!strcmp(line, \"lose\\n\"))
			memset(kept, 0, sizeof kept);
		if (!strcmp(line, \"damage\\n\")) {
			char *volatile block = malloc(200);
			block[200] = 1;
		}
		work();
		puts(\"done\");
	}
	return 0;
}
";

/// The program under `kmem run` with the library that it builds itself, worked by a thread where a test wants that.
struct Program {
    child: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
    _scratch: Scratch,
}

impl Program {
    fn start(name: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let source = scratch.file("p.c", PROGRAM);
        let program = scratch.path("program");
        support::compile(&["-O1", "-g"], &source, &program);
        let runtime = scratch.path("runtime");
        fs::create_dir(&runtime).unwrap();
        let mut command = real(&runtime);
        command.args(["run", "--no-summary"]).args(options).arg("--").arg(&program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Program { child, lines, answers, directory: runtime, _scratch: scratch }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.lines, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{line}");
    }

    fn kmem(&self, arguments: &[&str]) -> Said {
        said(real(&self.directory).args(arguments))
    }

    /// Asks while the program works.
    fn ctl(&mut self, arguments: &[&str]) -> Said {
        let mut command = real(&self.directory);
        command.args(["ctl", "--wait", "60", "program"]).args(arguments);
        let asked = thread::spawn(move || said(&mut command));
        while !asked.is_finished() {
            self.tell("work");
        }
        let said = asked.join().unwrap();
        eprintln!("{arguments:?}: {}{}", said.out, said.err);
        said
    }

    /// Works until there is a table; then its text.
    fn table(&mut self) -> String {
        let start = Instant::now();
        loop {
            self.tell("work");
            let shown = self.kmem(&["top", "--delay", "0", "--top", "0", "program"]);
            if shown.status == Some(0) {
                return shown.out;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "never a table: {}", shown.err);
        }
    }

    fn end(mut self) -> PathBuf {
        drop(self.lines);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert_eq!(
            fs::read_dir(self.directory.join("kmem"))
                .unwrap()
                .filter(|entry| {
                    entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind != "traces")
                })
                .count(),
            0,
            "it took its files along"
        );
        self.directory.clone()
    }
}

#[test]
fn a_running_program_is_seen() {
    let mut program = Program::start("seen", &[]);
    program.tell("keep");
    let table = program.table();
    let title = table.lines().next().unwrap();
    assert!(title.contains("/program (pid "), "{title}");
    let row = table.lines().find(|line| line.starts_with("kmalloc-504")).expect(&table);
    let allocs: u64 = row.split_whitespace().nth(9).unwrap().replace(',', "").parse().unwrap();
    // The table may be of the first moment.
    assert!(allocs > 0, "{row}");
    // And that allocations go on, while it works.
    let mut command = real(&program.directory);
    command.args(["top", "--once", "--delay", "2"]);
    let looking = thread::spawn(move || said(&mut command));
    while !looking.is_finished() {
        program.tell("work");
    }
    let list = looking.join().unwrap();
    let row = list.out.lines().nth(1).expect(&list.err);
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells[1], cells[2]), ("program", "slub"), "{}", list.out);
    let rate: f64 = cells[8].replace(',', "").parse().expect(row);
    assert!(rate > 1000.0, "{row}");
    let directory = program.end();
    let gone = said(real(&directory).args(["top"]));
    assert!(
        gone.status == Some(1) && gone.err.starts_with("kmem: no process has a table in "),
        "{}",
        gone.err
    );
}

#[test]
fn a_running_program_changes_its_letters() {
    let mut program = Program::start("letters", &["--on-error", "warn"]);
    assert!(!program.table().contains(" FZPU"));
    let given = program.ctl(&["letters", "FZPU,kmalloc-*"]);
    assert_eq!(given.status, Some(0), "{}", given.err);
    program.tell("keep");
    let list = program.kmem(&["top", "--delay", "0"]);
    assert!(list.out.contains(" slub FZPU "), "{}{}", list.out, list.err);
    let clean = program.ctl(&["validate"]);
    assert_eq!(clean.status, Some(0), "{}", clean.err);
    assert!(clean.out.contains(", 0 errors"), "{}", clean.out);
    program.tell("damage");
    let damaged = program.ctl(&["validate"]);
    assert!(damaged.status == Some(0) && !damaged.out.contains(", 0 errors"), "{}", damaged.out);
    let shown = program.table();
    assert!(
        shown.lines().any(|line| line.starts_with("errors: ") && line.ends_with(" found so far")),
        "{shown}"
    );
    let traces = program.ctl(&["traces"]);
    let place = PathBuf::from(traces.out.trim_end());
    let mut found = false;
    for cache in fs::read_dir(&place).expect(&traces.out).flatten() {
        let text = fs::read_to_string(cache.path().join("alloc_traces")).unwrap_or_default();
        found |= text.lines().any(|line| line.trim_start().starts_with("100 main+0x"));
    }
    assert!(found, "a hundred blocks by main in {}", place.display());
    let back = program.ctl(&["letters", "-,kmalloc-*"]);
    assert_eq!(back.status, Some(0), "{}", back.err);
    for command in [&["on-error", "abort"][..], &["shrink"], &["on-error", "warn"]] {
        let done = program.ctl(command);
        assert_eq!(done.status, Some(0), "{}", done.err);
    }
    program.end();
}

#[test]
fn a_running_program_tells_its_leaks() {
    let mut program = Program::start("leaks", &["--debug", "U"]);
    program.table();
    program.tell("keep");
    let before = program.ctl(&["leaks"]);
    assert_eq!(before.status, Some(0), "{}", before.err);
    assert!(!before.out.contains(" of 200 bytes"), "all can be reached: {}", before.out);
    program.tell("lose");
    let after = program.ctl(&["leaks"]);
    assert_eq!(after.status, Some(0), "{}", after.err);
    // A register or a stack may still know one of them.
    let lost = after.out.lines().find(|line| line.contains(" of 200 bytes")).expect(&after.out);
    assert!(lost.contains(" objects of 200 bytes, definitely lost"), "{lost}");
    program.end();
}

#[test]
fn a_program_may_keep_out_of_it() {
    let mut program = Program::start("out", &["--no-live"]);
    program.tell("keep");
    thread::sleep(Duration::from_millis(200));
    program.tell("work");
    let none = program.kmem(&["top"]);
    assert_eq!(none.status, Some(1), "{}", none.out);
    let Program { mut child, lines, .. } = program;
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
