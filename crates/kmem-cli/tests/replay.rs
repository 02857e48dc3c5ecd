//! Recording real programs with the real library, and replaying what was recorded.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kmem_trace::{Event, Trace, header};
use support::{Said, Scratch, compile, kmem, said};

/// Every heap that a trace can be replayed on.
const ENGINES: [&str; 5] = ["slub", "slab", "slob", "kmem", "system"];

/// `libkmem_malloc.so`, with the recording library beside it: what `KMEM_LIB` names, else built in the profile of the tests.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("KMEM_LIB") {
            return PathBuf::from(path);
        }
        let profile = Path::new(env!("CARGO_BIN_EXE_kmem")).parent().unwrap();
        let name = match profile.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--quiet",
            "--lib",
            "-p",
            "kmem-malloc",
            "-p",
            "kmem-record",
            "--profile",
            name,
        ]);
        cargo.arg("--target-dir").arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = cargo.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        profile.join("libkmem_malloc.so")
    })
}

/// The command with the real library.
fn real() -> Command {
    let mut command = kmem();
    command.env("KMEM_LIB", library()).env_remove("KMEM_RECORD");
    command
}

/// Records a program; it must succeed.
fn record(file: &Path, program: &[&OsStr]) -> Said {
    let said = said(real().args(["run", "--record"]).arg(file).arg("--").args(program));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{program:?}");
    said
}

/// Header and events of a trace that must be whole.
fn events(file: &Path) -> (header::Header, Vec<Event>) {
    let bytes = fs::read(file).unwrap();
    let trace = Trace::parse(&bytes).unwrap();
    (*trace.header(), trace.events().collect::<Result<_, _>>().unwrap())
}

/// The traces in the directory of `file`, it excepted.
fn others(file: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let stem = format!("{}.", file.file_name().unwrap().to_str().unwrap());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&stem)).collect();
    files.sort();
    files
}

/// Replays on an engine; the number of calls must be the trace's.
fn replay(file: &Path, engine: &str) -> String {
    let said = said(real().args(["replay", "--json", "--repeat", "1", "--engine", engine]).arg(file));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{engine}");
    let calls = events(file).0.events;
    assert!(said.out.contains(&format!("\n  \"calls\": {calls},\n")), "{engine}: {}", said.out);
    said.out
}

/// A number of the JSON text.
fn number(json: &str, name: &str) -> u64 {
    let rest = json.split_once(&format!("\"{name}\": ")).unwrap_or_else(|| panic!("{name}: {json}")).1;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

fn program(scratch: &Scratch, name: &str, source: &str) -> PathBuf {
    let file = scratch.file(&format!("{name}.c"), source);
    let program = scratch.path(name);
    compile(&["-O0", "-fno-builtin", "-pthread"], &file, &program);
    program
}

/// Sizes that no library asks for, so that these calls are found among those of the start.
const KNOWN: &str = r#"
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
	void *a = malloc(70001);
	void *b = calloc(7, 10003);
	void *c = aligned_alloc(4096, 70003);
	void *d;
	if (posix_memalign(&d, 64, 70004)) return 1;
	a = realloc(a, 90005);
	free(b);
	b = realloc(NULL, 70006);
	b = realloc(b, 70007);
	if (realloc(b, 0)) return 2;
	free(NULL);
	if (malloc(-1) || calloc(-1, 2)) return 3;
	free(d);
	free(c);
	free(a);
	a = malloc(70008);
	/* No handler, no destructor: what was recorded is there. */
	kill(getpid(), 9);
}
"#;

