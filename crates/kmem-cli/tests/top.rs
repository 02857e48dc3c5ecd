//! `kmem top`: what it finds in a live directory, as text and on a terminal; and how `kmem run` makes one.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use support::{Pty, Said, Scratch, Screen, eventually, kmem, said};

/// A process that does nothing, and whose table the test writes.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Writes its table as the library does.
    fn table(&self, directory: &Path, name: &str, allocs: u64) {
        let text = format!(
            "kmem-report 1\nprocess {} {name}\nbuild hardened\nengine slub cpus 2 nodes 1 ownership rseq\n\
             cache kmalloc-64 64 64 64 64 1 130 192 3 1 30 {allocs} 250 12 5 100\n\
             cache kmalloc-1k 1024 1024 1024 16 4 16 16 1 0 0 16 16 0 1 1000\n\
             large 2 81920 409600 7\nhuge 0 0 8388608 1\npages 2048 1900 300 700\nlater 1 2\nend\n",
            self.pid()
        );
        let part = directory.join(format!("{}.table.new", self.pid()));
        fs::write(&part, text).unwrap();
        fs::rename(part, directory.join(format!("{}.table", self.pid()))).unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn top(directory: &Path, arguments: &[&str]) -> Said {
    said(kmem().arg("top").arg("--dir").arg(directory).args(arguments))
}

fn first_words(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect()
}

#[test]
fn all_processes_are_listed() {
    let scratch = Scratch::new("list");
    let directory = scratch.path("");
    let (one, other) = (Sleeper::new(), Sleeper::new());
    one.table(&directory, "server", 100_000);
    other.table(&directory, "my prog", 5000);
    let listed = top(&directory, &["--delay", "0", "--sort", "name"]);
    assert_eq!((listed.status, listed.err.as_str()), (Some(0), ""));
    let (first, second) = (other.pid().to_string(), one.pid().to_string());
    assert_eq!(first_words(&listed.out)[..3], ["PID", &first, &second], "{}", listed.out);
    let row = listed.out.lines().nth(2).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..5], [second.as_str(), "server", "slub", "hardened", "F"], "{row}");
    assert_eq!(cells[6..11], ["102K", "592K", "1.2M", "10.7M", "-"], "{row}");
    assert!(listed.out.contains("2 processes"));
    let limited = top(&directory, &["-d0", "--top", "1"]);
    assert!(limited.out.contains("1 more"), "{}", limited.out);
}

#[test]
fn one_process_is_shown_with_its_caches() {
    let scratch = Scratch::new("one");
    let directory = scratch.path("");
    let (process, other) = (Sleeper::new(), Sleeper::new());
    process.table(&directory, "server", 100_000);
    other.table(&directory, "other", 1);
    for who in [process.pid().to_string().as_str(), "server"] {
        let shown = top(&directory, &["--once", "--delay", "0", "--sort", "in-use", who]);
        assert_eq!((shown.status, shown.err.as_str()), (Some(0), ""));
        let title = format!("server (pid {})\nhardened heap of 'server': engine slub, ", process.pid());
        assert!(shown.out.starts_with(&title), "{}", shown.out);
        let rows: Vec<&str> = shown.out.lines().filter(|line| line.starts_with("kmalloc-")).collect();
        let cells: Vec<&str> = rows[0].split_whitespace().collect();
        let expected =
            ["kmalloc-64", "64", "100", "192", "52.1", "3", "12.0K", "5.8K", "20.0K", "100,000", "-", "99.8"];
        assert_eq!(cells, expected);
    }
    // As long as they have one name they are shown side by side.
    other.table(&directory, "server", 1);
    let both = top(&directory, &["-d0", "server"]);
    assert!(both.out.contains("2 processes"), "{}", both.out);
    let column = top(&directory, &["-d0", "--sort", "waste", "server"]);
    let message = "kmem: --sort waste: only the table of one process has this column\n";
    assert_eq!((column.status, column.err.as_str()), (Some(1), message));
}

#[test]
fn rates_are_those_of_the_time_between_two_looks() {
    let scratch = Scratch::new("rates");
    let directory = scratch.path("");
    let process = Sleeper::new();
    process.table(&directory, "server", 100_000);
    let seen = thread::scope(|scope| {
        let seen = scope.spawn(|| top(&directory, &["--delay", "0.6", "server"]));
        for allocs in (100_000..).step_by(10) {
            if seen.is_finished() {
                break;
            }
            process.table(&directory, "server", allocs);
            thread::sleep(Duration::from_millis(100));
        }
        seen.join().unwrap()
    });
    let row = seen.out.lines().find(|line| line.starts_with("kmalloc-64")).expect(&seen.err);
    let rate: f64 = row.split_whitespace().nth(10).unwrap().replace(',', "").parse().expect(row);
    // Ten in each tenth of a second, which a busy machine makes longer.
    assert!((5.0..=100.0).contains(&rate), "{row}");
}

