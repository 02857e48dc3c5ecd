//! A timer whose handler uses the heap while the interrupted code does, on every CPU.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kmem_core::gfp::Gfp;

use super::{Marked, Outcome, Random, Test, ensure, everywhere};
use crate::cpu::traps::{Frame, on_timer};
use crate::cpu::{apic, time};
use crate::{heap, smp};

pub(super) const TESTS: &[Test] = &[
    Test { name: "interrupts.timer_allocates", run: one_cpu, cpus: 1, stacks: false },
    Test { name: "interrupts.code_untouched", run: code_untouched, cpus: 1, stacks: false },
    Test { name: "interrupts.all_cpus", run: all_cpus, cpus: 2, stacks: false },
];

/// Blocks that the handlers of each CPU keep from tick to tick.
const KEPT: usize = 8;
static BLOCKS: [[AtomicPtr<u8>; KEPT]; smp::MAX_CPUS] =
    [const { [const { AtomicPtr::new(core::ptr::null_mut()) }; KEPT] }; smp::MAX_CPUS];
/// Blocks that handlers took.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// Requests of handlers that got nothing.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Blocks that were not as they should be.
static WRONG: AtomicU64 = AtomicU64::new(0);

/// The handler: frees what it took some ticks ago and takes a new block, of a size that changes.
pub(super) fn tick(_frame: &mut Frame) {
    let cpu = smp::this();
    let ticks = cpu.ticks();
    let place = &BLOCKS[cpu.number()][ticks as usize % KEPT];
    for (i, size) in [64, 200, 1000].into_iter().enumerate() {
        // Some more that live only in the handler.
        match Marked::new(size + i + ticks as usize % 50, Gfp::ATOMIC) {
            Some(marked) if marked.check_and_free() => {}
            Some(_) => _ = WRONG.fetch_add(1, Ordering::Relaxed),
            None => _ = REFUSED.fetch_add(1, Ordering::Relaxed),
        }
    }
    let old = place.swap(core::ptr::null_mut(), Ordering::Relaxed);
    if !old.is_null() {
        // SAFETY: the handler's own block of at least 8 bytes, kept in `place` alone until now.
        unsafe {
            if old.cast::<u64>().read() != old.addr() as u64 {
                WRONG.fetch_add(1, Ordering::Relaxed);
            }
            heap::kfree(old);
        }
    }
    let block = heap::kmalloc([8, 64, 64, 256][ticks as usize / KEPT % 4], Gfp::ATOMIC);
    if block.is_null() {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: a fresh block of at least 8 bytes.
    unsafe { block.cast::<u64>().write(block.addr() as u64) };
    place.store(block, Ordering::Relaxed);
    TAKEN.fetch_add(1, Ordering::Relaxed);
}

/// Frees what the handlers of this CPU keep. Its timer is off.
pub(super) fn clear() {
    for place in &BLOCKS[smp::number()] {
        let block = place.swap(core::ptr::null_mut(), Ordering::Relaxed);
        if !block.is_null() {
            // SAFETY: the handler's own block; no handler runs any more.
            unsafe { heap::kfree(block) };
        }
    }
}

/// A handler that leaves no vector register as it was.
fn scribble(_frame: &mut Frame) {
    // SAFETY: the registers are declared as changed; the entry has saved those of the interrupted code.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10", "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14", "pcmpeqd xmm15, xmm15",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nomem, nostack)
        );
    }
}

/// Interrupted code finds its vector registers and the 128 bytes below its stack pointer as it left them.
fn code_untouched() -> Outcome {
    let ticks = &raw const *smp::this().tick_counter();
    on_timer(scribble);
    apic::timer(200);
    let (mut changed, mut red_zone) = (0_u64, 0_u64);
    for round in 0..20_u64 {
        // SAFETY: writes below the stack pointer, where without `nostack` nothing of the compiler's lies, waits for a tick, and
        // looks again. `ticks` is this CPU's counter.
        unsafe {
            asm!(
                "movq xmm2, {value}", "movq xmm9, {value}", "movq xmm15, {value}",
                "mov [rsp - 8], {value}", "mov [rsp - 64], {value}", "mov [rsp - 128], {value}",
                "mov {t}, [{ticks}]",
                "2:", "pause", "cmp {t}, [{ticks}]", "je 2b",
                "movq {t}, xmm2", "xor {t}, {value}", "or {changed}, {t}",
                "movq {t}, xmm9", "xor {t}, {value}", "or {changed}, {t}",
                "movq {t}, xmm15", "xor {t}, {value}", "or {changed}, {t}",
                "mov {t}, [rsp - 8]", "xor {t}, {value}", "or {red_zone}, {t}",
                "mov {t}, [rsp - 64]", "xor {t}, {value}", "or {red_zone}, {t}",
                "mov {t}, [rsp - 128]", "xor {t}, {value}", "or {red_zone}, {t}",
                value = in(reg) round * 0x0101_0101_0101_0101,
                ticks = in(reg) ticks,
                t = out(reg) _,
                changed = inout(reg) changed,
                red_zone = inout(reg) red_zone,
                out("xmm2") _, out("xmm9") _, out("xmm15") _,
            );
        }
    }
    // The handler stays: a tick that is on its way yet must not take a block that nobody would free.
    apic::timer(0);
    ensure!(changed == 0, "a handler's vector registers reached the interrupted code");
    ensure!(red_zone == 0, "memory below the interrupted stack pointer was changed");
    Ok(())
}

/// Ticks that each CPU lives through.
const TICKS: u64 = 300;

/// Allocates and frees with the timer ticking, until it has ticked [`TICKS`] times.
fn under_fire() {
    let mut random = Random(0x1234_5678 + smp::number() as u64);
    let mut blocks = [const { None::<Marked> }; 64];
    apic::timer(200);
    let end = smp::this().ticks() + TICKS;
    // A timer that does not tick must not hang the test: the outcome tells.
    let deadline = time::nanoseconds() + 10_000_000_000;
    while smp::this().ticks() < end && time::nanoseconds() < deadline {
        let place = &mut blocks[random.below(64)];
        match place.take() {
            Some(marked) if !marked.check_and_free() => _ = WRONG.fetch_add(1, Ordering::Relaxed),
            Some(_) => {}
            None => *place = Marked::new([8, 64, 64, 100, 256, 1000, 3000][random.below(7)], Gfp::KERNEL),
        }
    }
    apic::timer(0);
    for marked in blocks.into_iter().flatten() {
        if !marked.check_and_free() {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
    }
    clear();
}

fn one_cpu() -> Outcome {
    check(under_fire, 1)
}

fn all_cpus() -> Outcome {
    check(|| everywhere(under_fire), smp::online())
}

fn check(work: fn(), cpus: usize) -> Outcome {
    let before = TAKEN.load(Ordering::Relaxed);
    on_timer(tick);
    work();
    let taken = TAKEN.load(Ordering::Relaxed) - before;
    let (refused, wrong) = (REFUSED.swap(0, Ordering::Relaxed), WRONG.swap(0, Ordering::Relaxed));
    ensure!(wrong == 0, "{wrong} blocks were changed");
    ensure!(refused == 0, "{refused} requests of handlers were refused");
    ensure!(taken >= TICKS * cpus as u64, "handlers took {taken} blocks only");
    Ok(())
}