#[test]
fn a_program_of_known_calls_gives_exactly_these() {
    let scratch = Scratch::new("known");
    let file = scratch.path("trace");
    let program = program(&scratch, "known", KNOWN);
    let mut command = real();
    let output = command.args(["run", "--record"]).arg(&file).arg("--").arg(program).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    let (header, events) = events(&file);
    assert_eq!(header.flags, 0, "the process had no chance to close it");
    assert_eq!((header.lost, header.unknown, header.failed), (0, 0, 1));
    assert_eq!((header.name(), header.page_size), ("known", 4096));
    assert_eq!(fs::metadata(&file).unwrap().len(), header::BYTES as u64 + header.used, "tidied");

    let start = events.iter().position(|event| matches!(event, Event::Alloc { size: 70001, .. })).unwrap();
    let Event::Alloc { block: n, .. } = events[start] else { unreachable!() };
    let alloc = |block, size, align, zeroed| Event::Alloc { block, size, align, zeroed };
    let expected = [
        alloc(n, 70001, 1, false),
        alloc(n + 1, 70021, 1, true),
        alloc(n + 2, 70003, 4096, false),
        alloc(n + 3, 70004, 64, false),
        Event::Resize { old: n, block: n + 4, size: 90005 },
        Event::Free { block: n + 1 },
        alloc(n + 5, 70006, 1, false),
        Event::Resize { old: n + 5, block: n + 6, size: 70007 },
        Event::Free { block: n + 6 },
        Event::Free { block: n + 3 },
        Event::Free { block: n + 2 },
        Event::Free { block: n + 4 },
        alloc(n + 7, 70008, 1, false),
    ];
    assert_eq!(events[start..], expected);
    for engine in ENGINES {
        let out = replay(&file, engine);
        let peak: u64 = number(&out, "peak_live");
        assert!((300_033..310_000).contains(&peak), "{engine}: {peak}");
        let held = number(&out, "peak_held");
        assert!(held >= peak && held < 16 << 20, "{engine}: {held}");
    }
}

const THREADS: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define N 20000
static void *slots[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *work(void *arg)
{
	unsigned seed = (unsigned)(size_t)arg;
	for (int i = 0; i < N; i++) {
		size_t size = 16 + rand_r(&seed) % 500;
		char *mine = malloc(size);
		memset(mine, 1, size);
		if (i % 7 == 0) mine = realloc(mine, size * 2);
		pthread_mutex_lock(&lock);
		void **slot = &slots[rand_r(&seed) % 64];
		void *theirs = *slot;
		*slot = mine;
		pthread_mutex_unlock(&lock);
		free(theirs);
	}
	return NULL;
}
int main(void)
{
	pthread_t threads[4];
	for (size_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
	for (int i = 0; i < 64; i++) free(slots[i]);
	return 0;
}
"#;

#[test]
fn threads_are_in_one_order_in_which_they_can_have_been() {
    let scratch = Scratch::new("threads");
    let file = scratch.path("trace");
    record(&file, &[program(&scratch, "threads", THREADS).as_os_str()]);
    let (header, events) = events(&file);
    assert_eq!(header.flags, header::ENDED);
    // An address that was made twice would have been taken for freed in between, and a free of its first
    // block then for one from before: neither may be.
    assert_eq!((header.lost, header.unknown, header.failed), (0, 0, 0));
    let sized = |from, to| {
        events.iter().filter(|e| matches!(e, Event::Alloc { size, .. } if (from..to).contains(size))).count()
    };
    assert!(sized(16, 516) >= 80_000);
    let resized = events.iter().filter(|event| matches!(event, Event::Resize { .. })).count();
    assert!(resized >= 4 * 20_000_usize.div_ceil(7), "{resized}");
    let mut speakers: Vec<i64> =
        events.iter().filter_map(|e| if let Event::Thread(id) = e { Some(*id) } else { None }).collect();
    speakers.sort_unstable();
    speakers.dedup();
    assert!(speakers.len() >= 4, "{speakers:?}");
    for engine in ENGINES {
        replay(&file, engine);
    }
    let info = said(real().args(["replay", "--info"]).arg(&file));
    assert_eq!(info.status, Some(0));
    assert!(info.out.contains("5 in all"), "{}", info.out);
}

const FORKS: &str = r#"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	if (argc > 1) { free(malloc(70003)); return 0; }
	void *before = malloc(70001);
	pid_t child = fork();
	if (child == 0) {
		free(before);
		free(malloc(70002));
		execl("/proc/self/exe", argv[0], "again", NULL);
		return 1;
	}
	int status;
	waitpid(child, &status, 0);
	free(before);
	if (vfork() == 0) _exit(0);
	free(malloc(70004));
	return status;
}
"#;

#[test]
fn a_forked_child_and_what_it_executes_have_traces_of_their_own() {
    let scratch = Scratch::new("forks");
    let file = scratch.path("trace");
    record(&file, &[program(&scratch, "forks", FORKS).as_os_str()]);
    let sizes = |file: &Path| -> Vec<u64> {
        let big = |event: &Event| match event {
            Event::Alloc { size, .. } if *size > 70_000 => Some(*size),
            _ => None,
        };
        events(file).1.iter().filter_map(big).collect()
    };
    assert_eq!(sizes(&file), [70001, 70004]);
    let (parent, _) = events(&file);
    assert_eq!((parent.flags, parent.unknown), (header::ENDED, 0), "the vfork child closed nothing");
    let others = others(&file);
    assert_eq!(others.len(), 2, "{others:?}");
    let (executed, _) = events(&others[0]);
    assert_eq!((sizes(&others[0]), executed.flags, executed.unknown), (vec![70003], header::ENDED, 0));
    assert_eq!(others[0], file.with_extension(executed.pid.to_string()));
    let (child, _) = events(&others[1]);
    assert_eq!((sizes(&others[1]), child.unknown, child.parent), (vec![70002], 1, parent.pid));
    assert_eq!(others[1], file.with_extension(format!("{}.1", executed.pid)));
    for file in others.iter().chain([&file]) {
        replay(file, "slub");
    }
}

#[test]
fn the_name_is_that_of_the_last_program() {
    let scratch = Scratch::new("exec");
    let file = scratch.path("trace");
    record(&file, &["sh", "-c", "exec env LC_ALL=C sh -c 'exec sort /dev/null'"].map(OsStr::new));
    let names = |path: &Path| events(path).0.name().to_owned();
    assert_eq!(names(&file), "sort");
    let earlier: Vec<String> = others(&file).iter().map(|path| names(path)).collect();
    assert_eq!(earlier, ["sh", "env", "sh"]);
}

/// The main program soon gets every block from one CPU's stack, where a handler may interrupt it; malloc's slower
/// ways may not be interrupted by one that allocates. So nearly all ticks come between calls or inside a hook.
const SIGNALS: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
static volatile int ticks;
static void tick(int signal) { free(malloc(100)); ticks++; }
int main(void)
{
	struct itimerval every = { { 0, 200 }, { 0, 200 } };
	cpu_set_t here;
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof here, &here);
	void *live[16] = { 0 };
	signal(SIGALRM, tick);
	for (unsigned i = 0; ticks < 500; i++) {
		free(live[i % 16]);
		live[i % 16] = malloc(65 + i % 50);
		if (i == 10000) setitimer(ITIMER_REAL, &every, NULL);
	}
	return 0;
}
"#;

