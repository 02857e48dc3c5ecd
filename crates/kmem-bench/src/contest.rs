//! The contest: allocators take turns on each row, and it is checked that the right one answered.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::Options;
use crate::rows::{ROWS, Row, Work};

/// Libraries of Debian's packages.
const PEERS: [(&str, &str); 3] = [
    ("jemalloc", "libjemalloc.so.2"),
    ("mimalloc", "libmimalloc.so.2"),
    ("tcmalloc", "libtcmalloc_minimal.so.4"),
];

/// Where libraries lie.
const DIRECTORIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// An allocator: its name in the table, and what to preload (`None`: the system's own).
pub(crate) struct Allocator {
    pub(crate) name: String,
    library: Option<PathBuf>,
}

/// One row's results, in the order of [`Results::allocators`]; single ones in the order of the turns.
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) runs: Vec<Vec<f64>>,
}

impl Line {
    /// The median of an allocator's runs.
    pub(crate) fn median(&self, allocator: usize) -> f64 {
        let mut runs = self.runs[allocator].clone();
        runs.sort_by(f64::total_cmp);
        runs[runs.len() / 2]
    }
}

/// All results.
pub(crate) struct Results {
    pub(crate) allocators: Vec<Allocator>,
    pub(crate) lines: Vec<Line>,
}

impl Results {
    /// kmem's column, if it took part.
    pub(crate) fn kmem(&self) -> Option<usize> {
        self.allocators.iter().position(|allocator| allocator.name == "kmem")
    }
}

pub(crate) fn run(options: &Options) -> Result<Results, String> {
    let mut allocators = vec![Allocator { name: "system".into(), library: None }];
    for (name, file) in PEERS.into_iter().filter(|_| !options.named) {
        if let Some(path) = DIRECTORIES.iter().map(|dir| Path::new(dir).join(file)).find(|path| path.exists())
        {
            allocators.push(Allocator { name: name.into(), library: Some(path) });
        }
    }
    for (name, path) in options
        .libraries
        .iter()
        .map(|(name, path)| (name.as_str(), path))
        .chain(options.kmem.iter().map(|path| ("kmem", path)))
    {
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        allocators.push(Allocator { name: name.into(), library: Some(path) });
    }
    let wanted = |row: &&Row| {
        (!options.quick || row.quick)
            && (options.rows.is_empty()
                || options.rows.iter().any(|start| row.name.starts_with(start.as_str())))
    };
    let mut lines = Vec::new();
    for row in ROWS.iter().filter(wanted) {
        let mut runs: Vec<Vec<f64>> = allocators.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.turns {
            for (allocator, runs) in allocators.iter().zip(&mut runs) {
                runs.push(measure(row, allocator)?);
            }
        }
        lines.push(Line { row, runs });
    }
    Ok(Results { allocators, lines })
}

fn measure(row: &Row, allocator: &Allocator) -> Result<f64, String> {
    match row.work {
        Work::StartTime => start_time(allocator),
        Work::StartSize => start_size(allocator),
        Work::Malloc(_) => driver(row, allocator, false),
        Work::Typed { .. } => driver(row, allocator, allocator.name == "kmem"),
    }
}

fn preloaded(program: &Path, allocator: &Allocator) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD");
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    command
}

/// Starts a driver and reads `number path`, where the path is that of the library whose malloc answered.
fn driver(row: &Row, allocator: &Allocator, typed: bool) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let system = Allocator { name: String::new(), library: None };
    // A typed cache is linked in: the program around it stays on the system's malloc.
    let mut command = preloaded(&me, if typed { &system } else { allocator });
    command.args(["--driver", row.name]).args(typed.then_some("typed"));
    let output = command.output().map_err(|error| format!("{}: {error}", me.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = |why: &str| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{} on {}: {why} ({})\n{text}{errors}", row.name, allocator.name, output.status)
    };
    if !output.status.success() {
        return Err(wrong("the driver failed"));
    }
    let (number, path) = text.trim().split_once(' ').ok_or_else(|| wrong("no result"))?;
    let right = match &allocator.library {
        Some(library) if !typed => Path::new(path).canonicalize().ok() == library.canonicalize().ok(),
        _ => path.contains("libc"),
    };
    if !right {
        return Err(wrong("another malloc answered"));
    }
    number.parse().map_err(|_| wrong("no number"))
}

/// The driver's side: does the row and prints its number and whose malloc it was.
pub(crate) fn drive(name: &str, typed: bool) -> ExitCode {
    let Some(row) = ROWS.iter().find(|row| row.name == name) else { return ExitCode::from(2) };
    let number = match row.work {
        Work::Typed { cache, .. } if typed => cache(),
        Work::Typed { malloc, .. } | Work::Malloc(malloc) => malloc(),
        Work::StartTime | Work::StartSize => return ExitCode::from(2),
    };
    println!("{number} {}", malloc_library());
    ExitCode::SUCCESS
}

/// The file that the malloc of this process comes from.
fn malloc_library() -> String {
    // SAFETY: the address is that of a function, `info` is filled in on success, and the name is a
    // NUL-terminated string that lives as long as the library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let address = libc::malloc as *const () as *const libc::c_void;
        if libc::dladdr(address, &raw mut info) == 0 || info.dli_fname.is_null() {
            return "unknown".into();
        }
        std::ffi::CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned()
    }
}

/// A program that does nothing but tell its own peak resident size.
const TRIVIAL: [&str; 3] = ["/usr/bin/grep", "VmHWM:", "/proc/self/status"];

fn start_time(allocator: &Allocator) -> Result<f64, String> {
    let mut fastest = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        start_size(allocator)?;
        fastest = fastest.min(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(fastest)
}

fn start_size(allocator: &Allocator) -> Result<f64, String> {
    let output = preloaded(Path::new(TRIVIAL[0]), allocator).args(&TRIVIAL[1..]).output();
    let output = output.map_err(|error| format!("{}: {error}", TRIVIAL[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let kib = text.trim().trim_start_matches("VmHWM:").trim().trim_end_matches(" kB").parse::<f64>();
    kib.map(|kib| kib / 1024.0).map_err(|_| format!("{}: {text}", TRIVIAL[0]))
}

/// Allocators that exist only by name.
#[cfg(test)]
pub(crate) fn named(names: &[&str]) -> Vec<Allocator> {
    names.iter().map(|name| Allocator { name: (*name).to_owned(), library: None }).collect()
}
