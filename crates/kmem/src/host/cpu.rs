//! The CPU layer of a process: restartable sequences where they are, slots where they are not.
//!
//! # Theory
//! To the core, CPUs `0..n` are those that restartable sequences index, and CPUs `n..n+m` are the
//! portable slots. The two kinds never touch the same stack: a piece of `rseq` can land only on
//! the first, a slot's owner only on the second. On a process without restartable sequences `n` is 0.
//!
//! Which of them a thread uses is a fact about the thread, found out the first time its fast path
//! fails (`HostCpus::owner`), and kept in the thread's word:
//!
//! ```text
//!   NO_AREA ----> registered area      (the kernel knows the thread)
//!      |               ^
//!      +----> slot ----+               (it does not, or not yet)
//! ```
//!
//! A registered area stays so until its thread ends: the C library never takes a registration back,
//! and nobody else may. A signal's handler may have the thread forget, and begin anew at its next operation (`expected`): so a
//! thread that finds all it needs at its CPU's hand comes by a slow path once.
//!
//! All heaps of a process share the decision which kinds there are (`ownership`).
//!
//! # Invariants
//! - I-HOST-1: each hot entry of each CPU below `n + m`, and of the entry for no CPU, points at readable
//!   sentinels before its number is used ([`CpuArea::publish`]); the entry for no CPU points at [`empty`] for ever.
//! - I-HOST-2: the layout never changes once decided.
//!
//! # Seizing
//! The owner of a stack word must lose it while another CPU looks: the word is exchanged for
//! [`empty`], and then every piece in flight anywhere is made to restart (`membarrier`). A piece
//! may have committed over the exchange; then its value is the newer one, and the turn repeats.
//! [`CpuArea::seize`] returns [`empty`], and leaves the stack as it was, in two cases: a signal handler
//! that interrupted an operation on the very slot it wants, and a sandbox that forbids all that would help.

#[cfg(target_arch = "x86_64")]
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use kmem_core::kmalloc::MAX_CLASSES;
use kmem_core::percpu::{
    COLD_SIZE, COLD_STRIDE, CpuArea, FULL, HOT_STRIDE, Hot, Pushed, StackId, Top, empty, is_nothing,
};

use super::expected::{is_expected, is_wanted};
use super::ownership::{BARRIER, Layout, Ownership, register_barrier, visit_all};
#[cfg(target_arch = "x86_64")]
use super::rseq;
use super::{slots, sys, timer};

/// Distance from the first hot area to the one for those that have no CPU.
#[cfg(target_arch = "x86_64")]
pub(super) const NO_CPU: usize = rseq::NO_CPU;
#[cfg(not(target_arch = "x86_64"))]
pub(super) const NO_CPU: usize = (HOT_STRIDE as u32).wrapping_neg() as usize;

/// Numbers made ready at the start, those of all size classes among them, at which malloc looks before there is any heap; later
/// ones by [`CpuArea::publish`].
const READY: StackId = 96;
const _: () = assert!(READY as usize > MAX_CLASSES);

/// How a thread owns a CPU.
enum Owner {
    /// By restartable sequences. `fresh`: it did not know until now.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86-64 has the sequences"))]
    Cpu { fresh: bool },
    /// By the lock of a slot.
    Slot(usize),
    /// Not at all: the platform is not initialised.
    Nobody,
    /// In one of these ways, but this operation is to fail: somebody waits for a thread on a slow path (`expected`).
    Expected,
}

/// The hot words of threads without a CPU before the platform is initialised: a thread's word starts out at the area
/// that has none, so its first operations look here, find every stack empty and full, and take the slow path.
static EARLY: [Hot; READY as usize] =
    [const { Hot { top: Top::new(), allocs: AtomicU64::new(0) } }; READY as usize];

/// A stack's word, to be written.
#[inline]
fn word_of(hot: &Hot) -> &AtomicPtr<*mut u8> {
    // SAFETY: this file stores `empty()`, or a place in the stack's own array below which its objects lie: it moves a top
    // by what it pushed or popped, under the slot's lock, and puts back what a seizure took.
    unsafe { hot.top.word() }
}

