//! Fault injection into the process-wide heap, from the environment.
//!
//! | variable | what it says |
//! |---|---|
//! | `KMEM_FAIL` | which requests fail, in the grammar of [`kmem_core::fault::options`] |
//! | `KMEM_FAIL_REPORT` | a file that tells of each failure: which request, and who asked |
//!
//! Both are read once, when the heap was just made, and mean nothing in a process with raised privileges.
//!
//! # The report
//! Lines of words: `kmem-fail 1`, then `process PID NAME`, for each failure `failed NUMBER KIND BYTES CACHE` and its
//! calls, the nearest first, as `frame OFFSET FILE` (what `kmem symbolize` takes), and at the process's end `asked KIND NUMBER`, how many requests could
//! have failed. It tells of one process: the first that finds no file there and whose name the rule has. That
//! process has failures, and of others and of its own copies (forks) the rules are left out. When it
//! executes another program, that goes on with the file, and has no failures when there was one.
//!
//! # Since main
//! A program's requests begin when its own code runs: at the first request with a call of the program's file on its
//! stack. Before that the dynamic linker and the constructors of libraries ask. Where no stack can be walked
//! nobody can tell, and all requests count.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use kmem_core::fault::{Attributes, Fault, Injection, Kind, filter, options};
use kmem_core::platform::Platform;
use kmem_core::report::{self, Text};

use crate::heap::{self, Heap};
use crate::host::{misc, names};

/// The longest text of rules, and the longest name of a report.
const MAX_TEXT: usize = 4096;

/// What the environment said, kept: the program may change its own. And the rules made of it.
struct Kept {
    text: [u8; MAX_TEXT],
    report: [u8; MAX_TEXT],
    rules: [MaybeUninit<Fault>; Kind::ALL.len()],
}

struct Place(UnsafeCell<Kept>);

// SAFETY: written by `configure` only, which one thread calls before anybody reads.
unsafe impl Sync for Place {}

static KEPT: Place = Place(UnsafeCell::new(Kept {
    text: [0; MAX_TEXT],
    report: [0; MAX_TEXT],
    rules: [const { MaybeUninit::uninit() }; Kind::ALL.len()],
}));

/// There are rules, or the environment was found to have none.
static CONFIGURED: AtomicBool = AtomicBool::new(false);
/// The process that the report tells of; 0: there is no report.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// This process has no failures any more.
static OUT: AtomicBool = AtomicBool::new(false);
/// The program's own code was seen to run.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Puts the rules of the environment in place. What cannot be understood is said, and nothing fails.
///
/// # Safety
/// The heap was made just now, by this thread alone, and nobody else knows; as for [`misc::getenv`].
pub(crate) unsafe fn configure(heap: &Heap) {
    // Relaxed: the maker is one thread at a time.
    if CONFIGURED.swap(true, Ordering::Relaxed) || misc::secure_exec() {
        return;
    }
    // SAFETY: the caller's promise.
    let Some(text) = (unsafe { misc::getenv("KMEM_FAIL") }).filter(|text| !text.is_empty()) else { return };
    // SAFETY: the caller's promise.
    let report = unsafe { misc::getenv("KMEM_FAIL_REPORT") }.filter(|path| !path.is_empty());
    // SAFETY: nobody else uses the place until this thread says that the heap is made; afterwards nobody writes.
    let kept: &'static mut Kept = unsafe { &mut *KEPT.0.get() };
    let Some(text) = keep(&mut kept.text, text) else {
        return say(heap, format_args!("KMEM_FAIL is too long or no text"));
    };
    let rules = match options::parse(text, misc::process()) {
        Ok(rules) => rules,
        Err(error) => return say(heap, format_args!("KMEM_FAIL: {error}")),
    };
    let rules = rules.map(|rule| rule.filter(is_for_us));
    if rules.iter().all(Option::is_none) {
        return;
    }
    if let Some(path) = report {
        // A byte of zero stays behind the name.
        let place = &mut kept.report[..MAX_TEXT - 1];
        if keep(place, path).is_none() {
            return say(heap, format_args!("KMEM_FAIL_REPORT is too long or no text"));
        }
        if !claim() {
            return;
        }
    }
    for ((kind, rule), place) in Kind::ALL.into_iter().zip(rules).zip(&mut kept.rules) {
        let Some(mut rule) = rule else { continue };
        if report.is_some() || rule.since_main {
            rule.started = Some(if rule.since_main { has_begun } else { is_in });
        }
        let fault = Fault::new(rule);
        heap.inject(kind, Some(place.write(if report.is_some() { fault.with_hook(tell) } else { fault })));
    }
}

fn say(heap: &Heap, what: fmt::Arguments<'_>) {
    report::say(heap.platform(), format_args!("kmem: {what}: no faults are injected"));
}

/// A copy that stays.
fn keep(place: &'static mut [u8], bytes: &[u8]) -> Option<&'static str> {
    let text = core::str::from_utf8(bytes).ok()?;
    let place = place.get_mut(..text.len())?;
    place.copy_from_slice(text.as_bytes());
    core::str::from_utf8(place).ok()
}

/// The rule is for processes of this one's name.
fn is_for_us(rule: &Attributes) -> bool {
    let mut name = Text::<16>::new();
    rule.program
        .is_none_or(|names| misc::write_name(&mut name).is_ok() && filter::named(names, name.as_str()))
}

/// The name of the report, when it is kept.
fn path() -> &'static CStr {
    // SAFETY: written before the heap was made, constant afterwards; the last byte is zero.
    unsafe { CStr::from_ptr((&raw const (*KEPT.0.get()).report).cast()) }
}

