//! What `--help` says of each command, above and below its options: texts only, of lines that fit a terminal.

pub(super) const RUN_ABOUT: &str = "\
Run a program and its children with all their memory on slabs: malloc, calloc, free, new, delete and
their family are those of libkmem_malloc.so, which is preloaded.

Works with any dynamically linked program, and with scripts. When it ends, a summary tells where its
memory was.";

pub(super) const RUN_HELP: &str = "\
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
zones around blocks, P poison in free ones, U who allocated and freed; T logs each call; A marks
caches for --fail cache-filter; O leaves caches alone that the rest would make use larger slabs; -
takes back what stands before it. No letters at all (--debug -- PROGRAM) are FZPU. Names follow a
comma, further letters with names a semicolon: FZPU,kmalloc-72;Z,kmalloc-1*. What begins with a dash
follows a sign of equality: --debug=-. The first damage is reported on stderr and ends the program;
with --on-error warn it is repaired, and the program goes on.

Reports name functions and lines: kmem itself, in a process of its own, reads the debug information
('kmem symbolize'). --leaks and --traces need to know who allocated what: without --debug they are
--debug U. With letters that leave caches without U, or with none (--debug=-), --leaks tells of those
by cache and size, without stacks. A leak is what was not freed at the end, and what no pointer leads
to any more; KMEM_LEAKS_SUPPRESS lists, with commas, functions, libraries or files (with * for
anything) whose memory is none. While the program runs, the signal that KMEM_SIGNAL names (USR1) has
all blocks validated and the traces written.

While the program runs, 'kmem top' shows the same from another terminal, and 'kmem ctl' changes what
is checked, or asks for leaks and traces. It costs a small file about once a second; --no-live is
without.

--guard puts one block every 100 milliseconds (--guard=MS: every MS) beside pages that nobody may
touch. An access beyond it, or after it was freed, is reported on stderr at the instruction that
makes it, with who allocated and who freed the block. It costs next to nothing, and sees few blocks:
it is for programs that run long or often. --guard=all puts the first 255 there, for tests.

--hardened preloads a library whose malloc and free check every block: state and seal of what is
freed, zeros of what is handed out; each size has address ranges of its own, with guard pages. It is
for production: docs/hardened.md has what it stops and what that costs. Two more, of that heap only:
--quarantine BYTES has freed blocks wait, so many bytes of them in all, before they are handed out
again; --origins stops calls that do not belong together (malloc and delete, new and free, new[] and
delete), which many programs mix without harm.

Environment:
  KMEM_HARDENED  1: as with --hardened (KMEM_QUARANTINE=BYTES and KMEM_ORIGINS=1, as those options)
  KMEM_LIB    the library to preload; else libkmem_malloc.so beside kmem or in ../lib. That of
              another engine is beside it, as libkmem_malloc_slab.so. In a source tree each is built
              when it is missing or older than its sources
  LD_PRELOAD  kept: kmem's library is put in front
  KMEM_LIVE   the directory in which the program can be seen by 'kmem top'; empty: it cannot. Else
              kmem in XDG_RUNTIME_DIR, or kmem-UID in TMPDIR, if nobody else can write there
  NO_COLOR    no colours in the summary
  TMPDIR      where a directory for the reports of the processes is made, and removed at the end

Examples:
  PYTHONMALLOC=malloc kmem run -- python3 -c 'print(len({i: str(i) for i in range(10**5)}))'
  kmem run --summary-file where.txt -- make -j4
  kmem run --slabinfo out.txt -- git gc && kmem info --human out.txt
  kmem run --engine slob -- sort big.txt      # no slabs: see what they are good for
  kmem run --record trace -- sort big.txt && kmem replay trace
  kmem run --no-rseq -- redis-server          # as on a system without restartable sequences";

pub(super) const TOP_ABOUT: &str = "\
See where running programs on kmem have their memory: all of them, or one with its caches. On a
terminal the view is kept up to date; otherwise it is printed once.

Programs started by 'kmem run' are seen, and any on the library that has KMEM_LIVE=DIR in its
environment (give DIR by --dir, or KMEM_LIVE).";

pub(super) const TOP_HELP: &str = "\
Of all processes: ENGINE, with hardened and the debug letters that some cache has; RSS, what of the
process is in memory; bytes IN USE by the program's blocks, and HELD for them; FREE, what the heap
keeps in memory for later; the PEAK of HELD; ALLOCS/S; and the AGE of what is shown.

