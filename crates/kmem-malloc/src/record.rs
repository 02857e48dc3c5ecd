//! Recording: every call of the program, in order, in a trace file.
//!
//! # When
//! Only in the library that is built to record, and there only with `KMEM_RECORD=<absolute file name>` in the
//! environment. It is looked up at the first call, which the dynamic linker makes; so no block is missed. The first process
//! writes to the file of that name, every other one to a file of its own, `<name>.<pid>`. A process that executes another
//! program begins another trace: the new program takes the name, and what its process wrote before is called
//! `<name>.<pid>.<n>` from then on. So a name without a number is that of the last program.
//!
//! # Order
//! One lock orders all records, and the order of records is that of the trace. A block is recorded after it was made and
//! before it is freed, so between the two records nobody else can have its address. A resized block is both; its record is
//! made under the lock together with the resizing itself.
//!
//! - I-RECORD-1: the lock is taken before every lock of the heap, and never while one is held.
//! - I-RECORD-2: the writer's memory is its own: mappings, never the heap's. A hook calls nothing that allocates.
//! - I-RECORD-3: hooks leave `errno` alone.
//! - I-RECORD-4: a forked child has none of the writer's memory: the kernel wipes and unmaps it. A child of a raw
//!   system call, which runs no fork handler, finds recording off.
//!
//! # A signal handler
//! that allocates while its own thread is inside a hook finds the lock taken by itself. Its call is not recorded but
//! counted. The map notices what follows from it: an address that is made twice was freed in between, and a free of an
//! address that is unknown is only counted.
//!
//! # What it never does
//! It never ends or fails a call. When there is no room for the trace it stops and says so in the trace.

mod file;
mod name;
mod table;
mod writer;

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use kmem::host::misc;

use crate::runtime::{errno, say, set_errno};
use writer::Writer;

/// What a recording process has in a mapping of its own, which a forked child finds all zero.
struct Control {
    /// Calls are recorded.
    on: AtomicBool,
    /// Touched by the holder of the lock.
    writer: UnsafeCell<Writer>,
}

/// Null: nobody asked yet. [`OFF`]: not in this process.
static CONTROL: AtomicPtr<Control> = AtomicPtr::new(null_mut());
const OFF: *mut Control = core::ptr::dangling_mut();

/// The lock: who holds it, by thread pointer; 0: nobody.
static HOLDER: AtomicUsize = AtomicUsize::new(0);
/// A fork happens inside a hook, in a signal handler: the lock is not the fork handler's.
static FORKED_INSIDE: AtomicBool = AtomicBool::new(false);

fn me() -> usize {
    // SAFETY: always answers; the thread pointer is set before any library's code runs.
    unsafe { libc::pthread_self() as usize }
}

/// Takes the lock. False: this very thread holds it, further up its stack.
fn lock() -> bool {
    let me = me();
    let mut tries = 0u32;
    // Acquire pairs with the Release of `unlock`.
    while let Err(holder) = HOLDER.compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed) {
        if holder == me {
            return false;
        }
        tries += 1;
        if tries < 100 {
            core::hint::spin_loop();
            continue;
        }
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
        let saved = errno();
        // SAFETY: neither keeps a pointer. A thread of high priority must sleep for the holder to run. By the raw call,
        // because the C library's is a cancellation point.
        unsafe {
            if tries < 200 {
                libc::sched_yield();
            } else {
                libc::syscall(libc::SYS_nanosleep, &raw const nap, null_mut::<libc::timespec>());
            }
        }
        set_errno(saved);
    }
    true
}

fn unlock() {
    // Release pairs with the Acquire of `lock`.
    HOLDER.store(0, Ordering::Release);
}

/// The state of recording, if calls are recorded.
#[inline]
fn control() -> Option<&'static Control> {
    // Acquire pairs with the Release of `start`: who sees the control sees what it holds.
    let mut control = CONTROL.load(Ordering::Acquire);
    if control == OFF {
        return None;
    }
    if control.is_null() {
        control = start();
    }
    // SAFETY: neither null nor OFF: the mapping of `start`, which stays.
    let control = unsafe { (control != OFF).then(|| &*control) }?;
    // Relaxed: who must be sure asks again under the lock.
    control.on.load(Ordering::Relaxed).then_some(control)
}

/// Runs `work` on the writer under the lock, which is `held` already or not. `None`: nothing is recorded here and now.
fn with_writer<R>(work: impl FnOnce(&mut Writer) -> R) -> Option<R> {
    let control = control()?;
    if !lock() {
        // SAFETY: the holder is this thread, interrupted; nobody else changes the header, and the count is atomic.
        unsafe { (*control.writer.get()).count_lost() };
        return None;
    }
    let mut result = None;
    if control.on.load(Ordering::Relaxed) {
        // SAFETY: the lock is held, so the reference is the only one.
        let writer = unsafe { &mut *control.writer.get() };
        result = Some(work(writer));
        if writer.has_stopped() {
            control.on.store(false, Ordering::Relaxed);
        }
    }
    unlock();
    result
}

