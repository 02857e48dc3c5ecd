//! A program that is spoken to while it runs, and makes no slow call by itself: it is woken by SIGURG.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Heap, ScratchDir, command, compiled, engine, usual_or};

/// So long nobody answers who is not woken.
const SILENCE: Duration = Duration::from_millis(700);
/// The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const WAYS: [Heap; 3] = [Heap::Preloaded, Heap::Portable, Heap::Unregistered];

/// The program, which has left a table.
struct Sleeper {
    child: Child,
    lines: BufReader<ChildStdout>,
    dir: ScratchDir,
    asked: u32,
}

impl Sleeper {
    fn new(heap: Heap, how: &str) -> Self {
        let mut sleeper = Self::begin(heap, how);
        assert_eq!(sleeper.line(), "ready");
        sleeper
    }

    /// Before it says anything.
    fn begin(heap: Heap, how: &str) -> Self {
        let dir = ScratchDir::new();
        let mut command = command(&compiled("wake.c", &[]), heap);
        command.arg(how).env("KMEM_LIVE", dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, dir, asked: 0 }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("{}.{kind}", self.child.id()))
    }

    fn table(&self) -> String {
        fs::read_to_string(self.path("table")).unwrap()
    }

    /// The table says that the signal is heard.
    fn listens(&self) -> bool {
        self.table().contains("\nwake 23\n")
    }

    fn threads(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks.filter_map(|task| task.unwrap().file_name().to_str()?.parse().ok()).collect()
    }

    /// Sends the signal to one thread.
    fn wake(&self, thread: i32) {
        // SAFETY: no memory is involved.
        unsafe { libc::syscall(libc::SYS_tgkill, self.child.id() as i32, thread, libc::SIGURG) };
    }

    fn place(&mut self, what: &str) -> PathBuf {
        self.asked += 1;
        let new = self.path("new-question");
        fs::write(&new, format!("{} {what}\n", self.asked)).unwrap();
        fs::rename(&new, self.path("ask")).unwrap();
        self.path(&format!("answer.{}", self.asked))
    }

    /// Asks, and wakes each thread in turn, the first one first, until there is an answer. What `ok` is followed by.
    fn ask(&mut self, what: &str) -> String {
        let answer = self.place(what);
        let start = Instant::now();
        let first = self.child.id() as i32;
        loop {
            let mut threads = self.threads();
            threads.sort_by_key(|&thread| (thread != first, thread));
            for thread in threads {
                self.wake(thread);
                for _ in 0..10 {
                    if let Ok(text) = fs::read_to_string(&answer) {
                        fs::remove_file(&answer).unwrap();
                        return text
                            .strip_prefix("ok\n")
                            .unwrap_or_else(|| panic!("{what}: {text}"))
                            .to_owned();
                    }
                    sleep(Duration::from_millis(10));
                }
            }
            assert!(start.elapsed() < PATIENCE, "no answer to {what}");
        }
    }

    /// Nobody answers this question, which is taken back.
    fn is_silent(&mut self, what: &str) {
        let answer = self.place(what);
        sleep(SILENCE);
        assert!(!answer.exists(), "nobody woke it");
        fs::remove_file(self.path("ask")).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Has it end by itself.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_that_sleeps_answers_where_it_sleeps() {
    for heap in WAYS {
        let mut sleeper = Sleeper::new(heap, "poll");
        assert!(sleeper.listens(), "{}", sleeper.table());
        sleeper.is_silent("validate");
        assert!(sleeper.ask("validate").ends_with(" looked at, 0 errors\n"));
        assert!(sleeper.ask("shrink").ends_with(" pages given back\n"));
        if engine() == "slub" {
            let leaks = sleeper.ask("leaks");
            let lost = leaks.lines().find(|line| line.contains(" objects of 200 bytes, definitely lost"));
            // Not all, perhaps: registers and stacks may know some addresses still.
            assert!(lost.is_some(), "{leaks}");
            assert!(sleeper.ask("letters FZPU").contains(" have these letters\n"));
        }
        sleeper.end();
    }
}

/// In the handler: the thread itself has nothing to do with its heap any more.
#[test]
fn a_table_is_as_of_now_though_nothing_was_asked() {
    let sleeper = Sleeper::new(Heap::Preloaded, "poll");
    let written = || fs::metadata(sleeper.path("table")).unwrap().modified().unwrap();
    sleep(SILENCE);
    let before = written();
    sleep(SILENCE);
    assert_eq!(written(), before, "nobody came by");
    sleeper.wake(sleeper.child.id() as i32);
    let start = Instant::now();
    while written() == before {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10));
    }
    sleeper.end();
}

