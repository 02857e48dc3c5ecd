//! Instructions, counted by callgrind.
//!
//! This command runs itself under `valgrind --tool=callgrind` (`kmem bench count`). There each loop is done once to be warm
//! and once with collecting on, after which callgrind is asked for a dump under the loop's name. The file of a dump has
//! the sum; the same loop on [`Nothing`] has what is to be taken off. So a count is exact, and the same in every run.
//!
//! # Never
//! Loops of two threads are not counted: callgrind runs one thread at a time, so they would be other loops.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::subject::{self, NAMES};
use super::work::{ALL, Meter, Nothing, Work};
use crate::cli::BenchConfig;
use crate::failure::{Failure, Result};

/// Pairs of a counted loop; whole batches of all sizes.
const PAIRS: u64 = 3000;
/// The name beside those of the engines.
const NOTHING: &str = "nothing";

/// Instructions a pair, by name of the row, in the order of [`NAMES`].
pub(super) type Counts = HashMap<String, [f64; 3]>;

/// What was counted, and on which way to own a CPU.
pub(super) struct Counted {
    /// By row.
    pub(super) counts: Counts,
    /// `rseq` or `portable`.
    pub(super) ownership: String,
}

/// Counts all rows of a configuration. `None`: there is no valgrind.
///
/// # Errors
/// It is there, and did not do what was asked.
pub(super) fn counted(config: BenchConfig, stand_in: Option<&Path>) -> Result<Option<Counted>> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(None); // see `ask`
    }
    let known =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !known.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let directory = std::env::temp_dir().join(format!("kmem-bench-{}-{config:?}", std::process::id()));
    fs::create_dir_all(&directory)
        .map_err(|error| Failure::input(format!("{}: {error}", directory.display())))?;
    let result = run(config, stand_in, &directory);
    let _ = fs::remove_dir_all(&directory);
    result.map(Some).map_err(|error| Failure::input(format!("valgrind: {error}")))
}

fn run(
    config: BenchConfig,
    stand_in: Option<&Path>,
    directory: &Path,
) -> std::result::Result<Counted, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", directory.join("out").display())).arg(own);
    command.args(["bench", "count", "--config"]);
    command.arg(if config == BenchConfig::Kernel { "kernel" } else { "user" });
    if let Some(library) = stand_in {
        let library = library.canonicalize().map_err(|error| format!("{}: {error}", library.display()))?;
        command.env("LD_PRELOAD", library);
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, errors.lines().last().unwrap_or_default()));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let ownership = said.lines().next().ok_or("the counted run said nothing")?.to_owned();
    let mut sums = HashMap::new();
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        if let Some((label, sum)) = dump(&text) {
            sums.insert(label, sum);
        }
    }
    Ok(Counted { counts: each(&sums)?, ownership })
}

/// Label and sum of a dump that was asked for.
fn dump(text: &str) -> Option<(String, u64)> {
    let label = text.lines().find_map(|line| line.strip_prefix("desc: Trigger: Client Request: "))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let line = line.or_else(|| text.lines().find_map(|line| line.strip_prefix("summary: ")))?;
    Some((label.to_owned(), line.trim().parse().ok()?))
}

/// From the sums of loops to instructions a pair.
fn each(sums: &HashMap<String, u64>) -> std::result::Result<Counts, String> {
    let mut counts = Counts::new();
    for work in ALL.iter().filter(|work| !work.is_threaded()) {
        let sum = |name: &str| {
            let label = format!("{}/{name}", work.name);
            sums.get(&label).copied().ok_or(format!("no count of {label}"))
        };
        let nothing = sum(NOTHING)?;
        let mut row = [0.0; 3];
        for (cell, name) in row.iter_mut().zip(NAMES) {
            let own = sum(name)?.checked_sub(nothing).ok_or(format!("{} cost nothing", work.name))?;
            *cell = own as f64 / PAIRS as f64;
        }
        counts.insert(work.name.to_owned(), row);
    }
    Ok(counts)
}

/// Has callgrind collect between begin and end.
struct Collect {
    on: bool,
}

impl Meter for Collect {
    fn begin(&mut self) {
        if self.on {
            ask(Ask::Zero, 0);
            ask(Ask::Toggle, 0);
        }
    }
    fn end(&mut self) {
        if self.on {
            ask(Ask::Toggle, 0);
        }
    }
}

/// The counted side: all loops of a configuration.
///
/// # Errors
/// The system gives no memory.
pub(super) fn child(config: BenchConfig) -> Result<()> {
    let subjects = subject::three(config).map_err(Failure::input)?;
    println!("{}", subject::ownership_here().map_err(Failure::input)?);
    let nothing = Nothing::new();
    for work in ALL.iter().filter(|work| !work.is_threaded()) {
        for (name, subject) in NAMES.iter().zip(&subjects) {
            counted_once(work, name, |meter| subject.run(work, PAIRS, meter));
        }
        counted_once(work, NOTHING, |meter| work.run(&nothing, PAIRS, meter));
    }
    Ok(())
}

fn counted_once(work: &Work, name: &str, run: impl Fn(&mut dyn Meter) -> u64) {
    run(&mut Collect { on: false });
    let did = run(&mut Collect { on: true });
    assert_eq!(did, PAIRS, "whole batches");
    let label = CString::new(format!("{}/{name}", work.name)).expect("names have no zero bytes");
    ask(Ask::DumpAt, label.as_ptr().expose_provenance());
}

/// What can be asked of callgrind: the numbers of its requests.
#[derive(Clone, Copy)]
enum Ask {
    Zero = 1,
    Toggle = 2,
    DumpAt = 3,
}

/// Asks valgrind. On a processor of its own this does nothing: four rotations of a register by 128 bits together.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn ask(what: Ask, argument: usize) {
    /// "CT": requests for callgrind.
    const CALLGRIND: usize = (b'C' as usize) << 24 | (b'T' as usize) << 16;
    let request = [CALLGRIND + what as usize, argument, 0, 0, 0, 0];
    // SAFETY: the sequence changes no register but `rdx`, where the answer is, and the flags; it reads the request, which is alive.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0_usize => _,
        );
    }
}

/// Elsewhere nothing is counted.
#[cfg(not(target_arch = "x86_64"))]
fn ask(_what: Ask, _argument: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_has_a_label_and_a_sum() {
        let text = "version: 1\npart: 3\ndesc: Trigger: Client Request: a/slub\nevents: Ir\nfn=x\n1 5\ntotals: 123\n";
        assert_eq!(dump(text), Some(("a/slub".to_owned(), 123)));
        assert_eq!(dump("desc: Trigger: Program termination\ntotals: 9\n"), None);
    }

    #[test]
    fn what_the_loop_costs_is_taken_off() {
        let mut sums = HashMap::new();
        for work in ALL {
            for (factor, name) in (1..).zip([NOTHING].iter().chain(&NAMES)) {
                sums.insert(format!("{}/{name}", work.name), factor * 10 * PAIRS);
            }
        }
        let counts = each(&sums).unwrap();
        assert_eq!(counts["object_64"], [10.0, 20.0, 30.0]);
        assert!(!counts.contains_key("pipe_64"));
        sums.remove("living_2000/slob");
        assert_eq!(each(&sums).unwrap_err(), "no count of living_2000/slob");
    }

    #[test]
    fn asking_without_valgrind_does_nothing() {
        ask(Ask::Toggle, 0);
        ask(Ask::DumpAt, c"label".as_ptr().expose_provenance());
    }
}
