//! The Linux host: what the kernel below a process gives to a heap.
//!
//! | file | decides |
//! |---|---|
//! | [`window`] | which addresses the heap lives at, and how it grows |
//! | `apart` | large blocks of a hardened heap, between guard pages |
//! | [`cpu`] | how a thread owns a CPU; the two ways below are its means |
//! | `ownership` | which ways to own a CPU this process has |
//! | `rseq` | restartable sequences: the kernel restarts who was interrupted |
//! | `slots` | pretended CPUs behind locks, for threads that have no restartable sequences |
//! | `topology` | how many CPUs and nodes there can be |
//! | [`misc`] | who runs, what time it is, what cannot be guessed, the environment |
//! | [`trace`] | who called |
//! | `unwind` | walking stacks by rules that are kept |
//! | `file` | files that are written |
//! | `memory`, `threads` | what the process can ask about its own memory; stopping its other threads |
//! | [`sink`] | where messages go |
//! | `names` | what code is called, and its lines |
//! | [`fault`] | accesses to protected pages, and who else wants to see faults |
//! | [`wake`], `locks` | a signal of somebody who wants something; whether its handler may use the heap |
//! | `expected`, [`timer`] | how a handler has a thread come by a slow path; a signal after CPU time, where nobody does |
//! | `word` | words of a thread's own |
//! | `sys`, `weak` | system calls that leave `errno` alone; symbols of the C library that may be missing |
//!
//! # Contract
//! A [`Host`] is a constant until [`Host::init`] is called once, before anything else. It needs no
//! constructor, no thread-local destructor, no `std`, and never calls `malloc`: it is what `malloc`
//! stands on. No function changes `errno`.
//!
//! # Forks
//! The process calls [`Host::prefork`] before a fork and one of the `postfork` functions after it.
//! The CPU stacks need no preparation: each operation on them commits by one store, so the child's copy
//! is sound whatever the other threads were doing.
//!
//! A child of `vfork` runs on its parent's thread area while the kernel does not know it: it must not
//! allocate, as POSIX says.

mod apart;
pub mod cpu;
pub(crate) mod expected;
pub mod fault;
pub(crate) mod file;
mod locks;
pub(crate) mod memory;
pub mod misc;
pub(crate) mod names;
mod ownership;
#[cfg(target_arch = "x86_64")]
pub(crate) mod rseq;
pub mod sink;
mod slots;
mod sys;
pub(crate) mod threads;
pub mod timer;
mod topology;
pub mod trace;
mod unwind;
pub mod wake;
mod weak;
pub mod window;
#[cfg(target_arch = "x86_64")]
mod word;

#[cfg(target_arch = "x86_64")]
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kmem_core::engine::watch::GRAIN;
use kmem_core::page::ZoneKind;
use kmem_core::percpu::{COLD_STRIDE, HOT_STRIDE};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange, Platform, Window};
use kmem_core::sync::Lock;

pub use cpu::HostCpus;
pub use ownership::Ownership;
pub use sys::Errno;
pub use window::{BLOCK_SIZE, HugePages, Span, TAGS_BELOW};

use apart::Held;
use window::{Growth, MAX_PAGES, MAX_WATCHED_PAGES, STATES_BELOW, WINDOW_RANK};

/// Where the words of the fast paths lie, in bytes from the start of what holds them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// The first CPU's hot area.
    pub(crate) hot: usize,
    /// The field of a thread's area that numbers its CPU.
    pub(crate) index_at: usize,
    /// The window's first address.
    pub(crate) base: usize,
    /// Bytes of the window that was ever grown.
    pub(crate) end: usize,
}

#[cfg(target_arch = "x86_64")]
impl Words {
    /// In a host.
    pub(crate) const AT: Self = Self {
        hot: offset_of!(Host, cpus) + HostCpus::HOT_AT,
        index_at: offset_of!(Host, cpus) + HostCpus::INDEX_AT,
        base: offset_of!(Host, span) + Span::BASE_AT,
        end: offset_of!(Host, span) + Span::END_AT,
    };

    /// In what has a host so many bytes from its start.
    pub(crate) const fn behind(self, at: usize) -> Self {
        Self { hot: at + self.hot, index_at: at + self.index_at, base: at + self.base, end: at + self.end }
    }
}

/// What a heap may choose about its host.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pages of the window; rounded down to blocks. At most, and by default, 2^28: 1 TiB.
    pub window_pages: usize,
    /// Never use restartable sequences. The first heap of a process decides for all.
    pub portable: bool,
    /// Huge pages.
    pub huge: HugePages,
    /// For a watched heap (`Config::WATCHED`): with states of objects, in a window of at most 2^26 pages.
    pub guarded: bool,
}