/// Makes the report this process's. False: it is another's, or cannot be made, or this process had its failure.
fn claim() -> bool {
    let me = misc::process();
    let mut head = Text::<64>::new();
    let mut start = [0; MAX_TEXT];
    let first = misc::append(path(), b"kmem-fail 1\n", true);
    if !first {
        let Some(known) = misc::read_start(path(), &mut start) else { return false };
        let known = core::str::from_utf8(known).unwrap_or_default();
        let owner = known.lines().find_map(|line| line.strip_prefix("process ")?.split(' ').next());
        let failed = known.lines().any(|line| line.starts_with("failed "));
        if failed || owner.and_then(|owner| owner.parse().ok()) != Some(me) {
            return false;
        }
    }
    let _ = write!(head, "process {me} ");
    let _ = misc::write_name(&mut head);
    let _ = head.write_str("\n");
    OWNER.store(me as i32, Ordering::Relaxed);
    misc::append(path(), head.as_str().as_bytes(), false)
}

/// This process has failures.
fn is_in() -> bool {
    // Relaxed: set by a fork's child, which is one thread.
    !OUT.load(Ordering::Relaxed)
}

/// This process has failures, and its program's own code runs.
fn has_begun() -> bool {
    if !is_in() {
        return false;
    }
    // Relaxed: who misses that it has begun looks for himself.
    if BEGUN.load(Ordering::Relaxed) {
        return true;
    }
    let mut frames = [0; 64];
    let len = heap::host().backtrace(&mut frames);
    let program = misc::program();
    let begun = len == 0 || frames[..len].iter().any(|frame| program.contains(frame));
    if begun {
        BEGUN.store(true, Ordering::Relaxed);
    }
    begun
}

/// Writes a failure down.
fn tell(injection: &Injection<'_>) {
    let request = injection.request;
    let mut text = Text::<{ MAX_TEXT }>::new();
    // Writing to a `Text` cannot fail; a stack that is too long for it is cut.
    let _ = writeln!(
        text,
        "failed {} {} {} {}",
        injection.number,
        request.kind.name(),
        request.size,
        if request.cache.is_empty() { "-" } else { request.cache }
    );
    let mut frames = [0; filter::DEPTH];
    let len = heap::host().backtrace(&mut frames);
    for &frame in &frames[..len] {
        let mut line = Text::<512>::new();
        let _ = names::write_place(frame, &mut line);
        let _ = writeln!(text, "frame {}", line.as_str());
    }
    // A report that cannot be written is one that is missing.
    let _ = misc::append(path(), text.as_str().as_bytes(), false);
}

/// The process ends: how many requests there were. Nothing without a report, and for a copy of the process.
pub fn finish() {
    let owner = OWNER.load(Ordering::Relaxed);
    if owner == 0 || owner != misc::process() as i32 {
        return;
    }
    let Some(heap) = heap::made() else { return };
    for kind in Kind::ALL {
        if let Some(fault) = heap.fault(kind) {
            let mut line = Text::<64>::new();
            let _ = writeln!(line, "asked {} {}", kind.name(), fault.asked());
            let _ = misc::append(path(), line.as_str().as_bytes(), false);
        }
    }
}

/// Rules of threads that ask for one themselves.
static ARMED: Fault = Fault::new(Attributes::armed());
/// Who changes whether [`ARMED`] is in place.
static ARMING: AtomicBool = AtomicBool::new(false);

/// Why a thread cannot have its n-th request fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailNthError {
    /// Another rule for the requests of programs is in place.
    OtherRule,
    /// As many threads as there can be count already ([`kmem_core::fault::PLACES`]).
    TooManyThreads,
    /// There is no heap: no memory.
    NoHeap,
}

impl fmt::Display for FailNthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherRule => "another rule of fault injection is in place",
            Self::TooManyThreads => "too many threads count their requests",
            Self::NoHeap => "out of memory",
        })
    }
}

impl core::error::Error for FailNthError {}

/// Has the `n`-th request of the calling thread fail, counted from now, and none of other threads: what a kernel's
/// `/proc/self/fail-nth` does. 0: none, as before. Requests are those of programs, of every size, as malloc gets them.
///
/// A test tries every point of failure of a piece of work with `n` = 1, 2, 3, … until [`fail_nth_left`] says afterwards that it was not
/// reached.
///
/// # Errors
/// [`FailNthError`]; nothing changed.
pub fn fail_nth(n: u64) -> Result<(), FailNthError> {
    let Some(heap) = heap::heap() else { return Err(FailNthError::NoHeap) };
    let thread = heap.platform().thread();
    // Acquire and Release pair with each other: rules are put in place by one thread at a time. No request waits for that.
    while ARMING.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let mine = |fault: &'static Fault| core::ptr::eq(fault, &raw const ARMED);
    let result = match heap.fault(Kind::Malloc) {
        Some(fault) if !mine(fault) => Err(FailNthError::OtherRule),
        _ if n != 0 && !ARMED.arm(thread, n) => Err(FailNthError::TooManyThreads),
        None if n != 0 => {
            heap.inject(Kind::Malloc, Some(&ARMED));
            Ok(())
        }
        known => {
            if n == 0 {
                ARMED.disarm(thread);
                if known.is_some() && !ARMED.is_armed() {
                    // Nobody counts: the heap is as fast as before.
                    heap.inject(Kind::Malloc, None);
                }
            }
            Ok(())
        }
    };
    ARMING.store(false, Ordering::Release);
    result
}

/// How many requests of this thread there are until one fails by [`fail_nth`]; 0: one failed. `None`: none will.
pub fn fail_nth_left() -> Option<u64> {
    let heap = heap::made()?;
    ARMED.left(heap.platform().thread())
}

/// In the child of a fork: it is none that the report tells of.
pub(crate) fn forked() {
    if OWNER.load(Ordering::Relaxed) != 0 {
        OUT.store(true, Ordering::Relaxed);
    }
}