/// The CPU layer. See the module.
#[repr(C)]
pub struct HostCpus {
    /// First hot area. The fast path reads this and the next word.
    /// Before [`HostCpus::lay_out`] it leads every thread to [`EARLY`].
    hot: AtomicPtr<u8>,
    index_at: AtomicUsize,
    cold: AtomicUsize,
    indexed: AtomicUsize,
    slots: AtomicUsize,
    /// Set when the kernel stopped serving barriers (a filter installed after the start).
    no_barrier: AtomicBool,
}

// The fields are written once by `lay_out`, before anybody else knows the value; Relaxed loads suffice ever after.
impl HostCpus {
    /// Where the address of the first hot area lies in it, in bytes.
    #[cfg(target_arch = "x86_64")]
    pub(super) const HOT_AT: usize = offset_of!(Self, hot);
    /// Where the offset of the field that numbers CPUs lies in it.
    #[cfg(target_arch = "x86_64")]
    pub(super) const INDEX_AT: usize = offset_of!(Self, index_at);

    pub(super) const fn new() -> Self {
        Self {
            hot: AtomicPtr::new((&raw const EARLY).cast_mut().cast::<u8>().wrapping_sub(NO_CPU)),
            // Any field that is negative in the area of a thread nobody looked at.
            index_at: AtomicUsize::new(4),
            cold: AtomicUsize::new(0),
            indexed: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
            no_barrier: AtomicBool::new(false),
        }
    }

    /// Decides how this process owns CPUs, if that is not decided yet. Changes nothing here.
    pub(super) fn decide(portable: bool) -> Layout {
        Layout::get(portable)
    }

    /// Takes the memory of the hot and cold areas into use. Other threads may try operations
    /// meanwhile: they find every stack empty and full until it is done.
    ///
    /// # Safety
    /// Called once, with the decided layout. At `hot` lie zeroed hot areas for all its CPUs, and one more
    /// [`NO_CPU`] further on; at `cold` zeroed cold areas. They stay for ever.
    pub(super) unsafe fn lay_out(&self, layout: Layout, hot: usize, cold: usize) {
        for offset in (0..layout.cpus()).map(|cpu| cpu * HOT_STRIDE).chain([NO_CPU]) {
            for id in 0..READY {
                // SAFETY: the caller's promise.
                Self::clear(unsafe { Self::word(hot + offset, id) });
            }
        }
        self.cold.store(cold, Ordering::Relaxed);
        self.indexed.store(layout.indexed, Ordering::Relaxed);
        self.index_at.store(layout.index_at, Ordering::Relaxed);
        // Release pairs with the address dependency of the fast path, which reads what was cleared above.
        self.hot.store(hot as *mut u8, Ordering::Release);
        // Release pairs with the Acquire in `owner`: until it sees slots, nobody owns a CPU.
        self.slots.store(layout.slots, Ordering::Release);
    }

