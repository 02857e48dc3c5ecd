//! Constructors and destructors: when they run, and what they are promised.
//!
//! A constructor is told nothing but the object, so its calls are counted in statics; checks that do so take turns.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kmem_core::cache::CacheArgs;
use kmem_core::gfp::Gfp;

use crate::bench::{Bench, fill, is_filled};
use crate::expected::Construction;
use crate::failure::{Outcome, ensure, equal};
use crate::{Cache, Driver};

const SIZE: usize = 56;
/// What the constructor writes to an object's first bytes.
const MADE: usize = 48;
const SEED: usize = 0xC5;

static BUSY: AtomicBool = AtomicBool::new(false);
static CONSTRUCTED: AtomicU64 = AtomicU64::new(0);
static DESTROYED: AtomicU64 = AtomicU64::new(0);
static DESTROYED_LIVE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn construct(object: *mut u8) {
    CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
    fill(object, SIZE, SEED);
}

unsafe extern "C" fn destroy(object: *mut u8) {
    DESTROYED.fetch_add(1, Ordering::Relaxed);
    if !is_filled(object, MADE, SEED) {
        DESTROYED_LIVE.fetch_add(1, Ordering::Relaxed);
    }
}

/// The right to the counters.
struct Turn;

impl Turn {
    fn take() -> Self {
        // Acquire pairs with the Release of the drop.
        while BUSY.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        for counter in [&CONSTRUCTED, &DESTROYED, &DESTROYED_LIVE] {
            counter.store(0, Ordering::Relaxed);
        }
        Self
    }

    fn constructed(&self) -> u64 {
        CONSTRUCTED.load(Ordering::Relaxed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

fn args(with_destructor: bool) -> CacheArgs {
    CacheArgs { ctor: Some(construct), dtor: with_destructor.then_some(destroy as _), ..CacheArgs::default() }
}

/// Takes 300 objects and gives them back, constructed as they were; all of them must be.
fn round<D: Driver>(b: &Bench<'_, D>, cache: Cache<D>, gfp: Gfp) -> Outcome {
    let mut objects = [core::ptr::null_mut(); 300];
    for object in &mut objects {
        *object = b.alloc(cache, gfp);
        ensure!(!object.is_null(), "no memory for an object");
        ensure!(is_filled(*object, MADE, SEED), "an object was handed out that is not constructed");
    }
    b.free_all(cache, &objects)
}

pub(super) fn constructors_run_as_often_as_the_engine_says<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let turn = Turn::take();
    let cache = b.create("constructed", SIZE, args(false))?;
    equal!(turn.constructed(), 0, "constructions of a cache without objects");
    let mut held = [core::ptr::null_mut(); 200];
    b.take_all(cache, &mut held)?;
    let mut more = [core::ptr::null_mut(); 100];
    ensure!(b.alloc_bulk(cache, Gfp::KERNEL, &mut more), "no memory for a bulk");
    let whole = held.iter().chain(&more).all(|&object| is_filled(object, MADE, SEED));
    ensure!(whole, "an object was handed out that is not constructed");
    let counts = b.counts(cache);
    match b.expected.construction {
        Construction::EachSlab => {
            equal!(turn.constructed(), counts.objects, "constructions of {} slabs", counts.slabs);
        }
        Construction::EachAllocation => equal!(turn.constructed(), 300, "constructions of 300 allocations"),
    }
    let before = turn.constructed();
    for _ in 0..500 {
        b.free(cache, held[7])?;
        held[7] = b.take(cache)?;
        ensure!(is_filled(held[7], MADE, SEED), "an object lost its construction");
    }
    match b.expected.construction {
        Construction::EachSlab => {
            equal!(turn.constructed(), before, "constructions, after one object went round")
        }
        Construction::EachAllocation => equal!(turn.constructed(), before + 500, "constructions"),
    }
    b.free_bulk(Some(cache), &mut more)?;
    b.free_all(cache, &held)?;
    b.destroy(cache)
}

pub(super) fn constructed_state_outlives_a_free<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let _turn = Turn::take();
    let cache = b.create("constructed", SIZE, args(false))?;
    // What a user leaves in an object is there for the next one, unless the engine constructs anew.
    let kept = b.expected.construction == Construction::EachSlab;
    let mut objects = [core::ptr::null_mut(); 100];
    b.take_all(cache, &mut objects)?;
    for &object in &objects {
        fill(object.wrapping_add(MADE), SIZE - MADE, 3);
    }
    b.free_all(cache, &objects)?;
    let mut again = [core::ptr::null_mut(); 100];
    b.take_all(cache, &mut again)?;
    let mut met = 0;
    for &object in again.iter().filter(|object| objects.contains(object)) {
        let same = is_filled(object.wrapping_add(MADE), SIZE - MADE, 3);
        equal!(same, kept, "whether a freed object keeps what its user left in it");
        met += 1;
    }
    ensure!(met > 0, "of 100 objects that were freed none came back");
    ensure!(
        again.iter().all(|&object| is_filled(object, MADE, SEED)),
        "an object lost its construction by a free"
    );
    objects = again;
    b.free_all(cache, &objects)?;
    // By way of the slabs as well.
    b.shrink(cache);
    round(b, cache, Gfp::KERNEL)?;
    b.destroy(cache)
}

pub(super) fn constructors_win_over_zeroing<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let _turn = Turn::take();
    let cache = b.create("constructed", SIZE, args(false))?;
    for _ in 0..2 {
        round(b, cache, Gfp::KERNEL | Gfp::ZERO)?;
    }
    let mut objects = [core::ptr::null_mut(); 40];
    ensure!(b.alloc_bulk(cache, Gfp::KERNEL | Gfp::ZERO, &mut objects), "no memory for a bulk");
    let whole = objects.iter().all(|&object| is_filled(object, MADE, SEED));
    ensure!(whole, "a zeroed bulk lost its construction");
    b.free_bulk(Some(cache), &mut objects)?;
    b.destroy(cache)
}

pub(super) fn destructors_run_once_for_each_construction<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let turn = Turn::take();
    let cache = b.create("destructed", SIZE, args(true))?;
    let held = b.take(cache)?;
    for _ in 0..3 {
        round(b, cache, Gfp::KERNEL)?;
        b.shrink(cache);
    }
    ensure!(
        DESTROYED.load(Ordering::Relaxed) < turn.constructed(),
        "the object in use was destroyed: {} of {}",
        DESTROYED.load(Ordering::Relaxed),
        turn.constructed()
    );
    ensure!(is_filled(held, MADE, SEED), "the object in use changed");
    b.free(cache, held)?;
    b.destroy(cache)?;
    equal!(DESTROYED.load(Ordering::Relaxed), turn.constructed(), "destructions");
    equal!(DESTROYED_LIVE.load(Ordering::Relaxed), 0, "destructions of objects that were not constructed");
    Ok(())
}
