//! Order and place of the index by the rules of 2.6 (x86-64).
//!
//! Each slab has a descriptor and behind it a number for each object, that of the next free one. Both lie
//! before the objects; for large objects, of an eighth of a page or more, outside the slab, because there they
//! would often cost a whole object. When the tail holds them all the same they move back.
//!
//! Pure functions: no memory, no lock, no state.

use super::slot::Slot;
use super::{Found, Management, round_up};
use crate::flags::SlabFlags;
use crate::platform::PAGE_SIZE;

/// Bytes of a slab's descriptor: two links, the colour, the first object's address, two counts, the node.
pub const DESCRIPTOR_BYTES: usize = 48;
/// Bytes of one entry of the index.
const ENTRY_BYTES: usize = 4;
/// Slots of this size have their descriptor outside the slab.
const LARGE: usize = PAGE_SIZE / 8;
/// No slab is larger than 2^5 pages.
const MAX_ORDER: u32 = 5;
/// A slab of this order is accepted however much of it is lost.
const BREAK_ORDER: u32 = 1;

/// Bytes of an index for `objects` objects.
pub(super) const fn index_bytes(objects: usize) -> usize {
    objects * ENTRY_BYTES
}

/// Bytes of descriptor and index: on the slab up to where the first slot can begin.
pub(super) const fn management_bytes(found: &Found, align: usize) -> usize {
    let bytes = DESCRIPTOR_BYTES + index_bytes(found.objects);
    if matches!(found.management, Management::OnSlab) { round_up(bytes, align) } else { bytes }
}

/// The place of the index, the order, and what fits; `None` when no order holds an object.
pub(super) const fn search(slot: &Slot) -> Option<Found> {
    // Asked of the slot before it is rounded to its alignment.
    let management = if slot.unaligned >= LARGE { Management::OffSlab } else { Management::OnSlab };
    let mut best = None;
    let mut order = 0;
    while order <= MAX_ORDER {
        let slab = PAGE_SIZE << order;
        let (objects, tail) = fit(slab, slot, management);
        if objects > 0 {
            best = Some(Found { management, order, objects, tail });
            let lowest = slot.flags.contains(SlabFlags::RECLAIM_ACCOUNT);
            if lowest || order >= BREAK_ORDER || tail * 8 <= slab {
                break;
            }
        }
        order += 1;
    }
    match best {
        Some(found) => Some(moved_back(found, slot.align)),
        None => None,
    }
}

/// Objects that fit in a slab of `slab` bytes, and the bytes left.
const fn fit(slab: usize, slot: &Slot, management: Management) -> (usize, usize) {
    if matches!(management, Management::OffSlab) {
        return (slab / slot.size, slab % slot.size);
    }
    let mut objects = (slab - DESCRIPTOR_BYTES) / (slot.size + ENTRY_BYTES);
    loop {
        let used = round_up(DESCRIPTOR_BYTES + index_bytes(objects), slot.align) + objects * slot.size;
        if used <= slab {
            return (objects, slab - used);
        }
        if objects == 0 {
            return (0, 0);
        }
        objects -= 1;
    }
}

/// The same slab with its descriptor on the slab, when the tail holds it.
const fn moved_back(found: Found, align: usize) -> Found {
    let bytes = round_up(DESCRIPTOR_BYTES + index_bytes(found.objects), align);
    if matches!(found.management, Management::OffSlab) && bytes <= found.tail {
        return Found { management: Management::OnSlab, tail: found.tail - bytes, ..found };
    }
    found
}
