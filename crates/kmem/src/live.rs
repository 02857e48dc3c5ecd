//! A heap that can be looked at, and spoken to, while its program runs: with `KMEM_LIVE=DIR` in the environment.
//!
//! # Theory
//! `DIR/PID.table` is the report of `heap::write_report_with`, replaced about once a second: who reads it always reads a whole
//! one, and its time is that of the look. At the same moments `DIR/PID.ask` is looked for (`live/ask.rs`): what it says is done, and answered in a file of
//! its own; for a while after that both happen ten times a second. Plain files: no thread, no descriptor that stays open, no shared
//! memory, nothing that a program could notice or a fork could share by mistake. A child of a fork has files of its own.
//!
//! Whoever comes to a slow path of malloc or free does this when the time has come (`due.rs`). A program that makes no such call, because it neither
//! allocates nor frees or because what it takes and gives back is in balance on its CPUs' stacks, keeps the table that it had, until it
//! is woken by a signal (`host::wake`): a thread at rest does it in the handler; another one comes by a slow path at its next
//! call, or another thread before it. The signal is listened to from the start, and each table says whether it is: who goes to sleep
//! before the first one can be found by what the system tells of him, and woken.
//!
//! A first table is written after a moment, so that programs that end before leave no trace. At its end a process takes its table
//! along; one that is killed leaves it.
//!
//! Without the variable, and in a process with raised privileges, there is nothing of this but one load in the slow paths. Where the
//! directory is not there, or cannot be written to, there is no second attempt.
//!
//! # Never
//! Allocates from the heap, holds a lock while it writes. Waits for anybody, but for a thread that writes while the process leaves. A failure
//! is silent: a program must not notice.

mod ask;
pub(crate) mod letters;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use kmem_core::report;

use crate::due::Due;
use crate::heap::{self, Heap};
use crate::host::file::{self, Directory, Output, Path};
use crate::host::{expected, fault, misc, wake};

const MILLISECOND: u64 = 1_000_000;
/// From the making of the heap to the first table.
const FIRST: u64 = 10 * MILLISECOND;
/// Between two tables.
const PERIOD: u64 = 1000 * MILLISECOND;
/// Between two tables while somebody asks.
const WATCHED: u64 = 100 * MILLISECOND;
/// So long after a question.
const WATCH: u64 = 10_000 * MILLISECOND;
/// Fifths of a millisecond that [`leave`] waits for a thread that writes.
const PATIENCE: u32 = 1000;

/// `KMEM_LIVE`.
static DIRECTORY: Directory = Directory::none();
/// When the next table is due.
static DUE: Due = Due::never();
/// Somebody asked, and may ask again until then.
static WATCHED_UNTIL: AtomicU64 = AtomicU64::new(0);
/// A thread writes. Nobody waits for it.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The process whose memory this is.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The process whose table there is; 0: none.
static SHOWN: AtomicU32 = AtomicU32::new(0);

/// Reads `KMEM_LIVE`.
///
/// # Safety
/// The heap was made just now, by this thread alone, and nobody else knows; as for [`misc::getenv`].
pub(crate) unsafe fn configure(heap: &Heap) {
    if misc::secure_exec() {
        return;
    }
    // SAFETY: the caller's promise.
    let Some(path) = (unsafe { misc::getenv("KMEM_LIVE") }).filter(|path| !path.is_empty()) else { return };
    if DIRECTORY.set(path) {
        OWNER.store(misc::process(), Ordering::Relaxed);
        DUE.after(FIRST);
        // Now, not with the first table: a program may go to sleep before, and is to be woken all the same.
        wake::listen(Some(woken));
    } else {
        report::say(heap.platform(), format_args!("kmem: KMEM_LIVE is too long or no text"));
    }
}

/// The process has a table to take along at its end.
pub(crate) fn wanted() -> bool {
    DIRECTORY.is_set()
}

