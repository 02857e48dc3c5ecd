//! A platform in front of another, which refuses memory when told to and keeps what the heap says.
//!
//! # Theory
//! A *request* is a call that may take memory from the world: [`Platform::grow`], [`Platform::map`], a
//! [`Platform::remap`] that grows. Each is counted, and one of them, or all from one on, can be refused. Everything else
//! passes through. So failures can be injected on every platform, and each engine meets the same ones everywhere.
//!
//! Atomics are relaxed throughout: the rules are set by the thread that then meets them.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kmem_core::page::ZoneKind;
use kmem_core::platform::{PageRange, Platform, Window};

/// Bytes kept of the last messages: those of a report with its call stack.
const KEPT: usize = 4096;
const NEVER: u64 = u64::MAX;

/// A platform that can be told to refuse memory.
pub struct Faulty<P> {
    inner: P,
    requests: AtomicU64,
    refused: AtomicU64,
    only: AtomicU64,
    from: AtomicU64,
    full: AtomicBool,
    said: AtomicU64,
    loud: AtomicBool,
    /// A ring.
    text: [AtomicU8; KEPT],
    /// Bytes that were ever written to it.
    written: AtomicUsize,
}

impl<P> Faulty<P> {
    /// A platform that refuses nothing and keeps messages to itself.
    pub const fn new(inner: P) -> Self {
        Self {
            inner,
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            only: AtomicU64::new(NEVER),
            from: AtomicU64::new(NEVER),
            full: AtomicBool::new(false),
            said: AtomicU64::new(0),
            loud: AtomicBool::new(false),
            text: [const { AtomicU8::new(0) }; KEPT],
            written: AtomicUsize::new(0),
        }
    }

    /// The platform below.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Whether the heap's messages also go to the platform's console.
    pub fn set_loud(&self, loud: bool) {
        self.loud.store(loud, Ordering::Relaxed);
    }

    /// Refuses the `n`-th request from now (1 is the next), and no other.
    pub fn fail_nth(&self, n: u64) {
        self.only.store(self.requests() + n, Ordering::Relaxed);
    }

    /// Refuses the `n`-th request from now and all that follow.
    pub fn fail_from(&self, n: u64) {
        self.from.store(self.requests() + n, Ordering::Relaxed);
    }

    /// Whether the window grows no more; mappings can still be had.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Refuses nothing any more.
    pub fn fail_none(&self) {
        self.set_full(false);
        self.only.store(NEVER, Ordering::Relaxed);
        self.from.store(NEVER, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    /// Whether the last messages contain `part`. Where two threads wrote at once, their messages may be mixed.
    pub fn said(&self, part: &str) -> bool {
        let end = self.written.load(Ordering::Relaxed);
        let len = end.min(KEPT);
        let mut text = [0; KEPT];
        for (i, byte) in text[..len].iter_mut().enumerate() {
            *byte = self.text[(end - len + i) % KEPT].load(Ordering::Relaxed);
        }
        let part = part.as_bytes();
        part.is_empty() || text[..len].windows(part.len()).any(|window| window == part)
    }

    fn refuses(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let refuse =
            number == self.only.load(Ordering::Relaxed) || number >= self.from.load(Ordering::Relaxed);
        if refuse {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        refuse
    }
}

// SAFETY: every answer is the inner platform's, which keeps the contract, or a refusal, which is allowed at any time.
unsafe impl<P: Platform> Platform for Faulty<P> {
    type Cpu = P::Cpu;

    const NUMA: bool = P::NUMA;

    fn cpu_area(&self) -> &P::Cpu {
        self.inner.cpu_area()
    }

    fn window(&self) -> Window {
        self.inner.window()
    }

    fn cpus(&self) -> usize {
        self.inner.cpus()
    }

    fn current_cpu(&self) -> usize {
        self.inner.current_cpu()
    }

    fn nodes(&self) -> usize {
        self.inner.nodes()
    }

    fn current_node(&self) -> usize {
        self.inner.current_node()
    }

    fn nearest_node(&self, node: usize, i: usize) -> usize {
        self.inner.nearest_node(node, i)
    }

    fn listed_pages(&self) -> usize {
        self.inner.listed_pages()
    }

    fn zone_ends(&self) -> [usize; 2] {
        self.inner.zone_ends()
    }

    fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange> {
        let full = self.full.load(Ordering::Relaxed);
        if self.refuses() || full { None } else { self.inner.grow(node, zone, pages) }
    }

    unsafe fn discard(&self, range: PageRange) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.inner.discard(range) }
    }

    unsafe fn release(&self, range: PageRange) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.release(range) };
    }

    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        if self.refuses() { None } else { self.inner.map(len, align) }
    }

    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.unmap(ptr, len) };
    }

    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
        if new > old && self.refuses() {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.remap(ptr, old, new, may_move) }
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }

    fn entropy(&self) -> u64 {
        self.inner.entropy()
    }

    fn console(&self, text: &str) {
        self.said.fetch_add(1, Ordering::Relaxed);
        let start = self.written.fetch_add(text.len() + 1, Ordering::Relaxed);
        for (i, byte) in text.bytes().chain([b'\n']).enumerate() {
            self.text[(start + i) % KEPT].store(byte, Ordering::Relaxed);
        }
        if self.loud.load(Ordering::Relaxed) {
            self.inner.console(text);
        }
    }

    fn fatal(&self) -> ! {
        self.inner.fatal()
    }

    fn backtrace(&self, out: &mut [usize]) -> usize {
        self.inner.backtrace(out)
    }

    fn symbol(&self, address: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        self.inner.symbol(address, out)
    }

    fn thread(&self) -> u32 {
        self.inner.thread()
    }

    fn lock_token(&self) -> u32 {
        self.inner.lock_token()
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32) {
        self.inner.lock_wait(word, value);
    }

    fn lock_wake(&self, word: &AtomicU32) {
        self.inner.lock_wake(word);
    }

    fn lock_enter(&self) {
        self.inner.lock_enter();
    }

    fn lock_exit(&self) {
        self.inner.lock_exit();
    }

    fn lock_taken(&self, rank: u8) {
        self.inner.lock_taken(rank);
    }

    fn lock_released(&self, rank: u8) {
        self.inner.lock_released(rank);
    }
}
