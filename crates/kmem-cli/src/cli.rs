//! The arguments of every command, and their manual pages: `--help` prints these texts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::run::library::Build;

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

The engine decides how objects are kept in pages, as the choice of an allocator in a kernel's
configuration did. slub chains free objects inside the slabs they lie in. slab has an index of free
objects in each slab, moves them in batches and begins slabs at different cache lines. slob has no
slabs: every block takes first fit in pages that all sizes share, behind one lock, which is compact
and slow. Only slub and slab have size classes, and CPU stacks of free objects.

--fail has requests fail although there is memory. nth=N: exactly the N-th. probability=P: each with
P percent, drawn by seed=N; interval=N: only each N-th can; times=N: no more than N; space=BYTES: not
before so many bytes. Which requests: size=A-B, cache=NAMES, stack=NAMES, task=main, since=main,
program=NAMES. verbose=2 tells of each, with its stack. All of it: docs/fault-injection.md.

A program that keeps memory in an allocator of its own shows only what it takes from malloc. Python
is one: PYTHONMALLOC=malloc puts every object of it on slabs.

With --record every call of malloc and its family is written down, in order, in two to three bytes. A
trace is whole up to the last call however its process ends. FILE is the trace of the program; its
child processes leave FILE.PID, and what a process did before it executed another program is in
FILE.PID.N.

--debug checks the program's blocks as the kernel's slub_debug option does: F consistency, Z red
zones around blocks, P poison in free ones, U who allocated and freed; T logs each call; no letters
at all are FZPU. Names follow a comma, further letters with names a semicolon:
FZPU,kmalloc-64;Z,kmalloc-1*. The first damage is reported on stderr and ends the program; with
--on-error warn it is repaired, and the program goes on.

Reports name functions and lines: kmem itself, in a process of its own, reads the debug information
('kmem symbolize'). --leaks and --traces need to know who allocated what: without --debug they are
--debug U. A leak is what was not freed at the end, and what no pointer leads to any more;
KMEM_LEAKS_SUPPRESS lists, with commas, functions, libraries or files (with * for anything) whose
memory is none. While the program runs, the signal that KMEM_SIGNAL names (USR1) has all blocks
validated and the traces written.

--guard puts one block every 100 milliseconds (--guard=MS: every MS) beside pages that nobody may
touch. An access beyond it, or after it was freed, is reported on stderr at the instruction that
makes it, with who allocated and who freed the block. It costs next to nothing, and sees few blocks:
it is for programs that run long or often. --guard=all puts the first 255 there, for tests.

--hardened preloads a library whose malloc and free check every block: state and seal of what is
freed, zeros of what is handed out; each size has address ranges of its own, with guard pages. It is
for production: docs/hardened.md has what it stops and what that costs.

Environment:
  KMEM_HARDENED  1: as with --hardened
  KMEM_LIB    the library to preload; else libkmem_malloc.so beside kmem or in ../lib. That of
              another engine is beside it, as libkmem_malloc_slab.so. In a source tree each is built
              when it is missing or older than its sources
  LD_PRELOAD  kept: kmem's library is put in front
  NO_COLOR    no colours in the summary
  TMPDIR      where a directory for the reports of the processes is made, and removed at the end

Examples:
  PYTHONMALLOC=malloc kmem run -- python3 -c 'print(len({i: str(i) for i in range(10**5)}))'
  kmem run --summary-file where.txt -- make -j4
  kmem run --slabinfo out.txt -- git gc && kmem info --human out.txt
  kmem run --engine slob -- sort big.txt      # no slabs: see what they are good for
  kmem run --record trace -- sort big.txt && kmem replay trace
  kmem run --no-rseq -- redis-server          # as on a system without restartable sequences";

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
    /// Write the slab table at the end to FILE (of other processes: FILE.PID)
    #[arg(long, value_name = "FILE")]
    pub(crate) slabinfo: Option<PathBuf>,
    /// Record every allocation to FILE (of other processes: FILE.PID), for 'kmem replay'
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Check blocks, by the kernel's letters; after a comma: only of these caches
    #[arg(long, value_name = "LETTERS[,NAMES]", allow_hyphen_values = true)]
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

const SWEEP_ABOUT: &str = "\
Find out what a program does when memory runs out. It is run once for each request for memory that it
makes, with that one refused: the first, the second, and so on, until a run ends without a refusal.
Each run is compared with one in which nothing was refused.";

const SWEEP_HELP: &str = "\
Outcomes: as without the failure (same exit status, same output); told of it on stderr and gone on;
clean error (another exit status); crash by a signal (also one that a shell reports as 128 + signal);
hang; other output, though nothing was told. Where it crashed, hung, or changed its output silently,
the request that was refused is shown, and who asked.