    /// Number of CPUs, slots included.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.indexed.load(Ordering::Relaxed) + self.slots.load(Ordering::Relaxed)
    }

    /// How threads own CPUs in this process.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        if self.indexed.load(Ordering::Relaxed) > 0 { Ownership::Rseq } else { Ownership::Portable }
    }

    /// CPUs that restartable sequences index; the numbers from here on are slots.
    #[must_use]
    pub fn indexed(&self) -> usize {
        self.indexed.load(Ordering::Relaxed)
    }

    /// Whether CPUs are numbered by the process's own concurrency numbers instead of the machine's.
    #[must_use]
    pub fn by_concurrency(&self) -> bool {
        self.index_at.load(Ordering::Relaxed) == 24
    }

    fn clear(hot: &Hot) {
        // Release: whoever learns the number from its cache sees the word (the cache's own publication
        // orders this too; here it costs nothing).
        hot.allocs.store(0, Ordering::Relaxed);
        word_of(hot).store(empty(), Ordering::Release);
    }

    /// Takes a number out of use: all its words are as new, its cold memory is zero.
    ///
    /// # Safety
    /// The cache is dead: its stacks were seized, no operation with the number is in flight or comes
    /// before the next [`CpuArea::publish`].
    pub unsafe fn retire(&self, id: StackId) {
        self.publish(id);
        for cpu in 0..self.count() {
            let cold = self.cold(cpu, id).cast::<u64>();
            for word in 0..COLD_SIZE / 8 {
                // SAFETY: inside this pair's cold memory, which nobody uses. Looking first keeps
                // pages that were never touched from coming to life.
                unsafe {
                    if cold.add(word).read() != 0 {
                        cold.add(word).write(0);
                    }
                }
            }
        }
    }

    /// The CPU that the calling thread's operations work on.
    pub(super) fn current(&self) -> usize {
        match self.settled() {
            #[cfg(target_arch = "x86_64")]
            Owner::Cpu { .. } => {
                // SAFETY: this thread's registered area.
                let index = unsafe { rseq::field(rseq::area(), self.index_at.load(Ordering::Relaxed)) };
                (index.max(0) as usize).min(self.indexed.load(Ordering::Relaxed) - 1)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Owner::Cpu { .. } => 0,
            Owner::Nobody | Owner::Expected => 0,
            Owner::Slot(slot) => self.indexed.load(Ordering::Relaxed) + slot,
        }
    }

    /// The node in the thread's area, if the kernel keeps it there.
    pub(super) fn node_by_area(&self) -> Option<usize> {
        #[cfg(target_arch = "x86_64")]
        if self.by_concurrency() && matches!(self.settled(), Owner::Cpu { .. }) {
            // SAFETY: this thread's registered area; a kernel with concurrency numbers fills in nodes too.
            return usize::try_from(unsafe { rseq::field(rseq::area(), rseq::NODE_ID) }).ok();
        }
        None
    }

    /// [`HostCpus::owner`] for who asks for no operation that could fail: the second answer is that of the first without the failure.
    fn settled(&self) -> Owner {
        match self.owner(false) {
            Owner::Expected => self.owner(false),
            owner => owner,
        }
    }

    /// Finds out how the calling thread owns a CPU, and leaves the answer in its word. `request`: for one object.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn owner(&self, request: bool) -> Owner {
        // Acquire pairs with the Release at the end of `lay_out`.
        let slots = self.slots.load(Ordering::Acquire);
        if slots == 0 {
            return Owner::Nobody;
        }
        let area = rseq::area();
        let slot = slots::of_area(area);
        // SAFETY: the word points at an area of this thread, or a static one with a negative number.
        if unsafe { rseq::field(area, rseq::CPU_ID) } >= 0 {
            return Owner::Cpu { fresh: false };
        }
        if self.indexed.load(Ordering::Relaxed) > 0
            && let Some(registered) = rseq::registered_area()
        {
            // SAFETY: the C library keeps the area as long as the thread.
            unsafe { rseq::set_area(registered) };
            return Self::unless_expected(Owner::Cpu { fresh: true }, request);
        }
        if let Some(slot) = slot {
            return Owner::Slot(slot);
        }
        let area = slots::deal(slots);
        // SAFETY: a slot's area is static and has no CPU (I-RSEQ-3).
        unsafe { rseq::set_area(area) };
        Self::unless_expected(Owner::Slot(slots::of_area(area).unwrap_or(0)), request)
    }

    /// The answer to a thread that did not know. It forgets it again where the guard wants a request that this operation is not; but an
    /// operation on a CPU needs to know, and does so itself.
    #[cfg(target_arch = "x86_64")]
    #[cold]
    #[inline(never)]
    fn unless_expected(owner: Owner, request: bool) -> Owner {
        timer::see_to_thread();
        let wanted = (request || matches!(owner, Owner::Slot(_))) && is_wanted();
        if is_expected() || (request && wanted) { Owner::Expected } else { owner }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn owner(&self, request: bool) -> Owner {
        // Acquire as above.
        match self.slots.load(Ordering::Acquire) {
            0 => Owner::Nobody,
            _ if is_expected() || (request && is_wanted()) => Owner::Expected,
            slots => {
                timer::see_to_thread();
                Owner::Slot(slots::of_token(super::misc::thread_token(), slots))
            }
        }
    }

    /// The stack word of a slot.
    #[inline]
    fn slot_hot(&self, slot: usize, id: StackId) -> &Hot {
        self.hot(self.indexed.load(Ordering::Relaxed) + slot, id)
    }

    #[inline]
    fn hot_at(&self, offset: usize, id: StackId) -> &Hot {
        // SAFETY: `lay_out` was given areas for every CPU and for none.
        unsafe { Self::word(self.hot.load(Ordering::Relaxed) as usize + offset, id) }
    }

    /// The stack word of `id` in the hot area at `area`.
    ///
    /// # Safety
    /// A hot area of a full stride lies there, for ever.
    #[inline]
    unsafe fn word<'a>(area: usize, id: StackId) -> &'a Hot {
        // SAFETY: inside the area, by the type of `id` and the stride; all of `Hot` is atomic.
        unsafe { &*((area + id as usize * size_of::<Hot>()) as *const Hot) }
    }

    /// In the child of a fork, before anything else there.
    pub(super) fn after_fork_child(&self) {
        slots::forget_owners();
        if self.indexed.load(Ordering::Relaxed) > 0 {
            // Registrations belong to the address space, and the child's is new.
            self.no_barrier.store(!register_barrier(), Ordering::Relaxed);
        }
    }

    /// Makes every piece in flight restart. False when the kernel would not help at all.
    fn restart_all(&self) -> bool {
        if !self.no_barrier.load(Ordering::Relaxed) {
            if sys::membarrier(BARRIER).is_ok() {
                return true;
            }
            self.no_barrier.store(true, Ordering::Relaxed);
        }
        visit_all(self.indexed.load(Ordering::Relaxed))
    }

    /// See [`CpuArea::seize`], for a CPU of restartable sequences.
    fn seize_indexed(&self, hot: &Hot) -> *mut *mut u8 {
        // AcqRel: Acquire pairs with the Release that installed the array. The stores of pieces are
        // ordered by the barrier, not by this.
        let mut taken = word_of(hot).swap(empty(), Ordering::AcqRel);
        if taken == empty() {
            // Nothing was installed, so no piece can be working on an array.
            return taken;
        }
        loop {
            if !self.restart_all() {
                // Leave things as they are. If the word changed, a piece committed, and its value is right.
                let _ = word_of(hot).compare_exchange(empty(), taken, Ordering::AcqRel, Ordering::Relaxed);
                return empty();
            }
            let seen = word_of(hot).swap(empty(), Ordering::AcqRel);
            if seen == empty() {
                return taken;
            }
            // A piece committed between the exchange and the barrier, and others may have followed it.
            taken = seen;
        }
    }

    /// Where the stack words of a number lie in each hot area, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn place(id: StackId) -> usize {
        id as usize * size_of::<Hot>()
    }

    /// The fast half of [`CpuArea::pop`]: null also when the thread owns no CPU by restartable sequences, or the layer is
    /// not laid out. [`HostCpus::pop_cold`] is the other half.
    ///
    /// # Safety
    /// As [`CpuArea::pop`], for the number of that [`HostCpus::place`].
    #[inline(always)]
    pub unsafe fn try_pop(&self, place: usize) -> *mut u8 {
        #[cfg(target_arch = "x86_64")]
        {
            let slot = self.hot.load(Ordering::Relaxed) as usize + place;
            // SAFETY: the words of the number are ready on every CPU (I-HOST-1).
            unsafe { rseq::pop(slot, self.index_at.load(Ordering::Relaxed)) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = place;
            core::ptr::null_mut()
        }
    }

    /// The fast half of [`CpuArea::push`]: full also where [`HostCpus::try_pop`] would be empty.
    /// [`HostCpus::push_cold`] is the other half.
    ///
    /// # Safety
    /// As [`CpuArea::push`], for the number of that [`HostCpus::place`].
    #[inline(always)]
    pub unsafe fn try_push(&self, place: usize, object: *mut u8) -> Pushed {
        #[cfg(target_arch = "x86_64")]
        {
            let slot = self.hot.load(Ordering::Relaxed) as usize + place;
            // SAFETY: the words of the number are ready on every CPU (I-HOST-1).
            unsafe { rseq::push(slot, self.index_at.load(Ordering::Relaxed), object) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (place, object);
            Pushed::Full
        }
    }

    /// The slow half of [`CpuArea::pop`]: finds out how the thread owns a CPU, and asks the slots.
    ///
    /// # Safety
    /// As [`CpuArea::pop`].
    #[cold]
    #[inline(never)]
    pub unsafe fn pop_cold(&self, id: StackId) -> *mut u8 {
        if self.cold.load(Ordering::Relaxed) == 0 {
            // Before the platform is initialised: nothing is decided about the thread yet.
            return core::ptr::null_mut();
        }
        match self.owner(true) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Owner::Cpu { fresh: true } => unsafe {
                rseq::pop(self.hot_at(0, id) as *const Hot as usize, self.index_at.load(Ordering::Relaxed))
            },
            Owner::Cpu { .. } | Owner::Nobody | Owner::Expected => core::ptr::null_mut(),
            Owner::Slot(slot) => {
                let hot = self.slot_hot(slot, id);
                slots::with(slot, || {
                    // The slot's lock orders all (I-SLOT-1) but `install`, which takes none: Acquire pairs with it.
                    let top = hot.top.load(Ordering::Acquire);
                    // SAFETY: I-CPU-3: a readable word lies below `top`.
                    let object = unsafe { top.sub(1).read() };
                    if is_nothing(object) {
                        return core::ptr::null_mut();
                    }
                    word_of(hot).store(top.wrapping_sub(1), Ordering::Relaxed);
                    let count = hot.allocs.load(Ordering::Relaxed);
                    hot.allocs.store(count + 1, Ordering::Relaxed);
                    object
                })
                .unwrap_or(core::ptr::null_mut())
            }
        }
    }

    /// The slow half of [`CpuArea::push`].
    ///
    /// # Safety
    /// As [`CpuArea::push`].
    #[cold]
    #[inline(never)]
    pub unsafe fn push_cold(&self, id: StackId, object: *mut u8) -> Pushed {
        match self.owner(false) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Owner::Cpu { fresh: true } => unsafe { self.push_fresh(id, object) },
            Owner::Cpu { .. } | Owner::Nobody | Owner::Expected => Pushed::Full,
            Owner::Slot(slot) => {
                let hot = self.slot_hot(slot, id);
                slots::with(slot, || {
                    // Acquire pairs with `install`; else the lock orders all.
                    let top = hot.top.load(Ordering::Acquire);
                    // SAFETY: I-CPU-3: readable words lie at and below `top`; where FULL is not, there
                    // is room (I-CPU-1).
                    unsafe {
                        if top.sub(1).read() == object {
                            return Pushed::Double;
                        }
                        if top.read() == FULL {
                            return Pushed::Full;
                        }
                        top.write(object);
                    }
                    // Release: a signal handler or a forked child sees the entry before the new top.
                    word_of(hot).store(top.wrapping_add(1), Ordering::Release);
                    Pushed::Done
                })
                .unwrap_or(Pushed::Full)
            }
        }
    }

    /// [`CpuArea::push`] by a thread that did not know its CPU. It is no request: if the guard wants one the thread forgets it again.
    ///
    /// # Safety
    /// As [`CpuArea::push`]; the thread has a registered area.
    #[cfg(target_arch = "x86_64")]
    #[cold]
    #[inline(never)]
    unsafe fn push_fresh(&self, id: StackId, object: *mut u8) -> Pushed {
        let slot = self.hot_at(0, id) as *const Hot as usize;
        // SAFETY: the caller's promise.
        let pushed = unsafe { rseq::push(slot, self.index_at.load(Ordering::Relaxed), object) };
        is_wanted();
        pushed
    }

    #[cold]
    #[inline(never)]
    unsafe fn pop_many_cold(&self, id: StackId, out: &mut [*mut u8]) -> usize {
        match self.owner(false) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise, and a buffer of the length given.
            Owner::Cpu { fresh: true } => unsafe {
                let hot = self.hot_at(0, id) as *const Hot as usize;
                rseq::pop_many(hot, self.index_at.load(Ordering::Relaxed), out.as_mut_ptr(), out.len())
            },
            Owner::Cpu { .. } | Owner::Nobody | Owner::Expected => 0,
            Owner::Slot(slot) => {
                let hot = self.slot_hot(slot, id);
                slots::with(slot, || {
                    // Acquire pairs with `install`; else the lock orders all.
                    let mut top = hot.top.load(Ordering::Acquire);
                    let mut count = 0;
                    for place in out {
                        // SAFETY: I-CPU-3: a readable word lies below `top`.
                        let object = unsafe { top.sub(1).read() };
                        if is_nothing(object) {
                            break;
                        }
                        *place = object;
                        top = top.wrapping_sub(1);
                        count += 1;
                    }
                    if count > 0 {
                        word_of(hot).store(top, Ordering::Relaxed);
                    }
                    count
                })
                .unwrap_or(0)
            }
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn push_many_cold(&self, id: StackId, objects: &[*mut u8]) -> usize {
        match self.owner(false) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise, and an array of the length given.
            Owner::Cpu { fresh: true } => unsafe {
                let hot = self.hot_at(0, id) as *const Hot as usize;
                rseq::push_many(hot, self.index_at.load(Ordering::Relaxed), objects.as_ptr(), objects.len())
            },
            Owner::Cpu { .. } | Owner::Nobody | Owner::Expected => 0,
            Owner::Slot(slot) => {
                let hot = self.slot_hot(slot, id);
                slots::with(slot, || {
                    // Acquire pairs with `install`; else the lock orders all.
                    let mut top = hot.top.load(Ordering::Acquire);
                    let mut count = 0;
                    for &object in objects {
                        // SAFETY: I-CPU-3: a readable word lies at `top`; where FULL is not, there is room.
                        unsafe {
                            if top.read() == FULL {
                                break;
                            }
                            top.write(object);
                        }
                        top = top.wrapping_add(1);
                        count += 1;
                    }
                    if count > 0 {
                        // Release: entries before the new top, as in `push_cold`.
                        word_of(hot).store(top, Ordering::Release);
                    }
                    count
                })
                .unwrap_or(0)
            }
        }
    }
}

