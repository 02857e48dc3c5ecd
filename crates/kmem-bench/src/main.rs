//! kmem beside other allocators, on one and the same program.
//!
//! The program runs in two roles. As the *driver* (`--driver ROW`) it does the work of one row through the
//! C library's `malloc` and prints one number; which allocator that is decides `LD_PRELOAD`. As the
//! *parent* (otherwise) it starts drivers, one allocator after the other in turns, and prints medians and
//! ratios. With `--count` it does loops that `cargo xtask golden` counts the instructions of. Rows of typed caches run kmem linked
//! in instead of preloaded, beside everybody's `malloc`.
//!
//! - [`rows`]: what is measured.
//! - [`clock`]: how a loop becomes nanoseconds.
//! - [`contest`]: turns, medians, the check that the right allocator answered.
//! - [`count`]: loops of known length.
//! - [`report`]: table, JSON, picture, comparison and the gate.

mod clock;
mod contest;
mod count;
mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
kmem-bench [OPTIONS] [ROW...]     (cargo xtask bench builds everything and calls this)

  --kmem PATH       kmem's library
  --lib NAME=PATH   one more allocator, beside the system's
  --shown NAME=PATH one that is shown, and kmem is not held against it
  --env VAR=VALUE   the library before this has that in its environment
  --objects PATH    the rows of typed caches and of other crates' pools, which this program does
  --floor NAME=PATH a library that is hardly an allocator: shown in the rows of small blocks, and kmem is not held against it
  --hardened        the system's malloc is shown, but kmem is not held against it
  --quick           few rows and turns; fails when a gated row is not faster than the system's malloc
  --turns N         how often each row runs on each allocator (default 7)
  --json FILE       also write the medians and all single results
  --plot FILE       also draw them (SVG)
  --progress        tell each row that is done
  --compare A B     two files of --json: what became of each row
  --list            name the rows and stop
  ROW               only rows whose names start so
";

/// A library that the command line names.
struct Library {
    name: String,
    path: PathBuf,
    shown: bool,
    environment: Vec<(String, String)>,
}

/// What the command line asks for.
struct Options {
    kmem: Option<PathBuf>,
    libraries: Vec<Library>,
    floors: Vec<(String, PathBuf)>,
    objects: Option<PathBuf>,
    hardened: bool,
    quick: bool,
    progress: bool,
    turns: usize,
    json: Option<PathBuf>,
    plot: Option<PathBuf>,
    rows: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, row, kind @ ..] = &arguments[..]
        && flag == "--driver"
    {
        return contest::drive(row, kind.first().map_or("", |kind| kind));
    }
    if let [flag, kind @ ..] = &arguments[..]
        && flag == "--count"
    {
        return count::run(kind.first().map_or("", |kind| kind));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        rows::all().for_each(|row| println!("{:<18} {:<4} {}", row.name, row.unit.name(), row.what));
        return ExitCode::SUCCESS;
    }
    if let [flag, before, after] = &arguments[..]
        && flag == "--compare"
    {
        return compare(before, after);
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(message) => {
            eprint!("{message}");
            return ExitCode::from(2);
        }
    };
    let results = match contest::run(&options) {
        Ok(results) => results,
        Err(message) => {
            eprintln!("kmem-bench: {message}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", if options.objects.is_some() { report::objects(&results) } else { report::table(&results) });
    if let Err(message) = keep(&options, &results) {
        eprintln!("kmem-bench: {message}");
        return ExitCode::FAILURE;
    }
    let lost = if options.hardened { Vec::new() } else { report::lost(&results) };
    for row in &lost {
        println!("{row}: not faster than the system's malloc");
    }
    if options.quick && !lost.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes the files that were asked for.
fn keep(options: &Options, results: &contest::Results) -> Result<(), String> {
    if let Some(file) = &options.json {
        std::fs::write(file, report::json(results))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match &options.plot {
        Some(file) => report::plot(file, results).map_err(|error| format!("{}: {error}", file.display())),
        None => Ok(()),
    }
}

/// `--compare`.
fn compare(before: &str, after: &str) -> ExitCode {
    let read = |file: &str| std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
    match read(before).and_then(|before| report::compare(&before, &read(after)?)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("kmem-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let (mut kmem, mut objects, mut json, mut plot, mut turns) = (None, None, None, None, None);
    let (mut hardened, mut quick, mut progress) = (false, false, false);
    let (mut libraries, mut floors, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--kmem" => kmem = Some(PathBuf::from(value()?)),
            "--json" => json = Some(PathBuf::from(value()?)),
            "--plot" => plot = Some(PathBuf::from(value()?)),
            "--objects" => objects = Some(PathBuf::from(value()?)),
            "--progress" => progress = true,
            "--hardened" => hardened = true,
            "--quick" => quick = true,
            "--turns" => {
                turns = Some(value()?.parse().ok().filter(|&n| n > 0).ok_or("--turns takes a number\n")?)
            }
            "--lib" | "--shown" | "--floor" => {
                let (name, path) =
                    value()?.split_once('=').ok_or_else(|| format!("{argument} takes NAME=PATH\n"))?;
                let (name, path) = (name.to_owned(), PathBuf::from(path));
                match argument.as_str() {
                    "--floor" => floors.push((name, path)),
                    kind => libraries.push(Library {
                        name,
                        path,
                        shown: kind == "--shown",
                        environment: Vec::new(),
                    }),
                }
            }
            "--env" => {
                let pair = value()?.split_once('=').ok_or("--env takes VAR=VALUE\n")?;
                let library = libraries.last_mut().ok_or("--env belongs to the --lib before it\n")?;
                library.environment.push((pair.0.to_owned(), pair.1.to_owned()));
            }
            flag if flag.starts_with('-') => return Err(USAGE.to_owned()),
            row if rows::all().any(|known| known.name.starts_with(row)) => rows.push(row.to_owned()),
            row => return Err(format!("no row's name starts with `{row}`; --list names them\n")),
        }
    }
    let turns = turns.unwrap_or(7);
    Ok(Options { kmem, libraries, floors, objects, hardened, quick, progress, turns, json, plot, rows })
}
