//! The arguments of every command. What `--help` says beside them is in [`manual`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod live;
mod manual;

use crate::run::library::Build;
use crate::units;
pub(crate) use live::{CtlArgs, CtlCommand, SortBy, TopArgs};
use manual::{
    CTL_ABOUT, ENGINES_ABOUT, ENGINES_HELP, INFO_ABOUT, INFO_HELP, LAB_ABOUT, LAB_HELP, REPLAY_ABOUT,
    REPLAY_HELP, RUN_ABOUT, RUN_HELP, SWEEP_ABOUT, SWEEP_HELP, SYMBOLIZE_ABOUT, SYMBOLIZE_HELP, TOP_ABOUT,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "kmem",
    version,
    about = "The kernel's slab allocator for any program",
    long_about = "The kernel's slab allocator for any program: run one on it, read where its memory was,\n\
                  and see how a slab works.",
    after_help = "Examples:
  kmem run -- python3 -c 'print(sum(range(10**6)))'
  kmem run --slabinfo out.txt -- git gc
  kmem info --human out.txt
  kmem run --hardened -- ./server             # rather stopped than misused
  kmem run --record trace -- sort big.txt && kmem replay trace
  kmem fail-sweep -- ./parser input.xml
  kmem top                                    # all that run, from another terminal
  kmem ctl server letters FZPU,kmalloc-72     # check some blocks from now on
  kmem lab
  kmem bench engines --quick

'kmem COMMAND --help' is the manual of a command.",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program and its children with all their memory on slabs
    #[command(long_about = RUN_ABOUT)]
    Run(RunArgs),
    /// See where running programs have their memory
    #[command(long_about = TOP_ABOUT)]
    Top(TopArgs),
    /// Have a running program check, tell, or give back memory
    #[command(long_about = CTL_ABOUT)]
    Ctl(CtlArgs),
    /// Run a program once for each of its requests for memory, with that one refused
    #[command(long_about = SWEEP_ABOUT)]
    FailSweep(SweepArgs),
    /// Replay a recorded trace on a heap, and see what it took
    #[command(long_about = REPLAY_ABOUT)]
    Replay(ReplayArgs),
    /// Read the slab table of a run, or of the running kernel
    #[command(long_about = INFO_ABOUT)]
    Info(InfoArgs),
    /// The classic lab: make a cache, use it, and see its slab
    #[command(long_about = LAB_ABOUT)]
    Lab(LabArgs),
    /// Compare: the same work on every engine
    Bench(BenchArgs),
    /// Name code: functions and lines for offsets in programs and libraries
    #[command(long_about = SYMBOLIZE_ABOUT)]
    Symbolize(SymbolizeArgs),
}

/// The ways to keep objects in pages. For a program each is a library of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Free objects are chained in the slab they lie in
    Slub,
    /// Each slab has an index of its free objects; arrays and three lists of slabs in front
    Slab,
    /// No slabs: blocks of every size in pages that all share
    Slob,
}

impl Engine {
    /// Its name, as the user writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slub => "slub",
            Self::Slab => "slab",
            Self::Slob => "slob",
        }
    }
}