/// A call came to a slow path, without any lock.
#[inline]
pub(crate) fn tick(heap: &Heap) {
    if DUE.is_set() {
        look(heap);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    let now = misc::now();
    let watched = now < WATCHED_UNTIL.load(Ordering::Relaxed);
    if !DUE.take_at(now, if watched { WATCHED } else { PERIOD }) {
        return;
    }
    // Acquire and Release: what one writer knows of the files the next one does.
    if BUSY.swap(true, Ordering::Acquire) {
        return;
    }
    // Either this thread sees here that the process leaves, or `leave` sees that it is busy.
    fence(Ordering::SeqCst);
    let process = misc::process();
    if !DUE.is_set() {
        // It leaves.
    } else if OWNER.load(Ordering::Relaxed) != process {
        // A child of `vfork`, or of a system call that no handler of forks saw.
    } else if ask::answer(heap, process) {
        WATCHED_UNTIL.store(now + WATCH, Ordering::Relaxed);
        DUE.after(WATCHED);
    } else if !publish(process) {
        DUE.cancel();
    }
    BUSY.store(false, Ordering::Release);
}

/// Somebody wants to be looked at, and sent the signal. In a handler; `at_rest`: it may use the heap.
fn woken(at_rest: &dyn Fn() -> bool) {
    // The memory may be another process's, after `vfork`.
    if !DUE.is_set() || OWNER.load(Ordering::Relaxed) != misc::process() || !DUE.hurry() {
        return;
    }
    let Some(heap) = heap::made() else { return };
    // The program's stack may be small. Where the other one cannot be had now, the thread's next call will do.
    if !at_rest() || fault::try_on_own_stack(|| look(heap)).is_none() {
        expected::expect();
    }
}

/// Replaces the table. False: it cannot be written.
fn publish(process: u32) -> bool {
    let (Some(new), Some(table)) = (path(process, "table.new"), path(process, "table")) else { return false };
    let Some(mut out) = Output::create(new.as_str()) else { return false };
    let written = heap::write_report_with(&mut out, extra).is_ok() && out.finish();
    if written && file::rename(new.as_str(), table.as_str()) {
        SHOWN.store(process, Ordering::Relaxed);
        true
    } else {
        file::remove(new.as_str());
        false
    }
}

/// What only a running process tells: its program's file, errors so far, and the signal that wakes it if there is one.
fn extra(out: &mut dyn Write) -> fmt::Result {
    let mut buffer = [0; file::PATH_BYTES];
    let program = file::read_link(c"/proc/self/exe", &mut buffer);
    if let Some(program) = program.and_then(|path| core::str::from_utf8(path).ok()) {
        writeln!(out, "exe {program}")?;
    }
    writeln!(out, "errors {}", heap::heap().map_or(0, |heap| heap.debug().errors()))?;
    if wake::listen(Some(woken)) { writeln!(out, "wake {}", wake::SIGNAL) } else { Ok(()) }
}

/// `DIR/PID.KIND`, with a zero byte behind it.
fn path(process: u32, kind: &str) -> Option<Path> {
    DIRECTORY.below(format_args!("/{process}.{kind}"))
}

/// In the child of a fork, which is a process of its own, and alone.
pub(crate) fn after_fork_child() {
    if DUE.is_set() {
        OWNER.store(misc::process(), Ordering::Relaxed);
        BUSY.store(false, Ordering::Relaxed);
        WATCHED_UNTIL.store(0, Ordering::Relaxed);
        DUE.after(FIRST);
    }
}

/// The process steps into a sandbox: it must not touch files any more, nor be woken.
pub fn leave_for_sandbox() {
    let own = OWNER.load(Ordering::Relaxed) == misc::process();
    leave();
    if own {
        wake::stop();
    }
}

/// The process ends, or must not touch files any more: its table goes, and there is no other. Nothing in a child of `vfork`, which
/// borrows its parent's memory.
pub fn leave() {
    let process = misc::process();
    if !DUE.is_set() || OWNER.load(Ordering::Relaxed) != process {
        return;
    }
    DUE.cancel();
    // Pairs with the one in `look`.
    fence(Ordering::SeqCst);
    // A thread may be at it, and say at its end when the next is due.
    for _ in 0..PATIENCE {
        if !BUSY.load(Ordering::Acquire) {
            break;
        }
        misc::pause();
    }
    DUE.cancel();
    if SHOWN.load(Ordering::Relaxed) == process {
        for kind in ["table", "ask"] {
            if let Some(path) = path(process, kind) {
                file::remove(path.as_str());
            }
        }
    }
}
