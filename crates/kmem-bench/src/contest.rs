//! The contest: allocators take turns on each row, and it is checked that the right one answered.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::rows::{self, FLOORED, GROUPS, Row, Unit, Work, floor};

/// How long one row may take on one allocator. Some do not get far with many threads on few CPUs.
const LIMIT: Duration = Duration::from_secs(30);

/// What a column is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// kmem is held against it (kmem's own standing too: whoever looks for rivals leaves kmem out).
    Rival,
    /// It is shown beside.
    Shown,
    /// Not an allocator for any program: what a row costs without one. Right on small blocks of one thread alone.
    Floor,
    /// The same of a typed cache: in this program, where kmem's is too.
    Inlined,
}

impl Standing {
    /// Whether it can do the row of this group at all.
    fn does(self, group: &str, row: &Row) -> bool {
        match self {
            Self::Rival | Self::Shown => true,
            Self::Floor => group == FLOORED,
            Self::Inlined => matches!(row.work, Work::Typed { .. }),
        }
    }

    /// What the driver is told to be.
    fn role(self) -> Option<&'static str> {
        match self {
            Self::Rival | Self::Shown => None,
            Self::Floor => Some("floor"),
            Self::Inlined => Some("inlined"),
        }
    }
}

/// An allocator: its name in the table, and what to preload (`None`: the system's own).
pub(crate) struct Allocator {
    pub(crate) name: String,
    library: Option<PathBuf>,
    /// What its process has in the environment.
    environment: Vec<(String, String)>,
    /// What it is called in the program of `--objects`.
    subject: Option<String>,
    pub(crate) standing: Standing,
}

impl Allocator {
    pub(crate) fn is_floor(&self) -> bool {
        matches!(self.standing, Standing::Floor | Standing::Inlined)
    }
}

/// One row's results, in the order of [`Results::allocators`]; single ones in the order of the turns. An allocator that did not do
/// the row has none.
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) group: &'static str,
    pub(crate) runs: Vec<Vec<f64>>,
}

impl Line {
    /// The median of an allocator's runs.
    pub(crate) fn median(&self, allocator: usize) -> Option<f64> {
        median(self.runs[allocator].clone())
    }
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
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

/// The system's allocator and those that the command line names, kmem last.
fn preloads(options: &Options) -> Result<Vec<Allocator>, String> {
    let standing = |shown: bool| if shown { Standing::Shown } else { Standing::Rival };
    // The system's is not hardened.
    let mut allocators = vec![Allocator { standing: standing(options.hardened), ..linked("system") }];
    for library in &options.libraries {
        let allocator = preload(&library.name, &library.path, standing(library.shown))?;
        allocators.push(Allocator { environment: library.environment.clone(), ..allocator });
    }
    if let Some(path) = &options.kmem {
        allocators.push(preload("kmem", path, Standing::Rival)?);
    }
    Ok(allocators)
}

/// An allocator for which nothing is preloaded.
fn linked(name: &str) -> Allocator {
    let name = name.to_owned();
    Allocator { name, library: None, environment: Vec::new(), subject: None, standing: Standing::Rival }
}

fn preload(name: &str, path: &Path, standing: Standing) -> Result<Allocator, String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Allocator { library: Some(path), standing, ..linked(name) })
}

/// The floors that the command line names, and with them the one that is in this program.
fn floors(options: &Options) -> Result<Vec<Allocator>, String> {
    let mut floors = Vec::new();
    for (name, path) in &options.floors {
        floors.push(preload(name, path, Standing::Floor)?);
    }
    if !floors.is_empty() {
        floors.push(Allocator { standing: Standing::Inlined, ..linked("floor_inline") });
    }
    Ok(floors)
}

/// What the program of `--objects` knows, and a box on each malloc.
fn subjects(program: &Path, options: &Options) -> Result<Vec<Allocator>, String> {
    let output = Command::new(program).arg("--list").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let crates = text.lines().map(|name| Allocator { subject: Some(name.to_owned()), ..linked(name) });
    let boxes = preloads(options)?.into_iter().map(|allocator| Allocator {
        name: format!("Box on {}", allocator.name),
        subject: Some("Box".to_owned()),
        ..allocator
    });
    Ok(crates.chain(boxes).collect())
}

pub(crate) fn run(options: &Options) -> Result<Results, String> {
    let (mut allocators, floors, groups) = match &options.objects {
        Some(program) => (subjects(program, options)?, Vec::new(), &rows::OBJECTS[..]),
        None => (preloads(options)?, floors(options)?, GROUPS),
    };
    let wanted = |row: &Row| {
        (!options.quick || row.quick)
            // What is linked into this program is the usual heap.
            && !(options.hardened && matches!(row.work, Work::Typed { .. }))
            && (options.rows.is_empty()
                || options.rows.iter().any(|start| row.name.starts_with(start.as_str())))
    };
    let all = groups.iter().flat_map(|(group, rows)| rows.iter().map(move |row| (*group, row)));
    let all: Vec<_> = all.filter(|(_, row)| wanted(row)).collect();
    // No column for a floor that none of the rows stands on.
    let of_use = |floor: &Allocator| all.iter().any(|(group, row)| floor.standing.does(group, row));
    allocators.extend(floors.into_iter().filter(of_use));
    let mut lines = Vec::new();
    for (group, row) in all {
        let mut runs: Vec<Vec<f64>> = allocators.iter().map(|_| Vec::new()).collect();
        let mut out: Vec<bool> =
            allocators.iter().map(|allocator| !allocator.standing.does(group, row)).collect();
        // A resident size is the same the next time, or nearly, and some take seconds.
        let turns = if row.unit == Unit::Mebibytes { 1 } else { options.turns };
        for _ in 0..turns {
            for ((allocator, runs), out) in allocators.iter().zip(&mut runs).zip(&mut out) {
                match if *out { continue } else { measure(row, allocator, options) } {
                    Ok(number) => runs.push(number),
                    // What another cannot do is told and left out.
                    Err(message) if !["kmem", "system"].contains(&allocator.name.as_str()) => {
                        eprintln!("kmem-bench: {message}");
                        runs.clear();
                        *out = true;
                    }
                    Err(message) => return Err(message),
                }
            }
        }
        if options.progress {
            eprintln!("{} done", row.name);
        }
        lines.push(Line { row, group, runs });
    }
    Ok(Results { allocators, lines })
}

