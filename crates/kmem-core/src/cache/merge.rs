//! Merging: when a new cache may be another name for an old one.
//!
//! Two caches whose slots have the same shape waste less when they share slabs: one partial list, one
//! set of arrays per CPU. So creation first looks for a cache that fits. If there is one, its reference
//! count goes up and the new name becomes an *alias*.
//!
//! Sharing is refused wherever it could be noticed: by the content of a free object (constructor,
//! grace period), by who may look at it (a copy window, leak tracers), by checks and traces that are
//! meant for one cache alone, or by what its pages are (their zone, their grouping, who is charged).
//!
//! The registry scans its caches **oldest first** and takes the first that [`fits`]: the result then
//! depends on the order of creation alone, and early, long-lived caches collect the aliases.
//!
//! # Invariants
//! - I-MERGE-1: an alias's objects fit in the slots of its cache, at the alignment the alias asked.
//! - I-MERGE-2: a cache that is not [`mergeable`] itself never takes an alias, and never becomes one.
//!
//! Pure functions: whoever calls holds the registry's lock.

use crate::engine::geometry::{Geometry, Request, Rules, WORD, effective_align, round_up};
use crate::flags::SlabFlags;

/// Properties of an existing cache that decide whether it can take an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Bytes from one object to the next.
    pub size: usize,
    /// Bytes the user may touch.
    pub object_size: usize,
    /// End of the object and its right red zone.
    pub inuse: usize,
    /// Properties, as in effect.
    pub flags: SlabFlags,
    /// Names the cache has. Negative: it takes no alias (the caches of the bootstrap).
    pub refcount: i32,
    /// Its objects are constructed.
    pub has_ctor: bool,
    /// Bytes of the window that may be copied to and from users; 0: none.
    pub usersize: usize,
}

impl Candidate {
    /// The properties of a cache of this geometry with one name.
    #[must_use]
    pub const fn new(geometry: &Geometry, has_ctor: bool, usersize: usize) -> Self {
        Self {
            size: geometry.size,
            object_size: geometry.object_size,
            inuse: geometry.inuse,
            flags: geometry.flags,
            refcount: 1,
            has_ctor,
            usersize,
        }
    }

    /// Takes one more name, whose object may be the larger one: what is cleared for either name must
    /// cover both.
    pub const fn take(&mut self, wanted: &Wanted) {
        self.refcount += 1;
        if wanted.object_size > self.object_size {
            self.object_size = wanted.object_size;
        }
        let end = wanted.object_size.next_multiple_of(WORD);
        if end > self.inuse {
            self.inuse = end;
        }
    }
}

/// What a new cache needs of the one it would share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes of a slot: the object rounded to words and to the alignment.
    pub size: usize,
    /// Bytes the user may touch.
    pub object_size: usize,
    /// Alignment in effect.
    pub align: usize,
    /// Properties.
    pub flags: SlabFlags,
}

impl Wanted {
    /// What a new cache needs, or `None` when it must have slabs of its own.
    ///
    /// `request` is one that [`compute`](crate::engine::slub::geometry::compute) accepted, with the debug letters
    /// that the options give to the *new* name already in its flags.
    #[must_use]
    pub const fn of(request: &Request, usersize: usize, rules: &Rules) -> Option<Self> {
        if !mergeable(request, usersize) {
            return None;
        }
        let flags = rules.known_flags(request.flags);
        let align = effective_align(flags, request.align, request.size, rules.cache_line);
        Some(Self {
            size: round_up(request.size.next_multiple_of(WORD), align),
            object_size: request.size,
            align,
            flags,
        })
    }
}

/// Whether a new cache may share slabs with another at all.
///
/// A wish for a sheaf's size counts as a reason against it: the older cache would not honour it.
#[must_use]
pub const fn mergeable(request: &Request, usersize: usize) -> bool {
    !request.has_ctor
        && usersize == 0
        && request.freeptr_offset.is_none()
        && request.sheaf_capacity == 0
        && !request.flags.intersects(SlabFlags::NEVER_MERGE)
}

/// Whether this cache can take the new one in.
#[must_use]
pub const fn fits(candidate: &Candidate, wanted: &Wanted) -> bool {
    let open = !candidate.has_ctor
        && candidate.usersize == 0
        && candidate.refcount >= 0
        && !candidate.flags.intersects(SlabFlags::NEVER_MERGE);
    // I-MERGE-1. A word or more to spare in each slot would cost more than slabs of its own.
    let same_slot = candidate.size >= wanted.size
        && candidate.size - wanted.size < WORD
        && round_up(candidate.size, wanted.align) == candidate.size;
    let differing = candidate.flags.symmetric_difference(wanted.flags);
    open && same_slot && !differing.intersects(SlabFlags::MERGE_SAME)
}

