//! Descriptor tables: segments, the stacks of interrupts, the gates.
//!
//! Each CPU has its own segment table and task state in its block; all share one table of gates.
//!
//! # Stacks
//! An interrupt never continues on the stack of what it interrupted: the 128 bytes below a stack pointer belong to compiled
//! code (the *red zone*). So each gate names a stack. The classes below can interrupt one another but never themselves.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::smp::Block;

/// Bytes of an interrupt stack.
pub(crate) const STACK: usize = 16 << 10;

/// Classes of interrupts, each with a stack of its own.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Class {
    /// From devices and other CPUs.
    Device = 1,
    /// Exceptions of the running code.
    Exception = 2,
    /// A fault while a fault was delivered.
    Double = 3,
    /// Non-maskable.
    Nmi = 4,
    /// One instruction was executed.
    Step = 5,
}

/// Number of classes.
pub(crate) const CLASSES: usize = 5;

/// The task state: only the interrupt stacks matter.
#[repr(C, packed(4))]
pub(crate) struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    io_map: u16,
}

/// Entries of a segment table: null, code, data, 32-bit code, the task state's two.
pub(crate) type Gdt = [u64; 6];

/// The code segment.
const CODE: u16 = 0x08;
/// The task state's selector.
const TASK: u16 = 0x20;

/// One gate: where an interrupt goes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(16))]
struct Gates(UnsafeCell<[Gate; 256]>);
// SAFETY: written once by the first CPU, before any is told of it.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

/// What the table instructions read.
#[repr(C, packed(2))]
struct Pointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    /// 256 entries of 16 bytes.
    static trap_stubs: u8;
}

/// Fills the table of gates.
///
/// # Safety
/// Once, by the first CPU, before [`load`].
pub(crate) unsafe fn init() {
    let stubs = (&raw const trap_stubs).addr() as u64;
    for vector in 0..256_u64 {
        let class = match vector {
            1 => Class::Step,
            2 => Class::Nmi,
            8 => Class::Double,
            0..32 => Class::Exception,
            _ => Class::Device,
        };
        let at = stubs + vector * 16;
        // Present interrupt gate (interrupts are off inside), with the stack of its class.
        let kind = 0x8e00 | class as u64;
        let gate = Gate {
            low: at & 0xffff | u64::from(CODE) << 16 | kind << 32 | (at >> 16 & 0xffff) << 48,
            high: at >> 32,
        };
        // SAFETY: the caller's promise makes this the only access.
        unsafe { (*GATES.0.get())[vector as usize] = gate };
    }
}

/// Gives this CPU its tables.
///
/// # Safety
/// `block` is this CPU's own and stays for ever; [`init`] ran; `stacks` are [`CLASSES`] stacks of [`STACK`] bytes for it alone.
pub(crate) unsafe fn load(block: *mut Block, stacks: *mut u8) {
    // SAFETY: the caller's promise: nobody else uses the block yet.
    let (gdt, tss) = unsafe { (&raw mut (*block).gdt, &raw mut (*block).tss) };
    let mut ist = [0; 7];
    for (class, top) in ist.iter_mut().take(CLASSES).enumerate() {
        *top = stacks.addr() as u64 + ((class + 1) * STACK) as u64;
    }
    let state = Tss {
        reserved: 0,
        rsp: [0; 3],
        reserved2: 0,
        ist,
        reserved3: 0,
        reserved4: 0,
        io_map: size_of::<Tss>() as u16,
    };
    let base = tss.addr() as u64;
    let limit = size_of::<Tss>() as u64 - 1;
    let task = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    let gdt_pointer = Pointer { limit: size_of::<Gdt>() as u16 - 1, base: gdt.addr() as u64 };
    let idt_pointer =
        Pointer { limit: size_of::<[Gate; 256]>() as u16 - 1, base: GATES.0.get().addr() as u64 };
    // SAFETY: the tables are complete, the segments are those that are loaded already, and both tables stay.
    unsafe {
        tss.write(state);
        gdt.write([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff, task, base >> 32]);
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "ltr {task:x}",
            gdt = in(reg) &raw const gdt_pointer,
            idt = in(reg) &raw const idt_pointer,
            task = in(reg) TASK,
            options(nostack, preserves_flags)
        );
    }
}