fn measure(row: &Row, allocator: &Allocator, options: &Options) -> Result<f64, String> {
    match row.work {
        Work::StartTime => start_time(allocator),
        Work::StartSize => start_size(allocator),
        Work::Typed { .. } if allocator.name == "kmem" => driver(row, allocator, Some("typed")),
        Work::Malloc(_) | Work::Typed { .. } => driver(row, allocator, allocator.standing.role()),
        Work::Object => object(row, allocator, options),
    }
}

fn preloaded(program: &Path, allocator: &Allocator) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD");
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    command.envs(allocator.environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs a driver, at most for [`LIMIT`], and returns what it printed. It prints less than a pipe holds.
fn answer(mut command: Command, row: &Row, allocator: &Allocator) -> Result<String, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{} on {}: {why}", row.name, allocator.name);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| wrong(&error))?;
    let start = Instant::now();
    while child.try_wait().map_err(|error| wrong(&error))?.is_none() {
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(wrong(&format!("not done after {} s", LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().map_err(|error| wrong(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(wrong(&format!("{} ({text} {})", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// Starts a driver and reads `number path`, where the path is that of the library whose malloc answered.
fn driver(row: &Row, allocator: &Allocator, role: Option<&str>) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let system = linked("");
    let typed = role == Some("typed");
    // A typed cache is linked in: the program around it stays on the system's malloc.
    let mut command = preloaded(&me, if typed { &system } else { allocator });
    command.args(["--driver", row.name]).args(role);
    let text = answer(command, row, allocator)?;
    let wrong = |why: &str| format!("{} on {}: {why}: {text}", row.name, allocator.name);
    let (number, path) = text.split_once(' ').ok_or_else(|| wrong("no result"))?;
    let right = match &allocator.library {
        Some(library) if !typed => Path::new(path).canonicalize().ok() == library.canonicalize().ok(),
        _ => path.contains("libc"),
    };
    if !right {
        return Err(wrong("another malloc answered"));
    }
    number.parse().map_err(|_| wrong("no number"))
}

/// A row of the program of `--objects`.
fn object(row: &Row, allocator: &Allocator, options: &Options) -> Result<f64, String> {
    let program = options.objects.as_ref().ok_or("no program of objects")?;
    let mut command = preloaded(program, allocator);
    command.arg(row.name).args(&allocator.subject);
    let text = answer(command, row, allocator)?;
    text.parse().map_err(|_| format!("{} on {}: no number: {text}", row.name, allocator.name))
}

/// The driver's side: does the row in this role and prints its number and whose malloc it was.
pub(crate) fn drive(name: &str, role: &str) -> ExitCode {
    let Some(row) = rows::all().find(|row| row.name == name) else { return ExitCode::from(2) };
    if role == "floor" {
        floor::is_here();
    }
    let number = match row.work {
        Work::Typed { cache, .. } if role == "typed" => cache(),
        Work::Typed { floor, .. } if role == "inlined" => floor(),
        Work::Typed { malloc, .. } | Work::Malloc(malloc) => malloc(),
        Work::StartTime | Work::StartSize | Work::Object => return ExitCode::from(2),
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

/// Results of these allocators, which exist only by name.
#[cfg(test)]
pub(crate) fn sample(names: &[&str], lines: Vec<Line>) -> Results {
    let standing = |name: &str| match name {
        "nothing" | "barest" => Standing::Floor,
        "floor_inline" => Standing::Inlined,
        _ => Standing::Rival,
    };
    let allocator = |name: &&str| Allocator { standing: standing(name), ..linked(name) };
    Results { allocators: names.iter().map(allocator).collect(), lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_stand_under_small_rows_alone() {
        let of = |standing: Standing| {
            let all = GROUPS.iter().flat_map(|(group, rows)| rows.iter().map(move |row| (*group, row)));
            all.filter(|(group, row)| standing.does(group, row)).map(|(_, row)| row.name).collect::<Vec<_>>()
        };
        assert_eq!(of(Standing::Inlined), ["typed_pair_64", "typed_sheaf_64", "typed_rand_64"]);
        let small = of(Standing::Floor);
        assert!(small.contains(&"pair_16") && small.contains(&"ws_10k") && small.contains(&"aligned_256"));
        assert!(
            !small.contains(&"large_64k") && !small.contains(&"mt2_ws") && !small.contains(&"start_time")
        );
        assert_eq!(of(Standing::Rival).len(), of(Standing::Shown).len());
    }
}
