//! The operations on CPU stacks, with an interrupt after every single instruction of each.
//!
//! The processor's trap flag raises an exception after each instruction. At the `n`-th one, or the first after it at which
//! interrupts are on, the handler does what an interrupt may do: it uses the very stack that the interrupted operation
//! works on. For each `n` until the operation is over, every object must be in exactly one place afterwards.

use core::arch::asm;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::percpu::{CpuArea, Pushed};

use super::{Outcome, Test, ensure};
use crate::cpu::traps::{FLAG_INTERRUPTS, FLAG_STEP, Frame, on_step};
use crate::heap;
use crate::platform::area::Area;
use crate::platform::{OWNERSHIP, restart};
use crate::smp;

pub(super) const TESTS: &[Test] =
    &[Test { name: "pieces.every_instruction", run: every_instruction, cpus: 1, stacks: true }];

/// Instructions until the handler interferes.
static COUNTDOWN: AtomicU32 = AtomicU32::new(0);
/// The stack it interferes with.
static STACK: AtomicU16 = AtomicU16::new(0);
/// What it does.
static DISTURBANCE: AtomicUsize = AtomicUsize::new(0);

/// What a handler does to the stack. Each leaves the number of objects as it was.
const DISTURBANCES: [fn(u16); 4] = [swap_two, pop_and_push, drain_and_refill, refill_reversed];

fn swap_two(id: u16) {
    // SAFETY: the number is of a live cache; what is popped is pushed again, once.
    unsafe {
        let (a, b) = (Area.pop(id), Area.pop(id));
        for object in [a, b] {
            push_back(id, object);
        }
    }
}

fn pop_and_push(id: u16) {
    // SAFETY: as in `swap_two`.
    unsafe { push_back(id, Area.pop(id)) };
}

fn drain_and_refill(id: u16) {
    let mut objects = [core::ptr::null_mut(); 32];
    // SAFETY: as in `swap_two`.
    unsafe {
        let got = Area.pop_many(id, &mut objects);
        let pushed = Area.push_many(id, &objects[..got]);
        assert!(pushed == got, "what was just popped has room");
    }
}

fn refill_reversed(id: u16) {
    let mut objects = [core::ptr::null_mut(); 32];
    // SAFETY: as in `swap_two`.
    unsafe {
        let got = Area.pop_many(id, &mut objects);
        objects[..got].reverse();
        let pushed = Area.push_many(id, &objects[..got]);
        assert!(pushed == got, "what was just popped has room");
    }
}

/// # Safety
/// `object` is null or was popped from this stack by the caller.
unsafe fn push_back(id: u16, object: *mut u8) {
    if !object.is_null() {
        // SAFETY: the caller's promise.
        let pushed = unsafe { Area.push(id, object) };
        assert!(pushed == Pushed::Done, "what was just popped has room: {pushed:?}");
    }
}

fn step(frame: &mut Frame) {
    let left = COUNTDOWN.load(Ordering::Relaxed);
    if left > 0 {
        COUNTDOWN.store(left - 1, Ordering::Relaxed);
        return;
    }
    if frame.flags & FLAG_INTERRUPTS == 0 {
        return;
    }
    restart::set_back(frame);
    DISTURBANCES[DISTURBANCE.load(Ordering::Relaxed)](STACK.load(Ordering::Relaxed));
    frame.flags &= !FLAG_STEP;
}

/// Runs `operation` and disturbs it after `n` instructions. False when it was over before.
fn disturbed(n: u32, operation: impl FnOnce()) -> bool {
    COUNTDOWN.store(n, Ordering::Relaxed);
    // SAFETY: sets the trap flag; the handler copes with every instruction from here on.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    operation();
    let flags: u64;
    // SAFETY: reads the flags, then clears the trap flag.
    unsafe { asm!("pushfq", "mov {f}, [rsp]", "and qword ptr [rsp], -0x101", "popfq", f = out(reg) flags) };
    flags & FLAG_STEP == 0
}

