//! Order and place of the index by the rules of 6.1.
//!
//! An index has one entry for each object, its number. Three places are tried, the cheapest first:
//! 1. inside a free object: costs nothing, but needs objects whose content means nothing while they are free;
//! 2. a block of kmalloc, when slots fill a slab so well that its tail has no room for the index;
//! 3. on the slab.
//!
//! For each place the smallest order is taken that loses at most an eighth of the slab, or that is the break
//! order. So no cache asks for more than two pages at once, unless one object is larger.
//!
//! Pure functions: no memory, no lock, no state.

use super::slot::Slot;
use super::{Found, Management, Request, Rules};
use crate::flags::SlabFlags;
use crate::platform::{MAX_ORDER, PAGE_SIZE};

/// Bytes of one entry of the index: one where a page of the smallest slots has few enough objects for it.
pub const INDEX_BYTES: usize = if PAGE_SIZE >> 8 <= 16 { 1 } else { 2 };
/// The most objects in a slab: one less than there are numbers in an entry.
pub const MAX_OBJECTS: usize = (1 << (8 * INDEX_BYTES)) - 1;

/// The place of the index, the order, and what fits; `None` when no order holds an object.
pub(super) const fn search(request: &Request, slot: &Slot, rules: &Rules) -> Option<Found> {
    if free_content_is_free(request, slot, rules)
        && let Some(found) = order(request, slot, rules, Management::InObject)
        && found.objects * INDEX_BYTES <= request.size
    {
        return Some(found);
    }
    // A leak tracer would follow the block of an off-slab index into itself.
    if !slot.flags.contains(SlabFlags::NOLEAKTRACE)
        && let Some(found) = order(request, slot, rules, Management::OffSlab)
        && found.tail < found.objects * INDEX_BYTES
    {
        return Some(found);
    }
    order(request, slot, rules, Management::OnSlab)
}

/// True when nobody minds an index in a free object. Poison can be had all the same: the object is filled again
/// when it is taken and so stops holding the index.
const fn free_content_is_free(request: &Request, slot: &Slot, rules: &Rules) -> bool {
    let cleared = rules.init_on_free && !slot.flags.contains(SlabFlags::POISON);
    !request.has_ctor && !slot.flags.contains(SlabFlags::TYPESAFE_BY_RCU) && !cleared
}

/// The order for an index in this place. When none is good enough, the last that held an object.
const fn order(request: &Request, slot: &Slot, rules: &Rules, management: Management) -> Option<Found> {
    let on_slab = matches!(management, Management::OnSlab);
    let each = if on_slab { slot.size + INDEX_BYTES } else { slot.size };
    let mut best = None;
    let mut order = 0;
    while order <= MAX_ORDER {
        let slab = PAGE_SIZE << order;
        let objects = slab / each;
        let tail = slab % each;
        if objects > MAX_OBJECTS {
            break;
        }
        // The index of an off-slab cache may take up to half of what an object asked for, without its padding.
        let worth = !matches!(management, Management::OffSlab)
            || kmalloc_bytes(objects * INDEX_BYTES) <= request.size / 2;
        if objects > 0 && worth {
            best = Some(Found { management, order, objects, tail });
            // Caches that can be reclaimed live on what fragmented memory still has.
            let lowest = slot.flags.contains(SlabFlags::RECLAIM_ACCOUNT);
            if lowest || order >= rules.break_order || tail * 8 <= slab {
                break;
            }
        }
        order += 1;
    }
    best
}

/// Bytes of the kmalloc block that holds `bytes` bytes, for what an index can need: SLAB's classes begin at 32.
/// None of these classes is off-slab itself, so that no index asks for another.
const fn kmalloc_bytes(bytes: usize) -> usize {
    match bytes {
        0..=32 => 32,
        65..=96 => 96,
        129..=192 => 192,
        _ => bytes.next_power_of_two(),
    }
}
