//! One slot: which checks a cache gets, its alignment, and the walk from the object to the end of its metadata.
//!
//! The picture of a slot is in [the parent module](super). Pure functions: no memory, no lock, no state.

use super::{KernelVersion, RED_ZONE_BYTES, Request, Rules, WORD, effective_align, round_up};
use crate::debug::Track;
use crate::flags::SlabFlags;
use crate::platform::PAGE_SIZE;

/// The checks SLAB knows. It has no consistency checks and no trace to turn on.
const CHECKS: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::POISON).union(SlabFlags::STORE_USER);
/// Those that need room in the slot, and that an alignment of more than a word turns off.
const ROOM: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::STORE_USER);
/// Flags that are not the creator's.
const INTERNAL: SlabFlags = super::INDEX_IN_OBJECT.union(super::INDEX_OFF_SLAB);
/// And letters that mean nothing to the kernel's SLAB.
const FOREIGN: SlabFlags = INTERNAL.union(SlabFlags::CONSISTENCY_CHECKS).union(SlabFlags::TRACE);
/// The least slot where an index entry is a byte, so that a page has no more objects than a byte can number.
const MIN_SLOT: usize = if super::INDEX_BYTES == 1 { 16 } else { WORD };

/// The regions of one slot, by offset from the object.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) size: usize,
    pub(super) align: usize,
    pub(super) flags: SlabFlags,
    pub(super) red_left_pad: usize,
    pub(super) inuse: usize,
    pub(super) red_zone: Option<usize>,
    pub(super) user_word: Option<usize>,
    pub(super) tracks: Option<usize>,
    /// Bytes from start to the end of the metadata, before the slot is rounded to its alignment.
    pub(super) unaligned: usize,
}

impl Slot {
    /// Lays out a slot. Precondition: the request passed the check of [`compute`](super::compute).
    pub(super) const fn lay_out(request: &Request, rules: &Rules) -> Self {
        let old = matches!(rules.version, KernelVersion::V2_6);
        let mut flags = checked(request, rules);
        let align = if old {
            align_2_6(request, flags, rules)
        } else {
            effective_align(flags, request.align, request.size, rules.cache_line)
        };
        // Words beside the object would have to be whole alignment units: the kernel has none then. Letters that were asked
        // for are worth the room.
        if align > WORD && !rules.letters {
            flags = flags.difference(ROOM);
        }

        let mut inuse = request.size.next_multiple_of(WORD);
        let (mut red_left_pad, mut red_zone, mut user_word, mut tracks) = (0, None, None, None);
        if flags.contains(SlabFlags::RED_ZONE) {
            red_left_pad = round_up(RED_ZONE_BYTES, align);
            red_zone = Some(inuse);
            inuse += RED_ZONE_BYTES;
        }
        let mut unaligned = red_left_pad + inuse;
        if flags.contains(SlabFlags::STORE_USER) {
            if rules.letters {
                tracks = Some(inuse);
                unaligned += 2 * size_of::<Track>();
            } else {
                user_word = Some(inuse);
                unaligned += WORD;
            }
        }
        let mut size = round_up(unaligned, align);
        if !old && size < MIN_SLOT {
            size = round_up(MIN_SLOT, align);
        }
        Self { size, align, flags, red_left_pad, inuse, red_zone, user_word, tracks, unaligned }
    }
}

/// The request's flags with the checks that a build with checks adds, or without any.
const fn checked(request: &Request, rules: &Rules) -> SlabFlags {
    if rules.letters {
        let flags = rules.known_flags(request.flags.difference(INTERNAL));
        let readable = flags.contains(SlabFlags::TYPESAFE_BY_RCU);
        return if readable { flags.difference(SlabFlags::POISON) } else { flags };
    }
    let mut flags = rules.known_flags(request.flags.difference(FOREIGN));
    if !rules.debug {
        return flags.difference(CHECKS);
    }
    // Two red zones and a user word may not double what a large object takes from the page allocator.
    let metadata = 2 * RED_ZONE_BYTES + WORD;
    if request.size < PAGE_SIZE || (request.size - 1).ilog2() == (request.size - 1 + metadata).ilog2() {
        flags = flags.union(ROOM);
    }
    // Readers may still look at a free object.
    if !flags.contains(SlabFlags::TYPESAFE_BY_RCU) {
        flags = flags.union(SlabFlags::POISON);
    }
    flags
}

/// The alignment of 2.6: words beside the object win over [`SlabFlags::HWCACHE_ALIGN`], but not over an
/// alignment given as a number.
const fn align_2_6(request: &Request, flags: SlabFlags, rules: &Rules) -> usize {
    let flags = if flags.intersects(ROOM) { flags.difference(SlabFlags::HWCACHE_ALIGN) } else { flags };
    let size = request.size.next_multiple_of(WORD);
    effective_align(flags, request.align, size, rules.cache_line)
}
