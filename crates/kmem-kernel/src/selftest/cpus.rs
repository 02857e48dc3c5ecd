//! More than one CPU: calls, blocks freed elsewhere, stacks taken away, CPUs that leave and come back.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use super::{Marked, Outcome, Random, Test, ensure, everywhere};
use crate::cpu::time;
use crate::heap;
use crate::smp::{self, State, call, hotplug, reap};

pub(super) const TESTS: &[Test] = &[
    Test { name: "cpus.call", run: calls, cpus: 2, stacks: false },
    Test { name: "cpus.own_numbers", run: own_numbers, cpus: 2, stacks: false },
    Test { name: "cpus.freed_elsewhere", run: freed_elsewhere, cpus: 2, stacks: false },
    Test { name: "cpus.stacks_seized", run: stacks_seized, cpus: 2, stacks: true },
    Test { name: "cpus.reaped", run: reaped, cpus: 2, stacks: false },
    Test { name: "cpus.leave_and_return", run: leave_and_return, cpus: 2, stacks: false },
];

fn others() -> u64 {
    (0..smp::count())
        .filter(|&number| number != smp::number() && smp::block(number).state() == State::Online)
        .fold(0, |set, number| set | 1 << number)
}

static SEEN: AtomicU64 = AtomicU64::new(0);

/// Calls arrive on the CPUs they are for, each once.
fn calls() -> Outcome {
    for round in 0..200 {
        SEEN.store(0, Ordering::Relaxed);
        call::on(
            others(),
            |argument| _ = SEEN.fetch_add((argument as u64) << (8 * smp::number()), Ordering::Relaxed),
            1,
        );
        let expected =
            (0..smp::count()).filter(|n| others() & 1 << n != 0).fold(0, |sum, n| sum | 1_u64 << (8 * n));
        let seen = SEEN.load(Ordering::Relaxed);
        ensure!(seen == expected, "round {round}: calls seen {seen:#x}, expected {expected:#x}");
    }
    Ok(())
}

/// Every CPU has its own number, node and block.
fn own_numbers() -> Outcome {
    SEEN.store(0, Ordering::Relaxed);
    everywhere(|| {
        let me = smp::this();
        if me.number() == smp::number()
            && me.node() == smp::node()
            && core::ptr::eq(me, smp::block(me.number()))
        {
            SEEN.fetch_or(1 << me.number(), Ordering::Relaxed);
        }
    });
    let seen = SEEN.load(Ordering::Relaxed);
    ensure!(seen == others() | 1 << smp::number(), "CPUs seen: {seen:#x}");
    Ok(())
}

/// Blocks on their way to the CPU that frees them.
static MAIL: [AtomicPtr<u8>; 512] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 512];
static CARRIED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
const LETTER: usize = 72;

/// Every CPU puts blocks into the mail and frees what others put there.
fn freed_elsewhere() -> Outcome {
    CARRIED.store(0, Ordering::Relaxed);
    everywhere(|| {
        let mut random = Random(77 + smp::number() as u64);
        for _ in 0..5000 {
            let Some(letter) = Marked::new(LETTER, Gfp::KERNEL) else { continue };
            // AcqRel: the bytes travel with the pointer.
            let old = MAIL[random.below(512)].swap(letter.block, Ordering::AcqRel);
            open(old);
        }
    });
    for place in &MAIL {
        open(place.swap(core::ptr::null_mut(), Ordering::AcqRel));
    }
    ensure!(WRONG.swap(0, Ordering::Relaxed) == 0, "a block changed on its way");
    let carried = CARRIED.load(Ordering::Relaxed);
    ensure!(carried == 5000 * smp::online() as u64, "{carried} blocks arrived");
    Ok(())
}