/// Arguments of `kmem run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "kmem run [OPTIONS] [--] PROGRAM [ARGS]...",
    after_help = "'kmem run --help' tells exit statuses, the columns of the summary, and examples.",
    after_long_help = RUN_HELP
)]
pub(crate) struct RunArgs {
    /// How objects are kept in pages: slub, slab or slob
    #[arg(long, value_enum, default_value_t = Engine::Slub, value_name = "NAME", hide_possible_values = true)]
    pub(crate) engine: Engine,
    /// A heap that stops what misuses it: double and wrong frees, overflows, writes to freed blocks
    #[arg(long, conflicts_with_all = ["engine", "record"])]
    pub(crate) hardened: bool,
    /// With --hardened: keep so many bytes of freed blocks from being handed out again (512k, 8M)
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes)]
    pub(crate) quarantine: Option<u64>,
    /// With --hardened: stop calls that do not belong together: malloc and delete, new and free
    #[arg(long)]
    pub(crate) origins: bool,
    /// Write the slab table at the end to FILE (of other processes: FILE.PID)
    #[arg(long, value_name = "FILE")]
    pub(crate) slabinfo: Option<PathBuf>,
    /// Record every allocation to FILE (of other processes: FILE.PID), for 'kmem replay'
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Check blocks, by the kernel's letters; after a comma: only of these caches
    #[arg(long, value_name = "LETTERS[,NAMES]", num_args = 0..=1, default_missing_value = "")]
    pub(crate) debug: Option<String>,
    /// What the first damage found does: abort or warn [default: abort]
    #[arg(long, value_name = "WHAT", hide_possible_values = true)]
    pub(crate) on_error: Option<OnError>,
    /// Tell at the end what was not freed, and by whom; exit with STATUS if there is any
    #[arg(long, value_name = "STATUS", num_args = 0..=1, require_equals = true)]
    pub(crate) leaks: Option<Option<u8>>,
    /// Which blocks --leaks shows: lost, all (also what can be reached), in-use (no look at pointers)
    #[arg(
        long,
        value_name = "WHAT",
        requires = "leaks",
        default_value = "lost",
        hide_possible_values = true
    )]
    pub(crate) leaks_show: LeaksShow,
    /// Write at the end who holds memory: DIR/PID/CACHE/alloc_traces, free_traces
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    /// Validate all checked blocks every so many seconds, not only those that are freed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) validate: Option<u32>,
    /// Where the library's messages go: a file (%p is the process), syslog, or stderr
    #[arg(long, value_name = "WHERE")]
    pub(crate) log: Option<PathBuf>,
    /// Put a block beside protected pages every MS milliseconds, or all of them [MS: 100]
    #[arg(long, value_name = "MS|all", num_args = 0..=1, require_equals = true, default_missing_value = "100")]
    pub(crate) guard: Option<Guard>,
    /// Have requests fail: nth=12, probability=1,seed=7, size=1000-, … (see below)
    #[arg(long, value_name = "RULE")]
    pub(crate) fail: Option<String>,
    /// Never use restartable sequences, even where the system has them
    #[arg(long)]
    pub(crate) no_rseq: bool,
    /// Keep the program out of 'kmem top' and 'kmem ctl'
    #[arg(long)]
    pub(crate) no_live: bool,
    /// Print a summary to stderr at the end [default: when stderr is a terminal]
    #[arg(long, overrides_with = "no_summary")]
    pub(crate) summary: bool,
    /// Print no summary to stderr
    #[arg(long, overrides_with = "summary")]
    pub(crate) no_summary: bool,
    /// Write the summary to FILE, with all caches, in place of stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) summary_file: Option<PathBuf>,
    /// Show the N largest caches and add up the rest; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// If nothing can be preloaded into the program, run it without kmem
    #[arg(long)]
    pub(crate) force: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// The library that the program gets.
    pub(crate) fn build(&self) -> Build {
        let asked = || std::env::var_os("KMEM_HARDENED").is_some_and(|value| value == "1");
        let free = self.engine == Engine::Slub && self.record.is_none();
        if self.hardened || (free && asked()) { Build::Hardened } else { Build::Engine(self.engine) }
    }
}

/// Arguments of `kmem fail-sweep`.
#[derive(Args, Debug)]
#[command(
    override_usage = "kmem fail-sweep [OPTIONS] [--] PROGRAM [ARGS]...",
    after_help = "'kmem fail-sweep --help' tells what is counted and compared, exit statuses, and examples.",
    after_long_help = SWEEP_HELP
)]
pub(crate) struct SweepArgs {
    /// The first request to refuse
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: u64,
    /// The last [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u64>,
    /// Runs at a time
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// A run that takes longer hangs
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// Stop after so many crashes and hangs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) stop_after: Option<u64>,
    /// Refuse only such requests: size=A-B, cache=NAMES, stack=NAMES, task=main, program=NAMES, …
    #[arg(long, value_name = "FILTERS")]
    pub(crate) only: Option<String>,
    /// Count what is asked before the program's own code runs, too
    #[arg(long)]
    pub(crate) from_start: bool,
    /// What each run reads on its standard input [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// How objects are kept in pages: slub, slab or slob
    #[arg(long, value_enum, default_value_t = Engine::Slub, value_name = "NAME", hide_possible_values = true)]
    pub(crate) engine: Engine,
    /// On the hardened library, which stops what misuses it
    #[arg(long, conflicts_with = "engine")]
    pub(crate) hardened: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}

