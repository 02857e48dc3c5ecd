//! Builds the library and the C programs, and runs them.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program may run. The slowest takes a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(150);

/// What a program allocates from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heap {
    /// Our library, with what the machine offers.
    Preloaded,
    /// Our library told to use no restartable sequences.
    Portable,
    /// Our library in a process whose C library registers no thread for restartable sequences.
    Unregistered,
    /// The C library's own allocator.
    Plain,
}

/// Our library in its two ways of owning a CPU.
pub(crate) const KMEM: &[Heap] = &[Heap::Preloaded, Heap::Portable];
/// Both, and the C library for comparison.
pub(crate) const ALL: &[Heap] = &[Heap::Plain, Heap::Preloaded, Heap::Portable];
/// Everything, for programs with threads.
pub(crate) const THREADED: &[Heap] = &[Heap::Plain, Heap::Preloaded, Heap::Portable, Heap::Unregistered];

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The signal that ended the program.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// What the library said on standard error, in lines that stand alone. Each must name the program and the process.
    pub(crate) fn words(&self, program: &str) -> Vec<&str> {
        let begin = format!("kmem: {program}[{}]: ", self.pid);
        let words = self.stderr.lines().map(|line| line.strip_prefix(begin.as_str()));
        words.map(|words| words.unwrap_or_else(|| panic!("not {begin:?}: {self:#?}"))).collect()
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// Where programs, libraries and outputs of the tests go.
pub(crate) fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A new empty directory, removed with its content at the end.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(crate) fn new() -> Self {
        let dir = scratch().join(format!("run.{}.{}", std::process::id(), unique()));
        fs::create_dir_all(&dir).expect("scratch directory");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The engine of the library under test, by name: `KMEM_TEST_ENGINE`, or else SLUB.
pub(crate) fn engine() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| env::var("KMEM_TEST_ENGINE").unwrap_or_else(|_| "slub".to_owned()))
}

/// `usual` where the library under test is the usual one, which keeps a word beside each block and so has classes of other sizes;
/// `other` on other engines, and hardened.
pub(crate) fn usual_or<T>(usual: T, other: T) -> T {
    if engine() == "slub" { usual } else { other }
}

/// The library under test, built in the profile of the tests, with another engine in a directory of its own. Cargo does
/// not build a shared library for its own tests.
pub(crate) fn library() -> &'static Path {
    // A failure is kept too: one attempt to build is enough.
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        if let Some(path) = env::var_os("KMEM_LIB") {
            return fs::canonicalize(path).map_err(|e| format!("KMEM_LIB: {e}"));
        }
        built(engine())
    });
    library.as_ref().unwrap_or_else(|problem| panic!("the library: {problem}"))
}

/// The library of another build than the one under test.
pub(crate) fn library_of(engine: &str) -> PathBuf {
    built(engine).unwrap_or_else(|problem| panic!("the library of {engine}: {problem}"))
}

/// Builds the library of an engine.
fn built(engine: &str) -> Result<PathBuf, String> {
    // The test runs from <target>/<profile>/deps.
    let exe = env::current_exe().expect("own path");
    let profile = exe.parent().and_then(Path::parent).expect("profile directory");
    let mut target = profile.parent().expect("target directory").to_path_buf();
    let name = match profile.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "kmem-malloc", "--lib", "--profile", name, "--target-dir"]);
    if engine != "slub" {
        target.push(format!("engine-{engine}"));
    }
    build.arg(&target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if engine != "slub" {
        build.args(["--features", engine]);
    }
    let profile = target.join(profile.file_name().expect("profile directory"));
    match build.output() {
        Ok(output) if output.status.success() => Ok(profile.join("libkmem_malloc.so")),
        Ok(output) => Err(format!("building failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("cargo does not run: {e}")),
    }
}

/// Where the library's header is.
pub(crate) fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// A program's source, all headers beside it and above, and the library's.
fn texts(source: &str) -> Vec<Vec<u8>> {
    let directory = sources().join(source).parent().expect("a directory").to_path_buf();
    let mut files: Vec<PathBuf> = [sources(), directory, headers()]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).expect("the sources"))
        .map(|entry| entry.expect("the sources").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "h"));
    files.sort();
    files.dedup();
    files.push(sources().join(source));
    files.iter().map(|path| fs::read(path).expect("a source")).collect()
}