Of one process: as in the summary of 'kmem run', and ALLOCS/S, allocations a second.

A program tells about once a second, when one of its threads comes by a slow path of malloc or free:
nothing in it runs for the viewer alone. One that neither allocates nor frees keeps its last table:
AGE tells how old it is. Where that is more than two seconds ALLOCS/S is not known; with --wake such
programs are woken, again and again (see 'kmem ctl --help'). Tables of processes that were killed are
removed by whoever looks.

Keys:
  arrows, PgUp, PgDn, Home, End   move
  Enter   open a process          Esc, q  back, or quit
  p       pause                   ?       all keys
  s       sort by the next column r       turn the order round
  others  sort by a column: b BYTES, w WASTE, t ALLOCS/S, ... (see ?)

--sort takes, of all processes: pid, name, engine, rss, in-use, held, free, peak, rate, age; of one:
name, size, in-use, held, use, slabs, bytes, waste, peak, allocs, rate, cpu.

As text two looks are taken, --delay apart, for ALLOCS/S; with --delay 0 only one, and at once.

Exit status: 0; 1 when there is no such process, or none at all.

Examples:
  kmem run -- ./server &  kmem top
  kmem top server                         # one program; all of that name if there are several
  kmem top --once --sort rss              # a table to keep
  kmem top --once --sort waste --top 5 4711
  KMEM_LIVE=/run/app LD_PRELOAD=libkmem_malloc.so ./server &  kmem top --dir /run/app";

pub(super) const CTL_ABOUT: &str = "\
Have a running program on kmem do something with its heap, and print what it says. Programs are
found as by 'kmem top'.";

pub(super) const CTL_HELP: &str = "\
The program does it itself, in the thread of it that next comes by a slow path of malloc or free. When
none did within 0.3 seconds the program is woken, if its table says that it listens, or it has none
yet: its threads get the signal SIGURG, one after the other, until there is an answer. A thread that
waits in a system call does what is asked then and there; another one at its next malloc or free. Calls
like poll and nanosleep end early at a signal (EINTR), others go on; docs/live.md tells more. --no-wake
leaves it.
What was asked and not answered is taken back after --wait seconds.

Only processes of the same user can be asked; root asks everybody's.

Exit status: 0; 1 when the program is not there, does not answer, or cannot do it.

Examples:
  kmem ctl server letters FZPU,kmalloc-72   # check blocks of one size, from now on
  kmem ctl server validate                  # look at all of them now
  kmem ctl server letters U && sleep 60 && kmem ctl server traces
  kmem ctl server letters -                 # no checks again
  kmem ctl 4711 leaks
  kmem ctl --no-wake --wait 60 4711 shrink  # when it next allocates by itself";

pub(super) const SWEEP_ABOUT: &str = "\
Find out what a program does when memory runs out. It is run once for each request for memory that it
makes, with that one refused: the first, the second, and so on, until a run ends without a refusal.
Each run is compared with one in which nothing was refused.";

pub(super) const SWEEP_HELP: &str = "\
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

pub(super) const REPLAY_ABOUT: &str = "\
Ask of a heap what a recorded program asked of it, in the same order, in one thread, and tell what it
took: time, memory held and used, slabs.";

pub(super) const REPLAY_HELP: &str = "\
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

pub(super) const INFO_ABOUT: &str = "\
Read a slab table (slabinfo 2.1) as 'kmem run --slabinfo' writes it, check it, and print it.";

pub(super) const INFO_HELP: &str = "\
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

pub(super) const LAB_ABOUT: &str = "\
The classic lab: on a small simulated machine, make a cache with kmem_cache_create, allocate, write,
free, destroy, and see after each step what became of the slab.";

pub(super) const LAB_HELP: &str = "\
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

pub(super) const ENGINES_ABOUT: &str = "\
Do the same work on SLUB, SLAB and SLOB, and print what each took: time, instructions, hits of the CPUs'
stacks, memory, metadata.";

pub(super) const ENGINES_HELP: &str = "\
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

pub(super) const SYMBOLIZE_ABOUT: &str = "\
Name the code at offsets of programs and libraries: function, offset in it and its size, file and line,
and what was inlined there.

The library starts this command when it has a stack to print. By hand, it reads what a report without
names shows (libfoo.so+0x1234), or stands behind a pipe.";

pub(super) const SYMBOLIZE_HELP: &str = "\
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
