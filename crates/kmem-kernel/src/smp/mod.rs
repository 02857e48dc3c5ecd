//! The CPUs: each one's block of memory, reached by `gs`.
//!
//! # Theory
//! A CPU's block is its own page of facts, followed by what the heap keeps for it. `gs` points at the block, so that one
//! instruction with a constant offset reaches any of it, and an interrupt cannot come between knowing the CPU and using it:
//!
//! ```text
//!   gs:0        Block             one page: number, node, tables, tallies
//!   gs:HOT      the hot words     16 bytes for each cache: gs:[HOT + 16 * id] is this CPU's stack of cache `id`
//!   gs:COLD     the cold memory   128 bytes for each cache
//! ```
//! Nothing here preempts: code stays on its CPU, only interrupts come in between.
//!
//! # Modules
//! [`start`] brings CPUs up, [`call`] runs a function on another, [`reap`] lets each give back what it keeps, [`hotplug`] takes
//! one down and brings it back, `thread` moves from one to another.

pub(crate) mod call;
pub(crate) mod hotplug;
pub(crate) mod reap;
pub(crate) mod start;
#[cfg(feature = "conformance")]
pub(crate) mod thread;

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kmem_core::percpu::{COLD_STRIDE, HOT_STRIDE, Hot, MAX_STACKS, Top};

use crate::boot::early;
use crate::cpu;
use crate::cpu::segments::{CLASSES, Gdt, STACK, Tss};

/// The most CPUs this kernel starts: one bit each in a word of calls.
pub(crate) const MAX_CPUS: usize = 64;

/// Where the hot words begin in a block.
pub(crate) const HOT: usize = 4096;
/// Where the cold memory begins in a block.
pub(crate) const COLD: usize = HOT + HOT_STRIDE;
/// Bytes of a CPU's whole block.
pub(crate) const BLOCK: usize = COLD + COLD_STRIDE;
/// Bytes of the stack a CPU runs on.
const MAIN_STACK: usize = 64 << 10;

/// The life of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// Not running: it touches nothing and answers nothing.
    Offline = 0,
    /// Running, or about to: it answers calls.
    Online = 1,
}

/// One CPU's page of facts.
#[repr(C, align(64))]
pub(crate) struct Block {
    /// Its own address: `gs:0`.
    me: *const Self,
    number: u32,
    node: u32,
    apic: u32,
    /// Locks of the heap that this CPU holds.
    held: AtomicU32,
    /// Interrupts were on when the first of them was taken.
    masked: AtomicBool,
    state: AtomicU8,
    /// Ticks of its timer.
    ticks: AtomicU64,
    /// Pieces of code that an interrupt set back.
    pub(crate) restarts: AtomicU64,
    /// Calls of others that it answered.
    pub(crate) answered: AtomicU64,
    /// Turns of reaping that it had.
    pub(crate) turns: AtomicU64,
    /// CPUs that want something from it, a bit each.
    pub(crate) inbox: AtomicU64,
    /// What it wants from others.
    pub(crate) request: call::Request,
    /// What it does once it is up: a function, null to idle.
    pub(crate) work: AtomicPtr<()>,
    /// Its segment table.
    pub(crate) gdt: Gdt,
    /// Its task state.
    pub(crate) tss: Tss,
    /// A list with its transaction number, for [`crate::measure`].
    pub(crate) list: List,
    /// Top of its stack.
    stack: usize,
    /// Its interrupt stacks.
    interrupt_stacks: *mut u8,
}

/// Two words that one instruction exchanges.
#[repr(C, align(16))]
pub(crate) struct List([AtomicU64; 2]);

const _: () = assert!(size_of::<Block>() <= HOT);

static BLOCKS: [AtomicPtr<Block>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A double word of the running CPU's block.
macro_rules! own_word {
    ($field:ident) => {{
        let value: u32;
        // SAFETY: reads this CPU's own block. Constant for a CPU, and code never changes its CPU.
        unsafe {
            asm!(
                "mov {v:e}, dword ptr gs:[{at}]",
                v = out(reg) value,
                at = const offset_of!(Block, $field),
                options(nostack, preserves_flags, readonly)
            );
        }
        value
    }};
}

/// The running CPU's block.
#[inline]
pub(crate) fn this() -> &'static Block {
    let me: *const Block;
    // SAFETY: `gs` points at this CPU's block since its first instructions in Rust; blocks are never freed.
    unsafe {
        asm!("mov {}, qword ptr gs:[0]", out(reg) me, options(nostack, preserves_flags, readonly, pure));
        &*me
    }
}

/// The running CPU's number.
#[inline]
pub(crate) fn number() -> usize {
    own_word!(number) as usize
}

/// The running CPU's node.
#[inline]
pub(crate) fn node() -> usize {
    own_word!(node) as usize
}

/// The running CPU's number, also before it has a block.
pub(crate) fn number_or_zero() -> usize {
    if COUNT.load(Ordering::Relaxed) == 0 { 0 } else { number() }
}

/// How many CPUs the machine has, running or not.
#[inline]
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// CPUs that are online.
pub(crate) fn online() -> usize {
    (0..count()).filter(|&number| block(number).state() == State::Online).count()
}