impl Options {
    /// The choices that suit nearly everybody.
    pub const DEFAULT: Self = Self {
        window_pages: MAX_PAGES,
        portable: false,
        huge: HugePages::Grown,
        guarded: cfg!(feature = "hardened"),
    };

    /// [`Options::DEFAULT`], changed by the environment: `KMEM_RSEQ=0` forbids restartable sequences. The environment of a
    /// set-user-ID program means nothing.
    ///
    /// # Safety
    /// As for [`misc::getenv`].
    #[must_use]
    pub unsafe fn from_env() -> Self {
        // SAFETY: the caller's promise.
        let portable = !misc::secure_exec() && unsafe { misc::getenv("KMEM_RSEQ") } == Some(b"0");
        Self { portable, ..Self::DEFAULT }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The Linux process as a [`Platform`].
// The words of the fast paths first: one cache line.
#[repr(C, align(64))]
pub struct Host {
    cpus: HostCpus,
    span: Span,
    nodes: AtomicUsize,
    cpu_count: AtomicUsize,
    window_pages: AtomicUsize,
    zone_ends: [AtomicUsize; 2],
    guarded: AtomicBool,
    system_page: AtomicUsize,
    /// The system refused [`Platform::back`] as such.
    cannot_back: AtomicBool,
    /// The system refused to move pages from one mapping to another.
    cannot_move: AtomicBool,
    /// Growth is worth huge pages, and it is this host that asks for them.
    backs_whole: AtomicBool,
    /// Large blocks that grow may have huge pages.
    huge_blocks: AtomicBool,
    entropy: misc::Entropy,
    growth: Lock<Growth, WINDOW_RANK>,
    held: Held,
    apart_secret: AtomicU64,
}

// Fields beside the locked ones are written once in `init`; Relaxed loads see them, because whoever
// calls got the host from a thread that saw `init` return.
impl Host {
    /// A host that knows nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cpus: HostCpus::new(),
            span: Span::new(),
            nodes: AtomicUsize::new(1),
            cpu_count: AtomicUsize::new(1),
            window_pages: AtomicUsize::new(0),
            zone_ends: [AtomicUsize::new(0), AtomicUsize::new(0)],
            guarded: AtomicBool::new(false),
            system_page: AtomicUsize::new(PAGE_SIZE),
            cannot_back: AtomicBool::new(false),
            cannot_move: AtomicBool::new(false),
            backs_whole: AtomicBool::new(false),
            huge_blocks: AtomicBool::new(false),
            entropy: misc::Entropy::new(),
            growth: Lock::new(Growth::new()),
            held: Held::new(),
            apart_secret: AtomicU64::new(0),
        }
    }

    /// Looks at the machine, chooses the window, and makes the CPU layer ready.
    ///
    /// # Errors
    /// The kernel's, when not even the areas of the CPU layer can be mapped. The host is then as before.
    ///
    /// # Safety
    /// Called before any other function, by one thread, once (again only after an error). The host
    /// never moves and is never dropped afterwards.
    pub unsafe fn init(&self, options: &Options) -> Result<(), Errno> {
        self.entropy.seed();
        self.system_page.store(misc::auxiliary(libc::AT_PAGESZ).max(PAGE_SIZE), Ordering::Relaxed);
        let layout = HostCpus::decide(options.portable);
        let cpus = layout.cpus();
        let most = if options.guarded { MAX_WATCHED_PAGES } else { MAX_PAGES };
        let pages = (options.window_pages.min(most) & !(BLOCK_PAGES - 1)).max(BLOCK_PAGES);
        let chosen = window::choose(
            || self.entropy.next(),
            pages,
            cpus * HOT_STRIDE,
            cpu::NO_CPU,
            cpus * COLD_STRIDE,
        )?;
        let window = chosen.window;
        // The kernel's limits on a full window, in proportion on a small one.
        let part =
            |bytes: usize, share: usize| (bytes >> PAGE_SHIFT).min(window.pages / share) & !(BLOCK_PAGES - 1);
        let ends = [part(16 << 20, 16), part(4 << 30, 4)];
        let nodes = topology::online_nodes();
        self.growth.lock(self).start(window, ends, options, nodes > 1);
        self.guarded.store(options.guarded, Ordering::Relaxed);
        self.backs_whole.store(options.huge == HugePages::Grown, Ordering::Relaxed);
        self.huge_blocks.store(options.huge == HugePages::Grown, Ordering::Relaxed);
        self.nodes.store(nodes, Ordering::Relaxed);
        self.cpu_count.store(cpus, Ordering::Relaxed);
        self.window_pages.store(window.pages, Ordering::Relaxed);
        for (end, value) in self.zone_ends.iter().zip(ends) {
            end.store(value, Ordering::Relaxed);
        }
        // SAFETY: mapped above, zero, for as many CPUs as were decided; never unmapped.
        unsafe { self.cpus.lay_out(layout, chosen.hot, chosen.cold) };
        self.apart_secret.store(self.entropy.next(), Ordering::Relaxed);
        self.span.start(window.base);
        Ok(())
    }