#[test]
fn signal_handlers_that_allocate_are_survived() {
    let scratch = Scratch::new("handlers");
    let file = scratch.path("trace");
    let program = program(&scratch, "signals", SIGNALS);
    let said = said(real().args(["run", "--record"]).arg(&file).arg("--").arg(program));
    assert_eq!(said.status, Some(0), "{}", said.err);
    let (header, events) = events(&file);
    assert!(events.len() > 1000);
    // Some ticks come while the main program is inside a hook: their calls are counted in place of recorded, and said.
    assert_eq!(header.lost > 0, said.err.contains("in signal handlers are missing"), "{}", said.err);
    replay(&file, "slub");
}

#[test]
fn real_programs() {
    let scratch = Scratch::new("programs");
    let lines: String =
        (0..20_000u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761) % 100_003)).collect();
    let input = scratch.file("lines", &lines);
    let database = "import sqlite3\nd = sqlite3.connect(':memory:')\n\
                    d.execute('create table t (a integer primary key, b text)')\n\
                    d.executemany('insert into t values (?, ?)', ((i, str(i) * 9) for i in range(3000)))\n\
                    print(d.execute('select count(*), max(length(b)) from t').fetchone())";
    for (name, program) in [
        ("sort", &[OsStr::new("sort"), OsStr::new("-n"), input.as_os_str()][..]),
        ("python", &["python3", "-c", "print(len([str(i) for i in range(20000)]))"].map(OsStr::new)),
        ("sqlite", &["python3", "-c", database].map(OsStr::new)),
    ] {
        if name != "sort" && !Path::new("/usr/bin/python3").exists() {
            eprintln!("skipped: no python3");
            continue;
        }
        let plain = Command::new(program[0]).args(&program[1..]).output().unwrap();
        let file = scratch.path(name);
        assert_eq!(record(&file, program).out.as_bytes(), plain.stdout, "{name}");
        let (header, events) = events(&file);
        assert_eq!((header.flags, header.lost), (header::ENDED, 0), "{name}");
        assert_eq!(events.iter().filter(|event| event.is_call()).count() as u64, header.events, "{name}");
        assert!(header.used < 6 * header.events + 100, "{name}: {header:?}");
        for engine in ENGINES {
            replay(&file, engine);
        }
    }
}