Requests are those of malloc and its family, of any size. They count from the moment that the
program's own code runs; with --from-start also those of the dynamic linker and of libraries that
start before it. Only the program itself has failures: its children run in peace. A program that
executes another (a shell script's last command, env) goes on with the same number: --only
program=NAME names the one that is meant.

A program that does the same each time has the same table each time. Two runs without failures come
first: where their output differs, it is not compared. Several threads may make requests in
another order each time; then numbers stand for other requests each time.

Exit status:
  0    no failure made the program crash or hang
  1    some did
  125, 126, 127  as 'kmem run'; 125 also when the program crashes or hangs without failures

Examples:
  kmem fail-sweep -- ./parser input.xml
  kmem fail-sweep --jobs 4 --stop-after 1 -- ./parser input.xml    # the first crash will do
  kmem fail-sweep --only size=4096- -- sort big.txt                # large requests only
  kmem fail-sweep --only program=parser -- sh -c './parser <in'
  kmem run --fail nth=42,since=main -- ./parser input.xml          # one of them again";

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

const REPLAY_ABOUT: &str = "\
Ask of a heap what a recorded program asked of it, in the same order, in one thread, and tell what it
took: time, memory held and used, slabs.";

const REPLAY_HELP: &str = "\
The trace is replayed once with every block checked: aligned as asked, zeroed where asked, overlapping
no other, and holding what was written to it until it is freed. This pass also samples the memory.
Then it is replayed --repeat times against the clock; the best pass is shown. A program writes to
what it allocates: so does a timed pass, to the first bytes of each block.

Live bytes are those that the program asked for; held bytes are what the heap had taken from the
system and not given back: slabs, large blocks, mappings, and free pages still backed by memory. Their
ratio is what fragmentation costs. Metadata is what the heap keeps beside that: descriptors and tags
of pages. Hits are allocations that a CPU's own stack of free objects served.

Heaps:
  slub, slab, slob  the core's, with this engine: how engines compare
  kmem              slub as programs have it, behind the fast paths of libkmem_malloc.so
  system            the C library's malloc; what it holds is what it says itself (mallinfo2)

--json prints one object: the numbers above, and 'series', a list of [event, live, held].

Examples:
  kmem run --record trace -- python3 -c 'print(len({i: str(i) for i in range(10**5)}))'
  kmem replay --info trace              # sizes, lifetimes, threads
  kmem replay trace
  for engine in slub slab slob; do kmem replay --engine $engine trace; done
  kmem replay --engine system --repeat 10 --json trace";

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
destroy. Each is printed with what it did to the slab. Each engine has steps of its own besides:
  slab  the batches of a CPU's array, refilled and flushed; the array that CPUs share; colours of
        slabs; reaping by time; tunables written to the slab table
  slob  kmalloc and its headers; first fit moving on; joining of free blocks; a page going back

In the drawing every object of a slab is one character; the legend below it tells the states. The
lists show the order in which objects will be handed out: of slub a CPU's stack from its top and a
slab's free list from its head; of slab a CPU's array from its newest, and the index of a slab from
the bracket on. Of slob a character is 32 bytes of a page, and below are the page's parts.

Examples:
  kmem lab
  kmem lab --step                              # wait for Enter after each step
  kmem lab --size 200 --flags hwcache-align    # objects on cache lines
  kmem lab --cpus 4 --nodes 2 --count 40       # an object freed on a CPU of another node
  kmem lab --merge                             # the cache becomes an alias of an older one
  kmem lab --engine slab                       # arrays, indexes, colours, reaping
  kmem lab --engine slab --size 1000           # the index lies in a free object
  kmem lab --engine slob                       # no slabs at all
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

const ENGINES_ABOUT: &str = "\
Do the same work on SLUB, SLAB and SLOB, and print what each took: time, instructions, hits of the CPUs'
stacks, memory, metadata.";

const ENGINES_HELP: &str = "\
All three are heaps of this process, behind the core's own interface. In the kernel's limits they have Linux's
size classes and geometry: the fair comparison of the designs. As for programs they have what
libkmem_malloc.so has: finer classes, larger stacks, checks.

Times are in nanoseconds a pair of allocation and free, a trace's a call; the best of several turns, in which
the engines alternate. 'x' is the multiple of SLUB's. On a busy machine read the multiples only.

Instructions are counted by callgrind (of Valgrind), less those of the loop itself: exact, and the same in
every run. '-' where there is no Valgrind, and for work of two threads. A virtual CPU has no restartable
sequences, so what is counted is the portable way to own a CPU; --stand-in FILE names a library that plays
the kernel's part (crates/xtask/src/golden/rseq-stand-in.c).

Of a trace: 'held' is what the heap had taken from the system: when most was alive ('at peak') as a multiple
of that, and at the end in bytes, with what was alive then. Metadata is counted at the peak, by kind, in bytes:
  pages    descriptor and tag of each page in use
  caches   descriptors of caches and what they have on each node
  arrays   behind CPU stacks, in SLAB's nodes, and words and counters of each CPU
  index    SLAB's notes of free objects, in slabs and beside them
  headers  in front of SLOB's blocks

Examples:
  kmem bench engines --quick
  kmem bench engines --config kernel --trace programs/traces/*.trace
  kmem bench engines --json out.json --svg plots --trace programs/traces/*.trace";

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

const SYMBOLIZE_ABOUT: &str = "\
Name the code at offsets of programs and libraries: function, offset in it and its size, file and line,
and what was inlined there.

The library starts this command when it has a stack to print. By hand, it reads what a report without
names shows (libfoo.so+0x1234), or stands behind a pipe.";

const SYMBOLIZE_HELP: &str = "\
An offset is a return address, as stacks have them, less the address that the file was loaded at: what
is looked up is the byte before. Without arguments, lines 'FILE OFFSET' are read from stdin, and each
is answered by one line at once: fields with tabs between them.

  FUNCTION+0xOFFSET/0xSIZE    empty when no symbol covers the place
  SOURCE:LINE                 absent when there is no debug information
  INLINED SOURCE:LINE         and so on, from the outside in

Debug information is taken from the file itself, from that of the same build id in /usr/lib/debug, or
from the file named by its debug link.

Examples:
  kmem symbolize ./server 0x11a2 0x13ff
  printf '/lib/x86_64-linux-gnu/libc.so.6 0x2724a\\n' | kmem symbolize";

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
