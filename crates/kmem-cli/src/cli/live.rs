//! The arguments of the commands for programs that run: `kmem top` and `kmem ctl`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::manual::{CTL_HELP, TOP_HELP};
use super::{LeaksShow, OnError};

/// Arguments of `kmem top`.
#[derive(Args, Debug)]
#[command(
    after_help = "'kmem top --help' tells the columns, the keys, and examples.",
    after_long_help = TOP_HELP
)]
pub(crate) struct TopArgs {
    /// Seconds between two looks
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = delay)]
    pub(crate) delay: f64,
    /// Print once, as text, and end [default: when stdout is no terminal]
    #[arg(long, short = '1')]
    pub(crate) once: bool,
    /// Sort by the column KEY (see below)
    #[arg(long, short, value_name = "KEY", hide_possible_values = true)]
    pub(crate) sort: Option<SortBy>,
    /// As text: show the first N rows and add up the rest; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// Wake programs whose tables are old
    #[arg(long)]
    pub(crate) wake: bool,
    /// Look in DIR [default: KMEM_LIVE, or where 'kmem run' has its programs]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// A process, or the name of some [default: all]
    #[arg(value_name = "PID|NAME")]
    pub(crate) who: Option<String>,
}

/// Columns of both tables of `kmem top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Number of the process
    Pid,
    /// Name of the process, or of the cache
    Name,
    /// Engine, build and letters
    Engine,
    /// Bytes of the process in memory
    Rss,
    /// Of a process bytes, of a cache objects in the program's hands
    InUse,
    /// Of a process bytes, of a cache places for objects
    Held,
    /// Bytes free and still in memory
    Free,
    /// The most bytes held
    Peak,
    /// Allocations a second
    Rate,
    /// Age of the table
    Age,
    /// Bytes of an object
    Size,
    /// Share of the places that is in use
    Use,
    /// Slabs
    Slabs,
    /// Bytes of the slabs
    Bytes,
    /// Bytes of the slabs that the program does not use
    Waste,
    /// Allocations so far
    Allocs,
    /// Share of the allocations that a CPU's stack served
    Cpu,
}

impl fmt::Display for SortBy {
    /// As the user writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// A time between two looks; none at all is one look.
fn delay(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds".to_owned()),
    }
}

/// Arguments of `kmem ctl`.
#[derive(Args, Debug)]
#[command(
    override_usage = "kmem ctl [OPTIONS] PID|NAME COMMAND [ARGUMENT]",
    after_help = "'kmem ctl --help' tells how a program answers, and examples; 'kmem ctl PID COMMAND --help' what a command costs.",
    after_long_help = CTL_HELP
)]
pub(crate) struct CtlArgs {
    /// Wait so long for the answer
    #[arg(long, short, value_name = "SECONDS", default_value_t = 5.0, value_parser = super::seconds)]
    pub(crate) wait: f64,
    /// Do not wake a program that sleeps, or asks nothing of its heap
    #[arg(long)]
    pub(crate) no_wake: bool,
    /// Look in DIR [default: KMEM_LIVE, or where 'kmem run' has its programs]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The process, or its name
    #[arg(value_name = "PID|NAME")]
    pub(crate) who: String,
    /// What it is to do
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

/// What a running process can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// Change which blocks are checked, by the letters of 'kmem run --debug'
    ///
    /// FZPU has F consistency, Z red zones, P poison and U who allocated and freed; T logs each call; -
    /// is none. Names of caches follow a comma, further letters with names a semicolon; without names
    /// all caches are meant.
    ///
    /// Blocks that were allocated before keep what they have: slabs that are made from now on have the
    /// new letters (F and T count at once). A cache with letters has no CPU stacks: each of its blocks
    /// is allocated and freed under a lock, through checks, and takes more room; '-' gives the stacks
    /// back. The engine slab keeps the letters that its caches were made with, and slob has none.
    #[command(verbatim_doc_comment)]
    Letters {
        /// For example FZPU,kmalloc-72;-,kmalloc-1*
        #[arg(value_name = "LETTERS[,NAMES]", allow_hyphen_values = true)]
        letters: String,
    },
    /// Check all checked blocks now
    ///
    /// Blocks of caches with letters are looked at one by one, free ones too; what is damaged is
    /// reported as if the program had met it. The thread that does it goes on when it is done; others
    /// wait where they need the lock of what is just looked at. The time is in proportion to the
    /// blocks.
    #[command(verbatim_doc_comment)]
    Validate,
    /// Write who holds memory: for each cache alloc_traces and free_traces
    ///
    /// Prints the directory that they are written to, which stays. Caches have something to tell that
    /// have the letter U ('letters U' first: then blocks tell that were allocated since). The time is
    /// in proportion to the blocks in use.
    #[command(verbatim_doc_comment)]
    Traces,
    /// Tell what no pointer leads to any more, by who allocated it
    ///
    /// The program stands still while its memory is read for pointers: the more it has, the longer. A
    /// word that looks like a pointer counts as one. Stacks are told for blocks that were allocated
    /// with the letter U, others by cache and size. in-use asks for no look at pointers.
    #[command(verbatim_doc_comment)]
    Leaks {
        /// Which blocks: lost, all (also what can be reached), in-use (no look at pointers)
        #[arg(value_name = "WHICH", default_value = "lost", hide_possible_values = true)]
        show: LeaksShow,
    },
    /// Give free memory back to the system: empty slabs, free pages
    ///
    /// What was given back is fetched again when it is needed: the program is slower for a moment.
    #[command(verbatim_doc_comment)]
    Shrink,
    /// What the first damage found does from now on: abort or warn
    ///
    /// abort ends the program at the first report; warn repairs what can be repaired, and goes on.
    #[command(verbatim_doc_comment)]
    OnError {
        /// abort or warn
        #[arg(value_name = "WHAT", hide_possible_values = true)]
        what: OnError,
    },
}