/// A time that passes.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds".to_owned()),
    }
}

/// What a trace can be replayed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Replayed {
    /// The core's heap with SLUB
    Slub,
    /// With SLAB
    Slab,
    /// With SLOB
    Slob,
    /// The heap of programs
    Kmem,
    /// The C library's
    System,
}

/// Arguments of `kmem replay`.
#[derive(Args, Debug)]
#[command(
    after_long_help = REPLAY_HELP
)]
pub(crate) struct ReplayArgs {
    /// Tell what the trace holds, and replay nothing
    #[arg(long, conflicts_with_all = ["engine", "repeat"])]
    pub(crate) info: bool,
    /// The heap: slub, slab, slob, kmem (as programs have it), or system (the C library's)
    #[arg(long, value_enum, default_value_t = Replayed::Slub, value_name = "NAME", hide_possible_values = true)]
    pub(crate) engine: Replayed,
    /// Passes against the clock
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repeat: u32,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// The trace
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// How often a block is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Every so many milliseconds
    Every(u32),
    /// Each, as long as there is room
    All,
}

impl std::str::FromStr for Guard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ms) if ms > 0 => Ok(Self::Every(ms)),
            _ if text == "all" => Ok(Self::All),
            _ => Err("a number of milliseconds, or 'all'"),
        }
    }
}

impl std::fmt::Display for Guard {
    /// As the library is told.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Every(ms) => write!(f, "{ms}ms"),
            Self::All => f.write_str("all"),
        }
    }
}

/// Which blocks the leak report shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeaksShow {
    /// Those that no pointer leads to
    Lost,
    /// Those, and the others
    All,
    /// All that were not freed; nobody looks for pointers
    InUse,
}

/// What a report of the checks does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// End the program
    Abort,
    /// Repair what can be, and go on
    Warn,
}

impl OnError {
    /// As the library is told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Warn => "warn",
        }
    }
}

/// Arguments of `kmem info`.
#[derive(Args, Debug)]
#[command(
    after_long_help = INFO_HELP
)]
pub(crate) struct InfoArgs {
    /// Sort by name, active, objs, size, slabs, held, waste or use [default: as it is]
    #[arg(long, short, value_name = "KEY", hide_possible_values = true)]
    pub(crate) sort: Option<SortKey>,
    /// Turn the order round (largest first; names from a to z)
    #[arg(long, short)]
    pub(crate) reverse: bool,
    /// A table with shares, bytes and a total, instead of the slabinfo text
    #[arg(long, short = 'H')]
    pub(crate) human: bool,
    /// The text to read; '-' is stdin [default: /proc/slabinfo]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Columns to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortKey {
    /// Name of the cache
    Name,
    /// Objects in use
    Active,
    /// Places for objects
    Objs,
    /// Bytes between two objects
    Size,
    /// Slabs
    Slabs,
    /// Bytes of the slabs
    Held,
    /// Bytes of the slabs that no object in use covers
    Waste,
    /// Share of the places that is in use
    Use,
}

/// Arguments of `kmem lab`.
#[derive(Args, Debug)]
#[command(
    after_long_help = LAB_HELP
)]
pub(crate) struct LabArgs {
    /// Name of the cache
    #[arg(long, default_value = "mycache")]
    pub(crate) name: String,
    /// Bytes of an object
    #[arg(long, default_value_t = 20, value_name = "BYTES")]
    pub(crate) size: usize,
    /// Alignment of an object: a power of two
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    pub(crate) align: usize,
    /// Flags: hwcache-align, typesafe-by-rcu, reclaim-account, account
    #[arg(long, value_delimiter = ',', value_name = "FLAGS", hide_possible_values = true)]
    pub(crate) flags: Vec<CacheFlag>,
    /// How many objects to allocate
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) cpus: u16,
    /// Nodes of the machine
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) nodes: u16,
    /// Create a cache of the same kind first, and see ours merge with it
    #[arg(long)]
    pub(crate) merge: bool,
    /// How objects are kept in pages: slub, slab or slob
    #[arg(long, value_enum, default_value_t = Engine::Slub, value_name = "NAME", hide_possible_values = true)]
    pub(crate) engine: Engine,
    /// What the heap is built like
    #[arg(long, value_enum, default_value_t = LabConfig::Kernel, value_name = "KIND")]
    pub(crate) config: LabConfig,
    /// Wait for Enter after each step
    #[arg(long)]
    pub(crate) step: bool,
    /// Draw with plain ASCII characters
    #[arg(long)]
    pub(crate) ascii: bool,
}

