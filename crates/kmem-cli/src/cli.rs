//! The arguments of every command, and their manual pages: `--help` prints these texts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
  kmem lab

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
    /// Read the slab table of a run, or of the running kernel
    #[command(long_about = INFO_ABOUT)]
    Info(InfoArgs),
    /// The classic lab: make a cache, use it, and see its slab
    #[command(long_about = LAB_ABOUT)]
    Lab(LabArgs),
}

const RUN_ABOUT: &str = "\
Run a program and its children with all their memory on slabs: malloc, calloc, free, new, delete and
their family are those of libkmem_malloc.so, which is preloaded.

Works with any dynamically linked program, and with scripts. When it ends, a summary tells where its
memory was.";

const RUN_HELP: &str = "\
Exit status:
  The program's own. If a signal kills it, the same signal kills kmem (a shell shows 128 + signal).
  125  kmem could not do its work: no library, bad options, or a program that nothing can be
       preloaded into (statically linked, set-user-ID, for another machine)
  126  the program cannot be executed
  127  there is no such program

Signals sent to kmem are passed on to the program; those of the terminal reach it directly. Its
standard streams are untouched: kmem itself writes to stderr only.

The summary, per cache: SIZE of an object; objects IN USE by the program, and places HELD for them;
SLABS and their BYTES; WASTE, the bytes of them that the program does not use (free objects,
rounding, ends of slabs); the PEAK of BYTES; ALLOCS so far, and CPU%, the share of them that a CPU's
own stack of free objects served. The state is that at the program's end, so a program that frees
everything holds little; PEAK tells what it needed. Its children, and theirs, are added up by name.

A program that keeps memory in an allocator of its own shows only what it takes from malloc. Python
is one: PYTHONMALLOC=malloc puts every object of it on slabs.

--debug checks the program's blocks as the kernel's slub_debug option does: F consistency, Z red
zones around blocks, P poison in free ones, U who allocated and freed; T logs each call; no letters
at all are FZPU. Names follow a comma, further letters with names a semicolon:
FZPU,kmalloc-64;Z,kmalloc-1*. The first damage is reported on stderr and ends the program; with
--on-error warn it is repaired, and the program goes on.

Environment:
  KMEM_LIB    the library to preload; else libkmem_malloc.so beside kmem or in ../lib. In a source
              tree it is built when it is missing or older than its sources
  LD_PRELOAD  kept: kmem's library is put in front
  NO_COLOR    no colours in the summary
  TMPDIR      where a directory for the reports of the processes is made, and removed at the end

Examples:
  PYTHONMALLOC=malloc kmem run -- python3 -c 'print(len({i: str(i) for i in range(10**5)}))'
  kmem run --summary-file where.txt -- make -j4
  kmem run --slabinfo out.txt -- git gc && kmem info --human out.txt
  kmem run --no-rseq -- redis-server          # as on a system without restartable sequences";

/// Arguments of `kmem run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "kmem run [OPTIONS] [--] PROGRAM [ARGS]...",
    after_help = "'kmem run --help' tells exit statuses, the columns of the summary, and examples.",
    after_long_help = RUN_HELP
)]
pub(crate) struct RunArgs {
    /// How objects are kept in pages; in this build: slub
    #[arg(long, default_value = "slub", value_name = "NAME")]
    pub(crate) engine: String,
    /// Write the slab table at the end to FILE (of other processes: FILE.PID)
    #[arg(long, value_name = "FILE")]
    pub(crate) slabinfo: Option<PathBuf>,
    /// Check blocks, by the kernel's letters; after a comma: only of these caches
    #[arg(long, value_name = "LETTERS[,NAMES]", allow_hyphen_values = true)]
    pub(crate) debug: Option<String>,
    /// What the first damage found does: abort or warn [default: abort]
    #[arg(long, value_name = "WHAT", hide_possible_values = true)]
    pub(crate) on_error: Option<OnError>,
    /// Never use restartable sequences, even where the system has them
    #[arg(long)]
    pub(crate) no_rseq: bool,
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

const INFO_ABOUT: &str = "\
Read a slab table (slabinfo 2.1) as 'kmem run --slabinfo' writes it, check it, and print it.";

const INFO_HELP: &str = "\
Without options the text is checked (every field, the column layout, active <= total) and printed
as it is, byte for byte. Exit status 0; 1 when it is no slab table of version 2.1, with the line at
fault.

The table is that of Linux: slabtop and vmstat read it. To look at one with slabtop:
  unshare -rm sh -c 'mount --bind out.txt /proc/slabinfo && slabtop -o'

Examples:
  kmem info out.txt                      # the table itself
  kmem info --sort held out.txt          # the same, the largest caches first
  kmem info --human --sort waste out.txt # in units for people
  sudo kmem info --human                 # of the running kernel";

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

const LAB_ABOUT: &str = "\
The classic lab: on a small simulated machine, make a cache with kmem_cache_create, allocate, write,
free, destroy, and see after each step what became of the slab.";

const LAB_HELP: &str = "\
Steps: create the cache, allocate, write and read back, free, allocate again, read the slab table,
destroy. Each is printed with what it did to the slab.

In the drawing every object of a slab is one character; the legend below it tells the states. The
lists show the order in which objects will be handed out: a CPU's stack from its top, a slab's free
list from its head.

Examples:
  kmem lab
  kmem lab --step                              # wait for Enter after each step
  kmem lab --size 200 --flags hwcache-align    # objects on cache lines
  kmem lab --cpus 4 --nodes 2 --count 40       # an object freed on a CPU of another node
  kmem lab --merge                             # the cache becomes an alias of an older one
  kmem lab --config user                       # encoded free pointers, random order
  kmem lab --ascii                             # no line drawing characters";

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