#[test]
fn the_traces_of_this_repository_are_whole() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../programs/traces");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() == Some(OsStr::new("trace")) {
            assert!(events(&path).0.events > 10_000, "{}", path.display());
            for engine in ENGINES {
                replay(&path, engine);
            }
            names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    assert_eq!(names, ["cc1", "perl", "python", "sqlite"]);
}

#[test]
fn a_limit_on_file_sizes_stops_the_trace_and_not_the_program() {
    let scratch = Scratch::new("limit");
    let file = scratch.path("trace");
    let script = format!(
        "ulimit -f 4; exec {} run --record {} -- sh -c 'exit 3'",
        env!("CARGO_BIN_EXE_kmem"),
        file.display()
    );
    let mut shell = Command::new("sh");
    shell.env("KMEM_LIB", library()).args(["-c", &script]);
    let said = said(&mut shell);
    assert_eq!(said.status, Some(3), "{}", said.err);
    assert!(said.err.contains("cannot record to "), "{}", said.err);
    assert!(said.err.contains("the program left no trace in "), "{}", said.err);
}

#[test]
fn bad_files_are_refused_before_the_program_starts() {
    let scratch = Scratch::new("bad");
    let notes = scratch.file("notes", "mine");
    for (file, reason) in [
        (Path::new("/no/such/directory/x"), "No such file or directory (os error 2)"),
        (Path::new("/dev/null"), "not a regular file"),
        (&notes, "there is a file of this name, which is no trace"),
    ] {
        let said = said(real().args(["run", "--record"]).arg(file).args(["--", "echo", "started"]));
        let message = format!("kmem: cannot record to {}: {reason}\n", file.display());
        assert_eq!((said.status, said.out.as_str(), said.err), (Some(125), "", message));
    }
    assert_eq!(fs::read(&notes).unwrap(), b"mine");
}

#[test]
fn what_is_no_whole_trace_is_refused() {
    let scratch = Scratch::new("garbage");
    let file = scratch.path("trace");
    record(&file, &["sort", "/dev/null"].map(OsStr::new));
    let whole = fs::read(&file).unwrap();
    assert!(whole.len() > 300, "the loader allocates");
    let refuses = |name: &str, bytes: &[u8], reason: &str| {
        let bad = scratch.path(name);
        fs::write(&bad, bytes).unwrap();
        for info in [&["--info"][..], &[]] {
            let said = said(real().arg("replay").args(info).arg(&bad));
            let message = format!("kmem: {}: {reason}", bad.display());
            assert_eq!((said.status, said.out.as_str()), (Some(1), ""), "{name}");
            assert!(said.err.starts_with(&message) && said.err.lines().count() == 1, "{name}: {}", said.err);
        }
    };
    refuses("empty", b"", "not a trace");
    refuses("text", b"a text that is no trace at all", "not a trace");
    refuses("head", &whole[..100], "the trace's header is damaged or cut off");
    refuses("cut", &whole[..whole.len() - 1], "the trace is cut off: ");
    let mut newer = whole.clone();
    newer[8] = 9;
    refuses("newer", &newer, "a trace of version 9; this program reads version 1");
    let mut zero = whole.clone();
    zero[256] = 0;
    refuses("zero", &zero, "damaged at byte 256: no record begins with 0x00");
    let mut count = whole;
    count[40] ^= 1;
    refuses("count", &count, "damaged: its header tells of ");

    let none = said(real().args(["replay", "/no/such/trace"]));
    assert_eq!(none.err, "kmem: /no/such/trace: No such file or directory (os error 2)\n");
    let engine = said(real().args(["replay", "--engine", "slqb"]).arg(&file));
    assert_eq!(
        engine.err,
        "kmem: invalid value 'slqb' for '--engine <NAME>' [possible values: slub, slab, slob, kmem, system] \
         (see 'kmem --help')\n"
    );
}