/// The first call of the process: decides whether it records.
#[cold]
#[inline(never)]
fn start() -> *mut Control {
    if !lock() {
        return OFF;
    }
    let mut control = CONTROL.load(Ordering::Relaxed);
    if control.is_null() {
        let saved = errno();
        control = begin();
        set_errno(saved);
        // Release publishes the control's content.
        CONTROL.store(control, Ordering::Release);
    }
    unlock();
    control
}

fn begin() -> *mut Control {
    if misc::secure_exec() {
        return OFF;
    }
    // SAFETY: at the first call of a process there is one thread, the environment stands still, and the value is
    // copied at once.
    let Some(path) = (unsafe { misc::getenv("KMEM_RECORD") }) else { return OFF };
    if !name::set(path) {
        return OFF;
    }
    let bytes = size_of::<Control>().next_multiple_of(table::page_size());
    let Some(memory) = table::map(bytes) else { return OFF };
    let control = memory.cast::<Control>();
    // SAFETY: just mapped, zero, large enough; a wiped child must not find it on. An old kernel refuses, and then
    // only children of raw system calls would notice.
    unsafe {
        libc::madvise(memory.cast(), bytes, libc::MADV_WIPEONFORK);
        control.write(Control { on: AtomicBool::new(false), writer: UnsafeCell::new(Writer::new()) });
        match (*(*control).writer.get()).open(true) {
            Ok(()) => (*control).on.store(true, Ordering::Relaxed),
            Err(code) => {
                say(format_args!("cannot record to {}: error {code}", name::Name::base()));
                libc::munmap(memory.cast(), bytes);
                return OFF;
            }
        }
    }
    control
}

/// malloc gave this block.
#[inline]
pub(crate) fn made(block: *mut u8, size: usize) {
    with_writer(|writer| writer.made(block, |encoder| encoder.alloc(size as u64)));
}

/// calloc gave this block.
#[inline]
pub(crate) fn made_zeroed(block: *mut u8, size: usize) {
    with_writer(|writer| writer.made(block, |encoder| encoder.zeroed(size as u64)));
}

/// A call with an alignment, a power of two, gave this block.
#[inline]
pub(crate) fn made_aligned(block: *mut u8, align: usize, size: usize) {
    with_writer(|writer| writer.made(block, |encoder| encoder.aligned(align.ilog2(), size as u64)));
}

/// This block is about to be freed.
#[inline]
pub(crate) fn freeing(ptr: *mut u8) {
    if !ptr.is_null() {
        with_writer(|writer| writer.freeing(ptr));
    }
}

/// Each call must come by, also one that changes nothing but the size that was asked for.
pub(crate) const EACH: bool = true;

/// Runs `resize`, which gives the block another size. It runs in any case, under the lock where it is recorded.
#[inline]
pub(crate) fn resizing(ptr: *mut u8, size: usize, resize: impl FnOnce() -> *mut u8) -> *mut u8 {
    let mut resize = Some(resize);
    let mut block = null_mut();
    with_writer(|writer| {
        if let Some(resize) = resize.take() {
            block = resize();
            writer.resized(ptr, block, size);
        }
    });
    match resize {
        Some(resize) => resize(),
        None => block,
    }
}

/// Before a fork, and before the heap is closed for it (I-RECORD-1).
pub(crate) fn prefork() {
    FORKED_INSIDE.store(!lock(), Ordering::Relaxed);
}

/// After a fork in the parent.
pub(crate) fn postfork_parent() {
    if !FORKED_INSIDE.load(Ordering::Relaxed) {
        unlock();
    }
}

/// After a fork in the child, when the heap is open again: it records to a file of its own.
pub(crate) fn postfork_child() {
    if FORKED_INSIDE.load(Ordering::Relaxed) {
        return;
    }
    let control = CONTROL.load(Ordering::Relaxed);
    if !control.is_null() && control != OFF {
        let saved = errno();
        // SAFETY: the mapping of `begin`, wiped by the kernel or not; the child has one thread, which holds the lock.
        unsafe {
            control.write(Control { on: AtomicBool::new(false), writer: UnsafeCell::new(Writer::new()) });
            let opened = (*(*control).writer.get()).open(false).is_ok();
            (*control).on.store(opened, Ordering::Relaxed);
        }
        set_errno(saved);
    }
    unlock();
}

/// The process ends: the trace is closed. A vfork child, which has its parent's memory, closes nothing.
pub(crate) fn finish() {
    let saved = errno();
    with_writer(Writer::finish);
    set_errno(saved);
}