/// Flags of the lab's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheFlag {
    /// Objects start at cache lines, or at fractions of one
    HwcacheAlign,
    /// Pages outlive a grace period
    TypesafeByRcu,
    /// Objects can be reclaimed
    ReclaimAccount,
    /// Objects are charged to a group
    Account,
}

/// How the lab's heap is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabConfig {
    /// As Linux 6.1: its size classes and geometry, plain lists, ascending order
    Kernel,
    /// As libkmem_malloc.so: finer classes, encoded free pointers, random order
    User,
}

/// Arguments of `kmem bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// What to compare.
    #[command(subcommand)]
    pub(crate) what: Bench,
}

/// What can be compared.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The three engines
    #[command(long_about = ENGINES_ABOUT)]
    Engines(EnginesArgs),
    /// The loops alone, to be run by callgrind
    #[command(hide = true)]
    Count(CountArgs),
}

/// Arguments of `kmem bench engines`.
#[derive(Args, Debug)]
#[command(after_long_help = ENGINES_HELP)]
pub(crate) struct EnginesArgs {
    /// In the kernel's limits, as for programs, or both
    #[arg(long, value_enum, default_value_t = BenchConfig::Both, value_name = "KIND")]
    pub(crate) config: BenchConfig,
    /// Replay these traces, too
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) trace: Vec<PathBuf>,
    /// Write everything to FILE as JSON, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw plots into DIR, which is made if need be
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// Few and short turns: to see that it works
    #[arg(long)]
    pub(crate) quick: bool,
    /// A library to preload where instructions are counted
    #[arg(long, value_name = "FILE")]
    pub(crate) stand_in: Option<PathBuf>,
}

/// Arguments of `kmem bench count`.
#[derive(Args, Debug)]
pub(crate) struct CountArgs {
    /// In the kernel's limits, or as for programs
    #[arg(long, value_enum)]
    pub(crate) config: BenchConfig,
}

/// How the heaps of a comparison are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchConfig {
    /// Linux 6.1's size classes and geometry
    Kernel,
    /// As libkmem_malloc.so
    User,
    /// One after the other
    Both,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_behind_the_program_is_the_programs() {
        for line in ["kmem run --no-rseq -- prog --help -x --", "kmem run --no-rseq prog --help -x --"] {
            let Command::Run(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
            assert_eq!(args.command, ["prog", "--help", "-x", "--"], "{line}");
            assert!(args.no_rseq);
        }
    }

    /// As of a kernel's option: none at all are all. What ends the options is no letter.
    #[test]
    fn letters_may_be_left_out() {
        for (line, letters) in [
            ("kmem run --debug -- x", Some("")),
            ("kmem run --debug= x", Some("")),
            ("kmem run --debug --on-error warn x", Some("")),
            ("kmem run --debug FZ x", Some("FZ")),
            ("kmem run --debug=-,a;F -- x", Some("-,a;F")),
            ("kmem run --debug - x", Some("-")),
            ("kmem run -- x --debug", None),
        ] {
            let Command::Run(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
            assert_eq!(args.debug.as_deref(), letters, "{line}");
            assert_eq!(args.command[0], "x", "{line}");
        }
    }

    #[test]
    fn the_last_summary_option_wins() {
        for (line, summary, no_summary) in [
            ("kmem run --summary --no-summary x", false, true),
            ("kmem run --no-summary --summary x", true, false),
            ("kmem run x", false, false),
        ] {
            let Command::Run(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
            assert_eq!((args.summary, args.no_summary), (summary, no_summary), "{line}");
        }
    }
}

/// Arguments of `kmem symbolize`.
#[derive(Args, Debug)]
#[command(after_long_help = SYMBOLIZE_HELP)]
pub(crate) struct SymbolizeArgs {
    /// A program or a library
    #[arg(value_name = "FILE", requires = "offsets")]
    pub(crate) file: Option<PathBuf>,
    /// Offsets in it, in hexadecimal
    #[arg(value_name = "OFFSET")]
    pub(crate) offsets: Vec<String>,
}
