//! Caches that share slabs under several names.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::bench::{Bench, is_zero};
use crate::expected::Sharing;
use crate::failure::{Failure, Outcome, ensure, equal, fail};
use crate::{Cache, Driver};

fn make<D: Driver>(b: &Bench<'_, D>, name: &str, size: usize, args: CacheArgs) -> Result<Cache<D>, Failure> {
    match b.heap().create(name, size, args) {
        Ok(cache) => Ok(cache),
        Err(error) => fail!("cache of {size} bytes: {error}"),
    }
}

fn aliases<D: Driver>(cache: Cache<D>) -> u32 {
    // SAFETY: the check holds the cache.
    unsafe { cache.get() }.aliases()
}

fn shares<D: Driver>(b: &Bench<'_, D>) -> bool {
    D::Config::MERGE && b.expected.sharing != Sharing::Never
}

/// An odd size, so that none of the heap's own is alike.
const SIZE: usize = 2376;

pub(super) fn alike_caches_share<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let plain = CacheArgs::default();
    let first = make(b, "first", SIZE, plain)?;
    for (i, size) in (SIZE - 7..=SIZE).enumerate() {
        let other = make(b, "other", size, plain)?;
        equal!(other == first, shares(b), "whether {size} bytes share with {SIZE}");
        if shares(b) {
            equal!(aliases::<D>(first), 1 + i as u32, "aliases");
            equal!(b.name(other), "first", "the name of the oldest");
        } else {
            b.destroy(other)?;
        }
    }
    for size in [SIZE - 8, SIZE + 1] {
        let other = make(b, "apart", size, plain)?;
        ensure!(other != first, "{size} bytes share with {SIZE}");
        b.destroy(other)?;
    }
    // What is cleared for one covers the others.
    let small = make(b, "small", SIZE + 34, plain)?;
    let large = make(b, "large", SIZE + 40, plain)?;
    // SAFETY: the check holds the cache.
    let size = unsafe { b.heap().cache_size(large) };
    equal!(size, SIZE + 40, "the larger object counts");
    if shares(b) {
        ensure!(small == large, "{} and {} bytes do not share", SIZE + 34, SIZE + 40);
    }
    let object = b.alloc(small, Gfp::KERNEL | Gfp::ZERO);
    ensure!(!object.is_null(), "no memory");
    let cleared = if small == large { SIZE + 40 } else { SIZE + 34 };
    ensure!(is_zero(object, cleared), "a cleared object of a shared cache is dirty");
    b.free(small, object)?;
    if small == large {
        equal!(b.try_destroy(small), Ok(false), "destroying one of two names");
    } else {
        b.destroy(small)?;
    }
    b.destroy(large)?;
    if shares(b) {
        for _ in 0..8 {
            equal!(b.try_destroy(first), Ok(false), "destroying an alias");
        }
    }
    b.destroy(first)
}

pub(super) fn differing_caches_do_not_share<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    unsafe extern "C" fn construct(_object: *mut u8) {}
    let base = CacheArgs::default();
    let first = make(b, "first", SIZE, base)?;
    let with = |flags| CacheArgs { flags: Some(flags), ..base };
    let apart = [
        with(SlabFlags::NO_MERGE),
        with(SlabFlags::TYPESAFE_BY_RCU),
        with(SlabFlags::NOLEAKTRACE),
        with(SlabFlags::POISON),
        with(SlabFlags::RED_ZONE),
        with(SlabFlags::STORE_USER),
        with(SlabFlags::RECLAIM_ACCOUNT),
        with(SlabFlags::CACHE_DMA),
        with(SlabFlags::ACCOUNT),
        CacheArgs { ctor: Some(construct), ..base },
        CacheArgs { dtor: Some(construct), ..base },
        CacheArgs { useroffset: 8, usersize: 8, ..base },
    ];
    for (i, args) in apart.into_iter().enumerate() {
        let other = make(b, "apart", SIZE, args)?;
        ensure!(other != first, "request {i} shares with a plain cache");
        b.destroy(other)?;
    }
    // An alignment that the older one's slots do not have by their size.
    let odd = make(b, "odd", 2376 + 16, CacheArgs { align: 16, ..base })?;
    ensure!(odd != first, "another size shares");
    b.destroy(odd)?;
    // One that they have by their size, but not by their rule.
    let even = make(b, "even", 2432, base)?;
    let aligned = make(b, "aligned", 2432, CacheArgs { align: 64, ..base })?;
    let expected = shares(b) && b.expected.sharing == Sharing::Slots;
    equal!(even == aligned, expected, "whether an object at 64 shares with one at a word");
    if expected {
        equal!(b.try_destroy(aligned), Ok(false), "destroying an alias");
    } else {
        b.destroy(aligned)?;
    }
    b.destroy(even)?;
    // The other way round it always fits.
    let aligned = make(b, "aligned", 2432, CacheArgs { align: 64, ..base })?;
    let even = make(b, "even", 2432, base)?;
    equal!(even == aligned, shares(b), "whether an object at a word shares with one at 64");
    if even == aligned {
        equal!(b.try_destroy(aligned), Ok(false), "destroying an alias");
    } else {
        b.destroy(aligned)?;
    }
    b.destroy(even)?;
    b.destroy(first)
}

pub(super) fn the_last_user_destroys<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let first = make(b, "first", SIZE, CacheArgs::default())?;
    let second = make(b, "second", SIZE, CacheArgs::default())?;
    if first != second {
        ensure!(!shares(b), "alike caches do not share");
        b.destroy(second)?;
        return b.destroy(first);
    }
    let object = b.take(first)?;
    // Objects in use matter only when the last user leaves.
    equal!(b.try_destroy(second), Ok(false), "destroying one of two names");
    b.free(first, object)?;
    b.destroy(first)
}