fn open(block: *mut u8) {
    if !block.is_null() {
        CARRIED.fetch_add(1, Ordering::Relaxed);
        if !(Marked { block, len: LETTER }).check_and_free() {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// CPUs that still use the shared cache.
static USERS: AtomicU64 = AtomicU64::new(0);
static SHARED: AtomicPtr<kmem_core::cache::KmemCache<heap::Engine>> = AtomicPtr::new(core::ptr::null_mut());

fn shared() -> Option<CacheRef<heap::Engine>> {
    CacheRef::from_raw(SHARED.load(Ordering::Acquire))
}

/// Calls that CPUs answered so far.
fn calls_answered() -> u64 {
    (0..smp::count()).map(|number| smp::block(number).answered.load(Ordering::Relaxed)).sum()
}

/// One CPU shrinks a cache again and again, which takes the stacks of all away, while the others use it. The stacks are small, so
/// that a CPU often waits for the lock under which its own stack is being taken, and must answer from there.
fn stacks_seized() -> Outcome {
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), sheaf_capacity: 4, ..CacheArgs::default() };
    let cache = heap::with(|heap| heap.create("seized", 40, args));
    let Ok(cache) = cache else { return Err(super::line(format_args!("{cache:?}"))) };
    SHARED.store(cache.as_raw(), Ordering::Release);
    let before = calls_answered();
    SEEN.store(before, Ordering::Relaxed);
    USERS.store(smp::online() as u64 - 1, Ordering::Relaxed);
    everywhere(|| {
        let Some(cache) = shared() else { return };
        if smp::number() == 0 {
            while USERS.load(Ordering::Acquire) > 0 {
                // SAFETY: the cache lives until all are done.
                heap::with(|heap| unsafe { heap.shrink(cache) });
            }
            return;
        }
        let mut objects = [core::ptr::null_mut::<u64>(); 50];
        // On, at least until stacks were taken: the emulator may run the CPUs one after the other.
        let deadline = time::nanoseconds() + 10_000_000_000;
        let taken = || calls_answered() > SEEN.load(Ordering::Relaxed) + 20;
        for round in 0_u64.. {
            if round >= 3000 && (taken() || time::nanoseconds() > deadline) {
                break;
            }
            for object in &mut objects[..(round % 50) as usize] {
                // SAFETY: the cache lives until all are done; its objects have 40 bytes, and are this CPU's until freed.
                unsafe {
                    *object = heap::with(|heap| heap.alloc(cache, Gfp::KERNEL)).cast();
                    if !object.is_null() {
                        object.write(object.addr() as u64 ^ round);
                    }
                }
            }
            for object in &mut objects[..(round % 50) as usize] {
                // SAFETY: as above.
                unsafe {
                    let whole = !object.is_null() && object.read() == object.addr() as u64 ^ round;
                    if !whole || heap::with(|heap| heap.free(cache, object.cast())).is_err() {
                        WRONG.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        USERS.fetch_sub(1, Ordering::Release);
    });
    let after = calls_answered();
    ensure!(WRONG.swap(0, Ordering::Relaxed) == 0, "an object changed or could not be freed");
    ensure!(after > before, "no stack was taken from another CPU");
    // SAFETY: all are done, and no object is in use.
    let destroyed = heap::with(|heap| unsafe { heap.destroy(cache) });
    ensure!(destroyed.is_ok(), "{destroyed:?}");
    Ok(())
}

/// Objects that the reaping test leaves on each CPU's stack.
const LEFT: usize = 30;

/// Every CPU leaves free objects on its stack and goes on using the heap, while all are told to reap again and again: each CPU has
/// every turn, nothing breaks, and an engine that ages what CPUs keep has given all of it back.
fn reaped() -> Outcome {
    const TURNS: usize = 12;
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), ..CacheArgs::default() };
    let cache = heap::with(|heap| heap.create("reaped", 48, args));
    let Ok(cache) = cache else { return Err(super::line(format_args!("{cache:?}"))) };
    SHARED.store(cache.as_raw(), Ordering::Release);
    // SAFETY: the cache lives until it is destroyed below.
    let counts = || heap::with(|heap| unsafe { heap.counts(cache) });
    USERS.store(smp::online() as u64 - 1, Ordering::Relaxed);
    CARRIED.store(0, Ordering::Relaxed);
    everywhere(|| {
        let Some(cache) = shared() else { return };
        // SAFETY: the cache lives until all are done; each object is this CPU's and freed once.
        unsafe {
            let objects: [_; LEFT] =
                core::array::from_fn(|_| heap::with(|heap| heap.alloc(cache, Gfp::KERNEL)));
            for object in objects {
                let freed = heap::with(|heap| heap.free(cache, object));
                WRONG.fetch_add(u64::from(freed.is_err()), Ordering::Relaxed);
            }
        }
        if smp::number() != 0 {
            USERS.fetch_sub(1, Ordering::Release);
            // Interrupted in the middle of the heap's business, most of the time.
            while USERS.load(Ordering::Acquire) != u64::MAX {
                let kept = Marked::new(LETTER, Gfp::KERNEL).is_none_or(Marked::check_and_free);
                WRONG.fetch_add(u64::from(!kept), Ordering::Relaxed);
            }
            return;
        }
        while USERS.load(Ordering::Acquire) != 0 {
            call::answer();
        }
        // SAFETY: as above.
        let kept = heap::with(|heap| unsafe { heap.counts(cache) }).free_cpu;
        SEEN.store(kept, Ordering::Relaxed);
        for _ in 0..TURNS {
            CARRIED.fetch_add(reap::all() as u64, Ordering::Relaxed);
        }
        USERS.store(u64::MAX, Ordering::Release);
    });
    let (turns, kept) = (CARRIED.load(Ordering::Relaxed), SEEN.load(Ordering::Relaxed));
    ensure!(WRONG.swap(0, Ordering::Relaxed) == 0, "a block changed or could not be freed");
    ensure!(turns == (TURNS * smp::online()) as u64, "{turns} turns on {} CPUs", smp::online());
    if cfg!(feature = "slab") {
        let left = counts().free_cpu;
        ensure!(kept >= (LEFT * smp::online()) as u64 && left == 0, "CPUs kept {kept} objects, now {left}");
    }
    // SAFETY: all are done, and no object is in use.
    let destroyed = heap::with(|heap| unsafe { heap.destroy(cache) });
    ensure!(destroyed.is_ok(), "{destroyed:?}");
    Ok(())
}

/// A CPU leaves: what the heap kept for it goes to the others, and stacks can be taken without it. Then it comes back.
fn leave_and_return() -> Outcome {
    let last = smp::count() - 1;
    for round in 0..3 {
        everywhere(|| {
            let blocks: [Option<Marked>; 40] = core::array::from_fn(|i| Marked::new(64 + i, Gfp::KERNEL));
            for marked in blocks.into_iter().flatten() {
                if !marked.check_and_free() {
                    WRONG.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        ensure!(hotplug::offline(last), "CPU {last} does not leave in round {round}");
        ensure!(smp::block(last).state() == State::Offline, "CPU {last} is still there");
        let kept = heap::with(|heap| {
            let mut kept = 0;
            heap.for_each_cache(|cache| {
                // SAFETY: the cache is in the list, which stands still.
                let id = unsafe { CacheRef::new(cache).stack_id() };
                let top = smp::hot(last, id).top.load(Ordering::Relaxed);
                // SAFETY: every top has a readable word below it; an odd one means that there is nothing.
                kept += usize::from(id != 0 && unsafe { !kmem_core::percpu::is_nothing(*top.sub(1)) });
            });
            kept
        });
        ensure!(kept == 0, "{kept} stacks of a CPU that left hold objects");
        // Without it: work, and a cache whose stacks are taken on every CPU.
        freed_elsewhere()?;
        ensure!(hotplug::online(last), "CPU {last} does not come back in round {round}");
    }
    ensure!(WRONG.swap(0, Ordering::Relaxed) == 0, "a block changed");
    Ok(())
}