#[test]
fn an_old_table_tells_its_age() {
    let scratch = Scratch::new("age");
    let directory = scratch.path("");
    let process = Sleeper::new();
    // Older than the process is not possible, but for a few seconds of doubt.
    thread::sleep(Duration::from_millis(300));
    process.table(&directory, "server", 1);
    let table = File::options().write(true).open(directory.join(format!("{}.table", process.pid()))).unwrap();
    eventually("the table is old", || {
        let shown = top(&directory, &["-d0", "server"]).out;
        shown.starts_with(&format!("server (pid {}), as of ", process.pid())).then_some(())
    });
    // One that was written before the process began is of another that had its number.
    table.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let none = top(&directory, &["-d0", "server"]);
    assert_eq!(none.status, Some(1), "{}", none.out);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "removed");
}

#[test]
fn whoever_is_not_there_is_told_of() {
    let scratch = Scratch::new("nobody");
    let directory = scratch.path("live");
    fs::create_dir(&directory).unwrap();
    let place = directory.display();
    let how = "by 'kmem run', or with KMEM_LIVE=DIR (see 'kmem top --help')";
    let mut process = Sleeper::new();
    let pid = process.pid();
    let check = |arguments: &[&str], message: &str| {
        let none = top(&directory, arguments);
        assert_eq!((none.status, none.out.as_str()), (Some(1), ""));
        assert_eq!(none.err, format!("kmem: {message}\n"));
    };
    check(&[], &format!("no process has a table in {place}: start one {how}"));
    check(&["server"], &format!("no process called server has a table in {place}: start it {how}"));
    check(&[&pid.to_string()], &format!("process {pid} has no table in {place}: start it {how}"));
    process.table(&directory, "server", 1);
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    check(&[&pid.to_string()], &format!("there is no process {pid}"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "a dead process's table is removed");
    let nowhere = top(&scratch.path("nowhere"), &[]);
    assert_eq!(nowhere.status, Some(1));
    assert!(nowhere.err.ends_with("nowhere: No such file or directory (os error 2)\n"), "{}", nowhere.err);
    for (arguments, word) in [(["--delay", "-1"], "delay"), (["--sort", "colour"], "sort")] {
        let refused = top(&directory, &arguments);
        assert!(refused.status == Some(1) && refused.err.contains(word), "{}", refused.err);
    }
}

#[test]
fn a_damaged_table_is_named() {
    let scratch = Scratch::new("damaged");
    let process = Sleeper::new();
    scratch.file(&format!("{}.table", process.pid()), "kmem-report 1\ncache x\n");
    let damaged = top(&scratch.path(""), &[]);
    assert_eq!((damaged.status, damaged.err.lines().count()), (Some(1), 1));
    assert!(damaged.err.contains(".table: line 2: "), "{}", damaged.err);
}

#[test]
fn the_full_screen() {
    let scratch = Scratch::new("screen");
    let directory = scratch.path("");
    let process = Sleeper::new();
    process.table(&directory, "server", 100_000);
    for by_signal in [false, true] {
        let mut terminal = Pty::new(120);
        let mode = terminal.mode();
        let mut child = kmem()
            .args(["top", "--delay", "0.1", "--dir"])
            .arg(&directory)
            .env("TERM", "xterm")
            .stdin(terminal.side())
            .stdout(terminal.side())
            .stderr(terminal.side())
            .spawn()
            .unwrap();
        let mut screen = Screen::new();
        terminal.until(&mut screen, "Enter open");
        assert!(screen.text().starts_with("kmem top: processes on kmem\n"), "{}", screen.text());
        assert!(screen.alternate && !screen.cursor);
        assert_ne!(terminal.mode() & libc::ECHO, mode & libc::ECHO);
        terminal.send("\r");
        terminal.until(&mut screen, "engine slub, 2 CPUs, 1 node, CPU stacks by restartable sequences");
        assert!(screen.text().contains("kmalloc-64     64     100   192"), "{}", screen.text());
        terminal.send("?");
        terminal.until(&mut screen, "Sort by (twice: the other way round):");
        terminal.send(" ");
        terminal.until(&mut screen, "Esc back");
        terminal.send("n");
        terminal.until(&mut screen, "by CACHE, ascending");
        terminal.resize(60);
        // Fewer columns fit.
        terminal.until(&mut screen, "kmalloc-64    100 52.1");
        if by_signal {
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        } else {
            terminal.send("\x1b");
            terminal.until(&mut screen, "1 process");
            terminal.send("q");
        }
        terminal.until(&mut screen, "<main screen>");
        let status = child.wait().unwrap();
        assert_eq!(status.code(), if by_signal { None } else { Some(0) }, "{status}");
        assert!(screen.cursor);
        assert_eq!(terminal.mode(), mode, "as it was");
    }
}

#[test]
fn a_process_that_ends_keeps_its_last_table_on_the_screen() {
    let scratch = Scratch::new("ends");
    let directory = scratch.path("");
    let mut process = Sleeper::new();
    process.table(&directory, "server", 100_000);
    let mut terminal = Pty::new(120);
    let mut child = kmem()
        .args(["top", "--delay", "0.1", "server", "--dir"])
        .arg(&directory)
        .stdin(terminal.side())
        .stdout(terminal.side())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut screen = Screen::new();
    terminal.until(&mut screen, "kmalloc-64");
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    terminal.until(&mut screen, "has ended: its last table");
    assert!(screen.text().contains("kmalloc-64     64     100   192"), "{}", screen.text());
    terminal.send("q");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// What a program sees of the directory under `kmem run`.
fn given(scratch: &Scratch, runtime: &Path, arguments: &[&str]) -> String {
    let mut command = kmem();
    command.env("XDG_RUNTIME_DIR", runtime).env("TMPDIR", scratch.path("")).env_remove("KMEM_LIVE");
    command.arg("run").args(arguments).args(["--", "sh", "-c", "echo ${KMEM_LIVE-unset}"]);
    said(&mut command).out.trim_end().to_owned()
}

#[test]
fn a_program_gets_a_directory_that_is_its_users_alone() {
    let scratch = Scratch::new("given");
    let runtime = scratch.path("runtime");
    fs::create_dir(&runtime).unwrap();
    let mut own = scratch.path("").components().as_path().to_owned();
    own.push(format!("kmem-{}", fs::metadata(&runtime).unwrap().uid()));
    let own = own.display().to_string();
    let live = runtime.join("kmem");
    let expected = live.display().to_string();
    assert_eq!(given(&scratch, &runtime, &[]), expected);
    assert_eq!(fs::metadata(&live).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(given(&scratch, &runtime, &[]), expected, "made already");
    assert_eq!(given(&scratch, &runtime, &["--no-live"]), "unset");
    assert!(!Path::new(&own).exists());

    // Where others can write, or a link stands in its place, the next one is taken, or none.
    fs::set_permissions(&live, Permissions::from_mode(0o770)).unwrap();
    assert_eq!(given(&scratch, &runtime, &[]), own);
    fs::remove_dir(&live).unwrap();
    symlink(scratch.path(""), &live).unwrap();
    assert_eq!(given(&scratch, &runtime, &[]), own);
    assert_eq!(given(&scratch, &scratch.path("nowhere"), &[]), own);
    fs::remove_dir(&own).unwrap();
    fs::write(&own, "").unwrap();
    assert_eq!(given(&scratch, &runtime, &[]), "unset");
}

#[test]
fn who_named_a_directory_or_none_keeps_it() {
    let scratch = Scratch::new("kept");
    for value in ["/some/place", ""] {
        let mut command = kmem();
        command.env("KMEM_LIVE", value).env("TMPDIR", scratch.path("")).env_remove("XDG_RUNTIME_DIR");
        let kept = said(command.args(["run", "--", "sh", "-c", "echo \"<${KMEM_LIVE-unset}>\""]));
        assert_eq!(kept.out, format!("<{value}>\n"));
    }
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 0, "nothing was made");
}

#[test]
fn what_kmem_run_gives_is_where_kmem_top_looks() {
    let scratch = Scratch::new("found");
    let runtime = scratch.path("runtime");
    fs::create_dir(&runtime).unwrap();
    given(&scratch, &runtime, &[]);
    given(&scratch, &scratch.path("nowhere"), &[]);
    let (one, other) = (Sleeper::new(), Sleeper::new());
    one.table(&runtime.join("kmem"), "server", 1);
    let shared = format!("kmem-{}", fs::metadata(&runtime).unwrap().uid());
    other.table(&scratch.path(&shared), "server", 1);
    let mut command = kmem();
    command.env("XDG_RUNTIME_DIR", &runtime).env("TMPDIR", scratch.path("")).env_remove("KMEM_LIVE");
    let both = said(command.args(["top", "-d0"]));
    assert!(both.out.contains("2 processes"), "{}{}", both.out, both.err);
    let named = said(kmem().env("KMEM_LIVE", runtime.join("kmem")).args(["top", "-d0"]));
    assert!(named.out.starts_with(&format!("server (pid {})", one.pid())) || named.out.contains("1 process"));
}