/// The position of the cache to share: the first that fits of `oldest_first`.
pub fn find<'a>(oldest_first: impl IntoIterator<Item = &'a Candidate>, wanted: &Wanted) -> Option<usize> {
    oldest_first.into_iter().position(|candidate| fits(candidate, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slub::geometry::compute;

    const RULES: Rules = Rules::LINUX_6_1;

    fn existing(request: &Request) -> Candidate {
        Candidate::new(&compute(request, &RULES).expect("fits"), request.has_ctor, 0)
    }

    fn wanted(request: &Request) -> Wanted {
        Wanted::of(request, 0, &RULES).expect("mergeable")
    }

    #[test]
    fn equal_slots_merge() {
        let cache = existing(&Request::new(64));
        for size in 57..=64 {
            assert!(fits(&cache, &wanted(&Request::new(size))), "{size}");
        }
        // A word to spare, or no room.
        assert!(!fits(&cache, &wanted(&Request::new(56))));
        assert!(!fits(&cache, &wanted(&Request::new(65))));
        // 24 is not a multiple of 16, so a 24-byte cache cannot keep that alignment.
        let odd = existing(&Request::new(24));
        assert!(!fits(&odd, &Wanted { align: 16, ..wanted(&Request::new(24)) }));
    }

    #[test]
    fn what_forbids_merging_forbids_it_both_ways() {
        let plain = Request::new(64);
        let cache = existing(&plain);
        let never = [
            SlabFlags::RED_ZONE,
            SlabFlags::POISON,
            SlabFlags::STORE_USER,
            SlabFlags::TRACE,
            SlabFlags::TYPESAFE_BY_RCU,
            SlabFlags::NOLEAKTRACE,
            SlabFlags::FAILSLAB,
            SlabFlags::NO_MERGE,
        ];
        for flags in never {
            assert!(!mergeable(&Request { flags, ..plain }, 0), "{flags:?}");
            assert!(!fits(&Candidate { flags, ..cache }, &wanted(&plain)), "{flags:?}");
        }
        let constructed = Request { has_ctor: true, ..plain };
        assert!(!mergeable(&constructed, 0));
        assert!(!fits(&Candidate { has_ctor: true, ..cache }, &wanted(&plain)));
        assert!(!mergeable(&plain, 8));
        assert!(!fits(&Candidate { usersize: 8, ..cache }, &wanted(&plain)));
        assert!(!fits(&Candidate { refcount: -1, ..cache }, &wanted(&plain)));
        assert!(!mergeable(&Request { sheaf_capacity: 32, ..plain }, 0));
        assert!(!mergeable(&Request { freeptr_offset: Some(0), ..plain }, 0));
        assert_eq!(Wanted::of(&constructed, 0, &RULES), None);
    }

    #[test]
    fn pages_of_one_kind_only() {
        let kinds = [
            SlabFlags::empty(),
            SlabFlags::RECLAIM_ACCOUNT,
            SlabFlags::CACHE_DMA,
            SlabFlags::CACHE_DMA32,
            SlabFlags::ACCOUNT,
        ];
        for (i, a) in kinds.iter().enumerate() {
            for (j, b) in kinds.iter().enumerate() {
                let cache = existing(&Request { flags: *a, ..Request::new(64) });
                let new = wanted(&Request { flags: *b, ..Request::new(64) });
                assert_eq!(fits(&cache, &new), i == j, "{a:?} {b:?}");
            }
        }
        // Without groups to charge, ACCOUNT is no difference.
        let rules = Rules { accounting: false, ..RULES };
        let account = Request { flags: SlabFlags::ACCOUNT, ..Request::new(64) };
        let new = Wanted::of(&account, 0, &rules).expect("mergeable");
        assert!(fits(&existing(&Request::new(64)), &new));
        // Consistency checks stop nothing, in either direction.
        let checked = Request { flags: SlabFlags::CONSISTENCY_CHECKS, ..Request::new(64) };
        assert!(fits(&existing(&checked), &wanted(&Request::new(64))));
        assert!(fits(&existing(&Request::new(64)), &wanted(&checked)));
    }

    #[test]
    fn the_oldest_that_fits_grows_to_cover_both() {
        let mut caches =
            [existing(&Request::new(128)), existing(&Request::new(61)), existing(&Request::new(64))];
        let new = wanted(&Request::new(63));
        assert_eq!(find(&caches, &new), Some(1));
        caches[1].take(&new);
        assert_eq!((caches[1].refcount, caches[1].object_size, caches[1].inuse), (2, 63, 64));
        caches[1].take(&wanted(&Request::new(58)));
        assert_eq!((caches[1].refcount, caches[1].object_size, caches[1].inuse), (3, 63, 64));
        assert_eq!(find(&caches, &wanted(&Request::new(200))), None);
        // A cache whose slot is larger by its alignment: the object's end moves too.
        let mut aligned = existing(&Request { align: 64, ..Request::new(20) });
        aligned.take(&wanted(&Request::new(60)));
        assert_eq!((aligned.object_size, aligned.inuse), (60, 64));
    }
}