// SAFETY: I-CPU-1, I-CPU-2: pieces of restartable sequences and owners of slots work on disjoint
// sets of CPUs, each exclusive on its own, and both commit by one store. Words are `empty` at first
// (`publish`), cold memory comes zeroed from the system, and both stay where they are.
unsafe impl CpuArea for HostCpus {
    #[inline]
    fn hot(&self, cpu: usize, id: StackId) -> &Hot {
        debug_assert!(cpu < self.count());
        self.hot_at(cpu * HOT_STRIDE, id)
    }

    #[inline]
    fn cold(&self, cpu: usize, id: StackId) -> *mut u8 {
        debug_assert!(cpu < self.count());
        (self.cold.load(Ordering::Relaxed) + cpu * COLD_STRIDE + id as usize * COLD_SIZE) as *mut u8
    }

    fn publish(&self, id: StackId) {
        for cpu in 0..self.count() {
            Self::clear(self.hot(cpu, id));
        }
        Self::clear(self.hot_at(NO_CPU, id));
    }

    #[inline(always)]
    unsafe fn pop(&self, id: StackId) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            let object = self.try_pop(Self::place(id));
            if object.is_null() { self.pop_cold(id) } else { object }
        }
    }

    #[inline(always)]
    unsafe fn push(&self, id: StackId, object: *mut u8) -> Pushed {
        // SAFETY: the caller's promise.
        unsafe {
            match self.try_push(Self::place(id), object) {
                Pushed::Full => self.push_cold(id, object),
                pushed => pushed,
            }
        }
    }

    unsafe fn pop_many(&self, id: StackId, out: &mut [*mut u8]) -> usize {
        #[cfg(target_arch = "x86_64")]
        {
            let slot = self.hot.load(Ordering::Relaxed) as usize + id as usize * size_of::<Hot>();
            let index_at = self.index_at.load(Ordering::Relaxed);
            // SAFETY: the words of `id` are ready on every CPU (I-HOST-1); a buffer of the length given.
            let count = unsafe { rseq::pop_many(slot, index_at, out.as_mut_ptr(), out.len()) };
            if count > 0 {
                return count;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.pop_many_cold(id, out) }
    }

    unsafe fn push_many(&self, id: StackId, objects: &[*mut u8]) -> usize {
        #[cfg(target_arch = "x86_64")]
        {
            let slot = self.hot.load(Ordering::Relaxed) as usize + id as usize * size_of::<Hot>();
            let index_at = self.index_at.load(Ordering::Relaxed);
            // SAFETY: the words of `id` are ready on every CPU (I-HOST-1); an array of the length given.
            let count = unsafe { rseq::push_many(slot, index_at, objects.as_ptr(), objects.len()) };
            if count > 0 {
                return count;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.push_many_cold(id, objects) }
    }

    unsafe fn seize(&self, cpu: usize, id: StackId) -> *mut *mut u8 {
        let hot = self.hot(cpu, id);
        let indexed = self.indexed.load(Ordering::Relaxed);
        if cpu < indexed {
            return self.seize_indexed(hot);
        }
        // Under the slot's lock nothing is in flight. Inside a signal handler that interrupted the slot's
        // owner something is: leave the stack alone.
        slots::with(cpu - indexed, || word_of(hot).swap(empty(), Ordering::AcqRel)).unwrap_or(empty())
    }
}
