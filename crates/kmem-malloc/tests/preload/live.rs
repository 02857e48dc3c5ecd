//! A program that is looked at, and spoken to, while it runs (`KMEM_LIVE`).

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Heap, ScratchDir, command, compiled, engine, usual_or};

/// A process has a second between two looks; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, at work.
struct Live {
    child: Child,
    lines: BufReader<ChildStdout>,
    dir: ScratchDir,
    asked: u32,
}

impl Live {
    fn new(heap: Heap, variables: &[(&str, &str)]) -> Self {
        let dir = ScratchDir::new();
        let mut command =
            command(&compiled("live.c", &["-O0", "-g", "-w", "-pthread"].map(OsStr::new)), heap);
        command.env("KMEM_LIVE", dir.path()).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut live = Self { child, lines, dir, asked: 0 };
        assert_eq!(live.line(), "ready");
        live
    }

    fn path(&self, pid: u32, kind: &str) -> PathBuf {
        self.dir.path().join(format!("{pid}.{kind}"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Has the program do something.
    fn tell(&mut self, what: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{what}").unwrap();
    }

    fn has_it(&mut self, what: &str) {
        self.tell(what);
        assert_eq!(self.line(), format!("did {what}"));
    }

    /// The table of a process, when it is there.
    fn table(&self, pid: u32) -> String {
        soon(&format!("a table of {pid}"), || fs::read_to_string(self.path(pid, "table")).ok())
    }

    /// Asks the heap, and waits for its answer: whether that is `ok`, and the rest of it.
    fn ask(&mut self, what: &str) -> (bool, String) {
        self.asked += 1;
        let (pid, number) = (self.child.id(), self.asked);
        // Whole or not there, as every asker does it.
        let new = self.path(pid, "new-question");
        fs::write(&new, format!("{number} {what}\n")).unwrap();
        fs::rename(&new, self.path(pid, "ask")).unwrap();
        let answer = self.path(pid, &format!("answer.{number}"));
        let text = soon(&format!("an answer to {what:?}"), || fs::read_to_string(&answer).ok());
        fs::remove_file(&answer).unwrap();
        assert!(!self.path(pid, "ask").exists());
        let (first, rest) = text.split_once('\n').unwrap();
        match first.strip_prefix("error: ") {
            Some(why) => (false, why.to_owned()),
            None => {
                assert_eq!(first, "ok", "{text}");
                (true, rest.to_owned())
            }
        }
    }

    fn done(&mut self, what: &str) -> String {
        let (done, text) = self.ask(what);
        assert!(done, "{what}: {text}");
        text
    }

    /// Ends the program, which must have been well; what it wrote on its standard error.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".traces")), "{left:?}");
        said
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn soon<T>(what: &str, mut try_it: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = try_it() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} never came");
        sleep(Duration::from_millis(10));
    }
}

/// From the first step into a sandbox on, which may end a process for opening a file, no file is touched; the report that it was to leave
/// at its end is missing as well.
#[test]
fn nothing_is_written_from_within_a_sandbox() {
    let reports = ScratchDir::new();
    let mut live = Live::new(Heap::Preloaded, &[("KMEM_REPORT_DIR", reports.path().to_str().unwrap())]);
    let table = live.path(live.child.id(), "table");
    live.table(live.child.id());
    let status = format!("/proc/{}/status", live.child.id());
    let hears = || {
        let text = fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (libc::SIGURG - 1) & 1 == 1
    };
    assert!(hears());
    live.has_it("sandbox");
    assert!(!table.exists() && !hears(), "nor is it woken");
    sleep(Duration::from_millis(1300));
    live.has_it("leak");
    assert_eq!(live.end(), "");
    assert_eq!(fs::read_dir(reports.path()).unwrap().count(), 0);
}

/// The engine changes letters of caches that are in use.
fn switches() -> bool {
    matches!(engine(), "slub" | "hardened")
}

#[test]
fn a_table_comes_is_replaced_and_goes() {
    let mut live = Live::new(Heap::Preloaded, &[]);
    let pid = live.child.id();
    let first = live.table(pid);
    assert!(first.starts_with("kmem-report 1\nprocess ") && first.ends_with("\nend\n"), "{first}");
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(first.contains(&format!("\nexe {}\nerrors 0\n", program.display())), "{first}");
    assert!(first.contains("\ncache ") && first.contains("\npages "), "{first}");
    soon("another table", || (live.table(pid) != first).then_some(()));
    // A child of a fork has its own, the parent's stays; it takes its own along.
    live.tell("fork");
    let child: u32 = live.line().strip_prefix("child ").unwrap().parse().unwrap();
    let its = live.table(child);
    assert!(its.contains(&format!("\nprocess {child} live")), "{its}");
    assert!(live.path(pid, "table").exists());
    assert_eq!(live.line(), "did fork");
    assert!(!live.path(child, "table").exists());
    assert_eq!(live.end(), "");
}

#[test]
fn a_killed_process_leaves_its_table() {
    let mut live = Live::new(Heap::Preloaded, &[]);
    let pid = live.child.id();
    live.table(pid);
    live.child.kill().unwrap();
    live.child.wait().unwrap();
    assert!(live.table(pid).ends_with("\nend\n"));
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut live = Live::new(Heap::Preloaded, &[]);
    for (asked, why) in [
        ("sing", "not a command: 'sing'"),
        ("leaks loudly", "leaks: lost, all or in-use, not 'loudly'"),
        ("letters FX", "letter 'X' unknown"),
        ("on-error", "not a command: 'on-error'"),
    ] {
        assert_eq!(live.ask(asked), (false, why.to_owned()));
    }
    assert_eq!(live.done("table"), "");
    assert!(live.done("shrink").ends_with(" pages given back\n"));
    // What is no question is taken away, and answered by nothing.
    let ask = live.path(live.child.id(), "ask");
    fs::write(&ask, "shrink\n").unwrap();
    soon("the question's end", || (!ask.exists()).then_some(()));
    // Nor may anybody else ask.
    fs::write(&ask, "7 shrink\n").unwrap();
    if chown(&ask, Some(65534), None).is_ok() {
        sleep(Duration::from_millis(1500));
        assert!(ask.exists() && !live.path(live.child.id(), "answer.7").exists());
    }
    fs::remove_file(&ask).ok();
    fs::remove_file(live.path(live.child.id(), "answer.7")).ok();
    assert_eq!(live.end(), "");
}

#[test]
fn without_the_directory_nothing_happens() {
    let dir = ScratchDir::new();
    let gone = dir.path().join("gone");
    let mut live = Live::new(Heap::Preloaded, &[("KMEM_LIVE", gone.to_str().unwrap())]);
    sleep(Duration::from_millis(300));
    live.has_it("leak");
    assert_eq!(live.end(), "");
    assert!(!gone.exists());
}

#[test]
fn letters_come_find_and_go() {
    if engine() != "slub" {
        return;
    }
    let mut live = Live::new(Heap::Preloaded, &[]);
    assert_eq!(live.done("on-error warn"), "");
    let given = live.done("letters FZPU,kmalloc-72");
    assert_eq!(given, "1 cache has these letters\ncaches to come: FZPU,kmalloc-72\n");
    live.has_it("hit");
    live.done("table");
    let table = live.table(live.child.id());
    assert!(table.contains("\nerrors 3\n"), "a report, what was mended, and what was not freed: {table}");
    let given = live.done("letters -");
    assert_eq!(given, "1 cache has these letters\ncaches to come: -\n");
    let unchecked = live.done("validate");
    assert!(unchecked.ends_with(" looked at, 0 errors\n"), "{unchecked}");
    let said = live.end();
    assert_eq!(said.matches("BUG kmalloc-72").count(), 1, "{said}");
    assert!(said.contains("Right Redzone overwritten") && said.contains("Allocated in hit+0x"), "{said}");
}

#[test]
fn letters_change_under_load() {
    if !switches() {
        return;
    }
    for heap in [Heap::Preloaded, Heap::Portable] {
        let mut live = Live::new(heap, &[]);
        let classes = usual_or("FZ,kmalloc-72;-,kmalloc-120", "FZ,kmalloc-64;-,kmalloc-128");
        for letters in ["FZPU", "-", "F", "Z,kmalloc-*", "-", "PU", classes, "U", "-"] {
            live.done(&format!("letters {letters}"));
            let found = live.done("validate");
            assert!(found.ends_with(" looked at, 0 errors\n"), "{letters}: {found}");
        }
        live.tell("fork");
        assert!(live.line().starts_with("child "));
        assert_eq!(live.line(), "did fork");
        assert_eq!(live.end(), "");
    }
}

#[test]
fn leaks_and_traces_are_told_while_it_runs() {
    if engine() != "slub" {
        return;
    }
    let mut live = Live::new(Heap::Preloaded, &[]);
    assert_eq!(live.done("leaks"), "no leaks\n");
    live.done("letters U,kmalloc-56");
    live.has_it("leak");
    let leaks = live.done("leaks");
    assert!(leaks.contains("): objects in use now\n"), "{leaks}");
    // The last block's address may stand in a register still.
    assert!(
        leaks.contains(" objects of 48 bytes, definitely lost, allocated at\n        leak+0x"),
        "{leaks}"
    );
    let place = live.done("traces");
    let place = PathBuf::from(place.trim_end());
    assert_eq!(place, live.path(live.child.id(), "traces"));
    let traces = fs::read_to_string(place.join("kmalloc-56/alloc_traces")).unwrap();
    assert!(traces.contains(" leak+0x"), "{traces}");
    assert_eq!(live.end(), "");
}

#[test]
fn an_engine_without_the_letters_says_so() {
    let mut live = Live::new(Heap::Preloaded, &[]);
    match engine() {
        "slob" => {
            let (done, why) = live.ask("letters FZPU");
            assert!(!done && why.ends_with("have no checks in engine slob"), "{why}");
        }
        "slab" => {
            let told = live.done("letters FZPU");
            assert!(told.starts_with("0 caches have these letters, "), "{told}");
            assert!(told.contains(": not FZPU: the engine cannot do that\n"), "{told}");
        }
        _ => return,
    }
    assert_eq!(live.end(), "");
}
