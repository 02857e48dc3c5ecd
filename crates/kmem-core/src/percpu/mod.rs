//! Each CPU's stacks of free objects, and what it takes to own a CPU for an instant.
//!
//! # Theory
//! Every cache with a number ([`StackId`]) has one stack of free objects (a *sheaf*) on every CPU.
//! A stack is an array of pointers with a sentinel at each end; the only mutable word is the pointer
//! to its top:
//!
//! ```text
//!        base-1  base                       top          end
//!        +-----+------+------+------+------+------+-----+------+
//!        | odd | obj  | obj  | obj  | obj  | old  | ... | FULL |
//!        +-----+------+------+------+------+------+-----+------+
//! ```
//! *pop* reads `top[-1]`; an odd address ([`nothing()`]) means empty; else the store `top -= 1` commits.
//! *push* reads `top[0]`; [`FULL`] means full; else it stores the object there and the store
//! `top += 1` commits. Because one store commits, an interrupted operation has either happened or
//! not, whatever interrupts it: another thread on this CPU, a signal, a fork.
//! No index, no length, no second load that depends on a first: see the floor measurements in the
//! performance notes.
//!
//! A CPU that has no stack for a cache yet points at [`empty()`], which is empty and full at once:
//! both operations go to the slow path, which installs a real array by one compare-and-swap.
//!
//! # Invariants
//! - I-CPU-1: `base <= top <= end` for an installed stack; entries in `base..top` are free objects of
//!   that cache and of nothing else; entries from `top` to `end` are stale and never read as objects.
//! - I-CPU-2: only the CPU's own operations move `top` of an installed stack, except
//!   [`CpuArea::seize`], after which no operation on the old array is in flight.
//! - I-CPU-3: [`Hot`] at (cpu, id) always points to readable sentinels: a number that is not in use points at [`empty()`].
//!
//! # Never
//! The operations take no lock, call nothing, allocate nothing. They are correct from signal handlers.

pub mod barn;

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Number of a cache's CPU stacks: 1..[`MAX_STACKS`]. 0 means "has none".
pub type StackId = u16;

/// How many caches can have CPU stacks. Later ones work without.
pub const MAX_STACKS: usize = 4096;

/// Bytes between the hot entries of two CPUs: [`MAX_STACKS`] entries of 16 bytes.
pub const HOT_STRIDE: usize = MAX_STACKS * size_of::<Hot>();

/// Bytes of cold memory of one (CPU, stack) pair. All zero at first.
pub const COLD_SIZE: usize = 128;

/// Bytes between the cold memory of two CPUs.
pub const COLD_STRIDE: usize = MAX_STACKS * COLD_SIZE;

/// The end marker of a stack.
pub const FULL: *mut u8 = usize::MAX as *mut u8;

/// What lies below the lowest object of a stack. It is odd, as no object's address is, and memory lies there: who reads an
/// object's words before it knows that there is one finds words that are odd, and before them one that is even, so that neither
/// looks like a mark or a header that was made with an odd secret.
#[inline]
#[must_use]
pub const fn nothing() -> *mut u8 {
    (&raw const NOTHING.0).cast::<u8>().wrapping_add(NOTHING_AT).cast_mut()
}

/// The entry below a stack's top is [`nothing()`]: the stack is empty.
#[inline]
#[must_use]
pub fn is_nothing(entry: *mut u8) -> bool {
    entry.addr() & 1 != 0
}

#[repr(C, align(16))]
struct Odd([u8; 48]);

const NOTHING_AT: usize = 17;

static NOTHING: Odd = {
    let (mut bytes, mut at) = ([0; 48], NOTHING_AT);
    while at < bytes.len() {
        bytes[at] = 1;
        at += 1;
    }
    Odd(bytes)
};

/// The words that the fast paths touch: one per CPU and cache.
#[repr(C, align(16))]
pub struct Hot {
    /// The place after the topmost object.
    pub top: Top,
    /// Objects handed out by this CPU's stack: a plain add, so it may lose counts when a thread migrates in between.
    pub allocs: AtomicU64,
}

/// The pointer to the place after a stack's topmost object. Anybody may read it; who writes it promises the invariants.
#[repr(transparent)]
pub struct Top(AtomicPtr<*mut u8>);

impl Top {
    /// Points at [`empty`].
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(empty()))
    }

    /// What it points at.
    #[inline]
    pub fn load(&self, order: Ordering) -> *mut *mut u8 {
        self.0.load(order)
    }

    /// The word itself, for implementations of [`CpuArea`].
    ///
    /// # Safety
    /// Every value stored keeps I-CPU-1 to I-CPU-3: it points at [`empty`], or into the array of this very stack, with free
    /// objects below it.
    #[inline]
    pub unsafe fn word(&self) -> &AtomicPtr<*mut u8> {
        &self.0
    }
}