fn every_instruction() -> Outcome {
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), sheaf_capacity: 16, ..CacheArgs::default() };
    let cache = heap::with(|heap| heap.create("stepped", 64, args));
    let Ok(cache) = cache else { return Err(super::line(format_args!("{cache:?}"))) };
    // SAFETY: the cache lives until the end of this function.
    let id = unsafe { cache.stack_id() };
    // A stack for this CPU, by a first allocation; then its own supply of objects.
    let mut objects = [core::ptr::null_mut::<u8>(); 12];
    for object in &mut objects {
        // SAFETY: as above.
        *object = heap::with(|heap| unsafe { heap.alloc(cache, Gfp::KERNEL) });
        ensure!(!object.is_null(), "no object");
    }
    on_step(step);
    let before = smp::this().restarts.load(Ordering::Relaxed);
    let (mut tried, mut outcome) = (0_u32, Ok(()));
    'all: for (number, operation) in OPERATIONS.iter().enumerate() {
        for disturbance in 0..DISTURBANCES.len() {
            for n in 0.. {
                match one(id, &objects, *operation, disturbance, n) {
                    Ok(true) => tried += 1,
                    Ok(false) => break,
                    Err(what) => {
                        outcome = Err(super::line(format_args!(
                            "operation {number}, disturbance {disturbance}, instruction {n}: {what}"
                        )));
                        break 'all;
                    }
                }
            }
        }
    }
    let restarts = smp::this().restarts.load(Ordering::Relaxed) - before;
    outcome?;
    for object in objects {
        // SAFETY: taken above; the operations gave all of them back.
        let freed = heap::with(|heap| unsafe { heap.free(cache, object) });
        ensure!(freed.is_ok(), "{freed:?}");
    }
    // SAFETY: no object is in use.
    let destroyed = heap::with(|heap| unsafe { heap.destroy(cache) });
    ensure!(destroyed.is_ok(), "{destroyed:?}");
    ensure!(tried > 200, "only {tried} interruptions");
    ensure!(cfg!(feature = "masked") || restarts > 50, "{restarts} pieces set back ({OWNERSHIP})");
    Ok(())
}

/// An operation: what it holds before, and what it holds after.
type Operation = fn(u16, &mut Held);

const OPERATIONS: [Operation; 4] = [
    |id, held| {
        // SAFETY: the cache lives; only objects that are held are pushed.
        let object = unsafe { Area.pop(id) };
        held.add(object);
    },
    |id, held| {
        let object = held.take();
        // SAFETY: as above.
        if unsafe { Area.push(id, object) } != Pushed::Done {
            held.add(object);
        }
    },
    |id, held| {
        let mut out = [core::ptr::null_mut(); 4];
        // SAFETY: as above.
        let got = unsafe { Area.pop_many(id, &mut out) };
        out[..got].iter().for_each(|&object| held.add(object));
    },
    |id, held| {
        let objects = [held.take(), held.take(), held.take()];
        // SAFETY: as above.
        let pushed = unsafe { Area.push_many(id, &objects) };
        objects[pushed..].iter().for_each(|&object| held.add(object));
    },
];

/// Objects in the test's hands.
struct Held {
    objects: [*mut u8; 16],
    len: usize,
}

impl Held {
    fn add(&mut self, object: *mut u8) {
        if !object.is_null() && self.len < self.objects.len() {
            self.objects[self.len] = object;
            self.len += 1;
        }
    }

    fn take(&mut self) -> *mut u8 {
        self.len -= 1;
        self.objects[self.len]
    }
}

/// One operation, disturbed once. `Ok(false)`: it was over before. An error: an object is lost or in two places.
fn one(
    id: u16,
    objects: &[*mut u8; 12],
    operation: Operation,
    disturbance: usize,
    n: u32,
) -> Result<bool, &'static str> {
    let mut held = Held { objects: [core::ptr::null_mut(); 16], len: 0 };
    let mut foreign = [core::ptr::null_mut(); 32];
    // The stack begins with six of our objects; what the heap had put there is put aside.
    // SAFETY: the cache lives; the objects are this test's.
    let aside = unsafe { Area.pop_many(id, &mut foreign) };
    // SAFETY: as above.
    if unsafe { Area.push_many(id, &objects[..6]) } != 6 {
        return Err("no room for six objects");
    }
    objects[6..].iter().for_each(|&object| held.add(object));

    STACK.store(id, Ordering::Relaxed);
    DISTURBANCE.store(disturbance, Ordering::Relaxed);
    let hit = disturbed(n, || operation(id, &mut held));

    let mut rest = [core::ptr::null_mut(); 32];
    // SAFETY: as above.
    let got = unsafe { Area.pop_many(id, &mut rest) };
    // SAFETY: as above: what was put aside goes back.
    if unsafe { Area.push_many(id, &foreign[..aside]) } != aside {
        return Err("what was put aside has no room");
    }
    if held.len + got != objects.len() {
        return Err("the number of objects changed");
    }
    let everywhere = |object: &*mut u8| {
        held.objects[..held.len].iter().chain(&rest[..got]).filter(|other| *other == object).count()
    };
    if objects.iter().any(|object| everywhere(object) != 1) {
        return Err("an object is not in exactly one place");
    }
    Ok(hit)
}