    /// Base, grown end and tags of the window, for the fast path of `free`.
    #[inline(always)]
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The CPU layer with its own functions.
    #[inline(always)]
    #[must_use]
    pub fn cpus_layer(&self) -> &HostCpus {
        &self.cpus
    }

    /// Pages of the window that are mapped now.
    #[must_use]
    pub fn mapped_pages(&self) -> usize {
        self.growth.lock(self).mapped()
    }

    /// Before a fork: holds the window still. After all locks of the core were taken.
    pub fn prefork(&self) {
        self.growth.lock_for_fork(self);
        self.held.lock_for_fork(self);
    }

    /// After a fork in the parent.
    ///
    /// # Safety
    /// This thread called [`Host::prefork`], and nothing came between but the fork.
    pub unsafe fn postfork_parent(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.held.unlock_after_fork(self);
            self.growth.unlock_after_fork(self);
        }
    }

    /// After a fork in the child, before any other function of the host.
    ///
    /// # Safety
    /// As for [`Host::postfork_parent`].
    pub unsafe fn postfork_child(&self) {
        self.after_fork_child();
        // SAFETY: the caller's promise; the child's thread is the one that forked, with the same token.
        unsafe { self.postfork_parent() };
    }

    /// Renews what the kernel forgets at a fork, and the state that belonged to threads that are not here.
    /// Part of [`Host::postfork_child`]; on its own for a child that took no locks.
    pub fn after_fork_child(&self) {
        self.cpus.after_fork_child();
        self.entropy.seed();
        misc::renew_thread_id();
        names::after_fork_child();
        unwind::after_fork_child();
        fault::after_fork_child();
        timer::after_fork_child();
    }

    /// Gives back whole pages of the states of free memory: they are all zero.
    fn discard_states(&self, range: PageRange) {
        let (page, per_page) = (self.system_page(), PAGE_SIZE / GRAIN);
        let states = self.span.base() - STATES_BELOW;
        let first = (states + range.first * per_page).next_multiple_of(page);
        let end = (states + (range.first + range.count) * per_page) & !(page - 1);
        if end > first {
            // SAFETY: the owner of the memory has no object in use there, and nobody else has any (I-GUARD-1).
            let _ = unsafe { sys::advise(first, end - first, libc::MADV_DONTNEED) };
        }
    }

    /// Has pages of mapped memory made by one call; their content stays. False: not all of them are there.
    fn fault_in(&self, address: usize, len: usize) -> bool {
        // Relaxed: whether to try at all.
        if self.cannot_back.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: changes no content: pages of a live mapping are faulted in.
        match unsafe { sys::advise(address, len, libc::MADV_POPULATE_WRITE) } {
            Ok(()) => true,
            Err(why) => {
                // Before Linux 5.14 there is no such advice. Without memory each page fails, or not, when it is written to.
                if why == Errno(libc::EINVAL) {
                    self.cannot_back.store(true, Ordering::Relaxed);
                }
                false
            }
        }
    }

    fn system_page(&self) -> usize {
        self.system_page.load(Ordering::Relaxed)
    }

    fn apart_secret(&self) -> u64 {
        self.apart_secret.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        self.entropy.next()
    }

    fn in_window(&self, address: usize, len: usize) -> bool {
        let base = self.span.base();
        let bytes = self.window_pages.load(Ordering::Relaxed) << PAGE_SHIFT;
        address < base + bytes && address + len > base
    }

    fn round_up(&self, len: usize) -> Option<usize> {
        let page = self.system_page.load(Ordering::Relaxed);
        len.checked_add(page - 1).map(|n| n & !(page - 1))
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the window is fixed by `init`; ranges come from fresh anonymous mappings with their
// descriptors (I-WIN-1), or from released ones whose records were cleared; `discard` is
// MADV_DONTNEED on private anonymous memory; CPU and node counts are fixed by `init` and the numbers below them.
unsafe impl Platform for Host {
    type Cpu = HostCpus;

    /// Memory is taken from the caller's node, but a CPU's stacks take objects of any node: checking
    /// each freed object costs every program, and few are laid out so that it pays.
    const NUMA: bool = false;

    const CUTS: bool = true;
    const BACKS: bool = true;

    #[inline(always)]
    fn cpu_area(&self) -> &HostCpus {
        &self.cpus
    }

    #[inline]
    fn window(&self) -> Window {
        let base = self.span.base();
        Window {
            base,
            pages: self.window_pages.load(Ordering::Relaxed),
            descs: window::descs(base),
            tags: self.span.tags(),
        }
    }

    fn states(&self) -> *mut AtomicU8 {
        if !self.guarded.load(Ordering::Relaxed) {
            return core::ptr::null_mut();
        }
        self.span.base().wrapping_sub(STATES_BELOW) as *mut AtomicU8
    }

    #[inline(always)]
    fn alone(&self) -> bool {
        misc::alone()
    }

    fn cpus(&self) -> usize {
        self.cpu_count.load(Ordering::Relaxed)
    }

    fn current_cpu(&self) -> usize {
        self.cpus.current()
    }

    fn nodes(&self) -> usize {
        self.nodes.load(Ordering::Relaxed)
    }

    fn current_node(&self) -> usize {
        let nodes = self.nodes();
        if nodes == 1 {
            return 0;
        }
        let node = self
            .cpus
            .node_by_area()
            .or_else(|| sys::cpu_and_node().ok().map(|(_, node)| node as usize))
            .unwrap_or(0);
        node % nodes
    }

    fn zone_ends(&self) -> [usize; 2] {
        [self.zone_ends[0].load(Ordering::Relaxed), self.zone_ends[1].load(Ordering::Relaxed)]
    }

    fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange> {
        let grow = || self.growth.lock(self).grow(&self.span, node, zone, pages);
        // Addresses that wait count for limits.
        grow().or_else(|| if self.drop_held() { grow() } else { None })
    }

    unsafe fn discard(&self, range: PageRange) -> bool {
        let address = self.span.base() + (range.first << PAGE_SHIFT);
        let len = range.count << PAGE_SHIFT;
        // With larger system pages the kernel would round up and take the neighbours' bytes along.
        if (address | len) & (self.system_page.load(Ordering::Relaxed) - 1) != 0 {
            return false;
        }
        // SAFETY: the caller owns the pages. Locked memory refuses.
        let done = unsafe { sys::advise(address, len, libc::MADV_DONTNEED) }.is_ok();
        if done && self.guarded.load(Ordering::Relaxed) {
            self.discard_states(range);
        }
        done
    }

    fn back(&self, range: PageRange) -> bool {
        let (address, len) = (self.span.base() + (range.first << PAGE_SHIFT), range.count << PAGE_SHIFT);
        if (address | len) & (self.system_page.load(Ordering::Relaxed) - 1) != 0 {
            return false;
        }
        self.fault_in(address, len)
    }

    fn back_whole(&self, range: PageRange) -> bool {
        // Relaxed: chosen in `init`.
        if !self.backs_whole.load(Ordering::Relaxed) {
            return false;
        }
        let (address, len) = (self.span.base() + (range.first << PAGE_SHIFT), range.count << PAGE_SHIFT);
        // SAFETY: changes no content. Where there are no huge pages, or none for this process, small ones come.
        let asked = unsafe { sys::advise(address, len, libc::MADV_HUGEPAGE) }.is_ok();
        let backed = asked && self.back(range);
        if asked {
            // What is given back piece by piece later must not be filled up again by the system.
            // SAFETY: changes no content.
            let _ = unsafe { sys::advise(address, len, libc::MADV_NOHUGEPAGE) };
        }
        // Relaxed: chosen in `init`.
        if backed && self.guarded.load(Ordering::Relaxed) {
            let per_page = PAGE_SIZE / GRAIN;
            let states = self.span.base() - STATES_BELOW + range.first * per_page;
            self.fault_in(states, range.count * per_page);
        }
        backed
    }

    fn wall(&self, range: PageRange) -> bool {
        let (address, len) = (self.span.base() + (range.first << PAGE_SHIFT), range.count << PAGE_SHIFT);
        // SAFETY: the core owns the pages and gives them to nobody.
        unsafe { sys::protect(address, len, false) }.is_ok()
    }

    fn unwall(&self, range: PageRange) -> bool {
        let (address, len) = (self.span.base() + (range.first << PAGE_SHIFT), range.count << PAGE_SHIFT);
        // SAFETY: as in `wall`. The system may refuse where it would have to split too many mappings.
        unsafe { sys::protect(address, len, true) }.is_ok()
    }

    unsafe fn release(&self, range: PageRange) {
        // SAFETY: the caller's promise.
        unsafe { self.growth.lock(self).release(range) }
    }

    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        let len = self.round_up(len)?;
        if len == 0 || len > isize::MAX as usize {
            return None;
        }
        let spare = if align <= self.system_page.load(Ordering::Relaxed) { 0 } else { align };
        let got = sys::map(sys::Place::Any, len.checked_add(spare)?, true).ok()?;
        let start = if spare == 0 { got } else { got.next_multiple_of(align) };
        // SAFETY: the parts before and behind the aligned block were mapped just now, for nobody.
        unsafe {
            if start > got {
                let _ = sys::unmap(got, start - got);
            }
            if got + spare > start {
                let _ = sys::unmap(start + len, got + spare - start);
            }
            if self.in_window(start, len) {
                // Only when addresses run out elsewhere. The core could not tell it from its own.
                let _ = sys::unmap(start, len);
                return None;
            }
        }
        NonNull::new(start as *mut u8)
    }

    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        let Some(len) = self.round_up(len) else { return };
        // SAFETY: the caller's promise. A refusal (no room to split a mapping) leaves the memory mapped,
        // so at least its pages go back.
        unsafe {
            let address = ptr.as_ptr() as usize;
            if sys::unmap(address, len).is_err() {
                let _ = sys::advise(address, len, libc::MADV_DONTNEED);
            }
        }
    }

    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
        let (old, new) = (self.round_up(old)?, self.round_up(new)?);
        if new == 0 || new > isize::MAX as usize {
            return None;
        }
        let address = ptr.as_ptr() as usize;
        // SAFETY: the caller's promise.
        let got = unsafe {
            match sys::remap(address, old, new, false) {
                Ok(same) => same,
                Err(_) if may_move => sys::remap(address, old, new, true).ok()?,
                Err(_) => return None,
            }
        };
        if self.in_window(got, new) {
            // The only addresses left in the whole process: there is no way back and no way on.
            self.message("kmem: out of address space\n");
            self.fatal();
        }
        NonNull::new(got as *mut u8)
    }

    unsafe fn protect(&self, ptr: NonNull<u8>, len: usize, allow: bool) -> bool {
        let address = ptr.as_ptr().addr();
        // With larger system pages the neighbours would be taken along.
        if (address | len) & (self.system_page.load(Ordering::Relaxed) - 1) != 0 {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe { sys::protect(address, len, allow) }.is_ok()
    }

    fn watch_faults(&self) -> bool {
        fault::install()
    }

    fn sampling(&self) {
        expected::came_by();
        timer::see_to_thread();
    }

    fn map_apart(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        self.new_apart(len, align)
    }

    unsafe fn unmap_apart(&self, ptr: NonNull<u8>, len: usize, asked: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.drop_apart(ptr, len, asked) };
    }

    unsafe fn remap_apart(
        &self,
        ptr: NonNull<u8>,
        old: usize,
        new: usize,
        asked: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.move_apart(ptr, old, new, asked) }
    }

    fn now(&self) -> u64 {
        misc::now()
    }

    fn entropy(&self) -> u64 {
        self.entropy.next()
    }

    fn console(&self, text: &str) {
        sink::write(text);
    }

    fn message(&self, text: &str) {
        sink::message(text);
    }

    fn fatal(&self) -> ! {
        misc::abort()
    }

    fn with_room<R>(&self, work: impl FnOnce() -> R) -> R {
        fault::with_room(work)
    }

    fn backtrace(&self, out: &mut [usize]) -> usize {
        trace::backtrace(out)
    }

    fn symbol(&self, address: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        names::write(address, names::Detail::Name, out)
    }

    fn frame(&self, address: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        names::write(address, names::Detail::Line, out)
    }

    fn program(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        sink::program(out)
    }

    fn thread(&self) -> u32 {
        misc::thread_id()
    }

    #[inline]
    fn lock_token(&self) -> u32 {
        misc::thread_token()
    }

    #[inline]
    fn lock_enter(&self) {
        locks::enter();
    }

    #[inline]
    fn lock_exit(&self) {
        locks::exit();
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32) {
        sys::futex_wait(word, value);
    }

    fn lock_wake(&self, word: &AtomicU32) {
        sys::futex_wake(word);
    }
}