impl Default for Top {
    fn default() -> Self {
        Self::new()
    }
}

#[repr(C, align(16))]
struct Sentinels([*mut u8; 2]);
// SAFETY: the two words are never written.
unsafe impl Sync for Sentinels {}

static EMPTY_WORDS: Sentinels = Sentinels([nothing(), FULL]);

/// The stack that is empty and full at once.
#[inline]
#[must_use]
pub const fn empty() -> *mut *mut u8 {
    // The stack operations never write here: a push finds FULL first.
    (&raw const EMPTY_WORDS.0[1]).cast_mut()
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The object is on this CPU's stack.
    Done,
    /// No room (or no stack): the object still belongs to the caller.
    Full,
    /// The object is the topmost entry already: it was freed twice.
    Double,
}

/// The operations on the calling CPU's stacks.
///
/// # Safety
/// An implementation promises invariants I-CPU-1 and I-CPU-2 under any interleaving of its
/// operations on all threads, that [`CpuArea::hot`] returns the same place for the same arguments for ever,
/// that each [`Hot`] points at [`empty`] at first, and that cold memory is zero at first.
pub unsafe trait CpuArea: Sync {
    /// The stack word of `id` on `cpu`.
    fn hot(&self, cpu: usize, id: StackId) -> &Hot;

    /// [`COLD_SIZE`] bytes of this (CPU, stack) pair, aligned to 64, zero at first.
    fn cold(&self, cpu: usize, id: StackId) -> *mut u8;

    /// Called before a number comes into use: every [`Hot`] of it must point at [`empty`] when this returns.
    fn publish(&self, id: StackId);

    /// Takes the topmost object of the running CPU's stack; null when it is empty. Counts it in [`Hot::allocs`].
    ///
    /// # Safety
    /// `id` is the number of a live cache.
    unsafe fn pop(&self, id: StackId) -> *mut u8;

    /// Puts a free object on the running CPU's stack.
    ///
    /// # Safety
    /// `id` is the number of a live cache, `object` is one of its objects, and the caller owns it.
    unsafe fn push(&self, id: StackId, object: *mut u8) -> Pushed;

    /// Takes up to `out.len()` objects from the running CPU's stack, all from one CPU, the topmost first; returns how many.
    ///
    /// # Safety
    /// As [`CpuArea::pop`].
    unsafe fn pop_many(&self, id: StackId, out: &mut [*mut u8]) -> usize;

    /// Takes the objects that have been on the running CPU's stack longest, up to `out.len()`, the oldest first; returns how many.
    /// `None`, and nothing changed: this area cannot do that in an instant.
    ///
    /// # Safety
    /// As [`CpuArea::pop`]; `base` is the first entry of the stack's array or null, and the caller holds the lock of the
    /// running CPU's slab, so that nobody takes the array away.
    unsafe fn pop_oldest(&self, _id: StackId, _base: *mut *mut u8, _out: &mut [*mut u8]) -> Option<usize> {
        None
    }

    /// Puts a prefix of `objects` on the running CPU's stack; returns how many. The last of them is popped first.
    ///
    /// # Safety
    /// As [`CpuArea::push`] for each object.
    unsafe fn push_many(&self, id: StackId, objects: &[*mut u8]) -> usize;

    /// Takes the stack of `cpu` away, leaving [`empty`] there; returns the old top.
    /// When it returns, no operation on the old array is in flight anywhere.
    /// [`empty`] itself: there was no stack, or it cannot be taken away now and is where it was.
    /// Two calls for the same pair must not overlap: hold the lock of that CPU's slab.
    ///
    /// The answer is [`empty`] when there is no stack, or when it cannot be taken now (a signal handler interrupted the very
    /// operation that owns the CPU, or the system no longer lets us interrupt others): then it stays where it is.
    ///
    /// # Safety
    /// As [`CpuArea::pop`].
    unsafe fn seize(&self, cpu: usize, id: StackId) -> *mut *mut u8;
}

/// Puts the array whose first entry is `base`, holding `len` objects, where [`empty`] was.
/// False when another CPU was faster.
///
/// # Safety
/// The array has both sentinels and `len` free objects of the stack's cache from `base` on, and stays until the stack was
/// seized.
pub unsafe fn install(hot: &Hot, base: *mut *mut u8, len: usize) -> bool {
    // Release publishes the array's sentinels and entries to whoever reads `top` on that CPU.
    hot.top.0.compare_exchange(empty(), base.wrapping_add(len), Ordering::Release, Ordering::Relaxed).is_ok()
}
