//! What the tests of the command share: the command itself, a stand-in for the library, scratch directories.
#![allow(dead_code, unreachable_pub)] // each test program uses its own part

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, ptr, thread};

/// The command under test, preloading the stand-in, away from any terminal's settings and from other processes.
pub fn kmem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmem"));
    command.env("KMEM_LIB", fake_library()).env_remove("LD_PRELOAD").env_remove("NO_COLOR");
    command.env("KMEM_LIVE", "");
    command
}

/// The command without a named library, under a time limit, and with a directory of the test's own.
pub fn real(directory: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "300", env!("CARGO_BIN_EXE_kmem")]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KMEM_")) {
        command.env_remove(name);
    }
    // Both places where programs of this user are looked for: others run, too.
    command.env_remove("LD_PRELOAD").env("XDG_RUNTIME_DIR", directory).env("TMPDIR", directory);
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

/// A terminal, and this side of it.
pub struct Pty {
    main: File,
    side: Option<OwnedFd>,
}

impl Pty {
    /// A terminal with so many columns and 40 rows.
    pub fn new(columns: u16) -> Self {
        let (mut main, mut side) = (0, 0);
        let size = libc::winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the two numbers and the size are valid for the call; no name or settings are asked for.
        let result = unsafe { libc::openpty(&mut main, &mut side, ptr::null_mut(), ptr::null(), &size) };
        assert_eq!(result, 0);
        // SAFETY: the call gave us both descriptors, and nobody else has them.
        unsafe { Pty { main: File::from_raw_fd(main), side: Some(OwnedFd::from_raw_fd(side)) } }
    }

    /// The other side, for one of a program's streams.
    pub fn side(&self) -> OwnedFd {
        self.side.as_ref().unwrap().try_clone().unwrap()
    }

    /// From now on the terminal lives as long as the programs that have it.
    pub fn leave(&mut self) {
        self.side = None;
    }

    /// What appears until all programs have left it.
    pub fn rest(&mut self) -> Vec<u8> {
        self.leave();
        let mut text = Vec::new();
        // A terminal whose last user has gone answers with an error, not with an end.
        let _ = self.main.read_to_end(&mut text);
        text
    }

    /// Puts what appears on a screen, until that shows this text; fails the test after ten seconds.
    pub fn until(&mut self, screen: &mut Screen, text: &str) {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        while !screen.text().contains(text) {
            let left = Duration::from_secs(10).saturating_sub(start.elapsed());
            let mut asked = libc::pollfd { fd: self.main.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the call writes the one entry it is given.
            let ready = unsafe { libc::poll(&mut asked, 1, left.as_millis() as i32) };
            let count = if ready > 0 { self.main.read(&mut buffer).unwrap_or(0) } else { 0 };
            assert!(count > 0, "never: {text}\n{}", screen.text());
            screen.put(&buffer[..count]);
        }
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.main.write_all(keys.as_bytes()).unwrap();
    }

    /// Another size.
    pub fn resize(&self, columns: u16) {
        let size = libc::winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the call reads one winsize.
        assert_eq!(unsafe { libc::ioctl(self.main.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    }

    /// The local flags of its mode: does it show what is typed, and are keys signals?
    pub fn mode(&self) -> libc::tcflag_t {
        let mut mode = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: the call writes one termios; zeroed is a valid value.
        unsafe {
            assert_eq!(libc::tcgetattr(self.main.as_raw_fd(), mode.as_mut_ptr()), 0);
            mode.assume_init().c_lflag
        }
    }
}

/// What a terminal shows, of the sequences that the full-screen view sends.
pub struct Screen {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    /// Bytes of a sequence that is not complete.
    left: String,
    /// The other screen is on, and the cursor is shown.
    pub alternate: bool,
    pub cursor: bool,
}

impl Screen {
    pub fn new() -> Self {
        Screen {
            rows: vec![vec![' '; 300]; 60],
            at: (0, 0),
            left: String::new(),
            alternate: false,
            cursor: true,
        }
    }

    /// The lines, one below the other; a last one tells which screen it is.
    pub fn text(&self) -> String {
        let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        let mut lines: Vec<String> = self.rows.iter().map(line).collect();
        lines.push(format!("<{} screen>", if self.alternate { "alternate" } else { "main" }));
        lines.join("\n")
    }

    pub fn put(&mut self, bytes: &[u8]) {
        let text =
            std::mem::take(&mut self.left) + std::str::from_utf8(bytes).expect("not cut in a character");
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            if first != '\x1b' {
                let (y, x) = self.at;
                self.rows[y][x] = first;
                self.at.1 += 1;
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let end = rest.char_indices().skip(2).find(|(_, c)| ('@'..='~').contains(c));
            let Some((end, last)) = end else {
                self.left = rest.to_owned();
                return;
            };
            let inside = &rest[2..end];
            match (last, inside) {
                ('H', place) => {
                    let (y, x) = place.split_once(';').unwrap();
                    self.at = (y.parse::<usize>().unwrap() - 1, x.parse::<usize>().unwrap() - 1);
                }
                ('J', "2") => self.rows.iter_mut().for_each(|row| row.fill(' ')),
                ('h' | 'l', "?1049") => self.alternate = last == 'h',
                ('h' | 'l', "?25") => self.cursor = last == 'h',
                ('m', _) => {}
                _ => panic!("not known: ESC [ {inside} {last}"),
            }
            rest = &rest[end + 1..];
        }
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
