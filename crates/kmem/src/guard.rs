//! The sampling guard of the process-wide heap: now and then one block lies beside pages that nobody may touch.
//!
//! | `KMEM_GUARD` | what it says |
//! |---|---|
//! | `0`, nothing, or not set | off (the default) |
//! | `1` | one block every [`DEFAULT_INTERVAL`] |
//! | a number from 2 on, or one with `ms` behind it | one block every so many milliseconds |
//! | `all` | each block that comes by, until the pool of 255 is full: for tests |
//!
//! It is read once, when the heap is made, and means nothing in a process with raised privileges. A program decides for
//! itself by [`start`] and [`stop`].
//!
//! An access beside such a block, or after its free, is reported at the instruction that makes it; what happens then
//! says `KMEM_ON_ERROR`. How faults that are not the heap's reach the program's own handler: [`crate::host::fault`].

use core::time::Duration;

use kmem_core::guard::{EVERY, Stats};
use kmem_core::platform::Platform;
use kmem_core::report;

use crate::heap::{self, Heap};
use crate::host::fault::{self, Fault, Reason};
use crate::host::{misc, timer, wake};

/// Time between two samples where nobody chose another.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);

/// A running thread is asked so often in an interval of its CPU time whether it is its turn. Once would miss turns by a moment.
const RINGS: u64 = 2;
/// Nanoseconds between two such questions at least: the systems' ticks are no shorter.
const SHORTEST: u64 = 1_000_000;

/// Frames that are looked at for the instruction that faulted: those of the handler and of the way to its stack come first.
const DEEP: usize = 48;

/// Programs are not given addresses below (`vm.mmap_min_addr` of nearly all systems): what goes there went by a null pointer.
const LOWEST: usize = 64 << 10;

/// Guards one block every `interval` from now on; zero: as [`stop`]. The signal handlers are installed with the first such
/// block. False: not even the heap could be made.
pub fn start(interval: Duration) -> bool {
    let Some(heap) = heap::heap() else { return false };
    fault::set_judge(judge);
    set(heap, u64::try_from(interval.as_nanos()).unwrap_or(EVERY - 1).min(EVERY - 1));
    true
}

/// Guards one block in each interval from now on, with timers for those that do not come by.
fn set(heap: &Heap, interval: u64) {
    heap.set_guard_interval(interval);
    if matches!(interval, 0 | EVERY) {
        timer::stop();
    } else {
        timer::start((interval / RINGS).max(SHORTEST), is_due);
    }
}

/// It is somebody's turn.
fn is_due() -> bool {
    heap::made().is_some_and(|heap| heap.guard().is_due(heap.platform().now()))
}

/// The process steps into a sandbox, where a signal more may be its end: nobody is called any more.
pub fn leave_for_sandbox() {
    if timer::stop() {
        wake::stop();
    }
}

/// Guards each block that comes by from now on, until the pool is full. False as for [`start`].
pub fn start_with_all() -> bool {
    let Some(heap) = heap::heap() else { return false };
    fault::set_judge(judge);
    set(heap, EVERY);
    true
}

/// Guards no more blocks. Those that are guarded stay so.
pub fn stop() {
    if let Some(heap) = heap::made() {
        set(heap, 0);
    }
}

/// What the guard has done. All zero before the heap is made.
pub fn stats() -> Stats {
    heap::made().map_or(Stats::default(), |heap| heap.guard().stats())
}

/// What a value of `KMEM_GUARD` asks for.
fn parse(value: &[u8]) -> Option<Choice> {
    match value {
        b"" | b"0" => return Some(Choice::Off),
        b"1" => return Some(Choice::Every(DEFAULT_INTERVAL)),
        b"all" => return Some(Choice::All),
        _ => {}
    }
    let digits = value.strip_suffix(b"ms").unwrap_or(value);
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.filter(|&ms| ms > 0).map(|ms| Choice::Every(Duration::from_millis(ms)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Off,
    Every(Duration),
    All,
}

/// Switches the guard on if the environment says so.
///
/// # Safety
/// The heap was just made, by this thread; as for [`misc::getenv`].
pub(crate) unsafe fn configure(heap: &Heap) {
    if misc::secure_exec() {
        return;
    }
    // SAFETY: the caller's promise.
    let Some(value) = (unsafe { misc::getenv("KMEM_GUARD") }) else { return };
    let interval = match parse(value) {
        Some(Choice::Off) => return,
        Some(Choice::Every(interval)) => {
            u64::try_from(interval.as_nanos()).unwrap_or(EVERY - 1).min(EVERY - 1)
        }
        Some(Choice::All) => EVERY,
        None => {
            let platform = heap.platform();
            report::say(platform, format_args!("kmem: KMEM_GUARD is 0, 1, milliseconds, or `all`"));
            return;
        }
    };
    fault::set_judge(judge);
    set(heap, interval);
}

/// Whether a fault is the guard's; if so it was reported, and the access may be tried again. Of others a hardened heap tells what it
/// knows.
pub(crate) fn judge(fault: &Fault) -> bool {
    let Some(heap) = heap::made() else { return false };
    let guarded = heap.guard().holds(fault.address);
    // Of these nobody says anything. Programs that live with faults (null pointers, mostly) do not wait for each other here.
    let told = heap::HARDENED && fault.reason != Reason::Other && fault.address >= LOWEST;
    (guarded || told) && fault::on_own_stack(|| decide(heap, fault, guarded))
}

/// [`judge`], for what may be the heap's.
#[inline(never)]
fn decide(heap: &Heap, fault: &Fault, guarded: bool) -> bool {
    if !guarded {
        if heap::HARDENED {
            heap::tell_of_fault(heap, fault);
        }
        return false;
    }
    let mut frames = [0; DEEP];
    let found = heap.platform().backtrace(&mut frames).min(DEEP);
    let frames = &frames[..found];
    // What lies before is the handler and what the system put between.
    let alone = [fault.instruction];
    let stack = match frames.iter().position(|&frame| frame == fault.instruction) {
        Some(at) => &frames[at..],
        None if fault.instruction != 0 => &alone,
        None => frames,
    };
    heap.report_fault(fault.address, fault.access, stack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_variable() {
        let every = |ms| Some(Choice::Every(Duration::from_millis(ms)));
        assert_eq!(["", "0"].map(|text| parse(text.as_bytes())), [Some(Choice::Off); 2]);
        assert_eq!((parse(b"1"), parse(b"2"), parse(b"1000")), (every(100), every(2), every(1000)));
        assert_eq!((parse(b"1ms"), parse(b"50ms")), (every(1), every(50)));
        assert_eq!(parse(b"all"), Some(Choice::All));
        for bad in ["on", "-1", "ms", "0ms", "5s", "1 ", "99999999999999999999999", "00"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
