//! What the tests of the command share: the command itself, a stand-in for the library, scratch directories.
#![allow(dead_code, unreachable_pub)] // each test program uses its own part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The command under test, preloading the stand-in, away from any terminal's settings.
pub fn kmem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmem"));
    command.env("KMEM_LIB", fake_library()).env_remove("LD_PRELOAD").env_remove("NO_COLOR");
    command
}

/// The library of `fake.c`, built once a test program, in the target directory.
pub fn fake_library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let fresh = directory.join(format!("libfake-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake.c");
        compile(&["-shared", "-fPIC"], &source, &fresh);
        // Another test program may be using the old one: it keeps it, and never sees a half-written file.
        let library = directory.join("libfake.so");
        fs::rename(&fresh, &library).unwrap();
        library
    })
}

/// Compiles one C file.
pub fn compile(flags: &[&str], source: &Path, target: &Path) {
    let output = Command::new("gcc").args(flags).arg("-o").arg(target).arg(source).output().expect("gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A directory, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kmem-cli-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a command said.
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Said {
        status: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Waits until `check` yields something; fails the test after ten seconds.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The state letter of a process: R, S, T, Z, …; none when it has gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Runs the real `slabtop` over a table; `None` where this user may not make a mount namespace.
pub fn slabtop(table: &Path) -> Option<String> {
    for unshare in [&["-m"][..], &["-r", "-m"]] {
        let probe = Command::new("unshare").args(unshare).arg("true").output();
        if !probe.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let line = "mount --bind \"$1\" /proc/slabinfo && slabtop -o -s c";
        let mut command = Command::new("unshare");
        let output = command.args(unshare).args(["sh", "-c", line, "sh"]).arg(table).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if errors.contains("mount") && errors.contains("permission denied") {
            continue;
        }
        assert!(output.status.success(), "{errors}");
        return Some(String::from_utf8(output.stdout).unwrap());
    }
    eprintln!("skipped: mounts are not permitted here");
    None
}