/// The block of a CPU.
///
/// # Panics
/// When there is no such CPU.
#[inline]
pub(crate) fn block(number: usize) -> &'static Block {
    // SAFETY: stored once complete (Release in `make`), never freed.
    unsafe { BLOCKS[number].load(Ordering::Acquire).as_ref() }.expect("no such CPU")
}

/// The hot word of cache `id` on CPU `number`.
#[inline]
pub(crate) fn hot(number: usize, id: u16) -> &'static Hot {
    let base = BLOCKS[number].load(Ordering::Acquire).cast::<u8>();
    assert!(!base.is_null() && usize::from(id) < MAX_STACKS);
    // SAFETY: inside the block, written by `make`, shared by atomics only.
    unsafe { &*base.add(HOT).cast::<Hot>().add(usize::from(id)) }
}

/// The cold memory of the first cache on CPU `number`.
pub(crate) fn cold(number: usize) -> *mut u8 {
    BLOCKS[number].load(Ordering::Acquire).cast::<u8>().wrapping_add(COLD)
}

impl Block {
    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.number as usize
    }

    /// Its node.
    pub(crate) fn node(&self) -> usize {
        self.node as usize
    }

    /// The number of its interrupt controller.
    pub(crate) fn apic(&self) -> u32 {
        self.apic
    }

    /// Whether it runs.
    pub(crate) fn state(&self) -> State {
        // SeqCst: see `call`, where this and the inbox decide who acts for a CPU that leaves.
        if self.state.load(Ordering::SeqCst) == State::Online as u8 { State::Online } else { State::Offline }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    /// Locks of the heap that it holds.
    pub(crate) fn heap_locks(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Ticks of its timer so far.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Where they are counted.
    pub(crate) fn tick_counter(&self) -> &AtomicU64 {
        &self.ticks
    }

    /// One more tick.
    pub(crate) fn count_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the block of the next CPU, and returns its number.
///
/// # Panics
/// Without memory for it: then nothing can work.
pub(crate) fn make(apic: u32, node: usize) -> usize {
    let number = COUNT.load(Ordering::Relaxed);
    assert!(number < MAX_CPUS, "more than {MAX_CPUS} CPUs");
    let base = early::take(BLOCK, 4096, node).expect("no memory for a CPU's block");
    let stack = early::take(MAIN_STACK, 4096, node).expect("no memory for a CPU's stack");
    let interrupt_stacks = early::take(CLASSES * STACK, 4096, node).expect("no memory for interrupt stacks");
    let hot = base.wrapping_add(HOT).cast::<Hot>();
    for id in 0..MAX_STACKS {
        // SAFETY: inside the fresh block, and nobody else knows it.
        unsafe { hot.add(id).write(Hot { top: Top::new(), allocs: AtomicU64::new(0) }) };
    }
    let block = base.cast::<Block>();
    // SAFETY: as above.
    unsafe {
        block.write(Block {
            me: block,
            number: number as u32,
            node: node as u32,
            apic,
            held: AtomicU32::new(0),
            masked: AtomicBool::new(false),
            state: AtomicU8::new(State::Offline as u8),
            ticks: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            inbox: AtomicU64::new(0),
            request: call::Request::new(),
            work: AtomicPtr::new(core::ptr::null_mut()),
            gdt: [0; 6],
            tss: core::mem::zeroed(),
            list: List([const { AtomicU64::new(0) }; 2]),
            stack: stack.addr() + MAIN_STACK,
            interrupt_stacks,
        });
    }
    // Release publishes the block to `block` and `hot`.
    BLOCKS[number].store(block, Ordering::Release);
    COUNT.store(number + 1, Ordering::Relaxed);
    number
}

/// Makes this CPU the one with block `number`: `gs`, tables, state.
///
/// # Safety
/// By the CPU itself, when it starts; no other has the number.
pub(crate) unsafe fn adopt(number: usize) {
    const MSR_GS_BASE: u32 = 0xc000_0101;
    let block = BLOCKS[number].load(Ordering::Acquire);
    // SAFETY: the caller's promise; the block is complete.
    unsafe {
        cpu::write_msr(MSR_GS_BASE, block.addr() as u64);
        cpu::segments::load(block, (*block).interrupt_stacks);
    }
}

/// The heap's locks and interrupts: whoever holds one runs without interrupts.
pub(crate) mod heap_locks {
    use super::{Ordering, cpu, this};

    /// Before a lock of the heap is taken: interrupts off, and for the first lock it is remembered whether they were on.
    pub(crate) fn enter() {
        let on = cpu::interrupts_on();
        cpu::mask();
        let block = this();
        // Relaxed, and no exchange: this CPU's own, and without interrupts.
        let held = block.held.load(Ordering::Relaxed);
        if held == 0 {
            block.masked.store(on, Ordering::Relaxed);
        }
        block.held.store(held + 1, Ordering::Relaxed);
    }

    /// After a lock of the heap was released: after the last one interrupts are as they were.
    pub(crate) fn exit() {
        let block = this();
        let held = block.held.load(Ordering::Relaxed) - 1;
        block.held.store(held, Ordering::Relaxed);
        if held == 0 && block.masked.load(Ordering::Relaxed) {
            // SAFETY: they were on before the first lock, and no lock of the heap is held any more.
            unsafe { cpu::unmask() };
        }
    }
}