/// Compiles `tests/c/<source>`, unless an earlier run of the tests has, and returns the program, or the shared library when `extra`
/// says `-shared`.
pub(crate) fn compiled(source: &str, extra: &[&OsStr]) -> PathBuf {
    static DONE: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let done = done.get_or_insert_with(HashMap::new);
    let key = format!("{source} {extra:?}");
    if let Some(path) = done.get(&key) {
        return path.clone();
    }
    let (compiler, standard) =
        if source.ends_with(".cc") { ("g++", "-std=gnu++17") } else { ("gcc", "-std=gnu17") };
    // A name of its own for each text and each way to compile, and a rename at the end: another test run may be using the program.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    texts(source).hash(&mut hasher);
    let stem = Path::new(source).file_stem().and_then(OsStr::to_str).expect("name");
    let programs = scratch().join(format!("programs/{:016x}", hasher.finish()));
    fs::create_dir_all(&programs).expect("programs directory");
    let output = programs.join(stem);
    if output.exists() {
        done.insert(key, output.clone());
        return output;
    }
    let building = programs.join(format!("{stem}.{}", std::process::id()));
    let mut command = Command::new(compiler);
    command.args([standard, "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    // The programs misuse memory on purpose, and mean each call they write.
    command.args([
        "-fno-builtin",
        "-Wno-alloc-size-larger-than",
        "-Wno-free-nonheap-object",
        "-Wno-unused-result",
        "-Wno-use-after-free",
    ]);
    command.arg("-I").arg(headers());
    command.arg(sources().join(source)).arg("-o").arg(&building).args(extra).arg("-ldl");
    let result = command.output().unwrap_or_else(|e| panic!("{compiler} is needed: {e}"));
    assert!(result.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&result.stderr));
    fs::rename(&building, &output).expect("rename");
    done.insert(key, output.clone());
    output
}

/// A command for `program` on `heap`, in an environment without anything that speaks to allocators.
pub(crate) fn command(program: &Path, heap: Heap) -> Command {
    let mut command = Command::new(program);
    for name in ["LD_PRELOAD", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_PERTURB_"] {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KMEM_")) {
        command.env_remove(name);
    }
    // What code is called does not depend on who was built beside the library.
    command.env("KMEM_SYMBOLIZER", "");
    if engine() == "slob" {
        command.env("KMEM_TEST_SMALL", "1");
    }
    if engine() == "hardened" {
        command.env("KMEM_TEST_PINNED", "1");
    }
    match heap {
        Heap::Plain => command.env("KMEM_TEST_PLAIN", "1"),
        Heap::Preloaded => command.env("LD_PRELOAD", library()),
        Heap::Portable => command.env("LD_PRELOAD", library()).env("KMEM_RSEQ", "0"),
        Heap::Unregistered => {
            command.env("LD_PRELOAD", library()).env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        }
    };
    command
}

/// Runs to the end, collecting output. A program over the time limit is killed and the test fails.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let dir = ScratchDir::new();
    let (out, err) = (dir.path().join("stdout"), dir.path().join("stderr"));
    command.stdin(std::process::Stdio::null());
    command.stdout(File::create(&out).expect("output file")).stderr(File::create(&err).expect("output file"));
    let mut child = command.spawn().expect("program starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if start.elapsed() > TIME_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        sleep(Duration::from_millis(5));
    };
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("output")).into_owned();
    let (stdout, stderr) = (text(&out), text(&err));
    match status {
        Some(status) => Outcome { pid: child.id(), status, stdout, stderr },
        None => panic!("{command:?} did not end within {TIME_LIMIT:?}\nstdout: {stdout}\nstderr: {stderr}"),
    }
}

/// Runs a conformance program on each heap: it must end with status 0, print "ok" and nothing else.
pub(crate) fn conforms(program: &Path, arguments: &[&OsStr], heaps: &[Heap]) {
    for &heap in heaps {
        let outcome = outcome(command(program, heap).args(arguments));
        assert!(
            outcome.status.success() && outcome.stdout == "ok\n" && outcome.stderr.is_empty(),
            "{} {arguments:?} on {heap:?}: {outcome:#?}",
            program.display()
        );
    }
}
