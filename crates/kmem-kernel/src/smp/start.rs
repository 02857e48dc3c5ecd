//! Bringing a CPU up: INIT, start-up interrupt, its first steps.
//!
//! One CPU is started at a time: its stack and its block are told through two words beside the trampoline. The trampoline
//! (in `entry.s`) is copied to [`AP_PAGE`], which a start-up interrupt names by its page number, and which no
//! loader uses.

use core::sync::atomic::Ordering;

use super::{Block, State, adopt, block, hotplug};
use crate::cpu::{self, apic, time};

/// Where a started CPU begins: physical page 8.
const AP_PAGE: usize = 0x8000;

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static mut ap_stack: usize;
    static mut ap_block: usize;
}

/// Starts CPU `number` and waits until it answers; once up it does `work`, then idles.
///
/// Returns false when it did not come up within a second.
pub(crate) fn start(number: usize, work: Option<fn()>) -> bool {
    let target = block(number);
    {
        let _alone = hotplug::lock();
        if target.state() == State::Online {
            return true;
        }
        target.work.store(work.map_or(core::ptr::null_mut(), |work| work as *mut ()), Ordering::Relaxed);
        let len = (&raw const ap_trampoline_end).addr() - (&raw const ap_trampoline).addr();
        // SAFETY: the page is below the first MiB, which belongs to nobody here; the two words are only read by the CPU that starts.
        unsafe {
            core::ptr::copy_nonoverlapping(&raw const ap_trampoline, AP_PAGE as *mut u8, len);
            (&raw mut ap_stack).write_volatile(target.stack);
            (&raw mut ap_block).write_volatile(core::ptr::from_ref::<Block>(target).addr());
        }
        apic::reset(target.apic());
        time::delay(200);
        apic::start(target.apic(), (AP_PAGE >> 12) as u8);
        let deadline = time::nanoseconds() + 1_000_000_000;
        let mut again = time::nanoseconds() + 1_000_000;
        while target.state() != State::Online {
            let now = time::nanoseconds();
            if now > deadline {
                return false;
            }
            if now > again {
                // A processor may miss the first one; one that came up ignores the second.
                apic::start(target.apic(), (AP_PAGE >> 12) as u8);
                again = u64::MAX;
            }
            core::hint::spin_loop();
        }
    }
    true
}

/// The first Rust code of a started CPU, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main(block: *const Block) -> ! {
    // SAFETY: the starter wrote the address of a complete block.
    let number = unsafe { &*block }.number();
    // SAFETY: this CPU was started for this number.
    unsafe { adopt(number) };
    apic::init();
    let me = super::this();
    let work = me.work.load(Ordering::Relaxed);
    me.set_state(State::Online);
    // SAFETY: tables are loaded, no lock is held.
    unsafe { cpu::unmask() };
    if !work.is_null() {
        // SAFETY: `start` stored a function.
        let work: fn() = unsafe { core::mem::transmute(work) };
        work();
    }
    hotplug::idle()
}