#[test]
fn one_in_balance_answers_at_its_next_call() {
    for heap in WAYS {
        let mut sleeper = Sleeper::new(heap, "spin");
        // A heap without stacks of free objects comes by at every call.
        if engine() == "slub" {
            sleep(Duration::from_millis(1200));
            sleeper.is_silent("validate");
        }
        assert!(sleeper.ask("validate").ends_with(" looked at, 0 errors\n"));
        if engine() == "slub" {
            let class = usual_or("kmalloc-72", "kmalloc-64");
            assert!(sleeper.ask(&format!("letters FZ,{class}")).starts_with("1 cache has these letters\n"));
            // From then on the loop is served by slabs that are checked.
            let start = Instant::now();
            while sleeper.ask("validate").starts_with("0 slabs ") {
                assert!(start.elapsed() < PATIENCE);
            }
        }
        assert!(sleeper.is_running());
    }
}

#[test]
fn some_thread_answers_though_others_do_not_hear_or_never_come_by() {
    for heap in WAYS {
        let mut sleeper = Sleeper::new(heap, "others");
        assert!(sleeper.ask("validate").ends_with(" looked at, 0 errors\n"));
        sleeper.end();
    }
    let mut deaf = Sleeper::new(Heap::Preloaded, "deaf");
    let first = deaf.child.id() as i32;
    deaf.wake(first);
    deaf.is_silent("validate");
    assert!(deaf.listens());
    deaf.end();
}

#[test]
fn a_handler_of_the_programs_own_stays() {
    assert!(Sleeper::new(Heap::Preloaded, "poll").listens());
    let early = Sleeper::new(Heap::Preloaded, "early");
    assert!(!early.listens(), "{}", early.table());
    drop(early);
    for how in ["late", "signal"] {
        let mut late = Sleeper::begin(Heap::Preloaded, how);
        assert_eq!(late.line(), "none before", "the program sees nothing of ours");
        assert_eq!(late.line(), "ready");
        let answer = late.place("validate");
        late.wake(late.child.id() as i32);
        assert_eq!(late.line(), "mine");
        sleep(SILENCE);
        assert!(!answer.exists(), "it is the program's alone");
        late.end();
    }
    // Given back as it was seen: the signal does nothing, as the program wants.
    let mut back = Sleeper::new(Heap::Preloaded, "back");
    back.wake(back.child.id() as i32);
    back.is_silent("validate");
    back.end();
}

#[test]
fn a_call_that_waits_goes_on() {
    let mut sleeper = Sleeper::new(Heap::Preloaded, "read");
    assert!(sleeper.ask("validate").ends_with(" looked at, 0 errors\n"));
    writeln!(sleeper.child.stdin.as_ref().unwrap(), "x").unwrap();
    assert_eq!(sleeper.line(), "read");
    sleeper.end();
}

#[test]
fn another_program_in_its_place_ignores_the_signal() {
    let mut sleeper = Sleeper::new(Heap::Preloaded, "exec");
    assert!(sleeper.listens(), "so its table says still");
    let first = sleeper.child.id() as i32;
    let comm = || fs::read_to_string(format!("/proc/{first}/comm")).unwrap();
    let start = Instant::now();
    while comm() != "cat\n" {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5));
    }
    for _ in 0..20 {
        sleeper.wake(first);
        sleep(Duration::from_millis(5));
    }
    writeln!(sleeper.child.stdin.as_ref().unwrap(), "well").unwrap();
    assert_eq!(sleeper.line(), "well");
    sleeper.end();
}

/// Threads that allocate, handlers that interrupt them and wait in system calls, forks, and the signal in each of these all the time.
#[test]
fn it_may_come_at_any_moment() {
    for heap in WAYS {
        let mut sleeper = Sleeper::new(heap, "storm");
        assert!(sleeper.listens());
        let start = Instant::now();
        let mut turn = 0;
        while start.elapsed() < Duration::from_secs(4) {
            let letters = if turn % 2 == 0 { "letters FZ" } else { "letters -" };
            let what = match turn % 4 {
                1 => "validate",
                3 => "leaks",
                _ if engine() == "slub" => letters,
                _ => "shrink",
            };
            let answer = sleeper.place(what);
            let asked = Instant::now();
            while !answer.exists() {
                for thread in sleeper.threads() {
                    sleeper.wake(thread);
                }
                assert!(sleeper.is_running() && asked.elapsed() < PATIENCE, "{what}");
                sleep(Duration::from_micros(300));
            }
            assert!(fs::read_to_string(&answer).unwrap().starts_with("ok\n"));
            fs::remove_file(&answer).unwrap();
            turn += 1;
        }
        assert!(turn > 4, "{turn} answers");
        writeln!(sleeper.child.stdin.as_ref().unwrap(), "x").unwrap();
        assert_eq!(sleeper.line(), "over");
        sleeper.end();
    }
}
